//! Expressions of a rule followed through their registers, back to statements. Tests that only make a field readable
//! (`meta l4proto tcp` before a TCP port) are left out again, as nft does.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::abi::*;
use super::decode::{Entry, Known, KnownSet, Place, verdict};
use super::load::{Load, Needs, load_of};
use super::rule::{Field, Match, NatTo, Operand, RateUnit, Reject, Statement};
use super::set::MapValue;
use super::table::Family;
use super::tuple::{Tuple, TupleMatch, TupleOperand, padded};
use super::value::{DataType, Protocol, Value, as_prefix};
use crate::error::Result;
use crate::netlink::{Attrs, ip};

/// What a register holds.
#[derive(Debug, Clone)]
enum Register {
    Loaded {
        load: Load,
        mask: Option<Vec<u8>>,
    },
    /// A field that only ever guards another (`meta iiftype`).
    Guard,
    Bytes(Vec<u8>),
    Mapped {
        key: Field,
        map: String,
    },
}

pub(super) struct Decoder<'a> {
    place: &'a Place,
    known: &'a Known,
    registers: HashMap<u32, Register>,
    /// A lower bound that waits for its upper one.
    at_least: Option<(u32, Vec<u8>)>,
    statements: Vec<Statement>,
    /// Statements that turned out to be implied by later ones.
    implied: Vec<usize>,
    ip: Option<bool>,
    ip_from: Option<usize>,
    arp: bool,
    protocol: Option<Protocol>,
    protocol_from: Option<usize>,
    ether_from: Option<usize>,
}

/// Registers have two numberings: four of 16 bytes (1 to 4) and sixteen of 4 (from 8).
fn slot(register: u32) -> u32 {
    if register >= 8 { register - 8 } else { register.saturating_sub(1) * 4 }
}

impl<'a> Decoder<'a> {
    pub(super) fn new(place: &'a Place, known: &'a Known) -> Self {
        let ip = match place.0 {
            Family::Ip => Some(true),
            Family::Ip6 => Some(false),
            _ => None,
        };
        Self {
            place,
            known,
            registers: HashMap::new(),
            at_least: None,
            statements: Vec::new(),
            implied: Vec::new(),
            ip,
            ip_from: None,
            arp: place.0 == Family::Arp,
            protocol: None,
            protocol_from: None,
            ether_from: None,
        }
    }

    pub(super) fn finish(mut self) -> Vec<Statement> {
        if self.at_least.is_some() {
            self.statements.push(Statement::Foreign("cmp".into()));
        }
        let implied = self.implied;
        let kept = self.statements.into_iter().enumerate().filter(|(index, _)| !implied.contains(index));
        kept.map(|(_, statement)| statement).collect()
    }

    /// Follows one expression; one that is not understood becomes foreign.
    pub(super) fn follow(&mut self, name: String, data: &Attrs<'_>) -> Result<()> {
        if self.expression(&name, data)?.is_none() {
            // It may have loaded anything anywhere.
            self.registers.clear();
            self.push(Statement::Foreign(name));
        }
        Ok(())
    }

    fn push(&mut self, statement: Statement) {
        self.statements.push(statement);
    }

    fn push_match(&mut self, field: Field, negated: bool, operand: Operand) {
        let guards = !negated;
        if let (true, Operand::One(value)) = (guards, &operand) {
            let at = Some(self.statements.len());
            match field {
                Field::Protocol => {
                    self.protocol = value.low.first().map(|n| Protocol(*n));
                    self.protocol_from = at;
                }
                Field::IpFamily => {
                    self.ip = Some(*value == Value::family(true));
                    self.ip_from = at;
                }
                Field::EtherType => {
                    self.ip = if *value == Value::ether_type(0x0800) {
                        Some(true)
                    } else if *value == Value::ether_type(0x86dd) {
                        Some(false)
                    } else {
                        None
                    };
                    self.arp = *value == Value::ether_type(0x0806);
                    self.ip_from = at;
                }
                _ => {}
            }
        }
        self.push(Statement::Match(Match { field, negated, operand }));
    }

