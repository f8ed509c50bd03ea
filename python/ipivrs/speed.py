"""How fast ipivrs is on this machine: each path, the floor under it, and the target that it is held to."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypedDict

from ipivrs import _core, policies, profiles, stopwatch
from ipivrs.machine import machine
from ipivrs.stopping import interruptible
from ipivrs.stopwatch import Measured

Sense = Literal["at most", "at least"]


class Row(TypedDict):
    """One path as it was measured.

    `value` and `floor` are in `unit`, medians of rounds in which they took turns; `ratio` is the median of their
    ratios. `target` bounds `ratio`, or `value` where there is no ratio, in the way that `sense` says. `machine` is
    where it was measured, and which build. Floor and ratio are None for what has none.
    """

    name: str
    what: str
    value: float
    unit: str
    floor: float | None
    ratio: float | None
    sense: Sense
    target: float
    met: bool
    machine: str


_BUSY = "met where nothing else runs: a neighbour slows a path down more than its floor"
_TWO_CORES = "needs two idle cores, and is no better than the machine's two are"


@dataclass(frozen=True)
class Path:
    """What is measured, and the target that it is held to; the core measures what `measure` does not.

    `missed` says why the target is missed, if it is; docs/performance.md has the whole of it.
    """

    name: str
    what: str
    unit: str
    target: float
    sense: Sense = "at most"
    measure: Callable[[], Measured] | None = None
    missed: str = _BUSY

    def measured(self) -> Measured:
        """Its figures, in seconds, per second or bytes."""
        if self.measure is not None:
            return self.measure()
        policy, costs = policies.find("kvm").text, profiles.find(profiles.DEFAULT).costs()
        return interruptible(lambda: _core.measure(self.name, policy, costs))


_SCALES = {"ns": 1e9, "ms": 1e3, "s": 1, "bytes": 1, "million/s": 1e-6}

_ALL = [
    Path("ipi-x2apic", "one IPI, WRMSR to EOI / its locked operations", "ns", 1.5),
    Path("ipi-xapic", "the same in xAPIC mode, two writes / its locked operations", "ns", 1.7),
    Path("post-coalesced", "post where ON is set / a locked operation and a load", "ns", 1.5),
    Path(
        "round-trip",
        "IPI there and back, two threads / a cache line there and back",
        "ns",
        1.3,
        missed="two cache lines each way, both the architecture's, where the floor has one; needs two idle cores",
    ),
    Path("pairs", "independent pairs, two threads / one", "million/s", 1.9, "at least", missed=_TWO_CORES),
    Path(
        "virtual-time-ping",
        "virtual time, ping: IPIs on a core of its own",
        "million/s",
        15,
        "at least",
        missed="an IPI is several events and turns, and taking up a turn is a good part of its instructions",
    ),
    Path(
        "virtual-time-storm",
        "virtual time, an IPI among 4096 vCPUs / among 64",
        "ns",
        1.5,
        missed="what an IPI leads to comes from memory there, and from the cache among 64",
    ),
    Path(
        "explorer",
        "explorer: states per core",
        "million/s",
        2,
        "at least",
        missed="a third of the time is waiting for states and slots of hash tables in memory",
    ),
    Path("intake", "perf.data in: events per core", "million/s", 5, "at least"),
    Path(
        "vm-build",
        "VM of 65,536 vCPUs: until all are about to run",
        "s",
        0.1,
        missed="building is clearing memory, which takes longer where the kernel has no huge pages free",
    ),
    Path(
        "vm-memory",
        "VM of 65,536 vCPUs: memory touched for each",
        "bytes",
        4.5 * 1024,
        measure=stopwatch.memory,
        missed="the virtual-APIC page is 4,096 of it; what is beside it is still more than 512",
    ),
    Path("python-wrmsr", "Python: one wrmsr beyond the call in Rust", "ns", 150, measure=stopwatch.one_call),
    Path("python-batch", "Python: an IPI of a NumPy batch / of a loop in Rust", "ns", 1.3, measure=stopwatch.batch),
    Path(
        "python-threads",
        "Python: a VM each on two threads / on one",
        "million/s",
        1.8,
        "at least",
        stopwatch.two_threads,
        _TWO_CORES,
    ),
    Path("import", "import ipivrs, beyond importing numpy", "ms", 60, measure=stopwatch.importing),
]
PATHS = {path.name: path for path in _ALL}


def where() -> str:
    """This machine, and the build that is measured."""
    build = _core.build_info()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = machine()["processor"] or "unknown processor"
    return f"{processor}, {cores} cores; ipivrs {build['version']} ({build['commit']}), {build['profile']} build"


def measure(names: Iterable[str]) -> Iterator[Row]:
    """Measure these paths, one after the other.

    Raises:
        KeyError: There is no such path.
        RuntimeError: What was to be measured did not happen.
    """
    for name in names:
        path = PATHS[name]
        value, floor, ratio = path.measured()
        scale = _SCALES[path.unit]
        held = value * scale if ratio is None else ratio
        yield Row(
            name=name,
            what=path.what,
            value=value * scale,
            unit=path.unit,
            floor=None if floor is None else floor * scale,
            ratio=ratio,
            sense=path.sense,
            target=path.target,
            met=held >= path.target if path.sense == "at least" else held <= path.target,
            machine=where(),
        )
