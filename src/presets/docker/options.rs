//! The values of `docker run`'s options, as texts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use palisade_cgroup::Access;
use palisade_fsroot::MountFlags;
use palisade_secfilter::lsm::LabelOption;

use crate::error::{Error, Result};

fn bad(option: &str, value: &str, why: &str) -> Error {
    Error::invalid(format!("--{option} {:?}: {why}", value.chars().take(128).collect::<String>()))
}

/// `--device`: `HOST[:CONTAINER[:rwm]]`, or `HOST:rwm`. A directory stands for every device below it.
///
/// ```
/// use palisade::presets::docker::DeviceOption;
///
/// let device: DeviceOption = "/dev/fuse:/dev/labdev:r".parse()?;
/// assert_eq!((device.container().to_str(), device.access().to_string().as_str()), (Some("/dev/labdev"), "r"));
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOption {
    host: PathBuf,
    container: PathBuf,
    access: Access,
}

impl DeviceOption {
    /// The node of the host.
    pub fn host(&self) -> &Path {
        &self.host
    }

    /// Where it is seen.
    pub fn container(&self) -> &Path {
        &self.container
    }

    /// What may be done with it.
    pub fn access(&self) -> Access {
        self.access
    }
}

impl FromStr for DeviceOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why| Err(bad("device", text, why));
        let mut parts = text.split(':');
        let host = parts.next().unwrap_or_default();
        let (container, access) = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => (host, None),
            (Some(one), None, _) if !one.starts_with('/') => (host, Some(one)),
            (Some(container), access, None) => (container, access),
            _ => return bad("HOST[:CONTAINER[:rwm]] has three parts at most"),
        };
        let under_dev = |path: &str| {
            let below = path.strip_prefix("/dev/");
            below.is_some_and(|below| below.split('/').all(|part| !matches!(part, "" | "." | "..")))
        };
        if !under_dev(host) || !under_dev(container) || text.contains('\0') {
            return bad("both paths are below /dev, without `..` and doubled slashes");
        }
        let access = match access {
            None => Access::ALL,
            Some(letters) => match letters.parse() {
                Ok(access) => access,
                Err(_) => return bad("the access is one to three of the letters r, w and m"),
            },
        };
        Ok(Self { host: host.into(), container: container.into(), access })
    }
}

impl fmt::Display for DeviceOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host.display(), self.container.display(), self.access)
    }
}

/// `--security-opt`: `KEY=VALUE`, or with a colon as older engines had it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecurityOption {
    /// `no-new-privileges`, `no-new-privileges=false`.
    NoNewPrivileges(bool),
    /// `seccomp=unconfined`.
    SeccompUnconfined,
    /// `seccomp=builtin`: Docker's default profile.
    SeccompBuiltin,
    /// `seccomp=FILE`: a profile in Docker's JSON format.
    Seccomp(PathBuf),
    /// `apparmor=PROFILE`, `unconfined` included.
    AppArmor(String),
    /// `label=disable`, `label=user:USER`, `label=role:ROLE`, `label=type:TYPE`, `label=level:LEVEL`.
    Label(LabelOption),
    /// `systempaths=unconfined`: nothing of /proc and /sys is hidden or read-only.
    SystemPathsUnconfined,
    /// `writable-cgroups`, `writable-cgroups=false`.
    WritableCgroups(bool),
}

impl FromStr for SecurityOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| bad("security-opt", text, why);
        let truth = |value: &str| match value {
            "" | "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(bad("true or false")),
        };
        let at = text.find('=').or_else(|| text.find(':'));
        let (key, value) = at.map_or((text, ""), |at| (&text[..at], &text[at + 1..]));
        if value.contains('\0') {
            return Err(bad("a NUL byte"));
        }
        match (key, value) {
            ("no-new-privileges", value) => truth(value).map(Self::NoNewPrivileges),
            ("writable-cgroups", value) => truth(value).map(Self::WritableCgroups),
            ("seccomp" | "apparmor" | "label" | "systempaths", "") => Err(bad("it needs a value: KEY=VALUE")),
            ("seccomp", "unconfined") => Ok(Self::SeccompUnconfined),
            ("seccomp", "builtin") => Ok(Self::SeccompBuiltin),
            ("seccomp", file) => Ok(Self::Seccomp(file.into())),
            ("apparmor", profile) => Ok(Self::AppArmor(profile.to_owned())),
            ("label", label) => label.parse().map(Self::Label).map_err(|error| bad(&error.to_string())),
            ("systempaths", "unconfined") => Ok(Self::SystemPathsUnconfined),
            ("systempaths", _) => Err(bad("systempaths knows `unconfined`")),
            _ => Err(bad(
                "unknown: no-new-privileges, seccomp, apparmor, label, systempaths and writable-cgroups are known",
            )),
        }
    }
}

