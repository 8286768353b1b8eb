//! From the options to a builder.

use std::fs::File as OpenFile;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use palisade_cgroup::{Access, Device, DeviceKind, DeviceRules, Limits, docker as units};
use palisade_creds::{CapabilitySet, IdMap, Maps, SubIds, SubRange, ThreadCapabilities, Uid, User, UserDb};
use palisade_fsroot::{Bind, Cgroup2, Dev, File, Layers, Masks, Mount, MountFlags, Proc, Root, Sysfs, Tmpfs};
use palisade_ns::Namespace;
use palisade_secfilter::lsm::{Context, ExecLabel, LabelOption};
use palisade_secfilter::{Host, Profile};

use super::containers::{self, Joined};
use super::options::{Mode, SecurityOption};
use super::run::Docker;
use crate::caller::Caller;
use crate::error::Result;
use crate::prepare::Conflicts;
use crate::sandbox::{Sandbox, SandboxBuilder};

/// How many ids a container has by itself, as Docker's userns-remap gives them.
const IDS: u32 = 65_536;
/// Files that the writable layer in memory may have for each MiB of it.
const INODES_PER_MIB: u64 = 256;

/// What the security options come to, the last of a kind counting.
#[derive(Default)]
struct Security {
    no_new_privs: Option<bool>,
    seccomp: Option<SecurityOption>,
    apparmor: Option<String>,
    labels: Vec<LabelOption>,
    system_paths_unconfined: bool,
    writable_cgroups: bool,
}

impl Security {
    fn of(options: &[SecurityOption]) -> Self {
        let mut it = Self::default();
        for option in options {
            match option {
                SecurityOption::NoNewPrivileges(on) => it.no_new_privs = Some(*on),
                SecurityOption::AppArmor(profile) => it.apparmor = Some(profile.clone()),
                SecurityOption::Label(label) => it.labels.push(label.clone()),
                SecurityOption::SystemPathsUnconfined => it.system_paths_unconfined = true,
                SecurityOption::WritableCgroups(on) => it.writable_cgroups = *on,
                SecurityOption::SeccompUnconfined
                | SecurityOption::SeccompBuiltin
                | SecurityOption::Seccomp(_) => {
                    it.seccomp = Some(option.clone());
                }
            }
        }
        it
    }
}

/// Whose ids the container has.
struct Users {
    /// `None`: the host's.
    maps: Option<Maps>,
    /// All the image's ids are there, its owners on disk are ids inside.
    image_ids: bool,
}

pub(super) fn builder(docker: &Docker) -> Result<SandboxBuilder> {
    let mut conflicts = Conflicts::default();
    docker.wrong.iter().for_each(|wrong| conflicts.add(wrong));
    let caller = Caller::current()?;
    let security = Security::of(&docker.security);
    check(docker, &security, &caller, &mut conflicts);

    let user = conflicts.check("user", look_up(docker));
    let available =
        if docker.host_users { caller.bounding } else { CapabilitySet::supported().unwrap_or_default() };
    let capabilities = conflicts
        .check("capabilities", docker.capabilities.clone().privileged(docker.privileged).resolve(available));
    let limits = limits(docker, &mut conflicts);
    let (Some((user, groups)), Some(capabilities), Some(limits)) = (user, capabilities, limits) else {
        conflicts.finish()?;
        return Ok(Sandbox::builder()); // not reached: what is missing is a conflict
    };
    let joined = containers::joined(docker, &mut conflicts);
    let users = users(docker, &caller, &user, &joined, &mut conflicts);
    let escalation = docker.escalation
        || security.no_new_privs == Some(false)
        || docker.escalation_if_possible && users.image_ids && security.no_new_privs != Some(true);
    let mut new = Sandbox::builder()
        .user(user.uid.as_raw(), user.gid.as_raw())
        .capability_sets(ThreadCapabilities {
            bounding: capabilities,
            permitted: capabilities,
            effective: capabilities,
            ..ThreadCapabilities::default()
        })
        .allow_privilege_escalation(escalation)
        .env("HOME", &user.home);
    new = match &users.maps {
        None => new.share(Namespace::User).dangerously_allow_host_root(),
        Some(_) if joined.pod.is_some() => new.id_mapped_root(users.image_ids && caller.keeps_owners()),
        Some(maps) => new.id_maps(maps.clone()).id_mapped_root(users.image_ids && caller.keeps_owners()),
    };
    // One id of an ordinary caller's: the caller's groups can't be changed, and the image's would not be mapped.
    let own_groups = users.maps.as_ref().is_none_or(|_| users.image_ids);
    if own_groups || !docker.group_add.is_empty() {
        new = new.groups(groups);
    }

    new = joined.add_to(docker, namespaces(docker, new, users.maps.is_none()));
    new = new.root(root(docker, &security, escalation, &users)).masks(
        if docker.privileged || security.system_paths_unconfined { Masks::none() } else { Masks::docker() },
    );
    new = files(docker, new);
    #[cfg(feature = "k8s")]
    {
        new = pod_volumes(docker, &users, caller.keeps_owners(), new, &mut conflicts);
    }
    new = filter(docker, &security, capabilities, new, &mut conflicts);
    new = label(docker, &security, new, &mut conflicts);
    new = docker.sysctls.iter().fold(new, |new, (name, value)| new.sysctl(name, value));
    new = docker.ulimits.iter().fold(new, |new, &(resource, soft, hard)| new.rlimit(resource, soft, hard));
    new = docker.env.iter().fold(new, |new, (name, value)| new.env(name, value));
    new = cgroup(docker, limits, &caller, new, &mut conflicts);
    conflicts.finish()?;
    Ok(new)
}

