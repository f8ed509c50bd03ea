//! What a vCPU does next, and who does it.

use super::sends::Via;
use super::sight::Sight;
use crate::arch::Icr;

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

/// Who does a vCPU's acts. Where they are inlined into [`Cursor::step`](super::Cursor::step), no [`Action`] goes through
/// memory.
pub trait Actor: Sized {
    /// What the vCPU sees.
    type Sight: Sight;
    /// What comes of an act.
    type Step;

    /// What the vCPU sees.
    fn sight(&self) -> Self::Sight;

    /// When it acts.
    fn moment(&self) -> Moment;

    /// Does an act.
    fn act(self, action: Action) -> Self::Step;

    /// Does an act of which programs do not have many.
    fn act_seldom(self, action: Action) -> Self::Step {
        self.act(action)
    }
}

/// What changes for a vCPU from act to act.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// RFLAGS.IF.
    pub interrupts: bool,
    /// Cycles since the start. Threads have no clock: they say `u64::MAX`, where every wait for a cycle is over.
    pub now: u64,
}

/// Does nothing but tell the act.
pub(super) struct Teller<S> {
    pub(super) sight: S,
    pub(super) moment: Moment,
}

impl<S: Sight + Copy> Actor for Teller<S> {
    type Sight = S;
    type Step = Action;

    #[inline]
    fn sight(&self) -> S {
        self.sight
    }

    #[inline]
    fn moment(&self) -> Moment {
        self.moment
    }

    #[inline]
    fn act(self, action: Action) -> Action {
        action
    }
}
