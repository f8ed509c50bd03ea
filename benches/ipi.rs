//! One interrupt end to end, WRMSR to EOI, on one thread, beside a loop of the same locked operations.
//!
//! The two are measured in one run, and only their ratio counts: it says how far the model is from what no
//! implementation can beat.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark of something else than it says must stop")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipivrs::arch::ApicMode;
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

/// Carries the notification, processes it, delivers the interrupt and ends it.
fn arrive(
    outcome: Outcome,
    requests: &Line<AtomicU64>,
    receiver: &mut NonRoot<'_, AtomicU64>,
    apic: &mut LocalApic<'_, AtomicU64>,
    mode: ApicMode,
) {
    let Outcome::Posted(posted) = outcome else { panic!("not posted: {outcome:?}") };
    if let Notice::Due(due) = posted.notice {
        local_apic::request(requests, due.vector);
    }
    let ExternalInterrupt::Processed(_) = receiver.external_interrupt(apic) else { panic!("not processed") };
    let Boundary::Delivered(vector) = receiver.boundary() else { panic!("not delivered") };
    black_box(vector);
    let _ = end_of_interrupt(receiver, mode);
}

fn end_to_end(c: &mut Criterion, name: &str, mode: ApicMode) {
    let Machine { memory, mut vcpus, local } = machine(mode);
    let requests = memory.line(local).expect("the local APIC");
    let (sender, receiver) = vcpus.split_at_mut(1);
    let mut sender = NonRoot::resume(&memory, sender[0].vp_mut()).expect("vCPU 0");
    let mut receiver = NonRoot::resume(&memory, receiver[0].vp_mut()).expect("vCPU 1");
    let mut apic = LocalApic::new(requests);
    let write = |offset| Access::dword(offset, ipivrs::arch::AccessKind::Write);
    c.bench_function(name, |b| {
        b.iter(|| {
            let outcome = if mode == ApicMode::X2Apic {
                sender.wrmsr(black_box(0x830), black_box(TARGET << 32 | VECTOR))
            } else {
                let _ = sender.mmio_write(write(0x310), black_box(TARGET << 24));
                sender.mmio_write(write(0x300), black_box(VECTOR))
            };
            arrive(outcome, requests, &mut receiver, &mut apic, mode);
        });
    });
}

/// The locked operations of one interrupt and nothing else: PIR, ON, request, acknowledge, ON, PIR.
fn floor(c: &mut Criterion) {
    let memory = Memory::new(1 << 16);
    let line = |pcpu| {
        let address = memory.allocate(Owner::LocalApic { pcpu }, 64, 64).expect("room");
        memory.line(address).expect("a line")
    };
    let (pid, requests) = (line(0), line(1));
    c.bench_function("locked operations of one IPI", |b| {
        b.iter(|| {
            locked_operations(pid, requests);
        });
    });
}

fn locked_operations(pid: &Line<AtomicU64>, requests: &Line<AtomicU64>) {
    black_box(pid[3].fetch_or(black_box(1 << 59), Ordering::SeqCst));
    let control = black_box(pid[4].load(Ordering::Relaxed));
    let _ = black_box(pid[4].compare_exchange(control, control | 1, Ordering::SeqCst, Ordering::SeqCst));
    black_box(requests[3].fetch_or(black_box(1 << 50), Ordering::SeqCst));
    black_box(requests[3].fetch_and(black_box(!(1 << 50)), Ordering::SeqCst));
    black_box(pid[4].fetch_and(black_box(!1), Ordering::SeqCst));
    black_box(pid[3].swap(0, Ordering::SeqCst));
}

/// Interrupts that each pair of vCPUs exchanges in one round.
const ROUND: u64 = 1_000_000;

/// `pairs` independent pairs of vCPUs in one VM, each on a thread of its own: the time in which each has sent a round.
fn pairs(count: u32) -> Duration {
    let config = VmConfig::new(2 * count, ApicMode::X2Apic);
    let memory = Memory::new(config.memory_bytes() + u64::from(count + 1) * 4096);
    let (_, mut vcpus) = Vm::create(&memory, &config).expect("a VM");
    let ready = Barrier::new(count as usize + 1);
    let mut begin = Instant::now();
    std::thread::scope(|scope| {
        for (pair, vcpus) in (0..count).zip(vcpus.chunks_mut(2)) {
            let local = memory.allocate(Owner::LocalApic { pcpu: pair }, 64, 64).expect("room for a local APIC");
            let (memory, ready) = (&memory, &ready);
            scope.spawn(move || {
                let requests = memory.line(local).expect("the local APIC");
                let (sender, receiver) = vcpus.split_at_mut(1);
                let mut sender = NonRoot::resume(memory, sender[0].vp_mut()).expect("the sender");
                let mut receiver = NonRoot::resume(memory, receiver[0].vp_mut()).expect("the receiver");
                let mut apic = LocalApic::new(requests);
                let icr = u64::from(2 * pair + 1) << 32 | VECTOR;
                ready.wait();
                for _ in 0..ROUND {
                    let outcome = sender.wrmsr(0x830, black_box(icr));
                    arrive(outcome, requests, &mut receiver, &mut apic, ApicMode::X2Apic);
                }
            });
        }
        ready.wait();
        begin = Instant::now();
    });
    begin.elapsed()
}

/// The locked operations of a round on each of `threads` threads, and nothing else: how far the machine itself scales.
fn bare(threads: u32) -> Duration {
    let memory = Memory::new(1 << 16);
    let line = |pcpu| {
        let address = memory.allocate(Owner::LocalApic { pcpu }, 64, 64).expect("room");
        memory.line(address).expect("a line")
    };
    let ready = Barrier::new(threads as usize + 1);
    let mut begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (pid, requests, ready) = (line(2 * thread), line(2 * thread + 1), &ready);
            scope.spawn(move || {
                ready.wait();
                (0..ROUND).for_each(|_| locked_operations(pid, requests));
            });
        }
        ready.wait();
        begin = Instant::now();
    });
    begin.elapsed()
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

fn benches(c: &mut Criterion) {
    floor(c);
    end_to_end(c, "one IPI, x2APIC, WRMSR to EOI", ApicMode::X2Apic);
    end_to_end(c, "one IPI, xAPIC, two writes to EOI", ApicMode::XApic);
}

criterion_group!(ipi, benches, scaling);
criterion_main!(ipi);
