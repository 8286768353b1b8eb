//! A program to run in a sandbox: the surface of [`std::process::Command`].

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palisade_sys::Step;

use crate::child::{Child, Output};
use crate::detached::{Detached, Store};
use crate::enter::Target;
use crate::environment;
use crate::error::{Error, ErrorKind, Result};
use crate::launch::launch_paused;
use crate::order::{Executable, Payload, Session, Start};
use crate::paused::Paused;
use crate::plan::{Handling, Plan};
use crate::prepare::Conflicts;
use crate::pty::{PtySize, Terminal};
use crate::rlimit::Resource;
use crate::sandbox::{Lifetime, Sandbox};
use crate::scheduling::{Personality, Scheduler, Scheduling};
use crate::stage::own_program;
use crate::standing::Standing;
use crate::status::ExitStatus;
use crate::stdio::Stdio;

/// A program to run in a sandbox. Reusable: each `spawn` starts it anew.
///
/// What differs from [`std::process::Command`]: the environment starts from the sandbox's, not the host program's; the
/// working directory and the program are looked up inside; dropping the [`Child`] ends it.
#[derive(Clone, Debug)]
pub struct Command {
    sandbox: Sandbox,
    /// The living sandbox that it enters, in place of a new one.
    target: Option<Target>,
    program: OsString,
    /// The program is the host program's own file.
    own: bool,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    clear_env: bool,
    env: BTreeMap<OsString, Option<OsString>>,
    directory: PathBuf,
    stdio: [Option<Stdio>; 3],
    descriptors: BTreeMap<i32, Arc<OwnedFd>>,
    umask: Option<u32>,
    session: Session,
    limits: Vec<(Resource, u64, u64)>,
    keep_signals: bool,
    timeout: Option<Duration>,
    output_limit: u64,
    pty: Option<PtySize>,
    scheduling: Scheduling,
    oom_score_adj: Option<i32>,
}

const DEFAULT_OUTPUT_LIMIT: u64 = 64 << 20;

impl Command {
    pub(crate) fn new(sandbox: Sandbox, target: Option<Target>, program: &OsStr) -> Self {
        Self {
            sandbox,
            target,
            program: program.to_owned(),
            own: false,
            arg0: None,
            args: Vec::new(),
            clear_env: false,
            env: BTreeMap::new(),
            directory: "/".into(),
            stdio: [None, None, None],
            descriptors: BTreeMap::new(),
            umask: None,
            session: Session::New,
            limits: Vec::new(),
            keep_signals: false,
            timeout: None,
            output_limit: DEFAULT_OUTPUT_LIMIT,
            pty: None,
            scheduling: Scheduling::default(),
            oom_score_adj: None,
        }
    }

    /// The host program's own file as the program.
    pub(crate) fn own(sandbox: Sandbox, name: &OsStr) -> Self {
        Self { own: true, ..Self::new(sandbox, None, name) }
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The name that the program is given as its own (`argv[0]`), in place of its path.
    pub fn arg0(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.arg0 = Some(arg.as_ref().to_owned());
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Sets environment variables.
    pub fn envs(
        &mut self,
        vars: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> &mut Self {
        for (name, value) in vars {
            self.env(name, value);
        }
        self
    }

    /// Removes an environment variable that the sandbox would give.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Starts from an empty environment, the sandbox's left out too.
    pub fn env_clear(&mut self) -> &mut Self {
        self.clear_env = true;
        self.env.clear();
        self
    }

    /// The working directory, inside; `/` by default. Magic links (`/proc/self/fd/…`) on the way are refused.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.directory = directory.as_ref().to_owned();
        self
    }

    /// Standard input: inherited by `spawn` and `status`, /dev/null for `output`, unless set.
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[0] = Some(stdio.into());
        self
    }

    /// Standard output: inherited by `spawn` and `status`, captured by `output`, unless set.
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[1] = Some(stdio.into());
        self
    }

