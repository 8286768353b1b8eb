//! Bodies of the fuzz targets. Not part of the interface.

use crate::controller::Controllers;
use crate::device::{Access, Device, DeviceKind, DeviceRules};
use crate::hierarchy::Mounts;
use crate::{
    Bytes, Controller, CpuMax, CpuSet, CpuStat, DeviceNumber, Events, FileName, HugePage, IoMax, IoStat,
    Limit, Limits, MemoryEvents, MemoryStat, Nice, Partition, PidsEvents, Pressure, Rdma, ResourceName,
    SwapEvents, TreeStat, Trigger, Weight, parse_membership, parse_misc,
};

/// Every parser of a kernel file: no panic, no lie about what was parsed.
pub fn files(data: &[u8]) {
    let _mounts = Mounts::parse(data);
    if let Ok(path) = parse_membership(data) {
        assert!(path.is_absolute());
    }
    if let Ok(set) = Controllers::parse(data) {
        assert_eq!(Controllers::parse(set.to_string().as_bytes()).ok(), Some(set));
    }
    let flat = [
        CpuStat::parse(data).is_ok(),
        MemoryEvents::parse(data).is_ok(),
        MemoryStat::parse(data).is_ok(),
        SwapEvents::parse(data).is_ok(),
        PidsEvents::parse(data).is_ok(),
        TreeStat::parse(data).is_ok(),
        parse_misc(data).is_ok(),
    ];
    assert!(flat.iter().all(|ok| *ok == flat[0]), "one format, one verdict: {flat:?}");
    assert!(flat[0] || Events::parse(data).is_err());
    let _rest = (IoStat::parse(data), Rdma::parse(data), Pressure::parse(data));
}

/// Every value that a user writes: what parses is printed in a form that parses to the same.
pub fn values(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    fn round_trip<T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            assert_eq!(value.to_string().parse::<T>().ok(), Some(value));
        }
    }
    round_trip::<Bytes>(text);
    round_trip::<Limit<Bytes>>(text);
    round_trip::<Weight>(text);
    round_trip::<CpuMax>(text);
    round_trip::<Nice>(text);
    round_trip::<CpuSet>(text);
    round_trip::<Partition>(text);
    round_trip::<IoMax>(text);
    round_trip::<DeviceNumber>(text);
    round_trip::<HugePage>(text);
    round_trip::<ResourceName>(text);
    round_trip::<Trigger>(text);
    round_trip::<Controller>(text);
    round_trip::<FileName>(text);
    round_trip::<Access>(text);
    round_trip::<Device>(text);
    // Read-back checks meet whatever the kernel prints.
    if let (Ok(size), Some(setting)) =
        (text.parse::<Limit<Bytes>>(), Limits::new().memory_max(Limit::Max).in_order().next())
    {
        let _holds = (setting.holds_in(text, 4096), setting.undo(text), size);
    }
}

/// What a message bus sends, and its address.
#[cfg(feature = "systemd")]
pub fn dbus(data: &[u8]) {
    use crate::dbus::{LONGEST, Message, message_size};
    let size = data.first_chunk().and_then(message_size);
    if let Some(mut m) = Message::parse(data) {
        assert!(size == Some(data.len()) && data.len() <= LONGEST);
        let _values = (m.body.u32(), m.body.string(), m.body.variant_string());
    }
    for place in crate::bus::Place::parse_list(data) {
        assert!(!matches!(place, crate::bus::Place::Path(path) if path.is_relative()));
    }
}

/// Lists of device rules: assembling never fails, and the evaluator answers every request.
pub fn device_rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut rules = DeviceRules::deny_all();
    for line in text.lines() {
        match line.strip_prefix('+').map(str::parse) {
            Some(Ok(device)) => rules = rules.allow(device),
            _ => {
                if let Ok(device) = line.parse() {
                    rules = rules.deny(device);
                }
            }
        }
    }
    let program = rules.compile();
    assert!(program.len() >= 8 && program.to_string().lines().count() == program.len());
    // Each access alone decides the accesses together.
    let ask = |access| rules.allows(DeviceKind::Char, 1, 3, access);
    assert_eq!(ask(Access::ALL), ask(Access::READ) && ask(Access::WRITE) && ask(Access::MKNOD));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Everything that was captured on a kernel with all controllers, through every parser.
    #[test]
    fn captures_of_a_whole_group() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v2");
        let mut seen = 0;
        for entry in std::fs::read_dir(dir).expect("fixtures") {
            let text = std::fs::read(entry.expect("entry").path()).expect("readable");
            super::files(&text);
            super::values(&text);
            seen += 1;
        }
        assert!(seen > 50);
    }

    proptest! {
        #[test]
        fn no_bytes_break_anything(data: Vec<u8>, text in "([a-z_.]{0,9}[ =:][0-9a-z*]{0,9}[ \\n]?){0,8}") {
            for d in [&data[..], text.as_bytes()] {
                super::files(d);
                super::values(d);
                super::device_rules(d);
            }
        }
    }
}
