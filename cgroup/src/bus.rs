//! A connection to a message bus, for as long as one request takes.

use std::ffi::OsString;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::dbus::{Call, Kind, Message, PREFIX, Writer, message_size};
use crate::error::{Error, ErrorKind, Result, lossy};

const BUS: Call<'static> = Call {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "",
};

/// Where a bus listens: an element of a D-Bus address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Path(PathBuf),
    /// A name without a file.
    Abstract(Vec<u8>),
}

impl Place {
    /// The unix sockets of an address such as `unix:path=/run/user/1000/bus,guid=…;unix:abstract=…`, in its order.
    pub(crate) fn parse_list(address: &[u8]) -> Vec<Place> {
        address.split(|c| *c == b';').filter_map(Place::parse).collect()
    }

    fn parse(element: &[u8]) -> Option<Place> {
        element.strip_prefix(b"unix:")?.split(|c| *c == b',').find_map(|pair| {
            let at = pair.iter().position(|c| *c == b'=')?;
            let value = unescape(&pair[at + 1..])?;
            match &pair[..at] {
                b"path" if value.first() == Some(&b'/') => {
                    Some(Place::Path(OsString::from_vec(value).into()))
                }
                b"abstract" => Some(Place::Abstract(value)),
                _ => None,
            }
        })
    }

    /// What messages call it.
    fn name(&self) -> PathBuf {
        match self {
            Place::Path(path) => path.clone(),
            Place::Abstract(name) => {
                let mut shown = b"@".to_vec();
                shown.extend_from_slice(name);
                OsString::from_vec(shown).into()
            }
        }
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        match self {
            Place::Path(path) => UnixStream::connect(path),
            Place::Abstract(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?),
        }
    }
}

/// Undoes `%2f` and the like.
fn unescape(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&c, tail)) = rest.split_first() {
        rest = tail;
        if c == b'%' {
            let digits = tail.get(..2).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(c);
        }
    }
    Some(out)
}

/// What became of a job of systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
struct JobEnd {
    sender: String,
    job: String,
    result: String,
}

/// A connection: at most one call is on its way, and the whole of it has one deadline.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    name: PathBuf,
    deadline: Instant,
    serial: u32,
    /// `JobRemoved` of systemd, which may come before the reply that names the job.
    ended: Vec<JobEnd>,
}

/// An answer: who gave it, and its bytes.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) sender: String,
    bytes: Vec<u8>,
}

impl Reply {
    /// Its only value, if that is a string or an object path.
    pub(crate) fn text(&self) -> Option<String> {
        let mut m = Message::parse(&self.bytes)?;
        matches!(m.signature, "s" | "o").then(|| m.body.string().map(str::to_owned))?
    }

    /// Its only value, if that is a variant with a string.
    pub(crate) fn variant_text(&self) -> Option<String> {
        let mut m = Message::parse(&self.bytes)?;
        (m.signature == "v").then(|| m.body.variant_string().map(str::to_owned))?
    }
}

impl Bus {
    /// Connects to the first of these that answers.
    pub(crate) fn connect(places: &[Place], timeout: Duration) -> Result<Bus> {
        let mut failed = Error::new(ErrorKind::Absent, "no address of a message bus is known");
        for place in places {
            match place.connect() {
                Ok(stream) => {
                    let deadline = Instant::now() + timeout.min(Duration::from_secs(3600));
                    let mut bus = Bus { stream, name: place.name(), deadline, serial: 0, ended: Vec::new() };
                    bus.same_pids()?;
                    bus.authenticate()?;
                    bus.call(Call { member: "Hello", ..BUS }, "", &Writer::default())?;
                    return Ok(bus);
                }
                Err(e) => {
                    let kind = match e.kind() {
                        IoKind::PermissionDenied => ErrorKind::NotDelegated,
                        _ => ErrorKind::Absent,
                    };
                    failed = Error::io("connect to the message bus", &place.name(), &e).kinded(kind);
                }
            }
        }
        Err(failed)
    }

