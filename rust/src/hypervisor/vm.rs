//! A VM: its memory, its PID-pointer table, its vCPUs.
//!
//! KVM: `vmx_vcpu_precreate` (table), `vmx_vcpu_create` (entry and descriptor).

use super::setup::{Apicv, MsrBitmap, POSTED_INTR_VECTOR};
use super::vcpu::Vcpu;
use crate::arch::posted_interrupt::{DESCRIPTOR_BYTES, ENTRY_BYTES, MAX_ENTRIES};
use crate::arch::{ApicMode, NotificationDestination, PidControl, PidPointerEntry};
use crate::memory::{OutOfMemory, Owner, PhysicalMemory, Word};
use crate::processor::{Capabilities, EntryFailure, Vmcs, descriptor, pid_table};
use thiserror::Error;

/// Most vCPUs of a VM: a PID-pointer table has at most 65,536 entries.
pub const MAX_VCPUS: usize = MAX_ENTRIES;

const PAGE_BYTES: u64 = 4096;

/// What a VM is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// Number of the VM, for messages.
    pub vm: u32,
    /// APIC ID of each vCPU.
    pub apic_ids: Vec<u32>,
    /// The mode that the guest's local APICs start in.
    pub mode: ApicMode,
    /// APIC virtualization.
    pub apicv: Apicv,
    /// Last PID-pointer index; the highest APIC ID if none is given.
    pub last_pid_index: Option<u16>,
    /// The pCPU that runs vCPU 0; vCPU k runs on the k-th after it. pCPU numbers are x2APIC IDs of the host.
    pub first_pcpu: u32,
    /// What the processor can do.
    pub capabilities: Capabilities,
}

/// Why a VM cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VmError {
    /// No vCPU.
    #[error("a VM needs at least one vCPU")]
    NoVcpus,
    /// Too many vCPUs.
    #[error("{0} vCPUs: a PID-pointer table has at most {MAX_VCPUS} entries")]
    TooManyVcpus(usize),
    /// An APIC ID beyond what the table can index.
    #[error("APIC ID {apic_id} of vCPU {vcpu} is beyond the PID-pointer table: its last index is at most {}", MAX_VCPUS - 1)]
    ApicIdBeyondTable {
        /// vCPU.
        vcpu: usize,
        /// Its APIC ID.
        apic_id: u32,
    },
    /// An APIC ID that xAPIC mode cannot address.
    #[error("APIC ID {apic_id} of vCPU {vcpu} does not fit the 8-bit IDs of xAPIC mode: give 0 to 254, or use x2APIC")]
    ApicIdTooWide {
        /// vCPU.
        vcpu: usize,
        /// Its APIC ID.
        apic_id: u32,
    },
    /// Two vCPUs with one APIC ID.
    #[error("vCPUs {first} and {second} both have APIC ID {apic_id}: IDs must differ")]
    DuplicateApicId {
        /// One vCPU.
        first: usize,
        /// The other.
        second: usize,
        /// The ID.
        apic_id: u32,
    },
    /// The memory is too small.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// VM entry failed.
    #[error("VM entry of vCPU {vcpu} fails: {failure}")]
    Entry {
        /// vCPU.
        vcpu: u32,
        /// The check that failed.
        failure: EntryFailure,
    },
}

/// What the vCPUs of a VM share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Number of the VM.
    pub vm: u32,
    /// Physical address of the PID-pointer table.
    pub table: u64,
    /// Last PID-pointer index.
    pub last_pid_index: u16,
    /// APIC virtualization of its vCPUs.
    pub apicv: Apicv,
    /// MSR bitmaps: in x2APIC mode, and otherwise.
    msr_bitmaps: [u64; 2],
}

impl VmConfig {
    /// A VM of `vcpus` vCPUs with APIC IDs 0, 1, ... and everything virtualized.
    #[must_use]
    pub fn new(vcpus: u32, mode: ApicMode) -> Self {
        Self {
            vm: 0,
            apic_ids: (0..vcpus).collect(),
            mode,
            apicv: Apicv::FULL,
            last_pid_index: None,
            first_pcpu: 0,
            capabilities: Capabilities::default(),
        }
    }

    /// Bytes of physical memory that the VM takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        // What allocate_vm and allocate_vcpu ask for, rounded up to whole pages with their red lines.
        let shared = [2 * PAGE_BYTES; 3];
        let table = (MAX_ENTRIES as u64).min(self.highest_id() + 1) * ENTRY_BYTES + 2 * PAGE_BYTES;
        let vcpu = 2 * PAGE_BYTES + 4 * DESCRIPTOR_BYTES;
        shared.iter().sum::<u64>() + table + self.apic_ids.len() as u64 * vcpu
    }

    fn highest_id(&self) -> u64 {
        let ids = self.apic_ids.iter().copied().map(u64::from).max().unwrap_or(0);
        ids.max(self.last_pid_index.map_or(0, u64::from))
    }

    fn check(&self) -> Result<(), VmError> {
        if self.apic_ids.is_empty() {
            return Err(VmError::NoVcpus);
        }
        if self.apic_ids.len() > MAX_VCPUS {
            return Err(VmError::TooManyVcpus(self.apic_ids.len()));
        }
        let mut seen = rustc_hash::FxHashMap::default();
        for (vcpu, &apic_id) in self.apic_ids.iter().enumerate() {
            if apic_id as usize >= MAX_ENTRIES {
                return Err(VmError::ApicIdBeyondTable { vcpu, apic_id });
            }
            if self.mode == ApicMode::XApic && apic_id >= u32::from(u8::MAX) {
                return Err(VmError::ApicIdTooWide { vcpu, apic_id });
            }
            if let Some(first) = seen.insert(apic_id, vcpu) {
                return Err(VmError::DuplicateApicId { first, second: vcpu, apic_id });
            }
        }
        Ok(())
    }
}

