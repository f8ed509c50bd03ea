//! When each of many actors acts: a page for each of the next cycles, of which the nearest are in order.
//!
//! In a large machine somebody acts in nearly every cycle. Who acts soon is known in order, so that its memory can be asked
//! for before it is used, and a change writes down a number where a tournament plays eight rounds.

use super::calendar::{NEVER, Place};
use super::marks::Marks;
use super::simulation::NOBODY;
use crate::memory::{Cache, prefetch};
use std::collections::BTreeSet;

/// Cycles that have a page each.
const PAGES: u64 = 1 << 14;
/// So many actors are in order ahead of the first, if they act soon.
const AHEAD: usize = 32;
/// Of the next so many cycles, if there are others.
const NEAR: u64 = 256;
/// Steps in which memory is asked for.
pub(super) const STEPS: usize = 4;
/// So many that came late are kept in order one by one.
const FEW: usize = 16;
/// Actors of a leaf: it fills a cache line.
const LEAF: usize = 14;
/// No leaf.
const NONE: u32 = u32::MAX;

/// Who come, for each step in which memory is asked for, or nobody.
pub(super) struct Coming {
    /// The number of the turn before all of theirs.
    pub(super) turn: usize,
    pub(super) actors: [u32; STEPS],
}

/// A piece of a page.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Leaf {
    actors: [u32; LEAF],
    count: u32,
    /// The leaf that was begun before.
    next: u32,
}

/// An entry counts as long as its actor acts at its time: who acts at another time is written down anew, and what is in the
/// pages of it is skipped when they are read.
#[derive(Debug)]
pub(super) struct Diary {
    /// When each actor acts.
    times: Vec<u64>,
    /// In order, from `at` on. All entries before `opened` are here or among the late ones.
    order: Vec<Place>,
    at: usize,
    /// So many were in order before them.
    gone: usize,
    /// When so many have gone, those are asked for who come after the next ones.
    due: usize,
    /// What was written down for a time before `opened`; a few are in order, the first last.
    late: Vec<Place>,
    opened: u64,
    /// The last leaf of each page, from `opened` on around.
    pages: Vec<u32>,
    /// Pages that have a leaf, a bit each.
    written: Vec<u64>,
    leaves: Vec<Leaf>,
    unused: u32,
    /// Who is on the page that is put in order.
    on_page: Marks,
    /// Beyond the pages.
    far: BTreeSet<(u64, u32)>,
}

impl Diary {
    /// For so many actors, none of which ever acts yet.
    pub(super) fn new(actors: usize) -> Self {
        Self {
            times: vec![NEVER; actors],
            order: Vec::new(),
            at: 0,
            gone: 0,
            due: 0,
            late: Vec::new(),
            opened: 0,
            pages: vec![NONE; PAGES as usize],
            written: vec![0; PAGES as usize / 64],
            leaves: Vec::new(),
            unused: NONE,
            on_page: Marks::new(actors),
            far: BTreeSet::new(),
        }
    }

    /// When an actor acts next.
    #[inline]
    pub(super) fn time(&self, actor: u32) -> u64 {
        self.times[actor as usize]
    }

    /// An actor acts then, if that is earlier than it would have. Returns whether it is.
    #[inline]
    pub(super) fn lower(&mut self, place: Place) -> bool {
        let before = self.times[place.actor as usize];
        if place.time >= before {
            return false;
        }
        self.times[place.actor as usize] = place.time;
        self.strike_out(before, place.actor);
        self.write_down(place);
        true
    }

    /// An actor does not act.
    #[inline]
    pub(super) fn remove(&mut self, actor: u32) {
        let time = std::mem::replace(&mut self.times[actor as usize], NEVER);
        self.strike_out(time, actor);
    }

    /// Asks for the memory that says when an actor acts.
    #[inline]
    pub(super) fn ask_for(&self, actor: u32, cache: Cache) {
        prefetch(&self.times, actor as usize, cache);
    }

    /// Who act when so many `others` in order have, for each step; once for each of those in order that has gone, until there
    /// are none. They need not act then any longer.
    #[inline]
    pub(super) fn coming(&mut self, others: [usize; STEPS]) -> Option<Coming> {
        let turn = self.due.max(self.gone);
        if turn > self.gone + self.at {
            return None;
        }
        self.due = turn + 1;
        let actor = |others: usize| self.order.get(turn - self.gone + others).map_or(NOBODY, |place| place.actor);
        Some(Coming { turn, actors: others.map(actor) })
    }

