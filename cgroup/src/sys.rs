//! The raw calls of this crate.
#![expect(unsafe_code, reason = "the one file of this crate that calls the kernel past std and nix")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use palisade_sys::Image;

use crate::device_program::Insn;

/// The size of a page in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf reads no memory of ours.
    let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(n).unwrap_or(4096)
}

/// Makes every child that `command` spawns run a program before it executes. What the program needs is kept open.
pub(crate) fn run_before_exec<T: Send + Sync + 'static>(command: &mut Command, mut image: Image, keep: T) {
    let run = move || {
        let _open = &keep;
        // SAFETY: the program is this crate's own: it moves the child, which is to be moved, and nothing else. The child
        // has a copy of the image, so a command can be spawned again.
        unsafe { image.run() }.map_err(|fault| io::Error::from_raw_os_error(fault.errno))
    };
    // SAFETY: the interpreter neither allocates nor locks, so it may run after fork in a program with threads.
    unsafe { command.pre_exec(run) };
}

/// Whether the directory has an extended attribute of this name with the value `1`.
pub(crate) fn xattr_is_one(fd: BorrowedFd<'_>, name: &std::ffi::CStr) -> bool {
    let mut value = [0u8; 8];
    // SAFETY: the name is a C string, the buffer is ours and its length is given.
    let n = unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(n).is_ok_and(|n| value.get(..n) == Some(b"1"))
}

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// pidfd_send_signal(2) with SIGKILL.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed and means one as kill(2) sends.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, none, 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// Parts of `union bpf_attr`, one for each command.
#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[derive(Default)]
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// Kernels 6.17 to 7.1 write `revision` whatever size is passed, so the struct has to reach that far.
#[derive(Default)]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[derive(Default)]
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct InfoRequest {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[derive(Default)]
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
}

const _: () = assert!(size_of::<Load>() == 72 && size_of::<Attach>() == 20 && size_of::<Query>() == 64);
const _: () = assert!(size_of::<Info>() == 40 && size_of::<Insn>() == 8);

/// bpf(2). `T` is one of the structs above, whose addresses (if any) the caller keeps alive over the call.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    let attr: *mut T = attr;
    // SAFETY: the pointer and size describe one owned, fully initialised struct that the kernel reads and writes.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn number_of(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Loads a device program.
pub(crate) fn bpf_load(insns: &[Insn]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut name = [0; 16];
    name[..16 - 1].copy_from_slice(b"palisade_device");
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(insns.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: name,
        expected_attach_type: BPF_CGROUP_DEVICE,
        ..Load::default()
    };
    owned(bpf(BPF_PROG_LOAD, &mut attr)?)
}

/// Attaches a program to a group, in place of `replace` if given.
pub(crate) fn bpf_attach(
    group: BorrowedFd<'_>,
    prog: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: number_of(group),
        attach_bpf_fd: number_of(prog),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, number_of),
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Detaches a program from a group.
pub(crate) fn bpf_detach(group: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: number_of(group),
        attach_bpf_fd: number_of(prog),
        attach_type: BPF_CGROUP_DEVICE,
        ..Attach::default()
    };
    bpf(BPF_PROG_DETACH, &mut attr).map(drop)
}

/// The numbers of the device programs attached right to a group.
pub(crate) fn bpf_query(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    loop {
        let mut attr = Query {
            target_fd: number_of(group),
            attach_type: BPF_CGROUP_DEVICE,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: u32::try_from(ids.len()).unwrap_or(u32::MAX),
            ..Query::default()
        };
        match bpf(BPF_PROG_QUERY, &mut attr) {
            Ok(_) => {
                ids.truncate(attr.prog_cnt as usize);
                return Ok(ids);
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => ids = vec![0; ids.len() * 2],
            Err(e) => return Err(e),
        }
    }
}

/// Opens a program by its number.
pub(crate) fn bpf_fd_by_id(id: u32) -> io::Result<OwnedFd> {
    owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() })?)
}

/// The number of a program and its instructions; none where the kernel does not show them.
pub(crate) fn bpf_info(prog: BorrowedFd<'_>) -> io::Result<(u32, Vec<Insn>)> {
    let mut info = Info::default();
    let ask = |info: &mut Info| {
        let info: *mut Info = info;
        let mut attr =
            InfoRequest { bpf_fd: number_of(prog), info_len: size_of::<Info>() as u32, info: info as u64 };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
    };
    ask(&mut info)?;
    let count = info.xlated_prog_len as usize / size_of::<Insn>();
    let mut insns = vec![Insn { code: 0, regs: 0, off: 0, imm: 0 }; count];
    let mut again = Info {
        xlated_prog_len: info.xlated_prog_len,
        xlated_prog_insns: insns.as_mut_ptr() as u64,
        ..Info::default()
    };
    ask(&mut again)?;
    // The kernel clears the address where it does not show instructions (bpf_jit_harden, missing rights).
    if again.xlated_prog_insns == 0 {
        insns.clear();
    }
    insns.truncate(again.xlated_prog_len as usize / size_of::<Insn>());
    Ok((info.id, insns))
}
