//! Unpacking: honest images, and archives that try to get out.
#![cfg(feature = "image")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use palisade_fsroot::{ErrorKind, Image, Ownership, Unpack, Unpacked};
use palisade_testkit::{is_root, skip, temp_dir};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tar::EntryType;

/// An archive with entries as raw as can be.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self::default()
    }

    fn entry(mut self, kind: EntryType, path: &[u8], link: &[u8], mode: u32, data: &[u8]) -> Self {
        self.push(kind, path, link, mode, data, data.len() as u64);
        self
    }

    fn push(&mut self, kind: EntryType, path: &[u8], link: &[u8], mode: u32, data: &[u8], size: u64) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path);
        fields.linkname[..link.len()].copy_from_slice(link);
        header.set_mode(mode);
        let (uid, gid) = if is_root() { (1234, 4321) } else { (0, 0) };
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path.as_bytes(), b"", mode, b"")
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, path.as_bytes(), b"", 0o644, data.as_bytes())
    }

    fn link(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, path.as_bytes(), to.as_bytes(), 0o777, b"")
    }

    fn hard(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Link, path.as_bytes(), to.as_bytes(), 0o644, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", b"", 0o644, &data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A directory to unpack into, beside one that nothing may touch.
struct Place {
    _dir: tempfile::TempDir,
    canary: std::path::PathBuf,
    into: std::path::PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = temp_dir();
        let (canary, into) = (dir.path().join("canary"), dir.path().join("into"));
        fs::create_dir_all(canary.join("sub")).unwrap();
        fs::write(canary.join("file"), "untouched").unwrap();
        fs::create_dir(&into).unwrap();
        Self { _dir: dir, canary, into }
    }

    fn unpack(&self, archive: &[u8]) -> palisade_fsroot::Result<Unpacked> {
        let result = Unpack::new().tar(archive, &self.into);
        self.check();
        result
    }

    #[track_caller]
    fn check(&self) {
        let meta = fs::symlink_metadata(self.canary.join("file")).unwrap();
        assert_eq!((meta.nlink(), meta.permissions().mode() & 0o7777), (1, 0o644));
        assert_eq!(fs::read_to_string(self.canary.join("file")).unwrap(), "untouched");
        assert_eq!(list(&self.canary).len(), 2, "{:?}", list(&self.canary));
        let beside = fs::read_dir(self.into.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 2);
    }
}

impl Drop for Place {
    /// Directories that their owner may not write to would stay behind for an ordinary user.
    fn drop(&mut self) {
        open_up(&self.into);
    }
}

fn open_up(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            open_up(&entry.path());
        }
    }
}

/// Everything below a directory with its type letter.
fn list(dir: &Path) -> BTreeMap<String, char> {
    fn walk(dir: &Path, at: &str, found: &mut BTreeMap<String, char>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{at}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().unwrap();
            let letter = match () {
                () if kind.is_dir() => 'd',
                () if kind.is_symlink() => 'l',
                () if kind.is_file() => 'f',
                () if kind.is_fifo() => 'p',
                () => 'n',
            };
            found.insert(name.clone(), letter);
            if kind.is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found);
    found
}

