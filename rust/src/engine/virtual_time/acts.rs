//! What a guest's acts do, and what they cost.

use super::latency::Class;
use super::pcpu::Pcpu;
use super::simulation::{Memory, Simulation, VmState, Whereabouts, next_round};
use crate::arch::apic_base::ApicBase;
use crate::arch::msr::{X2APIC_ICR, X2APIC_SELF_IPI};
use crate::arch::{AccessKind, ApicMode, ApicRegister, Icr, NotificationDestination};
use crate::engine::machine::verdict::{Directory, reached};
use crate::engine::machine::{Progress, What};
use crate::guest::{Action, Actor, GuestMemory, Moment, Sight, Via};
use crate::hypervisor::{ApicIdentity, Instruction, Task, VcpuWords};
use crate::processor::{Access, NonRoot, Notice, Outcome, Pages, Posted};
use crate::record::Fate;
use std::cell::Cell;

/// What an act came to.
pub(super) enum Step {
    /// Time passed, and nothing that an interrupt of its own could come of.
    Quiet,
    /// The guest goes on.
    Next,
    /// Nothing until this time, or until somebody else sees to it.
    Wait(u64),
    /// VM exit.
    Left,
}

/// What the vCPU that runs sees.
pub(super) struct Outlook<'a, 'm> {
    vm: &'a VmState<'m>,
    physical: &'m Memory,
    vcpu: u32,
    mode: ApicMode,
    base: ApicBase,
    stopping: bool,
}

impl Sight for Outlook<'_, '_> {
    type Word = Cell<u64>;

    #[inline]
    fn vcpu(&self) -> u32 {
        self.vcpu
    }

    #[inline]
    fn vcpus(&self) -> u32 {
        self.vm.vcpus.get()
    }

    #[inline]
    fn mode(&self) -> ApicMode {
        self.mode
    }

    #[inline]
    fn base(&self) -> ApicBase {
        self.base
    }

    #[inline]
    fn memory(&self) -> &GuestMemory<'_, Cell<u64>> {
        &self.vm.memory
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    fn identity(&self, vcpu: u32) -> ApicIdentity {
        // In x2APIC mode others are addressed by an ID that they cannot change: nobody need look there.
        if self.mode == ApicMode::X2Apic && self.vm.plain_ids && vcpu < self.vcpus() {
            return ApicIdentity::new().with_x2apic_id(vcpu);
        }
        self.vm.vm.vcpu_words(self.physical, vcpu).map_or(ApicIdentity::new(), VcpuWords::identity)
    }

    #[inline]
    fn stopping(&self) -> bool {
        self.stopping
    }
}

/// A write of which came what seldom comes. Made where it is known, so that the outcome of others has no address and stays
/// in registers.
struct Unusual {
    outcome: Outcome,
    instruction: Instruction,
    slot: u32,
    /// When it was written.
    written_at: u64,
}

/// The vCPU that runs, where it runs, and what its acts change.
pub(super) struct Seat<'a, 'm> {
    pub(super) at: &'a Pcpu<'m>,
    pub(super) vm: &'a VmState<'m>,
    pub(super) pages: Pages<'m, Cell<u64>>,
    pub(super) task: &'a mut Task,
    pub(super) progress: &'a mut Progress,
}

impl<'m> Seat<'_, 'm> {
    #[inline]
    pub(super) fn processor<'s>(&'s mut self, memory: &'m Memory) -> NonRoot<'s, 'm, Cell<u64>> {
        NonRoot::resume_with(memory, self.pages, self.task.vcpu.vp_mut())
    }
}

/// Does the acts of the vCPU in the seat.
pub(super) struct Acting<'s, 'm, 'o> {
    pub(super) simulation: &'s mut Simulation<'m, 'o>,
    pub(super) seat: Seat<'s, 'm>,
}

impl<'s, 'm> Actor for Acting<'s, 'm, '_> {
    type Sight = Outlook<'s, 'm>;
    type Step = Step;

    #[inline]
    fn sight(&self) -> Outlook<'s, 'm> {
        let vcpu = &self.seat.task.vcpu;
        Outlook {
            vm: self.seat.vm,
            physical: self.simulation.memory,
            vcpu: vcpu.vcpu(),
            mode: vcpu.mode(),
            base: vcpu.base(),
            stopping: self.simulation.stopping,
        }
    }

    #[inline]
    fn moment(&self) -> Moment {
        Moment { interrupts: self.seat.task.vcpu.vp().interrupt_flag, now: self.simulation.now }
    }

    // Where an act is read, of all this its own arm is left.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "an action that goes through memory costs more than most acts")]
    fn act(self, action: Action) -> Step {
        self.simulation.act(self.seat, action)
    }

    #[inline]
    fn act_seldom(self, action: Action) -> Step {
        let Seat { at, vm, task, progress, .. } = self.seat;
        self.simulation.act_seldom(at, vm, task, progress, action)
    }
}

