"""Reports: what they tell of a result, and that what came from a file is text in them."""

import base64
import html.parser
import json
import os
import re
import select
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ipivrs
from conftest import Shell
from ipivrs.options import check_writable
from ipivrs.reports import columns, from_events, from_recording, scales
from ipivrs.reports.page import page
from ipivrs.reports.story import FATES, NEVER, NOBODY, STATES, Story
from ipivrs.reports.svg import tag
from ipivrs.reports.telling import facts_and_story
from ipivrs.results import RunResult
from ipivrs.simulation import ScenarioResult
from shipped import X2APIC_BOOT, XAPIC_BOOT, replay
from stories import HOSTILE, hostile_recording, synthetic_story

STORM: dict[str, Any] = {"vcpus": 4, "workload": {"name": "storm", "rounds": 60}}


def scenario(**fields: Any) -> ipivrs.Scenario:  # noqa: ANN401
    return ipivrs.Scenario.model_validate({"title": "storm", "vm": [STORM], "host": {"pcpus": 2}, **fields})


@pytest.fixture(scope="module")
def storm() -> ScenarioResult:
    return scenario(device=[{"posts": 20}], chaos={"hot_add": 1}).run(engine="virtual-time", log=100_000)


def told(result: RunResult | ScenarioResult) -> Story:
    story = facts_and_story(result)[1]
    assert story is not None
    return story


def test_every_command_of_a_scenario_is_told(storm: ScenarioResult) -> None:
    counts = storm.counters
    story = told(storm)
    fates = np.bincount(story.sends.fate, minlength=len(FATES))
    assert storm.events is not None
    assert storm.events["more"] == 0
    assert [fates[FATES.index(name)] for name in ("virtualized", "self", "exited", "faulted")] == [
        counts["virtualized"],
        counts["self"],
        counts["exited"],
        counts["faulted"],
    ]


def test_every_post_and_every_delivery_with_a_latency_is_told(storm: ScenarioResult) -> None:
    counts = storm.counters
    interrupts = told(storm).interrupts
    posts = interrupts.target != NOBODY
    assert posts.sum() == counts["posted"]
    assert (interrupts.fate[posts] == FATES.index("device")).sum() == counts["device_posts"] == 20
    assert (interrupts.delivered != NEVER).sum() == sum(one["count"] for one in storm.latency.values())
    assert (np.diff(interrupts.time.astype(np.int64)) >= 0).all()


def test_the_latencies_of_deliveries_are_those_of_the_histograms(storm: ScenarioResult) -> None:
    interrupts = told(storm).interrupts
    own = (interrupts.fate == FATES.index("self")) & (interrupts.delivered != NEVER)
    took = interrupts.delivered[own] - interrupts.time[own]
    assert len(took) == storm.latency["self"]["count"]
    assert took.min() == storm.latency["self"]["min"]
    assert took.mean() == pytest.approx(storm.latency["self"]["mean"], rel=1e-3)


def test_posts_in_software_are_their_senders(storm: ScenarioResult) -> None:
    interrupts = told(storm).interrupts
    routed = (interrupts.fate == FATES.index("exited")) & (interrupts.target != NOBODY)
    assert routed.any()
    assert (interrupts.sender[routed] < 5).all()


def test_states_follow_each_other_without_gaps(storm: ScenarioResult) -> None:
    story = told(storm)
    states = story.states
    assert set(states.what.tolist()) <= set(range(len(STATES)))
    for lane in range(5):
        mine = states.lane == lane
        assert (states.start[mine][1:] == states.end[mine][:-1]).all()
    guest = states.what == STATES.index("guest")
    events = storm.events
    assert events is not None
    entered, left = (np.array(events["what"]) == what for what in ("entered", "left"))
    assert entered.sum() == left.sum() == storm.scheduling["entries"]
    total = (states.end[guest] - states.start[guest]).sum()
    assert total == events["since"][left].sum() - events["time"][entered].sum()


def test_a_pcpu_runs_one_vcpu_at_a_time(storm: ScenarioResult) -> None:
    residence = told(storm).residence
    assert set(residence.lane.tolist()) == {0, 1}
    for pcpu in range(2):
        mine = residence.lane == pcpu
        assert (residence.start[mine][1:] >= residence.end[mine][:-1]).all()


def test_exits_have_their_reasons(storm: ScenarioResult) -> None:
    counted: dict[int, int] = {}
    for one in storm.exits:
        counted[one["reason"]] = counted.get(one["reason"], 0) + one["count"]
    reasons, counts = np.unique(told(storm).exits.reason, return_counts=True)
    assert dict(zip(reasons.tolist(), counts.tolist(), strict=True)) == counted


