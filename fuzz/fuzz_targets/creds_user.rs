#![no_main]
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use palisade_creds::{UserDb, UserSpec};

// The first line is the specification; what follows is passwd up to a NUL, then group.
fuzz_target!(|data: &[u8]| {
    let (spec, files) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let mut files = files.splitn(2, |byte| *byte == 0);
    let (passwd, group) = (files.next().unwrap_or_default(), files.next().unwrap_or_default());
    let db = UserDb::new(passwd, group);
    let Ok(spec) = UserSpec::new(OsStr::from_bytes(spec)) else { return };
    if let Ok(user) = db.resolve(&spec) {
        assert!(user.groups.len() <= UserDb::MAX_GROUPS);
        assert!(user.name.is_none() || db.users().any(|entry| entry.uid == Some(user.uid)));
    }
});
