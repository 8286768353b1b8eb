//! The raw calls of this crate.
#![expect(unsafe_code, reason = "this file holds the crate's raw calls")]

use std::ffi::{CStr, c_int, c_long};
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use palisade_sys::{Fault, Image};

use crate::error::{Error, Result};

/// `statfs.f_type` of namespace files.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Requests of nsfs: see [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
pub(crate) mod nsfs {
    pub(crate) use libc::{
        NS_GET_OWNER_UID as OWNER_UID, NS_GET_PARENT as PARENT, NS_GET_PID_FROM_PIDNS as PID_TO_CALLER,
        NS_GET_PID_IN_PIDNS as PID_FROM_CALLER, NS_GET_USERNS as USERNS,
    };
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that the kernel has just made for us.
fn own(result: c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as c_int;
    // SAFETY: the kernel has just returned this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) struct Uname {
    pub(crate) nodename: Vec<u8>,
    pub(crate) domainname: Vec<u8>,
}

pub(crate) fn uname() -> Result<Uname> {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the place is as large as what uname(2) writes.
    let result = unsafe { libc::uname(names.as_mut_ptr()) };
    check(result.into()).map_err(|e| Error::io(&e, "uname"))?;
    // SAFETY: the struct is all bytes: zeros and what uname wrote.
    let names = unsafe { names.assume_init() };
    let text = |field: &[libc::c_char]| field.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    Ok(Uname { nodename: text(&names.nodename), domainname: text(&names.domainname) })
}

/// `statfs.f_type` of pidfds, since Linux 6.9.
const PIDFS_MAGIC: u64 = 0x5049_4446;

/// Whether the file is one of nsfs, so that its ioctls mean what we think.
pub(crate) fn is_nsfs(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(file)? == NSFS_MAGIC)
}

/// Whether the file is a pidfd that is asked by ioctls.
pub(crate) fn is_pidfs(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(file)? == PIDFS_MAGIC)
}

fn file_system(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the place is as large as what fstatfs(2) writes.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    check(result.into())?;
    // SAFETY: the struct is integers: zeros and what fstatfs wrote.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type as u64)
}

/// The `CLONE_NEW*` value of a file of nsfs.
pub(crate) fn ns_type(namespace: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: this request takes no argument.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_NSTYPE) };
    check(result.into()).map(|flag| flag as c_int)
}

/// `NS_GET_USERNS` or `NS_GET_PARENT`.
pub(crate) fn ns_relative(namespace: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    debug_assert!(matches!(request, nsfs::USERNS | nsfs::PARENT));
    // SAFETY: these two requests take no argument and return a new close-on-exec descriptor.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), request) };
    own(result.into())
}

/// `NS_GET_OWNER_UID`.
pub(crate) fn ns_owner_uid(namespace: BorrowedFd<'_>) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one uid_t to the place, which lives over the call.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), nsfs::OWNER_UID, &raw mut uid) };
    check(result.into())?;
    Ok(uid)
}

/// One of the requests that translate process ids.
pub(crate) fn ns_pid(namespace: BorrowedFd<'_>, request: libc::Ioctl, pid: u32) -> io::Result<u32> {
    debug_assert!(matches!(request, nsfs::PID_TO_CALLER | nsfs::PID_FROM_CALLER));
    // SAFETY: the argument of these requests is a number, not an address.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), request, libc::c_ulong::from(pid)) };
    check(result.into()).map(|pid| pid as u32)
}

pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, returns a new close-on-exec descriptor.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// `PIDFD_GET_*_NAMESPACE`, number `n`; since Linux 6.11, `ENOTTY` before.
pub(crate) fn pidfd_namespace(pidfd: BorrowedFd<'_>, n: u8) -> io::Result<OwnedFd> {
    const PIDFS_IOCTL_MAGIC: u32 = 0xff;
    let request = libc::_IO(PIDFS_IOCTL_MAGIC, n.into());
    // SAFETY: on a file of pidfs, as the caller has seen it is, these requests take no pointer and return a new
    // close-on-exec descriptor.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), request, 0) };
    own(result.into())
}

