//! Host and domain name.

use std::fmt;
use std::str::FromStr;

use palisade_sys::{Program, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $what:literal, $set:ident, $field:ident) => {
        $(#[$meta])*
        ///
        /// The kernel's rules: 0 to 64 bytes of any value but NUL, at which readers would stop.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<[u8]>);

        impl $name {
            /// The longest that the kernel takes, in bytes.
            pub const MAX_LEN: usize = 64;

            /// Checks `name`.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidValue`] if it has more than 64 bytes or a NUL.
            pub fn new(name: impl AsRef<[u8]>) -> Result<Self> {
                let name = name.as_ref();
                let reason = if name.len() > Self::MAX_LEN {
                    format!("is {} bytes long, of at most 64", name.len())
                } else if name.contains(&0) {
                    "has a NUL byte".to_owned()
                } else {
                    return Ok(Self(name.into()));
                };
                let shown = name.escape_ascii();
                Err(Error::new(ErrorKind::InvalidValue, format!(concat!($what, " \"{}\" {}"), shown, reason)))
            }

            #[doc = concat!("The ", $what, " of the calling thread's uts namespace.")]
            ///
            /// # Errors
            /// None is known.
            ///
            /// [uname(2)](https://man7.org/linux/man-pages/man2/uname.2.html)
            pub fn current() -> Result<Self> {
                Self::new(sys::uname()?.$field)
            }

            /// Its bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            #[doc = concat!("Sets the ", $what, " of the uts namespace that the program runs in, which should be a new one.")]
            ///
            /// Needs `CAP_SYS_ADMIN` in the user namespace that owns the uts namespace (`EPERM` otherwise).
            pub fn program(&self) -> Program {
                let mut p = Program::new();
                p.at(Step::Hostname, self.to_string());
                p.$set(&self.0);
                p
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;

            fn try_from(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            /// Bytes that are not UTF-8 come out as U+FFFD.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&String::from_utf8_lossy(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(\"{}\")"), self.0.escape_ascii())
            }
        }
    };
}

name! {
    /// A host name: what `hostname` and `uname -n` print.
    #[doc(alias = "sethostname")]
    Hostname, "host name", sethostname, nodename
}

name! {
    /// The domain name of NIS, which has nothing to do with DNS: what `domainname` prints.
    #[doc(alias = "setdomainname")]
    DomainName, "domain name", setdomainname, domainname
}