    /// Processes are named by their numbers, which mean others to a systemd of an outer pid namespace. To see that: the
    /// kernel has no number here for who listens there.
    fn same_pids(&self) -> Result<()> {
        let peer = getsockopt(&self.stream, PeerCredentials)
            .map_err(|e| Error::os("getsockopt SO_PEERCRED", &self.name, e as i32))?;
        if peer.pid() > 0 {
            return Ok(());
        }
        let e = Error::new(ErrorKind::NotDelegated, "the message bus is outside of this pid namespace");
        Err(e
            .at(&self.name)
            .hint("ask from where systemd runs; in a container, use what it was given: Cgroup::delegated"))
    }

    /// EXTERNAL without a name: the bus takes who the socket says we are, which holds in user namespaces too.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\n")?;
        loop {
            let line = self.line()?;
            if line.starts_with(b"OK ") {
                return self.send(b"BEGIN\r\n");
            }
            // An empty challenge, which `DATA` has answered already.
            if !line.starts_with(b"DATA") {
                return Err(Error::new(
                    ErrorKind::NotDelegated,
                    "the message bus refused to authenticate us",
                )
                .value(lossy(&line))
                .at(&self.name));
            }
        }
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        const LONGEST: usize = 1024;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.receive(&mut byte)?;
            line.push(byte[0]);
            if line.len() > LONGEST {
                return Err(self.not_understood());
            }
        }
        line.truncate(line.len() - 2);
        Ok(line)
    }

    /// Asks for the ends of systemd's jobs to be told, from now on.
    pub(crate) fn watch_jobs(&mut self) -> Result<()> {
        let mut rule = Writer::default();
        rule.string(
            "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
             interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
        );
        self.call(Call { member: "AddMatch", ..BUS }, "s", &rule).map(drop)
    }

    /// Waits until systemd has done with a job, and gives the result in its words: `done`, `failed`, `timeout`…
    pub(crate) fn job_result(&mut self, systemd: &str, job: &str) -> Result<String> {
        loop {
            if let Some(end) = self.ended.iter().find(|e| e.sender == systemd && e.job == job) {
                return Ok(end.result.clone());
            }
            let bytes = self.message()?;
            self.note(&bytes)?;
        }
    }

    /// Makes a call and waits for its answer.
    pub(crate) fn call(&mut self, call: Call<'_>, signature: &str, body: &Writer) -> Result<Reply> {
        self.serial += 1;
        let serial = self.serial;
        self.send(&call.encode(serial, signature, body))?;
        loop {
            let bytes = self.message()?;
            let mut m = Message::parse(&bytes).ok_or_else(|| self.not_understood())?;
            match m.kind {
                Kind::Return { to } if to == serial => {
                    let sender = m.sender.unwrap_or_default().to_owned();
                    return Ok(Reply { sender, bytes });
                }
                Kind::Error { to, name } if to == serial => {
                    let text = if m.signature.starts_with('s') { m.body.string() } else { None };
                    return Err(refused(call, name, text.unwrap_or_default()));
                }
                _ => self.note(&bytes)?,
            }
        }
    }

    /// Keeps the end of a job; other messages are of no use.
    fn note(&mut self, bytes: &[u8]) -> Result<()> {
        const JOB_REMOVED: Kind<'_> = Kind::Signal {
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "JobRemoved",
        };
        let mut m = Message::parse(bytes).ok_or_else(|| self.not_understood())?;
        if m.kind == JOB_REMOVED && m.signature == "uoss" {
            let end = (|| {
                m.body.u32()?;
                let job = m.body.string()?.to_owned();
                m.body.string()?;
                let result = m.body.string()?.to_owned();
                Some(JobEnd { sender: m.sender.unwrap_or_default().to_owned(), job, result })
            })();
            self.ended.push(end.ok_or_else(|| self.not_understood())?);
        }
        Ok(())
    }

    fn message(&mut self) -> Result<Vec<u8>> {
        let mut prefix = [0; PREFIX];
        self.receive(&mut prefix)?;
        let size = message_size(&prefix).ok_or_else(|| self.not_understood())?;
        let mut bytes = vec![0; size];
        bytes[..PREFIX].copy_from_slice(&prefix);
        self.receive(&mut bytes[PREFIX..])?;
        Ok(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left()?;
        let sent = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|e| self.failed("write to the message bus", &e))
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<()> {
        let mut at = 0;
        while at < into.len() {
            let left = self.left()?;
            let read =
                self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut into[at..]));
            match read {
                Ok(0) => return Err(self.closed()),
                Ok(n) => at += n,
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) => return Err(self.failed("read from the message bus", &e)),
            }
        }
        Ok(())
    }

    /// Never zero, which would mean no time-out.
    fn left(&self) -> Result<Duration> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(self.too_late()),
            left => Ok(left),
        }
    }

    fn closed(&self) -> Error {
        Error::new(ErrorKind::Gone, "the message bus closed the connection").at(&self.name)
    }

    fn too_late(&self) -> Error {
        Error::new(ErrorKind::TimedOut, "no answer came over the message bus in time").at(&self.name)
    }

    fn failed(&self, what: &'static str, e: &std::io::Error) -> Error {
        match e.kind() {
            IoKind::WouldBlock | IoKind::TimedOut => self.too_late(),
            IoKind::BrokenPipe | IoKind::ConnectionReset => self.closed(),
            _ => Error::io(what, &self.name, e).kinded(ErrorKind::System),
        }
    }

    fn not_understood(&self) -> Error {
        Error::parse("message of the bus", b"").at(&self.name)
    }
}

