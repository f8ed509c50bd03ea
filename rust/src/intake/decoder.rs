//! From a tracepoint's bytes to an [`Event`], through the fields that the recording itself describes.

use super::event::{Callback, CpuMask, Event};
use super::names::Kind;
use super::tracing_data::{Field, Tracepoint};

/// `kvm_mmio` types. Type 0 is a read that userspace is yet to answer: its value is not known.
const MMIO_READ: u64 = 1;
const MMIO_WRITE: u64 = 2;

/// HLT among the exit reasons, by `isa`: VMX (SDM appendix C) and SVM (APM volume 2, appendix C).
const HLT: [(u64, u64); 2] = [(1, 12), (2, 0x78)];
/// The part of `prev_state` that says what a thread waits for; none of it set: it could go on. A preempted one has a bit
/// above (`TASK_REPORT_MAX`).
const WAITS: u64 = 0xFF;

/// Reads one tracepoint's records.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decoder {
    ApicIpi { icr_low: Field, dest_id: Field },
    Entry { vcpu_id: Field },
    Exit { vcpu_id: Option<Field>, reason: Option<(Field, Field)> },
    AcceptIrq { apicid: Field },
    Acts,
    Wakeup { ns: Field },
    Msr { write: Field, ecx: Field, data: Field, exception: Field },
    Mmio { kind: Field, gpa: Field, val: Field },
    Eoi { apicid: Field },
    Hypercall { nr: Field, arguments: [Field; 4] },
    Inhibit { reason: Field, set: Field, inhibits: Field },
    SendCpu { cpu: Field, callback: Field },
    SendCpumask { cpumask: Field, callback: Field },
    Switch { prev_pid: Field, prev_state: Field, next_pid: Field },
    Other,
}

