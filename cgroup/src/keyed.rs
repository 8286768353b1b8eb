//! The few shapes that the kernel gives its files: one number, `key value` lines, `key k=v k=v` lines.

use crate::error::{Error, Result};
use crate::value::number;

/// `key value` lines, in the file's order. Later kernels add keys: none is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flat(Vec<(String, u64)>);

impl Flat {
    /// # Errors
    /// `Parse` for a line that is not a word, a blank and a number.
    pub(crate) fn parse(what: &'static str, text: &[u8]) -> Result<Flat> {
        let text = utf8(what, text)?;
        let pairs = text.lines().map(|line| {
            let pair = line.split_once(' ').and_then(|(k, v)| Some((k.to_owned(), number(v.as_bytes())?)));
            pair.filter(|(k, _)| !k.is_empty()).ok_or_else(|| Error::parse(what, line.as_bytes()))
        });
        pairs.collect::<Result<_>>().map(Flat)
    }

    pub(crate) fn get(&self, key: &str) -> Option<u64> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }

    /// A counter that is missing has not counted: its kernel does not know the event.
    pub(crate) fn count(&self, key: &str) -> u64 {
        self.get(key).unwrap_or(0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(k, v)| (k.as_str(), *v))
    }
}

/// `key name=value name=value` lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nested<'a> {
    pub(crate) key: &'a str,
    pub(crate) fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Nested<'a> {
    /// One line. Words without `=` after the key are an error.
    pub(crate) fn parse_line(what: &'static str, line: &'a str) -> Result<Nested<'a>> {
        let bad = || Error::parse(what, line.as_bytes());
        let mut words = line.split(' ').filter(|w| !w.is_empty());
        let key = words.next().ok_or_else(bad)?;
        let fields = words.map(|w| w.split_once('=').ok_or_else(bad)).collect::<Result<_>>()?;
        Ok(Nested { key, fields })
    }

    pub(crate) fn parse_all(what: &'static str, text: &'a str) -> Result<Vec<Nested<'a>>> {
        text.lines().filter(|l| !l.trim().is_empty()).map(|l| Nested::parse_line(what, l)).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

pub(crate) fn utf8<'a>(what: &'static str, text: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(text).map_err(|_| Error::parse(what, text))
}

/// A file of one number.
pub(crate) fn single(what: &'static str, text: &[u8]) -> Result<u64> {
    number(text.trim_ascii()).ok_or_else(|| Error::parse(what, text))
}
