//! What comes next: when each actor acts, and physical interrupts on their way.
//!
//! Order is total: by time; at the same time interrupts that arrive come first, in the order in which they were sent,
//! then actors by number. pCPUs are actors, then devices, then the clock that adds vCPUs.

use std::collections::VecDeque;

/// Never. One less than the greatest number: see [`Place::first`].
pub(super) const NEVER: u64 = u64::MAX - 1;

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
    /// Leaves from `width` on; above two places the first of both.
    places: Vec<Place>,
    width: usize,
    arrivals: VecDeque<Arrival>,
}

/// When somebody acts, and who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    time: u64,
    actor: u32,
}

impl Place {
    /// The first of what is at place `at` and of what is beside it. At the same time it is the left one, whose actors
    /// have lower numbers; left places are even.
    #[inline]
    const fn first(self, at: usize, beside: Self) -> Self {
        if beside.time < self.time + (at as u64 & 1) { beside } else { self }
    }
}

impl Calendar {
    /// For so many actors, none of which ever acts yet.
    pub(super) fn new(actors: usize) -> Self {
        let width = actors.max(1).next_power_of_two();
        let mut places = vec![Place { time: NEVER, actor: 0 }; 2 * width];
        for at in (1..2 * width).rev() {
            places[at] = if at < width { places[2 * at] } else { Place { time: NEVER, actor: (at - width) as u32 } };
        }
        Self { places, width, arrivals: VecDeque::new() }
    }

    /// When an actor acts next.
    #[inline]
    pub(super) fn time(&self, actor: u32) -> u64 {
        self.places[self.width + actor as usize].time
    }

    /// An actor acts then and not before.
    #[inline]
    pub(super) fn set(&mut self, actor: u32, time: u64) {
        let mut at = self.width + actor as usize;
        let mut first = Place { time, actor };
        self.places[at] = first;
        while at > 1 {
            first = first.first(at, self.places[at ^ 1]);
            at /= 2;
            if self.places[at] == first {
                break;
            }
            self.places[at] = first;
        }
    }

    /// The first actor's time, and the actor.
    #[inline]
    pub(super) fn first(&self) -> (u64, u32) {
        let first = self.places[1];
        (first.time, first.actor)
    }

    /// The first of all others.
    #[inline]
    pub(super) fn rival(&self, actor: u32) -> (u64, u32) {
        let mut at = self.width + actor as usize;
        let mut first = Place { time: NEVER, actor: u32::MAX };
        while at > 1 {
            first = first.first(at, self.places[at ^ 1]);
            at /= 2;
        }
        (first.time, first.actor)
    }

    /// An interrupt sets out.
    #[inline]
    pub(super) fn send(&mut self, arrival: Arrival) {
        // Nearly always the last: flights take the same time, and who sends first is first.
        if self.arrivals.back().is_none_or(|last| last.time <= arrival.time) {
            self.arrivals.push_back(arrival);
            return;
        }
        let behind = self.arrivals.iter().rev().take_while(|other| other.time > arrival.time).count();
        self.arrivals.insert(self.arrivals.len() - behind, arrival);
    }

    /// When the next interrupt arrives.
    #[inline]
    pub(super) fn arrival_time(&self) -> u64 {
        self.arrivals.front().map_or(NEVER, |arrival| arrival.time)
    }

    /// Where an interrupt arrives when so many others have.
    #[inline]
    pub(super) fn arrival_after(&self, others: usize) -> Option<u32> {
        self.arrivals.get(others).map(|arrival| arrival.pcpu)
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
                prop_assert_eq!(calendar.first(), (plain[first as usize], first));
                prop_assert_eq!(calendar.time(actor), time);
                let others = (0..actors).filter(|&other| other != actor).map(|other| (plain[other as usize], other));
                let rival = others.min().unwrap_or((NEVER, u32::MAX));
                prop_assert_eq!(calendar.rival(actor).0, rival.0);
                prop_assert!(rival.0 == NEVER || calendar.rival(actor).1 == rival.1);
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
