//! Pod Security Standards: what a Pod may ask for.

use std::fmt;

use super::pod::{Container, PodSecurity};

/// A Pod Security Standard; see [its definition](https://kubernetes.io/docs/concepts/security/pod-security-standards/).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Standard {
    /// Nothing is refused.
    Privileged,
    /// Known ways out of a container are refused.
    Baseline,
    /// What is known as good practice is required.
    Restricted,
}

/// What a Pod asks for against a standard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The control, as the standard calls it.
    pub control: &'static str,
    /// What about it: the container and the field.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.control, self.detail)
    }
}

const BASELINE_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];
const SELINUX_TYPES: &[&str] =
    &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const RESTRICTED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

struct Check<'a> {
    pod: &'a PodSecurity,
    found: Vec<Violation>,
}

impl PodSecurity {
    /// All that the Pod asks for against a standard; empty: it may run.
    pub fn check(&self, standard: Standard) -> Vec<Violation> {
        let mut check = Check { pod: self, found: Vec::new() };
        if standard != Standard::Privileged {
            check.baseline();
        }
        if standard == Standard::Restricted {
            check.restricted();
        }
        check.found
    }
}

impl Check<'_> {
    fn add(&mut self, control: &'static str, detail: impl Into<String>) {
        self.found.push(Violation { control, detail: detail.into() });
    }

    fn each(&mut self, control: &'static str, find: impl Fn(&Container) -> Option<String>) {
        let found: Vec<String> = self.pod.containers.iter().filter_map(find).collect();
        found.into_iter().for_each(|detail| self.add(control, detail));
    }

    fn baseline(&mut self) {
        let pod = self.pod;
        let shared =
            [("hostNetwork", pod.host_network), ("hostPID", pod.host_pid), ("hostIPC", pod.host_ipc)];
        let shared: Vec<_> =
            shared.iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true")).collect();
        if !shared.is_empty() {
            self.add("host namespaces", shared.join(", "));
        }
        self.each("privileged", |container| {
            let set = container.security_context.privileged == Some(true);
            set.then(|| {
                format!("container {:?} must not set securityContext.privileged=true", container.name)
            })
        });
        self.each("non-default capabilities", |container| {
            let more = added(container).filter(|name| !BASELINE_CAPABILITIES.contains(&bare(name)));
            let more: Vec<_> = more.map(|name| format!("{name:?}")).collect();
            (!more.is_empty()).then(|| {
                let more = more.join(", ");
                format!(
                    "container {:?} must not include {more} in securityContext.capabilities.add",
                    container.name
                )
            })
        });
        for (name, _) in pod.volumes.iter().filter(|(_, kind)| kind == "hostPath") {
            self.add("hostPath volumes", format!("volume {name:?}"));
        }
        self.each("hostPort", |container| {
            let ports: Vec<_> = container.host_ports.iter().map(u16::to_string).collect();
            (!ports.is_empty())
                .then(|| format!("container {:?} uses hostPort {}", container.name, ports.join(", ")))
        });
        let context = &pod.security_context;
        if context.app_armor_profile.as_ref().is_some_and(|profile| profile.r#type == "Unconfined") {
            self.add(
                "forbidden AppArmor profile",
                "pod must not set AppArmor profile type to \"Unconfined\"",
            );
        }
        self.each("forbidden AppArmor profile", |container| {
            let profile = container.security_context.app_armor_profile.as_ref()?;
            (profile.r#type == "Unconfined").then(|| {
                format!("container {:?} must not set AppArmor profile type to \"Unconfined\"", container.name)
            })
        });
        let label = |options: Option<&super::SeLinuxOptions>| {
            let options = options?;
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            let kind = text(&options.r#type);
            let fine = SELINUX_TYPES.contains(&kind.as_str())
                && text(&options.user).is_empty()
                && text(&options.role).is_empty();
            (!fine).then(|| {
                format!("type {kind:?}, user {:?}, role {:?}", text(&options.user), text(&options.role))
            })
        };
        if let Some(wrong) = label(context.se_linux_options.as_ref()) {
            self.add("seLinuxOptions", format!("pod set forbidden securityContext.seLinuxOptions: {wrong}"));
        }
        self.each("seLinuxOptions", |container| {
            let wrong = label(container.security_context.se_linux_options.as_ref())?;
            Some(format!(
                "container {:?} set forbidden securityContext.seLinuxOptions: {wrong}",
                container.name
            ))
        });
        self.each("procMount", |container| {
            let mount =
                container.security_context.proc_mount.as_deref().filter(|mount| *mount != "Default")?;
            Some(format!(
                "container {:?} must not set securityContext.procMount to {mount:?}",
                container.name
            ))
        });
        let unconfined =
            |kind: Option<&super::SeccompProfile>| kind.is_some_and(|it| it.r#type == "Unconfined");
        if unconfined(context.seccomp_profile.as_ref()) {
            self.add(
                "seccompProfile",
                "pod must not set securityContext.seccompProfile.type to \"Unconfined\"",
            );
        }
        self.each("seccompProfile", |container| {
            unconfined(container.security_context.seccomp_profile.as_ref()).then(|| {
                let name = &container.name;
                format!(
                    "container {name:?} must not set securityContext.seccompProfile.type to \"Unconfined\""
                )
            })
        });
        let names = context.sysctls.iter().flatten().map(|sysctl| sysctl.name.replace('/', "."));
        let unsafe_ones: Vec<_> = names.filter(|name| !SAFE_SYSCTLS.contains(&name.as_str())).collect();
        if !unsafe_ones.is_empty() {
            self.add("forbidden sysctls", unsafe_ones.join(", "));
        }
    }

    fn restricted(&mut self) {
        let (pod, context) = (self.pod, &self.pod.security_context);
        for (name, kind) in
            pod.volumes.iter().filter(|(_, kind)| !RESTRICTED_VOLUMES.contains(&kind.as_str()))
        {
            self.add(
                "restricted volume types",
                format!("volume {name:?} uses restricted volume type {kind:?}"),
            );
        }
        self.each("allowPrivilegeEscalation != false", |container| {
            let fine = container.security_context.allow_privilege_escalation == Some(false);
            (!fine).then(|| {
                format!(
                    "container {:?} must set securityContext.allowPrivilegeEscalation=false",
                    container.name
                )
            })
        });
        self.each("unrestricted capabilities", |container| {
            let dropped =
                container.security_context.capabilities.iter().flat_map(|it| it.drop.iter().flatten());
            let all = dropped.clone().any(|name| name == "ALL");
            (!all).then(|| {
                format!("container {:?} must set securityContext.capabilities.drop=[\"ALL\"]", container.name)
            })
        });
        self.each("unrestricted capabilities", |container| {
            let more: Vec<_> = added(container)
                .filter(|name| bare(name) != "NET_BIND_SERVICE")
                .map(|name| format!("{name:?}"))
                .collect();
            (!more.is_empty()).then(|| {
                let more = more.join(", ");
                format!(
                    "container {:?} must not include {more} in securityContext.capabilities.add",
                    container.name
                )
            })
        });
        // With a user namespace of the Pod's, its root is nobody of the node's.
        if pod.host_users != Some(false) {
            self.each("runAsNonRoot != true", |container| {
                let own = container.security_context.run_as_non_root;
                let fine = own.or(context.run_as_non_root) == Some(true);
                (!fine).then(|| {
                    format!(
                        "pod or container {:?} must set securityContext.runAsNonRoot=true",
                        container.name
                    )
                })
            });
            if context.run_as_user == Some(0) {
                self.add("runAsUser=0", "pod must not set runAsUser=0");
            }
            self.each("runAsUser=0", |container| {
                let root = container.security_context.run_as_user == Some(0);
                root.then(|| format!("container {:?} must not set runAsUser=0", container.name))
            });
        }
        self.each("seccompProfile", |container| {
            let own = container.security_context.seccomp_profile.as_ref();
            own.or(context.seccomp_profile.as_ref()).is_none().then(|| {
                let name = &container.name;
                format!(
                    "pod or container {name:?} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
                     \"Localhost\""
                )
            })
        });
    }
}

fn added(container: &Container) -> impl Iterator<Item = &String> {
    container.security_context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten())
}

/// The name as the standard has it; the API compares just that, and so a prefix is another name, but for `CAP_`.
fn bare(name: &str) -> &str {
    name.strip_prefix("CAP_").unwrap_or(name)
}
