//! Runs labs, each in a process of its own, and looks for what they leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use palisade::ns::{Namespace, Namespaces, Unshare};
use serde::{Deserialize, Serialize};

use crate::lab::{Body, Event, Lab, Needs, Report, Result, Skip, skip};
use crate::{catalogue, find, kit};

/// How labs are run and told.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    pub(crate) explain: bool,
    pub(crate) json: bool,
}

/// How a lab ended. The lab's own process writes it to a file for the runner.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ending {
    number: u8,
    title: String,
    status: Status,
    seconds: f64,
    events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Passed,
    Failed(String),
    Skipped(String),
}

/// The longest that a lab may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs these labs one after the other. Gives the exit status.
pub(crate) fn run_all(numbers: &[u8], manner: Manner) -> u8 {
    let mut endings = Vec::new();
    // Whoever a lab leaves behind comes to this process.
    let _ = prctl::set_child_subreaper(true);
    let show = numbers.len() == 1 && !manner.json;
    for (index, &number) in numbers.iter().enumerate() {
        let (_, title) = catalogue::entry(number);
        let Some(lab) = find(number) else {
            let status = Status::Skipped("not yet written".into());
            endings.push(Ending { number, title: title.into(), status, seconds: 0.0, events: vec![] });
            continue;
        };
        if let Body::Answer(answer) = lab.body {
            if !manner.json {
                println!("{number}. {title}\n\n  {answer}");
            }
            endings.push(Ending {
                number,
                title: title.into(),
                status: Status::Passed,
                seconds: 0.0,
                events: vec![],
            });
            continue;
        }
        if !show && !manner.json {
            eprint!("[{:>2}/{}] {number:>2} {title} … ", index + 1, numbers.len());
        }
        let started = Instant::now();
        let (mut ending, output) = run_one(lab, manner, show);
        ending.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        if !show && !manner.json {
            eprintln!("{} ({:.2} s)", word(&ending.status), ending.seconds);
            if matches!(ending.status, Status::Failed(_)) {
                println!("{output}");
            }
        }
        endings.push(ending);
    }
    if manner.json {
        let text = serde_json::to_string_pretty(&endings).unwrap_or_default();
        println!("{text}");
    } else if show {
        let ending = &endings[0];
        println!("\n{}", word(&ending.status));
    } else {
        summary(&endings);
    }
    if endings.iter().any(|ending| matches!(ending.status, Status::Failed(_))) {
        1
    } else if endings.iter().all(|ending| matches!(ending.status, Status::Skipped(_))) {
        77
    } else {
        0
    }
}

fn word(status: &Status) -> String {
    match status {
        Status::Passed => "passed".into(),
        Status::Failed(reason) => format!("FAILED {reason}"),
        Status::Skipped(reason) => format!("SKIP {reason}"),
    }
}

fn summary(endings: &[Ending]) {
    println!("\n{:>4}  {:<58} {:>6} {:>8}  outcome", "lab", "", "checks", "seconds");
    for Ending { number, title, status, seconds, events } in endings {
        let checks = events.iter().filter(|event| matches!(event, Event::Check { .. })).count();
        println!("{number:>4}  {title:<58} {checks:>6} {seconds:>8.2}  {}", word(status));
    }
    let count = |wanted: fn(&Status) -> bool| endings.iter().filter(|ending| wanted(&ending.status)).count();
    println!(
        "\n{} passed, {} failed, {} skipped",
        count(|status| *status == Status::Passed),
        count(|status| matches!(status, Status::Failed(_))),
        count(|status| matches!(status, Status::Skipped(_))),
    );
}

fn run_one(lab: &Lab, manner: Manner, show: bool) -> (Ending, String) {
    let (_, title) = catalogue::entry(lab.number);
    let mut ending = Ending {
        number: lab.number,
        title: title.into(),
        status: Status::Passed,
        seconds: 0.0,
        events: Vec::new(),
    };
    let mut output = String::new();
    match in_a_process(lab, manner, show, &mut output) {
        Ok((told, leaks)) => {
            if let Some(told) = told {
                ending = told;
            }
            if !leaks.is_empty() {
                ending.status = Status::Failed(format!("left behind: {}", leaks.join("; ")));
            }
        }
        Err(error) => ending.status = Status::Failed(error.to_string()),
    }
    (ending, output)
}

