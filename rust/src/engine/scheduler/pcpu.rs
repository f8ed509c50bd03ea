//! A pCPU's thread: it schedules vCPUs, and takes interrupts in root mode.

use super::guest::Left;
use super::shared::Shared;
use crate::arch::Exit;
use crate::engine::machine::verdict::Directory;
use crate::engine::machine::{Runner, What};
use crate::hypervisor::policy::Policy;
use crate::hypervisor::{
    Entry, Event, Handled, Host, Inhibit, Inhibits, MpState, Poster, Put, Slot, Vm, clear_inhibit, host_interrupt,
    set_inhibit,
};
use crate::memory::PhysicalMemory;
use crate::processor::LocalApic;
use crate::record::{Account, Traffic};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};

/// One of so many entries toggles APICv, where chaos does.
const TOGGLE: u64 = 2000;
/// Looks for work before a thread parks.
const SPINS: u32 = 50;

pub(super) struct Pcpu<'s, 'm> {
    pub(super) shared: &'s Shared<'m>,
    pub(super) number: u32,
    pub(super) local: LocalApic<'m, AtomicU64>,
    pub(super) account: Account,
    pub(super) random: Xoshiro256PlusPlus,
    /// Everything that it did; published now and then.
    acts: u64,
    /// What its guests did but spin.
    pub(super) advances: u64,
    /// The wakeup list that is walked, and how far.
    listing: Option<(MutexGuard<'s, Vec<u32>>, usize)>,
    /// vCPUs that ended with the run.
    ended: Vec<Runner>,
}

/// Why a vCPU left its pCPU.
enum Leave {
    Preempted,
    Asleep,
    Stopped,
}

impl<'m> Host<'m> for Pcpu<'_, 'm> {
    type W = AtomicU64;

    fn memory(&self) -> &'m PhysicalMemory<AtomicU64> {
        self.shared.memory
    }

    fn pcpu(&self) -> u32 {
        self.number
    }

    fn here(&self) -> u32 {
        crate::arch::NotificationDestination::encode(self.number, self.shared.config.host_apic).into_bits()
    }

    fn policy(&self) -> &'m Policy {
        self.shared.policy
    }

    fn vm(&self, vm: u32) -> Option<&'m Vm> {
        self.shared.vm(vm)
    }

    fn device_posting(&self, vm: u32) -> bool {
        self.shared.vms.get(vm as usize).is_some_and(|vm| vm.guest.device)
    }

    fn naive_apic_ids(&self) -> bool {
        self.shared.config.naive_apic_ids
    }

    fn slot(&self, slot: u32) -> Option<Slot<'m, AtomicU64>> {
        self.shared.slot(slot)
    }

    fn slots_of(&self, vm: u32) -> std::ops::Range<u32> {
        self.shared.vms.get(vm as usize).map_or(0..0, |vm| vm.first_slot..vm.first_slot + vm.guest.capacity())
    }

    fn send(&mut self, pcpu: u32, vector: u8) {
        self.shared.send(pcpu, vector);
    }

    fn list_add(&mut self, slot: u32) {
        if let Some(pcpu) = self.shared.pcpus.get(self.number as usize) {
            pcpu.list().push(slot);
        }
    }

    fn list_del(&mut self, pcpu: u32, slot: u32) {
        if let Some(pcpu) = self.shared.pcpus.get(pcpu as usize) {
            pcpu.list().retain(|&listed| listed != slot);
        }
    }

    fn next_listed(&mut self) -> Option<u32> {
        let (list, at) = match self.listing.take() {
            Some(listing) => listing,
            None => (self.shared.pcpus.get(self.number as usize)?.list(), 0),
        };
        // After the last one the lock goes with the list.
        let slot = list.get(at).copied()?;
        self.listing = Some((list, at + 1));
        Some(slot)
    }

    fn wake(&mut self, slot: u32) {
        if let Some(mut runner) = self.shared.get_up(slot) {
            self.account.scheduling.wakeups += 1;
            runner.progress.woken = true;
            let pcpu = self.place_for(&runner);
            self.shared.enqueue(pcpu, runner);
        }
    }

    fn note(&mut self, event: Event) {
        let account = &mut self.account;
        match event {
            Event::Posted { by, to, vector, coalesced } => {
                match by {
                    Poster::Software => account.counts.software_posts += 1,
                    Poster::Device => account.counts.device_posts += 1,
                }
                account.posted(to, vector, coalesced);
            }
            Event::Harvested { slot, harvest, merged } => account.harvested(slot, harvest, merged),
            Event::Discarded { slot, vectors } => account.discarded(slot, vectors),
            Event::SpuriousNotification => account.notifications.spurious += 1,
            Event::SpuriousWakeup => account.scheduling.spurious_wakeups += 1,
            Event::Dropped => account.counts.dropped += 1,
            Event::Signalled => account.counts.signalled += 1,
            Event::Fault(clause) => account.fault(clause),
            Event::ApicvChanged { .. } => account.scheduling.apicv_changes += 1,
        }
    }
}