/// Options that exclude each other, or that only an engine can carry out.
fn check(docker: &Docker, security: &Security, caller: &Caller, conflicts: &mut Conflicts) {
    if docker.host_users && !caller.privileged {
        conflicts.add("--userns=host: without privileges everything needs a user namespace");
    }
    if docker.host_users && docker.maps.is_some() {
        conflicts.add("--userns=host: id maps were given, too");
    }
    if docker.privileged && !docker.host_users {
        conflicts.add(
            "--privileged: it is incompatible with a user namespace; run in the host's with \
             dangerously_use_host_users, or add the capabilities that are needed",
        );
    }
    if docker.uts == Mode::Host && docker.hostname.is_some() {
        conflicts.add("--uts=host: --hostname would change the host's name");
    }
    if (docker.escalation, security.no_new_privs) == (true, Some(true)) {
        conflicts.add("--security-opt no-new-privileges: allow_privilege_escalation was given, too");
    }
    if docker.changes.is_some() && docker.storage.is_some() {
        conflicts.add("storage: it limits changes in memory, but they are kept in a directory");
    }
    containers::check(docker, conflicts);
}

/// The user, and all groups that the process is to have, in the image's own files.
fn look_up(docker: &Docker) -> Result<(User, Vec<u32>), String> {
    let image = &docker.image;
    let root = OpenFile::open(image).map_err(|error| format!("image {}: {error}", image.display()))?;
    let files = UserDb::open_in(&root).map_err(|error| error.to_string())?;
    let user = files.resolve(&docker.user).map_err(|error| error.to_string())?;
    // A kernel's process has its primary group among the others, as engines do it.
    let mut groups = vec![user.gid.as_raw()];
    match &docker.image_groups {
        Some(image) => groups.extend(image),
        None => groups.extend(user.groups.iter().map(|gid| gid.as_raw())),
    }
    for name in &docker.group_add {
        groups.push(files.group(name).map_err(|error| error.to_string())?.as_raw());
    }
    Ok((user, groups))
}

fn users(docker: &Docker, caller: &Caller, user: &User, joined: &Joined, conflicts: &mut Conflicts) -> Users {
    if docker.host_users {
        return Users { maps: None, image_ids: true };
    }
    if let Some(pod) = &joined.pod {
        let several = pod.maps.uid().as_single::<Uid>().is_none();
        return Users { maps: Some(pod.maps.clone()), image_ids: several };
    }
    if let Some(maps) = &docker.maps {
        return Users { maps: Some(maps.clone()), image_ids: true };
    }
    if caller.keeps_owners() {
        let free = || -> palisade_creds::Result<Maps> {
            let (uids, gids) = (SubIds::of_users()?, SubIds::of_groups()?);
            let used: Vec<SubRange> = uids.all().chain(gids.all()).collect();
            let range = SubRange::allocate(&[SubRange::CUSTOMARY], &used, IDS)?;
            Ok(Maps::new(IdMap::remapped(&[range])?, IdMap::remapped(&[range])?))
        };
        return Users { maps: conflicts.check("ids of the container", free()), image_ids: true };
    }
    // What is delegated, if anything is, and the helpers are there.
    match Maps::rootless().and_then(|maps| maps.prepare().map(|_| maps)) {
        Ok(maps) => Users { maps: Some(maps), image_ids: true },
        Err(_) => {
            let own = (caller.uid, caller.gid);
            Users { maps: Some(Maps::single((user.uid, user.gid), own).deny_setgroups()), image_ids: false }
        }
    }
}

