//! Who acts when.

pub mod explain;
pub mod explore;
pub mod machine;
pub mod manual;
pub mod scheduler;
pub mod threads;
pub mod virtual_time;
