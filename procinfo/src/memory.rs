use crate::Error;
use crate::bytes::{At, key_value, lines, words};

/// `/proc/PID/statm`: sizes in pages ([`page_size`](crate::page_size)), see
/// [proc_pid_statm(5)](https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statm {
    /// Address space.
    pub size: u64,
    /// In memory now.
    pub resident: u64,
    /// Of that, backed by files or shared memory.
    pub shared: u64,
    /// Code.
    pub text: u64,
    /// Data and stack.
    pub data: u64,
}

impl Statm {
    /// Reads the text of a `statm` file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let at = At { file: "statm", line: 1 };
        let mut w = words(text.trim_ascii_end());
        let mut num = |field| at.num(field, at.next(field, &mut w)?);
        let (size, resident, shared, text) = (num("size")?, num("resident")?, num("shared")?, num("text")?);
        let _lib: u64 = num("lib")?; // always 0 since Linux 2.6
        Ok(Self { size, resident, shared, text, data: num("data")? })
    }
}

/// `/proc/PID/smaps_rollup`: exact memory use summed over all mappings, in bytes (Linux 4.14), see
/// [proc_pid_smaps(5)](https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SmapsRollup {
    /// In memory now.
    pub rss: u64,
    /// The same with every page divided by how many map it.
    pub pss: u64,
    /// Mapped by others too, not written.
    pub shared_clean: u64,
    /// Mapped by others too, written.
    pub shared_dirty: u64,
    /// Its own, not written.
    pub private_clean: u64,
    /// Its own, written: what ending it would free.
    pub private_dirty: u64,
    /// Touched lately.
    pub referenced: u64,
    /// Not of any file.
    pub anonymous: u64,
    /// Swapped out.
    pub swap: u64,
    /// The same with every page divided by how many share it.
    pub swap_pss: u64,
    /// Locked in memory.
    pub locked: u64,
    others: Vec<(String, u64)>,
}

impl SmapsRollup {
    /// Reads the text of a `smaps_rollup` file. It is empty for a process without memory (all zero then).
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut r = Self::default();
        for (at, line) in lines("smaps_rollup", text).skip(1) {
            let (key, value) = key_value(line).ok_or_else(|| at.bad("key", line))?;
            let bytes = at.kib("kB", value)?;
            match key {
                b"Rss" => r.rss = bytes,
                b"Pss" => r.pss = bytes,
                b"Shared_Clean" => r.shared_clean = bytes,
                b"Shared_Dirty" => r.shared_dirty = bytes,
                b"Private_Clean" => r.private_clean = bytes,
                b"Private_Dirty" => r.private_dirty = bytes,
                b"Referenced" => r.referenced = bytes,
                b"Anonymous" => r.anonymous = bytes,
                b"Swap" => r.swap = bytes,
                b"SwapPss" => r.swap_pss = bytes,
                b"Locked" => r.locked = bytes,
                _ => r.others.push((String::from_utf8_lossy(key).into_owned(), bytes)),
            }
        }
        Ok(r)
    }

    /// Another line in bytes, by the kernel's word, such as `Pss_Anon` or `AnonHugePages`.
    pub fn get(&self, key: &str) -> Option<u64> {
        self.others.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }
}

/// `/proc/PID/io`: what the process has read and written, see
/// [proc_pid_io(5)](https://man7.org/linux/man-pages/man5/proc_pid_io.5.html). Needs ptrace read access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Io {
    /// Bytes that read(2) and the like returned.
    pub rchar: u64,
    /// Bytes that write(2) and the like took.
    pub wchar: u64,
    /// Calls of read(2) and the like.
    pub syscr: u64,
    /// Calls of write(2) and the like.
    pub syscw: u64,
    /// Bytes really fetched from storage.
    pub read_bytes: u64,
    /// Bytes really sent to storage.
    pub write_bytes: u64,
    /// Bytes that were written and thrown away before they reached it.
    pub cancelled_write_bytes: u64,
}

impl Io {
    /// Reads the text of an `io` file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut io = Self::default();
        let mut seen = 0;
        let mut end = At { file: "io", line: 1 };
        for (at, line) in lines("io", text) {
            end = at;
            let (key, value) = key_value(line).ok_or_else(|| at.bad("key", line))?;
            let slot = match key {
                b"rchar" => &mut io.rchar,
                b"wchar" => &mut io.wchar,
                b"syscr" => &mut io.syscr,
                b"syscw" => &mut io.syscw,
                b"read_bytes" => &mut io.read_bytes,
                b"write_bytes" => &mut io.write_bytes,
                b"cancelled_write_bytes" => &mut io.cancelled_write_bytes,
                _ => continue,
            };
            *slot = at.num("counter", value)?;
            seen += 1;
        }
        if seen == 7 { Ok(io) } else { Err(end.bad("counters", b"(not all seven)")) }
    }
}
