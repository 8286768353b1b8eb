//! Counting allocations.

mod sys;

pub use sys::{Counting, allocated};
