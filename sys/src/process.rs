//! The system calls that concern the running process itself: its session, its scheduling, its children, its signals, its
//! end. As in `calls.rs`, each method is named after its call.

use std::ffi::CStr;

use crate::calls::{EMPTY, fd};
use crate::program::{Arg, Fd, Place, Program, Slot};

/// # The process
impl Program {
    /// `getpid`. With [`Program::branch`] it is an unconditional jump: a pid is above zero.
    pub fn getpid(&mut self) -> Slot {
        self.call(libc::SYS_getpid, [] as [Arg; 0])
    }

    /// `setsid`.
    pub fn setsid(&mut self) {
        self.call(libc::SYS_setsid, [] as [Arg; 0]);
    }

    /// `setpgid(0, group)`.
    pub fn setpgid(&mut self, group: i32) {
        self.call(libc::SYS_setpgid, [0.into(), group.into()]);
    }

    /// `setpriority(PRIO_PROCESS, 0, nice)`.
    pub fn setpriority(&mut self, nice: i32) {
        self.call(libc::SYS_setpriority, [libc::PRIO_PROCESS.into(), 0.into(), nice.into()]);
    }

    /// `sched_setscheduler(0, policy, {priority})`.
    pub fn sched_setscheduler(&mut self, policy: i32, priority: i32) {
        let parameter = self.bytes(&priority.to_le_bytes());
        self.call(libc::SYS_sched_setscheduler, [0.into(), policy.into(), parameter.into()]);
    }

    /// `sched_setattr(0, {SCHED_DEADLINE, …})`; nanoseconds. Since Linux 3.14.
    pub fn sched_deadline(&mut self, runtime: u64, deadline: u64, period: u64) {
        const SCHED_ATTR_SIZE: u64 = 48;
        let head = SCHED_ATTR_SIZE | (libc::SCHED_DEADLINE as u64) << 32;
        let words = [head, 0, 0, runtime, deadline, period];
        let attr = self.bytes(&words.map(u64::to_le_bytes).concat());
        self.call(libc::SYS_sched_setattr, [0.into(), attr.into(), 0.into()]);
    }

