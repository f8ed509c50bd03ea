"""The protocol laboratory: every interleaving of a posted-interrupt policy, within bounds."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

from ipivrs import __version__, _core, notebook, variants
from ipivrs.bounds import Bounds, MemoryModel
from ipivrs.entries import HOLDS, collection
from ipivrs.frames import Column, Tabular
from ipivrs.options import check_whole_numbers
from ipivrs.policies import find, parsed, shipped
from ipivrs.progress import Progress

LIMITS = {"threads": (1, 256), "max_states": (1, 10**9), "max_memory": (1, 2**24)}
"""What ends a search, or is used for it, and what each may be."""

_MIB = 2**20


class Property(TypedDict):
    """One thing that must hold; `holds` is None where the search ended before that was clear."""

    name: str
    holds: bool | None


class Step(TypedDict):
    """One step of a counterexample.

    `actor` says who, and on which pCPU; `column` the same without the pCPU. `routine` and `line` are where the policy
    has the step, None for what hardware and the scheduler do. `choice` is the step's number among all that were
    possible, for replays.
    """

    actor: str
    column: str
    step: str
    routine: str | None
    line: int | None
    changes: list[str]
    choice: int


class CheckViolation(TypedDict):
    """What breaks: one of the properties' names, and a sentence."""

    kind: str
    message: str


class WorstCase(TypedDict):
    """The most that a run within the bounds can have; None where there is no most."""

    spurious_notifications: int | None
    spurious_wakeups: int | None


class CheckResult(Tabular):
    """A proof within bounds, or the shortest way to break a policy; `as_dict` is what `ipivrs check --json` prints."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Wrap what the core found; made by `check`, not by hand."""
        self._values = dict(values)

    def as_dict(self) -> dict[str, Any]:
        """The whole result in plain types, ready for `json.dumps`."""
        return dict(self._values)

    @property
    def policy(self) -> str:
        """The policy's name."""
        return cast("str", self._values["policy"])

    @property
    def file(self) -> str | None:
        """The file that it is in; None of a shipped one."""
        return cast("str | None", self._values["file"])

    @property
    def holds(self) -> bool | None:
        """Whether every property holds within the bounds; None if the search had to end before that was clear."""
        return cast("bool | None", self._values["holds"])

    @property
    def verdict(self) -> str:
        """In one word: "holds", the property that breaks, or "undecided"."""
        if self.violation is not None:
            return self.violation["kind"]
        return HOLDS if self.holds else "undecided"

    @property
    def bounds(self) -> Bounds:
        """What was explored."""
        return Bounds.from_dict(self._values["bounds"])

    @property
    def states(self) -> int:
        """Different states that were reached."""
        return cast("int", self._values["states"])

    @property
    def seconds(self) -> float:
        """How long the search took."""
        return cast("float", self._values["seconds"])

    @property
    def properties(self) -> list[Property]:
        """What must hold, one by one."""
        return cast("list[Property]", self._values["properties"])

    @property
    def violation(self) -> CheckViolation | None:
        """What breaks, if something does."""
        return cast("CheckViolation | None", self._values["violation"])

    @property
    def counterexample(self) -> list[Step] | None:
        """The shortest way there, if something breaks."""
        return cast("list[Step] | None", self._values["counterexample"])

    @property
    def diagnosis(self) -> str | None:
        """What is set, who sleeps, and why nobody will come."""
        return cast("str | None", self._values["diagnosis"])

    @property
    def worst_case(self) -> WorstCase | None:
        """Notifications and wake-ups for nothing, at most; only of a policy that holds."""
        return cast("WorstCase | None", self._values["worst_case"])

    @property
    def undecided(self) -> str | None:
        """The bound that ended the search, if one did."""
        return cast("str | None", self._values["undecided"])

    def _columns(self) -> dict[str, Column]:
        steps = self.counterexample or []
        rows = [{**step, "changes": "; ".join(step["changes"])} for step in steps]
        return {name: [row[name] for row in rows] for name in Step.__annotations__}

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return notebook.check(self)

    def __repr__(self) -> str:
        """One line: the verdict."""
        return f"<CheckResult {self.policy}: {self.verdict}, {self.states} states, {self.seconds:.2f} s>"


@dataclass(frozen=True)
class Subject:
    """A policy to check: its text with all changes in it, the file that it is from if any, and under which bounds."""

    name: str
    source: str
    text: str
    without: tuple[str, ...]
    bounds: Bounds
    file: str | None = None

    def check(
        self,
        *,
        threads: int | None = None,
        max_states: int | None = None,
        max_memory: int | None = None,
        progress: Progress | None = None,
    ) -> CheckResult:
        """Explore it; the arguments are those of `check`.

        `progress` is called some times a second with "states", how many were reached, and 0: nobody knows of how many.
        """
        check_whole_numbers(LIMITS, threads=threads, max_states=max_states, max_memory=max_memory)
        max_bytes = None if max_memory is None else max_memory * _MIB
        try:
            found = _core.check(
                self.text,
                self.bounds.as_json(),
                threads=threads,
                max_states=max_states,
                max_bytes=max_bytes,
                progress=progress,
            )
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}" if self.file else str(error)) from error
        about = {
            "policy": self.name,
            "file": self.file,
            "source": self.source,
            "bounds": self.bounds.as_dict(),
            "without": list(self.without),
            "version": __version__,
            "policy_text": self.text,
        }
        return CheckResult({**found, **about})

    def with_text(self, text: str) -> "Subject":
        """The same with another text, which is in no file."""
        return replace(self, text=text, file=None)


