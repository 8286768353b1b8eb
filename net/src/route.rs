//! Routes.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::link::index_of;
use crate::name::IfName;
use crate::netlink::{Attrs, Message, family_of, ip_bytes};
use crate::netns::Netns;
use crate::prefix::IpPrefix;
use crate::socket::Answer;

const RTMSG: usize = 12;
const RTNH_F_ONLINK: u32 = 4;

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteKind {
    /// Sends them on.
    Unicast,
    /// Delivers them here (the kernel's own `local` table).
    Local,
    /// Sends them to all on the link (the kernel's own).
    Broadcast,
    /// Drops them silently.
    Blackhole,
    /// Answers "host unreachable".
    Unreachable,
    /// Answers "administratively prohibited".
    Prohibit,
    /// Another kind, by the kernel's number.
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => libc::RTN_UNICAST,
            Self::Local => libc::RTN_LOCAL,
            Self::Broadcast => libc::RTN_BROADCAST,
            Self::Blackhole => libc::RTN_BLACKHOLE,
            Self::Unreachable => libc::RTN_UNREACHABLE,
            Self::Prohibit => libc::RTN_PROHIBIT,
            Self::Other(n) => n,
        }
    }

    fn from_number(n: u8) -> Self {
        let known =
            [Self::Unicast, Self::Local, Self::Broadcast, Self::Blackhole, Self::Unreachable, Self::Prohibit];
        known.into_iter().find(|kind| kind.number() == n).unwrap_or(Self::Other(n))
    }
}

/// A route to add to, or delete from, the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    to: IpPrefix,
    kind: RouteKind,
    via: Option<IpAddr>,
    dev: Option<IfName>,
    source: Option<IpAddr>,
    metric: Option<u32>,
    onlink: bool,
}

impl Route {
    /// A route to `prefix`; it needs a gateway, a link or another kind.
    #[must_use]
    pub fn to(prefix: impl Into<IpPrefix>) -> Self {
        Self {
            to: prefix.into(),
            kind: RouteKind::Unicast,
            via: None,
            dev: None,
            source: None,
            metric: None,
            onlink: false,
        }
    }

    /// The default route of the gateway's family.
    #[must_use]
    pub fn default_via(gateway: impl Into<IpAddr>) -> Self {
        let gateway = gateway.into();
        Self::to(if gateway.is_ipv4() { IpPrefix::ALL_V4 } else { IpPrefix::ALL_V6 }).via(gateway)
    }

    /// The next router, of either family (IPv4 over an IPv6 router: Linux 5.2).
    #[must_use]
    pub fn via(mut self, gateway: impl Into<IpAddr>) -> Self {
        self.via = Some(gateway.into());
        self
    }

    /// The link by which packets leave.
    #[must_use]
    pub fn dev(mut self, link: IfName) -> Self {
        self.dev = Some(link);
        self
    }

    /// The source address of packets that name none.
    #[must_use]
    pub fn source(mut self, addr: impl Into<IpAddr>) -> Self {
        self.source = Some(addr.into());
        self
    }

    /// The priority; lower wins.
    #[must_use]
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// Takes the gateway to be on the link even if no address of ours says so; needs [`dev`](Self::dev).
    #[must_use]
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// What to do with the packets.
    #[must_use]
    pub fn kind(mut self, kind: RouteKind) -> Self {
        self.kind = kind;
        self
    }
}

/// A route as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteEntry {
    /// The destination.
    pub to: IpPrefix,
    /// What it does.
    pub kind: RouteKind,
    /// The next router.
    pub via: Option<IpAddr>,
    /// The index of the link.
    pub link: Option<u32>,
    /// The preferred source address.
    pub source: Option<IpAddr>,
    /// The priority.
    pub metric: Option<u32>,
    /// The number of the table: 254 is `main`, 255 `local`.
    pub table: u32,
    /// The ways between which a multipath route divides its packets; `via` and `link` are absent then. Empty otherwise.
    pub hops: Vec<NextHop>,
}

/// One of the ways of a multipath route.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NextHop {
    /// The next router.
    pub via: Option<IpAddr>,
    /// The index of the link.
    pub link: u32,
    /// Its share, 1 to 256, of the sum of all.
    pub weight: u16,
}

/// struct rtnexthop: length, flags, weight less one, index of the link; then attributes.
const RTNEXTHOP: usize = 8;

