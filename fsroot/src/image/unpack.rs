//! Archives into directories.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, OsStr};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, fchmod, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, geteuid};
use tar::EntryType;

use super::limit::{Budget, decompressed, read_error};
use super::sys::set_attribute;
use super::tree::{Spot, Tree, clean, remove_lower};
use crate::error::{Error, ErrorKind, Result};

/// Whose the unpacked files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ownership {
    /// All of them the caller's.
    Caller,
    /// As the archive says; needs `CAP_CHOWN`.
    Archive,
    /// As the archive says, with this number added to each id: for a range of a user namespace. Needs `CAP_CHOWN`.
    Shifted(u32),
}

/// How archives are unpacked, and what they may cost.
///
/// Nothing lands outside of the directory, whatever the archive says: each path is resolved inside it by the kernel
/// ([openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html)), a path with `..` is an error. Set-user-id bits,
/// capabilities of files and device nodes are left out unless asked for.
#[derive(Clone, Debug)]
pub struct Unpack {
    bytes: u64,
    entries: u64,
    ratio: u64,
    ownership: Option<Ownership>,
    privileged: bool,
    devices: bool,
}

impl Default for Unpack {
    fn default() -> Self {
        Self {
            bytes: 16 << 30,
            entries: 1 << 20,
            ratio: 200,
            ownership: None,
            privileged: false,
            devices: false,
        }
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Entries of all archives.
    pub entries: u64,
    /// Bytes of file contents written.
    pub bytes: u64,
    /// Device nodes that were left out.
    pub devices_skipped: u64,
    /// Entries whose set-user-id or set-group-id bits or file capabilities were left out.
    pub privileges_dropped: u64,
}

/// The largest name or set of attributes that an archive gives to one entry.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most extended attributes taken of one entry, and the kernel's limit of a value.
const MAX_ATTRIBUTE: usize = 64 << 10;

impl Unpack {
    /// At most 16 GiB, 1,048,576 entries, compressed to a 200th; ownership as the archive says for root, the caller's
    /// for others.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limit of the contents of all layers, in bytes.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Limit of the number of entries of all layers.
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// How many times larger than its archive the contents may be, looked at from 64 MiB on.
    pub fn max_ratio(mut self, ratio: u64) -> Self {
        self.ratio = ratio.max(1);
        self
    }

    /// Whose the files will be.
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = Some(ownership);
        self
    }

    /// Keeps set-user-id bits and file capabilities. Then other users of the host must not get at the directory: put it
    /// into one of mode 700.
    pub fn keep_privileges(mut self) -> Self {
        self.privileged = true;
        self
    }

    /// Makes device nodes; needs `CAP_MKNOD`. On a `nodev` mount, which views have, they can't be opened.
    pub fn make_devices(mut self) -> Self {
        self.devices = true;
        self
    }

    /// Unpacks one tar archive (plain, gzip or zstd) into an existing directory. What stands there already counts as a
    /// lower layer: whiteouts remove it.
    ///
    /// # Errors
    /// A broken archive or one that tries to leave the directory ([`ErrorKind::Archive`]); a limit
    /// ([`ErrorKind::Limit`]); a system call that failed. What came before it stays unpacked.
    pub fn tar(&self, archive: impl Read, into: impl AsRef<Path>) -> Result<Unpacked> {
        let mut job = Job::new(self, into.as_ref())?;
        job.layer(archive)?;
        job.finish()
    }
}

/// What is set on a directory once nothing more is put into it.
struct Late {
    mode: u32,
    time: Option<TimeSpec>,
}

/// The unpacking of all layers of an image.
pub(super) struct Job<'a> {
    options: &'a Unpack,
    ownership: Ownership,
    tree: Tree,
    budget: Budget,
    late: BTreeMap<PathBuf, Late>,
    done: Unpacked,
}

/// What extension headers say about the next entry.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    time: Option<TimeSpec>,
    attributes: Vec<(CString, Vec<u8>)>,
    privileged: Vec<(CString, Vec<u8>)>,
}

/// One entry with everything that is known of it.
struct Item {
    path: PathBuf,
    kind: EntryType,
    link: Vec<u8>,
    size: u64,
    mode: u32,
    owner: Option<(u32, u32)>,
    time: Option<TimeSpec>,
    device: (u32, u32),
    attributes: Vec<(CString, Vec<u8>)>,
}

