//! How often loops have gone round.

/// Loops whose count stands in the vCPU's own lines: most programs and their handlers have no more at a time.
const NEAR: usize = 2;

/// How often each loop of a program, and of the handlers that interrupted it, has gone round.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    near: [u64; NEAR],
    /// Of the loops behind those.
    far: Vec<u64>,
    /// How many loops there are.
    loops: u32,
}

impl Rounds {
    /// Adds `loops` loops that have not gone round yet. Returns where they begin.
    #[inline]
    pub(super) fn add(&mut self, loops: u16) -> u32 {
        let begin = self.loops;
        if loops > 0 {
            self.begin_at_zero(begin, loops);
        }
        begin
    }

    #[inline(never)]
    fn begin_at_zero(&mut self, begin: u32, loops: u16) {
        self.loops = begin + u32::from(loops);
        self.far.resize((self.loops as usize).saturating_sub(NEAR), 0);
        for number in 0..loops {
            *self.of(begin, number) = 0;
        }
    }

    /// Of the `number`-th of the loops that begin at `begin`.
    #[inline]
    pub(super) fn of(&mut self, begin: u32, number: u16) -> &mut u64 {
        let at = begin as usize + usize::from(number);
        if at < NEAR { &mut self.near[at] } else { self.of_far(at) }
    }

    #[inline(never)]
    fn of_far(&mut self, at: usize) -> &mut u64 {
        &mut self.far[at - NEAR]
    }

    /// Forgets all from `loops` on.
    #[inline]
    pub(super) fn truncate(&mut self, loops: u32) {
        if self.loops > loops {
            self.loops = loops;
            self.far.truncate((loops as usize).saturating_sub(NEAR));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_has_loops_of_its_own() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.add(0), 0);
        let (program, handler) = (rounds.add(1), rounds.add(3));
        assert_eq!((program, handler), (0, 1));
        *rounds.of(program, 0) = 7;
        for number in 0..3 {
            *rounds.of(handler, number) = 10 + u64::from(number);
        }
        assert_eq!([0, 1, 2].map(|number| *rounds.of(handler, number)), [10, 11, 12]);
        rounds.truncate(handler);
        assert_eq!(*rounds.of(program, 0), 7);
        assert_eq!(rounds.add(3), handler);
        assert_eq!([0, 1, 2].map(|number| *rounds.of(handler, number)), [0; 3], "they begin anew");
        rounds.truncate(0);
        assert_eq!(rounds.add(2), 0);
        assert_eq!(*rounds.of(0, 0), 0);
    }
}