impl<'s, 'm> Pcpu<'s, 'm> {
    pub(super) fn new(shared: &'s Shared<'m>, number: u32) -> Option<Self> {
        let requests = shared.pcpus.get(number as usize)?.requests;
        Some(Self {
            shared,
            number,
            local: LocalApic::new(requests),
            account: Account::new(shared.slots.len()),
            random: Xoshiro256PlusPlus::seed_from_u64(shared.config.seed ^ (u64::from(number) + 1) << 32),
            acts: 0,
            advances: 0,
            listing: None,
            ended: Vec::new(),
        })
    }

    /// Runs to the end of the run; gives its books, and the vCPUs that it had.
    pub(super) fn run(mut self) -> (Account, Vec<Runner>) {
        if let Some(pcpu) = self.shared.pcpus.get(self.number as usize) {
            pcpu.register();
        }
        while !self.shared.stopped() {
            self.root_interrupts(None);
            match self.shared.next_runner(self.number) {
                Some(runner) => self.schedule(runner),
                None => self.idle(),
            }
            self.publish_progress();
        }
        (self.account, self.ended)
    }

    pub(super) fn publish_progress(&self) {
        if let Some(pcpu) = self.shared.pcpus.get(self.number as usize) {
            pcpu.acts.store(self.acts + self.advances, Ordering::Release);
            pcpu.advances.store(self.advances, Ordering::Release);
        }
    }

    /// One in `n`.
    pub(super) fn chance(&mut self, n: u64) -> bool {
        self.random.next_u64().is_multiple_of(n)
    }

    fn idle(&mut self) {
        let Some(pcpu) = self.shared.pcpus.get(self.number as usize) else { return };
        let has_work =
            |this: &Self| this.local.deliverable().is_some() || this.shared.work_anywhere() || this.shared.stopped();
        for _ in 0..SPINS {
            if has_work(self) {
                return;
            }
            std::hint::spin_loop();
        }
        pcpu.set_idle(true);
        if !has_work(self) {
            std::thread::park();
        }
        pcpu.set_idle(false);
        // Whoever looks for a standstill must see that there was work.
        self.acts += 1;
    }

    /// Interrupts that arrive in root mode go to the host's handlers. Returns whether the time slice is over.
    fn root_interrupts(&mut self, mut runner: Option<&mut Runner>) -> bool {
        let mut over = false;
        while let Some(vector) = self.local.acknowledge() {
            self.local.eoi();
            self.acts += 1;
            let task = runner.as_mut().map(|runner| &mut runner.task);
            over |= host_interrupt(self, vector, task) == Handled::Reschedule;
        }
        over
    }

    /// Where a vCPU that can run shall go on.
    fn place_for(&mut self, runner: &Runner) -> u32 {
        if self.shared.chaos().migrate {
            return (self.random.next_u64() % self.shared.pcpus.len().max(1) as u64) as u32;
        }
        self.shared.slot(runner.task.slot).map_or(self.number, |slot| slot.words.pcpu())
    }

    fn schedule(&mut self, mut runner: Box<Runner>) {
        self.acts += 1;
        if let Some(slot) = self.shared.slot(runner.task.slot)
            && slot.words.pcpu() != self.number
            && slot.words.pcpu() != u32::MAX
        {
            self.account.scheduling.migrations += 1;
        }
        runner.progress.trail.note(What::Loaded, 0, self.number);
        runner.task.load(self);
        match self.vcpu_run(&mut runner) {
            Leave::Preempted => {
                runner.progress.trail.note(What::Preempted, 0, self.number);
                self.account.scheduling.preemptions += 1;
                runner.task.put(self, Put::Preempted);
                let pcpu = if self.shared.chaos().migrate { self.place_for(&runner) } else { self.number };
                self.shared.enqueue(pcpu, runner);
            }
            Leave::Asleep => {
                runner.progress.trail.note(What::Slept, 0, self.number);
                self.account.scheduling.blocks += 1;
                runner.task.put(self, Put::Blocking);
                if let Some(runner) = self.shared.lie_down(runner) {
                    // Woken in between.
                    self.shared.enqueue(self.number, runner);
                }
            }
            Leave::Stopped => self.ended.push(*runner),
        }
    }

