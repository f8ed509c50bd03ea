//! One interrupt from WRMSR to EOI, on one thread.

#![allow(clippy::redundant_closure_for_method_calls, reason = "a method is of one lifetime, not of every")]

use super::floor::Lines;
use super::{Figure, NotMeasured, beside, seconds_of};
use crate::arch::{AccessKind, ApicMode};
use crate::guest::end_of_interrupt;
use crate::hypervisor::{Vcpu, Vm, VmConfig};
use crate::memory::{Line, Owner, PhysicalMemory};
use crate::processor::{Access, Boundary, ExternalInterrupt, LocalApic, NonRoot, Notice, Outcome, local_apic};
use std::hint::black_box;
use std::sync::atomic::AtomicU64;

type Memory = PhysicalMemory<AtomicU64>;

const VECTOR: u64 = 0xFB;
/// Machines that are made anew: where one lies in memory is chance.
const MACHINES: usize = 8;
const ROUNDS: usize = 50;

/// Pairs of vCPUs of one VM, and a local APIC for the receiver of each.
#[derive(Debug)]
pub struct PairMachine {
    memory: Memory,
    vcpus: Vec<Vcpu>,
    mode: ApicMode,
    locals: Vec<u64>,
}

impl PairMachine {
    /// One pair.
    ///
    /// # Errors
    /// The VM cannot be made.
    pub fn new(mode: ApicMode) -> Result<Self, NotMeasured> {
        Self::with_pairs(mode, 1)
    }

    /// So many pairs.
    ///
    /// # Errors
    /// The VM cannot be made.
    pub fn with_pairs(mode: ApicMode, pairs: u32) -> Result<Self, NotMeasured> {
        let config = VmConfig::new(2 * pairs, mode);
        let vcpus = 2 * pairs;
        let memory = Memory::new(config.memory_bytes() + u64::from(vcpus + 1) * 4096);
        let (_, created) = Vm::create(&memory, &config).map_err(|error| NotMeasured(error.to_string()))?;
        let local = |pcpu| memory.allocate(Owner::LocalApic { pcpu }, 64, 64);
        let locals = (0..vcpus).map(local).collect::<Result<_, _>>().map_err(|error| NotMeasured(error.to_string()))?;
        Ok(Self { memory, vcpus: created, mode, locals })
    }

    /// The first pair, ready to run.
    ///
    /// # Errors
    /// The machine is not as it was made.
    pub fn pair(&mut self) -> Result<Pair<'_>, NotMeasured> {
        self.pairs()?.pop().ok_or_else(|| NotMeasured("no vCPUs".to_owned()))
    }

    /// All pairs, ready to run.
    ///
    /// # Errors
    /// The machine is not as it was made.
    pub fn pairs(&mut self) -> Result<Vec<Pair<'_>>, NotMeasured> {
        let Self { memory, vcpus, mode, locals } = self;
        let sides = vcpus.chunks_exact_mut(2).zip(locals.chunks_exact(2));
        sides.map(|(vcpus, locals)| Pair::new(memory, vcpus, locals, *mode)).collect()
    }
}

/// One vCPU in non-root operation, and the local APIC of the pCPU that it runs on.
#[derive(Debug)]
pub(super) struct Side<'m> {
    guest: NonRoot<'m, 'm, AtomicU64>,
    apic: LocalApic<'m, AtomicU64>,
    apic_id: u64,
    mode: ApicMode,
}

impl Side<'_> {
    /// Sends the interrupt; none: it was not posted.
    // Out of line, its result would go through memory, and registers be saved, which is not the path's.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the path alone is to be measured")]
    fn send(&mut self, target: u64) -> Option<Notice> {
        let outcome = if self.mode == ApicMode::X2Apic {
            self.guest.wrmsr(0x830, black_box(target << 32 | VECTOR))
        } else {
            let write = |offset| Access::dword(offset, AccessKind::Write);
            let _ = self.guest.mmio_write(write(0x310), black_box(target << 24));
            self.guest.mmio_write(write(0x300), black_box(VECTOR))
        };
        let Outcome::Posted(posted) = outcome else { return None };
        black_box(posted.coalesced);
        Some(posted.notice)
    }

    /// Sends it and carries the notification.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as send")]
    pub(super) fn send_to(&mut self, target: u64, requests: &Line<AtomicU64>) -> bool {
        let Some(Notice::Due(due)) = self.send(target) else { return false };
        local_apic::request(requests, due.vector);
        true
    }

    /// Looks at the local APIC, processes what it has, delivers the interrupt and ends it; whether there was one.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as send")]
    pub(super) fn receive(&mut self) -> bool {
        let ExternalInterrupt::Processed(_) = self.guest.external_interrupt(&mut self.apic) else { return false };
        let Boundary::Delivered(vector) = self.guest.boundary() else { return false };
        black_box(vector);
        let _ = end_of_interrupt(&mut self.guest, self.mode);
        true
    }
}

