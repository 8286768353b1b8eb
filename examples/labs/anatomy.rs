//! What a container is: all of it at once, and each part alone.

use std::collections::BTreeMap;
use std::os::unix::fs::chroot;

use palisade::cgroup::{Bytes, Limits};
use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::procinfo::{ErrorKind, NamespaceKind, ProcRoot, Process, Status};
use palisade::{Sandbox, Stdio};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 1,
        commands: "docker run --rm -it ubuntu bash\nps aux; hostname; ip a; cat /proc/self/cgroup; uname -r",
        mechanism: "A container is no thing of the kernel: it is a process whose namespaces, root, cgroup, ids, \
                    capabilities and filter differ from its parent's. Its kernel is the host's: uname -r is the same on \
                    both sides, and a hole in the kernel is a hole in every container. A virtual machine has its own.",
        shows: "one process, seen from the host and compared with it: eleven things differ, the kernel does not",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(anatomy),
    },
    Lab {
        number: 3,
        commands: "MNT  chroot()  Cgroups  PID  NET  UTS  USR  IPC",
        mechanism: "Each feature is a call of its own and independent of the others: unshare(2) with one flag, chroot(2), \
                    or a line in cgroup.procs. A new pid namespace is for children: the caller stays where it is, and \
                    only its pid_for_children changes.",
        shows: "eight processes with one feature each: nothing changes but that feature's aspect",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY.with(Namespace::Mount),
        body: Body::Run(eight_features),
    },
];

