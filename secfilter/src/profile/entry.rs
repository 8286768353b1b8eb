//! One entry of a profile and the conditions under which it counts.

use super::{Host, KernelVersion, printable};
use crate::action::Action;
use crate::arch::Arch;
use crate::condition::Condition;

/// Calls, argument rules (any of them; in each all conditions), action, and where it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) names: Vec<String>,
    pub(super) rules: Vec<Vec<Condition>>,
    pub(super) action: Action,
    pub(super) includes: Filter,
    pub(super) excludes: Filter,
}

/// `includes` or `excludes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) caps: Vec<String>,
    pub(super) arches: Vec<String>,
    pub(super) min_kernel: Option<(u32, u32)>,
}

impl Entry {
    /// `includes` wants all that it lists, `excludes` drops the entry for any.
    pub(super) fn applies(&self, host: &Host) -> Result<bool, String> {
        let has = |name: &String| capability(name).map(|bit| host.capabilities >> bit & 1 == 1);
        let mut included = true;
        for name in &self.includes.caps {
            included &= has(name)?;
        }
        let mut excluded = false;
        for name in &self.excludes.caps {
            excluded |= has(name)?;
        }
        included &= self.includes.arches.is_empty() || lists_native(&self.includes.arches)?;
        excluded |= lists_native(&self.excludes.arches)?;
        let reaches = |(major, minor)| host.kernel >= KernelVersion { major, minor };
        included &= self.includes.min_kernel.is_none_or(reaches);
        excluded |= self.excludes.min_kernel.is_some_and(reaches);
        Ok(included && !excluded)
    }
}

fn lists_native(arches: &[String]) -> Result<bool, String> {
    for name in arches {
        if !KNOWN_ARCHITECTURES.iter().any(|(_, word)| word == name) {
            return Err(format!("unknown architecture `{}`", printable(name)));
        }
    }
    Ok(arches.iter().any(|name| name == Arch::NATIVE.go_name()))
}

/// libseccomp's constants, and the words that Docker uses in conditions.
pub(super) const KNOWN_ARCHITECTURES: &[(&str, &str)] = &[
    ("SCMP_ARCH_X86", "x86"),
    ("SCMP_ARCH_X86_64", "amd64"),
    ("SCMP_ARCH_X32", "x32"),
    ("SCMP_ARCH_ARM", "arm"),
    ("SCMP_ARCH_AARCH64", "arm64"),
    ("SCMP_ARCH_MIPS", "mips"),
    ("SCMP_ARCH_MIPS64", "mips64"),
    ("SCMP_ARCH_MIPS64N32", "mips64n32"),
    ("SCMP_ARCH_MIPSEL", "mipsel"),
    ("SCMP_ARCH_MIPSEL64", "mipsel64"),
    ("SCMP_ARCH_MIPSEL64N32", "mipsel64n32"),
    ("SCMP_ARCH_PPC", "ppc"),
    ("SCMP_ARCH_PPC64", "ppc64"),
    ("SCMP_ARCH_PPC64LE", "ppc64le"),
    ("SCMP_ARCH_S390", "s390"),
    ("SCMP_ARCH_S390X", "s390x"),
    ("SCMP_ARCH_PARISC", "parisc"),
    ("SCMP_ARCH_PARISC64", "parisc64"),
    ("SCMP_ARCH_RISCV64", "riscv64"),
    ("SCMP_ARCH_LOONGARCH64", "loong64"),
    ("SCMP_ARCH_M68K", "m68k"),
    ("SCMP_ARCH_SH", "sh"),
    ("SCMP_ARCH_SHEB", "sheb"),
];

/// The number of a capability: bit of the sets in /proc/PID/status.
fn capability(name: &str) -> Result<u32, String> {
    let plain = name.strip_prefix("CAP_").unwrap_or(name);
    CAPABILITIES
        .iter()
        .position(|known| *known == plain)
        .map(|bit| bit as u32)
        .ok_or_else(|| format!("unknown capability `{}`", printable(name)))
}

/// By number, as in `linux/capability.h`.
#[rustfmt::skip]
const CAPABILITIES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_numbers() {
        for (name, number) in
            [("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("SYSLOG", 34), ("CAP_CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(capability(name), Ok(number));
        }
        assert!(capability("CAP_EVERYTHING").is_err());
    }
}
