"""External interrupts that arrive in VMX non-root operation, and posted-interrupt processing."""

from __future__ import annotations

from .clause import clause
from .outcome import EXTERNAL_INTERRUPT, Outcome, vm_exit
from .page import VIRR, bit, set_bit
from .priority import evaluate
from .state import Cpu, Descriptor, Machine, Vmcs


@clause("30.6", "1")
def acknowledge(machine: Machine, apic_id: int) -> int:
    """Acknowledge the local APIC: it gives up its highest requested vector P."""
    vector = max(machine.pending[apic_id])
    machine.pending[apic_id].remove(vector)
    return vector


@clause("30.6", "2")
def is_notification(vmcs: Vmcs, vector: int) -> bool:
    """A physical vector that is not the posted-interrupt notification vector is VM exit 1, as usual."""
    return vector == vmcs.notification_vector


@clause("30.6", "3")
def clear_outstanding(descriptor: Descriptor) -> None:
    """ON := 0, locked."""
    descriptor.on = False


@clause("30.6", "4")
def physical_eoi(machine: Machine, apic_id: int, vector: int) -> None:
    """Write EOI to the local APIC: P is no longer in service, and may be pending again by a new request only."""
    # The machine holds requests only, no in-service bits: there is nothing left to change.


@clause("30.6", "5")
def take_requests(cpu: Cpu, descriptor: Descriptor) -> int | None:
    """VIRR |= PIR and PIR := 0, each group of bits at once; gives the highest bit taken, if any."""
    taken: int | None = None
    for group in range(8):
        mask = 0xFFFFFFFF << (32 * group)
        found = descriptor.pir & mask
        descriptor.pir = descriptor.pir & ~mask
        for vector in range(32 * group, 32 * group + 32):
            if bit(found, vector):
                set_bit(cpu.page, VIRR, vector)
                taken = vector
    return taken


@clause("30.6", "6")
def raise_rvi(cpu: Cpu, taken: int | None) -> None:
    """RVI := max(RVI, highest bit taken from PIR), unchanged if none was taken."""
    if taken is not None:
        cpu.vmcs.rvi = max(cpu.vmcs.rvi, taken)


@clause("30.6", "7")
def evaluate_after(cpu: Cpu) -> None:
    """Evaluate pending virtual interrupts."""
    evaluate(cpu)


@clause("30.6", "")
def process(machine: Machine, cpu: Cpu, apic_id: int, descriptor: Descriptor, vector: int) -> Outcome:
    """Steps 3 to 7, in order, once the notification vector was acknowledged."""
    clear_outstanding(descriptor)
    physical_eoi(machine, apic_id, vector)
    raise_rvi(cpu, take_requests(cpu, descriptor))
    evaluate_after(cpu)
    return Outcome("virtualized", vector=vector)


@clause("25.7.1", "acknowledge")
def interrupt_exit(machine: Machine, cpu: Cpu, apic_id: int) -> Outcome:
    """VM exit 1 acknowledges the interrupt with acknowledge interrupt on exit = 1, else leaves it pending."""
    if cpu.controls.acknowledge_on_exit:
        vector = acknowledge(machine, apic_id)
        return vm_exit(cpu, EXTERNAL_INTERRUPT, 0, vector)
    return vm_exit(cpu, EXTERNAL_INTERRUPT, 0)


def external_interrupt(machine: Machine, cpu: int, apic_id: int) -> Outcome:
    """The processor takes the highest physical interrupt requested at its APIC ID, if any."""
    this = machine.cpus[cpu]
    if not machine.pending.get(apic_id) or this.activity == "wait-for-sipi":
        return Outcome("virtualized")
    if not this.controls.external_interrupt_exiting:
        raise NotImplementedError("external-interrupt exiting = 0")
    if not this.controls.process_posted_interrupts:
        return interrupt_exit(machine, this, apic_id)
    address = this.vmcs.descriptor
    if is_notification(this.vmcs, max(machine.pending[apic_id])) and address not in machine.descriptors:
        return Outcome("wild")
    vector = acknowledge(machine, apic_id)
    if not is_notification(this.vmcs, vector):
        return vm_exit(this, EXTERNAL_INTERRUPT, 0, vector)
    return process(machine, this, apic_id, machine.descriptors[address], vector)
