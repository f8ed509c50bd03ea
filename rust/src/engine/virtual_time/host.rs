//! The machine under KVM's code.

use super::latency::Class;
use super::simulation::{Memory, NOBODY, Simulation};
use crate::arch::NotificationDestination;
use crate::engine::machine::What;
use crate::engine::machine::verdict::Directory;
use crate::hypervisor::policy::{Op, Policy};
use crate::hypervisor::{Event, Host, Poster, Slot, TaskState, Vm};
use crate::processor::vectors_of;
use rand_xoshiro::rand_core::Rng;
use std::cell::Cell;

impl<'m> Host<'m> for Simulation<'m, '_> {
    type W = Cell<u64>;

    fn memory(&self) -> &'m Memory {
        self.memory
    }

    fn pcpu(&self) -> u32 {
        self.current
    }

    fn here(&self) -> u32 {
        NotificationDestination::encode(self.current, self.config.host_apic).into_bits()
    }

    fn policy(&self) -> &'m Policy {
        &self.config.policy
    }

    fn vm(&self, vm: u32) -> Option<&'m Vm> {
        self.vms.get(vm as usize).map(|vm| vm.vm)
    }

    fn device_posting(&self, vm: u32) -> bool {
        self.vms.get(vm as usize).is_some_and(|vm| vm.guest.device)
    }

    fn naive_apic_ids(&self) -> bool {
        self.config.naive_apic_ids
    }

    fn slot(&self, slot: u32) -> Option<Slot<'m, Cell<u64>>> {
        Directory::slot(self, slot)
    }

    fn slots_of(&self, vm: u32) -> std::ops::Range<u32> {
        self.vms.get(vm as usize).map_or(0..0, |vm| vm.first_slot..vm.first_slot + vm.guest.capacity())
    }

    fn send(&mut self, pcpu: u32, vector: u8) {
        self.spend(self.costs.host_ipi);
        self.send_interrupt(pcpu, vector);
    }

    fn list_add(&mut self, slot: u32) {
        if let Some(pcpu) = self.pcpus.get(self.current as usize) {
            pcpu.wakeup_list.borrow_mut().push(slot);
        }
    }

    fn list_del(&mut self, pcpu: u32, slot: u32) {
        if let Some(pcpu) = self.pcpus.get(pcpu as usize) {
            pcpu.wakeup_list.borrow_mut().retain(|&listed| listed != slot);
        }
    }

    fn next_listed(&mut self) -> Option<u32> {
        let at = self.listing.take().unwrap_or(0);
        let slot = self.pcpus.get(self.current as usize)?.wakeup_list.borrow().get(at).copied()?;
        self.listing = Some(at + 1);
        Some(slot)
    }

    fn wake(&mut self, slot: u32) {
        self.seen_by_poller(slot);
        let Some(known) = Directory::slot(self, slot) else { return };
        if known.words.set_task(TaskState::Running) == TaskState::Running {
            return;
        }
        let Some(runner) = self.beds.get_mut(slot as usize).and_then(Option::take) else { return };
        self.account.scheduling.wakeups += 1;
        runner.progress.woken = true;
        self.spend(self.costs.wake);
        self.log_event(self.now, slot, What::Runnable, 0, 0);
        let pcpu = self.place_for(slot);
        self.enqueue(pcpu, runner, self.costs.idle_exit);
    }

    fn note(&mut self, event: Event) {
        let account = &mut self.account;
        match event {
            Event::Posted { by, to, vector, coalesced } => {
                let (class, what) = match by {
                    // A timer that ends a halt: see `timetable`.
                    Poster::Software if self.current == NOBODY => {
                        account.counts.device_posts += 1;
                        (Class::Device, What::Device)
                    }
                    Poster::Software => {
                        account.counts.software_posts += 1;
                        (Class::Exited, What::Routed)
                    }
                    Poster::Device => {
                        account.counts.device_posts += 1;
                        (Class::Device, What::Device)
                    }
                };
                let rang_at = self.timetable.as_ref().map_or(self.now, |timetable| timetable.rang_at);
                let written_at = self.pcpus.get(self.current as usize).map_or(rang_at, |pcpu| pcpu.written_at.get());
                self.log_event(written_at, to, what, vector, to);
                self.posted_for(to, vector, coalesced, (class, written_at));
            }
            Event::Harvested { slot, harvest, merged } => self.harvested(slot, harvest, merged),
            Event::Discarded { slot, vectors } => {
                account.discarded(slot, vectors);
                for vector in vectors_of(vectors) {
                    if let Some(sent) = account.kept(slot, vector) {
                        self.stopwatch.next((slot, vector), sent);
                    }
                }
            }
            Event::SpuriousNotification => account.notifications.spurious += 1,
            Event::SpuriousWakeup => account.scheduling.spurious_wakeups += 1,
            Event::Dropped => account.counts.dropped += 1,
            Event::Signalled => account.counts.signalled += 1,
            Event::Fault(clause) => account.fault(clause),
            Event::ApicvChanged { .. } => account.scheduling.apicv_changes += 1,
        }
    }

    #[inline]
    fn stepping(&mut self, op: &Op) {
        self.spend(match op {
            Op::If { .. } | Op::Goto(_) => self.costs.policy_look,
            Op::Act(_) | Op::NextListed { .. } => self.costs.policy_locked,
        });
    }
}

impl Simulation<'_, '_> {
    /// Where a vCPU that can run shall go on.
    pub(super) fn place_for(&mut self, slot: u32) -> u32 {
        if self.config.chaos.migrate {
            return (self.random.next_u64() % self.pcpus.len().max(1) as u64) as u32;
        }
        self.free_near(Directory::slot(self, slot).map_or(0, |slot| slot.words.pcpu()))
    }
}
