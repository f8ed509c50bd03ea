//! What comes next: when each actor acts, and physical interrupts on their way.
//!
//! Order is total: by time; at the same time interrupts that arrive come first, in the order in which they were sent,
//! then actors by number. pCPUs are actors, then devices, then the clock that adds vCPUs.

use std::collections::VecDeque;

/// Never.
pub(super) const NEVER: u64 = u64::MAX;

/// A physical interrupt on its way to a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) time: u64,
    pub(super) pcpu: u32,
    pub(super) vector: u8,
}

/// When each actor acts next: a tournament, so that the first of all is at hand and a change costs one path of it.
#[derive(Debug)]
pub(super) struct Calendar {
    /// Leaves from `width` on; above two places the earlier time of both, the left one's where they are the same.
    times: Vec<u64>,
    width: usize,
    arrivals: VecDeque<Arrival>,
}

impl Calendar {
    /// For so many actors, none of which ever acts yet.
    pub(super) fn new(actors: usize) -> Self {
        let width = actors.max(1).next_power_of_two();
        Self { times: vec![NEVER; 2 * width], width, arrivals: VecDeque::new() }
    }

    /// When an actor acts next.
    #[inline]
    pub(super) fn time(&self, actor: u32) -> u64 {
        self.times[self.width + actor as usize]
    }

    #[inline]
    pub(super) fn set(&mut self, actor: u32, time: u64) {
        let mut at = self.width + actor as usize;
        self.times[at] = time;
        while at > 1 {
            at /= 2;
            let first = self.times[2 * at].min(self.times[2 * at + 1]);
            if self.times[at] == first {
                break;
            }
            self.times[at] = first;
        }
    }

    /// The time of the first actor.
    #[inline]
    pub(super) fn first_time(&self) -> u64 {
        self.times[1]
    }

    /// The first actor.
    #[inline]
    pub(super) fn first(&self) -> u32 {
        let mut at = 1;
        while at < self.width {
            at = 2 * at + usize::from(self.times[2 * at] != self.times[at]);
        }
        (at - self.width) as u32
    }

    /// An interrupt sets out.
    #[inline]
    pub(super) fn send(&mut self, arrival: Arrival) {
        // Nearly always the last: flights take the same time, and who sends first is first.
        let behind = self.arrivals.iter().rev().take_while(|other| other.time > arrival.time).count();
        self.arrivals.insert(self.arrivals.len() - behind, arrival);
    }

    /// When the next interrupt arrives.
    #[inline]
    pub(super) fn arrival_time(&self) -> u64 {
        self.arrivals.front().map_or(NEVER, |arrival| arrival.time)
    }

    #[inline]
    pub(super) fn arrive(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }

    /// Whether such an interrupt is on its way.
    pub(super) fn under_way(&self, pcpu: u32, vector: u8) -> bool {
        self.arrivals.iter().any(|arrival| arrival.pcpu == pcpu && arrival.vector == vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The first is the earliest, and of several the one with the lowest number.
        #[test]
        fn the_first_is_the_earliest(actors in 1..20u32, changes in proptest::collection::vec((0..20u32, 0..6u64), 1..50)) {
            let mut calendar = Calendar::new(actors as usize);
            let mut plain = vec![NEVER; actors as usize];
            for (actor, time) in changes {
                let actor = actor % actors;
                calendar.set(actor, time);
                plain[actor as usize] = time;
                let first = (0..actors).min_by_key(|&actor| (plain[actor as usize], actor)).unwrap();
                prop_assert_eq!((calendar.first(), calendar.first_time()), (first, plain[first as usize]));
                prop_assert_eq!(calendar.time(actor), time);
            }
        }

        /// Interrupts arrive in the order of time, and of sending.
        #[test]
        fn interrupts_arrive_in_order(times in proptest::collection::vec(0..10u64, 1..30)) {
            let mut calendar = Calendar::new(1);
            for (pcpu, &time) in (0..).zip(&times) {
                calendar.send(Arrival { time, pcpu, vector: 0 });
            }
            let mut sorted: Vec<(u64, u32)> = times.iter().copied().zip(0..).collect();
            sorted.sort_unstable();
            let arrived: Vec<_> = std::iter::from_fn(|| calendar.arrive()).map(|it| (it.time, it.pcpu)).collect();
            prop_assert_eq!(arrived, sorted);
        }
    }
}
