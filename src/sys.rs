//! The raw calls of the engine: the clone that shares memory until the stage runs, and waiting by pidfd.
#![expect(unsafe_code, reason = "the one place of this crate that makes raw system calls")]

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicI32;

use palisade_sys::{Fault, Image};

/// A mapped stack for the moments in which a child shares our memory, with a guard page below it. Kept by its
/// spawner thread from spawn to spawn.
#[derive(Debug)]
pub(crate) struct ChildStack {
    base: NonNull<c_void>,
}

/// Bytes of a child's stack, its guard page included. The interpreter needs a few hundred bytes; debug builds some
/// kilobytes.
const STACK: usize = 68 << 10;
const PAGE: usize = 4096;

// SAFETY: the mapping belongs to the value alone, whichever thread holds it.
unsafe impl Send for ChildStack {}

impl ChildStack {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), STACK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        let base = NonNull::new(base).filter(|base| base.as_ptr() != libc::MAP_FAILED);
        let stack = Self { base: base.ok_or_else(io::Error::last_os_error)? };
        // SAFETY: the lowest page of the mapping just made.
        cvt(unsafe { libc::mprotect(stack.base.as_ptr(), PAGE, libc::PROT_NONE) })?;
        Ok(stack)
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no child runs on it: the clone that lends it
        // returns only after the child has left it. Unmapping a whole mapping can't fail.
        unsafe { libc::munmap(self.base.as_ptr(), STACK) };
    }
}

/// Clones a child that runs `prologue` in our memory while we are suspended, until it executes or exits.
///
/// The pidfd is stored into `pidfd` by the kernel before that, so that another thread can kill the child meanwhile.
/// Signals must be blocked in the calling thread, since the child has its handlers' memory.
pub(crate) fn clone_child(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    pidfd: &AtomicI32,
    stack: &mut ChildStack,
    prologue: &mut Image,
) -> io::Result<u32> {
    // CLONE_PIDFD, CLONE_VM, CLONE_VFORK; no exit signal.
    let mut args = libc::clone_args {
        flags: flags | (libc::CLONE_PIDFD | libc::CLONE_VM | libc::CLONE_VFORK) as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: pidfd.as_ptr() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: stack.base.as_ptr() as u64 + PAGE as u64,
        stack_size: (STACK - PAGE) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    if cgroup.is_some() {
        args.flags |= CLONE_INTO_CGROUP;
    }
    let result: i64;
    // SAFETY: the parent continues after the asm with the kernel's result in rax and all other registers kept. The
    // child never leaves the asm: it starts with the given stack, whose top is 16-byte aligned, and calls a function
    // that does not return. CLONE_VFORK keeps this frame, and what `prologue` borrows, alive meanwhile.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw mut args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") ptr::from_mut(prologue),
            in("r13") run_prologue as extern "C" fn(*mut Image) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as u32) }
}

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The first function of a child. It ends by executing the stage, or by exit after the image holds the fault.
extern "C" fn run_prologue(prologue: *mut Image) -> ! {
    // SAFETY: the parent is suspended and lends its image until we execute or exit.
    let prologue = unsafe { &mut *prologue };
    // SAFETY: the calls act on the child: its descriptor table is a copy, its identity its own. The fault, if any, is
    // in the image.
    let _fault_is_in_the_image = unsafe { prologue.run() };
    // SAFETY: ends the child only; it is a process of its own.
    unsafe { libc::_exit(127) }
}

/// Runs a program in the calling thread.
pub(crate) fn run_here(image: &mut Image) -> Result<(), Fault> {
    // SAFETY: called with programs of this crate that act on a spawner thread's credentials, or open descriptors.
    unsafe { image.run() }
}

/// Takes the descriptor that the kernel stored.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for the clone that just returned, or a program for the image that just ran; nobody
    // else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `pidfd_send_signal`.
pub(crate) fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let null = ptr::null::<libc::siginfo_t>();
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: takes no address but the null.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, null, 0) } as i32).map(drop)
}

/// What `waitid` reports of one child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited {
    /// As `wait` encodes it.
    pub(crate) status: i32,
    pub(crate) usage: libc::rusage,
}

/// `waitid(P_PIDFD, WEXITED | __WALL)`: `None` while the child runs, if it may not block.
pub(crate) fn wait(pidfd: impl AsFd, block: bool, keep: bool) -> io::Result<Option<Waited>> {
    let options = if block { 0 } else { libc::WNOHANG } | if keep { libc::WNOWAIT } else { 0 };
    let waited = waitid(libc::P_PIDFD, pidfd.as_fd().as_raw_fd(), options)?;
    Ok(waited.map(|(_, waited)| waited))
}

