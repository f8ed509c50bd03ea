//! A machine in virtual time: what it is made of, and whose turn it is.

use super::bitmap::Bitmap;
use super::calendar::{Arrival, Calendar, NEVER};
use super::clock::{Clock, TICK};
use super::costs::Costs;
use super::device::DeviceState;
use super::latency::{Class, Sent, Stopwatch};
use super::log::{Log, Logged};
use super::pcpu::{Pcpu, Phase};
use super::reading::Aims;
use super::run::Spent;
use super::scheduler::OffPcpu;
use super::spinners::Spinners;
use super::timetable::Timetable;
use crate::engine::machine::setup::{boot, finite};
use crate::engine::machine::verdict::{Directory, Lost};
use crate::engine::machine::{Guest, MachineConfig, MachineError, Runner, What};
use crate::guest::GuestMemory;
use crate::hypervisor::{Slot, Vcpu, Vm};
use crate::memory::PhysicalMemory;
use crate::processor::{Harvest, vectors_of};
use crate::record::Account;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::cell::Cell;

pub(super) type Memory = PhysicalMemory<Cell<u64>>;

/// Turns between two questions whether to go on.
const TURNS: u32 = 1 << 14;
/// So many pCPUs and their guests fit into a processor's caches: with more, memory is asked for before it is used.
const FITS: usize = 256;
/// No actor.
pub(super) const NOBODY: u32 = u32::MAX;

/// A VM.
pub(super) struct VmState<'m> {
    pub(super) vm: &'m Vm,
    pub(super) guest: &'m Guest,
    pub(super) memory: GuestMemory<'m, Cell<u64>>,
    pub(super) first_slot: u32,
    /// vCPUs that it has now.
    pub(super) vcpus: Cell<u32>,
    /// vCPU k has APIC ID k.
    pub(super) plain_ids: bool,
    /// And is reached by entry k of the PID-pointer table, unless a guest has rewritten its ID.
    pub(super) plain_table: bool,
    /// pCPUs whose guests spin.
    pub(super) spinners: Spinners,
}

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    OnPcpu(u32),
    /// The same, and its pCPU polls.
    Polls(u32),
    Queued,
    Asleep,
}

pub(super) struct Simulation<'m, 'o> {
    pub(super) memory: &'m Memory,
    pub(super) config: &'m MachineConfig,
    pub(super) costs: Costs,
    pub(super) vms: &'o [VmState<'m>],
    pub(super) slots: Vec<Option<Slot<'m, Cell<u64>>>>,
    pub(super) pcpus: &'o [Pcpu<'m>],
    pub(super) devices: Vec<DeviceState>,
    /// Where vCPUs that are made next go.
    pub(super) unused: std::slice::IterMut<'m, Option<Runner>>,
    /// vCPUs that sleep.
    pub(super) beds: Vec<Option<&'m mut Runner>>,
    pub(super) whereabouts: Vec<Whereabouts>,
    /// Of each vCPU.
    pub(super) off_pcpu: Vec<OffPcpu>,
    /// pCPUs that idle and have nobody in their queue.
    free: Bitmap,
    /// vCPUs in queues.
    pub(super) queued: usize,
    /// pCPUs that have more vCPUs than the one that they run, or are about to.
    pub(super) crowded: Bitmap,
    /// pCPUs may be taken from a vCPU though none is in a queue.
    pub(super) contended: bool,
    pub(super) calendar: Calendar,
    pub(super) account: Account<Sent>,
    pub(super) stopwatch: Stopwatch,
    pub(super) log: Log,
    pub(super) spent: Spent,
    /// When vCPUs of a recording do not run; each has a pCPU of its own then.
    pub(super) timetable: Option<Timetable>,
    pub(super) random: Xoshiro256PlusPlus,
    /// The pCPU that acts.
    pub(super) current: u32,
    /// Its clock.
    pub(super) now: u64,
    /// Its act may begin before this.
    pub(super) limit: u64,
    /// The run is not told to end before this, where guests may be alone.
    pub(super) lasts_until: u64,
    /// Guests may do acts ahead, see `ahead`.
    pub(super) may_be_alone: bool,
    pub(super) aims: Aims,
    /// The wakeup list that is walked, and how far.
    pub(super) listing: Option<usize>,
    pub(super) unfinished: usize,
    pub(super) finished_at: u64,
    pub(super) stopping: bool,
    /// Because its time is over, and not because all programs have ended that do so by themselves.
    pub(super) time_is_over: bool,
    /// It goes on no longer; seen when the next turn is due.
    broken: bool,
    /// Turns until the next question whether to go on.
    turns: u32,
    pub(super) clock: Clock,
}

