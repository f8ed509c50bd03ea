//! The posted-interrupt descriptor: each atomic act that hardware does on it is one function.
//!
//! SDM vol. 3C, "IPI Virtualization" 30.1.6 steps 4 and 5, "Posted-Interrupt Processing" 30.6 steps 3 and 5.
//! Every change to a live descriptor is a locked read-modify-write: the IOMMU, other processors and software act on it
//! at any time between any two of these acts.

use super::outcome::{Notice, Notification};
use crate::arch::posted_interrupt::{CONTROL_WORD, PIR_WORDS};
use crate::arch::{PidControl, VectorBit};
use crate::memory::{Line, Word};

/// PIR\[V\] := 1. Returns whether it was set already. (30.1.6 step 4; for a device VT-d 5.2.3)
///
/// Pairs with [`take_requests`]: whoever takes the word sees the bit or leaves it for later.
#[inline]
pub fn post_request<W: Word>(pid: &Line<W>, vector: u8) -> bool {
    let bit = VectorBit::of(vector);
    pid[bit.word()].set_bit(bit.word_bit())
}

/// If ON = 0 and SN = 0 then ON := 1 and a notification is due, with NV and NDST as they were then. (30.1.6 step 5; for a device VT-d 5.2.3)
///
/// One locked operation. Where ON or SN is seen set there is nothing to change; the locked operation of
/// [`post_request`] before it is then the barrier that orders the post before this look.
/// Pairs with [`clear_outstanding`] on the receiving side: a post made after ON was cleared finds ON = 0 and notifies
/// again, a post made before it is in the PIR that is taken next.
#[inline]
pub fn post_notification<W: Word>(pid: &Line<W>) -> Notice {
    let word = &pid[CONTROL_WORD];
    let mut seen = word.load();
    loop {
        let control = PidControl::from_bits(seen);
        if control.suppress() {
            return Notice::Suppressed;
        }
        if control.outstanding() {
            return Notice::Outstanding;
        }
        match word.compare_exchange(seen, control.with_outstanding(true).into_bits()) {
            Ok(_) => {
                return Notice::Due(Notification { vector: control.vector(), destination: control.destination() });
            }
            Err(found) => seen = found,
        }
    }
}

/// The same for an urgent interrupt of a device: SN is not looked at. ("Interrupt Posting", Intel VT-d 5.2.3)
#[inline]
pub fn post_urgent_notification<W: Word>(pid: &Line<W>) -> Notice {
    let set = PidControl::new().with_outstanding(true).into_bits();
    let before = PidControl::from_bits(pid[CONTROL_WORD].fetch_or(set));
    if before.outstanding() {
        return Notice::Outstanding;
    }
    Notice::Due(Notification { vector: before.vector(), destination: before.destination() })
}

/// ON := 0. Returns whether it was set. (30.6 step 3)
///
/// Pairs with [`post_notification`]; it comes before the requests are taken, never after.
#[inline]
pub fn clear_outstanding<W: Word>(pid: &Line<W>) -> bool {
    let others = !PidControl::new().with_outstanding(true).into_bits();
    PidControl::from_bits(pid[CONTROL_WORD].fetch_and(others)).outstanding()
}

/// Reads and clears the `group`-th 64 bits of PIR (0 to 3). (30.6 step 5)
///
/// Atomic for these 64 bits only: the four groups are four acts.
#[inline]
pub fn take_requests<W: Word>(pid: &Line<W>, group: usize) -> u64 {
    // A locked operation is needed only where there is something to take: a bit set after this look belongs to a post
    // whose notification is still to come, because ON was cleared before.
    let word = &pid[group % PIR_WORDS];
    if word.load() == 0 { 0 } else { word.swap(0) }
}

/// The control word as it stands.
#[inline]
pub fn control<W: Word>(pid: &Line<W>) -> PidControl {
    PidControl::from_bits(pid[CONTROL_WORD].load())
}

/// The 256 request bits as they stand, lowest vectors first; each 64 bits are read on their own.
pub fn requests<W: Word>(pid: &Line<W>) -> [u64; PIR_WORDS] {
    std::array::from_fn(|group| pid[group].load())
}

