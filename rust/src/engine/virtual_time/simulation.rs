//! A machine in virtual time: what it is made of, and whose turn it is.

use super::ahead::may_be_alone;
use super::calendar::{Arrival, Calendar, NEVER};
use super::costs::Costs;
use super::device::DeviceState;
use super::latency::{Class, Latencies, Stopwatch};
use super::log::{Log, Logged};
use super::pcpu::{Pcpu, Phase};
use super::spinners::Spinners;
use super::timetable::{Fates, Preemption, Timetable};
use crate::arch::ExitReason;
use crate::engine::machine::setup::{boot, finite, guest_memory, memory_bytes};
use crate::engine::machine::verdict::{Directory, Lost, asleep_with_interrupt};
use crate::engine::machine::{Guest, MachineConfig, MachineError, MachineRun, Runner, What};
use crate::guest::GuestMemory;
use crate::hypervisor::policy::HostVector;
use crate::hypervisor::{Slot, Vcpu, Vm};
use crate::memory::{Owner, PhysicalMemory, with_huge_pages};
use crate::processor::local_apic;
use crate::record::Account;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rustc_hash::FxHashMap;
use std::cell::Cell;

pub(super) type Memory = PhysicalMemory<Cell<u64>>;

/// Turns between two questions whether to go on.
const TURNS: u32 = 1 << 14;
/// So many pCPUs and their guests fit into a processor's caches: with more, memory is asked for before it is used.
const FITS: usize = 256;
/// Cycles between two looks of the clock that adds vCPUs and looks for lost wake-ups.
const TICK: u64 = 5_000_000;
/// After so many HLT exits without an IPI, a delivery or an end of a program, vCPUs halt and wake for ever.
const RESTLESS: u64 = 100_000;

/// No actor.
pub(super) const NOBODY: u32 = u32::MAX;

/// How a run goes.
pub struct Options<'a> {
    /// What acts cost.
    pub costs: &'a Costs,
    /// After so many cycles endless loops end; a run without endless loops may end earlier.
    pub cycles: Option<u64>,
    /// Events that are logged.
    pub log: usize,
    /// Asked some times a second and told the cycles so far; when it says no the run stops where it is.
    pub keep_going: &'a mut dyn FnMut(u64) -> bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct VirtualRun {
    /// What came of the machine; its time is the simulated one.
    pub machine: MachineRun,
    /// Cycles until the last program that ends was at its end, or the run was.
    pub cycles: u64,
    /// How long interrupts took.
    pub latencies: Latencies,
    /// What happened when.
    pub log: Log,
    /// Where cycles went.
    pub spent: Spent,
    /// For each vCPU what became of the interrupt commands it sent, in order; of a [`run_recorded`] only.
    pub fates: Fates,
}

/// Where cycles went, over all vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// On the way out of guests, in root mode with a vCPU, on the way in, and in interrupts that the host takes on an idle
    /// pCPU; not what vCPUs slept, polled or waited.
    pub exits: u64,
    /// From the write of an interrupt command to the guest's next instruction, if it was posted or exited.
    pub sending: u64,
}

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
    unused: std::slice::IterMut<'m, Option<Runner>>,
    /// vCPUs that sleep.
    pub(super) beds: Vec<Option<&'m mut Runner>>,
    pub(super) whereabouts: Vec<Whereabouts>,
    /// How long each vCPU's pCPU polls before it sleeps, in cycles.
    pub(super) polls: Vec<u32>,
    pub(super) idle: usize,
    /// vCPUs in queues.
    pub(super) queued: usize,
    /// pCPUs may be taken from a vCPU though none is in a queue.
    pub(super) contended: bool,
    pub(super) calendar: Calendar,
    pub(super) account: Account,
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
    /// Guests may do acts ahead, see `ahead`.
    pub(super) may_be_alone: bool,
    /// The wakeup list that is walked, and how far.
    pub(super) listing: Option<usize>,
    pub(super) unfinished: usize,
    pub(super) finished_at: u64,
    pub(super) stopping: bool,
    /// It goes on no longer; seen when the next turn is due.
    broken: bool,
    /// Turns since the last question whether to go on.
    turns: u32,
    /// The clock's next look.
    next_tick: u64,
    added: u32,
    /// vCPUs that were seen asleep with an interrupt: which sleep.
    suspects: FxHashMap<u32, usize>,
    /// What was sent, delivered and unfinished when one of these last changed, and the HLT exits then.
    progress: ([u64; 3], u64),
}

