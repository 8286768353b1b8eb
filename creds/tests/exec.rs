//! The exec transformation, predicted and then done by the kernel.

mod common;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::sys;
use palisade_creds::{
    Capability, CapabilitySet, Credentials, ErrorKind, ExecFile, FileCapabilities, Gid, Identity, Securebits,
    ThreadCapabilities, Uid,
};
use palisade_testkit::{is_root, skip};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const NET_RAW: CapabilitySet = CapabilitySet::of(&[Capability::NetRaw]);
const TWO: CapabilitySet = CapabilitySet::of(&[Capability::NetRaw, Capability::SysTime]);

fn caps(permitted: CapabilitySet, inheritable: CapabilitySet, effective: bool, root: Option<u32>) -> Vec<u8> {
    let root = root.map(|root| Uid::new(root).expect("an id"));
    FileCapabilities { permitted, inheritable, effective, root }.to_bytes()
}

/// Copies of `cat` with everything that a file can have an exec do.
fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let none = CapabilitySet::EMPTY;
    type Variant = (&'static str, u32, (u32, u32), Option<Vec<u8>>);
    let variants: [Variant; 12] = [
        ("plain", 0o755, (0, 0), None),
        ("permitted-effective", 0o755, (0, 0), Some(caps(NET_RAW, none, true, None))),
        ("two-effective", 0o755, (0, 0), Some(caps(TWO, none, true, None))),
        ("permitted-only", 0o755, (0, 0), Some(caps(TWO, none, false, None))),
        ("inheritable", 0o755, (0, 0), Some(caps(none, TWO, true, None))),
        ("empty", 0o755, (0, 0), Some(caps(none, none, false, None))),
        ("of-another-root", 0o755, (0, 0), Some(caps(TWO, none, true, Some(1000)))),
        ("set-uid-root", 0o4755, (0, 0), None),
        ("set-uid-other", 0o4755, (1001, 0), None),
        ("set-uid-root-with-caps", 0o4755, (0, 0), Some(caps(NET_RAW, none, false, None))),
        ("set-gid", 0o2755, (0, 1002), None),
        ("set-gid-without-execute", 0o2745, (0, 1002), None),
    ];
    let make = |(name, mode, (uid, gid), caps): Variant| {
        let path = dir.join(name);
        std::fs::copy("/bin/cat", &path).expect("copy");
        chown(&path, Some(uid), Some(gid)).expect("chown");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        if let Some(caps) = caps {
            sys::set_file_capabilities(&path, &caps).expect("setxattr");
        }
        path
    };
    variants.into_iter().map(make).collect()
}

/// States from which programs are executed: all that matters to the rules, in reach of a caller with `held`.
fn states(held: CapabilitySet) -> impl Strategy<Value = Identity> {
    let universe = TWO | CapabilitySet::of(&[Capability::Setpcap, Capability::Chown]);
    let set = move || any::<u64>().prop_map(move |bits| held & CapabilitySet::from_bits(bits) & universe);
    let more = any::<bool>().prop_map(move |all| if all { held - universe } else { CapabilitySet::EMPTY });
    let ids = prop::sample::select(vec![(0u32, 0u32), (1000, 1000), (1000, 1002)]);
    let groups = prop::sample::select(vec![vec![], vec![1002u32], vec![1003]]);
    let securebits = prop::sample::select(vec![
        Securebits::empty(),
        Securebits::NOROOT,
        Securebits::NO_SETUID_FIXUP,
        Securebits::NOROOT | Securebits::KEEP_CAPS,
        Securebits::NO_CAP_AMBIENT_RAISE,
    ]);
    let sets = (set(), set(), set(), set(), set(), more);
    (sets, ids, groups, securebits, any::<bool>()).prop_map(
        |((b, p, e, i, a, more), (uid, gid), groups, bits, escalate)| {
            let (bounding, permitted) = (b | more, p | more);
            let inheritable = i & bounding;
            let ambient = a & permitted & inheritable;
            let sets =
                ThreadCapabilities { bounding, permitted, effective: e & permitted, inheritable, ambient };
            Identity::new()
                .ids(Uid::new(uid).expect("an id"), Gid::new(gid).expect("an id"))
                .groups(groups.into_iter().filter_map(Gid::new))
                .capability_sets(sets)
                .securebits(bits)
                .allow_privilege_escalation(escalate)
        },
    )
}

