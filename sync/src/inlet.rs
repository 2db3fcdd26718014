//! The local node's end of a peer's lane: what the peer streams to us, steered to the workers that own the
//! slots here, and acknowledged when they have applied it.
//!
//! Born when a HELLO was accepted, dies with the connection or when a newer one of the same lane arrives. The
//! old one is gone before the first byte of the new one is read, so late bytes of an old connection are never
//! mixed in. When a worker's ring is full, reading stops in the middle of a frame and nothing is lost.

use std::collections::VecDeque;

use dataplane::delta::{LaneTag, PutRecord, SlotOffer, SlotRef, Term, ToWorker, Version, Wanted};
use dataplane::flow::VrfId;
use dataplane::mutant::{self, Mutant};

use crate::board::PeerVrf;
use crate::cause::Cause;
use crate::compare_record::{Said, put_said, put_tail};
use crate::config::CONTROL_LANE;
use crate::conn::Conn;
use crate::flow_record::Stream;
use crate::frame::Step;
use crate::hello::{Answer, FEATURES, Hello, VERSIONS, encode_answer};
use crate::peering::{Known, Peering};
use crate::port::{Arrival, End, PumpEvent};
use crate::record::{self, Message, RecordError, SlotFailure};
use crate::report::{LocalReport, LocalVrfReport};
use crate::role::outranks;
use crate::shared::Shared;
use crate::slot_record;
use crate::tally::Tallies;
use crate::wire::Wire;

/// Reads per turn.
const READS_MAX: usize = 4;
/// Frames whose application is awaited one by one; beyond it neighbours share an entry.
const CHECKPOINTS_MAX: usize = 1_024;

/// Entries of a slot listed for one question.
pub(crate) const LIST_MAX: u16 = 1_024;

/// Least credit: with smaller rings than this, reading waits for workers again.
const CREDIT_MIN: u32 = 64;

/// An accepted connection of a peer.
#[derive(Debug)]
pub(crate) struct Inlet<W> {
    tag: LaneTag,
    hello: Hello,
    conn: Conn<W>,
    peering: Peering,
    /// By VRF.
    imports: Vec<Import>,
    /// What the peer calls the slots it has begun, at most as many as two bytes can tell apart.
    streams: Vec<Option<SlotRef>>,
    /// Frames read and not yet applied, oldest first.
    checkpoints: VecDeque<Checkpoint>,
}

/// A frame, and how many items each worker must have processed for it to be applied.
#[derive(Debug)]
struct Checkpoint {
    sequence: u64,
    pushed: Box<[u64]>,
}

/// What has come of one VRF on this connection.
#[derive(Debug, Default)]
struct Import {
    /// State flows from the peer to us, at this moment.
    accepts: bool,
    slots: Vec<Slot>,
    verified: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Generation whose begin was handed on; 0 while the slot is closed.
    generation: u32,
    verified: bool,
    /// Version of the last live record handed on.
    last: Version,
}

/// How handling a record ended.
enum Outcome {
    Done,
    /// It was for no worker: a peer may say only so many of these.
    Useless,
    /// The worker's ring is full: the same record again next turn.
    Full,
}

impl<W: Wire> Inlet<W> {
    /// Accepts the connection: the answer goes out first, then all our VRFs.
    pub(crate) fn new(arrival: Arrival<W>, s: &mut Shared) -> Self {
        let answer = Answer {
            status: 0,
            version: VERSIONS.1.min(arrival.hello.versions.1),
            features: FEATURES & arrival.hello.features,
            node_id: s.config.node_id,
            boot_id: s.config.boot_id,
            node_name: s.config.node_name.clone(),
        };
        let (peer, hello) = (arrival.peer, arrival.hello);
        let mut conn = Conn::new(arrival.wire, &encode_answer(&answer), false, s.now);
        let mut peering = Peering::new(peer, &s.config);
        peering.open_all(&mut conn, &s.config, &s.own, s.now);
        let credit = credit(s, hello.lanes);
        conn.put(s.now, |out| record::put_credit(out, credit));
        s.changed = true;
        s.tell(PumpEvent::LaneUp {
            peer,
            lane: hello.lane,
            end: End::LocalNode,
        });
        Self {
            tag: LaneTag {
                peer,
                lane: hello.lane,
                incarnation: hello.incarnation,
            },
            hello,
            conn,
            peering,
            imports: s.config.vrfs.iter().map(|_| Import::default()).collect(),
            streams: Vec::new(),
            checkpoints: VecDeque::with_capacity(CHECKPOINTS_MAX),
        }
    }

