//! Kubernetes: `securityContext` of Pods and containers.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use palisade::k8s::{Node, PodSecurity, Standard, Volumes, documents};
use palisade::ns::Namespaces;
use palisade::presets::docker::Docker;

use crate::container::{image, mask, prints, running, says, status};
use crate::lab::{Body, Lab, Needs, Report, Result, skip};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 75,
        commands: "kubectl explain pod.spec.securityContext; kubectl explain pod.spec.containers.securityContext",
        mechanism: "Six things can be said: whether privileges may grow, who the process is, capabilities, SELinux, AppArmor \
                    and seccomp. Each becomes something that the kernel holds a process to; none needs the cluster.",
        shows: "all six in one manifest, and what the process's status says of each; the standards' verdicts on it",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(six_items),
    },
    Lab {
        number: 76,
        commands: "kubectl apply -f multi-pod.yaml; kubectl exec multi-pod -c web -- id -u; kubectl exec multi-pod -c sidecar -- id -u",
        mechanism: "A Pod's securityContext holds for all its containers; a field that a container has itself wins. \
                    Capabilities are a container's alone: a Pod has no such field.",
        shows: "1002 in the container that says so, 1001 in the other; capabilities of a Pod are a schema error",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(pod_and_container),
    },
    Lab {
        number: 77,
        commands: "kubectl exec ubuntu-sleeper -- whoami\nkubectl edit pod ubuntu-sleeper # runAsUser: 1010\n\
                   # capabilities: add: [\"SYS_TIME\", \"NET_ADMIN\"]",
        mechanism: "Three manifests of one Pod. The added capabilities come on top of the runtime's 14, and count for root.",
        shows: "root, then a user without a name, then the mask aa0435fb and a link that NET_ADMIN makes",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(ubuntu_sleeper),
    },
    Lab {
        number: 78,
        commands: "kubectl exec -it sc-1 -- bash\nid; ps aux; ls; rm -rf root; ls",
        mechanism: "Without a securityContext a container is root over its own files. The image below is shared, and the \
                    change is in a layer above it.",
        shows: "uid=0, every process root's, /root removed inside and untouched in the image",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(sc_1),
    },
    Lab {
        number: 79,
        commands: "kubectl exec -it sc-2 -- bash\nid; ps aux; rm -rf root",
        mechanism: "The container's 4000 wins over the Pod's 1000. No line of passwd has it, so there is no name, and the \
                    group is 0 because none was given.",
        shows: "uid=4000 gid=0(root), and a root-owned directory that it cannot remove",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(sc_2),
    },
    Lab {
        number: 80,
        commands: "# securityContext: {allowPrivilegeEscalation: false}",
        mechanism: "no_new_privs: from then on no exec gives more than the process has, set-user-ID bits and file \
                    capabilities included. Children inherit it, and nobody can take it back.",
        shows: "a set-user-ID program that becomes root, and the same one that does not; what cannot be said together",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(escalation),
    },
    Lab {
        number: 81,
        commands: "kubectl apply -f security-context-demo.yaml # runAsUser 1000, runAsGroup 3000, fsGroup 2000, \
                   supplementalGroups [4000]\nkubectl exec -it security-context-demo -- sh\nid; ls -l /data; echo hello > \
                   /data/demo/testfile; ls -l /data/demo",
        mechanism: "fsGroup is one more group of the process, and the group of volumes, whose directories pass it on to \
                    what is made in them. runAsNonRoot is checked before the start, by number.",
        shows: "id with all groups, a volume with group 2000 and the setgid bit, a read-only root, the kubelet's refusals",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(groups_and_volumes),
    },
];

