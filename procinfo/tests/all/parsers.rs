//! Parsers on captures of several kernels (`tests/fixtures/capture.sh` makes them) and on texts that are odd but legal.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade_procinfo::{
    Capabilities, Cgroups, CommandLine, CpuInfo, Environment, ErrorKind, FdInfo, FileSystems, IdMap, Io,
    KernelVersion, Limits, LoadAverage, Maps, MemInfo, MountTable, Mounts, Partitions, Pressure, Resource,
    SeccompMode, Setgroups, SmapsRollup, Stat, State, Statm, Status, SystemStat, TimeOffsets, Uptime,
    UserNames,
};

pub(crate) fn fixtures() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut kernels: Vec<PathBuf> = std::fs::read_dir(all)
        .expect("fixtures")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.is_dir())
        .collect();
    kernels.sort();
    assert!(kernels.len() >= 2, "captures of several kernels");
    kernels
}

fn read(kernel: &Path, file: &str) -> Vec<u8> {
    std::fs::read(kernel.join(file)).unwrap_or_else(|e| panic!("{}/{file}: {e}", kernel.display()))
}

#[test]
fn captures_of_an_odd_process_parse_exactly() {
    for k in fixtures() {
        let s = Status::parse(&read(&k, "status")).unwrap();
        assert_eq!(s.name, ") R 1 (\n\\x", "{}", k.display());
        assert_eq!((s.uid.effective, s.pid, s.ppid, s.threads), (0, 1, 0, 1));
        assert!(s.no_new_privs);
        assert_eq!((s.seccomp, s.seccomp_filters), (Some(SeccompMode::Disabled), Some(0)));
        assert_eq!(s.umask, Some(0o022));
        assert!(s.capabilities.bounding & (1 << 21) != 0 && s.capabilities.ambient == 0);
        assert!(s.vm_rss.unwrap() > 1 << 20 && s.vm_rss <= s.vm_peak);
        assert_eq!(s.cpus_allowed, [0..=1]);

        let stat = Stat::parse(&read(&k, "stat")).unwrap();
        assert_eq!(stat.comm, s.name);
        assert_eq!((stat.pid, stat.ppid, stat.state), (1, 0, State::Running));
        assert!(stat.start_code < stat.end_code && stat.arguments.start < stat.environment.end);
        assert!(stat.start_time > Duration::ZERO && stat.virtual_size > 1 << 20);
        assert_eq!((stat.exit_signal, stat.exit_code), (17, 0));

        let mounts = Mounts::parse(&read(&k, "mountinfo")).unwrap();
        let table = MountTable::parse(&read(&k, "mounts")).unwrap();
        assert_eq!(mounts.mounts.len(), table.entries.len());
        for (m, t) in mounts.iter().zip(&table.entries) {
            assert_eq!((&m.source, &m.mount_point, &m.fs_type), (&t.source, &t.mount_point, &t.fs_type));
        }
        let root = mounts.at("/").unwrap();
        assert_eq!((root.source.to_str(), root.fs_type.to_str()), (Some(""), Some("tmpfs")));
        assert_eq!(mounts.at("/tmp").unwrap().source, "sp ace");
        let odd = mounts.at("/tmp/tab\tline\nback\\slash#(deleted)").unwrap();
        assert!(odd.source == "#hash" && odd.propagation.unbindable && odd.propagation.is_private());
        assert_eq!(mounts.at("/tmp/there").unwrap().root.to_str(), Some("/gone//deleted"));
        assert!(mounts.at("/tmp/ns").unwrap().root.to_str().unwrap().starts_with("uts:["));
        let (shared, slave) = (mounts.at("/tmp/shared").unwrap(), mounts.at("/tmp/slave").unwrap());
        assert!(shared.propagation.shared.is_some());
        assert_eq!(slave.propagation.master, shared.propagation.shared);
        let usr = mounts.at("/usr").unwrap();
        assert!(usr.has_option("ro") && usr.has_option("nosuid") && usr.is_read_only());
        assert!(mounts.at("/tmp").unwrap().has_super_option("size=64k"));

        let limits = Limits::parse(&read(&k, "limits")).unwrap();
        assert_eq!(limits.iter().count(), 16);
        assert_eq!(limits.get(Resource::Cpu).unwrap().to_string(), "unlimited:unlimited");
        assert_eq!(limits.get(Resource::FileSize).unwrap().soft, None);
        assert_eq!(limits.get(Resource::Nice).unwrap().soft, Some(0));

        assert_eq!(Cgroups::parse(&read(&k, "cgroup")).unwrap().unified(), Some(Path::new("/")));
        assert_eq!(
            IdMap::parse(&read(&k, "uid_map")).unwrap().to_outside(4_000_000_000),
            Some(4_000_000_000)
        );
        assert_eq!(IdMap::parse(&read(&k, "gid_map")).unwrap().to_inside(5), Some(5));
        assert_eq!(Setgroups::parse(&read(&k, "setgroups")).unwrap(), Setgroups::Allow);
        assert_eq!(TimeOffsets::parse(&read(&k, "timens_offsets")).unwrap(), TimeOffsets::default());
        assert_eq!(CommandLine::parse(&read(&k, "cmdline")).arguments, ["python3", "/tmp.py"]);
        let environ = Environment::parse(&read(&k, "environ"));
        assert_eq!(
            (environ.get("ODD"), environ.get("PATH")),
            (Some(OsStr::new("a=b")), Some(OsStr::new("/usr/bin")))
        );
        assert_eq!(environ.get("OD"), None);

        let statm = Statm::parse(&read(&k, "statm")).unwrap();
        assert!(statm.size > statm.resident && statm.resident > statm.shared);
        let io = Io::parse(&read(&k, "io")).unwrap();
        assert!(io.rchar > 0 && io.syscr > 0 && io.wchar > 0);
        let smaps = SmapsRollup::parse(&read(&k, "smaps_rollup")).unwrap();
        assert!(
            smaps.rss >= smaps.pss && smaps.pss >= smaps.private_dirty && smaps.get("Pss_Anon").is_some()
        );
        let maps = Maps::parse(&read(&k, "maps")).unwrap();
        let stack = maps.mappings.iter().find(|m| m.name == "[stack]").unwrap();
        assert_eq!(stack.permissions.to_string(), "rw-p");
        assert!(stack.address.contains(&stat.start_stack));
        let code = maps.mappings.iter().find(|m| m.permissions.execute && m.inode > 0).unwrap();
        assert!(code.name.as_bytes().starts_with(b"/usr/"));
    }
}

