//! Where a vCPU is in its program, and what it does next.

use super::action::{Action, Actor, Moment, Teller};
use super::awaited::Awaited;
use super::code::{GuestCode, Listing};
use super::frames::Frames;
use super::program::Instruction;
use super::sends::Via;
use super::shared::GuestMemory;
use super::sight::Sight;
use super::statement::Target;
use crate::arch::apic_base::ApicBase;
use crate::arch::apic_register::{SVR_ENABLED, XApicLdr};
use crate::arch::msr::{IA32_APIC_BASE, X2APIC_EOI, X2APIC_FIRST, X2APIC_SVR, X2APIC_TPR};
use crate::arch::{ApicMode, ApicRegister, DestinationMode, Icr, IcrLow, Shorthand, X2ApicLdr};
use crate::memory::Word;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::hash::{Hash, Hasher};
use std::mem::offset_of;

/// Where a vCPU is.
///
/// Its fields stand in this order: what the acts of a program use comes first.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Cursor {
    random: Xoshiro256PlusPlus,
    frames: Frames,
    /// The interrupt command of which ICR_HI is written, and where the program goes on when ICR_LO is too.
    half: Icr,
    after_half: u32,
    /// It has been at the beginning.
    begun: bool,
    /// The next of several targets.
    next_target: Option<u32>,
    /// Signals counted when this vCPU last waited for each.
    waited: Vec<u64>,
    calls: u64,
    received: u64,
}

impl Cursor {
    /// So many bytes at its beginning are what the acts of a program use that is one loop.
    pub const PROGRAM: usize = offset_of!(Self, frames) + Frames::PROGRAM;
    /// So many are what they use together with handlers.
    pub const HANDLERS: usize = offset_of!(Self, half);

    /// At the beginning of vCPU `vcpu`'s program. `seed` decides all that is random.
    #[must_use]
    pub fn new(code: &GuestCode, vcpu: u32, seed: u64) -> Self {
        let mut cursor = Self {
            frames: Frames::IDLE,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            waited: Vec::new(),
            calls: 0,
            received: 0,
            next_target: None,
            half: Icr::from_xapic(0, 0),
            after_half: GuestCode::IDLE,
            begun: false,
        };
        cursor.restart(code, vcpu);
        cursor
    }

    /// Back to the beginning, as after INIT and a start-up IPI; or on where it was, see [`GuestCode::new`].
    pub fn restart(&mut self, code: &GuestCode, vcpu: u32) {
        if let Some(start_up) = code.start_up().filter(|_| self.begun) {
            if !self.interruptible() {
                self.frames.top.next = self.after_half;
                self.again();
            }
            self.frames.back_to_program();
            self.frames.enter(start_up, true, 0);
            return;
        }
        self.begun = true;
        self.frames = Frames::IDLE;
        self.next_target = None;
        if let Some(program) = code.entry_of(vcpu) {
            self.frames.enter(program, true, 0);
        }
    }

    /// An interrupt is delivered to a guest that is [interruptible](Self::interruptible): its handler runs next, with
    /// interrupts off. `computing` cycles of a computation are left for afterwards.
    #[inline]
    pub fn interrupt(&mut self, code: &GuestCode, vector: u8, interrupts: bool, computing: u32) {
        if let Some(handler) = code.handler(vector) {
            self.frames.enter(handler, interrupts, computing);
        }
    }

    /// The same at VM entry, where KVM injects it. If the first half of an interrupt command exited, the second one is written
    /// before anything else: a kernel has interrupts off there.
    pub fn inject(&mut self, code: &GuestCode, vector: u8, interrupts: bool, computing: u32) {
        if self.interruptible() || code.handler(vector).is_none() {
            return self.interrupt(code, vector, interrupts, computing);
        }
        self.frames.top.next = self.after_half;
        self.interrupt(code, vector, interrupts, computing);
        self.after_half = std::mem::replace(&mut self.frames.top.next, GuestCode::SECOND_HALF);
    }

    /// Whether an interrupt may come now: not between the two halves of an interrupt command.
    #[must_use]
    pub const fn interruptible(&self) -> bool {
        self.frames.top.next != GuestCode::SECOND_HALF
    }

