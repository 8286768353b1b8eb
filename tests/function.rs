//! Functions of the host program inside.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::io::{Read, Write};

use palisade::fsroot::Root;
use palisade::{ErrorKind, Sandbox, Stdio};

/// The test harness has the `main` here and takes what follows for names of tests: so this one, named as the function,
/// runs in the sandboxed copy, and gives over to it.
#[test]
fn the_function() {
    palisade::dispatch(&[("the_function", inside), ("absent", |_| 0)]);
}

macro_rules! say {
    ($out:ident, $($text:tt)*) => { writeln!($out, $($text)*).unwrap() };
}

fn inside(arguments: &[OsString]) -> i32 {
    // Not by println, which the test harness keeps for itself.
    let mut out = std::io::stdout();
    let mut order = String::new();
    std::io::stdin().read_to_string(&mut order).unwrap();
    match order.as_str() {
        "pid" => say!(out, "{}", std::process::id()),
        "arguments" => say!(out, "{arguments:?}"),
        "host" => say!(out, "{}", std::path::Path::new("/etc/shadow").exists()),
        "exe" => {
            // As CVE-2019-5736 did it: write to the file that runs.
            let error = std::fs::File::options().write(true).open("/proc/self/exe").unwrap_err();
            say!(
                out,
                "{} {}",
                std::fs::read_link("/proc/self/exe").unwrap().display(),
                error.raw_os_error().unwrap()
            );
        }
        "descriptors" => {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let mut open: Vec<_> = open.map(|entry| entry.file_name().into_string().unwrap()).collect();
            open.sort();
            say!(out, "{}", open.join(" "));
        }
        "thread" => std::thread::spawn(move || say!(out, "alive")).join().unwrap(),
        "panic" => panic!("on purpose"),
        code => return code.parse().unwrap(),
    }
    0
}

fn run(sandbox: &Sandbox, order: &str) -> palisade::Output {
    let mut command = sandbox.function("the_function");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The harness's own first lines left out.
fn said(output: &palisade::Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with("running"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn it_runs_inside_with_its_own_status() {
    let sandbox = Sandbox::new().unwrap();
    for (order, answer) in [("pid", "1"), ("host", "false"), ("thread", "alive"), ("arguments", "[]")] {
        let out = run(&sandbox, order);
        assert!(out.status.success(), "{order}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(said(&out).ends_with(answer), "{order}: {}", said(&out));
    }
    assert_eq!(run(&sandbox, "7").status.code(), Some(7));
    assert!(!run(&sandbox, "panic").status.success());
    let init = Sandbox::builder().init(true).build().unwrap();
    assert!(said(&run(&init, "pid")).ends_with('2'));
}

/// A36: the payload writes to its own program, which is the host program's (CVE-2019-5736).
#[test]
fn the_programs_file_cannot_be_written_and_no_descriptor_stays() {
    let sandbox = Sandbox::new().unwrap();
    let said_exe = said(&run(&sandbox, "exe"));
    let (path, errno) = said_exe.lines().last().unwrap().rsplit_once(' ').unwrap();
    assert!(path.contains("memfd:palisade-own"), "{path}");
    // ETXTBSY while it runs; after that the seals hold. Its mode lets nobody but its owner try at all.
    assert!(
        [libc::ETXTBSY, libc::EPERM, libc::EACCES].map(|e| e.to_string()).contains(&errno.to_owned()),
        "{errno}"
    );
    let out = run(&sandbox, "descriptors");
    // 3 is the directory that lists them.
    assert!(said(&out).ends_with("0 1 2 3"), "{}", said(&out));
    // With declared ones too, whatever their numbers.
    let null = || std::fs::File::open("/dev/null").unwrap();
    let mut command = sandbox.function("the_function");
    let mut child =
        command.fd(3, null()).fd(9, null()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"descriptors").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(said(&out).ends_with("0 1 2 3 4 9"), "{}", said(&out));
}

#[test]
fn the_program_itself_with_its_own_arguments() {
    let sandbox = Sandbox::new().unwrap();
    let out = sandbox.own_program().args(["--list", "--format", "terse"]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && text.contains("the_function: test"), "{text}");
}

#[test]
fn a_name_that_is_none_and_a_view_without_libraries() {
    let sandbox = Sandbox::new().unwrap();
    let out = sandbox.function("no_such_function").output().unwrap();
    // The harness finds no test of that name; a `main` of one's own would say 127.
    assert!(String::from_utf8_lossy(&out.stdout).contains("0 tests") || out.status.code() == Some(127));
    let empty = Sandbox::builder().root(Root::empty()).build().unwrap();
    let error = empty.function("the_function").spawn().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(libc::ENOENT)), "{error}");
    assert!(error.hint().unwrap().contains("ELF interpreter"), "{error}");
}

#[test]
fn outside_nothing_happens() {
    palisade::dispatch(&[("anything", |_| panic!("not here"))]);
}
