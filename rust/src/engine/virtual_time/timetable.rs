//! When the vCPUs of a recording do not run: their halts end, and the host takes their pCPUs away.

use super::calendar::NEVER;
use super::pcpu::Phase;
use super::simulation::{Simulation, Whereabouts};
use crate::arch::Clause;
use crate::engine::machine::Runner;
use crate::hypervisor::{LOCAL_TIMER_VECTOR, MpState, software_post};
use crate::record::Fate;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What became of the interrupt commands that each vCPU sent, in order.
pub type Fates = Vec<Vec<(Fate, Option<Clause>)>>;

/// The vector of a guest's timer: Linux's `LOCAL_TIMER_VECTOR`, which is the host's too.
const GUEST_TIMER: u8 = LOCAL_TIMER_VECTOR;

/// A vCPU has no pCPU from one cycle to another, though it could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Whose pCPU is taken, by slot.
    pub slot: u32,
    /// From when.
    pub from: u64,
    /// Until when.
    pub until: u64,
}

#[derive(Debug)]
pub(super) struct Timetable {
    /// The earliest last.
    preemptions: Vec<Preemption>,
    /// When halts end by themselves: cycle and slot.
    alarms: BinaryHeap<Reverse<(u64, u32)>>,
    /// The alarm of the halt that each vCPU is in.
    alarm: Vec<u64>,
    /// When the alarm rang that is under way.
    pub(super) rang_at: u64,
    /// Until when the host has the pCPU of each.
    taken_until: Vec<u64>,
    fates: Fates,
}

impl Timetable {
    pub(super) fn new(slots: usize, mut preemptions: Vec<Preemption>) -> Self {
        preemptions.sort_by_key(|preemption| Reverse((preemption.from, preemption.slot)));
        Self {
            preemptions,
            alarms: BinaryHeap::new(),
            alarm: vec![NEVER; slots],
            rang_at: 0,
            taken_until: vec![0; slots],
            fates: vec![Vec::new(); slots],
        }
    }

    /// An interrupt command was sent.
    pub(super) fn sent(&mut self, slot: u32, fate: (Fate, Option<Clause>)) {
        if let Some(fates) = self.fates.get_mut(slot as usize) {
            fates.push(fate);
        }
    }

    /// A vCPU is in its guest: no halt goes on.
    pub(super) fn entered(&mut self, slot: u32) {
        if let Some(alarm) = self.alarm.get_mut(slot as usize) {
            *alarm = NEVER;
        }
    }

    pub(super) fn into_fates(self) -> Fates {
        self.fates
    }

    fn next(&self) -> u64 {
        let alarm = self.alarms.peek().map_or(NEVER, |Reverse((time, _))| *time);
        self.preemptions.last().map_or(NEVER, |preemption| preemption.from).min(alarm)
    }
}

impl Simulation<'_, '_> {
    /// When the timetable has something next.
    pub(super) fn next_of_timetable(&self) -> u64 {
        self.timetable.as_ref().map_or(NEVER, Timetable::next)
    }

    /// A halt that begins now ends at `until` at the latest.
    pub(super) fn set_alarm(&mut self, slot: u32, until: u64) {
        let Some(timetable) = &mut self.timetable else { return };
        timetable.alarms.push(Reverse((until, slot)));
        if let Some(alarm) = timetable.alarm.get_mut(slot as usize) {
            *alarm = until;
        }
        self.act_by(self.clock_actor(), until);
    }

    /// Does what is due: all at once, for it is many pCPUs' and the clock is none.
    pub(super) fn keep_timetable(&mut self) {
        let due = self.now;
        while let Some(timetable) = &mut self.timetable {
            (self.now, timetable.rang_at) = (due, due);
            if let Some(&Reverse((time, slot))) = timetable.alarms.peek().filter(|alarm| alarm.0.0 <= self.now) {
                timetable.alarms.pop();
                if timetable.alarm.get(slot as usize) == Some(&time) && !self.waits_for_start_up(slot) {
                    // `apic_timer_expired`: the host's timer posts the guest's interrupt.
                    software_post(self, slot, GUEST_TIMER, None);
                }
            } else if let Some(preemption) = timetable.preemptions.pop_if(|preemption| preemption.from <= self.now) {
                self.take_pcpu(preemption);
            } else {
                return;
            }
        }
    }

    /// A vCPU waits for a start-up IPI: no timer ends that.
    fn waits_for_start_up(&self, slot: u32) -> bool {
        let waits = |runner: &Runner| runner.task.mp_state == MpState::InitReceived;
        match self.whereabouts.get(slot as usize) {
            Some(Whereabouts::Asleep) => self.beds.get(slot as usize).and_then(Option::as_deref).is_some_and(waits),
            Some(&Whereabouts::OnPcpu(pcpu)) => {
                self.pcpus.get(pcpu as usize).and_then(|at| at.look_at_runner(waits)).unwrap_or(false)
            }
            _ => false,
        }
    }

    /// The host runs something else on the pCPU of a vCPU.
    fn take_pcpu(&mut self, Preemption { slot, until, .. }: Preemption) {
        let Some(pcpu) = self.pcpus.get(slot as usize) else { return };
        if let Some(taken) = self.timetable.as_mut().and_then(|it| it.taken_until.get_mut(slot as usize)) {
            *taken = until.max(*taken);
        }
        let phase = pcpu.phase.get();
        if phase != Phase::Idle {
            self.request(slot, LOCAL_TIMER_VECTOR);
            if matches!(phase, Phase::Guest | Phase::Poll) {
                self.act_by(slot, self.now);
            }
        }
    }

    /// Until when somebody of the host's has the pCPU that acts.
    #[inline]
    fn taken_until(&self) -> u64 {
        self.timetable.as_ref().and_then(|it| it.taken_until.get(self.current as usize)).copied().unwrap_or(0)
    }

    /// The pCPU that acts is the host's for now.
    #[inline]
    pub(super) fn taken(&self) -> bool {
        self.taken_until() > self.now
    }

    /// When the pCPU that acts, and has nobody to run, looks again by itself.
    pub(super) fn free_again(&self) -> u64 {
        if self.at().queue.borrow().is_empty() || !self.taken() { NEVER } else { self.taken_until() }
    }
}
