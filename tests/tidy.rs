//! The rules of the tree that a machine can check. CONTRIBUTING.md says why they are rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Published crates, by folder.
const CRATES: &[&str] = &["sys", "ns", "fsroot", "cgroup", "creds", "secfilter", "procinfo", "net", "."];

/// Files that may be longer than 600 lines (tests: 1000), each with its reason.
const LONG: &[(&str, &str)] = &[];

struct File {
    /// Path from the root of the workspace.
    path: String,
    text: String,
}

impl File {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All text files of the tree, but for what is built and what git keeps.
fn files() -> Vec<File> {
    fn walk(dir: &Path, into: &mut Vec<File>) {
        for entry in fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let kind = entry.file_type().expect("a type");
            if name == ".git" || name.starts_with("target") {
                continue;
            }
            if kind.is_dir() {
                walk(&path, into);
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
                into.push(File { path, text });
            }
        }
    }
    let mut all = Vec::new();
    walk(root(), &mut all);
    assert!(all.len() > 30, "the walk found only {} files", all.len());
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

fn rust_files() -> impl Iterator<Item = File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs") && file.path != "tests/tidy.rs")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines of code, numbered from 1: without comments and without what is in string literals on one line.
fn code(text: &str) -> impl Iterator<Item = (usize, String)> {
    text.lines().enumerate().map(|(index, line)| {
        let mut kept = String::new();
        let (mut in_string, mut escaped) = (false, false);
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_string => escaped = !escaped,
                // A quote as a character literal opens no string.
                '"' if !(escaped || kept.ends_with('\'') && chars.peek() == Some(&'\'')) => {
                    in_string = !in_string;
                }
                '/' if !in_string && chars.peek() == Some(&'/') => break,
                _ if in_string => escaped = false,
                _ => kept.push(c),
            }
        }
        (index + 1, kept)
    })
}