    /// The field that a load means here, and whether all of it was loaded. What made it readable becomes implied.
    fn field(&mut self, load: Load) -> Option<(Field, usize)> {
        let protocol = self.protocol;
        let (field, len) = match load {
            Load::Meta(key) => {
                let field = match key {
                    META_IIFNAME => Field::InputInterface,
                    META_OIFNAME => Field::OutputInterface,
                    META_NFPROTO => Field::IpFamily,
                    META_L4PROTO => Field::Protocol,
                    META_PROTOCOL => Field::EtherType,
                    META_MARK => Field::Mark,
                    _ => return None,
                };
                (field, field.data_type().len())
            }
            Load::Ct(CT_STATE) => (Field::CtState, 4),
            Load::Ct(CT_STATUS) => (Field::CtStatus, 4),
            Load::Ct(_) => return None,
            Load::Fib(FIB_F_SADDR) => (Field::SourceAddressType, 4),
            Load::Fib(FIB_F_DADDR) => (Field::DestinationAddressType, 4),
            Load::Fib(_) => return None,
            Load::Payload { base, offset, len } => {
                let candidates: &[Field] = match (base, self.ip, protocol) {
                    (BASE_LINK, ..) => &[Field::EtherSource, Field::EtherDestination],
                    (BASE_NETWORK, ..) if self.arp => &[Field::ArpSource],
                    (BASE_NETWORK, Some(true), _) => &[Field::Ipv4Source, Field::Ipv4Destination],
                    (BASE_NETWORK, Some(false), _) => &[Field::Ipv6Source, Field::Ipv6Destination],
                    (BASE_TRANSPORT, Some(true), Some(Protocol::ICMP)) => &[Field::IcmpType],
                    (BASE_TRANSPORT, Some(false), Some(Protocol::ICMPV6)) => &[Field::Icmpv6Type],
                    (BASE_TRANSPORT, _, Some(Protocol::TCP)) => {
                        const TCP: Option<Protocol> = Some(Protocol::TCP);
                        &[Field::SourcePort(TCP), Field::DestinationPort(TCP), Field::TcpFlags]
                    }
                    (BASE_TRANSPORT, _, Some(Protocol::UDP)) => {
                        const UDP: Option<Protocol> = Some(Protocol::UDP);
                        &[Field::SourcePort(UDP), Field::DestinationPort(UDP)]
                    }
                    (BASE_TRANSPORT, _, Some(Protocol::SCTP)) => {
                        const SCTP: Option<Protocol> = Some(Protocol::SCTP);
                        &[Field::SourcePort(SCTP), Field::DestinationPort(SCTP)]
                    }
                    (BASE_TRANSPORT, ..) => &[Field::SourcePort(None), Field::DestinationPort(None)],
                    _ => &[],
                };
                let same = |field: &&Field| match load_of(**field).0 {
                    Load::Payload { offset: o, len: l, .. } => o == offset && len <= l && len > 0,
                    _ => false,
                };
                let field = *candidates.iter().find(same)?;
                (field, len as usize)
            }
        };
        let (_, needs) = load_of(field);
        let (ip, protocol) = (self.ip_from, self.protocol_from);
        match needs {
            Needs::Nothing => {}
            Needs::Ip(_) | Needs::Arp => self.implied.extend(ip),
            Needs::Transport(_) => self.implied.extend(protocol),
            Needs::Icmp | Needs::Icmpv6 => self.implied.extend(ip.into_iter().chain(protocol)),
            Needs::Ethernet => self.implied.extend(self.ether_from),
        }
        Some((field, len))
    }

    fn register(&self, data: &Attrs<'_>, attr: u16) -> Option<&Register> {
        self.registers.get(&slot(data.be32(attr)?))
    }

    fn set(&mut self, data: &Attrs<'_>, attr: u16, value: Register) -> Option<()> {
        self.registers.insert(slot(data.be32(attr)?), value);
        Some(())
    }

