#![doc = include_str!("../README.md")]

mod action;
mod arch;
mod bpf;
mod compile;
mod condition;
mod error;
mod filter;
mod install;
pub mod landlock;
mod listener;
pub mod lsm;
mod policy;
pub mod presets;
mod profile;
mod record;
mod sys;
mod syscall;
mod table;

pub use action::Action;
pub use arch::Arch;
pub use bpf::{Insn, MAX_INSNS, SeccompData};
pub use condition::{Arg, Condition, arg};
pub use error::{Error, ErrorKind};
pub use filter::{Filter, Verdict};
pub use install::Install;
pub use listener::{Listener, Notification, Response};
pub use policy::{CallRef, Policy, Rule};
pub use profile::{Host, KernelVersion, Profile};
pub use record::{Recording, record};
pub use syscall::Syscall;
