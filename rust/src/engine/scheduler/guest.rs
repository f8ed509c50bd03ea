//! A pCPU's time in a guest: from VM entry to VM exit.

use super::pcpu::Pcpu;
use crate::arch::msr::{X2APIC_ICR, X2APIC_SELF_IPI};
use crate::arch::{AccessKind, ApicMode, ApicRegister, Exit, Icr};
use crate::engine::machine::verdict::{Directory, reached};
use crate::engine::machine::{Progress, Runner, Trail, What};
use crate::guest::{Action, Moment, Via, View};
use crate::hypervisor::{ApicIdentity, Instruction, LOCAL_TIMER_VECTOR, VcpuWords};
use crate::processor::{Access, Boundary, ExternalInterrupt, NonRoot, Notice, Outcome, local_apic};
use rand_xoshiro::rand_core::Rng;
use std::sync::atomic::{AtomicU64, Ordering};

/// Cycles of a computation between two looks at interrupts, and how many `spin_loop`s stand for them.
const CHUNK: u32 = 256;
const SPINS_PER_CHUNK: u32 = 6;
/// A guest that spins uses its time slice up so much faster (pause-loop exiting).
const SPIN_STEPS: u32 = 16;
/// Spins after which the thread lets others run: there may be more pCPUs than CPUs.
const SPINS_BEFORE_YIELD: u32 = 64;

/// How the guest was left.
pub(super) enum Left {
    Exit {
        exit: Exit,
        acknowledged: Option<u8>,
        instruction: Instruction,
    },
    /// It cannot go on; that is a violation already.
    Broken,
}

impl From<Exit> for Left {
    fn from(exit: Exit) -> Self {
        Self::Exit { exit, acknowledged: None, instruction: Instruction::Other }
    }
}

/// What a step of the guest came to.
enum Step {
    Next,
    Leave(Left),
}

type Guest<'p, 'm> = NonRoot<'p, 'm, AtomicU64>;

impl Pcpu<'_, '_> {
    /// Runs the guest from VM entry to VM exit.
    pub(super) fn guest(&mut self, runner: &mut Runner, inject: Option<u8>, nmi: bool) -> Left {
        let shared = self.shared;
        let Some(vm) = shared.vms.get(runner.task.vm as usize) else { return Left::Broken };
        let Runner { task, cursor, progress: Progress { computing, finished, trail, .. }, .. } = runner;
        let (slot, vcpu, mode, base) = (task.slot, task.vcpu.vcpu(), task.vcpu.mode(), task.vcpu.base());
        let mut guest = match NonRoot::enter(shared.memory, task.vcpu.vp_mut()) {
            Ok(guest) => guest,
            Err(failure) => {
                self.broken(slot, &failure.to_string());
                return Left::Broken;
            }
        };
        self.account.counts.nmis += u64::from(nmi);
        if let Some(vector) = inject {
            self.account.delivered(slot, vector);
            let interrupts = std::mem::replace(&mut guest.state_mut().interrupt_flag, false);
            cursor.inject(&vm.guest.code, vector, interrupts, std::mem::take(computing));
        }
        let identity =
            |vcpu: u32| vm.vm.vcpu_words(shared.memory, vcpu).map_or(ApicIdentity::new(), VcpuWords::identity);
        let mut slice = shared.config.time_slice;
        if shared.chaos().preempt {
            slice = 1 + (self.random.next_u64() % u64::from(slice.max(1))) as u32;
        }
        let mut spins = 0;
        loop {
            if let Some(left) = self.external_interrupt(&mut guest, slot) {
                return left;
            }
            if cursor.interruptible() {
                match guest.boundary() {
                    Boundary::Nothing => {}
                    Boundary::Delivered(vector) => {
                        self.advances += 1;
                        self.account.delivered(slot, vector);
                        let interrupts = std::mem::replace(&mut guest.state_mut().interrupt_flag, false);
                        cursor.interrupt(&vm.guest.code, vector, interrupts, std::mem::take(computing));
                        trail.note(What::Delivered, vector, 0);
                    }
                    Boundary::Exit(exit) => return exit.into(),
                }
            }
            slice = slice.saturating_sub(1);
            if slice == 0 {
                // The host's timer: it is taken at the next look.
                local_apic::request(self.local.requests(), LOCAL_TIMER_VECTOR);
                self.publish_progress();
            }
            if *computing > 0 {
                self.advances += 1;
                compute(computing);
                continue;
            }
            let view = View {
                vcpu,
                vcpus: vm.vcpus.load(Ordering::Relaxed) as u32,
                mode,
                base,
                memory: &vm.memory,
                identity: &identity,
                stopping: shared.stopping(),
            };
            // There is no clock here.
            let moment = Moment { interrupts: guest.state().interrupt_flag, now: u64::MAX };
            let action = cursor.next(&vm.guest.code, view, moment);
            if mode == ApicMode::Disabled && reaches_page(action) {
                // There is no APIC at that address now: what is written there is lost.
                continue;
            }
            if let Action::Spin { .. } = action {
                slice = slice.saturating_sub(SPIN_STEPS).max(1);
                spins += 1;
                std::hint::spin_loop();
                if spins % SPINS_BEFORE_YIELD == 0 {
                    std::thread::yield_now();
                }
                continue;
            }
            self.advances += 1;
            let step = match action {
                Action::Send { icr, via } => self.send_ipi(&mut guest, icr, via, slot, trail),
                Action::Compute { cycles } => {
                    *computing = cycles;
                    Step::Next
                }
                Action::Return { interrupts, computing: left } => {
                    guest.state_mut().interrupt_flag = interrupts;
                    *computing = left;
                    Step::Next
                }
                Action::Idle => {
                    if !std::mem::replace(finished, true) {
                        shared.program_ended(slot);
                    }
                    halt(&mut guest)
                }
                _ => self.act(&mut guest, action, slot),
            };
            if let Step::Leave(left) = step {
                return left;
            }
        }
    }

