//! What happened: counters and the fate of each interrupt, in columns.
//!
//! Each thread keeps its own [`Ledger`]; they are put together when the run is over.

mod account;
mod fate;
mod ledger;
mod summary;

pub use account::{Account, Counts, Scheduling, Traffic};
pub use fate::{Fate, FateColumns};
pub use ledger::{Delivery, Ledger, Notifications, ViolationRecord};
pub use summary::{ExitCount, IpiTotals, Kind, Summary, VcpuTotals};
