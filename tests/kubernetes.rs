//! `securityContext`: read, merged, validated, checked by the standards, and run.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use palisade::ErrorKind;
use palisade::k8s::{Document, Node, PodSecurity, SeLinuxOptions, Standard, documents};
use palisade_testkit::{is_root, skip};
use proptest::prelude::*;

#[path = "common/image.rs"]
mod common;
use common::{image, masks, running, says};

fn document(text: &str) -> Document {
    documents(text).unwrap().remove(0)
}

fn pod(text: &str) -> PodSecurity {
    document(text).pod_security().unwrap_or_else(|error| panic!("{error}"))
}

/// A Pod with these fields of its spec, and of its only container, in flow style.
fn with(spec: &str, container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec}\
         containers: [{{name: c, image: i, securityContext: {{{container}}}}}]}}}}"
    )
}

const SLEEPER_WITH_USER: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: ubuntu-sleeper
  namespace: default
spec:
  securityContext:
    runAsUser: 1010
  containers:
  - command:
    - sleep
    - "4800"
    image: ubuntu
    name: ubuntu-sleeper
"#;

const SLEEPER_WITH_CAPABILITIES: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: ubuntu-sleeper
  namespace: default
spec:
  containers:
  - command:
    - sleep
    - "4800"
    image: ubuntu
    name: ubuntu-sleeper
    securityContext:
      capabilities:
        add: ["SYS_TIME", "NET_ADMIN"]
"#;

const SC_2: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: sc-2
spec:
  securityContext:
    runAsUser: 1000
  containers:
  - name: sc-2
    image: gcr.io/google-samples/node-hello:1.0
    securityContext:
      runAsUser: 4000 # container 단위
      allowPrivilegeEscalation: false
"#;

