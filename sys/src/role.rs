//! Roles: what a process of the stage does that is no list of calls. Compiled twice, like `wire.rs`.

use super::sys::{Memory, syscall_scalar as call};
use super::wire::*;

const SYS_READ: u32 = 0;
const SYS_CLOSE: u32 = 3;
const SYS_POLL: u32 = 7;
const SYS_LSEEK: u32 = 8;
const SYS_RT_SIGACTION: u32 = 13;
const SYS_NANOSLEEP: u32 = 35;
const SYS_SOCKETPAIR: u32 = 53;
const SYS_CLONE: u32 = 56;
const SYS_WAIT4: u32 = 61;
const SYS_KILL: u32 = 62;
const SYS_SETSID: u32 = 112;
const SYS_CAPSET: u32 = 126;
const SYS_RT_SIGTIMEDWAIT: u32 = 128;
const SYS_PRCTL: u32 = 157;
const SYS_GETDENTS64: u32 = 217;
const SYS_EXIT_GROUP: u32 = 231;
const SYS_UNLINKAT: u32 = 263;
const SYS_DUP3: u32 = 292;
const SYS_SECCOMP: u32 = 317;
const SYS_CLOSE_RANGE: u32 = 436;
const POLLIN: u64 = 1;
const AT_REMOVEDIR: u64 = 0x200;
const DT_DIR: u64 = 4;

/// How often what can't be removed yet is tried again, 5 ms apart: ten seconds.
const TRIES: u32 = 2000;

/// The guard of a cgroup: waits until a process has ended, kills what is in the group, and removes the groups in it
/// (one level), then itself.
///
/// `args`: pidfd of the process, the group's directory, its `cgroup.kill` (open for writing), the directory above, and
/// arena offsets: of the group's name there, and of a work area of [`GUARD_ROOM`] bytes.
pub(crate) fn guard(memory: &mut Memory, op: &Op) -> Option<()> {
    let (pidfd, group) = (memory.arg(op, 0, 0), memory.arg(op, 1, 0));
    let (kill, above) = (memory.arg(op, 2, 0), memory.arg(op, 3, 0));
    let (name, room) = (op.args[4], op.args[5]);

    // struct pollfd: POLLIN comes when the process has ended. Anything else (an interruption, want of memory) is not it.
    memory.store(room, 4, pidfd)?;
    memory.store(room + 4, 4, POLLIN)?;
    while memory.load(room + 6, 2)? & POLLIN == 0 {
        call(SYS_POLL, [memory.address(room), 1, u64::MAX, 0, 0, 0]);
    }

    memory.store(room, 1, u64::from(b'1'))?;
    call(SYS_WRITE, [kill, memory.address(room), 1, 0, 0, 0]);
    // struct timespec: 5 ms.
    memory.store(room, 8, 0)?;
    memory.store(room + 8, 8, 5_000_000)?;
    for _ in 0..TRIES {
        remove_below(memory, group, room + 16)?;
        let gone = call(SYS_UNLINKAT, [above, memory.address(name), AT_REMOVEDIR, 0, 0, 0]);
        if gone == 0 || gone == -i64::from(ENOENT) {
            break;
        }
        call(SYS_NANOSLEEP, [memory.address(room), 0, 0, 0, 0, 0]);
    }
    Some(())
}

/// Removes the directories in `dir`, as far as they let themselves be removed.
fn remove_below(memory: &mut Memory, dir: u64, list: u64) -> Option<()> {
    let room = GUARD_ROOM - 16;
    call(SYS_LSEEK, [dir, 0, 0, 0, 0, 0]);
    loop {
        let len = call(SYS_GETDENTS64, [dir, memory.address(list), room, 0, 0, 0]);
        if len <= 0 {
            return Some(());
        }
        let mut at = list;
        while at < list + len as u64 {
            // struct linux_dirent64: inode, offset, record length at 16, type at 18, name from 19.
            let length = memory.load(at + 16, 2)?;
            let dots = memory.load(at + 19, 1)? == u64::from(b'.');
            if memory.load(at + 18, 1)? == DT_DIR && !dots {
                call(SYS_UNLINKAT, [dir, memory.address(at + 19), AT_REMOVEDIR, 0, 0, 0]);
            }
            // A record of no length would never end.
            at += length.max(1);
        }
    }
}