/// Waits for the end of any child of the calling *thread*, and leaves it to be reaped. `ECHILD` if it has none.
pub(crate) fn wait_for_own_child() -> io::Result<(u32, Waited)> {
    let waited = waitid(libc::P_ALL, 0, __WNOTHREAD | libc::WNOWAIT)?;
    waited.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Reaps a child that has ended.
pub(crate) fn reap(pid: u32) -> io::Result<()> {
    waitid(libc::P_PID, pid as i32, libc::WNOHANG).map(drop)
}

const __WNOTHREAD: i32 = 0x2000_0000;

fn waitid(which: libc::idtype_t, id: i32, options: i32) -> io::Result<Option<(u32, Waited)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = options | libc::WEXITED | libc::__WALL;
    loop {
        let (info, usage) = (info.as_mut_ptr(), usage.as_mut_ptr());
        // SAFETY: both structures are writable and of the kernel's size.
        let result = unsafe { libc::syscall(libc::SYS_waitid, which, id, info, options, usage) };
        match cvt(result as i32) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: zero is a valid value of both, and the kernel filled in what it had.
    let info = unsafe { info.assume_init() };
    // SAFETY: as above.
    let usage = unsafe { usage.assume_init() };
    // SAFETY: a field of a child's siginfo: an integer, zero if nothing has ended.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let value = unsafe { info.si_status() };
    let status = match info.si_code {
        libc::CLD_EXITED => (value & 0xff) << 8,
        libc::CLD_DUMPED => value | 0x80,
        _ => value,
    };
    Ok(Some((pid as u32, Waited { status, usage })))
}

/// `struct pidfd_info` as of Linux 6.15.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pids: [u32; 3],
    ids: [u32; 8],
    exit_code: i32,
    coredump: [u32; 2],
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
const PIDFD_GET_INFO: u64 = 0xc000_ff0b | (size_of::<PidfdInfo>() as u64) << 16;

/// The exit status that the kernel keeps with a pidfd after somebody else collected it. Since Linux 6.15.
pub(crate) fn kept_status(pidfd: impl AsFd) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request encodes the structure's size, and it is writable.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// Blocks all signals in this thread, as long as the value lives.
pub(crate) struct BlockSignals {
    before: libc::sigset_t,
}

impl BlockSignals {
    pub(crate) fn new() -> io::Result<Self> {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is writable.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: both sets are valid; zeros and what `sigfillset` made are values of the type.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: the call filled it in.
        Ok(Self { before: unsafe { before.assume_init() } })
    }
}

impl Drop for BlockSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was in force; putting it back can't fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

/// A sealed memfd that holds `bytes` and can be executed.
pub(crate) fn sealed_program(name: &std::ffi::CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let fd = match memfd(name, flags | MFD_EXEC) {
        // Before Linux 6.3 there is no MFD_EXEC, and every memfd may be executed.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => memfd(name, flags)?,
        other => other?,
    };
    let fd = filled(fd, bytes)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: takes no address.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(fd)
}

/// A memfd that holds `bytes`, to be mapped by the stage and read by us.
pub(crate) fn shared_image(bytes: &[u8]) -> io::Result<OwnedFd> {
    filled(data_memfd(c"palisade-image", libc::MFD_CLOEXEC)?, bytes)
}

/// A memfd that is `len` zeros and neither grows nor shrinks: what a helper writes into it goes so far and no further, and
/// never waits for a reader.
#[cfg(feature = "net")]
pub(crate) fn notepad(len: usize) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let fd = filled(data_memfd(c"palisade-notepad", flags)?, &vec![0; len])?;
    // SAFETY: takes no address.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) })?;
    Ok(fd)
}

/// A memfd that nobody executes; before Linux 6.3 every one may be.
fn data_memfd(name: &std::ffi::CStr, flags: u32) -> io::Result<OwnedFd> {
    const MFD_NOEXEC_SEAL: u32 = 0x8;
    match memfd(name, flags | MFD_NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => memfd(name, flags),
        other => other,
    }
}

fn memfd(name: &std::ffi::CStr, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = cvt(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
    above_stdio(adopt(fd))
}

fn filled(fd: OwnedFd, bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::from(fd);
    file.write_all_at(bytes, 0)?;
    Ok(file.into())
}

/// Moves a descriptor above 2 if it landed there: a host program may have closed its standard streams, and would
/// write into what took their numbers.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: takes no address.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) }).map(adopt)
}

