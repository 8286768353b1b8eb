//! System V objects, message queues and shared memory, of one's own and shared.

use std::ffi::CString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::mqueue::{MQ_OFlag, MqAttr, mq_close, mq_open, mq_receive, mq_send, mq_unlink};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::Mode;
use palisade::creds::{Gid, Identity, Uid};
use palisade::ns::{AnyNs, Join, Namespace, Namespaces, pidfd_open, unshare};
use palisade::{Ipc, Sandbox, Stdio};
use palisade_testkit::{Forked, fork, scaled};

use crate::calls::{Segment, semaphore_and_queue};
use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};

const OUTER: Namespaces = Namespaces::EMPTY.with(Namespace::Mount).with(Namespace::Ipc);

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 26,
        commands: "ipcs -m; ipcmk -M 2000; ipcs -m\nunshare -i /bin/sh; ipcs -m; ipcmk -M 1000; ipcs -m\nlsns -t ipc",
        mechanism: "An ipc namespace holds System V shared memory, semaphores and message queues, and POSIX message \
                    queues. Keys and numbers begin anew in it, and its objects end with its last process. Pipes, sockets \
                    and files are not among them: /dev/shm follows the mounts.",
        shows: "the same keys on both sides with different contents; a pipe still crosses",
        needs: Needs::Nothing,
        outer: OUTER,
        body: Body::Run(own),
    },
    Lab {
        number: 27,
        commands: "docker run --rm --name test1 --ipc=shareable -it ubuntu bash\nipcmk -M 2000; ipcs -m; lsns -p $$\n\
                   docker run --rm --name test2 --ipc=container:test1 -it ubuntu bash\nipcs -m; lsns -p $$",
        mechanism: "The second container joins the first one's ipc namespace and makes all others itself. The namespace \
                    lives as long as one process or one handle is in it, not as long as its maker.",
        shows: "one ipc namespace, seven different others, a segment read by the second after the first has ended",
        needs: Needs::Nothing,
        outer: OUTER,
        body: Body::Run(shared),
    },
    Lab {
        number: 28,
        commands: "docker run -d -u nobody --name ch6_ipc_producer --ipc shareable dockerinaction/ch6_ipc -producer\n\
                   docker run -d --name ch6_ipc_consumer dockerinaction/ch6_ipc -consumer; docker logs ch6_ipc_consumer\n\
                   docker run -d --name ch6_ipc_consumer --ipc container:ch6_ipc_producer dockerinaction/ch6_ipc -consumer",
        mechanism: "A POSIX message queue is found by its name in the ipc namespace of who opens it. This one takes ten \
                    messages; the sender of the eleventh waits until somebody reads.",
        shows: "a consumer that finds nothing, one that gets all 500 messages in order, a producer that waits at the 11th",
        needs: Needs::Nothing,
        outer: OUTER,
        body: Body::Run(queue),
    },
    Lab {
        number: 29,
        commands: "docker run --ipc none|private|shareable|container:NAME|host ...",
        mechanism: "The mode decides on two things at once: which ipc namespace, and what /dev/shm is. POSIX shared memory \
                    is files there, so sharing the namespace without the directory would share only half.",
        shows: "a matrix of five modes: namespace, /dev/shm and its size, what is seen of others",
        needs: Needs::Nothing,
        outer: OUTER,
        body: Body::Run(modes),
    },
];

const KEY: i32 = 0x0070_a115;

