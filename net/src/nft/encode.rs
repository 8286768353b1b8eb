//! Rules as the expressions that the kernel runs, in the shape that `nft` gives them.

use super::abi::*;
use super::batch::{Batch, Element, SetRef, check_value, write_verdict};
use super::load::{Load, Needs, load_of};
use super::rule::{Field, Match, NatTo, Operand, RateUnit, Reject, Statement, Verdict, merge};
use super::set::{MapType, MapValue};
use super::table::{Family, Table, check_name};
use super::tuple::{Tuple, TupleMatch, TupleOperand, TupleSet, check_types, padded};
use super::value::{DataType, Protocol, Value, as_prefix};
use crate::error::{Error, Result};
use crate::netlink::{Message, ip, ip_bytes};

/// One expression: its name, and its attributes.
#[derive(Debug)]
pub(super) struct Expression {
    name: &'static str,
    attrs: Vec<Attr>,
}

#[derive(Debug)]
enum Attr {
    Number(u16, u32),
    Short(u16, u16),
    Long(u16, u64),
    Byte(u16, u8),
    Text(u16, String),
    Data(u16, Vec<u8>),
    Verdict(u16, Verdict),
}

impl Expression {
    pub(super) fn write(&self, m: &mut Message) {
        m.str(EXPR_NAME, self.name);
        m.nest(EXPR_DATA, |m| {
            for attr in &self.attrs {
                match attr {
                    Attr::Number(kind, value) => m.be32(*kind, *value),
                    Attr::Short(kind, value) => m.attr(*kind, &value.to_be_bytes()),
                    Attr::Long(kind, value) => m.attr(*kind, &value.to_be_bytes()),
                    Attr::Byte(kind, value) => m.attr(*kind, &[*value]),
                    Attr::Text(kind, value) => m.str(*kind, value),
                    Attr::Data(kind, value) => m.nest(*kind, |m| {
                        m.attr(DATA_VALUE, value);
                    }),
                    Attr::Verdict(kind, verdict) => m.nest(*kind, |m| write_verdict(m, verdict)),
                };
            }
        });
    }
}

/// The expressions of a rule; anonymous sets that they need go into the transaction before it.
pub(super) fn encode(batch: &mut Batch, table: &Table, statements: &[Statement]) -> Result<Vec<Expression>> {
    let ip = match table.family {
        Family::Ip => Some(true),
        Family::Ip6 => Some(false),
        _ => None,
    };
    let mut encoder =
        Encoder { batch, table, expressions: Vec::new(), ip, protocol: None, arp: false, ether: false };
    for statement in statements {
        encoder.statement(statement)?;
    }
    Ok(encoder.expressions)
}

/// The expressions of one rule, and what the ones so far have established about the packet.
struct Encoder<'a> {
    batch: &'a mut Batch,
    table: &'a Table,
    expressions: Vec<Expression>,
    ip: Option<bool>,
    protocol: Option<Protocol>,
    arp: bool,
    ether: bool,
}

