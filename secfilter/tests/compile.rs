//! The compiler against the policies' own meaning.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use palisade_secfilter::{
    Action, Arch, Arg, Condition, ErrorKind, MAX_INSNS, Policy, Rule, SeccompData, Syscall, arg, presets,
};
use proptest::prelude::*;

/// Words that are likely to tell two filters apart: small ones, both halves, the borders.
fn word() -> impl Strategy<Value = u64> {
    let half = prop_oneof![
        4 => 0u64..4,
        1 => Just(0x7fff_ffff_u64),
        1 => Just(0x8000_0000),
        1 => Just(0xffff_fffe),
        2 => Just(0xffff_ffff),
        1 => 0u64..=0xffff_ffff,
    ];
    (half.clone(), prop_oneof![3 => Just(0u64), 2 => half]).prop_map(|(low, high)| high << 32 | low)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Allow),
        Just(Action::KillProcess),
        Just(Action::KillThread),
        (0u16..=4095).prop_map(Action::Errno),
        (0u16..3).prop_map(Action::Trap),
        (0u16..3).prop_map(Action::Trace),
        Just(Action::Log),
        Just(Action::UserNotif),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let subject = (0u8..6, prop_oneof![3 => Just(u64::MAX), 2 => Just(0xffff_ffff), 2 => word()]);
    (subject, 0..6, word()).prop_map(|((index, mask), op, value)| {
        let subject: Arg = arg(index).masked(mask);
        match op {
            0 => subject.eq(value & mask),
            1 => subject.ne(value & mask),
            2 => subject.lt(value),
            3 => subject.le(value),
            4 => subject.gt(value),
            _ => subject.ge(value),
        }
    })
}

/// Known numbers, numbers that nobody has, the ends of the table.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..16, 4 => 0u32..=475, 1 => Just(0x3fff_ffff), 1 => 400u32..1000]
}

fn rule() -> impl Strategy<Value = Rule> {
    (proptest::collection::vec(number(), 1..12), proptest::collection::vec(condition(), 0..4), action())
        .prop_map(|(numbers, conditions, action)| {
            let rule = Rule::new(numbers.into_iter().map(Syscall::new), action);
            conditions.into_iter().fold(rule, Rule::when)
        })
}

fn policy() -> impl Strategy<Value = Policy> {
    (action(), action(), proptest::collection::vec(rule(), 0..24)).prop_map(|(default, unknown, rules)| {
        // A rule that another hides, or that is always or never true, is an error: leave it out.
        rules.into_iter().fold(Policy::new(default).unknown(unknown), |policy, rule| {
            let longer = policy.clone().rule(rule);
            if longer.compile().is_ok() { longer } else { policy }
        })
    })
}

fn call() -> impl Strategy<Value = SeccompData> {
    let nr = prop_oneof![
        8 => number(),
        1 => Just(u32::MAX),
        1 => 0x4000_0000u32..0x4000_0300,
        1 => Just(0x7fff_ffff),
        1 => Just(0x8000_0000),
    ];
    let arch = prop_oneof![
        8 => Just(Arch::X86_64.audit()),
        1 => Just(Arch::X86.audit()),
        1 => any::<u32>(),
    ];
    (nr, arch, proptest::array::uniform6(word())).prop_map(|(nr, arch, args)| SeccompData {
        nr,
        arch,
        instruction_pointer: 0,
        args,
    })
}

/// The number of cases: PROPTEST_CASES, or this. Each case checks hundreds of calls.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_global_rejects: 1 << 20,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(40))]

    /// A74: the compiled program gives each call the answer that the policy means.
    #[test]
    fn a74_compiled_verdict_is_the_policys(
        policy in policy(),
        calls in proptest::collection::vec(call(), 300),
    ) {
        let filter = policy.compile().unwrap();
        prop_assert!(filter.instructions().len() <= MAX_INSNS);
        for call in calls {
            prop_assert_eq!(filter.evaluate(&call), policy.evaluate(&call), "{:?}\n{}", call, filter);
        }
    }

    /// The possible answers of `verdict` include every answer of `evaluate`.
    #[test]
    fn verdicts_cover_every_answer(policy in policy(), calls in proptest::collection::vec(call(), 50)) {
        let filter = policy.compile().unwrap();
        for call in calls.into_iter().filter(|call| call.arch == Arch::X86_64.audit()) {
            let verdict = filter.verdict(Syscall::new(call.nr));
            prop_assert!(verdict.actions().contains(&filter.evaluate(&call)), "{:?} {}", call, verdict);
        }
    }
}

fn data(call: &str, args: [u64; 6]) -> SeccompData {
    SeccompData::new(call.parse().unwrap(), args)
}

fn first(value: u64) -> [u64; 6] {
    [value, 0, 0, 0, 0, 0]
}

