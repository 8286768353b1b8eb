//! The default view: the host's programs and libraries, and nothing that is anybody's data.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dev::Dev;
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{Bind, Directory, File, Mount, Proc, Symlink, Tmpfs};
use crate::source::Source;

/// The host's programs and libraries, read-only, around a private `/tmp`, `/dev` and `/proc`.
///
/// `/usr`; `/bin`, `/sbin` and `/lib*` as links where they are links on the host; `/nix/store` and `/gnu/store` where
/// they exist. Of `/etc` what the dynamic linker, the time zone and TLS need (`ld.so.*`, `alternatives`, `localtime`,
/// certificates); `passwd`, `group`, `hosts` and `nsswitch.conf` are made up. No home directory, no `/var`, no socket.
#[derive(Clone, Debug)]
pub struct HostView {
    uid: u32,
    gid: u32,
    name: String,
    home: PathBuf,
    shell: PathBuf,
    host_name: String,
    hosts: Option<Arc<[u8]>>,
    resolv_conf: Resolver,
    proc: Option<Proc>,
    dev: Dev,
    tmp: Tmpfs,
}

/// What `/etc/resolv.conf` is.
#[derive(Clone, Debug)]
enum Resolver {
    None,
    Host,
    Own(Arc<[u8]>),
}

impl Default for HostView {
    fn default() -> Self {
        Self {
            uid: 65534,
            gid: 65534,
            name: "user".into(),
            home: "/tmp".into(),
            shell: "/bin/sh".into(),
            host_name: "sandbox".into(),
            hosts: None,
            resolv_conf: Resolver::None,
            proc: Some(Proc::new("/proc")),
            dev: Dev::new("/dev"),
            tmp: Tmpfs::new("/tmp"),
        }
    }
}

impl HostView {
    /// The view with uid and gid 65534, home `/tmp`, no resolver.
    pub fn new() -> Self {
        Self::default()
    }

    /// The user that `/etc/passwd` and `/etc/group` know besides root and nobody: numbers as seen inside.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Name of that user; `user` unless given.
    pub fn user_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Home directory of that user; `/tmp` unless given. Another one is up to the mounts that are added.
    pub fn home(mut self, home: impl AsRef<Path>) -> Self {
        self.home = home.as_ref().to_owned();
        self
    }

    /// The home directory that was given.
    pub fn home_dir(&self) -> &Path {
        &self.home
    }

