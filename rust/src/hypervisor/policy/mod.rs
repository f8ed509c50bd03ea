//! The posted-interrupt protocol as data: who changes NV, SN and ON, and when.
//!
//! A [`Policy`] is a short text. It has a [`Routine`] for each moment at which the hypervisor touches a descriptor; a
//! routine is a list of steps, and each step is one atomic act or one look at memory, so that an engine may run a routine
//! through ([`Policy::run`]) or interleave its steps with others' ([`Frame::step`]). What a step does beside the
//! descriptor goes through [`Platform`].
//!
//! KVM: `arch/x86/kvm/vmx/posted_intr.c`, `vcpu_enter_guest`, `kvm_vcpu_block`.

mod language;
mod parse;
mod run;
mod token;

pub use language::{Act, Condition, ControlChange, Half, HostVector, Op, Routine, Step, Surrounding, Term};
pub use parse::PolicyError;
pub use run::{Finished, Frame, Platform, Saved};

/// A posted-interrupt protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    routines: [Vec<Step>; Routine::ALL.len()],
    written: [bool; Routine::ALL.len()],
}

impl Policy {
    /// The steps of a routine; none where the policy does nothing at that moment.
    #[must_use]
    pub fn steps(&self, routine: Routine) -> &[Step] {
        self.routines.get(routine as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether the policy has the routine, if only to say that nothing is done.
    #[must_use]
    pub fn has(&self, routine: Routine) -> bool {
        self.written.get(routine as usize).copied().unwrap_or_default()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(test)]
mod tests;
