//! What a packet's field is compared with: typed, held as the bytes that the kernel compares.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::name::{IfName, MacAddr};
use crate::netlink::ip_bytes;
use crate::prefix::IpPrefix;

/// The type of a field and of the elements of a set, with nft's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DataType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `inet_service`: a port of TCP, UDP or SCTP.
    Port,
    /// `inet_proto`: a transport protocol.
    Protocol,
    /// `ifname`
    Interface,
    /// `mark`: the packet's 32-bit mark.
    Mark,
    /// `ether_addr`
    Mac,
    /// `icmp_type`
    IcmpType,
    /// `icmpv6_type`
    Icmpv6Type,
    /// `nf_proto`: IPv4 or IPv6.
    IpFamily,
    /// `ether_type`: the protocol of an Ethernet frame.
    EtherType,
    /// `fib_addrtype`: what the routing table says of an address.
    AddressType,
    /// `ct_state`, a set of bits.
    CtState,
    /// `ct_status`, a set of bits.
    CtStatus,
    /// `tcp_flag`, a set of bits.
    TcpFlags,
}

impl DataType {
    /// nft's name, id (enum datatypes of nft, which the kernel stores for it) and length in bytes.
    const fn facts(self) -> (&'static str, u32, usize) {
        match self {
            Self::Ipv4 => ("ipv4_addr", 7, 4),
            Self::Ipv6 => ("ipv6_addr", 8, 16),
            Self::Port => ("inet_service", 13, 2),
            Self::Protocol => ("inet_proto", 12, 1),
            Self::Interface => ("ifname", 41, 16),
            Self::Mark => ("mark", 19, 4),
            Self::Mac => ("ether_addr", 9, 6),
            Self::IcmpType => ("icmp_type", 14, 1),
            Self::Icmpv6Type => ("icmpv6_type", 29, 1),
            Self::IpFamily => ("nf_proto", 2, 1),
            Self::EtherType => ("ether_type", 10, 2),
            Self::AddressType => ("fib_addrtype", 40, 4),
            Self::CtState => ("ct_state", 26, 4),
            Self::CtStatus => ("ct_status", 28, 4),
            Self::TcpFlags => ("tcp_flag", 15, 1),
        }
    }

    const ALL: [Self; 15] = [
        Self::Ipv4,
        Self::Ipv6,
        Self::Port,
        Self::Protocol,
        Self::Interface,
        Self::Mark,
        Self::Mac,
        Self::IcmpType,
        Self::Icmpv6Type,
        Self::IpFamily,
        Self::EtherType,
        Self::AddressType,
        Self::CtState,
        Self::CtStatus,
        Self::TcpFlags,
    ];

    pub(crate) fn id(self) -> u32 {
        self.facts().1
    }

    pub(crate) fn len(self) -> usize {
        self.facts().2
    }

    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }

    /// Whether the kernel holds it as a number of this machine, not in network order.
    pub(crate) fn host_order(self) -> bool {
        matches!(self, Self::Interface | Self::Mark | Self::AddressType | Self::CtState | Self::CtStatus)
    }

    /// Whether ranges and prefixes of it mean something.
    pub(crate) fn ordered(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Ipv6 | Self::Port)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().0)
    }
}

/// A value or a range of values of one [`DataType`], made with `From`: of an address, a prefix, a range of addresses, a
/// port, a range of ports, an interface, a [`Protocol`], a MAC address …
///
/// `Display` is nft's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    pub(crate) ty: DataType,
    pub(crate) low: Vec<u8>,
    pub(crate) high: Vec<u8>,
}

impl Value {
    pub(crate) fn one(ty: DataType, bytes: Vec<u8>) -> Self {
        Self { ty, high: bytes.clone(), low: bytes }
    }

    pub(crate) fn range(ty: DataType, low: Vec<u8>, high: Vec<u8>) -> Self {
        Self { ty, low, high }
    }

