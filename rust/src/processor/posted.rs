//! Posted-interrupt processing: an external interrupt arrives in VMX non-root operation.
//!
//! SDM vol. 3C, "Posted-Interrupt Processing" 30.6.

use super::outcome::Violation;
use super::virtual_apic::VirtualApic;
use super::{Activity, LocalApic, NonRoot, VirtualProcessor, descriptor};
use crate::arch::posted_interrupt::PIR_WORDS;
use crate::arch::vector::{banks_of_word, highest_in_word, word_of_banks};
use crate::arch::{ApicRegister, Clause, Exit, ExitReason};
use crate::memory::{Line, Word};

/// What moved from PIR to VIRR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harvest {
    /// Requests taken from PIR.
    pub taken: u16,
    /// Of these, how many VIRR had already: two interrupts became one.
    pub merged: u16,
    /// The highest vector taken, or none if PIR was empty.
    pub highest: Option<u8>,
}

/// What came of the local APIC's pending interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ExternalInterrupt {
    /// None was deliverable.
    None,
    /// Posted-interrupt processing: no VM exit.
    Processed(Harvest),
    /// VM exit 1; the acknowledged vector, if acknowledge interrupt on exit = 1, else it stays pending.
    Exit(Exit, Option<u8>),
    /// External-interrupt exiting = 0: the guest's IDT gets the physical vector (not modelled further).
    Guest(u8),
    /// The VMCS's descriptor address is no live descriptor. The interrupt is acknowledged and lost.
    Violation(Violation),
}

/// VIRR |= PIR, PIR := 0, each 64 bits on their own. (30.6 step 5) Software that syncs PIR does the same.
///
/// Vectors that VIRR had already are added to `merged`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as wrmsr")]
pub fn harvest<W: Word>(pid: &Line<W>, apic: VirtualApic<'_, W>, merged: &mut [u64; PIR_WORDS]) -> Harvest {
    let mut all = Harvest::default();
    // Written out: as a loop it is twice as many instructions where one group has something.
    take_group::<W, 0>(pid, apic, merged, &mut all);
    take_group::<W, 1>(pid, apic, merged, &mut all);
    take_group::<W, 2>(pid, apic, merged, &mut all);
    take_group::<W, 3>(pid, apic, merged, &mut all);
    all
}

/// The same for the `GROUP`-th 64 bits.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as wrmsr")]
fn take_group<W: Word, const GROUP: usize>(
    pid: &Line<W>,
    apic: VirtualApic<'_, W>,
    merged: &mut [u64; PIR_WORDS],
    all: &mut Harvest,
) {
    let bits = descriptor::take_requests(pid, GROUP);
    if bits == 0 {
        return;
    }
    all.taken += count(bits);
    all.highest = highest_in_word(GROUP, bits);
    let [low, high] = banks_of_word(bits);
    move_bank::<W, GROUP, 0>(low, apic, merged, all);
    move_bank::<W, GROUP, 1>(high, apic, merged, all);
}

/// One half of them.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as wrmsr")]
fn move_bank<W: Word, const GROUP: usize, const HALF: usize>(
    bits: u32,
    apic: VirtualApic<'_, W>,
    merged: &mut [u64; PIR_WORDS],
    all: &mut Harvest,
) {
    if bits == 0 {
        return;
    }
    let before = apic.set_bits(ApicRegister::IRR.nth(2 * GROUP + HALF), bits);
    if before & bits != 0 {
        all.merged += note_merged(&mut merged[GROUP], word_of_banks(HALF, before & bits));
    }
}

/// Returns how many they are. Out of the way, so that what was noted before is not read where there is nothing to be added.
#[cold]
#[inline(never)]
fn note_merged(noted: &mut u64, bits: u64) -> u16 {
    *noted |= bits;
    count(bits)
}

/// How many bits are set, of which there are some. Mostly it is one.
#[inline]
#[allow(clippy::manual_is_power_of_two, reason = "is_power_of_two counts the bits")]
fn count(bits: u64) -> u16 {
    if bits & (bits - 1) == 0 { 1 } else { count_many(bits) }
}

/// Out of the way: counting takes many instructions where there is no POPCNT.
#[cold]
#[inline(never)]
const fn count_many(bits: u64) -> u16 {
    bits.count_ones() as u16
}

