//! The capabilities, each with its number, name and first kernel.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

macro_rules! capabilities {
    ($($variant:ident = $number:literal, $name:literal, $since:literal, $doc:literal;)*) => {
        /// One of the kernel's capabilities.
        ///
        /// [`Display`](fmt::Display) prints the kernel's name (`CAP_NET_RAW`); [`FromStr`] takes it in any case, with or
        /// without `CAP_`. See [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Capability {
            $(
                #[doc = $doc]
                #[doc = concat!("First kernel: Linux ", $since, ".")]
                #[doc(alias = $name)]
                $variant = $number,
            )*
        }

        impl Capability {
            /// Every capability that this crate knows, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The kernel's name, as in `CAP_NET_RAW`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The first kernel that has it, as in `"5.8"`.
            pub const fn since(self) -> &'static str {
                match self { $(Self::$variant => $since,)* }
            }
        }
    };
}

capabilities! {
    Chown = 0, "CAP_CHOWN", "2.2", "Change the owner and group of any file.";
    DacOverride = 1, "CAP_DAC_OVERRIDE", "2.2", "Pass over the read, write and execute permissions of files.";
    DacReadSearch = 2, "CAP_DAC_READ_SEARCH", "2.2", "Read any file and search any directory; open by file handle.";
    Fowner = 3, "CAP_FOWNER", "2.2", "Do what else only the owner of a file may.";
    Fsetid = 4, "CAP_FSETID", "2.2", "Keep set-user-ID and set-group-ID bits when a file changes.";
    Kill = 5, "CAP_KILL", "2.2", "Send signals to processes of others.";
    Setgid = 6, "CAP_SETGID", "2.2", "Take any group id, set supplementary groups, write group maps.";
    Setuid = 7, "CAP_SETUID", "2.2", "Take any user id, write user maps.";
    Setpcap = 8, "CAP_SETPCAP", "2.2", "Drop from the bounding set, add to the inheritable set from it, set securebits.";
    LinuxImmutable = 9, "CAP_LINUX_IMMUTABLE", "2.2", "Set the immutable and append-only flags of files.";
    NetBindService = 10, "CAP_NET_BIND_SERVICE", "2.2", "Bind ports below 1024.";
    NetBroadcast = 11, "CAP_NET_BROADCAST", "2.2", "Unused by the kernel.";
    NetAdmin = 12, "CAP_NET_ADMIN", "2.2", "Administer interfaces, routes, firewalls.";
    NetRaw = 13, "CAP_NET_RAW", "2.2", "Use raw and packet sockets.";
    IpcLock = 14, "CAP_IPC_LOCK", "2.2", "Lock memory, use huge pages.";
    IpcOwner = 15, "CAP_IPC_OWNER", "2.2", "Pass over the permissions of System V IPC objects.";
    SysModule = 16, "CAP_SYS_MODULE", "2.2", "Load and unload kernel modules.";
    SysRawio = 17, "CAP_SYS_RAWIO", "2.2", "Use I/O ports, /proc/kcore and raw device commands.";
    SysChroot = 18, "CAP_SYS_CHROOT", "2.2", "chroot(2), and setns(2) to a mount namespace.";
    SysPtrace = 19, "CAP_SYS_PTRACE", "2.2", "Trace and read the memory of any process.";
    SysPacct = 20, "CAP_SYS_PACCT", "2.2", "Switch process accounting.";
    SysAdmin = 21, "CAP_SYS_ADMIN", "2.2", "Mounts, namespaces and very much else.";
    SysBoot = 22, "CAP_SYS_BOOT", "2.2", "reboot(2) and kexec_load(2).";
    SysNice = 23, "CAP_SYS_NICE", "2.2", "Raise priorities, set scheduling and affinity of others.";
    SysResource = 24, "CAP_SYS_RESOURCE", "2.2", "Pass over resource limits and quotas.";
    SysTime = 25, "CAP_SYS_TIME", "2.2", "Set the clocks.";
    SysTtyConfig = 26, "CAP_SYS_TTY_CONFIG", "2.2", "vhangup(2) and privileged terminal commands.";
    Mknod = 27, "CAP_MKNOD", "2.4", "Create device nodes.";
    Lease = 28, "CAP_LEASE", "2.4", "Take leases on any file.";
    AuditWrite = 29, "CAP_AUDIT_WRITE", "2.6.11", "Write to the kernel's audit log.";
    AuditControl = 30, "CAP_AUDIT_CONTROL", "2.6.11", "Configure auditing.";
    Setfcap = 31, "CAP_SETFCAP", "2.6.24", "Set file capabilities; since 5.12 also to map the parent's user 0.";
    MacOverride = 32, "CAP_MAC_OVERRIDE", "2.6.25", "Override mandatory access control (Smack).";
    MacAdmin = 33, "CAP_MAC_ADMIN", "2.6.25", "Configure mandatory access control (Smack, AppArmor).";
    Syslog = 34, "CAP_SYSLOG", "2.6.37", "Read the kernel log and kernel addresses.";
    WakeAlarm = 35, "CAP_WAKE_ALARM", "3.0", "Set timers that wake the system.";
    BlockSuspend = 36, "CAP_BLOCK_SUSPEND", "3.5", "Keep the system from suspending.";
    AuditRead = 37, "CAP_AUDIT_READ", "3.16", "Read the audit log by netlink.";
    Perfmon = 38, "CAP_PERFMON", "5.8", "Use performance monitoring.";
    Bpf = 39, "CAP_BPF", "5.8", "Use privileged BPF operations.";
    CheckpointRestore = 40, "CAP_CHECKPOINT_RESTORE", "5.9", "Checkpoint and restore processes.";
}

impl Capability {
    /// The kernel's number, 0 to 63.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The capability with this number; `None` for one that this crate does not know.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The bit of a 64-bit set.
    pub(crate) const fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name in any case, with or without `CAP_`.
impl FromStr for Capability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let short = match text.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &text[4..],
            _ => text,
        };
        Self::ALL.iter().copied().find(|known| known.name()[4..].eq_ignore_ascii_case(short)).ok_or_else(
            || {
                Error::new(
                    ErrorKind::UnknownCapability,
                    format!("{text:?} is no capability known to this library"),
                )
                .hint_is("names are those of capabilities(7), such as NET_RAW or CAP_NET_RAW")
            },
        )
    }
}

impl TryFrom<u8> for Capability {
    type Error = Error;

    fn try_from(number: u8) -> Result<Self> {
        Self::from_number(number).ok_or_else(|| {
            Error::new(
                ErrorKind::UnknownCapability,
                format!("{number} is no capability known to this library"),
            )
        })
    }
}
