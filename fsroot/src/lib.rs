#![doc = include_str!("../README.md")]

mod dev;
mod emit;
mod enter;
mod error;
mod flags;
mod host;
mod masks;
mod mount;
mod overlay;
mod plan;
mod prepare;
mod root;
mod source;

pub use dev::Dev;
pub use enter::{Enter, PreparedEnter};
pub use error::{Error, ErrorKind, Result};
pub use flags::{MountFlags, Propagation};
pub use host::HostView;
pub use masks::Masks;
pub use mount::{
    Bind, Cgroup2, Devpts, Directory, File, HidePid, Mount, Mqueue, Proc, Symlink, Sysfs, Tmpfs,
};
pub use overlay::{Layers, Overlay};
pub use prepare::PreparedRoot;
pub use root::Root;
