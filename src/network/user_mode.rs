//! User-mode networks: a program of the host, pasta or slirp4netns, that carries a sandbox's connections as the host
//! program's own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use palisade_net::nft::Protocol;
use palisade_sys::Step;

use crate::error::{Error, ErrorKind, Result};

/// The program behind a [`user_mode`](crate::Network::user_mode) network: `pasta` (package `passt`) or `slirp4netns`.
///
/// ```
/// use palisade::{Network, UserModeProgram};
///
/// let network = Network::user_mode_with(UserModeProgram::pasta().at("/opt/passt/bin/pasta"));
/// assert_eq!(network.to_string(), "user-mode");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserModeProgram {
    kind: Kind,
    path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Pasta,
    Slirp4netns,
}

impl UserModeProgram {
    /// `pasta`: carries published ports, too. Tried with Debian's of 2023, 2025 and 2026.
    #[doc(alias = "passt")]
    pub const fn pasta() -> Self {
        Self { kind: Kind::Pasta, path: None }
    }

    /// `slirp4netns`, 1.0 or later. As an ordinary user's it stays in the host's file tree, where `pasta` leaves that; its
    /// seccomp filter is on.
    pub const fn slirp4netns() -> Self {
        Self { kind: Kind::Slirp4netns, path: None }
    }

    /// This file, instead of the one that `PATH`, `/usr/local/bin` or `/usr/bin` has.
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    pub(super) fn carries_published_ports(&self) -> bool {
        self.kind == Kind::Pasta
    }

    pub(super) fn conflict(&self) -> Option<String> {
        let path = self.path.as_ref().filter(|path| !path.is_absolute())?;
        Some(format!("program {}: must be an absolute path", path.display()))
    }
}

impl fmt::Display for UserModeProgram {
    /// The program's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        })
    }
}

/// The interface that it makes inside.
pub(super) const INTERFACE: &str = "tap0";

/// Inside, whichever program it is: as slirp4netns has it by itself.
const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// Where it answers for the host's resolver.
pub(super) const RESOLVERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3))];

/// The descriptor by which slirp4netns says that the link is up: above those at which a helper is given its own.
const FD_READY: i32 = 61;

/// A port of the host that leads inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) protocol: Protocol,
    /// The host's address, where one was given.
    pub(super) addr: Option<IpAddr>,
    pub(super) outside: u16,
    pub(super) inside: u16,
}

/// The program, found, and what it is to do.
#[derive(Clone, Debug)]
pub(super) struct UserMode {
    kind: Kind,
    pub(super) path: PathBuf,
    publish: Vec<Published>,
}

impl UserMode {
    /// The program that was asked for, or the first that is installed.
    pub(super) fn find(asked: Option<&UserModeProgram>, publish: &[Published]) -> Result<Self> {
        let missing = |what: String, hint: &str| {
            let error = Error::new(ErrorKind::Setup, Step::Prepare, what);
            Err(error.with_object("user-mode network").with_hint(hint))
        };
        let new = |kind, path| Ok(Self { kind, path, publish: publish.to_vec() });
        match asked {
            Some(UserModeProgram { kind, path: Some(path) }) if is_program(path) => new(*kind, path.clone()),
            Some(UserModeProgram { path: Some(path), .. }) => {
                missing(format!("{}: not a file that can be executed", path.display()), "correct the path")
            }
            Some(UserModeProgram { kind, path: None }) => match in_path(*kind) {
                Some(path) => new(*kind, path),
                None => missing(format!("{kind} is not in PATH"), kind.package()),
            },
            None => match (in_path(Kind::Pasta), in_path(Kind::Slirp4netns)) {
                (Some(path), _) => new(Kind::Pasta, path),
                (None, Some(_)) if !publish.is_empty() => missing(
                    "published ports need pasta, which is not in PATH; slirp4netns has none".into(),
                    Kind::Pasta.package(),
                ),
                (None, Some(path)) => new(Kind::Slirp4netns, path),
                (None, None) => missing(
                    "neither pasta nor slirp4netns is in PATH".into(),
                    "install the package passt or slirp4netns, or use Network::bridge as root",
                ),
            },
        }
    }

    /// What it is called with to serve the process `pid`.
    pub(super) fn arguments(&self, pid: u32) -> Vec<String> {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let is_root = nix::unistd::geteuid().is_root();
        if self.kind == Kind::Slirp4netns {
            let mut all = texts(&["--configure", "--mtu=65520", "--disable-host-loopback", "--enable-ipv6"]);
            all.push("--enable-seccomp".into());
            // As an ordinary user's it would become root of the payload's user namespace first, which has none.
            if is_root {
                all.push("--enable-sandbox".into());
            }
            all.extend([format!("--ready-fd={FD_READY}"), pid.to_string(), INTERFACE.into()]);
            return all;
        }
        let (user, net) = (format!("/proc/{pid}/ns/user"), format!("/proc/{pid}/ns/net"));
        let mut all = texts(&["--quiet", "--foreground", "--config-net", "--ns-ifname", INTERFACE]);
        // Its own way to see that the namespace is gone is not in every version, and asks once a second. The guard sees to
        // that.
        all.extend(texts(&["--no-netns-quit", "--no-map-gw"]));
        // The number is written when all is set up: to a pipe, for which no path of a file is needed.
        all.extend(texts(&["--pid", "/proc/self/fd/1"]));
        // The user namespace belongs to who made it: as nobody, which root becomes by itself, it could not be entered.
        if is_root {
            all.extend(["--runas".into(), format!("0:{}", nix::unistd::getegid())]);
        }
        for (addr, gateway, resolver) in [
            (IpAddr::from(OWN_V4), IpAddr::from(GATEWAY_V4), RESOLVERS[0]),
            (OWN_V6.into(), GATEWAY_V6.into(), RESOLVERS[1]),
        ] {
            let [addr, gateway, resolver] = [addr, gateway, resolver].map(|addr| addr.to_string());
            all.extend(texts(&["--address", &addr, "--gateway", &gateway, "--dns-forward", &resolver]));
        }
        all.extend(texts(&["--netmask", "255.255.255.0"]));
        // Nothing leads from one side's loopback to the other's but what is published.
        for (protocol, option, back) in [(Protocol::TCP, "-t", "-T"), (Protocol::UDP, "-u", "-U")] {
            let of = self.publish.iter().filter(|port| port.protocol == protocol);
            let mut ports: Vec<String> = of.map(Published::for_pasta).collect();
            if ports.is_empty() {
                ports.push("none".into());
            }
            all.extend(ports.iter().flat_map(|port| texts(&[option, port])));
            all.extend(texts(&[back, "none"]));
        }
        all.extend(["--userns".into(), user, "--netns".into(), net]);
        all
    }

