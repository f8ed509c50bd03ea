//! The machine that is explored: who can do what next, and what comes of it.
//!
//! Everything that changes a descriptor, a vCPU's shared words or a local APIC is a call of the functions that the other
//! engines call: [`descriptor`](crate::processor::descriptor), [`local_apic`](crate::processor::local_apic), [`Frame::step`](crate::hypervisor::policy::Frame).

use super::CheckError;
use super::bounds::{Bounds, MemoryModel};
use super::memory::Memory;
use super::state::{AgentPlace, HostPlace, Layout, PcpuState, Physical, Place, VcpuState, World};
use super::symmetry::{Alike, same_posters};
use crate::hypervisor::policy::{Act, Op, Policy, Routine};
use crate::processor::LocalApic;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nobody will deliver what is posted.
    LostInterrupt,
    /// The same, and the vCPU sleeps.
    LostWakeup,
    /// Somebody waits for what never comes.
    Deadlock,
    /// What is posted is never delivered though steps are taken for ever.
    Livelock,
    /// A post through half a table entry.
    WildPost,
    /// A post reached the old owner of an APIC ID.
    Misdelivery,
    /// The guest wrote the physical ICR.
    Escape,
    /// A vCPU is on two wakeup lists, or twice on one.
    TwoLists,
    /// SN is 1 while the vCPU sleeps.
    SnWhileBlocked,
    /// A vector was delivered that nobody had posted for this vCPU.
    Unsent,
    /// `software_post` has ended and has never set the bit in PIR.
    Unposted,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::LostInterrupt,
        Self::LostWakeup,
        Self::Deadlock,
        Self::Livelock,
        Self::WildPost,
        Self::Misdelivery,
        Self::Escape,
        Self::TwoLists,
        Self::SnWhileBlocked,
        Self::Unsent,
        Self::Unposted,
    ];

    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LostInterrupt => "lost-interrupt",
            Self::LostWakeup => "lost-wakeup",
            Self::Deadlock => "deadlock",
            Self::Livelock => "livelock",
            Self::WildPost => "wild-post",
            Self::Misdelivery => "misdelivery",
            Self::Escape => "escape",
            Self::TwoLists => "two-lists",
            Self::SnWhileBlocked => "sn-while-blocked",
            Self::Unsent => "unsent",
            Self::Unposted => "unposted",
        }
    }

    /// What it means.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::LostInterrupt => "an interrupt is posted, and nobody will deliver it",
            Self::LostWakeup => "an interrupt is posted for a vCPU that sleeps, and nobody will wake it",
            Self::Deadlock => "somebody waits for what never comes",
            Self::Livelock => "an interrupt is posted and never delivered, though steps are taken for ever",
            Self::WildPost => "an interrupt is posted through half of a table entry",
            Self::Misdelivery => "an interrupt reaches the old owner of an APIC ID",
            Self::Escape => "the guest writes the ICR of the physical local APIC",
            Self::TwoLists => "a vCPU joins a wakeup list while it is on one",
            Self::SnWhileBlocked => "a vCPU sleeps with SN = 1",
            Self::Unsent => "an interrupt is delivered that nobody has posted for this vCPU",
            Self::Unposted => "an interrupt is posted in software and is nowhere",
        }
    }
}

/// Who acts: what weak fairness is promised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A vCPU's thread.
    Vcpu(u8),
    /// A pCPU that takes interrupts in root mode.
    Pcpu(u8),
    /// Somebody who posts.
    Agent(u8),
    /// What the host does beside its vCPUs.
    Host,
    /// A store buffer.
    Buffer(u8),
}

