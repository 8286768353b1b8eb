//! The steps of a spawn, in their order.

use std::fmt;

macro_rules! steps {
    ($($(#[$meta:meta])+ $name:ident = $text:literal,)+) => {
        /// A step of a set-up. The order of the variants is the order of one spawn, and this enum is the one place
        /// that says so: the comment on each variant gives the reason why it comes after its neighbour above.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Step {
            $($(#[$meta])+ $name,)+
        }

        impl Step {
            /// All steps, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The step's name, as errors and plans print it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            pub(crate) fn from_raw(raw: u16) -> Self {
                Self::ALL.get(usize::from(raw)).copied().unwrap_or(Self::Prepare)
            }
        }
    };
}

steps! {
    /// Validate, compile and open in the parent: what can fail early fails before a process exists.
    #[default]
    Prepare = "prepare",
    /// Make the cgroup leaf and write its limits: they hold before the first instruction of the child.
    Cgroup = "cgroup",
    /// Take detached copies of mounts with the rights of the caller; after the clone the child may no longer see them.
    Sources = "sources",
    /// clone3 into the cgroup and the new namespaces: everything above is inherited by what it makes.
    Clone = "clone",
    /// Close the host's descriptors and pass the declared ones, before another program image could see them.
    Passing = "pass descriptors",
    /// Keep the capabilities that set-up needs across the stage's exec, which would drop them.
    Ambient = "ambient capabilities",
    /// Execute the stage: from here on no memory is shared with the host program.
    Stage = "stage",
    /// Signals, umask, inheritable and ambient sets back to nothing first, so that a forgotten step fails closed.
    Baseline = "baseline",
    /// Wait until the parent wrote the id maps: files can't be made before an id is mapped.
    IdMaps = "id maps",
    /// Become a mapped id where the caller's own is not: files can't be made under an unmapped one (EOVERFLOW).
    FirstIdentity = "first identity",
    /// A new time namespace takes members only after its offsets are written, and needs the mapped identity.
    TimeNamespace = "time namespace",
    /// Join shared namespaces before anything is built in them.
    Join = "join namespaces",
    /// Private propagation before the first mount, so that no mount reaches the host's table.
    Propagation = "mount propagation",
    /// Build the view while the old root can still be reached for sources.
    Mounts = "mounts",
    /// Leave the old root and detach it, when nothing of it is needed any more.
    PivotRoot = "pivot_root",
    /// Names, with CAP_SYS_ADMIN over the new uts namespace still held.
    Hostname = "hostname",
    /// Network set-up, with CAP_NET_ADMIN still held.
    Network = "network",
    /// Kernel parameters, and what else is opened in a /proc that only set-up has, before /proc/sys becomes read-only.
    Sysctls = "sysctls",
    /// Masked and read-only paths last of the mounts: they cover what earlier steps had to write.
    Masks = "masks",
    /// A second user namespace locks the mounts against a payload that may mount, once the last of them stands. It
    /// refills the bounding set, so it comes before that is dropped.
    LockMounts = "lock mounts",
    /// Resource limits after set-up, which must not fail for them.
    Limits = "resource limits",
    /// A terminal and the standard streams on it, while their owner may still be set.
    Stdio = "stdio",
    /// A session keyring of its own, before anything that could be kept in it is known.
    Keyring = "session keyring",
    /// The bounding set needs CAP_SETPCAP, which changing ids may cost.
    BoundingSet = "bounding set",
    /// Groups before gid before uid: each needs the privilege that the next gives up.
    Identity = "identity",
    /// Exactly the wanted capabilities; only after the ids, whose change rewrites the sets.
    Capabilities = "capabilities",
    /// A change of credentials clears the parent-death signal: set it again and look whether the parent still lives.
    ParentDeath = "parent death",
    /// Before Landlock and the filter, which need it without CAP_SYS_ADMIN.
    NoNewPrivs = "no_new_privs",
    /// LSM label on exec: /proc/self/attr is out of reach after Landlock.
    LsmLabel = "LSM label",
    /// Landlock after the last mount, which it would refuse.
    Landlock = "Landlock",
    /// Close what set-up used before any path is walked again: a magic link must find no directory of the host.
    Descriptors = "descriptors",
    /// A directory inside the new root, entered by the final identity, which may see less than set-up did.
    WorkingDirectory = "working directory",
    /// Pid 1 stays behind as init as late as possible: with the final identity, and with no descriptor of set-up's.
    Init = "init",
    /// A session of the payload's own, which init is no member of, so that no terminal of the host is the controlling
    /// one, and hang-ups reach the payload.
    Session = "session",
    /// The limit of descriptor numbers, after the last descriptor that set-up needs.
    OpenFiles = "limit of open files",
    /// The parent reads back what the kernel has made of all this. Before the filter, which may forbid to wait; what a
    /// payload could undo is read while there is none.
    Verification = "verification",
    /// Wait for the start where one is to be waited for: after all that can fail but the exec itself, and before the
    /// filter, which need not allow waiting.
    Pause = "pause",
    /// Signals were blocked so far, so that none ended set-up halfway.
    Signals = "signals",
    /// The filter last: it need not allow anything that set-up does, except execve.
    Seccomp = "seccomp",
    /// The payload.
    Exec = "exec",
    /// Waiting, killing, reading back: after the payload began.
    Supervise = "supervise",
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
