//! User-mode networks: a program of the host, pasta or slirp4netns, that carries a sandbox's connections as the host
//! program's own.

use std::fmt;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_creds::{IdMap, Search, Uid, find_trusted, has_more_power_than_its_environment};
use palisade_net::nft::Protocol;
use palisade_sys::{FD_PASSED, Step};

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

    /// This file, instead of the one that `PATH`, `/usr/local/bin` or `/usr/bin` has, whoever can write to it.
    ///
    /// Where the host program is root, or an exec gave it power, directories and programs of `PATH` that another user than
    /// root can write to are passed over.
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

/// The helper's descriptors: the pipe by which it says that the link is up, a file for its words, and its program, where that
/// was checked.
pub(super) const FD_CHECKED: i32 = FD_PASSED + 2;

/// The same, open beyond the exec: a script's interpreter reads it by its number.
pub(super) const FD_PROGRAM: i32 = FD_CHECKED + 1;

/// Where slirp4netns says that the link is up: right above, as there may be a low limit of descriptors.
const FD_READY: i32 = FD_PROGRAM + 1;

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
    /// The file that was checked, which is the one to run.
    pub(super) checked: Option<Arc<File>>,
    publish: Vec<Published>,
}

impl UserMode {
    /// The program that was asked for, or the first that is installed.
    pub(super) fn find(asked: Option<&UserModeProgram>, publish: &[Published]) -> Result<Self> {
        let missing = |what: String, hint: &str| {
            let error = Error::new(ErrorKind::Setup, Step::Prepare, what);
            Err(error.with_object("user-mode network").with_hint(hint))
        };
        let new = |kind, Found { path, checked }| Ok(Self { kind, path, checked, publish: publish.to_vec() });
        let more_power = has_more_power_than_its_environment();
        let in_path = |kind: Kind| in_path(&kind.to_string(), more_power);
        let untrusted = |path: &Path| {
            missing(
                format!("{}: not a program that only root can change, and this is root", path.display()),
                "keep it and its directory root's, or name it by UserModeProgram::at",
            )
        };
        match asked {
            Some(UserModeProgram { kind, path: Some(path) }) if is_program(path) => {
                new(*kind, Found { path: path.clone(), checked: None })
            }
            Some(UserModeProgram { path: Some(path), .. }) => {
                missing(format!("{}: not a file that can be executed", path.display()), "correct the path")
            }
            Some(UserModeProgram { kind, path: None }) => match in_path(*kind)? {
                Ok(found) => new(*kind, found),
                Err(Some(path)) => untrusted(&path),
                Err(None) => missing(format!("{kind} is not in PATH"), kind.package()),
            },
            None => match (in_path(Kind::Pasta)?, in_path(Kind::Slirp4netns)?) {
                (Ok(found), _) => new(Kind::Pasta, found),
                (Err(None), Ok(_)) if !publish.is_empty() => missing(
                    "published ports need pasta, which is not in PATH; slirp4netns has none".into(),
                    Kind::Pasta.package(),
                ),
                (Err(_), Ok(found)) if publish.is_empty() => new(Kind::Slirp4netns, found),
                (Err(Some(path)), _) | (_, Err(Some(path))) => untrusted(&path),
                (Err(None), _) => missing(
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

/// A program that a search found.
struct Found {
    path: PathBuf,
    checked: Option<Arc<File>>,
}

/// The first program of this name; or the first that is not to be trusted, if there is one.
type Looked = std::result::Result<Found, Option<PathBuf>>;

fn in_path(name: &str, more_power: bool) -> Result<Looked> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    look(name, std::env::split_paths(&path).chain(usual), more_power)
}

fn look(name: &str, mut directories: impl Iterator<Item = PathBuf>, more_power: bool) -> Result<Looked> {
    if !more_power {
        let found = directories.find_map(|dir| Some(dir.join(name)).filter(|file| is_program(file)));
        return Ok(found.map(|path| Found { path, checked: None }).ok_or(None));
    }
    // In a user namespace that does not know the host's root, as an ordinary user makes it, that one's files have the
    // owner 65534, who is nobody inside.
    let map = std::fs::read("/proc/self/uid_map").ok().and_then(|map| IdMap::parse(&map).ok().flatten());
    let stranger = map.is_some_and(|map| map.to_outside(Uid::NOBODY).is_none());
    let owner = |id: u32| id == 0 || (stranger && id == Uid::NOBODY.as_raw());
    let search = find_trusted(name, directories, owner)
        .map_err(|error| Error::from_source(ErrorKind::Setup, Step::Prepare, error, None))?;
    Ok(match search {
        Search::Found(path, file) => Ok(Found { path, checked: Some(Arc::new(file)) }),
        Search::PassedOver(path) => Err(Some(path)),
        Search::Missing => Err(None),
    })
}

fn is_program(file: &Path) -> bool {
    let meta = std::fs::metadata(file);
    file.is_absolute() && meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::{date_of, look};

    /// As root, or with power of an exec, a program is taken from where only root can put it.
    #[test]
    fn a_program_in_path_that_others_can_change_is_passed_over_for_root() {
        let (dir, other) = (palisade_testkit::temp_dir(), palisade_testkit::temp_dir());
        let place = |dir: &Path, of_dir: u32, of_file: u32| {
            let file = dir.join("pasta");
            std::fs::write(&file, "#!/bin/sh\n").expect("written");
            for (path, mode) in [(&*file, of_file), (dir, of_dir)] {
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
            }
        };
        let found = |more_power| {
            let dirs = ["bin".into(), dir.path().to_owned(), other.path().to_owned()];
            let looked = look("pasta", dirs.into_iter(), more_power).expect("searched");
            looked.map(|found| (found.path, found.checked.is_some()))
        };
        place(other.path(), 0o755, 0o755);
        let (first, second) = (dir.path().join("pasta"), other.path().join("pasta"));
        let is_roots = std::fs::metadata(&second).expect("there").uid() == 0;
        for (of_dir, of_file) in [(0o777, 0o755), (0o775, 0o755), (0o755, 0o775), (0o755, 0o757)] {
            place(dir.path(), of_dir, of_file);
            let wanted = if is_roots { Ok((second.clone(), true)) } else { Err(Some(first.clone())) };
            assert_eq!(found(true), wanted, "{of_dir:o} {of_file:o}");
            assert_eq!(found(false), Ok((first.clone(), false)), "{of_dir:o} {of_file:o}");
        }
        place(dir.path(), 0o755, 0o755);
        assert_eq!(found(true), if is_roots { Ok((first.clone(), true)) } else { Err(Some(first.clone())) });
        if is_roots {
            // Another user's, however it is guarded.
            std::os::unix::fs::chown(&first, Some(59_000), None).expect("chown");
            assert_eq!(found(true), Ok((second.clone(), true)));
            std::os::unix::fs::chown(&first, Some(0), None).expect("chown");
            std::os::unix::fs::chown(dir.path(), Some(59_000), None).expect("chown");
            assert_eq!(found(true), Ok((second, true)));
        }
    }

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
