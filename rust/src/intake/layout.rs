//! Where things are in a perf sample: fixed by the event's `sample_type`, up to the tracepoint's own bytes.
//!
//! Own code although linux-perf-data can parse whole samples: it multiplies lengths that the file states without a check,
//! and four fields at fixed places are all that is needed.

use linux_perf_data::linux_perf_event_reader::SampleFormat;

/// The layout of one event's samples. Offsets are from the end of the record's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) id: Option<usize>,
    thread: usize,
    time: usize,
    cpu: Option<usize>,
    /// Where the parts of variable size begin.
    variable: usize,
    callchain: bool,
}

/// Why samples cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// They lack something that ipivrs cannot do without.
    Lack(&'static str),
    /// They carry counter values (`PERF_SAMPLE_READ`), whose size depends on a flag (`PERF_FORMAT_LOST`) that
    /// linux-perf-data drops.
    Counters,
}

/// The parts of a sample that ipivrs uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) time_ns: u64,
    pub(super) process: u32,
    pub(super) thread: u32,
    pub(super) cpu: Option<u32>,
}

impl Layout {
    /// The layout of samples of that format.
    ///
    /// # Errors
    /// Why ipivrs cannot use such samples.
    pub(super) fn new(format: SampleFormat) -> Result<Self, Unusable> {
        let before = |fields: SampleFormat| format.intersection(fields).bits().count_ones() as usize * 8;
        // In the order of the record; each takes eight bytes.
        let to_thread = SampleFormat::IDENTIFIER | SampleFormat::IP;
        let to_time = to_thread | SampleFormat::TID;
        let to_id = to_time | SampleFormat::TIME | SampleFormat::ADDR;
        let to_cpu = to_id | SampleFormat::ID | SampleFormat::STREAM_ID;
        let fixed = to_cpu | SampleFormat::CPU | SampleFormat::PERIOD;
        for (part, name) in
            [(SampleFormat::TID, "thread"), (SampleFormat::TIME, "time"), (SampleFormat::RAW, "tracepoint data")]
        {
            if !format.contains(part) {
                return Err(Unusable::Lack(name));
            }
        }
        if format.contains(SampleFormat::READ) {
            return Err(Unusable::Counters);
        }
        let id = match (format.contains(SampleFormat::IDENTIFIER), format.contains(SampleFormat::ID)) {
            (true, _) => Some(0),
            (false, true) => Some(before(to_id)),
            (false, false) => None,
        };
        Ok(Self {
            id,
            thread: before(to_thread),
            time: before(to_time),
            cpu: format.contains(SampleFormat::CPU).then(|| before(to_cpu)),
            variable: before(fixed),
            callchain: format.contains(SampleFormat::CALLCHAIN),
        })
    }

    /// Time, thread and CPU of a sample; none if it is too short.
    #[inline]
    pub(super) fn fixed(&self, sample: &[u8]) -> Option<Fixed> {
        let thread = u64_at(sample, self.thread)?;
        let cpu = match self.cpu {
            Some(offset) => Some(u64_at(sample, offset)? as u32),
            None => None,
        };
        Some(Fixed { time_ns: u64_at(sample, self.time)?, process: thread as u32, thread: (thread >> 32) as u32, cpu })
    }

    /// The tracepoint's bytes; none if the sample is too short for what it claims to hold.
    #[inline]
    pub(super) fn raw<'s>(&self, sample: &'s [u8]) -> Option<&'s [u8]> {
        let mut rest = sample.get(self.variable..)?;
        if self.callchain {
            let entries = usize::try_from(u64_at(rest, 0)?).ok()?;
            rest = rest.get(entries.checked_mul(8)?.checked_add(8)?..)?;
        }
        let (size, rest) = rest.split_first_chunk()?;
        rest.get(..u32::from_le_bytes(*size) as usize)
    }
}

#[inline]
fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: SampleFormat = SampleFormat::IP
        .union(SampleFormat::TID)
        .union(SampleFormat::TIME)
        .union(SampleFormat::ID)
        .union(SampleFormat::CPU)
        .union(SampleFormat::PERIOD)
        .union(SampleFormat::RAW);

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn fields_are_where_the_kernel_puts_them() {
        let layout = Layout::new(FORMAT).unwrap();
        let mut sample = words(&[0x1111, 7 << 32 | 5, 1_000, 42, 3, 1]);
        sample.extend([4, 0, 0, 0, 9, 8, 7, 6, 0]);
        let fixed = Fixed { time_ns: 1_000, process: 5, thread: 7, cpu: Some(3) };
        assert_eq!(layout.fixed(&sample), Some(fixed));
        assert_eq!(layout.id, Some(24));
        assert_eq!(layout.raw(&sample), Some(&[9, 8, 7, 6][..]));
    }

    #[test]
    fn a_call_chain_is_passed_over() {
        let layout = Layout::new(FORMAT | SampleFormat::CALLCHAIN).unwrap();
        let mut sample = words(&[0x1111, 0, 0, 0, 0, 1, 2, 0xAAAA, 0xBBBB]);
        sample.extend([1, 0, 0, 0, 9]);
        assert_eq!(layout.raw(&sample), Some(&[9][..]));
        sample[48..56].fill(0xFF);
        assert_eq!(layout.raw(&sample), None, "a length beyond all bounds");
    }

    #[test]
    fn a_cut_sample_has_no_tracepoint() {
        let layout = Layout::new(FORMAT).unwrap();
        let mut sample = words(&[0, 0, 0, 0, 0, 1]);
        sample.extend([4, 0, 0, 0, 9, 8, 7]);
        assert_eq!(layout.raw(&sample), None);
        assert_eq!(layout.fixed(&sample[..20]), None);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert_eq!(Layout::new(FORMAT - SampleFormat::RAW).unwrap_err(), Unusable::Lack("tracepoint data"));
        assert_eq!(Layout::new(FORMAT - SampleFormat::TIME).unwrap_err(), Unusable::Lack("time"));
        assert_eq!(Layout::new(FORMAT | SampleFormat::READ).unwrap_err(), Unusable::Counters);
    }
}
