//! Our end of a lane: the client connection of one event thread to one peer's local node.
//!
//! Created at start, one per peer (and a control lane per peer on event thread 0); connects for ever, with a
//! growing pause. Each connection has an incarnation and knows nothing of the one before: when it is made, every
//! slot that flows in this direction is sent whole; when it is lost, workers are told to stop and nothing else
//! changes. What it takes in are answers only, so it never waits for a worker.

use core::net::IpAddr;
use std::collections::VecDeque;

use dataplane::delta::{Delta, LaneTag, Mark, SlotEnd, SlotOffer, SlotRef, Term, ToWorker, Version};
use dataplane::flow::VrfId;
use dataplane::role::Role;
use dataplane::shard::lane_of;
use dataplane::time::Instant;

use crate::board::PeerVrf;
use crate::cause::Cause;
use crate::compare_record::{Said, put_said};
use crate::config::{CONTROL_LANE, SyncConfig};
use crate::conn::Conn;
use crate::export::{Compared, Export, QUERIES, Task, WINDOW};
use crate::flow_record::{Continuity, put_delta};
use crate::frame::Step;
use crate::hello::{
    FEATURES, Hello, MAGIC_ANSWER, Preface, PrefaceError, VERSIONS, decode_answer, encode_hello,
};
use crate::peering::Peering;
use crate::port::{CompareAsk, CompareFound, CompareStep, End, Heard, PumpEvent};
use crate::record::{self, Message, RecordError, SlotFailure};
use crate::report::ClientReport;
use crate::role::outranks;
use crate::shared::Shared;
use crate::slot_record;
use crate::tally::Tallies;
use crate::wire::{Net, Wire};

/// Frames' worth of reading per turn.
const READS_MAX: usize = 4;
/// Slots looked at per turn.
const TASKS_MAX: usize = 128;

/// A lane with its present connection, if any.
#[derive(Debug)]
pub(crate) struct Lane<W> {
    tag: LaneTag,
    source: IpAddr,
    address: IpAddr,
    state: State<W>,
    /// Doublings of the pause before the next attempt.
    attempts: u32,
    /// By VRF; those not shared with the peer have no slots.
    exports: Vec<Export>,
    /// By VRF.
    drains: Vec<Drain>,
    todo: VecDeque<SlotRef>,
    reminded: Instant,
    report: ClientReport,
    /// Counts of earlier connections.
    past: Past,
}

/// How far the peer is with everything that stood in front of the last mark of a drain.
#[derive(Debug, Clone, Copy, Default)]
struct Drain {
    /// Of the drain; 0 before the first one.
    number: u32,
    /// Frame to be acknowledged; none when it was, or when its connection is over: the next one's slots are verified with
    /// it in them.
    frame: Option<u64>,
}

#[derive(Debug, Default)]
struct Past {
    frames: u64,
    records: u64,
    bytes: u64,
}

#[derive(Debug)]
enum State<W> {
    Down {
        until: Instant,
    },
    Greeting {
        conn: Box<Conn<W>>,
        answer: Preface,
        since: Instant,
    },
    Up {
        conn: Box<Conn<W>>,
        peering: Peering,
        node: u8,
        acked: u64,
    },
}

impl<W: Wire> Lane<W> {
    /// A lane to `peer`, not yet connected.
    pub(crate) fn new(config: &SyncConfig, peer: u8, number: u8, incarnation: u32) -> Self {
        let address = &config.peers[usize::from(peer)];
        let exports = (0u16..).zip(&config.vrfs).map(|(id, vrf)| {
            let slots = if vrf.has_peer(peer) && number != CONTROL_LANE {
                vrf.slots
            } else {
                0
            };
            let first = config.first_stream(VrfId(id));
            Export::new(VrfId(id), slots, first, |slot| {
                lane_of(slot, config.workers, config.events) == u16::from(number)
            })
        });
        let report = ClientReport {
            peer,
            lane: number,
            ..ClientReport::default()
        };
        Self {
            tag: LaneTag {
                peer,
                lane: number,
                incarnation,
            },
            source: address.source,
            address: address.address,
            state: State::Down {
                until: Instant::default(),
            },
            attempts: 0,
            exports: exports.collect(),
            drains: vec![Drain::default(); config.vrfs.len()],
            todo: VecDeque::new(),
            reminded: Instant::default(),
            report,
            past: Past::default(),
        }
    }

