//! What the states say when all are known: the worst case over all paths, and cycles.

use super::model::{Model, Move};
use super::search::{PARTS, SPURIOUS_NOTIFICATION, SPURIOUS_WAKEUP, Space, after, number, place};
use super::table::{Most, Part};
use crate::memory::{Cache, prefetch, with_huge_pages};
use std::collections::VecDeque;

/// The most that can happen on any path; none: without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorstCase {
    /// Notifications that came for nothing.
    pub spurious_notifications: Option<u32>,
    /// Wake-ups for nothing.
    pub spurious_wakeups: Option<u32>,
}

/// Something for each state, by number. Parts have about the same number of states, so little is left over.
struct PerState<T>(Vec<T>);

impl<T: Copy> PerState<T> {
    fn new(space: &Space, value: T) -> Self {
        let most = space.parts.iter().map(Part::len).max().unwrap_or(0);
        let mut all = with_huge_pages(most * PARTS);
        all.resize(most * PARTS, value);
        Self(all)
    }

    #[inline]
    fn get(&self, number: u32) -> T {
        self.0[plain(number) as usize]
    }

    #[inline]
    fn of(&mut self, number: u32) -> &mut T {
        &mut self.0[plain(number) as usize]
    }

    /// Will be needed soon.
    #[inline]
    fn ask_for(&self, number: u32) {
        prefetch(&self.0, plain(number) as usize, Cache::First);
    }
}

/// Where each state's edges begin; and where the last one's end.
struct Edges<'s> {
    space: &'s Space,
    begin: Vec<Vec<u32>>,
}

impl<'s> Edges<'s> {
    fn new(space: &'s Space) -> Self {
        let begin = |part: &Part| {
            let ends = (0..part.len()).scan(0, |at, index| {
                *at += u32::from(part.degree(index));
                Some(*at)
            });
            std::iter::once(0).chain(ends).collect()
        };
        Self { space, begin: space.parts.iter().map(begin).collect() }
    }

    fn of(&self, number: u32) -> &'s [u32] {
        let (part, index) = place(number);
        let begin = &self.begin[part];
        &self.space.parts[part].edges[begin[index] as usize..begin[index + 1] as usize]
    }
}

/// The worst case over all paths; none where it has no end, or is more than can be counted.
///
/// The search has told every state what can have happened before it on the ways that were known by then. What came later
/// is handed on along edges, level by level, again until nothing is left.
pub(super) fn worst_case(space: &Space) -> WorstCase {
    const AHEAD: usize = 24;
    // Side by side, without the states.
    let mut all = PerState::new(space, (Most::default(), 0));
    for (part, states) in space.parts.iter().enumerate() {
        for index in 0..states.len() {
            *all.of(number(part, index)) = (states.most(index), states.degree(index));
        }
    }
    let mut again = true;
    while again {
        again = false;
        let (mut begin, mut ends) = ([0; PARTS], [0; PARTS]);
        for level in &space.levels {
            for (at, part) in space.parts.iter().enumerate() {
                for index in begin[at] as usize..level[at] as usize {
                    let first = ends[at];
                    let (here, degree) = all.get(number(at, index));
                    ends[at] += usize::from(degree);
                    if !here.news {
                        continue;
                    }
                    all.of(number(at, index)).0.news = false;
                    for at in first..ends[at] {
                        if let Some(&edge) = part.edges.get(at + AHEAD) {
                            all.ask_for(edge);
                        }
                        let edge = part.edges[at];
                        let (there, _) = all.of(edge);
                        if there.hear(after(here, edge)) {
                            there.news = true;
                            // Not later in this round: in the next.
                            let (to, index) = place(edge);
                            again |= index < level[to] as usize;
                        }
                    }
                }
            }
            begin = *level;
        }
    }
    let mut worst = Most::default();
    for &(most, _) in &all.0 {
        worst.hear(most);
    }
    let bounded = |most: u8| (most < u8::MAX).then_some(most.into());
    WorstCase { spurious_notifications: bounded(worst.notifications), spurious_wakeups: bounded(worst.wakeups) }
}

/// The number alone.
const fn plain(edge: u32) -> u32 {
    edge & !(SPURIOUS_NOTIFICATION | SPURIOUS_WAKEUP)
}

/// The edges between some of the states, by their place among them. They are few, so what is behind each can be looked
/// up side by side, and a search that goes deep jumps about in little memory.
struct Among {
    begin: Vec<u32>,
    to: Vec<u32>,
}

impl Among {
    fn new(edges: &Edges<'_>, states: &[u32]) -> Self {
        const AHEAD: usize = 8;
        // The place from 1 on; 0: it is not one of them.
        let mut places: PerState<u32> = PerState::new(edges.space, 0);
        for (at, &state) in (1..).zip(states) {
            *places.of(state) = at;
        }
        let mut among = Self { begin: vec![0], to: Vec::new() };
        for (at, &state) in states.iter().enumerate() {
            if let Some(&ahead) = states.get(at + AHEAD) {
                for &edge in edges.of(ahead) {
                    places.ask_for(edge);
                }
            }
            among.to.extend(edges.of(state).iter().filter_map(|&edge| places.get(edge).checked_sub(1)));
            among.begin.push(among.to.len() as u32);
        }
        among
    }

