//! Mount namespaces, propagation, `pivot_root`, overlays.

use std::env::set_current_dir;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, chroot};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};
use nix::unistd::pivot_root;
use palisade::Sandbox;
use palisade::creds::{Capability, CapabilitySet, Identity};
use palisade::fsroot::{Dev, Layers, Proc, Root};
use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::procinfo::ProcRoot;

use crate::lab::{Body, Lab, Needs, Report, Result, skip};
use crate::{calls, kit};

const MOUNT: Namespaces = Namespaces::EMPTY.with(Namespace::Mount);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 20,
        commands: "unshare --mount /bin/sh\nmkdir new_root; mount -t tmpfs none new_root; df -h; cp -r myroot/* new_root/\n\
                   df -h; ls new_root; mount | grep new_root   # in another terminal",
        mechanism: "A new mount namespace is a copy of the mount table. What is mounted in it is not in the old one, if \
                    propagation says so: a mount that is shared gives its copy the same peer group, and then mounts \
                    travel both ways. unshare(1) makes everything private first; unshare(2) does not.",
        shows: "a file system that is there for one process alone; and how it escapes through a shared mount",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(mount_namespace),
    },
    Lab {
        number: 21,
        commands: "mkdir new_root/put_old; cd new_root; pivot_root . put_old; cd /; ls /; ls put_old\n\
                   ./escape_chroot; ls /\numount -l put_old; rmdir put_old",
        mechanism: "pivot_root(2) makes a mount the root of the mount namespace and puts the old root somewhere below it. \
                    Once that is unmounted, nothing of it is in the table. pivot_root(\".\", \".\") stacks the old root on \
                    the new one, from where it is detached: no directory is needed for it. As long as the old root is \
                    mounted, a chroot into it leads out.",
        shows: "the host's root below the new one, a way out through it, and none once it is unmounted",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(pivot),
    },
    Lab {
        number: 22,
        commands: "pivot_root: full isolation of files, no escape, consistent images, the base of container runtimes",
        mechanism: "The root is a mount of its own over shared, read-only layers: what is written goes into the layer of \
                    one container. The next one starts from the same files.",
        shows: "the four claims as checks: host unchanged, no escape, two containers begin alike after one was changed",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(reasons),
    },
    Lab {
        number: 23,
        commands: "mount --make-private|--make-shared|--make-slave|--make-unbindable DIR\nmount --bind DIR COPY; mount -t tmpfs none DIR/sub",
        mechanism: "Each mount belongs to a peer group (shared:N), follows one (master:N), both, or neither. A mount below \
                    a shared one is repeated below all its peers and followers. An unbindable one has no copies at all.",
        shows: "the matrix of four kinds and two directions, and what the mount table says of each",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(propagation),
    },
    Lab {
        number: 24,
        commands: "mkdir -p rootfs/{container,work,merge}\n\
                   mount -t overlay overlay -o lowerdir=tools:myroot,upperdir=rootfs/container,workdir=rootfs/work rootfs/merge\n\
                   tree -L 2 rootfs; rm rootfs/merge/which; ls -l rootfs/container",
        mechanism: "The leftmost lower layer wins. Writing copies a file up first. A removed file of a lower layer is a \
                    character device 0,0 in the upper one, a directory that replaces another has the attribute `opaque`. \
                    Inside a user namespace these are user.overlay.* attributes (userxattr).",
        shows: "layers merged, copied up, hidden by whiteouts; kept over a remount; lower layers never change",
        needs: Needs::Nothing,
        outer: MOUNT,
        body: Body::Run(overlay),
    },
];

fn inode(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn number(result: nix::Result<()>) -> i32 {
    result.err().map_or(0, |errno| errno as i32)
}

fn tmpfs(at: &Path) -> nix::Result<()> {
    mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))
}

fn remark(at: &Path, propagation: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, at, None::<&str>, propagation, None::<&str>)
}

fn bind(from: &Path, to: &Path) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

/// The first optional field of a mount point's last line: `shared:1`, `master:2`, `unbindable`, or nothing.
fn tags(at: &Path) -> Result<String> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let found = text.lines().rfind(|line| line.split(' ').nth(4).map(Path::new) == Some(at));
    let line = found.ok_or_else(|| format!("{} is no mount point", at.display()))?;
    let fields = line.split(' ').skip(6).take_while(|field| *field != "-");
    let names: Vec<&str> = fields.map(|field| field.split(':').next().unwrap_or(field)).collect();
    Ok(names.join("+"))
}

