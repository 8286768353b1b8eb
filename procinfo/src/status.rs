use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;

use crate::Error;
use crate::bytes::{At, key_value, lines, number_list, os, split_at, words};

/// `/proc/PID/status`: who a process is and what it may do, in one file that every reader of the process may open.
///
/// A `None` is a line that this kernel does not print: memory lines are absent for kernel threads and zombies, others
/// depend on the kernel's version or configuration. A line that is there and cannot be read is an error.
///
/// See [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// `Name`: the thread's own name, up to 15 bytes (longer for kernel workers), any bytes but NUL.
    pub name: OsString,
    /// `Umask`, 0 to 0o777; absent for zombies and kernel threads without a file system (Linux 4.7).
    pub umask: Option<u32>,
    /// `State`.
    pub state: State,
    /// `Tgid`: the process that this thread belongs to.
    pub tgid: u32,
    /// `Ngid`: NUMA group, 0 for none.
    pub ngid: Option<u32>,
    /// `Pid`: of this thread, in the pid namespace of the proc mount that was read.
    pub pid: u32,
    /// `PPid`: 0 where the parent lies outside of that namespace.
    pub ppid: u32,
    /// `TracerPid`: who traces it, 0 for nobody.
    pub tracer_pid: u32,
    /// `Uid`, in the numbering of the reader's user namespace; ids not mapped there read 65534.
    pub uid: Ids,
    /// `Gid`, likewise.
    pub gid: Ids,
    /// `FDSize`: slots of the descriptor table.
    pub fd_size: Option<u64>,
    /// `Groups`: the supplementary groups, in the kernel's (sorted) order.
    pub groups: Vec<u32>,
    /// `NStgid`: the process id in each nested pid namespace, the mount's first, the process's own last.
    pub ns_tgid: Vec<u32>,
    /// `NSpid`: the thread id likewise.
    pub ns_pid: Vec<u32>,
    /// `NSpgid`: the process group likewise.
    pub ns_pgid: Vec<u32>,
    /// `NSsid`: the session likewise.
    pub ns_sid: Vec<u32>,
    /// `Kthread`: whether it is a kernel thread (Linux 6.11).
    pub kthread: Option<bool>,
    /// `VmPeak`, in bytes.
    pub vm_peak: Option<u64>,
    /// `VmSize`, in bytes.
    pub vm_size: Option<u64>,
    /// `VmLck`: locked memory, in bytes.
    pub vm_locked: Option<u64>,
    /// `VmPin`, in bytes.
    pub vm_pinned: Option<u64>,
    /// `VmHWM`: the largest resident size so far, in bytes.
    pub vm_hwm: Option<u64>,
    /// `VmRSS`: resident now, in bytes. Counted lazily by the kernel; `smaps_rollup` is exact.
    pub vm_rss: Option<u64>,
    /// `RssAnon`, in bytes.
    pub rss_anon: Option<u64>,
    /// `RssFile`, in bytes.
    pub rss_file: Option<u64>,
    /// `RssShmem`, in bytes.
    pub rss_shmem: Option<u64>,
    /// `VmData`, in bytes.
    pub vm_data: Option<u64>,
    /// `VmStk`, in bytes.
    pub vm_stack: Option<u64>,
    /// `VmExe`, in bytes.
    pub vm_exe: Option<u64>,
    /// `VmLib`, in bytes.
    pub vm_lib: Option<u64>,
    /// `VmPTE`: page tables, in bytes.
    pub vm_pte: Option<u64>,
    /// `VmSwap`, in bytes.
    pub vm_swap: Option<u64>,
    /// `HugetlbPages`, in bytes.
    pub hugetlb_pages: Option<u64>,
    /// `CoreDumping` (Linux 4.15).
    pub core_dumping: Option<bool>,
    /// `THP_enabled` (Linux 5.0).
    pub thp_enabled: Option<bool>,
    /// `Threads`: 0 for a zombie whose last thread is being reaped.
    pub threads: u32,
    /// `SigQ`: queued signals of the real user id, and its limit.
    pub signal_queue: Option<(u64, u64)>,
    /// `SigPnd`: signals pending for this thread, bit n-1 for signal n.
    pub signals_pending: u64,
    /// `ShdPnd`: signals pending for the process.
    pub signals_pending_shared: u64,
    /// `SigBlk`: blocked.
    pub signals_blocked: u64,
    /// `SigIgn`: ignored.
    pub signals_ignored: u64,
    /// `SigCgt`: caught by a handler.
    pub signals_caught: u64,
    /// `CapInh` to `CapAmb`.
    pub capabilities: Capabilities,
    /// `NoNewPrivs` (Linux 4.10).
    pub no_new_privs: bool,
    /// `Seccomp`; `None` on a kernel built without seccomp.
    pub seccomp: Option<SeccompMode>,
    /// `Seccomp_filters`: how many filters are stacked (Linux 5.9).
    pub seccomp_filters: Option<u32>,
    /// `Speculation_Store_Bypass`: the kernel's words.
    pub speculation_store_bypass: Option<OsString>,
    /// `SpeculationIndirectBranch`: the kernel's words (Linux 5.11).
    pub speculation_indirect_branch: Option<OsString>,
    /// `Cpus_allowed_list`.
    pub cpus_allowed: Vec<RangeInclusive<u32>>,
    /// `Mems_allowed_list`: memory nodes.
    pub mems_allowed: Vec<RangeInclusive<u32>>,
    /// `voluntary_ctxt_switches` of this thread.
    pub voluntary_switches: Option<u64>,
    /// `nonvoluntary_ctxt_switches` of this thread.
    pub involuntary_switches: Option<u64>,
}

