//! The network of a sandbox.

mod helper;
mod names;
mod probe;
mod readback;
mod recruit;
mod user_mode;
mod wiring;

use std::fmt;
use std::net::IpAddr;

use palisade_net::nft::Protocol;
use palisade_net::policy::PolicyRule;
use palisade_net::{Bridge, IfName, PortSpec};
use palisade_ns::{AnyNs, Namespace, Ns, kind};

use crate::sandbox::{Lifetime, Spec, View};

use user_mode::Published;

pub(crate) use names::Etc;
pub(crate) use probe::{Rules, try_rules};
pub use user_mode::UserModeProgram;
pub(crate) use wiring::{Connection, Wiring};

/// What a payload sees of networks: [`SandboxBuilder::network`](crate::SandboxBuilder::network). Behind the feature `net`.
///
/// ```no_run
/// use palisade::net::nft::Protocol;
/// use palisade::net::policy::PortSelector;
/// use palisade::net::{Bridge, BridgeSpec, IfName, IpPrefix, Netns};
/// use palisade::{Network, Sandbox};
///
/// let spec = BridgeSpec::new(IfName::new("br0")?).network("10.5.0.0/24".parse()?);
/// let bridge = Bridge::create(Netns::current()?, &spec)?;
/// let database: IpPrefix = "10.6.0.7/32".parse()?;
/// let network = Network::bridge(&bridge)
///     .publish(Protocol::TCP, 8080, 80)
///     .allow_egress((database, PortSelector::tcp(5432)))
///     .add_host("db", [10, 6, 0, 7]);
/// let child = Sandbox::builder().network(network).build()?.command("/usr/bin/server").spawn()?;
/// println!("{:?}", child.port().map(palisade::net::Port::addresses));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Setters that a mode has no use for are conflicts that [`build`](crate::SandboxBuilder::build) reports.
#[derive(Clone, Debug)]
pub struct Network {
    mode: Mode,
    addresses: Vec<IpAddr>,
    interface: Option<IfName>,
    publish: Vec<Published>,
    /// `None` allows everything.
    egress: Option<Vec<PolicyRule>>,
    hosts: Vec<(IpAddr, String)>,
    nameservers: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
enum Mode {
    None,
    Loopback,
    Host,
    Join(AnyNs),
    Bridge(Bridge),
    /// By this program, or the first that is installed.
    User(Option<UserModeProgram>),
}

impl Network {
    fn new(mode: Mode) -> Self {
        Self {
            mode,
            addresses: Vec::new(),
            interface: None,
            publish: Vec::new(),
            egress: None,
            hosts: Vec::new(),
            nameservers: Vec::new(),
        }
    }

    /// A namespace of its own with nothing in it but a loopback that is down: no socket reaches another.
    pub fn none() -> Self {
        Self::new(Mode::None)
    }

    /// A namespace of its own with a loopback: programs inside reach each other. The default.
    pub fn loopback() -> Self {
        Self::new(Mode::Loopback)
    }

    /// The host program's own network, as [`share`](crate::SandboxBuilder::share)`(Namespace::Net)` has it, with the
    /// host's `/etc/resolv.conf`. The payload reaches all that listens on the host's loopback, abstract Unix sockets
    /// included, which file permissions do not guard (CVE-2020-15257).
    pub fn host() -> Self {
        Self::new(Mode::Host)
    }

    /// The namespace behind a handle, say another sandbox's (`Ns::<kind::Net>::of_pidfd(child.pidfd())?`): what Docker
    /// calls `container:NAME`. The same as [`SandboxBuilder::join`](crate::SandboxBuilder::join), whose page says what it
    /// takes.
    pub fn join(namespace: impl Into<Ns<kind::Net>>) -> Self {
        Self::new(Mode::Join(namespace.into().into()))
    }

    /// A place on a bridge: an address of each of its networks, a default route, published ports. Everything that guards
    /// the payload and the others stands before its link comes up. It leaves the bridge when the
    /// [`Child`](crate::Child) is dropped, or the host program ends.
    ///
    /// Inside, programs may listen on every port and send pings without capabilities, as in Docker's containers.
    ///
    /// Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN` in the host program's user namespace.
    pub fn bridge(bridge: &Bridge) -> Self {
        Self::new(Mode::Bridge(bridge.clone()))
    }

