//! What a guest does, as people write it: statements in sequences, loops and choices.

use crate::arch::{ApicMode, DeliveryMode};
use serde::Deserialize;

/// Whom an interrupt is sent to, seen from the vCPU that sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The vCPU with this number.
    Vcpu(u32),
    /// The next vCPU by number, after the last the first.
    Next,
    /// Any other vCPU, at random.
    Random,
    /// Each other vCPU, one IPI each, lowest number first.
    Others,
    /// This destination, as it is written into the ICR.
    Raw(u32),
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Statement {
    /// An IPI through the ICR.
    Send {
        /// Vector.
        vector: u8,
        /// Destination.
        to: Target,
        /// Delivery mode.
        #[serde(default)]
        mode: Delivery,
        /// Logical destination mode.
        #[serde(default)]
        logical: bool,
    },
    /// An IPI with a shorthand: all, or all but self.
    Broadcast {
        /// Vector.
        vector: u8,
        /// Delivery mode.
        #[serde(default)]
        mode: Delivery,
        /// Including self.
        #[serde(default)]
        including_self: bool,
    },
    /// A self-IPI: MSR 83FH in x2APIC mode, the shorthand in xAPIC mode.
    SelfIpi {
        /// Vector.
        vector: u8,
    },
    /// Computes for this many cycles.
    Compute {
        /// Cycles.
        cycles: u32,
    },
    /// HLT.
    Hlt,
    /// EOI.
    Eoi,
    /// CLI.
    Cli,
    /// STI.
    Sti,
    /// Writes the TPR.
    Tpr {
        /// The value.
        value: u8,
    },
    /// Moves the local APIC to a mode, through IA32_APIC_BASE.
    Apic {
        /// The mode.
        mode: Mode,
    },
    /// Writes a local-APIC register.
    Register {
        /// Page offset.
        offset: u16,
        /// The value.
        value: u32,
    },
    /// Counts a signal of the guest's own.
    Signal {
        /// Its number.
        signal: u16,
    },
    /// Spins until a signal has been counted `count` times since this vCPU's last wait for it.
    Wait {
        /// Its number.
        signal: u16,
        /// How many times.
        count: u32,
    },
    /// Calls a function on other vCPUs as Linux does: queues the call, and sends an IPI where the queue was empty.
    Call {
        /// On whom.
        to: Target,
        /// Vector.
        vector: u8,
    },
    /// Runs the calls that are queued for this vCPU and acknowledges them; what the handler of a call does.
    Answer,
    /// Spins until all of this vCPU's calls are acknowledged.
    AwaitCalls,
    /// Polls until it is called, as an idle CPU of Linux with `idle=poll`: such a call sends no IPI.
    Poll,
    /// Takes a spin lock.
    Lock {
        /// Its number; signals and locks are numbered together.
        lock: u16,
    },
    /// Releases it.
    Unlock {
        /// Its number.
        lock: u16,
    },
    /// Leaves a message for a vCPU, and sends it an IPI if it is idle.
    Message {
        /// For whom.
        to: Target,
        /// Vector.
        vector: u8,
    },
    /// Takes a message; idles (HLT) until there is one.
    Receive,
    /// Repeats.
    Loop {
        /// How often; none: until the run ends.
        times: Option<u64>,
        /// What.
        body: Vec<Self>,
    },
    /// One of several at random.
    Choose {
        /// Weight and statements of each.
        branches: Vec<Branch>,
    },
}

/// One branch of a choice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// How often, beside the others' weights.
    pub weight: u32,
    /// What.
    pub body: Vec<Statement>,
}

/// Delivery mode of an IPI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Fixed.
    #[default]
    Fixed,
    /// Lowest priority.
    LowestPriority,
    /// NMI.
    Nmi,
    /// SMI.
    Smi,
    /// INIT.
    Init,
    /// Start-up.
    Sipi,
}

impl Delivery {
    pub(super) const fn mode(self) -> DeliveryMode {
        match self {
            Self::Fixed => DeliveryMode::Fixed,
            Self::LowestPriority => DeliveryMode::LowestPriority,
            Self::Nmi => DeliveryMode::Nmi,
            Self::Smi => DeliveryMode::Smi,
            Self::Init => DeliveryMode::Init,
            Self::Sipi => DeliveryMode::Sipi,
        }
    }
}

/// Mode of a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Mode {
    Disabled,
    Xapic,
    X2apic,
}

impl From<Mode> for ApicMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Disabled => Self::Disabled,
            Mode::Xapic => Self::XApic,
            Mode::X2apic => Self::X2Apic,
        }
    }
}
