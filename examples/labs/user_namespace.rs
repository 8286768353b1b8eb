//! User namespaces: who is who on both sides, ranges of ids, nesting.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::unistd::{geteuid, sethostname};
use palisade::creds::{
    Capability, CapabilitySet, Gid, IdMap, IdRange, Identity, Maps, SubIds, SubRange, ThreadCapabilities, Uid,
};
use palisade::fsroot::Bind;
use palisade::ns::{Namespace, Namespaces, Ns, kind, unshare};
use palisade::{Sandbox, SandboxBuilder};
use palisade_testkit::{Forked, is_root};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result, skip};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 39,
        commands: "unshare -U --map-root-user /bin/sh\nwhoami; id; cat /proc/$$/uid_map\nps -ef | grep sh; lsns -t user   # on the host",
        mechanism: "Who makes a user namespace has all capabilities in it and none outside. An ordinary user may map just \
                    its own id, once, and must give up setgroups before it maps a group: dropping a group could open what \
                    that group is denied. Files belong to who it is outside.",
        shows: "root inside and nobody outside; what the kernel refuses: a second line, another's id, a second map, gid_map \
                before `deny`",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(root_map),
    },
    Lab {
        number: 40,
        commands: "docker run -it ubuntu /bin/sh\nwhoami; readlink /proc/$$/ns/user   # the same as on the host\ndocker run -v /host/dir:/dir ubuntu touch /dir/file",
        mechanism: "Without a user namespace uid 0 inside is uid 0: what it writes to a volume is root's, what root may read \
                    it reads. With one, it is somebody else outside, for whom the host's permissions hold.",
        shows: "a volume written by root of the host, and the same by an id of nobody's; a file of root's out of reach",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(without),
    },
    Lab {
        number: 41,
        commands: "cat /etc/subuid   # testuser:231072:65536\ndockerd --userns-remap=testuser; docker run ... id; ps -ef\nnewuidmap PID 0 1001 1 1 100000 65536",
        mechanism: "/etc/subuid delegates ranges of ids to a user. Docker's remap maps 0 and up to the first of them; \
                    newuidmap does it for an ordinary user, after looking at the same file. The root file system must \
                    belong to the shifted ids: by chown, or by an id-mapped mount, which shifts without changing a file.",
        shows: "uid 0 is 231072 outside and 1000 is 232072; overlaps found; a directory shifted without a chown",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(remap),
    },
    Lab {
        number: 42,
        commands: "uid_map: 0 5000 1000",
        mechanism: "A range of a thousand ids beginning at 0 is 0 to 999, which are 5000 to 5999 outside. An id that is \
                    not mapped cannot be taken, and is shown as 65534.",
        shows: "0 is 5000, 999 is 5999, 1000 is nobody",
        needs: Needs::Root,
        outer: Namespaces::EMPTY,
        body: Body::Run(thousand),
    },
    Lab {
        number: 43,
        commands: "unshare -U --map-root-user unshare -U --map-root-user /bin/sh",
        mechanism: "User namespaces nest, 32 deep. An id is translated level by level. Capabilities in one count for what \
                    that one or one below it owns, never for what belongs to one above.",
        shows: "an id through three maps, capabilities that do not reach up, and the depth at which it ends",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(nested),
    },
];

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// Becomes an ordinary user, if it is root.
fn ordinary() -> Result {
    if geteuid().is_root() {
        Identity::new().ids(Uid::NOBODY, Gid::NOBODY).prepare()?.apply_to_thread()?;
        // The change of ids has closed this process's /proc to itself, as a precaution for programs that have secrets.
        prctl::set_dumpable(true)?;
    }
    Ok(())
}

