//! What a container may use: Docker's resource options, by cgroup v2.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command as HostCommand;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use palisade::cgroup::{
    Bytes, Cgroup, CpuMax, CpuSet, CpuStat, DeviceRules, Limit, Limits, OwnedCgroup, Sampler, docker,
};
use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::procinfo::{CpuTimes, ProcRoot};
use palisade::{Child, ExitCause, Sandbox, Stdio};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result, skip};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 44,
        commands: "docker container run -d --name ch6_mariadb --memory 256m --cpu-shares 1024 --cap-drop net_raw mariadb:5.5\n\
                   docker stats ch6_mariadb",
        mechanism: "memory.max is a ceiling, not a reservation: nothing is set aside, and the group may still find the machine \
                    full. What goes beyond it is reclaimed, swapped if memory.swap.max allows, and else the kernel's \
                    out-of-memory killer ends a process of this group, and of no other. Docker gives as much swap again \
                    unless told otherwise, and refuses less than 6 MiB.",
        shows: "a program that takes more than its limit ends as `out of memory`, its neighbour does not notice; the line of `docker stats`",
        needs: Needs::Cgroup,
        outer: Namespaces::EMPTY,
        body: Body::Run(memory_limit),
    },
    Lab {
        number: 45,
        commands: "docker container run -d --memory 256m --cpu-shares 1024 mariadb:5.5\n\
                   docker container run -d --memory 512m --cpu-shares 512 wordpress:4.1\n\
                   docker container run -d --cpu-shares 2048 ...",
        mechanism: "Shares count only where processors are contended: each group gets its part of the sum. cgroup v2 has \
                    weights from 1 to 10000 instead of shares from 2 to 262144; by the conversion that runtimes use since \
                    2025 the default of 1024 becomes the default of 100, and 512 becomes 59: 1.69 to 1, no longer 2 to 1.",
        shows: "three programs on one processor share it 100 : 59 : 174; alone, one has all of it",
        needs: Needs::Cgroup,
        outer: Namespaces::EMPTY,
        body: Body::Run(cpu_shares),
    },
    Lab {
        number: 46,
        commands: "docker container run -d --memory 512m --cpu-shares 512 --cpus 0.75 wordpress:4.1",
        mechanism: "cpu.max holds a quota and a period: of every 100 ms the group runs 75, on all processors together, and \
                    waits for the next period when they are used up, however idle the machine is.",
        shows: "a program that never waits gets three quarters of a processor, and the kernel counts how often it held it back",
        needs: Needs::Cgroup,
        outer: Namespaces::EMPTY,
        body: Body::Run(cpus),
    },
    Lab {
        number: 47,
        commands: "docker container run -d --cpuset-cpus 0 --name ch6_stresser dockerinaction/ch6_stresser\n\
                   docker container run -it --rm dockerinaction/ch6_htop",
        mechanism: "cpuset.cpus is a list of processors, `0-2` or `0,1,2`. The scheduler runs the group's tasks on no other; \
                    what the group gets in the end is in cpuset.cpus.effective.",
        shows: "a busy program that never leaves its processor, and the load of each",
        needs: Needs::Cgroup,
        outer: Namespaces::EMPTY,
        body: Body::Run(cpuset),
    },
    Lab {
        number: 48,
        commands: "docker container run -it --rm --device /dev/video0:/dev/video0 ubuntu:16.04 ls -al /dev",
        mechanism: "Two things decide about a device: whether a node of it is in sight, and whether the group may open it. \
                    The second is an eBPF program at the group that the kernel asks at each open and mknod; it holds for \
                    root, and for nodes that the payload makes itself. --device does both.",
        shows: "a device under another name that may be read and not written; others are refused, by mknod too, to root too",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(devices),
    },
    Lab {
        number: 49,
        commands: "cgcreate -a root -g cpu:mycgroup\ncgset -r cpu.cfs_quota_us=30000 mycgroup\ncgexec -g cpu:mycgroup stress -c 1\n\
                   echo 20 >pids.max; :(){ :|:& };:",
        mechanism: "A cgroup is a directory and a limit is a line in one of its files. A process is in it from birth, or by \
                    its number written to cgroup.procs. Whatever it starts is in it, too.",
        shows: "a group by hand: thirty per cent of a processor, and the sixth task is refused",
        needs: Needs::Cgroup,
        outer: Namespaces::EMPTY,
        body: Body::Run(by_hand),
    },
];

