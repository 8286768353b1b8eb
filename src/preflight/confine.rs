//! Filters, Landlock, security modules, packet filters.

use palisade_secfilter::landlock::Landlock;
use palisade_secfilter::lsm;

use super::{Feature, Preflight, Status};
use crate::sys;

/// What filters of this library answer with.
const NEEDED_ACTIONS: &[&str] = &["kill_process", "errno", "allow"];

pub(super) fn look(report: &mut Preflight) {
    seccomp(report);
    landlock(report);
    modules(report);
    nftables(report);
}

fn seccomp(report: &mut Preflight) {
    let list = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    report.seccomp_actions = list.split_ascii_whitespace().map(str::to_owned).collect();
    if !sys::is_there(libc::SYS_seccomp) {
        let fix = "run a kernel with CONFIG_SECCOMP_FILTER; in a container, one whose profile allows seccomp";
        return report.missing(Feature::Seccomp, "no seccomp", fix);
    }
    let has = |name: &&&str| report.seccomp_actions.iter().any(|action| action == **name);
    let lacking: Vec<&str> = NEEDED_ACTIONS.iter().filter(|name| !has(name)).copied().collect();
    if report.seccomp_actions.is_empty() {
        let seen = "the kernel's list of actions can't be read (kernel.seccomp.actions_avail)".into();
        report.push(Feature::Seccomp, Status::Unknown, seen, Some("mount -t proc proc /proc".into()));
    } else if lacking.is_empty() {
        report.available(Feature::Seccomp, report.seccomp_actions.join(" "));
    } else {
        report.missing(Feature::Seccomp, format!("no {}", lacking.join(", ")), "run Linux 5.15 or later");
    }
}

fn landlock(report: &mut Preflight) {
    report.landlock_abi = Landlock::abi().unwrap_or(0);
    let lacking: Vec<&str> = [
        (2, "moving between directories"),
        (3, "truncating"),
        (4, "TCP ports"),
        (5, "ioctl on devices"),
        (6, "scopes"),
    ]
    .iter()
    .filter(|(since, _)| report.landlock_abi < *since)
    .map(|(_, what)| *what)
    .collect();
    match (report.landlock_abi, &*lacking) {
        (0, _) => {
            let fix = "boot with lsm=landlock,… (the other modules kept), on a kernel with CONFIG_SECURITY_LANDLOCK";
            report.missing(Feature::Landlock, "not active", fix);
        }
        (abi, []) => report.available(Feature::Landlock, format!("ABI {abi}")),
        (abi, lacking) => {
            let seen = format!("ABI {abi}: no rules on {}", lacking.join(", "));
            report.push(Feature::Landlock, Status::Limited, seen, Some("run Linux 6.12 or later".into()));
        }
    }
}

fn modules(report: &mut Preflight) {
    let active = lsm::active();
    report.security_modules = active.as_deref().unwrap_or_default().to_vec();
    for (feature, name) in [(Feature::AppArmor, "apparmor"), (Feature::Selinux, "selinux")] {
        match &active {
            Ok(active) if active.iter().any(|module| module == name) => {
                report.available(feature, format!("active: {}", active.join(",")));
            }
            Ok(active) => {
                let fix =
                    format!("boot with lsm={name},… (the other modules kept), if labels of it are wanted");
                report.missing(feature, format!("not active: {}", active.join(",")), fix);
            }
            Err(error) => {
                let fix = "mount -t securityfs securityfs /sys/kernel/security".to_owned();
                report.push(feature, Status::Unknown, error.to_string(), Some(fix));
            }
        }
    }
}

fn nftables(report: &mut Preflight) {
    const FIX: &str = "modprobe nf_tables, on a kernel with CONFIG_NF_TABLES";
    if let Err(error) = sys::open_netfilter() {
        let seen = format!("socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER): {error}");
        return report.missing(Feature::Nftables, seen, FIX);
    }
    match rules() {
        Some(Ok(())) => report.available(Feature::Nftables, "in a network namespace of its own"),
        Some(Err(error)) => report.missing(Feature::Nftables, error, FIX),
        None => {
            let seen =
                "nfnetlink answers; nf_tables itself is tried by a privileged caller, with the feature `net`";
            report.push(Feature::Nftables, Status::Unknown, seen.into(), None);
        }
    }
}

/// Reads the rules of a new network namespace; `None` where this can't be tried.
#[cfg(feature = "net")]
fn rules() -> Option<Result<(), String>> {
    let netns = palisade_net::Netns::create().ok()?;
    Some(netns.ruleset().map(drop).map_err(|error| error.to_string()))
}

#[cfg(not(feature = "net"))]
fn rules() -> Option<Result<(), String>> {
    None
}
