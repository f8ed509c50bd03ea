//! Recordings in: events a second, of a file as `perf record` would have written it in an hour.

use super::{NotMeasured, clock, median};
use crate::intake::{Options, read_bytes};
use std::io::{self, Write};

/// Two vCPUs that send IPIs to each other and to themselves, with what shows how the IPIs are written and received. It is
/// small enough to be a part of the program.
const RECORDING: &[u8] = include_bytes!("../../../examples/kut-apic-x2apic.perf.data");
/// Samples in a file: some 100 bytes each.
const SAMPLES: u64 = 400_000;
const TIMES: usize = 5;

/// Places in a perf.data file's header (`tools/perf/util/header.h`): where the attributes are, where the data is, its size,
/// where it ends, and which features are described behind it.
const ATTRIBUTES: usize = 24;
const DATA: usize = 40;
const DATA_SIZE: usize = 48;
const DATA_SIZE_END: usize = 56;
const FEATURES: std::ops::Range<usize> = 72..104;
/// A feature's place and its size.
const SECTION: usize = 16;
/// Types of records.
const SAMPLE: u32 = 9;
const FINISHED_ROUND: u32 = 68;
/// Of `perf_event_attr`: `sample_type`, and the bits of it whose values stand before the time.
const SAMPLE_TYPE: usize = 24;
const BEFORE_TIME: u64 = 1 << 16 | 1 << 1 | 1;
/// Of a record: type, `misc` and size.
const RECORD_HEADER: usize = 8;

/// Events a second that are read on one core, of perf.data that lies in memory.
///
/// # Errors
/// Not everything was read.
pub fn intake() -> Result<f64, NotMeasured> {
    let mut file = Vec::new();
    let samples = repeat(RECORDING, SAMPLES, &mut file).map_err(|error| NotMeasured(error.to_string()))?;
    let rate = |_| {
        let begin = clock();
        let recording = read_bytes(&file, &Options::default()).map_err(|error| NotMeasured(error.to_string()))?;
        let seconds = clock() - begin;
        let read: u64 = recording.records.values().sum();
        if read == samples {
            Ok(samples as f64 / seconds)
        } else {
            Err(NotMeasured(format!("{read} of {samples} samples were read")))
        }
    };
    let rates: Result<Vec<_>, _> = (0..TIMES).map(rate).collect();
    Ok(median(rates?.into_iter()))
}

/// Writes a perf.data file with at least `samples` samples: those of the perf.data file `recording` over and over, each time
/// as much later as the recording is long, in a round of its own as `perf record` ends them. Returns how many.
///
/// # Errors
/// `file` cannot be written, or `recording` is not perf.data with samples.
pub fn repeat(recording: &[u8], samples: u64, mut file: impl Write) -> io::Result<u64> {
    let other = || io::Error::new(io::ErrorKind::InvalidData, "no perf.data with samples");
    let Parts { before, data, behind } = Parts::of(recording).ok_or_else(other)?;
    let Records { others, mut round, times } = Records::of(recording, data).ok_or_else(other)?;
    let of_times = || times.iter().map(|(_, time)| *time);
    let span = of_times().max().zip(of_times().min()).map(|(last, first)| last - first + 1).ok_or_else(other)?;
    let rounds = samples.div_ceil(times.len() as u64);
    let size = others.len() as u64 + rounds * round.len() as u64;

    file.write_all(&before[..DATA_SIZE])?;
    file.write_all(&size.to_le_bytes())?;
    file.write_all(&before[DATA_SIZE_END..])?;
    file.write_all(&others)?;
    for turn in 0..rounds {
        for (at, time) in &times {
            put(&mut round, *at, time + turn * span);
        }
        file.write_all(&round)?;
    }
    // The table of features says where in the file their descriptions are.
    let features: u32 = before[FEATURES].iter().map(|byte| byte.count_ones()).sum();
    let mut behind = behind.to_vec();
    for at in (0..features as usize).map(|feature| feature * SECTION) {
        let place = word(&behind, at).ok_or_else(other)?;
        put(&mut behind, at, place.wrapping_add(size).wrapping_sub(data.len() as u64));
    }
    file.write_all(&behind)?;
    file.flush()?;
    Ok(rounds * times.len() as u64)
}

/// A perf.data file in three.
struct Parts<'r> {
    before: &'r [u8],
    data: &'r [u8],
    behind: &'r [u8],
}

impl<'r> Parts<'r> {
    fn of(recording: &'r [u8]) -> Option<Self> {
        let (start, size) = (word(recording, DATA)? as usize, word(recording, DATA_SIZE)? as usize);
        let (before, rest) = recording.split_at_checked(start).filter(|(before, _)| before.len() >= FEATURES.end)?;
        let (data, behind) = rest.split_at_checked(size)?;
        Some(Self { before, data, behind })
    }
}

/// The records of a file.
#[derive(Default)]
struct Records {
    /// Those that are no samples.
    others: Vec<u8>,
    /// The samples, and the end of a round.
    round: Vec<u8>,
    /// Where in the round a sample's time is, and the time.
    times: Vec<(usize, u64)>,
}

impl Records {
    fn of(recording: &[u8], mut data: &[u8]) -> Option<Self> {
        let format = word(recording, word(recording, ATTRIBUTES)? as usize + SAMPLE_TYPE)?;
        let time_at = RECORD_HEADER + 8 * (format & BEFORE_TIME).count_ones() as usize;
        let mut records = Self::default();
        while let Some([a, b, c, d, _, _, size @ ..]) = data.first_chunk::<RECORD_HEADER>() {
            let (record, rest) = data.split_at_checked(usize::from(u16::from_le_bytes(*size)).max(RECORD_HEADER))?;
            match u32::from_le_bytes([*a, *b, *c, *d]) {
                SAMPLE => {
                    records.times.push((records.round.len() + time_at, word(record, time_at)?));
                    records.round.extend_from_slice(record);
                }
                FINISHED_ROUND => {}
                _ => records.others.extend_from_slice(record),
            }
            data = rest;
        }
        records.round.extend_from_slice(&[FINISHED_ROUND as u8, 0, 0, 0, 0, 0, RECORD_HEADER as u8, 0]);
        Some(records)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Writes a word to a place where one was read.
fn put(bytes: &mut [u8], at: usize, word: u64) {
    if let Some(place) = bytes.get_mut(at..at + 8) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recording has 38 samples, 11 of them IPIs.
    #[test]
    fn samples_are_repeated_in_the_order_of_time() {
        let mut file = Vec::new();
        assert_eq!(repeat(RECORDING, 100, &mut file).unwrap(), 114);
        let [once, repeated] = [RECORDING, &file].map(|bytes| read_bytes(bytes, &Options::default()).unwrap());
        assert_eq!(repeated.records.values().sum::<u64>(), 114);
        assert_eq!(repeated.ipis.icr_low, once.ipis.icr_low.repeat(3));
        assert!(repeated.ipis.time_ns.is_sorted());
        assert_eq!(repeated.ipis.time_ns[..11], once.ipis.time_ns);
        assert_eq!(repeated.machine, once.machine, "what the features say is found");
    }

    #[test]
    fn what_is_no_recording_is_not_repeated() {
        for cut in (0..RECORDING.len()).step_by(97) {
            let _ = repeat(&RECORDING[..cut], 100, io::sink());
        }
        let said = repeat(&[0; 200], 100, io::sink()).unwrap_err().to_string();
        assert!(said.contains("no perf.data"), "{said}");
    }
}