    /// Peer, lane number and incarnation.
    pub(crate) const fn tag(&self) -> LaneTag {
        self.tag
    }

    /// Whether the handshake is done.
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// The peer's node id, once the handshake is done.
    pub(crate) const fn node(&self) -> Option<u8> {
        if let State::Up { node, .. } = self.state {
            Some(node)
        } else {
            None
        }
    }

    /// What the peer has said about a VRF on this connection.
    pub(crate) fn peer_vrf(&self, vrf: VrfId) -> Option<PeerVrf> {
        if let State::Up { peering, .. } = &self.state {
            peering.known(vrf).map(|k| k.state)
        } else {
            None
        }
    }

    /// Slots of a VRF that the peer has verified.
    pub(crate) fn exported(&self, vrf: VrfId) -> u32 {
        self.exports.get(vrf.index()).map_or(0, Export::verified)
    }

    /// Everything that the workers kept back of a VRF was put in by now.
    pub(crate) fn mark_drained(&mut self, vrf: VrfId, number: u32) {
        let frame = match &mut self.state {
            State::Up { conn, .. } => conn.last_frame(),
            _ => None,
        };
        if let Some(drain) = self.drains.get_mut(vrf.index()) {
            *drain = Drain { number, frame };
        }
    }

    /// The last drain of a VRF that the peer has acknowledged everything of.
    pub(crate) fn drained(&self, vrf: VrfId) -> u32 {
        let drain = self.drains.get(vrf.index()).filter(|d| d.frame.is_none());
        drain.map_or(0, |d| d.number)
    }

    /// Whether records for this lane should wait in the workers' rings.
    pub(crate) fn is_full(&self) -> bool {
        if let State::Up { conn, .. } = &self.state {
            conn.out.is_full() || conn.credit() == 0
        } else {
            false
        }
    }

    /// Whether records of walks for this lane should wait in the workers' rings.
    pub(crate) fn holds_walks(&self) -> bool {
        matches!(&self.state, State::Up { conn, .. } if conn.holds_walks())
    }

    /// First half of a turn: connect, read answers, follow the direction, ask workers for slots.
    pub(crate) fn turn(&mut self, s: &mut Shared, net: &mut impl Net<Wire = W>) -> usize {
        let result = match &self.state {
            State::Down { until } if *until <= s.now => self.connect(s, net),
            State::Down { .. } => Ok(0),
            State::Greeting { .. } => self.greet(s),
            State::Up { .. } => self.receive(s),
        };
        let work = result.unwrap_or_else(|cause| self.down(s, cause));
        if self.is_up() {
            self.direct(s);
        }
        work + self.ask(s)
    }

    /// Second half of a turn: send. `idle` means that workers have nothing more to say for now.
    pub(crate) fn finish(&mut self, s: &mut Shared, shared: bool, idle: bool) {
        let State::Up { conn, .. } = &mut self.state else {
            return;
        };
        if let Err(cause) = conn.finish(s.now, &s.config.timing, shared, idle) {
            self.down(s, cause);
        }
    }

    fn connect(&mut self, s: &mut Shared, net: &mut impl Net<Wire = W>) -> Result<usize, Cause> {
        self.tag.incarnation = self.tag.incarnation.wrapping_add(1).max(1);
        let hello = Hello {
            versions: VERSIONS,
            features: FEATURES,
            node_id: s.config.node_id,
            lane: self.tag.lane,
            lanes: u8::try_from(s.config.events).unwrap_or(u8::MAX),
            incarnation: self.tag.incarnation,
            boot_id: s.config.boot_id,
            node_name: s.config.node_name.clone(),
        };
        let wire = net
            .connect(self.source, self.address)
            .ok_or(Cause::ConnectFailed)?;
        let conn = Box::new(Conn::new(wire, &encode_hello(&hello), true, s.now));
        self.state = State::Greeting {
            conn,
            answer: Preface::new(MAGIC_ANSWER),
            since: s.now,
        };
        Ok(1)
    }

