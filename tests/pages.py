"""README.md and docs/: their fenced blocks, and what runs them.

A page is run from top to bottom in a folder of its own that has the checkout's examples and scenarios:

- a block with a title that is a file's name is saved under it: ```policy title="mine.policy"
- ```sh: each line is a command; it exits with 0, or with what its comment says: "exit code 1".
- ```console: the same behind "$ ", with what it prints, if that is shown; [...] stands for whatever was left out. Where
  "is refuted" is shown the exit code is 1.
- ```python: is executed; all of a page share their names.
- ```sh title="On the host": is for another machine, as every title with a space in it says. Its programs are not run;
  what can be said of a line without them is checked.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

LANGUAGES = {"console", "policy", "python", "sh", "text", "toml"}
LEFT_OUT = "[...]"

_FENCE = re.compile(r"^```(?P<info>.*)\n(?P<text>(?:(?!```).*\n)*)```$", re.MULTILINE)
_INFO = re.compile(r'(?P<language>\w+)(?: title="(?P<title>[^"]+)")?')
_EXIT_CODE = re.compile(r"#.*exit code (\d+)")
_COST = re.compile(r"[\d,]+ states, [\d.]+ s, \d+ threads?")


@dataclass(frozen=True)
class Command:
    """One line for the shell; `prints` is None where the page does not say."""

    line: str
    number: int
    prints: str | None = None

    @property
    def words(self) -> list[str]:
        """What the shell makes of it."""
        return shlex.split(self.line, comments=True)

    @property
    def exit_code(self) -> int:
        """What it has to exit with."""
        if said := _EXIT_CODE.search(self.line):
            return int(said[1])
        return int("is refuted" in (self.prints or ""))


@dataclass(frozen=True)
class Block:
    """A fenced block; `number` is the line of its first line of text."""

    page: Path
    number: int
    language: str
    title: str | None
    text: str

    @property
    def file(self) -> str | None:
        """The name that it is saved under."""
        return self.title if self.title and " " not in self.title else None

    @property
    def elsewhere(self) -> bool:
        """It is for another machine."""
        return self.title is not None and self.file is None

    @property
    def commands(self) -> list[Command]:
        """Its commands, if it is for the shell."""
        if self.language == "sh":
            lines = enumerate(_whole_lines(self.text), self.number)
            return [Command(line, number) for number, line in lines if line and not line.startswith("#")]
        return list(_prompted(self)) if self.language == "console" else []


def _whole_lines(text: str) -> list[str]:
    """Lines; those that end in a backslash go on below, and an empty one stands in for each that they took."""
    lines: list[str] = []
    taken = 0
    for line in text.splitlines():
        if taken and lines:
            lines[-taken] += line.strip()
            lines.append("")
        else:
            lines.append(line.strip())
        taken = taken + 1 if line.endswith("\\") else 0
        if taken:
            lines[-taken] = lines[-taken].removesuffix("\\")
    return lines


def _prompted(block: Block) -> Iterator[Command]:
    at = block.number
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE):
        line, _, output = part.partition("\n")
        if line:
            yield Command(line, at, output.strip("\n") or None)
        at += part.count("\n")


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        ValueError: One is of a language that nobody looks at.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        number = text[: match.start("text")].count("\n") + 1
        info = _INFO.fullmatch(match["info"])
        if info is None or info["language"] not in LANGUAGES:
            raise ValueError(f"{page}:{number - 1}: a block is one of {sorted(LANGUAGES)}, not {match['info']!r}")
        found.append(Block(page, number, info["language"], info["title"], match["text"]))
    return found


def unfenced_commands(page: Path) -> list[str]:
    """Lines outside of blocks that are set as code and look like commands: nobody would run them."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"^ {4}(?:\$ )?((?:ipivrs|make|perf|pip|python|sudo|trace-cmd|source)\b.*)$", prose, re.MULTILINE)


def links(page: Path) -> list[str]:
    """The links of a page to others of ours."""
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in found if "://" not in link]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def matches(printed: str, shown: str) -> bool:
    """Whether a page shows what was printed; [...] alone on a line stands for any number of lines."""
    lines = (
        r"(?:.*\n)*?" if line == LEFT_OUT else ".*".join(re.escape(part) for part in line.split(LEFT_OUT)) + r"\n"
        for line in _without_cost(shown).splitlines()
    )
    return re.fullmatch("".join(lines), _without_cost(printed).rstrip("\n") + "\n") is not None


def _without_cost(text: str) -> str:
    """How many states there are and how long they take is not what a page is about."""
    return _COST.sub("COST", text)
