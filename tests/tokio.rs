//! Children on tokio, and a runtime that they leave alone.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use palisade::{Command, ErrorKind, ExitCause, PtySize, Sandbox, Stdio};
use palisade_testkit::{Snapshot, scaled, wait_until};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};

fn sh(script: &str) -> Command {
    let mut command = Sandbox::builder().init(true).build().unwrap().command("/bin/sh");
    command.arg("-c").arg(script);
    command
}

/// One thread does everything: what blocked it would stop it all.
fn alone(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(scaled(Duration::from_secs(60)), test).await.expect("in time") });
}

#[test]
fn output_and_status() {
    alone(async {
        let out = sh("echo out; echo err >&2; exit 3").output_async().await.unwrap();
        assert_eq!((out.stdout.as_slice(), out.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(out.status.code(), Some(3));
        assert!(sh("exit 0").status_async().await.unwrap().success());
        // More than any pipe holds, on both at once, and the last byte of it.
        let out = sh("seq 100000 & seq 100000 >&2; wait; echo end").output_async().await.unwrap();
        assert_eq!(out.stdout.len(), 588_895 + 4);
        assert_eq!(out.stderr.len(), 588_895);
        let error = sh("").current_dir("/absent").spawn_async().await.unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
        let error = sh("").current_dir("relative").spawn_async().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
    });
}

#[test]
fn streams_are_async() {
    alone(async {
        let mut child = sh("while read line; do echo \"<$line>\"; done; echo end of file")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn_async()
            .await
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for n in 0..3 {
            stdin.write_all(format!("line {n}\n").as_bytes()).await.unwrap();
            assert_eq!(lines.next_line().await.unwrap().unwrap(), format!("<line {n}>"));
        }
        drop(stdin);
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "end of file");
        assert_eq!(lines.next_line().await.unwrap(), None);
        assert!(child.wait().await.unwrap().success());
        // More than a pipe holds, against a reader that is slow to come.
        let mut child =
            sh("sleep 0.1; wc -c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn_async().await.unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        drop(stdin);
        assert_eq!(child.wait_with_output().await.unwrap().stdout, b"1048576\n");
    });
}

#[test]
fn a_terminal_is_async() {
    alone(async {
        let mut command = sh("trap 'stty size' WINCH; echo ready; read line; echo \"<$line>\"");
        let mut child = command.pty(PtySize::new(20, 40)).spawn_async().await.unwrap();
        let mut pty = child.pty.take().unwrap();
        let mut seen = vec![0; 7];
        pty.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, b"ready\r\n");
        pty.get_ref().resize(PtySize::new(21, 41)).unwrap();
        pty.write_all(b"typed\n").await.unwrap();
        let mut rest = String::new();
        pty.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("<typed>") && rest.contains("21 41"), "{rest:?}");
        assert!(child.wait().await.unwrap().success());
        let out = sh("seq 5000").pty(PtySize::default()).output_async().await.unwrap();
        assert!(out.stdout.ends_with(b"4999\r\n5000\r\n"), "{}", out.stdout.len());
    });
}

#[test]
fn waiting_is_cancel_safe() {
    alone(async {
        let mut child = sh("echo ready; read line; exit 5")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn_async()
            .await
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        for _ in 0..100 {
            assert!(timeout(Duration::from_millis(1), child.wait()).await.is_err());
        }
        assert_eq!(child.try_wait().unwrap(), None);
        drop(stdin);
        assert_eq!(child.wait().await.unwrap().code(), Some(5));
        assert_eq!(child.wait().await.unwrap().code(), Some(5));
    });
}

#[test]
fn limits_hold() {
    alone(async {
        let status = sh("sleep 1000").timeout(Duration::from_millis(100)).status_async().await.unwrap();
        assert_eq!(status.cause(), ExitCause::TimedOut);
        let out = sh("sleep 1000").timeout(Duration::from_millis(100)).output_async().await.unwrap();
        assert_eq!(out.status.cause(), ExitCause::TimedOut);
        let out = sh("yes").output_limit(5000).output_async().await.unwrap();
        assert_eq!((out.status.cause(), out.stdout.len()), (ExitCause::OutputLimit, 5000));
    });
}

