//! What came of a machine's run.

use crate::hypervisor::{Inhibit, TableSize};
use crate::record::{Account, Traffic, ViolationRecord};
use std::fmt;
use std::time::Duration;

/// What came of one VM.
#[derive(Clone, Debug)]
pub struct VmResult {
    /// vCPUs at the end.
    pub vcpus: u32,
    /// Its PID-pointer table as the kernel allocates it.
    pub table: TableSize,
    /// Last PID-pointer index.
    pub last_index: u16,
    /// IPI virtualization was usable.
    pub ipi_virtualization: bool,
    /// APICv was.
    pub apicv: bool,
    /// Reasons against APICv at the end.
    pub inhibits: Vec<Inhibit>,
    /// Interrupts of each vCPU.
    pub traffic: Vec<Traffic>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct MachineRun {
    /// Everything that was counted, over all pCPUs and devices.
    pub account: Account,
    /// Interrupts that are still in PIR or VIRR.
    pub pending: u64,
    /// Programs and devices that would end by themselves and did not: their time was over, or they sleep and nobody sends.
    pub unfinished: usize,
    /// VMs.
    pub vms: Vec<VmResult>,
    /// What should not have happened.
    pub violations: Vec<ViolationRecord>,
    /// Wall-clock time, without set-up.
    pub elapsed: Duration,
    /// It was stopped before its end.
    pub partial: bool,
}

/// What a vCPU did or had done to it, for the last words about a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing yet.
    Nothing,
    /// It posted through IPI virtualization.
    Posted,
    /// Its IPI exited.
    Exited,
    /// An interrupt was delivered to it.
    Delivered,
    /// It slept.
    Slept,
    /// It went on after sleep.
    Woke,
    /// It was preempted.
    Preempted,
    /// It was scheduled in on a pCPU.
    Loaded,
    /// It posted for itself through self-IPI virtualization.
    SelfIpi,
    /// Its IPI ended in #GP(0).
    Faulted,
    /// The hypervisor posted for it.
    Routed,
    /// A device posted for it.
    Device,
    /// It sleeps no longer, and waits for a pCPU.
    Runnable,
    /// VM entry.
    Entered,
    /// VM exit.
    Left,
}

impl What {
    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Posted => "posted",
            Self::Exited => "exited",
            Self::Delivered => "delivered",
            Self::Slept => "slept",
            Self::Woke => "woke",
            Self::Preempted => "preempted",
            Self::Loaded => "loaded",
            Self::SelfIpi => "self-ipi",
            Self::Faulted => "faulted",
            Self::Routed => "routed",
            Self::Device => "device",
            Self::Runnable => "runnable",
            Self::Entered => "entered",
            Self::Left => "left",
        }
    }
}

/// One entry of a vCPU's trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrailEntry {
    /// What.
    pub what: What,
    /// Vector, if there is one.
    pub vector: u8,
    /// The other vCPU's slot, or the pCPU.
    pub other: u32,
}

impl fmt::Display for TrailEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, other, .. } = self;
        match self.what {
            What::Nothing => write!(f, "nothing"),
            What::Posted => write!(f, "posted {vector:02X}H for vCPU {other}"),
            What::Exited => write!(f, "sent {vector:02X}H with an exit"),
            What::Delivered => write!(f, "took {vector:02X}H"),
            What::Slept => write!(f, "slept on pCPU {other}"),
            What::Woke => write!(f, "woke"),
            What::Preempted => write!(f, "was preempted on pCPU {other}"),
            What::Loaded => write!(f, "ran on pCPU {other}"),
            What::SelfIpi => write!(f, "posted {vector:02X}H for itself"),
            What::Faulted => write!(f, "sent {vector:02X}H with #GP(0)"),
            What::Routed => write!(f, "got {vector:02X}H from the hypervisor"),
            What::Device => write!(f, "got {vector:02X}H from a device"),
            What::Runnable => write!(f, "was woken"),
            What::Entered => write!(f, "entered its guest"),
            What::Left => write!(f, "left its guest, exit reason {other}"),
        }
    }
}