#[test]
fn an_honest_archive() {
    let place = Place::new();
    let long = "long/".repeat(40) + "name";
    let archive = Tar::new()
        .dir("./", 0o755)
        .dir("bin/", 0o555)
        .file("bin/tool", "#!/bin/sh\n")
        .hard("bin/same", "bin/tool")
        .link("sbin", "bin")
        .file("sbin/through", "x")
        .entry(EntryType::Fifo, b"fifo", b"", 0o600, b"")
        .entry(EntryType::Char, b"dev/null", b"", 0o666, b"")
        .entry(EntryType::Regular, b"bin/su", b"", 0o4755, b"setuid")
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"1000000001.5"),
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ])
        .file("replaced", "long")
        .end();
    let done = place.unpack(&archive).unwrap();
    assert_eq!((done.entries, done.bytes, done.devices_skipped, done.privileges_dropped), (11, 21, 1, 2));
    let meta = |path: &str| fs::symlink_metadata(place.into.join(path)).unwrap();
    assert_eq!(meta("bin").permissions().mode() & 0o7777, 0o555);
    assert_eq!(meta("bin/su").permissions().mode() & 0o7777, 0o755);
    assert_eq!(meta("bin/tool").ino(), meta("bin/same").ino());
    assert!(meta("bin/through").is_file() && meta("sbin").is_symlink());
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(meta("bin/tool").mtime(), 1_000_000_000);
    assert_eq!((meta(&long).mtime(), meta(&long).mtime_nsec()), (1_000_000_001, 500_000_000));
    assert_eq!(meta("bin").mtime(), 1_000_000_000);
    if is_root() {
        assert_eq!((meta("bin/tool").uid(), meta("bin/tool").gid()), (1234, 4321));
        assert_eq!(meta("sbin").uid(), 1234);
        let shifted = temp_dir();
        let options = Unpack::new().ownership(Ownership::Shifted(100_000)).keep_privileges().make_devices();
        options.tar(&archive[..], shifted.path()).unwrap();
        let meta = |path: &str| fs::symlink_metadata(shifted.path().join(path)).unwrap();
        assert_eq!((meta("bin/tool").uid(), meta("bin/su").permissions().mode() & 0o7777), (101_234, 0o4755));
        assert!(meta("dev/null").file_type().is_char_device());
    }
}

#[test]
fn compressed_archives_are_known_by_their_contents() {
    let archive = Tar::new().file("file", "contents").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive[..700]).unwrap();
    let mut members = gzip.finish().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive[700..]).unwrap();
    members.extend(gzip.finish().unwrap());
    let level = ruzstd::encoding::CompressionLevel::Uncompressed;
    let mut frames = ruzstd::encoding::compress_to_vec(&archive[..700], level);
    frames.extend(ruzstd::encoding::compress_to_vec(&archive[700..], level));
    for compressed in [members, frames] {
        let place = Place::new();
        place.unpack(&compressed).unwrap();
        assert_eq!(fs::read_to_string(place.into.join("file")).unwrap(), "contents");
        // Cut off: an error, whereever.
        for cut in [1, 5, 20, compressed.len() - 20] {
            let error = Place::new().unpack(&compressed[..cut]);
            assert!(error.is_err() || error.as_ref().is_ok_and(|done| done.entries == 0), "{cut}: {error:?}");
        }
    }
    assert_eq!(Place::new().unpack(b"\xfd7zXZ\0 and so on").unwrap_err().kind(), ErrorKind::Archive);
}

