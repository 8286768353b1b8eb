//! A delegated group made by systemd, where systemd owns the tree: transient scopes and slices, asked for over D-Bus.
//!
//! What `systemd-run --scope -p Delegate=yes` does for a program from outside, the program does here for itself:
//!
//! ```rust,no_run
//! use palisade_cgroup::{Bytes, Limits, systemd::TransientUnit};
//!
//! // From now on this process lives in a group that is its own, as an ordinary user too.
//! let place = TransientUnit::scope("my-runner").enter()?;
//! let job = place.create_unique("job", &Limits::new().memory_max(Bytes::mib(256)))?;
//! # job.remove()?;
//! # Ok::<(), palisade_cgroup::Error>(())
//! ```
//!
//! The scope goes when its last process has ended; nothing has to be cleaned up.
//!
//! Interface: <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html>, about delegation:
//! <https://systemd.io/CGROUP_DELEGATION/>.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bus::{Bus, places};
use crate::cgroup::Cgroup;
use crate::cpu::CpuMax;
use crate::dbus::{Call, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::hierarchy::{Mounts, locate};
use crate::limits::Limits;
use crate::value::{Bytes, Limit};

const MANAGER: Call<'static> = Call {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "",
};

/// Which systemd is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Manager {
    /// The one of the machine, over the bus at `DBUS_SYSTEM_BUS_ADDRESS` or `/run/dbus/system_bus_socket`. It serves
    /// root; others where polkit lets them.
    System,
    /// The one of the user, over the bus at `DBUS_SESSION_BUS_ADDRESS` or `$XDG_RUNTIME_DIR/bus`.
    User,
}

impl Manager {
    /// The one that would serve this caller: the system's for effective user id 0, else the user's.
    pub fn of_caller() -> Manager {
        if nix::unistd::geteuid().is_root() { Manager::System } else { Manager::User }
    }

    fn connect(self, timeout: Duration) -> Result<Bus> {
        let places = match self {
            Manager::System => places(
                std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS"),
                Some(Path::new("/run/dbus/system_bus_socket")),
            ),
            Manager::User => {
                let runtime: Option<OsString> = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty());
                let standard = runtime.map(|dir| PathBuf::from(dir).join("bus"));
                places(std::env::var_os("DBUS_SESSION_BUS_ADDRESS"), standard.as_deref())
            }
        };
        Bus::connect(&places, timeout).map_err(|e| match (e.kind(), self) {
            (ErrorKind::Absent | ErrorKind::NotDelegated, Manager::System) => {
                e.hint("does systemd run here, with its message bus? Without systemd, use Cgroup::delegated")
            }
            (ErrorKind::Absent, Manager::User) => e.hint(
                "a user's systemd runs from login on; a service needs `loginctl enable-linger` and XDG_RUNTIME_DIR \
                 (/run/user/UID) in its environment",
            ),
            _ => e,
        })
    }
}

/// A unit that exists until its last process has ended, or it is stopped: a *scope* for processes that run already, with
/// its control group delegated (`Delegate=yes`), or a *slice*, which only holds scopes and what they use together.
///
/// A value that can be used again; nothing is asked before [`start`](TransientUnit::start) or
/// [`enter`](TransientUnit::enter).
#[derive(Clone, Debug)]
pub struct TransientUnit {
    name: String,
    manager: Option<Manager>,
    slice: Option<String>,
    description: Option<String>,
    limits: Limits,
    processes: Vec<u32>,
    timeout: Duration,
}

const SCOPE: &str = ".scope";
const SLICE: &str = ".slice";

impl TransientUnit {
    /// A scope of this name, without or with `.scope` at its end.
    pub fn scope(name: impl AsRef<str>) -> TransientUnit {
        TransientUnit::new(name.as_ref(), SCOPE)
    }

    /// A slice of this name, without or with `.slice` at its end. A dash is a level: `a-b.slice` is in `a.slice`.
    pub fn slice(name: impl AsRef<str>) -> TransientUnit {
        TransientUnit::new(name.as_ref(), SLICE)
    }

