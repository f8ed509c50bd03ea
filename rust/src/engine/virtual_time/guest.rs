//! A pCPU's time in a guest: from VM entry to VM exit.

use super::acts::{Acting, Seat, Step};
use super::calendar::NEVER;
use super::pcpu::{Injected, Pcpu, Phase};
use super::scheduler::Next;
use super::simulation::Simulation;
use crate::engine::machine::verdict::Directory;
use crate::engine::machine::{Runner, What};
use crate::hypervisor::{Instruction, LOCAL_TIMER_VECTOR, Task};
use crate::processor::{Boundary, ExternalInterrupt, NonRoot, Pages, local_apic};
use std::cell::Cell;

impl<'m, 'o> Simulation<'m, 'o> {
    /// VM entry is complete.
    pub(super) fn entered(&mut self, runner: &mut Runner) -> Next {
        let at = self.at();
        let Injected { vector: inject, nmi } = at.injected.get();
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
            runner.cursor.inject(code, vector, interrupts, std::mem::take(&mut runner.progress.computing));
            self.delivered(at, runner.task.slot, vector);
        }
        if let Some(timetable) = &mut self.timetable {
            timetable.entered(runner.task.slot);
        }
        at.clock.set(self.now);
        at.attention.set(true);
        at.pages.set(pages);
        at.recent.set(None);
        if let Some(since) = at.sending.take() {
            self.spent.sending += self.now - since;
        }
        self.go(Phase::Guest)
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "its registers are those of the guest's loop")]
    fn delivered(&mut self, at: &Pcpu<'m>, slot: u32, vector: u8) {
        self.was_delivered(at, slot);
        let sent = self.account.delivered(slot, vector);
        let since = sent.and_then(|sent| self.stopwatch.delivered(sent, self.now)).unwrap_or(self.now);
        if self.stopwatch.has_seconds() {
            self.second_is_next(slot, vector);
        }
        self.log_event(since, slot, What::Delivered, vector, 0);
    }

    /// Runs the guest until it exits, or somebody else has to act.
    #[inline(never)]
    pub(super) fn guest(&mut self, at: &'o Pcpu<'m>, runner: &mut Runner) -> Next {
        let vms = self.vms;
        let Some(vm) = vms.get(runner.task.vm as usize) else { return Next::Broken };
        let Some(pages) = at.pages.get() else { return Next::Broken };
        let memory = self.memory;
        let listing = vm.guest.code.listing();
        let Runner { task, cursor, progress } = runner;
        if at.spins.take() {
            vm.spinners.remove(self.current);
        }
        if progress.computing > 0 {
            progress.computing -= (self.now - at.clock.get()).min(u64::from(progress.computing)) as u32;
        }
        let mut slice_end = self.slice_end_if_shared(at);
        loop {
            if at.attention.get()
                && let Some(left) = self.external_interrupt(at, pages, task)
            {
                return left;
            }
            if cursor.interruptible() {
                match NonRoot::resume_with(memory, pages, task.vcpu.vp_mut()).boundary() {
                    Boundary::Nothing => {}
                    Boundary::Delivered(vector) => {
                        self.spend(self.costs.delivery);
                        self.delivered(at, task.slot, vector);
                        let interrupts = std::mem::replace(&mut task.vcpu.vp_mut().interrupt_flag, false);
                        cursor.interrupt(&vm.guest.code, vector, interrupts, std::mem::take(&mut progress.computing));
                        progress.trail.note(What::Delivered, vector, 0);
                    }
                    Boundary::Exit(exit) => return self.go_out(exit, None, Instruction::Other),
                }
            }
            if self.now >= slice_end {
                if self.now >= self.limit {
                    // Others act before: perhaps nobody waits for the pCPU then.
                    return Next::Wait(self.now);
                }
                // The host's timer: it is taken at once.
                slice_end = NEVER;
                at.slice_end.set(NEVER);
                at.request(LOCAL_TIMER_VECTOR);
                continue;
            }
            if progress.computing > 0 {
                let until = (self.now + u64::from(progress.computing)).min(slice_end);
                if until >= self.limit
                    && !(until < slice_end
                        && self.alone_until(at, task.vcpu.vp(), until)
                        && cursor.keeps_to_itself(&vm.guest.code, until < self.lasts_until))
                {
                    return Next::Wait(until);
                }
                progress.computing -= (until - self.now) as u32;
                self.now = until;
                continue;
            }
            loop {
                if self.now >= self.limit && !self.goes_ahead(at, task.vcpu.vp(), cursor, &vm.guest.code) {
                    return Next::Wait(self.now);
                }
                let seat = Seat { at, vm, pages, task: &mut *task, progress: &mut *progress };
                match cursor.step(listing, Acting { simulation: self, seat }) {
                    Step::Wait(until) => return Next::Wait(until),
                    Step::Left => return Next::Go,
                    // What may interrupt it is as it was: the slice goes on, and no interrupt waited behind another.
                    Step::Quiet if self.now < slice_end && !at.attention.get() => {}
                    Step::Quiet | Step::Next => break,
                }
            }
        }
    }

    /// The end of the time slice, if somebody else waits for the pCPU.
    #[inline]
    pub(super) fn slice_end_if_shared(&self, at: &Pcpu<'_>) -> u64 {
        if self.queued == 0 && !self.contended { NEVER } else { self.slice_end_of(at) }
    }

    #[inline(never)]
    fn slice_end_of(&self, at: &Pcpu<'_>) -> u64 {
        if self.others(at) || self.config.chaos.preempt { at.slice_end.get() } else { NEVER }
    }

    /// Takes what the local APIC has.
    #[inline]
    fn external_interrupt(&mut self, at: &Pcpu<'m>, pages: Pages<'m, Cell<u64>>, task: &mut Task) -> Option<Next> {
        let vp = task.vcpu.vp_mut();
        let taken = NonRoot::resume_with(self.memory, pages, vp).external_interrupt(&mut at.local.borrow_mut());
        if let ExternalInterrupt::Processed(harvest) = taken {
            self.spend(self.costs.notification_processing);
            self.account.notifications.spurious += u64::from(harvest.taken == 0);
            if harvest.merged > 0 {
                self.harvested(task.slot, harvest, task.vcpu.vp_mut().take_merged());
            }
            // Nearly always that was all.
            at.attention.set(local_apic::pending(at.requests));
            return None;
        }
        self.not_processed(at, taken, task.slot)
    }

    #[inline(never)]
    fn not_processed(&mut self, at: &Pcpu<'m>, taken: ExternalInterrupt, slot: u32) -> Option<Next> {
        match taken {
            ExternalInterrupt::Processed(_) => {}
            ExternalInterrupt::None => at.attention.set(false),
            ExternalInterrupt::Exit(exit, acknowledged) => {
                return Some(self.go_out(exit, acknowledged, Instruction::Other));
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
}