#[test]
fn a59_foreign_architectures_die() {
    let filter = Policy::new(Action::Allow).compile().unwrap();
    let mut call = data("read", [0; 6]);
    for arch in [Arch::X86.audit(), 0xc000_00b7, 0, u32::MAX] {
        call.arch = arch;
        assert_eq!(filter.evaluate(&call), Action::KillProcess, "{arch:#x}");
    }
}

#[test]
fn a64_unknown_numbers_are_enosys_and_x32_dies() {
    let filter = presets::payload().compile().unwrap();
    for nr in (337..424).chain(472..=600).chain([0x3fff_ffff, 0x8000_0000, u32::MAX]) {
        assert_eq!(filter.evaluate(&SeccompData::new(Syscall::new(nr), [0; 6])), Action::ENOSYS, "{nr}");
    }
    for nr in [0x4000_0000, 0x4000_0000 + 520, 0x7fff_ffff] {
        assert_eq!(filter.evaluate(&SeccompData::new(Syscall::new(nr), [0; 6])), Action::KillProcess, "{nr}");
    }
}

#[test]
fn another_architecture_gets_its_own_numbers() {
    let policy = Policy::new(Action::EPERM).allow(["read", "chown32"]).also(Arch::X86);
    let filter = policy.compile().unwrap();
    let ask = |arch: Arch, nr| {
        filter.evaluate(&SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args: [0; 6] })
    };
    assert_eq!(ask(Arch::X86, 3), Action::Allow);
    assert_eq!(ask(Arch::X86, 212), Action::Allow);
    assert_eq!(ask(Arch::X86, 0), Action::EPERM);
    assert_eq!(ask(Arch::X86_64, 0), Action::Allow);
    assert_eq!(ask(Arch::X86_64, 3), Action::EPERM);
    assert_eq!(ask(Arch::X86_64, 212), Action::EPERM);
}

#[test]
fn mistakes_are_errors() {
    let kind = |policy: Policy| policy.compile().unwrap_err().kind();
    let base = || Policy::new(Action::EPERM);
    assert_eq!(kind(base().allow(["opnat"])), ErrorKind::UnknownSyscall);
    assert_eq!(kind(base().allow(["chown32"])), ErrorKind::UnknownSyscall);
    assert!(base().rule(Rule::new(["opnat", "chown32"], Action::Allow).optional()).compile().is_ok());
    assert_eq!(kind(base().rule(Rule::new(["read"], Action::Allow).when(arg(6).eq(0)))), ErrorKind::BadRule);
    assert_eq!(kind(base().rule(Rule::new(["read"], Action::Errno(4096)))), ErrorKind::BadRule);
    assert_eq!(kind(Policy::new(Action::Errno(4096))), ErrorKind::BadRule);
    for constant in [
        arg(0).low32().eq(0x1_0000_0000),
        arg(0).masked(6).eq(1),
        arg(0).masked(0).eq(0),
        arg(0).ge(0),
        arg(0).lt(0),
        arg(0).le(u64::MAX),
        arg(0).low32().gt(0xffff_ffff),
    ] {
        assert_eq!(kind(base().rule(Rule::new(["read"], Action::Allow).when(constant))), ErrorKind::BadRule);
    }
    let unreachable =
        base().allow(["ioctl"]).rule(Rule::new(["ioctl"], Action::EPERM).when(arg(1).eq(0x5412)));
    let error = unreachable.compile().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRule);
    assert!(error.to_string().contains("rule 2 for ioctl is never reached: rule 1"), "{error}");
    assert_eq!(kind(base().allow([Syscall::new(0x4000_0000)])), ErrorKind::UnknownSyscall);
    assert_eq!(kind(base().allow([Syscall::new(0)]).also(Arch::X86)), ErrorKind::BadRule);
    // Saying the same twice is fine.
    assert!(base().allow(["read"]).allow(["read", "write"]).compile().is_ok());
}

