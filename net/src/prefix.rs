//! Address blocks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A block of addresses in CIDR notation, like `10.0.0.0/8` or `2001:db8::/32`. Bits outside the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "cidr")]
pub struct IpPrefix {
    addr: IpAddr,
    len: u8,
}

impl IpPrefix {
    /// The block `addr/len`; `len` is at most 32 for IPv4 and 128 for IPv6.
    ///
    /// # Errors
    /// `len` is too large, or `addr` has bits outside the prefix: [`containing`](Self::containing) drops them.
    pub fn new(addr: impl Into<IpAddr>, len: u8) -> Result<Self> {
        let addr = addr.into();
        let block = Self::containing(addr, len)?;
        if block.addr == addr {
            Ok(block)
        } else {
            Err(Error::invalid(
                format_args!("prefix {addr}/{len}"),
                format_args!("host bits are set; the block is {block}"),
            ))
        }
    }

    /// The block of length `len` that holds `addr`.
    ///
    /// # Errors
    /// `len` is too large for the family.
    pub fn containing(addr: impl Into<IpAddr>, len: u8) -> Result<Self> {
        let addr = addr.into();
        if len > width(addr) {
            return Err(Error::invalid(
                format_args!("prefix {addr}/{len}"),
                format_args!("length 0 to {}", width(addr)),
            ));
        }
        let addr = from_bits(addr, to_bits(addr) & mask(addr, len));
        Ok(Self { addr, len })
    }

    /// The block of this one address: `/32` or `/128`.
    #[must_use]
    pub fn host(addr: impl Into<IpAddr>) -> Self {
        let addr = addr.into();
        Self { addr, len: width(addr) }
    }

    /// All of IPv4, `0.0.0.0/0`.
    pub const ALL_V4: Self = Self { addr: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), len: 0 };
    /// All of IPv6, `::/0`.
    pub const ALL_V6: Self = Self { addr: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), len: 0 };

    /// The first address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// The length of the prefix in bits.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        from_bits(self.addr, to_bits(self.addr) | !mask(self.addr, self.len) & full(self.addr))
    }

    /// Whether the block holds `addr`. Blocks of one family never hold addresses of the other.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4() && to_bits(addr) & mask(addr, self.len) == to_bits(self.addr)
    }

    /// Whether every address of `other` is in this block.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// What is left of this block without `holes`, as the fewest blocks, in order.
    #[must_use]
    pub fn without(&self, holes: &[Self]) -> Vec<Self> {
        if holes.iter().any(|hole| hole.covers(self)) {
            return Vec::new();
        }
        let inside: Vec<Self> = holes.iter().filter(|hole| self.covers(hole)).copied().collect();
        if inside.is_empty() {
            return vec![*self];
        }
        let low = Self { addr: self.addr, len: self.len + 1 };
        let half = 1u128 << (width(self.addr) - low.len);
        let high = Self { addr: from_bits(self.addr, to_bits(self.addr) | half), len: low.len };
        let mut out = low.without(&inside);
        out.extend(high.without(&inside));
        out
    }

    pub(crate) fn mask_bytes(&self) -> Vec<u8> {
        crate::netlink::ip_bytes(from_bits(self.addr, mask(self.addr, self.len)))
    }
}

/// 32 or 128.
pub(crate) fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

pub(crate) fn to_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// `bits` as an address of `like`'s family.
pub(crate) fn from_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::from_bits(bits)),
    }
}

fn full(addr: IpAddr) -> u128 {
    if addr.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX }
}

fn mask(addr: IpAddr, len: u8) -> u128 {
    let host_bits = u32::from(width(addr) - len);
    full(addr) & u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for IpPrefix {
    type Err = Error;
    /// `ADDRESS/LENGTH`, or a bare address for a block of one.
    fn from_str(s: &str) -> Result<Self> {
        let (addr, len) = parse_addr_len(s)?;
        Self::new(addr, len.unwrap_or(width(addr)))
    }
}

impl From<IpAddr> for IpPrefix {
    fn from(addr: IpAddr) -> Self {
        Self::host(addr)
    }
}

/// `ADDRESS` or `ADDRESS/LENGTH`, host bits allowed.
pub(crate) fn parse_addr_len(s: &str) -> Result<(IpAddr, Option<u8>)> {
    let wrong = || Error::invalid(format_args!("address {s:?}"), "like 10.0.0.0/8 or 2001:db8::/32");
    let (addr, len) = match s.split_once('/') {
        None => (s, None),
        Some((addr, len)) if !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit()) => {
            (addr, Some(len.parse::<u8>().map_err(|_| wrong())?))
        }
        Some(_) => return Err(wrong()),
    };
    Ok((addr.parse().map_err(|_| wrong())?, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(s: &str) -> IpPrefix {
        s.parse().unwrap()
    }

    #[test]
    fn edges() {
        assert!("10.0.0.1/8".parse::<IpPrefix>().is_err());
        assert!("10.0.0.0/33".parse::<IpPrefix>().is_err());
        assert!("::/129".parse::<IpPrefix>().is_err());
        assert!("10.0.0.0/+8".parse::<IpPrefix>().is_err());
        assert_eq!(p("10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(p("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert_eq!(p("::/0").last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(!p("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert_eq!(p("::/0").mask_bytes(), [0; 16]);
    }

    #[test]
    fn without_a_hole() {
        let left = p("172.17.0.0/16").without(&[p("172.17.1.0/24")]);
        assert_eq!(left.len(), 8);
        assert_eq!(left[0], p("172.17.0.0/24"));
        assert!(p("10.0.0.0/8").without(&[p("0.0.0.0/0")]).is_empty());
    }

    fn any_prefix() -> impl Strategy<Value = IpPrefix> {
        prop_oneof![
            (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, l)| IpPrefix::containing(a, l).unwrap()),
            (any::<[u8; 16]>(), 0..=128u8).prop_map(|(a, l)| IpPrefix::containing(a, l).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn round_trips(prefix in any_prefix()) {
            prop_assert_eq!(prefix.to_string().parse::<IpPrefix>().unwrap(), prefix);
            prop_assert!(prefix.contains(prefix.addr()) && prefix.contains(prefix.last()));
        }

        #[test]
        fn parser_is_total(s in ".*") { let _ = s.parse::<IpPrefix>(); }

        #[test]
        fn without_is_exact(a in 0..=255u8, holes in proptest::collection::vec((0..=255u8, 24..=32u8), 0..4)) {
            let block = p("10.0.0.0/24");
            let holes: Vec<_> = holes.iter().map(|(h, l)| IpPrefix::containing([10, 0, 0, *h], *l).unwrap()).collect();
            let addr = IpAddr::from([10, 0, 0, a]);
            let wanted = !holes.iter().any(|h| h.contains(addr));
            let got = block.without(&holes).iter().filter(|b| b.contains(addr)).count();
            prop_assert_eq!(got, usize::from(wanted));
        }
    }
}
