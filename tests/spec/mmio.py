"""Guest accesses to the APIC-access page."""

from __future__ import annotations

from .clause import clause
from .icr import vector_of, xapic_destination, xapic_rule
from .ipi import ipi_virtualization, self_ipi_virtualization
from .outcome import APIC_ACCESS, Outcome, apic_write_exit, vm_exit
from .page import VEOI, VICR_HI, VICR_LO, VTPR, load, store
from .priority import eoi_virtualization, tpr_virtualization
from .state import Controls, Cpu, Machine

ACCESS_TYPE = {"read": 0, "write": 1, "fetch": 2}

LVT = {0x320, 0x330, 0x340, 0x350, 0x360, 0x370}
BANKS = {base + 0x10 * i for base in (0x100, 0x180, 0x200) for i in range(8)}
WITH_REGISTER_VIRTUALIZATION_WRITES = LVT | {
    0x020,
    0x080,
    0x0B0,
    0x0D0,
    0x0E0,
    0x0F0,
    0x280,
    0x300,
    0x310,
    0x380,
    0x3E0,
}
WITH_REGISTER_VIRTUALIZATION_READS = (
    LVT
    | BANKS
    | {
        0x020,
        0x030,
        0x080,
        0x0B0,
        0x0D0,
        0x0E0,
        0x0F0,
        0x280,
        0x300,
        0x310,
        0x380,
        0x3E0,
    }
)


def register_of(offset: int) -> int:
    """The 16-byte-aligned register that an offset belongs to."""
    return offset & ~0xF


@clause("30.4.2", "TPR shadow")
def exits_without_shadow(controls: Controls) -> bool:
    """Every access exits while use TPR shadow = 0."""
    return not controls.use_tpr_shadow


@clause("30.4.2", "width")
def exits_as_wide(width: int) -> bool:
    """An access wider than 32 bits exits."""
    return width > 4


@clause("30.4.2", "fetch")
def exits_as_fetch(kind: str) -> bool:
    """An instruction fetch exits."""
    return kind == "fetch"


@clause("30.4.2", "low bytes")
def exits_as_outside(offset: int, width: int) -> bool:
    """An access that is not inside the low 4 bytes of an aligned 16-byte region exits."""
    return offset % 16 + width > 4


@clause("30.4.2", "reads")
def read_is_virtualized(offset: int, controls: Controls) -> bool:
    """Reads: offset 080H; 0B0H and 300H with virtual-interrupt delivery; ranges with APIC-register virtualization."""
    if offset == 0x080:
        return True
    if offset in (0x0B0, 0x300) and controls.virtual_interrupt_delivery:
        return True
    return controls.apic_register_virtualization and register_of(offset) in WITH_REGISTER_VIRTUALIZATION_READS


@clause("30.4.3.1", "writes")
def write_is_virtualized(offset: int, controls: Controls) -> bool:
    """Writes: 080H; 0B0H, 300H with virtual-interrupt delivery; 300H with IPI virtualization; ranges as for reads."""
    if offset == 0x080:
        return True
    if offset in (0x0B0, 0x300) and controls.virtual_interrupt_delivery:
        return True
    if offset == 0x300 and controls.ipi_virtualization:
        return True
    return controls.apic_register_virtualization and register_of(offset) in WITH_REGISTER_VIRTUALIZATION_WRITES


def access_exit(offset: int, width: int, kind: str, controls: Controls) -> bool:
    """Whether an access to the APIC-access page (virtualize APIC accesses = 1) is an APIC-access VM exit."""
    if exits_without_shadow(controls) or exits_as_wide(width) or exits_as_fetch(kind):
        return True
    if exits_as_outside(offset, width):
        return True
    if kind == "read":
        return not read_is_virtualized(offset, controls)
    return not write_is_virtualized(offset, controls)


@clause("30.4.1", "exit")
def apic_access_exit(cpu: Cpu, offset: int, kind: str) -> Outcome:
    """An APIC-access VM exit has reason 44 and offset | type << 12 as its qualification."""
    return vm_exit(cpu, APIC_ACCESS, offset | (ACCESS_TYPE[kind] << 12))


