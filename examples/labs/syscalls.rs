//! System calls and security modules: who is asked before the kernel does something.

use std::fs;
use std::path::PathBuf;

use palisade::creds::CapabilitySet;
use palisade::ns::Namespaces;
use palisade::presets::docker::{Docker, SecurityOption};
use palisade::procinfo::ProcRoot;
use palisade::secfilter::landlock::{FsAccess, Landlock};
use palisade::secfilter::lsm;
use palisade::secfilter::{
    Action, Arch, Filter, Host, Install, Policy, Profile, Response, SeccompData, Syscall,
};
use palisade::{Sandbox, Stdio};
use palisade_testkit::raw_call;

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result, skip};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 61,
        commands: "docker container run --rm -it ubuntu:16.04 sh   # with the default profile",
        mechanism: "A seccomp filter is a small program that the kernel runs at each system call, over its number, \
                    architecture and arguments (not over what they point to). Docker's allows what it lists and answers all \
                    else with EPERM; clone3, whose flags it cannot read, with ENOSYS, so that libc falls back to clone.",
        shows: "refused and allowed calls, each asked of the kernel under the filter; what SYS_ADMIN opens; foreign architectures",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(default_profile),
    },
    Lab {
        number: 62,
        commands: "docker container run --rm -t --security-opt seccomp=<FULL_PATH_TO_PROFILE> ubuntu:16.04 sh\n\
                   docker container run --rm -it --security-opt seccomp=unconfined ubuntu:16.04 \\\n  \
                   unshare --map-root-user --user sh -c whoami",
        mechanism: "A profile is a default action and rules. An action can answer with an errno, kill, trap, log, or hand the \
                    call to another process, which answers in the kernel's place.",
        shows: "mkdir refused, mkdir killed, a call answered by a listener; a malformed profile is an error; unconfined",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(own_profile),
    },
    Lab {
        number: 63,
        commands: "docker run --security-opt label=user:USER | label=disable | apparmor=PROFILE | seccomp=FILE | \
                   seccomp=unconfined | no-new-privileges | systempaths=unconfined",
        mechanism: "One option carries the settings of several mechanisms. The old separator is a colon. A key that nobody \
                    knows must not be passed over: it may be a misspelt restriction.",
        shows: "each form and what it is read as; an unknown key is an error",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(security_options),
    },
    Lab {
        number: 66,
        commands: "cat /sys/kernel/security/lsm",
        mechanism: "The kernel asks its security modules at hooks, after the file permissions have said yes: a module can only \
                    refuse. Several stack. Landlock is the one that any process may use on itself.",
        shows: "the modules of this kernel; a Landlock domain that reads everything and writes nothing, without privilege",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(modules),
    },
    Lab {
        number: 67,
        commands: "# 6.7: a limited user; few capabilities; limits of CPU and memory; few devices; seccomp and a security module",
        mechanism: "Each item closes another way: who it is, what root could still do, what it may use up, what hardware it \
                    reaches, which calls it may make. What counts is what the kernel says of the running process.",
        shows: "ten items, looked up in the kernel, for a hardened container and for one as it comes",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(checklist),
    },
];

fn docker(capabilities: CapabilitySet) -> Result<Filter> {
    let host = Host::running()?.capabilities(capabilities.bits());
    Ok(Profile::docker_default().policy(&host)?.compile()?)
}

fn number(name: &str) -> Result<u32> {
    Ok(name.parse::<Syscall>()?.number())
}

/// A call, its first argument, the others being 0, and the errno that the filter gives; `None`: the kernel is asked.
const CALLS: [(&str, u64, Option<i32>); 14] = [
    ("mount", 0, Some(libc::EPERM)),
    ("unshare", libc::CLONE_NEWUSER as u64, Some(libc::EPERM)),
    ("keyctl", 0, Some(libc::EPERM)),
    ("bpf", 0, Some(libc::EPERM)),
    ("kexec_load", 0, Some(libc::EPERM)),
    ("io_uring_setup", 0, Some(libc::EPERM)),
    ("clone3", 0, Some(libc::ENOSYS)),
    ("socket", libc::AF_VSOCK as u64, Some(libc::EPERM)),
    ("socket", libc::AF_ALG as u64, Some(libc::EPERM)),
    ("personality", 0x1000, Some(libc::EPERM)),
    ("personality", 0xffff_ffff, None),
    ("ptrace", u64::MAX, None),
    ("getppid", 0, None),
    ("socket", 41, None),
];