/// An answer that is an error, by D-Bus's name for it.
fn refused(call: Call<'_>, name: &str, text: &str) -> Error {
    let (kind, hint) = match name {
        "org.freedesktop.systemd1.UnitExists" => {
            (ErrorKind::Busy, "a unit of this name is there: take another name")
        }
        "org.freedesktop.systemd1.NoSuchUnit" => (ErrorKind::Gone, "there is no such unit"),
        "org.freedesktop.DBus.Error.AccessDenied"
        | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => (
            ErrorKind::NotDelegated,
            "the system's manager serves root only: use the user's own, Manager::User",
        ),
        "org.freedesktop.DBus.Error.ServiceUnknown"
        | "org.freedesktop.DBus.Error.NameHasNoOwner"
        | "org.freedesktop.DBus.Error.Spawn.ChildExited"
        | "org.freedesktop.DBus.Error.Spawn.ExecFailed" => (
            ErrorKind::Absent,
            "no systemd serves this bus: Manager::System and Manager::User have different ones",
        ),
        _ => (ErrorKind::Refused, "this is systemd's answer"),
    };
    Error::new(kind, format!("systemd refused {}: {text} [{name}]", call.member)).hint(hint)
}

/// The address of the bus in an environment variable, or the standard place.
pub(crate) fn places(variable: Option<OsString>, standard: Option<&Path>) -> Vec<Place> {
    match variable.filter(|v| !v.is_empty()) {
        Some(address) => Place::parse_list(address.as_bytes()),
        None => standard.map(|p| Place::Path(p.to_owned())).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_of_buses() {
        let path = |p: &str| Place::Path(p.into());
        let list =
            b"tcp:host=x;unix:guid=12,path=/run/a%20b;unix:abstract=/tmp/dbus-x;unix:path=rel;unix:path=/%zz";
        assert_eq!(Place::parse_list(list), [path("/run/a b"), Place::Abstract(b"/tmp/dbus-x".to_vec())]);
        assert_eq!(places(None, Some(Path::new("/run/x"))), [path("/run/x")]);
        assert_eq!(places(Some("".into()), None), []);
        assert_eq!(Bus::connect(&[], Duration::ZERO).expect_err("nowhere").kind(), ErrorKind::Absent);
        let nowhere = [path("/nowhere/bus")];
        assert_eq!(Bus::connect(&nowhere, Duration::ZERO).expect_err("no file").kind(), ErrorKind::Absent);
    }

    proptest! {
        #[test]
        fn any_address_is_read(bytes: Vec<u8>, text in "(unix:|path=|abstract=|[/%a2f;,=]){0,12}") {
            for place in [Place::parse_list(&bytes), Place::parse_list(text.as_bytes())].concat() {
                if let Place::Path(path) = place {
                    prop_assert!(path.is_absolute());
                }
            }
        }
    }
}
