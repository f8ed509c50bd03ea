//! The run seen from outside: set-up, the end, and what only an observer can find.

use super::device;
use super::pcpu::Pcpu;
use super::runner::Runner;
use super::shared::{Memory, PcpuShared, Shared, VmShared};
use crate::arch::apic_register::{SVR_ENABLED, XApicLdr};
use crate::arch::{ApicMode, ApicRegister, PidControl, vector};
use crate::engine::machine::{Guest, MachineConfig, MachineError, MachineRun, VmResult};
use crate::guest::{Cursor, GuestMemory, MOST_CALLERS};
use crate::hypervisor::{Inhibits, MpState, POSTED_INTR_WAKEUP_VECTOR, Slot, Task, Vcpu, Vm};
use crate::memory::Owner;
use crate::processor::{VirtualApic, descriptor, local_apic, vectors_of};
use crate::record::{Account, ViolationRecord};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Runs a machine.
///
/// # Errors
/// An impossible VM, or no threads.
pub fn run(config: &MachineConfig, watch: Watch<'_>) -> Result<MachineRun, MachineError> {
    let memory = Memory::new(memory_bytes(config));
    let mut made = Vec::with_capacity(config.guests.len());
    for (vm, guest) in (0..).zip(&config.guests) {
        made.push(Vm::create(&memory, &guest.config).map_err(|error| MachineError::Vm { vm, error })?);
    }
    let mut pcpus = Vec::new();
    for pcpu in 0..config.pcpus {
        let address = memory.allocate(Owner::LocalApic { pcpu }, 64, 64)?;
        pcpus.extend(memory.line(address).map(PcpuShared::new));
    }
    let (vms, vcpus): (Vec<Vm>, Vec<Vec<Vcpu>>) = made.into_iter().unzip();
    let mut first_slot = 0;
    let mut vms_shared = Vec::with_capacity(vms.len());
    for (number, (vm, guest)) in (0..).zip(vms.iter().zip(&config.guests)) {
        let (signals, calls) = guest_memory_of(guest, number)?;
        vms_shared.push(VmShared {
            vm,
            guest,
            memory: GuestMemory::new(&memory, number, guest.capacity(), signals, calls)?,
            first_slot,
            vcpus: AtomicUsize::new(guest.config.apic_ids.len()),
        });
        first_slot += guest.capacity();
    }
    let shared = Shared::new(&memory, config, vms_shared, pcpus);
    let mut place = 0;
    for (vm, vcpus) in (0..).zip(vcpus) {
        for vcpu in vcpus {
            let waits = vcpu.vcpu() > 0 && config.guests.get(vm as usize).is_some_and(|guest| guest.wait_for_sipi);
            start(&shared, vm, vcpu, waits, place % config.pcpus.max(1));
            place += 1;
        }
    }
    shared.unfinished.store(finite(config), Ordering::Release);
    shared.devices.store(config.devices.len(), Ordering::Release);
    Monitor::new(&shared).run(watch)
}

fn memory_bytes(config: &MachineConfig) -> u64 {
    let guest = |guest: &Guest| {
        let (signals, calls) = guest_memory_needs(guest);
        guest.config.memory_bytes()
            + GuestMemory::<std::sync::atomic::AtomicU64>::bytes(guest.capacity(), signals, calls)
    };
    config.guests.iter().map(guest).sum::<u64>() + (u64::from(config.pcpus) + 2) * 256
}

fn guest_memory_needs(guest: &Guest) -> (u32, bool) {
    let programs = &guest.code.programs;
    (programs.iter().map(|p| p.signals()).max().unwrap_or(0), programs.iter().any(|p| p.calls()))
}

fn guest_memory_of(guest: &Guest, vm: u32) -> Result<(u32, bool), MachineError> {
    let (signals, calls) = guest_memory_needs(guest);
    if calls && guest.capacity() > MOST_CALLERS {
        return Err(MachineError::TooManyCallers { vm, most: MOST_CALLERS });
    }
    Ok((signals, calls))
}

/// Programs and devices that end by themselves.
fn finite(config: &MachineConfig) -> usize {
    let programs = config.guests.iter().flat_map(|guest| {
        let present = guest.config.apic_ids.len();
        let mains = guest.code.main.iter().take(present);
        mains.filter_map(|&main| guest.code.programs.get(main as usize))
    });
    programs.filter(|program| !program.endless() && !program.is_empty()).count()
        + config.devices.iter().filter(|device| device.posts.is_some()).count()
}

