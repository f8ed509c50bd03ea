"""What notebooks show of a result: a few lines of HTML, without scripts and styles of their own, everything escaped."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from ipivrs.wording import how_many, noun

if TYPE_CHECKING:
    from ipivrs.laboratory import CheckResult
    from ipivrs.results import Exit, Latency, RunResult, Violation
    from ipivrs.simulation import ScenarioResult
    from ipivrs.sweeping import SweepResult

_FATES = ("virtualized", "self", "exited", "faulted", "escaped", "wild")
_POSTS = ("posted", "delivered", "coalesced", "discarded", "pending")
_MOST_ROWS = 8
_WIDTH = 110


def run(result: "RunResult") -> str:
    """A recording: the answer, what became of the IPIs, and the clauses that called for exits."""
    from ipivrs.report import verdict, what_ended  # noqa: PLC0415 (it knows the results)

    counts, vcpus = result.counters, len(result.recording["vcpus"])
    parts = [
        _head(verdict(result).plain),
        _line(f"{result.recording['path']}: {result.recording['format']}, {vcpus} {noun(vcpus, 'vCPU')}"),
        *map(_line, what_ended(result)),
        _violations(result.violations),
        _shares("became", counts, _FATES),
        _exits(result.exits),
        _saved(result),
        _latency(result.latency),
    ]
    return _whole(parts)


def scenario(result: "ScenarioResult") -> str:
    """A scenario: whether the accounts balance, what became of the interrupts, how long they took."""
    counts = result.counters
    fine = f"no violations: {counts['posted']} {noun(counts['posted'], 'interrupt')} posted, all accounted for"
    many = how_many(result.violations)
    parts = [
        _head(f"{many} {noun(many, 'violation')}" if many else fine),
        _line(f"{result.title or 'untitled'}: engine {result.engine}, policy {result.policy}"),
        _line("partial: the run was interrupted") if result.partial else "",
        _violations(result.violations),
        _shares("became", counts, _FATES),
        _counts("posted for vCPUs", counts, _POSTS),
        _exits(result.exits),
        _latency(result.latency),
    ]
    return _whole(parts)


def check(result: "CheckResult") -> str:
    """A check: the verdict, and the counterexample as the shell draws it."""
    from rich.console import Console  # noqa: PLC0415 (not for those who look at nothing)

    from ipivrs import check_report  # noqa: PLC0415 (it knows the results)

    console = Console(width=_WIDTH, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(check_report.full(result, _WIDTH))
    verdict, _, rest = captured.get().strip("\n").partition("\n")
    return _whole([_head(verdict), f"<pre>{escape(rest)}</pre>"])


def sweep(result: "SweepResult") -> str:
    """A sweep: how far it is, and its first rows; the fields that vary come first, so the first columns do."""
    columns = result.columns[:_MOST_ROWS]
    faults = f"{len(result.errors)} {noun(len(result.errors), 'error')}, {len(result.violations)} with violations"
    more = f"{len(result.rows)} {noun(len(result.rows), 'row')}, {len(result.columns)} columns in {result.out}"
    rows = [[_cell(row[name]) for name in columns] for row in result.rows[:_MOST_ROWS]]
    parts = [
        _head(f"{len(result.rows)} of {result.points} points, {faults}"),
        _line(result.title),
        _table(columns, rows) if rows else "",
        _line(more),
    ]
    return _whole(parts)


def _whole(parts: Iterable[str]) -> str:
    return f"<div>{''.join(parts)}</div>"


def _head(text: str) -> str:
    return f"<p><strong>{escape(text)}</strong></p>"


def _line(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) and value is not True else str(value)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shares(what: str, counts: Mapping[str, object], names: Iterable[str]) -> str:
    total = int(str(counts["total"]))
    numbers = {name: int(str(counts[name])) for name in names}
    rows = [[name, f"{number:,}", f"{number / total:.1%}"] for name, number in numbers.items() if number]
    return _table([what, "IPIs", "share"], rows) if rows else ""


def _counts(what: str, counts: Mapping[str, object], names: Iterable[str]) -> str:
    rows = [[name, _cell(counts[name])] for name in names if counts[name]]
    return _table([what, "interrupts"], rows) if rows else ""


def _exits(exits: "list[Exit]") -> str:
    rows = [[_cell(item["count"]), f"{item['reason']} {item['name']}", item["clause"]] for item in exits[:_MOST_ROWS]]
    return _table(["VM exits", "reason", "clause"], rows) if rows else ""


def _saved(result: "RunResult") -> str:
    saved = None if result.comparison is None else result.comparison["saved"]
    if saved is None:
        return ""
    exits = f"{saved['exits']:,} VM {noun(saved['exits'], 'exit')}"
    return _line(f"IPI virtualization saves {exits} and {saved['exit_cycles']:,} cycles in exits")


def _latency(latency: "Mapping[str, Latency]") -> str:
    rows = [
        [name, _cell(found["count"]), _cell(found["p50"]), _cell(found["p99"])]
        for name, found in latency.items()
        if found["count"]
    ]
    return _table(["from send to delivery", "interrupts", "p50, cycles", "p99, cycles"], rows) if rows else ""


def _violations(violations: "list[Violation]") -> str:
    return "".join(_line(f"{violation['kind']}: {violation['message']}") for violation in violations[:_MOST_ROWS])
