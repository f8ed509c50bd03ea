//! The shipped policies under every interleaving that loom finds: one vCPU that enters its guest or goes to sleep,
//! against senders. Routines, acts and software post are those that the engines run; the words are loom's.

use super::super::shared::{Mode, TaskState, VcpuWords};
use super::{HostVector, Platform, Policy, Routine};
use crate::arch::PidControl;
use crate::memory::Line;
use crate::processor::{LocalApic, Notice, descriptor, local_apic};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

const FIRST: u8 = 0xC1;
const SECOND: u8 = 0xC2;
/// The group of PIR that both are in, and their bits there.
const GROUP: usize = 3;
const BOTH: u64 = 1 << (FIRST - 0xC0) | 1 << (SECOND - 0xC0);

/// A vCPU's descriptor and words, and its pCPU's local APIC.
struct Shared {
    pid: Line<AtomicU64>,
    words: Line<AtomicU64>,
    requests: Line<AtomicU64>,
}

/// Only the words that a test uses are made: loom follows each of them.
fn line() -> Line<AtomicU64> {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Shared {
    fn new() -> Arc<Self> {
        let shared = Self { pid: line(), words: line(), requests: line() };
        descriptor::initialize(&shared.pid, PidControl::new().with_vector(HostVector::Notify.vector()));
        Arc::new(shared)
    }

    fn words(&self) -> VcpuWords<'_, AtomicU64> {
        VcpuWords::new(&self.words)
    }

    /// IPI virtualization, steps 4 to 6.
    fn post(&self, vector: u8) {
        descriptor::post_request(&self.pid, vector);
        if let Notice::Due(due) = descriptor::post_notification(&self.pid) {
            local_apic::request(&self.requests, due.vector);
        }
    }
}

/// A side of the protocol: the vCPU's own pCPU, or another that posts in software.
struct Side<'a> {
    shared: &'a Shared,
    own: bool,
    listed: bool,
    walked: bool,
    vector: u8,
    taken: u64,
}

impl<'a> Side<'a> {
    fn own(shared: &'a Shared) -> Self {
        Self { shared, own: true, listed: false, walked: false, vector: 0, taken: 0 }
    }

    fn poster(shared: &'a Shared, vector: u8) -> Self {
        Self { own: false, vector, ..Self::own(shared) }
    }
}

impl Platform for Side<'_> {
    type W = AtomicU64;
    fn descriptor(&self) -> &Line<AtomicU64> {
        &self.shared.pid
    }
    fn words(&self) -> VcpuWords<'_, AtomicU64> {
        self.shared.words()
    }
    fn here(&self) -> u32 {
        0
    }
    fn same_pcpu(&self) -> bool {
        true
    }
    fn ipiv(&self) -> bool {
        true
    }
    fn device_posting(&self) -> bool {
        false
    }
    fn myself(&self) -> bool {
        self.own
    }
    fn listed(&self) -> bool {
        self.listed
    }
    fn vector(&self) -> u8 {
        self.vector
    }
    fn harvest(&mut self) {
        self.taken |= descriptor::take_requests(&self.shared.pid, GROUP);
    }
    fn list_add(&mut self) {
        self.listed = true;
    }
    fn list_del(&mut self) {
        self.listed = false;
    }
    fn next_listed(&mut self) -> bool {
        self.listed && !std::mem::replace(&mut self.walked, true)
    }
    fn self_ipi(&mut self, vector: HostVector) {
        local_apic::request(&self.shared.requests, vector.vector());
    }
    fn ipi(&mut self, vector: HostVector) {
        local_apic::request(&self.shared.requests, vector.vector());
    }
    fn blocking(&self) -> bool {
        false
    }
    fn wake(&mut self) {
        self.shared.words().set_task(TaskState::Running);
    }
}

/// What the senders' threads run.
type Sender = fn(&Policy, &Shared, u8);

fn by_ipi_virtualization(_: &Policy, shared: &Shared, vector: u8) {
    shared.post(vector);
}

fn in_software(policy: &Policy, shared: &Shared, vector: u8) {
    policy.run(Routine::SoftwarePost, &mut Side::poster(shared, vector));
}

fn senders(policy: &std::sync::Arc<Policy>, shared: &Arc<Shared>, kinds: [Sender; 2]) -> [thread::JoinHandle<()>; 2] {
    let start = |(send, vector): (Sender, u8)| {
        let (policy, shared) = (std::sync::Arc::clone(policy), Arc::clone(shared));
        thread::spawn(move || send(&policy, &shared, vector))
    };
    [(kinds[0], FIRST), (kinds[1], SECOND)].map(start)
}

/// The guest is in its guest: it processes what its local APIC has.
fn in_guest(own: &mut Side<'_>, apic: &mut LocalApic<'_, AtomicU64>) {
    while let Some(vector) = apic.acknowledge() {
        apic.eoi();
        if vector == HostVector::Notify.vector() {
            descriptor::clear_outstanding(&own.shared.pid);
            own.harvest();
        }
    }
}

