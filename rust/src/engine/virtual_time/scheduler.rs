//! The scheduler of a pCPU: it runs vCPUs as KVM and the kernel do, and takes interrupts in root mode.

use super::pcpu::{Injected, Left, Pcpu, Phase};
use super::simulation::{Simulation, Whereabouts, next_round};
use crate::arch::msr::X2APIC_ICR;
use crate::arch::{Exit, ExitReason};
use crate::engine::machine::verdict::Directory;
use crate::engine::machine::{Runner, What};
use crate::hypervisor::{
    Entry, Handled, Inhibit, Inhibits, Instruction, MpState, Put, TaskState, clear_inhibit, has_fast_path,
    host_interrupt, set_inhibit,
};
use rand_xoshiro::rand_core::Rng;

/// One of so many entries toggles APICv, where chaos does.
const TOGGLE: u64 = 2000;

/// What is kept of a vCPU that has no pCPU, or may soon have none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OffPcpu {
    /// How long its pCPU polls before it sleeps, in cycles.
    poll: u32,
    /// It was preempted before its guest went on after an interrupt command that exited.
    sending: bool,
    /// When its last halt began.
    halted_at: u64,
    /// When it came into the queue that it is in.
    pub(super) ready_at: u64,
}

/// What comes of a phase.
pub(super) enum Next {
    Go,
    /// Nothing until this time, or until somebody else sees to it.
    Wait(u64),
    /// The vCPU leaves the pCPU, and could go on.
    Preempted,
    /// The vCPU leaves the pCPU to sleep.
    Asleep,
    /// Nothing goes on.
    Broken,
}

impl<'m, 'o> Simulation<'m, 'o> {
    /// The pCPU whose turn it is acts, until somebody else has to. Returns when it acts again.
    #[inline]
    pub(super) fn turn(&mut self, at: &'o Pcpu<'m>) -> u64 {
        let again = match at.runner.take() {
            Some(runner) if matches!(at.phase.get(), Phase::Guest) => match self.guest(at, runner) {
                Next::Wait(until) => {
                    // Nearly always.
                    at.runner.set(Some(runner));
                    until
                }
                next => self.go_on_after(at, runner, next),
            },
            Some(runner) => self.go_on_with(at, runner),
            None => self.idle_turn(at),
        };
        at.clock.set(self.now);
        again
    }

    /// The turn of a pCPU without a vCPU.
    #[inline(never)]
    fn idle_turn(&mut self, at: &'o Pcpu<'m>) -> u64 {
        match self.find_work() {
            Some(runner) => self.go_on_with(at, runner),
            None => self.free_again(),
        }
    }

    #[inline(never)]
    fn go_on_with(&mut self, at: &'o Pcpu<'m>, runner: &'m mut Runner) -> u64 {
        let next = self.phase(at, runner);
        self.go_on_after(at, runner, next)
    }

    /// From phase to phase, and vCPU to vCPU, while nobody else has to act.
    #[inline(never)]
    fn go_on_after(&mut self, at: &'o Pcpu<'m>, mut runner: &'m mut Runner, mut next: Next) -> u64 {
        loop {
            while matches!(next, Next::Go) && self.now < self.limit {
                next = self.phase(at, runner);
            }
            let since = self.now;
            match next {
                Next::Go | Next::Broken => {
                    at.runner.set(Some(runner));
                    return self.now;
                }
                Next::Wait(until) => {
                    at.runner.set(Some(runner));
                    return until;
                }
                Next::Preempted => self.preempted(at, runner),
                Next::Asleep => self.asleep(at, runner),
            }
            self.spent.exits += self.now - since;
            at.phase.set(Phase::Idle);
            self.note_load(self.current);
            if self.now >= self.limit {
                return self.now;
            }
            let Some(found) = self.find_work() else { return self.free_again() };
            runner = found;
            next = self.phase(at, runner);
        }
    }

    fn phase(&mut self, at: &'o Pcpu<'m>, runner: &mut Runner) -> Next {
        if matches!(at.phase.get(), Phase::Guest) {
            return self.guest(at, runner);
        }
        let since = self.now;
        let next = self.in_root(runner);
        self.spent.exits += self.now - since;
        next
    }

