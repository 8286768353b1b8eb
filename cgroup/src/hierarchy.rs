//! Where cgroup v2 is mounted on this system, if it is, and where this process sits in it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// How the system mounts cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Version 2 alone: every controller can be had.
    V2,
    /// Version 2 beside version 1: the core works (groups, kill, freeze, events, pressure, device rules), but a
    /// controller that v1 holds is missing.
    Hybrid,
    /// Version 1 alone.
    V1,
    /// No cgroup file system at all.
    Absent,
}

impl Mode {
    /// Finds out from this process's mount table.
    ///
    /// # Errors
    /// Where `/proc/self/mountinfo` cannot be read.
    pub fn detect() -> Result<Mode> {
        Ok(Mounts::read()?.mode)
    }
}

/// What the mount table says about cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounts {
    pub(crate) mode: Mode,
    /// Mount point and the group it shows, of the cgroup2 mount in use.
    pub(crate) v2: Option<(PathBuf, PathBuf)>,
}

impl Mounts {
    pub(crate) fn read() -> Result<Mounts> {
        Ok(Mounts::parse(&read_proc("/proc/self/mountinfo")?))
    }

    /// Lines that are no mounts are passed over: a table with a foreign line still has its cgroups.
    pub(crate) fn parse(mountinfo: &[u8]) -> Mounts {
        let mut v1 = false;
        let mut first = None;
        let mut standard = [None, None];
        for line in mountinfo.split(|c| *c == b'\n') {
            let Some(mount) = parse_mount(line) else { continue };
            let place =
                ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().position(|p| mount.point == Path::new(p));
            match mount.fs {
                b"cgroup" => v1 = true,
                b"cgroup2" => {
                    if let Some(i) = place {
                        standard[i] = Some((mount.point.clone(), mount.root.clone()));
                    }
                    first = first.or(Some((mount.point, mount.root)));
                }
                // Something else on top hides what was there.
                _ => {
                    if let Some(i) = place {
                        standard[i] = None;
                    }
                }
            }
        }
        let [whole, beside] = standard;
        match (whole, beside.or(first), v1) {
            (Some(v2), _, _) | (None, Some(v2), false) => Mounts { mode: Mode::V2, v2: Some(v2) },
            (None, Some(v2), true) => Mounts { mode: Mode::Hybrid, v2: Some(v2) },
            (None, None, true) => Mounts { mode: Mode::V1, v2: None },
            (None, None, false) => Mounts { mode: Mode::Absent, v2: None },
        }
    }

    pub(crate) fn v2(self) -> Result<(PathBuf, PathBuf)> {
        let absent = match self.mode {
            Mode::V1 => Error::new(ErrorKind::V1Only, "this system mounts cgroup v1 only").hint(
                "boot with systemd.unified_cgroup_hierarchy=1 (or cgroup_no_v1=all); limits are never set through v1",
            ),
            _ => Error::new(ErrorKind::Absent, "no cgroup2 file system is mounted")
                .hint("mount -t cgroup2 cgroup2 /sys/fs/cgroup, or run the container with its cgroup mount"),
        };
        self.v2.ok_or(absent)
    }
}

struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    fs: &'a [u8],
}

fn parse_mount(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|c| *c == b' ');
    let root = unescape(fields.nth(3)?);
    let point = unescape(fields.next()?);
    let fs = fields.skip_while(|f| *f != b"-").nth(1)?;
    Some(Mount { root, point, fs })
}

/// Undoes the kernel's `\ooo` for blanks, tabs, line breaks and backslashes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&c, tail)) = rest.split_first() {
        rest = tail;
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', o @ b'0'..=b'7', after @ ..] if c == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (o - b'0'));
                rest = after;
            }
            _ => out.push(c),
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The path of the v2 group in the text of a `/proc/PID/cgroup` file: the line that begins with `0::`.
///
/// # Errors
/// [`Absent`](ErrorKind::Absent) without such a line, [`Parse`](ErrorKind::Parse) if its path is not absolute.
pub fn parse_membership(text: &[u8]) -> Result<PathBuf> {
    let line = text.split(|c| *c == b'\n').find_map(|l| l.strip_prefix(b"0::"));
    let line =
        line.ok_or_else(|| Error::new(ErrorKind::Absent, "no `0::` line: not in a cgroup v2 hierarchy"))?;
    if line.first() != Some(&b'/') {
        return Err(Error::parse("path of a cgroup", line));
    }
    Ok(PathBuf::from(OsString::from_vec(line.to_vec())))
}

/// The v1 hierarchies that hold a controller, from the text of a `/proc/PID/cgroup` file.
pub(crate) fn held_by_v1(text: &[u8], controller: &str) -> bool {
    text.split(|c| *c == b'\n').any(|line| {
        let list = line.splitn(3, |c| *c == b':').nth(1).unwrap_or_default();
        // v1 splits what v2 has as one controller: io was blkio.
        let v1_name = if controller == "io" { "blkio" } else { controller };
        list.split(|c| *c == b',').any(|c| c == v1_name.as_bytes())
    })
}

