//! Where a vCPU is in its program, and what it does next.

use super::code::{Entry, GuestCode};
use super::program::Instruction;
use super::sends::Via;
use super::shared::GuestMemory;
use super::statement::Target;
use crate::arch::apic_base::ApicBase;
use crate::arch::apic_register::{SVR_ENABLED, XApicLdr};
use crate::arch::msr::{IA32_APIC_BASE, X2APIC_EOI, X2APIC_FIRST, X2APIC_SVR, X2APIC_TPR};
use crate::arch::{ApicMode, ApicRegister, DestinationMode, Icr, IcrLow, Shorthand, X2ApicLdr};
use crate::hypervisor::ApicIdentity;
use crate::memory::Word;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use smallvec::SmallVec;

/// What the vCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// WRMSR that sends no interrupt.
    Wrmsr {
        /// The register.
        msr: u32,
        /// The value.
        value: u64,
    },
    /// A 32-bit write to the APIC page that sends no interrupt.
    Write {
        /// Page offset.
        offset: u16,
        /// The value.
        value: u32,
    },
    /// The write that sends an interrupt; in xAPIC mode it is that of ICR_LO, ICR_HI is written already.
    Send {
        /// The whole value.
        icr: Icr,
        /// How it is written.
        via: Via,
    },
    /// Computation of so many cycles.
    Compute {
        /// Cycles.
        cycles: u32,
    },
    /// CLI or STI.
    Interrupts {
        /// RFLAGS.IF from now on.
        enabled: bool,
    },
    /// HLT; RFLAGS.IF is set with it (STI; HLT).
    Hlt,
    /// It spins on something that another vCPU must do.
    Spin {
        /// Physical address of the word that it looks at.
        on: u64,
    },
    /// Something of the program's own, without a word for the processor.
    Internal,
    /// The same, and words changed that others spin on.
    Told,
    /// IRET: the handler is done; RFLAGS.IF is what it was.
    Return {
        /// RFLAGS.IF.
        interrupts: bool,
        /// Cycles of the computation that was interrupted.
        computing: u32,
    },
    /// The program is at its end: the guest idles.
    Idle,
    /// It runs on until a cycle, and is asked again then.
    Until {
        /// The cycle.
        time: u64,
    },
    /// HLT as above, which a timer of the guest's ends at a cycle if no interrupt does before.
    Sleep {
        /// The cycle.
        until: u64,
    },
}

/// Who does a vCPU's acts. Where they are inlined into [`Cursor::step`], no [`Action`] goes through memory.
pub trait Actor {
    /// What comes of an act.
    type Step;

    /// Does it.
    fn act(&mut self, action: Action) -> Self::Step;
}

/// Does nothing but tell the act.
struct Told;

impl Actor for Told {
    type Step = Action;

    #[inline]
    fn act(&mut self, action: Action) -> Action {
        action
    }
}

/// What a vCPU sees of the others.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, 'm, W, I> {
    /// Its number.
    pub vcpu: u32,
    /// How many vCPUs its guest has.
    pub vcpus: u32,
    /// The mode of its local APIC.
    pub mode: ApicMode,
    /// IA32_APIC_BASE.
    pub base: ApicBase,
    /// The guest's shared memory.
    pub memory: &'a GuestMemory<'m, W>,
    /// How each vCPU is addressed.
    pub identity: &'a I,
    /// Endless loops end.
    pub stopping: bool,
}

/// What changes for a vCPU from act to act.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// RFLAGS.IF.
    pub interrupts: bool,
    /// Cycles since the start. Threads have no clock: they say `u64::MAX`, where every wait for a cycle is over.
    pub now: u64,
}

/// Where a vCPU is in a program or a handler.
#[derive(Clone, Copy, Debug)]
struct Frame {
    next: u32,
    /// Where its loops begin in [`Cursor::rounds`].
    loops: u32,
    /// RFLAGS.IF when the handler ends.
    interrupts: bool,
    /// Cycles of the computation that the handler interrupted.
    computing: u32,
}

impl Frame {
    /// Neither in a program nor in a handler.
    const IDLE: Self = Self { next: GuestCode::IDLE, loops: 0, interrupts: true, computing: 0 };
}

