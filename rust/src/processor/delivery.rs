//! Evaluation of pending virtual interrupts and their delivery.
//!
//! SDM vol. 3C, "Evaluation of Pending Virtual Interrupts" 30.2.1, "Virtual-Interrupt Delivery" 30.2.2.

use super::{Activity, NonRoot, VirtualApic, VirtualProcessor};
use crate::arch::{ApicRegister, Clause, Exit, ExitReason, vector};
use crate::memory::Word;

/// What happened at an instruction boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Boundary {
    /// Nothing: no virtual interrupt was pending, or the guest could not take one.
    Nothing,
    /// A virtual interrupt was delivered through the guest's IDT.
    Delivered(u8),
    /// VM exit: interrupt window, or TPR below threshold right after VM entry.
    Exit(Exit),
}

impl<W: Word> NonRoot<'_, '_, W> {
    /// Evaluates pending virtual interrupts. (30.2.1) Only VM entry, TPR, EOI and self-IPI virtualization and
    /// posted-interrupt processing do it: a change of RVI alone recognizes nothing.
    #[inline]
    pub(super) fn evaluate(&mut self) {
        self.vp.recognized =
            !self.vp.controls.interrupt_window_exiting && vector::class(self.vp.vmcs.rvi) > vector::class(self.vppr());
    }

    /// An instruction boundary: delivers a recognized virtual interrupt if the guest can take it, with RFLAGS.IF = 1 and
    /// no shadow: it is then deliverable. (30.2.2) Before it come the TPR threshold right after VM entry (27.7.7) and the
    /// interrupt window (26.2).
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    pub fn boundary(&mut self) -> Boundary {
        // Bits that are nearly always 0, in one branch.
        if self.vp.threshold_due | self.vp.controls.interrupt_window_exiting
            && let Some(exit) = self.vp.boundary_exit(self.apic)
        {
            return Boundary::Exit(exit);
        }
        if self.vp.recognized && self.vp.takes_interrupts() {
            Boundary::Delivered(self.deliver())
        } else {
            Boundary::Nothing
        }
    }

    /// Virtual-interrupt delivery, which ends HLT: the wake-up. (30.2.2)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    fn deliver(&mut self) -> u8 {
        let vector = self.vp.vmcs.rvi;
        self.apic.set_bit(ApicRegister::ISR, vector);
        self.vp.vmcs.svi = vector;
        self.apic.set(ApicRegister::PPR, u32::from(vector::class_floor(vector)));
        self.apic.clear_bit(ApicRegister::IRR, vector);
        self.vp.vmcs.rvi = self.apic.highest(ApicRegister::IRR).unwrap_or(0);
        self.vp.recognized = false;
        self.vp.activity = Activity::Active;
        vector
    }

    /// HLT: a VM exit with HLT exiting = 1, else the guest sleeps until an interrupt. (26.1.3)
    pub fn hlt(&mut self) -> Option<Exit> {
        if self.vp.controls.hlt_exiting {
            return Some(self.exit(Exit { reason: ExitReason::Hlt, qualification: 0, clause: Clause::HltExiting }));
        }
        self.vp.activity = Activity::Hlt;
        None
    }
}

impl VirtualProcessor {
    /// RFLAGS.IF = 1, no shadow, and an activity state that interrupts end. (30.2.2, 26.2)
    #[inline]
    const fn takes_interrupts(&self) -> bool {
        let awake = matches!(self.activity, Activity::Active | Activity::Hlt);
        self.interrupt_flag && !self.interrupt_shadow && awake
    }

