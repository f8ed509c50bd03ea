//! The memory that the vCPUs of one guest share: signals, locks, calls and messages of their programs.
//!
//! The protocols are Linux's in small: a call goes into the target's queue, and an IPI is sent only where the queue was
//! empty (`__smp_call_single_queue`) and the target does not poll (`send_call_function_single_ipi`); a message to an idle
//! vCPU sends a reschedule IPI (`ttwu_queue`).

use crate::memory::{LINE_WORDS, Line, OutOfMemory, Owner, PhysicalMemory, Word};

/// Most vCPUs of a guest whose programs call each other.
pub const MOST_CALLERS: u32 = 4096;

const LINE_BYTES: u64 = 64;
/// Words of a vCPU's own line.
const MESSAGES: usize = 0;
const IDLE: usize = 1;
const CALLED: usize = 2;
const ANSWERED: usize = 3;
const POLLING: usize = 4;

/// What POLLING can be beside 0: the flags TIF_POLLING_NRFLAG alone, and with TIF_NEED_RESCHED.
const POLLS: u64 = 1;
const TOLD: u64 = 2;

/// Where they are.
#[derive(Debug)]
pub struct GuestMemory<'m, W> {
    memory: &'m PhysicalMemory<W>,
    vcpus: u32,
    lines: u64,
    signals: u64,
    /// The lines of signals and locks.
    signal_lines: &'m [Line<W>],
    calls: Option<u64>,
}

impl<W> Clone for GuestMemory<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for GuestMemory<'_, W> {}

/// Bytes of one vCPU's queue of calls: a bit for each caller.
const fn queue_bytes(vcpus: u32) -> u64 {
    (vcpus as u64).div_ceil(512) * LINE_BYTES
}

impl<'m, W: Word> GuestMemory<'m, W> {
    /// Bytes that [`GuestMemory::new`] takes.
    #[must_use]
    pub const fn bytes(vcpus: u32, signals: u32, calls: bool) -> u64 {
        let queues = if calls { queue_bytes(vcpus) * vcpus as u64 } else { 0 };
        (vcpus as u64 + signals as u64 + 6) * LINE_BYTES + queues
    }

    /// Shared memory for `vcpus` vCPUs and `signals` signals and locks; `calls` if their programs call each other.
    ///
    /// # Errors
    /// A memory that is too small.
    pub fn new(
        memory: &'m PhysicalMemory<W>,
        vm: u32,
        vcpus: u32,
        signals: u32,
        calls: bool,
    ) -> Result<Self, OutOfMemory> {
        let allocate = |lines: u64| memory.allocate(Owner::GuestMemory { vm }, lines * LINE_BYTES, LINE_BYTES);
        let queues = u64::from(vcpus) * queue_bytes(vcpus) / LINE_BYTES;
        let signal_count = u64::from(signals.max(1));
        let lines = allocate(u64::from(vcpus))?;
        let signals = allocate(signal_count)?;
        Ok(Self {
            memory,
            vcpus,
            lines,
            signals,
            signal_lines: memory.lines(signals, signal_count as usize),
            calls: if calls { Some(allocate(queues)?) } else { None },
        })
    }

    /// Address of the word of a signal or lock.
    pub(super) const fn signal_address(&self, signal: u16) -> u64 {
        self.signals + signal as u64 * LINE_BYTES
    }

    /// Address of the word that counts this vCPU's calls that were acknowledged.
    pub(super) const fn answered_address(&self, vcpu: u32) -> u64 {
        self.lines + vcpu as u64 * LINE_BYTES + ANSWERED as u64 * 8
    }

    /// Address of the word that says whether this vCPU polls.
    pub(super) const fn polling_address(&self, vcpu: u32) -> u64 {
        self.lines + vcpu as u64 * LINE_BYTES + POLLING as u64 * 8
    }

