//! Which vCPU a thread runs, and which APIC ID a vCPU has.

use super::host::Thread;
use super::recording::{Identification, Options, RecordedVcpu};
use rustc_hash::FxHashSet;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Entries of the largest PID-pointer table: its last index has 16 bits.
pub(super) const MAX_VCPUS: u64 = 65_536;

/// The vCPUs behind the threads.
#[derive(Debug)]
pub(super) struct Vcpus {
    pub(super) list: Vec<RecordedVcpu>,
    /// Index into `list` of the vCPU that a thread runs; none if the recording does not tell.
    of_thread: Vec<Option<u32>>,
    pub(super) identified_by: Identification,
    pub(super) notes: Vec<String>,
}

impl Vcpus {
    /// Index into `list` of the vCPU that thread number `thread` runs.
    pub(super) fn index_of(&self, thread: usize) -> Option<u32> {
        self.of_thread.get(thread).copied().flatten()
    }
}

/// Identifies the vCPUs of a host-side recording.
///
/// `accepted` holds the vCPUs that accepted interrupts. Such a record names no virtual machine, so they count only when
/// there is one.
///
/// # Errors
/// The number of vCPUs, if there would be more than [`MAX_VCPUS`].
pub(super) fn identify(threads: &[Thread], options: &Options, accepted: &FxHashSet<u32>) -> Result<Vcpus, u64> {
    let mut order: Vec<usize> = (0..threads.len()).collect();
    order.sort_by_key(|&index| threads.get(index).map(|thread| (thread.process, thread.id)));
    let (identified_by, claims) = claims(threads, &order);

    let mut machines = Machines::default();
    for &index in &order {
        if let (Some(thread), Some(Some(vcpu_id))) = (threads.get(index), claims.get(index)) {
            machines.place(thread, index, *vcpu_id);
        }
    }
    if machines.count == 1 {
        machines.fill(0, accepted.iter().copied().max().map_or(0, |highest| u64::from(highest) + 1))?;
    }
    for vm in 0..machines.count {
        machines.fill(vm, options.vcpus.map_or(0, u64::from))?;
    }

    let mut notes = machines.notes(threads, options);
    let apic_ids = machines.apic_ids(threads, options, &mut notes);
    let mut of_thread = vec![None; threads.len()];
    let mut list = Vec::with_capacity(machines.vcpus.len());
    for ((&(vm, vcpu_id), on), apic_id) in machines.vcpus.iter().zip(apic_ids) {
        for &thread in on {
            of_thread[thread] = Some(list.len() as u32);
        }
        let thread = on.first().and_then(|&thread| threads.get(thread));
        list.push(RecordedVcpu {
            vm,
            vcpu_id,
            apic_id,
            thread: thread.map(|thread| thread.id),
            process: machines.processes.get(&vm).copied().flatten(),
            name: thread.map_or_else(|| format!("vCPU {vcpu_id}"), |thread| thread.name.clone()),
            id_written: thread.and_then(|thread| thread.id_written),
        });
    }
    Ok(Vcpus { list, of_thread, identified_by, notes })
}

/// The vCPU number that each thread claims.
fn claims(threads: &[Thread], order: &[usize]) -> (Identification, Vec<Option<u32>>) {
    let entered: Vec<_> = threads.iter().map(|thread| thread.vcpu_id).collect();
    if entered.iter().any(Option::is_some) {
        return (Identification::KvmEntry, entered);
    }
    let named: Vec<_> = threads.iter().map(|thread| number_in_name(&thread.name)).collect();
    if threads.iter().zip(&named).all(|(thread, number)| number.is_some() || thread.ipis == 0) {
        return (Identification::ThreadName, named);
    }
    let ended: Vec<_> = threads.iter().map(|thread| thread.eoi_id).collect();
    let mut seen = FxHashSet::default();
    if threads.iter().all(|thread| thread.eoi_id.is_some_and(|id| seen.insert((thread.process, id)))) {
        return (Identification::KvmEoi, ended);
    }
    let mut ranks = vec![None; threads.len()];
    let mut next = BTreeMap::new();
    for &index in order {
        if let (Some(rank), Some(thread)) = (ranks.get_mut(index), threads.get(index)) {
            let next: &mut u32 = next.entry(thread.process).or_default();
            *rank = Some(*next);
            *next += 1;
        }
    }
    (Identification::ThreadOrder, ranks)
}

/// `n` of `CPU n/KVM`, as QEMU names its threads with `-name debug-threads=on` (and libvirt always).
fn number_in_name(name: &str) -> Option<u32> {
    name.strip_prefix("CPU ")?.strip_suffix("/KVM")?.parse().ok()
}

