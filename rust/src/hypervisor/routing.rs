//! IPIs that exit: what KVM makes of the value of the ICR, and whom it means.
//!
//! SDM vol. 3A, "Issuing Interprocessor Interrupts" 11.6, "Error Handling" 11.5.3.
//! KVM: `kvm_apic_send_ipi`, `kvm_irq_delivery_to_apic`, `__apic_accept_irq`, `kvm_x2apic_icr_write`.

use super::identity::ApicIdentity;
use crate::arch::{DeliveryMode, Icr, IcrLow, Shorthand, vector};

/// What reaches a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// An interrupt with this vector.
    Interrupt(u8),
    /// A vector below 16: no interrupt, but a bit in the receiver's ESR, and one in the sender's.
    IllegalVector,
    /// A non-maskable interrupt.
    Nmi,
    /// A system-management interrupt; what it starts is not modelled.
    Smi,
    /// INIT.
    Init,
    /// A start-up IPI with this vector.
    Sipi(u8),
}

impl Message {
    /// The message that a value of the ICR sends; none for reserved delivery modes and for INIT level de-assert, which
    /// processors since the Pentium 4 ignore.
    #[must_use]
    pub const fn of(low: IcrLow) -> Option<Self> {
        let legal = low.vector() >= vector::FIRST_LEGAL;
        match low.delivery_mode() {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if !legal => Some(Self::IllegalVector),
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => Some(Self::Interrupt(low.vector())),
            DeliveryMode::Smi => Some(Self::Smi),
            DeliveryMode::Nmi => Some(Self::Nmi),
            DeliveryMode::Init if low.trigger_level() && !low.level_assert() => None,
            DeliveryMode::Init => Some(Self::Init),
            DeliveryMode::Sipi => Some(Self::Sipi(low.vector())),
            DeliveryMode::Reserved3 | DeliveryMode::Reserved7 => None,
        }
    }
}

/// Whether an ICR value means the vCPU with this identity. `sender` says that it is the one who wrote it.
#[must_use]
pub const fn means(icr: Icr, identity: ApicIdentity, sender: bool) -> bool {
    match icr.low.shorthand() {
        Shorthand::None => identity.accepts(icr.destination, icr.low.destination_mode()),
        Shorthand::Self_ => sender,
        Shorthand::All => identity.present() && identity.enabled(),
        Shorthand::AllButSelf => !sender && identity.present() && identity.enabled(),
    }
}

/// The vCPUs that an ICR value means, by number, lowest first. Of those that lowest-priority delivery could go to, one:
/// the `vector mod n`-th (`kvm_vector_to_index`).
#[must_use]
pub fn targets(icr: Icr, sender: u32, vcpus: impl Iterator<Item = (u32, ApicIdentity)>) -> Vec<u32> {
    let lowest = icr.low.delivery_mode() == DeliveryMode::LowestPriority;
    let meant = vcpus.filter(|&(number, identity)| {
        means(icr, identity, number == sender) && (!lowest || identity.software_enabled())
    });
    let mut meant: Vec<u32> = meant.map(|(number, _)| number).collect();
    if lowest && meant.len() > 1 {
        let chosen = usize::from(icr.low.vector()) % meant.len();
        meant.swap(0, chosen);
        meant.truncate(1);
    }
    meant
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{ApicMode, DestinationMode};

    fn identity(id: u32, mode: ApicMode) -> ApicIdentity {
        ApicIdentity::new()
            .with_present(true)
            .with_enabled(mode != ApicMode::Disabled)
            .with_x2apic(mode == ApicMode::X2Apic)
            .with_software_enabled(true)
            .with_xapic_id(id as u8)
            .with_logical_id(1 << (id % 8))
            .with_x2apic_id(id)
    }

    fn sent(icr: u64, mode: ApicMode) -> Vec<u32> {
        let vcpus = (0..4).map(|id| (id, identity(id, mode)));
        targets(Icr::from_u64(icr, mode), 1, vcpus)
    }

    #[test]
    fn shorthands() {
        for mode in [ApicMode::XApic, ApicMode::X2Apic] {
            assert_eq!(sent(0x4_0031, mode), [1], "self");
            assert_eq!(sent(0x8_0031, mode), [0, 1, 2, 3], "all");
            assert_eq!(sent(0xC_0031, mode), [0, 2, 3], "all but self");
        }
        let off = targets(Icr::from_x2apic(0x8_0031), 1, [(0, identity(0, ApicMode::Disabled))].into_iter());
        assert_eq!(off, [0u32; 0], "a disabled local APIC receives nothing");
    }

    #[test]
    fn destinations() {
        assert_eq!(sent(0x0300_0000_0000_0031, ApicMode::XApic), [3]);
        assert_eq!(sent(0xFF00_0000_0000_0031, ApicMode::XApic), [0, 1, 2, 3]);
        assert_eq!(sent(0x0600_0000_0000_0831, ApicMode::XApic), [1, 2], "flat");
        assert_eq!(sent(3 << 32 | 0x31, ApicMode::X2Apic), [3]);
        assert_eq!(sent(0xFFFF_FFFF << 32 | 0x31, ApicMode::X2Apic), [0, 1, 2, 3]);
        assert_eq!(sent(0x0000_0009 << 32 | 0x831, ApicMode::X2Apic), [0, 3], "cluster 0");
        assert_eq!(sent(77 << 32 | 0x31, ApicMode::X2Apic), [0u32; 0], "nobody: dropped");
    }

    #[test]
    fn lowest_priority_goes_to_one_by_its_vector() {
        for vector in 0x30..0x40u64 {
            let icr = 0xF << 32 | 0x900 | vector;
            assert_eq!(sent(icr, ApicMode::X2Apic), [vector as u32 % 4]);
        }
    }

    #[test]
    fn lowest_priority_skips_who_is_disabled_by_software() {
        let vcpus = (0..4).map(|id| (id, identity(id, ApicMode::X2Apic).with_software_enabled(id == 2)));
        for vector in 0x30..0x34 {
            assert_eq!(targets(Icr::from_x2apic(0xF << 32 | 0x900 | vector), 1, vcpus.clone()), [2]);
        }
    }

    #[test]
    fn delivery_modes() {
        let message = |bits| Message::of(IcrLow::from_bits(bits));
        assert_eq!(message(0x31), Some(Message::Interrupt(0x31)));
        assert_eq!((message(0x0F), message(0x10F)), (Some(Message::IllegalVector), Some(Message::IllegalVector)));
        assert_eq!((message(0x400), message(0x200)), (Some(Message::Nmi), Some(Message::Smi)));
        assert_eq!((message(0x4500), message(0x500)), (Some(Message::Init), Some(Message::Init)));
        assert_eq!((message(0xC500), message(0x8500)), (Some(Message::Init), None), "level de-assert is ignored");
        assert_eq!(message(0x608), Some(Message::Sipi(8)));
        assert_eq!((message(0x300), message(0x700)), (None, None));
    }

    #[test]
    fn the_destination_mode_is_looked_at() {
        let low = IcrLow::new().with_vector(0x31).with_destination_mode(DestinationMode::Logical);
        let icr = Icr { low, destination: 2 };
        let of = |id| means(icr, identity(id, ApicMode::XApic), false);
        assert!(of(1) && !of(2), "logical ID 2 is the second APIC's");
    }
}
