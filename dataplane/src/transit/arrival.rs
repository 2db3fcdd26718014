//! The new worker's part: it keeps room back, lets packets and records of the slot wait, enters what comes, and tells nothing of
//! it before the former worker's last record was taken.

use rtrb::Consumer;

use super::{Hindrance, Load, Luggage, Parcel, SLICE, Unfinished};
use crate::conntrack::{Conntrack, NatBinding};
use crate::delta::{Handle, SlotRef};
use crate::owners::Owners;
use crate::protection::Kept;
use crate::resync::Incoming;
use crate::role::Role;
use crate::slot::{Kind, Slot};
use crate::tables::{Changed, Tables};
use crate::time::Instant;

/// A slot that comes to a worker.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(super) at: SlotRef,
    /// The former worker.
    pub(super) from: u16,
    parcels: Consumer<Parcel>,
    /// Room that is kept back.
    room: Load,
    stage: Stage,
    /// Of the change of owners; known when the slot has come.
    number: u64,
    lost: bool,
    muted: bool,
    missed: Option<Incoming>,
    unfinished: Unfinished,
    /// Entries that have come.
    came: Load,
    lane: usize,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has come yet.
    Expected,
    /// Entries come.
    Coming,
    /// All of them have. What the former worker has handed over is still to be counted.
    Complete,
    /// So many of those packets go first.
    Following(usize),
    /// Packets flow; what is told waits for the former worker's marker.
    Here,
    /// It is a slot like any other.
    Done,
}

impl Arrival {
    /// Of a slot, by the ring of its former worker.
    pub(super) fn new(at: SlotRef, from: u16, parcels: Consumer<Parcel>, load: Load) -> Self {
        Self {
            at,
            from,
            parcels,
            room: load.with_margin(),
            stage: Stage::Expected,
            number: 0,
            lost: false,
            muted: false,
            missed: None,
            unfinished: Unfinished::default(),
            came: Load::default(),
            lane: 0,
        }
    }

    /// Its ring, to be used again, and what has come by it.
    pub(super) fn into_ring(self) -> (Consumer<Parcel>, Load) {
        (self.parcels, self.came)
    }

    /// Parcels that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.parcels.slots()
    }

    /// Whether packets and records may come to it.
    pub(super) const fn is_here(&self) -> bool {
        matches!(self.stage, Stage::Here | Stage::Done)
    }

    pub(super) const fn holds_lane(&self, lane: usize) -> bool {
        let told = matches!(self.stage, Stage::Expected | Stage::Done);
        self.lane == lane && !told
    }

    pub(super) fn handed_over(&mut self, from: usize, packets: usize) {
        if let Stage::Following(left) = &mut self.stage
            && from == usize::from(self.from)
        {
            *left = left.saturating_sub(packets);
        }
    }

    /// Everything has come, `handed_over` packets of the former worker waiting.
    pub(crate) fn follow(&mut self, handed_over: usize) {
        if self.stage == Stage::Complete {
            self.stage = Stage::Following(handed_over);
        }
    }

    /// The former worker's ring has to be looked at.
    pub(crate) fn follows_whom(&self) -> Option<usize> {
        (self.stage == Stage::Complete).then_some(usize::from(self.from))
    }
}

impl Tables {
    /// A slot is to come here: room is kept back for it, and its packets and records wait from now on.
    ///
    /// # Errors
    /// What is in the way, with the ring given back: nothing has changed then.
    pub(super) fn expect_slot(&mut self, mut arrival: Arrival) -> Result<(), (Hindrance, Consumer<Parcel>)> {
        let at = arrival.at;
        let checked = if !self.transit.is_idle() || self.slots.get(at).is_some() {
            Err(Hindrance::Busy)
        } else if !self.has_room_for(&arrival.room) {
            Err(Hindrance::NoRoom)
        } else {
            self.nothing_is_changing(at)
        };
        if let Err(hindrance) = checked {
            return Err((hindrance, arrival.parcels));
        }
        arrival.lane = self.lane_of(at.slot);
        self.transit.frozen = Some(at);
        self.transit.holding = true;
        self.keep_room(&arrival.room);
        self.transit.arrival = Some(arrival);
        Ok(())
    }

    fn has_room_for(&self, load: &Load) -> bool {
        let free = self.conntracks.capacity().saturating_sub(self.conntracks.len());
        load.conntracks as usize <= free
            && self
                .nat
                .has_room_for(load.subscribers, load.blocks, load.mappings)
    }

    fn keep_room(&mut self, load: &Load) {
        self.transit.kept_back = load.conntracks as usize;
        self.nat.keep_places(load.subscribers, load.blocks, load.mappings);
    }
}

/// One turn's share, `full` when no more packets may wait. Answers how much there was to do.
pub(super) fn arrive(
    tables: &mut Tables,
    owners: &Owners,
    parcels: usize,
    full: bool,
    now: Instant,
) -> usize {
    let Some(mut arrival) = tables.transit.arrival.take() else {
        return 0;
    };
    let a = &mut arrival;
    let mut done = 0;
    a.unfinished.add(Unfinished::of(tables, a.at));
    if matches!(a.stage, Stage::Expected | Stage::Coming) {
        for _ in 0..parcels.min(SLICE) {
            let Ok(parcel) = a.parcels.pop() else { break };
            enter(tables, a, parcel, now);
            done += 1;
        }
        tables.keep_room(&a.room);
    }
    match a.stage {
        // Packets that can't be taken in can't be waited for.
        Stage::Following(left) if left == 0 || full => a.stage = Stage::Here,
        Stage::Here if owners.has_left(a.number) && !tables.transit.holding => {
            settle(tables, a);
            owners.arrive(a.number);
        }
        _ => {}
    }
    done += usize::from(a.stage != Stage::Done);
    tables.transit.arrival = Some(arrival);
    done
}

