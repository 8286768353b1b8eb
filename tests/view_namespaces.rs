//! Time, shared and joined namespaces, and what of the view follows them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use palisade::creds::{Capability, CapabilitySet};
use palisade::fsroot::Dev;
use palisade::ns::{AnyNs, ClockOffset, Namespace, Shared, TimeOffsets, Unshare};
use palisade::{Ipc, Sandbox, SandboxBuilder};
use palisade_testkit::{Snapshot, is_root, skip, temp_dir};

fn says(builder: SandboxBuilder, script: &str) -> String {
    let out = builder.build().unwrap().command("/bin/sh").arg("-c").arg(script).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn own(kind: Namespace) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

fn uptime(text: &str) -> f64 {
    text.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn clocks_are_ahead_or_behind() {
    let day = Duration::from_secs(86_400);
    let offsets = TimeOffsets::ZERO
        .monotonic(ClockOffset::forward(2 * day))
        .boottime(ClockOffset::forward(day + Duration::from_millis(500)));
    let now = uptime(&std::fs::read_to_string("/proc/uptime").unwrap());
    let script = "readlink /proc/self/ns/time; cat /proc/self/timens_offsets /proc/uptime";
    let text = says(Sandbox::builder().time_offsets(offsets), script);
    let lines: Vec<_> = text.lines().collect();
    assert_ne!(lines[0], own(Namespace::Time));
    assert_eq!(TimeOffsets::parse(lines[1..3].join("\n").as_bytes()).unwrap(), offsets);
    let inside = uptime(lines[3]);
    assert!((now + 86_400.0..now + 86_700.0).contains(&inside), "{now} {text}");
    // A new one without offsets is a new one all the same.
    let plain = Sandbox::builder().namespaces(palisade::ns::Namespaces::ALL);
    assert_ne!(says(plain, "readlink /proc/self/ns/time").trim(), own(Namespace::Time));
    // And an offset that no clock can have is the kernel's answer, with the step.
    let far = TimeOffsets::ZERO.monotonic(ClockOffset::back(Duration::from_secs(1 << 40)));
    let error =
        Sandbox::builder().time_offsets(far).build().unwrap().command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.step(), error.errno()), (palisade::Step::TimeNamespace, Some(libc::ERANGE)), "{error}");
}

#[test]
fn namespaces_of_others_are_joined_and_left_again() {
    if !is_root() {
        skip!("joining without a user namespace takes CAP_SYS_ADMIN", needs = "root");
    }
    let kinds = Namespace::Net | Namespace::Uts;
    let new = Unshare::new(kinds).hostname("of-others".parse().unwrap());
    // Handles alone keep them: nobody is in them.
    let shared = Shared::create(&new, |_| Ok(())).unwrap();
    let script = "uname -n; for k in net uts ipc; do readlink /proc/self/ns/$k; done";
    let join = shared.namespaces().iter().cloned().fold(Sandbox::builder(), SandboxBuilder::join);
    let text = says(join, script);
    let lines: Vec<_> = text.lines().collect();
    let linked = |kind| shared.namespaces().iter().find(|ns| ns.kind() == kind).unwrap().to_string();
    assert_eq!(lines[0], "of-others");
    assert_eq!(lines[1..3], [linked(Namespace::Net), linked(Namespace::Uts)]);
    assert_ne!(lines[3], own(Namespace::Ipc), "the others are its own");
    // The thread that cloned it is back.
    let host = Sandbox::builder().share(Namespace::Net).share(Namespace::Uts);
    let text = says(host, script);
    assert_eq!(text.lines().nth(1).unwrap(), own(Namespace::Net));
    assert_eq!(text.lines().nth(2).unwrap(), own(Namespace::Uts));
}

