//! Recordings of real machines: perf.data, and the text of perf script, ftrace and trace-cmd report.
//!
//! [`read`] streams a file and returns its IPIs in columns, with the vCPUs that sent them, how each was written to the ICR,
//! and what had to be passed over or assumed. The way of a record:
//!
//! ```text
//! detect ─┬─ perf_data (perf_check, perf_records, perf_window, tracing_data, layout, decoder) ─┐
//!         └─ text (line, fields) ──────────────────────────────────────────────────────────────┤
//!                      ┌─ host (mode), then vcpus, via, sent ─┐                                │
//!         Recording ───┤                                      ├─── collect ────────── event ───┘
//!                      └─ guest ──────────────────────────────┘
//! ```
//!
//! Two kinds of recordings are understood. On a KVM **host**, `kvm_apic_ipi` tells what a guest sent; any other of KVM's
//! tracepoints beside it adds who sent it (`kvm_entry`) and how (`kvm_msr`, `kvm_mmio`). Inside a **guest**, Linux's
//! `ipi:*` tracepoints tell who sent to whom and why. A file with both is a host's.
//!
//! Not handled: IPIs that leave no record (those that hardware virtualized already, and paravirtual ones, which are counted
//! where `kvm_hypercall` was recorded), trace-cmd's binary file, perf streams, big-endian machines.

mod absences;
mod collect;
mod decoder;
mod detect;
mod error;
mod event;
mod fields;
mod guest;
mod host;
mod layout;
mod line;
mod mode;
mod names;
mod perf_check;
mod perf_data;
mod perf_records;
mod perf_window;
mod recording;
mod sent;
mod text;
mod tracing_data;
mod vcpus;
mod via;
mod watched;

pub use absences::{Absence, Absences, Evidence};
pub use error::IntakeError;
pub use recording::{
    Format, HypercallIpis, Identification, InhibitChange, Ipis, Options, RecordedOn, RecordedVcpu, Recording, Side,
    Skip, Via, ViaEvidence,
};

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;
use watched::Watched;

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// Reads the recording in `path`, whichever of the known formats it has.
///
/// # Errors
/// [`IntakeError`]: the file cannot be read, is none of the known formats, is damaged, or has no IPIs.
pub fn read(path: &Path, options: &Options) -> Result<Recording, IntakeError> {
    read_watched(path, options, &mut |_, _| true)
}

/// The same. `keep_going` is asked now and then, and told how many bytes were read of how many; when it says no, reading
/// ends.
///
/// # Errors
/// As [`read`]; [`IntakeError::Io`] when `keep_going` said no.
pub fn read_watched(
    path: &Path,
    options: &Options,
    keep_going: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Recording, IntakeError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => IntakeError::NotFound { path: path.into() },
        io::ErrorKind::PermissionDenied => IntakeError::Permission { path: path.into() },
        io::ErrorKind::IsADirectory => IntakeError::Directory { path: path.into() },
        _ => IntakeError::Io { path: path.into(), source },
    };
    let file = Watched::new(File::open(path).map_err(failed)?, keep_going).map_err(failed)?;
    read_from(path, BufReader::with_capacity(BUFFER, file), failed, options)
}

/// Reads a recording that lies in memory.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_bytes(bytes: &[u8], options: &Options) -> Result<Recording, IntakeError> {
    let path = Path::new("memory");
    let failed = |source| IntakeError::Io { path: path.into(), source };
    read_from(path, BufReader::with_capacity(BUFFER, Cursor::new(bytes)), failed, options)
}

/// Reads what `path` names from an open file.
fn read_from<R: Read + Seek>(
    path: &Path,
    mut file: BufReader<R>,
    failed: impl Fn(io::Error) -> IntakeError,
    options: &Options,
) -> Result<Recording, IntakeError> {
    match detect::detect(path, file.fill_buf().map_err(failed)?)? {
        detect::Content::PerfData => perf_data::read(path, file, options),
        detect::Content::Text => text::read(path, file, options),
    }
}

#[cfg(test)]
mod robustness;
#[cfg(test)]
mod testing;
