//! Network interfaces.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::name::{IfName, MacAddr};
use crate::netlink::{Attrs, Message};
use crate::netns::Netns;
use crate::prefix::IpPrefix;
use crate::route::RouteKind;
use crate::socket::Answer;
use crate::sys;

// include/uapi/linux/if_link.h: what libc leaves out.
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFINFO: usize = 16;

/// What kind of interface to make.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkKind {
    /// A software switch; other links become its ports with [`LinkSettings::master`].
    Bridge,
    /// An interface that drops what is sent to it (`CONFIG_DUMMY`).
    Dummy,
    /// The frames of `parent` tagged with one VLAN (`CONFIG_VLAN_8021Q`).
    Vlan {
        /// The link whose frames carry the tag.
        parent: IfName,
        /// The 802.1Q identifier, 1 to 4094.
        id: u16,
    },
    /// A second interface with a MAC address of its own on `parent` (`CONFIG_MACVLAN`).
    Macvlan {
        /// The link that lends its wire.
        parent: IfName,
        /// Who may talk to whom.
        mode: MacvlanMode,
    },
}

/// How the macvlan links of one parent reach each other. None of them reaches the parent itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MacvlanMode {
    /// Not at all.
    Private,
    /// Through an outside switch that sends frames back.
    Vepa,
    /// Directly.
    Bridge,
}

/// Changes to a link, applied together. What is not named stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkSettings {
    up: Option<bool>,
    mtu: Option<u32>,
    mac: Option<MacAddr>,
    master: Option<Option<IfName>>,
    isolated: Option<bool>,
    hairpin: Option<bool>,
}

impl LinkSettings {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings the link up.
    #[must_use]
    pub fn up(mut self) -> Self {
        self.up = Some(true);
        self
    }

    /// Takes the link down.
    #[must_use]
    pub fn down(mut self) -> Self {
        self.up = Some(false);
        self
    }

    /// The largest packet in bytes; Ethernet takes 68 to 65535, IPv6 needs at least 1280.
    #[must_use]
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// The link-layer address; must be [unicast](MacAddr::is_unicast).
    #[must_use]
    pub fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Makes the link a port of this bridge.
    #[must_use]
    pub fn master(mut self, bridge: IfName) -> Self {
        self.master = Some(Some(bridge));
        self
    }

    /// Takes the link out of its bridge.
    #[must_use]
    pub fn no_master(mut self) -> Self {
        self.master = Some(None);
        self
    }

    /// For a bridge port: isolated ports reach only ports that are not (Linux 4.18).
    #[must_use]
    pub fn isolated(mut self, on: bool) -> Self {
        self.isolated = Some(on);
        self
    }

    /// For a bridge port: frames may leave by the port by which they came, which a port that reaches its own published
    /// address needs.
    #[must_use]
    pub fn hairpin(mut self, on: bool) -> Self {
        self.hairpin = Some(on);
        self
    }
}

/// A network interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// The number of the interface, unique in its namespace.
    pub index: u32,
    /// The name.
    pub name: IfName,
    /// `veth`, `bridge`, `macvlan`, `tun` …; absent for `lo` and hardware.
    pub kind: Option<String>,
    /// Whether it was brought up.
    pub up: bool,
    /// Whether it is up, its other end is too, and the kernel has taken notice (`IFF_RUNNING`).
    pub running: bool,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// The link-layer address, if it is an Ethernet one.
    pub mac: Option<MacAddr>,
    /// The index of the bridge of which it is a port.
    pub master: Option<u32>,
    /// The index of the parent (vlan, macvlan) or peer (veth), in the namespace where that is.
    pub parent: Option<u32>,
    /// The 802.1Q identifier of a vlan.
    pub vlan_id: Option<u16>,
}

pub(crate) fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut out = [0; IFINFO];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

