//! The profiles of [`Profile`] through the public API, and each one's floor.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use palisade::cgroup::{Cgroup, Limits, OwnedCgroup};
use palisade::creds::{CapabilitySet, ThreadCapabilities};
use palisade::fsroot::{Dev, Proc, Root};
use palisade::ns::{Namespace, Namespaces};
use palisade::secfilter::presets;
use palisade::{Command, Lifetime, Sandbox, Stdio};

use crate::floor::{Floor, Profile, USER};
use crate::payload;

/// Inside the root of the profiles.
pub const PROGRAM: &str = "/payload";

/// A root file system with nothing but the payload and mount points.
#[must_use]
pub fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for directory in ["proc", "dev", "tmp"] {
        fs::create_dir(root.path().join(directory)).expect("it is empty");
    }
    payload::write(&root.path().join(PROGRAM.trim_start_matches('/'))).expect("it is ours");
    root
}

/// The same isolation as the floor's, said to the builder. `None`: not possible here.
#[must_use]
pub fn palisade(profile: Profile, root: &Path, parent: Option<&Cgroup>) -> Option<Command> {
    let mut builder = Sandbox::builder();
    let mut kinds = Namespaces::ALL.without(Namespace::Time);
    if profile < Profile::P4 {
        kinds = kinds.without(Namespace::Net);
    }
    if profile < Profile::P3 {
        kinds = kinds.without(Namespace::User);
        // The bounding set stays full, as the floor leaves it. With a user namespace it does not: a payload that could
        // gain the power to mount would be locked out of its mounts by a second one.
        let bounding = ThreadCapabilities::current().map_or(CapabilitySet::EMPTY, |own| own.bounding);
        builder = builder
            .user(USER, USER)
            .capability_sets(ThreadCapabilities { bounding, ..ThreadCapabilities::default() });
    }
    if profile < Profile::P5 {
        // Without a filter a payload could clear its parent-death signal, and each would get a guard: a process that the
        // floor does not have.
        builder = builder.dangerously_unfiltered().lifetime(Lifetime::Detached);
    }
    if profile >= Profile::P6 {
        builder = builder.cgroup(Limits::new()).cgroup_parent(parent?.clone());
    }
    if profile == Profile::P0 {
        kinds = Namespaces::EMPTY;
    }
    // The floor reads nothing back.
    builder = builder.namespaces(kinds).verify(false);
    let (builder, program) = if profile < Profile::P2 {
        (builder.dangerously_share_root(), root.join(PROGRAM.trim_start_matches('/')))
    } else {
        let root = Root::dir(root).mount(Proc::new("/proc")).mount(Dev::new("/dev"));
        (builder.root(root), PROGRAM.into())
    };
    let sandbox = builder.build().expect("the profile is possible here");
    let mut command = sandbox.command(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command)
}

/// The floor of a profile. `None`: not possible here.
#[must_use]
pub fn floor(profile: Profile, root: &Path, parent: Option<&Cgroup>) -> Option<Floor> {
    let filter = presets::payload().compile().expect("the default filter compiles");
    let filter: Vec<[u8; 8]> = filter
        .instructions()
        .iter()
        .map(|insn| {
            let mut bytes = [0; 8];
            bytes[..2].copy_from_slice(&insn.code.to_ne_bytes());
            bytes[2..4].copy_from_slice(&[insn.jt, insn.jf]);
            bytes[4..].copy_from_slice(&insn.k.to_ne_bytes());
            bytes
        })
        .collect();
    if profile >= Profile::P6 && parent.is_none() {
        return None;
    }
    Some(Floor::new(profile, root, PROGRAM, &filter, parent.map(Cgroup::path)))
}

/// A group of one's own below the delegated one: its children are the floor's and the sandboxes'. `None`, with a line
/// that says so, where there is none.
#[must_use]
pub fn group() -> Option<OwnedCgroup> {
    let group = Cgroup::delegated().and_then(|parent| parent.create_unique("palisade-bench", &Limits::new()));
    group.inspect_err(|error| println!("P6 is left out: {error}")).ok()
}

/// Waits until the library's thread has removed the cgroups of sandboxes that have ended, which is no part of a spawn.
pub fn settle(group: Option<&Cgroup>) {
    let Some(group) = group else { return };
    let below = |path: &Path| -> Vec<_> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    // Leaves are in one group that the guard keeps.
    while below(group.path()).iter().any(|kept| !below(kept).is_empty()) {
        std::thread::yield_now();
    }
}