fn root_map(report: &mut Report) -> Result {
    let directory = report.directory().join("open");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777))?;
    let write = |file: &str, text: &str| errno(fs::write(format!("/proc/self/{file}"), text));

    let (refused, unmapped) = kit::in_child(|| {
        ordinary()?;
        let own = geteuid();
        unshare(Namespace::User)?;
        let refused = [
            ("two lines", write("uid_map", &format!("0 {own} 1\n1 {} 1", own.as_raw() + 1))),
            ("another's id", write("uid_map", "0 0 1")),
            ("gid_map before deny", write("gid_map", &format!("0 {} 1", nix::unistd::getegid()))),
        ];
        Ok((refused.map(|(what, errno)| (what.to_owned(), errno)), geteuid().as_raw()))
    })?;
    for (what, errno) in refused {
        report.equal(format!("{what}: EPERM"), errno, libc::EPERM);
    }
    report.equal("before there is a map one is 65534", unmapped, 65534);

    let file = directory.join("made");
    let (child, (ids, map, deny, caps, second, chowned, named)) = kit::stay(|| {
        ordinary()?;
        let (uid, gid) = (geteuid(), nix::unistd::getegid());
        unshare(Namespace::User)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        let ids = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
        fs::write(&file, "x")?;
        let chowned = errno(chown(&file, Some(1), None));
        let named = sethostname("x").err().map_or(0, |errno| errno as i32);
        let map = fs::read_to_string("/proc/self/uid_map")?.split_whitespace().collect::<Vec<_>>().join(" ");
        let deny = fs::read_to_string("/proc/self/setgroups")?;
        let second = write("uid_map", "0 0 1");
        Ok((ids, map, deny, ThreadCapabilities::current()?.effective.bits(), second, chowned, named))
    })?;
    let outside = if is_root() { 65534 } else { geteuid().as_raw() };
    report.equal("inside it is root", ids, (0, 0));
    report.equal("its map says who that is", map, format!("0 {outside} 1"));
    report.equal("setgroups is denied", deny.trim(), "deny");
    report.equal("it has every capability there is", caps, CapabilitySet::supported()?.bits());
    report.equal("a second map: EPERM", second, libc::EPERM);
    report.equal("chown to an id that is not mapped: EINVAL", chowned, libc::EINVAL);
    report.equal("the host's name is not its: EPERM", named, libc::EPERM);
    report.equal(
        "on the host the process is the ordinary user's",
        fs::metadata(format!("/proc/{}", child.pid()))?.uid(),
        outside,
    );
    report.equal("and so is what it made", fs::metadata(&file)?.uid(), outside);
    drop(child);
    fs::remove_dir_all(directory)?;
    Ok(())
}

fn sh(builder: SandboxBuilder, script: &str) -> Result<String> {
    let sandbox = builder.build()?;
    kit::text(sandbox.command("/bin/sh").args(["-c", script]))
}

fn range(start: u32, count: u32) -> Result<Maps> {
    let map = || IdMap::new([IdRange::new(0, start, count)?]);
    Ok(Maps::new(map()?, map()?))
}

fn without(report: &mut Report) -> Result {
    let volume = report.directory().join("volume");
    fs::create_dir(&volume)?;
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777))?;
    let secret = report.directory().join("secret");
    fs::write(&secret, "of root")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let script = |name: &str| {
        format!("readlink /proc/self/ns/user; id -u; touch /volume/{name}; cat /secret 2>&1 || true")
    };

    // As docker's default has it: no user namespace, root is root.
    let like_docker = Sandbox::builder()
        .share(Namespace::User)
        .user(0, 0)
        .dangerously_allow_host_root()
        .bind(&volume, "/volume")
        .bind_ro(&secret, "/secret");
    let text = sh(like_docker, &script("one"))?;
    let lines: Vec<_> = text.lines().collect();
    report.equal(
        "without one: the host's user namespace",
        lines[0],
        kit::namespace("self", Namespace::User)?,
    );
    report.equal("without one: uid 0", lines[1], "0");
    report.equal("what it writes is root's on the host", fs::metadata(volume.join("one"))?.uid(), 0);
    report.equal("it reads what only root may", lines[2], "of root");

    // With one: the same number inside is another outside. The volume belongs to that id.
    chown(&volume, Some(231_072), Some(231_072))?;
    let with = Sandbox::builder()
        .id_maps(range(231_072, 65_536)?)
        .bind(&volume, "/volume")
        .bind_ro(&secret, "/secret");
    let text = sh(with, &script("two"))?;
    let lines: Vec<_> = text.lines().collect();
    report.differ("with one: another user namespace", lines[0], kit::namespace("self", Namespace::User)?);
    report.equal("with one: uid 0 all the same", lines[1], "0");
    report.equal(
        "what it writes belongs to 231072 on the host",
        fs::metadata(volume.join("two"))?.uid(),
        231_072,
    );
    report.check("root's file is closed to it", lines[2].contains("Permission denied"));
    let error =
        Sandbox::builder().share(Namespace::User).user(0, 0).build().err().map(|error| error.to_string());
    report.check(
        "the builder makes root of the host nobody by accident",
        error.is_some_and(|e| e.contains("dangerously")),
    );
    fs::remove_dir_all(volume)?;
    fs::remove_file(secret)?;
    Ok(())
}

