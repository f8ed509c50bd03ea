"""Recordings in virtual time, from Python and from the shell."""

import json
import re
from pathlib import Path

import pytest

import ipivrs
from conftest import Shell
from ipivrs.profiles import find
from ipivrs.results import Comparison, RunResult, Saved, run_recording
from shipped import RECORDINGS, SELF_IPIS, X2APIC_BOOT, XAPIC_BOOT, replay


def timed(path: Path, **options: object) -> RunResult:
    return run_recording(path, engine="virtual-time", **options)  # type: ignore[arg-type]  # one place for all options


def comparison(result: RunResult) -> Comparison:
    assert result.comparison is not None
    return result.comparison


def saved(result: RunResult) -> Saved:
    known = comparison(result)["saved"]
    assert known is not None
    return known


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_every_shipped_recording_runs_both_ways(path: Path) -> None:
    result = timed(path)
    assert result.violations == []
    # What becomes of an IPI is the processor's to decide, whatever the engine.
    on_threads = replay(path)
    assert list(result.ipis["fate"]) == list(on_threads.ipis["fate"])
    assert list(result.ipis["clause"]) == list(on_threads.ipis["clause"])
    both = comparison(result)
    for side in (both["with"], both["without"]):
        counts = side["ipis"]
        assert side["unfinished"] == 0
        posted = counts["virtualized"] + counts["self"] + counts["software_posts"] + counts["timer_posts"]
        assert posted == counts["delivered"] + counts["coalesced"] + counts["discarded"] + counts["pending"]
    assert both["without"]["ipis"]["virtualized"] == 0
    assert saved(result)["exits"] == both["without"]["exits"] - both["with"]["exits"]


def test_a_boot_saves_an_exit_for_each_virtualized_ipi() -> None:
    result = timed(X2APIC_BOOT)
    both = comparison(result)
    assert saved(result)["exits"] == result.counters["virtualized"] == 1651
    profile = {name: cost.cycles for name, cost in find("sapphire-rapids").cost.items()}
    exit_and_entry = profile["vm_exit"] + profile["vm_entry"] + profile["exit_msr_icr"]
    assert saved(result)["cycles_per_ipi"] > 0.99 * (exit_and_entry - profile["post"])
    assert set(both["with"]["latency"]) == {"running", "blocked", "device"}
    assert set(both["without"]["latency"]) == {"exited", "device"}
    assert result.seconds == pytest.approx(result.recording["span_seconds"], rel=1e-3)
    assert (result.engine, result.policy, result.profile, result.pace) == (
        "virtual-time",
        "kvm",
        "sapphire-rapids",
        None,
    )


