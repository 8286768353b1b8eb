//! `user[:group]` by the rules of container engines.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use palisade_creds::{ErrorKind, Gid, Result, Uid, User, UserDb, UserSpec};
use proptest::prelude::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
\n\
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
alice:x:1000:1000:Alice,,,:/home/alice:/bin/sh\n\
alice:x:2000:2000::/second:/bin/sh\n\
same:x:1000:77::/same:/bin/false\n\
1001:x:5000:5000::/number:/bin/sh\n\
short:x:1002:1002\n\
nogid:x:1003\n\
nouid\n\
text:x:abc:5::/:/bin/sh\n\
huge:x:4294967295:5::/:/bin/sh\n\
wide:x:4294967294:5::/:/bin/sh\n\
+::::::\n\
  spaced:x:1004:1004:::  \r\n\
last:x:1005:1005::/last:/bin/sh";

const GROUP: &str = "root:x:0:\n\
# audio:x:99:alice\n\
audio:x:29:alice,bob\n\
video:x:44:bob, alice\n\
wheel:x:10:root,alice\n\
wheel:x:11:alice\n\
again:x:29:alice\n\
1000:x:6000:\n\
prefix:x:50:alicex,xalice\n\
empty\n\
bad:x:y:zoe\n\
\n\
last:x:70:last";

fn resolve(spec: &str) -> Result<User> {
    UserDb::new(PASSWD, GROUP).resolve(&spec.parse::<UserSpec>()?)
}

fn kind(spec: &str) -> ErrorKind {
    resolve(spec).expect_err(spec).kind()
}

fn found(spec: &str) -> (u32, u32, Vec<u32>, String) {
    let user = resolve(spec).expect(spec);
    let groups = user.groups.iter().map(|gid| gid.as_raw()).collect();
    (user.uid.as_raw(), user.gid.as_raw(), groups, user.home.display().to_string())
}

/// F12: the forms of a specification.
#[test]
fn every_form_of_a_specification() {
    let home = |path: &str| path.to_owned();
    assert_eq!(found(""), (0, 0, vec![10], home("/root")), "nothing is user 0's line");
    assert_eq!(
        found("alice"),
        (1000, 1000, vec![29, 10, 11], home("/home/alice")),
        "the first line, each group once"
    );
    assert_eq!(
        found("1000"),
        (1000, 1000, vec![29, 10, 11], home("/home/alice")),
        "a number that passwd has"
    );
    assert_eq!(found("alice:audio"), (1000, 29, vec![], home("/home/alice")), "a group given: no others");
    assert_eq!(found("alice:4242"), (1000, 4242, vec![], home("/home/alice")), "an unknown number is taken");
    assert_eq!(found("1000:audio"), (1000, 29, vec![], home("/home/alice")));
    assert_eq!(found("1000:1"), (1000, 1, vec![], home("/home/alice")));
    assert_eq!(
        found("31337"),
        (31337, 0, vec![], home("/")),
        "a number that passwd has not: group 0, no groups"
    );
    assert_eq!(found("31337:31338"), (31337, 31338, vec![], home("/")));
    assert_eq!(found(":audio"), (0, 29, vec![], home("/root")));
    assert_eq!(found("alice:"), (1000, 1000, vec![29, 10, 11], home("/home/alice")));
    assert_eq!(found("+1000"), found("1000"));
    assert_eq!(found("2147483647").0, 2_147_483_647);
}

/// F12: what reads as a number is one, even if a name looks like it.
#[test]
fn a_number_is_never_a_name() {
    assert_eq!(
        found("1001"),
        (1001, 0, vec![], "/".to_owned()),
        "not the user called 1001, whose id is 5000"
    );
    assert_eq!(found("alice:1000").1, 1000, "not the group called 1000, whose id is 6000");
}

#[test]
fn what_is_not_there_is_told_as_the_engines_do() {
    let error = resolve("mallory").expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::UnknownUser);
    assert_eq!(error.to_string(), "unable to find user mallory: no matching entries in passwd file");
    let error = resolve("alice:nogroup").expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::UnknownGroup);
    assert_eq!(error.to_string(), "unable to find group nogroup: no matching entries in group file");
    for spec in ["-1", "2147483648", "4294967295", "99999999999999999999", "alice:-5", "alice:2147483648"] {
        assert_eq!(kind(spec), ErrorKind::InvalidId, "{spec}");
    }
    assert_eq!(kind("alice:audio:more"), ErrorKind::UnknownGroup, "split at the first colon");
    assert_eq!(kind("spaced "), ErrorKind::UnknownUser);
}