/// Fails with every breach at once.
#[track_caller]
fn none(rule: &str, breaches: impl IntoIterator<Item = String>) {
    let list: Vec<String> = breaches.into_iter().collect();
    assert!(list.is_empty(), "{rule}:\n  {}\n", list.join("\n  "));
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// Breaches of a rule on lines of code of some Rust files.
fn lines_of(files: impl Iterator<Item = File>, breaks: impl Fn(&str) -> bool) -> Vec<String> {
    files
        .flat_map(|file| {
            code(&file.text)
                .filter(|(_, line)| breaks(line))
                .map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn unsafe_code_is_in_files_named_sys() {
    let others = rust_files().filter(|file| file.name() != "sys.rs");
    none("`unsafe` belongs in files named sys.rs", lines_of(others, |line| has_word(line, "unsafe")));
}

#[test]
fn lint_exceptions_are_expectations_with_a_reason() {
    // A module shared by several test binaries cannot expect: what one leaves unused another uses.
    let files = rust_files().filter(|file| !file.path.ends_with("tests/common/mod.rs"));
    none(
        "use #[expect(…, reason = …)]",
        lines_of(files, |line| line.contains("allow(") && line.contains('#')),
    );
    let unreasoned = rust_files().filter(|file| {
        // The attribute may go over several lines: up to its closing bracket.
        file.text.match_indices("[expect(").any(|(at, _)| {
            let attribute = file.text[at..].split(")]").next().unwrap_or_default();
            !attribute.contains("reason")
        })
    });
    none("an #[expect] needs its reason", unreasoned.map(|file| file.path));
}

#[test]
fn no_test_is_switched_off() {
    let ignored = rust_files().flat_map(|file| {
        let lines = file
            .text
            .lines()
            .filter(|line| line.trim_start().starts_with("#[ignore") && !line.contains("run by the test"));
        lines.map(|line| format!("{}: {line}", file.path)).collect::<Vec<_>>()
    });
    none(
        "a test runs or calls skip!(); only the body of another test's child is ignored: 'run by …'",
        ignored,
    );
}

#[test]
fn crates_of_ours_depend_on_sys_only() {
    let mut breaches = Vec::new();
    for folder in CRATES.iter().filter(|&&folder| folder != ".") {
        let mut section = String::new();
        for line in read(format!("{folder}/Cargo.toml")).lines() {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']).to_owned();
            }
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let allowed = name == "palisade-sys" && *folder != "sys"
                || name == "palisade-testkit" && section == "dev-dependencies";
            if section.contains("dependencies") && name.starts_with("palisade") && !allowed {
                breaches.push(format!("{folder}: {name} in [{section}]"));
            }
        }
    }
    none("a crate of ours depends on palisade-sys and on no other of ours", breaches);
}

#[test]
fn manifests_share_the_fields_of_the_workspace() {
    let mut breaches = Vec::new();
    for folder in CRATES {
        let manifest = read(format!("{folder}/Cargo.toml"));
        let shared =
            ["version", "edition", "rust-version", "license", "repository", "categories", "keywords"]
                .map(|field| format!("\n{field}.workspace = true\n"));
        let own =
            ["\ndescription = ", "\nreadme = \"README.md\"\n", "\ninclude = ", "\n[lints]\nworkspace = true"];
        for wanted in shared.iter().map(String::as_str).chain(own) {
            if !manifest.contains(wanted) {
                breaches.push(format!("{folder}/Cargo.toml lacks `{}`", wanted.trim().replace('\n', " ")));
            }
        }
    }
    none("the manifest of a published crate", breaches);
}

#[test]
fn a_crate_page_is_its_readme_and_lib_rs_has_no_logic() {
    let mut breaches = Vec::new();
    for folder in CRATES {
        let text = read(format!("{folder}/src/lib.rs"));
        if !text.contains("#![doc = include_str!(\"../README.md\")]") {
            breaches.push(format!("{folder}/src/lib.rs does not include README.md as its page"));
        }
        let items: String = code(&text)
            .map(|(_, line)| line)
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect::<Vec<_>>()
            .join(" ");
        for item in items.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            let fine = ["mod ", "pub mod ", "pub use ", "use ", "compile_error!"]
                .iter()
                .any(|start| item.starts_with(start))
                && (!item.contains('{') || item.contains("use "));
            if !fine {
                breaches.push(format!("{folder}/src/lib.rs: {item}"));
            }
        }
    }
    none("lib.rs has the crate page, modules and re-exports", breaches);
}

#[test]
fn files_are_short() {
    let long: Vec<_> = rust_files()
        .filter(|file| file.text.lines().count() > if file.path.contains("tests/") { 1000 } else { 600 })
        .map(|file| file.path)
        .collect();
    none(
        "longer than 600 lines: split it by the kernel's nouns, or list it in LONG with a reason",
        long.iter().filter(|path| LONG.iter().all(|(listed, _)| listed != path)).cloned(),
    );
    none(
        "listed in LONG without need",
        LONG.iter()
            .filter(|(path, _)| !long.iter().any(|long| long == path))
            .map(|(path, _)| (*path).to_owned()),
    );
}

#[test]
fn the_tree_names_no_machine_and_no_registry() {
    // Put together here, so that this file does not name them.
    let words = [
        ["/work", "/wt"],
        ["/work", "/main"],
        ["/work", "/shared"],
        ["/work", "/.library"],
        ["deb.deb", "ian"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["registry.npm", "js"],
        ["pypi", ".org"],
    ]
    .map(|parts| parts.concat());
    let mut breaches = Vec::new();
    for file in files().iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (number, line) in file.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(*word)) {
                breaches.push(format!("{}:{}: {word}", file.path, number + 1));
            }
        }
    }
    none("paths and hosts of one machine", breaches);
}

/// The numbers of attacks in a text: `A01` in prose, `a01_` in the name of a function.
fn attacks_in(text: &str) -> BTreeSet<u32> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let parts = words.flat_map(|word| {
        let first = word.chars().next();
        // Of a name, each part; of prose, the whole word.
        let name = first == Some('a') && word.contains('_');
        let parts: Vec<&str> = if name { word.split('_').collect() } else { vec![word] };
        parts.into_iter().filter_map(move |part| part.strip_prefix(if name { 'a' } else { 'A' }))
    });
    parts.filter(|digits| (2..=3).contains(&digits.len())).filter_map(|digits| digits.parse().ok()).collect()
}

