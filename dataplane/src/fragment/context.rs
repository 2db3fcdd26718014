//! One fragmented packet as seen from the middle: who it is, which bytes have come, and what is known of its flow. A
//! context lives in its place of [`super::Fragments`] and is used again for the next packet.

use arrayvec::ArrayVec;

use super::Mark;
use crate::flow::FlowKey;
use crate::slot::NIL;
use crate::stage::meta::Fragment;
use crate::store::Queue;
use crate::time::Instant;
use crate::verdict::Drop;

/// Pieces of one packet: 64 KiB over links of 552 bytes.
const PIECES: usize = 128;

/// What is known of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The first piece is missing.
    Waiting,
    /// The first piece has gone on with this mark.
    Open(Mark),
    /// Its pieces are dropped for this reason.
    Dead(Drop),
}

/// A place for a packet.
#[derive(Debug)]
pub(super) struct Context {
    /// Addresses, VRF, protocol (IPv4), and the identification in place of the ports.
    pub(super) key: FlowKey,
    pub(super) hash: u64,
    pub(super) state: State,
    pub(super) deadline: Instant,
    /// Counts the packets that had this place.
    pub(super) generation: u32,
    pub(super) previous: u32,
    pub(super) next: u32,
    /// Frames in the store.
    pub(super) held: Queue,
    /// Pieces that were told to wait.
    pub(super) waiting: u32,
    pub(super) pieces: Pieces,
}

impl Context {
    pub(super) fn vacant() -> Self {
        Self {
            key: FlowKey::default(),
            hash: 0,
            state: State::Waiting,
            deadline: Instant::default(),
            generation: 0,
            previous: NIL,
            next: NIL,
            held: Queue::EMPTY,
            waiting: 0,
            pieces: Pieces::default(),
        }
    }

    /// Takes the place for another packet.
    pub(super) fn start(&mut self, key: &FlowKey, hash: u64) {
        (self.key, self.hash, self.state) = (*key, hash, State::Waiting);
        (self.held, self.waiting) = (Queue::EMPTY, 0);
        self.pieces.clear();
    }

    /// Number of the chain it belongs to.
    pub(super) const fn chain(&self) -> usize {
        match self.state {
            State::Waiting => 0,
            State::Open(_) | State::Dead(_) => 1,
        }
    }
}

/// Which bytes of a packet have come. Pieces never overlap (RFC 5722), so their sum says when all are here.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    seen: ArrayVec<Extent, PIECES>,
    bytes: u32,
    /// Length of the whole, once the last piece has come.
    total: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    start: u16,
    end: u16,
    more: bool,
}

impl Pieces {
    fn clear(&mut self) {
        self.seen.clear();
        (self.bytes, self.total) = (0, None);
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// - `FragmentDuplicate`: the same piece once more; nothing is wrong with the packet (RFC 8200 section 4.5).
    /// - `FragmentOverlap`: it shares bytes with another one, or they contradict one another about the packet's end.
    /// - `FragmentOverflow`: too many.
    pub(super) fn add(&mut self, place: &Fragment) -> Result<(), Drop> {
        // Parse lets nothing end beyond 65,535.
        let piece = Extent {
            start: place.offset,
            end: place.offset.saturating_add(place.len),
            more: place.more,
        };
        for other in &self.seen {
            if *other == piece {
                return Err(Drop::FragmentDuplicate);
            }
            // A last piece ends the packet: nothing comes after it.
            let contradicts =
                (!piece.more && other.end > piece.start) || (!other.more && piece.end > other.start);
            if contradicts || (piece.start < other.end && other.start < piece.end) {
                return Err(Drop::FragmentOverlap);
            }
        }
        self.seen.try_push(piece).map_err(|_| Drop::FragmentOverflow)?;
        self.bytes += u32::from(place.len);
        if !place.more {
            self.total = Some(u32::from(piece.end));
        }
        Ok(())
    }

    /// Whether every byte has come.
    pub(super) fn are_complete(&self) -> bool {
        self.total == Some(self.bytes)
    }
}
