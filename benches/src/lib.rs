//! What the benches share: the raw-syscall floor below each profile, and a payload without a libc.

pub mod floor;
pub mod payload;
mod sys;
