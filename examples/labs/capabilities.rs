//! Capabilities, and what `--privileged` gives away.

use std::path::{Path, PathBuf};

use palisade::creds::{Capability, CapabilitySet};
use palisade::ns::{Namespace, Namespaces};
use palisade::presets::docker::Docker;
use palisade::procinfo::{ProcRoot, Status};
use palisade::{Child, Stdio};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 56,
        commands: "docker container run --rm ubuntu:16.04 grep Cap /proc/self/status\nless /usr/include/linux/capability.h",
        mechanism: "A thread has five sets. Docker fills bounding, permitted and effective with fourteen capabilities and \
                    leaves inheritable and ambient empty. At execve by a user that is not 0, permitted becomes what is \
                    ambient: nothing; the bounding set stays, and says what a set-user-ID program could still give.",
        shows: "a80425fb for root, nothing but the bounding set for nobody; the 27 that are dropped, by name",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(default_set),
    },
    Lab {
        number: 57,
        commands: "docker container run --rm -u nobody ubuntu:16.04 /bin/bash -c \"capsh --print | grep net_raw\"\n\
                   docker container run --rm -u nobody --cap-drop net_raw ubuntu:16.04 /bin/bash -c \"capsh --print | grep net_raw\"",
        mechanism: "CAP_NET_RAW opens raw sockets, with which a container can forge what its neighbours see. A dropped \
                    capability is gone from the bounding set: no exec brings it back.",
        shows: "the bit leaves the mask, and ping's raw socket is refused",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(drop_net_raw),
    },
    Lab {
        number: 58,
        commands: "docker container run --rm -u nobody ubuntu:16.04 /bin/bash -c \"capsh --print | grep sys_admin\"\n\
                   docker container run --rm -u nobody --cap-add sys_admin ubuntu:16.04 /bin/bash -c \"capsh --print | grep sys_admin\"",
        mechanism: "--cap-add puts a capability into the container's sets, and Docker's profile opens the calls that need it. \
                    For a user that is not 0 only the bounding set has it, since Docker makes nothing ambient: nobody still \
                    cannot mount. Kubernetes has the same gap.",
        shows: "root mounts with it and not without; nobody has the bit in the bounding set and still cannot",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(add_sys_admin),
    },
    Lab {
        number: 59,
        commands: "docker run -it ubuntu bash   # then: reboot, date -s, insmod, kill, nice, swapon",
        mechanism: "The container's root has none of the capabilities that reach beyond the container. What it may not do is \
                    refused by the filter or by the capability check (EPERM); what it cannot name does not exist (ESRCH).",
        shows: "each attempt on the host beside the kernel's answer",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(limited_root),
    },
    Lab {
        number: 60,
        commands: "docker container run --rm --privileged ubuntu:16.04 id\ndocker container run --rm --privileged ubuntu:16.04 capsh --print\n\
                   docker container run --rm --privileged ubuntu:16.04 ls /dev",
        mechanism: "--privileged takes away every restriction but the namespaces and the root: all capabilities that the \
                    caller has, no filter, no label, every device of the host with full access, nothing hidden or read-only. \
                    Who is in there can mount the host's disk.",
        shows: "the same container with and without: capabilities, filter, devices, hidden files, sysctls; namespaces stay",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(privileged),
    },
];

fn image(report: &Report) -> Result<PathBuf> {
    let image = report.directory().join("image");
    std::fs::create_dir(&image)?;
    kit::busybox(&image)?;
    Ok(image)
}

/// A container that waits, to be looked at from outside.
fn running(docker: &Docker) -> Result<(Child, Status)> {
    let sandbox = docker.build()?;
    let mut command = sandbox.command("sleep");
    let child = command.arg("1000").stdin(Stdio::null()).spawn()?;
    let status = ProcRoot::host()?.process_of_pidfd(child.pidfd())?.status()?;
    Ok((child, status))
}

/// Inheritable, permitted, effective, bounding, ambient, as /proc/PID/status has them.
fn sets(status: &Status) -> [u64; 5] {
    let sets = &status.capabilities;
    [sets.inheritable, sets.permitted, sets.effective, sets.bounding, sets.ambient]
}

/// What a script prints, and whether it ended well.
fn sh(report: &mut Report, docker: &Docker, script: &str) -> Result<(bool, String)> {
    let sandbox = docker.build()?;
    let mut command = sandbox.command("sh");
    command.args(["-c", script]);
    report.plan(&command.plan()?);
    let out = command.output()?;
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned();
    Ok((out.status.success(), said))
}

