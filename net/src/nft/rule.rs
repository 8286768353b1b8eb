//! Rules: what to look at, and what to do.

use std::net::{IpAddr, SocketAddr};

use super::tuple::TupleMatch;
use super::value::{CtState, DataType, Protocol, Value};

/// A field of a packet, or something known about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// `iifname`: the interface by which it came.
    #[doc(alias = "iifname")]
    InputInterface,
    /// `oifname`: the interface by which it leaves.
    #[doc(alias = "oifname")]
    OutputInterface,
    /// `meta nfproto`: IPv4 or IPv6.
    IpFamily,
    /// `meta l4proto`: the transport protocol.
    #[doc(alias = "l4proto")]
    Protocol,
    /// `meta protocol`: the protocol of the Ethernet frame.
    EtherType,
    /// `meta mark`.
    Mark,
    /// `ip saddr`.
    Ipv4Source,
    /// `ip daddr`.
    Ipv4Destination,
    /// `ip6 saddr`.
    Ipv6Source,
    /// `ip6 daddr`.
    Ipv6Destination,
    /// `tcp sport` and so on; of any protocol (`th sport`) where none is given.
    SourcePort(Option<Protocol>),
    /// `tcp dport` and so on; of any protocol (`th dport`) where none is given.
    DestinationPort(Option<Protocol>),
    /// `icmp type`.
    IcmpType,
    /// `icmpv6 type`.
    Icmpv6Type,
    /// `tcp flags`.
    TcpFlags,
    /// `ct state`.
    CtState,
    /// `ct status`.
    CtStatus,
    /// `fib saddr type`: what the routing table says of the source.
    SourceAddressType,
    /// `fib daddr type`: what the routing table says of the destination.
    DestinationAddressType,
    /// `ether saddr`.
    EtherSource,
    /// `ether daddr`.
    EtherDestination,
    /// `arp saddr ip`: who an ARP packet says it is.
    ArpSource,
}

impl Field {
    /// `ip saddr` or `ip6 saddr`, by the family of an address.
    #[must_use]
    pub fn source_of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::Ipv4Source } else { Self::Ipv6Source }
    }

    /// `ip daddr` or `ip6 daddr`, by the family of an address.
    #[must_use]
    pub fn destination_of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::Ipv4Destination } else { Self::Ipv6Destination }
    }

    /// The type of its values.
    #[must_use]
    pub fn data_type(self) -> DataType {
        match self {
            Self::InputInterface | Self::OutputInterface => DataType::Interface,
            Self::IpFamily => DataType::IpFamily,
            Self::Protocol => DataType::Protocol,
            Self::EtherType => DataType::EtherType,
            Self::Mark => DataType::Mark,
            Self::Ipv4Source | Self::Ipv4Destination | Self::ArpSource => DataType::Ipv4,
            Self::Ipv6Source | Self::Ipv6Destination => DataType::Ipv6,
            Self::SourcePort(_) | Self::DestinationPort(_) => DataType::Port,
            Self::IcmpType => DataType::IcmpType,
            Self::Icmpv6Type => DataType::Icmpv6Type,
            Self::TcpFlags => DataType::TcpFlags,
            Self::CtState => DataType::CtState,
            Self::CtStatus => DataType::CtStatus,
            Self::SourceAddressType | Self::DestinationAddressType => DataType::AddressType,
            Self::EtherSource | Self::EtherDestination => DataType::Mac,
        }
    }
}

/// A condition: a field, and what it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub(crate) field: Field,
    pub(crate) negated: bool,
    pub(crate) operand: Operand,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operand {
    /// One value or range compared directly.
    One(Value),
    /// An anonymous set.
    AnyOf(Vec<Value>),
    /// A named set of the table.
    Set(String),
    /// Any of these bits is set.
    AnyBit(u32),
    /// The masked field equals the value.
    Masked { mask: u32, value: u32 },
}

impl Match {
    fn new(field: Field, operand: Operand) -> Self {
        Self { field, negated: false, operand }
    }

    /// The field is this value, or in this range.
    #[must_use]
    pub fn is(field: Field, value: impl Into<Value>) -> Self {
        Self::new(field, Operand::One(value.into()))
    }

    /// The field is one of these values or in one of these ranges. Of none of them is always false: such a rule is left
    /// out when it is compiled, or if [negated](Self::negated) the condition.
    #[must_use]
    pub fn any_of<V: Into<Value>>(field: Field, values: impl IntoIterator<Item = V>) -> Self {
        let mut values: Vec<Value> = values.into_iter().map(Into::into).collect();
        merge(&mut values);
        Self::new(field, Operand::AnyOf(values))
    }

    /// The field is in the table's set of that name.
    #[must_use]
    pub fn in_set(field: Field, set: impl Into<String>) -> Self {
        Self::new(field, Operand::Set(set.into()))
    }

    /// The connection is in one of these states.
    #[must_use]
    pub fn ct_state(states: CtState) -> Self {
        Self::new(Field::CtState, Operand::AnyBit(states.0))
    }

