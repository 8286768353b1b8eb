//! Joining namespaces that exist.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use palisade_sys::{Fd, Program, Step};

use crate::apply::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::AnyNs;
use crate::namespace::{Namespace, Namespaces};
use crate::sys;

/// A descriptor of process `pid`, which stays its descriptor when the number is given to another process. Since
/// Linux 5.3. [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)
///
/// # Errors
/// [`ErrorKind::Gone`] if there is no such process.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd> {
    sys::pidfd_open(pid).map_err(|e| Error::io(&e, format!("pidfd_open of process {pid}")))
}

/// Which namespaces to join: of a process, single ones, or both.
///
/// ```no_run
/// use palisade_ns::{Join, Namespace, pidfd_open};
/// # fn main() -> palisade_ns::Result<()> {
/// let container = pidfd_open(4711)?;
/// let join = Join::new().process(container, Namespace::Net | Namespace::Uts).prepare()?;
/// join.pre_exec(&mut std::process::Command::new("hostname"));
/// # Ok(())
/// # }
/// ```
///
/// # Order
/// A user namespace comes before the namespaces that it owns (or that one below it owns): capabilities in it are what
/// joining those needs. It comes after the namespaces that others own: those need the capabilities that the
/// caller has before and loses by joining it.
///
/// # When a part fails
/// The namespaces of **one process** are joined by one call that does all or nothing (Linux 5.8). **Several sources** are
/// joined one after the other: after a failure the thread is in the first ones and not in the others. There is no way
/// back out of a user namespace, so that is not undone: join in a child or a thread that ends on failure.
///
/// # What it does not change
/// A joined **pid** namespace is that of later children, not of the caller. Joining a **mount** namespace sets root and
/// current directory to its root. Environment, cgroup, ids and open files stay those of the caller.
///
/// [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html)
#[derive(Clone, Debug, Default)]
#[doc(alias = "setns")]
#[doc(alias = "nsenter")]
pub struct Join {
    sources: Vec<Source>,
}

#[derive(Clone, Debug)]
enum Source {
    Namespace(AnyNs),
    Process(Arc<OwnedFd>, Namespaces),
}

impl Join {
    /// Joins nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// One namespace: an [`Ns`](crate::Ns) or [`AnyNs`].
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<AnyNs>) -> Self {
        self.sources.push(Source::Namespace(namespace.into()));
        self
    }

    /// Those of these kinds of the process of `pidfd`.
    #[must_use]
    pub fn process(mut self, pidfd: OwnedFd, kinds: Namespaces) -> Self {
        self.sources.push(Source::Process(Arc::new(pidfd), kinds));
        self
    }

    /// Finds the namespaces and their order. Those that the calling thread is in already are left out, as joining
    /// them would need privilege and change nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if there are two namespaces of one kind; as for [`AnyNs::of_pidfd`].
    pub fn prepare(&self) -> Result<PreparedJoin> {
        let mut wanted: Vec<AnyNs> = Vec::new();
        for source in &self.sources {
            match source {
                Source::Namespace(namespace) => add(&mut wanted, namespace.clone())?,
                Source::Process(pidfd, kinds) => {
                    for kind in kinds.iter() {
                        add(&mut wanted, AnyNs::of_pidfd(pidfd, kind)?)?;
                    }
                }
            }
        }
        let mut left = Vec::new();
        for namespace in wanted {
            if !is_joined(&namespace)? {
                left.push(namespace);
            }
        }
        let kinds: Namespaces = left.iter().map(AnyNs::kind).collect();
        let calls = match &self.sources[..] {
            _ if left.is_empty() => Vec::new(),
            [Source::Process(pidfd, _)] => vec![(pidfd.clone(), kinds)],
            _ => in_order(&left)?.map(|ns| (ns.shared_fd(), ns.kind().into())).collect(),
        };
        Ok(PreparedJoin { calls })
    }
}

