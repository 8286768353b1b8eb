//! Spans of spawns and steps, through the crate `tracing`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use palisade::{Command, Sandbox, Stdio, Step};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// What was told: spans in the order in which they were made, events by their fields.
#[derive(Default)]
struct Told {
    spans: Vec<Span>,
    events: Vec<BTreeMap<String, String>>,
    /// Entered now, by thread.
    inside: Vec<(std::thread::ThreadId, u64)>,
}

#[derive(Clone, Debug)]
struct Span {
    name: &'static str,
    fields: BTreeMap<String, String>,
    /// In which it was made.
    parent: Option<u64>,
}

#[derive(Clone)]
struct Listener {
    told: Arc<Mutex<Told>>,
    most: Level,
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}"));
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut told = self.told.lock().unwrap();
        let mut fields = BTreeMap::new();
        attributes.record(&mut Fields(&mut fields));
        let thread = std::thread::current().id();
        let parent = told.inside.iter().rfind(|(known, _)| *known == thread).map(|(_, span)| *span);
        told.spans.push(Span { name: attributes.metadata().name(), fields, parent });
        Id::from_u64(told.spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let fields = &mut self.told.lock().unwrap().spans[span.into_u64() as usize - 1].fields;
        values.record(&mut Fields(fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        self.told.lock().unwrap().events.push(fields);
    }

    fn enter(&self, span: &Id) {
        self.told.lock().unwrap().inside.push((std::thread::current().id(), span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        let thread = std::thread::current().id();
        let inside = &mut self.told.lock().unwrap().inside;
        let last = inside.iter().rposition(|entry| *entry == (thread, span.into_u64())).unwrap();
        inside.remove(last);
    }
}

/// What is told about spawns, up to a level.
fn listen(most: Level, body: impl FnOnce()) -> Told {
    let told = Arc::<Mutex<Told>>::default();
    tracing::subscriber::with_default(Listener { told: Arc::clone(&told), most }, body);
    std::mem::take(&mut *told.lock().unwrap())
}

fn command(program: &str) -> Command {
    let mut command = Sandbox::new().unwrap().command(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn a_spawn_and_its_steps_are_spans() {
    let mut pid = 0;
    let told = listen(Level::DEBUG, || {
        let mut child = command("/bin/true").spawn().unwrap();
        pid = child.id();
        assert!(child.wait().unwrap().success(), "a plan with looks at the clock runs");
    });
    let spawns: Vec<_> = told.spans.iter().filter(|span| span.name == "spawn").collect();
    assert_eq!(spawns.len(), 1);
    assert_eq!((&*spawns[0].fields["program"], &spawns[0].fields["pid"]), ("/bin/true", &pid.to_string()));
    let spawn = told.spans.iter().position(|span| span.name == "spawn").unwrap() as u64 + 1;
    let side = |name: &str| -> Vec<&Span> {
        told.spans.iter().filter(|span| span.name == "step" && span.fields["side"] == name).collect()
    };
    for step in side("host").iter().chain(&side("stage")) {
        assert_eq!(step.parent, Some(spawn), "{step:?}");
    }
    let names =
        |side: &[&Span]| -> Vec<String> { side.iter().map(|span| span.fields["step"].clone()).collect() };
    let host = names(&side("host"));
    for step in [Step::Clone, Step::IdMaps, Step::Verification, Step::Exec] {
        assert!(host.iter().any(|name| name == step.name()), "{step}: {host:?}");
    }
    let stage = names(&side("stage"));
    for step in
        [Step::Baseline, Step::Mounts, Step::PivotRoot, Step::Capabilities, Step::NoNewPrivs, Step::Seccomp]
    {
        assert!(stage.iter().any(|name| name == step.name()), "{step}: {stage:?}");
    }
    let order: Vec<usize> =
        stage.iter().map(|name| Step::ALL.iter().position(|step| step.name() == name).unwrap()).collect();
    assert!(order.is_sorted(), "{stage:?}");
    let micros: Vec<u64> = side("stage").iter().map(|span| span.fields["micros"].parse().unwrap()).collect();
    let sum: u64 = micros.iter().sum();
    assert!(sum > 0 && sum < 60_000_000, "{micros:?}");
    assert!(told.events.is_empty(), "{:?}", told.events);
}

#[test]
fn a_failure_is_an_event_in_the_span() {
    let told = listen(Level::DEBUG, || {
        command("/bin/nowhere").spawn().unwrap_err();
    });
    assert_eq!(told.events.len(), 1);
    assert_eq!(told.events[0]["step"], "exec");
    assert!(told.events[0]["message"].contains("/bin/nowhere"), "{:?}", told.events);
    // The steps before it were come to, and are told.
    assert!(told.spans.iter().any(|span| span.fields.get("step").is_some_and(|name| name == "mounts")));
    let spawn = told.spans.iter().find(|span| span.name == "spawn").unwrap();
    assert!(!spawn.fields.contains_key("pid"));
}

#[test]
fn nobody_who_listens_is_nothing_done() {
    let plain = command("/bin/true").plan().unwrap();
    assert!(!plain.to_string().contains("clock_gettime"));
    // Of spawns alone, without their steps.
    let told = listen(Level::INFO, || {
        let plan = command("/bin/true").plan().unwrap();
        assert_eq!(plan.child_calls(), plain.child_calls());
        assert!(plan.spawn().unwrap().wait().unwrap().success());
    });
    assert_eq!(told.spans.len(), 1, "{:?}", told.spans);
    // With them the plan has the looks at the clock, and says so.
    let told = listen(Level::TRACE, || {
        let plan = command("/bin/true").plan().unwrap();
        assert!(plan.child_calls() > plain.child_calls() + 10);
        assert!(plan.to_string().contains("clock_gettime"));
    });
    assert!(told.spans.is_empty(), "a plan is no spawn");
}

/// With an init and with a second user namespace the stage forks: the times are still told in order.
#[test]
fn every_shape_of_a_set_up_can_be_timed() {
    use palisade::creds::{Capability, CapabilitySet};
    let told = listen(Level::DEBUG, || {
        let capabilities = CapabilitySet::EMPTY.with(Capability::SysAdmin);
        for builder in [Sandbox::builder().init(true), Sandbox::builder().capabilities(capabilities)] {
            let mut command = builder.build().unwrap().command("/bin/true");
            assert!(command.stdin(Stdio::null()).status().unwrap().success());
        }
        let child = command("/bin/sleep").arg("1000").spawn().unwrap();
        assert!(child.exec("/bin/true").stdin(Stdio::null()).status().unwrap().success());
    });
    assert_eq!(told.spans.iter().filter(|span| span.name == "spawn").count(), 4);
    assert!(told.events.is_empty(), "{:?}", told.events);
}
