//! The run's clock: it keeps the timetable, adds vCPUs, and finds out when nothing comes of a run any longer.

use super::calendar::NEVER;
use super::costs::Costs;
use super::simulation::{End, Simulation};
use crate::arch::ExitReason;
use crate::engine::machine::Runner;
use crate::engine::machine::verdict::{Lost, asleep_with_interrupt};
use crate::hypervisor::policy::HostVector;
use crate::processor::local_apic;
use rustc_hash::{FxHashMap, FxHasher};
use std::hash::Hasher;

/// Cycles between two looks, or more.
pub(super) const TICK: u64 = 5_000_000;
/// So many times all acts are longer than any way of an interrupt: who sleeps with one in two looks is not on anybody's way.
const WAY: u64 = 64;
/// After so many HLT exits without an IPI, a delivery or an end of a program, vCPUs halt and wake for ever.
const RESTLESS: u64 = 100_000;

/// In so many looks in a row all were seen waiting, and nothing came of it in between: half a minute of some processors.
const WAITS: u32 = 20_000;

/// At so many looks in a row no program had gone on: with what is sent then none does.
const STILL: u32 = 4;

/// What it remembers.
#[derive(Debug)]
pub(super) struct Clock {
    /// Its next look, and the cycles between two of them.
    next_tick: u64,
    tick: u64,
    /// vCPUs that it added.
    added: u32,
    /// vCPUs that were seen asleep with an interrupt: which sleep.
    suspects: FxHashMap<u32, usize>,
    /// What was sent, delivered and unfinished when one of these last changed, and the HLT exits then.
    progress: ([u64; 3], u64),
    /// Looks in a row in which all waited.
    waits: u32,
    programs: Programs,
}

/// How far programs were at the last look after the run was told to end.
#[derive(Debug, Default)]
struct Programs {
    at: u64,
    delivered: u64,
    /// Looks in a row at which they were so.
    looks: u32,
}

impl Clock {
    pub(super) fn new(costs: &Costs) -> Self {
        let tick = TICK.max(WAY * costs.acts());
        Self {
            next_tick: tick,
            tick,
            added: 0,
            suspects: FxHashMap::default(),
            progress: ([0; 3], 0),
            waits: 0,
            programs: Programs::default(),
        }
    }
}

/// How far a vCPU's program is, as a number; 0 at its end.
fn program_of(runner: &Runner) -> u64 {
    if runner.progress.finished {
        return 0;
    }
    let mut hasher = FxHasher::default();
    hasher.write_u32(runner.task.slot);
    runner.cursor.hash_program(runner.progress.computing, &mut hasher);
    hasher.finish()
}

impl Simulation<'_, '_> {
    /// The actor that is the clock.
    pub(super) fn clock_actor(&self) -> u32 {
        (self.pcpus.len() + self.devices.len()) as u32
    }

    pub(super) fn set_clock(&mut self) {
        let time = self.clock.next_tick.min(self.next_of_timetable());
        self.calendar.set(self.clock_actor(), time);
    }

    /// What is due at the time that it is. The run is told to end at `time_limit`. Returns why it ends, if it does.
    pub(super) fn clock_strikes(&mut self, time_limit: u64) -> Option<End> {
        self.keep_timetable();
        if self.now >= self.clock.next_tick {
            if self.calendar_has_only_the_clock() {
                if !self.stopping && time_limit < NEVER {
                    // All sleep until then.
                    self.clock.next_tick = time_limit;
                    self.set_clock();
                    return None;
                }
                return Some(End::Complete);
            }
            if let Some(lost) = self.tick() {
                return Some(End::Lost(lost));
            }
            if self.is_restless() {
                return Some(End::Restless);
            }
            if self.stopping && self.only_handlers_run() {
                self.finished_at = self.now;
                return Some(End::OnlyHandlers);
            }
            self.clock.next_tick = self.now + self.clock.tick;
        }
        self.set_clock();
        None
    }

    /// Nobody but the clock would ever act, and no interrupt is on its way.
    fn calendar_has_only_the_clock(&self) -> bool {
        self.next_of_timetable() == NEVER
            && self.calendar.arrival_time() == NEVER
            && (0..self.clock_actor()).all(|actor| self.calendar.time(actor) == NEVER)
    }