#[test]
fn captures_of_descriptors_parse_exactly() {
    for k in fixtures() {
        let all: Vec<FdInfo> = std::fs::read_dir(&k)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().as_bytes().starts_with(b"fdinfo-"))
            .map(|e| FdInfo::parse(&std::fs::read(e.unwrap().path()).unwrap()).unwrap())
            .collect();
        let with = |key: &str| all.iter().find(|i| i.extra(key).is_some()).unwrap_or_else(|| panic!("{key}"));
        assert_eq!(with("eventfd-count").extra("eventfd-count").unwrap().to_str(), Some("7"));
        assert_eq!(with("Pid").extra("NSpid").unwrap().to_str(), Some("1"));
        assert!(with("lock").position == 5 && with("lock").is_writable());
        assert!(all.iter().any(FdInfo::is_path));
        assert!(all.iter().any(|i| i.extra.iter().any(|l| l.as_bytes().starts_with(b"inotify wd:1 "))));
        assert!(all.iter().all(|i| i.mount_id.is_some() && i.inode.is_some()));
    }
}

#[test]
fn captures_of_the_system_parse_exactly() {
    for k in fixtures() {
        let version = KernelVersion::parse(&read(&k, "system-version")).unwrap();
        let (major, minor, _) = version.numbers;
        assert_eq!(k.file_name().unwrap().to_str(), Some(format!("{major}.{minor}").as_str()));
        assert!(version.to_string().starts_with(&format!("{major}.{minor}.")));
        let m = MemInfo::parse(&read(&k, "system-meminfo")).unwrap();
        assert!(m.available <= m.total && m.free <= m.total && m.get("Dirty").is_some());
        assert_eq!(m.get("HugePages_Total"), Some(0));
        let cpus = CpuInfo::parse(&read(&k, "system-cpuinfo")).unwrap();
        assert_eq!(cpus.cpus.iter().map(|c| c.processor).collect::<Vec<_>>(), [0, 1]);
        assert!(cpus.cpus[0].model_name().is_some() && cpus.cpus[0].flags().any(|f| f == "sse2"));
        let stat = SystemStat::parse(&read(&k, "system-stat")).unwrap();
        assert_eq!(stat.cpus.len(), 2);
        assert!(stat.total.user >= stat.cpus[0].1.user && stat.running >= 1 && stat.context_switches > 0);
        let up = Uptime::parse(&read(&k, "system-uptime")).unwrap();
        assert!(up.up > Duration::from_secs(1) && up.idle > Duration::ZERO);
        let load = LoadAverage::parse(&read(&k, "system-loadavg")).unwrap();
        assert!(load.total >= 1 && load.running <= load.total);
        let types = FileSystems::parse(&read(&k, "system-filesystems")).unwrap();
        assert!(!types.get("proc").unwrap().needs_device && types.get("ext4").unwrap().needs_device);
        Partitions::parse(&read(&k, "system-partitions")).unwrap();
        for of in ["cpu", "memory", "io"] {
            let p = Pressure::parse(&read(&k, &format!("system-pressure-{of}"))).unwrap();
            assert!(p.some.unwrap().avg10 <= 100.0 && p.full.is_some());
        }
    }
}