impl fmt::Display for SecurityOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNewPrivileges(on) => write!(f, "no-new-privileges={on}"),
            Self::SeccompUnconfined => f.write_str("seccomp=unconfined"),
            Self::SeccompBuiltin => f.write_str("seccomp=builtin"),
            Self::Seccomp(file) => write!(f, "seccomp={}", file.display()),
            Self::AppArmor(profile) => write!(f, "apparmor={profile}"),
            Self::Label(label) => write!(f, "label={label}"),
            Self::SystemPathsUnconfined => f.write_str("systempaths=unconfined"),
            Self::WritableCgroups(on) => write!(f, "writable-cgroups={on}"),
        }
    }
}

/// `--tmpfs`: `PATH[:OPTIONS]`, the options as of mount(8). `nosuid`, `nodev` and `noexec` hold unless taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TmpfsOption {
    pub(super) target: PathBuf,
    pub(super) flags: MountFlags,
    pub(super) size: Option<u64>,
    pub(super) inodes: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

impl FromStr for TmpfsOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| bad("tmpfs", text, why);
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let mut it = Self {
            target: absolute(target).ok_or_else(|| bad("the path is absolute, without `..`"))?,
            flags: MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            size: None,
            inodes: None,
            mode: None,
            uid: None,
            gid: None,
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let number = |value: &str, radix: u32| {
                let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| u32::from_str_radix(value, radix).ok()).flatten()
            };
            let read = match option.split_once('=').unwrap_or((option, "")) {
                (word, "") => {
                    let (flag, set) = match word {
                        "rw" => (MountFlags::READ_ONLY, false),
                        "ro" => (MountFlags::READ_ONLY, true),
                        "exec" => (MountFlags::NOEXEC, false),
                        "noexec" => (MountFlags::NOEXEC, true),
                        "suid" => (MountFlags::NOSUID, false),
                        "nosuid" => (MountFlags::NOSUID, true),
                        "dev" => (MountFlags::NODEV, false),
                        "nodev" => (MountFlags::NODEV, true),
                        _ => (MountFlags::empty(), false),
                    };
                    it.flags.set(flag, set);
                    !flag.is_empty()
                }
                ("size", value) => set(&mut it.size, bytes(value).filter(|n| *n > 0)),
                ("nr_inodes", value) => set(&mut it.inodes, bytes(value).filter(|n| *n > 0)),
                ("mode", value) => set(&mut it.mode, number(value, 8).filter(|n| *n <= 0o7777)),
                ("uid", value) => set(&mut it.uid, number(value, 10)),
                ("gid", value) => set(&mut it.gid, number(value, 10)),
                _ => false,
            };
            if !read {
                return Err(bad(&format!(
                    "{option:?}: rw, ro, [no]exec, [no]suid, [no]dev, size=, nr_inodes=, mode=, uid= and gid= are known"
                )));
            }
        }
        Ok(it)
    }
}

/// Whether there was a value.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let read = value.is_some();
    *place = value.or(place.take());
    read
}

impl fmt::Display for TmpfsOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |flag, set, unset| if self.flags.contains(flag) { set } else { unset };
        write!(
            f,
            "{}:{},{},{},{}",
            self.target.display(),
            flag(MountFlags::READ_ONLY, "ro", "rw"),
            flag(MountFlags::NOEXEC, "noexec", "exec"),
            flag(MountFlags::NOSUID, "nosuid", "suid"),
            flag(MountFlags::NODEV, "nodev", "dev"),
        )?;
        let decimal = [("size", self.size), ("nr_inodes", self.inodes)];
        let ids = [("uid", self.uid), ("gid", self.gid)].map(|(name, id)| (name, id.map(u64::from)));
        for (name, value) in decimal.into_iter().chain(ids) {
            if let Some(value) = value {
                write!(f, ",{name}={value}")?;
            }
        }
        self.mode.map_or(Ok(()), |mode| write!(f, ",mode={mode:o}"))
    }
}

