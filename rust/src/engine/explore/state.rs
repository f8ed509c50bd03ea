//! A state of the model: a few 64-bit words, one for each vCPU, half a one for each pCPU and agent.

use super::bounds::{Bounds, MOST_AGENTS, MOST_CPUS};
use crate::hypervisor::policy::Saved;
use bitfield_struct::bitfield;

/// Where a vCPU's thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// It can run and has no pCPU.
    Queued,
    Load,
    /// In root mode, host interrupts on.
    Root,
    BeforeEntry,
    Guest,
    /// Posted-interrupt processing: ON is cleared next.
    ClearOn,
    /// Posted-interrupt processing: PIR is taken next.
    Harvest,
    AfterExit,
    /// Before the policy's last word on whether it may sleep.
    FirstCheck,
    PreBlock,
    SetTask,
    /// After it has said that it may sleep.
    SecondCheck,
    SetRunning,
    /// About to sleep.
    Schedule,
    PutBlocking,
    LieDown,
    PutPreempted,
    Asleep,
    PostBlock,
    /// Given up by its hypervisor.
    Stopped,
}

impl Place {
    const ALL: [Self; 20] = [
        Self::Queued,
        Self::Load,
        Self::Root,
        Self::BeforeEntry,
        Self::Guest,
        Self::ClearOn,
        Self::Harvest,
        Self::AfterExit,
        Self::FirstCheck,
        Self::PreBlock,
        Self::SetTask,
        Self::SecondCheck,
        Self::SetRunning,
        Self::Schedule,
        Self::PutBlocking,
        Self::LieDown,
        Self::PutPreempted,
        Self::Asleep,
        Self::PostBlock,
        Self::Stopped,
    ];

    const fn from_bits(bits: u8) -> Self {
        // Only what `into_bits` gave is ever read.
        Self::ALL[bits as usize % Self::ALL.len()]
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }

    /// Host interrupts are on: handlers may run.
    pub(super) const fn interruptible(self) -> bool {
        use Place::{FirstCheck, Root, Schedule, SecondCheck, SetRunning, SetTask};
        matches!(self, Root | FirstCheck | SetTask | SecondCheck | SetRunning | Schedule)
    }
}

/// A physical interrupt that the model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Physical {
    None,
    Notify,
    Wakeup,
    Reschedule,
}

impl Physical {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Notify,
            2 => Self::Wakeup,
            3 => Self::Reschedule,
            _ => Self::None,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Where a vCPU goes on after its exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum After {
    Root,
    Block,
    Preempted,
}

impl After {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Block,
            2 => Self::Preempted,
            _ => Self::Root,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// A vCPU: its descriptor, its shared words, its thread.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct VcpuState {
    /// PIR: a bit for each agent's vector.
    pub(super) pir: u8,
    /// VIRR, likewise.
    pub(super) virr: u8,
    pub(super) on: bool,
    pub(super) sn: bool,
    /// NV is the wakeup vector, else the notification vector.
    pub(super) nv_wakeup: bool,
    #[bits(2)]
    pub(super) ndst: u8,
    pub(super) in_guest: bool,
    /// `TASK_INTERRUPTIBLE`.
    pub(super) interruptible: bool,
    pub(super) event: bool,
    /// `vcpu->cpu`.
    #[bits(2)]
    pub(super) cpu: u8,
    /// The pCPU that it is on, if it is on one.
    #[bits(2)]
    pub(super) on_pcpu: u8,
    #[bits(5)]
    pub(super) place: Place,
    pub(super) blocking: bool,
    pub(super) woken: bool,
    /// APICv is inhibited and the vCPU knows it.
    pub(super) inhibited: bool,
    /// It shall look whether APICv is inhibited.
    pub(super) request: bool,
    #[bits(2)]
    pub(super) after: After,
    /// The interrupt that made it exit.
    #[bits(2)]
    pub(super) acknowledged: Physical,
    /// The group of PIR that is harvested next.
    #[bits(1)]
    pub(super) group: u8,
    /// Stores of the mode that wait in the store buffer, 0 to 2.
    #[bits(2)]
    pub(super) buffered: u8,
    /// Them, the oldest first: in guest or not.
    #[bits(2)]
    pub(super) buffer: u8,
    pub(super) next: u8,
    /// What the routine remembers, as `Saved` names it.
    #[bits(7)]
    pub(super) memory: u8,
    #[bits(3)]
    reserved: u8,
}

/// A pCPU: its local APIC, its wakeup list, its handler.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct PcpuState {
    pub(super) notify: bool,
    pub(super) wakeup: bool,
    pub(super) reschedule: bool,
    /// 1 + the vCPU that it runs, or 0.
    #[bits(3)]
    pub(super) current: u8,
    /// The vector whose handler runs.
    #[bits(2)]
    pub(super) handler: Physical,
    /// 1 + the listed vCPU that is the handler's subject, or 0.
    #[bits(3)]
    pub(super) walked: u8,
    /// The handler holds the list's lock.
    pub(super) locked: bool,
    /// vCPUs on the wakeup list, a bit each.
    #[bits(4)]
    pub(super) list: u8,
    /// The handler has woken somebody.
    pub(super) woke: bool,
    pub(super) next: u8,
    #[bits(7)]
    pub(super) memory: u8,
}

