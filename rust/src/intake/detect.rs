//! Recognises a file by its first bytes.

use super::error::IntakeError;
use std::path::Path;

/// What the reader is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    PerfData,
    Text,
}

/// First bytes of files that ipivrs knows but cannot read.
const PACKED: [(&[u8], &str); 4] =
    [(b"\x1F\x8B", "gzip"), (b"\x28\xB5\x2F\xFD", "zstd"), (b"\xFD7zXZ\0", "xz"), (b"BZh", "bzip2")];

/// The kind of file that begins with `start` (some kilobytes, or all of a shorter file).
pub(super) fn detect(path: &Path, start: &[u8]) -> Result<Content, IntakeError> {
    let path = || path.into();
    if start.starts_with(b"PERFILE2") {
        return Ok(Content::PerfData);
    }
    if let Some((_, with)) = PACKED.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(IntakeError::Packed { path: path(), with });
    }
    Err(match start {
        [] => IntakeError::Empty { path: path() },
        [b'P', b'E', b'R', b'F', b'F', b'I', b'L', b'E', ..] => IntakeError::OldPerfData { path: path() },
        [b'2', b'E', b'L', b'I', b'F', b'R', b'E', b'P', ..] => IntakeError::BigEndian { path: path() },
        [0x17, 0x08, 0x44, b't', b'r', b'a', b'c', b'i', b'n', b'g', ..] => IntakeError::TraceDat { path: path() },
        _ if start.contains(&0) => IntakeError::Binary { path: path() },
        _ => return Ok(Content::Text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_file_has_its_message() {
        let said = |start: &[u8]| detect(Path::new("f"), start).map_err(|error| error.to_string());
        assert_eq!(said(b"PERFILE2"), Ok(Content::PerfData));
        assert_eq!(said(b"cpus=2\n"), Ok(Content::Text));
        for (start, part) in [
            (&b""[..], "is empty"),
            (b"PERFFILE", "older than Linux 3.5"),
            (b"2ELIFREP", "big-endian"),
            (b"\x17\x08Dtracing6\0", "trace-cmd report f > f.txt"),
            (b"\x1F\x8B\x08", "compressed with gzip"),
            (b"\x28\xB5\x2F\xFD\0", "compressed with zstd"),
            (b"\x7FELF\0", "binary file"),
        ] {
            let message = said(start).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
