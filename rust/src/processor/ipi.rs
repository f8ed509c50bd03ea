//! IPI virtualization and self-IPI virtualization.
//!
//! SDM vol. 3C, "IPI Virtualization" 30.1.6 and "Self-IPI Virtualization" 30.1.5.

use super::icr_rules::IcrRule;
use super::outcome::{Outcome, Posted, Violation};
use super::pid_table::{self, Miss};
use super::{NonRoot, VirtualProcessor, descriptor};
use crate::arch::{ApicRegister, Clause, Exit, ExitReason, Icr, IcrLow, Shorthand, vector};
use crate::memory::Word;

impl VirtualProcessor {
    /// APIC-write exit for a write of the ICR: trap-like, qualification 300H. (30.1.6, 30.5, 30.4.3.3)
    #[cold]
    #[inline(never)]
    const fn icr_exit(&mut self, clause: Clause) -> Exit {
        self.apic_write_exit(ApicRegister::ICR_LOW.offset(), clause)
    }

    /// APIC-write VM exit. (30.4.3.3)
    pub(super) const fn apic_write_exit(&mut self, offset: u16, clause: Clause) -> Exit {
        self.exit(Exit { reason: ExitReason::ApicWrite, qualification: offset as u64, clause })
    }
}

impl<W: Word> NonRoot<'_, '_, W> {
    /// IPI virtualization of vector V for virtual APIC ID T. (30.1.6)
    ///
    /// Steps 4 and 5 are two atomic acts: another agent may act between them.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    pub(super) fn ipi_virtualization(&mut self, vector: u8, apic_id: u32) -> Outcome {
        // Step 1.
        if vector < vector::FIRST_LEGAL {
            return Outcome::Exit(self.vp.icr_exit(Clause::IpiVector));
        }
        // Steps 2 and 3.
        let (address, pid) = match pid_table::descriptor(self.memory, self.vp, &mut self.remembered, apic_id) {
            Ok(found) => found,
            Err(Miss::Exit(clause)) => return Outcome::Exit(self.vp.icr_exit(clause)),
            Err(Miss::Violation(violation)) => return Outcome::Violation(violation),
            Err(Miss::NoDescriptor(address)) => {
                return Outcome::Violation(Violation::WildPost { vector, apic_id, address });
            }
        };
        let coalesced = descriptor::post_request(pid, vector);
        let notice = descriptor::post_notification(pid);
        Outcome::Posted(Posted { vector, apic_id, descriptor: address, coalesced, notice })
    }

    /// Self-IPI virtualization: VIRR\[V\] := 1; RVI := max(RVI, V); evaluate. (30.1.5)
    #[inline]
    pub(super) fn self_ipi_virtualization(&mut self, vector: u8) -> Outcome {
        let coalesced = self.apic.set_bit(ApicRegister::IRR, vector);
        self.vp.vmcs.rvi = self.vp.vmcs.rvi.max(vector);
        self.evaluate();
        Outcome::SelfIpi { vector, coalesced }
    }

    /// APIC-write emulation of a write to ICR_LO, 300H. Step 1 is the self-IPI rule, step 2 the IPI rule, step 3 the
    /// exit; the two rules exclude each other. (30.4.3.2)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    pub(super) fn icr_low_written(&mut self) -> Outcome {
        let icr = self.apic.icr_xapic();
        let controls = self.vp.controls;
        if IcrRule::XApicIpi.satisfied(icr.low, controls.ipi) {
            return self.ipi_virtualization(icr.low.vector(), icr.destination);
        }
        if IcrRule::XApicSelfIpi.satisfied(icr.low, controls.interrupt_delivery) {
            return self.self_ipi_virtualization(icr.low.vector());
        }
        let clause = why_not_xapic(icr.low, controls.interrupt_delivery, controls.ipi);
        Outcome::Exit(self.vp.icr_exit(clause))
    }

    /// The value of the ICR is in the virtual-APIC page already: IPI rule, else an exit. (30.5)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    pub(super) fn x2apic_icr_written(&mut self, icr: Icr) -> Outcome {
        // The control is 1: its value would else have gone to the physical local APIC.
        if IcrRule::X2ApicIpi.satisfied(icr.low, true) {
            return self.ipi_virtualization(icr.low.vector(), icr.destination);
        }
        let failure = IcrRule::X2ApicIpi.first_failure(icr.low, true);
        Outcome::Exit(self.vp.icr_exit(failure.unwrap_or(Clause::X2ApicIcrReserved)))
    }
}

