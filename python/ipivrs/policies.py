"""Policies: shipped ones by name, the user's by path."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ipivrs import _core
from ipivrs.options import did_you_mean


class PolicyError(ValueError):
    """A policy that cannot be used. The message names the file, the line and column, and what is allowed."""


@dataclass(frozen=True)
class Policy:
    """A posted-interrupt protocol: its name, where it comes from, and its text."""

    name: str
    source: str
    text: str


def shipped() -> dict[str, str]:
    """The texts of the shipped policies, by name."""
    folder = files("ipivrs") / "policies"
    found = {item.name.removesuffix(".policy"): item for item in folder.iterdir() if item.name.endswith(".policy")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def find(name: str) -> Policy:
    """The policy of this name, or in this file.

    Raises:
        PolicyError: There is none, or its text has a mistake.
    """
    known = shipped()
    if name in known:
        return _parsed(f"{name}.policy", known[name])
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        hint = did_you_mean(name, list(known)) or f"; shipped are {', '.join(known)}"
        raise PolicyError(f"no policy {name!r}: as a file, {why}{hint}") from error
    return _parsed(name, text)


def _parsed(file: str, text: str) -> Policy:
    try:
        name, source = _core.read_policy(text)
    except ValueError as error:
        raise PolicyError(f"{file}:{error}") from error
    return Policy(name, source, text)
