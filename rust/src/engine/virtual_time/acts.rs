//! What a guest's acts do, and what they cost.

use super::latency::Class;
use super::pcpu::{Next, Pcpu, Phase};
use super::simulation::{Simulation, VmState, next_round};
use crate::arch::msr::{X2APIC_ICR, X2APIC_SELF_IPI};
use crate::arch::{AccessKind, ApicMode, ApicRegister, Exit, Icr, NotificationDestination};
use crate::engine::machine::verdict::{Directory, reached};
use crate::engine::machine::{Progress, What};
use crate::guest::{Action, Actor, Via};
use crate::hypervisor::Instruction;
use crate::processor::{Access, NonRoot, Notice, Outcome, Posted};
use crate::record::Fate;
use std::cell::Cell;

/// What an act came to.
pub(super) enum Step {
    /// Time passed, and nothing that an interrupt could come of.
    Quiet,
    /// The guest goes on.
    Next,
    /// The guest is left.
    Leave(Next),
}

/// The vCPU that runs, where it runs, and what its acts change.
pub(super) struct Seat<'a, 'm> {
    pub(super) at: &'a Pcpu<'m>,
    pub(super) vm: &'a VmState<'m>,
    pub(super) slot: u32,
    pub(super) mode: ApicMode,
    pub(super) guest: NonRoot<'a, Cell<u64>>,
    pub(super) progress: &'a mut Progress,
}

/// Does the acts of the vCPU in the seat.
pub(super) struct Acting<'s, 'a, 'm, 'o> {
    pub(super) simulation: &'s mut Simulation<'m, 'o>,
    pub(super) seat: &'s mut Seat<'a, 'm>,
}

impl Actor for Acting<'_, '_, '_, '_> {
    type Step = Step;

    // Where an act is read, of all this its own arm is left.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "an action that goes through memory costs more than most acts")]
    fn act(&mut self, action: Action) -> Step {
        let Self { simulation, seat } = self;
        if seat.mode == ApicMode::Disabled && reaches_page(action) {
            // There is no APIC at that address now: what is written there is lost.
            simulation.spend(simulation.costs.mmio_write);
            return Step::Next;
        }
        match action {
            Action::Internal => {
                simulation.spend(simulation.costs.instruction);
                Step::Quiet
            }
            Action::Told => {
                simulation.spend(simulation.costs.instruction);
                simulation.told(seat.vm);
                Step::Quiet
            }
            Action::Compute { cycles } => {
                seat.progress.computing = cycles;
                Step::Next
            }
            Action::Return { interrupts, computing } => {
                seat.guest.state_mut().interrupt_flag = interrupts;
                seat.progress.computing = computing;
                simulation.spend(simulation.costs.interrupt_return);
                Step::Next
            }
            Action::Wrmsr { msr, value } => {
                seat.at.written_at.set(simulation.now);
                let outcome = seat.guest.wrmsr(msr, value);
                simulation.spend(simulation.costs.msr_write);
                simulation.written(outcome, seat.slot, || Instruction::Wrmsr { msr, value })
            }
            Action::Send { icr, via: Via::X2ApicIcr } => simulation.send_x2apic(seat, icr),
            Action::Spin { on } => {
                seat.at.since.set(simulation.now);
                seat.at.spins_on.set(simulation.memory.word(on).map(|word| (word, word.get())));
                seat.vm.spinners.borrow_mut().push(simulation.current);
                Step::Leave(Next::Wait(simulation.slice_end_if_shared(seat.at)))
            }
            other => simulation.act_rarely(seat, other),
        }
    }
}

