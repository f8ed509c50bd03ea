"""docs/laboratory.md: its tables are complete. `test_pages` runs its commands."""

import re
from pathlib import Path

import pytest

import ipivrs
from ipivrs import _core
from ipivrs.bounds import RANGES
from ipivrs.check_report import KINDS
from ipivrs.options import option

PAGE = (Path(__file__).parent.parent / "docs" / "laboratory.md").read_text(encoding="utf-8")


def test_the_collection_is_there() -> None:
    for entry in ipivrs.collection():
        assert f"| `{entry.name}` | {entry.verdict} | {entry.title} | {entry.source} |\n" in PAGE


def test_every_property_and_every_bound_is_explained() -> None:
    for kind in KINDS:
        assert f"| `{kind}` | " in PAGE
    for name, (low, high) in RANGES.items():
        bound = f"{low} to pcpus" if name == "vcpus" else f"{low} to {high}"
        assert f"| `{option(name)}` | {getattr(ipivrs.Bounds(), name)} | {bound} | " in PAGE


@pytest.mark.parametrize("what", ["routine", "step", "condition"])
def test_every_word_of_the_language_is_explained(what: str) -> None:
    """The core names all words that it knows when it meets one that is like none of them."""
    strange = {
        "routine": "policy x\n  zzzzzzzzzzzzzzzzzzzzzzzz:\n",
        "step": "policy x\n  load:\n    zzzzzzzzzzzzzzzzzzzzzzzz\n",
        "condition": "policy x\n  load:\n    if zzzzzzzzzzzzzzzzzzzzzzzz: fence\n",
    }[what]
    with pytest.raises(ValueError, match=f"no {what} ") as refused:
        _core.read_policy(strange)
    known = str(refused.value).partition("it is one of ")[2].split(", ")
    assert len(known) > 5
    language = PAGE[PAGE.index("## The policy language") : PAGE.index("## The model")]
    assert [word for word in known if not re.search(rf"`{word}\b", language)] == []
