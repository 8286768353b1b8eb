//! What a kubelet does with a container's `securityContext`.

use std::fs::File;
use std::path::{Path, PathBuf};

use palisade_creds::{Uid, UserDb, UserSpec};

use super::pod::{PodSecurity, SecurityContext};
use crate::error::{Error, Result};
use crate::k8s::{Mounted, PodVolumes};
use crate::presets::docker::Docker;

/// A node: what its kubelet is configured to, and the containers that it makes of Pods.
#[derive(Clone, Debug)]
pub struct Node {
    seccomp_default: bool,
    seccomp_profiles: PathBuf,
    app_armor_default: String,
    image_user: String,
    volumes: Option<PodVolumes>,
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// A node with a kubelet as it is recommended: containers without a `seccompProfile` have the runtime's.
    pub fn new() -> Self {
        Self {
            seccomp_default: true,
            seccomp_profiles: "/var/lib/kubelet/seccomp".into(),
            app_armor_default: "palisade-default".to_owned(),
            image_user: String::new(),
            volumes: None,
        }
    }

    /// `seccompDefault` of the kubelet; with `false` a container without a `seccompProfile` has no filter.
    pub fn seccomp_default(mut self, on: bool) -> Self {
        self.seccomp_default = on;
        self
    }

    /// Where profiles of the type `Localhost` are.
    pub fn seccomp_profiles(mut self, directory: impl AsRef<Path>) -> Self {
        self.seccomp_profiles = directory.as_ref().to_owned();
        self
    }

    /// The AppArmor profile that `RuntimeDefault` stands for, where a manifest asks for it: it must be loaded.
    pub fn app_armor_default(mut self, profile: impl Into<String>) -> Self {
        self.app_armor_default = profile.into();
        self
    }

    /// The user that the image's configuration says (`USER` of a Dockerfile); root unless given.
    pub fn image_user(mut self, user: impl Into<String>) -> Self {
        self.image_user = user.into();
        self
    }

    /// The volumes of the Pod whose containers are made next; without them a container that mounts volumes is an error.
    pub fn volumes(mut self, volumes: PodVolumes) -> Self {
        self.volumes = Some(volumes);
        self
    }

    /// A container of a Pod, of an image that was unpacked into a directory, as options of
    /// [`presets::docker`](crate::presets::docker): the same defaults hold, a user namespace among them, whatever
    /// `hostUsers` says. Without `allowPrivilegeEscalation: false` no_new_privs is off, as with Kubernetes, where there
    /// is anybody to become.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) if the Pod has no such container, for an image that does
    /// not have the user, for volumes that are not set up, and with the kubelet's words where `runAsNonRoot` keeps it from
    /// running.
    pub fn container(&self, pod: &PodSecurity, name: &str, image: impl AsRef<Path>) -> Result<Docker> {
        let invalid =
            |what: String| Error::invalid(format!("pod {:?}, container {name:?}: {what}", pod.name));
        let context = pod.effective(name).ok_or_else(|| invalid("there is no such container".into()))?;
        if pod.os.as_deref() == Some("windows") {
            return Err(invalid("spec.os.name: windows: this node is linux".into()));
        }
        let image = image.as_ref();
        let spec = self.runs_as(&context).map_err(&invalid)?;
        let root =
            File::open(image).map_err(|error| invalid(format!("image {}: {error}", image.display())))?;
        let users = UserDb::open_in(&root).map_err(|error| invalid(error.to_string()))?;
        let user = users.resolve(&spec).map_err(|error| invalid(error.to_string()))?;
        let gid = context.run_as_group.unwrap_or_else(|| user.gid.as_raw().into());

        let mut docker = Docker::new(image).user(format!("{}:{gid}", user.uid));
        let of_image = user.groups.iter().map(|gid| gid.as_raw()).filter(|_| !context.strict_groups);
        docker = docker.image_groups(of_image);
        for group in &context.supplemental_groups {
            docker = docker.group_add(group.to_string());
        }
        let caps = &context.capabilities;
        docker = caps.add.iter().flatten().fold(docker, Docker::cap_add);
        docker = caps.drop.iter().flatten().fold(docker, Docker::cap_drop);
        docker = docker.privileged(context.privileged).read_only(context.read_only_root_filesystem);
        docker = match context.allow_privilege_escalation {
            Some(false) => docker,
            Some(true) | None => docker.allow_privilege_escalation_if_possible(),
        };
        if context.unmasked_proc {
            docker = docker.security_opt("systempaths=unconfined");
        }
        docker = self.profiles(&context, docker);
        for sysctl in pod.security_context.sysctls.iter().flatten() {
            docker = docker.sysctl(&sysctl.name, &sysctl.value);
        }
        let mode = |host: bool| if host { "host" } else { "" };
        let (network, shared_pids, ipc) = (mode(pod.host_network), mode(pod.host_pid), mode(pod.host_ipc));
        docker = docker.network(network).pid(shared_pids).ipc(ipc);
        self.mounted(pod, name).map_err(invalid).map(|mounted| docker.pod_volumes(mounted))
    }

