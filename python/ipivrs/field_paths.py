"""Dotted paths of a scenario's fields, such as vm.0.vcpus, and what stands there."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ipivrs.options import did_you_mean
from ipivrs.scenario import Scenario
from ipivrs.statements import Word

Names = tuple[str, ...]
"""The parts of a path as they are written; elements of lists are numbered from 0."""


class PathError(ValueError):
    """There is no such field. The message names what there is."""


def known_paths(scenario: Scenario) -> list[str]:
    """Every field of a scenario, with the tables and lists that fields are in."""
    return list(_below(scenario, ()))


def _below(value: object, path: Names) -> Iterator[str]:
    if path:
        yield ".".join(path)
    inner: list[tuple[str, object]] = []
    if isinstance(value, BaseModel) and not isinstance(value, Word):
        inner = [(name, getattr(value, field)) for name, field in _names(value)]
    elif isinstance(value, list):
        inner = [(str(at), element) for at, element in enumerate(value)]
    for name, element in inner:
        yield from _below(element, (*path, name))


def _names(model: BaseModel) -> list[tuple[str, str]]:
    """The fields of a model: their names in a file, and in Python."""
    return [(field.alias or name, name) for name, field in type(model).model_fields.items()]


def plain(value: object) -> Any:  # noqa: ANN401
    """A scenario made in Python as a file would have it: in plain types, without what has its default."""
    if isinstance(value, Word):
        return value.word
    if isinstance(value, BaseModel):
        # The first key of a statement says what it does; a workload is known by its name.
        kept = value.model_fields_set | {"name"}
        return {name: plain(getattr(value, field)) for name, field in _names(value) if field in kept}
    if isinstance(value, dict):
        return {name: plain(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return [plain(element) for element in value]
    return value


def put(table: dict[str, Any], path: Names, value: object) -> tuple[str | int, ...]:
    """Set a field in the table of a scenario; tables on the way to it are made as they are needed.

    Returns:
        The path with numbers for the elements of lists, as pydantic has it.

    Raises:
        PathError: A list has no such element, or something on the way is no table.
    """
    inside: Any = table
    place: list[str | int] = []
    for at, name in enumerate(path):
        last = at == len(path) - 1
        if isinstance(inside, list):
            part: str | int = _position(inside, path, at)
        elif isinstance(inside, dict):
            part = name
            if name not in inside and not last:
                inside[name] = _made(path, at, list(inside))
        else:
            raise PathError(f"the scenario has no {'.'.join(path)}: {'.'.join(path[:at])} is {inside!r}, not a table")
        place.append(part)
        if last:
            inside[part] = value
        else:
            inside = inside[part]
    return tuple(place)


def _position(elements: list[Any], path: Names, at: int) -> int:
    name, of = path[at], ".".join(path[:at])
    if name.isdecimal() and int(name) < len(elements):
        return int(name)
    known = [f"{of}.{number}" for number in range(len(elements))]
    shown = ", ".join(known) if len(known) < 4 else f"{known[0]} to {known[-1]}"  # noqa: PLR2004
    raise PathError(f"the scenario has no {of}.{name}: {f'it has {shown}' if known else f'{of} is empty'}")


def _made(path: Names, at: int, known: list[str]) -> dict[str, Any]:
    if path[at + 1].isdecimal():
        missing = f"the scenario has no {'.'.join(path[: at + 2])}: it has no {'.'.join(path[: at + 1])}"
        raise PathError(f"{missing}{did_you_mean(path[at], known)}")
    return {}


def unknown(path: str, known: list[str]) -> str:
    """That there is no such field, and which is most like it."""
    last = path.rpartition(".")[2]
    alike = [name for name in known if name.rpartition(".")[2] == last]
    nearest = did_you_mean(path, known) if not alike else f"; did you mean {alike[0]}?"
    return f"no such field of the scenario{nearest or ': see help(ipivrs.Scenario) for its fields'}"
