//! A machine of VMs and pCPUs, whichever engine runs it: what it is made of, and what came of it.

mod config;
mod result;
mod runner;
pub(in crate::engine) mod setup;
pub(in crate::engine) mod verdict;

pub use config::{Chaos, Device, Guest, MachineConfig, MachineError, TooManyCallers};
pub use result::{MachineRun, TrailEntry, VmResult, What};
pub(in crate::engine) use runner::{Progress, Runner, Trail};
