//! The thread of a vCPU: scheduled in, scheduled out, asleep.
//!
//! KVM: `kvm_arch_vcpu_load`, `kvm_arch_vcpu_put`, `kvm_vcpu_block`, `kvm_vcpu_check_block`, `kvm_vcpu_kick`.

use super::host::{Event, Host, Poster, Slot};
use super::policy::{HostVector, Op, Platform, Routine};
use super::setup::RESCHEDULE_VECTOR;
use super::shared::{Mode, Requests, TaskState, VcpuWords};
use super::vcpu::Vcpu;
use crate::arch::{ApicMode, ApicRegister, vector};
use crate::memory::Line;
use crate::processor::{Harvest, VirtualApic, harvest};

/// `vcpu->arch.mp_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MpState {
    /// `KVM_MP_STATE_RUNNABLE`.
    Runnable,
    /// `KVM_MP_STATE_HALTED`.
    Halted,
    /// `KVM_MP_STATE_INIT_RECEIVED`: it waits for a start-up IPI.
    InitReceived,
}

/// A vCPU with its thread's state. It belongs to the pCPU that runs it and moves with it.
///
/// Its fields stand in this order, as those of the vCPU do.
#[derive(Debug)]
#[repr(C)]
pub struct Task {
    /// The pCPU on whose wakeup list it is.
    pub listed_on: Option<u32>,
    /// NMIs that wait to be delivered.
    pub nmis: u32,
    /// Whether it can run.
    pub mp_state: MpState,
    /// It is inside `kvm_vcpu_block`.
    pub blocking: bool,
    /// The policy has given it up: it never goes on. (`stop`)
    pub stopped: bool,
    /// The vCPU.
    pub vcpu: Vcpu,
    /// Its slot.
    pub slot: u32,
    /// Its VM.
    pub vm: u32,
}

/// Why a task leaves its pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It sleeps.
    Blocking,
    /// Its time is over, or something more urgent came.
    Preempted,
}

/// The platform of a policy's routine: this pCPU, and the vCPU that the routine is about.
struct Routines<'a, 'm, H: Host<'m>> {
    host: &'a mut H,
    slot: Slot<'m, H::W>,
    number: u32,
    /// The task, where the routine is about the one that this pCPU runs.
    task: Option<&'a mut Task>,
    vector: u8,
    woken: bool,
}

impl<'m, H: Host<'m>> Platform for Routines<'_, 'm, H> {
    type W = H::W;

    fn descriptor(&self) -> &Line<Self::W> {
        self.slot.pid
    }

    fn words(&self) -> VcpuWords<'_, Self::W> {
        self.slot.words
    }

    fn here(&self) -> u32 {
        self.host.here()
    }

    fn same_pcpu(&self) -> bool {
        self.slot.words.pcpu() == self.host.pcpu()
    }

    fn ipiv(&self) -> bool {
        self.host.vm(self.slot.vm).is_some_and(|vm| vm.apicv.ipiv_usable())
    }

    fn device_posting(&self) -> bool {
        self.host.device_posting(self.slot.vm)
    }

    fn myself(&self) -> bool {
        self.task.is_some()
    }

    fn listed(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.listed_on.is_some())
    }

    fn vector(&self) -> u8 {
        self.vector
    }

    fn harvest(&mut self) {
        if let Some(task) = &mut self.task {
            sync_pir_to_irr(self.host, task, self.slot.pid);
        }
    }

    fn list_add(&mut self) {
        if let Some(task) = &mut self.task {
            task.listed_on = Some(self.host.pcpu());
            self.host.list_add(self.number);
        }
    }

    fn list_del(&mut self) {
        if let Some(pcpu) = self.task.as_mut().and_then(|task| task.listed_on.take()) {
            self.host.list_del(pcpu, self.number);
        }
    }

    fn next_listed(&mut self) -> bool {
        match self.host.next_listed().and_then(|number| Some((number, self.host.slot(number)?))) {
            Some((number, slot)) => {
                (self.number, self.slot) = (number, slot);
                true
            }
            None => false,
        }
    }

    fn self_ipi(&mut self, vector: HostVector) {
        self.host.send(self.host.pcpu(), vector.vector());
    }

    fn ipi(&mut self, vector: HostVector) {
        self.host.send(self.slot.words.pcpu(), vector.vector());
    }

    fn blocking(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.blocking)
    }

    fn wake(&mut self) {
        self.woken = true;
        self.host.wake(self.number);
    }

    #[inline]
    fn stepping(&mut self, op: &Op) {
        self.host.stepping(op);
    }
}

