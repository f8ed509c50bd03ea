//! What comes next: when each actor acts, and physical interrupts on their way.
//!
//! Order is total: by time; at the same time interrupts that arrive come first, in the order in which they were sent,
//! then actors by number. pCPUs are actors, then devices, then the clock that adds vCPUs.

use super::diary::{Coming, Diary, STEPS};
use super::tournament::{Few, Tournament, WIDTH};
use crate::memory::{Cache, prefetch};
use std::collections::VecDeque;

/// Never. Later times there are, for sums.
pub(super) const NEVER: u64 = u64::MAX / 2;

/// Actors that a tournament is for: the memory of so many pCPUs and their guests fits into a large processor's caches, and
/// to keep more of them in order costs more than it spares.
const FITS: usize = 2048;
/// So many arrivals at a time are many.
const MANY: usize = 8;

/// A physical interrupt on its way to a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) time: u64,
    pub(super) pcpu: u32,
    pub(super) vector: u8,
}

/// What comes next.
#[derive(Debug)]
pub(super) struct Calendar {
    turns: Turns,
    first: Place,
    /// When the next interrupt arrives, and which.
    arrival_time: u64,
    arrival_pcpu: u32,
    arrival_vector: u8,
    /// Those behind it.
    arrivals: VecDeque<Arrival>,
    /// For each pCPU.
    expected: Vec<Expected>,
}

/// Interrupts on their way to one pCPU.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// None arrives before.
    first: u64,
    count: u32,
}

impl Expected {
    const NOTHING: Self = Self { first: NEVER, count: 0 };
}

/// When somebody acts, and who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) time: u64,
    pub(super) actor: u32,
}

impl Place {
    pub(super) const NOBODY: Self = Self { time: NEVER, actor: u32::MAX };

    /// At the same time the one with the lower number is first.
    #[inline]
    pub(super) const fn before(self, other: Self) -> bool {
        self.time < other.time || self.time == other.time && self.actor < other.actor
    }
}

/// When each actor acts next.
#[derive(Debug)]
enum Turns {
    Few(Few),
    More(Tournament),
    Many(Box<Diary>),
}

impl Calendar {
    /// For so many actors, the first of which are pCPUs. None of them ever acts yet.
    pub(super) fn new(actors: usize, pcpus: usize) -> Self {
        let turns = if actors <= WIDTH {
            Turns::Few(Few::new())
        } else if actors <= FITS {
            Turns::More(Tournament::new(actors))
        } else {
            Turns::Many(Box::new(Diary::new(actors)))
        };
        Self {
            turns,
            first: Place { time: NEVER, actor: 0 },
            arrival_time: NEVER,
            arrival_pcpu: 0,
            arrival_vector: 0,
            arrivals: VecDeque::new(),
            expected: vec![Expected::NOTHING; pcpus],
        }
    }

    /// When an actor acts next.
    #[inline]
    pub(super) fn time(&self, actor: u32) -> u64 {
        match &self.turns {
            Turns::Few(turns) => turns.time(actor),
            Turns::More(turns) => turns.time(actor),
            Turns::Many(turns) => turns.time(actor),
        }
    }

    /// An actor acts then and not before.
    pub(super) fn set(&mut self, actor: u32, time: u64) {
        self.remove(actor);
        self.lower(actor, time);
    }

    /// An actor acts then, if that is earlier than it would have. Returns whether it is.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "where others act, it is done once or twice in a turn")]
    pub(super) fn lower(&mut self, actor: u32, time: u64) -> bool {
        let Turns::Few(turns) = &mut self.turns else { return self.lower_one_of_more(actor, time) };
        let place = Place { time, actor };
        if time >= turns.time(actor) {
            return false;
        }
        turns.set(place);
        if place.before(self.first) {
            self.first = place;
        }
        true
    }

    #[inline(never)]
    fn lower_one_of_more(&mut self, actor: u32, time: u64) -> bool {
        let place = Place { time, actor };
        let lowered = match &mut self.turns {
            Turns::Few(_) => false,
            Turns::More(turns) => turns.lower(place),
            Turns::Many(turns) => turns.lower(place),
        };
        if lowered && place.before(self.first) {
            self.first = place;
        }
        lowered
    }

    /// An actor does not act.
    #[inline]
    pub(super) fn remove(&mut self, actor: u32) {
        if let Turns::Few(turns) = &mut self.turns {
            turns.set(Place { time: NEVER, actor });
            self.first = turns.first();
        } else {
            self.remove_one_of_more(actor);
        }
    }

    #[inline(never)]
    fn remove_one_of_more(&mut self, actor: u32) {
        let was_first = self.first.actor == actor;
        match &mut self.turns {
            Turns::Few(_) => {}
            Turns::More(turns) => {
                turns.remove(actor);
                if was_first {
                    self.first = turns.first();
                }
            }
            Turns::Many(turns) => {
                turns.remove(actor);
                if was_first {
                    self.first = turns.find_first();
                }
            }
        }
    }

    /// The first actor's time, and the actor.
    #[inline]
    pub(super) const fn first(&self) -> (u64, u32) {
        (self.first.time, self.first.actor)
    }

    /// Whether more is known in order than who is first.
    #[inline]
    pub(super) const fn is_in_order(&self) -> bool {
        matches!(self.turns, Turns::Many(_))
    }

    /// See [`Diary::coming`].
    #[inline]
    pub(super) fn coming(&mut self, others: [usize; STEPS]) -> Option<Coming> {
        match &mut self.turns {
            Turns::Few(_) | Turns::More(_) => None,
            Turns::Many(turns) => turns.coming(others),
        }
    }

