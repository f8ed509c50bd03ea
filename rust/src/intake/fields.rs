//! The fields of an event as text: what the kernel's print format makes of them, and `key=value` as
//! `trace-cmd report -R` prints them.

use super::event::{Callback, CpuMask, Event};
use super::host::{SHOWN_IN_TEXT, SHOWN_RAW};
use super::names::Kind;
use crate::arch::icr::{DeliveryMode, DestinationMode, IcrLow, Shorthand};

/// The event of that kind in `fields`; none if they cannot be read.
#[inline]
pub(super) fn decode(kind: Kind, fields: &[u8]) -> Option<Event<'_>> {
    Some(match kind {
        Kind::ApicIpi => ipi(fields)?,
        Kind::Entry => Event::RunsVcpu { vcpu_id: decimal(fields, b"vcpu").or_else(|| decimal(fields, b"vcpu_id"))? },
        Kind::Exit => Event::Exits {
            // Older kernels print no vCPU.
            vcpu_id: decimal(fields, b"vcpu").or_else(|| decimal(fields, b"vcpu_id")),
            halts: after(fields, b"reason").is_some_and(|reason| first_word(reason).eq_ignore_ascii_case(b"hlt")),
        },
        Kind::AcceptIrq => Event::AcceptIrq { vcpu_id: u32::try_from(hex(fields, b"apicid")?).ok()? },
        Kind::Wakeup => {
            match after(fields, b"time").or_else(|| after(fields, b"ns")).and_then(|time| leading(time, 10)) {
                Some((waited_ns, _)) => Event::Wakeup { waited_ns },
                None => Event::Acts,
            }
        }
        Kind::Msr => msr(fields)?,
        Kind::Mmio => mmio(fields)?,
        Kind::Eoi => Event::Eoi { vcpu_id: u32::try_from(hex(fields, b"apicid")?).ok()? },
        Kind::Hypercall => Event::Hypercall {
            number: hex(fields, b"nr")?,
            arguments: [hex(fields, b"a0")?, hex(fields, b"a1")?, hex(fields, b"a2")?, hex(fields, b"a3")?],
        },
        Kind::Inhibit => inhibit(fields)?,
        Kind::SendCpu => Event::SendCpu { target: decimal(fields, b"cpu")?, callback: callback(fields)? },
        Kind::SendCpumask => {
            // Up to the next key: an array has blanks in it.
            let mask = after(fields, b"cpumask")?;
            let end = find(mask, b" callsite=").unwrap_or(mask.len());
            Event::SendCpumask { targets: CpuMask::Text(mask.get(..end)?), callback: callback(fields)? }
        }
        Kind::Switch => switch(fields).unwrap_or(Event::Other),
        Kind::Other => Event::Other,
    })
}

/// `dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)`, or `icr_low=251 dest_id=1`.
fn ipi(fields: &[u8]) -> Option<Event<'_>> {
    if let Some(destination) = hex(fields, b"dest_id") {
        let icr_low = decimal(fields, b"icr_low")?;
        // trace-cmd 3.1 prints the byte that the print format casts to; more than a byte is the whole value.
        let shown = if icr_low & !SHOWN_RAW == 0 { SHOWN_RAW } else { u32::MAX };
        return Some(Event::ApicIpi { icr_low, shown, destination: u32::try_from(destination).ok()? });
    }
    let destination = u32::try_from(hex(fields, b"dst")?).ok()?;
    let vector = u8::try_from(decimal(fields, b"vec")?).ok()?;
    let (_, names) = split_at(fields, b'(')?;
    let (names, _) = split_at(names, b')')?;
    let icr_low = icr_of_names(vector, names)?;
    Some(Event::ApicIpi { icr_low, shown: SHOWN_IN_TEXT, destination })
}