    fn greet(&mut self, s: &mut Shared) -> Result<usize, Cause> {
        let State::Greeting { conn, answer, since } = &mut self.state else {
            return Ok(0);
        };
        conn.flush(s.now)
            .map_err(|_| conn.wire.breach().map_or(Cause::ConnectFailed, Cause::from))?;
        let Some(body) = answer.poll(&mut conn.wire)? else {
            return if s.now.since(*since) >= s.config.timing.hello {
                Err(Cause::HelloTimeout)
            } else {
                Ok(0)
            };
        };
        let answer = decode_answer(body).map_err(|_| Cause::HelloMalformed)?;
        if answer.status != 0 || !(VERSIONS.0..=VERSIONS.1).contains(&answer.version) {
            return Err(Cause::RejectedByPeer);
        }
        if answer.node_id == s.config.node_id {
            return Err(Cause::NodeIdRejected);
        }
        let State::Greeting { mut conn, .. } =
            core::mem::replace(&mut self.state, State::Down { until: s.now })
        else {
            return Ok(0);
        };
        conn.wake(s.now);
        let mut peering = Peering::new(self.tag.peer, &s.config);
        peering.open_all(&mut conn, &s.config, &s.own, s.now);
        self.state = State::Up {
            conn,
            peering,
            node: answer.node_id,
            acked: 0,
        };
        self.attempts = 0;
        s.changed = true;
        s.tell(PumpEvent::LaneUp {
            peer: self.tag.peer,
            lane: self.tag.lane,
            end: End::Client,
        });
        Ok(1)
    }

    fn receive(&mut self, s: &mut Shared) -> Result<usize, Cause> {
        let mut work = 0;
        for _ in 0..READS_MAX {
            let State::Up { conn, .. } = &mut self.state else {
                break;
            };
            if conn.pauses(s) {
                break;
            }
            if conn.fill(s.now)?.is_none() {
                break;
            }
            work += self.read(s)?;
        }
        Ok(work)
    }

    /// Handles every record that is there.
    fn read(&mut self, s: &mut Shared) -> Result<usize, Cause> {
        let mut work = 0;
        loop {
            let State::Up { conn, peering, .. } = &mut self.state else {
                return Ok(work);
            };
            let (kind, message) = match conn.inbox.step()? {
                // Answers only come here: no slot is begun in this direction.
                Step::Record(kind, body) => (
                    kind,
                    record::decode(kind, body, |vrf| peering.resolve(vrf), |_| None),
                ),
                Step::End(_) => {
                    conn.word();
                    continue;
                }
                Step::Need => return Ok(work),
            };
            conn.inbox.advance();
            work += 1;
            if message.is_err() || kind < record::kind::ACK {
                conn.word();
            }
            match message {
                Ok(message) => self.handle(s, message)?,
                Err(RecordError::UnknownType) => s.count(Cause::RecordUnknownType),
                Err(RecordError::UnknownVrf) => s.count(Cause::RecordUnknownVrf),
                Err(RecordError::NotOpen) => s.count(Cause::RecordMisplaced),
                Err(RecordError::Malformed(_)) => s.count(Cause::RecordMalformed),
            }
        }
    }

