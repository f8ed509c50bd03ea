//! VMCS fields that concern interrupt virtualization, with their encodings.
//!
//! SDM vol. 3D, "Field Encoding in VMCS", appendix B. A 64-bit field's high half is at its encoding + 1.

/// A VMCS field by its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum VmcsField {
    PostedInterruptNotificationVector = 0x0002,
    LastPidPointerIndex = 0x0008,
    GuestInterruptStatus = 0x0810,
    MsrBitmapAddress = 0x2004,
    VirtualApicAddress = 0x2012,
    ApicAccessAddress = 0x2014,
    PostedInterruptDescriptorAddress = 0x2016,
    EoiExitBitmap0 = 0x201C,
    EoiExitBitmap1 = 0x201E,
    EoiExitBitmap2 = 0x2020,
    EoiExitBitmap3 = 0x2022,
    TertiaryControls = 0x2034,
    PidPointerTableAddress = 0x2042,
    PinBasedControls = 0x4000,
    PrimaryControls = 0x4002,
    ExitControls = 0x400C,
    TprThreshold = 0x401C,
    SecondaryControls = 0x401E,
    ExitReason = 0x4402,
    ExitQualification = 0x6400,
}

impl VmcsField {
    /// All of them, by encoding.
    pub const ALL: [Self; 20] = [
        Self::PostedInterruptNotificationVector,
        Self::LastPidPointerIndex,
        Self::GuestInterruptStatus,
        Self::MsrBitmapAddress,
        Self::VirtualApicAddress,
        Self::ApicAccessAddress,
        Self::PostedInterruptDescriptorAddress,
        Self::EoiExitBitmap0,
        Self::EoiExitBitmap1,
        Self::EoiExitBitmap2,
        Self::EoiExitBitmap3,
        Self::TertiaryControls,
        Self::PidPointerTableAddress,
        Self::PinBasedControls,
        Self::PrimaryControls,
        Self::ExitControls,
        Self::TprThreshold,
        Self::SecondaryControls,
        Self::ExitReason,
        Self::ExitQualification,
    ];

    /// The encoding, for VMREAD and VMWRITE.
    #[must_use]
    pub const fn encoding(self) -> u32 {
        self as u32
    }

    /// The field with this encoding, if it is one of these.
    #[must_use]
    pub fn from_encoding(encoding: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.encoding() == encoding)
    }

    /// Width in bits, from bits 14:13 of the encoding; the natural width is 64.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match (self.encoding() >> 13) & 3 {
            0 => 16,
            2 => 32,
            _ => 64,
        }
    }

    /// Whether VMWRITE may not change it: bits 11:10 of the encoding say VM-exit information.
    #[must_use]
    pub const fn read_only(self) -> bool {
        (self.encoding() >> 10) & 3 == 1
    }
}

/// The threshold in the TPR-threshold field: bits 3:0 (25.6.8).
#[must_use]
pub const fn tpr_threshold(field: u32) -> u32 {
    field & 0xF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_tell_width_and_kind() {
        assert_eq!(VmcsField::LastPidPointerIndex.bits(), 16);
        assert_eq!(VmcsField::TertiaryControls.bits(), 64);
        assert_eq!(VmcsField::PidPointerTableAddress.bits(), 64);
        assert_eq!(VmcsField::TprThreshold.bits(), 32);
        assert_eq!(VmcsField::ExitQualification.bits(), 64);
        assert!(VmcsField::ExitReason.read_only() && VmcsField::ExitQualification.read_only());
        assert!(!VmcsField::GuestInterruptStatus.read_only());
        for field in VmcsField::ALL {
            assert_eq!(VmcsField::from_encoding(field.encoding()), Some(field));
        }
    }
}
