"""Policies with a line left out, replaced or moved: variants without a file of their own, and mutations."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ipivrs.options import did_you_mean
from ipivrs.policy_text import PolicyTextError, Statement, Token, routines, spelled, tokens_of, words

_SPEC = re.compile(r"\s*([\w-]+)\s*:\s*(.*?)\s*(?:\(line (\d+)\))?\s*$", re.DOTALL)


class VariantError(ValueError):
    """A line that the policy does not have, or has twice. The message names the lines that it has."""


@dataclass(frozen=True)
class Mutation:
    """A policy with one line, or one act of a line, left out; or two neighbours in each other's place.

    `line` is the number of the line, of the upper one if two change places; `text` is the whole policy. What is left
    out leaves an empty line, so that all others keep their numbers.
    """

    description: str
    kind: Literal["drop", "swap"]
    routine: str
    line: int
    text: str


@dataclass(frozen=True)
class _Place:
    """A statement, or one act of it, and the statements of the block that it is in."""

    statement: Statement
    block: list[Statement]
    owner: Statement | None
    act: int | None = None

    @property
    def tokens(self) -> list[Token]:
        return self.statement.tokens if self.act is None else self.statement.acts[self.act]

    @property
    def name(self) -> str:
        """What it is called in messages; `without` finds it by this name."""
        tokens = self.tokens
        shown = spelled(tokens[:-1] if tokens[-1].text == ":" else tokens)
        return f"{self.statement.routine}: {shown} (line {self.statement.line})"


def without(text: str, spec: str) -> str:
    """The policy without one line, such as "load: if pir: set_on".

    The line becomes an empty one, with the block below it and an `else` that belongs to it, so that line numbers stay.
    Lines are compared by their words: comments and spacing do not count. A line that differs by the words `new` and
    `old` alone is found too, and so is one act of a line such as `clear_on; fence; harvest`.

    Args:
        text: A policy.
        spec: "ROUTINE: LINE", with " (line N)" behind it where the routine has that line several times.

    Raises:
        VariantError: There is no such line, or there are several.
    """
    return _without(text, _find(routines(text), spec))


def replaced(text: str, spec: str, by: str) -> str:
    """The policy with the words of one line replaced; a block below it stays.

    Raises:
        VariantError: There is no such line, or there are several.
    """
    place = _find(routines(text), spec)
    first, last = place.tokens[0], place.tokens[-1]
    lines = text.splitlines()
    line = lines[first.line - 1]
    lines[first.line - 1] = line[: first.start] + by + line[last.end :]
    return _joined(lines, text)


def swapped(text: str, first: str, second: str) -> str:
    """The policy with two lines of one block, named as for `without`, in each other's place.

    Raises:
        VariantError: There is no such line, there are several, or the two are not in one block.
    """
    known = routines(text)
    one, other = sorted((_find(known, first), _find(known, second)), key=lambda place: place.tokens[0].line)
    together = one.block is other.block and one.statement.line != other.statement.line
    if not together or any(place.act is not None or _is_else(place.statement) for place in (one, other)):
        raise VariantError(f"{one.name} and {other.name} are not two lines of one block: they cannot change places")
    return _swapped_lines(text, one.statement, other.statement)


def mutations(text: str) -> Iterator[Mutation]:
    """Every line and every act left out; every two neighbours in each other's place. Top to bottom."""
    # What is left of an `else` without its only line is nothing, as without the `else`: one of the two will do.
    last = text
    for place in _places(text):
        statement = place.statement
        name = place.name
        if (dropped := _without(text, place)) != last:
            yield Mutation(name, "drop", statement.routine, statement.line, dropped)
            last = dropped
        if place.act is None and not _is_else(statement):
            at = place.block.index(statement)
            if at + 1 < len(place.block) and (below := place.block[at + 1]).words != statement.words:
                other = _Place(below, place.block, place.owner)
                swap = _swapped_lines(text, statement, below)
                yield _swap(name, other.name, statement, swap)
        elif place.act is not None and place.act + 1 < len(statement.acts):
            mine, next_one = place.tokens, statement.acts[place.act + 1]
            if words(t.text for t in mine) != words(t.text for t in next_one):
                other = _Place(statement, place.block, place.owner, place.act + 1)
                yield _swap(name, other.name, statement, _swapped_acts(text, mine, next_one))


def _swap(name: str, other: str, statement: Statement, text: str) -> Mutation:
    description = f"{name} and {other.partition(': ')[2]}"
    return Mutation(description, "swap", statement.routine, statement.line, text)


def _is_else(statement: Statement) -> bool:
    return statement.tokens[0].text == "else"


def _places(text: str) -> Iterator[_Place]:
    for block in routines(text).values():
        yield from _places_of(block, None)


def _places_of(block: list[Statement], owner: Statement | None) -> Iterator[_Place]:
    for statement in block:
        part: Statement | None = statement
        while part is not None:
            yield _Place(part, block, owner)
            if part.acts and part.acts != [part.tokens]:
                yield from (_Place(part, block, owner, act) for act in range(len(part.acts)))
            yield from _places_of(part.block, part)
            part = part.otherwise


