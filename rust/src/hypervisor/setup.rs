//! From what a processor can do to what KVM uses of it.
//!
//! KVM: `setup_vmcs_config`, `adjust_vmx_controls`, `vmx_hardware_setup`.

use crate::arch::capability::{IA32_VMX_PINBASED_CTLS, IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2};
use crate::arch::{PinBased, Primary, Secondary, Tertiary};
use crate::processor::Capabilities;
use thiserror::Error;

/// The host vector that notifies a running vCPU; its host handler does nothing. (`POSTED_INTR_VECTOR`)
pub const POSTED_INTR_VECTOR: u8 = 0xF2;
/// The host vector that notifies a blocked vCPU; its host handler wakes. (`POSTED_INTR_WAKEUP_VECTOR`)
pub const POSTED_INTR_WAKEUP_VECTOR: u8 = 0xF1;
/// The host vector that makes a pCPU leave its guest and look around. (`RESCHEDULE_VECTOR`)
pub const RESCHEDULE_VECTOR: u8 = 0xFD;
/// The host's timer: the end of a time slice. (`LOCAL_TIMER_VECTOR`)
pub const LOCAL_TIMER_VECTOR: u8 = 0xEC;

/// Module parameters of kvm_intel as they are given; they cannot change later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleParameters {
    /// `enable_apicv`.
    pub enable_apicv: bool,
    /// `enable_ipiv`.
    pub enable_ipiv: bool,
}

impl Default for ModuleParameters {
    fn default() -> Self {
        Self { enable_apicv: true, enable_ipiv: true }
    }
}

/// The processor lacks what KVM cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the processor does not allow {controls}, and KVM needs it")]
pub struct Missing {
    /// The controls, one of which at least is missing.
    pub controls: &'static str,
    /// The capability MSR that has them.
    pub msr: u32,
}

/// kvm_intel after its set-up: the controls that the processor allows, and the parameters that are left.
///
/// The control words hold all that the processor can do. Parameters are not applied to them but by the vCPU's own
/// getters ([`Apicv::set_controls`](super::Apicv::set_controls)), so that a parameter forced off later stays off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvmIntel {
    pub(super) pin: PinBased,
    pub(super) primary: Primary,
    pub(super) secondary: Secondary,
    pub(super) tertiary: Tertiary,
    /// `enable_apicv`: asked for, and the processor has APIC-register virtualization, virtual-interrupt delivery and
    /// posted interrupts.
    pub enable_apicv: bool,
    /// `enable_ipiv`: asked for, and APICv is enabled, and the processor has IPI virtualization.
    pub enable_ipiv: bool,
}

