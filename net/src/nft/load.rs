//! Where the kernel finds a field, and what must be known of a packet first.

use super::abi::*;
use super::rule::Field;
use super::value::Protocol;

/// Where a field is loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Meta(u32),
    Ct(u32),
    Fib(u32),
    Payload { base: u32, offset: u32, len: u32 },
}

/// What must be known of a packet before a field of it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Ip(bool),
    Arp,
    Ethernet,
    Transport(Protocol),
    Icmp,
    Icmpv6,
}

pub(super) fn load_of(field: Field) -> (Load, Needs) {
    let link = |offset| Load::Payload { base: BASE_LINK, offset, len: 6 };
    let net = |offset, len| Load::Payload { base: BASE_NETWORK, offset, len };
    let transport = |offset, len| Load::Payload { base: BASE_TRANSPORT, offset, len };
    let port = |offset, protocol: Option<Protocol>| {
        (transport(offset, 2), protocol.map_or(Needs::Nothing, Needs::Transport))
    };
    match field {
        Field::InputInterface => (Load::Meta(META_IIFNAME), Needs::Nothing),
        Field::OutputInterface => (Load::Meta(META_OIFNAME), Needs::Nothing),
        Field::IpFamily => (Load::Meta(META_NFPROTO), Needs::Nothing),
        Field::Protocol => (Load::Meta(META_L4PROTO), Needs::Nothing),
        Field::EtherType => (Load::Meta(META_PROTOCOL), Needs::Nothing),
        Field::Mark => (Load::Meta(META_MARK), Needs::Nothing),
        Field::Ipv4Source => (net(12, 4), Needs::Ip(true)),
        Field::Ipv4Destination => (net(16, 4), Needs::Ip(true)),
        Field::Ipv6Source => (net(8, 16), Needs::Ip(false)),
        Field::Ipv6Destination => (net(24, 16), Needs::Ip(false)),
        Field::ArpSource => (net(14, 4), Needs::Arp),
        Field::SourcePort(protocol) => port(0, protocol),
        Field::DestinationPort(protocol) => port(2, protocol),
        Field::IcmpType => (transport(0, 1), Needs::Icmp),
        Field::Icmpv6Type => (transport(0, 1), Needs::Icmpv6),
        Field::TcpFlags => (transport(13, 1), Needs::Transport(Protocol::TCP)),
        Field::CtState => (Load::Ct(CT_STATE), Needs::Nothing),
        Field::CtStatus => (Load::Ct(CT_STATUS), Needs::Nothing),
        Field::SourceAddressType => (Load::Fib(FIB_F_SADDR), Needs::Nothing),
        Field::DestinationAddressType => (Load::Fib(FIB_F_DADDR), Needs::Nothing),
        Field::EtherDestination => (link(0), Needs::Ethernet),
        Field::EtherSource => (link(6), Needs::Ethernet),
    }
}
