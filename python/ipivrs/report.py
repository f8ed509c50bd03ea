"""The report of `ipivrs run` for people: one recording in full, or several side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ipivrs.advice import IN_THE_FIELDS, SWITCHED_OFF, Advice, advice
from ipivrs.results import Comparison, Kind, RunResult

_MOST_KINDS = 8
_MOST_VCPUS = 16

FATES = {
    "virtualized": "no exit: posted in the target's descriptor",
    "self": "no exit: self-IPI virtualization",
    "exited": "the hypervisor takes over",
    "faulted": "#GP in the guest",
    "escaped": "reached the physical local APIC",
    "wild": "led to memory that is not the processor's to touch",
}

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
        *_violations(result),
        *_saved(result),
        section("What became of them", _fates(result)),
        section("VM exits by the clause that called for them", _exits(result)) if result.exits else None,
        section("What they were", _kinds(result)),
        section("Why they exit", *why(result)) if _needing_exit(result) else None,
        section("Posted vectors", *_posts(result)),
        section(result.recording["identified_by"], *_vcpus(result)),
        section("Notes", *_notes(result)) if result.recording["notes"] or result.recording["skipped"] else None,
        _timing(result),
    ]
    return Group(*(section for section in sections if section is not None))


def side_by_side(results: list[RunResult]) -> RenderableType:
    """Several recordings: one column each, then a sentence or two about each."""
    sentences = [
        Group(
            Text(),
            Text(f"{name}: ", style="bold").append_text(verdict(result)),
            *map(_indented, why(result)),
            *_violations(result),
        )
        for name, result in zip(_names(results), results, strict=True)
    ]
    # What several recordings have in common is said once.
    notes = dict.fromkeys(note.plain for result in results for note in _notes(result))
    return Group(_comparison(results), *sentences, *([section("Notes", *map(Text, notes))] if notes else []))


def verdict(result: RunResult) -> Text:
    """The answer in one line."""
    counts = result.counters
    fine = counts["virtualized"] + counts["self"]
    style = "bold green" if fine else "bold red"
    return Text(f"{fine} of {counts['total']} IPIs need no VM exit ({share(fine, counts['total'])})", style=style)


def why(result: RunResult) -> Iterator[Text]:
    """For each reason to exit: how many, what stands against them, and what to change. Most frequent first."""
    total = result.counters["total"]
    reasons: dict[Advice | str, int] = {}
    for kind in _needing_exit(result):
        key = _reason(kind) or kind["clause"] or kind["fate"]
        reasons[key] = reasons.get(key, 0) + kind["count"]
    for key, count in sorted(reasons.items(), key=lambda item: -item[1]):
        what = f"{key.what}: {key}" if isinstance(key, Advice) else f"are decided by {key}."
        yield Text(f"{count} of {total} {what}")


def _reason(kind: Kind) -> Advice | None:
    if kind["condition"] in ("control", "msr-bitmap"):
        return SWITCHED_OFF
    if kind["condition"] in IN_THE_FIELDS:
        return advice(kind["apic"], kind["delivery_mode"], kind["destination_mode"], kind["shorthand"])
    return None


def _needing_exit(result: RunResult) -> list[Kind]:
    return [kind for kind in result.kinds if kind["fate"] not in ("virtualized", "self")]


def _verdict_with_file(result: RunResult) -> RenderableType:
    recording = result.recording
    count = len(recording["vcpus"])
    about = f"{recording['path']}: {recording['format']}, {recording['side']} side, {count} vCPUs"
    return Group(verdict(result), Text(f"{about}, {recording['span_seconds']:.3f} s", style="dim"))


def _saved(result: RunResult) -> Iterator[RenderableType]:
    """Virtual time: with IPI virtualization beside without it, and how long interrupts took."""
    comparison = result.comparison
    if comparison is None:
        return
    rows = table("", ">with", ">without", ">saved")
    for label, cells in _saved_rows(comparison):
        rows.add_row(label, *cells)
    yield section("With IPI virtualization and without it", rows)
    classes = table("", ">count", ">mean", ">p50", ">p90", ">p99", ">max", "")
    for of, side in (("with", comparison["with"]), ("without", comparison["without"])):
        label = of
        for name, what in CLASSES.items():
            if (row := side["latency"].get(name)) is not None:
                numbers = (str(row[key]) for key in ("p50", "p90", "p99", "max"))
                classes.add_row(label, str(row["count"]), f"{row['mean']:.0f}", *numbers, what)
                label = ""
    yield section("From send to delivery, in cycles", classes)


def _saved_rows(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    saved, sides = comparison["saved"], (comparison["with"], comparison["without"])
    yield "VM exits", [f"{side['exits']:,}" for side in sides] + [f"{saved['exits']:,}"]
    yield "cycles in exits", [f"{side['exit_cycles']:,}" for side in sides] + [f"{saved['exit_cycles']:,}"]
    per_ipi = [*(side["cycles_per_ipi"] for side in sides), saved["cycles_per_ipi"]]
    yield "cycles to send an IPI", [f"{cycles:,.0f}" for cycles in per_ipi]
    yield "notifications", [f"{side['notifications']['sent']:,}" for side in sides] + [""]
    yield "times asleep", [f"{side['blocks']:,}" for side in sides] + [""]


def _violations(result: RunResult) -> Iterator[RenderableType]:
    if result.violations:
        lines = (f"{violation['kind']}: {violation['message']}" for violation in result.violations)
        yield section(f"Violations: {len(result.violations)}", *(Text(line, style="red") for line in lines))


def _fates(result: RunResult) -> Table:
    counts = cast("dict[str, int]", result.counters)
    rows = table(">", ">", "", "")
    rows.show_header = False
    for fate, meaning in FATES.items():
        if counts[fate]:
            rows.add_row(str(counts[fate]), share(counts[fate], counts["total"]), fate, meaning)
    return rows


def _exits(result: RunResult) -> Table:
    rows = table(">count", "reason", "qualification", "clause")
    for item in result.exits:
        qualification = f"{item['qualification']:X}H"
        rows.add_row(str(item["count"]), f"{item['reason']} {item['name']}", qualification, item["clause"])
    return rows


def _kinds(result: RunResult) -> Table:
    rows = table(">count", ">share", "APIC", ">vector", "sent as", "became", "Linux uses it for")
    for kind in result.kinds[:_MOST_KINDS]:
        rows.add_row(
            str(kind["count"]),
            share(kind["count"], result.counters["total"]),
            kind["apic"],
            f"{kind['vector']} ({kind['vector']:X}H)",
            _sent_as(kind),
            kind["fate"],
            _LINUX_VECTORS.get(kind["vector"], "") if kind["delivery_mode"] == "fixed" else "",
        )
    rest = result.kinds[_MOST_KINDS:]
    if rest:
        rows.add_row(str(sum(kind["count"] for kind in rest)), "", "", "", f"{len(rest)} more kinds (--json has all)")
    return rows


def _sent_as(kind: Kind) -> str:
    """The fields that tell kinds apart; the level where it is not the usual one, or is what the message is about."""
    destination = kind["destination_mode"] if kind["shorthand"] == "none" else kind["shorthand"]
    says_level = kind["level"] == "assert" or kind["delivery_mode"] == "init"
    return ", ".join([kind["delivery_mode"], destination, *([kind["level"]] if says_level else [])])


def _posts(result: RunResult) -> Iterator[Text]:
    counts, notices = result.counters, result.notifications
    yield Text(
        f"{counts['delivered']} delivered, {counts['coalesced']} coalesced (the vector was already pending), "
        f"{counts['pending']} still pending"
    )
    yield Text(
        f"{notices['sent']} notifications sent, {notices['coalesced']} not needed (ON was 1), "
        f"{notices['suppressed']} suppressed (SN was 1), {notices['spurious']} with nothing left to do"
    )


def _vcpus(result: RunResult) -> Iterator[RenderableType]:
    vcpus = result.recording["vcpus"]
    several = len({vcpu["vm"] for vcpu in vcpus}) > 1
    rows = table(">vCPU", ">APIC ID", ">thread", ">IPIs sent", ">virtualized", "name")
    for vcpu in vcpus[:_MOST_VCPUS]:
        name = f"{vcpu['vm']}.{vcpu['vcpu']}" if several else str(vcpu["vcpu"])
        thread = "" if vcpu["thread"] is None else str(vcpu["thread"])
        numbers = (str(vcpu["ipis_sent"]), str(vcpu["virtualized"]))
        rows.add_row(name, str(vcpu["apic_id"]), thread, *numbers, vcpu["name"])
    yield rows
    if len(vcpus) > _MOST_VCPUS:
        yield Text(f"and {len(vcpus) - _MOST_VCPUS} more (--json has all)")


def _notes(result: RunResult) -> Iterator[Text]:
    yield from (Text(f"- {note}") for note in result.recording["notes"])
    yield from (Text(f"- {skip['count']} skipped: {skip['reason']}") for skip in result.recording["skipped"])


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
        yield "VM exits saved", [f"{one['exits']:,}" for one in saved]
        yield "cycles in exits saved", [f"{one['exit_cycles']:,}" for one in saved]
        yield "cycles saved for each IPI", [f"{one['cycles_per_ipi']:,.0f}" for one in saved]
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


def table(*headers: str) -> Table:
    """A table without lines; headers that begin with ">" are of columns set flush right. Long cells fold."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in headers:
        justify: Literal["left", "right"] = "right" if header.startswith(">") else "left"
        table.add_column(header.removeprefix(">"), justify=justify, overflow="fold")
    return table


def section(title: str, *parts: RenderableType) -> RenderableType:
    """A title and, indented, what belongs to it."""
    return Group(Text(), Text(title, style="bold"), *map(_indented, parts))


def _indented(part: RenderableType) -> RenderableType:
    return Padding(part, (0, 0, 0, 2), expand=False)


def share(part: int, total: int) -> str:
    """A percentage that says 100 or 0 only when it is all or none."""
    if total == 0:
        return "-"
    percent = 100 * part / total
    if 0 < part < total:
        percent = min(max(percent, 0.1), 99.9)
    return f"{percent:.1f} %"
