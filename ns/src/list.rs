//! All namespaces that the caller may see.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::handle::{AnyNs, NsId};
use crate::namespace::Namespace;

/// The namespaces that were found, and the processes that could not be looked into.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listing {
    /// By kind, then by inode number.
    pub namespaces: Vec<Listed>,
    /// Processes into which the caller may not look (ptrace access): the list may lack theirs.
    pub unreadable: Vec<u32>,
}

/// One namespace of a [`Listing`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listed {
    /// The namespace, kept alive as long as this is.
    pub namespace: AnyNs,
    /// Processes with a thread in it, or whose later children will be in it; ascending.
    pub pids: Vec<u32>,
    /// Paths of the caller's mount namespace on which it is mounted.
    pub paths: Vec<PathBuf>,
}

impl Listing {
    /// The namespace with this identity.
    pub fn get(&self, id: NsId) -> Option<&Listed> {
        self.namespaces.iter().find(|listed| listed.namespace.id() == id)
    }
}

/// Lists all namespaces of processes in `/proc`, those mounted on a path, and the owners and parents of both, as far as
/// the caller may see them. Each keeps a descriptor open. Processes come and go while it looks: it is no snapshot.
///
/// ```
/// use palisade_ns::{AnyNs, Namespace, list};
///
/// let own = AnyNs::current(Namespace::Net)?;
/// let found = list()?;
/// assert!(found.get(own.id()).is_some_and(|net| net.pids.contains(&std::process::id())));
/// # Ok::<(), palisade_ns::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::NoProc`] without `/proc`; [`ErrorKind::System`] with `EMFILE` if the descriptors do not suffice.
#[doc(alias = "lsns")]
pub fn list() -> Result<Listing> {
    let mut found = Found::default();
    let mut unreadable = Vec::new();
    for pid in
        numbers(Path::new("/proc")).map_err(|e| Error::io(&e, "read /proc").kind_is(ErrorKind::NoProc))?
    {
        match found.add_process(pid) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Permission => unreadable.push(pid),
            Err(e) if e.kind() == ErrorKind::Gone => {}
            Err(e) => return Err(e),
        }
    }
    let mounts = std::fs::read("/proc/self/mountinfo")
        .map_err(|e| Error::io(&e, "read /proc/self/mountinfo").kind_is(ErrorKind::NoProc))?;
    for path in nsfs_mounts(&mounts) {
        // Another mount, or another root, may hide it: then it cannot be seen, which is no failure.
        if let Ok(namespace) = AnyNs::open(&path) {
            found.entry(&namespace).paths.push(path);
        }
    }
    found.add_relatives()?;
    let mut namespaces: Vec<_> = found.0.into_values().collect();
    namespaces.sort_by_key(|listed| (listed.namespace.kind(), listed.namespace.id()));
    Ok(Listing { namespaces, unreadable })
}

#[derive(Default)]
struct Found(BTreeMap<NsId, Listed>);

impl Found {
    fn entry(&mut self, namespace: &AnyNs) -> &mut Listed {
        let new = || Listed { namespace: namespace.clone(), pids: Vec::new(), paths: Vec::new() };
        self.0.entry(namespace.id()).or_insert_with(new)
    }

    fn add_process(&mut self, pid: u32) -> Result<()> {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        for tid in numbers(&tasks).map_err(|e| failed(&e, &tasks))? {
            let mut seen = BTreeSet::new();
            for kind in Namespace::ALL {
                for file in [Some(kind.name()), kind.children_file()].into_iter().flatten() {
                    let path = tasks.join(format!("{tid}/ns/{file}"));
                    let stat = match path.metadata() {
                        Ok(stat) => stat,
                        // A kind that the kernel has not got, or a pid namespace without a process yet.
                        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                        Err(e) => return Err(failed(&e, &path)),
                    };
                    let id = NsId { dev: stat.dev(), ino: stat.ino() };
                    if seen.insert(id) {
                        self.add_member(id, pid, &path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_member(&mut self, id: NsId, pid: u32, path: &Path) -> Result<()> {
        let listed = match self.0.get_mut(&id) {
            Some(listed) => listed,
            None => match AnyNs::open(path) {
                Ok(namespace) => self.entry(&namespace),
                Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(()),
                Err(e) => return Err(e),
            },
        };
        if listed.pids.last() != Some(&pid) {
            listed.pids.push(pid);
        }
        Ok(())
    }

    fn add_relatives(&mut self) -> Result<()> {
        let mut todo: Vec<AnyNs> = self.0.values().map(|listed| listed.namespace.clone()).collect();
        while let Some(namespace) = todo.pop() {
            let parent = match namespace.kind() {
                Namespace::User | Namespace::Pid => namespace.parent()?,
                _ => None,
            };
            let owner = namespace.owner()?.map(AnyNs::from);
            for relative in [parent, owner].into_iter().flatten() {
                if !self.0.contains_key(&relative.id()) {
                    self.entry(&relative);
                    todo.push(relative);
                }
            }
        }
        Ok(())
    }
}

fn failed(error: &io::Error, path: &Path) -> Error {
    let named = Error::io(error, format!("look at {}", path.display()));
    if error.raw_os_error() == Some(libc::ENOENT) { named.kind_is(ErrorKind::Gone) } else { named }
}

/// Names in a directory that are numbers, ascending.
fn numbers(dir: &Path) -> io::Result<BTreeSet<u32>> {
    let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name()));
    let names: io::Result<Vec<OsString>> = names.collect();
    Ok(names?.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Mount points of file system type nsfs in the contents of a mountinfo file; lines of another form have none.
#[doc(hidden)]
pub fn nsfs_mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    let path = |line: &[u8]| {
        let mut words = line.split(|&b| b == b' ');
        let path = unescape(words.nth(4)?);
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        (kind == b"nsfs").then(|| PathBuf::from(OsString::from_vec(path)))
    };
    mountinfo.split(|&b| b == b'\n').filter_map(path).collect()
}

/// Undoes the kernel's octal escapes (`\040` for a space).
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: &[u8] = b"24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        90 24 0:4 net:[4026532270] /run/netns/a\\040b rw shared:7 master:2 - nsfs nsfs rw\n\
        91 24 0:4 uts:[4026532271] /run/\\134\\012 rw - nsfs nsfs rw\n\
        92 24 0:5 / /run/nsfs rw - tmpfs nsfs rw\n";

    #[test]
    fn mounts_of_namespaces_are_found() {
        assert_eq!(nsfs_mounts(LINES), [PathBuf::from("/run/netns/a b"), PathBuf::from("/run/\\\n")]);
        assert_eq!(nsfs_mounts(b""), [] as [PathBuf; 0]);
    }

    proptest! {
        #[test]
        fn any_path_comes_back(path in prop::collection::vec(1u8.., 1..40)) {
            // As the kernel escapes it.
            let escape = |&b: &u8| match b {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{b:03o}").into_bytes(),
                _ => vec![b],
            };
            let mut line = b"90 24 0:4 net:[1] ".to_vec();
            line.extend(path.iter().flat_map(escape));
            line.extend(b" rw - nsfs nsfs rw\n");
            prop_assert_eq!(nsfs_mounts(&line), [PathBuf::from(OsString::from_vec(path))]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..400usize) {
            nsfs_mounts(&bytes);
            nsfs_mounts(&LINES[..cut.min(LINES.len())]);
        }
    }
}
