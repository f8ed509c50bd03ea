"""Recordings in, results out: `run_recording` and what it returns."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from ipivrs import _core, notebook, profiles
from ipivrs.frames import Column, Named, Tabular
from ipivrs.names import Apic, Engine, Pace
from ipivrs.options import check_whole_numbers, whole_number
from ipivrs.policies import find as find_policy
from ipivrs.progress import Progress
from ipivrs.remedies import remedies
from ipivrs.remedy import Remedy
from ipivrs.reports import Drawable
from ipivrs.wording import how_many, noun

IPI_DTYPE = np.dtype(
    [
        ("time_ns", np.uint64),  # nanoseconds on the recording's own clock
        ("sender", np.uint32),  # position in recording["vcpus"]
        ("destination", np.uint32),  # as written: APIC ID or logical destination; noise with a shorthand
        ("vector", np.uint8),
        ("icr_low", np.uint32),  # ICR bits 31:0
        ("via", np.uint8),  # the register written: position in RunResult.via_names
        ("fate", np.uint8),  # position in RunResult.fate_names
        ("clause", np.uint16),  # what decided: position in RunResult.clause_names
    ]
)
"""One IPI, as `RunResult.ipis` has it."""


class Counters(TypedDict):
    """What became of the IPIs.

    `total` is the sum of `virtualized` to `wild`. `escaped` reached the physical local APIC, `wild` were led to memory
    that is not the processor's to touch: both come with violations. The last three are about posted vectors.
    """

    total: int
    virtualized: int
    self: int
    exited: int
    faulted: int
    escaped: int
    wild: int
    delivered: int
    coalesced: int
    pending: int


class Exit(TypedDict):
    """VM exits of one kind. `reason` is the basic exit reason of SDM appendix C, `name` its name there."""

    reason: int
    qualification: int
    name: str
    clause: str
    count: int


class Kind(TypedDict):
    """IPIs that are alike in all but their sender and destination. `access` says how they were written."""

    apic: str
    access: str
    vector: int
    delivery_mode: str
    destination_mode: str
    shorthand: str
    level: str
    trigger: str
    fate: str
    clause: str | None
    condition: str | None
    count: int


class Notifications(TypedDict):
    """Posted-interrupt notifications: sent; not sent as SN was 1, or as ON was 1; arrived with nothing to do.

    The first three are those of the processor and of devices, `spurious` is of all, the hypervisor's own included.
    """

    sent: int
    suppressed: int
    coalesced: int
    spurious: int


class _Violation(TypedDict):
    kind: str
    vcpu: int | None
    message: str


class Violation(_Violation, total=False):
    """Something that must never happen, such as a write outside every live allocation.

    `vcpu` is counted over all VMs. A "stall" in which nothing goes on is of all vCPUs: `vcpu` is the first whose
    program is not at its end, and the message has the state of each.
    The first are kept word for word. Where there were more, a last one of kind "more" has their number in `count`.
    """

    count: int


class RecordedVcpu(TypedDict):
    """One vCPU of the recording. `thread` and `process` are the recorder's ids, None where it shows none.

    `virtualized` of `ipis_sent` needed no exit, by itself or another; `received` are those of all vCPUs that were for
    this one. `id_written` is the last xAPIC ID that the guest wrote, if it wrote one.
    """

    vm: int
    vcpu: int
    apic_id: int
    thread: int | None
    process: int | None
    name: str
    ipis_sent: int
    virtualized: int
    received: int
    id_written: int | None


class HypercallIpis(TypedDict):
    """Paravirtual IPIs (KVM_HC_SEND_IPI) with one ICR: hypercalls, and targets of all of them together."""

    icr_low: int
    calls: int
    targets: int


class InhibitChange(TypedDict):
    """`kvm_apicv_inhibit_changed`: APICv of a VM had one reason more, or one less, against it.

    `reason` is its number in that kernel's enum kvm_apicv_inhibit, `inhibits` has a bit for each reason after the
    change.
    """

    time_ns: int
    process: int | None
    reason: int
    set: bool
    inhibits: int


class RecordedOn(TypedDict):
    """The machine, as far as the file tells: `uname -r`, the processor's name, vendor,family,model,stepping."""

    kernel: str | None
    processor: str | None
    cpuid: str | None


class Skip(TypedDict):
    """Lines, records or IPIs that were passed over, and why."""

    reason: str
    count: int


