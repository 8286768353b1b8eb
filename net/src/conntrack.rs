//! Connection tracking: what the kernel remembers of each connection.

use std::fmt;
use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::netlink::{Attrs, Message, ip_bytes};
use crate::netns::Netns;
use crate::nft::Protocol;
use crate::socket::Answer;

// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 2;
const MSG_GET_STATS: u16 = 5;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP: [u16; 3] = [4, 5, 6];
const CTA_PROTO_ICMPV6: [u16; 3] = [7, 8, 9];
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const IPS_SEEN_REPLY: u32 = 2;
const IPS_ASSURED: u32 = 4;

const TCP_STATES: [&str; 9] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
];

/// One direction of a connection, as its packets look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The source port; for ICMP the identifier; 0 for protocols without.
    pub source_port: u16,
    /// The destination port; for ICMP type and code as one number; 0 for protocols without.
    pub destination_port: u16,
}

/// A connection as the kernel tracks it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// The direction of the first packet, before any translation.
    pub original: Tuple,
    /// The direction of the answers: with address translation not just the reverse.
    pub reply: Tuple,
    /// `ESTABLISHED` and so on, for TCP.
    pub tcp_state: Option<&'static str>,
    /// Whether an answer was seen.
    pub seen_reply: bool,
    /// Whether it is kept under memory pressure.
    pub assured: bool,
    /// Seconds until it is forgotten unless packets come by.
    pub timeout: u32,
    /// The connection's mark.
    pub mark: u32,
    id: Option<u32>,
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "src={} dst={} sport={} dport={}",
            self.source, self.destination, self.source_port, self.destination_port
        )
    }
}

impl fmt::Display for Connection {
    /// Much as `conntrack -L` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.original.protocol, self.timeout)?;
        if let Some(state) = self.tcp_state {
            write!(f, "{state} ")?;
        }
        let unreplied = if self.seen_reply { "" } else { " [UNREPLIED]" };
        let assured = if self.assured { " [ASSURED]" } else { "" };
        write!(f, "{}{unreplied} {}{assured} mark={}", self.original, self.reply, self.mark)
    }
}

fn tuple(attrs: &Attrs<'_>) -> Result<Option<Tuple>> {
    let (ip, proto) = (attrs.nested(CTA_TUPLE_IP)?, attrs.nested(CTA_TUPLE_PROTO)?);
    let source = ip.addr(CTA_IP_V4_SRC).or_else(|| ip.addr(CTA_IP_V6_SRC));
    let destination = ip.addr(CTA_IP_V4_DST).or_else(|| ip.addr(CTA_IP_V6_DST));
    let (Some(source), Some(destination), Some(protocol)) = (source, destination, proto.u8(CTA_PROTO_NUM))
    else {
        return Ok(None);
    };
    let [id, kind, code] = if protocol == Protocol::ICMPV6.0 { CTA_PROTO_ICMPV6 } else { CTA_PROTO_ICMP };
    let icmp = || Some(u16::from(proto.u8(kind)?) << 8 | u16::from(proto.u8(code)?));
    Ok(Some(Tuple {
        source,
        destination,
        protocol: Protocol(protocol),
        source_port: proto.be16(CTA_PROTO_SRC_PORT).or_else(|| proto.be16(id)).unwrap_or(0),
        destination_port: proto.be16(CTA_PROTO_DST_PORT).or_else(icmp).unwrap_or(0),
    }))
}

fn write_tuple(m: &mut Message, tuple: &Tuple) {
    let v4 = tuple.source.is_ipv4();
    let (source, destination) =
        if v4 { (CTA_IP_V4_SRC, CTA_IP_V4_DST) } else { (CTA_IP_V6_SRC, CTA_IP_V6_DST) };
    m.nest(CTA_TUPLE_IP, |m| {
        m.attr(source, &ip_bytes(tuple.source)).attr(destination, &ip_bytes(tuple.destination));
    });
    m.nest(CTA_TUPLE_PROTO, |m| {
        m.attr(CTA_PROTO_NUM, &[tuple.protocol.0]);
        let icmp = match tuple.protocol {
            Protocol::ICMP => Some(CTA_PROTO_ICMP),
            Protocol::ICMPV6 => Some(CTA_PROTO_ICMPV6),
            _ => None,
        };
        match icmp {
            Some([id, kind, code]) => {
                let [icmp_type, icmp_code] = tuple.destination_port.to_be_bytes();
                m.attr(id, &tuple.source_port.to_be_bytes())
                    .attr(kind, &[icmp_type])
                    .attr(code, &[icmp_code]);
            }
            None => {
                m.attr(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes());
                m.attr(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes());
            }
        }
    });
}

