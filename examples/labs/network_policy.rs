//! NetworkPolicy: read from YAML, decided by the evaluator, enforced by the kernel, and the same answer from both.

use std::net::IpAddr;

use palisade::k8s::documents;
use palisade::net::nft::Protocol;
use palisade::net::policy::{Cluster, Group, Options, Pod, Policy, Reason, Traffic};
use palisade::net::{Bridge, BridgeSpec, Netns};
use palisade::ns::{Namespace, Namespaces, Ns, kind};
use palisade::{Child, Network, Sandbox};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result, skip};
use crate::wires::{self, PATIENT, SHORT, ask, name, serve};

const NETWORK: Namespaces = Namespaces::EMPTY.with(Namespace::Net).with(Namespace::Mount);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 82,
        commands: "kubectl apply -f np1.yaml -f np2.yaml -f np3.yaml\nkubectl exec -it np3-… -- curl np2",
        mechanism: "A pod that no policy selects is not isolated: everybody reaches it, and it reaches everybody. Names are \
                    lines of the pod's /etc/hosts here, where a cluster has its DNS.",
        shows: "three pods, nine connections, all open; each pod finds the others by name",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(all_open),
    },
    Lab {
        number: 83,
        commands: "kubectl apply -f np1-ingress.yaml -f np2-ingress.yaml -f np3-ingress.yaml\n\
                   kubectl delete networkpolicy np1-ingress",
        mechanism: "A policy isolates the pods that it selects; then only what some policy's rule allows passes, and answers \
                    to that. The compiler makes one nftables table of all policies, put in the place of the last one in \
                    one transaction: a chain for each isolated pod, which ends in a drop.",
        shows: "the study's three documents, word for word: nine cells, the same from the evaluator, the kernel and the \
                study, in both IP families; a deleted policy opens again",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(three_policies),
    },
    Lab {
        number: 84,
        commands: "kubectl apply -f test-network-policy.yaml",
        mechanism: "Peers of one list are alternatives, and so are ports; a rule wants one of each. podSelector and \
                    namespaceSelector in one item are both wanted, as two items either will do: one dash more or less. \
                    except cuts holes into an ipBlock.",
        shows: "the reference documentation's policy: ingress from a block with a hole, a namespace and pods, egress to a \
                block; evaluator and kernel agree on each edge",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(identifiers_and_ports),
    },
    Lab {
        number: 85,
        commands: "gcloud container clusters create --enable-network-policy",
        mechanism: "A NetworkPolicy is an object, and the API server stores it whether anybody acts on it or not. Without a \
                    network plugin that does, all stays open, and nothing says so.",
        shows: "policies that nobody enforces: the evaluator denies four connections, the kernel none; a warning names them",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(nobody_enforces),
    },
    Lab {
        number: 86,
        commands: "podSelector | namespaceSelector | ipBlock",
        mechanism: "A security group names who may come by group or by address block; a policy has three identifiers: pods by \
                    label, namespaces by label, address blocks. The evaluator says for each connection which policy, which \
                    rule and which identifier decided.",
        shows: "one edge for each identifier, and one for none, with the evaluator's reason",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(reasons),
    },
];

/// The study's, word for word.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: np1-ingress
spec:
  podSelector:
    matchLabels:
      app: np1
  policyTypes:
  - Ingress
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: np2
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: np2-ingress
spec:
  podSelector:
    matchLabels:
      app: np2
  policyTypes:
  - Ingress
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: np3
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: np3-ingress
spec:
  podSelector:
    matchLabels:
      app: np3
  policyTypes:
  - Ingress
";

/// What the study saw: from, to, and whether it got through.
const STUDY: [[bool; 3]; 3] = [[true, false, false], [true, true, false], [false, true, true]];