    pub(crate) fn is_single(&self) -> bool {
        self.low == self.high
    }

    /// A packet mark.
    #[must_use]
    pub fn mark(mark: u32) -> Self {
        Self::one(DataType::Mark, mark.to_ne_bytes().to_vec())
    }

    /// All interfaces whose names begin so: `veth` for nft's `"veth*"`.
    ///
    /// # Errors
    /// What makes the beginning of no valid name.
    pub fn interfaces_beginning(with: &str) -> crate::Result<Self> {
        let checked = IfName::new(with)?;
        // Shorter than the field: only so many bytes are compared.
        Ok(Self::one(DataType::Interface, checked.as_str().as_bytes().to_vec()))
    }

    /// An ICMP type of IPv4, like 8 for an echo request.
    #[must_use]
    pub fn icmp_type(number: u8) -> Self {
        Self::one(DataType::IcmpType, vec![number])
    }

    /// An ICMP type of IPv6, like 128 for an echo request.
    #[must_use]
    pub fn icmpv6_type(number: u8) -> Self {
        Self::one(DataType::Icmpv6Type, vec![number])
    }

    /// The protocol of an Ethernet frame: 0x0800 is IPv4, 0x0806 ARP, 0x86dd IPv6.
    #[must_use]
    pub fn ether_type(number: u16) -> Self {
        Self::one(DataType::EtherType, number.to_be_bytes().to_vec())
    }

    /// An address of this namespace itself, as the routing table has it (`fib daddr type local`).
    #[must_use]
    pub fn local_address() -> Self {
        Self::one(DataType::AddressType, u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec())
    }

    /// IPv4 for `true`, IPv6 for `false`.
    pub(crate) fn family(v4: bool) -> Self {
        let number = if v4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
        Self::one(DataType::IpFamily, vec![number as u8])
    }

    pub(crate) fn interface_bytes(name: &IfName) -> Vec<u8> {
        let mut bytes = name.as_str().as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes
    }
}

fn ip_type(v4: bool) -> DataType {
    if v4 { DataType::Ipv4 } else { DataType::Ipv6 }
}

impl From<IpAddr> for Value {
    fn from(addr: IpAddr) -> Self {
        Self::one(ip_type(addr.is_ipv4()), ip_bytes(addr))
    }
}

impl From<IpPrefix> for Value {
    fn from(prefix: IpPrefix) -> Self {
        Self::range(ip_type(prefix.addr().is_ipv4()), ip_bytes(prefix.addr()), ip_bytes(prefix.last()))
    }
}

/// From the first to the last. A range that is empty, or of two families, is refused when it is applied.
impl From<RangeInclusive<IpAddr>> for Value {
    fn from(range: RangeInclusive<IpAddr>) -> Self {
        Self::range(ip_type(range.start().is_ipv4()), ip_bytes(*range.start()), ip_bytes(*range.end()))
    }
}

impl From<u16> for Value {
    fn from(port: u16) -> Self {
        Self::one(DataType::Port, port.to_be_bytes().to_vec())
    }
}

/// From the first to the last port. An empty range is refused when it is applied.
impl From<RangeInclusive<u16>> for Value {
    fn from(range: RangeInclusive<u16>) -> Self {
        Self::range(DataType::Port, range.start().to_be_bytes().to_vec(), range.end().to_be_bytes().to_vec())
    }
}

impl From<IfName> for Value {
    fn from(name: IfName) -> Self {
        Self::one(DataType::Interface, Self::interface_bytes(&name))
    }
}

impl From<&IfName> for Value {
    fn from(name: &IfName) -> Self {
        Self::one(DataType::Interface, Self::interface_bytes(name))
    }
}

impl From<MacAddr> for Value {
    fn from(mac: MacAddr) -> Self {
        Self::one(DataType::Mac, mac.0.to_vec())
    }
}

