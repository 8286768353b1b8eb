//! A real job: compile a C program with the host's compiler and run it, each in a sandbox of its own.
//!
//! The compiler sees the host's programs and one output directory, has no network, 30 seconds and 1 GiB of address
//! space. The program that it made sees the same read-only and has 2 seconds; then a hostile one is run, too.
//!
//! `cargo run --example compile`

use std::path::Path;
use std::time::Duration;

use palisade::{ExitCause, Output, Resource, Sandbox, Stdio};

const PROGRAM: &str = r#"
#include <stdio.h>
int main(void) {
    unsigned long a = 0, b = 1;
    for (int i = 0; i < 90; i++) { unsigned long c = a + b; a = b; b = c; }
    printf("fibonacci(90) = %lu\n", a);
    return 0;
}
"#;

const HOSTILE: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>
#define TRY(what, ok) do { errno = 0; printf("  %-34s %s\n", what, (ok) ? "WORKED" : strerror(errno)); } while (0)
int main(void) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(80) };
    to.sin_addr.s_addr = htonl(0x08080808);
    TRY("read /etc/shadow", fopen("/etc/shadow", "r"));
    TRY("write into /usr", fopen("/usr/bin/sh2", "w"));
    TRY("write beside its own binary", fopen("/job/again", "w"));
    TRY("mount a tmpfs", mount("none", "/tmp", "tmpfs", 0, 0) == 0);
    TRY("become root", setuid(0) == 0);
    TRY("connect to the world", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, sizeof to) == 0);
    fflush(stdout);
    for (;;) fork();
}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let work = tempfile::tempdir()?;
    std::fs::write(work.path().join("program.c"), PROGRAM)?;
    std::fs::write(work.path().join("hostile.c"), HOSTILE)?;

    let compiler = Sandbox::builder()
        .bind(work.path(), "/job")
        .rlimit(Resource::AddressSpace, 1 << 30, 1 << 30)
        .rlimit(Resource::FileSize, 64 << 20, 64 << 20)
        .build()?;
    for name in ["program", "hostile"] {
        let mut cc = compiler.command("cc");
        cc.args(["-O2", "-o", name, &format!("{name}.c")])
            .current_dir("/job")
            .timeout(Duration::from_secs(30));
        let out = match cc.output() {
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                println!("SKIP no C compiler (cc) on this host: {error}");
                std::process::exit(77);
            }
            other => other?,
        };
        report(&format!("cc {name}.c"), &out);
        if !out.status.success() {
            return Err(format!("the compiler failed: {}", out.status).into());
        }
    }

    let runner = runner(work.path())?;
    let out = runner.command("/job/program").timeout(Duration::from_secs(2)).output()?;
    report("program", &out);
    assert!(out.status.success() && out.stdout.starts_with(b"fibonacci(90) = 2880067194370816120"));

    let mut hostile = runner.command("/job/hostile");
    hostile.stdin(Stdio::null()).timeout(Duration::from_secs(1)).output_limit(1 << 20);
    hostile.rlimit(Resource::Processes, 32, 32);
    let out = hostile.output()?;
    report("hostile program, with a fork bomb at its end", &out);
    assert_eq!(out.status.cause(), ExitCause::TimedOut);
    assert!(!String::from_utf8_lossy(&out.stdout).contains("WORKED"));
    println!("All of it is gone: the fork bomb ended with its sandbox.");
    Ok(())
}

/// The same directory, read-only.
fn runner(work: &Path) -> palisade::Result<Sandbox> {
    Sandbox::builder().bind_ro(work, "/job").build()
}

fn report(what: &str, out: &Output) {
    let usage = out.status.usage().unwrap_or_default();
    println!("{what}: {} ({:?} CPU, {} KiB)", out.status, usage.user + usage.system, usage.max_rss >> 10);
    for stream in [&out.stdout, &out.stderr] {
        print!("{}", String::from_utf8_lossy(stream));
    }
}
