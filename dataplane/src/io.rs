//! The seam between the packet path and whatever carries packets: DPDK in production, memory in tests.
//! Resolved at compile time; a worker is generic over it.

use arrayvec::ArrayVec;

/// Packets per burst. Large enough to hide one miss behind another, small enough for L1.
pub const BURST: usize = 32;

/// A batch on its way through the stages.
pub type Burst<P> = ArrayVec<P, BURST>;

/// Index of a port in the configuration.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PortId(pub u16);

impl PortId {
    /// The id as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A receive queue that exactly one worker polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RxQueue {
    /// Port of the queue.
    pub port: PortId,
    /// Queue number on that port.
    pub queue: u16,
}

/// Which checksums of a frame its port has found right, so that nobody needs to reckon them again. What a port found wrong, or
/// hasn't looked at, isn't: software has the last word about that.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// That of the IPv4 header.
    pub header: bool,
    /// That of the TCP segment or UDP datagram.
    pub transport: bool,
}

/// One frame in one contiguous buffer, from the Ethernet header to its last byte, without FCS.
/// Dropping it frees it.
pub trait Packet: Send + Sized {
    /// The frame.
    fn data(&self) -> &[u8];
    /// The frame, to be rewritten in place.
    fn data_mut(&mut self) -> &mut [u8];
    /// Cuts or extends the frame's tail to `len` bytes; added bytes are unspecified. False (and unchanged)
    /// when the buffer has no room.
    fn set_len(&mut self, len: usize) -> bool;
    /// Adds `count` unspecified bytes in front; false (and unchanged) when the headroom is used up.
    fn prepend(&mut self, count: usize) -> bool;
    /// Removes `count` bytes from the front; false (and unchanged) when the frame is shorter.
    fn trim_front(&mut self, count: usize) -> bool;
    /// What its port says of it as it came. Rewriting adjusts checksums by what it changes, so this stays true on its way.
    fn verified(&self) -> Verified {
        Verified::default()
    }
}

/// What a worker does to the outside world.
pub trait Io {
    /// Its packets.
    type Packet: Packet;
    /// Called first in every turn: ports may have come or gone since the last one.
    fn begin_turn(&mut self) {}
    /// Fills the empty `into` with up to [`BURST`] packets waiting on `queue`; never blocks.
    fn rx(&mut self, queue: RxQueue, into: &mut Burst<Self::Packet>);
    /// Sends the burst out of `port`, in order, and returns how many were accepted. Empties `burst`:
    /// what the port did not accept is freed here, and the caller counts the difference.
    fn tx(&mut self, port: PortId, burst: &mut Burst<Self::Packet>) -> usize;
    /// A packet of length 0 for an answer of our own; none when the pool is empty.
    fn alloc(&mut self) -> Option<Self::Packet>;
    /// Frees a burst of dropped packets at once.
    fn free(&mut self, burst: &mut Burst<Self::Packet>) {
        burst.clear();
    }
}