impl<'m> Simulation<'m, '_> {
    /// The same out of the way. The seat comes in parts: then it has no address where other acts are done.
    #[inline(never)]
    fn act_seldom(
        &mut self,
        at: &Pcpu<'m>,
        vm: &VmState<'m>,
        task: &mut Task,
        progress: &mut Progress,
        action: Action,
    ) -> Step {
        if task.vcpu.mode() == ApicMode::Disabled && reaches_page(action) {
            // There is no APIC at that address now: what is written there is lost.
            self.spend(self.costs.mmio_write);
            return Step::Next;
        }
        let Some(pages) = at.pages.get() else { return Step::Left };
        self.act(Seat { at, vm, pages, task, progress }, action)
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    fn act(&mut self, mut seat: Seat<'_, 'm>, action: Action) -> Step {
        let slot = seat.task.slot;
        match action {
            Action::Internal => {
                self.spend(self.costs.instruction);
                Step::Quiet
            }
            Action::Told => {
                self.spend(self.costs.instruction);
                self.told(seat.vm);
                Step::Quiet
            }
            Action::Compute { cycles } => {
                seat.progress.computing = cycles;
                Step::Next
            }
            Action::Return { interrupts, computing } => {
                seat.task.vcpu.vp_mut().interrupt_flag = interrupts;
                seat.progress.computing = computing;
                self.spend(self.costs.interrupt_return);
                Step::Next
            }
            Action::Wrmsr { msr, value } => {
                let written_at = self.now;
                let outcome = seat.processor(self.memory).wrmsr(msr, value);
                self.spend(self.costs.msr_write);
                self.written(outcome, &seat, written_at, || Instruction::Wrmsr { msr, value })
            }
            Action::Send { icr, via: Via::X2ApicIcr } => {
                let Seat { at, vm, pages, task, progress } = seat;
                self.send_x2apic(at, vm, pages, task, progress, icr)
            }
            Action::Send { icr, via: Via::SelfIpiMsr } => {
                let (msr, value) = (X2APIC_SELF_IPI, u64::from(icr.low.vector()));
                let written_at = self.now;
                let outcome = seat.processor(self.memory).wrmsr(msr, value);
                self.spend(self.costs.msr_write);
                self.sent(seat, outcome, icr, written_at, || Instruction::Wrmsr { msr, value })
            }
            Action::Send { icr, via: Via::Mmio } => {
                let (value, offset) = (icr.low.into_bits(), ApicRegister::ICR_LOW.offset());
                let written_at = self.now;
                let access = Access::dword(offset, AccessKind::Write);
                let outcome = seat.processor(self.memory).mmio_write(access, u64::from(value));
                self.spend(self.costs.mmio_write);
                self.sent(seat, outcome, icr, written_at, || Instruction::Write { offset, value })
            }
            Action::Spin { on } => {
                seat.at.spins_on(on, self.memory);
                seat.vm.spinners.add(self.current);
                Step::Wait(self.slice_end_if_shared(seat.at))
            }
            Action::Write { offset, value } => {
                let written_at = self.now;
                let access = Access::dword(offset, AccessKind::Write);
                let outcome = seat.processor(self.memory).mmio_write(access, u64::from(value));
                self.spend(self.costs.mmio_write);
                self.written(outcome, &seat, written_at, || Instruction::Write { offset, value })
            }
            Action::Idle => {
                if !std::mem::replace(&mut seat.progress.finished, true) {
                    self.program_ended(seat.vm, slot);
                }
                self.halt(seat)
            }
            Action::Hlt => self.halt(seat),
            Action::Sleep { until } => {
                self.set_alarm(slot, until);
                self.halt(seat)
            }
            Action::Until { time } => Step::Wait(time.min(self.slice_end_if_shared(seat.at))),
            Action::Interrupts { enabled } => {
                seat.task.vcpu.vp_mut().interrupt_flag = enabled;
                self.spend(self.costs.instruction);
                Step::Next
            }
        }
    }

    /// The write of the ICR by WRMSR. With registers of its own.
    #[inline(never)]
    fn send_x2apic(
        &mut self,
        at: &Pcpu<'m>,
        vm: &VmState<'m>,
        pages: Pages<'m, Cell<u64>>,
        task: &mut Task,
        progress: &mut Progress,
        icr: Icr,
    ) -> Step {
        let mut seat = Seat { at, vm, pages, task, progress };
        let (msr, value) = (X2APIC_ICR, icr.to_x2apic());
        let written_at = self.now;
        self.spend(self.costs.msr_write);
        // Who sends to others each time remembers none of them.
        let again = at.sent_to.replace(icr.destination) == icr.destination;
        let reminder = if again { at.recent.get() } else { None };
        let mut processor = seat.processor(self.memory).reminded_of(reminder);
        // Asked at once: where an outcome is made it is known which it is, and need not be made.
        match processor.wrmsr(msr, value) {
            Outcome::Posted(posted) => {
                if again && let Some(learnt) = processor.learnt() {
                    at.recent.set(Some(learnt));
                }
                self.posted(&mut seat, posted, written_at);
                Step::Quiet
            }
            outcome => {
                let slot = seat.task.slot;
                let unusual = Unusual { outcome, instruction: Instruction::Wrmsr { msr, value }, slot, written_at };
                self.not_posted(at, seat.progress, unusual, icr.low.vector())
            }
        }
    }

    /// What came of the write that sends an interrupt.
    fn sent(
        &mut self,
        mut seat: Seat<'_, 'm>,
        outcome: Outcome,
        icr: Icr,
        written_at: u64,
        instruction: impl FnOnce() -> Instruction,
    ) -> Step {
        match outcome {
            Outcome::Posted(posted) => {
                self.posted(&mut seat, posted, written_at);
                // Not quiet: an interrupt may have come between the two halves of the command.
                Step::Next
            }
            other => {
                let Seat { at, task, progress, .. } = seat;
                let unusual = Unusual { outcome: other, instruction: instruction(), slot: task.slot, written_at };
                self.not_posted(at, progress, unusual, icr.low.vector())
            }
        }
    }

    /// IPI virtualization posted it.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "its outcome stays in registers")]
    fn posted(&mut self, seat: &mut Seat<'_, 'm>, posted: Posted, written_at: u64) {
        let slot = seat.task.slot;
        if let Some(timetable) = &mut self.timetable {
            timetable.sent(slot, Fate::POSTED);
        }
        self.spend(self.costs.post);
        self.spent.sending += self.now - written_at;
        let to = self.target_of(seat.vm, slot, posted.apic_id, posted.descriptor);
        let met = self.whereabouts.get(to as usize).copied();
        if let Notice::Due(due) = posted.notice {
            let pcpu = NotificationDestination::from_bits(due.destination).decode(self.config.host_apic);
            if !self.send_interrupt(pcpu, due.vector) {
                self.notified_nobody(slot, due.destination);
            }
        }
        self.has_sent(seat.at, slot);
        seat.progress.trail.note(What::Posted, posted.vector, to);
        self.log_event(written_at, slot, What::Posted, posted.vector, to);
        if let Some(sent) = self.account.virtualized(to, posted) {
            self.stopwatch.begin((to, posted.vector), sent, posted.coalesced, (Class::met(met), written_at));
        }
        if let Some(Whereabouts::Polls(pcpu)) = met {
            self.poller_looks(pcpu);
        }
    }

    #[cold]
    fn notified_nobody(&mut self, slot: u32, destination: u32) {
        let message = format!("a notification went to NDST {destination:X}H, which is no pCPU");
        self.account.violation("notification-to-nobody", slot, message);
    }

    #[inline(never)]
    fn not_posted(&mut self, at: &Pcpu<'m>, progress: &mut Progress, unusual: Unusual, vector: u8) -> Step {
        let Unusual { slot, written_at, .. } = unusual;
        if let Some(timetable) = &mut self.timetable {
            timetable.sent(slot, Fate::of(&unusual.outcome));
        }
        match unusual.outcome {
            Outcome::SelfIpi { vector, coalesced } => {
                self.spent.sending += self.now - written_at;
                self.log_event(written_at, slot, What::SelfIpi, vector, slot);
                if let Some(sent) = self.account.kept(slot, vector) {
                    self.stopwatch.begin_own((slot, vector), sent, coalesced, written_at);
                }
            }
            Outcome::Exit(_) => {
                at.sending.set(Some(written_at));
                progress.trail.note(What::Exited, vector, 0);
                self.log_event(written_at, slot, What::Exited, vector, 0);
            }
            Outcome::Fault(_) => self.log_event(written_at, slot, What::Faulted, vector, 0),
            _ => {}
        }
        self.has_sent(at, slot);
        self.account.sent(&unusual.outcome, slot);
        self.came_of(unusual)
    }

    /// STI; HLT.
    fn halt(&mut self, mut seat: Seat<'_, 'm>) -> Step {
        let mut processor = seat.processor(self.memory);
        processor.state_mut().interrupt_flag = true;
        if let Some(exit) = processor.hlt() {
            self.go_out(exit, None, Instruction::Other);
            return Step::Left;
        }
        self.spend(self.costs.instruction);
        Step::Next
    }

    fn program_ended(&mut self, vm: &VmState<'_>, slot: u32) {
        let (code, vcpu) = (&vm.guest.code, slot - vm.first_slot);
        if code.ends(vcpu) {
            self.one_finished();
        }
        // An endless loop ends with the round in which its time is over: what it sent counts, and so does the time.
        if code.ends(vcpu) || self.time_is_over && code.is_endless(vcpu) {
            self.finished_at = self.finished_at.max(self.now);
        }
    }

    /// Words changed that guests of this VM may spin on: who sees another value looks again.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    fn told(&mut self, vm: &VmState<'_>) {
        if let Some(spinner) = vm.spinners.one() {
            self.looks_again_if_changed(spinner);
        }
        if let Some(others) = vm.spinners.others() {
            self.others_told(&others);
        }
    }

    #[inline(never)]
    fn others_told(&mut self, spinners: &[u32]) {
        for &spinner in spinners {
            self.looks_again_if_changed(spinner);
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    fn looks_again_if_changed(&mut self, spinner: u32) {
        let pcpu = &self.pcpus[spinner as usize];
        if pcpu.spun_on_changed() {
            let seen = self.now + u64::from(self.costs.line_transfer);
            self.pcpu_acts_by(spinner, pcpu, next_round(pcpu.clock.get(), seen, self.costs.spin));
        }
    }

    /// The slot of the vCPU whose descriptor that is.
    #[inline]
    fn target_of(&mut self, vm: &VmState<'_>, from: u32, apic_id: u32, descriptor: u64) -> u32 {
        if vm.plain_table {
            // vCPU k has APIC ID k, unless a guest has rewritten its ID; the table is indexed by the first.
            return vm.first_slot + apic_id;
        }
        self.owner_of(vm, from, apic_id, descriptor)
    }

    #[inline(never)]
    fn owner_of(&mut self, vm: &VmState<'_>, from: u32, apic_id: u32, descriptor: u64) -> u32 {
        let (to, misled) = reached(self, vm.first_slot, from, apic_id, descriptor);
        if let Some(message) = misled {
            self.account.violation("misdelivery", from, message);
        }
        to
    }

    /// What came of a write.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "its outcome stays in registers")]
    fn written(
        &mut self,
        outcome: Outcome,
        seat: &Seat<'_, 'm>,
        written_at: u64,
        instruction: impl FnOnce() -> Instruction,
    ) -> Step {
        if let Outcome::Virtualized(_) = outcome {
            return if seat.task.vcpu.vp().recognized() { Step::Next } else { Step::Quiet };
        }
        self.came_of(Unusual { outcome, instruction: instruction(), slot: seat.task.slot, written_at })
    }

    #[inline(never)]
    fn came_of(&mut self, Unusual { outcome, instruction, slot, written_at }: Unusual) -> Step {
        match outcome {
            Outcome::Virtualized(_) | Outcome::Posted(_) | Outcome::SelfIpi { .. } => {}
            Outcome::Exit(exit) => {
                self.at().written_at.set(written_at);
                self.go_out(exit, None, instruction);
                return Step::Left;
            }
            Outcome::Fault(clause) => self.account.fault(clause),
            Outcome::NotVirtualized(clause) => {
                let message = format!("{} reached the physical local APIC: {clause}", self.name(slot));
                self.account.violation("escape", slot, message);
            }
            Outcome::Violation(violation) => {
                let message = format!("{}: {}", self.name(slot), violation.message(self.memory));
                self.account.violation(violation.kind(), slot, message);
            }
        }
        Step::Next
    }
}

/// Whether it writes to the APIC page.
const fn reaches_page(action: Action) -> bool {
    matches!(action, Action::Write { .. } | Action::Send { via: Via::Mmio, .. })
}
