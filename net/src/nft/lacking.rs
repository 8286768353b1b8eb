//! Parts of nftables that a kernel may lack, each in a module of its own: which one it was, and what brings it.

use super::abi::{CHAIN_TYPE, EXPR_NAME};
use super::table::Family;
use crate::error::Error;
use crate::netlink::Attrs;
use crate::socket::Refused;

/// Where attributes begin: behind the header and `struct nfgenmsg`.
const ATTRIBUTES: usize = 20;

/// An error of a transaction. What the kernel says to a part that it lacks is what it says to a chain or set that is not
/// there; where it points tells them apart (Linux 5.7).
pub(super) fn refused(what: &str, refused: Refused<'_>) -> Error {
    match missing(&refused) {
        Some((part, fix)) => Error::lacking(what, refused.errno, &part, fix),
        None => Error::kernel(what, refused.errno, refused.note),
    }
}

pub(super) fn nf_tables(what: &str, errno: i32) -> Error {
    Error::lacking(what, errno, "nf_tables", module("nf_tables", "NF_TABLES"))
}

fn module(name: &str, option: &str) -> String {
    format!("modprobe {name}, or run one with CONFIG_{option}")
}

/// What the kernel points at, in a message of `data`: the offset first.
pub(super) fn fuzz_refused(data: &[u8]) {
    let Some((offset, message)) = data.split_first_chunk::<2>() else { return };
    let offset = Some(usize::from(u16::from_ne_bytes(*offset)));
    for errno in [libc::ENOENT, libc::EOPNOTSUPP] {
        drop(refused("fuzz", Refused { index: Some(0), message, errno, note: None, offset }));
    }
}

/// The part that is missing, and the fix, if that is what it is.
fn missing(refused: &Refused<'_>) -> Option<(String, String)> {
    let Refused { index, message, errno, offset, .. } = refused;
    let (&errno, &family) = (errno, message.get(ATTRIBUTES - 4)?);
    let absent = errno == libc::ENOENT || errno == libc::EOPNOTSUPP;
    if index.is_none() {
        // Nobody reads the batch.
        return (errno == libc::EOPNOTSUPP).then(|| ("nf_tables".into(), module("nf_tables", "NF_TABLES")));
    }
    match i32::from(*message.get(4)?) {
        libc::NFT_MSG_NEWTABLE if errno == libc::EOPNOTSUPP || errno == libc::EAFNOSUPPORT => {
            let family = Family::from_number(family)?.to_string();
            let fix = format!("run one with CONFIG_NF_TABLES_{}", family.to_uppercase());
            Some((format!("tables of the family {family}"), fix))
        }
        libc::NFT_MSG_NEWCHAIN if absent => {
            let (kind, payload) = attribute(message, (*offset)?)?;
            let chain = (kind == CHAIN_TYPE).then(|| text(payload))?;
            let fix = match chain.as_str() {
                "nat" => module("nft_chain_nat", "NFT_NAT"),
                _ => module("nf_tables", "NF_TABLES"),
            };
            Some((format!("chains of the type {chain}"), fix))
        }
        libc::NFT_MSG_NEWRULE if errno == libc::ENOENT => {
            let (_, payload) = attribute(message, (*offset)?)?;
            let expression = Attrs::parse(payload).ok()?.text(EXPR_NAME)?;
            Some((format!("expression {expression:?} of nftables"), module_of(&expression, family)?))
        }
        _ => None,
    }
}

/// The module of an expression; `None` for those of nf_tables itself, whose ENOENT is about the set or chain they name.
fn module_of(expression: &str, family: u8) -> Option<String> {
    let family = match Family::from_number(family)? {
        Family::Ip => "ipv4",
        Family::Ip6 => "ipv6",
        Family::Bridge => "bridge",
        _ => "inet",
    };
    Some(match expression {
        "counter" | "ct" | "limit" | "log" | "masq" | "nat" | "redir" => {
            module(&format!("nft_{expression}"), &format!("NFT_{}", expression.to_uppercase()))
        }
        "reject" => module(&format!("nft_reject_{family}"), "NFT_REJECT"),
        "fib" => module(&format!("nft_fib_{family}"), &format!("NFT_FIB_{}", family.to_uppercase())),
        _ => return None,
    })
}

