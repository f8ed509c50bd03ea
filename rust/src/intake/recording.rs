//! What a recording says, in the shape the rest of the house uses.

use super::absences::Absences;
use crate::arch::ApicMode;
pub use crate::guest::Via;
use std::collections::BTreeMap;

/// How the file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The file that `perf record` writes.
    PerfData,
    /// What `perf script` prints.
    PerfScript,
    /// The `trace` file of tracefs.
    Ftrace,
    /// What `trace-cmd report` prints.
    TraceCmd,
}

impl Format {
    /// The format's name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PerfData => "perf.data",
            Self::PerfScript => "perf script text",
            Self::Ftrace => "ftrace text",
            Self::TraceCmd => "trace-cmd report text",
        }
    }
}

/// Where the recording was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// On the host: KVM's tracepoints.
    Host,
    /// Inside a guest, or on bare metal: Linux's own `ipi:*` tracepoints.
    Guest,
}

impl Side {
    /// The side's name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
}

/// How threads were matched to vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identification {
    /// By `vcpu_id` of `kvm_entry` or `kvm_exit`.
    KvmEntry,
    /// By thread names of the form `CPU n/KVM`.
    ThreadName,
    /// By `apicid` of `kvm_eoi`, which KVM fills with the vCPU's `vcpu_id`.
    KvmEoi,
    /// In the order of thread ids: the lowest is vCPU 0.
    ThreadOrder,
    /// The CPU that an event was recorded on is the vCPU (recordings from inside a guest).
    CpuNumber,
}

impl Identification {
    /// One phrase for a report.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::KvmEntry => "vCPUs identified by kvm_entry and kvm_exit",
            Self::ThreadName => "vCPUs identified by thread names (CPU n/KVM)",
            Self::KvmEoi => "vCPUs identified by kvm_eoi",
            Self::ThreadOrder => "vCPUs assumed to be the vCPU threads in rising order of thread id",
            Self::CpuNumber => "vCPUs are the CPUs that events were recorded on",
        }
    }
}

/// A vCPU of the recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedVcpu {
    /// Number of its virtual machine, from 0.
    pub vm: u32,
    /// Number within the virtual machine.
    pub vcpu_id: u32,
    /// APIC ID: recorded, given by the user, or assumed equal to `vcpu_id`.
    pub apic_id: u32,
    /// Host thread that ran it, where known.
    pub thread: Option<u32>,
    /// Host process of the virtual machine, where known.
    pub process: Option<u32>,
    /// Name of the thread (host side) or of the CPU (guest side), for people.
    pub name: String,
    /// The last xAPIC ID that the guest wrote (`kvm_mmio` shows it), if it wrote one.
    pub id_written: Option<u8>,
}

/// The recording's IPIs: equally long columns in time order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipis {
    /// Time in nanoseconds, by the recording's own clock. Text without `--ns` has microseconds.
    pub time_ns: Vec<u64>,
    /// The sender: an index into [`Recording::vcpus`].
    pub sender: Vec<u32>,
    /// ICR bits 31:0. For [`Via::SelfIpiMsr`] the value written: the vector.
    pub icr_low: Vec<u32>,
    /// Destination as KVM reports it: 8 bits in xAPIC mode, 32 in x2APIC mode; noise when `icr_low` has a shorthand.
    pub destination: Vec<u32>,
    /// How the guest wrote it.
    pub via: Vec<Via>,
}

impl Ipis {
    /// Number of IPIs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.time_ns.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.time_ns.is_empty()
    }

    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            time_ns: Vec::with_capacity(capacity),
            sender: Vec::with_capacity(capacity),
            icr_low: Vec::with_capacity(capacity),
            destination: Vec::with_capacity(capacity),
            via: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn push(&mut self, time_ns: u64, sender: u32, icr_low: u32, destination: u32, via: Via) {
        self.time_ns.push(time_ns);
        self.sender.push(sender);
        self.icr_low.push(icr_low);
        self.destination.push(destination);
        self.via.push(via);
    }
}

/// On how much evidence [`Ipis::via`] stands: counts that add up to the number of IPIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViaEvidence {
    /// The write itself is in the recording, or the destination does not fit an 8-bit APIC ID.
    pub recorded: u64,
    /// The sender's APIC mode follows from other events.
    pub inferred: u64,
    /// Nothing shows the mode: [`Options::assume`] was taken. All of a guest-side recording.
    pub assumed: u64,
}