/// The virtual machines and their vCPUs while they are being put together.
#[derive(Debug, Default)]
struct Machines {
    count: u32,
    /// Process of each virtual machine.
    processes: BTreeMap<u32, Option<u32>>,
    /// Threads of each vCPU, by virtual machine and number.
    vcpus: BTreeMap<(u32, u32), Vec<usize>>,
}

impl Machines {
    /// Threads come by process, then id. A process is a virtual machine. Without processes, a number that comes again is
    /// the next machine's.
    fn place(&mut self, thread: &Thread, index: usize, vcpu_id: u32) {
        let newest = self.count.checked_sub(1);
        let same = newest.filter(|vm| {
            self.processes.get(vm) == Some(&thread.process)
                && (thread.process.is_some() || !self.vcpus.contains_key(&(*vm, vcpu_id)))
        });
        let vm = same.unwrap_or_else(|| {
            self.processes.insert(self.count, thread.process);
            self.count += 1;
            self.count - 1
        });
        self.vcpus.entry((vm, vcpu_id)).or_default().push(index);
    }

    /// Makes vCPUs that never acted, so that `vm` has `0..count`.
    fn fill(&mut self, vm: u32, count: u64) -> Result<(), u64> {
        let known = self.vcpus.range((vm, 0)..=(vm, u32::MAX)).count() as u64;
        let total = self.vcpus.len() as u64 + count.saturating_sub(known);
        if total > MAX_VCPUS || count > MAX_VCPUS {
            return Err(total.max(count));
        }
        (0..count as u32).for_each(|vcpu_id| {
            self.vcpus.entry((vm, vcpu_id)).or_default();
        });
        Ok(())
    }

    /// One APIC ID per vCPU: what the recording shows, else what the user says, else the vCPU's number, which is how KVM
    /// and QEMU number their APICs; the next free one where another vCPU is known to have that.
    fn apic_ids(&self, threads: &[Thread], options: &Options, notes: &mut Vec<String>) -> Vec<u32> {
        let recorded: Vec<Option<u32>> = self
            .vcpus
            .values()
            .map(|on| on.iter().find_map(|&thread| threads.get(thread).and_then(Thread::apic_id)))
            .collect();
        let mut taken: BTreeSet<(u32, u32)> = BTreeSet::new();
        for ((&(vm, vcpu_id), _), recorded) in self.vcpus.iter().zip(&recorded) {
            let Some(recorded) = *recorded else { continue };
            if !taken.insert((vm, recorded)) {
                notes.push(format!("two vCPUs show APIC ID {recorded}"));
            }
            if let Some(given) = options.given_apic_id(vcpu_id).filter(|given| *given != recorded) {
                notes.push(format!(
                    "vCPU {vcpu_id} has APIC ID {recorded} in the recording, not {given} as given: the recording counts"
                ));
            }
        }
        let mut next_free = BTreeMap::new();
        let mut id_of = |((&(vm, vcpu_id), _), recorded): ((&(u32, u32), _), Option<u32>)| {
            if let Some(recorded) = recorded {
                return recorded;
            }
            let wanted = options.given_apic_id(vcpu_id).unwrap_or(vcpu_id);
            if taken.insert((vm, wanted)) {
                return wanted;
            }
            let free = next_free.entry(vm).or_insert(0);
            while !taken.insert((vm, *free)) {
                *free += 1;
            }
            notes.push(format!("APIC ID {wanted} belongs to another vCPU: vCPU {vcpu_id} is given {free}"));
            *free
        };
        self.vcpus.iter().zip(recorded).map(|(vcpu, recorded)| id_of((vcpu, recorded))).collect()
    }