/// A120: paths that lead out, by themselves or through links made before.
#[test]
fn a120_nothing_lands_outside() {
    let canary = |place: &Place| place.canary.to_str().unwrap().to_owned();
    type Case = Box<dyn Fn(&Place) -> Tar>;
    let cases: Vec<Case> = vec![
        Box::new(|_| Tar::new().file("../escaped", "x")),
        Box::new(|_| Tar::new().file("a/../../escaped", "x")),
        Box::new(|_| Tar::new().dir("..", 0o777)),
        Box::new(|_| Tar::new().dir("a/..", 0o777)),
        Box::new(move |p| Tar::new().file(&format!("{}/file", canary(p)), "x")),
        Box::new(move |p| Tar::new().link("a", &canary(p)).file("a/file", "x")),
        Box::new(|_| Tar::new().link("a", "../canary").file("a/file", "x")),
        Box::new(|_| Tar::new().link("a", "..").file("a/canary/file", "x")),
        Box::new(|_| Tar::new().link("a", ".").link("a/b", "..").file("b/canary/file", "x")),
        Box::new(|_| {
            Tar::new().dir("d", 0o755).link("d/a", "../..").link("b", "d/a").file("b/canary/file", "x")
        }),
        Box::new(|_| Tar::new().link("a", "../canary/file").file("a", "x")),
        Box::new(|_| Tar::new().link("a", "../canary").dir("a", 0o777)),
        Box::new(|_| Tar::new().link("a", "../canary").dir("a/sub", 0o777)),
        Box::new(|_| Tar::new().link("a", "../canary").file("a/.wh.file", "")),
        Box::new(|_| Tar::new().link("a", "../canary").file("a/.wh..wh..opq", "")),
        Box::new(|_| Tar::new().file(".wh...", "")),
        Box::new(|_| Tar::new().file(".wh..", "")),
        Box::new(|_| Tar::new().file("a/.wh...", "")),
        Box::new(|_| Tar::new().link("a", "a").file("a/b", "x")),
        Box::new(|_| Tar::new().link("a", "b").link("b", "a").file("a/c", "x")),
        Box::new(|_| Tar::new().link("a", "/proc/self/cwd").file("a/file", "x")),
        Box::new(|_| Tar::new().link("a", "/proc/self/root").file("a/tmp/file", "x")),
        Box::new(|_| {
            (0..60)
                .fold(Tar::new(), |tar, n| tar.link(&format!("l{n}"), &format!("l{}", n + 1)))
                .file("l0/x", "")
        }),
        Box::new(|_| Tar::new().pax(&[("path", b"../escaped")]).file("a", "x")),
        Box::new(|_| Tar::new().pax(&[("path", b"a\0b")]).file("a", "x")),
        Box::new(|_| Tar::new().pax(&[("linkpath", b"../canary/file")]).hard("a", "b")),
        Box::new(|_| {
            Tar::new().entry(EntryType::GNULongName, b"././@LongLink", b"", 0, b"../escaped\0").file("a", "")
        }),
    ];
    for (n, case) in cases.iter().enumerate() {
        let place = Place::new();
        // An error, or it lies inside; the check is in `unpack`.
        let result = place.unpack(&case(&place).end());
        if let Err(error) = result {
            assert!(error.path().is_some(), "case {n}: {error:?}");
        }
    }
}

/// A121: hard links to what is outside.
#[test]
fn a121_hard_links_stay_inside() {
    for archive in [
        Tar::new().hard("a", "../canary/file").file("a", "x"),
        Tar::new().link("s", "../canary").hard("a", "s/file").file("a", "x"),
        Tar::new().link("s", "../canary/file").hard("a", "s").file("a", "x"),
        Tar::new().link("s", "../canary/file").hard("a", "s").dir("a", 0o777),
        Tar::new().hard("a", "a"),
        Tar::new().hard("a", "."),
        Tar::new().dir("d", 0o755).hard("a", "d"),
        Tar::new().hard("a", ""),
    ] {
        let place = Place::new();
        // The links are refused, or lead to the link itself inside, which is then replaced.
        let _ = place.unpack(&archive.end());
    }
    let place = Place::new();
    place.unpack(&Tar::new().link("s", "../canary/file").hard("h", "s").file("h", "mine").end()).unwrap();
    assert_eq!(fs::read_to_string(place.into.join("h")).unwrap(), "mine");
    assert!(fs::symlink_metadata(place.into.join("s")).unwrap().is_symlink());
}

/// A122: the root itself as a link redirects everything that follows.
#[test]
fn a122_the_root_is_no_link() {
    for path in [&b"/."[..], b"./", b"/", b".", b"//./"] {
        let place = Place::new();
        let archive =
            Tar::new().entry(EntryType::Symlink, path, b"../canary", 0o777, b"").file("file", "x").end();
        assert_eq!(place.unpack(&archive).unwrap_err().kind(), ErrorKind::Archive);
        assert!(fs::symlink_metadata(&place.into).unwrap().is_dir());
    }
}

/// A124: what gives privileges is left out.
#[test]
fn a124_devices_and_privileges_are_left_out() {
    let place = Place::new();
    let capability = b"\x01\0\0\x02\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0";
    let archive = Tar::new()
        .entry(EntryType::Block, b"disk", b"", 0o666, b"")
        .entry(EntryType::Char, b"mem", b"", 0o666, b"")
        .entry(EntryType::Regular, b"suid", b"", 0o6755, b"x")
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("caps", "x")
        .end();
    let done = place.unpack(&archive).unwrap();
    assert_eq!((done.devices_skipped, done.privileges_dropped), (2, 2));
    assert_eq!(
        list(&place.into).into_iter().collect::<Vec<_>>(),
        [("caps".into(), 'f'), ("suid".into(), 'f')]
    );
    assert_eq!(fs::metadata(place.into.join("suid")).unwrap().permissions().mode() & 0o7000, 0);
}

