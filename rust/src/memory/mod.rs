//! Physical memory that processor and hypervisor share: 64-bit words, allocations with owners.
//!
//! The only room that knows about atomics. It holds no `unsafe`: lazily zeroed words come from a library that proves
//! that all-zero bytes are a value of the type.

mod owner;
mod physical;
mod word;

pub use owner::{Allocation, Owner};
pub use physical::{LINE_WORDS, Line, OutOfMemory, PAGE_WORDS, Page, PhysicalMemory};
pub use word::Word;