def test_vcpus_are_named_by_vm_and_number() -> None:
    ping = {"vcpus": 2, "workload": {"name": "ping", "rounds": 3}}
    result = scenario(vm=[ping, ping], chaos={"hot_add": 1}).run(engine="virtual-time", log=100)
    assert result.shape is not None
    assert result.shape.labels() == ["0.0", "0.1", "0.2", "1.0", "1.1"]


def test_vcpus_that_were_never_added_have_no_lane() -> None:
    ping = {"vcpus": 2, "workload": {"name": "ping", "rounds": 30}}
    result = scenario(vm=[ping, ping], chaos={"hot_add": 2}).run(engine="virtual-time", log=10_000)
    story = told(result)
    assert [vm["vcpus"] for vm in result.vms] == [3, 2], "the run is too short for the second to be added"
    assert story.labels == ["0.0", "0.1", "0.2", "1.0", "1.1"]
    assert set(story.sends.sender.tolist()) == {0, 3}
    assert set(story.interrupts.target.tolist()) == {1, 4}
    assert set(story.states.lane.tolist()) == {0, 1, 2, 3, 4}


def test_what_the_timeline_has_beyond_the_counts_is_said() -> None:
    result = scenario(seconds=0.001, vm=[STORM | {"workload": {"name": "storm", "mode_switches": True}}]).run(
        engine="virtual-time", log=1_000_000
    )
    story = told(result)
    assert result.cycles is not None
    assert story.end > result.cycles
    assert any(remark.startswith("The run counts 1.0") for remark in story.remarks)
    unposted = len(story.interrupts) - result.counters["posted"]
    assert any(f"{unposted:,} IPI" in remark for remark in story.remarks)


def test_the_level_of_an_init_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    replay(X2APIC_BOOT).report(out)
    assert "<td>init, assert</td>" in out.read_text(encoding="utf-8")
    assert "<td>init, deassert</td>" in out.read_text(encoding="utf-8")


def test_a_full_log_says_so() -> None:
    story = told(scenario().run(engine="virtual-time", log=50))
    assert story.missing > 0
    assert "more events came" in story.remarks[0]


def test_of_a_recording_everyone_knows_whom_they_meant() -> None:
    result = replay(X2APIC_BOOT)
    story = told(result)
    assert [tuple(row) for row in zip(story.pairs.sender, story.pairs.target, story.pairs.count, strict=True)] == [
        (0, 1, 878 - 1),
        (1, 0, 779),
    ]
    assert story.end == int(np.ptp(result.ipis["time_ns"]))
    assert not story.delivery_known
    assert "flat" not in " ".join(story.remarks)


def test_logical_destinations_of_xapic_are_read_as_flat_and_it_says_so() -> None:
    result = replay(XAPIC_BOOT)
    assert result.targets()["flat_assumed"]
    assert any("bit k of a destination" in remark for remark in told(result).remarks)


def test_a_broadcast_is_one_interrupt_for_each_target(tmp_path: Path) -> None:
    ipi = "kvm:kvm_apic_ipi: dst 0 vec 252 (Fixed|physical|assert|edge|all-but-self)"
    file = tmp_path / "broadcast.txt"
    file.write_text("".join(f" qemu {100 + vcpu} [000] {vcpu}.500000: {ipi}\n" for vcpu in range(3)), encoding="utf-8")
    result = ipivrs.run(file)
    story = told(result)
    assert result.counters["total"] == len(story.sends.time) == 3
    assert len(story.interrupts) == story.pairs.count.sum() == 6


def test_interrupts_beyond_the_room_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_recording, "MOST_ROWS", 100)
    story = from_recording.story(replay(X2APIC_BOOT))
    assert len(story.interrupts) == 100
    assert story.missing == 1557
    assert any(remark.startswith("1,557 more interrupts") for remark in story.remarks)
    assert story.pairs.count.sum() == 1656


def unpacked(text: str, layout: list[dict[str, Any]]) -> dict[str, np.ndarray[Any, np.dtype[np.uint64]]]:
    planes = zlib.decompress(base64.b64decode(text))
    found, begin = {}, 0
    for one in layout:
        size, rows = one["bytes"], one["rows"]
        block = np.frombuffer(planes[begin : begin + size * rows], np.uint8).reshape(size, rows)
        found[one["name"]] = sum(block[at].astype(np.uint64) << np.uint64(8 * at) for at in range(size))
        begin += size * rows
    assert begin == len(planes)
    return found


