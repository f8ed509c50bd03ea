//! A pCPU: it schedules vCPUs as KVM and the kernel do, and takes interrupts in root mode.
//!
//! A phase is a stretch of code that nothing interrupts; its costs are over when the next one begins.

use super::simulation::{Simulation, Whereabouts, next_round};
use crate::arch::{Exit, ExitReason};
use crate::engine::machine::verdict::Directory;
use crate::engine::machine::{Runner, What};
use crate::hypervisor::{
    Entry, Handled, Inhibit, Inhibits, Instruction, MpState, Put, TaskState, clear_inhibit, host_interrupt, set_inhibit,
};
use crate::memory::{prefetch, prefetch_whole};
use crate::processor::{LocalApic, Pages};
use rand_xoshiro::rand_core::Rng;
use std::cell::Cell;
use std::collections::VecDeque;

/// One of so many entries toggles APICv, where chaos does.
const TOGGLE: u64 = 2000;

/// What a pCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It looks for a vCPU to run.
    Idle,
    /// In root mode, host interrupts on: the top of `vcpu_run`.
    Root,
    /// VM entry is complete.
    Enter { inject: Option<u8>, nmi: bool },
    /// In the guest.
    Guest,
    /// VM exit is complete.
    Exited { exit: Exit, acknowledged: Option<u8>, instruction: Instruction },
    /// What the exit asks for is done.
    Handle { exit: Exit, acknowledged: Option<u8>, instruction: Instruction },
    /// Polls before its vCPU sleeps.
    Poll { since: u64, until: u64 },
    /// Before the vCPU may sleep.
    Block,
    /// It may sleep: the last look.
    CheckBlock,
    /// It sleeps.
    Sleep,
}

pub(super) struct Pcpu<'m> {
    pub(super) local: LocalApic<'m, Cell<u64>>,
    pub(super) wakeup_list: Vec<u32>,
    pub(super) queue: VecDeque<Box<Runner>>,
    pub(super) runner: Option<Box<Runner>>,
    pub(super) phase: Phase,
    /// When what it was last busy with was done.
    pub(super) clock: u64,
    /// The local APIC may have something.
    pub(super) attention: bool,
    /// When the time slice ends.
    pub(super) slice_end: u64,
    /// It is over.
    over: bool,
    /// When the guest's computation, or its spinning, began.
    pub(super) since: u64,
    /// The pages that the processor uses in the guest.
    pub(super) pages: Option<Pages<'m, Cell<u64>>>,
    /// When its guest last wrote to its local APIC.
    pub(super) written_at: u64,
    /// The word that the guest spins on, and what it saw there.
    pub(super) spins_on: Option<(u64, u64)>,
    /// When the vCPU began to sleep, were it not for polling.
    halted_at: u64,
    /// When its guest wrote the interrupt command that exited, until it is back in the guest.
    pub(super) sending: Option<u64>,
    /// Until when somebody of the host's has it.
    pub(super) taken_until: u64,
}

impl<'m> Pcpu<'m> {
    pub(super) const fn new(local: LocalApic<'m, Cell<u64>>) -> Self {
        Self {
            local,
            wakeup_list: Vec::new(),
            queue: VecDeque::new(),
            runner: None,
            phase: Phase::Idle,
            clock: 0,
            attention: false,
            slice_end: 0,
            over: false,
            since: 0,
            pages: None,
            written_at: 0,
            spins_on: None,
            halted_at: 0,
            sending: None,
            taken_until: 0,
        }
    }

    /// Whether an interrupt that arrives is looked at at once.
    #[inline]
    pub(super) const fn listens(&self) -> bool {
        matches!(self.phase, Phase::Guest | Phase::Idle | Phase::Poll { .. })
    }

    /// Asks for the memory that its next turn leads to.
    pub(super) fn read_ahead(&self) {
        prefetch(self.local.requests(), 0);
        if let Some(pages) = &self.pages {
            pages.read_ahead();
        }
        if let Some(runner) = self.runner.as_deref() {
            prefetch_whole(runner);
        }
    }
}

