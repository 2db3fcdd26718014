//! The peer's records, applied by the worker that owns their slot. A refusal changes nothing and is counted with
//! its cause; whatever came of it, the record counts as processed, and only then is it acknowledged.
//!
//! Records name entries all over the tables. So they are taken in batches: what the first of a batch needs is asked for
//! together with what the last one needs, in passes that each need only what an earlier one has asked for.

use rtrb::Consumer;

use crate::delta::{DelRecord, Delta, LaneTag, Name, RefreshRecord, SlotRef, StateRecord, ToEvent, ToWorker};
use crate::mutant::{self, Mutant};
use crate::slot::Slot;
use crate::stage::apply::{Applied, Refused, Target, apply};
use crate::stage::compare::marked;
use crate::stage::missing::give;
use crate::stage::slots::{begin, compare, finish, query, send_slot, stop_slot};
use crate::stage::tail::adopt;
use crate::tables::Tables;
use crate::time::Instant;

/// Records whose memory is asked for together: about as many lines as a core can wait for at once.
const BATCH: usize = 16;

/// Applies up to `budget` items of event thread `event`; returns how many were processed. Answers wait in the tables
/// until that thread's ring has room, so that two nodes with full rings never wait for one another.
pub(crate) fn absorb(
    tables: &mut Tables,
    inbox: &mut Consumer<ToWorker>,
    event: usize,
    budget: usize,
    now: Instant,
) -> usize {
    let mut processed = 0;
    // What the event thread adds from here on is for the next turn.
    let budget = budget.min(inbox.slots());
    while processed < budget {
        let Ok(chunk) = inbox.read_chunk((budget - processed).min(BATCH)) else {
            break;
        };
        let (first, second) = chunk.as_slices();
        let items = || first.iter().chain(second);
        let hashes = look_ahead(tables, items);
        let mut done = 0;
        let awaited = tables.transit.awaited();
        for (item, hashes) in items().zip(hashes) {
            // It is on its way here, and so is everything that this is about.
            if awaited == Some(item.at()) && !matches!(item, ToWorker::Committed { .. }) {
                break;
            }
            // Answers that found no room hold further questions back: a peer can't make this list grow.
            if tables.answers[event].len() >= tables.answers_max {
                break;
            }
            done += 1;
            if let Some(answer) = process(tables, item, hashes, event, now) {
                tables.answers[event].push_back(answer);
            }
        }
        let all = done == chunk.len();
        chunk.commit(done);
        processed += done;
        if !all {
            break;
        }
    }
    processed
}

/// Asks for the memory of a batch. Gives the hashes of each item's tuples, where it has any.
fn look_ahead<'a, I: Iterator<Item = &'a ToWorker>>(
    tables: &Tables,
    items: impl Fn() -> I,
) -> [[u64; 2]; BATCH] {
    let mut hashes = [[0; 2]; BATCH];
    let mut mappings = [None; BATCH];
    let records = || {
        items().enumerate().filter_map(|(n, item)| match item {
            ToWorker::Record { at, delta, .. } => Some((n, *at, delta)),
            _ => None,
        })
    };
    for (n, at, delta) in records() {
        match delta {
            Delta::Put(put) => {
                hashes[n] = tables.conntracks.hashes(&[put.original, put.reply]);
                for hash in hashes[n] {
                    tables.conntracks.prefetch(hash);
                }
                tables.names.expect(at, put.handle);
                mappings[n] = tables.nat.expect(put);
            }
            Delta::State(StateRecord { handle, .. })
            | Delta::Refresh(RefreshRecord { handle, .. })
            | Delta::Del(DelRecord {
                name: Name::Handle(handle),
                ..
            }) => tables.names.expect(at, *handle),
            Delta::Del(DelRecord {
                name: Name::Key(original),
                ..
            }) => {
                hashes[n][0] = tables.conntracks.hash(original);
                tables.conntracks.prefetch(hashes[n][0]);
            }
            Delta::Block(_) => {}
        }
    }
    for mapping in mappings.iter().flatten() {
        tables.nat.expect_block(mapping);
    }
    for (n, at, delta) in records() {
        match delta {
            Delta::Put(put) => {
                tables.conntracks.expect_candidate(hashes[n][0]);
                tables.names.expect_link(at, put.handle);
            }
            Delta::State(StateRecord { handle, .. })
            | Delta::Refresh(RefreshRecord { handle, .. })
            | Delta::Del(DelRecord {
                name: Name::Handle(handle),
                ..
            }) => {
                let id = tables.names.expect_link(at, *handle);
                tables.conntracks.expect_entry(id);
            }
            Delta::Del(_) => tables.conntracks.expect_candidate(hashes[n][0]),
            Delta::Block(_) => {}
        }
    }
    for mapping in mappings.iter().flatten() {
        tables.nat.expect_mapping(mapping);
    }
    hashes
}

