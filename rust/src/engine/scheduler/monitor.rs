//! The run seen from outside: its end, and what only an observer can find.

use super::device;
use super::pcpu::Pcpu;
use super::setup::start;
use super::shared::{Shared, VmShared};
use crate::engine::machine::verdict::{Lost, asleep_with_interrupt, lost_wakeup, record, settle, stall};
use crate::engine::machine::{MachineError, MachineRun, Runner, VmResult};
use crate::hypervisor::{Inhibits, POSTED_INTR_WAKEUP_VECTOR};
use crate::processor::local_apic;
use crate::record::Account;
use rustc_hash::FxHashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a run goes on, and who may end it.
pub struct Watch<'a> {
    /// After so long endless loops end; a run without endless loops may end earlier.
    pub time: Option<Duration>,
    /// Asked some fifty times a second; when it says no the run stops where it is.
    pub keep_going: &'a mut dyn FnMut() -> bool,
}

const TICK: Duration = Duration::from_millis(20);
/// A vCPU that sleeps with an interrupt for so long, while no wakeup interrupt is on its way, sleeps for ever.
const LOST: Duration = Duration::from_secs(1);
/// Guests that do nothing but spin for so long spin for ever. On an overloaded machine a thread may have to wait.
const STALLED: Duration = Duration::from_secs(10);

/// After a run was told to end, and programs that end by themselves have: rounds of endless loops and what is under way take
/// far less.
const DRAINED: Duration = Duration::from_secs(5);

/// Why a run ended.
enum End {
    /// By itself, or when its time was over.
    Complete,
    Interrupted,
    Lost(Lost),
    Stalled,
    /// It was told to end, and nothing goes on but handlers that send each other interrupts.
    OnlyHandlers,
    /// A pCPU or a thread ended it.
    Broken,
}

pub(super) struct Monitor<'s, 'm> {
    shared: &'s Shared<'m>,
    /// vCPUs that were seen asleep with an interrupt: which sleep, and since when.
    suspects: FxHashMap<u32, (usize, Instant)>,
    advances: (u64, Instant),
    added: u32,
}

type Books = (Account, Vec<Runner>);

impl<'s, 'm> Monitor<'s, 'm> {
    pub(super) fn new(shared: &'s Shared<'m>) -> Self {
        Self { shared, suspects: FxHashMap::default(), advances: (0, Instant::now()), added: 0 }
    }

    /// Runs the machine's threads to the end of the run.
    pub(super) fn run(mut self, mut watch: Watch<'_>) -> Result<MachineRun, MachineError> {
        let shared = self.shared;
        let begin = Instant::now();
        let (end, books) = std::thread::scope(|scope| -> Result<(End, Vec<Books>), MachineError> {
            let thread = |name: String| std::thread::Builder::new().name(name).stack_size(256 << 10);
            let failed = |what: String, source| {
                shared.stop();
                MachineError::Thread { what, source }
            };
            let mut handles = Vec::new();
            for pcpu in 0..shared.pcpus.len() as u32 {
                let body = move || Pcpu::new(shared, pcpu).map(Pcpu::run);
                let handle = thread(format!("pcpu{pcpu}"))
                    .spawn_scoped(scope, body)
                    .map_err(|source| failed(format!("pCPU {pcpu}"), source))?;
                handles.push(handle);
            }
            for (number, device) in shared.config.devices.iter().enumerate() {
                let body = move || Some((device::run(shared, device), Vec::new()));
                let handle = thread(format!("device{number}"))
                    .spawn_scoped(scope, body)
                    .map_err(|source| failed(format!("device {number}"), source))?;
                handles.push(handle);
            }
            let broken = || handles.iter().any(std::thread::ScopedJoinHandle::is_finished);
            let end = self.watch(&mut watch, begin, &broken);
            shared.stop();
            let books = handles.into_iter().filter_map(|handle| handle.join().ok().flatten()).collect();
            Ok((end, books))
        })?;
        let elapsed = begin.elapsed();
        Ok(self.close(&end, books, elapsed))
    }

    /// Waits for the end.
    fn watch(&mut self, watch: &mut Watch<'_>, begin: Instant, broken: &dyn Fn() -> bool) -> End {
        let shared = self.shared;
        let ends = shared.config.ends();
        let mut told = None;
        loop {
            std::thread::sleep(TICK);
            if !(watch.keep_going)() {
                return End::Interrupted;
            }
            if shared.stopped() {
                return End::Broken;
            }
            let over = watch.time.is_some_and(|time| begin.elapsed() >= time);
            if over || ends && shared.all_finished() {
                shared.stop_soon();
            }
            self.hot_add();
            let quiet = self.quiet();
            if let Some(lost) = self.lost(quiet) {
                return End::Lost(lost);
            }
            if quiet && shared.stopping() {
                return End::Complete;
            }
            if shared.stopping() && (!ends || shared.all_finished()) {
                let told = *told.get_or_insert_with(Instant::now);
                if told.elapsed() > DRAINED {
                    return End::OnlyHandlers;
                }
            }
            // Devices end with the run, and may be the first to: only pCPUs must not.
            if !shared.stopping() && shared.config.devices.is_empty() && broken() {
                return End::Broken;
            }
            if quiet && ends && self.added >= shared.chaos().hot_add {
                // All that is left to do waits for what nobody will send.
                return End::Complete;
            }
            if self.stalled() {
                return End::Stalled;
            }
        }
    }

