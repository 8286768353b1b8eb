//! What a state's file says: lines of words, of which any byte that is not a letter of plain text is escaped.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// Which process it is. The number alone is given to others in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// When it started, after the boot.
    pub(crate) start: Duration,
    /// Inode of its pidfd, which no other process of this boot has. Since Linux 6.9.
    pub(crate) inode: Option<u64>,
}

/// An operation that may fail after the start, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) index: u32,
    pub(crate) step: String,
    pub(crate) object: String,
    pub(crate) call: String,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Of `/proc/sys/kernel/random/boot_id`: a pid means nothing after another boot.
    pub(crate) boot: String,
    /// Inode of the pid namespace in which the pids are counted.
    pub(crate) pid_namespace: u64,
    pub(crate) creator: ProcessId,
    /// `None` as long as it is being made.
    pub(crate) payload: Option<ProcessId>,
    /// Its path, and the kernel's id of it: a path may be another group's by now.
    pub(crate) cgroup: Option<(PathBuf, u64)>,
    pub(crate) operations: Vec<Operation>,
}

const FIRST_LINE: &str = "palisade-state 1";

/// Larger files are none of ours.
pub(crate) const MAX_LEN: usize = 256 << 10;

impl Record {
    /// Reads a file. What is unknown, missing or there twice is wrong, by its line's number.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_LEN {
            return Err(format!("more than {MAX_LEN} bytes"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "not a text".to_owned())?;
        let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
        if lines.next().map(|(_, line)| line) != Some(FIRST_LINE) {
            return Err(format!("line 1 is not {FIRST_LINE:?}"));
        }
        let (mut boot, mut namespace, mut creator, mut payload, mut cgroup) = (None, None, None, None, None);
        let mut operations = Vec::new();
        for (number, line) in lines {
            let wrong = || format!("line {number}: {line:?}");
            let mut words = line.split(' ');
            let key = words.next().unwrap_or_default();
            let values: Vec<Vec<u8>> = words.map(unescape).collect::<Option<_>>().ok_or_else(wrong)?;
            let done = match (key, &values[..]) {
                ("boot", [id]) => put(&mut boot, string(id)),
                ("pid-namespace", [inode]) => put(&mut namespace, decimal(inode)),
                ("creator", [pid, start, inode]) => put(&mut creator, process(pid, start, inode)),
                ("payload", [pid, start, inode]) => put(&mut payload, process(pid, start, inode)),
                ("cgroup", [path, id]) => {
                    let path = PathBuf::from(OsString::from_vec(path.clone()));
                    put(&mut cgroup, decimal(id).map(|id| (path, id)))
                }
                ("operation", [index, step, object, call]) => {
                    let index = decimal(index).and_then(|index| u32::try_from(index).ok());
                    let operation = index.zip(string(step)).zip(string(object)).zip(string(call));
                    operation.map(|(((index, step), object), call)| {
                        operations.push(Operation { index, step, object, call });
                    })
                }
                _ => None,
            };
            done.ok_or_else(wrong)?;
        }
        let missing = |what: &str| format!("no line {what:?}");
        Ok(Self {
            boot: boot.ok_or_else(|| missing("boot"))?,
            pid_namespace: namespace.ok_or_else(|| missing("pid-namespace"))?,
            creator: creator.ok_or_else(|| missing("creator"))?,
            payload,
            cgroup,
            operations,
        })
    }
}

/// Sets what was not set before.
fn put<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    if place.is_some() {
        return None;
    }
    *place = Some(value?);
    Some(())
}

fn string(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// A number in its one spelling.
fn decimal(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn process(pid: &[u8], start: &[u8], inode: &[u8]) -> Option<ProcessId> {
    let pid = u32::try_from(decimal(pid)?).ok().filter(|&pid| pid > 0)?;
    let inode = if inode == b"-" { None } else { Some(decimal(inode)?) };
    Some(ProcessId { pid, start: Duration::from_nanos(decimal(start)?), inode })
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        writeln!(f, "boot {}", escape(self.boot.as_bytes()))?;
        writeln!(f, "pid-namespace {}", self.pid_namespace)?;
        writeln!(f, "creator {}", self.creator)?;
        if let Some(payload) = &self.payload {
            writeln!(f, "payload {payload}")?;
        }
        if let Some((path, id)) = &self.cgroup {
            writeln!(f, "cgroup {} {id}", escape(path.as_os_str().as_bytes()))?;
        }
        for Operation { index, step, object, call } in &self.operations {
            let [step, object, call] = [step, object, call].map(|text| escape(text.as_bytes()));
            writeln!(f, "operation {index} {step} {object} {call}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.pid, self.start.as_nanos())?;
        match self.inode {
            Some(inode) => write!(f, "{inode}"),
            None => f.write_str("-"),
        }
    }
}

/// A word: visible ASCII as it is, but the backslash, and everything else as `\xhh`.
fn escape(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    bytes.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("\\x{b:02x}") }).collect()
}

fn unescape(word: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            bytes.push(u8::from_str_radix(rest.strip_prefix("\\x")?.get(..2)?, 16).ok()?);
            rest = rest.get(4..)?;
        } else if first.is_ascii_graphic() {
            bytes.push(first as u8);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(bytes)
}

/// For the fuzz target: what is read is written as it was understood.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(record) = Record::parse(bytes) {
        assert_eq!(Record::parse(record.to_string().as_bytes()).as_ref(), Ok(&record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn process() -> impl Strategy<Value = ProcessId> {
        (1..u32::MAX, any::<u64>(), any::<Option<u64>>()).prop_map(|(pid, start, inode)| ProcessId {
            pid,
            start: Duration::from_nanos(start),
            inode,
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        let operation = (any::<u32>(), ".*", ".*", ".*").prop_map(|(index, step, object, call)| Operation {
            index,
            step,
            object,
            call,
        });
        let path = proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
        let rest = (proptest::option::of((path, any::<u64>())), proptest::collection::vec(operation, 0..4));
        (".*", any::<u64>(), process(), proptest::option::of(process()), rest).prop_map(
            |(boot, pid_namespace, creator, payload, (cgroup, operations))| Record {
                boot,
                pid_namespace,
                creator,
                payload,
                cgroup,
                operations,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            prop_assert_eq!(Record::parse(record.to_string().as_bytes()), Ok(record));
        }

        #[test]
        fn anything_else_is_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&[FIRST_LINE.as_bytes(), b"\n", &bytes].concat());
            fuzz(&bytes);
        }

        #[test]
        fn changed_files_are_refused_or_understood(record in record(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = record.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            fuzz(&text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = "palisade-state 1\nboot b\npid-namespace 1\ncreator 1 2 -\n";
        assert!(Record::parse(head.as_bytes()).is_ok());
        for (text, part) in [
            ("", "line 1"),
            ("palisade-state 2\n", "line 1"),
            ("palisade-state 1\n", "no line \"boot\""),
            (&format!("{head}boot again\n"), "line 5"),
            (&format!("{head}payload 0 2 -\n"), "line 5"),
            (&format!("{head}payload 01 2 -\n"), "line 5"),
            (&format!("{head}payload 1 2\n"), "line 5"),
            (&format!("{head}payload 4294967296 2 -\n"), "line 5"),
            (&format!("{head}cgroup \\x4 1\n"), "line 5"),
            (&format!("{head}cgroup /a\n"), "line 5"),
            (&format!("{head}\n"), "line 5"),
            (&format!("{head}unknown\n"), "line 5"),
        ] {
            let error = Record::parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
        assert!(Record::parse(&vec![b'x'; MAX_LEN + 1]).is_err());
    }
}
