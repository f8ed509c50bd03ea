//! Where a vCPU is in its program and in the handlers that interrupted it.

use super::code::{Entry, GuestCode};
use std::mem::offset_of;

/// Loops whose counts stand in the vCPU's own lines: most programs and their handlers have no more at a time.
const NEAR: usize = 2;

/// Where a vCPU is in a program or a handler.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// How many loops there are below its own.
    loops: u32,
    /// Not the first field: each act would make the frame's address to reach it, 2 % of virtual time's instructions.
    pub(super) next: u32,
    /// RFLAGS.IF when the handler ends.
    interrupts: bool,
    /// Cycles of the computation that the handler interrupted.
    computing: u32,
}

impl Frame {
    /// Neither in a program nor in a handler.
    const IDLE: Self = Self { next: GuestCode::IDLE, loops: 0, interrupts: true, computing: 0 };

    #[inline]
    const fn is_idle(&self) -> bool {
        self.next == GuestCode::IDLE
    }
}

/// The frame of what runs, and those of what it interrupted. What idles has none.
///
/// Its fields stand in this order: what a program of one loop uses [comes first](Self::PROGRAM).
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Frames {
    pub(super) top: Frame,
    /// How often loops have gone round.
    rounds: [u64; NEAR],
    /// What `top` interrupted, idle if nothing.
    interrupted: Frame,
    /// How many loops there are in all frames.
    loops: u32,
    deeper: Option<Box<Deeper>>,
}

/// What few vCPUs have.
#[derive(Clone, Debug, Default)]
struct Deeper {
    /// Frames that the interrupted one interrupted in turn, the program's first.
    frames: Vec<Frame>,
    /// Of loops beyond the first ones.
    rounds: Vec<u64>,
}

impl Frames {
    /// So many bytes at the beginning are what a program of one loop uses, outside of handlers.
    pub(super) const PROGRAM: usize = offset_of!(Self, rounds) + size_of::<u64>();

    /// Nothing runs.
    pub(super) const IDLE: Self =
        Self { top: Frame::IDLE, interrupted: Frame::IDLE, rounds: [0; NEAR], loops: 0, deeper: None };

    /// What runs is a handler.
    #[inline]
    pub(super) const fn in_handler(&self) -> bool {
        !self.interrupted.is_idle()
    }

    /// A program begins, or a handler in the midst of another.
    #[inline]
    pub(super) fn enter(&mut self, Entry { start, loops }: Entry, interrupts: bool, computing: u32) {
        let below = self.loops;
        if loops > 0 {
            self.begin_loops(loops);
        }
        if !self.top.is_idle() {
            if self.in_handler() {
                self.bury();
            }
            self.interrupted = self.top;
        }
        self.top = Frame { next: start, loops: below, interrupts, computing };
    }

    /// What runs is at its end. RFLAGS.IF and the cycles that are left of a computation, if it was a handler.
    #[inline]
    pub(super) fn leave(&mut self) -> Option<(bool, u32)> {
        let Frame { interrupts, computing, loops, .. } = self.top;
        if self.loops > loops {
            self.end_loops(loops);
        }
        self.top = self.interrupted;
        if self.top.is_idle() {
            return None;
        }
        self.interrupted = Frame::IDLE;
        if self.deeper.is_some() {
            self.unbury();
        }
        Some((interrupts, computing))
    }

    #[inline(never)]
    fn bury(&mut self) {
        self.deeper.get_or_insert_default().frames.push(self.interrupted);
    }

    #[inline(never)]
    fn unbury(&mut self) {
        if let Some(frame) = self.deeper.as_mut().and_then(|deeper| deeper.frames.pop()) {
            self.interrupted = frame;
        }
    }

