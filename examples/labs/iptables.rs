//! iptables: where its chains hang, what its rules do, and what it remembers of connections.

use palisade::net::Netns;
use palisade::net::iptables::{BuiltinChain, BuiltinTable, Iptables};
use palisade::net::nft::{Policy, Table};
use palisade::ns::{Namespace, Namespaces};

use crate::lab::{Body, Lab, Needs, Report, Result};
use crate::wires::{self, PATIENT, SHORT, ask, ask_udp, echo, ping, serve, word};

const NETWORK: Namespaces = Namespaces::EMPTY.with(Namespace::Net).with(Namespace::Mount);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 68,
        commands: "iptables -t filter|nat|mangle|raw|security -L",
        mechanism: "The kernel has five hooks, and knows no tables: a table of iptables is a set of chains that hang on \
                    hooks with a fixed priority, and the priorities are the order in which the tables act at one hook. \
                    Between raw (-300) and mangle (-150) the connection is looked up (-200).",
        shows: "five tables, their chains and their order at each hook, from the model and as the kernel reports it",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(tables_and_chains),
    },
    Lab {
        number: 69,
        commands: "iptables -A INPUT -p tcp --dport 22 -j ACCEPT\niptables -A INPUT -p tcp --dport 80 -j DROP",
        mechanism: "The first rule that fits and has a verdict decides; the policy of the chain does if none does. DROP says \
                    nothing, so that the client waits; REJECT answers, with ICMP or a TCP reset.",
        shows: "four servers behind four rules: an answer, silence, and two kinds of refusal; the counters have seen it",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(rules),
    },
    Lab {
        number: 70,
        commands: "iptables -P INPUT DROP\niptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\nconntrack -L",
        mechanism: "The kernel keeps an entry for each connection: NEW until an answer was seen, ESTABLISHED afterwards. An \
                    ICMP error about a known connection is RELATED to it. So one rule lets answers in and nobody else.",
        shows: "who begins is answered, who comes unasked is not; an ICMP error gets in because it is RELATED",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(connection_tracking),
    },
];

/// The tables of these command lines, in force in a namespace.
pub(crate) fn iptables(space: &Netns, lines: &[&str]) -> Result<Iptables> {
    let mut tables = Iptables::v4();
    for line in lines {
        tables.run(line)?;
    }
    space.apply(&tables.ruleset())?;
    Ok(tables)
}