fn own(report: &mut Report) -> Result {
    let outside = Segment::make(KEY, 2000)?;
    outside.write(b"outside")?;
    let listed = || -> io::Result<usize> { Ok(fs::read_to_string("/proc/sysvipc/shm")?.lines().count() - 1) };
    let here = listed()?;
    let (found, id, list, text, others) = kit::in_child(|| {
        unshare(Namespace::Ipc)?;
        let found = Segment::find(KEY, 2000).err().and_then(|error| error.raw_os_error());
        let segment = Segment::make(KEY, 1000)?;
        segment.write(b"inside")?;
        let others = semaphore_and_queue(KEY)?;
        Ok((found, segment.id(), listed()?, segment.read(6)?, others))
    })?;
    report.equal("outside, one segment is listed", here, 1);
    report.equal("inside, the key is not known", found, Some(libc::ENOENT));
    report.equal("inside, numbers begin at 0", (id, others), (0, (0, 0)));
    report.equal("inside, the list has the own segment alone", list, 1);
    report.equal("one key, two segments: inside", text, b"inside".to_vec());
    report.equal("   and outside", outside.read(7)?, b"outside".to_vec());
    let again = kit::in_child(|| {
        unshare(Namespace::Ipc)?;
        Ok(listed()?)
    })?;
    report.equal("what was in the namespace ended with its last process", again, 0);
    report.check("a pipe crosses: it is how these children tell", true);
    outside.remove()?;

    let name = CString::new("/palisade-lab")?;
    let attributes = MqAttr::new(0, 10, 64, 0);
    let open = |flags| mq_open(name.as_c_str(), flags, Mode::from_bits_truncate(0o600), Some(&attributes));
    mq_close(open(MQ_OFlag::O_CREAT | MQ_OFlag::O_RDWR)?)?;
    let found = kit::in_child(|| {
        unshare(Namespace::Ipc)?;
        Ok(open(MQ_OFlag::O_RDWR).err().map_or(0, |errno| errno as i32))
    })?;
    report.equal("a message queue's name is not known inside either", found, libc::ENOENT);
    mq_unlink(name.as_c_str())?;
    Ok(())
}

/// The namespaces of the calling process's children, in the order of [`Namespace::ALL`]. They are looked at from a
/// child, since it is the first one in a new pid namespace.
fn namespaces() -> Result<Vec<String>> {
    kit::in_child(|| Namespace::ALL.into_iter().map(|kind| kit::namespace("self", kind)).collect())
}

/// Namespaces of all kinds but `ipc`, the user namespace first.
fn others_of_its_own() -> Result {
    Ok(unshare(Namespaces::ALL.without(Namespace::Ipc))?)
}

fn shared(report: &mut Report) -> Result {
    let (first, of_first) = kit::stay(|| {
        unshare(Namespace::Ipc)?;
        let segment = Segment::make(KEY, 2000)?;
        segment.write(b"from test1")?;
        others_of_its_own()?;
        namespaces()
    })?;
    let join = |pid: u32| -> Result {
        Ok(Join::new().process(pidfd_open(pid)?, Namespace::Ipc.into()).prepare()?.run()?)
    };
    let (second, (of_second, line, text)) = kit::stay(|| {
        join(first.pid())?;
        let list = fs::read_to_string("/proc/sysvipc/shm")?;
        let size =
            list.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)).unwrap_or("none").to_owned();
        let text = Segment::find(KEY, 2000)?.read(10)?;
        others_of_its_own()?;
        Ok((namespaces()?, size, text))
    })?;
    let rows = Namespace::ALL.iter().zip(of_first.iter().zip(&of_second));
    report.table(
        "two containers",
        &["kind", "test1", "test2"],
        rows.clone().map(|(kind, (one, two))| [kind.to_string(), one.clone(), two.clone()]),
    );
    for (kind, (one, two)) in rows {
        if *kind == Namespace::Ipc {
            report.equal("the ipc namespace is one", one, two);
        } else {
            report.differ(format!("each has a {kind} namespace of its own"), one, two);
        }
    }
    report.equal("the second sees a segment of 2000 bytes", line.as_str(), "2000");
    report.equal("and reads it", text, b"from test1".to_vec());
    drop(first);
    let text = kit::in_child(|| {
        join(second.pid())?;
        Ok(Segment::find(KEY, 2000)?.read(10)?)
    })?;
    report.equal(
        "after the first has ended it is there still, as the second lives",
        text,
        b"from test1".to_vec(),
    );
    Ok(())
}

