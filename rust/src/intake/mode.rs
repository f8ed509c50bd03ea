//! What the recording shows of one vCPU's APIC mode, over time.

use crate::arch::ApicMode;

/// Position of a record in the recording; evidence is older or newer than an IPI by it.
pub(super) type Position = u64;

/// The APIC mode of one vCPU as far as events showed it: a short list of changes, since repeated evidence adds nothing.
#[derive(Debug, Default)]
pub(super) struct Timeline(Vec<Change>);

#[derive(Clone, Copy, Debug)]
struct Change {
    at: Position,
    /// The mode from here on.
    mode: ApicMode,
    /// The mode that must have held before, where the event tells.
    before: Option<ApicMode>,
    /// IA32_APIC_BASE itself was seen, not only its consequences.
    declared: bool,
}

impl Timeline {
    /// An access that is possible in `mode` only.
    #[inline]
    pub(super) fn used(&mut self, at: Position, mode: ApicMode) {
        if self.0.last().is_none_or(|last| last.mode != mode) {
            self.0.push(Change { at, mode, before: None, declared: false });
        }
    }

    /// RDMSR of IA32_APIC_BASE.
    pub(super) fn read(&mut self, at: Position, mode: ApicMode) {
        if self.0.last().is_none_or(|last| last.mode != mode || !last.declared) {
            self.0.push(Change { at, mode, before: None, declared: true });
        }
    }

    /// WRMSR of IA32_APIC_BASE: tells the mode from here on. Neither enabled mode can be reached from x2APIC mode by a
    /// write that changes anything, so it also tells that xAPIC mode held before, unless the value was there already.
    pub(super) fn written(&mut self, at: Position, mode: ApicMode) {
        let before = (mode != ApicMode::Disabled).then_some(ApicMode::XApic);
        if self.0.last().is_none_or(|last| last.mode != mode || !last.declared) {
            self.0.push(Change { at, mode, before, declared: true });
        }
    }

    /// The mode that IA32_APIC_BASE declared, if nothing since contradicted it.
    pub(super) fn declared(&self, at: Position) -> Option<ApicMode> {
        self.last_before(at).filter(|change| change.declared).and_then(|change| sending(change.mode))
    }

    /// The newest evidence before `at`.
    pub(super) fn earlier(&self, at: Position) -> Option<ApicMode> {
        self.last_before(at).and_then(|change| sending(change.mode))
    }

    /// What the oldest evidence after `at` says about the time before it.
    pub(super) fn later(&self, at: Position) -> Option<ApicMode> {
        let next = self.0.get(self.0.partition_point(|change| change.at < at))?;
        sending(next.before.unwrap_or(next.mode))
    }

    /// Several vCPUs' evidence as one.
    pub(super) fn merged<'t>(timelines: impl Iterator<Item = &'t Self>) -> Self {
        let mut all: Vec<Change> = timelines.flat_map(|timeline| timeline.0.iter().copied()).collect();
        all.sort_by_key(|change| change.at);
        Self(all)
    }

    fn last_before(&self, at: Position) -> Option<Change> {
        let next = self.0.partition_point(|change| change.at < at);
        next.checked_sub(1).and_then(|last| self.0.get(last).copied())
    }
}

/// A disabled local APIC sends nothing, so that evidence must be stale.
fn sending(mode: ApicMode) -> Option<ApicMode> {
    (mode != ApicMode::Disabled).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ApicMode::{Disabled, X2Apic, XApic};

    #[test]
    fn a_declared_mode_holds_until_contradicted() {
        let mut timeline = Timeline::default();
        timeline.read(10, XApic);
        timeline.used(20, XApic);
        assert_eq!(timeline.declared(30), Some(XApic));
        timeline.used(40, X2Apic);
        assert_eq!(timeline.declared(50), None);
        assert_eq!(timeline.earlier(50), Some(X2Apic));
        assert_eq!(timeline.declared(30), Some(XApic), "the past stays as it was");
        timeline.read(60, X2Apic);
        assert_eq!(timeline.declared(70), Some(X2Apic));
    }

    #[test]
    fn entering_x2apic_mode_tells_the_mode_before() {
        let mut timeline = Timeline::default();
        timeline.written(10, X2Apic);
        assert_eq!((timeline.earlier(5), timeline.later(5)), (None, Some(XApic)));
        assert_eq!(timeline.declared(15), Some(X2Apic));
    }

    #[test]
    fn a_disabled_apic_is_no_evidence() {
        let mut timeline = Timeline::default();
        timeline.written(10, Disabled);
        assert_eq!((timeline.declared(20), timeline.earlier(20), timeline.later(5)), (None, None, None));
    }

    #[test]
    fn repeated_evidence_takes_no_room() {
        let mut timeline = Timeline::default();
        (0..1000).for_each(|at| timeline.used(at, X2Apic));
        assert_eq!(timeline.0.len(), 1);
    }
}
