//! From text to documents: what YAML events mean, as Kubernetes has it.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// Larger texts are no manifests: a cluster stores objects of at most 1.5 MiB.
const MOST_BYTES: usize = 4 << 20;
const MOST_LEVELS: usize = 64;
/// What aliases may stand for together, in values and bytes.
const MOST_CONTENT: usize = 4 << 20;

/// One object of a manifest: not yet more than its kind and its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it stands in the text, from 1.
    number: usize,
    fields: Value,
}

impl Document {
    /// `apiVersion`; empty if there is none.
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion").unwrap_or_default()
    }

    /// `kind`; empty if there is none.
    pub fn kind(&self) -> &str {
        self.text("/kind").unwrap_or_default()
    }

    /// `metadata.name`; empty if there is none.
    pub fn name(&self) -> &str {
        self.text("/metadata/name").unwrap_or_default()
    }

    /// `metadata.namespace`; `default` if there is none.
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace").filter(|name| !name.is_empty()).unwrap_or("default")
    }

    fn text(&self, pointer: &str) -> Option<&str> {
        self.fields.pointer(pointer)?.as_str()
    }

    /// Reads it as a `T`, if it is of this version and kind. `T` says what is allowed in it.
    pub(crate) fn read<T: DeserializeOwned>(&self, api_version: &str, kind: &str) -> Result<T> {
        if (self.api_version(), self.kind()) != (api_version, kind) {
            return Err(self.wrong(
                "kind",
                format!(
                    "{:?} of apiVersion {:?}, but {kind} of {api_version} is wanted",
                    self.kind(),
                    self.api_version()
                ),
            ));
        }
        serde_path_to_error::deserialize(&self.fields)
            .map_err(|error| self.wrong(&error.path().to_string(), error.inner().to_string()))
    }

    /// An error about the document as a whole.
    pub(crate) fn invalid(&self, what: impl fmt::Display) -> Error {
        let (number, kind, name) = (self.number, self.kind(), self.name());
        Error::invalid(format!("document {number} ({kind} {name:?}): {what}"))
    }

    /// An error about a field of this document.
    pub(crate) fn wrong(&self, field: &str, what: impl fmt::Display) -> Error {
        let (number, kind) = (self.number, self.kind());
        let name = if self.name().is_empty() { String::new() } else { format!(" {:?}", self.name()) };
        Error::invalid(format!("document {number} ({kind}{name}): {field}: {what}"))
    }
}

impl fmt::Display for Document {
    /// Its fields, as JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields.fmt(f)
    }
}