    /// The destination of the connection was rewritten (`ct status dnat`).
    #[must_use]
    pub fn ct_dnat() -> Self {
        Self::new(Field::CtStatus, Operand::AnyBit(32))
    }

    /// Of the TCP flags in `mask` just those in `set` are set; flags are bits as in the TCP header: FIN 1, SYN 2, RST 4,
    /// PSH 8, ACK 16, URG 32.
    #[must_use]
    pub fn tcp_flags(mask: u8, set: u8) -> Self {
        Self::new(Field::TcpFlags, Operand::Masked { mask: mask.into(), value: set.into() })
    }

    /// The packet mark, masked, is `value`.
    #[must_use]
    pub fn mark_masked(mask: u32, value: u32) -> Self {
        Self::new(Field::Mark, Operand::Masked { mask, value })
    }

    /// What it looks at.
    #[must_use]
    pub fn field(&self) -> Field {
        self.field
    }

    /// Whether no packet fulfils it.
    pub(crate) fn is_never(&self) -> bool {
        !self.negated && matches!(&self.operand, Operand::AnyOf(values) if values.is_empty())
    }

    /// The opposite.
    #[must_use]
    pub fn negated(mut self) -> Self {
        self.negated = !self.negated;
        self
    }
}

/// Sorts; joins ranges that overlap or touch, as nft does in a rule.
pub(crate) fn merge(values: &mut Vec<Value>) {
    values.sort_by_key(|v| (v.ty, v.sort_key()));
    values.dedup();
    if values.iter().all(Value::is_single) {
        return;
    }
    let mut out: Vec<Value> = Vec::with_capacity(values.len());
    for value in values.drain(..) {
        match out.last_mut() {
            Some(last)
                if last.ty == value.ty
                    && value.ty.ordered()
                    && successor(&last.high).is_none_or(|next| value.low <= next) =>
            {
                if value.high > last.high {
                    last.high = value.high;
                }
            }
            _ => out.push(value),
        }
    }
    *values = out;
}

/// The number after this one in network order; none after the last.
pub(crate) fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    for byte in out.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(out);
        }
    }
    None
}

/// The number before this one in network order; none before zero.
pub(crate) fn predecessor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    for byte in out.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            return Some(out);
        }
    }
    None
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// This chain lets it pass; later hooks still see it.
    Accept,
    /// It is gone.
    Drop,
    /// The next rule.
    Continue,
    /// Back to the chain that jumped here; in a base chain, its policy.
    Return,
    /// Through another chain of the table, then on here.
    Jump(String),
    /// On in another chain of the table, for good.
    Goto(String),
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reject {
    /// ICMP "port unreachable" of the packet's family.
    PortUnreachable,
    /// ICMP "host unreachable" ("address unreachable" for IPv6).
    HostUnreachable,
    /// ICMP "administratively prohibited".
    AdminProhibited,
    /// ICMP "network unreachable" ("no route" for IPv6).
    NoRoute,
    /// A TCP reset; the rule must match TCP.
    TcpReset,
}

/// Where network address translation leads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NatTo {
    /// An address, the port unchanged.
    Address(IpAddr),
    /// An address and a port; the rule must match a protocol with ports.
    Endpoint(SocketAddr),
    /// Any of a range of addresses.
    Addresses(IpAddr, IpAddr),
    /// What a map of the table says of a field: addresses, or endpoints.
    Map {
        /// What is looked up.
        key: Field,
        /// The name of the map.
        map: String,
        /// The family of the map's addresses: IPv4 for true.
        ipv4: bool,
        /// Whether the map has endpoints, not addresses.
        endpoints: bool,
    },
}

/// The unit of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateUnit {
    /// 1 s
    Second,
    /// 60 s
    Minute,
    /// 3600 s
    Hour,
    /// 86400 s
    Day,
    /// 604800 s
    Week,
}

impl RateUnit {
    pub(crate) const ALL: [(Self, u64, &'static str); 5] = [
        (Self::Second, 1, "second"),
        (Self::Minute, 60, "minute"),
        (Self::Hour, 3600, "hour"),
        (Self::Day, 86_400, "day"),
        (Self::Week, 604_800, "week"),
    ];
}

/// One part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statement {
    /// The rule ends here for packets that do not match.
    Match(Match),
    /// The same, of several fields together.
    MatchTuple(TupleMatch),
    /// Counts what comes by.
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// Writes to the kernel's log, or to a group of user-space listeners.
    Log {
        /// Put in front of each line; at most 127 bytes.
        prefix: Option<String>,
        /// The syslog level, 0 (emerg) to 7 (debug); 4 (warn) if absent.
        level: Option<u8>,
        /// The nfnetlink_log group, instead of the kernel's log.
        group: Option<u16>,
    },
    /// Lets packets up to a rate go on in the rule, or if `over` those beyond it.
    Limit {
        /// Packets per unit.
        rate: u64,
        /// The unit.
        unit: RateUnit,
        /// Packets that may come at once.
        burst: u32,
        /// The other way round.
        over: bool,
    },
    /// Decides.
    Verdict(Verdict),
    /// Decides by a named map of verdicts, or goes on if the field is not in it.
    VerdictMap {
        /// What is looked up.
        key: Field,
        /// The name of the map.
        map: String,
    },
    /// Decides by a list of verdicts in the rule, or goes on if the field is not in it.
    VerdictList {
        /// What is looked up.
        key: Field,
        /// The verdict of each value.
        verdicts: Vec<(Value, Verdict)>,
    },
    /// Refuses with an answer.
    Reject(Reject),
    /// Gives packets that leave the address of the interface by which they leave.
    Masquerade,
    /// Rewrites the source of a connection.
    Snat(NatTo),
    /// Rewrites the destination of a connection.
    Dnat(NatTo),
    /// Rewrites the destination to this namespace itself, on another port if one is given.
    Redirect(Option<u16>),
    /// Sets the packet's mark.
    SetMark(u32),
    /// Exempts the packet from connection tracking (in a chain before it, priority raw).
    NoTrack,
    /// An expression of somebody else's rule that this crate does not know, by the kernel's name. Cannot be applied.
    Foreign(String),
}