/// Why a run ended.
pub(super) enum End {
    Complete,
    Interrupted,
    Lost(Lost),
    /// vCPUs halt and go on at once, and nothing comes of it.
    Restless,
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

/// Runs a machine.
///
/// # Errors
/// An impossible VM.
pub fn run(config: &MachineConfig, options: Options<'_>) -> Result<VirtualRun, MachineError> {
    run_by(config, options, None)
}

/// Runs a machine whose vCPUs each have a pCPU of their own, which the host takes away at the times of a timetable.
///
/// # Errors
/// An impossible VM.
pub fn run_recorded(
    config: &MachineConfig,
    options: Options<'_>,
    preemptions: Vec<Preemption>,
) -> Result<VirtualRun, MachineError> {
    run_by(config, options, Some(Timetable::new(config.slots() as usize, preemptions)))
}

fn run_by(
    config: &MachineConfig,
    options: Options<'_>,
    timetable: Option<Timetable>,
) -> Result<VirtualRun, MachineError> {
    let memory = Memory::new(memory_bytes::<Cell<u64>>(config));
    let mut made = Vec::with_capacity(config.guests.len());
    for (vm, guest) in (0..).zip(&config.guests) {
        made.push(Vm::prepare(&memory, &guest.config).map_err(|error| MachineError::Vm { vm, error })?);
    }
    let (vms, descriptors): (Vec<Vm>, Vec<Vec<u64>>) = made.into_iter().unzip();
    let pcpus = pcpus(&memory, config.pcpus)?;
    let states = vm_states(&memory, config, &vms)?;
    // Side by side: one allocation for each would be a third more memory.
    let mut runners: Vec<Option<Runner>> = with_huge_pages(config.slots() as usize);
    runners.resize_with(config.slots() as usize, || None);
    let mut simulation = Simulation::new(&memory, config, &pcpus, &states, options.costs, options.log)?;
    simulation.unused = runners.iter_mut();
    simulation.may_be_alone = timetable.is_none() && may_be_alone(config, options.costs);
    simulation.contended = timetable.is_some() || config.chaos.preempt;
    simulation.timetable = timetable;
    simulation.set_clock();
    let mut place = 0;
    for ((vm, made), (guest, descriptors)) in (0..).zip(&vms).zip(config.guests.iter().zip(descriptors)) {
        for vcpu in made.vcpus(&memory, &guest.config, descriptors) {
            let vcpu = vcpu.map_err(|error| MachineError::Vm { vm, error })?;
            simulation.start(vm as usize, vcpu, place % config.pcpus.max(1));
            place += 1;
        }
    }
    let Options { cycles, keep_going, .. } = options;
    let end = simulation.run(cycles, keep_going);
    Ok(simulation.close(&end))
}

fn pcpus(memory: &Memory, count: u32) -> Result<Vec<Pcpu<'_>>, MachineError> {
    let mut pcpus = with_huge_pages(count as usize);
    for pcpu in 0..count {
        let address = memory.allocate(Owner::LocalApic { pcpu }, 64, 64)?;
        pcpus.extend(memory.line(address).map(Pcpu::new));
    }
    Ok(pcpus)
}

fn vm_states<'m>(
    memory: &'m Memory,
    config: &'m MachineConfig,
    vms: &'m [Vm],
) -> Result<Vec<VmState<'m>>, MachineError> {
    let mut first_slot = 0;
    let mut states = Vec::with_capacity(vms.len());
    for (number, (vm, guest)) in (0..).zip(vms.iter().zip(&config.guests)) {
        let plain_ids = guest.config.apic_ids.iter().zip(0..).all(|(&id, vcpu)| id == vcpu);
        states.push(VmState {
            vm,
            guest,
            memory: guest_memory(memory, guest, number)?,
            first_slot,
            vcpus: Cell::new(guest.config.apic_ids.len() as u32),
            plain_ids,
            plain_table: plain_ids && !config.naive_apic_ids,
            spinners: Spinners::new(),
        });
        first_slot += guest.capacity();
    }
    Ok(states)
}

impl<'m, 'o> Simulation<'m, 'o> {
    fn new(
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
        Ok(Self {
            memory,
            config,
            costs: costs.clone(),
            vms,
            slots: vec![None; slots],
            idle: pcpus.len(),
            queued: 0,
            contended: false,
            pcpus,
            devices: vec![DeviceState::default(); config.devices.len()],
            unused: [].iter_mut(),
            beds: (0..slots).map(|_| None).collect(),
            whereabouts: vec![Whereabouts::Queued; slots],
            polls: vec![0; slots],
            calendar,
            account: Account::new(slots),
            stopwatch: Stopwatch::new(slots).map_err(|_| MachineError::Histogram)?,
            log: Log::new(log),
            spent: Spent::default(),
            timetable: None,
            random: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            current: NOBODY,
            now: 0,
            limit: 0,
            // The host of a recording takes pCPUs away, and chaos leaves nobody alone.
            may_be_alone: false,
            listing: None,
            unfinished: finite(config),
            finished_at: 0,
            stopping: false,
            broken: false,
            // Asked before the first turn too.
            turns: TURNS,
            next_tick: TICK,
            added: 0,
            suspects: FxHashMap::default(),
            progress: ([0; 3], 0),
        })
    }

