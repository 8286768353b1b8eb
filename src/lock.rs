//! The second user namespace, which locks the view.
//!
//! Who has CAP_SYS_ADMIN in the user namespace that owns a mount namespace can unmount masks there and make read-only
//! mounts writable. In a copy of the mount namespace that a user namespace further down owns, the kernel locks what was
//! there before. So a payload that has, or may gain, that capability gets its own capabilities one level below: over
//! its mounts, host name, network and so on, which are made there, but not over the view.

use palisade_creds::{Capability, IdMap, Maps};
use palisade_fsroot::PreparedRoot;
use palisade_ns::{Namespace, Namespaces};
use palisade_sys::{Fd, OpenHow, Program, Slot, Step};

use crate::order::parent_death;
use crate::prepare::Identity;
use crate::sandbox::Spec;

/// How a view is locked.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    /// Kinds that are made with the second user namespace and owned by it: not by the clone.
    pub(crate) late: Namespaces,
    /// Its maps: every id of the first one as itself.
    uid: String,
    gid: String,
    pub(crate) identity: Identity,
}

impl Lock {
    /// What a process in the first user namespace needs to write the maps of the second.
    pub(crate) const CAPABILITIES: [Capability; 3] =
        [Capability::Setuid, Capability::Setgid, Capability::Setfcap];

    /// `wired`: the host program does something to the network before the stage goes on.
    pub(crate) fn new(
        spec: &Spec,
        root: Option<&PreparedRoot>,
        maps: &Maps,
        identity: Identity,
        wired: bool,
    ) -> Self {
        let mut late = Namespaces::EMPTY;
        for (kind, filesystem) in [
            (Namespace::Uts, ""),
            (Namespace::Net, "sysfs"),
            (Namespace::Ipc, "mqueue"),
            (Namespace::Cgroup, "cgroup2"),
        ] {
            // A file system that shows a namespace is mounted by the namespace's owner; parameters are set and networks
            // wired before.
            let mounted = root.is_some_and(|root| root.mounts_filesystem(filesystem));
            let parameters = !spec.sysctls.is_empty() && matches!(kind, Namespace::Net | Namespace::Ipc);
            let wired = wired && kind == Namespace::Net;
            if spec.namespaces.contains(kind) && !mounted && !parameters && !wired {
                late = late.with(kind);
            }
        }
        let same = |map: &IdMap| {
            let line =
                |range: &palisade_creds::IdRange| format!("{0} {0} {1}\n", range.inside(), range.count());
            map.ranges().iter().map(line).collect()
        };
        Self { late, uid: same(maps.uid()), gid: same(maps.gid()), identity }
    }

    /// Opens the stage's own directory in the host's `/proc`, through which its maps will be written.
    pub(crate) fn open(p: &mut Program) -> Slot {
        p.at(Step::Propagation, "/proc/self");
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        p.openat2(Fd::CWD, c"/proc/self", OpenHow { flags, ..OpenHow::default() })
    }

    /// Goes down. The maps are written by a child that stays above: ranges take capabilities there, which who has gone
    /// down has not got any more.
    pub(crate) fn emit(&self, p: &mut Program, own: Slot, during: u64) {
        p.at(Step::LockMounts, "");
        let start = p.eventfd();
        let stage = p.forward();
        let child = p.fork();
        p.branch(stage);
        parent_death(p);
        let word = p.room(8);
        p.read_exact(start, word);
        for (file, map) in [(c"gid_map", &self.gid), (c"uid_map", &self.uid)] {
            p.at(Step::LockMounts, file.to_string_lossy());
            let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
            let file = p.openat2(own, file, OpenHow { flags: libc::O_WRONLY, resolve, ..OpenHow::default() });
            p.write_all(file, map.as_bytes());
        }
        p.exit(0);
        p.land(stage);
        p.at(Step::LockMounts, "");
        let kinds = self.late.with(Namespace::User).with(Namespace::Mount);
        p.unshare(kinds.bits() as i32);
        // Its files in /proc are its own again for these writes. Nobody inside could make use of that: there is none.
        p.prctl(libc::PR_SET_DUMPABLE, [1, 0, 0, 0]);
        p.write_all(start, &1u64.to_ne_bytes());
        p.wait_for_child(child);
        p.prctl(libc::PR_SET_DUMPABLE, [0; 4]);
        // If the maps were not written, these ids do not exist here.
        p.at(Step::LockMounts, "id maps");
        p.setresgid(self.identity.gid.as_raw());
        p.setresuid(self.identity.uid.as_raw());
        p.at(Step::LockMounts, "");
        p.capset(during, during, 0);
        parent_death(p);
    }
}
