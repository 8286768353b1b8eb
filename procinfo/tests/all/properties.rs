//! Every parser on generated and on mutated input: never a panic, and what is printed in the kernel's format is read
//! back as it was.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use palisade_procinfo as p;
use proptest::prelude::*;

use crate::parsers::fixtures;

type Parser = fn(&[u8]) -> bool;

/// Each parser with the names of the files that it reads.
const PARSERS: &[(&str, Parser)] = &[
    ("status", |b| p::Status::parse(b).is_ok()),
    ("stat", |b| p::Stat::parse(b).is_ok()),
    ("statm", |b| p::Statm::parse(b).is_ok()),
    ("io", |b| p::Io::parse(b).is_ok()),
    ("limits", |b| p::Limits::parse(b).is_ok()),
    ("cgroup", |b| p::Cgroups::parse(b).is_ok()),
    ("mountinfo", |b| p::Mounts::parse(b).is_ok()),
    ("mounts", |b| p::MountTable::parse(b).is_ok()),
    ("maps", |b| p::Maps::parse(b).is_ok()),
    ("smaps_rollup", |b| p::SmapsRollup::parse(b).is_ok()),
    ("uid_map", |b| p::IdMap::parse(b).is_ok()),
    ("setgroups", |b| p::Setgroups::parse(b).is_ok()),
    ("timens_offsets", |b| p::TimeOffsets::parse(b).is_ok()),
    ("cmdline", |b| !p::CommandLine::parse(b).to_string().contains('\n')),
    ("environ", |b| p::Environment::parse(b).get("PATH").is_some()),
    ("fdinfo-3", |b| p::FdInfo::parse(b).is_ok()),
    ("fdinfo-5", |b| p::FdInfo::parse(b).is_ok()),
    ("fdinfo-12", |b| p::FdInfo::parse(b).is_ok()),
    ("system-cpuinfo", |b| p::CpuInfo::parse(b).is_ok()),
    ("system-meminfo", |b| p::MemInfo::parse(b).is_ok()),
    ("system-uptime", |b| p::Uptime::parse(b).is_ok()),
    ("system-loadavg", |b| p::LoadAverage::parse(b).is_ok()),
    ("system-version", |b| p::KernelVersion::parse(b).is_ok()),
    ("system-filesystems", |b| p::FileSystems::parse(b).is_ok()),
    ("system-partitions", |b| p::Partitions::parse(b).is_ok()),
    ("system-stat", |b| p::SystemStat::parse(b).is_ok()),
    ("system-pressure-io", |b| p::Pressure::parse(b).is_ok()),
    ("passwd", |b| p::UserNames::parse(b).uid("root").is_some()),
];

fn sample(kernel: &std::path::Path, name: &str) -> Vec<u8> {
    match name {
        "passwd" => b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n".to_vec(),
        name => std::fs::read(kernel.join(name)).expect("a capture"),
    }
}

/// xorshift64*: the same inputs in every run, so that a failure can be looked at.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits") % n.max(1)
    }
}

/// What tends to break parsers of text.
const BAITS: &[&[u8]] = &[
    b"",
    b" ",
    b"\n",
    b"\t",
    b":",
    b"\0",
    b")",
    b"(",
    b"-",
    b" - ",
    b"\\040",
    b"\\777",
    b"\\",
    b"\xff\xfe",
    b"kB",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"99999999999999999999999999",
    b"0x1",
    b"+1",
    b"1e9",
    b".",
    b"/",
    b",",
    b"=",
    b"//deleted",
    b" (deleted)",
    b"\xc3",
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"]",
];

