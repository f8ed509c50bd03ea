"""IPI virtualization, self-IPI virtualization and SENDUIPI."""

from __future__ import annotations

from dataclasses import dataclass

from .clause import clause
from .outcome import Outcome, apic_write_exit
from .page import VICR_HI, VICR_LO, VIRR, bit, bits, has_bit, set_bit, store
from .priority import evaluate
from .state import Capability, Cpu, Descriptor, Machine, Vmcs, request


@clause("30.1.6", "1")
def step1_exits(v: int) -> bool:
    """A vector below 16 is an APIC-write VM exit."""
    return v < 16


@clause("30.1.6", "2")
def step2_exits(vmcs: Vmcs, t: int) -> bool:
    """A virtual APIC ID above the last PID-pointer index is an APIC-write VM exit."""
    return t > vmcs.last_pid_index


@clause("30.1.6", "3 address")
def entry_address(vmcs: Vmcs, t: int) -> int:
    """The PID-pointer entry of T is the 8 bytes at table + 8 * T."""
    return vmcs.pid_table + 8 * t


@clause("30.1.6", "3 reserved")
def entry_exits(entry: int, capability: Capability) -> bool:
    """An entry with bits beyond MAXPHYADDR, or whose bits 5:0 are not 000001b, is an APIC-write VM exit."""
    return entry >> capability.maxphyaddr != 0 or bits(entry, 5, 0) != 0b000001


@clause("30.1.6", "3 descriptor")
def descriptor_address(entry: int) -> int:
    """The rest of a PID-pointer entry, without bits 5:0, is the descriptor's physical address."""
    return entry & ~0x3F


@dataclass(frozen=True)
class Lookup:
    """What step 3 found: kind "exit", "wild" or "descriptor" (then with its address)."""

    kind: str
    address: int = 0


@clause("30.1.6", "3")
def step3_lookup(machine: Machine, vmcs: Vmcs, t: int) -> Lookup:
    """Read the PID-pointer entry of T; a bad one is an APIC-write VM exit, a good one gives the descriptor."""
    where = entry_address(vmcs, t)
    if where not in machine.table_words:
        return Lookup("wild")
    entry = machine.table_words[where]
    if entry_exits(entry, machine.capability):
        return Lookup("exit")
    address = descriptor_address(entry)
    if address not in machine.descriptors:
        return Lookup("wild")
    return Lookup("descriptor", address)


@clause("30.1.6", "4")
def step4_post(descriptor: Descriptor, v: int) -> bool:
    """PIR[V] := 1 as one locked operation; True if it was 1 already."""
    before = bit(descriptor.pir, v)
    descriptor.pir = descriptor.pir | (1 << v)
    return before


@clause("30.1.6", "5")
def step5_claim(descriptor: Descriptor) -> str:
    """As one locked operation, ON := 1 if ON = 0 and SN = 0; a notification is due ("sent") only then."""
    if descriptor.sn:
        return "suppressed"
    if descriptor.on:
        return "outstanding"
    descriptor.on = True
    return "sent"


@clause("30.1.6", "6")
def step6_notify(machine: Machine, descriptor: Descriptor) -> None:
    """A due notification is an ordinary IPI with vector NV to NDST (physical x2APIC)."""
    request(machine, descriptor.ndst, descriptor.nv)


@clause("30.1.6", "exit")
def ipi_exit(cpu: Cpu) -> Outcome:
    """Every VM exit of IPI virtualization is trap-like, with reason 56 and qualification 300H."""
    return apic_write_exit(cpu, VICR_LO)


@clause("30.1.6", "")
def ipi_virtualization(machine: Machine, cpu: int, v: int, t: int) -> Outcome:
    """Steps 1 to 6, in order, for vector V and virtual APIC ID T."""
    this = machine.cpus[cpu]
    if step1_exits(v):
        return ipi_exit(this)
    if step2_exits(this.vmcs, t):
        return ipi_exit(this)
    found = step3_lookup(machine, this.vmcs, t)
    if found.kind == "exit":
        return ipi_exit(this)
    if found.kind == "wild":
        return Outcome("wild")
    descriptor = machine.descriptors[found.address]
    coalesced = step4_post(descriptor, v)
    notification = step5_claim(descriptor)
    if notification == "sent":
        step6_notify(machine, descriptor)
    return Outcome("posted", vector=v, destination=t, coalesced=coalesced, notification=notification)


@clause("30.1.5", "")
def self_ipi_virtualization(cpu: Cpu, vector: int) -> Outcome:
    """VIRR[V] := 1; RVI := max(RVI, V); evaluate."""
    coalesced = has_bit(cpu.page, VIRR, vector)
    set_bit(cpu.page, VIRR, vector)
    cpu.vmcs.rvi = max(cpu.vmcs.rvi, vector)
    evaluate(cpu)
    return Outcome("self-ipi", vector=vector, coalesced=coalesced)


@clause("SENDUIPI", "fault")
def senduipi_faults(low: int, user_vector: int) -> bool:
    """SENDUIPI faults for a user vector above 63 or if UPID bits 15:2 or 31:24 are set."""
    return user_vector > 63 or bits(low, 15, 2) != 0 or bits(low, 31, 24) != 0


@clause("SENDUIPI", "request")
def senduipi_request(upid: list[int], user_vector: int) -> None:
    """SENDUIPI sets the user vector's request bit in the UPID's high word."""
    upid[1] = upid[1] | (1 << user_vector)


@clause("SENDUIPI", "claim")
def senduipi_due(upid: list[int]) -> bool:
    """If the UPID has ON = 0 and SN = 0, ON := 1 and a notification is due."""
    if bit(upid[0], 0) or bit(upid[0], 1):
        return False
    upid[0] = upid[0] | 1
    return True


@clause("SENDUIPI", "destination")
def senduipi_destination(cpu: Cpu, ndst: int) -> int:
    """T is NDST, or NDST[15:8] while virtualize APIC accesses = 1."""
    if cpu.controls.virtualize_apic_accesses:
        return bits(ndst, 15, 8)
    return ndst


@clause("SENDUIPI", "VICR")
def senduipi_store(cpu: Cpu, v: int, t: int) -> None:
    """The pair is in VICR as an ICR write of the mode (fixed, physical, no shorthand) would leave it."""
    if cpu.controls.virtualize_apic_accesses:
        store(cpu.page, VICR_HI, 4, t << 24)
        store(cpu.page, VICR_LO, 4, v)
    else:
        store(cpu.page, VICR_LO, 8, (t << 32) | v)


@clause("SENDUIPI", "")
def senduipi(machine: Machine, cpu: int, upid_address: int, user_vector: int) -> Outcome:
    """A user-interrupt notification goes through IPI virtualization with the UPID's NV as V and NDST as T."""
    if upid_address not in machine.upids:
        return Outcome("wild")
    this = machine.cpus[cpu]
    upid = machine.upids[upid_address]
    if senduipi_faults(upid[0], user_vector):
        return Outcome("fault")
    senduipi_request(upid, user_vector)
    if not senduipi_due(upid):
        return Outcome("virtualized")
    nv = bits(upid[0], 23, 16)
    ndst = bits(upid[0], 63, 32)
    if not this.controls.ipi_virtualization:
        return Outcome("not-virtualized", vector=nv, destination=ndst)
    t = senduipi_destination(this, ndst)
    senduipi_store(this, nv, t)
    return ipi_virtualization(machine, cpu, nv, t)
