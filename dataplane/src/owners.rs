//! Which worker has which slot: the one place that says so, for workers and event threads alike.
//!
//! Made at start; read with one load per packet and per record. Until somebody changes it, it says what [`first_worker_of`] says.
//! One thread changes it, the one that has slots change hands ([`crate::transit`]), and has to know when nobody goes by the
//! former word any more: every thread looks once per turn whether there is a new one, and says that it has seen it. What it did
//! in earlier turns it has done by then. Records go to another worker before packets do, so that no packet has to wait until an
//! event thread has looked.

use crate::atomic::{AtomicU16, AtomicU64, Ordering};
use crate::delta::SlotRef;
use crate::shard::first_worker_of;

/// The worker of every slot.
#[derive(Debug)]
pub struct Owners {
    /// By VRF and slot, each VRF having room for as many slots as the largest.
    workers: Box<[AtomicU16]>,
    /// The same, for what peers send of the slot: another one only while the slot changes hands.
    receivers: Box<[AtomicU16]>,
    /// And for what peers answer about records that packets wait for: the worker where these packets are.
    askers: Box<[AtomicU16]>,
    slots_most: usize,
    /// Changes so far.
    changes: AtomicU64,
    /// By thread, workers first and then event threads: the latest change it has seen.
    seen: Box<[Cell]>,
    first_event: usize,
    /// The latest change of which the event thread of its slot has everything that the former worker had to tell.
    left: AtomicU64,
    /// The latest change whose slot is all at its worker.
    arrived: AtomicU64,
}

/// One word alone on its cache lines: threads must not slow one another down by looking.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell(AtomicU64);

impl Owners {
    /// Slots are dealt out to `workers` workers, whose changes go by `lanes` lanes.
    #[must_use]
    pub fn new(workers: u16, lanes: u16, slots_per_vrf: &[u16]) -> Self {
        let slots_most = slots_per_vrf.iter().copied().max().unwrap_or_default();
        let dealt = || {
            let slots = (0..slots_per_vrf.len()).flat_map(|_| 0..slots_most);
            let word = |slot| AtomicU16::new(first_worker_of(slot, workers, lanes));
            slots.map(word).collect()
        };
        Self {
            workers: dealt(),
            receivers: dealt(),
            askers: dealt(),
            slots_most: usize::from(slots_most),
            changes: AtomicU64::new(0),
            seen: (0..workers + lanes).map(|_| Cell::default()).collect(),
            first_event: usize::from(workers),
            left: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
        }
    }

    /// The worker that has the slot. Of a slot that isn't there: the first one.
    #[inline]
    #[must_use]
    pub fn worker_of(&self, at: SlotRef) -> u16 {
        self.read(&self.workers, at)
    }

    /// The worker that takes in what peers send of the slot.
    #[must_use]
    pub fn receiver_of(&self, at: SlotRef) -> u16 {
        self.read(&self.receivers, at)
    }

    /// The worker whose packets wait for what peers say about records of the slot.
    #[must_use]
    pub fn asker_of(&self, at: SlotRef) -> u16 {
        self.read(&self.askers, at)
    }

    /// None of the former worker's packets waits any more. To be called by it, before its marker goes into the ring of records:
    /// what the new one asks behind that is answered to the new one.
    pub(crate) fn change_asker(&self, at: SlotRef, worker: u16) {
        if let Some(word) = self.askers.get(self.place(at)) {
            word.store(worker, Ordering::Relaxed);
        }
    }

    #[inline]
    fn read(&self, table: &[AtomicU16], at: SlotRef) -> u16 {
        table
            .get(self.place(at))
            .map_or(0, |worker| worker.load(Ordering::Relaxed))
    }

    #[inline]
    fn place(&self, at: SlotRef) -> usize {
        at.vrf.index() * self.slots_most + usize::from(at.slot)
    }

    /// What peers send of the slot goes to another worker from now on. Gives the number of the change. Only one thread may
    /// change anything.
    pub fn change_receiver(&self, at: SlotRef, worker: u16) -> u64 {
        self.write(&self.receivers, at, worker)
    }

    /// Another worker has the slot from now on. Gives the number of the change. Only one thread may change anything.
    pub fn change(&self, at: SlotRef, worker: u16) -> u64 {
        self.write(&self.workers, at, worker)
    }

    fn write(&self, table: &[AtomicU16], at: SlotRef, worker: u16) -> u64 {
        if let Some(word) = table.get(self.place(at)) {
            word.store(worker, Ordering::Relaxed);
        }
        let number = self.changes.load(Ordering::Relaxed) + 1;
        self.changes.store(number, Ordering::Release);
        number
    }

    /// Number of the latest change.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// To be called by a worker when its turn begins.
    #[inline]
    pub fn look_as_worker(&self, worker: u16) {
        self.look(usize::from(worker));
    }

    /// To be called by an event thread when its turn begins.
    pub fn look_as_event(&self, event: u16) {
        self.look(self.first_event + usize::from(event));
    }

    #[inline]
    fn look(&self, thread: usize) {
        // What the table says is visible with the number.
        let latest = self.changes.load(Ordering::Acquire);
        if let Some(Cell(seen)) = self.seen.get(thread)
            && seen.load(Ordering::Relaxed) != latest
        {
            // And what this thread did before is visible with its word.
            seen.store(latest, Ordering::Release);
        }
    }

