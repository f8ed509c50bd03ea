//! One interrupt end to end, WRMSR to EOI, on one thread, beside a loop of the same locked operations.
//!
//! The two are measured in one run, and only their ratio counts: it says how far the model is from what no
//! implementation can beat.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::print_stdout, reason = "the ratios are printed beside what criterion prints")]
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark of something else than it says must stop")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipivrs::arch::{AccessKind, ApicMode};
use ipivrs::guest::end_of_interrupt;
use ipivrs::hypervisor::{Vcpu, Vm, VmConfig};
use ipivrs::memory::{Line, Owner, PhysicalMemory};
use ipivrs::processor::{Access, Boundary, ExternalInterrupt, LocalApic, NonRoot, Notice, Outcome, local_apic};
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Memory = PhysicalMemory<AtomicU64>;

const VECTOR: u64 = 0xFB;
const TARGET: u64 = 1;

struct Machine {
    memory: Memory,
    vcpus: Vec<Vcpu>,
    local: u64,
}

fn machine(mode: ApicMode) -> Machine {
    let config = VmConfig::new(2, mode);
    let memory = Memory::new(config.memory_bytes() + 4096);
    let (_, vcpus) = Vm::create(&memory, &config).expect("a VM of two vCPUs");
    let local = memory.allocate(Owner::LocalApic { pcpu: 1 }, 64, 64).expect("room for a local APIC");
    Machine { memory, vcpus, local }
}

/// Two vCPUs in non-root operation on one thread, and the local APIC between them.
struct Pair<'m> {
    sender: NonRoot<'m, AtomicU64>,
    receiver: NonRoot<'m, AtomicU64>,
    requests: &'m Line<AtomicU64>,
    apic: LocalApic<'m, AtomicU64>,
    mode: ApicMode,
}

impl<'m> Pair<'m> {
    fn new(memory: &'m Memory, vcpus: &'m mut [Vcpu], local: u64, mode: ApicMode) -> Self {
        let requests = memory.line(local).expect("the local APIC");
        let (sender, receiver) = vcpus.split_at_mut(1);
        Self {
            sender: NonRoot::resume(memory, sender[0].vp_mut()).expect("the sender"),
            receiver: NonRoot::resume(memory, receiver[0].vp_mut()).expect("the receiver"),
            requests,
            apic: LocalApic::new(requests),
            mode,
        }
    }

    /// Sends an IPI to `target`, carries the notification, processes it, delivers the interrupt and ends it.
    fn ipi(&mut self, target: u64) {
        let outcome = if self.mode == ApicMode::X2Apic {
            self.sender.wrmsr(0x830, black_box(target << 32 | VECTOR))
        } else {
            let write = |offset| Access::dword(offset, AccessKind::Write);
            let _ = self.sender.mmio_write(write(0x310), black_box(target << 24));
            self.sender.mmio_write(write(0x300), black_box(VECTOR))
        };
        let Outcome::Posted(posted) = outcome else { panic!("not posted: {outcome:?}") };
        if let Notice::Due(due) = posted.notice {
            local_apic::request(self.requests, due.vector);
        }
        let ExternalInterrupt::Processed(_) = self.receiver.external_interrupt(&mut self.apic) else {
            panic!("not processed")
        };
        let Boundary::Delivered(vector) = self.receiver.boundary() else { panic!("not delivered") };
        black_box(vector);
        let _ = end_of_interrupt(&mut self.receiver, self.mode);
    }
}

/// The locked operations of one interrupt and nothing else, the floor: PIR, ON, request, acknowledge, ON, PIR.
fn locked_operations(pid: &Line<AtomicU64>, requests: &Line<AtomicU64>) {
    black_box(pid[3].fetch_or(black_box(1 << 59), Ordering::SeqCst));
    let control = black_box(pid[4].load(Ordering::Relaxed));
    let _ = black_box(pid[4].compare_exchange(control, control | 1, Ordering::SeqCst, Ordering::SeqCst));
    black_box(requests[3].fetch_or(black_box(1 << 50), Ordering::SeqCst));
    black_box(requests[3].fetch_and(black_box(!(1 << 50)), Ordering::SeqCst));
    black_box(pid[4].fetch_and(black_box(!1), Ordering::SeqCst));
    black_box(pid[3].swap(0, Ordering::SeqCst));
}

fn line(memory: &Memory, pcpu: u32) -> &Line<AtomicU64> {
    let address = memory.allocate(Owner::LocalApic { pcpu }, 64, 64).expect("room");
    memory.line(address).expect("a line")
}

/// Interrupts that each pair of vCPUs exchanges in one round.
const ROUND: u64 = 1_000_000;

/// Does `work` a round long on a thread for each of its members, all at once; how long the slowest took.
fn at_once<F: FnMut() + Send>(work: impl IntoIterator<Item = F>) -> Duration {
    let work: Vec<F> = work.into_iter().collect();
    let ready = Barrier::new(work.len());
    let round = |mut each: F| {
        ready.wait();
        let begin = Instant::now();
        (0..ROUND).for_each(|_| each());
        begin.elapsed()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().map(|each| scope.spawn(|| round(each))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a round")).max().unwrap_or_default()
    })
}

