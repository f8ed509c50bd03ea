//! Short-hands for the tests of this room.

use super::{Action, Cursor, GuestCode, GuestMemory, Moment, View};
use crate::arch::ApicMode;
use crate::arch::apic_base::ApicBase;
use crate::hypervisor::ApicIdentity;
use crate::memory::PhysicalMemory;
use std::cell::Cell;

/// What the first of two vCPUs does next, with interrupts enabled and nothing in the guest's shared memory.
pub(super) fn next(cursor: &mut Cursor, code: &GuestCode, now: u64, mode: ApicMode) -> Action {
    let memory = PhysicalMemory::<Cell<u64>>::new(1 << 16);
    let shared = GuestMemory::new(&memory, 0, 2, 1, false).unwrap();
    let identity = |_: u32| ApicIdentity::new();
    let base = ApicBase::in_mode(mode, true);
    let view = View { vcpu: 0, vcpus: 2, mode, base, memory: &shared, identity: &identity, stopping: false };
    cursor.next(code, view, Moment { interrupts: true, now })
}
