//! What acts cost, in cycles.

use serde::Deserialize;
use thiserror::Error;

macro_rules! costs {
    ($($(#[doc = $doc:literal])+ $name:ident: $low:literal,)+) => {
        /// What each act costs, in cycles of the time-stamp counter: a profile. (`python/ipivrs/profiles/*.toml`)
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Costs {
            /// Cycles in a second.
            pub hz: u64,
            $($(#[doc = $doc])+ pub $name: u32,)+
        }

        impl Costs {
            /// Names of the costs, the least that each can be, and what each is.
            pub const FIELDS: &'static [(&'static str, u32, &'static str)] =
                &[$((stringify!($name), $low, concat!($($doc),+)),)+];

            /// Cycles of one act of each kind.
            const fn all_together(&self) -> u64 {
                0 $(+ self.$name as u64)+
            }

            /// The first cost that is below its least.
            const fn too_low(&self) -> Option<(&'static str, u32)> {
                $(#[allow(unused_comparisons, reason = "the least of some is 0")]
                if self.$name < $low {
                    return Some((stringify!($name), $low));
                })+
                None
            }
        }
    };
}

costs! {
    /// A step of a guest's program that has no cost of its own.
    instruction: 1,
    /// Once around a loop that waits for another CPU's store.
    spin: 1,
    /// From a store until another CPU sees it.
    line_transfer: 1,
    /// A WRMSR to the local APIC that is virtualized without an exit.
    msr_write: 1,
    /// A write to the APIC-access page that is virtualized without an exit.
    mmio_write: 1,
    /// IPI virtualization, beside the write: the table's entry, the descriptor, the notification's ICR write.
    post: 1,
    /// Delivery of a virtual interrupt through the guest's IDT.
    delivery: 1,
    /// IRET of the guest's handler.
    interrupt_return: 1,
    /// From the ICR write of a notification until the other local APIC has it.
    notification_flight: 1,
    /// Posted-interrupt processing in non-root operation, on arrival of a notification.
    notification_processing: 1,
    /// VM exit, to the hypervisor's first instruction.
    vm_exit: 1,
    /// From the hypervisor's decision to enter the guest to the guest's first instruction.
    vm_entry: 1,
    /// Between an exit for an ICR write by WRMSR and the software post.
    exit_msr_icr: 1,
    /// Between an APIC-write exit and the software post.
    exit_apic_write: 1,
    /// Between an APIC-access exit and its end: the instruction is emulated.
    exit_apic_access: 1,
    /// Handling of another WRMSR exit.
    exit_msr: 1,
    /// Handling of an HLT exit.
    exit_hlt: 1,
    /// The host's interrupt handler after an external-interrupt exit.
    exit_interrupt: 1,
    /// Handling of any other exit.
    exit_other: 1,
    /// An interrupt that the host takes in root mode, from arrival to its return.
    host_interrupt: 1,
    /// A physical IPI that the host sends, on the sender's side.
    host_ipi: 1,
    /// A look of the policy at a word.
    policy_look: 0,
    /// A locked operation, a fence or a list operation of the policy.
    policy_locked: 0,
    /// A vCPU thread gets a pCPU, or gives it up.
    context_switch: 1,
    /// Waking a thread, on the waker's side.
    wake: 1,
    /// From the wake-up of an idle pCPU until it executes again.
    idle_exit: 1,
    /// The longest that the host polls before a vCPU sleeps. (`halt_poll_ns`)
    halt_poll: 0,
    /// What a vCPU that slept too long polls first. (`halt_poll_ns_grow_start`)
    halt_poll_start: 0,
    /// Once around that poll.
    halt_poll_spin: 1,
    /// Of a time slice, for each 1 of `host.time_slice`.
    time_slice_unit: 1,
}

/// A profile that makes no sense.
#[derive(Debug, Error)]
pub enum CostsError {
    /// It is not of the form.
    #[error("the profile cannot be read: {0}")]
    Form(#[from] serde_json::Error),
    /// A cost is too low: time must go on.
    #[error("{name} must be {least} or more")]
    TooLow {
        /// Which.
        name: &'static str,
        /// The least that it can be.
        least: u32,
    },
    /// No cycles in a second.
    #[error("hz must be 1000000 or more")]
    Hz,
}

impl Costs {
    /// Cycles of one act of each kind, one after the other: an interrupt's way from its sender to a vCPU that it wakes is a
    /// few of these. What is not an act, but how long something else goes on, is not in it.
    pub(super) fn acts(&self) -> u64 {
        self.all_together() - u64::from(self.halt_poll) - u64::from(self.time_slice_unit)
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// It is not of the form, or a cost is too low.
    pub fn from_json(text: &str) -> Result<Self, CostsError> {
        let costs: Self = serde_json::from_str(text)?;
        if costs.hz < 1_000_000 {
            return Err(CostsError::Hz);
        }
        match costs.too_low() {
            Some((name, least)) => Err(CostsError::TooLow { name, least }),
            None => Ok(costs),
        }
    }
}