    /// Whether no thread does anything and nothing is on its way: looked at twice.
    fn quiet(&self) -> bool {
        let shared = self.shared;
        let acts = || shared.pcpus.iter().map(|pcpu| pcpu.acts.load(Ordering::Acquire)).fold(0, u64::wrapping_add);
        let before = acts();
        let still = shared.devices.load(Ordering::Acquire) == 0
            && shared
                .pcpus
                .iter()
                .all(|pcpu| pcpu.is_idle() && pcpu.queued() == 0 && !local_apic::pending(pcpu.requests));
        still && before == acts()
    }

    /// Whether guests have done nothing but spin for too long.
    fn stalled(&mut self) -> bool {
        let pcpus = self.shared.pcpus.iter();
        let advances = pcpus.map(|pcpu| pcpu.advances.load(Ordering::Acquire)).fold(0, u64::wrapping_add);
        if advances != self.advances.0 {
            self.advances = (advances, Instant::now());
        }
        self.advances.1.elapsed() > STALLED
    }

    /// Adds a vCPU to the first VM now and then.
    fn hot_add(&mut self) {
        let shared = self.shared;
        let Some(vm) = shared.vms.first() else { return };
        if self.added >= shared.chaos().hot_add || shared.stopping() {
            return;
        }
        let number = vm.vcpus.load(Ordering::Relaxed) as u32;
        let Ok(vcpu) = vm.vm.add_vcpu(shared.memory, number, number, vm.guest.config.mode) else { return };
        self.added += 1;
        start(shared, 0, vcpu, number % shared.config.pcpus.max(1));
        vm.vcpus.store(number as usize + 1, Ordering::Release);
    }

    /// A vCPU that sleeps for ever though an interrupt waits for it.
    fn lost(&mut self, quiet: bool) -> Option<Lost> {
        let shared = self.shared;
        for slot in 0..shared.slots.len() as u32 {
            let found = shared.in_bed(slot, |runner| asleep_with_interrupt(shared, runner)).flatten();
            let Some(lost) = found else {
                self.suspects.remove(&slot);
                continue;
            };
            let on_its_way = lost.listed_on.and_then(|pcpu| shared.pcpus.get(pcpu as usize));
            if on_its_way.is_some_and(|pcpu| local_apic::requested(pcpu.requests, POSTED_INTR_WAKEUP_VECTOR)) {
                self.suspects.remove(&slot);
                continue;
            }
            let (sleep, since) = *self.suspects.entry(slot).or_insert((lost.sleep, Instant::now()));
            if sleep != lost.sleep {
                self.suspects.insert(slot, (lost.sleep, Instant::now()));
            } else if quiet || since.elapsed() > LOST {
                return Some(lost);
            }
        }
        None
    }

    /// Closes the books.
    fn close(self, end: &End, books: Vec<Books>, elapsed: Duration) -> MachineRun {
        let shared = self.shared;
        let mut account = Account::new(shared.slots.len());
        let mut runners: Vec<Runner> = Vec::new();
        let threads = shared.pcpus.len() + shared.config.devices.len();
        let whole = books.len() == threads;
        for (theirs, ended) in books {
            account.absorb(&theirs);
            runners.extend(ended);
        }
        runners.extend(shared.pcpus.iter().flat_map(|pcpu| pcpu.drain()));
        runners.extend((0..shared.slots.len() as u32).filter_map(|slot| shared.clear_bed(slot)));
        runners.sort_by_key(|runner| runner.task.slot);
        let mut violations = std::mem::take(&mut account.violations);
        if !whole {
            violations.push(record("engine", 0, "a thread ended early: please report this as a defect of ipivrs"));
        }
        match end {
            End::Lost(lost) => violations.push(lost_wakeup(shared, lost, &runners)),
            End::Stalled => violations.push(stall(shared, &shared.config.guests, &runners)),
            End::Complete | End::OnlyHandlers | End::Interrupted | End::Broken => {}
        }
        let (pending, wrong) = settle(shared, &mut account, &runners, matches!(end, End::Complete), whole);
        violations.extend(wrong);
        let partial = matches!(end, End::Interrupted);
        let unfinished = shared.unfinished.load(Ordering::Acquire);
        let vms = self.vms(&account);
        MachineRun { account, pending, unfinished, vms, violations, elapsed, partial }
    }

    fn vms(&self, account: &Account) -> Vec<VmResult> {
        let vcpus = |vm: &VmShared<'_>| vm.vcpus.load(Ordering::Acquire) as u32;
        let result = |vm: &VmShared<'_>| VmResult {
            vcpus: vcpus(vm),
            table: vm.vm.table_size(),
            last_index: vm.vm.last_pid_index,
            ipi_virtualization: vm.vm.apicv.ipiv_usable(),
            apicv: vm.vm.apicv.active,
            inhibits: vm.vm.inhibits(self.shared.memory).map(Inhibits::reasons).unwrap_or_default(),
            traffic: account.traffic(vm.first_slot, vcpus(vm)),
        };
        self.shared.vms.iter().map(result).collect()
    }
}
