//! Profiles: Docker's default as data, its meaning, and what the kernel makes of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use palisade_secfilter::{
    Action, Arch, ErrorKind, Filter, Host, KernelVersion, Profile, SeccompData, Syscall,
};

/// The 14 of a Docker container: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW
/// SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
const DOCKER_CAPS: u64 = 0xa804_25fb;
const SYS_ADMIN: u64 = 1 << 21;

const fn kernel(major: u32, minor: u32) -> KernelVersion {
    KernelVersion { major, minor }
}

fn docker(capabilities: u64) -> Filter {
    let host = Host::new(kernel(6, 1)).capabilities(capabilities);
    Profile::docker_default().policy(&host).unwrap().compile().unwrap()
}

fn verdict(filter: &Filter, name: &str) -> Option<Action> {
    filter.verdict(name.parse().unwrap()).always()
}

fn answer(filter: &Filter, name: &str, args: [u64; 3]) -> Action {
    let [a, b, c] = args;
    filter.evaluate(&SeccompData::new(name.parse().unwrap(), [a, b, c, 0, 0, 0]))
}

/// Refused under the default capabilities, of the calls up to Linux 6.1.
const REFUSED: &str = "_sysctl acct add_key afs_syscall bpf clock_settime clone3 create_module delete_module \
    fanotify_init finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy getpmsg init_module \
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie \
    mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree \
    perf_event_open pidfd_getfd pivot_root process_madvise putpmsg query_module quotactl quotactl_fd reboot request_key \
    security set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs \
    syslog tuxcall umount2 unshare uselib userfaultfd ustat vhangup vserver";

#[test]
fn docker_default_answers_as_listed() {
    let filter = docker(DOCKER_CAPS);
    let refused: Vec<&str> = REFUSED.split_whitespace().collect();
    assert_eq!(refused.len(), 67);
    let mut allowed = 0;
    for (call, verdict) in
        filter.verdicts().filter(|(call, _)| call.number() <= 450 && !matches!(call.number(), 335 | 336))
    {
        let name = call.name().unwrap();
        if name == "clone3" {
            assert_eq!(verdict.always(), Some(Action::ENOSYS));
        } else if refused.contains(&name) {
            assert_eq!(verdict.always(), Some(Action::EPERM), "{name}");
        } else if ["clone", "personality", "socket"].contains(&name) {
            assert_eq!(verdict.actions(), [Action::EPERM, Action::Allow], "{name}");
        } else {
            assert!(verdict.always_allows(), "{name}");
            allowed += 1;
        }
    }
    assert_eq!(allowed, 292);
    for family in 0..64 {
        let expected = if family == 38 || family == 40 { Action::EPERM } else { Action::Allow };
        assert_eq!(answer(&filter, "socket", [family, 1, 0]), expected, "{family}");
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(answer(&filter, "personality", [persona, 0, 0]), Action::Allow);
    }
    assert_eq!(answer(&filter, "personality", [0x4_0000, 0, 0]), Action::EPERM);
    assert_eq!(answer(&filter, "clone", [0x3d_0f00, 0, 0]), Action::Allow);
    assert_eq!(answer(&filter, "clone", [0x1000_0011, 0, 0]), Action::EPERM);
    // Newer than anything that the profile names; in the holes of the table; of no kernel.
    for nr in [467, 468, 469, 470, 471, 472, 500, 350] {
        assert_eq!(filter.verdict(Syscall::new(nr)).always(), Some(Action::ENOSYS), "{nr}");
    }
}

#[test]
fn capabilities_and_kernel_open_entries() {
    let filter = docker(DOCKER_CAPS | SYS_ADMIN);
    for name in "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
                 lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
                 quotactl_fd setdomainname sethostname setns syslog umount2 unshare"
        .split_whitespace()
    {
        assert_eq!(verdict(&filter, name), Some(Action::Allow), "{name}");
    }
    for (bit, name) in [
        (2, "open_by_handle_at"),
        (16, "finit_module"),
        (17, "iopl"),
        (18, "chroot"),
        (19, "kcmp"),
        (20, "acct"),
        (22, "reboot"),
        (23, "mbind"),
        (25, "clock_settime"),
        (26, "vhangup"),
        (34, "syslog"),
        (38, "perf_event_open"),
        (39, "bpf"),
    ] {
        assert_eq!(verdict(&docker(0), name), Some(Action::EPERM), "{name}");
        assert_eq!(verdict(&docker(1 << bit), name), Some(Action::Allow), "{name}");
    }
    let old = Profile::docker_default().policy(&Host::new(kernel(4, 7))).unwrap().compile().unwrap();
    assert_eq!(verdict(&old, "ptrace"), Some(Action::EPERM));
    assert_eq!(verdict(&docker(0), "ptrace"), Some(Action::Allow));
}

