//! Every limit on a kernel that has all controllers: written, kept, enforced. Needs pure cgroup v2.

mod common;

use std::process::Child;
use std::time::{Duration, Instant};

use common::{LONG, killed, playground, playground_with, run_in, skip, spawn_in, until};
use palisade_cgroup::{
    Bytes, Cgroup, Controller, CpuMax, DeviceNumber, ErrorKind, HugePage, IoMax, Limit, Limits, MemoryEvents,
    Nice, OwnedCgroup, Partition, Sampler, Weight, docker,
};

fn memory_home(test: &str) -> Option<OwnedCgroup> {
    playground_with(test, &[Controller::MEMORY, Controller::PIDS])
}

/// 64 MiB of memory and no swap.
fn tight() -> Limits {
    Limits::new().memory_max(Bytes::mib(64)).memory_swap_max(Bytes::new(0))
}

fn spinner(group: &Cgroup) -> Child {
    spawn_in(group, "while :; do :; done")
}

fn end(group: OwnedCgroup, children: Vec<Child>) {
    group.remove_within(LONG).expect("removed");
    for mut c in children {
        c.wait().expect("reaped");
    }
}

/// Runs a bomb inside the group in a process of its own; whether it was killed.
fn bomb(group: &Cgroup, f: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> bool {
    let mut c = std::process::Command::new("/bin/true");
    group.confine(&mut c).expect("may enter");
    common::sys::before_exec(&mut c, f);
    match c.spawn() {
        Ok(mut child) => killed(child.wait().expect("reaped")),
        // The error of a bomb that the kernel stopped with an error instead.
        Err(_) => false,
    }
}

fn touch(bytes: usize) -> std::io::Result<()> {
    let mut memory = vec![0u8; bytes];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
    Ok(())
}

/// Lab 44 and A106: the hog dies of its own limit, is told apart from other deaths, and its sibling does not notice.
#[test]
fn a106_a_memory_bomb_dies_of_its_limit() {
    let Some(home) = memory_home("oom") else { return };
    let sibling = home.create("sibling", &tight()).expect("created");
    let mut bystander = spawn_in(&sibling, "exec sleep 1000");
    let leaf = home.create("leaf", &tight()).expect("created");
    let mut watch = leaf.watch::<MemoryEvents>().expect("opens");
    assert!(bomb(&leaf, || touch(200 << 20)));
    let events = watch.wait_until(LONG, |e| e.oom_kill > 0).expect("announced");
    assert_eq!(events.oom_kill, 1, "{events:?}");
    let memory = leaf.memory().expect("readable");
    let peak = memory.peak.expect("a kernel with memory.peak").get();
    assert!((32 << 20..=66 << 20).contains(&peak), "{peak}");
    assert_eq!(memory.max, Limit::At(Bytes::mib(64)));
    assert_eq!(sibling.memory_events().expect("readable"), MemoryEvents::default());
    assert!(bystander.try_wait().expect("waits").is_none());
    // Below the limit nothing happens.
    let roomy = home.create("roomy", &tight()).expect("created");
    assert!(!bomb(&roomy, || touch(20 << 20)));
    assert_eq!(roomy.memory_events().expect("readable").oom_kill, 0);
    let line = Sampler::new(&sibling).and_then(|mut s| s.usage()).expect("readable").to_string();
    assert!(line.contains(" / 64MiB "), "{line}");
    sibling.remove().expect("removed");
    bystander.wait().expect("reaped");
}

#[test]
fn a106_oom_group_takes_every_member() {
    let Some(home) = memory_home("oomgroup") else { return };
    let leaf = home.create("leaf", &tight().memory_oom_group(true)).expect("created");
    let mut mates: Vec<Child> = (0..3).map(|_| spawn_in(&leaf, "exec sleep 1000")).collect();
    until("all are inside", || leaf.procs().expect("readable").len() == 3);
    assert!(bomb(&leaf, || touch(200 << 20)));
    for m in &mut mates {
        assert!(killed(m.wait().expect("reaped")));
    }
    let events = leaf.memory_events().expect("readable");
    // The one that the killer chose counts twice.
    assert!(events.oom_group_kill == 1 && events.oom_kill >= 4, "{events:?}");
}

/// A106: some swap is not all swap. What fits into both limits lives, and what does not dies of them.
#[test]
fn a106_swap_is_limited_too() {
    let Some(home) = memory_home("swap") else { return };
    if std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() < 2) {
        return skip("swap", "no swap space here");
    }
    let limits = Limits::new().memory_max(Bytes::mib(24)).memory_swap_max(Bytes::mib(32));
    let fits = home.create("fits", &limits).expect("created");
    assert!(!bomb(&fits, || touch(40 << 20)), "{:?}", fits.memory().expect("readable"));
    let memory = fits.memory().expect("readable");
    assert_eq!(memory.events.oom_kill, 0, "{memory:?}");
    let swapped = |group: &Cgroup| -> u64 {
        let peak = group.read_file(&"memory.swap.peak".parse().expect("a name")).expect("readable");
        String::from_utf8_lossy(&peak).trim().parse().expect("a number")
    };
    // 40 MiB in 24 of memory: the rest had to go somewhere.
    assert!((15 << 20..=32 << 20).contains(&swapped(&fits)), "{}", swapped(&fits));
    let bursts = home.create("bursts", &limits).expect("created");
    assert!(bomb(&bursts, || touch(200 << 20)));
    let memory = bursts.memory().expect("readable");
    assert!(memory.events.oom_kill >= 1 && swapped(&bursts) <= 32 << 20, "{memory:?}");
}

