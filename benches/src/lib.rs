//! What the benches share: the profiles and the raw-syscall floor below each, a payload without a libc, an allocator that
//! counts.

pub mod count;
pub mod floor;
pub mod payload;
pub mod profiles;
mod sys;