    fn mounted(&self, pod: &PodSecurity, name: &str) -> Result<Vec<Mounted>, String> {
        let mounts = pod.container(name).map(|container| &*container.volume_mounts).unwrap_or_default();
        match &self.volumes {
            _ if mounts.is_empty() => Ok(Vec::new()),
            Some(volumes) if volumes.pod() == pod.name => volumes.mounted(mounts),
            Some(volumes) => Err(format!("volumes: they are those of pod {:?}", volumes.pod())),
            None => Err(format!(
                "volumeMounts[0].name: volume {:?} is not set up: give Node::volumes what Volumes::set_up makes of the Pod",
                mounts[0].name
            )),
        }
    }

    /// The user that it will be, if `runAsNonRoot` lets it.
    fn runs_as(&self, context: &SecurityContext) -> Result<UserSpec, String> {
        let image: UserSpec =
            self.image_user.parse().map_err(|error: palisade_creds::Error| error.to_string())?;
        let asked = context.run_as_user.map(|uid| uid.to_string().parse::<UserSpec>());
        let asked = asked.transpose().map_err(|error| error.to_string())?;
        if context.run_as_non_root {
            match (&asked, image.user_name()) {
                (Some(asked), _) if asked.uid() == Some(Uid::ROOT) => {
                    return Err("container's runAsUser breaks non-root policy".into());
                }
                (Some(_), _) => {}
                (None, Some(name)) => {
                    let name = name.to_string_lossy();
                    return Err(format!(
                        "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
                    ));
                }
                (None, None) if image.uid().is_none_or(|uid| uid == Uid::ROOT) => {
                    return Err("container has runAsNonRoot and image will run as root".into());
                }
                (None, None) => {}
            }
        }
        Ok(asked.unwrap_or(image))
    }

    fn profiles(&self, context: &SecurityContext, mut docker: Docker) -> Docker {
        // Privileged containers have no profiles, whatever else is said.
        if context.privileged {
            return docker;
        }
        let seccomp = context.seccomp_profile.as_ref().map(|profile| (profile.r#type.as_str(), profile));
        docker = match seccomp {
            Some(("Unconfined", _)) => docker.security_opt("seccomp=unconfined"),
            Some(("Localhost", profile)) => {
                // An empty one, which the API server takes, is the directory itself, and so no profile.
                let file = profile.localhost_profile.as_deref().unwrap_or_default();
                docker.security_opt(format!("seccomp={}", self.seccomp_profiles.join(file).display()))
            }
            None if !self.seccomp_default => docker.security_opt("seccomp=unconfined"),
            _ => docker.security_opt("seccomp=builtin"),
        };
        let app_armor = context.app_armor_profile.as_ref().map(|profile| (profile.r#type.as_str(), profile));
        docker = match app_armor {
            Some(("RuntimeDefault", _)) => {
                docker.security_opt(format!("apparmor={}", self.app_armor_default))
            }
            Some(("Localhost", profile)) => {
                let name = profile.localhost_profile.as_deref().unwrap_or_default();
                docker.security_opt(format!("apparmor={name}"))
            }
            _ => docker,
        };
        if let Some(options) = &context.se_linux_options {
            let parts = [
                ("user", &options.user),
                ("role", &options.role),
                ("type", &options.r#type),
                ("level", &options.level),
            ];
            for (name, part) in parts {
                if let Some(part) = part.as_deref().filter(|part| !part.is_empty()) {
                    docker = docker.security_opt(format!("label={name}:{part}"));
                }
            }
        }
        docker
    }
}
