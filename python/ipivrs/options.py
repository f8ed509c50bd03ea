"""From the shell's words to values. Every refusal names the option, what is allowed and the nearest name."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

_LEAST_FIELD = 0xFF


_Error = TypeVar("_Error", bound="ArgumentError")


class BadInputError(Exception):
    """What the user gave cannot be used; the message says what to change."""


def option(name: str) -> str:
    """The command-line option of an argument, or of one that is set, such as restart=True."""
    return f"--{name.removesuffix('=True').replace('_', '-')}"


class ArgumentError(ValueError):
    """A refusal that names arguments; `in_shell` has the same of the options that they are in the shell."""

    in_shell: str | None = None

    @classmethod
    def naming(cls: type[_Error], message: Callable[[Callable[[str], str]], str]) -> _Error:
        """Make it of a message that is given how to name an argument."""
        error = cls(message(str))
        error.in_shell = message(option)
        return error


def whole_number(name: str, value: object, low: int, high: int, error: type[ArgumentError] = ArgumentError) -> int:
    """An argument as Python has it, NumPy's integers too: what the core would refuse without its name or its range.

    Raises:
        ArgumentError: It is no whole number, as True and False are none, or out of its range; of the class `error`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise error.naming(lambda named: f"{named(name)} must be a whole number, {low} to {high}, not {value!r}")
    if not low <= (number := int(value)) <= high:
        raise error.naming(lambda named: f"{named(name)} must be {low} to {high}, not {number}")
    return number


def check_whole_numbers(ranges: Mapping[str, tuple[int, int]], **given: object) -> None:
    """Refuse arguments that were given and are not within their ranges.

    Raises:
        ArgumentError: One is no whole number, or out of its range.
    """
    for name, value in given.items():
        if value is not None:
            whole_number(name, value, *ranges[name])


def real_number(name: str, value: object, low: float, high: float) -> float:
    """The same of an argument that may have a fraction.

    Raises:
        ArgumentError: It is no number, or out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value < low or not value <= high:
        raise ArgumentError.naming(lambda named: f"{named(name)} must be {low} to {high}, not {value!r}")
    return float(value)


@contextmanager
def refusals_are_bad_input() -> Iterator[None]:
    """What the library refuses with a ValueError is the user's to mend."""
    try:
        yield
    except ArgumentError as error:
        raise BadInputError(error.in_shell or str(error)) from error
    except ValueError as error:
        raise BadInputError(str(error)) from error


def nearest(word: str, known: list[str], cutoff: float = 0.5) -> str | None:
    """The known word most like this one, if any is like it at all."""
    matches = get_close_matches(word.lower(), known, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(word: str, known: list[str]) -> str:
    """The question to put behind an error message, or nothing."""
    match = nearest(word, known)
    return f"; did you mean {match}?" if match else ""


def number(option: str, text: str, low: int, high: int) -> int:
    """A number in decimal or, with 0x in front, in hexadecimal."""
    allowed, example = f"{low} to {high}", ""
    if high >= _LEAST_FIELD and high & (high + 1) == 0:
        # All that so many bits can be is nearer in hexadecimal.
        allowed, example = f"{allowed} ({low:#x} to {high:#x})", ", such as 25 or 0x19"
    try:
        value = int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        raise BadInputError(f"{option} must be a number, {allowed}{example}; not {text!r}") from None
    if not low <= value <= high:
        raise BadInputError(f"{option} must be {allowed}, not {text}")
    return value


def decimal(option: str, text: str, low: float, high: float) -> float:
    """A number with or without a fraction."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise BadInputError(f"{option} must be a number, {low} to {high}, such as 2 or 0.5; not {text!r}")
    return value


def numbers(option: str, text: str, low: int, high: int) -> list[int]:
    """Numbers with commas between them."""
    return [number(f"each of {option}", part.strip(), low, high) for part in text.split(",")]


def choice(option: str, text: str, known: tuple[str, ...]) -> str:
    """One of the known words, in any case."""
    if text.lower() not in known:
        question = did_you_mean(text, list(known))
        raise BadInputError(f"{option} must be one of {', '.join(known)}; not {text!r}{question}")
    return text.lower()


def check_writable(option: str, path: Path) -> None:
    """Refuse a path that cannot be written, before there is something to write. What is there stays as it is.

    Raises:
        BadInputError: It cannot be written, for the reason that the system gives.
    """
    if why := _why_unwritable(path):
        raise BadInputError(f"{option} {path} cannot be written: {why}")


def _why_unwritable(path: Path) -> str | None:
    try:
        if path.is_fifo():
            # A pipe is not opened: its reader would take the end of that for the end of all.
            return None if os.access(path, os.W_OK) else os.strerror(errno.EACCES)
        try:
            os.close(os.open(path, os.O_WRONLY))
        except FileNotFoundError:
            if not path.parent.exists():
                return f"there is no folder {path.parent}"
            # A file without a name, where the system has such.
            TemporaryFile(dir=path.parent).close()
    except OSError as error:
        return error.strerror
    return None
