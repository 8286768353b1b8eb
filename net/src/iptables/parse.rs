//! Command lines.

use super::BuiltinTable;
use super::spec::Spec;
use super::values::{block, check_chain, mark, number, ports, tcp_flags};
use crate::error::{Error, Result};
use crate::name::{IfName, MacAddr};
use crate::nft::{CtState, Field, Match, Policy, Protocol, RateUnit, Rule, Value, icmp_by_name};

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// `-A`: a rule at the end.
    Append {
        /// The chain.
        chain: String,
        /// The rule.
        rule: Box<Rule>,
    },
    /// `-I`: a rule before another.
    Insert {
        /// The chain.
        chain: String,
        /// The place that it will have, from 1.
        number: usize,
        /// The rule.
        rule: Box<Rule>,
    },
    /// `-R`: a rule instead of another.
    Replace {
        /// The chain.
        chain: String,
        /// Its place, from 1.
        number: usize,
        /// The rule.
        rule: Box<Rule>,
    },
    /// `-D`: removes a rule.
    Delete {
        /// The chain.
        chain: String,
        /// Which rule.
        which: RuleNumber,
    },
    /// `-P`: what happens at the end of a built-in chain.
    Policy {
        /// The chain.
        chain: String,
        /// Accept or drop.
        policy: Policy,
    },
    /// `-N`: makes a chain.
    NewChain(String),
    /// `-X`: deletes a chain, or all that are not built in.
    DeleteChain(Option<String>),
    /// `-F`: removes all rules of a chain, or of all chains.
    Flush(Option<String>),
}

/// A rule to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleNumber {
    /// By its place, from 1.
    Number(usize),
    /// The first that says the same.
    Like(Box<Rule>),
}

/// Reads a command line of iptables (`v4`) or ip6tables.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid), naming the word that cannot be read or the option that is not known.
pub fn parse(line: &str, v4: bool) -> Result<(BuiltinTable, Command)> {
    let words = split_words(line)?;
    let words = match words.first().map(String::as_str) {
        Some("iptables" | "ip6tables") => {
            if (words[0] == "iptables") != v4 {
                return Err(Error::invalid(&words[0], "the program of the other family"));
            }
            &words[1..]
        }
        _ => &words[..],
    };
    Parser {
        words: words.iter().map(String::as_str).collect::<Vec<_>>().into_iter(),
        v4,
        spec: Spec::default(),
    }
    .command()
}

/// Words as a shell would cut them: blanks separate, quotes keep together. Nothing is expanded.
fn split_words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t' | '\n') => words.extend(word.take()),
            (None, '$' | '`' | '\\' | ';' | '|' | '&' | '<' | '>') => {
                return Err(Error::invalid(
                    format_args!("{c:?} in {line:?}"),
                    "plain words: this is not a shell",
                ));
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::invalid(format_args!("{line:?}"), "a closing quote"));
    }
    words.extend(word);
    Ok(words)
}

/// Targets that are not chains.
const TARGETS: [&str; 12] = [
    "ACCEPT",
    "DROP",
    "RETURN",
    "REJECT",
    "LOG",
    "MASQUERADE",
    "SNAT",
    "DNAT",
    "REDIRECT",
    "MARK",
    "NOTRACK",
    "CT",
];

enum Verb {
    Append,
    Insert(usize),
    Replace(usize),
    Delete(Option<usize>),
    Policy(Policy),
    New,
    DeleteChain,
    Flush,
}

struct Parser<'a> {
    words: std::vec::IntoIter<&'a str>,
    v4: bool,
    spec: Spec,
}

