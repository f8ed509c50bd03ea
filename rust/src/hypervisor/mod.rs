//! What KVM does around the processor: controls, MSR bitmaps, the PID-pointer table, the vCPUs of a VM.
//!
//! Names are KVM's (`arch/x86/kvm/vmx`). This is the part that an always running guest needs: set-up and mode
//! switches. Blocking, preemption and the routing of IPIs that exit are not modelled here yet.

mod setup;
mod vcpu;
mod vm;

pub use setup::{Apicv, MsrBitmap, POSTED_INTR_VECTOR};
pub use vcpu::{ApicBaseWrite, Vcpu};
pub use vm::{MAX_VCPUS, Vm, VmConfig, VmError};