/// The reference documentation's example.
const EXAMPLE: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: test-network-policy, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
    - namespaceSelector: {matchLabels: {project: myproject}}
    - podSelector: {matchLabels: {role: frontend}}
    ports: [{protocol: TCP, port: 6379}]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]
    ports: [{protocol: TCP, port: 5978}]
";

fn policies(manifest: &str) -> Result<Vec<Policy>> {
    Ok(documents(manifest)?
        .iter()
        .map(palisade::k8s::Document::network_policy)
        .collect::<palisade::Result<_>>()?)
}

/// Three sandboxes on a bridge of both families, each with a server, and the cluster that they are.
struct Pods {
    bridge: Bridge,
    children: Vec<Child>,
    spaces: Vec<Netns>,
    cluster: Cluster,
}

impl Pods {
    fn new() -> Result<Self> {
        let spec =
            BridgeSpec::new(name("br0")?).network("10.5.0.0/24".parse()?).network("fd05::/64".parse()?);
        let bridge = Bridge::create(wires::space()?, &spec)?;
        let mut cluster = Cluster::new().group(Group::new("default"));
        let (mut children, mut spaces) = (Vec::new(), Vec::new());
        for n in 1..=3u8 {
            let mut network = Network::bridge(&bridge).address([10, 5, 0, 10 + n]).address(v6(n));
            for other in 1..=3u8 {
                network = network.add_host(format!("np{other}"), [10, 5, 0, 10 + other]);
            }
            let child =
                Sandbox::builder().network(network).build()?.command("/bin/sleep").arg("1000").spawn()?;
            let space = Netns::open(Ns::<kind::Net>::of_pidfd(child.pidfd())?)?;
            space.wait_ready(&name("eth0")?, PATIENT)?;
            serve(&space, 80)?;
            let port = child.port().ok_or("no place on the bridge")?;
            cluster.node_addresses = port.gateways().to_vec();
            let pod = Pod::new("default", format!("np{n}")).label("app", format!("np{n}"));
            cluster = cluster.pod(port.addresses().iter().fold(pod, |pod, addr| pod.address(*addr)));
            children.push(child);
            spaces.push(space);
        }
        Ok(Self { bridge, children, spaces, cluster })
    }

    fn evaluate(&self, v4: bool) -> Result<[[bool; 3]; 3]> {
        matrix(|from, to| {
            let traffic = Traffic {
                source: self.address(from, v4),
                destination: self.address(to, v4),
                protocol: Protocol::TCP,
                port: 80,
            };
            Ok(self.cluster.evaluate(&traffic).allowed())
        })
    }

    /// What connections come of it. `expected` says only how long to wait.
    fn probe(&self, v4: bool, expected: &[[bool; 3]; 3]) -> Result<[[bool; 3]; 3]> {
        matrix(|from, to| {
            let patience = if expected[from][to] { PATIENT } else { SHORT };
            Ok(ask(&self.spaces[from], (self.address(to, v4), 80), patience)?.is_ok())
        })
    }

    fn address(&self, pod: usize, v4: bool) -> IpAddr {
        self.cluster.pods[pod].addresses[usize::from(!v4)]
    }

    /// Puts the policies that the cluster has now in the place of those that it had.
    fn enforce(&self) -> Result {
        if let Err(error) = self.bridge.netns().filter_bridged() {
            return Err(skip(error));
        }
        let table = self.cluster.forward_table("policy", &Options::new())?;
        self.bridge.netns().apply(&table.into())?;
        // Connections that were allowed go on otherwise.
        Ok(self.bridge.netns().flush_connections()?)
    }
}

fn v6(n: u8) -> IpAddr {
    [0xfd05, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(n)].into()
}

fn matrix(mut cell: impl FnMut(usize, usize) -> Result<bool>) -> Result<[[bool; 3]; 3]> {
    let mut all = [[false; 3]; 3];
    for (from, row) in all.iter_mut().enumerate() {
        for (to, open) in row.iter_mut().enumerate() {
            *open = cell(from, to)?;
        }
    }
    Ok(all)
}

