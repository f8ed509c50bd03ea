//! What the host does beside its vCPUs: it writes a table entry, inhibits APICv, takes over a new xAPIC ID.

use super::memory::Memory;
use super::model::{Model, Outcome, Watch};
use super::state::{AgentState, HostPlace, Physical, World};
use super::step::{Effects, Progress, Runner, raise};
use crate::hypervisor::policy::Routine;

const RUNNER: Runner = Runner { vcpu: 0, pcpu: None, own: false, walks: false, agent: 0 };

impl Model<'_> {
    /// Whether the host has something to do.
    pub(super) fn host_moves(&self, world: &World) -> bool {
        match world.global.host() {
            HostPlace::Done => false,
            // `KVM_REQUEST_WAIT`
            HostPlace::Inhibited | HostPlace::IdInhibited => {
                !world.agents[..usize::from(self.bounds.senders)].iter().any(AgentState::request)
            }
            _ => true,
        }
    }

    /// The host comes to the next thing, from `place` on, that the bounds have.
    pub(super) fn host_begins(&self, world: &mut World, place: HostPlace) {
        let wanted = [
            (HostPlace::Publish, self.bounds.publish),
            (HostPlace::Inhibit, self.bounds.inhibit),
            (HostPlace::WriteId, self.bounds.rewrite_id),
        ];
        let next = wanted.into_iter().find(|&(at, wanted)| wanted && at as u8 >= place as u8);
        world.global.set_host(next.map_or(HostPlace::Done, |(at, _)| at));
        world.global.set_next(0);
        world.global.set_memory(0);
    }

    /// The host's next step.
    pub(super) fn host<M: Memory>(&self, world: &mut World, memory: &M, watch: &mut impl Watch) -> Outcome {
        match world.global.host() {
            HostPlace::Publish => self.host_step(world, memory, Routine::Publish, watch),
            HostPlace::Inhibit => {
                self.inhibit(world, memory);
                world.global.set_host(HostPlace::Inhibited);
            }
            HostPlace::Inhibited => self.host_begins(world, HostPlace::WriteId),
            HostPlace::WriteId => {
                // The register has the new ID; the instruction is complete when the hypervisor is done with it.
                world.global.set_host(HostPlace::SetApicId);
                let progress = self.begin(world, memory, RUNNER, Routine::SetApicId, watch);
                self.host_went(world, memory, progress, Effects::default());
            }
            HostPlace::SetApicId => self.host_step(world, memory, Routine::SetApicId, watch),
            HostPlace::IdInhibited => {
                world.global.set_host(HostPlace::SetApicId);
                if self.upcoming(Routine::SetApicId, world.global.next()).is_none() {
                    self.id_rewritten(world);
                }
            }
            HostPlace::Done => {}
        }
        Outcome::default()
    }

    fn host_step<M: Memory>(&self, world: &mut World, memory: &M, routine: Routine, watch: &mut impl Watch) {
        let at = (routine, world.global.next(), world.global.memory());
        let (progress, effects) = self.step(world, memory, RUNNER, at, watch);
        self.host_went(world, memory, progress, effects);
    }

    fn host_went<M: Memory>(&self, world: &mut World, memory: &M, progress: Progress, effects: Effects) {
        if effects.inhibits {
            self.inhibit(world, memory);
            world.global.set_host(HostPlace::IdInhibited);
        }
        match progress {
            Progress::More { next, memory } => {
                world.global.set_next(next);
                world.global.set_memory(memory);
            }
            Progress::Ended { .. } if effects.inhibits => world.global.set_next(u8::MAX),
            Progress::Ended { .. } if world.global.host() == HostPlace::Publish => {
                self.host_begins(world, HostPlace::Inhibit);
            }
            Progress::Ended { .. } => self.id_rewritten(world),
        }
    }

    fn id_rewritten(&self, world: &mut World) {
        world.global.set_id_rewritten(true);
        self.host_begins(world, HostPlace::Done);
    }

    /// Everybody shall look whether APICv is inhibited, and whoever is in a guest leaves it.
    fn inhibit<M: Memory>(&self, world: &mut World, memory: &M) {
        for agent in &mut world.agents[..usize::from(self.bounds.senders)] {
            agent.set_request(true);
        }
        for vcpu in &mut world.vcpus[..self.vcpus()] {
            vcpu.set_request(true);
        }
        for number in 0..self.pcpus() {
            if let Some(vcpu) = usize::from(world.pcpus[number].current()).checked_sub(1)
                && world.vcpus[vcpu].in_guest()
            {
                raise(memory, world, number, Physical::Reschedule);
            }
        }
    }
}
