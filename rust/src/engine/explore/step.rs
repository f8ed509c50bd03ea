//! One step of a routine, by whoever runs it.

use super::memory::{Memory, take_group};
use super::model::{Kind, Model, Watch};
use super::state::{Physical, Place, World, remembered, saved};
use crate::hypervisor::policy::{Act, Frame, Half, HostVector, Op, Platform, Routine, Saved, Step, Surrounding, Term};
use crate::hypervisor::{Mode, RESCHEDULE_VECTOR, TaskState, VcpuWords};
use crate::memory::Line;
use crate::processor::local_apic;

/// Who runs a routine, and about which vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runner {
    /// The subject.
    pub(super) vcpu: usize,
    /// The pCPU that executes the steps, if it is one of the model's.
    pub(super) pcpu: Option<usize>,
    /// The subject's own pCPU runs it.
    pub(super) own: bool,
    /// The handler of the wakeup vector, which walks the list of its pCPU.
    pub(super) walks: bool,
    /// The agent that posts.
    pub(super) agent: usize,
}

/// The next listed vCPU, or the end of the list.
#[derive(Clone, Copy, Debug)]
enum Walked {
    To(usize),
    End,
}

/// What a step led to beside its effect on the state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effects {
    pub(super) violation: Option<Kind>,
    pub(super) woke: bool,
    pub(super) inhibits: bool,
    /// Where the walk through a wakeup list has come to.
    walked: Option<Walked>,
}

/// Whether the routine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More { next: u8, memory: u8 },
    Ended { cancelled: bool, stopped: bool },
}

struct Acting<'a, M> {
    model: &'a Model<'a>,
    memory: &'a M,
    world: &'a mut World,
    runner: Runner,
    effects: Effects,
}

impl<'p> Model<'p> {
    /// The step that a routine does next.
    #[inline]
    pub(super) fn upcoming(&self, routine: Routine, next: u8) -> Option<(u16, &'p Step)> {
        let steps = self.policy.steps(routine);
        let mut next = u16::from(next);
        loop {
            let step = steps.get(usize::from(next))?;
            match step.op {
                Op::Goto(to) => next = to,
                _ => return Some((next, step)),
            }
        }
    }

    /// A list that the upcoming step would change is locked.
    #[inline]
    pub(super) fn waits(&self, world: &World, runner: Runner, routine: Routine, next: u8) -> bool {
        let list = match self.upcoming(routine, next).map(|(_, step)| &step.op) {
            Some(Op::Act(Act::ListAdd)) => runner.pcpu,
            Some(Op::Act(Act::ListDel)) => self.listed_on(world, runner.vcpu),
            _ => return false,
        };
        list.is_some_and(|pcpu| world.pcpus[pcpu].locked())
    }

    /// The pCPU on whose wakeup list a vCPU is.
    pub(super) fn listed_on(&self, world: &World, vcpu: usize) -> Option<usize> {
        world.pcpus.iter().take(self.pcpus()).position(|pcpu| pcpu.list() >> vcpu & 1 != 0)
    }