impl Decoder {
    /// The decoder of a tracepoint.
    ///
    /// # Errors
    /// The name of a field that the tracepoint lacks.
    pub(super) fn new(tracepoint: &Tracepoint) -> Result<Self, &'static str> {
        let field = |name: &'static str| tracepoint.field(name).ok_or(name);
        Ok(match Kind::of(tracepoint.name.as_bytes()) {
            Kind::ApicIpi => Self::ApicIpi { icr_low: field("icr_low")?, dest_id: field("dest_id")? },
            Kind::Entry => Self::Entry { vcpu_id: field("vcpu_id")? },
            // Older kernels trace no vCPU here.
            Kind::Exit => {
                Self::Exit { vcpu_id: field("vcpu_id").ok(), reason: field("exit_reason").ok().zip(field("isa").ok()) }
            }
            Kind::AcceptIrq => Self::AcceptIrq { apicid: field("apicid")? },
            Kind::Wakeup => field("ns").map_or(Self::Acts, |ns| Self::Wakeup { ns }),
            Kind::Msr => Self::Msr {
                write: field("write")?,
                ecx: field("ecx")?,
                data: field("data")?,
                exception: field("exception")?,
            },
            Kind::Mmio => Self::Mmio { kind: field("type")?, gpa: field("gpa")?, val: field("val")? },
            Kind::Eoi => Self::Eoi { apicid: field("apicid")? },
            Kind::Hypercall => Self::Hypercall {
                nr: field("nr")?,
                arguments: [field("a0")?, field("a1")?, field("a2")?, field("a3")?],
            },
            Kind::Inhibit => {
                Self::Inhibit { reason: field("reason")?, set: field("set")?, inhibits: field("inhibits")? }
            }
            Kind::SendCpu => Self::SendCpu { cpu: field("cpu")?, callback: field("callback")? },
            Kind::SendCpumask => Self::SendCpumask { cpumask: field("cpumask")?, callback: field("callback")? },
            Kind::Switch => match (field("prev_pid"), field("prev_state"), field("next_pid")) {
                (Ok(prev_pid), Ok(prev_state), Ok(next_pid)) => Self::Switch { prev_pid, prev_state, next_pid },
                _ => Self::Other,
            },
            Kind::Other => Self::Other,
        })
    }

    /// The event in `record`; none if the record is too short for its fields.
    #[inline]
    pub(super) fn decode<'r>(&self, record: &'r [u8]) -> Option<Event<'r>> {
        Some(match *self {
            Self::ApicIpi { icr_low, dest_id } => Event::ApicIpi {
                icr_low: icr_low.read_u32(record)?,
                shown: u32::MAX,
                destination: dest_id.read_u32(record)?,
            },
            Self::Entry { vcpu_id } => Event::RunsVcpu { vcpu_id: vcpu_id.read_u32(record)? },
            Self::AcceptIrq { apicid } => Event::AcceptIrq { vcpu_id: apicid.read_u32(record)? },
            Self::Exit { vcpu_id, reason } => Event::Exits {
                vcpu_id: match vcpu_id {
                    Some(vcpu_id) => Some(vcpu_id.read_u32(record)?),
                    None => None,
                },
                halts: match reason {
                    Some((reason, isa)) => HLT.contains(&(isa.read(record)?, reason.read(record)?)),
                    None => false,
                },
            },
            Self::Acts => Event::Acts,
            Self::Wakeup { ns } => Event::Wakeup { waited_ns: ns.read(record)? },
            Self::Msr { exception, .. } if exception.read(record)? != 0 => Event::Acts,
            Self::Msr { write, ecx, data, .. } => {
                Event::Msr { write: write.read(record)? != 0, index: ecx.read_u32(record)?, value: data.read(record)? }
            }
            Self::Mmio { kind, gpa, val } => match kind.read(record)? {
                kind @ (MMIO_READ | MMIO_WRITE) => {
                    Event::Mmio { write: kind == MMIO_WRITE, address: gpa.read(record)?, value: val.read(record)? }
                }
                _ => Event::Acts,
            },
            Self::Eoi { apicid } => Event::Eoi { vcpu_id: apicid.read_u32(record)? },
            Self::Hypercall { nr, arguments: [a0, a1, a2, a3] } => Event::Hypercall {
                number: nr.read(record)?,
                arguments: [a0.read(record)?, a1.read(record)?, a2.read(record)?, a3.read(record)?],
            },
            Self::Inhibit { reason, set, inhibits } => Event::Inhibit {
                reason: reason.read_u32(record)?,
                set: set.read(record)? != 0,
                inhibits: inhibits.read(record)?,
            },
            Self::SendCpu { cpu, callback } => {
                Event::SendCpu { target: cpu.read_u32(record)?, callback: address(callback.read(record)?) }
            }
            Self::SendCpumask { cpumask, callback } => Event::SendCpumask {
                targets: CpuMask::Bitmap(cpumask.read_dynamic(record)?),
                callback: address(callback.read(record)?),
            },
            Self::Switch { prev_pid, prev_state, next_pid } => Event::Switch {
                from: prev_pid.read_u32(record)?,
                runnable: prev_state.read(record)? & WAITS == 0,
                to: next_pid.read_u32(record)?,
            },
            Self::Other => Event::Other,
        })
    }
}

