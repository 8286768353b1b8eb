//! Process ids of one's own, nested, shared, and what becomes of a namespace whose first process ends.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::kill;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, getpid, getppid};
use palisade::ns::{AnyNs, Join, Namespace, Namespaces, Ns, kind, pidfd_open, unshare};
use palisade::procinfo::{ProcRoot, Stat};
use palisade::{Child, Sandbox, Stdio};
use palisade_testkit::{Forked, scaled, wait_until};
use serde::{Deserialize, Serialize};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};

const MOUNT: Namespaces = Namespaces::EMPTY.with(Namespace::Mount);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 30,
        commands: "echo $$\nunshare -fp --mount-proc /bin/sh; echo $$; ps -ef; ls -l /proc/1\nlsns -t pid -p PID   # on the host",
        mechanism: "unshare(2) puts the caller's next child into the new namespace, as pid 1, whose parent it cannot see: \
                    getppid() is 0. /proc shows the pid namespace of who mounted it, so the old one still shows the \
                    host's processes until a member mounts its own.",
        shows: "pid 1 with parent 0; the host's processes in the old /proc, one process in its own",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(first),
    },
    Lab {
        number: 31,
        commands: "grep NSpid /proc/PID/status   # on the host, and inside",
        mechanism: "A process has one number in its own pid namespace and one in each above it. Numbers are translated \
                    wherever the kernel tells one: in /proc, by kill(2), in the credentials of a socket. From below, \
                    what is above does not exist.",
        shows: "one process with four numbers, each viewer's own; signals reach downwards only",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(nested),
    },
    Lab {
        number: 32,
        commands: "docker run --rm -d ubuntu tail -f /dev/null\nps -ef | grep sleep; kill -SIGKILL $(pgrep sleep)   # on the host\ndocker ps",
        mechanism: "A process inside is a process of the host under another number, and its owner or root may signal it. \
                    The death of pid 1 ends the container.",
        shows: "a program inside killed from outside, which its parent inside is told; then pid 1",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(killed),
    },
    Lab {
        number: 33,
        commands: "docker run -d --name x ubuntu sleep 3600; docker kill -s TERM x; docker kill -s KILL x; docker run --init ...",
        mechanism: "pid 1 gets only the signals that it has handlers for, SIGKILL and SIGSTOP from above apart. When it \
                    ends the kernel kills every member, and no process can be made in the namespace again. Orphans become \
                    its children: who does not wait for them collects zombies.",
        shows: "TERM ignored, TERM handled, KILL that takes the others along, a namespace that is over, zombies",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(init),
    },
    Lab {
        number: 34,
        commands: "docker run -d ubuntu sleep 3600\ndocker exec ID ps aux; ps aux | grep 'sleep 3600'   # on the host",
        mechanism: "It is one process with one start time; only its number differs.",
        shows: "the same process in two rows: pid 1 inside, another number outside, one start time",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(both_sides),
    },
    Lab {
        number: 35,
        commands: "docker run --pid host|container:NAME ...",
        mechanism: "With the host's pid namespace every process is in sight, and those of the same user in reach. With \
                    that of a container, its pid 1 stays pid 1. Down is the only way: no namespace above the own one can \
                    be joined.",
        shows: "three modes: which namespace, which pid, who is seen; the way up is refused",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(modes),
    },
];

fn mount_proc() -> nix::Result<()> {
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)
}

