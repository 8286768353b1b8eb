//! What the network needs to know of Pods and Namespaces.

use std::collections::BTreeMap;

use palisade_net::nft::Protocol;
use palisade_net::policy::{Group, Pod};
use serde::Deserialize;

use super::document::Document;
use super::network_policy::protocol;
use super::selector::{check_label, is_dns_subdomain};
use crate::error::Result;

/// What every object has and we look at; there is more.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Metadata {
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct NamespaceManifest {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct PodManifest {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<PodSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

/// The label that every Namespace has from its cluster.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Document {
    fn check_name(&self) -> Result<()> {
        if is_dns_subdomain(self.name()) {
            Ok(())
        } else {
            Err(self.wrong(
                "metadata.name",
                format_args!("{:?}: lower-case letters, digits, '-' and '.'", self.name()),
            ))
        }
    }

    fn labels(&self, metadata: Metadata) -> Result<BTreeMap<String, String>> {
        let labels = metadata.labels.unwrap_or_default();
        for (key, value) in &labels {
            check_label(key, value).map_err(|wrong| self.wrong("metadata.labels", wrong))?;
        }
        Ok(labels)
    }

    /// A `v1` Namespace as the group of its pods, with its labels and the one that a cluster adds, its name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) if it is no Namespace, or has a bad name or label.
    pub fn namespace_group(&self) -> Result<Group> {
        let manifest: NamespaceManifest = self.read("v1", "Namespace")?;
        self.check_name()?;
        let mut group = Group::new(self.name());
        group.labels = self.labels(manifest.metadata)?;
        Ok(group.label(NAME_LABEL, self.name()))
    }

    /// A `v1` Pod as what policies see of it: namespace, name, labels, named ports (of containers, and of init containers
    /// that go on beside them). Its addresses are for the caller to add, when they are known.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) if it is no Pod, or has a bad name, label or port.
    pub fn network_pod(&self) -> Result<Pod> {
        let manifest: PodManifest = self.read("v1", "Pod")?;
        self.check_name()?;
        let mut pod = Pod::new(self.namespace(), self.name());
        pod.labels = self.labels(manifest.metadata)?;
        let spec = manifest.spec.unwrap_or_default();
        let beside = |container: &Container| container.restart_policy.as_deref() == Some("Always");
        let sidecars = spec.init_containers.unwrap_or_default().into_iter().filter(beside);
        for port in spec
            .containers
            .unwrap_or_default()
            .into_iter()
            .chain(sidecars)
            .flat_map(|c| c.ports.unwrap_or_default())
        {
            let field = "spec.containers[].ports[]";
            if port.container_port == 0 {
                return Err(self.wrong(field, "containerPort: 0 is no port"));
            }
            let of: Protocol =
                protocol(port.protocol.as_deref()).map_err(|wrong| self.wrong(field, wrong))?;
            if let Some(name) = port.name {
                pod = pod.port(name, of, port.container_port);
            }
        }
        Ok(pod)
    }
}
