"""What an operation led to."""

from __future__ import annotations

from dataclasses import dataclass

from .clause import clause
from .state import Cpu

EXTERNAL_INTERRUPT = 1
INTERRUPT_WINDOW = 7
HLT = 12
RDMSR = 31
WRMSR = 32
TPR_BELOW_THRESHOLD = 43
APIC_ACCESS = 44
VIRTUALIZED_EOI = 45
APIC_WRITE = 56


@dataclass(frozen=True)
class Outcome:
    """One operation's result.

    kind: "virtualized", "value", "posted", "self-ipi", "exit", "fault", "not-virtualized" or "wild".
    notification (of "posted"): "sent", "suppressed" (SN was 1) or "outstanding" (ON was 1 and SN 0).
    """

    kind: str
    reason: int | None = None
    qualification: int | None = None
    vector: int | None = None
    destination: int | None = None
    value: int | None = None
    coalesced: bool | None = None
    notification: str | None = None


def vm_exit(cpu: Cpu, reason: int, qualification: int, vector: int | None = None) -> Outcome:
    """Record a VM exit in the VMCS and report it."""
    cpu.vmcs.exit_reason = reason
    cpu.vmcs.exit_qualification = qualification
    return Outcome("exit", reason=reason, qualification=qualification, vector=vector)


@clause("30.4.3.3", "exit")
def apic_write_exit(cpu: Cpu, offset: int) -> Outcome:
    """An APIC-write VM exit has reason 56 and the page offset of the write as its qualification."""
    return vm_exit(cpu, APIC_WRITE, offset)
