"""How far a long call is: what it tells, and whom."""

from collections.abc import Callable

Progress = Callable[[str, int, int], object]
"""Called some times a second with what is counted, how many are done, and of how many (0: nobody knows)."""