    fn notes(&self, threads: &[Thread], options: &Options) -> Vec<String> {
        let mut notes = Vec::new();
        for thread in threads.iter().filter(|thread| thread.runs_several) {
            notes.push(format!("thread {} ran several vCPUs: all it did is booked on the first", thread.id));
        }
        let mut sizes = BTreeMap::new();
        for (vm, _) in self.vcpus.keys() {
            match sizes.entry(*vm) {
                Entry::Vacant(entry) => drop(entry.insert(1_u32)),
                Entry::Occupied(mut entry) => *entry.get_mut() += 1,
            }
        }
        for (vm, size) in sizes {
            if let Some(declared) = options.vcpus.filter(|declared| *declared < size) {
                notes.push(format!("VM {vm} has {size} vCPUs in the recording, more than the {declared} declared"));
            }
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_text, recorded, skipped};
    use super::super::{Identification, IntakeError, Options, Recording};
    use super::*;

    const IPI: &str = "kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)";

    fn ids(recording: &Recording) -> Vec<(u32, u32, u32)> {
        recording.vcpus.iter().map(|vcpu| (vcpu.vm, vcpu.vcpu_id, vcpu.apic_id)).collect()
    }

    #[test]
    fn kvm_entry_names_the_vcpu() {
        let recording = recorded(&format!(
            "q 9 [0] 1.1: kvm:kvm_entry: vcpu 0, rip 0x1\nq 8 [0] 1.2: kvm:kvm_exit: vcpu 1 reason HLT rip 0x0\n\
             q 8 [0] 1.3: {IPI}\nq 9 [0] 1.4: {IPI}\nq 5 [0] 1.5: {IPI}\n"
        ));
        assert_eq!(recording.identified_by, Identification::KvmEntry);
        assert_eq!(ids(&recording), [(0, 0, 0), (0, 1, 1)]);
        assert_eq!(recording.vcpus[1].thread, Some(8));
        assert_eq!(recording.ipis.sender, [1, 0]);
        assert_eq!(skipped(&recording, "never show which vCPU"), 1, "thread 5 has no kvm_entry");
    }

    #[test]
    fn without_any_known_sender_there_is_no_recording() {
        let text = format!("q 9 [0] 1.1: kvm:kvm_entry: vcpu 0\nq 8 [0] 1.3: {IPI}\n");
        assert!(matches!(read_text(&text, &Options::default()), Err(IntakeError::NoSender { count: 1, .. })));
    }

    #[test]
    fn thread_names_name_the_vcpu() {
        let recording = recorded(&format!(
            "CPU 3/KVM 7 [0] 1.1: {IPI}\nCPU 0/KVM 9 [0] 1.2: {IPI}\nqemu 5 [0] 1.3: kvm:kvm_msr: msr_read 10 = 0x0\n"
        ));
        assert_eq!(recording.identified_by, Identification::ThreadName);
        assert_eq!(ids(&recording), [(0, 0, 0), (0, 3, 3)]);
        assert_eq!(recording.ipis.sender, [1, 0]);
    }

    #[test]
    fn otherwise_threads_count_in_order() {
        let recording = recorded(&format!(
            "q 9 [0] 1.1: {IPI}\nq 7 [0] 1.2: kvm:kvm_vcpu_wakeup: wait time 1 ns, polling valid\nq 1 [0] 1.2: kvm:kvm_apic_accept_irq: apicid 1 vec 251 (Fixed|edge)\n"
        ));
        assert_eq!(recording.identified_by, Identification::ThreadOrder);
        assert_eq!(
            recording.vcpus.iter().map(|vcpu| vcpu.thread).collect::<Vec<_>>(),
            [Some(7), Some(9)],
            "accepting is no act"
        );
        assert_eq!(recording.ipis.sender, [1]);
    }

    #[test]
    fn kvm_eoi_names_the_vcpu_if_all_have_it() {
        let recording = recorded(&format!(
            "q 9 [0] 1.1: {IPI}\nq 9 [0] 1.2: kvm:kvm_eoi: apicid 2 vector 1\nq 7 [0] 1.3: kvm:kvm_eoi: apicid 4 vector 1\n"
        ));
        assert_eq!(recording.identified_by, Identification::KvmEoi);
        assert_eq!(ids(&recording), [(0, 2, 2), (0, 4, 4)]);
        assert_eq!(recording.ipis.sender, [0]);
    }

    #[test]
    fn each_process_is_a_virtual_machine() {
        let recording = recorded(&format!("q 30/31 [0] 1.1: {IPI}\nq 10/41 [0] 1.2: {IPI}\nq 10/11 [0] 1.3: {IPI}\n"));
        assert_eq!(ids(&recording), [(0, 0, 0), (0, 1, 1), (1, 0, 0)]);
        assert_eq!(recording.vcpus.iter().map(|vcpu| vcpu.process).collect::<Vec<_>>(), [Some(10), Some(10), Some(30)]);
        assert_eq!(recording.ipis.sender, [2, 1, 0]);
    }

    #[test]
    fn without_processes_a_repeated_number_is_another_machine() {
        let entry = |thread: u32, vcpu: u32| {
            format!("q {thread} [0] 1.0: kvm:kvm_entry: vcpu {vcpu}\nq {thread} [0] 1.1: {IPI}\n")
        };
        let recording = recorded(&[entry(1, 0), entry(2, 1), entry(11, 0), entry(12, 1)].concat());
        assert_eq!(ids(&recording), [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)]);
        assert_eq!(recording.ipis.sender, [0, 1, 2, 3]);
    }

