//! The options.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use palisade_cgroup::{Cgroup, Device};
use palisade_creds::{CapabilityArg, CapabilityRequest, Maps, UserSpec};

use super::containers::Container;
use super::options::{DeviceOption, Mode, SecurityOption, TmpfsOption, VolumeOption, billionths, bytes};
use crate::error::Result;
use crate::sandbox::{Sandbox, SandboxBuilder};

/// The options of `docker run`, in Docker's words and with its defaults: 14 capabilities, its seccomp profile for them,
/// its hidden and read-only paths, devices and mounts, a writable layer over an image's directory.
///
/// Values are given as texts, as on the command line; what is wrong with them is reported by [`build`](Self::build), all
/// at once.
///
/// # Where it is stricter than Docker
/// - The container has a **user namespace**: its root is nobody of the host's. With privileges the container has 65,536
///   ids that no line of /etc/subuid gives away, and the image's owners are ids inside; an ordinary caller gets its
///   delegated ranges, or stands for one id. [`dangerously_use_host_users`](Self::dangerously_use_host_users) is Docker's
///   own default.
/// - **no_new_privs** is on, unless [`allow_privilege_escalation`](Self::allow_privilege_escalation) or
///   `--security-opt no-new-privileges=false` is given.
/// - Everything in memory is limited: the writable layer to 64 MiB unless [`storage`](Self::storage) says more.
/// - The network is loopback; a builder's further calls say more ([`builder`](Self::builder)). AppArmor and SELinux
///   labels are set where they are asked for, and are errors where they cannot be had.
///
/// The lists are those of [moby](https://github.com/moby/moby/tree/master/daemon/pkg/oci).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `build`"]
pub struct Docker {
    pub(super) image: PathBuf,
    /// What could not be read.
    pub(super) wrong: Vec<String>,
    pub(super) changes: Option<PathBuf>,
    pub(super) storage: Option<u64>,
    pub(super) user: UserSpec,
    /// In place of the groups that the image has for the user.
    pub(super) image_groups: Option<Vec<u32>>,
    pub(super) group_add: Vec<String>,
    pub(super) capabilities: CapabilityRequest,
    pub(super) privileged: bool,
    pub(super) devices: Vec<DeviceOption>,
    pub(super) device_rules: Vec<Device>,
    pub(super) security: Vec<SecurityOption>,
    pub(super) escalation: bool,
    /// The same where the container has more than one id.
    pub(super) escalation_if_possible: bool,
    pub(super) read_only: bool,
    pub(super) tmpfs: Vec<TmpfsOption>,
    pub(super) volumes: Vec<VolumeOption>,
    #[cfg(feature = "k8s")]
    pub(super) pod_volumes: Vec<crate::k8s::Mounted>,
    pub(super) shm_size: Option<u64>,
    pub(super) hostname: Option<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) ipc: Mode,
    pub(super) pid: Mode,
    pub(super) uts: Mode,
    pub(super) network: Mode,
    pub(super) cgroupns: Mode,
    pub(super) userns: Mode,
    /// Running ones, by the names that were given to them.
    pub(super) containers: Vec<(String, Container)>,
    pub(super) shm_directory: Option<PathBuf>,
    pub(super) host_users: bool,
    pub(super) maps: Option<Maps>,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) ulimits: Vec<(crate::Resource, u64, u64)>,
    pub(super) resources: Resources,
    pub(super) cgroup_parent: Option<Cgroup>,
}

/// What is limited, in the units of Docker's API.
#[derive(Clone, Debug, Default)]
pub(super) struct Resources {
    pub(super) memory: palisade_cgroup::docker::MemoryOptions,
    pub(super) nano_cpus: Option<u64>,
    pub(super) cpu_shares: Option<u64>,
    pub(super) cpuset_cpus: Option<String>,
    pub(super) cpuset_mems: Option<String>,
    pub(super) pids: Option<i64>,
    pub(super) blkio_weight: Option<u16>,
}

