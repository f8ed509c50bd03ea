//! The verdict about a run: what to say about vCPUs that sleep for ever, a standstill, books that do not balance.

use super::config::Guest;
use super::runner::Runner;
use crate::arch::{ApicMode, ApicRegister, PidControl, vector};
use crate::hypervisor::{MpState, Slot};
use crate::memory::{Owner, PhysicalMemory, Word};
use crate::processor::{VirtualApic, descriptor, vectors_of};
use crate::record::{Account, ViolationRecord};
use std::borrow::Borrow;
use std::fmt::Write;

/// Where the vCPUs of a machine are found, and what people call them.
pub(in crate::engine) trait Directory<'m> {
    /// The words of memory.
    type W: Word + 'm;
    /// Physical memory.
    fn memory(&self) -> &'m PhysicalMemory<Self::W>;
    /// A vCPU.
    fn slot(&self, slot: u32) -> Option<Slot<'m, Self::W>>;
    /// VMs.
    fn vms(&self) -> usize;

    /// A vCPU, for people.
    fn name(&self, slot: u32) -> String {
        match self.slot(slot) {
            Some(Slot { vcpu, .. }) if self.vms() == 1 => format!("vCPU {vcpu}"),
            Some(Slot { vm, vcpu, .. }) => format!("vCPU {vcpu} of VM {vm}"),
            None => format!("vCPU slot {slot}"),
        }
    }
}

/// A vCPU that sleeps though an interrupt waits for it.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Lost {
    pub(in crate::engine) slot: u32,
    pir: [u64; 4],
    virr: [u64; 4],
    control: PidControl,
    /// The pCPU on whose wakeup list it is.
    pub(in crate::engine) listed_on: Option<u32>,
    /// Which sleep it is.
    pub(in crate::engine) sleep: usize,
}

pub(in crate::engine) fn record(kind: &'static str, vcpu: u32, message: impl Into<String>) -> ViolationRecord {
    ViolationRecord { kind, vcpu, message: message.into() }
}

/// PIR and VIRR of a vCPU.
fn waiting<'m>(of: &impl Directory<'m>, runner: &Runner) -> ([u64; 4], [u64; 4]) {
    let pir = of.slot(runner.task.slot).map(|slot| descriptor::requests(slot.pid)).unwrap_or_default();
    (pir, runner.task.vcpu.pending(of.memory()))
}

/// An interrupt waits for a vCPU that sleeps, and its guest would take it.
pub(in crate::engine) fn asleep_with_interrupt<'m>(of: &impl Directory<'m>, runner: &Runner) -> Option<Lost> {
    let task = &runner.task;
    if !task.blocking || task.mp_state != MpState::Halted || !task.vcpu.vp().interrupt_flag {
        return None;
    }
    if task.vcpu.mode() == ApicMode::Disabled {
        return None;
    }
    let (pir, virr) = waiting(of, runner);
    let apic = VirtualApic::new(of.memory().registers(task.vcpu.vp().vmcs.virtual_apic)?);
    let highest = vectors_of(std::array::from_fn(|i| pir[i] | virr[i])).last().copied()?;
    let tpr = vector::class(apic.get(ApicRegister::TPR) as u8);
    let served = apic.highest(ApicRegister::ISR).map_or(0, vector::class);
    let control = descriptor::control(of.slot(task.slot)?.pid);
    (vector::class(highest) > tpr.max(served)).then_some(Lost {
        slot: task.slot,
        pir,
        virr,
        control,
        listed_on: task.listed_on,
        sleep: runner.progress.trail.count(),
    })
}

fn hex(vectors: [u64; 4]) -> String {
    let words: Vec<_> = vectors_of(vectors).iter().map(|vector| format!("{vector:02X}H")).collect();
    words.join(" ")
}

/// The sentence about a vCPU that nobody will wake, with the last events on both sides.
pub(in crate::engine) fn lost_wakeup<'m>(
    of: &impl Directory<'m>,
    lost: &Lost,
    runners: &[impl Borrow<Runner>],
) -> ViolationRecord {
    let Lost { slot, pir, virr, control, listed_on, .. } = *lost;
    let name = of.name(slot);
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
    for runner in runners.iter().map(Borrow::borrow) {
        let other = runner.task.slot;
        if other == slot {
            let _ = write!(message, " {name}: {}.", runner.progress.trail.words());
        } else if runner.progress.trail.posted_to(slot) {
            let _ = write!(message, " {}: {}.", of.name(other), runner.progress.trail.words());
        }
    }
    record("lost-wakeup", slot, message)
}