/// VIRR |= PIR, PIR := 0; then RVI, where the processor delivers. (`vmx_sync_pir_to_irr`)
fn sync_pir_to_irr<'m, H: Host<'m>>(host: &mut H, task: &mut Task, pid: &Line<H::W>) {
    let Some(page) = host.memory().registers(task.vcpu.vp().vmcs.virtual_apic) else { return };
    let apic = VirtualApic::new(page);
    let mut merged = [0; 4];
    let moved = harvest(pid, apic, &mut merged);
    if task.vcpu.apicv().active {
        task.vcpu.vp_mut().vmcs.rvi = apic.highest(ApicRegister::IRR).unwrap_or(0);
    }
    if moved != Harvest::default() {
        host.note(Event::Harvested { slot: task.slot, harvest: moved, merged });
    }
}

impl Task {
    /// A vCPU that can run.
    #[must_use]
    pub const fn new(slot: u32, vm: u32, vcpu: Vcpu) -> Self {
        Self { slot, vm, vcpu, mp_state: MpState::Runnable, blocking: false, listed_on: None, nmis: 0, stopped: false }
    }

    /// Runs a routine of the policy about this vCPU. Returns whether it cancelled the block.
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn routine<'m, H: Host<'m>>(&mut self, host: &mut H, routine: Routine) -> bool {
        let Some(slot) = host.slot(self.slot) else { return false };
        let policy = host.policy();
        let number = self.slot;
        let mut platform = Routines { host, slot, number, task: Some(self), vector: 0, woken: false };
        let finished = policy.run(routine, &mut platform);
        self.stopped |= finished.stopped;
        finished.cancelled
    }

    /// The vCPU is scheduled in on this pCPU.
    pub fn load<'m, H: Host<'m>>(&mut self, host: &mut H) {
        self.routine(host, Routine::Load);
        if let Some(slot) = host.slot(self.slot) {
            slot.words.set_pcpu(host.pcpu());
        }
    }

    /// The vCPU is scheduled out.
    pub fn put<'m, H: Host<'m>>(&mut self, host: &mut H, why: Put) {
        match why {
            Put::Preempted => {
                self.routine(host, Routine::PutPreempted);
            }
            // A guest that takes no interrupts is not woken by one.
            Put::Blocking if self.vcpu.vp().interrupt_flag => {
                self.routine(host, Routine::PutBlocking);
            }
            Put::Blocking => {}
        }
    }

    /// Whether the vCPU has something to do. (`kvm_vcpu_has_events`)
    #[must_use]
    pub fn has_events<'m, H: Host<'m>>(&self, host: &H) -> bool {
        let Some(slot) = host.slot(self.slot) else { return false };
        let requests = slot.words.requests();
        if self.mp_state == MpState::InitReceived {
            return requests.any_of(Requests::SIPI);
        }
        requests.any_of(Requests::WAKING)
            || self.nmis > 0
            || self.vcpu.vp().interrupt_flag && self.pending_interrupt(host).is_some()
    }

    /// The highest interrupt in VIRR, if its class is above that of what is in service and of the TPR.
    #[must_use]
    pub fn pending_interrupt<'m, H: Host<'m>>(&self, host: &H) -> Option<u8> {
        if self.vcpu.mode() == ApicMode::Disabled {
            return None;
        }
        let apic = VirtualApic::new(host.memory().registers(self.vcpu.vp().vmcs.virtual_apic)?);
        let requested = apic.highest(ApicRegister::IRR)?;
        let served = apic.highest(ApicRegister::ISR).unwrap_or(0);
        let task = apic.get(ApicRegister::TPR) as u8;
        (vector::class(requested) > vector::class(served).max(vector::class(task))).then_some(requested)
    }

