//! What the threads of a machine share.
//!
//! Going to sleep and being woken, of a vCPU: who sleeps says so first (TASK_INTERRUPTIBLE), looks once more, and lies
//! down under its bed's lock only if nobody has said TASK_RUNNING since; who wakes says TASK_RUNNING first, and takes it
//! out of bed under the same lock. Of a thread: who has work for a pCPU leaves it first (a request bit, an entry of its
//! queue, both locked operations) and then looks whether the thread is idle; the thread says that it is idle (a locked
//! operation), looks at both once more, and parks. An unpark that comes early leaves a token.

use crate::arch::NotificationDestination;
use crate::engine::machine::verdict::Directory;
use crate::engine::machine::{Chaos, Guest, MachineConfig, Runner};
use crate::guest::GuestMemory;
use crate::hypervisor::policy::Policy;
use crate::hypervisor::{Slot, TaskState, Vm};
use crate::memory::{Line, PhysicalMemory};
use crate::processor::local_apic;
use crossbeam_utils::CachePadded;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

pub(super) type Memory = PhysicalMemory<AtomicU64>;

/// A pCPU as others see it.
pub(super) struct PcpuShared<'m> {
    pub(super) requests: &'m Line<AtomicU64>,
    pub(super) wakeup_list: Mutex<Vec<u32>>,
    queue: Mutex<VecDeque<Box<Runner>>>,
    /// Length of the queue.
    queued: AtomicUsize,
    idle: AtomicBool,
    thread: OnceLock<Thread>,
    /// Changes whenever the pCPU does something; the pCPU alone writes it.
    pub(super) acts: AtomicU64,
    /// Changes when a guest on it does something but spin.
    pub(super) advances: AtomicU64,
}

/// A VM and what its pCPUs need of it.
pub(super) struct VmShared<'m> {
    pub(super) vm: &'m Vm,
    pub(super) guest: &'m Guest,
    pub(super) memory: GuestMemory<'m, AtomicU64>,
    pub(super) first_slot: u32,
    /// vCPUs that it has now.
    pub(super) vcpus: AtomicUsize,
}

pub(super) struct Shared<'m> {
    pub(super) memory: &'m Memory,
    pub(super) policy: &'m Policy,
    pub(super) config: &'m MachineConfig,
    pub(super) vms: Vec<VmShared<'m>>,
    pub(super) slots: Vec<OnceLock<Slot<'m, AtomicU64>>>,
    pub(super) pcpus: Vec<CachePadded<PcpuShared<'m>>>,
    /// Where vCPUs sleep.
    beds: Vec<Mutex<Option<Box<Runner>>>>,
    /// Programs and devices that are still to end by themselves.
    pub(super) unfinished: CachePadded<AtomicUsize>,
    /// Devices whose threads have not ended.
    pub(super) devices: CachePadded<AtomicUsize>,
    /// Endless loops end.
    stopping: CachePadded<AtomicBool>,
    /// Everything ends at once.
    stopped: CachePadded<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole between any two of its changes, so a poisoned lock is as good.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'m> PcpuShared<'m> {
    pub(super) fn new(requests: &'m Line<AtomicU64>) -> Self {
        Self {
            requests,
            wakeup_list: Mutex::default(),
            queue: Mutex::default(),
            queued: AtomicUsize::new(0),
            idle: AtomicBool::new(false),
            thread: OnceLock::new(),
            acts: AtomicU64::new(0),
            advances: AtomicU64::new(0),
        }
    }

    pub(super) fn list(&self) -> MutexGuard<'_, Vec<u32>> {
        lock(&self.wakeup_list)
    }

    /// The calling thread is the pCPU's. It says so itself, before it first parks: a parent that did it might be too late.
    pub(super) fn register(&self) {
        // Once: each pCPU has one thread.
        let _ = self.thread.set(std::thread::current());
    }

    /// Unparks the thread if it says that it is idle.
    #[inline]
    fn rouse(&self) {
        if self.idle.load(Ordering::SeqCst) {
            self.unpark();
        }
    }

    pub(super) fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    /// Says whether the thread is idle: a locked operation. What it looks at afterwards was left before, or whoever left
    /// it sees that it is idle.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.swap(idle, Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::SeqCst)
    }

    fn push(&self, runner: Box<Runner>) {
        let mut queue = lock(&self.queue);
        queue.push_back(runner);
        self.queued.store(queue.len(), Ordering::SeqCst);
    }

    pub(super) fn pop(&self) -> Option<Box<Runner>> {
        if self.queued() == 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        let runner = queue.pop_front();
        self.queued.store(queue.len(), Ordering::SeqCst);
        runner
    }

    /// Takes all that is left.
    pub(super) fn drain(&self) -> Vec<Runner> {
        lock(&self.queue).drain(..).map(|runner| *runner).collect()
    }
}

impl<'m> Directory<'m> for Shared<'m> {
    type W = AtomicU64;

    fn memory(&self) -> &'m Memory {
        self.memory
    }

    fn slot(&self, slot: u32) -> Option<Slot<'m, AtomicU64>> {
        Shared::slot(self, slot)
    }

    fn vms(&self) -> usize {
        self.vms.len()
    }
}

