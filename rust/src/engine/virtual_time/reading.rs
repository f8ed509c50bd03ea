//! Memory of large machines is asked for before it is used.
//!
//! Those to whom interrupts are on their way are known in order, and in the largest machines those whose own time comes.
//! Each is asked for in steps: what a step leads to can only be found where what the one before asked for has arrived.

use super::pcpu::Pcpu;
use super::simulation::{Simulation, VmState, Whereabouts};
use crate::engine::machine::Runner;
use crate::memory::{prefetch, prefetch_first};

/// So many arrivals before it is used the memory of a pCPU is asked for, and that of its guest.
const ARRIVALS: [usize; 2] = [8, 4];
/// So many turns before they are used the memory of a pCPU is asked for, its guest's, that of the guest's target, and the
/// target's descriptor. Where they are more, what came first is gone from the nearest cache when it is used.
const TURNS: [usize; 4] = [8, 5, 3, 1];
/// Lines of a pCPU that most turns use.
const LINES: usize = 4;

impl<'m, 'o> Simulation<'m, 'o> {
    /// A turn begins: of those that follow, who is a step nearer is asked for.
    #[inline]
    pub(super) fn read_ahead_of_turns(&mut self, next: u32) {
        if !self.calendar.is_in_order() {
            if let Some(at) = self.pcpus.get(next as usize) {
                prefetch_first::<_, LINES>(at);
            }
            return;
        }
        while let Some(at) = self.soon(0) {
            prefetch_first::<_, LINES>(at);
        }
        while let Some(at) = self.soon(1) {
            if at.attention.get() {
                at.read_ahead();
            } else {
                at.read_ahead_of_act();
            }
        }
        while let Some(at) = self.soon(2) {
            at.look_at_runner(|runner| self.ask_for_target(runner));
        }
        while let Some(at) = self.soon(3) {
            at.look_at_runner(|runner| self.ask_for_descriptor(runner));
        }
    }

    /// A turn ends. Where nobody but the next is known, it is asked for in two steps.
    #[inline]
    pub(super) fn read_ahead_after_turn(&self, next: u32) {
        if !self.calendar.is_in_order()
            && let Some(at) = self.pcpus.get(next as usize)
        {
            at.read_ahead();
        }
    }

    /// An interrupt arrives: those behind it are a step nearer.
    #[inline]
    pub(super) fn read_ahead_of_arrivals(&self) {
        let [pcpu, guest] = ARRIVALS;
        if let Some((pcpu, _)) = self.calendar.arrival_after(pcpu) {
            self.calendar.ask_for(pcpu);
            if let Some(at) = self.pcpus.get(pcpu as usize) {
                prefetch_first::<_, LINES>(at);
            }
        }
        if let Some((pcpu, of_many)) = self.calendar.arrival_after(guest)
            && let Some(at) = self.pcpus.get(pcpu as usize)
        {
            if of_many && self.calendar.is_in_order() {
                // Their turns come when all have arrived.
                prefetch(at.requests, 0);
            } else {
                at.read_ahead();
            }
        }
    }

    #[inline]
    fn soon(&mut self, step: usize) -> Option<&'o Pcpu<'m>> {
        self.pcpus.get(self.calendar.soon(step, TURNS[step])? as usize)
    }

    /// To whom the guest sends an interrupt next, and which.
    fn target(&self, runner: &Runner) -> Option<(&'o VmState<'m>, u32, u8)> {
        let vm = self.vms.get(runner.task.vm as usize)?;
        let (target, vector) = runner.cursor.sends_to(&vm.guest.code, runner.task.vcpu.vcpu(), vm.vcpus.get())?;
        Some((vm, target, vector))
    }

    fn ask_for_target(&self, runner: &Runner) {
        let Some((vm, target, vector)) = self.target(runner) else { return };
        let slot = vm.first_slot + target;
        runner.task.vcpu.vp().ask_for_entry(self.memory, target);
        prefetch(&self.whereabouts, slot as usize);
        self.stopwatch.ask_for(slot, vector);
        self.account.ask_for(slot, vector);
    }

    fn ask_for_descriptor(&self, runner: &Runner) {
        let Some((vm, target, _)) = self.target(runner) else { return };
        runner.task.vcpu.vp().ask_for_descriptor(self.memory, target);
        if let Some(&Whereabouts::OnPcpu(pcpu)) = self.whereabouts.get((vm.first_slot + target) as usize) {
            self.calendar.ask_for(pcpu);
        }
    }
}
