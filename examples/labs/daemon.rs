//! The docker daemon and its socket.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, ErrorKind, IoSlice, IoSliceMut, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command as HostCommand;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg, sockopt,
};
use nix::sys::statfs::{self, CGROUP2_SUPER_MAGIC};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use palisade::cgroup::Mode;
use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::{Sandbox, SandboxBuilder};

use crate::kit;
use crate::lab::{Body, Lab, Needs, Report, Result};

pub(crate) const LABS: &[Lab] = &[
    Lab {
        number: 9,
        commands: "curl -fsSL https://get.docker.com | sh\ndocker info\ndocker version\nsystemctl status docker -l --no-pager",
        mechanism: "What `docker info` reads is there without a daemon: /proc/filesystems, /sys/kernel/security/lsm, \
                    sysctls and the type of the file system at /sys/fs/cgroup. A pure cgroup v2 host has cgroup2 mounted \
                    there; a hybrid one has it at /sys/fs/cgroup/unified.",
        shows: "storage, cgroup version, security modules, limits of user namespaces: what a daemon would report of this host",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(info),
    },
    Lab {
        number: 10,
        commands: "docker info\nls -alh /var/run/docker.sock\nsudo su -\nusermod -aG docker ubuntu",
        mechanism: "A pathname socket is an inode. connect(2) needs write permission on it, checked against the caller's \
                    fsuid and groups at that moment; no data ever lands in the file. Whoever may connect may ask a daemon \
                    that runs as root for anything: membership of that group equals root.",
        shows: "a socket of mode 0660: nobody gets EACCES, nobody in its group gets an answer, its owner does",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(permissions),
    },
    Lab {
        number: 11,
        commands: "curl --unix-socket /var/run/docker.sock http://localhost/info\ncurl http://127.0.0.1:2375/info",
        mechanism: "Both are sockets. A UNIX domain socket is named by a path or an abstract name and copies from one \
                    process's buffer to another's; TCP over loopback runs the whole stack of its network namespace. Only \
                    the first knows who is at the other end and can carry descriptors. A path belongs to the mount \
                    namespace, an abstract name to the network namespace.",
        shows: "5,000 round trips by each; what only a UNIX domain socket can: credentials, descriptors, no network",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY.with(Namespace::Mount).with(Namespace::Net),
        body: Body::Run(unix_and_tcp),
    },
    Lab {
        number: 12,
        commands: "docker run --rm -it -v /run/docker.sock:/run/docker.sock -v /usr/bin/docker:/usr/bin/docker ubuntu bash\n\
                   docker run --rm -it -v /var/run/docker.sock:/var/run/docker.sock:ro -u root monitoringtool",
        mechanism: "A daemon starts what it is asked for where the daemon is: in the host's namespaces. Read-only is a \
                    property of a mount and forbids changes of the file system; connecting to a socket and writing to it \
                    changes none. What closes the hole is not to show the socket, or ids that it does not know.",
        shows: "a container with the socket bound read-only starts a process in the host's namespaces; two ways to close it",
        needs: Needs::Nothing,
        outer: Namespaces::EMPTY,
        body: Body::Run(socket_inside),
    },
];