impl<'m> Simulation<'m, '_> {
    /// Acts of which programs do not have many.
    #[inline(never)]
    fn act_rarely(&mut self, seat: &mut Seat<'_, 'm>, action: Action) -> Step {
        match action {
            Action::Send { icr, via: Via::SelfIpiMsr } => self.send_self_ipi(seat, icr),
            Action::Send { icr, .. } => self.send_xapic(seat, icr),
            Action::Write { offset, value } => {
                seat.at.written_at.set(self.now);
                let outcome = seat.guest.mmio_write(Access::dword(offset, AccessKind::Write), u64::from(value));
                self.spend(self.costs.mmio_write);
                self.written(outcome, seat.slot, || Instruction::Write { offset, value })
            }
            Action::Idle => {
                if !std::mem::replace(&mut seat.progress.finished, true) {
                    self.program_ended(seat.vm, seat.slot);
                }
                self.halt(seat)
            }
            Action::Hlt => self.halt(seat),
            Action::Sleep { until } => {
                self.set_alarm(seat.slot, until);
                self.halt(seat)
            }
            Action::Until { time } => Step::Leave(Next::Wait(time.min(self.slice_end_if_shared(seat.at)))),
            Action::Interrupts { enabled } => {
                seat.guest.state_mut().interrupt_flag = enabled;
                self.spend(self.costs.instruction);
                Step::Next
            }
            // The others are done where they are read.
            _ => Step::Next,
        }
    }

    /// The write of the ICR by WRMSR.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the outcome stays in registers")]
    fn send_x2apic(&mut self, seat: &mut Seat<'_, 'm>, icr: Icr) -> Step {
        let (msr, value) = (X2APIC_ICR, icr.to_x2apic());
        let written_at = self.written_now(seat);
        let outcome = seat.guest.wrmsr(msr, value);
        self.spend(self.costs.msr_write);
        self.sent(seat, outcome, icr, written_at, || Instruction::Wrmsr { msr, value })
    }

    fn send_self_ipi(&mut self, seat: &mut Seat<'_, 'm>, icr: Icr) -> Step {
        let (msr, value) = (X2APIC_SELF_IPI, u64::from(icr.low.vector()));
        let written_at = self.written_now(seat);
        let outcome = seat.guest.wrmsr(msr, value);
        self.spend(self.costs.msr_write);
        self.sent(seat, outcome, icr, written_at, || Instruction::Wrmsr { msr, value })
    }

    /// The write of ICR_LO.
    fn send_xapic(&mut self, seat: &mut Seat<'_, 'm>, icr: Icr) -> Step {
        let (value, offset) = (icr.low.into_bits(), ApicRegister::ICR_LOW.offset());
        let written_at = self.written_now(seat);
        let outcome = seat.guest.mmio_write(Access::dword(offset, AccessKind::Write), u64::from(value));
        self.spend(self.costs.mmio_write);
        self.sent(seat, outcome, icr, written_at, || Instruction::Write { offset, value })
    }

    #[inline]
    fn written_now(&self, seat: &Seat<'_, 'm>) -> u64 {
        seat.at.written_at.set(self.now);
        self.now
    }

    /// What came of the write that sends an interrupt.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as send_x2apic")]
    fn sent(
        &mut self,
        seat: &mut Seat<'_, 'm>,
        outcome: Outcome,
        icr: Icr,
        written_at: u64,
        instruction: impl FnOnce() -> Instruction,
    ) -> Step {
        if let Some(timetable) = &mut self.timetable {
            timetable.sent(seat.slot, Fate::of(&outcome));
        }
        match outcome {
            Outcome::Posted(posted) => {
                self.posted(seat, posted, written_at);
                Step::Next
            }
            other => self.not_posted(seat, other, icr.low.vector(), written_at, instruction()),
        }
    }

    /// IPI virtualization posted it.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as send_x2apic")]
    fn posted(&mut self, seat: &mut Seat<'_, 'm>, posted: Posted, written_at: u64) {
        let slot = seat.slot;
        self.spend(self.costs.post);
        self.spent.sending += self.now - written_at;
        let to = self.target_of(seat.vm, slot, posted.apic_id, posted.descriptor);
        let class = self.class_of(to);
        if let Notice::Due(due) = posted.notice {
            let pcpu = NotificationDestination::from_bits(due.destination).decode(self.config.host_apic);
            if !self.send_interrupt(pcpu, due.vector) {
                self.notified_nobody(slot, due.destination);
            }
        }
        seat.progress.trail.note(What::Posted, posted.vector, to);
        self.log_event(written_at, slot, What::Posted, posted.vector, to);
        self.posted_for(to, posted.vector, class, written_at);
        self.account.virtualized(slot, to, &posted);
    }

    #[cold]
    fn notified_nobody(&mut self, slot: u32, destination: u32) {
        let message = format!("a notification went to NDST {destination:X}H, which is no pCPU");
        self.account.violation("notification-to-nobody", slot, message);
    }

    #[inline(never)]
    fn not_posted(
        &mut self,
        seat: &mut Seat<'_, 'm>,
        outcome: Outcome,
        vector: u8,
        written_at: u64,
        instruction: Instruction,
    ) -> Step {
        let slot = seat.slot;
        match outcome {
            Outcome::SelfIpi { vector, .. } => {
                self.spent.sending += self.now - written_at;
                self.log_event(written_at, slot, What::SelfIpi, vector, slot);
                self.stopwatch.sent(slot, vector, Class::OwnIpi, written_at);
            }
            Outcome::Exit(_) => {
                seat.at.sending.set(Some(written_at));
                seat.progress.trail.note(What::Exited, vector, 0);
                self.log_event(written_at, slot, What::Exited, vector, 0);
            }
            Outcome::Fault(_) => self.log_event(written_at, slot, What::Faulted, vector, 0),
            _ => {}
        }
        self.account.sent(&outcome, slot, slot);
        self.written(outcome, slot, || instruction)
    }

    /// VM exit.
    pub(super) fn leave(&mut self, exit: Exit, instruction: Instruction) -> Next {
        self.spend(self.costs.vm_exit);
        self.spent.exits += u64::from(self.costs.vm_exit);
        self.go(Phase::Exited { exit, acknowledged: None, instruction })
    }

    /// STI; HLT.
    fn halt(&mut self, seat: &mut Seat<'_, '_>) -> Step {
        seat.guest.state_mut().interrupt_flag = true;
        if let Some(exit) = seat.guest.hlt() {
            return Step::Leave(self.leave(exit, Instruction::Other));
        }
        self.spend(self.costs.instruction);
        Step::Next
    }

    fn program_ended(&mut self, vm: &VmState<'_>, slot: u32) {
        if vm.guest.code.ends(slot - vm.first_slot) {
            self.one_finished();
            self.finished_at = self.finished_at.max(self.now);
        }
    }

    /// Words changed that guests of this VM may spin on: who sees another value looks again.
    #[inline]
    fn told(&mut self, vm: &VmState<'_>) {
        for &spinner in &*vm.spinners.borrow() {
            let pcpu = &self.pcpus[spinner as usize];
            if pcpu.spins_on.get().is_some_and(|(word, seen)| word.get() != seen) {
                self.looks_again(spinner, pcpu);
            }
        }
    }

    #[inline(never)]
    fn looks_again(&mut self, spinner: u32, pcpu: &Pcpu<'_>) {
        let seen = self.now + u64::from(self.costs.line_transfer);
        self.pcpu_acts_by(spinner, pcpu, next_round(pcpu.since.get(), seen, self.costs.spin));
    }

    /// The slot of the vCPU whose descriptor that is.
    #[inline]
    fn target_of(&mut self, vm: &VmState<'_>, from: u32, apic_id: u32, descriptor: u64) -> u32 {
        if !self.config.naive_apic_ids && vm.plain_ids {
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
    #[allow(clippy::inline_always, reason = "as send_x2apic")]
    fn written(&mut self, outcome: Outcome, slot: u32, instruction: impl FnOnce() -> Instruction) -> Step {
        if let Outcome::Virtualized(_) = outcome { Step::Next } else { self.came_of(outcome, instruction(), slot) }
    }

    #[inline(never)]
    fn came_of(&mut self, outcome: Outcome, instruction: Instruction, slot: u32) -> Step {
        match outcome {
            Outcome::Virtualized(_) | Outcome::Posted(_) | Outcome::SelfIpi { .. } => {}
            Outcome::Exit(exit) => return Step::Leave(self.leave(exit, instruction)),
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
