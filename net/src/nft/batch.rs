//! Tables, chains, sets and rules as the messages of one transaction.

use std::net::{IpAddr, SocketAddr};

use super::abi::*;
use super::encode::encode;
use super::rule::{Rule, Statement, Verdict, successor};
use super::set::{Map, MapType, MapValue, Set};
use super::table::{Chain, Family, Table, check_name};
use super::tuple::{Tuple, TupleSet, check_types, padded as padded_len, type_id};
use super::value::{DataType, Value};
use crate::error::{Error, Result};
use crate::netlink::{Message, ip_bytes};

/// How many elements go into one message: far below what a 16-bit attribute length allows.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// The messages of one transaction, each with the words for an error about it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    pub(super) labels: Vec<String>,
    next_set: u32,
}

/// An element, and in a map what it leads to.
pub(super) type Element<'a> = (&'a Value, Option<&'a MapValue>);

/// Which set, and what its elements are.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetRef<'a> {
    pub(super) family: Family,
    pub(super) table: &'a str,
    pub(super) name: &'a str,
    /// The number of an anonymous one in its transaction.
    pub(super) id: Option<u32>,
    pub(super) ty: DataType,
    pub(super) ranges: bool,
}

impl<'a> SetRef<'a> {
    pub(super) fn of_set(family: Family, table: &'a str, set: &'a Set) -> Self {
        Self { family, table, name: &set.name, id: None, ty: set.ty, ranges: set.ranges }
    }

    pub(super) fn of_map(family: Family, table: &'a str, map: &'a Map) -> Self {
        Self { family, table, name: &map.name, id: None, ty: map.key, ranges: map.ranges }
    }
}

pub(super) fn set_elements(set: &Set) -> Vec<Element<'_>> {
    set.elements.iter().map(|v| (v, None)).collect()
}

pub(super) fn message(kind: i32, family: Family, flags: i32) -> Message {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    Message::new(kind, flags).fixed(&[family.number(), 0, 0, 0])
}

