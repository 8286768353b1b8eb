//! Entering a living sandbox: a further program in its namespaces, its cgroup, its root, under its user.
//!
//! The order is the opposite of a new sandbox's. The stage is executed in the host's namespaces, so its memory belongs
//! to the host's user namespace, in which nobody inside has a capability; it is not dumpable from its first call on;
//! only then does it join. It is not in the pid namespace that it joined, so nobody in there can name it. What can be
//! named is its one child, made when all that follows is already inside: root and directory, user, user namespace. It
//! has no descriptor but the control socket, the image and what was declared, and waits for the host program.
//!
//! That child is a sibling (`CLONE_PARENT`) and so a child of the host program, which waits for it as for any other.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use palisade_cgroup::Cgroup;
use palisade_creds::{Capability, Credentials, Gid, Maps, PreparedMaps, Uid, read_maps};
use palisade_ns::{AnyNs, Join, Namespace, Namespaces};
use palisade_procinfo::ProcRoot;
use palisade_sys::{FD_CONTROL, FD_PASSED, Fd, Place, Program, Slot, Step};

use crate::collector::is_exiting;
use crate::error::{Error, ErrorKind, Result};
use crate::newborn::Newborn;
use crate::order::{Payload, parent_death};
use crate::prepare::Prepared;
use crate::sys;

/// A process whose sandbox is to be entered.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A payload of the same [`Sandbox`](crate::Sandbox), in this cgroup.
    Ours(Option<Cgroup>),
    /// Somebody else's: whether the sandbox describes it is looked at.
    Foreign,
}

/// What the host program's side has to know of the stage's program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Input: the kinds of namespaces to join, where that is known only at the spawn.
    pub(crate) kinds: Option<Slot>,
    /// Where the pid of the process inside will stand.
    pub(crate) pid: Place,
}

/// Joins, becomes the sandbox's user, and goes on in a child that is inside altogether.
pub(crate) fn enter(p: &mut Program, sandbox: &Prepared, payload: &Payload) -> Entry {
    let kinds = p.input("kinds that differ");
    p.at(Step::Join, "");
    // Of one process, in one call: all of them or none.
    let target = Fd::number(FD_PASSED);
    p.setns(target, kinds);
    p.close(target);
    Entry { kinds: Some(kinds), pid: inside(p, sandbox, payload) }
}

/// Becomes the sandbox's user in the namespaces that were joined, and goes on in a child that is inside altogether.
/// Gives the place where its pid will stand.
pub(crate) fn inside(p: &mut Program, sandbox: &Prepared, payload: &Payload) -> Place {
    let during = payload.setup_capabilities(sandbox).bits();
    let pid = p.room(4);
    let identity = &sandbox.identity;
    if sandbox.maps.is_some() && identity.change {
        p.at(Step::Join, format!("{}:{}", identity.uid, identity.gid));
        // Our own id may be 0 inside, whose capabilities go with it.
        p.prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]);
        p.setresgid(identity.gid.as_raw());
        p.setresuid(identity.uid.as_raw());
        // A change of ids sets it to the sysctl fs.suid_dumpable.
        p.prctl(libc::PR_SET_DUMPABLE, [0; 4]);
    }
    p.at(Step::Join, "");
    p.capset(during, during, 0);
    p.prctl(libc::PR_SET_KEEPCAPS, [0; 4]);
    let (leave, inside) = (p.forward(), p.forward());
    p.fork_sibling(pid);
    p.branch(leave);
    p.getpid();
    p.branch(inside);
    p.land(leave);
    // The image is the sibling's from now on.
    p.exit(0);
    p.land(inside);
    parent_death(p);
    let go = p.room(1);
    p.read_exact(Fd::number(FD_CONTROL), go);
    pid
}

/// What was found out about a target just before it is entered.
#[derive(Debug)]
pub(crate) struct Way {
    /// Kinds in which it differs from the thread that clones.
    pub(crate) kinds: Namespaces,
    /// The cgroup to be born in, if it is another than the host program's.
    pub(crate) cgroup: Option<Cgroup>,
}

