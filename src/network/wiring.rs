//! What the host program does to a child's network before the child goes on, and what stays of it until the end.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;

use palisade_net::nft::Table;
use palisade_net::policy::{
    Cluster, Direction, Group, IpBlock, Options, Peer, Pod, Policy, PolicyRule, Selector,
};
use palisade_net::{Bridge, IpPrefix, Netns, Port, PortSpec};
use palisade_ns::{AnyNs, Namespace};
use palisade_sys::Step;

use super::helper::Helper;
use super::user_mode::{INTERFACE, UserMode};
use super::{Mode, Network};
use crate::enforced::Subject;
use crate::error::{Error, ErrorKind, Result};
use crate::newborn::Newborn;
use crate::spawner::Bench;

/// A network as a spawn needs it.
#[derive(Clone, Debug)]
pub(crate) struct Wiring {
    kind: Kind,
    /// For tests: the rules are not put in place.
    without_rules: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Bridge { bridge: Bridge, port: PortSpec, egress: Option<Vec<PolicyRule>> },
    UserMode { program: UserMode, egress: Option<Vec<PolicyRule>> },
}

/// What keeps a payload on its network; dropping it takes it off.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The rules inside, as they were made.
    egress: Option<Table>,
    /// The process that made it: a copy in a fork of the host program is nobody's end.
    maker: u32,
    way: Option<Way>,
}

/// Its way out.
#[derive(Debug)]
pub(super) enum Way {
    Bridge(Port),
    UserMode { _helper: Helper },
}

impl Network {
    /// What is to be done at each spawn, if anything.
    pub(crate) fn wiring(&self) -> Result<Option<Wiring>> {
        let egress = self.egress.clone();
        let kind = match &self.mode {
            Mode::None | Mode::Loopback | Mode::Host | Mode::Join(_) => return Ok(None),
            Mode::Bridge(bridge) => Kind::Bridge { bridge: bridge.clone(), port: self.port_spec(), egress },
            Mode::User(program) => {
                Kind::UserMode { program: UserMode::find(program.as_ref(), &self.publish)?, egress }
            }
        };
        let wiring = Wiring { kind, without_rules: false };
        // So that what can't be compiled fails here and not at each spawn.
        wiring.egress_table(&[]).map_err(|error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::InvalidSpec, Step::Prepare, error, errno)
        })?;
        Ok(Some(wiring))
    }
}

impl Wiring {
    pub(crate) fn leave_out_rules(&mut self) {
        self.without_rules = true;
    }

    /// Connects a child that waits.
    pub(crate) fn connect(&self, child: &Newborn, bench: &mut Bench) -> Result<Connection> {
        let pidfd = child.pidfd.as_ref().ok_or_else(|| Error::invalid("the child is gone"))?;
        let failed = |error: palisade_ns::Error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::Network, error, errno)
        };
        let namespace = AnyNs::of_pidfd(pidfd, Namespace::Net).map_err(failed)?;
        let own = AnyNs::current(Namespace::Net).map_err(failed)?;
        if own == namespace {
            // Never by a mistake of ours the host's own network.
            return Err(Error::new(
                ErrorKind::Setup,
                Step::Network,
                "the child has no network namespace of its own",
            ));
        }
        let inside = Netns::open(&namespace).map_err(of_net)?;
        // The rules first: no packet leaves before them.
        let own = match self.kind {
            Kind::UserMode { .. } => own_addresses()?,
            Kind::Bridge { .. } => Vec::new(),
        };
        let egress = self.egress_table(&own).map_err(of_net)?;
        if let Some(table) = egress.as_ref().filter(|_| !self.without_rules) {
            inside.apply(&table.clone().into()).map_err(of_net)?;
        }
        let way = match &self.kind {
            Kind::Bridge { bridge, port, .. } => {
                // A namespace of its own has nothing to protect by these: as Docker's containers have it.
                inside.set_sysctl("net.ipv4.ip_unprivileged_port_start", "0").map_err(of_net)?;
                allow_pings(&inside)?;
                Way::Bridge(bridge.attach(&inside, port).map_err(of_net)?)
            }
            Kind::UserMode { program, .. } => {
                Way::UserMode { _helper: Helper::start(program, child.pid, pidfd.as_fd(), bench)? }
            }
        };
        Ok(Connection { egress, maker: std::process::id(), way: Some(way) })
    }

    /// Rows for a report: what is asked of the network.
    pub(crate) fn asked(&self) -> Vec<(Subject, String)> {
        let mut rows = Vec::new();
        let rules = match &self.kind {
            Kind::Bridge { port, egress, .. } => {
                rows.push((Subject::Network, "a place on a bridge".into()));
                rows.push((Subject::Port, format!("{port:?}")));
                egress
            }
            Kind::UserMode { program, egress } => {
                rows.push((Subject::Network, format!("{INTERFACE}, by {program}")));
                egress
            }
        };
        let what = match (rules, &self.kind) {
            (Some(rules), _) if rules.is_empty() => Some("nothing".to_owned()),
            (Some(rules), _) => Some(format!("what {} rules allow", rules.len())),
            (None, Kind::UserMode { .. }) => Some(
                "not to the host, link-local and multicast addresses and those where clouds keep credentials"
                    .to_owned(),
            ),
            (None, Kind::Bridge { .. }) => None,
        };
        rows.extend(what.map(|what| (Subject::Egress, what)));
        rows
    }

    /// The rules for the inside of the sandbox: nothing leaves but what is allowed.
    fn egress_table(&self, own: &[IpAddr]) -> palisade_net::Result<Option<Table>> {
        let rules = match &self.kind {
            Kind::Bridge { egress: None, .. } => return Ok(None),
            Kind::Bridge { egress: Some(rules), .. } | Kind::UserMode { egress: Some(rules), .. } => {
                rules.clone()
            }
            // What the host program itself listens on is not the world outside, nor is where clouds keep credentials.
            Kind::UserMode { egress: None, .. } => {
                let shut: Vec<IpPrefix> = SHUT.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
                let shut = || shut.iter().copied().chain(own.iter().copied().map(IpPrefix::host));
                let block = |all: IpPrefix| {
                    IpBlock::new(all, shut().filter(|shut| all.covers(shut))).map(Peer::Block)
                };
                let (v4, v6) = (block(IpPrefix::ALL_V4)?, block(IpPrefix::ALL_V6)?);
                vec![PolicyRule::everything().peer(v4).peer(v6)]
            }
        };
        table_of(rules).map(Some)
    }
}

