//! Rulesets as `nft list ruleset` prints them (nftables 1.0.6).

use std::fmt::{self, Display, Formatter};

use super::rule::{Field, Match, NatTo, Operand, RateUnit, Reject, Rule, Statement, Verdict};
use super::set::{Map, MapValue, Set};
use super::table::{Chain, Family, Ruleset, Table};
use super::tuple::{TupleSet, join as join_tuple};
use super::value::{CT_STATUS, CtState, DataType, TCP_FLAGS, Value, bits};

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| table.fmt(f))
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", self.family, self.name)?;
        let mut blank = false;
        let mut gap =
            |f: &mut Formatter<'_>| if std::mem::replace(&mut blank, true) { writeln!(f) } else { Ok(()) };
        if self.owned {
            gap(f)?;
            writeln!(f, "\tflags owner")?;
        }
        // nft lists sets and maps together, in the order of their making; ours are made sets first.
        for set in &self.sets {
            gap(f)?;
            print_set(f, set)?;
        }
        for set in &self.tuple_sets {
            gap(f)?;
            print_tuple_set(f, set)?;
        }
        for map in &self.maps {
            gap(f)?;
            print_map(f, map)?;
        }
        for chain in &self.chains {
            gap(f)?;
            print_chain(f, self.family, chain)?;
        }
        writeln!(f, "}}")
    }
}

/// How many elements nft puts on a line.
fn per_line(ty: DataType) -> usize {
    match ty {
        DataType::Ipv4 => 2,
        DataType::Port | DataType::Protocol | DataType::Mark | DataType::IpFamily => 5,
        _ => 1,
    }
}

fn elements(f: &mut Formatter<'_>, ty: DataType, all: impl Iterator<Item = String>) -> fmt::Result {
    for (index, element) in all.enumerate() {
        match index {
            0 => f.write_str("\t\telements = { ")?,
            n if n % per_line(ty) == 0 => f.write_str(",\n\t\t\t     ")?,
            _ => f.write_str(", ")?,
        }
        f.write_str(&element)?;
    }
    Ok(())
}

fn print_set(f: &mut Formatter<'_>, set: &Set) -> fmt::Result {
    writeln!(f, "\tset {} {{\n\t\ttype {}", set.name, set.ty)?;
    if set.ranges {
        writeln!(f, "\t\tflags interval")?;
    }
    if !set.elements.is_empty() {
        elements(f, set.ty, set.elements.iter().map(ToString::to_string))?;
        writeln!(f, " }}")?;
    }
    writeln!(f, "\t}}")
}

fn print_tuple_set(f: &mut Formatter<'_>, set: &TupleSet) -> fmt::Result {
    write!(f, "\tset {} {{\n\t\ttype ", set.name)?;
    join_tuple(f, &set.types)?;
    writeln!(f)?;
    if set.ranges {
        writeln!(f, "\t\tflags interval")?;
    }
    if !set.elements.is_empty() {
        let all: Vec<String> = set.elements.iter().map(ToString::to_string).collect();
        writeln!(f, "\t\telements = {{ {} }}", all.join(",\n\t\t\t     "))?;
    }
    writeln!(f, "\t}}")
}

fn print_map(f: &mut Formatter<'_>, map: &Map) -> fmt::Result {
    writeln!(f, "\tmap {} {{\n\t\ttype {} : {}", map.name, map.key, map.ty)?;
    if map.ranges {
        writeln!(f, "\t\tflags interval")?;
    }
    if !map.elements.is_empty() {
        elements(f, map.key, map.elements.iter().map(|(key, value)| format!("{key} : {value}")))?;
        writeln!(f, " }}")?;
    }
    writeln!(f, "\t}}")
}

impl Display for MapValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Address(addr) => addr.fmt(f),
            Self::Endpoint(addr) => write!(f, "{} . {}", addr.ip(), addr.port()),
        }
    }
}

