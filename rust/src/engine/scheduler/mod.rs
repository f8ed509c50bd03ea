//! The threads engine for machines: M vCPUs of several VMs on N pCPUs, each pCPU an OS thread.
//!
//! What pCPUs share is the words of memory (descriptors, tables, local-APIC requests, the vCPUs' own words) and, with a
//! lock each, run queues, wakeup lists and the beds of vCPUs that sleep (`shared`). Everything else moves with the vCPU
//! ([`Runner`](super::machine)). A pCPU's thread (`pcpu`) schedules; `guest` is its time in a guest; `device` is a device's thread;
//! `monitor` watches from outside: it ends the run, and it finds interrupts that nobody will ever deliver.

mod device;
mod guest;
mod monitor;
mod pcpu;
mod setup;
mod shared;

pub use monitor::Watch;
pub use setup::run;

#[cfg(test)]
mod tests;
