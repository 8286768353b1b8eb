#![no_main]
//! An archive of any bytes never lands outside of its directory.
use std::fs;
use std::os::unix::fs::MetadataExt;

use libfuzzer_sys::fuzz_target;
use palisade_fsroot::{Ownership, Unpack};

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let (canary, into) = (dir.path().join("canary"), dir.path().join("into"));
    fs::write(&canary, "untouched").unwrap();
    fs::create_dir(&into).unwrap();
    let options = Unpack::new().ownership(Ownership::Caller).max_bytes(1 << 20).max_entries(100);
    let _ = options.tar(data, &into);
    assert_eq!(fs::read(&canary).unwrap(), b"untouched");
    assert_eq!(fs::metadata(&canary).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    // Directories may have been made unreadable for their owner.
    let _ = fs::set_permissions(&into, std::os::unix::fs::PermissionsExt::from_mode(0o700));
});