impl Actor {
    /// A bit for each.
    pub(super) const fn bit(self) -> u32 {
        match self {
            Self::Vcpu(number) => 1 << number,
            Self::Pcpu(number) => 1 << (4 + number),
            Self::Agent(number) => 1 << (8 + number),
            Self::Host => 1 << 16,
            Self::Buffer(number) => 1 << (17 + number),
        }
    }
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The vCPU gets a pCPU.
    Load {
        /// Which.
        vcpu: u8,
        /// The pCPU.
        pcpu: u8,
        /// Its last pCPU is free, and it does not get that one.
        migrates: bool,
    },
    /// The vCPU's thread does what comes next where it is.
    Thread(u8),
    /// The guest takes the interrupt that its pCPU has.
    Take(u8),
    /// The guest halts.
    Halt(u8),
    /// The guest exits for a reason of its own.
    Exit(u8),
    /// The vCPU's time slice ends.
    Preempt(u8),
    /// The pCPU takes an interrupt in root mode.
    Interrupt(u8),
    /// The next step of the pCPU's handler.
    Handler(u8),
    /// The next step of somebody who posts.
    Agent(u8),
    /// The next step of what the host does beside its vCPUs.
    Host,
    /// The oldest store leaves the buffer.
    Flush(u8),
}

impl Move {
    /// Who makes it.
    #[must_use]
    pub const fn actor(self) -> Actor {
        match self {
            Self::Load { vcpu, .. }
            | Self::Thread(vcpu)
            | Self::Take(vcpu)
            | Self::Halt(vcpu)
            | Self::Exit(vcpu)
            | Self::Preempt(vcpu) => Actor::Vcpu(vcpu),
            Self::Interrupt(pcpu) | Self::Handler(pcpu) => Actor::Pcpu(pcpu),
            Self::Agent(agent) => Actor::Agent(agent),
            Self::Host => Actor::Host,
            Self::Flush(vcpu) => Actor::Buffer(vcpu),
        }
    }

    /// It may never happen, however long it could. Nobody has to post: who waits for the next post to be delivered is lost.
    #[must_use]
    pub fn optional(self, world: &World) -> bool {
        match self {
            Self::Load { migrates, .. } => migrates,
            Self::Halt(_) | Self::Exit(_) | Self::Preempt(_) => true,
            Self::Agent(agent) => {
                let agent = world.agents[usize::from(agent)];
                agent.place() == AgentPlace::Begin && !agent.request()
            }
            _ => false,
        }
    }
}

/// What a move led to, beside the next state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What was wrong with it.
    pub violation: Option<Kind>,
    /// A notification came for nothing.
    pub spurious_notification: bool,
    /// A vCPU woke up for nothing.
    pub spurious_wakeup: bool,
}

/// Sees which steps of the policy a move goes through.
pub(super) trait Watch {
    /// The `number`-th step of `routine`.
    fn step(&mut self, routine: Routine, number: u16);
}

/// Nobody watches.
#[derive(Debug)]
pub(super) struct Unwatched;

impl Watch for Unwatched {
    #[inline]
    fn step(&mut self, _: Routine, _: u16) {}
}

/// A policy within bounds.
#[derive(Clone, Copy, Debug)]
pub struct Model<'p> {
    pub(super) policy: &'p Policy,
    pub(super) bounds: Bounds,
    pub(super) layout: Layout,
    /// Agents that only their number tells apart.
    alike: Alike,
    /// Only the vCPU's own thread changes NV, NDST and SN.
    pub(super) routing_is_own: bool,
}

impl<'p> Model<'p> {
    /// The model of `policy` within `bounds`.
    ///
    /// # Errors
    /// A bound out of its range, a routine that is needed and missing.
    pub fn new(policy: &'p Policy, bounds: &Bounds) -> Result<Self, CheckError> {
        bounds.allow(policy)?;
        Ok(Self {
            policy,
            bounds: *bounds,
            layout: Layout::new(bounds),
            alike: Alike::new(bounds),
            routing_is_own: routing_is_own(policy),
        })
    }

    pub(super) fn vcpus(&self) -> usize {
        usize::from(self.bounds.vcpus)
    }

    pub(super) fn pcpus(&self) -> usize {
        usize::from(self.bounds.pcpus)
    }

    pub(super) fn agents(&self) -> usize {
        self.bounds.agents()
    }

    pub(super) fn tso(&self) -> bool {
        self.bounds.memory_model == MemoryModel::Tso
    }

    /// The vCPU that an agent posts to.
    pub(super) fn target(&self, agent: usize) -> usize {
        agent % self.vcpus()
    }