/// Changes one line of a captured status file.
fn status_with(from: &str, to: &str) -> Result<Status, palisade_procinfo::Error> {
    let text = String::from_utf8(read(&fixtures()[0], "status")).expect("text");
    assert!(text.contains(from), "{from}");
    Status::parse(text.replace(from, to).as_bytes())
}

#[test]
fn a_status_that_is_cut_short_or_says_a_thing_twice_is_an_error() {
    let text = read(&fixtures()[0], "status");
    let whole = Status::parse(&text).unwrap();
    let needed = text.windows(12).position(|w| w == b"\nNoNewPrivs:").unwrap() + 14;
    for end in 0..needed {
        let e = Status::parse(&text[..end]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Malformed, "cut at {end}");
    }
    assert!(Status::parse(&text[..needed]).is_ok());
    assert!(whole.seccomp.is_some());
    let e = status_with("Seccomp:\t0\n", "Seccomp:\t0\nSeccomp:\t2\n").unwrap_err();
    assert!(e.to_string().contains("Seccomp") && e.to_string().contains("twice"), "{e}");
    for (from, to) in [
        ("Uid:\t0\t0\t0\t0", "Uid:\t0\t0\t0"),
        ("Uid:\t0\t0\t0\t0", "Uid:\t0\t0\t0\t4294967296"),
        ("CapAmb:\t0000000000000000", "CapAmb:\t00000000000000000x"),
        ("CapAmb:\t0000000000000000", "CapAmb:\t10000000000000000"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t2"),
        ("Threads:\t1", "Threads:\t-1"),
    ] {
        assert_eq!(status_with(from, to).unwrap_err().kind(), ErrorKind::Malformed, "{to}");
    }
    let huge = status_with("NoNewPrivs:\t1", "NoNewPrivs:\t0\nNewLine:\t99999999999999999999999999").unwrap();
    assert!(!huge.no_new_privs, "lines of a newer kernel are passed over");
}

/// A116: a process gives itself a name that looks like the rest of the line.
#[test]
fn names_are_any_bytes() {
    let s = status_with("Name:\t) R 1 (\\n\\\\x\n", "Name:\t  \\\\n: \x7f \n").unwrap();
    assert_eq!(s.name, "  \\n: \x7f ");
    let text = read(&fixtures()[0], "stat");
    let (start, end) =
        (text.iter().position(|c| *c == b'(').unwrap(), text.iter().rposition(|c| *c == b')').unwrap());
    for name in [&b""[..], b")", b"(", b") S 1 1 1 (", b"\xff\xfe\n ", b")))))))))))))))"] {
        let changed = [&text[..=start], name, &text[end..]].concat();
        assert_eq!(Stat::parse(&changed).unwrap().comm.as_bytes(), name);
    }
    assert!(Stat::parse(b"1 (a").is_err() && Stat::parse(b"1 )(").is_err() && Stat::parse(b"").is_err());
}

/// procfs issue 333: pasta mounts a tmpfs with an empty source.
#[test]
fn an_empty_mount_source_is_legal() {
    let m = Mounts::parse(b"36 35 0:43 / /x rw - tmpfs  rw,size=4k\n").unwrap();
    assert_eq!(
        (m.mounts[0].source.to_str(), m.mounts[0].super_options.to_str()),
        (Some(""), Some("rw,size=4k"))
    );
    assert!(MountTable::parse(b" /x tmpfs rw,size=4k 0 0\n").unwrap().entries[0].source.is_empty());
}

#[test]
fn mountinfo_that_is_odd_but_legal() {
    let line = b"1 0 0:1 /a\\040b\\134\\012 /m\\377\\400\\09 rw shared:1 master:2 propagate_from:3 new:x - fuse.a\\040b s rw,a b,c\n";
    let m = &Mounts::parse(line).unwrap().mounts[0];
    assert_eq!(m.root.as_os_str().as_bytes(), b"/a b\\\n");
    assert_eq!(m.mount_point.as_os_str().as_bytes(), b"/m\xff\\400\\09");
    let p = &m.propagation;
    assert_eq!((p.shared, p.master, p.propagate_from, p.other.len()), (Some(1), Some(2), Some(3), 1));
    assert!(m.fs_type == "fuse.a b" && m.super_options == "rw,a b,c");
    assert!(m.has_super_option("c") && !m.has_super_option("b"));
    for bad in [
        &b"1 0 0:1 / / rw - tmpfs x\n"[..],
        b"1 0 0:1 / / rw tmpfs x rw\n",
        b"1 0 01 / / rw - tmpfs x rw\n",
        b"18446744073709551616 0 0:1 / / rw - tmpfs x rw\n",
        b"1 0 0:1 / /\n",
        b"\n\n",
    ] {
        let e = Mounts::parse(bad).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Malformed);
        assert!(e.to_string().starts_with("mountinfo: line 1, field "), "{e}");
    }
    assert!(Mounts::parse(b"").unwrap().mounts.is_empty());
}

