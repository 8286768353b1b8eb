//! Id maps as values: the kernel's rules, translation, and the kernel itself as the judge.

mod common;

use common::InNamespace;
use palisade_creds::{ErrorKind, Gid, IdMap, IdRange, Maps, SubRange, Uid, write_maps};
use palisade_testkit::{is_root, skip};
use proptest::prelude::*;

fn uid(raw: u32) -> Uid {
    Uid::new(raw).expect("an id")
}

fn map(text: &str) -> IdMap {
    text.parse().expect("a map")
}

fn kind(text: &str) -> ErrorKind {
    text.parse::<IdMap>().expect_err(text).kind()
}

/// A45: each of the maps that the kernel refuses is refused before it sees it.
#[test]
fn a45_bad_maps_are_typed_errors() {
    assert_eq!(kind("0 1000 1\n0 2000 1"), ErrorKind::InvalidMap, "overlap inside");
    assert_eq!(kind("0 1000 10\n5 2000 1"), ErrorKind::InvalidMap, "overlap inside, in the middle");
    assert_eq!(kind("0 1000 10\n10 1009 1"), ErrorKind::InvalidMap, "overlap outside");
    assert_eq!(kind("0 1000 0"), ErrorKind::InvalidMap, "no id");
    assert_eq!(kind("1 0 4294967295"), ErrorKind::InvalidMap, "wrap inside");
    assert_eq!(kind("0 1 4294967295"), ErrorKind::InvalidMap, "wrap outside");
    assert_eq!(kind("4294967295 0 1"), ErrorKind::InvalidMap, "u32::MAX is no id");
    assert_eq!(kind("0 4294967295 1"), ErrorKind::InvalidMap, "u32::MAX is no id");
    assert_eq!(kind(""), ErrorKind::InvalidMap, "empty");
    for text in [
        "-1 0 1",
        "0 -1 1",
        "0 0 x",
        "root 0 1",
        "0 0",
        "0 0 1 1",
        "0 0 1\n\n1 1 1",
        "0 4294967296 1",
        "0x0 0 1",
        "+0 0 1",
    ] {
        assert_eq!(kind(text), ErrorKind::Syntax, "{text:?}");
    }
    let lines = |count: u32| (0..count).map(|id| format!("{id} {id} 1\n")).collect::<String>();
    assert_eq!(map(&lines(340)).ranges().len(), 340);
    assert_eq!(kind(&lines(341)), ErrorKind::InvalidMap, "too many lines");
    let long = |id: u32| format!("{} {} 1\n", 4_000_000_000 - id, 4_000_000_000 - id);
    assert_eq!(
        kind(&(0..340).map(long).collect::<String>()),
        ErrorKind::InvalidMap,
        "a page or more to write"
    );
}

#[test]
fn the_full_range_is_legal() {
    assert_eq!(map("0 0 4294967295"), IdMap::identity());
    assert_eq!(IdMap::identity().to_outside(uid(u32::MAX - 1)), Some(uid(u32::MAX - 1)));
    assert_eq!(IdMap::identity().len(), u32::MAX);
}

#[test]
fn the_kernels_own_spelling_is_read() {
    assert_eq!(map("         0          0 4294967295\n"), IdMap::identity());
    assert_eq!(map("\t0 \t1000  1"), IdMap::single(Uid::ROOT, uid(1000)));
    assert_eq!(IdMap::parse(b"").expect("legal"), None);
    assert_eq!(IdMap::parse(b"0 0 1\xff").expect_err("not text").kind(), ErrorKind::Syntax);
    let own = std::fs::read("/proc/self/uid_map").expect("/proc");
    assert!(IdMap::parse(&own).expect("a map").is_some());
}

/// F10: the second range starts inside where the first ended.
#[test]
fn docker_remap_concatenates() {
    let ranges =
        [SubRange::new(231_072, 65_536).expect("a range"), SubRange::new(500_000, 10).expect("a range")];
    let map = IdMap::remapped(&ranges).expect("a map");
    assert_eq!(map.to_string(), "0 231072 65536\n65536 500000 10\n");
    assert_eq!(map.to_outside(uid(1000)), Some(uid(232_072)));
    assert_eq!(map.to_outside(uid(65_536)), Some(uid(500_000)));
    assert_eq!(map.to_outside(uid(65_546)), None);
    let rootless = IdMap::rootless(uid(1000), &ranges).expect("a map");
    assert_eq!(rootless.to_string(), "0 1000 1\n1 231072 65536\n65537 500000 10\n");
    assert_eq!(IdMap::remapped(&[]).expect_err("empty").kind(), ErrorKind::InvalidMap);
    assert_eq!(IdMap::remapped(&[ranges[0], ranges[0]]).expect_err("twice").kind(), ErrorKind::InvalidMap);
}

