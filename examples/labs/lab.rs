//! What a lab is, and what it tells while it runs.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use comfy_table::{Table as Grid, presets};
use palisade::ns::Namespaces;
use serde::{Deserialize, Serialize};

/// Any error ends a lab as failed; [`Skip`] ends it as skipped.
pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One entry of the study, as an experiment.
pub(crate) struct Lab {
    /// Its number in the study.
    pub(crate) number: u8,
    /// What the study types, line by line.
    pub(crate) commands: &'static str,
    /// What the kernel does, and why: for `--explain`.
    pub(crate) mechanism: &'static str,
    /// What you will see, in a sentence: for docs/labs.md.
    pub(crate) shows: &'static str,
    pub(crate) needs: Needs,
    /// Namespaces that stand around the whole lab, so that it never touches the host: new ones for this process, mount
    /// propagation private, loopback up. An ordinary user gets a user namespace with them and is root of that one.
    /// Empty where the lab only uses sandboxes, which have their own.
    pub(crate) outer: Namespaces,
    pub(crate) body: Body,
}

#[derive(Clone, Copy)]
pub(crate) enum Body {
    Run(fn(&mut Report) -> Result),
    /// The study's entry is prose; this is the answer to it.
    Answer(&'static str),
}

/// What must be there for a lab to run; without it the lab is skipped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Works for anyone.
    Nothing,
    /// Root of the host.
    Root,
    /// A cgroup v2 directory that this process may manage, with controllers.
    Cgroup,
}

impl Needs {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Nothing => "anyone",
            Self::Root => "root",
            Self::Cgroup => "a delegated cgroup v2",
        }
    }
}

/// The reason for which a lab cannot run here.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// `Err(skip("no busybox"))` ends a lab that cannot run here.
pub(crate) fn skip(reason: impl Display) -> Box<dyn std::error::Error> {
    Box::new(Skip(reason.to_string()))
}

/// What a lab told, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    Note(String),
    Table { title: String, head: Vec<String>, rows: Vec<Vec<String>> },
    Check { what: String, holds: bool, seen: String },
    Plan(String),
}

/// Where a lab tells what it does, and asserts what the study says.
///
/// A check that does not hold is told, the lab goes on, and ends as failed.
pub(crate) struct Report {
    pub(crate) events: Vec<Event>,
    directory: PathBuf,
    quiet: bool,
    explain: bool,
}

impl Report {
    pub(crate) fn new(directory: PathBuf, quiet: bool, explain: bool) -> Self {
        Self { events: Vec::new(), directory, quiet, explain }
    }

    /// An empty directory of the lab's own, mode 755. What is in it at the end must be removed, by the lab or by drop
    /// of what it made: the runner looks.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn note(&mut self, text: impl Display) {
        self.tell(Event::Note(text.to_string()));
    }

    /// A table: before and after, host and sandbox.
    pub(crate) fn table<R, C>(&mut self, title: &str, head: &[&str], rows: R)
    where
        R: IntoIterator<Item = C>,
        C: IntoIterator,
        C::Item: ToString,
    {
        let rows =
            rows.into_iter().map(|row| row.into_iter().map(|cell| cell.to_string()).collect()).collect();
        let head = head.iter().map(ToString::to_string).collect();
        self.tell(Event::Table { title: title.to_owned(), head, rows });
    }

    /// Asserts that `holds`. `what` is a sentence that is true if it does.
    pub(crate) fn check(&mut self, what: impl Display, holds: bool) {
        self.tell(Event::Check { what: what.to_string(), holds, seen: String::new() });
    }

    /// Asserts that the two are equal, and shows them.
    #[expect(clippy::needless_pass_by_value, reason = "so that the call reads as the sentence does")]
    pub(crate) fn equal<A: PartialEq<B> + std::fmt::Debug, B: std::fmt::Debug>(
        &mut self,
        what: impl Display,
        seen: A,
        expected: B,
    ) {
        let holds = seen == expected;
        let seen = if holds { format!("{seen:?}") } else { format!("{seen:?}, not {expected:?}") };
        self.tell(Event::Check { what: what.to_string(), holds, seen });
    }

    /// Asserts that the two differ, and shows them.
    #[expect(clippy::needless_pass_by_value, reason = "so that the call reads as the sentence does")]
    pub(crate) fn differ<A: PartialEq<B> + std::fmt::Debug, B: std::fmt::Debug>(
        &mut self,
        what: impl Display,
        one: A,
        other: B,
    ) {
        let holds = one != other;
        let seen = if holds { format!("{one:?} and {other:?}") } else { format!("both are {one:?}") };
        self.tell(Event::Check { what: what.to_string(), holds, seen });
    }

    /// Asserts that it failed with this errno.
    pub(crate) fn refused<T>(&mut self, what: impl Display, result: std::io::Result<T>, errno: i32) {
        let seen = match &result {
            Ok(_) => "it succeeded".to_owned(),
            Err(error) => error.to_string(),
        };
        let holds = result.err().and_then(|error| error.raw_os_error()) == Some(errno);
        self.tell(Event::Check { what: what.to_string(), holds, seen });
    }

    /// Shows what a sandbox is about to do, for `--explain`: `report.plan(&command.plan()?)`.
    pub(crate) fn plan(&mut self, plan: &palisade::Plan) {
        if self.explain {
            self.tell(Event::Plan(plan.to_string()));
        }
    }

    /// How many checks did not hold.
    pub(crate) fn failures(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Check { holds: false, .. })).count()
    }

    fn tell(&mut self, event: Event) {
        if !self.quiet {
            print(&event);
        }
        self.events.push(event);
    }
}

fn print(event: &Event) {
    match event {
        Event::Note(text) => println!("\n  {}", text.replace('\n', "\n  ")),
        Event::Table { title, head, rows } => {
            let mut grid = Grid::new();
            grid.load_preset(presets::NOTHING).set_header(head);
            grid.add_rows(rows);
            println!("\n  {title}");
            for line in grid.lines() {
                println!("   {}", line.trim_end());
            }
        }
        Event::Check { what, holds, seen } => {
            let sign = if *holds { "ok  " } else { "FAIL" };
            let seen = if seen.is_empty() { String::new() } else { format!("  [{seen}]") };
            println!("  {sign} {what}{seen}");
        }
        Event::Plan(plan) => {
            println!("\n  what the sandbox is about to do:\n    {}", plan.replace('\n', "\n    "));
        }
    }
}