impl Vm {
    /// Makes the VM and its vCPUs in `memory`; each vCPU has done its first VM entry.
    ///
    /// # Errors
    /// What is wrong with the configuration, or a memory that is too small.
    pub fn create<W: Word>(memory: &PhysicalMemory<W>, config: &VmConfig) -> Result<(Self, Vec<Vcpu>), VmError> {
        config.check()?;
        let vm = config.vm;
        let highest = config.highest_id();
        let last_pid_index = config.last_pid_index.unwrap_or(highest as u16);
        let page = |owner| memory.allocate(owner, PAGE_BYTES, PAGE_BYTES);
        let table = memory.allocate(Owner::PidPointerTable { vm }, (highest + 1) * ENTRY_BYTES, PAGE_BYTES)?;
        let msr_bitmaps = [page(Owner::MsrBitmap { vm })?, page(Owner::MsrBitmap { vm })?];
        let apic_access = page(Owner::ApicAccessPage { vm })?;
        let shared = Self { vm, table, last_pid_index, apicv: config.apicv, msr_bitmaps };
        for mode in [ApicMode::XApic, ApicMode::X2Apic] {
            if let Some(bitmap) = memory.page(shared.msr_bitmap(mode)) {
                MsrBitmap { mode, apicv: config.apicv }.write(bitmap);
            }
        }
        // Descriptors stand together and pages stand together: a large VM then costs little beside its pages.
        let descriptors = (0..config.apic_ids.len() as u32)
            .map(|vcpu| memory.allocate(Owner::Descriptor { vm, vcpu }, DESCRIPTOR_BYTES, DESCRIPTOR_BYTES))
            .collect::<Result<Vec<_>, _>>()?;
        let mut vcpus = Vec::with_capacity(descriptors.len());
        for ((vcpu, &apic_id), descriptor) in (0..).zip(&config.apic_ids).zip(descriptors) {
            let destination = NotificationDestination::encode(config.first_pcpu + vcpu, ApicMode::X2Apic);
            if let Some(pid) = memory.descriptor(descriptor) {
                let control =
                    PidControl::new().with_vector(POSTED_INTR_VECTOR).with_destination(destination.into_bits());
                descriptor::initialize(pid, control);
            }
            if let Some(entry) = memory.table_entry(pid_table::entry_address(table, apic_id)) {
                // One 64-bit store: a sender sees no entry or all of it.
                entry.store(PidPointerEntry::to_descriptor(descriptor).into_bits());
            }
            let virtual_apic = page(Owner::VirtualApicPage { vm, vcpu })?;
            let vmcs =
                Vmcs { virtual_apic, apic_access, descriptor, pid_table: table, last_pid_index, ..Vmcs::default() };
            vcpus.push(Vcpu::create(memory, &shared, vcpu, apic_id, config, vmcs)?);
        }
        Ok((shared, vcpus))
    }

    /// The MSR bitmap of vCPUs whose local APIC is in `mode`.
    #[must_use]
    pub const fn msr_bitmap(&self, mode: ApicMode) -> u64 {
        match mode {
            ApicMode::X2Apic => self.msr_bitmaps[0],
            ApicMode::XApic | ApicMode::Disabled => self.msr_bitmaps[1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    type Memory = PhysicalMemory<Cell<u64>>;

    fn create(config: &VmConfig) -> Result<(Memory, Vm, Vec<Vcpu>), VmError> {
        let memory = Memory::new(config.memory_bytes());
        let (vm, vcpus) = Vm::create(&memory, config)?;
        Ok((memory, vm, vcpus))
    }

    #[test]
    fn the_memory_is_enough_for_any_size() {
        for vcpus in [1, 2, 3, 64, 1000, 4096] {
            for ids in [0..vcpus, 60_000..60_000 + vcpus] {
                let config = VmConfig { apic_ids: ids.collect(), ..VmConfig::new(vcpus, ApicMode::X2Apic) };
                let (memory, vm, vcpus) = create(&config).unwrap();
                let last = &vcpus[vcpus.len() - 1];
                assert_eq!(u32::from(vm.last_pid_index), last.apic_id());
                let entry = memory.table_entry(pid_table::entry_address(vm.table, last.apic_id())).unwrap();
                assert_eq!(PidPointerEntry::from_bits(entry.get()).address(), last.vp().vmcs.descriptor);
            }
        }
    }

    #[test]
    fn bad_configurations_say_what_is_wrong() {
        let config = |ids: &[u32], mode| VmConfig { apic_ids: ids.to_vec(), ..VmConfig::new(1, mode) };
        let error = |ids: &[u32], mode| create(&config(ids, mode)).map(|_| ()).unwrap_err().to_string();
        assert!(error(&[], ApicMode::X2Apic).contains("at least one"));
        assert!(
            error(&[0, 70_000], ApicMode::X2Apic).contains("APIC ID 70000 of vCPU 1 is beyond the PID-pointer table")
        );
        assert!(error(&[0, 300], ApicMode::XApic).contains("8-bit IDs"));
        assert!(error(&[3, 1, 3], ApicMode::X2Apic).contains("vCPUs 0 and 2 both have APIC ID 3"));
    }
}
