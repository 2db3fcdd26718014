//! Slots that go to other workers because these have less to do: what there is to do per slot is measured, moves are chosen, and
//! made one after the other.
//!
//! A slot's load is what its conntracks have counted within a second: that costs packets nothing, and says what hashes and
//! receive queues can't. Where hardly anything flows, or a VRF doesn't count, conntracks stand in. A slot that is more than the difference
//! between two workers stays: it would only change which of them has too much to do.

use std::time::Duration;

use ctl::job_report::{LoadMeasure, MoveOutcome, MoveRow, RebalanceReport, WorkerLoad};
use dataplane::delta::SlotRef;
use dataplane::owners::Owners;
use dataplane::tables::Tables;
use dataplane::time::Instant;
use dataplane::transit::{Mover, Ways};

use super::answer::Sources;
use super::ask::Gather;
use super::jobs::millis;

/// Between the two looks at what conntracks have counted.
const MEASURED: Duration = Duration::from_secs(1);

/// Fewer packets than these in that time say nothing.
const PACKETS_MIN: u64 = 1_000;

/// Workers whose loads differ by no more than this share of the mean are left alone: one in this many.
const TOLERANCE: u64 = 10;

/// Moves of one job.
const MOVES_MAX: usize = 256;

/// Conntracks that a worker looks at in one turn.
const SLICE: usize = 512;

/// What a worker's slots have counted so far. Its memory comes from who asks: a worker only fills it.
#[derive(Debug)]
struct Look {
    /// By VRF and slot, each VRF having room for as many slots as the largest.
    counted: Vec<Counted>,
    slots_most: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    packets: u64,
    conntracks: u64,
}

impl Look {
    fn new(slots: &[u16]) -> Self {
        let slots_most = usize::from(slots.iter().copied().max().unwrap_or_default());
        Self {
            counted: vec![Counted::default(); slots.len() * slots_most],
            slots_most,
        }
    }

    const fn place(&self, at: SlotRef) -> usize {
        at.vrf.index() * self.slots_most + at.slot as usize
    }

    fn count(&mut self, at: SlotRef, packets: u64) {
        let place = self.place(at);
        if let Some(counted) = self.counted.get_mut(place) {
            counted.packets += packets;
            counted.conntracks += 1;
        }
    }

    fn of(&self, at: SlotRef) -> Counted {
        self.counted.get(self.place(at)).copied().unwrap_or_default()
    }
}

/// A slot with its worker and its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SlotLoad {
    at: SlotRef,
    worker: u16,
    load: u64,
}

/// A slot that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Planned {
    slot: SlotLoad,
    to: u16,
}

/// A rebalancing.
#[derive(Debug)]
pub(super) struct RebalanceJob {
    began: Instant,
    stage: Stage,
    only: Option<(SlotRef, u16)>,
    planned: Vec<Planned>,
    /// Moves that are over.
    over: usize,
    mover: Mover,
    report: RebalanceReport,
}

#[derive(Debug)]
enum Stage {
    First(Gather<Look>),
    Pause(Vec<Look>, Instant),
    Second(Vec<Look>, Gather<Look>),
    Moving,
    Over,
}

impl RebalanceJob {
    /// Of one slot, or of those that loads say.
    pub(super) fn new(
        only: Option<(SlotRef, u16)>,
        dry_run: bool,
        mover: Mover,
        sources: &Sources,
        now: Instant,
    ) -> Self {
        Self {
            began: now,
            stage: Stage::First(look(sources)),
            only,
            planned: Vec::new(),
            over: 0,
            mover,
            report: RebalanceReport {
                dry_run,
                ..RebalanceReport::default()
            },
        }
    }

    pub(super) const fn finished(&self) -> bool {
        self.report.finished
    }

    pub(super) const fn report(&self) -> &RebalanceReport {
        &self.report
    }

    /// What moves slots, for the next job.
    pub(super) fn into_mover(self) -> Mover {
        self.mover
    }