    /// Pages skip what does not count any longer; what is beyond them would gather.
    #[inline]
    fn strike_out(&mut self, time: u64, actor: u32) {
        if time != NEVER && time >= self.opened + PAGES {
            self.strike_out_far(time, actor);
        }
    }

    #[inline(never)]
    fn strike_out_far(&mut self, time: u64, actor: u32) {
        self.far.remove(&(time, actor));
    }

    #[inline]
    fn write_down(&mut self, place: Place) {
        // What is before `opened` is far beyond the pages then.
        if place.time.wrapping_sub(self.opened) < PAGES {
            self.write_on_page(place);
        } else {
            self.write_elsewhere(place);
        }
    }

    #[inline(never)]
    fn write_elsewhere(&mut self, place: Place) {
        if place.time < self.opened {
            self.comes_late(place);
        } else {
            self.far.insert((place.time, place.actor));
        }
    }

    fn comes_late(&mut self, place: Place) {
        let few = self.late.len() < FEW;
        let earlier = if few { self.late.iter().rev().take_while(|other| other.before(place)).count() } else { 0 };
        self.late.insert(self.late.len() - earlier, place);
    }

    #[inline]
    fn write_on_page(&mut self, place: Place) {
        if let Some(leaf) = self.leaves.get_mut(self.pages[page_of(place.time)] as usize)
            && let Some(actor) = leaf.actors.get_mut(leaf.count as usize)
        {
            *actor = place.actor;
            leaf.count += 1;
        } else {
            self.begin_leaf(place);
        }
    }

    #[inline(never)]
    fn begin_leaf(&mut self, Place { time, actor }: Place) {
        let page = page_of(time);
        let leaf = Leaf { actors: [actor; LEAF], count: 1, next: self.pages[page] };
        self.written[page / 64] |= 1 << (page % 64);
        if let Some(free) = self.leaves.get_mut(self.unused as usize) {
            self.pages[page] = self.unused;
            self.unused = free.next;
            *free = leaf;
            // The next one that is begun.
            prefetch(&self.leaves, self.unused as usize, Cache::Second);
        } else {
            self.pages[page] = self.leaves.len() as u32;
            self.leaves.push(leaf);
        }
    }

    /// Whether that is when its actor acts.
    #[inline]
    fn stands(&self, place: Place) -> bool {
        self.times[place.actor as usize] == place.time
    }

    /// The first of all.
    #[inline]
    pub(super) fn find_first(&mut self) -> Place {
        while let Some(&place) = self.order.get(self.at) {
            if self.stands(place) {
                if self.late.is_empty() && self.order.len() - self.at >= AHEAD {
                    return place;
                }
                break;
            }
            self.at += 1;
        }
        self.find_first_of_all()
    }

    /// The same where pages have to be opened, or some have come late.
    #[inline(never)]
    fn find_first_of_all(&mut self) -> Place {
        loop {
            while let Some(&place) = self.order.get(self.at)
                && !self.stands(place)
            {
                self.at += 1;
            }
            if self.order.len() - self.at < AHEAD {
                self.open();
            }
            let next = self.order.get(self.at).copied().unwrap_or(Place::NOBODY);
            if !self.late.is_empty() {
                if self.late.len() > FEW && self.too_many_come_late() {
                    self.turn_back();
                    continue;
                }
                while let Some(&late) = self.late.last() {
                    if !late.before(next) {
                        break;
                    }
                    if self.stands(late) {
                        return late;
                    }
                    self.late.pop();
                }
            }
            if next == Place::NOBODY || self.stands(next) {
                return next;
            }
        }
    }

    /// Whether they are too many to be kept in order.
    fn too_many_come_late(&mut self) -> bool {
        let times = &self.times;
        self.late.retain(|place| times[place.actor as usize] == place.time);
        if self.late.len() > FEW {
            return true;
        }
        self.late.sort_unstable_by_key(|place| std::cmp::Reverse((place.time, place.actor)));
        false
    }

