//! Breadth-first search over all states, by several threads, with results that do not depend on how many.
//!
//! States are spread over parts by their hash. A level is worked off in blocks of states: threads make the moves of their
//! share of the block and sort what comes out by part; then each part is taken by one thread, which looks up what came
//! for it in the order of the block. So a state's number depends on the model alone.

use super::bounds::MOST_AGENTS;
use super::memory::Scratch;
use super::model::{Kind, Model, Move, Outcome, Unwatched};
use super::state::MOST_WORDS;
use super::table::{About, MOST, Most, Part, hash, of_words};
use super::{CheckError, Limits};
use std::time::Instant;

const PART_BITS: u32 = 4;
pub(super) const PARTS: usize = 1 << PART_BITS;
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
    /// States of each part up to the end of each level.
    pub(super) levels: Vec<[u32; PARTS]>,
    /// States in which something waits to be delivered and nobody is posting.
    pub(super) owed: Vec<u32>,
}

/// What a thread makes of its share of a block.
#[derive(Default)]
struct Share {
    /// For each part: states, with what is kept about them and their hash behind them.
    out: [Vec<u64>; PARTS],
    /// Where the moves led to, in order.
    edges: Vec<Edge>,
    /// The edges.
    links: Vec<u32>,
    degrees: Vec<u8>,
    owed: Vec<u32>,
    found: Option<Found>,
}

/// An edge whose state has no number yet.
#[derive(Clone, Copy)]
enum Edge {
    /// To the next state of this part, with the bits beside its number.
    To(u8, u32),
    /// The same as so many edges before.
    Again(u32),
}

/// The threads' shares, and the numbers of the states in them, by part and share: kept from block to block.
struct Desk {
    shares: Vec<Share>,
    numbers: Vec<Vec<Vec<u32>>>,
}

impl Share {
    fn clear(&mut self) {
        self.out.iter_mut().for_each(Vec::clear);
        self.edges.clear();
        self.degrees.clear();
        self.owed.clear();
        self.found = None;
    }

    /// Makes edges of the numbers that the states of the `at`-th share have.
    fn link(&mut self, numbers: &[Vec<Vec<u32>>], at: usize) {
        let mut numbers: [_; PARTS] = std::array::from_fn(|part| numbers[part][at].iter());
        self.links.clear();
        for &edge in &self.edges {
            let link = match edge {
                Edge::To(part, bits) => numbers[usize::from(part)].next().map(|number| number | bits),
                Edge::Again(before) => self.links.get(self.links.len() - before as usize).copied(),
            };
            self.links.extend(link);
        }
    }
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

    fn most(&self, number: u32) -> Most {
        let (part, index) = place(number);
        self.parts[part].most(index)
    }

    /// The state that a state was first reached from; the first state is its own.
    pub(super) fn parent(&self, number: u32) -> u32 {
        let (part, index) = place(number);
        self.parts[part].parent(index)
    }
}