fn anatomy(report: &mut Report) -> Result {
    let mut builder = Sandbox::builder().hostname("box");
    let limited = kit::cgroup();
    match &limited {
        Ok(parent) => {
            let limits = Limits::new().memory_max(Bytes::mib(64)).pids_max(16);
            builder = builder.cgroup(limits).cgroup_parent(parent.clone());
        }
        Err(error) => report.note(format!("without a cgroup of its own: {error}")),
    }
    let sandbox = builder.build()?;
    let mut command = sandbox.command("/bin/sh");
    command.args([
        "-c",
        "uname -r; cat /proc/sys/kernel/hostname; echo $$; grep -c '' /proc/self/mountinfo; read -r _",
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    report.plan(&command.plan()?);
    let started = std::time::Instant::now();
    let mut child = command.spawn()?;
    let took = started.elapsed();

    // The payload tells what it sees, then waits for a line: while it waits the host looks at it.
    let mut told = Vec::new();
    {
        use std::io::BufRead as _;
        let out = child.stdout.take().ok_or("no pipe")?;
        let mut lines = std::io::BufReader::new(out).lines();
        for _ in 0..4 {
            told.push(lines.next().ok_or("the payload says too little")??);
        }
    }
    let proc = ProcRoot::host()?;
    let inside = proc.process_of_pidfd(child.pidfd())?;
    let outside = proc.myself()?;
    let (in_status, out_status) = (inside.status()?, outside.status()?);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();

    let mut rows = vec![
        ["kernel".to_owned(), kernel.clone(), told[0].clone()],
        ["pid, seen by itself".into(), std::process::id().to_string(), told[2].clone()],
        ["pid, seen from the host".into(), std::process::id().to_string(), inside.pid().to_string()],
        ["host name".into(), hostname.clone(), told[1].clone()],
        ["mounts".into(), outside.mountinfo()?.iter().count().to_string(), told[3].clone()],
        ["user".into(), out_status.uid.effective.to_string(), in_status.uid.effective.to_string()],
        [
            "capabilities".into(),
            hex(out_status.capabilities.effective),
            hex(in_status.capabilities.effective),
        ],
        ["seccomp".into(), mode(&out_status), mode(&in_status)],
        ["cgroup".into(), unified(&outside), unified(&inside)],
    ];
    // Who reads them must be allowed to trace the payload; an ordinary user is, since both are its own.
    for kind in [
        Namespace::User,
        Namespace::Mount,
        Namespace::Pid,
        Namespace::Net,
        Namespace::Ipc,
        Namespace::Uts,
        Namespace::Cgroup,
    ] {
        let (host, sandbox) = (kit::namespace("self", kind)?, kit::namespace(inside.pid(), kind)?);
        rows.push([format!("{kind} namespace"), host, sandbox]);
    }
    report.table("the same kernel, everything else of its own", &["", "host", "sandbox"], &rows);

    report.equal("the kernel is the same inside and out", &told[0], &kernel);
    report.equal("its host name is its own", told[1].as_str(), "box");
    report.equal("to itself it is pid 1", told[2].as_str(), "1");
    for row in rows.iter().filter(|row| row[0].ends_with("namespace")) {
        report.differ(format!("its {} is another", row[0]), &row[1], &row[2]);
    }
    report.equal("it has no capability", in_status.capabilities.effective, 0);
    report.check("it can gain no privilege", in_status.no_new_privs);
    report.differ("its root is another directory", outside.root_identity()?, inside.root_identity()?);
    if limited.is_ok() {
        report.differ("its cgroup is another", unified(&outside), unified(&inside));
    }
    report.note(format!("From the call to a running payload: {:.1} ms.", took.as_secs_f64() * 1000.0));
    drop(child.stdin.take());
    child.wait()?;
    Ok(())
}

fn mode(status: &Status) -> String {
    status.seccomp.map_or_else(|| "unknown".into(), |mode| format!("{mode:?}").to_lowercase())
}

fn hex(set: u64) -> String {
    format!("{set:016x}")
}

fn unified(process: &Process) -> String {
    let path =
        process.cgroup().ok().and_then(|groups| groups.unified().map(|path| path.display().to_string()));
    path.unwrap_or_else(|| "none".into())
}

/// What may differ between two processes, as text.
type Aspects = BTreeMap<&'static str, String>;

fn aspects(process: &Process) -> Result<Aspects> {
    let namespaces = process.namespaces();
    let mut aspects = Aspects::new();
    let kinds = [
        ("MNT", NamespaceKind::Mnt),
        ("PID", NamespaceKind::PidForChildren),
        ("NET", NamespaceKind::Net),
        ("UTS", NamespaceKind::Uts),
        ("USR", NamespaceKind::User),
        ("IPC", NamespaceKind::Ipc),
    ];
    for (name, kind) in kinds {
        let id = match namespaces.get(kind) {
            Ok(id) => id.inode.to_string(),
            // A pid namespace begins with its first process.
            Err(error) if error.kind() == ErrorKind::Absent => "not begun".into(),
            Err(error) => return Err(error.to_string().into()),
        };
        aspects.insert(name, id);
    }
    let root = process.root_identity()?;
    aspects.insert("chroot()", format!("{}:{}", root.device, root.inode));
    aspects.insert("Cgroups", unified(process));
    Ok(aspects)
}

fn eight_features(report: &mut Report) -> Result {
    let jail = report.directory().to_owned();
    // Where this process may make a cgroup: one more, removed on drop.
    let made = match kit::any_cgroup() {
        Ok(parent) => Some(parent.create_unique("palisade-lab", &Limits::new())?),
        Err(error) => {
            report.note(format!("Cgroups cannot be shown: {error}"));
            None
        }
    };
    let namespace = |kind| move || unshare(kind).map_err(Into::into);
    type Switch<'a> = Box<dyn Fn() -> Result + 'a>;
    let mut switches: Vec<(&str, &str, Switch)> = vec![
        ("MNT", "a mount table of its own", Box::new(namespace(Namespace::Mount))),
        ("chroot()", "paths begin elsewhere", Box::new(|| Ok(chroot(&jail)?))),
        ("PID", "its children are numbered from 1", Box::new(namespace(Namespace::Pid))),
        ("NET", "interfaces, addresses, ports of its own", Box::new(namespace(Namespace::Net))),
        ("UTS", "a host name of its own", Box::new(namespace(Namespace::Uts))),
        ("USR", "ids and capabilities of its own", Box::new(namespace(Namespace::User))),
        ("IPC", "System V objects and message queues of its own", Box::new(namespace(Namespace::Ipc))),
    ];
    if let Some(group) = &made {
        switches.push(("Cgroups", "limits and accounts of its own", Box::new(|| Ok(group.enter()?))));
    }

    let proc = ProcRoot::host()?;
    let host = aspects(&proc.myself()?)?;
    let mut rows = Vec::new();
    for (feature, purpose, switch) in &switches {
        let (child, ()) = kit::stay(switch)?;
        let seen = aspects(&proc.process(child.pid())?)?;
        let changed: Vec<&str> = host.keys().filter(|key| host[*key] != seen[*key]).copied().collect();
        rows.push([(*feature).to_owned(), (*purpose).to_owned(), changed.join(" ")]);
        report.equal(format!("{feature}: it changes, and nothing else"), changed, vec![*feature]);
    }
    report.table("one switch at a time", &["feature", "purpose", "what changed"], rows);
    Ok(())
}