const SYS_WRITE: u32 = 1;

const SIGCHLD: i64 = 17;
const WNOHANG: u64 = 1;
const WALL: u64 = 0x4000_0000;
const WCLONE: u64 = 0x8000_0000;

/// Descriptors of an init until it knows whether the payload was executed; then it has none.
const INIT_CONTROL: u64 = 0;
const INIT_WORKLOAD: u64 = 1;

/// The system calls that an init may make: what it gives up even if the payload's own filter is wider, or none. Read,
/// write and close are for its way from here to there.
const INIT_CALLS: [u32; 7] =
    [SYS_WAIT4, SYS_RT_SIGTIMEDWAIT, SYS_KILL, SYS_EXIT_GROUP, SYS_READ, SYS_WRITE, SYS_CLOSE];

/// `args`: the control socket. Returns in the new process, the workload, which goes on with the program once this one
/// is hardened; in this one only if that failed, with errno.
///
/// Both share the image. Until the workload has executed the payload, or has ended, it alone uses it: what init needs is
/// on its stack.
pub(crate) fn init(memory: &mut Memory, op: &Op) -> Result<(), i32> {
    let control = memory.arg(op, 0, 0);
    let mut pair = [0i32; 2];
    const AF_UNIX: u64 = 1;
    const STREAM_CLOEXEC: u64 = 0x8_0001;
    check(call(SYS_SOCKETPAIR, [AF_UNIX, STREAM_CLOEXEC, 0, (&raw mut pair) as u64, 0, 0]))?;
    let [ours, theirs] = pair.map(|fd| fd as u64);
    // No exit signal: the kernel makes it SIGCHLD at the exec, which tells one that executed from one that did not.
    let workload = check(call(SYS_CLONE, [0; 6]))?;
    if workload == 0 {
        check(call(SYS_CLOSE, [ours, 0, 0, 0, 0, 0]))?;
        let mut go = 0u8;
        if call(SYS_READ, [theirs, (&raw mut go) as u64, 1, 0, 0, 0]) != 1 {
            exit(1); // init failed, and says why
        }
        // The other end stays open until the exec, which closes it.
        return Ok(());
    }
    harden(memory, control, ours)?;
    let go = b'g';
    check(call(SYS_WRITE, [INIT_WORKLOAD, (&raw const go) as u64, 1, 0, 0, 0]))?;
    let mut end = 0u8;
    while call(SYS_READ, [INIT_WORKLOAD, (&raw mut end) as u64, 1, 0, 0, 0]) > 0 {}

    let workload = workload as u64;
    let mut status = 0i32;
    let at = (&raw mut status) as u64;
    if call(SYS_WAIT4, [workload, at, WNOHANG | WCLONE, 0, 0, 0]) != -i64::from(ECHILD) {
        // It did not execute: it has ended, or is about to.
        call(SYS_WAIT4, [workload, at, WALL, 0, 0, 0]);
        if memory.state() != STATE_FAULT {
            memory.record(STATE_LOST, status);
        }
        exit(1);
    }
    memory.forget_rest();
    memory.record(STATE_EXECUTED, 0);
    call(SYS_CLOSE, [INIT_WORKLOAD, 0, 0, 0, 0, 0]);
    // Last: now the host program goes on.
    call(SYS_CLOSE, [INIT_CONTROL, 0, 0, 0, 0, 0]);

    // Every signal is blocked, and so kept for us, whatever its disposition.
    let all = u64::MAX;
    loop {
        loop {
            let ended = call(SYS_WAIT4, [u64::MAX, (&raw mut status) as u64, WNOHANG | WALL, 0, 0, 0]);
            if ended as u64 == workload {
                memory.record(STATE_ENDED, status);
                let signal = status & 0x7f;
                exit(if signal == 0 { (status >> 8 & 0xff) as u64 } else { 128 + signal as u64 });
            }
            if ended <= 0 {
                break;
            }
        }
        let signal = call(SYS_RT_SIGTIMEDWAIT, [(&raw const all) as u64, 0, 0, 8, 0, 0]);
        if signal > 0 && signal != SIGCHLD {
            // ESRCH and EPERM: it has just ended, or is somebody else's by now.
            call(SYS_KILL, [workload, signal as u64, 0, 0, 0, 0]);
        }
    }
}

