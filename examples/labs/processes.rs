//! Processes, what the host sees of them, and what /proc says.

use std::fs::{self, File};
use std::os::unix::fs::chroot;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command as HostCommand, Stdio as HostStdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use palisade::cgroup::{Bytes, Limits};
use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::procinfo::{
    Parts, ProcRoot, Process, SeccompMode, Snapshot, State, Tree, TreeStyle, UserNames, page_size,
};
use palisade::secfilter::{Filter, Install, presets};
use palisade::{Sandbox, Stdio};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result, skip};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 2,
        commands: "1979 chroot   2002 mount   2006 uts, ipc   2008 pid, cgroup   2009 net   2012 user   2013 Docker   2015 Kubernetes",
        mechanism: "Every part of a container came to the kernel by itself, over thirty-five years. Docker and Kubernetes \
                    brought no new one: they are programs that ask for these.",
        shows: "each feature with its year and kernel, and that this kernel has it: a child really makes one",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY.with(Namespace::Mount),
        body: Body::Run(history),
    },
    Lab {
        number: 4,
        commands: "sleep 1000        # in the foreground\nsleep 1000 &      # in the background",
        mechanism: "fork(2) copies the caller: a new pid, the same program, memory of its own. execve(2) replaces the \
                    program and keeps the pid. A shell waits for a command in the foreground; with & it asks for its \
                    status later: waitpid(2) with WNOHANG answers at once.",
        shows: "a new pid and the same program after fork, the same pid and a new program after exec, a wait that does not block",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(fork_and_exec),
    },
    Lab {
        number: 5,
        commands: "pstree\npstree -a\npstree -c\npstree -h\npstree -n\npstree -p\npstree -u\npstree USER",
        mechanism: "Each process has one parent (PPid in /proc/PID/status), so all of them are a tree. pstree reads /proc \
                    and draws it. -c turns putting equal branches together off, -h marks the current process and its \
                    ancestors, -u shows where the user changes, and a user is a bare argument. What /proc does not show \
                    is not in the tree: inside a pid namespace with its own /proc it begins at pid 1.",
        shows: "the lab's own family drawn by each option, and the tree of a sandbox, which has one root",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(pstree),
    },
    Lab {
        number: 6,
        commands: "cat /proc/cpuinfo\ncat /proc/meminfo\nwatch -d cat /proc/uptime\ncat /proc/loadavg\ncat /proc/version\n\
                   cat /proc/filesystems\ncat /proc/partitions",
        mechanism: "These files are made when they are read, from counters of the kernel. No namespace and no limit changes \
                    them: a container reads the host's processors, memory and load, and programs that size themselves by \
                    them take more than their cgroup gives.",
        shows: "the seven files, typed; the uptime runs; a sandbox with a memory limit still reads the host's MemTotal",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(proc_of_the_system),
    },
    Lab {
        number: 7,
        commands: "cat /proc/$$/cmdline\nls -l /proc/$$/cwd\ncat /proc/$$/environ\nls -l /proc/$$/exe\nls -l /proc/$$/fd\n\
                   cat /proc/$$/maps\ncat /proc/$$/stat\ncat /proc/$$/status",
        mechanism: "A directory of /proc is a process. cmdline and environ are read from its memory, with NUL between the \
                    strings; cwd, exe and fd/N are links that lead straight to the file. The name in stat may hold blanks \
                    and brackets, so that the line is read from its last one.",
        shows: "a child called `a) b` with a known environment, directory and open file, read back exactly",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(proc_of_a_process),
    },
    Lab {
        number: 8,
        commands: "whoami\nsudo -i      # only where there is no other way",
        mechanism: "What root may do beyond others are its capabilities, and a program has those that its user has. A \
                    program that needs none should have none: a mistake in it then costs what its user could have done \
                    anyway, not the machine.",
        shows: "who this is, what it could do to the host, and that a sandbox of it can do none of that",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(little_root),
    },
];

/// Feature, year, kernel, and a proof that it is there.
type Proof<'a> = Box<dyn Fn() -> Result + 'a>;