fn mutate(text: &mut Vec<u8>, other: &[u8], r: &mut Random) {
    for _ in 0..=r.below(4) {
        let (a, b) = (r.below(text.len() + 1), r.below(text.len() + 1));
        let (a, b) = (a.min(b), a.max(b));
        match r.below(8) {
            0 => text.truncate(b),
            1 => drop(text.drain(a..b.min(a + 9))),
            2 | 3 => drop(
                text.splice(a..(a + r.below(3)).min(text.len()), BAITS[r.below(BAITS.len())].iter().copied()),
            ),
            4 => {
                if let Some(byte) = text.get_mut(a) {
                    *byte ^= 1 << r.below(8);
                }
            }
            5 => {
                let again = text[a..b.min(a + 200)].to_vec();
                drop(text.splice(b..b, again));
            }
            6 => {
                let from = r.below(other.len() + 1);
                drop(text.splice(a..a, other[from..(from + 60).min(other.len())].iter().copied()));
            }
            _ => {
                if let Some(byte) = text.get_mut(b) {
                    *byte = u8::try_from(r.below(256)).expect("a byte");
                }
            }
        }
    }
}

/// `PALISADE_MUTATIONS=1000000` for the long run: so many inputs for each parser.
#[test]
fn no_parser_panics_on_mutated_captures() {
    let rounds: u32 =
        std::env::var("PALISADE_MUTATIONS").ok().map_or(2_000, |n| n.parse().expect("a number"));
    let kernels = fixtures();
    for (i, (name, parse)) in PARSERS.iter().enumerate() {
        let samples: Vec<Vec<u8>> = kernels.iter().map(|k| sample(k, name)).collect();
        for s in &samples {
            assert!(parse(s), "{name}: the capture itself");
        }
        // Long files are cut: a mutation in the thousandth line is like one in the tenth.
        let samples: Vec<&[u8]> = samples.iter().map(|s| &s[..s.len().min(4096)]).collect();
        let mut r = Random(0x9e37_79b9_7f4a_7c15 ^ (i as u64 + 1));
        let mut accepted = 0u32;
        for _ in 0..rounds {
            let mut text = samples[r.below(samples.len())].to_vec();
            mutate(&mut text, samples[r.below(samples.len())], &mut r);
            accepted += u32::from(parse(&text));
        }
        if rounds > 100_000 {
            println!("{name}: {rounds} inputs, {accepted} of them accepted");
        }
    }
}