impl<'a> Job<'a> {
    pub(super) fn new(options: &'a Unpack, into: &Path) -> Result<Self> {
        let default = if geteuid().is_root() { Ownership::Archive } else { Ownership::Caller };
        // Headers and padding take up to 2 KiB an entry.
        let stream =
            options.bytes.saturating_add(options.entries.saturating_mul(2048)).saturating_add(1 << 20);
        Ok(Self {
            options,
            ownership: options.ownership.unwrap_or(default),
            tree: Tree::open(into)?,
            budget: Budget { stream: Rc::new(Cell::new(stream)), ratio: options.ratio },
            late: BTreeMap::new(),
            done: Unpacked::default(),
        })
    }

    /// Unpacks one layer over what is there.
    pub(super) fn layer(&mut self, archive: impl Read) -> Result<()> {
        let budget = self.budget.clone();
        let stream = decompressed(archive, &budget).map_err(|error| read_error(&error))?;
        let mut archive = tar::Archive::new(stream);
        let entries = archive.entries().map_err(|error| read_error(&error))?;
        let mut extra = Extra::default();
        // Paths that this layer made: whiteouts are about the layers below.
        let mut own = HashSet::new();
        for entry in entries.raw(true) {
            let mut entry = entry.map_err(|error| read_error(&error))?;
            self.done.entries += 1;
            if self.done.entries > self.options.entries {
                return Err(Error::new(ErrorKind::Limit, "the archive has more entries than allowed"));
            }
            let kind = entry.header().entry_type();
            if kind.is_gnu_longname()
                || kind.is_gnu_longlink()
                || kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions()
            {
                let data = extension(&mut entry)?;
                match kind {
                    EntryType::GNULongName => extra.path = Some(until_nul(&data)),
                    EntryType::GNULongLink => extra.link = Some(until_nul(&data)),
                    EntryType::XHeader => extra.pax(&data)?,
                    // Global headers carry comments (git); attributes of all entries at once nobody writes.
                    _ => {}
                }
                continue;
            }
            let item = self.item(&entry, std::mem::take(&mut extra))?;
            self.entry(&item, &mut entry, &mut own).map_err(|error| match error.path() {
                Some(_) => error,
                None => error.at(&item.path),
            })?;
        }
        Ok(())
    }

    fn item(&mut self, entry: &tar::Entry<'_, impl Read>, extra: Extra) -> Result<Item> {
        let header = entry.header();
        let path = clean(&extra.path.unwrap_or_else(|| entry.path_bytes().into_owned()))?;
        let bad = |_| Error::new(ErrorKind::Archive, "a number of its header can't be read").at(&path);
        let size = header.entry_size().map_err(bad)?;
        if extra.size.is_some_and(|said| said != size) {
            return Err(Error::new(ErrorKind::Archive, "two sizes that contradict each other").at(&path));
        }
        let link = extra
            .link
            .or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        let uid = extra.uid.map_or_else(|| header.uid(), Ok).map_err(bad)?;
        let gid = extra.gid.map_or_else(|| header.gid(), Ok).map_err(bad)?;
        let mut mode = header.mode().map_err(bad)? & 0o7777;
        let time = match extra.time {
            Some(time) => Some(time),
            None => header.mtime().ok().and_then(|s| i64::try_from(s).ok()).map(|s| TimeSpec::new(s, 0)),
        };
        let device = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
        let mut attributes = extra.attributes;
        let set_id = 0o6000;
        // On a directory set-group-id only says whose group new files get.
        let drops = !header.entry_type().is_dir() && mode & set_id != 0 || !extra.privileged.is_empty();
        if self.options.privileged {
            attributes.extend(extra.privileged);
        } else if drops {
            self.done.privileges_dropped += 1;
            mode &= !set_id;
        }
        Ok(Item {
            kind: header.entry_type(),
            link,
            size,
            mode,
            owner: self.owner(uid, gid).map_err(|error| error.at(&path))?,
            time,
            device: (device.0.unwrap_or(0), device.1.unwrap_or(0)),
            attributes,
            path,
        })
    }