/// `--volume`: `HOST:CONTAINER[:OPTIONS]`, both paths absolute; `ro` or `rw`, and `nosuid`, `nodev`, `noexec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOption {
    pub(super) host: PathBuf,
    pub(super) container: PathBuf,
    pub(super) flags: MountFlags,
}

impl FromStr for VolumeOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| bad("volume", text, why);
        let mut parts = text.splitn(3, ':');
        let mut path = || parts.next().and_then(absolute);
        let (Some(host), Some(container)) = (path(), path()) else {
            return Err(bad(
                "HOST:CONTAINER, both absolute and without `..` (named volumes are an engine's)",
            ));
        };
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        for option in parts.next().unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => flags.insert(MountFlags::READ_ONLY),
                "rw" => flags.remove(MountFlags::READ_ONLY),
                // Bound as they are without a word.
                "rprivate" | "private" | "rbind" => {}
                "nosuid" | "nodev" => {}
                "noexec" => flags.insert(MountFlags::NOEXEC),
                _ => {
                    return Err(bad(&format!(
                        "{option:?}: ro, rw, noexec, nosuid, nodev and rprivate are known"
                    )));
                }
            }
        }
        Ok(Self { host, container, flags })
    }
}

impl fmt::Display for VolumeOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.flags.contains(MountFlags::READ_ONLY) { "ro" } else { "rw" };
        let noexec = if self.flags.contains(MountFlags::NOEXEC) { ",noexec" } else { "" };
        write!(f, "{}:{}:{word}{noexec}", self.host.display(), self.container.display())
    }
}

/// A path without `..`, doubled slashes and NUL.
fn absolute(path: &str) -> Option<PathBuf> {
    let below = path.strip_prefix('/')?;
    let plain = below.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (plain && !path.contains(['\0', ':', ','])).then(|| path.into())
}

/// Whose namespace: `--ipc`, `--pid`, `--uts`, `--network`, `--userns`, `--cgroupns`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Its own: no word, or `private`.
    #[default]
    Private,
    /// Its own, with less in it: `--ipc none` has no /dev/shm, `--network none` only loopback.
    None,
    /// The host's.
    Host,
    /// Another container's, by the name that an engine has for it.
    Container(String),
    /// What an engine keeps under this name: a network, or an ipc namespace that is `shareable`.
    Named(String),
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = |name: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
            (!name.is_empty() && name.bytes().all(plain)).then(|| name.to_owned())
        };
        let mode = match text {
            "" | "private" => Some(Self::Private),
            "none" => Some(Self::None),
            "host" => Some(Self::Host),
            text => match text.strip_prefix("container:") {
                Some(container) => name(container).map(Self::Container),
                None => name(text).map(Self::Named),
            },
        };
        mode.ok_or_else(|| bad("ipc/pid/uts/network", text, "private, none, host, container:NAME or a name"))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "container:{name}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// A size as Docker reads it: `256m`, `1.5g`, `64KiB`, `100` bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim_end().to_ascii_lowercase();
    let at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    // Nine decimals are exact in 128 bits; what is below a byte is dropped.
    let billionths = billionths(number)?;
    u64::try_from((u128::from(billionths) << shift) / 1_000_000_000).ok().filter(|n| *n <= i64::MAX as u64)
}

