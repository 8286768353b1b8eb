//! `--cap-add`, `--cap-drop`, `--privileged`: what an engine's user asks, and Docker's rules for what comes of it.

use std::str::FromStr;

use crate::{Capability, CapabilitySet, Error, Result};

/// One argument of an engine's `--cap-add` or `--cap-drop`: a capability, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CapabilityArg {
    /// `ALL`.
    All,
    /// One capability.
    One(Capability),
}

impl From<Capability> for CapabilityArg {
    fn from(capability: Capability) -> Self {
        Self::One(capability)
    }
}

impl FromStr for CapabilityArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("ALL") { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// What an engine's user asked of the capabilities of a container, with Docker's rules for what comes of it.
///
/// ```
/// use palisade_creds::{Capability, CapabilityRequest, CapabilitySet};
///
/// let request = CapabilityRequest::new().add(Capability::NetAdmin).add(Capability::SysTime);
/// assert_eq!(format!("{:x}", request.resolve(CapabilitySet::KNOWN)?), "00000000aa0435fb");
/// # Ok::<(), palisade_creds::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias = "cap-add")]
#[doc(alias = "cap-drop")]
pub struct CapabilityRequest {
    defaults: CapabilitySet,
    add: Vec<CapabilityArg>,
    drop: Vec<CapabilityArg>,
    privileged: bool,
}

impl Default for CapabilityRequest {
    fn default() -> Self {
        Self::new()
    }
}

impl CapabilityRequest {
    /// Nothing asked: Docker's 14.
    pub fn new() -> Self {
        Self { defaults: CapabilitySet::DOCKER, add: Vec::new(), drop: Vec::new(), privileged: false }
    }

    /// Another set than Docker's to start from, such as [`CapabilitySet::PODMAN`].
    #[must_use]
    pub fn defaults(mut self, defaults: CapabilitySet) -> Self {
        self.defaults = defaults;
        self
    }

    /// `--cap-add`.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "the engines' word, and no sum")]
    pub fn add(mut self, what: impl Into<CapabilityArg>) -> Self {
        self.add.push(what.into());
        self
    }

    /// `--cap-drop`.
    #[must_use]
    pub fn drop(mut self, what: impl Into<CapabilityArg>) -> Self {
        self.drop.push(what.into());
        self
    }

    /// `--privileged`: all that is available, whatever else was asked.
    #[must_use]
    pub fn privileged(mut self, privileged: bool) -> Self {
        self.privileged = privileged;
        self
    }

    /// The set that comes of it. `ALL` stands for `available`, not for every capability there is.
    ///
    /// In Docker's order: privileged gives all; nothing asked gives the defaults; an added `ALL` gives all but the
    /// dropped; a dropped `ALL` gives just the added; else the defaults without the dropped, and the added — so an
    /// add wins over a drop of the same name.
    ///
    /// # Errors
    /// [`ErrorKind::CapabilityUnavailable`](crate::ErrorKind::CapabilityUnavailable) if one that was named, to add or to drop, is not available. Defaults that
    /// are not available are left out.
    pub fn resolve(&self, available: CapabilitySet) -> Result<CapabilitySet> {
        if self.privileged {
            return Ok(available);
        }
        let named = |args: &[CapabilityArg]| {
            args.iter().fold(CapabilitySet::EMPTY, |set, arg| match arg {
                CapabilityArg::All => set,
                CapabilityArg::One(capability) => set.with(*capability),
            })
        };
        let (add, drop) = (named(&self.add), named(&self.drop));
        (add | drop).check_available(available)?;
        Ok(if self.add.contains(&CapabilityArg::All) {
            available - drop
        } else if self.drop.contains(&CapabilityArg::All) {
            add
        } else {
            ((self.defaults & available) - drop) | add
        })
    }
}
