"""What a report says in words and numbers, of either kind of result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ipivrs import report, sections
from ipivrs.results import Exit, Kind, Latency, RunResult, Violation
from ipivrs.scenario_report import what_ended
from ipivrs.simulation import ScenarioResult
from ipivrs.wording import how_many, kinds, noun

_MOST_KINDS = 12
_MOST_VIOLATIONS = 100


@dataclass(frozen=True)
class Facts:
    """Of a result, all but its story.

    `origin` says how it was obtained, `fates` have name, count, share and meaning, `comparison` has a recording in
    virtual time with IPI virtualization, without it, and the difference, and `counted` says what of.
    """

    title: str
    kind: str
    verdict: str
    good: bool
    origin: Sequence[tuple[str, str]]
    fates: Sequence[tuple[str, int, str, str]]
    numbers: Sequence[tuple[str, str]]
    violations: Sequence[Violation]
    exits: Sequence[Exit]
    advice: Sequence[str] = ()
    kinds: Sequence[Kind] = ()
    latency: Mapping[str, Latency] = field(default_factory=dict)
    notes: Sequence[str] = ()
    why_no_story: str = ""
    comparison: Sequence[tuple[str, str, str, str]] = ()
    counted: str = ""
    vcpus: Sequence[tuple[str, str, str, str, str]] = ()

    def clause(self, one: Exit) -> tuple[str, str]:
        """The section of the manual, and what stands there in our words."""
        section, _, text = one["clause"].partition(": ")
        return section, text

    def share(self, one: Exit) -> str:
        """The share of an exit among all."""
        return sections.share(one["count"], sum(each["count"] for each in self.exits))


def facts_of(result: RunResult | ScenarioResult) -> Facts:
    """The facts of a result."""
    return _of_recording(result) if isinstance(result, RunResult) else _of_scenario(result)


def _of_recording(result: RunResult) -> Facts:
    recording, counts = result.recording, result.counters
    skipped = (f"{skip['count']} skipped: {skip['reason']}" for skip in recording["skipped"])
    vcpus = [
        (str(one["vcpu"]), str(one["apic_id"]), str(one["ipis_sent"]), str(one["virtualized"]), one["name"])
        for one in recording["vcpus"]
    ]
    return Facts(
        title=Path(recording["path"]).name,
        kind="recording",
        verdict="; ".join((report.verdict(result).plain, *report.what_ended(result))),
        good=not result.violations,
        origin=[
            ("file", recording["path"]),
            ("format", f"{recording['format']}, {recording['side']} side"),
            ("span", f"{recording['span_seconds']:.6f} s, {len(vcpus)} {noun(len(vcpus), 'vCPU')}"),
            ("engine", result.engine if result.pace is None else f"{result.engine}, pace {result.pace}"),
            *([("policy", result.policy)] if result.policy else []),
            *([("profile", result.profile)] if result.profile else []),
            ("version", f"ipivrs {result.version}"),
        ],
        fates=_fates(result),
        numbers=[
            ("delivered", f"{counts['delivered']:,}"),
            ("coalesced with one that was pending", f"{counts['coalesced']:,}"),
            ("still pending", f"{counts['pending']:,}"),
            *_notifications(result),
        ],
        violations=result.violations[:_MOST_VIOLATIONS],
        exits=result.exits,
        latency=result.latency,
        comparison=_comparison(result),
        advice=[line.plain for line in report.why(result)],
        kinds=result.kinds[:_MOST_KINDS],
        notes=[*recording["notes"], *skipped],
        vcpus=vcpus,
        counted=_counted(result),
    )


def _counted(result: RunResult) -> str:
    saved = result.comparison and result.comparison["saved"]
    return report.what_cycles_count(saved) if saved else ""


def _comparison(result: RunResult) -> list[tuple[str, str, str, str]]:
    """In virtual time: what there is, with IPI virtualization, without it, and what that saves."""
    if result.comparison is None or (saved := result.comparison["saved"]) is None:
        return []
    one, other = result.comparison["with"], result.comparison["without"]
    return [
        ("VM exits", f"{one['exits']:,}", f"{other['exits']:,}", f"{saved['exits']:,}"),
        ("cycles in exits", f"{one['exit_cycles']:,}", f"{other['exit_cycles']:,}", f"{saved['exit_cycles']:,}"),
        (
            "cycles to send an IPI, mean",
            f"{one['cycles_per_ipi']:,.0f}",
            f"{other['cycles_per_ipi']:,.0f}",
            f"{saved['cycles_per_ipi']:,.0f}",
        ),
    ]


def _of_scenario(result: ScenarioResult) -> Facts:
    counts, scheduling = result.counters, result.scheduling
    virtual = result.engine == "virtual-time"
    return Facts(
        title=result.title or "Scenario",
        kind="scenario",
        verdict=_verdict(result),
        good=not result.violations,
        origin=[
            ("engine", result.engine),
            ("seed", str(result.seed)),
            ("policy", result.policy),
            *([("profile", str(result.profile)), ("cycles", f"{result.cycles:,}")] if virtual else []),
            ("seconds", f"{result.seconds:.6f}{' simulated' if virtual else ''}"),
            ("version", f"ipivrs {result.version}"),
        ],
        fates=_fates(result),
        numbers=[
            ("posted by the hypervisor", f"{counts['software_posts']:,}"),
            ("posted by devices", f"{counts['device_posts']:,}"),
            ("delivered", f"{counts['delivered']:,}"),
            ("coalesced with one that was pending", f"{counts['coalesced']:,}"),
            ("gone with a local APIC that was reset", f"{counts['discarded']:,}"),
            ("still pending", f"{counts['pending']:,}"),
            *_notifications(result),
            ("VM entries", f"{scheduling['entries']:,}"),
            ("preemptions, migrations", f"{scheduling['preemptions']:,}, {scheduling['migrations']:,}"),
            ("sleeps, wake-ups", f"{scheduling['blocks']:,}, {scheduling['wakeups']:,}"),
        ],
        violations=result.violations[:_MOST_VIOLATIONS],
        exits=result.exits,
        latency=result.latency,
        why_no_story=_why_no_story(result),
    )


def _why_no_story(result: ScenarioResult) -> str:
    if result.engine == "threads":
        return (
            "The threads engine keeps no log of events, so there is no timeline, nothing over time, and no matrix of "
            "who interrupts whom. Run the scenario with --engine virtual-time to have them."
        )
    return "No events were kept: run the scenario with log=1_000_000, or with --report or --perfetto."


def _verdict(result: ScenarioResult) -> str:
    counts = result.counters
    partial = "; partial, the run was interrupted" if result.partial else ""
    if result.violations:
        many = how_many(result.violations)
        ended = "".join(f"; {line}" for line in what_ended(result))
        return f"{many:,} {noun(many, 'violation')}: {kinds(result.violations)}{ended}{partial}"
    fine = counts["virtualized"] + counts["self"]
    share = f"; {fine:,} of {counts['total']:,} IPIs need no VM exit ({sections.share(fine, counts['total'])})"
    balance = f"No violations: {counts['posted']:,} {noun(counts['posted'], 'interrupt')} posted, all accounted for"
    return f"{balance}{share if counts['total'] else ''}{partial}"


def _fates(result: RunResult | ScenarioResult) -> list[tuple[str, int, str, str]]:
    counts: Mapping[str, int] = cast("Mapping[str, int]", result.counters)
    total = counts["total"]
    rows = ((fate, counts[fate], meaning) for fate, meaning in sections.FATES.items())
    return [(fate, count, sections.share(count, total), meaning) for fate, count, meaning in rows if count]


def _notifications(result: RunResult | ScenarioResult) -> list[tuple[str, str]]:
    notices = result.notifications
    return [
        ("notifications sent", f"{notices['sent']:,}"),
        ("not needed, ON was 1", f"{notices['coalesced']:,}"),
        ("suppressed, SN was 1", f"{notices['suppressed']:,}"),
        ("with nothing left to do", f"{notices['spurious']:,}"),
    ]