fn info(report: &mut Report) -> Result {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let or_none = |path: &str| read(path).unwrap_or_else(|error| format!("not to be read: {error}"));
    let filesystems = read("/proc/filesystems")?;
    let has = |name: &str| filesystems.lines().any(|line| line.split_whitespace().last() == Some(name));

    // The rule: v2 if cgroup2 is mounted at /sys/fs/cgroup, hybrid if it is one below.
    let is_v2 =
        |path: &str| statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let by_the_rule = match (is_v2("/sys/fs/cgroup"), is_v2("/sys/fs/cgroup/unified")) {
        (true, _) => "v2",
        (_, true) => "hybrid",
        _ if Path::new("/sys/fs/cgroup/memory").exists() => "v1",
        _ => "none",
    };
    let mode = Mode::detect();
    let found = match &mode {
        Ok(Mode::V2) => "v2",
        Ok(Mode::Hybrid) => "hybrid",
        Ok(Mode::V1) => "v1",
        Ok(_) | Err(_) => "none",
    };
    let controllers = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];
    let controllers = controllers.iter().find_map(|path| read(path).ok()).unwrap_or_default();
    report.table(
        "this host, as `docker info` would tell it",
        &["", ""],
        [
            ["Storage Driver", if has("overlay") { "overlay" } else { "overlay is not loaded" }],
            ["Cgroup Version", found],
            ["Cgroup v2 Controllers", &controllers],
            ["Security Modules", &or_none("/sys/kernel/security/lsm")],
            ["Seccomp Actions", &or_none("/proc/sys/kernel/seccomp/actions_avail")],
            ["User Namespaces", &or_none("/proc/sys/user/max_user_namespaces")],
            ["Default Runtime", "this process"],
            ["Kernel Version", &read("/proc/sys/kernel/osrelease")?],
        ],
    );
    report.equal("the cgroup mode is what the type of the mounts says", found, by_the_rule);
    report.check("the kernel filters system calls", Path::new("/proc/sys/kernel/seccomp").exists());
    report.check("it has /proc/filesystems of its own, with proc among them", has("proc"));
    Ok(())
}

/// Answers `GET /info` and tells who asked, until `stop`.
fn serve(listener: &UnixListener, stop: &AtomicBool, askers: &mut Vec<u32>) -> Result {
    listener.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false)?;
                askers.push(getsockopt(&stream, sockopt::PeerCredentials)?.uid());
                let mut request = String::new();
                BufReader::new(&stream).read_line(&mut request)?;
                let status = if request.starts_with("GET /info ") { "200 OK" } else { "404 Not Found" };
                write!(stream, "HTTP/1.0 {status}\r\n\r\n{{\"ServerVersion\": \"lab\"}}\n")?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The status line that a client gets, or the errno of its connect.
fn get(path: &Path) -> Result<std::result::Result<String, i32>> {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error.raw_os_error().unwrap_or(0))),
    };
    stream.write_all(b"GET /info HTTP/1.0\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(Ok(line.trim().to_owned()))
}

fn permissions(report: &mut Report) -> Result {
    let path = report.directory().join("docker.sock");
    let listener = UnixListener::bind(&path)?;
    let root = geteuid().is_root();
    // A group that nobody is in; an ordinary user cannot give the socket away, and closes it to itself instead.
    let group = Gid::from_raw(59_017);
    if root {
        chown(&path, None, Some(group.as_raw()))?;
    }
    let mode = if root { 0o660 } else { 0o400 };
    fs::set_permissions(&path, Permissions::from_mode(mode))?;
    let metadata = fs::symlink_metadata(&path)?;
    report.check("it is a socket: `s` in the listing", metadata.file_type().is_socket());
    report.equal("its size is 0: nothing is ever stored in it", metadata.len(), 0);
    report.equal("its mode", format!("{:o}", metadata.mode() & 0o7777), format!("{mode:o}"));

    let stop = AtomicBool::new(false);
    let mut askers = Vec::new();
    let answers: Vec<(&str, std::result::Result<String, i32>)> = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &stop, &mut askers).map_err(|error| error.to_string()));
        let ask = |uid: u32, groups: &[Gid]| {
            kit::in_child(|| {
                setgroups(groups)?;
                setgid(Gid::from_raw(uid))?;
                setuid(Uid::from_raw(uid))?;
                get(&path)
            })
        };
        let answers = (|| {
            if root {
                return Ok(vec![
                    ("nobody", ask(65534, &[])?),
                    ("nobody, in the group", ask(65534, &[group])?),
                    ("root", ask(0, &[])?),
                ]);
            }
            let refused = get(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            Ok(vec![("its owner, without the write bit", refused), ("its owner, with it", get(&path)?)])
        })();
        stop.store(true, Ordering::Relaxed);
        let served = server.join().map_err(|_| "the server panicked")?;
        served.and_then(|()| answers.map_err(|error: Box<dyn std::error::Error>| error.to_string()))
    })?;

    let shown = |answer: &std::result::Result<String, i32>| match answer {
        Ok(line) => line.clone(),
        Err(errno) => std::io::Error::from_raw_os_error(*errno).to_string(),
    };
    report.table(
        "who gets an answer",
        &["client", "connect"],
        answers.iter().map(|(who, a)| [(*who).to_owned(), shown(a)]),
    );
    for (who, answer) in &answers {
        let expected = match *who {
            "nobody" | "its owner, without the write bit" => Err(libc::EACCES),
            _ => Ok("HTTP/1.0 200 OK".to_owned()),
        };
        report.equal(format!("{who}: connect needs write permission on the inode"), answer, &expected);
    }
    let expected = if root { vec![65534, 0] } else { vec![geteuid().as_raw()] };
    report.equal("the server knows who asked, by SO_PEERCRED", askers, expected);
    report
        .note("Membership of the socket's group equals root: the daemon does as root whatever it is asked.");
    Ok(())
}