fn show(report: &mut Report, title: &str, matrix: &[[bool; 3]; 3]) {
    let rows = matrix.iter().enumerate().map(|(from, row)| {
        let cells = row.iter().map(|open| if *open { "open" } else { "shut" }.to_owned());
        [format!("np{}", from + 1)].into_iter().chain(cells)
    });
    report.table(title, &["from \\ to", "np1", "np2", "np3"], rows);
}

fn all_open(report: &mut Report) -> Result {
    let pods = Pods::new()?;
    pods.enforce()?;
    let all = [[true; 3]; 3];
    let seen = pods.probe(true, &all)?;
    show(report, "without policies", &seen);
    report.equal("the evaluator says that all nine are open", pods.evaluate(true)?, all);
    report.equal("they are", seen, all);
    for (child, who) in pods.children.iter().zip(["np1", "np2", "np3"]) {
        let script = "for n in 1 2 3; do cat </dev/tcp/np$n/80; echo; done | sort -u";
        let said = kit::text(child.exec("/bin/bash").args(["-c", script]))?;
        let own =
            pods.cluster.pods.iter().find(|pod| pod.name == who).map(|pod| pod.addresses[0].to_string());
        report.equal(format!("{who} reaches np1, np2 and np3 by name, as itself"), Some(said), own);
    }
    Ok(())
}

fn three_policies(report: &mut Report) -> Result {
    let mut pods = Pods::new()?;
    pods.cluster.policies = policies(POLICIES)?;
    report.equal("three policies are read", pods.cluster.policies.len(), 3);
    report.check("each of them selects a pod", pods.cluster.lint().is_empty());
    let evaluated = pods.evaluate(true)?;
    pods.enforce()?;
    let seen = pods.probe(true, &STUDY)?;
    show(report, "with the three policies", &seen);
    report.equal("the evaluator says what the study saw", evaluated, STUDY);
    report.equal("the kernel does what the study saw", seen, STUDY);
    report.equal("over IPv6 too, says the evaluator", pods.evaluate(false)?, STUDY);
    report.equal("and does the kernel", pods.probe(false, &STUDY)?, STUDY);

    pods.cluster.policies.retain(|policy| policy.name != "np1-ingress");
    pods.enforce()?;
    let open = pods.evaluate(true)?;
    let seen = pods.probe(true, &open)?;
    show(report, "np1-ingress deleted", &seen);
    let mut expected = STUDY;
    expected[2][0] = true;
    report.equal("np1 is open to all again, and nothing else is", open, expected);
    report.equal("and so does the kernel", seen, expected);
    pods.cluster.policies.clear();
    pods.enforce()?;
    report.equal("with all deleted all is open", pods.probe(true, &[[true; 3]; 3])?, [[true; 3]; 3]);
    Ok(())
}

