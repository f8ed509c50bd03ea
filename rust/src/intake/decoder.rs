//! From a tracepoint's bytes to an [`Event`], through the fields that the recording itself describes.

use super::event::{Callback, CpuMask, Event};
use super::names::Kind;
use super::tracing_data::{Field, Tracepoint};

/// `kvm_mmio` types. Type 0 is a read that userspace is yet to answer: its value is not known.
const MMIO_READ: u64 = 1;
const MMIO_WRITE: u64 = 2;

/// Reads one tracepoint's records.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decoder {
    ApicIpi { icr_low: Field, dest_id: Field },
    Entry { vcpu_id: Field },
    AcceptIrq { apicid: Field },
    Acts,
    Msr { write: Field, ecx: Field, data: Field, exception: Field },
    Mmio { kind: Field, gpa: Field, val: Field },
    Eoi { apicid: Field },
    Hypercall { nr: Field },
    SendCpu { cpu: Field, callback: Field },
    SendCpumask { cpumask: Field, callback: Field },
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
            Kind::Exit => field("vcpu_id").map_or(Self::Acts, |vcpu_id| Self::Entry { vcpu_id }),
            Kind::AcceptIrq => Self::AcceptIrq { apicid: field("apicid")? },
            Kind::Wakeup => Self::Acts,
            Kind::Msr => Self::Msr {
                write: field("write")?,
                ecx: field("ecx")?,
                data: field("data")?,
                exception: field("exception")?,
            },
            Kind::Mmio => Self::Mmio { kind: field("type")?, gpa: field("gpa")?, val: field("val")? },
            Kind::Eoi => Self::Eoi { apicid: field("apicid")? },
            Kind::Hypercall => Self::Hypercall { nr: field("nr")? },
            Kind::SendCpu => Self::SendCpu { cpu: field("cpu")?, callback: field("callback")? },
            Kind::SendCpumask => Self::SendCpumask { cpumask: field("cpumask")?, callback: field("callback")? },
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
            Self::Acts => Event::Acts,
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
            Self::Hypercall { nr } => Event::Hypercall { number: nr.read(record)? },
            Self::SendCpu { cpu, callback } => {
                Event::SendCpu { target: cpu.read_u32(record)?, callback: address(callback.read(record)?) }
            }
            Self::SendCpumask { cpumask, callback } => Event::SendCpumask {
                targets: CpuMask::Bitmap(cpumask.read_dynamic(record)?),
                callback: address(callback.read(record)?),
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
        let new = decoder("kvm_exit", &[("exit_reason", 4), ("vcpu_id", 4)]).unwrap();
        assert_eq!(new.decode(&record(&[1, 3])), Some(Event::RunsVcpu { vcpu_id: 3 }));
        let old = decoder("kvm_exit", &[("exit_reason", 4)]).unwrap();
        assert_eq!(old.decode(&record(&[1])), Some(Event::Acts));
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
