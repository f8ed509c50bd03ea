//! What a policy is made of.

use super::super::setup::{POSTED_INTR_VECTOR, POSTED_INTR_WAKEUP_VECTOR};
use super::super::shared::Mode;

/// A moment at which the hypervisor runs steps of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Routine {
    /// The vCPU is scheduled in. (`vmx_vcpu_pi_load`)
    Load,
    /// The vCPU is scheduled out because it sleeps, and its guest can take interrupts. (`vmx_vcpu_pi_put`)
    PutBlocking,
    /// The vCPU is scheduled out though it could go on. (`vmx_vcpu_pi_put`)
    PutPreempted,
    /// Before the vCPU looks for the last time whether it may sleep; host interrupts are off. (`pi_pre_block`)
    PreBlock,
    /// The vCPU does not sleep, or no longer. (`pi_post_block`)
    PostBlock,
    /// The last look at pending interrupts before sleeping. (`kvm_vcpu_check_block`)
    BlockCheck,
    /// Right before VM entry; host interrupts are off. (`vcpu_enter_guest`)
    BeforeEntry,
    /// Right after a VM exit.
    AfterExit,
    /// The host's handler of the notification vector.
    OnNotify,
    /// The host's handler of the wakeup vector. (`pi_wakeup_handler`)
    OnWakeup,
    /// The hypervisor posts an interrupt. (`vmx_deliver_posted_interrupt`)
    SoftwarePost,
    /// The vCPU's entry of the PID-pointer table is written. (`vmx_alloc_ipiv_pid_table`, `vmx_vcpu_create`)
    ///
    /// This routine and the two below are run by `check` only: the other engines publish, refresh and inhibit as KVM does.
    Publish,
    /// A vCPU that sends takes over that APICv was inhibited. (`vmx_refresh_apicv_exec_ctrl`)
    RefreshApicv,
    /// The guest has written the vCPU's xAPIC ID. (`kvm_lapic_xapic_id_updated`)
    SetApicId,
}

impl Routine {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Load,
        Self::PutBlocking,
        Self::PutPreempted,
        Self::PreBlock,
        Self::PostBlock,
        Self::BlockCheck,
        Self::BeforeEntry,
        Self::AfterExit,
        Self::OnNotify,
        Self::OnWakeup,
        Self::SoftwarePost,
        Self::Publish,
        Self::RefreshApicv,
        Self::SetApicId,
    ];

    /// The name in a policy.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::PutBlocking => "put_blocking",
            Self::PutPreempted => "put_preempted",
            Self::PreBlock => "pre_block",
            Self::PostBlock => "post_block",
            Self::BlockCheck => "block_check",
            Self::BeforeEntry => "before_entry",
            Self::AfterExit => "after_exit",
            Self::OnNotify => "on_notify",
            Self::OnWakeup => "on_wakeup",
            Self::SoftwarePost => "software_post",
            Self::Publish => "publish",
            Self::RefreshApicv => "refresh_apicv",
            Self::SetApicId => "set_apic_id",
        }
    }
}

/// One of the two host vectors that notify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostVector {
    /// `POSTED_INTR_VECTOR`.
    Notify,
    /// `POSTED_INTR_WAKEUP_VECTOR`.
    Wakeup,
}

impl HostVector {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Notify, Self::Wakeup];

    /// The name in a policy.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Wakeup => "wakeup",
        }
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        match self {
            Self::Notify => POSTED_INTR_VECTOR,
            Self::Wakeup => POSTED_INTR_WAKEUP_VECTOR,
        }
    }
}

/// What one compare-exchange on the control word changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ControlChange {
    /// NV.
    pub nv: Option<HostVector>,
    /// NDST becomes the pCPU that executes the step.
    pub ndst_here: bool,
    /// SN.
    pub sn: Option<bool>,
    /// ON.
    pub on: Option<bool>,
}

/// Which part of a table entry one store writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// All 64 bits.
    Both,
    /// Bits 31:0, with V.
    Low,
    /// Bits 63:32.
    High,
}

impl Half {
    /// The name in a policy and in descriptions of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Low => "low",
            Self::High => "high",
        }
    }
}

/// An act on what surrounds the descriptor: table, MSR bitmap, controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surrounding {
    /// Writes the vCPU's entry of the PID-pointer table.
    StoreEntry(Half),
    /// Inhibits APICv for the VM, and waits until no vCPU of it is in its guest with the controls of before.
    /// (`kvm_set_apicv_inhibit`, `KVM_REQUEST_WAIT`)
    Inhibit,
    /// Clears the control "IPI virtualization".
    IpivOff,
    /// Makes the guest's writes of the ICR exit.
    InterceptIcr,
}

