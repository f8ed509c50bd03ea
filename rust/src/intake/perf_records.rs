//! The records of a perf.data file, one after the other, unpacked where `perf record -z` packed them.
//!
//! Own code although linux-perf-data has a loop over records: that one keeps a buffer per record and sorts all of them
//! (a third of the speed), and allocates whatever size a file states for hardware trace data.

use super::error::IntakeError;
use super::perf_check::Section;
use linux_perf_data::linux_perf_event_reader::RecordType;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

/// `PERF_RECORD_FINISHED_ROUND`: see [`super::perf_window`].
pub(super) const FINISHED_ROUND: RecordType = RecordType(68);
/// `PERF_RECORD_AUXTRACE`: hardware trace data follows, which the record's size does not count.
const AUXTRACE: RecordType = RecordType(71);
/// `PERF_RECORD_COMPRESSED`: the body is a part of a zstd stream of records.
const COMPRESSED: RecordType = RecordType(81);
/// `PERF_RECORD_COMPRESSED2`: the same behind the size of that part.
const COMPRESSED2: RecordType = RecordType(83);

const HEADER: usize = 8;

/// One record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'b> {
    pub(super) kind: RecordType,
    /// What follows the header.
    pub(super) body: &'b [u8],
}

/// Gives every record of `data` to `take`, in the order of the file.
pub(super) fn walk<R: Read + Seek>(
    path: &Path,
    file: &mut BufReader<R>,
    data: Section,
    mut take: impl FnMut(Record),
) -> Result<(), IntakeError> {
    let failed = |source| IntakeError::Io { path: path.into(), source };
    let damaged = |what| IntakeError::Damaged { path: path.into(), what };
    let mut unpacker = None;
    let mut split = Vec::new();
    let mut at = data.offset;
    file.seek(SeekFrom::Start(at)).map_err(failed)?;
    while at < data.end() {
        let left = data.end() - at;
        // A record that the buffer holds whole is used in place; others are put together in `split`.
        let whole = record(file.buffer()).map(|(record, size)| (record.kind, size));
        let (kind, size) = match whole {
            Some(whole) => whole,
            None => read_split(file, left, &mut split).map_err(failed)?,
        };
        if size < HEADER || size as u64 > left {
            return Err(damaged(format!("the record at byte {at} claims to have {size} bytes")));
        }
        let bytes = if whole.is_some() { file.buffer() } else { &split };
        let body = bytes.get(HEADER..size).unwrap_or_default();
        let mut follows = 0;
        match kind {
            AUXTRACE => follows = body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            COMPRESSED | COMPRESSED2 => {
                let unpacker = unpacker.get_or_insert_with(Unpacker::new);
                let packed = if kind == COMPRESSED { Some(body) } else { sized(body) };
                let problem = match packed {
                    Some(packed) => unpacker.unpack(packed, &mut take).err(),
                    None => Some("its size"),
                };
                if let Some(problem) = problem {
                    return Err(damaged(format!("the compressed record at byte {at} cannot be unpacked: {problem}")));
                }
            }
            _ => take(Record { kind, body }),
        }
        if whole.is_some() {
            file.consume(size);
        }
        at += size as u64;
        if follows > 0 {
            if follows > data.end() - at {
                return Err(damaged(format!("the trace data at byte {at} claims to have {follows} bytes")));
            }
            at += follows;
            file.seek(SeekFrom::Start(at)).map_err(failed)?;
        }
    }
    if unpacker.is_some_and(|unpacker| !unpacker.records.is_empty()) {
        return Err(damaged("its compressed data ends in the middle of a record".to_owned()));
    }
    Ok(())
}

/// The record at the start of `bytes` and its size; none if it is not all there, or its size is none.
#[inline]
fn record(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let (kind, size) = header(*bytes.first_chunk()?);
    Some((Record { kind, body: bytes.get(HEADER..size)? }, size))
}

