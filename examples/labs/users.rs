//! Users of an image, and who they are on the host.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use palisade::creds::{IdMap, Maps, User, UserDb, UserSpec};
use palisade::ns::{Namespace, Namespaces};
use palisade::procinfo::{ProcRoot, UserNames};
use palisade::{Sandbox, SandboxBuilder, Stdio};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result, skip};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 50,
        commands: "docker image pull busybox:1.29\ndocker inspect --format \"{{.Config.User}}\" busybox:1.29\n\
                   docker container run --rm --entrypoint \"\" busybox:1.29 whoami\n\
                   docker container run --rm --entrypoint \"\" busybox:1.29 id",
        mechanism: "An image's configuration names its user; empty means 0. The engine looks the user up in the image's own \
                    passwd and group, and sets the groups before the ids. An entry point that starts as root may become \
                    somebody else later: what the configuration says is only where it begins.",
        shows: "no user in the configuration: whoami is root, id has the groups that the image's group file gives root",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(default_user),
    },
    Lab {
        number: 51,
        commands: "docker container run --rm busybox:1.29 awk -F: '$0=$1' /etc/passwd",
        mechanism: "A user of an image is a line of its /etc/passwd and nothing more. Blank and short lines are legal; a \
                    reader that gives up at one does not see the rest.",
        shows: "the nine names of the image's passwd, by awk inside and by our reader outside",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(available_users),
    },
    Lab {
        number: 52,
        commands: "docker container run --rm --user nobody busybox:1.29 id",
        mechanism: "The name is looked up in the image's passwd, never in the host's. Then setgroups, setgid, setuid, in this \
                    order: after setuid the others would be refused.",
        shows: "uid=65534(nobody); an unknown name is an error before anything starts",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(user_by_name),
    },
    Lab {
        number: 53,
        commands: "docker container run --rm -u nobody:nogroup busybox:1.29 id\n\
                   docker container run --rm -u 10000:20000 busybox:1.29 id",
        mechanism: "Each half is a name or a number. A number needs no line in any file: ids are numbers to the kernel. With \
                    an explicit group the user's memberships do not count.",
        shows: "each form of user[:group], what it resolves to, and what `id` says inside",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(spec_forms),
    },
    Lab {
        number: 54,
        commands: "docker run --name test --rm -d ubuntu sleep infinity; docker exec test id; ps aux | grep sleep\n\
                   # Dockerfile: RUN useradd -r -u 1000 appuser; USER appuser\n\
                   docker run --user 1000 ubuntu-sleeper; docker exec -it test3 bash\ndocker run --user 0 ubuntu-sleeper",
        mechanism: "The kernel knows numbers. Each side puts its own names to them, from its own passwd: one process is \
                    appuser inside and whoever has that number outside. With a user namespace even the number differs.",
        shows: "one process under two names; a user without a name; --user before USER before root",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(names_on_both_sides),
    },
    Lab {
        number: 55,
        commands: "echo \"e=mc^2\" > garbage; chmod 600 garbage; sudo chown root garbage\n\
                   docker container run --rm -v \"$(pwd)\"/garbage:/test/garbage -u nobody ubuntu:16.04 cat /test/garbage\n\
                   docker container run --rm -v \"$(pwd)\"/garbage:/test/garbage -u root ubuntu:16.04 cat /test/garbage\n\
                   mkdir logFiles; sudo chown 2000:2000 logFiles\n\
                   docker container run --rm -v \"$(pwd)\"/logFiles:/logFiles -u 2000:2000 ubuntu:16.04 \\\n  \
                   /bin/bash -c \"echo This is important info > /logFiles/important.log\"",
        mechanism: "A bind mount shows files with the owners they have: the kernel compares its own numbers. In a user \
                    namespace owners that it does not map read as 65534 and are out of reach; an id-mapped mount \
                    translates the owner for that one mount.",
        shows: "nobody refused, root and 2000 not, 3000 refused; the same volume in a user namespace, and what makes it usable",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(volumes),
    },
];

/// The passwd and group of busybox:1.29, as far as it matters.
const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwheel:x:10:root\nusers:x:100:nobody\nnogroup:x:65534:\n";

