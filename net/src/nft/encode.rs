//! Rules as the expressions that the kernel runs, in the shape that `nft` gives them.

use std::net::{IpAddr, SocketAddr};

use super::abi::*;
use super::rule::{Field, Match, NatTo, Operand, Reject, Rule, Statement, Verdict, merge, successor};
use super::table::{Chain, Family, Map, MapType, MapValue, Set, Table, check_name};
use super::value::{DataType, Protocol, Value, as_prefix};
use crate::error::{Error, Result};
use crate::netlink::{Message, ip, ip_bytes};

/// How many elements go into one message: far below what a 16-bit attribute length allows.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// The messages of one transaction, each with the words for an error about it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    pub(super) labels: Vec<String>,
    next_set: u32,
}

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

fn message(kind: i32, family: Family, flags: i32) -> Message {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    Message::new(kind, flags).fixed(&[family.number(), 0, 0, 0])
}

impl Batch {
    fn push(&mut self, message: Message, label: String) {
        self.messages.push(message);
        self.labels.push(label);
    }

    pub(super) fn delete_table(&mut self, family: Family, name: &str) {
        let mut m = message(libc::NFT_MSG_DELTABLE, family, 0);
        m.str(TABLE_NAME, name);
        self.push(m, format!("deleting table {family} {name}"));
    }

    fn create_table(&mut self, table: &Table) {
        let mut m = message(libc::NFT_MSG_NEWTABLE, table.family, libc::NLM_F_CREATE);
        m.str(TABLE_NAME, &table.name);
        if table.owned {
            m.be32(TABLE_FLAGS, TABLE_F_OWNER);
        }
        self.push(m, format!("table {} {}", table.family, table.name));
    }

    /// The table as a whole instead of whatever has its name.
    pub(super) fn replace_table(&mut self, table: &Table) -> Result<()> {
        check_name("table", &table.name)?;
        // Made if absent, so that deleting it cannot fail.
        self.create_table(table);
        self.delete_table(table.family, &table.name);
        self.create_table(table);
        for chain in &table.chains {
            self.create_chain(table, chain)?;
        }
        for set in &table.sets {
            check_name("set", &set.name)?;
            let data = None;
            self.create_set(table, &set.name, None, set.ty, data, set.ranges);
            let elements: Vec<_> = set.elements.iter().map(|v| (v, None)).collect();
            self.add_elements(table.family, &table.name, &set.name, None, set.ty, set.ranges, &elements)?;
        }
        for map in &table.maps {
            check_name("map", &map.name)?;
            self.create_set(table, &map.name, None, map.key, Some(map.ty), map.ranges);
            let elements: Vec<_> = map.elements.iter().map(|(k, v)| (k, Some(v))).collect();
            check_map(map)?;
            self.add_elements(table.family, &table.name, &map.name, None, map.key, map.ranges, &elements)?;
        }
        for chain in &table.chains {
            for (index, rule) in chain.rules.iter().enumerate() {
                let label =
                    format!("table {} {} chain {} rule {}", table.family, table.name, chain.name, index + 1);
                self.add_rule(table, chain, rule, &label).map_err(|e| e.context(&label))?;
            }
        }
        Ok(())
    }

    fn create_chain(&mut self, table: &Table, chain: &Chain) -> Result<()> {
        check_name("chain", &chain.name)?;
        let mut m = message(libc::NFT_MSG_NEWCHAIN, table.family, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        m.str(CHAIN_TABLE, &table.name).str(CHAIN_NAME, &chain.name);
        if let Some(base) = &chain.base {
            m.nest(CHAIN_HOOK, |m| {
                m.be32(HOOK_HOOKNUM, base.hook.number());
                m.be32(HOOK_PRIORITY, base.priority.0 as u32);
            });
            let policy = match base.policy {
                super::table::Policy::Accept => NF_ACCEPT,
                super::table::Policy::Drop => NF_DROP,
            };
            m.be32(CHAIN_POLICY, policy as u32).str(CHAIN_TYPE, &base.kind.to_string());
        }
        self.push(m, format!("table {} {} chain {}", table.family, table.name, chain.name));
        Ok(())
    }

    fn create_set(
        &mut self,
        table: &Table,
        name: &str,
        anonymous: Option<u32>,
        key: DataType,
        data: Option<MapType>,
        ranges: bool,
    ) {
        let mut flags = 0;
        flags |= if anonymous.is_some() { SET_F_ANONYMOUS | SET_F_CONSTANT } else { 0 };
        flags |= if ranges { SET_F_INTERVAL } else { 0 };
        flags |= if data.is_some() { SET_F_MAP } else { 0 };
        let mut m = message(libc::NFT_MSG_NEWSET, table.family, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        m.str(SET_TABLE, &table.name).str(SET_NAME, name).be32(SET_FLAGS, flags);
        m.be32(SET_KEY_TYPE, key.id()).be32(SET_KEY_LEN, key.len() as u32);
        if let Some(data) = data {
            let (id, len) = match data {
                MapType::Verdict => (DATA_TYPE_VERDICT, 0),
                MapType::Ipv4 => (DataType::Ipv4.id(), 4),
                MapType::Ipv6 => (DataType::Ipv6.id(), 16),
                MapType::Ipv4Endpoint => (DataType::Ipv4.id() << 6 | DataType::Port.id(), 8),
                MapType::Ipv6Endpoint => (DataType::Ipv6.id() << 6 | DataType::Port.id(), 20),
            };
            m.be32(SET_DATA_TYPE, id);
            if len > 0 {
                m.be32(SET_DATA_LEN, len);
            }
        }
        let id = anonymous.unwrap_or_else(|| self.new_set_id());
        m.be32(SET_ID, id);
        // What nft stores for itself: the byte order of keys and of data (1 host, 2 network).
        let mut udata = vec![0, 4];
        udata.extend((if key.host_order() { 1u32 } else { 2 }).to_ne_bytes());
        if data.is_some_and(|d| d != MapType::Verdict) {
            udata.extend([1, 4]);
            udata.extend(2u32.to_ne_bytes());
        }
        m.attr(SET_USERDATA, &udata);
        self.push(m, format!("table {} {} set {name}", table.family, table.name));
    }

    fn new_set_id(&mut self) -> u32 {
        self.next_set += 1;
        self.next_set
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one message; named sets and anonymous ones share it"
    )]
    pub(super) fn add_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        id: Option<u32>,
        ty: DataType,
        ranges: bool,
        elements: &[(&Value, Option<&MapValue>)],
    ) -> Result<()> {
        self.change_elements(libc::NFT_MSG_NEWSETELEM, family, table, set, id, ty, ranges, elements)
    }

