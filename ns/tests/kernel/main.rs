//! Namespaces on the real kernel, as root and as an ordinary user.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod handle;
mod join;
mod sys;
mod unshare;