/// Median of 5,000 round trips of 32 bytes.
fn round_trips(
    mut one: impl std::io::Read + std::io::Write,
    mut other: impl std::io::Read + std::io::Write + Send,
) -> Result<Duration> {
    const COUNT: usize = 5000;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || -> std::io::Result<()> {
            let mut buffer = [0; 32];
            for _ in 0..COUNT {
                other.read_exact(&mut buffer)?;
                other.write_all(&buffer)?;
            }
            Ok(())
        });
        let mut times = Vec::with_capacity(COUNT);
        let mut buffer = [7; 32];
        for _ in 0..COUNT {
            let start = Instant::now();
            one.write_all(&buffer)?;
            one.read_exact(&mut buffer)?;
            times.push(start.elapsed());
        }
        echo.join().map_err(|_| "the echo panicked")??;
        times.sort();
        Ok(times[COUNT / 2])
    })
}

fn unix_and_tcp(report: &mut Report) -> Result {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let tcp = TcpStream::connect(listener.local_addr()?)?;
    tcp.set_nodelay(true)?;
    let (accepted, _) = listener.accept()?;
    accepted.set_nodelay(true)?;
    let by_tcp = round_trips(tcp, accepted)?;
    let (one, other) = UnixStream::pair()?;
    let by_unix = round_trips(one, other)?;
    let micros = |time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6);
    report.table(
        "median of 5,000 round trips of 32 bytes",
        &["UNIX domain socket", "TCP on 127.0.0.1"],
        [[micros(by_unix), micros(by_tcp)]],
    );

    // A network namespace with loopback down.
    let path = report.directory().join("echo.sock");
    let pathname = UnixListener::bind(&path)?;
    let name = format!("palisade-lab-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let seen = |errno: std::io::Result<()>| errno.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
    let connect_abstract =
        || SocketAddr::from_abstract_name(&name).and_then(|at| UnixStream::connect_addr(&at)).map(drop);
    let here = seen(connect_abstract());
    let (tcp, unix, abstracted) = kit::in_child(|| {
        unshare(Namespace::Net)?;
        let tcp = seen(TcpStream::connect("127.0.0.1:2375").map(drop));
        Ok((tcp, seen(UnixStream::connect(&path).map(drop)), seen(connect_abstract())))
    })?;
    report.equal("with loopback down, TCP has no way: ENETUNREACH", tcp, libc::ENETUNREACH);
    report.equal("a pathname socket needs no network at all", unix, 0);
    report.equal("an abstract name is found in its own network namespace", here, 0);
    report.equal("… and in no other: ECONNREFUSED", abstracted, libc::ECONNREFUSED);

    // A socket is its inode, wherever that is bound.
    let elsewhere = report.directory().join("bound.sock");
    fs::write(&elsewhere, "")?;
    mount(Some(&path), &elsewhere, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let bound = UnixStream::connect(&elsewhere);
    report.check("a pathname socket that is bound elsewhere can be connected to there", bound.is_ok());
    nix::mount::umount(&elsewhere)?;

    // Who is there, and a descriptor in a message.
    let (one, other) = UnixStream::pair()?;
    let who = getsockopt(&one, sockopt::PeerCredentials)?;
    let own = (std::process::id() as i32, geteuid().as_raw());
    report.equal("SO_PEERCRED: pid and uid of the other end", (who.pid(), who.uid()), own);
    let mut file = tempfile::tempfile()?;
    file.write_all(b"passed")?;
    let rights = [file.as_raw_fd()];
    sendmsg::<()>(
        one.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    let inode = received(&other)?;
    report.equal("SCM_RIGHTS: the same open file arrives", inode, file.metadata()?.ino());
    drop(pathname);
    Ok(())
}

/// The inode of the open file that arrives with one byte.
fn received(stream: &UnixStream) -> Result<u64> {
    let (mut byte, mut space) = ([0], nix::cmsg_space!(i32));
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            let number = numbers.first().copied().ok_or("no descriptor arrived")?;
            let inode = fs::metadata(format!("/proc/self/fd/{number}"))?.ino();
            nix::unistd::close(number)?;
            return Ok(inode);
        }
    }
    Err("no descriptor arrived".into())
}

