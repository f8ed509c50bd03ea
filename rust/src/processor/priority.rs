//! TPR, PPR and EOI virtualization.
//!
//! SDM vol. 3C, "TPR Virtualization" 30.1.2, "PPR Virtualization" 30.1.3, "EOI Virtualization" 30.1.4.

use super::outcome::Outcome;
use super::{NonRoot, VirtualApic, VirtualProcessor};
use crate::arch::vmcs_field::tpr_threshold;
use crate::arch::{ApicRegister, Clause, Exit, ExitReason, VectorBit, vector};
use crate::memory::Word;

impl<W: Word> NonRoot<'_, '_, W> {
    /// TPR virtualization. (30.1.2)
    pub(super) fn tpr_virtualization(&mut self) -> Outcome {
        if self.vp.controls.interrupt_delivery {
            self.ppr_virtualization();
            self.evaluate();
        } else if self.vp.tpr_below_threshold(self.apic) {
            return Outcome::Exit(self.vp.tpr_exit());
        }
        Outcome::Virtualized(Clause::TprVirtualized)
    }

    /// PPR virtualization. (30.1.3) Only VM entry, TPR virtualization and EOI virtualization do it.
    #[inline]
    pub(super) fn ppr_virtualization(&mut self) {
        let tpr = self.apic.get(ApicRegister::TPR) as u8;
        let svi = self.vp.vmcs.svi;
        let ppr = if vector::class(tpr) >= vector::class(svi) { tpr } else { vector::class_floor(svi) };
        self.apic.set(ApicRegister::PPR, u32::from(ppr));
    }

    /// EOI virtualization. (30.1.4)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    pub(super) fn eoi_virtualization(&mut self) -> Outcome {
        let vector = self.vp.vmcs.svi;
        self.apic.clear_bit(ApicRegister::ISR, vector);
        self.vp.vmcs.svi = self.apic.highest(ApicRegister::ISR).unwrap_or(0);
        self.ppr_virtualization();
        let bit = VectorBit::of(vector);
        if self.vp.vmcs.eoi_exit[bit.word()] & bit.word_mask() != 0 {
            return Outcome::Exit(self.exit(Exit {
                reason: ExitReason::VirtualizedEoi,
                qualification: u64::from(vector),
                clause: Clause::EoiExit,
            }));
        }
        self.evaluate();
        Outcome::Virtualized(Clause::EoiVirtualized)
    }
}

impl VirtualProcessor {
    /// VTPR\[7:4\] < TPR threshold\[3:0\].
    pub(super) fn tpr_below_threshold<W: Word>(&self, apic: VirtualApic<'_, W>) -> bool {
        u32::from(vector::class(apic.get(ApicRegister::TPR) as u8)) < tpr_threshold(self.vmcs.tpr_threshold)
    }

    pub(super) const fn tpr_exit(&mut self) -> Exit {
        self.exit(Exit { reason: ExitReason::TprBelowThreshold, qualification: 0, clause: Clause::TprBelowThreshold })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Boundary;
    use super::super::testing::{Machine, X2APIC};
    use super::*;

    /// VPPR for every VTPR and SVI.
    #[test]
    fn ppr_is_the_higher_class() {
        let mut machine = Machine::new(X2APIC, 1);
        for tpr in 0..=255u8 {
            for svi in 0..=255u8 {
                machine.vp_mut(0).vmcs.svi = svi;
                let _ = machine.guest(0).wrmsr(0x808, u64::from(tpr));
                let expected = if tpr & 0xF0 >= svi & 0xF0 { tpr } else { svi & 0xF0 };
                assert_eq!(machine.guest(0).vppr(), expected, "VTPR {tpr:02X}H, SVI {svi:02X}H");
            }
        }
    }

    /// With virtual-interrupt delivery = 0, every VTPR against every threshold.
    #[test]
    fn tpr_threshold_exits_below() {
        let mut machine = Machine::new(X2APIC, 1);
        machine.without_interrupt_delivery(0);
        for threshold in 0..16u32 {
            machine.vp_mut(0).vmcs.tpr_threshold = threshold;
            for tpr in 0..=255u64 {
                let outcome = machine.guest(0).wrmsr(0x808, tpr);
                let exits = matches!(outcome, Outcome::Exit(Exit { reason: ExitReason::TprBelowThreshold, .. }));
                assert_eq!(exits, tpr >> 4 < u64::from(threshold), "VTPR {tpr:02X}H, threshold {threshold}");
            }
        }
    }

    #[test]
    fn eoi_goes_back_to_the_interrupt_below() {
        let mut machine = Machine::new(X2APIC, 1);
        for vector in [0x31, 0x52] {
            let _ = machine.guest(0).wrmsr(0x83F, vector);
            assert_eq!(machine.guest(0).boundary(), Boundary::Delivered(vector as u8));
        }
        assert_eq!((machine.vp(0).vmcs.svi, machine.guest(0).vppr()), (0x52, 0x50));
        assert_eq!(machine.guest(0).wrmsr(0x80B, 0), Outcome::Virtualized(Clause::EoiVirtualized));
        assert_eq!((machine.vp(0).vmcs.svi, machine.guest(0).vppr()), (0x31, 0x30));
        let _ = machine.guest(0).wrmsr(0x80B, 0);
        assert_eq!((machine.vp(0).vmcs.svi, machine.guest(0).vppr()), (0, 0));
    }

    #[test]
    fn eoi_exit_bitmap_gives_exit_45_with_the_vector() {
        let mut machine = Machine::new(X2APIC, 1);
        machine.vp_mut(0).vmcs.eoi_exit[1] = 1 << (0x52 - 64);
        let _ = machine.guest(0).wrmsr(0x83F, 0x52);
        let _ = machine.guest(0).boundary();
        let outcome = machine.guest(0).wrmsr(0x80B, 0);
        let exit = Exit { reason: ExitReason::VirtualizedEoi, qualification: 0x52, clause: Clause::EoiExit };
        assert_eq!(outcome, Outcome::Exit(exit));
        assert_eq!(machine.vp(0).vmcs.svi, 0, "the exit is trap-like: VISR and SVI have changed");
        assert_eq!(machine.vp(0).vmcs.exit_qualification, 0x52);
    }

    #[test]
    fn eoi_unmasks_a_lower_request() {
        let mut machine = Machine::new(X2APIC, 1);
        let _ = machine.guest(0).wrmsr(0x83F, 0x52);
        let _ = machine.guest(0).boundary();
        let _ = machine.guest(0).wrmsr(0x83F, 0x51);
        assert_eq!(machine.guest(0).boundary(), Boundary::Nothing, "same class as the one in service");
        let _ = machine.guest(0).wrmsr(0x80B, 0);
        assert_eq!(machine.guest(0).boundary(), Boundary::Delivered(0x51));
    }
}