/// What comes of a phase.
pub(super) enum Next {
    Go(Phase),
    /// Nothing until this time, or until somebody else sees to it.
    Wait(u64),
    /// The vCPU leaves the pCPU, and could go on.
    Preempted,
    /// The vCPU leaves the pCPU to sleep.
    Asleep,
    /// Nothing goes on.
    Broken,
}

impl Simulation<'_, '_> {
    /// The pCPU whose turn it is acts, until somebody else has to. Returns when it acts again.
    pub(super) fn turn(&mut self) -> u64 {
        let again = self.take_turn();
        self.pcpus[self.current as usize].clock = self.now;
        again
    }

    fn take_turn(&mut self) -> u64 {
        let number = self.current as usize;
        loop {
            let Some(mut runner) = self.pcpus[number].runner.take() else {
                if !self.idle_turn() {
                    return self.free_again();
                }
                continue;
            };
            match self.go_on(&mut runner) {
                Next::Go(_) | Next::Broken => {
                    self.pcpus[number].runner = Some(runner);
                    return self.now;
                }
                Next::Wait(until) => {
                    self.pcpus[number].runner = Some(runner);
                    return until;
                }
                Next::Preempted => self.preempted(runner),
                Next::Asleep => self.asleep(runner),
            }
            self.pcpus[number].phase = Phase::Idle;
            self.idle += 1;
            if self.now >= self.limit {
                return self.now;
            }
        }
    }

    /// Takes a vCPU, if there is one to be run. Returns whether there was.
    fn idle_turn(&mut self) -> bool {
        let number = self.current as usize;
        let since = self.now;
        self.root_interrupts(None);
        self.spent.exits += self.now - since;
        let count = self.pcpus.len();
        let found = if self.queued == 0 || self.taken() {
            None
        } else if self.timetable.is_some() {
            self.pcpus[number].queue.pop_front()
        } else {
            (0..count).find_map(|i| self.pcpus[(number + i) % count].queue.pop_front())
        };
        let Some(mut runner) = found else { return false };
        self.queued -= 1;
        self.idle -= 1;
        self.spend(self.costs.context_switch);
        self.whereabouts[runner.task.slot as usize] = Whereabouts::OnPcpu(self.current);
        if let Some(slot) = Directory::slot(self, runner.task.slot)
            && slot.words.pcpu() != self.current
            && slot.words.pcpu() != u32::MAX
        {
            self.account.scheduling.migrations += 1;
        }
        self.note_event(&mut runner, What::Loaded, 0, self.current);
        runner.task.load(self);
        let mut slice = u64::from(self.config.time_slice) * u64::from(self.costs.time_slice_unit);
        if self.config.chaos.preempt {
            slice = 1 + self.random.next_u64() % slice.max(1);
        }
        let at = &mut self.pcpus[number];
        (at.slice_end, at.over, at.phase) = (self.now + slice, false, Phase::Root);
        at.runner = Some(runner);
        true
    }

    /// Goes from phase to phase while nobody else has to act.
    fn go_on(&mut self, runner: &mut Runner) -> Next {
        let number = self.current as usize;
        loop {
            let in_guest = matches!(self.pcpus[number].phase, Phase::Guest);
            let next = if in_guest {
                self.guest(runner)
            } else {
                let since = self.now;
                let next = self.in_root(runner);
                self.spent.exits += self.now - since;
                next
            };
            let Next::Go(phase) = next else { return next };
            self.pcpus[number].phase = phase;
            if self.now >= self.limit {
                return next;
            }
        }
    }

    /// A phase outside of the guest.
    #[inline(never)]
    fn in_root(&mut self, runner: &mut Runner) -> Next {
        match self.pcpus[self.current as usize].phase {
            Phase::Guest => Next::Go(Phase::Guest),
            Phase::Root | Phase::Idle => self.root(runner),
            Phase::Enter { inject, nmi } => self.enter(runner, inject, nmi),
            Phase::Exited { exit, acknowledged, instruction } => self.exited(runner, exit, acknowledged, instruction),
            Phase::Handle { exit, acknowledged, instruction } => self.handle(runner, exit, acknowledged, instruction),
            Phase::Poll { since, until } => self.poll(runner, since, until),
            Phase::Block => self.block(runner),
            Phase::CheckBlock => self.check_block(runner),
            Phase::Sleep => Next::Asleep,
        }
    }