/// Real, effective, saved and file system id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ids {
    /// Who started the process.
    pub real: u32,
    /// Whose rights it has.
    pub effective: u32,
    /// What it may switch back to.
    pub saved: u32,
    /// Whose rights it has on files.
    pub fs: u32,
}

/// The five capability sets, bit n for capability number n (`<linux/capability.h>`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// `CapInh`.
    pub inheritable: u64,
    /// `CapPrm`.
    pub permitted: u64,
    /// `CapEff`.
    pub effective: u64,
    /// `CapBnd`.
    pub bounding: u64,
    /// `CapAmb` (Linux 4.3).
    pub ambient: u64,
}

/// The `Seccomp` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SeccompMode {
    /// 0: no filter.
    Disabled,
    /// 1: only read, write, exit and sigreturn.
    Strict,
    /// 2: BPF filters.
    Filter,
    /// A mode that this crate does not know.
    Other(u32),
}

/// A state letter, of `status` and of `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// `R`: running or ready to.
    Running,
    /// `S`: sleeping, can be woken by a signal.
    Sleeping,
    /// `D`: sleeping, can not be woken by a signal.
    DiskSleep,
    /// `T`: stopped by a signal.
    Stopped,
    /// `t`: stopped by its tracer.
    Traced,
    /// `Z`: has ended and waits to be reaped.
    Zombie,
    /// `X` or `x`: being reaped.
    Dead,
    /// `I`: an idle kernel thread (Linux 4.14).
    Idle,
    /// `P`: a parked kernel thread.
    Parked,
    /// A letter that this crate does not know.
    Other(u8),
}

impl State {
    /// The kernel's letter for it.
    pub fn letter(self) -> char {
        char::from(match self {
            Self::Running => b'R',
            Self::Sleeping => b'S',
            Self::DiskSleep => b'D',
            Self::Stopped => b'T',
            Self::Traced => b't',
            Self::Zombie => b'Z',
            Self::Dead => b'X',
            Self::Idle => b'I',
            Self::Parked => b'P',
            Self::Other(c) => c,
        })
    }

    pub(crate) fn of(letter: u8) -> Self {
        match letter {
            b'R' => Self::Running,
            b'S' => Self::Sleeping,
            b'D' => Self::DiskSleep,
            b'T' => Self::Stopped,
            b't' => Self::Traced,
            b'Z' => Self::Zombie,
            b'X' | b'x' => Self::Dead,
            b'I' => Self::Idle,
            b'P' => Self::Parked,
            c => Self::Other(c),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

impl fmt::Display for SeccompMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::Strict => f.write_str("strict"),
            Self::Filter => f.write_str("filter"),
            Self::Other(n) => write!(f, "mode {n}"),
        }
    }
}