/// A sandbox with these limits below a cgroup.
fn limited(parent: &Cgroup, limits: Limits) -> Result<Sandbox> {
    Ok(Sandbox::builder().cgroup(limits).cgroup_parent(parent.clone()).build()?)
}

fn shell(report: &mut Report, sandbox: &Sandbox, script: &str) -> Result<Child> {
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null());
    report.plan(&command.plan()?);
    Ok(command.spawn()?)
}

fn group(child: &Child) -> Result<&Cgroup> {
    Ok(child.cgroup().ok_or("it has no cgroup")?)
}

fn end(mut child: Child) -> Result {
    child.kill()?;
    child.wait()?;
    Ok(())
}

const SPIN: &str = "while :; do :; done";

fn memory_limit(report: &mut Report) -> Result {
    let parent = kit::cgroup()?;
    let docker = |memory: i64| docker::MemoryOptions { memory, ..docker::MemoryOptions::default() };
    // The study's option, as Docker has it.
    let held = limited(&parent, docker(256 << 20).limits()?.pids_max(100))?;
    let mut database = shell(report, &held, "x=$(head -c 8000000 /dev/zero | tr '\\0' x); sleep 1000")?;
    let memory = group(&database)?.memory()?;
    report.equal("--memory 256m is memory.max", memory.max, Limit::At(Bytes::mib(256)));
    let swap = fs::read_to_string(group(&database)?.path().join("memory.swap.max"))?;
    report.equal("and as much swap again", swap.trim(), "268435456");
    report.check(
        format!("it is no reservation: {} KiB are in use at first", memory.current.get() >> 10),
        memory.current < Bytes::mib(64),
    );
    let mut sampler = Sampler::new(group(&database)?)?;
    let start = Instant::now();
    let usage = loop {
        sleep(Duration::from_millis(200));
        let usage = sampler.usage()?;
        let used = usage.memory.map_or(0, |(used, _)| used.get());
        if used >= 8_000_000 || start.elapsed() > Duration::from_secs(60) {
            break usage;
        }
    };
    let line = usage.to_string();
    report
        .note(format!("docker stats ch6_mariadb\nCPU %  MEM USAGE / LIMIT  MEM %  BLOCK I/O  PIDS\n{line}"));
    report.check("the line says how much of what", line.contains("MiB / 256MiB"));
    report.equal("Docker refuses less than 6 MiB", docker(5 << 20).limits().is_err(), true);

    // A quarter of that, and no swap, so that it is soon over.
    let limit = Bytes::mib(64);
    let tight = || Limits::new().memory_max(limit).memory_swap_max(Bytes::new(0));
    let neighbour = shell(report, &limited(&parent, tight())?, "sleep 1000")?;
    let mut hog = shell(report, &limited(&parent, tight())?, "exec tail /dev/zero")?;
    let status = hog.wait()?;
    let (events, peak) = (group(&hog)?.memory_events()?, group(&hog)?.memory_peak());
    report.equal("the one that takes all it can ends as", status.cause(), ExitCause::OutOfMemory);
    report.equal("by SIGKILL, which a shell shows as 137", status.signal(), Some(9));
    report.check(format!("the kernel counts it: oom_kill {}", events.oom_kill), events.oom_kill >= 1);
    if let Ok(peak) = peak {
        let within = (limit.get() / 2..=limit.get() + limit.get() / 10).contains(&peak.get());
        report.check(format!("at its largest it had {} MiB of 64", peak.get() >> 20), within);
    }
    report.equal("nothing happened to its neighbour", group(&neighbour)?.memory_events()?.oom_kill, 0);
    report.check("nor to the database", database.try_wait()?.is_none());
    let mut modest =
        shell(report, &limited(&parent, tight())?, "head -c 8000000 /dev/zero | tail -n 1 >/dev/null")?;
    report.check("one that stays below its limit ends well", modest.wait()?.success());
    end(neighbour)?;
    end(database)
}

/// A group with one processor, for contention.
fn one_processor(parent: &Cgroup) -> Result<(OwnedCgroup, u16)> {
    let cpu =
        parent.effective_cpus().map_err(skip)?.iter().next().ok_or_else(|| skip("no processor is known"))?;
    let only: CpuSet = [cpu].into_iter().collect();
    Ok((parent.create_unique("palisade-lab", &Limits::new().cpuset_cpus(&only)).map_err(skip)?, cpu))
}

