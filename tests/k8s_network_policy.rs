//! Manifests: what is read, and what is refused with words that help.
#![cfg(feature = "k8s")]

use palisade::ErrorKind;
use palisade::k8s::documents;
use palisade::net::nft::Protocol;
use palisade::net::policy::{Direction, Peer, Policy, PortSelector, Ports, Selector};
use proptest::prelude::*;
use serde_json::{Value, json};

fn policy(text: &str) -> palisade::Result<Policy> {
    documents(text)?[0].network_policy()
}

/// A policy whose spec is this.
fn with_spec(spec: &str) -> palisade::Result<Policy> {
    policy(&format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
    ))
}

#[test]
fn the_example_of_the_reference_documentation() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: test-network-policy
  namespace: default
spec:
  podSelector:
    matchLabels:
      role: db
  policyTypes:
  - Ingress
  - Egress
  ingress:
  - from:
    - ipBlock:
        cidr: 172.17.0.0/16
        except:
        - 172.17.1.0/24
    - namespaceSelector:
        matchLabels:
          project: myproject
    - podSelector:
        matchLabels:
          role: frontend
    ports:
    - protocol: TCP
      port: 6379
  egress:
  - to:
    - ipBlock:
        cidr: 10.0.0.0/24
    ports:
    - protocol: TCP
      port: 5978
";
    let policy = policy(text).unwrap();
    assert_eq!(
        (policy.id(), policy.pods),
        ("default/test-network-policy".into(), Selector::label("role", "db"))
    );
    let (ingress, egress) = (policy.ingress.unwrap(), policy.egress.unwrap());
    let peers: Vec<String> = ingress[0].peers.iter().map(ToString::to_string).collect();
    assert_eq!(
        peers,
        ["addresses 172.17.0.0/16 except 172.17.1.0/24", "groups project=myproject", "pods role=frontend"]
    );
    assert_eq!(ingress[0].ports, [PortSelector::tcp(6379)]);
    assert_eq!(
        (egress[0].peers[0].to_string(), egress[0].ports[0].clone()),
        ("addresses 10.0.0.0/24".into(), PortSelector::tcp(5978))
    );
    assert_eq!((ingress.len(), egress.len()), (1, 1));
}

#[test]
fn defaults_are_those_of_the_api_server() {
    let directions =
        |spec| with_spec(spec).map(|p| (p.ingress.map(|r| r.len()), p.egress.map(|r| r.len()))).unwrap();
    assert_eq!(directions("{podSelector: {}}"), (Some(0), None));
    assert_eq!(directions("{}"), (Some(0), None), "no selector selects all");
    assert_eq!(directions("{egress: []}"), (Some(0), None), "an empty list of egress rules is none");
    assert_eq!(directions("{egress: [{}]}"), (Some(0), Some(1)));
    assert_eq!(directions("{policyTypes: [Egress]}"), (None, Some(0)));
    assert_eq!(
        directions("{policyTypes: [Egress], ingress: [{}]}"),
        (None, Some(0)),
        "left out by the types"
    );
    assert_eq!(directions("{ingress: null, policyTypes: []}"), (Some(0), None));
    let rule = with_spec("{ingress: [{}]}").unwrap().ingress.unwrap().remove(0);
    assert!(rule.peers.is_empty() && rule.ports.is_empty(), "an empty rule allows everything");
    assert_eq!(with_spec("{}").unwrap().group, "default");
}

#[test]
fn one_item_is_and_two_items_are_or() {
    let one = with_spec("{ingress: [{from: [{podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}]}]}")
        .unwrap();
    let two =
        with_spec("{ingress: [{from: [{podSelector: {matchLabels: {a: b}}}, {namespaceSelector: {}}]}]}")
            .unwrap();
    let peers = |policy: Policy| policy.ingress.unwrap().remove(0).peers;
    let pods = Selector::label("a", "b");
    assert_eq!(peers(one), [Peer::PodsInGroups { pods: pods.clone(), groups: Selector::all() }]);
    assert_eq!(peers(two), [Peer::Pods(pods), Peer::Groups(Selector::all())]);
}

