//! nftables: the packet filter of the kernel, without the `nft` program.
//!
//! [`Ruleset`] → [`Table`] → [`Chain`] → [`Rule`] are plain values. [`Netns::apply`](crate::Netns::apply) puts tables in
//! place in one transaction, [`Netns::ruleset`](crate::Netns::ruleset) reads back what is there, and `Display` prints as
//! `nft list ruleset` does. See [nft(8)](https://man7.org/linux/man-pages/man8/nft.8.html).

mod abi;
mod batch;
mod changes;
mod decode;
mod encode;
mod follow;
mod lacking;
mod load;
mod print;
mod rule;
mod set;
mod table;
mod tuple;
mod value;

pub use changes::Changes;
pub use rule::{Field, Match, NatTo, RateUnit, Reject, Rule, Statement, Verdict};
pub use set::{Map, MapType, MapValue, Set};
pub use table::{Base, Chain, ChainKind, Family, Hook, Policy, Priority, Ruleset, Table};
pub use tuple::{Tuple, TupleMatch, TupleSet};
pub use value::{CtState, DataType, Protocol, Value};

pub(crate) use value::icmp_by_name;

use crate::error::{Error, Result};
use crate::netlink::Message;
use crate::netns::Netns;
use crate::socket::Answer;

use abi::{ELEM_LIST_SET, ELEM_LIST_TABLE};
use batch::Batch;

pub(crate) fn fuzz_ruleset(data: &[u8]) {
    lacking::fuzz_refused(data);
    // One stream of messages, sorted into the dumps by their types.
    let mut dump = decode::Dump::default();
    for reply in crate::netlink::split(data).unwrap_or_default() {
        let answer = Answer { kind: reply.kind, body: reply.body.to_vec() };
        match i32::from(reply.kind & 0xff) {
            libc::NFT_MSG_NEWTABLE => dump.tables.push(answer),
            libc::NFT_MSG_NEWCHAIN => dump.chains.push(answer),
            libc::NFT_MSG_NEWSET => dump.sets.push(answer),
            libc::NFT_MSG_NEWSETELEM => dump.elements.push(answer),
            _ => dump.rules.push(answer),
        }
    }
    if let Ok(ruleset) = decode::ruleset(&dump) {
        drop(ruleset.to_string());
    }
}

impl Netns {
    /// Puts the tables of `ruleset` in place, each instead of the table of its family and name if there is one, all of
    /// them in one transaction: no packet ever sees half of it. Other tables stay.
    ///
    /// Needs `CAP_NET_ADMIN` in the user namespace that owns the network namespace.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for what cannot be expressed (the message names table, chain and rule);
    /// [`NotFound`](crate::ErrorKind::NotFound) for a chain, set or map that a rule refers to and no one has;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the kernel lacks nftables or a part of it (the message names the
    /// module and the option). Then nothing changed.
    #[doc(alias = "nft -f")]
    pub fn apply(&self, ruleset: &Ruleset) -> Result<()> {
        let mut batch = Batch::default();
        for table in &ruleset.tables {
            batch.replace_table(table)?;
        }
        self.commit("applying an nftables ruleset", batch)
    }

    fn commit(&self, what: &str, batch: Batch) -> Result<()> {
        let labels = batch.labels;
        self.netfilter()?.batch(what, batch.messages, |refused| {
            let label = refused.index.and_then(|index| labels.get(index));
            let what = label.map_or_else(|| what.to_owned(), |label| format!("{what}: {label}"));
            lacking::refused(&what, refused)
        })
    }

    /// Deletes a table with all that is in it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub fn delete_table(&self, family: Family, name: &str) -> Result<()> {
        let mut batch = Batch::default();
        batch.delete_table(family, name);
        self.commit("deleting an nftables table", batch)
    }

    /// Deletes all tables (`nft flush ruleset`).
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission).
    pub fn flush_ruleset(&self) -> Result<()> {
        let mut batch = Batch::default();
        for table in self.ruleset()?.tables {
            batch.delete_table(table.family, &table.name);
        }
        self.commit("flushing the nftables ruleset", batch)
    }

    /// Makes changes to a table that stays, all of them or none.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for the table, a set, map, chain or an element to remove;
    /// [`Exists`](crate::ErrorKind::Exists) for a chain, or a key of a map that leads elsewhere already;
    /// [`Busy`](crate::ErrorKind::Busy) for a chain to which something leads;
    /// [`Invalid`](crate::ErrorKind::Invalid) for an element that is not of its set's type.
    pub fn change(&self, changes: &Changes) -> Result<()> {
        let mut batch = Batch::default();
        changes.compile(&mut batch)?;
        self.commit("changing an nftables table", batch)
    }

    /// All tables, with chains, rules, sets and maps, as of one moment.
    ///
    /// Of tables that others made, maps with concatenated keys are left out, and expressions that this crate does not know
    /// become [`Statement::Foreign`].
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission); [`Unsupported`](crate::ErrorKind::Unsupported) without nftables;
    /// [`Malformed`](crate::ErrorKind::Malformed) for a chain on a hook that has no name here.
    #[doc(alias = "nft list ruleset")]
    pub fn ruleset(&self) -> Result<Ruleset> {
        for _ in 0..16 {
            let before = self.generation()?;
            let mut dump = decode::Dump {
                tables: self.dump(libc::NFT_MSG_GETTABLE, "tables")?,
                chains: self.dump(libc::NFT_MSG_GETCHAIN, "chains")?,
                sets: self.dump(libc::NFT_MSG_GETSET, "sets")?,
                elements: Vec::new(),
                rules: self.dump(libc::NFT_MSG_GETRULE, "rules")?,
            };
            let mut gone = false;
            for (family, table, set) in decode::set_names(&dump.sets)? {
                let mut request = request(libc::NFT_MSG_GETSETELEM, family.number());
                request.str(ELEM_LIST_TABLE, &table).str(ELEM_LIST_SET, &set);
                match self.netfilter()?.dump(&format!("listing nftables set {set}"), request) {
                    Ok(answers) => dump.elements.extend(answers),
                    Err(e) if e.kind() == crate::ErrorKind::NotFound => gone = true,
                    Err(e) => return Err(e),
                }
            }
            if !gone && self.generation()? == before {
                return decode::ruleset(&dump);
            }
        }
        Err(Error::system("listing nftables: the ruleset kept changing", libc::EAGAIN))
    }

    fn dump(&self, kind: i32, what: &str) -> Result<Vec<Answer>> {
        self.netfilter()?.dump(&format!("listing nftables {what}"), request(kind, 0))
    }

    /// The number of transactions so far.
    fn generation(&self) -> Result<Option<u32>> {
        const GEN_ID: u16 = 1;
        let what = "nftables generation";
        let answers = self.netfilter()?.ask(what, request(libc::NFT_MSG_GETGEN, 0));
        // The request is as the kernel wants it: what is not valid about it is its subsystem.
        let answers = answers.map_err(|e| match e.errno() {
            Some(libc::EINVAL) => lacking::nf_tables(what, libc::EINVAL),
            _ => e,
        })?;
        let answer = answers.first().ok_or_else(|| Error::malformed("nftables generation"))?;
        Ok(answer.parts(decode::NFGEN)?.1.be32(GEN_ID))
    }
}

fn request(kind: i32, family: u8) -> Message {
    Message::new((libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16, 0).fixed(&[family, 0, 0, 0])
}
