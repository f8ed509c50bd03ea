//! SENDUIPI: the notification of a user interrupt, posted like any other IPI.
//!
//! SDM vol. 2B, "SENDUIPI"; Intel ISE reference (May 2021), "IPI virtualization".
//! No public text at hand confirms word for word what the instruction does under IPI virtualization; all of the model's
//! reading of it is in this file: V is the UPID's NV, T its NDST (bits 15:8 where APIC accesses are virtualized), the
//! pair is stored in VICR as a write of the ICR would be, and steps 1 to 6 of 30.1.6 follow.
//! Hardware updates the UPID's 16 bytes under one lock; here request and ON are two locked operations, requests first.
//! The lookup of the UPID through the UITT and the faults it can take are not modelled: the caller names the UPID.

use super::NonRoot;
use super::outcome::{Notification, Outcome, Violation};
use crate::arch::posted_interrupt::UpidControl;
use crate::arch::{ApicMode, ApicRegister, Clause, Icr, IcrLow, NotificationDestination};
use crate::memory::Word;

/// What came of SENDUIPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SendUipi {
    /// The user interrupt is in the UPID; ON or SN was set, no notification is due.
    Quiet,
    /// The notification went through IPI virtualization.
    Notified(Outcome),
    /// IPI virtualization = 0: an ordinary IPI is due.
    OrdinaryIpi(Notification),
    /// #GP(0): reserved bits of the UPID are set, or the user vector is above 63.
    Fault,
    /// The UPID is outside of memory.
    Violation(Violation),
}

impl<W: Word> NonRoot<'_, '_, W> {
    /// SENDUIPI to the UPID at physical address `upid` (16 bytes) with user vector `user_vector` (0 to 63).
    pub fn senduipi(&mut self, upid: u64, user_vector: u8) -> SendUipi {
        let words = (self.memory.word(upid), self.memory.word(upid.wrapping_add(8)));
        let (Some(control), Some(requests)) = words else {
            return SendUipi::Violation(Violation::UserDescriptorOutside { address: upid });
        };
        let before = UpidControl::from_bits(control.load());
        let Some(bit) = 1u64.checked_shl(u32::from(user_vector)) else { return SendUipi::Fault };
        if before.reserved_15_2() != 0 || before.reserved_31_24() != 0 {
            return SendUipi::Fault;
        }
        requests.fetch_or(bit);
        let Some(due) = set_outstanding(control) else { return SendUipi::Quiet };
        if !self.vp.controls.ipi {
            return SendUipi::OrdinaryIpi(due);
        }
        SendUipi::Notified(self.user_notification(due))
    }

    /// The notification of SENDUIPI as an IPI to be virtualized: the destination, and VICR.
    fn user_notification(&mut self, due: Notification) -> Outcome {
        let xapic = self.vp.controls.apic_accesses;
        let mode = if xapic { ApicMode::XApic } else { ApicMode::X2Apic };
        let destination = NotificationDestination::from_bits(due.destination).decode(mode);
        let icr = Icr { low: IcrLow::new().with_vector(due.vector), destination };
        if xapic {
            let (low, high) = icr.to_xapic();
            self.apic.set(ApicRegister::ICR_HIGH, high);
            self.apic.set(ApicRegister::ICR_LOW, low);
        } else {
            self.apic.set_64(ApicRegister::ICR_LOW, icr.to_x2apic());
        }
        self.ipi_virtualization(due.vector, destination)
    }
}

/// SENDUIPI's claim of ON: if SN = 0 and ON = 0 then ON := 1 and the notification is due, as one locked operation.
fn set_outstanding<W: Word>(control: &W) -> Option<Notification> {
    let mut seen = control.load();
    loop {
        let upid = UpidControl::from_bits(seen);
        if upid.outstanding() || upid.suppress() {
            return None;
        }
        match control.compare_exchange(seen, upid.with_outstanding(true).into_bits()) {
            Ok(_) => return Some(Notification { vector: upid.vector(), destination: upid.destination() }),
            Err(found) => seen = found,
        }
    }
}

impl SendUipi {
    /// The clause that names an ordinary IPI.
    pub const ORDINARY: Clause = Clause::SendUipiNotVirtualized;
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, X2APIC, XAPIC};
    use super::*;
    use crate::memory::Owner;

    fn upid(machine: &Machine, vector: u8, destination: u32) -> u64 {
        let address = machine.memory.allocate(Owner::UserDescriptor { vm: 0 }, 64, 64).unwrap();
        let control = UpidControl::new().with_vector(vector).with_destination(destination);
        machine.memory.word(address).unwrap().store(control.into_bits());
        address
    }

    #[test]
    fn the_notification_is_posted_to_the_virtual_apic_id_in_ndst() {
        let mut machine = Machine::new(X2APIC, 3);
        let upid = upid(&machine, 0xEC, 2);
        let sent = machine.guest(0).senduipi(upid, 5);
        assert!(
            matches!(sent, SendUipi::Notified(Outcome::Posted(p)) if p.vector == 0xEC && p.apic_id == 2),
            "{sent:?}"
        );
        assert_eq!(machine.memory.word(upid + 8).unwrap().load(), 1 << 5);
        assert_eq!(machine.guest(0).senduipi(upid, 6), SendUipi::Quiet, "ON is set");
    }

    #[test]
    fn in_xapic_mode_the_id_is_ndst_15_8() {
        let mut machine = Machine::new(XAPIC, 3);
        let upid = upid(&machine, 0xEC, 0x0200);
        let sent = machine.guest(0).senduipi(upid, 0);
        assert!(matches!(sent, SendUipi::Notified(Outcome::Posted(p)) if p.apic_id == 2), "{sent:?}");
    }

    #[test]
    fn an_exit_leaves_the_icr_value_in_the_page() {
        let mut machine = Machine::new(X2APIC, 1);
        let upid = upid(&machine, 0xEC, 9);
        let sent = machine.guest(0).senduipi(upid, 0);
        assert!(matches!(sent, SendUipi::Notified(Outcome::Exit(_))), "{sent:?}");
        assert_eq!(machine.guest(0).virtual_apic().get_64(ApicRegister::ICR_LOW), 9 << 32 | 0xEC);
    }

    #[test]
    fn without_the_control_it_is_an_ordinary_ipi() {
        let mut machine = Machine::new(X2APIC, 1);
        machine.set_controls(0, true, true, false);
        let upid = upid(&machine, 0xEC, 4);
        let due = Notification { vector: 0xEC, destination: 4 };
        assert_eq!(machine.guest(0).senduipi(upid, 0), SendUipi::OrdinaryIpi(due));
    }

    #[test]
    fn reserved_bits_and_vectors_above_63_fault() {
        let mut machine = Machine::new(X2APIC, 1);
        let upid = upid(&machine, 0xEC, 0);
        assert_eq!(machine.guest(0).senduipi(upid, 64), SendUipi::Fault);
        machine.memory.word(upid).unwrap().store(1 << 2);
        assert_eq!(machine.guest(0).senduipi(upid, 0), SendUipi::Fault);
        assert_eq!(machine.memory.word(upid + 8).unwrap().load(), 0);
    }
}
