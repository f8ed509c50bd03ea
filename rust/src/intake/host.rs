//! Host side: KVM's tracepoints, one thread at a time.
//!
//! The sender of a `kvm_apic_ipi` is the thread it was recorded on. The record says what was sent but not how the guest
//! wrote it, so each one is matched with its write where that is recorded too, by the order in which KVM traces:
//! - x2APIC mode: `kvm_apic_ipi`, then on the same thread `kvm_msr` with a write of 830H (or 83FH);
//! - xAPIC mode: `kvm_mmio` with a write to offset 300H, then on the same thread `kvm_apic_ipi`.
//!
//! The write carries bits that `kvm_apic_ipi` does not show (as text) or no longer has (bit 12, which KVM clears first),
//! so its value is the one kept. What is left unmatched is decided at the end, in [`super::via`].

use super::absences::{Evidence, Found};
use super::event::{Event, Sample};
use super::mode::{Position, Timeline};
use super::recording::{HypercallIpis, InhibitChange};
use crate::arch::apic_base::{ApicBase, DEFAULT_PAGE_ADDRESS};
use crate::arch::apic_register::XApicId;
use crate::arch::icr::{DeliveryMode, DestinationMode, IcrLow, Shorthand, X2ApicIcr};
use crate::arch::{ApicMode, msr};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// The bits of ICR_LO that the text of `kvm_apic_ipi` shows. Writes and IPIs are matched by these in every format, so
/// that all forms of a recording give the same IPIs.
pub(super) const SHOWN_IN_TEXT: u32 = IcrLow::new()
    .with_vector(0xFF)
    .with_delivery_mode(DeliveryMode::Reserved7)
    .with_destination_mode(DestinationMode::Logical)
    .with_level_assert(true)
    .with_trigger_level(true)
    .with_shorthand(Shorthand::AllButSelf)
    .into_bits();
/// The bits that `trace-cmd report -R` shows.
pub(super) const SHOWN_RAW: u32 = IcrLow::new().with_vector(0xFF).into_bits();

/// KVM_HC_SEND_IPI.
const HYPERCALL_SEND_IPI: u64 = 10;
/// Offsets in the APIC page.
const PAGE_MASK: u64 = 0xFFF;
const OFFSET_ID: u64 = 0x20;
const OFFSET_ICR_LOW: u64 = 0x300;

/// What a vCPU thread did.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) id: u32,
    pub(super) process: Option<u32>,
    pub(super) name: String,
    pub(super) ipis: u64,
    /// From `kvm_entry` and `kvm_exit`.
    pub(super) vcpu_id: Option<u32>,
    /// It ran a second vCPU too.
    pub(super) runs_several: bool,
    /// From `kvm_eoi`: KVM fills its `apicid` with the vCPU's `vcpu_id`, which is the APIC ID after a reset.
    pub(super) eoi_id: Option<u32>,
    /// From reads of the ID register.
    pub(super) id_register: Option<u32>,
    /// From writes of the xAPIC ID register.
    pub(super) id_written: Option<u8>,
    pub(super) modes: Timeline,
    apic_page: u64,
    /// Value of a write to offset 300H whose `kvm_apic_ipi` has not come yet.
    icr_write: Option<u32>,
    open: Option<Open>,
    /// When it exited for HLT and has not entered since.
    halted_ns: Option<u64>,
    /// When it left its CPU, and whether it could have gone on.
    left: Option<(u64, bool)>,
}

/// The thread's newest IPI while its write is still to come.
#[derive(Clone, Copy, Debug)]
struct Open {
    row: usize,
    shown: u32,
    followed: bool,
}

/// An IPI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) time_ns: u64,
    pub(super) at: Position,
    pub(super) thread: u32,
    pub(super) icr_low: u32,
    pub(super) destination: u32,
    pub(super) write: Write,
}

/// The guest's write behind an IPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Recorded: offset 300H.
    Mmio,
    /// Recorded: WRMSR 830H.
    IcrMsr,
    /// Recorded: WRMSR 83FH.
    SelfIpiMsr,
    /// Not recorded, though the thread has later records.
    Absent,
    /// Not recorded, and the thread's records end here: a WRMSR may just have missed the end.
    CutOff,
}

