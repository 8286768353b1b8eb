//! What a cluster says against a Pod: the API server's validation and the admission of Pod Security Standards, word for
//! word as in their sources (pkg/apis/core/validation, k8s.io/pod-security-admission/policy).
#![expect(clippy::unwrap_used, reason = "tests")]

use palisade::ErrorKind;
use palisade::k8s::{Document, PodSecurity, Standard, documents};
use proptest::prelude::*;

fn document(spec: &str) -> Document {
    let text = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec}}}}}");
    documents(text).unwrap().remove(0)
}

/// These fields of a Pod's spec, and of its only container.
fn with(spec: &str, container: &str) -> String {
    let comma = if spec.is_empty() { "" } else { ", " };
    format!("{spec}{comma}containers: [{{name: c, image: i, {container}}}]")
}

fn pod(spec: &str) -> PodSecurity {
    document(spec).pod_security().unwrap_or_else(|error| panic!("{spec}: {error}"))
}

/// All faults of a Pod.
fn faults(spec: &str) -> Vec<String> {
    let Err(error) = document(spec).pod_security() else { return Vec::new() };
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    let text = error.to_string();
    let text = text.strip_prefix("invalid specification: document 1 (Pod \"p\"): ").unwrap();
    match text.split_once(" faults:\n  - ") {
        Some((count, many)) => {
            let many: Vec<_> = many.split("\n  - ").map(str::to_owned).collect();
            assert_eq!(count, many.len().to_string());
            many
        }
        None => vec![text.to_owned()],
    }
}

