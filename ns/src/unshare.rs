//! Making new namespaces for the calling process, a thread, or a child of `std::process::Command`.

use palisade_sys::{Program, Step};

use crate::apply::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::loopback::loopback_up;
use crate::namespace::{Namespace, Namespaces};
use crate::time::TimeOffsets;
use crate::uts::{DomainName, Hostname};

/// Moves the calling process into new namespaces of these kinds: [`Unshare`] with nothing else.
///
/// ```no_run
/// palisade_ns::unshare(palisade_ns::Namespace::User | palisade_ns::Namespace::Net)?;
/// # Ok::<(), palisade_ns::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::MultiThreaded`] if the process has several threads; else as for [`Prepared::run`].
///
/// [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html)
pub fn unshare(kinds: impl Into<Namespaces>) -> Result<()> {
    Unshare::new(kinds).prepare()?.run()
}

/// New namespaces, and what is set in them at once.
///
/// ```
/// use palisade_ns::{Namespace, Unshare};
///
/// let mut command = std::process::Command::new("uname");
/// let new = Unshare::new(Namespace::User | Namespace::Uts).hostname("inside".parse()?);
/// new.prepare()?.pre_exec(&mut command);
/// # if palisade_testkit::can_unshare_user() {
/// assert_eq!(command.arg("-n").output()?.stdout, b"inside\n");
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// All kinds are made by one call, in which a user namespace comes first and owns the others, so that with it no
/// privilege is needed. Without it, `CAP_SYS_ADMIN` is.
///
/// A new **mount** namespace is a copy: mounts still go to and come from the shared ones of the old until their
/// propagation is made private. A new **pid** namespace is for children made later; the first is its pid 1 and its end is
/// the end of all. A new **cgroup** namespace has its root at the cgroup the process is in: enter the leaf before. A new
/// **user** namespace has no ids mapped: until another process writes its maps, files cannot be made in it, and an
/// execve drops all capabilities.
#[derive(Clone, Debug, Default)]
pub struct Unshare {
    kinds: Namespaces,
    hostname: Option<Hostname>,
    domainname: Option<DomainName>,
    offsets: Option<TimeOffsets>,
    loopback: bool,
}

impl Unshare {
    /// New namespaces of these kinds.
    pub fn new(kinds: impl Into<Namespaces>) -> Self {
        Self { kinds: kinds.into(), ..Self::default() }
    }

    pub(crate) fn kinds(&self) -> Namespaces {
        self.kinds
    }

    /// Sets the host name in the new uts namespace.
    #[must_use]
    pub fn hostname(self, name: Hostname) -> Self {
        Self { hostname: Some(name), ..self }
    }

    /// Sets the domain name in the new uts namespace.
    #[must_use]
    pub fn domainname(self, name: DomainName) -> Self {
        Self { domainname: Some(name), ..self }
    }

    /// Sets the clocks of the new time namespace.
    #[must_use]
    pub fn time_offsets(self, offsets: TimeOffsets) -> Self {
        Self { offsets: Some(offsets), ..self }
    }

    /// Brings up `lo` in the new network namespace.
    #[must_use]
    pub fn loopback_up(self) -> Self {
        Self { loopback: true, ..self }
    }

    /// Checks it and makes the program.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if something is to be set in a namespace that would not be new: it would be set for
    /// all its members.
    pub fn prepare(&self) -> Result<Prepared> {
        let set_in = [
            ("a host name", self.hostname.is_some(), Namespace::Uts),
            ("a domain name", self.domainname.is_some(), Namespace::Uts),
            ("clock offsets", self.offsets.is_some(), Namespace::Time),
            ("loopback up", self.loopback, Namespace::Net),
        ];
        if let Some((what, _, kind)) =
            set_in.iter().find(|(_, set, kind)| *set && !self.kinds.contains(*kind))
        {
            let message =
                format!("{what} without a new {kind} namespace would change the one in use: add {kind}");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let mut p = Program::new();
        let (at_once, time) = (self.kinds.without(Namespace::Time), self.kinds.contains(Namespace::Time));
        if !at_once.is_empty() {
            p.at(Step::Clone, at_once.to_string());
            p.unshare(at_once.flags());
        }
        if time {
            p.append(&self.offsets.unwrap_or_default().program());
        }
        for program in
            [self.hostname.as_ref().map(Hostname::program), self.domainname.as_ref().map(DomainName::program)]
        {
            p.append(&program.unwrap_or_default());
        }
        if self.loopback {
            p.append(&loopback_up());
        }
        Ok(Prepared::new(p, Vec::new()))
    }
}
