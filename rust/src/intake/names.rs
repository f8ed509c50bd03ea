//! Event names: each distinct one gets a number, and with it what ipivrs does with such records.

use rustc_hash::FxHashMap;

/// The tracepoints that ipivrs reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ApicIpi,
    Entry,
    Exit,
    AcceptIrq,
    Wakeup,
    Msr,
    Mmio,
    Eoi,
    Hypercall,
    Inhibit,
    SendCpu,
    SendCpumask,
    Switch,
    Other,
}

impl Kind {
    /// Whether a recording that has such records cannot be understood without them.
    pub(super) const fn needed(self) -> bool {
        !matches!(self, Self::Switch | Self::Other)
    }

    /// By the name without its system.
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"kvm_apic_ipi" => Self::ApicIpi,
            b"kvm_entry" => Self::Entry,
            b"kvm_exit" => Self::Exit,
            b"kvm_apic_accept_irq" => Self::AcceptIrq,
            b"kvm_vcpu_wakeup" => Self::Wakeup,
            b"kvm_msr" => Self::Msr,
            b"kvm_mmio" => Self::Mmio,
            b"kvm_eoi" => Self::Eoi,
            b"kvm_hypercall" => Self::Hypercall,
            b"kvm_apicv_inhibit_changed" => Self::Inhibit,
            b"ipi_send_cpu" => Self::SendCpu,
            b"ipi_send_cpumask" => Self::SendCpumask,
            b"sched_switch" => Self::Switch,
            _ => Self::Other,
        }
    }
}

/// More distinct names than any kernel has events are not names: the rest is counted as one.
const MOST_NAMES: usize = 16_384;
/// What the rest is called.
const REST: &str = "(other events)";

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    list: Vec<String>,
    kinds: Vec<Kind>,
    /// By the name as the file has it.
    index: FxHashMap<Box<[u8]>, usize>,
    newest: usize,
    newest_spelling: Vec<u8>,
}

impl Names {
    /// The number and kind of a name as the file has it, `kvm:kvm_msr` or `kvm_msr`.
    #[inline]
    pub(super) fn number(&mut self, spelling: &[u8]) -> (usize, Kind) {
        if self.newest_spelling != spelling || self.list.is_empty() {
            self.newest = match self.index.get(spelling) {
                Some(&number) => number,
                None => self.add(spelling),
            };
            self.newest_spelling.clear();
            self.newest_spelling.extend_from_slice(spelling);
        }
        (self.newest, self.kinds.get(self.newest).copied().unwrap_or(Kind::Other))
    }

    fn add(&mut self, spelling: &[u8]) -> usize {
        let full = self.list.len() >= MOST_NAMES;
        let name = if full { REST.as_bytes() } else { without_system(spelling) };
        if full && self.list.last().is_some_and(|last| last == REST) {
            return self.list.len() - 1;
        }
        self.list.push(String::from_utf8_lossy(name).into_owned());
        self.kinds.push(Kind::of(name));
        let number = self.list.len() - 1;
        self.index.insert(spelling.into(), number);
        number
    }

    /// The names by number.
    pub(super) fn list(&self) -> &[String] {
        &self.list
    }
}

/// `kvm_msr` of `kvm:kvm_msr` and `kvm:kvm_msr:k`, but `cycles:u` as it is: short second parts are perf's modifiers.
fn without_system(spelling: &[u8]) -> &[u8] {
    const LONGEST_MODIFIER: usize = 3;
    spelling.split(|byte| *byte == b':').nth(1).filter(|name| name.len() > LONGEST_MODIFIER).unwrap_or(spelling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_goes_and_a_modifier_stays() {
        assert_eq!(without_system(b"kvm:kvm_msr"), b"kvm_msr");
        assert_eq!(without_system(b"kvm:kvm_msr:k"), b"kvm_msr");
        assert_eq!(without_system(b"kvm_msr"), b"kvm_msr");
        assert_eq!(without_system(b"cycles:ppp"), b"cycles:ppp");
    }

    #[test]
    fn a_name_keeps_its_number() {
        let mut names = Names::default();
        let first = names.number(b"kvm:kvm_msr");
        assert_eq!(first.1, Kind::Msr);
        assert_eq!(names.number(b"sched:sched_switch").1, Kind::Switch);
        assert_eq!(names.number(b"kvm:kvm_msr"), first);
        assert_eq!(names.list(), ["kvm_msr", "sched_switch"]);
    }

    #[test]
    fn endless_names_are_bounded() {
        let mut names = Names::default();
        for number in 0..2 * MOST_NAMES {
            names.number(format!("event_{number}").as_bytes());
        }
        assert_eq!(names.list().len(), MOST_NAMES + 1);
    }
}
