//! Sandboxes that share namespaces, as the containers of a pod do.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read;

use palisade::creds::{Capability, CapabilitySet, IdMap, IdRange, Maps};
use palisade::fsroot::{Dev, Mqueue};
use palisade::ns::{Namespace, Namespaces};
use palisade::{Child, Ipc, Pod, Sandbox, SandboxBuilder, Stdio};
use palisade_testkit::{Snapshot, is_root, skip, temp_dir};

fn says(builder: SandboxBuilder, script: &str) -> String {
    let out = builder.build().unwrap().command("/bin/sh").arg("-c").arg(script).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Starts a shell that says "ready" and stays.
fn stays(builder: SandboxBuilder, script: &str) -> Child {
    let sandbox = builder.build().unwrap();
    let mut command = sandbox.command("/bin/sh");
    command.arg("-c").arg(format!("{script}; echo ready; exec sleep 100"));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

/// Those of the pod below first.
const KINDS: [&str; 7] = ["user", "ipc", "net", "uts", "mnt", "pid", "cgroup"];

#[test]
fn members_share_what_the_pod_has_and_nothing_else() {
    // Threads and the stage's file are made by the first spawn and kept.
    says(Sandbox::builder(), "true");
    let before = Snapshot::take();
    let pod = Pod::new(Namespace::Ipc | Namespace::Net).unwrap();
    let member = || Sandbox::builder().pod(&pod).mount(Mqueue::new("/queues"));
    let mut child = stays(member(), "ipcmk -M 2000 -p 666 >/dev/null");
    let one = KINDS.map(|kind| std::fs::read_link(format!("/proc/{}/ns/{kind}", child.id())).unwrap());
    let two = says(member(), &format!("for k in {}; do readlink /proc/self/ns/$k; done", KINDS.join(" ")));
    for (n, (one, two)) in one.iter().zip(two.lines()).enumerate() {
        assert_eq!(one.to_str().unwrap() == two, n < 3, "{one:?} {two}");
    }
    let named: Vec<_> = pod.namespaces().iter().map(ToString::to_string).collect();
    assert!(named.iter().all(|name| two.contains(name)), "{named:?} {two}");
    // The same user, pids and view as in any sandbox; loopback is up; no capability.
    let id =
        "id -u; echo $$; grep -c ' lo:\\|127.0.0.1' /proc/net/fib_trie; grep CapEff /proc/self/status; ls /";
    assert_eq!(says(member(), id).replace("queues\n", ""), says(Sandbox::builder(), id));
    // What one makes the other finds.
    assert_eq!(says(member(), "ipcs -m | grep -c 2000"), "1\n");
    assert_eq!(says(Sandbox::builder(), "ipcs -m | grep -c 2000; true"), "0\n");
    child.kill().unwrap();
    child.wait().unwrap();
    drop((child, pod));
    before.assert_unchanged();
}

/// POSIX message queues and shared memory are files, and go with the ipc namespace: to the members, and to nobody else.
#[test]
fn queues_and_shared_memory_follow_the_ipc_namespace_of_a_pod() {
    let shm = temp_dir();
    std::fs::set_permissions(shm.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let make = ": >/dev/mqueue/queue && echo kept >/dev/shm/memory";
    let look = "ls /dev/mqueue; cat /dev/shm/memory";
    let pod = Pod::new(Namespace::Ipc).unwrap().shm(shm.path());
    says(Sandbox::builder().pod(&pod), make);
    assert_eq!(says(Sandbox::builder().pod(&pod), look), "queue\nkept\n");
    // Without a directory /dev/shm is each member's own.
    let apart = Pod::new(Namespace::Ipc).unwrap();
    says(Sandbox::builder().pod(&apart), make);
    assert_eq!(
        says(Sandbox::builder().pod(&apart), "ls /dev/mqueue /dev/shm"),
        "/dev/mqueue:\nqueue\n\n/dev/shm:\n"
    );
    std::fs::remove_file(shm.path().join("memory")).unwrap();
    // A sandbox that lends its ipc namespace lends the directory with it.
    let donor = stays(
        Sandbox::builder()
            .host_view(|view| view.dev(Dev::new("/dev").mqueue()))
            .ipc(Ipc::shareable(shm.path())),
        make,
    );
    let lent = Pod::of(&donor, Namespace::Ipc).unwrap();
    assert_eq!(says(Sandbox::builder().pod(&lent), look), "queue\nkept\n");
    for (builder, word) in [
        (Sandbox::builder().ipc(Ipc::WithoutShm).pod(&pod), "Pod::shm"),
        (Sandbox::builder().pod(&Pod::new(Namespace::Uts).unwrap().shm(shm.path())), "no ipc namespace"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    std::fs::remove_file(shm.path().join("memory")).unwrap();
}

/// Labs 27 and 35: the second container joins what the first one has, its processes too.
#[test]
fn a_sandbox_lends_its_namespaces() {
    let donor = stays(Sandbox::builder().hostname("donor"), "ipcmk -M 2000 -p 666 >/dev/null");
    let pod = Pod::of(&donor, Namespace::Ipc | Namespace::Uts | Namespace::Pid).unwrap();
    let script = "uname -n; ipcs -m | grep -c 2000; read -r name </proc/1/comm; echo $name; test $$ -gt 1; readlink /proc/self/ns/net";
    let text = says(Sandbox::builder().pod(&pod), script);
    assert!(text.starts_with("donor\n1\nsleep\n"), "{text}");
    let net = text.lines().nth(3).unwrap();
    assert_ne!(net, std::fs::read_link(format!("/proc/{}/ns/net", donor.id())).unwrap().to_str().unwrap());
    // A further program in a member is one of the pod, too.
    let mut member = stays(Sandbox::builder().pod(&pod), ":");
    let out = member.exec("/bin/sh").args(["-c", "uname -n; cat /proc/1/comm"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "donor\nsleep\n");
    // With the first process of the pid namespace the members end.
    drop(donor);
    assert_eq!(member.wait().unwrap().signal(), Some(libc::SIGKILL));
    let error = Sandbox::builder().pod(&pod).build().unwrap().command("/bin/true").spawn().unwrap_err();
    assert_eq!(error.step(), palisade::Step::Join, "{error}");
}

#[test]
fn what_a_member_can_not_have_is_refused() {
    let pod = Pod::new(Namespace::Ipc).unwrap();
    for (builder, word) in [
        (Sandbox::builder().pod(&pod).namespaces(Namespaces::ALL.without(Namespace::Time)), "leave ipc out"),
        (Sandbox::builder().pod(&pod).share(Namespace::User), "all members"),
        (Sandbox::builder().pod(&pod).time_offsets(Default::default()), "clocks"),
        (
            Sandbox::builder().pod(&pod).id_maps(Maps::new(IdMap::identity(), IdMap::identity())),
            "all members",
        ),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    for kind in [Namespace::Pid, Namespace::Mount, Namespace::Time] {
        assert!(Pod::new(kind).unwrap_err().to_string().contains("pod: a"), "{kind}");
    }
}

/// One id map for all: who made a file of the pod's is the same for each member.
#[test]
fn ranges_and_capabilities_in_a_pod() {
    if !is_root() {
        skip!("a range of ids needs root, or delegated ids", needs = "root");
    }
    let range = || IdMap::new([IdRange::new(0, 300_000, 1000).unwrap()]).unwrap();
    let pod = Pod::with_maps(Namespace::Uts | Namespace::Net, Maps::new(range(), range())).unwrap();
    let wanted: CapabilitySet =
        [Capability::Setuid, Capability::Setgid, Capability::NetAdmin].into_iter().collect();
    let member = || Sandbox::builder().pod(&pod).capabilities(wanted);
    assert_eq!(says(member(), "id -u; id -g; cat /proc/self/uid_map | tr -s ' '"), "0\n0\n 0 300000 1000\n");
    assert_eq!(says(member().user(7, 8), "id -u; id -g"), "7\n8\n");
    if let Some(ip) =
        ["/usr/sbin/ip", "/usr/bin/ip"].into_iter().find(|path| std::path::Path::new(path).exists())
    {
        says(member(), &format!("{ip} link set lo mtu 1400"));
        assert_eq!(says(member(), "cat /proc/net/dev >/dev/null; echo ok"), "ok\n");
        assert!(says(member(), &format!("{ip} link show lo")).contains("mtu 1400"), "one network for both");
    }
}

/// With an init the payload was taken for the first process, went on unread, and was killed at the set-up's time limit.
#[test]
fn a_member_has_an_init_where_its_pids_are_its_own() {
    let pod = Pod::new(Namespace::Net).unwrap();
    let sandbox = Sandbox::builder().pod(&pod).init(true).build().unwrap();
    let mut command = sandbox.command("/bin/sh");
    let out = command.args(["-c", "test $$ -gt 1; echo $?; exit 3"]).output().unwrap();
    assert_eq!((out.status.code(), &*out.stdout), (Some(3), &b"0\n"[..]));
}

/// While the view is locked the set-up can be looked into by who shares its pids and its user namespace.
#[test]
fn a_member_that_may_mount_can_not_share_a_pid_namespace() {
    let donor = stays(Sandbox::builder(), ":");
    let pod = Pod::of(&donor, Namespace::Pid).unwrap();
    let admin = CapabilitySet::EMPTY.with(Capability::SysAdmin);
    let error = Sandbox::builder().pod(&pod).capabilities(admin).build().unwrap_err().to_string();
    assert!(error.contains("CAP_SYS_ADMIN"), "{error}");
}

/// A payload in a user namespace of its own making led the next member there: its maps may read as the sandbox's do.
#[test]
fn a_payload_in_a_user_namespace_of_its_own_is_not_joined() {
    let sandbox = Sandbox::builder().dangerously_unfiltered().build().unwrap();
    let mut command = sandbox.command("/bin/sh");
    let script = "read -r go; exec unshare --user --net --map-current-user sleep 100";
    command.args(["-c", script]).stdin(Stdio::piped());
    let mut donor = command.spawn().unwrap();
    Pod::of(&donor, Namespace::Net).unwrap();
    let user = |child: &Child| std::fs::read_link(format!("/proc/{}/ns/user", child.id())).unwrap();
    let (before, maps) = (user(&donor), std::fs::read(format!("/proc/{}/uid_map", donor.id())).unwrap());
    std::io::Write::write_all(&mut donor.stdin.take().unwrap(), b"go\n").unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let comm = || std::fs::read_to_string(format!("/proc/{}/comm", donor.id())).unwrap();
    while comm() != "sleep\n" {
        assert!(std::time::Instant::now() < until, "it did not unshare: {}", comm());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_ne!(user(&donor), before);
    assert_eq!(
        std::fs::read(format!("/proc/{}/uid_map", donor.id())).unwrap(),
        maps,
        "the maps tell nothing"
    );
    let error = Pod::of(&donor, Namespace::Net).unwrap_err();
    assert_eq!(error.kind(), palisade::ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("its payload has made it"), "{error}");
}
