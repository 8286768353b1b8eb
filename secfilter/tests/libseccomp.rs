//! The same policies through libseccomp, where the machine has it: the same verdicts.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use palisade_secfilter::{
    Action, Arch, Host, Insn, KernelVersion, Policy, Profile, Rule, SeccompData, Syscall, arg,
};

mod common;
use common::sys::{Libseccomp, ScmpArgCmp};
use common::{Random, run_bpf, skip};

const ALLOW: u32 = 0x7fff_0000;

fn insns(bytes: &[u8]) -> Vec<Insn> {
    let insn = |b: &[u8]| Insn {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(insn).collect()
}

/// A random policy in both languages. libseccomp wants distinct arguments in a rule, and leaves open what happens when
/// rules with different actions overlap: so one action per call.
fn policies(random: &mut Random, library: &Libseccomp) -> (Policy, Vec<Insn>) {
    let mut policy = Policy::new(Action::Errno(1)).unknown(Action::Errno(1));
    let mut rules = Vec::new();
    for _ in 0..1 + random.below(25) {
        let nr = random.below(336) as u32;
        let action = Action::Errno(2 + nr as u16);
        let mut rule = Rule::new([Syscall::new(nr)], action);
        let mut theirs = Vec::new();
        for index in 0..6u8 {
            if random.below(4) != 0 {
                continue;
            }
            let (a, b) = (random.word(), random.word());
            let subject = arg(index);
            let (condition, op) = match random.below(7) {
                0 => (subject.ne(a), 1),
                1 => (subject.lt(a), 2),
                2 => (subject.le(a), 3),
                3 => (subject.eq(a), 4),
                4 => (subject.ge(a), 5),
                5 => (subject.gt(a), 6),
                _ => (subject.masked(a).eq(b & a), 7),
            };
            let constant = Policy::new(Action::Allow).rule(Rule::new(["read"], Action::Log).when(condition));
            if constant.compile().is_err() {
                continue;
            }
            rule = rule.when(condition);
            theirs.push(ScmpArgCmp { arg: u32::from(index), op, a, b });
        }
        // What hides another rule is left out here too.
        let longer = policy.clone().rule(rule);
        if longer.compile().is_ok() {
            policy = longer;
            rules.push((action.to_ret(), nr, theirs));
        }
    }
    let tree = random.below(2) == 0;
    (policy, insns(&library.compile(Action::Errno(1).to_ret(), &rules, tree).unwrap()))
}

/// A million random (policy, call) pairs.
#[test]
fn a74_same_verdicts_as_libseccomp() {
    let Some(library) = Libseccomp::load() else {
        return skip("libseccomp", "libseccomp.so.2 is not installed");
    };
    let mut random = Random(11);
    let (mut ours_len, mut theirs_len) = (0, 0);
    for _ in 0..250 {
        let (policy, theirs) = policies(&mut random, &library);
        let filter = policy.compile().unwrap();
        ours_len += filter.instructions().len();
        theirs_len += theirs.len();
        for _ in 0..4000 {
            let nr = match random.below(30) {
                0 => 0x4000_0000 + random.below(600) as u32,
                _ => random.below(340) as u32,
            };
            let data = SeccompData::new(Syscall::new(nr), std::array::from_fn(|_| random.word()));
            // Where our filter kills, libseccomp's default for a foreign ABI kills the thread.
            let (own, oracle) = (filter.evaluate(&data), run_bpf(&theirs, &data));
            let oracle = if oracle == Action::KillThread { Action::KillProcess } else { oracle };
            assert_eq!(oracle, own, "{data:?}\n{filter}");
        }
    }
    assert!(ours_len < theirs_len, "{ours_len} {theirs_len}");
}

/// Docker's profile, built by libseccomp from the same table, answers the same; and is longer.
#[test]
fn docker_default_as_libseccomp_builds_it() {
    let Some(library) = Libseccomp::load() else {
        return skip("libseccomp", "libseccomp.so.2 is not installed");
    };
    let host = Host::new(KernelVersion { major: 6, minor: 1 }).capabilities(0xa804_25fb);
    let filter = Profile::docker_default().policy(&host).unwrap().compile().unwrap();
    let mut rules = Vec::new();
    for (call, verdict) in filter.verdicts() {
        if verdict.always_allows() {
            rules.push((ALLOW, call.number(), Vec::new()));
        }
    }
    let mut with = |name: &str, conditions: Vec<ScmpArgCmp>| {
        rules.push((ALLOW, name.parse::<Syscall>().unwrap().number(), conditions));
    };
    for (op, a) in [(2, 38), (4, 39), (6, 40)] {
        with("socket", vec![ScmpArgCmp { arg: 0, op, a, b: 0 }]);
    }
    for a in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        with("personality", vec![ScmpArgCmp { arg: 0, op: 4, a, b: 0 }]);
    }
    with("clone", vec![ScmpArgCmp { arg: 0, op: 7, a: 0x7e02_0000, b: 0 }]);
    rules.push((Action::ENOSYS.to_ret(), 435, Vec::new()));
    let theirs = insns(&library.compile(Action::EPERM.to_ret(), &rules, true).unwrap());
    let mut random = Random(5);
    // Above, and in the hole of the table, ours has runc's ENOSYS, which libseccomp knows nothing of.
    for nr in (0..337).chain(424..=466) {
        for _ in 0..200 {
            let args = std::array::from_fn(|_| {
                [random.word(), random.below(64), random.next()][random.below(3) as usize]
            });
            let data = SeccompData { arch: Arch::X86_64.audit(), ..SeccompData::new(Syscall::new(nr), args) };
            assert_eq!(run_bpf(&theirs, &data), filter.evaluate(&data), "{data:?}");
        }
    }
    let native = Profile::docker_default().policy(&host).unwrap();
    println!(
        "instructions: ours with i386 {}, libseccomp's for x86_64 alone {}",
        filter.instructions().len(),
        theirs.len()
    );
    assert!(native.compile().unwrap().instructions().len() < theirs.len());
}
