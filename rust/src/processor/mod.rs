//! What hardware does, clause by clause.
//!
//! [`VirtualProcessor`] is the plain data of one VMCS and the guest state that interrupts depend on; it moves with its
//! vCPU. [`NonRoot`] is a logical processor that runs it in VMX non-root operation: [`NonRoot::enter`] is VM entry, its
//! methods are what guest instructions and arriving interrupts do, and each returns what happened ([`Outcome`],
//! [`Exit`](crate::arch::Exit)) for whoever drives it to act upon. Nothing here waits, sends, logs or remembers.
//!
//! Atomic acts on shared memory are one function each ([`descriptor`], [`local_apic::request`]), so that an engine may
//! interleave them one by one.
//!
//! **Not modelled**: enclave and transactional aborts, virtual NMIs, system-management mode, guest-physical accesses
//! to the APIC-access page (types 10 and 15), event delivery with external-interrupt exiting = 0 beyond naming it, the
//! physical local APIC's task priority, timer and error registers.

mod access;
mod delivery;
pub mod descriptor;
mod entry;
mod icr_rules;
mod ipi;
pub mod local_apic;
mod model;
mod msr;
mod non_root;
mod outcome;
pub mod pid_table;
mod posted;
mod priority;
mod senduipi;
mod virtual_apic;
mod vmcs;

pub use access::{Access, Width};
pub use delivery::Boundary;
pub use entry::{EntryFailure, check};
pub use icr_rules::{IcrRule, x2apic_reserved};
pub use local_apic::LocalApic;
pub use model::Model;
pub use non_root::{Activity, NonRoot, Pages, VirtualProcessor};
pub use outcome::{Notice, Notification, Outcome, Posted, Read, Violation};
pub use posted::{ExternalInterrupt, Harvest, harvest};
pub use senduipi::SendUipi;
pub use virtual_apic::{VirtualApic, vectors_of};
pub use vmcs::{Capabilities, Vmcs, VmcsError};

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(test)]
mod testing;
