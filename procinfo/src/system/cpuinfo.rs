use std::os::unix::ffi::OsStrExt;

use crate::Error;
use crate::bytes::{At, key_value, lines, os, words};
use std::ffi::{OsStr, OsString};

/// `/proc/cpuinfo`, see [proc_cpuinfo(5)](https://man7.org/linux/man-pages/man5/proc_cpuinfo.5.html). Which lines
/// there are differs with the architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuInfo {
    /// The processors that are online.
    pub cpus: Vec<Cpu>,
    /// Lines about the whole machine, which some architectures add (`Hardware`, `Serial`).
    pub machine: Vec<(OsString, OsString)>,
}

/// One processor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cpu {
    /// Its number.
    pub processor: u32,
    /// Its other lines in the kernel's order.
    pub fields: Vec<(OsString, OsString)>,
}

impl CpuInfo {
    /// Reads the text of `cpuinfo`: blocks of lines `key : value`, an empty line after each.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) for a line without a colon or a processor without a number.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut info = Self::default();
        let mut in_cpu = false;
        for (at, line) in lines("cpuinfo", text) {
            if line.trim_ascii().is_empty() {
                in_cpu = false;
                continue;
            }
            let (key, value) = key_value(line).ok_or_else(|| at.bad("key", line))?;
            let key = key.trim_ascii();
            if key == b"processor" {
                info.cpus.push(Cpu { processor: number(at, value)?, fields: Vec::new() });
                in_cpu = true;
                continue;
            }
            let field = (os(key), os(value));
            match info.cpus.last_mut().filter(|_| in_cpu) {
                Some(cpu) => cpu.fields.push(field),
                None => info.machine.push(field),
            }
        }
        Ok(info)
    }
}

fn number(at: At, value: &[u8]) -> Result<u32, Error> {
    at.num("processor", value)
}

impl Cpu {
    /// A line by the kernel's word, such as `core id`.
    pub fn get(&self, key: &str) -> Option<&OsStr> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_os_str())
    }

    /// What the maker calls it.
    #[doc(alias = "model name")]
    pub fn model_name(&self) -> Option<&OsStr> {
        self.get("model name")
    }

    /// What it can do: `flags` on x86, `Features` on Arm.
    pub fn flags(&self) -> impl Iterator<Item = &OsStr> {
        let flags = self.get("flags").or_else(|| self.get("Features")).unwrap_or_default();
        words(flags.as_bytes()).map(OsStr::from_bytes)
    }
}
