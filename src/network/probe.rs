//! What a kernel has of the packet filter that networks of sandboxes take, found out by trying.

use palisade_net::nft::Protocol;
use palisade_net::policy::PortSelector;
use palisade_net::{Bridge, BridgeSpec, ErrorKind, IfName, IpPrefix, Netns, PortSpec};
use palisade_ns::Namespace;

use super::wiring::{of_net, table_of};
use crate::error::{Error, Result};
use crate::newborn::namespace_of_user;

/// How much of it works.
pub(crate) enum Rules {
    /// All of it.
    Bridge,
    /// Rules for what leaves a sandbox; the rest is not for this caller.
    Egress,
    /// Rules for what leaves a sandbox, but no bridge, which this caller could make.
    NoBridge(Error),
    /// There is no namespace to try it in.
    Untried(Error),
}

/// Makes rules in namespaces of its own, which end with it.
///
/// # Errors
/// The kernel has no rules for what leaves a sandbox.
pub(crate) fn try_rules() -> Result<Rules> {
    let (carrier, privileged) = match Netns::create() {
        Ok(made) => (made, true),
        Err(error) if error.kind() == ErrorKind::Permission => match in_user_namespace() {
            Ok(made) => (made, false),
            Err(error) => return Ok(Rules::Untried(error)),
        },
        Err(error) => return Ok(Rules::Untried(of_net(error))),
    };
    let rules = [IpPrefix::ALL_V4, IpPrefix::ALL_V6].map(|all| (all, PortSelector::tcp(443)).into());
    let table = table_of(rules.into()).map_err(of_net)?;
    carrier.apply(&table.into()).map_err(of_net)?;
    if !privileged {
        return Ok(Rules::Egress);
    }
    Ok(bridge(carrier).map_or_else(|error| Rules::NoBridge(of_net(error)), |()| Rules::Bridge))
}

fn in_user_namespace() -> Result<Netns> {
    let namespace = namespace_of_user(Namespace::Net, None)?;
    Netns::open(&namespace).map_err(of_net)
}

/// A bridge, and a place on it.
fn bridge(carrier: Netns) -> palisade_net::Result<()> {
    let spec = BridgeSpec::new(IfName::new("br0")?).network("10.0.0.0/24".parse()?);
    let inside = Netns::create()?;
    let bridge = Bridge::create(carrier, &spec)?;
    bridge.attach(&inside, &PortSpec::new().publish(Protocol::TCP, 80, 80))?.detach()
}