/// A117: a line that matches but has no ids is an error; it must never read as user 0.
#[test]
fn a117_a_bad_line_is_never_root() {
    for name in ["nouid", "text", "huge", "nogid", "+"] {
        assert_eq!(kind(name), ErrorKind::BadEntry, "{name}");
    }
    assert_eq!(kind("alice:empty"), ErrorKind::BadEntry);
    assert_eq!(kind("alice:bad"), ErrorKind::BadEntry);
    assert_eq!(found("wide").0, 4_294_967_294);
    assert_eq!(found("short"), (1002, 1002, vec![], "/".to_owned()), "a short line fills what it can");
    assert_eq!(found("spaced").0, 1004);
    assert_eq!(
        found("last"),
        (1005, 1005, vec![70], "/last".to_owned()),
        "no line break at the end of either file"
    );
    let nul = UserDb::new("eve:x:1:1::/ho\0me:/bin/sh", "");
    assert_eq!(nul.resolve(&"eve".parse().expect("a name")).expect_err("NUL").kind(), ErrorKind::BadEntry);
    let member = UserDb::new("zoe:x:5:5::/:", GROUP);
    let error = member.resolve(&"zoe".parse().expect("a name")).expect_err("a member of a group without id");
    assert_eq!(error.kind(), ErrorKind::BadEntry);
}

/// What kubelet has to know before anything can be looked up: is the user a number?
#[test]
fn a_specification_tells_what_it_holds() {
    let spec = |text: &str| text.parse::<UserSpec>().expect(text);
    assert_eq!((spec("1000:audio").uid(), spec("1000").user_name()), (Uid::new(1000), None));
    assert_eq!((spec("alice:5").uid(), spec("alice:5").user_name()), (None, Some("alice".as_ref())));
    assert_eq!((spec("").uid(), spec(":5").user_name()), (None, None));
}

#[test]
fn missing_files_are_empty() {
    let none = UserDb::default();
    let user = none.resolve(&UserSpec::default()).expect("user 0");
    assert_eq!(
        (user.uid, user.gid, user.home.as_path(), user.name),
        (Uid::ROOT, Gid::ROOT, Path::new("/"), None)
    );
    let user = none.resolve(&(Uid::NOBODY, Gid::NOBODY).into()).expect("numbers need no file");
    assert_eq!((user.uid, user.gid), (Uid::NOBODY, Gid::NOBODY));
    assert_eq!(
        none.resolve(&"root".parse().expect("a name")).expect_err("no file").kind(),
        ErrorKind::UnknownUser
    );
}

#[test]
fn entries_are_listed_in_order() {
    let files = UserDb::new(PASSWD, GROUP);
    let names: Vec<_> = files.users().map(|user| user.name.to_string_lossy().into_owned()).collect();
    let expected = "root daemon alice alice same 1001 short nogid nouid text huge wide + spaced last";
    assert_eq!(names.join(" "), expected);
    assert_eq!(files.users().nth(1).map(|user| user.line), Some(3));
    let members: Vec<_> =
        files.groups().find(|group| group.name == "audio").expect("audio").members().collect();
    assert_eq!(members, ["alice", "bob"]);
    assert_eq!(files.group("audio").expect("a name"), Gid::new(29).expect("an id"));
    assert_eq!(files.group("4000").expect("a number"), Gid::new(4000).expect("an id"));
    assert_eq!(files.group("").expect_err("nothing").kind(), ErrorKind::UnknownGroup);
}