    fn of(&self, state: usize) -> &[u32] {
        &self.to[self.begin[state] as usize..self.begin[state + 1] as usize]
    }
}

/// Strongly connected groups of more than one state, or of one that leads to itself, within `states`; each begins with
/// the state that was reached first, and they come in that order.
fn components(edges: &Edges<'_>, states: &[u32]) -> Vec<Vec<u32>> {
    let among = Among::new(edges, states);
    // In order of visits from 1 on, 0: not visited; the lowest that is reached from it.
    let (mut visit, mut low) = (vec![0u32; states.len()], vec![0u32; states.len()]);
    let mut on_stack = vec![false; states.len()];
    let (mut clock, mut stack, mut groups) = (1, Vec::new(), Vec::new());
    for root in 0..states.len() {
        if visit[root] != 0 {
            continue;
        }
        let mut path: Vec<(usize, usize)> = vec![(root, 0)];
        while let Some((state, next)) = path.last_mut() {
            let state = *state;
            if *next == 0 {
                (visit[state], low[state], on_stack[state]) = (clock, clock, true);
                clock += 1;
                stack.push(state);
            }
            if let Some(&to) = among.of(state).get(*next) {
                // A state is not entered again as new: its first edge was taken.
                *next += 1;
                let to = to as usize;
                if visit[to] == 0 {
                    path.push((to, 0));
                } else if on_stack[to] {
                    low[state] = low[state].min(visit[to]);
                }
                continue;
            }
            path.pop();
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[state]);
            }
            if low[state] == visit[state] {
                let begin = stack.iter().rposition(|&member| member == state).unwrap_or(0);
                let members = stack.split_off(begin);
                for &member in &members {
                    on_stack[member] = false;
                }
                if members.len() > 1 || among.of(state).contains(&(state as u32)) {
                    let mut group: Vec<u32> = members.into_iter().map(|member| states[member]).collect();
                    group.sort_unstable();
                    groups.push(group);
                }
            }
        }
    }
    groups.sort_unstable();
    groups
}

/// A cycle that fair scheduling may follow for ever while something posted waits: its states, the first of them again
/// at the end.
pub(super) fn livelock(model: &Model<'_>, space: &Space) -> Option<Vec<u32>> {
    let edges = Edges::new(space);
    components(&edges, &space.owed).into_iter().find_map(|group| fair_cycle(model, &edges, &group))
}

/// A cycle through the whole of what fairness asks for: each actor acts, or cannot somewhere.
fn fair_cycle(model: &Model<'_>, edges: &Edges<'_>, group: &[u32]) -> Option<Vec<u32>> {
    let inside = |state: u32| group.binary_search(&state).is_ok();
    let mut unserved: u32 = u32::MAX;
    // States, or edges, that the cycle has to go through.
    let mut witnesses: Vec<(u32, Option<u32>)> = Vec::new();
    for &state in group {
        let world = model.layout.unpack(edges.space.state(state));
        let mut able = 0;
        for (it, to) in successors(model, edges, state) {
            able |= if it.optional(&world) { 0 } else { it.actor().bit() };
            if inside(to) && unserved & it.actor().bit() != 0 {
                unserved &= !it.actor().bit();
                witnesses.push((state, Some(to)));
            }
        }
        if unserved & !able != 0 {
            unserved &= able;
            witnesses.push((state, None));
        }
    }
    if unserved != 0 {
        return None;
    }
    let first = *group.first()?;
    let mut cycle = vec![first];
    for (from, to) in witnesses.into_iter().map(|(from, to)| (from, to.unwrap_or(from))).chain([(first, first)]) {
        walk(model, edges, &mut cycle, from, &inside)?;
        if to != from {
            cycle.push(to);
        }
    }
    if cycle.len() == 1 {
        let (_, next) = successors(model, edges, first).into_iter().find(|&(_, to)| inside(to))?;
        cycle.push(next);
        walk(model, edges, &mut cycle, first, &inside)?;
    }
    Some(cycle)
}

/// Goes on to `goal`, the shortest way inside the group.
fn walk(
    model: &Model<'_>,
    edges: &Edges<'_>,
    path: &mut Vec<u32>,
    goal: u32,
    inside: &impl Fn(u32) -> bool,
) -> Option<()> {
    let start = *path.last()?;
    let mut from = std::collections::BTreeMap::from([(start, start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(state) = queue.pop_front() {
        if state == goal {
            let mut way = Vec::new();
            let mut at = goal;
            while at != start {
                way.push(at);
                at = *from.get(&at)?;
            }
            path.extend(way.into_iter().rev());
            return Some(());
        }
        for (_, to) in successors(model, edges, state) {
            if inside(to) && !from.contains_key(&to) {
                from.insert(to, state);
                queue.push_back(to);
            }
        }
    }
    None
}

/// The moves of a state, and where they lead.
fn successors(model: &Model<'_>, edges: &Edges<'_>, state: u32) -> Vec<(Move, u32)> {
    let world = model.layout.unpack(edges.space.state(state));
    let mut edges = edges.of(state).iter();
    let mut all = Vec::new();
    model.moves(&world, &mut |it| all.extend(edges.next().map(|&edge| (it, plain(edge)))));
    all
}
