//! The host program: whatever it is like, spawning works; and spawning changes nothing in it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use palisade::{Resource, Sandbox, Stdio};
use palisade_testkit::{Snapshot, in_child};

#[path = "common/sys.rs"]
mod common;

#[path = "common/alloc/sys.rs"]
mod alloc;

/// A33, A101: 64 threads, 200 spawns each, while others allocate and hold locks. Every allocation of a child would abort it (see
/// `common/alloc`), and every descriptor above the declared ones would be seen.
#[test]
fn stress_sixty_four_threads_spawn_under_memory_pressure() {
    const THREADS: usize = 64;
    let rounds = if std::env::var_os("PALISADE_TEST_SCALE").is_some() { 2 } else { 200 };
    let sandbox = Sandbox::new().unwrap();
    sandbox.command("/bin/true").status().unwrap();
    drop(sandbox.command("/bin/sleep").arg("1000").spawn().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    let before = Snapshot::take();
    alloc::abort_in_children(true);
    let stop = Arc::new(AtomicBool::new(false));
    let noise: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let blocks: Vec<Vec<u8>> = (0..50).map(|n| vec![1; 1 << (n % 16)]).collect();
                    // Descriptors without close-on-exec come and go, too.
                    let file = std::fs::File::open("/").unwrap();
                    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
                        .unwrap();
                    eprint!("");
                    drop((blocks, file));
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut command = sandbox.command("/bin/sh");
                // The shell opens the directory that it lists as 3.
                command.args(["-c", "cd /proc/self/fd; echo *"]).stdin(Stdio::null());
                for _ in 0..rounds {
                    let out = command.output().unwrap();
                    assert_eq!(String::from_utf8_lossy(&out.stdout), "0 1 2 3\n");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    stop.store(true, Ordering::Relaxed);
    noise.into_iter().for_each(|thread| thread.join().unwrap());
    alloc::abort_in_children(false);
    assert_eq!(done.load(Ordering::Relaxed), THREADS * rounds);
    before.assert_unchanged();
}

#[global_allocator]
static ALLOCATOR: alloc::Watchful = alloc::Watchful;

/// A34: numbers 0 to 2 are free when the library opens its own.
#[test]
fn closed_standard_streams_are_filled() {
    in_child(|| {
        let (read, write) = UnixStream::pair().unwrap();
        for fd in 0..3 {
            common::close(fd);
        }
        let sandbox = Sandbox::new().unwrap();
        let mut command = sandbox.command("/bin/sh");
        command.args(["-c", "readlink /proc/self/fd/0 /proc/self/fd/1 >&3; echo x; echo done >&3"]);
        command.fd(3, OwnedFd::from(write));
        let status = command.status().unwrap();
        drop(command);
        let text = std::io::read_to_string(read).unwrap();
        assert!(status.success());
        assert!(text.ends_with("done\n") && text.starts_with("/dev/null"), "{text}");
        // And none of ours took the numbers.
        assert!((0..3).all(|fd| !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists()));
    });
}

#[test]
fn tight_limits_of_the_host_program_do_not_stop_it() {
    in_child(|| {
        use nix::sys::resource::{Resource as Limit, setrlimit};
        let sandbox = Sandbox::new().unwrap();
        sandbox.command("/bin/true").status().unwrap();
        setrlimit(Limit::RLIMIT_NOFILE, 40, 40).unwrap();
        setrlimit(Limit::RLIMIT_STACK, 128 << 10, 128 << 10).unwrap();
        setrlimit(Limit::RLIMIT_FSIZE, 0, 0).unwrap();
        let error = sandbox.command("/bin/true").status();
        // A limit of 0 on file sizes stops the image from being written: an error, not a hang and no SIGXFSZ.
        if let Err(error) = error {
            assert_eq!(error.errno(), Some(libc::EFBIG), "{error}");
        }
    });
    in_child(|| {
        use nix::sys::resource::{Resource as Limit, setrlimit};
        setrlimit(Limit::RLIMIT_NOFILE, 32, 32).unwrap();
        // A default limit is not above what the host program itself may have.
        let sandbox = Sandbox::new().unwrap();
        let out = sandbox.command("/bin/sh").args(["-c", "ulimit -n"]).output();
        match out {
            Ok(_) => {}
            Err(error) => assert_eq!(error.errno(), Some(libc::EMFILE), "{error}"),
        }
        setrlimit(Limit::RLIMIT_NOFILE, 8, 8).unwrap();
        let error = sandbox.command("/bin/true").output().unwrap_err();
        assert!(matches!(error.errno(), Some(libc::EMFILE | libc::EINVAL)), "{error}");
    });
}

#[test]
fn handlers_on_every_signal_and_an_own_reaper_do_not_disturb() {
    use nix::sys::signal::{SigHandler, Signal};
    extern "C" fn count(_: i32) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    in_child(|| {
        for signal in Signal::iterator() {
            let fatal = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGABRT];
            if !fatal.contains(&signal) {
                common::set_handler(signal, SigHandler::Handler(count));
            }
        }
        let sandbox = Sandbox::new().unwrap();
        for _ in 0..20 {
            let out = sandbox.command("/bin/sh").args(["-c", "echo $$; exit 4"]).output().unwrap();
            assert_eq!((out.status.code(), out.stdout), (Some(4), b"1\n".to_vec()));
        }
    });
}

#[test]
fn the_host_program_is_what_it_was_before() {
    let state = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let kept =
            ["Umask", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "SigCgt"];
        let status: Vec<_> = status
            .lines()
            .filter(|line| kept.iter().any(|k| line.starts_with(k)))
            .map(str::to_owned)
            .collect();
        let namespaces: Vec<_> = std::fs::read_dir("/proc/self/ns")
            .unwrap()
            .flatten()
            .map(|entry| std::fs::read_link(entry.path()).unwrap())
            .collect();
        let dumpable = common::prctl(libc::PR_GET_DUMPABLE);
        let pdeathsig = common::prctl(libc::PR_GET_KEEPCAPS);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let env: Vec<_> = std::env::vars_os().collect();
        (status, namespaces, dumpable, pdeathsig, mounts, env, std::env::current_dir().unwrap())
    };
    let before = state();
    let sandbox = Sandbox::builder().rlimit(Resource::Cpu, 5, 5).build().unwrap();
    assert!(sandbox.command("/bin/true").umask(0o77).env("A", "b").status().unwrap().success());
    assert!(sandbox.command("/no/such").status().is_err());
    assert!(state() == before, "something of the host program changed");
}

/// A fork copies page tables; ours does not: the time does not grow with the host program.
#[test]
fn a_gigabyte_resident_is_neither_copied_nor_touched() {
    let sandbox = Sandbox::new().unwrap();
    let mut command = sandbox.command("/bin/true");
    command.stdin(Stdio::null());
    let faults = || {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
        usage.minor_page_faults()
    };
    command.status().unwrap();
    let mut big = vec![1u8; 256 << 20];
    big.iter_mut().step_by(4096).for_each(|byte| *byte = 2);
    let before = faults();
    for _ in 0..20 {
        command.status().unwrap();
        // After a fork, writing to each page would fault to copy it.
        big.iter_mut().step_by(4096).for_each(|byte| *byte += 1);
    }
    assert!(faults() - before < 5000, "{} faults", faults() - before);
}

/// Latency is for the benches; this finds a deadlock.
#[test]
fn spawns_from_an_event_loop_thread_do_not_wait_for_each_other() {
    let sandbox = Sandbox::new().unwrap();
    let start = Instant::now();
    let children: Vec<_> =
        (0..20).map(|_| sandbox.command("/bin/sleep").arg("0.2").spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}