#[test]
fn ports_are_numbers_names_and_ranges() {
    let ports = |text: &str| {
        with_spec(&format!("{{ingress: [{{ports: [{text}]}}]}}"))
            .unwrap()
            .ingress
            .unwrap()
            .remove(0)
            .ports
            .remove(0)
    };
    assert_eq!(ports("{}"), PortSelector { protocol: Protocol::TCP, ports: Ports::All });
    assert_eq!(ports("{protocol: UDP, port: 53}"), PortSelector::udp(53));
    assert_eq!(ports("{protocol: SCTP}"), PortSelector { protocol: Protocol::SCTP, ports: Ports::All });
    assert_eq!(ports("{port: http}"), PortSelector::named(Protocol::TCP, "http"));
    assert_eq!(ports("{port: 32000, endPort: 32768}").ports, Ports::Range(32000, 32768));
}

#[test]
fn expressions() {
    let all = "[{key: a, operator: In, values: [x, y]}, {key: b, operator: NotIn, values: [z]}, {key: c, operator: Exists}, \
               {key: d, operator: DoesNotExist}]";
    let policy =
        with_spec(&format!("{{podSelector: {{matchLabels: {{e: f}}, matchExpressions: {all}}}}}")).unwrap();
    assert_eq!(policy.pods.to_string(), "e=f,a in (x,y),b notin (z),c,!d");
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("{podselector: {}}", "spec.podselector: unknown field `podselector`"),
        ("{ingress: [{form: []}]}", "spec.ingress[0].form: unknown field `form`"),
        ("{ingress: [{to: []}]}", "unknown field `to`"),
        ("{policyTypes: [ingress]}", "spec.policyTypes: \"ingress\" is neither"),
        ("{ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]: one of podSelector"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}", "ipBlock stands alone"),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]}",
            "spec.egress[0].to[0]: \"10.0.0.0\": addr/length",
        ),
        ("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}", "length 0 to 32"),
        ("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/+8}}]}]}", "no length"),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "a block inside 10.0.0.0/8",
        ),
        ("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", "nothing would be left"),
        ("{ingress: [{ports: [{port: 0}]}]}", "0 is no port"),
        ("{ingress: [{ports: [{port: 65536}]}]}", "spec.ingress[0].ports[0].port: a port from 1 to 65535"),
        ("{ingress: [{ports: [{port: '80'}]}]}", "one letter at least"),
        ("{ingress: [{ports: [{endPort: 80}]}]}", "endPort needs a port"),
        ("{ingress: [{ports: [{port: http, endPort: 80}]}]}", "that is a number"),
        ("{ingress: [{ports: [{port: 90, endPort: 80}]}]}", "80 is before port 90"),
        ("{ingress: [{ports: [{protocol: tcp}]}]}", "\"tcp\" is none of TCP, UDP, SCTP"),
        ("{podSelector: {matchLabels: {app: -x}}}", "spec.podSelector: label app: value \"-x\""),
        ("{podSelector: {matchLabels: {a b: x}}}", "label key \"a b\""),
        ("{podSelector: {matchLabels: {app: 1}}}", "spec.podSelector.matchLabels.app: invalid type: integer"),
        ("{podSelector: {matchExpressions: [{key: a, operator: In}]}}", "In needs values"),
        ("{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}", "takes no values"),
        ("{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}", "\"Gt\" is none of"),
    ];
    for (spec, message) in cases {
        let error = with_spec(spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains(message), "{spec}: {error}");
    }
    let wrong = |text: &str| policy(text).unwrap_err().to_string();
    let old = wrong("{apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: {name: p}}");
    assert!(
        old.contains("\"extensions/v1beta1\", but NetworkPolicy of networking.k8s.io/v1 is wanted"),
        "{old}"
    );
    let nameless = wrong("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, spec: {}}");
    assert!(nameless.contains("metadata.name: \"\""), "{nameless}");
}

#[test]
fn texts_that_could_mean_two_things_are_refused() {
    let cases: [(&str, &str); 14] = [
        ("a: 1\na: 2", "line 2: \"a\" is there twice"),
        ("{a: {b: 1, b: 1}}", "line 1: \"b\" is there twice"),
        ("mode: 0644", "octal to some"),
        ("x: &x {a: 1}\ny:\n  <<: *x", "line 3: merge keys"),
        ("[a]: 1", "a key is a text"),
        ("a: !thing 1", "a tag that means nothing"),
        ("a: !thing [1]", "a tag that means nothing"),
        ("just text", "is a mapping"),
        ("- a\n- b", "is a mapping"),
        ("kind: List\nitems: {}", "a sequence of items"),
        ("a: *b", "not YAML"),
        ("a: [1", "not YAML"),
        ("a: &a [*a]", "an alias inside"),
        ("a: \"\u{1}", "not YAML"),
    ];
    for (text, message) in cases {
        let error = documents(text).unwrap_err().to_string();
        assert!(error.contains(message), "{text:?}: {error}");
    }
    assert!(documents([b'a', 0xff]).unwrap_err().to_string().contains("utf-8"));
    let deep = |levels| documents(format!("a: {}1{}", "[".repeat(levels), "]".repeat(levels)));
    assert!(deep(63).is_ok());
    assert!(deep(64).unwrap_err().to_string().contains("nested deeper"));
    assert!(deep(100_000).is_err());
    let large = vec![b'#'; 5 << 20];
    assert!(documents(large).unwrap_err().to_string().contains("bytes are more"));
}

