//! The verdict about a run: what to say about vCPUs that sleep for ever, a standstill, books that do not balance.

use super::runner::Runner;
use super::shared::Shared;
use crate::arch::{ApicMode, ApicRegister, PidControl, vector};
use crate::hypervisor::MpState;
use crate::processor::{VirtualApic, descriptor, vectors_of};
use crate::record::ViolationRecord;
use std::fmt::Write;

/// A vCPU that sleeps though an interrupt waits for it.
#[derive(Clone, Copy)]
pub(super) struct Lost {
    pub(super) slot: u32,
    pir: [u64; 4],
    virr: [u64; 4],
    control: PidControl,
    /// The pCPU on whose wakeup list it is.
    pub(super) listed_on: Option<u32>,
    /// Which sleep it is.
    pub(super) sleep: usize,
}

pub(super) fn record(kind: &'static str, vcpu: u32, message: impl Into<String>) -> ViolationRecord {
    ViolationRecord { kind, vcpu, message: message.into() }
}

/// PIR and VIRR of a vCPU.
pub(super) fn waiting(shared: &Shared<'_>, runner: &Runner) -> ([u64; 4], [u64; 4]) {
    let pir = shared.slot(runner.task.slot).map(|slot| descriptor::requests(slot.pid)).unwrap_or_default();
    (pir, runner.task.vcpu.pending(shared.memory))
}

/// An interrupt waits for a vCPU that sleeps, and its guest would take it.
pub(super) fn asleep_with_interrupt(shared: &Shared<'_>, runner: &Runner) -> Option<Lost> {
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
pub(super) fn lost_wakeup(shared: &Shared<'_>, lost: &Lost, runners: &[Runner]) -> ViolationRecord {
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
            let _ = write!(message, " {name}: {}.", runner.trail.words());
        } else if runner.trail.posted_to(slot) {
            let _ = write!(message, " {}: {}.", shared.name(other), runner.trail.words());
        }
    }
    record("lost-wakeup", slot, message)
}

/// The state of every vCPU, where nothing goes on.
pub(super) fn stall(shared: &Shared<'_>, runners: &[Runner]) -> ViolationRecord {
    const MOST: usize = 64;
    let mut message = "nothing goes on:".to_owned();
    for runner in runners.iter().take(MOST) {
        let task = &runner.task;
        let (pir, virr) = waiting(shared, runner);
        let control = shared.slot(task.slot).map(|slot| descriptor::control(slot.pid)).unwrap_or_default();
        let _ = write!(
            message,
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
        let _ = write!(message, "\n  and {} more", runners.len() - MOST);
    }
    record("stall", runners.first().map_or(0, |runner| runner.task.slot), message)
}

pub(super) fn imbalance(shared: &Shared<'_>, runner: &Runner, vector: u8, balance: i32) -> ViolationRecord {
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