#[inline]
fn header(header: [u8; HEADER]) -> (RecordType, usize) {
    let [k0, k1, k2, k3, _, _, s0, s1] = header;
    (RecordType(u32::from_le_bytes([k0, k1, k2, k3])), usize::from(u16::from_le_bytes([s0, s1])))
}

/// Reads a record that lies across the end of the buffer, header and all, unless it would go beyond `left`.
fn read_split<R: Read>(file: &mut BufReader<R>, left: u64, split: &mut Vec<u8>) -> io::Result<(RecordType, usize)> {
    split.clear();
    file.take(left.min(HEADER as u64)).read_to_end(split)?;
    let Some((kind, size)) = split.first_chunk().copied().map(header) else { return Ok((RecordType(0), split.len())) };
    if size >= HEADER && size as u64 <= left {
        file.take((size - HEADER) as u64).read_to_end(split)?;
        if split.len() < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((kind, size))
}

/// The part of the body that its first eight bytes count.
fn sized(body: &[u8]) -> Option<&[u8]> {
    let (size, rest) = body.split_first_chunk()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*size)).ok()?)
}

/// Unpacks the zstd stream that compressed records are parts of.
struct Unpacker {
    context: DCtx<'static>,
    piece: Vec<u8>,
    /// The start of a record whose end is yet to come.
    records: Vec<u8>,
}

impl Unpacker {
    /// How much is unpacked at once, so that a small file cannot take much memory.
    const PIECE: usize = 64 * 1024;

    fn new() -> Self {
        Self { context: DCtx::create(), piece: vec![0; Self::PIECE], records: Vec::new() }
    }

