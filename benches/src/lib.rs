//! What the benches share: the raw-syscall floor below each profile, a payload without a libc, an allocator that counts.

pub mod count;
pub mod floor;
pub mod payload;
mod sys;
