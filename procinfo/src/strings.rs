use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use crate::bytes::{os, split_at};

/// `/proc/PID/cmdline`: the arguments, as the process has them in its memory now. It may have changed them: it may
/// claim to be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommandLine {
    /// The arguments, the program's name first. None for kernel threads and zombies.
    pub arguments: Vec<OsString>,
}

impl CommandLine {
    /// Reads the bytes of a `cmdline` file: strings that end in NUL, the last perhaps without.
    pub fn parse(text: &[u8]) -> Self {
        Self { arguments: strings(text) }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.arguments.is_empty()
    }
}

/// On one line, blanks between, control characters escaped.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, argument) in self.arguments.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&printable(argument))?;
        }
        Ok(())
    }
}

/// `/proc/PID/environ`: the environment as it was at exec, unless the process has written over that memory. Needs
/// ptrace read access.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Environment {
    /// The strings as they are: usually `NAME=value`; a name can stand twice, and a string can lack the `=`.
    pub strings: Vec<OsString>,
}

impl Environment {
    /// Reads the bytes of an `environ` file.
    pub fn parse(text: &[u8]) -> Self {
        Self { strings: strings(text) }
    }

    /// The value of a name; of several the first, as getenv(3) has it.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        let name = name.as_ref().as_bytes();
        let entries = self.strings.iter().filter_map(|s| split_at(s.as_bytes(), b'='));
        entries.into_iter().find(|(n, _)| *n == name).map(|(_, v)| OsStr::from_bytes(v))
    }
}

fn strings(text: &[u8]) -> Vec<OsString> {
    if text.is_empty() {
        return Vec::new();
    }
    text.strip_suffix(b"\0").unwrap_or(text).split(|c| *c == 0).map(os).collect()
}

/// Bytes of a process that may be hostile, for a terminal, as pstree(1) shows them: control characters and bytes that
/// are not UTF-8 as `\ooo`, a backslash twice.
pub(crate) fn printable(text: &OsStr) -> String {
    let mut out = String::with_capacity(text.len());
    let escape =
        |out: &mut String, bytes: &[u8]| bytes.iter().for_each(|b| out.push_str(&format!("\\{b:03o}")));
    for chunk in text.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() || reorders(c) => escape(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        escape(&mut out, chunk.invalid());
    }
    out
}

/// Characters that make a terminal show a line in another order than it is written in.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
