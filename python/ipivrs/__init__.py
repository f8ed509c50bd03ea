"""ipivrs: an emulator of Intel's IPI virtualization.

import ipivrs

result = ipivrs.run("perf.data")                    # which IPIs of a recording need no VM exit
result.counters, result.exits, result.ipis          # numbers, clauses, one row per IPI (NumPy)

ipivrs.explain(0x000C00FB, apic="xapic")            # one ICR value, rule by rule
ipivrs.explain(vector=0xFB, dest=3, vcpus=4)

vm = ipivrs.Vm(vcpus=2, apic="x2apic")              # register by register
vm.vcpu(0).wrmsr(0x830, 1 << 32 | 0xFB)
vm.vcpu(1).descriptor
"""

from ipivrs._core import (
    Descriptor,
    Explanation,
    Outcome,
    RecordingError,
    Vcpu,
    Vm,
    __version__,
    build_info,
    compose_icr,
)
from ipivrs.icr import explain
from ipivrs.results import IPI_DTYPE, RunResult, run

__all__ = [
    "IPI_DTYPE",
    "Descriptor",
    "Explanation",
    "Outcome",
    "RecordingError",
    "RunResult",
    "Vcpu",
    "Vm",
    "__version__",
    "build_info",
    "compose_icr",
    "explain",
    "run",
]