    /// `vcpu_run`: in and out of the guest, until the vCPU leaves the pCPU.
    fn vcpu_run(&mut self, runner: &mut Runner) -> Leave {
        let mut over = false;
        loop {
            if self.shared.stopped() {
                return Leave::Stopped;
            }
            over |= self.root_interrupts(Some(runner));
            let others = self.shared.pcpus.get(self.number as usize).is_some_and(|pcpu| pcpu.queued() > 0);
            if over && (others || self.shared.chaos().preempt) {
                return Leave::Preempted;
            }
            over = false;
            if runner.task.blocking || runner.task.mp_state != MpState::Runnable {
                if let Some(leave) = self.block(runner) {
                    return leave;
                }
                continue;
            }
            match runner.task.prepare_entry(self) {
                Entry::Enter { inject, nmi } => over = self.enter(runner, inject, nmi),
                Entry::Again | Entry::Block => {}
                Entry::Restart => self.restart(runner),
                Entry::Gone => return Leave::Stopped,
                Entry::Stopped => {
                    self.broken(runner.task.slot, "the policy has given it up (stop)");
                    return Leave::Stopped;
                }
            }
        }
    }

    /// `kvm_vcpu_block`. None: the vCPU can go on, or must look again.
    fn block(&mut self, runner: &mut Runner) -> Option<Leave> {
        self.publish_progress();
        if !runner.task.blocking && !runner.task.begin_block(self) {
            runner.task.end_block(self);
            // What it waits for besides interrupts is served on the way into the guest.
            if runner.task.mp_state == MpState::InitReceived
                && runner.task.has_events(self)
                && runner.task.prepare_entry(self) == Entry::Restart
            {
                self.restart(runner);
            }
            return None;
        }
        if runner.task.check_block(self) {
            if std::mem::take(&mut runner.progress.woken) {
                self.account.scheduling.spurious_wakeups += 1;
            }
            let preempt = self.shared.chaos().preempt && self.chance(8);
            return Some(if preempt { Leave::Preempted } else { Leave::Asleep });
        }
        runner.progress.woken = false;
        runner.progress.trail.note(What::Woke, 0, 0);
        runner.task.end_block(self);
        None
    }

    fn restart(&mut self, runner: &mut Runner) {
        if let Some(vm) = self.shared.vms.get(runner.task.vm as usize) {
            runner.cursor.restart(&vm.guest.code, runner.task.vcpu.vcpu());
            runner.progress.computing = 0;
            runner.task.vcpu.vp_mut().interrupt_flag = true;
        }
    }

    /// VM entry, the guest, VM exit, and what KVM does about it. Returns whether the time slice is over.
    fn enter(&mut self, runner: &mut Runner, inject: Option<u8>, nmi: bool) -> bool {
        self.account.scheduling.entries += 1;
        if self.shared.chaos().toggle_apicv && self.chance(TOGGLE) {
            self.toggle_apicv(runner.task.vm);
        }
        let before = self.account.so_far();
        let left = self.guest(runner, inject, nmi);
        let Traffic { sent, delivered } = self.account.so_far();
        let traffic = Traffic { sent: sent - before.sent, delivered: delivered - before.delivered };
        self.account.ran(runner.task.slot, traffic);
        runner.task.after_exit(self);
        match left {
            Left::Exit { exit, acknowledged, instruction } => {
                self.exited(exit);
                let handled = runner.task.handle_exit(self, exit, acknowledged, instruction);
                if acknowledged.is_some() {
                    // The host's handler ends with its EOI.
                    self.local.eoi();
                }
                if let Handled::Broken(failure) = handled {
                    self.broken(runner.task.slot, &failure.to_string());
                }
                handled == Handled::Reschedule
            }
            Left::Broken => true,
        }
    }

    #[cold]
    fn exited(&mut self, exit: Exit) {
        self.account.exit(exit);
    }

    #[cold]
    pub(super) fn broken(&mut self, slot: u32, why: &str) {
        self.account.violation("vm-entry", slot, format!("{} cannot go on: {why}", self.shared.name(slot)));
        self.shared.stop();
    }

    fn toggle_apicv(&mut self, vm: u32) {
        let activated =
            self.shared.vm(vm).and_then(|vm| vm.inhibits(self.shared.memory)).is_some_and(Inhibits::activated);
        if activated {
            set_inhibit(self, vm, Inhibit::HyperV);
        } else {
            clear_inhibit(self, vm, Inhibit::HyperV);
        }
    }
}
