//! What the kernel lists, back as rules: expressions are followed through their registers, and the tests that only make a
//! field readable (`meta l4proto tcp` before a TCP port) are left out again, as nft does.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::abi::*;
use super::encode::{Load, Needs, load_of};
use super::rule::{Field, Match, NatTo, Operand, RateUnit, Reject, Rule, Statement, Verdict, predecessor};
use super::table::{
    Base, Chain, ChainKind, Family, Hook, Map, MapType, MapValue, Policy, Priority, Ruleset, Set, Table,
};
use super::value::{DataType, Protocol, Value};
use crate::error::{Error, Result};
use crate::netlink::{Attrs, ip};
use crate::socket::Answer;

/// struct nfgenmsg.
pub(super) const NFGEN: usize = 4;

/// The answers to the dumps that make up a ruleset.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) tables: Vec<Answer>,
    pub(super) chains: Vec<Answer>,
    pub(super) sets: Vec<Answer>,
    pub(super) elements: Vec<Answer>,
    pub(super) rules: Vec<Answer>,
}

type Place = (Family, String);
/// The sets and maps that rules may refer to, by table and name.
type Known = HashMap<(Family, String, String), KnownSet>;

struct KnownSet {
    key: DataType,
    /// Of anonymous ones.
    entries: Option<Vec<Entry>>,
}

fn open(answer: &Answer) -> Result<Option<(Family, Attrs<'_>)>> {
    let (head, attrs) = answer.parts(NFGEN)?;
    Ok(Family::from_number(head[0]).map(|family| (family, attrs)))
}

/// The family, table and name of each set of a dump, to ask for its elements.
pub(super) fn set_names(sets: &[Answer]) -> Result<Vec<(Family, String, String)>> {
    let mut out = Vec::new();
    for answer in sets {
        if let Some((family, attrs)) = open(answer)? {
            if let (Some(table), Some(name)) = (attrs.text(SET_TABLE), attrs.text(SET_NAME)) {
                out.push((family, table, name));
            }
        }
    }
    Ok(out)
}

pub(super) fn ruleset(dump: &Dump) -> Result<Ruleset> {
    let mut tables: Vec<Table> = Vec::new();
    for answer in &dump.tables {
        let Some((family, attrs)) = open(answer)? else { continue };
        let mut table = Table::new(family, attrs.text(TABLE_NAME).unwrap_or_default());
        table.owned = attrs.be32(TABLE_FLAGS).unwrap_or(0) & TABLE_F_OWNER != 0;
        tables.push(table);
    }
    for answer in &dump.chains {
        let Some((family, attrs)) = open(answer)? else { continue };
        let place = (family, attrs.text(CHAIN_TABLE).unwrap_or_default());
        if let Some(table) = find(&mut tables, &place) {
            table.chains.push(chain(&attrs)?);
        }
    }
    let known = sets(dump, &mut tables)?;
    for answer in &dump.rules {
        let Some((family, attrs)) = open(answer)? else { continue };
        let place = (family, attrs.text(RULE_TABLE).unwrap_or_default());
        let name = attrs.text(RULE_CHAIN).unwrap_or_default();
        let Some(table) = find(&mut tables, &place) else { continue };
        let rule = rule(&place, &attrs, &known)?;
        if let Some(chain) = table.chains.iter_mut().find(|c| c.name == name) {
            chain.rules.push(rule);
        }
    }
    Ok(Ruleset { tables })
}

fn find<'t>(tables: &'t mut [Table], place: &Place) -> Option<&'t mut Table> {
    tables.iter_mut().find(|t| t.family == place.0 && t.name == place.1)
}

fn chain(attrs: &Attrs<'_>) -> Result<Chain> {
    let mut chain = Chain::new(attrs.text(CHAIN_NAME).unwrap_or_default());
    let hook = attrs.nested(CHAIN_HOOK)?;
    if let Some(number) = hook.be32(HOOK_HOOKNUM) {
        let kind = match attrs.text(CHAIN_TYPE).as_deref() {
            Some("nat") => ChainKind::Nat,
            Some("route") => ChainKind::Route,
            _ => ChainKind::Filter,
        };
        let hook_at = Hook::ALL.iter().find(|(_, n, _)| *n == number).map(|(h, ..)| *h);
        chain.base = Some(Base {
            kind,
            // Ingress and egress of single devices have no name here.
            hook: hook_at
                .ok_or_else(|| Error::malformed(format_args!("chain {}: hook {number}", chain.name)))?,
            priority: Priority(hook.be32(HOOK_PRIORITY).unwrap_or(0) as i32),
            policy: if attrs.be32(CHAIN_POLICY) == Some(NF_DROP as u32) {
                Policy::Drop
            } else {
                Policy::Accept
            },
        });
    }
    Ok(chain)
}

