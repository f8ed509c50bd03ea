"""Violations as the shell shows them: what is one sentence in JSON is lines that can be read."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import ipivrs
from conftest import Shell
from ipivrs.results import Violation
from ipivrs.running import shipped_path
from ipivrs.sections import violations
from ipivrs.wording import how_many, kinds

WORKLOAD = 'workload = { name = "storm" }\n'
LOST = f"seconds = 0.001\n[[vm]]\nvcpus = 4\n{WORKLOAD}[[vm]]\nvcpus = 4\n{WORKLOAD}"
WOKEN = """[[vm]]
[[vm.group]]
vcpus = 0
program = [{ send = 0xFD, to = 1 }, "hlt"]
[[vm.group]]
vcpus = 1
program = ["hlt"]
"""


def lines_of(printed: str) -> list[str]:
    """What stands in the section, the indentation of the section left out."""
    lines = [*map(str.rstrip, printed.splitlines()), ""]
    begin = next(at for at, line in enumerate(lines) if line.startswith("Violations: "))
    return [line[2:] for line in lines[begin + 1 : lines.index("", begin)]]


def shown(message: str, kind: str = "lost-wakeup") -> list[str]:
    console = Console(width=1000, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(*violations([Violation(kind=kind, vcpu=0, message=message)]))
    return lines_of(captured.get())


@pytest.mark.parametrize(("text", "policy"), [(LOST, "kvm-pre-ipiv"), (WOKEN, "acrn-1462")], ids=["lost", "stall"])
def test_every_word_of_a_message_is_there_and_no_line_is_long(
    shell: Shell, tmp_path: Path, text: str, policy: str
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    run = ("run", file, "--engine", "virtual-time", "--policy", policy)
    found = json.loads(shell(*run, "--json").stdout)["violations"]
    result = shell(*run)
    assert result.exit_code == 1
    assert "oldest first" in result.stdout
    lines = lines_of(result.stdout)
    words = [word for one in found for word in f"{one['kind']}: {one['message']}".split()]
    assert [word for line in lines for word in line.split()] == words
    assert all(len(line) <= 118 for line in lines)
    heads = [line for line in lines if not line.startswith(" ")]
    assert [head.partition(":")[0] for head in heads] == [one["kind"] for one in found]
    assert all(len(head) < 100 and "posted" not in head for head in heads)
    assert f"\n{found[-1]['kind']} ended the run: all counts are up to there\n" in result.stdout


def test_a_violation_that_ends_nothing_is_not_said_to(shell: Shell, tmp_path: Path) -> None:
    text = Path(shipped_path("apic-id")).read_text(encoding="utf-8")
    file = tmp_path / "a.toml"
    file.write_text(text.replace('"inhibit"', '"naive"'), encoding="utf-8")
    result = shell("run", file, "--engine", "virtual-time")
    assert result.exit_code == 1
    assert "ended the run" not in result.stdout


def test_the_state_and_each_vcpu_have_a_line() -> None:
    assert shown(
        "lost wake-up: vCPU 1 of VM 0 sleeps with FDH in its descriptor (ON=1, SN=0, NV=F2H, NDST=1H), on no wakeup "
        "list: nobody will wake it. vCPU 1 of VM 0: took 31H, slept on pCPU 1. vCPU 2 of VM 0: posted FDH for vCPU 1."
    ) == [
        "lost-wakeup: lost wake-up: vCPU 1 of VM 0 sleeps with FDH in its descriptor",
        "  (ON=1, SN=0, NV=F2H, NDST=1H), on no wakeup list: nobody will wake it.",
        "  vCPU 1 of VM 0: took 31H, slept on pCPU 1.",
        "  vCPU 2 of VM 0: posted FDH for vCPU 1.",
    ]
    assert shown("1 interrupts with vector FBH for vCPU 1 were posted and never arrived. Its last events: woke.") == [
        "lost-wakeup: 1 interrupts with vector FBH for vCPU 1 were posted and never arrived.",
        "  Its last events: woke.",
    ]
    assert shown("nothing goes on:\n  vCPU 0: sleeps, PIR [], ON=0, SN=0, NV=F2H; woke, slept", "stall") == [
        "stall: nothing goes on:",
        "  vCPU 0: sleeps, PIR [], ON=0, SN=0, NV=F2H;",
        "  woke, slept",
    ]


def test_a_terminal_sets_the_width(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.toml"
    file.write_text(LOST)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    printed = shell("run", file, "--engine", "virtual-time", "--policy", "kvm-pre-ipiv").stdout
    parts = [line for line in printed.splitlines() if line.startswith("    vCPU ")]
    assert parts
    assert all(len(line.rstrip()) <= 60 for line in parts)


def test_those_that_are_not_kept_are_counted() -> None:
    program = ipivrs.Program().loop(40, ipivrs.Program().send(0xFD, dest=40))
    vm = ipivrs.VM(max_vcpu_ids=8, last_index=63, group=[ipivrs.Group(vcpus=[0], program=program)])
    result = ipivrs.Scenario(vm=[vm]).run(engine="virtual-time")
    assert [violation.get("count") for violation in result.violations] == [None] * 20 + [20]
    assert how_many(result.violations) == 40
    assert kinds(result.violations) == "table-read-out-of-bounds"
    assert "40 violations" in repr(result)
