//! Writing limits: all or nothing where the kernel allows, and never unverified.

use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{Check, Limits, Setting};
use crate::sys::page_size;

impl Cgroup {
    /// Sets limits on this group, whether anything lives in it or not, and reads each back.
    ///
    /// All or nothing: if one cannot be set, those written before are put back, and [`Error::undo`] says whether that
    /// worked. What the kernel does meanwhile cannot be undone: a `memory.max` below the present use reclaims and kills
    /// at once.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing), [`NotDelegated`](ErrorKind::NotDelegated),
    /// [`Refused`](ErrorKind::Refused) for a value that the kernel does not take,
    /// [`NotVerified`](ErrorKind::NotVerified) for one that it took and did not keep; each with file and value.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        let settings: Vec<&Setting> = limits.in_order().collect();
        let mut old = Vec::with_capacity(settings.len());
        for s in &settings {
            // Whatever cannot even be read is found out before anything is changed.
            old.push((s.file.as_str(), s.undo(&self.text(s)?)));
        }
        self.write_all(&settings).map_err(|(e, written)| {
            let mut failed = String::new();
            for (file, text) in old.iter().take(written).rev() {
                if let Err(errno) = self.dir.try_write(file, text) {
                    let why = std::io::Error::from_raw_os_error(errno);
                    failed.push_str(&format!(" {file} stays changed ({why});"));
                }
            }
            e.undone(match (written, failed.is_empty()) {
                (0, _) => "nothing had been changed".to_owned(),
                (n, true) => format!("{n} settings were put back"),
                (_, false) => format!("not all was put back:{failed}"),
            })
        })
    }

    /// Reads limits that were set before, and compares: whether they are in force now.
    ///
    /// # Errors
    /// [`NotVerified`](ErrorKind::NotVerified) for the first that is another one now; those of reading the files.
    pub fn verify(&self, limits: &Limits) -> Result<()> {
        self.verify_all(&limits.in_order().collect::<Vec<_>>())
    }

    /// For a group that nobody uses yet: no need to know what was there before.
    pub(crate) fn apply_fresh(&self, limits: &Limits) -> Result<()> {
        let settings: Vec<&Setting> = limits.in_order().collect();
        self.write_all(&settings).map_err(|(e, _)| e)
    }

    /// On failure: the error, and how many settings from the front may have been written.
    fn write_all(&self, settings: &[&Setting]) -> Result<(), (Error, usize)> {
        let mut again = Vec::new();
        for (i, s) in settings.iter().enumerate() {
            match self.write_one(s) {
                Ok(()) => {}
                // Quota and burst bound each other: one of the two orders works, which one depends on the old values.
                Err(e) if e.errno() == Some(libc::EINVAL) && s.file.as_str().starts_with("cpu.max") => {
                    again.push(*s);
                }
                Err(e) => return Err((e, i)),
            }
        }
        for s in again {
            self.write_one(s).map_err(|e| (e, settings.len()))?;
        }
        self.verify_all(settings).map_err(|e| (e, settings.len()))
    }

    fn verify_all(&self, settings: &[&Setting]) -> Result<()> {
        let page = page_size();
        for s in settings.iter().filter(|s| s.check != Check::Accepted) {
            let seen = self.text(s)?;
            if !s.holds_in(&seen, page) {
                return Err(self.not_verified(s, &seen));
            }
        }
        Ok(())
    }

    fn write_one(&self, s: &Setting) -> Result<()> {
        self.dir.write(s.file.as_str(), &s.value).map_err(|e| match e.kind() {
            ErrorKind::ControllerMissing => self.why_missing(e, s),
            _ => e,
        })
    }

    fn text(&self, s: &Setting) -> Result<String> {
        let name = s.file.as_str();
        let text = self.dir.read(name).or_else(|e| match e.errno() {
            // A file that can only be written, such as memory.reclaim, has nothing to put back.
            Some(libc::EINVAL | libc::EACCES) if s.check == Check::Accepted => Ok(Vec::new()),
            _ if e.kind() == ErrorKind::ControllerMissing => Err(self.why_missing(e, s)),
            _ => Err(e),
        })?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn why_missing(&self, e: Error, s: &Setting) -> Error {
        let Some(controller) = s.file.controller() else { return e };
        match self.parent() {
            Ok(Some(parent)) => parent.lacks(&controller).unwrap_or(e).value(s.value.as_str()),
            _ => e,
        }
    }

    fn not_verified(&self, s: &Setting, seen: &str) -> Error {
        let e = Error::new(ErrorKind::NotVerified, "the kernel accepted the value but kept another one")
            .value(s.value.as_str())
            .at(&self.file_path(s.file.as_str()))
            .hint(format!("it reads {:?}", seen.trim_end()));
        match s.file.controller() {
            Some(c) => e.for_controller(c.name()),
            None => e,
        }
    }
}
