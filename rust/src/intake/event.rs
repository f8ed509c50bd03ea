//! One record of a recording, whatever the file's format: the common ground of the readers and the collectors.

/// A record with the context that it was made in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    pub(super) time_ns: u64,
    pub(super) cpu: Option<u32>,
    pub(super) thread: u32,
    pub(super) process: Option<u32>,
    /// Name of the thread where each record carries it (text); empty in perf.data.
    pub(super) comm: &'a [u8],
    pub(super) event: Event<'a>,
}

/// What happened, as far as ipivrs cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// `kvm_apic_ipi`. Bits of `icr_low` outside `shown` are unknown.
    ApicIpi { icr_low: u32, shown: u32, destination: u32 },
    /// `kvm_entry`.
    RunsVcpu { vcpu_id: u32 },
    /// `kvm_exit`; older kernels trace no vCPU there. `halts`: the guest executed HLT.
    Exits { vcpu_id: Option<u32>, halts: bool },
    /// `kvm_vcpu_wakeup`: the vCPU had nothing to do for so long, until now.
    Wakeup { waited_ns: u64 },
    /// `sched_switch`: a thread leaves the CPU, still runnable or not, and another gets it.
    Switch { from: u32, runnable: bool, to: u32 },
    /// `kvm_apic_accept_irq`: `vcpu_id` accepted an interrupt, in the context of any thread.
    AcceptIrq { vcpu_id: u32 },
    /// `kvm_msr` without a fault.
    Msr { write: bool, index: u32, value: u64 },
    /// `kvm_mmio`, a read or a write that was carried out.
    Mmio { write: bool, address: u64, value: u64 },
    /// `kvm_eoi`.
    Eoi { vcpu_id: u32 },
    /// `kvm_hypercall`.
    Hypercall { number: u64, arguments: [u64; 4] },
    /// `kvm_apicv_inhibit_changed`, in the context of any thread of the virtual machine's process.
    Inhibit { reason: u32, set: bool, inhibits: u64 },
    /// Something else that only vCPU threads do: faulted MSR accesses, accesses that are not carried out yet.
    Acts,
    /// `ipi_send_cpu`.
    SendCpu { target: u32, callback: Callback },
    /// `ipi_send_cpumask`.
    SendCpumask { targets: CpuMask<'a>, callback: Callback },
    /// Counted, nothing more.
    Other,
}

/// The `callback` of Linux's IPI tracepoints, as far as it tells vectors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callback {
    /// None: a reschedule.
    Null,
    /// `generic_smp_call_function_single_interrupt`.
    CallFunction,
    /// Anything else, or an address without a name.
    Other,
}

/// A set of CPUs, as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CpuMask<'a> {
    /// A little-endian bitmap.
    Bitmap(&'a [u8]),
    /// Text: see [`CpuMask::for_each`].
    Text(&'a [u8]),
}

/// A CPU number above this is damage, not a machine.
const HIGHEST_CPU: u64 = 0xFFFF;

impl CpuMask<'_> {
    /// Calls `found` with every CPU of the set, in rising order. False if the text is none of the known forms.
    ///
    /// Known are the kernel's bitmap (`%*pb`: hexadecimal words of 32 bits, highest first, a comma between them), its
    /// list (`%*pbl`: `0-3,5`) and the bytes that an older libtraceevent prints (`ARRAY[03, 00]`). A single number is
    /// the bitmap: no kernel prints lists here unless told to.
    pub(super) fn for_each(&self, mut found: impl FnMut(u32)) -> bool {
        let text = match self {
            Self::Bitmap(bytes) => {
                bytes.iter().zip(0..).for_each(|(byte, index)| bits(u32::from(*byte), index * 8, &mut found));
                return true;
            }
            Self::Text(text) => text.trim_ascii(),
        };
        let Ok(text) = std::str::from_utf8(text) else { return false };
        if let Some(array) = text.strip_prefix("ARRAY[") {
            let Some(array) = array.strip_suffix(']') else { return false };
            return words(array.split(',').map(str::trim), 8, &mut found);
        }
        let is_bitmap = !text.contains('-') && text.split(',').skip(1).all(|word| word.len() == 8);
        if is_bitmap { words(text.rsplit(','), 32, &mut found) } else { list(text, &mut found) }
    }
}

/// Hexadecimal words of `width` bits, lowest first.
fn words<'t>(words: impl Iterator<Item = &'t str>, width: u32, found: &mut impl FnMut(u32)) -> bool {
    let mut base = 0;
    for word in words {
        let Ok(word) = u32::from_str_radix(word, 16) else { return false };
        bits(word, base, found);
        base += width;
    }
    true
}

/// `0-3,5`.
fn list(text: &str, found: &mut impl FnMut(u32)) -> bool {
    text.split(',').all(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else { return false };
        let sane = first <= last && last <= HIGHEST_CPU;
        if sane {
            (first..=last).for_each(|cpu| found(cpu as u32));
        }
        sane
    })
}

fn bits(mut word: u32, base: u32, found: &mut impl FnMut(u32)) {
    while word != 0 {
        found(base + word.trailing_zeros());
        word &= word - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(mask: CpuMask) -> Option<Vec<u32>> {
        let mut cpus = Vec::new();
        mask.for_each(|cpu| cpus.push(cpu)).then_some(cpus)
    }

    #[test]
    fn every_form_of_a_mask_is_the_same_set() {
        let set = Some(vec![0, 1, 2, 3, 5, 33]);
        assert_eq!(cpus(CpuMask::Bitmap(&[0x2F, 0, 0, 0, 2, 0, 0, 0])), set);
        assert_eq!(cpus(CpuMask::Text(b"00000002,0000002f")), set);
        assert_eq!(cpus(CpuMask::Text(b"2,0000002f")), set);
        assert_eq!(cpus(CpuMask::Text(b"0-3,5,33")), set);
        assert_eq!(cpus(CpuMask::Text(b"ARRAY[2f, 00, 00, 00, 02, 00, 00, 00]")), set);
    }

    #[test]
    fn a_single_number_is_a_bitmap() {
        assert_eq!(cpus(CpuMask::Text(b"3")), Some(vec![0, 1]));
    }

    #[test]
    fn nonsense_is_no_mask() {
        for text in ["", "x", "3-1", "0-", "0-99999999", "1,,2", "ARRAY[1", "\u{e9}"] {
            assert_eq!(cpus(CpuMask::Text(text.as_bytes())), None, "{text}");
        }
    }
}