#[test]
fn docker_default_has_a_table_for_i386() {
    let filter = docker(DOCKER_CAPS);
    let ask = |nr| {
        filter.evaluate(&SeccompData { nr, arch: Arch::X86.audit(), instruction_pointer: 0, args: [0; 6] })
    };
    assert_eq!(ask(3), Action::Allow, "read");
    assert_eq!(ask(21), Action::EPERM, "mount");
    assert_eq!(ask(212), Action::Allow, "chown32");
    assert_eq!(ask(472), Action::ENOSYS);
}

#[test]
fn kernel_versions_parse() {
    for (text, version) in
        [("4.8", (4, 8)), ("6.18.0-rc1-foo", (6, 18)), ("5.15-generic", (5, 15)), ("6.1+", (6, 1))]
    {
        assert_eq!(text.parse::<KernelVersion>().unwrap(), kernel(version.0, version.1));
    }
    for text in ["", "4", "4.", ".8", "a.b", "4.x", "99999999999.1", "-1.2"] {
        assert_eq!(text.parse::<KernelVersion>().unwrap_err().kind(), ErrorKind::Profile, "{text}");
    }
    Host::running().unwrap();
}

#[cfg(feature = "profiles")]
mod json {
    use super::*;
    use proptest::prelude::*;

    fn policy(json: &str) -> palisade_secfilter::Policy {
        Profile::from_json(json.as_bytes()).unwrap().policy(&Host::new(kernel(6, 1))).unwrap()
    }

    fn filter(json: &str) -> Filter {
        policy(json).compile().unwrap()
    }

    /// Digest of the table when it was last compared with the published file, entry by entry. A change of the table
    /// makes it differ: compare again, with `PALISADE_DOCKER_PROFILE` naming the file of the commit that
    /// `Profile::DOCKER_DEFAULT_SOURCE` says, and record the new one.
    const COMPARED: u64 = 0x5d83_5c98_0d19_cf9a;

    #[test]
    fn docker_table_is_the_published_file() {
        if let Some(path) = std::env::var_os("PALISADE_DOCKER_PROFILE") {
            let bytes = std::fs::read(path).unwrap();
            assert_eq!(Profile::from_json(&bytes).unwrap(), Profile::docker_default());
        }
        // FNV-1a.
        let text = format!("{:?}", Profile::docker_default());
        let digest = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(digest, COMPARED, "{digest:#x}: the table has changed since it was compared");
    }

    #[test]
    fn a_two_line_profile_refuses_one_call() {
        let filter = filter(
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#,
        );
        assert_eq!(verdict(&filter, "mkdir"), Some(Action::EPERM));
        assert_eq!(verdict(&filter, "mount"), Some(Action::Allow));
        assert_eq!(
            filter.verdict(Syscall::new(500)).always(),
            Some(Action::Allow),
            "the default lets calls through"
        );
    }