fn remap(report: &mut Report) -> Result {
    let file = SubIds::parse(b"testuser:231072:65536\n1234:400000:1000\nbroken line\n");
    let uid = Uid::new(1001).ok_or("an id")?;
    let of_user = file.of(Some("testuser".as_ref()), uid);
    report.equal("/etc/subuid by name", of_user.len(), 1);
    report.equal("   and by number", file.of(None, Uid::new(1234).ok_or("an id")?).len(), 1);
    report.equal("a line that is none is told, not guessed at", file.skipped().len(), 1);
    let pool = [SubRange::new(100_000, 600_000)?];
    let used: Vec<SubRange> = file.all().collect();
    let free = SubRange::allocate(&pool, &used, 65_536)?;
    report.note(format!("the next free range of 65536: {free:?}"));
    let overlaps = IdMap::new([IdRange::new(0, 100_000, 1000)?, IdRange::new(500, 200_000, 1000)?]);
    report.check("ranges that overlap are an error before the kernel sees them", overlaps.is_err());
    let maps = Maps::remapped(uid, &file, &file);
    report.note(format!(
        "--userns-remap=1001 with that file: {}",
        maps.map_or_else(|e| e.to_string(), |m| format!("{m:?}"))
    ));

    let id_of =
        |inside: u32, map: &IdMap| Uid::new(inside).and_then(|uid| map.to_outside(uid)).map(Uid::as_raw);
    let map = IdMap::remapped(&of_user)?;
    report.equal(
        "container root is 231072, uid 1000 is 232072",
        (id_of(0, &map), id_of(1000, &map)),
        (Some(231_072), Some(232_072)),
    );

    let caps = [Capability::Setuid, Capability::Setgid, Capability::Chown, Capability::DacOverride]
        .into_iter()
        .collect::<CapabilitySet>();
    let script = "id -u; touch /tmp/f; chown 1000:1000 /tmp/f; stat -c %u:%g /tmp/f; while read -r a b c; do echo $a $b $c; done </proc/self/uid_map";
    if !is_root() {
        let maps =
            Maps::rootless().map_err(|error| skip(format!("no ids are delegated to this user: {error}")))?;
        let builder = Sandbox::builder().id_maps(maps).capabilities(caps);
        let text = sh(builder, script).map_err(|error| skip(format!("newuidmap: {error}")))?;
        report.check("an ordinary user's own range, by newuidmap", text.starts_with("0\n1000:1000\n"));
        return Ok(());
    }
    let text = sh(Sandbox::builder().id_maps(range(231_072, 65_536)?).capabilities(caps), script)?;
    report.equal(
        "root with the range: uid 0, chown works, the map",
        text.as_str(),
        "0\n1000:1000\n0 231072 65536",
    );

    // A root file system of ids 0 and 1000, as an image brings them, for a container whose ids are shifted.
    let image = report.directory().join("image");
    fs::create_dir(&image)?;
    for (name, id) in [("of-root", 0), ("of-user", 1000)] {
        fs::write(image.join(name), "")?;
        chown(image.join(name), Some(id), Some(id))?;
    }
    let look = "stat -c %u:%g /image/of-root /image/of-user";
    let plain = sh(Sandbox::builder().id_maps(range(231_072, 65_536)?).bind_ro(&image, "/image"), look)?;
    report.equal("its files are nobody's there", plain.as_str(), "65534:65534\n65534:65534");
    let shifted = Bind::read_only(&image, "/image").id_mapped(held(&range(231_072, 65_536)?)?);
    let text = sh(Sandbox::builder().id_maps(range(231_072, 65_536)?).mount(shifted), look)?;
    report.equal("an id-mapped mount shifts them without a chown", text.as_str(), "0:0\n1000:1000");
    report.equal("on disk they are what they were", fs::metadata(image.join("of-user"))?.uid(), 1000);
    fs::remove_dir_all(image)?;
    Ok(())
}

/// A child in a new user namespace with these maps, which stays.
fn mapped(maps: &Maps) -> Result<Forked> {
    let (child, ()) = kit::stay(|| Ok(unshare(Namespace::User)?))?;
    let directory = fs::File::open(format!("/proc/{}", child.pid()))?;
    maps.prepare()?.apply(directory.as_fd())?;
    Ok(child)
}

/// A user namespace with these maps that its descriptor alone keeps.
fn held(maps: &Maps) -> Result<std::os::fd::OwnedFd> {
    let child = mapped(maps)?;
    Ok(fs::File::open(format!("/proc/{}/ns/user", child.pid()))?.into())
}