    #[expect(clippy::too_many_arguments, reason = "as above")]
    pub(super) fn change_elements(
        &mut self,
        kind: i32,
        family: Family,
        table: &str,
        set: &str,
        id: Option<u32>,
        ty: DataType,
        ranges: bool,
        elements: &[(&Value, Option<&MapValue>)],
    ) -> Result<()> {
        for (value, _) in elements {
            check_value(ty, value, ranges)?;
        }
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut m = message(kind, family, libc::NLM_F_CREATE);
            m.str(ELEM_LIST_TABLE, table).str(ELEM_LIST_SET, set);
            if let Some(id) = id {
                m.be32(ELEM_LIST_SET_ID, id);
            }
            m.nest(ELEM_LIST_ELEMENTS, |m| {
                for (value, data) in chunk {
                    m.nest(LIST_ELEM, |m| {
                        m.nest(ELEM_KEY, |m| {
                            m.attr(DATA_VALUE, &padded(&value.low, ty));
                        });
                        if let Some(data) = data {
                            m.nest(ELEM_DATA, |m| map_value(m, data));
                        }
                    });
                    // A range is its first element and, marked as an end, the one after its last.
                    if let (true, Some(end)) = (ranges, successor(&value.high)) {
                        m.nest(LIST_ELEM, |m| {
                            m.nest(ELEM_KEY, |m| {
                                m.attr(DATA_VALUE, &end);
                            });
                            m.be32(ELEM_FLAGS, ELEM_F_INTERVAL_END);
                        });
                    }
                }
            });
            self.push(m, format!("table {family} {table} set {set}: elements"));
        }
        Ok(())
    }

    fn add_rule(&mut self, table: &Table, chain: &Chain, rule: &Rule, label: &str) -> Result<()> {
        // A condition that nothing fulfils: the rule does nothing.
        let never = |s: &Statement| matches!(s, Statement::Match(condition) if condition.is_never());
        if rule.statements.iter().any(never) {
            return Ok(());
        }
        let mut encoder = Encoder {
            batch: self,
            table,
            expressions: Vec::new(),
            ip: None,
            protocol: None,
            arp: false,
            ether: false,
        };
        encoder.ip = match table.family {
            Family::Ip => Some(true),
            Family::Ip6 => Some(false),
            _ => None,
        };
        for statement in &rule.statements {
            encoder.statement(statement)?;
        }
        let expressions = encoder.expressions;
        let mut m = message(libc::NFT_MSG_NEWRULE, table.family, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
        m.str(RULE_TABLE, &table.name).str(RULE_CHAIN, &chain.name);
        m.nest(RULE_EXPRESSIONS, |m| {
            for expression in &expressions {
                m.nest(LIST_ELEM, |m| expression.write(m));
            }
        });
        if let Some(comment) = &rule.comment {
            if comment.len() > 127 || comment.contains(['"', '\0', '\n']) {
                return Err(Error::invalid(
                    format_args!("comment {comment:?}"),
                    "at most 127 bytes without \" or line end",
                ));
            }
            let mut udata = vec![UDATA_RULE_COMMENT, comment.len() as u8 + 1];
            udata.extend(comment.as_bytes());
            udata.push(0);
            m.attr(RULE_USERDATA, &udata);
        }
        self.push(m, label.to_owned());
        Ok(())
    }
}

