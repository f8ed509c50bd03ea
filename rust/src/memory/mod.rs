//! Physical memory that processor and hypervisor share: 64-bit words, allocations with owners.
//!
//! The only room that knows about atomics, and the only one that may hold `unsafe`. Hints to the caches and to the kernel,
//! and one locked instruction that the standard library does not have, are all of it: lazily zeroed words come from a
//! library that proves that all-zero bytes are a value of the type.

mod apic_pages;
mod huge_pages;
mod owner;
mod physical;
mod prefetch;
mod word;

pub use apic_pages::Registers;
pub use huge_pages::with_huge_pages;
pub use owner::{Allocation, Owner};
pub use physical::{LINE_WORDS, Line, OutOfMemory, PAGE_WORDS, Page, PhysicalMemory};
pub use prefetch::{Cache, prefetch, prefetch_lines};
pub use word::Word;
