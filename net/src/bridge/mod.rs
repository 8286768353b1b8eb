//! A bridge that sandboxes are attached to: addresses, a way out, published ports, and guards against each other.

mod pool;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::link::{LinkKind, LinkSettings};
use crate::name::{IfName, MacAddr};
use crate::netns::Netns;
use crate::nft::Protocol;
use crate::prefix::IpPrefix;
use crate::route::Route;

use pool::Pool;

/// What a bridge shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    name: IfName,
    networks: Vec<IpPrefix>,
    mtu: Option<u32>,
    isolated: bool,
    reach_host: bool,
    masquerade: bool,
}

impl BridgeSpec {
    /// A bridge without networks. Sandboxes on it reach each other and the world outside, not the namespace that carries
    /// the bridge.
    #[must_use]
    pub fn new(name: IfName) -> Self {
        Self { name, networks: Vec::new(), mtu: None, isolated: false, reach_host: false, masquerade: true }
    }

    /// Adds a network. The first address after that of the network is the gateway; each sandbox gets one of the others.
    /// At most /30 for IPv4 and /126 for IPv6.
    #[must_use]
    pub fn network(mut self, network: IpPrefix) -> Self {
        self.networks.push(network);
        self
    }

    /// The largest packet in bytes.
    #[must_use]
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Keeps sandboxes from reaching each other, by published ports too.
    #[must_use]
    pub fn isolated(mut self, on: bool) -> Self {
        self.isolated = on;
        self
    }

    /// Lets sandboxes reach what listens in the namespace that carries the bridge.
    #[must_use]
    pub fn reach_host(mut self, on: bool) -> Self {
        self.reach_host = on;
        self
    }

    /// Whether packets that leave by other links get the address of those; on unless turned off.
    #[must_use]
    pub fn masquerade(mut self, on: bool) -> Self {
        self.masquerade = on;
        self
    }
}

/// What one sandbox shall have on a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSpec {
    interface: Option<IfName>,
    addresses: Vec<IpAddr>,
    publish: Vec<(Protocol, u16, u16)>,
}

impl PortSpec {
    /// An interface `eth0` with the next free address of each network.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The name of the interface inside the sandbox.
    #[must_use]
    pub fn interface(mut self, name: IfName) -> Self {
        self.interface = Some(name);
        self
    }

    /// This address instead of the next free one of its network.
    #[must_use]
    pub fn address(mut self, addr: impl Into<IpAddr>) -> Self {
        self.addresses.push(addr.into());
        self
    }

    /// Leads connections to `outside` of any address of the carrying namespace, 127.0.0.0/8 and ::1 excepted, to the port
    /// `inside` of the sandbox.
    #[must_use]
    pub fn publish(mut self, protocol: Protocol, outside: u16, inside: u16) -> Self {
        self.publish.push((protocol, outside, inside));
        self
    }
}