    /// Makes a vCPU known and lets it run.
    fn start(&mut self, vm: usize, vcpu: Vcpu, pcpu: u32) {
        let Some(of) = self.vms.get(vm) else { return };
        let slot = of.first_slot + vcpu.vcpu();
        if let Some((known, runner)) = boot(self.memory, of.vm, of.guest, vcpu, slot, self.config.seed)
            && let (Some(place), Some(unused)) = (self.slots.get_mut(slot as usize), self.unused.next())
        {
            *place = Some(known);
            self.enqueue(pcpu, unused.insert(runner), 0);
        }
    }

    fn run(&mut self, cycles: Option<u64>, keep_going: &mut dyn FnMut(u64) -> bool) -> End {
        if self.pcpus.len() > FITS {
            self.run_of_size::<true>(cycles, keep_going)
        } else {
            self.run_of_size::<false>(cycles, keep_going)
        }
    }

    /// `LARGE`: memory is asked for before it is used.
    fn run_of_size<const LARGE: bool>(&mut self, cycles: Option<u64>, keep_going: &mut dyn FnMut(u64) -> bool) -> End {
        self.stopping = self.config.ends() && self.unfinished == 0;
        let (first_device, clock) = (self.pcpus.len() as u32, self.clock());
        let time_limit = cycles.map_or(NEVER, |cycles| cycles.min(NEVER));
        let pcpus = self.pcpus;
        loop {
            if self.turns >= TURNS {
                self.turns = 0;
                if self.broken {
                    return End::Broken;
                }
                if !keep_going(self.now) {
                    return End::Interrupted;
                }
            }
            let ((mut time, mut actor), arrival) = (self.calendar.first(), self.calendar.arrival_time());
            if time.min(arrival) >= time_limit && !self.stopping {
                (self.current, self.finished_at) = (NOBODY, time_limit);
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
                if !at.listens() {
                    // It is looked at when the stretch of code that is under way is over.
                    continue;
                }
                if arrival == time || at.clock.get() > arrival || self.calendar.arrival_time() == arrival {
                    self.act_by(pcpu, arrival);
                    continue;
                }
                // It acts next: nobody else does anything then or before.
                (time, actor) = (arrival, pcpu);
            }
            if actor == clock {
                (self.current, self.now) = (NOBODY, time);
                self.keep_timetable();
                if time >= self.next_tick {
                    if self.calendar_has_only_the_clock() {
                        return End::Complete;
                    }
                    if let Some(lost) = self.tick() {
                        return End::Lost(lost);
                    }
                    if self.is_restless() {
                        return End::Restless;
                    }
                    self.next_tick = time + TICK;
                }
                self.set_clock();
                continue;
            }
            (self.current, self.now) = (actor, time);
            // It is nobody's rival while it acts.
            self.calendar.remove(actor);
            let (next_time, next) = self.calendar.first();
            self.limit = self.calendar.arrival_time().min(next_time + u64::from(actor < next));
            // While it stops, whoever waits for the end sees it.
            self.limit = self.limit.min(if self.stopping { time + TICK } else { time_limit });
            if LARGE {
                self.read_ahead_of_turns(next);
            }
            let again = match pcpus.get(actor as usize) {
                Some(at) => self.turn(at),
                None => self.device(actor - first_device),
            };
            if LARGE {
                self.read_ahead_after_turn(next);
            }
            self.calendar.lower(actor, again);
            self.turns += 1;
        }
    }

    /// The actor that is the clock.
    pub(super) fn clock(&self) -> u32 {
        (self.pcpus.len() + self.devices.len()) as u32
    }

    fn set_clock(&mut self) {
        let time = self.next_tick.min(self.next_of_timetable());
        self.calendar.set(self.clock(), time);
    }

    /// Nobody but the clock would ever act, and no interrupt is on its way.
    fn calendar_has_only_the_clock(&self) -> bool {
        self.next_of_timetable() == NEVER
            && self.calendar.arrival_time() == NEVER
            && (0..self.clock()).all(|actor| self.calendar.time(actor) == NEVER)
    }

