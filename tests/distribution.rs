//! Roots of somebody else's making: a Debian by mmdebstrap, a busybox, as root and as an ordinary user.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use palisade::creds::{Capability, CapabilitySet, Gid, IdMap, IdRange, Maps, Uid};
use palisade::fsroot::{Image, Ownership, Unpack};
use palisade::secfilter::presets;
use palisade::{Sandbox, SandboxBuilder, Stdio};
use palisade_testkit::{Snapshot, is_root, skip, temp_dir};

fn says(builder: SandboxBuilder, script: &str) -> String {
    let sandbox = match builder.build() {
        Ok(sandbox) => sandbox,
        Err(error) => panic!("{error}"),
    };
    let out = sandbox.command("/bin/sh").arg("-c").arg(script).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A Debian with apt and Python as an archive, which `./check tools` makes from the packages that this machine can
/// have: by root, or by an ordinary user in a user namespace.
fn archive(maker: &str) -> Option<PathBuf> {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("debian-{maker}.tar"));
    archive.exists().then_some(archive)
}

/// What `dpkg` and `chown` of the payload's root need.
fn capabilities() -> CapabilitySet {
    use Capability::{Chown, DacOverride, Fowner, Fsetid, Setfcap, Setgid, Setuid};
    [Setuid, Setgid, Chown, DacOverride, Fowner, Fsetid, Setfcap].into_iter().collect()
}

/// A directory that a sandbox with a range of ids filled, and that only such a one can empty again.
struct Ranged<'a> {
    maps: &'a Maps,
    root: &'a Path,
}

impl Ranged<'_> {
    /// Runs `the_function` as root of the range, over the directory.
    fn run(&self, job: &str, stdin: Stdio) {
        // The default filter lets nobody set the bits that the image has.
        let builder = Sandbox::builder().id_maps(self.maps.clone()).seccomp(presets::payload());
        let sandbox = builder.capabilities(capabilities()).bind(self.root, "/mnt").build().unwrap();
        let out = sandbox.function("the_function").arg(job).stdin(stdin).output().unwrap();
        // The harness tells of a panic in its output.
        let done = out.status.success() || std::thread::panicking();
        assert!(done, "{job}: {}: {}", out.status, String::from_utf8_lossy(&out.stdout));
    }
}

impl Drop for Ranged<'_> {
    fn drop(&mut self) {
        self.run("remove", Stdio::null());
    }
}

/// The harness takes what follows the function's name for names of tests: so this one, named as the function, runs in
/// the sandboxed copy, and gives over to it.
#[test]
fn the_function() {
    palisade::dispatch(&[("the_function", inside)]);
}

fn inside(arguments: &[OsString]) -> i32 {
    match arguments.first().and_then(|job| job.to_str()) {
        Some("unpack") => {
            let unpack = Unpack::new().ownership(Ownership::Archive).keep_privileges();
            unpack.tar(std::io::stdin().lock(), "/mnt").unwrap();
        }
        Some("remove") => {
            for entry in fs::read_dir("/mnt").unwrap() {
                let entry = entry.unwrap();
                let all = entry.file_type().unwrap().is_dir();
                if all { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }.unwrap();
            }
        }
        job => panic!("{job:?}"),
    }
    0
}