/// Splits a manifest, YAML or JSON, into its documents. Empty documents are left out, and a `List` counts as its items.
///
/// YAML is read as version 1.2 has it (`yes` is a text, not a truth), with the differences that make a manifest mean one
/// thing only: numbers with leading zeros, merge keys (`<<`) and keys that are not texts are refused, and so are tags of
/// applications.
///
/// ```
/// let documents = palisade::k8s::documents("kind: Namespace\nmetadata: {name: shop}\n---\nkind: Pod\n")?;
/// assert_eq!((documents[0].kind(), documents[0].name(), documents[1].kind()), ("Namespace", "shop", "Pod"));
/// # Ok::<(), palisade::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) with the line: no YAML, a key twice, a document that is no
/// mapping, more than 4 MiB, nested deeper than 64 levels, or aliases that multiply it beyond measure.
pub fn documents(text: impl AsRef<[u8]>) -> Result<Vec<Document>> {
    let text = text.as_ref();
    if text.len() > MOST_BYTES {
        let len = text.len();
        return Err(Error::invalid(format!(
            "manifest: {len} bytes are more than the {MOST_BYTES} of a manifest"
        )));
    }
    let text = std::str::from_utf8(text).map_err(|error| Error::invalid(format!("manifest: {error}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out: Vec<Document> = Vec::new();
    for (fields, line) in Loader::default().load(text)? {
        match fields {
            Value::Null => {}
            Value::Object(mut map) if is_list(&map) => {
                let Some(Value::Array(items)) = map.remove("items") else {
                    return Err(at(line, "a List has a sequence of items"));
                };
                for item in items {
                    push(&mut out, item, line)?;
                }
            }
            fields => push(&mut out, fields, line)?,
        }
    }
    Ok(out)
}

fn is_list(map: &Map<String, Value>) -> bool {
    map.get("kind").and_then(Value::as_str) == Some("List")
}

fn push(out: &mut Vec<Document>, fields: Value, line: usize) -> Result<()> {
    if !fields.is_object() {
        return Err(at(line, "an object of Kubernetes is a mapping with apiVersion and kind"));
    }
    out.push(Document { number: out.len() + 1, fields });
    Ok(())
}

fn at(line: usize, what: impl fmt::Display) -> Error {
    Error::invalid(format!("manifest, line {line}: {what}"))
}

/// A collection that is not complete yet.
enum Open {
    Sequence(Vec<Value>),
    /// With the key whose value comes next.
    Mapping(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Loader {
    /// What is open, outermost first, with its anchor.
    open: Vec<(Open, usize)>,
    /// What an alias stands for, and how much that is.
    anchors: HashMap<usize, (Value, usize)>,
    content: usize,
    /// The root of the current document.
    root: Option<Value>,
}

impl Loader {
    /// The roots of all documents, with the lines where they begin.
    fn load(mut self, text: &str) -> Result<Vec<(Value, usize)>> {
        let mut parser = Parser::new_from_str(text);
        let mut out = Vec::new();
        let mut begin = 1;
        while let Some(event) = parser.next_event() {
            let (event, span) = event
                .map_err(|error| at(error.marker().line(), format_args!("not YAML: {}", error.info())))?;
            let line = span.start.line();
            match event {
                Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
                Event::DocumentStart(_) => begin = line,
                Event::DocumentEnd => {
                    out.push((self.root.take().unwrap_or(Value::Null), begin));
                    self.anchors.clear();
                }
                Event::Scalar(text, style, anchor, tag) => {
                    if self.wants_key() && style == ScalarStyle::Plain && text == "<<" {
                        return Err(at(line, "merge keys (<<) are not read: write the fields out"));
                    }
                    let key = self.wants_key() && tag.is_none();
                    // A key is a text whatever it looks like, as in JSON.
                    let value = if key {
                        Value::String(text.into_owned())
                    } else {
                        scalar(&text, style, tag.as_deref(), line)?
                    };
                    self.add(value, anchor, line)?;
                }
                Event::Alias(anchor) => {
                    let (value, content) = self
                        .anchors
                        .get(&anchor)
                        .cloned()
                        .ok_or_else(|| at(line, "an alias inside of what it stands for"))?;
                    self.count(content, line)?;
                    self.add(value, 0, line)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.begin(Open::Sequence(Vec::new()), anchor, tag.as_deref(), "seq", line)?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.begin(Open::Mapping(Map::new(), None), anchor, tag.as_deref(), "map", line)?;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let value = match self.open.pop() {
                        Some((Open::Sequence(items), anchor)) => Some((Value::Array(items), anchor)),
                        Some((Open::Mapping(map, _), anchor)) => Some((Value::Object(map), anchor)),
                        None => None,
                    };
                    let (value, anchor) = value.ok_or_else(|| at(line, "an end without a beginning"))?;
                    self.add(value, anchor, line)?;
                }
            }
        }
        Ok(out)
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some((Open::Mapping(_, None), _)))
    }

    fn begin(&mut self, what: Open, anchor: usize, tag: Option<&Tag>, kind: &str, line: usize) -> Result<()> {
        if self.wants_key() {
            return Err(at(line, "a key is a text"));
        }
        if self.open.len() == MOST_LEVELS {
            return Err(at(line, format_args!("nested deeper than {MOST_LEVELS} levels")));
        }
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema() || tag.suffix != kind) {
            return Err(at(line, "a tag that means nothing here"));
        }
        self.open.push((what, anchor));
        Ok(())
    }

    fn count(&mut self, content: usize, line: usize) -> Result<()> {
        self.content += content;
        if self.content > MOST_CONTENT {
            return Err(at(line, "aliases multiply the text beyond measure"));
        }
        Ok(())
    }

    /// Puts a complete value where it belongs.
    fn add(&mut self, value: Value, anchor: usize, line: usize) -> Result<()> {
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), content(&value)));
        }
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some((Open::Sequence(items), _)) => items.push(value),
            Some((Open::Mapping(map, key), _)) => match key.take() {
                None => match value {
                    Value::String(text) if map.contains_key(&text) => {
                        return Err(at(line, format_args!("{text:?} is there twice")));
                    }
                    Value::String(text) => *key = Some(text),
                    _ => return Err(at(line, "a key is a text")),
                },
                Some(key) => {
                    map.insert(key, value);
                }
            },
        }
        Ok(())
    }
}

/// How much a value is: each value counts for one, and its bytes.
fn content(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len(),
        Value::Array(items) => 1 + items.iter().map(content).sum::<usize>(),
        Value::Object(map) => 1 + map.iter().map(|(key, value)| key.len() + content(value)).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

/// What a scalar means: the core schema of YAML 1.2.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value> {
    let is_text = match tag {
        None => style != ScalarStyle::Plain,
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => true,
        Some(_) => return Err(at(line, format_args!("{text:?} has a tag that means nothing here"))),
    };
    if is_text {
        return Ok(Value::String(text.to_owned()));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        text => match number(text) {
            Ok(Some(number)) => Value::Number(number),
            Ok(None) => Value::String(text.to_owned()),
            Err(Ambiguous) => {
                return Err(at(
                    line,
                    format_args!(
                        "{text} is octal to some and decimal to others: quote it, or write 0o or no zero"
                    ),
                ));
            }
        },
    })
}

struct Ambiguous;

fn number(text: &str) -> Result<Option<Number>, Ambiguous> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let starts_so =
        digits.starts_with(|c: char| c.is_ascii_digit()) || digits.starts_with('.') && digits.len() > 1;
    if !starts_so {
        return Ok(None);
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Ambiguous);
    }
    let based = [("0x", 16), ("0o", 8)].into_iter().find_map(|(prefix, base)| {
        u64::from_str_radix(text.strip_prefix(prefix).filter(|rest| !rest.starts_with('+'))?, base).ok()
    });
    let whole = based.map(Number::from).or_else(|| text.parse::<u64>().ok().map(Number::from));
    let whole = whole.or_else(|| text.parse::<i64>().ok().map(Number::from));
    Ok(whole.or_else(|| {
        let decimal =
            digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
        decimal.then(|| text.parse::<f64>().ok().and_then(Number::from_f64)).flatten()
    }))
}