    /// Adds a vCPU to the first VM, where there are some to be added; finds vCPUs that sleep for ever.
    fn tick(&mut self) -> Option<Lost> {
        if self.clock.added < self.config.chaos.hot_add && !self.stopping {
            self.hot_add();
        }
        for slot in 0..self.beds.len() as u32 {
            let found = self.beds[slot as usize].as_deref().and_then(|runner| asleep_with_interrupt(self, runner));
            let Some(lost) = found.filter(|lost| !self.on_its_way(lost)) else {
                if !self.clock.suspects.is_empty() {
                    self.clock.suspects.remove(&slot);
                }
                continue;
            };
            if self.clock.suspects.insert(slot, lost.sleep) == Some(lost.sleep) {
                return Some(lost);
            }
        }
        None
    }

    /// Whether vCPUs have long done nothing but halt and wake, or wait and be preempted: their policy takes an interrupt for
    /// pending that never comes, or leaves one where it is.
    fn is_restless(&mut self) -> bool {
        let counts = self.account.counts;
        let progress = [counts.fates.iter().sum(), counts.delivered, self.unfinished as u64];
        let halts = self.account.exits.iter().filter(|(exit, _)| exit.reason == ExitReason::Hlt).map(|(_, n)| n).sum();
        if progress != self.clock.progress.0 {
            self.clock.progress = (progress, halts);
            self.clock.waits = 0;
        }
        let waits = self.timetable.is_none() && self.devices_are_done() && self.all_wait();
        self.clock.waits = if waits { self.clock.waits + 1 } else { 0 };
        halts - self.clock.progress.1 > RESTLESS || self.clock.waits > WAITS
    }

    /// Whether no program has gone on for some looks, though somebody acts: handlers send each other interrupts for ever.
    fn only_handlers_run(&mut self) -> bool {
        // A sum: wherever each vCPU is, and whether it sleeps between two interrupts.
        let mut at: u64 = self.beds.iter().flatten().map(|runner| program_of(runner)).fold(0, u64::wrapping_add);
        for pcpu in self.pcpus {
            let queued = pcpu.queue.borrow().iter().map(|runner| program_of(runner)).fold(0, u64::wrapping_add);
            at = at.wrapping_add(queued).wrapping_add(pcpu.look_at_runner(program_of).unwrap_or(0));
        }
        let delivered = self.account.so_far().delivered;
        let before = &self.clock.programs;
        // Where nothing is delivered it is no handler that keeps the run going.
        let looks = if at == before.at && delivered != before.delivered { before.looks + 1 } else { 0 };
        self.clock.programs = Programs { at, delivered, looks };
        looks >= STILL
    }

    fn devices_are_done(&self) -> bool {
        (self.pcpus.len() as u32..self.clock_actor()).all(|device| self.calendar.time(device) == NEVER)
    }

    /// Each vCPU that is awake is at an instruction that waits for another; or, where the run waits for a program's end,
    /// computes until then.
    fn all_wait(&self) -> bool {
        let end_is_awaited = self.config.ends() && self.unfinished > 0;
        let waits = |runner: &Runner| {
            self.vms.get(runner.task.vm as usize).map(|vm| &vm.guest.code).is_some_and(|code| {
                runner.progress.computing == 0 && runner.cursor.waits(code)
                    || end_is_awaited && runner.cursor.only_computes(code)
            })
        };
        self.pcpus
            .iter()
            .all(|at| at.look_at_runner(waits).unwrap_or(true) && at.queue.borrow().iter().all(|runner| waits(runner)))
    }

    /// A wakeup interrupt will look at it.
    fn on_its_way(&self, lost: &Lost) -> bool {
        let vector = HostVector::Wakeup.vector();
        lost.listed_on.is_some_and(|pcpu| {
            self.calendar.under_way(pcpu, vector)
                || self.pcpus.get(pcpu as usize).is_some_and(|at| local_apic::requested(at.requests, vector))
        })
    }

    fn hot_add(&mut self) {
        let Some(vm) = self.vms.first() else { return };
        let number = vm.vcpus.get();
        let Ok(vcpu) = vm.vm.add_vcpu(self.memory, number, number, vm.guest.config.mode) else { return };
        self.clock.added += 1;
        self.start(0, vcpu, number % self.config.pcpus.max(1));
        vm.vcpus.set(number + 1);
    }
}
