//! Against others: the procfs crate on the same bytes, procps and util-linux on the same machine.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use palisade_procinfo as p;
use palisade_procinfo::{NamespaceTable, Parts, ProcessTable, Snapshot, Tree, TreeStyle, UserNames};
use procfs::{FromBufRead, FromRead};

use palisade_testkit::skip;

use crate::common::{Reaped, root};
use crate::parsers::fixtures;
use crate::views::{end, family, settled};

/// The captures, and every process that there is now.
fn texts(file: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        fixtures().iter().map(|k| std::fs::read(k.join(file)).expect("a capture")).collect();
    let live = root().pids().expect("pids").into_iter().map(|pid| format!("/proc/{pid}/{file}"));
    all.extend(live.filter_map(|path| std::fs::read(path).ok()).filter(|text| !text.is_empty()));
    assert!(all.len() > fixtures().len(), "the own process at least");
    all
}

fn ticks(n: u64) -> Duration {
    Duration::from_millis(n * 10)
}

fn id(n: i32) -> Option<u32> {
    u32::try_from(n).ok()
}

#[test]
fn stat_is_what_the_procfs_crate_reads() {
    for text in texts("stat") {
        let Ok(theirs) = procfs::process::Stat::from_read(&text[..]) else { continue };
        let s = p::Stat::parse(&text).unwrap();
        assert_eq!(
            (Some(s.pid), Some(s.ppid), s.comm.to_str()),
            (id(theirs.pid), id(theirs.ppid), Some(&*theirs.comm))
        );
        assert_eq!((s.state.letter(), s.flags), (theirs.state, theirs.flags));
        assert_eq!((s.pgrp, s.session, s.tpgid), (id(theirs.pgrp), id(theirs.session), id(theirs.tpgid)));
        let (major, minor) = theirs.tty_nr();
        let tty = s.tty.map_or((0, 0), |d| (d.major, d.minor));
        assert_eq!(tty, (u32::try_from(major).unwrap(), u32::try_from(minor).unwrap()));
        assert_eq!((s.minor_faults, s.children_minor_faults), (theirs.minflt, theirs.cminflt));
        assert_eq!((s.major_faults, s.children_major_faults), (theirs.majflt, theirs.cmajflt));
        assert_eq!((s.user_time, s.system_time), (ticks(theirs.utime), ticks(theirs.stime)));
        assert_eq!(s.children_user_time, ticks(u64::try_from(theirs.cutime).unwrap()));
        assert_eq!(s.children_system_time, ticks(u64::try_from(theirs.cstime).unwrap()));
        assert_eq!((i64::from(s.priority), i64::from(s.nice)), (theirs.priority, theirs.nice));
        assert_eq!((i64::from(s.threads), s.start_time), (theirs.num_threads, ticks(theirs.starttime)));
        assert_eq!(
            (s.virtual_size, s.resident_pages, s.resident_limit),
            (theirs.vsize, theirs.rss, theirs.rsslim)
        );
        assert_eq!(
            (s.start_code, s.end_code, s.start_stack),
            (theirs.startcode, theirs.endcode, theirs.startstack)
        );
        assert_eq!((Some(s.exit_signal), Some(s.exit_code)), (theirs.exit_signal, theirs.exit_code));
        assert_eq!(Some(s.processor), theirs.processor.and_then(id));
        assert_eq!((Some(s.realtime_priority), Some(s.policy)), (theirs.rt_priority, theirs.policy));
        assert_eq!(Some(s.block_io_delay), theirs.delayacct_blkio_ticks.map(ticks));
        assert_eq!(Some(s.guest_time), theirs.guest_time.map(ticks));
        assert_eq!(
            (Some(s.start_data), Some(s.end_data), Some(s.start_brk)),
            (theirs.start_data, theirs.end_data, theirs.start_brk)
        );
        assert_eq!((Some(s.arguments.start), Some(s.arguments.end)), (theirs.arg_start, theirs.arg_end));
        assert_eq!((Some(s.environment.start), Some(s.environment.end)), (theirs.env_start, theirs.env_end));
    }
}

