//! A Pod, as far as its security goes.

use serde::Deserialize;
use serde_json::Value;

use super::faults::Faults;
use super::model::{
    AppArmorProfile, Capabilities, ContainerSecurityContext, PodSecurityContext, SeLinuxOptions,
    SeccompProfile,
};
use super::validate::validate;
use crate::error::Result;
use crate::k8s::Document;
use crate::k8s::volumes::{self, RawMount, RawVolume, Volume, VolumeMount};

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    spec: Spec,
}

/// What decides who a Pod's processes are; a Pod has more.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    security_context: Option<PodSecurityContext>,
    host_network: Option<bool>,
    #[serde(rename = "hostPID")]
    host_pid: Option<bool>,
    #[serde(rename = "hostIPC")]
    host_ipc: Option<bool>,
    host_users: Option<bool>,
    share_process_namespace: Option<bool>,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
    ephemeral_containers: Vec<RawContainer>,
    volumes: Vec<RawVolume>,
    os: Option<RawOs>,
}

#[derive(Deserialize)]
struct RawOs {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    name: String,
    image: String,
    command: Vec<String>,
    args: Vec<String>,
    working_dir: Option<String>,
    security_context: Option<ContainerSecurityContext>,
    ports: Vec<RawPort>,
    volume_mounts: Vec<RawMount>,
    liveness_probe: Option<Value>,
    readiness_probe: Option<Value>,
    startup_probe: Option<Value>,
    lifecycle: Option<Value>,
}

impl RawContainer {
    /// Hosts in probes and handlers.
    fn hosts(&self) -> Vec<String> {
        let probes = [&self.liveness_probe, &self.readiness_probe, &self.startup_probe];
        let handlers = self.lifecycle.iter().flat_map(|it| [it.get("postStart"), it.get("preStop")]);
        let all = probes.into_iter().flatten().chain(handlers.flatten());
        let hosts = all.flat_map(|it| ["/httpGet/host", "/tcpSocket/host"].map(|path| it.pointer(path)));
        let texts = hosts.flatten().filter_map(Value::as_str).filter(|host| !host.is_empty());
        texts.map(str::to_owned).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    host_port: u16,
}

/// Which of a Pod's lists a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContainerKind {
    /// `containers`.
    Regular,
    /// `initContainers`.
    Init,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// A container of a Pod, as far as its security goes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The image's name, which somebody else makes a directory of.
    pub image: String,
    /// `command` and `args`: what is run in place of what the image says.
    pub command: Vec<String>,
    /// `workingDir`.
    pub working_dir: Option<String>,
    /// In which list it is.
    pub kind: ContainerKind,
    /// `securityContext`.
    pub security_context: ContainerSecurityContext,
    /// Ports of the node that it takes.
    pub host_ports: Vec<u16>,
    /// `volumeMounts`.
    pub volume_mounts: Vec<VolumeMount>,
    /// Hosts that its probes and lifecycle handlers go to in place of itself.
    pub probe_hosts: Vec<String>,
}

