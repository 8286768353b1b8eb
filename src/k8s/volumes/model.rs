//! `volumes` and `volumeMounts`, as the API has them.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::quantity;
use crate::k8s::security_context::Faults;

/// A volume of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Volume {
    /// Its name, by which containers mount it.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VolumeSource {
    /// A directory that is empty when the Pod begins, and ends with it.
    #[non_exhaustive]
    EmptyDir {
        /// Where it is: the node's disk (empty), or `Memory`.
        medium: String,
        /// Bytes that it may hold.
        size_limit: Option<u64>,
    },
    /// A path of the node.
    #[non_exhaustive]
    HostPath {
        /// The path.
        path: PathBuf,
        /// What has to be there; empty: anything.
        r#type: String,
    },
    /// Storage that somebody else provides.
    #[non_exhaustive]
    PersistentVolumeClaim {
        /// The claim's name.
        claim_name: String,
        /// No container may write to it.
        read_only: bool,
    },
    /// Another kind of the API.
    #[non_exhaustive]
    Other {
        /// Its name there: `configMap`, `nfs`.
        kind: &'static str,
        /// No container may write to it: it says so (`readOnly`), or its kind is of that sort (`configMap`, `secret`,
        /// `downwardAPI`, `projected`, `image`).
        read_only: bool,
    },
}

impl VolumeSource {
    /// The kind's name in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::EmptyDir { .. } => "emptyDir",
            Self::HostPath { .. } => "hostPath",
            Self::PersistentVolumeClaim { .. } => "persistentVolumeClaim",
            Self::Other { kind, .. } => kind,
        }
    }
}

