use std::fmt;

use crate::Capabilities;

/// The names of capabilities by number, as of Linux 5.9 (which added the last).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

impl Capabilities {
    /// The names of a set, such as `cap_net_raw`, by ascending number; `cap_63` for one that this crate does not know.
    pub fn names(set: u64) -> Vec<String> {
        let bits = (0..u64::BITS).filter(|bit| set & (1 << bit) != 0);
        bits.map(|bit| match usize::try_from(bit).ok().and_then(|b| NAMES.get(b)) {
            Some(name) => format!("cap_{name}"),
            None => format!("cap_{bit}"),
        })
        .collect()
    }
}

/// One line for each of the five sets: the mask as the kernel prints it, and the names unless there are more than 20.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sets = [
            ("CapInh", self.inheritable),
            ("CapPrm", self.permitted),
            ("CapEff", self.effective),
            ("CapBnd", self.bounding),
            ("CapAmb", self.ambient),
        ];
        for (i, (name, set)) in sets.into_iter().enumerate() {
            let line = if i > 0 { "\n" } else { "" };
            write!(f, "{line}{name}: {set:016x}")?;
            match Self::names(set) {
                none if none.is_empty() => f.write_str(" (none)")?,
                few if few.len() <= 20 => write!(f, " {}", few.join(","))?,
                many => write!(f, " ({} capabilities)", many.len())?,
            }
        }
        Ok(())
    }
}
