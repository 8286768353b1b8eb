//! The system calls that programs are made of: one method each, named after the call.
//!
//! All of them need what the call itself needs, and fail as it does; the man page of each is the reference
//! (`man 2 name`). Paths and other bytes are copied into the program.

use std::ffi::CStr;

use crate::program::{Arg, Fd, Place, Program, Slot};

/// `how` of [`Program::openat2`].
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenHow {
    /// `O_*`.
    pub flags: i32,
    /// Mode of a file that is made.
    pub mode: u32,
    /// `RESOLVE_*`.
    pub resolve: u64,
}

/// Attributes of [`Program::mount_setattr`].
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE` …; 0 leaves the propagation as it is.
    pub propagation: u64,
    /// Descriptor of a user namespace, for `MOUNT_ATTR_IDMAP`.
    pub userns: Option<Fd>,
}

/// What identifies an inode: compared after a path was resolved for the second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number (major, minor) of its file system.
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// File type: the `S_IFMT` bits of its mode.
    pub kind: u16,
}

/// One of the arguments of `fsconfig` that set something.
#[derive(Clone, Copy, Debug)]
pub enum FsConfig<'a> {
    /// A flag (`FSCONFIG_SET_FLAG`).
    Flag(&'a CStr),
    /// A string (`FSCONFIG_SET_STRING`).
    String(&'a CStr, &'a CStr),
    /// A descriptor (`FSCONFIG_SET_FD`).
    Fd(&'a CStr, Fd),
    /// Make the superblock (`FSCONFIG_CMD_CREATE`).
    Create,
}

pub(crate) const EMPTY: &CStr = c"";

pub(crate) fn fd(fd: impl Into<Fd>) -> Arg {
    fd.into().0
}

/// # Files
impl Program {
    /// `openat2`. Since Linux 5.6.
    pub fn openat2(&mut self, dir: impl Into<Fd>, path: &CStr, how: OpenHow) -> Slot {
        let path = self.text(path);
        // O_CLOEXEC always: nothing that set-up opens is for the payload.
        let flags = (how.flags | libc::O_CLOEXEC) as u32;
        let words = [u64::from(flags), u64::from(how.mode), how.resolve];
        let how = self.bytes(&words.map(u64::to_le_bytes).concat());
        self.call(libc::SYS_openat2, [fd(dir), path.into(), how.into(), 24.into()])
    }

    /// `statx` of an open descriptor, and a comparison: another inode than `identity` ends the program with
    /// `ESTALE`. Since Linux 4.11.
    pub fn same_inode(&mut self, file: impl Into<Fd>, identity: Identity) {
        let buffer = self.statx(file, libc::STATX_TYPE | libc::STATX_INO);
        self.check(buffer.part(28, 2), u64::from(libc::S_IFMT), identity.kind.into(), libc::ESTALE);
        self.check(buffer.part(32, 8), u64::MAX, identity.ino, libc::ESTALE);
        self.check(buffer.part(136, 4), u64::MAX, identity.dev.0.into(), libc::ESTALE);
        self.check(buffer.part(140, 4), u64::MAX, identity.dev.1.into(), libc::ESTALE);
    }

    /// `statx` of an open descriptor, and a comparison: another file than the character device `major`:`minor` ends
    /// the program with `ESTALE`. For devices the number is the identity; which node it stands in does not matter.
    /// Since Linux 4.11.
    pub fn same_device(&mut self, file: impl Into<Fd>, major: u32, minor: u32) {
        let buffer = self.statx(file, libc::STATX_TYPE);
        self.check(buffer.part(28, 2), u64::from(libc::S_IFMT), libc::S_IFCHR.into(), libc::ESTALE);
        self.check(buffer.part(128, 4), u64::MAX, major.into(), libc::ESTALE);
        self.check(buffer.part(132, 4), u64::MAX, minor.into(), libc::ESTALE);
    }

    /// `statx` of an open descriptor; the place is its buffer.
    fn statx(&mut self, file: impl Into<Fd>, mask: u32) -> Place {
        let empty = self.text(EMPTY);
        let buffer = match self.statx {
            Some(buffer) => buffer,
            None => self.room(256),
        };
        self.statx = Some(buffer);
        let args = [fd(file), empty.into(), libc::AT_EMPTY_PATH.into(), mask.into(), buffer.into()];
        self.call(libc::SYS_statx, args);
        buffer
    }

    /// `close`.
    pub fn close(&mut self, file: impl Into<Fd>) {
        self.call(libc::SYS_close, [fd(file)]);
    }

    /// `dup3`: `file` also becomes descriptor `to`, kept over exec unless `cloexec`.
    pub fn dup3(&mut self, file: impl Into<Fd>, to: i32, cloexec: bool) -> Slot {
        let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
        self.call(libc::SYS_dup3, [fd(file), to.into(), flags.into()])
    }

    /// `fcntl(F_DUPFD_CLOEXEC)`: the lowest free descriptor from `from` on.
    pub fn dup_from(&mut self, file: impl Into<Fd>, from: i32) -> Slot {
        self.call(libc::SYS_fcntl, [fd(file), libc::F_DUPFD_CLOEXEC.into(), from.into()])
    }

    /// `close_range(first, ~0, CLOSE_RANGE_CLOEXEC)`: all of them end with the next exec. Since Linux 5.11.
    pub fn close_on_exec_from(&mut self, first: i32) {
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        self.call(libc::SYS_close_range, [first.into(), u64::from(u32::MAX).into(), flags.into()]);
    }

    /// `close_range(first, last, 0)`: closes them now. Since Linux 5.9.
    pub fn close_range(&mut self, first: i32, last: i32) {
        self.call(libc::SYS_close_range, [first.into(), last.into(), 0.into()]);
    }

    /// `read` into `to`; the whole length must come.
    pub fn read_exact(&mut self, file: impl Into<Fd>, to: Place) {
        self.call(libc::SYS_read, [fd(file), to.into(), to.len().into()]);
        self.expect(to.len() as u64).retry();
    }

    /// `write` of all `bytes`.
    pub fn write_all(&mut self, file: impl Into<Fd>, bytes: &[u8]) {
        let place = self.bytes(bytes);
        self.call(libc::SYS_write, [fd(file), place.into(), bytes.len().into()]);
        self.expect(bytes.len() as u64).retry();
    }

    /// `mkdirat`.
    pub fn mkdirat(&mut self, dir: impl Into<Fd>, path: &CStr, mode: u32) {
        let path = self.text(path);
        self.call(libc::SYS_mkdirat, [fd(dir), path.into(), mode.into()]);
    }

    /// `symlinkat`.
    pub fn symlinkat(&mut self, target: &CStr, dir: impl Into<Fd>, path: &CStr) {
        let (target, path) = (self.text(target), self.text(path));
        self.call(libc::SYS_symlinkat, [target.into(), fd(dir), path.into()]);
    }

    /// `mknodat`; `device` is (major, minor) for a device, else (0, 0).
    pub fn mknodat(&mut self, dir: impl Into<Fd>, path: &CStr, mode: u32, device: (u32, u32)) {
        let path = self.text(path);
        let device = libc::makedev(device.0, device.1);
        self.call(libc::SYS_mknodat, [fd(dir), path.into(), mode.into(), device.into()]);
    }

    /// `fchownat(AT_EMPTY_PATH)`: owner of an open file.
    pub fn fchown(&mut self, file: impl Into<Fd>, uid: u32, gid: u32) {
        let empty = self.text(EMPTY);
        let args = [fd(file), empty.into(), uid.into(), gid.into(), libc::AT_EMPTY_PATH.into()];
        self.call(libc::SYS_fchownat, args);
    }

    /// `fchmod`.
    pub fn fchmod(&mut self, file: impl Into<Fd>, mode: u32) {
        self.call(libc::SYS_fchmod, [fd(file), mode.into()]);
    }
}

/// # Mounts
impl Program {
    /// `open_tree` of a path, symbolic links followed: a detached copy of what is mounted there, with the mounts below
    /// it if `recursive`. Compare its identity before it is attached. Since Linux 5.2.
    pub fn open_tree(&mut self, path: &CStr, recursive: bool) -> Slot {
        let path = self.text(path);
        let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= libc::AT_RECURSIVE as u32;
        }
        self.call(libc::SYS_open_tree, [fd(Fd::CWD), path.into(), flags.into()])
    }

    /// `open_tree` of an open descriptor: a detached copy of its mount, with those below it if `recursive`.
    /// Since Linux 5.2.
    pub fn clone_tree(&mut self, source: impl Into<Fd>, recursive: bool) -> Slot {
        let empty = self.text(EMPTY);
        let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
        if recursive {
            flags |= libc::AT_RECURSIVE as u32;
        }
        self.call(libc::SYS_open_tree, [fd(source), empty.into(), flags.into()])
    }

    /// `mount_setattr` of an open mount, with all below it if `recursive`. Since Linux 5.12.
    pub fn mount_setattr(&mut self, mount: impl Into<Fd>, recursive: bool, attr: MountAttr) {
        let empty = self.text(EMPTY);
        let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
        let words = [attr.set, attr.clear, attr.propagation, 0];
        let place = self.bytes(&words.map(u64::to_le_bytes).concat());
        if let Some(userns) = attr.userns {
            self.store(place.part(24, 8), userns);
        }
        self.call(libc::SYS_mount_setattr, [fd(mount), empty.into(), flags.into(), place.into(), 32.into()]);
    }

    /// `move_mount`: attaches a detached mount on the open file `target`. Since Linux 5.2.
    pub fn move_mount(&mut self, mount: impl Into<Fd>, target: impl Into<Fd>) {
        let (from, to) = (self.text(EMPTY), self.text(EMPTY));
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
        self.call(libc::SYS_move_mount, [fd(mount), from.into(), fd(target), to.into(), flags.into()]);
    }

    /// `move_mount` onto an absolute path: for the root, which needs no resolving.
    pub fn move_mount_to(&mut self, mount: impl Into<Fd>, path: &CStr) {
        self.move_mount_at(mount, Fd::CWD, path);
    }

    /// `move_mount` onto a path below an open directory. Only the last component is kept from being a symbolic link:
    /// for trees that the program made itself.
    pub fn move_mount_at(&mut self, mount: impl Into<Fd>, dir: impl Into<Fd>, path: &CStr) {
        let (from, to) = (self.text(EMPTY), self.text(path));
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
        self.call(libc::SYS_move_mount, [fd(mount), from.into(), fd(dir), to.into(), flags.into()]);
    }

    /// `fsopen`. Since Linux 5.2.
    pub fn fsopen(&mut self, filesystem: &CStr) -> Slot {
        let name = self.text(filesystem);
        self.call(libc::SYS_fsopen, [name.into(), libc::FSOPEN_CLOEXEC.into()])
    }

    /// `fsconfig`. Since Linux 5.2.
    pub fn fsconfig(&mut self, context: Slot, what: FsConfig<'_>) {
        let null = Arg::from(0);
        let [command, key, value, aux] = match what {
            FsConfig::Flag(key) => [libc::FSCONFIG_SET_FLAG.into(), self.text(key).into(), null, null],
            FsConfig::String(key, value) => {
                let (key, value) = (self.text(key), self.text(value));
                [libc::FSCONFIG_SET_STRING.into(), key.into(), value.into(), null]
            }
            FsConfig::Fd(key, file) => [libc::FSCONFIG_SET_FD.into(), self.text(key).into(), null, fd(file)],
            FsConfig::Create => [libc::FSCONFIG_CMD_CREATE.into(), null, null, null],
        };
        self.call(libc::SYS_fsconfig, [context.into(), command, key, value, aux]);
    }

    /// `fsmount`: the configured file system as a detached mount with `MOUNT_ATTR_*`. Since Linux 5.2.
    pub fn fsmount(&mut self, context: Slot, attributes: u64) -> Slot {
        self.call(libc::SYS_fsmount, [context.into(), libc::FSMOUNT_CLOEXEC.into(), attributes.into()])
    }

    /// `mount(NULL, path, NULL, flags)`: propagation of a path's mount (`MS_PRIVATE`, `MS_REC` …).
    pub fn mount_propagation(&mut self, path: &CStr, flags: u64) {
        let path = self.text(path);
        self.call(libc::SYS_mount, [0.into(), path.into(), 0.into(), flags.into(), 0.into()]);
    }

    /// `umount2`.
    pub fn umount2(&mut self, path: &CStr, flags: i32) {
        let path = self.text(path);
        self.call(libc::SYS_umount2, [path.into(), flags.into()]);
    }

    /// `pivot_root`.
    pub fn pivot_root(&mut self, new_root: &CStr, put_old: &CStr) {
        let (new_root, put_old) = (self.text(new_root), self.text(put_old));
        self.call(libc::SYS_pivot_root, [new_root.into(), put_old.into()]);
    }

    /// `chroot`.
    pub fn chroot(&mut self, path: &CStr) {
        let path = self.text(path);
        self.call(libc::SYS_chroot, [path.into()]);
    }

    /// `chdir`.
    pub fn chdir(&mut self, path: &CStr) {
        let path = self.text(path);
        self.call(libc::SYS_chdir, [path.into()]);
    }

    /// `fchdir`.
    pub fn fchdir(&mut self, dir: impl Into<Fd>) {
        self.call(libc::SYS_fchdir, [fd(dir)]);
    }
}

/// # Namespaces and the network
impl Program {
    /// `unshare`. The flags are of namespaces: the crates above see to it.
    pub fn unshare(&mut self, flags: i32) {
        self.call(libc::SYS_unshare, [flags.into()]);
    }

    /// `setns`. `kinds` are flags, or a slot that will hold them.
    pub fn setns(&mut self, namespace: impl Into<Fd>, kinds: impl Into<Arg>) {
        self.call(libc::SYS_setns, [fd(namespace), kinds.into()]);
    }

    /// `sethostname`.
    pub fn sethostname(&mut self, name: &[u8]) {
        let place = self.bytes(name);
        self.call(libc::SYS_sethostname, [place.into(), name.len().into()]);
    }

    /// `setdomainname`.
    pub fn setdomainname(&mut self, name: &[u8]) {
        let place = self.bytes(name);
        self.call(libc::SYS_setdomainname, [place.into(), name.len().into()]);
    }

    /// `socket`, close-on-exec.
    pub fn socket(&mut self, family: i32, kind: i32, protocol: i32) -> Slot {
        self.call(libc::SYS_socket, [family.into(), (kind | libc::SOCK_CLOEXEC).into(), protocol.into()])
    }

    /// `ioctl` with a structure.
    pub fn ioctl(&mut self, file: impl Into<Fd>, request: u64, argument: Place) {
        self.call(libc::SYS_ioctl, [fd(file), request.into(), argument.into()]);
    }

    /// `ioctl(TIOCGPTPEER)`: the other end of the pseudoterminal whose multiplexer is open, whatever the path to it
    /// now leads to. Since Linux 4.13.
    pub fn terminal_peer(&mut self, multiplexer: impl Into<Fd>) -> Slot {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        self.call(libc::SYS_ioctl, [fd(multiplexer), libc::TIOCGPTPEER.into(), flags.into()])
    }

    /// `sendmsg` of one byte and a descriptor (`SCM_RIGHTS`) through a Unix socket.
    pub fn send_descriptor(&mut self, socket: impl Into<Fd>, file: impl Into<Fd>) {
        let byte = self.bytes(b"d");
        let iov = self.bytes(&[u64::from(byte.offset), 1].map(u64::to_le_bytes).concat());
        self.relocate(iov.part(0, 8));
        // struct cmsghdr: its length with one descriptor, the level and the type; room for the number.
        let kind = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
        let rights = self.bytes(&[20, kind, 0].map(u64::to_le_bytes).concat());
        self.store(rights.part(16, 4), file.into());
        // struct msghdr: no address; then one iovec, the control data and its length, no flags.
        let words = [0, 0, u64::from(iov.offset), 1, u64::from(rights.offset), 24, 0];
        let header = self.bytes(&words.map(u64::to_le_bytes).concat());
        self.relocate(header.part(16, 8));
        self.relocate(header.part(32, 8));
        self.call(libc::SYS_sendmsg, [fd(socket), header.into(), libc::MSG_NOSIGNAL.into()]);
        self.expect(1).retry();
    }

    /// `ioctl` with a number.
    pub fn ioctl_value(&mut self, file: impl Into<Fd>, request: u64, argument: u64) {
        self.call(libc::SYS_ioctl, [fd(file), request.into(), argument.into()]);
    }
}

/// # Identity and privilege
impl Program {
    /// `prctl`.
    pub fn prctl(&mut self, option: i32, arguments: [u64; 4]) {
        let [a, b, c, d] = arguments.map(Arg::from);
        self.call(libc::SYS_prctl, [option.into(), a, b, c, d]);
    }

    /// `prctl` once for each bit of `mask`, its number as the last argument that is not zero.
    pub fn prctl_each(&mut self, mask: u64, option: i32, first: Option<u64>) {
        let [a, b] = match first {
            Some(first) => [first.into(), Arg::Bit],
            None => [Arg::Bit, 0.into()],
        };
        self.sweep(mask, libc::SYS_prctl, [option.into(), a, b, 0.into(), 0.into()]);
    }

    /// `capset` of the calling thread.
    pub fn capset(&mut self, effective: u64, permitted: u64, inheritable: u64) {
        let header = self.bytes(&[CAPABILITY_VERSION_3.to_le_bytes(), [0; 4]].concat());
        let halves = [effective, permitted, inheritable];
        let low = halves.map(|set| (set as u32).to_le_bytes());
        let high = halves.map(|set| ((set >> 32) as u32).to_le_bytes());
        let data = self.bytes(&[low, high].concat().concat());
        self.call(libc::SYS_capset, [header.into(), data.into()]);
    }

    /// `setgroups` of the calling thread.
    pub fn setgroups(&mut self, groups: &[u32]) {
        let place = self.bytes(&groups.iter().flat_map(|g| g.to_le_bytes()).collect::<Vec<_>>());
        self.call(libc::SYS_setgroups, [groups.len().into(), place.into()]);
    }

    /// `setresgid` of the calling thread, all three the same.
    pub fn setresgid(&mut self, gid: u32) {
        self.call(libc::SYS_setresgid, [gid.into(), gid.into(), gid.into()]);
    }

    /// `setresuid` of the calling thread, all three the same.
    pub fn setresuid(&mut self, uid: u32) {
        self.call(libc::SYS_setresuid, [uid.into(), uid.into(), uid.into()]);
    }

    /// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)`: a new, empty session keyring.
    pub fn join_session_keyring(&mut self) {
        self.call(libc::SYS_keyctl, [libc::KEYCTL_JOIN_SESSION_KEYRING.into(), 0.into()]);
    }

    /// `seccomp(SECCOMP_SET_MODE_FILTER)`; `filter` is the program, 8 bytes an instruction.
    pub fn seccomp_filter(&mut self, filter: &[u8], flags: u64) -> Slot {
        let code = self.bytes(filter);
        let mut words = Vec::from((filter.len() as u64 / 8).to_le_bytes());
        words.extend(u64::from(code.offset).to_le_bytes());
        let fprog = self.bytes(&words);
        self.relocate(fprog.part(8, 8));
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        self.call(libc::SYS_seccomp, [mode.into(), flags.into(), fprog.into()])
    }
}

