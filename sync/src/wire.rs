//! The seam to the network: byte streams that never block. Sockets implement it in production, an in-memory
//! network in tests and in the simulator.

use core::net::IpAddr;

/// What a stream did with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// So many bytes were taken or given, at least one.
    Done(usize),
    /// Nothing now (also while the connection is still being made).
    Wait,
    /// Closed by the other end in order.
    Closed,
    /// Refused, reset, timed out or otherwise gone.
    Failed,
}

/// How a protected stream was broken, or why it never came about. What it gave before that was sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// The other end doesn't prove to hold a key that is configured for it.
    KeyUnknown,
    /// The other end doesn't accept our key.
    KeyRefused,
    /// The other end's key was taken out of the configuration.
    KeyRemoved,
    /// The other end speaks another protocol, or none.
    Handshake,
    /// Bytes were forged, changed, repeated, left out or reordered on the way.
    Tampered,
    /// The stream ended without its signed end.
    Truncated,
}

/// A byte stream to a peer. Dropping it closes it.
pub trait Wire {
    /// Offers `bytes`; any prefix may be taken.
    fn send(&mut self, bytes: &[u8]) -> Io;
    /// Fills a prefix of `buffer`, which isn't empty.
    fn recv(&mut self, buffer: &mut [u8]) -> Io;

    /// Passes on what was taken and is still held, as a stream that encrypts does. `Done(0)` when nothing was held,
    /// [`Io::Wait`] when nothing of it could be passed on.
    fn flush(&mut self) -> Io {
        Io::Done(0)
    }

    /// After [`Io::Failed`]: what was wrong, if it is more than a lost connection.
    fn breach(&self) -> Option<Breach> {
        None
    }
}

/// Where streams come from.
pub trait Net {
    /// Its streams.
    type Wire: Wire;

    /// Starts a connection from `source` to `address`. The stream says [`Io::Wait`] until it is made. None when
    /// it couldn't even be started.
    fn connect(&mut self, source: IpAddr, address: IpAddr) -> Option<Self::Wire>;

    /// The next connection that somebody made to one of our addresses. Asked only by event thread 0.
    fn accept(&mut self) -> Option<Incoming<Self::Wire>>;
}

/// A connection somebody made to us.
#[derive(Debug)]
pub struct Incoming<W> {
    /// The stream.
    pub wire: W,
    /// Our address.
    pub local: IpAddr,
    /// Theirs.
    pub remote: IpAddr,
}
