//! How long sandboxes take to get onto a bridge and off again, each with two published ports.
//!
//! `unshare --user --map-root-user --net cargo bench -p palisade-net` (or as root). Everything happens in namespaces that
//! the program makes. The figures of a run are its own: median, 90th percentile and total.

use std::time::{Duration, Instant};

use palisade_net::nft::Protocol;
use palisade_net::policy::{
    Cluster, Direction, Group, Options, Peer, Pod, Policy, PolicyRule, PortSelector, Selector,
};
use palisade_net::{Bridge, BridgeSpec, IfName, IpPrefix, Netns, PortSpec, Result};

const SANDBOXES: u16 = 100;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let total: Duration = times.iter().sum();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!("{what:<28} median {:>9.1?}  p90 {:>9.1?}  total {total:>8.1?}", at(50), at(90));
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let out = work()?;
    times.push(begin.elapsed());
    Ok(out)
}

fn main() -> Result<()> {
    // `cargo test --benches` passes this: then once is enough to see that it runs.
    let count = if std::env::args().any(|arg| arg == "--test") { 2 } else { SANDBOXES };
    let carrier = match Netns::create() {
        Ok(ns) => ns,
        Err(e) => {
            println!("SKIP {e}");
            return Ok(());
        }
    };
    let watch = Netns::open(&carrier)?;
    let [mut made, mut attached, mut policies, mut detached, mut gone] = [const { Vec::new() }; 5];
    let networks: [IpPrefix; 2] = ["10.5.0.0/16".parse()?, "fd05::/64".parse()?];
    let spec = networks.iter().fold(BridgeSpec::new(IfName::new("br0")?), |spec, n| spec.network(*n));
    let bridge = Bridge::create(carrier, &spec)?;
    let mut sandboxes = Vec::new();
    for n in 0..count {
        let ns = timed(&mut made, Netns::create)?;
        let spec = PortSpec::new().publish(Protocol::TCP, 8000 + n, 80).publish(Protocol::UDP, 8000 + n, 53);
        let port = timed(&mut attached, || bridge.attach(&ns, &spec))?;
        sandboxes.push((ns, port));
    }
    // Every third may be reached by every second: a table anew for each pod that comes.
    let mut cluster = Cluster::new().group(Group::new("g"));
    let third = Selector::label("third", "yes");
    let rule = PolicyRule::everything()
        .peer(Peer::Pods(Selector::label("second", "yes")))
        .port(PortSelector::tcp(80));
    cluster = cluster.policy(Policy::new("g", "p", third).allow(Direction::Ingress, rule));
    for (n, (_, port)) in sandboxes.iter().enumerate() {
        let mut pod = Pod::new("g", format!("pod{n}"));
        pod.addresses = port.addresses().to_vec();
        for (key, every) in [("second", 2), ("third", 3)] {
            if n % every == 0 {
                pod = pod.label(key, "yes");
            }
        }
        cluster = cluster.pod(pod);
        timed(&mut policies, || watch.apply(&cluster.forward_table("policy", &Options::new())?.into()))?;
    }
    for (ns, port) in sandboxes {
        timed(&mut detached, || port.detach())?;
        timed(&mut gone, || {
            drop(ns);
            Ok(())
        })?;
    }
    drop(bridge);
    watch.flush_ruleset()?;
    report("namespace", made);
    report("attach with 2 ports", attached);
    report("policies anew", policies);
    report("detach", detached);
    report("drop of the namespace", gone);
    let links = watch.links()?.len() - 1;
    // The bridge itself speaks to multicast groups.
    let of_sandboxes = watch
        .connections()?
        .iter()
        .filter(|c| {
            !c.original.destination.is_multicast() && networks.iter().any(|n| n.contains(c.original.source))
        })
        .count();
    let tables = watch.ruleset()?.tables().len();
    println!("left behind: {links} links, {tables} tables, {of_sandboxes} connections of sandboxes");
    Ok(())
}