/// Where a vCPU is.
#[derive(Clone, Debug)]
pub struct Cursor {
    frame: Frame,
    /// Frames that handlers have interrupted, the program's first. What idles is not among them.
    below: SmallVec<[Frame; 1]>,
    /// How often each loop of each frame has gone round.
    rounds: SmallVec<[u64; 2]>,
    random: Xoshiro256PlusPlus,
    /// Signals counted when this vCPU last waited for each.
    waited: Vec<u64>,
    calls: u64,
    received: u64,
    /// The next of several targets.
    next_target: Option<u32>,
    /// A write of ICR_HI is done; that of ICR_LO comes next.
    half_sent: Option<Icr>,
    /// It has been at the beginning.
    begun: bool,
}

impl Cursor {
    /// At the beginning of vCPU `vcpu`'s program. `seed` decides all that is random.
    #[must_use]
    pub fn new(code: &GuestCode, vcpu: u32, seed: u64) -> Self {
        let mut cursor = Self {
            frame: Frame::IDLE,
            below: SmallVec::new(),
            rounds: SmallVec::new(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            waited: Vec::new(),
            calls: 0,
            received: 0,
            next_target: None,
            half_sent: None,
            begun: false,
        };
        cursor.restart(code, vcpu);
        cursor
    }

    /// Back to the beginning, as after INIT and a start-up IPI; or on where it was, see [`GuestCode::new`].
    pub fn restart(&mut self, code: &GuestCode, vcpu: u32) {
        if let Some(start_up) = code.start_up().filter(|_| self.begun) {
            if self.half_sent.take().is_some() {
                self.again();
            }
            if let Some(&lowest) = self.below.first() {
                self.frame = lowest;
            }
            self.below.clear();
            self.enter(start_up, true, 0);
            return;
        }
        self.begun = true;
        self.below.clear();
        self.rounds.clear();
        self.frame = Frame::IDLE;
        self.next_target = None;
        self.half_sent = None;
        if let Some(program) = code.entry_of(vcpu) {
            self.enter(program, true, 0);
        }
    }

    /// An interrupt is delivered: its handler runs next, with interrupts off. `computing` cycles of a computation are left
    /// for afterwards.
    #[inline]
    pub fn interrupt(&mut self, code: &GuestCode, vector: u8, interrupts: bool, computing: u32) {
        if let Some(handler) = code.handler(vector) {
            self.enter(handler, interrupts, computing);
        }
    }

    /// Whether an interrupt may come now: not between the two halves of an interrupt command.
    #[must_use]
    pub const fn interruptible(&self) -> bool {
        self.half_sent.is_none()
    }

    /// Whether its next act neither changes nor sees anything that another vCPU sees or changes.
    #[inline]
    #[must_use]
    pub fn keeps_to_itself(&self, code: &GuestCode) -> bool {
        match code.at(self.frame.next) {
            _ if self.half_sent.is_some() => false,
            // The end of a handler; that of the program is the run's business.
            Some(Instruction::End) => !self.below.is_empty(),
            Some(Instruction::Eoi | Instruction::LoopBegin { .. } | Instruction::Goto(_)) => true,
            Some(Instruction::LoopEnd { times, .. }) => times.is_some(),
            _ => false,
        }
    }

    /// Whether its next act begins a computation: that keeps to itself too, and no interrupt comes of it at once.
    #[inline]
    #[must_use]
    pub fn computes(&self, code: &GuestCode) -> bool {
        self.half_sent.is_none() && matches!(code.at(self.frame.next), Some(Instruction::Compute { .. }))
    }

    #[inline]
    fn enter(&mut self, Entry { start, loops }: Entry, interrupts: bool, computing: u32) {
        let begin = self.rounds.len();
        if loops > 0 {
            self.rounds.resize(begin + usize::from(loops), 0);
        }
        if self.frame.next != GuestCode::IDLE {
            self.below.push(self.frame);
        }
        self.frame = Frame { next: start, loops: begin as u32, interrupts, computing };
    }

    /// What the vCPU does next.
    pub fn next<W: Word, I: Fn(u32) -> ApicIdentity>(
        &mut self,
        code: &GuestCode,
        view: &View<'_, '_, W, I>,
        moment: Moment,
    ) -> Action {
        self.step(code, view, moment, &mut Told)
    }

    /// The vCPU's next act, done by `actor`.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the acts of the actor are to be inlined where they are read")]
    pub fn step<W: Word, I: Fn(u32) -> ApicIdentity, A: Actor>(
        &mut self,
        code: &GuestCode,
        view: &View<'_, '_, W, I>,
        moment: Moment,
        actor: &mut A,
    ) -> A::Step {
        if let Some(icr) = self.half_sent {
            self.half_sent = None;
            return actor.act(Action::Send { icr, via: Via::Mmio });
        }
        let Some(instruction) = code.at(self.frame.next) else { return self.end(actor) };
        self.frame.next += 1;
        match instruction {
            Instruction::End => self.end(actor),
            Instruction::Compute { cycles } => actor.act(Action::Compute { cycles: *cycles }),
            Instruction::Eoi if view.mode == ApicMode::X2Apic => actor.act(Action::Wrmsr { msr: X2APIC_EOI, value: 0 }),
            Instruction::LoopEnd { number, start, times: Some(times) } => {
                let done = self.rounds.get_mut(self.frame.loops as usize + usize::from(*number)).is_none_or(|rounds| {
                    *rounds += 1;
                    *rounds >= *times
                });
                if !done {
                    self.frame.next = *start;
                }
                actor.act(Action::Internal)
            }
            Instruction::LoopEnd { start, times: None, .. } => {
                if !view.stopping {
                    self.frame.next = *start;
                }
                actor.act(Action::Internal)
            }
            Instruction::Signal { signal } => {
                view.memory.signal(*signal);
                actor.act(Action::Told)
            }
            Instruction::Wait { signal, count } => {
                if self.signalled(*signal, *count, view.memory) {
                    return actor.act(Action::Internal);
                }
                self.again();
                actor.act(Action::Spin { on: view.memory.signal_address(*signal) })
            }
            Instruction::Send { low, to: Target::Vcpu(target) } if view.mode == ApicMode::X2Apic => {
                let destination = destination(Target::Vcpu(*target), *target, *low, view);
                actor.act(Action::Send { icr: Icr { low: *low, destination }, via: Via::X2ApicIcr })
            }
            other => {
                let action = self.rarer(other, view, moment);
                actor.act(action)
            }
        }
    }

    /// The end of a program or a handler.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as step")]
    fn end<A: Actor>(&mut self, actor: &mut A) -> A::Step {
        let Frame { interrupts, computing, loops, .. } = self.frame;
        self.rounds.truncate(loops as usize);
        if let Some(frame) = self.below.pop() {
            self.frame = frame;
            actor.act(Action::Return { interrupts, computing })
        } else {
            self.frame = Frame::IDLE;
            actor.act(Action::Idle)
        }
    }

    /// Instructions of which programs do not have many.
    #[inline(never)]
    fn rarer<W: Word, I: Fn(u32) -> ApicIdentity>(
        &mut self,
        instruction: &Instruction,
        view: &View<'_, '_, W, I>,
        moment: Moment,
    ) -> Action {
        match instruction {
            Instruction::Hlt => Action::Hlt,
            Instruction::Interrupts { enabled } => Action::Interrupts { enabled: *enabled },
            Instruction::Goto(to) => {
                self.frame.next = *to;
                Action::Internal
            }
            Instruction::LoopBegin { number } => {
                if let Some(rounds) = self.rounds.get_mut(self.frame.loops as usize + usize::from(*number)) {
                    *rounds = 0;
                }
                Action::Internal
            }
            Instruction::Choose { branches } => {
                let sum = branches.last().map_or(1, |&(sum, _)| sum);
                let drawn = below(&mut self.random, sum);
                if let Some(&(_, start)) = branches.iter().find(|&&(upper, _)| drawn < upper) {
                    self.frame.next = start;
                }
                Action::Internal
            }
            Instruction::Answer => {
                view.memory.answer(view.vcpu);
                Action::Told
            }
            Instruction::Unlock { lock } => {
                view.memory.unlock(*lock);
                Action::Told
            }
            Instruction::Lock { lock } => {
                let taken = view.memory.lock(*lock);
                self.spin_unless(taken, view.memory.signal_address(*lock))
            }
            Instruction::AwaitCalls => {
                let answered = view.memory.answered(view.vcpu) >= self.calls;
                self.spin_unless(answered, view.memory.answered_address(view.vcpu))
            }
            Instruction::Poll => {
                let over = view.memory.poll(view.vcpu, view.stopping);
                self.spin_unless(over, view.memory.polling_address(view.vcpu))
            }
            Instruction::Receive => self.receive(view, moment.interrupts),
            Instruction::Until { time } if moment.now < *time => {
                let time = *time;
                self.again();
                Action::Until { time }
            }
            Instruction::Sleep { until } if moment.now < *until => Action::Sleep { until: *until },
            other => self.write(other, view),
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
        self.frame.next -= 1;
    }

    /// Whether a signal has been counted as often as this vCPU waits for.
    #[inline]
    fn signalled<W: Word>(&mut self, signal: u16, count: u32, memory: &GuestMemory<'_, W>) -> bool {
        let at = usize::from(signal);
        if self.waited.len() <= at {
            self.waited.resize(at + 1, 0);
        }
        let seen = memory.signals(signal);
        let Some(waited) = self.waited.get_mut(at) else { return true };
        let done = seen >= waited.wrapping_add(u64::from(count));
        if done {
            *waited += u64::from(count);
        }
        done
    }

    fn receive<W: Word, I>(&mut self, view: &View<'_, '_, W, I>, interrupts: bool) -> Action {
        if view.memory.messages(view.vcpu) > self.received {
            self.received += 1;
            view.memory.set_idle(view.vcpu, false);
            return if interrupts { Action::Internal } else { Action::Interrupts { enabled: true } };
        }
        self.again();
        if interrupts {
            // CLI; look once more; STI and HLT: an interrupt that comes in between ends the HLT.
            return Action::Interrupts { enabled: false };
        }
        view.memory.set_idle(view.vcpu, true);
        if view.memory.messages(view.vcpu) > self.received { Action::Internal } else { Action::Hlt }
    }

    /// Instructions that write to the local APIC.
    fn write<W: Word, I: Fn(u32) -> ApicIdentity>(
        &mut self,
        instruction: &Instruction,
        view: &View<'_, '_, W, I>,
    ) -> Action {
        let x2apic = view.mode == ApicMode::X2Apic;
        match instruction {
            Instruction::Eoi => Action::Write { offset: ApicRegister::EOI.offset(), value: 0 },
            Instruction::Tpr { value } if x2apic => Action::Wrmsr { msr: X2APIC_TPR, value: u64::from(*value) },
            Instruction::Tpr { value } => {
                Action::Write { offset: ApicRegister::TPR.offset(), value: u32::from(*value) }
            }
            Instruction::Register { offset, value } if x2apic => {
                Action::Wrmsr { msr: X2APIC_FIRST + u32::from(*offset >> 4), value: u64::from(*value) }
            }
            Instruction::Register { offset, value } => Action::Write { offset: *offset, value: *value },
            Instruction::Apic { mode } => self.switch(*mode, view),
            Instruction::SelfIpi { vector } => self.send_self(*vector, view),
            Instruction::Command { icr, via: Via::Mmio } => self.send(*icr, ApicMode::XApic),
            Instruction::Command { icr, via } => Action::Send { icr: *icr, via: *via },
            Instruction::LogicalId if x2apic => Action::Internal,
            Instruction::LogicalId => {
                Action::Write { offset: ApicRegister::LDR.offset(), value: XApicLdr::flat(view.vcpu).into_bits() }
            }
            Instruction::Shorthand { low } => self.send(Icr { low: *low, destination: 0 }, view.mode),
            Instruction::Send { low, to } => match self.target(*to, view) {
                Some(target) => {
                    let destination = destination(*to, target, *low, view);
                    self.send(Icr { low: *low, destination }, view.mode)
                }
                None => Action::Internal,
            },
            Instruction::Call { to, vector } => match self.target(*to, view) {
                Some(target) => {
                    self.calls += 1;
                    let wanted = view.memory.call(view.vcpu, target);
                    if wanted && view.memory.tell_polling(target) {
                        return Action::Told;
                    }
                    self.send_if(wanted, *vector, target, view)
                }
                None => Action::Internal,
            },
            Instruction::Message { to, vector } => match self.target(*to, view) {
                Some(target) => {
                    let wanted = view.memory.leave_message(target);
                    self.send_if(wanted, *vector, target, view)
                }
                None => Action::Internal,
            },
            _ => Action::Internal,
        }
    }

    /// The next step on the way to a mode; the last one enables the local APIC by software, as a kernel does.
    fn switch<W, I>(&mut self, mode: ApicMode, view: &View<'_, '_, W, I>) -> Action {
        if view.mode == mode {
            return match mode {
                ApicMode::Disabled => Action::Internal,
                ApicMode::XApic => Action::Write { offset: ApicRegister::SVR.offset(), value: SVR_ENABLED },
                ApicMode::X2Apic => Action::Wrmsr { msr: X2APIC_SVR, value: u64::from(SVR_ENABLED) },
            };
        }
        self.again();
        let next = if view.mode.can_become(mode) {
            mode
        } else {
            match mode {
                ApicMode::XApic => ApicMode::Disabled,
                ApicMode::X2Apic | ApicMode::Disabled => ApicMode::XApic,
            }
        };
        let value = ApicBase::in_mode(next, view.base.bootstrap()).with_page(view.base.page());
        Action::Wrmsr { msr: IA32_APIC_BASE, value: value.into_bits() }
    }

    /// Whom a target is; none if there is nobody, or no further one. Targets that are several come one by one.
    fn target<W, I>(&mut self, to: Target, view: &View<'_, '_, W, I>) -> Option<u32> {
        let me = view.vcpu;
        match to {
            Target::Vcpu(vcpu) => Some(vcpu),
            Target::Raw(_) => Some(0),
            Target::Next => (view.vcpus > 1).then(|| (me + 1) % view.vcpus),
            Target::Random => {
                let others = u64::from(view.vcpus.checked_sub(1).filter(|&others| others > 0)?);
                let drawn = below(&mut self.random, others) as u32;
                Some(if drawn >= me { drawn + 1 } else { drawn })
            }
            Target::Others => {
                let mut target = self.next_target.unwrap_or(0);
                if target == me {
                    target += 1;
                }
                if target >= view.vcpus {
                    self.next_target = None;
                    return None;
                }
                self.next_target = Some(target + 1);
                self.again();
                Some(target)
            }
        }
    }

    fn send_if<W, I: Fn(u32) -> ApicIdentity>(
        &mut self,
        wanted: bool,
        vector: u8,
        target: u32,
        view: &View<'_, '_, W, I>,
    ) -> Action {
        if !wanted {
            return Action::Internal;
        }
        let low = IcrLow::new().with_vector(vector);
        self.send(Icr { low, destination: destination(Target::Vcpu(target), target, low, view) }, view.mode)
    }

    fn send_self<W, I>(&mut self, vector: u8, view: &View<'_, '_, W, I>) -> Action {
        let low = IcrLow::new().with_vector(vector).with_shorthand(Shorthand::Self_);
        if view.mode == ApicMode::X2Apic {
            return Action::Send { icr: Icr { low, destination: 0 }, via: Via::SelfIpiMsr };
        }
        self.send(Icr { low, destination: 0 }, view.mode)
    }

    fn send(&mut self, icr: Icr, mode: ApicMode) -> Action {
        if mode == ApicMode::X2Apic {
            return Action::Send { icr, via: Via::X2ApicIcr };
        }
        if icr.low.shorthand() != Shorthand::None {
            return Action::Send { icr, via: Via::Mmio };
        }
        self.half_sent = Some(icr);
        Action::Write { offset: ApicRegister::ICR_HIGH.offset(), value: icr.to_xapic().1 }
    }
}

/// What the sender writes to reach `target`.
#[inline]
fn destination<W, I: Fn(u32) -> ApicIdentity>(to: Target, target: u32, low: IcrLow, view: &View<'_, '_, W, I>) -> u32 {
    if let Target::Raw(destination) = to {
        return destination;
    }
    let identity = (view.identity)(target);
    match (low.destination_mode(), view.mode) {
        (DestinationMode::Physical, ApicMode::X2Apic) => identity.x2apic_id(),
        (DestinationMode::Physical, _) => u32::from(identity.xapic_id()),
        (DestinationMode::Logical, ApicMode::X2Apic) => X2ApicLdr::of_id(identity.x2apic_id()).into_bits(),
        (DestinationMode::Logical, _) => u32::from(identity.logical_id()),
    }
}

/// A number below `bound`, evenly enough: the bias is below 2^-32 for the bounds that programs have.
fn below(random: &mut Xoshiro256PlusPlus, bound: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(bound.max(1))) >> 64) as u64
}