fn enter(tables: &mut Tables, a: &mut Arrival, parcel: Parcel, now: Instant) {
    match parcel {
        Parcel::Slot(luggage) => enter_slot(tables, a, luggage),
        Parcel::Block(parcel) => {
            a.room.blocks = a.room.blocks.saturating_sub(1);
            a.came.blocks += 1;
            match tables.nat.unpack_block(&parcel) {
                Some(id) => {
                    link(tables, a.at, Kind::Block, id);
                    if parcel.is_listed() {
                        tables.changed(
                            Changed {
                                kind: Kind::Block,
                                id,
                            },
                            false,
                        );
                    }
                }
                None => a.lost = true,
            }
        }
        Parcel::Mapping(parcel) => {
            a.room.mappings = a.room.mappings.saturating_sub(1);
            a.came.mappings += 1;
            a.lost |= tables.nat.unpack_mapping(&parcel).is_none();
        }
        Parcel::Conntrack(conntrack, handle) => {
            a.room.conntracks = a.room.conntracks.saturating_sub(1);
            a.came.conntracks += 1;
            tables.transit.kept_back = a.room.conntracks as usize;
            a.lost |= enter_conntrack(tables, conntrack, handle, now).is_none();
        }
        Parcel::End(unfinished) => {
            a.unfinished.add(unfinished);
            a.room = Load::default();
            a.stage = Stage::Complete;
        }
    }
}

fn enter_slot(tables: &mut Tables, a: &mut Arrival, luggage: Luggage) {
    let Luggage {
        mut slot,
        number,
        lost,
        muted,
        missed,
        role,
    } = luggage;
    slot.empty_lists();
    (a.number, a.lost, a.muted, a.missed) = (number, lost, muted, missed);
    // This worker may have seen the end of a reign that its former one hasn't.
    let seen = tables.roles[a.at.vrf.index()];
    let reigned = role.role.is_active() || role.reigned != seen.reigned;
    if reigned
        && !seen.role.is_active()
        && let Some(source) = slot.demoted()
        && !source.open
    {
        a.missed = Some(source);
    }
    tables.slots.put(a.at, slot);
    a.stage = Stage::Coming;
}

/// Puts an entry into its slot's list. What of it is accounted stays so.
fn link(tables: &mut Tables, at: SlotRef, kind: Kind, id: u32) {
    let Some(slot) = tables.slots.get_mut(at) else {
        return;
    };
    match kind {
        Kind::Block => slot.relink(kind, &mut tables.nat, id),
        Kind::Conntrack => slot.relink(kind, &mut tables.conntracks, id),
    }
}

/// Enters a conntrack as it was. None when it can't be: its mapping, or the room for it, isn't there, which was kept back.
fn enter_conntrack(
    tables: &mut Tables,
    mut conntrack: Conntrack,
    handle: Handle,
    now: Instant,
) -> Option<u32> {
    let sync = conntrack.sync;
    conntrack.sync = sync.resettled();
    conntrack.sync.kept = Kept::No;
    let rebound = match conntrack.nat() {
        Some(nat) => {
            let mapping = tables.nat.mapping_of(&conntrack.to_put(now));
            mapping.map(|mapping| conntrack.tuples.bind(NatBinding { mapping, ..nat }))
        }
        None => Some(()),
    };
    let at = conntrack.at();
    let keys = conntrack.keys();
    let entered = rebound.and_then(|()| {
        let hashes = tables.conntracks.hashes(&keys);
        tables.enter(&conntrack, hashes).ok()
    });
    let Some(id) = entered else {
        tables.counters.conntracks_unmoved += 1;
        if let Some(slot) = tables.slots.get_mut(at) {
            slot.write_off(&sync);
        }
        if let Some(nat) = rebound.and(conntrack.nat()) {
            tables.nat.release(now, nat.mapping);
        }
        return None;
    };
    link(tables, at, Kind::Conntrack, id);
    tables.counters.conntracks_arrived += 1;
    if !handle.is_none() {
        tables.bind(at, handle, id);
    }
    tables.set_kept(id, sync.kept);
    tables.arrange(id);
    if sync.dirty {
        tables.touch(id, sync.refresh_only);
    }
    Some(id)
}

/// The slot is a slot like any other.
fn settle(tables: &mut Tables, a: &mut Arrival) {
    let at = a.at;
    a.stage = Stage::Done;
    tables.transit.frozen = None;
    tables.counters.slots_arrived += 1;
    let reigns = tables.roles[at.vrf.index()].role == Role::Master;
    if a.lost || (a.muted && reigns) {
        tables.lose(at);
    } else if a.muted {
        tables.mute(at);
    }
    if let Some(source) = a.missed.take() {
        tables.missed.push((at, source));
    }
    let slot = tables.slots.get(at);
    let (walks, streamed) = slot.map_or((false, false), |s: &Slot| {
        (!s.walks.is_empty(), !s.streams.is_empty())
    });
    if walks && !tables.walking[a.lane].contains(&at) {
        tables.walking[a.lane].push(at);
    }
    if streamed {
        // Everybody hears at once whether something went wrong.
        tables.ask_digest(at);
    }
    let Unfinished {
        reviewing,
        rechecking,
        retiring,
    } = a.unfinished;
    if rechecking {
        tables.protect.rechecks[at.vrf.index()].owe();
    }
    if reviewing {
        tables.protect.review_all();
    }
    if retiring {
        tables.retirement.begin();
    }
}
