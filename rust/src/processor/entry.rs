//! VM entry: checks on the controls, and what entry does to virtual interrupts.
//!
//! SDM vol. 3C, "VM-Execution Control Fields" 27.2.1.1 and "Updating Non-Register State" 27.3.2.5; a failed check is VM-instruction
//! error 7. One check, one variant, in the order of the manual's list.

use super::non_root::{Controls, OutsideMemory, Pages, VirtualProcessor};
use super::vmcs::{Capabilities, Vmcs, fits};
use super::{NonRoot, VirtualApic};
use crate::arch::capability::{
    IA32_VMX_PINBASED_CTLS, IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2, IA32_VMX_PROCBASED_CTLS3,
};
use crate::arch::posted_interrupt::{DESCRIPTOR_BYTES, ENTRY_BYTES};
use crate::arch::vmcs_field::tpr_threshold;
use crate::arch::{ApicRegister, vector};
use crate::memory::{PhysicalMemory, Word};
use thiserror::Error;

/// Why VM entry fails with VM-instruction error 7 (VM entry with invalid control fields).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says it")]
pub enum EntryFailure {
    #[error("pin-based controls {0:08X}H: not allowed by IA32_VMX_PINBASED_CTLS")]
    PinBased(u32),
    #[error("primary processor-based controls {0:08X}H: not allowed by IA32_VMX_PROCBASED_CTLS")]
    Primary(u32),
    #[error("secondary processor-based controls {0:08X}H: not allowed by IA32_VMX_PROCBASED_CTLS2")]
    Secondary(u32),
    #[error("tertiary processor-based controls {0:X}H: not allowed by IA32_VMX_PROCBASED_CTLS3")]
    Tertiary(u64),
    #[error("MSR-bitmap address {0:X}H: must be 4-KiB aligned and within the physical-address width")]
    MsrBitmapAddress(u64),
    #[error("virtual-APIC address {0:X}H: must be 4-KiB aligned and within the physical-address width")]
    VirtualApicAddress(u64),
    #[error("TPR threshold {0:X}H: bits 31:4 must be 0 while virtual-interrupt delivery is 0")]
    TprThresholdReserved(u32),
    #[error(
        "TPR threshold {threshold:X}H: must not exceed VTPR[7:4] ({vtpr:X}H) while virtualize APIC accesses and virtual-interrupt delivery are 0"
    )]
    TprThresholdAboveVtpr { threshold: u32, vtpr: u8 },
    #[error("use TPR shadow = 0: virtualize x2APIC mode must be 0")]
    X2ApicWithoutTprShadow,
    #[error("use TPR shadow = 0: APIC-register virtualization must be 0")]
    RegisterVirtualizationWithoutTprShadow,
    #[error("use TPR shadow = 0: virtual-interrupt delivery must be 0")]
    InterruptDeliveryWithoutTprShadow,
    #[error("use TPR shadow = 0: IPI virtualization must be 0")]
    IpiVirtualizationWithoutTprShadow,
    #[error("virtualize x2APIC mode = 1: virtualize APIC accesses must be 0")]
    X2ApicWithApicAccesses,
    #[error("virtual-interrupt delivery = 1: external-interrupt exiting must be 1")]
    InterruptDeliveryWithoutExternalInterruptExiting,
    #[error("process posted interrupts = 1: virtual-interrupt delivery must be 1")]
    PostedInterruptsWithoutInterruptDelivery,
    #[error("process posted interrupts = 1: acknowledge interrupt on exit must be 1")]
    PostedInterruptsWithoutAcknowledge,
    #[error("posted-interrupt notification vector {0:X}H: bits 15:8 must be 0")]
    NotificationVector(u16),
    #[error(
        "posted-interrupt descriptor address {0:X}H: must be 64-byte aligned and within the physical-address width"
    )]
    DescriptorAddress(u64),
    #[error("APIC-access address {0:X}H: must be 4-KiB aligned and within the physical-address width")]
    ApicAccessAddress(u64),
    #[error("PID-pointer table address {0:X}H: must be 8-byte aligned and within the physical-address width")]
    TableAddress(u64),
    #[error("PID-pointer table: the address of its last entry, {0:X}H, is beyond the physical-address width")]
    TableEnd(u64),
    #[error("the {what} at {address:X}H is outside of the emulated memory")]
    OutsideMemory { what: &'static str, address: u64 },
}

