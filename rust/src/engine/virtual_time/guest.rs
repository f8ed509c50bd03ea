//! A pCPU's time in a guest: from VM entry to VM exit.

use super::calendar::NEVER;
use super::latency::Class;
use super::pcpu::{Next, Phase};
use super::simulation::{Simulation, next_round};
use crate::arch::msr::{X2APIC_ICR, X2APIC_SELF_IPI};
use crate::arch::{AccessKind, ApicMode, ApicRegister, Exit, Icr, NotificationDestination};
use crate::engine::machine::setup::ends;
use crate::engine::machine::verdict::Directory;
use crate::engine::machine::{Runner, Trail, What};
use crate::guest::{Action, Via, View};
use crate::hypervisor::{ApicIdentity, Instruction, LOCAL_TIMER_VECTOR, VcpuWords};
use crate::memory::{Owner, Word};
use crate::processor::{Access, Boundary, ExternalInterrupt, NonRoot, Notice, Outcome, Pages, local_apic};
use std::cell::Cell;

type Guest<'a> = NonRoot<'a, Cell<u64>>;

/// What a step of the guest came to.
enum Step {
    Next,
    Leave(Next),
}

/// Of the vCPU that runs, what its program's acts change.
struct Seat<'a> {
    slot: u32,
    vm: usize,
    computing: &'a mut u32,
    finished: &'a mut bool,
    trail: &'a mut Trail,
}

impl Simulation<'_, '_> {
    /// VM entry is complete.
    pub(super) fn entered(&mut self, runner: &mut Runner, inject: Option<u8>, nmi: bool) -> Next {
        let Some(vm) = self.vms.get(runner.task.vm as usize) else { return Next::Broken };
        let code = &vm.guest.code;
        let failure = NonRoot::enter(self.memory, runner.task.vcpu.vp_mut()).err();
        if let Some(failure) = failure {
            return self.give_up(runner, &failure.to_string());
        }
        let pages = Pages::of(self.memory, runner.task.vcpu.vp()).ok();
        self.log_event(self.now.saturating_sub(u64::from(self.costs.vm_entry)), runner.task.slot, What::Entered, 0, 0);
        self.account.counts.nmis += u64::from(nmi);
        if let Some(vector) = inject {
            self.spend(self.costs.delivery);
            let state = runner.task.vcpu.vp_mut();
            let interrupts = std::mem::replace(&mut state.interrupt_flag, false);
            runner.cursor.interrupt(code, vector, interrupts, std::mem::take(&mut runner.computing));
            self.delivered(runner.task.slot, vector);
        }
        if let Some(timetable) = &mut self.timetable {
            timetable.entered(runner.task.slot);
        }
        let at = &mut self.pcpus[self.current as usize];
        (at.since, at.attention, at.pages) = (self.now, true, pages);
        if let Some(since) = at.sending.take() {
            self.spent.sending += self.now - since;
        }
        Next::Go(Phase::Guest)
    }

    fn delivered(&mut self, slot: u32, vector: u8) {
        self.account.delivered(slot, vector);
        let since = self.stopwatch.delivered(slot, vector, self.now).unwrap_or(self.now);
        self.log_event(since, slot, What::Delivered, vector, 0);
    }