    /// Adds a vCPU to the first VM, where there are some to be added; finds vCPUs that sleep for ever.
    fn tick(&mut self) -> Option<Lost> {
        if self.added < self.config.chaos.hot_add && !self.stopping {
            self.hot_add();
        }
        for slot in 0..self.beds.len() as u32 {
            let found = self.beds[slot as usize].as_deref().and_then(|runner| asleep_with_interrupt(self, runner));
            let Some(lost) = found.filter(|lost| !self.on_its_way(lost)) else {
                if !self.suspects.is_empty() {
                    self.suspects.remove(&slot);
                }
                continue;
            };
            if self.suspects.insert(slot, lost.sleep) == Some(lost.sleep) {
                return Some(lost);
            }
        }
        None
    }

    /// Whether vCPUs have long done nothing but halt and wake: their policy takes an interrupt for pending that never comes.
    fn is_restless(&mut self) -> bool {
        let counts = self.account.counts;
        let progress = [counts.fates.iter().sum(), counts.delivered, self.unfinished as u64];
        let halts = self.account.exits.iter().filter(|(exit, _)| exit.reason == ExitReason::Hlt).map(|(_, n)| n).sum();
        if progress != self.progress.0 {
            self.progress = (progress, halts);
        }
        halts - self.progress.1 > RESTLESS
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
        self.added += 1;
        self.start(0, vcpu, number % self.config.pcpus.max(1));
        vm.vcpus.set(number + 1);
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
        for vm in vms {
            let others = vm.spinners.others();
            for spinner in vm.spinners.one().into_iter().chain(others.iter().flat_map(|others| others.iter().copied()))
            {
                let pcpu = &pcpus[spinner as usize];
                self.pcpu_acts_by(spinner, pcpu, next_round(pcpu.since.get(), seen, self.costs.spin));
            }
        }
    }

    /// The run cannot go on.
    pub(super) const fn give_way(&mut self) {
        self.broken = true;
        self.turns = TURNS;
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

    pub(super) fn request(&mut self, pcpu: u32, vector: u8) {
        self.pcpus[pcpu as usize].request(vector);
    }

    /// Puts a vCPU that can run into a queue. `delay`: until an idle pCPU runs it.
    pub(super) fn enqueue(&mut self, pcpu: u32, runner: &'m mut Runner, delay: u32) {
        let at = pcpu as usize % self.pcpus.len().max(1);
        self.whereabouts[runner.task.slot as usize] = Whereabouts::Queued;
        let Some(mine) = self.pcpus.get(at) else { return };
        mine.queue.borrow_mut().push_back(runner);
        self.queued += 1;
        let (idle, slice_end) = (mine.is_idle(), mine.slice_end.get());
        let soon = self.now + u64::from(delay);
        if idle {
            self.act_by(at as u32, soon);
            return;
        }
        // Who runs there shares from now on.
        self.act_by(at as u32, slice_end.max(self.now));
        if self.idle > 0 && self.timetable.is_none() {
            let count = self.pcpus.len();
            let other = (1..count).map(|i| (at + i) % count).find(|&other| self.pcpus[other].is_idle());
            if let Some(other) = other {
                self.act_by(other as u32, soon);
            }
        }
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
        self.log.note(Logged { time: self.now, since, pcpu: self.current, vcpu, what, vector, other });
    }

    /// One in `n`.
    pub(super) fn chance(&mut self, n: u64) -> bool {
        self.random.next_u64().is_multiple_of(n)
    }

    /// An interrupt is posted for a vCPU: one that polls for it sees it.
    pub(super) fn posted_for(&mut self, slot: u32, vector: u8, class: Class, time: u64) {
        self.stopwatch.sent(slot, vector, class, time);
        self.seen_by_poller(slot);
    }

    /// Something of a vCPU changes that its pCPU looks at while it polls.
    pub(super) fn seen_by_poller(&mut self, slot: u32) {
        if let Some(&Whereabouts::Polls(pcpu)) = self.whereabouts.get(slot as usize) {
            self.poller_looks(pcpu);
        }
    }

    #[inline(never)]
    pub(super) fn poller_looks(&mut self, pcpu: u32) {
        if let Phase::Poll { since, .. } = self.pcpus[pcpu as usize].phase.get() {
            let seen = self.now + u64::from(self.costs.line_transfer);
            self.act_by(pcpu, next_round(since, seen, self.costs.halt_poll_spin));
        }
    }
}

/// When a loop that began at `since` and takes `round` cycles begins anew after `time`.
pub(super) fn next_round(since: u64, time: u64, round: u32) -> u64 {
    since + time.saturating_sub(since).next_multiple_of(u64::from(round))
}