/// Where a container has a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// Where the container sees it.
    pub mount_path: PathBuf,
    /// What of the volume it sees; empty: all of it.
    pub sub_path: PathBuf,
    /// `subPathExpr`: the same, with variables of the container's environment in it.
    pub sub_path_expr: String,
    /// It can't be written to there, nor what is mounted below it, whatever `recursiveReadOnly` says.
    pub read_only: bool,
    /// `None` unless given, `HostToContainer` or `Bidirectional`.
    pub mount_propagation: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::k8s) struct RawMount {
    name: String,
    read_only: bool,
    recursive_read_only: Option<String>,
    mount_path: String,
    sub_path: String,
    sub_path_expr: String,
    mount_propagation: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEmptyDir {
    #[serde(default)]
    medium: String,
    size_limit: Option<RawQuantity>,
}

/// As a text or a number.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct RawQuantity(i64);

impl TryFrom<Value> for RawQuantity {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let wrong = || format!("{text:?} is no quantity of at most 18 digits, like 64Mi or 1.5G");
        quantity::bytes(&text).map(Self).ok_or_else(wrong)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHostPath {
    #[serde(default)]
    path: String,
    #[serde(default)]
    r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawClaim {
    #[serde(default)]
    claim_name: String,
    #[serde(default)]
    read_only: bool,
}

/// Of the kinds that are storage of somebody else's, what matters here.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct RawOther {
    read_only: bool,
}

impl TryFrom<Value> for RawOther {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value.get("readOnly") {
            None | Some(Value::Null) => Ok(Self { read_only: false }),
            Some(Value::Bool(read_only)) => Ok(Self { read_only: *read_only }),
            Some(other) => Err(format!("readOnly: {other}: it is true or false")),
        }
    }
}

/// Kinds that no container writes to, as a kubelet mounts them.
const NEVER_WRITTEN: &[&str] = &["configMap", "downwardAPI", "image", "projected", "secret"];

macro_rules! raw_volume {
    ($($field:ident $name:literal,)+) => {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub(in crate::k8s) struct RawVolume {
            name: String,
            empty_dir: Option<RawEmptyDir>,
            host_path: Option<RawHostPath>,
            persistent_volume_claim: Option<RawClaim>,
            $(#[serde(rename = $name)] $field: Option<RawOther>,)+
        }

        impl RawVolume {
            /// All kinds that were given, in the order in which the server looks at them.
            fn kinds(&self) -> Vec<&'static str> {
                let ours = [
                    ("emptyDir", self.empty_dir.is_some()),
                    ("hostPath", self.host_path.is_some()),
                    ("persistentVolumeClaim", self.persistent_volume_claim.is_some()),
                ];
                let given = |(kind, given): (&'static str, bool)| given.then_some(kind);
                let others = [$(($name, self.$field.is_some()),)+];
                ours.into_iter().chain(others).filter_map(given).collect()
            }

            /// Whether storage of this kind says that it is not written to.
            fn is_read_only(&self, kind: &str) -> bool {
                NEVER_WRITTEN.contains(&kind)
                    $(|| kind == $name && self.$field.as_ref().is_some_and(|of| of.read_only))+
            }
        }
    };
}

raw_volume! {
    aws_elastic_block_store "awsElasticBlockStore",
    azure_disk "azureDisk",
    azure_file "azureFile",
    cephfs "cephfs",
    cinder "cinder",
    config_map "configMap",
    csi "csi",
    downward_api "downwardAPI",
    ephemeral "ephemeral",
    fc "fc",
    flex_volume "flexVolume",
    flocker "flocker",
    gce_persistent_disk "gcePersistentDisk",
    git_repo "gitRepo",
    glusterfs "glusterfs",
    image "image",
    iscsi "iscsi",
    nfs "nfs",
    photon_persistent_disk "photonPersistentDisk",
    portworx_volume "portworxVolume",
    projected "projected",
    quobyte "quobyte",
    rbd "rbd",
    scale_io "scaleIO",
    secret "secret",
    storageos "storageos",
    vsphere_volume "vsphereVolume",
}

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The volumes, and what the API server says against them. Also those that it says nothing against, by their names: it
/// finds no others for a mount.
pub(in crate::k8s) fn read(raw: Vec<RawVolume>, faults: &mut Faults) -> (Vec<Volume>, Vec<String>) {
    let mut volumes: Vec<Volume> = Vec::new();
    let mut known: Vec<String> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let before = faults.count();
        let field = format!("spec.volumes[{index}]");
        let kinds = raw.kinds();
        if let Some(claim) = &raw.persistent_volume_claim {
            if claim.claim_name.is_empty() {
                faults.required(&format!("{field}.persistentVolumeClaim.claimName"), "");
            }
        }
        if let Some(of) = &raw.host_path {
            let path = format!("{field}.hostPath.path");
            if of.path.is_empty() {
                faults.required(&path, "");
            } else {
                faults.no_backsteps(&path, &of.path);
                faults.one_of(&format!("{field}.hostPath.type"), Some(&of.r#type), HOST_PATH_TYPES);
            }
        }
        if raw.empty_dir.as_ref().and_then(|of| of.size_limit.as_ref()).is_some_and(|limit| limit.0 < 0) {
            let what = "SizeLimit field must be a valid resource quantity";
            faults.forbidden(&format!("{field}.emptyDir.sizeLimit"), what);
        }
        for kind in kinds.iter().skip(1) {
            faults.forbidden(&format!("{field}.{kind}"), "may not specify more than 1 volume type");
        }
        faults.label(&format!("{field}.name"), &raw.name);
        if known.contains(&raw.name) {
            faults.duplicate(&format!("{field}.name"), &raw.name);
        }
        let read_only = kinds.first().is_some_and(|kind| raw.is_read_only(kind));
        let source = match (raw.empty_dir, raw.host_path, raw.persistent_volume_claim, kinds.first()) {
            (None, Some(of), ..) => VolumeSource::HostPath { path: of.path.into(), r#type: of.r#type },
            (None, None, Some(of), _) => {
                VolumeSource::PersistentVolumeClaim { claim_name: of.claim_name, read_only: of.read_only }
            }
            (None, None, None, Some(kind)) => VolumeSource::Other { kind, read_only },
            // A volume without a kind is an emptyDir.
            (of, ..) => VolumeSource::EmptyDir {
                medium: of.as_ref().map(|of| of.medium.clone()).unwrap_or_default(),
                size_limit: of.and_then(|of| of.size_limit).and_then(|limit| u64::try_from(limit.0).ok()),
            },
        };
        if faults.count() == before {
            known.push(raw.name.clone());
        }
        volumes.push(Volume { name: raw.name, source });
    }
    (volumes, known)
}

/// The mounts of a container, and what the API server says against them. It leaves the index out of some fields.
pub(in crate::k8s) fn read_mounts(
    raw: Vec<RawMount>,
    volumes: &[String],
    field: &str,
    privileged: bool,
    faults: &mut Faults,
) -> Vec<VolumeMount> {
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let (all, field) = (field, format!("{field}[{index}]"));
        if raw.name.is_empty() {
            faults.required(&format!("{field}.name"), "");
        }
        if !volumes.contains(&raw.name) {
            faults.not_found(&format!("{field}.name"), &raw.name);
        }
        if raw.mount_path.is_empty() {
            faults.required(&format!("{field}.mountPath"), "");
        }
        let mount_path = PathBuf::from(&raw.mount_path);
        if mounts.iter().any(|known| known.mount_path.as_os_str() == mount_path.as_os_str()) {
            faults.invalid(
                &format!("{field}.mountPath"),
                format_args!("{:?}", raw.mount_path),
                "must be unique",
            );
        }
        if !raw.sub_path.is_empty() {
            faults.descending(&format!("{all}.subPath"), &raw.sub_path);
        }
        if !raw.sub_path_expr.is_empty() {
            if !raw.sub_path.is_empty() {
                let what = "subPathExpr and subPath are mutually exclusive";
                faults.invalid(
                    &format!("{field}.subPathExpr"),
                    format_args!("{:?}", raw.sub_path_expr),
                    what,
                );
            }
            faults.descending(&format!("{all}.subPathExpr"), &raw.sub_path_expr);
        }
        let propagation = raw.mount_propagation.as_deref();
        let at = format!("{all}.mountPropagation");
        faults.one_of(&at, propagation, &["Bidirectional", "HostToContainer", "None"]);
        if propagation == Some("Bidirectional") && !privileged {
            faults
                .forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
        }
        let at = format!("{all}.recursiveReadOnly");
        let recursive = raw.recursive_read_only.as_deref();
        faults.one_of(&at, recursive, &["Disabled", "Enabled", "IfPossible"]);
        if matches!(recursive, Some("Enabled" | "IfPossible")) {
            if !raw.read_only {
                faults.forbidden(&at, "may only be specified when readOnly is true");
            }
            if propagation.is_some_and(|propagation| propagation != "None") {
                let what = "may only be specified when mountPropagation is None or not specified";
                faults.forbidden(&at, what);
            }
        }
        mounts.push(VolumeMount {
            name: raw.name,
            mount_path,
            sub_path: raw.sub_path.into(),
            sub_path_expr: raw.sub_path_expr,
            read_only: raw.read_only,
            mount_propagation: raw.mount_propagation,
        });
    }
    mounts
}
