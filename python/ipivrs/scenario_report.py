"""The report of a scenario for people."""

from collections.abc import Iterator
from typing import Literal

from rich.console import Group, RenderableType
from rich.text import Text

from ipivrs.report import CLASSES, LAST
from ipivrs.sections import exits, fates, heat, notifications, section, share, table, violations
from ipivrs.simulation import ScenarioResult
from ipivrs.wording import how_many, kinds, noun, times


def full(result: ScenarioResult) -> RenderableType:
    """The verdict, then what became of the interrupts, and what the host did."""
    sections = [
        _verdict(result),
        *violations(result.violations),
        section("What became of the IPIs", fates(result.counters)) if result.counters["total"] else None,
        section("VM exits by the clause that called for them", exits(result.exits)) if result.exits else None,
        section("Interrupts posted for vCPUs", *_posts(result)),
        section("Notifications", notifications(result.notifications)),
        section("From send to delivery, in cycles", _latency(result)) if result.latency else None,
        section("Each vCPU", *heat([(vm["sent"], vm["delivered"]) for vm in result.vms], "delivered")),
        section("The host", *_host(result)),
        _timing(result),
    ]
    return Group(*(part for part in sections if part is not None))


def _verdict(result: ScenarioResult) -> RenderableType:
    counts = result.counters
    fine = counts["virtualized"] + counts["self"]
    lines = [Text(result.title, style="dim")] if result.title else []
    if result.violations:
        many = how_many(result.violations)
        head = f"{many:,} {noun(many, 'violation')}: {kinds(result.violations)}"
        lines.insert(0, Text(head, style="bold red"))
        lines += [Text(line) for line in what_ended(result)]
    else:
        partial = "; partial, the run was interrupted" if result.partial else ""
        balance = f"{counts['posted']} {noun(counts['posted'], 'interrupt')} posted, all accounted for{partial}"
        lines.insert(0, Text(f"no violations: {balance}", style="bold green"))
    if counts["total"]:
        lines.append(Text(f"{fine} of {counts['total']} IPIs need no VM exit ({share(fine, counts['total'])})"))
    return Group(*lines)


def what_ended(result: ScenarioResult) -> Iterator[str]:
    """A violation after which there is nothing to go on with."""
    for kind in LAST & {violation["kind"] for violation in result.violations}:
        yield f"{kind} ended the run: all counts are up to there"


def _posts(result: ScenarioResult) -> Iterator[Text]:
    counts = result.counters
    by_hardware = counts["virtualized"] + counts["self"]
    yield Text(
        f"{counts['posted']} posted: {by_hardware} by the processor, {counts['software_posts']} by the hypervisor, "
        f"{counts['device_posts']} by devices"
    )
    lost = f", {counts['discarded']} gone with a local APIC that was reset" if counts["discarded"] else ""
    yield Text(
        f"{counts['delivered']} delivered, {counts['coalesced']} coalesced (the vector was already pending), "
        f"{counts['pending']} still pending{lost}"
    )
    if counts["signalled"] or counts["dropped"]:
        yield Text(
            f"{counts['signalled']} NMIs, INITs, start-up IPIs and the like handed over, "
            f"{counts['dropped']} {noun(counts['dropped'], 'message')} without a destination"
        )


def _host(result: ScenarioResult) -> Iterator[Text]:
    did = result.scheduling
    yield Text(
        f"{did['entries']} VM {noun(did['entries'], 'entry', 'entries')}, "
        f"{did['preemptions']} {noun(did['preemptions'], 'preemption')}, "
        f"{did['migrations']} {noun(did['migrations'], 'migration')}; "
        f"vCPUs slept {times(did['blocks'])} and were woken {times(did['wakeups'])}, "
        f"{times(did['spurious_wakeups'])} for nothing"
    )
    if did["apicv_changes"]:
        yield Text(f"APICv of a vCPU went on or off {times(did['apicv_changes'])}")
    for number, vm in enumerate(result.vms):
        ipiv = "IPI virtualization" if vm["ipi_virtualization"] else "no IPI virtualization"
        inhibits = f", APICv inhibited: {', '.join(vm['inhibits'])}" if vm["inhibits"] else ""
        size = vm["table"]
        yield Text(
            f"VM {number}: {vm['vcpus']} {noun(vm['vcpus'], 'vCPU')}, {ipiv}{inhibits}; PID-pointer table of "
            f"{size['entries']} {noun(size['entries'], 'entry', 'entries')}, "
            f"order {size['order']} ({size['bytes']} bytes), last index {vm['last_index']}"
        )
    if unfinished := result.as_dict()["unfinished"]:
        who, whose = (
            ("program did not come to its", "its time was over, or what it waits for")
            if unfinished == 1
            else ("programs did not come to their", "their time was over, or what they wait for")
        )
        yield Text(f"{unfinished} {who} end: {whose} did not come")


_QUANTILES: tuple[Literal["p50", "p90", "p99", "max"], ...] = ("p50", "p90", "p99", "max")


def _latency(result: ScenarioResult) -> RenderableType:
    rows = table(">count", ">mean", ">p50", ">p90", ">p99", ">max", "")
    for name, what in CLASSES.items():
        if (row := result.latency.get(name)) is not None:
            quantiles = (str(row[key]) for key in _QUANTILES)
            rows.add_row(str(row["count"]), f"{row['mean']:.0f}", *quantiles, what)
    return rows


def _timing(result: ScenarioResult) -> RenderableType:
    values = result.as_dict()
    how = f"ipivrs {values['version']}, engine {values['engine']}, policy {values['policy']}, seed {values['seed']}"
    speed = f"{result.seconds:.3f} s, {result.ipis_per_second:,.0f} IPIs per second"
    if result.cycles is not None:
        how = f"{how}, profile {result.profile}"
        speed = f"{result.cycles:,} cycles, {result.seconds * 1e3:.3f} simulated ms"
    return Group(Text(), Text(f"{how}: {speed}", style="dim"))
