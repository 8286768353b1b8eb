//! Kubernetes manifests, from YAML or JSON.
//!
//! [`documents`] splits a manifest; each [`Document`] is then read as what it says it is. Reading is strict: a field that
//! the kind does not have, a key that occurs twice, or a value of the wrong type is an error that names the field, since
//! a rule that is silently left out protects nobody.
//!
//! ```
//! use palisade::net::policy::{Cluster, Traffic};
//!
//! let manifest = "
//! {apiVersion: v1, kind: Namespace, metadata: {name: default}}
//! ---
//! {apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}}
//! ---
//! apiVersion: networking.k8s.io/v1
//! kind: NetworkPolicy
//! metadata: {name: nobody}
//! spec:
//!   podSelector: {matchLabels: {app: db}}
//!   policyTypes: [Ingress]
//! ";
//! let [namespace, pod, policy] = &palisade::k8s::documents(manifest)?[..] else { panic!() };
//! let cluster = Cluster::new()
//!     .group(namespace.namespace_group()?)
//!     .pod(pod.network_pod()?.address(std::net::Ipv4Addr::new(10, 0, 0, 2)))
//!     .policy(policy.network_policy()?);
//! let traffic = Traffic {
//!     source: [10, 0, 0, 3].into(),
//!     destination: [10, 0, 0, 2].into(),
//!     protocol: palisade::net::nft::Protocol::TCP,
//!     port: 80,
//! };
//! assert!(!cluster.evaluate(&traffic).allowed());
//! # Ok::<(), palisade::Error>(())
//! ```

mod document;
mod network_policy;
mod pod;
mod security_context;
mod selector;
mod volumes;

pub use document::{Document, documents};
pub use security_context::{
    AppArmorProfile, Capabilities, Container, ContainerKind, ContainerSecurityContext, Node, PodSecurity,
    PodSecurityContext, SeLinuxOptions, SeccompProfile, SecurityContext, Standard, Sysctl, Violation,
};
pub(crate) use volumes::Mounted;
pub use volumes::{PodVolumes, Volume, VolumeMount, VolumeSource, Volumes};
