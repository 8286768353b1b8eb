//! Prints programs as strace would.

use std::fmt::{self, Write as _};

use crate::flags::*;
use crate::program::Program;
use crate::step::Step;
use crate::wire::*;

/// How an argument is printed.
#[derive(Clone, Copy)]
enum Kind {
    Int,
    Fd,
    Octal,
    Hex,
    /// NUL-terminated string in the arena.
    Text,
    /// Bytes in the arena whose length is the next argument.
    Bytes,
    /// One of named values.
    Name(Names),
    /// Named bits.
    Flags(Names),
    /// `struct open_how`.
    How,
    /// `struct mount_attr`.
    Attr,
    /// `struct rlimit`.
    Limit,
    /// `struct clone_args`.
    Clone,
    /// capset's data.
    Caps,
    /// Addresses of strings, ended by null.
    Strings,
    /// An address whose contents say nothing to a reader.
    Address,
}
use Kind::*;

const SHAPES: &[(i64, &str, &[Kind])] = &[
    (libc::SYS_openat2, "openat2", &[Fd, Text, How, Int]),
    (libc::SYS_statx, "statx", &[Fd, Text, Flags(AT), Flags(STATX), Address]),
    (libc::SYS_close, "close", &[Fd]),
    (libc::SYS_dup3, "dup3", &[Fd, Fd, Flags(OPEN)]),
    (libc::SYS_fcntl, "fcntl", &[Fd, Name(FCNTL), Int]),
    (libc::SYS_close_range, "close_range", &[Fd, Hex, Flags(CLOSE_RANGE)]),
    (libc::SYS_read, "read", &[Fd, Address, Int]),
    (libc::SYS_write, "write", &[Fd, Bytes, Int]),
    (libc::SYS_mkdirat, "mkdirat", &[Fd, Text, Octal]),
    (libc::SYS_symlinkat, "symlinkat", &[Text, Fd, Text]),
    (libc::SYS_mknodat, "mknodat", &[Fd, Text, Octal, Hex]),
    (libc::SYS_fchownat, "fchownat", &[Fd, Text, Int, Int, Flags(AT)]),
    (libc::SYS_fchmod, "fchmod", &[Fd, Octal]),
    (libc::SYS_open_tree, "open_tree", &[Fd, Text, Flags(OPEN_TREE)]),
    (libc::SYS_mount_setattr, "mount_setattr", &[Fd, Text, Flags(AT), Attr, Int]),
    (libc::SYS_move_mount, "move_mount", &[Fd, Text, Fd, Text, Flags(MOVE_MOUNT)]),
    (libc::SYS_fsopen, "fsopen", &[Text, Flags(FSOPEN)]),
    (libc::SYS_fsconfig, "fsconfig", &[Fd, Name(FSCONFIG), Text, Text, Int]),
    (libc::SYS_fsmount, "fsmount", &[Fd, Flags(FSMOUNT), Flags(MOUNT_ATTR)]),
    (libc::SYS_mount, "mount", &[Text, Text, Text, Flags(MS), Address]),
    (libc::SYS_umount2, "umount2", &[Text, Flags(UMOUNT)]),
    (libc::SYS_pivot_root, "pivot_root", &[Text, Text]),
    (libc::SYS_chroot, "chroot", &[Text]),
    (libc::SYS_chdir, "chdir", &[Text]),
    (libc::SYS_fchdir, "fchdir", &[Fd]),
    (libc::SYS_unshare, "unshare", &[Flags(CLONE)]),
    (libc::SYS_setns, "setns", &[Fd, Flags(CLONE)]),
    (libc::SYS_sethostname, "sethostname", &[Bytes, Int]),
    (libc::SYS_setdomainname, "setdomainname", &[Bytes, Int]),
    (libc::SYS_socket, "socket", &[Name(FAMILY), Flags(SOCKET), Int]),
    (libc::SYS_sendmsg, "sendmsg", &[Fd, Address, Flags(MSG)]),
    (libc::SYS_setpriority, "setpriority", &[Name(PRIO), Int, Int]),
    (libc::SYS_sched_setscheduler, "sched_setscheduler", &[Int, Name(SCHED), Address]),
    (libc::SYS_sched_setattr, "sched_setattr", &[Int, Address, Int]),
    (libc::SYS_sched_setaffinity, "sched_setaffinity", &[Int, Int, Address]),
    (libc::SYS_personality, "personality", &[Hex]),
    (libc::SYS_kill, "kill", &[Int, Int]),
    (libc::SYS_wait4, "wait4", &[Int, Address, Flags(WAIT), Address]),
    (libc::SYS_ioctl, "ioctl", &[Fd, Name(IOCTL), Address]),
    (libc::SYS_prctl, "prctl", &[Name(PRCTL), Int, Int, Int, Int]),
    (libc::SYS_capset, "capset", &[Address, Caps]),
    (libc::SYS_setgroups, "setgroups", &[Int, Address]),
    (libc::SYS_setresgid, "setresgid", &[Int, Int, Int]),
    (libc::SYS_setresuid, "setresuid", &[Int, Int, Int]),
    (libc::SYS_keyctl, "keyctl", &[Name(KEYCTL), Address]),
    (libc::SYS_seccomp, "seccomp", &[Name(SECCOMP), Flags(SECCOMP_FLAGS), Address]),
    (libc::SYS_landlock_create_ruleset, "landlock_create_ruleset", &[Address, Int, Int]),
    (libc::SYS_landlock_add_rule, "landlock_add_rule", &[Fd, Name(LANDLOCK_RULE), Address, Int]),
    (libc::SYS_landlock_restrict_self, "landlock_restrict_self", &[Fd, Int]),
    (libc::SYS_getpid, "getpid", &[]),
    (libc::SYS_setsid, "setsid", &[]),
    (libc::SYS_setpgid, "setpgid", &[Int, Int]),
    (libc::SYS_clone, "clone", &[Flags(CLONE), Address, Address, Address, Address]),
    (libc::SYS_clone3, "clone3", &[Clone, Int]),
    (libc::SYS_exit_group, "exit_group", &[Int]),
    (libc::SYS_eventfd2, "eventfd2", &[Int, Flags(OPEN)]),
    (libc::SYS_umask, "umask", &[Octal]),
    (libc::SYS_prlimit64, "prlimit64", &[Int, Name(RLIMIT), Limit, Address]),
    (libc::SYS_rt_sigaction, "rt_sigaction", &[Int, Address, Address, Int]),
    (libc::SYS_rt_sigprocmask, "rt_sigprocmask", &[Name(SIGMASK), Address, Address, Int]),
    (libc::SYS_poll, "poll", &[Address, Int, Int]),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal", &[Fd, Int, Address, Int]),
    (libc::SYS_clock_gettime, "clock_gettime", &[Int, Address]),
    (libc::SYS_execve, "execve", &[Text, Strings, Address]),
    (libc::SYS_execveat, "execveat", &[Fd, Text, Strings, Address, Flags(AT)]),
];

