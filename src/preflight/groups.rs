//! Control groups: the hierarchy, the delegation, the controllers.

use palisade_cgroup::{Cgroup, Controller, Limits, Mode};

use super::{Feature, Preflight, Status};

/// Those that limits are mostly wanted of.
const USUAL: [Controller; 5] =
    [Controller::CPU, Controller::MEMORY, Controller::PIDS, Controller::IO, Controller::CPUSET];

const V2_ALONE: &str = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all, or with another init mount cgroup2 alone on \
                        /sys/fs/cgroup";

#[cfg(feature = "serde")]
pub(super) fn name_of(mode: Mode) -> &'static str {
    match mode {
        Mode::V2 => "v2",
        Mode::Hybrid => "hybrid",
        Mode::V1 => "v1",
        Mode::Absent => "absent",
        _ => "unknown",
    }
}

pub(super) fn look(report: &mut Preflight) {
    report.cgroup_mode = Mode::detect().ok();
    match report.cgroup_mode {
        Some(Mode::V2) => report.available(Feature::Cgroup, "v2 alone"),
        Some(Mode::Hybrid) => {
            let seen = "v2 beside v1, which holds controllers".into();
            report.push(Feature::Cgroup, Status::Limited, seen, Some(V2_ALONE.into()));
        }
        Some(Mode::V1) => {
            report.missing(Feature::Cgroup, "v1 alone, through which nothing is limited", V2_ALONE);
        }
        Some(Mode::Absent) => {
            let fix = "mount -t cgroup2 cgroup2 /sys/fs/cgroup; a container needs a writable cgroup mount of its own";
            report.missing(Feature::Cgroup, "none is mounted", fix);
        }
        _ => report.push(Feature::Cgroup, Status::Unknown, "the mount table can't be read".into(), None),
    }

    let controllers = delegation(report);
    for controller in USUAL {
        let feature = Feature::Controller(controller.name().into());
        match &controllers {
            None => report.push(feature, Status::Unknown, "no cgroup to look in".into(), None),
            Some(there) if there.contains(&controller) => report.available(feature, "can be had"),
            Some(_) => {
                let everywhere = Cgroup::root().and_then(|root| root.controllers()).unwrap_or_default();
                let fix = if everywhere.contains(&controller) {
                    let name = controller.name();
                    format!(
                        "echo +{name} into the cgroup.subtree_control of each group above, from the root; with systemd: \
                         systemctl edit user@.service, [Service] Delegate=cpu cpuset io memory pids"
                    )
                } else {
                    V2_ALONE.to_owned()
                };
                report.missing(feature, "not in the caller's part of the hierarchy", fix);
            }
        }
    }
    let names = controllers.iter().flat_map(|there| there.iter().map(|one| one.name().to_owned()));
    report.controllers = names.collect();
}

/// The delegated group's controllers; a group is made in it, and removed.
fn delegation(report: &mut Preflight) -> Option<palisade_cgroup::Controllers> {
    let group = Cgroup::delegated();
    let tried = group.as_ref().map_err(said).and_then(|group| {
        let made = group.create_unique("palisade-preflight", &Limits::new()).map_err(|error| said(&error))?;
        made.remove().map_err(|error| said(&error))
    });
    match (tried, &group) {
        (Ok(()), Ok(group)) => report.available(Feature::Delegation, group.path().display().to_string()),
        (Err((seen, fix)), _) => report.push(Feature::Delegation, Status::Missing, seen, fix),
        (Ok(()), Err(_)) => {}
    }
    // What could be had there is of interest also where there is no delegation.
    group.or_else(|_| Cgroup::own()).and_then(|group| group.controllers()).ok()
}

fn said(error: &palisade_cgroup::Error) -> (String, Option<String>) {
    let fix = error.remedy().map(str::to_owned);
    let seen = error.to_string();
    let seen = fix.as_ref().map_or(seen.clone(), |fix| seen.replace(&format!(" ({fix})"), ""));
    (seen, fix)
}
