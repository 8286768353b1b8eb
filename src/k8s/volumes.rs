//! Volumes of Pods: what a manifest says of them, and what a kubelet does with them.
//!
//! ```no_run
//! use palisade::k8s::{Node, Volumes};
//! # let (pod, image) = (palisade::k8s::PodSecurity::default(), "/srv/images/app");
//!
//! // Directories of the names of its emptyDir volumes are made in the first; the second stands for a claim.
//! let volumes = Volumes::new().empty_dirs_in("/run/pods/web").directory("data", "/srv/data").set_up(&pod)?;
//! let main = Node::new().volumes(volumes).container(&pod, "main", image)?.build()?;
//! # Ok::<(), palisade::Error>(())
//! ```

mod directory;
mod model;
mod ownership;
mod place;
mod quantity;
mod set_up;

pub(super) use model::{RawMount, RawVolume, read, read_mounts};
pub use model::{Volume, VolumeMount, VolumeSource};
pub(crate) use place::Mounted;
pub use place::PodVolumes;
pub use set_up::Volumes;
