//! The former worker's part: it takes in what was sent to it before the table of owners changed, tells what it had listed, puts a
//! marker behind its last record, and takes the slot out entry by entry.

use rtrb::Producer;

use super::{Luggage, Parcel, SLICE, Unfinished};
use crate::delta::{Handle, SlotRef, ToEvent};
use crate::nat::Search;
use crate::owners::Owners;
use crate::protection::Kept;
use crate::resync::{Course, Walk};
use crate::slot::{Kind, NIL};
use crate::stage::slots::sync_of;
use crate::tables::Tables;

/// Turns for which the slot's changes may wait for room in the ring. Packets wait meanwhile, and must not wait for an event
/// thread.
const PATIENCE: u32 = 32;

/// A slot that leaves a worker.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(super) at: SlotRef,
    number: u64,
    to: Producer<Parcel>,
    stage: Stage,
    /// By worker: packets that it had handed over when the table had changed.
    handed_over: Box<[usize]>,
    /// By event thread: items that it had handed over then.
    items: Box<[usize]>,
    /// Changes listed for the slot's lane when the slot was frozen.
    listed: (usize, usize),
    turns: u32,
    /// Removals were lost that the peers have to hear of.
    lost: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The table has still to change, or not every worker has seen it.
    Called,
    /// That is being taken in.
    Catching,
    /// The slot is frozen, and what was listed is told.
    Telling,
    /// Blocks, and for each its mappings, from this port number on; then conntracks.
    Blocks {
        block: u32,
        sent: bool,
        port: u32,
        conntracks: u32,
    },
    Conntracks {
        next: u32,
    },
    Gone,
}

impl Departure {
    /// Of a slot, as the change `number` of owners says, into the ring of the new worker. `workers` and `events` are how many
    /// there are.
    pub(super) fn new(
        at: SlotRef,
        number: u64,
        to: Producer<Parcel>,
        (workers, events): (usize, usize),
    ) -> Self {
        Self {
            at,
            number,
            to,
            stage: Stage::Called,
            handed_over: vec![0; workers].into(),
            items: vec![0; events].into(),
            listed: (0, 0),
            turns: 0,
            lost: false,
        }
    }

    /// Its ring, to be used again.
    pub(super) fn into_ring(self) -> Producer<Parcel> {
        self.to
    }

    /// Number of the change of owners that it goes with.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Counts what waits in the rings, once: by worker, and by event thread.
    pub(crate) fn count(
        &mut self,
        handed_over: impl Iterator<Item = usize>,
        items: impl Iterator<Item = usize>,
    ) {
        if self.stage == Stage::Called {
            for (before, waiting) in self.handed_over.iter_mut().zip(handed_over) {
                *before = waiting;
            }
            for (before, waiting) in self.items.iter_mut().zip(items) {
                *before = waiting;
            }
            self.stage = Stage::Catching;
        }
    }

    pub(super) fn handed_over(&mut self, from: usize, packets: usize) {
        if let Some(left) = self.handed_over.get_mut(from) {
            *left = left.saturating_sub(packets);
        }
    }

    pub(super) fn absorbed(&mut self, event: usize, items: usize) {
        if let Some(left) = self.items.get_mut(event) {
            *left = left.saturating_sub(items);
        }
    }

    pub(super) fn told(&mut self, lane: usize, changes: usize) {
        if lane == self.listed.0 {
            self.listed.1 = self.listed.1.saturating_sub(changes);
        }
    }

    fn has_caught_up(&self) -> bool {
        self.handed_over.iter().chain(&*self.items).all(|&left| left == 0)
    }
}

/// One turn's share. Answers how much there was to do.
pub(super) fn depart(tables: &mut Tables, owners: &Owners) -> usize {
    let Some(mut departure) = tables.transit.departure.take() else {
        return 0;
    };
    let sent = step(tables, &mut departure, owners);
    tables.transit.departure = Some(departure);
    sent
}

fn step(tables: &mut Tables, d: &mut Departure, owners: &Owners) -> usize {
    match d.stage {
        Stage::Called | Stage::Gone => 0,
        Stage::Catching => {
            if d.has_caught_up() {
                tables.transit.frozen = Some(d.at);
                tables.list_blocks();
                let lane = tables.lane_of(d.at.slot);
                d.listed = (lane, tables.waiting_for(lane));
                d.stage = Stage::Telling;
            }
            1
        }
        Stage::Telling => {
            tell(tables, d, owners);
            1
        }
        Stage::Blocks { .. } | Stage::Conntracks { .. } => send(tables, d),
    }
}

