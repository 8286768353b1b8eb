//! chroot: what it changes, what it does not, and how one leaves it.

use std::env::set_current_dir;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, chroot, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use palisade::creds::{Capability, CapabilitySet, Identity};
use palisade::fsroot::{Image, Unpack};
use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::procinfo::ProcRoot;
use palisade::secfilter::{Action, Install, Policy, Rule};

use crate::lab::{Body, Lab, Needs, Report, Result, skip};
use crate::{closure, kit};

const MOUNT: Namespaces = Namespaces::EMPTY.with(Namespace::Mount);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 13,
        commands: "mkdir -p myroot/bin; which sh; ldd /bin/sh; cp /bin/sh myroot/bin/; cp LIBRARIES myroot/...\n\
                   chroot myroot /bin/sh\nls /; cd ../../../; ls",
        mechanism: "chroot(2) changes where paths of this process begin, and nothing else: it needs CAP_SYS_CHROOT and \
                    leaves the current directory where it is. `..` at the root stays there. A program whose ELF \
                    interpreter is missing inside gives ENOENT, though the program itself is there.",
        shows: "a directory as `/`: only what was copied is there, and a program without its interpreter does not start",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(jail),
    },
    Lab {
        number: 14,
        commands: "chroot myroot /bin/sh\nps\nmount -t proc proc /proc; ps\nmount | grep myroot   # on the host",
        mechanism: "ps reads /proc, which is a mount like any other. A chroot has no mount table and no pids of its own: \
                    /proc mounted inside lists every process of the pid namespace, and the mount is one of the host's.",
        shows: "`ps` inside: nothing, then every process of the host; with a pid namespace, its own alone",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(ps),
    },
    Lab {
        number: 15,
        commands: "mkdir nginx-root; docker export $(docker create nginx) | tar -C nginx-root -xf -\n\
                   chroot nginx-root /bin/sh\nnginx -g \"daemon off;\"",
        mechanism: "An image is an archive of files with all that its programs need. Unpacked it is a root, but a chroot \
                    gives it nothing else: it listens on the ports of the host's network.",
        shows: "an image unpacked and run from; its namespaces and its ports are the host's",
        needs: Needs::Nothing,
        outer: MOUNT.with(Namespace::Net),
        body: Body::Run(image),
    },
    Lab {
        number: 16,
        commands: "mkdir(\".out\", 0755); chroot(\".out\"); chdir(\"../../../../../\"); chroot(\".\");\n\
                   gcc -o myroot/escape_chroot escape_chroot.c; chroot myroot /bin/sh; ./escape_chroot; ls /",
        mechanism: "`..` stops at the process's root and nowhere else. A second chroot moves the root below the current \
                    directory, which chroot(2) does not change: from there `..` climbs past the old root, and no call \
                    fails. A directory that was open before does the same. pivot_root(2) changes the mount table \
                    instead: above its root there is nothing to climb to.",
        shows: "three calls that lead out of a chroot; without CAP_SYS_CHROOT, with a filter, or after pivot_root they do not",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(escape),
    },
    Lab {
        number: 17,
        commands: "chroot myroot /bin/sh\nhostname; ps; ip a; ipcs; id; cat /proc/self/cgroup",
        mechanism: "A chroot is a path. Namespaces, credentials, cgroup and limits of the process are those it had.",
        shows: "a table: eight namespaces, ids, capabilities and cgroup are the same inside a chroot and outside",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(gaps),
    },
];

/// The errno of a call, 0 if it did what it was told.
fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// What stands at a path: device and inode.
fn inode(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// A program in a root that has no `/dev/null`, which std opens for a program without input.
fn inside(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::inherit());
    command
}

fn enter(root: &Path) -> io::Result<()> {
    chroot(root)?;
    set_current_dir("/")
}