/// ICR_LO from KVM's names for its parts: `Fixed|physical|de-assert|edge|dst`.
fn icr_of_names(vector: u8, names: &[u8]) -> Option<u32> {
    let mut names = names.split(|byte| *byte == b'|');
    let mut choice = |choices: &[&str]| {
        let name = names.next()?;
        choices.iter().position(|choice| choice.as_bytes() == name)
    };
    let delivery = choice(&["Fixed", "LowPrio", "SMI", "Res3", "NMI", "INIT", "SIPI", "ExtINT"])?;
    let logical = choice(&["physical", "logical"])?;
    let assert = choice(&["de-assert", "assert"])?;
    let level = choice(&["edge", "level"])?;
    let shorthand = choice(&["dst", "self", "all", "all-but-self"])?;
    let icr = IcrLow::new()
        .with_vector(vector)
        .with_delivery_mode(*DeliveryMode::ALL.get(delivery)?)
        .with_destination_mode(*DestinationMode::ALL.get(logical)?)
        .with_level_assert(assert == 1)
        .with_trigger_level(level == 1)
        .with_shorthand(*Shorthand::ALL.get(shorthand)?);
    names.next().is_none().then_some(icr.into_bits())
}

/// `msr_write 830 = 0x100004020 (#GP)`, or `write=1 ecx=830 data=0x100004020 exception=0`.
fn msr(fields: &[u8]) -> Option<Event<'_>> {
    if let Some(index) = hex(fields, b"ecx") {
        let event = Event::Msr {
            write: decimal(fields, b"write")? != 0,
            index: u32::try_from(index).ok()?,
            value: hex(fields, b"data")?,
        };
        return Some(if decimal(fields, b"exception")? == 0 { event } else { Event::Acts });
    }
    let write = fields.starts_with(b"msr_write ");
    let index = hex(fields, if write { b"msr_write" } else { b"msr_read" })?;
    let (_, value) = split_at(fields, b'=')?;
    let (value, rest) = leading(value.trim_ascii_start(), 16)?;
    if rest.trim_ascii_start().starts_with(b"(") {
        return rest.trim_ascii_start().starts_with(b"(#GP)").then_some(Event::Acts);
    }
    Some(Event::Msr { write, index: u32::try_from(index).ok()?, value })
}

/// `mmio write len 4 gpa 0xfee00300 val 0xc4500`, or `type=2 len=4 gpa=0xfee00300 val=0xc4500`.
fn mmio(fields: &[u8]) -> Option<Event<'_>> {
    let write = match after(fields, b"mmio").or_else(|| after(fields, b"type"))? {
        kind if kind.starts_with(b"write ") || kind.starts_with(b"2 ") => true,
        kind if kind.starts_with(b"read ") || kind.starts_with(b"1 ") => false,
        // A read that userspace is yet to answer.
        _ => return Some(Event::Acts),
    };
    Some(Event::Mmio { write, address: hex(fields, b"gpa")?, value: hex(fields, b"val")? })
}

/// `prev_comm=a prev_pid=7 prev_prio=120 prev_state=R+ ==> next_comm=b next_pid=8 next_prio=120`, or as perf's own plugin
/// prints it, `a:7 [120] R ==> b:8 [120]`.
fn switch(fields: &[u8]) -> Option<Event<'_>> {
    let arrow = find(fields, b" ==> ")?;
    let (left, right) = (fields.get(..arrow)?, fields.get(arrow..)?);
    let keys = || Some((decimal(left, b"prev_pid")?, after(left, b"prev_state")?, decimal(right, b"next_pid")?));
    let plugin = || {
        let (from, state) = thread_and_rest(left)?;
        Some((from, state, thread_and_rest(right)?.0))
    };
    let (from, state, to) = keys().or_else(plugin)?;
    Some(Event::Switch { from, runnable: state.starts_with(b"R"), to })
}

/// Of `a:7 [120] R` the thread and what is behind its priority.
fn thread_and_rest(text: &[u8]) -> Option<(u32, &[u8])> {
    let priority = text.windows(2).rposition(|two| two == b" [")?;
    let colon = text.get(..priority)?.iter().rposition(|byte| *byte == b':')?;
    let (thread, _) = leading(text.get(colon + 1..priority)?, 10)?;
    let (_, rest) = split_at(text.get(priority..)?, b']')?;
    Some((u32::try_from(thread).ok()?, rest.trim_ascii_start()))
}

/// `set reason=1, inhibits=0x2`, or `reason=1 set=1 inhibits=0x2`.
fn inhibit(fields: &[u8]) -> Option<Event<'_>> {
    let set = match decimal(fields, b"set") {
        Some(set) => set != 0,
        None if fields.starts_with(b"set ") => true,
        None if fields.starts_with(b"cleared ") => false,
        None => return None,
    };
    Some(Event::Inhibit { reason: decimal(fields, b"reason")?, set, inhibits: hex(fields, b"inhibits")? })
}