#[test]
fn cgroup_paths_may_hold_colons() {
    let c = Cgroups::parse(b"5:cpu,cpuacct:/a\n1:name=systemd:/s\n0::/a:b/c: (deleted)\n").unwrap();
    assert_eq!(c.unified().unwrap().to_str(), Some("/a:b/c: (deleted)"));
    assert_eq!(c.of_controller("cpuacct").unwrap().to_str(), Some("/a"));
    assert_eq!(c.of_controller("name=systemd").unwrap().to_str(), Some("/s"));
    assert_eq!(c.of_controller("memory"), None);
    for bad in [&b"0::a\n"[..], b"0:/a\n", b"x::/a\n", b"0\n", b"4294967296::/\n"] {
        assert!(Cgroups::parse(bad).is_err());
    }
}

#[test]
fn id_maps_translate_both_ways_and_never_beyond_their_ranges() {
    let map = IdMap::parse(b"         0       1000          1\n  1     100000      65536\n4294967294 5 9\n")
        .unwrap();
    assert_eq!(
        (map.to_outside(0), map.to_outside(1), map.to_outside(65536)),
        (Some(1000), Some(100_000), Some(165_535))
    );
    assert_eq!((map.to_outside(65537), map.to_inside(1001), map.to_inside(100_000)), (None, None, Some(1)));
    assert_eq!((map.to_inside(6), map.to_inside(7)), (Some(u32::MAX), None), "no wrap at 2^32");
    assert_eq!(IdMap::parse(b"").unwrap().to_outside(0), None);
    for bad in [&b"0 0\n"[..], b"0 0 1 1\n", b"-1 0 1\n", b"0 0 4294967296\n"] {
        assert!(IdMap::parse(bad).is_err());
    }
}

#[test]
fn time_offsets_are_signed_and_named_or_numbered() {
    let t = TimeOffsets::parse(b"monotonic           -5         999999999\nboottime      86400         0\n")
        .unwrap();
    assert_eq!((t.monotonic.seconds, t.monotonic.nanoseconds, t.boottime.seconds), (-5, 999_999_999, 86400));
    assert_eq!(TimeOffsets::parse(b"1 -5 999999999\n7 86400 0\n").unwrap(), t);
    assert!(TimeOffsets::parse(b"monotonic 0 0\n").is_err());
    assert!(TimeOffsets::parse(b"monotonic 0 1000000000\nboottime 0 0\n").is_err());
}

#[test]
fn maps_with_odd_names() {
    let text = b"7f00-7f01 r-xs 0000ff fe:1a 42                /a b\\012c (deleted)\n\
                 ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n\
                 0-1 rw-p 0 00:00 0 \n";
    let m = Maps::parse(text).unwrap().mappings;
    assert_eq!((m[0].name.as_bytes(), m[0].offset, m[0].inode), (&b"/a b\nc (deleted)"[..], 255, 42));
    assert_eq!((m[0].device.major, m[0].device.minor), (0xfe, 0x1a));
    assert!(m[0].permissions.shared && !m[0].permissions.write);
    assert_eq!(m[1].address.end, 0xffff_ffff_ff60_1000);
    assert!(m[2].name.is_empty());
    for bad in [&b"0-1 rwxq 0 0:0 0\n"[..], b"0-1 rw 0 0:0 0\n", b"0 rwxp 0 0:0 0\n", b"0-1 rwxp 0 0 0\n"] {
        assert!(Maps::parse(bad).is_err());
    }
}

