//! Who may talk to whom: a model of network policies, a pure evaluator that explains its verdicts, and a compiler to
//! nftables.
//!
//! The semantics are those of Kubernetes' `networking.k8s.io/v1` NetworkPolicy, without its syntax: a [`Pod`] is isolated
//! in a direction as soon as some [`Policy`] of its [`Group`] (there: namespace) selects it for that direction; then only
//! what some rule allows passes. A connection needs the consent of both ends. Replies need none. There are no deny rules
//! and no order.
//!
//! Where Kubernetes leaves it open: address blocks match the addresses of pods too, blocks see addresses as the filter
//! sees them (after destination translation), protocols other than TCP, UDP and SCTP pass where a rule names no ports, and
//! connections that were allowed go on after a change of policy until
//! [`flush_connections`](crate::Netns::flush_connections).

mod compile;
mod evaluate;
mod model;
mod selector;

pub use compile::{Deny, Options};
pub use evaluate::{Decision, Reason, Traffic};
pub use model::{
    Cluster, Direction, Group, IpBlock, NamedPort, Peer, Pod, Policy, PolicyRule, PortSelector, Ports,
};
pub use selector::{Operator, Requirement, Selector};
