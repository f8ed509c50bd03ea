//! Whom each interrupt of a recording means.
//!
//! A recording has the ICR, not the local APICs. In physical mode and in x2APIC mode the APIC IDs say all; a logical
//! destination in xAPIC mode is read as Linux sets the APICs up: the flat model, and bit k of the logical ID for the k-th vCPU of its VM.

use crate::arch::{ApicMode, Icr, IcrLow};
use crate::guest::Via;
use crate::hypervisor::{ApicIdentity, Message, targets};
use crate::intake::Recording;
use rustc_hash::FxHashMap;

/// Whom the interrupts of a recording mean: sets of vCPUs, each once, and the set of each interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Sets of vCPUs: indices into [`Recording::vcpus`], ascending.
    pub sets: Vec<Vec<u32>>,
    /// For each interrupt, an index into `sets`.
    pub of: Vec<u32>,
    /// Some destinations are logical ones of xAPIC mode.
    pub flat_assumed: bool,
}

/// Whom the interrupts of a recording mean.
#[must_use]
pub fn targets_of(recording: &Recording) -> Targets {
    let ipis = &recording.ipis;
    let mut found = Targets::default();
    let mut numbers: FxHashMap<Vec<u32>, u32> = FxHashMap::default();
    let mut known: FxHashMap<(u32, u32, u32, Via), u32> = FxHashMap::default();
    for (((&sender, &low), &destination), &via) in
        ipis.sender.iter().zip(&ipis.icr_low).zip(&ipis.destination).zip(&ipis.via)
    {
        let number = *known.entry((sender, low, destination, via)).or_insert_with(|| {
            let icr = Icr { low: IcrLow::from_bits(low), destination };
            let set = if via == Via::SelfIpiMsr { vec![sender] } else { meant(recording, icr, sender, via) };
            *numbers.entry(set).or_insert_with_key(|set| {
                found.sets.push(set.clone());
                found.sets.len() as u32 - 1
            })
        });
        found.of.push(number);
        found.flat_assumed |= via == Via::Mmio && reads_logical(IcrLow::from_bits(low));
    }
    found
}

fn reads_logical(low: IcrLow) -> bool {
    use crate::arch::{DestinationMode, Shorthand};
    low.shorthand() == Shorthand::None && low.destination_mode() == DestinationMode::Logical
}

fn meant(recording: &Recording, icr: Icr, sender: u32, via: Via) -> Vec<u32> {
    let Some(vm) = recording.vcpus.get(sender as usize).map(|vcpu| vcpu.vm) else { return Vec::new() };
    if Message::of(icr.low).is_none() {
        return Vec::new();
    }
    let of_vm = (0u32..).zip(&recording.vcpus).filter(|(_, vcpu)| vcpu.vm == vm);
    let vcpus = (0u32..).zip(of_vm).map(|(number, (index, vcpu))| {
        let logical_id = 1u8.checked_shl(number).unwrap_or(0);
        let identity = ApicIdentity::new()
            .with_present(true)
            .with_enabled(true)
            .with_software_enabled(true)
            .with_x2apic(via.mode() == ApicMode::X2Apic)
            .with_xapic_id(vcpu.apic_id as u8)
            .with_logical_id(logical_id)
            .with_x2apic_id(vcpu.apic_id);
        (index, identity)
    });
    let mut meant = targets(icr, sender, vcpus);
    meant.sort_unstable();
    meant
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::{Options, read};
    use std::path::Path;

    fn of(name: &str) -> (Recording, Targets) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        let recording = read(&path, &Options::default()).unwrap();
        let targets = targets_of(&recording);
        assert_eq!(targets.of.len(), recording.ipis.len());
        (recording, targets)
    }

    #[test]
    fn of_two_vcpus_each_sends_to_the_other() {
        let (recording, targets) = of("linux-boot-long-x2apic-smp2.perf.data");
        assert!(!targets.flat_assumed);
        let mut to_nobody = 0;
        for (&sender, &set) in recording.ipis.sender.iter().zip(&targets.of) {
            let set = &targets.sets[set as usize];
            to_nobody += usize::from(set.is_empty());
            assert!(set.is_empty() || *set == [1 - sender]);
        }
        assert_eq!(to_nobody, 1, "INIT level de-assert");
    }

    #[test]
    fn logical_destinations_of_xapic_are_flat() {
        let (mut recording, targets) = of("linux-boot-long-xapic-smp2.perf.data");
        assert!(targets.flat_assumed);
        let logical = |at: &usize| reads_logical(IcrLow::from_bits(recording.ipis.icr_low[*at]));
        let first = (0..recording.ipis.len()).find(logical).unwrap();
        let bits = recording.ipis.destination[first];
        let set = &targets.sets[targets.of[first] as usize];
        assert_eq!(set.iter().map(|vcpu| 1 << vcpu).sum::<u32>(), bits & 0b11);
        // Linux gives bits to processors one after the other, whatever their numbers are.
        recording.vcpus[1].vcpu_id = 4;
        assert_eq!(targets_of(&recording), targets);
    }
}
