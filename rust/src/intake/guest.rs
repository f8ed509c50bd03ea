//! Guest side: Linux's own tracepoints, recorded inside a guest or on bare metal.
//!
//! They name the sender (the CPU that the event was recorded on), the target and a callback, and not what was written to
//! the ICR. So the ICR is rebuilt as Linux writes it: fixed, physical, edge, level de-assert, with the vector that goes
//! with the callback:
//!
//! | event | callback | vector |
//! |---|---|---|
//! | either | none | 253, reschedule |
//! | `ipi_send_cpu` to the own CPU | another function | 246, irq_work: WRMSR 83FH, or in xAPIC mode shorthand self |
//! | `ipi_send_cpu` | `generic_smp_call_function_single_interrupt` or another function | 251, one function call |
//! | `ipi_send_cpumask` | any | 252, function calls |
//!
//! In perf.data the callback is an address. No symbol is needed to tell these apart: a CPU never sends itself a function
//! call, it calls the function.

use super::absences::{Evidence, Found};
use super::event::{Callback, CpuMask, Event, Sample};
use super::recording::{Ipis, Options, RecordedVcpu, Via};
use super::vcpus::MAX_VCPUS;
use crate::arch::icr::{IcrLow, Shorthand};
use rustc_hash::FxHashMap;

const IRQ_WORK_VECTOR: u8 = 246;
const CALL_FUNCTION_SINGLE_VECTOR: u8 = 251;
const CALL_FUNCTION_VECTOR: u8 = 252;
const RESCHEDULE_VECTOR: u8 = 253;

#[derive(Clone, Copy, Debug)]
struct Row {
    time_ns: u64,
    sender: u32,
    target: u32,
    vector: u8,
}

/// Collects the guest side.
#[derive(Debug, Default)]
pub(super) struct Guest {
    rows: Vec<Row>,
    /// `ipi_send_cpumask` records, and the IPIs made of them.
    pub(super) masks: (u64, u64),
    /// IPIs of unknown sender.
    pub(super) without_cpu: u64,
    /// Masks that could not be read.
    pub(super) bad_masks: u64,
    highest_cpu: u32,
    /// When CPUs were idle; who they are is the CPU's number.
    pub(super) absences: Vec<Found>,
    keeps_absences: bool,
    idle_since: FxHashMap<u32, u64>,
}

impl Guest {
    pub(super) fn new(keeps_absences: bool) -> Self {
        Self { keeps_absences, ..Self::default() }
    }

    /// Takes one record in.
    #[inline]
    pub(super) fn take(&mut self, sample: &Sample) {
        if let (Event::Switch { from, to, .. }, Some(cpu)) = (sample.event, sample.cpu) {
            return self.switched(sample.time_ns, cpu, from, to);
        }
        let (Event::SendCpu { .. } | Event::SendCpumask { .. }) = sample.event else { return };
        let Some(sender) = sample.cpu else {
            self.without_cpu += 1;
            return;
        };
        match sample.event {
            Event::SendCpu { target, callback } => {
                let vector = match callback {
                    Callback::Null => RESCHEDULE_VECTOR,
                    Callback::Other if target == sender => IRQ_WORK_VECTOR,
                    Callback::Other | Callback::CallFunction => CALL_FUNCTION_SINGLE_VECTOR,
                };
                self.push(sample.time_ns, sender, target, vector);
            }
            Event::SendCpumask { targets, callback } => self.push_mask(sample.time_ns, sender, targets, callback),
            _ => {}
        }
    }

    /// A CPU goes from one thread to another; thread 0 is its idle task.
    fn switched(&mut self, time_ns: u64, cpu: u32, from: u32, to: u32) {
        if !self.keeps_absences {
            return;
        }
        if to == 0 {
            self.idle_since.insert(cpu, time_ns);
        } else if let Some(from_ns) = self.idle_since.remove(&cpu).filter(|_| from == 0) {
            self.absences.push(Found { who: cpu, from_ns, until_ns: time_ns, evidence: Evidence::IdleTask });
        }
    }

    fn push_mask(&mut self, time_ns: u64, sender: u32, targets: CpuMask, callback: Callback) {
        let vector = if callback == Callback::Null { RESCHEDULE_VECTOR } else { CALL_FUNCTION_VECTOR };
        let before = self.rows.len();
        if targets.for_each(|target| self.push(time_ns, sender, target, vector)) {
            self.masks.0 += 1;
            self.masks.1 += (self.rows.len() - before) as u64;
        } else {
            self.rows.truncate(before);
            self.bad_masks += 1;
        }
    }

