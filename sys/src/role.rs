//! Roles: what a process of the stage does that is no list of calls. Compiled twice, like `wire.rs`.

use super::sys::{Memory, syscall_scalar as call};
use super::wire::*;

const SYS_POLL: u32 = 7;
const SYS_LSEEK: u32 = 8;
const SYS_NANOSLEEP: u32 = 35;
const SYS_GETDENTS64: u32 = 217;
const SYS_UNLINKAT: u32 = 263;
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