/// Memory that hides from per-process counters is charged to the group all the same.
#[test]
fn a106_tmpfs_memfd_and_pipes_stay_inside() {
    let Some(home) = memory_home("shmem") else { return };
    type Bomb = fn() -> std::io::Result<()>;
    let bombs: [(&str, Bomb); 3] = [
        ("tmpfs", || {
            let mut file = tempfile::tempfile_in("/dev/shm")?;
            fill(&mut file)
        }),
        ("memfd", || {
            let fd = nix::sys::memfd::memfd_create(c"bomb", nix::sys::memfd::MFdFlags::empty())?;
            fill(&mut std::fs::File::from(fd))
        }),
        ("pipes", || {
            // The descriptors go with the process.
            for _ in 0..400 {
                common::sys::full_pipe()?;
            }
            Ok(())
        }),
    ];
    for (name, f) in bombs {
        let small = Limits::new().memory_max(Bytes::mib(24)).memory_swap_max(Bytes::new(0));
        let leaf = home.create(name, &small).expect("created");
        let died = bomb(&leaf, f);
        let memory = leaf.memory().expect("readable");
        assert!(memory.peak.expect("has memory.peak") <= Bytes::mib(25), "{name}: {memory:?}");
        if name == "pipes" && !common::is_root() {
            // The per-user limit on pipe pages may stop it first.
            continue;
        }
        assert!(died && memory.events.oom_kill == 1, "{name}: {memory:?}");
    }
}

fn fill(file: &mut std::fs::File) -> std::io::Result<()> {
    let chunk = vec![1u8; 1 << 20];
    for _ in 0..100 {
        std::io::Write::write_all(file, &chunk)?;
    }
    Ok(())
}

/// A105: forks fail inside, and nobody else notices.
#[test]
fn a105_a_fork_bomb_stops_at_pids_max() {
    let Some(home) = memory_home("forks") else { return };
    let leaf = home.create("leaf", &Limits::new().pids_max(20)).expect("created");
    let mut top = spawn_in(&leaf, "b() { b & b & wait; }; b 2>/dev/null");
    let mut most = 0;
    until("the limit was met", || {
        let pids = leaf.pids().expect("readable");
        most = most.max(pids.current);
        pids.events.max > 0
    });
    assert!(most <= 20, "{most}");
    assert!(std::process::Command::new("/bin/true").status().expect("forks here").success());
    assert_eq!(leaf.pids().expect("readable").max, Limit::At(20));
    leaf.remove_within(LONG).expect("removed");
    top.wait().expect("reaped");
}

/// Lab 49: with pids.max 5 the sixth task is one too many.
#[test]
fn the_sixth_task_is_refused() {
    let Some(home) = memory_home("sixth") else { return };
    let leaf = home.create("leaf", &Limits::new().pids_max(5)).expect("created");
    let script =
        "for i in 1 2 3 4; do sleep 1000 & done; (sleep 0) 2>/dev/null && exit 10; kill %1 %2 %3 %4; exit 0";
    let status = run_in(&leaf, script);
    // dash ends with 2 when it cannot fork.
    assert!(matches!(status.code(), Some(0 | 2)), "{status}");
    assert!(leaf.pids().expect("readable").events.max > 0);
}