    /// What exits at an instruction boundary: the TPR threshold, right after VM entry; the interrupt window.
    #[cold]
    #[inline(never)]
    fn boundary_exit<W: Word>(&mut self, apic: VirtualApic<'_, W>) -> Option<Exit> {
        if std::mem::take(&mut self.threshold_due) && self.tpr_below_threshold(apic) {
            return Some(self.tpr_exit());
        }
        if !(self.controls.interrupt_window_exiting && self.takes_interrupts()) {
            return None;
        }
        let clause = Clause::InterruptWindow;
        Some(self.exit(Exit { reason: ExitReason::InterruptWindow, qualification: 0, clause }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, X2APIC};
    use super::*;

    /// Every vector against every TPR: delivered exactly if its class is above.
    #[test]
    fn every_vector_against_every_tpr() {
        for tpr in 0..=255u64 {
            let mut machine = Machine::new(X2APIC, 1);
            let _ = machine.guest(0).wrmsr(0x808, tpr);
            for vector in 16..=255u8 {
                let _ = machine.guest(0).wrmsr(0x83F, u64::from(vector));
                let taken = u64::from(vector >> 4) > tpr >> 4;
                let expected = if taken { Boundary::Delivered(vector) } else { Boundary::Nothing };
                assert_eq!(machine.guest(0).boundary(), expected, "vector {vector:02X}H, TPR {tpr:02X}H");
                if taken {
                    let _ = machine.guest(0).wrmsr(0x80B, 0);
                }
            }
        }
    }

    #[test]
    fn delivery_moves_the_bit_and_sets_svi_and_vppr() {
        let mut machine = Machine::new(X2APIC, 1);
        for vector in [0x41, 0x63] {
            let _ = machine.guest(0).wrmsr(0x83F, vector);
        }
        assert_eq!(machine.guest(0).boundary(), Boundary::Delivered(0x63));
        let apic = machine.guest(0).virtual_apic();
        assert_eq!((apic.vectors(ApicRegister::ISR), apic.vectors(ApicRegister::IRR)), (vec![0x63], vec![0x41]));
        assert_eq!((machine.vp(0).vmcs.svi, machine.vp(0).vmcs.rvi), (0x63, 0x41));
        assert_eq!(machine.guest(0).vppr(), 0x60);
        assert!(!machine.vp(0).recognized());
    }

    #[test]
    fn if_and_shadow_hold_it_back() {
        let mut machine = Machine::new(X2APIC, 1);
        let _ = machine.guest(0).wrmsr(0x83F, 0x41);
        machine.vp_mut(0).interrupt_flag = false;
        assert_eq!(machine.guest(0).boundary(), Boundary::Nothing);
        machine.vp_mut(0).interrupt_flag = true;
        machine.vp_mut(0).interrupt_shadow = true;
        assert_eq!(machine.guest(0).boundary(), Boundary::Nothing);
        machine.vp_mut(0).interrupt_shadow = false;
        assert_eq!(machine.guest(0).boundary(), Boundary::Delivered(0x41), "it stayed recognized");
    }

    #[test]
    fn it_wakes_from_hlt_and_from_nothing_else() {
        for (activity, wakes) in [(Activity::Hlt, true), (Activity::Shutdown, false), (Activity::WaitForSipi, false)] {
            let mut machine = Machine::new(X2APIC, 1);
            let _ = machine.guest(0).wrmsr(0x83F, 0x41);
            machine.vp_mut(0).activity = activity;
            assert_eq!(machine.guest(0).boundary() == Boundary::Delivered(0x41), wakes, "{activity:?}");
            assert_eq!(machine.vp(0).activity == Activity::Active, wakes);
        }
    }

    #[test]
    fn interrupt_window_exiting_recognizes_nothing_and_exits() {
        let mut machine = Machine::new(X2APIC, 1);
        machine.vp_mut(0).vmcs.primary.set_interrupt_window_exiting(true);
        machine.reenter(0);
        let _ = machine.guest(0).wrmsr(0x83F, 0x41);
        assert!(!machine.vp(0).recognized());
        let boundary = machine.guest(0).boundary();
        assert!(matches!(boundary, Boundary::Exit(Exit { reason: ExitReason::InterruptWindow, .. })), "{boundary:?}");
    }

    #[test]
    fn hlt_exits_or_sleeps() {
        let mut machine = Machine::new(X2APIC, 1);
        assert_eq!(machine.guest(0).hlt(), None);
        assert_eq!(machine.vp(0).activity, Activity::Hlt);
        machine.vp_mut(0).activity = Activity::Active;
        machine.vp_mut(0).vmcs.primary.set_hlt_exiting(true);
        machine.reenter(0);
        assert_eq!(machine.guest(0).hlt().map(|exit| exit.reason), Some(ExitReason::Hlt));
        assert_eq!(machine.vp(0).activity, Activity::Active);
    }
}