impl From<Protocol> for Value {
    fn from(protocol: Protocol) -> Self {
        Self::one(DataType::Protocol, vec![protocol.0])
    }
}

/// A transport protocol, by the number that the IP header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP of IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP of IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// Those that nft prints by name.
    const NAMES: [(u8, &str); 11] = [
        (1, "icmp"),
        (2, "igmp"),
        (6, "tcp"),
        (17, "udp"),
        (33, "dccp"),
        (47, "gre"),
        (50, "esp"),
        (51, "ah"),
        (58, "ipv6-icmp"),
        (132, "sctp"),
        (136, "udplite"),
    ];

    /// The protocol of that name: `tcp`, `udp`, `sctp`, `icmp`, `ipv6-icmp` (or `icmpv6`), `esp`, `gre` …
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let name = if name == "icmpv6" { "ipv6-icmp" } else { name };
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(number, _)| Self(*number))
    }

    pub(crate) fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(n, _)| *n == self.0).map(|(_, name)| *name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

const ICMP: [(u8, &str); 15] = [
    (0, "echo-reply"),
    (3, "destination-unreachable"),
    (4, "source-quench"),
    (5, "redirect"),
    (8, "echo-request"),
    (9, "router-advertisement"),
    (10, "router-solicitation"),
    (11, "time-exceeded"),
    (12, "parameter-problem"),
    (13, "timestamp-request"),
    (14, "timestamp-reply"),
    (15, "info-request"),
    (16, "info-reply"),
    (17, "address-mask-request"),
    (18, "address-mask-reply"),
];

const ICMPV6: [(u8, &str); 18] = [
    (1, "destination-unreachable"),
    (2, "packet-too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
    (130, "mld-listener-query"),
    (131, "mld-listener-report"),
    (132, "mld-listener-done"),
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
    (137, "nd-redirect"),
    (138, "router-renumbering"),
    (141, "ind-neighbor-solicit"),
    (142, "ind-neighbor-advert"),
    (143, "mld2-listener-report"),
];

/// The ICMP type of that name, for IPv4 or IPv6.
pub(crate) fn icmp_by_name(v4: bool, name: &str) -> Option<u8> {
    let table: &[(u8, &str)] = if v4 { &ICMP } else { &ICMPV6 };
    table.iter().find(|(_, n)| *n == name).map(|(number, _)| *number)
}

/// What conntrack knows of a packet's connection. A set of states; `|` joins two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CtState(pub(crate) u32);

impl CtState {
    /// The packet fits no connection.
    pub const INVALID: Self = Self(1);
    /// Of a connection that has seen packets in both directions.
    pub const ESTABLISHED: Self = Self(2);
    /// Starts a connection that an existing one announced, or is an ICMP error about one.
    pub const RELATED: Self = Self(4);
    /// Starts a connection, or belongs to one seen in one direction only.
    pub const NEW: Self = Self(8);
    /// Exempt from tracking.
    pub const UNTRACKED: Self = Self(64);

    /// In nft's order.
    pub(crate) const NAMES: [(u32, &str); 5] =
        [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
}

impl std::ops::BitOr for CtState {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

pub(crate) const CT_STATUS: [(u32, &str); 7] = [
    (1, "expected"),
    (2, "seen-reply"),
    (4, "assured"),
    (8, "confirmed"),
    (16, "snat"),
    (32, "dnat"),
    (512, "dying"),
];

pub(crate) const TCP_FLAGS: [(u32, &str); 8] =
    [(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg"), (64, "ecn"), (128, "cwr")];

const ADDRESS_TYPES: [(u32, &str); 12] = [
    (0, "unspec"),
    (1, "unicast"),
    (2, "local"),
    (3, "broadcast"),
    (4, "anycast"),
    (5, "multicast"),
    (6, "blackhole"),
    (7, "unreachable"),
    (8, "prohibit"),
    (9, "throw"),
    (10, "nat"),
    (11, "xresolve"),
];

/// The bits of a value as names joined by commas; nothing for zero bits, a number for unknown ones.
pub(crate) fn bits(names: &[(u32, &str)], value: u32) -> String {
    let known: u32 = names.iter().map(|(bit, _)| bit).sum();
    if value & !known != 0 || value == 0 {
        return format!("{value:#x}");
    }
    names.iter().filter(|(bit, _)| value & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

fn number(bytes: &[u8], host_order: bool) -> u128 {
    let step = |n: u128, b: &u8| n << 8 | u128::from(*b);
    if host_order && cfg!(target_endian = "little") {
        bytes.iter().rev().fold(0, step)
    } else {
        bytes.iter().fold(0, step)
    }
}

impl Value {
    /// The order in which nft lists elements.
    pub(crate) fn sort_key(&self) -> u128 {
        number(&self.low, self.ty.host_order())
    }

    fn named(&self, f: &mut fmt::Formatter<'_>, names: &[(u8, &str)]) -> fmt::Result {
        let number = self.low.first().copied().unwrap_or(0);
        match names.iter().find(|(n, _)| *n == number) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{number}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = number(&self.low, self.ty.host_order());
        match self.ty {
            DataType::Ipv4 | DataType::Ipv6 => {
                let (Some(low), Some(high)) = (crate::netlink::ip(&self.low), crate::netlink::ip(&self.high))
                else {
                    return f.write_str("?");
                };
                match as_prefix(low, high) {
                    _ if low == high => write!(f, "{low}"),
                    Some(prefix) => write!(f, "{prefix}"),
                    None => write!(f, "{low}-{high}"),
                }
            }
            DataType::Port if self.is_single() => write!(f, "{number}"),
            DataType::Port => write!(f, "{number}-{}", self::number(&self.high, false)),
            DataType::Protocol => Protocol(number as u8).fmt(f),
            DataType::Interface => {
                let end = self.low.iter().position(|b| *b == 0).unwrap_or(self.low.len());
                let star = if self.low.len() < 16 { "*" } else { "" };
                write!(f, "\"{}{star}\"", String::from_utf8_lossy(&self.low[..end]))
            }
            DataType::Mark => write!(f, "0x{number:08x}"),
            DataType::Mac => match <[u8; 6]>::try_from(self.low.as_slice()) {
                Ok(bytes) => MacAddr(bytes).fmt(f),
                Err(_) => f.write_str("?"),
            },
            DataType::IcmpType => self.named(f, &ICMP),
            DataType::Icmpv6Type => self.named(f, &ICMPV6),
            DataType::IpFamily => self.named(f, &[(2, "ipv4"), (10, "ipv6")]),
            DataType::EtherType => match number {
                0x0800 => f.write_str("ip"),
                0x0806 => f.write_str("arp"),
                0x86dd => f.write_str("ip6"),
                0x8100 => f.write_str("8021q"),
                n => write!(f, "0x{n:04x}"),
            },
            DataType::AddressType => match ADDRESS_TYPES.iter().find(|(n, _)| u128::from(*n) == number) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "{number}"),
            },
            DataType::CtState => f.write_str(&bits(&CtState::NAMES, number as u32)),
            DataType::CtStatus => f.write_str(&bits(&CT_STATUS, number as u32)),
            DataType::TcpFlags => f.write_str(&bits(&TCP_FLAGS, number as u32)),
        }
    }
}

/// The prefix that is exactly this range, if there is one.
pub(crate) fn as_prefix(low: IpAddr, high: IpAddr) -> Option<IpPrefix> {
    let span = crate::prefix::to_bits(low) ^ crate::prefix::to_bits(high);
    let host_bits = 128 - span.leading_zeros();
    let len = u32::from(crate::prefix::width(low)).checked_sub(host_bits)?;
    let prefix = IpPrefix::containing(low, len as u8).ok()?;
    (prefix.addr() == low && prefix.last() == high).then_some(prefix)
}
