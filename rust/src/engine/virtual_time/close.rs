//! The end of a run: its books.

use super::run::VirtualRun;
use super::simulation::{End, Simulation};
use super::timetable::Timetable;
use crate::engine::machine::verdict::{lost_wakeup, settle, stall};
use crate::engine::machine::{MachineRun, Runner, VmResult};
use crate::hypervisor::Inhibits;
use crate::record::Account;
use std::time::Duration;

impl Simulation<'_, '_> {
    /// Closes the books.
    pub(super) fn close(mut self, end: &End) -> VirtualRun {
        let mut runners: Vec<&mut Runner> = Vec::new();
        for pcpu in self.pcpus {
            let runner = pcpu.runner.take();
            if let Some(runner) = &runner {
                self.enter_traffic(pcpu, runner.task.slot);
            }
            runners.extend(runner.into_iter().chain(pcpu.queue.take()));
        }
        runners.extend(self.beds.iter_mut().filter_map(Option::take));
        runners.sort_by_key(|runner| runner.task.slot);
        let mut account = std::mem::take(&mut self.account);
        let mut violations = std::mem::take(&mut account.violations);
        let complete = matches!(end, End::Complete);
        if let End::Lost(lost) = end {
            violations.push(lost_wakeup(&self, lost, &runners));
        }
        let (pending, wrong) = settle(&self, &mut account, &runners, complete, true);
        violations.extend(wrong);
        let spinning = complete && self.vms.iter().any(|vm| !vm.spinners.is_empty());
        if violations.is_empty() && (spinning || matches!(end, End::Restless)) {
            violations.push(stall(&self, &self.config.guests, &runners));
        }
        // It was over when its programs were at their ends; or with the last act, however much later that is found out, and not
        // before it was told to end.
        let cycles = match self.finished_at {
            finished if self.unfinished == 0 && finished > 0 => finished,
            told if self.time_is_over => told.max(self.last_act()),
            _ => self.last_act(),
        };
        // What the engine kept beside the balances has come to latencies.
        let mut sums = Account::default();
        sums.absorb(&account);
        let machine = MachineRun {
            vms: self.vm_results(&account),
            account: sums,
            pending,
            unfinished: self.unfinished,
            violations,
            elapsed: duration(cycles, self.costs.hz),
            partial: matches!(end, End::Interrupted),
        };
        let fates = self.timetable.map(Timetable::into_fates).unwrap_or_default();
        let latencies = self.stopwatch.into_latencies();
        VirtualRun { machine, cycles, latencies, log: self.log.in_order(), spent: self.spent, fates }
    }

    /// When a pCPU was last busy.
    fn last_act(&self) -> u64 {
        self.pcpus.iter().map(|at| at.clock.get()).max().unwrap_or(self.now)
    }

    fn vm_results<T>(&self, account: &Account<T>) -> Vec<VmResult> {
        let result = |vm: &super::simulation::VmState<'_>| VmResult {
            vcpus: vm.vcpus.get(),
            table: vm.vm.table_size(),
            last_index: vm.vm.last_pid_index,
            ipi_virtualization: vm.vm.apicv.ipiv_usable(),
            apicv: vm.vm.apicv.active,
            inhibits: vm.vm.inhibits(self.memory).map(Inhibits::reasons).unwrap_or_default(),
            traffic: account.traffic(vm.first_slot, vm.vcpus.get()),
        };
        self.vms.iter().map(result).collect()
    }
}

/// So many cycles, at so many in a second.
fn duration(cycles: u64, hz: u64) -> Duration {
    let nanoseconds = u128::from(cycles % hz) * 1_000_000_000 / u128::from(hz);
    Duration::new(cycles / hz, nanoseconds as u32)
}
