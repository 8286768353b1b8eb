//! What a payload tries against its view and its host, through the whole engine: one test for each attack that no crate's
//! own tests have. A01 to A32 beside these: fsroot/tests/attacks.rs, tests/view.rs, tests/view_lock.rs, tests/command.rs.
#![expect(clippy::unwrap_used, reason = "tests")]

use palisade::creds::{Capability, CapabilitySet};
use palisade::secfilter::{Action, Install, Policy, Rule};
use palisade::{ErrorKind, Sandbox, SandboxBuilder, Stdio, Step};
use palisade_testkit::{in_child, is_root, skip};

fn says(builder: SandboxBuilder, program: &str, script: &str) -> String {
    let out = builder.build().unwrap().command(program).arg("-c").arg(script).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// No filter, so that the kernel's own answer is seen.
fn unfiltered() -> SandboxBuilder {
    Sandbox::builder().dangerously_unfiltered()
}

/// A07: a fresh procfs would show what the masks hide. Neither with the payload's own rights nor with those of a user
/// namespace that it makes.
#[test]
fn a07_a23_no_fresh_proc_is_to_be_had() {
    let script = "exec 2>/dev/null
        mount -t proc proc /tmp && echo mounted
        unshare -Ur mount -t proc proc /tmp && echo in a user namespace
        unshare -Urmpf mount -t proc proc /tmp && echo with pids of its own
        unshare -Urmpf mount -t proc -o subset=pid proc /tmp && echo subset
        unshare -Urmn mount -t sysfs sysfs /tmp && echo sysfs
        unshare -Urm umount /proc/keys && echo unmasked
        unshare -Urm mount -o remount,bind,rw /usr && echo writable
        unshare -Urm sh -c 'mount -t tmpfs none /tmp && echo only what is harmless'
        true";
    // Its own sysfs of its own network shows nothing of the host but what every sysfs does; the view has none.
    let text = says(unfiltered(), "/bin/sh", script);
    let seen: Vec<&str> = text.lines().filter(|line| *line != "sysfs").collect();
    assert_eq!(seen, ["only what is harmless"], "{text}");
}

/// A27: opening files of the host by number, the way out of a view that only needs CAP_DAC_READ_SEARCH of the host.
#[test]
fn a27_files_are_not_opened_by_handle() {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        skip!("python3 is not in the host's /usr", needs = "tool");
    }
    let script = r#"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
handle = ctypes.create_string_buffer(b'\x80\0\0\0' + b'\0' * 140)
mount = ctypes.c_int()
named = libc.name_to_handle_at(-100, b'/usr', handle, ctypes.byref(mount), 0)
directory = os.open('/usr', os.O_RDONLY)
opened = libc.open_by_handle_at(directory, handle, os.O_RDONLY)
print(named, opened, ctypes.get_errno())
"#;
    let wanted: CapabilitySet = [Capability::DacReadSearch, Capability::SysAdmin].into_iter().collect();
    for builder in [unfiltered(), unfiltered().user(0, 0).capabilities(wanted)] {
        // The handle is there to be had; it is of no use. ESTALE: a file system that can't, for nobody.
        let text = says(builder, "/usr/bin/python3", script);
        let denied = [format!("0 -1 {}\n", libc::EPERM), format!("0 -1 {}\n", libc::ESTALE)];
        assert!(denied.contains(&text), "{text}");
    }
}

/// A10, A12: while a payload runs and mounts, and after it, the host's table is what it was, shared as it may be.
#[test]
fn a10_a12_the_hosts_mount_table_never_changes() {
    in_child(|| {
        if is_root() {
            // As a host under systemd has it.
            palisade::ns::unshare(palisade::ns::Namespace::Mount).unwrap();
            let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_SHARED;
            nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
        }
        let table = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = table();
        let caps: CapabilitySet = [Capability::SysAdmin].into_iter().collect();
        let sandbox =
            unfiltered().user(0, 0).capabilities(caps).bind_ro("/usr/share", "/data").build().unwrap();
        let script = "mount -t tmpfs none /tmp && mount --bind /tmp /data && echo ready && exec sleep 100";
        let mut command = sandbox.command("/bin/sh");
        let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut ready).unwrap();
        assert_eq!(table(), before, "while it runs");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(table(), before, "after it");
    });
}