impl PcpuState {
    pub(super) const fn pending(self) -> bool {
        self.notify() || self.wakeup() || self.reschedule()
    }
}

/// Where an agent is in its post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum AgentPlace {
    /// Before a post, or done.
    Begin,
    /// The table entry was good.
    Found,
    /// PIR is set.
    Posted,
    /// A notification is on its way.
    InFlight,
    /// In `software_post`.
    Software,
}

impl AgentPlace {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Found,
            2 => Self::Posted,
            3 => Self::InFlight,
            4 => Self::Software,
            _ => Self::Begin,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Somebody who posts.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct AgentState {
    #[bits(3)]
    pub(super) place: AgentPlace,
    /// Posts that are not done.
    #[bits(3)]
    pub(super) left: u8,
    /// The notification under way has the wakeup vector.
    pub(super) flight_wakeup: bool,
    /// Its destination.
    #[bits(2)]
    pub(super) flight_to: u8,
    /// It shall look whether APICv is inhibited.
    pub(super) request: bool,
    /// The control "IPI virtualization" is 0.
    pub(super) ipiv_off: bool,
    /// Writes of the ICR exit.
    pub(super) intercepted: bool,
    pub(super) next: u8,
    #[bits(7)]
    pub(super) memory: u8,
    /// `software_post` has set the bit in PIR.
    pub(super) requested: bool,
    #[bits(4)]
    reserved: u8,
}

/// What the host does beside its vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum HostPlace {
    Publish,
    Inhibit,
    /// Until every sender has taken the inhibit over.
    Inhibited,
    WriteId,
    SetApicId,
    /// The same, inside `set_apic_id`.
    IdInhibited,
    Done,
}

impl HostPlace {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Publish,
            1 => Self::Inhibit,
            2 => Self::Inhibited,
            3 => Self::WriteId,
            4 => Self::SetApicId,
            5 => Self::IdInhibited,
            _ => Self::Done,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// What is there once.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Global {
    #[bits(3)]
    pub(super) preemptions: u8,
    #[bits(3)]
    pub(super) migrations: u8,
    #[bits(3)]
    pub(super) exits: u8,
    /// The halves of vCPU 0's table entry that are written.
    pub(super) entry_low: bool,
    pub(super) entry_high: bool,
    #[bits(3)]
    pub(super) host: HostPlace,
    /// The write of the xAPIC ID is complete.
    pub(super) id_rewritten: bool,
    pub(super) next: u8,
    #[bits(7)]
    pub(super) memory: u8,
    #[bits(34)]
    reserved: u64,
}

/// What a routine remembers fits into seven bits here: where it goes on is a field of its own, and `stop` ends at once.
pub(super) const fn remembered(saved: Saved) -> u8 {
    saved.cancelled() as u8
        | (saved.old_pir() as u8) << 1
        | (saved.old_event() as u8) << 2
        | (saved.old_on() as u8) << 3
        | (saved.old_sn() as u8) << 4
        | (saved.new_on() as u8) << 5
        | (saved.new_sn() as u8) << 6
}

/// The other way.
pub(super) const fn saved(next: u8, memory: u8) -> Saved {
    Saved::new()
        .with_next(next as u16)
        .with_cancelled(memory & 1 != 0)
        .with_old_pir(memory & 2 != 0)
        .with_old_event(memory & 4 != 0)
        .with_old_on(memory & 8 != 0)
        .with_old_sn(memory & 16 != 0)
        .with_new_on(memory & 32 != 0)
        .with_new_sn(memory & 64 != 0)
}

