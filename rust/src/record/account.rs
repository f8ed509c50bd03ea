//! The books of one pCPU of a machine: what it saw of interrupts, and one balance for each vCPU and vector.

use super::Fate;
use super::ledger::{Notifications, ViolationRecord};
use crate::arch::{Clause, Exit};
use crate::memory::{Cache, prefetch};
use crate::processor::{Harvest, Notice, Outcome, Posted};
use bytemuck::Zeroable;
use rustc_hash::FxHashMap;

/// Violations of one thread that are kept word for word; the rest are counted.
const KEPT_VIOLATIONS: usize = 20;
const VECTORS: usize = 256;

/// Interrupts of a machine, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// IPIs by fate, in the order of [`Fate::ALL`].
    pub fates: [u64; Fate::ALL.len()],
    /// Posted by the hypervisor, for IPIs that exited.
    pub software_posts: u64,
    /// Posted by devices.
    pub device_posts: u64,
    /// Delivered through a guest's IDT.
    pub delivered: u64,
    /// Became one with an interrupt of the same vector that was still pending.
    pub coalesced: u64,
    /// Lost with the state of a local APIC that was reset or disabled.
    pub discarded: u64,
    /// Messages of IPIs that exited which no local APIC took.
    pub dropped: u64,
    /// NMIs, SMIs, INITs, start-up IPIs and illegal vectors handed over.
    pub signalled: u64,
    /// NMIs delivered.
    pub nmis: u64,
}

/// What the scheduler did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// VM entries.
    pub entries: u64,
    /// vCPUs taken off a pCPU while they could run.
    pub preemptions: u64,
    /// vCPUs that slept.
    pub blocks: u64,
    /// vCPUs woken.
    pub wakeups: u64,
    /// vCPUs that were woken and slept again, and wakeup interrupts that woke nobody.
    pub spurious_wakeups: u64,
    /// vCPUs that went on on another pCPU.
    pub migrations: u64,
    /// APICv of a vCPU switched on or off.
    pub apicv_changes: u64,
}

/// Interrupts of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// IPIs that it sent, whatever became of them.
    pub sent: u64,
    /// Interrupts delivered to it.
    pub delivered: u64,
}

/// What one pCPU saw. Nobody else touches it.
///
/// `T` is what an engine keeps of a vCPU's interrupts of one vector while they are pending. It stands with their balance: who
/// looks at one looks at both.
#[derive(Clone, Debug, Default)]
pub struct Account<T = ()> {
    /// Interrupts.
    pub counts: Counts,
    /// Notifications.
    pub notifications: Notifications,
    /// Scheduling.
    pub scheduling: Scheduling,
    /// Exits by what they were.
    pub exits: FxHashMap<Exit, u64>,
    /// Faults injected by the hypervisor.
    pub faults: FxHashMap<Clause, u64>,
    /// Violations, the first of them.
    pub violations: Vec<ViolationRecord>,
    /// Violations beyond those.
    pub more_violations: u64,
    /// For each vector and vCPU: posted less delivered, coalesced and discarded, as this pCPU saw it, and what is kept. A guest
    /// uses a few of the vectors: what large VMs touch stands together, by vector.
    balance: Vec<(i32, T)>,
    slots: usize,
    /// For each vCPU.
    traffic: Vec<Traffic>,
}

impl<T: Zeroable> Account<T> {
    /// Empty books for `slots` vCPUs. Memory is touched where something happens.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            counts: Counts::default(),
            notifications: Notifications::default(),
            scheduling: Scheduling::default(),
            exits: FxHashMap::default(),
            faults: FxHashMap::default(),
            violations: Vec::new(),
            more_violations: 0,
            balance: bytemuck::zeroed_vec(slots * VECTORS),
            slots,
            traffic: vec![Traffic::default(); slots],
        }
    }
}

impl<T> Account<T> {
    #[inline]
    fn change(&mut self, slot: u32, vector: u8, by: i32) -> Option<&mut T> {
        let (balance, kept) = self.balance.get_mut(usize::from(vector) * self.slots + slot as usize)?;
        *balance = balance.wrapping_add(by);
        Some(kept)
    }

    /// What is kept of a vCPU's interrupts of a vector, or none if there is no such vCPU.
    pub fn kept(&mut self, slot: u32, vector: u8) -> Option<&mut T> {
        self.change(slot, vector, 0)
    }

    /// Asks for the memory of a vCPU's balance of a vector and what is kept there, for later.
    #[inline]
    pub fn ask_for(&self, slot: u32, vector: u8) {
        prefetch(&self.balance, usize::from(vector) * self.slots + slot as usize, Cache::Second);
    }

    /// The same for what it sent and was delivered.
    #[inline]
    pub fn ask_for_traffic(&self, slot: u32) {
        prefetch(&self.traffic, slot as usize, Cache::Second);
    }

