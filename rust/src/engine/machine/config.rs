//! What a machine is to be.

use crate::arch::ApicMode;
use crate::guest::{GuestCode, ProgramError};
use crate::hypervisor::policy::Policy;
use crate::hypervisor::{VmConfig, VmError};
use crate::memory::OutOfMemory;
use thiserror::Error;

/// A VM and what runs in it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The VM.
    pub config: VmConfig,
    /// Its programs.
    pub code: GuestCode,
    /// A device posts to it, or may: KVM switches NV for such a VM whatever else it can do.
    pub device: bool,
    /// All vCPUs but the first wait for a start-up IPI.
    pub wait_for_sipi: bool,
    /// What its programs call their signals and locks, by number from 2 on; for messages.
    pub names: Vec<String>,
}

/// A device that posts interrupts through the IOMMU, from a thread of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// VM.
    pub vm: u32,
    /// vCPU, or all of them in turn.
    pub vcpu: Option<u32>,
    /// Vectors, in turn.
    pub vectors: Vec<u8>,
    /// How many; none: until the run ends.
    pub posts: Option<u64>,
    /// The interrupt-remapping entry says urgent: SN is not looked at.
    pub urgent: bool,
    /// Spins between two posts.
    pub gap: u32,
}

/// What the host does at random, beside what it must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chaos {
    /// Time slices end early, also on a pCPU with nothing else to run, and between the last look and sleep.
    pub preempt: bool,
    /// A vCPU that is preempted or woken goes on on any pCPU.
    pub migrate: bool,
    /// APICv is inhibited and allowed again.
    pub toggle_apicv: bool,
    /// vCPUs that are added to the first VM while it runs.
    pub hot_add: u32,
}

/// What a machine is to be.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// pCPUs.
    pub pcpus: u32,
    /// Steps of a guest in a time slice.
    pub time_slice: u32,
    /// The mode of the host's local APICs.
    pub host_apic: ApicMode,
    /// A guest that rewrites its xAPIC ID is let pass without an inhibit, as v4 of the series did.
    pub naive_apic_ids: bool,
    /// The posted-interrupt protocol.
    pub policy: Policy,
    /// VMs.
    pub guests: Vec<Guest>,
    /// Devices.
    pub devices: Vec<Device>,
    /// What happens at random.
    pub chaos: Chaos,
    /// What random numbers begin with.
    pub seed: u64,
}

/// Why a machine cannot be made.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A VM is impossible.
    #[error("VM {vm}: {error}")]
    Vm {
        /// Which.
        vm: u32,
        /// Why.
        error: VmError,
    },
    /// A program is impossible.
    #[error("VM {vm}: {error}")]
    Program {
        /// Of which VM.
        vm: u32,
        /// Why.
        error: ProgramError,
    },
    /// Too many vCPUs whose programs call each other.
    #[error("VM {vm}: {error}")]
    Callers {
        /// Of which VM.
        vm: u32,
        /// How many it could have.
        error: TooManyCallers,
    },
    /// The memory of the model is too small, which is a defect of ipivrs.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The library of histograms takes no such histogram, which is a defect of ipivrs.
    #[error("no histogram could be made: please report this as a defect of ipivrs")]
    Histogram,
    /// The operating system gives no more threads.
    #[error("cannot start a thread for {what}: {source}")]
    Thread {
        /// For what.
        what: String,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// Programs that call other vCPUs have a word for each pair of them; so many vCPUs they can have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("programs that call other vCPUs can have at most {0} vCPUs")]
pub struct TooManyCallers(pub u32);

impl Guest {
    /// vCPUs that it has or may get.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.config.apic_ids.len() as u32 + self.config.spare_vcpus
    }
}

impl MachineConfig {
    /// vCPUs that there are or may be, over all VMs.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.guests.iter().map(Guest::capacity).sum()
    }

    /// Whether some program ends by itself, so that the run does.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.devices.iter().any(|device| device.posts.is_some())
            || self.guests.iter().any(|guest| (0..guest.code.vcpus()).any(|vcpu| guest.code.ends(vcpu)))
    }
}
