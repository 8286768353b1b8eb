//! Skips that nobody overlooks.

use std::fmt::Display;

/// Ends a test that cannot run here: prints `SKIP reason`, which the summary of `./check` names, and returns.
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

/// Prints a skip. Used by [`skip!`].
///
/// # Panics
///
/// If `PALISADE_TEST_REQUIRE` names `needs`.
#[track_caller]
pub fn note_skip(reason: &dyn Display, needs: &str) {
    let required = std::env::var("PALISADE_TEST_REQUIRE").unwrap_or_default();
    if is_required(&required, needs) {
        panic!("PALISADE_TEST_REQUIRE={required} forbids this skip: {reason}");
    }
    eprintln!("SKIP {}", reason.to_string().replace('\n', " "));
}

fn is_required(required: &str, needs: &str) -> bool {
    !needs.is_empty() && required.split(',').any(|name| name == "all" || name == needs)
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
