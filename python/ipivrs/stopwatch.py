"""What Python adds to the Rust core: measured beside the same work in Rust, in rounds that take turns."""

import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, thread_time

import numpy as np
from numpy.typing import NDArray

from ipivrs import _core, policies, profiles

Measured = tuple[float, float | None, float | None]
"""The median, that of the floor, and the median of their ratios; None for what a path does not have."""

_ROUNDS = 15
_BATCH = 100_000
_CALLS = 20_000
_BATCHES = 10
_IMPORTS = 7

_ICR = 0x830
_IPI = 1 << 32 | 0xFB
_IMPORT = """
from time import process_time as now
begin = now()
import numpy
between = now()
import ipivrs
print(now() - between, between - begin)
"""

_MEMORY = """
import sys
from ipivrs import _core
print(_core.measure("vm-memory", *sys.argv[1:])[0])
"""


def one_call() -> Measured:
    """Seconds of one `wrmsr` beyond those of the call that it makes in Rust, which are the floor."""
    vcpu, values = _sender(), _values(_CALLS)
    rounds = []
    for _ in range(_ROUNDS):
        rust = _core.time_wrmsr(vcpu, _ICR, values) / _CALLS
        wrmsr = vcpu.wrmsr
        begin = thread_time()
        for _ in range(_CALLS):
            wrmsr(_ICR, _IPI)
        rounds.append(((thread_time() - begin) / _CALLS - rust, rust))
    value, floor, _ = _medians(rounds)
    return value, floor, None


def batch() -> Measured:
    """Seconds of one write of a batch, and of one in a loop in Rust."""
    vcpu, values = _sender(), _values(_BATCH)
    rounds = []
    for _ in range(_ROUNDS):
        rust = _core.time_wrmsr(vcpu, _ICR, values)
        begin = thread_time()
        vcpu.wrmsr_batch(_ICR, values)
        rounds.append(((thread_time() - begin) / _BATCH, rust / _BATCH))
    return _medians(rounds)


def two_threads() -> Measured:
    """Writes a second of two Python threads with a VM each, and of one."""
    values, vcpus = _values(_BATCH), [_sender(), _sender()]

    def work(vcpu: _core.Vcpu) -> None:
        for _ in range(_BATCHES):
            vcpu.wrmsr_batch(_ICR, values)

    with ThreadPoolExecutor(len(vcpus)) as pool:

        def rate(threads: int) -> float:
            begin = perf_counter()
            list(pool.map(work, vcpus[:threads]))
            return threads * _BATCHES * _BATCH / (perf_counter() - begin)

        rate(2)  # the pool starts its threads
        return _medians([(rate(2), rate(1)) for _ in range(_ROUNDS)])


def importing() -> Measured:
    """Seconds of `import ipivrs` after `import numpy`, which is the floor. Both in a new interpreter."""
    rounds = []
    for _ in range(_IMPORTS):
        ran = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True)  # noqa: S603
        ipivrs, numpy = map(float, ran.stdout.split())
        rounds.append((ipivrs, numpy))
    value, floor, _ = _medians(rounds)
    return value, floor, None


def memory() -> Measured:
    """Bytes for each vCPU of a large VM, in a new interpreter: memory that was given back there hides none."""
    policy, costs = policies.find("kvm").text, profiles.find(profiles.DEFAULT).costs()
    command = [sys.executable, "-c", _MEMORY, policy, costs]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(ran.stdout), None, None


def _sender() -> _core.Vcpu:
    return _core.Vm(vcpus=2).vcpu(0)


def _values(count: int) -> NDArray[np.uint64]:
    return np.full(count, _IPI, dtype=np.uint64)


def _medians(rounds: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Of the values, of the floors, and of the ratios of rounds of (value, floor)."""
    values, floors = zip(*rounds, strict=True)
    ratios = [value / floor for value, floor in rounds]
    return statistics.median(values), statistics.median(floors), statistics.median(ratios)
