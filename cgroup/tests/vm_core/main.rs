//! What the core does on pure cgroup v2: the tests of `core` again, as root and as an ordinary user with a delegated
//! directory.

#[path = "../common/mod.rs"]
mod common;

#[path = "../core/delegation.rs"]
mod delegation;
#[path = "../core/devices.rs"]
mod devices;
#[path = "../core/life.rs"]
mod life;
#[path = "../core/pressure.rs"]
mod pressure;