/// `callback=generic_smp_call_function_single_interrupt+0x0`, a symbol or an address.
fn callback(fields: &[u8]) -> Option<Callback> {
    let callback = after(fields, b"callback")?;
    if callback.starts_with(b"generic_smp_call_function_single_interrupt") {
        return Some(Callback::CallFunction);
    }
    let null = callback.starts_with(b"(nil)") || callback.starts_with(b"(null)");
    let zero = leading(callback, 16).is_some_and(|(address, rest)| address == 0 && rest.trim_ascii().is_empty());
    Some(if null || zero { Callback::Null } else { Callback::Other })
}

/// The unsigned number after `key`.
fn decimal(fields: &[u8], key: &[u8]) -> Option<u32> {
    leading(after(fields, key)?, 10).and_then(|(number, _)| u32::try_from(number).ok())
}

/// The hexadecimal number after `key`, with or without `0x`.
fn hex(fields: &[u8], key: &[u8]) -> Option<u64> {
    leading(after(fields, key)?, 16).map(|(number, _)| number)
}

/// What follows `key` and a blank or `=`; the key must be a word.
fn after<'f>(fields: &'f [u8], key: &[u8]) -> Option<&'f [u8]> {
    let mut from = 0;
    loop {
        let at = from + find(fields.get(from..)?, key)?;
        let starts_a_word = at.checked_sub(1).is_none_or(|before| fields[before] == b' ');
        let rest = fields.get(at + key.len()..)?;
        if let (true, Some((b' ' | b'=', rest))) = (starts_a_word, rest.split_first()) {
            return Some(rest);
        }
        from = at + 1;
    }
}

