//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod sys;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use palisade_secfilter::{Action, Insn, SeccompData};

/// Says why a test cannot run here; a failure where PALISADE_TEST_REQUIRE lists `capability`.
pub(crate) fn skip(capability: &str, reason: &str) {
    let required = std::env::var("PALISADE_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == capability), "{capability} is required here: {reason}");
    eprintln!("SKIP {reason}");
}

/// Runs `body` in a forked child; its answer is the exit code, `Err` ends it with 99 after printing.
pub(crate) fn in_child(body: impl FnOnce() -> i32) -> ExitStatus {
    ExitStatus::from_raw(sys::fork_and_wait(body))
}

/// As [`in_child`], and the child's code must be 0.
#[track_caller]
pub(crate) fn passes_in_child(body: impl FnOnce() -> i32) {
    let status = in_child(body);
    assert_eq!(status.code(), Some(0), "{status}");
}

/// A small generator of the splitmix family: tests must be the same every time, or name their seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A word that is likely to tell two filters apart.
    pub(crate) fn word(&mut self) -> u64 {
        let half = |r: &mut Self| match r.below(10) {
            0..=4 => r.below(4),
            5 => 0x7fff_ffff,
            6 => 0x8000_0000,
            7 => 0xffff_fffe,
            8 => 0xffff_ffff,
            _ => r.next() & 0xffff_ffff,
        };
        let high = if self.below(2) == 0 { 0 } else { half(self) };
        high << 32 | half(self)
    }
}

/// A classic BPF interpreter that shares nothing with the crate's: one more opinion.
pub(crate) fn run_bpf(program: &[Insn], data: &SeccompData) -> Action {
    let mut bytes = Vec::from(data.nr.to_le_bytes());
    bytes.extend(data.arch.to_le_bytes());
    bytes.extend(data.instruction_pointer.to_le_bytes());
    data.args.iter().for_each(|arg| bytes.extend(arg.to_le_bytes()));
    let (mut a, mut pc) = (0u32, 0);
    loop {
        let Insn { code, jt, jf, k } = program[pc];
        pc += 1;
        let to = |holds: bool| usize::from(if holds { jt } else { jf });
        pc += match code {
            0x20 => {
                let at = k as usize;
                a = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                0
            }
            0x54 => {
                a &= k;
                0
            }
            0x05 => k as usize,
            0x15 => to(a == k),
            0x25 => to(a > k),
            0x35 => to(a >= k),
            0x45 => to(a & k != 0),
            0x06 => return Action::from_ret(k),
            other => panic!("instruction {other:#x}"),
        };
    }
}
