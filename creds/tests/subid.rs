//! /etc/subuid and /etc/subgid.

use std::os::unix::fs::symlink;

use palisade_creds::{ErrorKind, SubIds, SubRange, Uid};
use proptest::prelude::*;

const FILE: &[u8] = b"# of this machine\n\
alice:100000:65536\n\
1001:165536:1000\n\
\n\
bob:300000\n\
alice:400000:10\n\
carol:x:5\n\
dave:5:0\n\
eve:4294967290:10\n\
frank:1:2:3\n\
:1:2\n\
\x201002:500000:1\n\
1002:600000:1";

fn range(start: u32, count: u32) -> SubRange {
    SubRange::new(start, count).expect("a range")
}

fn uid(raw: u32) -> Uid {
    Uid::new(raw).expect("an id")
}

#[test]
fn ranges_are_found_by_name_and_by_number() {
    let file = SubIds::parse(FILE);
    assert_eq!(file.of(Some("alice".as_ref()), uid(1000)), [range(100_000, 65_536), range(400_000, 10)]);
    assert_eq!(file.of(Some("zoe".as_ref()), uid(1001)), [range(165_536, 1000)]);
    assert_eq!(
        file.of(None, uid(1002)),
        [range(600_000, 1)],
        "no newline at the end, no trimming of the owner"
    );
    assert_eq!(file.of(Some("mallory".as_ref()), uid(4)), []);
    assert_eq!(file.of(Some("".as_ref()), uid(4)), [], "an empty owner owns nothing");
    assert_eq!(file.skipped(), [5, 7, 8, 9, 10, 11], "lines that are no entries are told");
    assert_eq!(file.all().count(), 5);
}

#[test]
fn a_name_of_digits_is_not_a_part_of_another() {
    let file = SubIds::parse(b"1000:1:1\n10000:2:1\n01000:3:1\n");
    assert_eq!(file.of(None, uid(1000)), [range(1, 1), range(3, 1)]);
}

#[test]
fn free_ranges_are_the_lowest() {
    let pool = [SubRange::CUSTOMARY];
    let get = |used: &[SubRange], count| SubRange::allocate(&pool, used, count).expect("free ids");
    assert_eq!(get(&[], 65_536), range(100_000, 65_536));
    assert_eq!(get(&[range(100_000, 65_536)], 65_536), range(165_536, 65_536));
    assert_eq!(
        get(&[range(300_000, 10), range(100_000, 65_536)], 65_536),
        range(165_536, 65_536),
        "in any order"
    );
    assert_eq!(get(&[range(100_010, 10)], 10), range(100_000, 10), "a gap at the start");
    assert_eq!(get(&[range(100_010, 10)], 11), range(100_020, 11), "a gap too small");
    assert_eq!(
        get(&[range(99_000, 2000), range(100_500, 10)], 5),
        range(101_000, 5),
        "used ranges may overlap"
    );
    let full = SubRange::allocate(&[range(5, 10)], &[range(8, 1)], 7).expect_err("no gap of seven");
    assert_eq!(full.kind(), ErrorKind::Exhausted);
    assert_eq!(SubRange::allocate(&[range(5, 10)], &[], 0).expect_err("none").kind(), ErrorKind::Exhausted);
    assert_eq!(
        SubRange::allocate(&[range(50, 3), range(5, 2)], &[], 3).expect("in the second"),
        range(50, 3),
        "ranges of a pool are not joined"
    );
}

/// A117 for these files: what is no plain, small file is an error; what is missing delegates nothing.
#[test]
fn a117_odd_files_are_refused() {
    let dir = palisade_testkit::temp_dir();
    let path = |name: &str| dir.path().join(name);
    assert_eq!(SubIds::read(path("missing")).expect("as empty"), SubIds::default());
    let large = std::fs::File::create(path("sparse")).expect("create");
    large.set_len(10 << 30).expect("sparse");
    assert_eq!(SubIds::read(path("sparse")).expect_err("10 GB").kind(), ErrorKind::TooLarge);
    assert_eq!(SubIds::read(dir.path()).expect_err("directory").kind(), ErrorKind::NotTrusted);
    symlink("/dev/zero", path("zero")).expect("link");
    assert_eq!(SubIds::read(path("zero")).expect_err("device").kind(), ErrorKind::NotTrusted);
    let status = std::process::Command::new("mkfifo").arg(path("fifo")).status().expect("mkfifo");
    assert!(status.success());
    assert_eq!(SubIds::read(path("fifo")).expect_err("FIFO").kind(), ErrorKind::NotTrusted, "and no waiting");
}

proptest! {
    #[test]
    fn the_parser_is_total(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "([a-c1-3]{0,2}:[0-9]{0,11}:[0-9]{0,11}\n?){0,5}") {
        for input in [bytes.as_slice(), text.as_bytes()] {
            let file = SubIds::parse(input);
            prop_assert!(file.all().all(|range| range.count() > 0 && range.start().checked_add(range.count()).is_some()));
        }
    }

    #[test]
    fn what_is_allocated_is_free_and_of_the_pool(
        pool in prop::collection::vec((0u32..50, 1u32..20), 0..4),
        used in prop::collection::vec((0u32..70, 1u32..10), 0..6),
        count in 0u32..20,
    ) {
        let ranges = |list: Vec<(u32, u32)>| list.into_iter().map(|(start, count)| range(start, count)).collect::<Vec<_>>();
        let (pool, used) = (ranges(pool), ranges(used));
        let fits = |start: u32| count > 0 && SubRange::new(start, count).is_ok_and(|found| {
            pool.iter().any(|whole| whole.contains(found)) && !used.iter().any(|taken| taken.overlaps(found))
        });
        let lowest = (0..70).find(|start| fits(*start));
        prop_assert_eq!(SubRange::allocate(&pool, &used, count).ok().map(SubRange::start), lowest);
    }
}
