//! An emulator of Intel's IPI virtualization: the processor half and the hypervisor half, over one core.
//!
//! The house, from the ground up; a room uses the rooms below it and none above:
//!
//! | room | what is in it |
//! |---|---|
//! | [`arch`] | the manual's vocabulary: types and bit layouts, no memory, no behaviour |
//! | [`memory`] | physical memory as 64-bit words with owners; the only room that knows about atomics |
//! | [`processor`] | what hardware does, clause by clause |
//! | [`hypervisor`] | what KVM does around it: set-up, vCPUs, scheduling in and out, routing, and the protocol as data |
//! | [`guest`] | what vCPUs execute: programs, workloads, lists of interrupts |
//! | [`record`] | what happened, in counters and columns |
//! | [`engine`] | who acts when: a recording or a scheduled machine on threads, every interleaving of a policy, by hand, or one command explained |
//! | [`scenario`] | a machine and its guests described from outside, made real |
//! | [`intake`] | recordings in: perf.data, perf script, ftrace and trace-cmd text |
//! | [`replay`] | a recording as programs for vCPUs, run on the threads engine |
//! | [`targets`] | whom the interrupts of a recording mean |
//! | [`measure`] | how fast it is: each path beside its floor |
//! | `python` | the Python face; only with the feature `python` |
//!
//! Section numbers are those of the Intel SDM, 2023 edition, beside each section's title.

pub mod arch;
pub mod engine;
pub mod guest;
pub mod hypervisor;
pub mod intake;
pub mod measure;
pub mod memory;
pub mod processor;
#[cfg(feature = "python")]
mod python;
pub mod record;
pub mod replay;
pub mod scenario;
pub mod targets;