/// All ids of the image, each one of its own: owners, set-user-ID bits and all.
fn with_a_range_of_ids(maker: &str) {
    let Some(archive) = archive(maker) else {
        skip!("no archive of a Debian made by {maker}: ./check tools makes it", needs = "debian")
    };
    let dir = temp_dir();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let maps;
    let mut ranged = None;
    if is_root() {
        let range = || IdMap::new([IdRange::new(0, 300_000, 65_536).unwrap()]).unwrap();
        maps = Maps::new(range(), range());
        let unpack = Unpack::new().ownership(Ownership::Shifted(300_000)).keep_privileges();
        let done = Image::open(&archive).unwrap().unpack(&root, &unpack).unwrap();
        assert_eq!((done.privileges_dropped, done.devices_skipped > 0), (0, true), "{done:?}");
    } else {
        maps = match Maps::rootless() {
            Ok(maps) => maps,
            Err(error) => skip!("no ids are delegated to this user: {error}", needs = "idmap-range"),
        };
        // The owners are ids of the range, so who unpacks is root there.
        let filled = ranged.insert(Ranged { maps: &maps, root: &root });
        filled.run("unpack", fs::File::open(&archive).unwrap().into());
    }
    // Threads and files in memory are made by the first spawns and kept.
    says(Sandbox::builder(), "true");
    let before = Snapshot::take();
    let builder = Sandbox::builder().rootfs(&root).id_maps(maps.clone()).capabilities(capabilities());
    is_a_debian(&builder);
    let says = |script: &str| says(builder.clone(), script);
    let ids = says(
        "cd /; ls -dn etc/passwd etc/shadow var/local var/mail var/lib/apt/lists/partial | awk '{print $1,$3,$4,$9}'",
    );
    assert_eq!(
        ids,
        "-rw-r--r-- 0 0 etc/passwd\n-rw-r----- 0 42 etc/shadow\ndrwx------ 42 0 var/lib/apt/lists/partial\n\
         drwxrwsr-x 0 50 var/local\ndrwxrwsr-x 0 8 var/mail\n"
    );
    let names = says("stat -c '%a %U:%G' /etc/shadow /usr/bin/su /usr/bin/chage /var/lib/apt/lists/partial");
    assert_eq!(names, "640 root:shadow\n4755 root:root\n2755 root:shadow\n700 _apt:root\n");
    assert_eq!(says("touch /tmp/f; chown daemon:games /tmp/f; stat -c %U:%G /tmp/f"), "daemon:games\n");
    // For a user of the image, the bits that were kept change nothing.
    let user = Sandbox::builder().rootfs(&root).id_maps(maps.clone()).user(33, 33);
    let plain = "id -un; cat /etc/shadow 2>/dev/null || echo closed; su -c true root 2>/dev/null || echo refused; \
                 python3 -c 'import os; print(os.getresuid())'";
    assert_eq!(self::says(user, plain), "www-data\nclosed\nrefused\n(33, 33, 33)\n");
    before.assert_unchanged();
}

/// One id for everybody: all files are root's, who is the caller or whom root of the host chose.
fn with_one_id(maker: &str) {
    let Some(archive) = archive(maker) else {
        skip!("no archive of a Debian made by {maker}: ./check tools makes it", needs = "debian")
    };
    let dir = temp_dir();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    // Threads and files in memory are made by the first spawns and kept.
    says(Sandbox::builder(), "true");
    let before = Snapshot::take();
    let unpack = Unpack::new().ownership(Ownership::Caller);
    let done = Image::open(&archive).unwrap().unpack(&root, &unpack).unwrap();
    assert!(done.privileges_dropped >= 9, "{done:?}");
    let builder = Sandbox::builder().rootfs(&root).capabilities(capabilities());
    let builder = if is_root() {
        // On disk they are the host's root's; in the sandbox, those of an id that nobody has.
        let uid = IdMap::single(Uid::ROOT, Uid::new(300_000).unwrap());
        let gid = IdMap::single(Gid::ROOT, Gid::new(300_000).unwrap());
        builder.id_maps(Maps::new(uid, gid)).id_mapped_root(true)
    } else {
        builder.user(0, 0)
    };
    is_a_debian(&builder);
    let says = |script: &str| says(builder.clone(), script);
    let ids = says(
        "cd /; ls -dn etc/shadow var/local var/mail var/lib/apt/lists/partial | awk '{print $1,$3,$4,$9}'",
    );
    assert_eq!(
        ids,
        "-rw-r----- 0 0 etc/shadow\ndrwx------ 0 0 var/lib/apt/lists/partial\ndrwxrwsr-x 0 0 var/local\n\
         drwxrwsr-x 0 0 var/mail\n"
    );
    // Set-user-ID bits are left out of what was unpacked, and would have no effect.
    assert_eq!(says("stat -c '%a %U:%G' /usr/bin/su /usr/bin/chage"), "755 root:root\n755 root:root\n");
    let chown = "touch /tmp/f; chown daemon:games /tmp/f 2>/dev/null || echo 'no such id'";
    assert_eq!(says(chown), "no such id\n");
    before.assert_unchanged();
    // What the caller made it can remove: nothing in it is anybody else's.
    fs::remove_dir_all(root).unwrap();
}

