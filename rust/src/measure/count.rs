//! Paths whose instructions are counted from outside, by Valgrind: they repeat exactly where times do not.

#![allow(clippy::redundant_closure_for_method_calls, reason = "a method is of one lifetime, not of every")]

use super::ipi::{Pair, PairMachine};
use super::{NotMeasured, engines, ping_machine};
use crate::arch::ApicMode;
use crate::engine::explore::Bounds;
use crate::engine::virtual_time::Costs;

/// How often a path of one vCPU pair is taken.
const TIMES: u64 = 2000;
/// IPIs in virtual time: many, for the making of the machine is counted too.
const IPIS: u64 = 50_000;

/// Does `work` so often, in a function of its own: what is counted is what is done between its call and its return.
#[inline(never)]
fn counted(times: u64, mut work: impl FnMut() -> bool) -> Result<u64, NotMeasured> {
    if (0..times).all(|_| work()) { Ok(times) } else { Err(NotMeasured("the path was not taken".to_owned())) }
}

/// Takes a path, for its instructions to be counted within `counted`; returns how often it was taken there.
///
/// # Errors
/// There is no such path, or it does something else than it should.
pub fn count(path: &str, policy: &str, costs: &Costs) -> Result<u64, NotMeasured> {
    match path {
        "ipi-x2apic" => pair(ApicMode::X2Apic, |pair| pair.ipi()),
        "ipi-xapic" => pair(ApicMode::XApic, |pair| pair.ipi()),
        "post-coalesced" => pair(ApicMode::X2Apic, |pair| pair.coalesced()),
        "virtual-time-ping" => {
            let config = ping_machine(policy, IPIS)?;
            within(|| Ok(engines::timed(&config, costs)?.1 as u64))
        }
        "virtual-time-storm" => {
            let config = engines::storm_machine(policy, engines::Storm::of(64), Some(IPIS / 64))?;
            within(|| Ok(engines::timed(&config, costs)?.1 as u64))
        }
        "explorer" => {
            let bounds = Bounds { senders: 1, preemptions: 1, ..Bounds::default() };
            within(|| Ok(engines::explored(policy, &bounds, 1)?.states as u64))
        }
        _ => Err(NotMeasured(format!("no path {path:?}"))),
    }
}

fn pair(mode: ApicMode, work: impl Fn(&mut Pair<'_>) -> bool) -> Result<u64, NotMeasured> {
    let mut machine = PairMachine::new(mode)?;
    let mut pair = machine.pair()?;
    // The first post sets ON.
    work(&mut pair);
    counted(TIMES, || work(&mut pair))
}

/// One run of an engine, which says how often it took the path.
fn within(run: impl Fn() -> Result<u64, NotMeasured>) -> Result<u64, NotMeasured> {
    let mut taken = Ok(0);
    counted(1, || {
        taken = run();
        taken.is_ok()
    })?;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    const KVM: &str = include_str!("../../../python/ipivrs/policies/kvm.policy");

    #[test]
    fn paths_are_taken() {
        let costs: serde_json::Map<_, _> =
            Costs::FIELDS.iter().map(|&(name, ..)| (name.to_owned(), 100.into())).collect();
        let costs = serde_json::json!({"hz": 1_000_000_000}).as_object().unwrap().clone().into_iter().chain(costs);
        let costs = Costs::from_json(&serde_json::Value::Object(costs.collect()).to_string()).unwrap();
        for (path, times) in
            [("ipi-x2apic", TIMES), ("ipi-xapic", TIMES), ("post-coalesced", TIMES), ("virtual-time-ping", IPIS)]
        {
            assert_eq!(count(path, KVM, &costs), Ok(times), "{path}");
        }
        assert!(count("virtual-time-storm", KVM, &costs).unwrap() > IPIS * 9 / 10);
        assert!(count("nothing", KVM, &costs).is_err());
    }
}
