//! A device that posts interrupts through the IOMMU, from a thread of its own.
//!
//! Intel VT-d, "Interrupt Posting" 5.2.3: the acts are those of IPI virtualization; an urgent interrupt does not ask SN.

use super::shared::Shared;
use crate::engine::machine::Device;
use crate::processor::{Notice, descriptor};
use crate::record::Account;
use std::sync::atomic::Ordering;

/// Posts to the end of the device's work, or of the run; gives its books.
pub(super) fn run(shared: &Shared<'_>, device: &Device) -> Account {
    let mut account = Account::new(shared.slots.len());
    let mut posted = 0;
    while !shared.stopped() && !shared.stopping() && device.posts.is_none_or(|posts| posted < posts) {
        post(shared, device, posted, &mut account);
        posted += 1;
        for _ in 0..device.gap {
            std::hint::spin_loop();
        }
        if posted % 64 == 0 {
            std::thread::yield_now();
        }
    }
    if device.posts.is_some() {
        shared.unfinished.fetch_sub(1, Ordering::AcqRel);
    }
    shared.devices.fetch_sub(1, Ordering::AcqRel);
    account
}

fn post(shared: &Shared<'_>, device: &Device, turn: u64, account: &mut Account) {
    let Some(vm) = shared.vms.get(device.vm as usize) else { return };
    let vcpus = vm.vcpus.load(Ordering::Relaxed).max(1) as u64;
    let vcpu = device.vcpu.unwrap_or((turn % vcpus) as u32);
    let vector = device.vectors.get(turn as usize % device.vectors.len().max(1)).copied().unwrap_or(0x40);
    let to = vm.first_slot + vcpu;
    let Some(slot) = shared.slot(to) else { return };
    let coalesced = descriptor::post_request(slot.pid, vector);
    let notice = if device.urgent {
        descriptor::post_urgent_notification(slot.pid)
    } else {
        descriptor::post_notification(slot.pid)
    };
    account.counts.device_posts += 1;
    account.posted(to, vector, coalesced);
    account.noticed(notice);
    if let Notice::Due(due) = notice
        && !shared.notify(due.destination, due.vector)
    {
        let message = format!("a device's notification went to NDST {:X}H, which is no pCPU", due.destination);
        account.violation("notification-to-nobody", to, message);
    }
}
