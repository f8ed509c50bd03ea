"""A policy's text as statements and where each stands: what variants are cut from.

The core reads policies; this follows its layout rules and leaves the meaning of the words to it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(r'[A-Za-z0-9_][\w.\-]*|"[^"]*"|==|!=|[=:;,()]')
_COMMENT = re.compile(r'^((?:[^"#]|"[^"]*"?)*)#.*$')


class PolicyTextError(ValueError):
    """A text that is not laid out as a policy. The message begins with the line."""


@dataclass(frozen=True)
class Token:
    """A word or a sign, its line (from 1) and its columns (from 0, end excluded)."""

    text: str
    line: int
    start: int
    end: int


@dataclass
class Statement:
    """A line of a routine with the blocks that belong to it.

    `tokens` are those of the line itself, `acts` those of the acts in it that `;` parts; `tests` says that there is an
    `if` in it. An `else` is a statement of its own, owned by its `if`.
    """

    routine: str
    tokens: list[Token]
    last_line: int
    tests: bool = False
    acts: list[list[Token]] = field(default_factory=list)
    block: list["Statement"] = field(default_factory=list)
    otherwise: "Statement | None" = None

    @property
    def line(self) -> int:
        """Where it begins."""
        return self.tokens[0].line

    @property
    def column(self) -> int:
        """Where it begins."""
        return self.tokens[0].start

    @property
    def end(self) -> int:
        """The column after the last word of its own line."""
        return self.tokens[-1].end

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its own line, without a colon that only opens a block."""
        return words(token.text for token in self.tokens)

    def with_blocks(self) -> Iterator["Statement"]:
        """This and all that is inside of it, top to bottom."""
        yield self
        for inner in self.block:
            yield from inner.with_blocks()
        if self.otherwise is not None:
            yield from self.otherwise.with_blocks()


def words(tokens: "Iterator[str] | list[str]") -> tuple[str, ...]:
    """Words to compare lines by: a colon at the end opens a block and is no part of the line's sense."""
    found = tuple(tokens)
    return found[:-1] if found and found[-1] == ":" else found


def tokens_of(line: str, number: int = 1) -> list[Token]:
    """The tokens of one line, comments left out."""
    content = _COMMENT.sub(r"\1", line).rstrip()
    found = [Token(match[0], number, match.start(), match.end()) for match in _TOKEN.finditer(content)]
    strange = re.search(r"\S", _TOKEN.sub(lambda match: " " * len(match[0]), content))
    if strange:
        raise PolicyTextError(f"{number}:{strange.start() + 1}: {strange[0]!r} begins nothing in a policy")
    return found


def spelled(tokens: list[Token]) -> str:
    """Tokens as the shipped policies space them."""
    text = " ".join(token.text for token in tokens)
    text = re.sub(r" ([:;,)])", r"\1", text)
    return re.sub(r" = ", "=", text.replace("( ", "("))


def routines(text: str) -> dict[str, list[Statement]]:
    """The statements of each routine.

    Raises:
        PolicyTextError: The text is not laid out as a policy.
    """
    lines = [tokens for number, line in enumerate(text.splitlines(), 1) if (tokens := tokens_of(line, number))]
    if not lines or lines[0][0].text != "policy":
        raise PolicyTextError('1:1: a policy begins with "policy NAME"')
    reader = _Reader([line for line in lines[1:] if line[0].text != "source"])
    found: dict[str, list[Statement]] = {}
    while reader.here():
        header = reader.here()
        reader.routine = header[0].text
        reader.skip(2)
        found[reader.routine] = reader.block(header[0].start)
    return found


class _Reader:
    """Goes through the tokens as the core's parser does."""

    def __init__(self, lines: list[list[Token]]) -> None:
        self.lines = lines
        self.at = 0
        self.token = 0
        self.routine = ""
        self.last_line = 1

    def here(self) -> list[Token]:
        """What is left of this line."""
        return self.lines[self.at][self.token :] if self.at < len(self.lines) else []

    def skip(self, tokens: int) -> None:
        self.token += tokens

    def next_line(self) -> None:
        self.last_line = self.lines[self.at][0].line
        self.at += 1
        self.token = 0

    def block(self, owner: int) -> list[Statement]:
        """What stands behind a colon: statements on the same line, or lines further right than `owner`."""
        if not self.here() and self.at < len(self.lines):
            self.next_line()
        found: list[Statement] = []
        column = self.here()[0].start if self.here() else 0
        while self.here() and self.here()[0].start == column > owner:
            found.append(self.statement())
        return found

    def statement(self) -> Statement:
        """One line of a block, with what belongs to it."""
        made = last = self.line()
        while last.tests and self.here() and (self.here()[0].text, self.here()[0].start) == ("else", made.column):
            # `else: if ...` may have an `else` again.
            last.otherwise = last = self.line()
        made.last_line = self.last_line
        return made

    def line(self) -> Statement:
        tokens = self.here()
        made = Statement(self.routine, tokens, tokens[0].line)
        acts = tokens
        while acts and acts[0].text in {"if", "for_listed", "else"}:
            made.tests |= acts[0].text == "if"
            opens = next((at for at, token in enumerate(acts) if token.text == ":"), 0)
            # The colon of `for_listed` may be left out.
            bare = acts[0].text == "for_listed" and opens > 1
            acts = acts[1 if bare else opens + 1 :]
        if acts:
            made.acts = _parted(acts)
            self.next_line()
        else:
            self.token += len(tokens)
            made.block = self.block(made.column)
        made.last_line = self.last_line
        return made


def _parted(tokens: list[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == ";":
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]
