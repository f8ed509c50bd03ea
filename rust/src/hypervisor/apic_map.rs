//! Among which vCPUs those are that an IPI means: not every one of a large VM has to be looked at.
//!
//! KVM: `kvm_recalculate_apic_map`, `kvm_apic_map_get_dest_lapic`. KVM makes its map anew whenever an APIC is addressed in
//! another way. Here x2APIC IDs, which stay as they are, are known from the VM's making, and a word counts the local APICs
//! in xAPIC mode: as long as there are some, a destination that may be theirs is looked for among all.

use super::identity::{ApicIdentity, X2APIC_BROADCAST, XAPIC_BROADCAST};
use super::shared::VcpuWords;
use crate::arch::{DestinationMode, Icr, Shorthand, X2ApicLdr};
use crate::memory::Word;
use std::ops::Range;

/// Which vCPU has which x2APIC ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApicMap {
    /// IDs and numbers, in the order of IDs; none if vCPU k has ID k.
    by_id: Box<[(u32, u32)]>,
    /// vCPUs that the VM was made with.
    made: u32,
    /// Numbers of those that may be added later, whose IDs are not known yet.
    spare: Range<u32>,
}

impl ApicMap {
    /// Of the vCPUs with these IDs, in the order of their numbers, and so many that may be added.
    pub(super) fn new(apic_ids: &[u32], spare: u32) -> Self {
        let made = apic_ids.len() as u32;
        let mut by_id = Vec::new();
        if !apic_ids.iter().copied().eq(0..made) {
            by_id.extend(apic_ids.iter().copied().zip(0..));
            by_id.sort_unstable();
        }
        Self { by_id: by_id.into(), made, spare: made..made + spare }
    }

    /// The vCPUs among which all are that an ICR value means, by number, lowest first; none if they may be any.
    /// `xapic`: some local APIC is in xAPIC mode.
    pub(super) fn candidates(&self, icr: Icr, sender: u32, xapic: bool) -> Option<Vec<u32>> {
        match icr.low.shorthand() {
            Shorthand::None => {}
            Shorthand::Self_ => return Some(vec![sender]),
            Shorthand::All | Shorthand::AllButSelf => return None,
        }
        let asked = icr.destination;
        // 8 bits are all that an ID in xAPIC mode has.
        let xapic_reads_it =
            xapic && (icr.low.destination_mode() == DestinationMode::Logical || asked <= XAPIC_BROADCAST);
        if asked == X2APIC_BROADCAST || xapic_reads_it {
            return None;
        }
        Some(match icr.low.destination_mode() {
            DestinationMode::Physical => self.within(asked..asked + 1),
            DestinationMode::Logical => self.within(X2ApicLdr::from_bits(asked).ids_of_cluster()),
        })
    }

    /// vCPUs with IDs in this range, and those that may be added.
    fn within(&self, ids: Range<u32>) -> Vec<u32> {
        let mut numbers: Vec<u32> = if self.by_id.is_empty() {
            (ids.start..ids.end.min(self.made)).collect()
        } else {
            let from = self.by_id.partition_point(|&(id, _)| id < ids.start);
            self.by_id[from..].iter().take_while(|&&(id, _)| id < ids.end).map(|&(_, number)| number).collect()
        };
        numbers.sort_unstable();
        numbers.extend(self.spare.clone());
        numbers
    }
}

/// The word that counts the local APICs of a VM that are in xAPIC mode.
#[derive(Debug)]
pub(super) struct XApicUsers<'m, W>(&'m W);

impl<'m, W: Word> XApicUsers<'m, W> {
    /// The count in `word`.
    pub(super) const fn new(word: &'m W) -> Self {
        Self(word)
    }

    /// Whether there are some. No: what is seen of identities afterwards is in x2APIC mode, or changed meanwhile.
    pub(super) fn any(&self) -> bool {
        self.0.load() != 0
    }

