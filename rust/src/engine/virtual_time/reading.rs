//! Memory of large machines is asked for before it is used.
//!
//! Those to whom interrupts are on their way are known in order, and in the largest machines those whose own time comes.
//! Each is asked for in steps: what a step leads to can only be found where what the one before asked for has arrived.

use super::diary::{Coming, STEPS};
use super::pcpu::{Pcpu, Phase};
use super::simulation::{Simulation, Whereabouts};
use crate::arch::Icr;
use crate::arch::msr::X2APIC_ICR;
use crate::engine::machine::Runner;
use crate::hypervisor::Instruction;
use crate::memory::{Cache, prefetch, prefetch_lines};
use std::cell::Cell;

/// So many arrivals before it is used the memory of a pCPU is asked for, and that of its guest.
const ARRIVALS: [usize; 2] = [8, 4];
/// So many turns before they are used the memory of a pCPU is asked for, its guest's, that of the guest's target, and the
/// target's descriptor. Where they are more, what came first is gone from the nearest cache when it is used.
const TURNS: [usize; STEPS] = [8, 5, 3, 1];

/// So many turns may be between the last two steps.
const AIMS: usize = 8;

/// Whom a guest sends an interrupt to next, from the step in which that is found out to the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Where the guest runs.
    pcpu: u32,
    target: u32,
    slot: u32,
}

/// For a few turns, by their numbers' last bits.
pub(super) type Aims = [Cell<Option<Aim>>; AIMS];

impl Simulation<'_, '_> {
    /// A turn begins: of those that follow, who is a step nearer is asked for.
    #[inline]
    pub(super) fn read_ahead_of_turns(&mut self, next: u32) {
        if self.calendar.is_in_order() {
            while let Some(coming) = self.calendar.coming(TURNS) {
                self.read_ahead_in_order(coming);
            }
        } else if let Some(at) = self.pcpus.get(next as usize) {
            prefetch_lines(at, Pcpu::INTERRUPTS, Cache::First);
        }
    }

    /// With registers of its own.
    #[inline(never)]
    fn read_ahead_in_order(&mut self, Coming { turn, actors: [first, second, third, fourth] }: Coming) {
        self.calendar.ask_for(first, Cache::Second);
        if let Some(at) = self.pcpus.get(first as usize) {
            prefetch_lines(at, Pcpu::ACTS, Cache::Second);
        }
        if let Some(at) = self.pcpus.get(second as usize) {
            if at.phase.get() != Phase::Guest {
                at.read_ahead_of_root();
            } else if at.attention.get() {
                prefetch_lines(at, Pcpu::INTERRUPTS, Cache::Second);
                at.read_ahead_of_guest(Cache::Second);
            } else {
                at.read_ahead_of_act();
            }
        }
        if let Some(at) = self.pcpus.get(third as usize) {
            let (attention, in_root) = (at.attention.get(), at.phase.get() != Phase::Guest);
            let aim = at.look_at_runner(|runner| {
                if in_root {
                    self.ask_for_root(third, at, runner)
                } else if attention {
                    // Who takes an interrupt seldom sends one in the same turn.
                    self.ask_for_delivery(at, runner);
                    None
                } else {
                    self.ask_for_target(third, runner)
                }
            });
            self.aims[(turn + TURNS[2]) % AIMS].set(aim.flatten());
        }
        let aim = self.aims[(turn + TURNS[3]) % AIMS].get().filter(|aim| aim.pcpu == fourth);
        if let Some(at) = self.pcpus.get(fourth as usize) {
            if at.phase.get() != Phase::Guest {
                aim.inspect(|aim| self.ask_for_target_of_root(aim.slot));
            } else if let Some(aim) = aim {
                at.look_at_runner(|runner| self.ask_for_descriptor(aim, runner));
            }
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
            self.calendar.ask_for(pcpu, Cache::First);
            if let Some(at) = self.pcpus.get(pcpu as usize) {
                prefetch_lines(at, Pcpu::INTERRUPTS, Cache::First);
            }
        }
        if let Some((pcpu, of_many)) = self.calendar.arrival_after(guest)
            && let Some(at) = self.pcpus.get(pcpu as usize)
        {
            if of_many && self.calendar.is_in_order() {
                // Their turns come when all have arrived.
                prefetch(at.requests, 0, Cache::First);
            } else {
                at.read_ahead();
            }
        }
    }

