//! The exhaustive engine: every interleaving of a posted-interrupt policy's atomic steps with hardware that posts, with
//! preemption, migration and exits, within bounds.
//!
//! [`check`] ends with a proof for the bounds, or with a shortest way to something wrong. What the model has and leaves
//! out is told in docs/laboratory.md.

mod agent;
mod bounds;
mod diagnosis;
mod graph;
mod handler;
mod host;
mod memory;
mod model;
mod replay;
mod search;
mod state;
mod step;
mod symmetry;
mod table;
mod thread;
mod trace;
mod verdict;

pub use bounds::{Bounds, MemoryModel};
pub use graph::WorstCase;
pub use model::{Actor, Kind, Model, Move};
pub use replay::{Replay, replay};
pub use state::World;
pub use trace::TraceStep;
pub use verdict::{Counterexample, Limits, Verdict, check};

use thiserror::Error;

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// A bound that cannot be.
    #[error("{0}")]
    Bounds(String),
    /// A routine that these bounds need.
    #[error(
        "{policy} has no routine {routine}, which is needed because {why}: write it, or \"{routine}:\" alone if nothing is done there"
    )]
    MissingRoutine {
        /// The policy.
        policy: String,
        /// The routine.
        routine: &'static str,
        /// What needs it.
        why: &'static str,
    },
    /// A schedule that does not fit.
    #[error("step {step} of the schedule cannot be made: there {are}, and it asks for number {asked}")]
    Choice {
        /// The step, from 1.
        step: usize,
        /// What can be done there.
        are: String,
        /// What was asked.
        asked: usize,
    },
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}

#[cfg(test)]
mod tests;
