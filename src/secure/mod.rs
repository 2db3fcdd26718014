//! Protection of the sync link: streams between nodes that know each other's public keys (TLS 1.3, both ends
//! authenticated, RFC 8446; raw public keys, RFC 7250), or plain ones where the configuration says so.
//!
//! [`SecureNet`] wraps the sockets of an event thread and is made with them at start. Each of its streams is a
//! [`SecureWire`], owned by whoever got it. The [`Keyring`] behind them is one per process; its keys
//! can be exchanged while streams live. `keys` says who is trusted, `tls` carries the bytes.

pub mod keys;
pub mod tls;

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::sync::Arc;

use state_sync::wire::{Breach, Incoming, Io, Net, Wire};

use self::keys::Keyring;
use self::tls::TlsWire;

/// Streams of another network, protected.
#[derive(Debug)]
pub struct SecureNet<N> {
    net: N,
    /// None: plain, by configuration.
    keys: Option<Arc<Keyring>>,
}

/// A stream of [`SecureNet`].
#[derive(Debug)]
pub enum SecureWire<W: Wire> {
    /// As the network gave it.
    Plain(W),
    /// Encrypted and authenticated.
    Tls(Box<TlsWire<W>>),
    /// From or to somebody without keys: never carries a byte.
    Closed(W),
}

impl<N> SecureNet<N> {
    /// Streams are plain without `keys`.
    pub const fn new(net: N, keys: Option<Arc<Keyring>>) -> Self {
        Self { net, keys }
    }
}

impl<N: Net> Net for SecureNet<N> {
    type Wire = SecureWire<N::Wire>;

    fn connect(&mut self, source: IpAddr, address: IpAddr) -> Option<Self::Wire> {
        let Some(keys) = &self.keys else {
            return self.net.connect(source, address).map(SecureWire::Plain);
        };
        let tls = keys.client(source, address)?;
        let wire = self.net.connect(source, address)?;
        Some(SecureWire::Tls(Box::new(TlsWire::new(
            wire,
            tls,
            keys,
            (source, address),
        ))))
    }

    fn accept(&mut self) -> Option<Incoming<Self::Wire>> {
        let Incoming { wire, local, remote } = self.net.accept()?;
        let wire = match &self.keys {
            None => SecureWire::Plain(wire),
            Some(keys) => match keys.server(local, remote) {
                Some(tls) => SecureWire::Tls(Box::new(TlsWire::new(wire, tls, keys, (local, remote)))),
                // Whoever asked us refuses it by its address, and counts it.
                None => SecureWire::Closed(wire),
            },
        };
        Some(Incoming { wire, local, remote })
    }
}

impl<W: Wire> Wire for SecureWire<W> {
    fn send(&mut self, bytes: &[u8]) -> Io {
        match self {
            Self::Plain(wire) => wire.send(bytes),
            Self::Tls(wire) => wire.send(bytes),
            Self::Closed(_) => Io::Failed,
        }
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        match self {
            Self::Plain(wire) => wire.recv(buffer),
            Self::Tls(wire) => wire.recv(buffer),
            Self::Closed(_) => Io::Failed,
        }
    }

    fn flush(&mut self) -> Io {
        match self {
            Self::Plain(wire) => wire.flush(),
            Self::Tls(wire) => wire.flush(),
            Self::Closed(_) => Io::Failed,
        }
    }

    fn breach(&self) -> Option<Breach> {
        match self {
            Self::Plain(wire) => wire.breach(),
            Self::Tls(wire) => wire.breach(),
            Self::Closed(_) => Some(Breach::KeyUnknown),
        }
    }
}
