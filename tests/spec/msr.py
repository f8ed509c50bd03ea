"""Guest RDMSR and WRMSR."""

from __future__ import annotations

from .clause import clause
from .icr import vector_of, x2apic_destination, x2apic_rule
from .ipi import ipi_virtualization, self_ipi_virtualization
from .outcome import RDMSR, WRMSR, Outcome, apic_write_exit, vm_exit
from .page import VEOI, VICR_LO, VSELF_IPI, VTPR, bits, load, store
from .priority import eoi_virtualization, tpr_virtualization
from .state import Controls, Cpu, Machine

TPR_MSR = 0x808
EOI_MSR = 0x80B
ICR_MSR = 0x830
SELF_IPI_MSR = 0x83F


@clause("25.6.9", "bitmap")
def intercepted(controls: Controls, msr: int, intercepts: set[int]) -> bool:
    """The MSR bitmap is looked at first: without one, outside its ranges, or if its bit is set, there is a VM exit."""
    if not controls.use_msr_bitmaps:
        return True
    in_range = 0 <= msr <= 0x1FFF or 0xC0000000 <= msr <= 0xC0001FFF
    return not in_range or msr in intercepts


@clause("30.5", "range")
def is_apic_msr(msr: int) -> bool:
    """The x2APIC registers are MSRs 800H to 8FFH."""
    return 0x800 <= msr <= 0x8FF


@clause("30.5", "page offset")
def page_offset(msr: int) -> int:
    """The register of an x2APIC MSR is at (ECX & FFH) << 4 of the virtual-APIC page."""
    return (msr & 0xFF) << 4


@clause("30.5", "RDMSR")
def read_is_virtualized(controls: Controls, msr: int) -> bool:
    """With x2APIC mode virtualized: any MSR of the range with APIC-register virtualization, else only 808H."""
    if not controls.virtualize_x2apic_mode or not is_apic_msr(msr):
        return False
    return controls.apic_register_virtualization or msr == TPR_MSR


def rdmsr(machine: Machine, cpu: int, msr: int) -> Outcome:
    """A guest reads an MSR."""
    this = machine.cpus[cpu]
    if intercepted(this.controls, msr, this.read_intercepts):
        return vm_exit(this, RDMSR, 0)
    if read_is_virtualized(this.controls, msr):
        return Outcome("value", value=load(this.page, page_offset(msr), 8))
    return Outcome("not-virtualized")


@clause("30.5", "WRMSR")
def write_is_virtualized(controls: Controls, msr: int) -> bool:
    """In virtualized x2APIC mode: 808H; 80BH, 83FH with interrupt delivery; 830H with IPI virtualization; no other."""
    if not controls.virtualize_x2apic_mode:
        return False
    if msr == TPR_MSR:
        return True
    if msr in (EOI_MSR, SELF_IPI_MSR):
        return controls.virtual_interrupt_delivery
    return msr == ICR_MSR and controls.ipi_virtualization


@clause("30.5", "808H")
def write_tpr(cpu: Cpu, value: int) -> Outcome:
    """808H: #GP if EDX or EAX[31:8] is set; stored at 080H; TPR virtualization."""
    if bits(value, 63, 8) != 0:
        return Outcome("fault")
    store(cpu.page, VTPR, 8, value)
    return tpr_virtualization(cpu)


@clause("30.5", "80BH")
def write_eoi(cpu: Cpu, value: int) -> Outcome:
    """80BH: #GP unless EDX:EAX = 0; stored at 0B0H; EOI virtualization."""
    if value != 0:
        return Outcome("fault")
    store(cpu.page, VEOI, 8, value)
    return eoi_virtualization(cpu)


@clause("30.5", "830H")
def write_icr(machine: Machine, cpu: int, value: int) -> Outcome:
    """830H: unless it faults, 64 bits are stored at 300H; then IPI virtualization or an APIC-write exit, 300H."""
    this = machine.cpus[cpu]
    rule = x2apic_rule(value)
    if rule == "fault":
        return Outcome("fault")
    store(this.page, VICR_LO, 8, value)
    if rule == "ipi":
        return ipi_virtualization(machine, cpu, vector_of(value), x2apic_destination(value))
    return apic_write_exit(this, VICR_LO)


@clause("30.5", "83FH")
def write_self_ipi(cpu: Cpu, value: int) -> Outcome:
    """83FH: #GP if EDX or EAX[31:8]; stored at 3F0H; EAX[7:4] = 0 is an APIC-write exit, 3F0H, else a self-IPI."""
    if bits(value, 63, 8) != 0:
        return Outcome("fault")
    store(cpu.page, VSELF_IPI, 8, value)
    if bits(value, 7, 4) == 0:
        return apic_write_exit(cpu, VSELF_IPI)
    return self_ipi_virtualization(cpu, bits(value, 7, 0))


def wrmsr(machine: Machine, cpu: int, msr: int, value: int) -> Outcome:
    """A guest writes a 64-bit value to an MSR."""
    this = machine.cpus[cpu]
    if intercepted(this.controls, msr, this.write_intercepts):
        return vm_exit(this, WRMSR, 0)
    if not write_is_virtualized(this.controls, msr):
        return Outcome("not-virtualized")
    if msr == TPR_MSR:
        return write_tpr(this, value)
    if msr == EOI_MSR:
        return write_eoi(this, value)
    if msr == ICR_MSR:
        return write_icr(machine, cpu, value)
    return write_self_ipi(this, value)