/// What is before and behind the first `byte`.
fn split_at(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|other| *other == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn first_word(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b' ').next().unwrap_or_default()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// The number at the start of `text`, and what follows it.
fn leading(text: &[u8], radix: u32) -> Option<(u64, &[u8])> {
    let text = if radix == 16 { text.strip_prefix(b"0x").unwrap_or(text) } else { text };
    let end = text.iter().position(|byte| !char::from(*byte).is_digit(radix)).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let number = u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: Kind, fields: &str) -> Option<Event<'_>> {
        decode(kind, fields.as_bytes())
    }

    fn icr(fields: &str) -> Option<(u32, u32)> {
        match text(Kind::ApicIpi, fields)? {
            Event::ApicIpi { icr_low, destination, .. } => Some((icr_low, destination)),
            _ => None,
        }
    }

    #[test]
    fn the_icr_is_put_together_from_names() {
        assert_eq!(icr("dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)"), Some((0xFB, 1)));
        assert_eq!(icr("dst 1f vec 251 (Fixed|logical|de-assert|edge|dst)"), Some((0x8FB, 0x1F)));
        assert_eq!(icr("dst 0 vec 0 (INIT|physical|assert|edge|all-but-self)"), Some((0xC4500, 0)));
        assert_eq!(icr("dst 1 vec 0 (INIT|physical|assert|level|dst)"), Some((0xC500, 1)));
        assert_eq!(icr("dst ffffffff vec 207 (Fixed|physical|assert|edge|all)"), Some((0x840CF, u32::MAX)));
        for (name, value) in
            [("LowPrio", 1), ("SMI", 2), ("Res3", 3), ("NMI", 4), ("INIT", 5), ("SIPI", 6), ("ExtINT", 7)]
        {
            assert_eq!(
                icr(&format!("dst 0 vec 7 ({name}|physical|de-assert|edge|self)")),
                Some((value << 8 | 0x40007, 0))
            );
        }
    }

    #[test]
    fn perf_script_may_print_more_behind_the_fields() {
        let ip = "ffffffff812c5a30 [unknown]";
        assert_eq!(icr(&format!("dst 1 vec 251 (Fixed|physical|de-assert|edge|dst) {ip}")), Some((0xFB, 1)));
        let write = Some(Event::Msr { write: true, index: 0x830, value: 0x1_0000_4020 });
        assert_eq!(text(Kind::Msr, &format!("msr_write 830 = 0x100004020 {ip}")), write);
        assert_eq!(text(Kind::Msr, &format!("msr_write 830 = 0x100004020 (#GP) {ip}")), Some(Event::Acts));
    }

    #[test]
    fn half_an_ipi_is_none() {
        let whole = "dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)";
        for length in 0..whole.len() {
            assert_eq!(icr(&whole[..length]), None, "{}", &whole[..length]);
        }
        assert_eq!(icr("dst 1 vec 256 (Fixed|physical|de-assert|edge|dst)"), None);
        assert_eq!(icr("dst 100000000 vec 1 (Fixed|physical|de-assert|edge|dst)"), None);
        assert_eq!(icr("dst 1 vec 1 (Fixed|physical|de-assert|edge|dst|more)"), None);
    }

    #[test]
    fn a_raw_ipi_is_known_as_far_as_it_is_shown() {
        let raw = |icr_low, shown| Some(Event::ApicIpi { icr_low, shown, destination: 0xB0 });
        assert_eq!(text(Kind::ApicIpi, "icr_low=32 dest_id=b0"), raw(32, SHOWN_RAW));
        assert_eq!(text(Kind::ApicIpi, "icr_low=2299 dest_id=b0"), raw(0x8FB, u32::MAX));
    }

    #[test]
    fn msr_accesses() {
        let write = |value| Some(Event::Msr { write: true, index: 0x830, value });
        assert_eq!(text(Kind::Msr, "msr_write 830 = 0x100004020"), write(0x1_0000_4020));
        assert_eq!(text(Kind::Msr, "write=1 ecx=830 data=0x100004020 exception=0"), write(0x1_0000_4020));
        assert_eq!(text(Kind::Msr, "msr_write 830 = 0x100004020 (#GP)"), Some(Event::Acts));
        assert_eq!(text(Kind::Msr, "write=1 ecx=830 data=0x1 exception=1"), Some(Event::Acts));
        assert_eq!(
            text(Kind::Msr, "msr_read 1b = 0xfee00900"),
            Some(Event::Msr { write: false, index: 0x1B, value: 0xFEE0_0900 })
        );
        assert_eq!(text(Kind::Msr, "msr_write 830 = "), None);
        assert_eq!(text(Kind::Msr, "msr_write 830 = 0x1 (#G"), None);
    }

    #[test]
    fn mmio_accesses() {
        let access = |write| Some(Event::Mmio { write, address: 0xFEE0_0300, value: 0xC4500 });
        assert_eq!(text(Kind::Mmio, "mmio write len 4 gpa 0xfee00300 val 0xc4500"), access(true));
        assert_eq!(text(Kind::Mmio, "mmio read len 4 gpa 0xfee00300 val 0xc4500"), access(false));
        assert_eq!(text(Kind::Mmio, "type=2 len=4 gpa=0xfee00300 val=0xc4500"), access(true));
        assert_eq!(text(Kind::Mmio, "mmio unsatisfied-read len 4 gpa 0xfee00300 val 0x0"), Some(Event::Acts));
        assert_eq!(text(Kind::Mmio, "mmio write len 4 gpa 0xfee00300"), None);
    }

    #[test]
    fn entries_and_exits_of_old_and_new_kernels() {
        let runs = |vcpu_id| Some(Event::RunsVcpu { vcpu_id });
        assert_eq!(text(Kind::Entry, "vcpu 0, rip 0xffff"), runs(0));
        assert_eq!(text(Kind::Entry, "vcpu 12"), runs(12));
        assert_eq!(text(Kind::Entry, "vcpu_id=3 rip=0x1"), runs(3));
        let exits = |vcpu_id, halts| Some(Event::Exits { vcpu_id, halts });
        assert_eq!(text(Kind::Exit, "vcpu 1 reason MSR_WRITE rip 0x1 info1 0x0"), exits(Some(1), false));
        assert_eq!(text(Kind::Exit, "vcpu 1 reason HLT rip 0x1 info1 0x0"), exits(Some(1), true));
        assert_eq!(text(Kind::Exit, "reason hlt rip 0x1 info 0 0"), exits(None, true));
        assert_eq!(text(Kind::Exit, "reason EXTERNAL_INTERRUPT rip 0x1 info 0 0"), exits(None, false));
    }

    #[test]
    fn who_waits_and_who_gets_the_cpu() {
        assert_eq!(text(Kind::Wakeup, "wait time 570 ns, polling valid"), Some(Event::Wakeup { waited_ns: 570 }));
        assert_eq!(text(Kind::Wakeup, "poll time 5 ns, polling invalid"), Some(Event::Wakeup { waited_ns: 5 }));
        assert_eq!(text(Kind::Wakeup, "of another kernel"), Some(Event::Acts));
        let switch = |runnable| Some(Event::Switch { from: 7, runnable, to: 8 });
        let line = |state: &str| {
            format!(
                "prev_comm=CPU 0/KVM prev_pid=7 prev_prio=120 prev_state={state} ==> next_comm=b next_pid=8 next_prio=9"
            )
        };
        for (state, runnable) in [("R", true), ("R+", true), ("S", false), ("D", false)] {
            assert_eq!(decode(Kind::Switch, line(state).as_bytes()), switch(runnable));
            assert_eq!(decode(Kind::Switch, format!("a b:7 [120] {state} ==> c:d:8 [9]").as_bytes()), switch(runnable));
        }
        assert_eq!(text(Kind::Switch, "a ==> b"), Some(Event::Other));
    }

    #[test]
    fn hypercalls_have_their_arguments() {
        let call = Some(Event::Hypercall { number: 10, arguments: [0xE, 1, 4, 0xFB] });
        assert_eq!(text(Kind::Hypercall, "nr 0xa a0 0xe a1 0x1 a2 0x4 a3 0xfb"), call);
        assert_eq!(text(Kind::Hypercall, "nr=0xa a0=0xe a1=0x1 a2=0x4 a3=0xfb"), call);
        assert_eq!(text(Kind::Hypercall, "nr 0xa a0 0xe a1 0x1 a2 0x4"), None);
    }

    #[test]
    fn inhibits_set_and_cleared() {
        let change = |set, inhibits| Some(Event::Inhibit { reason: 5, set, inhibits });
        assert_eq!(text(Kind::Inhibit, "set reason=5, inhibits=0x22"), change(true, 0x22));
        assert_eq!(text(Kind::Inhibit, "cleared reason=5, inhibits=0x2"), change(false, 2));
        assert_eq!(text(Kind::Inhibit, "reason=5 set=1 inhibits=22"), change(true, 0x22));
        assert_eq!(text(Kind::Inhibit, "reason=5 set=0 inhibits=2"), change(false, 2));
        assert_eq!(text(Kind::Inhibit, "toggled reason=5, inhibits=0x2"), None);
    }

    #[test]
    fn linux_ipis_and_their_callbacks() {
        let send = |callback| Some(Event::SendCpu { target: 1, callback });
        let by = |callback: &str| {
            decode(Kind::SendCpu, format!("cpu=1 callsite=x+0x1 callback={callback}").leak().as_bytes())
        };
        assert_eq!(by("generic_smp_call_function_single_interrupt+0x0/0x20"), send(Callback::CallFunction));
        assert_eq!(by("0x0"), send(Callback::Null));
        assert_eq!(by("(nil)"), send(Callback::Null));
        assert_eq!(by("0000000000000000"), send(Callback::Null));
        assert_eq!(by("irq_work_run+0x0"), send(Callback::Other));
        assert_eq!(by("0xffffffff81000000"), send(Callback::Other));
        assert_eq!(by("d_lru_add"), send(Callback::Other), "a symbol of hexadecimal letters");
        assert_eq!(by("0_odd"), send(Callback::Other));
    }

    #[test]
    fn a_mask_ends_at_the_next_key() {
        let mask =
            |text: &'static [u8]| Some(Event::SendCpumask { targets: CpuMask::Text(text), callback: Callback::Null });
        assert_eq!(text(Kind::SendCpumask, "cpumask=0-3,5 callsite=a callback=0x0"), mask(b"0-3,5"));
        assert_eq!(text(Kind::SendCpumask, "cpumask=ARRAY[03, 00] callsite=a callback=0x0"), mask(b"ARRAY[03, 00]"));
    }
}
