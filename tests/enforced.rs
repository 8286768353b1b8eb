//! What was asked, against what the kernel says.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use palisade::enforced::{Moment, State, Subject};
use palisade::ns::Namespace;
use palisade::{Enforced, ErrorKind, Plan, Resource, Sandbox, SandboxBuilder, Stdio, Step};
use palisade_sys::Injected;
use palisade_testkit::{Snapshot, in_child, is_root, skip};

fn report(builder: SandboxBuilder) -> Enforced {
    let child = builder.build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
    child.enforced().clone()
}

fn state(report: &Enforced, subject: &Subject) -> State {
    report.get(subject).unwrap_or_else(|| panic!("{subject}:\n{report}")).state().clone()
}

const BEFORE: State = State::Verified(Moment::BeforeExec);

#[test]
fn the_secure_default_is_verified() {
    let report = report(Sandbox::builder());
    println!("{report}");
    assert!(report.is_whole(), "{report}");
    for restriction in report.restrictions() {
        let wanted = match restriction.subject() {
            Subject::Seccomp => State::Verified(Moment::AfterExec),
            // What the kernel tells a process alone.
            Subject::Lifetime | Subject::Keyring | Subject::HostName => continue,
            _ => BEFORE,
        };
        assert_eq!(*restriction.state(), wanted, "{}", restriction.subject());
    }
}

#[test]
fn each_setting_is_in_the_report() {
    let report = report(
        Sandbox::builder()
            .share(Namespace::Net)
            .share(Namespace::Ipc)
            .rlimit(Resource::FileSize, 1000, 2000)
            .host_view(|view| view.proc(None))
            .bind_ro("/usr/share", "/opt")
            .tmpfs("/work")
            .dangerously_unfiltered(),
    );
    assert_eq!(report.get(&Subject::Namespace(Namespace::Net)).unwrap().asked(), "the host program's");
    assert_eq!(report.get(&Subject::Limit(Resource::FileSize)).unwrap().asked(), "1000 2000");
    assert_eq!(report.get(&Subject::Seccomp).unwrap().asked(), "no filter");
    assert!(report.get(&Subject::Masks).is_none(), "nothing to mask without /proc:\n{report}");
    assert!(report.is_whole(), "{report}");
    for subject in [Subject::Namespace(Namespace::Ipc), Subject::Limit(Resource::FileSize), Subject::Mounts] {
        assert_eq!(state(&report, &subject), BEFORE, "{subject}");
    }
}

/// An ordinary user can't drop groups: the report names the ones that stay.
#[test]
fn groups_that_stay_are_named() {
    let report = report(Sandbox::builder());
    let groups = report.get(&Subject::Groups).unwrap();
    assert_eq!(*groups.state(), BEFORE);
    if is_root() {
        assert_eq!(groups.asked(), "none");
    } else {
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap().trim().to_owned();
        let named = groups.asked().split_once("privilege: ").expect("they are kept").1;
        assert_eq!(named, if own.is_empty() { "none" } else { &own });
    }
}

#[test]
fn what_is_optional_and_not_there_is_said() {
    use palisade::fsroot::Bind;
    let builder = Sandbox::builder()
        .mount(Bind::read_only("/nowhere/at/all", "/opt").optional())
        .mount(Bind::read_only("/usr/share", "/srv").optional());
    let report = report(builder);
    let missing: Vec<_> =
        report.restrictions().iter().filter(|r| matches!(r.state(), State::Missing(_))).collect();
    assert!(!report.is_whole());
    assert_eq!(missing.len(), 1, "{report}");
    assert_eq!((missing[0].subject(), missing[0].asked()), (&Subject::OptionalMount, "/nowhere/at/all"));
    assert_eq!(state(&report, &Subject::Mounts), BEFORE);
}

#[test]
fn off_by_request() {
    let sandbox = Sandbox::builder().verify(false).build().unwrap();
    let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
    let unread = child.enforced().restrictions().iter().all(|r| matches!(r.state(), State::Applied(_)));
    assert!(unread, "{}", child.enforced());
    // And on demand.
    let now = child.verify().unwrap();
    assert_eq!(state(&now, &Subject::NoNewPrivs), State::Verified(Moment::Later), "{now}");
}

