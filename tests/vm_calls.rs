//! How many system calls a spawn into a cgroup takes, where an ordinary user can make one, too.

#[path = "common/calls.rs"]
mod calls;

use palisade_testkit::{cgroup_dir, skip};

const BUDGETS: [calls::Budget; 1] = [("P6", 140, 260)];

#[test]
fn a_spawn_into_a_cgroup_makes_no_more_calls_than_written_down() {
    if cgroup_dir().is_none() {
        skip!("no delegated cgroup v2 directory", needs = "controllers");
    }
    calls::check(&BUDGETS, "a_spawn_into_a_cgroup_makes_no_more_calls_than_written_down");
}