    /// Before the vCPU may sleep: a look whether it can go on, then the policy's routine, which may say that it must not.
    /// (`vcpu_block`)
    #[must_use]
    pub fn begin_block<'m, H: Host<'m>>(&mut self, host: &mut H) -> bool {
        self.routine(host, Routine::BlockCheck);
        if self.has_events(host) {
            return false;
        }
        self.blocking = !self.routine(host, Routine::PreBlock);
        if !self.blocking && self.mp_state == MpState::Halted {
            // The guest goes on; what the policy has seen pending is delivered on its way in. (`vcpu_block`)
            self.mp_state = MpState::Runnable;
        }
        self.blocking
    }

    /// A look of KVM's halt polling: whether the vCPU can go on without having slept. (`kvm_vcpu_halt`)
    #[must_use]
    pub fn poll<'m, H: Host<'m>>(&mut self, host: &mut H) -> bool {
        self.routine(host, Routine::BlockCheck);
        self.has_events(host)
    }

    /// Says that the thread may sleep, then looks once more. Returns whether it goes to sleep.
    #[must_use]
    pub fn check_block<'m, H: Host<'m>>(&mut self, host: &mut H) -> bool {
        let Some(slot) = host.slot(self.slot) else { return false };
        slot.words.set_task(TaskState::Interruptible);
        self.routine(host, Routine::BlockCheck);
        if self.has_events(host) {
            slot.words.set_task(TaskState::Running);
            return false;
        }
        true
    }

    /// The vCPU does not sleep any longer.
    pub fn end_block<'m, H: Host<'m>>(&mut self, host: &mut H) {
        self.blocking = false;
        self.routine(host, Routine::PostBlock);
        if self.mp_state == MpState::Halted && self.has_events(host) {
            self.mp_state = MpState::Runnable;
        }
    }
}

/// The host's handler of the notification vector.
pub(super) fn on_notify<'m, H: Host<'m>>(host: &mut H, task: Option<&mut Task>) {
    if let Some(task) = task {
        task.routine(host, Routine::OnNotify);
    }
    host.note(Event::SpuriousNotification);
}

/// The host's handler of the wakeup vector.
pub(super) fn on_wakeup<'m, H: Host<'m>>(host: &mut H) {
    // The routine's subject is each listed vCPU in turn; before the first there is none, and its place is taken by
    // whichever is first.
    let policy = host.policy();
    let Some(slot) = host.slot(0) else { return };
    let mut platform = Routines { host, slot, number: 0, task: None, vector: 0, woken: false };
    policy.run(Routine::OnWakeup, &mut platform);
    if !platform.woken {
        platform.host.note(Event::SpuriousWakeup);
    }
}

/// The hypervisor posts an interrupt. `me` is the vCPU that this pCPU runs. (`vmx_deliver_posted_interrupt`)
///
/// It goes through PIR also where APICv is not active: the virtual-APIC page belongs to the pCPU that runs the vCPU.
pub fn software_post<'m, H: Host<'m>>(host: &mut H, target: u32, vector: u8, me: Option<&mut Task>) {
    let Some(slot) = host.slot(target) else { return };
    let policy = host.policy();
    let mut platform =
        Routines { host, slot, number: target, task: me.filter(|me| me.slot == target), vector, woken: false };
    let coalesced = policy.run(Routine::SoftwarePost, &mut platform).coalesced;
    platform.host.note(Event::Posted { by: Poster::Software, to: target, vector, coalesced });
}

/// Asks something of a vCPU and makes it look; one that sleeps is woken where that is what it waits for.
/// (`kvm_make_request`, `kvm_vcpu_kick`, `KVM_REQUEST_NO_WAKEUP`)
pub fn request<'m, H: Host<'m>>(host: &mut H, target: u32, what: Requests) {
    let Some(slot) = host.slot(target) else { return };
    // A locked operation: it is seen before the mode is looked at. Pairs with the fence after the mode is set.
    slot.words.request(what);
    if slot.words.mode() == Mode::InGuest {
        host.send(slot.words.pcpu(), RESCHEDULE_VECTOR);
    } else if what.any_of(Requests::WAKING) {
        host.wake(target);
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