    pub(super) fn is_sender(&self, agent: usize) -> bool {
        agent < usize::from(self.bounds.senders)
    }

    pub(super) fn is_device(&self, agent: usize) -> bool {
        !self.is_sender(agent) && agent < usize::from(self.bounds.senders) + usize::from(self.bounds.devices)
    }

    /// The first state.
    #[must_use]
    pub fn first(&self) -> World {
        let mut world = World::first(&self.bounds);
        self.host_begins(&mut world, HostPlace::Publish);
        world
    }

    /// Senders, a bit each.
    pub(super) fn senders(&self) -> u8 {
        ((1u16 << self.bounds.senders) - 1) as u8
    }

    /// The state that stands for all that differ only in which of several agents of one kind is which.
    #[inline]
    pub(super) fn canonical(&self, world: &mut World) {
        self.alike.sort(world);
    }

    /// The same for a state that a move has led to from `before`, for which that is so already.
    #[inline]
    pub(super) fn canonical_after(&self, before: &World, world: &mut World) {
        if !same_posters(before, world) {
            self.alike.sort(world);
        }
    }

    /// Another agent, before this one, that only its number tells from it in this state: its move leads to the same.
    #[inline]
    pub(super) fn twin(&self, world: &World, agent: usize) -> Option<usize> {
        self.alike.twin(world, agent)
    }

    /// Everything that can happen next, in an order that depends on the state alone.
    #[inline]
    pub(super) fn moves(&self, world: &World, each: &mut impl FnMut(Move)) {
        for number in 0..self.vcpus() {
            self.thread_moves(world, number, each);
            if world.vcpus[number].buffered() > 0 {
                each(Move::Flush(number as u8));
            }
        }
        for number in 0..self.pcpus() {
            if self.handler_moves(world, number) {
                let running = world.pcpus[number].handler() != Physical::None;
                each(if running { Move::Handler(number as u8) } else { Move::Interrupt(number as u8) });
            }
        }
        for number in 0..self.agents() {
            if self.agent_moves(world, number) {
                each(Move::Agent(number as u8));
            }
        }
        if self.host_moves(world) {
            each(Move::Host);
        }
    }

    /// Makes a move.
    #[inline]
    pub(super) fn apply<M: Memory>(&self, world: &mut World, memory: &M, it: Move, watch: &mut impl Watch) -> Outcome {
        match it {
            Move::Load { vcpu, pcpu, migrates } => {
                self.load_vcpu(world, memory, usize::from(vcpu), usize::from(pcpu), migrates, watch)
            }
            Move::Thread(vcpu) => self.thread(world, memory, usize::from(vcpu), watch),
            Move::Take(vcpu) => self.take(world, memory, usize::from(vcpu), watch),
            Move::Halt(vcpu) => self.halt(world, memory, usize::from(vcpu), watch),
            Move::Exit(vcpu) => self.exit(world, memory, usize::from(vcpu), watch),
            Move::Preempt(vcpu) => self.preempt(world, memory, usize::from(vcpu), watch),
            Move::Interrupt(pcpu) => self.interrupt(world, memory, usize::from(pcpu), watch),
            Move::Handler(pcpu) => self.handler(world, memory, usize::from(pcpu), watch),
            Move::Agent(agent) => self.agent(world, memory, usize::from(agent), watch),
            Move::Host => self.host(world, memory, watch),
            Move::Flush(vcpu) => {
                world.vcpus[usize::from(vcpu)].flush();
                Outcome::default()
            }
        }
    }

    /// What is wrong with a state in which nothing but what is optional can happen.
    pub(super) fn quiet(&self, world: &World) -> Option<Kind> {
        let vcpus = &world.vcpus[..self.vcpus()];
        if let Some(vcpu) = vcpus.iter().find(|vcpu| vcpu.owed()) {
            return Some(if vcpu.place() == Place::Asleep { Kind::LostWakeup } else { Kind::LostInterrupt });
        }
        let rests = |vcpu: &VcpuState| matches!(vcpu.place(), Place::Guest | Place::Asleep | Place::Stopped);
        let done = vcpus.iter().all(rests)
            && world.pcpus[..self.pcpus()].iter().all(|pcpu| pcpu.handler() == Physical::None)
            && world.agents[..self.agents()].iter().all(|agent| agent.place() == AgentPlace::Begin)
            && world.global.host() == HostPlace::Done;
        (!done).then_some(Kind::Deadlock)
    }

