//! Memory-mapped accesses to the APIC-access page.
//!
//! SDM vol. 3C, "Virtualizing Memory-Mapped APIC Accesses" 30.4: "Virtualizing Reads from the APIC-Access Page" 30.4.2,
//! "Virtualizing Writes to the APIC-Access Page" 30.4.3.

use super::NonRoot;
use super::outcome::{Outcome, Read};
use crate::arch::icr::XApicIcrHigh;
use crate::arch::{AccessKind, ApicAccessQualification, ApicRegister, Clause, Exit, ExitReason};
use crate::memory::Word;

/// Width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Width {
    Byte,
    Word,
    Dword,
    Qword,
}

impl Width {
    /// All four, narrowest first.
    pub const ALL: [Self; 4] = [Self::Byte, Self::Word, Self::Dword, Self::Qword];

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// From bytes, if it is one of 1, 2, 4, 8.
    #[must_use]
    pub fn from_bytes(bytes: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|width| width.bytes() == bytes)
    }
}

/// A linear access to the APIC-access page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Page offset, 0 to FFFH.
    pub offset: u16,
    /// Width.
    pub width: Width,
    /// What it is.
    pub kind: AccessKind,
    /// The same instruction has already virtualized a write to the page.
    pub after_write: bool,
}

impl Access {
    /// A 32-bit access by an instruction that does nothing else: how guests access their APIC.
    #[must_use]
    pub const fn dword(offset: u16, kind: AccessKind) -> Self {
        Self { offset, width: Width::Dword, kind, after_write: false }
    }
}

impl<W: Word> NonRoot<'_, '_, W> {
    /// A read, or an instruction fetch, from the APIC-access page. (30.4.2)
    pub fn mmio_read(&mut self, access: Access) -> Read {
        if !self.vp.controls.apic_accesses {
            return Read::NotVirtualized(Clause::AccessNotVirtualized);
        }
        if let Some(clause) = self.never_virtualized(access) {
            return Read::Exit(self.access_exit(access, clause));
        }
        if !self.read_listed(access.offset) {
            return Read::Exit(self.access_exit(access, Clause::ReadNotListed));
        }
        Read::Value(u64::from(self.apic.read_bytes(access.offset, access.width.bytes())))
    }