fn add(wanted: &mut Vec<AnyNs>, namespace: AnyNs) -> Result<()> {
    match wanted.iter().find(|other| other.kind() == namespace.kind()) {
        None => wanted.push(namespace),
        Some(same) if *same == namespace => {}
        Some(other) => {
            let what = format!("{namespace} and {other} cannot both be joined: they are of one kind");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
    }
    Ok(())
}

/// Whether the calling thread and its later children are in it.
fn is_joined(namespace: &AnyNs) -> Result<bool> {
    if AnyNs::current(namespace.kind())? != *namespace {
        return Ok(false);
    }
    match AnyNs::for_children(namespace.kind()) {
        Ok(children) => Ok(children == *namespace),
        // A new pid namespace without a process yet.
        Err(e) if e.kind() == ErrorKind::Gone => Ok(false),
        Err(e) => Err(e),
    }
}

fn in_order(namespaces: &[AnyNs]) -> Result<impl Iterator<Item = &AnyNs>> {
    let user = namespaces.iter().find(|ns| ns.kind() == Namespace::User);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for namespace in namespaces.iter().filter(|ns| ns.kind() != Namespace::User) {
        match user {
            Some(user) if is_owned_within(namespace, user)? => after.push(namespace),
            _ => before.push(namespace),
        }
    }
    Ok(before.into_iter().chain(user).chain(after))
}

/// Whether `user`, or a user namespace below it, owns `namespace`.
fn is_owned_within(namespace: &AnyNs, user: &AnyNs) -> Result<bool> {
    let mut owner = namespace.owner()?;
    while let Some(above) = owner {
        if above.as_any() == user {
            return Ok(true);
        }
        owner = above.parent()?;
    }
    Ok(false)
}

/// The calls of a [`Join`], in their order.
#[derive(Clone, Debug)]
pub struct PreparedJoin {
    /// One setns each: a namespace and its kind, or a pidfd and kinds.
    calls: Vec<(Arc<OwnedFd>, Namespaces)>,
}

impl PreparedJoin {
    /// The kinds that will be joined: without those that the caller was in.
    pub fn kinds(&self) -> Namespaces {
        self.calls.iter().fold(Namespaces::EMPTY, |all, (_, kinds)| all.union(*kinds))
    }

    /// Whether it is one call, that does all or nothing.
    pub fn is_atomic(&self) -> bool {
        self.calls.len() <= 1
    }

    /// Whether only children will be inside: a pid namespace is among them.
    pub fn needs_fork(&self) -> bool {
        self.kinds().contains(Namespace::Pid)
    }

    /// The descriptors that the program needs, to be passed in this order at numbers from `first_fd` on.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.calls.iter().map(|(fd, _)| fd.as_fd()).collect()
    }

    /// One setns(2) a descriptor, which have the numbers `first_fd`, `first_fd + 1` … when it runs. It leaves them open.
    pub fn program(&self, first_fd: i32) -> Program {
        self.build((first_fd..).map(Fd::number))
    }

    fn build(&self, descriptors: impl Iterator<Item = Fd>) -> Program {
        let mut p = Program::new();
        for ((_, kinds), fd) in self.calls.iter().zip(descriptors) {
            p.at(Step::Join, kinds.to_string());
            p.setns(fd, kinds.flags());
        }
        p
    }

    /// The same with the descriptors as they are in this process.
    pub fn here(&self) -> Prepared {
        use std::os::fd::AsRawFd as _;
        let numbers = self.calls.iter().map(|(fd, _)| Fd::number(fd.as_raw_fd()));
        Prepared::new(self.build(numbers), self.calls.iter().map(|(fd, _)| fd.clone()).collect())
    }

    /// [`Prepared::run`].
    ///
    /// # Errors
    /// As there.
    pub fn run(&self) -> Result<()> {
        self.here().run()
    }

    /// [`Prepared::run_in_thread`].
    ///
    /// # Errors
    /// As there.
    pub fn run_in_thread(&self) -> Result<()> {
        self.here().run_in_thread()
    }

    /// [`Prepared::pre_exec`].
    ///
    /// Until its exec the child has a copy of this process's memory. It is made undumpable before it joins, so that
    /// a process inside that has `CAP_SYS_PTRACE` there cannot read it (CVE-2016-9962); the exec ends that.
    pub fn pre_exec<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let here = self.here();
        let mut p = Program::new();
        p.at(Step::Join, "");
        p.prctl(libc::PR_SET_DUMPABLE, [0; 4]);
        p.append(here.program());
        here.with_program(p).pre_exec(command)
    }
}
