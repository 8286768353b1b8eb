//! The floor: each profile by raw system calls in the order that comes to mind, in a child that shares memory with its
//! parent. It leaves out what a library must not: a memory of the child's own, errors that explain, a time-out, a life
//! that ends with the host program's, checks of what is mounted, a closed descriptor table.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use crate::sys::{self, Call, Child, PREVIOUS};

/// What a spawn isolates; each holds all that the one before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Nothing: clone and exec.
    P0,
    /// New mount, pid, uts, ipc and cgroup namespaces.
    P1,
    /// A root file system, read-only, with /proc and a /dev of its own; the old root detached.
    P2,
    /// A user namespace.
    P3,
    /// A network namespace, loopback up.
    P4,
    /// No capability, no_new_privs, a filter.
    P5,
    /// A cgroup.
    P6,
}

impl Profile {
    /// In order.
    pub const ALL: [Self; 7] = [Self::P0, Self::P1, Self::P2, Self::P3, Self::P4, Self::P5, Self::P6];
}

/// Who a payload is where it has a user namespace: nobody, inside and out.
pub const USER: u32 = 65534;

/// A spawn by raw calls, ready to be done again and again.
#[derive(Debug)]
pub struct Floor {
    flags: u64,
    calls: Vec<Call>,
    stack: Vec<u128>,
    maps: bool,
    cgroup: Option<PathBuf>,
    /// What addresses in `calls` lead to.
    _strings: Vec<CString>,
    _tables: Vec<Box<[u64]>>,
    _bytes: Vec<Box<[u8]>>,
}

#[derive(Default)]
struct Script {
    calls: Vec<Call>,
    strings: Vec<CString>,
    tables: Vec<Box<[u64]>>,
    bytes: Vec<Box<[u8]>>,
}

impl Script {
    fn text(&mut self, text: impl AsRef<[u8]>) -> u64 {
        let text = CString::new(text.as_ref()).unwrap_or_default();
        let address = text.as_ptr() as u64;
        self.strings.push(text); // its bytes stay where they are
        address
    }

    fn table(&mut self, words: &[u64]) -> u64 {
        let table: Box<[u64]> = words.into();
        let address = table.as_ptr() as u64;
        self.tables.push(table);
        address
    }

    fn raw(&mut self, bytes: &[u8]) -> u64 {
        let bytes: Box<[u8]> = bytes.into();
        let address = bytes.as_ptr() as u64;
        self.bytes.push(bytes);
        address
    }

    fn call(&mut self, number: i64, arguments: &[u64]) {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        self.calls.push(Call { number, arguments: all });
    }

    fn mount(&mut self, source: &[u8], target: &[u8], kind: &[u8], flags: u64, data: &[u8]) {
        let [source, target, kind, data] = [source, target, kind, data].map(|text| self.text(text));
        self.call(libc::SYS_mount, &[source, target, kind, flags, data]);
    }
}

impl Floor {
    /// `program` is inside `root` from [`Profile::P2`] on; before, both are joined. `filter` is made of the
    /// instructions (`struct sock_filter`) of [`Profile::P5`], `parent` the cgroup of [`Profile::P6`].
    #[must_use]
    pub fn new(
        profile: Profile,
        root: &Path,
        program: &str,
        filter: &[[u8; 8]],
        parent: Option<&Path>,
    ) -> Self {
        let mut s = Script::default();
        let mut flags = 0;
        if profile >= Profile::P1 {
            flags |= libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
            flags |= libc::CLONE_NEWCGROUP;
        }
        if profile >= Profile::P3 {
            flags |= libc::CLONE_NEWUSER;
            s.call(libc::SYS_setresgid, &[u64::from(USER); 3]);
            s.call(libc::SYS_setresuid, &[u64::from(USER); 3]);
        }
        if profile >= Profile::P2 {
            view(&mut s, root.as_os_str().as_bytes(), profile >= Profile::P3);
        }
        if profile >= Profile::P4 {
            flags |= libc::CLONE_NEWNET;
            let mut request = [0u8; 40]; // struct ifreq: name, then flags
            request[..2].copy_from_slice(b"lo");
            request[16..18].copy_from_slice(&(libc::IFF_UP as u16).to_ne_bytes());
            let request = s.raw(&request);
            s.call(
                libc::SYS_socket,
                &[libc::AF_INET as u64, (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64, 0],
            );
            s.call(libc::SYS_ioctl, &[PREVIOUS, libc::SIOCSIFFLAGS, request]);
        }
        if profile >= Profile::P5 {
            for capability in 0..=40 {
                s.call(libc::SYS_prctl, &[libc::PR_CAPBSET_DROP as u64, capability]);
            }
            let header = s.raw(&[0x20080522u32.to_ne_bytes(), [0; 4]].concat());
            let none = s.raw(&[0; 24]);
            s.call(libc::SYS_capset, &[header, none]);
            s.call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]);
            let instructions = s.raw(filter.as_flattened());
            let program = s.table(&[filter.len() as u64, instructions]); // struct sock_fprog
            s.call(libc::SYS_seccomp, &[1, 0, program]);
        }
        let path = if profile >= Profile::P2 {
            program.as_bytes().to_vec()
        } else {
            [root.as_os_str().as_bytes(), program.as_bytes()].concat()
        };
        let path = s.text(path);
        let (argv, envp) = (s.table(&[path, 0]), s.table(&[0]));
        s.call(libc::SYS_execve, &[path, argv, envp]);
        Self {
            flags: u64::from(flags as u32),
            calls: s.calls,
            stack: vec![0; 4096],
            maps: profile >= Profile::P3,
            cgroup: (profile >= Profile::P6).then(|| parent.map(|dir| dir.join("palisade-floor"))).flatten(),
            _strings: s.strings,
            _tables: s.tables,
            _bytes: s.bytes,
        }
    }

    /// How many system calls the child makes, the exec included.
    #[must_use]
    pub fn child_calls(&self) -> usize {
        self.calls.len() + usize::from(self.maps)
    }

    /// Removes what [`run`](Self::run) leaves: its cgroup.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn clean(&self) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), fs::remove_dir)
    }

    /// Spawns, and waits for the end; [`clean`](Self::clean) has to follow.
    ///
    /// # Errors
    /// When a call of the parent or of the child fails, with its number.
    pub fn run(&mut self) -> io::Result<()> {
        let group = match &self.cgroup {
            Some(path) => {
                fs::create_dir(path)?;
                Some(File::open(path)?)
            }
            None => None,
        };
        let gate = AtomicU32::new(0);
        let mut child = Child {
            flags: self.flags | if group.is_some() { 1 << 33 } else { 0 },
            cgroup: group.as_ref().map_or(0, |dir| dir.as_raw_fd() as u64),
            stack: &mut self.stack,
            calls: &self.calls,
            gate: self.maps.then_some(&gate),
        };
        let (pid, pidfd) = sys::clone(&mut child)?;
        let mut outcome = Ok(());
        if self.maps {
            let line = format!("{USER} {USER} 1");
            outcome = fs::write(format!("/proc/{pid}/gid_map"), &line)
                .and_then(|()| fs::write(format!("/proc/{pid}/uid_map"), &line));
            sys::open_gate(&gate);
        }
        let code = sys::wait(&pidfd)?;
        outcome?;
        match code {
            0 => Ok(()),
            code => Err(io::Error::other(format!(
                "call {code} of the child failed: {:?}",
                self.calls.get(code as usize - 1)
            ))),
        }
    }
}