    /// Somebody else waits for this pCPU.
    pub(super) fn others(&self) -> bool {
        !self.pcpus[self.current as usize].queue.is_empty() || self.taken()
    }

    /// Interrupts that arrived in root mode go to the host's handlers. Returns whether the time slice is over.
    fn root_interrupts(&mut self, mut runner: Option<&mut Runner>) -> bool {
        let number = self.current as usize;
        let mut over = false;
        while std::mem::take(&mut self.pcpus[number].attention) {
            while let Some(vector) = self.pcpus[number].local.acknowledge() {
                self.pcpus[number].local.eoi();
                self.spend(self.costs.host_interrupt);
                let task = runner.as_mut().map(|runner| &mut runner.task);
                over |= host_interrupt(self, vector, task) == Handled::Reschedule;
            }
        }
        over
    }

    /// The top of `vcpu_run`.
    fn root(&mut self, runner: &mut Runner) -> Next {
        let number = self.current as usize;
        let over = self.root_interrupts(Some(runner)) | std::mem::take(&mut self.pcpus[number].over);
        if over && (self.others() || self.config.chaos.preempt) {
            return Next::Preempted;
        }
        if runner.task.blocking {
            return Next::Go(Phase::CheckBlock);
        }
        if runner.task.mp_state != MpState::Runnable {
            return self.halted(runner);
        }
        match runner.task.prepare_entry(self) {
            Entry::Enter { inject, nmi } => {
                self.spend(self.costs.vm_entry);
                Next::Go(Phase::Enter { inject, nmi })
            }
            Entry::Again | Entry::Block => {
                self.spend(self.costs.instruction);
                Next::Go(Phase::Root)
            }
            Entry::Restart => self.restart(runner),
            Entry::Gone => self.give_up(runner, "it is no longer there"),
            Entry::Stopped => self.give_up(runner, "the policy has given it up (stop)"),
        }
    }

    pub(super) fn give_up(&mut self, runner: &Runner, why: &str) -> Next {
        let slot = runner.task.slot;
        self.account.violation("vm-entry", slot, format!("{} cannot go on: {why}", self.name(slot)));
        self.broken = true;
        Next::Broken
    }

    fn restart(&mut self, runner: &mut Runner) -> Next {
        if let Some(vm) = self.vms.get(runner.task.vm as usize) {
            runner.cursor.restart(&vm.guest.code, runner.task.vcpu.vcpu());
            runner.computing = 0;
            runner.task.vcpu.vp_mut().interrupt_flag = true;
        }
        self.spend(self.costs.instruction);
        Next::Go(Phase::Root)
    }

    /// VM entry is complete: the guest's first instruction is next.
    fn enter(&mut self, runner: &mut Runner, inject: Option<u8>, nmi: bool) -> Next {
        self.account.scheduling.entries += 1;
        if self.config.chaos.toggle_apicv && self.chance(TOGGLE) {
            self.toggle_apicv(runner.task.vm);
        }
        self.entered(runner, inject, nmi)
    }

    /// VM exit is complete.
    fn exited(&mut self, runner: &mut Runner, exit: Exit, acknowledged: Option<u8>, instruction: Instruction) -> Next {
        self.account.exit(exit);
        let costs = self.costs;
        let since = self.now.saturating_sub(u64::from(costs.vm_exit));
        self.log_event(since, runner.task.slot, What::Left, 0, u32::from(exit.reason.number()));
        runner.task.after_exit(self);
        self.spend(match (exit.reason, instruction) {
            (ExitReason::MsrWrite, Instruction::Wrmsr { msr: crate::arch::msr::X2APIC_ICR, .. }) => costs.exit_msr_icr,
            (ExitReason::MsrWrite, _) => costs.exit_msr,
            (ExitReason::ApicWrite, _) => costs.exit_apic_write,
            (ExitReason::ApicAccess, _) => costs.exit_apic_access,
            (ExitReason::Hlt, _) => costs.exit_hlt,
            (ExitReason::ExternalInterrupt, _) => costs.exit_interrupt,
            _ => costs.exit_other,
        });
        Next::Go(Phase::Handle { exit, acknowledged, instruction })
    }

