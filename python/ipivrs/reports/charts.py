"""The drawings of a report that need no script: fates over time, who interrupts whom, latencies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ipivrs.reports import scales
from ipivrs.reports.story import FATES, Story
from ipivrs.reports.svg import drawing, line, rectangle, tag, text
from ipivrs.results import Latency

_WIDTH = 960.0
_LEFT, _RIGHT = 64.0, 12.0
_MOST_BINS = 160
_CELLS_WITH_NUMBERS = 16
_MOST_CELLS = 48
_LEVELS = 8


def fates_over_time(story: Story) -> Markup:
    """How many were sent in each stretch of time, by their fate."""
    height, top, bottom = 220.0, 10.0, 34.0
    counts, edges = _binned(story)
    highest = max(int(counts.sum(axis=0).max()), 1)
    width, tall = _WIDTH - _LEFT - _RIGHT, height - top - bottom
    seconds = edges / story.per_second
    size, unit = scales.unit_of(float(seconds[-1]))
    step = width / counts.shape[1]
    parts: list[Markup] = []
    for mark in scales.marks(0, highest, 4, finest=1):
        y = top + tall * (1 - mark / highest)
        parts += [line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"), text(_LEFT - 8, y + 4, scales.count(mark), "mark", "end")]
    for mark in scales.marks(0, float(seconds[-1]) / size, 8):
        x = _LEFT + width * (mark * size / float(seconds[-1]) if seconds[-1] else 0)
        parts += [line(x, top + tall, x, top + tall + 5, "axis"), text(x, height - 14, f"{mark:g}", "mark", "middle")]
    parts.append(text(_WIDTH - _RIGHT, height - 1, unit, "mark", "end"))
    below = np.zeros(counts.shape[1])
    for code in np.flatnonzero(counts.sum(axis=1)):
        parts.append(_bars(below, counts[code], highest, (top, tall, step), FATES[code]))
        below += counts[code]
    parts.append(line(_LEFT, top + tall, _WIDTH - _RIGHT, top + tall, "axis"))
    each = scales.duration(float(seconds[-1]) / counts.shape[1])
    return drawing(_WIDTH, height, f"IPIs sent in each {each}, by fate", *parts)


def _binned(story: Story) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts by fate and bin, and the edges of the bins."""
    end = max(story.end, 1)
    bins = min(_MOST_BINS, end)
    place = np.minimum(story.sends.time.astype(np.float64) / end * bins, bins - 1).astype(np.int64)
    both = story.sends.fate.astype(np.int64) * bins + place
    counts = np.bincount(both, minlength=len(FATES) * bins).reshape(len(FATES), bins)
    return counts, np.linspace(0, end, bins + 1)


def _bars(
    below: NDArray[np.float64],
    counts: NDArray[np.int64],
    highest: int,
    box: tuple[float, float, float],
    fate: str,
) -> Markup:
    """The bars of one fate, as one path."""
    top, tall, step = box
    path = []
    for at in np.flatnonzero(counts):
        y = top + tall * (1 - (below[at] + counts[at]) / highest)
        path.append(f"M{_LEFT + at * step:.1f} {y:.1f}h{max(step - 0.6, 0.6):.1f}v{tall * counts[at] / highest:.2f}H")
        path.append(f"{_LEFT + at * step:.1f}z")
    total = scales.count(counts.sum())
    return tag("path", tag("title", f"{fate}: {total}"), d="".join(path), class_=f"fate-{fate}")


@dataclass(frozen=True)
class Matrix:
    """Who interrupts whom, with vCPUs in groups of `group` where there are many; `pairs` are the most frequent."""

    drawing: Markup
    group: int
    pairs: Sequence[tuple[str, str, int]]