const MESSAGES: usize = 500;

/// What the study's producer sends: two letters of hexadecimal, 500 times, then `done`.
fn messages() -> Vec<String> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        format!("{:02x}", state >> 24)
    };
    let mut all: Vec<String> = (0..MESSAGES).map(|_| next()).collect();
    all.push("done".into());
    all
}

fn produce(mut pipe: fs::File) -> Result {
    if nix::unistd::geteuid().is_root() && kit::whoami().contains("user:[4026531837]") {
        Identity::new().ids(Uid::NOBODY, Gid::NOBODY).prepare()?.apply_to_thread()?;
    }
    writeln!(pipe, "uid {}", nix::unistd::geteuid())?;
    let attributes = MqAttr::new(0, 10, 1024, 0);
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_WRONLY;
    let queue = mq_open(c"/ch6_ipc", flags, Mode::from_bits_truncate(0o644), Some(&attributes))?;
    for message in messages() {
        writeln!(pipe, "Produced: {message}")?;
        mq_send(&queue, message.as_bytes(), 0)?;
    }
    mq_close(queue)?;
    mq_unlink(c"/ch6_ipc")?;
    Ok(())
}

/// What the consumer prints.
fn consume() -> Result<Vec<String>> {
    let queue = match mq_open(c"/ch6_ipc", MQ_OFlag::O_RDONLY, Mode::empty(), None) {
        Err(Errno::ENOENT) => {
            return Ok(vec!["Either the producer has not been started or it is elsewhere".into()]);
        }
        queue => queue?,
    };
    let mut printed = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let len = mq_receive(&queue, &mut buffer, &mut 0)?;
        let message = String::from_utf8_lossy(&buffer[..len]).into_owned();
        printed.push(format!("Consumed: {message}"));
        if message == "done" {
            mq_close(queue)?;
            return Ok(printed);
        }
    }
}

fn queue(report: &mut Report) -> Result {
    let mut producer: Forked = fork(|pipe| i32::from(produce(pipe).is_err()))?;
    let pid = producer.pid();
    let mut told = BufReader::new(producer.pipe().try_clone()?);
    let mut line = || -> io::Result<String> {
        let mut line = String::new();
        told.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    };
    let who = line()?;
    let mut produced = (0..11).map(|_| line()).collect::<io::Result<Vec<_>>>()?;
    let pipe = producer.pipe();
    let mut silent = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let wait = u16::try_from(scaled(Duration::from_millis(200)).as_millis())?;
    let more = poll(&mut silent, wait)? > 0 || !told.buffer().is_empty();
    report.equal("the producer waits at its eleventh message", (produced.len(), more), (11, false));
    report.note(format!("the producer is {who}"));

    let alone = kit::in_child(|| {
        unshare(Namespace::Ipc)?;
        consume()
    })?;
    report.equal(
        "a consumer in a namespace of its own finds no queue",
        alone,
        ["Either the producer has not been started or it is elsewhere"],
    );
    let consumed = kit::in_child(|| {
        unshare(Namespace::Ipc)?;
        Join::new().process(pidfd_open(pid)?, Namespace::Ipc.into()).prepare()?.run()?;
        consume()
    })?;
    for line in told.lines() {
        produced.push(line?);
    }
    let sent: Vec<String> = produced.iter().map(|line| line.replace("Produced", "Consumed")).collect();
    report.equal("one that has joined gets 500 messages and `done`", consumed.len(), MESSAGES + 1);
    report.check("just what was produced, in that order", consumed == sent);
    report.check("the producer ended well", producer.wait()?.success());
    report.equal(
        "and its queue is gone",
        mq_open(c"/ch6_ipc", MQ_OFlag::O_RDONLY, Mode::empty(), None).err(),
        Some(Errno::ENOENT),
    );
    Ok(())
}