impl<W: Word> NonRoot<'_, '_, W> {
    /// Takes the highest deliverable interrupt of the local APIC, if there is one. (30.6)
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    pub fn external_interrupt(&mut self, local: &mut LocalApic<'_, W>) -> ExternalInterrupt {
        if matches!(self.vp.activity, Activity::WaitForSipi) {
            // Blocked in this state: the interrupt stays pending (25.4.2).
            return ExternalInterrupt::None;
        }
        let Some(vector) = local.deliverable() else { return ExternalInterrupt::None };
        // Step 2. VM entry takes no VMCS that processes posted interrupts and neither exits for external interrupts nor
        // acknowledges them.
        if !self.vp.controls.posted_interrupts || u16::from(vector) != self.vp.vmcs.notification_vector {
            return self.vp.other_interrupt(local, vector);
        }
        // Steps 1 and 4: nothing can come between them that would see the vector in service.
        local.take_and_end(vector);
        let Some(pid) = self.own else {
            let address = self.vp.vmcs.descriptor;
            return ExternalInterrupt::Violation(Violation::OwnDescriptor { address });
        };
        // Step 3.
        descriptor::clear_outstanding(pid);
        // Step 5.
        let harvest = harvest(pid, self.apic, &mut self.vp.merged);
        // Step 6: RVI is left alone when PIR was empty.
        if let Some(highest) = harvest.highest
            && highest > self.vp.vmcs.rvi
        {
            self.vp.vmcs.rvi = highest;
        }
        // Step 7.
        self.evaluate();
        ExternalInterrupt::Processed(harvest)
    }
}

impl VirtualProcessor {
    /// An interrupt that is no notification. ("Other Causes of VM Exits" 26.2)
    #[cold]
    #[inline(never)]
    fn other_interrupt<W: Word>(&mut self, local: &mut LocalApic<'_, W>, vector: u8) -> ExternalInterrupt {
        let controls = self.controls;
        if !controls.external_interrupt_exiting {
            return self.interrupt_to_guest(local);
        }
        if !controls.acknowledge_on_exit {
            return ExternalInterrupt::Exit(self.external_interrupt_exit(Clause::ExternalInterruptExiting), None);
        }
        local.take(vector);
        let clause = if controls.posted_interrupts {
            Clause::NotTheNotificationVector
        } else {
            Clause::ExternalInterruptExiting
        };
        ExternalInterrupt::Exit(self.external_interrupt_exit(clause), Some(vector))
    }

    fn external_interrupt_exit(&mut self, clause: Clause) -> Exit {
        self.exit(Exit { reason: ExitReason::ExternalInterrupt, qualification: 0, clause })
    }

