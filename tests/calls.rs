//! How many system calls a spawn takes: written down, counted by strace, and as many as the plan says.

#[path = "common/calls.rs"]
mod calls;

const BUDGETS: [calls::Budget; 8] = [
    ("P0", 70, 150),
    ("P1", 70, 155),
    ("P2", 80, 255),
    ("P3", 130, 255),
    ("P4", 130, 260),
    ("P5", 130, 260),
    ("P6", 140, 260),
    ("default", 200, 470),
];

#[test]
fn a_spawn_makes_no_more_calls_than_written_down() {
    calls::check(&BUDGETS, "a_spawn_makes_no_more_calls_than_written_down");
}