fn namespaces(docker: &Docker, mut new: SandboxBuilder, host_users: bool) -> SandboxBuilder {
    let shared = [
        (&docker.pid, Namespace::Pid),
        (&docker.uts, Namespace::Uts),
        (&docker.network, Namespace::Net),
        (&docker.cgroupns, Namespace::Cgroup),
    ];
    for (mode, kind) in shared {
        if *mode == Mode::Host {
            new = new.share(kind);
        }
    }
    if let Some(name) = &docker.hostname {
        new = new.hostname(name).env("HOSTNAME", name);
    }
    // Docker's, for a network of one's own. The second wants a group that the user namespace may not have.
    if containers::own_network(docker) {
        new = new.sysctl("net.ipv4.ip_unprivileged_port_start", "0");
        if host_users {
            new = new.sysctl("net.ipv4.ping_group_range", "0 2147483647");
        }
    }
    new
}

fn root(docker: &Docker, security: &Security, escalation: bool, users: &Users) -> Root {
    let mut layers = Layers::new(&docker.image);
    layers = match &docker.changes {
        Some(directory) => layers.upper(directory),
        None => {
            let size = docker.storage.unwrap_or(Tmpfs::DEFAULT_SIZE);
            if users.image_ids {
                layers = layers.upper_owner(0, 0);
            }
            layers.upper_in_memory(size, ((size >> 20) * INODES_PER_MIB).max(1024))
        }
    };
    if docker.read_only {
        layers = layers.with(MountFlags::READ_ONLY);
    }
    let mut root = Root::overlay(layers);
    if escalation {
        root = root.without(MountFlags::NOSUID);
    }
    let in_user_namespace = users.maps.is_some();
    // Fresh ones belong to namespaces of the container's own.
    root = if docker.pid == Mode::Host && in_user_namespace {
        root.bind("/proc", "/proc")
    } else {
        root.mount(Proc::new("/proc"))
    };
    root = root.mount(dev(docker));
    let writable = |mount: bool| if mount { MountFlags::READ_ONLY } else { MountFlags::empty() };
    if docker.network == Mode::Host && in_user_namespace {
        // With the host's cgroups in it, read-only: nothing can be mounted over them.
        return root.bind_ro("/sys", "/sys");
    }
    root = root.mount(Sysfs::new("/sys").without(writable(docker.privileged)));
    let groups = docker.privileged || security.writable_cgroups;
    if docker.cgroupns == Mode::Host && in_user_namespace {
        return root.mount(Bind::read_only("/sys/fs/cgroup", "/sys/fs/cgroup"));
    }
    root.mount(Cgroup2::new("/sys/fs/cgroup").without(writable(groups)))
}

fn dev(docker: &Docker) -> Dev {
    let mut dev = Dev::new("/dev");
    if let Some(size) = docker.shm_size {
        dev = dev.shm(size, (size >> 12).max(64));
    }
    if docker.ipc != Mode::Host {
        dev = dev.mqueue();
    }
    for device in &docker.devices {
        for (host, container) in nodes(device.host(), device.container()) {
            dev = dev.device_at(host, container.strip_prefix("/dev").unwrap_or(&container));
        }
    }
    if docker.privileged {
        for (host, container) in nodes("/dev".as_ref(), "/dev".as_ref()) {
            let below = container.strip_prefix("/dev").unwrap_or(&container).to_owned();
            if !DEFAULT_DEVICES.iter().any(|name| below == Path::new(name)) {
                dev = dev.device_at(host, below);
            }
        }
    }
    dev
}

/// What every container's /dev has.
const DEFAULT_DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"];

/// The devices at and below a path, as engines walk it: links are not followed, what is a container's own is left out.
fn nodes(host: &Path, container: &Path) -> Vec<(PathBuf, PathBuf)> {
    const OWN: &[&str] = &["pts", "shm", "fd", "mqueue", "console", "core", "stdin", "stdout", "stderr"];
    let is_dir = std::fs::symlink_metadata(host).is_ok_and(|meta| meta.is_dir());
    if !is_dir {
        return vec![(host.to_owned(), container.to_owned())];
    }
    let mut found = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(host).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let Ok(kind) = entry.file_type() else { continue };
        let name = entry.file_name();
        let own = host == Path::new("/dev") && OWN.iter().any(|own| name == *own);
        if own || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() || kind.is_char_device() || kind.is_block_device() {
            found.extend(nodes(&entry.path(), &container.join(&name)));
        }
    }
    found
}

