//! Who acts when.

pub mod explain;
pub mod manual;
pub mod threads;
