//! Networks of containers: cables, a bridge, the way out and in, and two whole containers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use palisade::cgroup::{Bytes, CpuMax, Limits};
use palisade::creds::{Capability, CapabilitySet};
use palisade::fsroot::{Dev, Layers, Proc, Root};
use palisade::net::nft::Protocol;
use palisade::net::{Bridge, BridgeSpec, LinkSettings, Netns, Route};
use palisade::ns::{AnyNs, Namespace, Namespaces, Ns, kind, unpersist};
use palisade::{Child, ExitCause, Network, Sandbox, SandboxBuilder, Stdio};

use crate::iptables::iptables;
use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};
use crate::wires::{self, PATIENT, SHORT, ask, ask_udp, echo, name, ping, serve, word};

const NETWORK: Namespaces = Namespaces::EMPTY.with(Namespace::Net).with(Namespace::Mount);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 36,
        commands: "ip link add veth0 type veth peer name veth1\nip netns add RED; ip netns add BLUE\n\
                   ip link set veth0 netns RED; ip link set veth1 netns BLUE\n\
                   ip netns exec RED ip addr add 11.11.11.2/24 dev veth0\nping 11.11.11.3",
        mechanism: "A network namespace has its own devices, addresses, routes, neighbours, rules, sockets and \
                    /proc/net; a new one has only a loopback that is down. A veth pair is a cable: what enters one end \
                    leaves the other, in whichever namespaces they are. It ends with either end.",
        shows: "RED and BLUE talk over a cable of their own, the host has no way to them; one end deleted, both are gone",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(cable),
    },
    Lab {
        number: 71,
        commands: "ip link add br0 type bridge; ip link set reth1 master br0; ip link set beth1 master br0\n\
                   iptables -t filter -A FORWARD -s 11.11.11.0/24 -j ACCEPT",
        mechanism: "A bridge is a switch: it learns behind which port a MAC is. With br_netfilter the kernel shows what it \
                    switches to iptables' FORWARD chain as well; Docker sets that chain's policy to DROP, and so even \
                    neighbours on one bridge need a rule.",
        shows: "over a bridge all is open; FORWARD with policy DROP closes it, one rule opens it again",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(bridge_and_forward),
    },
    Lab {
        number: 72,
        commands: "ip route add default via 11.11.11.1\nsysctl -w net.ipv4.ip_forward=1\n\
                   iptables -t nat -A POSTROUTING -s 11.11.11.0/24 ! -o br0 -j MASQUERADE\n\
                   iptables -t nat -A PREROUTING ! -i br0 -p tcp --dport 8080 -j DNAT --to 11.11.11.2:80\nconntrack -L",
        mechanism: "A packet from 11.11.11.2 may get out, but nobody outside knows the way back. MASQUERADE gives it the \
                    address of the link by which it leaves, and the connection's entry turns the answer back. DNAT does \
                    the same for the destination: that is what docker -p is.",
        shows: "no forwarding: no; forwarding only: no; with MASQUERADE: yes, from the gateway's address; DNAT leads back in",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(way_out_and_in),
    },
    Lab {
        number: 73,
        commands: "docker run --network none|host|bridge|container:NAME",
        mechanism: "A mode is a choice of network namespace: a new one with nothing in it, the host's, another \
                    container's, or a new one with a cable to a bridge.",
        shows: "one builder call each: what links a payload sees, and whose namespace it is in",
        needs: Needs::Nothing,
        outer: NETWORK,
        body: Body::Run(modes),
    },
    Lab {
        number: 74,
        commands: "unshare -m -u -i -fp nsenter --net=/var/run/netns/RED /bin/sh\n\
                   mount -t overlay …; pivot_root . put_old; mount -t proc proc /proc; umount -l put_old; hostname RED\n\
                   echo 40000 > cpu.cfs_quota_us; echo 209715200 > memory.limit_in_bytes\nping; stress -c 1; stress --vm 1",
        mechanism: "All at once, twice: namespaces, an overlay as root, pivot_root, a cgroup with limits, a place on a \
                    bridge. Each is a builder call, and its set-up a list of system calls that --explain prints.",
        shows: "RED and BLUE from one builder call each: names, pid 1, an own root, UDP and ping both ways, 40 % of a CPU, \
                200 MiB of memory, and the one's end is not the other's",
        needs: Needs::Cgroup,
        outer: NETWORK,
        body: Body::Run(red_and_blue),
    },
];

const fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(11, 11, 11, last))
}

fn cable(report: &mut Report) -> Result {
    let (red, blue) = (Netns::create()?, Netns::create()?);
    let links = red.links()?;
    report.check("a new namespace has one link", links.len() == 1);
    report.check("it is lo, and down", links[0].name.as_str() == "lo" && !links[0].up);
    red.add_veth(&name("veth0")?, &blue, &name("veth1")?)?;
    wires::address(&red, "veth0", &[ip(2)])?;
    wires::address(&blue, "veth1", &[ip(3)])?;
    red.wait_ready(&name("veth0")?, PATIENT)?;
    blue.wait_ready(&name("veth1")?, PATIENT)?;
    let routes = red.routes()?;
    let unicast: Vec<String> = routes
        .iter()
        .filter(|route| route.kind == palisade::net::RouteKind::Unicast && route.to.addr().is_ipv4())
        .map(|route| route.to.to_string())
        .collect();
    report.equal("RED has one route, to its own network", unicast, ["11.11.11.0/24"]);

    for (space, port) in [(&red, 80), (&blue, 80)] {
        serve(space, port)?;
        echo(space, 53)?;
    }
    report.equal("RED asks BLUE over TCP", word(&ask(&red, (ip(3), 80), PATIENT)?), "answer to 11.11.11.2");
    report.equal("BLUE asks RED", word(&ask(&blue, (ip(2), 80), PATIENT)?), "answer to 11.11.11.3");
    report.check(
        "UDP goes both ways",
        ask_udp(&red, (ip(3), 53), PATIENT)?.is_ok() && ask_udp(&blue, (ip(2), 53), PATIENT)?.is_ok(),
    );
    report.check("and ICMP", ping(&red, ip(3))? && ping(&blue, ip(2))?);
    let mac = blue.link(&name("veth1")?)?.mac;
    let known = red.neighbours()?.into_iter().find(|neighbour| neighbour.addr == ip(3));
    report.equal("RED has learned BLUE's MAC", known.and_then(|neighbour| neighbour.mac), mac);
    let host = Netns::current()?;
    let from_host = ask(&host, (ip(3), 80), SHORT)?.map(drop);
    report.refused("the host has no way to BLUE", from_host, libc_enetunreach());

    // What `ip netns add` does: a file on which the namespace is mounted keeps it.
    let file = report.directory().join("RED");
    let handle = Ns::<kind::Net>::from_fd(std::os::fd::AsFd::as_fd(&red).try_clone_to_owned()?)?;
    handle.persist(&file)?;
    let again = Netns::open(Ns::<kind::Net>::open(&file)?)?;
    report.equal("its file leads to the same namespace", again.inode()?, red.inode()?);
    drop(again);
    unpersist(&file)?;

    red.delete_link(&name("veth0")?)?;
    report.check("one end deleted, the other is gone", blue.link(&name("veth1")?).is_err());
    Ok(())
}

fn libc_enetunreach() -> i32 {
    nix::errno::Errno::ENETUNREACH as i32
}