    #[cold]
    fn interrupt_to_guest<W: Word>(&self, local: &mut LocalApic<'_, W>) -> ExternalInterrupt {
        if !self.interrupt_flag || self.interrupt_shadow {
            return ExternalInterrupt::None;
        }
        local.acknowledge().map_or(ExternalInterrupt::None, ExternalInterrupt::Guest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, X2APIC};
    use super::super::{Boundary, local_apic};
    use super::*;

    #[test]
    fn the_notification_vector_is_processed_without_an_exit() {
        let mut machine = Machine::new(X2APIC, 2);
        machine.send(0, 1, 0xFB);
        machine.send(0, 1, 0x41);
        let processed = machine.interrupt(1);
        let harvest = Harvest { taken: 2, merged: 0, highest: Some(0xFB) };
        assert_eq!(processed, ExternalInterrupt::Processed(harvest));
        assert!(!descriptor::control(machine.descriptor(1)).outstanding());
        assert_eq!(descriptor::requests(machine.descriptor(1)), [0; 4]);
        assert_eq!(machine.vp(1).vmcs.rvi, 0xFB);
        assert_eq!(machine.guest(1).boundary(), Boundary::Delivered(0xFB));
        assert_eq!(machine.interrupt(1), ExternalInterrupt::None, "the local APIC got its EOI and is empty");
    }

    /// Step 5: each vector alone, and its own bit of VIRR.
    #[test]
    fn every_vector_goes_to_its_own_bit() {
        let mut machine = Machine::new(X2APIC, 2);
        for vector in 16..=255 {
            machine.send(0, 1, vector);
            let _ = machine.interrupt(1);
            assert_eq!(machine.guest(1).virtual_apic().vectors(ApicRegister::IRR), [vector]);
            machine.guest(1).virtual_apic().clear_bit(ApicRegister::IRR, vector);
        }
    }

    /// Step 6: Bochs sets RVI to FFH here.
    #[test]
    fn an_empty_pir_leaves_rvi_alone() {
        let mut machine = Machine::new(X2APIC, 2);
        for rvi in [0, 0x41] {
            machine.vp_mut(1).vmcs.rvi = rvi;
            local_apic::request(machine.local(1), 0xF2);
            assert_eq!(machine.interrupt(1), ExternalInterrupt::Processed(Harvest::default()));
            assert_eq!(machine.vp(1).vmcs.rvi, rvi);
        }
    }

    #[test]
    fn rvi_is_never_lowered() {
        let mut machine = Machine::new(X2APIC, 2);
        let _ = machine.guest(1).wrmsr(0x83F, 0xC0);
        machine.send(0, 1, 0x41);
        let _ = machine.interrupt(1);
        assert_eq!(machine.vp(1).vmcs.rvi, 0xC0);
    }

    /// 41H, 51H and 81H wait already; of what comes, 41H and 81H are among them.
    #[test]
    fn merged_requests_are_counted() {
        let mut machine = Machine::new(X2APIC, 2);
        for waiting in [0x41, 0x51, 0x81] {
            let _ = machine.guest(1).wrmsr(0x83F, waiting);
        }
        for vector in [0x41, 0x42, 0x43, 0x81] {
            machine.send(0, 1, vector);
        }
        let merged = Harvest { taken: 4, merged: 2, highest: Some(0x81) };
        assert_eq!(machine.interrupt(1), ExternalInterrupt::Processed(merged));
        assert_eq!(machine.vp_mut(1).take_merged(), [0, 1 << 1, 1 << 1, 0]);
        assert_eq!(machine.vp_mut(1).take_merged(), [0; 4], "they are taken once");
    }

    /// External-interrupt exiting = 0: the guest takes physical interrupts, when it can.
    #[test]
    fn without_external_interrupt_exiting_the_guest_takes_it_if_it_can() {
        let mut machine = Machine::new(X2APIC, 1);
        let pin = &mut machine.vp_mut(0).vmcs.pin;
        pin.set_external_interrupt_exiting(false);
        pin.set_process_posted_interrupts(false);
        machine.set_controls(0, true, false, false);
        local_apic::request(machine.local(0), 0x51);
        machine.vp_mut(0).interrupt_flag = false;
        assert_eq!(machine.interrupt(0), ExternalInterrupt::None);
        machine.vp_mut(0).interrupt_flag = true;
        machine.vp_mut(0).interrupt_shadow = true;
        assert_eq!(machine.interrupt(0), ExternalInterrupt::None);
        machine.vp_mut(0).interrupt_shadow = false;
        assert_eq!(machine.interrupt(0), ExternalInterrupt::Guest(0x51));
    }

    #[test]
    fn another_vector_exits_and_is_acknowledged() {
        let mut machine = Machine::new(X2APIC, 1);
        local_apic::request(machine.local(0), 0xF1);
        let exit =
            Exit { reason: ExitReason::ExternalInterrupt, qualification: 0, clause: Clause::NotTheNotificationVector };
        assert_eq!(machine.interrupt(0), ExternalInterrupt::Exit(exit, Some(0xF1)));
        assert!(!local_apic::pending(machine.local(0)));
    }

    #[test]
    fn without_acknowledge_the_vector_stays_pending() {
        let mut machine = Machine::new(X2APIC, 1);
        let vp = machine.vp_mut(0);
        vp.vmcs.exit_controls.set_acknowledge_interrupt(false);
        vp.vmcs.pin.set_process_posted_interrupts(false);
        machine.reenter(0);
        local_apic::request(machine.local(0), 0xF2);
        assert!(matches!(machine.interrupt(0), ExternalInterrupt::Exit(_, None)));
        assert!(local_apic::pending(machine.local(0)));
    }
}