    /// The name that `/etc/hosts` gives to the loopback addresses besides `localhost`; `sandbox` unless given.
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = name.into();
        self
    }

    /// The host's `/etc/resolv.conf` too: for views with a network.
    pub fn resolv_conf(mut self) -> Self {
        self.resolv_conf = Resolver::Host;
        self
    }

    /// This `/etc/resolv.conf`, whatever the host's says.
    pub fn resolver(mut self, contents: impl AsRef<[u8]>) -> Self {
        self.resolv_conf = Resolver::Own(contents.as_ref().into());
        self
    }

    /// This `/etc/hosts`, in place of the one with just the loopback addresses.
    pub fn hosts(mut self, contents: impl AsRef<[u8]>) -> Self {
        self.hosts = Some(contents.as_ref().into());
        self
    }

    /// Another `/proc`, or none: many programs fail without one, but inside most containers it can't be had.
    pub fn proc(mut self, proc: Option<Proc>) -> Self {
        self.proc = proc;
        self
    }

    /// Another `/dev`.
    pub fn dev(mut self, dev: Dev) -> Self {
        self.dev = dev;
        self
    }

    pub(crate) fn change_dev(&mut self, change: impl FnOnce(Dev) -> Dev) {
        self.dev = change(self.dev.clone());
    }

    /// Another `/tmp`.
    pub fn tmp(mut self, tmp: Tmpfs) -> Self {
        self.tmp = tmp;
        self
    }

    /// The view's parts, as this host has them.
    pub(crate) fn parts(&self) -> Result<Vec<Mount>> {
        for (field, text) in [("user name", &self.name), ("host name", &self.host_name)] {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if text.is_empty() || !text.chars().all(plain) {
                return Err(Error::new(ErrorKind::InvalidValue, format!("{field} {text:?}"))
                    .hint("it goes into files of /etc: letters, digits, '.', '_' and '-'"));
            }
        }
        for (field, path) in [("home directory", &self.home), ("shell", &self.shell)] {
            let fits = path.to_str().is_some_and(|p| p.starts_with('/') && !p.contains([':', '\n', '\0']));
            if !fits {
                return Err(Error::new(
                    ErrorKind::InvalidPath,
                    format!("{field} can't stand in /etc/passwd"),
                )
                .at(path)
                .hint("an absolute path without ':' and line ends"));
            }
        }
        let mut parts: Vec<Mount> = vec![Bind::read_only("/usr", "/usr").into()];
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "libn32"] {
            parts.extend(same_as_host(Path::new("/").join(name)));
        }
        for store in ["/nix/store", "/gnu/store"] {
            parts.push(Bind::read_only(store, store).optional().into());
        }
        let etc = [
            "ld.so.cache",
            "ld.so.conf",
            "ld.so.conf.d",
            "alternatives",
            "localtime",
            "ssl/certs",
            "ssl/openssl.cnf",
            "pki/tls/certs",
            "pki/tls/openssl.cnf",
            "pki/ca-trust/extracted",
            "ca-certificates/extracted",
        ];
        parts.push(Directory::new("/etc").into());
        for name in etc {
            parts.extend(same_as_host(Path::new("/etc").join(name)));
        }
        parts.extend(self.account().map(Mount::from));
        match &self.resolv_conf {
            Resolver::None => {}
            // Mostly a link to a file that a daemon replaces: what it says now is what counts.
            Resolver::Host => parts.extend(copy_of(Path::new("/etc/resolv.conf"))),
            Resolver::Own(contents) => parts.push(File::new("/etc/resolv.conf", contents).into()),
        }
        parts.push(self.dev.clone().into());
        parts.push(self.tmp.clone().into());
        match &self.proc {
            Some(proc) => parts.push(proc.clone().into()),
            None => parts.push(Directory::new("/proc").mode(0o555).into()),
        }
        Ok(parts)
    }

    /// The made-up files of /etc.
    fn account(&self) -> [File; 4] {
        let Self { uid, gid, name, home, shell, host_name, .. } = self;
        let (home, shell) = (home.display(), shell.display());
        let mut passwd = String::new();
        let mut group = String::new();
        // A name for the two ids that files mostly belong to; the user's own line comes first and wins.
        // Writing to a String can't fail.
        let _ = writeln!(passwd, "{name}:x:{uid}:{gid}::{home}:{shell}");
        let _ = writeln!(group, "{name}:x:{gid}:");
        if *uid != 0 {
            passwd.push_str("root:x:0:0:root:/root:/bin/sh\n");
        }
        if *gid != 0 {
            group.push_str("root:x:0:\n");
        }
        if *uid != 65534 {
            passwd.push_str("nobody:x:65534:65534:nobody:/:/bin/false\n");
        }
        if *gid != 65534 {
            group.push_str("nogroup:x:65534:\n");
        }
        let loopback = format!("127.0.0.1 localhost {host_name}\n::1 localhost ip6-localhost {host_name}\n");
        let hosts = self.hosts.as_deref().unwrap_or(loopback.as_bytes());
        let nsswitch = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
                        protocols: files\nservices: files\n";
        [
            File::new("/etc/passwd", passwd),
            File::new("/etc/group", group),
            File::new("/etc/hosts", hosts),
            File::new("/etc/nsswitch.conf", nsswitch),
        ]
    }
}

/// A path of the host as it is there: a link as a link if it leads to what the view has anyway, anything else by a
/// read-only bind; nothing where the host has nothing.
fn same_as_host(path: PathBuf) -> Option<Mount> {
    let kind = fs::symlink_metadata(&path).ok()?.file_type();
    if kind.is_symlink() {
        let text = fs::read_link(&path).ok()?;
        let real = fs::canonicalize(&path).ok()?;
        let inside = ["/usr", "/nix/store", "/gnu/store"].iter().any(|dir| real.starts_with(dir));
        if inside {
            return Some(Symlink::new(text, path).into());
        }
    }
    copy_of(&path).or_else(|| Some(Bind::read_only(&path, &path).into()))
}

/// A small file of the host by its contents: cheaper than a mount, and no inode of the host is in reach.
fn copy_of(path: &Path) -> Option<Mount> {
    const SMALL: u64 = 16 << 10;
    let (source, file) = Source::open(path).ok()?;
    if !source.is(libc::S_IFREG) {
        return None;
    }
    // Only now is it opened for reading, by what was found: a FIFO or a device would have been left alone.
    let file = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let mut contents = Vec::new();
    file.take(SMALL + 1).read_to_end(&mut contents).ok()?;
    (contents.len() as u64 <= SMALL).then(|| File::new(path, contents).into())
}