/// Lab 46.
#[test]
fn stress_cpu_max_gives_three_quarters_of_a_cpu() {
    let Some(home) = playground_with("cpumax", &[Controller::CPU]) else { return };
    let max = docker::cpu_max(750_000_000, 1).expect("in range").expect("set");
    let leaf = home.create("leaf", &Limits::new().cpu_max(max)).expect("created");
    let child = spinner(&leaf);
    until("it has begun", || leaf.cpu_stat().expect("readable").nr_throttled > 2);
    let before = leaf.cpu_stat().expect("readable");
    let start = Instant::now();
    until("it was held back thirty times", || {
        leaf.cpu_stat().expect("readable").nr_throttled >= before.nr_throttled + 30
    });
    let (after, wall) = (leaf.cpu_stat().expect("readable"), start.elapsed());
    let used = (after.usage - before.usage).as_secs_f64();
    let share = used / wall.as_secs_f64();
    assert!(share <= 0.8, "{share}");
    // A busy machine may give less, but whenever the quota held it back it had got its 75 ms.
    let held = (after.nr_throttled - before.nr_throttled) as f64;
    assert!(used >= 0.93 * held * 0.075, "{used} in {held} periods");
    let periods = (after.nr_periods - before.nr_periods) as f64;
    assert!(share >= 0.7 || held < 0.95 * periods, "{share}, held back in {held} of {periods} periods");
    end(leaf, vec![child]);
}

/// Lab 45: by the new formula 1024 and 512 shares are 100 and 59.
#[test]
fn stress_weights_share_one_cpu_in_their_ratio() {
    let Some(home) = playground_with("weights", &[Controller::CPU, Controller::CPUSET]) else { return };
    let one =
        home.create("one-cpu", &Limits::new().cpuset_cpus(&"0".parse().expect("a set"))).expect("created");
    one.enable(&[Controller::CPU].into()).expect("enabled");
    let group = |name: &str, shares| {
        let weight = docker::cpu_weight(shares).expect("set");
        one.create(name, &Limits::new().cpu_weight(weight)).expect("created")
    };
    let (a, b) = (group("a", 1024), group("b", 512));
    // Alone, a weight is no limit.
    let alone = spinner(&a);
    let mut sampler = Sampler::new(&a).expect("readable");
    std::thread::sleep(Duration::from_secs(2));
    let used = sampler.usage().expect("readable");
    let both = vec![alone, spinner(&b)];
    std::thread::sleep(Duration::from_millis(300));
    let read = || (a.cpu_stat().expect("readable").usage, b.cpu_stat().expect("readable").usage);
    let (a0, b0) = read();
    std::thread::sleep(Duration::from_secs(6));
    let (a1, b1) = read();
    let ratio = (a1 - a0).as_secs_f64() / (b1 - b0).as_secs_f64();
    assert!((1.69 * 0.8..=1.69 * 1.2).contains(&ratio), "{ratio}");
    // Other tests may spin on this CPU too, in a group of equal weight.
    assert!(used.cpu_percent > 15.0, "{used}");
    drop((a, b));
    end(one, both);
}

/// Lab 47.
#[test]
fn a_cpuset_keeps_to_its_cpu() {
    let Some(home) = playground_with("cpuset", &[Controller::CPUSET]) else { return };
    let all = home.effective_cpus().expect("readable");
    let Some(last) = all.iter().last().filter(|_| all.len() > 1) else { return skip("cpus", "only one") };
    let only = [last].into_iter().collect();
    let leaf = home.create("leaf", &Limits::new().cpuset_cpus(&only)).expect("created");
    assert_eq!(leaf.effective_cpus().expect("readable"), only);
    let status = run_in(&leaf, &format!("grep -q '^Cpus_allowed_list:\t{last}$' /proc/self/status"));
    assert!(status.success(), "{status}");
    // A CPU that no machine has: the kernel refuses the write.
    let e = home
        .create("none", &Limits::new().cpuset_cpus(&"60000".parse().expect("a set")))
        .expect_err("no such CPU");
    assert!(matches!(e.kind(), ErrorKind::Refused | ErrorKind::NotVerified), "{e}");
}