fn jail(report: &mut Report) -> Result {
    let root = report.directory().join("myroot");
    let mut libraries = Vec::new();
    for program in ["/bin/sh", "/bin/ls"] {
        // On most hosts /bin is a link to /usr/bin; in the new root it is a directory.
        for library in closure::copy(Path::new(program), &root)? {
            if !libraries.contains(&library) {
                libraries.push(library);
            }
        }
    }
    report.note(format!("copied: sh, ls, {}", join(&libraries)));
    let top = kit::names(&root)?;
    let (host, jail) = (inode("/")?, inode(&root)?);

    let (seen, at, above, passwd, listing) = kit::in_child(|| {
        enter(&root)?;
        set_current_dir("../../../")?;
        let listing = kit::host_text(inside("/bin/ls").arg("/"))?;
        let passwd = errno(fs::File::open("../../../../etc/passwd"));
        Ok((kit::names("/")?, inode("/")?, inode("..")?, passwd, listing))
    })?;
    report.equal("only what was copied is there", &seen, &top);
    report.equal(
        "`ls /`, run inside, says the same",
        listing.lines().collect::<Vec<_>>().join(" "),
        top.join(" "),
    );
    report.equal("`/` is the directory of the host, by device and inode", at, jail);
    report.equal("`..` at the root is the root", above, jail);
    report.differ("and not the host's root", at, host);
    report.equal("the host's /etc/passwd is not found", passwd, libc::ENOENT);

    let interpreter = libraries.first().ok_or_else(|| skip("sh is a static program here"))?;
    fs::remove_file(root.join(interpreter.strip_prefix("/")?))?;
    let (there, started) = kit::in_child(|| {
        enter(&root)?;
        Ok((Path::new("/bin/ls").exists(), errno(inside("/bin/ls").output())))
    })?;
    report.check("without its interpreter `ls` is there still", there);
    report.equal("and yet execve says that it is not", started, libc::ENOENT);

    let refused = kit::in_child(|| {
        without_chroot()?;
        Ok(errno(chroot(&root)))
    })?;
    report.equal("without CAP_SYS_CHROOT there is no chroot", refused, libc::EPERM);
    fs::remove_dir_all(root)?;
    Ok(())
}

fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Gives up CAP_SYS_CHROOT alone.
fn without_chroot() -> Result {
    let all = palisade::creds::ThreadCapabilities::current()?.permitted;
    let rest = all - CapabilitySet::from(Capability::SysChroot);
    Identity::new().capabilities(rest).prepare()?.apply_to_thread()?;
    Ok(())
}

fn ps(report: &mut Report) -> Result {
    let root = report.directory().join("myroot");
    kit::busybox(&root)?;
    let own = std::process::id().to_string();
    let list = || kit::host_text(inside("/bin/ps").args(["-o", "pid"]));
    let pids = |text: &str| text.lines().skip(1).map(|line| line.trim().to_owned()).collect::<Vec<_>>();

    let empty = kit::in_child(|| {
        enter(&root)?;
        list()
    })?;
    report.equal("with an empty /proc `ps` knows of nobody", pids(&empty), Vec::<String>::new());

    let before = table()?;
    let fresh = mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), None::<&str>);
    if let Err(errno) = fresh {
        // The kernel's rule: who mounts a proc must own the pid namespace that it shows.
        report.equal(
            "an ordinary user may not mount a /proc of the host's processes",
            errno as i32,
            libc::EPERM,
        );
        mount(
            Some("/proc"),
            &root.join("proc"),
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )?;
    }
    let seen = kit::in_child(|| {
        enter(&root)?;
        list()
    })?;
    report.note(format!("with /proc mounted, `ps` in the chroot lists {} processes", pids(&seen).len()));
    report.check("this lab's own process outside is among them", pids(&seen).contains(&own));
    let gained = table()?.into_iter().filter(|point| !before.contains(point)).collect::<Vec<_>>();
    report.check("the mount is in the mount table outside", gained.contains(&root.join("proc")));
    umount2(&root.join("proc"), MntFlags::MNT_DETACH)?;

    let inside = kit::in_child(|| {
        // The first child of this process is pid 1 of the new namespace.
        unshare(Namespace::Pid | Namespace::Mount)?;
        kit::in_child(|| {
            mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), None::<&str>)?;
            enter(&root)?;
            list()
        })
    })?;
    report.equal(
        "in a pid namespace with its own /proc there are two: itself and ps",
        pids(&inside),
        ["1", "2"],
    );
    fs::remove_dir_all(root)?;
    Ok(())
}