#[test]
fn status_is_what_the_procfs_crate_reads() {
    let kib = |n: Option<u64>| n.map(|n| n * 1024);
    let pids = |v: Option<Vec<i32>>| v.unwrap_or_default().into_iter().filter_map(id).collect::<Vec<_>>();
    let ranges = |v: Option<Vec<(u32, u32)>>| {
        v.unwrap_or_default().into_iter().map(|(a, b)| a..=b).collect::<Vec<_>>()
    };
    for text in texts("status") {
        let Ok(t) = procfs::process::Status::from_buf_read(&text[..]) else { continue };
        let s = p::Status::parse(&text).unwrap();
        // That crate ends a name at its first colon, and leaves the kernel's escapes in.
        let name = s.name.to_str().map(|n| n.replace('\\', "\\\\").replace('\n', "\\n"));
        assert_eq!(name.as_deref().and_then(|n| n.split(':').next()), Some(&*t.name));
        assert_eq!((s.umask, t.state.chars().next()), (t.umask, Some(s.state.letter())));
        assert_eq!((Some(s.tgid), Some(s.pid), Some(s.ppid)), (id(t.tgid), id(t.pid), id(t.ppid)));
        assert_eq!((s.ngid, Some(s.tracer_pid)), (t.ngid.and_then(id), id(t.tracerpid)));
        assert_eq!((s.uid.real, s.uid.effective, s.uid.saved, s.uid.fs), (t.ruid, t.euid, t.suid, t.fuid));
        assert_eq!((s.gid.real, s.gid.effective, s.gid.saved, s.gid.fs), (t.rgid, t.egid, t.sgid, t.fgid));
        assert_eq!((s.fd_size, s.groups), (Some(u64::from(t.fdsize)), t.groups));
        assert_eq!((s.ns_tgid, s.ns_pid), (pids(t.nstgid), pids(t.nspid)));
        assert_eq!((s.ns_pgid, s.ns_sid), (pids(t.nspgid), pids(t.nssid)));
        assert_eq!(
            [s.vm_peak, s.vm_size, s.vm_locked, s.vm_pinned],
            [t.vmpeak, t.vmsize, t.vmlck, t.vmpin].map(kib)
        );
        assert_eq!(
            [s.vm_hwm, s.vm_rss, s.rss_anon, s.rss_file],
            [t.vmhwm, t.vmrss, t.rssanon, t.rssfile].map(kib)
        );
        assert_eq!(
            [s.rss_shmem, s.vm_data, s.vm_stack, s.vm_exe],
            [t.rssshmem, t.vmdata, t.vmstk, t.vmexe].map(kib)
        );
        assert_eq!(
            [s.vm_lib, s.vm_pte, s.vm_swap, s.hugetlb_pages],
            [t.vmlib, t.vmpte, t.vmswap, t.hugetlbpages].map(kib)
        );
        assert_eq!((u64::from(s.threads), s.signal_queue), (t.threads, Some(t.sigq)));
        assert_eq!((s.signals_pending, s.signals_pending_shared), (t.sigpnd, t.shdpnd));
        assert_eq!((s.signals_blocked, s.signals_ignored, s.signals_caught), (t.sigblk, t.sigign, t.sigcgt));
        let c = s.capabilities;
        assert_eq!((c.inheritable, c.permitted, c.effective), (t.capinh, t.capprm, t.capeff));
        assert_eq!((Some(c.bounding), Some(c.ambient)), (t.capbnd, t.capamb));
        assert_eq!(Some(u64::from(s.no_new_privs)), t.nonewprivs);
        assert_eq!(s.seccomp == Some(p::SeccompMode::Disabled), t.seccomp == Some(0));
        assert_eq!(s.speculation_store_bypass.map(|v| v.into_string().unwrap()), t.speculation_store_bypass);
        assert_eq!(
            (s.cpus_allowed, s.mems_allowed),
            (ranges(t.cpus_allowed_list), ranges(t.mems_allowed_list))
        );
        assert_eq!(
            (s.voluntary_switches, s.involuntary_switches),
            (t.voluntary_ctxt_switches, t.nonvoluntary_ctxt_switches)
        );
        assert_eq!((s.core_dumping, s.thp_enabled), (t.core_dumping, t.thp_enabled));
    }
}

