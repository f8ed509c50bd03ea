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
    let (kind, size) = header(bytes.first_chunk()?);
    Some((Record { kind, body: bytes.get(HEADER..size)? }, size))
}

#[inline]
fn header(header: &[u8; HEADER]) -> (RecordType, usize) {
    let [k0, k1, k2, k3, _, _, s0, s1] = *header;
    (RecordType(u32::from_le_bytes([k0, k1, k2, k3])), usize::from(u16::from_le_bytes([s0, s1])))
}

/// Reads a record that lies across the end of the buffer, header and all, unless it would go beyond `left`.
fn read_split<R: Read>(file: &mut BufReader<R>, left: u64, split: &mut Vec<u8>) -> io::Result<(RecordType, usize)> {
    split.clear();
    file.take(left.min(HEADER as u64)).read_to_end(split)?;
    let Some((kind, size)) = split.first_chunk().map(header) else { return Ok((RecordType(0), split.len())) };
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
            if self.records.get(used..).and_then(<[u8]>::first_chunk).is_some_and(|start| header(start).1 < HEADER) {
                return Err("a record in it has no size");
            }
            self.records.drain(..used);
            if unpacked < Self::PIECE && input.pos() == packed.len() {
                return Ok(());
            }
        }
    }
}