/// Makes a vCPU known and lets it run, as a guest's kernel has left it after its boot.
fn start<'m>(shared: &Shared<'m>, vm: u32, vcpu: Vcpu, waits: bool, pcpu: u32) {
    let Some(of) = shared.vms.get(vm as usize) else { return };
    let number = vcpu.vcpu();
    let slot = of.first_slot + number;
    let memory = shared.memory;
    let vmcs = &vcpu.vp().vmcs;
    if let Some(page) = memory.page(vmcs.virtual_apic) {
        let apic = VirtualApic::new(page);
        apic.set(ApicRegister::SVR, SVR_ENABLED);
        if vcpu.mode() != ApicMode::X2Apic {
            // The flat model, as Linux sets it up; it has eight members.
            let logical_id = 1u8.checked_shl(number).unwrap_or(0);
            apic.set(ApicRegister::LDR, XApicLdr::new().with_logical_id(logical_id).into_bits());
        }
        vcpu.publish_identity(memory, of.vm);
    }
    if let (Some(pid), Some(words), Some(cell)) =
        (memory.descriptor(vmcs.descriptor), of.vm.vcpu_words(memory, number), shared.slots.get(slot as usize))
    {
        // On no pCPU yet.
        words.set_pcpu(u32::MAX);
        // Each slot is taken once.
        let _ = cell.set(Slot { vm, vcpu: number, pid, words });
        let seed = shared.config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(slot);
        let mut task = Task::new(slot, vm, vcpu);
        if waits {
            task.mp_state = MpState::InitReceived;
        }
        shared.enqueue(pcpu, Box::new(Runner::new(task, Cursor::new(&of.guest.code, number, seed))));
    }
}

/// A vCPU that sleeps though an interrupt waits for it.
#[derive(Clone, Copy)]
struct Lost {
    slot: u32,
    pir: [u64; 4],
    virr: [u64; 4],
    control: PidControl,
    listed_on: Option<u32>,
    /// Which sleep it is.
    sleep: usize,
}

/// Why a run ended.
enum End {
    /// By itself, or when its time was over.
    Complete,
    Interrupted,
    Lost(Lost),
    Stalled,
    /// A pCPU or a thread ended it.
    Broken,
}

struct Monitor<'s, 'm> {
    shared: &'s Shared<'m>,
    /// vCPUs that were seen asleep with an interrupt: which sleep, and since when.
    suspects: FxHashMap<u32, (usize, Instant)>,
    advances: (u64, Instant),
    added: u32,
}

type Books = (Account, Vec<Box<Runner>>);

impl<'s, 'm> Monitor<'s, 'm> {
    fn new(shared: &'s Shared<'m>) -> Self {
        Self { shared, suspects: FxHashMap::default(), advances: (0, Instant::now()), added: 0 }
    }

    fn run(mut self, watch: Watch<'_>) -> Result<MachineRun, MachineError> {
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
            let end = self.watch(watch, begin, &broken);
            shared.stop();
            let books = handles.into_iter().filter_map(|handle| handle.join().ok().flatten()).collect();
            Ok((end, books))
        })?;
        let elapsed = begin.elapsed();
        Ok(self.close(&end, books, elapsed))
    }

    /// Waits for the end.
    fn watch(&mut self, watch: Watch<'_>, begin: Instant, broken: &dyn Fn() -> bool) -> End {
        let shared = self.shared;
        let ends = shared.config.ends();
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
        start(shared, 0, vcpu, false, number % shared.config.pcpus.max(1));
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
        let mut runners: Vec<Box<Runner>> = Vec::new();
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
            End::Stalled => violations.push(stall(shared, &runners)),
            End::Complete | End::Interrupted | End::Broken => {}
        }
        let mut pending = 0;
        for runner in &runners {
            let slot = runner.task.slot;
            let (pir, virr) = waiting(shared, runner);
            let (left, wrong) = account.settle(slot, pir, virr);
            pending += left;
            if matches!(end, End::Complete)
                && let Some(lost) = asleep_with_interrupt(shared, runner)
            {
                violations.push(lost_wakeup(shared, &lost, &runners));
            }
            if whole {
                violations
                    .extend(wrong.into_iter().map(|(vector, balance)| imbalance(shared, runner, vector, balance)));
            }
        }
        let partial = matches!(end, End::Interrupted);
        let unfinished = shared.unfinished.load(Ordering::Acquire);
        MachineRun { account, pending, unfinished, vms: self.vms(), violations, elapsed, partial }
    }

    fn vms(&self) -> Vec<VmResult> {
        let result = |vm: &VmShared<'_>| VmResult {
            vcpus: vm.vcpus.load(Ordering::Acquire) as u32,
            table: vm.vm.table_size(),
            last_index: vm.vm.last_pid_index,
            ipi_virtualization: vm.vm.apicv.ipiv_usable(),
            apicv: vm.vm.apicv.active,
            inhibits: vm.vm.inhibits(self.shared.memory).map(Inhibits::reasons).unwrap_or_default(),
        };
        self.shared.vms.iter().map(result).collect()
    }
}

fn record(kind: &'static str, vcpu: u32, message: impl Into<String>) -> ViolationRecord {
    ViolationRecord { kind, vcpu, message: message.into() }
}

