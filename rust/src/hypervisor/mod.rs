//! What KVM does around the processor.
//!
//! Names are KVM's (`arch/x86/kvm`). [`KvmIntel`] is the module after its set-up; a [`Vm`] owns the PID-pointer table and a
//! [`Vcpu`] its virtual processor; [`policy`] says who changes a descriptor, and when.

mod apic_map;
mod apicv;
mod enter;
mod exits;
mod host;
mod identity;
pub mod policy;
mod routing;
mod setup;
mod shared;
mod task;
mod vcpu;
mod vm;

pub use apicv::{Apicv, Inhibit, Inhibits, MsrBitmap};
pub use enter::Entry;
pub use exits::{Handled, Instruction, clear_inhibit, has_fast_path, host_interrupt, set_inhibit};
pub use host::{Event, Host, Poster, Slot};
pub use identity::{ApicIdentity, X2APIC_BROADCAST, XAPIC_BROADCAST};
pub use routing::{Message, means, targets};
pub use setup::{
    KvmIntel, LOCAL_TIMER_VECTOR, Missing, ModuleParameters, POSTED_INTR_VECTOR, POSTED_INTR_WAKEUP_VECTOR,
    RESCHEDULE_VECTOR,
};
pub use shared::{Mode, Requests, TaskState, VcpuWords};
pub use task::{MpState, Put, Task, request, software_post};
pub use vcpu::{ApicBaseWrite, Vcpu};
pub use vm::{MAX_VCPUS, TableSize, Vm, VmConfig, VmError};

#[cfg(test)]
mod testing;
