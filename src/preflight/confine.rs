//! Filters, Landlock, security modules, packet filters.

use palisade_secfilter::landlock::Landlock;
use palisade_secfilter::lsm;

use super::{Feature, Preflight, Status};
#[cfg(feature = "net")]
use crate::network::{Rules, try_rules};
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
                let seen = format!("active: {}", active.join(","));
                match std::fs::read_to_string("/sys/fs/selinux/enforce") {
                    // Labels are taken, and what the policy denies is allowed.
                    Ok(mode) if feature == Feature::Selinux && mode.trim() == "0" => {
                        let fix = Some("setenforce 1".to_owned());
                        report.push(feature, Status::Limited, format!("permissive; {seen}"), fix);
                    }
                    _ => report.available(feature, seen),
                }
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

/// Without the feature `net` it is as much as can be asked, and as much as anybody here needs.
#[cfg(not(feature = "net"))]
fn nftables(report: &mut Preflight) {
    match sys::open_netfilter() {
        Ok(_) => {
            let seen = "nfnetlink answers; nf_tables itself is tried with the feature `net`".into();
            report.push(Feature::Nftables, Status::Unknown, seen, None);
        }
        Err(error) => {
            let seen = format!("socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER): {error}");
            report.missing(Feature::Nftables, seen, "modprobe nfnetlink nf_tables");
        }
    }
}

#[cfg(feature = "net")]
fn nftables(report: &mut Preflight) {
    let told = |error: &crate::Error| {
        let fix = error.hint().unwrap_or("run a kernel with CONFIG_NF_TABLES").to_owned();
        (super::names::said(error), fix)
    };
    match try_rules() {
        Ok(Rules::Bridge) => report.available(Feature::Nftables, "egress rules, and a bridge with its rules"),
        Ok(Rules::Egress) => report.available(
            Feature::Nftables,
            "egress rules in a user namespace of its own; a bridge is for privileged callers",
        ),
        Ok(Rules::NoBridge(error)) => {
            let (seen, fix) = told(&error);
            report.push(Feature::Nftables, Status::Limited, format!("egress rules alone: {seen}"), Some(fix));
        }
        Ok(Rules::Untried(error)) => {
            let seen = format!("no network namespace to try it in: {}", super::names::said(&error));
            report.push(Feature::Nftables, Status::Unknown, seen, None);
        }
        Err(error) => {
            let (seen, fix) = told(&error);
            report.missing(Feature::Nftables, seen, fix);
        }
    }
}