#[test]
fn what_can_not_be_joined_is_refused() {
    let current = |kind| AnyNs::current(kind).unwrap();
    for (builder, word) in [
        (Sandbox::builder().join(current(Namespace::Mount)), "bind"),
        (Sandbox::builder().join(current(Namespace::User)), "ids"),
        (Sandbox::builder().join(current(Namespace::Time)), "one thread"),
        (
            Sandbox::builder().join(current(Namespace::Net)).namespaces(Namespace::Net | Namespace::Mount),
            "leave net out",
        ),
        (Sandbox::builder().ipc(Ipc::Host).namespaces(palisade::ns::Namespaces::ALL), "/dev/shm"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    if !is_root() {
        let error = Sandbox::builder().join(current(Namespace::Net)).build().unwrap_err().to_string();
        assert!(error.contains("CAP_SYS_ADMIN"), "{error}");
    }
}

const SHM: &str = "test -d /dev/shm && echo shm; readlink /proc/self/ns/ipc; ls /dev/shm 2>/dev/null; true";

/// Each mode of `docker run --ipc`: namespace and /dev/shm go together.
#[test]
fn ipc_modes() {
    let private = says(Sandbox::builder(), SHM);
    assert!(private.starts_with("shm\nipc:") && !private.contains(&own(Namespace::Ipc)), "{private}");
    let none = says(Sandbox::builder().ipc(Ipc::WithoutShm), SHM);
    assert!(none.starts_with("ipc:") && !none.contains(&own(Namespace::Ipc)), "{none}");
    let name = format!("palisade-test-{}", std::process::id());
    let file = std::path::Path::new("/dev/shm").join(&name);
    std::fs::write(&file, "").unwrap();
    let host = says(Sandbox::builder().ipc(Ipc::Host), SHM);
    std::fs::remove_file(&file).unwrap();
    assert!(
        host.starts_with("shm\n") && host.contains(&own(Namespace::Ipc)) && host.contains(&name),
        "{host}"
    );
}

/// Labs 27 and 28 in short: a segment and a file of one sandbox are those of another, and of no third.
#[test]
fn an_ipc_namespace_of_two() {
    if !is_root() {
        skip!("joining without a user namespace takes CAP_SYS_ADMIN", needs = "root");
    }
    let shm = temp_dir();
    std::fs::set_permissions(shm.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let donor = Sandbox::builder()
        .host_view(|view| view.dev(Dev::new("/dev").mqueue()))
        .ipc(Ipc::shareable(shm.path()))
        .build()
        .unwrap();
    let script = "ipcmk -M 2000 -p 666 >/dev/null && echo here >/dev/shm/file && chmod 666 /dev/shm/file && \
                  : >/dev/mqueue/donors && echo ready && exec sleep 100";
    let mut command = donor.command("/bin/sh");
    let mut child = command.arg("-c").arg(script).stdout(palisade::Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut ready).unwrap();
    let namespace = AnyNs::of_process(child.id(), Namespace::Ipc).unwrap();
    let look =
        "ipcs -m | grep -c 2000; cat /dev/shm/file; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid";
    let text = says(Sandbox::builder().ipc(Ipc::of(namespace.clone(), shm.path())), look);
    assert!(text.starts_with(&format!("1\nhere\n{namespace}\n")), "{text}");
    let stranger = says(Sandbox::builder(), "ipcs -m | grep -c 2000; ls /dev/shm; true");
    assert_eq!(stranger, "0\n");
    // The queues are the same: in a user namespace without power over them, with a locked view, and in the host's.
    let queues = "grep ' /dev/mqueue ' /proc/self/mountinfo | cut -d' ' -f6; ls /dev/mqueue";
    let joiner = || Sandbox::builder().ipc(Ipc::of(namespace.clone(), shm.path()));
    let admin = CapabilitySet::EMPTY.with(Capability::SysAdmin);
    for (number, builder) in
        [joiner(), joiner().capabilities(admin), joiner().share(Namespace::User)].into_iter().enumerate()
    {
        let text = says(builder, &format!(": >/dev/mqueue/joiners-{number}; {queues}"));
        let all: String = (0..=number).map(|number| format!("joiners-{number}\n")).collect();
        assert_eq!(text, format!("rw,nosuid,nodev,noexec,relatime\ndonors\n{all}"));
    }
    let seen_by_donor = std::fs::read_dir(format!("/proc/{}/root/dev/mqueue", child.id())).unwrap();
    assert_eq!(seen_by_donor.count(), 4);
    // What the host program mounts for its child does not stay with it.
    let before = Snapshot::take();
    says(joiner(), "true");
    before.assert_unchanged();
    child.kill().unwrap();
}
