//! The host side's IPIs: in time order, with sender and with how each was written.

use super::host::Host;
use super::mode::Timeline;
use super::recording::{Ipis, ViaEvidence};
use super::vcpus::Vcpus;
use super::via::{self, Basis, Facts};
use std::collections::BTreeMap;

/// The IPIs of a host-side recording, decided.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) ipis: Ipis,
    pub(super) evidence: ViaEvidence,
    /// vCPUs with IPIs whose mode was assumed, by index.
    pub(super) assumed: Vec<bool>,
    /// IPIs of threads that run no known vCPU; they are not in `ipis`.
    pub(super) unidentified: u64,
}

impl Sent {
    /// Decides all of them.
    pub(super) fn decide(host: &Host, vcpus: &Vcpus, facts: Facts) -> Self {
        let mut rows: Vec<_> = host.rows.iter().collect();
        rows.sort_by_key(|row| row.time_ns);
        let machines = machines(host, vcpus);
        let nothing = Timeline::default();
        let mut sent = Self {
            ipis: Ipis::with_capacity(rows.len()),
            evidence: ViaEvidence::default(),
            assumed: vec![false; vcpus.list.len()],
            unidentified: 0,
        };
        for row in rows {
            let thread = host.threads.get(row.thread as usize);
            let (Some(thread), Some(index)) = (thread, vcpus.index_of(row.thread as usize)) else {
                sent.unidentified += 1;
                continue;
            };
            let vm = vcpus.list.get(index as usize).and_then(|vcpu| machines.get(&vcpu.vm)).unwrap_or(&nothing);
            let (via, basis) = via::decide(row, &thread.modes, vm, facts);
            match basis {
                Basis::Recorded => sent.evidence.recorded += 1,
                Basis::Inferred => sent.evidence.inferred += 1,
                Basis::Assumed => {
                    sent.evidence.assumed += 1;
                    sent.assumed[index as usize] = true;
                }
            }
            sent.ipis.push(row.time_ns, index, row.icr_low, row.destination, via);
        }
        sent
    }
}

/// What the vCPUs of each virtual machine show of its mode, together.
fn machines(host: &Host, vcpus: &Vcpus) -> BTreeMap<u32, Timeline> {
    let mut members: BTreeMap<u32, Vec<&Timeline>> = BTreeMap::new();
    for (index, thread) in host.threads.iter().enumerate() {
        let vcpu = vcpus.index_of(index).and_then(|index| vcpus.list.get(index as usize));
        if let Some(vcpu) = vcpu {
            members.entry(vcpu.vm).or_default().push(&thread.modes);
        }
    }
    members.into_iter().map(|(vm, members)| (vm, Timeline::merged(members.into_iter()))).collect()
}
