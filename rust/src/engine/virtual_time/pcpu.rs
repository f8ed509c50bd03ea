//! A pCPU: it schedules vCPUs as KVM and the kernel do, and takes interrupts in root mode.
//!
//! A phase is a stretch of code that nothing interrupts; its costs are over when the next one begins.

use super::simulation::{Simulation, Whereabouts, next_round};
use super::stay::Stay;
use crate::arch::{Exit, ExitReason};
use crate::engine::machine::verdict::Directory;
use crate::engine::machine::{Runner, What};
use crate::hypervisor::{
    Entry, Handled, Inhibit, Inhibits, Instruction, MpState, Put, TaskState, clear_inhibit, host_interrupt, set_inhibit,
};
use crate::memory::{Cache, Line, prefetch, prefetch_lines};
use crate::processor::pid_table::Recent;
use crate::processor::{LocalApic, Pages, local_apic};
use rand_xoshiro::rand_core::Rng;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem::offset_of;
use std::ops::Range;

/// One of so many entries toggles APICv, where chaos does.
const TOGGLE: u64 = 2000;

/// What a pCPU does next, in a byte: most turns ask only whether it is in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It looks for a vCPU to run.
    Idle,
    /// In root mode, host interrupts on: the top of `vcpu_run`.
    Root,
    /// VM entry is complete.
    Enter,
    /// In the guest.
    Guest,
    /// VM exit is complete.
    Exited,
    /// What the exit asks for is done.
    Handle,
    /// Polls before its vCPU sleeps.
    Poll,
    /// Before the vCPU may sleep.
    Block,
    /// It may sleep: the last look.
    CheckBlock,
    /// It sleeps.
    Sleep,
}

/// What VM entry injects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Injected {
    pub(super) vector: Option<u8>,
    pub(super) nmi: bool,
}

/// A VM exit, from the guest to its handler.
#[derive(Clone, Copy, Debug)]
struct Left {
    exit: Exit,
    /// The vector of the interrupt that caused it.
    acknowledged: Option<u8>,
    instruction: Instruction,
}

/// What time needs of a pCPU is in cells: whoever acts holds a reference to its own for a whole turn, and reaches others'.
///
/// What most turns use stands at the beginning, in the [first lines](Self::ACTS) of memory, and what interrupts use behind it.
#[repr(C, align(64))]
pub(super) struct Pcpu<'m> {
    pub(super) runner: Cell<Option<&'m mut Runner>>,
    /// The pages that the processor uses in the guest.
    pub(super) pages: Cell<Option<Pages<'m, Cell<u64>>>>,
    /// When what it was last busy with was done; or when it entered the guest, in the turn in which it does. What is left of
    /// the guest's computation, or its spinning, began then.
    pub(super) clock: Cell<u64>,
    /// When the time slice ends.
    pub(super) slice_end: Cell<u64>,
    /// To whom its guest sent an interrupt last.
    pub(super) sent_to: Cell<u32>,
    /// What its guest sent and was delivered, and is not in the books yet.
    stay: Stay,
    pub(super) phase: Cell<Phase>,
    /// The local APIC may have something.
    pub(super) attention: Cell<bool>,
    /// The guest spins.
    pub(super) spins: Cell<bool>,
    /// The request bits of its local APIC.
    pub(super) requests: &'m Line<Cell<u64>>,
    pub(super) local: RefCell<LocalApic<'m, Cell<u64>>>,
    /// The word that the guest spins on, and what it saw there.
    pub(super) spins_on: Cell<Option<(&'m Cell<u64>, u64)>>,
    /// The entry of the PID-pointer table that its guest used more than once, last.
    pub(super) recent: Cell<Option<Recent<'m, Cell<u64>>>>,
    /// When its guest wrote to its local APIC what exited last.
    pub(super) written_at: Cell<u64>,
    /// vCPUs that ran here last, or do now: those that may be woken here.
    pub(super) residents: Cell<u32>,
    /// The time slice is over.
    over: Cell<bool>,
    left: Cell<Option<Left>>,
    pub(super) injected: Cell<Injected>,
    /// When the guest wrote the interrupt command that exited, until it is back in the guest.
    pub(super) sending: Cell<Option<u64>>,
    pub(super) queue: RefCell<VecDeque<&'m mut Runner>>,
    /// When the vCPU began to sleep, were it not for polling.
    pub(super) halted_at: Cell<u64>,
    /// When polling ends.
    polls_until: Cell<u64>,
    pub(super) wakeup_list: RefCell<Vec<u32>>,
}