    /// Goes on; returns how much there was to do.
    pub(super) fn turn(&mut self, sources: &Sources, now: Instant) -> usize {
        self.report.elapsed_ms = millis(now.since(self.began));
        match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::First(mut gather) => match gather.poll() {
                Ok(None) => self.stage = Stage::First(gather),
                // What one slot has to do is of no account when it is named.
                Ok(Some(first)) if self.only.is_some() => self.plan(&first, &first, sources),
                Ok(Some(first)) => self.stage = Stage::Pause(first, now + MEASURED),
                Err(gone) => self.end(Some(gone.to_string())),
            },
            Stage::Pause(first, until) if now < until => {
                self.stage = Stage::Pause(first, until);
                return 0;
            }
            Stage::Pause(first, _) => self.stage = Stage::Second(first, look(sources)),
            Stage::Second(first, mut gather) => match gather.poll() {
                Ok(None) => self.stage = Stage::Second(first, gather),
                Ok(Some(second)) => self.plan(&first, &second, sources),
                Err(gone) => self.end(Some(gone.to_string())),
            },
            Stage::Moving => {
                self.stage = Stage::Moving;
                self.go_on(sources, now);
            }
            Stage::Over => return 0,
        }
        1
    }

    fn end(&mut self, cause: Option<String>) {
        self.stage = Stage::Over;
        self.report.finished = true;
        self.report.cause = cause;
    }

    /// Says what goes where.
    fn plan(&mut self, first: &[Look], second: &[Look], sources: &Sources) {
        let owners = &sources.shared.owners;
        let (by, loads) = measure(first, second, sources, owners);
        let workers = u16::try_from(sources.workers.len()).unwrap_or(u16::MAX);
        self.planned = match self.only {
            Some((at, to)) => {
                let slot = loads.iter().find(|slot| slot.at == at);
                slot.map(|&slot| Planned { slot, to }).into_iter().collect()
            }
            None => choose(&loads, workers),
        };
        self.report.by = by;
        self.report.workers = (0..workers).map(|worker| self.load_of(worker, &loads)).collect();
        let row = |planned: &Planned| MoveRow {
            vrf: sources.facts.names.vrf(planned.slot.at.vrf),
            slot: planned.slot.at.slot,
            from: planned.slot.worker,
            to: planned.to,
            load: planned.slot.load,
            ..MoveRow::default()
        };
        self.report.moves = self.planned.iter().map(row).collect();
        self.stage = Stage::Moving;
        if self.planned.is_empty() {
            let cause = "loads differ by less than a tenth, or no slot would make them more alike";
            self.end(Some(cause.to_owned()));
        } else if self.report.dry_run {
            self.end(None);
        }
    }

    fn load_of(&self, worker: u16, loads: &[SlotLoad]) -> WorkerLoad {
        let own = loads.iter().filter(|slot| slot.worker == worker);
        let load = own.clone().map(|slot| slot.load).sum();
        let sum = |of: &dyn Fn(&Planned) -> bool| -> u64 {
            let planned = self.planned.iter().filter(|planned| of(planned));
            planned.map(|planned| planned.slot.load).sum()
        };
        let (come, gone) = (sum(&|p| p.to == worker), sum(&|p| p.slot.worker == worker));
        WorkerLoad {
            worker,
            slots: u32::try_from(own.count()).unwrap_or(u32::MAX),
            load,
            load_then: (load + come).saturating_sub(gone),
        }
    }

    /// One move after the other.
    fn go_on(&mut self, sources: &Sources, now: Instant) {
        let ways = Ways {
            workers: &sources.workers,
            events: sources.pump_commands.len(),
            owners: &sources.shared.owners,
        };
        let outcome = if self.mover.is_idle() {
            let Some(next) = self.planned.get(self.over) else {
                return self.end(None);
            };
            self.mover.begin(next.slot.at, next.to, ways, now).err().map(Err)
        } else {
            self.mover.turn(ways, now)
        };
        let Some(outcome) = outcome else { return };
        let row = &mut self.report.moves[self.over];
        self.over += 1;
        match outcome {
            Ok(moved) => {
                row.outcome = MoveOutcome::Moved;
                row.conntracks = moved.load.conntracks;
                row.took_us = u64::try_from(moved.took.as_micros()).unwrap_or(u64::MAX);
            }
            Err(unmoved) => {
                row.outcome = MoveOutcome::Failed;
                row.cause = Some(unmoved.to_string());
            }
        }
    }
}

