//! Which step of a spawn takes how long, as `tracing` tells it: each profile beside its floor, and the secure default.
//!
//! `cargo bench -p palisade-benches --bench steps`, as root for all profiles. `-- P2 default` for some of them.
//!
//! The steps of the host program's side are timed on its clock, those of the stage by the stage, which looks at the clock
//! before each. What no step accounts for has lines of its own: the way to the thread that spawns, what lies before a step
//! (before exec: the way back), and the end of the payload.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use palisade::cgroup::Cgroup;
use palisade::{Command, Sandbox, Stdio};
use palisade_benches::floor::Profile;
use palisade_benches::profiles;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A real program, for the secure default.
const REAL: &str = "/bin/true";

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let rounds = if quick { 2 } else { 400 };
    let root = profiles::root();
    let group = profiles::group();
    for profile in Profile::ALL {
        let name = format!("{profile:?}");
        if !wants(&name) {
            continue;
        }
        if let (Some(mut floor), Some(command)) = (
            profiles::floor(profile, root.path(), group.as_deref()),
            profiles::palisade(profile, root.path(), group.as_deref()),
        ) {
            report(&name, rounds, &command, group.as_deref(), &mut || {
                let took = timed(|| floor.run().expect("the floor runs"));
                floor.clean().expect("its cgroup is empty");
                took
            });
        }
    }
    if wants("default") {
        let mut plain = std::process::Command::new(REAL);
        let mut command = Sandbox::new().expect("the secure default is possible here").command(REAL).clone();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        report("default, beside std::process::Command", rounds, &command, None, &mut || {
            timed(|| assert!(plain.status().expect("it runs").success()))
        });
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// `beside` tells how long its part took.
fn report(
    name: &str,
    rounds: usize,
    command: &Command,
    group: Option<&Cgroup>,
    beside: &mut dyn FnMut() -> Duration,
) {
    let listener = Listener::default();
    let (mut raw, mut silent) = (Vec::new(), Vec::new());
    for round in 0..rounds + rounds / 10 {
        let floor = beside();
        let untold = timed(|| assert!(command.status().expect("it runs").success()));
        profiles::settle(group);
        let told = tracing::subscriber::with_default(listener.clone(), || observed(&listener, command));
        profiles::settle(group);
        // The first tenth warms up.
        if round >= rounds / 10 {
            raw.push(floor);
            silent.push(untold);
            listener.keep(&told);
        }
    }
    println!(
        "\n{name}: floor {:.0} µs, palisade {:.0} µs, medians of {rounds} interleaved runs each",
        micros(&mut raw),
        micros(&mut silent)
    );
    listener.print();
}

/// Moments of one spawn on the caller's side.
struct Observed {
    begin: Instant,
    spawned: Instant,
    end: Instant,
}

fn observed(listener: &Listener, command: &Command) -> Observed {
    listener.now.lock().expect("no panic").clear();
    let begin = Instant::now();
    let mut child = command.spawn().expect("it runs");
    let spawned = Instant::now();
    assert!(child.wait().expect("it is ours").success());
    Observed { begin, spawned, end: Instant::now() }
}

fn micros(times: &mut [Duration]) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// One span that was told.
#[derive(Clone, Debug, Default)]
struct Span {
    spawn: bool,
    step: String,
    side: String,
    /// What the stage said.
    micros: Option<u64>,
    entered: Option<Instant>,
    left: Option<Instant>,
}

impl Visit for Span {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "step" => self.step = format!("{value:?}"),
            "side" => self.side = format!("{value:?}"),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "step" => self.step = value.to_owned(),
            "side" => self.side = value.to_owned(),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "micros" {
            self.micros = Some(value);
        }
    }
}

/// By name of the line, with the place of its first appearance.
type Lines = BTreeMap<String, (usize, Vec<Duration>)>;

/// Keeps the spans of the spawn that goes on, and the sums of those before it.
#[derive(Clone, Default)]
struct Listener {
    now: Arc<Mutex<Vec<Span>>>,
    lines: Arc<Mutex<Lines>>,
}

impl Listener {
    fn keep(&self, observed: &Observed) {
        let spans = self.now.lock().expect("no panic");
        let mut lines = self.lines.lock().expect("no panic");
        let mut line = |name: String, time: Duration| {
            let place = lines.len();
            lines.entry(name).or_insert((place, Vec::new())).1.push(time);
        };
        let began = spans.iter().find(|span| span.spawn).and_then(|span| span.entered);
        let mut now = began.unwrap_or(observed.begin);
        line("to the thread that spawns".into(), now - observed.begin);
        for span in spans.iter().filter(|span| !span.spawn && span.micros.is_none()) {
            let (Some(entered), Some(left)) = (span.entered, span.left) else { continue };
            line(format!("host: before {}", span.step), entered.saturating_duration_since(now));
            line(format!("host: {}", span.step), left - entered);
            now = left;
        }
        line("host: after exec".into(), observed.spawned.saturating_duration_since(now));
        line("wait for the end".into(), observed.end - observed.spawned);
        line("all of it".into(), observed.end - observed.begin);
        for span in spans.iter() {
            if let Some(micros) = span.micros {
                line(format!("stage: {}", span.step), Duration::from_micros(micros));
            }
        }
    }

    fn print(&self) {
        let mut lines = self.lines.lock().expect("no panic");
        let mut sorted: Vec<_> = lines.iter_mut().collect();
        sorted.sort_by_key(|(_, (place, _))| *place);
        for (name, (_, times)) in sorted {
            let median = micros(times);
            if median >= 0.5 {
                println!("  {name:<40} {median:>6.0}");
            }
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut span = Span { spawn: attributes.metadata().name() == "spawn", ..Span::default() };
        attributes.record(&mut span);
        let mut now = self.now.lock().expect("no panic");
        now.push(span);
        Id::from_u64(now.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, id: &Id) {
        if let Some(span) = self.now.lock().expect("no panic").get_mut(id.into_u64() as usize - 1) {
            span.entered.get_or_insert_with(Instant::now);
        }
    }

    fn exit(&self, id: &Id) {
        if let Some(span) = self.now.lock().expect("no panic").get_mut(id.into_u64() as usize - 1) {
            span.left.get_or_insert_with(Instant::now);
        }
    }
}