/// Two vCPUs, each with the local APIC of its pCPU.
#[derive(Debug)]
pub struct Pair<'m> {
    pub(super) sender: Side<'m>,
    pub(super) receiver: Side<'m>,
    /// Where notifications for either go.
    pub(super) requests: [&'m Line<AtomicU64>; 2],
}

impl<'m> Pair<'m> {
    fn new(memory: &'m Memory, vcpus: &'m mut [Vcpu], locals: &[u64], mode: ApicMode) -> Result<Self, NotMeasured> {
        let mut sides = Vec::with_capacity(2);
        let mut lines = Vec::with_capacity(2);
        for (vcpu, &local) in vcpus.iter_mut().zip(locals) {
            let requests = memory.line(local).ok_or_else(|| NotMeasured("no local APIC".to_owned()))?;
            let apic_id = u64::from(vcpu.apic_id());
            let guest =
                NonRoot::resume(memory, vcpu.vp_mut()).map_err(|violation| NotMeasured(violation.message(memory)))?;
            sides.push(Side { guest, apic: LocalApic::new(requests), apic_id, mode });
            lines.push(requests);
        }
        match (sides.pop(), sides.pop(), lines[..].try_into()) {
            (Some(receiver), Some(sender), Ok(requests)) => Ok(Self { sender, receiver, requests }),
            _ => Err(NotMeasured("a pair is two vCPUs".to_owned())),
        }
    }

    /// The APIC IDs of sender and receiver.
    pub(super) fn apic_ids(&self) -> [u64; 2] {
        [self.sender.apic_id, self.receiver.apic_id]
    }

    /// Sends an IPI, carries the notification, processes it, delivers the interrupt and ends it; whether all of it
    /// happened.
    #[inline]
    pub fn ipi(&mut self) -> bool {
        let target = self.receiver.apic_id;
        self.sender.send_to(target, self.requests[1]) && self.receiver.receive()
    }

    /// Sends an IPI to a receiver that does not look; whether ON was set already.
    #[inline]
    pub fn coalesced(&mut self) -> bool {
        let target = self.receiver.apic_id;
        self.sender.send(target) == Some(Notice::Outstanding)
    }
}

/// One IPI, WRMSR (in xAPIC mode two memory-mapped writes) to EOI, beside its locked operations. Seconds.
///
/// # Errors
/// The interrupt does not take the whole way.
pub fn one_ipi(mode: ApicMode) -> Result<Figure, NotMeasured> {
    over_machines(mode, |lines| lines.interrupt(), |pair| pair.ipi(), "an IPI was not posted, processed and delivered")
}

/// A post to a vCPU whose ON is set, beside one locked operation and one load. Seconds.
///
/// # Errors
/// ON was not set.
pub fn coalesced() -> Result<Figure, NotMeasured> {
    over_machines(ApicMode::X2Apic, |lines| lines.post(), |pair| pair.coalesced(), "a post was not coalesced")
}

fn over_machines(
    mode: ApicMode,
    floor: impl Fn(Lines<'_>),
    work: impl Fn(&mut Pair<'_>) -> bool,
    otherwise: &str,
) -> Result<Figure, NotMeasured> {
    let mut figures = Vec::new();
    for _ in 0..MACHINES {
        let mut machine = PairMachine::new(mode)?;
        let mut pair = machine.pair()?;
        let memory = Lines::memory(1);
        let lines = Lines::of(&memory, 0).ok_or_else(|| NotMeasured("no room for a line".to_owned()))?;
        let mut happened = true;
        // In one place, so that it stands in the loop: out of line, saving registers would be measured with it.
        let mut timed = |all: &mut bool| seconds_of(|| *all &= work(&mut pair));
        // The first post sets ON.
        timed(&mut true);
        figures.push(beside(ROUNDS, || seconds_of(|| floor(lines)), || timed(&mut happened)));
        if !happened {
            return Err(NotMeasured(otherwise.to_owned()));
        }
    }
    let middle = |part: fn(&Figure) -> f64| super::median(figures.iter().map(part));
    Ok(Figure { value: middle(|f| f.value), floor: middle(|f| f.floor), ratio: middle(|f| f.ratio) })
}
