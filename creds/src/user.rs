//! Users and groups by the lines of passwd and group.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::id::decimal;
use crate::{Result, Uid, file};

/// The login name of a user of this system, if /etc/passwd has one.
pub(crate) fn login_name(uid: Uid) -> Result<Option<OsString>> {
    let text = file::read_path("/etc/passwd".as_ref(), 16 << 20)?.unwrap_or_default();
    Ok(text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let number = fields.nth(1).and_then(decimal)?;
        (number == uid.as_raw()).then(|| OsString::from_vec(name.to_vec()))
    }))
}
