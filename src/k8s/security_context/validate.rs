//! What the API server says against a Pod, in its words and for the fields it names.
//!
//! Where the server quotes a whole object, in the notation of its own language, that object is JSON here.

use serde::Serialize;

use super::faults::Faults;
use super::model::{AppArmorProfile, ContainerSecurityContext, PodSecurityContext, SeccompProfile, Sysctl};
use super::pod::{Container, ContainerKind, PodSecurity};

const MOST_PATH: usize = 4095;
const MOST_SYSCTL: usize = 253;
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_NAME: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

impl Faults {
    fn object(&mut self, field: &str, object: &impl Serialize, what: &str) {
        let text = serde_json::to_string(object).unwrap_or_default();
        self.invalid(field, text, what);
    }

    fn seccomp(&mut self, field: &str, profile: Option<&SeccompProfile>) {
        let Some(profile) = profile else { return };
        if profile.r#type.is_empty() {
            self.required(&format!("{field}.type"), "type is required when seccompProfile is set");
        } else {
            self.one_of(&format!("{field}.type"), Some(&profile.r#type), PROFILES);
        }
        let field = format!("{field}.localhostProfile");
        match (profile.r#type == "Localhost", profile.localhost_profile.as_deref()) {
            (true, None) => self.required(&field, "must be set when seccomp type is Localhost"),
            (true, Some(file)) => self.descending(&field, file),
            (false, Some(_)) => {
                self.object(&field, profile, "can only be set when seccomp type is Localhost");
            }
            (false, None) => {}
        }
    }

    fn app_armor(&mut self, field: &str, profile: Option<&AppArmorProfile>) {
        let Some(profile) = profile else { return };
        let local = format!("{field}.localhostProfile");
        match (profile.r#type.as_str(), profile.localhost_profile.as_deref()) {
            ("", _) => {
                self.required(&format!("{field}.type"), "type is required when appArmorProfile is set");
            }
            ("Localhost", None | Some("")) => {
                self.required(&local, "must be set when AppArmor type is Localhost");
            }
            ("Localhost", Some(name)) => {
                if name.trim() != name {
                    self.invalid(&local, format_args!("{name:?}"), "must not be padded with whitespace");
                }
                if name.len() > MOST_PATH {
                    self.too_long(&local, MOST_PATH);
                }
            }
            ("RuntimeDefault" | "Unconfined", Some(name)) => {
                let what = "can only be set when AppArmor type is Localhost";
                self.invalid(&local, format_args!("{name:?}"), what);
            }
            (kind, _) => self.one_of(&format!("{field}.type"), Some(kind), PROFILES),
        }
    }

    fn sysctls(&mut self, pod: &PodSecurity, sysctls: &[Sysctl]) {
        for (index, sysctl) in sysctls.iter().enumerate() {
            let field = format!("spec.securityContext.sysctls[{index}].name");
            let quoted = format!("{:?}", sysctl.name);
            if sysctl.name.is_empty() {
                self.required(&field, "");
            } else if !is_sysctl(&sysctl.name) {
                self.invalid(&field, &quoted, SYSCTL_NAME);
            } else if sysctls[..index].iter().any(|known| known.name == sysctl.name) {
                // Just this spelling, as the server compares it.
                self.duplicate(&field, &sysctl.name);
            }
            let shared = match namespace(&sysctl.name) {
                Some("net") if pod.host_network => "hostNetwork",
                Some("ipc") if pod.host_ipc => "hostIPC",
                _ => continue,
            };
            self.invalid(&field, &quoted, &format!("may not be specified when '{shared}' is true"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let is_part = |part: &str| {
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.iter().all(|b| inner(b) || b"-_".contains(b))
            && bytes.first().is_some_and(inner)
            && bytes.last().is_some_and(inner)
    };
    name.len() <= MOST_SYSCTL && name.split(['.', '/']).all(is_part)
}

/// The kind of namespace that a parameter is of, as far as the server knows. In sysctl(8)'s other spelling, with slashes
/// between, a dot is part of a name.
fn namespace(name: &str) -> Option<&'static str> {
    let slashes = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/');
    let name = if slashes { name.replace('/', ".") } else { name.to_owned() };
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    if ipc || name == "kernel.sem" {
        return Some("ipc");
    }
    name.starts_with("net.").then_some("net")
}

pub(super) fn validate(pod: &PodSecurity, faults: &mut Faults) {
    if pod.containers.iter().all(|container| container.kind != ContainerKind::Regular) {
        faults.required("spec.containers", "");
    }
    let lists = [
        (ContainerKind::Regular, "containers"),
        (ContainerKind::Init, "initContainers"),
        (ContainerKind::Ephemeral, "ephemeralContainers"),
    ];
    // A name that occurs twice is the fault of the later list.
    let mut names: Vec<&str> = Vec::new();
    for (kind, list) in lists {
        for (index, container) in pod.containers.iter().filter(|it| it.kind == kind).enumerate() {
            let field = format!("spec.{list}[{index}]");
            faults.label(&format!("{field}.name"), &container.name);
            if names.contains(&container.name.as_str()) {
                faults.duplicate(&format!("{field}.name"), &container.name);
            }
            names.push(&container.name);
            container_context(pod, container, &format!("{field}.securityContext"), faults);
            let mounts = container.volume_mounts.iter().enumerate();
            for (index, mount) in mounts.filter(|_| kind == ContainerKind::Ephemeral) {
                let what = "cannot be set for an Ephemeral Container";
                if !mount.sub_path.as_os_str().is_empty() {
                    faults.forbidden(&format!("{field}.volumeMounts[{index}].subPath"), what);
                }
                if !mount.sub_path_expr.is_empty() {
                    faults.forbidden(&format!("{field}.volumeMounts[{index}].subPathExpr"), what);
                }
            }
        }
    }
    pod_context(pod, &pod.security_context, faults);
}

fn pod_context(pod: &PodSecurity, context: &PodSecurityContext, faults: &mut Faults) {
    let field = |name: &str| format!("spec.securityContext.{name}");
    faults.id(&field("fsGroup"), context.fs_group);
    faults.id(&field("runAsUser"), context.run_as_user);
    faults.id(&field("runAsGroup"), context.run_as_group);
    for (index, gid) in context.supplemental_groups.iter().flatten().enumerate() {
        faults.id(&field(&format!("supplementalGroups[{index}]")), Some(*gid));
    }
    if pod.share_process_namespace && pod.host_pid {
        let what = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.invalid(&field("shareProcessNamespace"), true, what);
    }
    faults.sysctls(pod, context.sysctls.as_deref().unwrap_or_default());
    let words: [(&str, &Option<String>, &[&str]); 3] = [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, &["MountOption", "Recursive"]),
    ];
    let [change, others @ ..] = words;
    faults.one_of(&field(change.0), change.1.as_deref(), change.2);
    faults.seccomp(&field("seccompProfile"), context.seccomp_profile.as_ref());
    faults.app_armor(&field("appArmorProfile"), context.app_armor_profile.as_ref());
    for (name, value, known) in others {
        faults.one_of(&field(name), value.as_deref(), known);
    }
    if pod.host_users == Some(false) {
        let shared =
            [("hostNetwork", pod.host_network), ("hostPID", pod.host_pid), ("hostIPC", pod.host_ipc)];
        for (name, _) in shared.into_iter().filter(|(_, set)| *set) {
            faults.forbidden(&format!("spec.{name}"), "when `hostUsers` is false");
        }
    }
    match pod.os.as_deref() {
        Some("") => faults.required("spec.os.name", "cannot be empty"),
        os => faults.one_of("spec.os", os, &["linux", "windows"]),
    }
    if pod.os.as_deref() == Some("linux") && context.windows_options.is_some() {
        faults.forbidden(&field("windowsOptions"), "windows options cannot be set for a linux pod");
    }
}

fn container_context(pod: &PodSecurity, container: &Container, at: &str, faults: &mut Faults) {
    let context: &ContainerSecurityContext = &container.security_context;
    let field = |name: &str| format!("{at}.{name}");
    faults.id(&field("runAsUser"), context.run_as_user);
    faults.id(&field("runAsGroup"), context.run_as_group);
    faults.one_of(&field("procMount"), context.proc_mount.as_deref(), &["Default", "Unmasked"]);
    if context.proc_mount.as_deref() == Some("Unmasked") && pod.host_users != Some(false) {
        faults.invalid(&field("procMount"), "\"Unmasked\"", "`hostUsers` must be false to use `Unmasked`");
    }
    faults.seccomp(&field("seccompProfile"), context.seccomp_profile.as_ref());
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let what = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            faults.object(at, context, what);
        }
        // Just this spelling, as the server compares it.
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        for _ in added.filter(|name| *name == "CAP_SYS_ADMIN") {
            let what = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.object(at, context, what);
        }
    }
    faults.app_armor(&field("appArmorProfile"), context.app_armor_profile.as_ref());
    if pod.os.as_deref() == Some("linux") && context.windows_options.is_some() {
        faults.forbidden(&field("windowsOptions"), "windows options cannot be set for a linux pod");
    }
}