def test_columns_come_back_as_they_went(storm: ScenarioResult) -> None:
    story = told(storm)
    data, cut = columns.timeline(story)
    back = unpacked(*columns.pack(data))
    assert cut is None
    interrupts = story.interrupts
    assert (np.cumsum(back["after"]) == interrupts.time).all()
    alone = interrupts.delivered == NEVER
    assert (back["took"][alone] == 0).all()
    assert (interrupts.time[~alone] + back["took"][~alone] - 1 == interrupts.delivered[~alone]).all()
    for name in ("sender", "target", "fate", "vector"):
        assert (back[name] == getattr(interrupts, name)).all()
    assert (back["start"] + back["lasts"] == story.states.end).all()


def test_a_million_and_more_are_cut_at_one_time() -> None:
    story = synthetic_story(1_200_000, slices=50_000)
    data, cut = columns.timeline(story)
    assert cut is not None
    assert len(data["after"]) <= columns.MOST_INTERRUPTS
    assert int(data["after"].sum()) < cut
    assert (data["start"] < cut).all()
    text = page(facts_and_story(replay(X2APIC_BOOT))[0], story)
    assert len(text) < 20_000_000
    assert "The timeline ends at" in text


def test_an_empty_story_is_drawn_too() -> None:
    result = ipivrs.Scenario.model_validate({"vm": [{"vcpus": 1, "group": [{"vcpus": 0, "program": ["hlt"]}]}]}).run(
        engine="virtual-time", log=10
    )
    text = page(*facts_and_story(result))
    assert "No IPIs were sent." in text
    assert "None between vCPUs." in text