/// A pod of the example: where it is, what it is, and whether it may ask the database.
type Example = (&'static str, &'static str, &'static str, [u8; 4], bool);

const PODS: [Example; 4] = [
    ("default", "front", "frontend", [172, 16, 0, 2], true),
    ("mine", "any", "other", [172, 16, 0, 3], true),
    ("other", "front", "frontend", [172, 16, 0, 4], false),
    ("default", "back", "backend", [172, 16, 0, 5], false),
];

fn example() -> Result<Cluster> {
    let namespaces = documents(
        "{apiVersion: v1, kind: Namespace, metadata: {name: default}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: mine, labels: {project: myproject}}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: other}}",
    )?;
    let mut cluster = Cluster::new();
    for namespace in &namespaces {
        cluster = cluster.group(namespace.namespace_group()?);
    }
    cluster = cluster.pod(Pod::new("default", "db").label("role", "db").address([172, 16, 0, 1]));
    for (namespace, name, role, addr, _) in PODS {
        cluster = cluster.pod(Pod::new(namespace, name).label("role", role).address(addr));
    }
    cluster.policies = policies(EXAMPLE)?;
    Ok(cluster)
}

fn identifiers_and_ports(report: &mut Report) -> Result {
    let cluster = example()?;
    let options = Options::new();
    // A router with the pods' network on a bridge, and the blocks of the policy behind other links.
    let host = wires::switch(&[[172, 16, 0, 254].into()])?;
    let spaces = [1u8, 2, 3, 4, 5].map(|n| -> Result<(IpAddr, Netns)> {
        let addr = IpAddr::from([172, 16, 0, n]);
        let space = wires::plug(&host, &format!("pod{n}"), &[addr])?;
        space.add_route(&palisade::net::Route::default_via([172, 16, 0, 254]))?;
        Ok((addr, space))
    });
    let mut spaces = spaces.into_iter().collect::<Result<Vec<_>>>()?;
    for (n, [a, b, c]) in [[172, 17, 0], [172, 17, 1], [10, 0, 0], [10, 0, 1]].into_iter().enumerate() {
        let (addr, gateway) = (IpAddr::from([a, b, c, 9]), IpAddr::from([a, b, c, 254]));
        let (space, link) = (wires::space()?, name(&format!("out{n}"))?);
        host.add_veth(&link, &space, &name("eth0")?)?;
        wires::address(&host, link.as_str(), &[gateway])?;
        wires::address(&space, "eth0", &[addr])?;
        space.add_route(&palisade::net::Route::default_via(gateway))?;
        host.wait_ready(&link, PATIENT)?;
        space.wait_ready(&name("eth0")?, PATIENT)?;
        spaces.push((addr, space));
    }
    host.enable_forwarding()?;
    if let Err(error) = host.filter_bridged() {
        return Err(skip(error));
    }
    host.apply(&cluster.forward_table("policy", &options)?.into())?;
    for (_, space) in &spaces {
        for port in [6379, 6380, 5978] {
            serve(space, port)?;
        }
    }
    let db = IpAddr::from([172, 16, 0, 1]);
    let (inside, outside) = ([172, 17, 0, 9], [172, 17, 1, 9]);
    let mut edges: Vec<(IpAddr, IpAddr, u16, bool)> =
        PODS.iter().map(|pod| (pod.3.into(), db, 6379, pod.4)).collect();
    edges.extend([
        ([172, 16, 0, 2].into(), db, 6380, false),
        (inside.into(), db, 6379, true),
        (outside.into(), db, 6379, false),
        (inside.into(), db, 6380, false),
        (db, [10, 0, 0, 9].into(), 5978, true),
        (db, [10, 0, 0, 9].into(), 6379, false),
        (db, [10, 0, 1, 9].into(), 5978, false),
        (db, [172, 16, 0, 2].into(), 5978, false),
    ]);
    let mut rows = Vec::new();
    for (source, destination, port, expected) in edges {
        let decision = cluster.evaluate(&Traffic { source, destination, protocol: Protocol::TCP, port });
        let (_, from) = spaces.iter().find(|(addr, _)| *addr == source).ok_or("nobody has that address")?;
        let open = ask(from, (destination, port), if expected { PATIENT } else { SHORT })?.is_ok();
        let edge = format!("{source} -> {destination}:{port}");
        let words = |open| if open { "open" } else { "shut" }.to_owned();
        rows.push([edge.clone(), words(decision.allowed()), words(open)]);
        report.equal(format!("{edge}: expected, evaluated, seen"), [decision.allowed(), open], [expected; 2]);
    }
    report.table("the documented example", &["edge", "evaluator", "kernel"], rows);

    // One dash: an item with both selectors, or an item for each.
    let variant = |from: &str| -> Result<[bool; 3]> {
        let manifest = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {{podSelector: {{matchLabels: \
             {{role: db}}}}, ingress: [{{from: [{from}]}}]}}}}"
        );
        let cluster = Cluster { policies: policies(&manifest)?, ..example()? };
        Ok([2u8, 3, 4].map(|n| {
            let traffic =
                Traffic { source: [172, 16, 0, n].into(), destination: db, protocol: Protocol::TCP, port: 1 };
            cluster.evaluate(&traffic).allowed()
        }))
    };
    let (pods, mine) = (
        "podSelector: {matchLabels: {role: frontend}}",
        "namespaceSelector: {matchLabels: {project: myproject}}",
    );
    report.equal(
        "one item with both selectors is AND: nobody is both",
        variant(&format!("{{{pods}, {mine}}}"))?,
        [false; 3],
    );
    report.equal("an item for each is OR", variant(&format!("{{{pods}}}, {{{mine}}}"))?, [true, true, false]);
    report.equal("an empty list of peers is everybody", variant("")?, [true; 3]);
    let deny = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}, spec: {podSelector: {}, policyTypes: [Egress]}}";
    let denied = Cluster { policies: policies(deny)?, ..example()? };
    let out = Traffic { source: db, destination: [10, 0, 0, 9].into(), protocol: Protocol::TCP, port: 5978 };
    report.check(
        "default-deny of egress has to name it, and then nothing leaves",
        !denied.evaluate(&out).allowed(),
    );
    Ok(())
}

