//! Namespaces, ids, and what can be mounted in them: by trying.

use palisade_creds::{Maps, SubIds, Uid, UserDb};
use palisade_fsroot::{Layers, Overlay};
use palisade_ns::Namespace;
use palisade_sys::{Program, Step};

use super::{Feature, Preflight, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::newborn::Helper;
use crate::sandbox::{Sandbox, SandboxBuilder};
use crate::spawner::{self, Thread};
use crate::sys;

pub(super) fn look(report: &mut Preflight) {
    for kind in Namespace::ALL {
        let feature = Feature::Namespace(kind);
        match try_namespace(kind, report.privileged) {
            Ok(()) => report.available(feature, "can be made"),
            Err(error) => {
                let why = error.errno().map_or_else(|| error.to_string(), sys::describe);
                report.missing(feature, why, fix_of_namespace(kind, error.errno()));
            }
        }
    }
    id_ranges(report);
    views(report);
}

/// Makes one and ends with it. An ordinary user makes it in a user namespace of its own.
fn try_namespace(kind: Namespace, privileged: bool) -> Result<()> {
    let mut flags = kind.bit();
    if !privileged {
        flags |= Namespace::User.bit();
    }
    try_flags(flags)
}

/// Executes the stage in new namespaces of these flags, and ends with it.
pub(super) fn try_flags(flags: u64) -> Result<()> {
    let made = spawner::start(Thread::Any, move |bench| {
        // Dropped, it is killed and waited for.
        Helper::start(&Program::new(), &[], flags, bench).map(drop)
    })?;
    made.recv().unwrap_or_else(|_| Err(spawner::panicked()))
}

fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}

/// What forbids it, as far as the system's settings say.
fn fix_of_namespace(kind: Namespace, errno: Option<i32>) -> String {
    let is = |name: &str, value: &str| sysctl(name).is_some_and(|seen| seen == value);
    let limit = format!("user.max_{}_namespaces", kind.name());
    for name in [limit.as_str(), "user.max_user_namespaces"] {
        if is(name, "0") {
            return format!(
                "sysctl -w {name}=15000 (it is 0 in this user namespace; outer ones have their own)"
            );
        }
    }
    if is("kernel.unprivileged_userns_clone", "0") {
        return "sysctl -w kernel.unprivileged_userns_clone=1".into();
    }
    if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        return "an AppArmor profile for this program with the rule `userns,`, or \
                sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
            .into();
    }
    match errno {
        Some(libc::ENOSPC | libc::EUSERS) => {
            format!(
                "sysctl -w {limit}=15000 here and in outer user namespaces, which may be nested too deep (32)"
            )
        }
        Some(libc::EINVAL) => format!("run a kernel with {} namespaces", kind.name()),
        Some(libc::EPERM) => {
            "a security module, a chroot or an outer container's seccomp profile forbids it: run outside \
                              of it, or with a profile that allows clone and unshare of namespaces"
                .into()
        }
        _ => "see the system's log".into(),
    }
}

fn id_ranges(report: &mut Preflight) {
    if report.privileged {
        let known = Maps::current().ok().flatten().map_or(0, |maps| maps.uid().len());
        if known > 1 {
            return report.available(Feature::IdRanges, format!("the caller maps any of {known} ids itself"));
        }
        return report.missing(
            Feature::IdRanges,
            "the caller's user namespace has a single id",
            "run in a user namespace with a range of ids (unshare --map-auto, podman unshare), or outside of it",
        );
    }
    let uid = report.user.0;
    let name = login_name(uid);
    let count = |file: palisade_creds::Result<SubIds>| -> u32 {
        let ranges = file.map(|file| file.of(name.as_deref(), Uid::new(uid).unwrap_or(Uid::NOBODY)));
        ranges.unwrap_or_default().iter().fold(0, |sum: u32, range| sum.saturating_add(range.count()))
    };
    let (users, groups) = (count(SubIds::of_users()), count(SubIds::of_groups()));
    report.delegated_ids = Some((users, groups));
    let shown = name.as_deref().map_or(uid.to_string(), |name| name.to_string_lossy().into_owned());
    if users == 0 || groups == 0 {
        let fix = format!(
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {shown} (ranges that are free)"
        );
        return report.missing(
            Feature::IdRanges,
            format!("{users} user and {groups} group ids are delegated"),
            fix,
        );
    }
    match Maps::rootless().and_then(|maps| maps.prepare()) {
        Ok(_) => {
            let seen = format!("{users} user and {groups} group ids, by newuidmap and newgidmap");
            report.available(Feature::IdRanges, seen);
        }
        Err(error) => report.missing(
            Feature::IdRanges,
            error.to_string(),
            "install newuidmap and newgidmap (package uidmap, shadow-utils or shadow)",
        ),
    }
}

fn login_name(uid: u32) -> Option<std::ffi::OsString> {
    let root = std::fs::File::open("/").ok()?;
    let users = UserDb::open_in(root).ok()?;
    users.users().find(|user| user.uid.map(Uid::as_raw) == Some(uid)).map(|user| user.name.to_owned())
}

/// The real thing, up to the payload's exec.
fn attempt(builder: SandboxBuilder) -> Result<()> {
    // A directory: what fails is the exec, and nothing before it.
    match builder.build()?.command("/").stdin(crate::Stdio::null()).spawn() {
        Err(error) if error.kind() == ErrorKind::Exec => Ok(()),
        other => other.map(drop),
    }
}

fn views(report: &mut Preflight) {
    let outcome = attempt(Sandbox::builder());
    let bare = || Sandbox::builder().host_view(|view| view.proc(None));
    let no_proc =
        matches!(&outcome, Err(error) if error.step() == Step::Mounts && error.object() == Some("/proc"));
    let works = match &outcome {
        Ok(()) => {
            report.available(Feature::SecureDefault, "built, verified, and executed up to its payload");
            report.available(Feature::Proc, "can be mounted");
            true
        }
        Err(error) => {
            report.missing(Feature::SecureDefault, said(error), advice(error));
            if no_proc {
                let fix = "something is mounted over the /proc of this container: run it with an unmasked one \
                           (docker run --security-opt systempaths=unconfined), or do without: \
                           host_view(|view| view.proc(None))";
                report.missing(Feature::Proc, said(error), fix);
            } else {
                report.push(Feature::Proc, Status::Unknown, "no sandbox to try it in".into(), None);
            }
            no_proc && attempt(bare()).is_ok()
        }
    };
    if !works {
        return report.push(Feature::Overlay, Status::Unknown, "no sandbox to try it in".into(), None);
    }
    let overlay = Overlay::new("/opt", Layers::new("/usr").upper_in_memory(1 << 20, 64));
    match attempt(bare().mount(overlay)) {
        Ok(()) => report.available(Feature::Overlay, "in a user namespace"),
        Err(error) => {
            let fix = match error.errno() {
                Some(libc::ENODEV) => "modprobe overlay",
                _ => "run a kernel with overlays in user namespaces (5.11); modprobe overlay",
            };
            report.missing(Feature::Overlay, said(&error), fix);
        }
    }
}

/// An error without its hint.
pub(super) fn said(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn advice(error: &Error) -> String {
    error.hint().map_or_else(|| "see the findings below".into(), str::to_owned)
}
