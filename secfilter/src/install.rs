//! Putting a filter into force.

use std::process::Command;

use palisade_sys::{Program, Slot, Step};

use crate::error::{Error, Repr};
use crate::filter::Filter;
use crate::listener::Listener;
use crate::sys;

const FLAG_TSYNC: u64 = 1;
const FLAG_LOG: u64 = 1 << 1;
const FLAG_SPEC_ALLOW: u64 = 1 << 2;
const FLAG_NEW_LISTENER: u64 = 1 << 3;
const FLAG_TSYNC_ESRCH: u64 = 1 << 4;
const FLAG_WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// A filter and how to install it.
///
/// A filter cannot be taken off again, is inherited by children and kept by exec, and further ones add to it: of all
/// their answers the severest counts.
///
/// The kernel takes a filter from a thread that has `no_new_privs` (so that it cannot confuse a set-user-id program)
/// or CAP_SYS_ADMIN in its user namespace. The default is to **set no_new_privs first**: it works for everybody, and
/// cannot be taken back. [`keep_privileges`](Install::keep_privileges) leaves it out.
///
/// ```
/// use palisade_secfilter::{Install, presets};
///
/// let filter = presets::payload().compile()?;
/// // In a command's child:
/// let mut command = std::process::Command::new("/bin/true");
/// Install::new(&filter).confine(&mut command)?;
/// assert!(command.status()?.success());
/// // In this thread:
/// std::thread::spawn(move || Install::new(&filter).apply()).join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// See [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html).
#[derive(Clone, Debug)]
pub struct Install {
    filter: Filter,
    no_new_privs: bool,
    flags: u64,
}

impl Install {
    /// Installs `filter` in the calling thread, with no_new_privs.
    pub fn new(filter: &Filter) -> Self {
        Install { filter: filter.clone(), no_new_privs: true, flags: 0 }
    }

    /// Leaves no_new_privs alone: then the thread must have it already, or CAP_SYS_ADMIN.
    pub fn keep_privileges(mut self) -> Self {
        self.no_new_privs = false;
        self
    }

    /// Gives all threads of the process the filter (and no_new_privs), or none: it fails with
    /// [`ErrorKind::Thread`](crate::ErrorKind::Thread) if another thread has a filter that the calling thread does not have.
    /// Threads that exist already keep what they have opened and mapped.
    pub fn all_threads(mut self) -> Self {
        self.flags |= FLAG_TSYNC;
        self
    }

    /// Logs what the filter does, other than allowing (see the sysctl `kernel.seccomp.actions_logged`). Linux 4.14.
    pub fn log(mut self) -> Self {
        self.flags |= FLAG_LOG;
        self
    }

    /// Leaves the protection against speculative store bypass as it is (before Linux 5.16 a filter switched it on,
    /// which slows some programs down). Linux 4.17.
    pub fn allow_speculation(mut self) -> Self {
        self.flags |= FLAG_SPEC_ALLOW;
        self
    }

    /// While a [`Listener`] looks at a call, only a fatal signal interrupts it. Needs a listener. Linux 5.19.
    pub fn wait_killable(mut self) -> Self {
        self.flags |= FLAG_WAIT_KILLABLE_RECV;
        self
    }

    /// The installation as a program, for a child or a stage to run. It belongs last: what comes after it is filtered.
    pub fn prepare(&self) -> Program {
        let (mut program, _) = self.build(false);
        // Anything else is the id of a thread that could not take it.
        program.expect(0);
        program
    }

    /// As [`prepare`](Install::prepare), with a listener: the slot holds its descriptor, which has to be brought to the
    /// supervisor (by `SCM_RIGHTS` or pidfd_getfd) with calls that the filter does not notify about.
    pub fn prepare_with_listener(&self) -> (Program, Slot) {
        self.build(true)
    }