    fn of_vcpu(&self, vcpu: u32, word: usize) -> Option<&'m W> {
        let line = (vcpu < self.vcpus).then(|| self.memory.line(self.lines + u64::from(vcpu) * LINE_BYTES)).flatten();
        line.map(|line| &line[word % LINE_WORDS])
    }

    fn signal_word(&self, signal: u16) -> Option<&'m W> {
        Some(&self.signal_lines.get(usize::from(signal))?[0])
    }

    /// How often a signal has been counted.
    pub(super) fn signals(&self, signal: u16) -> u64 {
        let at = usize::from(signal);
        if at < self.signal_lines.len() { self.signal_lines[at][0].load() } else { 0 }
    }

    pub(super) fn signal(&self, signal: u16) {
        if let Some(word) = self.signal_word(signal) {
            word.fetch_add(1);
        }
    }

    /// Tries to take a lock.
    pub(super) fn lock(&self, lock: u16) -> bool {
        self.signal_word(lock).is_none_or(|word| word.load() == 0 && word.compare_exchange(0, 1).is_ok())
    }

    pub(super) fn unlock(&self, lock: u16) {
        if let Some(word) = self.signal_word(lock) {
            word.store(0);
        }
    }

    /// Leaves a message; whether its reader is idle and wants an IPI.
    pub(super) fn leave_message(&self, to: u32) -> bool {
        // The count before the look at IDLE, against IDLE before the look at the count: both are locked operations.
        if let Some(messages) = self.of_vcpu(to, MESSAGES) {
            messages.fetch_add(1);
        }
        self.of_vcpu(to, IDLE).is_some_and(|idle| idle.load() != 0 && idle.swap(0) != 0)
    }

    /// How many messages this vCPU has ever got.
    pub(super) fn messages(&self, vcpu: u32) -> u64 {
        self.of_vcpu(vcpu, MESSAGES).map_or(0, Word::load)
    }

    pub(super) fn set_idle(&self, vcpu: u32, idle: bool) {
        if let Some(word) = self.of_vcpu(vcpu, IDLE) {
            word.swap(u64::from(idle));
        }
    }

    fn queue(&self, vcpu: u32, word: u64) -> Option<&'m W> {
        let queue = self.calls? + u64::from(vcpu) * queue_bytes(self.vcpus);
        self.memory.word(queue + word * 8)
    }

    /// Queues a call of `caller` on `target`; whether the queue was empty and an IPI is wanted.
    pub(super) fn call(&self, caller: u32, target: u32) -> bool {
        if let Some(word) = self.queue(target, u64::from(caller / 64)) {
            word.fetch_or(1 << (caller % 64));
        }
        self.of_vcpu(target, CALLED).is_some_and(|called| called.swap(1) == 0)
    }

    /// Tells a vCPU of a call without an IPI, if it polls (`set_nr_if_polling`).
    pub(super) fn tell_polling(&self, target: u32) -> bool {
        // The call is queued before this, and POLLING is cleared before the queue is looked at: who is told finds the call.
        self.of_vcpu(target, POLLING)
            .is_some_and(|polling| polling.load() != 0 && polling.compare_exchange(POLLS, TOLD) != Err(0))
    }

    /// Polls; whether that is over: this vCPU was told of a call, or the run is `stopping`.
    pub(super) fn poll(&self, vcpu: u32, stopping: bool) -> bool {
        let Some(polling) = self.of_vcpu(vcpu, POLLING) else { return true };
        let over = stopping || polling.load() == TOLD;
        if over {
            // Before the queue is looked at, against the queue before the look at POLLING in `tell_polling`.
            polling.swap(0);
        } else if polling.load() == 0 {
            // Nobody else leaves 0, and a caller that does not see this yet sends an IPI.
            polling.store(POLLS);
        }
        over
    }

    /// Takes the calls queued for `vcpu` and acknowledges each to its caller.
    pub(super) fn answer(&self, vcpu: u32) {
        // CALLED is cleared first: a call that comes after this finds it 0 and sends an IPI of its own.
        if self.of_vcpu(vcpu, CALLED).is_none_or(|called| called.swap(0) == 0) {
            return;
        }
        for word in 0..self.vcpus.div_ceil(64) {
            let Some(queue) = self.queue(vcpu, u64::from(word)) else { return };
            let mut callers = if queue.load() == 0 { 0 } else { queue.swap(0) };
            while callers != 0 {
                let caller = word * 64 + callers.trailing_zeros();
                callers &= callers - 1;
                if let Some(answered) = self.of_vcpu(caller, ANSWERED) {
                    answered.fetch_add(1);
                }
            }
        }
    }

    /// How many calls of this vCPU have ever been acknowledged.
    pub(super) fn answered(&self, vcpu: u32) -> u64 {
        self.of_vcpu(vcpu, ANSWERED).map_or(0, Word::load)
    }
}