/// Collects the host side.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) threads: Vec<Thread>,
    pub(super) rows: Vec<Row>,
    /// vCPUs that accepted an interrupt.
    pub(super) accepted: FxHashSet<u32>,
    /// WRMSR 830H in the recording.
    pub(super) icr_msr_writes: u64,
    /// Recorded writes to the ICR without an IPI.
    pub(super) unmatched_writes: u64,
    /// IPIs of which only the vector is known.
    pub(super) vector_only: u64,
    /// KVM_HC_SEND_IPI, by ICR.
    pub(super) hypercalls: BTreeMap<u32, HypercallIpis>,
    /// Changes of what keeps APICv from being active.
    pub(super) inhibits: Vec<InhibitChange>,
    /// IPIs of processes that the user did not ask for, by process.
    pub(super) other_processes: FxHashMap<u32, u64>,
    /// A record without a process came although the user asked for one.
    pub(super) process_unknown: bool,
    /// When vCPU threads did not run; who they are is the thread's number.
    pub(super) absences: Vec<Found>,
    keeps_absences: bool,
    only_process: Option<u32>,
    index: FxHashMap<u32, usize>,
    /// The index entry used last: records come in runs of one thread.
    newest: (u32, usize),
    position: Position,
}

impl Host {
    pub(super) fn new(only_process: Option<u32>, keeps_absences: bool) -> Self {
        Self { keeps_absences, only_process, ..Self::default() }
    }

    /// Takes one record in.
    #[inline]
    pub(super) fn take(&mut self, sample: &Sample) {
        let acts = match sample.event {
            Event::Other | Event::SendCpu { .. } | Event::SendCpumask { .. } => return,
            Event::AcceptIrq { vcpu_id } => {
                self.accepted.insert(vcpu_id);
                return;
            }
            Event::Switch { from, runnable, to } => return self.switched(sample.time_ns, from, runnable, to),
            Event::Inhibit { reason, set, inhibits } => {
                let (time_ns, process) = (sample.time_ns, sample.process);
                // A thread of another process changes nothing; of a thread without one nobody knows.
                if self.only_process.is_none() || process == self.only_process {
                    self.inhibits.push(InhibitChange { time_ns, process, reason, set, inhibits });
                }
                return;
            }
            acts => acts,
        };
        if self.only_process.is_some() && self.is_foreign(sample) {
            return;
        }
        self.position += 1;
        let at = self.position;
        let index = self.thread_index(sample);
        let Some(thread) = self.threads.get_mut(index) else { return };
        if let Some(open) = &mut thread.open {
            open.followed = true;
        }
        // A write to the ICR is followed at once by its IPI, or by none.
        let icr_write = thread.icr_write.take();
        match acts {
            Event::ApicIpi { icr_low, shown, destination } => {
                let written = icr_write.filter(|write| (write ^ icr_low) & shown & SHOWN_IN_TEXT == 0);
                self.unmatched_writes += u64::from(icr_write.is_some() && written.is_none());
                let (icr_low, write) = written.map_or((icr_low, Write::CutOff), |write| (write, Write::Mmio));
                let row = self.rows.len();
                let open = written.is_none().then_some(Open { row, shown, followed: false });
                self.rows.push(Row { time_ns: sample.time_ns, at, thread: index as u32, icr_low, destination, write });
                thread.ipis += 1;
                if let Some(older) = std::mem::replace(&mut thread.open, open) {
                    self.close(older);
                }
                return;
            }
            Event::RunsVcpu { vcpu_id } => {
                thread.runs(vcpu_id);
                if let Some(from_ns) = thread.halted_ns.take() {
                    self.absent(index, from_ns, sample.time_ns, Evidence::HltExit);
                }
            }
            Event::Exits { vcpu_id, halts } => {
                if let Some(vcpu_id) = vcpu_id {
                    thread.runs(vcpu_id);
                }
                thread.halted_ns = halts.then_some(sample.time_ns);
            }
            Event::Wakeup { waited_ns } => {
                let from_ns = sample.time_ns.saturating_sub(waited_ns);
                self.absent(index, from_ns, sample.time_ns, Evidence::Wakeup);
            }
            Event::Msr { write, index: msr::IA32_APIC_BASE, value } => thread.apic_base(at, write, value),
            Event::Msr { write, index, value } if msr::is_x2apic(index) => {
                thread.modes.used(at, ApicMode::X2Apic);
                match (write, index) {
                    (false, msr::X2APIC_ID) => thread.id_register = Some(value as u32),
                    (true, msr::X2APIC_ICR) => {
                        self.icr_msr_writes += 1;
                        self.unmatched_writes += u64::from(!thread.complete_icr(&mut self.rows, value));
                    }
                    (true, msr::X2APIC_SELF_IPI) => {
                        self.unmatched_writes += u64::from(!thread.complete_self_ipi(&mut self.rows, value));
                    }
                    _ => {}
                }
            }
            Event::Mmio { write, address, value } if address & !PAGE_MASK == thread.apic_page => {
                thread.modes.used(at, ApicMode::XApic);
                match (write, address & PAGE_MASK) {
                    (true, OFFSET_ICR_LOW) => thread.icr_write = Some(value as u32),
                    (true, OFFSET_ID) => thread.id_written = Some(XApicId::from_bits(value as u32).id()),
                    (false, OFFSET_ID) => {
                        let id = XApicId::from_bits(value as u32).id();
                        thread.id_register.get_or_insert(u32::from(id));
                    }
                    _ => {}
                }
            }
            Event::Eoi { vcpu_id } => thread.eoi_id = Some(vcpu_id),
            Event::Hypercall { number: HYPERCALL_SEND_IPI, arguments: [low, high, _, icr] } => {
                let icr_low = icr as u32;
                let ipis = self.hypercalls.entry(icr_low).or_insert(HypercallIpis { icr_low, ..Default::default() });
                ipis.calls += 1;
                ipis.targets += u64::from(low.count_ones() + high.count_ones());
            }
            _ => {}
        }
        self.unmatched_writes += u64::from(icr_write.is_some());
    }

