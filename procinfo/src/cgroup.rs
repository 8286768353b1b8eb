use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::bytes::{lines, os, split_at};

/// `/proc/PID/cgroup`: where a process stands in each hierarchy, see
/// [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// One for each line.
    pub entries: Vec<CgroupEntry>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CgroupEntry {
    /// 0 for cgroup v2.
    pub hierarchy: u32,
    /// The v1 controllers of the hierarchy, or its `name=…`; empty for v2.
    pub controllers: Vec<OsString>,
    /// The path from the root of the *reader's* cgroup namespace: `/` for its root itself, `/..` and on for what lies
    /// above. The bytes are the kernel's, which does not escape them; a removed cgroup's path ends in ` (deleted)`,
    /// as a name may too.
    pub path: PathBuf,
}

impl Cgroups {
    /// Reads the text of a `cgroup` file. A path may hold colons.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let entry = |(at, line): (crate::bytes::At, &[u8])| {
            let (hierarchy, rest) = split_at(line, b':').ok_or_else(|| at.bad("hierarchy", line))?;
            let (controllers, path) = split_at(rest, b':').ok_or_else(|| at.bad("controllers", line))?;
            if !path.starts_with(b"/") {
                return Err(at.bad("path", path));
            }
            Ok(CgroupEntry {
                hierarchy: at.num("hierarchy", hierarchy)?,
                controllers: controllers.split(|c| *c == b',').filter(|c| !c.is_empty()).map(os).collect(),
                path: PathBuf::from(os(path)),
            })
        };
        Ok(Self { entries: lines("cgroup", text).map(entry).collect::<Result<_, _>>()? })
    }

    /// The path in the v2 hierarchy (the `0::` line).
    #[doc(alias = "0::")]
    pub fn unified(&self) -> Option<&Path> {
        self.entries.iter().find(|e| e.hierarchy == 0).map(|e| e.path.as_path())
    }

    /// The path in the v1 hierarchy of a controller (`memory`) or name (`name=systemd`).
    pub fn of_controller(&self, controller: &str) -> Option<&Path> {
        self.entries
            .iter()
            .find(|e| e.controllers.iter().any(|c| c.as_bytes() == controller.as_bytes()))
            .map(|e| e.path.as_path())
    }
}