fn address(callback: u64) -> Callback {
    if callback == 0 { Callback::Null } else { Callback::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tracepoint whose fields follow each other from byte 8.
    fn decoder(name: &str, fields: &[(&str, usize)]) -> Result<Decoder, &'static str> {
        let mut offset = 8;
        let field = |(name, size): &(&str, usize)| {
            offset += size;
            format!("\tfield:u32 {name};\toffset:{};\tsize:{size};\tsigned:0;\n", offset - size)
        };
        let fields: String = fields.iter().map(field).collect();
        let format = format!("name: {name}\nID: 1\nformat:\n{fields}");
        Decoder::new(&Tracepoint::parse(&format).unwrap())
    }

    /// A record of 32-bit words behind the common fields.
    fn record(words: &[u32]) -> Vec<u8> {
        [0, 0].iter().chain(words).flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_faulted_access_did_not_happen() {
        let decoder = decoder("kvm_msr", &[("write", 4), ("ecx", 4), ("data", 8), ("exception", 1)]).unwrap();
        let write = Event::Msr { write: true, index: 0x830, value: 2 << 32 | 0xFB };
        assert_eq!(decoder.decode(&record(&[1, 0x830, 0xFB, 2, 0])), Some(write));
        assert_eq!(decoder.decode(&record(&[1, 0x830, 0xFB, 2, 1])), Some(Event::Acts));
    }

    #[test]
    fn a_read_without_its_answer_shows_nothing() {
        let decoder = decoder("kvm_mmio", &[("type", 4), ("len", 4), ("gpa", 8), ("val", 8)]).unwrap();
        let access = |write| Event::Mmio { write, address: 0xFEE0_0300, value: 5 };
        for (kind, event) in [(0, Event::Acts), (1, access(false)), (2, access(true))] {
            assert_eq!(decoder.decode(&record(&[kind, 4, 0xFEE0_0300, 0, 5, 0])), Some(event));
        }
    }

    #[test]
    fn older_kernels_trace_no_vcpu_at_exits() {
        let new = decoder("kvm_exit", &[("exit_reason", 4), ("isa", 4), ("vcpu_id", 4)]).unwrap();
        let exits = |vcpu_id, halts| Some(Event::Exits { vcpu_id, halts });
        assert_eq!(new.decode(&record(&[1, 1, 3])), exits(Some(3), false));
        assert_eq!(new.decode(&record(&[12, 1, 3])), exits(Some(3), true));
        assert_eq!(new.decode(&record(&[12, 2, 3])), exits(Some(3), false), "on AMD 12 is something else");
        assert_eq!(new.decode(&record(&[0x78, 2, 3])), exits(Some(3), true));
        let old = decoder("kvm_exit", &[("exit_reason", 4)]).unwrap();
        assert_eq!(old.decode(&record(&[12])), exits(None, false));
    }

    #[test]
    fn a_thread_that_leaves_its_cpu_is_runnable_or_waits() {
        let decoder = decoder("sched_switch", &[("prev_pid", 4), ("prev_state", 8), ("next_pid", 4)]).unwrap();
        let switch = |runnable| Some(Event::Switch { from: 7, runnable, to: 8 });
        for (state, runnable) in [(0, true), (0x100, true), (1, false), (2, false)] {
            assert_eq!(decoder.decode(&record(&[7, state, 0, 8])), switch(runnable), "{state}");
        }
    }

    #[test]
    fn hypercalls_and_inhibits_are_read_whole() {
        let call = decoder("kvm_hypercall", &[("nr", 8), ("a0", 8), ("a1", 8), ("a2", 8), ("a3", 8)]).unwrap();
        let event = Event::Hypercall { number: 10, arguments: [3, 1 << 32, 4, 0xFB] };
        assert_eq!(call.decode(&record(&[10, 0, 3, 0, 0, 1, 4, 0, 0xFB, 0])), Some(event));
        let change = decoder("kvm_apicv_inhibit_changed", &[("reason", 4), ("set", 1), ("", 3), ("inhibits", 8)]);
        let event = Event::Inhibit { reason: 5, set: true, inhibits: 0x22 };
        assert_eq!(change.unwrap().decode(&record(&[5, 1, 0x22, 0])), Some(event));
    }

    #[test]
    fn a_mask_is_where_its_field_says() {
        let decoder = decoder("ipi_send_cpumask", &[("cpumask", 4), ("callback", 8)]).unwrap();
        let mask = record(&[0x0008_0014, 0, 0, 0b101, 0]);
        let targets = CpuMask::Bitmap(&[0b101, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decoder.decode(&mask), Some(Event::SendCpumask { targets, callback: Callback::Null }));
        assert_eq!(decoder.decode(&mask[..24]), None, "the mask is beyond the end");
    }

    #[test]
    fn a_missing_field_is_named() {
        assert_eq!(decoder("kvm_apic_ipi", &[("icr_low", 4)]).unwrap_err(), "dest_id");
        assert_eq!(decoder("kvm_msr", &[("write", 4), ("ecx", 4), ("data", 8)]).unwrap_err(), "exception");
    }

    #[test]
    fn a_short_record_is_none() {
        let decoder = decoder("kvm_apic_ipi", &[("icr_low", 4), ("dest_id", 4)]).unwrap();
        let whole = record(&[0xFB, 1]);
        let ipi = Event::ApicIpi { icr_low: 0xFB, shown: u32::MAX, destination: 1 };
        assert_eq!(decoder.decode(&whole), Some(ipi));
        assert_eq!(decoder.decode(&whole[..15]), None);
    }
}
