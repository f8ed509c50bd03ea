//! Puts samples into the order of time, in a window that `perf record` bounds.
//!
//! `perf record` empties the buffers of all CPUs in rounds and ends each with `PERF_RECORD_FINISHED_ROUND`. A sample that
//! is written in one round can be older than samples of the round before, but not than those of the round before that.
//! So at the end of a round everything not younger than the newest sample of the *previous* round is final. A file of one
//! round (a short recording) is held whole.

/// Samples that are not in final order yet.
#[derive(Debug, Default)]
pub(super) struct Window {
    keys: Vec<Key>,
    /// The samples' bytes, end to end.
    bytes: Vec<u8>,
    spare: Vec<u8>,
    newest: u64,
    newest_of_last_round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    time_ns: u64,
    start: usize,
    length: u32,
    event: u32,
}

impl Window {
    /// Adds a sample of event number `event`.
    #[inline]
    pub(super) fn push(&mut self, time_ns: u64, event: u32, sample: &[u8]) {
        self.newest = self.newest.max(time_ns);
        self.keys.push(Key { time_ns, start: self.bytes.len(), length: sample.len() as u32, event });
        self.bytes.extend_from_slice(sample);
    }

    /// Ends a round: gives `take` what is final now, in order.
    pub(super) fn end_round(&mut self, take: impl FnMut(u32, &[u8])) {
        self.release(self.newest_of_last_round, take);
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
            take(key.event, sample(&self.bytes, key));
        }
        self.spare.clear();
        for key in &mut self.keys {
            let start = self.spare.len();
            self.spare.extend_from_slice(sample(&self.bytes, *key));
            key.start = start;
        }
        std::mem::swap(&mut self.bytes, &mut self.spare);
    }
}

#[inline]
fn sample(bytes: &[u8], key: Key) -> &[u8] {
    bytes.get(key.start..key.start + key.length as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(window: &mut Window, samples: &[(u64, u8)]) {
        for &(time_ns, sample) in samples {
            window.push(time_ns, 0, &[sample]);
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
}