    /// Whether its next act neither changes nor sees anything that another vCPU sees or changes. `lasts`: the run is not told
    /// to end before that act, which an endless loop would see.
    #[inline]
    #[must_use]
    pub fn keeps_to_itself(&self, code: &GuestCode, lasts: bool) -> bool {
        match code.at(self.frames.top.next) {
            // The end of a handler; that of the program is the run's business.
            Some(Instruction::End) => self.frames.in_handler(),
            Some(Instruction::Eoi | Instruction::LoopBegin { .. } | Instruction::Goto(_)) => true,
            Some(Instruction::LoopEnd { times, .. }) => times.is_some() || lasts,
            _ => false,
        }
    }

    /// Whether its next act waits for another vCPU, or for an interrupt.
    #[must_use]
    pub fn waits(&self, code: &GuestCode) -> bool {
        match code.at(self.frames.top.next) {
            None => true,
            Some(Instruction::End) => !self.frames.in_handler(),
            Some(instruction) => instruction.awaits().is_some(),
        }
    }

    /// What its next act waits for, if it is one that may wait.
    #[must_use]
    pub fn awaits(&self, code: &GuestCode) -> Option<Awaited> {
        code.at(self.frames.top.next)?.awaits()
    }

    /// How far its program is, whatever handlers do meanwhile; two times it is the same where it did not go on. `computing`
    /// cycles are left of what runs.
    pub fn hash_program(&self, computing: u32, into: &mut impl Hasher) {
        self.frames.program(computing).hash(into);
    }

    /// Whether it does nothing but compute until the run ends, unless it is interrupted.
    #[must_use]
    pub fn only_computes(&self, code: &GuestCode) -> bool {
        !self.frames.in_handler() && code.only_computes(self.frames.top.next)
    }

    /// To whom its next act sends an interrupt, and which, if it does and that is known. A loop may end there instead.
    #[must_use]
    pub fn sends_to(&self, code: &GuestCode, me: u32, vcpus: u32) -> Option<(u32, u8)> {
        let next = match code.at(self.frames.top.next)? {
            Instruction::LoopEnd { start, .. } => code.at(*start)?,
            next => next,
        };
        let Instruction::Send { low, to } = next else { return None };
        let target = match *to {
            Target::Vcpu(target) => target,
            Target::Next => (me + 1) % vcpus.max(1),
            Target::Random => another(&mut self.random.clone(), me, vcpus)?,
            Target::Raw(_) | Target::Others => return None,
        };
        Some((target, low.vector()))
    }

    /// Whether its next act begins a computation: that keeps to itself too, and no interrupt comes of it at once.
    #[inline]
    #[must_use]
    pub fn computes(&self, code: &GuestCode) -> bool {
        matches!(code.at(self.frames.top.next), Some(Instruction::Compute { .. }))
    }

    /// What the vCPU does next.
    pub fn next<S: Sight + Copy>(&mut self, code: &GuestCode, sight: S, moment: Moment) -> Action {
        self.step(code.listing(), Teller { sight, moment })
    }

    /// The vCPU's next act, done by `actor`.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the acts of the actor are to be inlined where they are read")]
    pub fn step<A: Actor>(&mut self, code: Listing<'_>, actor: A) -> A::Step {
        let Some(instruction) = code.at(self.frames.top.next) else { return self.end(actor) };
        self.frames.top.next += 1;
        match instruction {
            Instruction::End => self.end(actor),
            Instruction::Compute { cycles } => actor.act(Action::Compute { cycles: *cycles }),
            Instruction::Eoi if actor.sight().mode() == ApicMode::X2Apic => {
                actor.act(Action::Wrmsr { msr: X2APIC_EOI, value: 0 })
            }
            Instruction::LoopEnd { number, start, times: Some(times) } => {
                let rounds = self.frames.rounds(*number);
                *rounds += 1;
                if *rounds < *times {
                    self.frames.top.next = *start;
                }
                actor.act(Action::Internal)
            }
            Instruction::LoopEnd { start, times: None, .. } => {
                if !actor.sight().stopping() {
                    self.frames.top.next = *start;
                }
                actor.act(Action::Internal)
            }
            Instruction::Signal { signal } => {
                actor.sight().memory().signal(*signal);
                actor.act(Action::Told)
            }
            Instruction::Wait { signal, count } => {
                if self.signalled(*signal, *count, actor.sight().memory()) {
                    return actor.act(Action::Internal);
                }
                self.again();
                let on = actor.sight().memory().signal_address(*signal);
                actor.act(Action::Spin { on })
            }
            Instruction::Send { low, to: Target::Vcpu(target) } if actor.sight().mode() == ApicMode::X2Apic => {
                let destination = destination(Target::Vcpu(*target), *target, *low, &actor.sight());
                actor.act(Action::Send { icr: Icr { low: *low, destination }, via: Via::X2ApicIcr })
            }
            // All by name: where nothing else can stand, the jump needs no bound.
            other @ (Instruction::Send { .. }
            | Instruction::Shorthand { .. }
            | Instruction::SelfIpi { .. }
            | Instruction::Hlt
            | Instruction::Eoi
            | Instruction::Interrupts { .. }
            | Instruction::Tpr { .. }
            | Instruction::Apic { .. }
            | Instruction::Register { .. }
            | Instruction::Call { .. }
            | Instruction::Answer
            | Instruction::AwaitCalls
            | Instruction::Poll
            | Instruction::Lock { .. }
            | Instruction::Unlock { .. }
            | Instruction::Message { .. }
            | Instruction::Receive
            | Instruction::LoopBegin { .. }
            | Instruction::Choose { .. }
            | Instruction::Goto(_)
            | Instruction::Until { .. }
            | Instruction::Sleep { .. }
            | Instruction::Command { .. }
            | Instruction::SecondHalf
            | Instruction::LogicalId) => {
                let action = self.rarer(other, &actor.sight(), actor.moment());
                actor.act_seldom(action)
            }
        }
    }

