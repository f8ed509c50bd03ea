//! What vCPUs execute: programs of statements, and plain lists of interrupts from a recording.

mod code;
mod cursor;
#[cfg(test)]
mod cursor_tests;
mod program;
mod recorded;
mod sends;
mod shared;
mod statement;
#[cfg(test)]
mod testing;
mod workload;

pub use code::GuestCode;
pub use cursor::{Action, Actor, Cursor, Moment, View};
pub use program::{Program, ProgramError};
pub use recorded::RecordedLife;
pub use sends::{Send, Sends, Via, end_of_interrupt};
pub use shared::{GuestMemory, MOST_CALLERS};
pub use statement::{Branch, Delivery, Mode, Statement, Target};
pub use workload::{Microbenchmark, Workload, WorkloadPrograms};
