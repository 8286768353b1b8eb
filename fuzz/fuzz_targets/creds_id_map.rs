#![no_main]
use libfuzzer_sys::fuzz_target;
use palisade_creds::{IdMap, Uid};

// A map that is read prints to what reads as the same map, and each of its ends goes there and back.
fuzz_target!(|data: &[u8]| {
    let Ok(Some(map)) = IdMap::parse(data) else { return };
    assert_eq!(map.to_string().parse::<IdMap>().expect("its own text"), map);
    for range in map.ranges() {
        for raw in [range.inside(), range.inside() + (range.count() - 1)] {
            let id = Uid::new(raw).expect("no map reaches u32::MAX");
            let outside = map.to_outside(id).expect("an id of the map");
            assert_eq!(map.to_inside(outside), Some(id));
        }
    }
});