/// A round of IPIs in each of `count` independent pairs of vCPUs of one VM, each pair on a thread of its own.
fn pairs(count: u32) -> Duration {
    let config = VmConfig::new(2 * count, ApicMode::X2Apic);
    let memory = Memory::new(config.memory_bytes() + u64::from(count + 1) * 4096);
    let (_, mut vcpus) = Vm::create(&memory, &config).expect("a VM");
    let memory = &memory;
    at_once((0..count).zip(vcpus.chunks_mut(2)).map(|(number, vcpus)| {
        let local = memory.allocate(Owner::LocalApic { pcpu: number }, 64, 64).expect("room for a local APIC");
        let mut pair = Pair::new(memory, vcpus, local, ApicMode::X2Apic);
        move || pair.ipi(u64::from(2 * number + 1))
    }))
}

/// The locked operations of a round on each of `threads` threads, and nothing else: how far the machine itself scales.
fn bare(threads: u32) -> Duration {
    let memory = Memory::new(1 << 16);
    at_once((0..threads).map(|thread| {
        let (pid, requests) = (line(&memory, 2 * thread), line(&memory, 2 * thread + 1));
        move || locked_operations(pid, requests)
    }))
}

/// Independent additions and nothing shared: two threads of one core, as many virtual machines have them, do less than
/// twice the work of one, and no pair can then do better.
fn arithmetic(threads: u32) -> Duration {
    at_once((0..threads).map(|_| {
        let mut sums = [0u64; 6];
        move || {
            for _ in 0..12 {
                sums = sums.map(|sum| black_box(sum) + 1);
            }
        }
    }))
}

/// One pair on one thread, and two on two: where nothing is shared the times are the same.
fn scaling(c: &mut Criterion) {
    let mut group = c.benchmark_group("a million IPIs in each pair");
    group.sample_size(20);
    for count in [1, 2] {
        group.throughput(Throughput::Elements(u64::from(count) * ROUND));
        group.bench_function(format!("{count} pairs on {count} threads"), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| pairs(count)).sum());
        });
    }
    for threads in [1, 2] {
        group.throughput(Throughput::Elements(u64::from(threads) * ROUND));
        group.bench_function(format!("their locked operations alone on {threads} threads"), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| bare(threads)).sum());
        });
    }
    group.finish();
}

fn one_thread(c: &mut Criterion) {
    let memory = Memory::new(1 << 16);
    let (pid, requests) = (line(&memory, 0), line(&memory, 1));
    c.bench_function("locked operations of one IPI", |b| b.iter(|| locked_operations(pid, requests)));
    for (name, mode) in MODES {
        let Machine { memory, mut vcpus, local } = machine(mode);
        let mut pair = Pair::new(&memory, &mut vcpus, local, mode);
        c.bench_function(name, |b| b.iter(|| pair.ipi(TARGET)));
    }
}

const MODES: [(&str, ApicMode); 2] =
    [("one IPI, x2APIC, WRMSR to EOI", ApicMode::X2Apic), ("one IPI, xAPIC, two writes to EOI", ApicMode::XApic)];

/// The ratios, from rounds that take turns: whatever slows the machine down for a while slows both sides of each.
fn ratios(_: &mut Criterion) {
    const ROUNDS: usize = 400;
    let memory = Memory::new(1 << 16);
    let (pid, requests) = (line(&memory, 0), line(&memory, 1));
    for (name, mode) in MODES {
        let Machine { memory, mut vcpus, local } = machine(mode);
        let mut pair = Pair::new(&memory, &mut vcpus, local, mode);
        let [lower, median, upper] = quartiles((0..ROUNDS).map(|_| {
            let floor = time(|| locked_operations(pid, requests));
            time(|| pair.ipi(TARGET)) / floor
        }));
        println!("{name}: {median:.2} x its locked operations (quartiles {lower:.2} and {upper:.2})");
    }
    for (name, round) in [
        ("two pairs on two threads", pairs as fn(u32) -> Duration),
        ("bare locked operations on two threads", bare),
        ("plain arithmetic on two threads", arithmetic),
    ] {
        let [lower, median, upper] = quartiles((0..40).map(|_| 2.0 * round(1).as_secs_f64() / round(2).as_secs_f64()));
        println!("{name}: {median:.2} x the work of one (quartiles {lower:.2} and {upper:.2})");
    }
}

fn quartiles(ratios: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| ratios[quarter * ratios.len() / 4])
}

/// Seconds that some thousand calls take.
fn time(mut work: impl FnMut()) -> f64 {
    let begin = Instant::now();
    (0..20_000).for_each(|_| work());
    begin.elapsed().as_secs_f64()
}

criterion_group!(ipi, one_thread, ratios, scaling);
criterion_main!(ipi);