    fn push(&mut self, time_ns: u64, sender: u32, target: u32, vector: u8) {
        self.highest_cpu = self.highest_cpu.max(sender).max(target);
        self.rows.push(Row { time_ns, sender, target, vector });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Forgets everything: the recording has a host side.
    pub(super) fn clear(&mut self) {
        self.rows = Vec::new();
        self.absences = Vec::new();
    }

    /// The vCPUs: CPU `k` is vCPU `k`.
    ///
    /// # Errors
    /// Their number, if there are more than [`MAX_VCPUS`].
    pub(super) fn vcpus(&self, options: &Options) -> Result<Vec<RecordedVcpu>, u64> {
        let count = (u64::from(self.highest_cpu) + 1).max(options.vcpus.map_or(0, u64::from));
        if count > MAX_VCPUS {
            return Err(count);
        }
        let vcpu = |cpu| RecordedVcpu {
            vm: 0,
            vcpu_id: cpu,
            apic_id: options.given_apic_id(cpu).unwrap_or(cpu),
            thread: None,
            process: None,
            name: format!("CPU {cpu}"),
            id_written: None,
        };
        Ok((0..count as u32).map(vcpu).collect())
    }

    /// The IPIs in time order, as Linux would have written them in the mode that `options` names.
    pub(super) fn ipis(mut self, vcpus: &[RecordedVcpu], options: &Options) -> Ipis {
        self.rows.sort_by_key(|row| row.time_ns);
        let mut ipis = Ipis::with_capacity(self.rows.len());
        for row in &self.rows {
            let target = vcpus.get(row.target as usize).map_or(row.target, |vcpu| vcpu.apic_id);
            let plain = IcrLow::new().with_vector(row.vector);
            let (icr, destination, via) = match (row.vector, options.assume_x2apic()) {
                (IRQ_WORK_VECTOR, true) => (plain, 0, Via::SelfIpiMsr),
                (IRQ_WORK_VECTOR, false) => (plain.with_shorthand(Shorthand::Self_), 0, Via::Mmio),
                (_, true) => (plain, target, Via::X2ApicIcr),
                (_, false) => (plain, target, Via::Mmio),
            };
            ipis.push(row.time_ns, row.sender, icr.into_bits(), destination, via);
        }
        ipis
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_text, recorded, skipped, written};
    use super::super::{Options, Side};
    use crate::arch::ApicMode;

    const TEXT: &str = "a 1 [001] 1.1: ipi:ipi_send_cpu: cpu=0 callsite=x+0x1 callback=0x0\n\
        a 1 [001] 1.2: ipi:ipi_send_cpu: cpu=3 callsite=x+0x1 callback=generic_smp_call_function_single_interrupt+0x0\n\
        a 1 [002] 1.3: ipi:ipi_send_cpu: cpu=2 callsite=x+0x1 callback=irq_work_f+0x0\n\
        a 1 [000] 1.4: ipi:ipi_send_cpumask: cpumask=e callsite=x+0x1 callback=generic_smp_call_function_single_interrupt+0x0\n";

    #[test]
    fn the_icr_is_rebuilt_for_x2apic_mode() {
        let recording = recorded(TEXT);
        assert_eq!((recording.side, recording.vcpus.len()), (Side::Guest, 4));
        assert_eq!(recording.ipis.sender, [1, 1, 2, 0, 0, 0]);
        assert_eq!(recording.ipis.icr_low, [253, 251, 246, 252, 252, 252]);
        assert_eq!(recording.ipis.destination, [0, 3, 0, 1, 2, 3]);
        assert_eq!(written(&recording), "IISIII");
        assert!(
            recording.notes.iter().any(|note| note.starts_with("1 ipi_send_cpumask records became 3")),
            "{:?}",
            recording.notes
        );
    }

    #[test]
    fn the_icr_is_rebuilt_for_xapic_mode() {
        let options = Options {
            assume: ApicMode::XApic,
            apic_mode_given: true,
            apic_ids: Some(vec![8, 9, 10, 11]),
            ..Options::default()
        };
        let recording = read_text(TEXT, &options).unwrap();
        assert_eq!(recording.ipis.icr_low, [253, 251, 0x400F6, 252, 252, 252]);
        assert_eq!(recording.ipis.destination, [8, 11, 0, 9, 10, 11]);
        assert_eq!(written(&recording), "MMMMMM");
        assert!(recording.notes[0].contains("xAPIC mode (as given)"), "{:?}", recording.notes);
    }

    #[test]
    fn a_host_side_wins() {
        let ipi = "q 9 [0] 1.1: kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)\n";
        for text in [format!("{TEXT}{ipi}"), format!("{ipi}{TEXT}")] {
            let recording = recorded(&text);
            assert_eq!((recording.side, recording.ipis.len()), (Side::Host, 1));
            assert_eq!(recording.records["ipi_send_cpu"], 3);
        }
    }

    #[test]
    fn what_cannot_be_placed_is_counted() {
        let recording = recorded(&format!(
            "{TEXT}a 1 1.5: ipi:ipi_send_cpu: cpu=0 callsite=x callback=0x0\n\
            a 1 [000] 1.6: ipi:ipi_send_cpumask: cpumask=zz callsite=x callback=0x0\n"
        ));
        assert_eq!(recording.ipis.len(), 6);
        assert_eq!((skipped(&recording, "without the CPU"), skipped(&recording, "mask could not be read")), (1, 1));
    }
}