impl Target {
    /// The cgroup of a sandbox of ours.
    pub(crate) fn into_cgroup(self) -> Option<Cgroup> {
        match self.origin {
            Origin::Ours(cgroup) => cgroup,
            Origin::Foreign => None,
        }
    }

    /// Whether a cgroup is entered, as far as that is known.
    pub(crate) fn has_cgroup(&self) -> bool {
        matches!(self.origin, Origin::Ours(Some(_)))
    }

    /// Looks at the process. To be called on the thread that clones: which namespaces there are to join depends on
    /// where that is.
    pub(crate) fn look(&self, sandbox: &Prepared) -> Result<Way> {
        // Without a user namespace in between, that capability reaches what enters, which still has more then.
        let reach = sandbox.credentials.after().capabilities.bounding;
        if sandbox.maps.is_none() && sandbox.pod.is_none() && reach.contains(Capability::SysPtrace) {
            return Err(Error::invalid(
                "exec: a payload that has or may gain CAP_SYS_PTRACE without a user namespace of its own could attach to \
                 what enters: leave the capability out, or give the sandbox a user namespace",
            ));
        }
        let of_ns = |error: palisade_ns::Error| {
            let errno = error.errno();
            let gone = error.kind() == palisade_ns::ErrorKind::Gone;
            let kind = if gone { ErrorKind::Gone } else { ErrorKind::Setup };
            Error::from_source(kind, Step::Join, error, errno)
        };
        let pidfd = self.pidfd.try_clone().map_err(|error| Error::call(Step::Join, "dup", &error))?;
        let mut known = Namespaces::EMPTY;
        for kind in Namespaces::ALL.iter() {
            if kind.available().map_err(of_ns)? {
                known = known.union(kind.into());
            }
        }
        let kinds = Join::new().process(pidfd, known).prepare().map_err(of_ns)?.kinds();
        let cgroup = match &self.origin {
            Origin::Ours(cgroup) => cgroup.clone(),
            Origin::Foreign => self.check(sandbox, kinds)?,
        };
        Ok(Way { kinds, cgroup })
    }

    /// Whether `sandbox` says of the process what is true of it, and nothing that is more than it has; its cgroup.
    fn check(&self, sandbox: &Prepared, kinds: Namespaces) -> Result<Option<Cgroup>> {
        let process =
            ProcRoot::host().and_then(|proc| proc.process_of_pidfd(&self.pidfd)).map_err(of_proc)?;
        let own = sandbox.namespaces.union(sandbox.joined().map(AnyNs::kind).collect());
        let mut wrong = Vec::new();
        for kind in Namespaces::ALL.iter().filter(|kind| kinds.contains(*kind) != own.contains(*kind)) {
            wrong.push(if kinds.contains(kind) {
                format!("namespaces: the process is in another {kind} namespace, which the sandbox shares with the host")
            } else {
                format!("namespaces: the process shares the {kind} namespace with the host, the sandbox does not")
            });
        }
        let of_creds = |error: palisade_creds::Error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::Join, error, errno)
        };
        if kinds.contains(Namespace::User) {
            let theirs = read_maps(process.as_dir()).map_err(of_creds)?;
            wrong.extend(theirs.map_or(Some("id_maps: the process has none yet".into()), |theirs| {
                other_identity(sandbox, &theirs)
            }));
        }
        let has = Credentials::of(process.as_dir()).map_err(of_creds)?;
        let wider = sandbox.credentials.after().capabilities.permitted - has.capabilities.bounding;
        if !wider.is_empty() {
            wrong.push(format!("capabilities: {wider} is not in the bounding set of the process"));
        }
        if has.no_new_privs && !sandbox.credentials.after().no_new_privs {
            wrong.push("allow_privilege_escalation: the process has no_new_privs".into());
        }
        let of_cgroup = |error: palisade_cgroup::Error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::Cgroup, error, errno)
        };
        let cgroup = match (Cgroup::of_process(process.pid()), Cgroup::own()) {
            (Ok(theirs), Ok(own)) if theirs.id().map_err(of_cgroup)? == own.id().map_err(of_cgroup)? => None,
            (Ok(theirs), _) => Some(theirs),
            // Without a v2 hierarchy there is nothing to enter.
            (Err(_), Err(error))
                if matches!(
                    error.kind(),
                    palisade_cgroup::ErrorKind::V1Only | palisade_cgroup::ErrorKind::Absent
                ) =>
            {
                None
            }
            (Err(error), _) => return Err(of_cgroup(error)),
        };
        if !process.exists() || self.has_ended() {
            return Err(gone());
        }
        match &*wrong {
            [] => Ok(cgroup),
            wrong => Err(Error::new(
                ErrorKind::InvalidSpec,
                Step::Join,
                format!("the sandbox does not describe process {}: {}", process.pid(), wrong.join("; ")),
            )),
        }
    }

    /// Whether the process has ended or is about to. (The first one of a pid namespace has not ended before all others
    /// in there were waited for.)
    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let stat = || ProcRoot::host()?.process_of_pidfd(&self.pidfd)?.stat();
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
            || stat().map_or_else(
                |error| error.kind() == palisade_procinfo::ErrorKind::Gone,
                |stat| is_exiting(&stat),
            )
    }

    /// What failed because the sandbox has ended meanwhile says so.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let may_be =
            matches!(error.kind(), ErrorKind::Setup | ErrorKind::SetupKilled | ErrorKind::NotEnforced);
        if may_be && self.has_ended() { gone() } else { error }
    }
}

