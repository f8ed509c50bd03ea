//! What the threads of a run share beside memory: who may send next, who is asleep, and when all is over.
//!
//! Wake-ups follow one rule: first the condition is made true (a request bit, the turn, the end), then the thread is
//! unparked; the thread looks at all conditions after it is unparked and before it parks again. An unpark leaves a
//! token, so one that comes between the look and the park is not lost.

use super::{Memory, Pace};
use crate::guest::Sends;
use crate::memory::Line;
use crossbeam_utils::CachePadded;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;

pub(crate) struct Shared<'m> {
    pub(super) memory: &'m Memory,
    requests: Vec<&'m Line<AtomicU64>>,
    threads: Vec<CachePadded<OnceLock<Thread>>>,
    /// The thread that waits for all of them.
    caller: Thread,
    /// Senders whose program is not done.
    sending: CachePadded<AtomicUsize>,
    begun: AtomicBool,
    stop: CachePadded<AtomicBool>,
    turns: Option<Turns>,
}

/// The recorded pace: one interrupt of the run at a time.
struct Turns {
    /// The place in the order that is under way.
    now: CachePadded<AtomicUsize>,
    /// Which pCPU sends the interrupt at each place.
    sender: Vec<u32>,
}

impl<'m> Shared<'m> {
    pub(super) fn new(memory: &'m Memory, requests: &[u64], programs: &[Sends], pace: Pace) -> Self {
        let sending = programs.iter().filter(|program| !program.is_empty()).count();
        Self {
            memory,
            requests: requests.iter().filter_map(|&address| memory.line(address)).collect(),
            threads: requests.iter().map(|_| CachePadded::default()).collect(),
            caller: std::thread::current(),
            sending: CachePadded::new(AtomicUsize::new(sending)),
            begun: AtomicBool::new(false),
            stop: CachePadded::default(),
            turns: (pace == Pace::Recorded).then(|| Turns::new(programs)),
        }
    }

    pub(super) fn register(&self, pcpu: usize, thread: Thread) {
        if let Some(slot) = self.threads.get(pcpu) {
            // Each pCPU registers once.
            let _ = slot.set(thread);
        }
    }

    /// All threads are registered: senders may go.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.wake_all();
    }

    pub(super) fn begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake_all();
    }

    #[inline]
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The request bits of the local APIC with this physical ID.
    #[inline]
    pub(super) fn requests(&self, apic_id: u32) -> Option<&'m Line<AtomicU64>> {
        self.requests.get(apic_id as usize).copied()
    }

    #[inline]
    pub(super) fn wake(&self, pcpu: usize) {
        if let Some(thread) = self.threads.get(pcpu).and_then(|slot| slot.get()) {
            thread.unpark();
        }
    }

    pub(super) fn wake_caller(&self) {
        self.caller.unpark();
    }

    fn wake_all(&self) {
        (0..self.threads.len()).for_each(|pcpu| self.wake(pcpu));
    }

    /// A sender is through its program.
    pub(super) fn sender_done(&self) {
        // Release: its posts and requests come before; whoever sees 0 finds them.
        if self.sending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_all();
        }
    }

    /// Every sender is through: what is in the local APICs now is all there will be.
    #[inline]
    pub(super) fn all_sent(&self) -> bool {
        self.sending.load(Ordering::Acquire) == 0
    }

    /// Whether the interrupt at place `order` may be sent now.
    #[inline]
    pub(super) fn turn(&self, order: u32) -> bool {
        self.turns.as_ref().is_none_or(|turns| turns.now.load(Ordering::Acquire) == order as usize)
    }

    /// The place in the order that is under way, in the recorded pace.
    pub(super) fn turn_now(&self) -> Option<usize> {
        self.turns.as_ref().map(|turns| turns.now.load(Ordering::Acquire))
    }

    /// The interrupt that is under way has arrived, or never will: the next may be sent.
    #[inline]
    pub(super) fn arrived(&self) {
        if let Some(turns) = &self.turns {
            let next = turns.now.fetch_add(1, Ordering::AcqRel) + 1;
            if let Some(&sender) = turns.sender.get(next) {
                self.wake(sender as usize);
            }
        }
    }
}

impl Turns {
    fn new(programs: &[Sends]) -> Self {
        let mut sender = vec![0; programs.iter().map(Vec::len).sum()];
        for (pcpu, program) in (0..).zip(programs) {
            for send in program {
                if let Some(slot) = sender.get_mut(send.order as usize) {
                    *slot = pcpu;
                }
            }
        }
        Self { now: CachePadded::default(), sender }
    }
}
