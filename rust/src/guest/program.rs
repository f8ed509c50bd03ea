//! A guest's program: statements made into a flat list of instructions.

use super::awaited::Awaited;
use super::sends::Via;
use super::statement::{Branch, Delivery, Statement, Target};
use crate::arch::{ApicMode, DestinationMode, Icr, IcrLow, Shorthand};
use thiserror::Error;

/// One instruction, or a step of the program's own bookkeeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    Send {
        low: IcrLow,
        to: Target,
    },
    Shorthand {
        low: IcrLow,
    },
    SelfIpi {
        vector: u8,
    },
    Compute {
        cycles: u32,
    },
    Hlt,
    Eoi,
    Interrupts {
        enabled: bool,
    },
    Tpr {
        value: u8,
    },
    Apic {
        mode: ApicMode,
    },
    Register {
        offset: u16,
        value: u32,
    },
    Signal {
        signal: u16,
    },
    Wait {
        signal: u16,
        count: u32,
    },
    Call {
        to: Target,
        vector: u8,
    },
    Answer,
    AwaitCalls,
    Poll,
    Lock {
        lock: u16,
    },
    Unlock {
        lock: u16,
    },
    Message {
        to: Target,
        vector: u8,
    },
    Receive,
    /// The loop with this number begins anew.
    LoopBegin {
        number: u16,
    },
    /// The end of the body that begins at `start`.
    LoopEnd {
        number: u16,
        start: u32,
        times: Option<u64>,
    },
    /// One of (sum of weights up to here, where it begins).
    Choose {
        branches: Vec<(u64, u32)>,
    },
    Goto(u32),
    /// Runs on until a cycle. This and what follows is in programs made of recordings.
    Until {
        time: u64,
    },
    /// STI; HLT, with a timer that ends it at a cycle if nothing does before.
    Sleep {
        until: u64,
    },
    /// An interrupt command as it was written.
    Command {
        icr: Icr,
        via: Via,
    },
    /// The second half of an interrupt command in xAPIC mode. It stands once in a [`GuestCode`](super::GuestCode).
    SecondHalf,
    /// In xAPIC mode: the logical ID of the flat model, as Linux sets it up.
    LogicalId,
    /// The end of a program. It stands behind each in [`GuestCode`](super::GuestCode).
    End,
}

impl Instruction {
    /// What a vCPU may wait for that stands at it.
    pub(super) const fn awaits(&self) -> Option<Awaited> {
        match *self {
            Self::Wait { signal, .. } => Some(Awaited::Signal(signal)),
            Self::Lock { lock } => Some(Awaited::Lock(lock)),
            Self::AwaitCalls => Some(Awaited::Answers),
            Self::Poll => Some(Awaited::Call),
            Self::Receive => Some(Awaited::Message),
            Self::Hlt => Some(Awaited::Interrupt),
            _ => None,
        }
    }

    /// The vector of the interrupts that it sends. Any register may be the ICR.
    pub(super) const fn vector(&self) -> Option<u8> {
        match self {
            Self::Send { low, .. } | Self::Shorthand { low } | Self::Command { icr: Icr { low, .. }, .. } => {
                Some(low.vector())
            }
            Self::SelfIpi { vector } | Self::Call { vector, .. } | Self::Message { vector, .. } => Some(*vector),
            Self::Register { value, .. } => Some(*value as u8),
            _ => None,
        }
    }

    /// The same where its program begins at `start`.
    pub(super) fn moved_by(mut self, start: u32) -> Self {
        match &mut self {
            Self::LoopEnd { start: place, .. } | Self::Goto(place) => *place += start,
            Self::Choose { branches } => branches.iter_mut().for_each(|(_, place)| *place += start),
            _ => {}
        }
        self
    }
}

/// A program. An interrupt runs its handler, which is a program too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub(super) code: Vec<Instruction>,
    pub(super) loops: u16,
}

/// A program that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// Loops are numbered in 16 bits.
    #[error("a program has at most 65535 loops")]
    Loops,
    /// A choice of nothing.
    #[error("a choice needs a branch with a weight of 1 or more")]
    Choice,
    /// A body without an instruction would never let the run end.
    #[error("the body of a loop needs a statement")]
    EmptyLoop,
}

impl Program {
    /// Makes statements into a program.
    ///
    /// # Errors
    /// Too many loops, a loop or a choice without content.
    pub fn new(statements: &[Statement]) -> Result<Self, ProgramError> {
        let mut program = Self::default();
        program.add(statements)?;
        Ok(program)
    }

    /// The handler of an interrupt nobody wrote one for: EOI.
    #[must_use]
    pub fn end_of_interrupt() -> Self {
        Self { code: vec![Instruction::Eoi], loops: 0 }
    }

