"""The engine that runs the points of a sweep."""

from pathlib import Path
from typing import cast, get_args

from ipivrs import profiles
from ipivrs.names import Engine
from ipivrs.options import did_you_mean
from ipivrs.profiles import Profile

DEFAULT_ENGINE: Engine = "virtual-time"
"""What runs the points of a sweep unless it is told otherwise: deterministic, and one thread for each point."""


def known_engine(engine: str) -> Engine:
    """The engine of this name.

    Raises:
        ValueError: There is none.
    """
    known = list(get_args(Engine))
    if engine not in known:
        raise ValueError(f"engine must be one of {', '.join(known)}, not {engine!r}{did_you_mean(engine, known)}")
    return cast("Engine", engine)


def profile_for(engine: Engine, name: str | None, folder: Path) -> tuple[str | None, Profile | None]:
    """What an engine takes for acts to cost, by its name and whole: the default if `name` is None.

    Args:
        engine: Only virtual time has costs.
        name: A shipped profile, or the path of a file.
        folder: Where relative paths begin.

    Raises:
        ValueError: There is no such profile, it has a mistake, or the engine takes none.
    """
    if engine == "threads":
        if name is not None:
            raise ValueError(f"the engine {engine} takes no profile: leave out {name!r}")
        return None, None
    name = name or profiles.DEFAULT
    return name, profiles.find(name, folder)