/// PIR and VIRR of a vCPU.
fn waiting(shared: &Shared<'_>, runner: &Runner) -> ([u64; 4], [u64; 4]) {
    let pir = shared.slot(runner.task.slot).map(|slot| descriptor::requests(slot.pid)).unwrap_or_default();
    (pir, runner.task.vcpu.pending(shared.memory))
}

/// An interrupt waits for a vCPU that sleeps, and its guest would take it.
fn asleep_with_interrupt(shared: &Shared<'_>, runner: &Runner) -> Option<Lost> {
    let task = &runner.task;
    if !task.blocking || task.mp_state != MpState::Halted || !task.vcpu.vp().interrupt_flag {
        return None;
    }
    if task.vcpu.mode() == ApicMode::Disabled {
        return None;
    }
    let (pir, virr) = waiting(shared, runner);
    let apic = VirtualApic::new(shared.memory.page(task.vcpu.vp().vmcs.virtual_apic)?);
    let highest = vectors_of(std::array::from_fn(|i| pir[i] | virr[i])).last().copied()?;
    let tpr = vector::class(apic.get(ApicRegister::TPR) as u8);
    let served = apic.highest(ApicRegister::ISR).map_or(0, vector::class);
    let control = descriptor::control(shared.slot(task.slot)?.pid);
    (vector::class(highest) > tpr.max(served)).then_some(Lost {
        slot: task.slot,
        pir,
        virr,
        control,
        listed_on: task.listed_on,
        sleep: runner.trail.count(),
    })
}

fn hex(vectors: [u64; 4]) -> String {
    let words: Vec<_> = vectors_of(vectors).iter().map(|vector| format!("{vector:02X}H")).collect();
    words.join(" ")
}

/// The sentence about a vCPU that nobody will wake, with the last events on both sides.
fn lost_wakeup(shared: &Shared<'_>, lost: &Lost, runners: &[Box<Runner>]) -> ViolationRecord {
    let Lost { slot, pir, virr, control, listed_on, .. } = *lost;
    let name = shared.name(slot);
    let place = if pir == [0; 4] { "its VIRR" } else { "its descriptor" };
    let listed = match listed_on {
        Some(pcpu) => format!("on the wakeup list of pCPU {pcpu}"),
        None => "on no wakeup list".to_owned(),
    };
    let mut message = format!(
        "lost wake-up: {name} sleeps with {} in {place} (ON={}, SN={}, NV={:02X}H, NDST={:X}H), {listed}: nobody will wake it.",
        hex(std::array::from_fn(|i| pir[i] | virr[i])),
        u8::from(control.outstanding()),
        u8::from(control.suppress()),
        control.vector(),
        control.destination(),
    );
    for runner in runners {
        let other = runner.task.slot;
        if other == slot {
            message += &format!(" {name}: {}.", runner.trail.words());
        } else if runner.trail.posted_to(slot) {
            message += &format!(" {}: {}.", shared.name(other), runner.trail.words());
        }
    }
    record("lost-wakeup", slot, message)
}

/// The state of every vCPU, where nothing goes on.
fn stall(shared: &Shared<'_>, runners: &[Box<Runner>]) -> ViolationRecord {
    const MOST: usize = 64;
    let mut message = "nothing goes on:".to_owned();
    for runner in runners.iter().take(MOST) {
        let task = &runner.task;
        let (pir, virr) = waiting(shared, runner);
        let control = shared.slot(task.slot).map(|slot| descriptor::control(slot.pid)).unwrap_or_default();
        message += &format!(
            "\n  {}: {}, {}, PIR [{}], VIRR [{}], ON={}, SN={}, NV={:02X}H; {}",
            shared.name(task.slot),
            match (task.mp_state, task.blocking) {
                (MpState::InitReceived, _) => "waits for a start-up IPI",
                (MpState::Halted, _) | (MpState::Runnable, true) => "sleeps",
                (MpState::Runnable, false) => "runs",
            },
            if runner.finished { "at its program's end" } else { "in its program" },
            hex(pir),
            hex(virr),
            u8::from(control.outstanding()),
            u8::from(control.suppress()),
            control.vector(),
            runner.trail.words(),
        );
    }
    if runners.len() > MOST {
        message += &format!("\n  and {} more", runners.len() - MOST);
    }
    record("stall", runners.first().map_or(0, |runner| runner.task.slot), message)
}

fn imbalance(shared: &Shared<'_>, runner: &Runner, vector: u8, balance: i32) -> ViolationRecord {
    let slot = runner.task.slot;
    let what = if balance > 0 { "were posted and never arrived" } else { "arrived and nobody posted them" };
    let message = format!(
        "{} interrupts with vector {vector:02X}H for {} {what}. Its last events: {}.",
        balance.unsigned_abs(),
        shared.name(slot),
        runner.trail.words()
    );
    record("imbalance", slot, message)
}
