"""MSRs 800H to 8FFH, and those at the edges of the MSR bitmap, with values at every boundary."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from conformance.pair import Difference, Pair
from conformance.table import Table, Tally, entered, some

if TYPE_CHECKING:
    from collections.abc import Sequence

EDGES = (0, 0x7FF, 0x900, 0x1FFF, 0x2000, 0xBFFF_FFFF, 0xC000_0000, 0xC000_1FFF, 0xC000_2000, 0xFFFF_FFFF)
VALUES = [
    *(1 << bit for bit in range(64)),
    *(1 << bit | 1 << 32 | 0xFB for bit in range(20)),
    *(0, 0x0F, 0x1F, 0xFE, 0xFF, 0x101, 0x3_00FB, 0x4_00FB, (1 << 64) - 1, 2 << 32 | 0x31, 0xFFFF_FFFF << 32 | 0x31),
]


def parts(full: bool) -> list[tuple[Any, ...]]:
    """Virtualize x2APIC mode, controls, what the bitmap intercepts ("no bitmap" without one), MSRs, values."""
    machines = itertools.product((False, True), repeat=4)
    msrs: Sequence[int] = [*range(0x800, 0x900), *EDGES]
    values = VALUES
    if not full:
        msrs = [*(0x808, 0x80B, 0x830, 0x83F), *some(msrs, 24), *EDGES]
        values = some(VALUES, 40)
    return [
        (x2apic, {"register": register, "delivery": delivery, "ipi": ipi}, bitmap, msrs, values)
        for x2apic, register, delivery, ipi in machines
        for bitmap in ("pass", "intercept", "no bitmap")
    ]


def check(x2apic: bool, controls: dict[str, bool], bitmap: str, msrs: Sequence[int], values: Sequence[int]) -> Tally:
    """Each MSR is read, written with each value, and read again."""
    pair = Pair(2, "x2apic")
    entered(pair, **controls, virtualize_x2apic_mode=x2apic, use_msr_bitmaps=bitmap != "no bitmap")
    for msr in msrs:
        if msr <= 0x1FFF or 0xC000_0000 <= msr <= 0xC000_1FFF:
            pair.intercept(0, msr, read=bitmap == "intercept", write=bitmap == "intercept")
    tally = Tally(len(msrs) * (len(values) + 2))
    for msr in msrs:
        try:
            pair.rdmsr(0, msr)
            for value in values:
                pair.wrmsr(0, msr, value)
            pair.rdmsr(0, msr)
            pair.compare()
        except Difference as difference:
            tally.differences.append(f"x2APIC mode {x2apic}, {controls}, {bitmap}: {difference}")
    return tally


TABLE = Table("msr", "RDMSR and WRMSR of 800H to 8FFH, the bitmap's edges: values, controls, bitmap", parts, check)