#[test]
fn versions_are_whatever_the_builder_said() {
    let numbers = |text: &[u8]| KernelVersion::parse(text).unwrap().numbers;
    assert_eq!(numbers(b"Linux version 4.9.16-gentoo (a@b)\n"), (4, 9, 16));
    assert_eq!(numbers(b"Linux version 6.1.0-rc3+\n"), (6, 1, 0));
    assert_eq!(numbers(b"Linux version 5.4"), (5, 4, 0));
    assert_eq!(numbers(b"Linux version custom.99999999999999999999"), (0, 0, 0));
    assert!(KernelVersion::parse(b"FreeBSD 14").is_err() && KernelVersion::parse(b"Linux version").is_err());
}

#[test]
fn small_files_at_their_limits() {
    assert_eq!(Uptime::parse(b"18446744073709551615.99 0.00\n").unwrap().up.subsec_millis(), 990);
    assert!(Uptime::parse(b"1e3 2\n").is_err() && Uptime::parse(b"inf.00 0.00\n").is_err());
    let load = LoadAverage::parse(b"0.06 12.50 0.00 1/92 5620\n").unwrap();
    assert!((load.five - 12.5).abs() < 1e-9);
    for bad in [&b"nan 0 0 1/1 1"[..], b"1.0 1.0 1.0 1 1", b"-1 0 0 1/1 1", b"1.2.3 0 0 1/1 1"] {
        assert!(LoadAverage::parse(bad).is_err());
    }
    let p = Partitions::parse(b"major minor  #blocks  name\n\n 254        0  268435456 vda\n").unwrap();
    assert_eq!((p.partitions[0].size, p.partitions[0].name.to_str()), (256 << 30, Some("vda")));
    assert!(Partitions::parse(b"").unwrap().partitions.is_empty());
    let irq = Pressure::parse(b"full avg10=0.00 avg60=1.25 avg300=0.00 total=1500000\n").unwrap();
    assert_eq!((irq.some, irq.full.unwrap().total), (None, Duration::from_millis(1500)));
    let arm =
        CpuInfo::parse(b"processor\t: 0\nFeatures\t: fp asimd\n\nHardware\t: x\nprocessor\t: 3\n").unwrap();
    assert_eq!((arm.cpus.len(), arm.cpus[1].processor, arm.machine.len()), (2, 3, 1));
    assert_eq!(arm.cpus[0].flags().count(), 2);
    assert_eq!(Setgroups::parse(b"deny\n").unwrap(), Setgroups::Deny);
    assert!(Setgroups::parse(b"").is_err());
    assert!(MemInfo::parse(b"MemTotal: 18446744073709551615 kB\n").is_err(), "more bytes than a u64 holds");
}

#[test]
fn command_lines_and_environments_are_any_bytes() {
    let c = CommandLine::parse(b"a\0\0b c\n\xff\\\0");
    assert_eq!(c.arguments.len(), 3);
    assert_eq!(c.to_string(), "a  b c\\012\\377\\\\");
    assert_eq!(CommandLine::parse("a\u{202e}b\u{85}".as_bytes()).to_string(), "a\\342\\200\\256b\\302\\205");
    assert_eq!(CommandLine::parse(b"rewritten title").arguments, ["rewritten title"]);
    assert!(CommandLine::parse(b"").is_empty());
    let e = Environment::parse(b"A=1\0A=2\0plain\0=x\0B=");
    assert_eq!((e.get("A"), e.get("B"), e.get("plain")), (Some(OsStr::new("1")), Some(OsStr::new("")), None));
    assert_eq!(e.strings.len(), 5);
}

#[test]
fn user_names_come_from_lines_that_have_them() {
    let u = UserNames::parse(b"root:x:0:0::/:/bin/sh\n\n# c:x:1:1\nbad\ntoor:x:0:0\nn:x:12\nbig:x:4294967296:\n+nis::::\n\xff:x:5:5\nlast:x:7");
    assert_eq!(
        (u.name(0), u.name(12), u.name(7), u.name(5)),
        ("root".into(), "n".into(), "last".into(), "5".into())
    );
    assert_eq!((u.uid("root"), u.uid("12"), u.uid("nobody")), (Some(0), Some(12), None));
}

#[test]
fn capability_names_and_summary() {
    let docker = Capabilities { permitted: 0xa804_25fb, bounding: (1 << 41) - 1, ..Capabilities::default() };
    assert_eq!(Capabilities::names(docker.permitted).len(), 14);
    assert!(Capabilities::names(docker.permitted).contains(&"cap_net_raw".to_owned()));
    assert_eq!(Capabilities::names(1 << 63 | 1), ["cap_chown", "cap_63"]);
    let text = docker.to_string();
    assert!(
        text.contains("CapPrm: 00000000a80425fb cap_chown,") && text.contains("(41 capabilities)"),
        "{text}"
    );
    assert!(text.ends_with("CapAmb: 0000000000000000 (none)"));
}
