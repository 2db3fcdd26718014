//! This machine, as far as a configuration depends on it: what [`crate::config::check_host`] asks, answered by the
//! kernel once per question. Used by both daemons at start.

use std::net::IpAddr;
use std::path::Path;

use ctl::key::{KeyError, PrivateKey};

use super::mirror::Mirror;
use super::netlink::Kernel;
use crate::config::Host;
use crate::machine;

/// The machine this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisMachine;

impl Host for ThisMachine {
    fn cores(&self) -> Vec<usize> {
        machine::cores()
    }

    fn interfaces(&self, netns: Option<&str>) -> Option<Vec<String>> {
        Some(read(netns)?.links().map(|link| link.name.clone()).collect())
    }

    fn addresses(&self, interface: &str) -> Vec<IpAddr> {
        let Some(mirror) = read(None) else {
            return Vec::new();
        };
        let Some(index) = mirror.link_named(interface).map(|link| link.index) else {
            return Vec::new();
        };
        mirror
            .addresses()
            .filter(|(link, _)| *link == index)
            .map(|(_, net)| net.addr())
            .collect()
    }

    fn private_key(&self, path: &str) -> Result<PrivateKey, KeyError> {
        PrivateKey::read(Path::new(path))
    }
}

fn read(netns: Option<&str>) -> Option<Mirror> {
    Some(Mirror::of(Kernel::open(netns).ok()?.read_interfaces().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_and_an_invented_namespace_is_not() {
        assert!(ThisMachine.interfaces(None).unwrap().contains(&"lo".to_owned()));
        assert_eq!(ThisMachine.interfaces(Some("no-such-namespace")), None);
        assert_eq!(ThisMachine.addresses("no-such-interface"), Vec::<IpAddr>::new());
    }
}