/// Puts named sets and maps into their tables; what all of them are is for the rules.
fn sets(dump: &Dump, tables: &mut [Table]) -> Result<Known> {
    let mut elements: HashMap<(Family, String, String), Vec<&Answer>> = HashMap::new();
    for answer in &dump.elements {
        let Some((family, attrs)) = open(answer)? else { continue };
        let key = (
            family,
            attrs.text(ELEM_LIST_TABLE).unwrap_or_default(),
            attrs.text(ELEM_LIST_SET).unwrap_or_default(),
        );
        elements.entry(key).or_default().push(answer);
    }
    let mut known = Known::new();
    for answer in &dump.sets {
        let Some((family, attrs)) = open(answer)? else { continue };
        let table = attrs.text(SET_TABLE).unwrap_or_default();
        let name = attrs.text(SET_NAME).unwrap_or_default();
        let flags = attrs.be32(SET_FLAGS).unwrap_or(0);
        let key_type = attrs.be32(SET_KEY_TYPE).and_then(DataType::from_id);
        let map_type = if flags & SET_F_MAP == 0 { Some(None) } else { map_type(&attrs).map(Some) };
        // Concatenated keys and other people's types: the set stays out, and rules that use it are foreign.
        let (Some(ty), Some(map_type)) = (key_type, map_type) else { continue };
        let place = (family, table.clone(), name.clone());
        let ranges = flags & SET_F_INTERVAL != 0;
        let entries = set_elements(elements.get(&place).map_or(&[], Vec::as_slice), ty, ranges, map_type)?;
        if flags & SET_F_ANONYMOUS != 0 {
            known.insert(place, KnownSet { key: ty, entries: Some(entries) });
            continue;
        }
        known.insert(place, KnownSet { key: ty, entries: None });
        let Some(table) = find(tables, &(family, table)) else { continue };
        match map_type {
            None => {
                let elements = entries.into_iter().map(|(value, _)| value).collect();
                table.sets.push(Set { name, ty, ranges, elements });
            }
            Some(data) => {
                let elements = entries.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
                table.maps.push(Map { name, key: ty, ranges, ty: data, elements });
            }
        }
    }
    Ok(known)
}

fn map_type(attrs: &Attrs<'_>) -> Option<MapType> {
    const ENDPOINT4: u32 = 7 << 6 | 13;
    const ENDPOINT6: u32 = 8 << 6 | 13;
    match attrs.be32(SET_DATA_TYPE)? {
        DATA_TYPE_VERDICT => Some(MapType::Verdict),
        7 => Some(MapType::Ipv4),
        8 => Some(MapType::Ipv6),
        ENDPOINT4 => Some(MapType::Ipv4Endpoint),
        ENDPOINT6 => Some(MapType::Ipv6Endpoint),
        _ => None,
    }
}

type Entry = (Value, Option<MapValue>);