    /// `None`: an expression, or a use of one, that has no counterpart here.
    fn expression(&mut self, name: &str, data: &Attrs<'_>) -> Result<Option<()>> {
        Ok(match name {
            "meta" if data.get(META_SREG).is_some() => {
                match (data.be32(META_KEY), self.register(data, META_SREG)) {
                    (Some(META_MARK), Some(Register::Bytes(bytes))) => <[u8; 4]>::try_from(bytes.as_slice())
                        .ok()
                        .map(|b| self.push(Statement::SetMark(u32::from_ne_bytes(b)))),
                    _ => None,
                }
            }
            "meta" => match data.be32(META_KEY) {
                Some(META_IIFTYPE) => self.set(data, META_DREG, Register::Guard),
                Some(key) => {
                    self.set(data, META_DREG, Register::Loaded { load: Load::Meta(key), mask: None })
                }
                None => None,
            },
            "ct" if data.get(CT_DIRECTION).is_none() => match data.be32(CT_KEY) {
                Some(key) => self.set(data, CT_DREG, Register::Loaded { load: Load::Ct(key), mask: None }),
                None => None,
            },
            "fib" => match (data.be32(FIB_RESULT), data.be32(FIB_FLAGS)) {
                (Some(FIB_RESULT_ADDRTYPE), Some(flags)) => {
                    self.set(data, FIB_DREG, Register::Loaded { load: Load::Fib(flags), mask: None })
                }
                _ => None,
            },
            "payload" => match (data.be32(PAYLOAD_BASE), data.be32(PAYLOAD_OFFSET), data.be32(PAYLOAD_LEN)) {
                (Some(base), Some(offset), Some(len)) => {
                    let load = Load::Payload { base, offset, len };
                    self.set(data, PAYLOAD_DREG, Register::Loaded { load, mask: None })
                }
                _ => None,
            },
            "bitwise" => self.bitwise(data)?,
            "cmp" => self.cmp(data)?,
            "range" => self.range(data)?,
            "lookup" => self.lookup(data),
            "immediate" => {
                let value = data.nested(IMMEDIATE_DATA)?;
                match (verdict(&value)?, value.get(DATA_VALUE)) {
                    (Some(verdict), _) => {
                        self.push(Statement::Verdict(verdict));
                        Some(())
                    }
                    (None, Some(bytes)) => self.set(data, IMMEDIATE_DREG, Register::Bytes(bytes.to_vec())),
                    _ => None,
                }
            }
            "counter" => {
                let (packets, bytes) =
                    (data.be64(COUNTER_PACKETS).unwrap_or(0), data.be64(COUNTER_BYTES).unwrap_or(0));
                self.push(Statement::Counter { packets, bytes });
                Some(())
            }
            "log" => {
                let group = data.be16(LOG_GROUP);
                let level = data.be32(LOG_LEVEL).filter(|l| *l != LOG_LEVEL_WARNING && *l < 8);
                let level = level.map(|l| l as u8).filter(|_| group.is_none());
                self.push(Statement::Log { prefix: data.text(LOG_PREFIX), level, group });
                Some(())
            }
            "limit" => self.limit(data),
            "reject" => self.reject(data),
            "nat" => self.nat(data),
            "masq" if data.iter().all(|(_, bytes)| bytes.iter().all(|b| *b == 0)) => {
                self.push(Statement::Masquerade);
                Some(())
            }
            "redir" => match self.register(data, REDIR_PROTO_MIN) {
                Some(Register::Bytes(bytes)) => <[u8; 2]>::try_from(bytes.as_slice())
                    .ok()
                    .map(|b| self.push(Statement::Redirect(Some(u16::from_be_bytes(b))))),
                Some(_) => None,
                None => {
                    self.push(Statement::Redirect(None));
                    Some(())
                }
            },
            "notrack" => {
                self.push(Statement::NoTrack);
                Some(())
            }
            _ => None,
        })
    }