/// Asks every worker what its slots have counted.
fn look(sources: &Sources) -> Gather<Look> {
    Gather::sliced(&sources.workers, || {
        let (mut look, mut place) = (Some(Look::new(&sources.facts.slots)), 0);
        move |tables: &mut Tables, _| {
            for _ in 0..SLICE {
                let Some(id) = tables.conntracks.next_live(place) else {
                    return look.take();
                };
                place = id + 1;
                let conntrack = &tables.conntracks[id];
                if let Some(look) = &mut look {
                    let packets = conntrack
                        .counted()
                        .map_or(0, |counted| counted.packets.iter().sum());
                    look.count(conntrack.at(), packets);
                }
            }
            None
        }
    })
}

/// What each slot has to do.
fn measure(
    first: &[Look],
    second: &[Look],
    sources: &Sources,
    owners: &Owners,
) -> (LoadMeasure, Vec<SlotLoad>) {
    let of = |looks: &[Look], at| {
        let of_workers = looks.iter().map(|look| look.of(at));
        of_workers.fold(Counted::default(), |sum, counted| Counted {
            packets: sum.packets + counted.packets,
            conntracks: sum.conntracks + counted.conntracks,
        })
    };
    let slots = (0..).zip(&sources.facts.slots).flat_map(|(vrf, &slots)| {
        let vrf = dataplane::flow::VrfId(vrf);
        (0..slots).map(move |slot| SlotRef { vrf, slot })
    });
    let counted: Vec<(SlotRef, u64, u64)> = slots
        .map(|at| {
            let (before, now) = (of(first, at), of(second, at));
            (at, now.packets.saturating_sub(before.packets), now.conntracks)
        })
        .collect();
    let packets: u64 = counted.iter().map(|(_, packets, _)| packets).sum();
    let snapshot = sources.shared.snapshot.load();
    let by = measure_by(packets, snapshot.vrfs().iter().all(|vrf| vrf.flow_counters));
    let load = |&(at, packets, conntracks): &(SlotRef, u64, u64)| SlotLoad {
        at,
        worker: owners.worker_of(at),
        load: if by == LoadMeasure::Packets {
            packets
        } else {
            conntracks
        },
    };
    (by, counted.iter().map(load).collect())
}

/// Packets of slots can be compared only where all are counted.
const fn measure_by(packets: u64, all_count: bool) -> LoadMeasure {
    if all_count && packets >= PACKETS_MIN {
        LoadMeasure::Packets
    } else {
        LoadMeasure::Conntracks
    }
}

