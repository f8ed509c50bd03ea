//! A vCPU's thread: queued, loaded, in and out of its guest, to sleep and awake. (`vcpu_run`, `kvm_vcpu_block`)

use super::memory::{Memory, take_group};
use super::model::{Kind, Model, Move, Outcome, Watch, acknowledge};
use super::state::{After, AgentPlace, Physical, Place, World};
use super::step::{Progress, Runner};
use crate::hypervisor::TaskState;
use crate::hypervisor::policy::Routine;
use crate::processor::descriptor;

impl Model<'_> {
    /// What a vCPU's thread can do next.
    pub(super) fn thread_moves(&self, world: &World, number: usize, each: &mut impl FnMut(Move)) {
        let vcpu = world.vcpus[number];
        let it = number as u8;
        let pcpu = &world.pcpus[usize::from(vcpu.on_pcpu())];
        let suspended = pcpu.handler() != Physical::None;
        let preemptible = world.global.preemptions() > 0;
        match vcpu.place() {
            Place::Queued => self.load_moves(world, number, each),
            Place::Guest => {
                if pcpu.pending() {
                    each(Move::Take(it));
                }
                each(Move::Halt(it));
                if world.global.exits() > 0 {
                    each(Move::Exit(it));
                }
                if preemptible {
                    each(Move::Preempt(it));
                }
            }
            Place::Root | Place::Schedule if !suspended => {
                each(Move::Thread(it));
                if preemptible {
                    each(Move::Preempt(it));
                }
            }
            Place::Asleep | Place::Stopped | Place::Root | Place::Schedule => {}
            place if suspended && place.interruptible() => {}
            place => {
                let waits = routine_of(place)
                    .is_some_and(|routine| self.waits(world, runner(world, number), routine, vcpu.next()));
                if !waits {
                    each(Move::Thread(it));
                }
            }
        }
    }

    fn load_moves(&self, world: &World, number: usize, each: &mut impl FnMut(Move)) {
        let home = world.vcpus[number].cpu();
        let home_is_free = world.pcpus[usize::from(home)].free();
        let mut load = |pcpu: u8, migrates| each(Move::Load { vcpu: number as u8, pcpu, migrates });
        if home_is_free {
            load(home, false);
        }
        for other in (0..self.pcpus() as u8).filter(|&other| other != home) {
            if world.pcpus[usize::from(other)].free() && (!home_is_free || world.global.migrations() > 0) {
                load(other, home_is_free);
            }
        }
    }

    /// The scheduler gives the vCPU a pCPU.
    pub(super) fn load_vcpu<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        pcpu: usize,
        migrates: bool,
        watch: &mut impl Watch,
    ) -> Outcome {
        let global = &mut world.global;
        global.set_migrations(global.migrations() - u8::from(migrates));
        world.pcpus[pcpu].set_current(number as u8 + 1);
        world.vcpus[number].set_on_pcpu(pcpu as u8);
        let mut outcome = Outcome::default();
        self.go(world, memory, number, Place::Load, &mut outcome, watch);
        outcome
    }

    /// The thread does what comes next where it is.
    pub(super) fn thread<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let vcpu = &mut world.vcpus[number];
        match vcpu.place() {
            Place::Root => {
                if vcpu.request() {
                    vcpu.set_request(false);
                    vcpu.set_inhibited(true);
                }
                self.go(world, memory, number, Place::BeforeEntry, &mut outcome, watch);
            }
            Place::ClearOn => {
                vcpu.drain();
                memory.load(number, *vcpu, vcpu.in_guest());
                descriptor::clear_outstanding(memory.pid(number));
                memory.store(number, vcpu);
                vcpu.set_place(Place::Harvest);
            }
            Place::Harvest => self.take_requests(world, memory, number, &mut outcome),
            Place::SetTask => {
                set_task(world, memory, number, TaskState::Interruptible);
                self.go(world, memory, number, Place::SecondCheck, &mut outcome, watch);
            }
            Place::SetRunning => {
                set_task(world, memory, number, TaskState::Running);
                world.vcpus[number].set_woken(false);
                self.go(world, memory, number, Place::PostBlock, &mut outcome, watch);
            }
            Place::Schedule => self.go(world, memory, number, Place::PutBlocking, &mut outcome, watch),
            Place::LieDown => {
                vcpu.drain();
                let asleep = vcpu.interruptible();
                leave(world, number, if asleep { Place::Asleep } else { Place::Queued });
            }
            place => {
                if let Some(routine) = routine_of(place) {
                    let at = (routine, vcpu.next(), vcpu.memory());
                    let runner = runner(world, number);
                    let (progress, effects) = self.step(world, memory, runner, at, watch);
                    outcome.violation = effects.violation;
                    self.went(world, memory, number, progress, &mut outcome, watch);
                }
            }
        }
        outcome
    }

    /// Posted-interrupt processing, step 5, a group at a time; then evaluation and delivery.
    fn take_requests<M: Memory>(&self, world: &mut World, memory: &M, number: usize, outcome: &mut Outcome) {
        let vcpu = &mut world.vcpus[number];
        let last = vcpu.group() == 1 || self.groups() == 1;
        let group = u8::from(last && (self.groups() == 2 || self.bounds.senders == 0));
        memory.load(number, *vcpu, vcpu.in_guest());
        let taken = take_group(memory.pid(number), group);
        memory.store(number, vcpu);
        vcpu.set_virr(vcpu.virr() | taken);
        if !last {
            vcpu.set_group(1);
            return;
        }
        vcpu.set_group(0);
        vcpu.set_place(Place::Guest);
        outcome.spurious_notification = vcpu.virr() == 0;
        self.deliver(world, number, outcome);
    }

    /// The guest takes all that is in VIRR.
    fn deliver(&self, world: &mut World, number: usize, outcome: &mut Outcome) {
        let vectors = world.vcpus[number].virr();
        for agent in (0..8).filter(|agent| vectors >> agent & 1 != 0) {
            let state = world.agents[agent];
            let never =
                state.left() == self.bounds.posts && matches!(state.place(), AgentPlace::Begin | AgentPlace::Found);
            if self.target(agent) != number || agent >= self.agents() || never {
                outcome.violation = Some(Kind::Unsent);
            }
        }
        world.vcpus[number].set_virr(0);
    }

    /// The guest takes the interrupt that its pCPU has: posted-interrupt processing, or an exit.
    pub(super) fn take<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let pcpu = usize::from(world.vcpus[number].on_pcpu());
        let interrupt = acknowledge(world, memory, pcpu);
        let vcpu = &mut world.vcpus[number];
        if interrupt == Physical::Notify && !vcpu.inhibited() {
            vcpu.set_place(Place::ClearOn);
        } else {
            vcpu.set_acknowledged(interrupt);
            vcpu.set_after(After::Root);
            self.go(world, memory, number, Place::AfterExit, &mut outcome, watch);
        }
        outcome
    }

    /// HLT.
    pub(super) fn halt<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        self.leave_guest(world, memory, number, After::Block, watch)
    }

    /// An exit for a reason of its own.
    pub(super) fn exit<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        world.global.set_exits(world.global.exits() - 1);
        self.leave_guest(world, memory, number, After::Root, watch)
    }

    /// The time slice ends.
    pub(super) fn preempt<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        world.global.set_preemptions(world.global.preemptions() - 1);
        if world.vcpus[number].place() == Place::Guest {
            return self.leave_guest(world, memory, number, After::Preempted, watch);
        }
        let mut outcome = Outcome::default();
        self.go(world, memory, number, Place::PutPreempted, &mut outcome, watch);
        outcome
    }

    fn leave_guest<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        after: After,
        watch: &mut impl Watch,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        world.vcpus[number].set_after(after);
        self.go(world, memory, number, Place::AfterExit, &mut outcome, watch);
        outcome
    }

    /// The thread comes to a place. If that is a routine, what only it can see happens at once.
    fn go<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        place: Place,
        outcome: &mut Outcome,
        watch: &mut impl Watch,
    ) {
        let vcpu = &mut world.vcpus[number];
        vcpu.set_place(place);
        vcpu.set_next(0);
        // `cancel_block` is remembered until the block is over.
        vcpu.set_memory(if place == Place::PostBlock { vcpu.memory() & 1 } else { 0 });
        let Some(routine) = routine_of(place) else { return };
        let cancelled = vcpu.memory() & 1 != 0;
        let progress = match self.begin(world, memory, runner(world, number), routine, watch) {
            Progress::More { next, memory } => Progress::More { next, memory: memory | u8::from(cancelled) },
            Progress::Ended { cancelled: now, stopped } => Progress::Ended { cancelled: now || cancelled, stopped },
        };
        self.went(world, memory, number, progress, outcome, watch);
    }

    fn went<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        progress: Progress,
        outcome: &mut Outcome,
        watch: &mut impl Watch,
    ) {
        match progress {
            Progress::More { next, memory } => {
                world.vcpus[number].set_next(next);
                world.vcpus[number].set_memory(memory);
            }
            Progress::Ended { stopped: true, .. } => leave(world, number, Place::Stopped),
            Progress::Ended { cancelled, .. } => self.ended(world, memory, number, cancelled, outcome, watch),
        }
    }

    /// Where the thread goes on when the routine of its place has ended.
    fn ended<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        cancelled: bool,
        outcome: &mut Outcome,
        watch: &mut impl Watch,
    ) {
        let vcpu = &mut world.vcpus[number];
        let pending = vcpu.virr() != 0;
        vcpu.set_memory(u8::from(cancelled));
        let next = match vcpu.place() {
            Place::Load => {
                vcpu.set_cpu(vcpu.on_pcpu());
                memory.words(number).set_pcpu(u32::from(vcpu.cpu()));
                if vcpu.blocking() { Place::SetTask } else { Place::Root }
            }
            Place::BeforeEntry if vcpu.request() => {
                vcpu.set_after(After::Root);
                Place::AfterExit
            }
            Place::BeforeEntry => {
                self.deliver(world, number, outcome);
                Place::Guest
            }
            Place::AfterExit => return self.exited(world, memory, number, outcome, watch),
            Place::FirstCheck if pending => Place::PostBlock,
            Place::FirstCheck => Place::PreBlock,
            Place::PreBlock if cancelled => Place::PostBlock,
            Place::PreBlock => {
                vcpu.set_blocking(true);
                Place::SetTask
            }
            Place::SecondCheck if pending => Place::SetRunning,
            Place::SecondCheck => {
                outcome.spurious_wakeup = vcpu.woken();
                vcpu.set_woken(false);
                Place::Schedule
            }
            Place::PutBlocking => Place::LieDown,
            Place::PutPreempted => {
                vcpu.drain();
                return leave(world, number, Place::Queued);
            }
            Place::PostBlock => {
                vcpu.set_blocking(false);
                if pending || cancelled { Place::Root } else { Place::FirstCheck }
            }
            place => place,
        };
        self.go(world, memory, number, next, outcome, watch);
    }

    /// Behind `after_exit`.
    fn exited<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        outcome: &mut Outcome,
        watch: &mut impl Watch,
    ) {
        let vcpu = &mut world.vcpus[number];
        let (interrupt, after, pcpu) = (vcpu.acknowledged(), vcpu.after(), usize::from(vcpu.on_pcpu()));
        vcpu.set_acknowledged(Physical::None);
        vcpu.set_after(After::Root);
        let next = match after {
            After::Root => Place::Root,
            After::Block => Place::FirstCheck,
            After::Preempted => Place::PutPreempted,
        };
        self.go(world, memory, number, next, outcome, watch);
        self.handle(world, memory, pcpu, interrupt, outcome, watch);
    }
}

