//! What vCPUs execute.

mod program;

pub use program::{Program, Send, Via, end_of_interrupt};