impl KvmIntel {
    /// Sets kvm_intel up on a processor. (`setup_vmcs_config`, then `vmx_hardware_setup`)
    ///
    /// # Errors
    /// A control that KVM needs is not allowed.
    pub const fn setup(processor: &Capabilities, parameters: ModuleParameters) -> Result<Self, Missing> {
        let want = PinBased::new().with_external_interrupt_exiting(true).with_process_posted_interrupts(true);
        let pin = PinBased::from_bits(processor.pin.adjust(want.into_bits()));
        let want = Primary::new()
            .with_hlt_exiting(true)
            .with_interrupt_window_exiting(true)
            .with_use_tpr_shadow(true)
            .with_use_msr_bitmaps(true)
            .with_activate_secondary(true)
            .with_activate_tertiary(true);
        let primary = Primary::from_bits(processor.primary.adjust(want.into_bits()));
        let want = Secondary::new()
            .with_virtualize_apic_accesses(true)
            .with_virtualize_x2apic_mode(true)
            .with_apic_register_virtualization(true)
            .with_virtual_interrupt_delivery(true);
        let secondary = Secondary::from_bits(processor.secondary.adjust(want.into_bits()));
        let want = Tertiary::new().with_ipi_virtualization(true);
        let tertiary = Tertiary::from_bits(processor.tertiary.adjust(want.into_bits()));
        if !pin.external_interrupt_exiting() {
            return Err(Missing { controls: "external-interrupt exiting", msr: IA32_VMX_PINBASED_CTLS });
        }
        if !primary.hlt_exiting() || !primary.interrupt_window_exiting() {
            let controls = "HLT exiting and interrupt-window exiting";
            return Err(Missing { controls, msr: IA32_VMX_PROCBASED_CTLS });
        }
        if !primary.use_tpr_shadow() || !primary.use_msr_bitmaps() || !primary.activate_secondary() {
            let controls = "use TPR shadow, use MSR bitmaps and activate secondary controls";
            return Err(Missing { controls, msr: IA32_VMX_PROCBASED_CTLS });
        }
        if !secondary.virtualize_apic_accesses() {
            return Err(Missing { controls: "virtualize APIC accesses", msr: IA32_VMX_PROCBASED_CTLS2 });
        }
        let enable_apicv = parameters.enable_apicv
            && secondary.apic_register_virtualization()
            && secondary.virtual_interrupt_delivery()
            && secondary.virtualize_x2apic_mode()
            && pin.process_posted_interrupts();
        let enable_ipiv =
            parameters.enable_ipiv && enable_apicv && primary.activate_tertiary() && tertiary.ipi_virtualization();
        Ok(Self { pin, primary, secondary, tertiary, enable_apicv, enable_ipiv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::Model;

    fn enabled(model: Model, parameters: ModuleParameters) -> (bool, bool) {
        let kvm = KvmIntel::setup(&model.capabilities(), parameters).unwrap();
        (kvm.enable_apicv, kvm.enable_ipiv)
    }

    #[test]
    fn parameters_are_what_the_processor_leaves_of_them() {
        let on = ModuleParameters::default();
        assert_eq!(enabled(Model::SapphireRapids, on), (true, true));
        assert_eq!(enabled(Model::IceLake, on), (true, false));
        assert_eq!(enabled(Model::PreApicv, on), (false, false));
        let no_apicv = ModuleParameters { enable_apicv: false, ..on };
        assert_eq!(enabled(Model::SapphireRapids, no_apicv), (false, false), "enable_ipiv needs enable_apicv");
        assert_eq!(enabled(Model::SapphireRapids, ModuleParameters { enable_ipiv: false, ..on }), (true, false));
    }

    #[test]
    fn each_of_the_three_is_needed_for_apicv() {
        let whole = Model::SapphireRapids.capabilities();
        let setup = |processor| KvmIntel::setup(&processor, ModuleParameters::default()).unwrap().enable_apicv;
        assert!(setup(whole));
        let without = |bits: u32| {
            let mut processor = whole;
            processor.secondary.set_may_be_one(whole.secondary.may_be_one() & !bits);
            processor
        };
        assert!(!setup(without(Secondary::new().with_virtual_interrupt_delivery(true).into_bits())));
        assert!(!setup(without(Secondary::new().with_apic_register_virtualization(true).into_bits())));
        let mut processor = whole;
        let posted = PinBased::new().with_process_posted_interrupts(true).into_bits();
        processor.pin.set_may_be_one(whole.pin.may_be_one() & !posted);
        assert!(!setup(processor));
    }

    #[test]
    fn each_control_that_kvm_needs_is_asked_for() {
        let whole = Model::SapphireRapids.capabilities();
        for (bits, why) in [
            (Primary::new().with_hlt_exiting(true), "HLT exiting"),
            (Primary::new().with_interrupt_window_exiting(true), "HLT exiting"),
            (Primary::new().with_use_tpr_shadow(true), "use TPR shadow"),
            (Primary::new().with_use_msr_bitmaps(true), "use TPR shadow"),
            (Primary::new().with_activate_secondary(true), "use TPR shadow"),
        ] {
            let mut processor = whole;
            processor.primary.set_may_be_one(whole.primary.may_be_one() & !bits.into_bits());
            let missing = KvmIntel::setup(&processor, ModuleParameters::default()).unwrap_err();
            assert!(missing.controls.starts_with(why), "{missing:?}");
        }
    }

    #[test]
    fn what_kvm_needs_is_named() {
        let mut processor = Model::PreApicv.capabilities();
        let shadow = Primary::new().with_use_tpr_shadow(true).into_bits();
        processor.primary.set_may_be_one(processor.primary.may_be_one() & !shadow);
        let error = KvmIntel::setup(&processor, ModuleParameters::default()).unwrap_err();
        assert!(error.to_string().contains("use TPR shadow"), "{error}");
    }
}