    fn handle(&mut self, runner: &mut Runner, exit: Exit, acknowledged: Option<u8>, instruction: Instruction) -> Next {
        let number = self.current as usize;
        let handled = runner.task.handle_exit(self, exit, acknowledged, instruction);
        if acknowledged.is_some() {
            // The host's handler ends with its EOI.
            self.pcpus[number].local.eoi();
            self.pcpus[number].attention = true;
        }
        match handled {
            Handled::Continue => {}
            Handled::Reschedule => self.pcpus[number].over = true,
            Handled::Broken(failure) => return self.give_up(runner, &failure.to_string()),
        }
        Next::Go(Phase::Root)
    }

    /// The vCPU has nothing to run: its pCPU polls for a while, unless somebody else wants it. (`kvm_vcpu_halt`)
    fn halted(&mut self, runner: &Runner) -> Next {
        let number = self.current as usize;
        self.pcpus[number].halted_at = self.now;
        let poll = self.polls[runner.task.slot as usize];
        if runner.task.mp_state != MpState::Halted || poll == 0 || self.others() {
            return Next::Go(Phase::Block);
        }
        Next::Go(Phase::Poll { since: self.now, until: self.now + u64::from(poll) })
    }

    fn poll(&mut self, runner: &mut Runner, since: u64, until: u64) -> Next {
        let number = self.current as usize;
        let over = self.root_interrupts(Some(runner));
        self.pcpus[number].over |= over;
        if runner.task.poll(self) {
            // The look before sleeping finds the same, and lets it go on.
            return Next::Go(Phase::Block);
        }
        if self.now >= until || self.others() {
            return Next::Go(Phase::Block);
        }
        Next::Wait(next_round(since, until, self.costs.halt_poll_spin))
    }

    /// `kvm_vcpu_block`.
    fn block(&mut self, runner: &mut Runner) -> Next {
        if runner.task.begin_block(self) {
            self.spend(self.costs.instruction);
            return Next::Go(Phase::CheckBlock);
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
        Next::Go(Phase::Root)
    }

    fn check_block(&mut self, runner: &mut Runner) -> Next {
        if runner.task.check_block(self) {
            if std::mem::take(&mut runner.woken) {
                self.account.scheduling.spurious_wakeups += 1;
            }
            if self.config.chaos.preempt && self.chance(8) {
                return Next::Preempted;
            }
            self.spend(self.costs.context_switch);
            return Next::Go(Phase::Sleep);
        }
        runner.woken = false;
        self.slept(runner);
        self.note_event(runner, What::Woke, 0, 0);
        runner.task.end_block(self);
        self.spend(self.costs.instruction);
        Next::Go(Phase::Root)
    }

    /// How long the vCPU had nothing to do decides how long its pCPU polls the next time. (`kvm_vcpu_halt`)
    fn slept(&mut self, runner: &Runner) {
        let most = self.costs.halt_poll;
        let slept = self.now.saturating_sub(self.pcpus[self.current as usize].halted_at);
        let Some(poll) = self.polls.get_mut(runner.task.slot as usize) else { return };
        if slept <= u64::from(*poll) {
            return;
        }
        if slept > u64::from(most) {
            // `halt_poll_ns_shrink` is 0 by default: no polling at all.
            *poll = 0;
        } else {
            // `halt_poll_ns_grow` is 2.
            *poll = (*poll * 2).max(self.costs.halt_poll_start).min(most);
        }
    }

    fn preempted(&mut self, mut runner: Box<Runner>) {
        self.note_event(&mut runner, What::Preempted, 0, self.current);
        self.account.scheduling.preemptions += 1;
        runner.task.put(self, Put::Preempted);
        self.spend(self.costs.context_switch);
        let pcpu = if self.config.chaos.migrate { self.place_for(runner.task.slot) } else { self.current };
        self.enqueue(pcpu, runner, self.costs.idle_exit);
    }

    fn asleep(&mut self, mut runner: Box<Runner>) {
        self.note_event(&mut runner, What::Slept, 0, self.current);
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
