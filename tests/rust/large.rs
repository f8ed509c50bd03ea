//! Long recordings, made by repeating the samples of a shipped one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

const ATTRIBUTES: usize = 24;
const DATA: usize = 40;
const FEATURES: std::ops::Range<usize> = 72..104;
const SAMPLE: u32 = 9;
const FINISHED_ROUND: u32 = 68;
/// Of `perf_event_attr`: `sample_type`, and the bits of it whose values stand before the time.
const SAMPLE_TYPE: usize = 24;
const BEFORE_TIME: u64 = 1 << 16 | 1 << 1 | 1;
const HEADER: usize = 8;

fn word(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes) as usize)
}

/// Writes a perf.data file with at least `samples` samples to `path`: those of the shipped recording `name` over and over,
/// each time as much later as the recording is long, in a round of its own as `perf record` ends them. Returns how many.
pub(crate) fn write(path: &Path, name: &str, samples: u64) -> io::Result<u64> {
    let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name))?;
    let (start, size) = (word(&whole, DATA), word(&whole, DATA + 8));
    let (data, rest) = (&whole[start..start + size], &whole[start + size..]);
    let format = word(&whole, word(&whole, ATTRIBUTES) + SAMPLE_TYPE) as u64;
    let time_at = HEADER + 8 * (format & BEFORE_TIME).count_ones() as usize;

    let (mut others, mut round) = (Vec::new(), Vec::new());
    let mut times = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let kind = u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        let record = &data[at..at + usize::from(u16::from_le_bytes([data[at + 6], data[at + 7]]))];
        if kind == SAMPLE {
            times.push((round.len() + time_at, word(record, time_at)));
            round.extend_from_slice(record);
        } else if kind != FINISHED_ROUND {
            others.extend_from_slice(record);
        }
        at += record.len();
    }
    round.extend_from_slice(&[FINISHED_ROUND as u8, 0, 0, 0, 0, 0, HEADER as u8, 0]);
    let of_times = || times.iter().map(|(_, time)| *time);
    let span = of_times().max().unwrap_or(0) - of_times().min().unwrap_or(0) + 1;
    let rounds = samples.div_ceil(times.len() as u64);
    let grown = others.len() as u64 + rounds * round.len() as u64;

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&whole[..DATA + 8])?;
    file.write_all(&grown.to_le_bytes())?;
    file.write_all(&whole[DATA + 16..start])?;
    file.write_all(&others)?;
    for turn in 0..rounds as usize {
        for (at, time) in &times {
            round[*at..at + 8].copy_from_slice(&((time + turn * span) as u64).to_le_bytes());
        }
        file.write_all(&round)?;
    }
    // The table of features says where in the file their descriptions are.
    let features: usize = whole[FEATURES].iter().map(|byte| byte.count_ones() as usize).sum();
    let mut rest = rest.to_vec();
    for feature in 0..features {
        let moved = word(&rest, feature * 16) as u64 + grown - size as u64;
        rest[feature * 16..feature * 16 + 8].copy_from_slice(&moved.to_le_bytes());
    }
    file.write_all(&rest)?;
    file.flush()?;
    Ok(rounds * times.len() as u64)
}
