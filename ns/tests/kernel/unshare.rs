//! New namespaces on the real kernel: as root, and as an ordinary user by a user namespace.

use std::process::Command;
use std::time::{Duration, Instant};

use palisade_ns::{
    AnyNs, ClockOffset, DomainName, ErrorKind, Hostname, Namespace, Namespaces, TimeOffsets, Unshare,
    loopback_up, no_more_user_namespaces, unshare,
};
use palisade_testkit::{Snapshot, can_unshare_user, in_child, is_root, skip};

use crate::sys;

/// `kinds`, with a user namespace where the caller needs one.
fn with_user(kinds: impl Into<Namespaces>) -> Namespaces {
    if is_root() { kinds.into() } else { kinds.into() | Namespace::User }
}

fn ids() -> Vec<AnyNs> {
    Namespace::ALL.into_iter().map(|kind| AnyNs::current(kind).unwrap()).collect()
}

#[test]
fn nothing_changes_nothing() {
    let before = ids();
    in_child(|| {
        unshare(Namespaces::EMPTY).unwrap();
        assert_eq!(ids(), before);
    });
}

#[test]
fn each_kind_changes_just_its_own() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    for kind in Namespace::ALL {
        let before = ids();
        in_child(|| {
            unshare(with_user(kind)).unwrap();
            for old in &before {
                let changed = AnyNs::current(old.kind()).unwrap() != *old;
                // The caller itself stays in its pid namespace.
                let expected = with_user(kind).without(Namespace::Pid).contains(old.kind());
                assert_eq!(changed, expected, "{kind}: {old}");
            }
            if kind == Namespace::Pid {
                // No process in it yet, so it cannot be opened.
                assert_eq!(AnyNs::for_children(kind).unwrap_err().kind(), ErrorKind::Gone);
                let mut child = Command::new("sleep").arg("60").spawn().unwrap();
                assert_ne!(AnyNs::for_children(kind).unwrap(), AnyNs::current(kind).unwrap());
                child.kill().unwrap();
                child.wait().unwrap();
            }
        });
    }
}

#[test]
fn all_kinds_at_once() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let before = ids();
    in_child(|| {
        unshare(Namespaces::ALL).unwrap();
        for old in before.iter().filter(|old| old.kind() != Namespace::Pid) {
            let new = AnyNs::current(old.kind()).unwrap();
            assert_ne!(new, *old);
            if new.kind() != Namespace::User {
                assert_eq!(new.owner().unwrap().unwrap(), palisade_ns::Ns::current().unwrap(), "{new}");
            }
        }
    });
}

#[test]
fn several_threads_are_refused() {
    let before = ids();
    std::thread::scope(|scope| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || wait.recv());
        for kinds in [Namespaces::EMPTY, Namespaces::from(Namespace::Net), Namespaces::ALL] {
            let error = unshare(kinds).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MultiThreaded, "{error}");
        }
        drop(done);
    });
    assert_eq!(ids(), before);
}

#[test]
fn a_thread_of_several_can_have_its_own() {
    if !is_root() {
        skip!("a user namespace is for whole processes only", needs = "root");
    }
    let kinds = Namespace::Net | Namespace::Uts | Namespace::Ipc;
    let before = ids();
    let name: Hostname = "thread".parse().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            Unshare::new(kinds).hostname(name.clone()).prepare().unwrap().run_in_thread().unwrap();
            assert_eq!(Hostname::current().unwrap(), name);
            assert_ne!(AnyNs::current(Namespace::Net).unwrap(), before[5]);
            let error = Unshare::new(Namespace::User).prepare().unwrap().run_in_thread().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MultiThreaded, "{error}");
        });
    });
    assert_eq!(ids(), before);
    assert_ne!(Hostname::current().unwrap(), name);
}

#[test]
fn names_are_set_inside_only() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let (host, domain) = (Hostname::current().unwrap(), DomainName::current().unwrap());
    in_child(|| {
        let name = Hostname::new([b'x'; 64]).unwrap();
        let odd = DomainName::new(b"\xff\n \x01").unwrap();
        let new = Unshare::new(with_user(Namespace::Uts)).hostname(name.clone()).domainname(odd.clone());
        new.prepare().unwrap().run().unwrap();
        assert_eq!(Hostname::current().unwrap(), name);
        assert_eq!(DomainName::current().unwrap(), odd);
    });
    assert_eq!((Hostname::current().unwrap(), DomainName::current().unwrap()), (host, domain));
}

