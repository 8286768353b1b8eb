//! Addresses of interfaces.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::name::IfName;
use crate::netlink::{Message, family_of, ip_bytes};
use crate::netns::Netns;
use crate::prefix::{IpPrefix, from_bits, to_bits, width};
use crate::socket::Answer;

const IFADDR: usize = 8;

/// An address of an interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceAddress {
    /// The index of the interface.
    pub link: u32,
    /// The address.
    pub addr: IpAddr,
    /// How many leading bits its network has.
    pub prefix_len: u8,
    /// Whether IPv6 duplicate detection is still running, so that the address cannot be used yet.
    pub tentative: bool,
}

impl InterfaceAddress {
    fn parse(answer: &Answer) -> Result<Option<Self>> {
        if answer.kind != libc::RTM_NEWADDR {
            return Ok(None);
        }
        let (head, attrs) = answer.parts(IFADDR)?;
        let addr = attrs.addr(libc::IFA_LOCAL).or_else(|| attrs.addr(libc::IFA_ADDRESS));
        Ok(addr.map(|addr| Self {
            link: u32::from_ne_bytes([head[4], head[5], head[6], head[7]]),
            addr,
            prefix_len: head[1],
            tentative: u32::from(head[2]) & libc::IFA_F_TENTATIVE != 0,
        }))
    }
}

pub(crate) fn fuzz_address(data: &[u8]) {
    drop(InterfaceAddress::parse(&Answer { kind: libc::RTM_NEWADDR, body: data.to_vec() }));
}

impl Netns {
    /// The addresses of all interfaces.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    pub fn addresses(&self) -> Result<Vec<InterfaceAddress>> {
        let request = Message::new(libc::RTM_GETADDR, 0).fixed(&[0; IFADDR]);
        let answers = self.route.dump("listing addresses", request)?;
        answers.iter().filter_map(|a| InterfaceAddress::parse(a).transpose()).collect()
    }

    /// Gives a link the address `addr` in a network of `prefix_len` bits (at most 32 or 128). An IPv6 address is usable at
    /// once: duplicate detection is left out, since whoever makes the namespace hands out its addresses.
    ///
    /// # Errors
    /// [`Exists`](crate::ErrorKind::Exists), [`NotFound`](crate::ErrorKind::NotFound) for the link,
    /// [`Invalid`](crate::ErrorKind::Invalid) for a length too large, [`Unsupported`](crate::ErrorKind::Unsupported) for an
    /// IPv6 address where IPv6 is switched off.
    pub fn add_address(&self, link: &IfName, addr: impl Into<IpAddr>, prefix_len: u8) -> Result<()> {
        self.change_address(link, addr.into(), prefix_len, true)
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if the link does not have it.
    pub fn delete_address(&self, link: &IfName, addr: impl Into<IpAddr>, prefix_len: u8) -> Result<()> {
        self.change_address(link, addr.into(), prefix_len, false)
    }

    fn change_address(&self, link: &IfName, addr: IpAddr, prefix_len: u8, add: bool) -> Result<()> {
        let what = format!("address {addr}/{prefix_len} of {link}");
        let network = IpPrefix::containing(addr, prefix_len).map_err(|e| e.context(&what))?;
        if addr.is_unspecified() || addr.is_multicast() {
            return Err(Error::invalid(what, "a unicast address"));
        }
        let index = self.index(link)?;
        let flags = if addr.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
        let mut fixed = vec![family_of(addr), prefix_len, flags, libc::RT_SCOPE_UNIVERSE];
        if addr.is_loopback() {
            fixed[3] = libc::RT_SCOPE_HOST;
        }
        fixed.extend(index.to_ne_bytes());
        let (kind, how) = if add {
            (libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
        } else {
            (libc::RTM_DELADDR, 0)
        };
        let mut request = Message::new(kind, how).fixed(&fixed);
        request.attr(libc::IFA_LOCAL, &ip_bytes(addr));
        request.attr(libc::IFA_ADDRESS, &ip_bytes(addr));
        if addr.is_ipv4() && prefix_len < 31 {
            let last = from_bits(addr, to_bits(network.last()));
            request.attr(libc::IFA_BROADCAST, &ip_bytes(last));
        }
        debug_assert!(prefix_len <= width(addr));
        self.route.ask(&what, request).map(drop).map_err(|e| match e.errno() {
            // A lack of privilege would be EPERM.
            Some(errno @ (libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) if addr.is_ipv6() => {
                let fix = "sysctl -w net.ipv6.conf.all.disable_ipv6=0 in this network namespace, or boot without ipv6.disable=1 \
                           a kernel with CONFIG_IPV6";
                Error::lacking(&what, errno, "IPv6 here", fix)
            }
            _ => e,
        })
    }
}
