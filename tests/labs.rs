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
    lab_13 = 13,
    lab_14 = 14,
    lab_15 = 15,
    lab_16 = 16,
    lab_17 = 17,
    // D
    lab_18 = 18,
    lab_19 = 19,
    lab_20 = 20,
    lab_21 = 21,
    lab_22 = 22,
    lab_23 = 23,
    lab_24 = 24,
    // E
    lab_25 = 25,
    lab_26 = 26,
    lab_27 = 27,
    lab_28 = 28,
    lab_29 = 29,
    lab_30 = 30,
    lab_31 = 31,
    lab_32 = 32,
    lab_33 = 33,
    lab_34 = 34,
    lab_35 = 35,
    lab_36 = 36,
    lab_37 = 37,
    lab_38 = 38,
    lab_39 = 39,
    lab_40 = 40,
    lab_41 = 41,
    lab_42 = 42,
    lab_43 = 43,
    // F
    lab_48 = 48,
    // G
    lab_50 = 50,
    lab_51 = 51,
    lab_52 = 52,
    lab_53 = 53,
    lab_54 = 54,
    lab_55 = 55,
    // H
    lab_56 = 56,
    lab_57 = 57,
    lab_58 = 58,
    lab_59 = 59,
    lab_60 = 60,
    // I
    lab_61 = 61,
    lab_62 = 62,
    lab_63 = 63,
    lab_65 = 65,
    lab_66 = 66,
    lab_67 = 67,
    // J
    lab_68 = 68,
    lab_69 = 69,
    lab_70 = 70,
    lab_71 = 71,
    lab_72 = 72,
    lab_73 = 73,
    // K
    lab_75 = 75,
    lab_76 = 76,
    lab_77 = 77,
    lab_78 = 78,
    lab_79 = 79,
    lab_80 = 80,
    lab_81 = 81,
    lab_82 = 82,
    lab_83 = 83,
    lab_84 = 84,
    lab_85 = 85,
    lab_86 = 86,
    lab_87 = 87,
    lab_88 = 88,
    lab_91 = 91,
    lab_92 = 92,
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
fn a_lab_that_is_named_twice_runs_once() {
    let labs: serde_json::Value = serde_json::from_str(&output(&["--json", "13", "13"])).unwrap();
    assert_eq!(labs.as_array().unwrap().len(), 1, "{labs:#}");
}

#[test]
fn a_wrong_word_is_an_error_that_names_it() {
    let out = labs::command(&["nosuchlab"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nosuchlab"));
}