    /// Runs the guest until it exits, or somebody else has to act.
    pub(super) fn guest(&mut self, runner: &mut Runner) -> Next {
        let number = self.current as usize;
        let vm_number = runner.task.vm as usize;
        let Some(vm) = self.vms.get(vm_number) else { return Next::Broken };
        let (code, shared, of, vcpus) = (&vm.guest.code, vm.memory, vm.vm, vm.vcpus);
        let (slot, vcpu, mode, base) =
            (runner.task.slot, runner.task.vcpu.vcpu(), runner.task.vcpu.mode(), runner.task.vcpu.base());
        let memory = self.memory;
        let Runner { task, cursor, computing, finished, trail, .. } = runner;
        let Some(pages) = self.pcpus[number].pages else { return Next::Broken };
        let mut guest = NonRoot::resume_with(memory, pages, task.vcpu.vp_mut());
        if self.pcpus[number].spins_on.is_some() {
            self.stop_spinning(vm_number);
        }
        if *computing > 0 {
            let at = &mut self.pcpus[number];
            *computing -= (self.now - at.since).min(u64::from(*computing)) as u32;
            at.since = self.now;
        }
        let mut slice_end = self.slice_end_if_shared();
        let identity = |vcpu: u32| of.vcpu_words(memory, vcpu).map_or(ApicIdentity::new(), VcpuWords::identity);
        let mut view = View {
            vcpu,
            vcpus,
            mode,
            interrupts: false,
            base,
            memory: &shared,
            identity: &identity,
            stopping: self.stopping,
            now: self.now,
        };
        loop {
            if self.pcpus[number].attention
                && let Some(left) = self.external_interrupt(&mut guest, slot)
            {
                return left;
            }
            if cursor.interruptible() {
                match guest.boundary() {
                    Boundary::Nothing => {}
                    Boundary::Delivered(vector) => {
                        self.spend(self.costs.delivery);
                        self.delivered(slot, vector);
                        let interrupts = std::mem::replace(&mut guest.state_mut().interrupt_flag, false);
                        cursor.interrupt(code, vector, interrupts, std::mem::take(computing));
                        trail.note(What::Delivered, vector, 0);
                    }
                    Boundary::Exit(exit) => return self.leave(exit, Instruction::Other),
                }
            }
            if self.now >= slice_end {
                // The host's timer: it is taken at once.
                let at = &mut self.pcpus[number];
                (at.slice_end, slice_end) = (NEVER, NEVER);
                at.attention = true;
                local_apic::request(at.local.requests(), LOCAL_TIMER_VECTOR);
                continue;
            }
            if *computing > 0 {
                let until = (self.now + u64::from(*computing)).min(slice_end);
                if until >= self.limit {
                    self.pcpus[number].since = self.now;
                    return Next::Wait(until);
                }
                *computing -= (until - self.now) as u32;
                self.now = until;
                continue;
            }
            if self.now >= self.limit && !(self.undisturbed() && cursor.keeps_to_itself(code)) {
                self.pcpus[number].since = self.now;
                return Next::Wait(self.now);
            }
            (view.interrupts, view.now) = (guest.state().interrupt_flag, self.now);
            let action = cursor.next(code, &view);
            if mode == ApicMode::Disabled && reaches_page(action) {
                // There is no APIC at that address now: what is written there is lost.
                self.spend(self.costs.mmio_write);
                continue;
            }
            let mut seat = Seat { slot, vm: vm_number, computing, finished, trail };
            let step = self.act(&mut guest, action, &mut seat);
            if let Step::Leave(next) = step {
                return next;
            }
        }
    }

    /// Nobody else can reach the pCPU that acts before its next act: others act later than `limit`, and what they do
    /// arrives after an interrupt's flight, or at the end of the time slice.
    fn undisturbed(&self) -> bool {
        // Of two actors at the same time the first may act up to one cycle later: that is in the limit.
        self.now + 1 < self.limit.saturating_add(u64::from(self.costs.notification_flight))
            && self.now < self.calendar.arrival_time()
            && self.now < self.pcpus[self.current as usize].slice_end
    }

    /// Does what the program wants next.
    fn act(&mut self, guest: &mut Guest<'_>, action: Action, seat: &mut Seat<'_>) -> Step {
        match action {
            Action::Internal => {
                self.spend(self.costs.instruction);
                Step::Next
            }
            Action::Told => {
                self.spend(self.costs.instruction);
                self.told(seat.vm);
                Step::Next
            }
            Action::Send { icr, via } => self.send_ipi(guest, icr, via, seat),
            Action::Compute { cycles } => {
                *seat.computing = cycles;
                Step::Next
            }
            Action::Spin { on } => {
                self.pcpus[self.current as usize].since = self.now;
                self.pcpus[self.current as usize].spins_on = Some((on, self.memory.word(on).map_or(0, Word::load)));
                self.vms[seat.vm].spinners.push(self.current);
                Step::Leave(Next::Wait(self.slice_end_if_shared()))
            }
            Action::Idle => {
                if !std::mem::replace(seat.finished, true) {
                    self.program_ended(seat.vm, seat.slot);
                }
                self.halt(guest)
            }
            Action::Hlt => self.halt(guest),
            Action::Until { time } => Step::Leave(Next::Wait(time.min(self.slice_end_if_shared()))),
            Action::Sleep { until } => {
                self.set_alarm(seat.slot, until);
                self.halt(guest)
            }
            Action::Wrmsr { msr, value } => {
                self.pcpus[self.current as usize].written_at = self.now;
                let outcome = guest.wrmsr(msr, value);
                self.spend(self.costs.msr_write);
                self.written(outcome, Instruction::Wrmsr { msr, value }, seat.slot)
            }
            Action::Write { offset, value } => {
                self.pcpus[self.current as usize].written_at = self.now;
                let outcome = guest.mmio_write(Access::dword(offset, AccessKind::Write), u64::from(value));
                self.spend(self.costs.mmio_write);
                self.written(outcome, Instruction::Write { offset, value }, seat.slot)
            }
            Action::Interrupts { enabled } => {
                guest.state_mut().interrupt_flag = enabled;
                self.spend(self.costs.instruction);
                Step::Next
            }
            Action::Return { interrupts, computing: left } => {
                guest.state_mut().interrupt_flag = interrupts;
                *seat.computing = left;
                self.spend(self.costs.interrupt_return);
                Step::Next
            }
        }
    }