/// Why a run ended.
pub(super) enum End {
    Complete,
    Interrupted,
    Lost(Lost),
    /// vCPUs halt and go on at once, or wait and are preempted, and nothing comes of it.
    Restless,
    /// It was told to end, and nothing goes on but handlers that send each other interrupts.
    OnlyHandlers,
    Broken,
}

impl<'m> Directory<'m> for Simulation<'m, '_> {
    type W = Cell<u64>;

    fn memory(&self) -> &'m Memory {
        self.memory
    }

    fn slot(&self, slot: u32) -> Option<Slot<'m, Cell<u64>>> {
        self.slots.get(slot as usize).copied().flatten()
    }

    fn vms(&self) -> usize {
        self.vms.len()
    }
}

impl<'m, 'o> Simulation<'m, 'o> {
    pub(super) fn new(
        memory: &'m Memory,
        config: &'m MachineConfig,
        pcpus: &'o [Pcpu<'m>],
        vms: &'o [VmState<'m>],
        costs: &Costs,
        log: usize,
    ) -> Result<Self, MachineError> {
        let slots = config.slots() as usize;
        let mut calendar = Calendar::new(pcpus.len() + config.devices.len() + 1, pcpus.len());
        for device in 0..config.devices.len() {
            calendar.set((pcpus.len() + device) as u32, 0);
        }
        let mut free = Bitmap::new(pcpus.len());
        for pcpu in 0..pcpus.len() as u32 {
            free.set(pcpu);
        }
        Ok(Self {
            memory,
            config,
            costs: costs.clone(),
            vms,
            slots: vec![None; slots],
            free,
            queued: 0,
            crowded: Bitmap::new(pcpus.len()),
            contended: false,
            pcpus,
            devices: vec![DeviceState::default(); config.devices.len()],
            unused: [].iter_mut(),
            beds: (0..slots).map(|_| None).collect(),
            whereabouts: vec![Whereabouts::Queued; slots],
            off_pcpu: vec![OffPcpu::default(); slots],
            calendar,
            account: Account::new(slots),
            stopwatch: Stopwatch::new().map_err(|_| MachineError::Histogram)?,
            log: Log::new(log),
            spent: Spent::default(),
            timetable: None,
            random: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            current: NOBODY,
            now: 0,
            limit: 0,
            lasts_until: 0,
            // The host of a recording takes pCPUs away, and chaos leaves nobody alone.
            may_be_alone: false,
            aims: Aims::default(),
            listing: None,
            unfinished: finite(config),
            finished_at: 0,
            stopping: false,
            time_is_over: false,
            broken: false,
            // Asked before the first turn too.
            turns: 0,
            clock: Clock::new(costs),
        })
    }

    /// Makes a vCPU known and lets it run.
    pub(super) fn start(&mut self, vm: usize, vcpu: Vcpu, pcpu: u32) {
        let Some(of) = self.vms.get(vm) else { return };
        let slot = of.first_slot + vcpu.vcpu();
        if let Some((known, runner)) = boot(self.memory, of.vm, of.guest, vcpu, slot, self.config.seed)
            && let (Some(place), Some(unused)) = (self.slots.get_mut(slot as usize), self.unused.next())
        {
            *place = Some(known);
            let runner = unused.insert(runner);
            self.enqueue(self.free_near(pcpu), runner, 0);
        }
    }

    pub(super) fn run(&mut self, cycles: Option<u64>, keep_going: &mut dyn FnMut(u64) -> bool) -> End {
        if self.pcpus.len() > FITS {
            self.run_of_size::<true>(cycles, keep_going)
        } else {
            self.run_of_size::<false>(cycles, keep_going)
        }
    }

    /// `LARGE`: memory is asked for before it is used.
    fn run_of_size<const LARGE: bool>(&mut self, cycles: Option<u64>, keep_going: &mut dyn FnMut(u64) -> bool) -> End {
        self.stopping = self.config.ends() && self.unfinished == 0;
        let (first_device, clock) = (self.pcpus.len() as u32, self.clock_actor());
        let time_limit = cycles.map_or(NEVER, |cycles| cycles.min(NEVER));
        // The last program that ends by itself ends the run when it does. Where guests may not be alone turns stay as they are.
        self.lasts_until = if self.may_be_alone && !self.config.ends() { time_limit } else { 0 };
        let pcpus = self.pcpus;
        loop {
            if self.turns == 0 {
                self.turns = TURNS;
                if self.broken {
                    return End::Broken;
                }
                if !keep_going(self.now) {
                    return End::Interrupted;
                }
            }
            let ((mut time, mut actor), arrival) = (self.calendar.first(), self.calendar.arrival_time());
            if time.min(arrival) >= time_limit && !self.stopping {
                (self.current, self.finished_at, self.time_is_over) = (NOBODY, time_limit, true);
                self.stop();
                continue;
            }
            if arrival <= time {
                let Some(Arrival { pcpu, vector, .. }) = self.calendar.arrive() else { return End::Complete };
                let Some(at) = pcpus.get(pcpu as usize) else { continue };
                at.request(vector);
                self.current = NOBODY;
                if LARGE {
                    self.read_ahead_of_arrivals();
                }
                if !matches!(at.phase.get(), Phase::Guest) {
                    self.arrives_in_root(pcpu, at, arrival);
                    continue;
                }
                if arrival == time || at.clock.get() > arrival || self.calendar.arrival_time() == arrival {
                    self.act_by(pcpu, arrival);
                    continue;
                }
                // It acts next: nobody else does anything then or before.
                (time, actor) = (arrival, pcpu);
            }
            (self.current, self.now) = (actor, time);
            // It is nobody's rival while it acts.
            self.calendar.remove(actor);
            let (next_time, next) = self.calendar.first();
            self.limit = self.calendar.arrival_time().min(next_time + u64::from(actor < next));
            self.limit = self.limit.min(if self.stopping { stopping_limit(time) } else { time_limit });
            if LARGE {
                self.read_ahead_of_turns(next);
            }
            let again = match pcpus.get(actor as usize) {
                Some(at) => self.turn(at),
                None if actor == clock => {
                    self.current = NOBODY;
                    if let Some(end) = self.clock_strikes(time_limit) {
                        return end;
                    }
                    continue;
                }
                None => self.device(actor - first_device),
            };
            if LARGE {
                self.read_ahead_after_turn(next);
            }
            self.calendar.lower(actor, again);
            self.turns -= 1;
        }
    }

    /// A program that ends by itself, or a device's, is at its end.
    pub(super) fn one_finished(&mut self) {
        self.unfinished -= 1;
        if self.unfinished == 0 && self.config.ends() {
            self.stop();
        }
    }

    /// The run is to end. Who spins looks again: an idle vCPU that polls does so no longer.
    fn stop(&mut self) {
        self.stopping = true;
        let seen = self.now + u64::from(self.costs.line_transfer);
        let (vms, pcpus) = (self.vms, self.pcpus);
        for spinner in vms.iter().flat_map(|vm| vm.spinners.all()) {
            let pcpu = &pcpus[spinner as usize];
            self.pcpu_acts_by(spinner, pcpu, next_round(pcpu.clock.get(), seen, self.costs.spin));
        }
    }

    /// The run cannot go on.
    pub(super) const fn give_way(&mut self) {
        self.broken = true;
        // The one that is under way.
        self.turns = 1;
    }

    /// The pCPU that acts.
    #[inline]
    pub(super) fn at(&self) -> &'o Pcpu<'m> {
        &self.pcpus[self.current as usize]
    }

    /// Time passes for the pCPU that acts.
    #[inline]
    pub(super) fn spend(&mut self, cycles: u32) {
        self.now += u64::from(cycles);
    }

    /// An actor acts at `time`, or earlier if it would anyway; a pCPU as soon as it has done what it is busy with.
    pub(super) fn act_by(&mut self, actor: u32, time: u64) {
        match self.pcpus.get(actor as usize) {
            Some(pcpu) => self.pcpu_acts_by(actor, pcpu, time),
            None => self.actor_acts_by(actor, time),
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    pub(super) fn pcpu_acts_by(&mut self, actor: u32, pcpu: &Pcpu<'_>, time: u64) {
        self.actor_acts_by(actor, time.max(pcpu.clock.get()));
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    fn actor_acts_by(&mut self, actor: u32, time: u64) {
        if actor != self.current && self.calendar.lower(actor, time) {
            self.limit = self.limit.min(time + u64::from(self.current < actor));
        }
    }

    /// A physical interrupt to the local APIC of a pCPU. Returns whether there is such a pCPU.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    pub(super) fn send_interrupt(&mut self, pcpu: u32, vector: u8) -> bool {
        if pcpu as usize >= self.pcpus.len() {
            return false;
        }
        if pcpu == self.current {
            self.request(pcpu, vector);
            return true;
        }
        let time = self.now + u64::from(self.costs.notification_flight);
        self.calendar.send(Arrival { time, pcpu, vector });
        self.limit = self.limit.min(time);
        true
    }

    /// An interrupt arrives at a pCPU that is not in a guest. Where a stretch of code is under way it is looked at when that
    /// is over.
    #[inline(never)]
    fn arrives_in_root(&mut self, pcpu: u32, at: &Pcpu<'_>, arrival: u64) {
        match at.phase.get() {
            Phase::Idle => self.idle_pcpu_acts(pcpu, at, arrival, self.costs.idle_exit),
            Phase::Poll => self.pcpu_acts_by(pcpu, at, arrival),
            _ => {}
        }
    }

    /// There is something to do for an idle pCPU, which is awake after `delay`; at once, if it was busy until now.
    fn idle_pcpu_acts(&mut self, pcpu: u32, at: &Pcpu<'_>, time: u64, delay: u32) {
        let awake = at.clock.get() > time;
        self.pcpu_acts_by(pcpu, at, if awake { time } else { time + u64::from(delay) });
    }

    pub(super) fn request(&mut self, pcpu: u32, vector: u8) {
        self.pcpus[pcpu as usize].request(vector);
    }

    /// Puts a vCPU that can run into a queue. `delay`: until an idle pCPU runs it.
    pub(super) fn enqueue(&mut self, pcpu: u32, runner: &'m mut Runner, delay: u32) {
        let slot = runner.task.slot as usize;
        self.whereabouts[slot] = Whereabouts::Queued;
        self.off_pcpu[slot].ready_at = self.now;
        let Some(at) = self.pcpus.get(pcpu as usize) else { return };
        at.queue.borrow_mut().push_back(runner);
        self.queued += 1;
        self.note_load(pcpu);
        match at.phase.get() {
            Phase::Idle => self.idle_pcpu_acts(pcpu, at, self.now, delay),
            Phase::Poll => self.poller_looks(pcpu),
            // Who runs there shares from now on.
            _ => self.act_by(pcpu, at.slice_end.get().max(self.now)),
        }
    }

    /// Where a vCPU goes on that was at `pcpu` last: there, unless somebody is there and another is free.
    /// (`select_idle_sibling`)
    pub(super) fn free_near(&self, pcpu: u32) -> u32 {
        // In a recording each vCPU has a pCPU of its own.
        if self.timetable.is_some() || self.free.has(pcpu) { pcpu } else { self.free.next_wrap(pcpu).unwrap_or(pcpu) }
    }

    /// How many vCPUs a pCPU has changed.
    pub(super) fn note_load(&mut self, pcpu: u32) {
        let at = &self.pcpus[pcpu as usize];
        let queued = at.queue.borrow().len();
        let (free, crowded) = (at.is_idle() && queued == 0, queued > usize::from(at.is_idle()));
        self.free.put(pcpu, free);
        self.crowded.put(pcpu, crowded);
    }

    /// What a vCPU does, for its trail and the log.
    #[inline]
    pub(super) fn note_event(&mut self, runner: &mut Runner, what: What, vector: u8, other: u32) {
        runner.progress.trail.note(what, vector, other);
        self.log_event(self.now, runner.task.slot, what, vector, other);
    }

    /// What only the log remembers, with the time at which what led to it began.
    #[inline]
    pub(super) fn log_event(&mut self, since: u64, vcpu: u32, what: What, vector: u8, other: u32) {
        let (time, pcpu) = (self.now, self.current);
        self.log.note(|| Logged { time, since, pcpu, vcpu, what, vector, other });
    }

    /// One in `n`.
    pub(super) fn chance(&mut self, n: u64) -> bool {
        self.random.next_u64().is_multiple_of(n)
    }

    /// An interrupt is posted for a vCPU, of this class and sent then: one that polls for it sees it.
    pub(super) fn posted_for(&mut self, slot: u32, vector: u8, coalesced: bool, sent: (Class, u64)) {
        if let Some(first) = self.account.posted(slot, vector, coalesced) {
            self.stopwatch.begin((slot, vector), first, coalesced, sent);
        }
        self.seen_by_poller(slot);
    }

    /// An interrupt that was in VIRR is delivered: one that waits in PIR is the first now.
    #[cold]
    #[inline(never)]
    pub(super) fn second_is_next(&mut self, slot: u32, vector: u8) {
        if let Some(sent) = self.account.kept(slot, vector) {
            self.stopwatch.next((slot, vector), sent);
        }
    }

    /// PIR of a vCPU moved to VIRR, which had these vectors already.
    #[inline(never)]
    pub(super) fn harvested(&mut self, slot: u32, harvest: Harvest, merged: [u64; 4]) {
        self.account.harvested(slot, harvest, merged);
        for vector in vectors_of(merged) {
            self.stopwatch.ends_second((slot, vector));
        }
    }

    /// Something of a vCPU changes that its pCPU looks at while it polls.
    pub(super) fn seen_by_poller(&mut self, slot: u32) {
        if let Some(&Whereabouts::Polls(pcpu)) = self.whereabouts.get(slot as usize) {
            self.poller_looks(pcpu);
        }
    }

    #[inline(never)]
    pub(super) fn poller_looks(&mut self, pcpu: u32) {
        let at = &self.pcpus[pcpu as usize];
        if at.phase.get() == Phase::Poll {
            let seen = self.now + u64::from(self.costs.line_transfer);
            self.pcpu_acts_by(pcpu, at, next_round(at.polls_since.get(), seen, self.costs.halt_poll_spin));
        }
    }
}

/// While the run stops, whoever waits for its end sees it. Out of the way: else it is worked out each time.
#[cold]
#[inline(never)]
const fn stopping_limit(time: u64) -> u64 {
    time + TICK
}

/// When a loop that began at `since` and takes `round` cycles begins anew after `time`.
pub(super) fn next_round(since: u64, time: u64, round: u32) -> u64 {
    since + time.saturating_sub(since).next_multiple_of(u64::from(round))
}
