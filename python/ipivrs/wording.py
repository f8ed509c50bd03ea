"""Numbers and the words that go with them."""

from collections.abc import Iterable, Mapping
from typing import Any

_ONE_IS = {
    "are INIT or start-up IPIs": "is an INIT or start-up IPI",
    "are NMIs": "is an NMI",
    "are SMIs": "is an SMI",
}
_ONE = {"are": "is", "were": "was", "have": "has", "go": "goes", "use": "uses", "exit": "exits"}


def noun(count: int, one: str, many: str | None = None) -> str:
    """What so many are called: "violation" or "violations"."""
    return one if count == 1 else many or f"{one}s"


def how_many(violations: Iterable[Mapping[str, Any]]) -> int:
    """So many violations: the last one may stand for those that are not kept."""
    return sum(violation.get("count", 1) for violation in violations)


def kinds(violations: Iterable[Mapping[str, Any]]) -> str:
    """The kinds of violations, each once."""
    return ", ".join(dict.fromkeys(violation["kind"] for violation in violations if "count" not in violation))


def rounded(value: float, digits: int) -> str:
    """A number with so many digits behind the point; what is rounded to 0 has no sign."""
    return difference(value, digits).removeprefix("+")


def difference(value: float, digits: int) -> str:
    """The same with its sign in front: "+1.5", "-1.5", "0.0"."""
    text = f"{value:+,.{digits}f}"
    return text if text.strip("+-0.") else text[1:]


def times(count: int) -> str:
    """How often: "once", "2 times"."""
    return "once" if count == 1 else f"{count} times"


def predicate(count: int, of_many: str) -> str:
    """What so many do or are, from what is said of many: "are sent" or "is sent"."""
    if count != 1:
        return of_many
    verb, _, rest = of_many.partition(" ")
    return _ONE_IS.get(of_many) or f"{_ONE.get(verb, verb)} {rest}"
