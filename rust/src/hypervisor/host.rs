//! What KVM's code needs of the machine that runs it, and what it tells about itself.

use super::policy::{Op, Policy};
use super::shared::VcpuWords;
use super::vm::Vm;
use crate::arch::Clause;
use crate::memory::{Line, PhysicalMemory, Word};
use crate::processor::Harvest;

/// A vCPU as others see it. vCPUs are numbered over all VMs: their slot.
#[derive(Debug)]
pub struct Slot<'m, W> {
    /// Its VM.
    pub vm: u32,
    /// Its number there.
    pub vcpu: u32,
    /// Its descriptor.
    pub pid: &'m Line<W>,
    /// Its shared words.
    pub words: VcpuWords<'m, W>,
}

impl<W> Clone for Slot<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Slot<'_, W> {}

/// Who posts an interrupt beside IPI virtualization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poster {
    /// The hypervisor, for an IPI that exited.
    Software,
    /// A device, through the IOMMU.
    Device,
}

/// Something that happened to interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interrupt was posted for a vCPU.
    Posted {
        /// By whom.
        by: Poster,
        /// Its slot.
        to: u32,
        /// Vector.
        vector: u8,
        /// It became one with an interrupt that was still pending.
        coalesced: bool,
    },
    /// Software moved PIR to VIRR.
    Harvested {
        /// The vCPU's slot.
        slot: u32,
        /// What moved.
        harvest: Harvest,
        /// Vectors that VIRR had already, a bit each.
        merged: [u64; 4],
    },
    /// Interrupts that were pending are gone: the local APIC was reset or disabled.
    Discarded {
        /// The vCPU's slot.
        slot: u32,
        /// Their vectors, a bit each.
        vectors: [u64; 4],
    },
    /// A host handler ran for a notification that came in root mode and had nothing to do.
    SpuriousNotification,
    /// A vCPU was woken and found nothing to do.
    SpuriousWakeup,
    /// A message of an IPI that exited found no destination.
    Dropped,
    /// An NMI, SMI, INIT or start-up IPI was handed over.
    Signalled,
    /// The hypervisor injected #GP(0).
    Fault(Clause),
    /// APICv of a vCPU went on or off.
    ApicvChanged {
        /// It is active now.
        active: bool,
    },
}

/// The machine under KVM: one pCPU's view of it.
pub trait Host<'m> {
    /// The words of memory.
    type W: Word + 'm;
    /// Physical memory.
    fn memory(&self) -> &'m PhysicalMemory<Self::W>;
    /// This pCPU.
    fn pcpu(&self) -> u32;
    /// NDST of this pCPU.
    fn here(&self) -> u32;
    /// The protocol.
    fn policy(&self) -> &'m Policy;
    /// A VM.
    fn vm(&self, vm: u32) -> Option<&'m Vm>;
    /// Whether a VM has a device that posts.
    fn device_posting(&self, vm: u32) -> bool;
    /// Whether a write of the xAPIC ID is let pass without an inhibit, as v4 of the series did.
    fn naive_apic_ids(&self) -> bool;
    /// A vCPU.
    fn slot(&self, slot: u32) -> Option<Slot<'m, Self::W>>;
    /// The slots that a VM's vCPUs have or will have.
    fn slots_of(&self, vm: u32) -> std::ops::Range<u32>;
    /// Sends a physical interrupt.
    fn send(&mut self, pcpu: u32, vector: u8);
    /// Adds to this pCPU's wakeup list.
    fn list_add(&mut self, slot: u32);
    /// Takes off the wakeup list of `pcpu`.
    fn list_del(&mut self, pcpu: u32, slot: u32);
    /// The slots on this pCPU's wakeup list, one call each; its lock is held from the first call to the last.
    fn next_listed(&mut self) -> Option<u32>;
    /// Wakes a vCPU's thread if it sleeps or is about to. (`kvm_vcpu_wake_up`)
    fn wake(&mut self, slot: u32);
    /// Something happened.
    fn note(&mut self, event: Event);
    /// A step of the policy is about to be taken: engines that count what it costs do so here.
    #[inline]
    fn stepping(&mut self, _op: &Op) {}
}