impl<'m> Pcpu<'m> {
    /// Lines that a guest's acts use.
    pub(super) const ACTS: Range<usize> = 0..1;
    /// The same, and what interrupts use.
    pub(super) const INTERRUPTS: Range<usize> = 0..2;

    pub(super) const fn new(requests: &'m Line<Cell<u64>>) -> Self {
        Self {
            local: RefCell::new(LocalApic::new(requests)),
            requests,
            wakeup_list: RefCell::new(Vec::new()),
            queue: RefCell::new(VecDeque::new()),
            runner: Cell::new(None),
            phase: Cell::new(Phase::Idle),
            clock: Cell::new(0),
            attention: Cell::new(false),
            slice_end: Cell::new(0),
            over: Cell::new(false),
            sent_to: Cell::new(0),
            stay: Stay::new(),
            spins: Cell::new(false),
            pages: Cell::new(None),
            recent: Cell::new(None),
            written_at: Cell::new(0),
            spins_on: Cell::new(None),
            halted_at: Cell::new(0),
            sending: Cell::new(None),
            residents: Cell::new(0),
            left: Cell::new(None),
            injected: Cell::new(Injected { vector: None, nmi: false }),
            polls_until: Cell::new(0),
        }
    }

    /// A vCPU that stays where it is is looked at.
    pub(super) fn look_at_runner<T>(&self, look: impl FnOnce(&Runner) -> T) -> Option<T> {
        let runner = self.runner.take();
        let seen = runner.as_deref().map(look);
        self.runner.set(runner);
        seen
    }

    fn acknowledge(&self) -> Option<u8> {
        self.local.borrow_mut().acknowledge()
    }

    fn end_of_interrupt(&self) {
        self.local.borrow_mut().eoi();
    }

    /// A physical interrupt is requested.
    #[inline]
    pub(super) fn request(&self, vector: u8) {
        local_apic::request(self.requests, vector);
        self.attention.set(true);
    }

    /// Whether an interrupt that arrives is looked at at once.
    #[inline]
    pub(super) fn listens(&self) -> bool {
        // Nearly always the first.
        matches!(self.phase.get(), Phase::Guest) || self.listens_in_root()
    }

