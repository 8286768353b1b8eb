//! Policies made of the bytes: what compiles means what the policy means.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_secfilter::{Action, Policy, Rule, SeccompData, Syscall, arg};

fuzz_target!(|data: &[u8]| {
    let mut policy = Policy::new(Action::EPERM);
    let mut values = vec![0, 1, u64::MAX];
    for rule in data.chunks_exact(20) {
        let word = |at: usize| rule[at..at + 8].iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let (mask, value) = (word(4), word(12));
        let subject = arg(rule[2] % 8).masked(mask);
        let condition = match rule[3] % 6 {
            0 => subject.eq(value),
            1 => subject.ne(value),
            2 => subject.lt(value),
            3 => subject.le(value),
            4 => subject.gt(value),
            _ => subject.ge(value),
        };
        let calls = (0..1 + u32::from(rule[1] % 4)).map(|n| Syscall::new(u32::from(rule[0]) * 2 + n));
        policy = policy.rule(Rule::new(calls, Action::Errno(u16::from(rule[1]))).when(condition));
        values.extend([mask, value, value.wrapping_add(1), value ^ (1 << 32)]);
    }
    let Ok(filter) = policy.compile() else { return };
    for nr in 0..520 {
        let args = std::array::from_fn(|n| values[(nr as usize * 7 + n * 3) % values.len()]);
        let call = SeccompData::new(Syscall::new(nr), args);
        assert_eq!(filter.evaluate(&call), policy.evaluate(&call));
    }
});
