//! Builds the stage with the compiler that builds the crate: one file, no libc, no network, nothing outside the
//! package. Its bytes are included by `src/stage.rs`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for path in ["stage", "src/wire.rs", "src/interp.rs", "src/role.rs", "src/sys.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("stage");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if os != "linux" || env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        // The library says in one clear message what is supported; here only the file must exist.
        std::fs::write(&out, b"").expect("OUT_DIR is writable");
        return;
    }
    let script = "-Wl,--build-id=none,-T,stage/stage.ld";
    // A linker that does not know such scripts (mold) lays the stage out in its own way: it runs as well, and takes some
    // microseconds more.
    let plain = "-Wl,-z,noseparate-code,--build-id=none";
    let built = stage(&target, &out, script).output().is_ok_and(|done| done.status.success())
        || stage(&target, &out, plain).status().is_ok_and(|status| status.success());
    assert!(built, "the stage did not build: {:?}", stage(&target, &out, plain));
}

fn stage(target: &str, out: &Path, layout: &str) -> Command {
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut arg = std::ffi::OsString::from("linker=");
        arg.push(linker);
        rustc.arg("-C").arg(arg);
    }
    rustc
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--crate-name=stage",
            "stage/main.rs",
            "--target",
            target,
        ])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "relocation-model=static",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "debuginfo=0", "-C", "overflow-checks=off", "-C", "debug-assertions=off"])
        .args(["-C", "target-feature=+crt-static", "-C", "codegen-units=1"])
        .args(["-C", "force-unwind-tables=no"])
        .args(["-A", "unreachable_pub", "-A", "dead_code", "-A", "unfulfilled_lint_expectations"])
        .arg("-o")
        .arg(out);
    for arg in ["-nostdlib", "-nostartfiles", "-static", layout] {
        rustc.arg("-C").arg(format!("link-arg={arg}"));
    }
    rustc
}