/// A125: archives that are larger than they look, or say that they are.
#[test]
fn a125_bombs_stop_at_their_limit() {
    let kind = |options: Unpack, archive: &[u8]| {
        let place = Place::new();
        let result = options.tar(archive, &place.into);
        place.check();
        result.map_err(|error| error.kind())
    };
    // A file of 8 EiB that isn't there.
    let mut huge = Tar::new();
    huge.push(EntryType::Regular, b"huge", b"", 0o644, b"", 8 << 60 >> 1);
    let result = kind(Unpack::new(), &huge.end());
    assert!(matches!(result, Err(ErrorKind::Limit | ErrorKind::Archive)), "{result:?}");
    let small = Tar::new().file("a", "12345").file("b", "12345").end();
    assert_eq!(kind(Unpack::new().max_bytes(9), &small), Err(ErrorKind::Limit));
    assert!(kind(Unpack::new().max_bytes(10), &small).is_ok());
    assert_eq!(kind(Unpack::new().max_entries(1), &small), Err(ErrorKind::Limit));
    // Zeros behind entries that hold no contents count too.
    let mut hidden = Tar::new();
    hidden.push(EntryType::Directory, b"d", b"", 0o755, &vec![0; 8 << 20], 8 << 20);
    assert_eq!(kind(Unpack::new().max_bytes(1 << 10).max_entries(10), &hidden.end()), Err(ErrorKind::Limit));
    // 300 MiB of zeros in 300 KiB.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zeros = Tar::new();
    zeros.push(EntryType::Regular, b"zeros", b"", 0o644, b"", 300 << 20);
    gzip.write_all(&zeros.0).unwrap();
    let block = vec![0; 1 << 20];
    (0..301).for_each(|_| gzip.write_all(&block).unwrap());
    let bomb = gzip.finish().unwrap();
    assert_eq!(kind(Unpack::new().max_ratio(100), &bomb), Err(ErrorKind::Limit));
    // Names and attributes without end.
    let mut name = Tar::new();
    name.push(EntryType::GNULongName, b"././@LongLink", b"", 0, &vec![b'a'; 2 << 20], 2 << 20);
    assert_eq!(kind(Unpack::new(), &name.end()), Err(ErrorKind::Limit));
    let long = vec![b'a'; 70_000];
    assert_eq!(
        kind(Unpack::new(), &Tar::new().pax(&[("path", &long)]).file("a", "").end()),
        Err(ErrorKind::Archive)
    );
    // Two sizes.
    let two = Tar::new().pax(&[("size", b"4096")]).file("a", "12345").end();
    assert_eq!(kind(Unpack::new(), &two), Err(ErrorKind::Archive));
    let deep = "d/".repeat(300);
    assert_eq!(
        kind(Unpack::new(), &Tar::new().pax(&[("path", deep.as_bytes())]).dir("a", 0o755).end()),
        Err(ErrorKind::Archive)
    );
}

