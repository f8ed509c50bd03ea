//! The states that were seen, a part of them: a hash table of numbers over a flat array of words.

use crate::memory::{Cache, prefetch, with_huge_pages};
use bitfield_struct::bitfield;

/// A slot: the state's index in the low bits, some bits of its hash above. Empty is all ones.
const INDEX_BITS: u32 = 26;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const EMPTY: u32 = u32::MAX;
/// States that are kept side by side.
const CHUNK: usize = if cfg!(test) { 1 << 6 } else { 1 << 13 };
/// States that a part can have.
pub(super) const MOST: usize = INDEX_MASK as usize;

/// The hash of a state.
#[inline]
pub(super) fn hash(words: &[u64]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut hash = 0u64;
    for &word in words {
        let mixed = u128::from(word ^ hash) * u128::from(FACTOR);
        hash = (mixed as u64) ^ ((mixed >> 64) as u64) ^ word.rotate_left(29);
    }
    let mixed = u128::from(hash) * u128::from(FACTOR);
    (mixed as u64) ^ ((mixed >> 64) as u64)
}

/// Calls a function whose first parameter is the words of a state: the compiler knows their number in each of its copies.
macro_rules! of_words {
    ($words:expr, $($function:ident)::+($($argument:expr),*)) => {
        match $words {
            ..=4 => $($function)::+::<4>($($argument),*),
            5 => $($function)::+::<5>($($argument),*),
            6 => $($function)::+::<6>($($argument),*),
            7 => $($function)::+::<7>($($argument),*),
            8 => $($function)::+::<8>($($argument),*),
            9 => $($function)::+::<9>($($argument),*),
            10 => $($function)::+::<10>($($argument),*),
            _ => $($function)::+::<{ $crate::engine::explore::state::MOST_WORDS }>($($argument),*),
        }
    };
}
pub(super) use of_words;

/// The most that can have happened before a state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Most {
    /// Notifications that came for nothing.
    pub(super) notifications: u8,
    /// Wake-ups for nothing.
    pub(super) wakeups: u8,
    /// Those behind it do not know yet.
    pub(super) news: bool,
}

impl Most {
    /// Takes over what is more in `other`. Returns whether anything is.
    #[inline]
    pub(super) fn hear(&mut self, other: Self) -> bool {
        let more = other.notifications > self.notifications || other.wakeups > self.wakeups;
        self.notifications = self.notifications.max(other.notifications);
        self.wakeups = self.wakeups.max(other.wakeups);
        more
    }
}

/// What is kept about a state beside itself, and stands behind it.
#[bitfield(u64)]
pub(super) struct About {
    /// The number of the state that it was reached from first.
    parent: u32,
    /// `Most`, by the ways that were found.
    notifications: u8,
    wakeups: u8,
    /// How many moves it has.
    degree: u8,
    news: bool,
    #[bits(7)]
    reserved: u8,
}

impl About {
    /// It was reached from `parent`, when this can have happened.
    pub(super) fn reached(parent: u32, most: Most) -> Self {
        Self::new().with_parent(parent).with_notifications(most.notifications).with_wakeups(most.wakeups)
    }

    /// The same when this can have happened, of which those behind do not know yet if it has told them.
    #[inline]
    fn hearing(self, most: Most, told: bool) -> Self {
        let news = self.news() || told;
        self.with_notifications(most.notifications).with_wakeups(most.wakeups).with_news(news)
    }

    #[inline]
    const fn most(self) -> Most {
        Most { notifications: self.notifications(), wakeups: self.wakeups(), news: self.news() }
    }
}

/// A part of the states.
#[derive(Debug)]
pub(super) struct Part {
    words: usize,
    slots: Vec<u32>,
    /// The states, each with what is kept about it, `CHUNK` of them together: growing moves none.
    states: Vec<Vec<u64>>,
    len: usize,
    /// The first that have told those behind them.
    pub(super) told: usize,
    /// Where moves lead, in order of index.
    pub(super) edges: Vec<u32>,
}

