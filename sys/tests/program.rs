//! Programs built, printed and run in the calling thread.

use std::os::fd::{AsRawFd, OwnedFd};

use palisade_sys::{Arg, Fault, Fd, FsConfig, Image, OpenHow, Outcome, Program, STAGE, Step};
use proptest::prelude::*;

#[path = "common/sys.rs"]
mod common;
use common::run;

fn read_back(image: &Image, slot: palisade_sys::Slot) -> std::fs::File {
    common::adopt(image.slot(slot)).into()
}

#[test]
fn a_call_returns_its_result_in_a_slot() {
    let mut p = Program::new();
    let file = p.openat2(Fd::CWD, c"/proc/self/status", OpenHow::default());
    let mut image = p.image();
    run(&mut image).unwrap();
    let text = std::io::read_to_string(read_back(&image, file)).unwrap();
    assert!(text.starts_with("Name:"), "{text}");
    assert_eq!(image.outcome(), Outcome::Done);
}

#[test]
fn the_first_failure_ends_the_program_and_is_explained() {
    let mut p = Program::new();
    p.at(Step::Mounts, "/nowhere");
    p.openat2(Fd::CWD, c"/nowhere/at/all", OpenHow { flags: libc::O_PATH, ..OpenHow::default() });
    p.at(Step::Exec, "never");
    p.fail(libc::EIO);
    let mut image = p.image();
    let fault = run(&mut image).unwrap_err();
    assert_eq!(fault, Fault { index: 0, errno: libc::ENOENT, bit: 0 });
    assert_eq!(image.outcome(), Outcome::Failed(fault));
    let words = p.explain(fault).to_string();
    assert_eq!(
        words,
        "mounts (/nowhere): openat2(AT_FDCWD, \"/nowhere/at/all\", {flags=O_PATH|O_CLOEXEC, resolve=0}, 24): \
         No such file or directory (os error 2)"
    );
}

#[test]
fn tolerated_and_jumped_errors_go_on() {
    let mut p = Program::new();
    p.chdir(c"/nowhere");
    p.tolerate(&[libc::ENOENT]);
    let over = p.forward();
    p.chdir(c"/nowhere");
    p.jump_on(&[libc::ENOENT, libc::ENOTDIR], over);
    p.fail(libc::EIO);
    p.land(over);
    p.chdir(c"/nowhere/else");
    let fault = run(&mut p.image()).unwrap_err();
    assert_eq!((fault.index, fault.errno), (3, libc::ENOENT));
}

#[test]
fn a_remembered_eacces_beats_enoent() {
    let mut p = Program::new();
    let none = p.addresses(&[], true);
    for path in [c"/nowhere", c"/etc/passwd", c"/nowhere/else"] {
        p.execve(path, none, none);
        p.remember(&[libc::ENOENT, libc::EACCES, libc::ENOTDIR]);
    }
    p.fail(libc::ENOENT);
    assert_eq!(run(&mut p.image()).unwrap_err().errno, libc::EACCES);
}

#[test]
fn an_unexpected_result_is_a_protocol_error() {
    let mut p = Program::new();
    p.umask(0o22);
    p.umask(0o22);
    p.expect(0o777);
    assert_eq!(run(&mut p.image()).unwrap_err(), Fault { index: 1, errno: libc::EPROTO, bit: 0 });
}

#[test]
fn a_sweep_fails_at_its_bit() {
    let mut p = Program::new();
    // Signals 1 to 8 can be set to their default, 9 (SIGKILL) can't.
    p.default_signals(1 << 9 | 1 << 8);
    assert_eq!(p.call_count(), 2);
    let fault = run(&mut p.image()).unwrap_err();
    assert_eq!((fault.errno, fault.bit), (libc::EINVAL, 9));
    assert!(p.explain(fault).call.starts_with("rt_sigaction(9, "), "{}", p.explain(fault));
}