/// How far loom goes: all interleavings, or those with at most so many preemptions where all would take hours.
#[derive(Clone, Copy)]
enum Depth {
    Exhaustive,
    Preemptions(usize),
}

fn explore(depth: Depth, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    if let Depth::Preemptions(bound) = depth {
        builder.preemption_bound = Some(bound);
    }
    builder.check(model);
}

/// A vCPU enters its guest while two senders post: once it is in, all arrives without another entry.
fn entering(policy: &str, kinds: [Sender; 2], depth: Depth) {
    let policy = std::sync::Arc::new(Policy::parse(policy).unwrap());
    explore(depth, move || {
        let shared = Shared::new();
        let senders = senders(&policy, &shared, kinds);
        let mut own = Side::own(&shared);
        policy.run(Routine::BeforeEntry, &mut own);
        for sender in senders {
            sender.join().unwrap();
        }
        // Software posts before the mode was seen have woken the vCPU, which runs: that is all a wake-up does.
        let mut apic = LocalApic::new(&shared.requests);
        in_guest(&mut own, &mut apic);
        assert_eq!(own.taken, BOTH, "an interrupt is left behind");
        assert_eq!(shared.words().mode(), Mode::InGuest);
    });
}

/// A vCPU goes to sleep while two senders post. It sleeps only if nothing was there, and whoever sleeps is woken.
fn sleeping(policy: &str, kinds: [Sender; 2], depth: Depth) {
    let policy = std::sync::Arc::new(Policy::parse(policy).unwrap());
    explore(depth, move || {
        let shared = Shared::new();
        let senders = senders(&policy, &shared, kinds);
        let mut own = Side::own(&shared);
        let blocks = !policy.run(Routine::PreBlock, &mut own).cancelled;
        shared.words().set_task(TaskState::Interruptible);
        policy.run(Routine::BlockCheck, &mut own);
        let sleeps = blocks && own.taken == 0;
        if sleeps {
            policy.run(Routine::PutBlocking, &mut own);
        }
        for sender in senders {
            sender.join().unwrap();
        }
        if !sleeps {
            return;
        }
        // The pCPU is idle: its host handlers run.
        let mut apic = LocalApic::new(&shared.requests);
        while let Some(vector) = apic.acknowledge() {
            apic.eoi();
            if vector == HostVector::Wakeup.vector() {
                own.walked = false;
                policy.run(Routine::OnWakeup, &mut own);
            }
        }
        assert_eq!(shared.words().task(), TaskState::Running, "a wake-up is lost");
    });
}

const KVM: &str = include_str!("../../../../python/ipivrs/policies/kvm.policy");
const KVM_5_14: &str = include_str!("../../../../python/ipivrs/policies/kvm-5.14.policy");
const PRE_IPIV: &str = include_str!("../../../../python/ipivrs/policies/kvm-pre-ipiv.policy");
const SN_IN_HOST: &str = include_str!("../../../../python/ipivrs/policies/kvm-sn-in-host.policy");

#[test]
fn loom_two_software_posts_reach_an_entering_vcpu() {
    entering(KVM, [in_software, in_software], Depth::Exhaustive);
}

#[test]
fn loom_posts_of_any_kind_reach_an_entering_vcpu() {
    for policy in [KVM, SN_IN_HOST] {
        entering(policy, [by_ipi_virtualization, by_ipi_virtualization], Depth::Preemptions(2));
        entering(policy, [by_ipi_virtualization, in_software], Depth::Preemptions(2));
    }
}

#[test]
fn loom_who_sleeps_is_woken() {
    sleeping(KVM, [by_ipi_virtualization, by_ipi_virtualization], Depth::Exhaustive);
}

#[test]
fn loom_who_sleeps_is_woken_under_other_policies_and_posts() {
    for policy in [KVM_5_14, SN_IN_HOST] {
        sleeping(policy, [by_ipi_virtualization, by_ipi_virtualization], Depth::Preemptions(2));
    }
    sleeping(KVM, [by_ipi_virtualization, in_software], Depth::Preemptions(2));
}

/// Store buffering: the mode and ON are both read before the other side's store is seen.
#[test]
#[should_panic(expected = "left behind")]
fn loom_without_the_fence_after_the_mode_a_post_is_lost() {
    let broken = KVM.replacen(
        "    fence                                       # the mode is seen before ON is looked at\n",
        "",
        1,
    );
    assert_ne!(broken, KVM);
    entering(&broken, [in_software, in_software], Depth::Exhaustive);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn loom_without_the_switch_to_the_wakeup_vector_a_wakeup_is_lost() {
    sleeping(PRE_IPIV, [by_ipi_virtualization, by_ipi_virtualization], Depth::Exhaustive);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn loom_without_the_test_of_on_a_wakeup_is_lost() {
    let line = "    if new on: self_ipi wakeup";
    assert!(KVM.contains(line));
    sleeping(&KVM.replacen(line, "    fence", 1), [by_ipi_virtualization, by_ipi_virtualization], Depth::Exhaustive);
}
