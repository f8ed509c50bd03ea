"""Recordings in, results out: `run_recording` and what it returns."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from ipivrs import _core
from ipivrs.names import Apic, Pace

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
    """Posted-interrupt notifications: sent; not sent as SN was 1, or as ON was 1; arrived with nothing to do."""

    sent: int
    suppressed: int
    coalesced: int
    spurious: int


class Violation(TypedDict):
    """Something that must never happen, such as a write outside every live allocation."""

    kind: str
    vcpu: int | None
    message: str


class RecordedVcpu(TypedDict):
    """One sender of the recording. `thread` and `process` are the recorder's ids, None where it shows none."""

    vm: int
    vcpu: int
    apic_id: int
    thread: int | None
    process: int | None
    name: str
    ipis_sent: int
    virtualized: int


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


class RunResult:
    """What became of every IPI of a recording.

    `as_dict` is the JSON that `ipivrs run --json` prints; the properties are its parts, and `ipis` adds one row per
    IPI. The counts depend on the recording and the options alone. `coalesced`, `notifications` and `seconds` depend on
    how the threads of this run met.
    """

    def __init__(self, core: _core.RunResult) -> None:
        """Wrap what the core returned; made by `run`, not by hand."""
        self._core = core

    @cached_property
    def _dict(self) -> dict[str, Any]:
        return self._core.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """The whole result in plain types, ready for `json.dumps`. A fresh copy each time."""
        return self._core.as_dict()

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

    @property
    def engine(self) -> str:
        """The engine that ran it."""
        return cast("str", self._dict["engine"])

    @property
    def pace(self) -> Pace:
        """The pace that was asked for."""
        return cast("Pace", self._dict["pace"])

    @property
    def version(self) -> str:
        """The version of ipivrs that ran it."""
        return cast("str", self._dict["version"])

    @property
    def seconds(self) -> float:
        """How long the emulation took, reading the file not included."""
        return cast("float", self._dict["seconds"])

    @property
    def ipis_per_second(self) -> float:
        """IPIs emulated per second of `seconds`."""
        return cast("float", self._dict["ipis_per_second"])

    @cached_property
    def ipis(self) -> NDArray[np.void]:
        """One row per IPI in the order of the recording: a structured array of `IPI_DTYPE`, read-only.

        `ipis["vector"]` is a column, `ipis[ipis["fate"] == fate_names.index("exited")]` the rows of the IPIs that
        exited, and `pandas.DataFrame(ipis)` a frame.
        """
        columns = self._core.ipis()
        rows = np.empty(len(columns["vector"]), IPI_DTYPE)
        for name in rows.dtype.names or ():
            rows[name] = columns[name]
        rows.flags.writeable = False
        return rows

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

    def __repr__(self) -> str:
        """One line: the file, the total and what became of it."""
        counts = self.counters
        return (
            f"<RunResult {self.recording['path']}: {counts['total']} IPIs, {counts['virtualized']} virtualized, "
            f"{counts['self']} self, {counts['exited']} exited, {counts['faulted']} faulted, "
            f"{len(self.violations)} violations>"
        )


def run_recording(
    path: str | os.PathLike[str],
    *,
    apic: Apic | None = None,
    apic_ids: Sequence[int] | None = None,
    vcpus: int | None = None,
    last_index: int | None = None,
    pace: Pace = "recorded",
    ipi_virtualization: bool = True,
    process: int | None = None,
) -> RunResult:
    """Drive every inter-processor interrupt of a recording through the emulated processor, one thread per vCPU.

    Args:
        path: perf.data, `perf script` text, ftrace text or `trace-cmd report` text with kvm:kvm_apic_ipi (recorded on
            a KVM host) or ipi:ipi_send_cpu (recorded inside a Linux guest).
        apic: The guest's APIC mode where the recording does not show it; default x2APIC.
        apic_ids: The APIC ID of vCPU 0, 1, ... where the recording does not show it; default 0, 1, ...
        vcpus: How many vCPUs there are, if more than the recording shows.
        last_index: The last PID-pointer index, 0 to 65535; default the highest APIC ID.
        pace: "recorded": in the order of the recording, each when the one before it has arrived. "free": each sender as
            fast as it can.
        ipi_virtualization: KVM's enable_ipiv: the VM-execution control, and whether the MSR bitmap passes 830H through.
        process: Only the VM of this process id.

    Returns:
        The counts, the exits with the clauses that called for them, and one row per IPI.

    Raises:
        RecordingError: The file cannot be read, is no recording, or has no IPIs in it.
        ValueError: An option is out of range.
        KeyboardInterrupt: Ctrl-C; the threads are stopped first.
    """
    if apic_ids is not None and len(set(apic_ids)) < len(apic_ids):
        raise ValueError(f"apic_ids has one APIC ID twice, and each vCPU has its own: {list(apic_ids)}")
    core = _core.run(
        os.fspath(path),
        apic=apic,
        apic_ids=apic_ids,
        vcpus=vcpus,
        last_index=last_index,
        pace=pace,
        ipi_virtualization=ipi_virtualization,
        process=process,
    )
    return RunResult(core)
