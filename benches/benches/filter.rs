//! Docker's default seccomp profile as this workspace, libseccomp (both of its orders) and seccompiler compile it: length,
//! time to install, and what a call costs under it.
//!
//! `cargo bench -p palisade-benches --bench filter`. libseccomp is left out where libseccomp.so.2 is not installed.
//!
//! Single figures drift with the machine; the ratios, measured interleaved in one run and printed at the end, hold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use palisade::secfilter::{Action, Filter, Host, Insn, KernelVersion, Policy, Profile, Syscall};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

#[path = "../../secfilter/tests/common/sys.rs"]
#[expect(dead_code, reason = "the loader of libseccomp and raw calls; the rest is for the tests")]
mod raw;
use raw::{Libseccomp, ScmpArgCmp};

/// Docker's fourteen capabilities.
const CAPABILITIES: u64 = 0xa804_25fb;

fn number(name: &str) -> u32 {
    name.parse::<Syscall>().expect("a system call").number()
}

/// The profile for x86-64 alone, since the others compile for one architecture.
fn docker() -> Filter {
    let host = Host::new(KernelVersion { major: 6, minor: 1 }).capabilities(CAPABILITIES);
    Profile::docker_default().policy(&host).and_then(|policy| policy.compile()).expect("the profile compiles")
}

/// Calls that are always allowed, and the ones with conditions: call, `(operator, value, datum)` as libseccomp numbers
/// them, any of which is enough.
type Conditions = Vec<(u32, Vec<(i32, u64, u64)>)>;

fn rules(filter: &Filter) -> (Vec<u32>, Conditions) {
    let allowed = filter.verdicts().filter(|(_, verdict)| verdict.always_allows());
    let personalities = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(|value| (4, value, 0));
    let conditions = vec![
        (number("socket"), vec![(2, 38, 0), (4, 39, 0), (6, 40, 0)]),
        (number("personality"), personalities.to_vec()),
        (number("clone"), vec![(7, 0x7e02_0000, 0)]),
    ];
    (allowed.map(|(call, _)| call.number()).collect(), conditions)
}

fn with_seccompiler((allowed, conditions): &(Vec<u32>, Conditions)) -> Vec<Insn> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in allowed {
        rules.insert(call.into(), Vec::new());
    }
    for (call, any) in conditions {
        let rule = |&(op, value, datum): &(i32, u64, u64)| {
            let (op, value) = match op {
                2 => (SeccompCmpOp::Lt, value),
                4 => (SeccompCmpOp::Eq, value),
                6 => (SeccompCmpOp::Gt, value),
                _ => (SeccompCmpOp::MaskedEq(value), datum),
            };
            let condition =
                SeccompCondition::new(0, SeccompCmpArgLen::Qword, op, value).expect("a condition");
            SeccompRule::new(vec![condition]).expect("a rule")
        };
        rules.insert((*call).into(), any.iter().map(rule).collect());
    }
    let filter = SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, TargetArch::x86_64);
    let program: BpfProgram = filter.expect("a filter").try_into().expect("it compiles");
    program.iter().map(|insn| Insn { code: insn.code, jt: insn.jt, jf: insn.jf, k: insn.k }).collect()
}

fn with_libseccomp(
    library: &Libseccomp,
    (allowed, conditions): &(Vec<u32>, Conditions),
    tree: bool,
) -> Vec<Insn> {
    let allow = Action::Allow.to_ret();
    let mut rules: Vec<_> = allowed.iter().map(|&call| (allow, call, Vec::new())).collect();
    for (call, any) in conditions {
        rules.extend(any.iter().map(|&(op, a, b)| (allow, *call, vec![ScmpArgCmp { arg: 0, op, a, b }])));
    }
    rules.push((Action::ENOSYS.to_ret(), number("clone3"), Vec::new()));
    let bytes = library.compile(Action::EPERM.to_ret(), &rules, tree).expect("it compiles");
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let insn =
        |b: &[u8]| Insn { code: u16::from_le_bytes([b[0], b[1]]), jt: b[2], jf: b[3], k: word(&b[4..]) };
    bytes.chunks_exact(8).map(insn).collect()
}

