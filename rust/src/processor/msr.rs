//! MSR-based accesses to the local APIC.
//!
//! SDM vol. 3C, "Virtualizing MSR-Based APIC Accesses" 30.5; the MSR bitmap: 25.6.9 and 26.1.3.

use super::icr_rules::x2apic_reserved;
use super::outcome::{Outcome, Read};
use super::{NonRoot, VirtualProcessor};
use crate::arch::clause::IcrCondition;
use crate::arch::msr::{self, X2APIC_EOI, X2APIC_ICR, X2APIC_SELF_IPI, X2APIC_TPR};
use crate::arch::{ApicRegister, Clause, Exit, ExitReason, Icr, vector};
use crate::memory::Word;

impl VirtualProcessor {
    #[cold]
    const fn msr_exit(&mut self, reason: ExitReason) -> Exit {
        self.exit(Exit { reason, qualification: 0, clause: Clause::MsrIntercepted })
    }
}

impl<W: Word> NonRoot<'_, '_, W> {
    /// WRMSR of `value` (EDX:EAX) to `msr` (ECX). (30.5)
    ///
    /// MSRs outside 800H-8FFH that the bitmap lets through are [`Outcome::NotVirtualized`].
    // An outcome that is written field by field and read back whole stalls the processor: it is to stay in registers.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a third of a coalesced post")]
    pub fn wrmsr(&mut self, msr: u32, value: u64) -> Outcome {
        if self.intercepted(msr, true) {
            return Outcome::Exit(self.vp.msr_exit(ExitReason::MsrWrite));
        }
        if !self.vp.controls.x2apic_mode {
            return Outcome::NotVirtualized(Clause::MsrNotVirtualized);
        }
        match msr {
            X2APIC_ICR => self.write_icr(value),
            X2APIC_EOI => self.write_eoi(value),
            X2APIC_SELF_IPI => self.write_self_ipi(value),
            X2APIC_TPR => self.write_tpr(value),
            _ => Outcome::NotVirtualized(Clause::MsrNotVirtualized),
        }
    }

    /// RDMSR of `msr` (ECX). (30.5)
    #[inline]
    pub fn rdmsr(&mut self, msr: u32) -> Read {
        if self.intercepted(msr, false) {
            return Read::Exit(self.vp.msr_exit(ExitReason::MsrRead));
        }
        let controls = self.vp.controls;
        let virtualized =
            controls.x2apic_mode && (controls.register_virtualization && msr::is_x2apic(msr) || msr == X2APIC_TPR);
        if !virtualized {
            return Read::NotVirtualized(Clause::MsrNotVirtualized);
        }
        let register = ApicRegister::containing(msr::page_offset(msr));
        Read::Value(if register.is_beyond_registers() {
            self.beyond_registers(register)
        } else {
            self.apic.get_64(register)
        })
    }

    /// What stands in the page where no register does: 0 where only registers are kept.
    #[inline(never)]
    fn beyond_registers(&self, at: ApicRegister) -> u64 {
        let address = self.vp.vmcs.virtual_apic.wrapping_add(u64::from(at.offset()));
        self.memory.word(address).map_or(0, Word::load_own)
    }

    /// The MSR bitmap, or its absence, intercepts the access. It is looked at before anything else. (25.6.9)
    #[inline]
    fn intercepted(&self, msr: u32, write: bool) -> bool {
        match (self.bitmap, msr::bitmap_position(msr, write)) {
            (Some(bitmap), Some(at)) => bitmap[at.word % bitmap.len()].load() & at.mask != 0,
            _ => true,
        }
    }

