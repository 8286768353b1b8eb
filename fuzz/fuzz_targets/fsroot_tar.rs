#![no_main]
//! An archive of any bytes never lands outside of its directory.
use std::fs;
use std::os::unix::fs::MetadataExt;

use libfuzzer_sys::fuzz_target;
use palisade_fsroot::{Ownership, Unpack};

/// Headers with their checksum made right: otherwise almost every change would end at the first one.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_owned();
    let mut at = 0;
    while let Some(header) = data.get_mut(at..at + 512) {
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok().and_then(|text| usize::from_str_radix(text, 8).ok());
        at += 512 + size.unwrap_or(0).min(1 << 20).next_multiple_of(512);
    }
    data
}

fuzz_target!(|data: &[u8]| {
    let data = &mended(data)[..];
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
