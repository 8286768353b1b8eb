#![doc = include_str!("../README.md")]

mod cover;
mod dev;
mod emit;
mod enter;
mod entry;
mod error;
mod expect;
mod flags;
mod host;
#[cfg(feature = "image")]
mod image;
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
pub use expect::Placed;
pub use flags::{MountFlags, Propagation};
pub use host::HostView;
#[cfg(feature = "image")]
pub use image::{Image, Ownership, Unpack, Unpacked};
pub use masks::Masks;
pub use mount::{
    Bind, Cgroup2, Devpts, Directory, File, HidePid, Mount, Mqueue, Proc, Symlink, Sysfs, Tmpfs,
};
pub use overlay::{Layers, Overlay};
pub use prepare::PreparedRoot;
pub use root::Root;