#[test]
fn dropping_kills_wherever_it_was() {
    // What the library and the runtime keep is there before.
    let run = |test: fn() -> std::pin::Pin<Box<dyn Future<Output = u32>>>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test())
    };
    let gone = |pid: u32| {
        wait_until(Duration::from_secs(10), || !std::path::Path::new(&format!("/proc/{pid}")).exists())
    };
    let pid = run(|| Box::pin(async { sh("sleep 1000").spawn_async().await.unwrap().id() }));
    assert!(gone(pid), "a dropped child");
    let pid = run(|| {
        Box::pin(async {
            let mut child = sh("sleep 1000").spawn_async().await.unwrap();
            let pid = child.id();
            assert!(timeout(Duration::from_millis(20), child.wait()).await.is_err());
            let waiting = child.wait_with_output();
            assert!(timeout(Duration::from_millis(20), waiting).await.is_err());
            pid
        })
    });
    assert!(gone(pid), "with its dropped future");
    let before = Snapshot::take();
    run(|| {
        Box::pin(async {
            // Before it has begun.
            for _ in 0..5 {
                assert!(timeout(Duration::ZERO, sh("sleep 1000").spawn_async()).await.is_err());
            }
            0
        })
    });
    assert!(wait_until(Duration::from_secs(10), || Snapshot::take() == before), "a dropped spawn");
}

#[test]
fn stopping_is_async() {
    alone(async {
        let polite = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let mut child = sh(polite).stdout(Stdio::piped()).spawn_async().await.unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).await.unwrap();
        assert_eq!(child.stop(libc::SIGTERM, scaled(Duration::from_secs(30))).await.unwrap().code(), Some(7));
        let deaf = "trap '' TERM; echo ready; while :; do sleep 1000; done";
        let mut child = sh(deaf).stdout(Stdio::piped()).spawn_async().await.unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).await.unwrap();
        let start = Instant::now();
        let status = child.stop(libc::SIGTERM, Duration::from_millis(100)).await.unwrap();
        assert_eq!(status.cause(), ExitCause::Signaled(libc::SIGKILL));
        assert!(start.elapsed() >= Duration::from_millis(100));
        let error = sh("sleep 1000").spawn_async().await.unwrap().signal_tree(4000).await.unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
    });
}

/// The host program's runtime goes on: timers tick while spawns run, its own children get their own statuses, and its
/// wait for any child finds none of ours that it could not.
#[test]
fn the_runtime_of_the_host_program_is_undisturbed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (ticks, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&ticks), Arc::clone(&done));
        let ticker = tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(1)).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let signals = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for n in 0..20 {
            tasks.push(tokio::spawn(async move {
                // Its own, by the runtime's handler of SIGCHLD.
                let own = tokio::process::Command::new("/bin/sh").args(["-c", &format!("exit {n}")]).status();
                assert_eq!(own.await.unwrap().code(), Some(n));
            }));
            let signals = Arc::clone(&signals);
            tasks.push(tokio::spawn(async move {
                let out = sh(&format!("echo {n}; exit {n}")).output_async().await.unwrap();
                assert_eq!((out.status.code(), out.stdout), (Some(n), format!("{n}\n").into_bytes()));
                signals.fetch_add(1, Ordering::SeqCst);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        done.store(true, Ordering::SeqCst);
        ticker.await.unwrap();
        assert_eq!(signals.load(Ordering::SeqCst), 20);
        assert!(ticks.load(Ordering::SeqCst) > 0, "the timers stood still");
    });
    // On one thread: a spawn that blocked it would leave no tick in between.
    alone(async {
        let ticks = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ticks);
        let ticker = tokio::spawn(async move {
            loop {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
        tokio::task::yield_now().await;
        let before = ticks.load(Ordering::SeqCst);
        assert!(sh("sleep 0.05").status_async().await.unwrap().success());
        assert!(ticks.load(Ordering::SeqCst) > before + 10, "the thread was blocked");
        ticker.abort();
    });
}

#[test]
fn without_a_runtime_a_blocking_child_becomes_one_inside() {
    // Spawned by the blocking form, and then taken over.
    let child = sh("exit 4").spawn().unwrap();
    alone(async {
        let mut child = palisade::tokio::Child::new(child).unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(4));
        assert_eq!(child.id(), child.get_ref().id());
    });
}
