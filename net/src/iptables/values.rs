//! What stands after the options of a command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::error::{Error, Result};
use crate::nft::{NatTo, Protocol, Reject, Value};
use crate::prefix::{IpPrefix, width};

pub(super) fn check_chain(name: &str) -> Result<()> {
    let fine = (1..=28).contains(&name.len())
        && !name.starts_with(['-', '!'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !name.starts_with("__");
    if fine {
        Ok(())
    } else {
        Err(Error::invalid(
            format_args!("chain {name:?}"),
            "1 to 28 letters, digits, '_', '-' or '.', beginning with a letter",
        ))
    }
}

pub(super) fn number(text: &str, option: &str) -> Result<usize> {
    text.parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Error::invalid(format_args!("{text:?} after {option}"), "a rule number from 1"))
}

pub(super) fn port(text: &str) -> Result<u16> {
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| fine)
        .ok_or_else(|| Error::invalid(format_args!("port {text:?}"), "a number 0 to 65535"))
}

pub(super) fn ports(text: &str) -> Result<Value> {
    let Some((low, high)) = text.split_once(':') else { return port(text).map(Value::from) };
    let low = if low.is_empty() { 0 } else { port(low)? };
    let high = if high.is_empty() { u16::MAX } else { port(high)? };
    if low > high {
        return Err(Error::invalid(format_args!("ports {text:?}"), "the lower port first"));
    }
    Ok(Value::from(low..=high))
}

pub(super) fn block(text: &str, v4: bool) -> Result<IpPrefix> {
    let wrong = || {
        Error::invalid(format_args!("address {text:?}"), if v4 { "like 10.0.0.0/8" } else { "like fd00::/8" })
    };
    let (addr, len) = match text.split_once('/') {
        None => (text, None),
        Some((addr, len)) => (addr, Some(len)),
    };
    let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
    if addr.is_ipv4() != v4 {
        return Err(wrong());
    }
    let len = match len {
        None => width(addr),
        Some(len) if len.contains('.') && v4 => {
            // A mask in dotted form must be ones followed by zeros.
            let mask = len.parse::<Ipv4Addr>().map_err(|_| wrong())?.to_bits();
            if mask.leading_ones() + mask.trailing_zeros() < 32 {
                return Err(wrong());
            }
            mask.leading_ones() as u8
        }
        Some(len) if !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit()) => {
            len.parse().map_err(|_| wrong())?
        }
        Some(_) => return Err(wrong()),
    };
    IpPrefix::containing(addr, len)
}

pub(super) fn mark(text: &str) -> Result<(u32, Option<u32>)> {
    let read = |text: &str| match text.strip_prefix("0x") {
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        _ => text.parse().ok(),
    };
    let (value, mask) = text.split_once('/').map_or((text, None), |(v, m)| (v, Some(m)));
    let wrong = || Error::invalid(format_args!("mark {text:?}"), "VALUE or VALUE/MASK, decimal or 0x…");
    let mask = mask.map(|m| read(m).ok_or_else(wrong)).transpose()?;
    Ok((read(value).ok_or_else(wrong)?, mask))
}

pub(super) fn tcp_flags(text: &str) -> Result<u8> {
    let mut out = 0;
    for name in text.split(',') {
        out |= match name {
            "FIN" => 1,
            "SYN" => 2,
            "RST" => 4,
            "PSH" => 8,
            "ACK" => 16,
            "URG" => 32,
            "ALL" => 63,
            "NONE" => 0,
            _ => {
                return Err(Error::invalid(
                    format_args!("TCP flag {name:?}"),
                    "FIN, SYN, RST, PSH, ACK, URG, ALL or NONE",
                ));
            }
        };
    }
    Ok(out)
}

pub(super) fn reject(with: Option<&str>, v4: bool, protocol: Option<Protocol>) -> Result<Reject> {
    let Some(with) = with else { return Ok(Reject::PortUnreachable) };
    Ok(match (with, v4) {
        ("tcp-reset", _) if protocol == Some(Protocol::TCP) => Reject::TcpReset,
        ("tcp-reset", _) => return Err(Error::invalid("--reject-with tcp-reset", "it needs -p tcp")),
        ("icmp-port-unreachable", true) | ("icmp6-port-unreachable", false) => Reject::PortUnreachable,
        ("icmp-host-unreachable", true) | ("icmp6-addr-unreachable", false) => Reject::HostUnreachable,
        ("icmp-admin-prohibited", true) | ("icmp6-adm-prohibited", false) => Reject::AdminProhibited,
        ("icmp-net-unreachable", true) | ("icmp6-no-route", false) => Reject::NoRoute,
        _ => {
            return Err(Error::invalid(
                format_args!("--reject-with {with:?}"),
                "icmp-port-unreachable, icmp-admin-prohibited, tcp-reset …",
            ));
        }
    })
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `ADDRESS-ADDRESS`.
pub(super) fn nat_target(text: Option<&str>, v4: bool, has_ports: bool, target: &str) -> Result<NatTo> {
    let text =
        text.ok_or_else(|| Error::invalid(target, "an address after --to-destination or --to-source"))?;
    let wrong = || {
        Error::invalid(
            format_args!("{target} to {text:?}"),
            "ADDRESS, ADDRESS:PORT or ADDRESS-ADDRESS of the family",
        )
    };
    let addr = |s: &str| s.parse::<IpAddr>().ok().filter(|a| a.is_ipv4() == v4);
    if let Some(addr) = addr(text) {
        return Ok(NatTo::Address(addr));
    }
    if let Ok(endpoint) = text.parse::<SocketAddr>() {
        if endpoint.is_ipv4() != v4 {
            return Err(wrong());
        }
        if !has_ports {
            return Err(Error::invalid(
                format_args!("{target} to a port"),
                "it needs -p tcp, -p udp or -p sctp",
            ));
        }
        return Ok(NatTo::Endpoint(endpoint));
    }
    let (low, high) = text.split_once('-').ok_or_else(wrong)?;
    match (addr(low), addr(high)) {
        (Some(low), Some(high)) if low <= high => Ok(NatTo::Addresses(low, high)),
        _ => Err(wrong()),
    }
}