fn history(report: &mut Report) -> Result {
    let jail = report.directory().to_owned();
    let make = |kind| -> Proof { Box::new(move || Ok(unshare(kind)?)) };
    let filter = presets::payload().compile()?;
    let group = kit::any_cgroup();
    let mut table: Vec<(&str, &str, &str, Option<Proof>)> = vec![
        ("chroot", "1979", "UNIX V7", Some(Box::new(|| Ok(chroot(&jail)?)))),
        ("mount namespace", "2002", "2.4.19", Some(make(Namespace::Mount))),
        ("uts namespace", "2006", "2.6.19", Some(make(Namespace::Uts))),
        ("ipc namespace", "2006", "2.6.19", Some(make(Namespace::Ipc))),
        ("pid namespace", "2008", "2.6.24", Some(make(Namespace::Pid))),
        ("cgroup v1", "2008", "2.6.24", None),
        ("net namespace", "2009", "2.6.29", Some(make(Namespace::Net))),
        ("seccomp filter", "2012", "3.5", Some(Box::new(|| filtered(&filter)))),
        ("user namespace", "2013", "3.8", Some(make(Namespace::User))),
        ("Docker", "2013", "-", None),
        ("Kubernetes", "2015", "-", None),
        ("cgroup namespace", "2016", "4.6", Some(make(Namespace::Cgroup))),
        ("time namespace", "2020", "5.6", Some(make(Namespace::Time))),
    ];
    if let Ok(parent) = &group {
        let made: Proof = Box::new(|| Ok(parent.create_unique("palisade-lab", &Limits::new())?.remove()?));
        table.push(("cgroup v2", "2016", "4.5", Some(made)));
    }
    let mut rows = Vec::new();
    for (feature, year, since, proof) in &table {
        let seen = match proof {
            None => "-".to_owned(),
            Some(proof) => {
                let made = kit::in_child(proof);
                report.check(format!("{feature}: a child makes one"), made.is_ok());
                made.map_or_else(|error| error.to_string(), |()| "made".into())
            }
        };
        rows.push([(*feature).to_owned(), (*year).into(), (*since).into(), seen]);
    }
    if let Err(error) = &group {
        report.note(format!("cgroup v2 (2016, 4.5) is not shown: {error}"));
    }
    report.table("what containers are made of", &["feature", "year", "since kernel", "here"], rows);
    Ok(())
}

/// A program that runs with this filter, and says so.
fn filtered(filter: &Filter) -> Result {
    let mut command = HostCommand::new("/bin/sh");
    command.args([
        "-c",
        "while read -r name value; do [ $name = Seccomp: ] && exit $value; done </proc/self/status",
    ]);
    Install::new(filter).confine(&mut command)?;
    match command.status()?.code() {
        Some(2) => Ok(()),
        other => Err(format!("Seccomp: {other:?}").into()),
    }
}

/// Waits for what another process does.
fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > Duration::from_secs(60) {
            return Err(format!("in vain waited for: {what}").into());
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A child of the host that ends with its handle, and what it has started with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // They may have ended already.
        if let Ok(group) = i32::try_from(self.0.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        drop(self.0.wait());
    }
}

fn start(command: &mut HostCommand) -> Result<Ended> {
    Ok(Ended(command.process_group(0).spawn()?))
}

fn fork_and_exec(report: &mut Report) -> Result {
    let proc = ProcRoot::host()?;
    let me = proc.myself()?;
    let mut number = 1;
    let (copy, of_copy) = kit::stay(|| {
        number += 1;
        Ok((std::process::id(), nix::unistd::getppid().as_raw(), number))
    })?;
    let seen = proc.process(copy.pid())?;
    report.differ("fork: a new pid", of_copy.0, std::process::id());
    report.equal("its parent is this process", of_copy.1.unsigned_abs(), std::process::id());
    report.equal("it runs the same program", seen.exe()?, me.exe()?);
    report.equal("it counted in memory of its own", (number, of_copy.2), (1, 2));
    drop(copy);

    let mut child = start(
        HostCommand::new("/bin/sh").args(["-c", "read -r _; exec sleep 1000"]).stdin(HostStdio::piped()),
    )?;
    let process = proc.process(child.0.id())?;
    until("the shell runs", || Ok(process.comm()? == "sh"))?;
    let before = (process.cmdline()?.to_string(), process.stat()?);
    drop(child.0.stdin.take());
    until("it executes sleep", || Ok(process.comm()? == "sleep"))?;
    let after = (process.cmdline()?.to_string(), process.stat()?);
    report.table(
        "exec",
        &["", "pid", "started", "command"],
        [("before", &before), ("after", &after)].map(|(when, (command, stat))| {
            [
                when.to_owned(),
                stat.pid.to_string(),
                format!("{:?} after boot", stat.start_time),
                command.clone(),
            ]
        }),
    );
    report.equal("exec: the pid stays", after.1.pid, before.1.pid);
    report.equal("it is the same process, begun at the same time", after.1.start_time, before.1.start_time);
    report.differ("and another program", before.0, after.0);
    drop(child);

    let begun = Instant::now();
    let status = HostCommand::new("/bin/sh").args(["-c", "sleep 0.2; exit 3"]).status()?;
    report.check(
        "foreground: the wait takes as long as the command",
        begun.elapsed() >= Duration::from_millis(200),
    );
    report.equal("and gives its status", status.code(), Some(3));
    let mut child =
        start(HostCommand::new("/bin/sh").args(["-c", "read -r _; exit 7"]).stdin(HostStdio::piped()))?;
    report.equal("background: asked at once, there is no status yet", child.0.try_wait()?, None);
    drop(child.0.stdin.take());
    report.equal("and one later", child.0.wait()?.code(), Some(7));
    Ok(())
}