fn times(cpu: u16) -> Result<CpuTimes> {
    let stat = ProcRoot::host()?.stat()?;
    let found = stat.cpus.into_iter().find(|(number, _)| *number == u32::from(cpu));
    Ok(found.ok_or("the processor is not in /proc/stat")?.1)
}

fn cpu_shares(report: &mut Report) -> Result {
    let (one, cpu) = one_processor(&kit::cgroup()?)?;
    let shares = [1024, 512, 2048];
    let weights: Vec<u64> =
        shares.iter().filter_map(|s| docker::cpu_weight(*s)).map(|w| w.get().into()).collect();
    let old: Vec<u64> =
        shares.iter().filter_map(|s| docker::cpu_weight_linear(*s)).map(|w| w.get().into()).collect();
    report.equal("shares of 1024, 512 and 2048 are weights of", &weights, &vec![100, 59, 174]);
    let mut children = Vec::new();
    for share in shares {
        let weight = docker::cpu_weight(share).ok_or("no weight")?;
        children.push(shell(report, &limited(&one, Limits::new().cpu_weight(weight))?, SPIN)?);
        if children.len() == 1 {
            // Alone: less idle than that is not to be had.
            sleep(Duration::from_millis(300));
            let (before, start) = (times(cpu)?, Instant::now());
            sleep(Duration::from_millis(1500));
            let idle = (times(cpu)?.idle - before.idle).as_secs_f64() / start.elapsed().as_secs_f64();
            report.check(
                format!("alone, a weight is no limit: the processor idles {:.0} %", idle * 100.0),
                idle < 0.1,
            );
        }
    }
    sleep(Duration::from_millis(300));
    let used = || -> Result<Vec<f64>> {
        children.iter().map(|child| Ok(group(child)?.cpu_stat()?.usage.as_secs_f64())).collect()
    };
    let before = used()?;
    sleep(Duration::from_secs(3));
    let spent: Vec<f64> = used()?.iter().zip(&before).map(|(after, before)| after - before).collect();
    let (all, sum) = (spent.iter().sum::<f64>(), weights.iter().sum::<u64>());
    let mut rows = Vec::new();
    for i in 0..shares.len() {
        let (due, had) = (weights[i] as f64 / sum as f64, spent[i] / all);
        rows.push([
            shares[i].to_string(),
            old[i].to_string(),
            weights[i].to_string(),
            format!("{:.1} %", due * 100.0),
            format!("{:.1} %", had * 100.0),
        ]);
        report.check(
            format!(
                "{} shares: {:.1} % of what there was, {:.1} % were due",
                shares[i],
                had * 100.0,
                due * 100.0
            ),
            (due * 0.8..=due * 1.2).contains(&had),
        );
    }
    report.table(
        "three seconds on one processor",
        &["shares", "weight until 2025", "weight", "due", "had"],
        rows,
    );
    for child in children {
        end(child)?;
    }
    Ok(one.remove_within(Duration::from_secs(30))?)
}