impl Status {
    /// Reads the text of a `status` file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) if a line that this crate knows is not as documented or stands
    /// twice, or if one of those that every supported kernel (5.15) prints is missing, as in a file cut short.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut f = Found::default();
        let mut end = At { file: "status", line: 1 };
        for (at, line) in lines("status", text) {
            end = at;
            // The one value whose blanks count: a name may begin or end with them.
            if let Some(name) = line.strip_prefix(b"Name:\t") {
                once(at, "Name", &mut f.name, unescape_name(name))?;
                continue;
            }
            let (key, value) = key_value(line).ok_or_else(|| at.bad("key", line))?;
            f.line(at, key, value)?;
        }
        f.finish(end)
    }

    /// Whether this is a kernel thread: by the `Kthread` line, and before Linux 6.11 by its having no memory
    /// while not being a zombie.
    pub fn is_kernel_thread(&self) -> bool {
        self.kthread.unwrap_or(self.vm_size.is_none() && !matches!(self.state, State::Zombie | State::Dead))
    }
}

/// The lines seen so far. What is required is an `Option` here and is checked at the end.
#[derive(Default)]
struct Found {
    name: Option<OsString>,
    umask: Option<u32>,
    state: Option<State>,
    tgid: Option<u32>,
    ngid: Option<u32>,
    pid: Option<u32>,
    ppid: Option<u32>,
    tracer_pid: Option<u32>,
    uid: Option<Ids>,
    gid: Option<Ids>,
    fd_size: Option<u64>,
    groups: Option<Vec<u32>>,
    ns: [Option<Vec<u32>>; 4],
    kthread: Option<bool>,
    memory: [Option<u64>; MEMORY.len()],
    core_dumping: Option<bool>,
    thp_enabled: Option<bool>,
    threads: Option<u32>,
    signal_queue: Option<(u64, u64)>,
    masks: [Option<u64>; MASKS.len()],
    no_new_privs: Option<bool>,
    seccomp: Option<SeccompMode>,
    seccomp_filters: Option<u32>,
    speculation_store_bypass: Option<OsString>,
    speculation_indirect_branch: Option<OsString>,
    cpus_allowed: Option<Vec<RangeInclusive<u32>>>,
    mems_allowed: Option<Vec<RangeInclusive<u32>>>,
    voluntary_switches: Option<u64>,
    involuntary_switches: Option<u64>,
}

const NS: [&str; 4] = ["NStgid", "NSpid", "NSpgid", "NSsid"];
const MEMORY: [&str; 16] = [
    "VmPeak",
    "VmSize",
    "VmLck",
    "VmPin",
    "VmHWM",
    "VmRSS",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmData",
    "VmStk",
    "VmExe",
    "VmLib",
    "VmPTE",
    "VmSwap",
    "HugetlbPages",
];
const MASKS: [&str; 10] =
    ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

