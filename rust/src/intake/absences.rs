//! When vCPUs did not run: they had halted, or their thread was preempted.
//!
//! A preempted thread is one that `sched_switch` takes off its CPU while it could go on, until `sched_switch` gives it one
//! again. That a vCPU had halted is told by three kinds of records, of which the best that a recording has are taken:
//!
//! 1. `kvm_vcpu_wakeup` says at its end how long a halt was, polling included;
//! 2. `kvm_exit` for HLT begins one, and the thread's next `kvm_entry` ends it;
//! 3. a vCPU thread that `sched_switch` takes off its CPU to wait may as well wait in user space: the weakest.
//!
//! Inside a guest a CPU is taken to have halted while its idle task runs.

/// One absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// Who: an index into [`Recording::vcpus`](super::Recording::vcpus).
    pub vcpu: u32,
    /// From when, in nanoseconds, by the recording's own clock.
    pub from_ns: u64,
    /// Until when.
    pub until_ns: u64,
    /// It had halted; otherwise its thread was preempted.
    pub halted: bool,
}

/// What an absence stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// `kvm_vcpu_wakeup`.
    Wakeup,
    /// `kvm_exit` for HLT.
    HltExit,
    /// `sched_switch`: its thread waits.
    Waits,
    /// `sched_switch` to the idle task, inside a guest.
    IdleTask,
    /// `sched_switch`: its thread could go on.
    Preempted,
}

impl Evidence {
    /// What the records are, for people.
    #[must_use]
    pub const fn records(self) -> &'static str {
        match self {
            Self::Wakeup => "kvm_vcpu_wakeup",
            Self::HltExit => "kvm_exit for HLT and the kvm_entry after it",
            Self::Waits | Self::Preempted => "sched_switch",
            Self::IdleTask => "sched_switch to the idle task",
        }
    }
}

/// All absences of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absences {
    /// They, by vCPU and time.
    pub list: Vec<Absence>,
    /// What halts stand on; none: the recording shows none.
    pub halts: Option<Evidence>,
}

/// An absence as it is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// A thread, or on the guest side a CPU.
    pub(super) who: u32,
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
    pub(super) evidence: Evidence,
}

impl Absences {
    /// Those of vCPUs: `vcpu` tells which one is meant.
    pub(super) fn new(found: &[Found], vcpu: impl Fn(u32) -> Option<u32>) -> Self {
        let halts = found.iter().map(|found| found.evidence).filter(|it| *it != Evidence::Preempted).min();
        let counts = |found: &&Found| found.evidence == Evidence::Preempted || Some(found.evidence) == halts;
        let absence = |found: &Found| {
            let &Found { who, from_ns, until_ns, evidence } = found;
            Some(Absence { vcpu: vcpu(who)?, from_ns, until_ns, halted: evidence != Evidence::Preempted })
        };
        let mut list: Vec<_> = found.iter().filter(counts).filter_map(absence).collect();
        list.sort_by_key(|absence| (absence.vcpu, absence.from_ns));
        Self { list, halts }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::read_text;
    use super::super::{Absence, Evidence, Options, Recording};

    fn read(text: &str) -> Recording {
        let ipi = "q 7 [000] 9.0: kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)\n\
            q 8 [001] 9.1: kvm:kvm_apic_ipi: dst 0 vec 251 (Fixed|physical|de-assert|edge|dst)\n";
        let options = Options { absences: true, ..Options::default() };
        read_text(&format!("{text}{ipi}"), &options).unwrap()
    }

    fn absence(vcpu: u32, from_ns: u64, until_ns: u64, halted: bool) -> Absence {
        Absence { vcpu, from_ns, until_ns, halted }
    }

    const ENTRIES: &str =
        "q 7 [000] 1.0: kvm:kvm_entry: vcpu 0, rip 0x1\nq 8 [001] 1.0: kvm:kvm_entry: vcpu 1, rip 0x1\n";
    const EXITS: &str = "q 7 [000] 2.0: kvm:kvm_exit: vcpu 0 reason HLT rip 0x1 info1 0x0\n\
        q 7 [000] 2.5: kvm:kvm_entry: vcpu 0, rip 0x1\n\
        q 8 [001] 2.6: kvm:kvm_exit: vcpu 1 reason MSR_WRITE rip 0x1 info1 0x0\n\
        q 8 [001] 2.7: kvm:kvm_entry: vcpu 1, rip 0x1\n";

    fn switch(time: &str, from: u32, state: &str, to: u32) -> String {
        format!(
            "x {from} [000] {time}: sched:sched_switch: prev_comm=q prev_pid={from} prev_prio=120 prev_state={state} \
            ==> next_comm=x next_pid={to} next_prio=120\n"
        )
    }

    #[test]
    fn a_halt_is_from_its_exit_to_the_next_entry() {
        let absences = read(&format!("{ENTRIES}{EXITS}")).absences;
        assert_eq!(absences.list, [absence(0, 2_000_000_000, 2_500_000_000, true)]);
        assert_eq!(absences.halts, Some(Evidence::HltExit));
    }

    #[test]
    fn a_wakeup_says_more_than_an_exit() {
        let wakeup = "q 8 [001] 3.0: kvm:kvm_vcpu_wakeup: wait time 1000 ns, polling valid\n";
        let absences = read(&format!("{ENTRIES}{EXITS}{wakeup}")).absences;
        assert_eq!(absences.list, [absence(1, 2_999_999_000, 3_000_000_000, true)]);
        assert_eq!(absences.halts, Some(Evidence::Wakeup));
    }

    #[test]
    fn a_thread_that_could_go_on_is_preempted() {
        let [out, back] = [switch("4.0", 7, "R+", 99), switch("4.1", 99, "S", 7)];
        let [waits, again] = [switch("5.0", 8, "S", 0), switch("5.2", 0, "R", 8)];
        let absences = read(&format!("{ENTRIES}{out}{back}{waits}{again}")).absences;
        let preempted = absence(0, 4_000_000_000, 4_100_000_000, false);
        assert_eq!(absences.list, [preempted, absence(1, 5_000_000_000, 5_200_000_000, true)]);
        assert_eq!(absences.halts, Some(Evidence::Waits));
        let absences = read(&format!("{ENTRIES}{EXITS}{out}{back}{waits}{again}")).absences;
        assert_eq!(absences.list, [absence(0, 2_000_000_000, 2_500_000_000, true), preempted]);
    }

    #[test]
    fn nothing_is_kept_that_nobody_asked_for() {
        let text = format!(
            "{ENTRIES}{EXITS}q 7 [000] 9.0: kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)\n"
        );
        assert!(read_text(&text, &Options::default()).unwrap().absences.list.is_empty());
    }

    #[test]
    fn inside_a_guest_the_idle_task_halts() {
        let send = "a 1 [001] 1.0: ipi:ipi_send_cpu: cpu=0 callsite=x+0x1 callback=0x0\n";
        let [idle, back] = [switch("2.0", 5, "S", 0), switch("2.5", 0, "R", 5)];
        let options = Options { absences: true, ..Options::default() };
        let absences = read_text(&format!("{send}{idle}{back}"), &options).unwrap().absences;
        assert_eq!(absences.list, [absence(0, 2_000_000_000, 2_500_000_000, true)]);
        assert_eq!(absences.halts, Some(Evidence::IdleTask));
    }
}