#[test]
fn stress_io_max_throttles() {
    let Some(home) = playground_with("io", &[Controller::IO]) else { return };
    let Ok(disk) = DeviceNumber::of_node("/dev/vda") else { return skip("disk", "no /dev/vda") };
    if !common::is_root() || std::fs::File::open("/dev/vda").is_err() {
        return skip("disk", "/dev/vda cannot be opened");
    }
    let read = |group: &Cgroup| {
        let script = "exec dd if=/dev/vda of=/dev/null bs=256k count=64 iflag=direct 2>/dev/null";
        let mut child = spawn_in(group, script);
        let start = Instant::now();
        assert!(child.wait().expect("reaped").success());
        start.elapsed().as_secs_f64()
    };
    let free = read(&home.create("free", &Limits::new()).expect("created"));
    let max = IoMax { rbps: Limit::At(4 << 20), ..IoMax::default() };
    let leaf = home.create("leaf", &Limits::new().io_max(disk, max)).expect("created");
    let held = read(&leaf);
    // 16 MiB at 4 MiB a second are four seconds, to within a fifth; a busy machine adds its own slowness.
    assert!(held >= 4.0 / 1.2, "{held} s, {free} s without a limit");
    assert!(held <= 4.0 / 0.8 + 4.0 * free, "{held} s, {free} s without a limit");
    let stat = leaf.io_stat().expect("readable");
    assert!(stat.iter().any(|(d, s)| *d == disk && s.rbytes >= 16 << 20), "{stat:?}");
    // No limit: the line disappears, which counts as kept.
    leaf.apply(&Limits::new().io_max(disk, IoMax::default())).expect("lifted");
}

/// Most kernels are built without `io.latency`: the target is kept, or there is an error that names the file.
#[test]
fn a_latency_target_is_kept_or_an_error() {
    let Some(home) = playground_with("latency", &[Controller::IO]) else { return };
    let Ok(disk) = DeviceNumber::of_node("/dev/vda") else { return skip("disk", "no /dev/vda") };
    let limits = Limits::new().io_latency(disk, Duration::from_millis(10));
    match home.create("leaf", &limits) {
        Ok(leaf) => {
            let text = leaf.read_file(&"io.latency".parse().expect("a name")).expect("readable");
            assert!(String::from_utf8_lossy(&text).contains("target=10000"), "{text:?}");
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
            assert!(e.path().is_some_and(|p| p.ends_with("io.latency")), "{e}");
            assert!(!common::exists(&home.path().join("leaf")));
        }
    }
    // A device's share is there with the controller.
    let weight = Weight::new(300).expect("in range");
    match home.create("weighted", &Limits::new().io_weight_of(disk, weight).io_weight(weight)) {
        Ok(leaf) => leaf.apply(&Limits::new().io_weight_of(disk, Weight::default())).expect("changed"),
        // Without a policy for the device (neither io.cost nor BFQ) the kernel says so.
        Err(e) => assert!(matches!(e.kind(), ErrorKind::Refused | ErrorKind::System), "{e}"),
    }
}

