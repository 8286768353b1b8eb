//! `slirp4netns`: a process that carries a sandbox's connections as the host program's own.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use palisade_sys::{FD_PASSED, Fd, Place, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::guard;
use crate::newborn::control_sockets;
use crate::spawner::Bench;

/// The program, where it was found.
#[derive(Clone, Debug)]
pub(super) struct UserMode {
    path: PathBuf,
}

/// The interface that it makes inside.
pub(super) const INTERFACE: &str = "tap0";

/// What a program that fails may say.
const MOST_WORDS: u64 = 4096;

/// It takes milliseconds.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Numbers in the program: above those at which it gets them.
const FD_EXIT: i32 = 60;
const FD_READY: i32 = 61;

impl UserMode {
    pub(super) fn find() -> Result<Self> {
        let name = "slirp4netns";
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
        let found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| {
            let meta = std::fs::metadata(file);
            file.is_absolute()
                && meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        });
        found.map(|path| Self { path }).ok_or_else(|| {
            Error::new(ErrorKind::Setup, Step::Prepare, format!("{name} is not in PATH"))
                .with_object("user-mode network")
                .with_hint("install the package slirp4netns, or use Network::bridge as root")
        })
    }

    /// Starts it for a child and waits until the child has its link. It ends when the child's namespace or what is
    /// returned does.
    pub(super) fn start(&self, pid: u32, bench: &mut Bench) -> Result<UnixStream> {
        let failed = |error: io::Error| Error::call(Step::Network, "read from slirp4netns", &error);
        let (until, exit) = control_sockets()?;
        let (mut ready, theirs) = control_sockets()?;
        let (mut words, complaints) = control_sockets()?;
        let path = CString::new(self.path.as_os_str().as_bytes())
            .map_err(|_| Error::invalid("PATH holds a NUL byte"))?;
        let arguments = [
            "--configure".to_owned(),
            "--mtu=65520".to_owned(),
            "--disable-host-loopback".to_owned(),
            "--enable-ipv6".to_owned(),
            "--enable-sandbox".to_owned(),
            "--enable-seccomp".to_owned(),
            format!("--exit-fd={FD_EXIT}"),
            format!("--ready-fd={FD_READY}"),
            format!("--userns-path=/proc/{pid}/ns/user"),
            "--netns-type=path".to_owned(),
            format!("/proc/{pid}/ns/net"),
            INTERFACE.to_owned(),
        ];
        let passed: [OwnedFd; 3] = [exit, theirs, complaints];
        guard::start(&passed, bench, |p| {
            for (n, target) in (FD_PASSED..).zip([FD_EXIT, FD_READY, libc::STDERR_FILENO]) {
                p.dup3(Fd::number(n), target, false);
            }
            p.set_signal_mask(0);
            let texts = arguments.iter().filter_map(|text| CString::new(text.as_str()).ok());
            let argv: Vec<Place> =
                [path.clone()].into_iter().chain(texts).map(|text| p.text(&text)).collect();
            let (argv, envp) = (p.addresses(&argv, true), p.addresses(&[], true));
            p.execve(&path, argv, envp);
        })?;
        drop(passed);
        // One that hangs ends when `until` is dropped.
        for socket in [&ready, &words] {
            socket.set_read_timeout(Some(STARTS_WITHIN)).map_err(failed)?;
        }
        // It writes a byte when the link is up; if it ends before, nobody holds the other end.
        let mut byte = [0];
        match ready.read(&mut byte) {
            Ok(1) => Ok(until),
            Ok(_) => {
                let mut said = String::new();
                words.by_ref().take(MOST_WORDS).read_to_string(&mut said).map_err(failed)?;
                Err(self.failed(&said))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn failed(&self, said: &str) -> Error {
        let said = said.trim().lines().last().unwrap_or("it ended without a word").to_owned();
        let new = Error::new(ErrorKind::Setup, Step::Network, said).with_object(self.to_string());
        match File::options().read(true).write(true).open("/dev/net/tun") {
            Ok(_) => new,
            Err(error) => new.with_hint(format!(
                "/dev/net/tun can't be opened ({error}): load the module tun, or open it to this user"
            )),
        }
    }
}

impl fmt::Display for UserMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
