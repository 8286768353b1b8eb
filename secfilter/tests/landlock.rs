//! Landlock, for real, and on kernels that have less of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::ErrorKind as Io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;

use palisade_secfilter::landlock::{FsAccess, Landlock};
use palisade_secfilter::{Action, ErrorKind, Install, Policy, Response, Rule, arg};

mod common;
use common::{passes_in_child, skip, sys};

/// Whether the kernel has at least this ABI.
fn has(abi: u32) -> bool {
    let found = Landlock::abi().unwrap() >= abi;
    if !found {
        skip("landlock", &format!("this kernel has no Landlock ABI {abi}"));
    }
    found
}

#[test]
fn a_command_sees_only_its_paths() {
    if !has(6) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (work, secret) = (dir.path().join("work"), dir.path().join("secret"));
    fs::create_dir(&work).unwrap();
    fs::write(&secret, "secret").unwrap();
    let mut landlock = Landlock::new().path(&work, FsAccess::ALL).path("/dev/null", FsAccess::ALL);
    for path in ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"] {
        if std::path::Path::new(path).exists() {
            landlock = landlock.path(path, FsAccess::READ);
        }
    }
    let ruleset = landlock.prepare().unwrap();
    assert!(ruleset.enforced().missing.is_empty());
    let run = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(&work).env("SECRET", &secret);
        ruleset.confine(&mut command);
        command.output().unwrap().status.code()
    };
    assert_eq!(run("echo x > a && cat a > b && mkdir d && mv b d/ && rm -r d"), Some(0));
    assert_eq!(run("cat \"$SECRET\" 2> /dev/null"), Some(1));
    assert_eq!(run("ls .. 2> /dev/null; test $? != 0"), Some(0));
    assert_ne!(run("echo x > ../new"), Some(0));
    assert_eq!(
        run("grep -q '^NoNewPrivs:.*1' /proc/self/status 2> /dev/null; test $? = 2"),
        Some(0),
        "/proc is closed"
    );
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
}

/// A79: what each ABI added is denied.
#[test]
fn a79_every_kind_of_access_is_denied_without_a_rule() {
    if !has(6) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(a.join("file"), "text").unwrap();
    let without = |left_out: FsAccess| {
        let bits = [
            FsAccess::EXECUTE,
            FsAccess::WRITE_FILE,
            FsAccess::READ_FILE,
            FsAccess::READ_DIR,
            FsAccess::REMOVE_DIR,
            FsAccess::REMOVE_FILE,
            FsAccess::MAKE_CHAR,
            FsAccess::MAKE_DIR,
            FsAccess::MAKE_REG,
            FsAccess::MAKE_SOCK,
            FsAccess::MAKE_FIFO,
            FsAccess::MAKE_BLOCK,
            FsAccess::MAKE_SYM,
            FsAccess::REFER,
            FsAccess::TRUNCATE,
        ];
        bits.into_iter().filter(|&bit| bit != left_out).fold(FsAccess::default(), |all, bit| all | bit)
    };
    let denied = |left_out: FsAccess, kind: Io, act: &dyn Fn() -> std::io::Result<()>| {
        let ruleset = Landlock::new().path(dir.path(), without(left_out)).prepare().unwrap();
        passes_in_child(|| {
            act().unwrap();
            ruleset.apply().unwrap();
            assert_eq!(act().unwrap_err().kind(), kind, "{left_out:?}");
            0
        });
    };
    let swap = || {
        let (from, to) = if a.join("file").exists() { (&a, &b) } else { (&b, &a) };
        fs::rename(from.join("file"), to.join("file"))
    };
    denied(FsAccess::REFER, Io::CrossesDevices, &swap);
    swap().unwrap();
    let truncate = || fs::OpenOptions::new().write(true).open(a.join("file"))?.set_len(2);
    denied(FsAccess::TRUNCATE, Io::PermissionDenied, &truncate);
    denied(FsAccess::READ_DIR, Io::PermissionDenied, &|| fs::read_dir(&a).map(drop));
    denied(FsAccess::READ_FILE, Io::PermissionDenied, &|| fs::read(a.join("file")).map(drop));
    denied(FsAccess::WRITE_FILE, Io::PermissionDenied, &|| {
        fs::OpenOptions::new().write(true).open(a.join("file")).map(drop)
    });
    denied(FsAccess::MAKE_REG, Io::PermissionDenied, &|| {
        fs::File::create_new(a.join("new"))?;
        fs::remove_file(a.join("new"))
    });
    denied(FsAccess::MAKE_SYM, Io::PermissionDenied, &|| {
        std::os::unix::fs::symlink("x", a.join("link"))?;
        fs::remove_file(a.join("link"))
    });
    denied(FsAccess::MAKE_DIR, Io::PermissionDenied, &|| {
        fs::create_dir(a.join("sub"))?;
        fs::remove_dir(a.join("sub"))
    });
}

