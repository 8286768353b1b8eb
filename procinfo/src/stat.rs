use std::ffi::OsString;
use std::time::Duration;

use crate::bytes::{At, os};
use crate::{Device, Error, State};

/// `/proc/PID/stat`: times, terminal, memory and scheduling of a process, open to every reader that sees it.
///
/// Times are exact to the clock tick of the interface, 10 ms. Addresses read 0 without ptrace read access.
///
/// See [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// In the pid namespace of the proc mount.
    pub pid: u32,
    /// The thread's name, any bytes.
    pub comm: OsString,
    /// Running, sleeping, a zombie…
    pub state: State,
    /// The parent; 0 if it lies outside of the pid namespace.
    pub ppid: u32,
    /// Process group; 0 likewise. A zombie's reads -1 as `None`, as do the next two.
    pub pgrp: Option<u32>,
    /// Session.
    pub session: Option<u32>,
    /// The controlling terminal, `None` without one.
    pub tty: Option<Device>,
    /// The foreground process group of that terminal.
    pub tpgid: Option<u32>,
    /// `PF_*` of the kernel.
    pub flags: u32,
    /// Page faults answered from memory.
    pub minor_faults: u64,
    /// The same of waited-for children.
    pub children_minor_faults: u64,
    /// Page faults that had to read.
    pub major_faults: u64,
    /// The same of waited-for children.
    pub children_major_faults: u64,
    /// Processor time in user mode, guests included.
    pub user_time: Duration,
    /// Processor time in the kernel.
    pub system_time: Duration,
    /// User time of waited-for children.
    pub children_user_time: Duration,
    /// Kernel time of waited-for children.
    pub children_system_time: Duration,
    /// As the scheduler counts: 20 + nice, or minus one minus the real-time priority.
    pub priority: i32,
    /// -20 (first) to 19 (last).
    pub nice: i32,
    /// Threads of the process.
    pub threads: u32,
    /// When it started: time since boot, in the reader's time namespace.
    pub start_time: Duration,
    /// Address space in bytes.
    pub virtual_size: u64,
    /// Resident memory in pages ([`page_size`](crate::page_size)), counted lazily by the kernel.
    pub resident_pages: u64,
    /// `RLIMIT_RSS`, soft, in bytes.
    pub resident_limit: u64,
    /// Where its program's code begins.
    pub start_code: u64,
    /// Where it ends.
    pub end_code: u64,
    /// The bottom of its stack.
    pub start_stack: u64,
    /// The signal that its parent gets when it ends.
    pub exit_signal: i32,
    /// The CPU that it ran on last.
    pub processor: u32,
    /// 1 to 99 for real-time policies, else 0.
    pub realtime_priority: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// Time that it waited for block I/O.
    pub block_io_delay: Duration,
    /// Processor time spent running a virtual CPU.
    pub guest_time: Duration,
    /// The same of waited-for children.
    pub children_guest_time: Duration,
    /// Where its data begins.
    pub start_data: u64,
    /// Where its data ends.
    pub end_data: u64,
    /// Where its heap begins.
    pub start_brk: u64,
    /// Where its arguments lie.
    pub arguments: std::ops::Range<u64>,
    /// Where its environment lies.
    pub environment: std::ops::Range<u64>,
    /// As waitpid(2) would give it, for who may ask, else 0.
    pub exit_code: i32,
}

/// `USER_HZ`: ticks a second of every time in this interface, on every architecture but alpha.
const TICKS: u64 = 100;

pub(crate) fn ticks(n: u64) -> Duration {
    Duration::from_secs(n / TICKS) + Duration::from_millis(n % TICKS * (1000 / TICKS))
}

impl Stat {
    /// Reads the text of a `stat` file. The name may hold anything, parentheses and newlines too: it ends at the last
    /// `)` of the file, since only numbers and the state follow.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let at = At { file: "stat", line: 1 };
        let open = text.iter().position(|c| *c == b'(').ok_or_else(|| at.bad("comm", text))?;
        let close = text.iter().rposition(|c| *c == b')').filter(|c| *c > open);
        let close = close.ok_or_else(|| at.bad("comm", text))?;
        let pid = text.get(..open).unwrap_or_default();
        let comm = text.get(open + 1..close).unwrap_or_default();
        let rest = text.get(close + 1..).unwrap_or_default();

