//! What KVM does after each exit that completes a guest's write.

use super::super::host::Poster;
use super::super::shared::Mode;
use super::super::testing::{HERE, bench};
use super::*;
use crate::arch::IcrLow;
use crate::arch::apic_register::SVR_ENABLED;
use crate::processor::descriptor;

fn exit(reason: ExitReason, qualification: u64) -> Exit {
    Exit { reason, qualification, clause: Clause::WriteOtherOffset }
}

const RDMSR: Exit = Exit { reason: ExitReason::MsrRead, qualification: 0, clause: Clause::WriteOtherOffset };

/// WRMSR exits and is completed; gives what was noted.
fn wrmsr(host: &mut super::super::testing::Bench, task: &mut Task, msr: u32, value: u64) -> Vec<Event> {
    let handled = task.handle_exit(host, exit(ExitReason::MsrWrite, 0), None, Instruction::Wrmsr { msr, value });
    assert_eq!(handled, Handled::Continue);
    host.noted()
}

#[test]
fn host_vectors_have_their_handlers() {
    let (mut host, mut tasks) = bench(2, ApicMode::X2Apic);
    assert_eq!(host_interrupt(&mut host, 0xF2, Some(&mut tasks[0])), Handled::Continue);
    assert_eq!(host.noted(), [Event::SpuriousNotification]);
    assert_eq!(host_interrupt(&mut host, LOCAL_TIMER_VECTOR, None), Handled::Reschedule);
    assert_eq!(host_interrupt(&mut host, 0xFD, None), Handled::Continue);
    assert_eq!(host.noted(), []);
    host.list = vec![1];
    host_interrupt(&mut host, 0xF1, None);
    assert_eq!((host.noted(), host.woken.len()), (vec![Event::SpuriousWakeup], 0), "ON is 0");
    descriptor::update_control(host.seen(1).pid, |control| control.with_suppress(false).with_outstanding(true));
    host_interrupt(&mut host, 0xF1, None);
    assert_eq!((host.noted(), &host.woken[..]), (vec![], &[1][..]));
}

#[test]
fn hlt_and_external_interrupts() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    let task = &mut tasks[0];
    let interrupt = exit(ExitReason::ExternalInterrupt, 0);
    assert_eq!(task.handle_exit(&mut host, interrupt, None, Instruction::Other), Handled::Continue);
    let timer = task.handle_exit(&mut host, interrupt, Some(LOCAL_TIMER_VECTOR), Instruction::Other);
    assert_eq!((timer, task.mp_state), (Handled::Reschedule, MpState::Runnable));
    assert_eq!(task.handle_exit(&mut host, RDMSR, None, Instruction::Other), Handled::Continue);
    task.handle_exit(&mut host, exit(ExitReason::Hlt, 0), None, Instruction::Other);
    assert_eq!(task.mp_state, MpState::Halted);
}

/// The values that WRMSR refuses, and what each leaves alone.
#[test]
fn only_plain_interrupts_to_one_vcpu_have_a_fast_path() {
    let with = |low: IcrLow, destination| has_fast_path(Icr { low, destination }.to_x2apic());
    let plain = IcrLow::new().with_vector(0x41);
    assert!(with(plain, 3));
    assert!(!with(plain, u32::MAX), "broadcast");
    assert!(!with(plain.with_destination_mode(DestinationMode::Logical), 3));
    assert!(!with(plain.with_delivery_mode(DeliveryMode::Nmi), 3));
    for shorthand in [Shorthand::Self_, Shorthand::All, Shorthand::AllButSelf] {
        assert!(!with(plain.with_shorthand(shorthand), 3), "{shorthand:?}");
    }
}

#[test]
fn wrmsr_faults() {
    let (mut host, mut tasks) = bench(2, ApicMode::X2Apic);
    let task = &mut tasks[0];
    for (msr, value, clause) in [
        (X2APIC_ICR, 1 << 13 | 0x41, Some(Clause::X2ApicIcrReserved)),
        (X2APIC_EOI, 1, Some(Clause::EoiNotZero)),
        (X2APIC_EOI, 0, None),
        (X2APIC_TPR, 0x100, Some(Clause::TprReserved)),
        (X2APIC_TPR, 0xFF, None),
        (X2APIC_SELF_IPI, 0x141, Some(Clause::SelfIpiReserved)),
        (0x802, 0, Some(Clause::MsrNotVirtualized)),
        (0x80D, 0, Some(Clause::MsrNotVirtualized)),
        (0x820, 0, Some(Clause::MsrNotVirtualized)),
        (0x80F, u64::from(SVR_ENABLED), None),
        (0x82F, 0x1_0000, None),
        (0xC000_0080, 0, Some(Clause::MsrNotVirtualized)),
    ] {
        let faults: Vec<Event> = clause.map(Event::Fault).into_iter().collect();
        assert_eq!(wrmsr(&mut host, task, msr, value), faults, "{msr:X}H <- {value:X}H");
    }
    assert_eq!(host.apic(task).get(ApicRegister::TPR), 0xFF);
    assert_eq!(host.apic(task).get(ApicRegister::LVT_CMCI), 0x1_0000);
    let (mut host, mut tasks) = bench(1, ApicMode::XApic);
    let faults = wrmsr(&mut host, &mut tasks[0], X2APIC_TPR, 0);
    assert_eq!(faults, [Event::Fault(Clause::MsrNotVirtualized)], "not in xAPIC mode");
}