/// The namespaces say where an id of the sandbox is an id of the host: it must be the same one as in its own maps.
fn other_identity(sandbox: &Prepared, theirs: &Maps) -> Option<String> {
    let ours = sandbox.maps.as_ref().map(PreparedMaps::maps)?;
    let (uid, gid) = (sandbox.identity.uid, sandbox.identity.gid);
    let outside = |maps: &Maps| -> (Option<Uid>, Option<Gid>) {
        (maps.uid().to_outside(uid), maps.gid().to_outside(gid))
    };
    if outside(theirs) == outside(ours) {
        return None;
    }
    let show = |(uid, gid): (Option<Uid>, Option<Gid>)| {
        let one = |id: Option<u32>| id.map_or("nobody".into(), |id| id.to_string());
        format!("{}:{}", one(uid.map(Uid::as_raw)), one(gid.map(Gid::as_raw)))
    };
    Some(format!(
        "user: {uid}:{gid} of the sandbox stands for {} of the host, and in the process's user namespace for {};          give the maps that the process has, by id_maps",
        show(outside(ours)),
        show(outside(theirs))
    ))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Ours(None) => f.write_str("a payload of this sandbox"),
            Origin::Ours(Some(cgroup)) => {
                write!(f, "a payload of this sandbox, in {}", cgroup.path().display())
            }
            Origin::Foreign => f.write_str("a process that this sandbox describes"),
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Gone, Step::Join, "the sandbox has ended")
}

fn of_proc(error: palisade_procinfo::Error) -> Error {
    let gone = error.kind() == palisade_procinfo::ErrorKind::Gone;
    let errno = error.errno();
    let kind = if gone { ErrorKind::Gone } else { ErrorKind::Setup };
    Error::from_source(kind, Step::Join, error, errno)
}

/// Waits for the end of the process that entered, and takes over the one that it left inside. `false` if there is none
/// that lives.
pub(crate) fn follow(
    carrier: &mut Newborn,
    image: &OwnedFd,
    position: u64,
    control: &UnixStream,
) -> io::Result<bool> {
    let Some(pidfd) = &carrier.pidfd else { return Ok(false) };
    match sys::wait(pidfd, true, true) {
        // Its status was taken by the host program's own wait: it has ended, too.
        Err(error) if error.raw_os_error() != Some(libc::ECHILD) => return Err(error),
        _ => {}
    }
    let mut pid = [0; 4];
    nix::sys::uio::pread(image, &mut pid, position as i64)?;
    let pid = u32::from_le_bytes(pid);
    if pid == 0 {
        return Ok(false);
    }
    let pidfd = match sys::pidfd_open(pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
        opened => opened?,
    };
    // Nobody else holds the other end any more. So if it is open now, the process lived when the pidfd was opened, and
    // the number was its own.
    let mut fds = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::ZERO)? > 0 {
        return Ok(false);
    }
    carrier.succeed(pid, pidfd);
    Ok(true)
}