impl<'a> Parser<'a> {
    fn value(&mut self, option: &str) -> Result<&'a str> {
        self.words.next().ok_or_else(|| Error::invalid(format_args!("option {option}"), "a value after it"))
    }

    fn optional(&mut self) -> Option<&'a str> {
        let next = *self.words.as_slice().first()?;
        if next.starts_with('-') || next == "!" {
            return None;
        }
        self.words.next()
    }

    fn command(mut self) -> Result<(BuiltinTable, Command)> {
        let mut table = BuiltinTable::Filter;
        let mut verb: Option<(Verb, Option<String>)> = None;
        let mut negated = false;
        while let Some(word) = self.words.next() {
            let mut set = |new: Verb, chain: Option<&str>| match verb.replace((new, chain.map(str::to_owned)))
            {
                None => Ok(()),
                Some(_) => Err(Error::invalid(word, "one command to a line")),
            };
            match word {
                "!" if !negated => {
                    negated = true;
                    continue;
                }
                "-t" | "--table" => table = self.value(word)?.parse()?,
                "-w" | "--wait" => {
                    // Seconds may follow; there is no lock to wait for.
                    if self
                        .words
                        .as_slice()
                        .first()
                        .is_some_and(|next| next.bytes().all(|b| b.is_ascii_digit()))
                    {
                        self.words.next();
                    }
                }
                "-A" | "--append" => set(Verb::Append, Some(self.value(word)?))?,
                "-I" | "--insert" => {
                    let chain = self.value(word)?;
                    let number = self.optional().map_or(Ok(1), |n| number(n, word))?;
                    set(Verb::Insert(number), Some(chain))?;
                }
                "-R" | "--replace" => {
                    let chain = self.value(word)?;
                    let number = number(self.value(word)?, word)?;
                    set(Verb::Replace(number), Some(chain))?;
                }
                "-D" | "--delete" => {
                    let chain = self.value(word)?;
                    let number = self.optional().map(|n| number(n, word)).transpose()?;
                    set(Verb::Delete(number), Some(chain))?;
                }
                "-P" | "--policy" => {
                    let chain = self.value(word)?;
                    let policy = match self.value(word)? {
                        "ACCEPT" => Policy::Accept,
                        "DROP" => Policy::Drop,
                        other => {
                            return Err(Error::invalid(format_args!("policy {other:?}"), "ACCEPT or DROP"));
                        }
                    };
                    set(Verb::Policy(policy), Some(chain))?;
                }
                "-N" | "--new-chain" => set(Verb::New, Some(self.value(word)?))?,
                "-X" | "--delete-chain" => set(Verb::DeleteChain, self.optional())?,
                "-F" | "--flush" => set(Verb::Flush, self.optional())?,
                _ => {
                    self.option(word, std::mem::take(&mut negated))?;
                    continue;
                }
            }
            if negated {
                return Err(Error::invalid(format_args!("! before {word}"), "an option that can be negated"));
            }
        }
        if negated {
            return Err(Error::invalid("! at the end", "the option to negate"));
        }
        let (verb, chain) =
            verb.ok_or_else(|| Error::invalid("no command", "one of -A -I -R -D -P -N -X -F"))?;
        if let Some(chain) = &chain {
            check_chain(chain)?;
            if TARGETS.contains(&chain.as_str()) {
                return Err(Error::invalid(format_args!("chain {chain:?}"), "a name that is not a target's"));
            }
        }
        let named = || chain.clone().unwrap_or_default();
        let has_rule = matches!(verb, Verb::Append | Verb::Insert(_) | Verb::Replace(_) | Verb::Delete(None));
        let rule = Box::new(self.spec.finish(self.v4, table)?);
        if !has_rule && *rule != Rule::new().counter() {
            return Err(Error::invalid("a rule", "only -A, -I, -R and -D take one"));
        }
        let command = match verb {
            Verb::Append => Command::Append { chain: named(), rule },
            Verb::Insert(number) => Command::Insert { chain: named(), number, rule },
            Verb::Replace(number) => Command::Replace { chain: named(), number, rule },
            Verb::Delete(Some(number)) => {
                Command::Delete { chain: named(), which: RuleNumber::Number(number) }
            }
            Verb::Delete(None) => Command::Delete { chain: named(), which: RuleNumber::Like(rule) },
            Verb::Policy(policy) => Command::Policy { chain: named(), policy },
            Verb::New => Command::NewChain(named()),
            Verb::DeleteChain => Command::DeleteChain(chain),
            Verb::Flush => Command::Flush(chain),
        };
        Ok((table, command))
    }

    fn push(&mut self, condition: Match, negated: bool) {
        self.spec.conditions.push(if negated { condition.negated() } else { condition });
    }

    #[expect(clippy::too_many_lines, reason = "one arm to an option: the table of options itself")]
    fn option(&mut self, word: &str, negated: bool) -> Result<()> {
        let v4 = self.v4;
        let positive = |ok: bool| {
            if ok {
                Ok(())
            } else {
                Err(Error::invalid(format_args!("! before {word}"), "an option that can be negated"))
            }
        };
        match word {
            "-p" | "--protocol" | "--proto" => {
                let text = self.value(word)?;
                if text != "all" && text != "0" {
                    let wrong = || {
                        Error::invalid(
                            format_args!("protocol {text:?}"),
                            "a name like tcp, or a number 1 to 255",
                        )
                    };
                    let lower = text.to_ascii_lowercase();
                    let found = Protocol::by_name(&lower)
                        .or_else(|| lower.parse().ok().map(Protocol))
                        .ok_or_else(wrong)?;
                    self.spec.protocol = Some((found, negated));
                } else {
                    positive(!negated)?;
                }
            }
            "-s" | "--source" | "--src" | "-d" | "--destination" | "--dst" => {
                let source = matches!(word, "-s" | "--source" | "--src");
                let field = match (source, v4) {
                    (true, true) => Field::Ipv4Source,
                    (true, false) => Field::Ipv6Source,
                    (false, true) => Field::Ipv4Destination,
                    (false, false) => Field::Ipv6Destination,
                };
                let blocks =
                    self.value(word)?.split(',').map(|s| block(s, v4)).collect::<Result<Vec<_>>>()?;
                let condition = match blocks.as_slice() {
                    [one] => Match::is(field, *one),
                    many => Match::any_of(field, many.iter().copied()),
                };
                self.push(condition, negated);
            }
            "-i" | "--in-interface" | "-o" | "--out-interface" => {
                let input = matches!(word, "-i" | "--in-interface");
                let field = if input { Field::InputInterface } else { Field::OutputInterface };
                let text = self.value(word)?;
                match text.strip_suffix('+') {
                    Some("") => positive(!negated)?,
                    Some(beginning) => {
                        self.push(Match::is(field, Value::interfaces_beginning(beginning)?), negated);
                    }
                    None => self.push(Match::is(field, IfName::new(text)?), negated),
                }
            }
            "-m" | "--match" => {
                const KNOWN: [&str; 14] = [
                    "tcp",
                    "udp",
                    "sctp",
                    "icmp",
                    "icmp6",
                    "icmpv6",
                    "conntrack",
                    "state",
                    "multiport",
                    "comment",
                    "limit",
                    "mark",
                    "addrtype",
                    "mac",
                ];
                let module = self.value(word)?;
                positive(!negated)?;
                if !KNOWN.contains(&module) {
                    return Err(Error::invalid(
                        format_args!("match module {module:?}"),
                        format_args!("one of {}", KNOWN.join(", ")),
                    ));
                }
            }
            "--sport" | "--source-port" | "--dport" | "--destination-port" => {
                let source = matches!(word, "--sport" | "--source-port");
                let value = ports(self.value(word)?)?;
                self.spec.ports.push((source, negated, vec![value]));
            }
            "--sports" | "--source-ports" | "--dports" | "--destination-ports" => {
                let source = matches!(word, "--sports" | "--source-ports");
                let values = self.value(word)?.split(',').map(ports).collect::<Result<Vec<_>>>()?;
                self.spec.ports.push((source, negated, values));
            }
            "--ctstate" | "--state" => {
                let mut bits = None;
                for name in self.value(word)?.split(',') {
                    let state = match name {
                        "INVALID" => CtState::INVALID,
                        "NEW" => CtState::NEW,
                        "ESTABLISHED" => CtState::ESTABLISHED,
                        "RELATED" => CtState::RELATED,
                        "UNTRACKED" => CtState::UNTRACKED,
                        _ => {
                            return Err(Error::invalid(
                                format_args!("connection state {name:?}"),
                                "NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED",
                            ));
                        }
                    };
                    bits = Some(bits.map_or(state, |b| b | state));
                }
                let states = bits.ok_or_else(|| Error::invalid(word, "at least one state"))?;
                self.push(Match::ct_state(states), negated);
            }
            "--syn" => self.push(Match::tcp_flags(0x17, 0x02), negated),
            "--tcp-flags" => {
                let (mask, set) = (tcp_flags(self.value(word)?)?, tcp_flags(self.value(word)?)?);
                self.push(Match::tcp_flags(mask, set), negated);
            }
            "--icmp-type" | "--icmpv6-type" => {
                if (word == "--icmp-type") != v4 {
                    return Err(Error::invalid(word, "the option of the other family"));
                }
                let text = self.value(word)?;
                let name = match text {
                    "ping" => "echo-request",
                    "pong" => "echo-reply",
                    other => other,
                };
                let wrong = || {
                    Error::invalid(
                        format_args!("ICMP type {text:?}"),
                        "a number 0 to 255 or a name like echo-request",
                    )
                };
                let kind = name.parse().ok().or_else(|| icmp_by_name(v4, name)).ok_or_else(wrong)?;
                let (field, value) = if v4 {
                    (Field::IcmpType, Value::icmp_type(kind))
                } else {
                    (Field::Icmpv6Type, Value::icmpv6_type(kind))
                };
                self.push(Match::is(field, value), negated);
            }
            "--mark" => {
                let (value, mask) = mark(self.value(word)?)?;
                let condition = match mask {
                    None => Match::is(Field::Mark, Value::mark(value)),
                    Some(mask) => Match::mark_masked(mask, value),
                };
                self.push(condition, negated);
            }
            "--src-type" | "--dst-type" => {
                let field = if word == "--src-type" {
                    Field::SourceAddressType
                } else {
                    Field::DestinationAddressType
                };
                match self.value(word)? {
                    "LOCAL" => self.push(Match::is(field, Value::local_address()), negated),
                    other => return Err(Error::invalid(format_args!("address type {other:?}"), "LOCAL")),
                }
            }
            "--mac-source" => {
                let mac: MacAddr = self.value(word)?.parse()?;
                self.push(Match::is(Field::EtherSource, mac), negated);
            }
            _ => {
                positive(!negated)?;
                self.plain_option(word)?;
            }
        }
        Ok(())
    }

    /// Options that cannot be negated.
    fn plain_option(&mut self, word: &str) -> Result<()> {
        match word {
            "--comment" => self.spec.comment = Some(self.value(word)?.to_owned()),
            "--limit" => {
                let text = self.value(word)?;
                let wrong = || {
                    Error::invalid(
                        format_args!("limit {text:?}"),
                        "like 5/second, 10/minute, 3/hour or 1/day",
                    )
                };
                let (rate, unit) = text.split_once('/').unwrap_or((text, "second"));
                let rate: u64 = rate.parse().ok().filter(|r| *r > 0).ok_or_else(wrong)?;
                let mut units =
                    [RateUnit::Second, RateUnit::Minute, RateUnit::Hour, RateUnit::Day].into_iter();
                let mut names = ["second", "minute", "hour", "day"].into_iter();
                let unit = loop {
                    match (units.next(), names.next()) {
                        (Some(found), Some(name)) if !unit.is_empty() && name.starts_with(unit) => {
                            break found;
                        }
                        (Some(_), Some(_)) => {}
                        _ => return Err(wrong()),
                    }
                };
                self.spec.limit = Some((rate, unit));
            }
            "--limit-burst" => {
                let text = self.value(word)?;
                let wrong = || Error::invalid(format_args!("limit burst {text:?}"), "a number from 1");
                self.spec.burst = text.parse().ok().filter(|b| *b > 0).ok_or_else(wrong)?;
            }
            "-j" | "--jump" => self.spec.target = Some(self.value(word)?.to_owned()),
            "-g" | "--goto" => {
                self.spec.target = Some(self.value(word)?.to_owned());
                self.spec.go = true;
            }
            "--to" | "--to-destination" | "--to-source" | "--to-ports" => {
                self.spec.to = Some(self.value(word)?.to_owned());
            }
            "--reject-with" => self.spec.reject_with = Some(self.value(word)?.to_owned()),
            "--log-prefix" => self.spec.log_prefix = Some(self.value(word)?.to_owned()),
            "--log-level" => {
                const LEVELS: [&str; 8] =
                    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
                let text = self.value(word)?;
                let wrong =
                    || Error::invalid(format_args!("log level {text:?}"), "0 to 7, or emerg to debug");
                let by_name = LEVELS.iter().position(|name| *name == text).map(|n| n as u8);
                self.spec.log_level =
                    Some(by_name.or_else(|| text.parse().ok()).filter(|l| *l < 8).ok_or_else(wrong)?);
            }
            "--set-mark" | "--set-xmark" => match mark(self.value(word)?)? {
                (value, None | Some(u32::MAX)) => self.spec.mark = Some(value),
                _ => return Err(Error::invalid(word, "a mark without mask")),
            },
            "--notrack" => self.spec.notrack = true,
            _ => return Err(Error::invalid(format_args!("option {word:?}"), "one that this vocabulary has")),
        }
        Ok(())
    }
}
