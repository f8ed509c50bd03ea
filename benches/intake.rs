//! Recordings in: events a second, of files that `perf record` would have written in an hour.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::print_stdout, reason = "figures are printed beside what criterion prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark of something else than it says must stop")]
#![allow(clippy::cast_precision_loss, reason = "rates for people")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipivrs::intake::{Options, Recording, read};
use ipivrs::measure::repeat;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Samples of a file: some 90 bytes each.
const SAMPLES: u64 = 2_000_000;

/// A long recording, and how many samples it has; it is made anew, and removed.
struct Long {
    path: PathBuf,
    samples: u64,
}

impl Long {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("long-{name}"));
        let recording = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap();
        let samples = repeat(&recording, SAMPLES, BufWriter::new(File::create(&path).unwrap())).unwrap();
        Self { path, samples }
    }

    fn read(&self, absences: bool) -> Recording {
        let recording = read(&self.path, &Options { absences, ..Options::default() }).unwrap();
        assert_eq!(recording.records.values().sum::<u64>(), self.samples);
        recording
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Processor time of this process: the machine may be busy with others.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: Vec<i64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().filter_map(|it| it.parse().ok()).collect();
    // The letter of the state is no number: user and system time are fields 14 and 15 of the line.
    Duration::from_millis(ticks.get(10..12).map_or(0, |both| both.iter().sum::<i64>().unsigned_abs() * 10))
}

fn intake(c: &mut Criterion) {
    let files = [
        ("a Linux guest booting", "linux-boot-long-x2apic-smp2.perf.data", false),
        ("the same, and when vCPUs halted", "linux-boot-long-x2apic-smp2.perf.data", true),
        ("self-IPIs with kvm_apic and kvm_eoi", "kut-vmexit-self_ipi_sti_nop-x2apic-full-short.perf.data", false),
        ("inside a guest", "native-tlb-shootdown.perf.data", false),
    ];
    for (what, name, absences) in files {
        let long = Long::new(name);
        let (wall, cpu) = (Instant::now(), cpu_time());
        black_box(long.read(absences));
        let (wall, cpu) = (wall.elapsed(), cpu_time().saturating_sub(cpu));
        let rate = |time: Duration| long.samples as f64 / time.as_secs_f64().max(1e-9) / 1e6;
        println!("{what}: {:.1} million events a second, {:.1} of processor time", rate(wall), rate(cpu));
        let mut group = c.benchmark_group("intake");
        group.throughput(Throughput::Elements(long.samples)).sample_size(10);
        group.bench_function(what, |b| b.iter(|| black_box(long.read(absences))));
        group.finish();
    }
}

criterion_group!(benches, intake);
criterion_main!(benches);
