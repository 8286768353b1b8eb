//! Label selectors.

use std::collections::BTreeMap;

use palisade_net::policy::{Operator, Selector};
use serde::Deserialize;

/// `LabelSelector` of apimachinery's `meta/v1`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LabelSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Expression>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

impl LabelSelector {
    pub(super) fn into_selector(self) -> Result<Selector, String> {
        let mut selector = Selector::all();
        for (key, value) in self.match_labels.unwrap_or_default() {
            check_label(&key, &value)?;
            selector = selector.and(key, Operator::In(vec![value]));
        }
        for Expression { key, operator, values } in self.match_expressions.unwrap_or_default() {
            let values = values.unwrap_or_default();
            check_label(&key, "")?;
            values.iter().try_for_each(|value| check_label(&key, value))?;
            let operator = match (operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                ("In" | "NotIn", true) => return Err(format!("{key}: {operator} needs values")),
                ("Exists" | "DoesNotExist", false) => {
                    return Err(format!("{key}: {operator} takes no values"));
                }
                _ => {
                    return Err(format!(
                        "{key}: operator {operator:?} is none of In, NotIn, Exists, DoesNotExist"
                    ));
                }
            };
            selector = selector.and(key, operator);
        }
        Ok(selector)
    }
}

/// Whether a label can be one: `prefix/name` with a DNS name as prefix, names and values of at most 63 letters, digits,
/// `-`, `_` and `.` that begin and end with a letter or digit. One that no object can have is a typo.
pub(super) fn check_label(key: &str, value: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if name.is_empty() || !is_label_text(name) || prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        return Err(format!(
            "label key {key:?}: at most 63 letters, digits, '-', '_' or '.', after a DNS name and '/' or not"
        ));
    }
    if !is_label_text(value) {
        return Err(format!("label {key}: value {value:?}: at most 63 letters, digits, '-', '_' or '.'"));
    }
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && [bytes.first(), bytes.last()].into_iter().flatten().all(u8::is_ascii_alphanumeric)
}

/// Lower-case letters, digits, `-` and `.`, at most 253, each part beginning and ending with a letter or digit: the names
/// of most objects.
pub(super) fn is_dns_subdomain(name: &str) -> bool {
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
    };
    name.len() <= 253 && name.split('.').all(is_part)
}
