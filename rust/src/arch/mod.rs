//! The manual's vocabulary: types and bit layouts, no memory, no behaviour.
//!
//! Every layout that ipivrs uses is declared here, once and by name; nothing outside this room shifts or masks.
//! Sections are those of the Intel SDM, 2023 edition; a section's title stands beside its number because editions renumber.
//! Control bits and VMCS fields that do not touch interrupt virtualization are not modelled and not named.

pub mod apic_base;
pub mod apic_register;
pub mod capability;
pub mod clause;
pub mod controls;
pub mod exit;
pub mod icr;
pub mod msr;
pub mod posted_interrupt;
pub mod vector;
pub mod vmcs_field;

pub use apic_base::{ApicBase, ApicBaseError, ApicMode, X2ApicLdr};
pub use apic_register::{AccessKind, ApicRegister};
pub use clause::Clause;
pub use controls::{ExitControls, PinBased, Primary, Secondary, Tertiary};
pub use exit::{ApicAccessQualification, Exit, ExitReason};
pub use icr::{DeliveryMode, DestinationMode, Icr, IcrLow, Shorthand};
pub use posted_interrupt::{GuestInterruptStatus, NotificationDestination, PidControl, PidPointerEntry};
pub use vector::VectorBit;
pub use vmcs_field::VmcsField;