impl Surrounding {
    /// The routine that it belongs to.
    #[must_use]
    pub const fn routine(self) -> Routine {
        match self {
            Self::StoreEntry(_) => Routine::Publish,
            Self::Inhibit => Routine::SetApicId,
            Self::IpivOff | Self::InterceptIcr => Routine::RefreshApicv,
        }
    }
}

/// A step that acts. Each is one atomic operation, or one call into the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// ON := 1.
    SetOn,
    /// ON := 0.
    ClearOn,
    /// SN := 1.
    SetSn,
    /// SN := 0.
    ClearSn,
    /// One compare-exchange loop on the control word.
    Control(ControlChange),
    /// PIR\[V\] := 1, where V is the vector that is posted.
    SetPir,
    /// VIRR |= PIR, PIR := 0.
    Harvest,
    /// Full memory barrier.
    Fence,
    /// Adds the vCPU to this pCPU's wakeup list, under its lock.
    ListAdd,
    /// Takes the vCPU off the wakeup list it is on, under that list's lock.
    ListDel,
    /// A physical interrupt to this pCPU.
    SelfIpi(HostVector),
    /// A physical interrupt to the pCPU that runs the vCPU.
    Ipi(HostVector),
    /// Wakes the vCPU's thread. (`kvm_vcpu_wake_up`)
    Wake,
    /// The policy's own flag of the vCPU := 1. (`ACRN_REQUEST_EVENT`)
    SetEvent,
    /// The flag := 0.
    ClearEvent,
    /// The vCPU shall not sleep after all: it can run.
    CancelBlock,
    /// The vCPU never goes on: the hypervisor has given it up.
    Stop,
    /// An act beyond the descriptor.
    Surrounding(Surrounding),
    /// Stores `vcpu->mode`, a plain store.
    Mode(Mode),
    /// Leaves the routine.
    Done,
}

impl Act {
    /// Acts that take no argument, by name.
    pub(super) const PLAIN: [(&'static str, Self); 18] = [
        ("set_on", Self::SetOn),
        ("clear_on", Self::ClearOn),
        ("set_sn", Self::SetSn),
        ("clear_sn", Self::ClearSn),
        ("set_pir", Self::SetPir),
        ("harvest", Self::Harvest),
        ("fence", Self::Fence),
        ("list_add", Self::ListAdd),
        ("list_del", Self::ListDel),
        ("wake", Self::Wake),
        ("cancel_block", Self::CancelBlock),
        ("set_event", Self::SetEvent),
        ("clear_event", Self::ClearEvent),
        ("stop", Self::Stop),
        ("inhibit", Self::Surrounding(Surrounding::Inhibit)),
        ("ipiv_off", Self::Surrounding(Surrounding::IpivOff)),
        ("intercept_icr", Self::Surrounding(Surrounding::InterceptIcr)),
        ("done", Self::Done),
    ];
    /// Acts that take one.
    pub(super) const WITH_ARGUMENT: [&'static str; 5] = ["control", "self_ipi", "ipi", "mode", "store_entry"];
}

/// What a condition may ask. Words that others change are read once for the whole condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// ON is 1 now.
    On,
    /// SN is 1 now.
    Sn,
    /// NV is this vector now.
    Nv(HostVector),
    /// NDST is this pCPU now.
    NdstHere,
    /// PIR is not empty now.
    Pir,
    /// `vcpu->mode` is this now.
    Mode(Mode),
    /// The flag is 1 now.
    Event,
    /// ON was 1 in the control word that the last act on it found.
    OldOn,
    /// SN was 1 there.
    OldSn,
    /// The bit that the last `set_pir` set was set already.
    OldPir,
    /// The flag was 1 when the last act on it found it.
    OldEvent,
    /// ON is 1 in the control word that the last act on it wrote.
    NewOn,
    /// SN is 1 there.
    NewSn,
    /// The vCPU ran on this pCPU last.
    SamePcpu,
    /// The vCPU can use IPI virtualization. (`vmx_can_use_ipiv`)
    Ipiv,
    /// The VM has a device that posts. (`vmx_can_use_vtd_pi`)
    DevicePosting,
    /// The vCPU is the one that this pCPU runs.
    Myself,
    /// The vCPU is on a wakeup list.
    Listed,
    /// The vCPU is inside `kvm_vcpu_block`.
    Blocking,
}

impl Term {
    /// Terms of one word.
    pub(super) const PLAIN: [(&'static str, Self); 10] = [
        ("on", Self::On),
        ("sn", Self::Sn),
        ("pir", Self::Pir),
        ("same_pcpu", Self::SamePcpu),
        ("ipiv", Self::Ipiv),
        ("device_posting", Self::DevicePosting),
        ("self", Self::Myself),
        ("listed", Self::Listed),
        ("blocking", Self::Blocking),
        ("event", Self::Event),
    ];
    /// Terms that begin a longer one.
    pub(super) const LEADING: [&'static str; 5] = ["nv", "ndst", "mode", "old", "new"];

    /// The word of shared memory that it reads.
    pub(super) const fn reads(self) -> Option<Reads> {
        match self {
            Self::On | Self::Sn | Self::Nv(_) | Self::NdstHere => Some(Reads::Control),
            Self::Pir => Some(Reads::Pir),
            Self::Mode(_) => Some(Reads::Mode),
            Self::Event => Some(Reads::Event),
            _ => None,
        }
    }
}

/// A word of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reads {
    Control,
    Pir,
    Mode,
    Event,
}

impl Reads {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Control => "the control word (on, sn, nv, ndst)",
            Self::Pir => "pir",
            Self::Mode => "mode",
            Self::Event => "event",
        }
    }
}