fn print_chain(f: &mut Formatter<'_>, family: Family, chain: &Chain) -> fmt::Result {
    writeln!(f, "\tchain {} {{", chain.name)?;
    if let Some(base) = &chain.base {
        let priority = base.priority.show(family, base.hook);
        let devices = match chain.devices.as_slice() {
            [] => String::new(),
            [one] => format!(" device \"{one}\""),
            several => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                format!(" devices = {{ {} }}", names.join(", "))
            }
        };
        writeln!(
            f,
            "\t\ttype {} hook {}{devices} priority {priority}; policy {};",
            base.kind, base.hook, base.policy
        )?;
    }
    for rule in &chain.rules {
        writeln!(f, "\t\t{}", rule.display(family))?;
    }
    writeln!(f, "\t}}")
}

impl Rule {
    /// The rule as nft prints it in a table of `family`.
    #[must_use]
    pub fn display(&self, family: Family) -> impl Display + '_ {
        RuleDisplay { rule: self, family }
    }
}

struct RuleDisplay<'a> {
    rule: &'a Rule,
    family: Family,
}

impl Display for RuleDisplay<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // An empty condition prints nothing.
        let parts = self.rule.statements.iter().map(|s| statement(s, self.family));
        let parts: Vec<String> = parts.filter(|p| !p.is_empty()).collect();
        f.write_str(&parts.join(" "))?;
        match &self.rule.comment {
            Some(comment) => write!(f, "{}comment \"{comment}\"", if parts.is_empty() { "" } else { " " }),
            None => Ok(()),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let protocol =
            |p: &Option<super::value::Protocol>| p.map_or_else(|| "th".to_owned(), |p| p.to_string());
        match self {
            Self::SourcePort(p) => write!(f, "{} sport", protocol(p)),
            Self::DestinationPort(p) => write!(f, "{} dport", protocol(p)),
            _ => f.write_str(match self {
                Self::InputInterface => "iifname",
                Self::OutputInterface => "oifname",
                Self::IpFamily => "meta nfproto",
                Self::Protocol => "meta l4proto",
                Self::EtherType => "meta protocol",
                Self::Mark => "meta mark",
                Self::Ipv4Source => "ip saddr",
                Self::Ipv4Destination => "ip daddr",
                Self::Ipv6Source => "ip6 saddr",
                Self::Ipv6Destination => "ip6 daddr",
                Self::IcmpType => "icmp type",
                Self::Icmpv6Type => "icmpv6 type",
                Self::TcpFlags => "tcp flags",
                Self::CtState => "ct state",
                Self::CtStatus => "ct status",
                Self::SourceAddressType => "fib saddr type",
                Self::DestinationAddressType => "fib daddr type",
                Self::EtherSource => "ether saddr",
                Self::EtherDestination => "ether daddr",
                Self::ArpSource => "arp saddr ip",
                Self::SourcePort(_) | Self::DestinationPort(_) => "",
            }),
        }
    }
}

fn bit_names(ty: DataType, value: u32) -> String {
    match ty {
        DataType::CtState => bits(&CtState::NAMES, value),
        DataType::CtStatus => bits(&CT_STATUS, value),
        DataType::TcpFlags => bits(&TCP_FLAGS, value),
        _ => format!("0x{value:08x}"),
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let field = self.field;
        let ty = field.data_type();
        let not = if self.negated { "!= " } else { "" };
        match &self.operand {
            Operand::One(value) => write!(f, "{field} {not}{value}"),
            Operand::AnyOf(values) if values.is_empty() => Ok(()),
            Operand::AnyOf(values) => write!(f, "{field} {not}{{ {} }}", join(values)),
            Operand::Set(name) => write!(f, "{field} {not}@{name}"),
            Operand::AnyBit(value) => {
                write!(f, "{field} {}{}", if self.negated { "! " } else { "" }, bit_names(ty, *value))
            }
            // All of them looked at: nft sees a plain comparison, and a number where no single name fits.
            Operand::Masked { mask: 0xff, value } if ty == DataType::TcpFlags => {
                let op = if self.negated { "!=" } else { "==" };
                if value.is_power_of_two() {
                    write!(f, "{field} {op} {}", bit_names(ty, *value))
                } else {
                    write!(f, "{field} {op} {value:#x}")
                }
            }
            // nft compares with none of the flags as it compares with sets of bits.
            Operand::Masked { mask, value: 0 } if ty == DataType::TcpFlags => {
                write!(f, "{field} {}{}", if self.negated { "" } else { "! " }, bit_names(ty, *mask))
            }
            Operand::Masked { mask, value } if ty == DataType::TcpFlags && !mask.is_power_of_two() => {
                write!(f, "{field} {not}{} / {}", bit_names(ty, *value), bit_names(ty, *mask))
            }
            Operand::Masked { mask, value } => {
                let op = if self.negated { "!=" } else { "==" };
                write!(f, "{field} & {} {op} {}", bit_names(ty, *mask), bit_names(ty, *value))
            }
        }
    }
}