fn set_task<M: Memory>(world: &mut World, memory: &M, number: usize, task: TaskState) {
    let vcpu = &mut world.vcpus[number];
    vcpu.drain();
    memory.load(number, *vcpu, vcpu.in_guest());
    memory.words(number).set_task(task);
    memory.store(number, vcpu);
}

/// The vCPU has no pCPU any longer.
fn leave(world: &mut World, number: usize, place: Place) {
    let vcpu = &mut world.vcpus[number];
    world.pcpus[usize::from(vcpu.on_pcpu())].set_current(0);
    vcpu.set_on_pcpu(0);
    vcpu.set_next(0);
    vcpu.set_memory(0);
    vcpu.set_place(place);
}

pub(super) fn runner(world: &World, number: usize) -> Runner {
    let pcpu = usize::from(world.vcpus[number].on_pcpu());
    Runner { vcpu: number, pcpu: Some(pcpu), own: true, walks: false, agent: 0 }
}

/// The routine of a place.
pub(super) const fn routine_of(place: Place) -> Option<Routine> {
    match place {
        Place::Load => Some(Routine::Load),
        Place::BeforeEntry => Some(Routine::BeforeEntry),
        Place::AfterExit => Some(Routine::AfterExit),
        Place::FirstCheck | Place::SecondCheck => Some(Routine::BlockCheck),
        Place::PreBlock => Some(Routine::PreBlock),
        Place::PutBlocking => Some(Routine::PutBlocking),
        Place::PutPreempted => Some(Routine::PutPreempted),
        Place::PostBlock => Some(Routine::PostBlock),
        _ => None,
    }
}
