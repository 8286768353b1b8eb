//! The raw calls of the floor.
#![expect(unsafe_code, reason = "a floor has nothing between it and the kernel")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// A system call of the child. An argument that is [`PREVIOUS`] is what the call before it returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
}

pub(crate) const PREVIOUS: u64 = 0x7072_6576_696f_7573;

/// What a child of the floor is made of. All that the addresses in its calls lead to must stay in place.
#[derive(Debug)]
pub(crate) struct Child<'a> {
    pub(crate) flags: u64,
    pub(crate) cgroup: u64,
    pub(crate) stack: &'a mut [u128],
    pub(crate) calls: &'a [Call],
    /// Where the child waits first, until it is 1; `None` and the parent is suspended until the exec.
    pub(crate) gate: Option<&'a AtomicU32>,
}

fn call(number: i64, a: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the calls of the floor act on the child's own namespaces, credentials and descriptors, and read memory
    // that `Child` keeps in place.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Makes the calls in order. Ends with the number of the one that failed, if the last, an exec, comes back.
extern "C" fn run(child: *const Child<'_>) -> ! {
    // SAFETY: the parent keeps it until the child has executed or ended.
    let child = unsafe { &*child };
    if let Some(gate) = child.gate {
        while gate.load(Ordering::Acquire) == 0 {
            call(libc::SYS_futex, [ptr::from_ref(gate) as u64, libc::FUTEX_WAIT as u64, 0, 0, 0, 0]);
        }
    }
    let mut previous = 0;
    let mut index = 1;
    for &Call { number, mut arguments } in child.calls {
        for argument in &mut arguments {
            if *argument == PREVIOUS {
                *argument = previous;
            }
        }
        let result = call(number, arguments);
        if result < 0 {
            break;
        }
        previous = result as u64;
        index += 1;
    }
    loop {
        call(libc::SYS_exit_group, [index, 0, 0, 0, 0, 0]);
    }
}

/// clone3 with a stack of its own and shared memory. Gives pid and pidfd.
pub(crate) fn clone(child: &mut Child<'_>) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: i32 = -1;
    let suspend = if child.gate.is_none() { libc::CLONE_VFORK } else { 0 };
    // SAFETY: all zeros is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = child.flags | (libc::CLONE_VM | suspend | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = child.stack.as_mut_ptr() as u64;
    args.stack_size = size_of_val(child.stack) as u64;
    args.cgroup = child.cgroup;
    let result: i64;
    // SAFETY: the parent goes on behind the asm with all registers kept; the child starts on its own stack, whose top is
    // 16-byte aligned, and calls a function that does not return.
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
            in("r12") ptr::from_mut(child),
            in("r13") run as extern "C" fn(*const Child<'_>) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result as i32));
    }
    // SAFETY: the kernel made it for us.
    Ok((result as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

pub(crate) fn open_gate(gate: &AtomicU32) {
    gate.store(1, Ordering::Release);
    call(libc::SYS_futex, [ptr::from_ref(gate) as u64, libc::FUTEX_WAKE as u64, 1, 0, 0, 0]);
}

/// Waits for the end of a child, and gives its exit code.
pub(crate) fn wait(pidfd: &OwnedFd) -> io::Result<i32> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: all zeros is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::__WALL;
    // SAFETY: `info` outlives the call.
    if unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &raw mut info, options) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid has filled it for a child.
    Ok(unsafe { info.si_status() })
}