    fn build(&self, listener: bool) -> (Program, Slot) {
        let mut program = Program::new();
        if self.no_new_privs {
            program.at(Step::NoNewPrivs, "");
            program.prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]);
        }
        let count = self.filter.instructions().len();
        program.at(Step::Seccomp, format!("filter of {count} instructions"));
        let mut flags = self.flags;
        if listener {
            flags |= FLAG_NEW_LISTENER;
            if flags & FLAG_TSYNC != 0 {
                // Both answer with a number: a descriptor, or the thread that failed. This makes the latter an error.
                flags |= FLAG_TSYNC_ESRCH;
            }
        }
        let slot = program.seccomp_filter(&self.filter.to_bytes(), flags);
        (program, slot)
    }

    /// Installs it in the calling thread.
    ///
    /// # Errors
    /// [`Privilege`](crate::ErrorKind::Privilege) with [`keep_privileges`](Install::keep_privileges);
    /// [`Thread`](crate::ErrorKind::Thread) with [`all_threads`](Install::all_threads);
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the kernel lacks seccomp or one of the flags;
    /// [`Os`](crate::ErrorKind::Os) otherwise: ENOMEM where all filters of the thread together are too long.
    pub fn apply(&self) -> Result<(), Error> {
        self.run(false, |_| {}).map(drop)
    }

    /// Installs it in the calling thread and returns the listener for [`Action::UserNotif`](crate::Action::UserNotif).
    /// Only one filter of a thread can have one. Linux 5.0.
    ///
    /// # Errors
    /// As [`apply`](Install::apply); EBUSY if there is a listener already.
    pub fn apply_with_listener(&self) -> Result<Listener, Error> {
        let fd = self.run(true, |_| {})?;
        Ok(Listener::from(sys::adopt(fd)))
    }

    /// Installs it with a listener, whose number `ready` gets before this thread makes another call.
    pub(crate) fn apply_and(&self, ready: impl FnOnce(i32)) -> Result<(), Error> {
        self.run(true, |result| ready(result as i32)).map(drop)
    }

    /// Has `command`'s child install it right before exec. (A hook that is added later runs under the filter.)
    ///
    /// # Errors
    /// [`ForbidsExec`](crate::ErrorKind::ForbidsExec), now, if the filter would stop the exec.
    /// Failures of the installation are errors of `Command::spawn`.
    pub fn confine(&self, command: &mut Command) -> Result<(), Error> {
        self.filter.permits_exec()?;
        sys::before_exec(command, self.prepare().image());
        Ok(())
    }

    fn run(&self, listener: bool, ready: impl FnOnce(u64)) -> Result<u64, Error> {
        let (program, slot) = self.build(listener);
        let mut image = program.image();
        sys::run(&mut image).map_err(|fault| self.explain(fault.errno, listener))?;
        let result = image.slot(slot);
        ready(result);
        match result {
            result if listener || result == 0 => Ok(result),
            tid => Err(Repr::Thread { tid: u32::try_from(tid).ok() }.into()),
        }
    }

    fn explain(&self, errno: i32, listener: bool) -> Error {
        match errno {
            libc::EACCES => Repr::Privilege.into(),
            libc::ESRCH => Repr::Thread { tid: None }.into(),
            libc::ENOSYS => Repr::Unsupported { what: "seccomp filters", errno }.into(),
            libc::EINVAL if listener || self.flags & !FLAG_TSYNC != 0 => {
                Repr::Unsupported { what: "one of the filter flags that were asked for", errno }.into()
            }
            _ => Repr::Os { call: "seccomp(SECCOMP_SET_MODE_FILTER)", errno }.into(),
        }
    }
}

impl Filter {
    /// Installs the filter in the calling thread, with no_new_privs: short for [`Install::apply`].
    ///
    /// # Errors
    /// As [`Install::apply`].
    pub fn apply(&self) -> Result<(), Error> {
        Install::new(self).apply()
    }

    /// The program in the kernel's form, 8 bytes an instruction.
    fn to_bytes(&self) -> Vec<u8> {
        let words = self.instructions().iter().flat_map(|insn| {
            let [c0, c1] = insn.code.to_ne_bytes();
            let [k0, k1, k2, k3] = insn.k.to_ne_bytes();
            [c0, c1, insn.jt, insn.jf, k0, k1, k2, k3]
        });
        words.collect()
    }
}