impl Link {
    fn parse(answer: &Answer) -> Result<Option<Self>> {
        if answer.kind != libc::RTM_NEWLINK {
            return Ok(None);
        }
        let (head, attrs) = answer.parts(IFINFO)?;
        let number = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let flags = number(8);
        let info = attrs.nested(libc::IFLA_LINKINFO)?;
        let kind = info.text(libc::IFLA_INFO_KIND);
        let vlan_id = match kind.as_deref() {
            Some("vlan") => info.nested(libc::IFLA_INFO_DATA)?.u16(IFLA_VLAN_ID),
            _ => None,
        };
        let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
        Ok(Some(Self {
            index: number(4),
            name: IfName::reported(attrs.text(libc::IFLA_IFNAME).unwrap_or_default()),
            kind,
            up: flags & libc::IFF_UP as u32 != 0,
            running: flags & running == running,
            mtu: attrs.u32(libc::IFLA_MTU).unwrap_or(0),
            mac: attrs.get(libc::IFLA_ADDRESS).and_then(|b| b.try_into().ok()).map(MacAddr),
            master: attrs.u32(libc::IFLA_MASTER),
            parent: attrs.u32(libc::IFLA_LINK),
            vlan_id,
        }))
    }
}

pub(crate) fn fuzz_link(data: &[u8]) {
    drop(Link::parse(&Answer { kind: libc::RTM_NEWLINK, body: data.to_vec() }));
}

