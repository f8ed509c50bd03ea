//! The VM-execution and VM-exit controls that interrupt virtualization reads.
//!
//! SDM vol. 3C, "VM-Execution Control Fields" 25.6 and "VM-Exit Control Fields" 25.7.
//! Bits that do not concern interrupts are kept as written and have no name here: they change nothing in this model.

use bitfield_struct::bitfield;

/// Pin-based VM-execution controls (25.6.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PinBased {
    /// External-interrupt exiting. Bit 0.
    pub external_interrupt_exiting: bool,
    #[bits(6)]
    other_6_1: u8,
    /// Process posted interrupts. Bit 7.
    pub process_posted_interrupts: bool,
    #[bits(24)]
    other_31_8: u32,
}

/// Primary processor-based VM-execution controls (25.6.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Primary {
    #[bits(2)]
    other_1_0: u8,
    /// Interrupt-window exiting. Bit 2.
    pub interrupt_window_exiting: bool,
    #[bits(4)]
    other_6_3: u8,
    /// HLT exiting. Bit 7.
    pub hlt_exiting: bool,
    #[bits(9)]
    other_16_8: u16,
    /// Activate tertiary controls. Bit 17.
    pub activate_tertiary: bool,
    #[bits(3)]
    other_20_18: u8,
    /// Use TPR shadow. Bit 21.
    pub use_tpr_shadow: bool,
    #[bits(6)]
    other_27_22: u8,
    /// Use MSR bitmaps. Bit 28.
    pub use_msr_bitmaps: bool,
    #[bits(2)]
    other_30_29: u8,
    /// Activate secondary controls. Bit 31.
    pub activate_secondary: bool,
}

/// Secondary processor-based VM-execution controls (25.6.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Secondary {
    /// Virtualize APIC accesses. Bit 0.
    pub virtualize_apic_accesses: bool,
    #[bits(3)]
    other_3_1: u8,
    /// Virtualize x2APIC mode. Bit 4.
    pub virtualize_x2apic_mode: bool,
    #[bits(3)]
    other_7_5: u8,
    /// APIC-register virtualization. Bit 8.
    pub apic_register_virtualization: bool,
    /// Virtual-interrupt delivery. Bit 9.
    pub virtual_interrupt_delivery: bool,
    #[bits(22)]
    other_31_10: u32,
}

/// Tertiary processor-based VM-execution controls, 64 bits (25.6.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Tertiary {
    #[bits(4)]
    other_3_0: u8,
    /// IPI virtualization. Bit 4.
    pub ipi_virtualization: bool,
    #[bits(59)]
    other_63_5: u64,
}

/// Primary VM-exit controls (25.7.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ExitControls {
    #[bits(15)]
    other_14_0: u16,
    /// Acknowledge interrupt on exit. Bit 15.
    pub acknowledge_interrupt: bool,
    #[bits(16)]
    other_31_16: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each control against the bit number of the manual's tables.
    #[test]
    fn bits_are_the_manuals() {
        assert_eq!(PinBased::new().with_external_interrupt_exiting(true).into_bits(), 1);
        assert_eq!(PinBased::new().with_process_posted_interrupts(true).into_bits(), 1 << 7);
        assert_eq!(Primary::new().with_interrupt_window_exiting(true).into_bits(), 1 << 2);
        assert_eq!(Primary::new().with_hlt_exiting(true).into_bits(), 1 << 7);
        assert_eq!(Primary::new().with_activate_tertiary(true).into_bits(), 1 << 17);
        assert_eq!(Primary::new().with_use_tpr_shadow(true).into_bits(), 1 << 21);
        assert_eq!(Primary::new().with_use_msr_bitmaps(true).into_bits(), 1 << 28);
        assert_eq!(Primary::new().with_activate_secondary(true).into_bits(), 1 << 31);
        assert_eq!(Secondary::new().with_virtualize_apic_accesses(true).into_bits(), 1);
        assert_eq!(Secondary::new().with_virtualize_x2apic_mode(true).into_bits(), 1 << 4);
        assert_eq!(Secondary::new().with_apic_register_virtualization(true).into_bits(), 1 << 8);
        assert_eq!(Secondary::new().with_virtual_interrupt_delivery(true).into_bits(), 1 << 9);
        assert_eq!(Tertiary::new().with_ipi_virtualization(true).into_bits(), 1 << 4);
        assert_eq!(ExitControls::new().with_acknowledge_interrupt(true).into_bits(), 1 << 15);
    }
}