/// The root read-only, /proc, /dev in memory with six devices, five links, /dev/pts and /dev/shm; the old root detached.
fn view(s: &mut Script, root: &[u8], user_namespace: bool) {
    let below = |path: &str| [root, path.as_bytes()].concat();
    let nodes =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let links: [(&CStr, &str); 5] = [
        (c"/proc/self/fd", "fd"),
        (c"fd/0", "stdin"),
        (c"fd/1", "stdout"),
        (c"fd/2", "stderr"),
        (c"pts/ptmx", "ptmx"),
    ];
    let (bind, private) = (libc::MS_BIND, libc::MS_REC | libc::MS_PRIVATE);
    let quiet = libc::MS_NOSUID | libc::MS_NODEV;
    s.mount(b"none", b"/", b"", private, b"");
    s.mount(root, root, b"", bind | libc::MS_REC, b"");
    s.mount(b"none", root, b"", bind | libc::MS_REMOUNT | libc::MS_RDONLY | quiet, b"");
    s.mount(b"proc", &below("/proc"), b"proc", quiet | libc::MS_NOEXEC, b"");
    s.mount(
        b"tmpfs",
        &below("/dev"),
        b"tmpfs",
        libc::MS_NOSUID | libc::MS_NOEXEC,
        b"mode=755,size=65536,nr_inodes=64",
    );
    for (name, major, minor) in nodes {
        let path = below(&format!("/dev/{name}"));
        if user_namespace {
            // A device cannot be made there: the host's is bound on a file.
            let target = s.text(&path);
            s.call(libc::SYS_mknod, &[target, u64::from(libc::S_IFREG | 0o666), 0]);
            s.mount(format!("/dev/{name}").as_bytes(), &path, b"", bind, b"");
        } else {
            let target = s.text(&path);
            s.call(libc::SYS_mknod, &[target, u64::from(libc::S_IFCHR | 0o666), libc::makedev(major, minor)]);
        }
    }
    for (text, name) in links {
        let (text, path) = (s.text(text.to_bytes()), s.text(below(&format!("/dev/{name}"))));
        s.call(libc::SYS_symlink, &[text, path]);
    }
    for directory in ["pts", "shm"] {
        let path = s.text(below(&format!("/dev/{directory}")));
        s.call(libc::SYS_mkdir, &[path, 0o755]);
    }
    let terminals = b"newinstance,ptmxmode=666,mode=620";
    s.mount(b"devpts", &below("/dev/pts"), b"devpts", libc::MS_NOSUID | libc::MS_NOEXEC, terminals);
    s.mount(
        b"tmpfs",
        &below("/dev/shm"),
        b"tmpfs",
        quiet | libc::MS_NOEXEC,
        b"size=67108864,nr_inodes=16384",
    );
    s.mount(b"none", &below("/dev"), b"", bind | libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NOSUID, b"");
    let (directory, here, top) = (s.text(root), s.text("."), s.text("/"));
    s.call(libc::SYS_chdir, &[directory]);
    s.call(libc::SYS_pivot_root, &[here, here]);
    s.call(libc::SYS_umount2, &[here, libc::MNT_DETACH as u64]);
    s.call(libc::SYS_chdir, &[top]);
}