fn points() -> Result<Vec<PathBuf>> {
    Ok(ProcRoot::host()?.myself()?.mountinfo()?.iter().map(|mount| mount.mount_point.clone()).collect())
}

fn mount_namespace(report: &mut Report) -> Result {
    let new_root = report.directory().join("new_root");
    fs::create_dir(&new_root)?;
    let inside = || -> Result<(Vec<String>, bool)> {
        unshare(Namespace::Mount)?;
        tmpfs(&new_root)?;
        fs::write(new_root.join("a"), "only here")?;
        Ok((kit::names(&new_root)?, points()?.contains(&new_root)))
    };
    let (child, (names, mounted)) = kit::stay(inside)?;
    report.equal("inside, the file is there", names, ["a"]);
    report.check("inside, the mount is in the table", mounted);
    report.equal("outside, the directory is empty", kit::names(&new_root)?, Vec::<String>::new());
    report.check("outside, the table does not have it", !points()?.contains(&new_root));
    let (own, other) =
        (kit::namespace("self", Namespace::Mount)?, kit::namespace(child.pid(), Namespace::Mount)?);
    report.differ("the mount namespaces are two", own, other);
    drop(child);

    // As on a host whose mounts are shared, as systemd makes them: a raw unshare(2) copies that.
    let shared = report.directory().join("shared");
    fs::create_dir(&shared)?;
    tmpfs(&shared)?;
    remark(&shared, MsFlags::MS_SHARED)?;
    fs::create_dir(shared.join("sub"))?;
    let point = shared.join("sub");
    kit::in_child(|| {
        unshare(Namespace::Mount)?;
        Ok(tmpfs(&point)?)
    })?;
    report.check(
        "through a shared mount what is mounted inside is mounted outside, too",
        points()?.contains(&point),
    );
    umount(&point)?;
    kit::in_child(|| {
        unshare(Namespace::Mount)?;
        remark(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
        Ok(tmpfs(&point)?)
    })?;
    report.check("after make-rprivate it is not", !points()?.contains(&point));
    // The library's sandboxes do that first of all.
    let name = point.clone();
    let sandbox = Sandbox::builder().bind(&shared, "/shared").tmpfs("/shared/sub").build()?;
    let seen = kit::text(sandbox.command("/bin/sh").args(["-c", ": >/shared/sub/x; ls /shared/sub"]))?;
    report.equal("in a sandbox the same directory is a tmpfs of its own", seen.as_str(), "x");
    report.check("and outside nothing is mounted there", !points()?.contains(&name));
    umount(&shared)?;
    fs::remove_dir(shared)?;
    fs::remove_dir(new_root)?;
    Ok(())
}

/// The study's three calls.
fn escape_chroot() -> io::Result<(u64, u64)> {
    fs::create_dir_all(".out")?;
    chroot(".out")?;
    set_current_dir("../../../../../../../../../../")?;
    chroot(".")?;
    inode("/")
}

fn pivot(report: &mut Report) -> Result {
    let new_root = report.directory().join("new_root");
    fs::create_dir(&new_root)?;
    let host = inode("/")?;
    let root = kit::whoami().contains("user:[4026531837]");

    // With put_old, as the study types it.
    let (names, old, jail, at, through) = kit::in_child(|| {
        unshare(Namespace::Mount)?;
        tmpfs(&new_root)?;
        fs::create_dir(new_root.join("put_old"))?;
        let jail = inode(&new_root)?;
        set_current_dir(&new_root)?;
        pivot_root(".", "put_old")?;
        set_current_dir("/")?;
        let (names, old, at) = (kit::names("/")?, inode("/put_old")?, inode("/")?);
        let through = kit::in_child(|| {
            chroot("/put_old")?;
            Ok(inode("/")?)
        })?;
        Ok((names, old, jail, at, through))
    })?;
    report.equal("the new root has what was in it", names, ["put_old"]);
    report.equal("`/` is the new root", at, jail);
    report.equal("put_old is the host's root", old, host);
    report.equal("and a chroot into it is a way out", through, host);

    let (mounts, at, jail, escaped, old) = kit::in_child(|| {
        unshare(Namespace::Mount)?;
        tmpfs(&new_root)?;
        let jail = inode(&new_root)?;
        for directory in ["put_old", "proc"] {
            fs::create_dir(new_root.join(directory))?;
        }
        set_current_dir(&new_root)?;
        pivot_root(".", "put_old")?;
        set_current_dir("/")?;
        // A /proc of the host is needed to see the table; it is the last thing that is taken from there.
        mount(Some("/put_old/proc"), "/proc", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        umount2("/put_old", MntFlags::MNT_DETACH)?;
        fs::remove_dir("/put_old")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let points: Vec<String> =
            mounts.lines().filter_map(|l| Some(l.split(' ').nth(4)?.to_owned())).collect();
        umount2("/proc", MntFlags::MNT_DETACH)?;
        Ok((points, inode("/")?, jail, escape_chroot()?, Path::new("/put_old").exists()))
    })?;
    report.equal("once put_old is unmounted, the table has nothing of the host", mounts, ["/", "/proc"]);
    report.check("put_old is gone", !old);
    report.equal("the escape's three calls lead to the new root", (at, escaped), (jail, jail));

    // pivot_root(".", "."), what the library does; seen through its own sandbox.
    let sandbox = Sandbox::builder()
        .root(Root::host().mount(Dev::new("/again")))
        .user(0, 0)
        .capabilities(CapabilitySet::from(Capability::SysChroot))
        .dangerously_unfiltered()
        .build()?;
    let script = "import os; os.chdir('/tmp'); os.mkdir('out'); os.chroot('out'); os.chdir('../../../../../..'); os.chroot('.'); \
                  print(os.path.exists('/root') or os.path.exists('/home'), sorted(os.listdir('/'))[:3])";
    let mut command = sandbox.command("python3");
    command.args(["-c", script]);
    report.plan(&command.plan()?);
    match kit::text(&mut command) {
        Ok(seen) => report.equal(
            "in a sandbox with CAP_SYS_CHROOT and no filter: the calls succeed, the host is not there",
            seen.as_str(),
            "False ['again', 'bin', 'dev']",
        ),
        Err(error) => report.note(format!("python3 does not run in the sandbox: {error}")),
    }
    let open =
        kit::text(sandbox.command("/bin/sh").args(["-c", "readlink /proc/self/cwd; ls /proc/self/fd"]))?;
    report.equal(
        "its directory is inside, and no descriptor of the host is open",
        open.as_str(),
        "/\n0\n1\n2\n3",
    );

    // What the kernel refuses.
    // In a user namespace the root that it came with is locked, which the kernel looks at before.
    let (errno, name) = if root { (libc::EBUSY, "EBUSY") } else { (libc::EINVAL, "EINVAL") };
    report.equal(
        format!("a new root that is no mount point is on the old root's mount: {name}"),
        kit::in_child(|| {
            unshare(Namespace::Mount)?;
            set_current_dir(&new_root)?;
            Ok(number(pivot_root(".", ".")))
        })?,
        errno,
    );
    report.equal(
        "below a shared mount: EINVAL",
        kit::in_child(|| {
            unshare(Namespace::Mount)?;
            tmpfs(&new_root)?;
            remark(&new_root, MsFlags::MS_SHARED)?;
            set_current_dir(&new_root)?;
            Ok(number(pivot_root(".", ".")))
        })?,
        libc::EINVAL,
    );
    report.equal(
        "without CAP_SYS_ADMIN: EPERM",
        kit::in_child(|| {
            unshare(Namespace::Mount)?;
            tmpfs(&new_root)?;
            set_current_dir(&new_root)?;
            Identity::unprivileged().prepare()?.apply_to_thread()?;
            Ok(number(pivot_root(".", ".")))
        })?,
        libc::EPERM,
    );
    fs::remove_dir(new_root)?;
    Ok(())
}

/// Every file below a directory with its contents, links by their text: equal if nothing changed.
fn contents(directory: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut all = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_symlink() {
                all.push((path.clone(), fs::read_link(path)?.into_os_string().into_encoded_bytes()));
            } else {
                all.push((path.clone(), fs::read(path)?));
            }
        }
    }
    all.sort();
    Ok(all)
}

