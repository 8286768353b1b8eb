//! Sets and maps of single values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::rule::Verdict;
use super::value::{DataType, Value};

/// A named set of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub(crate) name: String,
    pub(crate) ty: DataType,
    pub(crate) ranges: bool,
    pub(crate) elements: Vec<Value>,
}

impl Set {
    /// An empty set of single values.
    #[must_use]
    pub fn new(name: impl Into<String>, ty: DataType) -> Self {
        Self { name: name.into(), ty, ranges: false, elements: Vec::new() }
    }

    /// Lets the set hold ranges and prefixes (nft's `flags interval`): of addresses and ports.
    #[must_use]
    pub fn with_ranges(mut self) -> Self {
        self.ranges = true;
        self
    }

    /// Adds elements.
    #[must_use]
    pub fn elements<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.elements.extend(values.into_iter().map(Into::into));
        self.elements.sort_by_key(Value::sort_key);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The elements, in order.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.elements
    }
}

/// What a map leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MapType {
    /// Verdicts.
    Verdict,
    /// IPv4 addresses.
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// IPv4 addresses with ports.
    Ipv4Endpoint,
    /// IPv6 addresses with ports.
    Ipv6Endpoint,
}

impl fmt::Display for MapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verdict => "verdict",
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Ipv4Endpoint => "ipv4_addr . inet_service",
            Self::Ipv6Endpoint => "ipv6_addr . inet_service",
        })
    }
}

/// One value of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapValue {
    /// A verdict.
    Verdict(Verdict),
    /// An address.
    Address(IpAddr),
    /// An address and a port.
    Endpoint(SocketAddr),
}

/// A named map from values of a field to verdicts or to targets of address translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub(crate) name: String,
    pub(crate) key: DataType,
    pub(crate) ranges: bool,
    pub(crate) ty: MapType,
    pub(crate) elements: Vec<(Value, MapValue)>,
}

impl Map {
    /// An empty map.
    #[must_use]
    pub fn new(name: impl Into<String>, key: DataType, ty: MapType) -> Self {
        Self { name: name.into(), key, ranges: false, ty, elements: Vec::new() }
    }

    /// Lets ranges and prefixes be keys.
    #[must_use]
    pub fn with_ranges(mut self) -> Self {
        self.ranges = true;
        self
    }

    /// Adds an element.
    #[must_use]
    pub fn element(mut self, key: impl Into<Value>, value: MapValue) -> Self {
        self.elements.push((key.into(), value));
        self.elements.sort_by_key(|(key, _)| key.sort_key());
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The elements, in the order of their keys.
    #[must_use]
    pub fn entries(&self) -> &[(Value, MapValue)] {
        &self.elements
    }
}
