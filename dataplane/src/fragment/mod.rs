//! Fragments, followed but never put together: virtual reassembly (RFC 6888 section 3 by way of RFC 4787 REQ-14:
//! fragments in any order). Every piece is translated and forwarded by itself; what one needs and doesn't have, the
//! ports, it gets from its packet's first piece.
//!
//! ```text
//!   piece ──accept──► context of (VRF, source, destination, protocol, identification)
//!                       first piece known     → Pass: goes on, with the packet's Mark
//!                       not yet               → Hold: its frame waits in the store; the first piece makes it ready
//!                       overlap, refused, …   → Drop, and every further piece of the packet too
//! ```
//!
//! A [`Context`] is born with the first piece that comes and dies when every piece was seen, after [`TIMEOUT`], or when
//! a newer one needs its place: contexts whose first piece is missing go first, oldest first, so that a flood of orphans
//! neither grows nor hurts packets that are on their way. All memory is allocated at start. One worker's; which worker
//! follows a packet's pieces is the steer stage's to say. No lock, no clock.

mod context;
pub(crate) mod split;
#[cfg(test)]
mod tests;

use core::time::Duration;

use self::context::{Context, State};
use crate::conntrack::Index;
use crate::counters::Counters;
use crate::flow::{FlowKey, proto};
use crate::io::PortId;
use crate::slot::NIL;
use crate::stage::meta::{Fragment, Kind, Meta, Piece, TcpSegment};
use crate::store::{Queue, Store};
use crate::time::Instant;
use crate::verdict::Drop;
use crate::wire::tcp::{FIN, SYN};

/// How long a packet's pieces are waited for. Receivers wait 60 s (RFC 8200 section 4.5), but pieces that are still
/// coming do so within a round-trip of reordering, and a table in the middle is everybody's.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// Packets followed at the same time, per worker.
const CONTEXTS: u32 = 1_024;

/// Frames that may wait, per worker. Each is one buffer, so this bounds the bytes too.
pub const HELD: u32 = 512;

/// Frames that may wait for one first piece: 64 KiB in pieces of 1,024 bytes.
const HELD_PER_PACKET: u32 = 64;

/// Contexts that end by timeout in one turn.
const EXPIRED_PER_TURN: usize = 16;

/// What pieces without a transport header need to know of their packet, learnt from its first piece. Travels with a
/// piece from worker to worker.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Sequence number of a TCP packet's byte 0, its headers counted as if they were data.
    seq: u32,
    ack: u32,
    window: u16,
    src_port: u16,
    dst_port: u16,
    /// Identification that a translated IPv4 packet leaves with.
    pub(crate) id: u16,
    proto: u8,
    flags: u8,
}

impl Mark {
    /// What the first piece says.
    pub(crate) fn of(meta: &Meta) -> Self {
        let mut mark = Self {
            src_port: meta.key.src_port,
            dst_port: meta.key.dst_port,
            proto: meta.key.proto,
            ..Self::default()
        };
        if meta.key.proto == proto::TCP {
            let segment = &meta.tcp;
            let headers = u32::from(meta.fragment.len).wrapping_sub(segment.payload_len);
            mark.flags = segment.flags;
            mark.ack = segment.ack;
            mark.window = segment.window;
            mark.seq = segment
                .seq
                .wrapping_add(u32::from(segment.flags & SYN != 0))
                .wrapping_sub(headers);
        }
        mark
    }

    /// Makes a piece part of its flow. A TCP piece looks to tracking like a segment of its own, so that window and
    /// end are right after each of them; the FIN counts with the last piece.
    pub(crate) fn apply(&self, meta: &mut Meta) {
        if meta.piece == Piece::First {
            meta.tcp.flags &= !FIN;
            return;
        }
        meta.kind = Kind::Flow;
        meta.key.src_port = self.src_port;
        meta.key.dst_port = self.dst_port;
        meta.key.proto = self.proto;
        let place = &meta.fragment;
        let dropped = if place.more { SYN | FIN } else { SYN };
        meta.tcp = TcpSegment {
            seq: self.seq.wrapping_add(u32::from(place.offset)),
            ack: self.ack,
            payload_len: u32::from(place.len),
            window: self.window,
            flags: self.flags & !dropped,
            window_scale: None,
        };
    }

    /// The same after a translation of the whole packet.
    pub(crate) const fn with_ports_of(self, key: &FlowKey) -> Self {
        Self {
            src_port: key.src_port,
            dst_port: key.dst_port,
            ..self
        }
    }
}

/// Names a context; outlives it without naming its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    context: u32,
    generation: u32,
}

impl Ticket {
    /// Of no context.
    pub(crate) const NONE: Self = Self {
        context: NIL,
        generation: 0,
    };
}

/// What becomes of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on.
    Pass(Mark, Ticket),
    /// It waits: give its frame to [`Fragments::keep`] at the end of the burst.
    Hold(Ticket),
    /// Dropped.
    Drop(Drop),
}