    fn new(name: &str, suffix: &str) -> TransientUnit {
        TransientUnit {
            name: with_suffix(name, suffix),
            manager: None,
            slice: None,
            description: None,
            limits: Limits::new(),
            processes: Vec::new(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Which systemd makes it; [`Manager::of_caller`] unless given.
    #[must_use]
    pub fn manager(mut self, manager: Manager) -> TransientUnit {
        self.manager = Some(manager);
        self
    }

    /// The slice that the scope is put in; the manager's default is `system.slice` or `app.slice`. A slice's own place
    /// follows from its name.
    #[must_use]
    pub fn within(mut self, slice: impl AsRef<str>) -> TransientUnit {
        self.slice = Some(with_suffix(slice.as_ref(), SLICE));
        self
    }

    /// The words that `systemctl status` shows.
    #[must_use]
    pub fn description(mut self, words: impl Into<String>) -> TransientUnit {
        self.description = Some(words.into());
        self
    }

    /// Limits of the unit as a whole. They are systemd's to write, so only those that it has properties for:
    /// `memory.min`, `.low`, `.high`, `.max`, `.swap.max`, `cpu.max`, `cpu.weight`, `pids.max`. All others belong to groups
    /// that are made below.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> TransientUnit {
        self.limits = limits;
        self
    }

    /// One more process that is moved into the scope, by its number. In a pid namespace below systemd's, where numbers mean
    /// others, nothing is asked: [`NotDelegated`](ErrorKind::NotDelegated).
    #[must_use]
    pub fn process(mut self, pid: u32) -> TransientUnit {
        self.processes.push(pid);
        self
    }

    /// How long systemd may take for all of a request: 30 seconds unless given, at most an hour.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> TransientUnit {
        self.timeout = timeout;
        self
    }

    /// The unit's whole name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn is_scope(&self) -> bool {
        self.name.ends_with(SCOPE)
    }

