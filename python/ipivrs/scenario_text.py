"""From a TOML file to a checked model, with the place of every mistake."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ipivrs import _core
from ipivrs.options import did_you_mean

_MOST_MISTAKES = 5
_BOUNDS = {
    "greater_than_equal": ("ge", "{} or more"),
    "less_than_equal": ("le", "{} or less"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
}
_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text in quotes",
    "list_type": "a list in square brackets",
    "model_type": "a table",
    "model_attributes_type": 'a table with a name, such as { name = "ping" }',
    "dict_type": "a table",
    "too_short": "a list with something in it",
    "finite_number": "a finite number",
}

# Lists of tables, which TOML writes with two brackets.
_TABLES = ("vm", "group", "handler", "device", "row")

# The table that only this kind of file has, and what to say of one that is given for another.
_KINDS = {
    "a scenario": ("vm", "this is a scenario: `ipivrs run {}` runs it"),
    "a grid": ("grid", "this is a grid: `ipivrs sweep {}` runs it"),
    "a profile": ("cost", "this is a profile: `ipivrs run SCENARIO --engine virtual-time --profile {}` uses it"),
    "measurements": ("row", "these are measurements: `ipivrs bench published {}` compares them"),
}

# Where the shipped ones are, in the package.
_FOLDERS = {"a scenario": "scenarios", "a grid": "sweeps", "a profile": "profiles", "measurements": "published"}

_NO_VALUE = re.compile(r"(?P<line>\d+):(?P<column>\d+): (invalid boolean|string values must be quoted)")

_TWICE = re.compile(r"(?P<line>\d+):(?P<column>\d+): duplicate key")
_KEY = re.compile(r""""[^"]*"|'[^']*'|[^\s.=\]]+""")

_NOTHING = object()

Path_ = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


class ScenarioError(ValueError):
    """A scenario that cannot be used. The message names the file, the line, the field, and what is allowed."""


class OtherKindError(ScenarioError):
    """A file that is something else: a grid where a scenario should be."""

    def __init__(self, place: str, kind: str, instead: str) -> None:
        """Make it of the place of what tells, what it is, and what to do with it."""
        super().__init__(f"{place}: {instead}")
        self.kind = kind


class FieldError(ValueError):
    """A scenario that no machine can be made of: the field, where it is in the table, and what is wrong with it."""

    def __init__(self, where: Path_, what: str) -> None:
        """Make it of a place and what is to be said of it."""
        super().__init__(f"{_field(where)}{what}")
        self.where = where
        self.what = what


@dataclass(frozen=True)
class Source:
    """A TOML file: where it is, what it says, and the line of each key and element."""

    path: Path
    table: dict[str, Any]
    lines: dict[Path_, int]

    def place(self, where: Path_) -> str:
        """File and line of a value, or of the innermost table around it that is there."""
        line = next((self.lines[where[:end]] for end in range(len(where), 0, -1) if where[:end] in self.lines), 1)
        return f"{self.path}:{line}"

    def mistakes(self, error: ValidationError) -> Iterator[str]:
        """What pydantic found, a line for each mistake."""
        return (self.about(*mistake) for mistake in mistakes(error, self.table, self.lines))

    def about(self, where: Path_, what: str) -> str:
        """Something about a field, with file and line."""
        return f"{self.place(where)}: {_field(where)}{what}"