/// Longest string or byte run printed in full.
const TEXT_LIMIT: usize = 80;

impl fmt::Display for Program {
    /// One line an operation, under headings for steps and objects.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heading: Option<(Step, Option<&str>)> = None;
        for index in 0..self.ops.len() {
            let now = (self.step(index).unwrap_or_default(), self.object(index));
            if heading != Some(now) {
                match now.1 {
                    Some(object) => writeln!(f, "{}: {object}", now.0)?,
                    None => writeln!(f, "{}", now.0)?,
                }
                heading = Some(now);
            }
            if let Some(line) = self.line(index) {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

impl Program {
    /// A whole operation with its rule.
    pub(crate) fn show(&self, op: &Op) -> String {
        let mut line = match op.kind {
            KIND_CALL | KIND_SWEEP => self.show_call(op, None),
            KIND_STORE => format!("arena[{}] = {}", op.args[0], self.show_raw(op, 1)),
            KIND_CHECK => format!(
                "arena[{}] & {:#x} must be {:#x}, or {}",
                op.args[0],
                op.args[1],
                op.args[2],
                errno_name(op.errnos[0].into())
            ),
            KIND_GUARD => format!(
                "guard({}, {}, {}, {}, {})",
                self.show_raw(op, 0),
                self.show_raw(op, 1),
                self.show_raw(op, 2),
                self.show_raw(op, 3),
                self.show_text(op.args[4] as usize)
            ),
            KIND_INIT => format!("init({})", self.show_raw(op, 0)),
            _ => format!("fail with the errno remembered, or {}", errno_name(op.value as i32)),
        };
        let errnos: Vec<_> = op.errnos.iter().filter(|&&e| e != 0).map(|&e| errno_name(e.into())).collect();
        let errnos = errnos.join("|");
        let rule = match op.rule & !RULE_RETRY {
            _ if op.kind != KIND_CALL => None,
            RULE_EXPECT => Some(format!(" = {}", op.value)),
            RULE_TOLERATE => Some(format!("  [or {errnos}]")),
            RULE_JUMP => Some(format!("  [{errnos}: go on at {}]", op.jump)),
            RULE_STICKY => Some(format!("  [{errnos}: remember, go on]")),
            RULE_BRANCH => Some(format!("  [above 0: go on at {}]", op.jump)),
            _ => None,
        };
        line.push_str(&rule.unwrap_or_default());
        if op.kind == KIND_CALL && self.is_used(op.out) {
            let _ = write!(line, " -> ${}", op.out);
        }
        line
    }

    /// The call of a failed operation; in a sweep, that of the bit at which it failed.
    pub(crate) fn show_failed(&self, op: &Op, bit: u32) -> String {
        match op.kind {
            KIND_CALL | KIND_SWEEP => self.show_call(op, Some(bit)),
            KIND_CHECK => "identity check".into(),
            KIND_FAIL if Step::from_raw(op.step) == Step::Exec => "no candidate could be executed".into(),
            KIND_FAIL => "refused by the program itself".into(),
            KIND_INIT => "pid 1 becomes an init".into(),
            _ => "interpreter".into(),
        }
    }

    fn show_call(&self, op: &Op, bit: Option<u32>) -> String {
        let Some((_, name, kinds)) = SHAPES.iter().find(|(nr, ..)| *nr == i64::from(op.nr)) else {
            return format!("syscall_{}({:?})", op.nr, op.args);
        };
        let args: Vec<String> = (0..kinds.len()).map(|n| self.show_arg(op, n, kinds[n], bit)).collect();
        format!("{name}({})", args.join(", "))
    }

    fn is_used(&self, slot: u16) -> bool {
        let reads = |op: &Op| (0..6).any(|n| op.modes[n] == ARG_SLOT && op.args[n] == u64::from(slot));
        self.ops.iter().any(reads)
    }

    fn show_slot(&self, slot: u64) -> String {
        let input = self.inputs.iter().find(|(input, _)| u64::from(*input) == slot);
        input.map_or_else(|| format!("${slot}"), |(_, name)| format!("<{name}>"))
    }

    fn show_raw(&self, op: &Op, n: usize) -> String {
        match op.modes[n] {
            ARG_SLOT => self.show_slot(op.args[n]),
            ARG_ARENA => format!("&arena[{}]", op.args[n]),
            _ => op.args[n].to_string(),
        }
    }

    fn show_arg(&self, op: &Op, n: usize, kind: Kind, bit: Option<u32>) -> String {
        let value = op.args[n];
        match op.modes[n] {
            ARG_SLOT => return self.show_slot(value),
            ARG_BIT => {
                return match bit {
                    Some(bit) => bit.to_string(),
                    None => format!("each of {}", bit_list(op.value)),
                };
            }
            ARG_ARENA => return self.show_memory(op, n, kind),
            _ => {}
        }
        match kind {
            Fd if value as i64 == i64::from(libc::AT_FDCWD) => "AT_FDCWD".into(),
            Octal => format!("0{value:o}"),
            Hex => format!("{value:#x}"),
            Name(names) => one_of(names, value),
            Flags(names) => some_of(names, value),
            Text | Bytes | Address | Strings if value == 0 => "NULL".into(),
            Int | Fd => (value as i64 as i32).to_string(),
            _ => value.to_string(),
        }
    }

    fn show_memory(&self, op: &Op, n: usize, kind: Kind) -> String {
        let at = op.args[n] as usize;
        match kind {
            Text => self.show_text(at),
            Bytes => {
                let len = op.args.get(n + 1).map_or(0, |&len| len as usize);
                quote(self.arena.get(at..at + len).unwrap_or_default())
            }
            How => format!(
                "{{flags={}, resolve={}}}",
                some_of(OPEN, self.word(at)),
                some_of(RESOLVE, self.word(at + 16))
            ),
            Attr => {
                let named = [("set", MOUNT_ATTR), ("clear", MOUNT_ATTR), ("propagation", MS)];
                let words =
                    named.iter().enumerate().map(|(i, (name, names))| (*name, names, self.word(at + i * 8)));
                let parts: Vec<_> = words
                    .filter(|&(_, _, word)| word != 0)
                    .map(|(name, names, word)| format!("{name}={}", some_of(names, word)))
                    .collect();
                format!("{{{}}}", parts.join(", "))
            }
            Clone => format!("{{flags={}}}", some_of(CLONE, self.word(at))),
            Limit => format!("{{{}, {}}}", limit(self.word(at)), limit(self.word(at + 8))),
            Caps => {
                // Three low halves (effective, permitted, inheritable), then the three high ones.
                let half = |n: usize| self.word(at + n / 2 * 8) >> (n % 2 * 32) & u64::from(u32::MAX);
                let set = |n: usize| half(n) | half(n + 3) << 32;
                format!("{{effective={:#x}, permitted={:#x}, inheritable={:#x}}}", set(0), set(1), set(2))
            }
            Strings => {
                let words = (0..).map(|i| self.word(at + i * 8)).take_while(|&word| word != u64::MAX);
                let texts: Vec<_> = words.take(16).map(|word| self.show_text(word as usize)).collect();
                format!("[{}]", texts.join(", "))
            }
            _ => "…".into(),
        }
    }

    fn show_text(&self, at: usize) -> String {
        let rest = self.arena.get(at..).unwrap_or_default();
        let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
        quote(&rest[..end])
    }

    /// A word of the arena; past its end everything is `u64::MAX`, which ends lists.
    fn word(&self, at: usize) -> u64 {
        let bytes = self.arena.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(u64::MAX, u64::from_le_bytes)
    }
}

fn quote(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(TEXT_LIMIT)];
    format!("\"{}\"{}", shown.escape_ascii(), if shown.len() < bytes.len() { "…" } else { "" })
}

fn limit(value: u64) -> String {
    if value == u64::MAX { "RLIM_INFINITY".into() } else { value.to_string() }
}

fn one_of(names: Names, value: u64) -> String {
    let found = names.iter().find(|(bits, _)| *bits == value);
    found.map_or_else(|| value.to_string(), |(_, name)| (*name).to_owned())
}

fn some_of(names: Names, value: u64) -> String {
    let mut left = value;
    let mut parts = Vec::new();
    for &(bits, name) in names {
        if bits != 0 && left & bits == bits {
            parts.push(name.to_owned());
            left &= !bits;
        }
    }
    if left != 0 || parts.is_empty() {
        parts.push(if left == 0 { "0".into() } else { format!("{left:#x}") });
    }
    parts.join("|")
}

/// Bit numbers as ranges: `0-20,22`.
fn bit_list(mask: u64) -> String {
    let mut parts = Vec::new();
    let mut bit = 0;
    while bit < 64 {
        let run = (mask >> bit).trailing_ones();
        match run {
            0 => bit += 1,
            1 => parts.push(bit.to_string()),
            _ => parts.push(format!("{bit}-{}", bit + run - 1)),
        }
        bit += run;
    }
    parts.join(",")
}

/// The symbol of an errno (`ENOENT`), or its number.
pub(crate) fn errno_name(errno: i32) -> String {
    one_of(ERRNO, errno as u64)
}
