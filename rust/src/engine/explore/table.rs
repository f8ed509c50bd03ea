//! The states that were seen, a part of them: a hash table of numbers over a flat array of words.

use crate::memory::prefetch;
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

/// How a state was reached.
#[bitfield(u64)]
pub(super) struct Origin {
    /// The number of the state before it.
    pub(super) parent: u32,
    notifications: u8,
    wakeups: u8,
    reserved: u16,
}

impl Origin {
    /// From `parent`, when this can have happened.
    pub(super) fn from(parent: u32, most: Most) -> Self {
        Self::new().with_parent(parent).with_notifications(most.notifications).with_wakeups(most.wakeups)
    }

    const fn most(self) -> Most {
        Most { notifications: self.notifications(), wakeups: self.wakeups(), news: false }
    }
}

/// A part of the states.
#[derive(Debug)]
pub(super) struct Part {
    words: usize,
    slots: Vec<u32>,
    /// The states, `CHUNK` of them together: growing moves none.
    states: Vec<Vec<u64>>,
    /// Numbers of the states that they were reached from first.
    parents: Vec<u32>,
    /// What can have happened before them, by the ways that were found.
    pub(super) most: Vec<Most>,
    /// The first that have told those behind them.
    pub(super) told: usize,
    /// How many moves each state has, in order of index.
    pub(super) degrees: Vec<u8>,
    /// Where they lead, in the same order.
    pub(super) edges: Vec<u32>,
}

impl Part {
    pub(super) fn new(words: usize) -> Self {
        Self {
            words,
            slots: vec![EMPTY; 1 << 10],
            states: Vec::new(),
            parents: Vec::new(),
            most: Vec::new(),
            told: 0,
            degrees: Vec::new(),
            edges: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    #[inline]
    pub(super) fn state(&self, index: usize) -> &[u64] {
        let at = index % CHUNK * self.words;
        &self.states[index / CHUNK][at..at + self.words]
    }

    pub(super) fn parent(&self, index: usize) -> u32 {
        self.parents[index]
    }

    /// The indices of states, each with its hash and its origin behind it; new ones come last.
    ///
    /// Most of the time would go to waiting for memory: slots are asked for well ahead, then states.
    pub(super) fn insert_all(&mut self, records: &[u64], mut each: impl FnMut(usize)) {
        const AHEAD: usize = 12;
        let words = self.words;
        let length = words + 2;
        let hash_of = |record: usize| records.get(record * length + words).copied();
        for ahead in 0..2 * AHEAD {
            self.ask_for_slot(hash_of(ahead));
        }
        for ahead in 0..AHEAD {
            self.ask_for_state(hash_of(ahead));
        }
        for (number, record) in records.chunks_exact(length).enumerate() {
            self.ask_for_slot(hash_of(number + 2 * AHEAD));
            self.ask_for_state(hash_of(number + AHEAD));
            each(self.insert(&record[..words], record[words], Origin::from_bits(record[words + 1])));
        }
    }

    #[inline]
    fn ask_for_slot(&self, hash: Option<u64>) {
        if let Some(hash) = hash {
            prefetch(&self.slots, hash as usize & (self.slots.len() - 1));
        }
    }

    /// Asks for the first state that may be the one with this hash.
    #[inline]
    fn ask_for_state(&self, hash: Option<u64>) {
        let Some(hash) = hash else { return };
        let (mask, tag) = (self.slots.len() - 1, tag_of(hash));
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            if self.slots[at] & !INDEX_MASK == tag {
                let index = (self.slots[at] & INDEX_MASK) as usize;
                let state = self.state(index);
                prefetch(&self.most, index);
                prefetch(state, 0);
                prefetch(state, self.words - 1);
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// The index of a state; a new one comes last.
    #[inline]
    pub(super) fn insert(&mut self, state: &[u64], hash: u64, origin: Origin) -> usize {
        if self.len() * 4 >= self.slots.len() * 3 {
            self.grow();
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
            if slot & !INDEX_MASK == tag && same(self.state(index), state) {
                let most = &mut self.most[index];
                most.news |= most.hear(origin.most()) && index < self.told;
                return index;
            }
            at = (at + 1) & mask;
        }
        let index = self.len();
        self.slots[at] = tag | index as u32;
        if index.is_multiple_of(CHUNK) {
            self.states.push(Vec::with_capacity(CHUNK * self.words));
        }
        self.states[index / CHUNK].extend_from_slice(state);
        self.parents.push(origin.parent());
        self.most.push(origin.most());
        index
    }

    #[cold]
    fn grow(&mut self) {
        const TOGETHER: usize = 32;
        let mut slots = vec![EMPTY; self.slots.len() * 2];
        let mask = slots.len() - 1;
        let mut hashes = [0; TOGETHER];
        for first in (0..self.len()).step_by(TOGETHER) {
            let indices = first..self.len().min(first + TOGETHER);
            for (kept, index) in hashes.iter_mut().zip(indices.clone()) {
                *kept = hash(self.state(index));
                prefetch(&slots, *kept as usize & mask);
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
        self.len() * (self.words * 8 + 4 + size_of::<Most>()) + self.degrees.len() + self.edges.len() * 4
    }

    /// Bytes that are allocated.
    pub(super) fn allocated(&self) -> usize {
        self.slots.capacity() * 4
            + self.states.len() * CHUNK * self.words * 8
            + self.parents.capacity() * 4
            + self.most.capacity() * size_of::<Most>()
            + self.degrees.capacity()
            + self.edges.capacity() * 4
    }

    /// No state will be looked up any more.
    pub(super) fn forget_slots(&mut self) {
        self.slots = Vec::new();
    }
}

/// Whether two states are the same: they are too short for a call to be worth it.
#[inline]
fn same(one: &[u64], other: &[u64]) -> bool {
    one.iter().zip(other).all(|(one, other)| one == other)
}

/// Bits of the hash that the slot keeps: those that choose neither the part nor, mostly, the slot.
const fn tag_of(hash: u64) -> u32 {
    // Never all ones, so that no slot looks empty.
    ((hash >> 40) as u32 % 63) << INDEX_BITS
}