#[test]
fn it_can_be_read_again_and_tells_what_the_payload_changed() {
    let sandbox = Sandbox::new().unwrap();
    let mut child = sandbox
        .command("/bin/sh")
        .args(["-c", "ulimit -n 100; umask 027; echo; exec sleep 1000"])
        .umask(0o022)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let now = child.verify().unwrap();
    let differs = |found: &str| State::Differs { found: found.into(), moment: Moment::Later };
    assert_eq!(state(&now, &Subject::Limit(Resource::OpenFiles)), differs("100 100"));
    assert_eq!(state(&now, &Subject::Umask), differs("0027"));
    let subjects = [Subject::User, Subject::Capabilities, Subject::Seccomp, Subject::Mounts, Subject::Masks];
    for subject in subjects.into_iter().chain(Namespace::ALL.map(Subject::Namespace)) {
        assert_eq!(state(&now, &subject), State::Verified(Moment::Later), "{now}");
    }
    assert!(!now.is_whole() && child.enforced().is_whole());
    child.kill().unwrap();
    child.wait().unwrap();
    let error = child.verify().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Supervise, "{error}");
}

#[test]
fn payloads_that_end_at_once_are_verified_too() {
    let sandbox = Sandbox::new().unwrap();
    for _ in 0..20 {
        let mut child = sandbox.command("/bin/true").spawn().unwrap();
        assert_eq!(state(child.enforced(), &Subject::User), BEFORE);
        assert_eq!(state(child.enforced(), &Subject::Seccomp), State::Verified(Moment::AfterExec));
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn the_report_prints_a_line_for_each() {
    let report = report(Sandbox::builder());
    let text = report.to_string();
    assert_eq!(text.lines().count(), report.restrictions().len());
    assert!(
        text.lines().any(|line| line.starts_with("no_new_privs") && line.contains("verified before exec"))
    );
    let json = serde_json::to_value(&report).unwrap();
    let list = json["restrictions"].as_array().unwrap();
    let find =
        |name: &str| list.iter().find(|row| row["subject"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(find("namespace net")["state"], serde_json::json!({"verified": "before_exec"}));
    assert_eq!(find("no_new_privs")["asked"], "on");
    assert!(find("lifetime")["state"]["applied"].is_string());
}

fn plan(builder: SandboxBuilder) -> Plan {
    let mut command = builder.build().unwrap().command("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).umask(0o027);
    command.plan().unwrap()
}

/// The heart of it: each restricting call of the stage in turn is left out, and the kernel tells on it.
#[test]
fn a_restriction_that_is_not_made_is_an_error_before_the_payload_runs() {
    let mut plan = plan(Sandbox::builder().bind_ro("/usr/share", "/opt"));
    plan.clone().spawn().unwrap().wait().unwrap();
    let stage = &plan.programs_mut()[2];
    let calls: Vec<(usize, Step, String)> = (0..stage.len())
        .filter(|&index| !stage.is_conditional(index))
        .map(|index| (index, stage.step(index).unwrap(), stage.line(index).unwrap_or_default()))
        .collect();
    // What the kernel does not tell from outside, or what changes nothing about what was asked.
    let told = |step: Step, call: &str| match step {
        Step::Session | Step::Limits | Step::BoundingSet | Step::OpenFiles => true,
        Step::NoNewPrivs | Step::Seccomp => true,
        Step::Capabilities => call.starts_with("capset"),
        Step::Mounts => call.starts_with("mount_setattr") || call.starts_with("fsmount"),
        _ => false,
    };
    let before = Snapshot::take();
    let mut noticed = BTreeSet::new();
    for (index, step, call) in calls.into_iter().filter(|(_, step, call)| told(*step, call)) {
        let mut broken = plan.clone();
        broken.programs_mut()[2].inject(index, Injected::Skip);
        match broken.spawn() {
            Err(error) if error.kind() == ErrorKind::NotEnforced => {
                assert_eq!(error.step(), Step::Verification);
                assert!(error.object().is_some() && error.hint().is_some(), "{error}");
                noticed.insert(step);
            }
            // Later calls needed it: an error all the same.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Setup, "{index} {call}: {error}"),
            Ok(_) => panic!("{index} {step} {call}: not noticed"),
        }
    }
    before.assert_unchanged();
    let wanted =
        [Step::Session, Step::Limits, Step::BoundingSet, Step::Capabilities, Step::NoNewPrivs, Step::Seccomp];
    for step in wanted.into_iter().chain([Step::Mounts, Step::OpenFiles]) {
        assert!(noticed.contains(&step), "{step}: {noticed:?}");
    }
}

/// The plan without any call of this text.
fn without(mut plan: Plan, call: &str) -> Plan {
    let stage = &mut plan.programs_mut()[2];
    for index in 0..stage.len() {
        if stage.line(index).is_some_and(|line| line.contains(call)) {
            stage.inject(index, Injected::Skip);
        }
    }
    plan
}

#[test]
fn a_descriptor_that_would_stay_open_is_an_error() {
    let error = without(plan(Sandbox::builder()), "close_range").spawn().unwrap_err();
    assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some("descriptors")), "{error}");
}

#[test]
fn groups_that_were_to_be_dropped_and_are_not_are_an_error() {
    if !is_root() {
        skip!("groups can't be set", needs = "root");
    }
    in_child(|| {
        nix::unistd::setgroups(&[4, 24].map(nix::unistd::Gid::from_raw)).unwrap();
        let error = without(plan(Sandbox::builder()), "setgroups").spawn().unwrap_err();
        assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some("supplementary groups")));
        assert!(error.to_string().contains("\"none\", but the kernel says: 4 24"), "{error}");
    });
}

/// What the kernel tells nobody is said to be so, and what it can't do is said to be missing.
#[test]
fn rules_that_the_kernel_keeps_to_itself_are_applied_and_not_more() {
    use palisade::secfilter::landlock::{FsAccess, Landlock};
    if Landlock::abi().unwrap() == 0 {
        skip!("no Landlock", needs = "landlock");
    }
    let rules = Landlock::new().path("/", FsAccess::ALL).best_effort();
    let report = report(Sandbox::builder().landlock(rules).sysctl("net.ipv4.ip_default_ttl", "63"));
    assert!(matches!(state(&report, &Subject::Landlock), State::Applied(_)), "{report}");
    let sysctl = report.get(&Subject::Sysctl("net.ipv4.ip_default_ttl".into())).unwrap();
    assert_eq!(sysctl.asked(), "63");
    assert!(matches!(sysctl.state(), State::Applied(_)), "{report}");
    let missing = report.restrictions().iter().filter(|r| matches!(r.state(), State::Missing(_))).count();
    // Each ABI up to 6 brings something that this asks for.
    let wanted = [2, 3, 4, 5, 6].into_iter().filter(|&abi| Landlock::abi().unwrap() < abi).count();
    assert_eq!(missing, wanted, "{report}");
    assert_eq!(report.is_whole(), wanted == 0);
}

#[test]
fn clocks_and_joined_namespaces_are_compared() {
    use palisade::ns::{AnyNs, ClockOffset, TimeOffsets};
    let day = ClockOffset::forward(std::time::Duration::from_secs(86_400));
    let offsets =
        TimeOffsets::ZERO.monotonic(day).boottime(ClockOffset::back(std::time::Duration::from_millis(1500)));
    let clocks = report(Sandbox::builder().time_offsets(offsets));
    assert_eq!(state(&clocks, &Subject::Clocks), BEFORE, "{clocks}");
    assert_eq!(clocks.get(&Subject::Clocks).unwrap().asked(), "monotonic 86400 boottime -1.5");
    assert_eq!(state(&clocks, &Subject::Namespace(Namespace::Time)), BEFORE);
    // The offsets are left out.
    let broken = without(plan(Sandbox::builder().time_offsets(offsets)), "monotonic");
    let error = broken.spawn().unwrap_err();
    assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some("clocks")), "{error}");

    if is_root() {
        let other = Sandbox::new().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
        let net = AnyNs::of_process(other.id(), Namespace::Net).unwrap();
        let joined = report(Sandbox::builder().join(net.clone()));
        let row = joined.get(&Subject::Namespace(Namespace::Net)).unwrap();
        assert_eq!(*row.state(), BEFORE, "{joined}");
        assert!(row.asked().contains(&net.id().ino.to_string()), "{joined}");
    }
}

