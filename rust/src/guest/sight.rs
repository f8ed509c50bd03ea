//! What a vCPU sees of itself and of the others.

use super::shared::GuestMemory;
use crate::arch::ApicMode;
use crate::arch::apic_base::ApicBase;
use crate::hypervisor::ApicIdentity;
use crate::memory::Word;

/// What a vCPU sees of itself and of the others.
pub trait Sight {
    /// The words of the guest's memory.
    type Word: Word;

    /// Its number.
    fn vcpu(&self) -> u32;

    /// How many vCPUs its guest has.
    fn vcpus(&self) -> u32;

    /// The mode of its local APIC.
    fn mode(&self) -> ApicMode;

    /// IA32_APIC_BASE.
    fn base(&self) -> ApicBase;

    /// The guest's shared memory.
    fn memory(&self) -> &GuestMemory<'_, Self::Word>;

    /// How a vCPU is addressed.
    fn identity(&self, vcpu: u32) -> ApicIdentity;

    /// Endless loops end.
    fn stopping(&self) -> bool;
}

/// The same, gathered.
#[derive(Debug)]
pub struct View<'a, 'm, W, I> {
    /// Its number.
    pub vcpu: u32,
    /// How many vCPUs its guest has.
    pub vcpus: u32,
    /// The mode of its local APIC.
    pub mode: ApicMode,
    /// IA32_APIC_BASE.
    pub base: ApicBase,
    /// The guest's shared memory.
    pub memory: &'a GuestMemory<'m, W>,
    /// How each vCPU is addressed.
    pub identity: &'a I,
    /// Endless loops end.
    pub stopping: bool,
}

impl<W, I> Clone for View<'_, '_, W, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W, I> Copy for View<'_, '_, W, I> {}

impl<W: Word, I: Fn(u32) -> ApicIdentity> Sight for View<'_, '_, W, I> {
    type Word = W;

    fn vcpu(&self) -> u32 {
        self.vcpu
    }

    fn vcpus(&self) -> u32 {
        self.vcpus
    }

    fn mode(&self) -> ApicMode {
        self.mode
    }

    fn base(&self) -> ApicBase {
        self.base
    }

    fn memory(&self) -> &GuestMemory<'_, W> {
        self.memory
    }

    fn identity(&self, vcpu: u32) -> ApicIdentity {
        (self.identity)(vcpu)
    }

    fn stopping(&self) -> bool {
        self.stopping
    }
}