fn bridge_and_forward(report: &mut Report) -> Result {
    let host = wires::switch(&[])?;
    let red = wires::plug(&host, "reth1", &[ip(2)])?;
    let blue = wires::plug(&host, "beth1", &[ip(3)])?;
    serve(&blue, 80)?;
    echo(&blue, 53)?;
    let mut rows = Vec::new();
    let mut attempt = |rules: &str, patience| -> Result<[bool; 3]> {
        let tcp = ask(&red, (ip(3), 80), patience)?.is_ok();
        let udp = ask_udp(&red, (ip(3), 53), patience)?.is_ok();
        let icmp = ping(&red, ip(3))?;
        let cells = [tcp, udp, icmp].map(|open| if open { "open" } else { "shut" });
        rows.push([rules.to_owned(), cells[0].into(), cells[1].into(), cells[2].into()]);
        Ok([tcp, udp, icmp])
    };
    let bare = attempt("none", PATIENT)?;
    // A module that is missing is a skip of the lab: its subject is what it does.
    if let Err(error) = host.filter_bridged() {
        return Err(crate::lab::skip(error));
    }
    let deny = "iptables -P FORWARD DROP";
    let allow = "iptables -t filter -A FORWARD -s 11.11.11.0/24 -j ACCEPT";
    iptables(&host, &[deny])?;
    let denied = attempt(deny, SHORT)?;
    iptables(&host, &[deny, allow])?;
    let allowed = attempt("… -A FORWARD -s 11.11.11.0/24 -j ACCEPT", PATIENT)?;
    report.table("RED to BLUE over br0", &["rules", "TCP", "UDP", "ICMP"], rows);
    report.equal("without rules all passes", bare, [true; 3]);
    report.equal("with policy DROP nothing does, on the same bridge", denied, [false; 3]);
    report.equal("with one rule all does", allowed, [true; 3]);
    for (space, who, port) in [(&red, "RED", "reth1"), (&blue, "BLUE", "beth1")] {
        let (mac, behind) = (space.link(&name("eth0")?)?.mac, host.link(&name(port)?)?.index);
        let learned =
            host.bridge_forwarding()?.into_iter().any(|entry| Some(entry.mac) == mac && entry.port == behind);
        report.check(format!("the bridge has learned that {who} is behind {port}"), learned);
    }
    Ok(())
}

fn way_out_and_in(report: &mut Report) -> Result {
    let host = wires::switch(&[ip(1)])?;
    let outside = wires::space()?;
    let (world, door): (IpAddr, IpAddr) = ([8, 8, 8, 8].into(), [8, 8, 8, 1].into());
    host.add_veth(&name("up0")?, &outside, &name("eth0")?)?;
    wires::address(&host, "up0", &[door])?;
    wires::address(&outside, "eth0", &[world])?;
    host.wait_ready(&name("up0")?, PATIENT)?;
    outside.wait_ready(&name("eth0")?, PATIENT)?;
    let red = wires::plug(&host, "reth1", &[ip(2)])?;
    red.add_route(&Route::default_via(ip(1)))?;
    serve(&outside, 80)?;
    serve(&red, 80)?;

    let masquerade = "iptables -t nat -A POSTROUTING -s 11.11.11.0/24 ! -o br0 -j MASQUERADE";
    let publish = "iptables -t nat -A PREROUTING ! -i br0 -p tcp --dport 8080 -j DNAT --to 11.11.11.2:80";
    let to_world = |patience| Ok::<_, Box<dyn std::error::Error>>(word(&ask(&red, (world, 80), patience)?));
    let mut steps = vec![("nothing", to_world(SHORT)?)];
    host.enable_forwarding()?;
    steps.push(("ip_forward=1", to_world(SHORT)?));
    iptables(&host, &[masquerade])?;
    steps.push(("… and MASQUERADE", to_world(PATIENT)?));
    report.table(
        "RED to 8.8.8.8:80",
        &["on the host", "RED sees"],
        steps.iter().map(|(what, seen)| [*what, seen]),
    );
    report.equal("without forwarding it goes nowhere", steps[0].1.as_str(), "silence");
    report.equal(
        "with forwarding it gets there, and the answer has no way back",
        steps[1].1.as_str(),
        "silence",
    );
    report.equal(
        "masqueraded it is answered; outside sees the gateway",
        steps[2].1.as_str(),
        "answer to 8.8.8.1",
    );
    report.check("and pings", ping(&red, world)?);
    let entry = host.connections()?.into_iter().find(|entry| {
        entry.original.source == ip(2) && entry.original.destination_port == 80 && entry.seen_reply
    });
    let entry = entry.ok_or("the connection is not tracked")?;
    report.note(&entry);
    report.equal("the entry has the answer's destination rewritten", entry.reply.destination, door);

    report.equal("the published port is closed", word(&ask(&outside, (door, 8080), PATIENT)?), "refused");
    iptables(&host, &[masquerade, publish])?;
    report.equal(
        "with DNAT RED answers, and sees who asks",
        word(&ask(&outside, (door, 8080), PATIENT)?),
        "answer to 8.8.8.8",
    );
    let entry = host
        .connections()?
        .into_iter()
        .find(|entry| entry.original.destination_port == 8080 && entry.seen_reply);
    let from = entry.map(|entry| (entry.reply.source, entry.reply.source_port));
    report.equal("in the entry the answer comes from RED", from, Some((ip(2), 80)));
    Ok(())
}

