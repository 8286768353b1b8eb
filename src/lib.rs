#![doc = include_str!("../README.md")]

mod caller;
mod child;
mod collector;
mod command;
mod confine;
mod control;
pub mod detached;
pub mod enforced;
mod enter;
mod environment;
mod error;
mod function;
mod guard;
#[cfg(feature = "k8s")]
pub mod k8s;
mod launch;
mod lock;
mod namespaces;
#[cfg_attr(not(feature = "net"), path = "network_off.rs")]
mod network;
mod newborn;
mod order;
mod output;
mod paused;
mod plan;
#[cfg(feature = "serde")]
mod plan_value;
mod pod;
pub mod preflight;
mod prepare;
pub mod presets;
mod prologue;
mod pty;
mod reaper;
mod rlimit;
mod sandbox;
mod scheduling;
mod spawner;
mod stage;
mod standing;

mod status;
mod stdio;
mod stop;
mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;
mod tracing;
mod view;

pub use child::{Child, Output};
pub use command::Command;
pub use detached::Detached;
#[doc(hidden)]
pub use detached::fuzz as fuzz_detached;
pub use enforced::Enforced;
pub use error::{Error, ErrorKind, Result};
pub use function::{Function, dispatch};
pub use namespaces::Ipc;
#[cfg(feature = "net")]
pub use network::{Network, UserModeProgram};
pub use order::Session;
pub use palisade_cgroup as cgroup;
pub use palisade_creds as creds;
pub use palisade_fsroot as fsroot;
#[cfg(feature = "net")]
pub use palisade_net as net;
pub use palisade_ns as ns;
pub use palisade_procinfo as procinfo;
pub use palisade_secfilter as secfilter;
pub use palisade_sys::Step;
pub use paused::Paused;
pub use plan::Plan;
pub use pod::Pod;
pub use preflight::{Preflight, preflight};
pub use pty::{Pty, PtySize};
pub use rlimit::Resource;
pub use sandbox::{Lifetime, Sandbox, SandboxBuilder};
pub use scheduling::{Personality, Scheduler};
pub use status::{ExitCause, ExitStatus, ResourceUsage};
pub use stdio::Stdio;
