//! What a series of command lines has built.

use std::collections::BTreeMap;

use super::parse::{Command, RuleNumber, parse};
use super::{BuiltinChain, BuiltinTable};
use crate::error::{Error, Result};
use crate::nft::{Chain, Family, Policy, Rule, Ruleset, Statement, Table, Verdict};

/// The state of iptables, or of ip6tables, as far as its command lines have changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    v4: bool,
    tables: BTreeMap<BuiltinTable, Chains>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Chains {
    policies: BTreeMap<BuiltinChain, Policy>,
    /// Of built-in chains and of the user's own.
    rules: BTreeMap<String, Vec<Rule>>,
}

impl Chains {
    fn new(table: BuiltinTable) -> Self {
        let rules = table.chains().iter().map(|chain| (chain.name().to_owned(), Vec::new())).collect();
        Self { policies: BTreeMap::new(), rules }
    }
}

impl Iptables {
    /// Empty tables for IPv4: `iptables`.
    #[must_use]
    pub fn v4() -> Self {
        Self { v4: true, tables: BTreeMap::new() }
    }

    /// Empty tables for IPv6: `ip6tables`.
    #[must_use]
    pub fn v6() -> Self {
        Self { v4: false, tables: BTreeMap::new() }
    }

    /// Does what a command line says, like `iptables -A INPUT -p tcp --dport 22 -j ACCEPT`; the name of the program may be
    /// left out.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a line that cannot be read, naming the word;
    /// [`NotFound`](crate::ErrorKind::NotFound) for a chain or rule that is not there;
    /// [`Exists`](crate::ErrorKind::Exists) for a chain that is. Then nothing changed.
    pub fn run(&mut self, line: &str) -> Result<()> {
        let (table, command) = parse(line, self.v4)?;
        self.apply(table, command).map_err(|e| e.context(line))
    }

    fn apply(&mut self, table: BuiltinTable, command: Command) -> Result<()> {
        let mut chains = self.tables.get(&table).cloned().unwrap_or_else(|| Chains::new(table));
        let missing = |chain: &str| Error::not_found(format_args!("chain {chain} of table {table}"));
        if let Command::Append { rule, .. } | Command::Insert { rule, .. } | Command::Replace { rule, .. } =
            &command
        {
            for statement in rule.statements() {
                if let Statement::Verdict(Verdict::Jump(target) | Verdict::Goto(target)) = statement {
                    if BuiltinChain::by_name(target).is_some() || !chains.rules.contains_key(target) {
                        return Err(missing(target));
                    }
                }
            }
        }
        // A rule's place from 1, as an index below `len`.
        let place = |number: usize, len: usize| {
            let no = || Error::not_found(format_args!("rule {number} of {len}"));
            number.checked_sub(1).filter(|n| *n < len).ok_or_else(no)
        };
        match command {
            Command::Append { chain, rule } => {
                chains.rules.get_mut(&chain).ok_or_else(|| missing(&chain))?.push(*rule);
            }
            Command::Insert { chain, number, rule } => {
                let rules = chains.rules.get_mut(&chain).ok_or_else(|| missing(&chain))?;
                let index = place(number, rules.len() + 1)?;
                rules.insert(index, *rule);
            }
            Command::Replace { chain, number, rule } => {
                let rules = chains.rules.get_mut(&chain).ok_or_else(|| missing(&chain))?;
                let index = place(number, rules.len())?;
                rules[index] = *rule;
            }
            Command::Delete { chain, which } => {
                let rules = chains.rules.get_mut(&chain).ok_or_else(|| missing(&chain))?;
                let index = match which {
                    RuleNumber::Number(number) => place(number, rules.len())?,
                    RuleNumber::Like(rule) => {
                        let no = || Error::not_found("a rule like this");
                        rules.iter().position(|r| *r == *rule).ok_or_else(no)?
                    }
                };
                rules.remove(index);
            }
            Command::Policy { chain, policy } => {
                let builtin = BuiltinChain::by_name(&chain).filter(|c| table.chains().contains(c));
                chains.policies.insert(builtin.ok_or_else(|| missing(&chain))?, policy);
            }
            Command::NewChain(chain) => {
                if BuiltinChain::by_name(&chain).is_some() || chains.rules.contains_key(&chain) {
                    return Err(Error::kernel(
                        format_args!("chain {chain} of table {table}"),
                        libc::EEXIST,
                        None,
                    ));
                }
                chains.rules.insert(chain, Vec::new());
            }
            Command::DeleteChain(None) => {
                // iptables refuses as a whole if one is in use or not empty.
                let own: Vec<String> = own_chains(&chains).cloned().collect();
                for chain in &own {
                    if !chains.rules[chain].is_empty() {
                        return Err(Error::kernel(
                            format_args!("chain {chain}"),
                            libc::EBUSY,
                            Some("it has rules: flush it first".into()),
                        ));
                    }
                }
                for chain in &own {
                    in_use(&chains, chain)?;
                }
                chains.rules.retain(|name, _| !own.contains(name));
            }
            Command::DeleteChain(Some(chain)) => {
                if BuiltinChain::by_name(&chain).is_some() || !chains.rules.contains_key(&chain) {
                    return Err(missing(&chain));
                }
                if !chains.rules[&chain].is_empty() {
                    return Err(Error::kernel(
                        format_args!("chain {chain}"),
                        libc::EBUSY,
                        Some("it has rules: flush it first".into()),
                    ));
                }
                in_use(&chains, &chain)?;
                chains.rules.remove(&chain);
            }
            Command::Flush(None) => chains.rules.values_mut().for_each(Vec::clear),
            Command::Flush(Some(chain)) => {
                chains.rules.get_mut(&chain).ok_or_else(|| missing(&chain))?.clear();
            }
        }
        self.tables.insert(table, chains);
        Ok(())
    }