/// Numbers in `/proc`, as this process sees it.
fn pids() -> io::Result<Vec<u32>> {
    let mut pids: Vec<u32> = kit::names("/proc")?.iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

fn first(report: &mut Report) -> Result {
    let host = std::process::id();
    let (pid, parent, old, own) = kit::in_child(|| {
        unshare(Namespace::Pid | Namespace::Mount)?;
        kit::in_child(|| {
            let old = pids()?.contains(&host);
            mount_proc()?;
            Ok((getpid().as_raw(), getppid().as_raw(), old, pids()?))
        })
    })?;
    report.equal("the first process is pid 1", pid, 1);
    report.equal("its parent is out of sight", parent, 0);
    report.check("the old /proc still shows this lab's process", old);
    report.equal("its own /proc shows itself alone", own, [1]);

    let sandbox = Sandbox::new()?;
    let text = kit::text(sandbox.command("/bin/sh").args(["-c", "echo $$ $PPID; cd /proc; echo [0-9]*"]))?;
    report.equal("a sandbox: pid 1, parent 0, nobody else", text.as_str(), "1 0\n1");
    Ok(())
}

/// What one level of nested namespaces tells the level above.
#[derive(Serialize, Deserialize)]
struct Level {
    /// Numbers that the innermost process has for this level and those below it, outermost viewer first.
    seen: Vec<Vec<u32>>,
    /// Whether a signal to a number of the lab's own process is refused for want of such a process.
    upwards: bool,
}

/// Runs in a namespace of its own, and so on `below` times; the innermost process stays.
fn descend(below: u32, lab: i32) -> Result<(Option<Forked>, Level)> {
    if below == 0 {
        let upwards = kill(Pid::from_raw(lab), None) == Err(nix::errno::Errno::ESRCH);
        return Ok((None, Level { seen: Vec::new(), upwards }));
    }
    unshare(Namespace::Pid)?;
    let (child, level) = kit::stay(|| {
        unshare(Namespace::Mount)?;
        mount_proc()?;
        let (kept, mut level) = descend(below - 1, lab)?;
        // The innermost process has the most numbers.
        let proc = ProcRoot::host()?;
        let all =
            proc.pids()?.into_iter().filter_map(|pid| Some(proc.process(pid).ok()?.status().ok()?.ns_pid));
        level.seen.insert(0, all.max_by_key(Vec::len).unwrap_or_default());
        // It ends with this process, which is pid 1 there.
        std::mem::forget(kept);
        Ok(level)
    })?;
    Ok((Some(child), level))
}

fn nested(report: &mut Report) -> Result {
    let lab = getpid().as_raw();
    let own = ProcRoot::host()?.myself()?.status()?.ns_pid.len();
    let (top, (numbers, level, reached)) = kit::stay(|| {
        let (child, level) = descend(3, lab)?;
        let first = child.as_ref().map_or(0, Forked::pid);
        let proc = ProcRoot::host()?;
        let mut deepest: Vec<u32> = Vec::new();
        for pid in proc.pids()? {
            let Ok(status) = proc.process(pid).and_then(|process| process.status()) else { continue };
            // Of this lab's processes alone: those that came after it.
            if status.ns_pid.len() > deepest.len() && descends(&proc, pid, first) {
                deepest = status.ns_pid;
            }
        }
        let number = i32::try_from(*deepest.get(own - 1).ok_or("it has no number here")?)?;
        let reached = kill(Pid::from_raw(number), None).is_ok();
        std::mem::forget(child);
        Ok((deepest, level, reached))
    })?;
    let mut rows = vec![["the lab".to_owned(), format!("{numbers:?}")]];
    report.equal("the host's view: four numbers", numbers.len() - own + 1, 4);
    for (depth, seen) in level.seen.iter().enumerate() {
        rows.push([format!("level {}", depth + 1), format!("{seen:?}")]);
        report.equal(
            format!("level {}: {} of them", depth + 1, 3 - depth),
            seen.as_slice(),
            &numbers[numbers.len() - (3 - depth)..],
        );
    }
    report.table("the NSpid of one process, by who looks", &["viewer", "NSpid"], rows);
    report.check("from below, a process above does not exist: ESRCH", level.upwards);
    report.check("from above it can be signalled", reached);
    drop(top);

    // A socket's credentials are translated for who asks.
    let path = report.directory().join("socket");
    let listener = UnixListener::bind(&path)?;
    let (child, inside) = kit::stay(|| {
        unshare(Namespace::Pid)?;
        let (kept, told) = kit::stay(|| {
            std::mem::forget(UnixStream::connect(&path)?);
            Ok(getpid().as_raw())
        })?;
        let outside = kept.pid();
        std::mem::forget(kept);
        Ok((told, outside))
    })?;
    let (stream, _) = listener.accept()?;
    let told = getsockopt(&stream, PeerCredentials)?.pid();
    report.equal(
        "a process that calls itself 1 is known on a socket by its number outside",
        (inside.0, u32::try_from(told)?),
        (1, inside.1),
    );
    drop(child);
    fs::remove_file(path)?;
    Ok(())
}

/// Whether `pid` is `ancestor` or one of its descendants.
fn descends(proc: &ProcRoot, mut pid: u32, ancestor: u32) -> bool {
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        match proc.process(pid).and_then(|process| process.status()) {
            Ok(status) => pid = status.ppid,
            Err(_) => return false,
        }
    }
    false
}