    #[inline(never)]
    fn listens_in_root(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle | Phase::Poll)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle)
    }

    /// Asks for the memory that a turn leads to in which its guest does what its program says next, for later.
    pub(super) fn read_ahead_of_act(&self) {
        if let Some(pages) = self.pages.get() {
            pages.read_ahead_of_icr();
        }
        self.look_at_runner(|runner| prefetch_lines(runner, Runner::ACTS, Cache::Second));
    }

    /// Asks for the memory that a turn leads to in which it takes an interrupt.
    pub(super) fn read_ahead(&self) {
        prefetch(self.requests, 0, Cache::First);
        self.read_ahead_of_guest(Cache::First);
    }

    /// The same, but for the requests of its local APIC.
    pub(super) fn read_ahead_of_guest(&self, cache: Cache) {
        if let Some(pages) = self.pages.get() {
            pages.read_ahead(cache);
        }
        self.look_at_runner(|runner| prefetch_lines(runner, Runner::INTERRUPTS, cache));
    }
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    const LINE: usize = 64;
    assert!(offset_of!(Pcpu<'_>, requests) == Pcpu::ACTS.end * LINE);
    assert!(
        offset_of!(Pcpu<'_>, local) + size_of::<RefCell<LocalApic<'_, Cell<u64>>>>() <= Pcpu::INTERRUPTS.end * LINE
    );
};

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
            match next {
                Next::Go | Next::Broken => {
                    at.runner.set(Some(runner));
                    return self.now;
                }
                Next::Wait(until) => {
                    at.runner.set(Some(runner));
                    return until;
                }
                Next::Preempted => self.preempted(runner),
                Next::Asleep => self.asleep(runner),
            }
            at.phase.set(Phase::Idle);
            self.idle += 1;
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

    /// Takes a vCPU, if there is one to be run.
    fn find_work(&mut self) -> Option<&'m mut Runner> {
        let at = self.at();
        let since = self.now;
        self.root_interrupts(None);
        self.spent.exits += self.now - since;
        let (number, count) = (self.current as usize, self.pcpus.len());
        let found = if self.queued == 0 || self.taken() {
            None
        } else if self.timetable.is_some() {
            at.queue.borrow_mut().pop_front()
        } else {
            (0..count).find_map(|i| self.pcpus[(number + i) % count].queue.borrow_mut().pop_front())
        };
        let runner = found?;
        self.queued -= 1;
        self.idle -= 1;
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
        let mut slice = u64::from(self.config.time_slice) * u64::from(self.costs.time_slice_unit);
        if self.config.chaos.preempt {
            slice = 1 + self.random.next_u64() % slice.max(1);
        }
        at.slice_end.set(self.now + slice);
        at.over.set(false);
        at.phase.set(Phase::Root);
        Some(runner)
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
        let over = self.root_interrupts(Some(runner)) | at.over.take();
        if over && (self.others(at) || self.config.chaos.preempt) {
            return Next::Preempted;
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

    /// The guest on a pCPU sent an IPI.
    #[inline]
    pub(super) fn has_sent(&mut self, at: &Pcpu<'_>, slot: u32) {
        if at.stay.sent() {
            self.enter_traffic(at, slot);
        }
    }

    /// It was delivered an interrupt.
    #[inline]
    pub(super) fn was_delivered(&mut self, at: &Pcpu<'_>, slot: u32) {
        if at.stay.delivered() {
            self.enter_traffic(at, slot);
        }
    }

    /// What it sent and was delivered goes into the books.
    #[inline(never)]
    pub(super) fn enter_traffic(&mut self, at: &Pcpu<'_>, slot: u32) {
        self.account.ran(slot, at.stay.take());
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
            (ExitReason::MsrWrite, Instruction::Wrmsr { msr: crate::arch::msr::X2APIC_ICR, .. }) => costs.exit_msr_icr,
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
        at.halted_at.set(self.now);
        let poll = self.polls[runner.task.slot as usize];
        if runner.task.mp_state != MpState::Halted || poll == 0 || self.others(at) {
            return self.go(Phase::Block);
        }
        self.whereabouts[runner.task.slot as usize] = Whereabouts::Polls(self.current);
        at.polls_until.set(self.now + u64::from(poll));
        self.go(Phase::Poll)
    }

    fn poll(&mut self, runner: &mut Runner) -> Next {
        let at = self.at();
        let (since, until) = (at.halted_at.get(), at.polls_until.get());
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
        let slept = self.now.saturating_sub(self.at().halted_at.get());
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

    fn preempted(&mut self, runner: &'m mut Runner) {
        self.note_event(runner, What::Preempted, 0, self.current);
        self.account.scheduling.preemptions += 1;
        runner.task.put(self, Put::Preempted);
        self.spend(self.costs.context_switch);
        let pcpu = if self.config.chaos.migrate { self.place_for(runner.task.slot) } else { self.current };
        self.enqueue(pcpu, runner, self.costs.idle_exit);
    }

    fn asleep(&mut self, runner: &'m mut Runner) {
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