#[test]
fn tcp_ports_signals_and_abstract_sockets_are_closed() {
    if !has(6) {
        return;
    }
    use std::net::{TcpListener, TcpStream};
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let name = format!("palisade-test-{}-{port}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixListener::bind_addr(&address).unwrap();
    let own = std::process::id();
    let kill = |pid: u32| sys::call(libc::SYS_kill as u32, [pid.into(), 0, 0, 0, 0, 0]);
    let closed = Landlock::new().prepare().unwrap();
    passes_in_child(|| {
        assert_eq!(kill(own), 0);
        closed.apply().unwrap();
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), Io::PermissionDenied);
        assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), Io::PermissionDenied);
        assert_eq!(UnixStream::connect_addr(&address).unwrap_err().kind(), Io::PermissionDenied);
        assert_eq!(kill(own), -i64::from(libc::EPERM));
        assert_eq!(kill(std::process::id()), 0);
        0
    });
    let open = Landlock::new().connect_tcp(port).bind_tcp(0).any_process().prepare().unwrap();
    passes_in_child(|| {
        open.apply().unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap();
        UnixStream::connect_addr(&address).unwrap();
        assert_eq!(kill(own), 0);
        0
    });
    let any = Landlock::new().any_tcp().prepare().unwrap();
    passes_in_child(|| {
        any.apply().unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        0
    });
    drop(socket);
}

/// A78: a kernel with a lower ABI, by a filter that answers the question for it.
#[test]
fn a78_what_the_kernel_lacks_is_an_error_or_reported() {
    if !has(7) {
        return;
    }
    let ask = Rule::new(["landlock_create_ruleset"], Action::UserNotif).when(arg(2).eq(1));
    let filter = Policy::new(Action::Allow).rule(ask).compile().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for abi in 1..=7i64 {
        let all = Landlock::new().path(dir.path(), FsAccess::ALL).bind_tcp(0);
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::channel();
            let (all, filter, dir) = (&all, &filter, &dir);
            let asking = scope.spawn(move || {
                send.send(Install::new(filter).apply_with_listener().unwrap()).unwrap();
                let strict = all.prepare();
                let old = all.clone().any_tcp().any_process().prepare();
                let ruleset = all.clone().best_effort().prepare().unwrap();
                let enforced = ruleset.enforced().clone();
                ruleset.apply().unwrap();
                let outside = fs::read_dir("/etc").map(drop).unwrap_err().kind();
                fs::write(dir.path().join("file"), "x").unwrap();
                (strict.map(|ruleset| ruleset.enforced().clone()), old.is_ok(), enforced, outside)
            });
            let listener = receive.recv().unwrap();
            while let Some(call) = listener.receive().unwrap() {
                listener.respond(&call, Response::Return(abi)).unwrap();
            }
            let (strict, old, enforced, outside) = asking.join().unwrap();
            assert_eq!(outside, Io::PermissionDenied, "ABI {abi}");
            assert_eq!(i64::from(enforced.abi), abi);
            assert_eq!(enforced.tcp, abi >= 4);
            assert_eq!(enforced.scopes, abi >= 6);
            assert_eq!(enforced.fs.contains(FsAccess::REFER), abi >= 2);
            assert_eq!(enforced.fs.contains(FsAccess::TRUNCATE), abi >= 3);
            assert_eq!(enforced.fs.contains(FsAccess::IOCTL_DEV), abi >= 5);
            assert_eq!(enforced.missing.is_empty(), abi >= 6, "{:?}", enforced.missing);
            assert_eq!(old, abi >= 5);
            match strict {
                Ok(_) => assert!(abi >= 6),
                Err(error) => {
                    assert!(abi < 6);
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    assert!(error.to_string().contains(&format!("ABI {abi}")), "{error}");
                }
            }
        });
    }
}

#[test]
fn a78_no_landlock_at_all() {
    for errno in [libc::ENOSYS, libc::EOPNOTSUPP] {
        let none = Rule::new(["landlock_create_ruleset"], Action::Errno(errno as u16));
        let filter = Policy::new(Action::Allow).rule(none).compile().unwrap();
        passes_in_child(|| {
            filter.apply().unwrap();
            assert_eq!(Landlock::abi().unwrap(), 0);
            let error = Landlock::new().prepare().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("lsm="), "{error}");
            let ruleset = Landlock::new().best_effort().prepare().unwrap();
            assert_eq!((ruleset.enforced().abi, ruleset.enforced().missing.len()), (0, 6));
            ruleset.apply().unwrap();
            assert!(fs::read_dir("/").is_ok());
            0
        });
    }
}

#[test]
fn a_path_that_is_not_there_is_an_error() {
    for landlock in [Landlock::new(), Landlock::new().best_effort()] {
        if !has(6) {
            return;
        }
        let ruleset = landlock.path("/nowhere/at/all", FsAccess::READ).prepare().unwrap();
        passes_in_child(|| {
            let open = || fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            let error = ruleset.apply().unwrap_err();
            assert_eq!((error.kind(), error.errno()), (ErrorKind::File, Some(libc::ENOENT)));
            assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
            assert_eq!(open(), before, "nothing is restricted, and nothing stays open");
            0
        });
        let mut command = Command::new("/bin/true");
        ruleset.confine(&mut command);
        assert_eq!(command.spawn().unwrap_err().kind(), Io::NotFound);
    }
}