    fn owner(&self, uid: u64, gid: u64) -> Result<Option<(u32, u32)>> {
        let shift = match self.ownership {
            Ownership::Caller => return Ok(None),
            Ownership::Archive => 0,
            Ownership::Shifted(by) => u64::from(by),
        };
        // The highest number is the kernel's "no id".
        let id = |id: u64| {
            id.checked_add(shift).and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX)
        };
        match (id(uid), id(gid)) {
            (Some(uid), Some(gid)) => Ok(Some((uid, gid))),
            _ => Err(Error::new(ErrorKind::Archive, format!("{uid}:{gid} plus {shift} is no owner"))),
        }
    }

    fn entry(&mut self, item: &Item, contents: &mut impl Read, own: &mut HashSet<PathBuf>) -> Result<()> {
        let name = item.path.file_name().map(OsStr::as_bytes);
        if let Some(hidden) = name.and_then(|name| name.strip_prefix(b".wh.")) {
            return self.whiteout(&item.path, hidden, own);
        }
        let make_parents = |made: &Path| {
            own.insert(made.to_owned());
        };
        let Some(spot) = self.tree.spot(&item.path, true, make_parents)? else {
            // The root itself, of which only the attributes can be given.
            if !item.kind.is_dir() {
                return Err(Error::new(ErrorKind::Archive, "the root of the archive is no directory").at("/"));
            }
            dress(self.tree.root(), item)?;
            self.late.insert(PathBuf::new(), Late { mode: item.mode, time: item.time });
            return Ok(());
        };
        own.insert(item.path.clone());
        self.late.remove(&item.path);
        match item.kind {
            EntryType::Directory => {
                if spot.kind()? != libc::S_IFDIR {
                    spot.remove()?;
                    spot.make_directory()?;
                }
                let dir =
                    spot.open_directory().map_err(|errno| Error::os(errno as i32, "opening a directory"))?;
                dress(dir.as_fd(), item)?;
                // Until the end it can be written to by its owner.
                mode(dir.as_fd(), item.mode | 0o700)?;
                self.late.insert(item.path.clone(), Late { mode: item.mode, time: item.time });
            }
            EntryType::Regular | EntryType::Continuous => {
                spot.remove()?;
                self.file(&spot, item, contents)?;
            }
            EntryType::Symlink => {
                if item.link.is_empty()
                    || item.link.len() >= libc::PATH_MAX as usize
                    || item.link.contains(&0)
                {
                    return Err(Error::new(
                        ErrorKind::Archive,
                        "a link that leads to nothing that can be named",
                    ));
                }
                spot.remove()?;
                spot.symlink(&item.link)?;
                self.own(&spot, item)?;
            }
            EntryType::Link => {
                let target = clean(&item.link)?;
                if target == item.path {
                    return Err(Error::new(ErrorKind::Archive, "a hard link to itself"));
                }
                let Some(target) = self.tree.spot(&target, false, |_| {})? else {
                    return Err(Error::new(ErrorKind::Archive, "a hard link to the root"));
                };
                if target.kind()? == libc::S_IFDIR {
                    return Err(Error::new(ErrorKind::Archive, "a hard link to a directory"));
                }
                spot.remove()?;
                spot.hard_link(&target)?;
            }
            EntryType::Fifo => {
                spot.remove()?;
                spot.node(SFlag::S_IFIFO, item.mode, (0, 0))?;
                self.own(&spot, item)?;
            }
            EntryType::Char | EntryType::Block => {
                if !self.options.devices {
                    self.done.devices_skipped += 1;
                    return Ok(());
                }
                spot.remove()?;
                let kind = if item.kind == EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                spot.node(kind, item.mode, item.device)?;
                self.own(&spot, item)?;
            }
            kind => {
                let what =
                    format!("an entry of type {:?}, which is not supported", char::from(kind.as_byte()));
                return Err(Error::new(ErrorKind::Archive, what));
            }
        }
        Ok(())
    }

    /// Owner of what has no descriptor of its own.
    fn own(&self, spot: &Spot, item: &Item) -> Result<()> {
        item.owner.map_or(Ok(()), |(uid, gid)| spot.chown(uid, gid))
    }

    fn file(&mut self, spot: &Spot, item: &Item, contents: &mut impl Read) -> Result<()> {
        if item.size > self.options.bytes.saturating_sub(self.done.bytes) {
            return Err(Error::new(ErrorKind::Limit, "the archive has more bytes than allowed"));
        }
        let mut file = std::fs::File::from(spot.file()?);
        let mut buffer = vec![0; 128 << 10];
        let mut left = item.size;
        while left > 0 {
            let n = contents.read(&mut buffer).map_err(|error| read_error(&error))?;
            if n == 0 {
                return Err(Error::new(ErrorKind::Archive, "the archive ends inside a file"));
            }
            file.write_all(&buffer[..n]).map_err(|error| Error::io(&error, "writing a file"))?;
            left = left.saturating_sub(n as u64);
        }
        self.done.bytes += item.size;
        dress(file.as_fd(), item)?;
        mode(file.as_fd(), item.mode)?;
        time(file.as_fd(), item.time)
    }

    /// A name that layers below are not to be seen by.
    fn whiteout(&mut self, path: &Path, hidden: &[u8], own: &HashSet<PathBuf>) -> Result<()> {
        let spot = match self.tree.spot(path, false, |_| {}) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            spot => spot?,
        };
        let Some(spot) = spot else { return Ok(()) };
        let parent = path.parent().unwrap_or(Path::new(""));
        match hidden {
            b".wh..opq" => {
                let kept = |path: &Path| own.contains(path);
                remove_lower(spot.dir.as_fd(), parent, &kept)
            }
            // Names of the union file system that invented whiteouts: its own records.
            hidden if hidden.starts_with(b".wh.") => Ok(()),
            b"" | b"." | b".." => Err(Error::new(ErrorKind::Archive, "a whiteout of no name")),
            hidden => {
                let path = parent.join(OsStr::from_bytes(hidden));
                if own.contains(&path) {
                    return Ok(());
                }
                let name = CString::new(hidden).map_err(|_| Error::new(ErrorKind::Archive, "a NUL byte"))?;
                Spot { dir: spot.dir, name }.remove()
            }
        }
    }

    /// Sets what had to wait: modes and times of directories, the innermost first.
    pub(super) fn finish(self) -> Result<Unpacked> {
        for (path, late) in self.late.iter().rev() {
            let dir = match self.tree.spot(path, false, |_| {}) {
                Ok(None) => {
                    self.tree.root().try_clone_to_owned().map_err(|error| Error::io(&error, "the root"))?
                }
                Ok(Some(spot)) => match spot.open_directory() {
                    Ok(dir) => dir,
                    // A later layer put something else there.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                    Err(errno) => return Err(Error::os(errno as i32, "opening a directory").at(path)),
                },
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WrongType) => continue,
                Err(error) => return Err(error),
            };
            mode(dir.as_fd(), late.mode)
                .and_then(|()| time(dir.as_fd(), late.time))
                .map_err(|error| error.at(path))?;
        }
        Ok(self.done)
    }
}

