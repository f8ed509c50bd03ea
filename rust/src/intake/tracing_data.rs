//! The tracing data of a perf.data file: the formats of the tracepoints, as the recording kernel printed them.
//!
//! Layout, as perf writes it (`tools/perf/util/trace-event-info.c`), all integers in the order that the endianness byte
//! names: magic `17 08 44 "tracing"`, version string, endianness (0 little), size of long, page size (u32);
//! `header_page` and `header_event`, each a size (u64) and text; ftrace's own formats: count (u32), each size (u64) and
//! text; the systems: count (u32), each a name, a count (u32) and the formats, each size (u64) and text. What follows
//! (kallsyms, printk formats, thread names) is not needed. Strings end with a zero byte.
//!
//! Own code, though there is a crate for the format text (`tracepoint_decode`): ipivrs needs the place of some integers,
//! and that is the forty lines of [`Tracepoint::parse`].

/// A part of the tracing data that is not there, or not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// The layout of one tracepoint's records.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tracepoint {
    /// Its number on the recording kernel.
    pub(super) id: u64,
    pub(super) name: String,
    fields: Vec<(String, Field)>,
}

/// Where a field is in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    offset: usize,
    size: usize,
}

impl Field {
    /// Its value as an unsigned little-endian integer; none if the record ends before it.
    #[inline]
    pub(super) fn read(self, record: &[u8]) -> Option<u64> {
        let bytes = record.get(self.offset..)?;
        match self.size {
            4 => bytes.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
            8 => bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
            2 => bytes.first_chunk().map(|bytes| u64::from(u16::from_le_bytes(*bytes))),
            1 => bytes.first().map(|byte| u64::from(*byte)),
            _ => None,
        }
    }

    /// Its value where it is four bytes or fewer, as most are.
    #[inline]
    pub(super) fn read_u32(self, record: &[u8]) -> Option<u32> {
        self.read(record).map(|value| value as u32)
    }

    /// The data of a `__data_loc` field: the field has its offset in the lower half and its size in the upper.
    pub(super) fn read_dynamic(self, record: &[u8]) -> Option<&[u8]> {
        let place = self.read_u32(record)?;
        let (offset, size) = (place & 0xFFFF, place >> 16);
        record.get(offset as usize..)?.get(..size as usize)
    }
}

impl Tracepoint {
    /// The field of that name.
    pub(super) fn field(&self, name: &str) -> Option<Field> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, field)| *field)
    }

    /// Parses the text of a `format` file; none if it has no name or number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut name = None;
        let mut id = None;
        let mut fields = Vec::new();
        for line in text.lines() {
            if let Some(value) = line.strip_prefix("name: ") {
                name = Some(value.trim().to_owned());
            } else if let Some(value) = line.strip_prefix("ID: ") {
                id = value.trim().parse().ok();
            } else if let Some(field) = line.trim_start().strip_prefix("field:") {
                fields.extend(parse_field(field));
            } else if line.starts_with("print fmt") {
                break;
            }
        }
        Some(Self { id: id?, name: name?, fields })
    }
}

/// `unsigned int vcpu_id;\toffset:8;\tsize:4;\tsigned:0;`, the name being the last word, before any `[n]`.
fn parse_field(line: &str) -> Option<(String, Field)> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?;
    let name = declaration.split('[').next()?.rsplit(|c: char| c.is_whitespace() || c == '*').next()?;
    let mut field = Field { offset: usize::MAX, size: 0 };
    for part in parts {
        match part.split_once(':') {
            Some(("offset", value)) => field.offset = value.parse().ok()?,
            Some(("size", value)) => field.size = value.parse().ok()?,
            _ => {}
        }
    }
    Some((name.to_owned(), field))
}

/// Parses the tracing data up to the formats of the systems' tracepoints, and returns those.
pub(super) fn parse(data: &[u8]) -> Result<Vec<Tracepoint>, Broken> {
    const MAGIC: &[u8] = b"\x17\x08Dtracing";
    let mut rest = Cursor(data);
    if rest.bytes(MAGIC.len() as u64, "magic")? != MAGIC {
        return Err(Broken("magic"));
    }
    rest.string("version")?;
    if rest.bytes(1, "endianness")? != [0] {
        return Err(Broken("endianness"));
    }
    rest.bytes(5, "sizes of long and of a page")?;
    for header in ["header_page", "header_event"] {
        if rest.string(header)? != header.as_bytes() {
            return Err(Broken(header));
        }
        rest.sized(header)?;
    }
    for _ in 0..rest.u32("number of ftrace events")? {
        rest.sized("format of an ftrace event")?;
    }
    let mut tracepoints = Vec::new();
    for _ in 0..rest.u32("number of systems")? {
        rest.string("name of a system")?;
        for _ in 0..rest.u32("number of a system's events")? {
            let format = rest.sized("format of an event")?;
            tracepoints.extend(Tracepoint::parse(&String::from_utf8_lossy(format)));
        }
    }
    Ok(tracepoints)
}

