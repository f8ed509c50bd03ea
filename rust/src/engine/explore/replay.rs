//! A schedule again, step by step: alone, or with each actor on a thread of its own and real atomics between them.

use super::CheckError;
use super::memory::{Memory, Shared};
use super::model::{Kind, Model, Move};
use super::state::World;
use super::trace::TraceStep;
use std::sync::{Condvar, Mutex, PoisonError};

/// What came of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The steps.
    pub steps: Vec<TraceStep>,
    /// What is wrong at its end.
    pub violation: Option<Kind>,
    /// What is wrong, in a sentence.
    pub diagnosis: Option<String>,
    /// The words of memory were after each step what the model says.
    pub confirmed: bool,
}

/// Makes the moves that `choices` number. With `threads` each actor is a thread, the words are atomics that all of them
/// share, and whose turn it is follows the schedule.
///
/// # Errors
/// A number that no move has; threads under TSO, for no program can keep a store in its processor's buffer.
pub fn replay(model: &Model<'_>, choices: &[usize], threads: bool) -> Result<Replay, CheckError> {
    if threads && model.tso() {
        return Err(CheckError::Bounds(
            "nobody can make a processor keep a store in its buffer: under tso a schedule is replayed without threads"
                .into(),
        ));
    }
    let (mut worlds, mut moves, mut steps, mut violation) = (vec![model.first()], Vec::new(), Vec::new(), None);
    let mut world = model.first();
    for (number, &choice) in choices.iter().enumerate() {
        let possible = model.moves_of(&world);
        let Some(&it) = possible.get(choice) else {
            let are = format!("are {} moves", possible.len());
            return Err(CheckError::Choice { step: number + 1, are, asked: choice });
        };
        let Some((step, outcome)) = model.tell(&mut world, choice) else { break };
        violation = outcome.violation;
        moves.push(it);
        steps.push(step);
        worlds.push(world);
    }
    let certain = model.moves_of(&world).into_iter().any(|it| !it.optional(&world));
    let at_rest = if certain { None } else { model.quiet(&world) };
    let violation = violation.or_else(|| model.wrong(&world)).or(at_rest).or_else(|| cycle(model, &worlds));
    let (steps, confirmed) = if threads { forced(model, &moves, &worlds) } else { (steps, true) };
    Ok(Replay { steps, violation, diagnosis: violation.map(|kind| model.diagnosis(kind, &world)), confirmed })
}

/// The way ends where it was before, with something posted all the while.
fn cycle(model: &Model<'_>, worlds: &[World]) -> Option<Kind> {
    let (last, before) = worlds.split_last()?;
    let begin = before.iter().rposition(|world| world == last)?;
    before[begin..].iter().all(|world| model.owed(world)).then_some(Kind::Livelock)
}

/// Whose turn it is, and what its predecessor left that is nobody else's business.
struct Turn {
    step: usize,
    world: World,
    told: Vec<TraceStep>,
    as_predicted: bool,
}

/// The schedule on threads. Returns the steps, and whether memory was what the model says after each.
fn forced(model: &Model<'_>, moves: &[Move], worlds: &[World]) -> (Vec<TraceStep>, bool) {
    let first = model.first();
    let memory = Shared::new(model.senders(), &first.vcpus[..model.vcpus()], &first.pcpus[..model.pcpus()]);
    let turn = Mutex::new(Turn { step: 0, world: first, told: Vec::new(), as_predicted: true });
    let changed = Condvar::new();
    let mut actors: Vec<u32> = moves.iter().map(|it| it.actor().bit()).collect();
    actors.sort_unstable();
    actors.dedup();
    std::thread::scope(|scope| {
        for actor in actors {
            let (turn, changed, memory) = (&turn, &changed, &memory);
            scope.spawn(move || {
                let mine = moves.iter().enumerate().filter(|(_, it)| it.actor().bit() == actor);
                for (number, &it) in mine {
                    let waiting = turn.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut turn =
                        changed.wait_while(waiting, |turn| turn.step != number).unwrap_or_else(PoisonError::into_inner);
                    let choice = model.moves_of(&turn.world).iter().position(|&possible| possible == it);
                    let (told, _) = model.tell_on_shared(&mut turn.world, memory, it, choice.unwrap_or_default());
                    turn.told.push(told);
                    turn.as_predicted &=
                        worlds.get(number + 1) == Some(&turn.world) && agrees(model, memory, &turn.world);
                    turn.step += 1;
                    changed.notify_all();
                }
            });
        }
    });
    let turn = turn.into_inner().unwrap_or_else(PoisonError::into_inner);
    (turn.told, turn.as_predicted)
}

/// Whether the words say what the state says.
fn agrees(model: &Model<'_>, memory: &Shared, world: &World) -> bool {
    let vcpus = (0..model.vcpus()).all(|number| {
        let mut read = world.vcpus[number];
        memory.store(number, &mut read);
        let mode = memory.words(number).mode() == crate::hypervisor::Mode::InGuest;
        read == world.vcpus[number] && mode == world.vcpus[number].newest_mode()
    });
    let pcpus = (0..model.pcpus()).all(|number| {
        let mut read = world.pcpus[number];
        memory.store_requests(number, &mut read);
        read == world.pcpus[number]
    });
    vcpus && pcpus
}