const RANGE: &str = "must be between 0 and 2147483647, inclusive";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
    with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SYSCTL: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Each fault by itself: spec, container, what is said (the field's beginning is the Pod's or the container's context).
#[test]
fn security_contexts_are_refused_in_the_servers_words() {
    let pod = |fields: &str| (format!("securityContext: {{{fields}}}"), String::new());
    let container = |fields: &str| (String::new(), format!("securityContext: {{{fields}}}"));
    let both = |spec: &str, fields: &str| (spec.to_owned(), format!("securityContext: {{{fields}}}"));
    let spec = |spec: &str| (spec.to_owned(), String::new());
    let at_pod = |rest: &str| format!("spec.securityContext.{rest}");
    let at = |rest: &str| format!("spec.containers[0].securityContext{rest}");
    let long = "a".repeat(4096);
    let profiles = "supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"";
    let cases = [
        (pod("runAsUser: -1"), at_pod(&format!("runAsUser: Invalid value: -1: {RANGE}"))),
        (pod("runAsGroup: 2147483648"), at_pod(&format!("runAsGroup: Invalid value: 2147483648: {RANGE}"))),
        (pod("fsGroup: -3"), at_pod(&format!("fsGroup: Invalid value: -3: {RANGE}"))),
        (
            pod("supplementalGroups: [1, -5]"),
            at_pod(&format!("supplementalGroups[1]: Invalid value: -5: {RANGE}")),
        ),
        (container("runAsUser: -1"), at(&format!(".runAsUser: Invalid value: -1: {RANGE}"))),
        (container("runAsGroup: -1"), at(&format!(".runAsGroup: Invalid value: -1: {RANGE}"))),
        (
            pod("fsGroupChangePolicy: Never"),
            at_pod(
                "fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
            ),
        ),
        (
            pod("supplementalGroupsPolicy: Some"),
            at_pod(
                "supplementalGroupsPolicy: Unsupported value: \"Some\": supported values: \"Merge\", \"Strict\"",
            ),
        ),
        (
            pod("seLinuxChangePolicy: Some"),
            at_pod(
                "seLinuxChangePolicy: Unsupported value: \"Some\": supported values: \"MountOption\", \"Recursive\"",
            ),
        ),
        // The profile's type, and the file that goes with one type.
        (
            pod("seccompProfile: {}"),
            at_pod("seccompProfile.type: Required value: type is required when seccompProfile is set"),
        ),
        (
            container("seccompProfile: {type: Odd}"),
            at(&format!(".seccompProfile.type: Unsupported value: \"Odd\": {profiles}")),
        ),
        (
            container("seccompProfile: {type: Localhost}"),
            at(
                ".seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
        ),
        (
            container("seccompProfile: {type: Localhost, localhostProfile: /a}"),
            at(".seccompProfile.localhostProfile: Invalid value: \"/a\": must be a relative path"),
        ),
        (
            container("seccompProfile: {type: Localhost, localhostProfile: a/../../b}"),
            at(".seccompProfile.localhostProfile: Invalid value: \"a/../../b\": must not contain '..'"),
        ),
        (
            container("seccompProfile: {type: RuntimeDefault, localhostProfile: a}"),
            at(
                ".seccompProfile.localhostProfile: Invalid value: {\"type\":\"RuntimeDefault\",\"localhostProfile\":\"a\"}: \
                can only be set when seccomp type is Localhost",
            ),
        ),
        (
            pod("appArmorProfile: {localhostProfile: a}"),
            at_pod("appArmorProfile.type: Required value: type is required when appArmorProfile is set"),
        ),
        (
            container("appArmorProfile: {type: Odd}"),
            at(&format!(".appArmorProfile.type: Unsupported value: \"Odd\": {profiles}")),
        ),
        (
            container("appArmorProfile: {type: Localhost, localhostProfile: ''}"),
            at(
                ".appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
            ),
        ),
        (
            container("appArmorProfile: {type: Localhost, localhostProfile: ' x'}"),
            at(
                ".appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded with whitespace",
            ),
        ),
        (
            container(&format!("appArmorProfile: {{type: Localhost, localhostProfile: {long}}}")),
            at(".appArmorProfile.localhostProfile: Too long: may not be more than 4095 bytes"),
        ),
        (
            container("appArmorProfile: {type: Unconfined, localhostProfile: a}"),
            at(
                ".appArmorProfile.localhostProfile: Invalid value: \"a\": can only be set when AppArmor type is Localhost",
            ),
        ),
        // The field is the context, the value all of it.
        (
            container("privileged: true, allowPrivilegeEscalation: false"),
            at(": Invalid value: {\"privileged\":true,\"allowPrivilegeEscalation\":false}: cannot set \
                `allowPrivilegeEscalation` to false and `privileged` to true"),
        ),
        (
            container("allowPrivilegeEscalation: false, capabilities: {add: [CAP_SYS_ADMIN]}"),
            at(
                ": Invalid value: {\"capabilities\":{\"add\":[\"CAP_SYS_ADMIN\"]},\"allowPrivilegeEscalation\":false}: cannot \
                set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ),
        ),
        (
            container("procMount: Odd"),
            at(".procMount: Unsupported value: \"Odd\": supported values: \"Default\", \"Unmasked\""),
        ),
        (
            container("procMount: Unmasked"),
            at(".procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"),
        ),
        // Parameters: names, in either spelling, compared as they are written; and whose they are.
        (pod("sysctls: [{name: '', value: a}]"), at_pod("sysctls[0].name: Required value")),
        (
            pod("sysctls: [{name: a.B, value: a}]"),
            at_pod(&format!("sysctls[0].name: Invalid value: \"a.B\": {SYSCTL}")),
        ),
        (
            pod("sysctls: [{name: a..b, value: a}]"),
            at_pod(&format!("sysctls[0].name: Invalid value: \"a..b\": {SYSCTL}")),
        ),
        (
            pod("sysctls: [{name: a.b, value: a}, {name: a.b, value: a}]"),
            at_pod("sysctls[1].name: Duplicate value: \"a.b\""),
        ),
        (
            spec("hostNetwork: true, securityContext: {sysctls: [{name: net/core/somaxconn, value: a}]}"),
            at_pod(
                "sysctls[0].name: Invalid value: \"net/core/somaxconn\": may not be specified when 'hostNetwork' is true",
            ),
        ),
        (
            spec("hostIPC: true, securityContext: {sysctls: [{name: kernel.shmmax, value: a}]}"),
            at_pod(
                "sysctls[0].name: Invalid value: \"kernel.shmmax\": may not be specified when 'hostIPC' is true",
            ),
        ),
        (
            spec("hostPID: true, shareProcessNamespace: true"),
            at_pod(
                "shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
            ),
        ),
        (
            spec("hostUsers: false, hostIPC: true"),
            "spec.hostIPC: Forbidden: when `hostUsers` is false".into(),
        ),
        (
            both("os: {name: linux}", "windowsOptions: {runAsUserName: x}"),
            at(".windowsOptions: Forbidden: windows options cannot be set for a linux pod"),
        ),
        (
            spec("os: {name: linux}, securityContext: {windowsOptions: {}}"),
            at_pod("windowsOptions: Forbidden: windows options cannot be set for a linux pod"),
        ),
        (spec("os: {}"), "spec.os.name: Required value: cannot be empty".into()),
        (
            spec("os: {name: plan9}"),
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"".into(),
        ),
        // Fields that the API does not have: capabilities of a Pod.
        (
            pod("capabilities: {add: [NET_ADMIN]}"),
            at_pod(
                "capabilities: unknown field `capabilities`, expected one of `runAsUser`, `runAsGroup`, `runAsNonRoot`, \
                `supplementalGroups`, `supplementalGroupsPolicy`, `fsGroup`, `fsGroupChangePolicy`, `sysctls`, \
                `seLinuxOptions`, `seLinuxChangePolicy`, `seccompProfile`, `appArmorProfile`, `windowsOptions`",
            ),
        ),
    ];
    for ((spec, container), says) in cases {
        assert_eq!(faults(&with(&spec, &container)), [says], "{spec} {container}");
    }
    for (spec, container) in [
        ("", "securityContext: {procMount: Default, runAsUser: 0, runAsGroup: 2147483647}"),
        ("hostUsers: false", "securityContext: {procMount: Unmasked}"),
        // The server compares just one spelling.
        ("", "securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [SYS_ADMIN]}}"),
        ("", "securityContext: {windowsOptions: {runAsUserName: x}}"),
        ("os: {name: windows}", "securityContext: {windowsOptions: {runAsUserName: x}}"),
        // Of no namespace that the server knows; one name in two spellings.
        (
            "hostNetwork: true, hostIPC: true, securityContext: {sysctls: [{name: vm.swappiness, value: a}]}",
            "",
        ),
        ("securityContext: {sysctls: [{name: a.b, value: a}, {name: a/b, value: a}]}", ""),
        // What the server takes and a kubelet refuses.
        ("", "securityContext: {seccompProfile: {type: Localhost, localhostProfile: ''}}"),
    ] {
        assert_eq!(faults(&with(spec, container)), [""; 0], "{spec} {container}");
    }
}

#[test]
fn containers_and_volumes_are_refused_in_the_servers_words() {
    let volume = |volume: &str| with(&format!("volumes: [{{name: v, {volume}}}]"), "");
    let mount = |mount: &str| with("volumes: [{name: v, emptyDir: {}}]", &format!("volumeMounts: [{mount}]"));
    let long = "a".repeat(64);
    for (spec, says) in [
        ("containers: []".to_owned(), "spec.containers: Required value".to_owned()),
        ("containers: [{image: i}]".to_owned(), "spec.containers[0].name: Required value".to_owned()),
        (
            "containers: [{name: C_1, image: i}]".to_owned(),
            format!("spec.containers[0].name: Invalid value: \"C_1\": {LABEL}"),
        ),
        (
            format!("containers: [{{name: {long}, image: i}}]"),
            format!("spec.containers[0].name: Invalid value: \"{long}\": must be no more than 63 bytes"),
        ),
        (
            with("initContainers: [{name: c, image: i}]", ""),
            "spec.initContainers[0].name: Duplicate value: \"c\"".into(),
        ),
        (
            with("volumes: [{name: v}, {name: v}]", ""),
            "spec.volumes[1].name: Duplicate value: \"v\"".into(),
        ),
        (with("volumes: [{}]", ""), "spec.volumes[0].name: Required value".into()),
        (with("volumes: [{name: v.w}]", ""), format!("spec.volumes[0].name: Invalid value: \"v.w\": {LABEL}")),
        (
            volume("emptyDir: {}, nfs: {}"),
            "spec.volumes[0].nfs: Forbidden: may not specify more than 1 volume type".into(),
        ),
        (
            volume("emptyDir: {sizeLimit: -1Mi}"),
            "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity".into(),
        ),
        (volume("hostPath: {path: ''}"), "spec.volumes[0].hostPath.path: Required value".into()),
        (
            volume("hostPath: {path: /a/../b}"),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'".into(),
        ),
        (
            volume("hostPath: {path: /a, type: Odd}"),
            "spec.volumes[0].hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \
             \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\""
                .into(),
        ),
        (
            volume("persistentVolumeClaim: {}"),
            "spec.volumes[0].persistentVolumeClaim.claimName: Required value".into(),
        ),
        (mount("{name: w, mountPath: /a}"), "spec.containers[0].volumeMounts[0].name: Not found: \"w\"".into()),
        (mount("{name: v}"), "spec.containers[0].volumeMounts[0].mountPath: Required value".into()),
        (
            mount("{name: v, mountPath: /a}, {name: v, mountPath: /a}"),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique".into(),
        ),
        // From here on the server leaves the index out.
        (
            mount("{name: v, mountPath: /a, subPath: /b}"),
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"/b\": must be a relative path".into(),
        ),
        (
            mount("{name: v, mountPath: /a, subPath: b/../c}"),
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"b/../c\": must not contain '..'".into(),
        ),
        (
            mount("{name: v, mountPath: /a, subPath: b, subPathExpr: c}"),
            "spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: \"c\": subPathExpr and subPath are mutually exclusive"
                .into(),
        ),
        (
            mount("{name: v, mountPath: /a, mountPropagation: Some}"),
            "spec.containers[0].volumeMounts.mountPropagation: Unsupported value: \"Some\": supported values: \
             \"Bidirectional\", \"HostToContainer\", \"None\""
                .into(),
        ),
        (
            mount("{name: v, mountPath: /a, mountPropagation: Bidirectional}"),
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to \
             privileged containers"
                .into(),
        ),
        (
            mount("{name: v, mountPath: /a, recursiveReadOnly: Enabled}"),
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true".into(),
        ),
        (
            mount("{name: v, mountPath: /a, readOnly: true, recursiveReadOnly: Enabled, mountPropagation: HostToContainer}"),
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None \
             or not specified"
                .into(),
        ),
        (
            with(
                "volumes: [{name: v}], ephemeralContainers: [{name: e, image: i, volumeMounts: [{name: v, mountPath: /a, \
                 subPath: b}]}]",
                "",
            ),
            "spec.ephemeralContainers[0].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container".into(),
        ),
    ] {
        assert_eq!(faults(&spec), [says], "{spec}");
    }
    // A volume that is refused is not found, either.
    let said =
        faults(&with("volumes: [{name: v, hostPath: {}}]", "volumeMounts: [{name: v, mountPath: /a}]"));
    let wanted = [
        "spec.volumes[0].hostPath.path: Required value",
        "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
    ];
    assert_eq!(said, wanted);
    // No such field, kind or quantity: refused when it is read.
    for (spec, says) in [
        (volume("emptydir: {}"), "spec.volumes[0].emptydir: unknown field `emptydir`"),
        (volume("emptyDir: {size: 1}"), "spec.volumes[0].emptyDir.size: unknown field `size`"),
        (volume("emptyDir: {sizeLimit: 1Q}"), "spec.volumes[0].emptyDir.sizeLimit: \"1Q\" is no quantity"),
        (mount("{name: v, path: /a}"), "spec.containers[0].volumeMounts[0].path: unknown field `path`"),
    ] {
        let said = faults(&spec);
        assert!(said.len() == 1 && said[0].starts_with(says), "{spec}: {said:?}");
    }
    let all =
        faults(&with("securityContext: {runAsUser: -1}", "securityContext: {runAsUser: -1, runAsGroup: -2}"));
    assert_eq!(all.len(), 3, "{all:?}");
}

/// Two containers: the second has the fields.
fn found(spec: &str, container: &str, standard: Standard) -> Vec<String> {
    let comma = if spec.is_empty() { "" } else { ", " };
    let text = format!(
        "{spec}{comma}containers: [{{name: a, image: i, {container}}}, {{name: b, image: i, {container}}}]"
    );
    pod(&text).check(standard).iter().map(ToString::to_string).collect()
}

const GOOD: &str = "allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}";

#[test]
fn the_baseline_standard_is_told_in_the_admissions_words() {
    for (spec, container, says) in [
        ("hostNetwork: true, hostPID: true", "", "host namespaces (hostNetwork=true, hostPID=true)"),
        (
            "",
            "securityContext: {privileged: true}",
            "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
        ),
        (
            "",
            "securityContext: {capabilities: {add: [SYS_TIME, NET_RAW, CHOWN]}}",
            "non-default capabilities (containers \"a\", \"b\" must not include \"NET_RAW\", \"SYS_TIME\" in \
             securityContext.capabilities.add)",
        ),
        // Compared as it is written.
        (
            "",
            "securityContext: {capabilities: {add: [CAP_CHOWN]}}",
            "non-default capabilities (containers \"a\", \"b\" must not include \"CAP_CHOWN\" in \
             securityContext.capabilities.add)",
        ),
        ("volumes: [{name: v, hostPath: {path: /}}]", "", "hostPath volumes (volume \"v\")"),
        (
            "volumes: [{name: v, hostPath: {path: /}}, {name: w, hostPath: {path: /}}]",
            "",
            "hostPath volumes (volumes \"v\", \"w\")",
        ),
        (
            "",
            "ports: [{containerPort: 90, hostPort: 90}, {containerPort: 8, hostPort: 80}]",
            "hostPort (containers \"a\", \"b\" use hostPorts 80, 90)",
        ),
        (
            "",
            "livenessProbe: {httpGet: {host: h, port: 1}}, lifecycle: {preStop: {tcpSocket: {host: g, port: 1}}}",
            "probe or lifecycle host (containers \"a\", \"b\" use probe or lifecycle hosts \"g\", \"h\")",
        ),
        (
            "securityContext: {appArmorProfile: {type: Unconfined}}",
            "securityContext: {appArmorProfile: {type: Unconfined}}",
            "forbidden AppArmor profile (pod and containers \"a\", \"b\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            "",
            "securityContext: {seLinuxOptions: {type: spc_t, user: u, role: r}}",
            "seLinuxOptions (containers \"a\", \"b\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not \
             be set; role may not be set)",
        ),
        (
            "securityContext: {seLinuxOptions: {type: container_engine_t, level: s0, user: u}}",
            "",
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: user may not be set)",
        ),
        (
            "hostUsers: false",
            "securityContext: {procMount: Unmasked}",
            "procMount (containers \"a\", \"b\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            "securityContext: {seccompProfile: {type: Unconfined}}",
            "",
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        // In the other spelling it is another name.
        (
            "securityContext: {sysctls: [{name: kernel.msgmax, value: a}, {name: net.ipv4.tcp_rmem, value: a}, \
             {name: net/ipv4/tcp_syncookies, value: a}]}",
            "",
            "forbidden sysctls (kernel.msgmax, net/ipv4/tcp_syncookies)",
        ),
        (
            "",
            "securityContext: {windowsOptions: {hostProcess: true}}",
            "hostProcess (containers \"a\", \"b\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        assert_eq!(found(spec, container, Standard::Baseline), [says], "{spec} {container}");
        assert_eq!(found(spec, container, Standard::Privileged), [""; 0]);
    }
    assert_eq!(found("", "", Standard::Baseline), [""; 0]);
}

#[test]
fn the_restricted_standard_is_told_in_the_admissions_words() {
    let good = format!("securityContext: {{{GOOD}}}");
    assert_eq!(found("", &good, Standard::Restricted), [""; 0]);
    let port = good.replace("drop: [ALL]", "drop: [ALL], add: [NET_BIND_SERVICE]");
    assert_eq!(found("", &port, Standard::Restricted), [""; 0]);
    // The line that everybody knows.
    assert_eq!(
        found("", "", Standard::Restricted),
        [
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false)",
            "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"])",
            "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
            "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\")",
        ]
    );
    // Each stands for the baseline's control of the same field.
    for (spec, from, to, says) in [
        (
            "",
            "drop: [ALL]",
            "drop: [NET_RAW], add: [SYS_TIME]",
            "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]; \
             containers \"a\", \"b\" must not include \"SYS_TIME\" in securityContext.capabilities.add)",
        ),
        (
            "",
            "RuntimeDefault",
            "Unconfined",
            "seccompProfile (containers \"a\", \"b\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "volumes: [{name: v, hostPath: {path: /}}, {name: w, nfs: {}}, {name: x, emptyDir: {}}]",
            "",
            "",
            "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            "volumes: [{name: w, nfs: {}}]",
            "",
            "",
            "restricted volume types (volume \"w\" uses restricted volume type \"nfs\")",
        ),
        (
            "securityContext: {runAsNonRoot: false}",
            "runAsNonRoot: true",
            "runAsNonRoot: false",
            "runAsNonRoot != true (pod and containers \"a\", \"b\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            "securityContext: {runAsUser: 0}",
            "runAsNonRoot: true",
            "runAsNonRoot: true, runAsUser: 0",
            "runAsUser=0 (pod and containers \"a\", \"b\" must not set runAsUser=0)",
        ),
    ] {
        let container = good.replace(from, to);
        assert_eq!(found(spec, &container, Standard::Restricted), [says], "{spec} {container}");
    }
    // What the Pod says holds for containers that say nothing; with a user namespace root is nobody.
    let of_pod =
        "securityContext: {runAsNonRoot: true, seccompProfile: {type: Localhost, localhostProfile: p}}";
    let rest = "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}";
    assert_eq!(found(of_pod, rest, Standard::Restricted), [""; 0]);
    let root = good.replace("runAsNonRoot: true", "runAsUser: 0");
    assert_eq!(found("hostUsers: false", &root, Standard::Restricted), [""; 0]);
}

proptest! {
    /// Whatever a mount says: what is taken is of a volume that is there, and leads downwards.
    #[test]
    fn mounts_that_are_taken_lead_downwards(
        name in "[vw]?", path in "/?[a./]{0,9}", sub in "[a./]{0,9}", limit in "[-0-9.eEKMi]{0,6}", kind in "[a-zA-Z]{1,12}",
    ) {
        let spec = format!(
            "volumes: [{{name: v, emptyDir: {{sizeLimit: '{limit}'}}}}, {{name: w, {kind}: {{path: '{path}'}}}}], \
             containers: [{{name: c, image: i, volumeMounts: [{{name: '{name}', mountPath: '{path}', subPath: '{sub}'}}]}}]"
        );
        let Ok(pod) = document(&spec).pod_security() else { return Ok(()) };
        let mount = &pod.containers[0].volume_mounts[0];
        prop_assert!(pod.volume(&mount.name).is_some());
        prop_assert!(mount.sub_path.components().all(|part| part != std::path::Component::ParentDir));
        prop_assert!(mount.sub_path.is_relative());
    }
}