/// A state, spread out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    pub(super) global: Global,
    pub(super) vcpus: [VcpuState; MOST_CPUS],
    pub(super) pcpus: [PcpuState; MOST_CPUS],
    pub(super) agents: [AgentState; MOST_AGENTS],
}

/// The most words that a state can have.
pub(super) const MOST_WORDS: usize = 1 + MOST_CPUS + MOST_CPUS / 2 + MOST_AGENTS / 2;

/// Which words a state has: those of all words whose fields these bounds have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Where among all words they are, in order.
    at: [u8; MOST_WORDS],
    words: usize,
}

impl Layout {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let (vcpus, pcpus) = (usize::from(bounds.vcpus), usize::from(bounds.pcpus).div_ceil(2));
        let agents = bounds.agents().div_ceil(2);
        let (first_pcpu, first_agent) = (1 + MOST_CPUS, 1 + MOST_CPUS + MOST_CPUS / 2);
        let all = (0..=vcpus).chain(first_pcpu..first_pcpu + pcpus).chain(first_agent..first_agent + agents);
        let mut layout = Self { at: [0; MOST_WORDS], words: 1 + vcpus + pcpus + agents };
        layout.at.iter_mut().zip(all).for_each(|(at, word)| *at = word as u8);
        layout
    }

    /// Words of a state.
    pub(super) const fn words(&self) -> usize {
        self.words
    }

    /// Writes a state's words.
    #[inline]
    pub(super) fn pack(&self, world: &World, words: &mut [u64]) {
        let all = world.to_words();
        for (word, &at) in words.iter_mut().zip(&self.at) {
            *word = all[usize::from(at)];
        }
    }

    /// Reads a state's words.
    #[inline]
    pub(super) fn unpack(&self, words: &[u64]) -> World {
        let mut all = [0; MOST_WORDS];
        for (&word, &at) in words.iter().zip(&self.at) {
            all[usize::from(at)] = word;
        }
        World::from_words(&all)
    }
}

impl World {
    const EMPTY: Self = Self {
        global: Global::new(),
        vcpus: [VcpuState::new(); MOST_CPUS],
        pcpus: [PcpuState::new(); MOST_CPUS],
        agents: [AgentState::new(); MOST_AGENTS],
    };

    /// All words, also those of fields that the bounds do not have.
    #[inline]
    fn to_words(self) -> [u64; MOST_WORDS] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mut words = [0; MOST_WORDS];
        words[0] = self.global.into_bits();
        for (word, vcpu) in words[1..].iter_mut().zip(self.vcpus) {
            *word = vcpu.into_bits();
        }
        for (word, pcpus) in words[1 + MOST_CPUS..].iter_mut().zip(self.pcpus.as_chunks::<2>().0) {
            *word = pair(pcpus[0].into_bits(), pcpus[1].into_bits());
        }
        for (word, agents) in words[1 + MOST_CPUS + MOST_CPUS / 2..].iter_mut().zip(self.agents.as_chunks::<2>().0) {
            *word = pair(agents[0].into_bits(), agents[1].into_bits());
        }
        words
    }

    /// The other way.
    #[inline]
    fn from_words(words: &[u64; MOST_WORDS]) -> Self {
        let half = |first: usize, at: usize| (words[first + at / 2] >> (at % 2 * 32)) as u32;
        Self {
            global: Global::from_bits(words[0]),
            vcpus: std::array::from_fn(|at| VcpuState::from_bits(words[1 + at])),
            pcpus: std::array::from_fn(|at| PcpuState::from_bits(half(1 + MOST_CPUS, at))),
            agents: std::array::from_fn(|at| AgentState::from_bits(half(1 + MOST_CPUS + MOST_CPUS / 2, at))),
        }
    }

    /// The first state: every vCPU can run and has no pCPU; SN is 1 until it is loaded.
    pub(super) fn first(bounds: &Bounds) -> Self {
        let mut world = Self::EMPTY;
        world.global = Global::new()
            .with_preemptions(bounds.preemptions)
            .with_migrations(bounds.migrations)
            .with_exits(bounds.exits)
            .with_entry_low(!bounds.publish)
            .with_entry_high(!bounds.publish);
        for (number, vcpu) in world.vcpus.iter_mut().enumerate().take(usize::from(bounds.vcpus)) {
            *vcpu = VcpuState::new().with_sn(true).with_ndst(number as u8).with_cpu(number as u8);
        }
        for agent in world.agents.iter_mut().take(bounds.agents()) {
            *agent = AgentState::new().with_left(bounds.posts);
        }
        world
    }
}
