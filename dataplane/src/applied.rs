//! How far each worker has come with what event threads handed it: the number behind every ACK.
//!
//! Created at start; written by a worker after it has absorbed items of a [`ToWorker`](crate::delta::ToWorker)
//! ring; read by that ring's event thread, which acknowledges a frame only when all items it pushed for it have
//! been processed. So an ACK means applied, and a standing absorb stage holds the watermark still.

use crate::atomic::{AtomicU64, Ordering};

/// Items processed, per worker and event thread, since start.
#[derive(Debug)]
pub struct AppliedCounters {
    cells: Vec<Cell>,
    events: usize,
}

/// One counter alone on its cache lines: workers must not slow one another down by counting.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell(AtomicU64);

impl AppliedCounters {
    /// All zero, for `workers` × `events` rings.
    #[must_use]
    pub fn new(workers: usize, events: usize) -> Self {
        Self {
            cells: (0..workers * events).map(|_| Cell::default()).collect(),
            events,
        }
    }

    /// Adds `items` processed by `worker` from the ring of `event`. Only that worker may call it.
    pub fn add(&self, worker: usize, event: usize, items: u64) {
        let cell = &self.cells[worker * self.events + event].0;
        // One writer: a load and a store, not a read-modify-write.
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(items),
            Ordering::Release,
        );
    }

    /// Items processed by `worker` from the ring of `event`.
    #[must_use]
    pub fn get(&self, worker: usize, event: usize) -> u64 {
        self.cells[worker * self.events + event].0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::AppliedCounters;

    #[test]
    fn each_worker_and_event_thread_has_its_own_count() {
        let applied = AppliedCounters::new(2, 3);
        applied.add(1, 2, 5);
        applied.add(1, 2, 1);
        applied.add(0, 2, 9);
        assert_eq!(applied.get(1, 2), 6);
        assert_eq!(applied.get(0, 2), 9);
        assert_eq!(applied.get(1, 1), 0);
    }
}

/// Every interleaving of a worker that counts and of an event thread that acknowledges.
#[cfg(all(test, loom))]
mod interleavings {
    use loom::sync::Arc;
    use loom::thread;

    use super::AppliedCounters;
    use crate::atomic::{AtomicU64, Ordering};

    #[test]
    fn what_is_counted_was_applied() {
        loom::model(|| {
            let applied = Arc::new(AppliedCounters::new(1, 1));
            let table = Arc::new(AtomicU64::new(0));
            let (counts, writes) = (Arc::clone(&applied), Arc::clone(&table));
            let worker = thread::spawn(move || {
                for item in 1..=2 {
                    writes.store(item, Ordering::Relaxed);
                    counts.add(0, 0, 1);
                }
            });
            let first = applied.get(0, 0);
            assert!(table.load(Ordering::Relaxed) >= first);
            let second = applied.get(0, 0);
            assert!(second >= first && table.load(Ordering::Relaxed) >= second);
            worker.join().unwrap();
            assert_eq!(applied.get(0, 0), 2);
        });
    }
}
