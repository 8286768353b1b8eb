//! Policies that are ready to use.

use crate::action::Action;
use crate::condition::arg;
use crate::policy::{Policy, Rule};

/// The calls that ordinary programs make and that reach nothing beyond their own namespaces, with any arguments.
///
/// The starting point was what Docker, Podman and flatpak let through
/// (moby/profiles `seccomp/default.json`, containers/common `pkg/seccomp/seccomp.json`, flatpak `common/flatpak-run.c`);
/// it is an allow-list, so that a call which nobody thought about is refused.
#[rustfmt::skip]
const ORDINARY: &[&str] = &[
    // Starting, ending and watching processes. clone has conditions below; clone3 cannot have any.
    "execve", "execveat", "exit", "exit_group", "fork", "vfork", "wait4", "waitid", "getpid", "getppid", "gettid",
    "getpgid", "getpgrp", "getsid", "setpgid", "setsid", "kill", "tkill", "tgkill", "pidfd_open",
    "pidfd_send_signal", "process_mrelease", "restart_syscall", "set_tid_address", "arch_prctl",
    // Who it is. (Ids outside its map do not exist, capabilities it has not cannot be had.)
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "setuid", "setgid", "setreuid",
    "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "capget", "capset", "umask",
    // Further restrictions that it puts on itself.
    "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "mseal",
    // Memory.
    "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mlock", "mlock2", "mlockall",
    "munlock", "munlockall", "membarrier", "memfd_create", "memfd_secret", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "remap_file_pages", "map_shadow_stack", "cachestat",
    // Threads and their scheduling.
    "futex", "futex_wait", "futex_wake", "futex_requeue", "futex_waitv", "set_robust_list", "get_robust_list", "rseq",
    "rseq_slice_yield", "getcpu", "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr",
    "sched_setattr", "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
    "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "getpriority", "setpriority",
    "ioprio_get", "ioprio_set",
    // Signals. uretprobe and uprobe are made by the kernel's own trampoline when somebody traces from outside.
    "rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "sigaltstack", "signalfd", "signalfd4", "pause", "uretprobe", "uprobe",
    // Time: reading clocks and waiting, never setting one.
    "time", "times", "gettimeofday", "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "alarm",
    "getitimer", "setitimer", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime",
    "timerfd_create", "timerfd_gettime", "timerfd_settime",
    // Descriptors.
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "close",
    "close_range", "dup", "dup2", "dup3", "fcntl", "lseek", "pipe", "pipe2", "poll", "ppoll", "select", "pselect6",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2",
    "sendfile", "splice", "tee", "vmsplice", "copy_file_range", "readahead", "fadvise64", "io_setup", "io_submit",
    "io_getevents", "io_pgetevents", "io_cancel", "io_destroy",
    // Files.
    "open", "openat", "openat2", "creat", "access", "faccessat", "faccessat2", "stat", "lstat", "fstat", "newfstatat",
    "statx", "statfs", "fstatfs", "statmount", "listmount", "getdents", "getdents64", "getcwd", "chdir", "fchdir",
    "mkdir", "mkdirat", "rmdir", "link", "linkat", "symlink", "symlinkat", "readlink", "readlinkat", "unlink",
    "unlinkat", "rename", "renameat", "renameat2", "truncate", "ftruncate", "fallocate", "chmod", "fchmod",
    "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "utime", "utimes", "futimesat", "utimensat",
    "mknod", "mknodat", "flock", "fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "inotify_init",
    "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "getxattr", "lgetxattr", "fgetxattr", "getxattrat",
    "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat",
    "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
    // Sockets, once made: socket and socketpair have conditions below.
    "bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname", "getpeername", "getsockopt",
    "setsockopt", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg",
    // System V and POSIX IPC, inside their namespace.
    "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv",
    "msgctl", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
    // The system, read only; limits of its own.
    "uname", "sysinfo", "getrandom", "getrusage", "getrlimit", "setrlimit", "prlimit64",
];

/// Calls whose absence programs know how to live with, and that a filter cannot look into (their arguments are behind
/// pointers): ENOSYS, so that they take the older way, which this policy answers call by call.
#[rustfmt::skip]
const AS_ON_OLDER_KERNELS: &[&str] = &[
    "clone3",
    "fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "open_tree_attr", "move_mount", "mount_setattr",
    "file_getattr", "file_setattr", "listns",
];

