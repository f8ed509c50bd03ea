//! A VM: its memory, its PID-pointer table, its vCPUs.
//!
//! KVM: `vmx_vcpu_precreate` (table, `vmx_get_pid_table_order`), `vmx_vcpu_create` (entry and descriptor).

use super::apic_map::{ApicMap, XApicUsers};
use super::apicv::{Apicv, Inhibits, MsrBitmap};
use super::identity::ApicIdentity;
use super::setup::{KvmIntel, Missing, ModuleParameters, POSTED_INTR_VECTOR};
use super::shared::VcpuWords;
use super::vcpu::Vcpu;
use crate::arch::posted_interrupt::{DESCRIPTOR_BYTES, ENTRY_BYTES, MAX_ENTRIES};
use crate::arch::{ApicMode, Icr, NotificationDestination, PidControl, PidPointerEntry};
use crate::memory::{OutOfMemory, Owner, PhysicalMemory, Word};
use crate::processor::{Capabilities, EntryFailure, VirtualProcessor, Vmcs, descriptor, pid_table};
use thiserror::Error;

/// Most vCPUs of a VM: a PID-pointer table has at most 65,536 entries.
pub const MAX_VCPUS: usize = MAX_ENTRIES;

const PAGE_BYTES: u64 = 4096;
const LINE_BYTES: u64 = 64;
const WORD_BYTES: u64 = 8;

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
    /// Entries of the PID-pointer table (KVM_CAP_MAX_VCPU_ID), 1 to 65536; up to the highest APIC ID if none is given.
    pub max_vcpu_ids: Option<u32>,
    /// Last PID-pointer index, if it is not to be the table's last.
    pub last_pid_index: Option<u16>,
    /// vCPUs that may be added later.
    pub spare_vcpus: u32,
    /// vCPUs are scheduled: HLT is a VM exit, and descriptors begin with SN = 1, for no pCPU runs them yet. Otherwise each
    /// has a pCPU for itself and is always in its guest.
    pub scheduled: bool,
    /// The mode of the host's local APICs: how NDST is written.
    pub host_apic: ApicMode,
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
    /// An APIC ID that `max_vcpu_ids` leaves no entry for.
    #[error("APIC ID {apic_id} of vCPU {vcpu} is beyond max_vcpu_ids {max}: raise it, or give a lower ID")]
    ApicIdBeyondMax {
        /// vCPU.
        vcpu: usize,
        /// Its APIC ID.
        apic_id: u32,
        /// The limit.
        max: u32,
    },
    /// `max_vcpu_ids` is 0 or more than a table can hold.
    #[error("max_vcpu_ids must be 1 to {MAX_VCPUS}, not {0}")]
    MaxVcpuIds(u32),
    /// No vCPU can be added: the VM was made for no more.
    #[error("the VM was made for {0} vCPUs: none can be added")]
    Full(u32),
    /// KVM does not run on this processor.
    #[error(transparent)]
    Setup(#[from] Missing),
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

impl VmError {
    /// The capability MSR that does not allow what is needed, if that is why.
    #[must_use]
    pub const fn capability_msr(&self) -> Option<u32> {
        match self {
            Self::Setup(missing) => Some(missing.msr),
            Self::Entry { failure, .. } => failure.capability_msr(),
            _ => None,
        }
    }
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
    /// APIC virtualization of its vCPUs while nothing inhibits it.
    pub apicv: Apicv,
    pub(super) kvm: KvmIntel,
    pub(super) scheduled: bool,
    capabilities: Capabilities,
    entries: u64,
    first_pcpu: u32,
    host_apic: ApicMode,
    apic_access: u64,
    /// MSR bitmaps: APICv active, inactive, and for vCPUs without "virtualize x2APIC mode".
    msr_bitmaps: [u64; 3],
    apic_map: ApicMap,
    /// The line with the VM's own words, of [`Inhibits`] and [`XApicUsers`]; a line for each vCPU follows.
    words: u64,
    capacity: u32,
}

/// What the kernel allocates for a PID-pointer table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Entries: `max_vcpu_ids`.
    pub entries: u64,
    /// Page order k: 2^k pages of 4 KiB. (`get_order`)
    pub order: u32,
    /// Bytes of those pages.
    pub bytes: u64,
}

