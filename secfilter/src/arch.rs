//! The architectures whose system-call tables this crate knows.

use std::fmt;

/// An ABI through which a program calls the kernel: the `arch` word of `struct seccomp_data`.
///
/// On an x86_64 kernel one process may use several: `int 0x80` from 64-bit code is an [`Arch::X86`] call with
/// other numbers, which is why every compiled filter checks this word first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86, `AUDIT_ARCH_X86_64`. Its calls with bit 30 set are the x32 ABI, which every filter kills.
    X86_64,
    /// 32-bit x86 (i386), `AUDIT_ARCH_I386`.
    X86,
}

impl Arch {
    /// The architecture that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;

    /// All of them.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::X86];

    /// The kernel's `AUDIT_ARCH_*` value, from `linux/audit.h`.
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
        }
    }

    /// Bit 30: set in the number of a call of the x32 ABI, which shares `AUDIT_ARCH_X86_64`.
    pub(crate) const X32_BIT: u32 = 0x4000_0000;

    /// The word that Docker profiles use in `includes.arches`: Go's names.
    pub(crate) const fn go_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::X86 => "x86",
        }
    }

    /// libseccomp's name, as in OCI profiles.
    pub(crate) const fn scmp_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X86 => "SCMP_ARCH_X86",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::X86 => "i386",
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("palisade-secfilter knows the system calls of x86_64 (and i386) only");
