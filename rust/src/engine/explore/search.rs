//! Breadth-first search over all states, by several threads, with results that do not depend on how many.
//!
//! States are spread over parts by their hash. A level is worked off in blocks of states: threads make the moves of their
//! share of the block and sort what comes out by part; then each part is taken by one thread, which looks up what came
//! for it in the order of the block. So a state's number depends on the model alone.

use super::memory::Scratch;
use super::model::{Kind, Model, Outcome, Unwatched};
use super::table::{MOST, Part, hash};
use super::{CheckError, Limits};
use std::time::Instant;

const PART_BITS: u32 = 4;
const PARTS: usize = 1 << PART_BITS;
/// States of a block; with fewer than `SHARED` one thread is faster. Tests have many blocks, and share most of them.
const BLOCK: usize = if cfg!(test) { 1 << 9 } else { 1 << 17 };
const SHARED: usize = if cfg!(test) { 1 << 5 } else { 1 << 11 };

/// Bits of an edge beside the number of the state that it leads to.
pub(super) const SPURIOUS_NOTIFICATION: u32 = 1 << 31;
pub(super) const SPURIOUS_WAKEUP: u32 = 1 << 30;
const NUMBER: u32 = SPURIOUS_WAKEUP - 1;

/// The number of a state: its part, and its index there.
pub(super) const fn number(part: usize, index: usize) -> u32 {
    (index << PART_BITS | part) as u32
}

/// The part and the index.
pub(super) const fn place(number: u32) -> (usize, usize) {
    ((number & NUMBER) as usize % PARTS, ((number & NUMBER) >> PART_BITS) as usize)
}

/// Something wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: Kind,
    /// The state before it.
    pub(super) state: u32,
    /// Which of its moves leads there, or none: the state itself is wrong.
    pub(super) choice: Option<usize>,
}

/// All states, and how they hang together.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) parts: Vec<Part>,
    /// The longest of the shortest ways to a state, in moves.
    pub(super) depth: usize,
    pub(super) found: Option<Found>,
    /// Which limit ended the search.
    pub(super) undecided: Option<String>,
}

/// What a thread makes of its share of a block.
struct Share {
    /// For each part: states with their parent behind them.
    out: [Vec<u64>; PARTS],
    /// Parts that the moves led to, in order, with the bits of the edge.
    edges: Vec<(u8, u32)>,
    degrees: Vec<u8>,
    found: Option<Found>,
}

impl Space {
    /// The number of states.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    pub(super) fn edges(&self) -> usize {
        self.parts.iter().map(|part| part.edges.len()).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }

    pub(super) fn state(&self, number: u32) -> &[u64] {
        let (part, index) = place(number);
        self.parts[part].state(index)
    }

    /// The state that a state was first reached from; the first state is its own.
    pub(super) fn parent(&self, number: u32) -> u32 {
        let (part, index) = place(number);
        self.parts[part].parent(index)
    }
}