/// Whether the calling process has one thread only. Changes nothing: the kernel is asked to give this thread a
/// thread group of its own, which it grants only where there is nothing to do.
pub(crate) fn is_single_threaded() -> io::Result<bool> {
    // SAFETY: unsharing the thread group does nothing if it succeeds, and nothing if it fails.
    let result = unsafe { libc::unshare(libc::CLONE_THREAD) };
    match check(result.into()) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Runs a program that changes namespaces, and names in them, of the calling thread only.
pub(crate) fn run(image: &mut Image) -> std::result::Result<(), Fault> {
    // SAFETY: only programs of this crate get here. They open files of /proc, close what they opened, and change the
    // thread's namespaces and what is in them: no memory, no descriptor of the caller.
    unsafe { image.run() }
}

/// Closes what a program opened in this process and, since it failed, did not close.
pub(crate) fn close_all(descriptors: Vec<RawFd>) {
    for fd in descriptors {
        // SAFETY: calls of the program returned these descriptors, and nobody else has been told of them.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// Has the child of `command` run a fresh copy of `image` between fork and exec. `keep` lives as long as the command.
pub(crate) fn pre_exec<T: Send + Sync + 'static>(command: &mut Command, image: Image, keep: T) {
    let (mut image, mut used) = (image, false);
    let run = move || {
        let _alive = &keep;
        // Each forked child has its own copy of this closure. Only exec without fork can come here twice, after a
        // failure: the image has been run and half of its work is done.
        if std::mem::replace(&mut used, true) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        run(&mut image).map_err(|fault| io::Error::from_raw_os_error(fault.errno))
    };
    // SAFETY: the closure makes system calls only: no allocation (an io::Error of an errno needs none), no lock.
    unsafe { command.pre_exec(run) };
}

/// Attaches the namespace on the regular file `target`: a bind mount made by descriptors.
pub(crate) fn bind(namespace: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let empty: &CStr = c"";
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the path is a C string that lives over the call.
    let copy =
        own(unsafe { libc::syscall(libc::SYS_open_tree, namespace.as_raw_fd(), empty.as_ptr(), flags) })?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (copy.as_raw_fd(), target.as_raw_fd());
    // SAFETY: both paths are C strings that live over the call.
    let moved =
        unsafe { libc::syscall(libc::SYS_move_mount, from, empty.as_ptr(), to, empty.as_ptr(), flags) };
    check(moved).map(drop)
}

/// Detaches the mount on top of `path`, which is not followed if it is a symbolic link.
pub(crate) fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is a C string that lives over the call.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
    check(result.into()).map(drop)
}

/// A child of this process that has run a program and keeps what it made until this is dropped or the thread ends.
pub(crate) struct Holder {
    socket: UnixStream,
    pidfd: OwnedFd,
    pid: u32,
}

/// Beyond the 32 bits of libc's constant.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// What a child reports that ran its program to the end.
const RAN: Fault = Fault { index: u32::MAX, errno: 0, bit: 0 };

/// Forks such a child. Its end sends no SIGCHLD, and only [`Holder::end`] waits for it: neither a reaper of the host
/// program nor an ignored SIGCHLD comes between.
pub(crate) fn hold(image: &mut Image) -> io::Result<Holder> {
    let (socket, childs) = UnixStream::pair()?;
    let mut pidfd: c_int = -1;
    let args = libc::clone_args {
        flags: libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM the child has its own copy of this memory; the arguments live over the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    if pid == 0 {
        in_child(image, &childs);
    }
    let pid = check(pid)? as u32;
    Ok(Holder { socket, pidfd: own(pidfd.into())?, pid })
}

/// Runs the program, reports, waits for the parent. Makes system calls only: the process was forked from one that may
/// have threads.
fn in_child(image: &mut Image, mut socket: &UnixStream) -> ! {
    let outcome = run(image).err().unwrap_or(RAN);
    let words = [outcome.index, outcome.errno as u32, outcome.bit].map(u32::to_ne_bytes);
    // After the program, since a change of credentials would undo it. Sent by the end of the thread that forked.
    // SAFETY: takes numbers.
    let armed = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let told = words.iter().try_for_each(|word| socket.write_all(word));
    if armed == 0 && told.is_ok() {
        // Until the parent closes its end; an error says no less that it is over.
        drop(socket.read(&mut [0]));
    }
    // SAFETY: ends the child without running what the parent has registered for its own exit.
    unsafe { libc::_exit(0) }
}

impl Holder {
    /// The child's pid, once its program has run; or where that stopped.
    pub(crate) fn started(&mut self) -> io::Result<std::result::Result<u32, Fault>> {
        let mut words = [[0; 4]; 3];
        for word in &mut words {
            self.socket.read_exact(word)?;
        }
        let [index, errno, bit] = words.map(u32::from_ne_bytes);
        let outcome = Fault { index, errno: errno as i32, bit };
        Ok(if outcome == RAN { Ok(self.pid) } else { Err(outcome) })
    }

    /// Ends and reaps the child.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Both) {
            // It has ended by itself.
            Err(e) if e.kind() != io::ErrorKind::NotConnected => return Err(e),
            _ => {}
        }
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::__WALL;
        loop {
            let pidfd = self.pidfd.as_raw_fd() as libc::id_t;
            // SAFETY: the place is as large as what waitid(2) writes.
            let result = unsafe { libc::waitid(libc::P_PIDFD, pidfd, info.as_mut_ptr(), options) };
            match check(result.into()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Reaped before.
                Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
                other => return other.map(drop),
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Fails only where the descriptors are not what they were: no child of ours is left then either.
        drop(self.end());
    }
}
