"""Which Rust functions cite which clause of the manual."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import spec

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("arch", "processor", "hypervisor")
ITEM = re.compile(r"^\s*(?:pub(?:\([a-z]+\))? )?(?:const )?(?:fn|struct|enum) (\w+)")
SECTION = re.compile(r"\b(?:VT-d )?\d{1,2}\.\d+(?:\.\d+)*\b|\bSENDUIPI\b")
STEPS = re.compile(r"[Ss]teps? (\d)(?:(?:,| and| to) (\d))?")


@dataclass(frozen=True, order=True)
class Place:
    """A Rust item: the file below rust/src, and its name."""

    file: str
    item: str

    def __str__(self) -> str:
        """As the documentation shows it."""
        return f"`{self.file}`: `{self.item}`"


@dataclass(frozen=True)
class Citation:
    """An item's words about sections of the manual, and the steps that it names."""

    place: Place
    sections: frozenset[str]
    steps: frozenset[str]
    words: str


def citations() -> list[Citation]:
    """All of them: in the documentation of an item, or in a comment inside it."""
    found: list[Citation] = []
    for room in ROOMS:
        for path in sorted((ROOT / "rust/src" / room).rglob("*.rs")):
            if "tests" not in path.stem:
                found += _read(path)
    return found


def _read(path: Path) -> list[Citation]:
    """Documentation goes with the item after it, a comment with the item around it."""
    found: list[Citation] = []
    place, sections = Place("", ""), frozenset[str]()
    documentation: list[str] = []
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith("#[cfg(test)]"):
            break
        if text.startswith("///"):
            documentation.append(text[3:])
        elif match := ITEM.match(line):
            place = Place(str(path.relative_to(ROOT / "rust/src")), match[1])
            citation = _citation(place, frozenset(), " ".join(documentation))
            sections, documentation = citation.sections, []
            found.append(citation)
        elif text.startswith("//") and not text.startswith("//!"):
            found.append(_citation(place, sections, text))
        elif text and not text.startswith("#["):
            documentation = []
    return [citation for citation in found if citation.sections]


def _citation(place: Place, around: frozenset[str], words: str) -> Citation:
    """A comment that names no section speaks of those that the item around it names."""
    steps = {str(n) for first, last in STEPS.findall(words) for n in range(int(first), int(last or first) + 1)}
    return Citation(place, frozenset(SECTION.findall(words)) or around, frozenset(steps), words)


def places(key: spec.Key, found: list[Citation]) -> list[Place]:
    """Where a clause is implemented: what cites its numbered step; else what names it, or what cites its section."""
    section, step = key
    citing = [citation for citation in found if section in citation.sections]
    if numbered := re.match(r"\d\b", step):
        return sorted({citation.place for citation in citing if numbered[0] in citation.steps})
    named = [citation for citation in citing if step and step.split()[0] in citation.words]
    return sorted({citation.place for citation in named or citing})
