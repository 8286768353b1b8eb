//! A rule from its parts.

use super::BuiltinTable;
use super::values::{check_chain, nat_target, port, reject};
use crate::error::{Error, Result};
use crate::nft::{Field, Match, Protocol, RateUnit, Rule, Statement, Value, Verdict};

/// A rule as it is being read; the parts come in any order.
#[derive(Default)]
pub(super) struct Spec {
    pub(super) conditions: Vec<Match>,
    pub(super) protocol: Option<(Protocol, bool)>,
    pub(super) ports: Vec<(bool, bool, Vec<Value>)>,
    pub(super) limit: Option<(u64, RateUnit)>,
    pub(super) burst: u32,
    pub(super) comment: Option<String>,
    pub(super) target: Option<String>,
    pub(super) go: bool,
    pub(super) to: Option<String>,
    pub(super) reject_with: Option<String>,
    pub(super) log_prefix: Option<String>,
    pub(super) log_level: Option<u8>,
    pub(super) mark: Option<u32>,
    pub(super) notrack: bool,
}

impl Spec {
    pub(super) fn finish(self, v4: bool, table: BuiltinTable) -> Result<Rule> {
        let mut rule = Rule::new();
        let with_ports = |p: Protocol| [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&p);
        let protocol = self.protocol.filter(|(_, negated)| !negated).map(|(p, _)| p);
        if !self.ports.is_empty() && !protocol.is_some_and(with_ports) {
            return Err(Error::invalid("ports", "they need -p tcp, -p udp or -p sctp"));
        }
        for condition in self.conditions {
            let needs = match condition.field() {
                Field::TcpFlags => Some((Protocol::TCP, "TCP flags need -p tcp")),
                Field::IcmpType => Some((Protocol::ICMP, "ICMP types need -p icmp")),
                Field::Icmpv6Type => Some((Protocol::ICMPV6, "ICMP types need -p icmpv6")),
                _ => None,
            };
            if let Some((_, words)) = needs.filter(|(p, _)| protocol != Some(*p)) {
                return Err(Error::invalid("match", words));
            }
            rule = rule.matching(condition);
        }
        let mut protocol_said = false;
        for (source, negated, values) in self.ports {
            let field = if source { Field::SourcePort(protocol) } else { Field::DestinationPort(protocol) };
            let condition = match values.as_slice() {
                [one] => Match::is(field, one.clone()),
                _ => Match::any_of(field, values),
            };
            protocol_said = true;
            rule = rule.matching(if negated { condition.negated() } else { condition });
        }
        protocol_said |= rule.statements().iter().any(|s| {
            matches!(s, Statement::Match(m) if matches!(m.field(), Field::TcpFlags | Field::IcmpType | Field::Icmpv6Type))
        });
        if let Some((protocol, negated)) = self.protocol.filter(|_| !protocol_said) {
            let condition = Match::is(Field::Protocol, protocol);
            rule = rule.matching(if negated { condition.negated() } else { condition });
        }
        if let Some((rate, unit)) = self.limit {
            rule = rule.with(Statement::Limit { rate, unit, burst: self.burst.max(1), over: false });
        }
        // iptables counts what each rule matched.
        rule = rule.counter();
        let used = Used {
            to: self.to.is_some(),
            reject_with: self.reject_with.is_some(),
            log: self.log_prefix.is_some() || self.log_level.is_some(),
            mark: self.mark.is_some(),
            notrack: self.notrack,
        };
        if let Some(target) = &self.target {
            used.check(target)?;
            rule = match target.as_str() {
                _ if self.go => {
                    check_chain(target)?;
                    rule.with(Statement::Verdict(Verdict::Goto(target.clone())))
                }
                "ACCEPT" => rule.accept(),
                "DROP" => rule.drop(),
                "RETURN" => rule.with(Statement::Verdict(Verdict::Return)),
                "REJECT" => rule.reject(reject(self.reject_with.as_deref(), v4, protocol)?),
                "LOG" => rule.with(Statement::Log {
                    prefix: self.log_prefix.filter(|p| !p.is_empty()),
                    level: self.log_level.filter(|l| *l != 4),
                    group: None,
                }),
                "MASQUERADE" => only(table, BuiltinTable::Nat, target).map(|()| rule.masquerade())?,
                "SNAT" | "DNAT" => {
                    only(table, BuiltinTable::Nat, target)?;
                    let to = nat_target(self.to.as_deref(), v4, protocol.is_some_and(with_ports), target)?;
                    rule.with(if target == "SNAT" { Statement::Snat(to) } else { Statement::Dnat(to) })
                }
                "REDIRECT" => {
                    only(table, BuiltinTable::Nat, target)?;
                    let port = self.to.as_deref().map(port).transpose()?;
                    if port.is_some() && !protocol.is_some_and(with_ports) {
                        return Err(Error::invalid(
                            "REDIRECT to a port",
                            "it needs -p tcp, -p udp or -p sctp",
                        ));
                    }
                    rule.with(Statement::Redirect(port))
                }
                "MARK" => {
                    only(table, BuiltinTable::Mangle, target)?;
                    let missing = || Error::invalid("MARK", "--set-mark VALUE");
                    rule.with(Statement::SetMark(self.mark.ok_or_else(missing)?))
                }
                "NOTRACK" => {
                    only(table, BuiltinTable::Raw, target).map(|()| rule.with(Statement::NoTrack))?
                }
                "CT" if self.notrack => {
                    only(table, BuiltinTable::Raw, target).map(|()| rule.with(Statement::NoTrack))?
                }
                _ => {
                    check_chain(target)?;
                    rule.jump(target.clone())
                }
            };
        } else {
            used.check("")?;
        }
        Ok(match self.comment {
            Some(comment) => rule.commented(comment),
            None => rule,
        })
    }
}

/// Which options of targets were given: one that its target does not take would be ignored silently.
struct Used {
    to: bool,
    reject_with: bool,
    log: bool,
    mark: bool,
    notrack: bool,
}

impl Used {
    fn check(&self, target: &str) -> Result<()> {
        let stray = [
            ("--to…", self.to && !["SNAT", "DNAT", "REDIRECT"].contains(&target)),
            ("--reject-with", self.reject_with && target != "REJECT"),
            ("--log-…", self.log && target != "LOG"),
            ("--set-mark", self.mark && target != "MARK"),
            ("--notrack", self.notrack && target != "CT"),
        ];
        match stray.iter().find(|(_, stray)| *stray) {
            Some((option, _)) => Err(Error::invalid(
                format_args!("{option} with target {target:?}"),
                "the target that takes it",
            )),
            None => Ok(()),
        }
    }
}

fn only(table: BuiltinTable, wanted: BuiltinTable, target: &str) -> Result<()> {
    if table == wanted {
        Ok(())
    } else {
        Err(Error::invalid(format_args!("target {target} in table {table}"), format_args!("-t {wanted}")))
    }
}
