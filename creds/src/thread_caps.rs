//! The five capability sets of a thread.

use crate::{CapabilitySet, Error, ErrorKind, Result, sys};

/// The five capability sets of a thread. See [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[doc(alias = "CapEff")]
#[doc(alias = "capget")]
pub struct ThreadCapabilities {
    /// What the kernel goes by. A subset of `permitted`.
    pub effective: CapabilitySet,
    /// What may be made effective.
    pub permitted: CapabilitySet,
    /// What files with inheritable bits may give after an exec. Best empty.
    pub inheritable: CapabilitySet,
    /// What an exec can give at most.
    pub bounding: CapabilitySet,
    /// What stays through the exec of an ordinary program. A subset of `permitted` and of `inheritable`.
    pub ambient: CapabilitySet,
}

impl ThreadCapabilities {
    /// Those of the calling thread, by system calls alone (no /proc).
    ///
    /// # Errors
    /// [`ErrorKind::System`] if a filter refuses capget(2) or prctl(2).
    pub fn current() -> Result<Self> {
        let [effective, permitted, inheritable] =
            sys::capget().map_err(|errno| Error::os(errno, "capget"))?.map(CapabilitySet::from_bits);
        // The kernel keeps the ambient set within these two, whose intersection is mostly empty.
        let mut ambient = 0;
        for number in (permitted & inheritable).numbers() {
            let question = libc::PR_CAP_AMBIENT_IS_SET as u64;
            let answer = sys::prctl(libc::PR_CAP_AMBIENT, question, number.into())
                .map_err(|errno| Error::os(errno, format!("prctl(PR_CAP_AMBIENT_IS_SET, {number})")))?;
            ambient |= u64::from(answer != 0) << number;
        }
        let (_, bounding) = supported_and_bounding()?;
        Ok(Self { effective, permitted, inheritable, bounding, ambient: CapabilitySet::from_bits(ambient) })
    }

    /// Those that the text of a `/proc/PID/status` shows.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] if one of the five lines is missing or no mask.
    pub fn from_status(status: &[u8]) -> Result<Self> {
        let mask = |key: &str| {
            status
                .split(|byte| *byte == b'\n')
                .find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b":"))
                .and_then(|mask| std::str::from_utf8(mask.trim_ascii()).ok())
                .filter(|mask| mask.len() == 16 && mask.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|mask| u64::from_str_radix(mask, 16).ok())
                .map(CapabilitySet::from_bits)
                .ok_or_else(|| {
                    Error::new(ErrorKind::Syntax, format!("status has no line '{key}:' with a mask"))
                })
        };
        Ok(Self {
            effective: mask("CapEff")?,
            permitted: mask("CapPrm")?,
            inheritable: mask("CapInh")?,
            bounding: mask("CapBnd")?,
            ambient: mask("CapAmb")?,
        })
    }
}

impl CapabilitySet {
    /// Every capability that the running kernel has: what the first process of a new user namespace gets.
    ///
    /// # Errors
    /// [`ErrorKind::System`] if a filter refuses prctl(2).
    #[doc(alias = "cap_last_cap")]
    pub fn supported() -> Result<Self> {
        Ok(supported_and_bounding()?.0)
    }
}

/// What the kernel has, and what of it the calling thread's bounding set has.
fn supported_and_bounding() -> Result<(CapabilitySet, CapabilitySet)> {
    let (mut supported, mut bounding) = (0, 0);
    for number in 0..64 {
        match sys::prctl(libc::PR_CAPBSET_READ, number, 0) {
            Ok(answer) => {
                supported |= 1 << number;
                bounding |= u64::from(answer != 0) << number;
            }
            // The kernel's answer above its last capability.
            Err(libc::EINVAL) => break,
            Err(errno) => return Err(Error::os(errno, format!("prctl(PR_CAPBSET_READ, {number})"))),
        }
    }
    Ok((CapabilitySet::from_bits(supported), CapabilitySet::from_bits(bounding)))
}
