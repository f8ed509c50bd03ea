"""Bit arithmetic, and the virtual-APIC page: registers and 256-bit banks of vectors."""

from __future__ import annotations

from .clause import clause

VTPR = 0x080
VPPR = 0x0A0
VEOI = 0x0B0
VISR = 0x100
VTMR = 0x180
VIRR = 0x200
VICR_LO = 0x300
VICR_HI = 0x310
VSELF_IPI = 0x3F0


def bits(value: int, high: int, low: int) -> int:
    """The field value[high:low]."""
    return (value >> low) & ((1 << (high - low + 1)) - 1)


def bit(value: int, position: int) -> bool:
    """Whether one bit is set."""
    return bits(value, position, position) == 1


def load(page: bytearray, offset: int, width: int) -> int:
    """The little-endian integer of `width` bytes at an offset."""
    return int.from_bytes(page[offset : offset + width], "little")


def store(page: bytearray, offset: int, width: int, value: int) -> None:
    """Store the low `width` bytes of a value at an offset, little-endian."""
    kept = value & ((1 << (8 * width)) - 1)
    page[offset : offset + width] = kept.to_bytes(width, "little")


@clause("30.1.1", "bank")
def bank_offset(base: int, vector: int) -> int:
    """Vector x of a bank lives in the register at base | ((x & E0H) >> 1)."""
    return base | ((vector & 0xE0) >> 1)


def has_bit(page: bytearray, base: int, vector: int) -> bool:
    """Whether the bit of a vector is set in a bank."""
    return bit(load(page, bank_offset(base, vector), 4), vector & 0x1F)


def set_bit(page: bytearray, base: int, vector: int) -> None:
    """Set the bit of a vector in a bank."""
    offset = bank_offset(base, vector)
    store(page, offset, 4, load(page, offset, 4) | (1 << (vector & 0x1F)))


def clear_bit(page: bytearray, base: int, vector: int) -> None:
    """Clear the bit of a vector in a bank."""
    offset = bank_offset(base, vector)
    store(page, offset, 4, load(page, offset, 4) & ~(1 << (vector & 0x1F)))


def highest(page: bytearray, base: int) -> int:
    """The highest vector whose bit is set in a bank, 0 if none is."""
    for vector in range(255, -1, -1):
        if has_bit(page, base, vector):
            return vector
    return 0
