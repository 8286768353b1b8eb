//! The init in front of a payload.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use palisade::creds::{Capability, CapabilitySet};
use palisade::ns::Namespace;
use palisade::secfilter::{Action, Policy, Rule};
use palisade::{Command, ErrorKind, ExitCause, Sandbox, SandboxBuilder, Session, Stdio};
use palisade_sys::Injected;
use palisade_testkit::{Snapshot, wait_until};

fn builder() -> SandboxBuilder {
    Sandbox::builder().init(true)
}

fn sh(script: &str) -> Command {
    let mut command = builder().build().unwrap().command("/bin/sh");
    command.arg("-c").arg(script);
    command
}

fn out(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_status_is_the_payloads() {
    for code in [0, 1, 77, 137, 255] {
        let status = sh(&format!("exit {code}")).status().unwrap();
        assert_eq!((status.cause(), status.code()), (ExitCause::Exited(code), Some(code)));
    }
    // Of a signal too, which an exit code could not tell from 128 + signal.
    for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGTERM, libc::SIGHUP] {
        let status = sh(&format!("kill -{signal} $$")).status().unwrap();
        assert_eq!((status.cause(), status.signal()), (ExitCause::Signaled(signal), Some(signal)));
    }
    let usage = sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").status().unwrap().usage().unwrap();
    assert!(usage.user + usage.system > Duration::from_millis(2), "the payload's time is counted: {usage:?}");
}

