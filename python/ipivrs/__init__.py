"""ipivrs: an emulator of Intel's IPI virtualization.

import ipivrs

result = ipivrs.run("perf.data")                    # which IPIs of a recording need no VM exit
result.counters, result.exits, result.ipis          # numbers, clauses, one row per IPI (NumPy)

ipivrs.explain(0x000C00FB, apic="xapic")            # one ICR value, rule by rule
ipivrs.explain(vector=0xFB, dest=3, vcpus=4)

scenario = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=4, workload={"name": "storm"})], seconds=1)
scenario.run().counters                             # vCPUs on threads, scheduled as KVM does it

vm = ipivrs.Vm(vcpus=2, apic="x2apic")              # register by register
vm.vcpu(0).wrmsr(0x830, 1 << 32 | 0xFB)
vm.vcpu(1).descriptor
"""

from ipivrs._core import (
    CLAUSES,
    NOTIFICATIONS,
    OUTCOMES,
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
from ipivrs.policies import PolicyError
from ipivrs.program import Program
from ipivrs.results import IPI_DTYPE, RunResult
from ipivrs.running import run
from ipivrs.scenario import VM, Chaos, Device, Group, Handler, Host, Processor, Scenario
from ipivrs.scenario_text import ScenarioError
from ipivrs.simulation import ScenarioResult

__all__ = [
    "CLAUSES",
    "IPI_DTYPE",
    "NOTIFICATIONS",
    "OUTCOMES",
    "VM",
    "Chaos",
    "Descriptor",
    "Device",
    "Explanation",
    "Group",
    "Handler",
    "Host",
    "Outcome",
    "PolicyError",
    "Processor",
    "Program",
    "RecordingError",
    "RunResult",
    "Scenario",
    "ScenarioError",
    "ScenarioResult",
    "Vcpu",
    "Vm",
    "__version__",
    "build_info",
    "compose_icr",
    "explain",
    "run",
]
