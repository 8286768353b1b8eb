//! Nothing may be left behind.

use std::collections::BTreeSet;
use std::fs;

/// Mounts, descriptors and children of this process at one moment.
///
/// Descriptors and children are the whole process's: meaningful under nextest, which gives each test its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    entries: BTreeSet<String>,
}

impl Snapshot {
    /// Reads the state of now.
    ///
    /// # Panics
    ///
    /// If /proc cannot be read.
    #[must_use]
    #[track_caller]
    pub fn take() -> Self {
        let mut entries = BTreeSet::new();
        let mounts = read("/proc/self/mountinfo");
        entries.extend(mounts.lines().map(|line| format!("mount {line}")));
        // Collected first: reading the directory is itself a descriptor, closed before its links are read.
        let names: Vec<_> = list("/proc/self/fd");
        for name in names {
            if let Ok(target) = fs::read_link(format!("/proc/self/fd/{name}")) {
                entries.insert(format!("descriptor {name} -> {}", target.display()));
            }
        }
        for task in list("/proc/self/task") {
            let children = fs::read_to_string(format!("/proc/self/task/{task}/children")).unwrap_or_default();
            entries.extend(children.split_whitespace().map(|pid| format!("child {pid}")));
        }
        Self { entries }
    }

    /// # Panics
    ///
    /// If a mount, descriptor or child was added or lost since: the message lists each.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        let now = Self::take();
        let more = now.entries.difference(&self.entries).map(|entry| format!("\n  left behind: {entry}"));
        let less = self.entries.difference(&now.entries).map(|entry| format!("\n  lost: {entry}"));
        let changes: String = more.chain(less).collect();
        assert!(changes.is_empty(), "the process is not as it was:{changes}");
    }
}

#[track_caller]
fn read(path: &str) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => panic!("{path}: {error}"),
    }
}

#[track_caller]
fn list(path: &str) -> Vec<String> {
    match fs::read_dir(path) {
        Ok(entries) => {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
        Err(error) => panic!("{path}: {error}"),
    }
}
