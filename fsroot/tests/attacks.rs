//! Attacks on the building of a view, from the side of the host, of the root's contents and of the payload.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use palisade_fsroot::{Bind, Directory, ErrorKind, File, Layers, Proc, Root, Symlink, Tmpfs};
use palisade_sys::Step;
use palisade_testkit::{Snapshot, can_unshare_user, in_child, is_root, skip, temp_dir};

mod common;
use common::*;

macro_rules! need_userns {
    () => {
        if !can_unshare_user() {
            skip!("no user namespace can be made", needs = "userns");
        }
    };
}

/// Rounds of each race.
const RACES: u32 = 10_000;

/// A root of one's own with the usual mount points.
fn rootfs() -> tempfile::TempDir {
    let dir = temp_dir();
    for name in ["usr", "proc", "dev", "tmp", "etc", "data", "run"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), dir.path().join(name)).unwrap();
    }
    dir
}

/// A01, A09: the old root is gone, not only out of sight.
#[test]
fn a01_nothing_of_the_old_root_is_left() {
    need_userns!();
    let root = Root::host().prepare().unwrap();
    in_view(&root, || {
        // The classic: a root below, then up and up.
        fs::create_dir("/tmp/below").unwrap();
        sys::chroot("/tmp/below").unwrap();
        for _ in 0..40 {
            std::env::set_current_dir("..").unwrap();
        }
        sys::chroot(".").unwrap();
        assert_eq!(names("/"), ["bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "tmp", "usr"]);
        assert!(!Path::new("/etc/hostname").exists() && !Path::new("/etc/shadow").exists());
    });
}

/// Found by reading the mount table back: with a scratch file system (overlays, files over others) the unmounting of the
/// old root took the scratch file system off it and left the root itself, on top of the new one, where `/..` leads.
#[test]
fn a01_nothing_of_the_old_root_is_left_behind_dot_dot() {
    need_userns!();
    let dir = temp_dir();
    for sub in ["inside", "proc"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
    }
    fs::write(dir.path().join("file"), "").unwrap();
    let overlay = Root::overlay(Layers::new(dir.path()).upper_in_memory(1 << 20, 100));
    let over_file = Root::dir(dir.path()).mount(File::new("/file", "new"));
    for (root, more) in [(overlay, None), (over_file, Some("/file"))] {
        let root = root.mount(Proc::new("/proc")).prepare().unwrap();
        in_view(&root, || {
            assert_eq!(names("/.."), ["file", "inside", "proc"]);
            assert_eq!(names("/../../inside/.."), ["file", "inside", "proc"]);
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let points: Vec<_> = table.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
            let wanted: Vec<_> = ["/"].into_iter().chain(more).chain(["/proc"]).collect();
            assert_eq!(points, wanted, "neither the old root nor the scratch file system");
        });
    }
}

#[test]
fn a03_no_descriptor_is_left_open() {
    need_userns!();
    let lower = temp_dir();
    let layers = Layers::new(lower.path()).upper_in_memory(1 << 20, 100);
    for root in [Root::host(), Root::overlay(layers).mount(File::new("/etc/motd", "hello"))] {
        let root = root.mount(Proc::new("/proc")).prepare().unwrap();
        in_child(|| {
            unshare_all();
            in_child(|| {
                let before = sys::open_descriptors();
                build(&root).unwrap();
                assert_eq!(sys::open_descriptors(), before);
                assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
            });
        });
    }
}

/// A06: the old root cannot be got back by unmounting the new one, by entering the namespace again, or by a walk over
/// the root's edge, which crosses into whatever is stacked on it. The roots with a scratch file system left it there once.
#[test]
fn a06_the_old_root_is_gone() {
    need_userns!();
    let (lower, canary) = (temp_dir(), temp_dir());
    fs::create_dir(lower.path().join("usr")).unwrap();
    fs::write(canary.path().join("canary"), "").unwrap();
    let layers = || Layers::new(lower.path()).upper_in_memory(1 << 20, 100);
    let usr = Root::dir(lower.path()).bind_ro("/usr", "/usr");
    for root in [
        Root::host(),
        Root::empty().bind_ro("/usr", "/usr"),
        Root::overlay(layers()),
        Root::empty().mount(palisade_fsroot::Overlay::new("/usr", layers())),
        usr,
    ] {
        let root = root.prepare().unwrap();
        in_view(&root, || {
            let gone = |how: &str| {
                assert!(names("/").contains(&"usr".to_owned()), "{how}");
                for edge in ["/", "/..", "/../.."] {
                    let path = format!("{edge}/{}", canary.path().join("canary").display());
                    assert!(
                        !Path::new(&path).exists() && !Path::new(edge).join("root").exists(),
                        "{how}: {path}"
                    );
                }
            };
            gone("a walk");
            // What is stacked on the root would make the process one that was chrooted.
            in_child(|| sys::unshare(libc::CLONE_NEWUSER).unwrap());
            let own = fs::File::open("/proc/self/ns/mnt").ok();
            let refused = errno(sys::umount("/", libc::MNT_DETACH));
            assert!([libc::EINVAL, libc::EBUSY, libc::EPERM].contains(&refused), "{refused}");
            if let Some(own) = own {
                sys::setns(&own, libc::CLONE_NEWNS).unwrap();
                gone("setns");
            }
        });
    }
}

/// A08: a root that cannot be left is an error that says so, and no chroot comes in its place.
#[test]
fn a08_no_silent_chroot() {
    need_userns!();
    in_child(|| {
        unshare_all();
        in_child(|| {
            // A process whose root is no mount point can't pivot.
            sys::chroot("/usr").unwrap();
            std::env::set_current_dir("/").unwrap();
            let root = Root::empty().prepare().unwrap();
            let error = run(&root.program()).unwrap_err();
            assert!([Step::Mounts, Step::Propagation, Step::PivotRoot].contains(&error.step), "{error}");
            assert_eq!(error.errno, libc::EINVAL, "{error}");
        });
    });
}

/// A09, A84: the mount table and /dev are the declared ones, neither more nor less.
#[test]
fn a09_a84_mounts_and_devices_are_the_declared_ones() {
    need_userns!();
    let root = Root::empty()
        .bind_ro("/usr", "/usr")
        .mount(palisade_fsroot::Dev::new("/dev"))
        .tmpfs("/tmp")
        .mount(Proc::new("/proc"))
        .prepare()
        .unwrap();
    in_view(&root, || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut points: Vec<_> = table.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
        points.sort_unstable();
        let mut wanted = vec!["/", "/usr", "/tmp", "/proc", "/dev/pts", "/dev/shm"];
        wanted.extend(["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]);
        wanted.sort_unstable();
        assert_eq!(points, wanted);
        let listed = names("/dev");
        let expected = "console fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
        assert_eq!(listed.join(" "), expected);
        for name in ["null", "zero", "full", "random", "urandom"] {
            let device = Path::new("/dev").join(name);
            assert!(fs::metadata(&device).unwrap().file_type().is_char_device());
            fs::OpenOptions::new().read(true).write(true).open(&device).unwrap();
            // What can be changed is the device, not the host's node.
            assert_eq!(errno(fs::set_permissions(&device, fs::Permissions::from_mode(0o777))), libc::EROFS);
        }
        fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
        assert_eq!(errno(fs::write("/dev/more", "")), libc::EROFS);
        for line in table.lines() {
            let mut fields = line.split(' ').skip(4);
            let (point, options) = (fields.next().unwrap(), fields.next().unwrap());
            let has = |name| options.split(',').any(|option| option == name);
            assert!(has("nosuid"), "{line}");
            let is_device = point.starts_with("/dev/") && point != "/dev/shm";
            assert!(has("nodev") || is_device, "{line}");
        }
    });
}

/// A10: what is mounted inside does not reach the host, shared as its mounts may be.
#[test]
fn a10_a12_mounts_spread_neither_way() {
    need_userns!();
    if !is_root() {
        skip!("a shared mount of the host is made in a namespace of root's", needs = "root");
    }
    let source = temp_dir();
    fs::create_dir(source.path().join("inner")).unwrap();
    let root = Root::host().bind(source.path(), "/work").prepare().unwrap();
    in_child(|| {
        sys::unshare(libc::CLONE_NEWNS).unwrap();
        sys::propagation("/", libc::MS_REC | libc::MS_SHARED).unwrap();
        let before = Snapshot::take();
        for split in [false, true] {
            let (mut told, mut tell) = std::os::unix::net::UnixStream::pair().unwrap();
            let (mut ready, mut is_ready) = std::os::unix::net::UnixStream::pair().unwrap();
            std::thread::scope(|scope| {
                let inner = source.path().join("inner");
                scope.spawn(move || {
                    use std::io::{Read, Write};
                    ready.read_exact(&mut [0]).unwrap();
                    sys::mount_tmpfs(&inner).unwrap();
                    fs::write(inner.join("late"), "").unwrap();
                    tell.write_all(b"x").unwrap();
                });
                let body = || {
                    use std::io::{Read, Write};
                    sys::mount_tmpfs(Path::new("/tmp")).unwrap();
                    is_ready.write_all(b"x").unwrap();
                    told.read_exact(&mut [0]).unwrap();
                    assert_eq!(names("/work/inner"), [""; 0], "a later mount of the host came in");
                };
                if split { in_split_view(&root, body) } else { in_view(&root, body) }
            });
            sys::umount(source.path().join("inner"), libc::MNT_DETACH).unwrap();
        }
        // A mount that spread out would be seen here.
        before.assert_unchanged();
    });
}

/// A13: a link of the root's author where something is to be mounted.
#[test]
fn a13_a_link_at_a_mount_point_leads_nowhere() {
    need_userns!();
    let canary = temp_dir();
    let canary_path = canary.path().to_owned();
    fs::create_dir(canary.path().join("sub")).unwrap();
    let out = canary.path().to_str().unwrap();
    for link in
        [out, "..", "../../../../../../etc", "/etc", "/missing", "data", "/", ".", "/proc/self/cwd", "link"]
    {
        let dir = rootfs();
        symlink(link, dir.path().join("link")).unwrap();
        // As the last component, and on the way: followed inside, or refused.
        for target in ["/link", "/link/sub"] {
            let root = Root::dir(dir.path()).mount(Proc::new("/proc")).mount(Tmpfs::new(target));
            let root = match root.prepare() {
                Ok(root) => root,
                Err(error) => {
                    assert!(["..", "/", "."].contains(&link) && target == "/link", "{link}: {error}");
                    continue;
                }
            };
            in_child(|| {
                unshare_all();
                in_child(|| match build(&root) {
                    Ok(()) => {
                        assert!(link.ends_with("etc") || link == "data", "{link}");
                        let real = if link == "data" { "/data" } else { "/etc" };
                        assert_eq!(options_of(real), "rw,nosuid,nodev,relatime");
                    }
                    Err(error) => {
                        assert!(
                            [libc::ENOENT, libc::ELOOP, libc::EXDEV].contains(&error.errno),
                            "{link}: {error}"
                        );
                        assert_eq!(sys::mounts_below(&canary_path), 0);
                    }
                });
            });
        }
        // The link was harmless when it was looked at.
        fs::remove_file(dir.path().join("link")).unwrap();
        symlink("data", dir.path().join("link")).unwrap();
        let root = Root::dir(dir.path()).mount(Tmpfs::new("/link")).prepare().unwrap();
        fs::remove_dir(dir.path().join("data")).unwrap();
        symlink(out, dir.path().join("data")).unwrap();
        in_child(|| {
            unshare_all();
            in_child(|| assert_eq!(build(&root).unwrap_err().errno, libc::ELOOP));
        });
    }
    // The harmless use of a link works: /link is /data inside.
    let dir = rootfs();
    symlink("/data", dir.path().join("link")).unwrap();
    fs::create_dir(dir.path().join("data/sub")).unwrap();
    let root = Root::dir(dir.path()).mount(Tmpfs::new("/link/sub")).prepare().unwrap();
    in_view(&root, || fs::write("/data/sub/file", "").unwrap());
    assert_eq!(names(dir.path().join("data/sub")), [""; 0]);
}

fn options_of(point: &str) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line =
        table.lines().find(|line| line.split(' ').nth(4) == Some(point)).unwrap_or_else(|| panic!("{table}"));
    line.split(' ').nth(5).unwrap().to_owned()
}

/// CVE-2019-16884, CVE-2023-28642: a link in the image that moves a volume over /proc, or /proc elsewhere.
#[test]
fn a18_a_volume_cannot_be_moved_over_proc() {
    need_userns!();
    let dir = rootfs();
    symlink("/proc", dir.path().join("volume")).unwrap();
    // Even if the image has directories of these names.
    fs::create_dir(dir.path().join("proc/sys")).unwrap();
    let root = Root::dir(dir.path()).mount(Proc::new("/proc")).mount(Tmpfs::new("/volume/sys"));
    fails(&root, |error| assert_eq!(error.errno, libc::EXDEV, "{error}"));
    let moved = temp_dir();
    fs::create_dir(moved.path().join("elsewhere")).unwrap();
    symlink("elsewhere", moved.path().join("proc")).unwrap();
    symlink("elsewhere", moved.path().join("dev")).unwrap();
    fails(&Root::dir(moved.path()).mount(palisade_fsroot::Dev::new("/dev")), |error| {
        assert_eq!(error.errno, libc::ELOOP, "{error}");
    });
    fails(&Root::dir(moved.path()).mount(Proc::new("/proc")), |error| {
        assert_eq!(error.errno, libc::ELOOP, "{error}");
    });
}

/// A14: the root's author exchanges a mount point for a link to a directory of the host, all the time.
#[test]
fn a14_mount_point_races_never_reach_the_canary() {
    need_userns!();
    let canary = temp_dir();
    fs::create_dir_all(canary.path().join("sub")).unwrap();
    let dir = rootfs();
    fs::create_dir_all(dir.path().join("data/sub")).unwrap();
    symlink(canary.path(), dir.path().join("link")).unwrap();
    let root = |target: &str| Root::dir(dir.path()).mount(Tmpfs::new(target)).prepare().unwrap();
    let roots = [root("/data"), root("/data/sub")];
    // The directory that was mounted on goes on changing its name.
    let mounted_inside = || {
        let device = |path: &str| fs::symlink_metadata(path).ok().map(|meta| meta.dev());
        let on = |path: &&str| device(path).is_some_and(|dev| Some(dev) != device("/"));
        (0..1000).any(|_| ["/data", "/link", "/data/sub", "/link/sub"].iter().any(on))
    };
    sys::while_exchanging(&dir.path().join("data"), &dir.path().join("link"), || {
        in_child(|| {
            unshare_all();
            in_child(|| {
                let (won, lost) = (AtomicU32::new(0), AtomicU32::new(0));
                sys::build_often(&roots, RACES, |built| match built {
                    Ok(()) => {
                        assert!(mounted_inside(), "the tmpfs is on neither of the root's own directories");
                        won.fetch_add(1, Relaxed);
                    }
                    Err(errno) => {
                        assert!([libc::ELOOP, libc::ENOENT, libc::EXDEV].contains(&errno), "{errno}");
                        // Still in the old root: a mount on the canary would be seen here.
                        assert_eq!(names(canary.path()), ["sub"]);
                        assert_eq!(sys::mounts_below(canary.path()), 0);
                        lost.fetch_add(1, Relaxed);
                    }
                });
                let (won, lost) = (won.into_inner(), lost.into_inner());
                println!("{won} built, {lost} refused");
                assert!(won > 0 && lost > 0, "the race was none: {won} built, {lost} refused");
            });
        });
    });
    assert_eq!(names(canary.path()), ["sub"]);
    assert_eq!(names(canary.path().join("sub")), [""; 0]);
}

/// A20: the source is exchanged after it was looked at.
#[test]
fn a20_an_exchanged_source_is_refused() {
    need_userns!();
    let dir = temp_dir();
    let (source, other) = (dir.path().join("source"), dir.path().join("other"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("secret"), "").unwrap();
    let root = Root::empty().bind(&source, "/work");
    let prepared = root.prepare().unwrap();
    fs::remove_dir(&source).unwrap();
    symlink(&other, &source).unwrap();
    in_child(|| {
        unshare_all();
        in_child(|| {
            let error = build(&prepared).unwrap_err();
            assert_eq!((error.step, error.errno), (Step::Mounts, libc::ESTALE), "{error}");
        });
    });
    // In a race: built with the source or not at all.
    fs::remove_file(&source).unwrap();
    fs::create_dir(&source).unwrap();
    let prepared = root.prepare().unwrap();
    sys::while_exchanging(&source, &other, || {
        in_child(|| {
            unshare_all();
            in_child(|| {
                let (won, lost) = (AtomicU32::new(0), AtomicU32::new(0));
                sys::build_often(&[prepared], RACES, |built| match built {
                    Ok(()) => {
                        assert!(Path::new("/work").exists() && !Path::new("/work/secret").exists());
                        won.fetch_add(1, Relaxed);
                    }
                    Err(errno) => {
                        assert_eq!(errno, libc::ESTALE);
                        lost.fetch_add(1, Relaxed);
                    }
                });
                let (won, lost) = (won.into_inner(), lost.into_inner());
                println!("{won} built, {lost} refused");
                assert!(won > 0 && lost > 0, "the race was none: {won} built, {lost} refused");
            });
        });
    });
}

/// CVE-2017-1002101, CVE-2021-25741: whoever may write to a volume leads a bind of what is below it to elsewhere.
#[test]
fn a_subpath_never_leaves_its_source() {
    need_userns!();
    let dir = temp_dir();
    let (volume, secret) = (dir.path().join("volume"), dir.path().join("secret"));
    fs::create_dir_all(volume.join("sub/deep")).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "").unwrap();
    let root = |below: &str| Root::empty().mount(Bind::new(&volume, "/work").subpath(below));
    symlink("../secret", volume.join("relative")).unwrap();
    symlink(&secret, volume.join("absolute")).unwrap();
    symlink("sub/deep", volume.join("inside")).unwrap();
    for (below, kind) in [
        ("relative", ErrorKind::System),
        ("absolute", ErrorKind::System),
        ("relative/key", ErrorKind::System),
        ("nothing", ErrorKind::NotFound),
        ("../secret", ErrorKind::InvalidPath),
        ("sub/../../secret", ErrorKind::InvalidPath),
        (secret.to_str().unwrap(), ErrorKind::InvalidPath),
    ] {
        let error = root(below).prepare().unwrap_err();
        assert_eq!(error.kind(), kind, "{below}: {error}");
    }
    fs::write(volume.join("sub/deep/here"), "").unwrap();
    in_view(&root("inside").prepare().unwrap(), || assert_eq!(names("/work"), ["here"]));
    // In a race: found inside or not at all, and what was found is there when all is quiet.
    let (sub, link) = (volume.join("sub"), volume.join("relative"));
    let mut found = Vec::new();
    let mut lost = 0;
    sys::while_exchanging(&sub, &link, || {
        for _ in 0..RACES {
            match root("sub").prepare() {
                Ok(root) => found.push(root),
                Err(error) => {
                    assert!(matches!(error.errno(), Some(libc::EXDEV | libc::EAGAIN)), "{error}");
                    lost += 1;
                }
            }
        }
    });
    assert!(!found.is_empty() && lost > 0, "the race was none: {} found, {lost} refused", found.len());
    if sub.is_symlink() {
        fs::rename(&link, volume.join("spare")).unwrap();
        fs::rename(&sub, &link).unwrap();
        fs::rename(volume.join("spare"), &sub).unwrap();
    }
    found.truncate(200);
    for root in &found {
        in_view(root, || assert_eq!(names("/work"), ["deep"]));
    }
}

/// The number of a removed file is given to the next one: by it alone, what a link leads to was what had been found.
#[test]
fn a_subpath_that_became_a_link_to_the_same_inode_is_refused() {
    need_userns!();
    let dir = temp_dir();
    let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("f"), "").unwrap();
    let bind = || Bind::new(&volume, "/f").subpath("f");
    let root = Root::empty().mount(bind()).prepare().unwrap();
    in_view(&root, || assert!(Path::new("/f").is_file()));
    fs::hard_link(volume.join("f"), &outside).unwrap();
    fs::remove_file(volume.join("f")).unwrap();
    symlink(&outside, volume.join("f")).unwrap();
    refused(&root, |error| assert_eq!(error.errno, libc::EXDEV));
    // Another directory in the place of the source is found out, whatever is in it.
    let real = dir.path().join("real");
    fs::rename(&volume, &real).unwrap();
    fs::create_dir(&volume).unwrap();
    fs::hard_link(&outside, volume.join("f")).unwrap();
    refused(&root, |error| assert_eq!(error.errno, libc::ESTALE));
}

/// A source that is said to be one inode is that one, without a link on the way.
#[test]
fn an_exact_source_is_no_other_and_behind_no_link() {
    need_userns!();
    let dir = temp_dir();
    let (one, other, link) = (dir.path().join("one"), dir.path().join("other"), dir.path().join("link"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&other).unwrap();
    symlink(&one, &link).unwrap();
    let meta = fs::metadata(&one).unwrap();
    let root =
        |path: &Path| Root::empty().mount(Bind::new(path, "/it").exactly(meta.dev(), meta.ino())).prepare();
    assert_eq!(root(&other).unwrap_err().errno(), Some(libc::ESTALE));
    assert_eq!(root(&link).unwrap_err().errno(), Some(libc::ELOOP));
    let found = root(&one).unwrap();
    in_view(&found, || assert!(Path::new("/it").is_dir()));
    fs::rename(&one, dir.path().join("moved")).unwrap();
    symlink("moved", &one).unwrap();
    refused(&found, |error| assert_eq!(error.errno, libc::ELOOP));
}

/// A21: read-only means all the way down.
#[test]
fn a21_read_only_binds_have_no_writable_submount() {
    need_userns!();
    let source = temp_dir();
    fs::create_dir_all(source.path().join("a/b")).unwrap();
    let root = Root::empty().bind_ro(source.path(), "/ro").bind(source.path(), "/rw").prepare().unwrap();
    in_child(|| {
        unshare_all();
        sys::mount_tmpfs(&source.path().join("a")).unwrap();
        fs::create_dir(source.path().join("a/b")).unwrap();
        sys::mount_tmpfs(&source.path().join("a/b")).unwrap();
        in_child(|| {
            build(&root).unwrap();
            for dir in ["/ro", "/ro/a", "/ro/a/b"] {
                assert_eq!(errno(fs::write(format!("{dir}/file"), "")), libc::EROFS, "{dir}");
            }
            for dir in ["/rw", "/rw/a", "/rw/a/b"] {
                fs::write(format!("{dir}/file"), "").unwrap();
            }
            assert_eq!(errno(fs::write("/file", "")), libc::EROFS);
        });
    });
    fs::remove_file(source.path().join("file")).unwrap();
}

/// A22, A23: a payload with capabilities in a user namespace of its own can't take off what binds it.
#[test]
fn a22_a23_locked_flags_and_masks_stay() {
    need_userns!();
    let root = Root::host().prepare().unwrap();
    in_view(&root, || {
        sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).unwrap();
        assert_eq!(errno(sys::remount("/usr", 0)), libc::EPERM);
        assert_eq!(errno(sys::remount("/tmp", 0)), libc::EPERM, "without nosuid and nodev");
        assert_eq!(errno(sys::umount("/proc/acpi", 0)), libc::EINVAL);
        assert_eq!(errno(sys::mount_new("proc", "/tmp")), libc::EPERM);
        assert_eq!(errno(sys::mount_new("sysfs", "/tmp")), libc::EPERM);
    });
}

/// A25: device nodes are of no use, made or brought along.
#[test]
fn a25_device_nodes_do_nothing() {
    need_userns!();
    let dir = rootfs();
    let brought = is_root();
    if brought {
        sys::mknod(&dir.path().join("data/mem"), libc::S_IFCHR | 0o666, (1, 1)).unwrap();
        sys::mknod(&dir.path().join("data/null"), libc::S_IFCHR | 0o666, (1, 3)).unwrap();
    }
    let root = Root::dir(dir.path()).tmpfs("/tmp").prepare().unwrap();
    in_view(&root, || {
        assert_eq!(errno(sys::mknod(Path::new("/tmp/mem"), libc::S_IFCHR | 0o666, (1, 1))), libc::EPERM);
        if brought {
            for name in ["mem", "null"] {
                assert_eq!(errno(fs::File::open(format!("/data/{name}"))), libc::EACCES);
            }
        }
    });
}

/// A30: memory file systems end at their limits.
#[test]
fn a30_memory_is_limited_in_bytes_and_inodes() {
    need_userns!();
    let root = Root::empty()
        .mount(Tmpfs::new("/small").size(64 << 10).inodes(32))
        .mount(palisade_fsroot::Dev::new("/dev").shm(32 << 10, 16))
        .prepare()
        .unwrap();
    in_view(&root, || {
        for (dir, bytes, inodes) in [("/small", 64 << 10, 32), ("/dev/shm", 32 << 10, 16)] {
            assert_eq!(errno(fs::write(format!("{dir}/big"), vec![1; bytes + 1])), libc::ENOSPC);
            let mut files = 1; // "big"
            while fs::write(format!("{dir}/{files}"), "").is_ok() {
                files += 1;
                assert!(files < 1000, "{dir} has no limit");
            }
            assert!(files < inodes + 1, "{files} files in {dir}");
        }
    });
    // The root and the scratch file system hold no more than they have to either.
    let root = Root::empty().writable().limits(1 << 20, 50).prepare().unwrap();
    in_view(&root, || {
        assert_eq!(errno(fs::write("/big", vec![1; (1 << 20) + 1])), libc::ENOSPC);
    });
}

/// A31: a FIFO or a device where a file or directory is expected: no hang, and no write to it.
#[test]
fn a31_fifos_are_not_opened() {
    need_userns!();
    let dir = rootfs();
    let fifo = dir.path().join("etc/passwd");
    sys::mknod(&fifo, libc::S_IFIFO | 0o666, (0, 0)).unwrap();
    sys::mknod(&dir.path().join("fifo"), libc::S_IFIFO | 0o666, (0, 0)).unwrap();
    // Covered, not written to.
    let root =
        Root::dir(dir.path()).mount(File::new("/etc/passwd", "root:x:0:0::/:/bin/sh\n")).prepare().unwrap();
    in_view(&root, || {
        assert!(fs::read_to_string("/etc/passwd").unwrap().starts_with("root"));
        assert_eq!(errno(fs::write("/etc/passwd", "")), libc::EROFS);
    });
    fails(&Root::dir(dir.path()).tmpfs("/fifo"), |error| assert_eq!(error.errno, libc::EINVAL, "{error}"));
    // As a source it is just a node.
    let root = Root::empty().bind(dir.path().join("fifo"), "/fifo").prepare().unwrap();
    in_view(&root, || assert!(fs::metadata("/fifo").unwrap().file_type().is_fifo()));
    assert_eq!(Root::dir(&fifo).prepare().unwrap_err().kind(), ErrorKind::WrongType);
}

/// A32: many mounts and masks take no more than their share, and no file system each.
#[test]
fn a32_thousands_of_masks_are_one_file_system() {
    need_userns!();
    let (dirs, files) = (1500, 1500);
    let mut root = Root::empty().mount(palisade_fsroot::Dev::new("/dev")).mount(Proc::new("/proc"));
    let mut masks = palisade_fsroot::Masks::none();
    for n in 0..dirs {
        root = root.mount(Directory::new(format!("/dirs/{n}")));
        masks = masks.hide(format!("/dirs/{n}"));
    }
    for n in 0..files {
        root = root.mount(File::new(format!("/files/{n}"), "secret"));
        masks = masks.hide(format!("/files/{n}"));
    }
    for n in 0..700 {
        masks = masks.hide(format!("/proc/missing/{n}")).read_only(format!("/proc/missing/{n}"));
    }
    let root = root.masks(masks.clone());
    let many = (0..10_000).fold(masks, |masks, n| masks.hide(format!("/proc/{n}")));
    assert_eq!(root.clone().masks(many).prepare().unwrap_err().kind(), ErrorKind::Limit);
    let root = root.prepare().unwrap();
    in_view(&root, || {
        let dev = |path: String| fs::metadata(path).unwrap().dev();
        let first = dev("/dirs/0".into());
        assert!((1..dirs).all(|n| dev(format!("/dirs/{n}")) == first));
        assert!((0..files).all(|n| fs::read(format!("/files/{n}")).unwrap().is_empty()));
        assert_eq!(errno(fs::write("/dirs/7/file", "")), libc::EROFS);
    });
}

/// A15: what covers masked files is the null device by its number, or nothing is covered and the view fails.
#[test]
fn a15_a_false_mask_source_is_refused() {
    need_userns!();
    let masks = palisade_fsroot::Masks::none().hide("/etc/secret");
    let dir = rootfs();
    fs::write(dir.path().join("etc/secret"), "x").unwrap();
    let root = Root::dir(dir.path()).masks(masks);
    symlink("/etc/secret", dir.path().join("dev/null")).unwrap();
    fails(&root, |error| assert_eq!((error.step, error.errno), (Step::Masks, libc::ELOOP), "{error}"));
    fs::remove_file(dir.path().join("dev/null")).unwrap();
    fs::write(dir.path().join("dev/null"), "").unwrap();
    fails(&root, |error| assert_eq!((error.step, error.errno), (Step::Masks, libc::ESTALE), "{error}"));
    let root = root.mount(palisade_fsroot::Dev::new("/dev")).prepare().unwrap();
    in_view(&root, || assert_eq!(fs::read("/etc/secret").unwrap(), b""));
}

/// A link of the view itself, absolute, must not carry a later item to the host.
#[test]
fn items_behind_links_of_the_view_are_refused() {
    let behind = Root::empty().mount(Symlink::new("/etc", "/link")).mount(Tmpfs::new("/link/x"));
    let error = behind.prepare().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let on = Root::empty().mount(Symlink::new("/etc", "/link")).mount(Bind::new("/usr", "/link"));
    assert_eq!(on.prepare().unwrap_err().kind(), ErrorKind::Conflict);
}

/// A127, A128: whatever call fails, the error names it, and nothing is left behind outside of the namespace.
#[test]
fn a128_every_failing_call_is_an_error_and_leaves_nothing() {
    need_userns!();
    let dir = rootfs();
    let layers = Layers::new(dir.path()).upper_in_memory(1 << 20, 100);
    let roots = [
        Root::host().mount(Proc::new("/proc")),
        Root::overlay(layers)
            .mount(File::new("/etc/motd", ""))
            .mount(Tmpfs::new("/run/x"))
            .mount(Proc::new("/proc")),
    ];
    let before = Snapshot::take();
    for root in roots {
        let root = root.prepare().unwrap();
        in_child(|| {
            unshare_all();
            in_child(|| {
                let (program, last) = (root.program(), sys::last_descriptor());
                for index in (0..program.len()).filter(|&index| !program.is_conditional(index)) {
                    let mut broken = program.clone();
                    broken.inject(index, palisade_sys::Injected::Errno(libc::EDOM));
                    sys::in_namespace(last, || {
                        let fault = sys::run(&mut broken.image()).expect_err("a failure was passed over");
                        assert_eq!((fault.index as usize, fault.errno), (index, libc::EDOM));
                    });
                }
                assert!(Path::new("/root").exists(), "this thread is where it was");
            });
        });
    }
    before.assert_unchanged();
    assert_eq!(names(dir.path().join("run")), [""; 0]);
}