fn reasons(report: &mut Report) -> Result {
    let image = report.directory().join("image");
    kit::busybox(&image)?;
    let before = contents(&image)?;
    let container = || -> Result<Sandbox> {
        let layers = Layers::new(&image).upper_in_memory(4 << 20, 1000);
        let root = Root::overlay(layers).mount(Proc::new("/proc")).mount(Dev::new("/dev")).tmpfs("/tmp");
        Ok(Sandbox::builder().root(root).build()?)
    };
    let sh = |sandbox: &Sandbox, script: &str| kit::text(sandbox.command("/bin/sh").args(["-c", script]));

    let first = container()?;
    // What belongs to nobody inside can't be changed by anybody there; what is new, can.
    let changed =
        sh(&first, "mkdir /tmp/x && cd /tmp && echo changed >x/file && cat x/file; find / -xdev | wc -l")?;
    report.check("1. files of its own: it writes", changed.starts_with("changed"));
    report.check("   and the host's directory is byte for byte what it was", contents(&image)? == before);
    let host = sh(&first, "ls /")?;
    report.check(
        "2. no escape: nothing of the host but the image",
        !host.contains("boot") && host.contains("bin"),
    );
    let begin = "find / -xdev ! -path '/proc/*' ! -path '/dev/*' | sort | md5sum";
    let (one, two) = (sh(&container()?, begin)?, sh(&container()?, begin)?);
    report.equal(
        "3. consistent: two containers of one image begin alike, after another was changed",
        one,
        two,
    );
    let own = sh(&first, "grep -c '^[0-9]* [0-9]* [0-9:]* / / .* - overlay ' /proc/self/mountinfo")?;
    report.equal("4. the base of a container: its root is a mount of its own", own.as_str(), "1");
    fs::remove_dir_all(image)?;
    Ok(())
}