impl Found {
    fn line(&mut self, at: At, key: &[u8], v: &[u8]) -> Result<(), Error> {
        if self.grouped(at, key, v)? {
            return Ok(());
        }
        match key {
            b"Umask" => once(at, "Umask", &mut self.umask, at.octal("Umask", v)?),
            b"State" => {
                let letter = v.first().ok_or_else(|| at.bad("State", v))?;
                once(at, "State", &mut self.state, State::of(*letter))
            }
            b"Tgid" => once(at, "Tgid", &mut self.tgid, at.num("Tgid", v)?),
            b"Ngid" => once(at, "Ngid", &mut self.ngid, at.num("Ngid", v)?),
            b"Pid" => once(at, "Pid", &mut self.pid, at.num("Pid", v)?),
            b"PPid" => once(at, "PPid", &mut self.ppid, at.num("PPid", v)?),
            b"TracerPid" => once(at, "TracerPid", &mut self.tracer_pid, at.num("TracerPid", v)?),
            b"Uid" => once(at, "Uid", &mut self.uid, ids(at, "Uid", v)?),
            b"Gid" => once(at, "Gid", &mut self.gid, ids(at, "Gid", v)?),
            b"FDSize" => once(at, "FDSize", &mut self.fd_size, at.num("FDSize", v)?),
            b"Groups" => once(at, "Groups", &mut self.groups, numbers(at, "Groups", v)?),
            b"Kthread" => once(at, "Kthread", &mut self.kthread, at.flag("Kthread", v)?),
            b"CoreDumping" => once(at, "CoreDumping", &mut self.core_dumping, at.flag("CoreDumping", v)?),
            b"THP_enabled" => once(at, "THP_enabled", &mut self.thp_enabled, at.flag("THP_enabled", v)?),
            b"Threads" => once(at, "Threads", &mut self.threads, at.num("Threads", v)?),
            b"SigQ" => {
                let (used, limit) = split_at(v, b'/').ok_or_else(|| at.bad("SigQ", v))?;
                once(at, "SigQ", &mut self.signal_queue, (at.num("SigQ", used)?, at.num("SigQ", limit)?))
            }
            b"NoNewPrivs" => once(at, "NoNewPrivs", &mut self.no_new_privs, at.flag("NoNewPrivs", v)?),
            b"Seccomp" => {
                let mode = match at.num("Seccomp", v)? {
                    0 => SeccompMode::Disabled,
                    1 => SeccompMode::Strict,
                    2 => SeccompMode::Filter,
                    n => SeccompMode::Other(n),
                };
                once(at, "Seccomp", &mut self.seccomp, mode)
            }
            b"Seccomp_filters" => {
                once(at, "Seccomp_filters", &mut self.seccomp_filters, at.num("Seccomp_filters", v)?)
            }
            b"Speculation_Store_Bypass" => {
                once(at, "Speculation_Store_Bypass", &mut self.speculation_store_bypass, os(v))
            }
            b"SpeculationIndirectBranch" => {
                once(at, "SpeculationIndirectBranch", &mut self.speculation_indirect_branch, os(v))
            }
            b"Cpus_allowed_list" => {
                let list = number_list(v).ok_or_else(|| at.bad("Cpus_allowed_list", v))?;
                once(at, "Cpus_allowed_list", &mut self.cpus_allowed, list)
            }
            b"Mems_allowed_list" => {
                let list = number_list(v).ok_or_else(|| at.bad("Mems_allowed_list", v))?;
                once(at, "Mems_allowed_list", &mut self.mems_allowed, list)
            }
            b"voluntary_ctxt_switches" => {
                let n = at.num("voluntary_ctxt_switches", v)?;
                once(at, "voluntary_ctxt_switches", &mut self.voluntary_switches, n)
            }
            b"nonvoluntary_ctxt_switches" => {
                let n = at.num("nonvoluntary_ctxt_switches", v)?;
                once(at, "nonvoluntary_ctxt_switches", &mut self.involuntary_switches, n)
            }
            _ => Ok(()), // a line of a newer kernel, or one that nobody asked for
        }
    }

