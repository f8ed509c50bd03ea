//! What the states say when all are known: the worst case over all paths, and cycles.

use super::model::{Model, Move};
use super::search::{SPURIOUS_NOTIFICATION, SPURIOUS_WAKEUP, Space, number, place};
use std::collections::VecDeque;

/// The most that can happen on any path; none: without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorstCase {
    /// Notifications that came for nothing.
    pub spurious_notifications: Option<u32>,
    /// Wake-ups for nothing.
    pub spurious_wakeups: Option<u32>,
}

/// A number for each state.
struct PerState<T>(Vec<Vec<T>>);

impl<T: Copy> PerState<T> {
    fn new(space: &Space, value: T) -> Self {
        Self(space.parts.iter().map(|part| vec![value; part.len()]).collect())
    }

    fn get(&self, number: u32) -> T {
        let (part, index) = place(number);
        self.0[part][index]
    }

    fn of(&mut self, number: u32) -> &mut T {
        let (part, index) = place(number);
        &mut self.0[part][index]
    }
}

/// Where each state's edges begin.
struct Edges<'s> {
    space: &'s Space,
    begin: Vec<Vec<u32>>,
}

impl<'s> Edges<'s> {
    fn new(space: &'s Space) -> Self {
        let begin = |degrees: &[u8]| {
            let begins = degrees.iter().scan(0, |at, &degree| {
                let begin = *at;
                *at += u32::from(degree);
                Some(begin)
            });
            begins.collect()
        };
        Self { space, begin: space.parts.iter().map(|part| begin(&part.degrees)).collect() }
    }

    fn of(&self, number: u32) -> &'s [u32] {
        let (part, index) = place(number);
        let begin = self.begin[part][index] as usize;
        let part = &self.space.parts[part];
        &part.edges[begin..begin + usize::from(part.degrees[index])]
    }
}

fn numbers(space: &Space) -> impl Iterator<Item = u32> {
    space.parts.iter().enumerate().flat_map(|(part, states)| (0..states.len()).map(move |index| number(part, index)))
}

/// What is known of a state while its turn has not come: edges that lead to it and were not followed yet, and the most
/// notifications and wake-ups for nothing on any path to it.
trait Tally: Copy + Default {
    /// One more edge leads here. False: more than can be counted.
    fn expect(&mut self) -> bool;
    /// An edge with these bits was followed from a state with that tally. None: more than can be counted; else whether
    /// it was the last edge.
    fn arrive(&mut self, from: Self, edge: u32) -> Option<bool>;
    /// No edge is left to be followed.
    fn ready(self) -> bool;
    /// Notifications and wake-ups.
    fn most(self) -> (u32, u32);
}

/// Two bytes, which nearly always do: what is reached for at random should fit into a cache.
#[derive(Clone, Copy, Default)]
struct Narrow {
    incoming: u8,
    /// Notifications in the low half, wake-ups in the high one.
    most: u8,
}

impl Tally for Narrow {
    fn expect(&mut self) -> bool {
        self.incoming = self.incoming.saturating_add(1);
        self.incoming < u8::MAX
    }

    fn arrive(&mut self, from: Self, edge: u32) -> Option<bool> {
        let notifications = (from.most & 15) + u8::from(edge & SPURIOUS_NOTIFICATION != 0);
        let wakeups = (from.most >> 4) + u8::from(edge & SPURIOUS_WAKEUP != 0);
        if notifications > 15 || wakeups > 15 {
            return None;
        }
        self.most = (self.most & 15).max(notifications) | (self.most >> 4).max(wakeups) << 4;
        self.incoming -= 1;
        Some(self.incoming == 0)
    }

    fn ready(self) -> bool {
        self.incoming == 0
    }

    fn most(self) -> (u32, u32) {
        (u32::from(self.most & 15), u32::from(self.most >> 4))
    }
}

/// Enough for any number of states.
#[derive(Clone, Copy, Default)]
struct Wide {
    incoming: u32,
    notifications: u32,
    wakeups: u32,
}

impl Tally for Wide {
    fn expect(&mut self) -> bool {
        self.incoming += 1;
        true
    }

    fn arrive(&mut self, from: Self, edge: u32) -> Option<bool> {
        self.notifications = self.notifications.max(from.notifications + u32::from(edge & SPURIOUS_NOTIFICATION != 0));
        self.wakeups = self.wakeups.max(from.wakeups + u32::from(edge & SPURIOUS_WAKEUP != 0));
        self.incoming -= 1;
        Some(self.incoming == 0)
    }