#[test]
fn ids_are_translated_through_a_chain() {
    let (inner, middle, outer) = (map("0 5 10"), map("0 1000 100"), map("0 100000 65536"));
    let chain = [&inner, &middle, &outer];
    assert_eq!(IdMap::to_outside_through(uid(3), chain), Some(uid(101_008)));
    assert_eq!(IdMap::to_inside_through(uid(101_008), [&outer, &middle, &inner]), Some(uid(3)));
    assert_eq!(IdMap::to_outside_through(uid(10), chain), None);
    assert_eq!(
        inner.compose(&middle).and_then(|map| map.compose(&outer)).expect("a map"),
        map("0 101005 10")
    );
    assert_eq!(map("0 200 5").compose(&middle).expect_err("nothing left").kind(), ErrorKind::InvalidMap);
}

#[test]
fn a_line_must_lie_in_one_line_of_the_parent() {
    let parent = map("0 100000 10\n10 200000 10");
    map("0 0 10").check_parent(&parent).expect("within the first");
    map("0 12 3").check_parent(&parent).expect("within the second");
    for text in ["0 5 10", "0 0 20", "0 20 1"] {
        assert_eq!(map(text).check_parent(&parent).expect_err(text).kind(), ErrorKind::Unmapped);
    }
}

/// The kernel is asked about each map as a text, and answers as this crate does.
#[test]
fn the_kernel_agrees_on_what_a_map_is() {
    if !is_root() {
        skip!("ranges are the kernel's to judge only for root", needs = "root");
    }
    let texts = [
        "0 0 1",
        "0 1000 1\n1 2000 1",
        "0 0 4294967295",
        "0 1 4294967295",
        "4294967294 0 1",
        "4294967295 0 1",
        "0 1000 10\n9 2000 1",
        "0 1000 10\n10 1009 1",
        "0 1000 0",
        "0 0",
        "x 0 1",
        " 0  5\t7",
        "5 0 1\n0 1 5\n6 7 1",
    ];
    for text in texts {
        let namespace = InNamespace::new();
        let kernel = std::fs::write(format!("/proc/{}/uid_map", namespace.pid()), text).is_ok();
        assert_eq!(text.parse::<IdMap>().is_ok(), kernel, "{text:?}");
    }
    let most =
        IdMap::new((0..340).map(|id| IdRange::new(id, id + 1000, 1).expect("a range"))).expect("a map");
    let namespace = InNamespace::new();
    let dir = namespace.pid_dir();
    write_maps(std::os::fd::AsFd::as_fd(&dir), &Maps::new(most.clone(), most)).expect("340 lines are taken");
}

fn ranges() -> impl Strategy<Value = Vec<IdRange>> {
    let range = (0u32..60, 0u32..60, 1u32..8).prop_map(|(a, b, n)| IdRange::new(a, b, n).expect("small"));
    prop::collection::vec(range, 0..8)
}

proptest! {
    /// A map is refused exactly if an id stands twice on a side; a slow and plain count is the judge.
    #[test]
    fn overlap_is_found_exactly(ranges in ranges()) {
        let twice = |ids: Vec<u32>| (0..100).any(|id| ids.iter().filter(|other| **other == id).count() > 1);
        let inside = ranges.iter().flat_map(|r| r.inside()..r.inside() + r.count()).collect();
        let outside = ranges.iter().flat_map(|r| r.outside()..r.outside() + r.count()).collect();
        let legal = !ranges.is_empty() && !twice(inside) && !twice(outside);
        prop_assert_eq!(IdMap::new(ranges).is_ok(), legal);
    }

    #[test]
    fn text_and_value_round_trip(ranges in ranges()) {
        if let Ok(map) = IdMap::new(ranges) {
            prop_assert_eq!(map.to_string().parse::<IdMap>().expect("its own text"), map);
        }
    }

    #[test]
    fn translation_goes_there_and_back(ranges in ranges(), id in 0u32..80) {
        if let Ok(map) = IdMap::new(ranges) {
            let id = Gid::new(id).expect("an id");
            if let Some(outside) = map.to_outside(id) {
                prop_assert_eq!(map.to_inside(outside), Some(id));
                prop_assert_eq!(map.inverted().to_outside(outside), Some(id));
            }
        }
    }

    /// The composed map does what the two do one after the other.
    #[test]
    fn composition_is_translation_twice(inner in ranges(), outer in ranges(), id in 0u32..80) {
        if let (Ok(inner), Ok(outer)) = (IdMap::new(inner), IdMap::new(outer)) {
            let id = uid(id);
            let twice = IdMap::to_outside_through(id, [&inner, &outer]);
            match inner.compose(&outer) {
                Ok(composed) => prop_assert_eq!(composed.to_outside(id), twice),
                Err(_) => prop_assert_eq!(twice, None),
            }
        }
    }

    #[test]
    fn the_parser_is_total(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[0-9 \t\n+-]{0,60}") {
        for input in [bytes.as_slice(), text.as_bytes()] {
            if let Ok(Some(map)) = IdMap::parse(input) {
                prop_assert!(!map.ranges().is_empty());
                prop_assert!(map.ranges().iter().all(|r| uid(r.inside()).as_raw() < u32::MAX - (r.count() - 1)));
            }
        }
    }
}