fn default_set(report: &mut Report) -> Result {
    let image = image(report)?;
    let docker = CapabilitySet::DOCKER.bits();
    let (_root, root) = running(&Docker::new(&image))?;
    let (_nobody, nobody) = running(&Docker::new(&image).user("nobody"))?;
    let hex = |set: &u64| format!("{set:016x}");
    let head = ["", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let row = |who: &str, status| {
        std::iter::once(who.to_owned()).chain(sets(status).iter().map(hex)).collect::<Vec<_>>()
    };
    report.table("as /proc/PID/status has it", &head, [row("root", &root), row("nobody", &nobody)]);
    report.equal("the mask is docker's", docker, 0xa804_25fb);
    report.equal("root of the container", sets(&root), [0, docker, docker, docker, 0]);
    report.equal("nobody: only the bounding set is left", sets(&nobody), [0, 0, 0, docker, 0]);
    let all = CapabilitySet::supported()?;
    let names: Vec<String> =
        (all - CapabilitySet::DOCKER).iter().map(|capability| capability.to_string()).collect();
    report.note(format!("Dropped, {} of {}: {}", names.len(), all.iter().count(), names.join(" ")));
    for name in ["CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_NICE", "CAP_SYS_RESOURCE"] {
        report.check(format!("{name} is among the dropped"), names.iter().any(|known| known == name));
    }
    Ok(())
}

fn drop_net_raw(report: &mut Report) -> Result {
    let image = image(report)?;
    let ping = "ping -c 1 -W 2 127.0.0.1";
    let (_child, before) = running(&Docker::new(&image).user("nobody"))?;
    report.check(
        "by default the bounding set has it, for nobody too",
        before.capabilities.bounding & (1 << 13) != 0,
    );
    let (works, said) = sh(report, &Docker::new(&image), ping)?;
    report.check(format!("root pings: {}", said.lines().last().unwrap_or_default()), works);
    for name in ["net_raw", "NET_RAW", "cap_net_raw", "CAP_NET_RAW"] {
        let (_child, after) = running(&Docker::new(&image).user("nobody").cap_drop(name))?;
        report.equal(format!("--cap-drop {name}"), format!("{:x}", after.capabilities.bounding), "a80405fb");
    }
    let (works, said) = sh(report, &Docker::new(&image).cap_drop("net_raw"), ping)?;
    report.check(format!("without it root does not: {said}"), !works && said.contains("ermi"));
    report.note("capsh of today prints `Current IAB: !cap_net_raw`, so that a grep for the name still finds it: look at the bit.");
    Ok(())
}

fn add_sys_admin(report: &mut Report) -> Result {
    let image = image(report)?;
    let mount = "mount -t tmpfs none /tmp && echo mounted";
    let bit = |status: &Status| status.capabilities.bounding & (1 << Capability::SysAdmin.number()) != 0;
    let (_child, plain) = running(&Docker::new(&image).user("nobody"))?;
    let (_other, added) = running(&Docker::new(&image).user("nobody").cap_add("sys_admin"))?;
    report.check("without --cap-add the bounding set lacks it", !bit(&plain));
    report.check("with --cap-add sys_admin it is there", bit(&added));
    let (works, said) = sh(report, &Docker::new(&image), mount)?;
    report.check(format!("root cannot mount by default: {said}"), !works);
    let (works, said) = sh(report, &Docker::new(&image).cap_add("sys_admin"), mount)?;
    report.check(format!("with it, it can, and the profile lets it ask: {said}"), works);
    let (works, said) = sh(report, &Docker::new(&image).cap_add("sys_admin").user("nobody"), mount)?;
    report.check(
        format!("nobody still cannot: in the bounding set is not in the effective one: {said}"),
        !works,
    );
    report.equal("nobody's effective set is empty", added.capabilities.effective, 0);
    Ok(())
}

fn limited_root(report: &mut Report) -> Result {
    let image = image(report)?;
    let host = std::process::id();
    let docker = Docker::new(&image);
    // What is tried, and a part of the answer.
    let attempts = [
        ("reboot", "reboot -f".to_owned(), "ermitted"),
        ("set the clock", "date -s 2000-01-01".to_owned(), "ermitted"),
        ("remove a module", "rmmod loop".to_owned(), "ermitted"),
        ("signal a process of the host", format!("kill -0 {host}"), "No such process"),
        ("be nicer to itself", "renice -n -5 -p $$".to_owned(), "ermission denied"),
        ("swap", "dd if=/dev/zero of=/swap bs=4096 count=4 2>/dev/null; swapon /swap".to_owned(), "ermitted"),
        ("see the host's disk", "mknod /disk b 254 0 && cat /disk".to_owned(), "ermitted"),
        ("change the kernel's settings", "echo x > /proc/sys/kernel/core_pattern".to_owned(), "ead-only"),
    ];
    let mut rows = Vec::new();
    for (what, script, answer) in attempts {
        // Not by the exit status: busybox's date ends well all the same.
        let (_, said) = sh(report, &docker, &script)?;
        report.check(format!("{what}: refused"), said.contains(answer));
        rows.push([what.to_owned(), script, said.lines().last().unwrap_or_default().to_owned()]);
    }
    report.table("root of the container tries", &["", "command", "answer"], rows);
    Ok(())
}

/// What differs between a plain and a privileged container, a line each.
const LOOK: &str = "
for f in CapEff CapBnd Seccomp; do grep \"^$f:\" /proc/self/status | tr -d '\\t' ; done
echo devices:$(find /dev -type c -o -type b | wc -l)
echo kcore:$(stat -c %t:%T /proc/kcore 2>/dev/null)
echo hidden:$(grep -c ' /proc/[a-z]' /proc/mounts)
(echo 1 >/proc/sys/net/ipv4/ip_forward) 2>/dev/null && echo forward:written || echo forward:refused
for n in mnt pid net ipc uts; do echo ns-$n:$(readlink /proc/self/ns/$n); done
id -u
";

fn privileged(report: &mut Report) -> Result {
    let image = image(report)?;
    let look = |report: &mut Report, docker: Docker| -> Result<Vec<(String, String)>> {
        let (worked, said) = sh(report, &docker.dangerously_use_host_users(), LOOK)?;
        if !worked {
            return Err(said.into());
        }
        let pairs = said.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    };
    let plain = look(report, Docker::new(&image))?;
    let open = look(report, Docker::new(&image).privileged(true))?;
    let get = |list: &[(String, String)], wanted: &str| {
        list.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    report.table(
        "the same container",
        &["", "default", "--privileged"],
        plain.iter().map(|(name, value)| [name.clone(), value.clone(), get(&open, name)]),
    );
    let own = ProcRoot::host()?.myself()?.status()?.capabilities.bounding;
    report.equal("all capabilities that this caller can have", get(&open, "CapEff"), format!("{own:016x}"));
    report.equal("without: fourteen", get(&plain, "CapEff"), "00000000a80425fb");
    report.equal("no filter", get(&open, "Seccomp"), "0");
    report.equal("without: one", get(&plain, "Seccomp"), "2");
    let nodes = |list| get(list, "devices").parse::<usize>().unwrap_or(0);
    report.check(
        format!("the host's devices: {} instead of {}", nodes(&open), nodes(&plain)),
        nodes(&open) >= host_devices(Path::new("/dev")) && nodes(&open) > nodes(&plain),
    );
    report.equal("nothing of /proc is hidden or read-only", get(&open, "hidden"), "0");
    report.differ("without, much is", get(&plain, "hidden"), "0");
    report.equal("a sysctl of its own network can be written", get(&open, "forward"), "written");
    report.equal("without, /proc/sys is read-only", get(&plain, "forward"), "refused");
    for (name, kind) in [
        ("mnt", Namespace::Mount),
        ("pid", Namespace::Pid),
        ("net", Namespace::Net),
        ("ipc", Namespace::Ipc),
        ("uts", Namespace::Uts),
    ] {
        let own = kit::namespace("self", kind)?;
        let theirs =
            open.iter().find(|(key, _)| *key == format!("ns-{name}")).map(|(_, value)| value.clone());
        report.differ(format!("still its own {kind} namespace"), theirs.unwrap_or_default(), own);
    }
    Ok(())
}

/// Device nodes right in /dev: what a walk of it finds at least.
fn host_devices(directory: &Path) -> usize {
    use std::os::unix::fs::FileTypeExt as _;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let kinds = entries.flatten().filter_map(|entry| entry.file_type().ok());
    kinds.filter(|kind| kind.is_char_device() || kind.is_block_device()).count()
}