/// The part not read yet.
struct Cursor<'d>(&'d [u8]);

impl<'d> Cursor<'d> {
    fn bytes(&mut self, count: u64, what: &'static str) -> Result<&'d [u8], Broken> {
        let count = usize::try_from(count).map_err(|_| Broken(what))?;
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Broken(what))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Broken> {
        let bytes = self.bytes(4, what)?;
        bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Broken(what))
    }

    /// A size and that many bytes.
    fn sized(&mut self, what: &'static str) -> Result<&'d [u8], Broken> {
        let bytes = self.bytes(8, what)?;
        let size = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or(Broken(what))?;
        self.bytes(size, what)
    }

    fn string(&mut self, what: &'static str) -> Result<&'d [u8], Broken> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Broken(what))?;
        let string = self.bytes(end as u64, what)?;
        self.bytes(1, what)?;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: ipi_send_cpumask\nID: 353\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:__data_loc cpumask_t cpumask;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:void * callsite;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:void *callback;\toffset:24;\tsize:8;\tsigned:0;\n\
        \tfield:char comm[16];\toffset:32;\tsize:16;\tsigned:0;\n\n\
        print fmt: \"field:int wrong;\toffset:1;\tsize:1;\"\n";

    /// Tracing data with the given formats in one system.
    fn data(formats: &[&str]) -> Vec<u8> {
        let mut data = b"\x17\x08Dtracing0.6\0\0\x08\0\x10\0\0".to_vec();
        for header in ["header_page", "header_event"] {
            data.extend(header.as_bytes());
            data.push(0);
            data.extend(3_u64.to_le_bytes());
            data.extend(b"abc");
        }
        data.extend(0_u32.to_le_bytes());
        data.extend(1_u32.to_le_bytes());
        data.extend(b"ipi\0");
        data.extend((formats.len() as u32).to_le_bytes());
        for format in formats {
            data.extend((format.len() as u64).to_le_bytes());
            data.extend(format.as_bytes());
        }
        data
    }

    #[test]
    fn fields_are_found_by_name_whatever_their_type() {
        let tracepoints = parse(&data(&[FORMAT])).unwrap();
        assert_eq!(tracepoints.len(), 1);
        let tracepoint = &tracepoints[0];
        assert_eq!((tracepoint.id, tracepoint.name.as_str()), (353, "ipi_send_cpumask"));
        for (name, offset, size) in [("cpumask", 8, 4), ("callsite", 16, 8), ("callback", 24, 8), ("comm", 32, 16)] {
            assert_eq!(tracepoint.field(name), Some(Field { offset, size }), "{name}");
        }
        assert_eq!(tracepoint.field("wrong"), None, "the print format is no field");
    }

    #[test]
    fn a_format_without_a_number_is_passed_over() {
        assert_eq!(parse(&data(&["name: x\n", FORMAT])).unwrap().len(), 1);
    }

    #[test]
    fn data_cut_anywhere_is_broken_not_a_panic() {
        let data = data(&[FORMAT]);
        for length in 0..data.len() {
            assert!(parse(&data[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_huge_size_is_broken() {
        let mut data = data(&[]);
        let at = data.iter().position(|byte| *byte == b'a').unwrap() - 3;
        data[at..at + 8].fill(0xFF);
        assert!(parse(&data).is_err());
    }

    #[test]
    fn values_are_read_within_the_record_only() {
        let field = Field { offset: 2, size: 4 };
        assert_eq!(field.read(&[0, 0, 0x78, 0x56, 0x34, 0x12]), Some(0x1234_5678));
        assert_eq!(field.read(&[0, 0, 0x78, 0x56, 0x34]), None);
        let place = Field { offset: 0, size: 4 };
        assert_eq!(place.read_dynamic(&[4, 0, 2, 0, 7, 8]), Some(&[7, 8][..]));
        assert_eq!(place.read_dynamic(&[4, 0, 3, 0, 7, 8]), None);
    }
}