#[test]
fn mounts_limits_memory_and_the_rest_are_what_the_procfs_crate_reads() {
    for text in texts("mountinfo") {
        let Ok(theirs) = procfs::process::MountInfos::from_buf_read(&text[..]) else { continue };
        let ours = p::Mounts::parse(&text).unwrap();
        assert_eq!(ours.mounts.len(), theirs.0.len());
        for (m, t) in ours.iter().zip(theirs.0) {
            assert_eq!((m.id, m.parent), (u64::try_from(t.mnt_id).unwrap(), u64::try_from(t.pid).unwrap()));
            assert_eq!((m.device.to_string(), m.fs_type.to_str()), (t.majmin, Some(&*t.fs_type)));
            // That crate leaves the escapes in the root, and in mount points but for blanks.
            if !text.contains(&b'\\') {
                assert_eq!((m.root.to_str(), &m.mount_point), (Some(&*t.root), &t.mount_point));
                assert_eq!(m.source.to_str(), Some(t.mount_source.as_deref().unwrap_or("none")));
            }
            for (option, value) in t.mount_options {
                assert!(m.has_option(&value.map_or(option.clone(), |v| format!("{option}={v}"))));
            }
        }
    }
    for text in texts("limits") {
        let ours = p::Limits::parse(&text).unwrap();
        let t = procfs::process::Limits::from_buf_read(&text[..]).unwrap();
        let theirs = [
            t.max_cpu_time,
            t.max_file_size,
            t.max_data_size,
            t.max_stack_size,
            t.max_core_file_size,
            t.max_resident_set,
            t.max_processes,
            t.max_open_files,
            t.max_locked_memory,
            t.max_address_space,
            t.max_file_locks,
            t.max_pending_signals,
            t.max_msgqueue_size,
            t.max_nice_priority,
            t.max_realtime_priority,
            t.max_realtime_timeout,
        ];
        let value = |v| match v {
            procfs::process::LimitValue::Unlimited => None,
            procfs::process::LimitValue::Value(n) => Some(n),
        };
        for (resource, theirs) in p::Resource::ALL.into_iter().zip(theirs) {
            let limit = p::Limit { soft: value(theirs.soft_limit), hard: value(theirs.hard_limit) };
            assert_eq!(ours.get(resource), Some(limit), "{resource:?}");
        }
    }
    for text in texts("statm") {
        let (s, t) = (p::Statm::parse(&text).unwrap(), procfs::process::StatM::from_read(&text[..]).unwrap());
        assert_eq!(
            (s.size, s.resident, s.shared, s.text, s.data),
            (t.size, t.resident, t.shared, t.text, t.data)
        );
    }
    for text in texts("io") {
        let (s, t) = (p::Io::parse(&text).unwrap(), procfs::process::Io::from_read(&text[..]).unwrap());
        assert_eq!((s.rchar, s.wchar, s.syscr, s.syscw), (t.rchar, t.wchar, t.syscr, t.syscw));
        assert_eq!(
            (s.read_bytes, s.write_bytes, s.cancelled_write_bytes),
            (t.read_bytes, t.write_bytes, t.cancelled_write_bytes)
        );
    }
    for text in texts("maps") {
        let Ok(theirs) = procfs::process::MemoryMaps::from_read(&text[..]) else { continue };
        let ours = p::Maps::parse(&text).unwrap().mappings;
        assert_eq!(ours.len(), theirs.len());
        for (m, t) in ours.iter().zip(&theirs) {
            assert_eq!(((m.address.start, m.address.end), m.offset, m.inode), (t.address, t.offset, t.inode));
            assert_eq!(m.permissions.to_string(), t.perms.as_str());
            if let procfs::process::MMapPath::Path(path) = &t.pathname {
                assert_eq!(Path::new(&m.name), path);
            }
        }
    }
    for text in texts("cgroup") {
        let (ours, t) =
            (p::Cgroups::parse(&text).unwrap(), procfs::ProcessCGroups::from_read(&text[..]).unwrap());
        let ours: Vec<_> = ours.entries.iter().map(|e| (e.hierarchy, e.path.to_str().unwrap())).collect();
        let theirs: Vec<_> = t.0.iter().map(|e| (e.hierarchy, &*e.pathname)).collect();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn system_files_are_what_the_procfs_crate_reads() {
    let mut roots: Vec<Vec<u8>> =
        fixtures().iter().map(|k| std::fs::read(k.join("system-meminfo")).unwrap()).collect();
    roots.push(std::fs::read("/proc/meminfo").unwrap());
    for text in roots {
        let (m, t) = (p::MemInfo::parse(&text).unwrap(), procfs::Meminfo::from_read(&text[..]).unwrap());
        assert_eq!((m.total, m.free, Some(m.available)), (t.mem_total, t.mem_free, t.mem_available));
        assert_eq!((m.buffers, m.cached, Some(m.shmem)), (t.buffers, t.cached, t.shmem));
        assert_eq!(
            (Some(m.slab_reclaimable), m.swap_total, m.swap_free),
            (t.s_reclaimable, t.swap_total, t.swap_free)
        );
        assert_eq!((m.get("Dirty"), m.get("HugePages_Total")), (Some(t.dirty), t.hugepages_total));
    }
    let text = std::fs::read("/proc/stat").unwrap();
    let t = <procfs::KernelStats as procfs::FromBufReadSI>::from_buf_read(
        &text[..],
        procfs::current_system_info(),
    )
    .unwrap();
    let s = p::SystemStat::parse(&text).unwrap();
    assert_eq!((s.context_switches, s.forks), (t.ctxt, t.processes));
    assert_eq!(s.boot_time, SystemTime::UNIX_EPOCH + Duration::from_secs(t.btime));
    assert_eq!(
        (Some(s.running), Some(s.blocked), s.cpus.len()),
        (t.procs_running, t.procs_blocked, t.cpu_time.len())
    );
    assert_eq!((s.total.user, s.total.idle), (ticks(t.total.user), ticks(t.total.idle)));
    assert_eq!(
        (Some(s.total.iowait), Some(s.total.steal)),
        (t.total.iowait.map(ticks), t.total.steal.map(ticks))
    );
    let text = std::fs::read("/proc/loadavg").unwrap();
    let (s, t) = (p::LoadAverage::parse(&text).unwrap(), procfs::LoadAverage::from_read(&text[..]).unwrap());
    assert!((s.one - f64::from(t.one)).abs() < 1e-4 && (s.fifteen - f64::from(t.fifteen)).abs() < 1e-4);
    assert_eq!((s.running, s.total, s.last_pid), (t.cur, t.max, t.latest_pid));
    let text = std::fs::read("/proc/uptime").unwrap();
    let (s, t) = (p::Uptime::parse(&text).unwrap(), procfs::Uptime::from_read(&text[..]).unwrap());
    assert!((s.up.as_secs_f64() - t.uptime).abs() < 1e-6 && (s.idle.as_secs_f64() - t.idle).abs() < 1e-6);
    let text = std::fs::read("/proc/cpuinfo").unwrap();
    let (s, t) = (p::CpuInfo::parse(&text).unwrap(), procfs::CpuInfo::from_read(&text[..]).unwrap());
    assert_eq!(
        (s.cpus.len(), s.cpus[0].model_name().and_then(|m| m.to_str())),
        (t.num_cores(), t.model_name(0))
    );
    let text = std::fs::read("/proc/partitions").unwrap();
    let t = procfs::PartitionEntry::vec_from_text(&text);
    let s = p::Partitions::parse(&text).unwrap().partitions;
    assert_eq!(
        s.iter()
            .map(|d| (d.device.major, d.device.minor, d.size / 1024, d.name.to_str().unwrap().to_owned()))
            .collect::<Vec<_>>(),
        t
    );
}

trait VecFromText {
    fn vec_from_text(text: &[u8]) -> Vec<(u32, u32, u64, String)>;
}

impl VecFromText for procfs::PartitionEntry {
    fn vec_from_text(text: &[u8]) -> Vec<(u32, u32, u64, String)> {
        let all = Vec::<Self>::from_buf_read(text).expect("partitions");
        let number = |n: u16| u32::from(n);
        all.into_iter().map(|e| (number(e.major), number(e.minor), e.blocks, e.name)).collect()
    }
}

/// 500 processes of our own, which stay as they are.
fn five_hundred() -> Reaped {
    family("i=0\nwhile [ $i -lt 500 ]; do cat - x$i <&3 2>/dev/null & i=$((i+1)); done")
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let out =
        Command::new(program).args(arguments).env("LC_ALL", "C").env("COLUMNS", "1000").output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn five_hundred_processes_are_what_ps_and_pstree_say() {
    let family = five_hundred();
    settled(&family, 500);
    let began = Instant::now();
    let snapshot = Snapshot::take(&root(), Parts::new()).unwrap();
    let users = UserNames::parse(&std::fs::read("/etc/passwd").unwrap());
    let table = ProcessTable::new(&root(), &snapshot, &users).unwrap();
    // Not the shell itself: in its script ps shows line ends as blanks, we as what they are.
    let ours: Vec<u32> = snapshot.descendants(family.pid()).iter().skip(1).map(|p| p.pid).collect();
    assert_eq!(ours.len(), 500);

    let columns = "pid=,ppid=,pgid=,sess=,euid=,ruid=,egid=,ni=,nlwp=,vsz=,rss=,stat=,etimes=,args=";
    match output("ps", &["-ewwo", columns]) {
        None => skip!("no ps here", needs = "tool"),
        Some(text) => {
            let rows: HashMap<u32, Vec<&str>> = text
                .lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>())
                .map(|row| (row[0].parse().unwrap(), row))
                .collect();
            let between = began.elapsed().as_secs() + 2;
            for pid in &ours {
                let (e, theirs) = (snapshot.get(*pid).unwrap(), &rows[pid]);
                let row = table.rows.iter().find(|r| r.pid == *pid).unwrap();
                let s = &e.stat;
                let mine = [
                    pid.to_string(),
                    s.ppid.to_string(),
                    s.pgrp.unwrap().to_string(),
                    s.session.unwrap().to_string(),
                    e.status.uid.effective.to_string(),
                    e.status.uid.real.to_string(),
                    e.status.gid.effective.to_string(),
                    s.nice.to_string(),
                    s.threads.to_string(),
                    (row.virtual_size / 1024).to_string(),
                    (row.resident_size / 1024).to_string(),
                    row.stat.clone(),
                ];
                assert_eq!(mine.iter().map(String::as_str).collect::<Vec<_>>(), theirs[..12]);
                let elapsed = table.now.duration_since(row.started).unwrap().as_secs();
                assert!(theirs[12].parse::<u64>().unwrap().abs_diff(elapsed) <= between, "{theirs:?}");
                assert_eq!(row.command.split_whitespace().collect::<Vec<_>>(), theirs[13..]);
            }
            // The others may change meanwhile, but not all of them.
            let same = snapshot.processes.iter().filter(|e| {
                let command = table.rows.iter().find(|r| r.pid == e.pid).map(|r| r.command.as_str());
                rows.get(&e.pid).is_some_and(|r| {
                    r[1] == e.stat.ppid.to_string() && Some(r[13..].join(" ")) == command.map(str::to_owned)
                })
            });
            assert!(same.count() * 10 >= snapshot.processes.len() * 8);
        }
    }
    if let Some(text) = output("ps", &["auxww"]) {
        let shown = table.to_string();
        let mine: Vec<Vec<&str>> = shown.lines().map(|l| l.split_whitespace().collect()).collect();
        let theirs: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(mine[0], theirs[0]);
        for pid in ours.iter().map(u32::to_string) {
            let find = |rows: &[Vec<&str>]| rows.iter().find(|r| r[1] == pid).unwrap().join(" ");
            let (a, b) = (find(&mine), find(&theirs));
            // All but the share of processor time, which changes as time passes.
            let without = |row: &str| {
                row.split(' ')
                    .enumerate()
                    .filter(|(i, _)| *i != 2)
                    .map(|(_, w)| w.to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(without(&a), without(&b));
        }
    }
    let tree = Tree::new(&snapshot);
    for (options, style) in [
        ("-Alp", TreeStyle::new().pids(true)),
        ("-Al", TreeStyle::new()),
        ("-Ala", TreeStyle::new().arguments(true)),
    ] {
        match output("pstree", &[options, &family.pid().to_string()]) {
            None => skip!("no pstree here", needs = "tool"),
            Some(text) => {
                assert_eq!(tree.below(family.pid(), &style).to_string(), text.trim_end(), "{options}");
            }
        }
    }
    end(family);
}

#[test]
fn namespaces_are_what_lsns_says() {
    let family = Reaped::spawn(Command::new("unshare").args([
        "--user",
        "--map-root-user",
        "--net",
        "--uts",
        "--ipc",
        "sleep",
        "600",
    ]));
    let held = root().process(family.pid()).unwrap();
    while held.status().map(|s| s.name != "sleep").unwrap_or(false) {
        std::thread::yield_now();
    }
    if !held.exists() || held.status().unwrap().state == p::State::Zombie {
        skip!("no user namespaces here", needs = "userns");
    }
    let rows = || {
        let s = Snapshot::take(&root(), Parts::new().namespaces(true)).unwrap();
        let table = NamespaceTable::new(&root(), &s);
        let row = |r: &p::NamespaceRow| ((r.id.inode, r.kind.to_string()), (r.members.len(), r.members[0]));
        table.rows.iter().map(row).collect::<HashMap<_, _>>()
    };
    let before = rows();
    let Some(text) = output("lsns", &["-rno", "NS,TYPE,NPROCS,PID"]) else {
        skip!("no lsns here", needs = "tool");
    };
    let after = rows();
    let own: Vec<u64> =
        root().myself().unwrap().namespaces().iter().filter_map(|(_, id)| Some(id.ok()?.inode)).collect();
    let mut compared = Vec::new();
    for line in text.lines() {
        let w: Vec<&str> = line.split_whitespace().collect();
        let key = (w[0].parse().unwrap(), w[1].to_owned());
        // Only what stood still meanwhile. Our own do not: lsns itself is a member, and the other tests' children are.
        if !own.contains(&key.0) && before.get(&key).is_some_and(|row| after.get(&key) == Some(row)) {
            assert_eq!(before[&key], (w[2].parse().unwrap(), w[3].parse().unwrap()), "{line}");
            compared.push(key);
        }
    }
    let namespaces = held.namespaces();
    for kind in [p::NamespaceKind::User, p::NamespaceKind::Net, p::NamespaceKind::Uts, p::NamespaceKind::Ipc]
    {
        let key = (namespaces.get(kind).unwrap().inode, kind.to_string());
        assert!(compared.contains(&key), "{key:?}");
    }
}

#[test]
fn memory_and_uptime_are_what_free_and_uptime_say() {
    match output("free", &["-k"]) {
        None => skip!("no free here", needs = "tool"),
        Some(text) => {
            let mine = root().meminfo().unwrap().to_string();
            let numbers =
                |t: &str| -> Vec<u64> { t.split_whitespace().filter_map(|w| w.parse().ok()).collect() };
            assert_eq!(mine.lines().next().unwrap().trim(), text.lines().next().unwrap().trim());
            let (a, b) = (numbers(&mine), numbers(&text));
            assert_eq!((a.len(), b.len(), a[0], a[6]), (9, 9, b[0], b[6]), "totals");
            // Others use memory between the two readings.
            for (a, b) in a.iter().zip(&b) {
                assert!(a.abs_diff(*b) <= b / 10 + (256 << 10), "{a} {b}");
            }
        }
    }
    if let Some(text) = output("sh", &["-c", "date -d \"$(uptime -s)\" +%s"]) {
        let theirs: u64 = text.trim().parse().unwrap();
        let up = root().uptime().unwrap().up;
        let since = (SystemTime::now() - up).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(theirs.abs_diff(since) <= 2, "{theirs} {since}");
    }
    // The averages change every five seconds: one of two readings around theirs must be theirs.
    let load = || root().loadavg().map(|l| format!("{:.2}, {:.2}, {:.2}", l.one, l.five, l.fifteen)).unwrap();
    let before = load();
    if let Some(text) = output("uptime", &[]) {
        let after = load();
        assert!(text.trim().ends_with(&before) || text.trim().ends_with(&after), "{text} {before} {after}");
    }
}
