//! The shared-memory protocols of the processor under every interleaving that loom finds.
//!
//! The functions are those that the engines call; the words are loom's. Each test has a twin with one step wrong that
//! must be seen to fail. Run with `make loom`.

use super::outcome::Notice;
use super::{LocalApic, descriptor, local_apic};
use crate::arch::{PidControl, PidPointerEntry};
use crate::memory::{Line, Word};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

const NOTIFY: u8 = 0xF2;
const FIRST: u8 = 0xC1;
const SECOND: u8 = 0xC2;
const BOTH: u64 = 1 << (FIRST - 0xC0) | 1 << (SECOND - 0xC0);

/// A descriptor and the request bits of the local APIC that it notifies.
struct Target {
    pid: Line<AtomicU64>,
    requests: Line<AtomicU64>,
}

fn line() -> Line<AtomicU64> {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Target {
    fn new() -> Arc<Self> {
        let target = Self { pid: line(), requests: line() };
        descriptor::initialize(&target.pid, PidControl::new().with_vector(NOTIFY));
        Arc::new(target)
    }

    /// Steps 4 to 6 of IPI virtualization.
    fn send(&self, vector: u8) {
        descriptor::post_request(&self.pid, vector);
        if let Notice::Due(due) = descriptor::post_notification(&self.pid) {
            local_apic::request(&self.requests, due.vector);
        }
    }

    /// Steps 1 to 5 of posted-interrupt processing, on the group of the vectors sent.
    fn receive(&self, apic: &mut LocalApic<'_, AtomicU64>) -> u64 {
        if apic.acknowledge().is_none() {
            return 0;
        }
        descriptor::clear_outstanding(&self.pid);
        apic.eoi();
        descriptor::take_requests(&self.pid, 3)
    }

    /// The same with steps 3 and 5 swapped.
    fn receive_too_early(&self, apic: &mut LocalApic<'_, AtomicU64>) -> u64 {
        if apic.acknowledge().is_none() {
            return 0;
        }
        let taken = descriptor::take_requests(&self.pid, 3);
        descriptor::clear_outstanding(&self.pid);
        apic.eoi();
        taken
    }
}

/// Two senders and a receiver that looks twice while they send and once when they are done: all arrives.
fn nothing_is_lost(receive: fn(&Target, &mut LocalApic<'_, AtomicU64>) -> u64) {
    let target = Target::new();
    let senders = [FIRST, SECOND].map(|vector| {
        let target = Arc::clone(&target);
        thread::spawn(move || target.send(vector))
    });
    let mut apic = LocalApic::new(&target.requests);
    let mut taken = receive(&target, &mut apic);
    for sender in senders {
        sender.join().unwrap();
    }
    taken |= receive(&target, &mut apic);
    assert_eq!(taken, BOTH, "a posted interrupt was left behind");
    assert!(!descriptor::control(&target.pid).outstanding());
    assert!(!local_apic::pending(&target.requests));
}

#[test]
fn loom_posts_arrive() {
    loom::model(|| nothing_is_lost(Target::receive));
}

/// ON cleared after PIR was taken: a post in between finds ON = 1, sends nothing, and is never looked at.
#[test]
#[should_panic(expected = "left behind")]
fn loom_posts_are_lost_when_on_is_cleared_last() {
    loom::model(|| nothing_is_lost(Target::receive_too_early));
}

/// Two senders of one vector: one of them is told that it was set already, and one interrupt arrives.
#[test]
fn loom_one_of_two_equal_posts_coalesces() {
    loom::model(|| {
        let target = Target::new();
        let other = Arc::clone(&target);
        let sender = thread::spawn(move || descriptor::post_request(&other.pid, FIRST));
        let mine = descriptor::post_request(&target.pid, FIRST);
        assert!(mine ^ sender.join().unwrap(), "exactly one was first");
    });
}

/// Requests of a local APIC from two sides while it acknowledges: none is lost, none is made up.
#[test]
fn loom_local_apic_requests_arrive() {
    loom::model(|| {
        let requests = Arc::new(line());
        let senders = [0x31u8, 0x42].map(|vector| {
            let requests = Arc::clone(&requests);
            thread::spawn(move || local_apic::request(&*requests, vector))
        });
        let mut apic = LocalApic::new(&requests);
        let mut seen = Vec::new();
        let mut look = |apic: &mut LocalApic<'_, AtomicU64>| {
            while let Some(vector) = apic.acknowledge() {
                apic.eoi();
                seen.push(vector);
            }
        };
        look(&mut apic);
        for sender in senders {
            sender.join().unwrap();
        }
        look(&mut apic);
        seen.sort_unstable();
        assert_eq!(seen, [0x31, 0x42]);
    });
}

/// A table entry appears while a sender looks it up: nothing, or a descriptor that is complete.
fn publish(store: fn(&AtomicU64, u64)) {
    const ADDRESS: u64 = 0x1_0000_0040;
    let shared = Arc::new((AtomicU64::new(0), line()));
    let vmm = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            descriptor::initialize(&shared.1, PidControl::new().with_vector(NOTIFY));
            store(&shared.0, PidPointerEntry::to_descriptor(ADDRESS).into_bits());
        })
    };
    let entry = PidPointerEntry::from_bits(Word::load(&shared.0));
    if entry.well_formed() {
        assert_eq!(entry.address(), ADDRESS, "half an address");
        assert_eq!(descriptor::control(&shared.1).vector(), NOTIFY, "a descriptor that is not ready");
    }
    vmm.join().unwrap();
}

#[test]
fn loom_an_entry_is_published_whole() {
    loom::model(|| publish(|word, entry| Word::store(word, entry)));
}

/// Review of the series' fourth version: the store must not be split.
#[test]
#[should_panic(expected = "half an address")]
fn loom_an_entry_stored_in_halves_is_seen_torn() {
    loom::model(|| {
        publish(|word, entry| {
            let low = entry & 0xFFFF_FFFF;
            Word::store(word, low);
            Word::store(word, entry);
        });
    });
}
