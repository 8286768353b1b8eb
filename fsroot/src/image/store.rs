//! Where the parts of an image are: a directory, or one archive of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::limit::read_error;
use super::tree::clean;
use crate::error::{Error, ErrorKind, Result};

/// The most files that an archive of an image has.
const MAX_FILES: usize = 1 << 16;

/// The files of an image by name.
#[derive(Debug)]
pub(super) enum Store {
    Directory(OwnedFd, PathBuf),
    /// Offset and length of each file of an archive that is not compressed.
    Archive(File, HashMap<PathBuf, (u64, u64)>),
}

impl Store {
    pub(super) fn directory(path: &Path) -> Result<Self> {
        let how = OpenHow::new()
            .flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let dir = openat2(nix::fcntl::AT_FDCWD, path, how)
            .map_err(|errno| Error::os(errno as i32, "the image").at(path))?;
        Ok(Self::Directory(dir, path.to_owned()))
    }

    /// Reads the table of contents of an archive.
    pub(super) fn archive(mut file: File) -> Result<Self> {
        let mut found = HashMap::new();
        let mut links = Vec::new();
        file.seek(SeekFrom::Start(0)).map_err(|error| read_error(&error))?;
        let mut archive = tar::Archive::new(&file);
        let entries = archive.entries_with_seek().map_err(|error| read_error(&error))?;
        for (n, entry) in entries.enumerate() {
            if n >= MAX_FILES {
                return Err(Error::new(
                    ErrorKind::Limit,
                    "an archive of an image with more than 65,536 files",
                ));
            }
            let entry = entry.map_err(|error| read_error(&error))?;
            let path = clean(&entry.path_bytes())?;
            match entry.header().entry_type() {
                kind if kind.is_file() => {
                    found.insert(path, (entry.raw_file_position(), entry.size()));
                }
                // docker save links layers that are the same.
                kind if kind.is_symlink() || kind.is_hard_link() => {
                    let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                    links.push((path, kind.is_symlink(), to));
                }
                _ => {}
            }
        }
        for (path, relative, to) in links {
            let text = String::from_utf8_lossy(&to).into_owned();
            let base = if relative { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
            let Some(target) = joined(base, Path::new(&text)) else { continue };
            if let Some(&place) = found.get(&target) {
                found.insert(path, place);
            }
        }
        Ok(Self::Archive(file, found))
    }

    /// A file, and how long it is.
    pub(super) fn open(&self, name: &Path) -> Result<(Box<dyn Read + '_>, u64)> {
        match self {
            Self::Directory(dir, path) => {
                let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
                // A FIFO must not block: opened without waiting, and refused below.
                let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
                let file = openat2(dir, name, OpenHow::new().flags(flags).resolve(resolve))
                    .map_err(|errno| Error::os(errno as i32, "a part of the image").at(path.join(name)))?;
                let file = File::from(file);
                let meta =
                    file.metadata().map_err(|error| Error::io(&error, "a part of the image").at(name))?;
                if !meta.is_file() {
                    return Err(Error::new(ErrorKind::WrongType, "a part of the image is no file")
                        .at(path.join(name)));
                }
                Ok((Box::new(file), meta.len()))
            }
            Self::Archive(file, found) => {
                let Some(&(offset, size)) = found.get(name) else {
                    return Err(
                        Error::new(ErrorKind::NotFound, "the archive of the image lacks a part").at(name)
                    );
                };
                Ok((Box::new(Part { file, offset, left: size }), size))
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.open(Path::new(name)).is_ok()
    }
}

/// A piece of a file; the file's own position is left alone, since layers may be read side by side.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = std::os::unix::fs::FileExt::read_at(self.file, &mut buffer[..len], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// `to` seen from `base`, `..` taken back; nothing if it leads out.
fn joined(base: &Path, to: &Path) -> Option<PathBuf> {
    let mut path = base.to_owned();
    for part in to.components() {
        match part {
            std::path::Component::Normal(name) => path.push(name),
            std::path::Component::ParentDir => path.pop().then_some(())?,
            std::path::Component::CurDir => {}
            _ => return None,
        }
    }
    Some(path)
}