fn parse(answer: &Answer) -> Result<Option<Connection>> {
    let (_, attrs) = answer.parts(4)?;
    let original = tuple(&attrs.nested(CTA_TUPLE_ORIG)?)?;
    let reply = tuple(&attrs.nested(CTA_TUPLE_REPLY)?)?;
    let (Some(original), Some(reply)) = (original, reply) else { return Ok(None) };
    let status = attrs.be32(CTA_STATUS).unwrap_or(0);
    let tcp = attrs.nested(CTA_PROTOINFO)?.nested(CTA_PROTOINFO_TCP)?;
    let state = tcp.u8(CTA_PROTOINFO_TCP_STATE);
    Ok(Some(Connection {
        original,
        reply,
        tcp_state: state.and_then(|s| TCP_STATES.get(usize::from(s)).copied()),
        seen_reply: status & IPS_SEEN_REPLY != 0,
        assured: status & IPS_ASSURED != 0,
        timeout: attrs.be32(CTA_TIMEOUT).unwrap_or(0),
        mark: attrs.be32(CTA_MARK).unwrap_or(0),
        id: attrs.be32(CTA_ID),
    }))
}

pub(crate) fn fuzz_connection(data: &[u8]) {
    if let Ok(Some(connection)) = parse(&Answer { kind: 0, body: data.to_vec() }) {
        drop(connection.to_string());
    }
}

fn request(kind: u16, family: i32) -> Message {
    Message::new((libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | kind, 0).fixed(&[family as u8, 0, 0, 0])
}

/// A request as the kernel wants it: what is not valid about it is its subsystem.
fn of_subsystem(what: &str, error: Error) -> Error {
    match error.errno() {
        Some(libc::EINVAL) => {
            let fix = "modprobe nf_conntrack_netlink, or run one with CONFIG_NF_CT_NETLINK";
            Error::lacking(what, libc::EINVAL, "list of connections (ctnetlink)", fix)
        }
        _ => error,
    }
}

impl Netns {
    /// Whether connections can be listed and forgotten here, without listing any.
    pub(crate) fn check_conntrack(&self) -> Result<()> {
        let what = "statistics of connections";
        let answer = self.netfilter()?.ask(what, request(MSG_GET_STATS, libc::AF_UNSPEC));
        answer.map(drop).map_err(|e| of_subsystem(what, e))
    }

    /// All tracked connections of both families. The kernel tracks once some rule asks for a state or translates.
    ///
    /// See [conntrack(8)](https://man7.org/linux/man-pages/man8/conntrack.8.html). Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission); [`Unsupported`](crate::ErrorKind::Unsupported) without
    /// `CONFIG_NF_CT_NETLINK`.
    #[doc(alias = "conntrack -L")]
    pub fn connections(&self) -> Result<Vec<Connection>> {
        let what = "listing connections";
        let answers = self.netfilter()?.dump(what, request(MSG_GET, libc::AF_UNSPEC));
        let answers = answers.map_err(|e| of_subsystem(what, e))?;
        answers.iter().filter_map(|a| parse(a).transpose()).collect()
    }

    /// Forgets all tracked connections: packets of old ones are judged anew, as if they began one.
    ///
    /// # Errors
    /// As [`connections`](Self::connections).
    #[doc(alias = "conntrack -F")]
    pub fn flush_connections(&self) -> Result<()> {
        let what = "flushing connections";
        let answer = self.netfilter()?.ask(what, request(MSG_DELETE, libc::AF_UNSPEC));
        answer.map(drop).map_err(|e| of_subsystem(what, e))
    }

    /// Forgets the tracked connections for which `which` is true, and says how many there were. One that ends by itself
    /// meanwhile is no error.
    ///
    /// # Errors
    /// As [`connections`](Self::connections).
    pub fn forget_connections(&self, which: impl Fn(&Connection) -> bool) -> Result<usize> {
        let mut count = 0;
        for connection in self.connections()?.iter().filter(|c| which(c)) {
            let family = if connection.original.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let mut m = request(MSG_DELETE, family);
            m.nest(CTA_TUPLE_ORIG, |m| write_tuple(m, &connection.original));
            // With its number, so that a new connection with the same ports is left alone.
            if let Some(id) = connection.id {
                m.be32(CTA_ID, id);
            }
            match self.netfilter()?.ask("forgetting a connection", m) {
                Ok(_) => count += 1,
                Err(e) if e.kind() == crate::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(count)
    }
}
