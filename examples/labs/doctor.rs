//! Looks at Kubernetes manifests together: what each by itself allows, and what still cannot work.

use std::collections::BTreeMap;

use palisade::creds::Capability;
use palisade::k8s::{Document, documents};
use serde_json::Value;

use crate::lab::Result;

/// Something that cannot work: where, what, and what to do.
#[derive(Debug)]
pub(crate) struct Finding {
    /// Kind, name and field.
    pub(crate) field: String,
    pub(crate) what: String,
    pub(crate) fix: String,
}

type Labels = BTreeMap<String, String>;

struct Object {
    document: Document,
    fields: Value,
}

impl Object {
    fn at(&self, pointer: &str) -> &Value {
        self.fields.pointer(pointer).unwrap_or(&Value::Null)
    }

    fn labels(&self, pointer: &str) -> Labels {
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        self.at(pointer).as_object().map(|map| map.iter().filter_map(text).collect()).unwrap_or_default()
    }

    fn is(&self, kind: &str) -> bool {
        self.document.kind() == kind
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// How many changes of a byte make one word of another.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The known word that a wrong one was probably meant to be.
fn meant<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A word cut short is meant before any that only looks alike.
    let far = |word: &str| if word.starts_with(wrong) { 0 } else { distance(wrong, word) };
    let near = known.map(|word| (far(word), word)).min()?;
    (near.0 <= wrong.len() / 2).then_some(near.1)
}

/// What to do: the word that was meant, or this.
fn fix(meant: Option<&str>, or: &str) -> String {
    meant.map_or_else(|| or.to_owned(), |word| format!("did you mean {word:?}? Or {or}"))
}

/// Everything in these manifests that cannot work, given the images that there are.
pub(crate) fn examine(manifest: &str, images: &[&str]) -> Result<Vec<Finding>> {
    let objects: Vec<Object> = documents(manifest)?
        .into_iter()
        .map(|document| Ok(Object { fields: serde_json::from_str(&document.to_string())?, document }))
        .collect::<Result<_>>()?;
    let mut found = Vec::new();
    for object in &objects {
        let name = format!("{} {:?}", object.document.kind(), object.document.name());
        let mut tell = |field: &str, what: String, fix: String| {
            found.push(Finding { field: format!("{name}: {field}"), what, fix });
        };
        let here = |other: &&Object| other.document.namespace() == object.document.namespace();
        let pods = || objects.iter().filter(|other| other.is("Pod")).filter(here);
        // A selector that means somebody and finds nobody.
        for (kind, pointer, field) in [
            ("Service", "/spec/selector", "spec.selector"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels", "spec.podSelector"),
        ] {
            let wanted = object.labels(pointer);
            let matches = |pod: &Object| {
                let has = pod.labels("/metadata/labels");
                wanted.iter().all(|(key, value)| has.get(key) == Some(value))
            };
            if object.is(kind) && !wanted.is_empty() && !pods().any(matches) {
                let labels: Vec<String> = pods()
                    .flat_map(|pod| pod.labels("/metadata/labels"))
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                let wrong: Vec<String> = wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let near = meant(&wrong.join(","), labels.iter().map(String::as_str));
                let what =
                    format!("no Pod of namespace {} has {}", object.document.namespace(), wrong.join(","));
                tell(field, what, fix(near, "make a Pod with these labels"));
            }
        }
        if object.is("NetworkPolicy") {
            if let Err(error) = object.document.network_policy() {
                tell("spec", error.to_string(), "correct the field".into());
            }
        }
        if !object.is("Pod") {
            continue;
        }
        let configs: Vec<&str> = objects
            .iter()
            .filter(|other| other.is("ConfigMap"))
            .filter(here)
            .map(|o| o.document.name())
            .collect();
        let volumes: Vec<&str> =
            list(object.at("/spec/volumes")).map(|volume| text(&volume["name"])).collect();
        for (i, volume) in list(object.at("/spec/volumes")).enumerate() {
            let wanted = text(&volume["configMap"]["name"]);
            if !wanted.is_empty() && !configs.contains(&wanted) {
                let near = meant(wanted, configs.iter().copied());
                let what = format!("there is no ConfigMap {wanted:?}");
                tell(&format!("spec.volumes[{i}].configMap.name"), what, fix(near, "make it"));
            }
        }
        for (i, container) in list(object.at("/spec/containers")).enumerate() {
            let field = |rest: &str| format!("spec.containers[{i}].{rest}");
            let image = text(&container["image"]);
            if !images.contains(&image) {
                let near = meant(image, images.iter().copied());
                tell(&field("image"), format!("there is no image {image:?}"), fix(near, "make it"));
            }
            for (j, mount) in list(&container["volumeMounts"]).enumerate() {
                let wanted = text(&mount["name"]);
                if !volumes.contains(&wanted) {
                    let near = meant(wanted, volumes.iter().copied());
                    let what = format!("the Pod has no volume {wanted:?}");
                    tell(
                        &field(&format!("volumeMounts[{j}].name")),
                        what,
                        fix(near, "add one to spec.volumes"),
                    );
                }
            }
            for (j, capability) in list(&container["securityContext"]["capabilities"]["add"]).enumerate() {
                let wanted = text(capability);
                if let Err(error) = wanted.parse::<Capability>() {
                    let near = meant(wanted, Capability::ALL.iter().map(|known| &known.name()[4..]));
                    let field = field(&format!("securityContext.capabilities.add[{j}]"));
                    tell(&field, error.to_string(), fix(near, "leave it out"));
                }
            }
        }
    }
    Ok(found)
}
