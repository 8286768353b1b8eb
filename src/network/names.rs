//! Name resolution inside: `/etc/hosts` and `/etc/resolv.conf`.

use std::fmt::Write;
use std::net::IpAddr;

use palisade_fsroot::{File, HostView, Mount};

/// The files that a network asks for; `None` where it asks for nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Etc {
    hosts: Option<String>,
    resolv_conf: Option<String>,
}

impl Etc {
    pub(super) fn new(host_name: &str, hosts: &[(IpAddr, String)], nameservers: &[IpAddr]) -> Self {
        let mut lines = format!("127.0.0.1 localhost {host_name}\n::1 localhost ip6-localhost {host_name}\n");
        for (addr, name) in hosts {
            // Writing to a String can't fail.
            let _ = writeln!(lines, "{addr} {name}");
        }
        let resolv_conf: String = nameservers.iter().map(|addr| format!("nameserver {addr}\n")).collect();
        Self {
            hosts: (!hosts.is_empty()).then_some(lines),
            resolv_conf: (!resolv_conf.is_empty()).then_some(resolv_conf),
        }
    }

    /// Into the view of the host, whose `/etc` is made up.
    pub(crate) fn into_view(self, mut view: HostView) -> HostView {
        if let Some(hosts) = self.hosts {
            view = view.hosts(hosts);
        }
        if let Some(resolv_conf) = self.resolv_conf {
            view = view.resolver(resolv_conf);
        }
        view
    }

    /// Over the files of somebody else's `/etc`.
    pub(crate) fn mounts(self) -> impl Iterator<Item = Mount> {
        let hosts = self.hosts.map(|text| File::new("/etc/hosts", text).into());
        let resolv_conf = self.resolv_conf.map(|text| File::new("/etc/resolv.conf", text).into());
        hosts.into_iter().chain(resolv_conf)
    }
}

/// The C library reads no more of them.
const MOST_NAMESERVERS: usize = 3;

pub(super) fn check(hosts: &[(IpAddr, String)], nameservers: &[IpAddr], add: &mut impl FnMut(String)) {
    for (_, name) in hosts {
        let plain = |part: &str| {
            !part.is_empty()
                && part.len() <= 63
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(plain) {
            add(format!("host {name:?}: at most 253 letters, digits, '-' and '_', in parts between dots"));
        }
    }
    if nameservers.len() > MOST_NAMESERVERS {
        add(format!("{} name servers: at most {MOST_NAMESERVERS} are asked", nameservers.len()));
    }
}