/// A frame that waits or has waited.
#[derive(Debug)]
pub(crate) struct Held<P> {
    pub(crate) packet: P,
    pub(crate) port: PortId,
    pub(crate) handoffs: u8,
    pub(crate) ticket: Ticket,
    /// Valid once its packet's first piece has come.
    pub(crate) mark: Mark,
}

/// Contexts in order of their deadlines.
#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u32,
    tail: u32,
}

/// One worker's contexts and waiting frames.
#[derive(Debug)]
pub(crate) struct Fragments<P> {
    contexts: Box<[Context]>,
    vacant: Vec<u32>,
    index: Index,
    /// First piece missing, and all others.
    chains: [Chain; 2],
    store: Store<Held<P>>,
    ready: Queue,
    /// Places promised to frames of the burst under way.
    promised: u32,
    ids: u16,
    id_step: u16,
}

impl<P> Fragments<P> {
    /// Of worker `number` of `workers`.
    pub(crate) fn new((number, workers): (u16, u16)) -> Self {
        Self::sized((number, workers), CONTEXTS, HELD)
    }

    fn sized((number, workers): (u16, u16), contexts: u32, held: u32) -> Self {
        const EMPTY: Chain = Chain { head: NIL, tail: NIL };
        Self {
            contexts: (0..contexts).map(|_| Context::vacant()).collect(),
            vacant: (0..contexts).rev().collect(),
            index: Index::new(contexts as usize),
            chains: [EMPTY; 2],
            store: Store::new(held),
            ready: Queue::EMPTY,
            promised: 0,
            ids: number,
            id_step: workers,
        }
    }

    /// A piece of the packet named `key` (with the identification for ports) came; `first` is the mark of a first piece.
    pub(crate) fn accept(
        &mut self,
        key: &FlowKey,
        hash: u64,
        place: &Fragment,
        first: Option<Mark>,
        now: Instant,
        counters: &mut Counters,
    ) -> Fate {
        counters.fragments_seen += 1;
        let found = self.index.find(hash, |id| self.contexts[id as usize].key == *key);
        let id = match found {
            Some(id) => id,
            None => self.open(key, hash, now, counters),
        };
        let context = &mut self.contexts[id as usize];
        if let State::Dead(reason) = context.state {
            return Fate::Drop(reason);
        }
        if let Err(reason) = context.pieces.add(place) {
            if reason != Drop::FragmentDuplicate {
                self.end(id, reason, now, counters);
            }
            return Fate::Drop(reason);
        }
        if let Some(mark) = first {
            let id_out = self.next_id();
            self.begin(id, Mark { id: id_out, ..mark }, now);
        }
        let ticket = self.ticket(id);
        match self.contexts[id as usize].state {
            State::Open(mark) => {
                if self.contexts[id as usize].pieces.are_complete() {
                    counters.fragments_complete += 1;
                    self.close(id);
                }
                Fate::Pass(mark, ticket)
            }
            _ => self.hold(id, now, counters),
        }
    }

    /// Keeps the frame of a piece whose fate was to be held. It is ready at once when `mark` says that the first piece
    /// came in the same burst.
    ///
    /// # Errors
    /// The frame, and why it can't wait: its context has ended meanwhile.
    pub(crate) fn keep(&mut self, mut held: Held<P>, mark: Option<Mark>) -> Result<(), (P, Drop)> {
        self.promised = self.promised.saturating_sub(1);
        if let Some(mark) = mark {
            held.mark = mark;
            return self.store.push(&mut self.ready, held).map_err(overflow);
        }
        let Some(context) = self.live(held.ticket) else {
            return Err((held.packet, Drop::FragmentOverflow));
        };
        if let State::Dead(reason) = self.contexts[context].state {
            return Err((held.packet, reason));
        }
        self.store
            .push(&mut self.contexts[context].held, held)
            .map_err(overflow)
    }

    /// The first piece was dropped: those that follow it are, too.
    pub(crate) fn refuse(&mut self, ticket: Ticket) {
        if let Some(context) = self.live(ticket) {
            self.contexts[context].state = State::Dead(Drop::FragmentRefused);
        }
    }

    /// A frame whose packet's first piece has come meanwhile, in the order of their coming.
    pub(crate) fn take_ready(&mut self, counters: &mut Counters) -> Option<Held<P>> {
        loop {
            let held = self.store.pop(&mut self.ready)?;
            match self.live(held.ticket).map(|context| self.contexts[context].state) {
                Some(State::Dead(reason)) => counters.drop(reason),
                _ => return Some(held),
            }
        }
    }

    /// Ends contexts whose time is over, a few per turn; returns how many.
    pub(crate) fn expire(&mut self, now: Instant, counters: &mut Counters) -> usize {
        let mut ended = 0;
        for chain in 0..self.chains.len() {
            while ended < EXPIRED_PER_TURN {
                let head = self.chains[chain].head;
                if head == NIL || self.contexts[head as usize].deadline > now {
                    break;
                }
                self.evict(head, Drop::FragmentTimeout, counters);
                ended += 1;
            }
        }
        ended
    }