    /// Peer, the peer's lane number and its incarnation.
    pub(crate) const fn tag(&self) -> LaneTag {
        self.tag
    }

    /// What the peer said of itself.
    pub(crate) const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// What the peer has said about a VRF on this connection.
    pub(crate) fn peer_vrf(&self, vrf: VrfId) -> Option<PeerVrf> {
        self.peering.known(vrf).map(|k| k.state)
    }

    /// Slots of a VRF that were imported over this connection.
    pub(crate) fn verified(&self, vrf: VrfId) -> u32 {
        self.imports.get(vrf.index()).map_or(0, |i| i.verified)
    }

    /// Adds what has gone over the connection.
    pub(crate) fn tally(&self, to: &mut Tallies) {
        self.conn.tally(to);
    }

    /// First half of a turn: read, steer, acknowledge.
    pub(crate) fn turn(&mut self, s: &mut Shared, stats: &mut LocalReport) -> Result<usize, Cause> {
        self.peering.announce(&mut self.conn, &s.own, s.now);
        for vrf in 0..u16::try_from(self.imports.len()).unwrap_or(u16::MAX) {
            self.direct(s, VrfId(vrf));
        }
        let mut work = 0;
        for _ in 0..READS_MAX {
            // What was left by the last turn comes first; bytes are read only when it is done.
            let (records, full) = self.read(s, stats)?;
            work += records;
            if full {
                stats.waits += 1;
                break;
            }
            if self.conn.pauses(s) {
                break;
            }
            let Some(bytes) = self.conn.fill(s.now)? else {
                break;
            };
            stats.bytes += bytes as u64;
            work += 1;
        }
        self.acknowledge(s);
        Ok(work)
    }

    /// Second half of a turn: send.
    pub(crate) fn finish(&mut self, s: &Shared) -> Result<(), Cause> {
        self.conn.finish(s.now, &s.config.timing, false, true)
    }

    /// Says good-bye before the process ends.
    pub(crate) fn farewell(&mut self, s: &Shared) {
        self.conn.put(s.now, record::put_bye);
        // The peer notices the closed connection too; failing to say so first changes nothing.
        let _ = self.finish(s);
    }

    /// Decides anew whether state of a VRF may come in: a change of direction closes its slots. The peer is
    /// told, since it may see no change: what it sends before the direction turns back would be missing here.
    fn direct(&mut self, s: &mut Shared, vrf: VrfId) {
        let known = self.peering.known(vrf);
        let own = s.own.get(vrf.index());
        let Some(import) = self.imports.get_mut(vrf.index()) else {
            return;
        };
        let accepts = self.tag.lane != CONTROL_LANE
            && s.is_standing_by(vrf.index())
            && known.zip(own).is_some_and(|(known, own)| {
                let theirs = known.state.term;
                // A higher term of this very peer that another lane was faster to tell: its word here is only late.
                let late = import.accepts && theirs != Term::NONE && own.term.node() == self.hello.node_id;
                known.slots > 0 && (late || outranks(theirs, self.hello.node_id, own.term))
            });
        if accepts == import.accepts {
            return;
        }
        let slots = if accepts {
            known.map_or(0, |k: Known| k.slots)
        } else {
            0
        };
        let fresh = Import {
            accepts,
            slots: vec![Slot::default(); usize::from(slots)],
            verified: 0,
        };
        let former = core::mem::replace(import, fresh);
        s.changed = true;
        let open = (0u16..)
            .zip(former.slots)
            .filter(|(_, slot)| slot.generation != 0);
        for (slot, state) in open {
            self.fail(
                s,
                SlotRef { vrf, slot },
                state.generation,
                SlotFailure::NotAccepting,
            );
        }
    }

    /// Handles what has been received, until bytes are missing or a ring is full.
    fn read(&mut self, s: &mut Shared, stats: &mut LocalReport) -> Result<(usize, bool), Cause> {
        let mut work = 0;
        loop {
            let message = match self.conn.inbox.step()? {
                Step::Record(kind, body) => {
                    let (streams, imports) = (&self.streams, &self.imports);
                    let stream = |number| stream(streams, imports, number);
                    record::decode(kind, body, |vrf| self.peering.resolve(vrf), stream)
                }
                Step::End(sequence) => {
                    stats.frames += 1;
                    self.conn.word();
                    self.checkpoint(sequence, s);
                    continue;
                }
                Step::Need => return Ok((work, false)),
            };
            let outcome = match message {
                Ok(message) => self.handle(s, stats, message)?,
                Err(error) => {
                    self.refuse(s, stats, error);
                    Outcome::Useless
                }
            };
            match outcome {
                Outcome::Done => {}
                Outcome::Useless => self.conn.word(),
                Outcome::Full => return Ok((work, true)),
            }
            self.conn.inbox.advance();
            work += 1;
        }
    }