/// Waits until what was listed is told, then lets the slot itself go.
fn tell(tables: &mut Tables, d: &mut Departure, owners: &Owners) {
    let (lane, before) = d.listed;
    let before = before.min(tables.waiting_for(lane));
    d.turns += 1;
    if before > 0 {
        if d.turns <= PATIENCE {
            return;
        }
        d.lost |= tables.take_out(lane, d.at, before);
        d.listed.1 = 0;
    }
    if tables.commits.waits_for(d.at) || d.to.is_full() {
        return;
    }
    let Some(luggage) = pack(tables, d) else {
        // Never: it was here when the table changed, and only this lets it go.
        d.stage = Stage::Conntracks { next: NIL };
        return;
    };
    let (block, conntracks) = (
        luggage.slot.first(Kind::Block),
        luggage.slot.first(Kind::Conntrack),
    );
    owners.change_asker(d.at, owners.worker_of(d.at));
    // Behind everything that this worker has told of the slot.
    tables.answers[lane].push_back(ToEvent::SlotLeft {
        at: d.at,
        number: d.number,
    });
    // There is room, as was just seen.
    let _ = d.to.push(Parcel::Slot(luggage));
    d.stage = Stage::Blocks {
        block,
        sent: false,
        port: 0,
        conntracks,
    };
}

/// Takes the slot out of everything that has noted something about it.
fn pack(tables: &mut Tables, d: &mut Departure) -> Option<Luggage> {
    let at = d.at;
    let lane = tables.lane_of(at.slot);
    let mut slot = tables.slots.take(at)?;
    tables.walking[lane].retain(|walked| *walked != at);
    tables.digests_asked.retain(|asked| *asked != at);
    tables.comparing.forget(at);
    let listed = tables.lost.len();
    tables.lost.retain(|lost| *lost != at);
    d.lost |= tables.lost.len() < listed;
    // One that has begun can't go on in another memory: the slot is sent anew.
    let begun = |walk: &Walk| walk.course != Course::Asked;
    d.lost |= slot.walks.iter().any(begun);
    slot.walks.retain(|walk| !begun(walk));
    slot.listing = None;
    slot.history.move_on(slot.version);
    let muted = tables.is_muted(at);
    tables.unmute(at);
    let missed = tables.missed.iter().position(|(missed, _)| *missed == at);
    Some(Luggage {
        slot,
        number: d.number,
        lost: d.lost,
        muted,
        missed: missed.map(|place| tables.missed.swap_remove(place).1),
        role: tables.roles[at.vrf.index()],
    })
}

/// A slice of the entries.
fn send(tables: &mut Tables, d: &mut Departure) -> usize {
    let mut sent = 0;
    for _ in 0..SLICE {
        if d.to.is_full() {
            break;
        }
        let parcel = match d.stage {
            Stage::Blocks {
                block: NIL,
                conntracks,
                ..
            } => {
                d.stage = Stage::Conntracks { next: conntracks };
                continue;
            }
            Stage::Blocks {
                block,
                sent: false,
                conntracks,
                ..
            } => {
                d.stage = Stage::Blocks {
                    block,
                    sent: true,
                    port: 0,
                    conntracks,
                };
                Parcel::Block(tables.nat.parcel_of(block))
            }
            Stage::Blocks {
                block,
                port,
                conntracks,
                ..
            } => {
                let (next, parcel) = mapping(tables, block, port);
                d.stage = match next {
                    Ok(port) => Stage::Blocks {
                        block,
                        sent: true,
                        port,
                        conntracks,
                    },
                    Err(block) => Stage::Blocks {
                        block,
                        sent: false,
                        port: 0,
                        conntracks,
                    },
                };
                let Some(parcel) = parcel else { continue };
                parcel
            }
            Stage::Conntracks { next: NIL } => {
                d.stage = Stage::Gone;
                tables.transit.frozen = None;
                tables.counters.slots_departed += 1;
                Parcel::End(Unfinished::of(tables, d.at))
            }
            Stage::Conntracks { next } => {
                d.stage = Stage::Conntracks {
                    next: sync_of(tables, Kind::Conntrack, next).next,
                };
                tables.counters.conntracks_departed += 1;
                conntrack(tables, next)
            }
            Stage::Called | Stage::Catching | Stage::Telling | Stage::Gone => break,
        };
        // There is room, as was just seen.
        let _ = d.to.push(parcel);
        sent += 1;
    }
    sent.max(1)
}

/// The next mapping of a block, and from which port to go on; behind the last one the block goes, and the next block is given.
fn mapping(tables: &mut Tables, block: u32, port: u32) -> (Result<u32, u32>, Option<Parcel>) {
    match tables.nat.next_mapping(block, port) {
        Search::Found(id) => {
            let parcel = tables.nat.pack_mapping(id);
            (Ok(port), Some(Parcel::Mapping(parcel)))
        }
        Search::On(port) => (Ok(port), None),
        Search::Over => {
            let next = sync_of(tables, Kind::Block, block).next;
            tables.nat.take_out(block);
            (Err(next), None)
        }
    }
}

/// Takes a conntrack out of all tables.
fn conntrack(tables: &mut Tables, id: u32) -> Parcel {
    let kept = tables.conntracks[id].sync.kept;
    tables.set_kept(id, Kept::No);
    tables.wheel.cancel(id);
    let at = tables.conntracks[id].at();
    let handle = if tables.conntracks[id].sync.stamp == 0 {
        Handle::NONE
    } else {
        tables.names.handle(id)
    };
    tables.names.unbind(at, id);
    let mut conntrack = tables.conntracks[id];
    conntrack.sync.kept = kept;
    tables.conntracks.free(id);
    Parcel::Conntrack(conntrack, handle)
}