fn default_profile(report: &mut Report) -> Result {
    let filter = docker(CapabilitySet::DOCKER)?;
    report.note(format!("{}: {} instructions", Profile::DOCKER_DEFAULT_SOURCE, filter.instructions().len()));
    let (mode, filters, answers) = kit::in_child(|| {
        Install::new(&filter).apply()?;
        let status = ProcRoot::host()?.myself()?.status()?;
        let mut answers = Vec::new();
        for (name, argument, _) in CALLS {
            answers.push(raw_call(number(name)?, [argument, 0, 0, 0, 0, 0]));
        }
        Ok((format!("{:?}", status.seccomp), status.seccomp_filters, answers))
    })?;
    report.check(format!("Seccomp: 2 in /proc/self/status ({mode})"), mode.contains("Filter"));
    report.equal("Seccomp_filters", filters, Some(1));
    let mut rows = Vec::new();
    for ((name, argument, _), answer) in CALLS.into_iter().zip(&answers) {
        let data = SeccompData::new(name.parse()?, [argument, 0, 0, 0, 0, 0]);
        let verdict = filter.evaluate(&data);
        let text = match answer {
            0.. => answer.to_string(),
            _ => std::io::Error::from_raw_os_error(-*answer as i32).to_string(),
        };
        rows.push([format!("{name}({argument:#x})"), verdict.to_string(), text]);
        match verdict {
            Action::Errno(errno) => {
                report.equal(format!("{name}({argument:#x})"), -*answer, i64::from(errno));
            }
            _ => report.check(format!("{name}({argument:#x}) reaches the kernel"), verdict == Action::Allow),
        }
    }
    report.table(
        "asked under the filter",
        &["call", "verdict of the evaluator", "answer of the kernel"],
        rows,
    );
    for (name, argument, expected) in CALLS {
        let verdict = filter.evaluate(&SeccompData::new(name.parse()?, [argument, 0, 0, 0, 0, 0]));
        let errno = match verdict {
            Action::Errno(errno) => Some(i32::from(errno)),
            _ => None,
        };
        report.equal(format!("{name}({argument:#x}): as the study has it"), errno, expected);
    }

    let admin = docker(CapabilitySet::DOCKER | CapabilitySet::of(&[palisade::creds::Capability::SysAdmin]))?;
    let opened: Vec<&str> = admin
        .verdicts()
        .filter(|(call, verdict)| verdict.always_allows() && !filter.verdict(*call).always_allows())
        .filter_map(|(call, _)| call.name())
        .collect();
    report.note(format!("With CAP_SYS_ADMIN these open up, {}: {}", opened.len(), opened.join(" ")));
    for name in ["mount", "unshare", "setns", "bpf", "clone3", "fsopen", "umount2"] {
        report.check(format!("{name} is among them"), opened.contains(&name));
    }
    let x32 = filter.evaluate(&SeccompData::new(Syscall::new(0x4000_0000 | number("mount")?), [0; 6]));
    report.check(format!("mount by the x32 numbers is refused, too: {x32}"), !x32.lets_through());
    // mount is 165 here and 21 on i386; 40 is mount on aarch64.
    let call = |audit: u32, number: u32| {
        filter.evaluate(&SeccompData { arch: audit, ..SeccompData::new(Syscall::new(number), [0; 6]) })
    };
    let i386 = call(Arch::X86.audit(), 21);
    report.check(format!("mount by i386's number is refused: {i386}"), !i386.lets_through());
    let aarch64 = call(0xc000_00b7, 40);
    report.check(
        format!("an architecture that it does not know gets nothing: {aarch64}"),
        !aarch64.lets_through(),
    );
    Ok(())
}