    /// The end of a program or a handler.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as step")]
    fn end<A: Actor>(&mut self, actor: A) -> A::Step {
        match self.frames.leave() {
            Some((interrupts, computing)) => actor.act(Action::Return { interrupts, computing }),
            None => actor.act_seldom(Action::Idle),
        }
    }

    /// Instructions of which programs do not have many.
    #[inline(never)]
    fn rarer<S: Sight>(&mut self, instruction: &Instruction, sight: &S, moment: Moment) -> Action {
        match instruction {
            Instruction::Hlt => Action::Hlt,
            Instruction::SecondHalf => {
                self.frames.top.next = self.after_half;
                Action::Send { icr: self.half, via: Via::Mmio }
            }
            Instruction::Interrupts { enabled } => Action::Interrupts { enabled: *enabled },
            Instruction::Goto(to) => {
                self.frames.top.next = *to;
                Action::Internal
            }
            Instruction::LoopBegin { number } => {
                *self.frames.rounds(*number) = 0;
                Action::Internal
            }
            Instruction::Choose { branches } => {
                let sum = branches.last().map_or(1, |&(sum, _)| sum);
                let drawn = below(&mut self.random, sum);
                if let Some(&(_, start)) = branches.iter().find(|&&(upper, _)| drawn < upper) {
                    self.frames.top.next = start;
                }
                Action::Internal
            }
            Instruction::Answer => {
                sight.memory().answer(sight.vcpu());
                Action::Told
            }
            Instruction::Unlock { lock } => {
                sight.memory().unlock(*lock);
                Action::Told
            }
            Instruction::Lock { lock } => {
                let taken = sight.memory().lock(*lock);
                self.spin_unless(taken, sight.memory().signal_address(*lock))
            }
            Instruction::AwaitCalls => {
                let answered = sight.memory().answered(sight.vcpu()) >= self.calls;
                self.spin_unless(answered, sight.memory().answered_address(sight.vcpu()))
            }
            Instruction::Poll => {
                let over = sight.memory().poll(sight.vcpu(), sight.stopping());
                self.spin_unless(over, sight.memory().polling_address(sight.vcpu()))
            }
            Instruction::Receive => self.receive(sight, moment.interrupts),
            Instruction::Until { time } if moment.now < *time => {
                let time = *time;
                self.again();
                Action::Until { time }
            }
            Instruction::Sleep { until } if moment.now < *until => Action::Sleep { until: *until },
            other => self.write(other, sight),
        }
    }

    /// Goes on, or looks again.
    fn spin_unless(&mut self, done: bool, on: u64) -> Action {
        if done {
            return Action::Internal;
        }
        self.again();
        Action::Spin { on }
    }

    /// The instruction that was just read comes again.
    fn again(&mut self) {
        self.frames.top.next -= 1;
    }

    /// Whether a signal has been counted as often as this vCPU waits for.
    #[inline]
    fn signalled<W: Word>(&mut self, signal: u16, count: u32, memory: &GuestMemory<'_, W>) -> bool {
        let Some(waited) = self.waited.get_mut(usize::from(signal)) else {
            return self.signalled_first(signal, count, memory);
        };
        let until = waited.wrapping_add(u64::from(count));
        let done = memory.signals(signal) >= until;
        if done {
            *waited = until;
        }
        done
    }