/// Moves that make loads more alike, each from the worker that has most to do then to the one that has least: the slot that comes
/// nearest to half of what is between them.
fn choose(loads: &[SlotLoad], workers: u16) -> Vec<Planned> {
    let mut slots = loads.to_vec();
    let mut sums = vec![0_u64; usize::from(workers)];
    for slot in &slots {
        sums[usize::from(slot.worker)] += slot.load;
    }
    let tolerance = sums.iter().sum::<u64>() / u64::from(workers.max(1)) / TOLERANCE;
    let mut planned: Vec<Planned> = Vec::new();
    while planned.len() < MOVES_MAX {
        let ranked = || (0..workers).map(|worker| (sums[usize::from(worker)], worker));
        let (Some((most, from)), Some((least, to))) = (ranked().max(), ranked().min()) else {
            break;
        };
        let between = most - least;
        if between <= tolerance {
            break;
        }
        let helps = |slot: &&mut SlotLoad| slot.worker == from && slot.load > 0 && slot.load < between;
        let half = between / 2;
        let Some(slot) = slots
            .iter_mut()
            .filter(helps)
            .min_by_key(|slot| slot.load.abs_diff(half))
        else {
            break;
        };
        let load = slot.load;
        slot.worker = to;
        sums[usize::from(from)] -= load;
        sums[usize::from(to)] += load;
        // One that has been chosen before goes on from where it would have been.
        match planned.iter_mut().find(|p| p.slot.at == slot.at) {
            Some(before) => before.to = to,
            None => planned.push(Planned {
                slot: SlotLoad {
                    worker: from,
                    ..*slot
                },
                to,
            }),
        }
    }
    planned.retain(|p| p.slot.worker != p.to);
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(loads: &[(u16, u64)]) -> Vec<SlotLoad> {
        let slot = |(slot, &(worker, load)): (u16, &(u16, u64))| SlotLoad {
            at: SlotRef {
                slot,
                ..SlotRef::default()
            },
            worker,
            load,
        };
        (0..).zip(loads).map(slot).collect()
    }

    fn moves(loads: &[(u16, u64)], workers: u16) -> Vec<(u16, u16, u16)> {
        let planned = choose(&slots(loads), workers);
        planned
            .iter()
            .map(|p| (p.slot.at.slot, p.slot.worker, p.to))
            .collect()
    }

    #[test]
    fn packets_are_compared_where_there_are_many_and_all_are_counted() {
        assert_eq!(measure_by(PACKETS_MIN, true), LoadMeasure::Packets);
        assert_eq!(measure_by(PACKETS_MIN - 1, true), LoadMeasure::Conntracks);
        assert_eq!(measure_by(u64::MAX, false), LoadMeasure::Conntracks);
    }

    #[test]
    fn what_is_even_enough_stays() {
        assert_eq!(moves(&[(0, 100), (1, 95)], 2), []);
        assert_eq!(moves(&[(0, 0), (1, 0)], 2), []);
        assert_eq!(moves(&[], 3), []);
    }

    #[test]
    fn the_slot_goes_that_makes_two_workers_most_alike() {
        assert_eq!(moves(&[(0, 10), (0, 40), (0, 70), (1, 30)], 2), [(1, 0, 1)]);
        assert_eq!(moves(&[(0, 50), (0, 50), (0, 50)], 3), [(0, 0, 1), (1, 0, 2)]);
    }

    #[test]
    fn one_slot_that_is_too_much_for_any_worker_gets_one_for_itself() {
        assert_eq!(moves(&[(0, 1_000), (1, 10)], 2), []);
        let planned = moves(&[(0, 1_000), (0, 400), (0, 300), (1, 10)], 2);
        assert_eq!(planned, [(0, 0, 1), (3, 1, 0)]);
    }

    #[test]
    fn any_loads_end_no_less_even_and_no_slot_goes_twice() {
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let workers = 1 + u16::try_from(random(8)).unwrap();
            let loads: Vec<(u16, u64)> = (0..64)
                .map(|_| (u16::try_from(random(u64::from(workers))).unwrap(), random(1_000)))
                .collect();
            let planned = choose(&slots(&loads), workers);
            let mut seen: Vec<u16> = planned.iter().map(|p| p.slot.at.slot).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), planned.len());
            let mut sums = vec![0_u64; usize::from(workers)];
            for (worker, load) in &loads {
                sums[usize::from(*worker)] += load;
            }
            let before = sums.iter().max().unwrap() - sums.iter().min().unwrap();
            for p in &planned {
                assert_eq!(loads[usize::from(p.slot.at.slot)].0, p.slot.worker);
                sums[usize::from(p.slot.worker)] -= p.slot.load;
                sums[usize::from(p.to)] += p.slot.load;
            }
            let after = sums.iter().max().unwrap() - sums.iter().min().unwrap();
            assert!(after <= before, "{before} → {after}");
        }
    }
}
