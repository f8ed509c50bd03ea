//! What vCPUs execute: programs of statements, and plain lists of interrupts from a recording.

mod action;
mod awaited;
mod code;
mod cursor;
#[cfg(test)]
mod cursor_tests;
mod frames;
mod program;
mod recorded;
mod sends;
mod shared;
mod sight;
mod statement;
#[cfg(test)]
mod testing;
mod workload;

pub use action::{Action, Actor, Moment};
pub use awaited::Awaited;
pub use code::{GuestCode, Listing};
pub use cursor::Cursor;
pub use program::{Program, ProgramError};
pub use recorded::RecordedLife;
pub use sends::{Send, Sends, Via, end_of_interrupt};
pub use shared::{GuestMemory, MOST_CALLERS};
pub use sight::{Sight, View};
pub use statement::{Branch, Delivery, Mode, Statement, Target};
pub use workload::{Microbenchmark, Workload, WorkloadPrograms};
