"""What does not go together in a guest: names that nobody answers for, two programs for one vCPU or one vector.

A mistake is about the whole VM; in its context, `at` is where it is in the table of the VM, and `also` the other place.
"""

from collections.abc import Iterable
from typing import NoReturn

from pydantic_core import PydanticCustomError

from ipivrs.options import did_you_mean
from ipivrs.statements import AnyStatement, Lock, Path_, Signal, Unlock, Wait, within


def check_names(programs: Iterable[tuple[Path_, Iterable[AnyStatement]]]) -> None:
    """Refuse a wait for what nobody in the VM signals, and a release of a lock that nobody takes.

    Args:
        programs: Every program and handler of a VM, with its path.

    Raises:
        PydanticCustomError: With the nearest name.
    """
    placed = [found for path, program in programs for found in within(program, path)]
    known = {statement.signal for _, statement in placed if isinstance(statement, Signal)}
    taken = {statement.lock for _, statement in placed if isinstance(statement, Lock)}
    for path, statement in placed:
        if isinstance(statement, Wait) and statement.signal not in known:
            _refuse_name((*path, "wait"), statement.signal, "waits for {name}, which nobody in the VM signals", known)
        if isinstance(statement, Unlock) and statement.lock not in taken:
            _refuse_name((*path, "unlock"), statement.lock, "releases {name}, which nobody in the VM takes", taken)


def _refuse_name(at: Path_, name: str, what: str, known: set[str]) -> NoReturn:
    hint = did_you_mean(name, sorted(known))
    raise PydanticCustomError("guest", f"{what}{{hint}}", {"name": repr(name), "hint": hint, "at": at})


def check_once(what: str, places: Iterable[tuple[int, Path_]]) -> None:
    """Refuse a vCPU, or a vector, that has two programs.

    Args:
        what: What has the numbers: "vCPU {}".
        places: Each number, and where its program is.

    Raises:
        PydanticCustomError: With both places.
    """
    seen: dict[int, Path_] = {}
    for number, at in places:
        first = seen.setdefault(number, at)
        if first[:2] != at[:2]:
            context = {"what": what.format(number), "first": f"{first[0]}[{first[1]}]", "at": at, "also": first}
            raise PydanticCustomError("guest", "{what} has a program already, in {first}", context)