/// # Landlock
impl Program {
    /// `landlock_create_ruleset`; `attr` is as much of `struct landlock_ruleset_attr` as the running ABI has, a word a
    /// field. Since Linux 5.13.
    pub fn landlock_create_ruleset(&mut self, attr: &[u64]) -> Slot {
        let place = self.bytes(&attr.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
        self.call(libc::SYS_landlock_create_ruleset, [place.into(), place.len().into(), 0.into()])
    }

    /// `landlock_add_rule(LANDLOCK_RULE_PATH_BENEATH)`: `access` (`LANDLOCK_ACCESS_FS_*`) to what is at the open file
    /// `parent` and below. Since Linux 5.13.
    pub fn landlock_add_path(&mut self, ruleset: Slot, access: u64, parent: impl Into<Fd>) {
        // Packed: a word and a descriptor.
        let place = self.bytes(&[&access.to_le_bytes()[..], &[0; 4]].concat());
        self.store(place.part(8, 4), parent.into());
        self.call(
            libc::SYS_landlock_add_rule,
            [ruleset.into(), LANDLOCK_RULE_PATH_BENEATH.into(), place.into(), 0.into()],
        );
    }

    /// `landlock_add_rule(LANDLOCK_RULE_NET_PORT)`: `access` (`LANDLOCK_ACCESS_NET_*`) to a TCP port. Since Linux 6.7.
    pub fn landlock_add_port(&mut self, ruleset: Slot, access: u64, port: u16) {
        let place = self.bytes(&[access.to_le_bytes(), u64::from(port).to_le_bytes()].concat());
        self.call(
            libc::SYS_landlock_add_rule,
            [ruleset.into(), LANDLOCK_RULE_NET_PORT.into(), place.into(), 0.into()],
        );
    }

    /// `landlock_restrict_self` of the calling thread, which has no_new_privs or `CAP_SYS_ADMIN`. Since Linux 5.13.
    pub fn landlock_restrict_self(&mut self, ruleset: Slot) {
        self.call(libc::SYS_landlock_restrict_self, [ruleset.into(), 0.into()]);
    }
}

pub(crate) const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

const LANDLOCK_RULE_PATH_BENEATH: i32 = 1;
const LANDLOCK_RULE_NET_PORT: i32 = 2;