def matrix(story: Story, most_pairs: int = 10) -> Matrix:
    """A cell for each sender (row) and target (column): the darker, the more."""
    pairs, names, labels = story.pairs, story.vcpus, story.labels
    group = max(-(-len(labels) // _MOST_CELLS), 1)
    groups = [labels[at : at + group] for at in range(0, len(labels), group)]
    counts = np.zeros((len(groups), len(groups)), np.int64)
    np.add.at(counts, (pairs.sender // group, pairs.target // group), pairs.count)
    order = np.lexsort((pairs.target, pairs.sender, -pairs.count))[:most_pairs]
    frequent = [(names[pairs.sender[at]], names[pairs.target[at]], int(pairs.count[at])) for at in order]
    return Matrix(_grid(counts, [_label(one) for one in groups]), group, frequent)


def _grid(counts: NDArray[np.int64], labels: Sequence[str]) -> Markup:
    cells = max(len(labels), 1)
    size = min(44.0, 560 / cells)
    left, top = 76.0, 40.0
    parts = [text(left + cells * size / 2, 14, "to vCPU", "mark", "middle"), text(4, top + 12, "from", "mark")]
    every = math.ceil((12 + 7 * max(map(len, labels), default=1)) / size)
    highest = max(int(counts.max(initial=0)), 1)
    for at, label in enumerate(labels):
        middle = (at + 0.5) * size
        if at % every == 0:
            parts.append(text(left + middle, top - 8, label, "mark", "middle"))
            parts.append(text(left - 8, top + middle + 4, label, "mark", "end"))
        for other, to in enumerate(labels):
            number = int(counts[at, other])
            level = 0 if number == 0 else 1 + round((_LEVELS - 1) * math.log1p(number) / math.log1p(highest))
            title = f"vCPU {label} to {to}: {scales.count(number)}"
            x, y = left + other * size, top + at * size
            parts.append(rectangle(x + 0.5, y + 0.5, size - 1, size - 1, f"level{level}", title))
            if number and cells <= _CELLS_WITH_NUMBERS:
                ink = "ink-light" if level > _LEVELS // 2 else "ink-dark"
                parts.append(text(x + size / 2, y + size / 2 + 4, _short(number), f"cell {ink}", "middle"))
    return drawing(left + cells * size + 12, top + cells * size + 8, "Interrupts by sender and target", *parts)


def _label(group: Sequence[str]) -> str:
    return group[0] if len(group) == 1 else f"{group[0]}-{group[-1]}"


def _short(number: int) -> str:
    """At most five characters up to a thousand million."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= max(size, 10**4):
            return f"{number / size:.3g}{letter}"
    return str(number)


def latencies(latency: Mapping[str, Latency]) -> Markup:
    """For each class of interrupts the range from least to most, from median to p99, and the mean."""
    row, top = 34.0, 8.0
    height = top + row * len(latency) + 34
    left = 96.0
    powers = scales.powers(min(one["min"] for one in latency.values()), max(one["max"] for one in latency.values()))
    low, span = math.log10(powers[0]), math.log10(powers[-1]) - math.log10(powers[0])
    width = _WIDTH - left - _RIGHT - 24

    def at(cycles: float) -> float:
        return left + width * (math.log10(max(cycles, 1)) - low) / span

    parts: list[Markup] = []
    for power in powers:
        parts.append(line(at(power), top, at(power), height - 32, "grid"))
        parts.append(text(at(power), height - 16, scales.count(power), "mark", "middle"))
    parts.append(text(_WIDTH - _RIGHT, height - 2, "cycles", "mark", "end"))
    for number, (name, one) in enumerate(latency.items()):
        y = top + row * (number + 0.5)
        title = ", ".join(f"{key} {scales.count(one[key])}" for key in ("min", "p50", "p90", "p99", "max"))
        parts.append(text(left - 10, y + 4, name, "mark", "end"))
        parts.append(line(at(one["min"]), y, at(one["max"]), y, "whisker"))
        wide = max(at(one["p99"]) - at(one["p50"]), 2.0)
        parts.append(rectangle(at(one["p50"]), y - 9, wide, 18, f"box latency-{name}", f"{name}: {title}"))
        parts.append(line(at(one["p90"]), y - 9, at(one["p90"]), y + 9, "median"))
        parts.append(tag("circle", cx=at(one["mean"]), cy=y, r=3.5, class_="mean"))
    return drawing(_WIDTH, height, "Latencies in cycles, logarithmic", *parts)