#[test]
fn names_need_privilege_over_the_uts_namespace() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        unshare(Namespace::User).unwrap();
        let program = Hostname::new("x").unwrap().program();
        let fault = sys::run(&program).unwrap_err();
        assert_eq!(fault.errno, libc::EPERM);
    });
}

/// What would be set for the host is refused before anything is done.
#[test]
fn settings_without_their_namespace_are_refused() {
    let name = || "x".parse().unwrap();
    let others = Namespaces::ALL;
    let conflicts = [
        Unshare::new(others.without(Namespace::Uts)).hostname(name()),
        Unshare::new(others.without(Namespace::Uts)).domainname("y".parse().unwrap()),
        Unshare::new(others.without(Namespace::Net)).loopback_up(),
        Unshare::new(others.without(Namespace::Time)).time_offsets(TimeOffsets::ZERO),
    ];
    for conflict in conflicts {
        assert_eq!(conflict.prepare().unwrap_err().kind(), ErrorKind::Conflict, "{conflict:?}");
    }
}

#[test]
fn loopback_is_up_and_carries_packets() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        unshare(with_user(Namespace::Net)).unwrap();
        let exchange = || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send_to(b"x", socket.local_addr()?)?;
            socket.recv(&mut [0; 8])
        };
        assert!(exchange().is_err(), "lo should be down in a new network namespace");
        let up = loopback_up();
        assert_eq!(up.call_count(), 3);
        sys::run(&up).unwrap();
        assert_eq!(exchange().unwrap(), 1);
        assert!(std::net::TcpListener::bind("[::1]:0").is_ok(), "IPv6 too");
        sys::run(&up).unwrap();
    });
    // As a part of the whole.
    in_child(|| {
        Unshare::new(with_user(Namespace::Net)).loopback_up().prepare().unwrap().run().unwrap();
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_ok());
    });
}

/// A cgroup namespace has its root where its maker is.
#[test]
fn a_cgroup_namespace_is_rooted_at_the_own_cgroup() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        unshare(with_user(Namespace::Cgroup)).unwrap();
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(!cgroups.is_empty() && cgroups.lines().all(|line| line.ends_with(":/")), "{cgroups}");
    });
}

#[test]
fn ipc_objects_stay_in_their_namespace() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        sys::enter_mapped_user();
        unshare(Namespace::Ipc).unwrap();
        let ipc = palisade_ns::Ns::<palisade_ns::kind::Ipc>::current().unwrap();
        let (key, name) = (0x5041_4c49, c"/palisade-test");
        assert!(
            sys::message_queue(key, true) && sys::posix_queue(name, true),
            "made in a namespace of the test's own"
        );
        // A sibling that shares the namespace sees both kinds.
        in_child(|| {
            assert_eq!(palisade_ns::Ns::current().unwrap(), ipc);
            assert!(sys::message_queue(key, false) && sys::posix_queue(name, false));
        });
        // One with a new namespace sees neither; the limits there are its own.
        in_child(|| {
            unshare(Namespace::Ipc).unwrap();
            assert!(!sys::message_queue(key, false) && !sys::posix_queue(name, false));
            ipc.join_in_thread().unwrap();
            assert!(sys::message_queue(key, false) && sys::posix_queue(name, false), "joined again");
        });
    });
}

fn clock(id: libc::clockid_t) -> Duration {
    sys::clock(id)
}

