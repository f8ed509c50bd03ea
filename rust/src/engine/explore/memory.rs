//! The words that a step works on: made from the state for each step, or shared by threads for good.

use super::state::{PcpuState, VcpuState};
use crate::arch::PidControl;
use crate::hypervisor::policy::HostVector;
use crate::hypervisor::{Mode, RESCHEDULE_VECTOR, TaskState, VcpuWords};
use crate::memory::{Line, Word};
use crate::processor::{descriptor, local_apic};
use std::cell::Cell;
use std::sync::atomic::AtomicU64;

/// Words of PIR that the agents' vectors are in, and the first of their bits there: senders', and all others'.
/// Harvesting takes a group at a time.
const GROUPS: [(usize, u32); 2] = [(0, 0x30), (3, 0x20)];

/// The vector of an agent.
pub(super) const fn vector_of(agent: usize, is_sender: bool) -> u8 {
    let (word, first) = GROUPS[!is_sender as usize];
    (64 * word + agent) as u8 + first as u8
}

/// Takes the `group`-th group out of a descriptor. Returns what was taken, a bit for each agent.
pub(super) fn take_group<W: Word>(pid: &Line<W>, group: u8) -> u8 {
    let (word, first) = GROUPS[usize::from(group % 2)];
    (descriptor::take_requests(pid, word) >> first) as u8
}

/// The words of descriptors, vCPUs and local APICs.
pub(super) trait Memory {
    /// The kind of word.
    type W: Word;
    /// The words as `vcpu` has them; others see `in_guest` as its mode.
    fn load(&self, number: usize, vcpu: VcpuState, in_guest: bool);
    /// The words as `pcpu` has them.
    fn load_requests(&self, number: usize, pcpu: PcpuState);
    /// A descriptor.
    fn pid(&self, number: usize) -> &Line<Self::W>;
    /// A vCPU's line.
    fn line(&self, number: usize) -> &Line<Self::W>;
    /// A local APIC's requests.
    fn requests(&self, number: usize) -> &Line<Self::W>;

    /// A vCPU's shared words.
    fn words(&self, number: usize) -> VcpuWords<'_, Self::W> {
        VcpuWords::new(self.line(number))
    }

    /// What the words say now, but for the mode.
    #[inline]
    fn store(&self, number: usize, vcpu: &mut VcpuState) {
        let (pid, words) = (self.pid(number), self.words(number));
        let control = descriptor::control(pid);
        vcpu.set_on(control.outstanding());
        vcpu.set_sn(control.suppress());
        vcpu.set_nv_wakeup(control.vector() == HostVector::Wakeup.vector());
        vcpu.set_ndst(control.destination() as u8 & 3);
        let group = |(word, first): (usize, u32)| (pid[word].load() >> first) as u8;
        vcpu.set_pir(group(GROUPS[0]) | group(GROUPS[1]));
        vcpu.set_event(words.event());
        vcpu.set_interruptible(words.task() == TaskState::Interruptible);
    }

    /// What the local APIC says now.
    #[inline]
    fn store_requests(&self, number: usize, pcpu: &mut PcpuState) {
        let requests = self.requests(number);
        pcpu.set_notify(local_apic::requested(requests, HostVector::Notify.vector()));
        pcpu.set_wakeup(local_apic::requested(requests, HostVector::Wakeup.vector()));
        pcpu.set_reschedule(local_apic::requested(requests, RESCHEDULE_VECTOR));
    }
}

fn write<W: Word>(pid: &Line<W>, words: VcpuWords<'_, W>, senders: u8, vcpu: VcpuState, in_guest: bool) {
    let nv = if vcpu.nv_wakeup() { HostVector::Wakeup } else { HostVector::Notify };
    descriptor::initialize(
        pid,
        PidControl::new()
            .with_outstanding(vcpu.on())
            .with_suppress(vcpu.sn())
            .with_vector(nv.vector())
            .with_destination(u32::from(vcpu.ndst())),
    );
    for ((word, first), agents) in GROUPS.into_iter().zip([senders, !senders]) {
        pid[word].store(u64::from(vcpu.pir() & agents) << first);
    }
    words.set_mode(if in_guest { Mode::InGuest } else { Mode::Outside });
    words.set_event(vcpu.event());
    words.set_task(if vcpu.interruptible() { TaskState::Interruptible } else { TaskState::Running });
    words.set_pcpu(u32::from(vcpu.cpu()));
}

fn write_requests<W: Word>(requests: &Line<W>, pcpu: PcpuState) {
    for group in requests {
        group.store_own(0);
    }
    for (pending, vector) in [
        (pcpu.notify(), HostVector::Notify.vector()),
        (pcpu.wakeup(), HostVector::Wakeup.vector()),
        (pcpu.reschedule(), RESCHEDULE_VECTOR),
    ] {
        if pending {
            local_apic::request(requests, vector);
        }
    }
}

