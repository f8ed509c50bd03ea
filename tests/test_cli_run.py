"""`ipivrs run`: the report, the comparison, JSON and exit codes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import ipivrs
from conftest import Process, Shell
from ipivrs import cli
from ipivrs.remedy import Remedy
from shipped import EXAMPLES, GUEST_SIDE, KUT_APIC, RECORDINGS, X2APIC_BOOT, XAPIC_BOOT, replay


def without_timing(report: str) -> str:
    return "\n".join(line for line in report.splitlines() if "IPIs per second" not in line)


def test_the_verdict_comes_first(shell: Shell) -> None:
    result = shell("run", X2APIC_BOOT)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "1651 of 1657 IPIs need no VM exit (99.6 %)"
    assert result.stderr == ""


def test_the_report_says_why_and_what_to_change(shell: Shell) -> None:
    report = shell("run", XAPIC_BOOT).stdout
    assert report.startswith("0 of 127 IPIs need no VM exit (0.0 %)")
    assert "121 of 127 use logical destination mode (bit 11)" in report
    assert "x2apic_phys" in report
    assert "6 of 127 are INIT or start-up IPIs" in report


def test_of_one_ipi_it_speaks_as_of_one(shell: Shell) -> None:
    report = " ".join(shell("run", KUT_APIC).stdout.split())
    assert "4 of 11 are INIT or start-up IPIs" in report
    assert "1 of 11 uses the shorthand self through the ICR" in report
    assert "Wins 9.1 %: it needs no exit then, as 2 IPIs to one processor each." in report


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_every_shipped_recording_has_a_report(shell: Shell, path: Path) -> None:
    result = shell("run", path)
    counts = replay(path).counters
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{counts['virtualized'] + counts['self']} of {counts['total']} IPIs")


def test_a_piped_report_is_plain_and_whole(process: Process) -> None:
    done = process("run", X2APIC_BOOT, COLUMNS="40")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    for item in replay(X2APIC_BOOT).exits:
        assert item["clause"] in done.stdout


def test_a_narrow_terminal_cuts_no_word(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    report = shell("run", XAPIC_BOOT).stdout
    assert "\x1b[" in report
    assert "…" not in report


def test_the_report_is_the_same_each_time_but_for_the_timing(process: Process) -> None:
    one, other = process("run", XAPIC_BOOT), process("run", XAPIC_BOOT)
    assert without_timing(one.stdout) == without_timing(other.stdout)


def test_notes_of_several_files_have_whose_they_are(shell: Shell) -> None:
    result = shell("run", X2APIC_BOOT, XAPIC_BOOT, GUEST_SIDE)
    notes = result.stdout.partition("\nNotes\n")[2].splitlines()
    boots = "linux-boot-long-x2apic-smp2, linux-boot-long-xapic-smp2"
    assert any(f"- {boots}: no kvm_hypercall and no kvm_apicv_inhibit_changed" in note for note in notes)
    assert any("- native-sched-messaging: recorded inside a guest" in note for note in notes)
    common = shell("run", X2APIC_BOOT, XAPIC_BOOT).stdout.partition("\nNotes\n")[2]
    assert common.count("- no kvm_hypercall and") == 1


def test_several_files_stand_side_by_side(shell: Shell) -> None:
    result = shell("run", X2APIC_BOOT, XAPIC_BOOT)
    assert result.exit_code == 0
    rows = {line[:20].strip(): line.split()[-3:] for line in result.stdout.splitlines()}
    assert rows["IPIs"][-2:] == ["1657", "127"]
    assert rows["need no VM exit"][-2:] == ["1651", "0"]
    assert "destination mode must be physical (bit 11 = 0)" in result.stdout
    assert "linux-boot-long-xapic-smp2: 0 of 127 IPIs need no VM exit" in result.stdout
    assert "121 of 127 use logical destination mode" in result.stdout


def test_files_of_one_name_keep_what_tells_them_apart(shell: Shell) -> None:
    header = shell("run", EXAMPLES / "kut-apic-x2apic.perf.data", EXAMPLES / "kut-apic-x2apic.perf-script.txt").stdout
    assert header.split()[:2] == ["kut-apic-x2apic.perf.data", "kut-apic-x2apic.perf-script.txt"]


def test_json_of_one_file_is_the_result(shell: Shell) -> None:
    result = shell("run", GUEST_SIDE, "--apic", "x2apic", "--json")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed["ipis"]["total"] == 433
    assert set(printed) == set(replay(GUEST_SIDE).as_dict())


def test_json_of_several_files_is_a_list(shell: Shell) -> None:
    printed = json.loads(shell("run", "--json", X2APIC_BOOT, XAPIC_BOOT).stdout)
    assert [one["ipis"]["virtualized"] for one in printed] == [1651, 0]


def test_options_reach_the_core(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(path: str, **options: Any) -> ipivrs.RunResult:  # noqa: ANN401
        seen.update(options, path=path)
        return replay(XAPIC_BOOT)

    monkeypatch.setattr(cli, "run_recording", run)
    words = "--apic XAPIC --apic-ids 0,0x2,4 --vcpus 3 --last-index 0x4 --pace free --process 77 --no-ipiv"
    assert shell("run", "file", *words.split()).exit_code == 0
    assert seen == {
        "path": "file",
        "apic": "xapic",
        "apic_ids": [0, 2, 4],
        "vcpus": 3,
        "last_index": 4,
        "pace": "free",
        "process": 77,
        "ipi_virtualization": False,
    }


def test_options_that_are_not_given_keep_their_defaults(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(path: str, **options: Any) -> ipivrs.RunResult:  # noqa: ANN401
        seen.update(options, path=path)
        return replay(XAPIC_BOOT)

    monkeypatch.setattr(cli, "run_recording", run)
    assert shell("run", "file").exit_code == 0
    assert seen == {"path": "file"}


class Violated(ipivrs.RunResult):
    """A result as it would be if the emulator had caught a stray write."""

    def __init__(self, path: Path) -> None:
        self._whole = {
            **replay(path).as_dict(),
            "violations": [{"kind": "wild-post", "vcpu": 1, "message": "vector 251 went to 1000H"}],
        }

    def as_dict(self) -> dict[str, Any]:
        return self._whole

    @property
    def advice(self) -> list[Remedy]:
        return []

    @property
    def _dict(self) -> dict[str, Any]:
        return self._whole


@pytest.mark.parametrize("files", [["one"], ["one", "other"]])
def test_a_violation_is_shown_and_is_exit_code_1(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, files: list[str]
) -> None:
    monkeypatch.setattr(cli, "run_recording", lambda *_, **__: Violated(XAPIC_BOOT))
    result = shell("run", *files)
    assert result.exit_code == 1
    assert "wild-post: vector 251 went to 1000H" in result.stdout


def test_ctrl_c_is_one_line_and_exit_code_130(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_recording", interrupted)
    result = shell("run", "file")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "error: interrupted\n")


def test_a_file_name_that_is_no_text_is_a_file_name(process: Process, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff.data"
    Path(os.fsdecode(odd)).write_bytes(X2APIC_BOOT.read_bytes())
    done = process("run", os.fsdecode(odd))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/\N{REPLACEMENT CHARACTER}.data" in done.stdout


def test_fewer_vcpus_than_are_recorded_change_nothing_and_that_is_said(shell: Shell) -> None:
    result = shell("run", GUEST_SIDE, "--vcpus", "1")
    said = f"note: {GUEST_SIDE}: 2 vCPUs are in the recording, --vcpus 1 changes nothing\n"
    assert (result.exit_code, result.stderr) == (0, said)
    assert shell("run", GUEST_SIDE, "--vcpus", "2").stderr == ""
    result = shell("run", X2APIC_BOOT, "--vcpus", "1")
    assert "VM 0 has 2 vCPUs in the recording, more than the 1 declared" in result.stdout
    assert result.stderr == ""


def test_no_name_is_no_file() -> None:
    with pytest.raises(ipivrs.RecordingError, match="the name of a file is empty: give a recording or a scenario"):
        ipivrs.run("")
