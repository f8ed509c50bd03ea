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

/// When each of so few actors acts that they need no tournament.
#[derive(Debug)]
pub(super) struct Few([u64; WIDTH]);

impl Few {
    /// None ever acts yet.
    pub(super) const fn new() -> Self {
        Self([NEVER; WIDTH])
    }

    #[inline]
    pub(super) const fn time(&self, actor: u32) -> u64 {
        self.0[actor as usize % WIDTH]
    }

    #[inline]
    pub(super) const fn set(&mut self, Place { time, actor }: Place) {
        self.0[actor as usize % WIDTH] = time;
    }

    /// The first.
    #[inline]
    pub(super) const fn first(&self) -> Place {
        let actor = first_of(&self.0);
        Place { time: self.0[actor], actor: actor as u32 }
    }
}

/// Which time is the first; of several the one on the left. Read one by one: they are written so.
#[inline]
const fn first_of(times: &[u64; WIDTH]) -> usize {
    let (left, right) = ((times[1] < times[0]) as usize, 2 + (times[3] < times[2]) as usize);
    if times[right] < times[left] { right } else { left }
}

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
        self.at(first_of(&self.times))
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