class Elements(html.parser.HTMLParser):
    """The elements of a page, and the words outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] = self.names.get(tag, 0) + 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_what_came_from_a_file_is_text(tmp_path: Path) -> None:
    file = hostile_recording(tmp_path)
    result = ipivrs.run(file)
    assert any(HOSTILE in vcpu["name"] for vcpu in result.recording["vcpus"])
    out = tmp_path / "out.html"
    result.report(out)
    text = out.read_text(encoding="utf-8")
    elements = Elements(text)
    assert "img" not in elements.names
    assert elements.names["script"] == 3
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert HOSTILE in elements.words
    about = re.search(r'<script type="application/json" id="about">(.*?)</script>', text, re.DOTALL)
    assert about
    assert any(HOSTILE in name for name in json.loads(about[1])["vcpus"])


def test_a_title_is_text_too(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    scenario(title=HOSTILE).run(engine="virtual-time", log=1000).report(out)
    elements = Elements(out.read_text(encoding="utf-8"))
    assert "img" not in elements.names
    assert HOSTILE in elements.words


def test_a_report_names_no_address(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    replay(X2APIC_BOOT).report(out)
    text = out.read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    elements = Elements(text)
    assert not [value for name, value in elements.attributes if name in ("src", "style")]
    policy = next(value for name, value in elements.attributes if name == "content" and "default-src" in (value or ""))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_report_says_what_it_is_of(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    result = shell("run", XAPIC_BOOT, "--report", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("0 of 127 IPIs need no VM exit")
    words = Elements(out.read_text(encoding="utf-8")).words
    assert "0 of 127 IPIs need no VM exit (0.0 %)" in words
    assert "destination mode must be physical (bit 11 = 0)" in words
    assert "x2apic_phys" in words
    assert f"ipivrs {ipivrs.__version__}" in words


def test_on_threads_there_is_no_timeline_and_the_report_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    scenario().run().report(out)
    text = out.read_text(encoding="utf-8")
    assert "The threads engine keeps no log" in text
    assert "<canvas" not in text


def test_a_recording_in_virtual_time_says_what_is_saved(tmp_path: Path) -> None:
    result = ipivrs.run(X2APIC_BOOT, engine="virtual-time")
    assert isinstance(result, RunResult)
    assert result.comparison is not None
    assert result.comparison["saved"] is not None
    out = tmp_path / "out.html"
    result.report(out)
    words = Elements(out.read_text(encoding="utf-8")).words
    assert "with IPI virtualization and without it" in words
    assert f"{result.comparison['saved']['exits']:,}" in words
    assert "sapphire-rapids" in words


def test_violations_come_first(tmp_path: Path) -> None:
    result = ipivrs.run("scenarios/storm.toml", engine="virtual-time", policy="kvm-pre-ipiv", seconds=0.05, log=10)
    assert result.violations
    out = tmp_path / "out.html"
    result.report(out)
    words = Elements(out.read_text(encoding="utf-8")).words
    assert words.index(result.violations[0]["message"]) < words.index("What became of the IPIs")
    assert "lost-wakeup ended the run: all counts are up to there" in words


def test_the_shell_names_the_files_that_it_wrote(shell: Shell, tmp_path: Path) -> None:
    report, trace = tmp_path / "out.html", tmp_path / "out.pftrace"
    files = ("--report", report, "--perfetto", trace)
    assert shell("run", X2APIC_BOOT, *files).stdout.splitlines()[-2:] == [
        f"{report}: a report for a browser",
        f"{trace}: a trace for https://ui.perfetto.dev",
    ]
    json.loads(shell("run", X2APIC_BOOT, *files, "--json").stdout)
    assert not shell("run", X2APIC_BOOT).stdout.endswith("\n\n")


def test_the_shell_keeps_a_log_for_what_is_drawn(shell: Shell, tmp_path: Path, scenario_file: Path) -> None:
    out = tmp_path / "out.html"
    assert shell("run", scenario_file, "--engine", "virtual-time", "--report", out).exit_code == 0
    assert "<canvas" in out.read_text(encoding="utf-8")


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    file = tmp_path / "storm.toml"
    file.write_text('[[vm]]\nvcpus = 2\nworkload = { name = "ping", rounds = 10 }\n', encoding="utf-8")
    return file


def refused(shell: Shell, *words: object) -> str:
    result = shell("run", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


@pytest.mark.parametrize("option", ["--report", "--perfetto"])
def test_a_path_that_cannot_be_written_is_refused_before_the_run(shell: Shell, tmp_path: Path, option: str) -> None:
    assert "there is no folder" in refused(shell, X2APIC_BOOT, option, tmp_path / "none" / "out")
    assert "Is a directory" in refused(shell, X2APIC_BOOT, option, tmp_path)
    assert "would replace what is to be run" in refused(shell, X2APIC_BOOT, option, X2APIC_BOOT)
    assert "Not a directory" in refused(shell, X2APIC_BOOT, option, Path(__file__) / "out")
    assert "File name too long" in refused(shell, X2APIC_BOOT, option, tmp_path / ("n" * 300))
    assert "cannot be written" in refused(shell, X2APIC_BOOT, option, "/proc/out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "package"), [("--report", "jinja2"), ("--perfetto", "perfetto")])
def test_a_missing_package_is_named_before_the_run(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    for name in [name for name in __import__("sys").modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(__import__("sys").modules, name)
    out = tmp_path / "out"
    message = refused(shell, X2APIC_BOOT, option, out)
    assert f"needs the package {package}: pip install 'ipivrs[report]'" in message
    assert not out.exists()


def test_one_result_one_file(shell: Shell, tmp_path: Path, scenario_file: Path) -> None:
    out = tmp_path / "out"
    assert "one by one" in refused(shell, X2APIC_BOOT, XAPIC_BOOT, "--report", out)
    assert "a file each" in refused(shell, X2APIC_BOOT, "--report", out, "--perfetto", out)
    assert "--engine virtual-time" in refused(shell, scenario_file, "--perfetto", out)


def test_the_reader_of_a_pipe_sees_no_end_before_the_report(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    waiting = select.poll()
    waiting.register(reader)
    check_writable("--report", pipe)
    assert waiting.poll(0) == []
    os.close(reader)


def test_what_fails_after_the_run_loses_nothing_else(shell: Shell) -> None:
    result = shell("run", X2APIC_BOOT, "--report", "/dev/full")
    assert result.exit_code == 2
    assert result.stdout.startswith("1651 of 1657")
    assert "/dev/full cannot be written: No space left on device" in result.stderr


def test_elements_escape_words_and_attributes() -> None:
    inner = tag("title", HOSTILE)
    assert inner == "<title>&lt;/script&gt;&lt;img onerror=alert(1)&gt;</title>"
    assert tag("g", inner, class_='"><b', x=1.50) == f'<g class="&#34;&gt;&lt;b" x="1.5">{inner}</g>'


def test_marks_are_round() -> None:
    assert scales.marks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert scales.marks(0, 3, 4, finest=1) == [0, 1, 2, 3]
    assert scales.duration(0.00125) == "1.25 ms"
    assert scales.powers(30, 4000) == [10, 100, 1000, 10000]


def test_first_of_equal_rows() -> None:
    known = (np.array([5, 7, 5], np.uint32), np.array([1, 1, 1], np.uint64))
    asked = (np.array([7, 5, 9, 5], np.uint32), np.array([1, 1, 1, 2], np.uint64))
    assert from_events.first_place(known, asked).tolist() == [1, 0, -1, -1]