/// # The image and who runs in it
impl Docker {
    /// A container of the image that was unpacked in this directory, as `docker run` without any option.
    pub fn new(image: impl AsRef<Path>) -> Self {
        Self {
            image: image.as_ref().to_owned(),
            wrong: Vec::new(),
            changes: None,
            storage: None,
            user: UserSpec::default(),
            image_groups: None,
            group_add: Vec::new(),
            capabilities: CapabilityRequest::new(),
            privileged: false,
            devices: Vec::new(),
            device_rules: Vec::new(),
            security: Vec::new(),
            escalation: false,
            escalation_if_possible: false,
            read_only: false,
            tmpfs: Vec::new(),
            volumes: Vec::new(),
            #[cfg(feature = "k8s")]
            pod_volumes: Vec::new(),
            shm_size: None,
            hostname: None,
            env: Vec::new(),
            ipc: Mode::Private,
            pid: Mode::Private,
            uts: Mode::Private,
            network: Mode::Private,
            cgroupns: Mode::Private,
            userns: Mode::Private,
            containers: Vec::new(),
            shm_directory: None,
            host_users: false,
            maps: None,
            sysctls: Vec::new(),
            ulimits: Vec::new(),
            resources: Resources::default(),
            cgroup_parent: None,
        }
    }

    /// Keeps what the container changes in a directory with two directories in it, `upper` and `work`: see
    /// [`Layers::upper`](palisade_fsroot::Layers::upper). Otherwise changes are in memory and end with the container.
    pub fn changes_in(mut self, directory: impl AsRef<Path>) -> Self {
        self.changes = Some(directory.as_ref().to_owned());
        self
    }

    /// How much a container may write where changes are in memory (`64m` unless given).
    #[doc(alias = "storage-opt")]
    pub fn storage(mut self, size: impl AsRef<str>) -> Self {
        self.storage = self.read_bytes("storage", size.as_ref());
        self
    }

    /// `--user`: `user[:group]`, names or numbers, of the image's own passwd and group.
    pub fn user(mut self, user: impl AsRef<str>) -> Self {
        if let Some(user) = self.read("user", user.as_ref()) {
            self.user = user;
        }
        self
    }

    /// `--group-add`: a further group, by name or number.
    pub fn group_add(mut self, group: impl AsRef<str>) -> Self {
        self.group_add.push(group.as_ref().to_owned());
        self
    }

    /// The groups that the image has for the user are these: Kubernetes keeps them beside a group that was given.
    #[cfg(feature = "k8s")]
    pub(crate) fn image_groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.image_groups = Some(groups.into_iter().collect());
        self
    }

    /// `--userns=host`, which is Docker's default: no user namespace, so that the container's root is the host's, held by
    /// capabilities, the filter and read-only paths alone. For callers with privileges.
    #[doc(alias = "userns=host")]
    pub fn dangerously_use_host_users(mut self) -> Self {
        self.host_users = true;
        self
    }

    /// The ids of the container, in place of ids that are free: `--userns-remap` by
    /// [`Maps::remapped`](palisade_creds::Maps::remapped).
    #[doc(alias = "userns-remap")]
    pub fn id_maps(mut self, maps: Maps) -> Self {
        self.maps = Some(maps);
        self
    }
}

/// # Privileges
impl Docker {
    /// `--cap-add`: a capability, with or without `CAP_`, or `ALL`.
    pub fn cap_add(mut self, capability: impl AsRef<str>) -> Self {
        if let Some(arg) = self.read::<CapabilityArg>("cap-add", capability.as_ref()) {
            self.capabilities = self.capabilities.add(arg);
        }
        self
    }

    /// `--cap-drop`: a capability, or `ALL`.
    pub fn cap_drop(mut self, capability: impl AsRef<str>) -> Self {
        if let Some(arg) = self.read::<CapabilityArg>("cap-drop", capability.as_ref()) {
            self.capabilities = self.capabilities.drop(arg);
        }
        self
    }

    /// `--privileged`: every capability, every device, no filter, no label, nothing hidden or read-only. As with Docker it
    /// goes with the host's users only: [`dangerously_use_host_users`](Self::dangerously_use_host_users).
    pub fn privileged(mut self, privileged: bool) -> Self {
        self.privileged = privileged;
        self
    }

    /// `--security-opt`.
    pub fn security_opt(mut self, option: impl AsRef<str>) -> Self {
        if let Some(option) = self.read("security-opt", option.as_ref()) {
            self.security.push(option);
        }
        self
    }

