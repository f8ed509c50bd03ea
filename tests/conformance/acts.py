"""Random acts of guests, devices and software on both machines: after each, all visible state is equal."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from conformance.pair import Pair

VCPUS = 3
ACTIVITIES = ("active", "hlt", "shutdown", "wait-for-sipi")
APIC_BASES = {"xAPIC": 0xFEE0_0800, "x2APIC": 0xFEE0_0C00, "disabled": 0xFEE0_0000, "invalid": 0xFEE0_0400}

cpus = st.integers(0, VCPUS - 1)
vectors = st.integers(0, 255)
words = st.integers(0, 2**64 - 1)
# Values that reach a clause more often than 64 random bits do.
icrs = st.builds(
    lambda vector, destination, flags: destination << 32 | flags | vector,
    vectors,
    st.integers(0, VCPUS),
    st.sampled_from([0, 0, 0, 1 << 14, 1 << 11, 1 << 12, 1 << 13, 1 << 15, 1 << 18, 2 << 18, 1 << 20, 4 << 8]),
)
values = st.one_of(icrs, vectors, words)


class Acts(RuleBasedStateMachine):
    """Three vCPUs."""

    def __init__(self) -> None:
        """The machines are made by the first rule."""
        super().__init__()
        self.pair: Pair | None = None
        self.upids: list[int] = []

    @initialize(apic=st.sampled_from(["x2apic", "xapic"]), ipi=st.booleans())
    def create(self, apic: str, ipi: bool) -> None:
        """The machine as KVM sets it up; all MSRs of the local APIC pass."""
        self.pair = Pair(VCPUS, apic, ipi_virtualization=ipi)
        self.upids = [self.pair.new_upid(0xEC << 16 | destination << 32, 0) for destination in (1, 1 << 8)]

    @property
    def both(self) -> Pair:
        """The machines, once they are made."""
        assert self.pair is not None
        return self.pair

    @rule(cpu=cpus, msr=st.sampled_from([0x808, 0x80B, 0x830, 0x83F, 0x80D, 0x832]), value=values)
    def wrmsr(self, cpu: int, msr: int, value: int) -> None:
        """WRMSR."""
        self.both.wrmsr(cpu, msr, value)

    @rule(cpu=cpus, msr=st.integers(0x800, 0x8FF))
    def rdmsr(self, cpu: int, msr: int) -> None:
        """RDMSR."""
        self.both.rdmsr(cpu, msr)

    @rule(cpu=cpus, vector=vectors, destination=st.integers(0, VCPUS))
    def send(self, cpu: int, vector: int, destination: int) -> None:
        """An IPI in the way of the vCPU's mode."""
        if self.both.vcpus[cpu].mode == "xAPIC":
            self.both.mmio_write(cpu, 0x310, 4, destination << 24)
            self.both.mmio_write(cpu, 0x300, 4, vector)
        else:
            self.both.wrmsr(cpu, 0x830, destination << 32 | vector)

    @rule(cpu=cpus, vector=vectors)
    def send_self(self, cpu: int, vector: int) -> None:
        """A self-IPI."""
        if self.both.vcpus[cpu].mode == "xAPIC":
            self.both.mmio_write(cpu, 0x300, 4, 1 << 18 | vector)
        else:
            self.both.wrmsr(cpu, 0x83F, vector)

    @rule(
        cpu=cpus,
        register=st.sampled_from([0x20, 0x80, 0xB0, 0xD0, 0x100, 0x270, 0x280, 0x300, 0x310, 0x320, 0x380, 0x390]),
        byte=st.integers(0, 5),
        width=st.sampled_from([1, 2, 4, 4, 4, 8]),
        value=values,
    )
    def access(self, cpu: int, register: int, byte: int, width: int, value: int) -> None:
        """A write and a read of the APIC-access page; a fetch."""
        self.both.mmio_write(cpu, register + byte, width, value & (1 << 8 * width) - 1)
        self.both.mmio_read(cpu, register + byte, width)
        self.both.mmio_fetch(cpu, register + byte)

    @rule(cpu=cpus)
    def eoi(self, cpu: int) -> None:
        """The end of an interrupt."""
        if self.both.vcpus[cpu].mode == "xAPIC":
            self.both.mmio_write(cpu, 0xB0, 4, 0)
        else:
            self.both.wrmsr(cpu, 0x80B, 0)

    @rule(cpu=cpus)
    def boundary(self, cpu: int) -> None:
        """What is pending arrives, and is delivered."""
        self.both.boundary(cpu)

    @rule(cpu=cpus)
    def external_interrupt(self, cpu: int) -> None:
        """What is pending arrives, and no more."""
        self.both.external_interrupt(cpu)

    @rule(cpu=cpus, vector=vectors, urgent=st.booleans())
    def device_post(self, cpu: int, vector: int, urgent: bool) -> None:
        """A device posts."""
        self.both.device_post(cpu, vector, urgent=urgent)

    @rule(cpu=cpus, vector=st.sampled_from([0xF2, 0xF1, 0xEC, 0x31]))
    def physical_interrupt(self, cpu: int, vector: int) -> None:
        """A physical interrupt, also the notification vector without a post."""
        self.both.physical_interrupt(cpu, vector)

    @rule(cpu=cpus, which=st.integers(0, 1), user_vector=st.integers(0, 65))
    def senduipi(self, cpu: int, which: int, user_vector: int) -> None:
        """SENDUIPI."""
        self.both.senduipi(cpu, self.upids[which], user_vector)

    @rule(which=st.integers(0, 1))
    def clear_upid(self, which: int) -> None:
        """The receiver of user interrupts takes them."""
        control, _ = self.both.spec.upids[self.upids[which]]
        self.both.set_upid(self.upids[which], control & ~1, 0)

    @rule(cpu=cpus)
    def hlt(self, cpu: int) -> None:
        """HLT."""
        self.both.hlt(cpu)

    @rule(cpu=cpus, interrupt_flag=st.booleans(), interrupt_shadow=st.booleans())
    def flags(self, cpu: int, interrupt_flag: bool, interrupt_shadow: bool) -> None:
        """CLI, STI, MOV SS."""
        self.both.set_flag(cpu, interrupt_flag=interrupt_flag, interrupt_shadow=interrupt_shadow)

    @rule(cpu=cpus, activity=st.sampled_from(ACTIVITIES))
    def activity(self, cpu: int, activity: str) -> None:
        """INIT, start-up, a triple fault."""
        self.both.set_activity(cpu, activity)

    @rule(
        cpu=cpus,
        register=st.booleans(),
        delivery=st.booleans(),
        ipi=st.booleans(),
        window=st.booleans(),
        halt=st.booleans(),
    )
    def controls(self, cpu: int, register: bool, delivery: bool, ipi: bool, window: bool, halt: bool) -> None:
        """Software exits, changes controls and enters again."""
        self.both.vmwrite(cpu, "tpr_threshold", 0)
        names = {"apic_register_virtualization": register, "virtual_interrupt_delivery": delivery}
        self.both.set_controls(
            cpu,
            **names,
            process_posted_interrupts=delivery,
            ipi_virtualization=ipi,
            interrupt_window_exiting=window,
            hlt_exiting=halt,
        )

    @rule(cpu=cpus, threshold=st.integers(0, 15))
    def threshold(self, cpu: int, threshold: int) -> None:
        """Software writes the TPR threshold and enters, if the threshold allows it."""
        self.both.vmwrite(cpu, "tpr_threshold", threshold)
        if self.both.enter(cpu):
            self.both.vmwrite(cpu, "tpr_threshold", 0)

    @rule(cpu=cpus)
    def enter(self, cpu: int) -> None:
        """An exit of no consequence, and VM entry."""
        self.both.enter(cpu)

    @rule(cpu=cpus, rvi=vectors, svi=vectors)
    def interrupt_status(self, cpu: int, rvi: int, svi: int) -> None:
        """Software writes RVI and SVI, as after it synchronized PIR itself, and enters."""
        self.both.interrupt_status(cpu, rvi, svi)
        self.both.enter(cpu)

    @rule(cpu=cpus, word=st.integers(0, 3), bits=words)
    def eoi_exits(self, cpu: int, word: int, bits: int) -> None:
        """Software writes an EOI-exit bitmap."""
        self.both.eoi_exit(cpu, word, bits)

    @rule(index=cpus, flip=st.sampled_from([0, 1, 2, 1 << 5, 1 << 6, 1 << 45, 1 << 46, 1 << 63]))
    def entry(self, index: int, flip: int) -> None:
        """Software writes a PID-pointer entry: the right one, or one with a wrong bit."""
        self.both.set_entry(index, self.both.spec.cpus[index].vmcs.descriptor ^ 1 ^ flip)

    @rule(cpu=cpus, on=st.sampled_from([None, False, True]), sn=st.sampled_from([None, False, True]))
    def control_word(self, cpu: int, on: bool | None, sn: bool | None) -> None:
        """Software changes ON or SN."""
        self.both.set_control_word(cpu, on=on, sn=sn)

    @rule(cpu=cpus, msr=st.sampled_from([0x808, 0x80B, 0x830, 0x83F]), read=st.booleans(), write=st.booleans())
    def intercept(self, cpu: int, msr: int, read: bool, write: bool) -> None:
        """Software changes the MSR bitmap of the vCPU's mode."""
        self.both.intercept(cpu, msr, read=read, write=write)

    @rule(cpu=cpus, mode=st.sampled_from(sorted(APIC_BASES)))
    def apic_base(self, cpu: int, mode: str) -> None:
        """The guest writes IA32_APIC_BASE; vCPU 0 is the bootstrap processor."""
        self.both.write_apic_base(cpu, APIC_BASES[mode] | (1 << 8 if cpu == 0 else 0))

    @invariant()
    def equal(self) -> None:
        """Everything that software could see."""
        if self.pair is not None:
            self.pair.compare()