    fn ready(self) -> bool {
        self.incoming == 0
    }

    fn most(self) -> (u32, u32) {
        (self.notifications, self.wakeups)
    }
}

/// The worst case over all paths; without end where there are cycles.
pub(super) fn worst_case(space: &Space) -> WorstCase {
    tallied::<Narrow>(space).or_else(|| tallied::<Wide>(space)).unwrap_or_default()
}

/// States get their turn in an order in which every edge leads forward. None: more than can be counted.
fn tallied<T: Tally>(space: &Space) -> Option<WorstCase> {
    let edges = Edges::new(space);
    let mut tallies: PerState<T> = PerState::new(space, T::default());
    for part in &space.parts {
        for &edge in &part.edges {
            if !tallies.of(edge).expect() {
                return None;
            }
        }
    }
    let mut ready: VecDeque<u32> = numbers(space).filter(|&number| tallies.get(number).ready()).collect();
    let (mut left, mut most) = (space.len(), (0, 0));
    while let Some(number) = ready.pop_front() {
        left -= 1;
        let here = tallies.get(number);
        most = (most.0.max(here.most().0), most.1.max(here.most().1));
        for &edge in edges.of(number) {
            if tallies.of(edge).arrive(here, edge)? {
                ready.push_back(plain(edge));
            }
        }
    }
    let bounded = |most: u32| (left == 0).then_some(most);
    Some(WorstCase { spurious_notifications: bounded(most.0), spurious_wakeups: bounded(most.1) })
}

/// The number alone.
const fn plain(edge: u32) -> u32 {
    edge & !(SPURIOUS_NOTIFICATION | SPURIOUS_WAKEUP)
}

/// Strongly connected groups of more than one state, or of one that leads to itself, within `states`; each begins with
/// the state that was reached first, and they come in that order.
fn components(edges: &Edges<'_>, states: &[u32]) -> Vec<Vec<u32>> {
    const OUTSIDE: u32 = 0;
    let space = edges.space;
    // 0: not among the states; 1: not visited; from 2 on: in the order of visits. Low bits of the second: lowest reachable.
    let mut visit: PerState<u32> = PerState::new(space, OUTSIDE);
    let mut low: PerState<u32> = PerState::new(space, 0);
    let mut on_stack: PerState<bool> = PerState::new(space, false);
    for &state in states {
        *visit.of(state) = 1;
    }
    let (mut clock, mut stack, mut groups) = (2, Vec::new(), Vec::new());
    for &root in states {
        if visit.get(root) != 1 {
            continue;
        }
        let mut path: Vec<(u32, usize)> = vec![(root, 0)];
        while let Some(&(state, at)) = path.last() {
            if at == 0 {
                *visit.of(state) = clock;
                *low.of(state) = clock;
                clock += 1;
                stack.push(state);
                *on_stack.of(state) = true;
            }
            if let Some(&edge) = edges.of(state).get(at) {
                if let Some(top) = path.last_mut() {
                    top.1 += 1;
                }
                let to = plain(edge);
                match visit.get(to) {
                    OUTSIDE => {}
                    1 => path.push((to, 0)),
                    seen if on_stack.get(to) => *low.of(state) = low.get(state).min(seen),
                    _ => {}
                }
                // A state without edges left is not entered again as new: its first edge was taken.
                continue;
            }
            path.pop();
            if let Some(&(parent, _)) = path.last() {
                *low.of(parent) = low.get(parent).min(low.get(state));
            }
            if low.get(state) == visit.get(state) {
                let begin = stack.iter().rposition(|&member| member == state).unwrap_or(0);
                let mut group: Vec<u32> = stack.split_off(begin);
                for &member in &group {
                    *on_stack.of(member) = false;
                }
                group.sort_unstable();
                if group.len() > 1 || edges.of(state).iter().any(|&edge| plain(edge) == state) {
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
    // Posts are counted, so nobody posts on a cycle; and who is in the middle of a post would have to go on.
    let candidate = |&number: &u32| {
        let world = model.layout.unpack(space.state(number));
        model.owed(&world) && model.agents_rest(&world)
    };
    let candidates: Vec<u32> = numbers(space).filter(candidate).collect();
    let edges = Edges::new(space);
    components(&edges, &candidates).into_iter().find_map(|group| fair_cycle(model, &edges, &group))
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
