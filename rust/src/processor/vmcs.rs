//! The VMCS fields that interrupt virtualization reads and writes, and what a processor can do.

use crate::arch::capability::{AllowedSettings, AllowedTertiary};
use crate::arch::{ExitControls, GuestInterruptStatus, PinBased, Primary, Secondary, Tertiary, VmcsField};
use thiserror::Error;

/// A virtual-machine control structure, as far as it concerns interrupts (SDM vol. 3C, chapter 25).
///
/// Fields are plain data: VM entry checks them, see [`check`](super::check). What a guest's IPIs use comes last, beside what
/// follows in the [`VirtualProcessor`](super::VirtualProcessor): among many vCPUs each line comes from memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vmcs {
    /// Exit qualification (6400H).
    pub exit_qualification: u64,
    /// Exit reason (4402H).
    pub exit_reason: u32,
    /// Pin-based controls.
    pub pin: PinBased,
    /// Primary processor-based controls.
    pub primary: Primary,
    /// Secondary processor-based controls; they count only with activate secondary = 1.
    pub secondary: Secondary,
    /// Tertiary processor-based controls; they count only with activate tertiary = 1.
    pub tertiary: Tertiary,
    /// VM-exit controls.
    pub exit_controls: ExitControls,
    /// TPR threshold (401CH).
    pub tpr_threshold: u32,
    /// MSR-bitmap address (2004H).
    pub msr_bitmap: u64,
    /// Virtual-APIC address (2012H).
    pub virtual_apic: u64,
    /// APIC-access address (2014H).
    pub apic_access: u64,
    /// Posted-interrupt descriptor address (2016H).
    pub descriptor: u64,
    /// EOI-exit bitmaps 0 to 3 (201CH to 2022H).
    pub eoi_exit: [u64; 4],
    /// PID-pointer table address (2042H).
    pub pid_table: u64,
    /// Last PID-pointer index (0008H).
    pub last_pid_index: u16,
    /// Posted-interrupt notification vector (0002H).
    pub notification_vector: u16,
    /// Requesting virtual interrupt, the lower half of the guest interrupt status (0810H).
    pub rvi: u8,
    /// Servicing virtual interrupt, the upper half of the guest interrupt status. Two fields rather than one of 16 bits:
    /// each is written on its own just before it is read, and a wider read of two fresh bytes would wait for both.
    pub svi: u8,
}

/// A VMWRITE that cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VmcsError {
    /// VM-exit information fields are read-only.
    #[error("VMCS field {:04X}H is read-only", .0.encoding())]
    ReadOnly(VmcsField),
    /// The value is wider than the field.
    #[error("{value:#X} does not fit the {} bits of VMCS field {:04X}H", .field.bits(), .field.encoding())]
    TooWide {
        /// The field.
        field: VmcsField,
        /// The value.
        value: u64,
    },
}

impl Vmcs {
    /// VMREAD.
    #[must_use]
    pub const fn read(&self, field: VmcsField) -> u64 {
        use VmcsField as F;
        match field {
            F::PostedInterruptNotificationVector => self.notification_vector as u64,
            F::LastPidPointerIndex => self.last_pid_index as u64,
            F::GuestInterruptStatus => {
                GuestInterruptStatus::new().with_rvi(self.rvi).with_svi(self.svi).into_bits() as u64
            }
            F::MsrBitmapAddress => self.msr_bitmap,
            F::VirtualApicAddress => self.virtual_apic,
            F::ApicAccessAddress => self.apic_access,
            F::PostedInterruptDescriptorAddress => self.descriptor,
            F::EoiExitBitmap0 => self.eoi_exit[0],
            F::EoiExitBitmap1 => self.eoi_exit[1],
            F::EoiExitBitmap2 => self.eoi_exit[2],
            F::EoiExitBitmap3 => self.eoi_exit[3],
            F::TertiaryControls => self.tertiary.into_bits(),
            F::PidPointerTableAddress => self.pid_table,
            F::PinBasedControls => self.pin.into_bits() as u64,
            F::PrimaryControls => self.primary.into_bits() as u64,
            F::ExitControls => self.exit_controls.into_bits() as u64,
            F::TprThreshold => self.tpr_threshold as u64,
            F::SecondaryControls => self.secondary.into_bits() as u64,
            F::ExitReason => self.exit_reason as u64,
            F::ExitQualification => self.exit_qualification,
        }
    }