#[test]
fn the_payload_is_not_pid_1_and_init_keeps_nothing() {
    let out = sh("echo $$ $PPID; cat /proc/1/comm; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/1/status; cat /proc/self/stat; \
                  ls /proc/1/fd; cat /proc/1/environ; cat /proc/1/maps; readlink /proc/1/root /proc/1/cwd; exit 0")
    .output()
    .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["2 1", "palisade-init"], "{text}");
    for line in lines.iter().filter(|line| line.starts_with("Cap") && !line.starts_with("CapBnd")) {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert!(text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"), "{text}");
    // Nothing came of looking into it: its files are root's, and closed.
    assert!(lines.last().unwrap().contains("(cat)"), "{text}");
    // A session of the payload's own, led by it.
    let stat: Vec<&str> = lines.last().unwrap().rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(stat[2..4], ["2", "2"], "{text}");
}

/// From outside, where a privileged host program can look: no descriptor, one page of memory shared with it.
#[test]
fn init_has_no_descriptor() {
    let mut child =
        sh("echo ready; read line; exit 4").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let dir = format!("/proc/{}", child.id());
    match std::fs::read_dir(format!("{dir}/fd")) {
        Ok(open) => {
            let open: Vec<_> = open.flatten().map(|entry| std::fs::read_link(entry.path())).collect();
            assert!(open.is_empty(), "{open:?}");
            let maps = std::fs::read_to_string(format!("{dir}/maps")).unwrap();
            let image: Vec<&str> = maps.lines().filter(|line| line.contains("palisade-image")).collect();
            assert_eq!(image.len(), 1, "{maps}");
            let (start, end) = image[0].split(' ').next().unwrap().split_once('-').unwrap();
            let address = |hex| u64::from_str_radix(hex, 16).unwrap();
            assert_eq!(address(end) - address(start), 4096, "{maps}");
        }
        // An ordinary host program may not look either.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}"),
    }
    writeln!(stdin, "go").unwrap();
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

#[test]
fn signals_are_passed_on() {
    let script = "trap 'echo term' TERM; trap 'echo usr' USR1; trap 'echo hup; exit 9' HUP; echo ready; \
                  while :; do sleep 0.01; done";
    let mut child = sh(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "ready");
    for (signal, word) in [(libc::SIGTERM, "term"), (libc::SIGUSR1, "usr"), (libc::SIGHUP, "hup")] {
        child.signal(signal).unwrap();
        assert_eq!(lines.next().unwrap(), word);
    }
    assert_eq!(child.wait().unwrap().code(), Some(9));
    // Without a handler: as everywhere, where a pid 1 would not notice.
    let mut child = sh("echo ready; sleep 1000").stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    child.signal(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().cause(), ExitCause::Signaled(libc::SIGTERM));
    // Stopped and continued: SIGTSTP and SIGCONT are passed on, and are not its end.
    let mut child =
        sh("echo ready; read line; exit 5").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    child.signal(libc::SIGTSTP).unwrap();
    child.signal(libc::SIGCONT).unwrap();
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn its_end_is_the_end_of_all() {
    let script = "(setsid sleep 1000 & setsid sleep 1000 &) ; echo ready; exit 3";
    let mut child = sh(script).stdout(Stdio::piped()).spawn().unwrap();
    let dir = format!("/proc/{}", child.id());
    let mut out = child.stdout.take().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    // The sleepers hold the pipe open as long as they live.
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    assert!(!std::path::Path::new(&dir).exists());
}

#[test]
fn kill_and_timeout_reach_through_it() {
    let mut child = sh("trap '' TERM; sleep 1000").spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().cause(), ExitCause::Signaled(libc::SIGKILL));
    let status = sh("sleep 1000").timeout(Duration::from_millis(100)).status().unwrap();
    assert_eq!(status.cause(), ExitCause::TimedOut);
    let out = sh("yes").output_limit(1000).output().unwrap();
    assert_eq!(out.status.cause(), ExitCause::OutputLimit);
}

/// A94: 1,000 orphans by double forks: none stays a zombie, and the status is that of the payload.
#[test]
fn a_thousand_orphans_leave_no_zombie() {
    let script = "
        i=0; while [ $i -lt 1000 ]; do (exec sh -c '(:) & :' &) ; i=$((i+1)); done
        while :; do
            left=0; zombies=0
            for stat in /proc/[0-9]*/stat; do
                read -r pid name state rest 2>/dev/null <$stat || continue
                case $pid in 1|$$) ;; *) left=$((left+1)); [ $state = Z ] && zombies=$((zombies+1));; esac
            done
            [ $left = 0 ] && break
            sleep 0.02
        done
        echo left $left zombies $zombies; exit 42";
    let mut command = builder().build().unwrap().command("/bin/sh");
    let out = command
        .arg("-c")
        .arg(script)
        .timeout(palisade_testkit::scaled(Duration::from_secs(60)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(
        (out.status.code(), text.trim()),
        (Some(42), "left 0 zombies 0"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// The control: without an init that waits for them, and with a payload that does not, they stay. (The shell may have
/// waited for one before it became that payload.)
#[test]
fn without_init_orphans_stay_zombies() {
    let script = "(sleep 0.5 &) ; (sleep 0.5 &) ; exec sleep 1000";
    let sandbox = Sandbox::new().unwrap();
    let mut child = sandbox.command("/bin/sh").arg("-c").arg(script).spawn().unwrap();
    let children =
        || std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    let zombie = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    };
    assert!(wait_until(Duration::from_secs(10), || {
        let text = children();
        let all: Vec<&str> = text.split_whitespace().collect();
        !all.is_empty() && all.iter().all(|pid| zombie(pid))
    }));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    let sandbox = builder().build().unwrap();
    let error = sandbox.command("/no/such/program").spawn().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(libc::ENOENT)), "{error}");
    let error = sandbox.command("nothing-of-this-name").spawn().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(libc::ENOENT)), "{error}");
}

#[test]
fn a_set_up_that_ends_behind_init_is_no_success() {
    let mut plan = sh("exit 0").stdin(Stdio::null()).plan().unwrap();
    plan.clone().spawn().unwrap().wait().unwrap();
    let steps: Vec<palisade::Step> = plan.programs_mut()[2].steps().collect();
    let init = steps.iter().position(|step| *step == palisade::Step::Init).unwrap();
    let before = Snapshot::take();
    for (index, &step) in steps.iter().enumerate().skip(init) {
        let mut broken = plan.clone();
        broken.programs_mut()[2].inject(index, Injected::Exit);
        let error = broken.spawn().expect_err("an ended set-up");
        assert_eq!(error.kind(), ErrorKind::SetupKilled, "{index}: {error}");
        let mut broken = plan.clone();
        broken.programs_mut()[2].inject(index, Injected::Errno(libc::ENOMEM));
        let error = broken.spawn().expect_err("a failed set-up");
        assert_eq!((error.step(), error.errno()), (step, Some(libc::ENOMEM)), "{index}: {error}");
    }
    assert!(wait_until(Duration::from_secs(5), || Snapshot::take() == before));
}