/// Starts the lab's process, waits for it, and looks for leaks on the host.
fn in_a_process(
    lab: &Lab,
    manner: Manner,
    show: bool,
    output: &mut String,
) -> Result<(Option<Ending>, Vec<String>)> {
    let made = tempfile::Builder::new()
        .prefix("palisade-lab-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()?;
    let temporary = made.path().join("tmp");
    fs::DirBuilder::new().mode(0o777).create(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777))?;
    fs::create_dir(made.path().join("lab"))?;
    let before = host();

    let mut command = Command::new("/proc/self/exe");
    command.arg0("labs");
    if manner.explain {
        command.arg("--explain");
    }
    if manner.json {
        command.arg("--json");
    }
    command.arg("--inside").arg(lab.number.to_string()).arg(made.path()).env("TMPDIR", &temporary);
    command.stdin(Stdio::null());
    let log = made.path().join("output");
    if !show {
        let file = fs::File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
    }
    let mut child = command.spawn()?;
    let status = wait_for(&mut child)?;
    if !show {
        *output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    }
    let told = fs::read(made.path().join("ending")).ok();
    let mut told: Option<Ending> = told.map(|text| serde_json::from_slice(&text)).transpose()?;
    let ending = told.as_mut().map(|ending| &mut ending.status);
    match (status, ending) {
        (None, _) => return Err(format!("it took longer than {LIMIT:?}").into()),
        (Some(status), None) => return Err(format!("it ended with {status}").into()),
        (Some(_), Some(_)) => {}
    }

    let mut leaks = left_processes();
    // The kernel takes a moment to remove what only a dying process held.
    let deadline = Instant::now() + palisade_testkit::scaled(Duration::from_secs(3));
    loop {
        let more: Vec<String> = host().difference(&before).cloned().collect();
        if more.is_empty() || Instant::now() > deadline {
            leaks.extend(more);
            break;
        }
        sleep(Duration::from_millis(20));
    }
    leaks.extend(kit::names(&temporary)?.into_iter().map(|name| format!("temporary file {name}")));
    // A failure to remove it says that something is left in there.
    if let Err(error) = made.close() {
        leaks.push(format!("the lab's directory: {error}"));
    }
    Ok((told, leaks))
}

/// `None` when it took too long, and was killed.
fn wait_for(child: &mut Child) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + palisade_testkit::scaled(LIMIT);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(Duration::from_millis(5));
    }
}

/// Kills and names the processes that came to this one because their parent has ended.
fn left_processes() -> Vec<String> {
    let mut left = Vec::new();
    let deadline = Instant::now() + palisade_testkit::scaled(Duration::from_secs(3));
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status.pid().is_none() {
                break;
            }
        }
        let children = kit::children(std::process::id());
        if children.is_empty() {
            return left;
        }
        if Instant::now() > deadline {
            for pid in children {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                left.push(format!("process {pid} ({})", comm.trim()));
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                let _ = waitpid(Pid::from_raw(pid), None);
            }
        }
        sleep(Duration::from_millis(10));
    }
}

/// What of the host a lab could leave something in: mounts, network links, cgroups, objects of System V.
fn host() -> BTreeSet<String> {
    let mut entries = BTreeSet::new();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    entries.extend(read("/proc/self/mountinfo").lines().map(|line| format!("mount {line}")));
    entries.extend(
        kit::names("/sys/class/net").unwrap_or_default().into_iter().map(|name| format!("link {name}")),
    );
    for kind in ["shm", "sem", "msg"] {
        let lines = read(&format!("/proc/sysvipc/{kind}"));
        // Key and identifier; the other fields change as programs use it.
        let objects =
            lines.lines().skip(1).map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
        entries.extend(objects.map(|object| format!("System V {kind} {object}")));
    }
    if let Ok(own) = palisade::cgroup::Cgroup::delegated() {
        let all = groups(own.path()).into_iter().filter(|path| !is_anothers(path, own.path()));
        entries.extend(all.map(|path| format!("cgroup {}", path.display())));
    }
    entries
}

