//! A program of the host and what it needs to start: its interpreter and shared libraries, as the ELF file names them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::lab::{Result, skip};

const DIRECTORIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// Copies `program` and everything it needs into `root`, at the same paths. Gives the paths, the interpreter first.
pub(crate) fn copy(program: &Path, root: &Path) -> Result<Vec<PathBuf>> {
    let mut needed = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left = vec![program.to_owned()];
    while let Some(path) = left.pop() {
        let elf = Elf(fs::read(&path)?);
        let parts =
            elf.needs().ok_or_else(|| skip(format!("{} is no ELF file for x86_64", path.display())))?;
        for path in parts {
            if seen.insert(path.clone()) {
                needed.push(path.clone());
                left.push(path);
            }
        }
    }
    for path in needed.iter().map(PathBuf::as_path).chain([program]) {
        let to = root.join(path.strip_prefix("/")?);
        fs::create_dir_all(to.parent().ok_or("the root is no program")?)?;
        fs::copy(path, to)?;
    }
    Ok(needed)
}

struct Elf(Vec<u8>);

impl Elf {
    fn word(&self, at: u64, len: usize) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let mut word = [0; 8];
        word[..len].copy_from_slice(self.0.get(at..at.checked_add(len)?)?);
        Some(u64::from_le_bytes(word))
    }

    fn text(&self, at: u64) -> Option<&OsStr> {
        let rest = self.0.get(usize::try_from(at).ok()?..)?;
        Some(OsStr::from_bytes(&rest[..rest.iter().position(|&byte| byte == 0)?]))
    }

    /// Type, offset in the file, address in memory, and size in the file of each program header.
    fn headers(&self) -> Option<Vec<(u32, u64, u64, u64)>> {
        if self.0.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (table, size, count) = (self.word(32, 8)?, self.word(54, 2)?, self.word(56, 2)?);
        (0..count)
            .map(|n| {
                let at = table + n * size;
                Some((
                    self.word(at, 4)? as u32,
                    self.word(at + 8, 8)?,
                    self.word(at + 16, 8)?,
                    self.word(at + 32, 8)?,
                ))
            })
            .collect()
    }

    /// Interpreter and libraries, where they are on this host; nothing of a static program.
    fn needs(&self) -> Option<Vec<PathBuf>> {
        let headers = self.headers()?;
        let mut needs = Vec::new();
        if let Some((_, at, ..)) = headers.iter().find(|header| header.0 == PT_INTERP) {
            needs.push(PathBuf::from(self.text(*at)?));
        }
        let Some(&(_, dynamic, _, len)) = headers.iter().find(|header| header.0 == PT_DYNAMIC) else {
            return Some(needs);
        };
        let entries: Option<Vec<(u64, u64)>> = (0..len / 16)
            .map(|n| Some((self.word(dynamic + n * 16, 8)?, self.word(dynamic + n * 16 + 8, 8)?)))
            .collect();
        let entries = entries?;
        let address = entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?.1;
        let &(_, at, start, _) = headers
            .iter()
            .find(|&&(kind, _, start, len)| kind == PT_LOAD && (start..start + len).contains(&address))?;
        for (_, name) in entries.iter().filter(|(tag, _)| *tag == DT_NEEDED) {
            let name = self.text(address - start + at + name)?;
            needs.extend(DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists()));
        }
        Some(needs)
    }
}