    /// Of the guest that the pCPU runs: what it takes.
    #[inline]
    fn ask_for_delivery(&self, at: &Pcpu<'_>, runner: &Runner) {
        prefetch(at.requests, 0, Cache::Second);
        if let Some(vector) = at.pages.get().and_then(|pages| pages.highest_posted()) {
            self.account.ask_for(runner.task.slot, vector);
        }
    }

    /// Of the guest that the pCPU runs: to whom it sends an interrupt next.
    #[inline]
    fn ask_for_target(&self, pcpu: u32, runner: &Runner) -> Option<Aim> {
        let vm = self.vms.get(runner.task.vm as usize)?;
        let (me, vcpus) = (runner.task.vcpu.vcpu(), vm.vcpus.get());
        let (target, vector) = runner.cursor.sends_to(&vm.guest.code, me, vcpus)?;
        let slot = vm.first_slot + target;
        runner.task.vcpu.vp().ask_for_entry(self.memory, target);
        prefetch(&self.whereabouts, slot as usize, Cache::Second);
        self.account.ask_for(slot, vector);
        Some(Aim { pcpu, target, slot })
    }

    /// Of the vCPU that is in root mode on the pCPU: what the host looks at, and to whom an IPI goes that exited.
    #[inline]
    fn ask_for_root(&self, pcpu: u32, at: &Pcpu<'_>, runner: &Runner) -> Option<Aim> {
        let vm = self.vms.get(runner.task.vm as usize)?;
        let words = |vcpu| vm.vm.vcpu_words(self.memory, vcpu);
        prefetch(at.requests, 0, Cache::Second);
        prefetch(&self.slots, runner.task.slot as usize, Cache::Second);
        self.memory.ask_for(runner.task.vcpu.vp().vmcs.descriptor);
        words(runner.task.vcpu.vcpu())?.read_ahead();
        self.account.ask_for_traffic(runner.task.slot);
        let Instruction::Wrmsr { msr: X2APIC_ICR, value } = at.left.get()?.instruction else { return None };
        let icr = Icr::from_x2apic(value);
        if !vm.plain_ids || icr.destination >= vm.vcpus.get() {
            return None;
        }
        let slot = vm.first_slot + icr.destination;
        words(icr.destination)?.read_ahead();
        prefetch(&self.slots, slot as usize, Cache::Second);
        prefetch(&self.whereabouts, slot as usize, Cache::Second);
        self.account.ask_for(slot, icr.low.vector());
        Some(Aim { pcpu, target: icr.destination, slot })
    }

    /// The same a step later.
    #[inline]
    fn ask_for_target_of_root(&self, slot: u32) {
        if let Some(Some(known)) = self.slots.get(slot as usize) {
            prefetch(known.pid, 0, Cache::Second);
        }
        if let Some(&Whereabouts::OnPcpu(pcpu)) = self.whereabouts.get(slot as usize) {
            self.calendar.ask_for_expected(pcpu, Cache::Second);
        }
    }

    /// A step after [`ask_for_target`](Self::ask_for_target).
    #[inline]
    fn ask_for_descriptor(&self, aim: Aim, runner: &Runner) {
        runner.task.vcpu.vp().ask_for_descriptor(self.memory, aim.target);
        if let Some(&Whereabouts::OnPcpu(pcpu)) = self.whereabouts.get(aim.slot as usize) {
            self.calendar.ask_for_expected(pcpu, Cache::Second);
        }
    }
}