/// A pidfd of the calling process: readable when that has ended, whoever else has inherited its descriptors.
pub(crate) fn pidfd_of_self() -> io::Result<OwnedFd> {
    pidfd_open(std::process::id())
}

/// `pidfd_open`.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes no address.
    let fd = cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32)?;
    above_stdio(adopt(fd))
}

/// The supplementary groups of the calling thread, ascending as the kernel keeps them. (`nix` first asks how many there
/// may be at most, which libc reads from a file.)
pub(crate) fn own_groups() -> io::Result<Vec<u32>> {
    // SAFETY: with a size of 0 only their number is returned.
    let count = cvt(unsafe { libc::getgroups(0, ptr::null_mut()) })?;
    let mut groups = vec![0; count as usize];
    // SAFETY: there is room for as many as are asked for; if there are more by now, that is an error.
    let count = cvt(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(count as usize);
    Ok(groups)
}

/// The soft and hard limit of a resource.
pub(crate) fn getrlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is writable.
    cvt(unsafe { libc::getrlimit64(resource, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Whether the process behind a pidfd has ended.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, writable.
    unsafe { libc::poll(&raw mut poll, 1, 0) != 0 }
}

/// Signals through a pidfd that the caller knows by number only: one that a clone in progress has stored.
pub(crate) fn send_signal_to(pidfd: RawFd, signal: i32) -> io::Result<()> {
    // SAFETY: the caller holds the lock without which nobody closes the descriptor.
    let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd) };
    send_signal(pidfd, signal)
}

/// Rows and columns of a terminal.
pub(crate) fn window_size(terminal: BorrowedFd<'_>) -> io::Result<[u16; 2]> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure is writable and what the request fills in.
    cvt(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok([size.ws_row, size.ws_col])
}

/// Sets rows and columns of a terminal.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, [rows, columns]: [u16; 2]) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure is what the request reads.
    cvt(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Policy, priority, nice value and reservation of a process, sched_getattr(2).
pub(crate) fn scheduling_of(pid: u32) -> io::Result<libc::sched_attr> {
    let mut attr = MaybeUninit::<libc::sched_attr>::zeroed();
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes to the structure that has this size.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, pid, attr.as_mut_ptr(), size, 0) };
    cvt(done as i32)?;
    // SAFETY: integers alone, which were zero before the kernel wrote them.
    Ok(unsafe { attr.assume_init() })
}

/// Whether a descriptor number is open.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: takes no address.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// What owns one descriptor, which stays the same and open as long as the value lives and is only lent.
#[cfg(feature = "tokio")]
pub(crate) trait OwnsDescriptor: AsRawFd {}

#[cfg(feature = "tokio")]
impl OwnsDescriptor for OwnedFd {}
#[cfg(feature = "tokio")]
impl OwnsDescriptor for std::fs::File {}
#[cfg(feature = "tokio")]
impl OwnsDescriptor for crate::pty::Pty {}

/// Registers a descriptor with the runtime's I/O driver.
#[cfg(feature = "tokio")]
pub(crate) fn register<T: OwnsDescriptor>(owner: T) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    // SAFETY: the value owns its descriptor and always gives the same one, as its trait says; `AsyncFd` only lends it.
    unsafe { tokio::io::unix::AsyncFd::register(owner) }.map_err(io::Error::from)
}

/// Whether the kernel has a call and no filter hides it: it is made with arguments that it refuses before it does
/// anything.
pub(crate) fn is_there(number: i64) -> bool {
    const NONE: u64 = u64::MAX;
    // SAFETY: descriptors, flags and sizes are none that any of the calls takes, and addresses are null or invalid; a
    // call that is given them fails.
    let result = unsafe { libc::syscall(number, NONE, 0, NONE, NONE, NONE, NONE) };
    result >= 0 || !matches!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// An errno in words.
pub(crate) fn describe(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

/// A socket to the kernel's packet filters.
#[cfg(not(feature = "net"))]
pub(crate) fn open_netfilter() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes no address.
    cvt(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) }).map(adopt)
}

/// A result of -1 is errno.
fn cvt(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether a file has an access list (`system.posix_acl_access`), by a descriptor of any kind.
#[cfg(feature = "k8s")]
pub(crate) fn has_acl(file: BorrowedFd<'_>) -> io::Result<bool> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // SAFETY: two live C strings, and no room for a value: its length alone is asked for.
    match unsafe { libc::getxattr(path.as_ptr(), c"system.posix_acl_access".as_ptr(), ptr::null_mut(), 0) } {
        0.. => Ok(true),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(false),
            error => Err(error),
        },
    }
}