fn process(
    tables: &mut Tables,
    item: &ToWorker,
    hashes: [u64; 2],
    event: usize,
    now: Instant,
) -> Option<ToEvent> {
    match *item {
        ToWorker::SendSlot {
            at,
            lane,
            generation,
            offer,
        } => send_slot(tables, at, lane, generation, offer),
        ToWorker::StopSlot { at, lane } => stop_slot(tables, at, lane),
        ToWorker::MarkSlot { at, lane, round } => tables.comparing.ask_mark(at, lane, round),
        ToWorker::DigestSlot { at } => tables.ask_digest(at),
        ToWorker::SlotTail { at, put } => adopt(tables, at, &put, now),
        ToWorker::Committed {
            at,
            lane,
            counter,
            applied,
        } => tables.committed(at, lane.peer, counter, applied),
        ToWorker::Commit { at, lane, counter } => return Some(commit(tables, at, lane, counter)),
        ToWorker::GiveEntry { at, lane, wanted } => return give(tables, at, lane, wanted, now),
        ToWorker::SlotBegin {
            at,
            lane,
            generation,
            version,
            since,
        } => return begin(tables, at, (lane, event, generation), version, since),
        ToWorker::Record { at, lane, ref delta } => {
            return record(tables, (at, lane, event), delta, hashes, now);
        }
        ToWorker::SlotQuery { at, lane, generation } => return query(tables, at, lane, generation),
        ToWorker::SlotDigest { at, lane, end } => return compare(tables, at, lane, &end, now),
        ToWorker::SlotMark { at, lane, mark } => return marked(tables, at, lane, &mark),
        ToWorker::ListSlot {
            at,
            lane,
            round,
            entries,
        } => tables.comparing.ask_list(at, lane, round, entries, event),
        ToWorker::SlotEnd { at, lane, end } => return finish(tables, at, lane, &end, now),
    }
    None
}

/// One record that came by event thread `event`; `hashes` are those of its tuples.
fn record(
    tables: &mut Tables,
    (at, lane, event): (SlotRef, LaneTag, usize),
    delta: &Delta,
    hashes: [u64; 2],
    now: Instant,
) -> Option<ToEvent> {
    tables.counters.absorb_received += 1;
    // A node that has taken over since the record was sent must not let the old active write its table. Nor does the slot's
    // version follow: it would claim a change that was not taken, and what the peer offers of it would count as heard.
    let active = tables.is_active(at.vrf);
    let target = tables
        .slots
        .get(at)
        .and_then(|slot| slot.source.as_ref())
        .filter(|source| !active && (source.lane == lane || mutant::on(Mutant::OldIncarnation)))
        .map(|source| Target::of(at, source));
    let outcome = match target {
        Some(target) => {
            let outcome = apply(tables, target, delta, hashes, now);
            advance(tables, at, delta, outcome);
            outcome
        }
        None => Err(Refused::Fenced),
    };
    count(tables, event, outcome);
    if outcome == Err(Refused::Nameless) {
        again(tables, at)
    } else {
        None
    }
}

/// The slot's version follows what the sender has emitted, applied or refused; what was refused last is remembered for
/// whoever asks about it next.
fn advance(tables: &mut Tables, at: SlotRef, delta: &Delta, outcome: Result<Applied, Refused>) {
    if let Some(version) = delta.version()
        && let Some(slot) = tables.slots.get_mut(at)
    {
        slot.version = slot.version.max(version);
        if outcome.is_err() {
            slot.refused = version.counter;
        }
    }
}

fn count(tables: &mut Tables, event: usize, outcome: Result<Applied, Refused>) {
    if let Err(cause) = outcome {
        *tables.lane_counts[event].refused.of(cause) += 1;
    }
    let c = &mut tables.counters;
    *match outcome {
        Ok(Applied::Changed) => &mut c.absorb_applied,
        Ok(Applied::Confirmed) => &mut c.absorb_confirmed,
        Err(Refused::Stale | Refused::Outgranted) => &mut c.absorb_stale,
        Err(Refused::Fenced) => &mut c.absorb_fenced,
        Err(Refused::Full) => &mut c.absorb_full,
        Err(Refused::Conflict | Refused::Elsewhere) => &mut c.absorb_conflict,
        Err(Refused::NoPool) => &mut c.absorb_no_pool,
        Err(Refused::Unknown | Refused::Nameless) => &mut c.absorb_unknown,
    } += 1;
}

/// What has become of the record in front of the question (sync/PROTOCOL.md R-42).
fn commit(tables: &Tables, at: SlotRef, lane: LaneTag, counter: u64) -> ToEvent {
    let here = |slot: &&Slot| {
        let current = slot.source.as_ref().is_some_and(|s| s.lane == lane);
        current && slot.version.counter >= counter && slot.refused != counter
    };
    let applied = !tables.is_active(at.vrf) && tables.slots.get(at).filter(here).is_some();
    ToEvent::Committed {
        at,
        lane,
        counter,
        applied,
    }
}

/// The slot has to come again: at the end of the generation that is open, or as soon as the sender hears of it.
pub(crate) fn again(tables: &mut Tables, at: SlotRef) -> Option<ToEvent> {
    let slot = tables.slots.get_mut(at)?;
    let asked = core::mem::replace(&mut slot.absent.unsure, true);
    let source = slot.source.as_ref()?;
    if source.open || asked {
        return None;
    }
    let (lane, generation) = (source.lane, source.generation);
    Some(ToEvent::SlotFailed { at, lane, generation })
}

#[cfg(test)]
mod tests;
