//! Namespaces: listed, made, joined; host names, cgroup views and clocks of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::sethostname;
use palisade::Sandbox;
use palisade::cgroup::Limits;
use palisade::creds::Identity;
use palisade::ns::{
    AnyNs, ClockOffset, Join, Namespace, Namespaces, TimeOffsets, Unshare, list, pidfd_open, unshare,
};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};

const MOUNT: Namespaces = Namespaces::EMPTY.with(Namespace::Mount);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 18,
        commands: "ls -l /proc/1/ns\nunshare /bin/sh; ls -l /proc/1/ns; file /proc/1/ns/user\nlsns -p $$; readlink /proc/$$/ns/user",
        mechanism: "Every process is in one namespace of each kind, and /proc/PID/ns names them by inode. unshare without \
                    a flag changes none: the study's listing after it is the same because nothing was asked for, and \
                    because it reads that of pid 1. Those of pid and time are for children: the process itself stays.",
        shows: "ten links; no flag changes none, one flag changes its own, children inherit; who is in which, as lsns has it",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(listing),
    },
    Lab {
        number: 19,
        commands: "unshare -m -u -i -p -n -U /bin/sh\nnsenter -t PID -U -u /bin/sh",
        mechanism: "Kinds can be mixed as one likes. A handle of a namespace, an open descriptor, keeps it alive and lets \
                    who may come in and go back. A process can be joined by its pidfd, several kinds in one call; its user \
                    namespace first, since the right to join the others comes from there. A pid namespace is joined by \
                    children only.",
        shows: "own mounts and host name with the host's network; into a namespace and back; into those of a process",
        needs: Needs::Nothing,
        outer: MOUNT.with(Namespace::Uts),
        body: Body::Run(mixed),
    },
    Lab {
        number: 25,
        commands: "unshare --uts /bin/sh\nhostname RED; hostname\nhostname   # in another terminal",
        mechanism: "A uts namespace holds the host name and the NIS domain name, nothing else. To set them takes \
                    CAP_SYS_ADMIN in the user namespace that owns it: root of a new user namespace has no right over the \
                    old uts namespace.",
        shows: "RED inside, the old name outside; who may not rename",
        needs: Needs::Nothing,
        outer: MOUNT.with(Namespace::Uts),
        body: Body::Run(uts),
    },
    Lab {
        number: 37,
        commands: "unshare --cgroup /bin/sh; cat /proc/self/cgroup",
        mechanism: "A cgroup namespace has its root at the cgroup that its maker is in. Paths in /proc/PID/cgroup begin \
                    there, with `..` for what lies above, and a mount of cgroup2 shows that subtree alone. It hides; it \
                    limits nothing by itself.",
        shows: "`0::/` inside, the long path outside, and a mount whose root is the own group",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(cgroup),
    },
    Lab {
        number: 38,
        commands: "unshare --time --boottime 86400 --fork cat /proc/uptime\ncat /proc/self/timens_offsets",
        mechanism: "A time namespace shifts CLOCK_MONOTONIC and CLOCK_BOOTTIME, for checkpoints that go on elsewhere; the time \
                    of day is everybody's. Offsets are written before the first member enters: clone3 would make the \
                    child one at once, so unshare, write, enter is the order.",
        shows: "clocks a day ahead and two, the same time of day, offsets that are fixed once it has a member",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(time),
    },
];

/// The links of a process by their names: eight kinds, and two for its children.
fn links(pid: impl std::fmt::Display) -> Result<BTreeMap<String, String>> {
    let directory = format!("/proc/{pid}/ns");
    let mut links = BTreeMap::new();
    for name in kit::names(&directory)? {
        // A new pid namespace has no inode to name before its first process.
        let link = fs::read_link(Path::new(&directory).join(&name));
        links.insert(name, link.map_or_else(|_| "not begun".into(), |link| link.display().to_string()));
    }
    Ok(links)
}

fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    before.keys().filter(|name| before[*name] != after[*name]).cloned().collect()
}

