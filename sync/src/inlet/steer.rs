//! What the peer says, on its way to the workers that own the slots here.
//!
//! Records of slots go into the worker's ring; when it is full, the same record is tried again next turn, and nothing
//! behind it is read before. What the peer says about itself stays here.

use dataplane::delta::{Delta, SlotRef, ToWorker, Version};
use dataplane::redirect::Redirect;

use super::{Inlet, LIST_MAX, expect, vrf_stats};
use crate::cause::Cause;
use crate::compare_record::Said;
use crate::config::CONTROL_LANE;
use crate::flow_record::Stream;
use crate::frame::Step;
use crate::handover::Handover;
use crate::record::{self, Message, RecordError, SlotFailure, VrfOpen, VrfState, kind};
use crate::redirect::get_redirect;
use crate::report::LocalReport;
use crate::resync::Sent;
use crate::shared::Shared;
use crate::wire::Wire;

/// How handling a record ended.
enum Outcome {
    Done,
    /// It was for no worker: a peer may say only so many of these.
    Useless,
    /// The worker's ring is full: the same record again next turn.
    Full,
}

impl<W: Wire> Inlet<W> {
    /// Handles what has been received, until bytes are missing or a ring is full.
    pub(super) fn read(&mut self, s: &mut Shared, stats: &mut LocalReport) -> Result<(usize, bool), Cause> {
        let mut work = 0;
        loop {
            let (peering, imports) = (&self.peering, &self.imports);
            let outcome = match self.conn.inbox.step()? {
                Step::Record(kind::REDIRECT, body) if self.tag.lane != CONTROL_LANE => {
                    match get_redirect(body, |vrf| peering.resolve(vrf)) {
                        Ok((redirect, packet)) => redirected(s, self.tag.peer, &redirect, packet),
                        Err(error) => self.refuse(s, stats, error),
                    }
                }
                Step::Record(kind, body) => {
                    match record::decode(kind, body, |vrf| peering.resolve(vrf), |n| imports.stream(n)) {
                        Ok(message) => self.handle(s, stats, message)?,
                        Err(error) => self.refuse(s, stats, error),
                    }
                }
                Step::End(sequence) => {
                    stats.frames += 1;
                    self.conn.word();
                    self.checkpoints.set(sequence, s.rings.pushed());
                    continue;
                }
                Step::Need => return Ok((work, false)),
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
        Ok(match message {
            Message::SlotBegin {
                at,
                stream,
                generation,
                version,
                since,
            } => {
                let stream = Stream {
                    number: stream,
                    at,
                    last: version,
                };
                self.begin(s, stats, &stream, generation, since)
            }
            Message::SlotVersion { at, version } => {
                self.imports.streamed(at, version);
                Outcome::Done
            }
            Message::Delta { at, live, delta } => self.delta(s, stats, at, live, delta),
            Message::SlotEnd { at, end } => {
                let outcome = self.hand_of(s, at, end.generation, ToWorker::SlotEnd { at, lane, end });
                if matches!(outcome, Outcome::Done) {
                    self.imports.ended(at);
                }
                outcome
            }
            Message::SlotQuery { at, generation } => self.query(s, stats, at, generation),
            Message::SlotCommit { at, counter } => self.commit(s, at, counter),
            Message::SlotDigest { at, end } => {
                self.hand_of(s, at, end.generation, ToWorker::SlotDigest { at, lane, end })
            }
            Message::Comparison { at, round, said } => self.compare(s, at, round, &said),
            Message::VrfOpen(open) => self.opened(s, stats, &open)?,
            Message::VrfState(state) => self.changed(s, stats, &state),
            Message::VrfHandover { handle, handover } => self.handed(s, handle, handover),
            Message::Fence(fence) if lane.lane != CONTROL_LANE => {
                s.arriving.receive_fence(lane.peer, &fence);
                Outcome::Useless
            }
            Message::Heartbeat => Outcome::Useless,
            Message::Bye => return Err(Cause::Closed),
            Message::Redirect { .. }
            | Message::Fence(_)
            | Message::Ack { .. }
            | Message::Credit { .. }
            | Message::SlotVerified { .. }
            | Message::SlotFailed { .. }
            | Message::Tail { .. }
            | Message::SlotAsk { .. }
            | Message::SlotOffer { .. }
            | Message::SlotCommitted { .. } => {
                s.count(Cause::RecordMisplaced);
                Outcome::Useless
            }
        })
    }

    /// A slot begins: its records may follow.
    fn begin(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        stream: &Stream,
        generation: u32,
        since: Option<Version>,
    ) -> Outcome {
        let at = stream.at;
        if !self.imports.accepts(at) || generation == 0 {
            return self.decline(s, at, generation);
        }
        let item = ToWorker::SlotBegin {
            at,
            lane: self.tag,
            generation,
            version: stream.last,
            since,
        };
        if !s.rings.push(at, item) {
            return Outcome::Full;
        }
        // Unasked: the peer knows of something that this node doesn't.
        let why = if self.imports.generation(at) == 0 {
            "connected"
        } else {
            "begun by the peer"
        };
        let walk = Sent::begun(since.is_none());
        if self.imports.open(stream, generation, walk) {
            expect(vrf_stats(stats, at.vrf), why, s.now);
        }
        s.changed = true;
        Outcome::Done
    }

    /// A record of an entry, live or of a walk.
    #[inline]
    fn delta(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        live: bool,
        delta: Delta,
    ) -> Outcome {
        if self.imports.generation(at) == 0 {
            s.count(Cause::RecordNotOpen);
            vrf_stats(stats, at.vrf).receive_error += 1;
            return Outcome::Useless;
        }
        let lane = self.tag;
        if !s.rings.push(at, ToWorker::Record { at, lane, delta }) {
            return Outcome::Full;
        }
        if live && let Some(version) = delta.version() {
            self.imports.streamed(at, version);
        }
        if !live {
            self.imports.walked(at);
        }
        let stats = vrf_stats(stats, at.vrf);
        stats.receive += 1;
        stats.resync.record(self.conn.inbox.shown());
        Outcome::Done
    }

    /// Something about the open generation of a slot.
    fn hand_of(&self, s: &mut Shared, at: SlotRef, generation: u32, item: ToWorker) -> Outcome {
        if generation == 0 || self.imports.generation(at) != generation {
            s.count(Cause::RecordNotOpen);
            return Outcome::Useless;
        }
        hand(s, at, item)
    }

    /// The peer asks what is held of a slot before it sends it.
    fn query(&mut self, s: &mut Shared, stats: &mut LocalReport, at: SlotRef, generation: u32) -> Outcome {
        if !self.imports.accepts(at) {
            return self.decline(s, at, generation);
        }
        let lane = self.tag;
        let outcome = hand(s, at, ToWorker::SlotQuery { at, lane, generation });
        if matches!(outcome, Outcome::Done) && self.imports.want(at) {
            s.changed = true;
            expect(vrf_stats(stats, at.vrf), "connected", s.now);
        }
        outcome
    }

    fn decline(&mut self, s: &mut Shared, at: SlotRef, generation: u32) -> Outcome {
        s.count(Cause::SlotNotAccepted);
        self.fail(s, at, generation, SlotFailure::NotAccepting);
        Outcome::Useless
    }

    /// The peer holds a packet until it hears what has become of its record.
    fn commit(&mut self, s: &mut Shared, at: SlotRef, counter: u64) -> Outcome {
        if self.imports.generation(at) == 0 {
            s.count(Cause::RecordNotOpen);
            self.slot_committed(s, at, counter, false);
            return Outcome::Useless;
        }
        let lane = self.tag;
        hand(s, at, ToWorker::Commit { at, lane, counter })
    }

    /// The peer compares a slot: at a mark in its stream, or what was held there.
    fn compare(&mut self, s: &mut Shared, at: SlotRef, round: u32, said: &Said) -> Outcome {
        let lane = self.tag;
        if self.imports.generation(at) == 0 {
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
        hand(s, at, item)
    }

    fn opened(&mut self, s: &mut Shared, stats: &mut LocalReport, open: &VrfOpen) -> Result<Outcome, Cause> {
        let opened = self.peering.opened(open, &s.config)?;
        s.changed = true;
        if let Some(opened) = opened {
            self.direct(s, stats, opened.vrf);
        }
        Ok(Outcome::Useless)
    }

    fn changed(&mut self, s: &mut Shared, stats: &mut LocalReport, state: &VrfState) -> Outcome {
        match self.peering.changed(state) {
            Ok(vrf) => self.direct(s, stats, vrf),
            Err(cause) => s.count(cause),
        }
        s.changed = true;
        Outcome::Useless
    }

    fn handed(&mut self, s: &mut Shared, handle: u16, handover: Handover) -> Outcome {
        if let Err(cause) = self.peering.handed(handle, handover) {
            s.count(cause);
        }
        s.changed = true;
        Outcome::Useless
    }

    /// A record that could not be read. When its slot could, the slot is asked for again: what the record said
    /// is then sent in another way, or at least not silently missing.
    fn refuse(&mut self, s: &mut Shared, stats: &mut LocalReport, error: RecordError) -> Outcome {
        match error {
            RecordError::UnknownType => s.count(Cause::RecordUnknownType),
            RecordError::UnknownVrf => s.count(Cause::RecordUnknownVrf),
            RecordError::NotOpen => s.count(Cause::RecordNotOpen),
            RecordError::Malformed(at) => {
                s.count(Cause::RecordMalformed);
                let Some(at) = at else {
                    return Outcome::Useless;
                };
                let stats = vrf_stats(stats, at.vrf);
                stats.receive_error += 1;
                let generation = self.imports.generation(at);
                if generation != 0 {
                    if self.imports.close(at) {
                        expect(stats, "malformed record", s.now);
                    }
                    self.fail(s, at, generation, SlotFailure::Malformed);
                }
            }
        }
        Outcome::Useless
    }
}

/// A packet that came to the peer. Without room for it, it is dropped: what waits behind it is worth more.
fn redirected(s: &mut Shared, peer: u8, redirect: &Redirect, packet: &[u8]) -> Outcome {
    if s.arriving.receive(peer, redirect, packet.into()) {
        Outcome::Done
    } else {
        Outcome::Useless
    }
}

fn hand(s: &mut Shared, at: SlotRef, item: ToWorker) -> Outcome {
    if s.rings.push(at, item) {
        Outcome::Done
    } else {
        Outcome::Full
    }
}