/// Whether a cgroup is that of another host program that lives, say a lab beside this one: it has that one's pid in its
/// name.
fn is_anothers(group: &Path, own: &Path) -> bool {
    let top = group.strip_prefix(own).ok().and_then(|rest| rest.iter().next()?.to_str());
    let pid = top.and_then(|name| name.strip_prefix("palisade-")?.split_once('-')?.0.parse::<u32>().ok());
    pid.is_some_and(|pid| pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists())
}

fn groups(below: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(below) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.flat_map(|entry| [groups(&entry.path()), vec![entry.path()]].concat()).collect()
}

/// The lab's own process.
pub(crate) fn inside(lab: &Lab, made: &Path, manner: Manner) -> u8 {
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let mut report = Report::new(made.join("lab"), manner.json, manner.explain);
    if !manner.json {
        heading(lab, manner.explain);
    }
    let status = match panic::catch_unwind(AssertUnwindSafe(|| attempt(lab, &mut report))) {
        Ok(Ok(())) => match report.failures() {
            0 => Status::Passed,
            count => Status::Failed(format!("{count} checks did not hold")),
        },
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => Status::Skipped(reason.replace('\n', " ")),
            None => Status::Failed(error.to_string()),
        },
        Err(_) => Status::Failed("it panicked".into()),
    };
    let code = match status {
        Status::Passed => 0,
        Status::Failed(_) => 1,
        Status::Skipped(_) => 77,
    };
    let (_, title) = catalogue::entry(lab.number);
    let ending =
        Ending { number: lab.number, title: title.into(), status, seconds: 0.0, events: report.events };
    // Without this file the runner takes the lab for failed.
    if let Err(error) = fs::write(made.join("ending"), serde_json::to_vec(&ending).unwrap_or_default()) {
        eprintln!("the lab's ending cannot be written: {error}");
    }
    code
}

fn attempt(lab: &Lab, report: &mut Report) -> Result {
    let Body::Run(run) = lab.body else { return Ok(()) };
    if lab.needs == Needs::Root && !nix::unistd::geteuid().is_root() {
        return Err(skip("needs root"));
    }
    if lab.needs == Needs::Cgroup {
        kit::cgroup()?;
    }
    stand_apart(lab.outer)?;
    let before = own();
    run(report)?;
    let left: Vec<String> = own().difference(&before).cloned().collect();
    report.check(
        format!("nothing is left behind{}", left.iter().map(|l| format!("\n       {l}")).collect::<String>()),
        left.is_empty(),
    );
    Ok(())
}

/// Mounts and System V objects of the lab's own namespaces.
fn own() -> BTreeSet<String> {
    host().into_iter().filter(|entry| !entry.starts_with("cgroup ")).collect()
}

/// New namespaces around this process, which has one thread.
fn stand_apart(kinds: Namespaces) -> Result {
    if kinds.is_empty() {
        return Ok(());
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if !uid.is_root() {
        palisade::ns::unshare(Namespace::User)
            .map_err(|error| skip(format!("no user namespace: {error}")))?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    }
    let kinds = kinds.without(Namespace::User);
    let mut unshare = Unshare::new(kinds);
    if kinds.contains(Namespace::Net) {
        unshare = unshare.loopback_up();
    }
    unshare.prepare()?.run()?;
    if kinds.contains(Namespace::Mount) {
        // A raw unshare keeps the propagation: what is mounted here would appear on the host.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    }
    Ok(())
}

fn heading(lab: &Lab, explain: bool) {
    let (group, title) = catalogue::entry(lab.number);
    println!("Lab {group}{}: {title}\n", lab.number);
    for line in lab.commands.lines() {
        println!("  $ {line}");
    }
    println!("\n  {}; this is {}", needs_text(lab), kit::whoami());
    if explain {
        println!("\n  {}", lab.mechanism.replace('\n', "\n  "));
    }
    println!();
}

fn needs_text(lab: &Lab) -> String {
    format!("for {}", lab.needs.text())
}