    /// Frees every frame.
    pub(crate) fn drain(&mut self, counters: &mut Counters) {
        for chain in 0..self.chains.len() {
            while self.chains[chain].head != NIL {
                self.evict(self.chains[chain].head, Drop::Stopping, counters);
            }
        }
        while self.store.pop(&mut self.ready).is_some() {
            counters.drop(Drop::Stopping);
        }
    }

    /// Identification for a translated packet that leaves in pieces: many subscribers share one public address, and
    /// each counts for itself (RFC 6864 section 5.3). Workers take turns, so that they never give out the same.
    pub(crate) const fn next_id(&mut self) -> u16 {
        self.ids = self.ids.wrapping_add(self.id_step);
        self.ids
    }

    /// Frames in the store.
    #[cfg(test)]
    fn held(&self) -> u32 {
        self.store.len()
    }

    fn open(&mut self, key: &FlowKey, hash: u64, now: Instant, counters: &mut Counters) -> u32 {
        if self.vacant.is_empty() {
            let [waiting, settled] = self.chains.map(|chain| chain.head);
            let oldest = if waiting == NIL { settled } else { waiting };
            self.evict(oldest, Drop::FragmentOverflow, counters);
        }
        let id = self.vacant.pop().unwrap_or_default();
        self.contexts[id as usize].start(key, hash);
        // As many keys as contexts: the index can't be full.
        let _ = self.index.insert(hash, id);
        self.link(id, now);
        id
    }

    /// The first piece has come.
    fn begin(&mut self, id: u32, mark: Mark, now: Instant) {
        self.unlink(id);
        let context = &mut self.contexts[id as usize];
        context.state = State::Open(mark);
        let waited = core::mem::replace(&mut context.held, Queue::EMPTY);
        self.store.for_each(&waited, |held| held.mark = mark);
        self.store.append(&mut self.ready, waited);
        self.link(id, now);
    }

    fn hold(&mut self, id: u32, now: Instant, counters: &mut Counters) -> Fate {
        let context = &mut self.contexts[id as usize];
        context.waiting += 1;
        let crowded = context.waiting > HELD_PER_PACKET;
        while !crowded && self.store.len() + self.promised >= self.store.capacity() {
            // Somebody else's frames first, the oldest.
            let oldest = self.chains[0].head;
            if oldest == NIL || oldest == id {
                break;
            }
            self.evict(oldest, Drop::FragmentOverflow, counters);
        }
        if crowded || self.store.len() + self.promised >= self.store.capacity() {
            self.end(id, Drop::FragmentOverflow, now, counters);
            return Fate::Drop(Drop::FragmentOverflow);
        }
        self.promised += 1;
        counters.fragments_held += 1;
        Fate::Hold(self.ticket(id))
    }

    /// Nothing of this packet passes from now on, but its context remembers why until its time is over.
    fn end(&mut self, id: u32, reason: Drop, now: Instant, counters: &mut Counters) {
        self.unlink(id);
        self.discard(id, reason, counters);
        self.contexts[id as usize].state = State::Dead(reason);
        self.link(id, now);
    }

    fn evict(&mut self, id: u32, reason: Drop, counters: &mut Counters) {
        self.discard(id, reason, counters);
        self.close(id);
    }

    fn discard(&mut self, id: u32, reason: Drop, counters: &mut Counters) {
        while self.store.pop(&mut self.contexts[id as usize].held).is_some() {
            counters.drop(reason);
        }
    }

    fn close(&mut self, id: u32) {
        self.unlink(id);
        let context = &mut self.contexts[id as usize];
        self.index.remove(context.hash, id);
        context.generation = context.generation.wrapping_add(1);
        self.vacant.push(id);
    }

    fn ticket(&self, id: u32) -> Ticket {
        Ticket {
            context: id,
            generation: self.contexts[id as usize].generation,
        }
    }

    /// Place of the context, when it still is the one that the ticket was made for.
    fn live(&self, ticket: Ticket) -> Option<usize> {
        let context = self.contexts.get(ticket.context as usize)?;
        (context.generation == ticket.generation).then_some(ticket.context as usize)
    }

    /// Appends to the chain of the context's state; its time starts anew, so every chain stays in order.
    fn link(&mut self, id: u32, now: Instant) {
        let number = self.contexts[id as usize].chain();
        let tail = self.chains[number].tail;
        let context = &mut self.contexts[id as usize];
        context.deadline = now + TIMEOUT;
        (context.previous, context.next) = (tail, NIL);
        match self.contexts.get_mut(tail as usize) {
            Some(last) => last.next = id,
            None => self.chains[number].head = id,
        }
        self.chains[number].tail = id;
    }

    fn unlink(&mut self, id: u32) {
        let context = &self.contexts[id as usize];
        let (number, previous, next) = (context.chain(), context.previous, context.next);
        match self.contexts.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.chains[number].head = next,
        }
        match self.contexts.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.chains[number].tail = previous,
        }
    }
}

fn overflow<P>(held: Held<P>) -> (P, Drop) {
    (held.packet, Drop::FragmentOverflow)
}