/// `labs --as ask SOCKET`: the docker client of lab 12. Prints what the daemon answers.
pub(crate) fn ask(arguments: &[String]) -> Result {
    let path = arguments.first().ok_or("ask SOCKET")?;
    match UnixStream::connect(path) {
        Ok(mut stream) => {
            stream.write_all(b"run sleep 30\n")?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            print!("started {answer}");
        }
        Err(error) => println!("refused {}", error.raw_os_error().unwrap_or(0)),
    }
    Ok(())
}

/// What the client inside `builder`'s sandbox prints.
fn client(report: &mut Report, builder: SandboxBuilder) -> Result<String> {
    let sandbox = builder.bind_ro(std::env::current_exe()?, "/docker").build()?;
    let mut command = sandbox.command("/docker");
    command.args(["--as", "ask", "/run/docker.sock"]);
    report.plan(&command.plan()?);
    kit::text(&mut command)
}

fn socket_inside(report: &mut Report) -> Result {
    let path = report.directory().join("docker.sock");
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    let root = geteuid().is_root();
    // The daemon: it starts what it is asked for, where it is.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let daemon = scope.spawn(|| -> std::io::Result<Vec<std::process::Child>> {
            let mut started = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false)?;
                        let mut request = String::new();
                        BufReader::new(&stream).read_line(&mut request)?;
                        let mut words = request.split_whitespace().skip(1);
                        let mut command = HostCommand::new(words.next().unwrap_or("true"));
                        let child = command.args(words).spawn()?;
                        writeln!(stream, "{}", child.id())?;
                        started.push(child);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(started)
        });
        let outcome = ask_from_containers(report, &path, root);
        stop.store(true, Ordering::Relaxed);
        let started = daemon.join().map_err(|_| "the daemon panicked")??;
        for mut child in started {
            child.kill()?;
            child.wait()?;
        }
        outcome
    })
}

fn ask_from_containers(report: &mut Report, path: &Path, root: bool) -> Result {
    // As docker has it by default: the container's root is the host's.
    let container = || {
        let builder = Sandbox::builder();
        if !root {
            return builder; // an ordinary user's own daemon
        }
        let kinds = Namespaces::ALL.without(Namespace::Time).without(Namespace::User);
        builder.namespaces(kinds).user(0, 0).dangerously_allow_host_root()
    };
    let own = |kind| kit::namespace("self", kind);

    let answer = client(report, container().bind_ro(path, "/run/docker.sock"))?;
    report.note(format!("With the socket bound read-only the container asks for `sleep 30`: {answer}"));
    let pid = answer.strip_prefix("started ").ok_or("the hole is not there")?.trim().to_owned();
    for kind in [Namespace::Mount, Namespace::Pid, Namespace::Net] {
        report.equal(
            format!("what it started is in the host's {kind} namespace"),
            kit::namespace(&pid, kind)?,
            own(kind)?,
        );
    }
    let closed = client(report, container())?;
    report.equal(
        "closed: without the bind there is nothing to connect to",
        closed,
        format!("refused {}", libc::ENOENT),
    );
    if root {
        let mapped = client(report, Sandbox::builder().user(0, 0).bind_ro(path, "/run/docker.sock"))?;
        report.equal(
            "closed: root of a user namespace is nobody to the socket",
            mapped,
            format!("refused {}", libc::EACCES),
        );
    } else {
        report.note("An ordinary user's sandbox has that user's id, whatever its name inside: only not showing the socket closes this.");
    }
    Ok(())
}