/// A Pod, as far as its security goes. [`Document::pod_security`] reads it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PodSecurity {
    /// Its name.
    pub name: String,
    /// `spec.securityContext`.
    pub security_context: PodSecurityContext,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.hostPID`.
    pub host_pid: bool,
    /// `spec.hostIPC`.
    pub host_ipc: bool,
    /// `spec.hostUsers`: `Some(false)` asks for a user namespace.
    pub host_users: Option<bool>,
    /// `spec.shareProcessNamespace`.
    pub share_process_namespace: bool,
    /// All containers: init containers, regular ones, ephemeral ones.
    pub containers: Vec<Container>,
    /// `spec.volumes`.
    pub volumes: Vec<Volume>,
    /// `spec.os.name`.
    pub os: Option<String>,
}

/// What holds for one container: its own `securityContext` over the Pod's.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SecurityContext {
    /// The user; `None`: the image's.
    pub run_as_user: Option<i64>,
    /// The primary group.
    pub run_as_group: Option<i64>,
    /// A container that would run as user 0 is not started.
    pub run_as_non_root: bool,
    /// Further groups: those given, and `fsGroup`.
    pub supplemental_groups: Vec<i64>,
    /// The groups that the image has for the user are not added.
    pub strict_groups: bool,
    /// SELinux label.
    pub se_linux_options: Option<SeLinuxOptions>,
    /// Filter of system calls.
    pub seccomp_profile: Option<SeccompProfile>,
    /// AppArmor profile.
    pub app_armor_profile: Option<AppArmorProfile>,
    /// Added and dropped capabilities.
    pub capabilities: Capabilities,
    /// Every capability and device.
    pub privileged: bool,
    /// The root file system can't be written to.
    pub read_only_root_filesystem: bool,
    /// `Some(false)`: no_new_privs.
    pub allow_privilege_escalation: Option<bool>,
    /// Nothing of /proc is hidden.
    pub unmasked_proc: bool,
}

impl Document {
    /// A `v1` Pod as far as its security goes, checked as the API server checks it.
    ///
    /// Fields of a `securityContext`, a volume or a mount that the API does not have are errors (`capabilities` of a Pod,
    /// say); other parts of the Pod are not looked at. Where the server quotes an object in a message it is JSON here.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) with all that the API server would say against it.
    pub fn pod_security(&self) -> Result<PodSecurity> {
        let Manifest { spec } = self.read("v1", "Pod")?;
        let mut faults = Faults::default();
        let (volumes, known) = volumes::read(spec.volumes, &mut faults);
        let lists = [
            (ContainerKind::Init, "initContainers", spec.init_containers),
            (ContainerKind::Regular, "containers", spec.containers),
            (ContainerKind::Ephemeral, "ephemeralContainers", spec.ephemeral_containers),
        ];
        let mut containers = Vec::new();
        for (kind, list, raw) in lists {
            for (index, raw) in raw.into_iter().enumerate() {
                let probe_hosts = raw.hosts();
                let security_context = raw.security_context.unwrap_or_default();
                let field = format!("spec.{list}[{index}].volumeMounts");
                let privileged = security_context.privileged == Some(true);
                containers.push(Container {
                    probe_hosts,
                    name: raw.name,
                    image: raw.image,
                    command: raw.command.into_iter().chain(raw.args).collect(),
                    working_dir: raw.working_dir,
                    kind,
                    security_context,
                    host_ports: raw
                        .ports
                        .iter()
                        .map(|port| port.host_port)
                        .filter(|port| *port != 0)
                        .collect(),
                    volume_mounts: volumes::read_mounts(
                        raw.volume_mounts,
                        &known,
                        &field,
                        privileged,
                        &mut faults,
                    ),
                });
            }
        }
        let pod = PodSecurity {
            name: self.name().to_owned(),
            security_context: spec.security_context.unwrap_or_default(),
            host_network: spec.host_network.unwrap_or(false),
            host_pid: spec.host_pid.unwrap_or(false),
            host_ipc: spec.host_ipc.unwrap_or(false),
            host_users: spec.host_users,
            share_process_namespace: spec.share_process_namespace.unwrap_or(false),
            containers,
            volumes,
            os: spec.os.map(|os| os.name),
        };
        validate(&pod, &mut faults);
        match &*faults.0 {
            [] => Ok(pod),
            [one] => Err(self.invalid(one)),
            many => Err(self.invalid(format_args!("{} faults:\n  - {}", many.len(), many.join("\n  - ")))),
        }
    }
}

impl PodSecurity {
    /// A container by its name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// A volume by its name.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// What holds for a container: its own fields over the Pod's, one by one. Capabilities, `privileged`,
    /// `readOnlyRootFilesystem`, `allowPrivilegeEscalation` and `procMount` are the container's alone; groups are the Pod's.
    pub fn effective(&self, container: &str) -> Option<SecurityContext> {
        let (pod, own) = (&self.security_context, &self.container(container)?.security_context);
        let groups = pod.supplemental_groups.iter().flatten().copied().chain(pod.fs_group);
        Some(SecurityContext {
            run_as_user: own.run_as_user.or(pod.run_as_user),
            run_as_group: own.run_as_group.or(pod.run_as_group),
            run_as_non_root: own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false),
            supplemental_groups: groups.collect(),
            strict_groups: pod.supplemental_groups_policy.as_deref() == Some("Strict"),
            se_linux_options: own.se_linux_options.clone().or_else(|| pod.se_linux_options.clone()),
            seccomp_profile: own.seccomp_profile.clone().or_else(|| pod.seccomp_profile.clone()),
            app_armor_profile: own.app_armor_profile.clone().or_else(|| pod.app_armor_profile.clone()),
            capabilities: own.capabilities.clone().unwrap_or_default(),
            privileged: own.privileged.unwrap_or(false),
            read_only_root_filesystem: own.read_only_root_filesystem.unwrap_or(false),
            allow_privilege_escalation: own.allow_privilege_escalation,
            unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
        })
    }
}
