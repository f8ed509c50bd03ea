//! IPIs a second in virtual time: one vCPU sends to another and waits.

use super::NotMeasured;
use super::engines::{ipis_and_cycles, machine};
use super::own_core::{Cutter, Pace};
use crate::engine::machine::MachineConfig;
use crate::engine::virtual_time::Costs;
use serde_json::json;

/// IPIs of a run: they take long beside the making of the machine.
pub const PING_ROUNDS: u32 = 1_000_000;
/// So many times the runs that are asked for are made at most, until enough stretches of them had the core to themselves.
const PATIENCE: u64 = 10;

/// One vCPU sends to another and waits, so often.
///
/// # Errors
/// The machine cannot be made.
pub fn ping_machine(policy: &str, rounds: u64) -> Result<MachineConfig, NotMeasured> {
    machine(policy, true, 2, 2, &json!({"name": "ping", "rounds": rounds, "vector": 0xE0}), &json!([]))
}

/// Seconds of an IPI, from its sending until the sender knows of it, over the whole machine and without its making; of so many
/// runs, or more where the core is shared.
///
/// # Errors
/// The machine cannot be made.
pub fn ping(policy: &str, runs: u64, costs: &Costs) -> Result<Pace, NotMeasured> {
    let config = ping_machine(policy, PING_ROUNDS.into())?;
    let mut stretches = Vec::new();
    let mut made = 0;
    loop {
        let mut cutter = Cutter::default();
        let (ipis, cycles) = ipis_and_cycles(&config, costs, None, &mut |now| {
            cutter.cut(now);
            true
        })?;
        // Each round takes as many cycles.
        stretches.extend(cutter.stretches(ipis / cycles));
        made += 1;
        if made < runs {
            continue;
        }
        let pace = Pace::of(&stretches);
        if pace.own.is_some() || made >= runs * PATIENCE {
            return Ok(pace);
        }
    }
}