/// Mount points of this process.
fn table() -> Result<Vec<PathBuf>> {
    Ok(ProcRoot::host()?.myself()?.mountinfo()?.iter().map(|mount| mount.mount_point.clone()).collect())
}

fn image(report: &mut Report) -> Result {
    let (made, root, archive) = (
        report.directory().join("made"),
        report.directory().join("root"),
        report.directory().join("image.tar"),
    );
    kit::busybox(&made)?;
    fs::copy("/etc/debian_version", made.join("etc/debian_version"))
        .or_else(|_| fs::write(made.join("etc/debian_version"), "made up\n").map(|()| 0))?;
    fs::hard_link(made.join("bin/busybox"), made.join("bin/twin"))?;
    let version = fs::read_to_string(made.join("etc/debian_version"))?;
    kit::host_text(Command::new("tar").arg("-C").arg(&made).arg("-cf").arg(&archive).arg("."))?;
    fs::create_dir(&root)?;
    let unpacked = Image::open(&archive)?.unpack(&root, &Unpack::new())?;
    report.note(format!("unpacked: {unpacked:?}"));

    // Someone else's archive may want out: a link to the host, and a file through it.
    let (bad, target) = (report.directory().join("bad"), report.directory().join("bad.tar"));
    fs::create_dir(&bad)?;
    symlink("/etc", bad.join("etc"))?;
    kit::host_text(Command::new("tar").arg("-C").arg(&bad).arg("-cf").arg(&target).arg("etc"))?;
    fs::remove_file(bad.join("etc"))?;
    fs::create_dir(bad.join("etc"))?;
    fs::write(bad.join("etc/palisade-lab"), "out")?;
    kit::host_text(Command::new("tar").arg("-C").arg(&bad).arg("-rf").arg(&target).arg("etc/palisade-lab"))?;
    let victim = report.directory().join("victim");
    fs::create_dir(&victim)?;
    let told = Image::open(&target)?.unpack(&victim, &Unpack::new());
    report.check(
        "a file through a link to the host lands nowhere on it",
        !Path::new("/etc/palisade-lab").exists(),
    );
    report.note(format!(
        "the archive with the link: {}",
        told.map_or_else(|e| e.to_string(), |u| format!("{u:?}"))
    ));

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (child, (seen, twins, bound)) = kit::stay(|| {
        enter(&root)?;
        let seen = kit::host_text(inside("/bin/cat").arg("/etc/debian_version"))?;
        let twins = inode("/bin/busybox")? == inode("/bin/twin")?;
        Ok((seen, twins, errno(TcpListener::bind(("127.0.0.1", port)))))
    })?;
    report.equal(
        "a program of the image runs and reads the image's files",
        seen.as_str(),
        version.trim_end(),
    );
    report.check("hard links are hard links", twins);
    report.equal("a port that is taken outside is taken inside", bound, libc::EADDRINUSE);
    for kind in Namespace::ALL {
        let (inside, outside) = (kit::namespace(child.pid(), kind)?, kit::namespace("self", kind)?);
        report.equal(format!("the {kind} namespace is the same"), inside, outside);
    }
    drop(child);
    for directory in [made, root, bad, victim] {
        fs::remove_dir_all(directory)?;
    }
    fs::remove_file(archive)?;
    fs::remove_file(target)?;
    Ok(())
}