/// All settings, on a kernel that has them all: each is verified by `create` itself.
#[test]
fn every_setting_is_kept_by_the_kernel() {
    let all = [
        Controller::CPU,
        Controller::CPUSET,
        Controller::IO,
        Controller::MEMORY,
        Controller::PIDS,
        Controller::HUGETLB,
    ];
    let Some(home) = playground_with("all", &all) else { return };
    let half = Duration::from_millis(50);
    let limits = Limits::new()
        .cpu_burst(half)
        .cpu_max(CpuMax::new(half, Duration::from_millis(200)).expect("in range"))
        .cpu_weight(Weight::new(59).expect("in range"))
        .cpuset_cpus(&"0".parse().expect("a set"))
        .cpuset_mems(&"0".parse().expect("a set"))
        .memory_min(Bytes::new(5000))
        .memory_low(Bytes::mib(2))
        .memory_high(Bytes::mib(100))
        .memory_max(Bytes::new(134_217_729))
        .memory_swap_high(Bytes::mib(10))
        .memory_swap_max(Bytes::mib(20))
        .memory_oom_group(true)
        .pids_max(Limit::Max)
        .io_weight(Weight::new(500).expect("in range"))
        .hugetlb_max(HugePage::MB2, Bytes::mib(5))
        .hugetlb_reserved_max(HugePage::MB2, Limit::Max)
        .max_depth(3)
        .max_descendants(Limit::Max)
        .file("memory.oom.group".parse().expect("a name"), "1");
    let leaf = home.create("leaf", &limits).expect("every value holds");
    assert_eq!(leaf.memory().expect("readable").max, Limit::At(Bytes::mib(128)), "rounded down to a page");
    leaf.apply(&Limits::new().cpu_nice(Nice::new(-5).expect("in range")).cpu_idle(false)).expect("changed");
    assert_eq!(leaf.hugetlb_current(HugePage::MB2).expect("readable"), Bytes::new(0));
    assert!(leaf.reclaim(Bytes::new(0)).is_ok());
    let missing = leaf.hugetlb_current("128MB".parse().expect("a size")).expect_err("no such size here");
    assert_eq!(missing.kind(), ErrorKind::Unsupported);
    // The hugetlb controller without its pages: what the group lacks is named.
    let bare = home.create("bare", &Limits::new()).expect("created").keep();
    let below = bare.create("below", &Limits::new()).expect("created");
    let e = below.apply(&Limits::new().pids_max(1)).expect_err("not enabled in between");
    assert_eq!(
        (e.kind(), e.controller(), e.path()),
        (ErrorKind::ControllerMissing, Some("pids"), Some(bare.path())),
        "{e}"
    );
    below.remove().expect("removed");
    bare.destroy(LONG).expect("removed");
}

#[test]
fn an_update_is_all_or_nothing() {
    let Some(home) = playground_with("update", &[Controller::MEMORY, Controller::CPU, Controller::PIDS])
    else {
        return;
    };
    let leaf = home.create("leaf", &tight().pids_max(10)).expect("created");
    let child = spawn_in(&leaf, "exec sleep 1000");
    let before = |l: &Cgroup| (l.memory().expect("readable").max, l.pids().expect("readable").max);
    let then = before(&leaf);
    let weight = |v: &str| {
        Limits::new().pids_max(20).memory_max(Bytes::mib(32)).file("cpu.weight".parse().expect("a name"), v)
    };
    let e = leaf.apply(&weight("20000")).expect_err("out of the kernel's range");
    assert_eq!((e.kind(), e.rejected()), (ErrorKind::Refused, Some("20000")), "{e}");
    assert!(e.undo().is_some_and(|u| u.contains("2 settings were put back")), "{e}");
    assert_eq!(before(&leaf), then);
    let e = leaf
        .apply(&Limits::new().pids_max(1).file("memory.nosuch".parse().expect("a name"), "1"))
        .expect_err("no file");
    assert_eq!(
        (e.kind(), e.undo()),
        (ErrorKind::Unsupported, None),
        "found out before anything was written: {e}"
    );
    assert_eq!(before(&leaf), then);
    leaf.apply(&weight("200")).expect("in range");
    assert_eq!(before(&leaf), (Limit::At(Bytes::mib(32)), Limit::At(20)));
    end(leaf, vec![child]);
}

/// Quota and burst bound each other: whatever the old values, both orders end where they should.
#[test]
fn burst_and_quota_change_together() {
    let Some(home) = playground_with("burst", &[Controller::CPU]) else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let ms = Duration::from_millis;
    for (quota, burst) in [(10, 10), (90, 80), (20, 5), (100, 100), (10, 0)] {
        let max = CpuMax::new(ms(quota), ms(100)).expect("in range");
        for limits in
            [Limits::new().cpu_max(max).cpu_burst(ms(burst)), Limits::new().cpu_burst(ms(burst)).cpu_max(max)]
        {
            leaf.apply(&limits).unwrap_or_else(|e| panic!("{quota} {burst}: {e}"));
        }
    }
}