impl NextHop {
    fn parse_all(mut bytes: &[u8]) -> Result<Vec<Self>> {
        let mut out = Vec::new();
        while let Some(head) = bytes.first_chunk::<RTNEXTHOP>() {
            let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let attrs = bytes.get(RTNEXTHOP..len).ok_or_else(|| Error::malformed("next hop of a route"))?;
            out.push(Self {
                via: gateway(&Attrs::parse(attrs)?),
                link: u32::from_ne_bytes([head[4], head[5], head[6], head[7]]),
                weight: u16::from(head[3]) + 1,
            });
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(out)
    }
}

/// The gateway, which may be of the other family than the route: RTA_VIA is a 16-bit family, then an address of it.
fn gateway(attrs: &Attrs<'_>) -> Option<IpAddr> {
    let other_family = || crate::netlink::ip(attrs.get(libc::RTA_VIA)?.get(2..)?);
    attrs.addr(libc::RTA_GATEWAY).or_else(other_family)
}

impl RouteEntry {
    fn parse(answer: &Answer) -> Result<Option<Self>> {
        if answer.kind != libc::RTM_NEWROUTE {
            return Ok(None);
        }
        let (head, attrs) = answer.parts(RTMSG)?;
        let all = match i32::from(head[0]) {
            libc::AF_INET => IpPrefix::ALL_V4,
            libc::AF_INET6 => IpPrefix::ALL_V6,
            _ => return Ok(None),
        };
        let to = match attrs.addr(libc::RTA_DST) {
            Some(addr) => {
                IpPrefix::containing(addr, head[1]).map_err(|_| Error::malformed("route destination"))?
            }
            None => all,
        };
        Ok(Some(Self {
            to,
            kind: RouteKind::from_number(head[7]),
            via: gateway(&attrs),
            link: index_of(&attrs, libc::RTA_OIF),
            source: attrs.addr(libc::RTA_PREFSRC),
            metric: attrs.u32(libc::RTA_PRIORITY),
            table: attrs.u32(libc::RTA_TABLE).unwrap_or(u32::from(head[4])),
            hops: attrs.get(libc::RTA_MULTIPATH).map_or_else(|| Ok(Vec::new()), NextHop::parse_all)?,
        }))
    }
}

pub(crate) fn fuzz_route(data: &[u8]) {
    drop(RouteEntry::parse(&Answer { kind: libc::RTM_NEWROUTE, body: data.to_vec() }));
}

impl Netns {
    /// The routes of all tables, both families.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    pub fn routes(&self) -> Result<Vec<RouteEntry>> {
        let request = Message::new(libc::RTM_GETROUTE, 0).fixed(&[0; RTMSG]);
        let answers = self.route.dump("listing routes", request)?;
        answers.iter().filter_map(|a| RouteEntry::parse(a).transpose()).collect()
    }

    /// Adds a route to the main table. Its link must be up.
    ///
    /// # Errors
    /// [`Exists`](crate::ErrorKind::Exists); `ENETUNREACH` if the gateway is on no link's network; `ENETDOWN`.
    pub fn add_route(&self, route: &Route) -> Result<()> {
        self.change_route(route, libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, "adding")
    }

    /// Deletes the route of the main table that fits what is given.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        self.change_route(route, libc::RTM_DELROUTE, 0, "deleting")
    }

    fn change_route(&self, route: &Route, kind: u16, flags: i32, verb: &str) -> Result<()> {
        let what = format!("{verb} route to {}", route.to);
        let scope = match (route.kind, route.via, kind) {
            // Deletion matches any scope.
            (_, _, libc::RTM_DELROUTE) => libc::RT_SCOPE_NOWHERE,
            (RouteKind::Local, ..) => libc::RT_SCOPE_HOST,
            (RouteKind::Unicast, None, _) => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let mut fixed = vec![
            family_of(route.to.addr()),
            route.to.prefix_len(),
            0,
            0,
            libc::RT_TABLE_MAIN,
            if kind == libc::RTM_DELROUTE { libc::RTPROT_UNSPEC } else { libc::RTPROT_STATIC },
            scope,
            route.kind.number(),
        ];
        fixed.extend((if route.onlink { RTNH_F_ONLINK } else { 0 }).to_ne_bytes());
        let mut request = Message::new(kind, flags).fixed(&fixed);
        if route.to.prefix_len() > 0 {
            request.attr(libc::RTA_DST, &ip_bytes(route.to.addr()));
        }
        if let Some(via) = route.via {
            if via.is_ipv4() == route.to.addr().is_ipv4() {
                request.attr(libc::RTA_GATEWAY, &ip_bytes(via));
            } else {
                let mut bytes = u16::from(family_of(via)).to_ne_bytes().to_vec();
                bytes.extend(ip_bytes(via));
                request.attr(libc::RTA_VIA, &bytes);
            }
        }
        if let Some(dev) = &route.dev {
            request.u32(libc::RTA_OIF, self.index(dev).map_err(|e| e.context(&what))?);
        }
        if let Some(source) = route.source {
            request.attr(libc::RTA_PREFSRC, &ip_bytes(source));
        }
        if let Some(metric) = route.metric {
            request.u32(libc::RTA_PRIORITY, metric);
        }
        self.route.ask(&what, request).map(drop)
    }
}
