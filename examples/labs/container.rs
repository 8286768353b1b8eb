//! Containers of a busybox image, by `presets::docker`: what the labs of capabilities, filters and security contexts
//! look at.

use std::fs;
use std::path::PathBuf;

use palisade::presets::docker::Docker;
use palisade::{Child, Stdio};

use crate::kit;
use crate::lab::{Report, Result};

/// The directory of an image of busybox, with root in the group wheel.
pub(crate) fn image(report: &Report) -> Result<PathBuf> {
    let image = report.directory().join("image");
    fs::create_dir(&image)?;
    kit::busybox(&image)?;
    fs::write(image.join("etc/group"), "root:x:0:\nwheel:x:10:root\ntty:x:5:\nnogroup:x:65534:\n")?;
    Ok(image)
}

/// What a shell of the container prints, errors included; how it ends does not matter.
pub(crate) fn says(report: &mut Report, docker: &Docker, script: &str) -> Result<String> {
    let sandbox = docker.build()?;
    let mut command = sandbox.command("sh");
    command.args(["-c", &format!("exec 2>&1; {script}")]);
    report.plan(&command.plan()?);
    let out = command.output()?;
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// A container that sleeps, to be looked at from outside.
pub(crate) fn running(docker: &Docker) -> Result<Child> {
    let sandbox = docker.build()?;
    let mut command = sandbox.command("sleep");
    command.arg("1000").stdin(Stdio::null());
    Ok(command.spawn()?)
}

/// A field of a process's status.
pub(crate) fn status(child: &Child, field: &str) -> Result<String> {
    let path = format!("/proc/{}/status", child.id());
    let text = fs::read_to_string(&path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.ok_or_else(|| format!("{path} has no {field}"))?.trim().to_owned())
}

/// A set of capabilities of a process's status.
pub(crate) fn mask(child: &Child, field: &str) -> Result<u64> {
    Ok(u64::from_str_radix(&status(child, field)?, 16)?)
}

/// Asserts what a shell of the container prints.
pub(crate) fn prints(
    report: &mut Report,
    what: impl std::fmt::Display,
    docker: &Docker,
    script: &str,
    expected: &str,
) -> Result {
    let said = says(report, docker, script)?;
    report.equal(what, said.as_str(), expected);
    Ok(())
}