/// The clause that kept a write of ICR_LO from being virtualized: of the self-IPI rule where the shorthand is self,
/// else of the IPI rule.
pub(super) fn why_not_xapic(low: IcrLow, interrupt_delivery: bool, ipi: bool) -> Clause {
    let failure = if low.shorthand() == Shorthand::Self_ {
        IcrRule::XApicSelfIpi.first_failure(low, interrupt_delivery)
    } else {
        IcrRule::XApicIpi.first_failure(low, ipi)
    };
    failure.unwrap_or(Clause::WriteOtherOffset)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, X2APIC, XAPIC};
    use super::*;
    use crate::arch::PidPointerEntry;
    use crate::arch::clause::IcrCondition;
    use crate::processor::{Notice, Notification};

    fn exit_clause(outcome: Outcome) -> Clause {
        match outcome {
            Outcome::Exit(Exit { reason: ExitReason::ApicWrite, qualification: 0x300, clause }) => clause,
            other => panic!("no APIC-write exit at 300H: {other:?}"),
        }
    }

    #[test]
    fn step_1_vectors_below_16_exit() {
        let mut machine = Machine::new(X2APIC, 2);
        for vector in 0..16 {
            let outcome = machine.guest(0).wrmsr(0x830, 1 << 32 | vector);
            assert_eq!(exit_clause(outcome), Clause::IpiVector);
            assert_eq!(machine.guest(0).rdmsr(0x830), super::super::Read::Value(1 << 32 | vector), "trap-like");
        }
        assert!(matches!(machine.guest(0).wrmsr(0x830, 1 << 32 | 16), Outcome::Posted(_)));
    }

    #[test]
    fn step_2_the_last_index_is_inclusive() {
        let mut machine = Machine::new(X2APIC, 3);
        assert!(matches!(machine.guest(0).wrmsr(0x830, 2 << 32 | 0xFB), Outcome::Posted(_)));
        for id in [3u64, 255, 0xFFFF, 0x1_0000, 0xFFFF_FFFF] {
            assert_eq!(exit_clause(machine.guest(0).wrmsr(0x830, id << 32 | 0xFB)), Clause::IpiBeyondTable);
        }
    }

    #[test]
    fn step_3_entries_must_be_well_formed() {
        let mut machine = Machine::new(X2APIC, 2);
        let good = machine.entry(1).load();
        machine.entry(1).store(0);
        assert_eq!(exit_clause(machine.guest(0).wrmsr(0x830, 1 << 32 | 0xFB)), Clause::EntryNotValid);
        machine.entry(1).store(good | 1 << 46);
        assert_eq!(exit_clause(machine.guest(0).wrmsr(0x830, 1 << 32 | 0xFB)), Clause::EntryBeyondWidth);
        assert_eq!(descriptor::requests(machine.descriptor(1)), [0; 4], "nothing was posted");
    }

    #[test]
    fn steps_4_to_6_post_and_notify_once() {
        let mut machine = Machine::new(X2APIC, 2);
        let due = Notice::Due(Notification { vector: 0xF2, destination: 1 });
        let first = machine.guest(0).wrmsr(0x830, 1 << 32 | 0xFB);
        assert!(matches!(first, Outcome::Posted(p) if p.notice == due && !p.coalesced && p.apic_id == 1), "{first:?}");
        let again = machine.guest(0).wrmsr(0x830, 1 << 32 | 0xFB);
        assert!(matches!(again, Outcome::Posted(p) if p.notice == Notice::Outstanding && p.coalesced), "{again:?}");
        assert_eq!(descriptor::requests(machine.descriptor(1)), [0, 0, 0, 1 << 59]);
        assert!(descriptor::control(machine.descriptor(1)).outstanding());
    }

    #[test]
    fn a_wild_post_is_reported_and_not_done() {
        let mut machine = Machine::new(X2APIC, 2);
        let page = machine.vp(1).vmcs.virtual_apic;
        machine.entry(1).store(PidPointerEntry::to_descriptor(page).into_bits());
        let outcome = machine.guest(0).wrmsr(0x830, 1 << 32 | 0xFB);
        let wild = Violation::WildPost { vector: 0xFB, apic_id: 1, address: page };
        assert_eq!(outcome, Outcome::Violation(wild));
        assert!(wild.message(&machine.memory).contains("virtual-APIC page of vCPU 1"));
        assert!(machine.guest(1).virtual_apic().bank(ApicRegister::containing(0)).iter().all(|&word| word == 0));
    }

    #[test]
    fn xapic_takes_the_destination_from_icr_high() {
        let mut machine = Machine::new(XAPIC, 4);
        let _ = machine.mmio_write(0, 0x310, 3 << 24);
        let outcome = machine.mmio_write(0, 0x300, 0xFB);
        assert!(matches!(outcome, Outcome::Posted(p) if p.apic_id == 3), "{outcome:?}");
    }

    #[test]
    fn xapic_self_shorthand_ignores_the_destination_and_bit_11() {
        let mut machine = Machine::new(XAPIC, 2);
        for low in [0x4_00F1, 0x4_08F1] {
            let outcome = machine.mmio_write(0, 0x300, low);
            assert!(matches!(outcome, Outcome::SelfIpi { vector: 0xF1, .. }), "{outcome:?}");
        }
        assert_eq!(
            exit_clause(machine.mmio_write(0, 0x300, 0x4_000F)),
            Clause::XApicSelfIpi(IcrCondition::VectorClass)
        );
    }

    #[test]
    fn exits_name_the_condition() {
        let mut machine = Machine::new(XAPIC, 2);
        for (low, condition) in [
            (0xC_00FB, IcrCondition::Shorthand),
            (0x8_00FB, IcrCondition::Shorthand),
            (0x0_08FB, IcrCondition::DestinationMode),
            (0xC_4500, IcrCondition::DeliveryMode),
            (0x0_80FB, IcrCondition::TriggerMode),
            (0x0_10FB, IcrCondition::DeliveryStatus),
            (0x0_20FB, IcrCondition::Reserved13),
            (0x1_00FB, IcrCondition::Reserved17To16),
            (0x10_00FB, IcrCondition::Reserved31To20),
        ] {
            assert_eq!(exit_clause(machine.mmio_write(0, 0x300, low)), Clause::XApicIpi(condition), "{low:X}H");
        }
    }

    #[test]
    fn self_ipi_raises_rvi_and_is_recognized() {
        let mut machine = Machine::new(X2APIC, 1);
        let outcome = machine.guest(0).wrmsr(0x83F, 0x51);
        assert_eq!(outcome, Outcome::SelfIpi { vector: 0x51, coalesced: false });
        assert_eq!(machine.guest(0).wrmsr(0x83F, 0x41), Outcome::SelfIpi { vector: 0x41, coalesced: false });
        assert_eq!(machine.guest(0).wrmsr(0x83F, 0x41), Outcome::SelfIpi { vector: 0x41, coalesced: true });
        assert_eq!(machine.vp(0).vmcs.rvi, 0x51, "RVI := max(RVI, V)");
        assert!(machine.vp(0).recognized());
        assert_eq!(machine.guest(0).virtual_apic().vectors(ApicRegister::IRR), vec![0x41, 0x51]);
    }
}