/// Starts a shell in a sandbox and reads its first line.
fn shell(
    sandbox: &Sandbox,
    script: &str,
) -> Result<(Child, impl Iterator<Item = io::Result<String>> + use<>, String)> {
    let mut command = sandbox.command("/bin/sh");
    let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
    let first = lines.next().ok_or("the payload says nothing")??;
    Ok((child, lines, first))
}

fn killed(report: &mut Report) -> Result {
    let sandbox = Sandbox::new()?;
    let script = "sleep 10000 & echo $!; wait $!; echo status $?; exec sleep 10000";
    let (mut child, mut lines, inside) = shell(&sandbox, script)?;
    let pid_namespace = Ns::<kind::Pid>::of_process(child.id())?;
    let outside = pid_namespace.pid_to_caller(inside.parse()?)?;
    report.note(format!("sleep is {inside} inside and {outside} on the host"));
    report.differ("two numbers for it", inside.clone(), outside.to_string());
    kill(Pid::from_raw(i32::try_from(outside)?), nix::sys::signal::SIGKILL)?;
    report.equal(
        "its parent inside is told: killed by signal 9",
        lines.next().ok_or("no line")??.as_str(),
        "status 137",
    );
    report.check("pid 1 goes on", child.wait_timeout(scaled(Duration::from_millis(50)))?.is_none());
    child.signal(libc::SIGKILL)?;
    report.equal(
        "then pid 1 is killed, and with it the container",
        child.wait()?.signal(),
        Some(libc::SIGKILL),
    );
    report.check("its namespace has no first process any more", pid_namespace.init().is_err());
    Ok(())
}

