//! Any sequence of what guests, devices and the host's hardware do, against what must hold after each act.
#![no_main]

use arbitrary::Arbitrary;
use ipivrs::arch::{AccessKind, ApicMode, ApicRegister, vector};
use ipivrs::engine::manual::Machine;
use ipivrs::hypervisor::VmConfig;
use ipivrs::processor::{Access, Outcome, Width};
use libfuzzer_sys::fuzz_target;

const VCPUS: usize = 3;

#[derive(Arbitrary, Debug)]
struct Input {
    xapic: bool,
    acts: Vec<(u8, Act)>,
}

#[derive(Arbitrary, Debug)]
enum Act {
    WriteMsr { msr: u8, value: u64 },
    Send { vector: u8, destination: u8 },
    ReadMsr { msr: u8 },
    Write { offset: u16, width: u8, value: u64 },
    Read { offset: u16, width: u8 },
    Eoi,
    Boundary,
    ExternalInterrupt,
    Device { vector: u8, urgent: bool },
    Enter,
    Hlt,
    ApicBase { mode: u8 },
    Entry { index: u8, bits: u64 },
    Flag { on: bool },
}

fuzz_target!(|input: Input| {
    let mode = if input.xapic { ApicMode::XApic } else { ApicMode::X2Apic };
    let mut machine = Machine::new(&VmConfig::new(VCPUS as u32, mode)).expect("three vCPUs");
    let entries: Vec<u64> = (0..VCPUS as u32).map(|id| machine.table_entry(id).expect("an entry")).collect();
    for (vcpu, act) in input.acts.iter().take(200) {
        let vcpu = usize::from(*vcpu) % VCPUS;
        let before = pending(&machine);
        let gain = act_on(&mut machine, vcpu, act, &entries);
        let after = pending(&machine);
        // What is neither posted nor delivered neither comes nor goes.
        if let Some(gain) = gain {
            assert_eq!(i64::from(after), i64::from(before) + gain, "{act:?} on vCPU {vcpu}");
        }
        check(&machine);
    }
});

/// Interrupts that are in PIR or VIRR of any vCPU, those in both counted once.
fn pending(machine: &Machine) -> u32 {
    (0..VCPUS)
        .map(|vcpu| {
            let pir = machine.descriptor(vcpu).expect("a descriptor").0;
            let irr = machine.virtual_apic(vcpu).expect("a page").bank(ApicRegister::IRR);
            pir.iter().zip(irr).map(|(pir, irr)| (pir | irr).count_ones()).sum::<u32>()
        })
        .sum()
}

/// What holds at any time in a machine that software has not touched.
fn check(machine: &Machine) {
    for vcpu in 0..VCPUS {
        let apic = machine.virtual_apic(vcpu).expect("a page");
        let vp = machine.vcpus()[vcpu].vp();
        assert_eq!(vp.vmcs.svi, apic.highest(ApicRegister::ISR).unwrap_or(0), "SVI of vCPU {vcpu}");
        assert_eq!(vp.vmcs.rvi, apic.highest(ApicRegister::IRR).unwrap_or(0), "RVI of vCPU {vcpu}");
        let vppr = apic.get(ApicRegister::PPR) as u8;
        assert!(vector::class(vppr) >= vector::class(vp.vmcs.svi), "VPPR of vCPU {vcpu}");
        assert!(!vp.recognized() || vector::class(vp.vmcs.rvi) > 0, "recognized on vCPU {vcpu}");
        let (pir, control) = machine.descriptor(vcpu).expect("a descriptor");
        // Nothing here clears ON but posted-interrupt processing, and it is on its way as long as ON is set.
        assert_eq!(control.outstanding(), machine.notification_pending(vcpu), "ON of vCPU {vcpu}");
        assert!(control.outstanding() || pir == [0; 4], "a post without its notification on vCPU {vcpu}");
    }
}

/// Does it; how many more interrupts are then pending, where that can be said.
fn act_on(machine: &mut Machine, vcpu: usize, act: &Act, entries: &[u64]) -> Option<i64> {
    let in_class = |value: u8, last: u8| Width::ALL[usize::from(value % (last + 1))];
    match *act {
        Act::WriteMsr { msr, value } => sent(machine.wrmsr(vcpu, 0x800 | u32::from(msr), value)),
        Act::Send { vector, destination } => {
            let destination = destination % (VCPUS as u8 + 1);
            sent(match machine.vcpus()[vcpu].mode() {
                ApicMode::X2Apic => machine.wrmsr(vcpu, 0x830, u64::from(destination) << 32 | u64::from(vector)),
                _ => {
                    let write = |offset| Access::dword(offset, AccessKind::Write);
                    let _ = machine.mmio_write(vcpu, write(0x310), u64::from(destination) << 24);
                    machine.mmio_write(vcpu, write(0x300), vector.into())
                }
            })
        }
        Act::ReadMsr { msr } => {
            let _ = machine.rdmsr(vcpu, 0x800 | u32::from(msr));
            Some(0)
        }
        Act::Write { offset, width, value } => {
            let access = access(offset, in_class(width, 3), AccessKind::Write);
            sent(machine.mmio_write(vcpu, access, value))
        }
        Act::Read { offset, width } => {
            let _ = machine.mmio_read(vcpu, access(offset, in_class(width, 3), AccessKind::Read));
            Some(0)
        }
        Act::Eoi => sent(machine.eoi(vcpu)),
        Act::Boundary => machine.boundary(vcpu).delivered.map_or(Some(0), |_| None),
        Act::ExternalInterrupt => {
            let _ = machine.external_interrupt(vcpu);
            Some(0)
        }
        Act::Device { vector, urgent } => machine.device_post(vcpu, vector, urgent).map_or(Some(0), |_| None),
        Act::Enter => {
            let _ = machine.enter(vcpu);
            Some(0)
        }
        Act::Hlt => {
            let _ = machine.hlt(vcpu);
            Some(0)
        }
        Act::ApicBase { mode } => {
            // Any mode but disabled: then the notification would exit, and moving PIR be the hypervisor's work.
            let mode = u64::from(mode % 3 + 1);
            let _ = machine.wrmsr(vcpu, 0x1B, 0xFEE0_0000 | mode << 10 | u64::from(vcpu == 0) << 8);
            None
        }
        Act::Entry { index, bits } => {
            // Any word that no table should have, and the right one again; a wild post is reported, not done.
            let index = usize::from(index) % VCPUS;
            let entry = if bits & 1 == 0 { entries[index] } else { bits };
            machine.set_table_entry(index as u32, entry);
            Some(0)
        }
        Act::Flag { on } => {
            machine.state_mut(vcpu).interrupt_flag = on;
            Some(0)
        }
    }
}

fn access(offset: u16, width: Width, kind: AccessKind) -> Access {
    Access { offset: offset & 0xFFF, width, kind, after_write: false }
}

/// A new interrupt is pending only where one was sent: a bit that was clear in PIR may be set in VIRR already.
fn sent(outcome: Outcome) -> Option<i64> {
    match outcome {
        Outcome::Posted(posted) if posted.coalesced => Some(0),
        Outcome::Posted(_) | Outcome::SelfIpi { coalesced: false, .. } => None,
        Outcome::Virtualized(_)
        | Outcome::SelfIpi { .. }
        | Outcome::Exit(_)
        | Outcome::Fault(_)
        | Outcome::NotVirtualized(_)
        | Outcome::Violation(_) => Some(0),
    }
}