/// The directory of the group `own`, given where a mount point shows which root. Both are relative to the reader's
/// cgroup namespace.
pub(crate) fn locate(point: &Path, root: &Path, own: &Path) -> Result<PathBuf> {
    let outside = |p: &Path| p.components().any(|c| c == Component::ParentDir);
    if outside(own) {
        return Err(
            Error::new(ErrorKind::NotDelegated, "the process sits outside of this cgroup namespace").at(own)
        );
    }
    match own.strip_prefix(root) {
        Ok(below) if !outside(root) => Ok(point.join(below)),
        _ => Err(Error::new(ErrorKind::NotDelegated, "the process's group is not below the mounted one")
            .value(root.display().to_string())
            .at(own)
            .hint(
                "mount cgroup2 afresh inside this cgroup namespace, or give the directory to Cgroup::open",
            )),
    }
}

pub(crate) fn read_proc(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", Path::new(path), &e).kinded(ErrorKind::System))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &[u8] = include_bytes!("../tests/fixtures/mountinfo.hybrid");
    const PURE: &[u8] = include_bytes!("../tests/fixtures/mountinfo.v2");

    #[test]
    fn modes_of_real_tables() {
        let hybrid = Mounts::parse(HYBRID);
        assert_eq!(hybrid.mode, Mode::Hybrid);
        assert_eq!(hybrid.v2.expect("mounted").0, Path::new("/sys/fs/cgroup/unified"));
        let pure = Mounts::parse(PURE);
        assert_eq!(pure.mode, Mode::V2);
        assert_eq!(pure.v2.expect("mounted").0, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn v1_alone_and_nothing_are_told_apart() {
        let v1 = b"33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        assert_eq!(Mounts::parse(v1).mode, Mode::V1);
        assert_eq!(Mounts::parse(v1).v2().expect_err("v1 only").kind(), ErrorKind::V1Only);
        assert_eq!(Mounts::parse(b"").v2().expect_err("nothing").kind(), ErrorKind::Absent);
    }

    #[test]
    fn a_pure_view_over_a_hybrid_host_is_v2() {
        let mut table = HYBRID.to_vec();
        table.extend_from_slice(b"\n99 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(Mounts::parse(&table).mode, Mode::V2);
    }

    #[test]
    fn mount_points_are_unescaped_and_optional_fields_skipped() {
        let line = br"40 30 0:29 /a\040b /mnt/x\134y rw shared:1 master:2 - cgroup2 none rw";
        let (point, root) = Mounts::parse(line).v2().expect("mounted");
        assert_eq!((point.as_path(), root.as_path()), (Path::new(r"/mnt/x\y"), Path::new("/a b")));
    }

    #[test]
    fn own_group_from_the_v2_line() {
        let text = b"9:name=systemd:/\n4:memory:/a:b\n0::/user.slice/x:y (deleted)\n";
        assert_eq!(parse_membership(text).expect("has one"), Path::new("/user.slice/x:y (deleted)"));
        assert_eq!(parse_membership(b"4:memory:/\n").expect_err("v1").kind(), ErrorKind::Absent);
        assert_eq!(parse_membership(b"0::\n").expect_err("empty").kind(), ErrorKind::Parse);
        assert!(held_by_v1(b"7:blkio:/\n1:cpu,cpuacct:/\n0::/\n", "io"));
        assert!(held_by_v1(b"7:blkio:/\n1:cpu,cpuacct:/\n0::/\n", "cpu"));
        assert!(!held_by_v1(b"0::/memory\n", "memory"));
    }

    #[test]
    fn groups_are_located_below_the_mounted_root() {
        let at = |root: &str, own: &str| locate(Path::new("/c"), Path::new(root), Path::new(own));
        assert_eq!(at("/", "/a/b").expect("below"), Path::new("/c/a/b"));
        assert_eq!(at("/a", "/a/b").expect("below"), Path::new("/c/b"));
        for (root, own) in [("/x", "/a"), ("/ab", "/abc"), ("/..", "/"), ("/", "/../x")] {
            assert_eq!(at(root, own).expect_err(own).kind(), ErrorKind::NotDelegated);
        }
    }

    proptest! {
        #[test]
        fn any_table_is_read(bytes: Vec<u8>, text in "([ -~\\n]{0,40} - cgroup2? [ -~]{0,10}\\n?){0,5}") {
            let seen = (Mounts::parse(&bytes), Mounts::parse(text.as_bytes()));
            prop_assert_eq!(seen.1.v2.is_some(), matches!(seen.1.mode, Mode::V2 | Mode::Hybrid));
            if let Ok(path) = parse_membership(&bytes) {
                prop_assert!(path.is_absolute());
            }
        }
    }
}