    /// VMWRITE.
    ///
    /// # Errors
    /// A read-only field, or a value wider than the field.
    pub fn write(&mut self, field: VmcsField, value: u64) -> Result<(), VmcsError> {
        use VmcsField as F;
        if field.read_only() {
            return Err(VmcsError::ReadOnly(field));
        }
        if !fits(value, field.bits() as u8) {
            return Err(VmcsError::TooWide { field, value });
        }
        match field {
            F::PostedInterruptNotificationVector => self.notification_vector = value as u16,
            F::LastPidPointerIndex => self.last_pid_index = value as u16,
            F::GuestInterruptStatus => {
                let status = GuestInterruptStatus::from_bits(value as u16);
                (self.rvi, self.svi) = (status.rvi(), status.svi());
            }
            F::MsrBitmapAddress => self.msr_bitmap = value,
            F::VirtualApicAddress => self.virtual_apic = value,
            F::ApicAccessAddress => self.apic_access = value,
            F::PostedInterruptDescriptorAddress => self.descriptor = value,
            F::EoiExitBitmap0 => self.eoi_exit[0] = value,
            F::EoiExitBitmap1 => self.eoi_exit[1] = value,
            F::EoiExitBitmap2 => self.eoi_exit[2] = value,
            F::EoiExitBitmap3 => self.eoi_exit[3] = value,
            F::TertiaryControls => self.tertiary = Tertiary::from_bits(value),
            F::PidPointerTableAddress => self.pid_table = value,
            F::PinBasedControls => self.pin = PinBased::from_bits(value as u32),
            F::PrimaryControls => self.primary = Primary::from_bits(value as u32),
            F::ExitControls => self.exit_controls = ExitControls::from_bits(value as u32),
            F::TprThreshold => self.tpr_threshold = value as u32,
            F::SecondaryControls => self.secondary = Secondary::from_bits(value as u32),
            F::ExitReason | F::ExitQualification => return Err(VmcsError::ReadOnly(field)),
        }
        Ok(())
    }
}

/// What a processor can do: its physical-address width and the settings of the controls that it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// MAXPHYADDR, CPUID.80000008H:EAX\[7:0\].
    pub max_phys_addr_bits: u8,
    /// IA32_VMX_PINBASED_CTLS.
    pub pin: AllowedSettings,
    /// IA32_VMX_PROCBASED_CTLS.
    pub primary: AllowedSettings,
    /// IA32_VMX_PROCBASED_CTLS2.
    pub secondary: AllowedSettings,
    /// IA32_VMX_PROCBASED_CTLS3.
    pub tertiary: AllowedTertiary,
}

impl Default for Capabilities {
    /// Everything that this model knows is allowed, nothing is required, 46 physical-address bits.
    fn default() -> Self {
        Self {
            max_phys_addr_bits: 46,
            pin: AllowedSettings::ANY,
            primary: AllowedSettings::ANY,
            secondary: AllowedSettings::ANY,
            tertiary: AllowedTertiary(Tertiary::new().with_ipi_virtualization(true).into_bits()),
        }
    }
}

/// Whether `value` has no bit at or above bit `bits`.
#[inline]
pub(super) const fn fits(value: u64, bits: u8) -> bool {
    value.unbounded_shr(bits as u32) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field reads back what was written, at its full width and no wider.
    #[test]
    fn fields_read_back() {
        for field in VmcsField::ALL {
            let mut vmcs = Vmcs::default();
            let full = u64::MAX >> (64 - field.bits());
            if field.read_only() {
                assert_eq!(vmcs.write(field, 0), Err(VmcsError::ReadOnly(field)));
                continue;
            }
            assert_eq!(vmcs.write(field, full), Ok(()));
            assert_eq!(vmcs.read(field), full, "{field:?}");
            let others = VmcsField::ALL.into_iter().filter(|&other| other != field);
            assert!(others.map(|other| vmcs.read(other)).all(|value| value == 0), "{field:?} stands alone");
            if field.bits() < 64 {
                assert_eq!(vmcs.write(field, full + 1), Err(VmcsError::TooWide { field, value: full + 1 }));
            }
        }
    }

    #[test]
    fn widths() {
        assert!(fits((1 << 46) - 1, 46) && !fits(1 << 46, 46) && fits(u64::MAX, 64));
    }
}