#[test]
fn the_lock_of_the_view_is_seen() {
    use palisade::creds::{Capability, CapabilitySet};
    let plain = report(Sandbox::builder());
    assert!(plain.get(&Subject::MountLock).is_none(), "{plain}");
    let powerful = CapabilitySet::EMPTY.with(Capability::SysAdmin);
    let report = report(Sandbox::builder().capabilities(powerful));
    assert_eq!(state(&report, &Subject::MountLock), BEFORE, "{report}");
    assert!(report.is_whole(), "{report}");
}

/// A further program in a living sandbox is looked at as well: its namespaces are that sandbox's.
#[test]
fn what_enters_is_verified() {
    let child = Sandbox::new().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
    let entered = child.exec("/bin/sleep").arg("1000").spawn().unwrap();
    let report = entered.enforced();
    assert!(report.is_whole(), "{report}");
    let net = report.get(&Subject::Namespace(Namespace::Net)).unwrap();
    assert_eq!(net.asked(), "the living sandbox's");
    assert_eq!(state(report, &Subject::Capabilities), BEFORE, "{report}");
    assert_eq!(state(report, &Subject::Seccomp), State::Verified(Moment::AfterExec), "{report}");
    // The kernel shows the links of a process that can't be dumped to privileged readers only.
    if is_root() {
        assert_eq!(*net.state(), BEFORE, "{report}");
        assert_eq!(state(report, &Subject::Descriptors), BEFORE, "{report}");
    }
}

