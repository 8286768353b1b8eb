#![doc = include_str!("../README.md")]
mod dev; mod error; mod flags; mod host; mod masks; mod mount; mod overlay; mod root; mod prepare;
pub use dev::*; pub use error::{Error,ErrorKind,Result}; pub use flags::*; pub use host::HostView; pub use masks::Masks; pub use mount::*; pub use overlay::*; pub use root::Root; pub use prepare::PreparedRoot;
