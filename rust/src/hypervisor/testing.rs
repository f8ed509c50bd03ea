//! A machine for tests: one VM on one pCPU, and all that its host was asked to do.

use super::host::{Event, Host, Slot};
use super::policy::{Op, Policy};
use super::shared::Requests;
use super::task::Task;
use super::vm::{Vm, VmConfig};
use crate::arch::apic_register::SVR_ENABLED;
use crate::arch::{ApicMode, ApicRegister};
use crate::memory::PhysicalMemory;
use crate::processor::VirtualApic;
use std::cell::Cell;

type W = Cell<u64>;

/// The pCPU that the tests run on.
pub(super) const HERE: u32 = 3;

/// One pCPU's view of the machine, with what it was asked to do.
pub(super) struct Bench {
    memory: &'static PhysicalMemory<W>,
    vm: &'static Vm,
    policy: &'static Policy,
    slots: Vec<Slot<'static, W>>,
    pub(super) naive: bool,
    pub(super) device: bool,
    /// Physical interrupts, by pCPU and vector.
    pub(super) sent: Vec<(u32, u8)>,
    pub(super) woken: Vec<u32>,
    pub(super) list: Vec<u32>,
    walked: usize,
    pub(super) events: Vec<Event>,
    /// Steps of the policy that were taken.
    pub(super) steps: u32,
    /// What is asked of vCPU 0 while its PIR is taken.
    pub(super) late: Option<Requests>,
}

/// A VM of `vcpus` in `mode` under KVM's policy, each vCPU's local APIC enabled by software. Memory outlives the test.
pub(super) fn bench(vcpus: u32, mode: ApicMode) -> (Bench, Vec<Task>) {
    bench_under(include_str!("../../../python/ipivrs/policies/kvm.policy"), vcpus, mode)
}

/// The same under another policy.
pub(super) fn bench_under(policy: &str, vcpus: u32, mode: ApicMode) -> (Bench, Vec<Task>) {
    bench_of(policy, &VmConfig::new(vcpus, mode))
}

/// The same for any VM.
pub(super) fn bench_of(policy: &str, config: &VmConfig) -> (Bench, Vec<Task>) {
    let memory = Box::leak(Box::new(PhysicalMemory::new(config.memory_bytes())));
    let (vm, vcpus) = Vm::create(memory, config).unwrap();
    let vm: &'static Vm = Box::leak(Box::new(vm));
    let policy = Box::leak(Box::new(Policy::parse(policy).unwrap()));
    let mut slots = Vec::new();
    let mut tasks = Vec::new();
    for (number, vcpu) in (0..).zip(vcpus) {
        let vmcs = &vcpu.vp().vmcs;
        VirtualApic::new(memory.registers(vmcs.virtual_apic).unwrap()).set(ApicRegister::SVR, SVR_ENABLED);
        vcpu.publish_identity(memory, vm);
        let words = vm.vcpu_words(memory, number).unwrap();
        words.set_pcpu(HERE);
        slots.push(Slot { vm: 0, vcpu: number, pid: memory.descriptor(vmcs.descriptor).unwrap(), words });
        tasks.push(Task::new(number, 0, vcpu));
    }
    let bench = Bench {
        memory,
        vm,
        policy,
        slots,
        naive: false,
        device: false,
        sent: Vec::new(),
        woken: Vec::new(),
        list: Vec::new(),
        walked: 0,
        events: Vec::new(),
        steps: 0,
        late: None,
    };
    (bench, tasks)
}

impl Bench {
    /// A vCPU's virtual-APIC page.
    pub(super) fn apic(&self, task: &Task) -> VirtualApic<'static, W> {
        VirtualApic::new(self.memory.registers(task.vcpu.vp().vmcs.virtual_apic).unwrap())
    }

    /// A vCPU as others see it.
    pub(super) fn seen(&self, slot: usize) -> Slot<'static, W> {
        self.slots[slot]
    }

    /// What was noted since the last look.
    pub(super) fn noted(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

impl Host<'static> for Bench {
    type W = W;

    fn memory(&self) -> &'static PhysicalMemory<W> {
        self.memory
    }

    fn pcpu(&self) -> u32 {
        HERE
    }

    fn here(&self) -> u32 {
        HERE
    }

    fn policy(&self) -> &'static Policy {
        self.policy
    }

    fn vm(&self, vm: u32) -> Option<&'static Vm> {
        (vm == 0).then_some(self.vm)
    }

    fn device_posting(&self, _: u32) -> bool {
        self.device
    }

    fn naive_apic_ids(&self) -> bool {
        self.naive
    }

    fn slot(&self, slot: u32) -> Option<Slot<'static, W>> {
        self.slots.get(slot as usize).copied()
    }

    fn slots_of(&self, _: u32) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }

    fn send(&mut self, pcpu: u32, vector: u8) {
        self.sent.push((pcpu, vector));
    }

    fn list_add(&mut self, slot: u32) {
        self.list.push(slot);
    }

    fn list_del(&mut self, _: u32, slot: u32) {
        self.list.retain(|&listed| listed != slot);
    }

    fn next_listed(&mut self) -> Option<u32> {
        let next = self.list.get(self.walked).copied();
        self.walked = if next.is_some() { self.walked + 1 } else { 0 };
        next
    }

    fn wake(&mut self, slot: u32) {
        self.woken.push(slot);
    }

    fn note(&mut self, event: Event) {
        if let (Event::Harvested { .. }, Some(requests)) = (event, self.late.take()) {
            self.slots[0].words.request(requests);
        }
        self.events.push(event);
    }

    fn stepping(&mut self, _: &Op) {
        self.steps += 1;
    }
}
