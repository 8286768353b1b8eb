//! Values of several fields together: nft's concatenations.

use std::fmt;

use super::rule::Field;
use super::value::{DataType, Value};
use crate::error::{Error, Result};

/// What the kernel's registers hold.
const MOST_BYTES: usize = 64;
/// How many types of six bits fit into the number by which nft knows a concatenation.
const MOST_FIELDS: usize = 5;

/// A value or range for each of several fields: nft's `10.0.0.2 . 80`. Made with `From`, of a pair or a triple of what makes
/// a [`Value`], or of a list of values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple(pub(crate) Vec<Value>);

impl Tuple {
    /// The values, in the order of the fields.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.0
    }

    pub(super) fn is_single(&self) -> bool {
        self.0.iter().all(Value::is_single)
    }

    /// The first or the last tuple of the range, as a key of the kernel's.
    pub(super) fn key(&self, last: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for value in &self.0 {
            let begin = out.len();
            out.extend(if last { &value.high } else { &value.low });
            out.resize(begin + padded(value.ty), 0);
        }
        out
    }

    /// The order in which nft lists single ones: the last byte counts most.
    fn sort_key(&self) -> Vec<u8> {
        let bytes = self.0.iter().flat_map(|value| {
            let mut bytes = value.low.clone();
            bytes.resize(value.ty.len(), 0);
            bytes
        });
        let mut all: Vec<u8> = bytes.collect();
        all.reverse();
        all
    }
}

impl<V: Into<Value>> From<Vec<V>> for Tuple {
    fn from(values: Vec<V>) -> Self {
        Self(values.into_iter().map(Into::into).collect())
    }
}

impl<A: Into<Value>, B: Into<Value>> From<(A, B)> for Tuple {
    fn from((a, b): (A, B)) -> Self {
        Self(vec![a.into(), b.into()])
    }
}

impl<A: Into<Value>, B: Into<Value>, C: Into<Value>> From<(A, B, C)> for Tuple {
    fn from((a, b, c): (A, B, C)) -> Self {
        Self(vec![a.into(), b.into(), c.into()])
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.0)
    }
}

/// nft's spelling of a concatenation.
pub(super) fn join<T: fmt::Display>(f: &mut fmt::Formatter<'_>, parts: &[T]) -> fmt::Result {
    for (n, part) in parts.iter().enumerate() {
        f.write_str(if n == 0 { "" } else { " . " })?;
        part.fmt(f)?;
    }
    Ok(())
}

/// Bytes that a value of a type takes in a key of several.
pub(super) fn padded(ty: DataType) -> usize {
    ty.len().next_multiple_of(4)
}

/// A named set of values of several fields together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TupleSet {
    pub(crate) name: String,
    pub(crate) types: Vec<DataType>,
    pub(crate) ranges: bool,
    pub(crate) elements: Vec<Tuple>,
}

impl TupleSet {
    /// An empty set of single values of two to five types.
    #[must_use]
    pub fn new(name: impl Into<String>, types: impl IntoIterator<Item = DataType>) -> Self {
        Self { name: name.into(), types: types.into_iter().collect(), ranges: false, elements: Vec::new() }
    }

    /// Lets addresses and ports of its elements be ranges and prefixes (nft's `flags interval`, Linux 5.6). Those of two
    /// elements may not overlap in part: the kernel refuses that, with [`Exists`](crate::ErrorKind::Exists).
    #[must_use]
    pub fn with_ranges(mut self) -> Self {
        self.ranges = true;
        self
    }