/// Conditions and what to do when all of them hold, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub(crate) statements: Vec<Statement>,
    pub(crate) comment: Option<String>,
}

impl Rule {
    /// A rule that matches everything and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The parts, in order.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// The comment.
    #[must_use]
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// Adds a part.
    #[must_use]
    pub fn with(mut self, statement: Statement) -> Self {
        self.statements.push(statement);
        self
    }

    /// Adds a condition.
    #[must_use]
    pub fn matching(self, condition: Match) -> Self {
        self.with(Statement::Match(condition))
    }

    /// Adds a condition on several fields together.
    #[must_use]
    pub fn matching_tuple(self, condition: TupleMatch) -> Self {
        self.with(Statement::MatchTuple(condition))
    }

    /// From this address, prefix or range.
    #[must_use]
    pub fn source(self, from: impl Into<Value>) -> Self {
        let value = from.into();
        let field = if value.ty == DataType::Ipv6 { Field::Ipv6Source } else { Field::Ipv4Source };
        self.matching(Match::is(field, value))
    }

    /// To this address, prefix or range.
    #[must_use]
    pub fn destination(self, to: impl Into<Value>) -> Self {
        let value = to.into();
        let field = if value.ty == DataType::Ipv6 { Field::Ipv6Destination } else { Field::Ipv4Destination };
        self.matching(Match::is(field, value))
    }

    /// Arrived by this interface.
    #[must_use]
    pub fn input(self, interface: impl Into<Value>) -> Self {
        self.matching(Match::is(Field::InputInterface, interface))
    }

    /// Leaves by this interface.
    #[must_use]
    pub fn output(self, interface: impl Into<Value>) -> Self {
        self.matching(Match::is(Field::OutputInterface, interface))
    }

    /// Of this transport protocol.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        self.matching(Match::is(Field::Protocol, protocol))
    }

    /// To this TCP port, or ports.
    #[must_use]
    pub fn tcp_port(self, ports: impl Into<Value>) -> Self {
        self.matching(Match::is(Field::DestinationPort(Some(Protocol::TCP)), ports))
    }

    /// To this UDP port, or ports.
    #[must_use]
    pub fn udp_port(self, ports: impl Into<Value>) -> Self {
        self.matching(Match::is(Field::DestinationPort(Some(Protocol::UDP)), ports))
    }

    /// Of a connection in one of these states.
    #[must_use]
    pub fn ct_state(self, states: CtState) -> Self {
        self.matching(Match::ct_state(states))
    }

    /// Counts packets and bytes from zero.
    #[must_use]
    pub fn counter(self) -> Self {
        self.with(Statement::Counter { packets: 0, bytes: 0 })
    }

    /// Logs with a prefix.
    #[must_use]
    pub fn log(self, prefix: impl Into<String>) -> Self {
        self.with(Statement::Log { prefix: Some(prefix.into()), level: None, group: None })
    }

    /// Lets it pass.
    #[must_use]
    pub fn accept(self) -> Self {
        self.with(Statement::Verdict(Verdict::Accept))
    }

    /// Drops it.
    #[must_use]
    pub fn drop(self) -> Self {
        self.with(Statement::Verdict(Verdict::Drop))
    }

    /// Jumps to another chain.
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.with(Statement::Verdict(Verdict::Jump(chain.into())))
    }

    /// Refuses it.
    #[must_use]
    pub fn reject(self, how: Reject) -> Self {
        self.with(Statement::Reject(how))
    }

    /// Masquerades it.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.with(Statement::Masquerade)
    }

    /// Rewrites the destination to this address and port.
    #[must_use]
    pub fn dnat(self, to: SocketAddr) -> Self {
        self.with(Statement::Dnat(NatTo::Endpoint(to)))
    }

    /// Rewrites the source to this address.
    #[must_use]
    pub fn snat(self, to: IpAddr) -> Self {
        self.with(Statement::Snat(NatTo::Address(to)))
    }

    /// Says what the rule is for: at most 127 bytes, shown by nft.
    #[must_use]
    pub fn commented(mut self, text: impl Into<String>) -> Self {
        self.comment = Some(text.into());
        self
    }
}
