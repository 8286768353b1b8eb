//! Without the feature `net`: a sandbox has a loopback or the host's network, and nothing is to be done at a spawn. These
//! types have no value.

use std::fmt;

use palisade_fsroot::{HostView, Mount};
use palisade_procinfo::Process;

use crate::enforced::{Answer, Subject};
use crate::error::Result;
use crate::newborn::Newborn;
use crate::sandbox::Spec;
use crate::spawner::Bench;

#[derive(Clone, Debug)]
pub(crate) enum Network {}

#[derive(Clone, Debug)]
pub(crate) enum Wiring {}

#[derive(Debug)]
pub(crate) enum Connection {}

#[derive(Debug)]
pub(crate) enum Etc {}

impl Network {
    pub(crate) fn is_the_hosts(&self) -> bool {
        match *self {}
    }

    pub(crate) fn has_loopback(&self) -> bool {
        match *self {}
    }

    pub(crate) fn conflicts(&self, _spec: &Spec) -> Vec<String> {
        match *self {}
    }

    pub(crate) fn etc(&self, _host_name: &str) -> Etc {
        match *self {}
    }

    pub(crate) fn wiring(&self) -> Result<Option<Wiring>> {
        match *self {}
    }
}

impl Etc {
    pub(crate) fn into_view(self, _view: HostView) -> HostView {
        match self {}
    }

    pub(crate) fn mounts(self) -> std::iter::Empty<Mount> {
        match self {}
    }
}

impl Wiring {
    pub(crate) fn leave_out_rules(&mut self) {
        match *self {}
    }

    pub(crate) fn asked(&self) -> Vec<(Subject, String)> {
        match *self {}
    }

    pub(crate) fn connect(&self, _child: &Newborn, _bench: &mut Bench) -> Result<Connection> {
        match *self {}
    }
}

impl Connection {
    pub(crate) fn differences(&self, _process: &Process) -> Vec<(Subject, Answer)> {
        match *self {}
    }
}

impl fmt::Display for Wiring {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