def test_what_looks_like_one_figure_and_is_two_is_told_apart(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    printed = shell("run", X2APIC_BOOT, "--engine", "virtual-time", "--report", out).stdout
    for text in (" ".join(printed.split()), out.read_text(encoding="utf-8").replace("&#39;", "'")):
        assert "cycles to send an IPI are the sender's alone" in text


def test_nothing_is_saved_where_every_ipi_exits() -> None:
    result = timed(XAPIC_BOOT)
    assert saved(result)["exits"] == 0
    assert comparison(result)["with"]["ipis"]["software_posts"] == 121


def test_why_it_can_cost_more(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    for recording, more in ((SELF_IPIS, True), (X2APIC_BOOT, False)):
        printed = shell("run", recording, "--engine", "virtual-time", "--report", out).stdout
        assert (saved(timed(recording))["cycles_per_ipi"] < 0) is more
        for text in (" ".join(printed.split()), out.read_text(encoding="utf-8")):
            assert ("costs more with IPI virtualization" in text) is more


def test_the_same_recording_gives_the_same_result_to_the_byte(shell: Shell) -> None:
    outputs = {shell("run", X2APIC_BOOT, "--engine", "virtual-time", "--json").stdout for _ in range(2)}
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["comparison"]["saved"]["exits"] == 1651


def test_a_run_that_ended_at_a_violation_is_compared_with_none(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    result = shell("run", X2APIC_BOOT, "--engine", "virtual-time", "--policy", "kvm-pre-ipiv", "--report", out)
    assert result.exit_code == 1
    ended = "lost-wakeup ended the run after 80.657 of 411.838 s: all counts are up to there"
    for text in (" ".join(result.stdout.split()), out.read_text(encoding="utf-8")):
        assert ended in text
        assert "4 of 10 IPIs that were sent until then need no VM exit (40.0 %)" in text
        assert "saved" not in text
    assert max(float(share) for share in re.findall(r"([\d.]+) %", result.stdout)) <= 100
    both = shell("run", X2APIC_BOOT, "--engine", "virtual-time", "--policy", "kvm-pre-ipiv", "--json")
    whole = json.loads(both.stdout)
    assert whole["comparison"]["saved"] is None
    assert "saves" not in timed(X2APIC_BOOT, policy="kvm-pre-ipiv")._repr_html_()


def test_another_profile_and_policy(shell: Shell, tmp_path: Path) -> None:
    slow = find("sapphire-rapids").with_cycles({"vm_exit": 1_000_000})
    assert saved(timed(X2APIC_BOOT, profile=slow))["cycles_per_ipi"] > 990_000
    options = ("--engine", "virtual-time", "--policy", "kvm-sn-in-host", "--json")
    assert json.loads(shell("run", X2APIC_BOOT, *options).stdout)["policy"] == "kvm-sn-in-host"
    result = shell("run", X2APIC_BOOT, "--engine", "virtual-time", "--profile", tmp_path / "none.toml")
    assert (result.exit_code, "no profile" in result.stderr) == (2, True)


def test_a_report_has_both_sides_and_what_is_assumed(shell: Shell) -> None:
    report = shell("run", X2APIC_BOOT, "--engine", "virtual-time").stdout
    assert report.splitlines()[0] == "1651 of 1657 IPIs need no VM exit (99.6 %)"
    assert "With IPI virtualization and without it" in report
    assert "1,651" in report
    assert "halts of vCPUs, by kvm_vcpu_wakeup" in report
    assert "does not show when vCPUs were preempted (sched_switch)" in report
    side_by_side = shell("run", X2APIC_BOOT, XAPIC_BOOT, "--engine", "virtual-time").stdout
    assert "cycles saved for each IPI" in side_by_side


def test_preemption_and_halts_are_the_recordings(tmp_path: Path) -> None:
    def ipi(time: str) -> str:
        return (
            f"q 7 [000] {time}0: kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)\n"
            f"q 7 [000] {time}1: kvm:kvm_msr: msr_write 830 = 0x1000000fb\n"
        )

    def switch(time: str, left: int, state: str, right: int) -> str:
        threads = f"prev_pid={left} prev_prio=120 prev_state={state} ==> next_comm=x next_pid={right} next_prio=120"
        return f"x {left} [001] {time}: sched:sched_switch: prev_comm=x {threads}\n"

    lines = [
        "q 7 [000] 1.000000: kvm:kvm_entry: vcpu 0, rip 0x1\n",
        "q 8 [001] 1.000000: kvm:kvm_entry: vcpu 1, rip 0x1\n",
        ipi("1.00001"),
        switch("1.000100", 8, "R+", 9),
        ipi("1.00020"),
        switch("1.000300", 9, "S", 8),
        "q 8 [001] 1.000400: kvm:kvm_exit: vcpu 1 reason HLT rip 0x1 info1 0x0\n",
        ipi("1.00060"),
        "q 8 [001] 1.000700: kvm:kvm_entry: vcpu 1, rip 0x1\n",
    ]
    file = tmp_path / "host.txt"
    file.write_text("".join(lines), encoding="utf-8")
    result = timed(file)
    both = comparison(result)
    met = {name: row["count"] for name, row in both["with"]["latency"].items()}
    assert met == {"running": 1, "preempted": 1, "blocked": 1}
    assert both["with"]["preemptions"] == 1
    # 100 us until its thread is back, at 2 GHz.
    assert 190_000 < both["with"]["latency"]["preempted"]["max"] < 220_000
    assert saved(result)["exits"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "virtual-time", "--pace", "free"], "--pace is an option of --engine threads"),
        (["--engine", "virtual-time", "--no-ipiv"], "--no-ipiv is an option of --engine threads"),
        (["--policy", "kvm"], "--policy is an option of scenarios, and of recordings with --engine virtual-time"),
        (["--profile", "sapphire-rapids"], "--profile is an option of --engine virtual-time"),
        (["--engine", "virtual-time", "--seed", "1"], "--seed is an option of scenarios"),
        (["--engine", "virtual-time", "--seconds", "1"], "--seconds is an option of scenarios"),
        (["--engine", "virtual-time", "--policy", "kwm"], "kwm"),
    ],
)
def test_options_that_make_no_sense_are_refused(shell: Shell, options: list[str], said: str) -> None:
    result = shell("run", X2APIC_BOOT, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_options_of_the_other_engine_are_refused_in_python() -> None:
    with pytest.raises(ValueError, match="pace is an option of the engine threads"):
        timed(X2APIC_BOOT, pace="free")
    with pytest.raises(ValueError, match="both with IPI virtualization and without it"):
        timed(X2APIC_BOOT, ipi_virtualization=False)
    with pytest.raises(ValueError, match="policy is an option of the engine virtual-time"):
        run_recording(X2APIC_BOOT, policy="kvm")
    with pytest.raises(ValueError, match="engine must be threads or virtual-time"):
        run_recording(X2APIC_BOOT, engine="fast")  # type: ignore[arg-type]  # that is the point
    result = ipivrs.run(X2APIC_BOOT, engine="virtual-time", profile="sapphire-rapids")
    assert isinstance(result, RunResult)