        let mut f = Fields { at, words: crate::bytes::words(rest.trim_ascii_end()) };
        let state = f.word("state")?;
        let state = match state {
            [letter] => State::of(*letter),
            other => return Err(at.bad("state", other)),
        };
        let stat = Self {
            pid: at.num("pid", pid.trim_ascii())?,
            comm: os(comm),
            state,
            ppid: f.num("ppid")?,
            pgrp: f.id("pgrp")?,
            session: f.id("session")?,
            tty: f.tty()?,
            tpgid: f.id("tpgid")?,
            flags: f.num("flags")?,
            minor_faults: f.num("minflt")?,
            children_minor_faults: f.num("cminflt")?,
            major_faults: f.num("majflt")?,
            children_major_faults: f.num("cmajflt")?,
            user_time: f.time("utime")?,
            system_time: f.time("stime")?,
            children_user_time: f.time("cutime")?,
            children_system_time: f.time("cstime")?,
            priority: f.int("priority")?,
            nice: f.int("nice")?,
            threads: f.num("num_threads")?,
            start_time: {
                f.word("itrealvalue")?;
                f.time("starttime")?
            },
            virtual_size: f.num("vsize")?,
            resident_pages: f.num("rss")?,
            resident_limit: f.num("rsslim")?,
            start_code: f.num("startcode")?,
            end_code: f.num("endcode")?,
            start_stack: f.num("startstack")?,
            exit_signal: {
                // kstkesp, kstkeip, four signal masks cut to 32 bits, wchan, nswap, cnswap: kept for the layout only.
                for _ in 0..9 {
                    f.word("an obsolete field")?;
                }
                f.int("exit_signal")?
            },
            processor: f.num("processor")?,
            realtime_priority: f.num("rt_priority")?,
            policy: f.num("policy")?,
            block_io_delay: f.time("delayacct_blkio_ticks")?,
            guest_time: f.time("guest_time")?,
            children_guest_time: f.time("cguest_time")?,
            start_data: f.num("start_data")?,
            end_data: f.num("end_data")?,
            start_brk: f.num("start_brk")?,
            arguments: f.num("arg_start")?..f.num("arg_end")?,
            environment: f.num("env_start")?..f.num("env_end")?,
            exit_code: f.int("exit_code")?,
        };
        Ok(stat)
    }

    /// User and system time together.
    pub fn cpu_time(&self) -> Duration {
        self.user_time.saturating_add(self.system_time)
    }
}

struct Fields<I> {
    at: At,
    words: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Fields<I> {
    fn word(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        self.at.next(field, &mut self.words)
    }
    fn num<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T, Error> {
        let w = self.word(field)?;
        self.at.num(field, w)
    }
    fn int<T: TryFrom<i64>>(&mut self, field: &'static str) -> Result<T, Error> {
        let w = self.word(field)?;
        self.at.int(field, w)
    }
    fn time(&mut self, field: &'static str) -> Result<Duration, Error> {
        Ok(ticks(self.num(field)?))
    }
    /// -1 is none.
    fn id(&mut self, field: &'static str) -> Result<Option<u32>, Error> {
        match self.word(field)? {
            b"-1" => Ok(None),
            w => self.at.num(field, w).map(Some),
        }
    }
    /// The kernel's 32-bit encoding of a device number, printed as a signed one; 0 is no terminal.
    fn tty(&mut self) -> Result<Option<Device>, Error> {
        let number: i64 = self.int("tty_nr")?;
        let encoded = u32::try_from(number & 0xffff_ffff).unwrap_or_default();
        let device =
            Device { major: (encoded >> 8) & 0xfff, minor: (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00) };
        Ok((encoded != 0).then_some(device))
    }
}
