"""IA32_APIC_BASE: every move between modes with every other bit, and the LDR of every x2APIC ID."""

from __future__ import annotations

from typing import Any

import ipivrs
import spec
from conformance.pair import Difference, Pair
from conformance.table import Table, Tally, some

BASE = 0xFEE0_0000
MODES = {"disabled": 0b00, "invalid": 0b01, "xAPIC": 0b10, "x2APIC": 0b11}
# From power-on, the moves that lead to a mode.
PATHS = {"disabled": ("xAPIC", "disabled"), "xAPIC": ("xAPIC",), "x2APIC": ("xAPIC", "x2APIC")}
MOST_IDS = 65_535


def parts(full: bool) -> list[tuple[Any, ...]]:
    """Either a mode to start from, or x2APIC IDs."""
    ids = list(range(MOST_IDS)) if full else sorted({0, 1, 15, 16, 255, 256, MOST_IDS - 1, *some(range(MOST_IDS), 30)})
    return [("moves", start) for start in PATHS] + [("LDR", ids[at : at + 2000]) for at in range(0, len(ids), 2000)]


def check(what: str, argument: Any) -> Tally:
    """A mode's moves, or the LDR of some IDs."""
    return moves(argument) if what == "moves" else ldrs(argument)


def moves(start: str) -> Tally:
    """Each mode as the target, with no other bit and with each other bit flipped."""
    tally = Tally()
    for mode in MODES.values():
        for flipped in (None, *(bit for bit in range(64) if bit not in {10, 11})):
            value = BASE | mode << 10 | (0 if flipped is None else 1 << flipped)
            tally.cases += 1
            try:
                pair = Pair(2, "xapic")
                for step in PATHS[start]:
                    pair.write_apic_base(0, BASE | 1 << 8 | MODES[step] << 10)
                pair.write_apic_base(0, value)
                pair.compare()
            except Difference as difference:
                tally.differences.append(f"from {start}: {difference}")
    return tally


def ldrs(ids: list[int]) -> Tally:
    """The LDR that a guest reads after it entered x2APIC mode."""
    tally = Tally(len(ids))
    for apic_id in ids:
        vcpu = ipivrs.Vm(1, apic="x2apic", apic_ids=[apic_id]).vcpu(0)
        ldr = vcpu.rdmsr(0x80D).value
        if ldr != spec.x2apic_ldr(apic_id):
            tally.differences.append(f"ID {apic_id:X}H: LDR {ldr}, the specification {spec.x2apic_ldr(apic_id):X}H")
    return tally


TABLE = Table("apic-base", "IA32_APIC_BASE: moves between modes x other bits; the LDR of each ID", parts, check)