/// Explores `model`. `keep_going` is asked some times a second.
///
/// # Errors
/// `keep_going` said no.
pub(super) fn search(
    model: &Model<'_>,
    limits: &Limits,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Space, CheckError> {
    let words = model.layout.words();
    let mut space =
        Space { parts: (0..PARTS).map(|_| Part::new(words)).collect(), depth: 0, found: None, undecided: None };
    let mut first = vec![0; words];
    model.layout.pack(&model.first(), &mut first);
    let part = part_of(hash(&first));
    space.parts[part].insert(&first, hash(&first), number(part, 0));
    let mut done = [0; PARTS];
    let mut asked = Instant::now();
    loop {
        let level: Vec<u32> = (0..PARTS)
            .flat_map(|part| (done[part]..space.parts[part].len()).map(move |index| number(part, index)))
            .collect();
        if level.is_empty() {
            return Ok(space);
        }
        for (done, part) in done.iter_mut().zip(&space.parts) {
            *done = part.len();
        }
        for block in level.chunks(BLOCK) {
            if asked.elapsed().as_millis() > 50 {
                asked = Instant::now();
                if !keep_going() {
                    return Err(CheckError::Interrupted);
                }
            }
            work_off(model, &mut space, block, limits.threads);
            if space.found.is_some() {
                return Ok(space);
            }
            space.undecided = limit_hit(&space, limits);
            if space.undecided.is_some() {
                return Ok(space);
            }
        }
        space.depth += usize::from(done.iter().zip(&space.parts).any(|(&done, part)| part.len() > done));
    }
}

fn limit_hit(space: &Space, limits: &Limits) -> Option<String> {
    let (states, bytes) = (space.len(), space.parts.iter().map(Part::allocated).sum::<usize>());
    if states > limits.max_states {
        return Some(format!("more than {} states", limits.max_states));
    }
    if bytes > limits.max_bytes {
        return Some(format!("more than {} MiB of memory", limits.max_bytes >> 20));
    }
    let full = space.parts.iter().any(|part| part.len() + BLOCK * 32 > MOST);
    full.then(|| "more states than can be numbered".to_owned())
}

const fn part_of(hash: u64) -> usize {
    (hash >> (64 - PART_BITS)) as usize
}

/// Makes the moves of a block's states, and finds out which states they lead to.
fn work_off(model: &Model<'_>, space: &mut Space, block: &[u32], threads: usize) {
    let threads = if block.len() < SHARED { 1 } else { threads.max(1) };
    let chunk = block.len().div_ceil(threads);
    let mut shares: Vec<Share> = if threads == 1 {
        vec![make_moves(model, space, block)]
    } else {
        let space = &*space;
        std::thread::scope(|scope| {
            let handles: Vec<_> =
                block.chunks(chunk).map(|chunk| scope.spawn(move || make_moves(model, space, chunk))).collect();
            handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
        })
    };
    // The first in the block's order, whoever found it.
    space.found = shares.iter().find_map(|share| share.found);
    if space.found.is_some() {
        return;
    }
    let words = model.layout.words();
    let numbers = look_up(&mut space.parts, &shares, words, threads);
    let mut parents = block.iter();
    for (share, numbers) in shares.iter_mut().zip(numbers) {
        let mut numbers = numbers.map(Vec::into_iter);
        let mut edges = share.edges.iter();
        for (&degree, &parent) in share.degrees.iter().zip(&mut parents) {
            let part = &mut space.parts[place(parent).0];
            part.degrees.push(degree);
            for &(to, bits) in edges.by_ref().take(usize::from(degree)) {
                part.edges.extend(numbers[usize::from(to)].next().map(|number| number | bits));
            }
        }
    }
}

/// For each share and part: the numbers of the states that the share has for the part.
fn look_up(parts: &mut [Part], shares: &[Share], words: usize, threads: usize) -> Vec<[Vec<u32>; PARTS]> {
    let look = |at: usize, part: &mut Part| -> Vec<Vec<u32>> {
        let mut numbers = |share: &Share| {
            let mut numbers = Vec::with_capacity(share.out[at].len() / (words + 1));
            part.insert_all(&share.out[at], |index| numbers.push(number(at, index)));
            numbers
        };
        shares.iter().map(&mut numbers).collect()
    };
    let by_part: Vec<Vec<Vec<u32>>> = if threads == 1 {
        parts.iter_mut().enumerate().map(|(at, part)| look(at, part)).collect()
    } else {
        std::thread::scope(|scope| {
            let handles: Vec<_> = parts
                .chunks_mut(PARTS.div_ceil(threads))
                .enumerate()
                .map(|(group, parts)| {
                    let first = group * PARTS.div_ceil(threads);
                    scope.spawn(move || {
                        parts.iter_mut().enumerate().map(|(at, part)| look(first + at, part)).collect::<Vec<_>>()
                    })
                })
                .collect();
            handles.into_iter().filter_map(|handle| handle.join().ok()).flatten().collect()
        })
    };
    let mut by_share: Vec<[Vec<u32>; PARTS]> = shares.iter().map(|_| std::array::from_fn(|_| Vec::new())).collect();
    for (part, numbers) in by_part.into_iter().enumerate() {
        for (share, numbers) in by_share.iter_mut().zip(numbers) {
            share[part] = numbers;
        }
    }
    by_share
}

fn make_moves(model: &Model<'_>, space: &Space, parents: &[u32]) -> Share {
    let mut share = Share {
        out: std::array::from_fn(|_| Vec::new()),
        edges: Vec::with_capacity(parents.len() * 4),
        degrees: Vec::with_capacity(parents.len()),
        found: None,
    };
    let memory = Scratch::new(model.senders());
    let words = model.layout.words();
    let mut record = vec![0; words + 1];
    for &parent in parents {
        record[words] = u64::from(parent);
        let world = model.layout.unpack(space.state(parent));
        if let Some(kind) = model.wrong(&world) {
            share.found = Some(Found { kind, state: parent, choice: None });
            return share;
        }
        let (mut moves, mut certain, mut wrong) = (0, 0, None);
        model.moves(&world, &mut |it| {
            let mut next = world;
            let outcome = model.apply(&mut next, &memory, it, &mut Unwatched);
            if let (Some(kind), None) = (outcome.violation, wrong) {
                wrong = Some((kind, moves));
            }
            moves += 1;
            certain += usize::from(!it.optional(&world));
            model.canonical(&mut next);
            model.layout.pack(&next, &mut record[..words]);
            let part = part_of(hash(&record[..words]));
            share.out[part].extend_from_slice(&record);
            share.edges.push((part as u8, bits_of(outcome)));
        });
        share.degrees.push(moves as u8);
        if let Some((kind, choice)) = wrong {
            share.found = Some(Found { kind, state: parent, choice: Some(choice) });
            return share;
        }
        if certain == 0
            && let Some(kind) = model.quiet(&world)
        {
            share.found = Some(Found { kind, state: parent, choice: None });
            return share;
        }
    }
    share
}

const fn bits_of(outcome: Outcome) -> u32 {
    (if outcome.spurious_notification { SPURIOUS_NOTIFICATION } else { 0 })
        | (if outcome.spurious_wakeup { SPURIOUS_WAKEUP } else { 0 })
}