def subject(
    policy: "str | os.PathLike[str]", without: Sequence[str] = (), bounds: Mapping[str, Any] | None = None
) -> Subject:
    """What a name stands for: an entry of the collection, a shipped policy, or a file.

    Args:
        policy: The name or the path.
        without: Lines to leave out, beside those that the entry leaves out itself.
        bounds: The bounds that are given; the others are the entry's, or else the defaults.

    Raises:
        PolicyError: There is no such policy, or its text has a mistake.
        VariantError: A line to leave out is not there.
        BoundsError: The bounds cannot be explored.
    """
    name = os.fspath(policy)
    entries = {entry.name: entry for entry in collection()}
    if name in entries:
        entry = entries[name]
        start = Subject(name, entry.source, entry.policy_text, entry.without, entry.bounds)
    else:
        found = find(name, also=entries)
        file = None if name in shipped() else name
        start = Subject(found.name, found.source, found.text, (), Bounds(), file)
    text = start.text
    for spec in without:
        text = variants.without(text, spec)
    if without:
        parsed(f"{start.name} without {', '.join(without)}", text)
    asked = Bounds.from_dict({**start.bounds.as_dict(), **(bounds or {})})
    return replace(start, text=text, without=(*start.without, *without), bounds=asked)


def check(
    policy: "str | os.PathLike[str]",
    *,
    without: str | Sequence[str] = (),
    senders: int | None = None,
    devices: int | None = None,
    software: int | None = None,
    posts: int | None = None,
    preemptions: int | None = None,
    migrations: int | None = None,
    exits: int | None = None,
    pcpus: int | None = None,
    vcpus: int | None = None,
    memory_model: MemoryModel | None = None,
    urgent: bool | None = None,
    publish: bool | None = None,
    inhibit: bool | None = None,
    rewrite_id: bool | None = None,
    ipiv: bool | None = None,
    threads: int | None = None,
    max_states: int | None = None,
    max_memory: int | None = None,
) -> CheckResult:
    """Explore every interleaving of a posted-interrupt policy: a proof within bounds, or the shortest counterexample.

    Args:
        policy: A name of the collection (`ipivrs.collection()`), of a shipped policy, or a file's path.
        without: A line that is left out, such as "load: if pir: set_on"; or several.
        senders: The bounds, `senders` to `ipiv`, are those of `ipivrs.Bounds`. What is not given comes from the entry
            of the collection, or else has the default of `ipivrs.Bounds`.
        devices: See `senders`.
        software: See `senders`.
        posts: See `senders`.
        preemptions: See `senders`.
        migrations: See `senders`.
        exits: See `senders`.
        pcpus: See `senders`.
        vcpus: See `senders`.
        memory_model: See `senders`.
        urgent: See `senders`.
        publish: See `senders`.
        inhibit: See `senders`.
        rewrite_id: See `senders`.
        ipiv: See `senders`.
        threads: Threads that search, 1 to 256; by default as many as the machine runs at once. The verdict and the
            counterexample do not depend on it.
        max_states: The search gives up beyond so many states, 1 to 10**9, which is the default.
        max_memory: The search gives up beyond so many MiB, 1 to 2**24, by default 4096.

    Returns:
        The verdict. `holds` is None if `max_states` or `max_memory` was hit.

    Raises:
        PolicyError: There is no such policy, or its text has a mistake: file, line and column.
        VariantError: A line to leave out is not there.
        BoundsError: A bound is out of its range, or two do not go together.
        ValueError: The policy cannot be checked within these bounds, such as for want of a routine; or `threads`,
            `max_states` or `max_memory` is out of its range.
    """
    bounds = {
        "senders": senders,
        "devices": devices,
        "software": software,
        "posts": posts,
        "preemptions": preemptions,
        "migrations": migrations,
        "exits": exits,
        "pcpus": pcpus,
        "vcpus": vcpus,
        "memory_model": memory_model,
        "urgent": urgent,
        "publish": publish,
        "inhibit": inhibit,
        "rewrite_id": rewrite_id,
        "ipiv": ipiv,
    }
    given = {name: value for name, value in bounds.items() if value is not None}
    what = subject(policy, [without] if isinstance(without, str) else without, given)
    return what.check(threads=threads, max_states=max_states, max_memory=max_memory)