    /// Has systemd make the unit, waits until it has, and opens its group. Limits are read back: they hold.
    ///
    /// # Errors
    /// [`InvalidName`](ErrorKind::InvalidName) and [`InvalidValue`](ErrorKind::InvalidValue) before anything is asked;
    /// [`Absent`](ErrorKind::Absent) if no systemd can be reached; [`Busy`](ErrorKind::Busy) if the name is taken;
    /// [`NotDelegated`](ErrorKind::NotDelegated) if it does not serve this caller; [`Refused`](ErrorKind::Refused) with
    /// systemd's own words; [`TimedOut`](ErrorKind::TimedOut). [`NotVerified`](ErrorKind::NotVerified) and
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) if the group does not have a limit that was asked: the unit is
    /// there then, and its processes are in it, unlimited.
    pub fn start(&self) -> Result<Cgroup> {
        let properties = self.properties()?;
        let manager = self.manager.unwrap_or_else(Manager::of_caller);
        let mut bus = manager.connect(self.timeout)?;
        bus.watch_jobs()?;
        let mut body = Writer::default();
        body.string(&self.name);
        body.string("fail"); // rather than replace what is queued for a unit of the same name
        body.array(8, |w| properties.iter().for_each(|p| p.write(w)));
        body.array(8, |_no_further_units| {});
        self.finish(&mut bus, "StartTransientUnit", "ssa(sv)a(sa(sv))", &body)?;

        let unit = self.text_of(&mut bus, "GetUnit")?;
        let interface = if self.is_scope() { "Scope" } else { "Slice" };
        let group = self.control_group(&mut bus, &unit, &format!("org.freedesktop.systemd1.{interface}"))?;
        let (point, root) = Mounts::read()?.v2()?;
        let group = Cgroup::open(locate(&point, &root, Path::new(&group))?)?;
        group.verify(&self.limits)?;
        Ok(group)
    }

    /// Has systemd make a scope with the calling process in it, and moves that into a leaf called `main`, since no
    /// process may sit in a group that hands controllers on. The result is a place for groups; so is what
    /// [`Cgroup::delegated`] finds from now on.
    ///
    /// Whatever else this program has started stays where it is.
    ///
    /// # Errors
    /// As [`TransientUnit::start`] and [`Cgroup::vacate`].
    pub fn enter(&self) -> Result<Cgroup> {
        let group = self.clone().process(std::process::id()).start()?;
        group.vacate("main")?;
        Ok(group)
    }

    /// Has systemd stop the unit and end everything in it, and waits until it has. A unit that is gone is fine.
    ///
    /// # Errors
    /// As [`TransientUnit::start`].
    pub fn stop(&self) -> Result<()> {
        self.check_names()?;
        let mut bus = self.manager.unwrap_or_else(Manager::of_caller).connect(self.timeout)?;
        bus.watch_jobs()?;
        let mut body = Writer::default();
        body.string(&self.name);
        body.string("replace");
        match self.finish(&mut bus, "StopUnit", "ss", &body) {
            // systemd's NoSuchUnit. A bus that hangs up is `Gone` too, but with the bus's path.
            Err(e) if e.kind() == ErrorKind::Gone && e.path().is_none() => Ok(()),
            other => other,
        }
    }

    /// Makes a call whose answer is a job, and waits for the job's end.
    fn finish(&self, bus: &mut Bus, member: &'static str, signature: &str, body: &Writer) -> Result<()> {
        let reply =
            bus.call(Call { member, ..MANAGER }, signature, body).map_err(|e| e.value(self.name.as_str()))?;
        let job = reply.text().ok_or_else(|| Error::parse("answer of systemd", member.as_bytes()))?;
        match bus.job_result(&reply.sender, &job)?.as_str() {
            "done" => Ok(()),
            other => Err(Error::new(ErrorKind::Refused, format!("systemd's job ended as `{other}`"))
                .value(self.name.as_str())
                .hint("`systemctl status` and the journal say why (with --user for the user's)")),
        }
    }

    fn text_of(&self, bus: &mut Bus, member: &'static str) -> Result<String> {
        let mut body = Writer::default();
        body.string(&self.name);
        let reply = bus.call(Call { member, ..MANAGER }, "s", &body)?;
        reply.text().ok_or_else(|| Error::parse("answer of systemd", member.as_bytes()))
    }

    fn control_group(&self, bus: &mut Bus, unit: &str, interface: &str) -> Result<String> {
        let mut body = Writer::default();
        body.string(interface);
        body.string("ControlGroup");
        let get = Call { path: unit, interface: "org.freedesktop.DBus.Properties", member: "Get", ..MANAGER };
        let reply = bus.call(get, "ss", &body)?;
        match reply.variant_text() {
            Some(path) if path.starts_with('/') => Ok(path),
            // A scope whose processes have all ended meanwhile, or a slice that is not realized.
            Some(_) => {
                Err(Error::new(ErrorKind::Gone, "the unit has no control group").value(self.name.as_str()))
            }
            None => Err(Error::parse("answer of systemd", b"ControlGroup")),
        }
    }

    fn check_names(&self) -> Result<()> {
        check_unit(&self.name, if self.is_scope() { SCOPE } else { SLICE })?;
        self.slice.as_deref().map_or(Ok(()), |s| check_unit(s, SLICE))
    }

    /// Everything that systemd is told about the unit.
    fn properties(&self) -> Result<Vec<Property>> {
        self.check_names()?;
        let mut list = Vec::new();
        if let Some(words) = &self.description {
            if words.contains('\0') {
                return Err(Error::invalid("description of a unit", words.as_bytes(), "no NUL"));
            }
            list.push(Property("Description", Value::Text(words.clone())));
        }
        if self.is_scope() {
            if self.processes.is_empty() {
                let e = Error::new(ErrorKind::InvalidValue, "a scope without a process");
                return Err(e.value(self.name.as_str()).hint("name one by .process(pid), or use .enter()"));
            }
            list.push(Property("PIDs", Value::Numbers(self.processes.clone())));
            list.push(Property("Delegate", Value::Bool(true)));
            list.push(Property("CollectMode", Value::Text("inactive-or-failed".into())));
            if let Some(slice) = &self.slice {
                list.push(Property("Slice", Value::Text(slice.clone())));
            }
        } else if !self.processes.is_empty() || self.slice.is_some() {
            return Err(Error::new(
                ErrorKind::InvalidValue,
                "a slice has no processes, and its name is its place",
            )
            .value(self.name.as_str())
            .hint("put a scope into it: TransientUnit::scope(…).within(…)"));
        }
        for (file, value) in self.limits.iter() {
            list.extend(of_limit(file, value)?);
        }
        Ok(list)
    }
}

fn with_suffix(name: &str, suffix: &str) -> String {
    if name.ends_with(suffix) { name.to_owned() } else { format!("{name}{suffix}") }
}

fn check_unit(name: &str, suffix: &str) -> Result<()> {
    const LONGEST: usize = 255;
    let stem = name.strip_suffix(suffix).unwrap_or_default();
    let fine = |c: u8| c.is_ascii_alphanumeric() || b":-_.\\".contains(&c);
    let dashes = suffix == SLICE && (stem.starts_with('-') || stem.ends_with('-') || stem.contains("--"));
    let why = if stem.is_empty() || name.len() > LONGEST {
        "a unit's name has 1 to 255 bytes with its suffix"
    } else if !stem.bytes().all(fine) {
        "a unit's name has letters, digits and : - _ . \\"
    } else if dashes {
        "in a slice's name each dash stands between two levels"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidName, "name of a unit").value(name).hint(why))
}

