//! Labels, and conditions on them.

use std::collections::BTreeMap;
use std::fmt;

/// Labels of a pod or group.
pub(crate) type Labels = BTreeMap<String, String>;

/// How a label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operator {
    /// There, with one of these values.
    In(Vec<String>),
    /// Absent, or with none of these values.
    NotIn(Vec<String>),
    /// There.
    Exists,
    /// Absent.
    DoesNotExist,
}

/// A condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The key of the label.
    pub key: String,
    /// How it must be.
    pub operator: Operator,
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// Conditions that all must hold; none of them selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Selects everything.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Selects what has the label `key` with this value.
    #[must_use]
    pub fn label(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::all().and(key, Operator::In(vec![value.into()]))
    }

    /// Adds a condition.
    #[must_use]
    pub fn and(mut self, key: impl Into<String>, operator: Operator) -> Self {
        self.requirements.push(Requirement { key: key.into(), operator });
        self
    }

    /// Whether these labels are selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|r| r.holds(labels))
    }

    /// The conditions.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{}={}", self.key, values[0]),
            Operator::In(values) => write!(f, "{} in ({})", self.key, values.join(",")),
            Operator::NotIn(values) => write!(f, "{} notin ({})", self.key, values.join(",")),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

impl fmt::Display for Selector {
    /// As `kubectl get --selector` takes it; `all` for the empty one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("all");
        }
        let parts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators() {
        let labels = Labels::from([("app".into(), "np1".into())]);
        let is = |operator| Selector::all().and("app", operator).matches(&labels);
        let other = |operator| Selector::all().and("tier", operator).matches(&labels);
        assert!(is(Operator::In(vec!["np1".into(), "x".into()])) && !is(Operator::In(vec![])));
        assert!(!is(Operator::NotIn(vec!["np1".into()])) && is(Operator::NotIn(vec![])));
        assert!(is(Operator::Exists) && !is(Operator::DoesNotExist));
        assert!(!other(Operator::In(vec!["x".into()])) && other(Operator::NotIn(vec!["x".into()])));
        assert!(!other(Operator::Exists) && other(Operator::DoesNotExist));
        assert!(Selector::all().matches(&Labels::new()));
        assert!(!Selector::label("app", "np1").and("tier", Operator::Exists).matches(&labels));
        assert_eq!(Selector::label("a", "b").and("c", Operator::DoesNotExist).to_string(), "a=b,!c");
    }
}
