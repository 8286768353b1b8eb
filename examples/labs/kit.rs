//! What several labs need.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command as HostCommand;

use palisade::cgroup::Cgroup;
use palisade::ns::Namespace;
use palisade::{Command, procinfo::ProcRoot};

use palisade_testkit::{Forked, fork};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::lab::{Result, skip};

/// Names in a directory, sorted.
pub(crate) fn names(directory: impl AsRef<Path>) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Child processes of a process, as far as the kernel tells.
pub(crate) fn children(pid: u32) -> Vec<i32> {
    let threads = names(format!("/proc/{pid}/task")).unwrap_or_default();
    let lists = threads.iter().map(|tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")));
    lists
        .flatten()
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The text of a namespace link of a process (`uts:[4026531838]`), `self` or a pid.
pub(crate) fn namespace(pid: impl std::fmt::Display, kind: Namespace) -> Result<String> {
    let link = format!("/proc/{pid}/ns/{kind}");
    let target = fs::read_link(&link).map_err(|error| format!("{link}: {error}"))?;
    Ok(target.to_string_lossy().into_owned())
}

/// What a program prints, when it ends well.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    let out = command.output()?;
    if !out.status.success() {
        return Err(format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// What a program of the host prints, when it ends well.
pub(crate) fn host_text(command: &mut HostCommand) -> Result<String> {
    let out = command.output()?;
    if !out.status.success() {
        return Err(format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// A root file system of busybox in a new directory: a link for each of its programs, users root, daemon and nobody,
/// and empty `/proc`, `/dev`, `/sys`, `/tmp`, `/root` and `/home`.
pub(crate) fn busybox(root: &Path) -> Result {
    let program = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let program = program.ok_or_else(|| skip("no busybox (package busybox-static)"))?;
    for directory in ["bin", "etc", "proc", "dev", "sys", "tmp", "root", "home", "usr", "var"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(program, root.join("bin/busybox"))?;
    // Programs on the host that are linked dynamically do not start in here.
    if host_text(HostCommand::new(program).arg("--list")).is_ok_and(|list| list.is_empty()) {
        return Err(skip("busybox lists no program"));
    }
    for name in host_text(HostCommand::new(program).arg("--list"))?.lines().filter(|&name| name != "busybox")
    {
        symlink("busybox", root.join("bin").join(name))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
         nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// The cgroup below which labs may make their own, whatever its controllers.
pub(crate) fn any_cgroup() -> Result<Cgroup> {
    let given = std::env::var_os("PALISADE_TEST_CGROUP").filter(|path| !path.is_empty()).map(PathBuf::from);
    let parent = match given {
        Some(path) => Cgroup::open(path),
        None => Cgroup::delegated(),
    };
    parent.map_err(|error| skip(format!("no cgroup v2 to manage: {error}")))
}

/// The cgroup below which labs may make their own, with the controllers memory, cpu and pids.
pub(crate) fn cgroup() -> Result<Cgroup> {
    let parent = any_cgroup()?;
    let controllers = fs::read_to_string(parent.path().join("cgroup.controllers")).unwrap_or_default();
    for needed in ["cpu", "memory", "pids"] {
        if !controllers.split_whitespace().any(|name| name == needed) {
            return Err(skip(format!(
                "the controller {needed} is not in the cgroup v2 tree of this machine"
            )));
        }
    }
    Ok(parent)
}

/// Who this process is, in a line.
pub(crate) fn whoami() -> String {
    let describe = || -> Result<String> {
        let status = ProcRoot::host()?.myself()?.status()?;
        let user = namespace("self", Namespace::User)?;
        let (uid, effective) = (nix::unistd::geteuid(), status.capabilities.effective);
        Ok(format!("uid {uid}, CapEff {effective:016x}, {user}"))
    };
    describe().unwrap_or_else(|error| error.to_string())
}

/// What `body` gives in a forked child of its own: what it does to its process (its root, its ids, its namespaces) ends
/// with it. An error of `body` is this one's, as text.
pub(crate) fn in_child<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut child = fork(|pipe| tell(pipe, body()))?;
    let told = hear(&mut child)?;
    child.wait()?;
    Ok(told)
}

/// A forked child that has run `body`, told what it gave, and stays until this is dropped: to be looked at from outside.
pub(crate) fn stay<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> Result<T>) -> Result<(Forked, T)> {
    let mut child = fork(|pipe| {
        tell(pipe, body());
        loop {
            nix::unistd::pause();
        }
    })?;
    let told = hear(&mut child)?;
    Ok((child, told))
}

fn tell<T: Serialize>(mut pipe: fs::File, result: Result<T>) -> i32 {
    let result = result.map_err(|error| error.to_string());
    let text = serde_json::to_string(&result).unwrap_or_default();
    // The parent reads one line; without one it takes the child for failed.
    i32::from(writeln!(pipe, "{text}").is_err() || result.is_err())
}

fn hear<T: DeserializeOwned>(child: &mut Forked) -> Result<T> {
    let mut line = Vec::new();
    let mut byte = [0];
    while child.pipe().read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let result: std::result::Result<T, String> =
        serde_json::from_slice(&line).map_err(|_| "the forked child ended without a word")?;
    Ok(result?)
}
