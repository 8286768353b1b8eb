//! Reading profiles from JSON.

use std::path::PathBuf;

use serde::Deserialize;

use super::entry::{Entry, Filter};
use super::{Flag, KernelVersion, Profile, check_architecture, invalid, printable};
use crate::action::{Action, MAX_ERRNO, errno_name};
use crate::arch::Arch;
use crate::condition::{Condition, arg};
use crate::error::Error;

/// Larger files are refused unread: Docker's default has 14 kB.
const MAX_LEN: usize = 4 << 20;
/// More names than this, over all entries, are no profile.
const MAX_NAMES: usize = 200_000;

impl Profile {
    /// Reads Docker's profile format, or the `linux.seccomp` section of an OCI configuration: the fields of both.
    ///
    /// Strict where guessing would be unsafe: fields, actions, operators, architectures and flags that are not known
    /// are errors. Needs the feature `profiles`.
    ///
    /// ```
    /// # use palisade_secfilter::Profile;
    /// let profile = Profile::from_json(br#"{
    ///     "defaultAction": "SCMP_ACT_ALLOW",
    ///     "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }]
    /// }"#)?;
    /// # Ok::<(), palisade_secfilter::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Profile`](crate::ErrorKind::Profile), with the place.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MAX_LEN {
            return Err(invalid("", format!("{} bytes are more than {MAX_LEN}", json.len())));
        }
        let raw: RawProfile = serde_json::from_slice(json).map_err(|error| {
            let message: String = error.to_string().chars().take(200).collect();
            invalid("", message.escape_debug().to_string())
        })?;
        raw.resolve()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawProfile {
    default_action: Option<String>,
    default_errno_ret: Option<u64>,
    default_errno: Option<String>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<RawArch>>,
    flags: Option<Vec<String>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawArch {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEntry {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u64>,
    errno: Option<String>,
    args: Option<Vec<Option<RawArg>>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<RawFilter>,
    excludes: Option<RawFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawArg {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFilter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl RawProfile {
    fn resolve(self) -> Result<Profile, Error> {
        let architectures = self.architectures()?;
        let default = match &self.default_action {
            None => None,
            Some(name) => {
                let errno = errno("defaultErrnoRet", self.default_errno_ret, self.default_errno.as_deref())?;
                Some(action("defaultAction", name, errno)?)
            }
        };
        let mut flags = Vec::new();
        for name in self.flags.unwrap_or_default() {
            flags.push(match name.as_str() {
                "SECCOMP_FILTER_FLAG_TSYNC" => Flag::Tsync,
                "SECCOMP_FILTER_FLAG_LOG" => Flag::Log,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Flag::SpecAllow,
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Flag::WaitKillableRecv,
                other => return Err(invalid("flags", format!("unknown flag `{}`", printable(other)))),
            });
        }
        let raw = self.syscalls.unwrap_or_default();
        let names: usize = raw.iter().map(|entry| entry.names.as_ref().map_or(1, Vec::len)).sum();
        if names > MAX_NAMES {
            return Err(invalid("syscalls", format!("{names} names are more than {MAX_NAMES}")));
        }
        let entries =
            raw.into_iter().enumerate().map(|(index, entry)| entry.resolve(&format!("syscalls[{index}]")));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let (listener_path, listener_metadata) = (self.listener_path, self.listener_metadata);
        Ok(Profile { default, architectures, entries, flags, listener_path, listener_metadata })
    }

    /// The architectures for this machine: the list, or the entry of the map for the native one.
    fn architectures(&self) -> Result<Vec<String>, Error> {
        let list = self.architectures.as_deref().unwrap_or_default();
        let map = self.arch_map.as_deref().unwrap_or_default();
        if !list.is_empty() && !map.is_empty() {
            return Err(invalid("architectures", "use either architectures or archMap"));
        }
        for name in list {
            check_architecture("architectures", name)?;
        }
        let mut found = list.to_vec();
        for entry in map {
            let subs = entry.sub_architectures.as_deref().unwrap_or_default();
            for name in subs.iter().chain([&entry.architecture]) {
                check_architecture("archMap", name)?;
            }
            if entry.architecture == Arch::NATIVE.scmp_name() {
                found.push(entry.architecture.clone());
                found.extend_from_slice(subs);
            }
        }
        Ok(found)
    }
}

impl RawEntry {
    fn resolve(self, at: &str) -> Result<Entry, Error> {
        let names = match (self.name, self.names) {
            (Some(name), None) => vec![name],
            (None, Some(names)) => names,
            (None, None) => return Err(invalid(at, "it has no names")),
            (Some(_), Some(_)) => return Err(invalid(at, "use either name or names")),
        };
        let errno = errno(at, self.errno_ret, self.errno.as_deref())?;
        let action = action(at, &self.action, errno)?;
        let raw: Vec<RawArg> = self.args.unwrap_or_default().into_iter().flatten().collect();
        let conditions = raw.iter().map(|arg| arg.resolve(at)).collect::<Result<Vec<_>, _>>()?;
        // runc: an index that is there twice makes each condition a rule of its own.
        let twice = (0..raw.len()).any(|i| raw[..i].iter().any(|earlier| earlier.index == raw[i].index));
        let rules = if twice {
            conditions.into_iter().map(|condition| vec![condition]).collect()
        } else {
            vec![conditions]
        };
        Ok(Entry {
            names,
            rules,
            action,
            includes: filter(at, self.includes)?,
            excludes: filter(at, self.excludes)?,
        })
    }
}

impl RawArg {
    fn resolve(&self, at: &str) -> Result<Condition, Error> {
        let index = match self.index {
            index @ 0..=5 => index as u8,
            index => return Err(invalid(at, format!("argument {index} does not exist (0 to 5 do)"))),
        };
        let subject = arg(index);
        Ok(match self.op.as_str() {
            "SCMP_CMP_NE" => subject.ne(self.value),
            "SCMP_CMP_LT" => subject.lt(self.value),
            "SCMP_CMP_LE" => subject.le(self.value),
            "SCMP_CMP_EQ" => subject.eq(self.value),
            "SCMP_CMP_GE" => subject.ge(self.value),
            "SCMP_CMP_GT" => subject.gt(self.value),
            // The mask applies to both sides.
            "SCMP_CMP_MASKED_EQ" => subject.masked(self.value).eq(self.value_two & self.value),
            op => return Err(invalid(at, format!("unknown operator `{}`", printable(op)))),
        })
    }
}

fn filter(at: &str, raw: Option<RawFilter>) -> Result<Filter, Error> {
    let Some(raw) = raw else { return Ok(Filter::default()) };
    let min_kernel = match &raw.min_kernel {
        None => None,
        Some(text) => {
            let version: KernelVersion = text
                .parse()
                .map_err(|_| invalid(at, format!("minKernel `{}` is not like 4.8", printable(text))))?;
            Some((version.major, version.minor))
        }
    };
    Ok(Filter { caps: raw.caps.unwrap_or_default(), arches: raw.arches.unwrap_or_default(), min_kernel })
}

/// The errno to return: a number, or (Podman's files) a name, which must then agree.
fn errno(at: &str, number: Option<u64>, name: Option<&str>) -> Result<u16, Error> {
    let number = match number {
        None => None,
        Some(number) => match u16::try_from(number) {
            Ok(errno) if errno <= MAX_ERRNO => Some(errno),
            _ => {
                return Err(invalid(
                    at,
                    format!("errno {number} is above the kernel's highest, {MAX_ERRNO}"),
                ));
            }
        },
    };
    let named = match name {
        None | Some("") => None,
        Some(name) => {
            let errno = (1..=MAX_ERRNO).find(|&errno| errno_name(errno) == Some(name));
            Some(errno.ok_or_else(|| invalid(at, format!("unknown errno `{}`", printable(name))))?)
        }
    };
    match (number, named) {
        (Some(number), Some(named)) if number != named => {
            Err(invalid(at, format!("errno {named} by name, {number} by number")))
        }
        (number, named) => Ok(named.or(number).unwrap_or(libc::EPERM as u16)),
    }
}

fn action(at: &str, name: &str, errno: u16) -> Result<Action, Error> {
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap(0),
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_TRACE" => Action::Trace(errno),
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => Action::UserNotif,
        other => return Err(invalid(at, format!("unknown action `{}`", printable(other)))),
    })
}
