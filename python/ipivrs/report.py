"""The report of `ipivrs run` for people: one recording in full, or several side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ipivrs.remedy import Remedy
from ipivrs.results import Comparison, Kind, RunResult, Saved
from ipivrs.sections import exits, fates, heat, indented, notifications, section, share, table, violations
from ipivrs.terminal import width
from ipivrs.wording import noun, predicate

_WHAT_CYCLES_COUNT = (
    "Cycles in exits are of all exits on all pCPUs, with what wakes a receiver that sleeps; "
    "cycles to send an IPI are the sender's alone, from its write until its guest goes on."
)
_WHY_MORE = (
    " An IPI that exits all the same costs more with IPI virtualization: the write is no longer intercepted, but exits "
    "when it is done (APIC write), which KVM handles more slowly (exit_apic_write and exit_msr_icr in the profile)."
)

LAST = {"lost-wakeup", "stall"}
"""Violations after which there is nothing to go on with; with any other a run goes on to its end."""

_MOST_KINDS = 5
_MOST_VCPUS = 4
_WIDE = 100

CLASSES = {
    "running": "posted for a vCPU on a pCPU",
    "preempted": "posted for a vCPU that waits for a pCPU",
    "blocked": "posted for a vCPU that sleeps",
    "exited": "sent with a VM exit",
    "self": "to itself",
    "device": "posted by a device or a timer",
}

# What Linux x86-64 uses its IPI vectors for: arch/x86/include/asm/irq_vectors.h.
_LINUX_VECTORS = {
    0xF6: "irq work",
    0xF8: "reboot",
    0xFB: "call function single",
    0xFC: "call function",
    0xFD: "reschedule",
}


def full(result: RunResult) -> RenderableType:
    """One recording: the verdict, then what became of the IPIs and why."""
    sections = [
        _verdict_with_file(result),
        *map(Text, what_ended(result)),
        *violations(result.violations),
        *_saved(result),
        section("What became of them", fates(result.counters)),
        section("VM exits by the clause that called for them", exits(result.exits)) if result.exits else None,
        section("Why they exit", *why(result)) if result.advice else None,
        section("What was posted, and notifications", *_received(result)),
        section(result.recording["identified_by"], *_vcpus(result)),
        section("What they were", _kinds(result), *_more_kinds(result)),
        section("Notes", *_notes(result)) if any(_notes(result)) else None,
        _timing(result),
    ]
    return Group(*(section for section in sections if section is not None))


def side_by_side(results: list[RunResult]) -> RenderableType:
    """Several recordings: one column each, then a sentence or two about each."""
    sentences = [
        Group(
            Text(),
            Text(f"{name}: ", style="bold").append_text(verdict(result)),
            *(indented(Text(line)) for line in what_ended(result)),
            *map(indented, why(result)),
            *violations(result.violations),
        )
        for name, result in zip(_names(results), results, strict=True)
    ]
    notes = list(_whose_notes(results))
    return Group(_comparison(results), *sentences, *([section("Notes", *notes)] if notes else []))


def verdict(result: RunResult) -> Text:
    """The answer in one line."""
    counts = result.counters
    fine = counts["virtualized"] + counts["self"]
    style = "bold green" if fine else "bold red"
    until_then = " that were sent until then" if _ended_early(result, "with") else ""
    which = f"{counts['total']} IPIs{until_then}"
    return Text(f"{fine} of {which} need no VM exit ({share(fine, counts['total'])})", style=style)


def what_ended(result: RunResult) -> Iterator[str]:
    """In virtual time: which of both runs a violation ended before the recording was over, and when."""
    kinds = ", ".join(sorted(LAST & {violation["kind"] for violation in result.violations})) or "a violation"
    if _ended_early(result, "with"):
        span = result.recording["span_seconds"]
        yield f"{kinds} ended the run after {result.seconds:.3f} of {span:.3f} s: all counts are up to there"
    elif _ended_early(result, "without"):
        yield f"{kinds} ended the run without IPI virtualization: what is saved is not known"


def _ended_early(result: RunResult, side: Literal["with", "without"]) -> bool:
    return result.comparison is not None and result.comparison[side]["unfinished"] > 0


def why(result: RunResult) -> Iterator[Text]:
    """For each thing in the way: how many IPIs, what stands against them, what to change, and what that wins."""
    total = result.counters["total"] + sum(item["calls"] for item in result.recording["hypercalls"])
    for found in result.advice:
        count, rule = found["count"], found["citation"].partition(" (")[0]
        hypercalls = " hypercalls" if found["of"] == "hypercalls" else ""
        line = Text(f"{count} of {total}{hypercalls} {predicate(count, found['what'])}: {rule} ")
        line.append(found["change"], style="cyan")
        if found["gain"]:
            line.append(f" {_won(found, total)}", style="green")
        if found["gain"] and found["caveat"]:
            line.append(f" ({found['caveat']})", style="dim")
        yield line


def _won(found: Remedy, total: int) -> str:
    gain, instead = found["gain"] or 0, found["sent_instead"] or 0
    more = "" if instead == gain else f", as {instead} {noun(instead, 'IPI')} to one processor{' each' * (instead > 1)}"
    which = f"{gain} of them" if gain < found["count"] else "all of them" if gain > 1 else "it"
    return f"Wins {share(gain, total)}: {which} {noun(gain, 'needs', 'need')} no exit then{more}."


def _verdict_with_file(result: RunResult) -> RenderableType:
    recording = result.recording
    count = len(recording["vcpus"])
    about = f"{recording['path']}: {recording['format']}, {recording['side']} side, {count} {noun(count, 'vCPU')}"
    return Group(verdict(result), Text(f"{about}, {recording['span_seconds']:.3f} s", style="dim"))


def what_cycles_count(saved: Saved) -> str:
    """What the figures beside each other are of, and why one can be dearer with IPI virtualization, if it is."""
    return _WHAT_CYCLES_COUNT + (_WHY_MORE if saved["cycles_per_ipi"] < 0 else "")


def _saved(result: RunResult) -> Iterator[RenderableType]:
    """Virtual time: with IPI virtualization beside without it, and how long interrupts took."""
    comparison = result.comparison
    if comparison is None or comparison["saved"] is None:
        return
    rows = table("", ">with", ">without", ">saved")
    for label, cells in _saved_rows(comparison, comparison["saved"]):
        rows.add_row(label, *cells)
    counted = Text(what_cycles_count(comparison["saved"]), style="dim")
    yield section("With IPI virtualization and without it", rows, counted)
    classes = table("", ">count", ">mean", ">p50", ">p90", ">p99", ">max", "")
    for of, side in (("with", comparison["with"]), ("without", comparison["without"])):
        label = of
        for name, what in CLASSES.items():
            if (row := side["latency"].get(name)) is not None:
                numbers = (str(row[key]) for key in ("p50", "p90", "p99", "max"))
                classes.add_row(label, str(row["count"]), f"{row['mean']:.0f}", *numbers, what)
                label = ""
    yield section("From send to delivery, in cycles", classes)


def _saved_rows(comparison: Comparison, saved: Saved) -> Iterator[tuple[str, list[str]]]:
    sides = (comparison["with"], comparison["without"])
    yield "VM exits", [f"{side['exits']:,}" for side in sides] + [f"{saved['exits']:,}"]
    yield "cycles in exits", [f"{side['exit_cycles']:,}" for side in sides] + [f"{saved['exit_cycles']:,}"]
    per_ipi = [*(side["cycles_per_ipi"] for side in sides), saved["cycles_per_ipi"]]
    yield "cycles to send an IPI", [f"{cycles:,.0f}" for cycles in per_ipi]
    yield "notifications", [f"{side['notifications']['sent']:,}" for side in sides] + [""]
    yield "times asleep", [f"{side['blocks']:,}" for side in sides] + [""]


def _kinds(result: RunResult) -> Table:
    """What was sent. Where columns are few, shares and decimal vectors go."""
    wide = width() >= _WIDE
    rows = table(">count", *([">share"] if wide else []), "APIC", ">vector", "sent as", "became", "Linux uses it for")
    for kind in result.kinds[:_MOST_KINDS]:
        shown = f"{kind['vector']:02X}H"
        rows.add_row(
            str(kind["count"]),
            *([_share_of_sent(kind, result)] if wide else []),
            kind["apic"],
            f"{kind['vector']} ({shown})" if wide else shown,
            _sent_as(kind),
            kind["fate"],
            _LINUX_VECTORS.get(kind["vector"], "") if kind["delivery_mode"] == "fixed" else "",
        )
    return rows


def _more_kinds(result: RunResult) -> Iterator[Text]:
    rest = result.kinds[_MOST_KINDS:]
    if rest:
        count = sum(kind["count"] for kind in rest)
        yield Text(f"and {count} of {len(rest)} more {noun(len(rest), 'kind')} (--json has all)", style="dim")


def _share_of_sent(kind: Kind, result: RunResult) -> str:
    return "" if kind["fate"] == "unsent" else share(kind["count"], result.counters["total"])


def _sent_as(kind: Kind) -> str:
    """The fields that tell kinds apart."""
    destination = kind["destination_mode"] if kind["shorthand"] == "none" else kind["shorthand"]
    return f"{kind['delivery_mode']}, {destination}{level(kind)}"


def level(kind: Kind) -> str:
    """The level behind other fields, where it is not the usual one, or is what the message is about."""
    return f", {kind['level']}" if kind["level"] == "assert" or kind["delivery_mode"] == "init" else ""


def _received(result: RunResult) -> Iterator[RenderableType]:
    counts = result.counters
    yield Text(
        f"{counts['delivered']} delivered, {counts['coalesced']} coalesced (the vector was already pending), "
        f"{counts['pending']} still pending"
    )
    yield notifications(result.notifications)


def _vcpus(result: RunResult) -> Iterator[RenderableType]:
    vcpus = result.recording["vcpus"]
    of_vm = [[vcpu for vcpu in vcpus if vcpu["vm"] == vm] for vm in sorted({vcpu["vm"] for vcpu in vcpus})]
    strips = [([vcpu["ipis_sent"] for vcpu in vm], [vcpu["received"] for vcpu in vm]) for vm in of_vm]
    yield from heat(strips, "received")
    if len(vcpus) <= _MOST_VCPUS:
        several = len(of_vm) > 1
        rows = table(">vCPU", ">APIC ID", ">thread", ">sent", ">no exit", ">received", "name")
        for vcpu in vcpus:
            name = f"{vcpu['vm']}.{vcpu['vcpu']}" if several else str(vcpu["vcpu"])
            thread = "" if vcpu["thread"] is None else str(vcpu["thread"])
            numbers = (str(vcpu[key]) for key in ("ipis_sent", "virtualized", "received"))
            rows.add_row(name, str(vcpu["apic_id"]), thread, *numbers, vcpu["name"])
        yield rows


def _whose_notes(results: list[RunResult]) -> Iterator[Text]:
    """The notes of several recordings: what all have in common is said once, the rest with whose it is."""
    whose: dict[str, list[str]] = {}
    for name, result in zip(_names(results), results, strict=True):
        for note in dict.fromkeys(note.plain for note in _notes(result)):
            whose.setdefault(note, []).append(name)
    for note, names in whose.items():
        yield Text(note if len(names) == len(results) else f"- {', '.join(names)}: {note.removeprefix('- ')}")


_MORE_EVENTS = ("kvm_hypercall", "kvm_apicv_inhibit_changed")
"""Events without which a recording does not tell all that keeps IPIs from being virtualized."""


def _notes(result: RunResult) -> Iterator[Text]:
    yield from (Text(f"- {note}") for note in result.recording["notes"])
    yield from (Text(f"- {skip['count']} skipped: {skip['reason']}") for skip in result.recording["skipped"])
    missing = [event for event in _MORE_EVENTS if event not in result.recording["records"]]
    if missing and result.recording["side"] == "host":
        yield Text(f"- no {' and no '.join(missing)}: there were none, or they were not recorded")


def _timing(result: RunResult) -> RenderableType:
    speed = f"{result.seconds:.3f} s, {result.ipis_per_second:,.0f} IPIs per second"
    if result.cycles is not None:
        how = f"ipivrs {result.version}, engine {result.engine}, policy {result.policy}, profile {result.profile}"
        return Group(Text(), Text(f"{how}: {result.cycles:,} cycles, {result.seconds:.3f} simulated s", style="dim"))
    how = f"ipivrs {result.version}, engine {result.engine}, pace {result.pace}"
    return Group(Text(), Text(f"{how}: {speed}", style="dim"))


def _comparison(results: list[RunResult]) -> Table:
    rows = table("", *(f">{name}" for name in _names(results)))
    for label, cells in _comparison_rows(results):
        rows.add_row(label, *cells)
    return rows


def _comparison_rows(results: list[RunResult]) -> Iterator[tuple[str, list[str]]]:
    counts = [result.counters for result in results]
    fine = [count["virtualized"] + count["self"] for count in counts]
    yield "IPIs", [str(count["total"]) for count in counts]
    yield "need no VM exit", list(map(str, fine))
    yield "share", [share(part, count["total"]) for part, count in zip(fine, counts, strict=True)]
    yield "delivered", [str(count["delivered"]) for count in counts]
    yield "coalesced", [str(count["coalesced"]) for count in counts]
    comparisons = [result.comparison for result in results]
    if all(comparison is not None for comparison in comparisons):
        saved = [comparison["saved"] for comparison in comparisons if comparison is not None]
        yield "VM exits saved", [f"{one['exits']:,}" if one else "-" for one in saved]
        yield "cycles in exits saved", [f"{one['exit_cycles']:,}" if one else "-" for one in saved]
        yield "cycles saved for each IPI", [f"{one['cycles_per_ipi']:,.0f}" if one else "-" for one in saved]
    exits = [_exits_by_condition(result) for result in results]
    for condition in dict.fromkeys(condition for one in exits for condition in one):
        yield f"exit: {condition}", [str(one.get(condition, 0)) for one in exits]


def _exits_by_condition(result: RunResult) -> dict[str, int]:
    """Exits by what a clause asks for, whichever section of the manual asks."""
    counts: dict[str, int] = {}
    for item in result.exits:
        condition = item["clause"].partition(": ")[2] or item["clause"]
        counts[condition] = counts.get(condition, 0) + item["count"]
    return counts


def _names(results: list[RunResult]) -> list[str]:
    """The shortest names that tell the files apart: without directory and extension, without directory, in full."""
    paths = [Path(result.recording["path"]) for result in results]
    for short in ([path.name.partition(".")[0] for path in paths], [path.name for path in paths]):
        if len(set(short)) == len(short):
            return short
    return list(map(str, paths))
