//! A vCPU's thread: loaded, put, asleep.

use super::super::Apicv;
use super::super::shared::Mode;
use super::super::testing::{HERE, bench, bench_of, bench_under};
use super::super::vm::VmConfig;
use super::*;
use crate::arch::PidControl;
use crate::processor::descriptor;

fn control(host: &super::super::testing::Bench, slot: usize) -> PidControl {
    descriptor::control(host.seen(slot).pid)
}

fn post(host: &super::super::testing::Bench, slot: usize, vector: u8) {
    descriptor::post_request(host.seen(slot).pid, vector);
    descriptor::update_control(host.seen(slot).pid, |control| control.with_outstanding(true));
}

#[test]
fn loaded_it_can_be_notified_here() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    host.seen(0).words.set_pcpu(7);
    descriptor::update_control(host.seen(0).pid, |control| control.with_suppress(true).with_destination(7));
    tasks[0].load(&mut host);
    let control = control(&host, 0);
    assert_eq!((control.suppress(), control.vector(), control.destination()), (false, 0xF2, HERE));
    assert_eq!(host.seen(0).words.pcpu(), HERE);
}

#[test]
fn put_to_sleep_it_is_listed_and_notified_by_another_vector() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    tasks[0].load(&mut host);
    tasks[0].vcpu.vp_mut().interrupt_flag = false;
    tasks[0].put(&mut host, Put::Blocking);
    assert_eq!((control(&host, 0).vector(), host.list.len()), (0xF2, 0), "a guest that takes no interrupts");
    tasks[0].vcpu.vp_mut().interrupt_flag = true;
    tasks[0].put(&mut host, Put::Blocking);
    assert_eq!((control(&host, 0).vector(), &host.list[..]), (0xF1, &[0][..]));
    assert_eq!((tasks[0].listed_on, host.sent.len()), (Some(HERE), 0));
    tasks[0].load(&mut host);
    assert_eq!((control(&host, 0).vector(), host.list.len(), tasks[0].listed_on), (0xF2, 0, None));
    post(&host, 0, 0x41);
    tasks[0].put(&mut host, Put::Blocking);
    assert_eq!(host.sent, [(HERE, 0xF1)], "posted before: nobody else will come");
}

#[test]
fn preempted_it_is_not_notified() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    tasks[0].load(&mut host);
    tasks[0].put(&mut host, Put::Preempted);
    assert!(control(&host, 0).suppress());
    assert_eq!(host.list, [0u32; 0]);
}

#[test]
fn a_vcpu_that_sleeps_has_looked_twice() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    let task = &mut tasks[0];
    task.vcpu.vp_mut().interrupt_flag = true;
    task.mp_state = MpState::Halted;
    assert!(task.begin_block(&mut host));
    assert!(task.check_block(&mut host));
    assert_eq!(host.seen(0).words.task(), TaskState::Interruptible);
    post(&host, 0, 0x41);
    assert!(!task.check_block(&mut host), "the second look finds it");
    assert_eq!(host.seen(0).words.task(), TaskState::Running);
    assert_eq!((task.pending_interrupt(&host), task.vcpu.vp().vmcs.rvi), (Some(0x41), 0x41));
    assert!(matches!(host.noted()[..], [Event::Harvested { slot: 0, .. }]));
    assert!(task.blocking);
    task.end_block(&mut host);
    assert_eq!((task.blocking, task.mp_state), (false, MpState::Runnable));
    task.mp_state = MpState::Halted;
    assert!(!task.begin_block(&mut host), "it has something to do");
    assert!(!task.blocking);
}

#[test]
fn the_end_of_a_block_is_not_a_reason_to_run() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    tasks[0].mp_state = MpState::Halted;
    tasks[0].end_block(&mut host);
    assert_eq!(tasks[0].mp_state, MpState::Halted);
}

#[test]
fn what_a_vcpu_waits_for() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    let task = &mut tasks[0];
    assert!(!task.has_events(&host));
    for (request, wakes, starts) in [
        (Requests::EVENT, true, false),
        (Requests::NMI, true, false),
        (Requests::INIT, true, false),
        (Requests::SIPI, true, true),
        (Requests::APICV_UPDATE, false, false),
    ] {
        host.seen(0).words.request(request);
        task.mp_state = MpState::Halted;
        assert_eq!(task.has_events(&host), wakes, "{request:?}");
        task.mp_state = MpState::InitReceived;
        assert_eq!(task.has_events(&host), starts, "{request:?}");
        let _ = host.seen(0).words.take_requests();
    }
    task.mp_state = MpState::Halted;
    task.nmis = 1;
    assert!(task.has_events(&host));
    task.nmis = 0;
    host.apic(task).set_bit(ApicRegister::IRR, 0x41);
    task.vcpu.vp_mut().interrupt_flag = false;
    assert!(!task.has_events(&host), "its guest takes none");
    task.vcpu.vp_mut().interrupt_flag = true;
    assert!(task.has_events(&host));
    for masked in [ApicRegister::ISR, ApicRegister::TPR] {
        host.apic(task).set(ApicRegister::TPR, if masked == ApicRegister::TPR { 0x4F } else { 0 });
        if masked == ApicRegister::ISR {
            host.apic(task).set_bit(ApicRegister::ISR, 0x40);
        }
        assert_eq!(task.pending_interrupt(&host), None);
        host.apic(task).clear_bit(ApicRegister::ISR, 0x40);
    }
    host.apic(task).set(ApicRegister::TPR, 0x3F);
    assert_eq!(task.pending_interrupt(&host), Some(0x41));
    let _ = host.noted();
}