    #[test]
    fn repeated_indices_are_alternatives() {
        let with = |second: &str| {
            filter(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                    {{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}}, {second}]}}]}}"#
            ))
        };
        let both = with(r#"{"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}"#);
        assert_eq!(answer(&both, "read", [1, 2, 0]), Action::Allow);
        assert_eq!(answer(&both, "read", [1, 3, 0]), Action::EPERM);
        let either = with(r#"{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}"#);
        for (value, expected) in [(1, Action::Allow), (2, Action::Allow), (3, Action::EPERM)] {
            assert_eq!(answer(&either, "read", [value, 0, 0]), expected);
        }
    }

    #[test]
    fn every_action_and_operator() {
        for (name, action) in [
            ("KILL", Action::KillThread),
            ("KILL_THREAD", Action::KillThread),
            ("KILL_PROCESS", Action::KillProcess),
            ("TRAP", Action::Trap(0)),
            ("ERRNO", Action::Errno(7)),
            ("TRACE", Action::Trace(7)),
            ("LOG", Action::Log),
            ("NOTIFY", Action::UserNotif),
        ] {
            let filter = filter(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"name": "read", "action": "SCMP_ACT_{name}", "errnoRet": 7}}]}}"#
            ));
            assert_eq!(verdict(&filter, "read"), Some(action));
        }
        for (op, values) in [
            ("NE", [1, 2]),
            ("LT", [0, 3]),
            ("LE", [2, 3]),
            ("EQ", [2, 3]),
            ("GE", [2, 1]),
            ("GT", [3, 2]),
            ("MASKED_EQ", [6, 5]),
        ] {
            let filter = filter(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                    "args": [{{"index": 0, "value": 2, "valueTwo": 2, "op": "SCMP_CMP_{op}"}}]}}]}}"#
            ));
            assert_eq!(answer(&filter, "read", [values[0], 0, 0]), Action::Allow, "{op}");
            assert_eq!(answer(&filter, "read", [values[1], 0, 0]), Action::EPERM, "{op}");
        }
    }

    #[test]
    fn an_entry_without_arguments_decides() {
        let filter = filter(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_GE"}]},
                {"names": ["close"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_LT"}]}]}"#,
        );
        assert_eq!(verdict(&filter, "read"), Some(Action::Allow));
        assert_eq!(verdict(&filter, "write"), Some(Action::Allow), "always true is no condition");
        assert_eq!(verdict(&filter, "close"), Some(Action::EPERM), "never true is no rule");
    }

    #[test]
    fn an_oci_section() {
        let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"], "listenerPath": "/run/l.sock", "listenerMetadata": "m",
            "syscalls": [{"names": ["execve", "execveat", "no_such_call", "chown32"], "action": "SCMP_ACT_ALLOW"}]}"#;
        let profile = Profile::from_json(json.as_bytes()).unwrap();
        assert_eq!(profile.listener_path(), Some(std::path::Path::new("/run/l.sock")));
        assert_eq!(profile.listener_metadata(), Some("m"));
        let filter = filter(json);
        filter.permits_exec().unwrap();
        assert_eq!(verdict(&filter, "read"), Some(Action::ENOSYS));
        let i386 = SeccompData { nr: 11, arch: Arch::X86.audit(), instruction_pointer: 0, args: [0; 6] };
        assert_eq!(filter.evaluate(&i386), Action::KillProcess);
        assert!(Profile::from_json(b"{}").unwrap().is_unconfined());
        assert!(!profile.is_unconfined());
    }

    /// A73.
    #[test]
    fn a73_hostile_profiles_are_typed_errors() {
        let entry = |entry: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{entry}]}}"#);
        let arg = |arg: &str| {
            entry(&format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{arg}]}}"#))
        };
        for json in [
            String::new(),
            "nonsense".to_owned(),
            "[]".to_owned(),
            "[".repeat(100_000),
            r#"{"defaultAction": "SCMP_ACT_EVERYTHING"}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOTHING"}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "defaultErrnoRet": 1}"#
                .to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": "SCMP_ACT_ALLOW"}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_PDP11"]}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "x86_64"}]}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": null}]}"#
                .to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_OFF"]}"#.to_owned(),
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscals": []}"#.to_owned(),
            entry(r#"{"action": "SCMP_ACT_ALLOW"}"#),
            entry(r#"{"name": "read", "names": ["read"], "action": "SCMP_ACT_ALLOW"}"#),
            entry(r#"{"names": ["read"]}"#),
            entry(r#"{"names": ["read"], "action": "ALLOW"}"#),
            entry(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}"#),
            entry(
                r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "include": {"caps": ["CAP_SYS_ADMIN"]}}"#,
            ),
            arg(r#"{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}"#),
            arg(r#"{"index": 0, "value": 0, "op": "=="}"#),
            arg(r#"{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}"#),
            arg(r#"{"index": 0, "value": 1e400, "op": "SCMP_CMP_EQ"}"#),
            arg(r#"{"index": 0, "value": 18446744073709551616, "op": "SCMP_CMP_EQ"}"#),
            arg(r#"{"index": 0, "op": "SCMP_CMP_EQ"}"#),
            " ".repeat(5 << 20),
        ] {
            let error = Profile::from_json(json.as_bytes()).unwrap_err();
            let short: String = json.chars().take(120).collect();
            assert_eq!(error.kind(), ErrorKind::Profile, "{short}");
            assert!(error.to_string().len() < 400, "{error}");
        }
        for json in [
            r#"{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#.to_owned(),
            entry(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_ANY"]}}"#),
            entry(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["vax"]}}"#),
        ] {
            let error =
                Profile::from_json(json.as_bytes()).unwrap().policy(&Host::new(kernel(6, 1))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Profile, "{json}");
        }
        // 100,000 rules on one call: refused, and soon.
        let rules: Vec<String> = (0..30_000)
            .map(|i| format!(r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,"value":{i},"op":"SCMP_CMP_EQ"}}]}}"#))
            .collect();
        let error = policy(&entry(&rules.join(","))).compile().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let null = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": null, "syscalls": null}"#;
        assert!(policy(null).compile().is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Profile::from_json(&bytes).map(|profile| profile.policy(&Host::new(kernel(6, 1))));
        }

        /// A published profile with pieces cut out or doubled.
        #[test]
        fn broken_profiles_do_not_make_it_panic(at in 0usize..600, len in 0usize..80, twice: bool) {
            let mut json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": [{"architecture": "SCMP_ARCH_X86_64",
                "subArchitectures": ["SCMP_ARCH_X86"]}], "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_LT"}], "includes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8"},
                "excludes": {"arches": ["s390"]}}]}"#.as_bytes().to_vec();
            let (at, end) = (at.min(json.len()), (at + len).min(json.len()));
            let piece = json[at..end].to_vec();
            if twice { json.splice(at..at, piece); } else { json.drain(at..end); }
            if let Ok(profile) = Profile::from_json(&json) {
                if let Ok(policy) = profile.policy(&Host::new(kernel(6, 1))) {
                    let _ = policy.compile();
                }
            }
        }
    }
}