/// Rules by which nothing leaves but what is allowed: both families, in one table.
pub(super) fn table_of(rules: Vec<PolicyRule>) -> palisade_net::Result<Table> {
    let mut policy = Policy::new("sandbox", "egress", Selector::all()).isolate(Direction::Egress);
    policy.egress = Some(rules);
    let cluster =
        Cluster::new().group(Group::new("sandbox")).pod(Pod::new("sandbox", "payload")).policy(policy);
    cluster.pod_table("palisade-egress", "sandbox", "payload", &Options::new())
}

/// What no user-mode network leads to by default, beside the host's own addresses.
const SHUT: [&str; 19] = [
    // The loopback, should something send it elsewhere than to `lo`, which is not asked. The address of no host means
    // the own one to whoever connects to it, and an IPv4 address within IPv6 goes by other rules.
    "127.0.0.0/8",
    "::1/128",
    "0.0.0.0/8",
    "::/128",
    "::ffff:0.0.0.0/96",
    // To all who listen: a copy of what a socket of the host sends there comes back to the host.
    "224.0.0.0/4",
    "255.255.255.255/32",
    "ff00::/8",
    "169.254.0.0/16",
    "fe80::/10",
    // Where clouds keep credentials, beside 169.254.0.0/16: Alibaba, Azure, Oracle; and by IPv6 Amazon, Google, Oracle,
    // Scaleway, others that write 169.254.169.254 in it, and Alibaba.
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "fd00:c1::a9fe:a9fe/128",
    "fd00:42::42/128",
    "fd00:a9fe:a9fe::1/128",
    "fd00:100::100:200/128",
];

impl fmt::Display for Wiring {
    /// For plans: a line for each thing that is done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Bridge { .. } => {}
            Kind::UserMode { program, .. } => writeln!(f, "start {program}")?,
        }
        if let Ok(Some(table)) = self.egress_table(&[]) {
            writeln!(f, "inside, before the link is up: {table}")?;
        }
        match &self.kind {
            Kind::Bridge { port, .. } => writeln!(f, "attach to the bridge: {port:?}"),
            Kind::UserMode { .. } => Ok(()),
        }
    }
}

impl Connection {
    /// The place on a bridge.
    pub(crate) fn port(&self) -> Option<&Port> {
        match &self.way {
            Some(Way::Bridge(port)) => Some(port),
            _ => None,
        }
    }

    pub(super) fn way(&self) -> Option<&Way> {
        self.way.as_ref()
    }

    pub(super) fn egress(&self) -> Option<&Table> {
        self.egress.as_ref()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.maker != std::process::id() {
            // What is behind it is the process's whose it is.
            std::mem::forget(self.way.take());
        }
    }
}

/// Lets every group send pings; where this user namespace does not know that many, the host program's own, which is the
/// payload's then.
fn allow_pings(inside: &Netns) -> Result<()> {
    let set = |range: &str| inside.set_sysctl("net.ipv4.ping_group_range", range);
    let own = nix::unistd::getegid();
    let done = set("0 2147483647").or_else(|error| match error.errno() {
        Some(libc::EINVAL) => set(&format!("{own} {own}")),
        _ => Err(error),
    });
    done.map_err(of_net)
}

pub(super) fn of_net(error: palisade_net::Error) -> Error {
    let (errno, hint) = (error.errno(), error.hint().map(str::to_owned));
    let new = Error::from_source(ErrorKind::Setup, Step::Network, error, errno);
    hint.iter().fold(new, |new, hint| new.with_hint_at_the_end(hint))
}

/// The addresses of the host program's own network, and those by which all of a network hear.
fn own_addresses() -> Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()
        .map_err(|errno| Error::call(Step::Network, "getifaddrs", &errno.into()))?;
    let addresses = all.flat_map(|interface| [interface.address, interface.broadcast]).flatten();
    let ip = addresses.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    Ok(ip.collect())
}