    fn handle(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        message: Message,
    ) -> Result<Outcome, Cause> {
        let lane = self.tag;
        match message {
            Message::SlotBegin {
                at,
                stream,
                generation,
                version,
                since,
            } => {
                if !self.accepts(at) || generation == 0 {
                    s.count(Cause::SlotNotAccepted);
                    self.fail(s, at, generation, SlotFailure::NotAccepting);
                    return Ok(Outcome::Useless);
                }
                if !s.rings.push(
                    at.slot,
                    ToWorker::SlotBegin {
                        at,
                        lane,
                        generation,
                        version,
                        since,
                    },
                ) {
                    return Ok(Outcome::Full);
                }
                self.set(
                    at,
                    Slot {
                        generation,
                        verified: false,
                        last: version,
                    },
                );
                self.call(at, stream);
                s.changed = true;
            }
            Message::SlotVersion { at, version } => {
                if let Some(slot) = self.slot_mut(at) {
                    slot.last = version;
                }
            }
            Message::Delta { at, live, delta } => {
                if self.generation(at) == 0 {
                    s.count(Cause::RecordNotOpen);
                    vrf_stats(stats, at.vrf).receive_error += 1;
                    return Ok(Outcome::Useless);
                }
                if !s.rings.push(at.slot, ToWorker::Record { at, lane, delta }) {
                    return Ok(Outcome::Full);
                }
                if live && let (Some(slot), Some(version)) = (self.slot_mut(at), delta.version()) {
                    slot.last = version;
                }
                vrf_stats(stats, at.vrf).receive += 1;
            }
            Message::SlotEnd { at, end } => {
                if end.generation == 0 || self.generation(at) != end.generation {
                    s.count(Cause::RecordNotOpen);
                    return Ok(Outcome::Useless);
                }
                if !s.rings.push(at.slot, ToWorker::SlotEnd { at, lane, end }) {
                    return Ok(Outcome::Full);
                }
            }
            Message::SlotQuery { at, generation } => {
                if !self.accepts(at) {
                    s.count(Cause::SlotNotAccepted);
                    self.fail(s, at, generation, SlotFailure::NotAccepting);
                    return Ok(Outcome::Useless);
                }
                if !s
                    .rings
                    .push(at.slot, ToWorker::SlotQuery { at, lane, generation })
                {
                    return Ok(Outcome::Full);
                }
            }
            Message::SlotCommit { at, counter } => {
                if self.generation(at) == 0 {
                    s.count(Cause::RecordNotOpen);
                    self.slot_committed(s, at, counter, false);
                    return Ok(Outcome::Useless);
                }
                if !s.rings.push(at.slot, ToWorker::Commit { at, lane, counter }) {
                    return Ok(Outcome::Full);
                }
            }
            Message::SlotDigest { at, end } => {
                if end.generation == 0 || self.generation(at) != end.generation {
                    s.count(Cause::RecordNotOpen);
                    return Ok(Outcome::Useless);
                }
                if !s.rings.push(at.slot, ToWorker::SlotDigest { at, lane, end }) {
                    return Ok(Outcome::Full);
                }
            }
            Message::Comparison { at, round, said } => return Ok(self.compare(s, at, round, &said)),
            Message::VrfOpen(open) => {
                let opened = self.peering.opened(&open, &s.config)?;
                s.changed = true;
                if let Some(opened) = opened {
                    self.direct(s, opened.vrf);
                }
                return Ok(Outcome::Useless);
            }
            Message::VrfState(state) => {
                match self.peering.changed(&state) {
                    Ok(vrf) => self.direct(s, vrf),
                    Err(cause) => s.count(cause),
                }
                s.changed = true;
                return Ok(Outcome::Useless);
            }
            Message::VrfHandover { handle, handover } => {
                if let Err(cause) = self.peering.handed(handle, handover) {
                    s.count(cause);
                }
                s.changed = true;
                return Ok(Outcome::Useless);
            }
            Message::Heartbeat => return Ok(Outcome::Useless),
            Message::Bye => return Err(Cause::Closed),
            Message::Ack { .. }
            | Message::Credit { .. }
            | Message::SlotVerified { .. }
            | Message::SlotFailed { .. }
            | Message::Tail { .. }
            | Message::SlotAsk { .. }
            | Message::SlotOffer { .. }
            | Message::SlotCommitted { .. } => {
                s.count(Cause::RecordMisplaced);
                return Ok(Outcome::Useless);
            }
        }
        Ok(Outcome::Done)
    }