    fn handle(&mut self, s: &mut Shared, message: Message) -> Result<(), Cause> {
        let State::Up {
            conn, peering, acked, ..
        } = &mut self.state
        else {
            return Ok(());
        };
        match message {
            Message::Ack { sequence } => {
                if let Some(done) = conn.acknowledge(sequence, s.now)? {
                    self.report.frames_acked = self.past.frames + done.sequence;
                    self.report.records_acked += done.records - *acked;
                    *acked = done.records;
                }
                for drain in self.drains.iter_mut().filter(|d| d.frame.is_some()) {
                    drain.frame = drain.frame.filter(|frame| *frame > sequence);
                    s.changed |= drain.frame.is_none();
                }
            }
            Message::Credit { records } => conn.grant(records),
            Message::VrfOpen(open) => {
                s.changed = true;
                if let Some(opened) = peering.opened(&open, &s.config)?
                    && self.tag.lane == 0
                {
                    s.tell(PumpEvent::VrfOpened {
                        peer: self.tag.peer,
                        vrf: opened.vrf,
                        role: open.role,
                        term: open.term,
                        slots: open.slots,
                        differences: opened.differences,
                    });
                }
            }
            Message::VrfState(state) => {
                s.changed = true;
                if let Err(cause) = peering.changed(&state) {
                    s.count(cause);
                }
            }
            Message::VrfHandover { handle, handover } => {
                if let Err(cause) = peering.handed(handle, handover) {
                    s.count(cause);
                }
                s.changed = true;
            }
            Message::SlotVerified {
                at,
                generation,
                refused,
            } => self.verified(s, at, generation, refused),
            Message::SlotFailed { at, generation, why } if why == SlotFailure::Requested as u8 => {
                let export = &mut self.exports[at.vrf.index()];
                export.requested(at.slot, generation, s.now, &mut self.todo);
                s.changed = true;
            }
            Message::SlotFailed { at, generation, why } => {
                let whole = why != SlotFailure::NotAccepting as u8;
                let export = &mut self.exports[at.vrf.index()];
                export.failed(
                    at.slot,
                    generation,
                    whole,
                    s.now,
                    &s.config.timing,
                    &mut self.todo,
                );
                s.changed = true;
            }
            Message::SlotOffer { at, offer } => self.offered(s, at, offer),
            Message::SlotCommitted { at, counter, applied } => {
                let lane = self.tag;
                let told = s.rings.push(
                    at.slot,
                    ToWorker::Committed {
                        at,
                        lane,
                        counter,
                        applied,
                    },
                );
                // The packet waits until its time is over.
                if !told {
                    s.count(Cause::CommitUntold);
                }
            }
            Message::SlotAsk {
                at,
                generation,
                wanted,
            } => {
                let lane = self.tag;
                // Without room in the ring it is not answered; the peer asks again.
                if self.exports[at.vrf.index()].has_verified(at.slot, generation) {
                    s.rings.push(at.slot, ToWorker::GiveEntry { at, lane, wanted });
                }
            }
            Message::Comparison { at, round, said } => match said {
                Said::Marked(marked) => s.compared(at, round, CompareFound::Marked(marked)),
                Said::Listed(listed) => s.compared(at, round, CompareFound::Listed(listed)),
                Said::Mark(_) | Said::List(_) => s.count(Cause::RecordMisplaced),
            },
            Message::Tail { at, put } => {
                if !self.exports[at.vrf.index()].is_streaming() {
                    s.count(Cause::RecordMisplaced);
                } else if !s.rings.push(at.slot, ToWorker::SlotTail { at, put }) {
                    s.count(Cause::TailDropped);
                }
            }
            Message::Heartbeat => {}
            Message::Bye => return Err(Cause::Closed),
            Message::SlotBegin { .. }
            | Message::SlotEnd { .. }
            | Message::SlotQuery { .. }
            | Message::SlotCommit { .. }
            | Message::SlotDigest { .. }
            | Message::SlotVersion { .. }
            | Message::Delta { .. } => {
                s.count(Cause::RecordMisplaced);
            }
        }
        Ok(())
    }

    fn verified(&mut self, s: &mut Shared, at: SlotRef, generation: u32, refused: u32) {
        let export = &mut self.exports[at.vrf.index()];
        let complete = export.confirmed(at.slot, generation, refused, s.now);
        s.changed = true;
        if export.repaired(at.slot) {
            s.tell(PumpEvent::Diverged {
                peer: self.tag.peer,
                at,
                repaired: true,
            });
        }
        if complete {
            s.tell(PumpEvent::Exported {
                peer: self.tag.peer,
                vrf: at.vrf,
                lane: self.tag.lane,
                slots: export.verified(),
                records: export.report.resync_records,
                took_ms: export.report.resync_ms,
            });
        }
    }

    /// The peer has said what it holds: answer to a question, or to a digest.
    fn offered(&mut self, s: &mut Shared, at: SlotRef, offer: SlotOffer) {
        s.hear(at.vrf, offer.version.term);
        let export = &mut self.exports[at.vrf.index()];
        if export.offered(at.slot, offer, s.now, &mut self.todo) {
            return;
        }
        let compared = export.compared(at.slot, offer, s.now, &s.config.timing, &mut self.todo);
        if compared == Compared::Differs {
            s.changed = true;
            s.tell(PumpEvent::Diverged {
                peer: self.tag.peer,
                at,
                repaired: false,
            });
        }
    }