fn pstree(report: &mut Report) -> Result {
    let script = "sleep 1000 & sleep 1000 & sleep 1000 & sleep 2000 & wait";
    let family = start(HostCommand::new("/bin/sh").args(["-c", script]))?;
    let proc = ProcRoot::host()?;
    let family_is = |proc: &ProcRoot| -> Result<Snapshot> {
        let mut all = Snapshot::take(proc, Parts::new())?;
        until("the family is complete", || {
            all = Snapshot::take(proc, Parts::new())?;
            Ok(all.descendants(family.0.id()).iter().filter(|p| p.stat.comm == "sleep").count() == 4)
        })?;
        Ok(all)
    };
    let all = family_is(&proc)?;
    let tree = Tree::new(&all);
    let root = family.0.id();
    let children: Vec<u32> = tree.children(root);
    let draw = |style: TreeStyle| tree.below(root, &style).to_string();
    let names = UserNames::parse(&fs::read("/etc/passwd")?);
    let plain = draw(TreeStyle::new());
    let pictures = [
        ("pstree", plain.clone()),
        ("pstree -a", draw(TreeStyle::new().arguments(true))),
        ("pstree -c", draw(TreeStyle::new().compact(false))),
        ("pstree -p", draw(TreeStyle::new().pids(true))),
        ("pstree -n", draw(TreeStyle::new().pids(true).by_pid(true))),
        ("pstree -h", draw(TreeStyle::new().highlight(root))),
        ("pstree -u", draw(TreeStyle::new().uid_changes(names))),
    ];
    for (option, picture) in &pictures {
        report.note(format!("{option}\n{picture}"));
    }
    let picture = |i: usize| pictures[i].1.as_str();
    report.equal("equal branches are put together", plain.as_str(), "sh---4*[sleep]");
    report.equal(
        "with arguments, those that differ differ",
        picture(1).lines().skip(1).filter(|line| line.ends_with("sleep 1000")).count(),
        3,
    );
    report.equal("-c keeps them apart", picture(2).matches("sleep").count(), 4);
    let all_there = children.iter().all(|pid| picture(3).contains(&format!("sleep({pid})")));
    report.check("-p shows every pid", all_there);
    let mut last = 0;
    let in_order = children.iter().all(|pid| {
        let at = picture(4).find(&format!("({pid})"));
        let ascending = at.is_some_and(|at| at > last);
        last = at.unwrap_or(usize::MAX);
        ascending
    });
    report.check("-n sorts by pid", in_order);
    report.differ("-h marks this branch", picture(5), &plain);
    let mine = all.get(std::process::id()).ok_or("not in the snapshot")?;
    report.equal("the parent of the shell is this process", tree.parent(root), Some(mine.pid));
    let of_user = tree.of_user(mine.status.uid.effective, &TreeStyle::new().pids(true)).to_string();
    report.check("`pstree USER` has the family in it", of_user.contains(&format!("sh({root})")));

    // Inside, with a /proc of its own: read from here through the sandbox's root.
    let sandbox = Sandbox::new()?;
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "sleep 1000 & read -r _"]).stdin(Stdio::piped());
    report.plan(&command.plan()?);
    let mut child = command.spawn()?;
    let inside = ProcRoot::open(format!("/proc/{}/root/proc", child.id()))?;
    until("the sandbox's family is complete", || Ok(inside.pids()?.len() == 2))?;
    let all = Snapshot::take(&inside, Parts::new())?;
    let tree = Tree::new(&all);
    report.note(format!("in a sandbox, pstree -p\n{}", tree.show(&TreeStyle::new().pids(true))));
    report.equal("inside, the tree has one root, pid 1", tree.roots(), vec![1]);
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn proc_of_the_system(report: &mut Report) -> Result {
    let proc = ProcRoot::host()?;
    let (cpus, memory, load) = (proc.cpuinfo()?, proc.meminfo()?, proc.loadavg()?);
    let (version, types, disks) = (proc.version()?, proc.filesystems()?, proc.partitions()?);
    let uptime = proc.uptime()?;
    let model =
        cpus.cpus.first().and_then(|cpu| cpu.model_name()).map(|name| name.to_string_lossy().into_owned());
    let without_device = types.types.iter().filter(|kind| !kind.needs_device).count();
    report.table(
        "what the files say",
        &["file", ""],
        [
            ["cpuinfo", &format!("{} × {}", cpus.cpus.len(), model.unwrap_or_else(|| "?".into()))],
            [
                "meminfo",
                &format!("{} MiB in all, {} MiB available", memory.total >> 20, memory.available >> 20),
            ],
            ["uptime", &format!("up {:?}, idle {:?} over all processors", uptime.up, uptime.idle)],
            [
                "loadavg",
                &format!(
                    "{} {} {}, {} of {} tasks run, last pid {}",
                    load.one, load.five, load.fifteen, load.running, load.total, load.last_pid
                ),
            ],
            ["version", &version.release.to_string_lossy()],
            ["filesystems", &format!("{} kinds, {without_device} of them nodev", types.types.len())],
            ["partitions", &format!("{}", disks.partitions.len())],
        ],
    );
    report.check("there is a processor", !cpus.cpus.is_empty());
    report.check("no more memory is available than there is", memory.available <= memory.total);
    report.check("of all tasks some run", load.total >= 1 && load.running >= 1 && load.running <= load.total);
    report.check("proc is nodev", types.get("proc").is_some_and(|kind| !kind.needs_device));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    report.equal("version begins with the release", version.release.to_string_lossy(), release.trim());
    sleep(Duration::from_millis(1100));
    let later = proc.uptime()?;
    report.check(
        format!("1.1 s later it is up for longer: {:?}", later.up),
        later.up >= uptime.up + Duration::from_secs(1),
    );

    let mut builder = Sandbox::builder();
    match kit::cgroup() {
        Ok(parent) => {
            let limits = Limits::new().memory_max(Bytes::mib(64)).memory_swap_max(Bytes::new(0));
            builder = builder.cgroup(limits).cgroup_parent(parent);
        }
        Err(error) => report.note(format!("the sandbox has no memory limit: {error}")),
    }
    let sandbox = builder.build()?;
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "while read -r line; do echo \"$line\"; done </proc/meminfo"]);
    report.plan(&command.plan()?);
    let inside = palisade::procinfo::MemInfo::parse(format!("{}\n", kit::text(&mut command)?).as_bytes())?;
    report.equal("inside a sandbox MemTotal is the host's all the same", inside.total, memory.total);
    Ok(())
}

