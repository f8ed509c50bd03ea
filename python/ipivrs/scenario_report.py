"""The report of a scenario for people."""

from collections.abc import Iterator
from typing import cast

from rich.console import Group, RenderableType
from rich.text import Text

from ipivrs.report import CLASSES, FATES, section, share, table
from ipivrs.simulation import ScenarioResult

_MOST_EXITS = 12


def full(result: ScenarioResult) -> RenderableType:
    """The verdict, then what became of the interrupts, and what the host did."""
    sections = [
        _verdict(result),
        *_violations(result),
        section("What became of the IPIs", _fates(result)) if result.counters["total"] else None,
        section("Interrupts posted for vCPUs", *_posts(result)),
        section("VM exits by the clause that called for them", _exits(result)) if result.exits else None,
        section("From send to delivery, in cycles", _latency(result)) if result.latency else None,
        section("The host", *_host(result)),
        _timing(result),
    ]
    return Group(*(part for part in sections if part is not None))


def _verdict(result: ScenarioResult) -> RenderableType:
    counts = result.counters
    fine = counts["virtualized"] + counts["self"]
    lines = [Text(result.title, style="dim")] if result.title else []
    if result.violations:
        kinds = ", ".join(dict.fromkeys(violation["kind"] for violation in result.violations))
        lines.insert(0, Text(f"{len(result.violations)} violations: {kinds}", style="bold red"))
    else:
        partial = "; partial, the run was interrupted" if result.partial else ""
        balance = f"{counts['posted']} interrupts posted, all accounted for{partial}"
        lines.insert(0, Text(f"no violations: {balance}", style="bold green"))
    if counts["total"]:
        lines.append(Text(f"{fine} of {counts['total']} IPIs need no VM exit ({share(fine, counts['total'])})"))
    return Group(*lines)


def _violations(result: ScenarioResult) -> Iterator[RenderableType]:
    if result.violations:
        yield section(
            f"Violations: {len(result.violations)}",
            *(Text(f"{violation['kind']}: {violation['message']}", style="red") for violation in result.violations),
        )


def _fates(result: ScenarioResult) -> RenderableType:
    counts = cast("dict[str, int]", result.counters)
    rows = table(">", ">", "", "")
    rows.show_header = False
    for fate, meaning in FATES.items():
        if counts[fate]:
            rows.add_row(str(counts[fate]), share(counts[fate], counts["total"]), fate, meaning)
    return rows


def _posts(result: ScenarioResult) -> Iterator[Text]:
    counts, notices = result.counters, result.notifications
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
    yield Text(
        f"{notices['sent']} notifications sent, {notices['coalesced']} not needed (ON was 1), "
        f"{notices['suppressed']} suppressed (SN was 1), {notices['spurious']} with nothing left to do"
    )
    if counts["signalled"] or counts["dropped"]:
        yield Text(
            f"{counts['signalled']} NMIs, INITs, start-up IPIs and the like handed over, "
            f"{counts['dropped']} messages without a destination"
        )


def _exits(result: ScenarioResult) -> RenderableType:
    rows = table(">count", "reason", "qualification", "clause")
    for item in result.exits[:_MOST_EXITS]:
        qualification = f"{item['qualification']:X}H"
        rows.add_row(str(item["count"]), f"{item['reason']} {item['name']}", qualification, item["clause"])
    rest = result.exits[_MOST_EXITS:]
    if rest:
        rows.add_row(str(sum(item["count"] for item in rest)), "", "", f"{len(rest)} more (--json has all)")
    return rows


def _host(result: ScenarioResult) -> Iterator[Text]:
    did = result.scheduling
    yield Text(
        f"{did['entries']} VM entries, {did['preemptions']} preemptions, {did['migrations']} migrations; "
        f"vCPUs slept {did['blocks']} times and were woken {did['wakeups']} times, "
        f"{did['spurious_wakeups']} times for nothing"
    )
    if did["apicv_changes"]:
        yield Text(f"APICv of a vCPU went on or off {did['apicv_changes']} times")
    for number, vm in enumerate(result.vms):
        ipiv = "IPI virtualization" if vm["ipi_virtualization"] else "no IPI virtualization"
        inhibits = f", APICv inhibited: {', '.join(vm['inhibits'])}" if vm["inhibits"] else ""
        size = vm["table"]
        yield Text(
            f"VM {number}: {vm['vcpus']} vCPUs, {ipiv}{inhibits}; PID-pointer table of {size['entries']} entries, "
            f"order {size['order']} ({size['bytes']} bytes), last index {vm['last_index']}"
        )
    if result.as_dict()["unfinished"]:
        yield Text(
            f"{result.as_dict()['unfinished']} programs did not come to their end: "
            "their time was over, or they sleep and nobody sends"
        )


def _latency(result: ScenarioResult) -> RenderableType:
    rows = table(">count", ">mean", ">p50", ">p99", ">max", "")
    for name, what in CLASSES.items():
        if (row := result.latency.get(name)) is not None:
            numbers = (str(row["count"]), f"{row['mean']:.0f}", str(row["p50"]), str(row["p99"]), str(row["max"]))
            rows.add_row(*numbers, what)
    return rows


def _timing(result: ScenarioResult) -> RenderableType:
    values = result.as_dict()
    how = f"ipivrs {values['version']}, engine {values['engine']}, policy {values['policy']}, seed {values['seed']}"
    speed = f"{result.seconds:.3f} s, {result.ipis_per_second:,.0f} IPIs per second"
    if result.cycles is not None:
        how = f"{how}, profile {result.profile}"
        speed = f"{result.cycles:,} cycles, {result.seconds * 1e3:.3f} simulated ms"
    return Group(Text(), Text(f"{how}: {speed}", style="dim"))