/// Explores `model`. `keep_going` is asked some times a second, and told the states so far.
///
/// # Errors
/// `keep_going` said no.
pub(super) fn search(
    model: &Model<'_>,
    limits: &Limits,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<Space, CheckError> {
    let words = model.layout.words();
    let mut space = Space {
        parts: (0..PARTS).map(|_| Part::new(words)).collect(),
        depth: 0,
        found: None,
        undecided: None,
        levels: Vec::new(),
        owed: Vec::new(),
    };
    let mut first = vec![0; words + 2];
    model.layout.pack(&model.first(), &mut first[..words]);
    let hash = hash(&first[..words]);
    let part = part_of(hash);
    first[words] = About::reached(number(part, 0), Most::default()).into_bits();
    first[words + 1] = hash;
    space.parts[part].insert_all(&first, |_| {});
    let mut done = [0; PARTS];
    let mut desk = Desk {
        shares: (0..limits.threads.max(1)).map(|_| Share::default()).collect(),
        numbers: vec![vec![Vec::new(); limits.threads.max(1)]; PARTS],
    };
    let mut asked = Instant::now();
    loop {
        let level: Vec<u32> = (0..PARTS)
            .flat_map(|part| (done[part]..space.parts[part].len()).map(move |index| number(part, index)))
            .collect();
        if level.is_empty() {
            return Ok(space);
        }
        for (done, part) in done.iter_mut().zip(&mut space.parts) {
            *done = part.len();
            part.told = part.len();
        }
        space.levels.push(done.map(|states| states as u32));
        for block in level.chunks(BLOCK) {
            if asked.elapsed().as_millis() > 50 {
                asked = Instant::now();
                if !keep_going(space.len() as u64) {
                    return Err(CheckError::Interrupted);
                }
            }
            work_off(model, &mut space, block, &mut desk);
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
fn work_off(model: &Model<'_>, space: &mut Space, block: &[u32], desk: &mut Desk) {
    let threads = if block.len() < SHARED { 1 } else { desk.shares.len() };
    let chunks = block.chunks(block.len().div_ceil(threads));
    let shares = &mut desk.shares[..chunks.len()];
    if let [share] = shares {
        make_moves(model, space, block, share);
    } else {
        let space = &*space;
        std::thread::scope(|scope| {
            for (share, chunk) in shares.iter_mut().zip(chunks.clone()) {
                scope.spawn(move || make_moves(model, space, chunk, share));
            }
        });
    }
    // The first in the block's order, whoever found it.
    space.found = shares.iter().find_map(|share| share.found);
    if space.found.is_some() {
        return;
    }
    look_up(&mut space.parts, shares, &mut desk.numbers, threads);
    let numbers = &desk.numbers;
    if let [share] = shares {
        share.link(numbers, 0);
    } else {
        std::thread::scope(|scope| {
            for (at, share) in shares.iter_mut().enumerate() {
                scope.spawn(move || share.link(numbers, at));
            }
        });
    }
    for (share, parents) in shares.iter().zip(chunks) {
        let (mut degrees, mut links) = (&share.degrees[..], &share.links[..]);
        for parents in parents.chunk_by(|one, other| place(*one).0 == place(*other).0) {
            let part = &mut space.parts[place(parents[0]).0];
            let (of_part, rest) = degrees.split_at(parents.len());
            let (edges, others) = links.split_at(of_part.iter().map(|&degree| usize::from(degree)).sum());
            part.lead_to(place(parents[0]).1, of_part, edges);
            (degrees, links) = (rest, others);
        }
        space.owed.extend_from_slice(&share.owed);
    }
}

/// The numbers of the states that the shares have for each part.
fn look_up(parts: &mut [Part], shares: &[Share], numbers: &mut [Vec<Vec<u32>>], threads: usize) {
    let look = |at: usize, part: &mut Part, numbers: &mut Vec<Vec<u32>>| {
        for (share, numbers) in shares.iter().zip(numbers) {
            numbers.clear();
            part.insert_all(&share.out[at], |index| numbers.push(number(at, index)));
        }
    };
    let mut all = parts.iter_mut().zip(numbers).enumerate();
    if threads == 1 {
        all.for_each(|(at, (part, numbers))| look(at, part, numbers));
        return;
    }
    let look = &look;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let group: Vec<_> = all.by_ref().take(PARTS.div_ceil(threads)).collect();
            scope.spawn(move || group.into_iter().for_each(|(at, (part, numbers))| look(at, part, numbers)));
        }
    });
}

fn make_moves(model: &Model<'_>, space: &Space, parents: &[u32], share: &mut Share) {
    of_words!(model.layout.words(), make_moves_of(model, space, parents, share));
}

fn make_moves_of<const WORDS: usize>(model: &Model<'_>, space: &Space, parents: &[u32], share: &mut Share) {
    share.clear();
    let memory = Scratch::new(model.senders());
    for &parent in parents {
        let most = space.most(parent);
        let world = model.layout.unpack(&space.state(parent)[..WORDS]);
        if let Some(kind) = model.wrong(&world) {
            share.found = Some(Found { kind, state: parent, choice: None });
            return;
        }
        let (mut moves, mut certain, mut wrong) = (0, 0, None);
        let mut edges_of = [0; MOST_AGENTS];
        model.moves(&world, &mut |it| {
            if let Move::Agent(agent) = it {
                edges_of[usize::from(agent)] = share.edges.len();
                if let Some(twin) = model.twin(&world, usize::from(agent)) {
                    share.edges.push(Edge::Again((share.edges.len() - edges_of[twin]) as u32));
                    moves += 1;
                    certain += usize::from(!it.optional(&world));
                    return;
                }
            }
            let mut next = world;
            let outcome = model.apply(&mut next, &memory, it, &mut Unwatched);
            if let (Some(kind), None) = (outcome.violation, wrong) {
                wrong = Some((kind, moves));
            }
            moves += 1;
            certain += usize::from(!it.optional(&world));
            model.canonical_after(&world, &mut next);
            let (mut record, bits) = ([0; MOST_WORDS + 2], bits_of(outcome));
            model.layout.pack(&next, &mut record[..WORDS]);
            record[WORDS] = About::reached(parent, after(most, bits)).into_bits();
            record[WORDS + 1] = hash(&record[..WORDS]);
            let part = part_of(record[WORDS + 1]);
            share.out[part].extend_from_slice(&record[..WORDS + 2]);
            share.edges.push(Edge::To(part as u8, bits));
        });
        share.degrees.push(moves as u8);
        if let Some((kind, choice)) = wrong {
            share.found = Some(Found { kind, state: parent, choice: Some(choice) });
            return;
        }
        if certain == 0
            && let Some(kind) = model.quiet(&world)
        {
            share.found = Some(Found { kind, state: parent, choice: None });
            return;
        }
        // Posts are counted, so nobody posts on a cycle; and who is in the middle of a post would have to go on.
        if model.owed(&world) && model.agents_rest(&world) {
            share.owed.push(parent);
        }
    }
}

/// The most that can have happened behind an edge.
pub(super) const fn after(most: Most, edge: u32) -> Most {
    Most {
        notifications: most.notifications.saturating_add((edge & SPURIOUS_NOTIFICATION != 0) as u8),
        wakeups: most.wakeups.saturating_add((edge & SPURIOUS_WAKEUP != 0) as u8),
        news: false,
    }
}

const fn bits_of(outcome: Outcome) -> u32 {
    (if outcome.spurious_notification { SPURIOUS_NOTIFICATION } else { 0 })
        | (if outcome.spurious_wakeup { SPURIOUS_WAKEUP } else { 0 })
}
