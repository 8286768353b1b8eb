//! `securityContext` of Pods and containers: who runs, and what the kernel lets them.
//!
//! ```
//! use palisade::k8s::{Node, Standard};
//!
//! let manifest = r#"
//! apiVersion: v1
//! kind: Pod
//! metadata: {name: web}
//! spec:
//!   securityContext: {runAsUser: 1000}
//!   containers:
//!   - name: main
//!     image: app
//!     securityContext: {runAsUser: 4000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
//! "#;
//! let pod = palisade::k8s::documents(manifest)?[0].pod_security()?;
//! assert_eq!(pod.effective("main").and_then(|context| context.run_as_user), Some(4000));
//! let missing = pod.check(Standard::Restricted);
//! assert!(missing.iter().any(|violation| violation.to_string().starts_with("runAsNonRoot != true")));
//! // Node::new().container(&pod, "main", "/srv/images/app")? is the container.
//! # Ok::<(), palisade::Error>(())
//! ```

mod faults;
mod model;
mod node;
mod pod;
mod standards;
mod validate;

pub(super) use faults::Faults;
pub use model::{
    AppArmorProfile, Capabilities, ContainerSecurityContext, PodSecurityContext, SeLinuxOptions,
    SeccompProfile, Sysctl,
};
pub use node::Node;
pub use pod::{Container, ContainerKind, PodSecurity, SecurityContext};
pub use standards::{Standard, Violation};