    /// The peer compares a slot: at a mark in its stream, or what was held there.
    fn compare(&mut self, s: &mut Shared, at: SlotRef, round: u32, said: &Said) -> Outcome {
        let lane = self.tag;
        if self.generation(at) == 0 {
            s.count(Cause::RecordNotOpen);
            return Outcome::Useless;
        }
        let item = match said {
            Said::Mark(mark) => ToWorker::SlotMark {
                at,
                lane,
                mark: *mark,
            },
            Said::List(entries) => ToWorker::ListSlot {
                at,
                lane,
                round,
                entries: (*entries).min(LIST_MAX),
            },
            Said::Marked(_) | Said::Listed(_) => {
                s.count(Cause::RecordMisplaced);
                return Outcome::Useless;
            }
        };
        if s.rings.push(at.slot, item) {
            Outcome::Done
        } else {
            Outcome::Full
        }
    }

    /// An entry of this node's former reign, for the peer to take over. One that reads slowly gets no more of them.
    pub(crate) fn tail(&mut self, s: &mut Shared, at: SlotRef, put: &PutRecord) {
        if self.conn.out.is_full() {
            s.count(Cause::TailDropped);
        } else {
            self.conn.put_aside(s.now, |out| put_tail(out, at, put));
        }
    }

    /// A worker has something to say to a comparison of the peer's.
    pub(crate) fn comparison(&mut self, s: &Shared, at: SlotRef, round: u32, said: &Said) {
        self.conn.put_aside(s.now, |out| put_said(out, at, round, said));
    }

    /// A record that could not be read. When its slot could, the slot is asked for again: what the record said
    /// is then sent in another way, or at least not silently missing.
    fn refuse(&mut self, s: &mut Shared, stats: &mut LocalReport, error: RecordError) {
        match error {
            RecordError::UnknownType => s.count(Cause::RecordUnknownType),
            RecordError::UnknownVrf => s.count(Cause::RecordUnknownVrf),
            RecordError::NotOpen => s.count(Cause::RecordNotOpen),
            RecordError::Malformed(at) => {
                s.count(Cause::RecordMalformed);
                let Some(at) = at else { return };
                vrf_stats(stats, at.vrf).receive_error += 1;
                let generation = self.generation(at);
                if generation != 0 {
                    self.set(at, Slot::default());
                    self.fail(s, at, generation, SlotFailure::Malformed);
                }
            }
        }
    }

    /// A worker has verified a slot that came from here.
    pub(crate) fn slot_verified(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        generation: u32,
        refused: u32,
    ) {
        if generation != 0 && self.generation(at) == generation {
            self.set_verified(at, true);
            vrf_stats(stats, at.vrf).refused += u64::from(refused);
            s.changed = true;
            self.conn.put(s.now, |out| {
                slot_record::put_slot_verified(out, at, generation, refused)
            });
        }
    }

    /// What has become of a record that the peer holds a packet for.
    pub(crate) fn slot_committed(&mut self, s: &Shared, at: SlotRef, counter: u64, applied: bool) {
        self.conn.put_aside(s.now, |out| {
            slot_record::put_slot_committed(out, at, counter, applied);
        });
    }

    /// A worker has said what it holds of a slot: answer to a question, or to a digest.
    pub(crate) fn slot_offer(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        offer: &SlotOffer,
    ) {
        let generation = self.generation(at);
        if generation == offer.generation && !offer.same {
            vrf_stats(stats, at.vrf).digest_mismatch += 1;
            self.set_verified(at, false);
            s.changed = true;
        }
        self.conn
            .put_aside(s.now, |out| slot_record::put_slot_offer(out, at, offer));
    }

    /// A worker may have room now for an entry that it refused.
    pub(crate) fn slot_ask(&mut self, s: &Shared, at: SlotRef, generation: u32, wanted: Wanted) {
        if self.generation(at) == generation {
            self.conn.put_aside(s.now, |out| {
                slot_record::put_slot_ask(out, at, generation, wanted)
            });
        }
    }

    /// A worker could not verify a slot that came from here.
    pub(crate) fn slot_failed(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        generation: u32,
    ) {
        vrf_stats(stats, at.vrf).slots_failed += 1;
        if self.generation(at) == generation {
            self.set_verified(at, false);
            s.changed = true;
        }
        self.fail(s, at, generation, SlotFailure::Unverified);
    }

