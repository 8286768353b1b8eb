//! newuidmap(1) and newgidmap(1): the set-user-ID programs that write maps of delegated ids.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::spawn::{self, End, Exec};
use crate::{Error, ErrorKind, IdMap, Result, sys};

/// Longer than any helper takes; a name service that does not answer must not hold a set-up for good.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where the helpers are looked for after the directories of PATH.
const CUSTOMARY: &str = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin:/run/wrappers/bin";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Newuidmap,
    Newgidmap,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Newuidmap => "newuidmap",
            Self::Newgidmap => "newgidmap",
        })
    }
}

/// A helper program that was found and may be trusted; it is run by its descriptor, so it stays the one that was checked.
#[derive(Debug, Clone)]
pub(crate) struct Helper {
    tool: Tool,
    path: PathBuf,
    program: Arc<File>,
}

impl Helper {
    pub(crate) fn find(tool: Tool) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::find_in(tool, std::env::split_paths(&path).chain(std::env::split_paths(CUSTOMARY)))
    }

    fn find_in(tool: Tool, directories: impl Iterator<Item = PathBuf>) -> Result<Self> {
        let roots = |owner| owner == 0;
        Err(match find_trusted(&tool.to_string(), directories, roots)? {
            Search::Found(path, program) => return Ok(Self { tool, path, program: Arc::new(program) }),
            Search::PassedOver(path) => Error::new(
                ErrorKind::NotTrusted,
                format!("{} is no program that only root can change", path.display()),
            )
            .hint_is("install the package uidmap (shadow-utils, shadow) and keep its directory root's"),
            Search::Missing => Error::new(ErrorKind::HelperMissing, format!("{tool} is not installed")).hint_is(
                "install the package uidmap (shadow-utils, shadow on other systems), or map the own id alone",
            ),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it for a process and checks how it ended.
    pub(crate) fn run(&self, pid: u32, map: &IdMap) -> Result<()> {
        let system = |what: &str, errno: i32| Error::os(errno, format!("{what} {}", self.path.display()));
        let numbers = map.ranges().iter().flat_map(|range| [range.inside(), range.outside(), range.count()]);
        let argv: Vec<CString> = [self.tool.to_string(), pid.to_string()]
            .into_iter()
            .chain(numbers.map(|number| number.to_string()))
            .map(|argument| CString::new(argument).unwrap_or_default())
            .collect();
        let argv: Vec<&CStr> = argv.iter().map(CString::as_c_str).collect();
        // Not blocking, so that a helper that says a lot is cut short instead of waiting for a reader.
        let (said, output) =
            pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|errno| system("pipe2 for", errno as i32))?;
        let null = File::open("/dev/null").map_err(|error| Error::io(&error, "open /dev/null"))?;
        let (program, null, output) = (high(&self.program)?, high(&null)?, high(&output)?);
        let end = spawn::run(&Exec {
            program: program.as_fd(),
            argv: &argv,
            // Its messages are read below, so they are to be in the language of the program.
            envp: &[c"LC_ALL=C"],
            stdin: null.as_fd(),
            output: output.as_fd(),
            timeout: TIMEOUT,
        })
        .map_err(|errno| system("run", errno))?;
        if end == End::Exited(0) {
            return Ok(());
        }

        // What the pipe holds now; something of the helper's that still holds the other end is not waited for.
        let mut text = vec![0; 1024];
        let length = File::from(said).read(&mut text).unwrap_or_default();
        text.truncate(length);
        let said = String::from_utf8_lossy(&text);
        let ended = match end {
            End::TimedOut => format!("took more than {} seconds", TIMEOUT.as_secs()),
            End::Exited(code) => format!("ended with status {code}"),
            End::Signaled(signal) => format!("was killed by signal {signal}"),
        };
        let what = format!("{} {ended}: {}", self.path.display(), said.trim_ascii());
        Err(if said.contains("not allowed") {
            Error::new(ErrorKind::NotDelegated, what)
                .hint_is("the range must lie within one line for this user in /etc/subuid or /etc/subgid")
        } else {
            Error::new(ErrorKind::HelperFailed, what)
                .hint_is("it must be set-user-ID root (or have file capabilities), and the caller without no_new_privs")
        })
    }
}

/// The descriptor once more, above the standard three: a host may have closed those, and the child fills them in turn.
fn high(fd: impl AsFd) -> Result<OwnedFd> {
    fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(3))
        .map_err(|errno| Error::os(errno as i32, "fcntl(F_DUPFD_CLOEXEC)"))
        .map(sys::own)
}

/// Where a search for a program ended.
#[derive(Debug)]
pub enum Search {
    /// Its path, and the file by an `O_PATH` descriptor, which stays the one that was checked.
    Found(PathBuf, File),
    /// There is one, the first of which is this, but none to be trusted.
    PassedOver(PathBuf),
    /// There is none.
    Missing,
}

/// Looks for a program in the absolute ones of these directories. A directory or a program that somebody else can write to
/// than owners that are trusted is passed over.
///
/// # Errors
/// [`ErrorKind::System`] where it can't be found out to whom a program that is there belongs.
pub fn find_trusted(
    name: &str,
    directories: impl Iterator<Item = PathBuf>,
    owner: impl Fn(u32) -> bool,
) -> Result<Search> {
    let mut passed_over = None;
    for directory in directories.filter(|directory| directory.is_absolute()) {
        let path = directory.join(name);
        let Ok(program) =
            std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(&path)
        else {
            continue;
        };
        match trusted(&directory, &program, &owner) {
            Ok(true) => return Ok(Search::Found(path, program)),
            Ok(false) => passed_over = passed_over.or(Some(path)),
            Err(error) => return Err(Error::io(&error, format!("look at {}", path.display()))),
        }
    }
    Ok(passed_over.map_or(Search::Missing, Search::PassedOver))
}

