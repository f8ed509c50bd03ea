//! What a vCPU's next act may have to do with others.

use super::action::{Action, Moment};
use super::code::GuestCode;
use super::cursor::Cursor;
use super::program::Program;
use super::sends::Via;
use super::shared::GuestMemory;
use super::sight::View;
use super::statement::{Delivery, Statement, Target};
use super::testing::next;
use crate::arch::ApicMode;
use crate::arch::apic_base::ApicBase;
use crate::hypervisor::ApicIdentity;
use crate::memory::PhysicalMemory;
use std::cell::Cell;

/// For each act of a program: whether the cursor says before it that it keeps to itself, and the act.
fn acts(program: &[Statement], mode: ApicMode, count: usize) -> Vec<(bool, Action)> {
    let handler = Program::new(&[Statement::Eoi]).unwrap();
    let code = GuestCode::new(&[Program::new(program).unwrap(), handler], vec![0], &[1; 256], None);
    let mut cursor = Cursor::new(&code, 0, 1);
    (0..count).map(|_| (cursor.keeps_to_itself(&code, false), next(&mut cursor, &code, 0, mode))).collect()
}

fn private(program: &[Statement], mode: ApicMode, count: usize) -> Vec<bool> {
    acts(program, mode, count).into_iter().map(|(private, _)| private).collect()
}

#[test]
fn eoi_and_the_loops_own_steps_keep_to_themselves() {
    let body = vec![Statement::Eoi, Statement::Signal { signal: 0 }];
    let program = [Statement::Loop { times: Some(2), body }];
    // The loop begins; EOI; signal; the end of the body.
    assert_eq!(private(&program, ApicMode::X2Apic, 5), [true, true, false, true, true]);
}

#[test]
fn whether_an_endless_loop_ends_is_not_its_own_business() {
    let program = [Statement::Loop { times: None, body: vec![Statement::Eoi] }];
    assert_eq!(private(&program, ApicMode::X2Apic, 3), [true, true, false]);
}

/// ICR_HI is written, ICR_LO comes next, whatever stands behind it in the program.
#[test]
fn the_second_half_of_an_interrupt_command_does_not() {
    let send = Statement::Send { vector: 0x41, to: Target::Vcpu(1), mode: Delivery::Fixed, logical: false };
    let program = [send, Statement::Eoi];
    let acts = acts(&program, ApicMode::XApic, 3);
    assert!(matches!(acts[1].1, Action::Send { .. }), "{acts:?}");
    assert_eq!(acts.iter().map(|&(private, _)| private).collect::<Vec<_>>(), [false, false, true]);
}

/// Even before that of a handler whose interrupt KVM injects in between, and which sends too.
#[test]
fn the_second_half_of_an_interrupt_command_comes_next() {
    let send = |vector| Statement::Send { vector, to: Target::Vcpu(1), mode: Delivery::Fixed, logical: false };
    let programs = [[send(0x41), Statement::Eoi], [send(0x42), Statement::Eoi]];
    let code = GuestCode::new(&programs.map(|body| Program::new(&body).unwrap()), vec![0], &[1; 256], None);
    let mut cursor = Cursor::new(&code, 0, 1);
    let acts = |cursor: &mut Cursor, count| {
        let told = |_| match next(cursor, &code, 0, ApicMode::XApic) {
            Action::Send { icr, .. } => format!("low {:02X}", icr.low.vector()),
            Action::Write { offset, .. } => format!("{offset:X}"),
            Action::Return { .. } => "return".to_owned(),
            other => format!("{other:?}"),
        };
        (0..count).map(told).collect::<Vec<_>>()
    };
    assert_eq!(acts(&mut cursor, 1), ["310"]);
    assert!(!cursor.interruptible());
    cursor.inject(&code, 0x50, true, 0);
    assert_eq!(acts(&mut cursor, 6), ["low 41", "310", "low 42", "B0", "return", "B0"]);
    assert!(cursor.interruptible());
}

#[test]
fn the_end_of_a_handler_keeps_to_itself_and_that_of_the_program_does_not() {
    let handler = Program::new(&[Statement::Eoi]).unwrap();
    let code = GuestCode::new(&[Program::new(&[]).unwrap(), handler], vec![0], &[1; 256], None);
    let mut cursor = Cursor::new(&code, 0, 1);
    assert!(!cursor.keeps_to_itself(&code, true));
    cursor.interrupt(&code, 0x41, true, 0);
    assert!(cursor.keeps_to_itself(&code, false), "EOI");
}

#[test]
fn an_endless_loop_keeps_to_itself_while_the_run_lasts() {
    let program =
        Program::new(&[Statement::Loop { times: None, body: vec![Statement::Compute { cycles: 1 }] }]).unwrap();
    let code = GuestCode::new(&[program], vec![0], &[0; 256], None);
    let mut cursor = Cursor::new(&code, 0, 1);
    let mut acts = |lasts| -> Vec<_> {
        (0..6).map(|_| (cursor.keeps_to_itself(&code, lasts), next(&mut cursor, &code, 0, ApicMode::X2Apic))).collect()
    };
    let (lasts, ends) = (acts(true), acts(false));
    let own_steps = |acts: &[(bool, Action)]| acts.iter().filter(|(_, act)| *act == Action::Internal).count();
    assert!(own_steps(&lasts) >= 2 && own_steps(&ends) >= 2, "{lasts:?} {ends:?}");
    assert!(lasts.iter().all(|&(private, act)| private == (act == Action::Internal)), "{lasts:?}");
    assert!(ends.iter().all(|&(private, _)| !private), "{ends:?}");
}