    /// The number at which it says that it is ready.
    pub(super) fn ready_at(&self) -> i32 {
        match self.kind {
            Kind::Pasta => libc::STDOUT_FILENO,
            Kind::Slirp4netns => FD_READY,
        }
    }
}

impl UserMode {
    /// pasta of 2023 takes connections to published ports and carries them nowhere, but for TCP at the loopback.
    pub(super) fn must_be_recent(&self) -> bool {
        let is_local = |port: &Published| port.addr.is_none_or(|addr| addr.is_loopback());
        self.publish.iter().any(|port| port.protocol != Protocol::TCP || !is_local(port))
    }

    /// Whether a version that says this carries all published ports. Those of 2025 say nothing where it is not a terminal
    /// that hears it.
    pub(super) fn check_version(&self, said: &str) -> Result<()> {
        if said.is_empty() || date_of(said).is_some_and(|date| date >= FIRST_THAT_PUBLISHES) {
            return Ok(());
        }
        let version = said.lines().next().unwrap_or_default();
        let what = format!("{version:?}: before 2024, only TCP is published, and at a loopback address");
        Err(Error::new(ErrorKind::Setup, Step::Network, what)
            .with_object(self.to_string())
            .with_hint("install a newer passt, or publish TCP at 127.0.0.1 or ::1"))
    }
}

/// Year, month and day as one number.
const FIRST_THAT_PUBLISHES: u32 = 20_240_101;

/// The date in what `pasta --version` says: `pasta 0.0~git20250503.587980c`, `pasta 2025_05_03.587980c`.
fn date_of(said: &str) -> Option<u32> {
    let words = said.lines().next()?.split(|c: char| !c.is_ascii_digit() && c != '_');
    words.map(|word| word.replace('_', "")).find(|word| word.len() == 8)?.parse().ok()
}

impl fmt::Display for UserMode {
    /// For plans and errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)?;
        self.publish.iter().try_for_each(|port| write!(f, ", {} {}", port.protocol, port.for_pasta()))
    }
}

impl Published {
    fn addr(&self) -> IpAddr {
        self.addr.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    fn for_pasta(&self) -> String {
        format!("{}/{}:{}", self.addr(), self.outside, self.inside)
    }
}

/// What is wrong with the published ports of a user-mode network.
pub(super) fn check(publish: &[Published], add: &mut impl FnMut(String)) {
    for (n, port) in publish.iter().enumerate() {
        let Published { protocol, outside, inside, .. } = port;
        if ![Protocol::TCP, Protocol::UDP].contains(protocol) {
            add(format!("publish {outside}: {protocol} is carried by no program; TCP or UDP"));
        }
        if *outside == 0 || *inside == 0 {
            add(format!("publish {outside} to {inside}: ports are 1 to 65535"));
        }
        let before =
            publish[..n].iter().filter(|other| (other.protocol, other.outside) == (*protocol, *outside));
        for other in before {
            if other.addr() == port.addr() {
                add(format!("publish {outside}: the same {protocol} port twice"));
            } else if other.inside != *inside {
                // pasta has one table for all addresses: connections to one would end at the other's port.
                let (first, second) = (other.for_pasta(), port.for_pasta());
                add(format!(
                    "publish {first} and {second}: a {protocol} port leads to one port inside, at every address; \
                     publish another one"
                ));
            }
        }
    }
}

impl Kind {
    fn package(self) -> &'static str {
        match self {
            Self::Pasta => "install the package passt, or use Network::bridge as root",
            Self::Slirp4netns => "install the package slirp4netns, or use Network::bridge as root",
        }
    }
}

fn in_path(kind: Kind) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    let mut found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(kind.to_string()));
    found.find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    let meta = std::fs::metadata(file);
    file.is_absolute() && meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::date_of;

    #[test]
    fn a_version_of_pasta_tells_its_date() {
        for (said, date) in [
            ("pasta 0.0~git20250503.587980c-2+deb13u1\nCopyright Red Hat\n", Some(20_250_503)),
            ("pasta 2024_02_20.1e6f92b\n", Some(20_240_220)),
            ("pasta unknown version\nof 20250101", None),
            ("pasta 1.2.3", None),
            ("", None),
        ] {
            assert_eq!(date_of(said), date, "{said}");
        }
    }
}