fn listing(report: &mut Report) -> Result {
    let own = links("self")?;
    report.table("/proc/self/ns", &["link", "namespace"], own.iter().map(|(name, id)| [name, id]));
    report.equal("there are ten links", own.len(), 10);
    for (name, id) in &own {
        let kind = name.strip_suffix("_for_children").unwrap_or(name);
        report.check(format!("{name} names its kind and an inode"), id.starts_with(&format!("{kind}:[")));
    }
    if let Err(error) = fs::read_link("/proc/1/ns/user") {
        report.note(format!(
            "/proc/1/ns/user: {error}: who reads it must have all capabilities that pid 1 has."
        ));
    }

    report.equal(
        "unshare(0) changes nothing",
        kit::in_child(|| {
            unshare(Namespaces::EMPTY)?;
            Ok(changed(&own, &links("self")?))
        })?,
        Vec::<String>::new(),
    );
    for kind in Namespace::ALL {
        let (seen, inherited) = kit::in_child(|| {
            Unshare::new(kind).prepare()?.run()?;
            let seen = links("self")?;
            let inherited = kit::in_child(|| links("self"))?;
            Ok((changed(&own, &seen), changed(&own, &inherited)))
        })?;
        // This library enters a new time namespace at once; a pid namespace nobody can.
        let (expected, of_child): (&[&str], &[&str]) = match kind {
            Namespace::Pid => (&["pid_for_children"], &["pid", "pid_for_children"]),
            Namespace::Time => (&["time", "time_for_children"], &["time", "time_for_children"]),
            kind => (&[kind.name()], &[kind.name()]),
        };
        report.equal(format!("unshare({}) changes its own link alone", kind.flag_name()), &seen, expected);
        report.equal("   and its children have it", inherited, of_child);
    }
    let raw = kit::in_child(|| {
        // As unshare(1) does it: the time namespace is for children until somebody enters.
        nix::sched::unshare(nix::sched::CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        Ok(changed(&own, &links("self")?))
    })?;
    report.equal("unshare(2) alone with CLONE_NEWTIME: for children", raw, ["time_for_children"]);

    let all = list()?;
    let rows =
        all.namespaces.iter().filter(|listed| listed.pids.contains(&std::process::id())).map(|listed| {
            let first = listed.pids.first().map_or_else(String::new, ToString::to_string);
            [listed.namespace.to_string(), listed.pids.len().to_string(), first]
        });
    let rows: Vec<_> = rows.collect();
    report.equal("lsns: this process is in eight", rows.len(), 8);
    report.table("the same as lsns lists them", &["namespace", "processes", "first"], rows);
    Ok(())
}

fn name() -> Result<String> {
    Ok(nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned())
}

fn mixed(report: &mut Report) -> Result {
    // Any subset, by the builder.
    let sandbox = Sandbox::builder().share(Namespace::Net).share(Namespace::Ipc).hostname("mixed").build()?;
    let script = "uname -n; for k in mnt uts net ipc; do readlink /proc/self/ns/$k; done";
    let mut command = sandbox.command("/bin/sh");
    let told = kit::text(command.args(["-c", script]))?;
    let told: Vec<&str> = told.lines().collect();
    let own = links("self")?;
    report.equal("its host name is its own", told[0], "mixed");
    report.differ("its mounts are its own", told[1], own["mnt"].as_str());
    report.differ("its uts namespace too", told[2], own["uts"].as_str());
    report.equal("its network is the host's", told[3], own["net"].as_str());
    report.equal("its System V objects are the host's", told[4], own["ipc"].as_str());

    // Into one and back, by handles.
    let host = name()?;
    let (inside, back, again) = kit::in_child(|| {
        let old = AnyNs::current(Namespace::Uts)?;
        Unshare::new(Namespace::Uts).hostname("inside".parse()?).prepare()?.run()?;
        let (inside, new) = (name()?, AnyNs::current(Namespace::Uts)?);
        Join::new().namespace(old).prepare()?.run()?;
        let back = name()?;
        Join::new().namespace(new).prepare()?.run()?;
        Ok((inside, back, name()?))
    })?;
    report.equal(
        "made, left, and joined again",
        (inside, back, again),
        ("inside".into(), host, "inside".into()),
    );

    // Those of a process, by its pidfd.
    let kinds = Namespace::User | Namespace::Uts | Namespace::Net | Namespace::Ipc | Namespace::Pid;
    let (donor, there) = kit::stay(|| {
        Unshare::new(kinds).hostname("donor".parse()?).prepare()?.run()?;
        let first = kit::in_child(|| links("self"))?;
        Ok((name()?, first))
    })?;
    let (called, here, child) = kit::in_child(|| {
        let kinds = kinds.without(Namespace::Pid);
        let join = Join::new().process(pidfd_open(donor.pid())?, kinds).prepare()?;
        let atomic = join.is_atomic();
        join.run()?;
        Ok(((name()?, atomic), links("self")?, kit::in_child(|| links("self"))?))
    })?;
    report.equal("nsenter by pidfd, all kinds in one call", called, (there.0, true));
    for kind in ["user", "uts", "net", "ipc"] {
        report.equal(format!("its {kind} namespace is the donor's"), &here[kind], &there.1[kind]);
        report.equal("   and that of its children", &child[kind], &there.1[kind]);
    }
    report.equal("its pid namespace is not, since it was not asked for", &child["pid"], &own["pid"]);
    Ok(())
}

fn uts(report: &mut Report) -> Result {
    let outside = name()?;
    let (names, domain) = kit::in_child(|| {
        Unshare::new(Namespace::Uts)
            .hostname("RED".parse()?)
            .domainname("colours".parse()?)
            .prepare()?
            .run()?;
        let seen = nix::sys::utsname::uname()?;
        Ok((name()?, seen.domainname().to_string_lossy().into_owned()))
    })?;
    report.equal("inside, the name is RED", names.as_str(), "RED");
    report.equal("and the domain is set", domain.as_str(), "colours");
    report.equal("outside, nothing changed", name()?, outside.clone());
    let refused = kit::in_child(|| {
        unshare(Namespace::Uts)?;
        Identity::unprivileged().prepare()?.apply_to_thread()?;
        Ok(sethostname("BLUE").err().map_or(0, |errno| errno as i32))
    })?;
    report.equal("without CAP_SYS_ADMIN: EPERM", refused, libc::EPERM);
    let refused = kit::in_child(|| {
        unshare(Namespace::User)?;
        Ok(sethostname("BLUE").err().map_or(0, |errno| errno as i32))
    })?;
    report.equal(
        "all capabilities in a new user namespace, the old uts namespace: EPERM",
        refused,
        libc::EPERM,
    );
    let sandbox = Sandbox::builder().hostname("RED").build()?;
    let mut command = sandbox.command("/bin/uname");
    report.equal("a sandbox says RED", kit::text(command.arg("-n"))?.as_str(), "RED");
    report.equal("and the host what it said", name()?, outside);
    Ok(())
}

fn cgroup(report: &mut Report) -> Result {
    let group = kit::any_cgroup()?.create_unique("palisade-lab", &Limits::new())?;
    let unified = |pid: &str| -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Ok(text.lines().find(|line| line.starts_with("0::")).unwrap_or("none").to_owned())
    };
    let point = report.directory().join("groups");
    fs::create_dir(&point)?;
    let outsider = std::process::id().to_string();
    let (before, after, of_outsider, members) = kit::in_child(|| {
        group.enter()?;
        let before = unified("self")?;
        unshare(Namespace::Cgroup | Namespace::Mount)?;
        mount(Some("none"), &point, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
        let members = fs::read_to_string(point.join("cgroup.procs"))?;
        umount(&point)?;
        Ok((before, unified("self")?, unified(&outsider)?, members.trim() == std::process::id().to_string()))
    })?;
    let leaf = group.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    report.check(format!("before, the path ends with the group: {before}"), before.ends_with(&leaf));
    report.equal("after, it is the root", after.as_str(), "0::/");
    report.check(format!("an outsider is seen above it: {of_outsider}"), of_outsider.starts_with("0::/.."));
    report.check("a mount of cgroup2 has the own group as its root, with one member", members);
    fs::remove_dir(point)?;
    drop(group);
    Ok(())
}

/// Seconds since boot by two clocks, and the time of day.
fn clocks() -> Result<(i64, i64, i64)> {
    let read = |clock| clock_gettime(clock).map(|time| time.tv_sec());
    Ok((read(ClockId::CLOCK_MONOTONIC)?, read(ClockId::CLOCK_BOOTTIME)?, read(ClockId::CLOCK_REALTIME)?))
}

fn time(report: &mut Report) -> Result {
    const DAY: i64 = 86_400;
    let days = |n| ClockOffset::forward(Duration::from_secs(n * DAY as u64));
    let offsets = TimeOffsets::ZERO.monotonic(days(1)).boottime(days(2));
    let outside = clocks()?;
    let (inside, uptime, late) = kit::in_child(|| {
        Unshare::new(Namespace::Time).time_offsets(offsets).prepare()?.run()?;
        let uptime = fs::read_to_string("/proc/uptime")?;
        let uptime: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
        let late = fs::write("/proc/self/timens_offsets", "monotonic 1 0");
        Ok((clocks()?, uptime as i64, late.err().and_then(|error| error.raw_os_error())))
    })?;
    // What a slow machine may need in between.
    let near = |ahead: i64, days: i64| (days * DAY..days * DAY + 60).contains(&ahead);
    report.check("CLOCK_MONOTONIC is a day ahead", near(inside.0 - outside.0, 1));
    report.check("CLOCK_BOOTTIME is two days ahead", near(inside.1 - outside.1, 2));
    report.check("/proc/uptime follows that one", near(uptime - outside.1, 2));
    report.check("the time of day is the same", near(inside.2 - outside.2, 0));
    report.equal("once it has a member its offsets are fixed", late, Some(libc::EACCES));
    let after = clocks()?;
    report.check("outside no clock moved", near(after.0 - outside.0, 0) && near(after.1 - outside.1, 0));

    let sandbox = Sandbox::builder().time_offsets(offsets).build()?;
    let mut command = sandbox.command("/bin/cat");
    report.plan(&command.plan()?);
    let text = kit::text(command.args(["/proc/uptime", "/proc/self/timens_offsets"]))?;
    let uptime: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    report.check(
        "in a sandbox: two days ahead, by one line of the builder",
        near(uptime as i64 - outside.1, 2),
    );
    Ok(())
}