/// Lets a quota work for some periods. Gives the share of a processor, and what the kernel counted.
fn throttled(group: &Cgroup, periods: u64) -> Result<(f64, CpuStat, CpuStat)> {
    let wait = |count: u64| -> Result {
        let start = Instant::now();
        while group.cpu_stat()?.nr_throttled < count {
            if start.elapsed() > Duration::from_secs(60) {
                return Err("the quota never held the group back".into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    wait(3)?;
    let (before, start) = (group.cpu_stat()?, Instant::now());
    wait(before.nr_throttled + periods)?;
    let (after, wall) = (group.cpu_stat()?, start.elapsed());
    Ok(((after.usage - before.usage).as_secs_f64() / wall.as_secs_f64(), before, after))
}

/// The share of a processor that a quota gave, against what it was to give.
fn judge(report: &mut Report, max: CpuMax, seen: (f64, CpuStat, CpuStat), tolerance: f64) -> Result {
    let (share, before, after) = seen;
    let Limit::At(quota) = max.quota() else { return Err("no quota".into()) };
    let due = quota.as_secs_f64() / max.period().as_secs_f64();
    let held = after.nr_throttled - before.nr_throttled;
    let used = (after.usage - before.usage).as_secs_f64();
    report.note(format!(
        "{held} periods with {:?} of every {:?}: {:.1} % of a processor, held back for {:?} in all",
        quota,
        max.period(),
        share * 100.0,
        after.throttled - before.throttled,
    ));
    report.check(format!("no more than {due:.2} of a processor: {share:.3}"), share <= due + tolerance);
    // In each period in which it was held back it had had all of its quota; a busy machine may give it fewer of those.
    let in_full = used >= 0.93 * held as f64 * quota.as_secs_f64();
    report.check("and no less, in every period in which it was held back", in_full);
    report.check("the kernel says for how long", after.throttled > before.throttled);
    Ok(())
}

fn cpus(report: &mut Report) -> Result {
    let parent = kit::cgroup()?;
    let max = docker::cpu_max(750_000_000, 1)?.ok_or("not set")?;
    report.equal("--cpus 0.75 is cpu.max", max.to_string(), "75000 100000");
    report.equal(
        "more processors than there are is an error",
        docker::cpu_max(2_000_000_000, 1).is_err(),
        true,
    );
    let child = shell(report, &limited(&parent, Limits::new().cpu_max(max))?, SPIN)?;
    let seen = throttled(group(&child)?, 20)?;
    judge(report, max, seen, 0.05)?;
    end(child)
}

fn cpuset(report: &mut Report) -> Result {
    let parent = kit::cgroup()?;
    let all = parent.effective_cpus().map_err(skip)?;
    let last =
        all.iter().last().filter(|_| all.len() > 1).ok_or_else(|| skip("there is but one processor"))?;
    let (list, range): (CpuSet, CpuSet) = ("0,1,2".parse()?, "0-2".parse()?);
    report.equal("`0,1,2` and `0-2` are the same list", list, range);
    let only: CpuSet = [last].into_iter().collect();
    let sandbox = limited(&parent, Limits::new().cpuset_cpus(&only))?;
    let child = shell(report, &sandbox, SPIN)?;
    report.equal("cpuset.cpus.effective", group(&child)?.effective_cpus()?.to_string(), last.to_string());
    let process = ProcRoot::host()?.process_of_pidfd(child.pidfd())?;
    let allowed = process.status()?.cpus_allowed;
    report.equal("Cpus_allowed_list", allowed, vec![u32::from(last)..=u32::from(last)]);
    let before: Vec<CpuTimes> = all.iter().map(times).collect::<Result<_>>()?;
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    while start.elapsed() < Duration::from_secs(1) {
        seen.insert(process.stat()?.processor);
        sleep(Duration::from_millis(10));
    }
    let wall = start.elapsed().as_secs_f64();
    let mut rows = Vec::new();
    for (cpu, before) in all.iter().zip(before) {
        let busy = 1.0 - ((times(cpu)?.idle - before.idle).as_secs_f64() / wall).min(1.0);
        rows.push([cpu.to_string(), "|".repeat((busy * 40.0) as usize), format!("{:.0} %", busy * 100.0)]);
    }
    report.table("load of each processor for a second, as htop draws it", &["cpu", "", ""], rows);
    report.equal("it ran nowhere else", seen, BTreeSet::from([u32::from(last)]));
    end(child)?;
    let none = Limits::new().cpuset_cpus(&"60000".parse()?);
    let refused = limited(&parent, none)?.command("/bin/true").status();
    report.check(
        format!(
            "a processor that no machine has is refused: {}",
            refused.as_ref().err().map_or("no", |_| "yes")
        ),
        refused.is_err(),
    );
    Ok(())
}

fn devices(report: &mut Report) -> Result {
    // Both halves of --device by the engine: a node of the host in a sandbox, and no other.
    let device = "/dev/kmsg";
    let sandbox = Sandbox::builder().device(device).build()?;
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "ls /dev; stat -c '%t:%T' /dev/kmsg"]);
    report.plan(&command.plan()?);
    let told = kit::text(&mut command)?;
    let (number, inside) = told
        .lines()
        .rev()
        .collect::<Vec<_>>()
        .split_first()
        .map(|(n, l)| (*n, l.len()))
        .ok_or("no output")?;
    let host = kit::names("/dev")?.len();
    report.note(format!("/dev has {host} entries on the host, {inside} in a sandbox with --device {device}"));
    let rdev = fs::metadata(device)?.rdev();
    let expected = format!("{:x}:{:x}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    report.equal("the node has the host's numbers", number, expected.as_str());
    let plain = kit::text(Sandbox::new()?.command("/bin/sh").args(["-c", "ls /dev"]))?;
    report.check("without the option it is not there", !plain.lines().any(|name| name == "kmsg"));

    // Who may open what: as root, with nodes of one's own.
    let rules = DeviceRules::deny_all().allow("c 1:3 rwm".parse()?).allow("c 1:7 r".parse()?);
    let group = kit::any_cgroup()?.create_unique("palisade-lab", &Limits::new())?;
    group.set_devices(&rules).map_err(skip)?;
    let place = report.directory().to_owned();
    let told: Vec<(String, Option<i32>, Option<i32>)> = kit::in_child(|| {
        unshare(Namespace::Mount)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some("none"), &place, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        let node = |name: &str, minor| {
            mknod(&place.join(name), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor))
                .err()
                .map(|e| e as i32)
        };
        // Before there are rules root makes what it likes; who has the node has not yet the device.
        for (name, minor) in [("labdev", 7), ("null", 3), ("zero", 5)] {
            node(name, minor);
        }
        group.enter()?;
        let errno = |result: std::io::Result<File>| result.err().and_then(|error| error.raw_os_error());
        let open =
            |name: &str, write: bool| errno(File::options().read(!write).write(write).open(place.join(name)));
        let mut byte = [1];
        File::open(place.join("labdev"))?.read_exact(&mut byte)?;
        Ok(vec![
            (
                "/dev/full as labdev, allowed to be read: open to read, to write".into(),
                open("labdev", false),
                open("labdev", true),
            ),
            ("null, allowed: open to read, to write".into(), open("null", false), open("null", true)),
            ("zero, not allowed: open to read, to write".into(), open("zero", false), open("zero", true)),
            ("mknod of null and of zero".into(), node("null2", 3), node("zero2", 5)),
        ])
    })?;
    let (ok, eperm) = (None, Some(Errno::EPERM as i32));
    let expected = [(ok, eperm), (ok, ok), (eperm, eperm), (ok, eperm)];
    for ((what, first, second), expected) in told.into_iter().zip(expected) {
        report.equal(what, (first, second), expected);
    }
    let program = group.device_programs()?;
    report.note(format!(
        "the rules, as the kernel runs them\n{}",
        program.first().ok_or("no program")?.program
    ));
    group.remove()?;
    Ok(())
}

fn by_hand(report: &mut Report) -> Result {
    let parent = kit::cgroup()?;
    let max = CpuMax::new(Duration::from_millis(30), Duration::from_millis(100))?;
    let group = parent.create_unique("mycgroup", &Limits::new().cpu_max(max).pids_max(5))?;
    let read = |file: &str| fs::read_to_string(group.path().join(file)).map(|text| text.trim().to_owned());
    report.equal("cpu.max", read("cpu.max")?, "30000 100000");
    let mut stress = HostCommand::new("/bin/sh");
    stress.args(["-c", SPIN]);
    group.confine(&mut stress)?;
    let mut child = stress.spawn()?;
    let seen = throttled(&group, 20)?;
    judge(report, max, seen, 0.05)?;
    group.kill()?;
    child.wait()?;
    // A shell and four more are five; the sixth is one too many.
    let mut bomb = HostCommand::new("/bin/sh");
    bomb.args([
        "-c",
        "exec 2>/dev/null; for i in 1 2 3 4; do sleep 1000 & done; (sleep 0) && exit 10; exit 0",
    ]);
    group.confine(&mut bomb)?;
    let mut child = bomb.spawn()?;
    let status = child.wait()?;
    // dash ends with 2 when it cannot fork.
    report.check(format!("the sixth task is refused ({status})"), matches!(status.code(), Some(0 | 2)));
    let pids = group.pids()?;
    report.check(format!("pids.events: max {}", pids.events.max), pids.events.max > 0);
    report.check("outside of the group forks go on", HostCommand::new("/bin/true").status()?.success());
    Ok(group.remove_within(Duration::from_secs(30))?)
}