    /// Begins a routine: what only its actor can see happens at once.
    pub(super) fn begin<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        runner: Runner,
        routine: Routine,
        watch: &mut impl Watch,
    ) -> Progress {
        if self.policy.steps(routine).is_empty() {
            return Progress::Ended { cancelled: false, stopped: false };
        }
        let subject = world.vcpus[runner.vcpu];
        memory.load(runner.vcpu, subject, if runner.own { subject.newest_mode() } else { subject.in_guest() });
        let mut acting = Acting { model: self, memory, world, runner, effects: Effects::default() };
        self.locals(Frame::resume(self.policy, routine, Saved::new()), routine, &mut acting, watch)
    }

    /// Does the next step of a routine, and what follows it that only its actor can see.
    pub(super) fn step<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        runner: Runner,
        at: (Routine, u8, u8),
        watch: &mut impl Watch,
    ) -> (Progress, Effects) {
        let (routine, next, remembers) = at;
        let Some((number, step)) = self.upcoming(routine, next) else {
            return (Progress::Ended { cancelled: remembers & 1 != 0, stopped: false }, Effects::default());
        };
        watch.step(routine, number);
        if runner.own && drains(&step.op) {
            world.vcpus[runner.vcpu].drain();
        }
        let subject = world.vcpus[runner.vcpu];
        let mode = if runner.own { subject.newest_mode() } else { subject.in_guest() };
        memory.load(runner.vcpu, subject, mode);
        if runner.own && matches!(step.op, Op::Act(Act::Harvest)) && !self.at_last_group(world, runner) {
            let taken = take_group(memory.pid(runner.vcpu), 0);
            let vcpu = &mut world.vcpus[runner.vcpu];
            vcpu.set_virr(vcpu.virr() | taken);
            vcpu.set_group(1);
            memory.store(runner.vcpu, vcpu);
            return (Progress::More { next, memory: remembers }, Effects::default());
        }
        let mut acting = Acting { model: self, memory, world, runner, effects: Effects::default() };
        let mut frame = Frame::resume(self.policy, routine, saved(next, remembers));
        frame.step(&mut acting);
        let stored =
            matches!(step.op, Op::Act(Act::Mode(_))).then(|| memory.words(runner.vcpu).mode() == Mode::InGuest);
        memory.store(runner.vcpu, &mut acting.world.vcpus[runner.vcpu]);
        if let Some(in_guest) = stored {
            acting.world.vcpus[runner.vcpu].store_mode(in_guest, runner.own && self.tso());
        }
        match acting.effects.walked {
            Some(Walked::To(vcpu)) => acting.runner.vcpu = vcpu,
            Some(Walked::End) => acting.runner.vcpu = 0,
            None => {}
        }
        let progress = self.locals(frame, routine, &mut acting, watch);
        (progress, acting.effects)
    }

    /// Only one group is left to harvest.
    fn at_last_group(&self, world: &World, runner: Runner) -> bool {
        world.vcpus[runner.vcpu].group() == 1 || self.groups() == 1
    }

    /// Words of PIR that vectors can be in.
    pub(super) fn groups(&self) -> usize {
        let senders = usize::from(self.bounds.senders);
        usize::from(senders > 0) + usize::from(self.agents() > senders)
    }

    /// Nobody else can see the step, and it sees nobody else: also a fence that has nothing to do, and a look of the
    /// vCPU's thread at what nobody else changes.
    fn is_private<M>(&self, op: &Op, acting: &Acting<'_, M>) -> bool {
        let own = acting.runner.own;
        match op {
            // The vCPU's thread joins and leaves lists.
            Op::If { condition, .. } if condition.asks_for(Term::Listed) && !own => false,
            _ if op.is_private() => true,
            Op::Act(Act::Fence) => !own || acting.world.vcpus[acting.runner.vcpu].buffered() == 0,
            Op::If { condition, .. } => own && self.routing_is_own && condition.asks_routing_only(),
            _ => false,
        }
    }

    fn locals<M: Memory>(
        &self,
        mut frame: Frame<'p>,
        routine: Routine,
        acting: &mut Acting<'_, M>,
        watch: &mut impl Watch,
    ) -> Progress {
        loop {
            let at = frame.save();
            let next = u8::try_from(at.next()).unwrap_or(u8::MAX);
            let Some((number, step)) = self.upcoming(routine, next) else {
                return Progress::Ended { cancelled: at.cancelled(), stopped: at.stopped() };
            };
            if !self.is_private(&step.op, acting) {
                return Progress::More { next, memory: remembered(at) };
            }
            watch.step(routine, number);
            frame.step(acting);
        }
    }
}

/// Whether a step empties the store buffer: everything but looks and plain stores.
const fn drains(op: &Op) -> bool {
    !matches!(op, Op::If { .. } | Op::Goto(_) | Op::Act(Act::Mode(_) | Act::Done | Act::CancelBlock))
}