    /// Tells the peer what this node has become, and starts or stops streams.
    fn direct(&mut self, s: &mut Shared) {
        let State::Up { conn, peering, .. } = &mut self.state else {
            return;
        };
        peering.announce(conn, &s.own, s.now);
        let mut begun = Vec::new();
        for (id, (export, own)) in (0u16..).zip(self.exports.iter_mut().zip(&s.own)) {
            let known = peering.known(VrfId(id));
            let flows = known.is_some_and(|known| {
                known.slots > 0
                    && own.role != Role::Alone
                    && own.term != Term::NONE
                    && outranks(own.term, s.config.node_id, known.state.term)
            });
            if flows && !export.is_streaming() && export.report.slots_total > 0 {
                export.start("connected", s.now, &mut self.todo);
                begun.push((VrfId(id), export.report.slots_total));
            } else if !flows && export.is_streaming() {
                export.stop(self.tag.incarnation, &mut self.todo);
                s.changed = true;
            }
        }
        for (vrf, slots) in begun {
            s.tell(PumpEvent::Resyncing {
                peer: self.tag.peer,
                vrf,
                lane: self.tag.lane,
                slots,
            });
        }
        if s.now.since(self.reminded).as_secs() >= 1 {
            self.reminded = s.now;
            for export in self.exports.iter_mut().filter(|e| e.is_streaming()) {
                export.remind(s.now, &s.config.timing, &mut self.todo);
            }
        }
    }

    /// Tells workers to stop and to send, as their rings and the window allow.
    fn ask(&mut self, s: &mut Shared) -> usize {
        let mut under_way: usize = self.exports.iter().map(|e| e.under_way).sum();
        let mut credit = match &self.state {
            State::Up { conn, .. } => conn.credit(),
            _ => 0,
        };
        let mut queried: usize = self.exports.iter().map(|e| e.queried).sum();
        let mut work = 0;
        for _ in 0..self.todo.len().min(TASKS_MAX) {
            let Some(at) = self.todo.pop_front() else { break };
            let export = &mut self.exports[at.vrf.index()];
            let keep = match export.task(at.slot, s.now) {
                Task::Nothing => {
                    export.dismissed(at.slot);
                    false
                }
                Task::Later => true,
                Task::Stop(incarnation) => {
                    let lane = LaneTag {
                        incarnation,
                        ..self.tag
                    };
                    if s.rings.push(at.slot, ToWorker::StopSlot { at, lane }) {
                        work += 1;
                        export.stopped(at.slot)
                    } else {
                        true
                    }
                }
                Task::Query if queried >= QUERIES || credit == 0 => true,
                Task::Query => {
                    if let State::Up { conn, .. } = &mut self.state {
                        let generation = s.next_generation();
                        conn.put(s.now, |out| slot_record::put_slot_query(out, at, generation));
                        export.asked_peer(at.slot, generation, s.now);
                        queried += 1;
                        credit -= 1;
                        work += 1;
                    }
                    false
                }
                Task::Send(_) if under_way >= WINDOW => true,
                Task::Send(offer) => {
                    let generation = s.next_generation();
                    let item = ToWorker::SendSlot {
                        at,
                        lane: self.tag,
                        generation,
                        offer,
                    };
                    let told = s.rings.push(at.slot, item);
                    if told {
                        export.asked(at.slot, generation);
                        under_way += 1;
                        work += 1;
                    }
                    !told
                }
            };
            if keep {
                self.todo.push_back(at);
            }
        }
        work
    }

    /// An operator or a worker wants a slot sent again.
    /// True when it is streamed here.
    pub(crate) fn again(&mut self, at: SlotRef, reason: &str, now: Instant) -> bool {
        self.exports
            .get_mut(at.vrf.index())
            .is_some_and(|export| export.again(at.slot, reason, now, &mut self.todo))
    }