def _find(known: dict[str, list[Statement]], spec: str) -> _Place:
    match = _SPEC.match(spec)
    if match is None or not match[2]:
        raise VariantError(f'{spec!r} names no line: write "ROUTINE: LINE", such as "load: if pir: set_on"')
    routine, number = match[1], int(match[3]) if match[3] else None
    if routine not in known:
        hint = did_you_mean(routine, list(known)) or f"; it has {', '.join(known)}"
        raise VariantError(f"{spec!r}: the policy has no routine {routine}{hint}")
    asked = _asked(spec, match[2])
    places = list(_places_of(known[routine], None))
    # A whole line is meant before an act of one, and the very words before the like.
    for alike in (words, _without_old_and_new):
        for of_line in (True, False):
            found = [
                place
                for place in places
                if (place.act is None) == of_line
                and alike([token.text for token in place.tokens]) == alike(list(asked))
                and number in {None, place.statement.line}
            ]
            if len(found) > 1:
                names = " or ".join(repr(place.name) for place in found)
                raise VariantError(f"{spec!r}: the policy has this line {len(found)} times; say which: {names}")
            if found:
                return found[0]
    raise VariantError(_no_such_line(spec, match[2], places))


def _asked(spec: str, line: str) -> tuple[str, ...]:
    try:
        return words(token.text for token in tokens_of(line))
    except PolicyTextError as error:
        what = str(error).partition(": ")[2]
        raise VariantError(f"{spec!r}: {what}") from error


def _no_such_line(spec: str, line: str, places: list[_Place]) -> str:
    names = [place.name.partition(": ")[2].rpartition(" (line")[0] for place in places]
    if not names:
        return f"{spec!r}: this routine of the policy is empty"
    return (
        f"{spec!r}: no such line in this routine{did_you_mean(line, names)}\nIt has: {' | '.join(dict.fromkeys(names))}"
    )


def _without_old_and_new(line: list[str]) -> tuple[str, ...]:
    return words([word for word in line if word not in {"old", "new"}])


def _without(text: str, place: _Place) -> str:
    lines = text.splitlines()
    statement = place.statement
    if place.act is not None and len(statement.acts) > 1:
        _cut_act(lines, statement, place.act)
        return _joined(lines, text)
    if len(place.block) == 1 and not _is_else(statement) and place.owner is not None:
        return _without_block(text, place.owner, statement)
    _cut(lines, statement.tokens[0], statement.last_line)
    return _joined(lines, text)


def _without_block(text: str, owner: Statement, only: Statement) -> str:
    """Without the only statement of a block: a block must not be empty, so what owns it goes too."""
    if owner.otherwise is None:
        above = next(place for place in _places(text) if place.statement.tokens == owner.tokens)
        return _without(text, above)
    # `if C:` nothing, `else:` something, is `if not C:` something.
    lines = text.splitlines()
    _cut(lines, only.tokens[0], only.last_line)
    other = owner.otherwise.tokens
    at = other[0].line - 1
    lines[at] = lines[at][: other[0].start] + " " * (other[1].end - other[0].start) + lines[at][other[1].end :]
    if len(other) == 2:  # noqa: PLR2004 (`else` and its colon)
        lines[at] = ""
    head = next(index for index, token in enumerate(owner.tokens) if token.text == "if")
    colon = next(index for index in range(head, len(owner.tokens)) if owner.tokens[index].text == ":")
    start, end = owner.tokens[head].end, owner.tokens[colon].start
    line = lines[owner.line - 1]
    lines[owner.line - 1] = f"{line[:start]} not ({line[start:end].strip()}){line[end:]}"
    return _joined(lines, text)


def _cut(lines: list[str], first: Token, last_line: int) -> None:
    """Empties lines from a token on; a routine's name before it stays."""
    before = lines[first.line - 1][: first.start]
    lines[first.line - 1] = before.rstrip()
    for at in range(first.line, last_line):
        lines[at] = ""


def _cut_act(lines: list[str], statement: Statement, act: int) -> None:
    line = lines[statement.line - 1]
    if act + 1 < len(statement.acts):
        start, end = statement.acts[act][0].start, statement.acts[act + 1][0].start
    else:
        start, end = statement.acts[act - 1][-1].end, statement.acts[act][-1].end
    lines[statement.line - 1] = line[:start] + line[end:]


def _swapped_acts(text: str, one: list[Token], other: list[Token]) -> str:
    lines = text.splitlines()
    at = one[0].line - 1
    line = lines[at]
    first, second = (line[part[0].start : part[-1].end] for part in (one, other))
    between = line[one[-1].end : other[0].start]
    lines[at] = line[: one[0].start] + second + between + first + line[other[-1].end :]
    return _joined(lines, text)


def _swapped_lines(text: str, one: Statement, other: Statement) -> str:
    """`one` stands above `other`. What is before a line's first word, such as a routine's name, stays where it is."""
    lines = text.splitlines()
    column = one.column
    upper, lower = (lines[part.line - 1 : part.last_line] for part in (one, other))
    before = lines[one.line - 1][:column], lines[other.line - 1][:column]
    between = lines[one.last_line : other.line - 1]
    lines[one.line - 1 : other.last_line] = [
        before[0] + lower[0][column:],
        *lower[1:],
        *between,
        before[1] + upper[0][column:],
        *upper[1:],
    ]
    return _joined(lines, text)


def _joined(lines: list[str], text: str) -> str:
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")