fn proc_of_a_process(report: &mut Report) -> Result {
    let directory = report.directory().to_owned();
    let (program, open) = (directory.join("a) b"), directory.join("open"));
    let sleep_program = ["/usr/bin/sleep", "/bin/sleep"].into_iter().find(|path| fs::metadata(path).is_ok());
    fs::copy(sleep_program.ok_or_else(|| skip("no sleep"))?, &program)?;
    fs::write(&open, "12345")?;
    let child = start(
        HostCommand::new(&program)
            .arg("1000")
            .env_clear()
            .env("COLOUR", "dark red")
            .env("EMPTY", "")
            .current_dir(&directory)
            .stdin(File::open(&open)?),
    )?;
    let process: Process = ProcRoot::host()?.process(child.0.id())?;
    until("it sleeps", || Ok(process.comm()? == "a) b" && process.stat()?.state == State::Sleeping))?;
    let (stat, status, maps) = (process.stat()?, process.status()?, process.maps()?);
    let (environ, descriptors) = (process.environ()?, process.descriptors()?);
    report.table(
        "its files",
        &["file", ""],
        [
            ["cmdline", &process.cmdline()?.to_string()],
            ["cwd", &process.cwd()?.display().to_string()],
            ["environ", &environ.strings.iter().map(|s| s.to_string_lossy()).collect::<Vec<_>>().join(" ")],
            ["exe", &process.exe()?.display().to_string()],
            ["fd/0", &descriptors.first().map_or("?".into(), |d| d.target.to_string_lossy().into_owned())],
            ["maps", &format!("{} mappings", maps.mappings.len())],
            ["stat", &format!("{:?}, {} pages resident", stat.comm, stat.resident_pages)],
            [
                "status",
                &format!(
                    "{}, {} threads, {} KiB resident",
                    status.name.to_string_lossy(),
                    status.threads,
                    status.vm_rss.unwrap_or(0) >> 10
                ),
            ],
        ],
    );
    let arguments = [program.clone().into_os_string(), "1000".into()];
    report.equal("cmdline", process.cmdline()?.arguments, arguments.to_vec());
    report.equal("cwd", process.cwd()?, fs::canonicalize(&directory)?);
    report.equal("environ", environ.strings.len(), 2);
    report.equal("a variable with a blank", environ.get("COLOUR"), Some("dark red".as_ref()));
    report.equal("an empty one", environ.get("EMPTY"), Some("".as_ref()));
    report.equal("exe", process.exe()?, fs::canonicalize(&program)?);
    let stdin = descriptors.iter().find(|d| d.number == 0).ok_or("no descriptor 0")?;
    report.equal("fd/0 is the open file", stdin.target.as_os_str(), fs::canonicalize(&open)?.as_os_str());
    report.check("maps has the program in it", maps.mappings.iter().any(|m| m.name == program.as_os_str()));
    report.equal("stat: a name with a bracket and a blank", stat.comm.as_os_str(), "a) b");
    report.equal(
        "stat and status: the parent",
        (stat.ppid, status.ppid),
        (std::process::id(), std::process::id()),
    );
    report.equal("threads", (stat.threads, status.threads), (1, 1));
    report.check("VmRSS is there", status.vm_rss.is_some_and(|bytes| bytes >= page_size()));
    report.equal("NSpid ends with its pid", status.ns_pid.first().copied(), Some(child.0.id()));
    let mine = ProcRoot::host()?.myself()?.status()?;
    report.equal("CapBnd is its parent's", status.capabilities.bounding, mine.capabilities.bounding);
    report.equal("NoNewPrivs", status.no_new_privs, mine.no_new_privs);
    report.equal("Seccomp", status.seccomp, mine.seccomp);
    Ok(())
}