/// Layers over each other: whiteouts, opaque directories, types that change.
#[test]
fn later_layers_hide_what_they_say() {
    let place = Place::new();
    let unpack = |archive: Tar| place.unpack(&archive.end()).unwrap();
    unpack(
        Tar::new()
            .file("gone", "")
            .file("kept", "")
            .dir("dir", 0o555)
            .file("dir/one", "")
            .file("dir/two", "")
            .dir("tree/below", 0o755)
            .file("tree/below/x", "")
            .file("file-to-dir", "")
            .dir("dir-to-file", 0o755)
            .file("dir-to-file/x", ""),
    );
    unpack(
        Tar::new()
            .file(".wh.gone", "")
            .file(".wh.tree", "")
            .file(".wh.never-there", "")
            .file("not/there/.wh.x", "")
            // The opaque mark hides what is below this layer, not what is in it, wherever it stands.
            .dir("dir", 0o755)
            .file("dir/three", "")
            .file("dir/.wh..wh..opq", "")
            .file("dir/four", "")
            .file("new", "")
            .file(".wh.new", "")
            .dir("file-to-dir", 0o755)
            .file("file-to-dir/y", "")
            .file("dir-to-file", "now a file")
            .file(".wh..wh.plnk", ""),
    );
    let names: Vec<_> = list(&place.into).into_keys().collect();
    assert_eq!(
        names,
        ["dir", "dir-to-file", "dir/four", "dir/three", "file-to-dir", "file-to-dir/y", "kept", "new"]
    );
}

fn blob(dir: &Path, data: &[u8]) -> serde_json::Value {
    let hex: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(dir.join("blobs/sha256").join(&hex), data).unwrap();
    serde_json::json!({ "mediaType": "x", "digest": format!("sha256:{hex}"), "size": data.len() })
}

