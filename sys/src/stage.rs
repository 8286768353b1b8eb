//! The stage: the program that runs an image in a process of its own.

/// The ELF file of the stage: static, without libc, for the target of this build. It expects the control socket at
/// [`FD_CONTROL`] and the image at [`FD_IMAGE`] (mapped shared, so that the outcome can be read from it).
pub const STAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stage"));

pub use crate::wire::{FD_CONTROL, FD_IMAGE, FD_PASSED};