#[test]
fn aliases_multiply_within_measure() {
    let mut laughs = String::from("a0: &a0 [lol, lol]\n");
    for n in 1..40 {
        laughs.push_str(&format!("a{n}: &a{n} [*a{p}, *a{p}]\n", p = n - 1));
    }
    assert!(documents(&laughs).unwrap_err().to_string().contains("beyond measure"));
    let two =
        documents("apiVersion: v1\nkind: Namespace\nmetadata: &m {name: a, labels: {x: *m}}").unwrap_err();
    assert!(two.to_string().contains("an alias inside"), "{two}");
    let fine = documents("apiVersion: v1\nkind: &n Namespace\nmetadata: {name: a, labels: {x: *n}}").unwrap();
    assert_eq!(fine[0].namespace_group().unwrap().labels["x"], "Namespace");
}

#[test]
fn documents_lists_and_json_are_split() {
    let text = "# nothing\n---\n---\nkind: A\n...\n---\nkind: List\nitems: [{kind: B}, {kind: C, metadata: {namespace: ''}}]\n";
    let split = documents(text).unwrap();
    let kinds: Vec<&str> = split.iter().map(palisade::k8s::Document::kind).collect();
    assert_eq!(kinds, ["A", "B", "C"]);
    assert_eq!((split[2].namespace(), split[2].name(), split[2].api_version()), ("default", "", ""));
    let json = documents("{\n\t\"kind\": \"List\",\n\t\"items\": [{\"kind\": \"\\u0042\"}]\n}").unwrap();
    assert_eq!(json[0].kind(), "B");
}

#[test]
fn pods_and_namespaces() {
    let pod = documents(
        "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: x, \
         initContainers: [{name: a, ports: [{name: init, containerPort: 1}]}, \
         {name: b, restartPolicy: Always, ports: [{name: beside, containerPort: 2, protocol: UDP}]}], \
         containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}, {containerPort: 81}]}]}}",
    )
    .unwrap()[0]
        .network_pod()
        .unwrap();
    let ports: Vec<(&str, Protocol, u16)> =
        pod.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect();
    assert_eq!(ports, [("http", Protocol::TCP, 80), ("beside", Protocol::UDP, 2)]);
    assert_eq!((pod.id(), pod.labels["app"].as_str()), ("shop/web".into(), "web"));
    let group = documents("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {project: x}}}")
        .unwrap()[0]
        .namespace_group()
        .unwrap();
    assert_eq!(
        (group.labels["project"].as_str(), group.labels["kubernetes.io/metadata.name"].as_str()),
        ("x", "shop")
    );
}

#[test]
fn a_direction_that_is_left_out_is_open() {
    let policy = with_spec("{policyTypes: [Egress]}").unwrap();
    assert_eq!(policy, Policy::new("default", "p", Selector::all()).isolate(Direction::Egress));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        any::<String>().prop_map(Value::String),
        "[-~0-9a-z:#{}\\[\\]&*!|>'\"%@` ]{0,8}".prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map("[a-z<~ ]{0,6}|\\PC{0,6}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// JSON is YAML: what serde_json prints, short or with line breaks, comes out again as it was.
    #[test]
    fn json_comes_out_as_it_went_in(value in any_json()) {
        let whole = json!({ "kind": "Any", "value": value });
        for text in [whole.to_string(), serde_json::to_string_pretty(&whole).unwrap()] {
            let read = documents(&text).unwrap();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(serde_json::from_str::<Value>(&read[0].to_string()).unwrap(), whole.clone(), "{}", text);
        }
    }

    #[test]
    fn no_text_is_too_strange(text in "[a-z0-9:&*!|>'\"%@`#{}\\[\\], \n\t-]{0,200}") {
        if let Ok(read) = documents(&text) {
            for document in read {
                prop_assert!(document.network_policy().is_err());
            }
        }
    }
}