#[test]
fn ipis_in_software_reach_whom_they_mean() {
    let (mut host, mut tasks) = bench(3, ApicMode::X2Apic);
    let posted = |to, vector, coalesced| Event::Posted { by: Poster::Software, to, vector, coalesced };
    let task = &mut tasks[0];
    assert_eq!(wrmsr(&mut host, task, X2APIC_ICR, 2 << 32 | 0x41), [posted(2, 0x41, false)]);
    assert_eq!(wrmsr(&mut host, task, X2APIC_ICR, 2 << 32 | 0x41), [posted(2, 0x41, true)]);
    assert_eq!(host.woken, [2], "the first wakes, the second finds ON set");
    assert_eq!(host.apic(task).get_64(ApicRegister::ICR_LOW), 2 << 32 | 0x41);
    assert_eq!(wrmsr(&mut host, task, X2APIC_ICR, 9 << 32 | 0x41), [Event::Dropped], "nobody");
    assert_eq!(wrmsr(&mut host, task, X2APIC_ICR, 1 << 32 | 0x341), [Event::Dropped], "a reserved delivery mode");
    assert_eq!(wrmsr(&mut host, task, X2APIC_SELF_IPI, 0x51), [posted(0, 0x51, false)]);
    assert_eq!(wrmsr(&mut host, task, X2APIC_SELF_IPI, 0xFF), [posted(0, 0xFF, false)]);
    // IN_GUEST_MODE elsewhere: a notification. Here: none, entry looks at PIR.
    host.seen(1).words.set_mode(Mode::InGuest);
    assert_eq!(wrmsr(&mut host, task, X2APIC_ICR, 1 << 32 | 0x41), [posted(1, 0x41, false)]);
    assert_eq!(host.sent, [(HERE, 0xF2)]);
}

#[test]
fn messages_that_are_no_interrupts() {
    let (mut host, mut tasks) = bench(2, ApicMode::X2Apic);
    let task = &mut tasks[0];
    for (low, request) in
        [(0x400, Requests::NMI), (0x4500, Requests::INIT), (0x4608, Requests::SIPI), (0x00F, Requests::ILLEGAL_VECTOR)]
    {
        assert_eq!(wrmsr(&mut host, task, X2APIC_ICR, 1 << 32 | low), [Event::Signalled]);
        assert_eq!(host.seen(1).words.take_requests(), request, "{low:X}H");
        let error = ErrorStatus::from_bits(host.apic(task).get(ApicRegister::ESR));
        assert_eq!(error.send_illegal_vector(), request == Requests::ILLEGAL_VECTOR, "{low:X}H");
    }
    assert_eq!(host.seen(1).words.sipi_vector(), 8);
    assert_eq!(wrmsr(&mut host, task, X2APIC_ICR, 1 << 32 | 0x200), [Event::Signalled], "SMI");
    assert!(host.seen(1).words.requests().is_empty());
    assert_eq!(host.woken, [1, 1, 1], "NMI, INIT and SIPI wake; an error does not");
}

#[test]
fn an_apic_that_is_disabled_by_software_takes_no_interrupts() {
    let (mut host, mut tasks) = bench(2, ApicMode::X2Apic);
    assert_eq!(wrmsr(&mut host, &mut tasks[1], 0x80F, 0), []);
    assert_eq!(wrmsr(&mut host, &mut tasks[0], X2APIC_ICR, 1 << 32 | 0x41), [Event::Dropped]);
    assert_eq!(wrmsr(&mut host, &mut tasks[0], X2APIC_ICR, 1 << 32 | 0x400), [Event::Signalled], "but NMIs");
}

#[test]
fn an_eoi_in_software_ends_the_highest() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    let apic = host.apic(&tasks[0]);
    apic.set_bit(ApicRegister::ISR, 0x41);
    apic.set_bit(ApicRegister::ISR, 0x61);
    assert_eq!(wrmsr(&mut host, &mut tasks[0], X2APIC_EOI, 0), []);
    assert_eq!(apic.vectors(ApicRegister::ISR), [0x41]);
    let eoi = exit(ExitReason::ApicWrite, 0xB0);
    tasks[0].handle_exit(&mut host, eoi, None, Instruction::Other);
    assert_eq!(apic.vectors(ApicRegister::ISR), [0u8; 0]);
    assert_eq!(apic.get(ApicRegister::EOI), 0);
}