    /// A way out for host programs without privileges: connections leave as the host program's own, made by a program that
    /// must be installed, `pasta` (package `passt`) or, where that is not, `slirp4netns`, on behalf of a tap device in the
    /// sandbox. Inside it is `tap0`, 10.0.2.100/24 and in fd00::/64; IPv6 leads out where the host has it. Names are
    /// resolved by the host's resolver unless [`nameserver`](Self::nameserver) gives another. The host's loopback is out of
    /// reach, and unless [`allow_egress`](Self::allow_egress) says otherwise so are the host's own addresses, multicast,
    /// which would come back to the host's own listeners, and the addresses at which clouds keep credentials. With a rule of
    /// one's own, that rule alone counts: `0.0.0.0/0` opens all of them. The host's own addresses are those that it has at the
    /// moment of the spawn: one that comes later is reached as any other.
    ///
    /// The program runs as the host program's user and ends with the payload or the host program. It is in the host program's
    /// cgroup: the CPU time and memory that it takes for the payload's traffic are not within the payload's limits. What it
    /// leaves open of the host is what [`publish`](Self::publish) names, which needs `pasta`. A payload without capabilities
    /// listens on ports below 1024 where [`sysctl`](crate::SandboxBuilder::sysctl)`("net.ipv4.ip_unprivileged_port_start", "0")` allows it.
    ///
    /// Needs `/dev/net/tun` to be open to the host program's user; `pasta` before 2025 needs a default route. A program that
    /// is missing, or a payload's capability that could go around the rules (`CAP_NET_ADMIN`, `CAP_NET_RAW`), is an error of
    /// [`build`](crate::SandboxBuilder::build); one that fails, or does not say within 20 seconds
    /// that the link is up, is one of the spawn.
    #[doc(alias = "pasta", alias = "slirp4netns")]
    pub fn user_mode() -> Self {
        Self::new(Mode::User(None))
    }

    /// [`user_mode`](Self::user_mode) by this program and no other.
    pub fn user_mode_with(program: UserModeProgram) -> Self {
        Self::new(Mode::User(Some(program)))
    }

    /// With [`bridge`](Self::bridge): this address, instead of the next free one of its network.
    pub fn address(mut self, addr: impl Into<IpAddr>) -> Self {
        self.addresses.push(addr.into());
        self
    }

    /// With [`bridge`](Self::bridge): the name of the interface inside; `eth0` unless given.
    pub fn interface(mut self, name: IfName) -> Self {
        self.interface = Some(name);
        self
    }

    /// Leads connections to the port `outside` of the host to the port `inside` of the sandbox. TCP or UDP.
    ///
    /// With [`bridge`](Self::bridge) that is any address of the namespace that carries the bridge, 127.0.0.0/8 and ::1
    /// excepted. With [`user_mode`](Self::user_mode) it is 127.0.0.1, and [`publish_at`](Self::publish_at) gives others.
    pub fn publish(mut self, protocol: Protocol, outside: u16, inside: u16) -> Self {
        self.publish.push(Published { protocol, addr: None, outside, inside });
        self
    }

    /// With [`user_mode`](Self::user_mode): [`publish`](Self::publish) at this address of the host. `0.0.0.0` and `::` are
    /// all of their family. At whichever addresses, one port of a protocol leads to one port inside; `pasta` of 2023 has
    /// it at one address alone, and with more the spawn fails. A port below 1024 takes what the host asks for such a port: `CAP_NET_BIND_SERVICE`, or
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub fn publish_at(
        mut self,
        addr: impl Into<IpAddr>,
        protocol: Protocol,
        outside: u16,
        inside: u16,
    ) -> Self {
        self.publish.push(Published { protocol, addr: Some(addr.into()), outside, inside });
        self
    }

    /// With [`bridge`](Self::bridge) and [`user_mode`](Self::user_mode): allows connections to leave that this rule
    /// allows, and denies all that no rule does, of both IP families and every protocol. A prefix, or a prefix and ports,
    /// is a rule: `("10.0.0.0/8".parse::<IpPrefix>()?, PortSelector::tcp(443))`. Peers of a rule that are not address
    /// blocks mean pods, of which there are none here. Replies pass in any case, and so does the loopback.
    ///
    /// The rules stand in the sandbox's own namespace before its link comes up, out of reach of a payload without
    /// capabilities; one that is given `CAP_NET_ADMIN` or `CAP_NET_RAW` could go around them, which is a conflict, also
    /// around those that [`user_mode`](Self::user_mode) has by itself.
    pub fn allow_egress(mut self, rule: impl Into<PolicyRule>) -> Self {
        self.egress.get_or_insert_default().push(rule.into());
        self
    }

    /// With [`bridge`](Self::bridge) and [`user_mode`](Self::user_mode): no connection leaves but what
    /// [`allow_egress`](Self::allow_egress) allows; without that, none. Connections to published ports are answered.
    pub fn deny_egress(mut self) -> Self {
        self.egress.get_or_insert_default();
        self
    }

    #[doc(alias = "hosts")]
    /// A line of `/etc/hosts`, after those of the loopback. In a root of one's own the file must exist, and is covered.
    pub fn add_host(mut self, name: impl Into<String>, addr: impl Into<IpAddr>) -> Self {
        self.hosts.push((addr.into(), name.into()));
        self
    }

    /// A name server in `/etc/resolv.conf`; the C library asks the first three. In a root of one's own the file must
    /// exist, and is covered.
    pub fn nameserver(mut self, addr: impl Into<IpAddr>) -> Self {
        self.nameservers.push(addr.into());
        self
    }
}

impl fmt::Display for Network {
    /// The mode's name, as Docker spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mode {
            Mode::None => f.write_str("none"),
            Mode::Loopback => f.write_str("loopback"),
            Mode::Host => f.write_str("host"),
            Mode::Join(namespace) => write!(f, "join {namespace}"),
            Mode::Bridge(_) => f.write_str("bridge"),
            Mode::User(_) => f.write_str("user-mode"),
        }
    }
}