#[test]
fn clocks_are_offset_inside_only() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let day = Duration::from_secs(86400);
    let before = (clock(libc::CLOCK_MONOTONIC), clock(libc::CLOCK_BOOTTIME), clock(libc::CLOCK_REALTIME));
    let start = Instant::now();
    in_child(|| {
        let up = clock(libc::CLOCK_BOOTTIME);
        let back = Duration::from_secs(up.as_secs() / 2);
        let offsets =
            TimeOffsets::ZERO.monotonic(ClockOffset::forward(day)).boottime(ClockOffset::back(back));
        let new = Unshare::new(with_user(Namespace::Time)).time_offsets(offsets);
        new.prepare().unwrap().run().unwrap();
        assert!(clock(libc::CLOCK_MONOTONIC) >= before.0 + day, "this process itself is inside");
        assert!(clock(libc::CLOCK_BOOTTIME) < up, "set back");
        let real = clock(libc::CLOCK_REALTIME).abs_diff(before.2);
        assert!(real < day / 2, "the time of day is the same");
        let file = std::fs::read("/proc/self/timens_offsets").unwrap();
        assert_eq!(TimeOffsets::parse(&file).unwrap(), offsets);
        // And what it executes.
        let uptime = Command::new("cat").arg("/proc/uptime").output().unwrap().stdout;
        let seconds: f64 = std::str::from_utf8(&uptime).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(seconds < up.as_secs_f64(), "/proc/uptime follows boottime: {seconds}");
    });
    assert!(clock(libc::CLOCK_MONOTONIC) < before.0 + start.elapsed() + day / 2);
}

#[test]
fn impossible_offsets_are_refused_by_name() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let offsets = TimeOffsets::ZERO.monotonic(ClockOffset::back(Duration::from_secs(1 << 40)));
        let new = Unshare::new(with_user(Namespace::Time)).time_offsets(offsets);
        let before = Snapshot::take();
        let error = new.prepare().unwrap().run().unwrap_err();
        before.assert_unchanged();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::InvalidValue, Some(libc::ERANGE)), "{error}");
        assert!(error.to_string().contains("timens_offsets"), "{error}");
    });
}

/// A process that changed its ids cannot open its own /proc/self for writing: the file is opened before.
#[test]
fn offsets_of_an_undumpable_process() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    use std::os::fd::IntoRawFd as _;
    let offsets = TimeOffsets::ZERO.monotonic(ClockOffset::forward(Duration::from_secs(86400)));
    let open = || std::fs::File::options().write(true).open("/proc/self/timens_offsets");
    let root = is_root();
    in_child(|| {
        unshare(Namespace::User).unwrap();
        sys::set_dumpable(false);
        if root {
            return; // its /proc/self belongs to root, which it still is
        }
        // With CAP_DAC_OVERRIDE over an id that is not mapped: no power.
        let error = Unshare::new(Namespace::Time).time_offsets(offsets).prepare().unwrap().run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        assert!(error.hint().unwrap().contains("not dumpable"), "{error}");
    });
    in_child(|| {
        unshare(Namespace::User).unwrap();
        let file = open().unwrap();
        sys::set_dumpable(false);
        let before = clock(libc::CLOCK_MONOTONIC);
        let mut program = palisade_sys::Program::new();
        offsets.enter(&mut program, palisade_sys::Fd::number(file.into_raw_fd()));
        sys::run(&program).unwrap();
        assert!(clock(libc::CLOCK_MONOTONIC) >= before + Duration::from_secs(86400));
    });
}

#[test]
fn commands_run_inside() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let new = Unshare::new(with_user(Namespace::Uts | Namespace::Time))
        .hostname("inside".parse().unwrap())
        .time_offsets(TimeOffsets::ZERO.boottime(ClockOffset::forward(Duration::from_secs(1 << 30))));
    let prepared = new.prepare().unwrap();
    let mut command = Command::new("sh");
    prepared.pre_exec(command.args(["-c", "uname -n; cat /proc/uptime"]));
    // The same command again and again, with several threads around.
    for _ in 0..3 {
        let out = command.output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let (host, uptime) = text.split_once('\n').unwrap();
        assert_eq!(host, "inside");
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(uptime > f64::from(1 << 30), "{uptime}");
    }
    assert_ne!(Hostname::current().unwrap().as_bytes(), b"inside");
}

#[test]
fn a_failure_in_a_command_is_the_spawns_error() {
    let root = is_root();
    in_child(|| {
        // Without a user namespace an ordinary user may not; where all may, the limit forbids.
        if root {
            unshare(Namespace::User).unwrap();
            sys::run(&Namespace::Net.limit_program(0)).unwrap();
        }
        let mut command = Command::new("true");
        Unshare::new(Namespace::Net).prepare().unwrap().pre_exec(&mut command);
        let error = command.spawn().unwrap_err();
        let expected = if root { libc::ENOSPC } else { libc::EPERM };
        assert_eq!(error.raw_os_error(), Some(expected));
    });
}

