//! Snapshots and the views made of them.

use std::io::Read;
use std::process::{Command, Stdio};

use palisade_procinfo::{
    Change, DescriptorKind, ErrorKind, NamespaceKind, NamespaceTable, Parts, ProcRoot, ProcessTable, Sides,
    Snapshot, Tree, TreeStyle, UserNames,
};

use palisade_testkit::{is_root, skip};

use crate::common::{Reaped, again, inside, root};

/// A shell with a family, given once it is complete. Every leaf of it must read descriptor 3: that ends with the pipe,
/// which closes with this process at the latest, so that nothing stays behind whatever happens.
pub(crate) fn family(script: &str) -> Reaped {
    let mut child = Reaped::spawn(
        Command::new("sh")
            .args(["-c", &format!("exec 3<&0\n{script}\necho ready\nwait")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut ready = [0; 6];
    child.0.stdout.take().expect("piped").read_exact(&mut ready).expect("ready");
    child
}

/// The processes once the family is complete: so many leaves, each of which has executed its program.
pub(crate) fn settled(family: &Reaped, leaves: usize) -> Snapshot {
    for _ in 0..600 {
        let s = Snapshot::take(&root(), Parts::new().threads(true)).expect("processes");
        let below = s.descendants(family.pid());
        let leaf = |p: &&&palisade_procinfo::ProcessEntry| !below.iter().any(|c| c.stat.ppid == p.pid);
        let ready = |p: &&palisade_procinfo::ProcessEntry| match p.stat.comm.to_str() {
            Some("python3") => p.threads.len() == 3,
            name => matches!(name, Some("cat" | "od")),
        };
        let (ends, all) = below.iter().filter(leaf).fold((0, true), |(n, all), p| (n + 1, all && ready(p)));
        if ends == leaves && all {
            return s;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the family was not complete in half a minute");
}

pub(crate) fn end(mut family: Reaped) {
    drop(family.0.stdin.take());
    family.0.wait().expect("wait");
}

#[test]
fn a_snapshot_holds_every_process_once_in_order() {
    let child = Reaped::sleep();
    let s = Snapshot::take(&root(), Parts::new().namespaces(true).cgroups(true).threads(true)).unwrap();
    assert!(s.processes.windows(2).all(|w| w[0].pid < w[1].pid));
    let entry = s.get(child.pid()).unwrap();
    assert_eq!(entry.stat.ppid, std::process::id());
    assert_eq!(entry.cmdline.arguments, ["sleep", "600"]);
    assert!(entry.cgroups.as_ref().unwrap().is_ok());
    let me = s.get(std::process::id()).unwrap();
    assert_eq!(me.threads.len() as u64 + 1, u64::from(me.stat.threads));
    let below: Vec<u32> = s.descendants(std::process::id()).iter().map(|p| p.pid).collect();
    assert_eq!(below.first(), Some(&std::process::id()));
    assert!(below.contains(&child.pid()));
    assert!(s.get(u32::MAX).is_none());
    assert!(s.unreadable.is_empty(), "{:?}", s.unreadable);
}

#[test]
fn a_snapshot_counts_what_is_denied() {
    let test = "views::a_snapshot_counts_what_is_denied";
    if inside(test) {
        let s = Snapshot::take(&root(), Parts::new().namespaces(true)).unwrap();
        let foreign = s.processes.iter().filter(|p| p.status.uid.real == 0).count();
        assert!(foreign > 0 && s.denied() >= foreign, "{} of {foreign}", s.denied());
        let table = NamespaceTable::new(&root(), &s);
        assert_eq!(table.denied, s.denied());
        assert!(table.to_string().ends_with("may not be looked into)"));
        return;
    }
    if !is_root() {
        skip!("needs root to become an ordinary user", needs = "root");
    }
    again(test, &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
}

#[test]
fn processes_hidden_by_the_mount_are_reported() {
    let test = "views::processes_hidden_by_the_mount_are_reported";
    if inside(test) {
        // hidepid=1: pids of others are listed, and nothing else of them.
        let s = Snapshot::take(&root(), Parts::new()).unwrap();
        assert!(s.unreadable.iter().all(|(_, e)| e.kind() == ErrorKind::Denied), "{:?}", s.unreadable);
        assert!(s.denied() > 0);
        assert!(s.processes.iter().all(|p| p.status.uid.real == 65534));
        return;
    }
    if !is_root() {
        skip!("needs root to mount proc with hidepid", needs = "root");
    }
    let script = "mount -t proc -o hidepid=1 proc /proc && setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"; exit $?";
    again(test, &["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh"]);
}

#[test]
fn a_proc_mount_of_pids_only_has_no_uptime_but_all_processes() {
    let test = "views::a_proc_mount_of_pids_only_has_no_uptime_but_all_processes";
    if !inside(test) {
        let script = "mount -t proc -o subset=pid proc /proc && exec \"$@\"";
        again(
            test,
            &["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c", script, "sh"],
        );
        return;
    }
    let s = Snapshot::take(&root(), Parts::new()).unwrap();
    assert_eq!(s.uptime.clone().unwrap_err().kind(), ErrorKind::Absent);
    assert!(s.get(std::process::id()).is_some());
    let table = ProcessTable::new(&root(), &s, &UserNames::numeric());
    assert_eq!(table.unwrap_err().kind(), ErrorKind::Absent);
}

#[test]
fn a_new_pid_namespace_is_a_tree_with_one_root() {
    let test = "views::a_new_pid_namespace_is_a_tree_with_one_root";
    if !inside(test) {
        again(test, &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]);
        return;
    }
    let child = Reaped::sleep();
    let tree = Tree::new(&Snapshot::take(&root(), Parts::new()).unwrap());
    assert_eq!(tree.roots(), [1]);
    assert_eq!(tree.children(std::process::id()), [child.pid()]);
    assert_eq!(tree.parent(child.pid()), Some(std::process::id()));
}

/// pstree(1) and ours, of one family, in each style.
#[test]
fn trees_print_as_pstree_prints_them() {
    if Command::new("pstree").arg("-V").output().is_err() {
        skip!("no pstree here", needs = "tool");
    }
    let family = family(
        "sh -c 'cat <&3 & cat <&3 & wait' &\n\
         sh -c 'cat <&3 & od <&3 & wait' &\n\
         sh -c 'cat <&3 & od <&3 & wait' &\n\
         sh -c 'cat <&3; true' &\n sh -c 'cat <&3; true' &\n\
         sh -c 'sh -c \"od - <&3; true\"; true' &\n cat <&3 &\n cat - <&3 &",
    );
    let pid = family.pid();
    let tree = Tree::new(&settled(&family, 11));
    let users = UserNames::parse(&std::fs::read("/etc/passwd").unwrap());
    let style = TreeStyle::new;
    let styles = [
        ("-A", style()),
        ("-Ac", style().compact(false)),
        ("-Ap", style().pids(true)),
        ("-Apn", style().pids(true).by_pid(true)),
        ("-An", style().by_pid(true)),
        ("-U", style().unicode(true)),
        ("-Up", style().unicode(true).pids(true)),
        ("-Au", style().uid_changes(users.clone())),
        ("-Aa", style().arguments(true)),
        ("-Aap", style().arguments(true).pids(true)),
        ("-Apu", style().pids(true).uid_changes(users)),
    ];
    for (options, style) in styles {
        let out = Command::new("pstree").args(["-l", options, &pid.to_string()]).output().unwrap();
        let theirs = String::from_utf8(out.stdout).unwrap();
        assert_eq!(tree.below(pid, &style).to_string(), theirs.trim_end(), "{options}");
    }
    let bold = tree.below(pid, &style().highlight(pid)).to_string();
    assert!(bold.starts_with("\x1b[1msh\x1b[0m-"), "{bold}");
    end(family);
}

#[test]
fn trees_with_threads_and_other_users_print_as_pstree_prints_them() {
    if Command::new("pstree").arg("-V").output().is_err()
        || Command::new("python3").arg("-V").output().is_err()
    {
        skip!("no pstree or python3 here", needs = "tool");
    }
    let other = if is_root() { "setpriv --reuid 65534 --clear-groups " } else { "" };
    let threads = "import threading,os\n\
                   for i in range(3): threading.Thread(target=os.read,args=(3,1)).start()\n\
                   os.read(3,1)";
    let family = family(&format!("python3 -c '{threads}' &\n{other}sh -c 'cat <&3; true' &"));
    let pid = family.pid();
    let tree = Tree::new(&settled(&family, 2));
    let users = UserNames::parse(&std::fs::read("/etc/passwd").unwrap());
    for (options, style) in [
        ("-A", TreeStyle::new()),
        ("-Ap", TreeStyle::new().pids(true)),
        ("-Aau", TreeStyle::new().arguments(true).uid_changes(users.clone())),
        ("-Apu", TreeStyle::new().pids(true).uid_changes(users)),
    ] {
        let out = Command::new("pstree").args(["-l", options, &pid.to_string()]).output().unwrap();
        let theirs = String::from_utf8(out.stdout).unwrap();
        assert_eq!(tree.below(pid, &style).to_string(), theirs.trim_end(), "{options}");
    }
    if is_root() {
        let theirs = tree.of_user(65534, &TreeStyle::new()).to_string();
        assert!(theirs.contains("sh---cat") && !theirs.contains("python3"), "{theirs}");
    }
    end(family);
}

#[test]
fn a_process_is_seen_from_both_sides() {
    let wrapper = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--cgroup"];
    let mut outer = Reaped::spawn(
        Command::new("unshare")
            .args(wrapper)
            .args(["sh", "-c", "echo $$; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut said = [0; 2];
    if outer.0.stdout.take().unwrap().read_exact(&mut said).is_err() {
        skip!("no user namespaces here", needs = "userns");
    }
    assert_eq!(&said, b"1\n");
    let snapshot = Snapshot::take(&root(), Parts::new().namespaces(true)).unwrap();
    let inner = *Tree::new(&snapshot).children(outer.pid()).first().unwrap();
    let sides = Sides::of(&root(), &root().process(inner).unwrap()).unwrap();
    assert_eq!(sides.pids, [inner, 1]);
    let own = root().myself().unwrap().status().unwrap().uid;
    assert_eq!((sides.uids.host, sides.uids.inside), (own, Some([Some(0); 4])));
    use NamespaceKind::{Cgroup, Pid, PidForChildren, User};
    assert_eq!(sides.differing, [Cgroup, Pid, PidForChildren, User]);
    let (host, inside) = &sides.cgroup;
    assert_eq!(*host.as_ref().unwrap(), root().myself().unwrap().cgroup().unwrap().unified().unwrap());
    // A cgroup namespace begins where its maker stood.
    match inside {
        Ok(path) => assert_eq!(path.to_str(), Some("/")),
        Err(e) => assert!(!is_root() && e.kind() == ErrorKind::Denied, "{e}"),
    }
    assert!(sides.to_string().contains(&format!("pid      {inner:<28} 1")), "{sides}");

    // The same process in the table of namespaces.
    let table = NamespaceTable::new(&root(), &snapshot);
    let user = table.of(inner).find(|r| r.kind == User).unwrap();
    assert_eq!(user.owner_uid.as_ref().unwrap().as_ref().unwrap(), &own.effective);
    let mine = snapshot.get(std::process::id()).unwrap().namespaces.as_ref().unwrap();
    assert_eq!(*user.parent.as_ref().unwrap().as_ref().unwrap(), mine.get(User).unwrap());
    let pid = table.of(inner).find(|r| r.kind == Pid).unwrap();
    assert_eq!(pid.members, [inner]);
    assert_eq!(*pid.owner.as_ref().unwrap(), user.id);
    drop(outer.0.stdin.take());
    outer.0.wait().unwrap();
}

/// Without a look at its user namespace nobody can say how to read the map of a process.
#[test]
fn ids_inside_are_not_guessed() {
    let test = "views::ids_inside_are_not_guessed";
    if inside(test) {
        let parent = root().myself().unwrap().status().unwrap().ppid;
        let sides = Sides::of(&root(), &root().process(parent).unwrap()).unwrap();
        assert!(sides.unknown.contains(&NamespaceKind::User));
        assert_eq!((sides.uids.host.effective, sides.uids.inside), (0, None));
        assert_eq!(sides.cgroup.1.unwrap_err().kind(), ErrorKind::Denied);
        return;
    }
    if !is_root() {
        skip!("needs root to become an ordinary user", needs = "root");
    }
    again(test, &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    // And of one in the same user namespace they are the same.
    let child = Reaped::sleep();
    let sides = Sides::of(&root(), &root().process(child.pid()).unwrap()).unwrap();
    assert_eq!(sides.uids.inside, Some([Some(0); 4]));
    assert_eq!(sides.cgroup.0.unwrap(), sides.cgroup.1.unwrap());
}

#[test]
fn a_difference_names_what_started_ended_and_changed() {
    let parts = Parts::new().namespaces(true).cgroups(true);
    let mut first = Reaped::sleep();
    let mut shell = Reaped::spawn(
        Command::new("sh")
            .args(["-c", "read go; exec setpriv --no-new-privs sleep 600"])
            .stdin(Stdio::piped()),
    );
    let before = Snapshot::take(&root(), parts).unwrap();
    assert!(before.difference(&before).is_empty());
    let (ended, changed) = (first.pid(), shell.pid());
    first.end();
    let second = Reaped::sleep();
    drop(shell.0.stdin.take());
    let held = root().process(changed).unwrap();
    while held.status().unwrap().name != "sleep" {
        std::thread::yield_now();
    }
    let diff = before.difference(&Snapshot::take(&root(), parts).unwrap());
    assert!(diff.started.iter().any(|p| p.pid == second.pid()));
    assert!(diff.ended.iter().any(|p| p.pid == ended && p.name == "sleep"));
    let (_, changes) = diff.changed.iter().find(|(p, _)| p.pid == changed).unwrap();
    assert_eq!(*changes, [Change::Program, Change::NoNewPrivs]);
    assert!(diff.to_string().contains(&format!("~ {changed} sleep: program, no_new_privs")), "{diff}");
}

#[test]
fn mounts_that_come_and_go_are_named() {
    let test = "views::mounts_that_come_and_go_are_named";
    if !inside(test) {
        again(test, &["unshare", "--user", "--map-root-user", "--mount"]);
        return;
    }
    let me = root().myself().unwrap();
    let before = me.mountinfo().unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir.path()).status().unwrap().success());
    let after = me.mountinfo().unwrap();
    let (new, gone) = before.difference(&after);
    assert_eq!(new.iter().map(|m| m.mount_point.as_path()).collect::<Vec<_>>(), [dir.path()]);
    assert!(gone.is_empty());
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
    let last = me.mountinfo().unwrap();
    let (new, gone) = before.difference(&last);
    assert!(new.is_empty() && gone.is_empty());
}

#[test]
fn a_listing_of_a_saved_tree_needs_no_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("41");
    std::fs::create_dir(&one).unwrap();
    for file in ["stat", "status", "cmdline"] {
        std::fs::copy(format!("/proc/self/{file}"), one.join(file)).unwrap();
    }
    std::fs::create_dir(dir.path().join("42")).unwrap();
    let saved = ProcRoot::captured(dir.path()).unwrap();
    let s = Snapshot::take(&saved, Parts::new()).unwrap();
    assert_eq!(s.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [41]);
    assert_eq!(s.vanished, 1);
    assert!(Tree::new(&s).below(41, &TreeStyle::new()).to_string().len() > 2);
}

/// Where the descriptors of a sandboxed child lead is what the audit of an engine asks.
#[test]
fn a_directory_left_open_for_a_child_is_found() {
    let child = Reaped::spawn(Command::new("sh").args(["-c", "exec 9</; exec sleep 600"]));
    let held = root().process(child.pid()).unwrap();
    while held.status().unwrap().name != "sleep" {
        std::thread::yield_now();
    }
    let open = held.descriptors().unwrap();
    let nine = open.iter().find(|d| d.number == 9).unwrap();
    assert_eq!((&nine.kind, nine.target.to_str()), (&DescriptorKind::Directory, Some("/")));
}
