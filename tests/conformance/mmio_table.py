"""The APIC-access page: every offset, width and kind of access under every combination of controls."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

from conformance.pair import Difference, Pair
from conformance.table import Table, Tally, entered, some

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTROLS = [
    {"register": register, "delivery": delivery, "ipi": ipi, "shadow": True}
    for register, delivery, ipi in itertools.product((False, True), repeat=3)
] + [{"register": False, "delivery": False, "ipi": False, "shadow": False}]


def parts(full: bool) -> list[tuple[Any, ...]]:
    """Kind, width, APIC mode, controls, offsets."""
    offsets: Sequence[int] = range(4096)
    if not full:
        registers = range(0, 0x400, 0x10)
        offsets = sorted({*registers, *(at + 1 for at in registers[::3]), *some(range(4096), 40), 0xFFF})
    accesses = [(kind, width) for kind in ("read", "write") for width in (1, 2, 4, 8)] + [("fetch", 1)]
    machines = [("xapic", controls) for controls in CONTROLS] + [("x2apic", CONTROLS[7])]
    return [(*access, *machine, offsets) for access in accesses for machine in machines]


def check(kind: str, width: int, apic: str, controls: dict[str, bool], offsets: Sequence[int]) -> Tally:
    """Each access in turn, on a machine that has seen all before it."""
    pair = entered(Pair(2, apic), **controls)
    values = random.Random(width)  # noqa: S311 - values to write
    tally = Tally(len(offsets))
    for count, offset in enumerate(offsets):
        try:
            if kind == "read":
                pair.mmio_read(0, offset, width)
            elif kind == "fetch":
                pair.mmio_fetch(0, offset)
            else:
                pair.mmio_write(0, offset, width, values.getrandbits(8 * width))
            if count % 16 == 0:
                pair.compare()
        except Difference as difference:
            tally.differences.append(f"{apic} {controls}: {difference}")
    return tally


TABLE = Table("mmio", "accesses to the APIC-access page: offsets, widths, kinds, controls", parts, check)