    /// A write to the APIC-access page, and APIC-write emulation after it. (30.4.3)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    pub fn mmio_write(&mut self, access: Access, value: u64) -> Outcome {
        if !self.vp.controls.apic_accesses {
            return Outcome::NotVirtualized(Clause::AccessNotVirtualized);
        }
        if let Some(clause) = self.never_virtualized(access) {
            return Outcome::Exit(self.access_exit(access, clause));
        }
        if !self.write_listed(access.offset) {
            return Outcome::Exit(self.access_exit(access, Clause::WriteNotListed));
        }
        self.apic.write_bytes(access.offset, access.width.bytes(), value as u32);
        self.apic_write_emulation(access.offset)
    }

    /// Conditions under which no access is virtualized, whatever its offset: without TPR shadow, a fetch, by its width,
    /// outside of a register's low bytes. (30.4.2, 30.4.3.1)
    #[inline]
    fn never_virtualized(&self, access: Access) -> Option<Clause> {
        if !self.vp.controls.tpr_shadow {
            Some(Clause::AccessWithoutTprShadow)
        } else if access.kind == AccessKind::Fetch {
            Some(Clause::AccessFetch)
        } else if access.width == Width::Qword {
            Some(Clause::AccessTooWide)
        } else if !ApicRegister::spans(access.offset, access.width.bytes()) {
            Some(Clause::AccessMisplaced)
        } else if access.after_write {
            Some(Clause::AccessAfterWrite)
        } else {
            None
        }
    }

    /// Offsets of reads that are virtualized. (30.4.2) Without APIC-register virtualization the manual names single
    /// offsets; with it, ranges of four bytes.
    fn read_listed(&self, offset: u16) -> bool {
        let controls = self.vp.controls;
        let exact = ApicRegister::containing(offset).offset() == offset;
        match ApicRegister::containing(offset) {
            register if controls.register_virtualization && register.readable() => true,
            ApicRegister::TPR => exact,
            ApicRegister::EOI | ApicRegister::ICR_LOW => exact && controls.interrupt_delivery,
            _ => false,
        }
    }

    /// Offsets of writes that are virtualized. (30.4.3.1)
    #[inline]
    fn write_listed(&self, offset: u16) -> bool {
        let controls = self.vp.controls;
        let exact = ApicRegister::containing(offset).offset() == offset;
        match ApicRegister::containing(offset) {
            register if controls.register_virtualization && register.writable() => true,
            ApicRegister::TPR => exact,
            ApicRegister::EOI => exact && controls.interrupt_delivery,
            ApicRegister::ICR_LOW => exact && (controls.interrupt_delivery || controls.ipi),
            _ => false,
        }
    }

    /// APIC-write emulation, after the data is in the virtual-APIC page: 080H, 0B0H, 300H, 310H-313H, any other offset.
    /// (30.4.3.2)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    fn apic_write_emulation(&mut self, offset: u16) -> Outcome {
        let register = ApicRegister::containing(offset);
        if register == ApicRegister::ICR_HIGH {
            // 310H-313H: only the destination byte stays.
            let destination = XApicIcrHigh::from_bits(self.apic.get(register)).destination();
            self.apic.set(register, XApicIcrHigh::new().with_destination(destination).into_bits());
            return Outcome::Virtualized(Clause::WriteIcrHigh);
        }
        if register.offset() != offset {
            return Outcome::Exit(self.vp.apic_write_exit(offset, Clause::WriteOtherOffset));
        }
        match register {
            ApicRegister::TPR => {
                let tpr = self.apic.get(register) as u8;
                self.apic.set(register, u32::from(tpr));
                self.tpr_virtualization()
            }
            ApicRegister::EOI if self.vp.controls.interrupt_delivery => {
                self.apic.set(register, 0);
                self.eoi_virtualization()
            }
            ApicRegister::EOI => Outcome::Exit(self.vp.apic_write_exit(offset, Clause::WriteEoiWithoutDelivery)),
            ApicRegister::ICR_LOW => self.icr_low_written(),
            _ => Outcome::Exit(self.vp.apic_write_exit(offset, Clause::WriteOtherOffset)),
        }
    }

    /// APIC-access VM exit. (30.4.1)
    #[cold]
    fn access_exit(&mut self, access: Access, clause: Clause) -> Exit {
        let qualification = ApicAccessQualification::new()
            .with_offset(access.offset)
            .with_access_type(access.kind.access_type())
            .into_bits();
        self.exit(Exit { reason: ExitReason::ApicAccess, qualification, clause })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, XAPIC};
    use super::*;

    fn access(offset: u16, width: Width, kind: AccessKind) -> Access {
        Access { offset, width, kind, after_write: false }
    }

    fn exit_44(clause: Clause, qualification: u64) -> Exit {
        Exit { reason: ExitReason::ApicAccess, qualification, clause }
    }

    #[test]
    fn widths_are_1_2_4_and_8_bytes() {
        let widths = [Width::Byte, Width::Word, Width::Dword, Width::Qword];
        for (bytes, width) in [1, 2, 4, 8].into_iter().zip(widths) {
            assert_eq!(Width::from_bytes(bytes), Some(width));
        }
        assert_eq!([0, 3, 5, 16].map(Width::from_bytes), [None; 4]);
    }

    #[test]
    fn an_eoi_exits_where_the_processor_does_not_deliver() {
        let mut machine = Machine::new(XAPIC, 1);
        machine.without_interrupt_delivery(0);
        let Outcome::Exit(exit) = machine.mmio_write(0, 0xB0, 0) else { panic!("no exit") };
        assert_eq!((exit.reason, exit.qualification), (ExitReason::ApicWrite, 0xB0));
        assert_eq!(exit.clause, Clause::WriteEoiWithoutDelivery);
    }

    #[test]
    fn every_reason_for_exit_44() {
        let mut machine = Machine::new(XAPIC, 1);
        let read = |machine: &mut Machine, access| machine.guest(0).mmio_read(access);
        for (access, clause, qualification) in [
            (access(0x80, Width::Qword, AccessKind::Read), Clause::AccessTooWide, 0x080),
            (access(0x80, Width::Dword, AccessKind::Fetch), Clause::AccessFetch, 0x2080),
            (access(0x82, Width::Dword, AccessKind::Read), Clause::AccessMisplaced, 0x082),
            (access(0x84, Width::Byte, AccessKind::Read), Clause::AccessMisplaced, 0x084),
            (access(0xFFE, Width::Dword, AccessKind::Read), Clause::AccessMisplaced, 0xFFE),
            (access(0xA0, Width::Dword, AccessKind::Read), Clause::ReadNotListed, 0x0A0),
            (access(0xA0, Width::Dword, AccessKind::EventDelivery { write: false }), Clause::ReadNotListed, 0x30A0),
            (
                Access { after_write: true, ..access(0x80, Width::Dword, AccessKind::Read) },
                Clause::AccessAfterWrite,
                0x80,
            ),
        ] {
            assert_eq!(read(&mut machine, access), Read::Exit(exit_44(clause, qualification)), "{access:?}");
        }
        let write = machine.guest(0).mmio_write(access(0x30, Width::Dword, AccessKind::Write), 0);
        assert_eq!(write, Outcome::Exit(exit_44(Clause::WriteNotListed, 0x1030)));
        machine.vp_mut(0).vmcs = crate::processor::Vmcs {
            primary: machine.vp(0).vmcs.primary.with_use_tpr_shadow(false).with_activate_tertiary(false),
            secondary: crate::arch::Secondary::new().with_virtualize_apic_accesses(true),
            pin: crate::arch::PinBased::new(),
            ..machine.vp(0).vmcs.clone()
        };
        machine.reenter(0);
        let read = machine.guest(0).mmio_read(access(0x80, Width::Dword, AccessKind::Read));
        assert_eq!(read, Read::Exit(exit_44(Clause::AccessWithoutTprShadow, 0x80)));
    }

    /// Which offsets are virtualized under which controls, against lists written out from 30.4.2 and 30.4.3.1.
    #[test]
    fn lists_of_offsets_follow_the_controls() {
        for (registers, delivery, ipi) in itertools_bools() {
            let mut machine = Machine::new(XAPIC, 1);
            machine.set_controls(0, registers, delivery, ipi);
            for offset in 0..0x1000u16 {
                let low = offset & !3;
                let in_ranges = |list: &[u16]| registers && offset & 0xC == 0 && list.contains(&low);
                let mut reads = vec![0x20, 0x30, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, 0x380, 0x3E0];
                reads.extend((0x320..=0x370).step_by(16));
                let mut writes = reads.clone();
                writes.retain(|&o| o != 0x30);
                for bank in [0x100, 0x180, 0x200] {
                    reads.extend((0..8).map(|i| bank + i * 16));
                }
                let readable = in_ranges(&reads) || offset == 0x80 || delivery && matches!(offset, 0xB0 | 0x300);
                let writable = in_ranges(&writes)
                    || offset == 0x80
                    || delivery && matches!(offset, 0xB0 | 0x300)
                    || ipi && offset == 0x300;
                let byte = |kind| access(offset, Width::Byte, kind);
                let read = machine.guest(0).mmio_read(byte(AccessKind::Read));
                assert_eq!(matches!(read, Read::Value(_)), readable, "read of {offset:03X}H: {read:?}");
                let write = machine.guest(0).mmio_write(byte(AccessKind::Write), 0);
                let exits = matches!(write, Outcome::Exit(Exit { reason: ExitReason::ApicAccess, .. }));
                assert_eq!(!exits, writable, "write of {offset:03X}H: {write:?}");
            }
        }
    }

    fn itertools_bools() -> impl Iterator<Item = (bool, bool, bool)> {
        (0..8).map(|i| (i & 1 != 0, i & 2 != 0, i & 4 != 0))
    }

    #[test]
    fn icr_high_keeps_its_destination_byte_only() {
        let mut machine = Machine::new(XAPIC, 1);
        let written = machine.mmio_write(0, 0x310, 0xAB12_3456);
        assert_eq!(written, Outcome::Virtualized(Clause::WriteIcrHigh));
        let value = machine.guest(0).mmio_read(access(0x310, Width::Dword, AccessKind::Read));
        assert_eq!(value, Read::Value(0xAB00_0000));
    }

    #[test]
    fn tpr_loses_its_upper_bytes() {
        let mut machine = Machine::new(XAPIC, 1);
        let written = machine.mmio_write(0, 0x80, 0x1234_5620);
        assert_eq!(written, Outcome::Virtualized(Clause::TprVirtualized));
        let value = machine.guest(0).mmio_read(access(0x80, Width::Dword, AccessKind::Read));
        assert_eq!(value, Read::Value(0x20));
        assert_eq!(machine.guest(0).vppr(), 0x20);
    }

    #[test]
    fn eoi_clears_veoi_and_works_on_svi() {
        let mut machine = Machine::new(XAPIC, 1);
        let written = machine.mmio_write(0, 0xB0, 0xFFFF_FFFF);
        assert_eq!(written, Outcome::Virtualized(Clause::EoiVirtualized));
        assert_eq!(machine.guest(0).mmio_read(access(0xB0, Width::Dword, AccessKind::Read)), Read::Value(0));
    }

    #[test]
    fn other_registers_exit_after_the_write() {
        let mut machine = Machine::new(XAPIC, 1);
        for offset in [0x20, 0xD0, 0xE0, 0xF0, 0x280, 0x320, 0x370, 0x380, 0x3E0, 0x301, 0x081, 0x0B2] {
            let write = machine.guest(0).mmio_write(access(offset, Width::Byte, AccessKind::Write), 0x5A);
            let exit = Exit {
                reason: ExitReason::ApicWrite,
                qualification: u64::from(offset),
                clause: Clause::WriteOtherOffset,
            };
            assert_eq!(write, Outcome::Exit(exit));
            let stored = machine.guest(0).mmio_read(access(offset, Width::Byte, AccessKind::Read));
            assert_eq!(stored, Read::Value(0x5A), "trap-like: {offset:03X}H is written");
        }
    }
}