/// An image: a root with users, and the user of its configuration.
struct Image {
    root: PathBuf,
    users: UserDb,
    /// `Config.User`.
    user: &'static str,
}

impl Image {
    fn new(report: &Report, user: &'static str, more_users: &str) -> Result<Self> {
        let root = report.directory().join("image");
        fs::create_dir(&root)?;
        kit::busybox(&root)?;
        fs::write(root.join("etc/passwd"), format!("{PASSWD}{more_users}"))?;
        fs::write(root.join("etc/group"), GROUP)?;
        let users = UserDb::open_in(File::open(&root)?)?;
        Ok(Self { root, users, user })
    }

    /// The user of a run: what `--user` says, else the configuration, else root.
    fn resolve(&self, run: Option<&str>) -> Result<User> {
        Ok(self.users.resolve(&UserSpec::new(run.unwrap_or(self.user))?)?)
    }

    /// A container of this image in a user namespace with 65,536 ids, none of which is root outside.
    fn container(&self, user: &User) -> Result<SandboxBuilder> {
        let maps = if nix::unistd::geteuid().is_root() {
            let map: IdMap = "0 200000 65536".parse()?;
            Maps::new(map.clone(), map)
        } else {
            Maps::rootless().map_err(|error| skip(format!("a range of ids is needed: {error}")))?
        };
        Ok(Sandbox::builder()
            .id_maps(maps)
            .rootfs(&self.root)
            .user(user.uid.as_raw(), user.gid.as_raw())
            .groups(groups(user)))
    }

    /// What a program of the image prints, run as `run` says.
    fn says(&self, report: &mut Report, run: Option<&str>, program: &[&str]) -> Result<String> {
        let sandbox = self.container(&self.resolve(run)?)?.build()?;
        let mut command = sandbox.command(program[0]);
        command.args(&program[1..]);
        report.plan(&command.plan()?);
        kit::text(&mut command)
    }
}

/// As docker has it: the primary group, then those that the user is a member of.
fn groups(user: &User) -> Vec<u32> {
    let mut groups = vec![user.gid.as_raw()];
    groups.extend(user.groups.iter().map(|gid| gid.as_raw()));
    groups.dedup();
    groups
}

fn default_user(report: &mut Report) -> Result {
    let image = Image::new(report, "", "")?;
    report.note(format!("Config.User is {:?}: root.", image.user));
    let whoami = image.says(report, None, &["whoami"])?;
    let id = image.says(report, None, &["id"])?;
    report.equal("whoami", whoami, "root");
    report.equal(
        "id, with the groups of the image's group file",
        id,
        "uid=0(root) gid=0(root) groups=0(root),10(wheel)",
    );
    report.note("An entry point may become another user later: only the first process is this one for sure.");
    Ok(())
}