    /// A worker's slot begins. False when it belongs to no present generation.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        at: SlotRef,
        generation: u32,
        version: Version,
        since: Option<Version>,
    ) -> bool {
        let State::Up { conn, .. } = &mut self.state else {
            return false;
        };
        let Some(stream) = self.exports[at.vrf.index()].begun(at.slot, generation, version, since) else {
            return false;
        };
        conn.put(now, |out| {
            slot_record::put_slot_begin(out, &stream, generation, since);
        });
        true
    }

    /// A worker's slot ends. False when it belongs to no present generation.
    pub(crate) fn end(&mut self, now: Instant, at: SlotRef, end: &SlotEnd) -> bool {
        let State::Up { conn, .. } = &mut self.state else {
            return false;
        };
        let ended = self.exports[at.vrf.index()].ended(at.slot, end.generation, now);
        if ended {
            conn.put(now, |out| slot_record::put_slot_end(out, at, end));
        }
        ended
    }

    /// A packet waits for the record in front. False when the slot isn't open on this connection.
    pub(crate) fn commit(&mut self, now: Instant, at: SlotRef, counter: u64) -> bool {
        let State::Up { conn, .. } = &mut self.state else {
            return false;
        };
        let open = self.exports[at.vrf.index()].stream(at.slot).is_some();
        if open {
            conn.put_aside(now, |out| slot_record::put_slot_commit(out, at, counter));
            conn.hurry();
        }
        open
    }

    /// A worker's digest of a slot. False when the peer hasn't verified the slot: nothing can be compared then.
    pub(crate) fn digest(&mut self, now: Instant, at: SlotRef, end: &SlotEnd) -> bool {
        let State::Up { conn, .. } = &mut self.state else {
            return false;
        };
        let Some(end) = self.exports[at.vrf.index()].digest(at.slot, end) else {
            return false;
        };
        conn.put_aside(now, |out| slot_record::put_slot_digest(out, at, &end));
        true
    }

    /// A step of a comparison: a mark is the worker's to set, a list the peer's to give.
    pub(crate) fn compare(&mut self, s: &mut Shared, ask: &CompareAsk) {
        let (at, round) = (ask.at, ask.round);
        let verified = self
            .exports
            .get(at.vrf.index())
            .is_some_and(|e| e.is_verified(at.slot));
        let lane = self.tag;
        let State::Up { conn, .. } = &mut self.state else {
            return s.compared(at, round, CompareFound::Unavailable("the lane is down"));
        };
        if !verified {
            let why = "the slot is not verified";
            return s.compared(at, round, CompareFound::Unavailable(why));
        }
        match ask.step {
            CompareStep::Mark => {
                if !s.rings.push(at.slot, ToWorker::MarkSlot { at, lane, round }) {
                    s.compared(at, round, CompareFound::Unavailable("the worker is busy"));
                }
            }
            CompareStep::List(entries) => conn.put_aside(s.now, |out| {
                put_said(out, at, round, &Said::List(entries));
            }),
        }
    }

    /// A worker's mark. False when the peer hasn't verified the slot: nothing can be compared then.
    pub(crate) fn mark(&mut self, s: &Shared, at: SlotRef, mark: &Mark) -> bool {
        let State::Up { conn, .. } = &mut self.state else {
            return false;
        };
        let verified = self.exports[at.vrf.index()].is_verified(at.slot);
        if verified {
            s.compared(at, mark.round, CompareFound::Set(*mark));
            conn.put_aside(s.now, |out| put_said(out, at, mark.round, &Said::Mark(*mark)));
        }
        verified
    }

    /// A worker's record, live or of a walk. False when the slot isn't open on this connection.
    pub(crate) fn record(&mut self, s: &mut Shared, at: SlotRef, delta: &Delta, walk: bool) -> bool {
        let State::Up { conn, .. } = &mut self.state else {
            return false;
        };
        let export = &mut self.exports[at.vrf.index()];
        let Some(mut stream) = export.stream(at.slot) else {
            return false;
        };
        let mut continuity = Continuity::Kept;
        let bytes = conn.put(s.now, |out| continuity = put_delta(out, &mut stream, delta, walk));
        export.streamed(at.slot, stream.last);
        export.report.transmit += 1;
        if walk {
            export.walked(at.slot);
        }
        if export.is_resyncing() {
            export.report.resync_records += 1;
            export.report.resync_bytes += bytes as u64;
        }
        if continuity == Continuity::Gap {
            s.count(Cause::StreamGap);
            export.again(at.slot, "gap", s.now, &mut self.todo);
        }
        true
    }

    /// Says good-bye before the process ends.
    pub(crate) fn farewell(&mut self, s: &mut Shared) {
        if let State::Up { conn, .. } = &mut self.state {
            conn.put(s.now, record::put_bye);
            // The peer notices the closed connection too; failing to say so first changes nothing.
            let _ = conn.finish(s.now, &s.config.timing, false, true);
            self.down(s, Cause::Closed);
        }
    }

    /// The connection is over, or could not be made.
    fn down(&mut self, s: &mut Shared, cause: Cause) -> usize {
        s.count(cause);
        let pause = s.config.timing.reconnect_min * (1 << self.attempts.min(16));
        let pause = pause.min(s.config.timing.reconnect_max);
        // Jitter of up to half: lanes that died together must not come back together.
        let pause = pause / 2 + pause / 2 * (s.random() & 0xff) / 255;
        self.attempts += 1;
        let old = core::mem::replace(&mut self.state, State::Down { until: s.now + pause });
        self.report.last_down = Some(cause.name().to_owned());
        if let State::Up { conn, acked, .. } = old {
            conn.tally(&mut s.past);
            self.report.reconnects += 1;
            self.report.records_abandoned += conn.out.records() - acked;
            self.past.frames += conn.out.sequence();
            self.past.records += conn.out.records();
            self.past.bytes += conn.out.bytes_sent();
            for export in self.exports.iter_mut().filter(|e| e.is_streaming()) {
                export.stop(self.tag.incarnation, &mut self.todo);
            }
            self.drains.iter_mut().for_each(|drain| drain.frame = None);
            s.changed = true;
            let (peer, lane, reason) = (self.tag.peer, self.tag.lane, cause.name());
            s.tell(PumpEvent::LaneDown {
                peer,
                lane,
                end: End::Client,
                reason,
            });
        }
        1
    }

    /// What the peer has last said of a VRF's slots.
    pub(crate) fn heard(&self, vrf: VrfId) -> impl Iterator<Item = Heard> + '_ {
        self.exports.get(vrf.index()).into_iter().flat_map(Export::heard)
    }

    /// Adds what has gone over the present connection.
    pub(crate) fn tally(&self, to: &mut Tallies) {
        if let State::Up { conn, .. } = &self.state {
            conn.tally(to);
        }
    }

    /// Counters as of now.
    pub(crate) fn report(&self, now: Instant) -> ClientReport {
        let mut report = self.report.clone();
        report.incarnation = self.tag.incarnation;
        report.frames_sent = self.past.frames;
        report.records_sent = self.past.records;
        report.bytes_sent = self.past.bytes;
        report.status = match &self.state {
            State::Down { .. } => "down",
            State::Greeting { conn, .. } if conn.out.queued() > 0 => "connecting",
            State::Greeting { .. } => "handshake",
            State::Up { .. } => "established",
        }
        .to_owned();
        if let State::Up { conn, acked, .. } = &self.state {
            report.frames_sent += conn.out.sequence();
            report.records_sent += conn.out.records();
            report.bytes_sent += conn.out.bytes_sent();
            report.bytes_queued = conn.out.queued() as u64;
            report.lag_records = conn.out.records() - acked;
            report.lag_ms = conn.lag_ms(now);
            report.credit = conn.credit();
        }
        let shared = self.exports.iter().filter(|e| e.report.slots_total > 0);
        report.vrfs = shared
            .map(|export| {
                let mut vrf = export.report.clone();
                vrf.streaming = export.is_streaming();
                vrf.slots_verified = export.verified();
                vrf.slots_dirty = export.dirty();
                vrf.resync_ms = export.resync_ms(now);
                vrf
            })
            .collect();
        report
    }
}

impl From<PrefaceError> for Cause {
    fn from(error: PrefaceError) -> Self {
        match error {
            PrefaceError::Magic => Self::WrongMagic,
            PrefaceError::Oversized | PrefaceError::Check => Self::HelloMalformed,
            PrefaceError::Gone(breach) => breach.map_or(Self::HelloGone, Self::from),
        }
    }
}