    #[test]
    fn one_process_can_be_picked() {
        let text = format!("q 30/31 [0] 1.1: {IPI}\nq 10/11 [0] 1.2: {IPI}\nq 10/11 [0] 1.3: {IPI}\n");
        let pick = |process| read_text(&text, &Options { process: Some(process), ..Options::default() });
        let recording = pick(30).unwrap();
        assert_eq!((recording.ipis.len(), recording.vcpus.len()), (1, 1));
        assert_eq!(skipped(&recording, "other processes"), 2);
        let message = pick(31).unwrap_err().to_string();
        assert!(message.contains("process 31") && message.contains("10, 30"), "{message}");
        let text = format!("q 31 [0] 1.1: {IPI}\n");
        let options = Options { process: Some(31), ..Options::default() };
        assert!(matches!(read_text(&text, &options), Err(IntakeError::NoProcesses { .. })));
    }

    #[test]
    fn vcpus_that_only_received_are_there_but_wild_destinations_are_not() {
        let recording = recorded(&format!(
            "q 9 [0] 1.1: {IPI}\nq 9 [0] 1.2: kvm:kvm_apic_accept_irq: apicid 2 vec 251 (Fixed|edge)\nq 9 [0] 1.3: kvm:kvm_apic_ipi: dst 1388 vec 251 (Fixed|physical|de-assert|edge|dst)\n"
        ));
        assert_eq!(ids(&recording), [(0, 0, 0), (0, 1, 1), (0, 2, 2)]);
        assert_eq!((recording.vcpus[2].thread, recording.vcpus[2].name.as_str()), (None, "vCPU 2"));
    }

    #[test]
    fn who_accepted_is_unclear_with_several_machines() {
        let accept = "q 30/31 [0] 1.4: kvm:kvm_apic_accept_irq: apicid 7 vec 251 (Fixed|edge)\n";
        let text = format!("q 30/31 [0] 1.1: {IPI}\nq 10/11 [0] 1.2: {IPI}\n{accept}");
        assert_eq!(recorded(&text).vcpus.len(), 2);
        let picked = read_text(&text, &Options { process: Some(30), ..Options::default() }).unwrap();
        assert_eq!(picked.vcpus.len(), 1);
    }

    #[test]
    fn the_user_may_declare_vcpus_and_apic_ids() {
        let text = format!("q 9 [0] 1.1: {IPI}\nq 9 [0] 1.2: kvm:kvm_msr: msr_read 802 = 0x5\n");
        let options = Options { vcpus: Some(3), apic_ids: Some(vec![4, 6]), ..Options::default() };
        let recording = read_text(&text, &options).unwrap();
        assert_eq!(ids(&recording), [(0, 0, 5), (0, 1, 6), (0, 2, 2)]);
        assert!(
            recording.notes.iter().any(|note| note.contains("APIC ID 5") && note.contains("not 4")),
            "{:?}",
            recording.notes
        );
    }

    #[test]
    fn no_two_vcpus_have_one_apic_id() {
        let text =
            format!("q 9 [0] 1.1: {IPI}\nq 9 [0] 1.2: kvm:kvm_mmio: mmio read len 4 gpa 0xfee00020 val 0x1000000\n");
        let recording = read_text(&text, &Options { vcpus: Some(2), ..Options::default() }).unwrap();
        assert_eq!(ids(&recording), [(0, 0, 1), (0, 1, 0)]);
    }

    #[test]
    fn too_many_vcpus_are_an_error() {
        let text = format!("q 9 [0] 1.1: {IPI}\n");
        let declare = |vcpus| read_text(&text, &Options { vcpus: Some(vcpus), ..Options::default() });
        assert_eq!(declare(65_536).unwrap().vcpus.len(), 65_536);
        assert!(matches!(declare(65_537), Err(IntakeError::TooManyVcpus { count: 65_537, .. })));
        let text = format!("{text}q 9 [0] 1.2: kvm:kvm_apic_accept_irq: apicid fffffff0 vec 1 (Fixed|edge)\n");
        assert!(matches!(
            read_text(&text, &Options::default()),
            Err(IntakeError::TooManyVcpus { count: 0xFFFF_FFF1, limit: MAX_VCPUS, .. })
        ));
    }

    #[test]
    fn the_mode_of_silent_vcpus_is_assumed_and_said() {
        let text = format!("q 9 [0] 1.1: {IPI}\n");
        let recording = recorded(&text);
        assert_eq!(recording.via_evidence.assumed, 1);
        assert!(
            recording.notes.iter().any(|note| note.contains("APIC mode of vCPU 0: x2APIC assumed")),
            "{:?}",
            recording.notes
        );
    }
}
