"""Parts that the reports of recordings and of scenarios have in common."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ipivrs.heat import bar, strip
from ipivrs.results import Exit, Notifications, Violation
from ipivrs.terminal import width
from ipivrs.wording import noun

FATES = {
    "virtualized": "no exit: posted in the target's descriptor",
    "self": "no exit: self-IPI virtualization",
    "exited": "the hypervisor takes over",
    "faulted": "#GP in the guest",
    "escaped": "reached the physical local APIC",
    "wild": "led to memory that is not the processor's to touch",
}

_STYLES = {"virtualized": "green", "self": "green", "exited": "yellow"}
_MOST_EXITS = 6
_WIDE = 110
_MOST_STRIPS = 4
_LABEL = 12
_GAPS = 4
_FEWEST_CELLS = 8
_FEWEST_COLUMNS = 40

# Where the message of a violation goes on with something else: a descriptor, a vCPU, its last events.
_PARTS = re.compile(
    r" (?=\(ON=)"
    r"|(?<=\.) (?=(?:vCPU \d+(?: of VM \d+)?|Its last events): )"
    r"|(?<=NV=[0-9A-F]{2}H;) "
    r"|\n *"
)


def table(*headers: str) -> Table:
    """A table without lines; headers that begin with ">" are of columns set flush right. Long cells fold."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in headers:
        justify: Literal["left", "right"] = "right" if header.startswith(">") else "left"
        table.add_column(header.removeprefix(">"), justify=justify, overflow="fold")
    return table


def section(title: str, *parts: RenderableType) -> RenderableType:
    """A title and, indented, what belongs to it."""
    return Group(Text(), Text(title, style="bold"), *map(indented, parts))


def indented(part: RenderableType) -> RenderableType:
    """A part of a section."""
    return Padding(part, (0, 0, 0, 2), expand=False)


def violations(found: Sequence[Violation]) -> Iterator[RenderableType]:
    """The violations: what and where, and below it the state and the last events of each vCPU that is in it."""
    if not found:
        return
    columns = max(width() - 2, _FEWEST_COLUMNS)
    lines: list[Text] = []
    whole = True
    for violation in found:
        head, *rest = _PARTS.split(f"{violation['kind']}: {violation['message']}")
        whole = whole and not rest
        lines += (Text(line, style="red") for line in _wrapped(head, columns, ""))
        lines += (Text(line) for part in rest for line in _wrapped(part, columns, "  "))
    below = "" if whole else "; below each the state, and the last events of the vCPUs in it, oldest first"
    yield section(f"Violations: {len(found)}{below}", *lines)


def _wrapped(text: str, columns: int, indent: str) -> list[str]:
    """Lines of so many columns, those after the first further in; no word is cut."""
    return textwrap.wrap(
        text,
        columns,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def share(part: int, total: int) -> str:
    """A percentage that says 100 or 0 only when it is all or none."""
    if total == 0:
        return "-"
    percent = 100 * part / total
    if 0 < part < total:
        percent = min(max(percent, 0.1), 99.9)
    return f"{percent:.1f} %"


def fates(counters: Mapping[str, object]) -> Table:
    """What became of the IPIs, with shares."""
    counts = cast("Mapping[str, int]", counters)
    drawn = {fate: bar(counts[fate], counts["total"]) for fate in FATES}
    has_bars = any(drawn.values())
    rows = table(">", ">", *([""] if has_bars else []), "", "")
    rows.show_header = False
    for fate, meaning in FATES.items():
        if counts[fate]:
            style = _STYLES.get(fate, "red")
            bars = [Text(drawn[fate], style=style)] if has_bars else []
            rows.add_row(str(counts[fate]), share(counts[fate], counts["total"]), *bars, Text(fate, style), meaning)
    return rows


def exits(found: Sequence[Exit]) -> Table:
    """VM exits, the most frequent first: how many, which, and by which clause."""
    rows = table(">count", "exit", "clause")
    narrow = width() < _WIDE
    for item in found[:_MOST_EXITS]:
        at = f", {item['qualification']:X}H" if item["qualification"] else ""
        clause = without_title(item["clause"]) if narrow else item["clause"]
        rows.add_row(str(item["count"]), f"{item['reason']} {item['name']}{at}", clause)
    rest = found[_MOST_EXITS:]
    if rest:
        kinds = f"{len(rest)} more {noun(len(rest), 'kind')} (--json has all)"
        rows.add_row(str(sum(item["count"] for item in rest)), "", kinds)
    return rows


def without_title(clause: str) -> str:
    """A clause with the number of its section, but not the title."""
    where, colon, text = clause.partition(": ")
    number = " ".join(where.split()[:2])
    return f"{number}{colon}{text}" if colon else clause


def notifications(notices: Notifications) -> Table:
    """What became of the notifications, in a line."""
    rows = table(">sent", ">coalesced (ON was 1)", ">suppressed (SN was 1)", ">spurious (PIR empty)")
    rows.add_row(*(str(notices[name]) for name in ("sent", "coalesced", "suppressed", "spurious")))
    return rows


def heat(vms: Sequence[tuple[Sequence[int], Sequence[int]]], received: str) -> Iterator[RenderableType]:
    """For each VM who sends, and who receives, how much: a cell for each vCPU, or for several."""
    for number, (sent, got) in enumerate(vms[:_MOST_STRIPS]):
        rows = Table(box=None, pad_edge=False, show_header=False)
        vm = f"VM {number} " if len(vms) > 1 else ""
        # The two have a cell for the same vCPUs.
        rest = max(len(_scale(values, len(values))) for values in (sent, got))
        for name, values, style in ((f"{vm}sent", sent, "cyan"), (f"{vm}{received}", got, "magenta")):
            cells = strip(values, max(width() - _LABEL - _GAPS - rest, _FEWEST_CELLS))
            label = Text(name.ljust(_LABEL), no_wrap=True)
            rows.add_row(label, Text(cells.cells, style), Text(_scale(values, cells.per_cell), style="dim"))
        yield rows
    if len(vms) > _MOST_STRIPS:
        more = len(vms) - _MOST_STRIPS
        yield Text(f"and {more} more {noun(more, 'VM')} (--json has all)", style="dim")
    if len({max(values, default=0) for vm in vms[:_MOST_STRIPS] for values in vm} - {0}) > 1:
        yield Text("each row is to a scale of its own: a full cell is the most in it", style="dim")


def _scale(values: Sequence[int], per_cell: int) -> str:
    """What the cells are in numbers."""
    if not any(values):
        return "none"
    most = max(values)
    shared = f", {per_cell} vCPUs a cell" if per_cell > 1 else ""
    return f"at most {most} (vCPU {values.index(most)}){shared}"