/// Some hundred states times all files: the kernel makes of each what the function says.
#[test]
fn the_kernel_agrees_with_the_prediction() {
    if !is_root() {
        skip!("the states and files take capabilities", needs = "root");
    }
    let dir = palisade_testkit::temp_dir();
    let files = files(dir.path());
    let held = ThreadCapabilities::current().expect("readable").permitted;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let since_6_18 = (numbers.next(), numbers.next()) >= (Some(6), Some(18));
    let gained = std::cell::Cell::new(0);
    let refused = std::cell::Cell::new(0);
    TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() })
        .run(&states(held), |identity| {
            let prepared = identity.prepare().expect("all is held");
            for path in &files {
                let file = ExecFile::of(std::fs::File::open(path).expect("open")).expect("a file");
                let member =
                    |gid| prepared.after().groups.as_ref().is_some_and(|groups| groups.contains(&gid));
                if !since_6_18 && file.set_gid.is_some_and(member) {
                    continue;
                }
                let predicted = prepared.after().after_exec(&file);
                let mut command = Command::new(path);
                let output = prepared.apply_to_command(command.arg("/proc/self/status")).output();
                let name = path.file_name().expect("a name").to_string_lossy();
                match (predicted, output) {
                    (Ok(predicted), Ok(output)) => {
                        let seen = Credentials::from_status(&output.stdout).expect("a status");
                        let same = seen.check(&predicted);
                        prop_assert!(
                            same.is_ok(),
                            "{name} from {:?}: {}",
                            prepared.after(),
                            same.expect_err("differs")
                        );
                        gained.set(gained.get() + u32::from(!predicted.capabilities.effective.is_empty()));
                    }
                    // A member of its group lacks the execute bit that others have.
                    (_, Err(io)) if name == "set-gid-without-execute" => {
                        let groups = prepared.after().groups.as_deref().expect("known");
                        let member =
                            groups.iter().chain([&prepared.after().gid.real]).any(|gid| gid.as_raw() == 1002);
                        prop_assert!(member && io.raw_os_error() == Some(libc::EACCES));
                    }
                    (Err(error), Err(io)) => {
                        prop_assert_eq!(
                            (error.errno(), io.raw_os_error()),
                            (Some(libc::EPERM), Some(libc::EPERM))
                        );
                        refused.set(refused.get() + 1);
                    }
                    (predicted, output) => {
                        prop_assert!(false, "{name} from {:?}: {predicted:?}, {output:?}", prepared.after());
                    }
                }
            }
            Ok(())
        })
        .expect("the prediction holds");
    let (gained, refused) = (gained.get(), refused.get());
    assert!(gained > 0 && refused > 0, "the cases must cover both: {gained} gained, {refused} refused");
}

/// A51: with nothing inheritable, a file with inheritable bits gains nothing (CVE-2022-24769 and its kin).
#[test]
fn a51_inheritable_file_bits_gain_nothing() {
    if !is_root() {
        skip!("the files take capabilities", needs = "root");
    }
    let dir = palisade_testkit::temp_dir();
    let path = files(dir.path()).into_iter().find(|path| path.ends_with("inheritable")).expect("in the list");
    let nobody = Identity::new().ids(Uid::NOBODY, Gid::NOBODY).capabilities(CapabilitySet::DOCKER);
    let prepared = nobody.allow_privilege_escalation(true).prepare().expect("root");
    let mut command = Command::new(path);
    let output = prepared.apply_to_command(command.arg("/proc/self/status")).output().expect("spawned");
    let seen = Credentials::from_status(&output.stdout).expect("a status").capabilities;
    assert!((seen.permitted | seen.effective).is_empty());
}

