"""The collection: protocols that hypervisors have or had, each with its source and what the laboratory must find."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from ipivrs import _core, variants
from ipivrs.bounds import Bounds
from ipivrs.policies import shipped

HOLDS = "holds"
"""The verdict on a policy that loses nothing."""


@dataclass(frozen=True)
class Entry:
    """A protocol of the collection: a shipped policy, or one with some lines left out, replaced or moved.

    Attributes:
        name: What `ipivrs check` knows it by.
        title: What it is, or what goes wrong in it.
        source: Where it was seen.
        policy: The shipped policy's name.
        without: Lines that are left out, as for `ipivrs.check`.
        replace: Lines and the words that they have instead.
        swap: Pairs of lines in each other's place.
        bounds: What it is checked under.
        verdict: "holds", or the property that breaks.
    """

    name: str
    title: str
    source: str
    policy: str
    without: tuple[str, ...]
    replace: tuple[tuple[str, str], ...]
    swap: tuple[tuple[str, str], ...]
    bounds: Bounds
    verdict: str

    @cached_property
    def policy_text(self) -> str:
        """The policy, with the entry's changes in it."""
        text = shipped()[self.policy]
        for first, second in self.swap:
            text = variants.swapped(text, first, second)
        for line, by in self.replace:
            text = variants.replaced(text, line, by)
        for line in self.without:
            text = variants.without(text, line)
        return text

    def as_dict(self) -> dict[str, Any]:
        """The entry in plain types, ready for `json.dumps`."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "policy": self.policy,
            "without": list(self.without),
            "replace": [{"line": line, "by": by} for line, by in self.replace],
            "swap": [list(pair) for pair in self.swap],
            "bounds": self.bounds.as_dict(),
            "verdict": self.verdict,
        }


def collection() -> list[Entry]:
    """The protocols that `ipivrs check --list` shows: KVM's of several ages, ACRN's, AVIC's, and their mistakes."""
    text = (files("ipivrs") / "collection.toml").read_text(encoding="utf-8")
    return [_entry(values) for values in _core.read_toml(text)[0]["entry"]]


def _entry(values: Mapping[str, Any]) -> Entry:
    policy = values["policy"]
    return Entry(
        name=values["name"],
        title=values["title"],
        source=values.get("source") or _core.read_policy(shipped()[policy])[1],
        policy=policy,
        without=tuple(values.get("without", ())),
        replace=tuple((change["line"], change["by"]) for change in values.get("replace", ())),
        swap=tuple((first, second) for first, second in values.get("swap", ())),
        bounds=Bounds.from_dict(values.get("bounds", {})),
        verdict=values["verdict"],
    )