/// One descriptor, one vCPU's words, one local APIC: whichever a step needs.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Agents whose vectors are in the first group, a bit each.
    senders: u8,
    pid: Line<Cell<u64>>,
    line: Line<Cell<u64>>,
    requests: Line<Cell<u64>>,
}

impl Scratch {
    /// Words for a model with these senders, a bit each.
    pub(super) fn new(senders: u8) -> Self {
        let line = || std::array::from_fn(|_| Cell::new(0));
        Self { senders, pid: line(), line: line(), requests: line() }
    }
}

impl Memory for Scratch {
    type W = Cell<u64>;

    #[inline]
    fn load(&self, _: usize, vcpu: VcpuState, in_guest: bool) {
        write(&self.pid, VcpuWords::new(&self.line), self.senders, vcpu, in_guest);
    }

    #[inline]
    fn load_requests(&self, _: usize, pcpu: PcpuState) {
        write_requests(&self.requests, pcpu);
    }

    fn pid(&self, _: usize) -> &Line<Cell<u64>> {
        &self.pid
    }

    fn line(&self, _: usize) -> &Line<Cell<u64>> {
        &self.line
    }

    fn requests(&self, _: usize) -> &Line<Cell<u64>> {
        &self.requests
    }
}

/// The words of all vCPUs and pCPUs, shared by the threads of a forced schedule: what a step finds is what the steps
/// before it left.
#[derive(Debug)]
pub(super) struct Shared {
    pids: Vec<Line<AtomicU64>>,
    lines: Vec<Line<AtomicU64>>,
    requests: Vec<Line<AtomicU64>>,
}

impl Shared {
    /// The words of these vCPUs and pCPUs.
    pub(super) fn new(senders: u8, vcpus: &[VcpuState], pcpus: &[PcpuState]) -> Self {
        let lines = |count: usize| (0..count).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect();
        let shared = Self { pids: lines(vcpus.len()), lines: lines(vcpus.len()), requests: lines(pcpus.len()) };
        for (number, &vcpu) in vcpus.iter().enumerate() {
            write(shared.pid(number), shared.words(number), senders, vcpu, vcpu.in_guest());
        }
        for (number, &pcpu) in pcpus.iter().enumerate() {
            write_requests(shared.requests(number), pcpu);
        }
        shared
    }
}

impl Memory for Shared {
    type W = AtomicU64;

    fn load(&self, _: usize, _: VcpuState, _: bool) {}

    fn load_requests(&self, _: usize, _: PcpuState) {}

    fn pid(&self, number: usize) -> &Line<AtomicU64> {
        &self.pids[number]
    }

    fn line(&self, number: usize) -> &Line<AtomicU64> {
        &self.lines[number]
    }

    fn requests(&self, number: usize) -> &Line<AtomicU64> {
        &self.requests[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is written into the words is read back.
        #[test]
        fn a_state_goes_through_the_words(bits: u64, requests: u32, senders: u8) {
            let kept = |vcpu: VcpuState| {
                VcpuState::new()
                    .with_pir(vcpu.pir()).with_on(vcpu.on()).with_sn(vcpu.sn()).with_nv_wakeup(vcpu.nv_wakeup())
                    .with_ndst(vcpu.ndst()).with_event(vcpu.event()).with_interruptible(vcpu.interruptible())
            };
            let memory = Scratch::new(senders);
            let (vcpu, pcpu) = (VcpuState::from_bits(bits), PcpuState::from_bits(requests));
            memory.load(0, vcpu, false);
            memory.load_requests(0, pcpu);
            let (mut vcpu_back, mut pcpu_back) = (VcpuState::new(), PcpuState::new());
            memory.store(0, &mut vcpu_back);
            memory.store_requests(0, &mut pcpu_back);
            prop_assert_eq!(vcpu_back, kept(vcpu));
            prop_assert_eq!(pcpu_back.pending(), pcpu.pending());
            prop_assert_eq!(
                (pcpu_back.notify(), pcpu_back.wakeup(), pcpu_back.reschedule()),
                (pcpu.notify(), pcpu.wakeup(), pcpu.reschedule())
            );
            prop_assert_eq!(take_group(memory.pid(0), 0) | take_group(memory.pid(0), 1), vcpu.pir());
        }
    }

    #[test]
    fn every_agent_has_its_own_vector() {
        for (agent, is_sender) in (0..8).flat_map(|agent| [(agent, false), (agent, true)]) {
            let memory = Scratch::new(u8::from(is_sender) << agent);
            memory.load(0, VcpuState::new(), false);
            descriptor::post_request(memory.pid(0), vector_of(agent, is_sender));
            let mut vcpu = VcpuState::new();
            memory.store(0, &mut vcpu);
            assert_eq!(vcpu.pir(), 1 << agent);
        }
    }
}