fn padded(bytes: &[u8], ty: DataType) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(ty.len(), 0);
    out
}

fn check_map(map: &Map) -> Result<()> {
    for (key, value) in &map.elements {
        let fits = matches!(
            (map.ty, value),
            (MapType::Verdict, MapValue::Verdict(_))
                | (MapType::Ipv4, MapValue::Address(IpAddr::V4(_)))
                | (MapType::Ipv6, MapValue::Address(IpAddr::V6(_)))
                | (MapType::Ipv4Endpoint, MapValue::Endpoint(SocketAddr::V4(_)))
                | (MapType::Ipv6Endpoint, MapValue::Endpoint(SocketAddr::V6(_)))
        );
        if !fits {
            return Err(Error::invalid(
                format_args!("map {}: value of {key}", map.name),
                format_args!("of type {}", map.ty),
            ));
        }
    }
    Ok(())
}

fn check_value(ty: DataType, value: &Value, ranges: bool) -> Result<()> {
    let wildcard = ty == DataType::Interface && value.low.len() < 16;
    if value.ty != ty || value.high.len() != value.low.len() || value.low > value.high {
        return Err(Error::invalid(
            format_args!("value {value} of type {}", value.ty),
            format_args!("one of type {ty}, not an empty range"),
        ));
    }
    if !ranges && (!value.is_single() || wildcard) {
        return Err(Error::invalid(
            format_args!("value {value} of a set"),
            "a single value, or with_ranges() on the set",
        ));
    }
    if ranges && !ty.ordered() {
        return Err(Error::invalid(format_args!("ranges of {ty}"), "only addresses and ports have ranges"));
    }
    Ok(())
}

fn map_value(m: &mut Message, value: &MapValue) {
    match value {
        MapValue::Verdict(verdict) => write_verdict(m, verdict),
        MapValue::Address(addr) => {
            m.attr(DATA_VALUE, &ip_bytes(*addr));
        }
        MapValue::Endpoint(addr) => {
            let mut bytes = ip_bytes(addr.ip());
            bytes.extend(addr.port().to_be_bytes());
            bytes.extend([0, 0]);
            m.attr(DATA_VALUE, &bytes);
        }
    }
}

fn write_verdict(m: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Continue => (NFT_CONTINUE, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
    };
    m.nest(DATA_VERDICT, |m| {
        m.be32(VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            m.str(VERDICT_CHAIN, chain);
        }
    });
}

/// One expression: its name, and its attributes.
#[derive(Debug)]
struct Expression {
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
    fn write(&self, m: &mut Message) {
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
        self.push("meta", vec![Attr::Number(META_KEY, key), Attr::Number(META_DREG, REG_1)]);
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
        let (load, needs) = load_of(field);
        match needs {
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
        match load {
            Load::Meta(key) => self.load_meta(key),
            Load::Ct(key) => self.push("ct", vec![Attr::Number(CT_KEY, key), Attr::Number(CT_DREG, REG_1)]),
            Load::Fib(flags) => self.push(
                "fib",
                vec![
                    Attr::Number(FIB_DREG, REG_1),
                    Attr::Number(FIB_RESULT, FIB_RESULT_ADDRTYPE),
                    Attr::Number(FIB_FLAGS, flags),
                ],
            ),
            Load::Payload { base, offset, len } => self.push(
                "payload",
                vec![
                    Attr::Number(PAYLOAD_DREG, REG_1),
                    Attr::Number(PAYLOAD_BASE, base),
                    Attr::Number(PAYLOAD_OFFSET, offset),
                    Attr::Number(PAYLOAD_LEN, len),
                ],
            ),
        }
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
                let id = self.batch.new_set_id();
                self.batch.create_set(self.table, "__set%d", Some(id), ty, None, ranges);
                let elements: Vec<_> = values.iter().map(|v| (v, None)).collect();
                self.batch.add_elements(
                    self.table.family,
                    &self.table.name,
                    "__set%d",
                    Some(id),
                    ty,
                    ranges,
                    &elements,
                )?;
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
                let seconds =
                    super::rule::RateUnit::ALL.iter().find(|(u, ..)| u == unit).map_or(1, |(_, s, _)| *s);
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
                let id = self.batch.new_set_id();
                self.batch.create_set(self.table, "__map%d", Some(id), ty, Some(MapType::Verdict), ranges);
                let values: Vec<MapValue> =
                    verdicts.iter().map(|(_, v)| MapValue::Verdict(v.clone())).collect();
                let elements: Vec<_> = verdicts.iter().zip(&values).map(|((k, _), v)| (k, Some(v))).collect();
                self.batch.add_elements(
                    self.table.family,
                    &self.table.name,
                    "__map%d",
                    Some(id),
                    ty,
                    ranges,
                    &elements,
                )?;
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

/// The elements of a set, for one that exists.
pub(super) fn set_elements(set: &Set) -> Vec<(&Value, Option<&MapValue>)> {
    set.elements.iter().map(|v| (v, None)).collect()
}
