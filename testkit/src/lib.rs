#![doc = include_str!("../README.md")]

mod child;
mod probe;
mod skip;
mod snapshot;
mod sys;
mod time;

pub use child::{Forked, Outcome, fork, in_child, try_in_child};
pub use probe::{can_unshare_user, cgroup_dir, is_root, temp_dir};
pub use skip::{SkipValue, note_skip};
pub use snapshot::Snapshot;
pub use sys::raw_call;
pub use time::{scaled, wait_until};
