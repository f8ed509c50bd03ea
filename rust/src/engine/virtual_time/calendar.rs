//! What comes next: when each actor acts, and physical interrupts on their way.
//!
//! Order is total: by time; at the same time interrupts that arrive come first, in the order in which they were sent,
//! then actors by number. pCPUs are actors, then devices, then the clock that adds vCPUs.

use std::collections::VecDeque;

/// Never. Later times there are, for sums.
pub(super) const NEVER: u64 = u64::MAX / 2;

/// A physical interrupt on its way to a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) time: u64,
    pub(super) pcpu: u32,
    pub(super) vector: u8,
}

/// When each actor acts next: a tournament of four at a time, so that the first of all is at hand and a change costs one
/// path of it, a cache line for each round.
#[derive(Debug)]
pub(super) struct Calendar {
    /// The first round has an actor in each place, the others the first of a group of the round before. The last round is
    /// one group.
    groups: Vec<Group>,
    /// Where each round begins.
    rounds: Vec<usize>,
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
struct Place {
    time: u64,
    actor: u32,
}

impl Place {
    /// At the same time the one with the lower number is first.
    #[inline]
    const fn before(self, other: Self) -> bool {
        self.time < other.time || self.time == other.time && self.actor < other.actor
    }
}

/// So many play at a time.
const WIDTH: usize = 4;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Group {
    times: [u64; WIDTH],
    actors: [u32; WIDTH],
}

impl Group {
    fn of(places: [Place; WIDTH]) -> Self {
        Self { times: places.map(|place| place.time), actors: places.map(|place| place.actor) }
    }

    #[inline]
    const fn at(&self, number: usize) -> Place {
        Place { time: self.times[number % WIDTH], actor: self.actors[number % WIDTH] }
    }

    #[inline]
    const fn set(&mut self, number: usize, Place { time, actor }: Place) {
        self.times[number % WIDTH] = time;
        self.actors[number % WIDTH] = actor;
    }

    /// The first. At the same time it is the one on the left, whose actor has the lower number.
    #[inline]
    const fn first(&self) -> Place {
        let [a, b, c, d] = self.times;
        let (left, right) = ((b < a) as usize, 2 + (d < c) as usize);
        let number = if self.times[right] < self.times[left] { right } else { left };
        self.at(number)
    }
}

impl Calendar {
    /// For so many actors, the first of which are pCPUs. None of them ever acts yet.
    pub(super) fn new(actors: usize, pcpus: usize) -> Self {
        let nobody = Place { time: NEVER, actor: u32::MAX };
        let (mut groups, mut rounds) = (Vec::new(), Vec::new());
        let mut players: Vec<Place> = (0..actors.max(1) as u32).map(|actor| Place { time: NEVER, actor }).collect();
        loop {
            rounds.push(groups.len());
            let round: Vec<Group> = players
                .chunks(WIDTH)
                .map(|few| Group::of(std::array::from_fn(|i| few.get(i).copied().unwrap_or(nobody))))
                .collect();
            players = round.iter().map(Group::first).collect();
            groups.extend(round);
            if let [first] = players[..] {
                return Self {
                    groups,
                    rounds,
                    first,
                    arrival_time: NEVER,
                    arrival_pcpu: 0,
                    arrival_vector: 0,
                    arrivals: VecDeque::new(),
                    expected: vec![Expected::NOTHING; pcpus],
                };
            }
        }
    }

    /// When an actor acts next.
    #[inline]
    pub(super) fn time(&self, actor: u32) -> u64 {
        self.groups[actor as usize / WIDTH].times[actor as usize % WIDTH]
    }

    /// An actor acts then and not before.
    pub(super) fn set(&mut self, actor: u32, time: u64) {
        self.remove(actor);
        self.lower(actor, time);
    }

    /// An actor acts then, if that is earlier than it would have. Returns whether it is.
    #[inline]
    pub(super) fn lower(&mut self, actor: u32, time: u64) -> bool {
        let place = Place { time, actor };
        let known = &mut self.groups[actor as usize / WIDTH].times[actor as usize % WIDTH];
        if time >= *known {
            return false;
        }
        *known = time;
        if (self.rounds.len() == 1 || self.wins_on(place)) && place.before(self.first) {
            self.first = place;
        }
        true
    }

    /// Whether it wins the rounds after the first.
    #[inline(never)]
    fn wins_on(&mut self, place: Place) -> bool {
        let mut at = place.actor as usize;
        for &round in self.rounds.iter().skip(1) {
            at /= WIDTH;
            let group = &mut self.groups[round + at / WIDTH];
            if !place.before(group.at(at)) {
                // Another wins already.
                return false;
            }
            group.set(at, place);
        }
        true
    }

    /// An actor does not act.
    #[inline]
    pub(super) fn remove(&mut self, actor: u32) {
        let group = &mut self.groups[actor as usize / WIDTH];
        group.times[actor as usize % WIDTH] = NEVER;
        let first = group.first();
        if self.rounds.len() > 1 {
            self.loses_on(actor, first);
        } else {
            self.first = first;
        }
    }

    /// In the rounds after the first it loses against others: in the next against `first`.
    #[inline(never)]
    fn loses_on(&mut self, actor: u32, mut first: Place) {
        let mut at = actor as usize;
        for &round in self.rounds.iter().skip(1) {
            at /= WIDTH;
            let group = &mut self.groups[round + at / WIDTH];
            if group.at(at).actor != actor {
                // It had not won.
                return;
            }
            group.set(at, first);
            first = group.first();
        }
        if self.first.actor == actor {
            self.first = first;
        }
    }

    /// The first actor's time, and the actor.
    #[inline]
    pub(super) const fn first(&self) -> (u64, u32) {
        (self.first.time, self.first.actor)
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

    /// Where an interrupt arrives when so many others have.
    #[inline]
    pub(super) fn arrival_after(&self, others: usize) -> Option<u32> {
        let behind = others.checked_sub(1);
        behind.map_or_else(|| self.next_arrival(), |at| self.arrivals.get(at).copied()).map(|arrival| arrival.pcpu)
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