    /// The lines that come in families of one format: half of the file.
    fn grouped(&mut self, at: At, key: &[u8], v: &[u8]) -> Result<bool, Error> {
        match key {
            [b'V' | b'R' | b'H', ..] => {
                let Some((slot, name)) = find(&MEMORY, &mut self.memory, key) else { return Ok(false) };
                once(at, name, slot, at.kib(name, v)?)?;
            }
            [b'S' | b'C', ..] => {
                let Some((slot, name)) = find(&MASKS, &mut self.masks, key) else { return Ok(false) };
                once(at, name, slot, at.hex(name, v)?)?;
            }
            [b'N', b'S', ..] => {
                let Some((slot, name)) = find(&NS, &mut self.ns, key) else { return Ok(false) };
                once(at, name, slot, numbers(at, name, v)?)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(self, end: At) -> Result<Status, Error> {
        let [ns_tgid, ns_pid, ns_pgid, ns_sid] = self.ns.map(Option::unwrap_or_default);
        let [
            vm_peak,
            vm_size,
            vm_locked,
            vm_pinned,
            vm_hwm,
            vm_rss,
            rss_anon,
            rss_file,
            rss_shmem,
            vm_data,
            vm_stack,
            vm_exe,
            vm_lib,
            vm_pte,
            vm_swap,
            hugetlb_pages,
        ] = self.memory;
        let mask = |i: usize, name| end.required(name, self.masks.get(i).copied().flatten());
        Ok(Status {
            name: end.required("Name", self.name)?,
            umask: self.umask,
            state: end.required("State", self.state)?,
            tgid: end.required("Tgid", self.tgid)?,
            ngid: self.ngid,
            pid: end.required("Pid", self.pid)?,
            ppid: end.required("PPid", self.ppid)?,
            tracer_pid: end.required("TracerPid", self.tracer_pid)?,
            uid: end.required("Uid", self.uid)?,
            gid: end.required("Gid", self.gid)?,
            fd_size: self.fd_size,
            groups: end.required("Groups", self.groups)?,
            ns_tgid,
            ns_pid,
            ns_pgid,
            ns_sid,
            kthread: self.kthread,
            vm_peak,
            vm_size,
            vm_locked,
            vm_pinned,
            vm_hwm,
            vm_rss,
            rss_anon,
            rss_file,
            rss_shmem,
            vm_data,
            vm_stack,
            vm_exe,
            vm_lib,
            vm_pte,
            vm_swap,
            hugetlb_pages,
            core_dumping: self.core_dumping,
            thp_enabled: self.thp_enabled,
            threads: end.required("Threads", self.threads)?,
            signal_queue: self.signal_queue,
            signals_pending: mask(0, "SigPnd")?,
            signals_pending_shared: mask(1, "ShdPnd")?,
            signals_blocked: mask(2, "SigBlk")?,
            signals_ignored: mask(3, "SigIgn")?,
            signals_caught: mask(4, "SigCgt")?,
            capabilities: Capabilities {
                inheritable: mask(5, "CapInh")?,
                permitted: mask(6, "CapPrm")?,
                effective: mask(7, "CapEff")?,
                bounding: mask(8, "CapBnd")?,
                ambient: mask(9, "CapAmb")?,
            },
            no_new_privs: end.required("NoNewPrivs", self.no_new_privs)?,
            seccomp: self.seccomp,
            seccomp_filters: self.seccomp_filters,
            speculation_store_bypass: self.speculation_store_bypass,
            speculation_indirect_branch: self.speculation_indirect_branch,
            cpus_allowed: self.cpus_allowed.unwrap_or_default(),
            mems_allowed: self.mems_allowed.unwrap_or_default(),
            voluntary_switches: self.voluntary_switches,
            involuntary_switches: self.involuntary_switches,
        })
    }
}

/// A line that stands twice would leave open which one counts, and some of them decide about security.
fn once<T>(at: At, name: &'static str, slot: &mut Option<T>, value: T) -> Result<(), Error> {
    if slot.replace(value).is_some() { Err(at.bad(name, b"(twice)")) } else { Ok(()) }
}

fn find<'s, T>(
    names: &[&'static str],
    slots: &'s mut [Option<T>],
    key: &[u8],
) -> Option<(&'s mut Option<T>, &'static str)> {
    let at = names.iter().position(|n| n.as_bytes() == key)?;
    Some((slots.get_mut(at)?, names.get(at)?))
}

fn ids(at: At, field: &'static str, v: &[u8]) -> Result<Ids, Error> {
    let mut w = words(v);
    let mut id = || at.num(field, at.next(field, &mut w)?);
    let ids = Ids { real: id()?, effective: id()?, saved: id()?, fs: id()? };
    if w.next().is_some() { Err(at.bad(field, v)) } else { Ok(ids) }
}

fn numbers(at: At, field: &'static str, v: &[u8]) -> Result<Vec<u32>, Error> {
    words(v).map(|w| at.num(field, w)).collect()
}

/// In this file (and not in `stat` or `comm`) the kernel writes a newline as `\n` and a backslash as `\\`.
fn unescape_name(v: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(v.len());
    let mut bytes = v.iter();
    while let Some(b) = bytes.next() {
        match (b, bytes.as_slice().first()) {
            (b'\\', Some(b'n')) => {
                out.push(b'\n');
                bytes.next();
            }
            (b'\\', Some(b'\\')) => {
                out.push(b'\\');
                bytes.next();
            }
            _ => out.push(*b),
        }
    }
    OsString::from_vec(out)
}
