//! Paths of the kernel's file systems that are hidden or made read-only.

use std::path::{Path, PathBuf};

/// Which paths of the finished view are hidden, and which are made read-only. A path that does not exist is passed
/// over; one that goes through a symbolic link is an error.
///
/// The presets are those of the engines:
/// [moby](https://github.com/moby/moby/blob/master/daemon/pkg/oci/defaults.go),
/// [containers-common](https://github.com/containers/common/blob/main/pkg/config/default.go).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) read_only: Vec<PathBuf>,
    pub(crate) thermal_throttle: bool,
}

const DOCKER_HIDDEN: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const DOCKER_READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

impl Masks {
    /// Nothing is hidden or made read-only.
    pub fn none() -> Self {
        Self::default()
    }

    /// What docker hides and protects: the processors' thermal counters are found when the root is prepared.
    pub fn docker() -> Self {
        let masks = Self { thermal_throttle: true, ..Self::none() };
        DOCKER_READ_ONLY.iter().fold(DOCKER_HIDDEN.iter().fold(masks, Self::hide), Self::read_only)
    }

    /// What podman hides and protects.
    pub fn podman() -> Self {
        let hidden =
            DOCKER_HIDDEN.iter().filter(|path| !matches!(**path, "/proc/asound" | "/proc/interrupts"));
        let masks = hidden.fold(Self::none(), Self::hide).hide("/sys/fs/selinux");
        DOCKER_READ_ONLY.iter().fold(masks, Self::read_only).read_only("/proc/asound")
    }

    /// Hides a path: a directory looks empty, a file reads as empty.
    pub fn hide(mut self, path: impl AsRef<Path>) -> Self {
        self.hidden.push(path.as_ref().to_owned());
        self
    }

    /// Makes a path read-only, with everything mounted below it.
    pub fn read_only(mut self, path: impl AsRef<Path>) -> Self {
        self.read_only.push(path.as_ref().to_owned());
        self
    }
}

impl Masks {
    /// All hidden paths, those included that depend on the machine.
    pub(crate) fn all_hidden(&self) -> Vec<PathBuf> {
        let mut hidden = self.hidden.clone();
        if self.thermal_throttle {
            // Without a /sys there are none.
            let processors = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
            let counters = processors.map(|entry| entry.path().join("thermal_throttle"));
            let mut counters: Vec<_> = counters.filter(|path| path.is_dir()).collect();
            counters.sort();
            hidden.extend(counters);
        }
        hidden
    }
}