fn propagation(report: &mut Report) -> Result {
    let base = report.directory().join("base");
    fs::create_dir(&base)?;
    let kinds = [
        ("private", MsFlags::MS_PRIVATE, false, false),
        ("shared", MsFlags::MS_SHARED, true, true),
        ("slave", MsFlags::MS_SLAVE, true, false),
        ("unbindable", MsFlags::MS_UNBINDABLE, false, false),
    ];
    let mut rows = Vec::new();
    for (name, kind, down, up) in kinds {
        // The original is shared where its copy is to follow it; an unbindable one is tried as the original.
        tmpfs(&base)?;
        let (original, copy) = (base.join("original"), base.join("copy"));
        for directory in [&original, &copy] {
            fs::create_dir(directory)?;
        }
        tmpfs(&original)?;
        for point in ["from-original", "from-copy"] {
            fs::create_dir(original.join(point))?;
        }
        if kind == MsFlags::MS_UNBINDABLE {
            remark(&original, kind)?;
            let refused = bind(&original, &copy);
            report.equal(format!("{name}: there is no copy of it"), refused, Err(Errno::EINVAL));
            rows.push([name.to_owned(), tags(&original)?, String::new(), "no copy".into(), "no copy".into()]);
            umount2(&base, MntFlags::MNT_DETACH)?;
            continue;
        }
        remark(&original, if kind == MsFlags::MS_PRIVATE { kind } else { MsFlags::MS_SHARED })?;
        bind(&original, &copy)?;
        remark(&copy, kind)?;
        tmpfs(&original.join("from-original"))?;
        tmpfs(&copy.join("from-copy"))?;
        let seen = points()?;
        let reached =
            (seen.contains(&copy.join("from-original")), seen.contains(&original.join("from-copy")));
        report.equal(format!("{name}: original to copy, and copy to original"), reached, (down, up));
        rows.push([
            name.to_owned(),
            tags(&original)?,
            tags(&copy)?,
            reached.0.to_string(),
            reached.1.to_string(),
        ]);
        umount2(&base, MntFlags::MNT_DETACH)?;
    }
    let expected = [
        ["private", "", ""],
        ["shared", "shared", "shared"],
        ["slave", "shared", "master"],
        ["unbindable", "unbindable", ""],
    ];
    for (row, expected) in rows.iter().zip(expected) {
        let told = [row[0].as_str(), row[1].as_str(), row[2].as_str()];
        report.equal(format!("{}: what mountinfo says of both", row[0]), told, expected);
    }
    report.table(
        "does a mount made on one side appear on the other?",
        &["kind of the copy", "original", "copy", "original to copy", "copy to original"],
        rows,
    );
    fs::remove_dir(base)?;
    Ok(())
}

