//! What each kind of item gives, seen from inside.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use palisade_fsroot::*;
use palisade_testkit::{can_unshare_user, in_child, is_root, skip, temp_dir};

mod common;
use common::*;

macro_rules! need_userns {
    () => {
        if !can_unshare_user() {
            skip!("no user namespace can be made", needs = "userns");
        }
    };
}

/// Options of the mount at a path, its own and its file system's.
fn options(path: &str) -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
    let line = line.unwrap_or_else(|| panic!("{path} is no mount:\n{table}"));
    let own = line.split(' ').nth(5).unwrap().split(',');
    let super_block = line.rsplit(' ').next().unwrap().split(',');
    own.chain(super_block).map(str::to_owned).collect()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What `placed` says of a view, against the kernel's table.
#[test]
fn placed_mounts_are_those_of_the_kernel() {
    need_userns!();
    let dir = temp_dir();
    for name in ["real", "proc", "plain"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    symlink("real", dir.path().join("link")).unwrap();
    let root = Root::dir(dir.path())
        .mount(Proc::new("/proc"))
        .mount(Tmpfs::new("/link"))
        .mount(Tmpfs::new("/plain").with(MountFlags::NOEXEC))
        .mount(Bind::read_only("/usr/share", "/plain/share").not_recursive())
        .mount(Bind::new("/nowhere/at/all", "/plain/optional").optional())
        .masks(Masks::none().read_only("/proc/none"))
        .prepare()
        .unwrap();
    let placed = root.placed();
    let paths: Vec<_> = placed.iter().map(|placed| placed.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/", "/proc", "/real", "/plain", "/plain/share"], "links are followed");
    assert_eq!(root.left_out(), [Path::new("/nowhere/at/all")]);
    assert_eq!(placed[1].filesystem, Some("proc"));
    assert!(placed[3].flags.contains(MountFlags::NOEXEC) && !placed[2].flags.contains(MountFlags::NOEXEC));
    assert!(placed[0].recursive && !placed[4].recursive && placed.iter().all(|placed| !placed.follows));
    assert_eq!(root.hidden().count(), 0);
    assert!(root.read_only().any(|path| path == Path::new("/proc/none")));
    in_view(&root, || {
        for placed in &placed {
            let has = options(placed.path.to_str().unwrap());
            for flag in placed.flags.iter_names().map(|(_, flag)| flag.to_string()) {
                assert!(has.contains(&flag), "{}: {flag}: {has:?}", placed.path.display());
            }
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(table.lines().count(), placed.len(), "{table}");
    });
}

#[test]
fn items_of_an_empty_root() {
    need_userns!();
    let root = Root::empty()
        .mount(Directory::new("/deep/er").mode(0o1770))
        .mount(File::new("/etc/motd", "hello\n").mode(0o4750).owner(INSIDE, INSIDE))
        .mount(Symlink::new("../etc/motd", "/deep/link"))
        .mount(
            Tmpfs::new("/t").size(8192).inodes(7).mode(0o750).owner(INSIDE, INSIDE).with(MountFlags::NOEXEC),
        )
        .mount(Tmpfs::new("/sealed").mode(0o755).sealed())
        .mount(File::new("/sealed/inside", ""))
        .mount(Proc::new("/proc").hidepid(HidePid::Invisible).only_pids())
        .mount(Sysfs::new("/sys"))
        .mount(Mqueue::new("/mq"))
        .mount(Devpts::new("/pts").mode(0o600).gid(INSIDE).max(3))
        .bind("/usr/lib/os-release", "/deep/release")
        .mount(Bind::new("/nowhere/at/all", "/optional").optional())
        .prepare()
        .unwrap();
    in_view(&root, || {
        assert_eq!(names("/"), ["deep", "etc", "mq", "proc", "pts", "sealed", "sys", "t"]);
        assert_eq!((mode("/deep"), mode("/deep/er")), (0o755, 0o1770));
        assert_eq!((mode("/etc/motd"), mode("/t")), (0o4750, 0o750));
        assert_eq!(fs::read_to_string("/deep/link").unwrap(), "hello\n");
        let has = |path, wanted: &[&str]| {
            let found = options(path);
            wanted
                .iter()
                .for_each(|option| assert!(found.contains(*option), "{path}: {option} in {found:?}"));
        };
        has("/", &["ro", "nosuid", "nodev"]);
        has("/t", &["rw", "nosuid", "nodev", "noexec", "size=8k", "nr_inodes=7"]);
        has("/proc", &["nosuid", "nodev", "noexec", "hidepid=invisible", "subset=pid"]);
        has("/sys", &["ro", "nosuid", "nodev", "noexec"]);
        has("/pts", &["nosuid", "noexec", "mode=600", "ptmxmode=666", "max=3"]);
        assert!(!Path::new("/proc/meminfo").exists() && Path::new("/proc/1/status").exists());
        assert_eq!(errno(fs::write("/sealed/more", "")), libc::EROFS);
        assert!(fs::read_to_string("/deep/release").unwrap().contains("NAME="));
        assert_eq!(names("/sys/class/net"), ["lo"]);
    });
}

#[test]
fn a_directory_as_root() {
    need_userns!();
    let dir = temp_dir();
    fs::create_dir_all(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/hosts"), "theirs").unwrap();
    let root = Root::dir(dir.path()).mount(File::new("/etc/hosts", "ours"));
    in_view(&root.prepare().unwrap(), || {
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "ours");
        assert_eq!(errno(fs::write("/new", "")), libc::EROFS);
        assert_eq!(errno(fs::write("/etc/hosts", "")), libc::EROFS);
    });
    in_view(&root.clone().writable().prepare().unwrap(), || {
        fs::write("/new", "").unwrap();
        assert_eq!(errno(fs::write("/etc/hosts", "")), libc::EROFS);
    });
    assert_eq!(fs::read_to_string(dir.path().join("etc/hosts")).unwrap(), "theirs");
    assert!(dir.path().join("new").exists());
    // As distributions have it: a file and a directory behind links.
    fs::create_dir_all(dir.path().join("run/lock")).unwrap();
    fs::create_dir(dir.path().join("var")).unwrap();
    fs::write(dir.path().join("run/resolv.conf"), "theirs").unwrap();
    symlink("../run/resolv.conf", dir.path().join("etc/resolv.conf")).unwrap();
    symlink("/run", dir.path().join("var/run")).unwrap();
    let linked = root.clone().mount(File::new("/etc/resolv.conf", "ours")).tmpfs("/var/run/lock");
    in_view(&linked.prepare().unwrap(), || {
        assert_eq!(fs::read_to_string("/run/resolv.conf").unwrap(), "ours");
        fs::write("/run/lock/mine", "").unwrap();
    });
    // Mount points are not made in somebody's directory.
    let missing = root.clone().mount(Tmpfs::new("/missing"));
    let prepared = missing.prepare().unwrap();
    in_child(|| {
        unshare_all();
        in_child(|| {
            let program = prepared.program();
            let fault = sys::run(&mut program.image()).unwrap_err();
            let error = prepared.explain(&program, fault);
            assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(Path::new("/missing"))));
            assert!(error.to_string().contains("overlay"), "{error}");
        });
    });
    assert!(!dir.path().join("missing").exists());
    for item in [Mount::from(Directory::new("/d")), Symlink::new("x", "/s").into()] {
        assert_eq!(root.clone().mount(item).prepare().unwrap_err().kind(), ErrorKind::Conflict);
    }
}

/// Layers under names that break strings of options: commas, colons, backslashes, spaces, quotes, line ends.
#[test]
fn an_overlay_of_layers_with_any_names() {
    need_userns!();
    let dir = temp_dir();
    let names_of_layers = ["a,b:c\\d", " ", "line\nend", "\u{1f600}'\"\\:,"];
    for (n, name) in names_of_layers.iter().enumerate() {
        let layer = dir.path().join(name);
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/who"), name).unwrap();
        fs::write(layer.join(format!("only-{n}")), "").unwrap();
    }
    let mut layers = Layers::new(dir.path().join(names_of_layers[0]));
    for name in &names_of_layers[1..] {
        layers = layers.lower(dir.path().join(name));
    }
    // Read-only, as the root, and somewhere in a view.
    for (root, at) in [
        (Root::overlay(layers.clone()), ""),
        (Root::empty().mount(Overlay::new("/deep/overlay", layers.clone())), "/deep/overlay"),
    ] {
        in_view(&root.prepare().unwrap(), || {
            assert_eq!(fs::read_to_string(format!("{at}/etc/who")).unwrap(), names_of_layers[0]);
            assert_eq!(names(format!("{at}/")), ["etc", "only-0", "only-1", "only-2", "only-3"]);
            assert_eq!(errno(fs::write(format!("{at}/new"), "")), libc::EROFS);
        });
    }
    // Changes in memory; mount points are made.
    let root = Root::overlay(layers.upper_in_memory(1 << 20, 64))
        .mount(Proc::new("/proc"))
        .mount(Tmpfs::new("/made/by/us"))
        .mount(Symlink::new("who", "/etc/link"))
        .mount(Directory::new("/srv"))
        .mount(File::new("/etc/who", "ours"))
        .prepare()
        .unwrap();
    in_view(&root, || {
        assert_eq!(fs::read_to_string("/etc/link").unwrap(), "ours");
        fs::remove_file("/only-2").unwrap();
        fs::remove_dir_all("/srv").unwrap();
        fs::write("/made/by/us/file", "").unwrap();
        assert_eq!(errno(fs::write("/big", vec![1; 2 << 20])), libc::ENOSPC);
        assert!(options("/").contains("userxattr"));
        // A directory of a lower layer, replaced: needs the attributes.
        fs::create_dir("/new").unwrap();
    });
    assert_eq!(names(dir.path().join(names_of_layers[2])), ["etc", "only-2"]);
}

#[test]
fn changes_of_an_overlay_can_be_kept_on_disk() {
    need_userns!();
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper,layer"));
    for path in [lower.join("sub"), upper.join("upper"), upper.join("work")] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(lower.join("sub/file"), "old").unwrap();
    let root = Root::overlay(Layers::new(&lower).upper(&upper)).prepare().unwrap();
    in_view(&root, || {
        fs::write("/sub/file", "new").unwrap();
        fs::write("/more", "").unwrap();
    });
    in_view(&root, || assert_eq!(fs::read_to_string("/sub/file").unwrap(), "new"));
    assert_eq!(fs::read_to_string(lower.join("sub/file")).unwrap(), "old");
    assert_eq!(names(upper.join("upper")), ["more", "sub"]);
    // The kernel's own directory in it is closed even to its owner, who has to remove it.
    fs::set_permissions(upper.join("work/work"), fs::Permissions::from_mode(0o700)).unwrap();
    let wrong = Root::overlay(Layers::new(&lower).upper(&lower)).prepare().unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::NotFound, "{wrong}");
}