/// `CLONE_NEW*` of clone(2), and `CLONE_PARENT`, which would make the host program the parent of the new process.
const CLONE_NEW_OR_PARENT: u64 = 0x7e02_0000 | 0x0000_8000;
/// `CLONE_FS | CLONE_FILES | CLONE_SYSVSEM`: what unshare(2) may do without a new namespace.
const UNSHARE_OWN: u64 = 0x0000_0200 | 0x0000_0400 | 0x0004_0000;
const AF_UNIX: u64 = 1;
const AF_NETLINK: u64 = 16;
const NETLINK_ROUTE: u64 = 0;
/// With AF_INET the kernel takes this old type for AF_PACKET. The low four bits are the type.
const SOCK_PACKET: u64 = 10;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
const PR_SET_PDEATHSIG: u64 = 1;
const SIGKILL: u64 = 9;
const EAFNOSUPPORT: Action = Action::Errno(libc::EAFNOSUPPORT as u16);

/// The default for a confined program: what ordinary programs, compilers and interpreters need, and nothing that
/// reaches the kernel's administration.
///
/// Refused with EPERM: mounting, namespaces (unshare, setns, clone with `CLONE_NEW*`), chroot and pivot_root, bpf, the
/// keyring, io_uring (it passes by every filter), ptrace and reading or writing other processes' memory, pidfd_getfd,
/// perf events, userfaultfd, file handles, kernel modules, kexec, reboot, swap, accounting, quotas, setting clocks, the
/// kernel log, NUMA placement, I/O ports, modify_ldt, personalities other than Linux's own, fanotify, whatever else is
/// not listed. TIOCSTI and TIOCLINUX, which push input into a terminal, and changes of the parent-death signal to
/// anything but SIGKILL, so that a confined program cannot outlive its host.
/// Refused with ENOSYS: clone3, the new mount API, calls that are newer than this crate.
/// Refused with EAFNOSUPPORT: sockets of families other than AF_UNIX, AF_INET, AF_INET6 and, for NETLINK_ROUTE only,
/// AF_NETLINK.
///
/// Change it with [`Policy::set`]. A debugger or strace inside needs `ptrace`, `process_vm_readv` and `process_vm_writev`.
///
/// ```
/// # use palisade_secfilter::presets;
/// let filter = presets::payload().compile()?;
/// filter.permits_exec()?;
/// assert!(filter.instructions().len() < 120);
/// # Ok::<(), palisade_secfilter::Error>(())
/// ```
pub fn payload() -> Policy {
    ordinary(Policy::new(Action::EPERM).allow(ORDINARY))
}

/// [`payload`], and no file can be given the set-user-ID or set-group-ID bit: for payloads that can write where others of
/// the host can read. The program would be theirs to run, as whoever owns the file there. Refused with EPERM: chmod and
/// its like, creating files and nodes, with these bits in the mode; with ENOSYS: openat2, whose mode a filter can't see.
pub fn payload_without_set_id() -> Policy {
    const SET_ID: u64 = 0o6000;
    /// O_CREAT, and the bit of O_TMPFILE that is its own: only then is there a mode.
    const MAKES: u64 = 0o100 | 0o20_000_000;
    let refused = |calls: &'static [&'static str], mode: u8| {
        Rule::new(calls, Action::EPERM).when(arg(mode).masked(SET_ID).ne(0))
    };
    let policy = Policy::new(Action::EPERM)
        .rule(refused(&["chmod", "fchmod", "creat", "mknod"], 1))
        .rule(refused(&["fchmodat", "fchmodat2", "mknodat"], 2))
        .rule(refused(&["open"], 2).when(arg(1).masked(MAKES).ne(0)))
        .rule(refused(&["openat"], 3).when(arg(2).masked(MAKES).ne(0)))
        .rule(Rule::new(["openat2"], Action::ENOSYS));
    ordinary(policy.allow(ORDINARY.iter().copied().filter(|name| *name != "openat2")))
}

