//! What the peer says to a lane: acknowledgements, what it holds of slots, what it has become.
//!
//! Answers only, and nothing a worker would have to be waited for: a worker whose ring is full is not told, and whoever
//! asked asks again.

use dataplane::delta::{PutRecord, SlotOffer, SlotRef, ToWorker, Wanted};

use super::{Lane, State};
use crate::cause::Cause;
use crate::compare_record::Said;
use crate::export::Compared;
use crate::frame::Step;
use crate::handover::Handover;
use crate::peering::Opened;
use crate::port::{CompareFound, PumpEvent};
use crate::record::{self, Message, RecordError, SlotFailure, VrfOpen, VrfState};
use crate::shared::Shared;
use crate::wire::Wire;

/// Frames' worth of reading per turn.
const READS_MAX: usize = 4;

impl<W: Wire> Lane<W> {
    /// Reads what is there, and handles it.
    pub(super) fn receive(&mut self, s: &mut Shared) -> Result<usize, Cause> {
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
                Err(error) => s.count(cause(error)),
            }
        }
    }

    fn handle(&mut self, s: &mut Shared, message: Message) -> Result<(), Cause> {
        match message {
            Message::Ack { sequence } => self.acknowledged(s, sequence)?,
            Message::Credit { records } => self.granted(records),
            Message::VrfOpen(open) => self.opened(s, &open)?,
            Message::VrfState(state) => self.changed(s, &state),
            Message::VrfHandover { handle, handover } => self.handed(s, handle, handover),
            Message::SlotVerified {
                at,
                generation,
                refused,
            } => self.verified(s, at, generation, refused),
            Message::SlotFailed { at, generation, why } => self.failed(s, at, generation, why),
            Message::SlotOffer { at, offer } => self.offered(s, at, offer),
            Message::SlotCommitted { at, counter, applied } => self.committed(s, at, counter, applied),
            Message::SlotAsk {
                at,
                generation,
                wanted,
            } => self.asked(s, at, generation, wanted),
            Message::Comparison { at, round, said } => compared(s, at, round, said),
            Message::Tail { at, put } => self.tail(s, at, put),
            Message::Heartbeat => {}
            Message::Bye => return Err(Cause::Closed),
            Message::SlotBegin { .. }
            | Message::SlotEnd { .. }
            | Message::SlotQuery { .. }
            | Message::SlotCommit { .. }
            | Message::SlotDigest { .. }
            | Message::SlotVersion { .. }
            | Message::Redirect { .. }
            | Message::Fence(_)
            | Message::Delta { .. } => s.count(Cause::RecordMisplaced),
        }
        Ok(())
    }

    /// Everything up to this frame is applied at the peer.
    fn acknowledged(&mut self, s: &mut Shared, sequence: u64) -> Result<(), Cause> {
        let State::Up { conn, acked, .. } = &mut self.state else {
            return Ok(());
        };
        if let Some(done) = conn.acknowledge(sequence, s.now)? {
            self.report.frames_acked = self.past.frames + done.sequence;
            self.report.records_acked += done.records - *acked;
            *acked = done.records;
        }
        s.changed |= self.drains.acknowledged(sequence);
        Ok(())
    }

    fn granted(&mut self, records: u32) {
        if let State::Up { conn, .. } = &mut self.state {
            conn.grant(records);
        }
    }

    fn opened(&mut self, s: &mut Shared, open: &VrfOpen) -> Result<(), Cause> {
        let State::Up { peering, .. } = &mut self.state else {
            return Ok(());
        };
        s.changed = true;
        if let Some(opened) = peering.opened(open, &s.config)? {
            self.tell_opened(s, opened);
        }
        Ok(())
    }

    /// What differs from the peer is the same on all its lanes.
    pub(super) fn tell_opened(&self, s: &mut Shared, opened: Opened) {
        s.changed = true;
        if self.tag.lane == 0 {
            s.tell(PumpEvent::VrfOpened {
                peer: self.tag.peer,
                vrf: opened.vrf,
                differences: opened.differences,
            });
        }
    }

    fn changed(&mut self, s: &mut Shared, state: &VrfState) {
        let State::Up { peering, .. } = &mut self.state else {
            return;
        };
        s.changed = true;
        if let Err(cause) = peering.changed(state) {
            s.count(cause);
        }
    }

    fn handed(&mut self, s: &mut Shared, handle: u16, handover: Handover) {
        let State::Up { peering, .. } = &mut self.state else {
            return;
        };
        s.changed = true;
        if let Err(cause) = peering.handed(handle, handover) {
            s.count(cause);
        }
    }

    /// The peer holds what this node held at the slot's end.
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
                records: export.report.resync.records,
                took_ms: export.report.resync.took_ms,
            });
        }
    }

    /// The peer could not verify the slot, does not accept it, or wants it again.
    fn failed(&mut self, s: &mut Shared, at: SlotRef, generation: u32, why: u8) {
        let export = &mut self.exports[at.vrf.index()];
        if why == SlotFailure::Requested as u8 {
            export.requested(at.slot, generation, s.now, &mut self.todo);
        } else {
            let whole = why != SlotFailure::NotAccepting as u8;
            let timing = &s.config.timing;
            export.failed(at.slot, generation, whole, s.now, timing, &mut self.todo);
        }
        s.changed = true;
    }

    /// The peer has said what it holds: answer to a question, to a digest, or to a begin whose term is too low for it. That
    /// one is only heard.
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

    /// What has become of a record that a worker holds a packet for.
    fn committed(&self, s: &mut Shared, at: SlotRef, counter: u64, applied: bool) {
        let item = ToWorker::Committed {
            at,
            lane: self.tag,
            counter,
            applied,
        };
        // The packet waits until its time is over.
        if !s.rings.push_to_asker(at, item) {
            s.count(Cause::CommitUntold);
        }
    }

    /// The peer has room now for an entry that it refused.
    fn asked(&self, s: &mut Shared, at: SlotRef, generation: u32, wanted: Wanted) {
        let lane = self.tag;
        // Without room in the ring it is not answered; the peer asks again.
        if self.exports[at.vrf.index()].has_verified(at.slot, generation) {
            s.rings.push(at, ToWorker::GiveEntry { at, lane, wanted });
        }
    }

    /// An entry of the peer's former reign.
    fn tail(&self, s: &mut Shared, at: SlotRef, put: PutRecord) {
        if !self.exports[at.vrf.index()].is_streaming() {
            s.count(Cause::RecordMisplaced);
        } else if !s.rings.push(at, ToWorker::SlotTail { at, put }) {
            s.count(Cause::TailDropped);
        }
    }
}

/// The peer's part of a comparison.
fn compared(s: &mut Shared, at: SlotRef, round: u32, said: Said) {
    match said {
        Said::Marked(marked) => s.compared(at, round, CompareFound::Marked(marked)),
        Said::Listed(listed) => s.compared(at, round, CompareFound::Listed(listed)),
        Said::Mark(_) | Said::List(_) => s.count(Cause::RecordMisplaced),
    }
}

const fn cause(error: RecordError) -> Cause {
    match error {
        RecordError::UnknownType => Cause::RecordUnknownType,
        RecordError::UnknownVrf => Cause::RecordUnknownVrf,
        RecordError::NotOpen => Cause::RecordMisplaced,
        RecordError::Malformed(_) => Cause::RecordMalformed,
    }
}