    /// Standard error: inherited by `spawn` and `status`, captured by `output`, unless set.
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[2] = Some(stdio.into());
        self
    }

    /// Passes a descriptor on as number `number` (3 or above). Nothing is passed that is not declared here, whatever
    /// its close-on-exec flag.
    ///
    /// A directory or a Unix socket passed here reaches out of the sandbox: the payload can open files below the one,
    /// and be handed descriptors through the other.
    pub fn fd(&mut self, number: i32, fd: impl Into<OwnedFd>) -> &mut Self {
        self.descriptors.insert(number, Arc::new(fd.into()));
        self
    }

    /// The umask; the host program's unless set.
    pub fn umask(&mut self, mask: u32) -> &mut Self {
        self.umask = Some(mask);
        self
    }

    /// Session and process group; a new session unless set.
    pub fn session(&mut self, session: Session) -> &mut Self {
        self.session = session;
        self
    }

    /// A resource limit for this command, after the sandbox's: it may lower one of those, not raise it.
    pub fn rlimit(&mut self, resource: Resource, soft: u64, hard: u64) -> &mut Self {
        self.limits.retain(|(known, ..)| *known != resource);
        self.limits.push((resource, soft, hard));
        self
    }

    /// Leaves signals that the host program ignores ignored. Otherwise all have their default disposition. (The mask is
    /// empty in either case.)
    pub fn keep_ignored_signals(&mut self, keep: bool) -> &mut Self {
        self.keep_signals = keep;
        self
    }

    /// Wall-clock time after which the payload is killed: its status then says
    /// [`TimedOut`](crate::ExitCause::TimedOut). Counted from the end of `spawn`, and enforced by whoever waits.
    pub fn timeout(&mut self, limit: Duration) -> &mut Self {
        self.timeout = Some(limit);
        self
    }

    /// The most that `output` and `wait_with_output` collect of each stream, in bytes; 64 MiB unless set. A payload
    /// that writes more is killed: its status then says [`OutputLimit`](crate::ExitCause::OutputLimit).
    pub fn output_limit(&mut self, bytes: u64) -> &mut Self {
        self.output_limit = bytes;
        self
    }

    /// Gives the payload a terminal of this size, of the sandbox's own devpts: it is the controlling terminal of its
    /// session, `/dev/tty`, and `/dev/console` if nothing inside has taken the first one before. Its other end is
    /// [`Child::pty`].
    ///
    /// The standard streams that are not set otherwise are on it; for [`output`](Self::output), which has nobody to type,
    /// standard input stays /dev/null, and what is shown is collected as `stdout`.
    ///
    /// The payload can push input (TIOCSTI) into no terminal but this one: none of the host is among its descriptors
    /// unless passed on by [`stdin`](Self::stdin) and its like.
    ///
    /// Needs a devpts in the view: the view of the host and `Dev` have one.
    pub fn pty(&mut self, size: PtySize) -> &mut Self {
        self.pty = Some(size);
        self
    }

    /// Nice value, -20 to 19; the host program's unless set. Lower than that takes CAP_SYS_NICE outside of any user
    /// namespace, so for a sandbox without one, or an RLIMIT_NICE of the host program that allows it.
    ///
    /// Where the kernel groups sessions (`sched_autogroup_enabled`), it weighs against others of the payload's session
    /// only. See [setpriority(2)](https://man7.org/linux/man-pages/man2/setpriority.2.html).
    pub fn nice(&mut self, nice: i32) -> &mut Self {
        self.scheduling.nice = Some(nice);
        self
    }

    /// Scheduling policy; the host program's unless set. A real-time one takes CAP_SYS_NICE outside of any user
    /// namespace, or (but for `Deadline`) an RLIMIT_RTPRIO of the host program that allows it.
    ///
    /// See [sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html).
    pub fn scheduler(&mut self, scheduler: Scheduler) -> &mut Self {
        self.scheduling.scheduler = Some(scheduler);
        self
    }

    /// The CPUs that it may run on, by number from 0; the host program's unless set. Those of them count that exist and
    /// that its cgroup allows; `EINVAL` if none does. The payload can change this: a limit that holds is the
    /// `cpuset.cpus` of a cgroup.
    ///
    /// See [sched_setaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html).
    pub fn affinity(&mut self, cpus: impl IntoIterator<Item = usize>) -> &mut Self {
        self.scheduling.affinity = Some(cpus.into_iter().collect());
        self
    }

    /// How eagerly the kernel kills it for want of memory: -1000 (never) to 1000 (first); the host program's unless set.
    /// Lower than the host program's takes CAP_SYS_RESOURCE. The host program writes it, and needs its /proc for that.
    ///
    /// See [proc_pid_oom_score_adj(5)](https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html).
    pub fn oom_score_adj(&mut self, adjustment: i32) -> &mut Self {
        self.oom_score_adj = Some(adjustment);
        self
    }

    /// Execution domain; the host program's unless set.
    pub fn personality(&mut self, personality: Personality) -> &mut Self {
        self.scheduling.personality = Some(personality);
        self
    }

    /// Decides everything that `spawn` would do, and does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] with every bad value.
    pub fn plan(&self) -> Result<Plan> {
        self.plan_with(self.inherited(), Start::AtOnce)
    }

    /// Starts the program. Returns when it was executed: every failure before that, its own exec's included, is an
    /// error here, and nothing stays behind.
    ///
    /// It is started by a thread of the library, which was started at the first spawn. What the *calling thread* alone
    /// has changed since (its network namespace, capabilities, a Landlock domain or filter of its own) is not what the
    /// payload inherits: say to the builder what the payload is to be.
    ///
    /// # Errors
    /// Whatever step fails, with the object, the call and the errno; see [`Error`].
    pub fn spawn(&self) -> Result<Child> {
        self.plan()?.spawn()
    }

    /// Does all that [`spawn`](Self::spawn) does but the last: what comes of it waits right before its exec, and costs a
    /// fraction of a spawn to start.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), except that the program itself is looked up at the start.
    pub fn spawn_paused(&self) -> Result<Paused> {
        Paused::new(self.plan_with(self.inherited(), Start::OnWord)?)
    }

    /// Does all that [`spawn_paused`](Self::spawn_paused) does, and writes in a directory what other processes need to
    /// start the payload and to look after it, after this process has ended too: see [`Detached`]. The directory must not
    /// be there, and lasts until [`Detached::cleanup`].
    ///
    /// For sandboxes of [`Lifetime::Detached`]. There is nobody to read a pipe or to count a time-out: standard
    /// streams are inherited, files or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for what does not go together with it; `EEXIST` if the directory is there; else as
    /// [`spawn_paused`](Self::spawn_paused).
    pub fn create(&self, directory: impl AsRef<Path>) -> Result<Detached> {
        let piped = self.stdio.iter().flatten().any(Stdio::is_piped);
        for (wrong, what) in [
            (
                self.sandbox.prepared.lifetime != Lifetime::Detached,
                "it ends with this process: take Lifetime::Detached",
            ),
            (self.target.is_some(), "what enters a living sandbox ends with that"),
            (self.pty.is_some(), "nobody holds the other end of a terminal"),
            (piped, "nobody holds the other end of a pipe"),
            (self.timeout.is_some(), "nobody counts a timeout"),
        ] {
            if wrong {
                return Err(Error::invalid(format!("create: {what}")));
            }
        }
        let plan = self.plan_with(self.inherited(), Start::AtGate)?;
        let (store, gate) = Store::new(directory.as_ref())?;
        let store = Arc::new(store);
        let made = launch_paused(plan.stored(&store, gate)).and_then(Standing::leave);
        if let Err(error) = made {
            store.discard();
            return Err(error);
        }
        Detached::open(directory)
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn) and [`Child::wait`].
    pub fn status(&self) -> Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Runs the program to its end and collects what it writes, up to [`output_limit`](Self::output_limit).
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn) and [`Child::wait_with_output`].
    pub fn output(&self) -> Result<Output> {
        self.plan_for_output()?.spawn()?.wait_with_output()
    }

    fn inherited(&self) -> [Stdio; 3] {
        [(); 3].map(|()| if self.pty.is_some() { Stdio::terminal() } else { Stdio::inherit() })
    }

    pub(crate) fn plan_for_output(&self) -> Result<Plan> {
        let out = || if self.pty.is_some() { Stdio::terminal() } else { Stdio::piped() };
        self.plan_with([Stdio::null(), out(), out()], Start::AtOnce)
    }

    fn plan_with(&self, defaults: [Stdio; 3], start: Start) -> Result<Plan> {
        let mut conflicts = Conflicts::default();
        let wrong = conflicts.as_mut();
        let mut payload = self.payload(wrong);
        let mut stdio = defaults;
        for (place, asked) in stdio.iter_mut().zip(&self.stdio) {
            if let Some(asked) = asked {
                *place = asked.clone();
            }
        }
        let terminal = self.terminal(&stdio, wrong);
        conflicts.finish()?;
        let mut descriptors: Vec<_> = self.descriptors.values().cloned().collect();
        if self.own {
            descriptors.push(own_program()?);
        }
        if let Some(payload) = &mut payload {
            payload.terminal = terminal;
        }
        let payload = payload.ok_or_else(|| {
            Error::new(ErrorKind::Exec, Step::Exec, "PATH of the payload names no absolute directory")
                .with_object(self.program.to_string_lossy())
                .with_hint("give the program's path, or set PATH with env")
        })?;
        let handling = Handling {
            target: self.target.clone(),
            start,
            stdio,
            descriptors,
            timeout: self.timeout,
            output_limit: self.output_limit,
        };
        Ok(Plan::new(&self.sandbox, &payload, handling))
    }

    /// `None` if the program would have to be looked up and there is nowhere to look.
    fn payload(&self, wrong: &mut Vec<String>) -> Option<Payload> {
        let env = self.environment(wrong);
        let mut string = |what: &str, text: &OsStr| {
            CString::new(text.as_bytes()).unwrap_or_else(|_| {
                wrong.push(format!("{what}: {:?} holds a NUL byte", text.to_string_lossy()));
                CString::default()
            })
        };
        let first = self.arg0.as_ref().unwrap_or(&self.program);
        let argv: Vec<CString> =
            std::iter::once(first).chain(&self.args).map(|arg| string("arg", arg)).collect();
        let directory = string("current_dir", self.directory.as_os_str());
        let candidates: Vec<CString> =
            self.candidates(&env).iter().map(|path| string("program", path.as_os_str())).collect();
        let envp = env.iter().map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            string("env", &pair)
        });
        let envp = envp.collect();
        if self.program.is_empty() {
            wrong.push("program: is empty".into());
        }
        if !self.directory.is_absolute() {
            wrong.push(format!("current_dir: {:?} is not absolute", self.directory));
        }
        for &(resource, soft, hard) in &self.limits {
            if soft > hard {
                wrong.push(format!("rlimit: {resource}: soft {soft} is above hard {hard}"));
            }
        }
        if self.umask.is_some_and(|mask| mask > 0o777) {
            wrong.push(format!("umask: {:#o} is above 0777", self.umask.unwrap_or_default()));
        }
        for &number in self.descriptors.keys() {
            if !(3..=MAX_DESCRIPTOR).contains(&number) {
                wrong.push(format!("fd: {number} is not a number from 3 to {MAX_DESCRIPTOR}"));
            }
        }
        self.scheduling.problems(wrong);
        if self.scheduling.forbids_fork() && self.sandbox.prepared.init {
            wrong.push("scheduler: a Deadline process can't fork, which the sandbox's init does".into());
        }
        if let Some(adjustment) = self.oom_score_adj.filter(|adj| !(-1000..=1000).contains(adj)) {
            wrong.push(format!("oom_score_adj: {adjustment} is not from -1000 to 1000"));
        }
        let program = match candidates.is_empty() {
            _ if self.own => Executable::Passed,
            false => Executable::Paths(candidates),
            true => return None,
        };
        Some(Payload {
            program,
            argv,
            envp,
            directory,
            umask: self.umask,
            session: self.session,
            limits: self.limits.clone(),
            descriptors: self.descriptors.keys().copied().collect(),
            keep_signals: self.keep_signals,
            terminal: None,
            scheduling: self.scheduling.clone(),
            oom_score_adj: self.oom_score_adj,
        })
    }

    /// The terminal, and the streams that are on it.
    fn terminal(&self, stdio: &[Stdio; 3], wrong: &mut Vec<String>) -> Option<Terminal> {
        let size = self.pty?;
        let streams = stdio.each_ref().map(Stdio::is_terminal);
        if !streams.contains(&true) {
            wrong.push("pty: all standard streams are connected elsewhere".into());
        }
        if self.session != Session::New {
            wrong.push(
                "pty: it is the controlling terminal of a session of its own: leave session New".into(),
            );
        }
        if !self.sandbox.prepared.terminals {
            wrong.push(
                "pty: the view has no devpts of its own at /dev/pts: add mount(Dev::new(\"/dev\")), or \
                 Devpts::new(\"/dev/pts\")"
                    .into(),
            );
        }
        Some(Terminal { size, streams })
    }

    fn environment(&self, wrong: &mut Vec<String>) -> Vec<(OsString, OsString)> {
        let mut env = if self.clear_env { Vec::new() } else { self.sandbox.prepared.env.clone() };
        for (name, value) in &self.env {
            env.retain(|(known, _)| known != name);
            if let Some(value) = value {
                wrong.extend(environment::problem(name, value));
                env.push((name.clone(), value.clone()));
            }
        }
        env
    }

    /// The paths to try. Entries of PATH that are empty or relative are no places of the sandbox and are passed over.
    fn candidates(&self, env: &[(OsString, OsString)]) -> Vec<PathBuf> {
        if self.program.as_bytes().contains(&b'/') || self.program.is_empty() {
            return vec![PathBuf::from(&self.program)];
        }
        let path = env.iter().find(|(name, _)| name == "PATH").map_or(OsStr::new(""), |(_, path)| path);
        std::env::split_paths(path)
            .filter(|entry| entry.is_absolute())
            .map(|entry| entry.join(&self.program))
            .collect()
    }
}

/// Highest number for a passed descriptor: low enough for any sensible limit on open files during set-up.
const MAX_DESCRIPTOR: i32 = 255;
