//! Every lab of the study runs, and passes, here and as an ordinary user; those that need a cgroup v2 machine do so in
//! `vm_labs`.

#[path = "common/labs.rs"]
mod labs;

use std::collections::BTreeSet;

labs::labs! {
    // A
    lab_1 = 1,
    lab_2 = 2,
    lab_3 = 3,
    lab_4 = 4,
    lab_5 = 5,
    lab_6 = 6,
    lab_7 = 7,
    lab_8 = 8,
    // B
    lab_9 = 9,
    lab_10 = 10,
    lab_11 = 11,
    lab_12 = 12,
    // C
    // D
    // E
    // F
    lab_48 = 48,
    // G
    // H
    // I
    // J
    // K
}

fn output(arguments: &[&str]) -> String {
    let out = labs::command(arguments).output().expect("it starts");
    assert!(out.status.success(), "{arguments:?}: {}", out.status);
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn every_experiment_has_its_test() {
    let labs: serde_json::Value = serde_json::from_str(&output(&["--json"])).unwrap();
    let labs = labs.as_array().unwrap();
    assert_eq!(labs.len(), 92);
    let experiments: BTreeSet<u64> = labs
        .iter()
        .filter(|lab| lab["experiment"] == true)
        .map(|lab| lab["number"].as_u64().unwrap())
        .collect();
    let sources = [include_str!("labs.rs"), include_str!("vm_labs.rs")];
    let tested: BTreeSet<u64> = sources
        .iter()
        .flat_map(|source| source.split("lab_").skip(1))
        .filter_map(|rest| rest.split_once(" = ")?.0.parse().ok())
        .collect();
    assert_eq!(tested, experiments);
}

#[test]
fn the_page_of_labs_is_theirs() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/labs.md")).unwrap();
    assert!(
        page == output(&["--markdown"]),
        "cargo run --example labs -- --markdown >docs/labs.md makes it anew"
    );
}

#[test]
fn a_wrong_word_is_an_error_that_names_it() {
    let out = labs::command(&["nosuchlab"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nosuchlab"));
}