fn join(values: &[Value]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

fn statement(statement: &Statement, family: Family) -> String {
    match statement {
        Statement::Match(condition) => condition.to_string(),
        Statement::MatchTuple(condition) => condition.to_string(),
        Statement::Counter { packets, bytes } => format!("counter packets {packets} bytes {bytes}"),
        Statement::Log { prefix, level, group } => {
            let mut out = "log".to_owned();
            if let Some(prefix) = prefix {
                out += &format!(" prefix \"{prefix}\"");
            }
            if let Some(name) = level.filter(|l| *l != 4).and_then(|l| LEVELS.get(usize::from(l))) {
                out += &format!(" level {name}");
            }
            if let Some(group) = group {
                out += &format!(" group {group}");
            }
            out
        }
        Statement::Limit { rate, unit, burst, over } => {
            let unit = RateUnit::ALL.iter().find(|(u, ..)| u == unit).map_or("", |(.., name)| name);
            let over = if *over { "over " } else { "" };
            let burst = if *burst == 5 { String::new() } else { format!(" burst {burst} packets") };
            format!("limit rate {over}{rate}/{unit}{burst}")
        }
        Statement::Verdict(verdict) => verdict.to_string(),
        Statement::VerdictMap { key, map } => format!("{key} vmap @{map}"),
        Statement::VerdictList { key, verdicts } => {
            let all: Vec<String> =
                verdicts.iter().map(|(value, verdict)| format!("{value} : {verdict}")).collect();
            format!("{key} vmap {{ {} }}", all.join(", "))
        }
        Statement::Reject(reject) => print_reject(*reject, family),
        Statement::Masquerade => "masquerade".into(),
        Statement::Snat(to) => format!("snat {}", nat(to, family)),
        Statement::Dnat(to) => format!("dnat {}", nat(to, family)),
        Statement::Redirect(None) => "redirect".into(),
        Statement::Redirect(Some(port)) => format!("redirect to :{port}"),
        Statement::SetMark(mark) => format!("meta mark set 0x{mark:08x}"),
        Statement::NoTrack => "notrack".into(),
        Statement::Foreign(name) => format!("# {name}"),
    }
}

fn print_reject(reject: Reject, family: Family) -> String {
    let (icmp, names) = match family {
        Family::Ip => ("icmp", ["host-unreachable", "admin-prohibited", "net-unreachable"]),
        Family::Ip6 => ("icmpv6", ["addr-unreachable", "admin-prohibited", "no-route"]),
        _ => ("icmpx", ["host-unreachable", "admin-prohibited", "no-route"]),
    };
    match reject {
        Reject::PortUnreachable => "reject".into(),
        Reject::TcpReset => "reject with tcp reset".into(),
        Reject::HostUnreachable => format!("reject with {icmp} {}", names[0]),
        Reject::AdminProhibited => format!("reject with {icmp} {}", names[1]),
        Reject::NoRoute => format!("reject with {icmp} {}", names[2]),
    }
}

fn nat(to: &NatTo, family: Family) -> String {
    let v4 = match to {
        NatTo::Address(addr) | NatTo::Addresses(addr, _) => addr.is_ipv4(),
        NatTo::Endpoint(addr) => addr.is_ipv4(),
        NatTo::Map { ipv4, .. } => *ipv4,
    };
    let family = match (family, v4) {
        (Family::Inet, true) => "ip ",
        (Family::Inet, false) => "ip6 ",
        _ => "",
    };
    match to {
        NatTo::Address(addr) => format!("{family}to {addr}"),
        NatTo::Addresses(low, high) => format!("{family}to {low}-{high}"),
        NatTo::Endpoint(addr) => format!("{family}to {addr}"),
        NatTo::Map { key, map, .. } => format!("{family}to {key} map @{map}"),
    }
}
