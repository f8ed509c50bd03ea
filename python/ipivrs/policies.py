"""Policies: shipped ones by name, the user's by path."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ipivrs import _core
from ipivrs.options import did_you_mean

ELSEWHERE = {
    "acrn-1462": "ACRN",
    "acrn-4778": "ACRN",
    "acrn-4978": "ACRN",
    "avic": "AMD's AVIC",
    "avic-1235": "AMD's AVIC",
}
"""Shipped policies that are not for Intel's IPI virtualization under KVM, and whose they are."""


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


def beside(name: str, folder: Path) -> str:
    """What stands for a policy in a file of this folder, as it is from the current directory.

    A shipped policy's name stays as it is, and so does an absolute path.
    """
    return name if not name or name in shipped() else str(folder / name)


def find(name: str, folder: Path = Path(), *, also: Iterable[str] = ()) -> Policy:
    """The policy of this name, or in this file.

    Args:
        name: A shipped policy, or the path of a file.
        folder: Where a relative path begins.
        also: Other names that the user may have meant.

    Raises:
        PolicyError: There is none, or its text has a mistake.
    """
    known = shipped()
    if name in known:
        return parsed(f"{name}.policy", known[name])
    path = folder / name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        # A scenario that was loaded has a path, whatever was meant in its file.
        word = Path(name).name
        if why := _why_only_checked(word):
            raise PolicyError(why) from error
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        names = [*known, *(other for other in also if other not in known)]
        hint = did_you_mean(word, names) or f"; shipped are {', '.join(names)}"
        if not name:
            raise PolicyError(f"the name of the policy is empty{hint}") from error
        file = "" if path == Path(name) else f" {path}"
        raise PolicyError(f"no policy {name!r}: as a file{file}, {why}{hint}") from error
    try:
        return parsed(str(path), text)
    except PolicyError as error:
        from ipivrs.scenario_text import other_than_a_policy  # noqa: PLC0415 (it takes a while)

        if instead := other_than_a_policy(str(path), text):
            raise PolicyError(f"{path}: {instead}") from error
        raise


def _why_only_checked(name: str) -> str | None:
    """What to say of a protocol of the collection that is no policy of its own; None of any other name."""
    from ipivrs.entries import collection  # noqa: PLC0415 (it is made of policies)

    entry = next((entry for entry in collection() if entry.name == name), None)
    if entry is None:
        return None
    start = f"policy {name} is for `ipivrs check`: it is {entry.policy}"
    if entry.policy_text == shipped()[entry.policy]:
        return f"{start} under bounds of its own; use {entry.policy}"
    return f"{start} with lines changed; use {entry.policy}, or a file with lines of your own"


def parsed(file: str, text: str) -> Policy:
    """The policy of this text; `file` is what its mistakes are reported under.

    Raises:
        PolicyError: The text has a mistake.
    """
    try:
        name, source = _core.read_policy(text)
    except ValueError as error:
        raise PolicyError(f"{file}:{error}") from error
    return Policy(name, source, text)
