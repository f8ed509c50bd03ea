"""VM entry: every single bit and every pair of bits of a VMCS that is otherwise good."""

from __future__ import annotations

import itertools
import re
from typing import Any

import spec
from conformance.pair import NUMBER_FIELDS, Pair
from conformance.table import Table, Tally, entered, some

WIDTHS = {
    "pin": 32,
    "primary": 32,
    "secondary": 32,
    "tertiary": 64,
    "exit_controls": 32,
    "notification_vector": 16,
    "last_pid_index": 16,
    "virtual_apic": 64,
    "apic_access": 64,
    "descriptor": 64,
    "pid_table": 64,
    "tpr_threshold": 32,
}
BITS = [(field, bit) for field, width in WIDTHS.items() for bit in range(width)]
BASES = ("xAPIC", "x2APIC", "TPR threshold", "no TPR shadow")
PER_PART = 4000
# The one failure that is the emulator's own: an address that is fine, where it has no memory.
NO_MEMORY = re.compile("is outside of the emulated memory")


def parts(full: bool) -> list[tuple[Any, ...]]:
    """A good VMCS, and bits to flip in it."""
    flips: list[tuple[int, ...]] = [(bit,) for bit in range(len(BITS))]
    pairs = list(itertools.combinations(range(len(BITS)), 2))
    flips += pairs if full else some(pairs, 300)
    return [(base, flips[at : at + PER_PART]) for base in BASES for at in range(0, len(flips), PER_PART)]


def base_machine(base: str) -> Pair:
    """A machine whose vCPU 0 has entered with the VMCS named."""
    pair = Pair(2, "x2apic" if base == "x2APIC" else "xapic")
    if base == "TPR threshold":
        entered(pair, register=True, delivery=False, ipi=True, virtualize_apic_accesses=False)
        pair.vcpus[0].set_register(0x080, 0x50)
        pair.take_over(0)
        pair.vmwrite(0, "tpr_threshold", 4)
    elif base == "no TPR shadow":
        entered(pair, register=False, delivery=False, ipi=False, shadow=False)
    return pair


def check(base: str, flips: list[tuple[int, ...]]) -> Tally:
    """Both enter, or both refuse; and the emulator's reason is among those that the specification finds."""
    pair = base_machine(base)
    vcpu, vmcs = pair.vcpus[0], pair.spec.cpus[0].vmcs
    good = {field: getattr(vmcs, field) for field in WIDTHS}
    tally = Tally(len(flips))
    for flip in flips:
        touched = {BITS[index][0] for index in flip}
        for field in touched:
            value = good[field] ^ sum(1 << bit for name, bit in (BITS[index] for index in flip) if name == field)
            vcpu.vmwrite(NUMBER_FIELDS[field], value)
            setattr(vmcs, field, value)
        # VTPR is in whatever page the VMCS names now.
        page = vcpu.virtual_apic_page if "virtual_apic" in touched else pair.spec.cpus[0].page
        expected = spec.entry_failures(vmcs, pair.spec.capability, page[0x080] if page else 0)
        try:
            vcpu.enter()
            refused = ""
        except ValueError as failure:
            refused = str(failure)
        if bool(refused and not NO_MEMORY.search(refused)) != bool(expected):
            what = ", ".join(f"{BITS[index][0]} bit {BITS[index][1]}" for index in flip)
            tally.differences.append(f"{base}, {what}: {refused or 'enters'}; the specification {expected or 'enters'}")
        for field in touched:
            vcpu.vmwrite(NUMBER_FIELDS[field], good[field])
            setattr(vmcs, field, good[field])
    return tally


TABLE = Table("entry", "VM entry: single and pairwise wrong bits of four good VMCSs", parts, check)
