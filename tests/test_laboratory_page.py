"""docs/laboratory.md: its commands print what stands there, its tables are complete."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipivrs
from conftest import Shell
from ipivrs import _core
from ipivrs.bounds import RANGES, option
from ipivrs.check_report import KINDS

PAGE = (Path(__file__).parent.parent / "docs" / "laboratory.md").read_text(encoding="utf-8")
LEFT_OUT = "[...]"
COST = re.compile(r"[\d,]+ states, [\d.]+ s, \d+ threads?")


def blocks() -> Iterator[tuple[str, str]]:
    """The policies and the commands with their outputs, top to bottom."""
    for match in re.finditer(r"^```(policy|console)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def commands() -> Iterator[tuple[str, str, str]]:
    """Each command, what it prints on the page, and the policy that stands above it."""
    policy = ""
    for kind, text in blocks():
        if kind == "policy":
            policy = text
            continue
        for part in text.split("$ ipivrs ")[1:]:
            command, _, output = part.partition("\n")
            yield command, output.strip("\n"), policy


COMMANDS = list(commands())


def test_there_is_something_to_run() -> None:
    assert len(COMMANDS) > 5


@pytest.mark.parametrize(("number", "command"), [(at, command) for at, (command, _, _) in enumerate(COMMANDS)], ids=str)
def test_a_command_prints_what_the_page_says(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, command: str
) -> None:
    _, expected, policy = COMMANDS[number]
    (tmp_path / "mine.policy").write_text(policy, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = shell(*shlex.split(command))
    assert result.stderr == ""
    assert result.exit_code == (1 if "is refuted" in expected else 0)
    # How many states there are and how long they take is not the page's subject.
    printed, shown = (COST.sub("COST", text) for text in (result.stdout, expected))
    whole = r"\n(?:.*\n)*?".join(re.escape(part.strip("\n")) for part in shown.split(LEFT_OUT))
    assert re.fullmatch(whole, printed.rstrip("\n") + ("\n" if shown.endswith(LEFT_OUT) else "")), printed


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