fn tables_and_chains(report: &mut Report) -> Result {
    let base = |table: BuiltinTable, chain| table.base(chain, Policy::Accept);
    let rows = BuiltinTable::ALL.map(|table| {
        let cells = BuiltinChain::ALL
            .map(|chain| base(table, chain).map_or("".into(), |base| base.priority.0.to_string()));
        [table.name().to_owned()].into_iter().chain(cells)
    });
    let head: Vec<&str> = ["table"].into_iter().chain(BuiltinChain::ALL.map(BuiltinChain::name)).collect();
    report.table("the priority of each chain at its hook", &head, rows);

    let wanted = [
        ("raw", "PREROUTING OUTPUT"),
        ("mangle", "PREROUTING INPUT FORWARD OUTPUT POSTROUTING"),
        ("nat", "PREROUTING INPUT OUTPUT POSTROUTING"),
        ("filter", "INPUT FORWARD OUTPUT"),
        ("security", "INPUT FORWARD OUTPUT"),
    ];
    let space = wires::space()?;
    let mut lines = Vec::new();
    for (table, chains) in wanted {
        lines.extend(
            chains
                .split(' ')
                .map(|chain| format!("iptables -t {table} -A {chain} -p tcp --dport 9 -j ACCEPT")),
        );
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    iptables(&space, &lines)?;
    // What the kernel says of each rule's chain, against the model.
    let kernel = space.ruleset()?;
    for (name, chains) in wanted {
        let table =
            BuiltinTable::ALL.into_iter().find(|table| table.name() == name).ok_or("no such table")?;
        let there = kernel
            .tables()
            .iter()
            .find(|table: &&Table| table.name() == name)
            .ok_or("the table is not there")?;
        let hung: Vec<&str> = there
            .chains()
            .iter()
            .filter(|chain| !chain.rules().is_empty())
            .map(palisade::net::nft::Chain::name)
            .collect();
        let mut expected: Vec<&str> = chains.split(' ').collect();
        let mut seen = hung.clone();
        expected.sort_unstable();
        seen.sort_unstable();
        report.equal(format!("the kernel has a rule in each chain of {name}"), seen, expected);
        let right = there.chains().iter().all(|chain| {
            let model = BuiltinChain::by_name(chain.name()).and_then(|chain| base(table, chain));
            chain.hooked().is_some() && chain.hooked() == model.as_ref()
        });
        report.check(format!("hook and priority of each chain of {name} are those of the model"), right);
    }
    let order = |chain| {
        let mut at: Vec<_> = BuiltinTable::ALL
            .into_iter()
            .filter_map(|table| Some((base(table, chain)?.priority, table.name())))
            .collect();
        at.sort();
        at.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    };
    report.equal("what arrives passes", order(BuiltinChain::Prerouting), "raw mangle nat");
    report.equal(
        "what is sent from here passes",
        order(BuiltinChain::Output),
        "raw mangle nat filter security",
    );
    report.equal("what leaves passes", order(BuiltinChain::Postrouting), "mangle nat");
    Ok(())
}

fn rules(report: &mut Report) -> Result {
    let (client, server) = wires::pair([10, 0, 0, 1], [10, 0, 0, 2])?;
    let at = [10, 0, 0, 2];
    let ports = [22, 80, 81, 82];
    for port in ports {
        serve(&server, port)?;
    }
    let before: Vec<String> =
        ports.iter().map(|&port| Ok(word(&ask(&client, (at, port), PATIENT)?))).collect::<Result<_>>()?;
    let lines = [
        "iptables -A INPUT -s 10.0.0.0/24 -i eth0 -p tcp --dport 22 -j ACCEPT",
        "iptables -A INPUT -p tcp --dport 80 -j DROP",
        "iptables -A INPUT -p tcp --dport 81 -j REJECT",
        "iptables -A INPUT -d 10.0.0.2 -p tcp --dport 82 -j REJECT --reject-with tcp-reset",
    ];
    iptables(&server, &lines)?;
    let mut after = Vec::new();
    for port in ports {
        let patience = if port == 80 { SHORT } else { PATIENT };
        after.push(word(&ask(&client, (at, port), patience)?));
    }
    let rows =
        lines.iter().zip(&before).zip(&after).map(|((line, before), after)| [line, before.as_str(), after]);
    report.table("the same four connections", &["rule", "without", "with"], rows);
    report.check("without rules all four answer", before.iter().all(|word| word == "answer to 10.0.0.1"));
    report.equal("ACCEPT: an answer", after[0].as_str(), "answer to 10.0.0.1");
    report.equal("DROP: silence", after[1].as_str(), "silence");
    report.equal("REJECT: refused, by an ICMP error", after[2].as_str(), "refused");
    report.equal("REJECT with a TCP reset: refused", after[3].as_str(), "refused");
    let text = server.ruleset()?.to_string();
    let counted = |port: &str| {
        text.lines().any(|line| line.contains(&format!("dport {port} ")) && !line.contains("packets 0 "))
    };
    for port in ["22", "80", "81", "82"] {
        report.check(format!("the rule for port {port} has counted packets"), counted(port));
    }
    Ok(())
}

fn connection_tracking(report: &mut Report) -> Result {
    let (a, b) = wires::pair([10, 0, 0, 1], [10, 0, 0, 2])?;
    serve(&a, 80)?;
    serve(&b, 80)?;
    echo(&a, 53)?;
    let to_a = |patience| ask(&b, ([10, 0, 0, 1], 80), patience);
    let to_b = |patience| ask(&a, ([10, 0, 0, 2], 80), patience);

    iptables(&b, &["iptables -P INPUT DROP"])?;
    report.equal("B takes nothing, so not the answers to its own calls", word(&to_a(SHORT)?), "silence");
    iptables(
        &b,
        &["iptables -P INPUT DROP", "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"],
    )?;
    report.equal("with ESTABLISHED accepted, B is answered", word(&to_a(PATIENT)?), "answer to 10.0.0.2");
    report.check("over UDP too", ask_udp(&b, ([10, 0, 0, 1], 53), PATIENT)?.is_ok());
    report.equal("who comes unasked is dropped as NEW", word(&to_b(SHORT)?), "silence");

    // A connection that stays open is an entry.
    let _listener = a.run(|| std::net::TcpListener::bind("10.0.0.1:81"))??;
    let held = b.run(|| std::net::TcpStream::connect("10.0.0.1:81"))??;
    let port = held.local_addr()?.port();
    let entry = b.connections()?.into_iter().find(|entry| entry.original.source_port == port);
    let entry = entry.ok_or("the connection is not tracked")?;
    report.note(&entry);
    report.equal("its state is", entry.tcp_state, Some("ESTABLISHED"));
    report.check("the kernel has seen an answer", entry.seen_reply);
    report.equal(
        "its reply is its original, turned around",
        (entry.reply.source, entry.reply.destination_port),
        (entry.original.destination, entry.original.source_port),
    );

    // Nobody listens on that UDP port: an ICMP error comes back, which is no part of the connection.
    let refused = |report: &mut Report, what: &str, kind| -> Result {
        let error = ask_udp(&b, ([10, 0, 0, 1], 9), SHORT)?.err().map(|error| error.kind());
        report.check(
            what,
            error.is_some_and(|error| {
                error == kind
                    || kind == std::io::ErrorKind::WouldBlock && error == std::io::ErrorKind::TimedOut
            }),
        );
        Ok(())
    };
    refused(report, "an ICMP error is not ESTABLISHED: B never hears of it", std::io::ErrorKind::WouldBlock)?;
    iptables(
        &b,
        &["iptables -P INPUT DROP", "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"],
    )?;
    refused(
        report,
        "it is RELATED: now B is told that the port is closed",
        std::io::ErrorKind::ConnectionRefused,
    )?;
    report.check("and pings that B sends come back", ping(&b, [10, 0, 0, 1])?);
    report.check("while pings to B do not", !ping(&a, [10, 0, 0, 2])?);
    Ok(())
}
