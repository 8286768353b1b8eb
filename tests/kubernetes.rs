//! `securityContext`: read, merged and run.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use palisade::k8s::{Document, Node, PodSecurity, SeLinuxOptions, documents};
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
