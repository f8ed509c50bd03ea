//! When each of a few actors acts.

use super::calendar::{NEVER, Place};

/// A tournament of four at a time, so that the first of all is at hand and a change costs one path of it, a cache line for
/// each round.
#[derive(Debug)]
pub(super) struct Tournament {
    /// The first round has an actor in each place, the others the first of a group of the round before. The last round is
    /// one group.
    groups: Vec<Group>,
    /// Where each round begins.
    rounds: Vec<usize>,
}

/// So many play at a time.
pub(super) const WIDTH: usize = 4;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Group {
    times: [u64; WIDTH],
    actors: [u32; WIDTH],
}

impl Group {
    /// Those with the lowest numbers, none of which ever acts yet.
    pub(super) fn new(actors: u32) -> Self {
        Self::of(std::array::from_fn(|i| {
            if (i as u32) < actors { Place { time: NEVER, actor: i as u32 } } else { Place::NOBODY }
        }))
    }

    fn of(places: [Place; WIDTH]) -> Self {
        Self { times: places.map(|place| place.time), actors: places.map(|place| place.actor) }
    }

    #[inline]
    pub(super) const fn at(&self, number: usize) -> Place {
        Place { time: self.times[number % WIDTH], actor: self.actors[number % WIDTH] }
    }

    #[inline]
    pub(super) const fn set(&mut self, number: usize, Place { time, actor }: Place) {
        self.times[number % WIDTH] = time;
        self.actors[number % WIDTH] = actor;
    }

    /// The first. At the same time it is the one on the left, whose actor has the lower number.
    #[inline]
    pub(super) const fn first(&self) -> Place {
        let [a, b, c, d] = self.times;
        let (left, right) = ((b < a) as usize, 2 + (d < c) as usize);
        let number = if self.times[right] < self.times[left] { right } else { left };
        self.at(number)
    }
}

impl Tournament {
    /// For so many actors, none of which ever acts yet.
    pub(super) fn new(actors: usize) -> Self {
        let nobody = Place::NOBODY;
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
            if players.len() == 1 {
                return Self { groups, rounds };
            }
        }
    }

    /// When an actor acts next.
    #[inline]
    pub(super) fn time(&self, actor: u32) -> u64 {
        self.groups[actor as usize / WIDTH].times[actor as usize % WIDTH]
    }

    /// An actor acts then, if that is earlier than it would have. Returns whether it is.
    pub(super) fn lower(&mut self, place: Place) -> bool {
        if place.time >= self.time(place.actor) {
            return false;
        }
        let mut at = place.actor as usize;
        for &round in &self.rounds {
            let group = &mut self.groups[round + at / WIDTH];
            if !place.before(group.at(at)) {
                // Another wins already.
                break;
            }
            group.set(at, place);
            at /= WIDTH;
        }
        true
    }

    /// An actor does not act.
    pub(super) fn remove(&mut self, actor: u32) {
        let mut first = Place { time: NEVER, actor };
        let mut at = actor as usize;
        for &round in &self.rounds {
            let group = &mut self.groups[round + at / WIDTH];
            if group.at(at).actor != actor {
                // It had not won.
                return;
            }
            group.set(at, first);
            first = group.first();
            at /= WIDTH;
        }
    }

    /// The first of all.
    pub(super) fn first(&self) -> Place {
        self.groups.last().map_or(Place::NOBODY, Group::first)
    }
}
