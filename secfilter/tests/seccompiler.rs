//! The same policies through seccompiler: the same verdicts, and what each program costs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use palisade_secfilter::{Action, Insn, Policy, Rule, SeccompData, Syscall, arg};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

mod common;
use common::{Random, run_bpf};

/// A random policy, in both languages: one action for what matches, another for the rest.
fn policies(random: &mut Random) -> (Policy, Vec<Insn>) {
    let mut policy = Policy::new(Action::Errno(1)).unknown(Action::Errno(1));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for _ in 0..1 + random.below(25) {
        let nr = random.below(460) as u32;
        if rules.get(&i64::from(nr)).is_some_and(Vec::is_empty) {
            continue;
        }
        let mut rule = Rule::new([Syscall::new(nr)], Action::Allow);
        let mut theirs = Vec::new();
        for _ in 0..random.below(4) {
            let index = random.below(6) as u8;
            let dword = random.below(2) == 0;
            let (len, subject, all) = if dword {
                (SeccompCmpArgLen::Dword, arg(index).low32(), 0xffff_ffff)
            } else {
                (SeccompCmpArgLen::Qword, arg(index), u64::MAX)
            };
            let value = random.word() & all;
            let mask = random.word() & all;
            let (ours, op) = match random.below(7) {
                0 => (subject.eq(value), SeccompCmpOp::Eq),
                1 => (subject.ne(value), SeccompCmpOp::Ne),
                2 => (subject.lt(value), SeccompCmpOp::Lt),
                3 => (subject.le(value), SeccompCmpOp::Le),
                4 => (subject.gt(value), SeccompCmpOp::Gt),
                5 => (subject.ge(value), SeccompCmpOp::Ge),
                _ => (subject.masked(mask).eq(value & mask), SeccompCmpOp::MaskedEq(mask)),
            };
            // What is always or never true is an error here; leave it out on both sides.
            if policy
                .clone()
                .rule(Rule::new(["read"], Action::Log).when(ours))
                .compile()
                .is_err_and(|e| e.to_string().contains("true"))
            {
                continue;
            }
            rule = rule.when(ours);
            theirs.push(SeccompCondition::new(index, len, op, value).unwrap());
        }
        policy = policy.rule(rule);
        let entry = rules.entry(i64::from(nr)).or_default();
        if theirs.is_empty() {
            // In seccompiler an empty list stands for "any arguments".
            entry.clear();
        } else {
            entry.push(SeccompRule::new(theirs).unwrap());
        }
    }
    let filter =
        SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, TargetArch::x86_64).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let insn =
        |insn: &seccompiler::sock_filter| Insn { code: insn.code, jt: insn.jt, jf: insn.jf, k: insn.k };
    (policy, program.iter().map(insn).collect())
}

/// A million random (policy, call) pairs.
#[test]
fn a74_same_verdicts_as_seccompiler() {
    let (policies_tried, calls) = (250, 4000);
    let mut random = Random(3);
    let (mut ours_len, mut theirs_len) = (0, 0);
    for _ in 0..policies_tried {
        let (policy, theirs) = policies(&mut random);
        let filter = policy.compile().unwrap();
        let ours = filter.instructions();
        ours_len += ours.len();
        theirs_len += theirs.len();
        for _ in 0..calls {
            let nr = Syscall::new(random.below(480) as u32);
            let data = SeccompData::new(nr, std::array::from_fn(|_| random.word()));
            let own = run_bpf(ours, &data);
            assert_eq!(own, filter.evaluate(&data), "{data:?}");
            assert_eq!(run_bpf(&theirs, &data), own, "{data:?}\n{filter}");
        }
    }
    println!("instructions: {ours_len} ours, {theirs_len} seccompiler's");
    assert!(ours_len < theirs_len, "{ours_len} {theirs_len}");
}