/// An OCI image layout with two layers.
fn oci(dir: &Path) -> String {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let one = blob(dir, &Tar::new().file("one", "1").file("both", "1").end());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&Tar::new().file("both", "2").file(".wh.one", "").end()).unwrap();
    let two = blob(dir, &gzip.finish().unwrap());
    let config = blob(dir, br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/both"]}}"#);
    let layer = two["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [one, two] });
    let mut manifest = blob(dir, manifest.to_string().as_bytes());
    manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "latest" });
    manifest["platform"] = serde_json::json!({ "architecture": "amd64", "os": "linux" });
    let mut other = manifest.clone();
    other["platform"] = serde_json::json!({ "architecture": "arm64", "os": "linux" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [other, manifest] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    layer
}

/// A directory as a tar archive.
fn packed(dir: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn an_oci_layout_as_directory_and_as_archive() {
    let dir = temp_dir();
    let layer = oci(dir.path());
    let archive = tempfile::NamedTempFile::new().unwrap();
    fs::write(archive.path(), packed(dir.path())).unwrap();
    for path in [dir.path(), archive.path()] {
        let image = Image::open_reference(path, "latest").unwrap();
        assert_eq!(image.layers(), 2);
        assert!(String::from_utf8(image.config().unwrap().unwrap()).unwrap().contains("/both"));
        let into = temp_dir();
        image.unpack(into.path().join("rootfs"), &Unpack::new()).unwrap();
        assert_eq!(list(&into.path().join("rootfs")).into_keys().collect::<Vec<_>>(), ["both"]);
        assert_eq!(fs::read_to_string(into.path().join("rootfs/both")).unwrap(), "2");
        let again = image.unpack(into.path().join("rootfs"), &Unpack::new()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict);
        assert_eq!(Image::open_reference(path, "other").unwrap_err().kind(), ErrorKind::NotFound);
    }
    // A layer that is not what its digest says; a link, a FIFO in place of a part.
    let path = dir.path().join("blobs/sha256").join(layer);
    let bytes = fs::read(&path).unwrap();
    let unpack = || {
        let into = temp_dir();
        Image::open(dir.path())
            .and_then(|image| image.unpack(into.path(), &Unpack::new()))
            .unwrap_err()
            .kind()
    };
    let mut longer = bytes.clone();
    longer.push(0);
    fs::write(&path, longer).unwrap();
    assert_eq!(unpack(), ErrorKind::Archive);
    fs::write(&path, Tar::new().file("evil", "").end()).unwrap();
    assert_eq!(unpack(), ErrorKind::Archive);
    fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(unpack(), ErrorKind::System);
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(unpack(), ErrorKind::WrongType);
}

#[test]
fn an_archive_of_docker_save() {
    let dir = temp_dir();
    for (layer, tar) in [("a", Tar::new().file("one", "1")), ("b", Tar::new().file("two", "2"))] {
        fs::create_dir(dir.path().join(layer)).unwrap();
        fs::write(dir.path().join(layer).join("layer.tar"), tar.end()).unwrap();
    }
    fs::create_dir(dir.path().join("c")).unwrap();
    symlink("../b/layer.tar", dir.path().join("c/layer.tar")).unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let manifest = r#"[{"Config":"config.json","RepoTags":["x:1"],"Layers":["a/layer.tar","c/layer.tar"]}]"#;
    fs::write(dir.path().join("manifest.json"), manifest).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", dir.path()).unwrap();
    let archive = tempfile::NamedTempFile::new().unwrap();
    fs::write(archive.path(), builder.into_inner().unwrap()).unwrap();
    let into = temp_dir();
    Image::open_reference(archive.path(), "x:1").unwrap().unpack(into.path(), &Unpack::new()).unwrap();
    assert_eq!(list(into.path()).into_keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(Image::open_reference(archive.path(), "x:2").unwrap_err().kind(), ErrorKind::NotFound);
    // A plain archive of a root file system is an image of one layer.
    fs::write(archive.path(), Tar::new().file("etc/issue", "x").end()).unwrap();
    let image = Image::open(archive.path()).unwrap();
    assert_eq!((image.layers(), image.config().unwrap()), (1, None));
    // Parts outside of the archive can't be named.
    let manifest = r#"[{"Config":"../x","Layers":[]}]"#;
    fs::write(archive.path(), Tar::new().file("manifest.json", manifest).end()).unwrap();
    assert_eq!(Image::open(archive.path()).unwrap_err().kind(), ErrorKind::Archive);
}

#[test]
fn an_archive_of_gnu_tar() {
    // The real thing, with the extensions that it uses.
    let Ok(out) = std::process::Command::new("tar")
        .args([
            "--format=gnu",
            "--xattrs",
            "-C",
            "/usr/share",
            "-czf",
            "-",
            "doc/base-files",
            "zoneinfo/Europe",
        ])
        .output()
    else {
        skip!("tar(1) is not installed", needs = "tool");
    };
    if !out.status.success() {
        skip!("tar(1) can't pack these directories", needs = "tool");
    }
    let place = Place::new();
    let options = Unpack::new().ownership(Ownership::Caller);
    options.tar(&out.stdout[..], &place.into).unwrap();
    for dir in ["doc/base-files", "zoneinfo/Europe"] {
        assert_eq!(list(&place.into.join(dir)), list(&Path::new("/usr/share").join(dir)));
    }
    let europe = |root: &Path| fs::read(root.join("zoneinfo/Europe/Berlin")).unwrap();
    assert_eq!(europe(&place.into), europe(Path::new("/usr/share")));
}

fn kinds() -> impl Strategy<Value = EntryType> {
    use EntryType::*;
    prop::sample::select(vec![
        Regular,
        Regular,
        Directory,
        Symlink,
        Symlink,
        Link,
        Link,
        Fifo,
        Char,
        XHeader,
        GNULongName,
        GNUSparse,
    ])
}

fn paths() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        "canary",
        "file",
        "sub",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever an archive says, nothing outside changes and nothing panics.
    #[test]
    fn no_archive_touches_the_outside(entries in prop::collection::vec((kinds(), paths(), paths(), 0u32..0o10000), 1..12)) {
        let place = Place::new();
        let absolute = place.canary.to_str().unwrap();
        let mut tar = Tar::new();
        for (kind, path, link, mode) in entries {
            let link = if mode % 5 == 0 { absolute } else { &link };
            let data: &[u8] = match kind {
                EntryType::Regular => b"data",
                EntryType::GNULongName => b"../canary/file\0",
                EntryType::XHeader => b"23 path=../canary/file\n",
                _ => b"",
            };
            tar = tar.entry(kind, path.as_bytes(), link.as_bytes(), mode | 0o700, data);
        }
        let _ = place.unpack(&tar.end());
    }

    #[test]
    fn arbitrary_bytes_are_no_archive(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let place = Place::new();
        let _ = place.unpack(&bytes);
    }
}