class RecordingInfo(TypedDict):
    """What was read.

    `records` counts every event by name, used or not; `lost_events` is how many the recorder says it lost;
    `span_seconds` is from the first event to the last.
    """

    path: str
    format: str
    side: str
    identified_by: str
    vcpus: list[RecordedVcpu]
    records: dict[str, int]
    skipped: list[Skip]
    lost_events: int
    notes: list[str]
    span_seconds: float
    hypercalls: list[HypercallIpis]
    inhibits: list[InhibitChange]
    machine: RecordedOn


class Latency(TypedDict):
    """How long interrupts took from the write that sent them to their delivery, in cycles.

    Of a histogram with 3 significant digits: exact up to 2,047 cycles. Beyond, `p50`, `p90`, `p99` and `max` are the
    upper edge of a bucket, up to 0.1 % too high, `min` is the lower edge of one, up to 0.1 % too low, and `mean` is of
    the middles of buckets, within 0.05 %.
    """

    count: int
    mean: float
    min: int
    p50: int
    p90: int
    p99: int
    max: int


class SideCounters(TypedDict):
    """What became of the IPIs on one side of a `Comparison`.

    `software_posts` were posted by the hypervisor after an exit, `timer_posts` ended halts that no IPI ended. What was
    posted is `delivered`, `coalesced`, `discarded` with a local APIC that was reset, or `pending`. `dropped` found no
    destination, `signalled` are NMIs, SMIs, INITs, start-up IPIs and illegal vectors handed over.
    """

    total: int
    virtualized: int
    self: int
    exited: int
    faulted: int
    software_posts: int
    timer_posts: int
    delivered: int
    coalesced: int
    discarded: int
    pending: int
    dropped: int
    signalled: int


class Side(TypedDict):
    """A recording in virtual time, with IPI virtualization or without it.

    `exits` are all VM exits. `exit_cycles` is what they took on the way out, in root mode and on the way in, with what
    it takes to switch from vCPU to vCPU and the interrupts that the host takes to wake vCPUs, without what vCPUs slept,
    polled or waited. `cycles_per_ipi` is the mean from the write of an interrupt command to the guest's next
    instruction, without what the host had its pCPU for meanwhile. `latency` is by what interrupts met:
    see `ScenarioResult.latency`, where "device" is a timer.
    """

    ipis: SideCounters
    exits: int
    exit_cycles: int
    cycles_per_ipi: float
    notifications: Notifications
    preemptions: int
    blocks: int
    unfinished: int
    latency: dict[str, Latency]


class Saved(TypedDict):
    """What IPI virtualization saves: without it, less with it. Negative where it costs."""

    exits: int
    exit_cycles: int
    exit_seconds: float
    cycles_per_ipi: float


Comparison = TypedDict("Comparison", {"with": Side, "without": Side, "saved": Saved | None})
"""A recording in virtual time with IPI virtualization, without it, and the difference.

`saved` is None where a violation ended one of both runs before the recording was over: they are not comparable then.
"""


class Targets(TypedDict):
    """Whom IPIs mean: `sets` of vCPUs by their positions in recording["vcpus"], and for each IPI a position in `sets`.

    `flat_assumed`: some are logical destinations of xAPIC mode, read in the flat model as Linux sets it up.
    """

    sets: list[list[int]]
    of: NDArray[np.uint32]
    flat_assumed: bool