    /// An interrupt sets out.
    #[inline]
    pub(super) fn send(&mut self, arrival: Arrival) {
        if let Some(expected) = self.expected.get_mut(arrival.pcpu as usize) {
            *expected = Expected { first: expected.first.min(arrival.time), count: expected.count + 1 };
        }
        if self.arrival_time == NEVER {
            self.arrives_next(arrival);
        } else {
            let Arrival { time, pcpu, vector } = arrival;
            self.send_behind(time, pcpu, vector);
        }
    }

    #[inline]
    const fn arrives_next(&mut self, Arrival { time, pcpu, vector }: Arrival) {
        self.arrival_time = time;
        self.arrival_pcpu = pcpu;
        self.arrival_vector = vector;
    }

    /// The interrupt that arrives next, if there is one.
    #[inline]
    fn next_arrival(&self) -> Option<Arrival> {
        let Self { arrival_time: time, arrival_pcpu: pcpu, arrival_vector: vector, .. } = *self;
        (time != NEVER).then_some(Arrival { time, pcpu, vector })
    }

    #[inline(never)]
    fn send_behind(&mut self, time: u64, pcpu: u32, vector: u8) {
        let arrival = Arrival { time, pcpu, vector };
        if let Some(first) = self.next_arrival().filter(|first| arrival.time < first.time) {
            // What was first arrives before all that is behind it.
            self.arrivals.push_front(first);
            self.arrives_next(arrival);
            return;
        }
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
    pub(super) const fn arrival_time(&self) -> u64 {
        self.arrival_time
    }

    /// Where an interrupt arrives when so many others have, and whether many follow at the same time.
    #[inline]
    pub(super) fn arrival_after(&self, others: usize) -> Option<(u32, bool)> {
        let behind = others.checked_sub(1);
        let arrival = behind.map_or_else(|| self.next_arrival(), |at| self.arrivals.get(at).copied())?;
        let follows = self.arrivals.get(others + MANY - 1);
        Some((arrival.pcpu, follows.is_some_and(|other| other.time == arrival.time)))
    }

    /// Asks for the memory that says whether an interrupt arrives at a pCPU.
    #[inline]
    pub(super) fn ask_for_expected(&self, pcpu: u32, cache: Cache) {
        prefetch(&self.expected, pcpu as usize, cache);
    }

    /// Asks for the memory that an interrupt to a pCPU uses, when it is sent and when it arrives.
    #[inline]
    pub(super) fn ask_for(&self, pcpu: u32, cache: Cache) {
        self.ask_for_expected(pcpu, cache);
        if let Turns::Many(turns) = &self.turns {
            turns.ask_for(pcpu, cache);
        }
    }

    #[inline]
    pub(super) fn arrive(&mut self) -> Option<Arrival> {
        let first = self.next_arrival()?;
        self.arrival_time = NEVER;
        if !self.arrivals.is_empty()
            && let Some(next) = self.arrivals.pop_front()
        {
            self.arrives_next(next);
        }
        if let Some(expected) = self.expected.get_mut(first.pcpu as usize) {
            // A second one is rare, and arrives no earlier than this one.
            let count = expected.count - 1;
            *expected = if count == 0 { Expected::NOTHING } else { Expected { first: first.time, count } };
        }
        Some(first)
    }

    /// No interrupt that has been sent arrives at a pCPU before this.
    #[inline]
    pub(super) fn arrives_from(&self, pcpu: u32) -> u64 {
        self.expected.get(pcpu as usize).map_or(0, |expected| expected.first)
    }

    /// Whether such an interrupt is on its way.
    pub(super) fn under_way(&self, pcpu: u32, vector: u8) -> bool {
        self.next_arrival().iter().chain(&self.arrivals).any(|arrival| arrival.pcpu == pcpu && arrival.vector == vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The first is the earliest, and of several the one with the lowest number.
        #[test]
        fn the_first_is_the_earliest(
            actors in 1..70u32,
            changes in proptest::collection::vec((0..70u32, prop_oneof![4 => 0..6u64, 1 => Just(NEVER)]), 1..50),
        ) {
            let mut calendar = Calendar::new(actors as usize, 0);
            let mut plain = vec![NEVER; actors as usize];
            for (actor, time) in changes {
                let actor = actor % actors;
                calendar.set(actor, time);
                plain[actor as usize] = time;
                let first = (0..actors).min_by_key(|&actor| (plain[actor as usize], actor)).unwrap();
                prop_assert_eq!(calendar.first(), (plain[first as usize], first));
                prop_assert_eq!(calendar.time(actor), time);
            }
        }

        /// None arrives before it is expected, and each pCPU expects as many as are sent.
        #[test]
        fn who_expects_an_interrupt_knows_when(sent in proptest::collection::vec((0..10u64, 0..3u32), 1..30)) {
            let mut calendar = Calendar::new(3, 3);
            for &(time, pcpu) in &sent {
                calendar.send(Arrival { time, pcpu, vector: 0 });
            }
            let mut left = sent;
            loop {
                for pcpu in 0..3 {
                    let first = left.iter().filter(|sent| sent.1 == pcpu).map(|sent| sent.0).min().unwrap_or(NEVER);
                    let expected = calendar.arrives_from(pcpu);
                    prop_assert!(expected <= first && (expected == NEVER) == (first == NEVER));
                }
                let Some(Arrival { time, pcpu, .. }) = calendar.arrive() else { break };
                let arrived = left.iter().position(|&sent| sent == (time, pcpu)).unwrap();
                left.swap_remove(arrived);
            }
            prop_assert!(left.is_empty());
        }

        /// Interrupts arrive in the order of time, and of sending.
        #[test]
        fn interrupts_arrive_in_order(times in proptest::collection::vec(0..10u64, 1..30)) {
            let mut calendar = Calendar::new(1, 30);
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
