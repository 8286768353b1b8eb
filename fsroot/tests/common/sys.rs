#![expect(unsafe_code, reason = "tests run programs in processes of their own and adopt descriptors")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_fsroot::PreparedRoot;
use palisade_sys::{Fault, Image};

pub(crate) fn run(image: &mut Image) -> Result<(), Fault> {
    // SAFETY: run in a child process of the test, which exists to be changed by it.
    unsafe { image.run() }
}

pub(crate) fn adopt(slot: u64) -> OwnedFd {
    // SAFETY: the slot holds a descriptor that the program just opened; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(slot as i32) }
}

pub(crate) fn dup2(from: i32, to: i32) {
    // SAFETY: takes no address; `to` is a number that the test chose and owns.
    let result = unsafe { libc::dup2(from, to) };
    assert_eq!(result, to, "dup2: {}", io::Error::last_os_error());
}

/// Whether this process, or the one that it was forked from, has left the machine's mount namespace.
static APART: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_apart() -> bool {
    APART.load(Ordering::Relaxed)
}

pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: namespaces only, of a single-threaded child.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    APART.fetch_or(flags & libc::CLONE_NEWNS != 0, Ordering::Relaxed);
    Ok(())
}

pub(crate) fn umask(mask: u32) {
    // SAFETY: takes no address.
    unsafe { libc::umask(mask) };
}

pub(crate) fn ids() -> (u32, u32) {
    // SAFETY: takes nothing.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: takes nothing.
    (uid, unsafe { libc::getegid() })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

pub(crate) fn chroot(path: impl AsRef<Path>) -> io::Result<()> {
    let path = c(path);
    // SAFETY: a NUL-terminated path.
    check(unsafe { libc::chroot(path.as_ptr()) })
}

pub(crate) fn umount(path: impl AsRef<Path>, flags: i32) -> io::Result<()> {
    let path = c(path);
    // SAFETY: a NUL-terminated path.
    check(unsafe { libc::umount2(path.as_ptr(), flags) })
}

pub(crate) fn setns(namespace: &File, kind: i32) -> io::Result<()> {
    // SAFETY: an open descriptor.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) })
}

fn mount(kind: Option<&str>, path: &Path, flags: u64) -> io::Result<()> {
    let (path, kind) = (c(path), kind.map(c));
    let kind = kind.as_ref().map_or(null(), |kind| kind.as_ptr());
    // SAFETY: NUL-terminated strings or null.
    check(unsafe { libc::mount(kind, path.as_ptr(), kind, flags, null()) })
}

pub(crate) fn mount_tmpfs(path: &Path) -> io::Result<()> {
    mount(Some("tmpfs"), path, 0)
}

pub(crate) fn mount_new(kind: &str, path: &str) -> io::Result<()> {
    mount(Some(kind), Path::new(path), 0)
}

pub(crate) fn propagation(path: &str, flags: u64) -> io::Result<()> {
    mount(None, Path::new(path), flags)
}

pub(crate) fn remount(path: &str, flags: u64) -> io::Result<()> {
    mount(None, Path::new(path), libc::MS_REMOUNT | libc::MS_BIND | flags)
}

pub(crate) fn mknod(path: &Path, mode: u32, device: (u32, u32)) -> io::Result<()> {
    let path = c(path);
    // SAFETY: a NUL-terminated path.
    check(unsafe { libc::mknod(path.as_ptr(), mode, libc::makedev(device.0, device.1)) })
}

/// Numbers of all open descriptors, without /proc.
pub(crate) fn open_descriptors() -> Vec<i32> {
    // SAFETY: takes no address.
    (0..1024).filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1).collect()
}

/// How many mounts lie at or below a path, by the table of this process; none where it can't be read.
pub(crate) fn mounts_below(path: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(path)))
        .count()
}

/// Calls `body` while another thread exchanges two names as fast as it can.
pub(crate) fn while_exchanging<T>(one: &Path, other: &Path, body: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let (a, b) = (c(one), c(other));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let cwd = libc::AT_FDCWD;
                // SAFETY: NUL-terminated paths.
                let result =
                    unsafe { libc::renameat2(cwd, a.as_ptr(), cwd, b.as_ptr(), libc::RENAME_EXCHANGE) };
                assert_eq!(result, 0, "{}", io::Error::last_os_error());
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Builds views again and again, each in a mount namespace of its own, in threads of this process, which has a user
/// namespace: quick, for many rounds. `judge` is called in the view's thread with how it went.
pub(crate) fn build_often(roots: &[PreparedRoot], rounds: u32, judge: impl Fn(Result<(), i32>) + Sync) {
    let images: Vec<_> = roots.iter().map(|root| root.program().image()).collect();
    let last = last_descriptor();
    for round in 0..rounds {
        let mut image = images[round as usize % images.len()].clone();
        in_namespace(last, || judge(run(&mut image).map_err(|fault| fault.errno)));
    }
}

pub(crate) fn last_descriptor() -> i32 {
    open_descriptors().into_iter().max().unwrap_or(2)
}

/// Calls `body` in a thread with a mount namespace of its own, which is the only other one of this process; descriptors
/// after `last` are closed in the end.
pub(crate) fn in_namespace(last: i32, body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
            body();
        });
    });
    // A program that fails leaves its descriptors to the exit of its process.
    // SAFETY: nothing in this process uses descriptors above those that were open before.
    unsafe { libc::close_range(last as u32 + 1, u32::MAX, 0) };
}

/// A user namespace in which `inside` stands for `outside`.
pub(crate) fn userns_mapping(inside: u32, outside: u32, count: u32) -> OwnedFd {
    let (mut read, write) = UnixStream::pair().unwrap();
    let (wait, done) = UnixStream::pair().unwrap();
    // SAFETY: the child makes raw calls only and ends by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        use std::io::{Read, Write};
        drop(done);
        let ok = unshare(libc::CLONE_NEWUSER).is_ok() && (&write).write_all(b"x").is_ok();
        let ended = (&wait).read(&mut [0]);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!ok || ended.is_err())) };
    }
    drop((write, wait));
    io::Read::read_exact(&mut read, &mut [0]).unwrap();
    for map in ["gid_map", "uid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), format!("{inside} {outside} {count}")).unwrap();
    }
    let namespace = File::open(format!("/proc/{pid}/ns/user")).unwrap();
    drop(done);
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    namespace.into()
}

/// Runs an image in the child of a command, before its exec.
pub(crate) fn pre_exec(command: &mut std::process::Command, mut image: Image) {
    use std::os::unix::process::CommandExt;
    let enter = move || run(&mut image).map_err(|fault| io::Error::from_raw_os_error(fault.errno));
    // SAFETY: an image makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(enter) };
}

/// From now on every call of the new mount API fails with `errno`.
pub(crate) fn refuse_new_mount_api(errno: i32) -> io::Result<()> {
    let calls = [libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_mount_setattr];
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut code = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (n, &nr) in calls.iter().enumerate() {
        let jump = (calls.len() - n) as u8;
        let test = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        code.push(libc::sock_filter { code: test as u16, jt: jump, jf: 0, k: nr as u32 });
    }
    code.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    code.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32));
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: constant arguments.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `program` and its code outlive the call, which copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
}
