//! What stands in front of an event's fields in a line of text: who, where, when and which event.
//!
//! | format | line |
//! |---|---|
//! | perf script | `comm tid [cpu] time: system:event: fields`, `pid/tid` with `-F pid,tid`, `[cpu]` may be missing |
//! | ftrace | `comm-tid [cpu] flags time: event: fields`, with `(tgid)` before `[cpu]` if that option is on |
//! | trace-cmd report | the same without flags (3.2 and later: with), behind `instance:` where there are instances |
//!
//! Names of threads may hold blanks, colons, dashes and brackets, so a line is read from its time backwards: the time is
//! the first word of the form `digits.digits:` that has such a head before it.

use super::recording::Format;

/// A line's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'l> {
    pub(super) comm: &'l [u8],
    pub(super) thread: u32,
    pub(super) process: Option<u32>,
    pub(super) cpu: Option<u32>,
    pub(super) time_ns: u64,
    /// The name as printed, `kvm:kvm_msr` or `kvm_msr`.
    pub(super) event: &'l [u8],
    pub(super) fields: &'l [u8],
    /// The format that prints such lines.
    pub(super) format: Format,
}

/// Parses a line; none if it has not the form of a record.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut from = 0;
    loop {
        let colon = from + line.get(from..)?.iter().position(|byte| *byte == b':')?;
        from = colon + 1;
        let before = line.get(..colon)?;
        let start = before.iter().rposition(u8::is_ascii_whitespace).map_or(0, |blank| blank + 1);
        let Some(time_ns) = time(before.get(start..)?) else { continue };
        if let Some(parsed) = around(line.get(..start)?, time_ns, line.get(from..)?) {
            return Some(parsed);
        }
    }
}

/// Seconds with a fraction of up to nine digits.
fn time(word: &[u8]) -> Option<u64> {
    const DIGITS: usize = 9;
    let point = word.iter().position(|byte| *byte == b'.')?;
    let (seconds, fraction) = (word.get(..point)?, word.get(point + 1..)?);
    if fraction.is_empty() || fraction.len() > DIGITS {
        return None;
    }
    let scale = 10_u64.pow((DIGITS - fraction.len()) as u32);
    number(seconds)?.checked_mul(1_000_000_000)?.checked_add(number(fraction)?.checked_mul(scale)?)
}

/// What is around the time.
fn around<'l>(head: &'l [u8], time_ns: u64, tail: &'l [u8]) -> Option<Line<'l>> {
    let (event, fields) = event(tail)?;
    let mut head = head.trim_ascii();
    let (mut cpu, mut flags) = (None, false);
    if let Some((rest, number)) = split_cpu(head) {
        (head, cpu) = (rest, Some(number));
    } else if let Some((rest, number)) = split_word(head).and_then(|(rest, _)| split_cpu(rest)) {
        (head, cpu, flags) = (rest, Some(number), true);
    }
    let (head, group) = split_group(head);
    let (before, last) = split_word(head).unwrap_or((b"", head));
    // perf script: the thread id is a word of its own.
    if let Some((process, thread)) = ids(last) {
        let format = Format::PerfScript;
        return Some(Line { comm: before, thread, process, cpu, time_ns, event, fields, format });
    }
    // ftrace and trace-cmd: it is tied to the name, and the CPU is always there.
    cpu?;
    let dash = head.iter().rposition(|byte| *byte == b'-')?;
    let thread = u32::try_from(number(head.get(dash + 1..)?)?).ok()?;
    let comm = without_instance(head.get(..dash)?);
    let format = if flags { Format::Ftrace } else { Format::TraceCmd };
    Some(Line { comm, thread, process: group, cpu, time_ns, event, fields, format })
}

/// `event: fields`, perhaps with a sample period in front.
fn event(tail: &[u8]) -> Option<(&[u8], &[u8])> {
    let tail = tail.trim_ascii_start();
    let end = tail.iter().position(u8::is_ascii_whitespace).unwrap_or(tail.len());
    let (word, rest) = tail.split_at_checked(end)?;
    if number(word).is_some() {
        return event_word(rest.trim_ascii_start());
    }
    event_word(tail)
}

fn event_word(tail: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = tail.iter().position(u8::is_ascii_whitespace).unwrap_or(tail.len());
    let (word, rest) = tail.split_at_checked(end)?;
    let name = word.strip_suffix(b":").filter(|name| !name.is_empty())?;
    Some((name, rest.trim_ascii()))
}

/// Splits `[cpu]` off the end.
fn split_cpu(head: &[u8]) -> Option<(&[u8], u32)> {
    let inner = head.strip_suffix(b"]")?;
    let open = inner.iter().rposition(|byte| *byte == b'[')?;
    let cpu = u32::try_from(number(inner.get(open + 1..)?)?).ok()?;
    Some((inner.get(..open)?.trim_ascii_end(), cpu))
}

/// Splits `( 1234)` or `(-----)` off the end.
fn split_group(head: &[u8]) -> (&[u8], Option<u32>) {
    let split = || {
        let inner = head.strip_suffix(b")")?;
        let open = inner.iter().rposition(|byte| *byte == b'(')?;
        let group = inner.get(open + 1..)?.trim_ascii();
        let known = number(group).and_then(|group| u32::try_from(group).ok());
        let unknown = !group.is_empty() && group.iter().all(|byte| *byte == b'-');
        (known.is_some() || unknown).then_some((inner.get(..open)?.trim_ascii_end(), known))
    };
    split().unwrap_or((head, None))
}

