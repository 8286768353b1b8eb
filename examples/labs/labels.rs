//! Labels of security modules: AppArmor profiles and SELinux contexts.

use std::collections::BTreeSet;
use std::fs;

use palisade::ns::Namespaces;
use palisade::presets::docker::Docker;
use palisade::secfilter::lsm::{self, ContainerProfile, Context, LabelOption};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result, skip};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 64,
        commands: "docker run --rm -it --security-opt apparmor=docker-default ubuntu bash\ncat /proc/self/attr/current",
        mechanism: "An AppArmor profile is loaded into the kernel by root and put on a process at exec, by its name in \
                    /proc/self/attr/apparmor/exec. From then on each path that it opens is matched against the profile's \
                    rules, whatever the file's permissions say.",
        shows: "a profile rendered and loaded, the label of a container, a write that only the profile refuses",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(apparmor),
    },
    Lab {
        number: 65,
        commands: "docker run --rm -it --security-opt label=type:container_t --security-opt label=level:s0:c1,c2 fedora bash\n\
                   docker run --rm -it --security-opt label=disable fedora bash",
        mechanism: "An SELinux context is user:role:type:level. Container engines give each container a pair of categories of \
                    its own in the level, so that two containers of the same type do not reach each other's files. The \
                    context is written to /proc/self/attr/exec; the loaded policy decides about the transition.",
        shows: "contexts read and changed part by part, pairs of categories; a label that cannot be had is an error",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(selinux),
    },
];

fn is_active(module: &str) -> bool {
    lsm::active().is_ok_and(|active| active.iter().any(|name| name == module))
}

fn apparmor(report: &mut Report) -> Result {
    let name = format!("palisade-lab-{}", std::process::id());
    let profile = ContainerProfile::new(&name)?.deny_writes("/guarded")?;
    report.note(format!("The profile:\n{profile}"));
    if !is_active("apparmor") {
        return Err(skip("AppArmor is not active (see /sys/kernel/security/lsm)"));
    }
    let image = report.directory().join("image");
    kit::busybox(&image)?;
    fs::create_dir(image.join("guarded"))?;
    let says = |docker: Docker, script: &str| -> Result<(bool, String)> {
        let out = docker.build()?.command("sh").args(["-c", script]).output()?;
        Ok((
            out.status.success(),
            String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned(),
        ))
    };
    let labelled = || Docker::new(&image).security_opt(format!("apparmor={name}"));
    let refused = labelled().build().err().map(|error| error.to_string()).unwrap_or_default();
    report.check(
        format!("a profile that is not loaded is an error: {refused}"),
        refused.contains("not loaded"),
    );

    profile.load()?;
    let outcome = (|| {
        let (_, label) = says(labelled(), "cat /proc/self/attr/current")?;
        report.equal("the container's label", label, format!("{name} (enforce)"));
        let write = "echo x > /guarded/file && echo written; echo x > /other && echo written elsewhere";
        let (_, free) = says(Docker::new(&image), write)?;
        report.equal("without the profile root writes", free, "written\nwritten elsewhere");
        let (_, held) = says(labelled(), write)?;
        report.check(
            format!("under it the guarded path is refused, and nothing else: {held}"),
            held.contains("Permission denied") && held.contains("written elsewhere"),
        );
        let mount = "mount -t tmpfs none /tmp";
        let (mounted, _) = says(Docker::new(&image).cap_add("SYS_ADMIN"), mount)?;
        report.check("with CAP_SYS_ADMIN a container mounts …", mounted);
        let (mounted, said) = says(labelled().cap_add("SYS_ADMIN"), mount)?;
        report.check(format!("… and under the profile it does not: {said}"), !mounted);
        Ok(())
    })();
    profile.unload()?;
    outcome
}

fn selinux(report: &mut Report) -> Result {
    let context: Context = "system_u:system_r:container_t:s0:c1,c2".parse()?;
    let parts = [context.user(), context.role(), context.kind(), context.level().unwrap_or_default()];
    report.table("a context", &["user", "role", "type", "level"], [parts]);
    report.equal("its parts", parts, ["system_u", "system_r", "container_t", "s0:c1,c2"]);
    report.equal(
        "printed it is what was read",
        context.to_string(),
        "system_u:system_r:container_t:s0:c1,c2",
    );
    for wrong in ["", "system_u", "system_u:system_r", "a b:c:d", "u:r:t:"] {
        report.check(format!("{wrong:?} is no context"), wrong.parse::<Context>().is_err());
    }
    for (option, expected) in [
        ("user:staff_u", Some("staff_u:system_r:container_t:s0:c1,c2")),
        ("type:svirt_apache_t", Some("system_u:system_r:svirt_apache_t:s0:c1,c2")),
        ("level:s0:c100,c200", Some("system_u:system_r:container_t:s0:c100,c200")),
        ("disable", None),
    ] {
        let changed = context.with(&option.parse::<LabelOption>()?)?.map(|context| context.to_string());
        report.equal(format!("label={option}"), changed.as_deref(), expected);
    }
    let pairs: BTreeSet<String> = (0..1000).map(|pair| Context::container(pair).to_string()).collect();
    report.equal("a thousand containers have a thousand pairs of categories", pairs.len(), 1000);

    let image = report.directory().join("image");
    kit::busybox(&image)?;
    let labelled =
        Docker::new(&image).security_opt("label=type:container_t").security_opt("label=level:s0:c1,c2");
    if is_active("selinux") {
        let mut command = labelled.build()?.command("cat");
        let seen = kit::text(command.arg("/proc/self/attr/current"))?;
        report.equal(
            "the container's context",
            seen.trim_end_matches('\0'),
            "system_u:system_r:container_t:s0:c1,c2",
        );
    } else {
        let error = labelled.build().err().map(|error| error.to_string()).unwrap_or_default();
        report.check(
            format!("SELinux is not active here, so asking for it is an error: {error}"),
            error.contains("selinux") || error.contains("/lsm"),
        );
    }
    Ok(())
}