    /// The same when it waits for it for the first time.
    #[cold]
    fn signalled_first<W: Word>(&mut self, signal: u16, count: u32, memory: &GuestMemory<'_, W>) -> bool {
        self.waited.resize(usize::from(signal) + 1, 0);
        self.signalled(signal, count, memory)
    }

    fn receive<S: Sight>(&mut self, sight: &S, interrupts: bool) -> Action {
        if sight.memory().messages(sight.vcpu()) > self.received {
            self.received += 1;
            sight.memory().set_idle(sight.vcpu(), false);
            return if interrupts { Action::Internal } else { Action::Interrupts { enabled: true } };
        }
        self.again();
        if interrupts {
            // CLI; look once more; STI and HLT: an interrupt that comes in between ends the HLT.
            return Action::Interrupts { enabled: false };
        }
        sight.memory().set_idle(sight.vcpu(), true);
        if sight.memory().messages(sight.vcpu()) > self.received { Action::Internal } else { Action::Hlt }
    }

    /// Instructions that write to the local APIC.
    fn write<S: Sight>(&mut self, instruction: &Instruction, sight: &S) -> Action {
        let x2apic = sight.mode() == ApicMode::X2Apic;
        match instruction {
            Instruction::Eoi => Action::Write { offset: ApicRegister::EOI.offset(), value: 0 },
            Instruction::Tpr { value } if x2apic => Action::Wrmsr { msr: X2APIC_TPR, value: u64::from(*value) },
            Instruction::Tpr { value } => {
                Action::Write { offset: ApicRegister::TPR.offset(), value: u32::from(*value) }
            }
            Instruction::Register { offset, value } => register(*offset, *value, x2apic),
            Instruction::Apic { mode } => self.switch(*mode, sight),
            Instruction::SelfIpi { vector } => self.send_self(*vector, sight),
            Instruction::Command { icr, via: Via::Mmio } => self.send(*icr, ApicMode::XApic),
            Instruction::Command { icr, via } => Action::Send { icr: *icr, via: *via },
            Instruction::LogicalId if x2apic => Action::Internal,
            Instruction::LogicalId => {
                Action::Write { offset: ApicRegister::LDR.offset(), value: XApicLdr::flat(sight.vcpu()).into_bits() }
            }
            Instruction::Shorthand { low } => self.send(Icr { low: *low, destination: 0 }, sight.mode()),
            Instruction::Send { low, to } => match self.target(*to, sight) {
                Some(target) => {
                    let destination = destination(*to, target, *low, sight);
                    self.send(Icr { low: *low, destination }, sight.mode())
                }
                None => Action::Internal,
            },
            Instruction::Call { to, vector } => match self.target(*to, sight) {
                Some(target) => {
                    self.calls += 1;
                    let wanted = sight.memory().call(sight.vcpu(), target);
                    if wanted && sight.memory().tell_polling(target) {
                        return Action::Told;
                    }
                    self.send_if(wanted, *vector, target, sight)
                }
                None => Action::Internal,
            },
            Instruction::Message { to, vector } => match self.target(*to, sight) {
                Some(target) => {
                    let wanted = sight.memory().leave_message(target);
                    self.send_if(wanted, *vector, target, sight)
                }
                None => Action::Internal,
            },
            _ => Action::Internal,
        }
    }

    /// The next step on the way to a mode; the last one enables the local APIC by software, as a kernel does.
    fn switch<S: Sight>(&mut self, mode: ApicMode, sight: &S) -> Action {
        if sight.mode() == mode {
            return match mode {
                ApicMode::Disabled => Action::Internal,
                ApicMode::XApic => Action::Write { offset: ApicRegister::SVR.offset(), value: SVR_ENABLED },
                ApicMode::X2Apic => Action::Wrmsr { msr: X2APIC_SVR, value: u64::from(SVR_ENABLED) },
            };
        }
        self.again();
        let next = if sight.mode().can_become(mode) {
            mode
        } else {
            match mode {
                ApicMode::XApic => ApicMode::Disabled,
                ApicMode::X2Apic | ApicMode::Disabled => ApicMode::XApic,
            }
        };
        let value = ApicBase::in_mode(next, sight.base().bootstrap()).with_page(sight.base().page());
        Action::Wrmsr { msr: IA32_APIC_BASE, value: value.into_bits() }
    }