/// Paravirtual IPIs (`KVM_HC_SEND_IPI`) with one ICR: they are hypercalls and do not pass through the ICR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HypercallIpis {
    /// The ICR that the guest asks KVM to use for each target: its low half.
    pub icr_low: u32,
    /// Hypercalls.
    pub calls: u64,
    /// Targets of all of them together.
    pub targets: u64,
}

/// APICv of a virtual machine was inhibited for one reason more, or one less (`kvm_apicv_inhibit_changed`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InhibitChange {
    /// When, in nanoseconds by the recording's own clock.
    pub time_ns: u64,
    /// The virtual machine's process, where known.
    pub process: Option<u32>,
    /// The reason, by its number in that kernel's `enum kvm_apicv_inhibit`.
    pub reason: u32,
    /// It was set, or cleared.
    pub set: bool,
    /// All reasons after the change, one bit each; APICv is active when there is none.
    pub inhibits: u64,
}

/// The machine that the recording was made on, as far as the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedOn {
    /// The kernel's release (`uname -r`).
    pub kernel: Option<String>,
    /// The processor's name.
    pub processor: Option<String>,
    /// Vendor, family, model and stepping, with commas between them.
    pub cpuid: Option<String>,
}

/// What was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Why, as a phrase that reads well after the count.
    pub reason: String,
    /// How many lines, records or IPIs.
    pub count: u64,
}

/// What the user knows and a recording may not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// APIC mode where the recording does not show it; always, for a guest-side recording.
    /// [`ApicMode::Disabled`] counts as [`ApicMode::XApic`]: a disabled local APIC sends nothing.
    pub assume: ApicMode,
    /// Whether the user named `assume`, or it is the default.
    pub apic_mode_given: bool,
    /// APIC ID of vCPU (guest side: CPU) `k`; a vCPU beyond the list has its own number.
    pub apic_ids: Option<Vec<u32>>,
    /// Number of vCPUs of each virtual machine, as declared by the user.
    pub vcpus: Option<u32>,
    /// Only this process (virtual machine).
    pub process: Option<u32>,
    /// Whether [`Recording::absences`] are wanted: they take memory, and a time-ordered look at every `sched_switch`.
    pub absences: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            assume: ApicMode::X2Apic,
            apic_mode_given: false,
            apic_ids: None,
            vcpus: None,
            process: None,
            absences: false,
        }
    }
}

impl Options {
    pub(super) fn given_apic_id(&self, vcpu: u32) -> Option<u32> {
        self.apic_ids.as_ref().and_then(|ids| ids.get(vcpu as usize).copied())
    }

    pub(super) fn assume_x2apic(&self) -> bool {
        self.assume == ApicMode::X2Apic
    }
}

/// A recording of a real machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// How the file was written.
    pub format: Format,
    /// Where it was recorded.
    pub side: Side,
    /// The vCPUs, by virtual machine and number.
    pub vcpus: Vec<RecordedVcpu>,
    /// How `vcpus` were told apart.
    pub identified_by: Identification,
    /// The IPIs.
    pub ipis: Ipis,
    /// On what [`Ipis::via`] stands.
    pub via_evidence: ViaEvidence,
    /// When vCPUs did not run, by vCPU and time; where [`Options::absences`] asks for them.
    pub absences: Absences,
    /// Records per event name without its system (`kvm_msr`, not `kvm:kvm_msr`): all events, used or not.
    pub records: BTreeMap<String, u64>,
    /// What was passed over, and why.
    pub skipped: Vec<Skip>,
    /// Events that the recorder says it lost.
    pub lost: u64,
    /// What the reader must know about the numbers, one sentence each.
    pub notes: Vec<String>,
    /// Time of the first event, in nanoseconds, by the recording's own clock.
    pub start_ns: u64,
    /// Last minus first event time, in nanoseconds.
    pub span_ns: u64,
    /// Paravirtual IPIs, by ICR.
    pub hypercalls: Vec<HypercallIpis>,
    /// What kept APICv from being active, in the order of the file.
    pub inhibits: Vec<InhibitChange>,
    /// The machine; perf.data tells it.
    pub machine: RecordedOn,
}