impl Part {
    pub(super) fn new(words: usize) -> Self {
        Self { words, slots: vec![EMPTY; 1 << 10], states: Vec::new(), len: 0, told: 0, edges: Vec::new() }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn state(&self, index: usize) -> &[u64] {
        let at = index % CHUNK * (self.words + 1);
        &self.states[index / CHUNK][at..at + self.words]
    }

    #[inline]
    fn about(&self, index: usize) -> About {
        About::from_bits(self.states[index / CHUNK][index % CHUNK * (self.words + 1) + self.words])
    }

    #[inline]
    fn change(&mut self, index: usize, change: impl FnOnce(About) -> About) {
        let word = &mut self.states[index / CHUNK][index % CHUNK * (self.words + 1) + self.words];
        *word = change(About::from_bits(*word)).into_bits();
    }

    pub(super) fn parent(&self, index: usize) -> u32 {
        self.about(index).parent()
    }

    #[inline]
    pub(super) fn most(&self, index: usize) -> Most {
        self.about(index).most()
    }

    /// How many moves a state has.
    #[inline]
    pub(super) fn degree(&self, index: usize) -> u8 {
        self.about(index).degree()
    }

    /// The moves of the states from the `first`-th on: how many each has, and where they lead.
    pub(super) fn lead_to(&mut self, first: usize, degrees: &[u8], edges: &[u32]) {
        for (index, &degree) in (first..).zip(degrees) {
            self.change(index, |about| about.with_degree(degree));
        }
        self.edges.extend_from_slice(edges);
    }

    /// The indices of states, each with what is kept about it and its hash behind it; new ones come last.
    pub(super) fn insert_all(&mut self, records: &[u64], each: impl FnMut(usize)) {
        of_words!(self.words, Self::insert_all_of(self, records, each));
    }

    /// Most of the time would go to waiting for memory: slots are asked for well ahead, then states.
    fn insert_all_of<const WORDS: usize>(&mut self, records: &[u64], mut each: impl FnMut(usize)) {
        const AHEAD: usize = 12;
        let length = WORDS + 2;
        let hash_of = |record: usize| records.get(record * length + WORDS + 1).copied();
        for ahead in 0..2 * AHEAD {
            self.ask_for_slot(hash_of(ahead));
        }
        for ahead in 0..AHEAD {
            self.ask_for_state::<WORDS>(hash_of(ahead));
        }
        for (number, record) in records.chunks_exact(length).enumerate() {
            self.ask_for_slot(hash_of(number + 2 * AHEAD));
            self.ask_for_state::<WORDS>(hash_of(number + AHEAD));
            each(self.insert::<WORDS>(&record[..=WORDS], record[WORDS + 1]));
        }
    }

    #[inline]
    fn ask_for_slot(&self, hash: Option<u64>) {
        if let Some(hash) = hash {
            prefetch(&self.slots, hash as usize & (self.slots.len() - 1), Cache::First);
        }
    }

    /// Asks for the first state that may be the one with this hash.
    #[inline]
    fn ask_for_state<const WORDS: usize>(&self, hash: Option<u64>) {
        let Some(hash) = hash else { return };
        let (mask, tag) = (self.slots.len() - 1, tag_of(hash));
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            if self.slots[at] & !INDEX_MASK == tag {
                let index = (self.slots[at] & INDEX_MASK) as usize;
                let (chunk, first) = (&self.states[index / CHUNK], index % CHUNK * (WORDS + 1));
                prefetch(chunk, first, Cache::First);
                prefetch(chunk, first + WORDS, Cache::First);
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// The index of a state, which has behind it what is kept about it; a new one comes last.
    #[inline]
    fn insert<const WORDS: usize>(&mut self, record: &[u64], hash: u64) -> usize {
        if self.len * 4 >= self.slots.len() * 3 {
            self.grow::<WORDS>();
        }
        let mask = self.slots.len() - 1;
        let tag = tag_of(hash);
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            let index = (slot & INDEX_MASK) as usize;
            if slot & !INDEX_MASK == tag {
                let first = index % CHUNK * (WORDS + 1);
                let kept = &mut self.states[index / CHUNK][first..=first + WORDS];
                if same::<WORDS>(kept, record) {
                    let mut most = About::from_bits(kept[WORDS]).most();
                    if most.hear(About::from_bits(record[WORDS]).most()) {
                        let about = About::from_bits(kept[WORDS]);
                        kept[WORDS] = about.hearing(most, index < self.told).into_bits();
                    }
                    return index;
                }
            }
            at = (at + 1) & mask;
        }
        let index = self.len;
        self.slots[at] = tag | index as u32;
        if index.is_multiple_of(CHUNK) {
            self.states.push(Vec::with_capacity(CHUNK * (WORDS + 1)));
        }
        self.states[index / CHUNK].extend_from_slice(record);
        self.len += 1;
        index
    }

    #[cold]
    fn grow<const WORDS: usize>(&mut self) {
        const TOGETHER: usize = 32;
        let mut slots = with_huge_pages(self.slots.len() * 2);
        slots.resize(self.slots.len() * 2, EMPTY);
        let mask = slots.len() - 1;
        let mut hashes = [0; TOGETHER];
        for first in (0..self.len()).step_by(TOGETHER) {
            let indices = first..self.len().min(first + TOGETHER);
            for (kept, index) in hashes.iter_mut().zip(indices.clone()) {
                *kept = hash(&self.state(index)[..WORDS]);
                prefetch(&slots, *kept as usize & mask, Cache::First);
            }
            for (&hash, index) in hashes.iter().zip(indices) {
                let mut at = hash as usize & mask;
                while slots[at] != EMPTY {
                    at = (at + 1) & mask;
                }
                slots[at] = tag_of(hash) | index as u32;
            }
        }
        self.slots = slots;
    }

    /// Bytes of the states, and of what is kept about each; the hash table's own slots are not among them.
    pub(super) fn bytes(&self) -> usize {
        self.len * (self.words + 1) * 8 + self.edges.len() * 4
    }

    /// Bytes that are allocated.
    pub(super) fn allocated(&self) -> usize {
        self.slots.capacity() * 4 + self.len * (self.words + 1) * 8 + self.edges.capacity() * 4
    }

    /// No state will be looked up any more.
    pub(super) fn forget_slots(&mut self) {
        self.slots = Vec::new();
    }
}

/// Whether two states are the same: they are too short for a call to be worth it.
#[inline]
fn same<const WORDS: usize>(one: &[u64], other: &[u64]) -> bool {
    one[..WORDS].iter().zip(&other[..WORDS]).all(|(one, other)| one == other)
}

/// Bits of the hash that the slot keeps: those that choose neither the part nor, mostly, the slot.
const fn tag_of(hash: u64) -> u32 {
    // Never all ones, so that no slot looks empty.
    ((hash >> 40) as u32 % 63) << INDEX_BITS
}