#[test]
fn a_containers_fields_win_over_the_pods() {
    let pod = pod("
apiVersion: v1
kind: Pod
metadata: {name: multi-pod}
spec:
  securityContext:
    runAsUser: 1001
    runAsNonRoot: true
    fsGroup: 2000
    supplementalGroups: [4000]
    seLinuxOptions: {type: a_t, level: s0}
    seccompProfile: {type: RuntimeDefault}
  containers:
  - image: ubuntu
    name: web
    command: [sleep, '5000']
    securityContext: {runAsUser: 1002, runAsNonRoot: false, seLinuxOptions: {type: b_t}, privileged: true}
  - image: ubuntu
    name: sidecar
    command: [sleep, '5000']
");
    let (web, sidecar) = (pod.effective("web").unwrap(), pod.effective("sidecar").unwrap());
    assert_eq!((web.run_as_user, sidecar.run_as_user), (Some(1002), Some(1001)));
    assert_eq!((web.run_as_non_root, sidecar.run_as_non_root), (false, true));
    assert_eq!((web.privileged, sidecar.privileged), (true, false));
    assert_eq!(sidecar.supplemental_groups, [4000, 2000]);
    // A label wins as a whole: its level does not come from the Pod.
    let label = |kind: &str, level: Option<&str>| {
        let mut label = SeLinuxOptions::default();
        (label.r#type, label.level) = (Some(kind.into()), level.map(str::to_owned));
        Some(label)
    };
    assert_eq!(
        (web.se_linux_options, sidecar.se_linux_options),
        (label("b_t", None), label("a_t", Some("s0")))
    );
    assert_eq!(pod.container("web").unwrap().command, ["sleep", "5000"]);
    assert!(pod.effective("nobody").is_none());
}

#[test]
fn what_the_api_server_refuses_is_refused_in_its_words() {
    for (spec, container, says) in [
        (
            "",
            "runAsUser: -1",
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            "securityContext: {fsGroup: 2147483648},",
            "",
            "spec.securityContext.fsGroup: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
        ),
        (
            "securityContext: {supplementalGroups: [1, -5]},",
            "",
            "spec.securityContext.supplementalGroups[1]: Invalid value: -5",
        ),
        (
            "",
            "allowPrivilegeEscalation: false, privileged: true",
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (
            "",
            "allowPrivilegeEscalation: false, capabilities: {add: [CAP_SYS_ADMIN]}",
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        ),
        ("", "procMount: Unmasked", "`hostUsers` must be false to use `Unmasked`"),
        (
            "",
            "procMount: Odd",
            "procMount: Unsupported value: \"Odd\": supported values: \"Default\", \"Unmasked\"",
        ),
        (
            "hostUsers: false, hostNetwork: true, hostPID: true,",
            "",
            "spec.hostNetwork: Forbidden: when `hostUsers` is false",
        ),
        (
            "hostPID: true, shareProcessNamespace: true,",
            "",
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            "",
            "seccompProfile: {}",
            "seccompProfile.type: Required value: type is required when seccompProfile is set",
        ),
        (
            "",
            "seccompProfile: {type: Localhost}",
            "seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
        (
            "",
            "seccompProfile: {type: RuntimeDefault, localhostProfile: a.json}",
            "can only be set when seccomp type is Localhost",
        ),
        ("", "seccompProfile: {type: Localhost, localhostProfile: /a.json}", "must be a relative path"),
        ("", "seccompProfile: {type: Localhost, localhostProfile: a/../../b}", "must not contain '..'"),
        (
            "",
            "appArmorProfile: {type: Localhost, localhostProfile: ' x'}",
            "must not be padded with whitespace",
        ),
        (
            "",
            "appArmorProfile: {type: Odd}",
            "appArmorProfile.type: Unsupported value: \"Odd\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
        ),
        (
            "securityContext: {fsGroupChangePolicy: Never},",
            "",
            "fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
        ),
        ("securityContext: {supplementalGroupsPolicy: Some},", "", "supported values: \"Merge\", \"Strict\""),
        (
            "securityContext: {seLinuxChangePolicy: Some},",
            "",
            "supported values: \"MountOption\", \"Recursive\"",
        ),
        (
            "hostNetwork: true, securityContext: {sysctls: [{name: net.core.somaxconn, value: '1'}]},",
            "",
            "may not be specified when 'hostNetwork' is true",
        ),
        (
            "securityContext: {sysctls: [{name: a, value: '1'}, {name: a, value: '2'}]},",
            "",
            "sysctls[1].name: Duplicate value: \"a\"",
        ),
        ("initContainers: [{name: c}],", "", "Duplicate value: \"c\""),
        // Capabilities are a container's alone: a Pod has no such field.
        (
            "securityContext: {capabilities: {add: [NET_ADMIN]}},",
            "",
            "spec.securityContext.capabilities: unknown field `capabilities`",
        ),
        ("securityContext: {runAsUser: '1000'},", "", "runAsUser"),
    ] {
        let error = document(&with(spec, container)).pod_security().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains(says), "{spec} {container}: {error}\nwanted: {says}");
    }
    // All of them at once.
    let error = document(&with("", "runAsUser: -1, runAsGroup: -2")).pod_security().unwrap_err().to_string();
    assert!(error.contains("2 faults"), "{error}");
    for fine in [
        "procMount: Default",
        "runAsUser: 0",
        "allowPrivilegeEscalation: false, capabilities: {add: [SYS_ADMIN]}",
        "windowsOptions: {runAsUserName: x}",
    ] {
        pod(&with("", fine));
    }
}

#[test]
fn run_as_non_root_is_the_kubelets_check() {
    let image = image();
    let Some(image) = image else { skip!("no busybox (package busybox-static)") };
    let start = |context: &str, user: &str| {
        let pod = pod(&with("", context));
        Node::new()
            .image_user(user)
            .container(&pod, "c", image.path())
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    for (context, user, says) in [
        ("runAsNonRoot: true, runAsUser: 0", "1000", "container's runAsUser breaks non-root policy"),
        ("runAsNonRoot: true", "", "container has runAsNonRoot and image will run as root"),
        ("runAsNonRoot: true", "0", "container has runAsNonRoot and image will run as root"),
        (
            "runAsNonRoot: true",
            "nobody",
            "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root",
        ),
    ] {
        let error = start(context, user).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    for (context, user) in [
        ("runAsNonRoot: true", "1000"),
        ("runAsNonRoot: true, runAsUser: 5", "nobody"),
        ("runAsNonRoot: false", ""),
        ("", ""),
    ] {
        start(context, user).unwrap();
    }
}

#[test]
fn standards_name_the_control_and_the_field() {
    let good = "allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}, \
                seccompProfile: {type: RuntimeDefault}";
    assert!(pod(&with("", good)).check(Standard::Restricted).is_empty());
    assert!(pod(&with("", "")).check(Standard::Baseline).is_empty());
    let found = |spec: &str, container: &str, standard: Standard| {
        pod(&with(spec, container)).check(standard).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let baseline = [
        ("hostNetwork: true, hostPID: true,", "", "host namespaces (hostNetwork=true, hostPID=true)"),
        ("", "privileged: true", "privileged (container \"c\" must not set securityContext.privileged=true)"),
        (
            "",
            "capabilities: {add: [NET_RAW, CHOWN]}",
            "non-default capabilities (container \"c\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        ("volumes: [{name: v, hostPath: {path: /}}],", "", "hostPath volumes (volume \"v\")"),
        ("securityContext: {appArmorProfile: {type: Unconfined}},", "", "forbidden AppArmor profile"),
        ("", "seLinuxOptions: {type: spc_t}", "seLinuxOptions (container \"c\""),
        (
            "hostUsers: false,",
            "procMount: Unmasked",
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        ("", "seccompProfile: {type: Unconfined}", "seccompProfile (container \"c\" must not set"),
        (
            "securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}, {name: net/ipv4/tcp_syncookies, value: '1'}]},",
            "",
            "forbidden sysctls (kernel.msgmax)",
        ),
    ];
    for (spec, container, says) in baseline {
        let all = found(spec, container, Standard::Baseline);
        assert!(all.len() == 1 && all[0].starts_with(says), "{spec} {container}: {all:?}");
        assert!(found(spec, container, Standard::Privileged).is_empty());
    }
    let none = found("", "", Standard::Restricted);
    for control in [
        "allowPrivilegeEscalation != false",
        "unrestricted capabilities",
        "runAsNonRoot != true",
        "seccompProfile",
    ] {
        assert!(none.iter().any(|violation| violation.starts_with(control)), "{control}: {none:?}");
    }
    assert_eq!(none.len(), 4, "{none:?}");
    let root = good.replace("runAsNonRoot: true", "runAsNonRoot: true, runAsUser: 0");
    assert_eq!(
        found("", &root, Standard::Restricted),
        ["runAsUser=0 (container \"c\" must not set runAsUser=0)"]
    );
    // With a user namespace root is nobody.
    assert!(found("hostUsers: false,", &root, Standard::Restricted).is_empty());
    assert_eq!(found("volumes: [{name: v, nfs: {}}],", good, Standard::Restricted).len(), 1);
}

/// Lab 77 and 79, as the study has them: the user, the mask, the line that `id` prints.
#[test]
fn the_studys_pods_run() {
    let Some(image) = image() else { skip!("no busybox (package busybox-static)") };
    let container = |text: &str| {
        let pod = pod(text);
        let name = pod.containers[0].name.clone();
        Node::new().container(&pod, &name, image.path()).unwrap()
    };
    let user = container(SLEEPER_WITH_USER);
    assert_eq!(says(&user, "id -u; busybox whoami 2>/dev/null || echo no name"), "1010\nno name\n");
    let capable = container(SLEEPER_WITH_CAPABILITIES);
    let child = running(&capable);
    assert_eq!(masks(&child), [0, 0xaa04_35fb, 0xaa04_35fb, 0xaa04_35fb, 0]);
    drop(child);
    let sc_2 = container(SC_2);
    let line = says(&sc_2, "id");
    assert!(line.starts_with("uid=4000 gid=0(root)"), "{line}");
    if is_root() {
        assert_eq!(line, "uid=4000 gid=0(root) groups=0(root)\n");
        assert_eq!(
            says(&sc_2, "busybox rm -rf /root 2>&1; ls -d /root"),
            "rm: can't remove '/root': Permission denied\n/root\n"
        );
    }
    let no_new_privs = "grep NoNewPrivs /proc/self/status";
    assert_eq!(says(&sc_2, no_new_privs), "NoNewPrivs:\t1\n");
    // Ids to become, with an ordinary user's: its delegated ranges.
    let ranges = is_root() || palisade::creds::Maps::rootless().is_ok();
    let off = if ranges { "NoNewPrivs:\t0\n" } else { "NoNewPrivs:\t1\n" };
    assert_eq!(says(&user, no_new_privs), off, "without a word it is off, where there is anybody to become");
}

#[test]
fn groups_read_only_root_and_sysctls() {
    if !is_root() {
        skip!("groups need more than one id", needs = "root");
    }
    let Some(image) = image() else { skip!("no busybox (package busybox-static)") };
    let run = |spec: &str, context: &str, script: &str| {
        let pod = pod(&with(spec, context));
        says(&Node::new().container(&pod, "c", image.path()).unwrap(), script)
    };
    let docs =
        "securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000]},";
    assert_eq!(run(docs, "", "id"), "uid=1000 gid=3000 groups=2000,3000,4000\n");
    // The image's groups of its root: merged, or not.
    assert_eq!(run("securityContext: {runAsUser: 0},", "", "id -G"), "0 10\n");
    assert_eq!(run("securityContext: {runAsUser: 0, runAsGroup: 7},", "", "id -G"), "7 10\n");
    assert_eq!(run("securityContext: {runAsUser: 0, supplementalGroupsPolicy: Strict},", "", "id -G"), "0\n");
    assert_eq!(
        run("", "readOnlyRootFilesystem: true", "touch /x 2>&1; true"),
        "touch: /x: Read-only file system\n"
    );
    let sysctl = "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '81'}]},";
    assert_eq!(run(sysctl, "", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "81\n");
    assert_eq!(
        run("", "seccompProfile: {type: Unconfined}", "grep Seccomp: /proc/self/status"),
        "Seccomp:\t0\n"
    );
    let profiles = palisade_testkit::temp_dir();
    fs::write(profiles.path().join("p.json"), r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#).unwrap();
    let local = pod(&with("", "seccompProfile: {type: Localhost, localhostProfile: p.json}"));
    let docker = Node::new().seccomp_profiles(profiles.path()).container(&local, "c", image.path()).unwrap();
    assert!(says(&docker, "mkdir /x 2>&1; true").contains("not permitted"));
}

proptest! {
    /// What is read is written, and reads the same.
    #[test]
    fn contexts_round_trip(
        user in proptest::option::of(0i64..70_000),
        non_root in proptest::option::of(any::<bool>()),
        groups in proptest::option::of(proptest::collection::vec(0i64..70_000, 0..4)),
        policy in proptest::option::of(prop::sample::select(vec!["Merge".to_owned(), "Strict".to_owned()])),
        level in proptest::option::of("[a-z0-9:,]{0,8}"),
    ) {
        let mut context = palisade::k8s::PodSecurityContext::default();
        (context.run_as_user, context.run_as_non_root) = (user, non_root);
        (context.supplemental_groups, context.supplemental_groups_policy) = (groups, policy);
        context.se_linux_options = level.map(|level| {
            let mut options = SeLinuxOptions::default();
            options.level = Some(level);
            options
        });
        let text = serde_json::to_string(&context).unwrap();
        prop_assert_eq!(serde_json::from_str::<palisade::k8s::PodSecurityContext>(&text).unwrap(), context.clone());
        let manifest = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p"}},"spec":{{"securityContext":{text},"containers":[{{"name":"c"}}]}}}}"#
        );
        prop_assert_eq!(pod(&manifest).security_context, context);
    }
}