/// Owner and attributes, before the mode: a change of owner takes set-user-id bits away.
fn dress(file: BorrowedFd<'_>, item: &Item) -> Result<()> {
    if let Some((uid, gid)) = item.owner {
        fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|errno| Error::os(errno as i32, "setting the owner"))?;
    }
    item.attributes.iter().try_for_each(|(name, value)| set_attribute(file, name, value))
}

fn mode(file: BorrowedFd<'_>, mode: u32) -> Result<()> {
    fchmod(file, Mode::from_bits_truncate(mode)).map_err(|errno| Error::os(errno as i32, "setting the mode"))
}

fn time(file: BorrowedFd<'_>, time: Option<TimeSpec>) -> Result<()> {
    let Some(time) = time else { return Ok(()) };
    futimens(file, &time, &time).map_err(|errno| Error::os(errno as i32, "setting the time"))
}

/// The data of an extension header.
fn extension(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    entry.take(MAX_EXTENSION + 1).read_to_end(&mut data).map_err(|error| read_error(&error))?;
    if data.len() as u64 > MAX_EXTENSION {
        return Err(Error::new(ErrorKind::Limit, "a name or attributes of more than 1 MiB"));
    }
    Ok(data)
}

fn until_nul(data: &[u8]) -> Vec<u8> {
    data.split(|&byte| byte == 0).next().unwrap_or_default().to_owned()
}

impl Extra {
    /// Reads a pax header.
    fn pax(&mut self, data: &[u8]) -> Result<()> {
        let bad = |what: &str| Error::new(ErrorKind::Archive, format!("pax header: {what}"));
        for record in tar::PaxExtensions::new(data) {
            let record = record.map_err(|_| bad("not in its form"))?;
            let value = record.value_bytes();
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => self.size = Some(number().ok_or_else(|| bad("size"))?),
                b"uid" => self.uid = Some(number().ok_or_else(|| bad("uid"))?),
                b"gid" => self.gid = Some(number().ok_or_else(|| bad("gid"))?),
                b"mtime" => self.time = pax_time(value),
                key if key.starts_with(b"GNU.sparse.") => return Err(bad("sparse files are not supported")),
                key => {
                    let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else { continue };
                    let name = CString::new(name).map_err(|_| bad("attribute"))?;
                    if value.len() > MAX_ATTRIBUTE || name.as_bytes().len() > 255 {
                        return Err(bad("attribute too large"));
                    }
                    match name.as_bytes() {
                        b"security.capability" => self.privileged.push((name, value.to_owned())),
                        text if text.starts_with(b"user.") => self.attributes.push((name, value.to_owned())),
                        // Labels and records of the host that packed it.
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// Seconds with a fraction, as pax writes them.
fn pax_time(value: &[u8]) -> Option<TimeSpec> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok().filter(|nanos| (0..1_000_000_000).contains(nanos))?;
    Some(TimeSpec::new(seconds, nanos))
}
