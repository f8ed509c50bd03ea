//! How a vCPU's local APIC is addressed, and whether a destination means it.
//!
//! SDM vol. 3A, "Determining IPI Destination" 11.6.2 and "Logical Destination Mode in x2APIC Mode" 11.12.10.1.
//! KVM: `kvm_apic_match_dest`, `kvm_apic_match_physical_addr`, `kvm_apic_match_logical_addr`.

use crate::arch::apic_register::{ClusterId, DFR_CLUSTER, DFR_FLAT, SpuriousVector, XApicId, XApicLdr};
use crate::arch::{ApicMode, ApicRegister, DestinationMode, X2ApicLdr};
use crate::memory::Word;
use crate::processor::VirtualApic;
use bitfield_struct::bitfield;

/// Physical destination that means all, in xAPIC mode.
pub const XAPIC_BROADCAST: u32 = 0xFF;
/// Destination that means all, in x2APIC mode.
pub const X2APIC_BROADCAST: u32 = 0xFFFF_FFFF;

/// The models of a logical destination in xAPIC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogicalModel {
    /// DFR = FFFFFFFFH.
    Flat,
    /// DFR = 0FFFFFFFH.
    Cluster,
    /// Any other DFR: no logical destination means this APIC.
    Neither,
}

impl LogicalModel {
    const fn of_dfr(dfr: u32) -> Self {
        match dfr {
            DFR_FLAT => Self::Flat,
            DFR_CLUSTER => Self::Cluster,
            _ => Self::Neither,
        }
    }

    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Flat,
            1 => Self::Cluster,
            _ => Self::Neither,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// What others need to know of a local APIC to address it: one word, published whole. (`struct kvm_apic_map`)
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ApicIdentity {
    /// There is such a vCPU.
    pub present: bool,
    /// IA32_APIC_BASE.EN.
    pub enabled: bool,
    /// IA32_APIC_BASE.EXTD.
    pub x2apic: bool,
    /// SVR bit 8.
    pub software_enabled: bool,
    #[bits(4)]
    reserved_7_4: u8,
    /// ID in xAPIC mode, as the guest last wrote it.
    pub xapic_id: u8,
    /// Logical ID in xAPIC mode.
    pub logical_id: u8,
    #[bits(2)]
    model: LogicalModel,
    #[bits(6)]
    reserved_31_26: u8,
    /// x2APIC ID.
    pub x2apic_id: u32,
}

impl ApicIdentity {
    /// The identity of a local APIC in `mode`, from its registers.
    #[must_use]
    pub fn of<W: Word>(apic: VirtualApic<'_, W>, mode: ApicMode, x2apic_id: u32) -> Self {
        Self::new()
            .with_present(true)
            .with_enabled(mode != ApicMode::Disabled)
            .with_x2apic(mode == ApicMode::X2Apic)
            .with_software_enabled(SpuriousVector::from_bits(apic.get(ApicRegister::SVR)).enabled())
            .with_xapic_id(XApicId::from_bits(apic.get(ApicRegister::ID)).id())
            .with_logical_id(XApicLdr::from_bits(apic.get(ApicRegister::LDR)).logical_id())
            .with_model(LogicalModel::of_dfr(apic.get(ApicRegister::DFR)))
            .with_x2apic_id(x2apic_id)
    }

    /// It is addressed by what its guest wrote into its registers.
    #[must_use]
    pub const fn in_xapic_mode(self) -> bool {
        self.present() && self.enabled() && !self.x2apic()
    }

    /// The ID that its guest uses now.
    #[must_use]
    pub const fn id(self) -> u32 {
        if self.x2apic() { self.x2apic_id() } else { self.xapic_id() as u32 }
    }

    /// Whether `destination` means this local APIC. It reads the destination in its own mode, as KVM's does.
    #[must_use]
    pub const fn accepts(self, destination: u32, mode: DestinationMode) -> bool {
        if !self.present() || !self.enabled() {
            return false;
        }
        if destination == if self.x2apic() { X2APIC_BROADCAST } else { XAPIC_BROADCAST } {
            return true;
        }
        match mode {
            DestinationMode::Physical => self.accepts_physical(destination),
            DestinationMode::Logical => self.accepts_logical(destination),
        }
    }

    const fn accepts_physical(self, destination: u32) -> bool {
        // In xAPIC mode an ID of more than 8 bits cannot be written: KVM accepts the x2APIC ID instead.
        let hotplugged = !self.x2apic() && self.x2apic_id() > XAPIC_BROADCAST && destination == self.x2apic_id();
        hotplugged || destination == self.id()
    }