/// As the kernel's seq_path and mangle do.
fn escaped(text: &[u8], special: &[u8]) -> Vec<u8> {
    let one = |b: &u8| {
        if special.contains(b) { format!("\\{b:03o}").into_bytes() } else { vec![*b] }
    };
    text.iter().flat_map(one).collect()
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    // Half of all bytes are the ones that formats are made of.
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(b" \n\t\\()#-:,/0".to_vec())];
    proptest::collection::vec(byte.prop_filter("no NUL in names", |b| *b != 0), 0..max)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn no_parser_panics_on_any_bytes(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        for (_, parse) in PARSERS {
            parse(&text);
        }
    }

    #[test]
    fn a_mount_is_read_back_as_the_kernel_prints_it(
        ids in any::<(u32, u32, u32, u32)>(),
        texts in (bytes(40), bytes(40), bytes(20), bytes(20), bytes(20)),
        shared in any::<Option<u32>>(), master in any::<Option<u32>>(), unbindable in any::<bool>(),
    ) {
        let (root, point, fs, source, options) = texts;
        let special = b" \t\n\\#";
        let mut line = format!("{} {} {}:{} /", ids.0, ids.1, ids.2, ids.3).into_bytes();
        line.extend(escaped(&root, special));
        line.extend(b" /");
        line.extend(escaped(&point, special));
        line.extend(b" rw,nosuid");
        for (tag, id) in [("shared", shared), ("master", master)] {
            line.extend(id.map(|n| format!(" {tag}:{n}")).unwrap_or_default().bytes());
        }
        if unbindable {
            line.extend(b" unbindable");
        }
        line.extend(b" - x");
        line.extend(escaped(&fs, special));
        line.push(b' ');
        line.extend(escaped(&source, special));
        line.extend(b" rw,");
        line.extend(escaped(&options, special));
        line.push(b'\n');
        let m = p::Mounts::parse(&line).unwrap().mounts.remove(0);
        prop_assert_eq!((m.id, m.parent), (u64::from(ids.0), u64::from(ids.1)));
        prop_assert_eq!((m.device.major, m.device.minor), (ids.2, ids.3));
        prop_assert_eq!(&m.root.as_os_str().as_bytes()[1..], &root[..]);
        prop_assert_eq!(&m.mount_point.as_os_str().as_bytes()[1..], &point[..]);
        prop_assert_eq!(&m.fs_type.as_bytes()[1..], &fs[..]);
        prop_assert_eq!(m.source.as_bytes(), &source[..]);
        prop_assert_eq!(&m.super_options.as_bytes()[3..], &options[..]);
        prop_assert_eq!((m.propagation.shared, m.propagation.master), (shared, master));
        prop_assert_eq!(m.propagation.unbindable, unbindable);
    }

    #[test]
    fn a_name_is_read_back_from_status_and_stat(name in bytes(16), ppid in any::<u32>()) {
        let kernel = &fixtures()[0];
        let captured = String::from_utf8(sample(kernel, "status")).unwrap();
        let rest = captured.split_once('\n').unwrap().1.replace("PPid:\t0", &format!("PPid:\t{ppid}"));
        let mut text = b"Name:\t".to_vec();
        for b in &name {
            match b {
                b'\n' => text.extend(b"\\n"),
                b'\\' => text.extend(b"\\\\"),
                b => text.push(*b),
            }
        }
        text.push(b'\n');
        text.extend(rest.bytes());
        let status = p::Status::parse(&text).unwrap();
        prop_assert_eq!(&status.name, &OsString::from_vec(name.clone()));
        prop_assert_eq!(status.ppid, ppid);

        let captured = sample(kernel, "stat");
        let close = captured.iter().rposition(|c| *c == b')').unwrap();
        let text = [b"77 (", &name[..], &captured[close..]].concat();
        let stat = p::Stat::parse(&text).unwrap();
        prop_assert_eq!((stat.pid, stat.comm), (77, OsString::from_vec(name)));
    }

    #[test]
    fn an_id_map_is_read_back_and_its_inverse_holds(
        ranges in proptest::collection::vec(any::<(u32, u32, u32)>(), 0..5), id in any::<u32>(),
    ) {
        let text: String = ranges.iter().map(|(i, o, c)| format!("{i:10} {o:10} {c:10}\n")).collect();
        let map = p::IdMap::parse(text.as_bytes()).unwrap();
        let read: Vec<_> = map.ranges.iter().map(|r| (r.inside, r.outside, r.count)).collect();
        prop_assert_eq!(read, ranges.clone());
        if let ([one], Some(outside)) = (&map.ranges[..], map.to_outside(id)) {
            prop_assert!(id >= one.inside);
            prop_assert_eq!(map.to_inside(outside), Some(id));
        }
    }

    #[test]
    fn a_command_line_is_read_back(arguments in proptest::collection::vec(bytes(20), 0..6)) {
        let text: Vec<u8> = arguments.iter().flat_map(|a| [&a[..], b"\0"].concat()).collect();
        let read = p::CommandLine::parse(&text);
        let read: Vec<Vec<u8>> = read.arguments.into_iter().map(OsString::into_vec).collect();
        prop_assert_eq!(read, arguments);
    }

    #[test]
    fn a_cgroup_path_is_read_back(path in bytes(40).prop_filter("the kernel refuses newlines", |p| !p.contains(&b'\n'))) {
        let text = [b"0::/", &path[..], b"\n"].concat();
        let read = p::Cgroups::parse(&text).unwrap();
        prop_assert_eq!(&read.unified().unwrap().as_os_str().as_bytes()[1..], &path[..]);
    }
}