#[test]
fn an_inode_is_compared_with_what_was_seen_before() {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata("/etc").unwrap();
    let dev = meta.dev();
    let seen = palisade_sys::Identity {
        dev: (libc::major(dev), libc::minor(dev)),
        ino: meta.ino(),
        kind: (meta.mode() & libc::S_IFMT) as u16,
    };
    for (path, result) in
        [(c"/etc", None), (c"/usr", Some(libc::ESTALE)), (c"/etc/passwd", Some(libc::ESTALE))]
    {
        let mut p = Program::new();
        let file = p.openat2(Fd::CWD, path, OpenHow { flags: libc::O_PATH, ..OpenHow::default() });
        p.same_inode(file, seen);
        let mut image = p.image();
        assert_eq!(run(&mut image).err().map(|fault| fault.errno), result, "{path:?}");
        drop(common::adopt(image.slot(file)));
    }
}

#[test]
fn appending_moves_slots_places_jumps_and_addresses() {
    let part = |path: &std::ffi::CStr| {
        let mut p = Program::new();
        let skip = p.forward();
        p.chdir(c"/nowhere");
        p.jump_on(&[libc::ENOENT], skip);
        p.fail(libc::EIO);
        p.land(skip);
        let slot = p.openat2(Fd::CWD, path, OpenHow::default());
        let copy = p.dup_from(slot, 50);
        p.close(slot);
        (p, copy)
    };
    let (mut whole, first) = part(c"/proc/self/stat");
    let (other, second) = part(c"/proc/self/comm");
    let second = whole.append(&other).slot(second);
    let mut image = whole.image();
    run(&mut image).unwrap();
    let first = std::io::read_to_string(read_back(&image, first)).unwrap();
    let second = std::io::read_to_string(read_back(&image, second)).unwrap();
    assert!(first.contains(second.trim_end()) && first.len() > second.len(), "{first:?} {second:?}");
}