    /// The end of the time slice, if somebody else waits for the pCPU.
    fn slice_end_if_shared(&self) -> u64 {
        if self.others() || self.config.chaos.preempt { self.pcpus[self.current as usize].slice_end } else { NEVER }
    }

    /// VM exit.
    fn leave(&mut self, exit: Exit, instruction: Instruction) -> Next {
        self.spend(self.costs.vm_exit);
        self.spent.exits += u64::from(self.costs.vm_exit);
        Next::Go(Phase::Exited { exit, acknowledged: None, instruction })
    }

    /// STI; HLT.
    fn halt(&mut self, guest: &mut Guest<'_>) -> Step {
        guest.state_mut().interrupt_flag = true;
        if let Some(exit) = guest.hlt() {
            return Step::Leave(self.leave(exit, Instruction::Other));
        }
        self.spend(self.costs.instruction);
        Step::Next
    }

    fn program_ended(&mut self, vm: usize, slot: u32) {
        if self.vms.get(vm).is_some_and(|vm| ends(vm.guest, slot - vm.first_slot)) {
            self.one_finished();
            self.finished_at = self.finished_at.max(self.now);
        }
    }

    /// The guest that acts does not spin any longer.
    fn stop_spinning(&mut self, vm: usize) {
        let (current, at) = (self.current, &mut self.pcpus[self.current as usize]);
        if at.spins_on.take().is_some() {
            self.vms[vm].spinners.retain(|&spinner| spinner != current);
        }
    }

    /// Words changed that guests of this VM may spin on: who sees another value looks again.
    fn told(&mut self, vm: usize) {
        if self.vms[vm].spinners.is_empty() {
            return;
        }
        let seen = self.now + u64::from(self.costs.line_transfer);
        for at in 0..self.vms[vm].spinners.len() {
            let spinner = self.vms[vm].spinners[at];
            let pcpu = &self.pcpus[spinner as usize];
            if let Some((on, value)) = pcpu.spins_on
                && self.memory.word(on).map_or(0, Word::load) != value
            {
                self.act_by(spinner, next_round(pcpu.since, seen, self.costs.spin));
            }
        }
    }

    /// Takes what the local APIC has.
    fn external_interrupt(&mut self, guest: &mut Guest<'_>, slot: u32) -> Option<Next> {
        let number = self.current as usize;
        match guest.external_interrupt(&mut self.pcpus[number].local) {
            ExternalInterrupt::None => self.pcpus[number].attention = false,
            ExternalInterrupt::Processed(harvest) => {
                self.spend(self.costs.notification_processing);
                self.account.notifications.spurious += u64::from(harvest.taken == 0);
                if harvest.merged > 0 {
                    self.account.harvested(slot, harvest, guest.state_mut().take_merged());
                }
                // Nearly always that was all.
                self.pcpus[number].attention = local_apic::pending(self.pcpus[number].local.requests());
            }
            ExternalInterrupt::Exit(exit, acknowledged) => {
                self.spend(self.costs.vm_exit);
                self.spent.exits += u64::from(self.costs.vm_exit);
                return Some(Next::Go(Phase::Exited { exit, acknowledged, instruction: Instruction::Other }));
            }
            ExternalInterrupt::Guest(vector) => {
                let message = format!("physical vector {vector:02X}H went to the guest of {}", self.name(slot));
                self.account.violation("physical-interrupt-in-guest", slot, message);
            }
            ExternalInterrupt::Violation(violation) => {
                self.account.violation(violation.kind(), slot, violation.message(self.memory));
            }
        }
        None
    }

