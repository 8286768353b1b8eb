use std::borrow::Cow;
use std::collections::HashMap;

use crate::bytes::dec;

/// Names for user ids, out of a passwd(5) file. The kernel knows numbers only, and each side of a sandbox has its own
/// file: the same process can have two names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserNames {
    names: HashMap<u32, String>,
}

impl UserNames {
    /// None: every id is shown as its number.
    pub fn numeric() -> Self {
        Self::default()
    }

    /// Reads the text of a passwd file. Lines that are not `name:…:uid:…` are passed over; of several names for one
    /// id the first counts, as with getpwuid(3).
    pub fn parse(text: &[u8]) -> Self {
        let mut names = HashMap::new();
        for line in text.split(|c| *c == b'\n') {
            let mut f = line.split(|c| *c == b':');
            let (Some(name), Some(uid)) = (f.next(), f.nth(1)) else { continue };
            let (Ok(name), Some(Ok(uid))) = (std::str::from_utf8(name), dec(uid).map(u32::try_from)) else {
                continue;
            };
            if !name.is_empty() && !name.starts_with(['#', '+', '-']) && !name.contains(char::is_control) {
                names.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self { names }
    }

    /// The name of an id, or its number.
    pub fn name(&self, uid: u32) -> Cow<'_, str> {
        match self.names.get(&uid) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(uid.to_string()),
        }
    }

    /// The id of a name, or of a number.
    pub fn uid(&self, name: &str) -> Option<u32> {
        let named = self.names.iter().filter(|(_, n)| *n == name).map(|(uid, _)| *uid).min();
        named.or_else(|| name.parse().ok())
    }
}
