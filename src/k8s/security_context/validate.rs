//! What the API server says against a Pod, in its words and for the fields it names.

use super::model::{ContainerSecurityContext, PodSecurityContext};
use super::pod::{ContainerKind, PodSecurity};

/// Faults, each with its field.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn invalid(&mut self, field: &str, value: impl std::fmt::Display, what: &str) {
        self.0.push(format!("{field}: Invalid value: {value}: {what}"));
    }

    fn required(&mut self, field: &str, what: &str) {
        let what = if what.is_empty() { String::new() } else { format!(": {what}") };
        self.0.push(format!("{field}: Required value{what}"));
    }

    fn id(&mut self, field: &str, id: Option<i64>) {
        if let Some(id) = id.filter(|id| !(0..=0x7fff_ffff).contains(id)) {
            self.invalid(field, id, "must be between 0 and 2147483647, inclusive");
        }
    }

    fn one_of(&mut self, field: &str, value: Option<&str>, known: &[&str]) {
        if let Some(value) = value.filter(|value| !known.contains(value)) {
            let known: Vec<_> = known.iter().map(|word| format!("{word:?}")).collect();
            self.0.push(format!(
                "{field}: Unsupported value: {value:?}: supported values: {}",
                known.join(", ")
            ));
        }
    }

    fn profile(&mut self, field: &str, module: &str, kind: &str, file: Option<&str>) {
        let local = format!("{field}.localhostProfile");
        if kind.is_empty() {
            let name = field.rsplit('.').next().unwrap_or_default();
            self.required(&format!("{field}.type"), &format!("type is required when {name} is set"));
            return;
        }
        self.one_of(&format!("{field}.type"), Some(kind), &["Localhost", "RuntimeDefault", "Unconfined"]);
        match (kind == "Localhost", file) {
            (true, None | Some("")) => {
                self.required(&local, &format!("must be set when {module} type is Localhost"));
            }
            (true, Some(file)) if module == "seccomp" => {
                if file.starts_with('/') {
                    self.invalid(&local, format_args!("{file:?}"), "must be a relative path");
                }
                if file.split('/').any(|part| part == "..") {
                    self.invalid(&local, format_args!("{file:?}"), "must not contain '..'");
                }
            }
            (true, Some(name)) if name.trim() != name => {
                self.invalid(&local, format_args!("{name:?}"), "must not be padded with whitespace");
            }
            (false, Some(file)) => {
                let what = format!("can only be set when {module} type is Localhost");
                self.invalid(&local, format_args!("{file:?}"), &what);
            }
            _ => {}
        }
    }
}

pub(super) fn validate(pod: &PodSecurity) -> Vec<String> {
    let mut faults = Faults::default();
    if pod.containers.iter().all(|container| container.kind != ContainerKind::Regular) {
        faults.required("spec.containers", "");
    }
    pod_context(pod, &pod.security_context, &mut faults);
    let lists = [
        (ContainerKind::Init, "initContainers"),
        (ContainerKind::Regular, "containers"),
        (ContainerKind::Ephemeral, "ephemeralContainers"),
    ];
    for (kind, list) in lists {
        for (index, container) in pod.containers.iter().filter(|it| it.kind == kind).enumerate() {
            let field = format!("spec.{list}[{index}]");
            if container.name.is_empty() {
                faults.required(&format!("{field}.name"), "");
            }
            if pod.containers.iter().filter(|it| it.name == container.name).count() > 1 {
                faults.0.push(format!("{field}.name: Duplicate value: {:?}", container.name));
            }
            container_context(
                pod,
                &container.security_context,
                &format!("{field}.securityContext"),
                &mut faults,
            );
        }
    }
    faults.0
}

