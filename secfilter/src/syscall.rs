//! A system call by name or number.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::arch::Arch;
use crate::error::{Error, Repr};
use crate::table::{NONE, Row, TABLE};

/// A system call of the [native](Arch::NATIVE) architecture, by its number.
///
/// `FromStr` takes the kernel's name (`"openat"`) or a decimal number (`"257"`); `Display` prints the name, or the
/// number where the table has no name for it.
///
/// ```
/// # use palisade_secfilter::Syscall;
/// let call: Syscall = "openat".parse()?;
/// assert_eq!(call.number(), 257);
/// assert_eq!(call.to_string(), "openat");
/// assert!("opnat".parse::<Syscall>().unwrap_err().to_string().contains("openat"));
/// # Ok::<(), palisade_secfilter::Error>(())
/// ```
///
/// See [syscalls(2)](https://man7.org/linux/man-pages/man2/syscalls.2.html).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Syscall(u32);

impl Syscall {
    /// The highest number in this crate's table (`rseq_slice_yield`, Linux 7.0). A call above it is unknown to
    /// every policy that does not name its number.
    pub const NEWEST: Syscall = Syscall(471);

    /// A call by number, known or not.
    pub const fn new(number: u32) -> Self {
        Syscall(number)
    }

    /// The number, as in `rax`.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The kernel's name, if the table has one.
    pub fn name(self) -> Option<&'static str> {
        name_on(Arch::NATIVE, self.0)
    }

    /// Every call in the table, by rising number.
    pub fn all() -> impl Iterator<Item = Syscall> {
        known(Arch::NATIVE).map(Syscall)
    }
}

impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl fmt::Debug for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Syscall({}, {self})", self.0)
    }
}

impl FromStr for Syscall {
    type Err = Error;

    /// # Errors
    /// [`UnknownSyscall`](crate::ErrorKind::UnknownSyscall) with the nearest name, if one is near.
    fn from_str(s: &str) -> Result<Self, Error> {
        if s.bytes().next().is_some_and(|b| b.is_ascii_digit()) {
            if let Ok(number) = s.parse() {
                return Ok(Syscall(number));
            }
        }
        number_on(Arch::NATIVE, s).map(Syscall).ok_or_else(|| unknown(s, Arch::NATIVE))
    }
}

impl Row {
    pub(crate) fn number(&self, arch: Arch) -> Option<u32> {
        let number = match arch {
            Arch::X86_64 => self.1,
            Arch::X86 => self.2,
        };
        (number != NONE).then_some(u32::from(number))
    }
}

pub(crate) fn row(name: &str) -> Option<&'static Row> {
    TABLE.binary_search_by(|row| row.0.cmp(name)).ok().map(|i| &TABLE[i])
}

/// The number of `name` on `arch`.
pub(crate) fn number_on(arch: Arch, name: &str) -> Option<u32> {
    row(name)?.number(arch)
}

/// The name of call `number` on `arch`.
pub(crate) fn name_on(arch: Arch, number: u32) -> Option<&'static str> {
    *by_number(arch).get(number as usize)?
}

/// All numbers known on `arch`, rising.
pub(crate) fn known(arch: Arch) -> impl Iterator<Item = u32> {
    (0u32..).zip(by_number(arch)).filter(|(_, name)| name.is_some()).map(|(number, _)| number)
}

/// The table turned around: the name at each number.
fn by_number(arch: Arch) -> &'static [Option<&'static str>] {
    static X86_64: OnceLock<Vec<Option<&str>>> = OnceLock::new();
    static X86: OnceLock<Vec<Option<&str>>> = OnceLock::new();
    let table = match arch {
        Arch::X86_64 => &X86_64,
        Arch::X86 => &X86,
    };
    table.get_or_init(|| {
        let mut names = vec![None; Syscall::NEWEST.0 as usize + 1];
        for row in TABLE {
            if let Some(place) = row.number(arch).and_then(|number| names.get_mut(number as usize)) {
                *place = Some(row.0);
            }
        }
        names
    })
}

/// The error for a name that `arch` does not have: a call of another architecture, or a typing mistake.
pub(crate) fn unknown(name: &str, arch: Arch) -> Error {
    let elsewhere = Arch::ALL.into_iter().find(|&other| other != arch && number_on(other, name).is_some());
    let hint = match elsewhere {
        Some(other) => format!("; it is a call of {other}: mark the rule optional() if that is fine"),
        None => match nearest(name) {
            Some(near) => format!("; did you mean `{near}`?"),
            None => "; mark the rule optional() if a newer kernel has it".to_owned(),
        },
    };
    // A name from a hostile profile may be long and may hold control characters.
    let name = name.chars().take(64).collect::<String>().escape_debug().to_string();
    Repr::UnknownSyscall { name, arch, hint }.into()
}

/// The known name within two edits of `name`.
fn nearest(name: &str) -> Option<&'static str> {
    if name.len() > 40 {
        return None;
    }
    TABLE
        .iter()
        .map(|row| (edits(name.as_bytes(), row.0.as_bytes()), row.0))
        .min()
        .filter(|m| m.0 <= 2)
        .map(|m| m.1)
}

/// Levenshtein's distance.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut line: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = line[0];
        line[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = line[j + 1];
            line[j + 1] = change.min(diagonal + 1).min(line[j] + 1);
        }
    }
    line[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_no_number_twice() {
        assert!(TABLE.windows(2).all(|w| w[0].0 < w[1].0));
        for arch in Arch::ALL {
            let rows = TABLE.iter().filter(|row| row.number(arch).is_some()).count();
            assert_eq!(known(arch).count(), rows, "{arch}: a number twice, or above NEWEST");
            assert_eq!(known(arch).last(), Some(Syscall::NEWEST.number()), "{arch}");
        }
    }

    /// Complete: between the first and the newest call only the numbers that x86_64 never gave out are missing.
    #[test]
    fn the_table_has_no_holes() {
        let holes: Vec<u32> =
            (0..=Syscall::NEWEST.number()).filter(|&n| name_on(Arch::X86_64, n).is_none()).collect();
        assert_eq!(holes, (337..=423).collect::<Vec<u32>>());
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for call in Syscall::all() {
            assert_eq!(call.to_string().parse::<Syscall>().unwrap(), call);
        }
        assert_eq!("9999".parse::<Syscall>().unwrap().to_string(), "9999");
    }

    #[test]
    fn a_wrong_name_is_told_apart_from_one_of_another_architecture() {
        let message = |s: &str| s.parse::<Syscall>().unwrap_err().to_string();
        assert!(message("opnat").contains("did you mean `openat`"), "{}", message("opnat"));
        assert!(message("chown32").contains("i386"), "{}", message("chown32"));
        assert!(message("frobnicate").contains("optional"), "{}", message("frobnicate"));
    }
}
