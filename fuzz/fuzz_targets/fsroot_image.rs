#![no_main]
//! The documents and the table of contents of an archive of an image.
use libfuzzer_sys::fuzz_target;
use palisade_fsroot::{Image, Ownership, Unpack};

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    std::fs::write(&path, data).unwrap();
    let Ok(image) = Image::open(&path) else { return };
    let _ = image.config();
    let options = Unpack::new().ownership(Ownership::Caller).max_bytes(1 << 20).max_entries(100);
    let _ = image.unpack(dir.path().join("into"), &options);
    assert!(std::fs::read_dir(dir.path()).unwrap().count() <= 2);
});