fn files(docker: &Docker, mut new: SandboxBuilder) -> SandboxBuilder {
    if docker.uts != Mode::Host {
        let name = docker.hostname.as_deref().unwrap_or("sandbox");
        let hosts = format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost {name}\n");
        new =
            new.mount(File::new("/etc/hosts", hosts)).mount(File::new("/etc/hostname", format!("{name}\n")));
    }
    if docker.network == Mode::Host {
        new = new.mount(Bind::read_only("/etc/resolv.conf", "/etc/resolv.conf").optional());
    }
    for option in &docker.tmpfs {
        let mut tmpfs = Tmpfs::new(&option.target);
        tmpfs = option.size.map_or(tmpfs.clone(), |size| tmpfs.size(size));
        tmpfs = option.inodes.map_or(tmpfs.clone(), |inodes| tmpfs.inodes(inodes));
        tmpfs = option.mode.map_or(tmpfs.clone(), |mode| tmpfs.mode(mode));
        if option.uid.is_some() || option.gid.is_some() {
            tmpfs = tmpfs.owner(option.uid.unwrap_or(0), option.gid.unwrap_or(0));
        }
        new = new.mount(tmpfs.without(MountFlags::NOSUID | MountFlags::NODEV).with(option.flags));
    }
    for option in &docker.volumes {
        new = new.mount(Mount::from(Bind::new(&option.host, &option.container).with(option.flags)));
    }
    new
}

/// Owners on disk are ids inside, for as far as the container has them.
#[cfg(feature = "k8s")]
fn pod_volumes(
    docker: &Docker,
    users: &Users,
    keeps_owners: bool,
    mut new: SandboxBuilder,
    conflicts: &mut Conflicts,
) -> SandboxBuilder {
    use crate::k8s::Mounted;
    let directories = docker.pod_volumes.iter().any(|volume| matches!(volume, Mounted::Directory(_)));
    let maps = users.maps.as_ref().filter(|_| keeps_owners && directories);
    let namespace = maps.map(|maps| {
        let prepared = maps.prepare().map_err(|error| error.to_string())?;
        crate::newborn::user_namespace(prepared).map_err(|error| error.to_string())
    });
    let Some(namespace) = conflicts.check("ids of volumes", namespace.transpose()) else { return new };
    for volume in &docker.pod_volumes {
        new = match volume {
            Mounted::Host(bind) => new.mount(bind.clone()),
            Mounted::Directory(bind) => match namespace.as_ref().map(std::os::fd::OwnedFd::try_clone) {
                None => new.mount(bind.clone()),
                Some(copy) => match conflicts.check("ids of volumes", copy) {
                    Some(copy) => new.mount(bind.clone().id_mapped(copy)),
                    None => new,
                },
            },
            Mounted::Memory(tmpfs, gid) if users.image_ids => new.mount(tmpfs.clone().owner(0, *gid)),
            Mounted::Memory(tmpfs, _) => new.mount(tmpfs.clone()),
        };
    }
    new
}

/// Docker's profile for these capabilities, or the one that was given.
fn filter(
    docker: &Docker,
    security: &Security,
    capabilities: CapabilitySet,
    new: SandboxBuilder,
    conflicts: &mut Conflicts,
) -> SandboxBuilder {
    let profile = match &security.seccomp {
        None if docker.privileged => return new.dangerously_unfiltered(),
        Some(SecurityOption::SeccompUnconfined) => return new.dangerously_unfiltered(),
        Some(SecurityOption::Seccomp(file)) => {
            match conflicts.check("--security-opt seccomp", read_profile(file)) {
                Some(profile) if profile.is_unconfined() => return new.dangerously_unfiltered(),
                Some(profile) => profile,
                None => return new,
            }
        }
        _ => Profile::docker_default(),
    };
    let policy = Host::running().and_then(|host| profile.policy(&host.capabilities(capabilities.bits())));
    match conflicts.check("--security-opt seccomp", policy) {
        Some(policy) => new.seccomp(policy),
        None => new,
    }
}

#[cfg(feature = "profiles")]
fn read_profile(file: &Path) -> Result<Profile, String> {
    const MOST: u64 = 4 << 20;
    let shown = file.display();
    let meta = std::fs::metadata(file).map_err(|error| format!("{shown}: {error}"))?;
    if !meta.is_file() || meta.len() > MOST {
        return Err(format!("{shown}: no regular file of at most 4 MiB"));
    }
    let text = std::fs::read(file).map_err(|error| format!("{shown}: {error}"))?;
    Profile::from_json(&text).map_err(|error| format!("{shown}: {error}"))
}

