"""`ipivrs.run` and the result it gives."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ipivrs
from shipped import X2APIC_BOOT, XAPIC_BOOT, replay

IPIS = ["total", "virtualized", "self", "exited", "faulted", "delivered", "coalesced", "pending"]


def test_as_dict_keeps_its_names() -> None:
    result = replay(X2APIC_BOOT).as_dict()
    assert set(IPIS) <= set(result["ipis"])
    assert set(result["notifications"]) >= {"sent", "suppressed", "coalesced", "spurious"}
    assert all(set(item) >= {"reason", "qualification", "clause", "count"} for item in result["exits"])
    assert set(result) >= {
        "violations",
        "engine",
        "seed",
        "policy",
        "seconds",
        "ipis_per_second",
        "version",
        "recording",
    }
    assert result["engine"] == "threads"
    assert result["version"] == ipivrs.__version__


def test_as_dict_is_json_and_a_fresh_copy() -> None:
    result = replay(X2APIC_BOOT)
    assert json.loads(json.dumps(result.as_dict())) == result.as_dict()
    result.as_dict()["ipis"]["total"] = -1
    assert result.as_dict()["ipis"]["total"] == 1657


def test_properties_are_parts_of_as_dict() -> None:
    result = replay(XAPIC_BOOT)
    whole = result.as_dict()
    for name in ("exits", "kinds", "notifications", "violations", "recording", "engine", "pace", "seconds", "version"):
        assert getattr(result, name) == whole[name]
    assert result.counters == whole["ipis"]
    assert result.ipis_per_second == whole["ipis_per_second"]


def test_an_apic_write_exit_is_reason_56_qualification_300h() -> None:
    assert {(item["reason"], item["qualification"]) for item in replay(XAPIC_BOOT).exits} == {(56, 0x300)}


def test_rows_are_a_structured_array() -> None:
    rows = replay(X2APIC_BOOT).ipis
    assert rows.dtype == ipivrs.IPI_DTYPE
    assert rows.shape == (1657,)
    assert not rows.flags.writeable
    assert np.array_equal(rows["vector"], rows["icr_low"] & 0xFF)
    assert replay(X2APIC_BOOT).ipis is rows


def test_repr_is_one_line_with_the_verdict() -> None:
    text = repr(replay(X2APIC_BOOT))
    assert "\n" not in text
    assert "1657 IPIs, 1651 virtualized, 0 self, 6 exited, 0 faulted, 0 violations" in text


def test_a_path_may_be_text_or_a_path() -> None:
    assert ipivrs.run(str(XAPIC_BOOT)).counters["total"] == ipivrs.run(XAPIC_BOOT).counters["total"] == 127


def test_a_file_that_cannot_be_read_is_a_recording_error(tmp_path: Path) -> None:
    with pytest.raises(ipivrs.RecordingError, match=r"missing\.data"):
        ipivrs.run(tmp_path / "missing.data")
    assert issubclass(ipivrs.RecordingError, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("apic", "x3apic"),
        ("pace", "fast"),
        ("vcpus", 65_537),
        ("last_index", 65_536),
        ("apic_ids", [1, 1]),
        ("apic_ids", [-1]),
    ],
)
def test_an_option_out_of_range_is_a_value_error(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        ipivrs.run(X2APIC_BOOT, **{name: value})  # type: ignore[call-overload]  # that is the point


def test_ctrl_c_stops_a_run() -> None:
    program = f"""
import signal, threading, ipivrs
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with SIGINT ignored
threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
while True:
    ipivrs.run({str(X2APIC_BOOT)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr


def test_ctrl_c_at_the_command_line_is_130_and_a_line() -> None:
    program = f"""
import signal, sys, threading, typer
from ipivrs.cli import app
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["ipivrs", "run", *[{str(X2APIC_BOOT)!r}] * 10_000]
command = typer.main.get_command(app)
threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
command()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