/// A mount with nosuid takes all of it away.
#[test]
fn nosuid_mounts_are_seen() {
    if !is_root() {
        skip!("the files take capabilities", needs = "root");
    }
    let dir = palisade_testkit::temp_dir();
    files(dir.path());
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,nosuid \"$0\" && PALISADE_DIR=\"$0\" \"$1\" --exact inner_nosuid --ignored";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(dir.path())
        .arg(std::env::current_exe().expect("this test"))
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by the test above in a mount namespace of its own"]
fn inner_nosuid() {
    let dir = PathBuf::from(std::env::var_os("PALISADE_DIR").expect("set by the test above"));
    let nobody = Identity::new().ids(Uid::NOBODY, Gid::NOBODY).capabilities(CapabilitySet::DOCKER);
    let prepared = nobody.allow_privilege_escalation(true).prepare().expect("root");
    for name in ["set-uid-root", "permitted-effective", "set-uid-root-with-caps"] {
        let path = dir.join(name);
        let file = ExecFile::of(std::fs::File::open(&path).expect("open")).expect("a file");
        assert!(file.nosuid);
        let mut command = Command::new(&path);
        let output = prepared.apply_to_command(command.arg("/proc/self/status")).output().expect("spawned");
        let seen = Credentials::from_status(&output.stdout).expect("a status");
        seen.check(&prepared.after().after_exec(&file).expect("nothing gained")).expect(name);
    }
}

#[test]
fn attributes_of_every_version_are_read() {
    let parse = |words: &[u32]| {
        FileCapabilities::parse(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    };
    let one = parse(&[0x0100_0001, 0x2000, 0x0400]).expect("version 1");
    assert_eq!(
        (one.permitted, one.inheritable.bits(), one.effective, one.root),
        (NET_RAW, 0x400, true, None)
    );
    let two = parse(&[0x0200_0000, 0x2000, 0, 0x100, 0]).expect("version 2");
    assert_eq!((two.permitted.bits(), two.effective), (0x100_0000_2000, false));
    let three = parse(&[0x0300_0001, 0x2000, 0, 0, 0, 1000]).expect("version 3");
    assert_eq!(three.root, Uid::new(1000));
    for bad in [
        &[][..],
        &[0x0200_0000],
        &[0x0200_0000, 1, 1],
        &[0x0100_0000, 0, 0, 0, 0],
        &[0x0400_0000, 0, 0, 0, 0],
        &[0x0300_0000, 0, 0, 0, 0, u32::MAX],
    ] {
        assert_eq!(parse(bad).expect_err("no version").kind(), ErrorKind::Syntax);
    }
    assert_eq!(FileCapabilities::parse(&[0, 0, 0, 2, 0]).expect_err("odd length").kind(), ErrorKind::Syntax);
    assert_eq!(
        FileCapabilities::of(std::fs::File::open("/bin/cat").expect("open")).expect("no attribute"),
        None
    );
}

/// What libcap's tool sets is what is read.
#[test]
fn setcap_and_this_crate_agree() {
    if !is_root() {
        skip!("setcap takes CAP_SETFCAP", needs = "root");
    }
    let dir = palisade_testkit::temp_dir();
    let path = dir.path().join("file");
    std::fs::copy("/bin/cat", &path).expect("copy");
    let status = Command::new("setcap").arg("cap_net_raw,cap_sys_time=ei cap_net_raw+p").arg(&path).status();
    let Ok(status) = status else { skip!("libcap's tools are not installed", needs = "setcap") };
    assert!(status.success());
    let read =
        FileCapabilities::of(std::fs::File::open(&path).expect("open")).expect("readable").expect("set");
    assert_eq!(read, FileCapabilities { permitted: NET_RAW, inheritable: TWO, effective: true, root: None });
}

proptest! {
    #[test]
    fn the_parser_is_total_and_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..30), p in any::<u64>(), i in any::<u64>(), effective: bool, root in prop::option::of(0u32..u32::MAX)) {
        let _ = FileCapabilities::parse(&bytes);
        let (permitted, inheritable) = (CapabilitySet::from_bits(p), CapabilitySet::from_bits(i));
        let caps = FileCapabilities { permitted, inheritable, effective, root: root.and_then(Uid::new) };
        prop_assert_eq!(FileCapabilities::parse(&caps.to_bytes()).expect("its own bytes"), caps);
    }
}
