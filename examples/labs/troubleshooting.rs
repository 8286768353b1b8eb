//! When it does not work, and when it is over.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command as HostCommand;
use std::time::{Duration, Instant};

use palisade::cgroup::{Bytes, Limits};
use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::preflight::{Feature, Status};
use palisade::procinfo::{ProcRoot, Process, State};
use palisade::secfilter::Syscall;
use palisade::{Child, ErrorKind, ExitCause, Sandbox, SandboxBuilder, Stdio, Step, preflight};

use crate::doctor::examine;
use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 87,
        commands: "kubectl get pods; kubectl describe pod backend\nkubectl get endpoints backend-service\nkubectl logs backend",
        mechanism: "Most failures of applications are names: a selector that matches no label, a ConfigMap that is called \
                    otherwise, an image with a letter too many. Each object is valid by itself; only together they cannot \
                    work. The rest are limits and files: an exit of 137 whose reason is in memory.events, an ENOENT that \
                    means the interpreter and not the program.",
        shows: "one wrong manifest for each usual cause, found with its field and the fix; causes of death told apart",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(application),
    },
    Lab {
        number: 88,
        commands: "kubectl get nodes; kubectl get componentstatuses\njournalctl -u kubelet\nkubectl logs -n kube-system kube-scheduler-...",
        mechanism: "A cluster fails below its applications: a component that does not run, a certificate that has run out, a \
                    node that cannot do what it is asked. What can be done on one machine is to ask it before anything \
                    depends on it, and to keep, when a step fails, which step it was, of which object, with which errno.",
        shows: "what this machine can do for containers, with a fix for each thing that it cannot; a forced failure, explained",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(machine_level),
    },
    Lab {
        number: 89,
        commands: "",
        mechanism: "",
        shows: "a table of what differs",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Answer(
            "A virtual machine has a kernel of its own on hardware that a hypervisor imitates; a container is a process of \
             the host's kernel that sees and may do less. So a container starts in milliseconds (lab 1 prints how many) and \
             costs what its processes cost, and its wall is only as good as the system calls that its filter lets through: \
             one hole in the kernel is a hole in every container, and in no virtual machine's host. What both give: an \
             environment that is the same everywhere, resources by measure, separation of duties. Lab 1 shows the shared \
             kernel, lab 6 the shared /proc, lab 61 how much of the kernel the default filter leaves in reach.",
        ),
    },
    Lab {
        number: 90,
        commands: "",
        mechanism: "",
        shows: "the parts of Docker, and the crates in their places",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Answer(
            "docker (the command) asks dockerd over a socket (labs 10 and 11); dockerd keeps images, volumes and networks, and \
             asks containerd; containerd unpacks the layers and starts a shim for each container; the shim runs runc, which \
             asks the kernel for namespaces, mounts, cgroup, ids, capabilities and filter, executes the program and leaves. \
             Palisade is the last part as a library, in the program that wants the container: palisade-ns, -fsroot, -cgroup, \
             -creds and -secfilter are what runc does, the feature `image` reads what containerd unpacks, `net` does what \
             Docker's bridge driver does, palisade::Child is the shim, and nobody is the daemon: no socket stands open, and \
             what a program starts ends with it.",
        ),
    },
    Lab {
        number: 91,
        commands: "docker exec -it c1 sh\nkubectl exec ubuntu-sleeper -- whoami\nkubectl exec web -- id\nkubectl exec web -- ps aux",
        mechanism: "A second program in a living container: setns(2) into each of its namespaces, its cgroup first, then the \
                    same user, capabilities, no_new_privs and filter. A pid namespace is joined by children only, so one more \
                    fork is needed. What enters must bring nothing along: runc's own program was once overwritten by what it \
                    had entered (CVE-2019-5736).",
        shows: "a program that enters a sandbox: the same namespaces, user and root, no capability more, seen by `ps` there",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(exec),
    },
    Lab {
        number: 92,
        commands: "docker rm -f c1; ip netns del RED; ip link del br0; umount -R merged; cgdelete cpu:mycgroup; rm -r rootfs",
        mechanism: "The kernel removes what nobody holds: mounts and links with their namespace, a namespace with its last \
                    process or descriptor. It does not remove cgroups, files, or what was pinned or moved to the host's own \
                    namespaces. So the sandbox's things live in its namespaces, and for cgroups there is a guard process.",
        shows: "sandboxes that end well, fail, are dropped, panic or lose their host program to SIGKILL: nothing is left",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(clean_up),
    },
];

