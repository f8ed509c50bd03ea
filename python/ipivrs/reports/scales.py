"""Numbers and times in words, and the marks of an axis."""

import math

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_STEPS = (1, 2, 5, 10)


def count(number: float) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,.0f}"


def marks(least: float, most: float, about: int, finest: float = 0.0) -> list[float]:
    """Round numbers from `least` to `most`, about so many, no closer than `finest`."""
    if most <= least:
        return [least]
    rough = max((most - least) / max(about, 1), finest)
    power = 10 ** math.floor(math.log10(rough))
    step = next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def unit_of(seconds: float) -> tuple[float, str]:
    """The unit in which so long a time reads well: its seconds, and its name."""
    return next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])


def duration(seconds: float) -> str:
    """A time with its unit, to four figures."""
    size, name = unit_of(seconds)
    return f"{seconds / size:.4g} {name}"


def powers(least: float, most: float) -> list[int]:
    """The powers of ten around numbers that are 1 or more."""
    low, high = math.floor(math.log10(max(least, 1))), math.ceil(math.log10(max(most, 1)))
    return [10**power for power in range(low, max(high, low + 1) + 1)]