impl<M: Memory> Platform for Acting<'_, M> {
    type W = M::W;

    #[inline]
    fn descriptor(&self) -> &Line<M::W> {
        self.memory.pid(self.runner.vcpu)
    }

    #[inline]
    fn words(&self) -> VcpuWords<'_, M::W> {
        self.memory.words(self.runner.vcpu)
    }

    fn here(&self) -> u32 {
        self.runner.pcpu.map_or(u32::MAX, |pcpu| pcpu as u32)
    }

    fn same_pcpu(&self) -> bool {
        self.runner.pcpu == Some(usize::from(self.world.vcpus[self.runner.vcpu].cpu()))
    }

    fn ipiv(&self) -> bool {
        self.model.bounds.ipiv
    }

    fn device_posting(&self) -> bool {
        self.model.bounds.devices > 0
    }

    fn myself(&self) -> bool {
        self.runner.own
    }

    fn listed(&self) -> bool {
        self.model.listed_on(self.world, self.runner.vcpu).is_some()
    }

    fn vector(&self) -> u8 {
        self.model.vector_of(self.runner.agent)
    }

    fn harvest(&mut self) {
        if self.runner.own {
            let group = u8::from(self.model.bounds.senders == 0 || self.model.groups() == 2);
            let taken = take_group(self.memory.pid(self.runner.vcpu), group);
            let vcpu = &mut self.world.vcpus[self.runner.vcpu];
            vcpu.set_virr(vcpu.virr() | taken);
            vcpu.set_group(0);
        }
    }

    fn list_add(&mut self) {
        let Some(pcpu) = self.runner.pcpu.filter(|_| self.runner.own) else { return };
        if self.listed() {
            self.effects.violation = Some(Kind::TwoLists);
        }
        let pcpu = &mut self.world.pcpus[pcpu];
        pcpu.set_list(pcpu.list() | 1 << self.runner.vcpu);
    }

    fn list_del(&mut self) {
        if let Some(pcpu) = self.model.listed_on(self.world, self.runner.vcpu).filter(|_| self.runner.own) {
            let pcpu = &mut self.world.pcpus[pcpu];
            pcpu.set_list(pcpu.list() & !(1 << self.runner.vcpu));
        }
    }

    fn next_listed(&mut self) -> bool {
        let Some(pcpu) = self.runner.pcpu.filter(|_| self.runner.walks) else { return false };
        let pcpu = &mut self.world.pcpus[pcpu];
        let behind = u32::from(pcpu.walked());
        let rest = u32::from(pcpu.list()) >> behind;
        let found = (rest != 0).then(|| (behind + rest.trailing_zeros()) as usize);
        pcpu.set_locked(found.is_some());
        pcpu.set_walked(found.map_or(0, |vcpu| vcpu as u8 + 1));
        self.effects.walked = Some(found.map_or(Walked::End, Walked::To));
        found.is_some()
    }

    fn self_ipi(&mut self, vector: HostVector) {
        if let Some(pcpu) = self.runner.pcpu {
            raise(self.memory, self.world, pcpu, physical(vector));
        }
    }

    fn ipi(&mut self, vector: HostVector) {
        let pcpu = usize::from(self.world.vcpus[self.runner.vcpu].cpu());
        raise(self.memory, self.world, pcpu, physical(vector));
    }

    fn wake(&mut self) {
        self.effects.woke = true;
        self.memory.words(self.runner.vcpu).set_task(TaskState::Running);
        let vcpu = &mut self.world.vcpus[self.runner.vcpu];
        if vcpu.place() == Place::Asleep {
            vcpu.set_place(Place::Queued);
            vcpu.set_woken(true);
        }
    }

    fn blocking(&self) -> bool {
        self.runner.own && self.world.vcpus[self.runner.vcpu].blocking()
    }

    fn surrounding(&mut self, act: Surrounding) {
        let agent = &mut self.world.agents[self.runner.agent];
        match act {
            Surrounding::StoreEntry(half) => {
                let global = &mut self.world.global;
                global.set_entry_low(global.entry_low() || half != Half::High);
                global.set_entry_high(global.entry_high() || half != Half::Low);
            }
            Surrounding::Inhibit => self.effects.inhibits = true,
            Surrounding::IpivOff => agent.set_ipiv_off(true),
            Surrounding::InterceptIcr => agent.set_intercepted(true),
        }
    }
}

/// The physical interrupt that a host vector is.
pub(super) const fn physical(vector: HostVector) -> Physical {
    match vector {
        HostVector::Notify => Physical::Notify,
        HostVector::Wakeup => Physical::Wakeup,
    }
}

/// A physical interrupt reaches a pCPU.
#[inline]
pub(super) fn raise<M: Memory>(memory: &M, world: &mut World, pcpu: usize, interrupt: Physical) {
    let vector = match interrupt {
        Physical::None => return,
        Physical::Notify => HostVector::Notify.vector(),
        Physical::Wakeup => HostVector::Wakeup.vector(),
        Physical::Reschedule => RESCHEDULE_VECTOR,
    };
    memory.load_requests(pcpu, world.pcpus[pcpu]);
    local_apic::request(memory.requests(pcpu), vector);
    memory.store_requests(pcpu, &mut world.pcpus[pcpu]);
}