/// The bridge of a host of the lab's own, which has no other link.
fn bridge() -> Result<Bridge> {
    let spec = BridgeSpec::new(name("br0")?).network("11.11.11.0/24".parse()?);
    Ok(Bridge::create(wires::space()?, &spec)?)
}

fn said(builder: SandboxBuilder, line: &str) -> Result<String> {
    kit::text(builder.build()?.command("/bin/sh").args(["-c", line]))
}

fn modes(report: &mut Report) -> Result {
    let look =
        "readlink /proc/self/ns/net; cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' ' | sort | xargs";
    let bridge = bridge()?;
    let with = |network| Sandbox::builder().network(network);
    let donor = with(Network::bridge(&bridge)).build()?.command("/bin/sleep").arg("1000").spawn()?;
    let donated = Ns::<kind::Net>::of_pidfd(donor.pidfd())?;
    let own = AnyNs::current(Namespace::Net)?.to_string();
    let modes = [
        ("none", Network::none()),
        ("loopback", Network::loopback()),
        ("host", Network::host()),
        ("bridge", Network::bridge(&bridge)),
        ("container:donor", Network::join(donated.clone())),
    ];
    let mut seen = Vec::new();
    for (mode, network) in modes {
        let text = said(with(network), look)?;
        let (namespace, links) = text.split_once('\n').ok_or("two lines")?;
        seen.push([mode.to_owned(), namespace.to_owned(), links.to_owned()]);
    }
    report.table("what a payload sees", &["mode", "namespace", "links"], &seen);
    report.equal("none: a loopback and nothing else", seen[0][2].as_str(), "lo");
    report.differ("it is a namespace of its own", &seen[0][1], &own);
    report.equal("host: the host's namespace", &seen[2][1], &own);
    report.equal("bridge: a link", seen[3][2].as_str(), "eth0 lo");
    report.equal("container: the donor's namespace", seen[4][1].clone(), donated.to_string());
    let ports = bridge.netns().links()?.iter().filter(|link| link.name.as_str().starts_with("br0p")).count();
    report.check("the donor has a port of the bridge, and who ended has none", ports == 1);
    // What contradicts itself is said, as docker does.
    let conflict =
        with(Network::host().publish(Protocol::TCP, 8080, 80)).build().err().map(|error| error.to_string());
    report.note(conflict.as_deref().unwrap_or_default());
    report.check("a published port with the host's network is a conflict", conflict.is_some());
    drop(donor);
    Ok(())
}

