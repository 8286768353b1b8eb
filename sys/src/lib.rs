#![doc = include_str!("../README.md")]

mod calls;
mod fault;
mod flags;
mod image;
mod interp;
mod process;
mod program;
mod role;
#[path = "run/sys.rs"]
mod run;
mod show;
mod stage;
mod step;
mod sys;
mod timed;
mod wire;

pub use calls::{FsConfig, Identity, MountAttr, OpenHow};
pub use fault::{Explained, Fault, Outcome};
pub use image::{HEADER_LEN, Image};
pub use program::{Appended, Arg, Fd, Injected, Landing, Place, Program, Slot};
pub use stage::{FD_CONTROL, FD_IMAGE, FD_PASSED, STAGE};
pub use step::Step;
