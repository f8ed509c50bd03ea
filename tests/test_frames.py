"""Results as tables of pandas, Polars and Arrow, and as notebooks show them."""

import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ipivrs
from ipivrs.frames import Tabular
from shipped import X2APIC_BOOT, XAPIC_BOOT, replay

PING = ipivrs.Scenario(title="two vCPUs", vm=[ipivrs.VM(vcpus=2, workload=ipivrs.scenario.Ping(rounds=10))])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> ipivrs.SweepResult:
    grid = ipivrs.Grid(scenario="ping", grid={"seed": [1, 2], "vm.0.workload": [{"name": "ping", "rounds": 5}]})
    out = tmp_path_factory.mktemp("sweep") / "swept.csv"
    return ipivrs.sweep(grid, out=out, workers=1, engine="virtual-time")


def results(swept: ipivrs.SweepResult) -> list[Tabular]:
    refuted = ipivrs.check("pir-before-sn")
    return [replay(X2APIC_BOOT), PING.run(engine="virtual-time", log=1000), refuted, swept]


def test_all_tables_of_a_result_are_one(swept: ipivrs.SweepResult) -> None:
    for result in results(swept):
        arrow, pandas, polars = pa.table(result), result.to_pandas(), result.to_polars()
        assert arrow.num_rows > 1
        assert arrow.column_names == list(pandas.columns) == polars.columns
        assert arrow.to_pylist() == polars.to_dicts()
        assert len(pandas) == arrow.num_rows


def test_the_rows_of_a_recording_are_those_of_ipis() -> None:
    result = replay(X2APIC_BOOT)
    frame = result.to_pandas()
    for name in ("time_ns", "sender", "destination", "vector", "icr_low"):
        assert frame[name].dtype == result.ipis.dtype[name]
        assert np.array_equal(frame[name], result.ipis[name])
    for name, known in (("via", result.via_names), ("fate", result.fate_names), ("clause", result.clause_names)):
        assert list(frame[name]) == [known[code] for code in result.ipis[name]]
        assert isinstance(frame[name].dtype, pd.CategoricalDtype)


def test_counts_by_fate_are_the_counters() -> None:
    result = replay(XAPIC_BOOT)
    by_fate = result.to_polars().group_by("fate").len()
    assert dict(by_fate.iter_rows()) == {"exited": result.counters["exited"]}
    assert isinstance(result.to_polars(), pl.DataFrame)


def test_the_rows_of_a_scenario_are_its_events() -> None:
    result = PING.run(engine="virtual-time", log=1000)
    frame = result.to_pandas()
    events = result.events
    assert events is not None
    assert list(frame["what"]) == list(events["what"])
    assert (frame["what"] == "delivered").sum() == 10
    with pytest.raises(ValueError, match="log=N"):
        PING.run(seconds=0.1).to_pandas()


def test_the_rows_of_a_check_are_the_steps_of_its_counterexample() -> None:
    frame = ipivrs.check("pir-before-sn").to_pandas()
    assert str(frame["line"].dtype) == "Int64"
    assert frame["line"].isna().any()
    proof = ipivrs.check("kvm", senders=1, software=0).to_pandas()
    assert (len(proof), list(proof.columns)) == (0, list(frame.columns))


def test_whole_numbers_stay_whole_where_some_are_missing() -> None:
    class Seeds(Tabular):
        def _columns(self) -> dict[str, list[int | None]]:
            return {"seed": [1, None, 2**63], "count": [1, None, 2]}

    frame = Seeds().to_pandas()
    assert [str(kind) for kind in frame.dtypes] == ["UInt64", "Int64"]
    assert frame["seed"][2] == 2**63
    assert Seeds().to_polars()["seed"].to_list() == [1, None, 2**63]


@pytest.mark.parametrize("missing", ["pandas", "polars", "pyarrow"])
def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    result = replay(XAPIC_BOOT)
    calls = {"pandas": result.to_pandas, "polars": result.to_polars, "pyarrow": result.__arrow_c_stream__}
    with pytest.raises(ImportError, match=rf"need {missing}: pip install 'ipivrs\[frames\]'"):
        calls[missing]()


class _Reader(HTMLParser):
    """Balanced elements of the kinds that a report needs, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre"}
        assert attrs == []
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def shown(result: object) -> str:
    html = result._repr_html_()  # type: ignore[attr-defined]
    assert len(html) < 20_000
    reader = _Reader(html)
    assert reader.open == []
    return reader.text


def test_notebooks_show_the_answer(swept: ipivrs.SweepResult) -> None:
    assert "1651 of 1657 IPIs need no VM exit" in shown(replay(X2APIC_BOOT))
    assert "destination mode must be physical" in shown(replay(XAPIC_BOOT))
    assert "no violations: 10 interrupts posted" in shown(PING.run(engine="virtual-time"))
    assert "kvm holds" in shown(ipivrs.check("kvm", senders=1, software=0))
    assert "vCPU 0: PIR empty -> 30H" in shown(ipivrs.check("pir-before-sn"))
    assert "2 of 2 points, 0 errors" in shown(swept)
    simulated = ipivrs.run(XAPIC_BOOT, engine="virtual-time")
    assert isinstance(simulated, ipivrs.RunResult)
    assert simulated.comparison is not None
    assert simulated.comparison["saved"] is not None
    assert f"saves {simulated.comparison['saved']['exits']:,} VM exits" in shown(simulated)


def test_nothing_of_a_file_is_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script> & <b>"
    scenario = ipivrs.Scenario.model_validate({**dict(PING), "title": name})
    assert name in shown(scenario.run(engine="virtual-time"))
    recording = tmp_path / "<b onclick=x>.txt"
    recording.write_bytes((XAPIC_BOOT.parent / "kut-apic-x2apic.perf-script.txt").read_bytes())
    assert recording.name in shown(ipivrs.run(recording))
    policy = tmp_path / "p.policy"
    policy.write_text("policy mine<i>\n  load:\n    control nv=notify, ndst=here, sn=0\n", encoding="utf-8")
    grid = ipivrs.Grid(title=name, scenario="ping", grid={"seed": [1]})
    assert name in shown(ipivrs.sweep(grid, out=tmp_path / "s.csv", workers=1, engine="virtual-time"))


def test_violations_are_shown() -> None:
    storm = ipivrs.Scenario.load(Path(__file__).parent.parent / "scenarios" / "apic-id.toml")
    host = ipivrs.Host.model_validate({**dict(storm.host), "apic_id_rewrite": "naive"})
    result = ipivrs.Scenario.model_validate({**dict(storm), "host": host}).run(engine="virtual-time")
    assert result.violations
    assert result.violations[0]["message"] in shown(result)
