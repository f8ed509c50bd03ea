"""ipivrs: an emulator of Intel's IPI virtualization.

import ipivrs

result = ipivrs.run("perf.data")                    # which IPIs of a recording need no VM exit
result.counters, result.exits, result.ipis          # numbers, clauses, one row per IPI (NumPy)

ipivrs.explain(0x000C00FB, apic="xapic")            # one ICR value, rule by rule
ipivrs.explain(vector=0xFB, dest=3, vcpus=4)

ipivrs.check("kvm").holds                           # every interleaving of a posted-interrupt protocol
ipivrs.check("kvm", without=["load: if pir: set_on"]).diagnosis

scenario = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=4, workload=ipivrs.Storm())], seconds=1)
scenario.run().counters                             # vCPUs on threads, scheduled as KVM does it

ipivrs.sweep("overcommit", out="o.csv").rows        # a scenario at every point of a grid, one row each

vm = ipivrs.Vm(vcpus=2, apic="x2apic")              # register by register
vm.vcpu(0).wrmsr(0x830, 1 << 32 | 0xFB)
vm.vcpu(1).descriptor
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from ipivrs.bounds import Bounds, BoundsError
    from ipivrs.entries import Entry, collection
    from ipivrs.grid import Grid, SweepError
    from ipivrs.icr import explain
    from ipivrs.laboratory import CheckResult, check
    from ipivrs.policies import PolicyError
    from ipivrs.profiles import Cost, Profile, ProfileError
    from ipivrs.program import Program
    from ipivrs.results import IPI_DTYPE, RunResult
    from ipivrs.running import run
    from ipivrs.scenario import (
        VM,
        Chaos,
        Device,
        Group,
        Hackbench,
        Handler,
        Host,
        IpiMicrobenchmark,
        Ping,
        Processor,
        Scenario,
        Storm,
        TlbShootdown,
    )
    from ipivrs.scenario_text import ScenarioError
    from ipivrs.simulation import ScenarioResult
    from ipivrs.sweeping import SweepResult, sweep
    from ipivrs.variants import VariantError

__all__ = [
    "CLAUSES",
    "IPI_DTYPE",
    "NOTIFICATIONS",
    "OUTCOMES",
    "VM",
    "Bounds",
    "BoundsError",
    "Chaos",
    "CheckResult",
    "Cost",
    "Descriptor",
    "Device",
    "Entry",
    "Explanation",
    "Grid",
    "Group",
    "Hackbench",
    "Handler",
    "Host",
    "IpiMicrobenchmark",
    "Outcome",
    "Ping",
    "PolicyError",
    "Processor",
    "Profile",
    "ProfileError",
    "Program",
    "RecordingError",
    "RunResult",
    "Scenario",
    "ScenarioError",
    "ScenarioResult",
    "Storm",
    "SweepError",
    "SweepResult",
    "TlbShootdown",
    "VariantError",
    "Vcpu",
    "Vm",
    "__version__",
    "build_info",
    "check",
    "collection",
    "compose_icr",
    "explain",
    "run",
    "sweep",
]

# The modules behind the other names are imported when one of theirs is first used: a program that drives a `Vm` does
# not wait for what scenarios need.
_LATER = {
    "Bounds": "bounds",
    "BoundsError": "bounds",
    "Entry": "entries",
    "collection": "entries",
    "Grid": "grid",
    "SweepError": "grid",
    "explain": "icr",
    "CheckResult": "laboratory",
    "check": "laboratory",
    "PolicyError": "policies",
    "Cost": "profiles",
    "Profile": "profiles",
    "ProfileError": "profiles",
    "Program": "program",
    "IPI_DTYPE": "results",
    "RunResult": "results",
    "run": "running",
    "VM": "scenario",
    "Chaos": "scenario",
    "Device": "scenario",
    "Group": "scenario",
    "Hackbench": "scenario",
    "Handler": "scenario",
    "Host": "scenario",
    "IpiMicrobenchmark": "scenario",
    "Ping": "scenario",
    "Processor": "scenario",
    "Scenario": "scenario",
    "Storm": "scenario",
    "TlbShootdown": "scenario",
    "ScenarioError": "scenario_text",
    "ScenarioResult": "simulation",
    "SweepResult": "sweeping",
    "sweep": "sweeping",
    "VariantError": "variants",
}


if not TYPE_CHECKING:  # or type checkers would take every name for one of these

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names, whether or not they were imported yet; nothing of what this module needs for itself."""
    return sorted(__all__)
