//! What a node was the only one to know: the flows it opened while another node, of a higher term, was active too.
//!
//! When that node's word has come through whole, the demoted one drops what it didn't name. Before it does, it offers what
//! was written in its own last reign. The active node takes such an entry over as if a packet had opened it, unless it knew
//! it and has ended it meanwhile, or tuple, port or block are somebody else's by now: nothing of its own gives way. What it
//! takes over it tells like any change, and so it comes back.

use rtrb::Producer;

use crate::conntrack::NatBinding;
use crate::delta::{LaneTag, PutRecord, SlotRef, Term, ToEvent};
use crate::protection::Kept;
use crate::stage::apply::inherited;
use crate::stage::ring::is_light;
use crate::tables::{TAILS_MAX, Tables};
use crate::time::Instant;

/// Keeps a conntrack that is about to be swept, if it is of this node's own reign, for the node that has taken over.
pub(crate) fn save_tail(tables: &mut Tables, at: SlotRef, lane: LaneTag, id: u32, now: Instant) {
    let conntrack = &tables.conntracks[id];
    if !is_own(tables, at, id) || conntrack.lifetime_s(now) == 0 {
        return;
    }
    let put = conntrack.to_put(now);
    // The thread that has the connection it goes back on.
    let Some(event) = tables
        .slots
        .get(at)
        .and_then(|s| s.source.as_ref())
        .map(|s| s.event)
    else {
        return;
    };
    let waiting = &mut tables.tails[event];
    if waiting.len() == TAILS_MAX {
        tables.counters.tails_lost += 1;
    } else {
        waiting.push_back(ToEvent::SlotTail { at, lane, put });
        tables.counters.tails_offered += 1;
    }
}

/// Whether a conntrack is, as far as is known, of this node's last reign.
fn is_own(tables: &Tables, at: SlotRef, id: u32) -> bool {
    let reigned = tables.roles[at.vrf.index()].reigned;
    let sync = &tables.conntracks[id].sync;
    // What a rule keeps from the peer stays here and ends.
    // What only overload has kept back is to be told like everything else.
    let kept = matches!(sync.kept, Kept::Delay | Kept::NoSync);
    reigned != Term::NONE && !kept && (!sync.emitted() || sync.version.term == reigned)
}

/// A conntrack gives way to the word of the node that has taken over: counted, if only this node knew it.
pub(crate) fn note_collision(tables: &mut Tables, at: SlotRef, id: u32) {
    let slot = tables.slots.get(at);
    let overruled = slot
        .and_then(|s| s.source.as_ref())
        .is_some_and(|s| s.authoritative);
    tables.counters.tails_colliding += u64::from(overruled && is_own(tables, at, id));
}

/// Sends what was kept, while the ring has more than half its room left for what can't wait.
pub(crate) fn offer_tails(tables: &mut Tables, event: usize, ring: &mut Producer<ToEvent>) {
    while is_light(ring, 2)
        && let Some(tail) = tables.tails[event].pop_front()
    {
        // There is room.
        let _ = ring.push(tail);
    }
}

/// What became of an entry that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Adopted,
    Over,
    Colliding,
}

/// Takes over an entry of a demoted node's reign, where it collides with nothing.
pub(crate) fn adopt(tables: &mut Tables, at: SlotRef, put: &PutRecord, now: Instant) {
    let counter = match take_over(tables, at, put, now) {
        Outcome::Adopted => &mut tables.counters.tails_adopted,
        Outcome::Over => &mut tables.counters.tails_over,
        Outcome::Colliding => &mut tables.counters.tails_colliding,
    };
    *counter += 1;
}

fn take_over(tables: &mut Tables, at: SlotRef, put: &PutRecord, now: Instant) -> Outcome {
    let told = put.version.counter != 0;
    let ended = |tables: &Tables| {
        let slot = tables.slots.get(at);
        slot.is_none_or(|slot| told && slot.history.has_heard(put.version))
    };
    if !tables.is_active(at.vrf) || ended(tables) {
        return Outcome::Over;
    }
    let taken = [&put.original, &put.reply].into_iter().any(|key| {
        let hash = tables.conntracks.hash(key);
        tables.conntracks.find(hash, key).is_some()
    });
    if taken {
        return Outcome::Colliding;
    }
    let Some(mut conntrack) = inherited(put, at.slot, now) else {
        return Outcome::Colliding;
    };
    if let Some(part) = put.nat {
        let Ok(learned) = tables.nat.learn(now, put, at.slot) else {
            return Outcome::Colliding;
        };
        if learned.block_new {
            tables.nat.take_over(now, learned.block);
            tables.list_blocks();
        }
        conntrack.tuples.bind(NatBinding {
            part,
            mapping: learned.mapping,
            rule: 0,
        });
    }
    match tables.create(&conntrack) {
        Ok(_) => Outcome::Adopted,
        Err(_) => {
            if let Some(nat) = conntrack.nat() {
                tables.nat.cancel(now, nat.mapping);
            }
            Outcome::Colliding
        }
    }
}