impl TableSize {
    /// The table of `entries` entries. (`vmx_get_pid_table_order`)
    #[must_use]
    pub const fn of(entries: u64) -> Self {
        let pages = (entries * ENTRY_BYTES).div_ceil(PAGE_BYTES).next_power_of_two();
        Self { entries, order: pages.trailing_zeros(), bytes: pages * PAGE_BYTES }
    }
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
            max_vcpu_ids: None,
            last_pid_index: None,
            spare_vcpus: 0,
            scheduled: false,
            host_apic: ApicMode::X2Apic,
            first_pcpu: 0,
            capabilities: Capabilities::default(),
        }
    }

    /// Bytes of physical memory that the VM takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes_beside_apic_pages() + self.capacity() * PAGE_BYTES
    }

    /// The same without virtual-APIC pages, of which each vCPU has one.
    #[must_use]
    pub fn memory_bytes_beside_apic_pages(&self) -> u64 {
        // What Vm::create and Vm::add_vcpu ask for, rounded up to whole pages with their red lines; page 0, and the way to
        // the first virtual-APIC page.
        let shared = 2 * PAGE_BYTES * 4 + 2 * PAGE_BYTES;
        let table = self.entries() * ENTRY_BYTES + 2 * PAGE_BYTES;
        let words = (self.capacity() + 2) * LINE_BYTES;
        let vcpu = 4 * DESCRIPTOR_BYTES;
        // A vCPU that is added later has its descriptor on a page of its own.
        let spare = vcpu + PAGE_BYTES;
        shared + table + words + self.apic_ids.len() as u64 * vcpu + u64::from(self.spare_vcpus) * spare
    }

    fn capacity(&self) -> u64 {
        self.apic_ids.len() as u64 + u64::from(self.spare_vcpus)
    }

    /// Entries of the table.
    fn entries(&self) -> u64 {
        let ids = self.apic_ids.iter().copied().map(u64::from).max().unwrap_or(0);
        let needed = ids.max(self.last_pid_index.map_or(0, u64::from)) + 1;
        self.max_vcpu_ids.map_or(needed, u64::from).min(MAX_ENTRIES as u64)
    }

    fn check(&self) -> Result<(), VmError> {
        if self.apic_ids.is_empty() {
            return Err(VmError::NoVcpus);
        }
        if self.apic_ids.len() > MAX_VCPUS {
            return Err(VmError::TooManyVcpus(self.apic_ids.len()));
        }
        if let Some(max) = self.max_vcpu_ids
            && !(1..=MAX_ENTRIES as u32).contains(&max)
        {
            return Err(VmError::MaxVcpuIds(max));
        }
        // IDs that rise, as they nearly always do, differ.
        let rising = self.apic_ids.is_sorted_by(|one, next| one < next);
        let mut seen = rustc_hash::FxHashMap::default();
        for (vcpu, &apic_id) in self.apic_ids.iter().enumerate() {
            if apic_id as usize >= MAX_ENTRIES {
                return Err(VmError::ApicIdBeyondTable { vcpu, apic_id });
            }
            if let Some(max) = self.max_vcpu_ids
                && apic_id >= max
            {
                return Err(VmError::ApicIdBeyondMax { vcpu, apic_id, max });
            }
            if self.mode == ApicMode::XApic && apic_id >= u32::from(u8::MAX) {
                return Err(VmError::ApicIdTooWide { vcpu, apic_id });
            }
            if !rising && let Some(first) = seen.insert(apic_id, vcpu) {
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
        let (this, descriptors) = Self::prepare(memory, config)?;
        let vcpus = this.vcpus(memory, config, descriptors).collect::<Result<_, _>>()?;
        Ok((this, vcpus))
    }

    /// Makes the VM without its vCPUs, and the descriptors that these are to have.
    ///
    /// # Errors
    /// What is wrong with the configuration, or a memory that is too small.
    pub fn prepare<W: Word>(memory: &PhysicalMemory<W>, config: &VmConfig) -> Result<(Self, Vec<u64>), VmError> {
        config.check()?;
        let this = Self::precreate(memory, config)?;
        let vm = this.vm;
        // Descriptors stand together and pages stand together: a large VM then costs little beside its pages.
        let descriptors = (0..config.apic_ids.len() as u32)
            .map(|vcpu| memory.allocate(Owner::Descriptor { vm, vcpu }, DESCRIPTOR_BYTES, DESCRIPTOR_BYTES))
            .collect::<Result<_, _>>()?;
        Ok((this, descriptors))
    }

    /// Makes the vCPUs of a VM that [`Vm::prepare`] made, one after the other; each has done its first VM entry.
    pub fn vcpus<'a, W: Word>(
        &'a self,
        memory: &'a PhysicalMemory<W>,
        config: &'a VmConfig,
        descriptors: Vec<u64>,
    ) -> impl Iterator<Item = Result<Vcpu, VmError>> + 'a {
        (0..)
            .zip(&config.apic_ids)
            .zip(descriptors)
            .map(|((vcpu, &apic_id), descriptor)| self.create_vcpu(memory, vcpu, apic_id, config.mode, descriptor))
    }

    /// What all vCPUs share, before the first of them. (`vmx_vcpu_precreate`) The table is there even while APICv is
    /// inhibited: it may become active later.
    fn precreate<W: Word>(memory: &PhysicalMemory<W>, config: &VmConfig) -> Result<Self, VmError> {
        let vm = config.vm;
        let entries = config.entries();
        let parameters = ModuleParameters { enable_apicv: config.apicv.active, enable_ipiv: config.apicv.enable_ipiv };
        let kvm = KvmIntel::setup(&config.capabilities, parameters)?;
        let page = |owner| memory.allocate(owner, PAGE_BYTES, PAGE_BYTES);
        let words = memory.allocate(Owner::HypervisorWords { vm }, (config.capacity() + 1) * LINE_BYTES, LINE_BYTES)?;
        let this = Self {
            vm,
            table: memory.allocate(Owner::PidPointerTable { vm }, entries * ENTRY_BYTES, PAGE_BYTES)?,
            last_pid_index: config.last_pid_index.unwrap_or((entries - 1) as u16),
            apicv: Apicv { active: kvm.enable_apicv, enable_ipiv: kvm.enable_ipiv },
            kvm,
            scheduled: config.scheduled,
            capabilities: config.capabilities,
            entries,
            first_pcpu: config.first_pcpu,
            host_apic: config.host_apic,
            apic_access: page(Owner::ApicAccessPage { vm })?,
            msr_bitmaps: [
                page(Owner::MsrBitmap { vm })?,
                page(Owner::MsrBitmap { vm })?,
                page(Owner::MsrBitmap { vm })?,
            ],
            apic_map: ApicMap::new(&config.apic_ids, config.spare_vcpus),
            words,
            capacity: config.capacity() as u32,
        };
        for (x2apic, active) in [(true, true), (true, false), (false, false)] {
            if let Some(bitmap) = memory.page(this.msr_bitmap(x2apic, active)) {
                MsrBitmap { x2apic, apicv: Apicv { active, ..this.apicv } }.write(bitmap);
            }
        }
        Ok(this)
    }

    /// Adds vCPU number `vcpu` while others run.
    ///
    /// # Errors
    /// An APIC ID without an entry in the table, a VM that is full, or a memory that is.
    pub fn add_vcpu<W: Word>(
        &self,
        memory: &PhysicalMemory<W>,
        vcpu: u32,
        apic_id: u32,
        mode: ApicMode,
    ) -> Result<Vcpu, VmError> {
        if vcpu >= self.capacity {
            return Err(VmError::Full(self.capacity));
        }
        if u64::from(apic_id) >= self.entries {
            return Err(VmError::ApicIdBeyondMax { vcpu: vcpu as usize, apic_id, max: self.entries as u32 });
        }
        let descriptor =
            memory.allocate(Owner::Descriptor { vm: self.vm, vcpu }, DESCRIPTOR_BYTES, DESCRIPTOR_BYTES)?;
        self.create_vcpu(memory, vcpu, apic_id, mode, descriptor)
    }

    /// Takes the vCPU's entry out of the table, one 64-bit store: from now on an IPI to it exits. Senders that have read
    /// the entry may still post: its memory is [freed](Self::free_vcpu) only when each of them has left its guest once.
    pub fn unpublish_vcpu<W: Word>(&self, memory: &PhysicalMemory<W>, vcpu: &Vcpu) {
        if let Some(entry) = memory.table_entry(pid_table::entry_address(self.table, vcpu.apic_id())) {
            entry.store(PidPointerEntry::new().into_bits());
        }
        self.publish(memory, vcpu.vcpu(), ApicIdentity::new());
    }

    /// Gives the memory of a vCPU back: a post that still comes is a violation.
    pub fn free_vcpu<W: Word>(memory: &PhysicalMemory<W>, vcpu: &Vcpu) {
        let vmcs = &vcpu.vp().vmcs;
        for address in [vmcs.descriptor, vmcs.virtual_apic] {
            let _ = memory.free(address);
        }
    }

    /// (`vmx_vcpu_create`)
    fn create_vcpu<W: Word>(
        &self,
        memory: &PhysicalMemory<W>,
        vcpu: u32,
        apic_id: u32,
        mode: ApicMode,
        descriptor: u64,
    ) -> Result<Vcpu, VmError> {
        let pcpu = if self.scheduled { self.first_pcpu } else { self.first_pcpu + vcpu };
        let destination = NotificationDestination::encode(pcpu, self.host_apic);
        if let Some(pid) = memory.descriptor(descriptor) {
            let control = PidControl::new()
                .with_vector(POSTED_INTR_VECTOR)
                .with_destination(destination.into_bits())
                .with_suppress(self.scheduled);
            descriptor::initialize(pid, control);
        }
        let virtual_apic = memory.allocate(Owner::VirtualApicPage { vm: self.vm, vcpu }, PAGE_BYTES, PAGE_BYTES)?;
        let vmcs = Vmcs {
            virtual_apic,
            apic_access: self.apic_access,
            descriptor,
            pid_table: self.table,
            last_pid_index: self.last_pid_index,
            ..Vmcs::default()
        };
        let vp = VirtualProcessor::new(vmcs, self.capabilities);
        let created = Vcpu::create(memory, self, vcpu, apic_id, mode, vp)?;
        if let Some(entry) = memory.table_entry(pid_table::entry_address(self.table, apic_id)) {
            // Last, and one 64-bit store: a sender sees no entry or all of it, and behind it a descriptor that is ready.
            entry.store(PidPointerEntry::to_descriptor(descriptor).into_bits());
        }
        Ok(created)
    }

    /// Its PID-pointer table as the kernel allocates it. The model's own table ends with its last entry, so that a read
    /// past it is seen.
    #[must_use]
    pub const fn table_size(&self) -> TableSize {
        TableSize::of(self.entries)
    }

    /// The reasons against APICv.
    #[must_use]
    pub fn inhibits<'m, W: Word>(&self, memory: &'m PhysicalMemory<W>) -> Option<Inhibits<'m, W>> {
        memory.word(self.words).map(Inhibits::new)
    }

    /// Publishes how a vCPU is addressed from now on.
    pub(super) fn publish<W: Word>(&self, memory: &PhysicalMemory<W>, vcpu: u32, identity: ApicIdentity) {
        if let (Some(words), Some(users)) = (self.vcpu_words(memory, vcpu), self.xapic_users(memory)) {
            users.publish(words, identity);
        }
    }

    /// The vCPUs among which all are that an ICR value means, by number, lowest first; none if they may be any.
    /// (`kvm_apic_map_get_dest_lapic`)
    pub(super) fn candidates<W: Word>(&self, memory: &PhysicalMemory<W>, icr: Icr, sender: u32) -> Option<Vec<u32>> {
        self.apic_map.candidates(icr, sender, self.xapic_users(memory)?.any())
    }

    fn xapic_users<'m, W: Word>(&self, memory: &'m PhysicalMemory<W>) -> Option<XApicUsers<'m, W>> {
        memory.word(self.words + WORD_BYTES).map(XApicUsers::new)
    }

    /// The words of a vCPU that the hypervisor's threads share.
    #[must_use]
    pub fn vcpu_words<'m, W: Word>(&self, memory: &'m PhysicalMemory<W>, vcpu: u32) -> Option<VcpuWords<'m, W>> {
        let line = memory.line(self.words + (u64::from(vcpu) + 1) * LINE_BYTES);
        line.filter(|_| vcpu < self.capacity).map(VcpuWords::new)
    }

    /// The MSR bitmap of vCPUs with or without "virtualize x2APIC mode" and APICv.
    #[must_use]
    pub const fn msr_bitmap(&self, x2apic: bool, apicv_active: bool) -> u64 {
        match (x2apic, apicv_active) {
            (true, true) => self.msr_bitmaps[0],
            (true, false) => self.msr_bitmaps[1],
            (false, _) => self.msr_bitmaps[2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::msr;
    use crate::processor::{NonRoot, Outcome};
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
    fn the_memory_is_little_more_than_it_takes() {
        for (vcpus, spare) in [(1, 0), (1, 7), (64, 0), (64, 64), (1000, 24)] {
            let config = VmConfig {
                max_vcpu_ids: Some(vcpus + spare),
                spare_vcpus: spare,
                ..VmConfig::new(vcpus, ApicMode::X2Apic)
            };
            let (memory, vm, _) = create(&config).unwrap();
            for vcpu in vcpus..vcpus + spare {
                vm.add_vcpu(&memory, vcpu, vcpu, ApicMode::X2Apic).unwrap();
            }
            let page = || memory.allocate(Owner::MsrBitmap { vm: 0 }, PAGE_BYTES, PAGE_BYTES);
            let free = std::iter::from_fn(|| page().ok()).count() as u32;
            assert!(free <= 2 + spare + vcpus / 16, "{free} more pages for {vcpus} vCPUs and {spare} more");
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
        let most: Vec<u32> = (0..MAX_VCPUS as u32).collect();
        assert!(config(&most, ApicMode::X2Apic).check().is_ok());
        let more: Vec<u32> = (0..=MAX_VCPUS as u32).collect();
        assert_eq!(config(&more, ApicMode::X2Apic).check(), Err(VmError::TooManyVcpus(MAX_VCPUS + 1)));
    }

    #[test]
    fn each_vcpu_has_its_words_its_pcpu_and_the_access_page_of_all() {
        let config = VmConfig { vm: 2, first_pcpu: 5, ..VmConfig::new(70, ApicMode::XApic) };
        let (memory, vm, vcpus) = create(&config).unwrap();
        let owner = |address| memory.owner_of(address).unwrap().owner;
        for vcpu in &vcpus {
            assert_eq!(owner(vm.words + u64::from(vcpu.vcpu() + 1) * LINE_BYTES), Owner::HypervisorWords { vm: 2 });
            let vmcs = &vcpu.vp().vmcs;
            let pid = memory.descriptor(vmcs.descriptor).unwrap();
            assert_eq!(descriptor::control(pid).destination(), 5 + vcpu.vcpu());
            assert_eq!(owner(vmcs.apic_access), Owner::ApicAccessPage { vm: 2 });
            vm.vcpu_words(&memory, vcpu.vcpu()).unwrap().set_pcpu(vcpu.vcpu() + 100);
            vm.vcpu_words(&memory, vcpu.vcpu()).unwrap().set_mode(crate::hypervisor::Mode::InGuest);
        }
        assert!((0..70).all(|vcpu| vm.vcpu_words(&memory, vcpu).unwrap().pcpu() == vcpu + 100));
        assert!(vm.vcpu_words(&memory, 70).is_none());
        assert!(vm.inhibits(&memory).unwrap().activated(), "the VM's own word is another one");
    }

    /// With APICv inhibited the ICR passed through would be the physical one.
    #[test]
    fn only_the_bitmap_of_active_apicv_passes_the_icr() {
        let (memory, vm, _) = create(&VmConfig::new(1, ApicMode::X2Apic)).unwrap();
        let at = msr::bitmap_position(msr::X2APIC_ICR, true).unwrap();
        let intercepts =
            |x2apic, active| memory.page(vm.msr_bitmap(x2apic, active)).unwrap()[at.word].get() & at.mask != 0;
        assert!(!intercepts(true, true));
        assert!(intercepts(true, false) && intercepts(false, false));
    }

    #[test]
    fn tables_are_whole_powers_of_pages() {
        for (entries, order) in [(1, 0), (512, 0), (513, 1), (1024, 1), (4096, 3), (4097, 4), (65_536, 7)] {
            let size = TableSize::of(entries);
            assert_eq!((size.order, size.bytes), (order, 4096 << order), "{entries} entries");
        }
        let config = VmConfig { max_vcpu_ids: Some(4096), ..VmConfig::new(2, ApicMode::X2Apic) };
        let (_, vm, _) = create(&config).unwrap();
        assert_eq!((vm.last_pid_index, vm.table_size().order), (4095, 3), "KVM_MAX_VCPU_IDS: 8 pages");
    }

    #[test]
    fn a_vcpu_that_is_added_is_reached_and_one_that_is_removed_is_not() {
        let config = VmConfig { max_vcpu_ids: Some(8), spare_vcpus: 1, ..VmConfig::new(1, ApicMode::X2Apic) };
        let (memory, vm, mut vcpus) = create(&config).unwrap();
        let mut send =
            |memory: &Memory| NonRoot::resume(memory, vcpus[0].vp_mut()).unwrap().wrmsr(0x830, 5 << 32 | 0xFB);
        assert!(matches!(send(&memory), Outcome::Exit(_)), "no entry yet");
        let added = vm.add_vcpu(&memory, 1, 5, ApicMode::X2Apic).unwrap();
        assert!(matches!(send(&memory), Outcome::Posted(_)));
        assert_eq!(vm.vcpu_words(&memory, 1).unwrap().identity().id(), 5);
        let entry = memory.table_entry(pid_table::entry_address(vm.table, 5)).unwrap().get();
        vm.unpublish_vcpu(&memory, &added);
        assert!(matches!(send(&memory), Outcome::Exit(_)));
        Vm::free_vcpu(&memory, &added);
        memory.table_entry(pid_table::entry_address(vm.table, 5)).unwrap().set(entry);
        assert!(matches!(send(&memory), Outcome::Violation(_)), "a stale entry leads to freed memory");
        assert!(vm.add_vcpu(&memory, 2, 6, ApicMode::X2Apic).unwrap_err().to_string().contains("made for 2 vCPUs"));
        assert!(vm.add_vcpu(&memory, 1, 8, ApicMode::X2Apic).unwrap_err().to_string().contains("max_vcpu_ids 8"));
    }

    /// v4 wrote the number of entries as the last index.
    #[test]
    fn a_last_index_past_the_table_is_seen() {
        let config = VmConfig { max_vcpu_ids: Some(4), last_pid_index: Some(4), ..VmConfig::new(2, ApicMode::X2Apic) };
        let (memory, _, mut vcpus) = create(&config).unwrap();
        let outcome = NonRoot::resume(&memory, vcpus[0].vp_mut()).unwrap().wrmsr(0x830, 4 << 32 | 0xFB);
        assert!(matches!(outcome, Outcome::Violation(_)), "{outcome:?}");
    }
}
