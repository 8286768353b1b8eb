//! Landlock inside a sandbox: rules for paths of the new root, in force before the payload.
#![expect(clippy::unwrap_used, reason = "tests")]

use palisade::secfilter::landlock::{FsAccess, Landlock};
use palisade::{ErrorKind, Sandbox, SandboxBuilder, Step};
use palisade_testkit::skip;

/// The programs of the view, and nothing else.
fn programs() -> Landlock {
    Landlock::new().path("/", FsAccess::EXECUTE | FsAccess::READ_FILE)
}

fn says(builder: SandboxBuilder, script: &str) -> String {
    let out = builder.build().unwrap().command("/bin/sh").args(["-c", script]).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

macro_rules! need {
    ($abi:literal) => {
        if Landlock::abi().unwrap() < $abi {
            skip!("this kernel has no such Landlock", needs = "landlock");
        }
    };
}

#[test]
fn rules_name_paths_of_the_new_root() {
    need!(6);
    let host = palisade_testkit::temp_dir();
    std::fs::create_dir(host.path().join("open")).unwrap();
    let rules = programs()
        .path("/data/open", FsAccess::ALL)
        .path("/dev/null", FsAccess::WRITE_FILE)
        .path("/proc/self/status", FsAccess::READ_FILE);
    let builder =
        Sandbox::builder().mount(palisade::fsroot::Tmpfs::new("/data")).tmpfs("/data/open").landlock(rules);
    let script = "touch /data/open/a && mv /data/open/a /data/open/b && ls /data/open;
        touch /data/c 2>/dev/null || echo no; touch /tmp/c 2>/dev/null || echo no; ls / 2>/dev/null || echo no;
        kill -0 1 && echo signals inside";
    assert_eq!(says(builder, script), "b\nno\nno\nno\nsignals inside\n");
}

/// What denies without Landlock would deny with it, too: the control.
#[test]
fn the_same_without_rules_is_open() {
    let builder = Sandbox::builder().tmpfs("/data");
    assert_eq!(says(builder, "touch /data/c /tmp/c && ls / >/dev/null && echo yes"), "yes\n");
}

#[test]
fn tcp_is_closed_where_the_network_is_open() {
    need!(6);
    if !std::path::Path::new("/bin/bash").exists() {
        skip!("no bash");
    }
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let reach = |rules: Landlock| {
        let sandbox = Sandbox::builder().share(palisade::ns::Namespace::Net).landlock(rules).build().unwrap();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        sandbox.command("/bin/bash").args(["-c", &script]).output().unwrap().status.success()
    };
    assert!(!reach(programs()));
    assert!(reach(programs().connect_tcp(port)));
    assert!(reach(programs().any_tcp()));
}

#[test]
fn a_path_that_the_new_root_does_not_have_is_an_error() {
    need!(1);
    let rules = programs().path("/nowhere", FsAccess::READ).best_effort();
    let sandbox = Sandbox::builder().landlock(rules).build().unwrap();
    let error = sandbox.command("/bin/true").spawn().unwrap_err();
    assert_eq!(
        (error.step(), error.object(), error.errno()),
        (Step::Landlock, Some("/nowhere"), Some(libc::ENOENT))
    );
}

#[test]
fn a_program_out_of_reach_is_an_error_of_exec() {
    need!(1);
    let sandbox = Sandbox::builder().landlock(Landlock::new().best_effort()).build().unwrap();
    let error = sandbox.command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(libc::EACCES)));
}

/// What the kernel lacks is an error of `build`, or is told. (Kernels with less are tried in palisade-secfilter.)
#[test]
fn what_is_enforced_is_told() {
    need!(6);
    let sandbox = Sandbox::builder().landlock(programs()).build().unwrap();
    let enforced = sandbox.landlock().unwrap();
    assert!(enforced.missing.is_empty() && enforced.tcp && enforced.scopes, "{enforced:?}");
    assert!(Sandbox::new().unwrap().landlock().is_none());
    let plan = sandbox.command("/bin/true").plan().unwrap().to_string();
    assert!(plan.contains("landlock_add_rule($") && plan.contains("LANDLOCK_RULE_PATH_BENEATH"), "{plan}");
}