    /// Whether it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.code.is_empty()
    }

    /// Whether it has a loop that ends only with the run.
    #[must_use]
    pub fn endless(&self) -> bool {
        self.code.iter().any(|instruction| matches!(instruction, Instruction::LoopEnd { times: None, .. }))
    }

    /// Whether it calls functions on other vCPUs.
    #[must_use]
    pub fn calls(&self) -> bool {
        self.code.iter().any(|instruction| matches!(instruction, Instruction::Call { .. }))
    }

    /// One more than the highest number of a signal or a lock that it uses.
    #[must_use]
    pub fn signals(&self) -> u32 {
        let number = |instruction: &Instruction| match instruction {
            Instruction::Signal { signal } | Instruction::Wait { signal, .. } => u32::from(*signal) + 1,
            Instruction::Lock { lock } | Instruction::Unlock { lock } => u32::from(*lock) + 1,
            _ => 0,
        };
        self.code.iter().map(number).max().unwrap_or(0)
    }

    fn here(&self) -> u32 {
        self.code.len() as u32
    }

    fn add(&mut self, statements: &[Statement]) -> Result<(), ProgramError> {
        for statement in statements {
            let instruction = match statement {
                Statement::Loop { times, body } => {
                    self.add_loop(*times, body)?;
                    continue;
                }
                Statement::Choose { branches } => {
                    self.add_choice(branches)?;
                    continue;
                }
                Statement::Send { vector, to, mode, logical } => {
                    let destination = if *logical { DestinationMode::Logical } else { DestinationMode::Physical };
                    Instruction::Send { low: low(*vector, *mode).with_destination_mode(destination), to: *to }
                }
                Statement::Broadcast { vector, mode, including_self } => {
                    let shorthand = if *including_self { Shorthand::All } else { Shorthand::AllButSelf };
                    Instruction::Shorthand { low: low(*vector, *mode).with_shorthand(shorthand) }
                }
                Statement::SelfIpi { vector } => Instruction::SelfIpi { vector: *vector },
                Statement::Compute { cycles } => Instruction::Compute { cycles: *cycles },
                Statement::Hlt => Instruction::Hlt,
                Statement::Eoi => Instruction::Eoi,
                Statement::Cli => Instruction::Interrupts { enabled: false },
                Statement::Sti => Instruction::Interrupts { enabled: true },
                Statement::Tpr { value } => Instruction::Tpr { value: *value },
                Statement::Apic { mode } => Instruction::Apic { mode: (*mode).into() },
                Statement::Register { offset, value } => Instruction::Register { offset: *offset, value: *value },
                Statement::Signal { signal } => Instruction::Signal { signal: *signal },
                Statement::Wait { signal, count } => Instruction::Wait { signal: *signal, count: *count },
                Statement::Call { to, vector } => Instruction::Call { to: *to, vector: *vector },
                Statement::Answer => Instruction::Answer,
                Statement::AwaitCalls => Instruction::AwaitCalls,
                Statement::Poll => Instruction::Poll,
                Statement::Lock { lock } => Instruction::Lock { lock: *lock },
                Statement::Unlock { lock } => Instruction::Unlock { lock: *lock },
                Statement::Message { to, vector } => Instruction::Message { to: *to, vector: *vector },
                Statement::Receive => Instruction::Receive,
            };
            self.code.push(instruction);
        }
        Ok(())
    }

    fn add_loop(&mut self, times: Option<u64>, body: &[Statement]) -> Result<(), ProgramError> {
        if times == Some(0) {
            return Ok(());
        }
        let number = self.loops;
        self.loops = self.loops.checked_add(1).ok_or(ProgramError::Loops)?;
        self.code.push(Instruction::LoopBegin { number });
        let start = self.here();
        self.add(body)?;
        if self.here() == start {
            return Err(ProgramError::EmptyLoop);
        }
        self.code.push(Instruction::LoopEnd { number, start, times });
        Ok(())
    }

    fn add_choice(&mut self, branches: &[Branch]) -> Result<(), ProgramError> {
        let choice = self.code.len();
        self.code.push(Instruction::Choose { branches: Vec::new() });
        let (mut starts, mut ends, mut sum) = (Vec::new(), Vec::new(), 0);
        for branch in branches.iter().filter(|branch| branch.weight > 0) {
            sum += u64::from(branch.weight);
            starts.push((sum, self.here()));
            self.add(&branch.body)?;
            ends.push(self.code.len());
            self.code.push(Instruction::Goto(0));
        }
        if sum == 0 {
            return Err(ProgramError::Choice);
        }
        let end = self.here();
        for at in ends {
            self.code[at] = Instruction::Goto(end);
        }
        self.code[choice] = Instruction::Choose { branches: starts };
        Ok(())
    }
}

/// As Linux writes them: the level is assert for INIT alone.
const fn low(vector: u8, mode: Delivery) -> IcrLow {
    let init = matches!(mode, Delivery::Init);
    IcrLow::new().with_vector(vector).with_delivery_mode(mode.mode()).with_level_assert(init)
}
