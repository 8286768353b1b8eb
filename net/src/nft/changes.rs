//! Changes to a table that stays.

use super::abi::{CHAIN_NAME, CHAIN_TABLE, RULE_CHAIN, RULE_TABLE};
use super::batch::{Batch, SetRef, map_elements, message, set_elements};
use super::set::{Map, Set};
use super::table::{Chain, Family, Table, check_name};
use super::tuple::{TupleSet, check_types};
use crate::error::Result;

/// Changes to one table, made in one transaction in the order in which they are given: of elements, and of chains that
/// come and go. What else is in the table stays, counters included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    family: Family,
    table: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    AddToSet(Set),
    RemoveFromSet(Set),
    AddToTupleSet(TupleSet),
    RemoveFromTupleSet(TupleSet),
    AddToMap(Map),
    RemoveFromMap(Map),
    AddChain(Chain),
    RemoveChain(String),
}

impl Changes {
    /// No changes to the table of that family and name.
    #[must_use]
    pub fn new(family: Family, table: impl Into<String>) -> Self {
        Self { family, table: table.into(), steps: Vec::new() }
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Adds the elements of `set` to the table's set of its name and type.
    #[must_use]
    pub fn add_to_set(self, set: Set) -> Self {
        self.step(Step::AddToSet(set))
    }

    /// Takes the elements of `set`, all of which must be there, out of the table's set of its name and type.
    #[must_use]
    pub fn remove_from_set(self, set: Set) -> Self {
        self.step(Step::RemoveFromSet(set))
    }

    /// Adds the elements of `set` to the table's set of its name and types.
    #[must_use]
    pub fn add_to_tuple_set(self, set: TupleSet) -> Self {
        self.step(Step::AddToTupleSet(set))
    }

    /// Takes the elements of `set`, all of which must be there, out of the table's set of its name and types.
    #[must_use]
    pub fn remove_from_tuple_set(self, set: TupleSet) -> Self {
        self.step(Step::RemoveFromTupleSet(set))
    }

    /// Adds the elements of `map`, whose keys must not lead elsewhere, to the table's map of its name and type.
    #[must_use]
    pub fn add_to_map(self, map: Map) -> Self {
        self.step(Step::AddToMap(map))
    }

    /// Takes the elements of `map`, all of which must be there, out of the table's map of its name and type.
    #[must_use]
    pub fn remove_from_map(self, map: Map) -> Self {
        self.step(Step::RemoveFromMap(map))
    }

    /// Adds a chain with its rules.
    #[must_use]
    pub fn add_chain(self, chain: Chain) -> Self {
        self.step(Step::AddChain(chain))
    }

    /// Removes a chain with its rules; nothing may lead to it any more.
    #[must_use]
    pub fn remove_chain(self, name: impl Into<String>) -> Self {
        self.step(Step::RemoveChain(name.into()))
    }

    pub(super) fn compile(&self, batch: &mut Batch) -> Result<()> {
        let (family, table) = (self.family, self.table.as_str());
        check_name("table", table)?;
        let (add, remove) = (libc::NFT_MSG_NEWSETELEM, libc::NFT_MSG_DELSETELEM);
        for step in &self.steps {
            match step {
                Step::AddToSet(set) | Step::RemoveFromSet(set) => {
                    check_name("set", &set.name)?;
                    let kind = if matches!(step, Step::AddToSet(_)) { add } else { remove };
                    batch.change_elements(kind, SetRef::of_set(family, table, set), &set_elements(set))?;
                }
                Step::AddToTupleSet(set) | Step::RemoveFromTupleSet(set) => {
                    check_name("set", &set.name)?;
                    check_types(&set.types, set.ranges)?;
                    let kind = if matches!(step, Step::AddToTupleSet(_)) { add } else { remove };
                    batch.change_tuples(kind, family, table, set, None)?;
                }
                Step::AddToMap(map) | Step::RemoveFromMap(map) => {
                    check_name("map", &map.name)?;
                    let kind = if matches!(step, Step::AddToMap(_)) { add } else { remove };
                    batch.change_elements(kind, SetRef::of_map(family, table, map), &map_elements(map)?)?;
                }
                Step::AddChain(chain) => batch.add_chains(&Table::new(family, table).chain(chain.clone()))?,
                Step::RemoveChain(name) => {
                    check_name("chain", name)?;
                    // A chain can only be deleted without rules.
                    let mut rules = message(libc::NFT_MSG_DELRULE, family, 0);
                    rules.str(RULE_TABLE, table).str(RULE_CHAIN, name);
                    batch.push(rules, format!("table {family} {table} chain {name}: rules"));
                    let mut chain = message(libc::NFT_MSG_DELCHAIN, family, 0);
                    chain.str(CHAIN_TABLE, table).str(CHAIN_NAME, name);
                    batch.push(chain, format!("table {family} {table} chain {name}"));
                }
            }
        }
        Ok(())
    }
}
