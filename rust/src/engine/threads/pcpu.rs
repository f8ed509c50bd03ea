//! One pCPU: a thread that runs its vCPU, sends what the program says and takes what arrives.

use super::carry;
use super::pacing::Shared;
use crate::arch::ApicMode;
use crate::guest::{Send, end_of_interrupt};
use crate::hypervisor::{Vcpu, Vm};
use crate::processor::{Boundary, ExternalInterrupt, LocalApic, NonRoot, Notice, Outcome};
use crate::record::Ledger;
use std::sync::atomic::AtomicU64;

/// Looks before a thread goes to sleep; a notification takes less.
const SPINS: u32 = 200;

pub(super) struct Pcpu<'a, 'm> {
    shared: &'a Shared<'m>,
    number: u32,
    vm: &'a Vm,
    vcpu: &'a mut Vcpu,
    local: LocalApic<'m, AtomicU64>,
    program: std::slice::Iter<'a, Send>,
    ledger: Ledger,
}

impl<'a, 'm> Pcpu<'a, 'm> {
    pub(super) fn new(
        shared: &'a Shared<'m>,
        number: usize,
        vm: &'a Vm,
        vcpu: &'a mut Vcpu,
        program: &'a [Send],
    ) -> Option<Self> {
        Some(Self {
            shared,
            number: number as u32,
            vm,
            vcpu,
            local: LocalApic::new(shared.requests(number as u32)?),
            ledger: Ledger::with_capacity(program.len()),
            program: program.iter(),
        })
    }

    /// Runs to the end of the run.
    pub(super) fn run(mut self) -> Ledger {
        while !self.shared.begun() && !self.shared.stopped() {
            std::thread::park();
        }
        while !self.shared.stopped() {
            // Asked before the look at the local APIC: what is requested after the look was sent before the end.
            let over = self.shared.all_sent();
            let next = self.program.as_slice().first().copied();
            if let Some(send) = next
                && self.shared.turn(send.order)
            {
                self.program.next();
                self.send(&send);
                if self.program.len() == 0 {
                    self.shared.sender_done();
                }
            }
            let took = self.take_interrupts();
            if over && next.is_none() && !took {
                break;
            }
            if !self.has_work(over) {
                self.wait();
            }
        }
        self.ledger
    }

    /// Whether there is something to do at once.
    fn has_work(&self, was_over: bool) -> bool {
        let sends = self.program.as_slice().first().is_some_and(|send| self.shared.turn(send.order));
        sends || self.local.deliverable().is_some() || self.shared.all_sent() != was_over || was_over
    }

    fn wait(&self) {
        for _ in 0..SPINS {
            if self.shared.stopped() || self.has_work(false) {
                return;
            }
            std::hint::spin_loop();
        }
        std::thread::park();
    }

    /// Sends one interrupt, after switching the local APIC's mode where it must.
    fn send(&mut self, send: &Send) {
        let mode = send.via.mode();
        if self.vcpu.mode() != mode
            && let Err(failure) = self.vcpu.switch_to(self.shared.memory, self.vm, mode)
        {
            self.ledger.violation("vm-entry", self.number, failure.to_string());
        }
        let outcome = match NonRoot::resume(self.shared.memory, self.vcpu.vp_mut()) {
            Ok(mut guest) => send.execute(&mut guest),
            Err(violation) => Outcome::Violation(violation),
        };
        self.ledger.sent(send.order, &outcome);
        let under_way = match outcome {
            Outcome::Posted(posted) => {
                if let Notice::Due(due) = posted.notice
                    && !carry(self.shared, due.destination, due.vector)
                {
                    let message = format!("a notification went to pCPU {}, which does not exist", due.destination);
                    self.ledger.violation("notification-to-nobody", self.number, message);
                }
                !posted.coalesced
            }
            Outcome::SelfIpi { coalesced, .. } => !coalesced,
            Outcome::NotVirtualized(clause) => {
                self.ledger.violation(
                    "escape",
                    self.number,
                    format!("an interrupt command was not virtualized: {clause}"),
                );
                false
            }
            Outcome::Violation(violation) => {
                let message = violation.message(self.shared.memory);
                self.ledger.violation(violation.kind(), self.number, message);
                false
            }
            Outcome::Exit(_) | Outcome::Fault(_) | Outcome::Virtualized(_) => false,
        };
        if !under_way {
            self.shared.arrived();
        }
    }

    /// Takes what the local APIC has, delivers all that can be delivered, each with its EOI. Returns whether there was
    /// anything.
    fn take_interrupts(&mut self) -> bool {
        let mode = self.vcpu.mode();
        let mut guest = match NonRoot::resume(self.shared.memory, self.vcpu.vp_mut()) {
            Ok(guest) => guest,
            Err(violation) => {
                let message = violation.message(self.shared.memory);
                self.ledger.violation(violation.kind(), self.number, message);
                self.shared.stop();
                return false;
            }
        };
        let mut took = false;
        loop {
            match guest.external_interrupt(&mut self.local) {
                ExternalInterrupt::None => {}
                ExternalInterrupt::Processed(harvest) => {
                    took = true;
                    self.ledger.processed(harvest);
                }
                ExternalInterrupt::Exit(exit, _) => self.ledger.exit(exit),
                ExternalInterrupt::Guest(vector) => {
                    let message = format!("physical vector {vector:02X}H went to the guest");
                    self.ledger.violation("physical-interrupt-in-guest", self.number, message);
                }
                ExternalInterrupt::Violation(violation) => {
                    let message = violation.message(self.shared.memory);
                    self.ledger.violation(violation.kind(), self.number, message);
                    self.shared.arrived();
                }
            }
            match guest.boundary() {
                Boundary::Delivered(_) => {
                    took = true;
                    self.ledger.delivery.delivered += 1;
                    handle(&mut guest, mode, &mut self.ledger);
                    self.shared.arrived();
                }
                Boundary::Exit(exit) => self.ledger.exit(exit),
                Boundary::Nothing if self.local.deliverable().is_none() => return took,
                Boundary::Nothing => {}
            }
        }
    }
}

/// The guest's interrupt handler: an EOI and nothing else.
fn handle(guest: &mut NonRoot<'_, '_, AtomicU64>, mode: ApicMode, ledger: &mut Ledger) {
    if let Outcome::Exit(exit) = end_of_interrupt(guest, mode) {
        ledger.exit(exit);
    }
}
