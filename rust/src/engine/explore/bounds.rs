//! How much the explorer explores.

use super::CheckError;
use crate::hypervisor::policy::{Act, Op, Policy, Routine, Step};
use serde::{Deserialize, Serialize};

/// vCPUs that receive, and pCPUs.
pub(super) const MOST_CPUS: usize = 4;
/// Agents that post: each has a bit of PIR.
pub(super) const MOST_AGENTS: usize = 8;
/// Posts of an agent, preemptions, migrations and exits: each is counted in three bits.
pub(super) const MOST_EVENTS: u8 = 7;
/// Steps of a routine: their number is eight bits.
const MOST_STEPS: usize = 250;

/// What memory does with plain stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryModel {
    /// Sequential consistency: a store is seen at once.
    #[default]
    Sc,
    /// x86-TSO: a store waits in a buffer that only its own pCPU sees, until a locked operation or a fence.
    Tso,
}

/// Who takes part, and how often things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Other vCPUs of the VM, which send IPIs with IPI virtualization.
    pub senders: u8,
    /// Devices that post through the IOMMU.
    pub devices: u8,
    /// Agents that post in software.
    pub software: u8,
    /// Interrupts that each of them posts.
    pub posts: u8,
    /// Times that a vCPU is preempted.
    pub preemptions: u8,
    /// Times that a vCPU is loaded on another pCPU than its last one though that is free.
    pub migrations: u8,
    /// VM exits for reasons of their own.
    pub exits: u8,
    /// pCPUs.
    pub pcpus: u8,
    /// vCPUs that receive.
    pub vcpus: u8,
    /// What memory does with plain stores.
    pub memory_model: MemoryModel,
    /// Interrupts of devices are urgent: they notify though SN = 1.
    pub urgent: bool,
    /// The table entry of vCPU 0 is written while others send.
    pub publish: bool,
    /// APICv is inhibited while others send.
    pub inhibit: bool,
    /// The guest rewrites the xAPIC ID of vCPU 0 while others send.
    pub rewrite_id: bool,
    /// The vCPUs can use IPI virtualization.
    pub ipiv: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            senders: 2,
            devices: 0,
            software: 1,
            posts: 1,
            preemptions: 1,
            migrations: 1,
            exits: 1,
            pcpus: 2,
            vcpus: 1,
            memory_model: MemoryModel::Sc,
            urgent: false,
            publish: false,
            inhibit: false,
            rewrite_id: false,
            ipiv: true,
        }
    }
}

impl Bounds {
    /// All that post.
    #[must_use]
    pub const fn agents(&self) -> usize {
        self.senders as usize + self.devices as usize + self.software as usize
    }

    /// Whether the explorer can be asked this of `policy`.
    ///
    /// # Errors
    /// A number outside its range, or a routine that is needed and missing.
    pub(super) fn allow(&self, policy: &Policy) -> Result<(), CheckError> {
        let range = |name: &str, value: u8, low: usize, high: usize| {
            if (low..=high).contains(&usize::from(value)) {
                return Ok(());
            }
            Err(CheckError::Bounds(format!("{name} is {value}: it can be {low} to {high}")))
        };
        range("pcpus", self.pcpus, 1, MOST_CPUS)?;
        range("vcpus", self.vcpus, 1, usize::from(self.pcpus))?;
        range("posts", self.posts, 1, usize::from(MOST_EVENTS))?;
        range("preemptions", self.preemptions, 0, usize::from(MOST_EVENTS))?;
        range("migrations", self.migrations, 0, usize::from(MOST_EVENTS))?;
        range("exits", self.exits, 0, usize::from(MOST_EVENTS))?;
        let agents = u16::from(self.senders) + u16::from(self.devices) + u16::from(self.software);
        if !(1..=MOST_AGENTS as u16).contains(&agents) {
            return Err(CheckError::Bounds(format!(
                "senders, devices and software together are {agents}: they can be 1 to {MOST_AGENTS}"
            )));
        }
        if self.senders > 0 && !self.ipiv {
            return Err(CheckError::Bounds(format!(
                "senders is {}, and they send with IPI virtualization: without it what they send exits, and is posted by \
                 software agents",
                self.senders
            )));
        }
        let inhibits = self.inhibit || self.rewrite_id;
        let needs = [
            (Routine::Load, true, "a vCPU is scheduled in"),
            (Routine::BeforeEntry, true, "a vCPU enters its guest"),
            (Routine::SoftwarePost, self.software > 0, "there are agents that post in software"),
            (Routine::SoftwarePost, inhibits && self.senders > 0, "IPIs exit once APICv is inhibited"),
            (Routine::RefreshApicv, inhibits && self.senders > 0, "APICv is inhibited while others send"),
            (Routine::Publish, self.publish, "a table entry is written while others send"),
            (Routine::SetApicId, self.rewrite_id, "the guest rewrites an xAPIC ID"),
        ];
        if let Some((routine, _, why)) = needs.into_iter().find(|&(routine, needed, _)| needed && !policy.has(routine))
        {
            return Err(CheckError::MissingRoutine { policy: policy.name.clone(), routine: routine.name(), why });
        }
        Routine::ALL.into_iter().try_for_each(|routine| has_meaning(policy, routine))?;
        match Routine::ALL.into_iter().find(|&routine| policy.steps(routine).len() > MOST_STEPS) {
            Some(routine) => Err(CheckError::Bounds(format!(
                "{} has {} steps: to be checked a routine can have {MOST_STEPS}",
                routine.name(),
                policy.steps(routine).len()
            ))),
            None => Ok(()),
        }
    }
}

/// Whether the model knows what the steps of a routine would do there.
fn has_meaning(policy: &Policy, routine: Routine) -> Result<(), CheckError> {
    use Routine::{OnNotify, OnWakeup, Publish, RefreshApicv, SetApicId, SoftwarePost};
    let elsewhere = matches!(routine, SoftwarePost | Publish | SetApicId | RefreshApicv);
    let of_a_thread = !elsewhere && !matches!(routine, OnNotify | OnWakeup);
    let steps = policy.steps(routine);
    for (number, step) in steps.iter().enumerate() {
        let why = match &step.op {
            Op::Act(Act::Control(change)) if elsewhere && change.ndst_here => "runs on a pCPU that is not in the model",
            Op::Act(Act::SelfIpi(_)) if elsewhere => "runs on a pCPU that is not in the model",
            Op::Act(Act::ListAdd | Act::ListDel | Act::Stop | Act::Harvest) if elsewhere || routine == OnWakeup => {
                "is not run by the vCPU that it is about"
            }
            Op::Act(Act::Stop) if !of_a_thread => "is not run by the vCPU's thread",
            Op::Act(act) if routine == RefreshApicv && !matches!(act, Act::Surrounding(_) | Act::Done) => {
                "changes the sender's own controls and nothing else"
            }
            Op::Act(Act::SetPir) if routine != SoftwarePost => "posts nothing",
            Op::NextListed { .. } if routine != OnWakeup => "is not the handler that walks a wakeup list",
            Op::NextListed { otherwise } if has_walk(steps.get(number + 1..usize::from(*otherwise))) => {
                "holds the list's lock already"
            }
            _ => continue,
        };
        return Err(CheckError::Bounds(format!(
            "line {}: {} {why}: there can be no \"{}\"",
            step.line,
            routine.name(),
            step.text
        )));
    }
    Ok(())
}

fn has_walk(steps: Option<&[Step]>) -> bool {
    steps.unwrap_or_default().iter().any(|step| matches!(step.op, Op::NextListed { .. }))
}