/// The attribute that begins at `offset`: its type and payload.
fn attribute(message: &[u8], offset: usize) -> Option<(u16, &[u8])> {
    let rest = message.get(offset.max(ATTRIBUTES)..)?;
    let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
    Attrs::parse(rest.get(..len)?).ok()?.iter().next()
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::batch::Batch;
    use super::super::{Chain, Hook, Policy, Rule, Table};
    use super::*;
    use crate::ErrorKind;

    /// The messages of a table with a rule for each part, and the error for the one with `label` when the kernel points at
    /// the bytes `at` of it.
    fn refusal(label: &str, errno: i32, at: Option<&[u8]>) -> Error {
        let forward = Chain::filter("forward", Hook::Forward, Policy::Drop)
            .rule(Rule::new().ct_state(crate::nft::CtState::ESTABLISHED).accept())
            .rule(Rule::new().jump("nowhere"));
        let nat = Chain::srcnat("postrouting").rule(Rule::new().masquerade());
        let table = Table::new(Family::Inet, "t").chain(forward).chain(nat);
        let mut batch = Batch::default();
        batch.replace_table(&table).unwrap();
        let index = batch.labels.iter().position(|l| l == label).unwrap();
        let message = batch.messages.swap_remove(index).finish(1).unwrap();
        // An attribute begins four bytes before its payload.
        let offset = at.map(|at| message.windows(at.len()).position(|w| w == at).unwrap() - 4);
        refused("w", Refused { index: Some(index), message: &message, errno, note: None, offset })
    }

    #[test]
    fn a_part_that_is_missing_is_named_with_its_module() {
        // In a rule the kernel points at the element, whose first attribute is the name.
        let name = |name: &str| [&[name.len() as u8 + 5, 0, 1, 0][..], name.as_bytes(), b"\0"].concat();
        for (label, at, part, fix) in [
            ("table inet t chain forward rule 1", name("ct"), "expression \"ct\"", "modprobe nft_ct"),
            ("table inet t chain postrouting rule 1", name("masq"), "\"masq\"", "CONFIG_NFT_MASQ"),
            ("table inet t chain postrouting", b"nat\0".to_vec(), "type nat", "modprobe nft_chain_nat"),
        ] {
            let error = refusal(label, libc::ENOENT, Some(&at));
            assert_eq!(
                (error.kind(), error.errno()),
                (ErrorKind::Unsupported, Some(libc::ENOENT)),
                "{error}"
            );
            let text = error.to_string();
            assert!(text.contains(part) && text.contains(fix), "{text}");
        }
        let error = refusal("table inet t", libc::EOPNOTSUPP, None).to_string();
        assert!(error.contains("family inet") && error.contains("CONFIG_NF_TABLES_INET"), "{error}");
        // What names something that is not there is that, and so is what the kernel does not point at.
        let immediate = name("immediate");
        for at in [Some(&immediate[..]), None] {
            let error = refusal("table inet t chain forward rule 2", libc::ENOENT, at);
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }

    #[test]
    fn nobody_who_reads_batches_is_no_nf_tables() {
        let message = vec![0; 20];
        let none = |errno| Refused { index: None, message: &message, errno, note: None, offset: None };
        let error = refused("w", none(libc::EOPNOTSUPP));
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("modprobe nf_tables"), "{error}");
        assert_eq!(refused("w", none(libc::EPERM)).kind(), ErrorKind::Permission);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_offset_into_any_bytes_is_survived(
            message in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120), offset in 0usize..200, errno in 1..120,
        ) {
            let offset = Some(offset);
            drop(refused("w", Refused { index: Some(0), message: &message, errno, note: None, offset }));
        }
    }
}