#[cfg(not(feature = "profiles"))]
fn read_profile(file: &Path) -> Result<Profile, String> {
    Err(format!("{}: profiles in JSON are read with the feature `profiles`", file.display()))
}

fn label(
    docker: &Docker,
    security: &Security,
    new: SandboxBuilder,
    conflicts: &mut Conflicts,
) -> SandboxBuilder {
    if security.apparmor.is_none() && security.labels.is_empty() {
        return new;
    }
    if docker.privileged {
        let unconfined = security.apparmor.as_ref().is_none_or(|profile| profile == "unconfined");
        if !unconfined || security.labels.iter().any(|option| *option != LabelOption::Disable) {
            conflicts.add("--security-opt: a privileged container takes no label");
        }
        return new;
    }
    let mut label = None;
    if let Some(profile) = security.apparmor.as_ref().filter(|profile| *profile != "unconfined") {
        label = conflicts.check("--security-opt apparmor", ExecLabel::apparmor(profile));
    }
    let context =
        security.labels.iter().try_fold(Some(Context::container(std::process::id())), |context, option| {
            context.map_or(Ok(None), |context| context.with(option))
        });
    if let (Some(Some(context)), false) =
        (conflicts.check("--security-opt label", context), security.labels.is_empty())
    {
        if label.is_some() {
            conflicts
                .add("--security-opt: a program takes the label of one security module: apparmor or label");
        }
        label = Some(ExecLabel::selinux(context));
    }
    match label {
        Some(label) => new.exec_label(label),
        None => new,
    }
}

/// The limits, in the kernel's terms; empty if nothing was limited.
fn limits(docker: &Docker, conflicts: &mut Conflicts) -> Option<Limits> {
    let asked = &docker.resources;
    let mut limits = conflicts.check("resources", asked.memory.limits())?;
    if let Some(nano_cpus) = asked.nano_cpus {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        if let Some(max) = conflicts.check("--cpus", units::cpu_max(nano_cpus, cpus))? {
            limits = limits.cpu_max(max);
        }
    }
    if let Some(weight) = asked.cpu_shares.and_then(units::cpu_weight) {
        limits = limits.cpu_weight(weight);
    }
    if let Some(cpus) = &asked.cpuset_cpus {
        limits = limits.cpuset_cpus(&conflicts.check("--cpuset-cpus", cpus.parse())?);
    }
    if let Some(mems) = &asked.cpuset_mems {
        limits = limits.cpuset_mems(&conflicts.check("--cpuset-mems", mems.parse())?);
    }
    if let Some(pids) = asked.pids {
        limits = limits.pids_max(units::pids_max(pids));
    }
    if let Some(weight) = asked.blkio_weight.and_then(units::io_weight) {
        limits = limits.io_weight(weight);
    }
    Some(limits)
}

/// A cgroup, where something is limited. Its device rules are a second wall: no file system of the container has device
/// nodes that can be opened, but for /dev's own.
fn cgroup(
    docker: &Docker,
    limits: Limits,
    caller: &Caller,
    mut new: SandboxBuilder,
    conflicts: &mut Conflicts,
) -> SandboxBuilder {
    let narrowed = docker.devices.iter().any(|device| device.access() != Access::ALL);
    let must = narrowed || !docker.device_rules.is_empty();
    if limits.is_empty() && docker.cgroup_parent.is_none() && !must {
        return new;
    }
    new = new.cgroup(limits);
    if let Some(parent) = &docker.cgroup_parent {
        new = new.cgroup_parent(parent.clone());
    }
    if docker.privileged || !(caller.privileged || must) {
        return new;
    }
    let mut rules = DeviceRules::docker();
    for device in &docker.devices {
        for (host, _) in nodes(device.host(), device.container()) {
            match rule(&host, device.access()) {
                Ok(rule) => rules = rules.allow(rule),
                Err(error) => conflicts.add(format!("--device {}: {error}", host.display())),
            }
        }
    }
    rules = docker.device_rules.iter().fold(rules, |rules, rule| rules.allow(*rule));
    new.device_rules(rules)
}

fn rule(path: &Path, access: Access) -> std::io::Result<Device> {
    let meta = std::fs::metadata(path)?;
    let kind = if meta.file_type().is_block_device() { DeviceKind::Block } else { DeviceKind::Char };
    let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    Ok(Device { kind: Some(kind), major: Some(major as u32), minor: Some(minor as u32), access })
}