    /// How far the program is, whatever handlers do meanwhile: its place, the cycles that are left of a computation, and how
    /// often its first loops have gone round. `computing` are the cycles that are left of what runs.
    pub(super) fn program(&self, computing: u32) -> (u32, u32, &[u64]) {
        if !self.in_handler() {
            return (self.top.next, computing, &self.rounds);
        }
        let mut frames = self.deeper.iter().flat_map(|deeper| &deeper.frames).chain([&self.interrupted, &self.top]);
        let [program, handler] = std::array::from_fn(|_| frames.next().copied().unwrap_or(Frame::IDLE));
        (program.next, handler.computing, &self.rounds[..NEAR.min(handler.loops as usize)])
    }

    /// Handlers are given up, and the program is where it was.
    pub(super) fn back_to_program(&mut self) {
        if self.in_handler() {
            let lowest = self.deeper.as_ref().and_then(|deeper| deeper.frames.first().copied());
            self.top = lowest.unwrap_or(self.interrupted);
        }
        self.interrupted = Frame::IDLE;
        if let Some(deeper) = &mut self.deeper {
            deeper.frames.clear();
        }
    }

    #[inline(never)]
    fn begin_loops(&mut self, loops: u16) {
        let below = self.loops as usize;
        self.loops += u32::from(loops);
        let more = (self.loops as usize).saturating_sub(NEAR);
        if more > 0 {
            self.deeper.get_or_insert_default().rounds.resize(more, 0);
        }
        for near in self.rounds.iter_mut().skip(below) {
            *near = 0;
        }
    }

    #[inline(never)]
    fn end_loops(&mut self, loops: u32) {
        self.loops = loops;
        if let Some(deeper) = &mut self.deeper {
            deeper.rounds.truncate((loops as usize).saturating_sub(NEAR));
        }
    }

    /// How often the `number`-th loop of what runs has gone round.
    #[inline]
    pub(super) fn rounds(&mut self, number: u16) -> &mut u64 {
        let at = self.top.loops as usize + usize::from(number);
        if at < NEAR { &mut self.rounds[at] } else { self.more_rounds(at - NEAR) }
    }

    #[inline(never)]
    fn more_rounds(&mut self, at: usize) -> &mut u64 {
        let rounds = &mut self.deeper.get_or_insert_default().rounds;
        if at >= rounds.len() {
            rounds.resize(at + 1, 0);
        }
        &mut rounds[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(frames: &mut Frames, start: u32, loops: u16) {
        frames.enter(Entry { start, loops }, start.is_multiple_of(2), start * 10);
    }

    #[test]
    fn each_frame_has_loops_of_its_own() {
        let mut frames = Frames::IDLE;
        enter(&mut frames, 1, 1);
        *frames.rounds(0) = 7;
        enter(&mut frames, 2, 3);
        assert_eq!([0, 1, 2].map(|number| *frames.rounds(number)), [0; 3]);
        for number in 0..3 {
            *frames.rounds(number) = 10 + u64::from(number);
        }
        assert_eq!([0, 1, 2].map(|number| *frames.rounds(number)), [10, 11, 12]);
        assert_eq!(frames.leave(), Some((true, 20)));
        assert_eq!(*frames.rounds(0), 7);
        enter(&mut frames, 2, 3);
        assert_eq!([0, 1, 2].map(|number| *frames.rounds(number)), [0; 3], "they begin anew");
    }

    #[test]
    fn handlers_end_one_after_another() {
        let mut frames = Frames::IDLE;
        for start in 1..=4 {
            enter(&mut frames, start, 0);
        }
        let ended = [3, 2, 1].map(|next| (frames.in_handler(), frames.leave(), frames.top.next == next));
        assert_eq!(
            ended,
            [(true, Some((true, 40)), true), (true, Some((false, 30)), true), (true, Some((true, 20)), true)]
        );
        assert_eq!((frames.in_handler(), frames.leave(), frames.top.next), (false, None, GuestCode::IDLE));
    }

    #[test]
    fn the_program_goes_on_without_its_handlers() {
        for handlers in 0..4 {
            let mut frames = Frames::IDLE;
            for start in 1..=1 + handlers {
                enter(&mut frames, start, 1);
            }
            frames.back_to_program();
            assert_eq!((frames.in_handler(), frames.top.next), (false, 1));
            assert_eq!(frames.leave(), None);
        }
    }
}
