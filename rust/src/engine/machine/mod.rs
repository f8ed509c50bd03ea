//! A machine of VMs and pCPUs, whichever engine runs it: what it is made of, and what came of it.

mod config;
mod result;

pub use config::{Chaos, Device, Guest, MachineConfig, MachineError};
pub use result::{MachineRun, TrailEntry, VmResult, What};
