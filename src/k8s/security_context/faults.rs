//! Faults, in the words of the API server: a field, a kind of fault, the value, and what about it.

use std::fmt::Display;

/// What the API server would say, in its order.
#[derive(Default)]
pub(in crate::k8s) struct Faults(pub(super) Vec<String>);

const NAME_CHARACTERS: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
    and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

impl Faults {
    pub(in crate::k8s) fn count(&self) -> usize {
        self.0.len()
    }

    pub(in crate::k8s) fn invalid(&mut self, field: &str, value: impl Display, what: &str) {
        self.0.push(format!("{field}: Invalid value: {value}: {what}"));
    }

    pub(in crate::k8s) fn required(&mut self, field: &str, what: &str) {
        let what = if what.is_empty() { String::new() } else { format!(": {what}") };
        self.0.push(format!("{field}: Required value{what}"));
    }

    pub(in crate::k8s) fn forbidden(&mut self, field: &str, what: &str) {
        self.0.push(format!("{field}: Forbidden: {what}"));
    }

    pub(in crate::k8s) fn duplicate(&mut self, field: &str, value: &str) {
        self.0.push(format!("{field}: Duplicate value: {value:?}"));
    }

    pub(in crate::k8s) fn not_found(&mut self, field: &str, value: &str) {
        self.0.push(format!("{field}: Not found: {value:?}"));
    }

    pub(in crate::k8s) fn too_long(&mut self, field: &str, most: usize) {
        self.0.push(format!("{field}: Too long: may not be more than {most} bytes"));
    }

    pub(in crate::k8s) fn one_of(&mut self, field: &str, value: Option<&str>, known: &[&str]) {
        if let Some(value) = value.filter(|value| !known.contains(value)) {
            let known: Vec<_> = known.iter().map(|word| format!("{word:?}")).collect();
            let known = known.join(", ");
            self.0.push(format!("{field}: Unsupported value: {value:?}: supported values: {known}"));
        }
    }

    /// A user or group.
    pub(in crate::k8s) fn id(&mut self, field: &str, id: Option<i64>) {
        if let Some(id) = id.filter(|id| !(0..=0x7fff_ffff).contains(id)) {
            self.invalid(field, id, "must be between 0 and 2147483647, inclusive");
        }
    }

    /// The name of a container or volume.
    pub(in crate::k8s) fn label(&mut self, field: &str, name: &str) {
        if name.is_empty() {
            return self.required(field, "");
        }
        if name.len() > 63 {
            self.invalid(field, format_args!("{name:?}"), "must be no more than 63 bytes");
        }
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let ends = [bytes.first(), bytes.last()].into_iter().flatten().all(plain);
        if !ends || !bytes.iter().all(|b| plain(b) || *b == b'-') {
            self.invalid(field, format_args!("{name:?}"), NAME_CHARACTERS);
        }
    }

    pub(in crate::k8s) fn no_backsteps(&mut self, field: &str, path: &str) {
        if path.split('/').any(|part| part == "..") {
            self.invalid(field, format_args!("{path:?}"), "must not contain '..'");
        }
    }

    /// A path that leads downwards.
    pub(in crate::k8s) fn descending(&mut self, field: &str, path: &str) {
        if path.starts_with('/') {
            self.invalid(field, format_args!("{path:?}"), "must be a relative path");
        }
        self.no_backsteps(field, path);
    }
}