    /// `sched_setaffinity(0, mask)`: bit n of the words is CPU n.
    pub fn sched_setaffinity(&mut self, mask: &[u64]) {
        let mask = self.bytes(&mask.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
        self.call(libc::SYS_sched_setaffinity, [0.into(), mask.len().into(), mask.into()]);
    }

    /// `personality`.
    pub fn personality(&mut self, persona: u32) {
        self.call(libc::SYS_personality, [persona.into()]);
    }

    /// `kill`.
    pub fn kill(&mut self, pid: i32, signal: i32) {
        self.call(libc::SYS_kill, [pid.into(), signal.into()]);
    }

    /// `wait4` for a child of [`Program::fork`]; the place is its status.
    pub fn wait_for_child(&mut self, pid: Slot) -> Place {
        let status = self.room(4);
        self.call(libc::SYS_wait4, [pid.into(), status.into(), libc::__WALL.into(), 0.into()]);
        self.retry();
        status
    }

    /// `eventfd2`: reading 8 bytes waits until 8 bytes with a number were written. Since Linux 2.6.27.
    pub fn eventfd(&mut self) -> Slot {
        self.call(libc::SYS_eventfd2, [0.into(), libc::EFD_CLOEXEC.into()])
    }

    /// `clone` without flags: a fork of the stage. The slot is 0 in the new process.
    pub fn fork(&mut self) -> Slot {
        let null = Arg::from(0);
        self.call(libc::SYS_clone, [null, null, null, null, null])
    }

    /// `clone3(CLONE_PARENT)`: a fork of the stage that is its sibling, a child of its parent. Its pid, as the caller
    /// sees it, is written to `pid` (4 bytes) before it runs. The slot is 0 in the new process. Since Linux 5.3.
    pub fn fork_sibling(&mut self, pid: Place) -> Slot {
        // struct clone_args up to `tls`; parent_tid is its fourth word.
        let mut words = [0; 8];
        words[0] = (libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID) as u64;
        words[3] = u64::from(pid.offset);
        let args = self.bytes(&words.map(u64::to_le_bytes).concat());
        self.relocate(args.part(24, 8));
        self.call(libc::SYS_clone3, [args.into(), 64.into()])
    }

    /// `exit_group(code)`. The outcome stays as it is: for a process that shares its image with one that goes on.
    pub fn exit(&mut self, code: i32) {
        self.call(libc::SYS_exit_group, [code.into()]);
    }

    /// `prctl(PR_SET_NAME)` with the 16 bytes in `name`, the last of which is 0.
    pub fn set_name(&mut self, name: Place) {
        self.call(libc::SYS_prctl, [libc::PR_SET_NAME.into(), name.into()]);
    }

    /// `umask`; the slot holds the old one.
    pub fn umask(&mut self, mask: impl Into<Arg>) -> Slot {
        self.call(libc::SYS_umask, [mask.into()])
    }

    /// `prlimit64(0, resource, {soft, hard}, NULL)`.
    pub fn setrlimit(&mut self, resource: u32, soft: u64, hard: u64) {
        let place = self.bytes(&[soft.to_le_bytes(), hard.to_le_bytes()].concat());
        self.call(libc::SYS_prlimit64, [0.into(), resource.into(), place.into(), 0.into()]);
    }

    /// `rt_sigaction(signal, SIG_DFL)` for each signal whose bit (signal number - 1 is bit number - 1) is set.
    pub fn default_signals(&mut self, signals: u64) {
        // struct kernel_sigaction of zeros: SIG_DFL, no flags, no restorer, empty mask. Bit 0 would be signal 0.
        let action = self.room(32);
        self.sweep(signals << 1, libc::SYS_rt_sigaction, [Arg::Bit, action.into(), 0.into(), 8.into()]);
    }

    /// `rt_sigprocmask(SIG_SETMASK, mask)`.
    pub fn set_signal_mask(&mut self, mask: u64) {
        let place = self.bytes(&mask.to_le_bytes());
        self.call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK.into(), place.into(), 0.into(), 8.into()]);
    }

    /// `poll` of descriptors until one of them has something to read, a hang-up or an error.
    pub fn wait_for_any(&mut self, files: &[i32]) {
        let entries = files.iter().flat_map(|fd| [fd.to_le_bytes(), [libc::POLLIN as u8, 0, 0, 0]].concat());
        let place = self.bytes(&entries.collect::<Vec<u8>>());
        self.call(libc::SYS_poll, [place.into(), files.len().into(), (-1).into()]);
        self.retry();
    }

    /// `pidfd_send_signal`. Since Linux 5.1.
    pub fn pidfd_send_signal(&mut self, pidfd: impl Into<Fd>, signal: i32) {
        self.call(libc::SYS_pidfd_send_signal, [fd(pidfd), signal.into(), 0.into(), 0.into()]);
    }

    /// `poll` of one descriptor without waiting: no event must be there, hang-up and error included.
    pub fn no_event_on(&mut self, file: i32) {
        let place = self.bytes(&[file.to_le_bytes(), [0; 4]].concat());
        self.call(libc::SYS_poll, [place.into(), 1.into(), 0.into()]);
        self.expect(0).retry();
    }

    /// `execve` of `path` with tables made by [`Program::addresses`].
    pub fn execve(&mut self, path: &CStr, argv: Place, envp: Place) {
        let path = self.text(path);
        self.call(libc::SYS_execve, [path.into(), argv.into(), envp.into()]);
    }

    /// `execveat(file, "", AT_EMPTY_PATH)`: executes an open file.
    pub fn execveat(&mut self, file: impl Into<Fd>, argv: Place, envp: Place) {
        let empty = self.text(EMPTY);
        let flags = libc::AT_EMPTY_PATH;
        self.call(libc::SYS_execveat, [fd(file), empty.into(), argv.into(), envp.into(), flags.into()]);
    }
}