    fn unpack(&mut self, packed: &[u8], take: &mut impl FnMut(Record)) -> Result<(), &'static str> {
        let mut input = InBuffer::around(packed);
        loop {
            let mut output = OutBuffer::around(self.piece.as_mut_slice());
            self.context.decompress_stream(&mut output, &mut input).map_err(zstd_safe::get_error_name)?;
            let unpacked = output.pos();
            self.records.extend_from_slice(self.piece.get(..unpacked).unwrap_or_default());
            let mut used = 0;
            while let Some((record, size)) = self.records.get(used..).and_then(record) {
                take(record);
                used += size;
            }
            if self.records.get(used..).and_then(<[u8]>::first_chunk).is_some_and(|start| header(*start).1 < HEADER) {
                return Err("a record in it has no size");
            }
            self.records.drain(..used);
            if unpacked < Self::PIECE && input.pos() == packed.len() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{example_bytes, read_perf_data};
    use super::super::{IntakeError, Recording};
    use super::*;

    const FILE: &str = "kut-smptest-x2apic-smp4-full.perf.data";
    const DATA_OFFSET: usize = 40;
    const DATA_SIZE: usize = 48;
    const FEATURES: std::ops::Range<usize> = 72..104;

    fn word(bytes: &[u8], at: usize) -> usize {
        u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize
    }

    /// The file with other records: `make` gets the old ones.
    fn with_records(make: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let file = example_bytes(FILE);
        let (start, size) = (word(&file, DATA_OFFSET), word(&file, DATA_SIZE));
        let records = make(&file[start..start + size]);
        let mut new = [&file[..start], &records, &file[start + size..]].concat();
        new[DATA_SIZE..DATA_SIZE + 8].copy_from_slice(&(records.len() as u64).to_le_bytes());
        let features: u32 = file[FEATURES].iter().map(|byte| byte.count_ones()).sum();
        for feature in 0..features as usize {
            let at = start + records.len() + feature * 16;
            let offset = word(&new, at) + records.len() - size;
            new[at..at + 8].copy_from_slice(&(offset as u64).to_le_bytes());
        }
        new
    }

    fn record(kind: RecordType, body: &[u8]) -> Vec<u8> {
        let size = (HEADER + body.len()) as u16;
        [&kind.0.to_le_bytes()[..], &[0, 0], &size.to_le_bytes(), body].concat()
    }

    fn read(make: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<Recording, IntakeError> {
        read_perf_data(&with_records(make))
    }

    fn plain() -> Recording {
        read(<[u8]>::to_vec).unwrap()
    }

    /// `perf record -z` begins a zstd stream and flushes it into records of less than 64 KiB.
    fn pack(records: &[u8]) -> Vec<u8> {
        let mut packed = vec![0; records.len() + 1024];
        let size = zstd_safe::compress(packed.as_mut_slice(), records, 1).unwrap();
        packed.truncate(size);
        packed
    }

    #[test]
    fn compressed_records_are_the_same_records() {
        let compressed = read(|records| {
            let packed = pack(records);
            packed.chunks(10_000).flat_map(|part| self::record(COMPRESSED, part)).collect()
        });
        assert_eq!(compressed.unwrap(), plain());
        let compressed = read(|records| {
            let packed = pack(records);
            let part = |part: &[u8]| {
                let body = [&(part.len() as u64).to_le_bytes()[..], part, &[0; 5]].concat();
                self::record(COMPRESSED2, &body)
            };
            packed.chunks(10_001).flat_map(part).collect()
        });
        assert_eq!(compressed.unwrap(), plain());
    }

    #[test]
    fn damaged_compressed_records_are_told() {
        let said = |result: Result<Recording, IntakeError>| result.unwrap_err().to_string();
        let cut = said(read(|records| {
            let packed = pack(records);
            self::record(COMPRESSED, &packed[..packed.len().min(20_000) / 2])
        }));
        assert!(cut.contains("compressed data ends in the middle") || cut.contains("has no IPIs"), "{cut}");
        let broken = said(read(|_| self::record(COMPRESSED, &[1; 100])));
        assert!(broken.contains("cannot be unpacked"), "{broken}");
        let lie = said(read(|_| self::record(COMPRESSED2, &[0xFF; 16])));
        assert!(lie.contains("cannot be unpacked: its size"), "{lie}");
        let endless = said(read(|_| self::record(COMPRESSED, &pack(&vec![0; 100_000]))));
        assert!(endless.contains("has no size"), "{endless}");
    }

    #[test]
    fn hardware_trace_data_is_passed_over() {
        let traced = read(|records| {
            let trace = vec![0xEE; 70_000];
            let body = (trace.len() as u64).to_le_bytes();
            [self::record(AUXTRACE, &[&body[..], &[0; 32]].concat()), trace, records.to_vec()].concat()
        });
        assert_eq!(traced.unwrap(), plain());
        let lie = read(|records| [self::record(AUXTRACE, &(1_u64 << 50).to_le_bytes()), records.to_vec()].concat());
        assert!(lie.unwrap_err().to_string().contains("claims to have 1125899906842624 bytes"));
    }

    #[test]
    fn damage_in_the_middle_says_where() {
        let mut at = 0;
        let said = read(|records| {
            let mut records = records.to_vec();
            for _ in 0..100 {
                at += usize::from(u16::from_le_bytes([records[at + 6], records[at + 7]]));
            }
            records[at + 6] = 3;
            records[at + 7] = 0;
            records
        });
        let place = at + word(&example_bytes(FILE), DATA_OFFSET);
        let said = said.unwrap_err().to_string();
        assert!(said.contains(&format!("the record at byte {place} claims to have 3 bytes")), "{said}");
        let said = read(|records| [records, &[9, 0, 0, 0, 0, 0, 0, 1][..]].concat()).unwrap_err().to_string();
        assert!(said.contains("claims to have 256 bytes"), "{said}");
        assert!(
            read(|records| [records, &[9, 0, 0][..]].concat())
                .unwrap_err()
                .to_string()
                .contains("claims to have 3 bytes")
        );
    }

    #[test]
    fn losses_are_counted() {
        let lossy = read(|records| {
            let lost = self::record(RecordType::LOST, &[7_u64.to_le_bytes(), 5_u64.to_le_bytes()].concat());
            let samples = self::record(RecordType::LOST_SAMPLES, &6_u64.to_le_bytes());
            [&lost[..], &samples, records].concat()
        });
        assert_eq!(lossy.unwrap().lost, 11);
    }
}