impl Netns {
    /// All links.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    pub fn links(&self) -> Result<Vec<Link>> {
        let request = Message::new(libc::RTM_GETLINK, 0).fixed(&ifinfo(0, 0, 0));
        let answers = self.route.dump("listing links", request)?;
        answers.iter().filter_map(|a| Link::parse(a).transpose()).collect()
    }

    /// One link.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is none of that name.
    pub fn link(&self, name: &IfName) -> Result<Link> {
        let mut request = Message::new(libc::RTM_GETLINK, 0).fixed(&ifinfo(0, 0, 0));
        request.str(libc::IFLA_IFNAME, name.as_str());
        let what = format!("link {name}");
        let answers = self.route.ask(&what, request)?;
        let link = answers.iter().find_map(|a| Link::parse(a).transpose()).transpose()?;
        link.ok_or_else(|| Error::not_found(what))
    }

    /// The number of a link.
    pub(crate) fn index(&self, name: &IfName) -> Result<u32> {
        sys::interface_index(self.route.fd().as_fd(), name.as_str())
            .map_err(|e| Error::system(format_args!("link {name}"), e.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Makes a link, down, in this namespace.
    ///
    /// # Errors
    /// [`Exists`](crate::ErrorKind::Exists); [`NotFound`](crate::ErrorKind::NotFound) for the parent;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a kind that this kernel lacks.
    pub fn add_link(&self, name: &IfName, kind: &LinkKind) -> Result<()> {
        self.add_link_in(self, name, kind)
    }

    /// Makes a link, down, in `target`; a parent is looked up in this namespace. So a sandbox gets a macvlan of a link
    /// that it never sees.
    ///
    /// # Errors
    /// As [`add_link`](Self::add_link).
    pub fn add_link_in(&self, target: &Self, name: &IfName, kind: &LinkKind) -> Result<()> {
        let mut parent = None;
        let (text, data): (_, Option<(u16, Vec<u8>)>) = match kind {
            LinkKind::Bridge => ("bridge", None),
            LinkKind::Dummy => ("dummy", None),
            LinkKind::Vlan { parent: link, id } => {
                if !(1..=4094).contains(id) {
                    return Err(Error::invalid(format_args!("vlan id {id} of {name}"), "1 to 4094"));
                }
                parent = Some(self.index(link)?);
                ("vlan", Some((IFLA_VLAN_ID, id.to_ne_bytes().to_vec())))
            }
            LinkKind::Macvlan { parent: link, mode } => {
                parent = Some(self.index(link)?);
                let mode: u32 = match mode {
                    MacvlanMode::Private => 1,
                    MacvlanMode::Vepa => 2,
                    MacvlanMode::Bridge => 4,
                };
                ("macvlan", Some((IFLA_MACVLAN_MODE, mode.to_ne_bytes().to_vec())))
            }
        };
        let mut request =
            Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL).fixed(&ifinfo(0, 0, 0));
        request.str(libc::IFLA_IFNAME, name.as_str());
        if let Some(index) = parent {
            request.u32(libc::IFLA_LINK, index);
        }
        request.u32(libc::IFLA_NET_NS_FD, target.as_fd().as_raw_fd() as u32);
        request.nest(libc::IFLA_LINKINFO, |m| {
            m.str(libc::IFLA_INFO_KIND, text);
            if let Some((kind, value)) = &data {
                m.nest(libc::IFLA_INFO_DATA, |m| {
                    m.attr(*kind, value);
                });
            }
        });
        self.new_link(text, &format!("creating {text} link {name}"), request)
    }

    /// Makes a veth pair, both ends down: `name` in this namespace and `peer` in `peer_ns`. Neither end is ever in a third
    /// namespace. Deleting one end, or its namespace, deletes both.
    ///
    /// See [veth(4)](https://man7.org/linux/man-pages/man4/veth.4.html).
    ///
    /// # Errors
    /// [`Exists`](crate::ErrorKind::Exists) if either name is taken; [`Unsupported`](crate::ErrorKind::Unsupported) on a
    /// kernel without veth.
    pub fn add_veth(&self, name: &IfName, peer_ns: &Self, peer: &IfName) -> Result<()> {
        let mut request =
            Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL).fixed(&ifinfo(0, 0, 0));
        request.str(libc::IFLA_IFNAME, name.as_str());
        request.nest(libc::IFLA_LINKINFO, |m| {
            m.str(libc::IFLA_INFO_KIND, "veth");
            m.nest(libc::IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(0, 0, 0));
                    m.str(libc::IFLA_IFNAME, peer.as_str());
                    m.u32(libc::IFLA_NET_NS_FD, peer_ns.as_fd().as_raw_fd() as u32);
                });
            });
        });
        self.new_link("veth", &format!("creating veth pair {name} and {peer}"), request)
    }

    fn new_link(&self, kind: &str, what: &str, request: Message) -> Result<()> {
        self.route.ask(what, request).map(drop).map_err(|e| match e.errno() {
            Some(libc::EOPNOTSUPP) => {
                // The module of VLANs is named after the standard.
                let module = if kind == "vlan" { "8021q" } else { kind };
                let option = if kind == "vlan" { "VLAN_8021Q".into() } else { kind.to_uppercase() };
                let fix = format!("modprobe {module}, or run one with CONFIG_{option}");
                Error::lacking(what, libc::EOPNOTSUPP, &format!("links of the kind {kind}"), fix)
            }
            _ => e,
        })
    }

    /// Changes a link.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for the link or its new bridge; `EINVAL` for an MTU or MAC address that
    /// the driver refuses; [`Busy`](crate::ErrorKind::Busy) if it is a port of another bridge.
    pub fn set_link(&self, name: &IfName, settings: &LinkSettings) -> Result<()> {
        let what = format!("changing link {name}");
        if let Some(mac) = settings.mac.filter(|mac| !mac.is_unicast()) {
            return Err(Error::invalid(
                format_args!("{what}: MAC address {mac}"),
                "a unicast address, like 02:00:00:00:00:01",
            ));
        }
        let up = libc::IFF_UP as u32;
        let (flags, change) = match settings.up {
            Some(true) => (up, up),
            Some(false) => (0, up),
            None => (0, 0),
        };
        let index = self.index(name)?;
        let mut request = Message::new(libc::RTM_NEWLINK, 0).fixed(&ifinfo(index, flags, change));
        if let Some(mtu) = settings.mtu {
            request.u32(libc::IFLA_MTU, mtu);
        }
        if let Some(mac) = settings.mac {
            request.attr(libc::IFLA_ADDRESS, &mac.0);
        }
        if let Some(master) = &settings.master {
            let bridge = match master {
                Some(bridge) => self.index(bridge).map_err(|e| e.context(&what))?,
                None => 0,
            };
            request.u32(libc::IFLA_MASTER, bridge);
        }
        self.route.ask(&what, request)?;
        // Options of a port only exist once it is one.
        let port = [(IFLA_BRPORT_ISOLATED, settings.isolated), (IFLA_BRPORT_MODE, settings.hairpin)];
        if port.iter().any(|(_, value)| value.is_some()) {
            let mut request = Message::new(libc::RTM_NEWLINK, 0).fixed(&ifinfo(index, 0, 0));
            request.nest(libc::IFLA_LINKINFO, |m| {
                m.str(libc::IFLA_INFO_SLAVE_KIND, "bridge");
                m.nest(libc::IFLA_INFO_SLAVE_DATA, |m| {
                    for (kind, value) in port {
                        if let Some(value) = value {
                            m.attr(kind, &[u8::from(value)]);
                        }
                    }
                });
            });
            self.route.ask(&format!("{what}: options of a bridge port"), request)?;
        }
        Ok(())
    }

    /// Waits until a link is [running](Link::running) and its addresses are in use, but for link-local ones. The kernel
    /// notices that both ends of a veth pair are up only some time later, often a second, and takes up to another to make
    /// IPv6 addresses reachable.
    ///
    /// # Errors
    /// `ETIMEDOUT` after `timeout`; [`NotFound`](crate::ErrorKind::NotFound) for the link.
    pub fn wait_ready(&self, name: &IfName, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        while !self.is_ready(name)? {
            if begin.elapsed() >= timeout {
                return Err(Error::system(
                    format_args!("waiting for link {name} to be ready"),
                    libc::ETIMEDOUT,
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn is_ready(&self, name: &IfName) -> Result<bool> {
        let link = self.link(name)?;
        if !link.running {
            return Ok(false);
        }
        // An address is in use once the table `local` leads to it; the tentative flag alone comes off too early.
        let routes = self.routes()?;
        let in_use =
            |addr: IpAddr| routes.iter().any(|r| r.kind == RouteKind::Local && r.to == IpPrefix::host(addr));
        let link_local = |addr: IpAddr| matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
        let addresses = self.addresses()?;
        let mut ours = addresses.iter().filter(|a| a.link == link.index && !link_local(a.addr));
        Ok(ours.all(|a| !a.tentative && in_use(a.addr)))
    }

    /// Deletes a link; of a veth pair both ends go.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Unsupported`](crate::ErrorKind::Unsupported) for `lo`.
    pub fn delete_link(&self, name: &IfName) -> Result<()> {
        let mut request = Message::new(libc::RTM_DELLINK, 0).fixed(&ifinfo(0, 0, 0));
        request.str(libc::IFLA_IFNAME, name.as_str());
        self.route.ask(&format!("deleting link {name}"), request).map(drop)
    }

    /// Makes a tap interface and hands over its descriptor: each read is an Ethernet frame that the namespace sent, each
    /// write one that it receives. The interface goes with the descriptor.
    ///
    /// See [tun/tap](https://docs.kernel.org/networking/tuntap.html). Needs `/dev/net/tun` readable and writable, and
    /// what [`run`](Self::run) needs.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) or [`Permission`](crate::ErrorKind::Permission) for `/dev/net/tun`;
    /// [`Busy`](crate::ErrorKind::Busy) if a tap of that name is in use.
    pub fn add_tap(&self, name: &IfName) -> Result<OwnedFd> {
        let what = format!("creating tap {name}");
        if self.index(name).is_ok() {
            // TUNSETIFF would attach to an existing tap instead.
            return Err(Error::kernel(what, libc::EEXIST, None));
        }
        let opened = self.run(|| {
            let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
            sys::attach_tap(&tun, name.as_str())?;
            Ok(OwnedFd::from(tun))
        })?;
        opened.map_err(|e: std::io::Error| Error::system(what, e.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// The index of the link that a message names, if any.
pub(crate) fn index_of(attrs: &Attrs<'_>, kind: u16) -> Option<u32> {
    attrs.u32(kind).filter(|index| *index != 0)
}
