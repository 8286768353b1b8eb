//! What `docker run` means: its options, as texts, and the sandbox that comes of them.
//!
//! ```no_run
//! use palisade::presets::docker::Docker;
//!
//! let sandbox = Docker::new("/srv/images/busybox").user("nobody").cap_drop("NET_RAW").read_only(true).build()?;
//! let out = sandbox.command("id").output()?;
//! # Ok::<(), palisade::Error>(())
//! ```

mod build;
mod containers;
mod options;
mod run;

pub use options::{DeviceOption, Mode, SecurityOption, TmpfsOption, VolumeOption};
pub use run::Docker;
