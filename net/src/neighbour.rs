//! Neighbours (ARP and NDP entries) and the forwarding table of bridges.

use std::net::IpAddr;

use crate::error::Result;
use crate::link::index_of;
use crate::name::{IfName, MacAddr};
use crate::netlink::{Message, family_of, ip_bytes};
use crate::netns::Netns;
use crate::socket::Answer;

const NDMSG: usize = 12;

/// How sure the kernel is of a neighbour. See [arp(7)](https://man7.org/linux/man-pages/man7/arp.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NeighbourState {
    /// Asked, not answered yet.
    Incomplete,
    /// Confirmed a moment ago.
    Reachable,
    /// Confirmed some time ago.
    Stale,
    /// Used while stale; a probe follows.
    Delay,
    /// Being probed.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    NoArp,
    /// Set by hand.
    Permanent,
    /// A combination without a name.
    Other(u16),
}

impl NeighbourState {
    fn from_number(n: u16) -> Self {
        match n {
            libc::NUD_INCOMPLETE => Self::Incomplete,
            libc::NUD_REACHABLE => Self::Reachable,
            libc::NUD_STALE => Self::Stale,
            libc::NUD_DELAY => Self::Delay,
            libc::NUD_PROBE => Self::Probe,
            libc::NUD_FAILED => Self::Failed,
            libc::NUD_NOARP => Self::NoArp,
            libc::NUD_PERMANENT => Self::Permanent,
            n => Self::Other(n),
        }
    }
}

/// A neighbour as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// The index of the link behind which it is.
    pub link: u32,
    /// Its address.
    pub addr: IpAddr,
    /// Its link-layer address, once known.
    pub mac: Option<MacAddr>,
    /// How sure that is.
    pub state: NeighbourState,
}

/// An entry of a bridge's forwarding table: which address is behind which port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FdbEntry {
    /// The address.
    pub mac: MacAddr,
    /// The index of the port.
    pub port: u32,
    /// The index of the bridge.
    pub bridge: Option<u32>,
    /// Whether it is the port's own address or was set by hand, not learned from traffic.
    pub permanent: bool,
}

fn fields(head: &[u8]) -> (u32, u16) {
    (u32::from_ne_bytes([head[4], head[5], head[6], head[7]]), u16::from_ne_bytes([head[8], head[9]]))
}

fn mac(attrs: &crate::netlink::Attrs<'_>) -> Option<MacAddr> {
    attrs.get(libc::NDA_LLADDR).and_then(|b| b.try_into().ok()).map(MacAddr)
}

fn parse_neighbour(answer: &Answer) -> Result<Option<Neighbour>> {
    if answer.kind != libc::RTM_NEWNEIGH {
        return Ok(None);
    }
    let (head, attrs) = answer.parts(NDMSG)?;
    let (link, state) = fields(head);
    Ok(attrs.addr(libc::NDA_DST).map(|addr| Neighbour {
        link,
        addr,
        mac: mac(&attrs),
        state: NeighbourState::from_number(state),
    }))
}

fn parse_fdb(answer: &Answer) -> Result<Option<FdbEntry>> {
    if answer.kind != libc::RTM_NEWNEIGH {
        return Ok(None);
    }
    let (head, attrs) = answer.parts(NDMSG)?;
    let (port, state) = fields(head);
    let bridge = index_of(&attrs, libc::NDA_MASTER);
    Ok(mac(&attrs).map(|mac| FdbEntry { mac, port, bridge, permanent: state & libc::NUD_PERMANENT != 0 }))
}

#[doc(hidden)]
pub fn fuzz_neighbour(data: &[u8]) {
    let answer = Answer { kind: libc::RTM_NEWNEIGH, body: data.to_vec() };
    drop(parse_neighbour(&answer));
    drop(parse_fdb(&answer));
}

impl Netns {
    /// The neighbours of both families on all links.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let request = Message::new(libc::RTM_GETNEIGH, 0).fixed(&[0; NDMSG]);
        let answers = self.route.dump("listing neighbours", request)?;
        answers.iter().filter_map(|a| parse_neighbour(a).transpose()).collect()
    }

    /// The forwarding tables of all bridges.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    #[doc(alias = "fdb")]
    pub fn bridge_forwarding(&self) -> Result<Vec<FdbEntry>> {
        let mut fixed = [0; NDMSG];
        fixed[0] = libc::AF_BRIDGE as u8;
        let request = Message::new(libc::RTM_GETNEIGH, 0).fixed(&fixed);
        let answers = self.route.dump("listing forwarding tables", request)?;
        answers.iter().filter_map(|a| parse_fdb(a).transpose()).collect()
    }

    /// Sets a permanent neighbour: `addr` has the link-layer address `mac` behind `link`. Replaces what was learned, and
    /// cannot be overwritten by what others send.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for the link.
    pub fn set_neighbour(&self, link: &IfName, addr: impl Into<IpAddr>, mac: MacAddr) -> Result<()> {
        let addr = addr.into();
        let mut request = self.neighbour_request(
            libc::RTM_NEWNEIGH,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
            link,
            addr,
            libc::NUD_PERMANENT,
        )?;
        request.attr(libc::NDA_LLADDR, &mac.0);
        self.route.ask(&format!("neighbour {addr} on {link}"), request).map(drop)
    }

    /// Forgets a neighbour.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub fn delete_neighbour(&self, link: &IfName, addr: impl Into<IpAddr>) -> Result<()> {
        let addr = addr.into();
        let request = self.neighbour_request(libc::RTM_DELNEIGH, 0, link, addr, 0)?;
        self.route.ask(&format!("deleting neighbour {addr} on {link}"), request).map(drop)
    }

    fn neighbour_request(
        &self,
        kind: u16,
        flags: i32,
        link: &IfName,
        addr: IpAddr,
        state: u16,
    ) -> Result<Message> {
        let mut fixed = [0; NDMSG];
        fixed[0] = family_of(addr);
        fixed[4..8].copy_from_slice(&self.link(link)?.index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&state.to_ne_bytes());
        let mut request = Message::new(kind, flags).fixed(&fixed);
        request.attr(libc::NDA_DST, &ip_bytes(addr));
        Ok(request)
    }
}
