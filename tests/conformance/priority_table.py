"""Priorities: every TPR against every vector, every SVI, every threshold, every bit of the EOI-exit bitmaps."""

from __future__ import annotations

import itertools
from typing import Any

from conformance.pair import Difference, Pair
from conformance.table import Table, Tally, entered, some

TPR, EOI, SELF_IPI = 0x808, 0x80B, 0x83F


def parts(full: bool) -> list[tuple[Any, ...]]:
    """What is compared, and VTPR."""
    tprs = range(256) if full else [0, 0x0F, 0x10, 0x2F, 0x80, 0xFF]
    return [(what, tpr) for what in CHECKS for tpr in tprs]


def check(what: str, tpr: int) -> Tally:
    """One VTPR."""
    tally = Tally()
    try:
        CHECKS[what](tally, tpr)
    except Difference as difference:
        tally.differences.append(f"{what}, VTPR {tpr:02X}H: {difference}")
    return tally


def self_ipis(tally: Tally, tpr: int) -> None:
    """A self-IPI of each vector, a boundary, and now and then an EOI: requests pile up and drain."""
    pair = Pair(1)
    pair.wrmsr(0, TPR, tpr)
    for vector in some(range(256), 256):
        pair.wrmsr(0, SELF_IPI, vector)
        pair.boundary(0)
        if vector % 3 == 0:
            pair.wrmsr(0, EOI, 0)
        pair.compare()
        tally.cases += 1
    while pair.boundary(0) is not None or pair.vcpus[0].svi:
        pair.wrmsr(0, EOI, 0)
        tally.cases += 1
    pair.compare()


def services(tally: Tally, tpr: int) -> None:
    """VPPR and recognition for each SVI, with a request of every class."""
    pair = Pair(1)
    for svi in range(256):
        pair.interrupt_status(0, svi ^ tpr, svi)
        pair.wrmsr(0, TPR, tpr)
        pair.compare()
        tally.cases += 1


def thresholds(tally: Tally, tpr: int) -> None:
    """Without virtual-interrupt delivery: each threshold, by MSR and by memory."""
    for apic in ("x2apic", "xapic"):
        pair = Pair(1, apic)
        entered(pair, register=False, delivery=False, ipi=False)
        for threshold in range(16):
            pair.vmwrite(0, "tpr_threshold", threshold)
            if apic == "x2apic":
                pair.intercept(0, TPR, write=False)
                pair.wrmsr(0, TPR, tpr)
            else:
                pair.mmio_write(0, 0x080, 4, tpr)
            pair.compare()
            tally.cases += 1


def eoi_exits(tally: Tally, tpr: int) -> None:
    """The EOI of each vector with its own bit of the EOI-exit bitmaps, and with all others."""
    pair = Pair(1)
    pair.wrmsr(0, TPR, 0)
    for vector, others in itertools.product(range(tpr & 0xF, 256, 16), (False, True)):
        for word in range(4):
            own = 1 << vector % 64 if vector // 64 == word else 0
            pair.eoi_exit(0, word, own ^ (2**64 - 1 if others else 0))
        pair.wrmsr(0, SELF_IPI, vector)
        pair.boundary(0)
        pair.wrmsr(0, EOI, 0)
        pair.compare()
        tally.cases += 1


CHECKS = {"self-IPIs": self_ipis, "services": services, "thresholds": thresholds, "EOI exits": eoi_exits}
TABLE = Table("priority", "VTPR x vector, VTPR x SVI, VTPR x threshold, EOI-exit bitmaps", parts, check)
