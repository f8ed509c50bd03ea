//! Why a file could not be taken in.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a file could not be taken in: what is wrong, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// There is no such file.
    #[error("{}: there is no such file", .path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// The file may not be read.
    #[error("{}: permission denied\nperf writes its files as root: sudo chown $USER {0}", .path.display())]
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// A directory was named.
    #[error("{}: is a directory, not a recording", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The file is empty.
    #[error("{}: is empty: the recording was stopped before it wrote anything; record again", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("{}: could not be read: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A compressed file.
    #[error("{}: is compressed with {with}: unpack it first", .path.display())]
    Packed {
        /// The file.
        path: PathBuf,
        /// The compressor.
        with: &'static str,
    },
    /// The binary file of trace-cmd.
    #[error("{}: is the binary file of trace-cmd: run `trace-cmd report {0} > {0}.txt` and give ipivrs the text", .path.display())]
    TraceDat {
        /// The file.
        path: PathBuf,
    },
    /// perf.data of perf before Linux 3.5.
    #[error("{}: is a perf.data file of a perf older than Linux 3.5\nrun `perf script -i {0} > {0}.txt` on that machine and give ipivrs the text", .path.display())]
    OldPerfData {
        /// The file.
        path: PathBuf,
    },
    /// perf.data of a big-endian machine.
    #[error("{}: was recorded on a big-endian machine: not x86, so it has no IPIs that Intel's IPI virtualization could touch", .path.display())]
    BigEndian {
        /// The file.
        path: PathBuf,
    },
    /// perf.data in pipe mode.
    #[error("{}: is a perf.data stream (`perf record -o -`), whose tracepoint formats ipivrs cannot read\nrun `perf script -i {0} > {0}.txt` and give ipivrs the text", .path.display())]
    PipeMode {
        /// The file.
        path: PathBuf,
    },
    /// `perf record` did not finish the file.
    #[error("{}: perf record did not finish it (killed?): it has {bytes} bytes, but its header says that it holds no data\nrecord again and stop perf record with Ctrl-C", .path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file ends early.
    #[error("{}: the file is cut: its {what} goes on to byte {needs}, but it ends at byte {bytes}\ncopy it again or record again", .path.display())]
    Cut {
        /// The file.
        path: PathBuf,
        /// The part that is cut.
        what: &'static str,
        /// Where that part should end.
        needs: u64,
        /// The file's size.
        bytes: u64,
    },
    /// Something in the file contradicts itself.
    #[error("{}: the file is damaged: {what}\ncopy it again or record again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        what: String,
    },
    /// perf.data with tracepoints but without their formats.
    #[error("{}: has no tracepoint formats (no tracing data)\nrecord tracepoints: perf record -e kvm:kvm_apic_ipi,kvm:kvm_msr,kvm:kvm_mmio -a", .path.display())]
    NoTracingData {
        /// The file.
        path: PathBuf,
    },
    /// The tracing data does not describe an event that ipivrs needs.
    #[error("{}: does not describe the event {event}: its tracing data has no format of that name\nrecord again with a perf that matches the kernel", .path.display())]
    NoFormat {
        /// The file.
        path: PathBuf,
        /// The event.
        event: String,
    },
    /// An event has not the fields that ipivrs needs.
    #[error("{}: this kernel's event {event} has no field {field}, which ipivrs needs\ngive ipivrs the text of perf script instead, and please report the kernel's version", .path.display())]
    NoField {
        /// The file.
        path: PathBuf,
        /// The event.
        event: String,
        /// The missing field.
        field: &'static str,
    },
    /// Samples without the tracepoint's data.
    #[error("{}: the samples of {event} have no {what}\nrecord tracepoints with perf record -e {event} -R -a", .path.display())]
    SampleLacks {
        /// The file.
        path: PathBuf,
        /// The event.
        event: String,
        /// What they lack.
        what: &'static str,
    },
    /// Samples with counter values.
    #[error("{}: the samples of {event} carry counter values (events recorded as a group with :S)\nrecord without :S", .path.display())]
    CounterSamples {
        /// The file.
        path: PathBuf,
        /// The event.
        event: String,
    },
    /// linux-perf-data refuses the file.
    #[error("{}: is not a perf.data file that ipivrs can read: {source}\nrun `perf script -i {0} > {0}.txt` and give ipivrs the text", .path.display())]
    PerfData {
        /// The file.
        path: PathBuf,
        /// What the library said.
        source: linux_perf_data::Error,
    },
    /// Binary, and none of the above.
    #[error("{}: is a binary file that ipivrs does not know; it reads perf.data and the text of perf script, ftrace and trace-cmd report", .path.display())]
    Binary {
        /// The file.
        path: PathBuf,
    },
    /// Text, and none of the known ones.
    #[error("{}: is no recording that ipivrs knows: no line looks like perf script, ftrace or trace-cmd report\nmake one with: perf record -e kvm:kvm_apic_ipi,kvm:kvm_msr,kvm:kvm_mmio -a; perf script > FILE", .path.display())]
    NotARecording {
        /// The file.
        path: PathBuf,
    },
    /// Text that names the events but not who and when.
    #[error("{}: line {line} has an event without {missing} in front of it\nrun perf script without -F, or with -F comm,pid,tid,cpu,time,event,trace", .path.display())]
    LineLacks {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What it lacks.
        missing: &'static str,
    },
    /// `trace-cmd report -R`.
    #[error("{}: shows only the low 8 bits of {count} IPIs (trace-cmd report -R prints icr_low so)\nrun trace-cmd report without -R", .path.display())]
    RawReport {
        /// The file.
        path: PathBuf,
        /// IPIs whose ICR is incomplete.
        count: u64,
    },
    /// No IPIs in the recording.
    #[error("{}: has no IPIs (kvm_apic_ipi, ipi_send_cpu); {events}\nrecord them: perf record -e kvm:kvm_apic_ipi,kvm:kvm_msr,kvm:kvm_mmio -a, on a host that uses IPI virtualization after modprobe kvm_intel enable_ipiv=0 (virtualized IPIs leave no record)", .path.display())]
    NoIpis {
        /// The file.
        path: PathBuf,
        /// What it has instead.
        events: String,
    },
    /// No IPI has a known sender.
    #[error("{}: none of its {count} IPIs can be used: {reason}\nrecord again with kvm:kvm_entry from start to end, or without it", .path.display())]
    NoSender {
        /// The file.
        path: PathBuf,
        /// IPIs passed over.
        count: u64,
        /// Why.
        reason: &'static str,
    },
    /// More vCPUs than IPI virtualization can address.
    #[error("{}: has {count} vCPUs; ipivrs takes at most {limit}, the size of the largest PID-pointer table", .path.display())]
    TooManyVcpus {
        /// The file.
        path: PathBuf,
        /// How many there would be.
        count: u64,
        /// The limit.
        limit: u64,
    },
    /// The process the user asked for sent no IPI.
    #[error("{}: process {process} sent no IPI in it; these did: {found}", .path.display())]
    NoSuchProcess {
        /// The file.
        path: PathBuf,
        /// The process asked for.
        process: u32,
        /// Processes that sent IPIs.
        found: String,
    },
    /// The user asked for a process and the text names none.
    #[error("{}: does not say which process a thread belongs to, so one cannot be picked\ngive ipivrs perf.data, or the text of perf script -F comm,pid,tid,cpu,time,event,trace", .path.display())]
    NoProcesses {
        /// The file.
        path: PathBuf,
    },
}
