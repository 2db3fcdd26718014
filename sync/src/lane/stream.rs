//! What a worker hands over, on its way into the lane's frames.
//!
//! An item passes when it belongs to the present connection, and to a generation of its slot that is under way on it;
//! what comes of an older one is told to the pump, which counts it.

use dataplane::delta::{Delta, Mark, SlotEnd, SlotRef, ToWorker, Version};
use dataplane::time::Instant;

use super::{Lane, State};
use crate::cause::Cause;
use crate::compare_record::{Said, put_said};
use crate::flow_record::{Continuity, put_delta};
use crate::port::{CompareAsk, CompareFound, CompareStep};
use crate::shared::Shared;
use crate::slot_record;
use crate::wire::Wire;

impl<W: Wire> Lane<W> {
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
        export.report.resync.record(bytes);
        if continuity == Continuity::Gap {
            s.count(Cause::StreamGap);
            export.again(at.slot, "gap", s.now, &mut self.todo);
        }
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
                if !s.rings.push(at, ToWorker::MarkSlot { at, lane, round }) {
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
}