    /// The rules of a chain, as nftables has them.
    #[must_use]
    pub fn rules(&self, table: BuiltinTable, chain: &str) -> &[Rule] {
        self.tables.get(&table).and_then(|chains| chains.rules.get(chain)).map_or(&[], Vec::as_slice)
    }

    /// The tables that were touched, as nftables tables of the same names with chains of the same names.
    #[must_use]
    pub fn ruleset(&self) -> Ruleset {
        let family = if self.v4 { Family::Ip } else { Family::Ip6 };
        let mut ruleset = Ruleset::new();
        for (table, chains) in &self.tables {
            let mut out = Table::new(family, table.name());
            let with_rules = |chain: Chain, rules: &[Rule]| rules.iter().cloned().fold(chain, Chain::rule);
            for chain in table.chains() {
                let policy = chains.policies.get(chain).copied().unwrap_or(Policy::Accept);
                if let Some(base) = table.base(*chain, policy) {
                    out = out.chain(with_rules(Chain::base(chain.name(), base), &chains.rules[chain.name()]));
                }
            }
            for name in own_chains(chains) {
                out = out.chain(with_rules(Chain::new(name.clone()), &chains.rules[name]));
            }
            ruleset = ruleset.table(out);
        }
        ruleset
    }
}

fn own_chains(chains: &Chains) -> impl Iterator<Item = &String> {
    chains.rules.keys().filter(|name| BuiltinChain::by_name(name).is_none())
}

fn in_use(chains: &Chains, chain: &str) -> Result<()> {
    let leads = |rule: &Rule| {
        rule.statements().iter().any(
            |s| matches!(s, Statement::Verdict(Verdict::Jump(target) | Verdict::Goto(target)) if target == chain),
        )
    };
    if chains.rules.values().flatten().any(leads) {
        return Err(Error::kernel(
            format_args!("chain {chain}"),
            libc::EBUSY,
            Some("a rule leads to it".into()),
        ));
    }
    Ok(())
}