    /// Adds elements.
    #[must_use]
    pub fn elements<T: Into<Tuple>>(mut self, tuples: impl IntoIterator<Item = T>) -> Self {
        self.elements.extend(tuples.into_iter().map(Into::into));
        sort(&mut self.elements, self.ranges);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of its fields.
    #[must_use]
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// The elements: single ones in nft's order, ranges in the order in which they came.
    #[must_use]
    pub fn tuples(&self) -> &[Tuple] {
        &self.elements
    }
}

pub(super) fn sort(elements: &mut Vec<Tuple>, ranges: bool) {
    if ranges {
        return;
    }
    elements.sort_by_cached_key(Tuple::sort_key);
    elements.dedup();
}

/// A condition on several fields together.
///
/// ```
/// use palisade_net::nft::{Field, Protocol, Rule, TupleMatch};
///
/// let fields = [Field::Ipv4Source, Field::DestinationPort(Some(Protocol::TCP))];
/// let rule = Rule::new().matching_tuple(TupleMatch::in_set(fields, "clients")).accept();
/// let text = rule.display(palisade_net::nft::Family::Inet).to_string();
/// assert_eq!(text, "ip saddr . tcp dport @clients accept");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TupleMatch {
    pub(crate) fields: Vec<Field>,
    pub(crate) negated: bool,
    pub(crate) operand: TupleOperand,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TupleOperand {
    /// A named set of the table.
    Set(String),
    /// An anonymous set.
    AnyOf(Vec<Tuple>),
}

impl TupleMatch {
    /// The fields together are in the table's set of that name.
    #[must_use]
    pub fn in_set(fields: impl IntoIterator<Item = Field>, set: impl Into<String>) -> Self {
        let fields = fields.into_iter().collect();
        Self { fields, negated: false, operand: TupleOperand::Set(set.into()) }
    }

    /// The fields together are one of these. Of none of them is always false: such a rule is left out when it is compiled,
    /// or if [negated](Self::negated) the condition. Ranges as in [`TupleSet::with_ranges`].
    #[must_use]
    pub fn any_of<T: Into<Tuple>>(
        fields: impl IntoIterator<Item = Field>,
        tuples: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut tuples: Vec<Tuple> = tuples.into_iter().map(Into::into).collect();
        let ranges = !tuples.iter().all(Tuple::is_single);
        sort(&mut tuples, ranges);
        let fields = fields.into_iter().collect();
        Self { fields, negated: false, operand: TupleOperand::AnyOf(tuples) }
    }

    /// The opposite.
    #[must_use]
    pub fn negated(mut self) -> Self {
        self.negated = !self.negated;
        self
    }

    /// What it looks at.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub(super) fn types(&self) -> Vec<DataType> {
        self.fields.iter().map(|field| field.data_type()).collect()
    }

    /// Whether no packet fulfils it.
    pub(super) fn is_never(&self) -> bool {
        !self.negated && self.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.operand, TupleOperand::AnyOf(tuples) if tuples.is_empty())
    }
}

impl fmt::Display for TupleMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        join(f, &self.fields)?;
        f.write_str(if self.negated { " != " } else { " " })?;
        match &self.operand {
            TupleOperand::Set(name) => write!(f, "@{name}"),
            TupleOperand::AnyOf(tuples) => {
                let all: Vec<String> = tuples.iter().map(ToString::to_string).collect();
                write!(f, "{{ {} }}", all.join(", "))
            }
        }
    }
}

/// The number by which nft knows a concatenation of these types.
pub(super) fn type_id(types: &[DataType]) -> u32 {
    types.iter().fold(0, |id, ty| id << 6 | ty.id())
}

/// The types behind such a number, where all of them are known.
pub(super) fn types_of(id: u32) -> Option<Vec<DataType>> {
    let parts = (0..MOST_FIELDS).rev().map(|n| id >> (6 * n) & 63).skip_while(|part| *part == 0);
    let types: Option<Vec<DataType>> = parts.map(DataType::from_id).collect();
    types.filter(|types| types.len() > 1 && type_id(types) == id)
}

pub(super) fn check_types(types: &[DataType], ranges: bool) -> Result<()> {
    let names = || types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ");
    let bytes: usize = types.iter().copied().map(padded).sum();
    if !(2..=MOST_FIELDS).contains(&types.len()) || bytes > MOST_BYTES {
        return Err(Error::invalid(
            format_args!("fields {}", names()),
            format_args!("2 to {MOST_FIELDS} fields of at most {MOST_BYTES} bytes together"),
        ));
    }
    // The kernel compares bytes in network order, nft and we leave names as they are.
    match types.iter().find(|ty| ranges && ty.host_order() && **ty != DataType::Interface) {
        Some(ty) => Err(Error::invalid(
            format_args!("fields {} with ranges", names()),
            format_args!("no {ty}, which the kernel has in this machine's byte order"),
        )),
        None => Ok(()),
    }
}