/// A condition over terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// A term.
    Term(Term),
    /// Not so.
    Not(Box<Self>),
    /// Both.
    And(Box<Self>, Box<Self>),
    /// One or both.
    Or(Box<Self>, Box<Self>),
}

impl Condition {
    /// Whether it holds, given what each term says.
    pub(super) fn holds(&self, says: &impl Fn(Term) -> bool) -> bool {
        match self {
            Self::Term(term) => says(*term),
            Self::Not(inner) => !inner.holds(says),
            Self::And(left, right) => left.holds(says) && right.holds(says),
            Self::Or(left, right) => left.holds(says) || right.holds(says),
        }
    }

    /// It asks for this.
    #[must_use]
    pub fn asks_for(&self, asked: Term) -> bool {
        match self {
            Self::Term(term) => *term == asked,
            Self::Not(inner) => inner.asks_for(asked),
            Self::And(left, right) | Self::Or(left, right) => left.asks_for(asked) || right.asks_for(asked),
        }
    }

    /// It asks for NV, NDST and SN, and for nothing else that others can change.
    #[must_use]
    pub fn asks_routing_only(&self) -> bool {
        match self {
            Self::Term(term) => matches!(term, Term::Nv(_) | Term::NdstHere | Term::Sn) || term.reads().is_none(),
            Self::Not(inner) => inner.asks_routing_only(),
            Self::And(left, right) | Self::Or(left, right) => left.asks_routing_only() && right.asks_routing_only(),
        }
    }

    /// The word of shared memory that it reads.
    pub(super) fn first_read(&self) -> Option<Reads> {
        match self {
            Self::Term(term) => term.reads(),
            Self::Not(inner) => inner.first_read(),
            Self::And(left, right) | Self::Or(left, right) => left.first_read().or_else(|| right.first_read()),
        }
    }

    /// The words of shared memory that it reads, first to last.
    pub(super) fn reads(&self) -> Vec<Reads> {
        match self {
            Self::Term(term) => term.reads().into_iter().collect(),
            Self::Not(inner) => inner.reads(),
            Self::And(left, right) | Self::Or(left, right) => [left.reads(), right.reads()].concat(),
        }
    }
}

/// What a step is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// It acts.
    Act(Act),
    /// It looks; if the condition does not hold the routine goes on at `otherwise`.
    If {
        /// The condition.
        condition: Condition,
        /// Number of a step.
        otherwise: u16,
    },
    /// The next vCPU of this pCPU's wakeup list is the subject of the following steps; after the last one the routine goes
    /// on at `otherwise`. The list's lock is held from the first to the last.
    NextListed {
        /// Number of a step.
        otherwise: u16,
    },
    /// The routine goes on elsewhere; no step of its own.
    Goto(u16),
}

impl Op {
    /// Only who runs the routine can see it: no other order of steps makes a difference.
    #[must_use]
    pub fn is_private(&self) -> bool {
        match self {
            Self::Act(act) => matches!(
                act,
                Act::Done
                    | Act::CancelBlock
                    | Act::Stop
                    | Act::Surrounding(Surrounding::IpivOff | Surrounding::InterceptIcr)
            ),
            Self::If { condition, .. } => condition.first_read().is_none(),
            Self::NextListed { .. } => false,
            Self::Goto(_) => true,
        }
    }
}

/// A step, and where it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// What it does.
    pub op: Op,
    /// Line, from 1.
    pub line: u32,
    /// Its words.
    pub text: String,
}