    /// Whom a target is; none if there is nobody, or no further one. Targets that are several come one by one.
    fn target<S: Sight>(&mut self, to: Target, sight: &S) -> Option<u32> {
        let me = sight.vcpu();
        match to {
            Target::Vcpu(vcpu) => Some(vcpu),
            Target::Raw(_) => Some(0),
            Target::Next => (sight.vcpus() > 1).then(|| (me + 1) % sight.vcpus()),
            Target::Random => another(&mut self.random, me, sight.vcpus()),
            Target::Others => {
                let mut target = self.next_target.unwrap_or(0);
                if target == me {
                    target += 1;
                }
                if target >= sight.vcpus() {
                    self.next_target = None;
                    return None;
                }
                self.next_target = Some(target + 1);
                self.again();
                Some(target)
            }
        }
    }

    fn send_if<S: Sight>(&mut self, wanted: bool, vector: u8, target: u32, sight: &S) -> Action {
        if !wanted {
            return Action::Internal;
        }
        let low = IcrLow::new().with_vector(vector);
        self.send(Icr { low, destination: destination(Target::Vcpu(target), target, low, sight) }, sight.mode())
    }

    fn send_self<S: Sight>(&mut self, vector: u8, sight: &S) -> Action {
        if sight.mode() == ApicMode::X2Apic {
            return self_ipi_msr(vector);
        }
        let low = IcrLow::new().with_vector(vector).with_shorthand(Shorthand::Self_);
        self.send(Icr { low, destination: 0 }, sight.mode())
    }

    fn send(&mut self, icr: Icr, mode: ApicMode) -> Action {
        if mode == ApicMode::X2Apic {
            return Action::Send { icr, via: Via::X2ApicIcr };
        }
        if icr.low.shorthand() != Shorthand::None {
            return Action::Send { icr, via: Via::Mmio };
        }
        self.half = icr;
        self.after_half = std::mem::replace(&mut self.frames.top.next, GuestCode::SECOND_HALF);
        Action::Write { offset: ApicRegister::ICR_HIGH.offset(), value: icr.to_xapic().1 }
    }
}

/// A write of a register by its page offset. Any register may be one that sends an interrupt.
fn register(offset: u16, value: u32, x2apic: bool) -> Action {
    let (icr, self_ipi) = (ApicRegister::ICR_LOW.offset(), ApicRegister::SELF_IPI.offset());
    if offset == icr {
        let via = if x2apic { Via::X2ApicIcr } else { Via::Mmio };
        return Action::Send { icr: Icr { low: IcrLow::from_bits(value), destination: 0 }, via };
    }
    match u8::try_from(value) {
        Ok(vector) if x2apic && offset == self_ipi => self_ipi_msr(vector),
        _ if x2apic => Action::Wrmsr { msr: X2APIC_FIRST + u32::from(offset >> 4), value: u64::from(value) },
        _ => Action::Write { offset, value },
    }
}

fn self_ipi_msr(vector: u8) -> Action {
    let low = IcrLow::new().with_vector(vector).with_shorthand(Shorthand::Self_);
    Action::Send { icr: Icr { low, destination: 0 }, via: Via::SelfIpiMsr }
}

/// What the sender writes to reach `target`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as step")]
fn destination<S: Sight>(to: Target, target: u32, low: IcrLow, sight: &S) -> u32 {
    if let Target::Raw(destination) = to {
        return destination;
    }
    let identity = sight.identity(target);
    match (low.destination_mode(), sight.mode()) {
        (DestinationMode::Physical, ApicMode::X2Apic) => identity.x2apic_id(),
        (DestinationMode::Physical, _) => u32::from(identity.xapic_id()),
        (DestinationMode::Logical, ApicMode::X2Apic) => X2ApicLdr::of_id(identity.x2apic_id()).into_bits(),
        (DestinationMode::Logical, _) => u32::from(identity.logical_id()),
    }
}

/// One of so many vCPUs, not this one; none if there is no other.
#[inline]
fn another(random: &mut Xoshiro256PlusPlus, me: u32, vcpus: u32) -> Option<u32> {
    let others = u64::from(vcpus.checked_sub(1).filter(|&others| others > 0)?);
    let drawn = below(random, others) as u32;
    Some(if drawn >= me { drawn + 1 } else { drawn })
}

/// A number below `bound`, evenly enough: the bias is below 2^-32 for the bounds that programs have.
fn below(random: &mut Xoshiro256PlusPlus, bound: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(bound.max(1))) >> 64) as u64
}
