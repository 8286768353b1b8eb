//! Pod Security Standards: what a Pod may ask for, in the words of the admission of Kubernetes 1.34.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::model::{SeLinuxOptions, SeccompProfile};
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

/// What a Pod asks for against a control of a standard: one for each control, with all containers in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The control, as the standard calls it.
    pub control: &'static str,
    /// What about it: the containers and the field.
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
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
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

impl PodSecurity {
    /// All that the Pod asks for against a standard; empty: it may run. Names of capabilities and kernel parameters are
    /// compared as they are written, as the admission does: `CAP_CHOWN` is none that it knows.
    pub fn check(&self, standard: Standard) -> Vec<Violation> {
        let mut check = Check { pod: self, found: Vec::new() };
        if standard != Standard::Privileged {
            check.baseline(standard == Standard::Restricted);
        }
        if standard == Standard::Restricted {
            check.restricted();
        }
        check.found
    }
}

struct Check<'a> {
    pod: &'a PodSecurity,
    found: Vec<Violation>,
}

fn join(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let quoted: Vec<_> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    quoted.join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), join(containers))
}

impl<'a> Check<'a> {
    fn add(&mut self, control: &'static str, detail: impl Into<String>) {
        self.found.push(Violation { control, detail: detail.into() });
    }

    /// Containers with something bad, and what that is: sorted, once each.
    fn bad<T: Ord>(&self, find: impl Fn(&'a Container, &mut Vec<T>) -> bool) -> (Vec<&'a str>, BTreeSet<T>) {
        let mut values = Vec::new();
        let containers = self.pod.containers.iter().filter(|container| find(container, &mut values));
        let names = containers.map(|container| container.name.as_str()).collect();
        (names, values.into_iter().collect())
    }

    /// Containers for which something holds.
    fn those(&self, holds: impl Fn(&'a Container) -> bool) -> Vec<&'a str> {
        self.bad::<()>(|container, _| holds(container)).0
    }

    /// What a type may not be, in the Pod or in containers: who sets it, and to what.
    fn setters(
        &self,
        pod: Option<&'a str>,
        of: impl Fn(&'a Container) -> Option<&'a str>,
        fine: impl Fn(&str) -> bool,
    ) -> (Vec<String>, BTreeSet<&'a str>) {
        let (containers, mut values) = self.bad(|container, values| {
            let bad = of(container).filter(|value| !fine(value));
            values.extend(bad);
            bad.is_some()
        });
        let bad = pod.filter(|value| !fine(value));
        values.extend(bad);
        (who(bad.is_some(), &containers), values)
    }

    /// Lists that are the restricted standard's in place of its baseline's are left out with it.
    fn baseline(&mut self, restricted: bool) {
        let (pod, context) = (self.pod, &self.pod.security_context);
        let unconfined = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
        let (setters, values) = self.setters(
            context.app_armor_profile.as_ref().map(|profile| &*profile.r#type),
            |container| container.security_context.app_armor_profile.as_ref().map(|profile| &*profile.r#type),
            unconfined,
        );
        if !setters.is_empty() {
            let control =
                if values.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
            let detail =
                format!("{} must not set AppArmor profile type to {}", setters.join(" and "), join(values));
            self.add(control, detail);
        }
        if !restricted {
            self.capabilities("non-default capabilities", BASELINE_CAPABILITIES, &[]);
        }
        let shared =
            [("hostNetwork", pod.host_network), ("hostPID", pod.host_pid), ("hostIPC", pod.host_ipc)];
        let shared: Vec<_> =
            shared.iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true")).collect();
        if !shared.is_empty() {
            self.add("host namespaces", shared.join(", "));
        }
        let paths: Vec<_> = pod.volumes.iter().filter(|volume| volume.source.kind() == "hostPath").collect();
        if !paths.is_empty() && !restricted {
            let names = join(paths.iter().map(|volume| &volume.name));
            self.add("hostPath volumes", format!("{} {names}", plural("volume", "volumes", paths.len())));
        }
        let (containers, ports) = self.bad(|container, ports: &mut Vec<String>| {
            ports.extend(container.host_ports.iter().map(u16::to_string));
            !container.host_ports.is_empty()
        });
        if !containers.is_empty() {
            let uses = plural("uses", "use", containers.len());
            let kind = plural("hostPort", "hostPorts", ports.len());
            let ports: Vec<_> = ports.into_iter().collect();
            self.add("hostPort", format!("{} {uses} {kind} {}", named(&containers), ports.join(", ")));
        }
        let (containers, hosts) = self.bad(|container, hosts: &mut Vec<&str>| {
            hosts.extend(container.probe_hosts.iter().map(String::as_str));
            !container.probe_hosts.is_empty()
        });
        if !containers.is_empty() {
            // It sorts the containers, here only.
            let sorted: Vec<_> = containers.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let uses = plural("uses", "use", sorted.len());
            let kind = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
            self.add("probe or lifecycle host", format!("{} {uses} {kind} {}", named(&sorted), join(hosts)));
        }
        let privileged = self.those(|container| container.security_context.privileged == Some(true));
        if !privileged.is_empty() {
            let who = named(&privileged);
            self.add("privileged", format!("{who} must not set securityContext.privileged=true"));
        }
        let mount = |container: &'a Container| container.security_context.proc_mount.as_deref();
        let (containers, values) = self.bad(|container, values| {
            let bad = mount(container).filter(|mount| *mount != "Default");
            values.extend(bad);
            bad.is_some()
        });
        if !containers.is_empty() {
            let (who, values) = (named(&containers), join(values));
            self.add("procMount", format!("{who} must not set securityContext.procMount to {values}"));
        }
        self.labels();
        if !restricted {
            self.seccomp();
        }
        let sysctls = context.sysctls.iter().flatten().map(|sysctl| sysctl.name.as_str());
        let forbidden: Vec<_> = sysctls.filter(|name| !SAFE_SYSCTLS.contains(name)).collect();
        if !forbidden.is_empty() {
            self.add("forbidden sysctls", forbidden.join(", "));
        }
        let process = |options: Option<&Value>| {
            options.and_then(|options| options.get("hostProcess")).and_then(Value::as_bool) == Some(true)
        };
        let containers = self.those(|container| process(container.security_context.windows_options.as_ref()));
        let setters = who(process(context.windows_options.as_ref()), &containers);
        if !setters.is_empty() {
            let who = setters.join(" and ");
            self.add(
                "hostProcess",
                format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
            );
        }
    }

    /// Capabilities that are added and not allowed, after what else is wrong with them.
    fn capabilities(&mut self, control: &'static str, allowed: &[&str], before: &[String]) {
        let (containers, names) = self.bad(|container, names| {
            let capabilities = container.security_context.capabilities.iter();
            let added = capabilities.flat_map(|it| it.add.iter().flatten()).map(String::as_str);
            let before = names.len();
            names.extend(added.filter(|name| !allowed.contains(name)));
            names.len() > before
        });
        let mut details = before.to_vec();
        if !containers.is_empty() {
            let (who, names) = (named(&containers), join(names));
            details.push(format!("{who} must not include {names} in securityContext.capabilities.add"));
        }
        if !details.is_empty() {
            self.add(control, details.join("; "));
        }
    }

    fn labels(&mut self) {
        let text = |part: &'a Option<String>| part.as_deref().unwrap_or_default();
        let bad = |options: Option<&'a SeLinuxOptions>, values: &mut Vec<(u8, &'a str)>| {
            let Some(options) = options else { return false };
            let before = values.len();
            let kind = text(&options.r#type);
            values.extend(Some((0, kind)).filter(|_| !SELINUX_TYPES.contains(&kind)));
            values.extend(Some((1, "")).filter(|_| !text(&options.user).is_empty()));
            values.extend(Some((2, "")).filter(|_| !text(&options.role).is_empty()));
            values.len() > before
        };
        let (containers, mut values) =
            self.bad(|container, values| bad(container.security_context.se_linux_options.as_ref(), values));
        let mut of_pod = Vec::new();
        let pod = bad(self.pod.security_context.se_linux_options.as_ref(), &mut of_pod);
        values.extend(of_pod);
        let setters = who(pod, &containers);
        if setters.is_empty() {
            return;
        }
        let types: Vec<_> = values.iter().filter(|(what, _)| *what == 0).map(|(_, kind)| kind).collect();
        let mut data = Vec::new();
        if !types.is_empty() {
            data.push(format!("{} {}", plural("type", "types", types.len()), join(&types)));
        }
        for (what, says) in [(1, "user may not be set"), (2, "role may not be set")] {
            if values.contains(&(what, "")) {
                data.push(says.to_owned());
            }
        }
        let (who, data) = (setters.join(" and "), data.join("; "));
        self.add("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {data}"));
    }

    /// Whether a filter is set to what it may not be.
    fn seccomp(&mut self) -> bool {
        let of = |profile: Option<&'a SeccompProfile>| profile.map(|profile| &*profile.r#type);
        let (setters, values) = self.setters(
            of(self.pod.security_context.seccomp_profile.as_ref()),
            |container| of(container.security_context.seccomp_profile.as_ref()),
            |kind| matches!(kind, "RuntimeDefault" | "Localhost"),
        );
        if setters.is_empty() {
            return false;
        }
        let (who, values) = (setters.join(" and "), join(values));
        self.add(
            "seccompProfile",
            format!("{who} must not set securityContext.seccompProfile.type to {values}"),
        );
        true
    }

    fn restricted(&mut self) {
        let (pod, context) = (self.pod, &self.pod.security_context);
        let allowing =
            self.those(|container| container.security_context.allow_privilege_escalation != Some(false));
        if !allowing.is_empty() {
            let who = named(&allowing);
            self.add(
                "allowPrivilegeEscalation != false",
                format!("{who} must set securityContext.allowPrivilegeEscalation=false"),
            );
        }
        let keeping = self.those(|container| {
            let mut dropped =
                container.security_context.capabilities.iter().flat_map(|it| it.drop.iter().flatten());
            !dropped.any(|name| name == "ALL")
        });
        let missing = format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping));
        let missing: &[String] = if keeping.is_empty() { &[] } else { &[missing] };
        self.capabilities("unrestricted capabilities", &["NET_BIND_SERVICE"], missing);

        let kind = |volume: &&'a crate::k8s::Volume| volume.source.kind();
        let volumes: Vec<_> =
            pod.volumes.iter().filter(|volume| !RESTRICTED_VOLUMES.contains(&kind(volume))).collect();
        if !volumes.is_empty() {
            let kinds: BTreeSet<_> = volumes.iter().map(kind).collect();
            let names = join(volumes.iter().map(|volume| &volume.name));
            let (volume, uses) =
                (plural("volume", "volumes", volumes.len()), plural("uses", "use", volumes.len()));
            let types = plural("restricted volume type", "restricted volume types", kinds.len());
            self.add("restricted volume types", format!("{volume} {names} {uses} {types} {}", join(kinds)));
        }
        // With a user namespace of the Pod's, its root is nobody of the node's.
        if pod.host_users != Some(false) {
            self.root();
        }
        if self.seccomp() {
            return;
        }
        let without = self.those(|container| {
            let own = container.security_context.seccomp_profile.as_ref();
            own.or(context.seccomp_profile.as_ref()).is_none()
        });
        if !without.is_empty() {
            let who = named(&without);
            self.add(
                "seccompProfile",
                format!(
                    "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
                ),
            );
        }
    }

    fn root(&mut self) {
        let context = &self.pod.security_context;
        let non_root = |container: &Container| container.security_context.run_as_non_root;
        let setters = who(
            context.run_as_non_root == Some(false),
            &self.those(|container| non_root(container) == Some(false)),
        );
        let without =
            self.those(|container| non_root(container).is_none() && context.run_as_non_root != Some(true));
        if !setters.is_empty() {
            let who = setters.join(" and ");
            self.add(
                "runAsNonRoot != true",
                format!("{who} must not set securityContext.runAsNonRoot=false"),
            );
        } else if !without.is_empty() {
            let who = named(&without);
            self.add(
                "runAsNonRoot != true",
                format!("pod or {who} must set securityContext.runAsNonRoot=true"),
            );
        }
        let setters = who(
            context.run_as_user == Some(0),
            &self.those(|container| container.security_context.run_as_user == Some(0)),
        );
        if !setters.is_empty() {
            self.add("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and ")));
        }
    }
}

/// The Pod, and containers.
fn who(pod: bool, containers: &[&str]) -> Vec<String> {
    let pod = pod.then(|| "pod".to_owned());
    let containers = (!containers.is_empty()).then(|| named(containers));
    pod.into_iter().chain(containers).collect()
}
