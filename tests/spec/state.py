"""What the specification's operations read and change."""

from __future__ import annotations

from dataclasses import dataclass, field

from .clause import clause
from .page import bit


@dataclass
class Vmcs:
    """The VMCS fields that concern APIC virtualization, each as the integer that VMWRITE would take."""

    pin: int = 0
    primary: int = 0
    secondary: int = 0
    tertiary: int = 0
    exit_controls: int = 0
    notification_vector: int = 0
    last_pid_index: int = 0
    rvi: int = 0
    svi: int = 0
    virtual_apic: int = 0
    apic_access: int = 0
    descriptor: int = 0
    eoi_exit: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    pid_table: int = 0
    tpr_threshold: int = 0
    exit_reason: int = 0
    exit_qualification: int = 0


@dataclass
class Capability:
    """What this processor can do."""

    maxphyaddr: int = 46
    tertiary_allowed: int = 1 << 4


@dataclass(frozen=True)
class Controls:
    """The controls in force: one that is not activated is False here."""

    external_interrupt_exiting: bool = False
    process_posted_interrupts: bool = False
    interrupt_window_exiting: bool = False
    hlt_exiting: bool = False
    use_tpr_shadow: bool = False
    use_msr_bitmaps: bool = False
    virtualize_apic_accesses: bool = False
    virtualize_x2apic_mode: bool = False
    apic_register_virtualization: bool = False
    virtual_interrupt_delivery: bool = False
    ipi_virtualization: bool = False
    acknowledge_on_exit: bool = False


@clause("25.6.2", "secondary")
def effective_secondary(vmcs: Vmcs) -> int:
    """The secondary controls act as 0 unless primary bit 31 activates them."""
    return vmcs.secondary if bit(vmcs.primary, 31) else 0


@clause("25.6.2", "tertiary")
def effective_tertiary(vmcs: Vmcs) -> int:
    """The tertiary controls act as 0 unless primary bit 17 activates them."""
    return vmcs.tertiary if bit(vmcs.primary, 17) else 0


@clause("25.6", "controls")
def controls_of(vmcs: Vmcs) -> Controls:
    """Each control is at its bit of its VMCS field."""
    secondary = effective_secondary(vmcs)
    tertiary = effective_tertiary(vmcs)
    return Controls(
        external_interrupt_exiting=bit(vmcs.pin, 0),
        process_posted_interrupts=bit(vmcs.pin, 7),
        interrupt_window_exiting=bit(vmcs.primary, 2),
        hlt_exiting=bit(vmcs.primary, 7),
        use_tpr_shadow=bit(vmcs.primary, 21),
        use_msr_bitmaps=bit(vmcs.primary, 28),
        virtualize_apic_accesses=bit(secondary, 0),
        virtualize_x2apic_mode=bit(secondary, 4),
        apic_register_virtualization=bit(secondary, 8),
        virtual_interrupt_delivery=bit(secondary, 9),
        ipi_virtualization=bit(tertiary, 4),
        acknowledge_on_exit=bit(vmcs.exit_controls, 15),
    )


@dataclass
class Descriptor:
    """A posted-interrupt descriptor."""

    pir: int = 0
    on: bool = False
    sn: bool = False
    nv: int = 0
    ndst: int = 0


@dataclass
class Cpu:
    """A logical processor in VMX non-root operation, with the VMCS that it runs."""

    vmcs: Vmcs = field(default_factory=Vmcs)
    controls: Controls = field(default_factory=Controls)
    page: bytearray = field(default_factory=lambda: bytearray(4096))
    interrupt_flag: bool = False
    interrupt_shadow: bool = False
    activity: str = "active"
    recognized: bool = False
    threshold_due: bool = False
    read_intercepts: set[int] = field(default_factory=set)
    write_intercepts: set[int] = field(default_factory=set)


@dataclass
class Machine:
    """Processors, the memory structures they share, and the physical interrupts requested."""

    cpus: list[Cpu] = field(default_factory=list)
    descriptors: dict[int, Descriptor] = field(default_factory=dict)
    table_words: dict[int, int] = field(default_factory=dict)
    pending: dict[int, set[int]] = field(default_factory=dict)
    capability: Capability = field(default_factory=Capability)
    upids: dict[int, list[int]] = field(default_factory=dict)


def request(machine: Machine, apic_id: int, vector: int) -> None:
    """An ordinary physical interrupt with this vector is requested at this APIC ID."""
    machine.pending.setdefault(apic_id, set()).add(vector)
