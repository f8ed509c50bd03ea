//! Agents of one kind that post to one vCPU differ in nothing but their number, and their vectors: of all states that are
//! the same but for that, one is kept.

use super::bounds::{Bounds, MOST_AGENTS};
use super::state::{VcpuState, World};

/// For each agent, the next one that is like it, and the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alike {
    next: [Option<u8>; MOST_AGENTS],
    before: [Option<u8>; MOST_AGENTS],
    /// Behind the last one that has another like it behind itself.
    last: usize,
}

impl Alike {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let kind = |agent: usize| {
            let senders = usize::from(bounds.senders);
            (agent >= senders, agent >= senders + usize::from(bounds.devices), agent % usize::from(bounds.vcpus))
        };
        let agents = bounds.agents();
        let next = std::array::from_fn(|agent| {
            (agent + 1..agents).find(|&other| agent < agents && kind(other) == kind(agent)).map(|other| other as u8)
        });
        let before = std::array::from_fn(|agent| {
            (0..agent).rfind(|&other| agent < agents && kind(other) == kind(agent)).map(|other| other as u8)
        });
        Self { next, before, last: next.iter().rposition(Option::is_some).map_or(0, |last| last + 1) }
    }

    /// An agent before this one, alike and in the same state, if `world` is sorted.
    #[inline]
    pub(super) fn twin(&self, world: &World, agent: usize) -> Option<usize> {
        let before = usize::from(self.before[agent]?);
        let same = world.agents[before] == world.agents[agent] && posted(world, before) == posted(world, agent);
        same.then_some(before)
    }

    /// Sorts agents that are alike.
    #[inline]
    pub(super) fn sort(&self, world: &mut World) {
        if self.last == 0 {
            return;
        }
        // Insertion by swaps of neighbours among those that are alike: there are few, and mostly they are in order.
        let mut vectors = vectors(world);
        for agent in (0..self.last).rev() {
            let mut low = agent;
            while let Some(high) = self.next[low].map(usize::from) {
                if rank(world, vectors, low) <= rank(world, vectors, high) {
                    break;
                }
                swap(world, low, high);
                vectors = self::vectors(world);
                low = high;
            }
        }
    }
}

/// Agents are sorted by their own words; by what they have posted where those are the same.
#[inline]
fn rank(world: &World, vectors: VcpuState, agent: usize) -> u64 {
    u64::from(world.agents[agent].into_bits()) << 2
        | u64::from(vectors.pir() >> agent & 1) << 1
        | u64::from(vectors.virr() >> agent & 1)
}

/// Whether agents, and where their vectors are, are the same in both: then one is sorted if the other is.
#[inline]
pub(super) fn same_posters(one: &World, other: &World) -> bool {
    let vectors = VcpuState::new().with_pir(u8::MAX).with_virr(u8::MAX).into_bits();
    let vcpus = one
        .vcpus
        .iter()
        .zip(&other.vcpus)
        .fold(0, |differ, (one, other)| differ | (one.into_bits() ^ other.into_bits()));
    let agents = one
        .agents
        .iter()
        .zip(&other.agents)
        .fold(0, |differ, (one, other)| differ | (one.into_bits() ^ other.into_bits()));
    vcpus & vectors == 0 && agents == 0
}

/// PIR and VIRR of all vCPUs together.
#[inline]
fn vectors(world: &World) -> VcpuState {
    VcpuState::from_bits(world.vcpus.iter().fold(0, |bits, vcpu| bits | vcpu.into_bits()))
}

/// Whether an agent's vector is in PIR, and in VIRR. It posts to one vCPU, so it is in those of one at most.
#[inline]
fn posted(world: &World, agent: usize) -> (bool, bool) {
    let vectors = vectors(world);
    (vectors.pir() >> agent & 1 != 0, vectors.virr() >> agent & 1 != 0)
}

fn swap(world: &mut World, low: usize, high: usize) {
    world.agents.swap(low, high);
    let swapped = |bits: u8| {
        let differ = (bits >> low ^ bits >> high) & 1;
        bits ^ (differ << low | differ << high)
    };
    for vcpu in &mut world.vcpus {
        vcpu.set_pir(swapped(vcpu.pir()));
        vcpu.set_virr(swapped(vcpu.virr()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::AgentState;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However agents that are alike are mixed, the sorted state is the same.
        #[test]
        fn order_does_not_count(agents: [u32; 4], pir: u8, virr: u8, mix in Just(vec![0usize, 1, 2, 3]).prop_shuffle()) {
            let bounds = Bounds { senders: 4, software: 0, ..Bounds::default() };
            let alike = Alike::new(&bounds);
            let mut world = World::first(&bounds);
            let mut mixed = world;
            for (from, &to) in mix.iter().enumerate() {
                let bit = |bits: u8| (bits >> from & 1) << to;
                world.agents[from] = AgentState::from_bits(agents[from]);
                mixed.agents[to] = world.agents[from];
                mixed.vcpus[0].set_pir(mixed.vcpus[0].pir() | bit(pir));
                mixed.vcpus[0].set_virr(mixed.vcpus[0].virr() | bit(virr));
            }
            world.vcpus[0].set_pir(pir & 15);
            world.vcpus[0].set_virr(virr & 15);
            alike.sort(&mut world);
            alike.sort(&mut mixed);
            prop_assert_eq!(world, mixed);
        }
    }

    #[test]
    fn only_the_same_kind_and_target_are_alike() {
        let bounds = Bounds { senders: 3, devices: 1, software: 2, vcpus: 2, ..Bounds::default() };
        assert_eq!(Alike::new(&bounds).next, [Some(2), None, None, None, None, None, None, None]);
    }
}
