//! The words of a vCPU that other pCPUs read and write: `struct kvm_vcpu` as far as interrupts need it.
//!
//! One 64-byte line for each vCPU. Who runs the vCPU writes mode, pCPU and identity; everybody sets requests.

use super::identity::ApicIdentity;
use crate::memory::{Cache, Line, Word, prefetch};

/// `vcpu->mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Mode {
    /// `OUTSIDE_GUEST_MODE`.
    Outside = 0,
    /// `IN_GUEST_MODE`: a notification will be processed, or be pending when the guest is entered.
    InGuest = 1,
}

/// Whether the thread of a vCPU may sleep (`set_current_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum TaskState {
    /// `TASK_RUNNING`.
    Running = 0,
    /// `TASK_INTERRUPTIBLE`: unless somebody wakes it first, it will sleep at the next `schedule`.
    Interruptible = 1,
}

/// What is asked of a vCPU before it enters its guest again (`kvm_make_request`), as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Requests(u64);

impl Requests {
    /// `KVM_REQ_APICV_UPDATE`.
    pub const APICV_UPDATE: Self = Self(1);
    /// `KVM_REQ_EVENT`: there may be something to inject.
    pub const EVENT: Self = Self(1 << 1);
    /// `KVM_REQ_NMI`.
    pub const NMI: Self = Self(1 << 2);
    /// `KVM_APIC_INIT`.
    pub const INIT: Self = Self(1 << 3);
    /// `KVM_APIC_SIPI`; its vector is a word of its own.
    pub const SIPI: Self = Self(1 << 4);
    /// Its local APIC received an illegal vector.
    pub const ILLEGAL_VECTOR: Self = Self(1 << 5);
    /// What wakes a vCPU that is blocked.
    pub const WAKING: Self = Self(Self::NMI.0 | Self::INIT.0 | Self::SIPI.0 | Self::EVENT.0);

    /// None.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of `others` is there.
    #[must_use]
    pub const fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Which word of the line is which.
const MODE: usize = 0;
const REQUESTS: usize = 1;
const PCPU: usize = 2;
const IDENTITY: usize = 3;
const TASK: usize = 4;
const SIPI_VECTOR: usize = 5;
const EVENT: usize = 6;

/// The shared words of one vCPU.
#[derive(Debug)]
pub struct VcpuWords<'m, W>(&'m Line<W>);

impl<W> Clone for VcpuWords<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for VcpuWords<'_, W> {}

impl<'m, W: Word> VcpuWords<'m, W> {
    /// The words in `line`.
    #[must_use]
    pub const fn new(line: &'m Line<W>) -> Self {
        Self(line)
    }

    /// Asks for the words, for later.
    #[inline]
    pub fn read_ahead(self) {
        prefetch(self.0, 0, Cache::Second);
    }

    /// `vcpu->mode`.
    #[inline]
    #[must_use]
    pub fn mode(self) -> Mode {
        if self.0[MODE].load() == Mode::InGuest as u64 { Mode::InGuest } else { Mode::Outside }
    }

    /// Stores `vcpu->mode`, a plain store: what needs it seen before a later look adds a fence.
    #[inline]
    pub fn set_mode(self, mode: Mode) {
        self.0[MODE].store(mode as u64);
    }

    /// Makes a request, a locked operation: whoever makes it looks at the mode afterwards, whoever sets the mode looks at
    /// requests afterwards, with a full barrier on both sides. Returns whether it was made already.
    #[inline]
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn request(self, request: Requests) -> bool {
        self.0[REQUESTS].fetch_or(request.0) & request.0 == request.0
    }

    /// The requests that wait.
    #[inline]
    #[must_use]
    pub fn requests(self) -> Requests {
        Requests(self.0[REQUESTS].load())
    }

    /// Takes all requests.
    #[inline]
    #[must_use]
    pub fn take_requests(self) -> Requests {
        if self.0[REQUESTS].load() == 0 { Requests(0) } else { Requests(self.0[REQUESTS].swap(0)) }
    }

    /// The pCPU that runs it, or ran it last. (`vcpu->cpu`)
    #[inline]
    #[must_use]
    pub fn pcpu(self) -> u32 {
        self.0[PCPU].load() as u32
    }

    /// Stores the pCPU.
    #[inline]
    pub fn set_pcpu(self, pcpu: u32) {
        self.0[PCPU].store(u64::from(pcpu));
    }

    /// How others address it.
    #[inline]
    #[must_use]
    pub fn identity(self) -> ApicIdentity {
        ApicIdentity::from_bits(self.0[IDENTITY].load())
    }

    /// Stores how others address it. [`Vm::publish`](super::Vm::publish) counts it too.
    pub(super) fn set_identity(self, identity: ApicIdentity) {
        self.0[IDENTITY].store(identity.into_bits());
    }

    /// Whether its thread may sleep.
    #[must_use]
    pub fn task(self) -> TaskState {
        if self.0[TASK].load() == TaskState::Interruptible as u64 {
            TaskState::Interruptible
        } else {
            TaskState::Running
        }
    }

    /// Changes whether its thread may sleep, with a full barrier. Returns what it was. (`set_current_state`)
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn set_task(self, state: TaskState) -> TaskState {
        if self.0[TASK].swap(state as u64) == TaskState::Interruptible as u64 {
            TaskState::Interruptible
        } else {
            TaskState::Running
        }
    }

    /// The policy's own flag.
    #[must_use]
    pub fn event(self) -> bool {
        self.0[EVENT].load() != 0
    }

    /// Changes the policy's own flag, a locked operation. Returns what it was.
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn set_event(self, event: bool) -> bool {
        self.0[EVENT].swap(u64::from(event)) != 0
    }

    /// Leaves the vector of a start-up IPI; the request follows.
    pub fn set_sipi_vector(self, vector: u8) {
        self.0[SIPI_VECTOR].store(u64::from(vector));
    }

    /// The vector of the last start-up IPI.
    #[must_use]
    pub fn sipi_vector(self) -> u8 {
        self.0[SIPI_VECTOR].load() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn requests_and_task_states_tell_what_was_before() {
        let line: Line<Cell<u64>> = std::array::from_fn(|_| Cell::new(0));
        let words = VcpuWords::new(&line);
        assert!(!words.request(Requests::NMI));
        assert!(words.request(Requests::NMI));
        assert!(!words.request(Requests::INIT), "another one");
        assert_eq!(words.set_task(TaskState::Interruptible), TaskState::Running);
        assert_eq!(words.set_task(TaskState::Running), TaskState::Interruptible);
    }
}