/// What holds whosever the files are.
fn is_a_debian(builder: &SandboxBuilder) {
    let says = |script: &str| says(builder.clone(), script);
    let version = says(". /etc/os-release; echo $ID; test -s /etc/debian_version && id -un; echo $$");
    assert_eq!(version, "debian\nroot\n1\n");
    // Every file of every package has the contents that it was built with.
    assert_eq!(says("dpkg --verify && dpkg-query -W -f '${Status}\\n' | sort -u"), "install ok installed\n");
    let users = says("for u in root daemon _apt nobody; do getent passwd $u | cut -d: -f1,3,4; done");
    assert_eq!(users, "root:0:0\ndaemon:1:1\n_apt:42:65534\nnobody:65534:65534\n");
    let modes = says("stat -c '%a %n' /root /etc/passwd /etc/shadow /tmp /var/tmp /usr/bin/env /var/mail");
    assert_eq!(
        modes,
        "700 /root\n644 /etc/passwd\n640 /etc/shadow\n1777 /tmp\n1777 /var/tmp\n755 /usr/bin/env\n2775 /var/mail\n"
    );
    let python = "import os, pwd; print(6 * 7, pwd.getpwuid(os.getuid()).pw_name)";
    assert_eq!(says(&format!("python3 -c '{python}'")), "42 root\n");
    assert_eq!(says("perl -e 'print 6*7'"), "42");
    assert_eq!(
        says("apt-get --version | head -n 1 | cut -d' ' -f1; apt-mark showmanual | grep -cx apt"),
        "apt\n1\n"
    );
    assert_eq!(says("(: >/etc/new) 2>/dev/null || echo read-only"), "read-only\n");
}

#[test]
fn a_debian_made_by_root_with_a_range_of_ids() {
    with_a_range_of_ids("root");
}

#[test]
fn a_debian_made_by_root_with_one_id() {
    with_one_id("root");
}

#[test]
fn a_debian_made_rootless_with_a_range_of_ids() {
    with_a_range_of_ids("rootless");
}

#[test]
fn a_debian_made_rootless_with_one_id() {
    with_one_id("rootless");
}

/// A busybox that is all of a root: its own passwd, every applet, no library.
#[test]
fn a_busybox_root_is_enough() {
    let Some(busybox) =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists())
    else {
        skip!("busybox-static is not installed", needs = "tool");
    };
    let dir = temp_dir();
    let root = dir.path();
    for sub in ["bin", "proc", "dev", "tmp", "etc", "sys"] {
        fs::create_dir(root.join(sub)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "id", "ps", "stat", "ls", "cat", "mount", "wc", "chown"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nwww:x:33:33::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwww:x:33:\n").unwrap();
    let builder = Sandbox::builder().rootfs(root);
    let who = says(builder.clone().user(33, 33), "id -un; id -gn; stat -c %a:%U /bin/busybox");
    // Root of a range, where there is one: the file's owner on disk is nobody that the range knows, or its root.
    let range = || IdMap::new([IdRange::new(0, 300_000, 65_536).unwrap()]).unwrap();
    if let Some(maps) = if is_root() { Some(Maps::new(range(), range())) } else { Maps::rootless().ok() } {
        let builder = builder.clone().id_maps(maps).capabilities(capabilities());
        let text =
            says(builder, "id -un; : >/tmp/f; chown www /tmp/f; stat -c %U /tmp/f; stat -c %u /bin/busybox");
        assert_eq!(text, format!("root\nwww\n{}\n", if is_root() { 65534 } else { 0 }));
    }
    // An ordinary user stands for its own files; root's payload is somebody else.
    let owner = if is_root() { "UNKNOWN" } else { "www" };
    assert_eq!(who, format!("www\nwww\n755:{owner}\n"));
    assert_eq!(says(builder.clone(), "ps -o pid,comm | wc -l; echo $PPID"), "4\n0\n");
    let hidden = says(builder, "cat /proc/keys /proc/timer_list; ls /proc/acpi 2>/dev/null; echo none");
    assert_eq!(hidden, "none\n", "the kernel's own files are masked in any root");
}
