"""IA32_APIC_BASE: the modes of the local APIC and the moves between them."""

from __future__ import annotations

from .clause import clause
from .page import bit, bits

LEGAL_MOVES = {
    ("disabled", "disabled"),
    ("xAPIC", "xAPIC"),
    ("x2APIC", "x2APIC"),
    ("disabled", "xAPIC"),
    ("xAPIC", "x2APIC"),
    ("xAPIC", "disabled"),
    ("x2APIC", "disabled"),
}


@clause("11.12.5", "mode")
def mode_of(value: int) -> str:
    """EN (bit 11) and EXTD (bit 10): 00 disabled, 10 xAPIC, 11 x2APIC, 01 invalid."""
    enabled = bit(value, 11)
    extended = bit(value, 10)
    if enabled:
        return "x2APIC" if extended else "xAPIC"
    return "invalid" if extended else "disabled"


@clause("11.12.5", "reserved")
def has_reserved(value: int, maxphyaddr: int) -> bool:
    """Bits 7:0, bit 9 and the bits beyond MAXPHYADDR are reserved: setting one is #GP."""
    return bits(value, 7, 0) != 0 or bit(value, 9) or value >> maxphyaddr != 0


@clause("11.12.5", "moves")
def is_legal(before: str, after: str) -> bool:
    """Staying, disabled to xAPIC, xAPIC to x2APIC, and xAPIC or x2APIC to disabled are legal; else #GP."""
    return (before, after) in LEGAL_MOVES


def apic_base_write(old: int, new: int, maxphyaddr: int) -> str | None:
    """The mode after a write of IA32_APIC_BASE, or None if the write is #GP(0)."""
    if has_reserved(new, maxphyaddr):
        return None
    if not is_legal(mode_of(old), mode_of(new)):
        return None
    return mode_of(new)


@clause("11.12.10.2", "")
def x2apic_ldr(apic_id: int) -> int:
    """In x2APIC mode the LDR is (id >> 4) << 16 | 1 << (id & FH)."""
    return (bits(apic_id, 19, 4) << 16) | (1 << bits(apic_id, 3, 0))
