//! What is wrong in one sentence: what is set, who sleeps, why nobody will come.

use super::model::{Kind, Model};
use super::state::{AgentPlace, HostPlace, Physical, Place, VcpuState, World};
use super::trace::{pending, resting};
use crate::hypervisor::policy::HostVector;

impl Model<'_> {
    /// Why the last state of a counterexample is wrong.
    pub(super) fn diagnosis(&self, kind: Kind, world: &World) -> String {
        let vcpus = world.vcpus[..self.vcpus()].iter().enumerate();
        match kind {
            Kind::LostInterrupt | Kind::LostWakeup | Kind::Livelock => {
                let asleep = kind == Kind::LostWakeup;
                let lost = |(_, vcpu): &(usize, &VcpuState)| vcpu.owed() && (!asleep || vcpu.place() == Place::Asleep);
                vcpus.clone().find(lost).map_or_else(String::new, |(number, vcpu)| {
                    format!(
                        "vCPU {number} is {} with {} {}: {}",
                        resting(vcpu.place()),
                        self.vectors(vcpu.pir() | vcpu.virr()),
                        if vcpu.pir() == 0 { "in VIRR" } else { "in PIR" },
                        if kind == Kind::Livelock {
                            "steps are taken for ever, and none of them delivers it.".to_owned()
                        } else {
                            self.why_nobody_comes(world, number)
                        }
                    )
                })
            }
            Kind::Deadlock => format!("{} waits for what never comes.", self.who_waits(world)),
            Kind::WildPost => {
                "The sender has seen V with half of the address: it posts to a place that is no descriptor. \
                               The entry must be one 64-bit store, or V must be stored last."
                    .to_owned()
            }
            Kind::Misdelivery => {
                "The guest's write of the xAPIC ID is complete, and the table still leads from the old ID \
                                  to vCPU 0, which has another ID now."
                    .to_owned()
            }
            Kind::Escape => {
                "IPI virtualization is off and writes of the ICR do not exit: the guest writes the physical \
                             local APIC's ICR."
                    .to_owned()
            }
            Kind::TwoLists => "A vCPU joins a wakeup list while it is on one.".to_owned(),
            Kind::SnWhileBlocked => vcpus
                .clone()
                .find(|(_, vcpu)| vcpu.place() == Place::Asleep && vcpu.sn())
                .map_or_else(String::new, |(number, _)| {
                    format!("vCPU {number} sleeps with SN = 1: an interrupt that is posted now notifies nobody.")
                }),
            Kind::Unposted => {
                "software_post has ended and never came to set_pir: nobody will find the interrupt.".to_owned()
            }
            Kind::Unsent => "A vector is delivered that nobody has posted for this vCPU.".to_owned(),
        }
    }

    /// Why nothing will deliver what is posted for a vCPU.
    fn why_nobody_comes(&self, world: &World, number: usize) -> String {
        let vcpu = &world.vcpus[number];
        let listed = match self.listed_on(world, number) {
            Some(pcpu) => format!("it is on the wakeup list of pCPU {pcpu}"),
            None => "it is on no wakeup list".to_owned(),
        };
        let state = format!(
            "ON = {}, SN = {}, NV = {}, NDST = pCPU {}",
            u8::from(vcpu.on()),
            u8::from(vcpu.sn()),
            if vcpu.nv_wakeup() { HostVector::Wakeup } else { HostVector::Notify }.name(),
            vcpu.ndst()
        );
        let waiting: Vec<String> = (0..self.pcpus()).flat_map(|pcpu| pending(world, pcpu)).collect();
        let waiting = if waiting.is_empty() { "no notification is pending".to_owned() } else { waiting.join(", ") };
        let later = if vcpu.sn() {
            "later posts see SN = 1 and send nothing"
        } else if vcpu.on() {
            "later posts see ON = 1 and send nothing"
        } else {
            "only another post would bring a notification"
        };
        match vcpu.place() {
            Place::Asleep => format!("{state}; {listed}, {waiting}, and {later}."),
            Place::Stopped => "its hypervisor has given it up.".to_owned(),
            _ => format!("{state}; {waiting}, and {later}; it may stay in its guest for ever."),
        }
    }

    fn who_waits(&self, world: &World) -> String {
        let rests = |place: Place| matches!(place, Place::Guest | Place::Asleep | Place::Stopped);
        let vcpu = (0..self.vcpus()).find(|&vcpu| !rests(world.vcpus[vcpu].place())).map(|vcpu| format!("vCPU {vcpu}"));
        let pcpu = || {
            (0..self.pcpus())
                .find(|&pcpu| world.pcpus[pcpu].handler() != Physical::None)
                .map(|pcpu| format!("The handler on pCPU {pcpu}"))
        };
        let agent = || {
            (0..self.agents())
                .find(|&agent| {
                    let agent = world.agents[agent];
                    agent.left() > 0 || agent.place() != AgentPlace::Begin
                })
                .map(|agent| self.agent_name(agent))
        };
        let host = || (world.global.host() != HostPlace::Done).then(|| "The host".to_owned());
        vcpu.or_else(pcpu).or_else(agent).or_else(host).unwrap_or_else(|| "Somebody".to_owned())
    }
}