/// A decimal number with up to nine decimals, times 10⁹: `0.75` is 750 million.
pub(super) fn billionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let part = part.parse::<u64>().ok()? * 10u64.pow(9 - part.len() as u32);
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip<T: FromStr<Err = Error> + fmt::Display + PartialEq + fmt::Debug>(text: &str) {
        let Ok(value) = text.parse::<T>() else { return };
        assert_eq!(value.to_string().parse::<T>().expect("what it prints"), value, "{text:?}");
    }

    #[test]
    fn devices() {
        let read = |text: &str| text.parse::<DeviceOption>().map(|device| device.to_string()).ok();
        for (text, printed) in [
            ("/dev/video0", Some("/dev/video0:/dev/video0:rwm")),
            ("/dev/video0:/dev/x", Some("/dev/video0:/dev/x:rwm")),
            ("/dev/video0:r", Some("/dev/video0:/dev/video0:r")),
            ("/dev/video0:/dev/x/y:wr", Some("/dev/video0:/dev/x/y:rw")),
            ("/dev/video0:/dev/x:", None),
            ("/dev/video0:/dev/x:rx", None),
            ("/dev/video0:/dev/x:r:w", None),
            ("/dev/../etc/shadow", None),
            ("/etc/shadow", None),
            ("/dev/video0:/etc/x", None),
            ("/dev/", None),
            ("", None),
        ] {
            assert_eq!(read(text).as_deref(), printed, "{text:?}");
        }
    }

    #[test]
    fn security_options() {
        use SecurityOption::*;
        for (text, option) in [
            ("no-new-privileges", Some(NoNewPrivileges(true))),
            ("no-new-privileges:true", Some(NoNewPrivileges(true))),
            ("no-new-privileges=false", Some(NoNewPrivileges(false))),
            ("no-new-privileges=perhaps", None),
            ("seccomp=unconfined", Some(SeccompUnconfined)),
            ("seccomp:unconfined", Some(SeccompUnconfined)),
            ("seccomp=/etc/a:b=c.json", Some(Seccomp("/etc/a:b=c.json".into()))),
            ("seccomp=", None),
            ("apparmor=my profile", Some(AppArmor("my profile".into()))),
            ("label=disable", Some(Label(LabelOption::Disable))),
            ("label=type:svirt_apache_t", Some(Label(LabelOption::Kind("svirt_apache_t".into())))),
            ("label:level:s0:c100,c200", Some(Label(LabelOption::Level("s0:c100,c200".into())))),
            ("label=colour:red", None),
            ("systempaths=unconfined", Some(SystemPathsUnconfined)),
            ("systempaths=confined", None),
            ("writable-cgroups=true", Some(WritableCgroups(true))),
            ("selinux=off", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<SecurityOption>().ok(), option, "{text:?}");
        }
        let error = "selinux=off".parse::<SecurityOption>().expect_err("unknown").to_string();
        assert!(error.contains("--security-opt \"selinux=off\": unknown"), "{error}");
    }

    #[test]
    fn sizes_and_fractions() {
        for (text, n) in [
            ("256m", Some(256 << 20)),
            ("1.5g", Some(3 << 29)),
            ("64KiB", Some(64 << 10)),
            ("100", Some(100)),
            ("100b", Some(100)),
            ("0.5", Some(0)),
            ("6 m", Some(6 << 20)),
            ("m", None),
            ("-1", None),
            ("1e3", None),
            ("8192p", None),
            ("9999999999999999999", None),
        ] {
            assert_eq!(bytes(text), n, "{text:?}");
        }
        assert_eq!(
            (billionths("0.75"), billionths("2"), billionths(".5")),
            (Some(750_000_000), Some(2_000_000_000), None)
        );
    }

    #[test]
    fn tmpfs_and_volumes() {
        for text in ["/run", "/run:rw,exec,size=64m,mode=1777,uid=5,gid=6,nr_inodes=1k", "/x:ro,suid,dev"] {
            assert!(text.parse::<TmpfsOption>().is_ok(), "{text}");
            round_trip::<TmpfsOption>(text);
        }
        for text in
            ["run", "/run:size=0", "/run:mode=9", "/run:mode=17777", "/a/../b", "/run:huge=always", ""]
        {
            assert!(text.parse::<TmpfsOption>().is_err(), "{text}");
        }
        for text in ["/a:/b", "/a:/b:ro", "/a:/b:rw,noexec"] {
            assert!(text.parse::<VolumeOption>().is_ok(), "{text}");
            round_trip::<VolumeOption>(text);
        }
        for text in ["/a", "a:/b", "/a:b", "/a:/b:z", "/a:/b:ro:rw", "/a/..:/b", ""] {
            assert!(text.parse::<VolumeOption>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_reads_back(text in "[-a-zA-Z0-9:=/.,_ ]{0,40}|\\PC{0,20}") {
            round_trip::<DeviceOption>(&text);
            round_trip::<SecurityOption>(&text);
            round_trip::<TmpfsOption>(&text);
            round_trip::<VolumeOption>(&text);
            round_trip::<Mode>(&text);
            bytes(&text);
        }

        #[test]
        fn valid_texts_read_back(
            key in prop::sample::select(vec!["label", "seccomp", "apparmor", "no-new-privileges", "systempaths"]),
            sign in "[=:]",
            value in "(user|role|type|level):[a-z_]{1,5}(:c[0-9])?|disable|unconfined|builtin|true|/[a-z/]{1,9}",
        ) {
            round_trip::<SecurityOption>(&format!("{key}{sign}{value}"));
        }
    }
}