    /// An operator wants a slot sent again. False when it isn't received over this connection.
    pub(crate) fn request(&mut self, s: &mut Shared, at: SlotRef) -> bool {
        let generation = self.generation(at);
        if generation == 0 {
            return false;
        }
        self.set_verified(at, false);
        s.changed = true;
        self.fail(s, at, generation, SlotFailure::Requested);
        true
    }

    fn fail(&mut self, s: &Shared, at: SlotRef, generation: u32, why: SlotFailure) {
        self.conn.put(s.now, |out| {
            slot_record::put_slot_failed(out, at, generation, why)
        });
    }

    fn accepts(&self, at: SlotRef) -> bool {
        self.imports
            .get(at.vrf.index())
            .is_some_and(|i| i.accepts && usize::from(at.slot) < i.slots.len())
    }

    fn generation(&self, at: SlotRef) -> u32 {
        let slot = self
            .imports
            .get(at.vrf.index())
            .and_then(|i| i.slots.get(usize::from(at.slot)));
        slot.map_or(0, |slot| slot.generation)
    }

    fn slot_mut(&mut self, at: SlotRef) -> Option<&mut Slot> {
        self.imports
            .get_mut(at.vrf.index())?
            .slots
            .get_mut(usize::from(at.slot))
    }

    /// Records of the slot name it by `number` from now on.
    fn call(&mut self, at: SlotRef, number: u16) {
        let number = usize::from(number);
        if self.streams.len() <= number {
            self.streams.resize(number + 1, None);
        }
        self.streams[number] = Some(at);
    }

    fn set_verified(&mut self, at: SlotRef, verified: bool) {
        if let Some(slot) = self.slot_mut(at).copied() {
            self.set(at, Slot { verified, ..slot });
        }
    }

    fn set(&mut self, at: SlotRef, to: Slot) {
        let Some(import) = self.imports.get_mut(at.vrf.index()) else {
            return;
        };
        let Some(slot) = import.slots.get_mut(usize::from(at.slot)) else {
            return;
        };
        import.verified += u32::from(to.verified);
        import.verified -= u32::from(slot.verified);
        *slot = to;
    }

    fn checkpoint(&mut self, sequence: u64, s: &Shared) {
        let pushed = s.rings.pushed();
        if self.checkpoints.len() < CHECKPOINTS_MAX {
            self.checkpoints.push_back(Checkpoint {
                sequence,
                pushed: pushed.into(),
            });
        } else if let Some(last) = self.checkpoints.back_mut() {
            // Waiting longer than needed is late; acknowledging earlier than applied would be wrong.
            last.sequence = sequence;
            last.pushed.copy_from_slice(pushed);
        }
    }

    /// Acknowledges every frame whose items have all been processed by their workers.
    fn acknowledge(&mut self, s: &Shared) {
        let mut applied = None;
        while let Some(next) = self.checkpoints.front()
            && (s.rings.applied(&next.pushed) || mutant::on(Mutant::AckOnReceive))
        {
            applied = Some(next.sequence);
            self.checkpoints.pop_front();
        }
        if let Some(sequence) = applied {
            self.conn.put(s.now, |out| record::put_ack(out, sequence));
        }
    }
}

/// Records that a connection may have under way: its share of the smallest ring to a worker, so that whatever arrives finds
/// room and reading never has to wait for a worker.
fn credit(s: &Shared, lanes: u8) -> u32 {
    let per_thread = usize::from(lanes).div_ceil(usize::from(s.config.events.max(1)));
    let sharers = (per_thread * s.config.peers.len()).max(1);
    let share = s.rings.capacity() / sharers;
    u32::try_from(share).unwrap_or(u32::MAX).max(CREDIT_MIN)
}

/// What the peer calls `number`.
fn stream(streams: &[Option<SlotRef>], imports: &[Import], number: u16) -> Option<Stream> {
    let at = streams.get(usize::from(number)).copied().flatten()?;
    let slot = imports.get(at.vrf.index())?.slots.get(usize::from(at.slot))?;
    Some(Stream {
        number,
        at,
        last: slot.last,
    })
}

/// Counters of a VRF, made when it is first seen.
fn vrf_stats(stats: &mut LocalReport, vrf: VrfId) -> &mut LocalVrfReport {
    let place = stats.vrfs.iter().position(|v| v.vrf == vrf.0).unwrap_or_else(|| {
        stats.vrfs.push(LocalVrfReport {
            vrf: vrf.0,
            ..LocalVrfReport::default()
        });
        stats.vrfs.len() - 1
    });
    &mut stats.vrfs[place]
}