    /// An IPI that a vCPU sent: its fate, and what was posted. `to` is the slot of the vCPU it was posted for.
    #[inline]
    pub fn sent(&mut self, outcome: &Outcome, to: u32) {
        match *outcome {
            Outcome::Posted(posted) => {
                self.virtualized(to, posted);
                return;
            }
            Outcome::SelfIpi { vector, coalesced } => {
                self.posted(to, vector, coalesced);
            }
            _ => {}
        }
        self.met(Fate::of(outcome).0);
    }

    /// An IPI that IPI virtualization posted. Returns what is kept of the vCPU's interrupts of that vector.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "what was posted stays in registers")]
    pub fn virtualized(&mut self, to: u32, posted: Posted) -> Option<&mut T> {
        self.met(Fate::Virtualized);
        self.noticed(posted.notice);
        self.posted(to, posted.vector, posted.coalesced)
    }

    #[inline]
    fn met(&mut self, fate: Fate) {
        self.counts.fates[usize::from(fate.code()) % Fate::ALL.len()] += 1;
    }

    /// A notification was due, or not.
    #[inline]
    pub fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Due(_) => self.notifications.sent += 1,
            Notice::Suppressed => self.notifications.suppressed += 1,
            Notice::Outstanding => self.notifications.coalesced += 1,
        }
    }

    /// An interrupt was posted. Returns what is kept of the vCPU's interrupts of that vector.
    #[inline]
    pub fn posted(&mut self, to: u32, vector: u8, coalesced: bool) -> Option<&mut T> {
        self.counts.coalesced += u64::from(coalesced);
        self.change(to, vector, i32::from(!coalesced))
    }

    /// PIR moved to VIRR, which had the vectors of `merged` already.
    pub fn harvested(&mut self, slot: u32, harvest: Harvest, merged: [u64; 4]) {
        if harvest.merged > 0 {
            self.counts.coalesced += u64::from(harvest.merged);
            self.remove(slot, merged);
        }
    }

    /// An interrupt was delivered. Returns what is kept of the vCPU's interrupts of that vector.
    #[inline]
    pub fn delivered(&mut self, slot: u32, vector: u8) -> Option<&mut T> {
        self.counts.delivered += 1;
        self.change(slot, vector, -1)
    }

    /// Pending interrupts are gone.
    pub fn discarded(&mut self, slot: u32, vectors: [u64; 4]) {
        self.counts.discarded += vectors.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        self.remove(slot, vectors);
    }

    fn remove(&mut self, slot: u32, vectors: [u64; 4]) {
        for vector in crate::processor::vectors_of(vectors) {
            self.change(slot, vector, -1);
        }
    }

    /// An exit.
    pub fn exit(&mut self, exit: Exit) {
        *self.exits.entry(exit).or_default() += 1;
    }

    /// A fault that the hypervisor injected.
    pub fn fault(&mut self, clause: Clause) {
        *self.faults.entry(clause).or_default() += 1;
    }

    /// A violation.
    #[cold]
    pub fn violation(&mut self, kind: &'static str, vcpu: u32, message: String) {
        if self.violations.len() < KEPT_VIOLATIONS {
            self.violations.push(ViolationRecord { kind, vcpu, message });
        } else {
            self.more_violations += 1;
        }
    }

    /// Adds what another pCPU saw, but not what it keeps.
    pub fn absorb<U>(&mut self, other: &Account<U>) {
        for (mine, theirs) in self.counts.fates.iter_mut().zip(other.counts.fates) {
            *mine += theirs;
        }
        let (mine, theirs) = (&mut self.counts, &other.counts);
        mine.software_posts += theirs.software_posts;
        mine.device_posts += theirs.device_posts;
        mine.delivered += theirs.delivered;
        mine.coalesced += theirs.coalesced;
        mine.discarded += theirs.discarded;
        mine.dropped += theirs.dropped;
        mine.signalled += theirs.signalled;
        mine.nmis += theirs.nmis;
        let (mine, theirs) = (&mut self.notifications, &other.notifications);
        mine.sent += theirs.sent;
        mine.suppressed += theirs.suppressed;
        mine.coalesced += theirs.coalesced;
        mine.spurious += theirs.spurious;
        let (mine, theirs) = (&mut self.scheduling, &other.scheduling);
        mine.entries += theirs.entries;
        mine.preemptions += theirs.preemptions;
        mine.blocks += theirs.blocks;
        mine.wakeups += theirs.wakeups;
        mine.spurious_wakeups += theirs.spurious_wakeups;
        mine.migrations += theirs.migrations;
        mine.apicv_changes += theirs.apicv_changes;
        for (exit, count) in &other.exits {
            *self.exits.entry(*exit).or_default() += count;
        }
        for (clause, count) in &other.faults {
            *self.faults.entry(*clause).or_default() += count;
        }
        self.violations.extend(other.violations.iter().cloned());
        self.more_violations += other.more_violations;
        for ((mine, _), (theirs, _)) in self.balance.iter_mut().zip(&other.balance) {
            if *theirs != 0 {
                *mine = mine.wrapping_add(*theirs);
            }
        }
        for (mine, theirs) in self.traffic.iter_mut().zip(&other.traffic) {
            mine.sent += theirs.sent;
            mine.delivered += theirs.delivered;
        }
    }

    /// The IPIs that all vCPUs sent on this pCPU, and the interrupts that were delivered there.
    #[must_use]
    pub fn so_far(&self) -> Traffic {
        Traffic { sent: self.counts.fates.iter().sum(), delivered: self.counts.delivered }
    }

    /// A vCPU was in its guest, and sent so many IPIs and was delivered so many interrupts.
    pub fn ran(&mut self, slot: u32, Traffic { sent, delivered }: Traffic) {
        if let Some(traffic) = self.traffic.get_mut(slot as usize) {
            traffic.sent += sent;
            traffic.delivered += delivered;
        }
    }

    /// The interrupts of `vcpus` vCPUs from slot `first` on.
    #[must_use]
    pub fn traffic(&self, first: u32, vcpus: u32) -> Vec<Traffic> {
        self.traffic.iter().skip(first as usize).take(vcpus as usize).copied().collect()
    }

    /// All that was posted: by IPI virtualization, self-IPI virtualization, software and devices.
    #[must_use]
    pub fn posts(&self) -> u64 {
        let fates = self.counts.fates;
        let of = |fate: Fate| fates[usize::from(fate.code()) % Fate::ALL.len()];
        of(Fate::Virtualized) + of(Fate::SelfIpi) + self.counts.software_posts + self.counts.device_posts
    }

    /// Takes the interrupts that are still pending for a vCPU off its balance. Returns how many they are.
    pub fn settle(&mut self, slot: u32, pir: [u64; 4], virr: [u64; 4]) -> u64 {
        let mut pending = 0;
        for words in [pir, virr] {
            pending += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            self.remove(slot, words);
        }
        pending
    }

    /// When all has been settled: slot, vector and balance where it is not 0, though it must be. By slot and vector.
    #[must_use]
    pub fn wrong(&self) -> Vec<(u32, u8, i32)> {
        // In the order in which they stand: in a large machine those of one vCPU are on 256 pages.
        let by_vector = (0u8..=255).zip(self.balance.chunks(self.slots.max(1)));
        let all =
            by_vector.flat_map(|(vector, of)| (0..).zip(of).map(move |(slot, &(balance, _))| (slot, vector, balance)));
        let mut wrong: Vec<_> = all.filter(|&(.., balance)| balance != 0).collect();
        wrong.sort_unstable();
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_is_delivered_merged_discarded_or_pending() {
        let mut one = Account::<u64>::new(2);
        let mut other = Account::<u64>::new(2);
        for vector in [0x31, 0x32, 0x33, 0x34] {
            one.posted(1, vector, false);
        }
        one.posted(1, 0x31, true);
        other.delivered(1, 0x31);
        other.discarded(1, [1 << 0x32, 0, 0, 0]);
        other.harvested(1, Harvest { merged: 1, ..Harvest::default() }, [1 << 0x33, 0, 0, 0]);
        one.absorb(&other);
        assert_eq!((one.counts.delivered, one.counts.coalesced, one.counts.discarded), (1, 2, 1));
        assert_eq!(one.wrong(), [(1, 0x34, 1)]);
        assert_eq!((one.settle(1, [1 << 0x34, 0, 0, 0], [0; 4]), one.wrong()), (1, vec![]));
        one.settle(1, [0; 4], [1 << 0x3F, 0, 0, 0]);
        one.settle(0, [1 << 0x3F, 0, 0, 0], [0; 4]);
        assert_eq!(one.wrong(), [(0, 0x3F, -1), (1, 0x3F, -1)], "pending and never posted");
    }

    #[test]
    fn each_vcpu_has_its_own_traffic() {
        let (mut one, mut other) = (Account::<()>::new(3), Account::<()>::new(3));
        let traffic = |sent, delivered| Traffic { sent, delivered };
        one.sent(&Outcome::SelfIpi { vector: 0x31, coalesced: false }, 1);
        one.sent(&Outcome::SelfIpi { vector: 0x31, coalesced: true }, 1);
        other.delivered(1, 0x31);
        assert_eq!((one.so_far(), other.so_far()), (traffic(2, 0), traffic(0, 1)));
        one.ran(1, traffic(2, 0));
        other.ran(1, traffic(0, 1));
        other.ran(2, traffic(0, 1));
        one.absorb(&other);
        assert_eq!(one.traffic(1, 2), [traffic(2, 1), traffic(0, 1)]);
    }
}