fn overlay(report: &mut Report) -> Result {
    // On a file system that knows user.* attributes and is no overlay itself.
    let base = report.directory().join("overlay");
    fs::create_dir(&base)?;
    mount(Some("none"), &base, Some("tmpfs"), MsFlags::empty(), Some("size=16m"))?;
    let (tools, myroot, upper, work, merge) = (
        base.join("tools"),
        base.join("myroot"),
        base.join("container"),
        base.join("work"),
        base.join("merge"),
    );
    for directory in [&tools, &upper, &work, &merge] {
        fs::create_dir(directory)?;
    }
    fs::create_dir_all(myroot.join("dir/sub"))?;
    for (path, text) in [
        (tools.join("which"), "tool"),
        (tools.join("both"), "left"),
        (myroot.join("both"), "right"),
        (myroot.join("file"), "old"),
    ] {
        fs::write(path, text)?;
    }
    let below = (contents(&tools)?, contents(&myroot)?);
    let user = !kit::whoami().contains("user:[4026531837]");
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}{}",
        tools.display(),
        myroot.display(),
        upper.display(),
        work.display(),
        if user { ",userxattr" } else { "" }
    );
    let stack = || mount(Some("overlay"), &merge, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    if let Err(errno) = stack() {
        umount(&base)?;
        return Err(skip(format!("no overlay on tmpfs here: {errno}")));
    }
    report.equal(
        "the merged directory has the names of both",
        kit::names(&merge)?,
        ["both", "dir", "file", "which"],
    );
    report.equal(
        "of two files of one name the left layer's is seen",
        fs::read_to_string(merge.join("both"))?,
        "left",
    );
    fs::write(merge.join("file"), "new")?;
    report.equal("what is written is copied up", fs::read_to_string(upper.join("file"))?, "new");
    fs::remove_file(merge.join("which"))?;
    let whiteout = fs::symlink_metadata(upper.join("which"))?;
    report.check(
        "what is removed leaves a whiteout: a character device 0,0",
        whiteout.file_type().is_char_device() && whiteout.rdev() == 0,
    );
    fs::write(merge.join("passing"), "")?;
    fs::remove_file(merge.join("passing"))?;
    report.check(
        "what was only in the upper layer leaves none",
        fs::symlink_metadata(upper.join("passing")).is_err(),
    );
    report.refused(
        "a directory of a lower layer is not renamed",
        fs::rename(merge.join("dir"), merge.join("moved")),
        libc::EXDEV,
    );
    fs::remove_dir_all(merge.join("dir"))?;
    fs::create_dir(merge.join("dir"))?;
    let attribute = if user { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" };
    report.equal(
        "a directory in place of a removed one is opaque",
        calls::attribute(&upper.join("dir"), attribute)?,
        b"y".to_vec(),
    );
    report.equal("and empty", kit::names(merge.join("dir"))?, Vec::<String>::new());
    report.check("the lower layers are what they were", (contents(&tools)?, contents(&myroot)?) == below);
    let mode = fs::metadata(work.join("work"))?.mode() & 0o7777;
    report.equal("the kernel keeps a directory of mode 000 in workdir", mode, 0);
    umount(&merge)?;
    report.equal("unmounted, the place is empty", kit::names(&merge)?, Vec::<String>::new());
    stack()?;
    report.equal("mounted again, the changes are there", kit::names(&merge)?, ["both", "dir", "file"]);
    umount(&merge)?;

    // The library takes any name, and as many layers as the kernel.
    let mut layers: Option<Layers> = None;
    for n in 0..120 {
        let path = base.join(format!("layer {n}:,\\"));
        fs::create_dir(&path)?;
        fs::write(path.join("who"), n.to_string())?;
        fs::write(path.join(n.to_string()), "")?;
        layers = Some(layers.map_or_else(|| Layers::new(&path), |layers| layers.lower(&path)));
    }
    let layers = layers.ok_or("no layer")?;
    let sandbox = Sandbox::builder().mount(palisade::fsroot::Overlay::new("/all", layers)).build()?;
    match kit::text(sandbox.command("/bin/sh").args(["-c", "cat /all/who; echo; ls /all | wc -l"])) {
        Ok(seen) => report.equal(
            "120 layers with ':', ',' and '\\' in their names, in a sandbox",
            seen.as_str(),
            "0\n121",
        ),
        Err(error) => report.note(format!("more than a hundred layers need Linux 6.7: {error}")),
    }
    umount(&base)?;
    fs::remove_dir(base)?;
    Ok(())
}