/// docs/attacks.md is the list of what the numbers stand for: each has one row, and what it names is there.
#[test]
fn attacks_have_a_row_and_their_tests_exist() {
    let files = files();
    let mut breaches = Vec::new();
    let mut rows = BTreeSet::new();
    let mut last = 0;
    for row in read("docs/attacks.md").lines().filter(|line| line.starts_with("| A")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [number, tried, tests] = cells[..] else {
            breaches.push(format!("not of three cells: {row}"));
            continue;
        };
        let n: u32 = number.strip_prefix('A').and_then(|n| n.parse().ok()).unwrap_or(0);
        if n <= last || tried.is_empty() {
            breaches.push(format!("{number}: out of order, twice, or without words"));
        }
        last = n;
        rows.insert(n);
        let mut named = 0;
        for part in tests.split(';') {
            let mut quoted = part.split('`').skip(1).step_by(2);
            let path = quoted.next().unwrap_or_default();
            let Some(file) = files.iter().find(|file| file.path == path) else {
                breaches.push(format!("{number}: there is no file {path:?}"));
                continue;
            };
            for name in quoted {
                named += 1;
                if !file.text.contains(&format!("fn {name}(")) {
                    breaches.push(format!("{number}: {path} has no test {name}"));
                }
            }
        }
        if named == 0 && !tests.starts_with("none: ") {
            breaches.push(format!("{number}: neither a test nor 'none: ' and why"));
        }
    }
    assert!(rows.len() > 80, "only {} rows were read", rows.len());
    let tests = files.iter().filter(|file| {
        let test = file.path.contains("tests/") || file.text.contains("#[cfg(test)]");
        file.path.ends_with(".rs") && test && file.path != "tests/tidy.rs"
    });
    for file in tests {
        for n in attacks_in(&file.text).difference(&rows) {
            breaches.push(format!("{}: A{n:02} has no row", file.path));
        }
    }
    none("docs/attacks.md and the tests that it lists", breaches);
}

#[test]
fn numbers_of_attacks_are_found() {
    let found =
        attacks_in("/// A01, A117: x (A9)\nfn a22_a23_the_a_b() { let a5 = AT_1; } // CA12, A1234 fa44_x");
    assert_eq!(found, BTreeSet::from([1, 22, 23, 117]));
}

#[test]
fn every_fuzz_target_is_listed() {
    let manifest = read("fuzz/Cargo.toml");
    let listed: BTreeSet<String> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .map(str::to_owned)
        .collect();
    let there: BTreeSet<String> = fs::read_dir(root().join("fuzz/fuzz_targets"))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("an entry").path())
        .filter_map(|path: PathBuf| Some(path.file_name()?.to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    assert_eq!(listed, there, "fuzz/Cargo.toml (left) and fuzz/fuzz_targets (right)");
    for name in &listed {
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = ")), "the [[bin]] of {name}");
    }
}

#[test]
fn licences_of_dependencies_are_allowed() {
    let rules = read("deny.toml");
    let list =
        rules.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).expect("allow = […]").0;
    let allowed: BTreeSet<&str> = list
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--workspace",
            "--all-features",
            "--locked",
            "--prefix",
            "none",
            "--format",
            "{p}|{l}",
        ])
        .current_dir(root())
        .output()
        .expect("cargo tree");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let packages: BTreeSet<String> = String::from_utf8_lossy(&tree.stdout)
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect();
    assert!(packages.len() > 15, "{packages:?}");
    none(
        "dependencies whose licence deny.toml does not allow",
        packages.into_iter().filter(|line| {
            let licence = line.split_once('|').map_or("", |(_, licence)| licence);
            !licence_fits(licence, &allowed)
        }),
    );
}

/// Whether an SPDX expression can be met with the allowed licences. OR binds looser than AND.
fn licence_fits(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    // An older spelling of OR.
    let expression = expression.replace('/', " OR ");
    fits(&expression, allowed)
}

fn fits(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    if let Some(parts) = split_outside(expression, " OR ") {
        return parts.iter().any(|part| fits(part, allowed));
    }
    if let Some(parts) = split_outside(expression, " AND ") {
        return parts.iter().all(|part| fits(part, allowed));
    }
    match expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => fits(inner, allowed),
        None => allowed.contains(expression),
    }
}

/// The parts of `text` between `separator`s that are in no parenthesis; `None` if there is no such separator.
fn split_outside<'a>(text: &'a str, separator: &str) -> Option<Vec<&'a str>> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && text[at..].starts_with(separator) => {
                parts.push(&text[start..at]);
                start = at + separator.len();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (parts.len() > 1).then_some(parts)
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"]);
    for fine in [
        "MIT",
        "MIT OR GPL-3.0",
        "MIT/Apache-2.0",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR BSL-1.0",
        "GPL-3.0 OR (MIT AND Unicode-3.0)",
    ] {
        assert!(licence_fits(fine, &allowed), "{fine}");
    }
    for not in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND NCSA", "GPL-2.0 WITH LLVM-exception"]
    {
        assert!(!licence_fits(not, &allowed), "{not}");
    }
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let text = "let a = \"unsafe // \\\" unsafe\"; // unsafe\nlet q = '\"'; unsafe {}\n";
    let lines: Vec<_> = code(text).map(|(_, line)| line).collect();
    assert!(!has_word(&lines[0], "unsafe"), "{lines:?}");
    assert!(has_word(&lines[1], "unsafe"), "{lines:?}");
    assert!(!has_word("forbid(unsafe_code)", "unsafe"));
}