fn red_and_blue(report: &mut Report) -> Result {
    let parent = kit::cgroup()?;
    let (image, tools) = (report.directory().join("image"), report.directory().join("tools"));
    std::fs::create_dir(&tools)?;
    kit::busybox(&image)?;
    for file in ["hosts", "resolv.conf"] {
        std::fs::write(image.join("etc").join(file), "")?;
    }
    std::fs::write(tools.join("TOOLS"), "of both\n")?;
    let bridge = bridge()?;
    let limits = Limits::new()
        .cpu_max(CpuMax::new(Duration::from_millis(40), Duration::from_millis(100))?)
        .memory_max(Bytes::mib(200))
        .memory_swap_max(Bytes::new(0));
    let container = |name: &str, addr: u8, other: &str, there: u8| {
        let layers = Layers::new(&image).lower(&tools).upper_in_memory(16 << 20, 1000);
        Sandbox::builder()
            .root(Root::overlay(layers).mount(Proc::new("/proc")).mount(Dev::new("/dev")).tmpfs("/tmp"))
            .hostname(name)
            .capabilities(CapabilitySet::EMPTY.with(Capability::NetRaw))
            .cgroup(limits.clone())
            .cgroup_parent(parent.clone())
            .network(Network::bridge(&bridge).address(ip(addr)).add_host(other, ip(there)))
            .build()
    };
    let (red, blue) = (container("RED", 2, "blue", 3)?, container("BLUE", 3, "red", 2)?);

    // Each says its name to who connects.
    let serve = |sandbox: &Sandbox| -> Result<Child> {
        let line = "nc -ll -p 80 -e /bin/hostname & wait";
        let mut command = sandbox.command("/bin/sh");
        command.args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    };
    report.plan(&red.command("/bin/sh").plan()?);
    let (mut in_red, in_blue) = (serve(&red)?, serve(&blue)?);
    let inside = |child: &Child, line: &str| kit::text(child.exec("/bin/sh").args(["-c", line]));
    let looks = "hostname; cat /proc/1/comm; ls / | xargs; test -e /put_old && echo put_old; cat /TOOLS";
    for (child, who) in [(&in_red, "RED"), (&in_blue, "BLUE")] {
        let text = inside(child, looks)?;
        let lines: Vec<&str> = text.lines().collect();
        report.equal(format!("{who} has its own name"), lines[0], who);
        report.equal(format!("in {who} pid 1 is its own first program"), lines[1], "sh");
        report.equal(
            format!("{who} has its own root, of two layers"),
            lines[2..].join("; "),
            "TOOLS bin dev etc home proc root sys tmp usr var; of both",
        );
    }
    for (child, who, other) in [(&in_red, "RED", "blue"), (&in_blue, "BLUE", "red")] {
        let pinged = inside(child, &format!("ping -c1 -W5 {other} | grep -c '1 packets received'"));
        report.equal(
            format!("{who} pings the other by name"),
            pinged.unwrap_or_else(|error| error.to_string()),
            "1",
        );
        let asked = inside(child, &format!("nc -w 5 {other} 80 </dev/null"))?;
        report.equal(format!("{who} asks it over TCP who it is"), asked.to_lowercase(), other);
    }
    let opened =
        |child: &Child| -> Result<Netns> { Ok(Netns::open(Ns::<kind::Net>::of_pidfd(child.pidfd())?)?) };
    let (net_red, net_blue) = (opened(&in_red)?, opened(&in_blue)?);
    for (from, to, addr, who) in [(&net_red, &net_blue, 3, "RED"), (&net_blue, &net_red, 2, "BLUE")] {
        echo(to, 53)?;
        report.check(format!("and UDP is echoed to {who}"), ask_udp(from, (ip(addr), 53), PATIENT)?.is_ok());
    }

    // Both burn what they get: 40 % each, of whatever the machine has.
    let begin = Instant::now();
    let cpu = |child: &Child| -> Result<palisade::cgroup::CpuStat> {
        Ok(child.cgroup().ok_or("no cgroup")?.cpu_stat()?)
    };
    let before = cpu(&in_red)?;
    let mut burner = in_red.exec("/bin/sh");
    burner.args(["-c", "timeout 3 yes >/dev/null; true"]).stdout(Stdio::null());
    kit::text(&mut burner)?;
    let (after, took) = (cpu(&in_red)?, begin.elapsed());
    let share = (after.usage - before.usage).as_secs_f64() / took.as_secs_f64();
    report.note(format!("RED had {:.0} % of a CPU for {:.1} s.", share * 100.0, took.as_secs_f64()));
    report.check("a busy loop gets at most its 40 %", share <= 0.48);
    report.check("it would have liked more: it was throttled", after.nr_throttled > before.nr_throttled);

    // More than 200 MiB is the end of RED, as a whole; BLUE does not notice.
    let hungry = "exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'";
    let mut eater =
        in_red.exec("/bin/sh").args(["-c", hungry]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eater.wait()?;
    let ended = in_red.wait()?;
    report.equal("RED ends for want of memory", ended.cause(), ExitCause::OutOfMemory);
    report.equal("BLUE goes on", inside(&in_blue, "hostname")?.as_str(), "BLUE");
    drop((eater, in_red, in_blue, net_red, net_blue));

    // Nothing of it stays: no port, no cgroup.
    let gone = |link: &palisade::net::Link| !link.name.as_str().starts_with("br0p");
    let mut clean = false;
    for _ in 0..200 {
        clean = bridge.netns().links()?.iter().all(gone);
        if clean {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    report.check("no port of the bridge stays", clean);
    bridge.netns().set_link(&name("br0")?, &LinkSettings::new().down())?;
    Ok(())
}
