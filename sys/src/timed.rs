//! A program that writes down when it came to each step.

use crate::program::{Arg, Place, Program};
use crate::step::Step;
use crate::wire::*;

impl Program {
    /// The same program, with a look at the clock before each step up to `last`, and where the times will stand: as two
    /// 8-byte words, seconds and nanoseconds of `CLOCK_REALTIME` (the one that no time namespace shifts); zero for a
    /// step that was not come to.
    pub fn timed(&self, last: Step) -> (Self, Vec<(Step, Place)>) {
        let mut timed = self.clone();
        timed.ops.clear();
        timed.objects.clear();
        let mut marks = Vec::new();
        // Where each operation came to stand, its look at the clock included.
        let mut moved = Vec::with_capacity(self.ops.len() + 1);
        for (index, op) in self.ops.iter().enumerate() {
            moved.push(timed.ops.len() as u32);
            let step = Step::from_raw(op.step);
            let begins = index == 0 || self.ops[index - 1].step != op.step;
            if begins && step <= last {
                timed.at(step, "");
                let place = timed.room(16);
                timed.call(libc::SYS_clock_gettime, [Arg::from(libc::CLOCK_REALTIME), place.into()]);
                marks.push((step, place));
            }
            timed.ops.push(*op);
            timed.objects.push(self.objects[index].clone());
        }
        moved.push(timed.ops.len() as u32);
        for op in &mut timed.ops {
            if op.kind == KIND_CALL && matches!(op.rule & !RULE_RETRY, RULE_JUMP | RULE_BRANCH) {
                op.jump = moved[op.jump as usize];
            }
        }
        (timed, marks)
    }
}
