"""Writes of the ICR: every value of bits 19:0, and each reserved bit above them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

import ipivrs
import spec
from conformance.pair import Difference, Pair
from conformance.table import Table, Tally, entered, some

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK = 1 << 16
VECTORS = (0x00, 0x0F, 0x10, 0xFF)


def parts(full: bool) -> list[tuple[Any, ...]]:
    """APIC mode, virtual-interrupt delivery, IPI virtualization, values."""
    chunks: list[Sequence[int]] = [range(first, first + CHUNK) for first in range(0, 1 << 20, CHUNK)]
    reserved = [1 << bit | low | v for bit in range(20, 32) for low in range(0, 1 << 20, 1 << 8) for v in VECTORS]
    chunks.append(reserved)
    if not full:
        ones = [1 << bit | 0xFB for bit in range(32)]
        chunks = [ones + some(range(1 << 20), 300) + some(reserved, 100) + list(range(64))]
    return list(itertools.product(("xapic", "x2apic"), (False, True), (False, True), chunks))


def check(apic: str, delivery: bool, ipi: bool, values: Sequence[int]) -> Tally:
    """One after another, each outcome, and at the end all state."""
    pair = entered(Pair(2, apic), register=delivery, delivery=delivery, ipi=ipi)
    if apic == "xapic":
        pair.vcpus[0].set_register(0x310, 1 << 24)
        pair.take_over(0)
        batch = pair.vcpus[0].mmio_write_batch(0x300, np.array(values, dtype=np.uint64))
        expected = [spec.mmio_write(pair.spec, 0, 0x300, 4, value) for value in values]
    else:
        for msr in (0x808, 0x80B, 0x830, 0x83F):
            pair.intercept(0, msr, write=False)
        values = [1 << 32 | value for value in values]
        batch = pair.vcpus[0].wrmsr_batch(0x830, np.array(values, dtype=np.uint64))
        expected = [spec.wrmsr(pair.spec, 0, 0x830, value) for value in values]
    tally = Tally(len(values))
    rows = zip(*(batch[name].tolist() for name in COLUMNS), strict=True)
    for value, row, outcome in zip(values, rows, expected, strict=True):
        if row != columns(outcome):
            tally.differences.append(f"ICR {value:X}H, {apic}: {row}, the specification {outcome}")
    try:
        pair.compare()
    except Difference as difference:
        tally.differences.append(str(difference))
    return tally


COLUMNS = ("outcome", "reason", "qualification", "vector", "destination", "coalesced", "notification")
EXITS = {44: "apic-access-exit", 56: "apic-write-exit"}


def columns(outcome: spec.Outcome) -> tuple[int, ...]:
    """The row that a batch should have for an outcome."""
    kind = EXITS[outcome.reason] if outcome.reason else outcome.kind
    optional = [
        outcome.vector,
        outcome.destination,
        outcome.coalesced,
        ipivrs.NOTIFICATIONS.index(outcome.notification) if outcome.notification else None,
    ]
    exit_information = (outcome.reason or 0, outcome.qualification or 0)
    return (ipivrs.OUTCOMES.index(kind), *exit_information, *(-1 if one is None else int(one) for one in optional))


TABLE = Table("icr", "writes of the ICR: bits 19:0, each reserved bit, both modes, controls", parts, check)
