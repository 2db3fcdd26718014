//! Which worker has which slot: the one place that says so, for workers and event threads alike.
//!
//! Made at start; read with one load per packet and per record. Until somebody changes it, it says what
//! [`first_worker_of`] says.

use crate::atomic::{AtomicU16, Ordering};
use crate::delta::SlotRef;
use crate::shard::first_worker_of;

/// The worker of every slot.
#[derive(Debug)]
pub struct Owners {
    /// By VRF and slot, each VRF having room for as many slots as the largest.
    workers: Box<[AtomicU16]>,
    slots_most: usize,
}

impl Owners {
    /// Slots are dealt out to `workers` workers, whose changes go by `lanes` lanes.
    #[must_use]
    pub fn new(workers: u16, lanes: u16, slots_per_vrf: &[u16]) -> Self {
        let slots_most = slots_per_vrf.iter().copied().max().unwrap_or_default();
        let dealt = (0..slots_per_vrf.len()).flat_map(|_| 0..slots_most);
        Self {
            workers: dealt
                .map(|slot| AtomicU16::new(first_worker_of(slot, workers, lanes)))
                .collect(),
            slots_most: usize::from(slots_most),
        }
    }

    /// The worker that has the slot. Of a slot that isn't there: the first one.
    #[inline]
    #[must_use]
    pub fn worker_of(&self, at: SlotRef) -> u16 {
        let place = at.vrf.index() * self.slots_most + usize::from(at.slot);
        self.workers
            .get(place)
            .map_or(0, |worker| worker.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
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
    }
}