    fn bitwise(&mut self, data: &Attrs<'_>) -> Result<Option<()>> {
        let mask = data.nested(BITWISE_MASK)?.get(DATA_VALUE).map(<[u8]>::to_vec);
        let plain = data.nested(BITWISE_XOR)?.get(DATA_VALUE).is_none_or(|xor| xor.iter().all(|b| *b == 0));
        let Some(Register::Loaded { load, mask: None }) = self.register(data, BITWISE_SREG).cloned() else {
            return Ok(None);
        };
        match mask {
            Some(mask) if plain => {
                Ok(self.set(data, BITWISE_DREG, Register::Loaded { load, mask: Some(mask) }))
            }
            _ => Ok(None),
        }
    }

    fn cmp(&mut self, data: &Attrs<'_>) -> Result<Option<()>> {
        let attrs = data.nested(CMP_DATA)?;
        let (Some(bytes), Some(op), Some(register)) =
            (attrs.get(DATA_VALUE), data.be32(CMP_OP), data.be32(CMP_SREG))
        else {
            return Ok(None);
        };
        let (load, mask) = match self.registers.get(&slot(register)).cloned() {
            Some(Register::Loaded { load, mask }) => (load, mask),
            Some(Register::Guard) => {
                self.ether_from = Some(self.statements.len());
                return Ok(None);
            }
            _ => return Ok(None),
        };
        let negated = match op {
            CMP_EQ => false,
            CMP_NEQ => true,
            CMP_GTE if mask.is_none() => {
                self.at_least = Some((register, bytes.to_vec()));
                return Ok(Some(()));
            }
            CMP_LTE if mask.is_none() => {
                let Some((_, low)) =
                    self.at_least.take().filter(|(r, low)| *r == register && low.len() == bytes.len())
                else {
                    return Ok(None);
                };
                let Some((field, _)) = self.field(load) else { return Ok(None) };
                let value = Value::range(field.data_type(), low, bytes.to_vec());
                self.push_match(field, false, Operand::One(value));
                return Ok(Some(()));
            }
            CMP_LT | CMP_GT => return Ok(None),
            _ => return Ok(None),
        };
        let Some((field, len)) = self.field(load) else { return Ok(None) };
        let ty = field.data_type();
        let Some(mask) = mask else {
            let value = match ty {
                DataType::Ipv4 | DataType::Ipv6 if len < ty.len() => {
                    // Only the first bytes of an address: a prefix of whole bytes.
                    let (mut low, mut high) = (bytes.to_vec(), bytes.to_vec());
                    low.resize(ty.len(), 0);
                    high.resize(ty.len(), 0xff);
                    Value::range(ty, low, high)
                }
                DataType::Interface if bytes.len() <= 16 => Value::one(ty, bytes.to_vec()),
                _ if bytes.len() == ty.len() => Value::one(ty, bytes.to_vec()),
                _ => return Ok(None),
            };
            self.push_match(field, negated, Operand::One(value));
            return Ok(Some(()));
        };
        if mask.len() != bytes.len() || mask.len() != ty.len() {
            return Ok(None);
        }
        let small = |bytes: &[u8]| match *bytes {
            [b] => Some(u32::from(b)),
            _ => bytes.try_into().ok().map(u32::from_ne_bytes),
        };
        let zero = bytes.iter().all(|b| *b == 0);
        match ty {
            DataType::Ipv4 | DataType::Ipv6 => {
                let high: Vec<u8> = bytes.iter().zip(&mask).map(|(b, m)| b | !m).collect();
                let contiguous = match (ip(bytes), ip(&high)) {
                    (Some(low), Some(high)) => as_prefix(low, high).is_some(),
                    _ => false,
                };
                if !contiguous {
                    return Ok(None);
                }
                self.push_match(field, negated, Operand::One(Value::range(ty, bytes.to_vec(), high)));
            }
            DataType::CtState | DataType::CtStatus if zero && negated => {
                let Some(bits) = small(&mask) else { return Ok(None) };
                self.push_match(field, false, Operand::AnyBit(bits));
            }
            DataType::CtState | DataType::CtStatus if zero => {
                let Some(bits) = small(&mask) else { return Ok(None) };
                self.push_match(field, true, Operand::AnyBit(bits));
            }
            DataType::TcpFlags | DataType::Mark => {
                let (Some(mask), Some(value)) = (small(&mask), small(bytes)) else { return Ok(None) };
                self.push_match(field, negated, Operand::Masked { mask, value });
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn range(&mut self, data: &Attrs<'_>) -> Result<Option<()>> {
        let (from, to) = (data.nested(RANGE_FROM)?, data.nested(RANGE_TO)?);
        let (Some(low), Some(high)) = (from.get(DATA_VALUE), to.get(DATA_VALUE)) else { return Ok(None) };
        let Some(Register::Loaded { load, mask: None }) = self.register(data, RANGE_SREG).cloned() else {
            return Ok(None);
        };
        let Some((field, _)) = self.field(load) else { return Ok(None) };
        let negated = data.be32(RANGE_OP) == Some(CMP_NEQ);
        if low.len() != high.len() {
            return Ok(None);
        }
        let value = Value::range(field.data_type(), low.to_vec(), high.to_vec());
        self.push_match(field, negated, Operand::One(value));
        Ok(Some(()))
    }

    fn lookup(&mut self, data: &Attrs<'_>) -> Option<()> {
        let name = data.text(LOOKUP_SET)?;
        let (family, table) = self.place;
        let (key, anonymous) = match self.known.get(&(*family, table.clone(), name.clone()))? {
            KnownSet::OfOne { key, entries } => (*key, entries.as_deref()),
            KnownSet::OfTuples { types, elements } => {
                return self.lookup_tuple(name, types, elements.as_deref(), data);
            }
        };
        let Some(Register::Loaded { load, mask: None }) = self.register(data, LOOKUP_SREG).cloned() else {
            return None;
        };
        let (field, len) = self.field(load)?;
        if key != field.data_type() || len != key.len() {
            return None;
        }
        match data.be32(LOOKUP_DREG) {
            None => {
                let negated = data.be32(LOOKUP_FLAGS).unwrap_or(0) & LOOKUP_F_INV != 0;
                let operand = match anonymous {
                    Some(entries) => Operand::AnyOf(entries.iter().map(|(v, _)| v.clone()).collect()),
                    None => Operand::Set(name),
                };
                self.push_match(field, negated, operand);
            }
            Some(REG_VERDICT) => self.push(match anonymous {
                Some(entries) => {
                    let verdict = |(value, data): &Entry| match data {
                        Some(MapValue::Verdict(verdict)) => Some((value.clone(), verdict.clone())),
                        _ => None,
                    };
                    Statement::VerdictList {
                        key: field,
                        verdicts: entries.iter().filter_map(verdict).collect(),
                    }
                }
                None => Statement::VerdictMap { key: field, map: name },
            }),
            Some(_) if anonymous.is_some() => return None,
            Some(_) => self.set(data, LOOKUP_DREG, Register::Mapped { key: field, map: name })?,
        }
        Some(())
    }

    fn lookup_tuple(
        &mut self,
        name: String,
        types: &[DataType],
        anonymous: Option<&[Tuple]>,
        data: &Attrs<'_>,
    ) -> Option<()> {
        if data.be32(LOOKUP_DREG).is_some() {
            return None;
        }
        let mut at = slot(data.be32(LOOKUP_SREG)?);
        let mut fields = Vec::new();
        for ty in types {
            let Some(Register::Loaded { load, mask: None }) = self.registers.get(&at).cloned() else {
                return None;
            };
            let (field, len) = self.field(load)?;
            if *ty != field.data_type() || len != ty.len() {
                return None;
            }
            fields.push(field);
            at += padded(*ty) as u32 / 4;
        }
        let negated = data.be32(LOOKUP_FLAGS).unwrap_or(0) & LOOKUP_F_INV != 0;
        let operand = match anonymous {
            Some(tuples) => TupleOperand::AnyOf(tuples.to_vec()),
            None => TupleOperand::Set(name),
        };
        self.push(Statement::MatchTuple(TupleMatch { fields, negated, operand }));
        Some(())
    }

    fn limit(&mut self, data: &Attrs<'_>) -> Option<()> {
        if data.be32(LIMIT_TYPE).unwrap_or(0) != 0 {
            return None;
        }
        let seconds = data.be64(LIMIT_UNIT)?;
        let unit = RateUnit::ALL.iter().find(|(_, s, _)| *s == seconds).map(|(u, ..)| *u)?;
        self.push(Statement::Limit {
            rate: data.be64(LIMIT_RATE)?,
            unit,
            burst: data.be32(LIMIT_BURST).unwrap_or(0),
            over: data.be32(LIMIT_FLAGS).unwrap_or(0) & LIMIT_F_INV != 0,
        });
        Some(())
    }

    fn reject(&mut self, data: &Attrs<'_>) -> Option<()> {
        let reject = match (data.be32(REJECT_TYPE)?, data.u8(REJECT_CODE).unwrap_or(0), self.place.0) {
            (1, ..) => Reject::TcpReset,
            (0, 3, Family::Ip) | (0, 4, Family::Ip6) | (2, 1, _) => Reject::PortUnreachable,
            (0, 1, Family::Ip) | (0, 3, Family::Ip6) | (2, 2, _) => Reject::HostUnreachable,
            (0, 13, Family::Ip) | (0, 1, Family::Ip6) | (2, 3, _) => Reject::AdminProhibited,
            (0, 0, Family::Ip | Family::Ip6) | (2, 0, _) => Reject::NoRoute,
            _ => return None,
        };
        self.push(Statement::Reject(reject));
        Some(())
    }

    fn nat(&mut self, data: &Attrs<'_>) -> Option<()> {
        let flags = data.be32(NAT_FLAGS).unwrap_or(0);
        // 1 (addresses given) and 2 (ports given) only repeat what the registers say.
        if flags & !3 != 0 {
            return None;
        }
        let different = |other: u16, than: u16| data.be32(other).is_some_and(|r| Some(r) != data.be32(than));
        if different(NAT_PROTO_MAX, NAT_PROTO_MIN) {
            return None;
        }
        let port = match (data.be32(NAT_PROTO_MIN), self.register(data, NAT_PROTO_MIN)) {
            (None, _) => None,
            (_, Some(Register::Bytes(bytes))) => Some(u16::from_be_bytes(bytes.as_slice().try_into().ok()?)),
            (_, _) => None,
        };
        let to = match self.register(data, NAT_ADDR_MIN)? {
            Register::Bytes(bytes) => {
                let addr = ip(bytes)?;
                let last = match self.register(data, NAT_ADDR_MAX) {
                    Some(Register::Bytes(bytes)) if different(NAT_ADDR_MAX, NAT_ADDR_MIN) => Some(ip(bytes)?),
                    _ => None,
                };
                match (last, port) {
                    (None, None) => NatTo::Address(addr),
                    (None, Some(port)) => NatTo::Endpoint(SocketAddr::new(addr, port)),
                    (Some(last), None) => NatTo::Addresses(addr, last),
                    (Some(_), Some(_)) => return None,
                }
            }
            Register::Mapped { key, map } => NatTo::Map {
                key: *key,
                map: map.clone(),
                ipv4: data.be32(NAT_FAMILY) == Some(libc::NFPROTO_IPV4 as u32),
                endpoints: data.be32(NAT_PROTO_MIN).is_some(),
            },
            _ => return None,
        };
        let statement = match data.be32(NAT_TYPE)? {
            0 => Statement::Snat(to),
            1 => Statement::Dnat(to),
            _ => return None,
        };
        self.push(statement);
        Some(())
    }
}
