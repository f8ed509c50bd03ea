//! Who posts: vCPUs with IPI virtualization, devices, and the hypervisor on other pCPUs.

use super::memory::{Memory, vector_of};
use super::model::{Kind, Model, Outcome, Watch};
use super::state::{AgentPlace, Physical, World};
use super::step::{Progress, Runner, raise};
use crate::hypervisor::policy::{Act, HostVector, Op, Routine};
use crate::processor::{Notice, descriptor};

impl Model<'_> {
    /// The vector that an agent posts.
    pub(super) fn vector_of(&self, agent: usize) -> u8 {
        vector_of(agent, self.is_sender(agent))
    }

    /// Whether an agent has something to do.
    pub(super) fn agent_moves(&self, world: &World, number: usize) -> bool {
        let agent = world.agents[number];
        match agent.place() {
            AgentPlace::Begin => agent.left() > 0 || agent.request(),
            AgentPlace::Software => !self.waits(world, self.agent_runner(number), Routine::SoftwarePost, agent.next()),
            _ => true,
        }
    }

    pub(super) fn agent_runner(&self, number: usize) -> Runner {
        Runner { vcpu: self.target(number), pcpu: None, own: false, walks: false, agent: number }
    }

    /// The next step of a post.
    pub(super) fn agent<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let agent = world.agents[number];
        match agent.place() {
            AgentPlace::Begin if agent.request() => self.refresh(world, memory, number, watch),
            AgentPlace::Begin if self.is_device(number) => self.request(world, memory, number),
            AgentPlace::Begin if self.is_sender(number) => self.ipi(world, memory, number, &mut outcome, watch),
            AgentPlace::Begin | AgentPlace::Software => self.software(world, memory, number, &mut outcome, watch),
            AgentPlace::Found => self.found(world, memory, number, &mut outcome),
            AgentPlace::Posted => self.notify(world, memory, number),
            AgentPlace::InFlight => {
                let vector = if agent.flight_wakeup() { Physical::Wakeup } else { Physical::Notify };
                let to = usize::from(agent.flight_to());
                if to < self.pcpus() {
                    raise(memory, world, to, vector);
                }
                posted(world, number);
            }
        }
        outcome
    }

    /// The sender leaves its guest and takes over that APICv is inhibited.
    fn refresh<M: Memory>(&self, world: &mut World, memory: &M, number: usize, watch: &mut impl Watch) {
        world.agents[number].set_request(false);
        // Its acts concern the sender's own controls only: all of them are done here.
        let _ = self.begin(world, memory, self.agent_runner(number), Routine::RefreshApicv, watch);
    }

    /// The guest writes its ICR.
    fn ipi<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        outcome: &mut Outcome,
        watch: &mut impl Watch,
    ) {
        let (agent, to_first) = (world.agents[number], self.target(number) == 0);
        if !agent.ipiv_off() {
            if !self.bounds.publish {
                return self.found(world, memory, number, outcome);
            }
            let global = world.global;
            match (global.entry_low() || !to_first, global.entry_high() || !to_first) {
                (true, true) => world.agents[number].set_place(AgentPlace::Found),
                // V and half an address.
                (true, false) => {
                    outcome.violation = Some(Kind::WildPost);
                    posted(world, number);
                }
                // Not valid: the IPI exits, and there is no such vCPU yet.
                (false, _) => posted(world, number),
            }
        } else if !agent.intercepted() {
            outcome.violation = Some(Kind::Escape);
            posted(world, number);
        } else if world.global.id_rewritten() && to_first {
            // The hypervisor finds nobody with that ID.
            posted(world, number);
        } else {
            self.software(world, memory, number, outcome, watch);
        }
    }

    /// The entry was good: IPI virtualization, step 4.
    fn found<M: Memory>(&self, world: &mut World, memory: &M, number: usize, outcome: &mut Outcome) {
        if world.global.id_rewritten() && self.target(number) == 0 {
            outcome.violation = Some(Kind::Misdelivery);
        }
        self.request(world, memory, number);
    }

    fn request<M: Memory>(&self, world: &mut World, memory: &M, number: usize) {
        let target = self.target(number);
        let vcpu = &mut world.vcpus[target];
        memory.load(target, *vcpu, vcpu.in_guest());
        descriptor::post_request(memory.pid(target), self.vector_of(number));
        memory.store(target, vcpu);
        world.agents[number].set_place(AgentPlace::Posted);
    }

    /// IPI virtualization, step 5; for a device the same, or without a look at SN.
    fn notify<M: Memory>(&self, world: &mut World, memory: &M, number: usize) {
        let target = self.target(number);
        let vcpu = &mut world.vcpus[target];
        memory.load(target, *vcpu, vcpu.in_guest());
        let notice = if self.bounds.urgent && self.is_device(number) {
            descriptor::post_urgent_notification(memory.pid(target))
        } else {
            descriptor::post_notification(memory.pid(target))
        };
        memory.store(target, vcpu);
        let Notice::Due(due) = notice else { return posted(world, number) };
        let agent = &mut world.agents[number];
        agent.set_place(AgentPlace::InFlight);
        agent.set_flight_wakeup(due.vector == HostVector::Wakeup.vector());
        agent.set_flight_to(due.destination as u8 & 3);
    }

    /// `software_post`, a step at a time.
    fn software<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        outcome: &mut Outcome,
        watch: &mut impl Watch,
    ) {
        let runner = self.agent_runner(number);
        let agent = world.agents[number];
        let (mut next, mut remembers) = (agent.next(), agent.memory());
        if agent.place() == AgentPlace::Begin {
            world.agents[number].set_place(AgentPlace::Software);
            match self.begin(world, memory, runner, Routine::SoftwarePost, watch) {
                Progress::More { next: first, memory } => (next, remembers) = (first, memory),
                Progress::Ended { .. } => return software_posted(world, number, outcome),
            }
        }
        let step = self.upcoming(Routine::SoftwarePost, next).map(|(_, step)| &step.op);
        if matches!(step, Some(Op::Act(Act::SetPir))) {
            world.agents[number].set_requested(true);
        }
        match self.step(world, memory, runner, (Routine::SoftwarePost, next, remembers), watch).0 {
            Progress::More { next, memory } => {
                world.agents[number].set_next(next);
                world.agents[number].set_memory(memory);
            }
            Progress::Ended { .. } => software_posted(world, number, outcome),
        }
    }
}

/// `software_post` is over.
fn software_posted(world: &mut World, number: usize, outcome: &mut Outcome) {
    if !world.agents[number].requested() {
        outcome.violation = Some(Kind::Unposted);
    }
    posted(world, number);
}

/// A post is over.
fn posted(world: &mut World, number: usize) {
    let agent = &mut world.agents[number];
    agent.set_place(AgentPlace::Begin);
    agent.set_left(agent.left().saturating_sub(1));
    agent.set_flight_wakeup(false);
    agent.set_flight_to(0);
    agent.set_next(0);
    agent.set_memory(0);
    agent.set_requested(false);
}
