//! The states that were seen, a part of them: a hash table of numbers over a flat array of words.

use crate::memory::prefetch;

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

/// A part of the states.
#[derive(Debug)]
pub(super) struct Part {
    words: usize,
    slots: Vec<u32>,
    /// The states, `CHUNK` of them together: growing moves none.
    states: Vec<Vec<u64>>,
    /// Numbers of the states that they were reached from first.
    parents: Vec<u32>,
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

    /// The indices of states, each with its hash and its parent behind it; new ones come last.
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
            each(self.insert(&record[..words], record[words], record[words + 1] as u32));
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
                let state = self.state((self.slots[at] & INDEX_MASK) as usize);
                prefetch(state, 0);
                prefetch(state, self.words - 1);
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// The index of a state; a new one comes last.
    #[inline]
    pub(super) fn insert(&mut self, state: &[u64], hash: u64, parent: u32) -> usize {
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
        self.parents.push(parent);
        index
    }

    #[cold]
    fn grow(&mut self) {
        let mut slots = vec![EMPTY; self.slots.len() * 2];
        let mask = slots.len() - 1;
        for index in 0..self.len() {
            let hash = hash(self.state(index));
            let mut at = hash as usize & mask;
            while slots[at] != EMPTY {
                at = (at + 1) & mask;
            }
            slots[at] = tag_of(hash) | index as u32;
        }
        self.slots = slots;
    }

    /// Bytes of the states, and of what is kept about each; the hash table's own slots are not among them.
    pub(super) fn bytes(&self) -> usize {
        self.len() * self.words * 8 + self.parents.len() * 4 + self.degrees.len() + self.edges.len() * 4
    }

    /// Bytes that are allocated.
    pub(super) fn allocated(&self) -> usize {
        self.slots.capacity() * 4
            + self.states.len() * CHUNK * self.words * 8
            + self.parents.capacity() * 4
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