    /// Takes a vCPU, if there is one to be run, after the interrupts that there are.
    fn find_work(&mut self) -> Option<&'m mut Runner> {
        let since = self.now;
        self.root_interrupts(None);
        self.spent.exits += self.now - since;
        self.take_work()
    }

    fn take_work(&mut self) -> Option<&'m mut Runner> {
        let at = self.at();
        if self.queued == 0 || self.taken() {
            return None;
        }
        // One's own, else one of a pCPU that has others to run (`newidle_balance`); of none in a recording.
        let own = self.timetable.is_some() || !at.queue.borrow().is_empty();
        let from = if own { self.current } else { self.crowded.next_wrap(self.current)? };
        let runner = self.pcpus.get(from as usize)?.queue.borrow_mut().pop_front()?;
        self.queued -= 1;
        at.phase.set(Phase::Root);
        self.note_load(from);
        self.note_load(self.current);
        let off = &mut self.off_pcpu[runner.task.slot as usize];
        let sending = std::mem::take(&mut off.sending);
        // Who put it there may be ahead.
        let since = self.now.max(off.ready_at);
        self.now = since;
        self.spend(self.costs.context_switch);
        self.whereabouts[runner.task.slot as usize] = Whereabouts::OnPcpu(self.current);
        if let Some(slot) = Directory::slot(self, runner.task.slot)
            && slot.words.pcpu() != self.current
        {
            if let Some(before) = self.pcpus.get(slot.words.pcpu() as usize) {
                before.residents.set(before.residents.get() - 1);
                self.account.scheduling.migrations += 1;
            }
            at.residents.set(at.residents.get() + 1);
        }
        self.note_event(runner, What::Loaded, 0, self.current);
        runner.task.load(self);
        self.begin_slice(at);
        at.over.set(false);
        at.sending.set(sending.then_some(self.now));
        self.spent.exits += self.now - since;
        Some(runner)
    }

    fn begin_slice(&mut self, at: &Pcpu<'_>) {
        let mut slice = u64::from(self.config.time_slice) * u64::from(self.costs.time_slice_unit);
        if self.config.chaos.preempt {
            slice = 1 + self.random.next_u64() % slice.max(1);
        }
        at.slice_end.set(self.now + slice);
    }

    /// The pCPU that acts goes on with a phase.
    pub(super) fn go(&self, phase: Phase) -> Next {
        self.at().phase.set(phase);
        Next::Go
    }

    /// VM exit.
    pub(super) fn go_out(&mut self, exit: Exit, acknowledged: Option<u8>, instruction: Instruction) -> Next {
        self.spend(self.costs.vm_exit);
        self.spent.exits += u64::from(self.costs.vm_exit);
        self.at().left.set(Some(Left { exit, acknowledged, instruction }));
        self.go(Phase::Exited)
    }

    /// A phase outside of the guest.
    #[inline(never)]
    fn in_root(&mut self, runner: &mut Runner) -> Next {
        match self.at().phase.get() {
            Phase::Guest => Next::Go,
            Phase::Root | Phase::Idle => self.root(runner),
            Phase::Enter => self.enter(runner),
            Phase::Exited => self.exited(runner),
            Phase::Handle => self.handle(runner),
            Phase::Poll => self.poll(runner),
            Phase::Block => self.block(runner),
            Phase::CheckBlock => self.check_block(runner),
            Phase::Sleep => Next::Asleep,
        }
    }

    /// Somebody else waits for this pCPU.
    #[inline]
    pub(super) fn others(&self, at: &Pcpu<'_>) -> bool {
        !at.queue.borrow().is_empty() || self.taken()
    }

    /// Interrupts that arrived in root mode go to the host's handlers. Returns whether the time slice is over.
    fn root_interrupts(&mut self, mut runner: Option<&mut Runner>) -> bool {
        let at = self.at();
        let mut over = false;
        while at.attention.take() {
            while let Some(vector) = at.acknowledge() {
                at.end_of_interrupt();
                self.spend(self.costs.host_interrupt);
                let task = runner.as_mut().map(|runner| &mut runner.task);
                over |= host_interrupt(self, vector, task) == Handled::Reschedule;
            }
        }
        over
    }

    /// The top of `vcpu_run`.
    fn root(&mut self, runner: &mut Runner) -> Next {
        let at = self.at();
        let over = self.root_interrupts(Some(runner)) | at.over.take() | (self.now >= self.slice_end_if_shared(at));
        if over && (self.others(at) || self.config.chaos.preempt) {
            return Next::Preempted;
        }
        if over {
            // Nobody waits any longer: who comes next waits for the end of this one.
            self.begin_slice(at);
        }
        if runner.task.blocking {
            return self.go(Phase::CheckBlock);
        }
        if runner.task.mp_state != MpState::Runnable {
            return self.halted(runner);
        }
        match runner.task.prepare_entry(self) {
            Entry::Enter { inject, nmi } => {
                self.spend(self.costs.vm_entry);
                self.at().injected.set(Injected { vector: inject, nmi });
                self.go(Phase::Enter)
            }
            Entry::Again | Entry::Block => {
                self.spend(self.costs.instruction);
                self.go(Phase::Root)
            }
            Entry::Restart => self.restart(runner),
            Entry::Gone => self.give_up(runner, "it is no longer there"),
            Entry::Stopped => self.give_up(runner, "the policy has given it up (stop)"),
        }
    }

    pub(super) fn give_up(&mut self, runner: &Runner, why: &str) -> Next {
        let slot = runner.task.slot;
        self.account.violation("vm-entry", slot, format!("{} cannot go on: {why}", self.name(slot)));
        self.give_way();
        Next::Broken
    }

    fn restart(&mut self, runner: &mut Runner) -> Next {
        if let Some(vm) = self.vms.get(runner.task.vm as usize) {
            runner.cursor.restart(&vm.guest.code, runner.task.vcpu.vcpu());
            runner.progress.computing = 0;
            runner.task.vcpu.vp_mut().interrupt_flag = true;
        }
        self.spend(self.costs.instruction);
        self.go(Phase::Root)
    }

    /// VM entry is complete: the guest's first instruction is next.
    fn enter(&mut self, runner: &mut Runner) -> Next {
        self.account.scheduling.entries += 1;
        if self.config.chaos.toggle_apicv && self.chance(TOGGLE) {
            self.toggle_apicv(runner.task.vm);
        }
        self.entered(runner)
    }

    /// VM exit is complete.
    fn exited(&mut self, runner: &mut Runner) -> Next {
        let Some(Left { exit, instruction, .. }) = self.at().left.get() else { return Next::Broken };
        self.enter_traffic(self.at(), runner.task.slot);
        self.account.exit(exit);
        let since = self.now.saturating_sub(u64::from(self.costs.vm_exit));
        self.log_event(since, runner.task.slot, What::Left, 0, u32::from(exit.reason.number()));
        runner.task.after_exit(self);
        let costs = &self.costs;
        self.spend(match (exit.reason, instruction) {
            (ExitReason::MsrWrite, Instruction::Wrmsr { msr: X2APIC_ICR, value }) if has_fast_path(value) => {
                costs.exit_msr_icr
            }
            (ExitReason::MsrWrite, _) => costs.exit_msr,
            (ExitReason::ApicWrite, _) => costs.exit_apic_write,
            (ExitReason::ApicAccess, _) => costs.exit_apic_access,
            (ExitReason::Hlt, _) => costs.exit_hlt,
            (ExitReason::ExternalInterrupt, _) => costs.exit_interrupt,
            _ => costs.exit_other,
        });
        self.go(Phase::Handle)
    }

    fn handle(&mut self, runner: &mut Runner) -> Next {
        let at = self.at();
        let Some(Left { exit, acknowledged, instruction }) = at.left.take() else { return Next::Broken };
        let handled = runner.task.handle_exit(self, exit, acknowledged, instruction);
        if acknowledged.is_some() {
            // The host's handler ends with its EOI.
            at.end_of_interrupt();
            at.attention.set(true);
        }
        match handled {
            Handled::Continue => {}
            Handled::Reschedule => at.over.set(true),
            Handled::Broken(failure) => return self.give_up(runner, &failure.to_string()),
        }
        self.go(Phase::Root)
    }

    /// The vCPU has nothing to run: its pCPU polls for a while, unless somebody else wants it. (`kvm_vcpu_halt`)
    fn halted(&mut self, runner: &Runner) -> Next {
        let at = self.at();
        let off = &mut self.off_pcpu[runner.task.slot as usize];
        off.halted_at = self.now;
        let poll = off.poll;
        if runner.task.mp_state != MpState::Halted || poll == 0 || self.others(at) {
            return self.go(Phase::Block);
        }
        self.whereabouts[runner.task.slot as usize] = Whereabouts::Polls(self.current);
        at.polls_since.set(self.now);
        at.polls_until.set(self.now + u64::from(poll));
        self.go(Phase::Poll)
    }

    fn poll(&mut self, runner: &mut Runner) -> Next {
        let at = self.at();
        let (since, until) = (at.polls_since.get(), at.polls_until.get());
        let over = self.root_interrupts(Some(runner));
        at.over.set(at.over.get() | over);
        // Where there is something, the look before sleeping finds the same, and lets it go on.
        if !runner.task.poll(self) && self.now < until && !self.others(at) {
            return Next::Wait(next_round(since, until, self.costs.halt_poll_spin));
        }
        self.whereabouts[runner.task.slot as usize] = Whereabouts::OnPcpu(self.current);
        self.go(Phase::Block)
    }

    /// `kvm_vcpu_block`.
    fn block(&mut self, runner: &mut Runner) -> Next {
        if runner.task.begin_block(self) {
            self.spend(self.costs.instruction);
            return self.go(Phase::CheckBlock);
        }
        self.slept(runner);
        runner.task.end_block(self);
        // What it waits for besides interrupts is served on the way into the guest.
        if runner.task.mp_state == MpState::InitReceived
            && runner.task.has_events(self)
            && runner.task.prepare_entry(self) == Entry::Restart
        {
            return self.restart(runner);
        }
        self.spend(self.costs.instruction);
        self.go(Phase::Root)
    }

    fn check_block(&mut self, runner: &mut Runner) -> Next {
        if runner.task.check_block(self) {
            if std::mem::take(&mut runner.progress.woken) {
                self.account.scheduling.spurious_wakeups += 1;
            }
            if self.config.chaos.preempt && self.chance(8) {
                return Next::Preempted;
            }
            self.spend(self.costs.context_switch);
            return self.go(Phase::Sleep);
        }
        runner.progress.woken = false;
        self.slept(runner);
        self.note_event(runner, What::Woke, 0, 0);
        runner.task.end_block(self);
        self.spend(self.costs.instruction);
        self.go(Phase::Root)
    }

    /// How long the vCPU had nothing to do decides how long its pCPU polls the next time. (`kvm_vcpu_halt`)
    fn slept(&mut self, runner: &Runner) {
        let most = self.costs.halt_poll;
        let Some(OffPcpu { poll, halted_at, .. }) = self.off_pcpu.get_mut(runner.task.slot as usize) else { return };
        let slept = self.now.saturating_sub(*halted_at);
        if slept <= u64::from(*poll) {
            return;
        }
        if slept > u64::from(most) {
            // `halt_poll_ns_shrink` is 0, the default until Linux 6.11: no polling at all.
            *poll = 0;
        } else {
            // `halt_poll_ns_grow` is 2.
            *poll = poll.saturating_mul(2).max(self.costs.halt_poll_start).min(most);
        }
    }

    fn preempted(&mut self, at: &Pcpu<'_>, runner: &'m mut Runner) {
        let sending = self.stops_sending(at);
        self.off_pcpu[runner.task.slot as usize].sending = sending;
        self.note_event(runner, What::Preempted, 0, self.current);
        self.account.scheduling.preemptions += 1;
        runner.task.put(self, Put::Preempted);
        self.spend(self.costs.context_switch);
        let pcpu = if self.config.chaos.migrate { self.place_for(runner.task.slot) } else { self.current };
        self.enqueue(pcpu, runner, self.costs.idle_exit);
    }

    /// The vCPU leaves the pCPU. Returns whether that is between an interrupt command that exited and the guest's next
    /// instruction: until it is back here or elsewhere it does not send.
    fn stops_sending(&mut self, at: &Pcpu<'_>) -> bool {
        let since = at.sending.take();
        self.spent.sending += since.map_or(0, |since| self.now - since);
        since.is_some()
    }

    fn asleep(&mut self, at: &Pcpu<'_>, runner: &'m mut Runner) {
        self.stops_sending(at);
        self.note_event(runner, What::Slept, 0, self.current);
        self.account.scheduling.blocks += 1;
        runner.task.put(self, Put::Blocking);
        let slot = runner.task.slot as usize;
        // Woken in between?
        let awake = Directory::slot(self, runner.task.slot).is_none_or(|slot| slot.words.task() == TaskState::Running);
        if awake {
            self.enqueue(self.current, runner, 0);
        } else {
            self.whereabouts[slot] = Whereabouts::Asleep;
            self.beds[slot] = Some(runner);
        }
    }

    fn toggle_apicv(&mut self, vm: u32) {
        let activated =
            self.vms.get(vm as usize).and_then(|of| of.vm.inhibits(self.memory)).is_some_and(Inhibits::activated);
        if activated {
            set_inhibit(self, vm, Inhibit::HyperV);
        } else {
            clear_inhibit(self, vm, Inhibit::HyperV);
        }
    }
}