class RunResult(Tabular, Drawable):
    """What became of every IPI of a recording.

    `as_dict` is the JSON that `ipivrs run --json` prints; the properties are its parts, and `ipis` adds one row per
    IPI. The counts depend on the recording and the options alone. `coalesced`, `notifications` and `seconds` depend on
    how the threads of this run met; in virtual time nothing does.
    """

    def __init__(self, core: _core.RunResult) -> None:
        """Wrap what the core returned; made by `run`, not by hand."""
        self._core = core

    @cached_property
    def _dict(self) -> dict[str, Any]:
        return _without_unlike_sides(self._core.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The whole result in plain types, ready for `json.dumps`. A fresh copy each time."""
        return {**_without_unlike_sides(self._core.as_dict()), "advice": [dict(one) for one in self.advice]}

    @property
    def counters(self) -> Counters:
        """What became of the IPIs, in numbers."""
        return cast("Counters", self._dict["ipis"])

    @property
    def exits(self) -> list[Exit]:
        """VM exits by reason, qualification and clause."""
        return cast("list[Exit]", self._dict["exits"])

    @property
    def kinds(self) -> list[Kind]:
        """What was in the recording, most frequent first."""
        return cast("list[Kind]", self._dict["kinds"])

    @property
    def notifications(self) -> Notifications:
        """What became of the posted-interrupt notifications, in numbers."""
        return cast("Notifications", self._dict["notifications"])

    @property
    def violations(self) -> list[Violation]:
        """What must never happen and did; empty when all is well."""
        return cast("list[Violation]", self._dict["violations"])

    @property
    def recording(self) -> RecordingInfo:
        """The file, how its vCPUs were told apart, what was assumed and what was passed over."""
        return cast("RecordingInfo", self._dict["recording"])

    @cached_property
    def advice(self) -> list[Remedy]:
        """What kept IPIs from being virtualized, what would change it, and what that wins; most frequent first."""
        return remedies(self)

    @property
    def engine(self) -> str:
        """The engine that ran it."""
        return cast("str", self._dict["engine"])

    @property
    def pace(self) -> Pace | None:
        """The pace that was asked for. None in virtual time, where each IPI has its recorded time."""
        return cast("Pace | None", self._dict["pace"])

    @property
    def policy(self) -> str | None:
        """Virtual time: the policy that it ran under. None on threads."""
        return cast("str | None", self._dict["policy"])

    @property
    def profile(self) -> str | None:
        """Virtual time: the profile that says what acts cost. None on threads."""
        return self._dict.get("profile")

    @property
    def cycles(self) -> int | None:
        """Virtual time: cycles until the end of the recording, or the violation that ended the run. None on threads."""
        return self._dict.get("cycles")

    @property
    def latency(self) -> dict[str, Latency]:
        """Virtual time, with IPI virtualization: how long interrupts took, by what they met. Empty on threads."""
        return cast("dict[str, Latency]", self._dict.get("latency", {}))

    @property
    def comparison(self) -> Comparison | None:
        """Virtual time: the recording with IPI virtualization, without it, and what is saved. None on threads."""
        return cast("Comparison | None", self._dict.get("comparison"))

    @property
    def version(self) -> str:
        """The version of ipivrs that ran it."""
        return cast("str", self._dict["version"])

    @property
    def seconds(self) -> float:
        """How long the emulation took, reading the file not included; simulated seconds in virtual time."""
        return cast("float", self._dict["seconds"])

    @property
    def ipis_per_second(self) -> float:
        """IPIs emulated per second of `seconds`."""
        return cast("float", self._dict["ipis_per_second"])

    @cached_property
    def ipis(self) -> NDArray[np.void]:
        """One row per IPI in the order of the recording: a structured array of `IPI_DTYPE`, read-only.

        `ipis["vector"]` is a column, `ipis[ipis["fate"] == fate_names.index("exited")]` the rows of the IPIs that
        exited. `to_pandas` and `to_polars` have the same rows with names for codes.
        """
        columns = self._core.ipis()
        rows = np.empty(len(columns["vector"]), IPI_DTYPE)
        for name in rows.dtype.names or ():
            rows[name] = columns[name]
        rows.flags.writeable = False
        return rows

    def targets(self) -> Targets:
        """Whom each row of `ipis` means."""
        return cast("Targets", self._core.targets())

    @property
    def fate_names(self) -> list[str]:
        """The names of the codes in `ipis["fate"]`."""
        return self._core.fate_names

    @property
    def clause_names(self) -> list[str]:
        """The clauses behind the codes in `ipis["clause"]`."""
        return self._core.clause_names

    @property
    def via_names(self) -> list[str]:
        """The names of the codes in `ipis["via"]`."""
        return self._core.via_names

    def _columns(self) -> dict[str, Column]:
        columns: dict[str, Column] = {name: self.ipis[name] for name in IPI_DTYPE.names or ()}
        names = {"via": self.via_names, "fate": self.fate_names, "clause": self.clause_names}
        return columns | {name: Named(self.ipis[name], known) for name, known in names.items()}

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return notebook.run(self)

    def __repr__(self) -> str:
        """One line: the file, the total and what became of it."""
        counts = self.counters
        return (
            f"<RunResult {self.recording['path']}: {counts['total']} IPIs, {counts['virtualized']} virtualized, "
            f"{counts['self']} self, {counts['exited']} exited, {counts['faulted']} faulted, "
            f"{(many := how_many(self.violations))} {noun(many, 'violation')}>"
        )


def _without_unlike_sides(whole: dict[str, Any]) -> dict[str, Any]:
    """What a whole run has more than one that a violation ended is not what IPI virtualization saves."""
    comparison = whole.get("comparison")
    if comparison is not None and any(comparison[side]["unfinished"] for side in ("with", "without")):
        comparison["saved"] = None
    return whole


_POLICY = "kvm"
_RANGES = {"vcpus": (1, 2**16), "last_index": (0, 2**16 - 1), "process": (0, 2**32 - 1)}
_WHY_NOT = {
    "pace": "in virtual time each IPI has its recorded time",
    "ipi_virtualization": "virtual time runs a recording both with IPI virtualization and without it",
}


def _each_its_own(apic_ids: Sequence[int]) -> list[int]:
    ids = [whole_number("apic_ids", apic_id, 0, 2**16 - 1) for apic_id in apic_ids]
    if len(set(ids)) < len(ids):
        raise ValueError(f"apic_ids has one APIC ID twice, and each vCPU has its own: {ids}")
    return ids


def run_recording(
    path: str | os.PathLike[str],
    *,
    apic: Apic | None = None,
    apic_ids: Sequence[int] | None = None,
    vcpus: int | None = None,
    last_index: int | None = None,
    pace: Pace | None = None,
    ipi_virtualization: bool | None = None,
    process: int | None = None,
    engine: Engine = "threads",
    policy: str | None = None,
    profile: "str | profiles.Profile | None" = None,
    progress: Progress | None = None,
) -> RunResult:
    """Drive every inter-processor interrupt of a recording through the emulated processor.

    On threads each vCPU has one. In virtual time each IPI is sent at its recorded time, vCPUs halt and are preempted
    when they were, and all of it runs twice: with IPI virtualization and without it.

    Args:
        path: perf.data, `perf script` text, ftrace text or `trace-cmd report` text with kvm:kvm_apic_ipi (recorded on
            a KVM host) or ipi:ipi_send_cpu (recorded inside a Linux guest).
        apic: The guest's APIC mode where the recording does not show it; default x2APIC.
        apic_ids: The APIC ID of vCPU 0, 1, ... where the recording does not show it; default 0, 1, ...
        vcpus: How many vCPUs there are, 1 to 65536, if more than the recording shows; fewer changes nothing.
        last_index: The last PID-pointer index, 0 to 65535; default the highest APIC ID.
        pace: Threads: "recorded" (the default): in the order of the recording, each when the one before it has arrived.
            "free": each sender as fast as it can.
        ipi_virtualization: Threads: KVM's enable_ipiv, by default True: the VM-execution control, and whether the MSR
            bitmap passes 830H through.
        process: Only the VM of this process id, 0 to 2**32 - 1.
        engine: "threads" or "virtual-time".
        policy: Virtual time: the posted-interrupt protocol of the host, by name or path; default "kvm".
        profile: Virtual time: what acts cost, by name, by path, or made in Python; default "sapphire-rapids".
        progress: Called some times a second with what is counted ("bytes", then "IPIs", in virtual time "cycles"),
            how many are done, and of how many. What it raises ends the call.

    Returns:
        The counts, the exits with the clauses that called for them, and one row per IPI.

    Raises:
        RecordingError: The file cannot be read, is no recording, or has no IPIs in it.
        ValueError: An option is out of range, or of the other engine.
        PolicyError: The policy has a mistake: file, line and column.
        KeyboardInterrupt: Ctrl-C; the threads are stopped first.
    """
    if not os.fspath(path):
        raise _core.RecordingError("the name of a file is empty: give a recording or a scenario")
    check_whole_numbers(_RANGES, vcpus=vcpus, last_index=last_index, process=process)
    if apic_ids is not None:
        apic_ids = _each_its_own(apic_ids)
    if engine == "virtual-time":
        given = {"pace": pace, "ipi_virtualization": ipi_virtualization}
        if unused := [option for option, value in given.items() if value is not None]:
            raise ValueError(f"{unused[0]} is an option of the engine threads: {_WHY_NOT[unused[0]]}; leave it out")
        name = profile or profiles.DEFAULT
        title, costs = (name, profiles.find(name)) if isinstance(name, str) else (name.title, name)
        core = _core.run_in_virtual_time(
            os.fspath(path),
            find_policy(policy or _POLICY).text,
            costs.costs(),
            profile=title,
            apic=apic,
            apic_ids=apic_ids,
            vcpus=vcpus,
            last_index=last_index,
            process=process,
            progress=progress,
        )
        return RunResult(core)
    if engine != "threads":
        raise ValueError(f"engine must be threads or virtual-time, not {engine!r}")
    for option, value in {"policy": policy, "profile": profile}.items():
        if value is not None:
            raise ValueError(
                f"{option} is an option of the engine virtual-time for recordings: add engine='virtual-time'"
            )
    core = _core.run(
        os.fspath(path),
        apic=apic,
        apic_ids=apic_ids,
        vcpus=vcpus,
        last_index=last_index,
        pace=pace or "recorded",
        ipi_virtualization=ipi_virtualization is not False,
        process=process,
        progress=progress,
    )
    return RunResult(core)
