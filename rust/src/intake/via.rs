//! How the guest wrote each ICR, where the recording does not show the write itself.
//!
//! The argument, strongest first:
//! 1. A destination above FFH does not fit the 8 bits of xAPIC mode: WRMSR 830H.
//! 2. IA32_APIC_BASE was seen on the thread before the IPI and nothing contradicted it since. Mode changes are writes to
//!    that MSR, which always exit, so as long as they are recorded at all the mode is known.
//! 3. The recording has writes of 830H, so the event `kvm_msr` was on, and this IPI has none although the thread went on
//!    to do other things: the guest wrote to memory. (kvm-unit-tests switch modes back and forth; a recording that
//!    filters `kvm_msr` down to 830H shows that in no other way.) Not where the recorder lost events, and not for a
//!    thread's last record, whose WRMSR may have missed the end of the recording.
//! 4. Other evidence on the same thread: accesses to the APIC page or to MSRs 800H-8FFH, the newest before the IPI, else
//!    the oldest after it.
//! 5. The same of other vCPUs of the virtual machine: operating systems run all of them in one mode.
//! 6. Rule 3 despite lost events.
//! 7. What the user assumes.
//!
//! The shorthand self in x2APIC mode may stand for WRMSR 83FH too; without the write it is taken for 830H.

use super::host::{Row, Write};
use super::mode::Timeline;
use super::recording::Via;
use crate::arch::ApicMode;

/// Largest destination of xAPIC mode.
const XAPIC_DESTINATION_MAX: u32 = 0xFF;

/// On what a decision stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    Recorded,
    Inferred,
    Assumed,
}

/// What holds for the whole recording.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Some WRMSR 830H is recorded.
    pub(super) shows_icr_msr: bool,
    /// The recorder lost events.
    pub(super) lossy: bool,
    /// The user's mode.
    pub(super) assume_x2apic: bool,
}

/// How the guest wrote `row`, whose thread showed `own` and whose virtual machine showed `vm`.
pub(super) fn decide(row: &Row, own: &Timeline, vm: &Timeline, facts: Facts) -> (Via, Basis) {
    match row.write {
        Write::Mmio => return (Via::Mmio, Basis::Recorded),
        Write::IcrMsr => return (Via::X2ApicIcr, Basis::Recorded),
        Write::SelfIpiMsr => return (Via::SelfIpiMsr, Basis::Recorded),
        Write::Absent | Write::CutOff if row.destination > XAPIC_DESTINATION_MAX => {
            return (Via::X2ApicIcr, Basis::Recorded);
        }
        Write::Absent | Write::CutOff => {}
    }
    let through_memory = (facts.shows_icr_msr && row.write == Write::Absent).then_some(ApicMode::XApic);
    let inferred = own
        .declared(row.at)
        .or(through_memory.filter(|_| !facts.lossy))
        .or_else(|| own.earlier(row.at))
        .or_else(|| own.later(row.at))
        .or_else(|| vm.earlier(row.at))
        .or_else(|| vm.later(row.at))
        .or(through_memory);
    match inferred {
        Some(ApicMode::X2Apic) => (Via::X2ApicIcr, Basis::Inferred),
        Some(_) => (Via::Mmio, Basis::Inferred),
        None if facts.assume_x2apic => (Via::X2ApicIcr, Basis::Assumed),
        None => (Via::Mmio, Basis::Assumed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ApicMode::{X2Apic, XApic};

    const FACTS: Facts = Facts { shows_icr_msr: false, lossy: false, assume_x2apic: true };

    fn row(at: u64, write: Write) -> Row {
        Row { time_ns: 0, at, thread: 0, icr_low: 0xFB, destination: 1, write }
    }

    fn timeline(evidence: &[(u64, ApicMode)]) -> Timeline {
        let mut timeline = Timeline::default();
        for &(at, mode) in evidence {
            timeline.used(at, mode);
        }
        timeline
    }

    #[test]
    fn without_evidence_the_user_decides() {
        let none = Timeline::default();
        let xapic = Facts { assume_x2apic: false, ..FACTS };
        assert_eq!(decide(&row(5, Write::Absent), &none, &none, FACTS), (Via::X2ApicIcr, Basis::Assumed));
        assert_eq!(decide(&row(5, Write::Absent), &none, &none, xapic), (Via::Mmio, Basis::Assumed));
    }

    #[test]
    fn a_wide_destination_is_x2apic() {
        let none = Timeline::default();
        let facts = Facts { shows_icr_msr: true, ..FACTS };
        let wide = Row { destination: 0x100, ..row(5, Write::Absent) };
        assert_eq!(decide(&wide, &none, &none, facts), (Via::X2ApicIcr, Basis::Recorded));
    }

    #[test]
    fn a_missing_msr_write_means_memory_but_not_at_the_end_and_not_with_losses() {
        let (own, none) = (timeline(&[(1, X2Apic)]), Timeline::default());
        let facts = Facts { shows_icr_msr: true, ..FACTS };
        let lossy = Facts { lossy: true, ..facts };
        assert_eq!(decide(&row(5, Write::Absent), &own, &none, facts).0, Via::Mmio);
        assert_eq!(decide(&row(5, Write::CutOff), &own, &none, facts).0, Via::X2ApicIcr);
        assert_eq!(decide(&row(5, Write::Absent), &own, &none, lossy).0, Via::X2ApicIcr);
        assert_eq!(decide(&row(5, Write::Absent), &none, &none, lossy).0, Via::Mmio);
    }

    #[test]
    fn a_declared_mode_beats_a_missing_msr_write() {
        let mut own = Timeline::default();
        own.written(1, X2Apic);
        let facts = Facts { shows_icr_msr: true, ..FACTS };
        assert_eq!(decide(&row(5, Write::Absent), &own, &own, facts).0, Via::X2ApicIcr);
    }

    #[test]
    fn own_evidence_beats_that_of_others_and_older_beats_newer() {
        let vm = timeline(&[(1, X2Apic), (9, X2Apic)]);
        assert_eq!(decide(&row(5, Write::Absent), &timeline(&[(8, XApic)]), &vm, FACTS).0, Via::Mmio);
        assert_eq!(decide(&row(5, Write::Absent), &timeline(&[(2, XApic), (8, X2Apic)]), &vm, FACTS).0, Via::Mmio);
        assert_eq!(decide(&row(5, Write::Absent), &Timeline::default(), &vm, FACTS), (Via::X2ApicIcr, Basis::Inferred));
    }
}