    /// WRMSR 830H, the ICR. (30.5)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    fn write_icr(&mut self, value: u64) -> Outcome {
        if !self.vp.controls.ipi {
            return Outcome::NotVirtualized(Clause::X2ApicIpi(IcrCondition::Control));
        }
        let icr = Icr::from_x2apic(value);
        if x2apic_reserved(icr.low) {
            return Outcome::Fault(Clause::X2ApicIcrReserved);
        }
        self.apic.set_64(ApicRegister::ICR_LOW, value);
        self.x2apic_icr_written(icr)
    }

    /// WRMSR 83FH, the self-IPI register. (30.5)
    fn write_self_ipi(&mut self, value: u64) -> Outcome {
        if !self.vp.controls.interrupt_delivery {
            return Outcome::NotVirtualized(Clause::MsrNotVirtualized);
        }
        let Ok(vector) = u8::try_from(value) else { return Outcome::Fault(Clause::SelfIpiReserved) };
        self.apic.set_64(ApicRegister::SELF_IPI, value);
        if vector::class(vector) == 0 {
            return Outcome::Exit(self.vp.apic_write_exit(ApicRegister::SELF_IPI.offset(), Clause::SelfIpiVector));
        }
        self.self_ipi_virtualization(vector)
    }

    /// WRMSR 808H, the TPR. (30.5)
    fn write_tpr(&mut self, value: u64) -> Outcome {
        if value > u64::from(u8::MAX) {
            return Outcome::Fault(Clause::TprReserved);
        }
        self.apic.set_64(ApicRegister::TPR, value);
        self.tpr_virtualization()
    }

    /// WRMSR 80BH, the EOI register. (30.5)
    #[inline]
    fn write_eoi(&mut self, value: u64) -> Outcome {
        if !self.vp.controls.interrupt_delivery {
            return Outcome::NotVirtualized(Clause::MsrNotVirtualized);
        }
        if value != 0 {
            return Outcome::Fault(Clause::EoiNotZero);
        }
        self.apic.set_64(ApicRegister::EOI, 0);
        self.eoi_virtualization()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, X2APIC, XAPIC};
    use super::*;

    #[test]
    fn reserved_bits_of_the_icr_fault_and_store_nothing() {
        let mut machine = Machine::new(X2APIC, 2);
        for bit in 0..32 {
            let outcome = machine.guest(0).wrmsr(0x830, 1 << 32 | 0xFB & !(1 << bit) | 1 << bit);
            let reserved = bit == 13 || bit == 16 || bit == 17 || bit >= 20;
            assert_eq!(outcome == Outcome::Fault(Clause::X2ApicIcrReserved), reserved, "bit {bit}: {outcome:?}");
        }
        let mut machine = Machine::new(X2APIC, 2);
        let _ = machine.guest(0).wrmsr(0x830, 1 << 13);
        assert_eq!(machine.guest(0).rdmsr(0x830), Read::Value(0));
    }

    /// Bit 12 stays as written in the virtual-APIC page; clearing it is the VMM's job.
    #[test]
    fn bit_12_exits_and_stays() {
        let mut machine = Machine::new(X2APIC, 2);
        let outcome = machine.guest(0).wrmsr(0x830, 1 << 32 | 0x10FB);
        let clause = Clause::X2ApicIpi(IcrCondition::DeliveryStatus);
        assert_eq!(outcome, Outcome::Exit(Exit { reason: ExitReason::ApicWrite, qualification: 0x300, clause }));
        assert_eq!(machine.guest(0).rdmsr(0x830), Read::Value(1 << 32 | 0x10FB));
    }

    #[test]
    fn values_that_fault() {
        let mut machine = Machine::new(X2APIC, 1);
        for bit in 8..64 {
            assert_eq!(machine.guest(0).wrmsr(0x83F, 1 << bit | 0x41), Outcome::Fault(Clause::SelfIpiReserved));
            assert_eq!(machine.guest(0).wrmsr(0x808, 1 << bit), Outcome::Fault(Clause::TprReserved));
        }
        for bit in 0..64 {
            assert_eq!(machine.guest(0).wrmsr(0x80B, 1 << bit), Outcome::Fault(Clause::EoiNotZero));
        }
    }

    #[test]
    fn self_ipi_vectors_below_16_exit_at_3f0h() {
        let mut machine = Machine::new(X2APIC, 1);
        for vector in 0..16 {
            let exit = Exit { reason: ExitReason::ApicWrite, qualification: 0x3F0, clause: Clause::SelfIpiVector };
            assert_eq!(machine.guest(0).wrmsr(0x83F, vector), Outcome::Exit(exit));
        }
    }

    #[test]
    fn the_bitmap_is_looked_at_first() {
        let mut machine = Machine::new(X2APIC, 1);
        machine.intercept(0x830, true);
        machine.intercept(0x830, false);
        let exit = |reason| Exit { reason, qualification: 0, clause: Clause::MsrIntercepted };
        assert_eq!(machine.guest(0).wrmsr(0x830, u64::MAX), Outcome::Exit(exit(ExitReason::MsrWrite)));
        assert_eq!(machine.guest(0).rdmsr(0x830), Read::Exit(exit(ExitReason::MsrRead)));
        assert_eq!(machine.guest(0).wrmsr(0x4000_0000, 0), Outcome::Exit(exit(ExitReason::MsrWrite)), "not covered");
        machine.vp_mut(0).vmcs.primary.set_use_msr_bitmaps(false);
        machine.reenter(0);
        assert_eq!(machine.guest(0).wrmsr(0x808, 0), Outcome::Exit(exit(ExitReason::MsrWrite)), "no bitmap");
    }

    /// The escape of v4: the bitmap passes 830H through while IPI virtualization is off.
    #[test]
    fn without_the_control_the_write_reaches_the_physical_apic() {
        let mut machine = Machine::new(X2APIC, 2);
        machine.set_controls(0, true, true, false);
        let outcome = machine.guest(0).wrmsr(0x830, 1 << 32 | 0xFB);
        assert_eq!(outcome, Outcome::NotVirtualized(Clause::X2ApicIpi(IcrCondition::Control)));
        machine.set_controls(0, true, false, true);
        for msr in [0x80B, 0x83F] {
            assert_eq!(machine.guest(0).wrmsr(msr, 0), Outcome::NotVirtualized(Clause::MsrNotVirtualized));
        }
        let mut machine = Machine::new(XAPIC, 1);
        assert_eq!(machine.guest(0).wrmsr(0x808, 0), Outcome::NotVirtualized(Clause::MsrNotVirtualized));
    }

    /// Writes of every MSR of the range: four are virtualized.
    #[test]
    fn all_other_writes_are_not_virtualized() {
        let mut machine = Machine::new(X2APIC, 1);
        for msr in 0x800..=0x8FF {
            let virtualized = !matches!(machine.guest(0).wrmsr(msr, 0), Outcome::NotVirtualized(_));
            assert_eq!(virtualized, matches!(msr, 0x808 | 0x80B | 0x830 | 0x83F), "{msr:X}H");
        }
    }

    #[test]
    fn reads_come_from_the_page() {
        let mut machine = Machine::new(X2APIC, 1);
        for msr in 0x800..=0x8FF {
            let address = machine.vp(0).vmcs.virtual_apic + u64::from((msr & 0xFF) << 4);
            machine.memory.word(address).unwrap().store(u64::from(msr) << 32 | 7);
            assert_eq!(machine.guest(0).rdmsr(msr), Read::Value(u64::from(msr) << 32 | 7), "{msr:X}H");
        }
        machine.set_controls(0, false, true, true);
        for msr in 0x800..=0x8FF {
            let value = matches!(machine.guest(0).rdmsr(msr), Read::Value(_));
            assert_eq!(value, msr == 0x808, "{msr:X}H without APIC-register virtualization");
        }
    }
}