/// Exits 44 and 56 of xAPIC mode.
#[test]
fn page_writes() {
    let (mut host, mut tasks) = bench(2, ApicMode::XApic);
    let task = &mut tasks[0];
    let apic = host.apic(task);
    let mut write = |host: &mut _, offset, value| {
        let write = Instruction::Write { offset, value };
        task.handle_exit(host, exit(ExitReason::ApicAccess, u64::from(offset)), None, write);
    };
    write(&mut host, 0x310, 1 << 24);
    write(&mut host, 0x300, 0x1041);
    let posted = Event::Posted { by: Poster::Software, to: 1, vector: 0x41, coalesced: false };
    assert_eq!(host.noted(), [posted]);
    assert_eq!(apic.get(ApicRegister::ICR_LOW), 0x41, "nobody sees an IPI that is being sent");
    write(&mut host, 0x100, 0xFFFF_FFFF);
    assert_eq!(apic.vectors(ApicRegister::ISR), [0u8; 0], "ISR is read-only");
    apic.set(ApicRegister::ESR, 0x20);
    write(&mut host, 0x280, 1);
    assert_eq!(apic.get(ApicRegister::ESR), 0);
    write(&mut host, 0x0D0, 0x0200_0000);
    write(&mut host, 0x0F0, 0);
    let identity = host.seen(0).words.identity();
    assert_eq!((identity.logical_id(), identity.software_enabled()), (2, false));
    apic.set(ApicRegister::ICR_LOW, 0x4_0051);
    task.handle_exit(&mut host, exit(ExitReason::ApicWrite, 0x300), None, Instruction::Other);
    assert_eq!(host.noted(), [Event::Dropped], "to itself, whose APIC is disabled by software");
}

#[test]
fn a_new_xapic_id_inhibits_apicv() {
    for (naive, id, inhibited) in [(false, 5, true), (true, 5, false), (false, 0, false)] {
        let (mut host, mut tasks) = bench(2, ApicMode::XApic);
        host.naive = naive;
        let write = Instruction::Write { offset: 0x20, value: id << 24 | 0xFFFF };
        tasks[0].handle_exit(&mut host, exit(ExitReason::ApicAccess, 0x20), None, write);
        assert_eq!(host.apic(&tasks[0]).get(ApicRegister::ID), id << 24);
        assert_eq!(host.seen(0).words.identity().id(), id);
        let reasons = host.vm(0).unwrap().inhibits(host.memory()).unwrap().reasons();
        assert_eq!(reasons, if inhibited { vec![Inhibit::ApicIdModified] } else { vec![] });
        let told = [0, 1].map(|slot| host.seen(slot).words.requests().any_of(Requests::APICV_UPDATE));
        assert_eq!(told, [inhibited; 2]);
    }
}

#[test]
fn inhibits_tell_everybody_when_they_change_something() {
    let (mut host, _) = bench(2, ApicMode::X2Apic);
    let told =
        |host: &super::super::testing::Bench| [0, 1].map(|slot| !host.seen(slot).words.take_requests().is_empty());
    set_inhibit(&mut host, 0, Inhibit::HyperV);
    assert_eq!(told(&host), [true; 2]);
    set_inhibit(&mut host, 0, Inhibit::BlockIrq);
    assert_eq!(told(&host), [false; 2]);
    clear_inhibit(&mut host, 0, Inhibit::HyperV);
    assert_eq!(told(&host), [false; 2]);
    clear_inhibit(&mut host, 0, Inhibit::BlockIrq);
    assert_eq!(told(&host), [true; 2]);
    host.seen(1).words.set_mode(Mode::InGuest);
    set_inhibit(&mut host, 0, Inhibit::HyperV);
    assert_eq!(host.sent, [(HERE, 0xFD)], "whoever is in a guest is kicked");
}

#[test]
fn writes_of_ia32_apic_base() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    let task = &mut tasks[0];
    let base = task.vcpu.base().into_bits();
    let xapic = base & !(1 << 10);
    assert_eq!(wrmsr(&mut host, task, IA32_APIC_BASE, xapic), [Event::Fault(Clause::ApicBaseTransition)]);
    assert_eq!(wrmsr(&mut host, task, IA32_APIC_BASE, base | 1), [Event::Fault(Clause::ApicBaseInvalid)]);
    host.apic(task).set_bit(ApicRegister::IRR, 0x41);
    let off = base & !(3 << 10);
    let mut vectors = [0; 4];
    vectors[1] = 1 << 1;
    let discarded = Event::Discarded { slot: 0, vectors };
    let changed = |active| Event::ApicvChanged { active };
    assert_eq!(wrmsr(&mut host, task, IA32_APIC_BASE, base), []);
    assert_eq!(wrmsr(&mut host, task, IA32_APIC_BASE, off), [discarded, changed(false)]);
    assert_eq!(task.vcpu.mode(), ApicMode::Disabled);
    let reasons = |host: &super::super::testing::Bench| host.vm(0).unwrap().inhibits(host.memory()).unwrap().reasons();
    assert_eq!(wrmsr(&mut host, task, IA32_APIC_BASE, off | 1 << 11), [changed(true)]);
    assert_eq!(reasons(&host), []);
    wrmsr(&mut host, task, IA32_APIC_BASE, off);
    let moved = off & 0xFFF | 1 << 11 | 0x1234_5000;
    wrmsr(&mut host, task, IA32_APIC_BASE, moved);
    assert_eq!(task.vcpu.mode(), ApicMode::XApic);
    assert_eq!(reasons(&host), [Inhibit::ApicBaseModified]);
}
