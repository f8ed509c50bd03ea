//! A device that posts interrupts through the IOMMU.
//!
//! Intel VT-d, "Interrupt Posting" 5.2.3: the acts are those of IPI virtualization; an urgent interrupt does not ask SN.

use super::calendar::NEVER;
use super::latency::Class;
use super::simulation::Simulation;
use crate::arch::NotificationDestination;
use crate::engine::machine::What;
use crate::engine::machine::verdict::Directory;
use crate::processor::{Notice, descriptor};

/// Cycles of a spin between two posts: on threads it stands for so many, as in a guest's computation.
const SPIN: u64 = 43;

/// How far a device has come.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceState {
    posted: u64,
}

impl Simulation<'_, '_> {
    /// The next post of a device. Returns when the one after it is due.
    pub(super) fn device(&mut self, number: u32) -> u64 {
        let config = self.config;
        let Some(device) = config.devices.get(number as usize) else { return NEVER };
        let turn = self.devices[number as usize].posted;
        let posts_more = device.posts.is_none_or(|posts| turn < posts);
        if self.stopping && posts_more {
            if device.posts.is_some() {
                self.one_finished();
            }
            return NEVER;
        }
        if posts_more {
            self.devices[number as usize].posted += 1;
            self.post(device, turn);
        }
        if device.posts.is_some_and(|posts| turn + 1 >= posts) {
            // The last one, or there was none to be posted.
            self.one_finished();
            self.finished_at = self.finished_at.max(self.now);
            return NEVER;
        }
        self.now + u64::from(device.gap) * SPIN + u64::from(self.costs.instruction)
    }

    fn post(&mut self, device: &crate::engine::machine::Device, turn: u64) {
        let Some(vm) = self.vms.get(device.vm as usize) else { return };
        let vcpu = device.vcpu.unwrap_or((turn % u64::from(vm.vcpus.get().max(1))) as u32);
        let vector = device.vectors.get(turn as usize % device.vectors.len().max(1)).copied().unwrap_or(0x40);
        let to = vm.first_slot + vcpu;
        let Some(slot) = Directory::slot(self, to) else { return };
        let coalesced = descriptor::post_request(slot.pid, vector);
        let notice = if device.urgent {
            descriptor::post_urgent_notification(slot.pid)
        } else {
            descriptor::post_notification(slot.pid)
        };
        self.account.counts.device_posts += 1;
        self.account.noticed(notice);
        self.log_event(self.now, to, What::Device, vector, to);
        self.posted_for(to, vector, coalesced, (Class::Device, self.now));
        if let Notice::Due(due) = notice {
            let pcpu = NotificationDestination::from_bits(due.destination).decode(self.config.host_apic);
            if !self.send_interrupt(pcpu, due.vector) {
                let message = format!("a device's notification went to NDST {:X}H, which is no pCPU", due.destination);
                self.account.violation("notification-to-nobody", to, message);
            }
        }
    }
}
