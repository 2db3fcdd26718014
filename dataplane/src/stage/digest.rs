//! Digests in the stream: now and then, and when asked, the owner of a slot tells its lanes what it has emitted so far.
//!
//! The record goes through the same ring as the changes before it, so the receiver compares at exactly this point of the
//! stream: load can't make equal slots look different. One slot per [`PACE_NS`] and worker, whatever the load.

use rtrb::Producer;

use crate::delta::{SlotEnd, SlotRef, ToEvent};
use crate::flow::VrfId;
use crate::mutant::told;
use crate::resync::Sum;
use crate::slot::Slots;
use crate::stage::ring::is_light;
use crate::tables::Tables;
use crate::time::Instant;

/// Time between two digests of a worker: 1,024 slots on two workers are through in ten seconds.
const PACE_NS: u64 = 20_000_000;

/// Slots looked at in search of one that is streamed.
const LOOKS_MAX: usize = 64;

/// Asked-for digests emitted in one turn.
const ASKED_MAX: usize = 32;

/// Which slot's digest comes next, and when.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    not_before: Instant,
    place: Place,
}

/// A place in the round over all slots of a worker.
#[derive(Debug, Default)]
pub(crate) struct Place {
    vrf: u16,
    slot: u16,
}

impl Place {
    /// The next slot of the round; none at the end of a VRF.
    pub(crate) fn next(&mut self, slots: &Slots, vrfs: usize) -> Option<SlotRef> {
        let at = slots.next_from(VrfId(self.vrf), self.slot);
        if let Some(at) = at {
            self.slot = at.slot + 1;
        } else {
            self.slot = 0;
            self.vrf += 1;
            if usize::from(self.vrf) >= vrfs {
                self.vrf = 0;
            }
        }
        at
    }
}

/// Emits the digests that are due. Not counted as work: a thread that has nothing else to do may rest.
pub(crate) fn digests(tables: &mut Tables, rings: &mut [Producer<ToEvent>], now: Instant) {
    for _ in 0..ASKED_MAX {
        let Some(&at) = tables.digests_asked.front() else {
            break;
        };
        if !has_room(tables, rings, at, 2) {
            break;
        }
        tables.digests_asked.pop_front();
        tell(tables, rings, at);
    }
    if now < tables.rounds.not_before {
        return;
    }
    for _ in 0..LOOKS_MAX {
        let at = tables.rounds.place.next(&tables.slots, tables.roles.len());
        if at.is_some_and(|at| has_room(tables, rings, at, 8) && tell(tables, rings, at)) {
            break;
        }
    }
    tables.rounds.not_before = Instant::from_ns(now.ns() + PACE_NS);
}

/// Whether less than a `share`-th of the slot's ring is taken. On a slow lane digests would otherwise use up the peer's
/// credit, and changes would wait behind them.
fn has_room(tables: &Tables, rings: &[Producer<ToEvent>], at: SlotRef, share: usize) -> bool {
    let ring = rings.get(tables.lane_of(at.slot));
    ring.is_some_and(|ring| is_light(ring, share))
}

/// Emits a slot's digest, unless nobody listens or a walk is still to say it.
fn tell(tables: &mut Tables, rings: &mut [Producer<ToEvent>], at: SlotRef) -> bool {
    let event = tables.lane_of(at.slot);
    let (Some(slot), Some(ring)) = (tables.slots.get(at), rings.get_mut(event)) else {
        return false;
    };
    if slot.streams.is_empty() || !slot.walks.is_empty() || tables.transit.is_frozen(at) {
        return false;
    }
    let Sum { count, digest } = told(tables, at);
    let end = SlotEnd {
        generation: 0,
        count,
        digest,
        version: slot.version,
    };
    let told = ring.push(ToEvent::SlotDigest { at, end }).is_ok();
    tables.counters.digests_emitted += u64::from(told);
    told
}