fn init(report: &mut Report) -> Result {
    let sandbox = Sandbox::new()?;
    let patience = scaled(Duration::from_millis(100));

    let mut child = sandbox.command("/bin/sleep").arg("1000").stdout(Stdio::null()).spawn()?;
    child.signal(libc::SIGTERM)?;
    report.check("(a) pid 1 without a handler does not get SIGTERM", child.wait_timeout(patience)?.is_none());
    child.signal(libc::SIGKILL)?;
    report.equal("    but SIGKILL from above", child.wait()?.signal(), Some(libc::SIGKILL));

    let (mut child, _lines, _) =
        shell(&sandbox, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")?;
    child.signal(libc::SIGTERM)?;
    report.equal("(b) with a handler it ends as that says", child.wait()?.code(), Some(7));

    let (mut child, _lines, started) =
        shell(&sandbox, "for n in 1 2 3; do sleep 1000 & echo -n \"$! \"; done; echo; wait")?;
    let namespace = Ns::<kind::Pid>::of_process(child.id())?;
    let mut members = Vec::new();
    for pid in started.split_whitespace() {
        members.push(namespace.pid_to_caller(pid.parse()?)?);
    }
    report.equal("(c) three processes in the background", members.len(), 3);
    child.signal(libc::SIGKILL)?;
    child.wait()?;
    let alive = || members.iter().filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok()).count();
    wait_until(scaled(Duration::from_secs(2)), || alive() == 0);
    report.equal("    they end with pid 1", alive(), 0);

    let refused = kit::in_child(|| {
        unshare(Namespace::Pid)?;
        kit::in_child(|| Ok(()))?;
        Ok(palisade_testkit::fork(|_| 0).err().and_then(|error| error.raw_os_error()))
    })?;
    report.equal("(d) once pid 1 has ended nobody can be born there: ENOMEM", refused, Some(libc::ENOMEM));

    // Orphans whose new parent never waits: the shell is replaced by a program that has no children to its knowledge.
    let script = "for n in 1 2 3 4 5; do (sleep 0.3 & ) ; done; echo go; exec sleep 1000";
    let (mut child, _lines, _) = shell(&sandbox, script)?;
    let zombies = |pid: u32| {
        let dead = |child: &i32| {
            fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        kit::children(pid).iter().filter(|child| dead(child)).count()
    };
    wait_until(scaled(Duration::from_secs(2)), || zombies(child.id()) == 5);
    report.equal("(e) a pid 1 that never waits collects zombies", zombies(child.id()), 5);
    child.kill()?;
    report.equal("    which are gone with it", child.wait()?.signal(), Some(libc::SIGKILL));
    Ok(())
}

fn both_sides(report: &mut Report) -> Result {
    let sandbox = Sandbox::new()?;
    let script = "read -r line </proc/1/stat; echo $line; exec sleep 3600";
    let (mut child, _lines, inside) = shell(&sandbox, script)?;
    let proc = ProcRoot::host()?;
    let process = proc.process_of_pidfd(child.pidfd())?;
    let named =
        wait_until(scaled(Duration::from_secs(2)), || process.comm().is_ok_and(|name| name == "sleep"));
    report.check("the shell has become sleep", named);
    let (status, stat) = (process.status()?, process.stat()?);
    let start = Stat::parse(inside.as_bytes())?.start_time;
    let command = process.cmdline()?.to_string();
    report.table(
        "one process",
        &["seen", "pid", "start time", "command"],
        [
            ["inside".to_owned(), "1".into(), format!("{start:?}"), "sleep 3600".into()],
            ["on the host".into(), status.pid.to_string(), format!("{:?}", stat.start_time), command.clone()],
        ],
    );
    report.equal("its last number is that of its own namespace", status.ns_pid.last().copied(), Some(1));
    report.differ("its number on the host is another", status.pid, 1);
    report.equal("the start time is one", start, stat.start_time);
    report.check("so is the command line", command.contains("3600"));
    let (root, host) = (fs::metadata(format!("/proc/{}/root", status.pid)), fs::metadata("/")?);
    if let Ok(root) = root {
        report.differ("and its root is not the host's", (root.dev(), root.ino()), (host.dev(), host.ino()));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn modes(report: &mut Report) -> Result {
    let lab = std::process::id();
    let own = kit::namespace("self", Namespace::Pid)?;
    let mut rows = Vec::new();

    // The donor: pid 1 of a namespace of its own.
    let (donor, (first, ns)) = kit::stay(|| {
        unshare(Namespace::Pid)?;
        let (first, namespace) = kit::stay(|| kit::namespace("self", Namespace::Pid))?;
        let pid = first.pid();
        std::mem::forget(first);
        Ok((pid, namespace))
    })?;
    let look = |join: Option<u32>| {
        kit::in_child(|| {
            match join {
                Some(pid) => Join::new().process(pidfd_open(pid)?, Namespace::Pid.into()).prepare()?.run()?,
                None => unshare(Namespace::Pid)?,
            }
            unshare(Namespace::Mount)?;
            kit::in_child(|| {
                mount_proc()?;
                let signal = kill(Pid::from_raw(1), None).is_ok();
                let up = AnyNs::open("/proc/1/ns/pid").map(|_| ()).is_ok();
                Ok((kit::namespace("self", Namespace::Pid)?, getpid().as_raw(), pids()?, signal, up))
            })
        })
    };
    let private = look(None)?;
    rows.push(["private".to_owned(), private.0.clone(), private.1.to_string(), format!("{:?}", private.2)]);
    report.differ("private: a namespace of its own", &private.0, &own);
    report.equal("private: it is pid 1 and alone", (private.1, private.2), (1, vec![1]));
    let joined = look(Some(first))?;
    rows.push(["container:donor".into(), joined.0.clone(), joined.1.to_string(), format!("{:?}", joined.2)]);
    report.equal("container: the donor's namespace", &joined.0, &ns);
    report
        .check("container: pid 1 is the donor's, this one is another", joined.1 > 1 && joined.2.contains(&1));
    report.check("container: it may signal and look into the donor", joined.3 && joined.4);
    rows.push(["host".into(), own.clone(), lab.to_string(), format!("{} processes", pids()?.len())]);
    report.check("host: this lab's process is in sight", pids()?.contains(&lab));
    report.table("docker run --pid", &["mode", "pid namespace", "own pid", "seen in /proc"], rows);

    // One level first that this user owns in any case.
    let up = kit::in_child(|| {
        unshare(Namespace::Pid)?;
        kit::in_child(|| {
            let above = AnyNs::current(Namespace::Pid)?;
            unshare(Namespace::Pid)?;
            kit::in_child(|| {
                let error = Join::new().namespace(above).prepare()?.run().err();
                Ok(error.and_then(|error| error.errno()))
            })
        })
    })?;
    report.equal("a namespace above one's own can't be joined: EINVAL", up, Some(libc::EINVAL));
    drop(donor);
    Ok(())
}
