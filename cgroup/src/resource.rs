//! The small controllers: `hugetlb`, `rdma`, `misc`.

use std::fmt;
use std::str::FromStr;

use crate::controller::FileName;
use crate::error::{Error, Result};
use crate::keyed::{Flat, Nested, utf8};
use crate::limits::{Check, Limits};
use crate::value::{Bytes, Limit, number};

/// A size of huge pages, in the spelling of the control files: `64KB`, `2MB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HugePage(Bytes);

impl HugePage {
    /// Two mebibytes.
    pub const MB2: HugePage = HugePage(Bytes::mib(2));
    /// One gibibyte.
    pub const GB1: HugePage = HugePage(Bytes::gib(1));

    /// The size of one page.
    pub const fn size(self) -> Bytes {
        self.0
    }
}

impl fmt::Display for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B", self.0)
    }
}

impl FromStr for HugePage {
    type Err = Error;

    fn from_str(s: &str) -> Result<HugePage> {
        let size = s
            .parse::<Bytes>()
            .ok()
            .map(HugePage)
            .filter(|h| h.0.get().is_power_of_two() && h.to_string() == s);
        size.filter(|h| h.0 >= Bytes::kib(1) && h.0 < Bytes::gib(1024)).ok_or_else(|| {
            Error::invalid("huge page size", s.as_bytes(), "a power of two as in 64KB, 2MB, 1GB")
        })
    }
}

/// The name of a resource in `misc.max` or a device in `rdma.max`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(String);

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ResourceName {
    type Err = Error;

    fn from_str(s: &str) -> Result<ResourceName> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
        if !s.is_empty() && s.len() <= 64 && s.bytes().all(plain) {
            Ok(ResourceName(s.to_owned()))
        } else {
            Err(Error::invalid("name of a resource", s.as_bytes(), "letters, digits, `_`, `-` and `.`"))
        }
    }
}

/// Settings of the `hugetlb`, `rdma` and `misc` controllers.
impl Limits {
    /// Huge pages of one size in use, in bytes, rounded down to whole pages: `hugetlb.SIZE.max`. Going over it is
    /// `SIGBUS` at the page fault.
    #[doc(alias = "hugetlb")]
    #[must_use]
    pub fn hugetlb_max(self, size: HugePage, max: impl Into<Limit<Bytes>>) -> Limits {
        self.hugetlb(format!("hugetlb.{size}.max"), size, max.into())
    }

    /// Huge pages of one size reserved, in bytes: `hugetlb.SIZE.rsvd.max`. Going over it fails the `mmap(2)`.
    #[doc(alias = "hugetlb")]
    #[must_use]
    pub fn hugetlb_reserved_max(self, size: HugePage, max: impl Into<Limit<Bytes>>) -> Limits {
        self.hugetlb(format!("hugetlb.{size}.rsvd.max"), size, max.into())
    }

    fn hugetlb(self, file: String, size: HugePage, max: Limit<Bytes>) -> Limits {
        let value = match max {
            Limit::Max => "max".to_owned(),
            Limit::At(b) => b.get().to_string(),
        };
        self.put(FileName::made(file), value, Check::Multiple(size.0.get()))
    }

    /// Handles and objects of an RDMA device: `rdma.max`.
    #[doc(alias = "rdma.max")]
    #[must_use]
    pub fn rdma_max(
        self,
        device: &ResourceName,
        handles: impl Into<Limit<u32>>,
        objects: impl Into<Limit<u32>>,
    ) -> Limits {
        let value = format!("{device} hca_handle={} hca_object={}", handles.into(), objects.into());
        let reset = format!("{device} hca_handle=max hca_object=max");
        self.line(FileName::of("rdma.max"), device.0.clone(), value, reset, Check::LineUnlessDefault)
    }

    /// A scalar resource of the machine: `misc.max` (5.13).
    #[doc(alias = "misc.max")]
    #[must_use]
    pub fn misc_max(self, resource: &ResourceName, max: impl Into<Limit<u64>>) -> Limits {
        let value = format!("{resource} {}", max.into());
        self.line(FileName::of("misc.max"), resource.0.clone(), value, format!("{resource} max"), Check::Line)
    }
}

/// `misc.current`, `misc.capacity`, `misc.events`: pairs of name and number.
///
/// # Errors
/// [`Parse`](crate::ErrorKind::Parse) for what is not a `key value` file.
pub fn parse_misc(text: &[u8]) -> Result<Vec<(String, u64)>> {
    Ok(Flat::parse("misc", text)?.iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

/// A line of `rdma.current` or `rdma.max`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rdma {
    /// The device.
    pub device: String,
    /// Handles.
    pub handles: Limit<u32>,
    /// Objects.
    pub objects: Limit<u32>,
}

impl Rdma {
    /// All lines.
    ///
    /// # Errors
    /// [`Parse`](crate::ErrorKind::Parse) for a line without a device or either number.
    pub fn parse(text: &[u8]) -> Result<Vec<Rdma>> {
        let lines = Nested::parse_all("rdma", utf8("rdma", text)?)?;
        let one = |n: &Nested<'_>| {
            let limit = |key| match n.get(key)? {
                "max" => Some(Limit::Max),
                v => Some(Limit::At(u32::try_from(number(v.as_bytes())?).ok()?)),
            };
            Some(Rdma {
                device: n.key.to_owned(),
                handles: limit("hca_handle")?,
                objects: limit("hca_object")?,
            })
        };
        lines.iter().map(|n| one(n).ok_or_else(|| Error::parse("rdma", text))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn huge_page_sizes_name_the_files() {
        assert_eq!((HugePage::MB2.to_string(), HugePage::GB1.to_string()), ("2MB".into(), "1GB".into()));
        assert_eq!("64KB".parse::<HugePage>().expect("exists on arm64").size(), Bytes::kib(64));
        for bad in ["2M", "3MB", "0B", "2048KB", "1B", "", "1TB"] {
            assert!(bad.parse::<HugePage>().is_err(), "{bad}");
        }
        let l = Limits::new().hugetlb_max(HugePage::MB2, Bytes::mib(5));
        assert_eq!(l.to_string(), "hugetlb.2MB.max = 5242880\n");
        let l = Limits::new().rdma_max(&"mlx5_0".parse().expect("a name"), 2, Limit::Max);
        assert_eq!(l.to_string(), "rdma.max = mlx5_0 hca_handle=2 hca_object=max\n");
    }

    #[test]
    fn files_of_the_documentation() {
        let all = Rdma::parse(b"mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n")
            .expect("parses");
        assert_eq!(
            (all[1].device.as_str(), all[1].handles, all[1].objects),
            ("ocrdma1", Limit::At(3), Limit::Max)
        );
        assert!(Rdma::parse(b"mlx4_0 hca_handle=2\n").is_err());
        assert_eq!(
            parse_misc(b"res_a 3\nres_b 0\n").expect("parses"),
            [("res_a".into(), 3), ("res_b".into(), 0)]
        );
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parsers(s in "\\PC*", b: Vec<u8>) {
            let _seen = (Rdma::parse(&b), parse_misc(&b));
            if let Ok(h) = s.parse::<HugePage>() {
                prop_assert_eq!(h.to_string(), s.clone());
            }
            if let Ok(n) = s.parse::<ResourceName>() {
                prop_assert_eq!(n.to_string(), s);
            }
        }
    }
}