/// Gives up all that an init does not need, so that the payload, which may be able to attach to it, finds nothing there:
/// for the moment between the exec and the end of `init`'s read the two sockets, through which it could only delay its own
/// start.
fn harden(memory: &mut Memory, control: u64, workload: u64) -> Result<(), i32> {
    // EPERM: it leads a session already.
    call(SYS_SETSID, [0; 6]);
    check(call(SYS_DUP3, [control, INIT_CONTROL, 0, 0, 0, 0]))?;
    check(call(SYS_DUP3, [workload, INIT_WORKLOAD, 0, 0, 0, 0]))?;
    check(call(SYS_CLOSE_RANGE, [INIT_WORKLOAD + 1, u64::from(u32::MAX), 0, 0, 0, 0]))?;
    // Children are to be waited for, also where the host program's ignored SIGCHLD was kept.
    let default = [0u64; 4];
    check(call(SYS_RT_SIGACTION, [SIGCHLD as u64, (&raw const default) as u64, 0, 8, 0, 0]))?;

    const CAPABILITY_VERSION_3: u64 = 0x2008_0522;
    let (header, none) = ([CAPABILITY_VERSION_3], [0u64; 3]);
    check(call(SYS_CAPSET, [(&raw const header) as u64, (&raw const none) as u64, 0, 0, 0, 0]))?;
    const PR_SET_DUMPABLE: u64 = 4;
    const PR_SET_NAME: u64 = 15;
    const PR_SET_NO_NEW_PRIVS: u64 = 38;
    check(call(SYS_PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0, 0]))?;
    check(call(SYS_PRCTL, [PR_SET_NAME, c"palisade-init".as_ptr() as u64, 0, 0, 0, 0]))?;
    check(call(SYS_PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0]))?;
    check(memory.unmap_rest())?;

    // struct sock_filter: another architecture than ours, or another call than those, kills.
    const LOAD: u64 = 0x20;
    const JUMP_IF_EQUAL: u64 = 0x15;
    const RETURN: u64 = 0x06;
    const ARCH_X86_64: u64 = 0xc000_003e;
    const KILL_PROCESS: u64 = 0x8000_0000;
    const ALLOW: u64 = 0x7fff_0000;
    const COUNT: usize = INIT_CALLS.len();
    let mut filter = [0u64; COUNT + 5];
    // code, jump if true (bits 16 and up), jump if false (24 and up), operand (32 and up)
    filter[0] = LOAD | 4 << 32;
    filter[1] = JUMP_IF_EQUAL | (COUNT as u64 + 1) << 24 | ARCH_X86_64 << 32;
    filter[2] = LOAD;
    for (n, &nr) in INIT_CALLS.iter().enumerate() {
        filter[3 + n] = JUMP_IF_EQUAL | ((COUNT - n) as u64) << 16 | u64::from(nr) << 32;
    }
    filter[COUNT + 3] = RETURN | KILL_PROCESS << 32;
    filter[COUNT + 4] = RETURN | ALLOW << 32;
    let program = [filter.len() as u64, (&raw const filter) as u64];
    const SET_MODE_FILTER: u64 = 1;
    check(call(SYS_SECCOMP, [SET_MODE_FILTER, 0, (&raw const program) as u64, 0, 0, 0])).map(drop)
}

/// The result, or errno.
fn check(result: i64) -> Result<i64, i32> {
    if result < 0 { Err(-result as i32) } else { Ok(result) }
}

fn exit(code: u64) -> ! {
    loop {
        call(SYS_EXIT_GROUP, [code, 0, 0, 0, 0, 0]);
    }
}