impl Encoder<'_> {
    fn push(&mut self, name: &'static str, attrs: Vec<Attr>) {
        self.expressions.push(Expression { name, attrs });
    }

    fn compare(&mut self, op: u32, bytes: Vec<u8>) {
        self.push(
            "cmp",
            vec![Attr::Number(CMP_SREG, REG_1), Attr::Number(CMP_OP, op), Attr::Data(CMP_DATA, bytes)],
        );
    }

    fn mask(&mut self, mask: Vec<u8>) {
        let (len, zero) = (mask.len() as u32, vec![0; mask.len()]);
        self.push(
            "bitwise",
            vec![
                Attr::Number(BITWISE_SREG, REG_1),
                Attr::Number(BITWISE_DREG, REG_1),
                Attr::Number(BITWISE_LEN, len),
                Attr::Data(BITWISE_MASK, mask),
                Attr::Data(BITWISE_XOR, zero),
            ],
        );
    }

    fn immediate(&mut self, register: u32, bytes: Vec<u8>) {
        self.push(
            "immediate",
            vec![Attr::Number(IMMEDIATE_DREG, register), Attr::Data(IMMEDIATE_DATA, bytes)],
        );
    }

    fn load_meta(&mut self, key: u32) {
        self.load_meta_into(key, REG_1);
    }

    fn load_meta_into(&mut self, key: u32, register: u32) {
        self.push("meta", vec![Attr::Number(META_KEY, key), Attr::Number(META_DREG, register)]);
    }

    fn need_ip(&mut self, v4: bool) -> Result<()> {
        match self.ip {
            Some(known) if known == v4 => return Ok(()),
            Some(_) => {
                let fix =
                    format!("the rule or its table sees only {} packets", if v4 { "IPv6" } else { "IPv4" });
                return Err(Error::invalid(if v4 { "an IPv4 match" } else { "an IPv6 match" }, fix));
            }
            None => {}
        }
        match self.table.family {
            Family::Bridge | Family::Netdev => {
                self.load_meta(META_PROTOCOL);
                let ether_type: u16 = if v4 { 0x0800 } else { 0x86dd };
                self.compare(CMP_EQ, ether_type.to_be_bytes().to_vec());
            }
            Family::Inet => {
                self.load_meta(META_NFPROTO);
                self.compare(CMP_EQ, Value::family(v4).low);
            }
            family => {
                return Err(Error::invalid(
                    "an IP match",
                    format_args!("family {family} sees no IP packets"),
                ));
            }
        }
        self.ip = Some(v4);
        Ok(())
    }

    fn need_protocol(&mut self, protocol: Protocol) -> Result<()> {
        match self.protocol {
            Some(known) if known == protocol => return Ok(()),
            Some(known) => {
                return Err(Error::invalid(
                    format_args!("a match on {protocol}"),
                    format_args!("the rule already matches {known}"),
                ));
            }
            None => {}
        }
        self.load_meta(META_L4PROTO);
        self.compare(CMP_EQ, vec![protocol.0]);
        self.protocol = Some(protocol);
        Ok(())
    }

    fn load(&mut self, field: Field) -> Result<()> {
        self.make_readable(field)?;
        self.load_into(field, REG_1);
        Ok(())
    }

    fn make_readable(&mut self, field: Field) -> Result<()> {
        match load_of(field).1 {
            Needs::Nothing => {}
            Needs::Ip(v4) => self.need_ip(v4)?,
            Needs::Icmp => {
                self.need_ip(true)?;
                self.need_protocol(Protocol::ICMP)?;
            }
            Needs::Icmpv6 => {
                self.need_ip(false)?;
                self.need_protocol(Protocol::ICMPV6)?;
            }
            Needs::Transport(protocol) => self.need_protocol(protocol)?,
            Needs::Arp => {
                if self.table.family != Family::Arp && !self.arp {
                    self.load_meta(META_PROTOCOL);
                    self.compare(CMP_EQ, 0x0806u16.to_be_bytes().to_vec());
                    self.arp = true;
                }
            }
            Needs::Ethernet => {
                if !matches!(self.table.family, Family::Bridge | Family::Netdev) && !self.ether {
                    self.load_meta(META_IIFTYPE);
                    self.compare(CMP_EQ, libc::ARPHRD_ETHER.to_ne_bytes().to_vec());
                    self.ether = true;
                }
            }
        }
        Ok(())
    }

    fn load_into(&mut self, field: Field, register: u32) {
        match load_of(field).0 {
            Load::Meta(key) => self.load_meta_into(key, register),
            Load::Ct(key) => {
                self.push("ct", vec![Attr::Number(CT_KEY, key), Attr::Number(CT_DREG, register)]);
            }
            Load::Fib(flags) => self.push(
                "fib",
                vec![
                    Attr::Number(FIB_DREG, register),
                    Attr::Number(FIB_RESULT, FIB_RESULT_ADDRTYPE),
                    Attr::Number(FIB_FLAGS, flags),
                ],
            ),
            Load::Payload { base, offset, len } => self.push(
                "payload",
                vec![
                    Attr::Number(PAYLOAD_DREG, register),
                    Attr::Number(PAYLOAD_BASE, base),
                    Attr::Number(PAYLOAD_OFFSET, offset),
                    Attr::Number(PAYLOAD_LEN, len),
                ],
            ),
        }
    }

    fn tuple_condition(&mut self, condition: &TupleMatch) -> Result<()> {
        let types = condition.types();
        let (name, id) = match &condition.operand {
            // Negated (the other case was left out): always true.
            TupleOperand::AnyOf(tuples) if tuples.is_empty() => return Ok(()),
            TupleOperand::AnyOf(tuples) => {
                let ranges = !tuples.iter().all(Tuple::is_single);
                let id = self.batch.new_set_id();
                let set = TupleSet {
                    name: "__set%d".into(),
                    types: types.clone(),
                    ranges,
                    elements: tuples.clone(),
                };
                self.batch.create_tuple_set(self.table.family, &self.table.name, &set, Some(id))?;
                ("__set%d", Some(id))
            }
            TupleOperand::Set(name) => {
                check_name("set", name)?;
                check_types(&types, false)?;
                let other = self.table.tuple_sets.iter().find(|s| s.name == *name && s.types != types);
                if let Some(set) = other {
                    return Err(Error::invalid(
                        format_args!("set {name} of {:?}", set.types),
                        format_args!("one of {types:?}"),
                    ));
                }
                (name.as_str(), None)
            }
        };
        // First what makes them readable, which uses the registers too.
        for field in &condition.fields {
            self.make_readable(*field)?;
        }
        let mut offset = 0;
        for (field, ty) in condition.fields.iter().zip(types) {
            let register = if offset == 0 { REG_1 } else { REG32_1 + offset as u32 / 4 };
            self.load_into(*field, register);
            offset += padded(ty);
        }
        self.lookup(name, id, condition.negated);
        Ok(())
    }

    /// Notes what an explicit comparison establishes, so that it is not tested again.
    fn learn(&mut self, condition: &Match) {
        if condition.negated {
            return;
        }
        let Operand::One(value) = &condition.operand else { return };
        match (condition.field, value.low.first()) {
            (Field::Protocol, Some(number)) => self.protocol = Some(Protocol(*number)),
            (Field::IpFamily, _) => self.ip = Some(*value == Value::family(true)),
            (Field::EtherType, _) if *value == Value::ether_type(0x0806) => self.arp = true,
            (Field::EtherType, _) if *value == Value::ether_type(0x0800) => self.ip = Some(true),
            (Field::EtherType, _) if *value == Value::ether_type(0x86dd) => self.ip = Some(false),
            _ => {}
        }
    }

    fn condition(&mut self, condition: &Match) -> Result<()> {
        let ty = condition.field.data_type();
        let (eq, neq) = if condition.negated { (CMP_NEQ, CMP_EQ) } else { (CMP_EQ, CMP_NEQ) };
        match &condition.operand {
            Operand::One(value) => {
                check_value(ty, value, ty.ordered()).or_else(|e| {
                    // Only here may a name be the beginning of one.
                    if ty == DataType::Interface && value.ty == ty { Ok(()) } else { Err(e) }
                })?;
                self.load(condition.field)?;
                self.one(ty, value, condition.negated, eq);
                self.learn(condition);
            }
            Operand::AnyOf(values) if values.is_empty() => {
                // Negated (the other case was left out): always true.
            }
            Operand::AnyOf(values) => {
                let ranges = values.iter().any(|v| !v.is_single());
                let mut values = values.clone();
                merge(&mut values);
                self.load(condition.field)?;
                let elements: Vec<_> = values.iter().map(|v| (v, None)).collect();
                let id = self.anonymous("__set%d", ty, ranges, None, &elements)?;
                self.lookup("__set%d", Some(id), condition.negated);
            }
            Operand::Set(name) => {
                check_name("set", name)?;
                if let Some(set) = self.table.sets.iter().find(|s| s.name == *name).filter(|s| s.ty != ty) {
                    return Err(Error::invalid(
                        format_args!("set {name} of {}", set.ty),
                        format_args!("one of {ty}"),
                    ));
                }
                self.load(condition.field)?;
                self.lookup(name, None, condition.negated);
            }
            Operand::AnyBit(bits) => {
                self.load(condition.field)?;
                let bytes = number_bytes(ty, *bits);
                self.mask(bytes.clone());
                self.compare(neq, vec![0; bytes.len()]);
            }
            Operand::Masked { mask, value } => {
                self.load(condition.field)?;
                self.mask(number_bytes(ty, *mask));
                self.compare(eq, number_bytes(ty, *value));
            }
        }
        Ok(())
    }

    fn one(&mut self, ty: DataType, value: &Value, negated: bool, eq: u32) {
        if value.is_single() {
            return self.compare(eq, value.low.clone());
        }
        let prefix = match (ip(&value.low), ip(&value.high)) {
            (Some(low), Some(high)) if ty != DataType::Port => as_prefix(low, high),
            _ => None,
        };
        match prefix {
            Some(prefix) => {
                self.mask(prefix.mask_bytes());
                self.compare(eq, value.low.clone());
            }
            None if negated => self.push(
                "range",
                vec![
                    Attr::Number(RANGE_SREG, REG_1),
                    Attr::Number(RANGE_OP, CMP_NEQ),
                    Attr::Data(RANGE_FROM, value.low.clone()),
                    Attr::Data(RANGE_TO, value.high.clone()),
                ],
            ),
            None => {
                self.compare(CMP_GTE, value.low.clone());
                self.compare(CMP_LTE, value.high.clone());
            }
        }
    }

    /// A set of this rule alone; its number.
    fn anonymous(
        &mut self,
        name: &str,
        ty: DataType,
        ranges: bool,
        data: Option<MapType>,
        elements: &[Element<'_>],
    ) -> Result<u32> {
        let id = self.batch.new_set_id();
        let (family, table) = (self.table.family, self.table.name.as_str());
        let set = SetRef { family, table, name, id: Some(id), ty, ranges };
        self.batch.create_set(set, data, elements)?;
        Ok(id)
    }

    fn lookup(&mut self, set: &str, id: Option<u32>, negated: bool) {
        let mut attrs = vec![Attr::Text(LOOKUP_SET, set.into()), Attr::Number(LOOKUP_SREG, REG_1)];
        attrs.extend(id.map(|id| Attr::Number(LOOKUP_SET_ID, id)));
        if negated {
            attrs.push(Attr::Number(LOOKUP_FLAGS, LOOKUP_F_INV));
        }
        self.push("lookup", attrs);
    }

    fn look_up_into(&mut self, map: &str, id: Option<u32>, register: u32) {
        let mut attrs = vec![
            Attr::Text(LOOKUP_SET, map.into()),
            Attr::Number(LOOKUP_SREG, REG_1),
            Attr::Number(LOOKUP_DREG, register),
        ];
        attrs.extend(id.map(|id| Attr::Number(LOOKUP_SET_ID, id)));
        self.push("lookup", attrs);
    }

    fn statement(&mut self, statement: &Statement) -> Result<()> {
        match statement {
            Statement::Match(condition) => self.condition(condition)?,
            Statement::MatchTuple(condition) => self.tuple_condition(condition)?,
            Statement::Counter { packets, bytes } => {
                self.push(
                    "counter",
                    vec![Attr::Long(COUNTER_BYTES, *bytes), Attr::Long(COUNTER_PACKETS, *packets)],
                );
            }
            Statement::Log { prefix, level, group } => {
                let mut attrs = Vec::new();
                if let Some(prefix) = prefix {
                    if prefix.len() > 127 || prefix.is_empty() || prefix.contains(['"', '\0', '\n']) {
                        return Err(Error::invalid(
                            format_args!("log prefix {prefix:?}"),
                            "1 to 127 bytes without \" or line end",
                        ));
                    }
                    attrs.push(Attr::Text(LOG_PREFIX, prefix.clone()));
                }
                match (group, level) {
                    (Some(_), Some(_)) => return Err(Error::invalid("log", "a level or a group, not both")),
                    (Some(group), None) => attrs.push(Attr::Short(LOG_GROUP, *group)),
                    (None, Some(8..)) => return Err(Error::invalid("log level", "0 (emerg) to 7 (debug)")),
                    (None, level) => {
                        attrs.push(Attr::Number(LOG_LEVEL, level.map_or(LOG_LEVEL_WARNING, u32::from)));
                    }
                }
                self.push("log", attrs);
            }
            Statement::Limit { rate, unit, burst, over } => {
                let seconds = RateUnit::ALL.iter().find(|(u, ..)| u == unit).map_or(1, |(_, s, _)| *s);
                self.push(
                    "limit",
                    vec![
                        Attr::Long(LIMIT_RATE, *rate),
                        Attr::Long(LIMIT_UNIT, seconds),
                        Attr::Number(LIMIT_BURST, *burst),
                        Attr::Number(LIMIT_TYPE, 0),
                        Attr::Number(LIMIT_FLAGS, if *over { LIMIT_F_INV } else { 0 }),
                    ],
                );
            }
            Statement::Verdict(verdict) => {
                if let Verdict::Jump(chain) | Verdict::Goto(chain) = verdict {
                    check_name("chain", chain)?;
                }
                let attrs = vec![
                    Attr::Number(IMMEDIATE_DREG, REG_VERDICT),
                    Attr::Verdict(IMMEDIATE_DATA, verdict.clone()),
                ];
                self.push("immediate", attrs);
            }
            Statement::VerdictMap { key, map } => {
                check_name("map", map)?;
                self.load(*key)?;
                self.look_up_into(map, None, REG_VERDICT);
            }
            Statement::VerdictList { key, verdicts } => {
                let ty = key.data_type();
                let ranges = verdicts.iter().any(|(value, _)| !value.is_single());
                self.load(*key)?;
                let values: Vec<MapValue> =
                    verdicts.iter().map(|(_, v)| MapValue::Verdict(v.clone())).collect();
                let elements: Vec<_> = verdicts.iter().zip(&values).map(|((k, _), v)| (k, Some(v))).collect();
                let id = self.anonymous("__map%d", ty, ranges, Some(MapType::Verdict), &elements)?;
                self.look_up_into("__map%d", Some(id), REG_VERDICT);
            }
            Statement::Reject(reject) => self.reject(*reject)?,
            Statement::Masquerade => self.push("masq", Vec::new()),
            Statement::Snat(to) => self.nat(0, to)?,
            Statement::Dnat(to) => self.nat(1, to)?,
            Statement::Redirect(port) => {
                let mut attrs = Vec::new();
                if let Some(port) = port {
                    self.ports_known("redirect to a port")?;
                    self.immediate(REG_1, port.to_be_bytes().to_vec());
                    attrs.push(Attr::Number(REDIR_PROTO_MIN, REG_1));
                    attrs.push(Attr::Number(REDIR_FLAGS, NAT_F_PROTO_SPECIFIED));
                }
                self.push("redir", attrs);
            }
            Statement::SetMark(mark) => {
                self.immediate(REG_1, mark.to_ne_bytes().to_vec());
                self.push("meta", vec![Attr::Number(META_KEY, META_MARK), Attr::Number(META_SREG, REG_1)]);
            }
            Statement::NoTrack => self.push("notrack", Vec::new()),
            Statement::Foreign(name) => {
                return Err(Error::invalid(
                    format_args!("expression {name:?}"),
                    "one that this crate knows: it was only read",
                ));
            }
        }
        Ok(())
    }

    fn ports_known(&self, what: &str) -> Result<()> {
        match self.protocol {
            Some(Protocol::TCP | Protocol::UDP | Protocol::SCTP) => Ok(()),
            _ => Err(Error::invalid(what, "the rule must match tcp, udp or sctp before")),
        }
    }

    fn reject(&mut self, reject: Reject) -> Result<()> {
        // One family: its own ICMP codes. Both: the kernel translates (`icmpx`).
        let (kind, code) = match (reject, self.table.family) {
            (Reject::TcpReset, _) => {
                self.need_protocol(Protocol::TCP)?;
                (1, 0)
            }
            (Reject::PortUnreachable, Family::Ip) => (0, 3),
            (Reject::HostUnreachable, Family::Ip) => (0, 1),
            (Reject::AdminProhibited, Family::Ip) => (0, 13),
            (Reject::NoRoute, Family::Ip) => (0, 0),
            (Reject::PortUnreachable, Family::Ip6) => (0, 4),
            (Reject::HostUnreachable, Family::Ip6) => (0, 3),
            (Reject::AdminProhibited, Family::Ip6) => (0, 1),
            (Reject::NoRoute, Family::Ip6) => (0, 0),
            (Reject::NoRoute, _) => (2, 0),
            (Reject::PortUnreachable, _) => (2, 1),
            (Reject::HostUnreachable, _) => (2, 2),
            (Reject::AdminProhibited, _) => (2, 3),
        };
        self.push("reject", vec![Attr::Number(REJECT_TYPE, kind), Attr::Byte(REJECT_CODE, code)]);
        Ok(())
    }

    fn nat(&mut self, kind: u32, to: &NatTo) -> Result<()> {
        let v4 = match to {
            NatTo::Address(addr) | NatTo::Addresses(addr, _) => addr.is_ipv4(),
            NatTo::Endpoint(addr) => addr.is_ipv4(),
            NatTo::Map { ipv4, .. } => *ipv4,
        };
        if self.ip.is_some_and(|known| known != v4) {
            return Err(Error::invalid(
                "address translation",
                "the target must be of the family that the rule matches",
            ));
        }
        let family = if v4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 } as u32;
        let mut attrs = vec![
            Attr::Number(NAT_TYPE, kind),
            Attr::Number(NAT_FAMILY, family),
            Attr::Number(NAT_ADDR_MIN, REG_1),
        ];
        match to {
            NatTo::Address(addr) => self.immediate(REG_1, ip_bytes(*addr)),
            NatTo::Addresses(low, high) => {
                if low.is_ipv4() != high.is_ipv4() || low > high {
                    return Err(Error::invalid(
                        format_args!("addresses {low}-{high}"),
                        "a range of one family",
                    ));
                }
                self.immediate(REG_1, ip_bytes(*low));
                self.immediate(REG_2, ip_bytes(*high));
                attrs.push(Attr::Number(NAT_ADDR_MAX, REG_2));
            }
            NatTo::Endpoint(addr) => {
                self.ports_known("address translation to a port")?;
                self.immediate(REG_1, ip_bytes(addr.ip()));
                self.immediate(REG_2, addr.port().to_be_bytes().to_vec());
                attrs.push(Attr::Number(NAT_PROTO_MIN, REG_2));
                attrs.push(Attr::Number(NAT_FLAGS, NAT_F_PROTO_SPECIFIED));
            }
            NatTo::Map { key, map, endpoints, .. } => {
                check_name("map", map)?;
                self.load(*key)?;
                self.look_up_into(map, None, REG_1);
                if *endpoints {
                    self.ports_known("address translation to endpoints")?;
                    // The port follows the address in the same register.
                    let part = if v4 { REG_1_PART_2 } else { REG_2 };
                    attrs.push(Attr::Number(NAT_PROTO_MIN, part));
                }
            }
        }
        self.push("nat", attrs);
        Ok(())
    }
}

/// A small number as the bytes of a field.
fn number_bytes(ty: DataType, number: u32) -> Vec<u8> {
    if ty.len() == 1 { vec![number as u8] } else { number.to_ne_bytes().to_vec() }
}