/// Attached late, or before: the limits hold when the first process enters, whoever runs at once.
#[test]
fn a109_limits_hold_before_the_first_instruction() {
    let Some(home) = memory_home("early") else { return };
    for _ in 0..20 {
        let leaf = home.create_unique("leaf", &Limits::new().pids_max(1)).expect("created");
        let code = common::sys::clone_into(std::os::fd::AsFd::as_fd(&leaf), || {
            let second = std::process::Command::new("/bin/true").status();
            i32::from(second.is_ok())
        });
        assert_eq!(code.expect("cloned"), 0, "its first fork was refused");
        assert!(leaf.pids().expect("readable").events.max > 0);
        leaf.remove().expect("removed");
    }
}

/// Five lines: a standard command under 256 MiB and half a CPU.
#[test]
fn a_standard_command_is_limited() {
    let Some(home) = playground_with("command", &[Controller::MEMORY, Controller::CPU]) else { return };
    let limits = Limits::new().memory_max(Bytes::mib(256)).cpu_max(CpuMax::millicpus(500));
    let leaf = home.create("leaf", &limits).expect("created");
    let mut cat = std::process::Command::new("/bin/sh");
    cat.arg("-c")
        .arg("g=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); cat $g/memory.max $g/cpu.max");
    leaf.confine(&mut cat).expect("may enter");
    let out = cat.output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "268435456\n50000 100000\n");
}

/// The kernel takes the word and calls the partition invalid: that is no success.
#[test]
fn an_invalid_partition_is_an_error() {
    let Some(home) = playground_with("partition", &[Controller::CPUSET]) else { return };
    let limits = Limits::new().cpuset_cpus(&"0".parse().expect("a set")).cpuset_partition(Partition::Root);
    let e = home.create("leaf", &limits).expect_err("the group above is no partition");
    assert_eq!((e.kind(), e.rejected()), (ErrorKind::NotVerified, Some("root")), "{e}");
    assert!(e.remedy().is_some_and(|r| r.contains("invalid")), "{e}");
    assert!(!common::exists(&home.path().join("leaf")));
    let member = limits.cpuset_partition(Partition::Member);
    home.create("leaf", &member).expect("an ordinary group");
}

/// As natively, with limits to be written and verified each time.
#[test]
fn stress_four_threads_with_limits_leave_an_empty_tree() {
    let Some(home) = memory_home("cycles") else { return };
    common::cycles(&home, &tight().pids_max(8), 500);
}

#[test]
fn a111_an_inner_group_holds_no_processes() {
    let Some(home) = playground("inner") else { return };
    // cpu, cpuset and pids can do with processes in inner groups, at the price of threaded mode.
    let domain = |c: &&Controller| matches!(c.name(), "memory" | "io" | "hugetlb" | "rdma" | "misc");
    let Some(controller) = home.controllers().expect("readable").iter().find(domain).cloned() else {
        return skip("controllers", "not one of those that want the rule");
    };
    home.enable(&[controller.clone()].into()).expect("enabled");
    let e = home.add_process(std::process::id()).expect_err("no process in an inner group");
    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
    // The other way round: processes first.
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let mut child = spawn_in(&leaf, "exec sleep 1000");
    until("it sits there", || !leaf.procs().expect("readable").is_empty());
    let e = leaf.enable(&[controller.clone()].into()).expect_err("processes sit there");
    assert_eq!((e.kind(), e.controller()), (ErrorKind::Busy, Some(controller.name())), "{e}");
    assert!(e.remedy().is_some_and(|r| r.contains("vacate")), "{e}");
    leaf.vacate("inside").expect("moved");
    let moved = leaf.child("inside").expect("made");
    leaf.enable(&[controller].into()).expect("now it can");
    assert_eq!(moved.procs().expect("readable"), [child.id()]);
    leaf.remove().expect("removed");
    child.wait().expect("reaped");
}

#[test]
fn limits_that_another_has_changed_are_told() {
    let Some(home) = memory_home("verify") else { return };
    let limits = Limits::new().memory_max(Bytes::mib(64)).pids_max(8);
    let group = home.create("leaf", &limits).expect("created");
    group.verify(&limits).expect("as written");
    std::fs::write(group.path().join("pids.max"), "9").expect("written");
    let e = group.verify(&limits).expect_err("changed");
    assert_eq!((e.kind(), e.rejected()), (ErrorKind::NotVerified, Some("8")), "{e}");
    group.remove().expect("removed");
}
