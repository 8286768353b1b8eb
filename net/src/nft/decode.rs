//! What the kernel lists, back as tables, chains, sets and rules.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::abi::*;
use super::follow::Decoder;
use super::rule::{Rule, Verdict, predecessor};
use super::set::{Map, MapType, MapValue, Set};
use super::table::{Base, Chain, ChainKind, Family, Hook, Policy, Priority, Ruleset, Table};
use super::tuple::{Tuple, TupleSet, padded, sort, types_of};
use super::value::{DataType, Value};
use crate::error::{Error, Result};
use crate::name::IfName;
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

pub(super) type Place = (Family, String);
/// The sets and maps that rules may refer to, by table and name.
pub(super) type Known = HashMap<(Family, String, String), KnownSet>;

/// What it is, and what is in anonymous ones.
pub(super) enum KnownSet {
    OfOne { key: DataType, entries: Option<Vec<Entry>> },
    OfTuples { types: Vec<DataType>, elements: Option<Vec<Tuple>> },
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
            table.chains.push(chain(family, &attrs)?);
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

fn chain(family: Family, attrs: &Attrs<'_>) -> Result<Chain> {
    let mut chain = Chain::new(attrs.text(CHAIN_NAME).unwrap_or_default());
    let hook = attrs.nested(CHAIN_HOOK)?;
    if let Some(number) = hook.be32(HOOK_HOOKNUM) {
        let kind = match attrs.text(CHAIN_TYPE).as_deref() {
            Some("nat") => ChainKind::Nat,
            Some("route") => ChainKind::Route,
            _ => ChainKind::Filter,
        };
        let of_several = hook.nested(HOOK_DEVS)?;
        let several = of_several.iter().filter(|(kind, _)| *kind == DEVICE_NAME).map(|(_, bytes)| bytes);
        chain.devices = match hook.text(HOOK_DEV) {
            Some(one) => vec![IfName::reported(one)],
            None => several.map(|bytes| IfName::reported(text(bytes))).collect(),
        };
        chain.base = Some(Base {
            kind,
            hook: Hook::from_number(number, family)
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

/// A string up to its NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
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
        let place = (family, table.clone(), name.clone());
        let answers = elements.get(&place).map_or(&[][..], Vec::as_slice);
        let ranges = flags & SET_F_INTERVAL != 0;
        let anonymous = flags & SET_F_ANONYMOUS != 0;
        let types = attrs.be32(SET_KEY_TYPE).and_then(types_of).filter(|_| flags & SET_F_MAP == 0);
        if let Some(types) = types {
            let elements = tuples(answers, &types, ranges)?;
            let kept = anonymous.then(|| elements.clone());
            known.insert(place, KnownSet::OfTuples { types: types.clone(), elements: kept });
            if let Some(table) = find(tables, &(family, table)).filter(|_| !anonymous) {
                table.tuple_sets.push(TupleSet { name, types, ranges, elements });
            }
            continue;
        }
        // Maps with concatenated keys and other people's types: the set stays out, and rules that use it are foreign.
        let (Some(ty), Some(map_type)) = (key_type, map_type) else { continue };
        let entries = set_elements(answers, ty, ranges, map_type)?;
        if anonymous {
            known.insert(place, KnownSet::OfOne { key: ty, entries: Some(entries) });
            continue;
        }
        known.insert(place, KnownSet::OfOne { key: ty, entries: None });
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

pub(super) type Entry = (Value, Option<MapValue>);

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

fn tuples(answers: &[&Answer], types: &[DataType], ranges: bool) -> Result<Vec<Tuple>> {
    let len: usize = types.iter().copied().map(padded).sum();
    let mut out = Vec::new();
    for answer in answers {
        let (_, attrs) = answer.parts(NFGEN)?;
        for (_, bytes) in attrs.nested(ELEM_LIST_ELEMENTS)?.iter() {
            let element = Attrs::parse(bytes)?;
            let (first, last) = (element.nested(ELEM_KEY)?, element.nested(ELEM_KEY_END)?);
            let Some(first) = first.get(DATA_VALUE) else { continue };
            let last = last.get(DATA_VALUE).unwrap_or(first);
            if first.len() != len || last.len() != len {
                return Err(Error::malformed("set element of several fields"));
            }
            let mut offset = 0;
            let values = types.iter().map(|ty| {
                let part = offset..offset + ty.len();
                offset += padded(*ty);
                Value::range(*ty, first[part.clone()].to_vec(), last[part].to_vec())
            });
            out.push(Tuple(values.collect()));
        }
    }
    sort(&mut out, ranges);
    Ok(out)
}

fn endpoint(bytes: Option<&[u8]>, width: usize) -> Option<SocketAddr> {
    let (addr, port) = bytes?.split_at_checked(width)?;
    let port = u16::from_be_bytes(port.get(..2)?.try_into().ok()?);
    Some(SocketAddr::new(ip(addr)?, port))
}

pub(super) fn verdict(data: &Attrs<'_>) -> Result<Option<Verdict>> {
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
        decoder.follow(name, &data)?;
    }
    let comment = attrs.get(RULE_USERDATA).and_then(comment);
    let statements = decoder.finish();
    Ok(Rule { statements, comment })
}

fn comment(mut udata: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = udata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == UDATA_RULE_COMMENT {
            return Some(text(value));
        }
        udata = rest.get(usize::from(*len)..)?;
    }
    None
}
