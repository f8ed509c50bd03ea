"""The reports of `ipivrs check` for people."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from ipivrs.bounds import Bounds
from ipivrs.drawing import drawn
from ipivrs.entries import HOLDS, Entry
from ipivrs.laboratory import CheckResult
from ipivrs.mutation import Mutant, runs
from ipivrs.policy_text import routines
from ipivrs.sections import section, table

KINDS = {
    "lost-interrupt": "lost interrupt",
    "lost-wakeup": "lost wake-up",
    "deadlock": "deadlock",
    "livelock": "livelock",
    "wild-post": "wild post",
    "misdelivery": "misdelivery",
    "escape": "escape",
    "two-lists": "on two wakeup lists",
    "sn-while-blocked": "SN is 1 while the vCPU sleeps",
    "unsent": "delivered, but nobody sent it",
    "unposted": "posted in software, but never put into PIR",
}
"""The properties, as reports call what breaks them."""


_COUNTED: tuple[tuple[Literal["spurious_notifications", "spurious_wakeups"], str], ...] = (
    ("spurious_notifications", "spurious notification"),
    ("spurious_wakeups", "spurious wake-up"),
)


def full(result: CheckResult, width: int) -> RenderableType:
    """The verdict; then the worst case of a policy that holds, or the way to break it and the diagnosis."""
    return Group(
        _verdict(result), Text(f"  {result.bounds}", style="dim"), *_left_out(result), *_findings(result, width)
    )


def _verdict(result: CheckResult) -> Text:
    values = result.as_dict()
    threads = values["threads"]
    cost = f"{result.states:,} states, {result.seconds:.2f} s, {threads} thread{'s' if threads != 1 else ''}"
    if result.violation is not None:
        head = Text(f"{_subject(result)} is refuted: {_called(result.violation['kind'])}", style="bold red")
        return head.append(f" ({cost})", style="not bold default")
    if result.holds:
        return Text(f"{_subject(result)} holds: {cost}", style="bold green")
    return Text(f"{_subject(result)} is not decided: {cost}", style="bold yellow")


def _subject(result: CheckResult) -> str:
    """The policy's name, and its file where that has another: a copy of a shipped policy is not that one."""
    file = result.file
    return result.policy if file is None or Path(file).stem == result.policy else f"{result.policy} ({file})"


def _left_out(result: CheckResult) -> Iterator[Text]:
    for line in result.as_dict()["without"]:
        yield Text(f"  without {line}", style="dim")


def _findings(result: CheckResult, width: int) -> Iterator[RenderableType]:
    if result.counterexample is not None:
        yield Text()
        yield from drawn(result.counterexample, result.as_dict()["cycle_from"], width)
        yield from ended(result.violation, result.diagnosis)
    elif result.holds:
        yield from _worst_case(result)
    else:
        yield Text(f"  {result.undecided}")
        yield Text("  raise --max-states or --max-memory, or explore less: fewer --posts, --senders, --preemptions")


def ended(violation: Any, diagnosis: str | None) -> Iterator[Text]:  # noqa: ANN401 (a dictionary of the core, or None)
    """What a counterexample comes to: the property that breaks, and why."""
    yield Text()
    if violation is not None:
        yield Text(f"{violation['kind']}: ", style="bold red").append(violation["message"], style="not bold")
    if diagnosis:
        yield Text(diagnosis)


def _worst_case(result: CheckResult) -> Iterator[Text]:
    worst = result.worst_case
    if worst is not None:
        yield Text(f"  at worst {' and '.join(_most(worst[of], what) for of, what in _COUNTED)}")


def _most(number: int | None, what: str) -> str:
    if number is None:
        return f"{what}s without end"
    return f"{number} {what}{'s' if number != 1 else ''}"


def replayed(found: dict[str, Any], width: int) -> RenderableType:
    """A replay: whether the end is the same, and the steps as they went this time."""
    where = "on threads and atomics" if found["on_threads"] else "step by step"
    if found["confirmed"]:
        head = Text(f"{found['policy']}: {_called(found['expected'])} confirmed, {where}", style="bold red")
    else:
        head = Text(f"{found['policy']}: {_called(found['expected'])} not confirmed, {where}", style="bold yellow")
        head.append(f" ({_why_not(found)})", style="not bold default")
    return Group(head, Text(), *drawn(found["counterexample"], None, width), *_end_of_replay(found))


def _end_of_replay(found: dict[str, Any]) -> Iterator[Text]:
    if found["violation"] is not None:
        yield from ended(found["violation"], found["diagnosis"])


