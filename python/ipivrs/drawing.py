"""Counterexamples as kernel developers draw races: a column for each actor, time downward."""

import textwrap
from collections.abc import Iterator
from typing import Literal

from rich.text import Text

from ipivrs.laboratory import Step

_NUMBER = 5
_NARROWEST = 22
_WIDEST = 44
_GAP = 2
# From left to right: who is interrupted, then who interrupts.
_ORDER = ("vCPU", "pCPU", "sender", "device", "software", "host")

Style = Literal["", "bold", "dim"]
Line = tuple[str, Style]


def drawn(steps: list[Step], cycle_from: int | None, width: int) -> Iterator[Text]:
    """The steps, side by side if each actor gets enough of the width, else one below the other.

    Args:
        steps: The counterexample.
        cycle_from: The step that an endless run returns to after the last one, from 0.
        width: Columns of the terminal.
    """
    actors = sorted({step["column"] for step in steps}, key=_place)
    column = min((width - _NUMBER) // max(len(actors), 1) - _GAP, _WIDEST)
    draw = _row if column >= _NARROWEST else _item
    if column >= _NARROWEST:
        headings = "".join(f"{actor:{column + _GAP}}" for actor in actors)
        yield Text(" " * _NUMBER + headings.rstrip(), style="bold")
    for number, step in enumerate(steps):
        if number == cycle_from:
            yield Text(f"{'':{_NUMBER}}-- from here on for ever --", style="yellow")
        left = actors.index(step["column"]) * (column + _GAP) if draw is _row else 0
        yield from draw(number + 1, step, left, column if draw is _row else max(width - _NUMBER, _NARROWEST))
    if cycle_from is not None:
        yield Text(f"{'':{_NUMBER}}-- and so on from step {cycle_from + 1} --", style="yellow")


def _place(actor: str) -> tuple[int, int]:
    kind, _, number = actor.partition(" ")
    rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
    return rank, int(number) if number.isdecimal() else 0


def _row(number: int, step: Step, left: int, width: int) -> Iterator[Text]:
    yield from _numbered(number, [*_folded(words(step), width, "bold"), *_changes(step, width)], left)


def _item(number: int, step: Step, left: int, width: int) -> Iterator[Text]:
    head = _folded(f"{step['actor']}: {words(step)}", width, "bold")
    yield from _numbered(number, [*head, *_changes(step, width)], left)


def _numbered(number: int, lines: list[Line], left: int) -> Iterator[Text]:
    label = f"{number:>{_NUMBER - 2}}"
    for text, style in lines:
        yield Text(f"{label:{_NUMBER}}{'':{left}}").append(text, style=style)
        label = ""


def words(step: Step) -> str:
    """What is done and where the policy says so, such as "before_entry:31 fence"."""
    if step["line"] is None:
        return step["step"]
    return f"{step['routine']}:{step['line']} {step['step']}"


def _changes(step: Step, width: int) -> Iterator[Line]:
    # In an actor's own column its name says nothing new.
    own = f"{step['column']} "
    for change in step["changes"]:
        yield from ((f"  {line}", style) for line, style in _folded(change.removeprefix(own), width - _GAP, "dim"))


def _folded(text: str, width: int, style: Style) -> list[Line]:
    lines = textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
    return [(line, style) for line in lines]
