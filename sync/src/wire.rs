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

/// A byte stream to a peer. Dropping it closes it.
pub trait Wire {
    /// Offers `bytes`; any prefix may be taken.
    fn send(&mut self, bytes: &[u8]) -> Io;
    /// Fills a prefix of `buffer`, which isn't empty.
    fn recv(&mut self, buffer: &mut [u8]) -> Io;
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