/// Whether directory and program can be changed by these owners only, and the program is an executable file.
fn trusted(directory: &Path, program: &File, owner: impl Fn(u32) -> bool) -> std::io::Result<bool> {
    let (directory, program) = (std::fs::metadata(directory)?, program.metadata()?);
    let theirs_alone = |file: &std::fs::Metadata| owner(file.uid()) && file.mode() & 0o022 == 0;
    Ok(theirs_alone(&directory) && theirs_alone(&program) && program.is_file() && program.mode() & 0o111 != 0)
}

/// Whether this process has more power than who started it may have, so that what that one says, as in `PATH`, is not to be
/// followed blindly: it is root, or was made more by an exec (`AT_SECURE`).
pub fn has_more_power_than_its_environment() -> bool {
    sys::geteuid() == Some(crate::Uid::ROOT) || sys::is_secure()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(directory: impl Into<PathBuf>) -> ErrorKind {
        Helper::find_in(Tool::Newuidmap, [directory.into()].into_iter()).expect_err("none to find").kind()
    }

    /// A directory of the caller's with a program in it that would run, were its place trusted.
    #[test]
    fn a_helper_that_others_can_change_is_not_run() {
        let place = palisade_testkit::temp_dir();
        let program = place.path().join("newuidmap");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .expect("chmod");
        };
        assert_eq!(find(place.path()), ErrorKind::HelperMissing);
        std::fs::copy("/bin/true", &program).expect("copy");
        mode(&program, 0o755);
        mode(place.path(), 0o777);
        assert_eq!(find(place.path()), ErrorKind::NotTrusted);
        mode(place.path(), 0o755);
        mode(&program, 0o775);
        assert_eq!(find(place.path()), ErrorKind::NotTrusted);
        mode(&program, 0o644);
        assert_eq!(find(place.path()), ErrorKind::NotTrusted);
        mode(&program, 0o755);
        let found = Helper::find_in(Tool::Newuidmap, [place.path().to_owned()].into_iter());
        // Root's own program in root's own directory is one to run; anybody else's is not.
        assert_eq!(found.is_ok(), sys::geteuid() == Some(crate::Uid::ROOT));
        assert_eq!(find("bin"), ErrorKind::HelperMissing, "relative entries of PATH are never looked at");
    }

    /// The ways in which a helper can end, each told from the others. Runs programs of the system in its place.
    #[test]
    fn every_end_of_a_helper_is_told() {
        let run = |program: &str| {
            let program = File::open(program).expect("a program");
            let helper =
                Helper { tool: Tool::Newuidmap, path: "/x/newuidmap".into(), program: Arc::new(program) };
            helper.run(1, &IdMap::identity())
        };
        run("/bin/true").expect("status 0");
        let error = run("/bin/false").expect_err("status 1");
        assert_eq!(error.kind(), ErrorKind::HelperFailed);
        assert!(error.to_string().contains("status 1"), "{error}");
        let error = run("/etc/passwd").expect_err("no program");
        assert!(matches!(error.errno(), Some(libc::EACCES | libc::ENOEXEC)), "{error}");
        let error = run("/bin/ls").expect_err("ls finds no file of that name");
        assert!(error.to_string().contains("No such file"), "what it printed is in the error: {error}");
    }

    /// A host that ignores SIGCHLD, or reaps whatever it finds, loses no status of a helper.
    #[test]
    fn helpers_are_not_the_hosts_to_reap() {
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "helper::tests::inner_reaping_host", "--ignored"])
            .output()
            .expect("spawned");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run by the test above, as it changes the signals of its process"]
    fn inner_reaping_host() {
        sys::ignore_sigchld();
        let done = std::sync::atomic::AtomicBool::new(false);
        let results = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    sys::reap_any();
                }
            });
            let run = |program: &str| {
                let file = Arc::new(File::open(program).expect("a program"));
                let helper = Helper { tool: Tool::Newgidmap, path: program.into(), program: file };
                helper.run(1, &IdMap::identity()).map_err(|error| error.kind())
            };
            let results: Vec<_> = (0..100).map(|_| (run("/bin/true"), run("/bin/false"))).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            results
        });
        for result in results {
            assert_eq!(result, (Ok(()), Err(ErrorKind::HelperFailed)));
        }
    }

    /// A helper that does not end is killed and waited for.
    #[test]
    fn a_helper_that_hangs_is_killed() {
        let (program, null) =
            (File::open("/bin/sleep").expect("a program"), File::open("/dev/null").expect("null"));
        let (program, null) = (high(&program).expect("dup"), high(&null).expect("dup"));
        let exec = Exec {
            program: program.as_fd(),
            argv: &[c"sleep", c"60"],
            envp: &[],
            stdin: null.as_fd(),
            output: null.as_fd(),
            timeout: Duration::from_millis(20),
        };
        assert_eq!(spawn::run(&exec), Ok(End::TimedOut));
    }
}