impl Batch {
    pub(super) fn push(&mut self, message: Message, label: String) {
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
            self.create_set(SetRef::of_set(table.family, &table.name, set), None, &set_elements(set))?;
        }
        for set in &table.tuple_sets {
            check_name("set", &set.name)?;
            self.create_tuple_set(table.family, &table.name, set, None)?;
        }
        for map in &table.maps {
            check_name("map", &map.name)?;
            self.create_set(
                SetRef::of_map(table.family, &table.name, map),
                Some(map.ty),
                &map_elements(map)?,
            )?;
        }
        self.add_rules(table)
    }

    /// The chains of a table that exists already.
    pub(super) fn add_chains(&mut self, table: &Table) -> Result<()> {
        for chain in &table.chains {
            self.create_chain(table, chain)?;
        }
        self.add_rules(table)
    }

    fn add_rules(&mut self, table: &Table) -> Result<()> {
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
        let of_devices = chain.base.as_ref().is_some_and(|base| base.hook.of_devices());
        if of_devices == chain.devices.is_empty() {
            return Err(Error::invalid(
                format_args!("chain {} with {} devices", chain.name, chain.devices.len()),
                "a hook of devices (ingress, egress) and at least one device, or another hook and none",
            ));
        }
        let mut m = message(libc::NFT_MSG_NEWCHAIN, table.family, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        m.str(CHAIN_TABLE, &table.name).str(CHAIN_NAME, &chain.name);
        if let Some(base) = &chain.base {
            let number = base.hook.number(table.family).ok_or_else(|| {
                let what = format!("chain {}: hook {}", chain.name, base.hook);
                Error::invalid(what, format_args!("a hook that family {} has", table.family))
            })?;
            m.nest(CHAIN_HOOK, |m| {
                m.be32(HOOK_HOOKNUM, number);
                m.be32(HOOK_PRIORITY, base.priority.0 as u32);
                match chain.devices.as_slice() {
                    [] => {}
                    [one] => {
                        m.str(HOOK_DEV, one.as_str());
                    }
                    several => {
                        m.nest(HOOK_DEVS, |m| {
                            for device in several {
                                m.str(DEVICE_NAME, device.as_str());
                            }
                        });
                    }
                }
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

    pub(super) fn create_set(
        &mut self,
        set: SetRef<'_>,
        data: Option<MapType>,
        elements: &[Element<'_>],
    ) -> Result<()> {
        let SetRef { family, table, name, id: anonymous, ty: key, ranges } = set;
        let mut flags = 0;
        flags |= if anonymous.is_some() { SET_F_ANONYMOUS | SET_F_CONSTANT } else { 0 };
        flags |= if ranges { SET_F_INTERVAL } else { 0 };
        flags |= if data.is_some() { SET_F_MAP } else { 0 };
        let mut m = message(libc::NFT_MSG_NEWSET, family, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        m.str(SET_TABLE, table).str(SET_NAME, name).be32(SET_FLAGS, flags);
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
        self.push(m, format!("table {family} {table} set {name}"));
        self.change_elements(libc::NFT_MSG_NEWSETELEM, set, elements)
    }

    /// `anonymous`: its number in the transaction, of a set that one rule has.
    pub(super) fn create_tuple_set(
        &mut self,
        family: Family,
        table: &str,
        set: &TupleSet,
        anonymous: Option<u32>,
    ) -> Result<()> {
        let TupleSet { name, types, ranges, .. } = set;
        check_types(types, *ranges)?;
        let mut flags = if anonymous.is_some() { SET_F_ANONYMOUS | SET_F_CONSTANT } else { 0 };
        flags |= if *ranges { SET_F_INTERVAL | SET_F_CONCAT } else { 0 };
        let mut m = message(libc::NFT_MSG_NEWSET, family, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        m.str(SET_TABLE, table).str(SET_NAME, name).be32(SET_FLAGS, flags);
        let len: usize = types.iter().copied().map(padded_len).sum();
        m.be32(SET_KEY_TYPE, type_id(types)).be32(SET_KEY_LEN, len as u32);
        m.be32(SET_ID, anonymous.unwrap_or_else(|| self.new_set_id()));
        if *ranges {
            m.nest(SET_DESC, |m| {
                m.nest(SET_DESC_CONCAT, |m| {
                    for ty in types {
                        m.nest(LIST_ELEM, |m| {
                            m.be32(SET_FIELD_LEN, ty.len() as u32);
                        });
                    }
                });
            });
        }
        self.push(m, format!("table {family} {table} set {name}"));
        self.change_tuples(libc::NFT_MSG_NEWSETELEM, family, table, set, anonymous)
    }

    /// Adds or deletes elements (`NFT_MSG_NEWSETELEM`, `NFT_MSG_DELSETELEM`) of tuples.
    pub(super) fn change_tuples(
        &mut self,
        kind: i32,
        family: Family,
        table: &str,
        set: &TupleSet,
        id: Option<u32>,
    ) -> Result<()> {
        for Tuple(values) in &set.elements {
            if values.len() != set.types.len() {
                return Err(Error::invalid(
                    format_args!("{} of set {}", Tuple(values.clone()), set.name),
                    format_args!("{} values", set.types.len()),
                ));
            }
            for (ty, value) in set.types.iter().zip(values) {
                check_value(*ty, value, set.ranges && ty.ordered())?;
            }
        }
        for chunk in set.elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut m = message(kind, family, libc::NLM_F_CREATE);
            m.str(ELEM_LIST_TABLE, table).str(ELEM_LIST_SET, &set.name);
            if let Some(id) = id {
                m.be32(ELEM_LIST_SET_ID, id);
            }
            m.nest(ELEM_LIST_ELEMENTS, |m| {
                for tuple in chunk {
                    m.nest(LIST_ELEM, |m| {
                        for (kind, last) in [(ELEM_KEY, false), (ELEM_KEY_END, true)] {
                            if !last || set.ranges {
                                m.nest(kind, |m| {
                                    m.attr(DATA_VALUE, &tuple.key(last));
                                });
                            }
                        }
                    });
                }
            });
            self.push(m, format!("table {family} {table} set {}: elements", set.name));
        }
        Ok(())
    }

    pub(super) fn new_set_id(&mut self) -> u32 {
        self.next_set += 1;
        self.next_set
    }

    /// Adds or deletes elements (`NFT_MSG_NEWSETELEM`, `NFT_MSG_DELSETELEM`).
    pub(super) fn change_elements(
        &mut self,
        kind: i32,
        set: SetRef<'_>,
        elements: &[Element<'_>],
    ) -> Result<()> {
        let SetRef { family, table, name, id, ty, ranges } = set;
        for (value, _) in elements {
            check_value(ty, value, ranges)?;
        }
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut m = message(kind, family, libc::NLM_F_CREATE);
            m.str(ELEM_LIST_TABLE, table).str(ELEM_LIST_SET, name);
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
            self.push(m, format!("table {family} {table} set {name}: elements"));
        }
        Ok(())
    }

    fn add_rule(&mut self, table: &Table, chain: &Chain, rule: &Rule, label: &str) -> Result<()> {
        // A condition that nothing fulfils: the rule does nothing.
        let never = |s: &Statement| match s {
            Statement::Match(condition) => condition.is_never(),
            Statement::MatchTuple(condition) => condition.is_never(),
            _ => false,
        };
        if rule.statements.iter().any(never) {
            return Ok(());
        }
        let expressions = encode(self, table, &rule.statements)?;
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

pub(super) fn map_elements(map: &Map) -> Result<Vec<Element<'_>>> {
    let element = |(key, value): &'_ (Value, MapValue)| {
        let fits = matches!(
            (map.ty, value),
            (MapType::Verdict, MapValue::Verdict(_))
                | (MapType::Ipv4, MapValue::Address(IpAddr::V4(_)))
                | (MapType::Ipv6, MapValue::Address(IpAddr::V6(_)))
                | (MapType::Ipv4Endpoint, MapValue::Endpoint(SocketAddr::V4(_)))
                | (MapType::Ipv6Endpoint, MapValue::Endpoint(SocketAddr::V6(_)))
        );
        if fits {
            return Ok(());
        }
        Err(Error::invalid(
            format_args!("map {}: value of {key}", map.name),
            format_args!("of type {}", map.ty),
        ))
    };
    map.elements.iter().try_for_each(element)?;
    Ok(map.elements.iter().map(|(key, value)| (key, Some(value))).collect())
}

pub(super) fn check_value(ty: DataType, value: &Value, ranges: bool) -> Result<()> {
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

pub(super) fn write_verdict(m: &mut Message, verdict: &Verdict) {
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
