//! The kernel: its version, and the calls that nothing works without.

use palisade_creds::{Capability, ThreadCapabilities};
use palisade_procinfo::ProcRoot;

use super::{Feature, Preflight, Status, names};
use crate::sys;

/// The oldest that is supported.
const FLOOR: (u32, u32) = (5, 15);
const NEWER_KERNEL: &str = "run a newer kernel";
const FILTERED: &str = "it is missing or filtered: run Linux 5.15 or later; in a container, give it a seccomp profile \
                        that allows it (docker run --security-opt seccomp=unconfined, for a test)";

pub(super) fn look(report: &mut Preflight) {
    report.user = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let effective = ThreadCapabilities::current().map(|sets| sets.effective).unwrap_or_default();
    let needed = [Capability::SysAdmin, Capability::Setuid, Capability::Setgid];
    report.privileged = needed.into_iter().all(|capability| effective.contains(capability));

    match ProcRoot::host().and_then(|root| root.version()) {
        Ok(version) => {
            report.release = version.to_string();
            report.version = version.numbers;
            if (version.numbers.0, version.numbers.1) >= FLOOR {
                report.available(Feature::Kernel, version.to_string());
            } else {
                report.missing(Feature::Kernel, version.to_string(), "run Linux 5.15 or later");
            }
        }
        Err(error) => report.push(
            Feature::Kernel,
            Status::Unknown,
            error.to_string(),
            Some("mount -t proc proc /proc".into()),
        ),
    }

    let calls = |wanted: &[(&'static str, i64)]| -> Vec<&'static str> {
        wanted.iter().filter(|(_, number)| !sys::is_there(*number)).map(|(name, _)| *name).collect()
    };
    let lacking = calls(&[
        ("pidfd_open", libc::SYS_pidfd_open),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
        ("clone3", libc::SYS_clone3),
        ("close_range", libc::SYS_close_range),
    ]);
    match &*lacking {
        [] if report.version >= (6, 15, 0) => report.available(Feature::Pidfd, "with the exit status kept"),
        [] => report.push(
            Feature::Pidfd,
            Status::Limited,
            "a status that somebody else's wait has taken is lost (Linux 6.15 keeps it)".into(),
            Some(NEWER_KERNEL.into()),
        ),
        lacking => report.missing(Feature::Pidfd, format!("no {}", lacking.join(", ")), FILTERED),
    }

    let lacking = calls(&[
        ("open_tree", libc::SYS_open_tree),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("openat2", libc::SYS_openat2),
        ("statx", libc::SYS_statx),
    ]);
    match &*lacking {
        [] => report.available(Feature::MountApi, mount_level(report.version)),
        lacking => report.missing(Feature::MountApi, format!("no {}", lacking.join(", ")), FILTERED),
    }

    match names::try_flags(0) {
        Ok(()) => report.available(Feature::Memfd, "the stage was executed"),
        Err(error) => {
            let fix = "sysctl -w vm.memfd_noexec=1 (in this pid namespace), or see the security module's log";
            report.missing(Feature::Memfd, names::said(&error), fix);
        }
    }
}

/// What of it there is beyond what Linux 5.15 has.
fn mount_level(version: (u32, u32, u32)) -> String {
    let known = [
        ((5, 19, 0), "id-mapped layers of overlays"),
        ((6, 3, 0), "id-mapped tmpfs"),
        ((6, 5, 0), "mounting beneath"),
        ((6, 8, 0), "statmount"),
        ((6, 15, 0), "open_tree_attr"),
    ];
    let there: Vec<&str> =
        known.iter().filter(|(since, _)| version >= *since).map(|(_, what)| *what).collect();
    if there.is_empty() { "that of Linux 5.15".into() } else { format!("with {}", there.join(", ")) }
}