    /// Takes what the local APIC has.
    #[inline]
    fn external_interrupt(&mut self, guest: &mut Guest<'_, '_>, slot: u32) -> Option<Left> {
        match guest.external_interrupt(&mut self.local) {
            ExternalInterrupt::None => {}
            ExternalInterrupt::Processed(harvest) => {
                self.advances += 1;
                self.account.notifications.spurious += u64::from(harvest.taken == 0);
                if harvest.merged > 0 {
                    self.account.harvested(slot, harvest, guest.state_mut().take_merged());
                }
            }
            ExternalInterrupt::Exit(exit, acknowledged) => {
                return Some(Left::Exit { exit, acknowledged, instruction: Instruction::Other });
            }
            ExternalInterrupt::Guest(vector) => {
                let message = format!("physical vector {vector:02X}H went to the guest of {}", self.shared.name(slot));
                self.account.violation("physical-interrupt-in-guest", slot, message);
            }
            ExternalInterrupt::Violation(violation) => {
                self.account.violation(violation.kind(), slot, violation.message(self.shared.memory));
            }
        }
        None
    }

    /// Does what the program wants.
    #[inline]
    fn act(&mut self, guest: &mut Guest<'_, '_>, action: Action, slot: u32) -> Step {
        match action {
            Action::Wrmsr { msr, value } => {
                let outcome = guest.wrmsr(msr, value);
                self.written(outcome, Instruction::Wrmsr { msr, value }, slot)
            }
            Action::Write { offset, value } => {
                let outcome = guest.mmio_write(Access::dword(offset, AccessKind::Write), u64::from(value));
                self.written(outcome, Instruction::Write { offset, value }, slot)
            }
            Action::Interrupts { enabled } => {
                guest.state_mut().interrupt_flag = enabled;
                Step::Next
            }
            Action::Hlt => halt(guest),
            Action::Internal
            | Action::Told
            | Action::Spin { .. }
            | Action::Send { .. }
            | Action::Compute { .. }
            | Action::Return { .. }
            | Action::Until { .. }
            | Action::Sleep { .. }
            | Action::Idle => Step::Next,
        }
    }