/// Splits the last word off.
fn split_word(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = head.iter().rposition(u8::is_ascii_whitespace)?;
    Some((head.get(..blank)?.trim_ascii_end(), head.get(blank + 1..)?))
}

/// `tid` or `pid/tid`.
fn ids(word: &[u8]) -> Option<(Option<u32>, u32)> {
    let id = |digits| u32::try_from(number(digits)?).ok();
    match word.iter().position(|byte| *byte == b'/') {
        Some(slash) => Some((Some(id(word.get(..slash)?)?), id(word.get(slash + 1..)?)?)),
        None => Some((None, id(word)?)),
    }
}

/// The name without trace-cmd's `instance:` in front.
fn without_instance(comm: &[u8]) -> &[u8] {
    let comm = comm.trim_ascii_start();
    let end = comm.iter().position(u8::is_ascii_whitespace);
    let instance = end.and_then(|end| comm.split_at_checked(end)).filter(|(word, _)| word.ends_with(b":"));
    instance.map_or(comm, |(_, rest)| rest.trim_ascii_start())
}

/// Decimal digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit().then_some(())?;
        number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line<'_> {
        parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn perf_script() {
        let parsed = line(" qemu-system-x86 10870 [001]  3367.907913:        kvm:kvm_apic_ipi: dst 0 vec 0 (INIT)");
        assert_eq!(parsed.comm, b"qemu-system-x86");
        assert_eq!((parsed.thread, parsed.process, parsed.cpu), (10870, None, Some(1)));
        assert_eq!(parsed.time_ns, 3_367_907_913_000);
        assert_eq!((parsed.event, parsed.fields), (&b"kvm:kvm_apic_ipi"[..], &b"dst 0 vec 0 (INIT)"[..]));
        assert_eq!(parsed.format, Format::PerfScript);
    }

    #[test]
    fn perf_script_with_process_and_nanoseconds() {
        let parsed = line("CPU 0/KVM 16165/16171 [001]  4120.421659946: kvm:kvm_msr: msr_read 1b = 0x0");
        assert_eq!(parsed.comm, b"CPU 0/KVM");
        assert_eq!((parsed.thread, parsed.process, parsed.time_ns), (16171, Some(16165), 4_120_421_659_946));
    }

    #[test]
    fn perf_script_without_cpu_or_name() {
        assert_eq!(line("qemu 12 3.5: kvm:kvm_entry: vcpu 0").cpu, None);
        let parsed = line("  12/13  3.5: kvm:kvm_entry: vcpu 0");
        assert_eq!((parsed.comm, parsed.thread, parsed.time_ns), (&b""[..], 13, 3_500_000_000));
    }

    #[test]
    fn names_of_threads_may_hold_anything() {
        for comm in ["a b", "1.5: x", "[003]", "kworker/0:1-eve", "foo-12", "(7)", "a [001] b"] {
            let text = format!(" {comm} 77 [002] 1.000001: kvm:kvm_eoi: apicid 0 vector 1");
            let parsed = line(&text);
            assert_eq!((parsed.comm, parsed.thread, parsed.cpu), (comm.as_bytes(), 77, Some(2)), "{text}");
            // Behind a word with a colon, trace-cmd's instance, a name cannot be told from the rest of a name.
            let comm = comm.strip_prefix("1.5: ").unwrap_or(comm);
            let text = format!(" {comm}-77 [002] ..... 1.000001: kvm_eoi: apicid 0 vector 1");
            let parsed = line(&text);
            assert_eq!((parsed.comm, parsed.thread, parsed.cpu), (comm.as_bytes(), 77, Some(2)), "{text}");
        }
    }

    #[test]
    fn ftrace_with_and_without_thread_group() {
        let parsed = line("       <idle>-0       [000] d.h2.  3701.256004: kvm_apic_ipi: dst 1");
        assert_eq!((parsed.comm, parsed.thread, parsed.format), (&b"<idle>"[..], 0, Format::Ftrace));
        let parsed = line(" CPU 1/KVM-14912   (  14900) [000] .....  3701.256004: kvm_apic_ipi: dst 1");
        assert_eq!((parsed.comm, parsed.thread, parsed.process), (&b"CPU 1/KVM"[..], 14912, Some(14900)));
        assert_eq!(line(" qemu-1 (-------) [000] .....  1.25: x: ").process, None);
    }

    #[test]
    fn trace_cmd_with_and_without_instance() {
        let parsed =
            line("kut:  qemu-system-x86-14912 [001]  3696.283462: kvm_msr:              msr_write 1 = 0xe8c21");
        assert_eq!((parsed.comm, parsed.thread, parsed.format), (&b"qemu-system-x86"[..], 14912, Format::TraceCmd));
        assert_eq!(parsed.fields, b"msr_write 1 = 0xe8c21");
        assert_eq!(line(" kworker/0:1-14912 [001] 1.5: x: ").comm, b"kworker/0:1");
    }

    #[test]
    fn a_period_is_passed_over() {
        assert_eq!(line("a 1 [000] 2.5:     250000 cycles:u:  ffffffff81 sym").event, b"cycles:u");
    }

    #[test]
    fn what_is_no_record_is_none() {
        for text in [
            "",
            "cpus=2",
            "# tracer: nop",
            "\tffffffff8100 do_x+0x1 ([kernel.kallsyms])",
            " => x",
            "a 1 2.5:",
            "a 1 2.x: e:",
            "a 1 99999999999999999999.5: e:",
            "a 1 1.1234567890: e: ",
            "a 99999999999 1.5: e: ",
            "12:30.5: x",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
