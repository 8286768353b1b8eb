//! Addresses of one network, handed out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::prefix::{IpPrefix, from_bits, to_bits, width};

/// The addresses of a network, less its own, the gateway's and the last.
#[derive(Debug)]
pub(super) struct Pool {
    network: IpPrefix,
    taken: BTreeSet<u128>,
}

impl Pool {
    pub(super) fn new(network: IpPrefix) -> Result<Self> {
        if network.prefix_len() + 2 > width(network.addr()) {
            return Err(Error::invalid(
                format_args!("network {network}"),
                "room for a gateway and a sandbox: at most /30 or /126",
            ));
        }
        Ok(Self { network, taken: BTreeSet::new() })
    }

    pub(super) fn network(&self) -> IpPrefix {
        self.network
    }

    pub(super) fn gateway(&self) -> IpAddr {
        from_bits(self.network.addr(), to_bits(self.network.addr()) + 1)
    }

    /// The wanted address, or the lowest that is free.
    pub(super) fn take(&mut self, wanted: Option<IpAddr>) -> Result<IpAddr> {
        let (first, last) = (to_bits(self.gateway()) + 1, to_bits(self.network.last()) - 1);
        let bits = match wanted {
            Some(addr) => {
                let bits = to_bits(addr);
                if !(first..=last).contains(&bits) {
                    return Err(Error::invalid(
                        format_args!("address {addr}"),
                        format_args!("one that {} leaves to sandboxes", self.network),
                    ));
                }
                if self.taken.contains(&bits) {
                    return Err(Error::kernel(format_args!("address {addr}"), libc::EEXIST, None));
                }
                bits
            }
            None => {
                // The taken ones are in order: the first gap is where the count and the value part.
                let gap = (first..).zip(&self.taken).find(|(n, taken)| n != *taken).map(|(n, _)| n);
                let next = gap.unwrap_or(first + self.taken.len() as u128);
                if next > last {
                    return Err(Error::not_found(format_args!("a free address in {}", self.network)));
                }
                next
            }
        };
        self.taken.insert(bits);
        Ok(from_bits(self.network.addr(), bits))
    }

    /// Gives an address back; one of another network is none of ours.
    pub(super) fn release(&mut self, addr: IpAddr) {
        if self.network.contains(addr) {
            self.taken.remove(&to_bits(addr));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_handed_out_once() {
        let mut pool = Pool::new("10.0.0.0/29".parse().unwrap()).unwrap();
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        assert_eq!(pool.gateway(), ip(1));
        assert_eq!(pool.take(Some(ip(4))).unwrap(), ip(4));
        assert_eq!(
            (2..=5).map(|_| pool.take(None).unwrap()).collect::<Vec<_>>(),
            [ip(2), ip(3), ip(5), ip(6)]
        );
        assert!(pool.take(None).is_err());
        pool.release(ip(3));
        pool.release(IpAddr::from([10, 0, 1, 5]));
        assert!(pool.take(Some(ip(5))).is_err());
        assert_eq!(pool.take(None).unwrap(), ip(3));
        for bad in [0, 1, 7, 8] {
            assert!(pool.take(Some(ip(bad))).is_err(), "{bad}");
        }
        assert!(Pool::new("10.0.0.0/31".parse().unwrap()).is_err());
        assert!(Pool::new("fd00::/127".parse().unwrap()).is_err());
        let mut six = Pool::new("fd00::/64".parse().unwrap()).unwrap();
        assert_eq!(six.take(None).unwrap().to_string(), "fd00::2");
    }
}
