"""Numbers as characters: bars beside shares, and strips with a cell for each vCPU; in ASCII where it must be."""

from collections.abc import Sequence
from dataclasses import dataclass

from ipivrs.terminal import can_show, is_terminal, width

_BLOCKS = "▁▂▃▄▅▆▇█"
_DIGITS = "12345678"
_NOTHING = {_BLOCKS: "·", _DIGITS: "."}
_EIGHTHS = " ▏▎▍▌▋▊▉"
_WIDE = 100


def bar(part: int, total: int) -> str:
    """A bar as long as the share, for a terminal; nothing in a pipe. What is there at all can be seen."""
    if not is_terminal() or total == 0:
        return ""
    cells = 20 if width() >= _WIDE else 10
    if not can_show(_BLOCKS + _EIGHTHS):
        return "#" * max(round(cells * part / total), int(part > 0))
    whole, eighths = divmod(max(round(8 * cells * part / total), int(part > 0)), 8)
    return ("█" * whole + _EIGHTHS[eighths]).rstrip()


@dataclass(frozen=True)
class Strip:
    """A row of cells. `per_cell` vCPUs share one."""

    cells: str
    per_cell: int


def strip(values: Sequence[int], columns: int) -> Strip:
    """One cell for each value; where there are more values than columns, one for the mean of several.

    A cell of nothing is a dot; the highest cell is full, and the others are in proportion, the least above nothing.
    """
    per_cell = max(-(-len(values) // max(columns, 1)), 1)
    means = [sum(part) / len(part) for part in (values[at : at + per_cell] for at in range(0, len(values), per_cell))]
    levels = _BLOCKS if can_show(_BLOCKS + _NOTHING[_BLOCKS]) else _DIGITS
    most = max(means, default=0)
    return Strip("".join(_cell(mean, most, levels) for mean in means), per_cell)


def _cell(value: float, most: float, levels: str) -> str:
    if value <= 0:
        return _NOTHING[levels]
    return levels[min(int(value / most * len(levels)), len(levels) - 1)]