def read(path: Path, what: str = "a scenario") -> Source:
    """Read a TOML file.

    Args:
        path: The file.
        what: What it should be: "a scenario", "a grid", "a profile" or "measurements".

    Raises:
        ScenarioError: It cannot be read, is no TOML, or is a file of another kind.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise ScenarioError(f"{path}: it is a folder; give {what}, a TOML file") from error
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}{_shipped(path, what)}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: it is not UTF-8 text; give {what}, a TOML file") from error
    try:
        table, lines = _core.read_toml(text)
    except ValueError as error:
        message = str(error)
        raise ScenarioError(f"{path}:{_unquoted(text, message) or _twice(text, message) or message}") from error
    source = Source(path, table, dict(lines))
    if _KINDS[what][0] not in table and (other := _kind_of(table)):
        key, instead = _KINDS[other]
        raise OtherKindError(source.place((key,)), other, instead.format(path))
    return source


def _kind_of(table: Mapping[str, Any]) -> str | None:
    """What kind of file it is; None: it is none of them."""
    return next((kind for kind, (key, _) in _KINDS.items() if key in table), None)


def _shipped(path: Path, what: str) -> str:
    """Where the shipped file is that may be meant, if this one is not there."""
    file = Path(str(files("ipivrs"))) / _FOLDERS[what] / f"{path.stem}.toml"
    if path.exists() or path.suffix not in ("", ".toml") or not file.exists():
        return ""
    return f"; shipped with this name is {file}"


def other_than_a_policy(file: str, text: str) -> str | None:
    """What to say of a file that is no policy, if it is one of these."""
    try:
        table, _ = _core.read_toml(text)
    except ValueError:
        return None
    kind = _kind_of(table)
    return _KINDS[kind][1].format(file) if kind else None


def _unquoted(text: str, message: str) -> str | None:
    """What to say of a word without quotes; the parser takes one that begins with t or f for half of true or false."""
    found = _NO_VALUE.match(message)
    if found is None:
        return None
    rest = _rest(text, found)
    word = re.split(r"[\s,\]}#]", rest, maxsplit=1)[0]
    place = f"{found['line']}:{found['column']}"
    if not word:
        return f"{place}: a value is missing"
    if word.lower() in ("true", "false"):
        return f"{place}: must be written {word.lower()}, not {word}"
    return f'{place}: {word} is no number, and a text needs quotes: "{word}"'


def _twice(text: str, message: str) -> str | None:
    """What to say of a key that its table has already."""
    found = _TWICE.match(message)
    key = found and _KEY.match(_rest(text, found))
    return f"{message}: {key[0]} is there already" if key else None


def _rest(text: str, place: re.Match[str]) -> str:
    """The rest of the line from the place that a message begins with."""
    return text.split("\n")[int(place["line"]) - 1][int(place["column"]) - 1 :]


def load(model: type[Model], path: Path, what: str = "a scenario") -> Model:
    """Read a model from a TOML file; `what` it should be, for messages."""
    source = read(path, what)
    try:
        return model.model_validate(source.table)
    except ValidationError as error:
        raise ScenarioError(shortened(source.mistakes(error))) from error


def shortened(messages: Iterable[str]) -> str:
    """Messages line by line, each once; beyond the first few only their number."""
    found = list(dict.fromkeys(messages))
    rest = len(found) - _MOST_MISTAKES
    return "\n".join(found[:_MOST_MISTAKES] + ([f"and {rest} more"] if rest > 0 else []))


def mistakes(
    error: ValidationError, table: dict[str, Any], lines: Mapping[Path_, int] | None = None
) -> Iterator[tuple[Path_, str]]:
    """The place in the table and the explanation of everything that pydantic found wrong with it.

    With `lines` an explanation that names another place has its line too.
    """
    by_place: dict[Path_, list[dict[str, Any]]] = {}
    for mistake in error.errors(include_url=False):
        context = mistake.get("ctx", {})
        unknown = (context["raw"],) if mistake["type"] == "unknown_key" else ()
        where = _place_in((*mistake["loc"], *unknown, *context.get("at", ())), table)
        line = (lines or {}).get((*mistake["loc"], *context["also"])) if "also" in context else None
        message = mistake["msg"] + (f" (line {line})" if line else "")
        by_place.setdefault(where, []).append({**mistake, "msg": message})
    for where, found in by_place.items():
        if either := _either(found):
            yield where, either
        else:
            yield from (
                (where, _brackets(where, mistake) or _a_machine(mistake) or _what(mistake)) for mistake in found
            )


def explained(error: ValidationError, name: str, fields: dict[str, Any]) -> str:
    """Everything that is wrong with the fields that a table of this name was made of in Python."""
    found = ((_field((name, *where)), what) for where, what in mistakes(error, fields))
    return shortened(f"{place}{what}" for place, what in found)


def _place_in(location: Path_, table: dict[str, Any]) -> Path_:
    """The part of a location that is in the file: pydantic puts the names of union members in between."""
    place: list[str | int] = []
    value: Any = table
    for part in location:
        inside = _inside(value, part)
        if inside is not _NOTHING:
            value = inside
            place.append(part)
        elif part == location[-1] and isinstance(value, dict):
            # What is missing is named, though it has no line of its own.
            place.append(part)
    return tuple(place)


def _inside(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part, _NOTHING)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return _NOTHING


def _field(where: Path_) -> str:
    name = ""
    for part in where:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return f"{name}: " if name else ""


def _brackets(where: Path_, mistake: dict[str, Any]) -> str | None:
    """What to write where one table stands for a list of tables, or a list for one."""
    header, given = ".".join(part for part in where if isinstance(part, str)), mistake["input"]
    if mistake["type"] == "list_type" and isinstance(given, dict) and where and where[-1] in _TABLES:
        return f"there may be several: write [[{header}]] for each, not [{header}]"
    if _TYPES.get(mistake["type"]) == "a table" and isinstance(given, list) and len(where) == 1:
        return f"there is one: write [{header}], not [[{header}]]"
    return None


def _a_machine(mistake: dict[str, Any]) -> str | None:
    """What to give instead of a machine that is there, which has nearly the name of what is to be one."""
    given = mistake["input"]
    if mistake["type"] != "model_type" or not isinstance(given, _core.Vm):
        return None
    return f"must be an ipivrs.VM, what a VM is to be, not an ipivrs.Vm, which is there and driven by hand: {given}"


def _either(found: list[dict[str, Any]]) -> str | None:
    """One message for a value that is none of the several things that it may be: a number, one of some words."""
    words = [word for mistake in found if mistake["type"] == "literal_error" for word in _words(mistake)]
    if len(found) == 1 or not words:
        return None
    others = [mistake for mistake in found if mistake["type"] != "literal_error"]
    for mistake in others:
        if mistake["type"] not in _TYPES:
            return _what(mistake)  # of the right type, and out of its range
    given = found[0]["input"]
    kinds = [_TYPES[mistake["type"]] for mistake in others]
    allowed = " or ".join([*kinds, f"one of {', '.join(words)}" if len(words) > 1 else words[0]])
    return f"must be {allowed}, not {shown(given)}{did_you_mean(str(given), words)}"


def _words(mistake: dict[str, Any]) -> list[str]:
    """What the words of a choice are."""
    context = mistake.get("ctx", {})
    expected = context.get("expected", context.get("expected_tags", "")).replace(" or ", ", ")
    return [word.strip("' ") for word in expected.split(",")]


def _what(mistake: dict[str, Any]) -> str:
    if mistake["type"] == "unknown_key":
        return f"no such field{mistake['ctx']['hint']}"
    kind, context, given = mistake["type"], mistake.get("ctx", {}), mistake.get("input")
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words.format(context[name])}, not {given}"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {shown(given)}"
    if kind in ("literal_error", "union_tag_invalid"):
        known = _words(mistake)
        word = given.get("name", given) if isinstance(given, dict) else given
        return f"must be one of {', '.join(known)}, not {shown(word)}{did_you_mean(str(word), known)}"
    if kind in ("missing", "union_tag_not_found"):
        return _nameless(given) if kind == "union_tag_not_found" else "it is missing, and must be given"
    message = str(mistake["msg"])
    return message[:1].lower() + message[1:]


def _nameless(table: object) -> str:
    alike = [key for key in table if str(key).lower() == "name"] if isinstance(table, dict) else []
    return f"no field {alike[0]!r}; did you mean name?" if alike else "a field is missing: name"


def shown(value: object) -> str:
    """A value as messages have it: not too long, true and false as TOML writes them."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."  # noqa: PLR2004