#[test]
fn what_a_command_asks_for_is_in_the_report_too() {
    let sandbox = Sandbox::new().unwrap();
    let mut command = sandbox.command("/bin/sleep");
    command.arg("1000").nice(15).affinity([0]).oom_score_adj(500).umask(0o077);
    let child = command.spawn().unwrap();
    let report = child.enforced();
    for (subject, asked) in [(Subject::Nice, "15"), (Subject::OomScoreAdj, "500"), (Subject::Umask, "0077")] {
        assert_eq!(report.get(&subject).unwrap().asked(), asked);
        assert_eq!(state(report, &subject), BEFORE, "{report}");
    }
    assert_eq!(state(report, &Subject::Affinity), BEFORE, "{report}");
    // Left out, each is told on; on a single CPU every affinity is that one.
    let cpus = std::thread::available_parallelism().unwrap().get();
    for (call, object) in [("setpriority", "nice"), ("sched_setaffinity", "affinity")].into_iter().take(cpus)
    {
        let error = without(command.plan().unwrap(), call).spawn().unwrap_err();
        assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some(object)), "{error}");
    }
}

#[test]
fn a_plan_is_data() {
    let plan = plan(Sandbox::builder().bind_ro("/usr/share", "/opt"));
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["program"], "/bin/true");
    let stage = json["stage"].as_array().unwrap();
    let printed = plan.to_string();
    for call in stage {
        let text = call["call"].as_str().unwrap();
        assert!(printed.contains(text), "{text}");
        assert!(call["step"].is_string());
    }
    assert!(stage.iter().any(|call| call["step"] == "mounts" && call["object"] == "/opt"), "{json:#}");
    assert!(json["clone"].as_str().unwrap().contains("CLONE_NEWUSER") && json["id_maps"].is_array());
    let asked = json["restrictions"].as_array().unwrap();
    assert!(asked.iter().any(|row| row["subject"] == "no_new_privs" && row["asked"] == "on"));
    assert!(json["cgroup"].is_null() && json["guard"] == false);
}

/// What builds the view knows causes that the engine does not.
#[test]
fn a_failure_of_the_view_has_the_views_own_hint() {
    use palisade::fsroot::{File, Tmpfs};
    let small = Tmpfs::new("/small").size(4096);
    let full = File::new("/small/full", vec![b'x'; 4096]);
    let builder = Sandbox::builder().mount(small).mount(full).mount(File::new("/small/more", "y"));
    let error = builder.build().unwrap().command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::Mounts, Some(libc::ENOSPC)), "{error}");
    assert!(error.hint().unwrap().contains("limit is reached"), "{error}");
}