/// The slot of the vCPU whose descriptor an IPI reached; and what to say where the APIC ID that it was sent to is another's
/// now. The table leads by the ID that a vCPU was made with.
pub(in crate::engine) fn reached<'m>(
    of: &impl Directory<'m>,
    first_slot: u32,
    from: u32,
    apic_id: u32,
    descriptor: u64,
) -> (u32, Option<String>) {
    let Some(Owner::Descriptor { vcpu, .. }) = of.memory().owner_of(descriptor).map(|piece| piece.owner) else {
        return (first_slot + apic_id, None);
    };
    let to = first_slot + vcpu;
    let now = of.slot(to).map(|slot| slot.words.identity().id()).filter(|&id| id != apic_id);
    let message = now.map(|id| {
        format!(
            "{} sent to APIC ID {apic_id}; the table led to the descriptor of {}, whose APIC ID is {id} now",
            of.name(from),
            of.name(to)
        )
    });
    (to, message)
}

/// The state of every vCPU, where nothing goes on.
pub(in crate::engine) fn stall<'m>(
    of: &impl Directory<'m>,
    guests: &[Guest],
    runners: &[impl Borrow<Runner>],
) -> ViolationRecord {
    const MOST: usize = 64;
    let mut message = "nothing goes on:".to_owned();
    for runner in runners.iter().map(Borrow::borrow).take(MOST) {
        let task = &runner.task;
        let (pir, virr) = waiting(of, runner);
        let control = of.slot(task.slot).map(|slot| descriptor::control(slot.pid)).unwrap_or_default();
        let _ = write!(
            message,
            "\n  {}: {}, {}, PIR [{}], VIRR [{}], ON={}, SN={}, NV={:02X}H; {}",
            of.name(task.slot),
            match (task.mp_state, task.blocking) {
                (MpState::InitReceived, _) => "waits for a start-up IPI",
                (MpState::Halted, _) | (MpState::Runnable, true) => "sleeps",
                (MpState::Runnable, false) => "runs",
            },
            place_in_program(guests, runner),
            hex(pir),
            hex(virr),
            u8::from(control.outstanding()),
            u8::from(control.suppress()),
            control.vector(),
            runner.progress.trail.words(),
        );
    }
    if runners.len() > MOST {
        let _ = write!(message, "\n  and {} more", runners.len() - MOST);
    }
    // Of those that are at their ends nothing more is awaited.
    let mut waiting = runners.iter().map(Borrow::borrow).filter(|runner| !runner.progress.finished);
    record("stall", waiting.next().map_or(0, |runner| runner.task.slot), message)
}

/// Where a vCPU is, and what it waits for there.
fn place_in_program(guests: &[Guest], runner: &Runner) -> String {
    if runner.progress.finished {
        return "at its program's end".to_owned();
    }
    let guest = guests.get(runner.task.vm as usize);
    match guest.and_then(|guest| Some((guest, runner.cursor.awaits(&guest.code)?))) {
        Some((guest, awaited)) => format!("where its program waits for {}", awaited.in_words(&guest.names)),
        None => "in its program".to_owned(),
    }
}

fn imbalance<'m>(of: &impl Directory<'m>, runner: &Runner, vector: u8, balance: i32) -> ViolationRecord {
    let slot = runner.task.slot;
    let what = if balance > 0 { "were posted and never arrived" } else { "arrived and nobody posted them" };
    let message = format!(
        "{} interrupts with vector {vector:02X}H for {} {what}. Its last events: {}.",
        balance.unsigned_abs(),
        of.name(slot),
        runner.progress.trail.words()
    );
    record("imbalance", slot, message)
}

/// Takes what is still pending off the books of every vCPU. Returns how much that is, and what is wrong: a vCPU that
/// sleeps for ever where `complete` says that nothing is under way, books that do not balance where `whole` says that all
/// of them are there.
pub(in crate::engine) fn settle<'m, T>(
    of: &impl Directory<'m>,
    account: &mut Account<T>,
    runners: &[impl Borrow<Runner>],
    complete: bool,
    whole: bool,
) -> (u64, Vec<ViolationRecord>) {
    let each = || runners.iter().map(Borrow::borrow);
    let settled = each().map(|runner| {
        let (pir, virr) = waiting(of, runner);
        account.settle(runner.task.slot, pir, virr)
    });
    let pending = settled.sum();
    let wrong = if whole { account.wrong() } else { Vec::new() };
    let mut violations = Vec::new();
    for runner in each() {
        if complete && let Some(lost) = asleep_with_interrupt(of, runner) {
            violations.push(lost_wakeup(of, &lost, runners));
        }
        let first = wrong.partition_point(|&(slot, ..)| slot < runner.task.slot);
        let own = wrong[first..].iter().take_while(|&&(slot, ..)| slot == runner.task.slot);
        violations.extend(own.map(|&(_, vector, balance)| imbalance(of, runner, vector, balance)));
    }
    (pending, violations)
}
