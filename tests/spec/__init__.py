"""An executable specification of Intel's IPI virtualization, in plain Python.

Written from the manual's facts alone; where the emulator and it differ, the manual decides.

It shares no code with the emulator. It is slow and obvious on purpose: one small function for each clause of the
manual, registered in `clause.REGISTRY` under the clause's section and step; a call notes the clause in
`clause.exercised`, so that a comparison can say which clauses it reached.
"""

from __future__ import annotations

from .apic_base import apic_base_write, x2apic_ldr
from .clause import REGISTRY, Entry, Key, exercised
from .entry import entry_failures, vm_entry
from .icr import x2apic_rule, xapic_rule
from .ipi import ipi_virtualization, self_ipi_virtualization, senduipi
from .mmio import access_exit, mmio_fetch, mmio_read, mmio_write
from .msr import rdmsr, wrmsr
from .outcome import Outcome
from .posted import external_interrupt
from .posts import device_post
from .priority import boundary, hlt
from .state import Capability, Controls, Cpu, Descriptor, Machine, Vmcs, controls_of

__all__ = [
    "REGISTRY",
    "Capability",
    "Controls",
    "Cpu",
    "Descriptor",
    "Entry",
    "Key",
    "Machine",
    "Outcome",
    "Vmcs",
    "access_exit",
    "apic_base_write",
    "boundary",
    "controls_of",
    "device_post",
    "entry_failures",
    "exercised",
    "external_interrupt",
    "hlt",
    "ipi_virtualization",
    "mmio_fetch",
    "mmio_read",
    "mmio_write",
    "rdmsr",
    "self_ipi_virtualization",
    "senduipi",
    "vm_entry",
    "wrmsr",
    "x2apic_ldr",
    "x2apic_rule",
    "xapic_rule",
]