#[test]
fn a_program_prints_like_strace() {
    let mut p = Program::new();
    p.at(Step::Mounts, "/scratch");
    let fs = p.fsopen(c"tmpfs");
    p.fsconfig(fs, FsConfig::String(c"size", c"1m"));
    p.fsconfig(fs, FsConfig::Create);
    p.fsmount(fs, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
    p.at(Step::BoundingSet, "");
    p.prctl_each(0b1011_1111, libc::PR_CAPBSET_DROP, None);
    p.capset(1 << 40 | 1, 1 << 40 | 3, 0);
    p.at(Step::Exec, "/bin/sh");
    let argv = [p.text(c"sh"), p.text(c"-c"), p.text(c"echo \"hi\"\n")];
    let argv = p.addresses(&argv, true);
    let envp = p.addresses(&[], true);
    p.execve(c"/bin/sh", argv, envp);
    p.remember(&[libc::ENOENT]);
    assert_eq!(
        p.to_string(),
        "\
mounts: /scratch
    fsopen(\"tmpfs\", FSOPEN_CLOEXEC) -> $0
    fsconfig($0, FSCONFIG_SET_STRING, \"size\", \"1m\", 0)
    fsconfig($0, FSCONFIG_CMD_CREATE, NULL, NULL, 0)
    fsmount($0, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV)
bounding set
    prctl(PR_CAPBSET_DROP, each of 0-5,7, 0, 0, 0)
    capset(…, {effective=0x10000000001, permitted=0x10000000003, inheritable=0x0})
exec: /bin/sh
    execve(\"/bin/sh\", [\"sh\", \"-c\", \"echo \\\"hi\\\"\\n\"], …)  [ENOENT: remember, go on]
"
    );
}

#[test]
fn stores_write_slots_into_the_arena() {
    let mut p = Program::new();
    let word = p.room(8);
    let slot = p.umask(0o123);
    p.umask(slot);
    p.store(word, slot);
    p.check(word, u64::MAX, 0o22, libc::EDOM);
    p.store(word.part(0, 2), Arg::Value(0xffff_abcd));
    p.check(word, u64::MAX, 0xabcd, libc::ERANGE);
    let before = common::umask(0o22);
    run(&mut p.image()).unwrap();
    common::umask(before);
}

#[test]
fn a_guard_prints_what_it_will_do() {
    let mut p = Program::new();
    p.guard(Fd::number(5), Fd::number(6), Fd::number(7), Fd::number(8), c"group");
    let mut whole = Program::new();
    whole.text(c"before");
    whole.append(&p);
    assert!(whole.to_string().contains("guard(5, 6, 7, 8, \"group\")"), "{whole}");
    assert_eq!(whole.call_count(), 0);
}

#[test]
fn the_stage_is_a_small_static_program() {
    assert_eq!(&STAGE[..4], b"\x7fELF");
    assert!(STAGE.len() < 8192, "{} bytes", STAGE.len());
    assert!(!STAGE.windows(8).any(|w| w == b"ld-linux"), "no interpreter");
}

#[test]
fn steps_are_in_the_order_of_their_variants() {
    for (index, step) in Step::ALL.iter().enumerate() {
        assert_eq!(*step as usize, index);
        assert!(!step.name().is_empty());
    }
    let order =
        [Step::PivotRoot, Step::Identity, Step::NoNewPrivs, Step::Landlock, Step::Seccomp, Step::Exec];
    assert!(order.is_sorted());
}

proptest! {
    /// The header of an image is read from memory that another process writes: any bytes give an outcome.
    #[test]
    fn any_header_gives_an_outcome(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        Outcome::parse(&bytes);
    }

    /// Whatever the flags and numbers, printing gives one line an operation and does not panic.
    #[test]
    fn any_program_prints(flags in any::<i32>(), mode in any::<u32>(), resolve in any::<u64>(), mask in any::<u64>()) {
        let mut p = Program::new();
        p.openat2(Fd::number(flags), c"x", OpenHow { flags, mode, resolve });
        p.prctl_each(mask, flags, Some(resolve));
        p.ioctl_value(Fd::CWD, resolve, mask);
        p.mount_propagation(c"/", mask);
        prop_assert_eq!(p.to_string().lines().count(), 5);
    }
}

#[test]
fn descriptors_are_made_close_on_exec() {
    let mut p = Program::new();
    let file = p.openat2(Fd::CWD, c"/", OpenHow::default());
    let mut image = p.image();
    run(&mut image).unwrap();
    let file = read_back(&image, file);
    let file: OwnedFd = file.into();
    assert_eq!(common::fd_flags(file.as_raw_fd()) & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

#[test]
fn a_timed_program_does_the_same_and_says_when() {
    let mut p = Program::new();
    p.at(Step::Mounts, "a");
    let over = p.forward();
    p.openat2(Fd::CWD, c"/nowhere", OpenHow::default());
    p.jump_on(&[libc::ENOENT], over);
    p.fail(libc::EINVAL);
    p.land(over);
    p.at(Step::Limits, "b");
    p.getpid();
    p.at(Step::Exec, "c");
    p.getpid();
    let (timed, marks) = p.timed(Step::Limits);
    assert_eq!(marks.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [Step::Mounts, Step::Limits]);
    assert_eq!(timed.call_count(), p.call_count() + 2);
    let lines = timed.to_string();
    assert_eq!(lines.matches("clock_gettime(").count(), 2, "{lines}");
    let mut image = timed.image();
    run(&mut image).expect("the jump lands where it did");
    let bytes = image.to_bytes();
    let word = |at: u64| u64::from_le_bytes(bytes[at as usize..][..8].try_into().expect("eight"));
    let times: Vec<u64> = marks.iter().map(|(_, place)| word(timed.position(*place))).collect();
    assert!(times[0] > 1_600_000_000 && times[0] <= times[1], "{times:?}");
    // An empty program has no step to come to.
    assert!(Program::new().timed(Step::Exec).1.is_empty());
}
