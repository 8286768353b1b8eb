//! Container images as directories: tar archives, OCI image layouts, `docker save` archives.

mod layout;
mod limit;
mod store;
mod sys;
mod tree;
mod unpack;

pub use layout::Image;
pub use unpack::{Ownership, Unpack, Unpacked};
