//! The tests of the crate, against the real kernel unless they are about parsers.

mod common;
mod oracle;
mod parsers;
mod process;
mod properties;
mod sys;
mod views;