/// A127: what a filter of an outer container hides of the mount API is an error with its reason. There is no second way,
/// by paths, that would be taken instead.
#[test]
fn a127_a_filtered_mount_api_is_an_error_with_a_hint() {
    for call in ["openat2", "open_tree", "fsopen", "fsconfig", "fsmount", "move_mount", "mount_setattr"] {
        in_child(|| {
            let errno = Action::Errno(libc::ENOSYS as u16);
            let policy = Policy::new(Action::Allow).rule(Rule::new([call], errno));
            Install::new(&policy.compile().unwrap()).apply().unwrap();
            let outcome = Sandbox::new().and_then(|sandbox| sandbox.command("/bin/true").spawn().map(drop));
            let error = outcome.unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENOSYS), "{call}: {error}");
            assert!(matches!(error.kind(), ErrorKind::Setup | ErrorKind::InvalidSpec), "{call}: {error}");
            assert!(
                error.step() <= Step::Masks && error.to_string().contains("filter hides it"),
                "{call}: {error}"
            );
        });
    }
}

/// A16: a root file system that brings its own console, leading to a file of the host's (CVE-2025-52565).
#[test]
fn a16_the_console_that_a_root_brings_is_not_used() {
    use std::os::unix::fs::symlink;
    let made = palisade_testkit::temp_dir();
    let canary = made.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    let root = made.path().join("root");
    for name in ["usr", "proc", "tmp", "dev/pts"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    for name in ["dev/console", "dev/pts/0", "dev/ptmx"] {
        symlink(&canary, root.join(name)).unwrap();
    }
    let builder = Sandbox::builder().rootfs(&root).bind_ro("/usr", "/usr");
    let mut command = builder.build().unwrap().command("/bin/sh");
    command.args(["-c", "echo heard >/dev/console; tty"]).pty(palisade::PtySize::default());
    let out = command.spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("heard") && text.contains("/dev/pts/0"), "{text}");
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");
}

/// A38: a socket of the host in the view, read-only as it is, hands over a directory of the host. The root cannot hold what
/// is opened from there; Landlock does, which asks where a file is and not how it was come by.
#[test]
fn a38_what_is_below_a_directory_that_was_passed_in_is_closed_by_landlock() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use palisade::secfilter::landlock::{FsAccess, Landlock};
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    if !std::path::Path::new("/usr/bin/python3").exists() {
        skip!("python3 is not in the host's /usr", needs = "tool");
    }
    if Landlock::abi().unwrap() < 1 {
        skip!("this kernel has no Landlock", needs = "landlock");
    }
    let (made, given) = (palisade_testkit::temp_dir(), palisade_testkit::temp_dir());
    std::fs::write(given.path().join("canary"), "of host").unwrap();
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    let socket = made.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    [made.path(), given.path(), &socket].into_iter().for_each(open);
    let script = "
import os, socket
server = socket.socket(socket.AF_UNIX)
server.connect('/in/socket')
directory = socket.recv_fds(server, 1, 1)[1][0]
try: print(os.read(os.open('canary', os.O_RDONLY, dir_fd=directory), 9))
except PermissionError: print('denied')";
    let ask = |builder: SandboxBuilder| {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| says(builder.bind_ro(made.path(), "/in"), "/usr/bin/python3", script));
            let (stream, _) = listener.accept().unwrap();
            let directory = std::fs::File::open(given.path()).unwrap();
            let rights = [directory.as_raw_fd()];
            let message = [ControlMessage::ScmRights(&rights)];
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"x")], &message, MsgFlags::empty(), None)
                .unwrap();
            asked.join().unwrap()
        })
    };
    assert_eq!(ask(Sandbox::builder()), "b'of host'\n", "what is passed in is passed in");
    let rules = Landlock::new().path("/usr", FsAccess::EXECUTE | FsAccess::READ_FILE | FsAccess::READ_DIR);
    assert_eq!(ask(Sandbox::builder().landlock(rules)), "denied\n");
}