    /// Docker's default: set-user-ID programs and file capabilities work, so no_new_privs is off, and the image is mounted
    /// without `nosuid`.
    pub fn allow_privilege_escalation(mut self, allow: bool) -> Self {
        self.escalation = allow;
        self
    }

    /// As [`allow_privilege_escalation`](Self::allow_privilege_escalation), but where the container has a single id, and
    /// so nobody to become, no_new_privs stays on.
    pub fn allow_privilege_escalation_if_possible(mut self) -> Self {
        self.escalation_if_possible = true;
        self
    }

    /// `--device`.
    pub fn device(mut self, device: impl AsRef<str>) -> Self {
        if let Some(device) = self.read("device", device.as_ref()) {
            self.devices.push(device);
        }
        self
    }

    /// `--device-cgroup-rule`: `c 10:200 rwm`. Needs a cgroup, and a caller with privileges.
    pub fn device_cgroup_rule(mut self, rule: impl AsRef<str>) -> Self {
        if let Some(rule) = self.read("device-cgroup-rule", rule.as_ref()) {
            self.device_rules.push(rule);
        }
        self
    }

    /// `--sysctl`: a parameter of one of the container's own namespaces.
    pub fn sysctl(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.sysctls.push((name.into(), value.into()));
        self
    }
}

/// # Files
impl Docker {
    /// `--read-only`: the root file system can't be written to.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// `--tmpfs`.
    pub fn tmpfs(mut self, tmpfs: impl AsRef<str>) -> Self {
        if let Some(tmpfs) = self.read("tmpfs", tmpfs.as_ref()) {
            self.tmpfs.push(tmpfs);
        }
        self
    }

    /// `--volume` of a path of the host. In a user namespace owners that it does not know are nobody; where such a volume
    /// is to be written, the container's user stands for its owner.
    pub fn volume(mut self, volume: impl AsRef<str>) -> Self {
        if let Some(volume) = self.read("volume", volume.as_ref()) {
            self.volumes.push(volume);
        }
        self
    }

    /// Volumes of the Pod that it is a container of.
    #[cfg(feature = "k8s")]
    pub(crate) fn pod_volumes(mut self, volumes: Vec<crate::k8s::Mounted>) -> Self {
        self.pod_volumes = volumes;
        self
    }

    /// `--shm-size`; 64 MiB unless given.
    pub fn shm_size(mut self, size: impl AsRef<str>) -> Self {
        self.shm_size = self.read_bytes("shm-size", size.as_ref());
        self
    }
}

/// # Namespaces
impl Docker {
    /// `--hostname`.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// `--env`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// `--ipc`: `private`, `none`, `shareable` (with [`shm_directory`](Self::shm_directory)), `host`, or
    /// `container:NAME` of one that is `shareable` and was given to [`container`](Self::container).
    pub fn ipc(mut self, mode: impl AsRef<str>) -> Self {
        self.ipc = self.read("ipc", mode.as_ref()).unwrap_or_default();
        self
    }

    /// `--pid`: `private`, `host`, or `container:NAME` of one that was given to [`container`](Self::container).
    pub fn pid(mut self, mode: impl AsRef<str>) -> Self {
        self.pid = self.read("pid", mode.as_ref()).unwrap_or_default();
        self
    }

    /// `--uts`: `private`, `host`.
    pub fn uts(mut self, mode: impl AsRef<str>) -> Self {
        self.uts = self.read("uts", mode.as_ref()).unwrap_or_default();
        self
    }

    /// `--network`: `none` (and nothing: a namespace with loopback alone), `host`, or `container:NAME` of one that was
    /// given to [`container`](Self::container). Others are said to the [`builder`](Self::builder).
    pub fn network(mut self, mode: impl AsRef<str>) -> Self {
        self.network = self.read("network", mode.as_ref()).unwrap_or_default();
        self
    }

    /// `--cgroupns`: `private`, `host`.
    pub fn cgroupns(mut self, mode: impl AsRef<str>) -> Self {
        self.cgroupns = self.read("cgroupns", mode.as_ref()).unwrap_or_default();
        self
    }
}

