"""PID-pointer entries with every wrong bit, and virtual APIC IDs round the last index."""

from __future__ import annotations

import itertools
from typing import Any

from conformance.pair import Difference, Pair
from conformance.table import Table, Tally, some


def parts(full: bool) -> list[tuple[Any, ...]]:
    """APIC mode, bits to flip in the entry of vCPU 1."""
    flips = [(bit,) for bit in range(64)] + list(itertools.combinations(range(64), 2))
    if not full:
        flips = flips[:64] + some(flips[64:], 60)
    return [(apic, flips[first : first + 300]) for apic in ("xapic", "x2apic") for first in range(0, len(flips), 300)]


def check(apic: str, flips: list[tuple[int, ...]]) -> Tally:
    """Sends to the entry as it is, with each flip, and to IDs that have none; SN and ON in all states."""
    pair = Pair(3, apic, last_index=2)
    tally = Tally()
    good = pair.vm.table_entry(1)
    for flip in flips:
        pair.set_entry(1, good ^ sum(1 << bit for bit in flip))
        _send(pair, tally, 1, 0x41)
    pair.set_entry(1, good)
    for on, sn in itertools.product((False, True), repeat=2):
        pair.set_control_word(1, on=on, sn=sn)
        for vector in (0, 15, 16, 255, 255):
            _send(pair, tally, 1, vector)
    beyond = (0, 2, 3, 4, 255) if apic == "xapic" else (0, 2, 3, 255, 256, 0xFFFF, 0x1_0000, 0xFFFF_FFFF)
    for apic_id in beyond:
        _send(pair, tally, apic_id, 0x51)
    return tally


def _send(pair: Pair, tally: Tally, apic_id: int, vector: int) -> None:
    tally.cases += 1
    try:
        if pair.vcpus[0].mode == "xAPIC":
            pair.mmio_write(0, 0x310, 4, apic_id << 24)
            pair.mmio_write(0, 0x300, 4, vector)
        else:
            pair.wrmsr(0, 0x830, apic_id << 32 | vector)
        pair.compare()
    except Difference as difference:
        entry = pair.vm.table_entry(1)
        tally.differences.append(f"to {apic_id:X}H, entry of vCPU 1 {entry:X}H: {difference}")


TABLE = Table("pid-table", "PID-pointer entries: single and pairwise wrong bits, IDs beyond the table", parts, check)