fn available_users(report: &mut Report) -> Result {
    let image = Image::new(report, "", "")?;
    let expected = "root daemon bin sys sync mail www-data operator nobody";
    let seen = image.says(report, None, &["awk", "-F:", "$0=$1", "/etc/passwd"])?;
    report.equal("awk inside", seen.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    let names = |users: &UserDb| -> Vec<String> {
        users.users().map(|user| user.name.to_string_lossy().into_owned()).collect()
    };
    report.equal("our reader outside, in the order of the file", names(&image.users).join(" "), expected);
    let odd = UserDb::new("\nroot:x:0:0\n\nshort\nlate:x:7:7::/:/bin/sh\n", "");
    report.equal(
        "blank lines are skipped, a short line ends nothing",
        names(&odd),
        vec!["root", "short", "late"],
    );
    Ok(())
}

fn user_by_name(report: &mut Report) -> Result {
    let image = Image::new(report, "", "")?;
    let id = image.says(report, Some("nobody"), &["id"])?;
    report.check(
        format!("--user nobody is the image's nobody: {id}"),
        id.starts_with("uid=65534(nobody) gid=65534(nogroup)"),
    );
    let error = image.resolve(Some("ghost")).err().map(|error| error.to_string()).unwrap_or_default();
    report.check(
        format!("an unknown name starts nothing: {error}"),
        error.contains("unable to find user ghost: no matching entries in passwd file"),
    );
    let wanted = image.says(report, Some("nobody"), &["sh", "-c", "cat /proc/self/status"])?;
    let field = |name: &str| {
        wanted.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    report.equal("real, effective, saved and fsuid", field("Uid:"), "65534\t65534\t65534\t65534");
    report.equal("nothing is left of root's capabilities", field("CapEff:"), "0000000000000000");
    Ok(())
}

fn spec_forms(report: &mut Report) -> Result {
    let image = Image::new(report, "", "")?;
    // Form, uid, gid, supplementary groups, as docker resolves them.
    let forms: [(&str, u32, u32, &[u32]); 7] = [
        ("", 0, 0, &[10]),
        ("nobody", 65534, 65534, &[100]),
        ("65534", 65534, 65534, &[100]),
        ("nobody:nogroup", 65534, 65534, &[]),
        ("nobody:20000", 65534, 20000, &[]),
        ("10000:wheel", 10000, 10, &[]),
        ("10000:20000", 10000, 20000, &[]),
    ];
    let mut rows = Vec::new();
    for (form, uid, gid, groups) in forms {
        let user = image.resolve(Some(form))?;
        let resolved: Vec<u32> = user.groups.iter().map(|gid| gid.as_raw()).collect();
        report.equal(
            format!("{form:?}"),
            (user.uid.as_raw(), user.gid.as_raw(), &*resolved),
            (uid, gid, groups),
        );
        let id = image.says(report, Some(form), &["sh", "-c", "id -u; id -g"])?;
        report.equal(
            format!("{form:?} inside"),
            id.split_whitespace().collect::<Vec<_>>(),
            vec![uid.to_string(), gid.to_string()],
        );
        let shown = image.says(report, Some(form), &["id"])?;
        rows.push([format!("{form:?}"), shown]);
    }
    report.table("what id says", &["--user", "id"], rows);
    for wrong in ["-1", "2147483648"] {
        let refused = UserSpec::new(wrong).map_err(|error| error.to_string());
        report.check(format!("{wrong} is out of range: {refused:?}"), refused.is_err());
    }
    Ok(())
}

fn names_on_both_sides(report: &mut Report) -> Result {
    let image = Image::new(report, "appuser", "appuser:x:1000:1000::/home:/bin/sh\n")?;
    // Who counts: --user, then USER, then root.
    let of = |run: Option<&str>| image.resolve(run).map(|user| user.uid.as_raw());
    report.equal("USER appuser counts without --user", of(None)?, 1000);
    report.equal("--user 0 overrides USER", of(Some("0"))?, 0);
    let nameless = Image { user: "", root: image.root.clone(), users: image.users.clone() };
    report.equal("neither: root", nameless.resolve(None)?.uid.as_raw(), 0);

    // One id is enough for one process: the caller's own, or for root a plain 1000 without a user namespace.
    let root = nix::unistd::geteuid().is_root();
    let builder = Sandbox::builder().rootfs(&image.root).user(1000, 1000);
    let builder = match root {
        true => builder.namespaces(Namespaces::ALL.without(Namespace::Time).without(Namespace::User)),
        false => builder,
    };
    let sandbox = builder.build()?;
    let mut command = sandbox.command("sh");
    command.args(["-c", "id -un; read -r _"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut inside = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut inside)?;
    let proc = ProcRoot::host()?;
    let number = proc.process_of_pidfd(child.pidfd())?.status()?.uid.effective;
    let host_names = fs::read("/etc/passwd").map(|text| UserNames::parse(&text)).unwrap_or_default();
    let outside = host_names.name(number).into_owned();
    report.table(
        "one process",
        &["seen from", "uid", "name"],
        [["inside", "1000", inside.trim()], ["the host's ps", &number.to_string(), &outside]],
    );
    report.equal("inside it is the image's user", inside.trim(), "appuser");
    let expected = if root { 1000 } else { nix::unistd::geteuid().as_raw() };
    report.equal("to the kernel it is a number", number, expected);
    report.differ("the host has another name for it", outside.as_str(), inside.trim());
    drop(child.stdin.take());
    child.wait()?;

    let error = Sandbox::builder().rootfs(&image.root).user(4242, 4242);
    let error = if root {
        error.namespaces(Namespaces::ALL.without(Namespace::Time).without(Namespace::User))
    } else {
        error
    };
    let out = error.build()?.command("id").arg("-un").output()?;
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned();
    report.check(
        format!("a number without a line has no name, and runs all the same: {said}"),
        said.contains("4242"),
    );
    Ok(())
}

/// A container as docker has it without userns-remap: its users are the host's, root too.
fn plain(image: &Path, uid: u32) -> SandboxBuilder {
    let kinds = Namespaces::ALL.without(Namespace::Time).without(Namespace::User);
    let builder = Sandbox::builder().namespaces(kinds).rootfs(image).user(uid, uid);
    if uid == 0 { builder.dangerously_allow_host_root() } else { builder }
}

fn volumes(report: &mut Report) -> Result {
    let image = Image::new(report, "", "")?.root;
    fs::create_dir(image.join("test"))?;
    fs::write(image.join("test/garbage"), "")?;
    fs::create_dir(image.join("logFiles"))?;
    let garbage = report.directory().join("garbage");
    fs::write(&garbage, "e=mc^2\n")?;
    fs::set_permissions(&garbage, Permissions::from_mode(0o600))?;
    let logs = report.directory().join("logFiles");
    fs::create_dir(&logs)?;
    chown(&logs, Some(2000), Some(2000))?;

    let run = |builder: SandboxBuilder, script: &str| -> Result<(bool, String)> {
        let out = builder.build()?.command("sh").args(["-c", script]).output()?;
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned();
        Ok((out.status.success(), said))
    };
    let mut rows = Vec::new();
    let mut step = |report: &mut Report, who: &str, builder, script: &str, works: bool| -> Result<String> {
        let (worked, said) = run(builder, script)?;
        rows.push([who.to_owned(), script.to_owned(), said.clone()]);
        report.equal(
            format!("{who}: `{script}` {}", if works { "works" } else { "is refused" }),
            worked,
            works,
        );
        Ok(said)
    };
    let with_garbage = |uid| plain(&image, uid).bind(&garbage, "/test/garbage");
    let with_logs = |uid| plain(&image, uid).bind(&logs, "/logFiles");
    let refused = step(report, "nobody", with_garbage(65534), "cat /test/garbage", false)?;
    report.check("… with Permission denied", refused.contains("Permission denied"));
    let read = step(report, "root", with_garbage(0), "cat /test/garbage", true)?;
    report.equal("… and it is the file", read, "e=mc^2");
    step(report, "2000", with_logs(2000), "echo This is important info > /logFiles/important.log", true)?;
    step(report, "2000 again", with_logs(2000), "echo More info >> /logFiles/important.log", true)?;
    step(report, "3000", with_logs(3000), "echo no >> /logFiles/important.log", false)?;
    let log = logs.join("important.log");
    report.equal(
        "the file is 2000's on the host",
        (fs::metadata(&log)?.uid(), fs::metadata(&log)?.gid()),
        (2000, 2000),
    );
    report.equal("with both lines", fs::read_to_string(&log)?, "This is important info\nMore info\n");

    // The same volume in a user namespace that knows neither 0 nor 2000 of the host.
    let remapped = || -> Result<SandboxBuilder> {
        let map: IdMap = "0 200000 65536".parse()?;
        Ok(Sandbox::builder().id_maps(Maps::new(map.clone(), map)).rootfs(&image).user(0, 0))
    };
    let owner =
        step(report, "remapped root", remapped()?.bind_ro(&logs, "/logFiles"), "stat -c %u /logFiles", true)?;
    report.equal("shown as it is, its owner is nobody that the namespace knows", owner, "65534");
    let owner = step(
        report,
        "remapped root, id-mapped",
        remapped()?.bind(&logs, "/logFiles"),
        "stat -c %u /logFiles; echo A third >> /logFiles/important.log",
        true,
    )?;
    report.equal("a writable bind is id-mapped: the payload stands for the owner", owner, "0");
    report.equal("what it wrote is 2000's on the host", fs::metadata(&log)?.uid(), 2000);
    report.table("who may do what", &["user", "command", "answer"], rows);
    Ok(())
}