/// Runs `body` on a thread of its own that has installed the filter, and gives the time that took with what it gives.
fn under<T: Send>(program: &[Insn], body: impl FnOnce() -> T + Send) -> (Duration, T) {
    let words: Vec<u64> = program
        .iter()
        .map(|insn| {
            u64::from(insn.code)
                | u64::from(insn.jt) << 16
                | u64::from(insn.jf) << 24
                | u64::from(insn.k) << 32
        })
        .collect();
    let attributes = [words.len() as u64, words.as_ptr() as u64]; // struct sock_fprog
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let no_new_privs = raw::call(number("prctl"), [38, 1, 0, 0, 0, 0]);
            assert_eq!(no_new_privs, 0);
            let start = Instant::now();
            let installed = raw::call(number("seccomp"), [1, 0, attributes.as_ptr() as u64, 0, 0, 0]);
            let time = start.elapsed();
            assert_eq!(installed, 0, "the filter is not installed");
            (time, body())
        });
        thread.join().expect("the thread ends")
    })
}

const CALLS: u32 = 20_000;

/// The mean of a call that any filter allows whatever its arguments (the kernel keeps a bitmap of these), and of one
/// whose argument is looked at each time.
fn calls() -> [Duration; 2] {
    let time = |name: &str, argument: u64| {
        let call = number(name);
        let start = Instant::now();
        for _ in 0..CALLS {
            raw::call(call, [argument, 0, 0, 0, 0, 0]);
        }
        start.elapsed() / CALLS
    };
    [time("getppid", 0), time("personality", 0xffff_ffff)]
}

fn filter(criterion: &mut Criterion) {
    let docker = docker();
    let rules = rules(&docker);
    let mut programs = vec![("palisade", docker.instructions().to_vec())];
    if let Some(library) = Libseccomp::load() {
        programs.push(("libseccomp, tree", with_libseccomp(&library, &rules, true)));
        programs.push(("libseccomp, linear", with_libseccomp(&library, &rules, false)));
    } else {
        println!("libseccomp is left out: libseccomp.so.2 is not installed");
    }
    programs.push(("seccompiler", with_seccompiler(&rules)));

    let mut group = criterion.benchmark_group("docker's profile");
    for (name, program) in &programs {
        group.bench_function(format!("{name}: install"), |b| {
            b.iter_custom(|count| (0..count).map(|_| under(program, || ()).0).sum());
        });
    }
    group.bench_function("palisade: compile", |b| {
        let host = Host::new(KernelVersion { major: 6, minor: 1 }).capabilities(CAPABILITIES);
        let policy: Policy = Profile::docker_default().policy(&host).expect("a policy");
        b.iter(|| policy.compile().expect("it compiles"));
    });
    group.finish();
    ratios(&programs);
}

/// All of them by turns.
fn ratios(programs: &[(&str, Vec<Insn>)]) {
    let rounds = if std::env::args().any(|arg| arg == "--test") { 1 } else { 100 };
    let mut times = vec![[const { Vec::new() }; 3]; programs.len()];
    for _ in 0..rounds {
        for ((_, program), times) in programs.iter().zip(&mut times) {
            let (install, [cached, looked_at]) = under(program, calls);
            for (list, time) in times.iter_mut().zip([install, cached, looked_at]) {
                list.push(time);
            }
        }
    }
    let median = |list: &mut Vec<Duration>| {
        list.sort();
        list[list.len() / 2].as_secs_f64()
    };
    let medians: Vec<[f64; 3]> = times.iter_mut().map(|lists| lists.each_mut().map(median)).collect();
    println!("\nmedians of {rounds} interleaved runs; beside each figure its ratio to palisade's");
    println!("                       instructions        install          getppid       personality");
    for ((name, program), figures) in programs.iter().zip(&medians) {
        let text = |index: usize, scale: f64, unit: &str| {
            format!("{:>8.1} {unit} {:>4.2}", figures[index] * scale, figures[index] / medians[0][index])
        };
        println!(
            "  {name:<20} {:>12} {:>16} {:>16} {:>16}",
            program.len(),
            text(0, 1e6, "µs"),
            text(1, 1e9, "ns"),
            text(2, 1e9, "ns"),
        );
    }
}

criterion_group!(benches, filter);
criterion_main!(benches);