#[test]
fn an_overlay_of_hundreds_of_layers() {
    need_userns!();
    let dir = temp_dir();
    let layer = |n: usize| dir.path().join(format!("layer-{n}"));
    for n in 0..500 {
        fs::create_dir(layer(n)).unwrap();
        fs::write(layer(n).join(n.to_string()), "").unwrap();
        fs::write(layer(n).join("top"), n.to_string()).unwrap();
    }
    // More than fit into one option take one option each: since Linux 6.7.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let one_by_one = (numbers.next(), numbers.next()) >= (Some(6), Some(7));
    for count in [60, 90, 300, 500] {
        let layers = (1..count).fold(Layers::new(layer(0)), |layers, n| layers.lower(layer(n)));
        let root = Root::overlay(layers.upper_in_memory(1 << 16, 16));
        if count > 100 && !one_by_one {
            fails(&root, |error| {
                assert!(error.call.starts_with("fsconfig(") && error.errno == libc::EINVAL, "{error}");
            });
            continue;
        }
        let root = root.prepare().unwrap();
        in_view(&root, || {
            assert_eq!(names("/").len(), count + 1);
            assert_eq!(fs::read_to_string("/top").unwrap(), "0");
        });
    }
    let layers = (0..501).fold(Layers::new(layer(0)), |layers, _| layers.lower(layer(1)));
    assert_eq!(Root::overlay(layers).prepare().unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn an_id_mapped_bind_stores_other_owners() {
    if !is_root() {
        skip!("id-mapped mounts of the host's file systems", needs = "root");
    }
    const STORED: u32 = 4321;
    let dir = temp_dir();
    fs::write(dir.path().join("file"), "").unwrap();
    for path in [dir.path().to_owned(), dir.path().join("file")] {
        std::os::unix::fs::chown(path, Some(STORED), Some(STORED)).unwrap();
    }
    // On disk 4321; to the host, through this mount, 0; in the view, which maps that, 1000.
    let userns = sys::userns_mapping(STORED, 0, 1);
    let root = Root::empty()
        .mount(Bind::new(dir.path(), "/mapped").id_mapped(userns))
        .bind(dir.path(), "/plain")
        .prepare()
        .unwrap();
    in_split_view(&root, || {
        assert_eq!(fs::metadata("/mapped/file").unwrap().uid(), INSIDE);
        assert_eq!(fs::metadata("/plain/file").unwrap().uid(), 65534);
        fs::write("/mapped/new", "").unwrap();
        assert_eq!(errno(fs::write("/plain/other", "")), libc::EACCES);
    });
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().uid(), STORED);
}

#[test]
fn propagation_of_the_root_and_of_binds() {
    if !is_root() {
        skip!("a shared mount of the host is made in a namespace of root's", needs = "root");
    }
    let source = temp_dir();
    fs::create_dir(source.path().join("inner")).unwrap();
    let root = Root::empty()
        .mount(Proc::new("/proc"))
        .mount(Bind::new(source.path(), "/slave").propagation(Propagation::Slave))
        .mount(Bind::new(source.path(), "/private"))
        .mount(Bind::new(source.path(), "/own").propagation(Propagation::Unbindable))
        .propagation(Propagation::Slave)
        .prepare()
        .unwrap();
    let tags = |point: &str| {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(point)).unwrap().to_owned();
        let tags = line.split(' ').skip(6).take_while(|tag| *tag != "-");
        tags.map(|tag| tag.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for split in [false, true] {
        in_child(|| {
            sys::unshare(libc::CLONE_NEWNS).unwrap();
            sys::propagation("/", libc::MS_REC | libc::MS_SHARED).unwrap();
            let body = || {
                assert_eq!(tags("/slave"), ["master"]);
                assert_eq!(tags("/private"), [""; 0]);
                if !split {
                    assert_eq!(tags("/"), [""; 0]);
                }
            };
            if split { in_split_view(&root, body) } else { in_view(&root, body) }
        });
    }
}

#[test]
fn masks_hide_and_protect() {
    need_userns!();
    let root = Root::empty()
        .bind_ro("/usr", "/usr")
        .mount(Dev::new("/dev"))
        .mount(Proc::new("/proc"))
        .mount(File::new("/etc/secret", "x"))
        .mount(Tmpfs::new("/data"))
        .masks(Masks::docker().hide("/etc/secret").hide("/usr/share").hide("/missing").read_only("/data"))
        .prepare()
        .unwrap();
    in_view(&root, || {
        for path in ["/proc/timer_list", "/proc/keys", "/proc/interrupts", "/etc/secret"] {
            if Path::new(path).exists() {
                assert_eq!(fs::read(path).unwrap(), b"", "{path}");
            }
        }
        for path in ["/proc/acpi", "/proc/scsi", "/usr/share"] {
            if Path::new(path).exists() {
                assert_eq!(names(path), [""; 0], "{path}");
                assert_eq!(errno(fs::write(format!("{path}/file"), "")), libc::EROFS);
            }
        }
        // A81: writes to the kernel's switches.
        let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
        for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"] {
            if !Path::new(path).exists() {
                continue;
            }
            let refused = errno(fs::OpenOptions::new().write(true).open(path));
            assert!([libc::EROFS, libc::EACCES].contains(&refused), "{path}: {refused}");
        }
        assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
        assert_eq!(errno(fs::write("/data/file", "")), libc::EROFS);
    });
}

/// What stands at a path of somebody else's directory is found out when it is masked, and each kind is covered, whichever
/// comes first.
#[test]
fn masks_of_what_is_not_known_before() {
    need_userns!();
    let dir = temp_dir();
    for sub in ["dev", "proc", "etc/one", "etc/two", "etc/closed"] {
        fs::create_dir_all(dir.path().join(sub)).unwrap();
    }
    for file in ["etc/one/secret", "etc/two/secret", "etc/closed/secret", "etc/file"] {
        fs::write(dir.path().join(file), "x").unwrap();
    }
    fs::set_permissions(dir.path().join("etc/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let hidden = ["/etc/missing", "/etc/file", "/etc/one", "/etc/two", "/etc/closed", "/proc/version"];
    for first in 0..hidden.len() {
        let mut order = hidden;
        order.rotate_left(first);
        let masks = order.into_iter().fold(Masks::none(), Masks::hide);
        let root = Root::dir(dir.path()).mount(Dev::new("/dev")).mount(Proc::new("/proc")).masks(masks);
        let root = root.prepare().unwrap();
        in_view(&root, || {
            let devices = ["/etc/one", "/etc/two", "/etc/closed"].map(|path| {
                assert_eq!(names(path), [""; 0], "{path}");
                assert_eq!(errno(fs::write(format!("{path}/file"), "")), libc::EROFS);
                fs::metadata(path).unwrap().dev()
            });
            assert!(devices.iter().all(|device| *device == devices[0]), "one file system covers all");
            assert_eq!(fs::read("/etc/file").unwrap(), b"");
            for path in ["/etc/file", "/proc/version"] {
                let options = options(path);
                assert!(
                    ["ro", "nosuid", "noexec"].iter().all(|option| options.contains(*option)),
                    "{options:?}"
                );
            }
        });
    }
    fs::set_permissions(dir.path().join("etc/closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the kernel's own file systems have is known before: what is there takes few calls, what is not just one. No mask
/// is made that may be left over: to close a mount that was never attached is slow.
#[test]
fn masks_of_what_is_known_before() {
    let lines = |masks: Masks| -> Vec<String> {
        let root = Root::empty().mount(Dev::new("/dev")).mount(Proc::new("/proc")).masks(masks);
        let text = root.prepare().unwrap().masks().to_string();
        text.lines().filter(|line| line.starts_with("    ")).map(|line| line.trim().to_owned()).collect()
    };
    let calls = |lines: &[String]| -> Vec<String> {
        let name = |line: &String| line.split('(').next().unwrap_or_default().to_owned();
        lines.iter().filter(|line| !line.starts_with("arena[")).map(name).collect()
    };
    let file = calls(&lines(Masks::none().hide("/proc/version")));
    assert_eq!(file, ["openat2", "statx", "openat2", "open_tree", "move_mount", "close", "close", "close"]);
    let with_directory = lines(Masks::none().hide("/proc/version").hide("/proc/sys"));
    let covered = with_directory.iter().position(|line| line.contains("\"/proc/sys\"")).unwrap();
    assert_eq!(calls(&with_directory[covered..])[..3], ["openat2", "move_mount", "close"], "it comes first");
    let absent = lines(Masks::none().hide("/proc/no-such-file"));
    let jump = absent.iter().position(|line| line.contains("no-such-file")).unwrap();
    assert!(absent[jump].contains("[ENOENT: go on at"), "{absent:?}");
    assert!(!absent[..jump].iter().any(|line| line.starts_with("fsopen")), "{absent:?}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let kinds = |root: Root| root.prepare().map(|_| ()).map_err(|error| error.kind());
    let dir = temp_dir();
    fs::write(dir.path().join("file"), "").unwrap();
    let file = dir.path().join("file");
    use ErrorKind::*;
    for (root, kind) in [
        (Root::empty().tmpfs("relative"), InvalidPath),
        (Root::empty().tmpfs("/a/../b"), InvalidPath),
        (Root::empty().tmpfs("/a\0b"), InvalidPath),
        (Root::empty().tmpfs("/"), Conflict),
        (Root::empty().tmpfs("/./"), Conflict),
        (Root::empty().tmpfs("/".to_owned() + &"x".repeat(5000)), InvalidPath),
        (Root::empty().bind("/nowhere", "/x"), NotFound),
        (Root::dir("/nowhere"), NotFound),
        (Root::dir(&file), WrongType),
        (Root::empty().bind("/proc/self/root/usr", "/x"), System),
        (Root::empty().bind(&file, "/f").tmpfs("/f/below"), Conflict),
        (Root::empty().bind(&file, "/f").tmpfs("/f"), Conflict),
        (Root::empty().tmpfs("/t").mount(File::new("/t", "")), Conflict),
        (Root::empty().mount(File::new("/f", "")).mount(File::new("/f", "")), Conflict),
        (Root::empty().mount(Directory::new("/f/g")).mount(File::new("/f", "")), Conflict),
        (Root::empty().mount(File::new("/f", "")).mount(Directory::new("/f/g")), Conflict),
        (Root::empty().mount(Dev::new("/dev").device(&file)), WrongType),
        (Root::overlay(Layers::new(dir.path())), Conflict),
        (Root::from(HostView::new().user_name("a:b")), InvalidValue),
        (Root::from(HostView::new().home("/a:b")), InvalidPath),
        (Root::empty().masks(Masks::none().hide("relative")), InvalidPath),
    ] {
        assert_eq!(kinds(root.clone()), Err(kind), "{root:?}");
    }
}

/// Later items cover earlier ones, as mounts do.
#[test]
fn call_order_is_kept() {
    need_userns!();
    let dir = temp_dir();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/theirs"), "").unwrap();
    symlink("sub", dir.path().join("link")).unwrap();
    let root = Root::empty()
        .tmpfs("/a/b")
        .mount(File::new("/a/b/hidden", ""))
        .bind(dir.path(), "/a")
        .tmpfs("/a/sub")
        .mount(File::new("/a/sub/ours", ""))
        .tmpfs("/c")
        .tmpfs("/c")
        .mount(File::new("/c/top", ""))
        .prepare()
        .unwrap();
    in_view(&root, || {
        assert_eq!(names("/a"), ["link", "sub"]);
        assert_eq!(names("/a/link"), ["ours"]);
        assert_eq!(names("/c"), ["top"]);
    });
    assert_eq!(names(dir.path().join("sub")), ["theirs"]);
}
