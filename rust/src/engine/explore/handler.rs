//! Interrupts that a pCPU takes in root mode.

use super::memory::Memory;
use super::model::{Model, Outcome, Watch, acknowledge};
use super::state::{Physical, World};
use super::step::{Progress, Runner};
use crate::hypervisor::policy::Routine;

impl Model<'_> {
    /// Whether a pCPU can take an interrupt, or go on with its handler.
    pub(super) fn handler_moves(&self, world: &World, number: usize) -> bool {
        let pcpu = world.pcpus[number];
        if pcpu.handler() != Physical::None {
            let routine = routine_of(pcpu.handler());
            return !self.waits(world, handler_runner(world, number), routine, pcpu.next());
        }
        pcpu.pending() && (pcpu.current() == 0 || world.vcpus[usize::from(pcpu.current()) - 1].place().interruptible())
    }

    /// The pCPU takes the highest interrupt that it has.
    pub(super) fn interrupt<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let interrupt = acknowledge(world, memory, number);
        self.handle(world, memory, number, interrupt, &mut outcome, watch);
        outcome
    }

    /// The handler of an interrupt begins.
    pub(super) fn handle<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        interrupt: Physical,
        outcome: &mut Outcome,
        watch: &mut impl Watch,
    ) {
        outcome.spurious_notification |= interrupt == Physical::Notify;
        let pcpu = &mut world.pcpus[number];
        match interrupt {
            Physical::None | Physical::Reschedule => return,
            // Its routine is about the vCPU that the pCPU runs.
            Physical::Notify if pcpu.current() == 0 => return,
            Physical::Notify | Physical::Wakeup => {}
        }
        pcpu.set_handler(interrupt);
        pcpu.set_next(0);
        pcpu.set_memory(0);
        let runner = handler_runner(world, number);
        let progress = self.begin(world, memory, runner, routine_of(interrupt), watch);
        handled(world, number, progress, outcome);
    }

    /// The handler's next step.
    pub(super) fn handler<M: Memory>(
        &self,
        world: &mut World,
        memory: &M,
        number: usize,
        watch: &mut impl Watch,
    ) -> Outcome {
        let pcpu = world.pcpus[number];
        let at = (routine_of(pcpu.handler()), pcpu.next(), pcpu.memory());
        let (progress, effects) = self.step(world, memory, handler_runner(world, number), at, watch);
        let mut outcome = Outcome { violation: effects.violation, ..Outcome::default() };
        world.pcpus[number].set_woke(pcpu.woke() || effects.woke);
        handled(world, number, progress, &mut outcome);
        outcome
    }
}

fn handler_runner(world: &World, number: usize) -> Runner {
    let pcpu = world.pcpus[number];
    match pcpu.handler() {
        Physical::Wakeup => Runner {
            vcpu: usize::from(pcpu.walked().saturating_sub(1)),
            pcpu: Some(number),
            own: false,
            walks: true,
            agent: 0,
        },
        _ => Runner {
            vcpu: usize::from(pcpu.current().saturating_sub(1)),
            pcpu: Some(number),
            own: true,
            walks: false,
            agent: 0,
        },
    }
}

fn handled(world: &mut World, number: usize, progress: Progress, outcome: &mut Outcome) {
    let pcpu = &mut world.pcpus[number];
    match progress {
        Progress::More { next, memory } => {
            pcpu.set_next(next);
            pcpu.set_memory(memory);
        }
        Progress::Ended { .. } => {
            outcome.spurious_notification |= pcpu.handler() == Physical::Wakeup && !pcpu.woke();
            pcpu.set_handler(Physical::None);
            pcpu.set_woke(false);
            pcpu.set_locked(false);
            pcpu.set_walked(0);
            pcpu.set_next(0);
            pcpu.set_memory(0);
        }
    }
}

/// The routine of a handler.
pub(super) const fn routine_of(handler: Physical) -> Routine {
    match handler {
        Physical::Wakeup => Routine::OnWakeup,
        _ => Routine::OnNotify,
    }
}