    /// Publishes how a vCPU is addressed. Who sees an identity in xAPIC mode sees it counted: it is from before it can be
    /// seen until it no longer can.
    pub(super) fn publish(&self, words: VcpuWords<'_, W>, identity: ApicIdentity) {
        let [before, after] = [words.identity(), identity].map(ApicIdentity::in_xapic_mode);
        if after && !before {
            self.0.fetch_add(1);
        }
        words.set_identity(identity);
        if before && !after {
            self.0.fetch_add(u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::routing::targets;
    use super::*;
    use crate::arch::IcrLow;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// An APIC in any mode, with an ID as it is or as its guest wrote it.
    fn identity() -> impl Strategy<Value = ApicIdentity> {
        let id = prop_oneof![0..=255u8, Just(0), Just(1), Just(0xFF)];
        (prop_oneof![8 => Just(true), 1 => Just(false)], any::<(bool, bool, u8)>(), id).prop_map(
            |(enabled, (x2apic, software, logical), id)| {
                ApicIdentity::new()
                    .with_present(true)
                    .with_enabled(enabled)
                    .with_x2apic(x2apic)
                    .with_software_enabled(software)
                    .with_logical_id(logical)
                    .with_xapic_id(id)
            },
        )
    }

    proptest! {
        /// Whoever is meant is a candidate: the vCPUs that an IPI means are the same, whether all are looked at or these.
        #[test]
        fn who_is_meant_is_among_the_candidates(
            mut identities in proptest::collection::vec(identity(), 1..70),
            distance in 0..40u32,
            shuffle in proptest::collection::vec(any::<Index>(), 0..20),
            spare in 0..3usize,
            xapic in any::<bool>(),
            low in any::<u32>(),
            destination in prop_oneof![any::<u32>(), 0..0x120u32, Just(u32::MAX), (0..4u32, any::<u16>()).prop_map(|(c, m)| c << 16 | u32::from(m))],
            sender in any::<Index>(),
        ) {
            // From 0 on as they usually are, or beyond each other; in any order if they are shuffled.
            let mut ids: Vec<u32> = (0..identities.len() as u32).map(|number| number * (distance / 8).max(1)).collect();
            for (at, with) in shuffle.iter().enumerate().filter(|_| distance % 2 == 1) {
                let (at, with) = (at % ids.len(), with.index(ids.len()));
                ids.swap(at, with);
            }
            for (identity, id) in identities.iter_mut().zip(&ids) {
                *identity = identity.with_x2apic_id(*id).with_x2apic(identity.x2apic() || !xapic);
            }
            let made = ids.len() - spare.min(ids.len() - 1);
            let map = ApicMap::new(&ids[..made], (ids.len() - made) as u32);
            let (icr, sender) = (Icr { low: IcrLow::from_bits(low), destination }, sender.index(ids.len()) as u32);
            let all = || (0..).zip(identities.iter().copied());
            let users = identities.iter().any(|identity| identity.in_xapic_mode());
            if let Some(candidates) = map.candidates(icr, sender, users) {
                prop_assert!(candidates.len() <= 16 + spare, "{} are many", candidates.len());
                let narrowed = candidates.iter().map(|&number| (number, identities[number as usize]));
                prop_assert_eq!(targets(icr, sender, narrowed), targets(icr, sender, all()));
            }
        }
    }

    #[test]
    fn one_or_a_cluster_is_looked_at() {
        let (ids, physical) = ([0, 1, 0x20, 0x13, 0x12], |id| Icr::from_x2apic(u64::from(id) << 32 | 0x41));
        let logical = |bits: u64| Icr::from_x2apic(bits << 32 | 0x841);
        let map = ApicMap::new(&ids, 1);
        assert_eq!(map.candidates(physical(0x20u32), 0, false), Some(vec![2, 5]));
        assert_eq!(map.candidates(physical(7), 0, false), Some(vec![5]), "who is added may have any ID");
        assert_eq!(map.candidates(logical(0x1_FFFF), 0, false), Some(vec![3, 4, 5]), "by number, not by ID");
        assert_eq!((map.candidates(physical(1), 0, true), map.candidates(logical(0x1_0001), 0, true)), (None, None));
        assert_eq!(map.candidates(physical(u32::MAX), 0, false), None, "broadcast");
        assert_eq!(map.candidates(Icr::to_self(0x41), 3, true), Some(vec![3]));
        let plain = ApicMap::new(&[0, 1, 2], 0);
        assert_eq!((plain.candidates(physical(1), 0, false), plain.by_id.len()), (Some(vec![1]), 0));
        assert_eq!(plain.candidates(physical(0x100), 0, true), Some(vec![]), "xAPIC IDs have 8 bits");
    }

    #[test]
    fn local_apics_in_xapic_mode_are_counted_while_they_are() {
        use std::cell::Cell;
        let (count, line) = (Cell::new(0), std::array::from_fn(|_| Cell::new(0)));
        let (users, words) = (XApicUsers::new(&count), VcpuWords::new(&line));
        let xapic = ApicIdentity::new().with_present(true).with_enabled(true);
        for (identity, counted) in [
            (xapic, 1),
            (xapic.with_xapic_id(7), 1),
            (xapic.with_enabled(false), 0),
            (xapic.with_x2apic(true), 0),
            (xapic, 1),
            (ApicIdentity::new(), 0),
        ] {
            users.publish(words, identity);
            assert_eq!((count.get(), words.identity()), (counted, identity));
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::memory::Line;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;

    struct Shared {
        count: AtomicU64,
        line: Line<AtomicU64>,
    }

    impl Shared {
        fn publish(&self, identity: ApicIdentity) {
            XApicUsers::new(&self.count).publish(VcpuWords::new(&self.line), identity);
        }
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared { count: AtomicU64::new(0), line: std::array::from_fn(|_| AtomicU64::new(0)) })
    }

    const XAPIC: ApicIdentity = ApicIdentity::new().with_present(true).with_enabled(true).with_xapic_id(5);

    /// A vCPU goes to xAPIC mode: who sees that, or is told of it, looks for an IPI's destination among all.
    #[test]
    fn loom_who_sees_xapic_mode_looks_at_all() {
        loom::model(|| {
            let shared = shared();
            let other = Arc::clone(&shared);
            let sender = loom::thread::spawn(move || {
                if VcpuWords::new(&other.line).identity().in_xapic_mode() {
                    assert!(XApicUsers::new(&other.count).any());
                }
            });
            shared.publish(XAPIC);
            sender.join().unwrap();
        });
    }

    /// A vCPU leaves xAPIC mode: who finds nobody in it sees how it is addressed now.
    #[test]
    fn loom_who_finds_nobody_in_xapic_mode_sees_the_new_identity() {
        loom::model(|| {
            let shared = shared();
            shared.publish(XAPIC);
            let other = Arc::clone(&shared);
            let sender = loom::thread::spawn(move || {
                if !XApicUsers::new(&other.count).any() {
                    assert!(VcpuWords::new(&other.line).identity().x2apic());
                }
            });
            shared.publish(XAPIC.with_x2apic(true));
            sender.join().unwrap();
        });
    }
}