/// What both have beside the calls that are allowed as they are.
fn ordinary(policy: Policy) -> Policy {
    policy
        .rule(Rule::new(AS_ON_OLDER_KERNELS, Action::ENOSYS))
        .rule(Rule::new(["clone"], Action::Allow).when(arg(0).masked(CLONE_NEW_OR_PARENT).eq(0)))
        .rule(Rule::new(["unshare"], Action::Allow).when(arg(0).masked(!UNSHARE_OWN).eq(0)))
        // PER_LINUX and PER_LINUX32, each with or without UNAME26; and the query.
        .rule(Rule::new(["personality"], Action::Allow).when(arg(0).masked(!0x2_0008).eq(0)))
        .rule(Rule::new(["personality"], Action::Allow).when(arg(0).eq(0xffff_ffff)))
        // A refusal looks at the low half, as the kernel does; a permission at the whole word.
        .rule(Rule::new(["ioctl"], Action::EPERM).when(arg(1).low32().eq(TIOCSTI)))
        .rule(Rule::new(["ioctl"], Action::EPERM).when(arg(1).low32().eq(TIOCLINUX)))
        .allow(["ioctl"])
        .rule(
            Rule::new(["prctl"], Action::EPERM)
                .when(arg(0).low32().eq(PR_SET_PDEATHSIG))
                .when(arg(1).ne(SIGKILL)),
        )
        .allow(["prctl"])
        .rule(Rule::new(["socket"], EAFNOSUPPORT).when(arg(1).masked(0xf).eq(SOCK_PACKET)))
        // AF_UNSPEC 0, AF_UNIX 1, AF_INET 2; AF_INET6 10.
        .rule(Rule::new(["socket"], Action::Allow).when(arg(0).le(2)))
        .rule(Rule::new(["socket"], Action::Allow).when(arg(0).eq(10)))
        .rule(Rule::new(["socket"], Action::Allow).when(arg(0).eq(AF_NETLINK)).when(arg(2).eq(NETLINK_ROUTE)))
        .rule(Rule::new(["socket"], EAFNOSUPPORT))
        .rule(Rule::new(["socketpair"], Action::Allow).when(arg(0).eq(AF_UNIX)))
        .rule(Rule::new(["socketpair"], EAFNOSUPPORT))
}

/// For a program that only computes: it may be started, read and write what is open already, open files for reading,
/// use memory, look at the clock and end. No other process or thread, no socket, no change of any file. Another call
/// kills it with SIGSYS; say [`Policy::default_action`] for an errno.
pub fn strict_compute() -> Policy {
    /// O_WRONLY, O_RDWR, O_CREAT, O_TRUNC and the bit of O_TMPFILE that is its own.
    const O_CHANGES: u64 = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20_000_000;
    const PROT_EXEC_AND_WRITE: u64 = 0x6;
    let mut policy = Policy::new(Action::KillProcess).allow([
        // Being started.
        "execve",
        "execveat",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "getrandom",
        // Reading, writing and looking.
        "read",
        "write",
        "readv",
        "writev",
        "pread64",
        "close",
        "lseek",
        "dup",
        "dup2",
        "dup3",
        "fstat",
        "stat",
        "lstat",
        "newfstatat",
        "statx",
        "access",
        "faccessat",
        "faccessat2",
        "readlink",
        "readlinkat",
        "getdents64",
        "getcwd",
        "poll",
        "ppoll",
        // Memory.
        "brk",
        "munmap",
        "mremap",
        "madvise",
        "futex",
        "membarrier",
        // Itself.
        "getpid",
        "gettid",
        "getppid",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "uname",
        "sysinfo",
        "sched_getaffinity",
        "sched_yield",
        "getrusage",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sigaltstack",
        "restart_syscall",
        "clock_gettime",
        "clock_getres",
        "clock_nanosleep",
        "nanosleep",
        "gettimeofday",
        "time",
        "times",
        "exit",
        "exit_group",
    ]);
    // Code comes from files, never from memory that was written.
    for call in ["mmap", "mprotect"] {
        policy = policy
            .rule(
                Rule::new([call], Action::EPERM)
                    .when(arg(2).masked(PROT_EXEC_AND_WRITE).eq(PROT_EXEC_AND_WRITE)),
            )
            .allow([call]);
    }
    policy
        .rule(Rule::new(["open"], Action::Allow).when(arg(1).masked(O_CHANGES).eq(0)))
        .rule(Rule::new(["openat"], Action::Allow).when(arg(2).masked(O_CHANGES).eq(0)))
        .rule(Rule::new(["open", "openat"], Action::EPERM))
        // Queries of the terminal and of descriptor flags; the libraries make them.
        .rule(Rule::new(["ioctl"], Action::Errno(libc::ENOTTY as u16)))
        .rule(Rule::new(["fcntl"], Action::Allow).when(arg(1).le(4)))
        .rule(Rule::new(["fcntl"], Action::EPERM))
        .rule(Rule::new(["tgkill"], Action::Allow))
}
