"""VM entry: the checks of the controls, and what a successful entry does to virtual interrupts."""

from __future__ import annotations

from .clause import clause
from .page import VTPR, bit, bits, load
from .priority import evaluate, ppr_virtualization
from .state import Capability, Controls, Cpu, Machine, Vmcs, controls_of

SECTION = "27.2.1.1"


def aligned(address: int, alignment: int) -> bool:
    """Whether an address is a multiple of an alignment."""
    return address % alignment == 0


def within(address: int, capability: Capability) -> bool:
    """Whether an address has no bit beyond the physical-address width."""
    return address >> capability.maxphyaddr == 0


@clause(SECTION, "tertiary allowed")
def tertiary_allowed(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With activate tertiary = 1, no tertiary control outside MSR 492H is set."""
    return not bit(vmcs.primary, 17) or vmcs.tertiary & ~capability.tertiary_allowed == 0


@clause(SECTION, "virtual-APIC alignment")
def virtual_apic_alignment(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With use TPR shadow = 1, the virtual-APIC address is 4 KiB aligned."""
    return not controls_of(vmcs).use_tpr_shadow or aligned(vmcs.virtual_apic, 4096)


@clause(SECTION, "virtual-APIC width")
def virtual_apic_width(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With use TPR shadow = 1, the virtual-APIC address is within MAXPHYADDR."""
    return not controls_of(vmcs).use_tpr_shadow or within(vmcs.virtual_apic, capability)


@clause(SECTION, "TPR threshold reserved")
def threshold_reserved(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With use TPR shadow = 1 and virtual-interrupt delivery = 0, TPR threshold[31:4] = 0."""
    controls = controls_of(vmcs)
    if not controls.use_tpr_shadow or controls.virtual_interrupt_delivery:
        return True
    return bits(vmcs.tpr_threshold, 31, 4) == 0


@clause(SECTION, "TPR threshold VTPR")
def threshold_vtpr(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With virtualize APIC accesses = 0 as well, TPR threshold[3:0] <= VTPR[7:4]."""
    controls = controls_of(vmcs)
    if not controls.use_tpr_shadow or controls.virtual_interrupt_delivery or controls.virtualize_apic_accesses:
        return True
    return bits(vmcs.tpr_threshold, 3, 0) <= bits(vtpr, 7, 4)


@clause(SECTION, "no TPR shadow x2APIC mode")
def no_shadow_x2apic(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With use TPR shadow = 0, virtualize x2APIC mode = 0."""
    controls = controls_of(vmcs)
    return controls.use_tpr_shadow or not controls.virtualize_x2apic_mode


@clause(SECTION, "no TPR shadow APIC-register virtualization")
def no_shadow_registers(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With use TPR shadow = 0, APIC-register virtualization = 0."""
    controls = controls_of(vmcs)
    return controls.use_tpr_shadow or not controls.apic_register_virtualization


@clause(SECTION, "no TPR shadow virtual-interrupt delivery")
def no_shadow_delivery(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With use TPR shadow = 0, virtual-interrupt delivery = 0."""
    controls = controls_of(vmcs)
    return controls.use_tpr_shadow or not controls.virtual_interrupt_delivery


@clause(SECTION, "no TPR shadow IPI virtualization")
def no_shadow_ipi(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With use TPR shadow = 0, IPI virtualization = 0."""
    controls = controls_of(vmcs)
    return controls.use_tpr_shadow or not controls.ipi_virtualization


@clause(SECTION, "x2APIC mode APIC accesses")
def one_mode(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With virtualize x2APIC mode = 1, virtualize APIC accesses = 0."""
    controls = controls_of(vmcs)
    return not controls.virtualize_x2apic_mode or not controls.virtualize_apic_accesses


@clause(SECTION, "delivery external-interrupt exiting")
def delivery_needs_exiting(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With virtual-interrupt delivery = 1, external-interrupt exiting = 1."""
    controls = controls_of(vmcs)
    return not controls.virtual_interrupt_delivery or controls.external_interrupt_exiting


@clause(SECTION, "posted virtual-interrupt delivery")
def posted_needs_delivery(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With process posted interrupts = 1, virtual-interrupt delivery = 1."""
    controls = controls_of(vmcs)
    return not controls.process_posted_interrupts or controls.virtual_interrupt_delivery


@clause(SECTION, "posted acknowledge on exit")
def posted_needs_acknowledge(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With process posted interrupts = 1, acknowledge interrupt on exit = 1."""
    controls = controls_of(vmcs)
    return not controls.process_posted_interrupts or controls.acknowledge_on_exit


@clause(SECTION, "posted notification vector")
def posted_vector(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With process posted interrupts = 1, notification vector[15:8] = 0."""
    return not controls_of(vmcs).process_posted_interrupts or bits(vmcs.notification_vector, 15, 8) == 0


@clause(SECTION, "posted descriptor alignment")
def posted_alignment(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With process posted interrupts = 1, the descriptor address is 64-byte aligned."""
    return not controls_of(vmcs).process_posted_interrupts or aligned(vmcs.descriptor, 64)


@clause(SECTION, "posted descriptor width")
def posted_width(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With process posted interrupts = 1, the descriptor address is within MAXPHYADDR."""
    return not controls_of(vmcs).process_posted_interrupts or within(vmcs.descriptor, capability)


@clause(SECTION, "APIC-access alignment")
def apic_access_alignment(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With virtualize APIC accesses = 1, the APIC-access address is 4 KiB aligned."""
    return not controls_of(vmcs).virtualize_apic_accesses or aligned(vmcs.apic_access, 4096)


@clause(SECTION, "APIC-access width")
def apic_access_width(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With virtualize APIC accesses = 1, the APIC-access address is within MAXPHYADDR."""
    return not controls_of(vmcs).virtualize_apic_accesses or within(vmcs.apic_access, capability)


@clause(SECTION, "PID table alignment")
def table_alignment(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With IPI virtualization = 1, the PID-pointer table address is 8-byte aligned."""
    return not controls_of(vmcs).ipi_virtualization or aligned(vmcs.pid_table, 8)


@clause(SECTION, "PID table width")
def table_width(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With IPI virtualization = 1, the PID-pointer table address is within MAXPHYADDR."""
    return not controls_of(vmcs).ipi_virtualization or within(vmcs.pid_table, capability)


@clause(SECTION, "PID table last entry")
def table_last_entry(vmcs: Vmcs, capability: Capability, vtpr: int) -> bool:
    """With IPI virtualization = 1, table + 8 * last PID-pointer index is within MAXPHYADDR."""
    return not controls_of(vmcs).ipi_virtualization or within(vmcs.pid_table + 8 * vmcs.last_pid_index, capability)


# Each check with its step's name; True means that the VMCS passes.
CHECKS = [
    ("tertiary allowed", tertiary_allowed),
    ("virtual-APIC alignment", virtual_apic_alignment),
    ("virtual-APIC width", virtual_apic_width),
    ("TPR threshold reserved", threshold_reserved),
    ("TPR threshold VTPR", threshold_vtpr),
    ("no TPR shadow x2APIC mode", no_shadow_x2apic),
    ("no TPR shadow APIC-register virtualization", no_shadow_registers),
    ("no TPR shadow virtual-interrupt delivery", no_shadow_delivery),
    ("no TPR shadow IPI virtualization", no_shadow_ipi),
    ("x2APIC mode APIC accesses", one_mode),
    ("delivery external-interrupt exiting", delivery_needs_exiting),
    ("posted virtual-interrupt delivery", posted_needs_delivery),
    ("posted acknowledge on exit", posted_needs_acknowledge),
    ("posted notification vector", posted_vector),
    ("posted descriptor alignment", posted_alignment),
    ("posted descriptor width", posted_width),
    ("APIC-access alignment", apic_access_alignment),
    ("APIC-access width", apic_access_width),
    ("PID table alignment", table_alignment),
    ("PID table width", table_width),
    ("PID table last entry", table_last_entry),
]


def entry_failures(vmcs: Vmcs, capability: Capability, vtpr: int) -> list[str]:
    """The names of all the checks that a VM entry with this VMCS violates."""
    return [f"{SECTION} {step}" for step, check in CHECKS if not check(vmcs, capability, vtpr)]


@clause("27.3.2.5", "")
def load_virtual_interrupts(this: Cpu) -> None:
    """VM entry with virtual-interrupt delivery = 1 does PPR virtualization and evaluates."""
    this.recognized = False
    if this.controls.virtual_interrupt_delivery:
        ppr_virtualization(this)
        evaluate(this)


@clause("27.7.7", "due")
def threshold_is_due(controls: Controls) -> bool:
    """The TPR threshold counts after VM entry with TPR shadow and APIC accesses virtualized, without delivery."""
    return controls.use_tpr_shadow and controls.virtualize_apic_accesses and not controls.virtual_interrupt_delivery


def vm_entry(machine: Machine, cpu: int) -> list[str]:
    """VM entry: the checks that it violates; nothing has changed then, else the controls are taken."""
    this = machine.cpus[cpu]
    failures = entry_failures(this.vmcs, machine.capability, load(this.page, VTPR, 4))
    if failures:
        return failures
    this.controls = controls_of(this.vmcs)
    load_virtual_interrupts(this)
    this.threshold_due = threshold_is_due(this.controls)
    return []