    /// The write that sends an interrupt.
    #[inline]
    fn send_ipi(&mut self, guest: &mut Guest<'_, '_>, icr: Icr, via: Via, slot: u32, trail: &mut Trail) -> Step {
        let (outcome, instruction) = match via {
            Via::X2ApicIcr => {
                let value = icr.to_x2apic();
                (guest.wrmsr(X2APIC_ICR, value), Instruction::Wrmsr { msr: X2APIC_ICR, value })
            }
            Via::SelfIpiMsr => {
                let value = u64::from(icr.low.vector());
                (guest.wrmsr(X2APIC_SELF_IPI, value), Instruction::Wrmsr { msr: X2APIC_SELF_IPI, value })
            }
            Via::Mmio => {
                let (low, offset) = (icr.low.into_bits(), ApicRegister::ICR_LOW.offset());
                let outcome = guest.mmio_write(Access::dword(offset, AccessKind::Write), u64::from(low));
                (outcome, Instruction::Write { offset, value: low })
            }
        };
        let mut to = slot;
        if let Outcome::Posted(posted) = outcome {
            if let Notice::Due(due) = posted.notice
                && !self.shared.notify(due.destination, due.vector)
            {
                let message = format!("a notification went to NDST {:X}H, which is no pCPU", due.destination);
                self.account.violation("notification-to-nobody", slot, message);
            }
            to = self.posted_for(slot, posted.apic_id, posted.descriptor);
            trail.note(What::Posted, posted.vector, to);
        } else if let Outcome::Exit(_) = outcome {
            trail.note(What::Exited, icr.low.vector(), 0);
        }
        self.account.sent(&outcome, to);
        self.written(outcome, instruction, slot)
    }

    /// The slot of the vCPU whose descriptor that is.
    #[inline]
    fn posted_for(&mut self, from: u32, apic_id: u32, descriptor: u64) -> u32 {
        let shared = self.shared;
        let first = shared.vm_of(from).map_or(0, |vm| vm.first_slot);
        // vCPU k has APIC ID k, unless a guest has rewritten its ID; the table is indexed by the first.
        let to = first + apic_id;
        if shared.config.naive_apic_ids {
            return self.naive_target(from, apic_id, descriptor);
        }
        to
    }

    /// Without the inhibit the table leads by the ID that a vCPU was made with: say so where that is another's now.
    #[cold]
    fn naive_target(&mut self, from: u32, apic_id: u32, descriptor: u64) -> u32 {
        let shared = self.shared;
        let first = shared.vm_of(from).map_or(0, |vm| vm.first_slot);
        let (to, misled) = reached(shared, first, from, apic_id, descriptor);
        if let Some(message) = misled {
            self.account.violation("misdelivery", from, message);
        }
        to
    }

    /// What came of a write.
    #[inline]
    fn written(&mut self, outcome: Outcome, instruction: Instruction, slot: u32) -> Step {
        match outcome {
            Outcome::Virtualized(_) | Outcome::Posted(_) | Outcome::SelfIpi { .. } => Step::Next,
            Outcome::Exit(exit) => Step::Leave(Left::Exit { exit, acknowledged: None, instruction }),
            Outcome::Fault(clause) => {
                self.account.fault(clause);
                Step::Next
            }
            Outcome::NotVirtualized(clause) => {
                let message = format!("{} reached the physical local APIC: {clause}", self.shared.name(slot));
                self.account.violation("escape", slot, message);
                Step::Next
            }
            Outcome::Violation(violation) => {
                let message = format!("{}: {}", self.shared.name(slot), violation.message(self.shared.memory));
                self.account.violation(violation.kind(), slot, message);
                Step::Next
            }
        }
    }
}

/// Whether it writes to the APIC page.
const fn reaches_page(action: Action) -> bool {
    matches!(action, Action::Write { .. } | Action::Send { via: Via::Mmio, .. })
}

/// STI; HLT.
fn halt(guest: &mut Guest<'_, '_>) -> Step {
    guest.state_mut().interrupt_flag = true;
    match guest.hlt() {
        Some(exit) => Step::Leave(exit.into()),
        None => Step::Next,
    }
}

/// A piece of a computation. The threads engine does not count cycles: a spin stands for some forty.
fn compute(left: &mut u32) {
    let chunk = (*left).min(CHUNK);
    for _ in 0..=chunk * SPINS_PER_CHUNK / CHUNK {
        std::hint::spin_loop();
    }
    *left -= chunk;
}