impl<'m> Shared<'m> {
    pub(super) fn new(
        memory: &'m Memory,
        config: &'m MachineConfig,
        vms: Vec<VmShared<'m>>,
        pcpus: Vec<PcpuShared<'m>>,
    ) -> Self {
        let slots = config.slots() as usize;
        Self {
            memory,
            policy: &config.policy,
            config,
            vms,
            slots: (0..slots).map(|_| OnceLock::new()).collect(),
            pcpus: pcpus.into_iter().map(CachePadded::new).collect(),
            beds: (0..slots).map(|_| Mutex::default()).collect(),
            unfinished: CachePadded::default(),
            devices: CachePadded::default(),
            stopping: CachePadded::default(),
            stopped: CachePadded::default(),
        }
    }

    pub(super) fn chaos(&self) -> Chaos {
        self.config.chaos
    }

    #[inline]
    pub(super) fn slot(&self, slot: u32) -> Option<Slot<'m, AtomicU64>> {
        self.slots.get(slot as usize)?.get().copied()
    }

    pub(super) fn vm(&self, vm: u32) -> Option<&'m Vm> {
        self.vms.get(vm as usize).map(|vm| vm.vm)
    }

    /// The VM of a slot.
    pub(super) fn vm_of(&self, slot: u32) -> Option<&VmShared<'m>> {
        self.vms.iter().find(|vm| (vm.first_slot..vm.first_slot + vm.guest.capacity()).contains(&slot))
    }

    /// The program of a vCPU is at its end.
    pub(super) fn program_ended(&self, slot: u32) {
        let Some(vm) = self.vm_of(slot) else { return };
        if vm.guest.code.ends(slot - vm.first_slot) {
            self.unfinished.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A physical interrupt to the local APIC of a pCPU. Returns whether there is such a pCPU.
    #[inline]
    pub(super) fn send(&self, pcpu: u32, vector: u8) -> bool {
        let Some(pcpu) = self.pcpus.get(pcpu as usize) else { return false };
        local_apic::request(pcpu.requests, vector);
        pcpu.rouse();
        true
    }

    /// A notification, to the pCPU that NDST names.
    #[inline]
    pub(super) fn notify(&self, destination: u32, vector: u8) -> bool {
        self.send(NotificationDestination::from_bits(destination).decode(self.config.host_apic), vector)
    }

    /// Puts a vCPU that can run into a queue: of `pcpu`, or of an idle one that can take it at once.
    pub(super) fn enqueue(&self, pcpu: u32, runner: Box<Runner>) {
        let at = pcpu as usize % self.pcpus.len().max(1);
        let Some(mine) = self.pcpus.get(at) else { return };
        mine.push(runner);
        mine.rouse();
        if !mine.is_idle()
            && let Some(idle) = self.pcpus.iter().find(|other| other.is_idle())
        {
            // It will look for work and take it from here.
            idle.unpark();
        }
    }

    /// A vCPU for this pCPU: its own queue first, then the others'.
    pub(super) fn next_runner(&self, pcpu: u32) -> Option<Box<Runner>> {
        let count = self.pcpus.len();
        (0..count).find_map(|i| self.pcpus.get((pcpu as usize + i) % count)?.pop())
    }

    pub(super) fn work_anywhere(&self) -> bool {
        self.pcpus.iter().any(|pcpu| pcpu.queued() > 0)
    }

    /// Lies down, unless somebody has woken the vCPU since it said that it may sleep; then it comes back.
    pub(super) fn lie_down(&self, runner: Box<Runner>) -> Option<Box<Runner>> {
        let slot = runner.task.slot;
        let (Some(bed), Some(words)) = (self.beds.get(slot as usize), self.slot(slot)) else { return Some(runner) };
        let mut bed = lock(bed);
        if words.words.task() == TaskState::Running {
            return Some(runner);
        }
        *bed = Some(runner);
        None
    }

    /// Wakes a vCPU. Returns it if it was in bed.
    pub(super) fn get_up(&self, slot: u32) -> Option<Box<Runner>> {
        let words = self.slot(slot)?.words;
        if words.set_task(TaskState::Running) == TaskState::Running {
            return None;
        }
        lock(self.beds.get(slot as usize)?).take()
    }

    /// Looks at a vCPU in its bed.
    pub(super) fn in_bed<T>(&self, slot: u32, look: impl FnOnce(&Runner) -> T) -> Option<T> {
        lock(self.beds.get(slot as usize)?).as_deref().map(look)
    }

    /// Takes whoever is in bed out of it, at the end.
    pub(super) fn clear_bed(&self, slot: u32) -> Option<Runner> {
        lock(self.beds.get(slot as usize)?).take().map(|runner| *runner)
    }

    #[inline]
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn stop_soon(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Ends everything where it is.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.pcpus.iter().for_each(|pcpu| pcpu.unpark());
    }

    pub(super) fn all_finished(&self) -> bool {
        self.unfinished.load(Ordering::Acquire) == 0
    }
}