    /// The write that sends an interrupt.
    fn send_ipi(&mut self, guest: &mut Guest<'_>, icr: Icr, via: Via, seat: &mut Seat<'_>) -> Step {
        let Seat { slot, vm, ref mut trail, .. } = *seat;
        let written_at = self.now;
        self.pcpus[self.current as usize].written_at = written_at;
        let (outcome, instruction, cost) = match via {
            Via::X2ApicIcr => {
                let value = icr.to_x2apic();
                let instruction = Instruction::Wrmsr { msr: X2APIC_ICR, value };
                (guest.wrmsr(X2APIC_ICR, value), instruction, self.costs.msr_write)
            }
            Via::SelfIpiMsr => {
                let value = u64::from(icr.low.vector());
                let instruction = Instruction::Wrmsr { msr: X2APIC_SELF_IPI, value };
                (guest.wrmsr(X2APIC_SELF_IPI, value), instruction, self.costs.msr_write)
            }
            Via::Mmio => {
                let (low, offset) = (icr.low.into_bits(), ApicRegister::ICR_LOW.offset());
                let outcome = guest.mmio_write(Access::dword(offset, AccessKind::Write), u64::from(low));
                (outcome, Instruction::Write { offset, value: low }, self.costs.mmio_write)
            }
        };
        self.spend(cost);
        if let Some(timetable) = &mut self.timetable {
            timetable.sent(slot, &outcome);
        }
        match outcome {
            Outcome::Posted(posted) => {
                self.spend(self.costs.post);
                self.spent.sending += self.now - written_at;
                let to = self.target_of(vm, slot, posted.apic_id, posted.descriptor);
                let class = self.class_of(to);
                if let Notice::Due(due) = posted.notice {
                    let pcpu = NotificationDestination::from_bits(due.destination).decode(self.config.host_apic);
                    if !self.send_interrupt(pcpu, due.vector) {
                        let message = format!("a notification went to NDST {:X}H, which is no pCPU", due.destination);
                        self.account.violation("notification-to-nobody", slot, message);
                    }
                }
                trail.note(What::Posted, posted.vector, to);
                self.log_event(written_at, slot, What::Posted, posted.vector, to);
                self.posted_for(to, posted.vector, class, written_at);
                self.account.sent(&outcome, slot, to);
                return Step::Next;
            }
            Outcome::SelfIpi { vector, .. } => {
                self.spent.sending += self.now - written_at;
                self.log_event(written_at, slot, What::SelfIpi, vector, slot);
                self.stopwatch.sent(slot, vector, Class::OwnIpi, written_at);
            }
            Outcome::Exit(_) => {
                self.pcpus[self.current as usize].sending = Some(written_at);
                trail.note(What::Exited, icr.low.vector(), 0);
                self.log_event(written_at, slot, What::Exited, icr.low.vector(), 0);
            }
            Outcome::Fault(_) => self.log_event(written_at, slot, What::Faulted, icr.low.vector(), 0),
            _ => {}
        }
        self.account.sent(&outcome, slot, slot);
        self.written(outcome, instruction, slot)
    }

    /// The slot of the vCPU whose descriptor that is.
    fn target_of(&mut self, vm: usize, from: u32, apic_id: u32, descriptor: u64) -> u32 {
        let first = self.vms.get(vm).map_or(0, |vm| vm.first_slot);
        if !self.config.naive_apic_ids && self.vms.get(vm).is_none_or(|vm| vm.plain_ids) {
            // vCPU k has APIC ID k, unless a guest has rewritten its ID; the table is indexed by the first.
            return first + apic_id;
        }
        let Some(Owner::Descriptor { vcpu, .. }) = self.memory.owner_of(descriptor).map(|piece| piece.owner) else {
            return first + apic_id;
        };
        let to = first + vcpu;
        if let Some(slot) = Directory::slot(self, to)
            && slot.words.identity().id() != apic_id
        {
            let message = format!(
                "{} sent to APIC ID {apic_id}; the table led to the descriptor of {}, whose APIC ID is {} now",
                self.name(from),
                self.name(to),
                slot.words.identity().id()
            );
            self.account.violation("misdelivery", from, message);
        }
        to
    }

    /// What came of a write.
    #[inline]
    fn written(&mut self, outcome: Outcome, instruction: Instruction, slot: u32) -> Step {
        if let Outcome::Virtualized(_) = outcome { Step::Next } else { self.came_of(outcome, instruction, slot) }
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
