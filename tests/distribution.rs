//! Roots of somebody else's making: a Debian by mmdebstrap, a busybox, as root and as an ordinary user.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use palisade::creds::{Capability, CapabilitySet, IdMap, IdRange, Maps};
use palisade::fsroot::{Image, Ownership, Unpack};
use palisade::{Sandbox, SandboxBuilder};
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

/// A minimal Debian as an archive, which `./check tools` makes from the packages that this machine can have.
fn debian() -> Option<PathBuf> {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian.tar");
    archive.exists().then_some(archive)
}

/// All of an image's owners, as root of a range of ids: users, modes and package files are what the distribution says.
#[test]
fn a_debian_root_is_a_debian() {
    let Some(archive) = debian() else {
        skip!("no target/tmp/debian.tar: ./check tools makes it", needs = "debian")
    };
    let dir = temp_dir();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    // Threads and the stage's file are made by the first spawn and kept.
    says(Sandbox::builder(), "true");
    let before = Snapshot::take();
    let caps: CapabilitySet =
        [Capability::Setuid, Capability::Setgid, Capability::Chown, Capability::DacOverride]
            .into_iter()
            .collect();
    let builder = if is_root() {
        // As the archive has them, each a number of the range.
        let unpack = Unpack::new().ownership(Ownership::Shifted(300_000));
        Image::open(&archive).unwrap().unpack(&root, &unpack).unwrap();
        let range = || IdMap::new([IdRange::new(0, 300_000, 65_536).unwrap()]).unwrap();
        Sandbox::builder().rootfs(&root).id_maps(Maps::new(range(), range())).capabilities(caps)
    } else {
        // All of them are the caller's, who is root inside.
        Image::open(&archive).unwrap().unpack(&root, &Unpack::new().ownership(Ownership::Caller)).unwrap();
        Sandbox::builder().rootfs(&root).user(0, 0).capabilities(caps)
    };
    let says = |script: &str| says(builder.clone(), script);
    let version = says(". /etc/os-release; echo $ID; test -s /etc/debian_version && id -un; echo $$");
    assert_eq!(version, "debian\nroot\n1\n");
    // Every file of every package has the contents that it was built with.
    assert_eq!(says("dpkg --verify && dpkg-query -W -f '${Status}\\n' | sort -u"), "install ok installed\n");
    let users = says("for u in root daemon nobody; do getent passwd $u | cut -d: -f1,3,4; done");
    assert_eq!(users, "root:0:0\ndaemon:1:1\nnobody:65534:65534\n");
    let modes = says("stat -c '%a %n' /root /etc/passwd /tmp /usr/bin/env");
    assert_eq!(modes, "700 /root\n644 /etc/passwd\n1777 /tmp\n755 /usr/bin/env\n");
    // Set-user-ID bits are left out of what was unpacked, and would have no effect.
    assert_eq!(says("stat -c %a /usr/bin/su"), "755\n");
    if is_root() {
        assert_eq!(says("stat -c %u:%g /var/local /etc/passwd"), "0:50\n0:0\n");
        assert_eq!(says("touch /tmp/f; chown daemon:games /tmp/f; stat -c %U:%G /tmp/f"), "daemon:games\n");
    }
    assert_eq!(says("command -v python3 >/dev/null && python3 -c 'print(6*7)' || echo 42"), "42\n");
    assert_eq!(says("perl -e 'print 6*7'"), "42");
    assert_eq!(says("(: >/etc/new) 2>/dev/null || echo read-only"), "read-only\n");
    before.assert_unchanged();
    if is_root() {
        return;
    }
    // What the ordinary user made it can remove: nothing in it is anybody else's.
    fs::remove_dir_all(root).unwrap();
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
    for applet in ["sh", "id", "ps", "stat", "ls", "cat", "mount", "wc"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nwww:x:33:33::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwww:x:33:\n").unwrap();
    let builder = Sandbox::builder().rootfs(root);
    let who = says(builder.clone().user(33, 33), "id -un; id -gn; stat -c %a:%U /bin/busybox");
    // An ordinary user stands for its own files; root's payload is somebody else.
    let owner = if is_root() { "UNKNOWN" } else { "www" };
    assert_eq!(who, format!("www\nwww\n755:{owner}\n"));
    assert_eq!(says(builder.clone(), "ps -o pid,comm | wc -l; echo $PPID"), "4\n0\n");
    let hidden = says(builder, "cat /proc/keys /proc/timer_list; ls /proc/acpi 2>/dev/null; echo none");
    assert_eq!(hidden, "none\n", "the kernel's own files are masked in any root");
}
