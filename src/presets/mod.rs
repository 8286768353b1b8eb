//! What others call a container, in terms of the builder.

pub mod docker;