    /// Whether every worker goes by a change.
    #[must_use]
    pub fn workers_see(&self, number: u64) -> bool {
        all_see(&self.seen[..self.first_event], number)
    }

    /// Whether every event thread goes by a change.
    #[must_use]
    pub fn events_see(&self, number: u64) -> bool {
        all_see(&self.seen[self.first_event..], number)
    }

    /// The event thread of the slot has everything that its former worker had to tell.
    pub fn leave(&self, number: u64) {
        self.left.store(number, Ordering::Release);
    }

    /// Whether that is so.
    #[must_use]
    pub fn has_left(&self, number: u64) -> bool {
        self.left.load(Ordering::Acquire) >= number
    }

    /// The worker has everything of the slot, and nothing waits for the move any more.
    pub(crate) fn arrive(&self, number: u64) {
        self.arrived.store(number, Ordering::Release);
    }

    /// Whether that is so.
    #[must_use]
    pub fn has_arrived(&self, number: u64) -> bool {
        self.arrived.load(Ordering::Acquire) >= number
    }
}

fn all_see(threads: &[Cell], number: u64) -> bool {
    threads
        .iter()
        .all(|Cell(seen)| seen.load(Ordering::Acquire) >= number)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::flow::VrfId;
    use crate::shard::lane_of;

    #[test]
    fn every_worker_feeds_every_lane_evenly() {
        for (workers, lanes) in [(1, 1), (2, 2), (3, 2), (4, 4), (2, 8), (7, 3)] {
            let owners = Owners::new(workers, lanes, &[7, 512]);
            let mut slots = vec![0_u16; usize::from(workers * lanes)];
            for slot in 0..512 {
                let at = SlotRef { vrf: VrfId(1), slot };
                let pair = owners.worker_of(at) * lanes + lane_of(slot, lanes);
                slots[usize::from(pair)] += 1;
            }
            let (least, most) = (slots.iter().min().unwrap(), slots.iter().max().unwrap());
            assert!(most - least <= 1, "{workers} workers, {lanes} lanes: {slots:?}");
        }
    }

    #[test]
    fn a_slot_that_is_not_there_means_nothing_worse_than_a_worker() {
        let owners = Owners::new(3, 1, &[4]);
        let at = |vrf, slot| SlotRef {
            vrf: VrfId(vrf),
            slot,
        };
        assert_eq!(owners.worker_of(at(0, 2)), 2);
        assert_eq!(owners.worker_of(at(0, 4)), 0);
        assert_eq!(owners.worker_of(at(9, 1)), 0);
        owners.change(at(9, 1), 2);
        assert_eq!(owners.worker_of(at(9, 1)), 0);
    }

    #[test]
    fn a_change_is_seen_when_every_thread_has_begun_a_turn() {
        let owners = Owners::new(2, 1, &[8, 8]);
        let at = SlotRef {
            vrf: VrfId(1),
            slot: 3,
        };
        assert_eq!(owners.worker_of(at), 1);
        let number = owners.change(at, 0);
        assert_eq!(owners.worker_of(at), 0);
        assert_eq!(owners.worker_of(SlotRef { slot: 3, ..at }), 0);
        assert_eq!(owners.worker_of(SlotRef { vrf: VrfId(0), ..at }), 1);
        owners.look_as_worker(0);
        owners.look_as_worker(1);
        assert!(owners.workers_see(number) && !owners.events_see(number));
        assert_eq!(owners.receiver_of(at), 1);
        let number = owners.change_receiver(at, 0);
        assert_eq!((owners.receiver_of(at), owners.asker_of(at)), (0, 1));
        owners.change_asker(at, 0);
        assert_eq!(owners.asker_of(at), 0);
        owners.look_as_event(0);
        assert!(owners.events_see(number) && !owners.workers_see(number));
        assert!(!owners.has_left(number) && !owners.has_arrived(number));
        owners.leave(number);
        owners.arrive(number);
        assert!(owners.has_left(number) && owners.has_arrived(number));
    }
}

#[cfg(all(test, loom))]
mod interleavings {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Whoever hears that a change was seen by a thread sees what that thread did before, and that thread sees the change.
    #[test]
    fn a_thread_that_has_seen_a_change_has_done_everything_else_before() {
        loom::model(|| {
            let at = SlotRef::default();
            let owners = Arc::new(Owners::new(2, 1, &[1]));
            let pushed = Arc::new(AtomicU64::new(0));
            owners.look_as_worker(0);
            let worker = {
                let (owners, pushed) = (Arc::clone(&owners), Arc::clone(&pushed));
                thread::spawn(move || {
                    for _ in 0..2 {
                        owners.look_as_worker(1);
                        if owners.worker_of(at) == 0 {
                            pushed.store(pushed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        }
                    }
                })
            };
            let number = owners.change(at, 1);
            owners.look_as_worker(0);
            if owners.workers_see(number) {
                let before = pushed.load(Ordering::Relaxed);
                worker.join().unwrap();
                assert_eq!(
                    pushed.load(Ordering::Relaxed),
                    before,
                    "it went by the former word"
                );
            } else {
                worker.join().unwrap();
            }
        });
    }
}