    /// Pages were opened too early: they are closed again from the earliest that is left on, and what came late is written
    /// where it belongs. Where many act in the same few cycles each would else come late behind those that act long after.
    #[inline(never)]
    fn turn_back(&mut self) {
        // Who was in order gets another number.
        self.gone += self.order.len();
        self.order.drain(..self.at);
        self.at = 0;
        self.order.append(&mut self.late);
        let times = &self.times;
        self.order.retain(|place| times[place.actor as usize] == place.time);
        let mut left = std::mem::take(&mut self.order);
        if let Some(first) = left.iter().map(|place| place.time).min() {
            self.close_from(first);
        }
        for place in left.drain(..) {
            self.write_down(place);
        }
        self.order = left;
    }

    /// `first` is on the first page that is not open. Nothing is in order.
    fn close_from(&mut self, first: u64) {
        // Pages that come in again take the places of as many at the end.
        let kept = first.max(self.opened.saturating_sub(PAGES)) + PAGES;
        for time in kept..self.opened + PAGES {
            if self.is_written(time) {
                self.read(time);
                self.far.extend(self.order.drain(..).map(|place| (place.time, place.actor)));
            }
        }
        self.opened = first;
    }

    fn is_written(&self, time: u64) -> bool {
        let page = page_of(time);
        self.written[page / 64] & 1 << (page % 64) != 0
    }

    /// Puts the next pages in order, until enough actors are.
    #[inline(never)]
    fn open(&mut self) {
        self.order.drain(..self.at);
        self.gone += self.at;
        self.at = 0;
        while self.order.len() < 2 * AHEAD {
            // Who acts long after the others waits on a page: who is written down until then would come late.
            let pages = if self.order.is_empty() { PAGES } else { NEAR };
            let Some(time) = self.next_page(pages) else { return };
            self.opened = time + 1;
            self.read(time);
        }
    }

    /// The time of the next page on which something is, if it is one of the next `pages`; if those are all, of any.
    fn next_page(&mut self, pages: u64) -> Option<u64> {
        loop {
            while let Some(&(time, actor)) = self.far.first()
                && time - self.opened < PAGES
            {
                self.far.pop_first();
                self.write_on_page(Place { time, actor });
            }
            let from = (self.opened % PAGES) as usize;
            let words = self.written.len();
            // The first word is looked at twice: from there on, and at last up to there.
            for step in 0..=(pages as usize).div_ceil(64) {
                let at = (from / 64 + step) % words;
                let mask = if step == 0 { u64::MAX << (from % 64) } else { u64::MAX };
                let bits = self.written[at] & mask;
                if bits != 0 {
                    let page = (at * 64) as u64 + u64::from(bits.trailing_zeros());
                    return Some(self.opened + (page + PAGES - from as u64) % PAGES);
                }
            }
            if pages < PAGES {
                return None;
            }
            self.opened = self.far.first()?.0;
        }
    }

    /// Takes what stands on a page, in order.
    fn read(&mut self, time: u64) {
        let page = page_of(time);
        self.written[page / 64] &= !(1 << (page % 64));
        let mut last = std::mem::replace(&mut self.pages[page], NONE);
        while let Some(leaf) = self.leaves.get_mut(last as usize) {
            let next = std::mem::replace(&mut leaf.next, self.unused);
            (self.unused, last) = (last, next);
            let Leaf { actors, count, .. } = *leaf;
            prefetch(&self.leaves, last as usize, Cache::First);
            for &actor in actors.iter().take(count as usize) {
                if self.times.get(actor as usize) == Some(&time) {
                    self.on_page.mark(actor);
                }
            }
        }
        self.on_page.take(|actor| self.order.push(Place { time, actor }));
    }
}