def _why_not(found: dict[str, Any]) -> str:
    if found["violation"] is None:
        return "nothing is wrong at the end of these steps"
    if found["violation"]["kind"] != found["expected"]:
        return f"the end is another: {_called(found['violation']['kind'])}"
    return "memory was not what the model says"


def _called(kind: str) -> str:
    return KINDS.get(kind, kind)


def listing(entries: list[Entry]) -> RenderableType:
    """The collection: names, verdicts, what they are and where from."""
    rows = table("name", "verdict", "what it is, and where from")
    for entry in entries:
        style = "green" if entry.verdict == HOLDS else "red"
        about = Text(entry.title).append(f"\n{entry.source}", style="dim")
        rows.add_row(entry.name, Text(entry.verdict, style=style), about)
    return rows


def comparison(results: list[tuple[Entry, CheckResult]]) -> RenderableType:
    """The collection, with what was found beside what was expected."""
    rows = table("name", "expected", "found", ">states", ">seconds")
    for entry, result in results:
        expected = result.verdict == entry.verdict
        found = Text(result.verdict, style="green" if expected else "bold red")
        rows.add_row(entry.name, entry.verdict, found, f"{result.states:,}", f"{result.seconds:.2f}")
    wrong = sum(result.verdict != entry.verdict for entry, result in results)
    seconds = sum(result.seconds for _, result in results)
    if wrong:
        last = Text(f"{wrong} of {len(results)} verdicts are not the expected ones, {seconds:.1f} s", style="bold red")
    else:
        last = Text(f"all {len(results)} verdicts are the expected ones, {seconds:.1f} s", style="bold green")
    return Group(rows, Text(), last)


def mutated(result: CheckResult, mutants: list[Mutant]) -> RenderableType:
    """Which lines the proof needs, with what breaks without them, and which are redundant."""
    needed = [mutant for mutant in mutants if mutant.needed]
    redundant = [mutant for mutant in mutants if mutant.verdict == HOLDS]
    undecided = [mutant for mutant in mutants if mutant.verdict == "undecided"]
    summary = f"{len(mutants)} changes: {len(needed)} break it, {len(redundant)} do not"
    return Group(
        Text(f"{_subject(result)} holds; {summary}", style="bold"),
        Text(f"  {result.bounds}", style="dim"),
        *_nothing_posted_by_hardware(result.bounds),
        *_changes("The proof needs", [(mutant, mutant.why or _called(mutant.verdict)) for mutant in needed]),
        *_changes(
            f"Redundant as far as these bounds go: {result.bounds}",
            [(mutant, _dearer(result, mutant.result)) for mutant in redundant],
        ),
        *_changes("Not decided: raise --max-states or --max-memory", [(mutant, "") for mutant in undecided]),
        *_not_run(result),
    )


def _nothing_posted_by_hardware(bounds: Bounds) -> Iterator[Text]:
    """Most of a protocol is there for posts that the hypervisor does not make itself."""
    if bounds.ipiv and not bounds.senders and not bounds.devices:
        yield Text(
            "  no sender and no device: hardware posts nothing here, and lines that are vital to its posts are called "
            "redundant; give --senders 1",
            style="yellow",
        )


def _changes(title: str, mutants: list[tuple[Mutant, str]]) -> Iterator[RenderableType]:
    if not mutants:
        return
    rows = table("", "", "")
    rows.show_header = False
    for mutant, comes_of_it in mutants:
        done = "without" if mutant.mutation.kind == "drop" else "swapped"
        rows.add_row(Text(done, style="dim"), mutant.mutation.description, Text(comes_of_it, style="red"))
    yield section(title, rows)


def _dearer(whole: CheckResult, changed: CheckResult | None) -> str:
    """What a line that no proof needs is there for: fewer notifications and wake-ups for nothing."""
    before, after = whole.worst_case, changed.worst_case if changed else None
    if before is None or after is None:
        return ""
    dearer = [
        f"{what}s {_counted(before[of])} -> {_counted(after[of])}"
        for of, what in _COUNTED
        if _rank(after[of]) > _rank(before[of])
    ]
    return f"worst case: {', '.join(dearer)}" if dearer else ""


def _counted(number: int | None) -> str:
    return "unbounded" if number is None else str(number)


def _rank(number: int | None) -> float:
    return math.inf if number is None else number


def _not_run(result: CheckResult) -> Iterator[RenderableType]:
    names = [name for name in routines(result.as_dict()["policy_text"]) if not runs(name, result.bounds)]
    if names:
        yield Text()
        yield Text(f"Left alone, as these bounds never run them: {', '.join(names)}", style="dim")