/// A cluster in which all is well; each row of the table below breaks one thing.
const HEALTHY: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: default}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: app-config}, data: {mode: quick}}
---
apiVersion: v1
kind: Pod
metadata: {name: api, labels: {app: api-service}}
spec:
  volumes: [{name: config, configMap: {name: app-config}}]
  containers:
  - name: web
    image: nginx
    volumeMounts: [{name: config, mountPath: /etc/app}]
    securityContext: {capabilities: {add: [NET_BIND_SERVICE]}}
---
{apiVersion: v1, kind: Service, metadata: {name: backend}, spec: {selector: {app: api-service}, ports: [{port: 80}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np}
spec: {podSelector: {matchLabels: {app: api-service}}, policyTypes: [Ingress]}
";

fn application(report: &mut Report) -> Result {
    let images = ["nginx", "redis", "ubuntu"];
    let healthy = examine(HEALTHY, &images)?;
    report.equal("where all is well nothing is found", healthy.len(), 0);
    // What is changed into what, the field that is to be named, and the word that was meant.
    let faults = [
        ("image: nginx", "image: nginxxx", "spec.containers[0].image", "nginx"),
        ("selector: {app: api-service}", "selector: {app: backend-service}", "spec.selector", "api-service"),
        (
            "configMap: {name: app-config}",
            "configMap: {name: app-cfg}",
            "spec.volumes[0].configMap.name",
            "app-config",
        ),
        ("volumeMounts: [{name: config", "volumeMounts: [{name: confg", "volumeMounts[0].name", "config"),
        (
            "add: [NET_BIND_SERVICE]",
            "add: [NET_BIND]",
            "securityContext.capabilities.add[0]",
            "NET_BIND_SERVICE",
        ),
        ("matchLabels: {app: api-service}", "matchLabels: {app: api}", "spec.podSelector", "api-service"),
    ];
    let mut rows = Vec::new();
    for (right, wrong, field, meant) in faults {
        let found = examine(&HEALTHY.replacen(right, wrong, 1), &images)?;
        let told =
            found.first().filter(|f| found.len() == 1 && f.field.ends_with(field) && f.fix.contains(meant));
        report.check(format!("`{wrong}` is found, with the field and what was meant"), told.is_some());
        rows.extend(found.into_iter().map(|f| [f.field, f.what, f.fix]));
    }
    report.table("doctor", &["field", "what", "fix"], rows);
    // A policy that a cluster would not take.
    let found = examine(&HEALTHY.replace("policyTypes: [Ingress]", "policyTypes: [Inward]"), &images)?;
    report.check(
        "a policy with a direction that there is not is found",
        found.iter().any(|f| f.what.contains("policyTypes")),
    );

    // What only running it shows.
    let script = report.directory().join("run");
    fs::write(&script, "#!/no/such/interpreter\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let sandbox = Sandbox::builder().bind_ro(&script, "/run.sh").build()?;
    let error = sandbox.command("/run.sh").status().err().ok_or("it ran")?;
    report.equal("a script whose interpreter is missing", error.kind(), ErrorKind::Exec);
    report.check(
        format!("the error says what ENOENT means here: {error}"),
        error.to_string().contains("interpreter"),
    );
    let unknown = "no_such_call".parse::<Syscall>().err().map(|e| e.to_string());
    report.check(
        format!("a system call that there is not: {unknown:?}"),
        unknown.is_some_and(|e| e.contains("no_such_call")),
    );
    match kit::cgroup() {
        Err(error) => report.note(format!("a death for want of memory is not shown: {error}")),
        Ok(parent) => {
            let limits = Limits::new().memory_max(Bytes::mib(32)).memory_swap_max(Bytes::new(0));
            let sandbox = Sandbox::builder().cgroup(limits).cgroup_parent(parent).build()?;
            let status = sandbox.command("tail").arg("/dev/zero").status()?;
            report.equal("OOMKilled, not just 137", status.cause(), ExitCause::OutOfMemory);
            report.note(format!("the status says: {status}"));
        }
    }
    Ok(())
}

/// A process that may make no further user namespace, as where an administrator forbids them.
fn forbid_user_namespaces() -> Result {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(Namespace::User)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    Ok(fs::write("/proc/sys/user/max_user_namespaces", "0")?)
}

fn machine_level(report: &mut Report) -> Result {
    // First what was forced: a copy of a program that has sandboxes can make none.
    let (step, hint, finding): (String, String, String) = kit::in_child(|| {
        forbid_user_namespaces()?;
        let found = preflight();
        let finding = found.get(&Feature::Namespace(Namespace::User)).ok_or("not looked at")?;
        let finding =
            format!("{:?}: {}; {}", finding.status, finding.seen, finding.fix.as_deref().unwrap_or("no fix"));
        let error = Sandbox::new()?.command("/bin/true").status().err().ok_or("it ran")?;
        Ok((error.step().to_string(), error.to_string(), finding))
    })?;
    report.note(format!("where user namespaces are forbidden\n  preflight  {finding}\n  step       {step}\n  error      {hint}"));
    report.equal("the step that failed is named", step.as_str(), Step::Clone.to_string().as_str());
    report.check("with the setting that forbids it", hint.contains("user.max_user_namespaces"));
    report.check(
        "and the preflight knows before, with the fix",
        finding.starts_with("Missing") && finding.contains("user.max_user_namespaces"),
    );

    let found = preflight();
    let word = |status: Status| match status {
        Status::Available => "yes",
        Status::Limited => "in part",
        Status::Missing => "NO",
        _ => "unknown",
    };
    let mut rows: Vec<[String; 3]> = found
        .findings
        .iter()
        .map(|finding| [finding.feature.to_string(), word(finding.status).to_owned(), finding.seen.clone()])
        .collect();
    for (name, path) in [
        ("ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("br_netfilter", "/proc/sys/net/bridge/bridge-nf-call-iptables"),
    ] {
        let value = fs::read_to_string(path).map(|text| text.trim().to_owned());
        let on = matches!(value.as_deref(), Ok("1"));
        rows.push([
            name.to_owned(),
            if on { "yes" } else { "NO" }.to_owned(),
            value.unwrap_or_else(|e| e.to_string()),
        ]);
    }
    report.table("this machine", &["", "", ""], rows);
    let missing = || found.findings.iter().filter(|finding| finding.status == Status::Missing);
    for finding in missing() {
        report.note(format!("{}: {}", finding.feature, finding.fix.as_deref().unwrap_or("no fix is known")));
    }
    report.check("each thing that is missing has its fix", missing().all(|finding| finding.fix.is_some()));
    let sandbox = Sandbox::new()?;
    let runs = sandbox.command("/bin/true").status().is_ok_and(|status| status.success());
    report.equal("it says that sandboxes work as they do", found.is_ready(), runs);
    let controllers: BTreeSet<&str> = found.controllers.iter().map(String::as_str).collect();
    report.equal("and so about limits", controllers.contains("memory"), kit::cgroup().is_ok());

    // The log of a set-up: every step in its order, before any is taken.
    let plan = sandbox.command("/bin/true").plan()?.to_string();
    let steps: Vec<&str> = plan.lines().filter(|line| line.starts_with("== ")).collect();
    report.note(format!(
        "the steps of a set-up, each with its calls (--explain shows them)\n{}",
        steps.join("\n")
    ));
    report.check("the plan names the steps", steps.len() > 2);
    Ok(())
}

fn living(builder: SandboxBuilder) -> Result<Child> {
    Ok(builder.build()?.command("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?)
}

fn exec(report: &mut Report) -> Result {
    let mut builder = Sandbox::builder().hostname("web");
    let limited = kit::cgroup();
    if let Ok(parent) = &limited {
        builder = builder.cgroup(Limits::new().pids_max(32)).cgroup_parent(parent.clone());
    }
    let mut payload = living(builder)?;
    let looks = "for n in user mnt pid net ipc uts cgroup time; do readlink /proc/self/ns/$n; done; hostname";
    let mut entering = payload.exec("/bin/sh");
    entering.args(["-c", looks]);
    report.plan(&entering.plan()?);
    let inside = kit::text(&mut entering)?;
    let mut rows = Vec::new();
    let kinds = [
        Namespace::User,
        Namespace::Mount,
        Namespace::Pid,
        Namespace::Net,
        Namespace::Ipc,
        Namespace::Uts,
        Namespace::Cgroup,
    ];
    for (kind, seen) in kinds.into_iter().zip(inside.lines()) {
        let (host, of_payload) = (kit::namespace("self", kind)?, kit::namespace(payload.id(), kind)?);
        report.equal(format!("{kind}: where the payload is"), seen, of_payload.as_str());
        rows.push([kind.to_string(), host, of_payload, seen.to_owned()]);
    }
    report.table("namespaces", &["", "host", "payload", "entered"], rows);
    report.equal("hostname", inside.lines().last(), Some("web"));

    // The study's three commands.
    let run = |script: &str| kit::text(payload.exec("/bin/sh").args(["-c", script]));
    report.note(format!("exec web -- id\n{}", run("id")?));
    let processes = run("for p in /proc/[0-9]*; do echo ${p#/proc/} $(tr '\\0' ' ' <$p/cmdline); done")?;
    report.note(format!("exec web -- ps\n{processes}"));
    report.check(
        "the payload is pid 1 there, and the newcomer another",
        processes.starts_with("1 ") && processes.lines().count() >= 2,
    );
    let proc = ProcRoot::host()?;
    let mut guest = payload.exec("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let (a, b) = (proc.process_of_pidfd(payload.pidfd())?, proc.process_of_pidfd(guest.pidfd())?);
    let (first, second) = (a.status()?, b.status()?);
    report.equal(
        "user and group",
        (second.uid.effective, second.gid.effective),
        (first.uid.effective, first.gid.effective),
    );
    let caps = (second.capabilities.effective, second.capabilities.bounding);
    report.equal(
        "its capabilities, and those it can ever have, are no wider",
        caps,
        (first.capabilities.effective, first.capabilities.bounding),
    );
    report.equal("no_new_privs", second.no_new_privs, first.no_new_privs);
    report.equal(
        "the filter is on",
        (second.seccomp, second.seccomp_filters),
        (first.seccomp, first.seccomp_filters),
    );
    report.equal("its root is the payload's", b.root_identity()?, a.root_identity()?);
    report.equal("its pid has a number on both sides", second.ns_pid.len(), first.ns_pid.len());
    if limited.is_ok() {
        report.equal(
            "its cgroup is the payload's",
            b.cgroup()?.unified().map(Path::to_owned),
            a.cgroup()?.unified().map(Path::to_owned),
        );
    }
    payload.kill()?;
    payload.wait()?;
    let status = guest.wait()?;
    report.equal("when the payload ends, pid 1 there, so does the guest", status.signal(), Some(9));
    let error = payload.exec("/bin/true").spawn().err().ok_or("it entered the dead")?;
    report.equal("nobody enters what has ended", error.kind(), ErrorKind::Gone);

    // What the extra fork is for.
    let (before, after) = kit::in_child(|| {
        unshare(Namespace::User)?;
        unshare(Namespace::Pid)?;
        let own = || kit::namespace("self", Namespace::Pid);
        let first = HostCommand::new("/bin/sh").args(["-c", "echo $$"]).output()?;
        Ok((
            own()? == kit::namespace(std::process::id(), Namespace::Pid)?,
            String::from_utf8_lossy(&first.stdout).trim().to_owned(),
        ))
    })?;
    report.check("a new pid namespace leaves the caller where it is", before);
    report.equal("its first child is in it", after.as_str(), "1");
    Ok(())
}

/// What of the machine a sandbox could leave something in, as far as this process sees.
fn machine() -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    seen.extend(fs::read_to_string("/proc/self/mountinfo")?.lines().map(|line| format!("mount {line}")));
    seen.extend(kit::names("/sys/class/net")?.into_iter().map(|name| format!("link {name}")));
    for kind in ["shm", "sem", "msg"] {
        let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        let key = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        seen.extend(text.lines().skip(1).map(|line| format!("System V {kind} {}", key(line))));
    }
    seen.extend(kit::names(std::env::temp_dir())?.into_iter().map(|name| format!("file {name}")));
    if let Ok(parent) = kit::any_cgroup() {
        let mine = format!("palisade-{}", std::process::id());
        for group in parent.children()? {
            let name = group.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            // One group of each host program stays until that ends: this one's own.
            if name.starts_with(&mine) {
                seen.extend(
                    group.children()?.iter().map(|below| format!("cgroup {}", below.path().display())),
                );
            } else {
                seen.insert(format!("cgroup {name}"));
            }
        }
    }
    Ok(seen)
}

fn children() -> BTreeSet<i32> {
    kit::children(std::process::id()).into_iter().collect()
}

/// A sandbox with all that could stay: mounts, a network, System V memory, files, a process that leaves its parent.
fn messy() -> Result<Child> {
    let mut builder = Sandbox::builder().tmpfs("/scratch");
    if let Ok(parent) = kit::any_cgroup() {
        builder = builder.cgroup(Limits::new()).cgroup_parent(parent);
    }
    let script = "ipcmk -M 2000 >/dev/null 2>&1; echo x >/scratch/x; echo x >/tmp/x; setsid sleep 1000 & echo ready; exec sleep 1000";
    let mut command = builder.build()?.command("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().ok_or("no pipe")?, &mut ready)?;
    Ok(child)
}

fn clean_up(report: &mut Report) -> Result {
    // A host program that is killed. It is made first: a copy of a program that has sandboxes can make none.
    let empty = machine()?;
    let (host, payload) = kit::stay(|| {
        let child = messy()?;
        let pid = child.id();
        std::mem::forget(child);
        Ok(pid)
    })?;
    let payload = ProcRoot::host()?.process(payload)?;
    report.check("a host program has a sandbox", payload.status()?.state != State::Zombie);
    drop(host); // by SIGKILL
    let start = Instant::now();
    let gone = |process: &Process| process.status().map_or(true, |status| status.state == State::Zombie);
    while !(gone(&payload) && machine()?.is_subset(&empty)) && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(10));
    }
    report.check("SIGKILL of the host program ends the sandbox", gone(&payload));
    let left: Vec<String> = machine()?.difference(&empty).cloned().collect();
    report.equal("and leaves", left, Vec::<String>::new());

    // The first sandbox makes what stays for as long as this program runs: its threads, its group, the guard of that.
    drop(messy()?);
    std::thread::sleep(Duration::from_millis(100));
    let (before, family) = (machine()?, children());
    let mut rows = Vec::new();
    let mut after = |report: &mut Report, what: &str| -> Result {
        let start = Instant::now();
        let left = loop {
            let mut left: Vec<String> = machine()?.difference(&before).cloned().collect();
            left.extend(children().difference(&family).map(|pid| format!("process {pid}")));
            if left.is_empty() || start.elapsed() > Duration::from_secs(30) {
                break left;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        rows.push([what.to_owned(), if left.is_empty() { "nothing".into() } else { left.join(" ") }]);
        report.check(format!("{what}: nothing is left"), left.is_empty());
        Ok(())
    };

    let mut child = messy()?;
    let busy = machine()?.difference(&before).count() + children().difference(&family).count();
    report.check(format!("while it lives there is something to find: {busy}"), busy > 0);
    child.kill()?;
    child.wait()?;
    drop(child);
    after(report, "ended and waited for")?;
    drop(messy()?);
    after(report, "dropped without a wait")?;
    let error = Sandbox::builder().build()?.command("/no/such/program").spawn().err().ok_or("it ran")?;
    report.equal("a set-up that fails does so at", error.step(), Step::Exec);
    after(report, "failed at its last step")?;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _child = messy();
        std::panic::resume_unwind(Box::new("forced"));
    }));
    report.check("a panic goes through a living sandbox", panicked.is_err());
    after(report, "a panic of the host program")?;

    report.table("what was left", &["after", ""], rows);
    Ok(())
}