fn own_profile(report: &mut Report) -> Result {
    let profile = |action: &str| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir","mkdirat","no_such_call"],{action}}}]}}"#
        )
    };
    let filter = |text: &str| -> Result<Filter> {
        Ok(Profile::from_json(text.as_bytes())?.policy(&Host::running()?)?.compile()?)
    };
    let run = |filter: Filter, script: &str| -> Result<_> {
        let sandbox = Sandbox::builder().seccomp_filter(filter).build()?;
        Ok(sandbox.command("/bin/sh").args(["-c", script]).output()?)
    };
    let refuse = profile(r#""action":"SCMP_ACT_ERRNO","errnoRet":1"#);
    report.note(format!("A profile, with a name that no kernel has: {refuse}"));
    let out = run(filter(&refuse)?, "mkdir /tmp/a; touch /tmp/b && echo touched")?;
    report.equal("touch works", String::from_utf8_lossy(&out.stdout).trim(), "touched");
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    report.check(format!("mkdir does not: {said}"), said.contains("Operation not permitted"));
    let out = run(filter(&profile(r#""action":"SCMP_ACT_KILL_PROCESS""#))?, "exec mkdir /tmp/a")?;
    report.equal("SCMP_ACT_KILL_PROCESS: SIGSYS", out.status.signal(), Some(libc::SIGSYS));
    let out = run(filter(&profile(r#""action":"SCMP_ACT_LOG""#))?, "mkdir /tmp/a && echo made")?;
    report.equal("SCMP_ACT_LOG lets it through", String::from_utf8_lossy(&out.stdout).trim(), "made");

    // A listener answers in the kernel's place.
    let asks = Policy::new(Action::Allow).set(["getppid"], Action::UserNotif).compile()?;
    let answer = kit::in_child(|| {
        let (send, listeners) = std::sync::mpsc::channel();
        let asker = std::thread::spawn(move || {
            let listener = Install::new(&asks).apply_with_listener();
            let installed = listener.map(|listener| send.send(listener).is_ok());
            let parent = "getppid".parse::<Syscall>().map(|call| raw_call(call.number(), [0; 6]));
            (installed.map_err(|error| error.to_string()), parent.map_err(|error| error.to_string()))
        });
        let listener = listeners.recv().map_err(|_| "the filter with a listener is not installed")?;
        let call = listener.receive()?.ok_or("nobody asks")?;
        listener.respond(&call, Response::Return(4711))?;
        let (installed, parent) = asker.join().map_err(|_| "the asking thread panicked")?;
        installed?;
        Ok(parent?)
    })?;
    report.equal("SCMP_ACT_NOTIFY: getppid answers what a listener said", answer, 4711);

    for (what, text) in [
        ("no JSON", "{"),
        ("an unknown action", r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#),
        (
            "name and names",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_LOG"}]}"#,
        ),
    ] {
        let error = Profile::from_json(text.as_bytes()).err().map(|error| error.to_string());
        report.check(format!("{what} is an error: {}", error.clone().unwrap_or_default()), error.is_some());
    }

    let image = report.directory().join("image");
    fs::create_dir(&image)?;
    kit::busybox(&image)?;
    let unshare = |docker: Docker| -> Result<_> {
        let out = docker.build()?.command("unshare").args(["-r", "-U", "sh", "-c", "whoami"]).output()?;
        Ok((
            out.status.success(),
            String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned(),
        ))
    };
    let (worked, said) = unshare(Docker::new(&image))?;
    report.check(format!("with the default profile, unshare: {said}"), !worked);
    let (worked, said) = unshare(Docker::new(&image).security_opt("seccomp=unconfined"))?;
    report.equal(
        "with seccomp=unconfined, whoami in a user namespace of its own",
        (worked, said.as_str()),
        (true, "root"),
    );
    Ok(())
}

fn security_options(report: &mut Report) -> Result {
    let forms = [
        "label=user:system_u",
        "label=role:system_r",
        "label=type:container_t",
        "label=level:s0:c1,c2",
        "label=disable",
        "label:disable",
        "apparmor=docker-default",
        "apparmor:unconfined",
        "seccomp=unconfined",
        "seccomp=builtin",
        "seccomp=/etc/docker/seccomp.json",
        "no-new-privileges",
        "no-new-privileges=true",
        "no-new-privileges:false",
        "systempaths=unconfined",
        "writable-cgroups=true",
    ];
    let mut rows = Vec::new();
    for form in forms {
        let read = form.parse::<SecurityOption>();
        report.check(format!("{form} is known"), read.is_ok());
        rows.push([
            form.to_owned(),
            read.map_or_else(|error| error.to_string(), |option| format!("{option:?}")),
        ]);
    }
    report.table("--security-opt", &["option", "is read as"], rows);
    for wrong in
        ["selinux=off", "seccomp", "label=colour:red", "no-new-privileges=perhaps", "systempaths=all", ""]
    {
        let error = wrong.parse::<SecurityOption>().err().map(|error| error.to_string());
        report
            .check(format!("{wrong:?} is an error: {}", error.clone().unwrap_or_default()), error.is_some());
    }
    let same = |a: &str, b: &str| a.parse::<SecurityOption>().ok() == b.parse::<SecurityOption>().ok();
    report.check(
        "the deprecated colon means the same",
        same("label:disable", "label=disable") && same("apparmor:unconfined", "apparmor=unconfined"),
    );
    Ok(())
}

fn modules(report: &mut Report) -> Result {
    match lsm::active() {
        Ok(active) => {
            report.note(format!("Active, in the order in which they are asked: {}", active.join(", ")));
            report.check("capability is always among them", active.iter().any(|name| name == "capability"));
        }
        Err(error) => report.note(format!("The list cannot be read: {error}")),
    }
    let version = Landlock::abi().map_err(|error| skip(format!("no Landlock: {error}")))?;
    report.note(format!("Landlock speaks ABI {version}."));
    let file = report.directory().join("file");
    fs::write(&file, "before")?;
    let ruleset = Landlock::new().path("/", FsAccess::READ).any_tcp().any_process().prepare()?;
    let attempts = |confined: bool| {
        kit::in_child(|| {
            if confined {
                ruleset.apply()?;
            }
            let write = fs::write(&file, "after").err().and_then(|error| error.raw_os_error());
            let make = fs::create_dir(report.directory().join(if confined { "refused" } else { "made" }))
                .err()
                .and_then(|error| error.raw_os_error());
            let read = fs::read(&file).err().and_then(|error| error.raw_os_error());
            Ok((write, make, read))
        })
    };
    let (before, after) = (attempts(false)?, attempts(true)?);
    report.equal("without it: write, mkdir and read work", before, (None, None, None));
    report.equal(
        "in the domain: EACCES, EACCES, and reading still works",
        after,
        (Some(libc::EACCES), Some(libc::EACCES), None),
    );
    report.note("The files' own permissions said yes each time: a module can only refuse.");
    Ok(())
}

/// What the kernel says of a running container, item by item.
fn items(docker: &Docker) -> Result<Vec<(&'static str, bool)>> {
    let sandbox = docker.build()?;
    let mut command = sandbox.command("sh");
    let look = "id -u; grep -c docker.sock /proc/mounts; find /dev -type c -o -type b | wc -l; touch /probe 2>/dev/null && echo writable; read -r _";
    let child = command.args(["-c", look]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let process = ProcRoot::host()?.process_of_pidfd(child.pidfd())?;
    let status = process.status()?;
    let own = ProcRoot::host()?.myself()?;
    let limits = child.cgroup().map(|group| -> Result<bool> {
        let limit = |file: &str| {
            Ok::<_, std::io::Error>(!fs::read_to_string(group.path().join(file))?.starts_with("max"))
        };
        Ok(limit("memory.max")? && limit("cpu.max")? && limit("pids.max")?)
    });
    let user_namespace = process.namespace(palisade::procinfo::NamespaceKind::User)?
        != own.namespace(palisade::procinfo::NamespaceKind::User)?;
    let out = child.wait_with_output()?;
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut lines = told.lines();
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let (uid, socket, devices, writable) = (next(), next(), next(), next());
    let mut items = vec![
        ("runs as a limited user", uid != "0"),
        (
            "has no capability, and none to be had",
            status.capabilities.bounding == 0 && status.capabilities.effective == 0,
        ),
        ("gains no privilege by exec", status.no_new_privs),
        ("is filtered", status.seccomp_filters.is_some_and(|count| count > 0)),
        ("is in a user namespace", user_namespace),
        ("has a few harmless devices", devices.parse::<u32>().is_ok_and(|count| count <= 8)),
        ("has a root that is read-only", writable.is_empty()),
        ("has no socket of a daemon", socket == "0"),
        (
            "is not the host's root",
            process.uid_map().is_ok_and(|map| map.to_outside(status.uid.effective) != Some(0))
                || user_namespace,
        ),
    ];
    if let Some(limits) = limits {
        items.push(("is limited: memory, CPU, processes", limits?));
    }
    Ok(items)
}

fn checklist(report: &mut Report) -> Result {
    let image: PathBuf = report.directory().join("image");
    fs::create_dir(&image)?;
    kit::busybox(&image)?;
    let plain = Docker::new(&image);
    let mut hardened = Docker::new(&image).user("nobody").cap_drop("ALL").read_only(true);
    match kit::cgroup() {
        Ok(parent) => hardened = hardened.memory("64m").cpus("0.5").pids_limit(32).cgroup_parent(parent),
        Err(error) => report.note(format!("Limits of memory, CPU and processes are left out: {error}")),
    }
    let (hard, loose) = (items(&hardened)?, items(&plain)?);
    let mark = |list: &[(&str, bool)], wanted: &str| match list.iter().find(|(item, _)| *item == wanted) {
        Some((_, true)) => "yes",
        Some((_, false)) => "NO",
        None => "no limits",
    };
    report.table(
        "the checklist, as the kernel answers it",
        &["the container …", "hardened", "as it comes"],
        hard.iter().map(|(item, _)| [*item, mark(&hard, item), mark(&loose, item)]),
    );
    for (item, holds) in &hard {
        report.check(format!("hardened: it {item}"), *holds);
    }
    for item in
        ["runs as a limited user", "has no capability, and none to be had", "has a root that is read-only"]
    {
        report.equal(format!("as it comes: it {item}"), mark(&loose, item), "NO");
    }
    Ok(())
}
