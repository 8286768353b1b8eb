//! The environment of payloads.

use std::ffi::{OsStr, OsString};

use crate::prepare::Conflicts;
use crate::sandbox::{Spec, View};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn check(spec: &Spec, conflicts: &mut Conflicts) {
    for (name, value) in &spec.env {
        if let Some(wrong) = problem(name, value) {
            conflicts.add(wrong);
        }
    }
}

/// What is wrong with an environment variable, if anything.
pub(crate) fn problem(name: &OsStr, value: &OsStr) -> Option<String> {
    let shown = name.to_string_lossy();
    match (name.as_encoded_bytes(), value.as_encoded_bytes()) {
        ([], _) => Some("env: a name is empty".into()),
        (name, _) if name.contains(&b'=') => Some(format!("env: {shown}: a name holds no '='")),
        (name, value) if name.contains(&0) || value.contains(&0) => Some(format!("env: {shown}: a NUL byte")),
        _ => None,
    }
}

fn home(root: &View) -> &std::path::Path {
    match root {
        View::Host(view) => view.home_dir(),
        View::Own(_) | View::Shared => "/".as_ref(),
    }
}

/// Later ones replace earlier ones of the same name.
pub(crate) fn base(spec: &Spec) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    if spec.inherit_env {
        env.extend(std::env::vars_os());
    } else {
        env.push(("PATH".into(), DEFAULT_PATH.into()));
        env.push(("HOME".into(), home(&spec.root).into()));
        let kept = ["LANG", "TERM", "TZ"].into_iter();
        env.extend(kept.filter_map(|name| Some((name.into(), std::env::var_os(name)?))));
    }
    for (name, value) in &spec.env {
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value.clone()));
    }
    env
}
