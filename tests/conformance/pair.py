"""A machine of the emulator and the same machine of the specification, driven by the same acts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipivrs
import spec

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBER_FIELDS = {
    "notification_vector": 0x0002,
    "last_pid_index": 0x0008,
    "virtual_apic": 0x2012,
    "apic_access": 0x2014,
    "descriptor": 0x2016,
    "tertiary": 0x2034,
    "pid_table": 0x2042,
    "pin": 0x4000,
    "primary": 0x4002,
    "exit_controls": 0x400C,
    "tpr_threshold": 0x401C,
    "secondary": 0x401E,
    "exit_reason": 0x4402,
    "exit_qualification": 0x6400,
}
INTERRUPT_STATUS = 0x0810
MSR_BITMAP = 0x2004
EOI_EXIT = (0x201C, 0x201E, 0x2020, 0x2022)
APIC_BASE = 0x1B
APIC_MSRS = range(0x800, 0x900)

# Bits of the control words, by the names that the specification gives the controls.
CONTROLS = {
    "external_interrupt_exiting": ("pin", 0),
    "process_posted_interrupts": ("pin", 7),
    "interrupt_window_exiting": ("primary", 2),
    "hlt_exiting": ("primary", 7),
    "use_tpr_shadow": ("primary", 21),
    "use_msr_bitmaps": ("primary", 28),
    "virtualize_apic_accesses": ("secondary", 0),
    "virtualize_x2apic_mode": ("secondary", 4),
    "apic_register_virtualization": ("secondary", 8),
    "virtual_interrupt_delivery": ("secondary", 9),
    "ipi_virtualization": ("tertiary", 4),
    "acknowledge_on_exit": ("exit_controls", 15),
}


class Difference(AssertionError):  # noqa: N818 - it is what the comparison looks for
    """The emulator and the specification differ: the manual decides who is wrong."""


def translated(outcome: ipivrs.Outcome) -> spec.Outcome:
    """The emulator's outcome in the specification's words."""
    kind = outcome.outcome
    if kind.endswith("-exit"):
        return spec.Outcome("exit", outcome.reason, outcome.qualification, outcome.vector)
    if kind in {"not-virtualized", "ordinary-ipi"}:
        return spec.Outcome("not-virtualized", vector=outcome.vector, destination=outcome.destination)
    if kind == "violation":
        return spec.Outcome("wild")
    if outcome.value is not None:
        return spec.Outcome("value", value=outcome.value)
    return spec.Outcome(
        kind,
        vector=outcome.vector,
        destination=outcome.destination,
        coalesced=outcome.coalesced,
        notification=outcome.notification,
    )


class Pair:
    """One machine, twice. Every act is done on both; what they say of it, and on request all they hold, is equal."""

    def __init__(self, vcpus: int = 2, apic: str = "x2apic", **options: Any) -> None:
        """The emulator makes the machine as KVM does; the specification takes over what is in its memory."""
        self.vm = ipivrs.Vm(vcpus, apic=apic, **options)
        self.vcpus = [self.vm.vcpu(cpu) for cpu in range(vcpus)]
        self.spec = spec.Machine(cpus=[spec.Cpu() for _ in range(vcpus)])
        self.take_table()
        for cpu in range(vcpus):
            self.take_over(cpu)

    def take_table(self) -> None:
        """The specification gets the emulator's PID-pointer table."""
        table = self.vcpus[0].vmread(NUMBER_FIELDS["pid_table"])
        for index in range(self.vm.last_index + 1):
            self.spec.table_words[table + 8 * index] = self.vm.table_entry(index)

    def take_over(self, cpu: int) -> None:
        """The specification gets what the emulator holds of one vCPU, as after software has changed it."""
        vcpu, this = self.vcpus[cpu], self.spec.cpus[cpu]
        for name, encoding in NUMBER_FIELDS.items():
            setattr(this.vmcs, name, vcpu.vmread(encoding))
        this.vmcs.rvi, this.vmcs.svi = vcpu.rvi, vcpu.svi
        this.vmcs.eoi_exit = [vcpu.vmread(encoding) for encoding in EOI_EXIT]
        this.controls = spec.controls_of(this.vmcs)
        this.page = bytearray(vcpu.virtual_apic_page)
        this.interrupt_flag, this.interrupt_shadow = vcpu.interrupt_flag, vcpu.interrupt_shadow
        this.activity, this.recognized = vcpu.activity, vcpu.recognized
        passes = [(msr, vcpu.intercepts(msr)) for msr in (APIC_BASE, *APIC_MSRS)]
        this.read_intercepts = {msr for msr, (read, _) in passes if read}
        this.write_intercepts = {msr for msr, (_, write) in passes if write}
        pid = vcpu.descriptor
        pir = sum(1 << vector for vector in pid.pir)
        self.spec.descriptors[pid.address] = spec.Descriptor(pir, pid.on, pid.sn, pid.nv, pid.ndst)

    def vmwrite(self, cpu: int, field: str, value: int) -> None:
        """Software writes a field of the VMCS; it takes effect at the next VM entry."""
        self.vcpus[cpu].vmwrite(NUMBER_FIELDS[field], value)
        setattr(self.spec.cpus[cpu].vmcs, field, value)

    def interrupt_status(self, cpu: int, rvi: int, svi: int) -> None:
        """Software writes the guest interrupt status."""
        self.vcpus[cpu].vmwrite(INTERRUPT_STATUS, svi << 8 | rvi)
        self.spec.cpus[cpu].vmcs.rvi, self.spec.cpus[cpu].vmcs.svi = rvi, svi

    def eoi_exit(self, cpu: int, word: int, bits: int) -> None:
        """Software writes one of the four EOI-exit bitmaps."""
        self.vcpus[cpu].vmwrite(EOI_EXIT[word], bits)
        self.spec.cpus[cpu].vmcs.eoi_exit[word] = bits

    def set_controls(self, cpu: int, **controls: bool) -> None:
        """Software changes controls, by name, and enters the guest; secondary and tertiary ones stay activated."""
        vmcs = self.spec.cpus[cpu].vmcs
        for name, value in controls.items():
            field, position = CONTROLS[name]
            self.vmwrite(cpu, field, getattr(vmcs, field) & ~(1 << position) | int(value) << position)
        failures = self.enter(cpu)
        if failures:
            raise ValueError(f"these controls cannot be entered with: {failures}")

    def intercept(self, cpu: int, msr: int, *, read: bool | None = None, write: bool | None = None) -> None:
        """Software changes the MSR bitmap, for all vCPUs whose VMCS names the same."""
        bitmap = self.vcpus[cpu].vmread(MSR_BITMAP)
        self.vcpus[cpu].set_intercept(msr, read=read, write=write)
        for vcpu, other in zip(self.vcpus, self.spec.cpus, strict=True):
            if vcpu.vmread(MSR_BITMAP) != bitmap:
                continue
            for intercepts, exits in ((other.read_intercepts, read), (other.write_intercepts, write)):
                if exits is not None:
                    (intercepts.add if exits else intercepts.discard)(msr)

    def set_entry(self, index: int, value: int) -> None:
        """Software writes an entry of the PID-pointer table."""
        self.vm.set_table_entry(index, value)
        self.spec.table_words[self.spec.cpus[0].vmcs.pid_table + 8 * index] = value

    def set_control_word(self, cpu: int, *, on: bool | None = None, sn: bool | None = None) -> None:
        """Software changes ON or SN of a vCPU's descriptor."""
        self.vcpus[cpu].update_descriptor(on=on, sn=sn)
        pid = self.spec.descriptors[self.spec.cpus[cpu].vmcs.descriptor]
        pid.on = pid.on if on is None else on
        pid.sn = pid.sn if sn is None else sn

    def set_flag(self, cpu: int, *, interrupt_flag: bool, interrupt_shadow: bool) -> None:
        """The guest sets RFLAGS.IF, and has or has not just executed STI or MOV SS."""
        vcpu, this = self.vcpus[cpu], self.spec.cpus[cpu]
        vcpu.interrupt_flag = this.interrupt_flag = interrupt_flag
        vcpu.interrupt_shadow = this.interrupt_shadow = interrupt_shadow

    def set_activity(self, cpu: int, activity: Any) -> None:
        """The guest activity state changes."""
        self.vcpus[cpu].activity = activity
        self.spec.cpus[cpu].activity = activity

    def wrmsr(self, cpu: int, msr: int, value: int) -> spec.Outcome:
        """WRMSR."""
        return agreed(
            self.vcpus[cpu].wrmsr(msr, value),
            spec.wrmsr(self.spec, cpu, msr, value),
            f"vCPU {cpu}: WRMSR {msr:X}H := {value:X}H",
        )

    def rdmsr(self, cpu: int, msr: int) -> spec.Outcome:
        """RDMSR."""
        return agreed(self.vcpus[cpu].rdmsr(msr), spec.rdmsr(self.spec, cpu, msr), f"vCPU {cpu}: RDMSR {msr:X}H")

    def mmio_write(self, cpu: int, offset: int, width: int, value: int) -> spec.Outcome:
        """A write to the APIC-access page."""
        return agreed(
            self.vcpus[cpu].mmio_write(offset, value, width),
            spec.mmio_write(self.spec, cpu, offset, width, value),
            f"vCPU {cpu}: write of {width} bytes at {offset:03X}H := {value:X}H",
        )

    def mmio_read(self, cpu: int, offset: int, width: int) -> spec.Outcome:
        """A read from the APIC-access page."""
        return agreed(
            self.vcpus[cpu].mmio_read(offset, width),
            spec.mmio_read(self.spec, cpu, offset, width),
            f"vCPU {cpu}: read of {width} bytes at {offset:03X}H",
        )

    def mmio_fetch(self, cpu: int, offset: int) -> spec.Outcome:
        """An instruction fetch from the APIC-access page."""
        return agreed(
            self.vcpus[cpu].mmio_fetch(offset),
            spec.mmio_fetch(self.spec, cpu, offset),
            f"vCPU {cpu}: fetch at {offset:03X}H",
        )

    def device_post(self, cpu: int, vector: int, *, urgent: bool) -> spec.Outcome:
        """A device posts in a vCPU's descriptor."""
        posted = translated(self.vcpus[cpu].device_post(vector, urgent=urgent))
        mine = spec.Outcome("posted", None, None, posted.vector, None, None, posted.coalesced, posted.notification)
        expected = spec.device_post(self.spec, self.spec.cpus[cpu].vmcs.descriptor, vector, urgent)
        return agreed(mine, expected, f"device posts {vector:02X}H to vCPU {cpu}, urgent = {urgent}")

    def physical_interrupt(self, cpu: int, vector: int) -> None:
        """A physical interrupt is requested of the pCPU that runs a vCPU."""
        self.vcpus[cpu].physical_interrupt(vector)
        self.spec.pending.setdefault(cpu, set()).add(vector)

    def external_interrupt(self, cpu: int) -> spec.Outcome:
        """The highest physical interrupt arrives."""
        came = self.vcpus[cpu].external_interrupt()
        mine = spec.Outcome("virtualized") if came is None else translated(came)
        return agreed(mine, spec.external_interrupt(self.spec, cpu, cpu), f"vCPU {cpu}: external interrupt")

    def boundary(self, cpu: int) -> int | None:
        """An instruction boundary: what the local APIC has pending arrives, then an interrupt is delivered."""
        came = spec.external_interrupt(self.spec, cpu, cpu)
        expected = None if came.kind == "exit" else spec.boundary(self.spec, cpu)
        delivered = self.vcpus[cpu].deliver()
        if delivered != expected:
            raise Difference(f"vCPU {cpu}: delivered {delivered}, the specification {expected}")
        return delivered

    def hlt(self, cpu: int) -> spec.Outcome:
        """HLT."""
        came = self.vcpus[cpu].hlt()
        mine = spec.Outcome("virtualized") if came is None else translated(came)
        return agreed(mine, spec.hlt(self.spec, cpu), f"vCPU {cpu}: HLT")

    def new_upid(self, control: int, requests: int) -> int:
        """A user posted-interrupt descriptor with these two words."""
        address = self.vm.new_upid(0, 0)
        self.set_upid(address, control, requests)
        return address

    def set_upid(self, address: int, control: int, requests: int) -> None:
        """Software writes both words of a UPID."""
        self.vm.set_upid(address, control, requests)
        self.spec.upids[address] = [control, requests]

    def senduipi(self, cpu: int, upid: int, user_vector: int) -> spec.Outcome:
        """SENDUIPI."""
        outcome = agreed(
            self.vcpus[cpu].senduipi(upid, user_vector),
            spec.senduipi(self.spec, cpu, upid, user_vector),
            f"vCPU {cpu}: SENDUIPI {upid:X}H, {user_vector}",
        )
        if list(self.vm.upid(upid)) != self.spec.upids[upid]:
            raise Difference(f"UPID {upid:X}H: {self.vm.upid(upid)}, the specification {self.spec.upids[upid]}")
        return outcome

    def enter(self, cpu: int) -> list[str]:
        """VM entry: both succeed, or both fail; then what the specification finds violated is returned."""
        expected = spec.vm_entry(self.spec, cpu)
        try:
            self.vcpus[cpu].enter()
        except ValueError as failure:
            if not expected:
                raise Difference(f"vCPU {cpu}: {failure}; the specification enters") from failure
        else:
            if expected:
                raise Difference(f"vCPU {cpu}: enters; the specification finds {expected}")
        return expected

    def write_apic_base(self, cpu: int, value: int) -> str | None:
        """WRMSR of IA32_APIC_BASE, which exits; returns the mode after it, or None where it is #GP(0).

        What the hypervisor then does to controls and registers is its own: the specification takes it over.
        """
        vcpu = self.vcpus[cpu]
        before = vcpu.rdmsr(APIC_BASE).value
        if before is None:
            raise Difference("the hypervisor does not tell IA32_APIC_BASE")
        expected = spec.apic_base_write(before, value, self.spec.capability.maxphyaddr)
        outcome = vcpu.wrmsr(APIC_BASE, value).outcome
        mine = None if outcome == "fault" else vcpu.mode
        if mine != expected:
            raise Difference(f"IA32_APIC_BASE {before:X}H := {value:X}H: {mine}, the specification {expected}")
        self.take_over(cpu)
        self.enter(cpu)
        return mine

    def compare(self, cpus: Iterable[int] | None = None) -> None:
        """All that software could see of these vCPUs (all by default) is equal on both sides."""
        for cpu in range(len(self.vcpus)) if cpus is None else cpus:
            mine, expected = self._emulated(cpu), self._specified(cpu)
            for name, value in mine.items():
                if value != expected[name]:
                    raise Difference(f"vCPU {cpu}, {name}: {shown(value)}, the specification {shown(expected[name])}")

    def _emulated(self, cpu: int) -> dict[str, Any]:
        vcpu = self.vcpus[cpu]
        return {
            "interrupt status": (vcpu.rvi, vcpu.svi),
            "exit": (vcpu.vmread(0x4402), vcpu.vmread(0x6400)),
            "state": (vcpu.recognized, vcpu.activity, vcpu.interrupt_flag, vcpu.interrupt_shadow),
            "pending": vcpu.notification_pending,
            "descriptor": vcpu.descriptor.as_dict(),
            "page": vcpu.virtual_apic_page,
        }

    def _specified(self, cpu: int) -> dict[str, Any]:
        this = self.spec.cpus[cpu]
        address = this.vmcs.descriptor
        pid = self.spec.descriptors[address]
        pir = [vector for vector in range(256) if pid.pir >> vector & 1]
        return {
            "interrupt status": (this.vmcs.rvi, this.vmcs.svi),
            "exit": (this.vmcs.exit_reason, this.vmcs.exit_qualification),
            "state": (this.recognized, this.activity, this.interrupt_flag, this.interrupt_shadow),
            "pending": bool(self.spec.pending.get(cpu)),
            "descriptor": {"address": address, "pir": pir, "on": pid.on, "sn": pid.sn, "nv": pid.nv, "ndst": pid.ndst},
            "page": bytes(this.page),
        }


def agreed(mine: ipivrs.Outcome | spec.Outcome, expected: spec.Outcome, act: str) -> spec.Outcome:
    """Both came to the same."""
    mine = mine if isinstance(mine, spec.Outcome) else translated(mine)
    if mine != expected:
        raise Difference(f"{act}: {mine}, the specification {expected}")
    return expected


def shown(value: object) -> str:
    """A page by the registers that are not 0."""
    if not isinstance(value, bytes):
        return str(value)
    words = {at: value[at : at + 8] for at in range(0, 4096, 8) if any(value[at : at + 8])}
    return ", ".join(f"{at:03X}H: {int.from_bytes(word, 'little'):X}H" for at, word in words.items())