#[test]
fn exec_in_place_does_not_run_twice() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    use std::os::unix::process::CommandExt as _;
    in_child(|| {
        let mut command = Command::new("/nowhere/program");
        Unshare::new(with_user(Namespace::Uts)).prepare().unwrap().pre_exec(&mut command);
        assert_eq!(command.exec().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(command.exec().raw_os_error(), Some(libc::EBUSY));
    });
}

/// Every call's failure ends the program there and is told by step, object and call; nothing after it happens.
#[test]
fn a_fault_at_every_call_is_told() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let new = Unshare::new(Namespaces::ALL.without(Namespace::Pid))
        .hostname("box".parse().unwrap())
        .domainname("dom".parse().unwrap())
        .time_offsets(TimeOffsets::ZERO)
        .loopback_up();
    let prepared = new.prepare().unwrap();
    assert_eq!(prepared.program().call_count(), prepared.program().len());
    assert_eq!(prepared.program().call_count(), 1 + 7 + 2 + 3, "{}", prepared.program());
    let (host, user) = (Hostname::current().unwrap(), AnyNs::current(Namespace::User).unwrap());
    for index in 0..prepared.program().len() {
        let mut program = prepared.program().clone();
        program.inject(index, palisade_sys::Injected::Errno(libc::EIO));
        in_child(|| {
            let fault = sys::run(&program).unwrap_err();
            assert_eq!((fault.index as usize, fault.errno), (index, libc::EIO));
            assert!(prepared.program().explain(fault).object.is_some());
            assert_eq!(AnyNs::current(Namespace::User).unwrap() == user, index == 0);
            assert_eq!(Hostname::current().unwrap() == host, index <= 8);
        });
    }
    in_child(|| {
        prepared.run().unwrap();
        assert_eq!(Hostname::current().unwrap().as_bytes(), b"box");
    });
}

/// A57: user namespaces inside user namespaces end at a depth that the kernel sets, and the error says so.
#[test]
fn a57_user_namespaces_nest_only_so_deep() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let mut depth = 0;
        let error = loop {
            let (uid, gid) = sys::ids();
            if let Err(error) = unshare(Namespace::User) {
                break error;
            }
            depth += 1;
            if depth == 1 {
                // Who has no id in a user namespace may make none below it.
                let error = unshare(Namespace::User).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
                assert!(error.to_string().contains("unmapped uid"), "{error}");
            }
            sys::write_maps(std::process::id(), uid, gid).unwrap();
            assert!(depth < 100, "no end to the nesting");
        };
        assert!(depth >= 20, "only {depth} deep: {error}");
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains("32 deep"), "{error}");
    });
}

/// A57: a limit of one and a second user namespace leave no third; the attempt to make one proves it.
#[test]
fn a57_no_user_namespace_after_the_second() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let open = no_more_user_namespaces();
        sys::enter_mapped_user();
        sys::run(&Namespace::User.limit_program(1)).unwrap();
        assert_eq!(Namespace::User.limit().unwrap(), 1);
        sys::enter_mapped_user();
        sys::run(&open).unwrap();
        assert_eq!(unshare(Namespace::User).unwrap_err().kind(), ErrorKind::Limit);
        // The capabilities that a payload may have in the second raise its own limit only, not that of the first.
        sys::run(&Namespace::User.limit_program(1000)).unwrap();
        assert_eq!(unshare(Namespace::User).unwrap_err().kind(), ErrorKind::Limit);
    });
}

/// A57: where a user namespace can be made, the proof fails, so the payload does not run.
#[test]
fn a57_the_proof_fails_where_the_hole_is_open() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let program = no_more_user_namespaces();
        let fault = sys::run(&program).unwrap_err();
        assert_eq!(fault.errno, libc::ENOTRECOVERABLE);
        let words = program.explain(fault).to_string();
        assert!(
            words.contains("a further user namespace could be made): refused by the program itself"),
            "{words}"
        );
    });
}