#[test]
fn a73_programs_that_are_too_long_are_reported_with_their_length() {
    let many = |n: u64| {
        let rule = |i: u64| Rule::new(["read"], Action::Errno(1)).when(arg(0).eq(2 * i)).when(arg(1).eq(i));
        (0..n).map(rule).fold(Policy::new(Action::Allow), Policy::rule)
    };
    assert!(many(500).compile().is_ok());
    let error = many(5000).compile().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    let error = many(100_000).compile().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

/// Jumps over more than 255 instructions.
#[test]
fn long_programs_jump_far() {
    let mut policy = Policy::new(Action::EPERM);
    for nr in 0..150u32 {
        for value in 0..4 {
            let rule = Rule::new([Syscall::new(nr)], Action::Errno(nr as u16 % 7 + 100));
            policy = policy.rule(rule.when(arg(nr as u8 % 6).eq(u64::from(nr) * 5 + value)));
        }
    }
    let filter = policy.compile().unwrap();
    assert!(filter.instructions().len() > 1000);
    for nr in 0..151u32 {
        for value in 0..6 {
            let mut args = [0; 6];
            args[nr as usize % 6] = u64::from(nr) * 5 + value;
            let call = SeccompData::new(Syscall::new(nr), args);
            assert_eq!(filter.evaluate(&call), policy.evaluate(&call), "{call:?}");
        }
    }
}

#[test]
fn set_replaces_what_the_rules_said() {
    let policy = presets::payload().set(["ioctl", "ptrace"], Action::Allow);
    assert_eq!(policy.evaluate(&data("ioctl", [0, 0x5412, 0, 0, 0, 0])), Action::Allow);
    assert_eq!(policy.compile().unwrap().verdict("ptrace".parse().unwrap()).always(), Some(Action::Allow));
    let by_number = presets::payload().set([Syscall::new(16)], Action::EPERM);
    assert_eq!(by_number.evaluate(&data("ioctl", [0; 6])), Action::EPERM);
}

#[test]
fn equal_rules_share_their_code() {
    let rules = |policy: Policy, call: &str| {
        (0..8).fold(policy, |policy, i| policy.rule(Rule::new([call], Action::Allow).when(arg(0).eq(i * 3))))
    };
    let one = rules(Policy::new(Action::EPERM), "read").compile().unwrap().instructions().len();
    let two =
        rules(rules(Policy::new(Action::EPERM), "read"), "getpid").compile().unwrap().instructions().len();
    assert!(two <= one + 2, "{one} {two}");
}

#[test]
fn payload_is_short_and_permits_exec() {
    let filter = presets::payload().compile().unwrap();
    filter.permits_exec().unwrap();
    presets::strict_compute().compile().unwrap().permits_exec().unwrap();
    let error = Policy::new(Action::EPERM).compile().unwrap().permits_exec().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForbidsExec);
    assert!(filter.instructions().len() < 120, "{}", filter.instructions().len());
    for call in ["read", "write", "futex", "clock_gettime", "mmap", "openat", "ioctl", "clone"] {
        let cost = filter.cost(&data(call, first(0)));
        assert!(cost < 20, "{call}: {cost}");
    }
}

#[test]
fn a61_high_halves_do_not_help_a_refused_call() {
    let filter = presets::payload().compile().unwrap();
    for high in [0u64, 1, 0x123, 0xffff_ffff] {
        for request in [0x5412u64, 0x541c] {
            let call = data("ioctl", [0, high << 32 | request, 0, 0, 0, 0]);
            assert_eq!(filter.evaluate(&call), Action::EPERM);
        }
        let call = data("prctl", [high << 32 | 1, 0, 0, 0, 0, 0]);
        assert_eq!(filter.evaluate(&call), Action::EPERM);
    }
    assert_eq!(filter.evaluate(&data("ioctl", [0, 0x5401, 0, 0, 0, 0])), Action::Allow);
    assert_eq!(filter.evaluate(&data("prctl", [1, 9, 0, 0, 0, 0])), Action::Allow);
    assert_eq!(filter.evaluate(&data("prctl", [15, 0, 0, 0, 0, 0])), Action::Allow);
}

#[test]
fn a69_only_listed_socket_families() {
    let filter = presets::payload().compile().unwrap();
    let socket = |family, kind, protocol| filter.evaluate(&data("socket", [family, kind, protocol, 0, 0, 0]));
    let refused = Action::Errno(97);
    for family in 0..64u64 {
        let expected = if [0, 1, 2, 10, 16].contains(&family) { Action::Allow } else { refused };
        assert_eq!(socket(family, 1, 0), expected, "{family}");
        // An int's upper half is not looked at by the kernel: a permission must not be, either way.
        assert_eq!(socket(1 << 32 | family, 1, 0), refused, "{family}");
    }
    assert_eq!(socket(16, 3, 9), refused, "netlink audit");
    assert_eq!(socket(2, 10, 0), refused, "AF_INET with SOCK_PACKET is AF_PACKET");
    assert_eq!(socket(2, 0x8_0000 | 10, 0), refused, "with SOCK_CLOEXEC too");
}

#[test]
fn a63_clone_makes_threads_and_no_namespaces() {
    let filter = presets::payload().compile().unwrap();
    let clone = |flags| filter.evaluate(&data("clone", first(flags)));
    assert_eq!(clone(0x3d_0f00), Action::Allow, "pthread_create");
    assert_eq!(clone(0x0100_0000 | 0x0020_0000 | 17), Action::Allow, "fork");
    for bit in [17u64, 25, 26, 27, 28, 29, 30, 15] {
        assert_eq!(clone(17 | 1 << bit), Action::EPERM, "bit {bit}");
        assert_eq!(clone(u64::MAX << 32 | 17 | 1 << bit), Action::EPERM, "bit {bit}");
    }
    assert_eq!(filter.verdict("clone3".parse().unwrap()).always(), Some(Action::ENOSYS));
    let unshare = |flags| filter.evaluate(&data("unshare", first(flags)));
    assert_eq!(unshare(0x400), Action::Allow);
    assert_eq!(unshare(0x1000_0000), Action::EPERM);
    assert_eq!(unshare(0x80), Action::EPERM, "time namespace");
}