fn pod_context(pod: &PodSecurity, context: &PodSecurityContext, faults: &mut Faults) {
    let field = |name: &str| format!("spec.securityContext.{name}");
    if pod.host_users == Some(false) {
        let shared =
            [("hostNetwork", pod.host_network), ("hostPID", pod.host_pid), ("hostIPC", pod.host_ipc)];
        for (name, _) in shared.into_iter().filter(|(_, set)| *set) {
            faults.0.push(format!("spec.{name}: Forbidden: when `hostUsers` is false"));
        }
    }
    if pod.share_process_namespace && pod.host_pid {
        faults.invalid(
            "spec.shareProcessNamespace",
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    faults.id(&field("runAsUser"), context.run_as_user);
    faults.id(&field("runAsGroup"), context.run_as_group);
    faults.id(&field("fsGroup"), context.fs_group);
    for (index, gid) in context.supplemental_groups.iter().flatten().enumerate() {
        faults.id(&field(&format!("supplementalGroups[{index}]")), Some(*gid));
    }
    let word = |value: &Option<String>| value.clone();
    faults.one_of(
        &field("supplementalGroupsPolicy"),
        word(&context.supplemental_groups_policy).as_deref(),
        &["Merge", "Strict"],
    );
    faults.one_of(
        &field("fsGroupChangePolicy"),
        word(&context.fs_group_change_policy).as_deref(),
        &["Always", "OnRootMismatch"],
    );
    faults.one_of(
        &field("seLinuxChangePolicy"),
        word(&context.se_linux_change_policy).as_deref(),
        &["MountOption", "Recursive"],
    );
    let mut seen = Vec::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let field = field(&format!("sysctls[{index}].name"));
        let name = sysctl.name.replace('/', ".");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
        if name.is_empty() {
            faults.required(&field, "");
        } else if sysctl.name.len() > 253 || !sysctl.name.bytes().all(plain) {
            faults.invalid(
                &field,
                format_args!("{:?}", sysctl.name),
                "must have at most 253 characters of a sysctl's name",
            );
        } else if seen.contains(&name) {
            faults.0.push(format!("{field}: Duplicate value: {:?}", sysctl.name));
        } else {
            let shared = if name.starts_with("net.") {
                ("hostNetwork", pod.host_network)
            } else {
                ("hostIPC", pod.host_ipc)
            };
            if shared.1 {
                let what = format!("may not be specified when '{}' is true", shared.0);
                faults.invalid(&field, format_args!("{:?}", sysctl.name), &what);
            }
        }
        seen.push(name);
    }
    if let Some(profile) = &context.seccomp_profile {
        faults.profile(
            &field("seccompProfile"),
            "seccomp",
            &profile.r#type,
            profile.localhost_profile.as_deref(),
        );
    }
    if let Some(profile) = &context.app_armor_profile {
        faults.profile(
            &field("appArmorProfile"),
            "AppArmor",
            &profile.r#type,
            profile.localhost_profile.as_deref(),
        );
    }
}

fn container_context(pod: &PodSecurity, context: &ContainerSecurityContext, at: &str, faults: &mut Faults) {
    let field = |name: &str| format!("{at}.{name}");
    faults.id(&field("runAsUser"), context.run_as_user);
    faults.id(&field("runAsGroup"), context.run_as_group);
    faults.one_of(&field("procMount"), context.proc_mount.as_deref(), &["Default", "Unmasked"]);
    if context.proc_mount.as_deref() == Some("Unmasked") && pod.host_users != Some(false) {
        faults.invalid(&field("procMount"), "\"Unmasked\"", "`hostUsers` must be false to use `Unmasked`");
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let what = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            faults.invalid(&field("allowPrivilegeEscalation"), false, what);
        }
        // Just this spelling, as the server compares it.
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        if added.clone().any(|name| name == "CAP_SYS_ADMIN") {
            let what = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.invalid(&field("allowPrivilegeEscalation"), false, what);
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        faults.profile(
            &field("seccompProfile"),
            "seccomp",
            &profile.r#type,
            profile.localhost_profile.as_deref(),
        );
    }
    if let Some(profile) = &context.app_armor_profile {
        faults.profile(
            &field("appArmorProfile"),
            "AppArmor",
            &profile.r#type,
            profile.localhost_profile.as_deref(),
        );
    }
}
