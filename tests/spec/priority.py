"""TPR, PPR and EOI virtualization; evaluation and delivery of virtual interrupts; HLT."""

from __future__ import annotations

from .clause import clause
from .outcome import HLT, INTERRUPT_WINDOW, TPR_BELOW_THRESHOLD, VIRTUALIZED_EOI, Outcome, vm_exit
from .page import VIRR, VISR, VPPR, VTPR, bit, bits, clear_bit, highest, load, set_bit, store
from .state import Cpu, Machine, Vmcs


@clause("30.1.3", "")
def ppr_virtualization(cpu: Cpu) -> None:
    """VPPR := VTPR & FFH if VTPR[7:4] >= SVI[7:4], else SVI & F0H."""
    vtpr = load(cpu.page, VTPR, 4)
    svi = cpu.vmcs.svi
    if bits(vtpr, 7, 4) >= bits(svi, 7, 4):
        store(cpu.page, VPPR, 4, vtpr & 0xFF)
    else:
        store(cpu.page, VPPR, 4, svi & 0xF0)


@clause("30.2.1", "")
def evaluate(cpu: Cpu) -> None:
    """A virtual interrupt is recognized if interrupt-window exiting = 0 and RVI[7:4] > VPPR[7:4], else none is."""
    vppr = load(cpu.page, VPPR, 4)
    cpu.recognized = not cpu.controls.interrupt_window_exiting and bits(cpu.vmcs.rvi, 7, 4) > bits(vppr, 7, 4)


@clause("30.1.2", "threshold")
def below_threshold(cpu: Cpu) -> bool:
    """Without virtual-interrupt delivery, VTPR[7:4] < TPR threshold[3:0] is VM exit 43."""
    return bits(load(cpu.page, VTPR, 4), 7, 4) < bits(cpu.vmcs.tpr_threshold, 3, 0)


@clause("30.1.2", "")
def tpr_virtualization(cpu: Cpu) -> Outcome:
    """With virtual-interrupt delivery, PPR virtualization and evaluation; without it, only the threshold counts."""
    if cpu.controls.virtual_interrupt_delivery:
        ppr_virtualization(cpu)
        evaluate(cpu)
        return Outcome("virtualized")
    if below_threshold(cpu):
        return vm_exit(cpu, TPR_BELOW_THRESHOLD, 0)
    return Outcome("virtualized")


@clause("30.1.4", "bitmap")
def eoi_exits(vmcs: Vmcs, vector: int) -> bool:
    """The EOI of a vector exits if its bit of the four 64-bit EOI-exit bitmaps is 1."""
    return bit(vmcs.eoi_exit[vector // 64], vector % 64)


@clause("30.1.4", "")
def eoi_virtualization(cpu: Cpu) -> Outcome:
    """V := SVI; clear VISR[V]; SVI := highest VISR bit; PPR; exit 45 with V if its bitmap bit is 1, else evaluate."""
    vector = cpu.vmcs.svi
    clear_bit(cpu.page, VISR, vector)
    cpu.vmcs.svi = highest(cpu.page, VISR)
    ppr_virtualization(cpu)
    if eoi_exits(cpu.vmcs, vector):
        return vm_exit(cpu, VIRTUALIZED_EOI, vector)
    evaluate(cpu)
    return Outcome("virtualized")


@clause("30.2.2", "deliverable")
def deliverable(cpu: Cpu) -> bool:
    """A recognized interrupt is delivered with RFLAGS.IF = 1, no shadow, and not in shutdown or wait-for-SIPI."""
    return cpu.recognized and cpu.interrupt_flag and not cpu.interrupt_shadow and cpu.activity in ("active", "hlt")


@clause("30.2.2", "")
def deliver(cpu: Cpu) -> int:
    """V := RVI goes from VIRR to VISR and SVI; VPPR := V & F0H; RVI := highest VIRR bit; recognition stops."""
    vector = cpu.vmcs.rvi
    set_bit(cpu.page, VISR, vector)
    cpu.vmcs.svi = vector
    store(cpu.page, VPPR, 4, vector & 0xF0)
    clear_bit(cpu.page, VIRR, vector)
    cpu.vmcs.rvi = highest(cpu.page, VIRR)
    cpu.recognized = False
    return vector


@clause("30.2.2", "wake")
def wake(cpu: Cpu) -> None:
    """Delivery ends HLT."""
    cpu.activity = "active"


@clause("27.7.7", "")
def threshold_exit_after_entry(cpu: Cpu) -> bool:
    """Right after such a VM entry, TPR threshold[3:0] > VTPR[7:4] is VM exit 43."""
    due = cpu.threshold_due
    cpu.threshold_due = False
    return due and below_threshold(cpu)


@clause("26.2", "window")
def window_exit(cpu: Cpu) -> bool:
    """With interrupt-window exiting = 1, a boundary at which the guest could take an interrupt is exit 7."""
    takes = cpu.interrupt_flag and not cpu.interrupt_shadow and cpu.activity in ("active", "hlt")
    return cpu.controls.interrupt_window_exiting and takes


def boundary(machine: Machine, cpu: int) -> int | None:
    """One instruction boundary: the vector delivered, if any."""
    this = machine.cpus[cpu]
    if threshold_exit_after_entry(this):
        vm_exit(this, TPR_BELOW_THRESHOLD, 0)
        return None
    if window_exit(this):
        vm_exit(this, INTERRUPT_WINDOW, 0)
        return None
    if not deliverable(this):
        return None
    vector = deliver(this)
    wake(this)
    return vector


@clause("26.1.3", "HLT")
def hlt(machine: Machine, cpu: int) -> Outcome:
    """HLT is VM exit 12 with HLT exiting = 1, else the processor halts."""
    this = machine.cpus[cpu]
    if this.controls.hlt_exiting:
        return vm_exit(this, HLT, 0)
    this.activity = "hlt"
    return Outcome("virtualized")
