"""What the shell completes: the names that ipivrs knows. Where none fits, the shell goes on with files."""

from collections.abc import Callable, Iterable
from typing import get_args

from ipivrs import grid, policies, profiles, published
from ipivrs.entries import collection

Completion = Callable[[str], list[str]]
"""Takes what is there of a word, gives the words that it may become."""


def _among(known: Callable[[], Iterable[str]]) -> Completion:
    def complete(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete.lower())]

    return complete


def one_of(names: object) -> Completion:
    """Completes the names of a `Literal`."""
    return _among(lambda: get_args(names))


policy = _among(policies.shipped)
"""Policies that `ipivrs run` knows."""

protocol = _among(lambda: sorted({entry.name for entry in collection()} | policies.shipped().keys()))
"""What `ipivrs check` knows: the collection and the shipped policies."""

profile = _among(profiles.shipped)
"""Profiles of costs."""

measurements = _among(published.shipped)
"""Published measurements."""

sweep_grid = _among(grid.shipped_grids)
"""Grids that ipivrs ships."""