/// A property of a unit: its name and value.
#[derive(Clone, Debug, PartialEq)]
struct Property(&'static str, Value);

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Bool(bool),
    Text(String),
    Long(u64),
    Numbers(Vec<u32>),
}

impl Property {
    fn write(&self, w: &mut Writer) {
        w.structure(|w| {
            w.string(self.0);
            match &self.1 {
                Value::Bool(b) => {
                    w.signature("b");
                    w.u32(u32::from(*b));
                }
                Value::Text(t) => {
                    w.signature("s");
                    w.string(t);
                }
                Value::Long(n) => {
                    w.signature("t");
                    w.u64(*n);
                }
                Value::Numbers(list) => {
                    w.signature("au");
                    w.array(4, |w| list.iter().for_each(|n| w.u32(*n)));
                }
            }
        });
    }
}

/// The properties that make systemd write this value to this file.
fn of_limit(file: &str, value: &str) -> Result<Vec<Property>> {
    let name = match file {
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "cpu.weight" => "CPUWeight",
        "pids.max" => "TasksMax",
        "cpu.max" => {
            let max: CpuMax = value.parse()?;
            let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
            let period = micros(max.period()).max(1);
            let a_second = match max.quota() {
                Limit::At(quota) => micros(quota).saturating_mul(1_000_000) / period,
                Limit::Max => u64::MAX,
            };
            return Ok(vec![
                Property("CPUQuotaPerSecUSec", Value::Long(a_second)),
                Property("CPUQuotaPeriodUSec", Value::Long(period)),
            ]);
        }
        _ => {
            return Err(Error::new(ErrorKind::InvalidValue, "systemd has no property for this file")
                .value(format!("{file} = {value}"))
                .hint("limit a group that is made below the scope"));
        }
    };
    let number = match value.parse::<Limit<Bytes>>()? {
        Limit::At(n) => n.get(),
        Limit::Max => u64::MAX,
    };
    Ok(vec![Property(name, Value::Long(number))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Weight;

    #[test]
    fn names_are_systemds() {
        let bad = |unit: TransientUnit| unit.process(1).properties().expect_err("no such name").kind();
        for name in ["", "a/b", "a b", "ü", "a\0", "a@b", &"x".repeat(300), ".scope"] {
            assert_eq!(bad(TransientUnit::scope(name)), ErrorKind::InvalidName, "{name:?}");
        }
        for name in ["-", "-a", "a-", "a--b"] {
            assert_eq!(bad(TransientUnit::scope("x").within(name)), ErrorKind::InvalidName, "{name:?}");
            assert_eq!(bad(TransientUnit::slice(name)), ErrorKind::InvalidName, "{name:?}");
        }
        assert_eq!(TransientUnit::scope("a.scope").name(), "a.scope");
        assert_eq!(TransientUnit::scope("a.b").name(), "a.b.scope");
    }

    #[test]
    fn a_scope_has_processes_and_a_slice_has_none() {
        for wrong in [
            TransientUnit::scope("a"),
            TransientUnit::slice("a").process(1),
            TransientUnit::slice("a").within("b"),
            TransientUnit::scope("a").process(1).description("\0"),
            TransientUnit::scope("a").process(1).limits(Limits::new().memory_oom_group(true)),
        ] {
            let e = wrong.properties().expect_err("contradicts itself");
            assert!(e.kind() == ErrorKind::InvalidValue && e.remedy().is_some(), "{e}");
        }
    }

    #[test]
    fn limits_become_properties() {
        let ms = Duration::from_millis;
        let limits = Limits::new()
            .memory_max(Bytes::mib(1))
            .memory_swap_max(Limit::Max)
            .pids_max(7)
            .cpu_weight(Weight::new(59).expect("in range"))
            .cpu_max(CpuMax::new(ms(30), ms(20)).expect("in range"));
        let list = TransientUnit::slice("a").limits(limits).properties().expect("all known");
        let long = |name, n| Property(name, Value::Long(n));
        let expected = [
            long("MemorySwapMax", u64::MAX),
            long("MemoryMax", 1 << 20),
            long("TasksMax", 7),
            long("CPUWeight", 59),
            long("CPUQuotaPerSecUSec", 1_500_000),
            long("CPUQuotaPeriodUSec", 20_000),
        ];
        assert_eq!(list, expected);
        let none = of_limit("cpu.max", "max 100000").expect("known");
        assert_eq!(none[0], long("CPUQuotaPerSecUSec", u64::MAX));
    }
}
