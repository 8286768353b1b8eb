//! The list of labs: for the terminal, for machines, and as docs/labs.md.

use std::fmt::Write as _;

use serde_json::json;

use crate::catalogue::{ENTRIES, GROUPS};
use crate::lab::Body;
use crate::{TOPICS, find};

fn topic(number: u8) -> Option<&'static str> {
    TOPICS.iter().find(|(_, labs)| labs.iter().any(|lab| lab.number == number)).map(|(name, _)| *name)
}

pub(crate) fn list() -> String {
    let mut text = String::new();
    let (mut experiments, mut answers) = (0, 0);
    for (letter, name) in GROUPS {
        let _ = writeln!(text, "\n{letter}  {name}");
        for (number, _, title) in ENTRIES.into_iter().filter(|&(_, group, _)| group == letter) {
            let state = match find(number).map(|lab| (lab.body, lab.needs)) {
                Some((Body::Run(_), needs)) => {
                    experiments += 1;
                    needs.text()
                }
                Some((Body::Answer(_), _)) => {
                    answers += 1;
                    "prose, answered"
                }
                None => "not yet written",
            };
            let _ = writeln!(text, "{number:>4}  {title:<58} {state}");
        }
    }
    let _ = writeln!(
        text,
        "\n{experiments} experiments, {answers} answers. Run one by its number, a topic, a group or all:\n  \
         cargo run --example labs -- 16\n  cargo run --example labs -- --explain chroot\n  \
         cargo run --example labs -- C D\n  cargo run --example labs -- all\nTopics: {}",
        TOPICS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" "),
    );
    text
}

pub(crate) fn json() -> String {
    let rows: Vec<_> = ENTRIES
        .into_iter()
        .map(|(number, group, title)| {
            let lab = find(number);
            json!({
                "number": number,
                "group": group,
                "title": title,
                "topic": topic(number),
                "experiment": lab.is_some_and(|lab| matches!(lab.body, Body::Run(_))),
                "needs": lab.map(|lab| lab.needs.text()),
                "shows": lab.map(|lab| lab.shows),
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(rows))
}

pub(crate) fn markdown() -> String {
    let mut text = "\
# The labs

Ninety-two entries of a study of containers (chroot to Kubernetes), each reproduced as an experiment that asserts what the study found,
or answered here where the entry is prose. `cargo run --example labs` lists them; `-- 16` runs one, `-- chroot` a topic, `-- C` a group, `-- all` all; `--explain` adds
the mechanism and what each sandbox is about to do. No lab touches the host: each runs in namespaces of its own and is searched for
leaks afterwards. This page is made by `cargo run --example labs -- --markdown`; a test compares.
"
    .to_owned();
    for (letter, name) in GROUPS {
        let _ = write!(
            text,
            "\n## {letter}. {name}\n\n| lab | | run with | needs | what you will see |\n| --- | --- | --- | --- | --- |\n"
        );
        let mut answers = String::new();
        for (number, _, title) in ENTRIES.into_iter().filter(|&(_, group, _)| group == letter) {
            let row = match find(number) {
                Some(lab) => match lab.body {
                    Body::Run(_) => format!("`labs -- {number}` | {} | {} |", lab.needs.text(), lab.shows),
                    Body::Answer(answer) => {
                        let _ = write!(answers, "\n**{number}. {title}.** {answer}\n");
                        format!("prose | | {} |", lab.shows)
                    }
                },
                None => "not yet written | | |".to_owned(),
            };
            let _ = writeln!(text, "| {number} | {title} | {row}");
        }
        text.push_str(&answers);
    }
    text
}
