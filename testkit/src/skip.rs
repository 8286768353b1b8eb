//! Skips that nobody overlooks.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Ends a test that cannot run here: prints `SKIP reason`, notes it for the summary and returns.
///
/// `needs` names the capability that is missing, so that `PALISADE_TEST_REQUIRE` can turn the skip into a failure.
#[macro_export]
macro_rules! skip {
    ($reason:literal $(, needs = $needs:expr)? $(,)?) => {
        $crate::skip!(@note ::std::format_args!($reason) $(, $needs)?)
    };
    ($reason:expr $(, needs = $needs:expr)? $(,)?) => {
        $crate::skip!(@note $reason $(, $needs)?)
    };
    (@note $reason:expr) => { $crate::skip!(@note $reason, "") };
    (@note $reason:expr, $needs:expr) => {{
        $crate::note_skip(&$reason, $needs);
        return $crate::SkipValue::skipped();
    }};
}

/// What a skipped test returns. Used by [`skip!`].
pub trait SkipValue {
    /// The value that means 'no failure'.
    fn skipped() -> Self;
}

impl SkipValue for () {
    fn skipped() -> Self {}
}

impl<E> SkipValue for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Prints and logs a skip. Used by [`skip!`].
///
/// # Panics
///
/// If `PALISADE_TEST_REQUIRE` names `needs`, or the skip log cannot be written.
#[track_caller]
pub fn note_skip(reason: &dyn Display, needs: &str) {
    let required = std::env::var("PALISADE_TEST_REQUIRE").unwrap_or_default();
    if is_required(&required, needs) {
        panic!("PALISADE_TEST_REQUIRE={required} forbids this skip: {reason}");
    }
    let reason = reason.to_string().replace(['\n', '\t'], " ");
    eprintln!("SKIP {reason}");
    if let Some(log) = std::env::var_os("PALISADE_SKIP_LOG").filter(|path| !path.is_empty()) {
        // One write of one line on an O_APPEND file: tests in parallel do not mix.
        let line = format!("{}\t{needs}\t{reason}\n", test_id());
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log)
            .and_then(|mut f| f.write_all(line.as_bytes()));
        if let Err(error) = written {
            panic!("skip log {}: {error}", log.to_string_lossy());
        }
    }
}

fn is_required(required: &str, needs: &str) -> bool {
    !needs.is_empty() && required.split(',').any(|name| name == "all" || name == needs)
}

/// `binary test`, in nextest's words where it runs us.
fn test_id() -> String {
    let binary = std::env::var("NEXTEST_BINARY_ID").unwrap_or_else(|_| {
        let exe = std::env::current_exe().unwrap_or_default();
        exe.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    });
    let test = std::env::var("NEXTEST_TEST_NAME")
        .unwrap_or_else(|_| std::thread::current().name().unwrap_or("?").to_owned());
    format!("{binary} {test}")
}

#[cfg(test)]
mod tests {
    use super::is_required;

    #[test]
    fn a_skip_is_forbidden_by_its_name_or_by_all() {
        assert!(is_required("root,cgroup2", "cgroup2"));
        assert!(is_required("all", "cgroup2"));
        assert!(!is_required("root,cgroup2", "cgroup"));
        assert!(!is_required("", "root"));
        assert!(!is_required("all", ""));
    }
}
