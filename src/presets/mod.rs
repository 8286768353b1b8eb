//! What others call a container, in terms of the builder.

pub mod docker;

/// `securityContext` of Kubernetes: [`Node::container`](kubernetes::Node::container) makes a container of a Pod.
#[cfg(feature = "k8s")]
pub use crate::k8s as kubernetes;