fn set_elements(answers: &[&Answer], ty: DataType, ranges: bool, map: Option<MapType>) -> Result<Vec<Entry>> {
    let mut raw: Vec<(Vec<u8>, bool, Option<MapValue>)> = Vec::new();
    for answer in answers {
        let (_, attrs) = answer.parts(NFGEN)?;
        for (_, bytes) in attrs.nested(ELEM_LIST_ELEMENTS)?.iter() {
            let element = Attrs::parse(bytes)?;
            let Some(key) = element.nested(ELEM_KEY)?.get(DATA_VALUE) else { continue };
            if key.len() != ty.len() {
                return Err(Error::malformed(format_args!("set element of type {ty}")));
            }
            let end = element.be32(ELEM_FLAGS).unwrap_or(0) & ELEM_F_INTERVAL_END != 0;
            let data = element.nested(ELEM_DATA)?;
            let value = match map {
                Some(MapType::Verdict) => verdict(&data)?.map(MapValue::Verdict),
                Some(MapType::Ipv4 | MapType::Ipv6) => data.addr(DATA_VALUE).map(MapValue::Address),
                Some(MapType::Ipv4Endpoint) => endpoint(data.get(DATA_VALUE), 4).map(MapValue::Endpoint),
                Some(MapType::Ipv6Endpoint) => endpoint(data.get(DATA_VALUE), 16).map(MapValue::Endpoint),
                None => None,
            };
            raw.push((key.to_vec(), end, value));
        }
    }
    let mut out = Vec::new();
    if ranges {
        // At one key an end comes before a beginning.
        raw.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut begun: Option<(Vec<u8>, Option<MapValue>)> = None;
        for (key, end, value) in raw {
            let last = predecessor(&key);
            if let (Some((low, value)), Some(high)) = (begun.take(), last) {
                out.push((Value::range(ty, low, high), value));
            }
            if !end {
                begun = Some((key, value));
            }
        }
        if let Some((low, value)) = begun {
            out.push((Value::range(ty, low, vec![0xff; ty.len()]), value));
        }
    } else {
        out.extend(raw.into_iter().map(|(key, _, value)| (Value::one(ty, key), value)));
        out.sort_by_key(|(key, _)| key.sort_key());
    }
    Ok(out)
}

fn endpoint(bytes: Option<&[u8]>, width: usize) -> Option<SocketAddr> {
    let (addr, port) = bytes?.split_at_checked(width)?;
    let port = u16::from_be_bytes(port.get(..2)?.try_into().ok()?);
    Some(SocketAddr::new(ip(addr)?, port))
}

fn verdict(data: &Attrs<'_>) -> Result<Option<Verdict>> {
    let verdict = data.nested(DATA_VERDICT)?;
    let chain = || verdict.text(VERDICT_CHAIN).unwrap_or_default();
    Ok(match verdict.be32(VERDICT_CODE).map(|code| code as i32) {
        Some(NF_ACCEPT) => Some(Verdict::Accept),
        Some(NF_DROP) => Some(Verdict::Drop),
        Some(NFT_CONTINUE) => Some(Verdict::Continue),
        Some(NFT_RETURN) => Some(Verdict::Return),
        Some(NFT_JUMP) => Some(Verdict::Jump(chain())),
        Some(NFT_GOTO) => Some(Verdict::Goto(chain())),
        _ => None,
    })
}

fn rule(place: &Place, attrs: &Attrs<'_>, known: &Known) -> Result<Rule> {
    let mut decoder = Decoder::new(place, known);
    for (_, bytes) in attrs.nested(RULE_EXPRESSIONS)?.iter() {
        let expression = Attrs::parse(bytes)?;
        let name = expression.text(EXPR_NAME).unwrap_or_default();
        let data = expression.nested(EXPR_DATA)?;
        if decoder.expression(&name, &data)?.is_none() {
            // It may have loaded anything anywhere.
            decoder.registers.clear();
            decoder.push(Statement::Foreign(name));
        }
    }
    let comment = attrs.get(RULE_USERDATA).and_then(comment);
    let statements = decoder.finish();
    Ok(Rule { statements, comment })
}

fn comment(mut udata: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = udata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == UDATA_RULE_COMMENT {
            let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
            return Some(String::from_utf8_lossy(&value[..end]).into_owned());
        }
        udata = rest.get(usize::from(*len)..)?;
    }
    None
}

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

struct Decoder<'a> {
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
    fn new(place: &'a Place, known: &'a Known) -> Self {
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

    fn finish(mut self) -> Vec<Statement> {
        if self.at_least.is_some() {
            self.statements.push(Statement::Foreign("cmp".into()));
        }
        let implied = self.implied;
        let kept = self.statements.into_iter().enumerate().filter(|(index, _)| !implied.contains(index));
        kept.map(|(_, statement)| statement).collect()
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
                    (Some(low), Some(high)) => super::value::as_prefix(low, high).is_some(),
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
        let Some(Register::Loaded { load, mask: None }) = self.register(data, LOOKUP_SREG).cloned() else {
            return None;
        };
        let (family, table) = self.place;
        // A set that is not known has a key of several fields.
        let set = self.known.get(&(*family, table.clone(), name.clone()))?;
        let anonymous = set.entries.as_deref();
        let (field, len) = self.field(load)?;
        if set.key != field.data_type() || len != set.key.len() {
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