impl EntryFailure {
    /// The capability MSR that does not allow the controls, if that is why.
    #[must_use]
    pub const fn capability_msr(self) -> Option<u32> {
        match self {
            Self::PinBased(_) => Some(IA32_VMX_PINBASED_CTLS),
            Self::Primary(_) => Some(IA32_VMX_PROCBASED_CTLS),
            Self::Secondary(_) => Some(IA32_VMX_PROCBASED_CTLS2),
            Self::Tertiary(_) => Some(IA32_VMX_PROCBASED_CTLS3),
            _ => None,
        }
    }
}

const PAGE_BYTES: u64 = 4096;

/// The checks of 27.2.1.1 that concern interrupts. `vtpr` is the byte at 080H of the virtual-APIC page.
///
/// The checks of the PID-pointer table follow the ISE reference; no public text at hand confirms them word for word.
///
/// # Errors
/// The first check that fails.
pub fn check(vmcs: &Vmcs, processor: &Capabilities, vtpr: u8) -> Result<(), EntryFailure> {
    use EntryFailure as F;
    let ensure = |holds: bool, failure: F| if holds { Ok(()) } else { Err(failure) };
    let address = |value: u64, align: u64| value.is_multiple_of(align) && fits(value, processor.max_phys_addr_bits);
    let controls = Controls::of(vmcs);

    ensure(processor.pin.allows(vmcs.pin.into_bits()), F::PinBased(vmcs.pin.into_bits()))?;
    ensure(processor.primary.allows(vmcs.primary.into_bits()), F::Primary(vmcs.primary.into_bits()))?;
    if vmcs.primary.activate_secondary() {
        ensure(processor.secondary.allows(vmcs.secondary.into_bits()), F::Secondary(vmcs.secondary.into_bits()))?;
    }
    if vmcs.primary.activate_tertiary() {
        ensure(processor.tertiary.allows(vmcs.tertiary.into_bits()), F::Tertiary(vmcs.tertiary.into_bits()))?;
    }
    if controls.msr_bitmaps {
        ensure(address(vmcs.msr_bitmap, PAGE_BYTES), F::MsrBitmapAddress(vmcs.msr_bitmap))?;
    }
    if controls.tpr_shadow {
        ensure(address(vmcs.virtual_apic, PAGE_BYTES), F::VirtualApicAddress(vmcs.virtual_apic))?;
        if !controls.interrupt_delivery {
            let threshold = vmcs.tpr_threshold;
            ensure(tpr_threshold(threshold) == threshold, F::TprThresholdReserved(threshold))?;
            let vtpr = vector::class(vtpr);
            ensure(
                controls.apic_accesses || threshold <= u32::from(vtpr),
                F::TprThresholdAboveVtpr { threshold, vtpr },
            )?;
        }
    } else {
        ensure(!controls.x2apic_mode, F::X2ApicWithoutTprShadow)?;
        ensure(!controls.register_virtualization, F::RegisterVirtualizationWithoutTprShadow)?;
        ensure(!controls.interrupt_delivery, F::InterruptDeliveryWithoutTprShadow)?;
        ensure(!controls.ipi, F::IpiVirtualizationWithoutTprShadow)?;
    }
    ensure(!(controls.x2apic_mode && controls.apic_accesses), F::X2ApicWithApicAccesses)?;
    if controls.interrupt_delivery {
        ensure(controls.external_interrupt_exiting, F::InterruptDeliveryWithoutExternalInterruptExiting)?;
    }
    if controls.posted_interrupts {
        ensure(controls.interrupt_delivery, F::PostedInterruptsWithoutInterruptDelivery)?;
        ensure(controls.acknowledge_on_exit, F::PostedInterruptsWithoutAcknowledge)?;
        ensure(u8::try_from(vmcs.notification_vector).is_ok(), F::NotificationVector(vmcs.notification_vector))?;
        ensure(address(vmcs.descriptor, DESCRIPTOR_BYTES), F::DescriptorAddress(vmcs.descriptor))?;
    }
    if controls.apic_accesses {
        ensure(address(vmcs.apic_access, PAGE_BYTES), F::ApicAccessAddress(vmcs.apic_access))?;
    }
    if controls.ipi {
        ensure(address(vmcs.pid_table, ENTRY_BYTES), F::TableAddress(vmcs.pid_table))?;
        let last = vmcs.pid_table.wrapping_add(u64::from(vmcs.last_pid_index) * ENTRY_BYTES);
        ensure(fits(last, processor.max_phys_addr_bits), F::TableEnd(last))?;
    }
    Ok(())
}

