//! What the core of v2 does on every layout, hybrid included.

#[path = "../common/mod.rs"]
mod common;

mod delegation;
mod devices;
mod life;
mod pressure;