/// A117: files of a hostile root, read without following a link out of it, waiting, or reading for ever.
#[test]
fn a117_hostile_files_of_a_root() {
    let dir = palisade_testkit::temp_dir();
    let etc = dir.path().join("etc");
    let open = || UserDb::open_in(std::fs::File::open(dir.path()).expect("root"));
    assert_eq!(open().expect("no /etc at all"), UserDb::default());
    std::fs::create_dir(&etc).expect("mkdir");
    let passwd = etc.join("passwd");
    let replace = |make: &dyn Fn(&Path)| {
        std::fs::remove_file(&passwd).ok();
        make(&passwd);
    };

    replace(&|path| std::fs::write(path, PASSWD).expect("write"));
    assert_eq!(open().expect("a plain file"), UserDb::new(PASSWD, ""));
    // An absolute link is one within the root: the host's passwd (with its daemon, bin, …) must not be read.
    replace(&|path| symlink("/etc/group", path).expect("link"));
    assert_eq!(open().expect("dangling within the root"), UserDb::default());
    replace(&|path| symlink("../../../../../../etc/passwd", path).expect("link"));
    assert_eq!(open().expect_err("a link to itself, seen from within").errno(), Some(libc::ELOOP));
    std::fs::write(dir.path().join("inside"), "in:x:7:7::/:").expect("write");
    replace(&|path| symlink("/inside", path).expect("link"));
    assert_eq!(open().expect("a link within the root").users().count(), 1);
    let own = format!("/proc/{}/root/etc/passwd", std::process::id());
    replace(&|path| symlink(&own, path).expect("link"));
    assert_eq!(open().expect("no /proc in this root"), UserDb::default());
    replace(&|path| {
        std::fs::File::create(path).expect("create").set_len(10 << 30).expect("sparse");
    });
    assert_eq!(open().expect_err("10 GB").kind(), ErrorKind::TooLarge);
    replace(&|path| {
        let status = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
        assert!(status.success());
    });
    assert_eq!(open().expect_err("a FIFO").kind(), ErrorKind::NotTrusted, "and no waiting");
    std::fs::remove_file(&passwd).expect("remove");
    std::fs::create_dir(&passwd).expect("mkdir");
    assert_eq!(open().expect_err("a directory").kind(), ErrorKind::NotTrusted);

    let (pipe, _end) = std::os::unix::net::UnixStream::pair().expect("pair");
    let error = UserDb::from_files(Some(pipe.as_fd()), None).expect_err("a socket");
    assert_eq!(error.kind(), ErrorKind::NotTrusted);
    let host = UserDb::open_in(std::fs::File::open("/").expect("root")).expect("this system's");
    assert!(host.users().any(|user| user.uid == Some(Uid::ROOT)));
    let magic = std::fs::File::open("/proc/self").expect("/proc");
    assert_eq!(UserDb::open_in(magic).expect("no etc there"), UserDb::default());
}

/// A117: a million lines are either read in the time of a read or refused.
#[test]
fn a117_many_lines() {
    let line = |n: usize| format!("u{n}:x:{n}:{n}:::\n");
    let passwd: String = (1..300_000).map(line).collect();
    assert!(passwd.len() as u64 <= UserDb::MAX_FILE);
    let files = UserDb::new(passwd, "");
    assert_eq!(files.resolve(&"u299999".parse().expect("a name")).expect("the last").uid.as_raw(), 299_999);
}

proptest! {
    #[test]
    fn specifications_round_trip(text in "[a-z0-9:+-]{0,12}") {
        if let Ok(spec) = text.parse::<UserSpec>() {
            prop_assert_eq!(spec.to_string().parse::<UserSpec>().expect("its own text"), spec);
        }
    }

    /// Whatever the files and the specification: an answer or an error, and user 0 only where 0 was asked for or stands there.
    #[test]
    fn resolution_is_total_and_never_root_by_accident(
        passwd in "([a-c0]{0,2}:x?:[0-9x]{0,3}:[0-9x]{0,3}:?\n?){0,6}",
        group in "(#?[a-c]{0,2}:x:[0-9x]{0,2}:[a-c,]{0,4}\n?){0,6}",
        spec in "[a-c0-9]{1,2}(:[a-c0-9]{0,2})?",
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let spec = spec.parse::<UserSpec>().expect("small numbers");
        let _ = UserDb::new(noise.clone(), noise).resolve(&spec);
        let files = UserDb::new(passwd, group);
        if let Ok(user) = files.resolve(&spec) {
            let asked = spec.to_string();
            let zero = asked.split(':').next().is_some_and(|user| user.bytes().all(|byte| byte == b'0'));
            let stands = files.users().any(|entry| entry.uid == Some(Uid::ROOT));
            prop_assert!(user.uid != Uid::ROOT || zero || stands);
        }
    }
}