@clause("30.4.3.2", "080H")
def after_tpr_write(cpu: Cpu) -> Outcome:
    """A write of VTPR clears its bytes 3:1, then there is TPR virtualization."""
    store(cpu.page, VTPR + 1, 3, 0)
    return tpr_virtualization(cpu)


@clause("30.4.3.2", "0B0H")
def after_eoi_write(cpu: Cpu) -> Outcome:
    """With virtual-interrupt delivery VEOI is cleared and there is EOI virtualization; else APIC-write exit."""
    if not cpu.controls.virtual_interrupt_delivery:
        return apic_write_exit(cpu, VEOI)
    store(cpu.page, VEOI, 4, 0)
    return eoi_virtualization(cpu)


@clause("30.4.3.2", "300H")
def after_icr_low_write(machine: Machine, cpu: int) -> Outcome:
    """A write of VICR_LO is a self-IPI of VICR_LO[7:0], an IPI to VICR_HI[31:24], or an APIC-write exit."""
    this = machine.cpus[cpu]
    low = load(this.page, VICR_LO, 4)
    rule = xapic_rule(low, this.controls.virtual_interrupt_delivery, this.controls.ipi_virtualization)
    if rule == "self":
        return self_ipi_virtualization(this, vector_of(low))
    if rule == "ipi":
        return ipi_virtualization(machine, cpu, vector_of(low), xapic_destination(load(this.page, VICR_HI, 4)))
    return apic_write_exit(this, VICR_LO)


@clause("30.4.3.2", "310H")
def after_icr_high_write(cpu: Cpu) -> Outcome:
    """A write anywhere in 310H-313H clears VICR_HI bytes 2:0 and does not exit."""
    store(cpu.page, VICR_HI, 3, 0)
    return Outcome("virtualized")


@clause("30.4.3.2", "other")
def after_other_write(cpu: Cpu, offset: int) -> Outcome:
    """A virtualized write at any other offset is an APIC-write VM exit."""
    return apic_write_exit(cpu, offset)


def apic_write_emulation(machine: Machine, cpu: int, offset: int) -> Outcome:
    """What follows a write that was stored in the virtual-APIC page."""
    this = machine.cpus[cpu]
    if offset == VTPR:
        return after_tpr_write(this)
    if offset == VEOI:
        return after_eoi_write(this)
    if offset == VICR_LO:
        return after_icr_low_write(machine, cpu)
    if register_of(offset) == VICR_HI:
        return after_icr_high_write(this)
    return after_other_write(this, offset)


def mmio_read(machine: Machine, cpu: int, offset: int, width: int) -> Outcome:
    """A guest reads `width` bytes at an offset of the APIC-access page."""
    this = machine.cpus[cpu]
    if not this.controls.virtualize_apic_accesses:
        return Outcome("not-virtualized")
    if access_exit(offset, width, "read", this.controls):
        return apic_access_exit(this, offset, "read")
    return Outcome("value", value=load(this.page, offset, width))


def mmio_write(machine: Machine, cpu: int, offset: int, width: int, value: int) -> Outcome:
    """A guest writes `width` bytes at an offset of the APIC-access page."""
    this = machine.cpus[cpu]
    if not this.controls.virtualize_apic_accesses:
        return Outcome("not-virtualized")
    if access_exit(offset, width, "write", this.controls):
        return apic_access_exit(this, offset, "write")
    store(this.page, offset, width, value)
    return apic_write_emulation(machine, cpu, offset)


def mmio_fetch(machine: Machine, cpu: int, offset: int) -> Outcome:
    """A guest fetches an instruction from an offset of the APIC-access page."""
    this = machine.cpus[cpu]
    if not this.controls.virtualize_apic_accesses:
        return Outcome("not-virtualized")
    assert access_exit(offset, 1, "fetch", this.controls), "a fetch is never virtualized"
    return apic_access_exit(this, offset, "fetch")
