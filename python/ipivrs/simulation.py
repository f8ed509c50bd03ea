"""What came of a scenario, and the way there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from ipivrs import _core, notebook, profiles
from ipivrs.frames import Column, Named, Tabular
from ipivrs.policies import find
from ipivrs.progress import Progress
from ipivrs.reports import Drawable
from ipivrs.results import Exit, Latency, Notifications, Violation
from ipivrs.scenario_text import FieldError
from ipivrs.wording import how_many, noun


class ScenarioCounters(TypedDict):
    """What became of the interrupts.

    `total` is the sum of `virtualized` to `wild`, the fates of the IPIs that guests sent. `posted` is what was posted
    for vCPUs: `virtualized` + `self` + `software_posts` + `device_posts`; it is always `delivered` + `coalesced` +
    `discarded` + `pending`. `discarded` went with the state of a local APIC that was reset or disabled, `dropped`
    found no destination, `signalled` are NMIs, SMIs, INITs, start-up IPIs and illegal vectors handed over.
    """

    total: int
    virtualized: int
    self: int
    exited: int
    faulted: int
    escaped: int
    wild: int
    software_posts: int
    device_posts: int
    posted: int
    delivered: int
    coalesced: int
    discarded: int
    pending: int
    dropped: int
    signalled: int
    nmis: int


class Scheduling(TypedDict):
    """What the scheduler did."""

    entries: int
    preemptions: int
    migrations: int
    blocks: int
    wakeups: int
    spurious_wakeups: int
    apicv_changes: int


class PidTable(TypedDict):
    """A PID-pointer table as the kernel allocates it: 2**order pages of 4 KiB."""

    entries: int
    order: int
    bytes: int


class Events(TypedDict):
    """The first events of a run, a row each: when (cycles), on which pCPU, to which vCPU, what, vector, other vCPU.

    `what` is, of an IPI that a guest sends, "posted", "self-ipi", "exited" or "faulted"; "routed" or "device" when the
    hypervisor or a device posts for the vCPU; "delivered"; "loaded", "entered", "left" (`other` is the basic exit
    reason), "preempted", "slept", "runnable" (it sleeps no longer) and "woke" (it goes on).
    `since` is when it began: for interrupts the write that sent them, so that `time - since` of "delivered" is the
    latency, for "entered" and "left" the VM entry and VM exit. A `pcpu` that the host does not have is a device.
    vCPUs are counted over all VMs. `more` events came after the log was full.
    """

    time: NDArray[np.uint64]
    since: NDArray[np.uint64]
    pcpu: NDArray[np.uint32]
    vcpu: NDArray[np.uint32]
    what: list[str]
    vector: NDArray[np.uint8]
    other: NDArray[np.uint32]
    more: int


class VmOutcome(TypedDict):
    """A VM at the end. `inhibits` are the reasons against APICv, by KVM's names.

    `sent` and `delivered` have a number for each vCPU: the IPIs that it sent, whatever became of them, and the
    interrupts delivered to it, from whomever.
    """

    vcpus: int
    table: PidTable
    last_index: int
    ipi_virtualization: bool
    apicv: bool
    inhibits: list[str]
    sent: list[int]
    delivered: list[int]


@dataclass(frozen=True)
class Shape:
    """What an event log is about: the cycles in a second, pCPUs, and vCPUs of each VM, those added later included."""

    hz: int
    pcpus: int
    vcpus: tuple[int, ...]

    def labels(self) -> list[str]:
        """The vCPUs as the log counts them: by number, and by VM and number where there are several VMs."""
        several = len(self.vcpus) > 1
        return [
            f"{vm}.{vcpu}" if several else str(vcpu) for vm, count in enumerate(self.vcpus) for vcpu in range(count)
        ]


class ScenarioResult(Tabular, Drawable):
    """What came of a scenario; `as_dict` is the JSON that `ipivrs run --json` prints."""

    def __init__(self, core: _core.ScenarioResult, title: str, shape: Shape | None = None) -> None:
        """Wrap what the core returned; made by `Scenario.run`, not by hand."""
        self._core = core
        self.title = title
        self.shape = shape

    @cached_property
    def _dict(self) -> dict[str, Any]:
        return self._core.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """The whole result in plain types, ready for `json.dumps`. A fresh copy each time."""
        return {"title": self.title, **self._core.as_dict()}

    @property
    def counters(self) -> ScenarioCounters:
        """What became of the interrupts, in numbers."""
        return cast("ScenarioCounters", self._dict["ipis"])

    @property
    def exits(self) -> list[Exit]:
        """VM exits by reason, qualification and clause, most frequent first."""
        return cast("list[Exit]", self._dict["exits"])

    @property
    def notifications(self) -> Notifications:
        """What became of the posted-interrupt notifications, in numbers."""
        return cast("Notifications", self._dict["notifications"])

    @property
    def scheduling(self) -> Scheduling:
        """What the scheduler did, in numbers."""
        return cast("Scheduling", self._dict["scheduling"])

    @property
    def vms(self) -> list[VmOutcome]:
        """The VMs at the end."""
        return cast("list[VmOutcome]", self._dict["vms"])

    @property
    def violations(self) -> list[Violation]:
        """What must never happen and did; empty when all is well."""
        return cast("list[Violation]", self._dict["violations"])

    @property
    def partial(self) -> bool:
        """Ctrl-C ended the run."""
        return cast("bool", self._dict["partial"])

    @property
    def policy(self) -> str:
        """The policy that it ran under."""
        return cast("str", self._dict["policy"])

    @property
    def seed(self) -> int:
        """What random numbers began with."""
        return cast("int", self._dict["seed"])

    @property
    def version(self) -> str:
        """The version of ipivrs that ran it."""
        return cast("str", self._dict["version"])

    @property
    def engine(self) -> str:
        """The engine that ran it: "threads" or "virtual-time"."""
        return cast("str", self._dict["engine"])

    @property
    def cycles(self) -> int | None:
        """Virtual time: cycles until the last program was at its end. None on threads."""
        return self._dict.get("cycles")

    @property
    def profile(self) -> str | None:
        """Virtual time: the profile that says what acts cost. None on threads."""
        return self._dict.get("profile")

    @property
    def latency(self) -> dict[str, Latency]:
        """Virtual time: how long interrupts took, by what they met.

        "running", "preempted" and "blocked": posted by the processor for a vCPU in that state; "exited": sent with a
        VM exit; "self": self-IPI virtualization; "device": posted through the IOMMU. Empty on threads.
        """
        return cast("dict[str, Latency]", self._dict.get("latency", {}))

    @property
    def events(self) -> Events | None:
        """Virtual time: the first events of the run, as many as `log` said. None on threads."""
        return cast("Events | None", self._core.events())

    @property
    def seconds(self) -> float:
        """How long it ran, set-up not included; simulated seconds in virtual time."""
        return cast("float", self._dict["seconds"])

    @property
    def ipis_per_second(self) -> float:
        """IPIs per second of `seconds`."""
        return cast("float", self._dict["ipis_per_second"])

    def _columns(self) -> dict[str, Column]:
        events = self.events
        if events is None:
            raise ValueError('the rows are events, and nothing kept them: run with engine="virtual-time" and log=N')
        names, codes = np.unique(np.array(events["what"], dtype=np.str_), return_inverse=True)
        return {
            "time": events["time"],
            "since": events["since"],
            "pcpu": events["pcpu"],
            "vcpu": events["vcpu"],
            "what": Named(codes.astype(np.uint8), [str(name) for name in names]),
            "vector": events["vector"],
            "other": events["other"],
        }

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return notebook.scenario(self)

    def __repr__(self) -> str:
        """One line: the totals."""
        counts = self.counters
        partial = "partial, " if self.partial else ""
        return (
            f"<ScenarioResult {self.title or 'untitled'}: {partial}{counts['total']} IPIs, "
            f"{counts['virtualized']} virtualized, {counts['self']} self, {counts['exited']} exited, "
            f"{counts['delivered']} delivered, {(many := how_many(self.violations))} {noun(many, 'violation')}>"
        )


def whole(result: ScenarioResult) -> ScenarioResult:
    """A result whose figures stand for the scenario, as those of a partial one do not.

    Raises:
        KeyboardInterrupt: It is partial: Ctrl-C ended the run, which kept it.
    """
    if result.partial:
        raise KeyboardInterrupt
    return result


@contextmanager
def _refusals_have_fields() -> Iterator[None]:
    """What the core refuses is about a field of the scenario.

    Raises:
        FieldError: Which, and what is wrong with it.
    """
    try:
        yield
    except _core.MachineError as refused:
        raise FieldError(refused.where, refused.what) from refused


def simulate(
    description: str, title: str, policy: str, seconds: float | None, *, progress: Progress | None = None
) -> ScenarioResult:
    """Run a scenario that the core can read on threads, under a policy by name or by path."""
    text = find(policy).text
    with _refusals_have_fields():
        core = _core.run_scenario(description, text, seconds=seconds, progress=progress)
    return ScenarioResult(core, title)


def simulate_in_virtual_time(
    description: str,
    title: str,
    policy: str,
    seconds: float | None,
    *,
    profile: "str | profiles.Profile",
    log: int,
    pcpus: int,
    vcpus: tuple[int, ...],
    progress: Progress | None = None,
) -> ScenarioResult:
    """Run a scenario that the core can read in virtual time, with a profile by name, by path, or made in Python."""
    name, costs = (profile, profiles.find(profile)) if isinstance(profile, str) else (profile.title, profile)
    text = find(policy).text
    with _refusals_have_fields():
        core = _core.run_scenario_in_virtual_time(
            description, text, costs.costs(), profile=name, seconds=seconds, log=log, progress=progress
        )
    return ScenarioResult(core, title, Shape(costs.hz, pcpus, vcpus))