/// Changes the control word as software does, with one compare-exchange loop; returns what it was.
pub fn update_control<W: Word>(pid: &Line<W>, change: impl Fn(PidControl) -> PidControl) -> PidControl {
    let word = &pid[CONTROL_WORD];
    let mut seen = word.load();
    loop {
        match word.compare_exchange(seen, change(PidControl::from_bits(seen)).into_bits()) {
            Ok(before) => return PidControl::from_bits(before),
            Err(found) => seen = found,
        }
    }
}

/// Sets NV, NDST, ON and SN of a descriptor that nobody else can reach yet.
pub fn initialize<W: Word>(pid: &Line<W>, control: PidControl) {
    for group in pid.iter().take(PIR_WORDS) {
        group.store(0);
    }
    pid[CONTROL_WORD].store(control.into_bits());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    fn descriptor(control: PidControl) -> Line<Cell<u64>> {
        let pid: Line<Cell<u64>> = std::array::from_fn(|_| Cell::new(0));
        initialize(&pid, control);
        pid
    }

    const F2_TO_9: PidControl = PidControl::new().with_vector(0xF2).with_destination(9);

    #[test]
    fn a_request_sets_its_bit_and_tells_of_an_earlier_one() {
        let pid = descriptor(F2_TO_9);
        assert!(!post_request(&pid, 0xFB));
        assert!(post_request(&pid, 0xFB));
        assert_eq!(requests(&pid), [0, 0, 0, 1 << 0x3B]);
        assert_eq!(control(&pid), F2_TO_9, "step 4 leaves the control word alone");
    }

    #[test]
    fn the_first_post_notifies_and_the_second_does_not() {
        let pid = descriptor(F2_TO_9);
        assert_eq!(post_notification(&pid), Notice::Due(Notification { vector: 0xF2, destination: 9 }));
        assert_eq!(control(&pid), F2_TO_9.with_outstanding(true));
        assert_eq!(post_notification(&pid), Notice::Outstanding);
    }

    #[test]
    fn suppressed_changes_nothing() {
        let pid = descriptor(F2_TO_9.with_suppress(true));
        assert_eq!(post_notification(&pid), Notice::Suppressed);
        assert_eq!(control(&pid), F2_TO_9.with_suppress(true));
    }

    #[test]
    fn urgent_does_not_ask_sn() {
        let pid = descriptor(F2_TO_9.with_suppress(true));
        assert_eq!(post_urgent_notification(&pid), Notice::Due(Notification { vector: 0xF2, destination: 9 }));
        assert_eq!(post_urgent_notification(&pid), Notice::Outstanding);
        assert_eq!(control(&pid), F2_TO_9.with_suppress(true).with_outstanding(true));
    }

    #[test]
    fn clearing_on_leaves_the_rest() {
        let pid = descriptor(F2_TO_9.with_outstanding(true).with_suppress(true));
        assert!(clear_outstanding(&pid));
        assert!(!clear_outstanding(&pid));
        assert_eq!(control(&pid), F2_TO_9.with_suppress(true));
    }

    #[test]
    fn software_changes_what_it_sees_and_learns_what_it_was() {
        let pid = descriptor(F2_TO_9);
        assert_eq!(update_control(&pid, |control| control.with_suppress(true)), F2_TO_9);
        assert_eq!(control(&pid), F2_TO_9.with_suppress(true));
    }

    proptest! {
        /// Bits that belong to software survive every act of the hardware.
        #[test]
        fn software_bits_survive(bits: u64, vector: u8) {
            let pid = descriptor(PidControl::from_bits(bits));
            post_request(&pid, vector);
            post_notification(&pid);
            clear_outstanding(&pid);
            let on = PidControl::new().with_outstanding(true).into_bits();
            prop_assert_eq!(control(&pid).into_bits(), bits & !on);
            prop_assert_eq!(take_requests(&pid, usize::from(vector) / 64), 1 << (vector % 64));
            prop_assert_eq!(requests(&pid), [0; 4]);
        }
    }
}