/// # Resources
///
/// Each of them needs a cgroup below the caller's delegated one, or below [`cgroup_parent`](Self::cgroup_parent).
impl Docker {
    /// `--memory`, `256m`; at least 6 MiB. `-1` is no limit.
    pub fn memory(mut self, size: impl AsRef<str>) -> Self {
        self.resources.memory.memory = self.read_limit("memory", size.as_ref());
        self
    }

    /// `--memory-swap`: memory and swap together; twice the memory unless given. `-1` is no limit.
    pub fn memory_swap(mut self, size: impl AsRef<str>) -> Self {
        self.resources.memory.memory_swap = self.read_limit("memory-swap", size.as_ref());
        self
    }

    /// `--memory-reservation`.
    pub fn memory_reservation(mut self, size: impl AsRef<str>) -> Self {
        self.resources.memory.reservation = self.read_limit("memory-reservation", size.as_ref());
        self
    }

    /// `--cpus`: `0.75`.
    pub fn cpus(mut self, cpus: impl AsRef<str>) -> Self {
        let cpus = cpus.as_ref();
        self.resources.nano_cpus = billionths(cpus);
        if self.resources.nano_cpus.is_none() {
            self.wrong.push(format!("--cpus {cpus:?}: a number like 0.75"));
        }
        self
    }

    /// `--cpu-shares`: 1024 is the share of a container without a word.
    pub fn cpu_shares(mut self, shares: u64) -> Self {
        self.resources.cpu_shares = Some(shares);
        self
    }

    /// `--cpuset-cpus`: `0-2,5`.
    pub fn cpuset_cpus(mut self, cpus: impl Into<String>) -> Self {
        self.resources.cpuset_cpus = Some(cpus.into());
        self
    }

    /// `--cpuset-mems`.
    pub fn cpuset_mems(mut self, mems: impl Into<String>) -> Self {
        self.resources.cpuset_mems = Some(mems.into());
        self
    }

    /// `--pids-limit`; 0 and below are no limit.
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.resources.pids = Some(limit);
        self
    }

    /// `--blkio-weight`: 10 to 1000.
    pub fn blkio_weight(mut self, weight: u16) -> Self {
        self.resources.blkio_weight = Some(weight);
        self
    }

    /// `--ulimit`, soft and hard.
    pub fn ulimit(mut self, resource: crate::Resource, soft: u64, hard: u64) -> Self {
        self.ulimits.push((resource, soft, hard));
        self
    }

    /// `--cgroup-parent`, as an open group.
    pub fn cgroup_parent(mut self, parent: Cgroup) -> Self {
        self.cgroup_parent = Some(parent);
        self
    }
}

impl Docker {
    /// Reads the image's users, decides everything, and gives the builder that says it: for what Docker's options do not
    /// say.
    ///
    /// # Errors
    /// [`InvalidSpec`](crate::ErrorKind::InvalidSpec) with everything that is wrong with the options: a value, a user
    /// that the image does not have, options that exclude each other.
    pub fn builder(&self) -> Result<SandboxBuilder> {
        super::build::builder(self)
    }

    /// The sandbox: [`builder`](Self::builder), built.
    ///
    /// # Errors
    /// As [`builder`](Self::builder) and [`SandboxBuilder::build`].
    pub fn build(&self) -> Result<Sandbox> {
        self.builder()?.build()
    }

    pub(super) fn read<T: FromStr<Err: std::fmt::Display>>(&mut self, option: &str, text: &str) -> Option<T> {
        let prefix = format!("--{option}");
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let error = error.to_string();
                let error = error.strip_prefix("invalid specification: ").unwrap_or(&error);
                let named =
                    if error.starts_with(&prefix) { String::new() } else { format!("{prefix} {text:?}: ") };
                self.wrong.push(format!("{named}{error}"));
                None
            }
        }
    }

    fn read_bytes(&mut self, option: &str, text: &str) -> Option<u64> {
        let size = bytes(text).filter(|n| *n > 0);
        if size.is_none() {
            self.wrong.push(format!("--{option} {text:?}: a size like 256m or 1.5g, above zero"));
        }
        size
    }

    /// Docker's limits of memory: -1 is none.
    fn read_limit(&mut self, option: &str, text: &str) -> i64 {
        if text == "-1" { -1 } else { self.read_bytes(option, text).map_or(0, |n| n as i64) }
    }
}