/// A filter of the payload's that allows nothing that init does has no say over init.
#[test]
fn a_payloads_filter_does_not_hold_init() {
    let refused = ["wait4", "waitid", "kill", "rt_sigtimedwait", "prctl", "capset"];
    let policy = Policy::new(Action::Allow).rule(Rule::new(refused, Action::Errno(libc::EPERM as u16)));
    let sandbox = builder().seccomp(policy).build().unwrap();
    assert!(sandbox.command("/bin/true").status().unwrap().success());
    // And none at all leaves init with its own.
    let sandbox = builder().dangerously_unfiltered().build().unwrap();
    let mut command = sandbox.command("/bin/grep");
    assert_eq!(out(command.args(["Seccomp:", "/proc/1/status"])), "Seccomp:\t2\n");
}

/// A payload that may attach to everything of its user namespace can attach, and gets a process that can do nothing.
#[test]
fn a_privileged_payload_finds_nothing_in_init() {
    let all = CapabilitySet::EMPTY.with(Capability::SysPtrace).with(Capability::Kill);
    let sandbox = builder().capabilities(all).dangerously_unfiltered().user(0, 0).build().unwrap();
    let mut command = sandbox.command("/bin/sh");
    let text = out(command.arg("-c").arg(
        "while [ $(ls /proc/1/fd | wc -l) != 0 ]; do sleep 0.01; done; grep -c palisade-image /proc/1/maps; \
         dd if=/proc/1/mem bs=1 skip=$((0x$(grep palisade-image /proc/1/maps | cut -d- -f1) + 40)) count=4000 2>/dev/null \
         | tr -d '\\0' | wc -c",
    ));
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["1", "0"], "only zeros after the header");
}

#[test]
fn init_takes_a_pid_namespace() {
    let builder = builder().share(Namespace::Pid).lifetime(palisade::Lifetime::Detached);
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("init: "), "{error}");
}

#[test]
fn sessions_are_the_payloads() {
    for (session, own_group) in [(Session::New, true), (Session::NewGroup, true), (Session::Inherit, false)] {
        let text = out(sh("cat /proc/self/stat").session(session));
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
        let (group, id) = (fields[2], fields[3]);
        // A group or session of the host's is 0 inside.
        assert_eq!(group, if own_group { "2" } else { "0" }, "{session:?}: {text}");
        assert_eq!(id, if session == Session::New { "2" } else { "0" }, "{session:?}: {text}");
    }
}

/// Descriptors with the numbers that init uses for itself, a low limit of open files, and an ignored SIGCHLD.
#[test]
fn odd_surroundings_do_not_disturb_it() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut command = sh("echo x >&3; (exit 6) ; [ $? = 6 ] && exit 8");
    command.fd(3, file).rlimit(palisade::Resource::OpenFiles, 12, 12);
    let status = command.stderr(Stdio::null()).keep_ignored_signals(true).status().unwrap();
    assert_eq!(status.code(), Some(8));
}

/// Where init can't be hardened, nothing runs: here an outer container's filter refuses it its own.
#[test]
fn an_init_that_cannot_be_hardened_is_an_error() {
    use palisade::secfilter::Install;
    palisade_testkit::in_child(|| {
        let policy =
            Policy::new(Action::Allow).rule(Rule::new(["seccomp"], Action::Errno(libc::EINVAL as u16)));
        Install::new(&policy.compile().unwrap()).apply().unwrap();
        let sandbox = builder().dangerously_unfiltered().build().unwrap();
        let error = sandbox.command("/bin/true").spawn().unwrap_err();
        assert_eq!((error.step(), error.errno()), (palisade::Step::Init, Some(libc::EINVAL)), "{error}");
        let sandbox = Sandbox::builder().dangerously_unfiltered().build().unwrap();
        assert!(sandbox.command("/bin/true").status().unwrap().success(), "the control");
    });
}

/// A thousand signals, while it reaps.
#[test]
fn a_storm_of_signals_does_not_disturb_it() {
    let script = "n=0; trap 'n=$((n+1))' USR1; trap 'echo $((n > 0)); exit 6' TERM; echo ready; \
                  while :; do (exit 0) & wait; done";
    let mut child = sh(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "ready");
    for _ in 0..1000 {
        child.signal(libc::SIGUSR1).unwrap();
    }
    child.signal(libc::SIGTERM).unwrap();
    assert_eq!(lines.next().unwrap(), "1");
    assert_eq!(child.wait().unwrap().code(), Some(6));
}
