//! Which slots flow to the peer, and telling workers to send them.
//!
//! The direction follows the two terms: where it turns to the peer, all slots of a VRF are wanted; where it turns away,
//! workers are told to stop. What is to be done stands in a queue, so that a turn costs what changed, and is done as
//! rings, credit and the window allow; what can't be done yet goes to the queue's end.

use dataplane::delta::{LaneTag, SlotOffer, SlotRef, Term, ToWorker};
use dataplane::flow::VrfId;
use dataplane::role::Role;
use dataplane::time::Instant;

use super::{Lane, State};
use crate::export::{Export, QUERIES, Task, WINDOW};
use crate::peering::{Known, Own};
use crate::port::PumpEvent;
use crate::role::outranks;
use crate::shared::Shared;
use crate::slot_record;
use crate::wire::Wire;

/// Slots looked at per turn.
const TASKS_MAX: usize = 128;

/// What may still be put on its way in this turn.
#[derive(Debug)]
struct Room {
    /// Slots.
    walks: usize,
    /// Questions what the peer holds of a slot.
    queries: u64,
}

impl<W: Wire> Lane<W> {
    /// Tells the peer what this node has become, and starts or stops streams.
    pub(super) fn direct(&mut self, s: &mut Shared) {
        let State::Up { conn, peering, .. } = &mut self.state else {
            return;
        };
        let reopened = peering.reopen(conn, s);
        peering.announce(conn, &s.own, s.now);
        for (vrf, export) in (0u16..).map(VrfId).zip(&mut self.exports) {
            let Some(own) = s.own.get(vrf.index()) else { break };
            let flows = flows(own, s.config.node_id, peering.known(vrf));
            if flows && !export.is_streaming() && export.report.slots_total > 0 {
                export.start("connected", s.now, &mut self.todo);
                s.tell(PumpEvent::Resyncing {
                    peer: self.tag.peer,
                    vrf,
                    lane: self.tag.lane,
                    slots: export.report.slots_total,
                });
            } else if !flows && export.is_streaming() {
                export.stop(self.tag.incarnation, s.now, &mut self.todo);
                s.changed = true;
            }
        }
        for opened in reopened {
            self.tell_opened(s, opened);
        }
        self.remind(s);
    }

    /// Once a second: what was never answered is asked again.
    fn remind(&mut self, s: &Shared) {
        if s.now.since(self.reminded).as_secs() >= 1 {
            self.reminded = s.now;
            for export in self.exports.iter_mut().filter(|e| e.is_streaming()) {
                export.remind(s.now, &s.config.timing, &mut self.todo);
            }
        }
    }

    /// Tells workers to stop and to send, as their rings and the window allow.
    pub(super) fn ask(&mut self, s: &mut Shared) -> usize {
        let mut room = self.room();
        let mut work = 0;
        for _ in 0..self.todo.len().min(TASKS_MAX) {
            let Some(at) = self.todo.pop_front() else { break };
            let export = &mut self.exports[at.vrf.index()];
            let (done, again) = match export.task(at.slot, s.now) {
                Task::Nothing => {
                    export.dismissed(at.slot);
                    (false, false)
                }
                Task::Later => (false, true),
                Task::Stop(incarnation) => self.stop(s, at, incarnation),
                Task::Query => {
                    let asked = room.queries > 0 && self.query(s, at);
                    room.queries -= u64::from(asked);
                    (asked, !asked)
                }
                Task::Send(offer) => {
                    let told = room.walks > 0 && self.send(s, at, offer);
                    room.walks -= usize::from(told);
                    (told, !told)
                }
            };
            work += usize::from(done);
            if again {
                self.todo.push_back(at);
            }
        }
        work
    }

    fn room(&self) -> Room {
        let under_way: usize = self.exports.iter().map(|e| e.under_way).sum();
        let queried: usize = self.exports.iter().map(|e| e.queried).sum();
        let credit = match &self.state {
            State::Up { conn, .. } => conn.credit(),
            _ => 0,
        };
        Room {
            walks: WINDOW.saturating_sub(under_way),
            queries: credit.min(QUERIES.saturating_sub(queried) as u64),
        }
    }

    /// Whether the worker was told to stop, and whether the slot needs more.
    fn stop(&mut self, s: &mut Shared, at: SlotRef, incarnation: u32) -> (bool, bool) {
        let lane = LaneTag {
            incarnation,
            ..self.tag
        };
        let told = s.rings.push(at, ToWorker::StopSlot { at, lane });
        (told, !told || self.exports[at.vrf.index()].stopped(at.slot))
    }

    /// Whether the peer was asked what it holds.
    fn query(&mut self, s: &mut Shared, at: SlotRef) -> bool {
        let State::Up { conn, .. } = &mut self.state else {
            return false;
        };
        let generation = s.next_generation();
        conn.put(s.now, |out| slot_record::put_slot_query(out, at, generation));
        self.exports[at.vrf.index()].asked_peer(at.slot, generation, s.now);
        true
    }

    /// Whether the worker was told to send the slot.
    fn send(&mut self, s: &mut Shared, at: SlotRef, offer: Option<SlotOffer>) -> bool {
        let generation = s.next_generation();
        let item = ToWorker::SendSlot {
            at,
            lane: self.tag,
            generation,
            offer,
        };
        let told = s.rings.push(at, item);
        if told {
            self.exports[at.vrf.index()].asked(at.slot, generation);
        }
        told
    }

    /// An operator or a worker wants a slot sent again.
    /// True when it is streamed here.
    pub(crate) fn again(&mut self, at: SlotRef, reason: &str, now: Instant) -> bool {
        self.exports
            .get_mut(at.vrf.index())
            .is_some_and(|export| export.again(at.slot, reason, now, &mut self.todo))
    }

    /// Slots of a VRF that the peer has verified.
    pub(crate) fn exported(&self, vrf: VrfId) -> u32 {
        self.exports.get(vrf.index()).map_or(0, Export::verified)
    }
}

/// Whether state of a VRF flows from this node to the peer.
fn flows(own: &Own, node: u8, known: Option<Known>) -> bool {
    known.is_some_and(|known| {
        known.slots > 0
            && own.role != Role::Alone
            && own.term != Term::NONE
            && outranks(own.term, node, known.state.term)
    })
}
