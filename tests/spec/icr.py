"""Which guest writes of the interrupt command register are virtualized."""

from __future__ import annotations

from .clause import clause
from .page import bits


@clause("11.6.1", "vector")
def vector_of(icr: int) -> int:
    """The vector is ICR[7:0]."""
    return bits(icr, 7, 0)


@clause("11.6.1", "shorthand")
def shorthand_of(icr: int) -> int:
    """The destination shorthand is ICR[19:18]: 0 none, 1 self, 2 all, 3 all but self."""
    return bits(icr, 19, 18)


@clause("11.6.1", "destination")
def xapic_destination(high: int) -> int:
    """In xAPIC mode the destination is ICR_HI[31:24]."""
    return bits(high, 31, 24)


@clause("11.12.9", "destination")
def x2apic_destination(value: int) -> int:
    """In x2APIC mode the destination is bits 63:32 of the one 64-bit register."""
    return bits(value, 63, 32)


@clause("30.4.3.2", "1")
def xapic_self(low: int, virtual_interrupt_delivery: bool) -> bool:
    """Self-IPI: delivery on; 31:20, 17:16, 15, 13, 12, 10:8 zero; shorthand self; vector[7:4] not 0."""
    return (
        virtual_interrupt_delivery
        and bits(low, 31, 20) == 0
        and bits(low, 17, 16) == 0
        and bits(low, 15, 15) == 0
        and bits(low, 13, 13) == 0
        and bits(low, 12, 12) == 0
        and bits(low, 10, 8) == 0
        and shorthand_of(low) == 1
        and bits(low, 7, 4) != 0
    )


@clause("30.4.3.2", "2")
def xapic_ipi(low: int, ipi_virtualization: bool) -> bool:
    """IPI: IPI virtualization on; 31:20, 17:16, 15, 13, 12, 11, 10:8 zero; no shorthand."""
    return (
        ipi_virtualization
        and bits(low, 31, 20) == 0
        and bits(low, 17, 16) == 0
        and bits(low, 15, 15) == 0
        and bits(low, 13, 13) == 0
        and bits(low, 12, 12) == 0
        and bits(low, 11, 11) == 0
        and bits(low, 10, 8) == 0
        and shorthand_of(low) == 0
    )


@clause("30.4.3.2", "3")
def xapic_otherwise() -> str:
    """Any other write of VICR_LO is an APIC-write VM exit."""
    return "exit"


def xapic_rule(low: int, virtual_interrupt_delivery: bool, ipi_virtualization: bool) -> str:
    """What a write of VICR_LO leads to: "self", "ipi" or "exit"."""
    if xapic_self(low, virtual_interrupt_delivery):
        return "self"
    if xapic_ipi(low, ipi_virtualization):
        return "ipi"
    return xapic_otherwise()


@clause("30.5", "830H fault")
def x2apic_fault(value: int) -> bool:
    """WRMSR of the ICR faults if EAX bits 31:20, 17:16 or 13 are set."""
    return bits(value, 31, 20) != 0 or bits(value, 17, 16) != 0 or bits(value, 13, 13) != 0


@clause("30.5", "830H ipi")
def x2apic_ipi(value: int) -> bool:
    """The ICR written is an IPI to virtualize if 19:18 = 00 and bits 15, 12, 11, 10:8 are 0."""
    return (
        shorthand_of(value) == 0
        and bits(value, 15, 15) == 0
        and bits(value, 12, 12) == 0
        and bits(value, 11, 11) == 0
        and bits(value, 10, 8) == 0
    )


@clause("30.5", "830H exit")
def x2apic_otherwise() -> str:
    """Any other WRMSR of the ICR that does not fault is an APIC-write VM exit."""
    return "exit"


def x2apic_rule(value: int) -> str:
    """What WRMSR 830H leads to while IPI virtualization = 1: "fault", "ipi" or "exit"."""
    if x2apic_fault(value):
        return "fault"
    if x2apic_ipi(value):
        return "ipi"
    return x2apic_otherwise()
