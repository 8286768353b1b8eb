use std::fmt;
use std::time::{Duration, SystemTime};

use crate::strings::printable;
use crate::{Device, Error, ProcRoot, ProcessEntry, Snapshot, State, UserNames, page_size, sys};

/// The rows of `ps aux`: every process with its user, share of processor and memory, and command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessTable {
    /// By ascending pid.
    pub rows: Vec<ProcessRow>,
    /// When the snapshot was taken.
    pub now: SystemTime,
}

/// One row. The columns are values; [`Display`](fmt::Display) of the table makes text of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessRow {
    /// The effective user's name, or number.
    pub user: String,
    /// In the mount's pid namespace.
    pub pid: u32,
    /// Processor time over the time since it started, in percent of one processor.
    pub cpu_percent: f64,
    /// Resident memory in percent of the machine's.
    pub memory_percent: f64,
    /// Address space in bytes.
    pub virtual_size: u64,
    /// Resident memory in bytes.
    pub resident_size: u64,
    /// The controlling terminal.
    pub tty: Option<Device>,
    /// The state letter and its additions: `<` high priority, `N` low, `L` locked memory, `s` leads a session,
    /// `l` has threads, `+` in the foreground of its terminal.
    pub stat: String,
    /// When it started.
    pub started: SystemTime,
    /// Processor time used.
    pub time: Duration,
    /// Its arguments, or its name in brackets if it has none; control characters escaped.
    pub command: String,
}

impl ProcessTable {
    /// Makes the rows of a snapshot. `root` is asked for the machine's memory and boot time.
    ///
    /// # Errors
    /// Of reading `meminfo`, `stat` or `uptime` (a proc mount with `subset=pid` has none of them).
    pub fn new(root: &ProcRoot, snapshot: &Snapshot, users: &UserNames) -> Result<Self, Error> {
        let up = snapshot.uptime.clone()?.up;
        let boot = root.stat()?.boot_time;
        let memory = root.meminfo()?.total;
        let row = |p: &ProcessEntry| ProcessRow::new(p, up, boot, memory, users);
        Ok(Self { rows: snapshot.processes.iter().map(row).collect(), now: boot + up })
    }
}

impl ProcessRow {
    fn new(p: &ProcessEntry, up: Duration, boot: SystemTime, memory: u64, users: &UserNames) -> Self {
        // `status` sums the kernel's counters of each processor, `stat` does not wait for that (Linux 6.16).
        let resident_size =
            p.status.vm_rss.unwrap_or_else(|| p.stat.resident_pages.saturating_mul(page_size()));
        let lived = up.saturating_sub(p.stat.start_time).as_secs_f64();
        let percent = |part: f64, whole: f64| if whole > 0.0 { part / whole * 100.0 } else { 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "a percentage of up to petabytes")]
        let memory_percent = percent(resident_size as f64, memory as f64);
        let command = if p.cmdline.is_empty() {
            let defunct = if p.stat.state == State::Zombie { " <defunct>" } else { "" };
            format!("[{}]{defunct}", printable(&p.stat.comm))
        } else {
            p.cmdline.to_string()
        };
        Self {
            user: users.name(p.status.uid.effective).into_owned(),
            pid: p.pid,
            cpu_percent: percent(p.stat.cpu_time().as_secs_f64(), lived),
            memory_percent,
            virtual_size: p.stat.virtual_size,
            resident_size,
            tty: p.stat.tty,
            stat: stat_letters(p),
            started: boot.checked_add(p.stat.start_time).unwrap_or(boot),
            time: p.stat.cpu_time(),
            command,
        }
    }
}

fn stat_letters(p: &ProcessEntry) -> String {
    let s = &p.stat;
    let letters = [
        ('<', s.nice < 0),
        ('N', s.nice > 0),
        ('L', p.status.vm_locked.is_some_and(|n| n > 0)),
        ('s', s.session == Some(p.pid)),
        ('l', s.threads > 1),
        ('+', s.tpgid.is_some() && s.tpgid == s.pgrp),
    ];
    let more = letters.into_iter().filter(|(_, on)| *on).map(|(c, _)| c);
    std::iter::once(s.state.letter()).chain(more).collect()
}

/// The name of a terminal as ps(1) has it.
fn tty(device: Option<Device>) -> String {
    match device {
        None => "?".into(),
        Some(Device { major: 4, minor }) if minor < 64 => format!("tty{minor}"),
        Some(Device { major: 4, minor }) => format!("ttyS{}", minor - 64),
        Some(Device { major: 5, minor: 1 }) => "console".into(),
        Some(Device { major: major @ 136..=143, minor }) => {
            format!("pts/{}", u64::from(major - 136) * 256 + u64::from(minor))
        }
        Some(other) => other.to_string(),
    }
}

/// Cut down to a tenth, as ps(1) shows shares.
fn tenths(percent: f64) -> f64 {
    (percent * 10.0).floor() / 10.0
}

/// A name that fits its column; one that was cut ends in `+`.
fn short(name: &str) -> String {
    if name.chars().count() <= 8 { name.to_owned() } else { name.chars().take(7).chain(['+']).collect() }
}

impl fmt::Display for ProcessTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND")?;
        let now = sys::local_time(self.now);
        for r in &self.rows {
            let started = match (sys::local_time(r.started), now) {
                (Some(at), Some(now)) if (at.year, at.day) == (now.year, now.day) => {
                    format!("{:02}:{:02}", at.hour, at.minute)
                }
                (Some(at), Some(now)) if at.year == now.year => {
                    format!("{}{:02}", at.month_name(), at.month_day)
                }
                (Some(at), _) => at.year.to_string(),
                (None, _) => "?".into(),
            };
            let seconds = r.time.as_secs();
            write!(
                f,
                "\n{:<8} {:>7} {:>4.1} {:>4.1} {:>6} {:>5} {:<8} {:<4} {:<5} {:>6} {}",
                short(&r.user),
                r.pid,
                tenths(r.cpu_percent),
                tenths(r.memory_percent),
                r.virtual_size / 1024,
                r.resident_size / 1024,
                tty(r.tty),
                r.stat,
                started,
                format!("{}:{:02}", seconds / 60, seconds % 60),
                r.command,
            )?;
        }
        Ok(())
    }
}