fn thousand(report: &mut Report) -> Result {
    let directory = report.directory().join("files");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
    let of_other = directory.join("of-6000");
    fs::write(&of_other, "")?;
    chown(&of_other, Some(6000), Some(6000))?;

    let holder = mapped(&range(5000, 1000)?)?;
    let become_and_make = |inside: u32| {
        kit::in_child(|| {
            Ns::<kind::User>::of_process(holder.pid())?.join_in_thread()?;
            nix::unistd::setgroups(&[])?;
            let id = nix::unistd::Uid::from_raw(inside);
            let outcome = nix::unistd::setresuid(id, id, id).err().map_or(0, |errno| errno as i32);
            let shown = fs::metadata(&of_other)?.uid();
            if outcome == 0 {
                fs::write(directory.join(inside.to_string()), "")?;
            }
            Ok((outcome, shown))
        })
    };
    for (inside, outside) in [(0, 5000), (999, 5999)] {
        let (outcome, shown) = become_and_make(inside)?;
        report.equal(format!("{inside} inside can be taken"), outcome, 0);
        report.equal(
            "   what it makes belongs to",
            fs::metadata(directory.join(inside.to_string()))?.uid(),
            outside,
        );
        report.equal("   a file of 6000 is shown as nobody's", shown, 65534);
    }
    report.equal("1000 inside is not mapped: EINVAL", become_and_make(1000)?.0, libc::EINVAL);
    drop(holder);
    let text =
        sh(Sandbox::builder().id_maps(range(5000, 1000)?), "id -u; cat /proc/self/uid_map | tr -s ' '")?;
    report.equal("the same by the builder", text.as_str(), "0\n 0 5000 1000");
    fs::remove_dir_all(directory)?;
    Ok(())
}

/// Goes into a new user namespace with its own id as `inside`.
fn deeper(inside: u32) -> Result {
    let (uid, gid) = (geteuid(), nix::unistd::getegid());
    unshare(Namespace::User)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{inside} {gid} 1"))?;
    fs::write("/proc/self/uid_map", format!("{inside} {uid} 1"))?;
    Ok(())
}

fn nested(report: &mut Report) -> Result {
    // 100 in the first is 10 in the second is 1 in the third.
    let (maps, seen) = kit::in_child(|| {
        ordinary()?;
        let mut maps = Vec::new();
        for inside in [100, 10, 1] {
            deeper(inside)?;
            maps.push(fs::read("/proc/self/uid_map")?);
        }
        Ok((maps, geteuid().as_raw()))
    })?;
    let maps: Vec<IdMap> = maps.iter().filter_map(|text| IdMap::parse(text).ok().flatten()).collect();
    report.equal("three levels down it is 1", seen, 1);
    report.equal("three maps", maps.len(), 3);
    let outside = if is_root() { 65534 } else { geteuid().as_raw() };
    // Innermost first, each to the level above.
    let translated = IdMap::to_outside_through(Uid::new(1).ok_or("an id")?, maps.iter().rev());
    report.equal("and through all three, who it is on the host", translated.map(Uid::as_raw), Some(outside));

    let point = report.directory().join("point");
    fs::create_dir(&point)?;
    let mounts = |point: &Path| mount(Some("none"), point, Some("tmpfs"), MsFlags::empty(), None::<&str>);
    let (all, above, own) = kit::in_child(|| {
        ordinary()?;
        deeper(0)?;
        unshare(Namespace::Mount)?;
        // The mount namespace is of the first level; this process goes one down.
        deeper(0)?;
        let all = ThreadCapabilities::current()?.effective == CapabilitySet::supported()?;
        let above = mounts(&point).err().map_or(0, |errno| errno as i32);
        unshare(Namespace::Mount)?;
        Ok((all, above, mounts(&point).is_ok()))
    })?;
    report.check("one level down it has all capabilities", all);
    report.equal(
        "in the mount namespace of the level above they count for nothing: EPERM",
        above,
        libc::EPERM,
    );
    report.check("in one of its own they do", own);
    fs::remove_dir(point)?;

    let (depth, end) = kit::in_child(|| {
        ordinary()?;
        // Without a map the next level down can't be made: each gets one.
        for depth in 0..100 {
            if let Err(error) = deeper(0) {
                return Ok((depth, error.to_string()));
            }
        }
        Err("there is no end".into())
    })?;
    report.check(
        format!("the kernel nests them {depth} deep from here, of 33 at most"),
        (2..=33).contains(&depth),
    );
    report.check(
        format!("and says so: {end}"),
        end.contains("No space left") || end.contains("Too many users"),
    );
    Ok(())
}
