//! The example `shell` under tmux: a terminal that draws, and one that is put back.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use palisade_testkit::{skip, temp_dir, wait_until};
use tempfile::TempDir;

/// A tmux server of its own with one window, ended with the value.
struct Tmux {
    dir: TempDir,
}

impl Tmux {
    /// Runs `script` by a shell in a window of 80 by 24.
    fn new(script: &str) -> Self {
        let this = Self { dir: temp_dir() };
        let size = ["-x", "80", "-y", "24"];
        let script = format!("{script}; echo $? >{}", this.status().display());
        this.tmux(&[&["new-session", "-d"], &size[..], &[&script]].concat());
        this.tmux(&["set", "-g", "remain-on-exit", "on"]);
        this
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env("TMUX_TMPDIR", self.dir.path()).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        let out = command.args(["-L", "test", "-f", "/dev/null"]).args(arguments).output().unwrap();
        assert!(out.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until the screen is as `wanted` says; gives it.
    #[track_caller]
    fn screen(&self, what: &str, wanted: impl Fn(&[&str]) -> bool) -> String {
        let mut text = String::new();
        let came = wait_until(Duration::from_secs(20), || {
            text = self.tmux(&["capture-pane", "-p"]);
            wanted(&text.lines().collect::<Vec<_>>())
        });
        assert!(came, "no {what}:\n{text}");
        text
    }

    /// Presses a key, and again while nothing comes of it: the first may meet the shell, before or after its job.
    #[track_caller]
    fn press(&self, key: &str, what: &str, wanted: impl Fn(&[&str]) -> bool) {
        let mut text = String::new();
        let mut tries = 0;
        let came = wait_until(Duration::from_secs(20), || {
            if tries % 20 == 0 {
                self.keys(&[key]);
            }
            tries += 1;
            text = self.tmux(&["capture-pane", "-p"]);
            wanted(&text.lines().collect::<Vec<_>>())
        });
        assert!(came, "no {what}:\n{text}");
    }

    /// Waits until what runs in the window has ended with this status. Not by what tmux says of the window: it loses a
    /// status now and then.
    #[track_caller]
    fn ended(&self, status: i32) {
        let mut seen = String::new();
        let came = wait_until(Duration::from_secs(20), || {
            seen = std::fs::read_to_string(self.status()).unwrap_or_default();
            seen.trim() == status.to_string()
        });
        assert!(came, "status {seen:?}\n{}", self.tmux(&["capture-pane", "-p"]));
    }

    fn status(&self) -> PathBuf {
        self.dir.path().join("status")
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        command.env("TMUX_TMPDIR", self.dir.path()).args(["-L", "test", "kill-server"]);
        drop(command.output());
    }
}

fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples/shell");
    assert!(example.exists(), "{} is missing: cargo build --example shell", example.display());
    example
}

fn is_there(program: &str) -> bool {
    ["/bin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

macro_rules! need {
    () => {
        for program in ["tmux", "busybox"] {
            if !is_there(program) {
                skip!("{program} is not installed", needs = "tmux");
            }
        }
    };
}

#[test]
fn vi_draws_right() {
    need!();
    let tmux = Tmux::new(&format!("{} busybox vi /tmp/letter", example().display()));
    tmux.screen("empty file", |lines| {
        lines.len() == 24 && lines[1..23].iter().all(|line| *line == "~") && lines[23].contains("/tmp/letter")
    });
    tmux.keys(&["i", "first line", "Enter", "second line"]);
    tmux.screen("typed text", |lines| lines[0] == "first line" && lines[1] == "second line");
    // By itself: what follows an escape at once belongs to it.
    tmux.keys(&["Escape"]);
    tmux.screen("command mode", |lines| lines[23].starts_with("- "));
    tmux.keys(&["k", "0", "x"]);
    tmux.screen("edited text", |lines| {
        lines[0] == "irst line" && lines[1] == "second line" && lines[2] == "~"
    });
    // Larger and smaller: it draws anew, to the last line and not beyond.
    for rows in [40, 12] {
        tmux.tmux(&["resize-window", "-x", "100", "-y", &rows.to_string()]);
        tmux.screen("redrawn screen", |lines| {
            lines.len() == rows
                && lines[0] == "irst line"
                && lines[2..rows - 1].iter().all(|line| *line == "~")
                && lines[rows - 1].contains("/tmp/letter")
        });
    }
    tmux.keys(&[":wq", "Enter"]);
    tmux.ended(0);
}

#[test]
fn top_draws_right_and_a_shell_goes_on() {
    need!();
    let tmux = Tmux::new(&format!("{} sh", example().display()));
    tmux.keys(&["busybox top -d 1", "Enter"]);
    tmux.screen("processes", |lines| {
        lines.first().is_some_and(|line| line.starts_with("Mem:"))
            && lines.iter().any(|line| line.contains("PID  PPID"))
            && lines.iter().any(|line| line.contains("busybox top"))
            && lines.iter().filter(|line| line.contains("sh")).count() >= 1
    });
    let prompt = |lines: &[&str]| {
        lines.iter().rfind(|line| !line.is_empty()).is_some_and(|line| line.starts_with('$'))
    };
    // Until it is asked for, what is typed would be echoed by nobody.
    tmux.press("C-c", "prompt", prompt);
    tmux.keys(&["echo still $((40 + 2)); stty size", "Enter"]);
    tmux.screen("shell after Ctrl-C", |lines| lines.contains(&"still 42") && lines.contains(&"24 80"));
    // Its own word says that it is in the foreground: a Ctrl-Z before that would take away what was typed.
    tmux.keys(&["sh -c 'echo job; sleep 1000'", "Enter"]);
    tmux.screen("job", |lines| lines.contains(&"job"));
    tmux.press("C-z", "stopped job", |lines| lines.iter().any(|line| line.contains("Stopped")));
    tmux.keys(&["fg", "Enter"]);
    tmux.screen("continued job", |lines| lines.iter().filter(|line| line.starts_with("sh -c")).count() > 0);
    tmux.press("C-c", "prompt", prompt);
    tmux.keys(&["exit 7", "Enter"]);
    tmux.ended(7);
}

/// Whether it ends by itself, by a signal, or can't even begin.
#[test]
fn the_hosts_terminal_is_put_back() {
    need!();
    let example = example();
    let shell = example.display();
    let script = format!(
        "stty -g >before; {shell} true; stty -g >normal; {shell} /no/such/program; stty -g >refused; \
         {shell} sh -c ': /tmp/x; echo inside; sleep 1000'; stty -g >killed; echo all done; sleep 1000"
    );
    let dir = temp_dir();
    let tmux =
        Tmux::new(&format!("cd {} && bash -c '{}'", dir.path().display(), script.replace('\'', "'\\''")));
    // The third one runs until it is told to end.
    let mut pid = None;
    let found = wait_until(Duration::from_secs(20), || {
        let refused = dir.path().join("refused").exists();
        pid = refused.then(|| running(&example)).flatten();
        pid.is_some()
    });
    assert!(found, "{}", tmux.tmux(&["capture-pane", "-p"]));
    tmux.screen("payload", |lines| lines.iter().any(|line| line.ends_with("inside")));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.unwrap()), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    tmux.screen("end", |lines| lines.iter().any(|line| line.ends_with("all done")));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    for name in ["normal", "refused", "killed"] {
        assert_eq!(read(name), read("before"), "after {name}");
    }
}

/// The example that was started with this script: a descendant of ours by way of tmux, named by its arguments.
fn running(example: &Path) -> Option<i32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let is = words.next()? == example.as_os_str().as_encoded_bytes();
        (is && line.windows(6).any(|text| text == b"/tmp/x")).then_some(pid)
    })
}