    /// What is wrong with a state as it stands.
    #[inline]
    pub(super) fn wrong(&self, world: &World) -> Option<Kind> {
        let asleep = |vcpu: &VcpuState| vcpu.place() == Place::Asleep && vcpu.sn();
        world.vcpus[..self.vcpus()].iter().any(asleep).then_some(Kind::SnWhileBlocked)
    }

    /// Nobody who posts is in the middle of it.
    pub(super) fn agents_rest(&self, world: &World) -> bool {
        world.agents[..self.agents()].iter().all(|agent| agent.place() == AgentPlace::Begin && !agent.request())
    }

    /// Something is posted and not delivered.
    pub(super) fn owed(&self, world: &World) -> bool {
        world.vcpus[..self.vcpus()].iter().any(|vcpu| vcpu.owed())
    }
}

/// Whether only routines of the vCPU's own thread change NV, NDST and SN.
fn routing_is_own(policy: &Policy) -> bool {
    let others = [Routine::OnNotify, Routine::OnWakeup, Routine::SoftwarePost, Routine::Publish, Routine::SetApicId];
    !others.into_iter().flat_map(|routine| policy.steps(routine)).any(|step| match step.op {
        Op::Act(Act::SetSn | Act::ClearSn) => true,
        Op::Act(Act::Control(change)) => change.nv.is_some() || change.ndst_here || change.sn.is_some(),
        _ => false,
    })
}

/// The pCPU takes the highest interrupt that it has, and is done with it.
pub(super) fn acknowledge<M: Memory>(world: &mut World, memory: &M, pcpu: usize) -> Physical {
    memory.load_requests(pcpu, world.pcpus[pcpu]);
    let mut local = LocalApic::new(memory.requests(pcpu));
    let before = world.pcpus[pcpu];
    let taken = local.acknowledge();
    local.eoi();
    memory.store_requests(pcpu, &mut world.pcpus[pcpu]);
    let after = world.pcpus[pcpu];
    match taken {
        None => Physical::None,
        Some(_) if before.reschedule() != after.reschedule() => Physical::Reschedule,
        Some(_) if before.notify() != after.notify() => Physical::Notify,
        Some(_) => Physical::Wakeup,
    }
}

impl VcpuState {
    /// Something is posted and not delivered.
    pub(super) const fn owed(self) -> bool {
        self.pir() != 0 || self.virr() != 0
    }

    /// The mode as its own pCPU sees it.
    pub(super) const fn newest_mode(self) -> bool {
        match self.buffered() {
            0 => self.in_guest(),
            waiting => self.buffer() >> (waiting - 1) & 1 != 0,
        }
    }

    /// The oldest store in the buffer reaches memory.
    pub(super) fn flush(&mut self) {
        if self.buffered() > 0 {
            self.set_in_guest(self.buffer() & 1 != 0);
            self.set_buffer(self.buffer() >> 1);
            self.set_buffered(self.buffered() - 1);
        }
    }

    /// All stores reach memory.
    pub(super) fn drain(&mut self) {
        while self.buffered() > 0 {
            self.flush();
        }
    }

    /// A plain store of the mode.
    pub(super) fn store_mode(&mut self, in_guest: bool, buffered: bool) {
        if !buffered {
            self.set_in_guest(in_guest);
            return;
        }
        if self.buffered() == 2 {
            self.flush();
        }
        self.set_buffer(self.buffer() | u8::from(in_guest) << self.buffered());
        self.set_buffered(self.buffered() + 1);
    }
}

impl PcpuState {
    /// It runs nothing and handles nothing.
    pub(super) fn free(self) -> bool {
        self.current() == 0 && self.handler() == Physical::None
    }
}