impl<'p, 'a, W: Word> NonRoot<'p, 'a, W> {
    /// VM entry: checks the controls; then, with virtual-interrupt delivery = 1, PPR virtualization and evaluation.
    /// (27.3.2.5) Whether the TPR threshold is due is noted for the first boundary. (27.7.7)
    ///
    /// # Errors
    /// The check that failed; the virtual processor has not changed.
    pub fn enter(memory: &'a PhysicalMemory<W>, vp: &'p mut VirtualProcessor) -> Result<Self, EntryFailure> {
        let page = memory.registers(vp.vmcs.virtual_apic);
        let vtpr = page.map_or(0, |page| VirtualApic::new(page).get(ApicRegister::TPR) as u8);
        check(&vp.vmcs, &vp.capabilities, vtpr)?;
        let controls = Controls::of(&vp.vmcs);
        let pages = Pages::with(memory, &vp.vmcs, controls)
            .map_err(|OutsideMemory { what, address }| EntryFailure::OutsideMemory { what, address })?;
        vp.controls = controls;
        vp.max_phys_addr_bits = vp.capabilities.max_phys_addr_bits;
        vp.recognized = false;
        // "VM Exits Induced by the TPR Threshold" 27.7.7.
        vp.threshold_due = controls.tpr_shadow && controls.apic_accesses && !controls.interrupt_delivery;
        let mut guest = Self::resume_with(memory, pages, vp);
        if controls.interrupt_delivery {
            guest.ppr_virtualization();
            guest.evaluate();
        }
        Ok(guest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Boundary;
    use super::super::testing::{Machine, X2APIC, XAPIC};
    use super::*;
    use crate::arch::{Exit, ExitReason, PinBased, Secondary, Tertiary};

    /// What VM entry says of a valid VMCS after `change`, or none if it succeeds.
    fn failure(mode: crate::arch::ApicMode, change: impl FnOnce(&mut Vmcs)) -> Option<EntryFailure> {
        let mut machine = Machine::new(mode, 1);
        change(&mut machine.vp_mut(0).vmcs);
        machine.enter(0).err()
    }

    #[test]
    fn addresses() {
        use EntryFailure as F;
        let vmcs = Machine::new(X2APIC, 1).vp(0).vmcs.clone();
        for bit in 0..64 {
            let beyond = bit >= 46;
            let flip = |address: u64| address ^ (1 << bit);
            let bitmap = failure(X2APIC, |v| v.msr_bitmap = flip(v.msr_bitmap));
            assert_eq!(bitmap == Some(F::MsrBitmapAddress(flip(vmcs.msr_bitmap))), bit < 12 || beyond, "{bitmap:?}");
            let page = failure(X2APIC, |v| v.virtual_apic = flip(v.virtual_apic));
            assert_eq!(page == Some(F::VirtualApicAddress(flip(vmcs.virtual_apic))), bit < 12 || beyond, "{page:?}");
            let pid = failure(X2APIC, |v| v.descriptor = flip(v.descriptor));
            assert_eq!(pid == Some(F::DescriptorAddress(flip(vmcs.descriptor))), bit < 6 || beyond, "{pid:?}");
            let table = failure(X2APIC, |v| v.pid_table = flip(v.pid_table));
            assert_eq!(table == Some(F::TableAddress(flip(vmcs.pid_table))), bit < 3 || beyond, "{table:?}");
            let access = failure(XAPIC, |v| v.apic_access ^= 1 << bit);
            assert_eq!(matches!(access, Some(F::ApicAccessAddress(_))), bit < 12 || beyond, "{access:?}");
        }
    }

    #[test]
    fn the_last_entry_of_the_table_must_be_within_the_width() {
        let table = |last| {
            failure(X2APIC, |v| {
                v.pid_table = (1 << 46) - 16;
                v.last_pid_index = last;
            })
        };
        assert_eq!(table(1), None);
        assert_eq!(table(2), Some(EntryFailure::TableEnd(1 << 46)));
    }

    #[test]
    fn controls_that_need_each_other() {
        use EntryFailure as F;
        assert_eq!(failure(X2APIC, |_| ()), None);
        assert_eq!(failure(XAPIC, |_| ()), None);
        let both = failure(X2APIC, |v| v.secondary.set_virtualize_apic_accesses(true));
        assert_eq!(both, Some(F::X2ApicWithApicAccesses));
        let no_exiting = failure(X2APIC, |v| v.pin.set_external_interrupt_exiting(false));
        assert_eq!(no_exiting, Some(F::InterruptDeliveryWithoutExternalInterruptExiting));
        let no_delivery = failure(X2APIC, |v| v.secondary.set_virtual_interrupt_delivery(false));
        assert_eq!(no_delivery, Some(F::PostedInterruptsWithoutInterruptDelivery));
        let no_acknowledge = failure(X2APIC, |v| v.exit_controls.set_acknowledge_interrupt(false));
        assert_eq!(no_acknowledge, Some(F::PostedInterruptsWithoutAcknowledge));
        assert_eq!(failure(X2APIC, |v| v.notification_vector = 0x1F2), Some(F::NotificationVector(0x1F2)));
    }

    #[test]
    fn without_tpr_shadow_four_controls_must_be_0() {
        use EntryFailure as F;
        let with = |secondary: Secondary, ipi: bool| {
            failure(X2APIC, |v| {
                v.primary.set_use_tpr_shadow(false);
                v.pin = PinBased::new();
                v.secondary = secondary;
                v.tertiary = Tertiary::new().with_ipi_virtualization(ipi);
            })
        };
        assert_eq!(with(Secondary::new().with_virtualize_x2apic_mode(true), false), Some(F::X2ApicWithoutTprShadow));
        assert_eq!(
            with(Secondary::new().with_apic_register_virtualization(true), false),
            Some(F::RegisterVirtualizationWithoutTprShadow)
        );
        assert_eq!(
            with(Secondary::new().with_virtual_interrupt_delivery(true), false),
            Some(F::InterruptDeliveryWithoutTprShadow)
        );
        assert_eq!(with(Secondary::new(), true), Some(F::IpiVirtualizationWithoutTprShadow));
        assert_eq!(with(Secondary::new(), false), None);
    }

    #[test]
    fn tpr_threshold() {
        use EntryFailure as F;
        let with = |mode, threshold| {
            failure(mode, |v| {
                v.pin.set_process_posted_interrupts(false);
                v.secondary.set_virtual_interrupt_delivery(false);
                v.tpr_threshold = threshold;
            })
        };
        assert_eq!(with(X2APIC, 0x10), Some(F::TprThresholdReserved(0x10)));
        assert_eq!(with(X2APIC, 1), Some(F::TprThresholdAboveVtpr { threshold: 1, vtpr: 0 }));
        assert_eq!(with(XAPIC, 1), None, "virtualize APIC accesses = 1: an exit right after entry instead");
        assert_eq!(failure(X2APIC, |v| v.tpr_threshold = 0x10), None, "not looked at with interrupt delivery");
    }

    #[test]
    fn capabilities_bound_each_word() {
        use EntryFailure as F;
        assert_eq!(failure(X2APIC, |v| v.tertiary = Tertiary::from_bits(1 << 4 | 1 << 5)), Some(F::Tertiary(0x30)));
        let off = failure(X2APIC, |v| {
            v.tertiary = Tertiary::from_bits(1 << 5);
            v.primary.set_activate_tertiary(false);
        });
        assert_eq!(off, None, "inactive tertiary controls are not checked and act as 0");
    }

    #[test]
    fn a_failed_entry_changes_nothing() {
        let mut machine = Machine::new(X2APIC, 1);
        machine.vp_mut(0).vmcs.descriptor += 1;
        let before = machine.vp(0).clone();
        assert!(machine.enter(0).is_err());
        assert_eq!(machine.vp(0), &before);
    }

    #[test]
    fn entry_evaluates_what_the_vmm_left_in_rvi() {
        let mut machine = Machine::new(X2APIC, 1);
        machine.guest(0).virtual_apic().set_bit(ApicRegister::IRR, 0x41);
        machine.vp_mut(0).vmcs.rvi = 0x41;
        assert_eq!(machine.guest(0).boundary(), Boundary::Nothing, "a change of RVI alone recognizes nothing");
        machine.reenter(0);
        assert_eq!(machine.guest(0).boundary(), Boundary::Delivered(0x41));
    }

    #[test]
    fn with_interrupt_delivery_the_threshold_means_nothing() {
        for mode in [XAPIC, X2APIC] {
            let mut machine = Machine::new(mode, 1);
            machine.vp_mut(0).vmcs.tpr_threshold = 1;
            machine.reenter(0);
            assert_eq!(machine.guest(0).boundary(), Boundary::Nothing);
        }
    }

    #[test]
    fn a_threshold_above_vtpr_exits_right_after_entry() {
        let mut machine = Machine::new(XAPIC, 1);
        let vmcs = &mut machine.vp_mut(0).vmcs;
        vmcs.pin.set_process_posted_interrupts(false);
        vmcs.secondary.set_virtual_interrupt_delivery(false);
        vmcs.tpr_threshold = 1;
        machine.reenter(0);
        let boundary = machine.guest(0).boundary();
        assert!(matches!(boundary, Boundary::Exit(Exit { reason: ExitReason::TprBelowThreshold, .. })));
        assert_eq!(machine.guest(0).boundary(), Boundary::Nothing, "once");
    }
}
