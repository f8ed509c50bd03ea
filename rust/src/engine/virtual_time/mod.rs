//! The virtual-time engine: a machine as a deterministic simulation of events, with a cost in cycles for every act.
//!
//! One thread runs everything. Each pCPU has a clock; the one whose next act is earliest acts, and may go on while
//! nobody else could act before it (`calendar` has the order, which is total: the same seed gives the same events on
//! any machine). What acts do is the code that all engines share; here are the scheduler (`scheduler`, of a `pcpu`), the time in a guest
//! (`guest`) and its acts (`acts`), devices (`device`), and what each act costs ([`Costs`]). `run` makes the machine,
//! `simulation` says whose turn it is, `clock` finds out when nothing comes of it any longer. For speed alone are `ahead`,
//! which spares turns, and `reading`, which asks for memory early.
//!
//! What happens within one act happens at its beginning, in the order of the code; an act is a stretch of KVM's code
//! with interrupts off, or one instruction of a guest. So interrupts find a vCPU in its guest, on its way out of it, in
//! root mode or on its way in, but two stretches of KVM's code do not interleave step by step: that is what the explorer
//! is for.

mod acts;
mod ahead;
mod bitmap;
mod calendar;
mod clock;
mod close;
mod costs;
mod device;
mod diary;
mod guest;
mod host;
mod latency;
mod log;
mod marks;
mod pcpu;
mod reading;
mod run;
mod scheduler;
mod simulation;
mod spinners;
mod stay;
mod timetable;
mod tournament;

pub use costs::{Costs, CostsError};
pub use latency::{Class, Latencies};
pub use log::{Log, Logged};
pub use run::{Options, Spent, VirtualRun, run, run_recorded};
pub use timetable::{Fates, Preemption};

#[cfg(test)]
mod tests;
