//! A logical processor in VMX non-root operation.

use super::outcome::Violation;
use super::pid_table::{Recent, Remembered};
use super::vmcs::{Capabilities, Vmcs};
use super::{VirtualApic, descriptor, local_apic};
use crate::arch::{ApicRegister, Exit, PidControl};
use crate::memory::{Cache, Line, Page, PhysicalMemory, Word, prefetch};

/// Guest activity state (SDM vol. 3C, "Guest Non-Register State" 25.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// Executing instructions.
    Active,
    /// After HLT: an interrupt wakes it.
    Hlt,
    /// After a triple fault: an interrupt does not wake it.
    Shutdown,
    /// Waiting for a start-up IPI: an interrupt does not wake it.
    WaitForSipi,
}

/// One VMCS and the guest state that interrupts depend on. It moves with the vCPU.
///
/// Its fields stand in this order, as the [`Vmcs`]'s do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VirtualProcessor {
    /// What the processor can do.
    pub capabilities: Capabilities,
    /// Vectors that posted-interrupt processing found in VIRR already, since somebody last asked.
    pub(super) merged: [u64; 4],
    /// The VMCS. Controls take effect at the next VM entry.
    pub vmcs: Vmcs,
    pub(super) controls: Controls,
    /// The width of physical addresses, beside what else the look-up of a PID-pointer entry uses.
    pub(super) max_phys_addr_bits: u8,
    /// RFLAGS.IF of the guest.
    pub interrupt_flag: bool,
    /// Blocking by STI or MOV SS: lasts for one instruction.
    pub interrupt_shadow: bool,
    /// Guest activity state.
    pub activity: Activity,
    /// A pending virtual interrupt is recognized (30.2.1).
    pub(super) recognized: bool,
    /// The TPR threshold is to be looked at once, right after VM entry (27.7.7).
    pub(super) threshold_due: bool,
}

/// The controls as the last VM entry took them, each already gated by the bits that activate its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Controls {
    pub(super) external_interrupt_exiting: bool,
    pub(super) posted_interrupts: bool,
    pub(super) acknowledge_on_exit: bool,
    pub(super) interrupt_window_exiting: bool,
    pub(super) hlt_exiting: bool,
    pub(super) msr_bitmaps: bool,
    pub(super) tpr_shadow: bool,
    pub(super) apic_accesses: bool,
    pub(super) x2apic_mode: bool,
    pub(super) register_virtualization: bool,
    pub(super) interrupt_delivery: bool,
    pub(super) ipi: bool,
}

impl Controls {
    /// What `vmcs` asks for: controls of a word that is not activated act as 0. (25.6, 25.6.2, 25.7.1)
    pub(super) const fn of(vmcs: &Vmcs) -> Self {
        let secondary = vmcs.primary.activate_secondary();
        let tertiary = vmcs.primary.activate_tertiary();
        Self {
            external_interrupt_exiting: vmcs.pin.external_interrupt_exiting(),
            posted_interrupts: vmcs.pin.process_posted_interrupts(),
            acknowledge_on_exit: vmcs.exit_controls.acknowledge_interrupt(),
            interrupt_window_exiting: vmcs.primary.interrupt_window_exiting(),
            hlt_exiting: vmcs.primary.hlt_exiting(),
            msr_bitmaps: vmcs.primary.use_msr_bitmaps(),
            tpr_shadow: vmcs.primary.use_tpr_shadow(),
            apic_accesses: secondary && vmcs.secondary.virtualize_apic_accesses(),
            x2apic_mode: secondary && vmcs.secondary.virtualize_x2apic_mode(),
            register_virtualization: secondary && vmcs.secondary.apic_register_virtualization(),
            interrupt_delivery: secondary && vmcs.secondary.virtual_interrupt_delivery(),
            ipi: tertiary && vmcs.tertiary.ipi_virtualization(),
        }
    }
}

impl VirtualProcessor {
    /// A guest that takes interrupts, with this VMCS.
    #[must_use]
    pub fn new(vmcs: Vmcs, capabilities: Capabilities) -> Self {
        Self {
            vmcs,
            interrupt_flag: true,
            interrupt_shadow: false,
            activity: Activity::Active,
            max_phys_addr_bits: capabilities.max_phys_addr_bits,
            capabilities,
            recognized: false,
            threshold_due: false,
            controls: Controls::default(),
            merged: [0; 4],
        }
    }

    /// Takes the vectors, a bit each, that posted-interrupt processing found in VIRR already: two interrupts of each
    /// became one.
    pub fn take_merged(&mut self) -> [u64; 4] {
        std::mem::take(&mut self.merged)
    }

    /// Whether a pending virtual interrupt is recognized (30.2.1).
    #[must_use]
    pub const fn recognized(&self) -> bool {
        self.recognized
    }

    /// Records a VM exit in the VMCS's exit-information fields.
    ///
    /// What is seldom done on the hot path takes the virtual processor and not the [`NonRoot`], which then has no address
    /// and stays in registers.
    #[inline]
    pub(super) const fn exit(&mut self, exit: Exit) -> Exit {
        self.vmcs.exit_reason = exit.reason.number() as u32;
        self.vmcs.exit_qualification = exit.qualification;
        exit
    }
}

/// A logical processor that runs a [`VirtualProcessor`] in VMX non-root operation.
#[derive(Debug)]
pub struct NonRoot<'p, 'a, W> {
    pub(super) memory: &'a PhysicalMemory<W>,
    pub(super) apic: VirtualApic<'a, W>,
    pub(super) bitmap: Option<&'a Page<W>>,
    /// The VMCS's own descriptor, if its address is one.
    pub(super) own: Option<&'a Line<W>>,
    pub(super) remembered: Remembered<'a, W>,
    pub(super) vp: &'p mut VirtualProcessor,
}