    /// A thread left a CPU to another. Only those that are known to run vCPUs count.
    fn switched(&mut self, time_ns: u64, from: u32, runnable: bool, to: u32) {
        if let Some(thread) = self.index.get(&from).and_then(|index| self.threads.get_mut(*index)) {
            thread.left = Some((time_ns, runnable));
        }
        let Some(&index) = self.index.get(&to) else { return };
        if let Some((from_ns, runnable)) = self.threads.get_mut(index).and_then(|thread| thread.left.take()) {
            let evidence = if runnable { Evidence::Preempted } else { Evidence::Waits };
            self.absent(index, from_ns, time_ns, evidence);
        }
    }

    fn absent(&mut self, thread: usize, from_ns: u64, until_ns: u64, evidence: Evidence) {
        if self.keeps_absences {
            self.absences.push(Found { who: thread as u32, from_ns, until_ns, evidence });
        }
    }

    /// No more records come.
    pub(super) fn end(&mut self) {
        for index in 0..self.threads.len() {
            if let Some(open) = self.threads[index].open.take() {
                self.close(open);
            }
        }
    }

    fn close(&mut self, open: Open) {
        self.vector_only += u64::from(open.shown == SHOWN_RAW);
        if let Some(row) = self.rows.get_mut(open.row)
            && open.followed
        {
            row.write = Write::Absent;
        }
    }

    fn is_foreign(&mut self, sample: &Sample) -> bool {
        let Some(process) = sample.process else {
            self.process_unknown = true;
            return true;
        };
        let foreign = Some(process) != self.only_process;
        if foreign {
            *self.other_processes.entry(process).or_default() +=
                u64::from(matches!(sample.event, Event::ApicIpi { .. }));
        }
        foreign
    }

    #[inline]
    fn thread_index(&mut self, sample: &Sample) -> usize {
        if self.newest.0 != sample.thread || self.threads.is_empty() {
            let threads = &mut self.threads;
            let index = *self.index.entry(sample.thread).or_insert_with(|| {
                threads.push(Thread::new(sample));
                threads.len() - 1
            });
            self.newest = (sample.thread, index);
        }
        self.newest.1
    }
}

impl Thread {
    fn new(sample: &Sample) -> Self {
        Self {
            id: sample.thread,
            process: sample.process,
            name: String::from_utf8_lossy(sample.comm).into_owned(),
            ipis: 0,
            vcpu_id: None,
            runs_several: false,
            eoi_id: None,
            id_register: None,
            id_written: None,
            modes: Timeline::default(),
            apic_page: DEFAULT_PAGE_ADDRESS,
            icr_write: None,
            open: None,
            halted_ns: None,
            left: None,
        }
    }

    fn runs(&mut self, vcpu_id: u32) {
        self.runs_several |= self.vcpu_id.is_some_and(|known| known != vcpu_id);
        self.vcpu_id.get_or_insert(vcpu_id);
    }

    /// The APIC ID, where the recording shows it.
    pub(super) fn apic_id(&self) -> Option<u32> {
        self.eoi_id.or(self.id_register)
    }

    fn apic_base(&mut self, at: Position, write: bool, value: u64) {
        let base = ApicBase::from_bits(value);
        let Some(mode) = base.mode() else { return };
        self.apic_page = base.address();
        if write {
            self.modes.written(at, mode);
        } else {
            self.modes.read(at, mode);
        }
    }