const MULTI_POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: multi-pod
spec:
  securityContext:
    runAsUser: 1001
  containers:
  -  image: ubuntu
     name: web
     command: [\"sleep\", \"5000\"]
     securityContext:
      runAsUser: 1002

  -  image: ubuntu
     name: sidecar
     command: [\"sleep\", \"5000\"]
";

/// The study's, with `WITH` where each of its versions says more.
const SLEEPER: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: ubuntu-sleeper
  namespace: default
spec:POD
  containers:
  - command:
    - sleep
    - \"4800\"
    image: ubuntu
    name: ubuntu-sleeperCONTAINER
";

const SC_1: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: sc-1
spec:
  containers:
  - name: sc-1
    image: gcr.io/google-samples/node-hello:1.0
";

const SC_2: &str = "
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
";

fn pod(manifest: &str) -> Result<PodSecurity> {
    let documents = documents(manifest)?;
    Ok(documents.first().ok_or("no document")?.pod_security()?)
}

/// The only container of a Pod, of this image.
fn container(manifest: &str, image: &Path) -> Result<Docker> {
    let pod = pod(manifest)?;
    let name = pod.containers.first().ok_or("no container")?.name.clone();
    Ok(Node::new().container(&pod, &name, image)?)
}

fn six_items(report: &mut Report) -> Result {
    let manifest = "
apiVersion: v1
kind: Pod
metadata: {name: six}
spec:
  securityContext:
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
  containers:
  - name: main
    image: app
    securityContext:
      allowPrivilegeEscalation: false
      runAsUser: 1000
      runAsGroup: 1000
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
      seLinuxOptions: {level: \"s0:c123,c456\"}
      appArmorProfile: {type: RuntimeDefault}
";
    let six = pod(manifest)?;
    let context = six.effective("main").ok_or("no container")?;
    report.equal("allowPrivilegeEscalation", context.allow_privilege_escalation, Some(false));
    report.equal("user and group", (context.run_as_user, context.run_as_group), (Some(1000), Some(1000)));
    report.check("SELinux, AppArmor and seccomp are read", {
        context.se_linux_options.is_some()
            && context.app_armor_profile.is_some()
            && context.seccomp_profile.is_some()
    });
    let found = six.check(Standard::Restricted);
    report.check(format!("it meets the restricted standard {found:?}"), found.is_empty());
    let bare = pod(SC_1)?.check(Standard::Restricted);
    let rows = bare.iter().map(|violation| [violation.control.to_owned(), violation.detail.clone()]);
    report.table(
        "what the restricted standard says against sc-1",
        &["control", "what"],
        rows.collect::<Vec<_>>(),
    );
    report.equal("sc-1 breaks four of its controls", bare.len(), 4);
    report.check("and none of the baseline", pod(SC_1)?.check(Standard::Baseline).is_empty());

    // The labels need their modules; the other four hold anywhere.
    let image = image(report)?;
    let labels = [
        "      seLinuxOptions: {level: \"s0:c123,c456\"}\n",
        "      appArmorProfile: {type: RuntimeDefault}\n",
    ];
    let without = labels.iter().fold(manifest.to_owned(), |text, label| text.replace(label, ""));
    let child = running(&container(&without, &image)?)?;
    report.equal("NoNewPrivs", status(&child, "NoNewPrivs")?, "1");
    report.equal("Seccomp", status(&child, "Seccomp")?, "2");
    report.equal("CapBnd is NET_BIND_SERVICE alone", mask(&child, "CapBnd")?, 1 << 10);
    let refused = container(manifest, &image)?.build().err().map(|error| error.to_string());
    report.check("with labels that cannot be had it is not started", refused.is_some());
    Ok(())
}

fn pod_and_container(report: &mut Report) -> Result {
    let image = image(report)?;
    let multi = pod(MULTI_POD)?;
    for (name, uid) in [("web", "1002"), ("sidecar", "1001")] {
        let docker = Node::new().container(&multi, name, &image)?;
        prints(report, format!("id -u in {name}"), &docker, "id -u", uid)?;
    }
    let wrong =
        MULTI_POD.replace("    runAsUser: 1001", "    runAsUser: 1001\n    capabilities: {add: [NET_ADMIN]}");
    let error = pod(&wrong).err().map(|error| error.to_string()).unwrap_or_default();
    report.check(
        format!("capabilities of a Pod: {error}"),
        error.contains("spec.securityContext.capabilities") && error.contains("unknown field"),
    );
    Ok(())
}

fn sleeper(pod: &str, container: &str) -> String {
    SLEEPER.replace("POD", pod).replace("CONTAINER", container)
}

fn ubuntu_sleeper(report: &mut Report) -> Result {
    let image = image(report)?;
    let plain = container(&sleeper("", ""), &image)?;
    prints(report, "whoami", &plain, "whoami", "root")?;
    let user = container(&sleeper("\n  securityContext:\n    runAsUser: 1010", ""), &image)?;
    prints(
        report,
        "with runAsUser: 1010",
        &user,
        "id -u; whoami >/dev/null 2>&1 || echo no name",
        "1010\nno name",
    )?;
    let add = "\n    securityContext:\n      capabilities:\n        add: [\"SYS_TIME\", \"NET_ADMIN\"]";
    let capable = container(&sleeper("", add), &image)?;
    let (without, with) = (running(&plain)?, running(&capable)?);
    report.equal("CapEff without", mask(&without, "CapEff")?, 0xa804_25fb);
    report.equal("CapEff with SYS_TIME and NET_ADMIN", mask(&with, "CapEff")?, 0xaa04_35fb);
    let link = "ip addr add 10.9.9.9/32 dev lo && echo changed";
    let refused = says(report, &plain, link)?;
    report.check(format!("without NET_ADMIN: {refused:?}"), refused.contains("not permitted"));
    prints(report, "with NET_ADMIN the network is its own to change", &capable, link, "changed")
}

fn sc_1(report: &mut Report) -> Result {
    let image = image(report)?;
    let docker = container(SC_1, &image)?;
    let line = says(report, &docker, "id")?;
    report.check(format!("id: {line}"), line.starts_with("uid=0(root) gid=0(root)"));
    let rows = says(report, &docker, "sh -c 'sleep 5 & ps -o user,pid,args; kill %1'")?;
    report.note(&rows);
    let users: Vec<&str> = rows.lines().skip(1).filter_map(|row| row.split_whitespace().next()).collect();
    report.check(format!("all {} processes are root's", users.len()), {
        users.len() >= 3 && users.iter().all(|user| matches!(*user, "root" | "0"))
    });
    let removed =
        says(report, &docker, "cd /; ls -d root && rm -rf root; ls -d root 2>/dev/null || echo gone")?;
    report.equal("the directory root, before and after", removed.as_str(), "root\ngone");
    report.check("the image still has it", image.join("root").is_dir());
    Ok(())
}

fn sc_2(report: &mut Report) -> Result {
    let image = image(report)?;
    let docker = container(SC_2, &image)?;
    prints(report, "id", &docker, "id", "uid=4000 gid=0(root) groups=0(root)")?;
    prints(report, "its name", &docker, "whoami >/dev/null 2>&1 || echo I have no name!", "I have no name!")?;
    let rows = says(report, &docker, "ps -o user,pid,args")?;
    let users: Vec<&str> = rows.lines().skip(1).filter_map(|row| row.split_whitespace().next()).collect();
    report.check(format!("all processes are 4000's: {users:?}"), users.iter().all(|user| *user == "4000"));
    let refused = says(report, &docker, "cd /; rm -rf root; ls -d root")?;
    report.check(format!("{refused:?}"), refused.contains("Permission denied") && refused.ends_with("root"));
    Ok(())
}

fn escalation(report: &mut Report) -> Result {
    let image = image(report)?;
    // A set-user-ID program of root's, which tells who it is: busybox keeps its privileges for `id` only if told so, so
    // it is the host's own, with what it needs.
    let id = image.join("bin/su-id");
    fs::copy("/usr/bin/id", &id).map_err(|error| skip(format!("/usr/bin/id: {error}")))?;
    fs::set_permissions(&id, fs::Permissions::from_mode(0o4755))?;
    let run = |allow: &str| -> Result<Docker> {
        let manifest = SC_2.replace("      allowPrivilegeEscalation: false\n", allow);
        let libraries = ["/usr", "/lib", "/lib64"].into_iter().filter(|path| Path::new(path).exists());
        Ok(libraries
            .fold(container(&manifest, &image)?, |docker, path| docker.volume(format!("{path}:{path}:ro"))))
    };
    let (nil, no) = (run("")?, run("      allowPrivilegeEscalation: false\n")?);
    prints(report, "without a word, a set-user-ID program's euid", &nil, "su-id -u", "0")?;
    prints(report, "with allowPrivilegeEscalation: false", &no, "su-id -u", "4000")?;
    let (one, two) = (running(&nil)?, running(&no)?);
    report.equal(
        "NoNewPrivs of both",
        (status(&one, "NoNewPrivs")?, status(&two, "NoNewPrivs")?),
        ("0".to_owned(), "1".to_owned()),
    );
    for (with, says) in [
        ("      privileged: true\n", "`allowPrivilegeEscalation` to false and `privileged` to true"),
        (
            "      capabilities: {add: [CAP_SYS_ADMIN]}\n",
            "`allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        ),
    ] {
        let error = pod(&format!("{SC_2}{with}")).err().map(|error| error.to_string()).unwrap_or_default();
        report.check(format!("refused: cannot set {says}"), error.contains(says));
    }
    Ok(())
}

const DEMO: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: security-context-demo
spec:
  securityContext:
    runAsUser: 1000
    runAsGroup: 3000
    fsGroup: 2000
    supplementalGroups: [4000]
  volumes:
  - name: sec-ctx-vol
    emptyDir: {}
  containers:
  - name: sec-ctx-demo
    image: busybox:1.28
    command: [ \"sh\", \"-c\", \"sleep 1h\" ]
    volumeMounts:
    - name: sec-ctx-vol
      mountPath: /data/demo
    securityContext:
      allowPrivilegeEscalation: false
";

fn groups_and_volumes(report: &mut Report) -> Result {
    let image = image(report)?;
    // Only its owner may enter: what containers write there could be anybody's set-user-ID program.
    let node = report.directory().join("pod");
    fs::DirBuilder::new().mode(0o700).create(&node)?;
    let volumes = Volumes::new().empty_dirs_in(&node).set_up(&pod(DEMO)?)?;
    let start = |manifest: &str| -> Result<Docker> {
        let node = Node::new().volumes(volumes.clone());
        Ok(node.container(&pod(manifest)?, "sec-ctx-demo", &image)?)
    };
    let demo = start(DEMO)?;
    prints(report, "id", &demo, "id", "uid=1000 gid=3000 groups=2000,3000,4000")?;
    // An emptyDir, as the kubelet gives it to fsGroup: the group, its rights, and the setgid bit.
    let said = says(
        report,
        &demo,
        "stat -c '%A %u %g' /data/demo; echo hello >/data/demo/testfile; stat -c '%u %g' /data/demo/testfile",
    )?;
    report.equal("the volume, and a file made in it", said.as_str(), "drwxrwsrwx 0 2000\n1000 2000");
    let file = fs::metadata(node.join("sec-ctx-vol/testfile"))?;
    report.equal("the same file on the node", format!("{} {}", file.uid(), file.gid()).as_str(), "1000 2000");

    let fixed = DEMO.replace(
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: false\n      readOnlyRootFilesystem: true",
    );
    let said = says(report, &start(&fixed)?, "touch /x; touch /data/demo/x && echo the volume does")?;
    report.check(
        format!("a read-only root: {said:?}"),
        said.contains("Read-only") && said.ends_with("the volume does"),
    );

    let root = "apiVersion: v1\nkind: Pod\nmetadata: {name: r}\nspec:\n  containers:\n  - {name: c, image: i, securityContext: {runAsNonRoot: true";
    for (more, user, says) in [
        (", runAsUser: 0", "", "container's runAsUser breaks non-root policy"),
        ("", "", "container has runAsNonRoot and image will run as root"),
        ("", "nobody", "image has non-numeric user (nobody), cannot verify user is non-root"),
    ] {
        let refusing = pod(&format!("{root}{more}}}}}"))?;
        let error = Node::new().image_user(user).container(&refusing, "c", &image);
        let error = error.err().map(|error| error.to_string()).unwrap_or_default();
        report.check(format!("runAsNonRoot: {says}"), error.contains(says));
    }
    let owner = fs::metadata(&image)?.uid();
    report.equal("the image's owner on disk is as it was", owner, 0);
    Ok(())
}
