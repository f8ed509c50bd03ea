//! A pCPU: what it has, and what it is at.

use super::stay::Stay;
use crate::arch::Exit;
use crate::engine::machine::Runner;
use crate::hypervisor::Instruction;
use crate::memory::{Cache, Line, PhysicalMemory, prefetch, prefetch_lines};
use crate::processor::pid_table::Recent;
use crate::processor::{LocalApic, Pages, local_apic};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem::offset_of;
use std::ops::Range;

/// What a pCPU does next, in a byte: most turns ask only whether it is in the guest. A phase is a stretch of code that nothing
/// interrupts; its costs are over when the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It looks for a vCPU to run.
    Idle,
    /// In root mode, host interrupts on: the top of `vcpu_run`.
    Root,
    /// VM entry is complete.
    Enter,
    /// In the guest.
    Guest,
    /// VM exit is complete.
    Exited,
    /// What the exit asks for is done.
    Handle,
    /// Polls before its vCPU sleeps.
    Poll,
    /// Before the vCPU may sleep.
    Block,
    /// It may sleep: the last look.
    CheckBlock,
    /// It sleeps.
    Sleep,
}

/// What VM entry injects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Injected {
    pub(super) vector: Option<u8>,
    pub(super) nmi: bool,
}

/// A VM exit, from the guest to its handler.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) exit: Exit,
    /// The vector of the interrupt that caused it.
    pub(super) acknowledged: Option<u8>,
    pub(super) instruction: Instruction,
}

/// What time needs of a pCPU is in cells: whoever acts holds a reference to its own for a whole turn, and reaches others'.
///
/// What most turns use stands at the beginning, in the [first lines](Self::ACTS) of memory, and what interrupts use behind it.
#[repr(C, align(64))]
pub(super) struct Pcpu<'m> {
    pub(super) runner: Cell<Option<&'m mut Runner>>,
    /// The pages that the processor uses in the guest.
    pub(super) pages: Cell<Option<Pages<'m, Cell<u64>>>>,
    /// When what it was last busy with was done; or when it entered the guest, in the turn in which it does. What is left of
    /// the guest's computation, or its spinning, began then.
    pub(super) clock: Cell<u64>,
    /// When the time slice ends.
    pub(super) slice_end: Cell<u64>,
    /// To whom its guest sent an interrupt last.
    pub(super) sent_to: Cell<u32>,
    /// What its guest sent and was delivered, and is not in the books yet.
    pub(super) stay: Stay,
    pub(super) phase: Cell<Phase>,
    /// The local APIC may have something.
    pub(super) attention: Cell<bool>,
    /// The guest spins.
    pub(super) spins: Cell<bool>,
    /// The request bits of its local APIC.
    pub(super) requests: &'m Line<Cell<u64>>,
    pub(super) local: RefCell<LocalApic<'m, Cell<u64>>>,
    /// The word that the guest spins on or did so last, and what it saw there.
    spun_on: Cell<Option<&'m Cell<u64>>>,
    saw: Cell<u64>,
    /// The word's address.
    spun_at: Cell<u64>,
    /// The entry of the PID-pointer table that its guest used more than once, last.
    pub(super) recent: Cell<Option<Recent<'m, Cell<u64>>>>,
    /// When its guest wrote to its local APIC what exited last.
    pub(super) written_at: Cell<u64>,
    /// vCPUs that ran here last, or do now: those that may be woken here.
    pub(super) residents: Cell<u32>,
    /// The time slice is over.
    pub(super) over: Cell<bool>,
    pub(super) left: Cell<Option<Left>>,
    pub(super) injected: Cell<Injected>,
    /// When the guest wrote the interrupt command that exited, until it is back in the guest.
    pub(super) sending: Cell<Option<u64>>,
    pub(super) queue: RefCell<VecDeque<&'m mut Runner>>,
    /// When polling began.
    pub(super) polls_since: Cell<u64>,
    /// When polling ends.
    pub(super) polls_until: Cell<u64>,
    pub(super) wakeup_list: RefCell<Vec<u32>>,
}

impl<'m> Pcpu<'m> {
    /// Lines that a guest's acts use.
    pub(super) const ACTS: Range<usize> = 0..1;
    /// The same, and what interrupts use.
    pub(super) const INTERRUPTS: Range<usize> = 0..2;
    /// All lines.
    pub(super) const ALL: Range<usize> = 0..size_of::<Self>() / 64;