    /// WRMSR 830H: false if the newest IPI is not its.
    fn complete_icr(&mut self, rows: &mut [Row], value: u64) -> bool {
        let icr = X2ApicIcr::from_bits(value);
        let low = value as u32;
        self.complete(rows, |row, shown| {
            (row.icr_low ^ low) & shown & SHOWN_IN_TEXT == 0 && row.destination == icr.destination()
        })
        .map(|row| (row.icr_low, row.write) = (low, Write::IcrMsr))
        .is_some()
    }

    /// WRMSR 83FH, which KVM turns into an ICR with shorthand self.
    fn complete_self_ipi(&mut self, rows: &mut [Row], value: u64) -> bool {
        let vector = value as u8;
        let sent = IcrLow::new().with_vector(vector).with_shorthand(Shorthand::Self_).into_bits();
        self.complete(rows, |row, shown| (row.icr_low ^ sent) & shown & SHOWN_IN_TEXT == 0)
            .map(|row| (row.icr_low, row.write) = (u32::from(vector), Write::SelfIpiMsr))
            .is_some()
    }

    fn complete<'r>(&mut self, rows: &'r mut [Row], matches: impl Fn(&Row, u32) -> bool) -> Option<&'r mut Row> {
        let open = self.open?;
        let row = rows.get_mut(open.row).filter(|row| matches(row, open.shown))?;
        self.open = None;
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::super::recording::{HypercallIpis, InhibitChange, Options};
    use super::super::testing::{read_text, recorded, skipped, written};

    /// Lines of thread 7, one microsecond apart.
    fn lines(events: &[&str]) -> String {
        let line = |(time, event): (usize, &&str)| format!("qemu 7 [000] 1.{time:06}: kvm:{event}\n");
        events.iter().enumerate().map(line).collect()
    }

    const IPI: &str = "kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)";
    const SELF: &str = "kvm_apic_ipi: dst 0 vec 241 (Fixed|physical|de-assert|edge|self)";

    #[test]
    fn an_msr_write_completes_the_ipi_before_it() {
        let recording = recorded(&lines(&[
            IPI,
            "kvm_apic_accept_irq: apicid 1 vec 251 (Fixed|edge)",
            "kvm_msr: msr_write 830 = 0x1000010fb",
        ]));
        assert_eq!(written(&recording), "I");
        assert_eq!(recording.ipis.icr_low, [0x10FB], "bit 12 is only in the value written");
        assert_eq!((recording.ipis.destination[0], recording.via_evidence.recorded), (1, 1));
    }

    #[test]
    fn a_faulted_write_did_not_happen() {
        let recording = recorded(&lines(&[
            IPI,
            "kvm_msr: msr_write 830 = 0x1000000fb (#GP)",
            "kvm_msr: msr_write 830 = 0x1000040fc",
        ]));
        assert_eq!((written(&recording).as_str(), recording.via_evidence.recorded), ("M", 0));
    }

    #[test]
    fn a_write_of_something_else_completes_nothing() {
        for value in ["0x2000000fb", "0x1000000fc", "0x1000040fb", "0x1000008fb"] {
            let recording = recorded(&lines(&[IPI, &format!("kvm_msr: msr_write 830 = {value}")]));
            assert_eq!(recording.via_evidence.recorded, 0, "{value}");
            assert_eq!(skipped(&recording, "without a kvm_apic_ipi"), 1, "{value}");
        }
    }

    #[test]
    fn the_write_of_another_thread_completes_nothing() {
        let recording =
            recorded(&format!("{}qemu 8 [001] 1.5: kvm:kvm_msr: msr_write 830 = 0x1000000fb\n", lines(&[IPI])));
        assert_eq!(recording.via_evidence.recorded, 0);
    }

    #[test]
    fn a_self_ipi_msr_write_is_told_from_a_shorthand() {
        let recording =
            recorded(&lines(&[SELF, "kvm_msr: msr_write 83f = 0xf1", SELF, "kvm_msr: msr_write 830 = 0x400f1"]));
        assert_eq!(written(&recording), "SI");
        assert_eq!(recording.ipis.icr_low, [0xF1, 0x400F1]);
    }

    #[test]
    fn a_write_to_the_page_completes_the_ipi_after_it() {
        let recording = recorded(&lines(&[
            "kvm_mmio: mmio write len 4 gpa 0xfee00300 val 0x10fb",
            "kvm_apic: apic_write APIC_ICR = 0x10fb",
            IPI,
        ]));
        assert_eq!(written(&recording), "M");
        assert_eq!((recording.ipis.icr_low[0], recording.via_evidence.recorded), (0x10FB, 1));
    }

    #[test]
    fn a_write_to_the_page_does_not_wait_for_a_later_ipi() {
        let recording =
            recorded(&lines(&["kvm_mmio: mmio write len 4 gpa 0xfee00300 val 0xfb", "kvm_entry: vcpu 0", IPI]));
        assert_eq!(recording.via_evidence.recorded, 0);
        assert_eq!(skipped(&recording, "without a kvm_apic_ipi"), 1);
    }

    #[test]
    fn the_page_is_where_the_guest_put_it() {
        let moved = |page: &str| {
            let write = format!("kvm_mmio: mmio write len 4 gpa {page}300 val 0xfb");
            recorded(&lines(&["kvm_msr: msr_write 1b = 0xfed00800", &write, IPI])).via_evidence.recorded
        };
        assert_eq!((moved("0xfed00"), moved("0xfee00")), (1, 0));
    }

    #[test]
    fn mode_changes_are_followed_without_the_writes() {
        let recording = recorded(&lines(&[
            IPI,
            "kvm_msr: msr_write 1b = 0xfee00d00",
            IPI,
            "kvm_msr: msr_write 1b = 0xfee00000",
            "kvm_msr: msr_write 1b = 0xfee00800",
            IPI,
            "kvm_vcpu_wakeup: wait time 1 ns, polling valid",
        ]));
        assert_eq!(written(&recording), "MIM");
        assert_eq!(recording.via_evidence.inferred, 3);
    }

    #[test]
    fn the_last_ipi_of_a_thread_is_judged_by_the_ones_before() {
        let recording = recorded(&lines(&[
            IPI,
            "kvm_msr: msr_write 830 = 0x1000000fb",
            IPI,
            "kvm_apic_accept_irq: apicid 1 vec 251 (Fixed|edge)",
        ]));
        assert_eq!(written(&recording), "II");
        let recording =
            recorded(&lines(&[IPI, "kvm_msr: msr_write 830 = 0x1000000fb", IPI, "kvm_eoi: apicid 0 vector 1"]));
        assert_eq!(written(&recording), "IM");
    }

    #[test]
    fn inhibits_come_from_any_thread_of_the_process() {
        let text = format!(
            "{}qemu 5/6 [001] 2.000000: kvm:kvm_apicv_inhibit_changed: set reason=5, inhibits=0x20\n\
             qemu 8/9 [001] 3.000000: kvm:kvm_apicv_inhibit_changed: cleared reason=1, inhibits=0x0\n",
            lines(&[IPI]).replace("qemu 7", "qemu 5/7")
        );
        let change =
            |time_ns, process, reason, set, inhibits| InhibitChange { time_ns, process, reason, set, inhibits };
        let first = change(2_000_000_000, Some(5), 5, true, 0x20);
        let recording = recorded(&text);
        assert_eq!(recording.inhibits, [first, change(3_000_000_000, Some(8), 1, false, 0)]);
        assert_eq!(recording.vcpus.len(), 1, "a thread that only changes an inhibit runs no vCPU");
        let only = Options { process: Some(5), ..Options::default() };
        assert_eq!(read_text(&text, &only).unwrap().inhibits, [first]);
    }

    #[test]
    fn a_rewritten_id_is_kept() {
        let recording = recorded(&lines(&["kvm_mmio: mmio write len 4 gpa 0xfee00020 val 0x7000000", IPI]));
        assert_eq!(recording.vcpus[0].id_written, Some(7));
        assert_eq!(recording.vcpus[0].apic_id, 0, "what KVM's table goes by stays");
    }

    #[test]
    fn paravirtual_ipis_are_counted_and_noted() {
        let recording = recorded(&lines(&[
            IPI,
            "kvm_hypercall: nr 0xa a0 0x6 a1 0x1 a2 0x0 a3 0xfb",
            "kvm_hypercall: nr 0xa a0 0x2 a1 0x0 a2 0x0 a3 0x400",
            "kvm_hypercall: nr 0xa a0 0x2 a1 0x0 a2 0x0 a3 0xfb",
            "kvm_hypercall: nr 0x5 a0 0x7 a1 0x0 a2 0x0 a3 0x0",
        ]));
        let ipis = |icr_low, calls, targets| HypercallIpis { icr_low, calls, targets };
        assert_eq!(recording.hypercalls, [ipis(0xFB, 2, 4), ipis(0x400, 1, 1)]);
        assert!(
            recording.notes.iter().any(|note| note.starts_with("3 hypercalls KVM_HC_SEND_IPI")),
            "{:?}",
            recording.notes
        );
    }
}
