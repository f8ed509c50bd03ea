//! From a policy and bounds to a verdict.

use super::CheckError;
use super::graph::{WorstCase, livelock, worst_case};
use super::model::{Kind, Model};
use super::search::{Found, Space, search};
use super::trace::TraceStep;

/// How far the search may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads.
    pub threads: usize,
    /// States.
    pub max_states: usize,
    /// Bytes for states and their table.
    pub max_bytes: usize,
}

/// A shortest way to something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// What is wrong at its end.
    pub kind: Kind,
    /// The way.
    pub steps: Vec<TraceStep>,
    /// The step at which an endless cycle begins; its last step leads back there.
    pub cycle_from: Option<usize>,
    /// What is wrong, in a sentence.
    pub diagnosis: String,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Something wrong.
    pub counterexample: Option<Counterexample>,
    /// The limit that was hit before all was explored.
    pub undecided: Option<String>,
    /// States that were found.
    pub states: usize,
    /// Moves between them.
    pub transitions: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// Bytes of the states, their parents and their edges. The hash table has 5 to 11 more for each state.
    pub bytes: usize,
    /// The most that can happen on any path, if all was explored.
    pub worst_case: Option<WorstCase>,
}

impl Verdict {
    /// Proved (true), refuted (false), or neither.
    #[must_use]
    pub const fn holds(&self) -> Option<bool> {
        match (&self.counterexample, &self.undecided) {
            (Some(_), _) => Some(false),
            (None, None) => Some(true),
            (None, Some(_)) => None,
        }
    }
}

/// Explores all that can happen. `keep_going` is asked some times a second, and told the states so far.
///
/// # Errors
/// `keep_going` said no.
pub fn check(
    model: &Model<'_>,
    limits: &Limits,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<Verdict, CheckError> {
    let mut space = search(model, limits, keep_going)?;
    let (states, transitions) = (space.len(), space.edges());
    let mut verdict = Verdict {
        counterexample: None,
        undecided: space.undecided.take(),
        states,
        transitions,
        depth: space.depth,
        bytes: space.bytes(),
        worst_case: None,
    };
    if let Some(found) = space.found {
        verdict.counterexample = way_to(model, &space, found);
    } else if verdict.undecided.is_none() {
        for part in &mut space.parts {
            part.forget_slots();
        }
        match livelock(model, &space) {
            Some(cycle) => verdict.counterexample = around(model, &space, &cycle),
            None => verdict.worst_case = Some(worst_case(&space)),
        }
    }
    Ok(verdict)
}

/// The states from the first to this one.
fn states_to(space: &Space, mut state: u32) -> Vec<u32> {
    let mut states = vec![state];
    while space.parent(state) != state {
        state = space.parent(state);
        states.push(state);
    }
    states.reverse();
    states
}

fn way_to(model: &Model<'_>, space: &Space, found: Found) -> Option<Counterexample> {
    let choices = choices(model, space, &states_to(space, found.state))?;
    tell(model, choices.into_iter().chain(found.choice), found.kind, None)
}

fn around(model: &Model<'_>, space: &Space, cycle: &[u32]) -> Option<Counterexample> {
    let to = states_to(space, *cycle.first()?);
    let begin = to.len() - 1;
    let all = choices(model, space, &[&to[..], cycle.get(1..)?].concat())?;
    tell(model, all.into_iter(), Kind::Livelock, Some(begin))
}

/// Which move leads from each state to the next, from the first on.
fn choices(model: &Model<'_>, space: &Space, states: &[u32]) -> Option<Vec<usize>> {
    let mut world = model.first();
    let next = states.iter().skip(1);
    next.map(|&state| model.choice_to(&mut world, &model.layout.unpack(space.state(state)))).collect()
}

fn tell(
    model: &Model<'_>,
    choices: impl Iterator<Item = usize>,
    kind: Kind,
    cycle_from: Option<usize>,
) -> Option<Counterexample> {
    let mut world = model.first();
    let steps = choices.map(|choice| Some(model.tell(&mut world, choice)?.0)).collect::<Option<Vec<_>>>()?;
    Some(Counterexample { kind, steps, cycle_from, diagnosis: model.diagnosis(kind, &world) })
}