/// The memory that a virtual processor uses from a VM entry on: its virtual-APIC page, the MSR bitmap if it looks at one,
/// its own descriptor if the VMCS's address is one.
#[derive(Debug)]
pub struct Pages<'a, W> {
    apic: VirtualApic<'a, W>,
    bitmap: Option<&'a Page<W>>,
    own: Option<&'a Line<W>>,
}

impl<W> Clone for Pages<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Pages<'_, W> {}

/// A page that the VMCS names is outside of memory.
pub(super) struct OutsideMemory {
    pub(super) what: &'static str,
    pub(super) address: u64,
}

impl<'a, W: Word> Pages<'a, W> {
    /// Those of a processor that entered with this VMCS.
    ///
    /// # Errors
    /// A page that the VMCS names is outside of memory.
    pub fn of(memory: &'a PhysicalMemory<W>, vp: &VirtualProcessor) -> Result<Self, Violation> {
        Self::with(memory, &vp.vmcs, vp.controls)
            .map_err(|OutsideMemory { what, address }| Violation::PageOutside { what, address })
    }

    /// Asks for the memory that posted-interrupt processing, delivery and EOI use.
    pub fn read_ahead(&self, cache: Cache) {
        if let Some(own) = self.own {
            prefetch(own, 0, cache);
        }
        self.apic.read_ahead(cache);
    }

    /// The highest vector that is posted now, for who asks ahead for the memory of what is delivered.
    #[must_use]
    pub fn highest_posted(&self) -> Option<u8> {
        local_apic::highest(descriptor::requests(self.own?))
    }

    /// Asks for the memory that a write of the ICR uses, for later.
    pub fn read_ahead_of_icr(&self) {
        self.apic.read_ahead_of_icr();
    }

    pub(super) fn with(memory: &'a PhysicalMemory<W>, vmcs: &Vmcs, controls: Controls) -> Result<Self, OutsideMemory> {
        let outside = |what, address| OutsideMemory { what, address };
        let registers = memory.registers(vmcs.virtual_apic).ok_or(outside("virtual-APIC page", vmcs.virtual_apic))?;
        let bitmap = if controls.msr_bitmaps {
            Some(memory.page(vmcs.msr_bitmap).ok_or(outside("MSR bitmap", vmcs.msr_bitmap))?)
        } else {
            None
        };
        Ok(Self { apic: VirtualApic::new(registers), bitmap, own: memory.descriptor(vmcs.descriptor) })
    }
}

impl<'p, 'a, W: Word> NonRoot<'p, 'a, W> {
    /// Goes on in non-root operation where the last [`NonRoot`] of this virtual processor left: no VM entry is done.
    ///
    /// # Errors
    /// A page that the VMCS names is outside of memory.
    pub fn resume(memory: &'a PhysicalMemory<W>, vp: &'p mut VirtualProcessor) -> Result<Self, Violation> {
        Pages::of(memory, vp).map(|pages| Self::resume_with(memory, pages, vp))
    }

    /// The same where nothing in the VMCS has changed since `pages` were found.
    #[inline]
    pub fn resume_with(memory: &'a PhysicalMemory<W>, pages: Pages<'a, W>, vp: &'p mut VirtualProcessor) -> Self {
        let Pages { apic, bitmap, own } = pages;
        Self { memory, apic, bitmap, own, remembered: Remembered::EMPTY, vp }
    }

    /// The entry of the PID-pointer table that was used last, if it was looked for since this was made.
    #[inline]
    #[must_use]
    pub const fn learnt(&self) -> Option<Recent<'a, W>> {
        if self.remembered.learnt { self.remembered.recent } else { None }
    }

    /// Reminds it of an entry that another [`learnt`](Self::learnt) since the last VM entry.
    #[inline]
    #[must_use]
    pub const fn reminded_of(mut self, recent: Option<Recent<'a, W>>) -> Self {
        self.remembered.recent = recent;
        self
    }

    /// The virtual processor's state.
    #[must_use]
    pub fn state(&self) -> &VirtualProcessor {
        self.vp
    }

    /// The virtual processor's state, for what the guest itself changes (RFLAGS.IF, activity).
    pub fn state_mut(&mut self) -> &mut VirtualProcessor {
        self.vp
    }

    /// The virtual-APIC page.
    #[must_use]
    pub fn virtual_apic(&self) -> VirtualApic<'a, W> {
        self.apic
    }

    /// The control word of the VMCS's own descriptor, if it is one.
    #[must_use]
    pub fn own_descriptor(&self) -> Option<PidControl> {
        self.own.map(descriptor::control)
    }

    /// VPPR, an 8-bit value in a 32-bit register.
    #[inline]
    pub(super) fn vppr(&self) -> u8 {
        self.apic.get(ApicRegister::PPR) as u8
    }

    /// Records a VM exit in the VMCS's exit-information fields.
    #[inline]
    pub(super) fn exit(&mut self, exit: Exit) -> Exit {
        self.vp.exit(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, X2APIC};

    #[test]
    fn the_own_descriptor_is_the_one_that_the_vmcs_names() {
        let mut machine = Machine::new(X2APIC, 2);
        machine.send(0, 1, 0x41);
        let control = machine.guest(1).own_descriptor().unwrap();
        assert!(control.outstanding());
        assert_eq!((control.vector(), control.destination()), (0xF2, 1));
        machine.vp_mut(1).vmcs.descriptor = 0;
        assert_eq!(machine.guest(1).own_descriptor(), None);
    }
}
