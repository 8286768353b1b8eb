//! The interpreter: runs the operations of an image, one after the other.
//!
//! No allocation, no lock, no errno of libc, no formatting, no panic: it runs between clone and exec, in memory
//! that may be shared with the host program. Compiled twice, like `wire.rs`. Everything that touches memory by
//! address is in `sys.rs`.

use super::sys::{Memory, exec_is_next};
use super::wire::*;

/// Where and why a program stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) index: u32,
    pub(crate) errno: i32,
    pub(crate) bit: u32,
}

/// Runs all operations of `memory`; the outcome is also written to its header.
pub(crate) fn run(memory: &mut Memory) -> Result<(), Stop> {
    memory.set_state(STATE_RUNNING);
    let outcome = run_ops(memory);
    match outcome {
        Ok(()) => memory.set_state(STATE_DONE),
        Err(stop) => memory.set_fault(stop),
    }
    outcome
}

fn run_ops(memory: &mut Memory) -> Result<(), Stop> {
    let mut index = 0;
    let mut sticky = 0;
    while let Some(op) = memory.op(index) {
        let stop = |errno, bit| Stop { index, errno, bit };
        let mut next = index + 1;
        match op.kind {
            KIND_CALL => {
                if exec_is_next(op.nr) {
                    memory.set_state(STATE_EXECUTING);
                }
                let result = call(memory, &op, 0);
                match judge(&op, result) {
                    Verdict::Go => {}
                    Verdict::Jump => next = op.jump,
                    Verdict::Remember(errno) if sticky == 0 || errno == EACCES => sticky = errno,
                    Verdict::Remember(_) => {}
                    Verdict::Stop(errno) => return Err(stop(errno, 0)),
                }
                if op.out != NO_SLOT {
                    memory.set_slot(op.out, result as u64).ok_or(stop(EFAULT, 0))?;
                }
            }
            KIND_SWEEP => {
                let mut left = op.value;
                while left != 0 {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    if let Verdict::Stop(errno) = judge(&op, call(memory, &op, bit)) {
                        return Err(stop(errno, bit));
                    }
                }
            }
            KIND_STORE => {
                let value = memory.arg(&op, 1, 0);
                memory.store(op.args[0], op.args[2], value).ok_or(stop(EFAULT, 0))?;
            }
            KIND_CHECK => {
                let word = memory.load(op.args[0], op.args[3]).ok_or(stop(EFAULT, 0))?;
                if word & op.args[1] != memory.arg(&op, 2, 0) {
                    return Err(stop(i32::from(op.errnos[0]), 0));
                }
            }
            KIND_RELOCATE => memory.relocate(op.args[0], op.args[1]).ok_or(stop(EFAULT, 0))?,
            KIND_GUARD => super::role::guard(memory, &op).ok_or(stop(EFAULT, 0))?,
            KIND_INIT => super::role::init(memory, &op).map_err(|errno| stop(errno, 0))?,
            KIND_FAIL => return Err(stop(if sticky != 0 { sticky } else { op.value as i32 }, 0)),
            _ => return Err(stop(EPROTO, 0)),
        }
        // Jumps go forward only, so every program ends.
        if next <= index {
            return Err(stop(EPROTO, 0));
        }
        index = next;
    }
    Ok(())
}

fn call(memory: &Memory, op: &Op, bit: u32) -> i64 {
    loop {
        let result = memory.call(op, bit);
        if result != -i64::from(EINTR) || op.rule & RULE_RETRY == 0 {
            return result;
        }
    }
}

enum Verdict {
    Go,
    Jump,
    Remember(i32),
    Stop(i32),
}

fn judge(op: &Op, result: i64) -> Verdict {
    let errno = if (-4095..0).contains(&result) { -result as i32 } else { 0 };
    let listed = errno != 0 && op.errnos.iter().any(|&e| i32::from(e) == errno);
    match op.rule & !RULE_RETRY {
        RULE_EXPECT if errno == 0 && result as u64 != op.value => Verdict::Stop(EPROTO),
        RULE_TOLERATE if listed => Verdict::Go,
        RULE_JUMP if listed => Verdict::Jump,
        RULE_STICKY if listed => Verdict::Remember(errno),
        RULE_BRANCH if result > 0 => Verdict::Jump,
        _ if errno != 0 => Verdict::Stop(errno),
        _ => Verdict::Go,
    }
}