/// The page of a time among those that are kept.
#[inline]
const fn page_of(time: u64) -> usize {
    (time % PAGES) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cycles until an actor acts again: none, a few, some, more than there are pages; never.
    fn step() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..4u64, 4 => 0..40u64, 2 => 0..3000u64, 1 => 0..5 * PAGES, 1 => Just(NEVER)]
    }

    proptest! {
        /// The first is the earliest, and of several the one with the lowest number, whatever happens in which order.
        #[test]
        fn the_first_is_the_earliest(
            actors in 1..150u32,
            changes in proptest::collection::vec((any::<u32>(), step()), 1..500),
        ) {
            let mut diary = Diary::new(actors as usize);
            let mut plain = vec![NEVER; actors as usize];
            let mut now = 0;
            for (number, step) in changes {
                // Mostly who is first acts, as in a run.
                let Place { time, actor } = diary.find_first();
                let actor = if number % 3 > 0 && time != NEVER { actor } else { number / 3 % actors };
                if actor == diary.find_first().actor {
                    now = time;
                }
                let again = if step == NEVER { NEVER } else { now + step };
                if number % 5 > 0 || again >= plain[actor as usize] {
                    diary.remove(actor);
                }
                diary.lower(Place { time: again, actor });
                plain[actor as usize] = again;
                let first = (0..actors).min_by_key(|&actor| (plain[actor as usize], actor)).unwrap();
                let expected = match plain[first as usize] {
                    NEVER => Place::NOBODY,
                    time => Place { time, actor: first },
                };
                prop_assert_eq!(diary.find_first(), expected);
                prop_assert_eq!(diary.time(actor), again);
            }
        }
    }

    #[test]
    fn who_acts_soon_is_named_for_each_step_and_turn() {
        let mut diary = Diary::new(100);
        for actor in 0..100 {
            diary.lower(Place { time: u64::from(99 - actor) * 2, actor });
        }
        // They are not there when pages are opened.
        diary.remove(98);
        diary.remove(99);
        assert_eq!(diary.find_first().actor, 97);
        let named = |diary: &mut Diary| diary.coming([4, 3, 50, 0]).map(|coming| (coming.turn, coming.actors));
        assert_eq!(named(&mut diary), Some((0, [93, 94, 47, 97])));
        assert_eq!(named(&mut diary), None);
        for (first, turn) in [(97, 1), (96, 2)] {
            diary.remove(first);
            assert_eq!(diary.find_first().actor, first - 1);
            if turn == 2 {
                assert_eq!(named(&mut diary), Some((1, [92, 93, 46, 96])));
                assert_eq!(named(&mut diary), Some((2, [91, 92, 45, 95])));
                assert_eq!(named(&mut diary), None);
            }
        }
        // Those that came late are no step nearer to the others.
        diary.lower(Place { time: 0, actor: 99 });
        assert_eq!((diary.find_first().actor, named(&mut diary)), (99, None));
    }

    /// What is struck out leaves nothing behind.
    #[test]
    fn leaves_are_used_again() {
        let mut diary = Diary::new(50);
        for time in 0..5000 {
            for actor in 0..50 {
                diary.remove(actor);
                diary.lower(Place { time: time + 3, actor });
                diary.find_first();
            }
        }
        assert!(diary.leaves.len() < 50, "{}", diary.leaves.len());
        assert!(diary.order.capacity() + diary.late.capacity() < 2000);
        diary.lower(Place { time: 0, actor: 0 });
        diary.remove(0);
        diary.lower(Place { time: 10 * PAGES, actor: 0 });
        diary.remove(0);
        assert!(diary.far.is_empty());
    }

    /// All act in the same few cycles, and say each time that they act long after, and earlier than that when they are called.
    /// To put them all in order for each few of them would take a million times as long.
    #[test]
    fn a_crowd_in_step_is_not_put_in_order_again_and_again() {
        const ACTORS: u32 = 30_000;
        let mut diary = Diary::new(ACTORS as usize);
        let at = |actor, time| Place { time, actor };
        for actor in 0..ACTORS {
            diary.lower(at(actor, 0));
        }
        for round in 0..3 {
            let times = [0, 20, 700, 720, 760].map(|time| round * 1000 + time);
            for (time, then) in times.into_iter().zip(times.into_iter().skip(1).chain([round * 1000 + 1000])) {
                for actor in 0..ACTORS {
                    assert_eq!(diary.find_first(), at(actor, time));
                    diary.remove(actor);
                    // A computation's end, before which an interrupt comes.
                    diary.lower(at(actor, if then % 1000 == 700 { then + 300 } else { then }));
                }
                if then % 1000 == 700 {
                    assert_eq!(diary.find_first(), at(0, then + 300));
                    for actor in 0..ACTORS {
                        diary.lower(at(actor, then));
                    }
                }
            }
        }
    }
}