fn nobody_enforces(report: &mut Report) -> Result {
    let mut pods = Pods::new()?;
    pods.cluster.policies = policies(POLICIES)?;
    let evaluated = pods.evaluate(true)?;
    let enforced = pods.bridge.netns().ruleset()?.tables().iter().any(|table| table.name() == "policy");
    report.check("no table of policies is in force", !enforced);
    let seen = pods.probe(true, &[[true; 3]; 3])?;
    show(report, "with three policies that nobody enforces", &seen);
    let mut warned = 0;
    for (from, to) in (0..3).flat_map(|from| (0..3).map(move |to| (from, to))) {
        if seen[from][to] && !evaluated[from][to] {
            report.note(format!(
                "WARNING: np{} -> np{}: denied by policy, open in the kernel",
                from + 1,
                to + 1
            ));
            warned += 1;
        }
    }
    report.equal("the policies deny four connections", warned, 4);
    report.equal("all nine are open", seen, [[true; 3]; 3]);
    Ok(())
}

fn reasons(report: &mut Report) -> Result {
    let cluster = example()?;
    let edge = |source: [u8; 4], destination: [u8; 4], port| {
        cluster.evaluate(&Traffic {
            source: source.into(),
            destination: destination.into(),
            protocol: Protocol::TCP,
            port,
        })
    };
    let db = [172, 16, 0, 1];
    let edges = [
        ("pods by label", edge([172, 16, 0, 2], db, 6379), "pods role=frontend"),
        ("namespaces by label", edge([172, 16, 0, 3], db, 6379), "groups project=myproject"),
        ("an address block", edge([172, 17, 0, 9], db, 6379), "addresses 172.17.0.0/16 except 172.17.1.0/24"),
    ];
    for (what, decision, identifier) in edges {
        report.note(&decision);
        let by = match &decision.ingress {
            Reason::Allowed { policy, by: Some(by), .. } => Some((policy.clone(), by.to_string())),
            _ => None,
        };
        let expected = ("default/test-network-policy".to_owned(), identifier.to_owned());
        report.equal(format!("allowed by {what}"), by, Some(expected));
    }
    let denied = edge([172, 17, 1, 9], db, 6379);
    report.note(&denied);
    let isolating = vec!["default/test-network-policy".to_owned()];
    report.equal("denied by none of them", denied.ingress, Reason::Denied { policies: isolating });
    report.equal(
        "whom no policy selects is not isolated",
        edge(db, [172, 16, 0, 5], 1).ingress,
        Reason::NotIsolated,
    );
    Ok(())
}