fn little_root(report: &mut Report) -> Result {
    report.note(format!("--whoami  {}", kit::whoami()));
    let sandbox = Sandbox::new()?;
    let mut command = sandbox.command("/bin/sh");
    // What root could do to a host, each by a program that every system has.
    let script = "cat /proc/self/status
        (echo x >/usr/palisade-lab) 2>/dev/null && echo DID write below /usr
        (mount -t tmpfs none /tmp) 2>/dev/null && echo DID mount
        (echo 1 >/proc/sys/kernel/sysrq) 2>/dev/null && echo DID set a sysctl
        (mknod /tmp/d c 1 5) 2>/dev/null && echo DID make a device node
        (chown 12345 /tmp) 2>/dev/null && echo DID give a file away
        exit 0";
    command.args(["-c", script]);
    report.plan(&command.plan()?);
    let told = kit::text(&mut command)?;
    let did: Vec<&str> = told.lines().filter(|line| line.starts_with("DID")).collect();
    let text: String =
        told.lines().filter(|line| !line.starts_with("DID")).map(|line| format!("{line}\n")).collect();
    let inside = palisade::procinfo::Status::parse(text.as_bytes())?;
    let outside = ProcRoot::host()?.myself()?.status()?;
    let row = |name: &str, s: &palisade::procinfo::Status| {
        [
            name.to_owned(),
            s.uid.effective.to_string(),
            format!("{:016x}", s.capabilities.effective),
            format!("{:016x}", s.capabilities.bounding),
            if s.no_new_privs { "yes" } else { "no" }.to_owned(),
        ]
    };
    report.table(
        "who may do what",
        &["", "uid", "CapEff", "CapBnd", "no_new_privs"],
        [row("this program", &outside), row("its sandbox", &inside)],
    );
    report.equal("the sandbox's program has no capability", inside.capabilities.effective, 0);
    report.equal("and can never have one", inside.capabilities.bounding, 0);
    report.check("nor by a set-user-ID program", inside.no_new_privs);
    report.equal("a filter is on", inside.seccomp, Some(SeccompMode::Filter));
    report.check("its user is not root", inside.uid.effective != 0);
    report.equal("of what root could do to the host it did", did, Vec::<&str>::new());
    Ok(())
}