impl Network {
    /// Whether it takes a network namespace of its own.
    pub(crate) fn is_new(&self) -> bool {
        !matches!(self.mode, Mode::Host | Mode::Join(_))
    }

    /// The namespace of somebody else that is joined.
    pub(crate) fn joined(&self) -> Option<&AnyNs> {
        match &self.mode {
            Mode::Join(namespace) => Some(namespace),
            _ => None,
        }
    }

    pub(crate) fn is_the_hosts(&self) -> bool {
        matches!(self.mode, Mode::Host)
    }

    pub(crate) fn has_loopback(&self) -> bool {
        matches!(self.mode, Mode::Loopback | Mode::Bridge(_) | Mode::User(_))
    }

    /// What is wrong with it, or between it and the rest of the specification.
    pub(crate) fn conflicts(&self, spec: &Spec) -> Vec<String> {
        let mut out = Vec::new();
        let mut add = |wrong: String| out.push(format!("network: {self}: {wrong}"));
        if self.is_new() != spec.namespaces.contains(Namespace::Net) {
            add(if self.is_new() {
                "it takes a network namespace of its own, which namespaces() or share() took away later"
                    .into()
            } else {
                "namespaces() asked later for a new network namespace, where no other can be entered".into()
            });
        }
        let bridged = matches!(self.mode, Mode::Bridge(_));
        let outward = bridged || matches!(self.mode, Mode::User(_));
        let set = [
            ("address", !self.addresses.is_empty(), bridged),
            ("interface", self.interface.is_some(), bridged),
            ("publish", !self.publish.is_empty(), outward),
            ("allow_egress", self.egress.is_some(), outward),
        ];
        for (name, _, _) in set.into_iter().filter(|(_, given, fits)| *given && !fits) {
            add(format!("{name} has no meaning with this mode"));
        }
        if let Mode::User(program) = &self.mode {
            user_mode::check(&self.publish, &mut add);
            if let Some(program) = program {
                program.conflict().into_iter().for_each(&mut add);
                if !self.publish.is_empty() && !program.carries_published_ports() {
                    add(format!("{program} carries no published ports: UserModeProgram::pasta does"));
                }
            }
        }
        if bridged && self.publish.iter().any(|port| port.addr.is_some()) {
            add("publish_at: a bridge publishes at all addresses of its namespace; use publish".into());
        }
        match &spec.pod {
            Some(pod) if pod.kinds().contains(Namespace::Net) => {
                add("the pod has a network, which its members share".into());
            }
            Some(_) if outward => {
                add("a pod's member makes its network after it was started: let the pod have it".into());
            }
            _ => {}
        }
        if bridged && spec.lifetime == Lifetime::Detached {
            add("a bridge's rules end with the host program, which a detached payload outlives".into());
        }
        if matches!(self.mode, Mode::User(_)) && spec.lifetime == Lifetime::Detached {
            add("its helper ends with the host program, which a detached payload outlives".into());
        }
        if matches!(self.mode, Mode::User(_)) && !spec.namespaces.contains(Namespace::User) {
            add("its helper works in the payload's user namespace, and there is none".into());
        }
        let around = [palisade_creds::Capability::NetAdmin, palisade_creds::Capability::NetRaw];
        let gainable = spec.capability_sets.map_or(spec.capabilities, |sets| sets.bounding | sets.permitted);
        // A user-mode network has rules whether some were given or not.
        let ruled = self.egress.is_some() || matches!(self.mode, Mode::User(_));
        if ruled && around.into_iter().any(|c| gainable.contains(c)) {
            add("a payload with CAP_NET_ADMIN or CAP_NET_RAW could go around what the network's rules deny: leave \
                 them out of its capabilities"
                .into());
        }
        if ruled && !spec.namespaces.contains(Namespace::User) && spec.privilege_escalation {
            add("a payload that may gain privileges outside of a user namespace could go around what the network's \
                 rules deny: give it a user namespace, or leave out allow_privilege_escalation"
                .into());
        }
        let names = !self.hosts.is_empty() || !self.nameservers.is_empty();
        if matches!(spec.root, View::Shared) && (names || matches!(self.mode, Mode::User(_))) {
            add("names are resolved by files of /etc, and this root is the host program's".into());
        }
        names::check(&self.hosts, &self.nameservers, &mut add);
        out
    }

    /// Files of `/etc` for name resolution.
    pub(crate) fn etc(&self, host_name: &str) -> Etc {
        let defaults = match self.mode {
            Mode::User(_) => user_mode::RESOLVERS.to_vec(),
            _ => Vec::new(),
        };
        let nameservers = if self.nameservers.is_empty() { &defaults } else { &self.nameservers };
        Etc::new(host_name, &self.hosts, nameservers)
    }

    fn port_spec(&self) -> PortSpec {
        let spec = self.interface.iter().cloned().fold(PortSpec::new(), PortSpec::interface);
        let spec = self.addresses.iter().copied().fold(spec, PortSpec::address);
        self.publish.iter().fold(spec, |spec, port| spec.publish(port.protocol, port.outside, port.inside))
    }
}