/// A bridge in a namespace that carries it, with everything that [`BridgeSpec`] says.
///
/// The rules belong to the handle: the kernel removes them when it, or the process, ends. The bridge itself is deleted on
/// drop; after a crash it goes with its namespace, so a namespace made for it ([`Netns::create`]) leaves nothing.
#[derive(Debug, Clone)]
pub struct Bridge(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ns: Netns,
    spec: BridgeSpec,
    table: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pools: Vec<Pool>,
    /// The numbers in the names of the links of what is attached.
    ports: BTreeSet<u32>,
    published: BTreeMap<(Protocol, u16), u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct Attached {
    /// On the bridge's side.
    link: IfName,
    /// In the sandbox.
    inside: IfName,
    mac: MacAddr,
    addresses: Vec<IpAddr>,
    publish: Vec<(Protocol, u16, u16)>,
}

/// A sandbox's place on a bridge. Dropping it takes the sandbox off.
#[derive(Debug)]
pub struct Port {
    bridge: Arc<Shared>,
    number: u32,
    attached: Attached,
    gateways: Vec<IpAddr>,
    detached: bool,
}

impl Bridge {
    /// Makes the bridge in `ns`, gives it its addresses, turns on forwarding, and puts the rules in place before it comes
    /// up. Needs what [`Netns::set_sysctl`] needs.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for networks that are too small or overlap;
    /// [`Exists`](crate::ErrorKind::Exists) if there is a link of that name; [`Unsupported`](crate::ErrorKind::Unsupported)
    /// before Linux 5.12, and where the kernel lacks bridges, nftables, conntrack or a part of them (the message names it),
    /// or IPv6 for a network of it. Then nothing stays behind.
    pub fn create(ns: Netns, spec: &BridgeSpec) -> Result<Self> {
        let name = &spec.name;
        if name.as_str().len() > 9 {
            return Err(Error::invalid(
                format_args!("name of bridge {name}"),
                "at most 9 characters: its ports are named after it",
            ));
        }
        let mut pools: Vec<Pool> = Vec::new();
        for network in &spec.networks {
            if let Some(other) =
                pools.iter().find(|p| p.network().covers(network) || network.covers(&p.network()))
            {
                return Err(Error::invalid(
                    format_args!("network {network}"),
                    format_args!("one outside {}", other.network()),
                ));
            }
            pools.push(Pool::new(*network)?);
        }
        // What leaves takes its connections along: whoever gets its address next must not get those.
        ns.check_conntrack()?;
        ns.add_link(name, &LinkKind::Bridge)?;
        let state = State { pools, ports: BTreeSet::new(), published: BTreeMap::new() };
        let table = format!("palisade-{name}");
        // From here on dropping it deletes the link.
        let bridge = Self(Arc::new(Shared { ns, spec: spec.clone(), table, state: Mutex::new(state) }));
        let shared = &bridge.0;
        shared.ns.apply(&rules::tables(&shared.spec, &shared.table))?;
        shared.ns.enable_forwarding()?;
        for pool in &shared.lock().pools {
            shared.ns.add_address(name, pool.gateway(), pool.network().prefix_len())?;
        }
        let settings = LinkSettings::new().up();
        shared.ns.set_link(name, &spec.mtu.map_or(settings.clone(), |mtu| settings.mtu(mtu)))?;
        Ok(bridge)
    }

    /// The namespace that carries the bridge.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.0.ns
    }

    /// Attaches a sandbox. Everything that guards it and others is in place before its link comes up; its default routes
    /// lead to the bridge.
    ///
    /// # Errors
    /// [`Exists`](crate::ErrorKind::Exists) for an address or published port that another has, or an interface of that name
    /// in the sandbox; [`NotFound`](crate::ErrorKind::NotFound) if a network has no address left. Then nothing changed.
    pub fn attach(&self, sandbox: &Netns, spec: &PortSpec) -> Result<Port> {
        let shared = &self.0;
        let mut port = shared.reserve(spec)?;
        let inside = port.attached.inside.clone();
        // What is made from here on goes when `port` is dropped.
        shared.ns.add_veth(&port.attached.link, sandbox, &inside)?;
        let Attached { link, mac, addresses, .. } = port.attached.clone();
        let mut outer = LinkSettings::new().master(shared.spec.name.clone());
        let mut inner = LinkSettings::new().mac(mac);
        if let Some(mtu) = shared.spec.mtu {
            (outer, inner) = (outer.mtu(mtu), inner.mtu(mtu));
        }
        shared.ns.set_link(&link, &outer)?;
        shared.ns.set_link(&link, &LinkSettings::new().isolated(shared.spec.isolated).hairpin(true))?;
        shared.ns.change(&rules::add_guard(&shared.table, &port.attached))?;
        sandbox.set_link(&inside, &inner)?;
        for addr in &addresses {
            let len = shared
                .lock()
                .pools
                .iter()
                .find(|p| p.network().contains(*addr))
                .map(|p| p.network().prefix_len());
            sandbox.add_address(&inside, *addr, len.unwrap_or_default())?;
            // Nobody can claim to be the sandbox in the eyes of the gateway.
            shared.ns.set_neighbour(&shared.spec.name, *addr, mac)?;
        }
        shared.ns.change(&rules::publish(&shared.table, &port.attached))?;
        sandbox.set_link(&inside, &LinkSettings::new().up())?;
        let gateway_mac = shared.ns.link(&shared.spec.name)?.mac;
        for gateway in &port.gateways {
            if let Some(mac) = gateway_mac {
                sandbox.set_neighbour(&inside, *gateway, mac)?;
            }
            sandbox.add_route(&Route::default_via(*gateway).dev(inside.clone()))?;
        }
        shared.ns.set_link(&link, &LinkSettings::new().up())?;
        port.attached.link = link;
        Ok(port)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a number, addresses and published ports, or none of them.
    fn reserve(self: &Arc<Self>, spec: &PortSpec) -> Result<Port> {
        let inside = spec.interface.clone().map_or_else(|| IfName::new("eth0"), Ok)?;
        let mut state = self.lock();
        for (protocol, outside, _) in &spec.publish {
            let mut same = spec.publish.iter().filter(|(p, o, _)| (p, o) == (protocol, outside));
            if state.published.contains_key(&(*protocol, *outside)) || same.nth(1).is_some() {
                return Err(Error::kernel(
                    format_args!("published port {protocol} {outside}"),
                    libc::EEXIST,
                    None,
                ));
            }
            if ![Protocol::TCP, Protocol::UDP].contains(protocol) {
                return Err(Error::invalid(
                    format_args!("published port {protocol} {outside}"),
                    "tcp or udp",
                ));
            }
        }
        if let Some(stray) =
            spec.addresses.iter().find(|a| !state.pools.iter().any(|p| p.network().contains(**a)))
        {
            return Err(Error::invalid(format_args!("address {stray}"), "one of the bridge's networks"));
        }
        let mut addresses = Vec::new();
        let mut taken = Ok(());
        for pool in &mut state.pools {
            let wanted = spec.addresses.iter().find(|a| pool.network().contains(**a));
            match pool.take(wanted.copied()) {
                Ok(addr) => addresses.push(addr),
                Err(e) => {
                    taken = Err(e);
                    break;
                }
            }
        }
        if let Err(e) = taken {
            state.release(&addresses);
            return Err(e);
        }
        let number = (0..).find(|n| !state.ports.contains(n)).unwrap_or_default();
        let [_, a, b, c] = number.to_be_bytes();
        let attached = Attached {
            link: IfName::new(format!("{}p{number}", self.spec.name))
                .inspect_err(|_| state.release(&addresses))?,
            inside,
            // Locally administered; the number makes it unique on the bridge.
            mac: MacAddr([0x02, 0x70, 0x61, a, b, c]),
            addresses,
            publish: spec.publish.clone(),
        };
        state
            .published
            .extend(attached.publish.iter().map(|(protocol, outside, _)| ((*protocol, *outside), number)));
        state.ports.insert(number);
        let gateways = state.pools.iter().map(Pool::gateway).collect();
        Ok(Port { bridge: Arc::clone(self), number, attached, gateways, detached: false })
    }
}

impl State {
    fn release(&mut self, addresses: &[IpAddr]) {
        for pool in &mut self.pools {
            addresses.iter().for_each(|addr| pool.release(*addr));
        }
    }
}

impl Port {
    /// The sandbox's addresses, in the order of the bridge's networks.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.attached.addresses
    }

    /// The bridge's addresses, in the same order.
    #[must_use]
    pub fn gateways(&self) -> &[IpAddr] {
        &self.gateways
    }

    /// The link on the bridge's side.
    #[must_use]
    pub fn link(&self) -> &IfName {
        &self.attached.link
    }

    /// The interface in the sandbox.
    #[must_use]
    pub fn interface(&self) -> &IfName {
        &self.attached.inside
    }

    /// Reads the kernel back: what keeps the sandbox to its own addresses and leads its published ports to it, as the
    /// carrying namespace has it now. `None` when all of it is as it was made, else the first thing that is not.
    ///
    /// It lists the rules of all ports, so it takes the longer the more sandboxes the bridge has.
    ///
    /// # Errors
    /// As [`Netns::ruleset`].
    pub fn difference(&self) -> Result<Option<String>> {
        let listed = self.bridge.ns.ruleset()?;
        Ok(rules::difference(&listed, &self.bridge.spec, &self.bridge.table, &self.attached))
    }

    /// Where a published port leads: one place for each address.
    #[must_use]
    pub fn published(&self) -> Vec<(Protocol, u16, SocketAddr)> {
        let all = self.attached.publish.iter();
        all.flat_map(|(protocol, outside, inside)| {
            self.attached.addresses.iter().map(|addr| (*protocol, *outside, SocketAddr::new(*addr, *inside)))
        })
        .collect()
    }

    /// Takes the sandbox off, as dropping does, and says what went wrong.
    ///
    /// # Errors
    /// What the kernel said to the first step that failed; the others were done all the same.
    pub fn detach(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let bridge = Arc::clone(&self.bridge);
        if std::mem::replace(&mut self.detached, true) {
            return Ok(());
        }
        let mut result = Ok(());
        let mut step = |done: Result<()>| match done {
            // Never made, or gone with the sandbox's namespace.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if result.is_ok() => result = Err(e),
            _ => {}
        };
        step(bridge.ns.delete_link(&self.attached.link));
        step(bridge.ns.change(&rules::withdraw(&bridge.table, &self.attached)));
        step(bridge.ns.change(&rules::remove_guard(&bridge.table, &self.attached)));
        for addr in &self.attached.addresses {
            step(bridge.ns.delete_neighbour(&bridge.spec.name, *addr));
        }
        // Connections of the sandbox must not lead to whoever gets its addresses next.
        let ours = &self.attached.addresses;
        let concerns = |addr: &IpAddr| ours.contains(addr);
        step(
            bridge
                .ns
                .forget_connections(|c| concerns(&c.original.source) || concerns(&c.reply.source))
                .map(drop),
        );
        let mut state = bridge.lock();
        state.release(ours);
        let number = self.number;
        state.ports.remove(&number);
        state.published.retain(|_, owner| *owner != number);
        result
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Nobody is left to tell; `detach` is for those who want to know.
        drop(self.remove());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The rules go with the handle; a link that is gone already is fine.
        drop(self.ns.delete_link(&self.spec.name));
    }
}