/// What a policy asks of the vCPU that runs it, each true and false.
#[test]
fn conditions_ask_the_vcpu_and_its_vm() {
    type Arrange = fn(&mut super::super::testing::Bench, &mut Task, bool);
    let cases: [(&str, Arrange); 4] = [
        ("same_pcpu", |host, _, holds| host.seen(0).words.set_pcpu(if holds { HERE } else { 7 })),
        ("device_posting", |host, _, holds| host.device = holds),
        ("listed", |_, task, holds| task.listed_on = holds.then_some(HERE)),
        ("blocking", |_, task, holds| task.blocking = holds),
    ];
    for (term, arrange) in cases {
        let policy = format!("policy x\n  after_exit:\n    if {term}: set_sn\n    else: clear_sn\n");
        let (mut host, mut tasks) = bench_under(&policy, 1, ApicMode::X2Apic);
        for holds in [true, false] {
            arrange(&mut host, &mut tasks[0], holds);
            tasks[0].routine(&mut host, Routine::AfterExit);
            assert_eq!(control(&host, 0).suppress(), holds, "{term}");
        }
    }
}

#[test]
fn ipiv_asks_whether_the_vm_can_use_it() {
    let policy = "policy x\n  after_exit:\n    if ipiv: set_sn\n    else: clear_sn\n";
    for enable_ipiv in [true, false] {
        let apicv = Apicv { active: true, enable_ipiv };
        let config = VmConfig { apicv, ..VmConfig::new(1, ApicMode::X2Apic) };
        let (mut host, mut tasks) = bench_of(policy, &config);
        descriptor::update_control(host.seen(0).pid, |control| control.with_suppress(!enable_ipiv));
        tasks[0].routine(&mut host, Routine::AfterExit);
        assert_eq!(control(&host, 0).suppress(), enable_ipiv);
    }
}

#[test]
fn the_host_is_told_of_each_step() {
    let policy = "policy x\n  after_exit:\n    set_sn\n    clear_sn\n    fence\n";
    let (mut host, mut tasks) = bench_under(policy, 1, ApicMode::X2Apic);
    tasks[0].routine(&mut host, Routine::AfterExit);
    assert_eq!(host.steps, 3);
}

#[test]
fn polling_sees_what_was_posted() {
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    tasks[0].mp_state = MpState::Halted;
    assert!(!tasks[0].poll(&mut host));
    post(&host, 0, 0x41);
    assert!(tasks[0].poll(&mut host));
}

#[test]
fn a_policy_can_give_a_vcpu_up_and_cancel_its_sleep() {
    let policy = "policy x\n  before_entry: stop\n  pre_block: cancel_block\n";
    let (mut host, mut tasks) = bench_under(policy, 1, ApicMode::X2Apic);
    for (before, after) in [(MpState::Halted, MpState::Runnable), (MpState::InitReceived, MpState::InitReceived)] {
        tasks[0].mp_state = before;
        assert!(!tasks[0].begin_block(&mut host));
        assert_eq!(tasks[0].mp_state, after);
    }
    assert!(!tasks[0].stopped);
    tasks[0].routine(&mut host, Routine::BeforeEntry);
    assert!(tasks[0].stopped);
    tasks[0].routine(&mut host, Routine::AfterExit);
    assert!(tasks[0].stopped, "for good");
    let (mut host, mut tasks) = bench(1, ApicMode::X2Apic);
    tasks[0].mp_state = MpState::Halted;
    assert!(tasks[0].begin_block(&mut host));
    assert_eq!(tasks[0].mp_state, MpState::Halted);
}

#[test]
fn requests_kick_or_wake() {
    let (mut host, _) = bench(1, ApicMode::X2Apic);
    request(&mut host, 0, Requests::APICV_UPDATE);
    assert_eq!((host.sent.len(), host.woken.len()), (0, 0), "it looks when it runs");
    request(&mut host, 0, Requests::NMI);
    assert_eq!((host.sent.len(), &host.woken[..]), (0, &[0][..]));
    host.seen(0).words.set_mode(Mode::InGuest);
    request(&mut host, 0, Requests::APICV_UPDATE);
    assert_eq!((&host.sent[..], host.woken.len()), (&[(HERE, RESCHEDULE_VECTOR)][..], 1));
    request(&mut host, 9, Requests::NMI);
    assert_eq!(host.woken.len(), 1, "there is no such vCPU");
}

#[test]
fn software_posts_by_the_vcpu_itself_notify_nobody() {
    let (mut host, mut tasks) = bench(2, ApicMode::X2Apic);
    for slot in [0, 1] {
        host.seen(slot).words.set_mode(Mode::InGuest);
        software_post(&mut host, slot as u32, 0x41, Some(&mut tasks[0]));
    }
    assert_eq!(host.sent, [(HERE, 0xF2)], "for the other one alone");
    software_post(&mut host, 1, 0x42, None);
    assert_eq!(host.sent.len(), 1, "ON is set");
    let coalesced = |event: &Event| matches!(event, Event::Posted { coalesced: true, .. });
    assert!(!host.noted().iter().any(coalesced));
    software_post(&mut host, 1, 0x42, None);
    assert!(host.noted().iter().any(coalesced));
}
