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