    pub(super) const fn new(requests: &'m Line<Cell<u64>>) -> Self {
        Self {
            local: RefCell::new(LocalApic::new(requests)),
            requests,
            wakeup_list: RefCell::new(Vec::new()),
            queue: RefCell::new(VecDeque::new()),
            runner: Cell::new(None),
            phase: Cell::new(Phase::Idle),
            clock: Cell::new(0),
            attention: Cell::new(false),
            slice_end: Cell::new(0),
            over: Cell::new(false),
            sent_to: Cell::new(0),
            stay: Stay::new(),
            spins: Cell::new(false),
            pages: Cell::new(None),
            recent: Cell::new(None),
            written_at: Cell::new(0),
            spun_on: Cell::new(None),
            saw: Cell::new(0),
            spun_at: Cell::new(u64::MAX),
            polls_since: Cell::new(0),
            sending: Cell::new(None),
            residents: Cell::new(0),
            left: Cell::new(None),
            injected: Cell::new(Injected { vector: None, nmi: false }),
            polls_until: Cell::new(0),
        }
    }

    /// A vCPU that stays where it is is looked at.
    pub(super) fn look_at_runner<T>(&self, look: impl FnOnce(&Runner) -> T) -> Option<T> {
        let runner = self.runner.take();
        let seen = runner.as_deref().map(look);
        self.runner.set(runner);
        seen
    }

    /// The guest spins on the word at an address.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Acting::act")]
    pub(super) fn spins_on(&self, address: u64, memory: &'m PhysicalMemory<Cell<u64>>) {
        self.spins.set(true);
        if self.spun_at.get() != address {
            self.spins_on_another(address, memory);
        }
        self.saw.set(self.spun_on.get().map_or(0, Cell::get));
    }

    #[inline(never)]
    fn spins_on_another(&self, address: u64, memory: &'m PhysicalMemory<Cell<u64>>) {
        self.spun_on.set(memory.word(address));
        self.spun_at.set(address);
    }

    /// Whether the word that the guest spins on is another than it saw.
    #[inline]
    pub(super) fn spun_on_changed(&self) -> bool {
        self.spun_on.get().is_some_and(|word| word.get() != self.saw.get())
    }

    pub(super) fn acknowledge(&self) -> Option<u8> {
        self.local.borrow_mut().acknowledge()
    }

    pub(super) fn end_of_interrupt(&self) {
        self.local.borrow_mut().eoi();
    }

    /// A physical interrupt is requested.
    #[inline]
    pub(super) fn request(&self, vector: u8) {
        local_apic::request(self.requests, vector);
        self.attention.set(true);
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle)
    }

    /// Asks for the memory that a turn leads to in which its guest does what its program says next, for later.
    pub(super) fn read_ahead_of_act(&self) {
        if let Some(pages) = self.pages.get() {
            pages.read_ahead_of_icr();
        }
        self.look_at_runner(|runner| prefetch_lines(runner, Runner::ACTS, Cache::Second));
    }

    /// Asks for the memory that a turn outside of the guest leads to, for later.
    pub(super) fn read_ahead_of_root(&self) {
        prefetch_lines(self, Self::ALL, Cache::Second);
        if let Some(pages) = self.pages.get() {
            pages.read_ahead(Cache::Second);
            pages.read_ahead_of_icr();
        }
        self.look_at_runner(|runner| prefetch_lines(runner, Runner::ALL, Cache::Second));
    }

    /// Asks for the memory that a turn leads to in which it takes an interrupt.
    pub(super) fn read_ahead(&self) {
        prefetch(self.requests, 0, Cache::First);
        self.read_ahead_of_guest(Cache::First);
    }

    /// The same, but for the requests of its local APIC.
    pub(super) fn read_ahead_of_guest(&self, cache: Cache) {
        if let Some(pages) = self.pages.get() {
            pages.read_ahead(cache);
        }
        self.look_at_runner(|runner| prefetch_lines(runner, Runner::INTERRUPTS, cache));
    }
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    const LINE: usize = 64;
    assert!(offset_of!(Pcpu<'_>, requests) == Pcpu::ACTS.end * LINE);
    assert!(
        offset_of!(Pcpu<'_>, local) + size_of::<RefCell<LocalApic<'_, Cell<u64>>>>() <= Pcpu::INTERRUPTS.end * LINE
    );
};
