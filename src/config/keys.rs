//! The keys a configuration names, opened: apart from reading it, because only the node itself has its private key.
//! Asked by the data process at start, and again when an operator has changed them.

use std::path::Path;

use ctl::key::{KeyError, PrivateKey};
use state_sync::config::SyncLink;

use super::locate::Fault;
use super::{Config, Security, SyncConfig};
use crate::secure::keys::{Keyring, KeyringError, Trusted};

/// The keyring of a configuration; none when its lanes are plain.
///
/// # Errors
/// When the private key can't be had, or can't be right.
pub fn open_keys(config: &Config) -> Result<Option<Keyring>, Fault> {
    let Some(path) = config.sync.as_ref().and_then(wanted) else {
        return Ok(None);
    };
    let opened = Keyring::open(Path::new(path), &trusted(config));
    opened.map(Some).map_err(|error| fault(config, &error))
}

/// Takes the keys of a configuration into use in a keyring that is in use.
///
/// # Errors
/// As [`open_keys`]; the keys in use stay.
pub fn replace_keys(keyring: &Keyring, config: &Config) -> Result<(), Fault> {
    let path = config.sync.as_ref().and_then(wanted).unwrap_or_default();
    let replaced = PrivateKey::read(Path::new(path))
        .map_err(KeyringError::from)
        .and_then(|own| keyring.replace(&own, &trusted(config)));
    replaced.map_err(|error| fault(config, &error))
}

/// Whether two configurations name the same keys, wherever in the file.
#[must_use]
pub fn same_keys(one: &Config, other: &Config) -> bool {
    let path = |config: &Config| config.sync.as_ref().and_then(wanted).map(str::to_owned);
    path(one) == path(other) && trusted(one) == trusted(other)
}

/// File of the private key, if lanes need one.
pub(super) fn wanted(sync: &SyncConfig) -> Option<&str> {
    let path = sync.private_key.as_deref();
    path.filter(|_| sync.security == Security::Tls)
}

/// What is wrong with the private key's file, where it is named.
pub(super) fn file_fault(config: &Config, error: &KeyError) -> Fault {
    let places = &config.places;
    places.fault("sync.private_key", error.to_string(), &error.advice())
}

/// Peers of several VRFs with the same addresses are one peer, with one list of keys.
fn trusted(config: &Config) -> Vec<Trusted> {
    let mut trusted: Vec<Trusted> = Vec::new();
    for peer in config.vrfs.iter().flat_map(|v| &v.peers) {
        for SyncLink { source, address } in peer.links() {
            if !trusted.iter().any(|t| (t.source, t.address) == (source, address)) {
                let keys = peer.public_keys.clone();
                trusted.push(Trusted {
                    source,
                    address,
                    keys,
                });
            }
        }
    }
    trusted
}

fn fault(config: &Config, error: &KeyringError) -> Fault {
    let (path, advice) = match error {
        KeyringError::Key(error) => return file_fault(config, error),
        KeyringError::Own(address) => {
            let peers = config
                .vrfs
                .iter()
                .flat_map(|v| v.peers.iter().map(move |p| (v, p)));
            let mut named = peers
                .filter(|(_, p)| p.links().any(|link| link.address == *address))
                .map(|(v, p)| format!("vrf.{}.peer.{}.public_keys", v.name, p.name));
            let path = named.next_back().unwrap_or_default();
            (
                path,
                "use the line that twinpathctl key generate has printed on the other node",
            )
        }
        KeyringError::Tls(_) => {
            let advice = "make a new key with twinpathctl key generate, and tell the other node";
            ("sync.private_key".to_owned(), advice)
        }
    };
    config.places.fault(&path, error.to_string(), advice)
}