    const fn accepts_logical(self, destination: u32) -> bool {
        if self.x2apic() {
            let mine = X2ApicLdr::of_id(self.x2apic_id());
            let asked = X2ApicLdr::from_bits(destination);
            return mine.cluster() == asked.cluster() && mine.member() & asked.member() != 0;
        }
        let asked = destination as u8;
        match self.model() {
            LogicalModel::Flat => self.logical_id() & asked != 0,
            LogicalModel::Cluster => {
                let (mine, asked) = (ClusterId::from_bits(self.logical_id()), ClusterId::from_bits(asked));
                mine.cluster() == asked.cluster() && mine.members() & asked.members() != 0
            }
            LogicalModel::Neither => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DestinationMode::{Logical, Physical};

    fn xapic(id: u8, logical: u8, model: LogicalModel) -> ApicIdentity {
        ApicIdentity::new()
            .with_present(true)
            .with_enabled(true)
            .with_xapic_id(id)
            .with_logical_id(logical)
            .with_model(model)
            .with_x2apic_id(u32::from(id))
    }

    fn x2apic(id: u32) -> ApicIdentity {
        ApicIdentity::new().with_present(true).with_enabled(true).with_x2apic(true).with_x2apic_id(id)
    }

    #[test]
    fn an_identity_is_what_the_registers_say() {
        let page: Box<crate::memory::Registers<std::cell::Cell<u64>>> =
            std::cell::Cell::<u64>::zeroed(128).try_into().unwrap();
        let apic = VirtualApic::new(&page);
        apic.set(ApicRegister::ID, 5 << 24);
        apic.set(ApicRegister::LDR, 0x12 << 24);
        for (dfr, model) in
            [(DFR_FLAT, LogicalModel::Flat), (DFR_CLUSTER, LogicalModel::Cluster), (0x7FFF_FFFF, LogicalModel::Neither)]
        {
            apic.set(ApicRegister::DFR, dfr);
            let identity = ApicIdentity::of(apic, ApicMode::XApic, 9);
            assert_eq!((identity.model(), identity.logical_id(), identity.id()), (model, 0x12, 5));
            assert!(identity.present() && identity.enabled() && !identity.x2apic() && !identity.software_enabled());
        }
        apic.set(ApicRegister::SVR, 0x100);
        let identity = ApicIdentity::of(apic, ApicMode::X2Apic, 9);
        assert!(identity.enabled() && identity.x2apic() && identity.software_enabled());
        assert_eq!(identity.id(), 9);
        assert!(!ApicIdentity::of(apic, ApicMode::Disabled, 9).enabled());
    }

    #[test]
    fn physical_destinations() {
        assert!(xapic(3, 0, LogicalModel::Flat).accepts(3, Physical));
        assert!(!xapic(3, 0, LogicalModel::Flat).accepts(4, Physical));
        assert!(xapic(3, 0, LogicalModel::Flat).accepts(0xFF, Physical), "broadcast");
        assert!(!x2apic(3).accepts(0xFF, Physical), "255 is an ID like any other");
        assert!(x2apic(3).accepts(0xFFFF_FFFF, Physical) && x2apic(300).accepts(300, Physical));
        assert!(!x2apic(3).with_enabled(false).accepts(3, Physical));
        assert!(xapic(44, 0, LogicalModel::Flat).with_x2apic_id(300).accepts(300, Physical), "hotplug");
        assert!(!xapic(9, 0, LogicalModel::Flat).with_x2apic_id(3).accepts(3, Physical), "it has a new ID");
    }

    /// Every flat destination against every flat logical ID, and the same for clusters.
    #[test]
    fn xapic_logical_destinations() {
        for logical in 0..=255u8 {
            for destination in 0..=255u8 {
                let flat = destination == 0xFF || logical & destination != 0;
                assert_eq!(xapic(1, logical, LogicalModel::Flat).accepts(u32::from(destination), Logical), flat);
                let cluster =
                    destination == 0xFF || logical >> 4 == destination >> 4 && logical & destination & 0xF != 0;
                assert_eq!(xapic(1, logical, LogicalModel::Cluster).accepts(u32::from(destination), Logical), cluster);
            }
        }
        assert!(!xapic(1, 0xFF, LogicalModel::Neither).accepts(1, Logical));
    }

    #[test]
    fn x2apic_logical_destinations() {
        // ID 12H: cluster 1, member 2.
        assert!(x2apic(0x12).accepts(0x0001_0004, Logical));
        assert!(x2apic(0x12).accepts(0x0001_FFFF, Logical));
        assert!(!x2apic(0x12).accepts(0x0001_FFFB, Logical));
        assert!(!x2apic(0x12).accepts(0x0002_0004, Logical));
        assert!(x2apic(0x12).accepts(0xFFFF_FFFF, Logical), "broadcast");
    }
}
