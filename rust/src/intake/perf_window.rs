//! Puts samples into the order of time, in a window that `perf record` bounds.
//!
//! `perf record` empties the buffers of all CPUs in rounds and ends each with `PERF_RECORD_FINISHED_ROUND`. A sample that
//! is written in one round can be older than samples of the round before, but not than those of the round before that.
//! So at the end of a round everything not younger than the newest sample of the *previous* round is final. A file of one
//! round (a short recording) is held whole.
//!
//! What is held is bounded all the same: where a round has more bytes than [`MOST`], the older half of its samples is taken
//! for final, as perf does (`OE_FLUSH__HALF`), and samples that come too late for their place are counted.

/// Bytes of samples that are held at most, beside those of the record that is read.
const MOST: usize = 512 << 20;

/// Samples that are not in final order yet.
#[derive(Debug)]
pub(super) struct Window {
    /// Those of the round before are in front, in order.
    keys: Vec<Key>,
    /// The bytes of this round's samples, end to end, and of those of the round before: they are never moved, for at the
    /// end of a round all that is left is of this round.
    bytes: Vec<u8>,
    before: Vec<u8>,
    newest: u64,
    newest_of_last_round: u64,
    /// Everything up to here is given away.
    released: u64,
    most: usize,
    /// Samples that were older than what had been given away.
    pub(super) late: u64,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    time_ns: u64,
    start: usize,
    event: u32,
    /// A record's size has 16 bits.
    length: u16,
    /// It is of the round before.
    before: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self::holding(MOST)
    }
}

impl Window {
    /// A window that holds at most so many bytes.
    fn holding(most: usize) -> Self {
        Self {
            keys: Vec::new(),
            bytes: Vec::new(),
            before: Vec::new(),
            newest: 0,
            newest_of_last_round: 0,
            released: 0,
            most,
            late: 0,
        }
    }

    /// Adds a sample of event number `event`; gives `take` what is final if there is no room for more.
    #[inline]
    pub(super) fn push(&mut self, time_ns: u64, event: u32, sample: &[u8], take: impl FnMut(u32, &[u8])) {
        if self.bytes.len() + self.before.len() >= self.most {
            self.make_room(take);
        }
        self.late += u64::from(time_ns < self.released);
        self.newest = self.newest.max(time_ns);
        let (start, length) = (self.bytes.len(), sample.len() as u16);
        self.keys.push(Key { time_ns, start, event, length, before: false });
        self.bytes.extend_from_slice(sample);
    }

    /// Ends a round: gives `take` what is final now, in order.
    pub(super) fn end_round(&mut self, take: impl FnMut(u32, &[u8])) {
        self.release(self.newest_of_last_round, take);
        for key in &mut self.keys {
            key.before = true;
        }
        std::mem::swap(&mut self.bytes, &mut self.before);
        self.bytes.clear();
        self.newest_of_last_round = self.newest;
    }

    /// No more samples come.
    pub(super) fn end(&mut self, take: impl FnMut(u32, &[u8])) {
        self.release(u64::MAX, take);
    }

    /// Samples of one time keep the order of the file: the sort is stable, and quick on what is nearly sorted.
    fn release(&mut self, until: u64, mut take: impl FnMut(u32, &[u8])) {
        self.keys.sort_by_key(|key| key.time_ns);
        let released = self.keys.partition_point(|key| key.time_ns <= until);
        for key in self.keys.drain(..released) {
            take(key.event, sample(&self.bytes, &self.before, key));
        }
        self.released = self.released.max(until);
    }

    /// The older half is final, whatever comes.
    #[cold]
    fn make_room(&mut self, take: impl FnMut(u32, &[u8])) {
        self.keys.sort_by_key(|key| key.time_ns);
        let until = self.keys.get(self.keys.len() / 2).map_or(0, |key| key.time_ns);
        self.release(until, take);
        let mut kept = Vec::with_capacity(self.bytes.len() / 2);
        for key in &mut self.keys {
            let start = kept.len();
            kept.extend_from_slice(sample(&self.bytes, &self.before, *key));
            (key.start, key.before) = (start, false);
        }
        (self.bytes, self.before) = (kept, Vec::new());
    }
}

#[inline]
fn sample<'b>(bytes: &'b [u8], before: &'b [u8], key: Key) -> &'b [u8] {
    let bytes = if key.before { before } else { bytes };
    bytes.get(key.start..key.start + usize::from(key.length)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(window: &mut Window, samples: &[(u64, u8)]) {
        for &(time_ns, sample) in samples {
            window.push(time_ns, 0, &[sample], |_, _| unreachable!());
        }
    }

    /// The timeline of the comment above `process_finished_round` in perf's `session.c`, with two CPUs.
    #[test]
    fn what_a_later_round_may_precede_is_held_back() {
        let mut window = Window::default();
        let mut seen = Vec::new();
        push(&mut window, &[(1, 1), (2, 2), (4, 4), (3, 3)]);
        window.end_round(|_, sample| seen.extend_from_slice(sample));
        assert!(seen.is_empty(), "the second round may hold anything after the start of the first");
        push(&mut window, &[(5, 5), (7, 7), (3, 30), (6, 6)]);
        window.end_round(|_, sample| seen.extend_from_slice(sample));
        assert_eq!(seen, [1, 2, 3, 30, 4]);
        window.end(|_, sample| seen.extend_from_slice(sample));
        assert_eq!(seen, [1, 2, 3, 30, 4, 5, 6, 7]);
    }

    #[test]
    fn one_time_keeps_the_order_of_the_file() {
        let mut window = Window::default();
        let mut seen = Vec::new();
        push(&mut window, &[(5, 1), (5, 2), (5, 3), (1, 0)]);
        window.end(|_, sample| seen.extend_from_slice(sample));
        assert_eq!(seen, [0, 1, 2, 3]);
    }

    /// A file that never ends a round, and one that ends rounds too seldom.
    #[test]
    fn what_is_held_is_bounded() {
        let mut window = Window::holding(8);
        let mut seen = Vec::new();
        for time in [1_u8, 3, 2, 4, 6, 5, 8, 7] {
            window.push(time.into(), 0, &[time], |_, sample| seen.extend_from_slice(sample));
        }
        assert!(seen.is_empty());
        window.push(9, 0, &[9], |_, sample| seen.extend_from_slice(sample));
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        window.push(4, 0, &[40], |_, sample| seen.extend_from_slice(sample));
        assert_eq!(window.late, 1);
        window.end_round(|_, sample| seen.extend_from_slice(sample));
        window.push(10, 0, &[10], |_, sample| seen.extend_from_slice(sample));
        window.end(|_, sample| seen.extend_from_slice(sample));
        assert_eq!(seen, [1, 2, 3, 4, 5, 40, 6, 7, 8, 9, 10]);
    }
}