/// What a sandbox sees: its ipc namespace, kilobytes of `/dev/shm` if there is one, and the names in it.
const LOOK: &str = "readlink /proc/self/ns/ipc
    if [ -d /dev/shm ]; then df -k /dev/shm | tail -1 | { read -r _ size _; echo $size; }; else echo none; fi
    echo $(ls /dev/shm 2>/dev/null)";

fn look(sandbox: &Sandbox) -> Result<[String; 3]> {
    let text = kit::text(sandbox.command("/bin/sh").args(["-c", LOOK]))?;
    let mut lines = text.lines().map(str::to_owned);
    Ok([0; 3].map(|_| lines.next().unwrap_or_default()))
}

fn modes(report: &mut Report) -> Result {
    let shm = report.directory().join("shm");
    fs::create_dir(&shm)?;
    fs::set_permissions(&shm, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    let own = kit::namespace("self", Namespace::Ipc)?;
    let of_host = format!("palisade-lab-{}", std::process::id());
    // POSIX shared memory of the host: a file.
    let host_file = std::path::Path::new("/dev/shm").join(&of_host);
    fs::write(&host_file, "")?;

    let mut rows = Vec::new();
    let mut row = |mode: &str, seen: &[String; 3]| {
        rows.push([mode.to_owned(), seen[0].clone(), seen[1].clone(), seen[2].clone()]);
    };
    let private = look(&Sandbox::builder().ipc(Ipc::Private).build()?)?;
    row("private", &private);
    report.differ("private: a namespace of its own", &private[0], &own);
    report.equal(
        "private: 64 MiB of /dev/shm, empty",
        (private[1].as_str(), private[2].as_str()),
        ("65536", ""),
    );
    let none = look(&Sandbox::builder().ipc(Ipc::WithoutShm).build()?)?;
    row("none", &none);
    report.differ("none: a namespace of its own", &none[0], &own);
    report.equal("none: no /dev/shm", none[1].as_str(), "none");

    let donor = Sandbox::builder().ipc(Ipc::shareable(&shm)).build()?;
    let mut command = donor.command("/bin/sh");
    command.args(["-c", ": >/dev/shm/of-donor; echo ready; exec sleep 100"]).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut ready = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut ready)?;
    let namespace = AnyNs::of_process(child.id(), Namespace::Ipc)?;
    row("shareable", &[namespace.to_string(), "the host's directory".into(), "of-donor".into()]);
    report.differ("shareable: a namespace of its own", &namespace.to_string(), &own);
    match Sandbox::builder().ipc(Ipc::of(namespace.clone(), &shm)).build() {
        Ok(joined) => {
            let seen = look(&joined)?;
            row("container:donor", &seen);
            report.equal("container: the donor's namespace", &seen[0], &namespace.to_string());
            report.equal("container: the donor's /dev/shm", seen[2].as_str(), "of-donor");
        }
        // Joining from outside of the donor's user namespace is for root.
        Err(error) => report.check(
            format!("container: refused to this user: {error}"),
            error.to_string().contains("CAP_SYS_ADMIN"),
        ),
    }
    let before = look(&Sandbox::builder().ipc(Ipc::Private).build()?)?;
    report.equal("a third sandbox sees nothing of theirs", before[2].as_str(), "");
    child.kill()?;
    child.wait()?;

    let host = look(&Sandbox::builder().ipc(Ipc::Host).build()?)?;
    row("host", &host);
    report.equal("host: the host's namespace", &host[0], &own);
    report.check("host: the host's /dev/shm", host[2].split(' ').any(|name| name == of_host));
    fs::remove_file(host_file)?;
    report.table("docker run --ipc", &["mode", "ipc namespace", "/dev/shm, KiB", "seen in it"], rows);
    fs::remove_dir_all(shm)?;
    Ok(())
}