/// The study's program: no call of it fails where chroot is allowed. Gives what stands at `/` afterwards.
fn escape_chroot() -> io::Result<(u64, u64)> {
    match fs::create_dir(".out") {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    chroot(".out")?;
    set_current_dir("../../../../../../../../../../")?;
    chroot(".")?;
    inode("/")
}

fn escape(report: &mut Report) -> Result {
    let root = report.directory().join("myroot");
    fs::create_dir(&root)?;
    let (host, jail) = (inode("/")?, inode(&root)?);

    // The hole.
    let (before, after) = kit::in_child(|| {
        enter(&root)?;
        Ok((inode("/")?, escape_chroot()?))
    })?;
    report.equal("in the chroot `/` is the jail", before, jail);
    report.equal("after the three calls `/` is the host's", after, host);
    let by_descriptor = kit::in_child(|| {
        let kept = fs::File::open("/")?;
        enter(&root)?;
        nix::unistd::fchdir(&kept)?;
        chroot(".")?;
        Ok(inode("/")?)
    })?;
    report.equal("a directory that was left open leads out as well", by_descriptor, host);

    // The wall, three times.
    let refused = kit::in_child(|| {
        enter(&root)?;
        without_chroot()?;
        Ok(errno(escape_chroot()))
    })?;
    report.equal("without CAP_SYS_CHROOT the second chroot is refused", refused, libc::EPERM);
    let filtered = kit::in_child(|| {
        enter(&root)?;
        let policy =
            Policy::new(Action::Allow).rule(Rule::new(["chroot"], Action::Errno(libc::EPERM as u16)));
        Install::new(&policy.compile()?).apply()?;
        Ok(errno(escape_chroot()))
    })?;
    report.equal("with a filter that refuses chroot, too", filtered, libc::EPERM);
    let pivoted = kit::in_child(|| {
        unshare(Namespace::Mount)?;
        mount(Some(&root), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        set_current_dir(&root)?;
        nix::unistd::pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        set_current_dir("/")?;
        Ok(escape_chroot()?)
    })?;
    report.equal("after pivot_root the three calls succeed, and lead to where one was", pivoted, jail);
    fs::remove_dir_all(root)?;
    Ok(())
}

fn gaps(report: &mut Report) -> Result {
    let root = report.directory().join("myroot");
    fs::create_dir(&root)?;
    let parent = nix::unistd::getpid();
    let (child, (uid, name, signalled)) = kit::stay(|| {
        enter(&root)?;
        let name = nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned();
        // Signal 0 is sent to nobody: it asks whether it might be.
        Ok((nix::unistd::geteuid().as_raw(), name, nix::sys::signal::kill(parent, None).is_ok()))
    })?;
    let proc = ProcRoot::host()?;
    let (inside, outside) = (proc.process(child.pid())?, proc.myself()?);
    let (in_status, out_status) = (inside.status()?, outside.status()?);
    let cgroup = |process: &palisade::procinfo::Process| -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/cgroup", process.pid()))?.replace('\n', " "))
    };
    let name_here = nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned();
    let mut rows = vec![
        ["host name".to_owned(), name_here.clone(), name.clone()],
        ["uid".into(), nix::unistd::geteuid().to_string(), uid.to_string()],
        [
            "effective capabilities".into(),
            format!("{:016x}", out_status.capabilities.effective),
            format!("{:016x}", in_status.capabilities.effective),
        ],
        ["cgroups".into(), cgroup(&outside)?, cgroup(&inside)?],
        ["seccomp".into(), format!("{:?}", out_status.seccomp), format!("{:?}", in_status.seccomp)],
    ];
    for kind in Namespace::ALL {
        rows.push([
            format!("{kind} namespace"),
            kit::namespace("self", kind)?,
            kit::namespace(child.pid(), kind)?,
        ]);
    }
    for [what, outside, inside] in &rows {
        report.equal(format!("{what}: the same in a chroot"), inside, outside);
    }
    report.check("processes outside can be signalled", signalled);
    report.differ("only the root is another", inside.root_identity()?, outside.root_identity()?);
    let short = |text: &String| text.chars().take(40).collect::<String>();
    report.table(
        "what a chroot isolates",
        &["", "outside", "inside"],
        rows.iter().map(|row| row.each_ref().map(short)),
    );
    drop(child);
    fs::remove_dir(root)?;
    Ok(())
}
