//! Acts that are done ahead: before others, whose time is earlier, have done theirs.
//!
//! An act that neither changes nor sees anything of another vCPU's may be done as soon as it is certain that nothing comes
//! in between. It saves a turn: in a machine of many vCPUs somebody else acts in nearly every cycle, and each act would
//! take one.

use super::costs::Costs;
use super::pcpu::Pcpu;
use super::simulation::Simulation;
use crate::engine::machine::{Chaos, MachineConfig};
use crate::guest::{Cursor, GuestCode};
use crate::processor::VirtualProcessor;

/// Whether guests may be [alone](Simulation::alone_until).
///
/// With a rule that knows of all interrupts on their way together, an interrupt that waits behind another is delivered
/// ahead too. How far depends on when others have their turns; it does not where a chain of deliveries is shorter than the
/// flight of an interrupt. Where chains may be longer turns stay as they are, and with them the results; so they do where
/// chaos wakes vCPUs anywhere.
pub(super) fn may_be_alone(config: &MachineConfig, costs: &Costs) -> bool {
    let devices: usize = config.devices.iter().map(|device| device.vectors.len()).sum();
    let vectors = config.guests.iter().map(|guest| guest.code.vectors()).max().unwrap_or(0) + devices;
    let handler =
        [costs.delivery, costs.msr_write.max(costs.mmio_write), costs.interrupt_return, 2 * costs.instruction];
    // Each vector may be in service and wait besides.
    let chain = 2 * vectors as u64 * handler.map(u64::from).iter().sum::<u64>();
    config.chaos == Chaos::default()
        && u64::from(costs.notification_processing) + chain < u64::from(costs.notification_flight)
}

impl<'m> Simulation<'m, '_> {
    /// Whether the next act of the guest on the pCPU that acts is done though others act before.
    #[inline]
    pub(super) fn goes_ahead(&self, at: &Pcpu<'m>, vp: &VirtualProcessor, cursor: &Cursor, code: &GuestCode) -> bool {
        if cursor.keeps_to_itself(code, self.now < self.lasts_until) {
            self.undisturbed(at) || self.alone_until(at, vp, self.now)
        } else {
            cursor.computes(code) && self.alone_until(at, vp, self.now)
        }
    }

    /// Nobody else can reach the pCPU that acts before its next act: others act later than `limit`, and what they do
    /// arrives after an interrupt's flight, or at the end of the time slice.
    fn undisturbed(&self, at: &Pcpu<'_>) -> bool {
        // Of two actors at the same time the first may act up to one cycle later: that is in the limit.
        self.now + 1 < self.limit + u64::from(self.costs.notification_flight)
            && self.now < self.calendar.arrival_time()
            && self.now < at.slice_end.get()
    }

    /// The same until `time`, whatever arrives at other pCPUs: no interrupt is on its way to this one by then, and none
    /// waits in its local APIC or its guest, whose delivery others would see. Somebody who could be woken here would have
    /// the pCPU after the time slice.
    #[inline]
    pub(super) fn alone_until(&self, at: &Pcpu<'_>, vp: &VirtualProcessor, time: u64) -> bool {
        // What is most often not so comes first.
        time + 1 < self.limit + u64::from(self.costs.notification_flight)
            && self.may_be_alone
            && vp.vmcs.rvi == 0
            && !at.attention.get()
            && time < self.calendar.arrives_from(self.current)
            && (time < at.slice_end.get() || at.residents.get() == 1)
    }
}
