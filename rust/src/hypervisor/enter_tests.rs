//! The way into the guest, request by request.

use super::super::shared::Mode;
use super::super::testing::bench;
use super::super::{Inhibit, set_inhibit};
use super::*;
use crate::arch::ApicMode;
use crate::processor::descriptor;

const PLAIN: Entry = Entry::Enter { inject: None, nmi: false };

#[test]
fn without_requests_it_just_enters() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    assert_eq!(tasks[0].prepare_entry(&mut host), PLAIN);
    assert_eq!(host.seen(0).words.mode(), Mode::InGuest);
    tasks[0].after_exit(&mut host);
    assert_eq!(host.seen(0).words.mode(), Mode::Outside);
}

#[test]
fn who_cannot_run_does_not_enter() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    tasks[0].mp_state = MpState::Halted;
    assert_eq!(tasks[0].prepare_entry(&mut host), Entry::Block);
    tasks[0].stopped = true;
    assert_eq!(tasks[0].prepare_entry(&mut host), Entry::Stopped);
    tasks[0].slot = 9;
    assert_eq!(tasks[0].prepare_entry(&mut host), Entry::Gone);
}

#[test]
fn an_nmi_is_injected_once() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    host.seen(0).words.request(Requests::NMI);
    assert_eq!(tasks[0].prepare_entry(&mut host), Entry::Enter { inject: None, nmi: true });
    assert_eq!(tasks[0].prepare_entry(&mut host), PLAIN);
}

/// A request that comes after requests were taken and before the guest is entered.
#[test]
fn a_late_request_begins_the_entry_again() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    descriptor::post_request(host.seen(0).pid, 0x41);
    descriptor::update_control(host.seen(0).pid, |control| control.with_outstanding(true));
    host.late = Some(Requests::APICV_UPDATE);
    host.seen(0).words.request(Requests::NMI);
    assert_eq!(tasks[0].prepare_entry(&mut host), Entry::Again);
    assert_eq!((tasks[0].nmis, host.seen(0).words.mode()), (1, Mode::Outside));
    assert_eq!(tasks[0].prepare_entry(&mut host), Entry::Enter { inject: None, nmi: true });
}

#[test]
fn apicv_is_refreshed_on_the_way() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    set_inhibit(&mut host, 0, Inhibit::HyperV);
    assert_eq!(tasks[0].prepare_entry(&mut host), PLAIN);
    assert_eq!(host.noted(), [Event::ApicvChanged { active: false }]);
    assert!(!tasks[0].vcpu.apicv().active);
    host.seen(0).words.request(Requests::APICV_UPDATE);
    assert_eq!(tasks[0].prepare_entry(&mut host), PLAIN);
    assert_eq!(host.noted(), [], "nothing has changed");
}

#[test]
fn an_illegal_vector_shows_in_the_esr() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    host.seen(0).words.request(Requests::ILLEGAL_VECTOR);
    assert_eq!(tasks[0].prepare_entry(&mut host), PLAIN);
    assert!(ErrorStatus::from_bits(host.apic(&tasks[0]).get(ApicRegister::ESR)).receive_illegal_vector());
}

/// The boot processor starts over; another waits for a start-up IPI.
#[test]
fn init_and_start_up() {
    let (mut host, mut tasks) = bench(2, ApicMode::X2Apic);
    host.apic(&tasks[0]).set_bit(ApicRegister::IRR, 0x41);
    for slot in [0, 1] {
        host.seen(slot).words.request(Requests::INIT);
        tasks[slot].nmis = 1;
        tasks[slot].vcpu.vp_mut().interrupt_flag = true;
        tasks[slot].vcpu.vp_mut().activity = Activity::Hlt;
    }
    assert_eq!(tasks[0].prepare_entry(&mut host), Entry::Restart);
    let mut vectors = [0; 4];
    vectors[1] = 1 << 1;
    assert_eq!(host.noted(), [Event::Discarded { slot: 0, vectors }]);
    assert_eq!((tasks[0].mp_state, tasks[0].nmis), (MpState::Runnable, 0));
    assert_eq!((tasks[0].vcpu.vp().interrupt_flag, tasks[0].vcpu.vp().activity), (false, Activity::Active));
    assert_eq!(tasks[1].prepare_entry(&mut host), Entry::Block);
    assert_eq!(tasks[1].mp_state, MpState::InitReceived);
    host.seen(1).words.request(Requests::SIPI);
    assert_eq!(tasks[1].prepare_entry(&mut host), Entry::Restart);
    assert_eq!(tasks[1].mp_state, MpState::Runnable);
    host.seen(1).words.request(Requests::SIPI);
    assert_eq!(tasks[1].prepare_entry(&mut host), PLAIN, "a start-up IPI to one that runs is ignored");
}

/// What software injects where APICv is inhibited.
#[test]
fn injection_without_apicv() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    set_inhibit(&mut host, 0, Inhibit::HyperV);
    let apic = host.apic(&tasks[0]);
    let task = &mut tasks[0];
    task.vcpu.vp_mut().interrupt_flag = true;
    apic.set_bit(ApicRegister::IRR, 0x41);
    apic.set_bit(ApicRegister::IRR, 0x61);
    assert_eq!(task.prepare_entry(&mut host), Entry::Enter { inject: Some(0x61), nmi: false });
    assert_eq!((apic.vectors(ApicRegister::IRR), apic.vectors(ApicRegister::ISR)), (vec![0x41], vec![0x61]));
    assert!(!task.vcpu.vp().vmcs.primary.interrupt_window_exiting(), "41H is masked by what is in service");
    assert_eq!(task.vcpu.vp().vmcs.tpr_threshold, 0);
    apic.clear_bit(ApicRegister::ISR, 0x61);
    // The guest cannot take it: a window is asked for.
    for (flag, shadow) in [(false, false), (true, true)] {
        task.vcpu.vp_mut().interrupt_flag = flag;
        task.vcpu.vp_mut().interrupt_shadow = shadow;
        assert_eq!(task.prepare_entry(&mut host), PLAIN);
        assert!(task.vcpu.vp().vmcs.primary.interrupt_window_exiting());
    }
    task.vcpu.vp_mut().interrupt_shadow = false;
    // Its TPR masks it: it must exit when it lowers the TPR below 4.
    apic.set(ApicRegister::TPR, 0x70);
    assert_eq!(task.prepare_entry(&mut host), PLAIN);
    assert_eq!(task.vcpu.vp().vmcs.tpr_threshold, 4);
    assert!(!task.vcpu.vp().vmcs.primary.interrupt_window_exiting());
    apic.set(ApicRegister::TPR, 0);
    task.vcpu.vp_mut().activity = Activity::Hlt;
    assert_eq!(task.prepare_entry(&mut host), Entry::Enter { inject: Some(0x41), nmi: false });
    assert_eq!((task.vcpu.vp().activity, task.vcpu.vp().vmcs.tpr_threshold), (Activity::Active, 0));
}

#[test]
fn with_apicv_software_injects_nothing() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    host.apic(&tasks[0]).set_bit(ApicRegister::IRR, 0x41);
    tasks[0].vcpu.vp_mut().interrupt_flag = true;
    assert_eq!(tasks[0].prepare_entry(&mut host), PLAIN);
    assert_eq!(host.apic(&tasks[0]).vectors(ApicRegister::IRR), [0x41]);
}