#[test]
fn a_computation_is_known_before_it_begins() {
    let send = Statement::Send { vector: 0x41, to: Target::Vcpu(1), mode: Delivery::Fixed, logical: false };
    let computes = |program: &[Statement], count| {
        let code = GuestCode::new(&[Program::new(program).unwrap()], vec![0], &[], None);
        let mut cursor = Cursor::new(&code, 0, 1);
        let before = |_| (cursor.computes(&code), next(&mut cursor, &code, 0, ApicMode::XApic)).0;
        (0..count).map(before).collect::<Vec<_>>()
    };
    assert_eq!(computes(&[Statement::Compute { cycles: 5 }, Statement::Eoi], 2), [true, false]);
    // Between the two halves of an interrupt command.
    assert_eq!(computes(&[send, Statement::Compute { cycles: 5 }], 3), [false, false, true]);
}

/// Whom it names is who the next act sends to.
#[test]
fn the_target_is_known_before_it_is_sent_to() {
    let send = |to| Statement::Send { vector: 0x41, to, mode: Delivery::Fixed, logical: false };
    let body = vec![send(Target::Random), send(Target::Vcpu(1)), send(Target::Next)];
    let program = [Statement::Loop { times: Some(20), body }];
    let code = GuestCode::new(&[Program::new(&program).unwrap()], vec![0; 5], &[], None);
    let memory = PhysicalMemory::<Cell<u64>>::new(1 << 16);
    let shared = GuestMemory::new(&memory, 0, 5, 1, false).unwrap();
    let (mode, identity) = (ApicMode::X2Apic, |vcpu: u32| ApicIdentity::new().with_x2apic_id(vcpu));
    let base = ApicBase::in_mode(mode, true);
    let view = View { vcpu: 0, vcpus: 5, mode, base, memory: &shared, identity: &identity, stopping: false };
    let mut cursor = Cursor::new(&code, 0, 1);
    let mut targets = Vec::new();
    for _ in 0..=20 * 4 {
        let told = cursor.sends_to(&code, 0, 5);
        if let Action::Send { icr, .. } = cursor.next(&code, view, Moment { interrupts: true, now: 0 }) {
            assert_eq!(told, Some((icr.destination, 0x41)));
            targets.push(icr.destination);
        }
    }
    assert_eq!(targets.len(), 60);
    assert!((1..5).all(|target| targets.contains(&target)), "{targets:?}");
}

/// At the end of the body it is the one that the loop sends to when it goes on.
#[test]
fn the_target_of_the_next_round_is_known_at_the_end_of_one() {
    let send = Statement::Send { vector: 0x41, to: Target::Vcpu(3), mode: Delivery::Fixed, logical: false };
    let program = [Statement::Loop { times: Some(2), body: vec![send] }];
    let code = GuestCode::new(&[Program::new(&program).unwrap()], vec![0], &[], None);
    let mut cursor = Cursor::new(&code, 0, 1);
    let told: Vec<_> =
        (0..3).map(|_| (cursor.sends_to(&code, 0, 5), next(&mut cursor, &code, 0, ApicMode::X2Apic)).0).collect();
    assert_eq!(told, [None, Some((3, 0x41)), Some((3, 0x41))]);
}

/// Whatever register a program names: a write that may send an interrupt is told as one.
#[test]
fn registers_that_send_are_sends() {
    let action = |offset, value, mode| {
        let code =
            GuestCode::new(&[Program::new(&[Statement::Register { offset, value }]).unwrap()], vec![0], &[], None);
        next(&mut Cursor::new(&code, 0, 1), &code, 0, mode)
    };
    for (offset, value, mode, via) in [
        (0x300, 0xC_00FB, ApicMode::X2Apic, Via::X2ApicIcr),
        (0x300, 0x4_0041, ApicMode::XApic, Via::Mmio),
        (0x3F0, 0x10, ApicMode::X2Apic, Via::SelfIpiMsr),
    ] {
        let Action::Send { icr, via: by } = action(offset, value, mode) else { panic!("{offset:X}H") };
        assert_eq!((by, icr.low.vector()), (via, value as u8));
        assert!(via == Via::SelfIpiMsr || icr.low.into_bits() == value);
    }
    // 3F0H sends in x2APIC mode alone, and more than a vector faults.
    assert_eq!(action(0x3F0, 0x10, ApicMode::XApic), Action::Write { offset: 0x3F0, value: 0x10 });
    assert_eq!(action(0x3F0, 0x110, ApicMode::X2Apic), Action::Wrmsr { msr: 0x83F, value: 0x110 });
    assert_eq!(action(0x310, 7, ApicMode::XApic), Action::Write { offset: 0x310, value: 7 });
}
