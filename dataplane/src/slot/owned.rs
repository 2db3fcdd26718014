//! All slots of a worker.
//!
//! Made with the worker and never moved: which slots are its own follows from the number of workers alone.

use crate::delta::SlotRef;
use crate::flow::VrfId;
use crate::prefetch::prefetch;
use crate::resync::{Absent, Incoming};
use crate::shard::worker_of;
use crate::slot::Slot;

/// No place: beyond every list, since slot counts are 16 bits too.
const ELSEWHERE: u16 = u16::MAX;

/// All slots a worker owns.
#[derive(Debug)]
pub struct Slots {
    worker: u16,
    workers: u16,
    /// Where each slot number is in its VRF's list; [`ELSEWHERE`] for another worker's. Divisions are slow.
    places: Box<[u16]>,
    vrfs: Vec<Vec<Slot>>,
}

impl Slots {
    /// Slots of worker `worker` of `workers`, for VRFs with the given slot counts.
    #[must_use]
    pub fn new(worker: u16, workers: u16, slots_per_vrf: &[u16]) -> Self {
        let owned = |slots: u16| (worker..slots).step_by(usize::from(workers)).count();
        let most = slots_per_vrf.iter().copied().max().unwrap_or_default();
        let place = |slot| {
            if worker_of(slot, workers) == worker {
                slot / workers
            } else {
                ELSEWHERE
            }
        };
        Self {
            worker,
            workers,
            places: (0..most).map(place).collect(),
            vrfs: slots_per_vrf
                .iter()
                .map(|&slots| (0..owned(slots)).map(|_| Slot::default()).collect())
                .collect(),
        }
    }

    /// The slot, when this worker owns it.
    #[must_use]
    pub fn get(&self, at: SlotRef) -> Option<&Slot> {
        let place = *self.places.get(usize::from(at.slot))?;
        self.vrfs.get(at.vrf.index())?.get(usize::from(place))
    }

    /// The slot, to change.
    pub fn get_mut(&mut self, at: SlotRef) -> Option<&mut Slot> {
        let place = *self.places.get(usize::from(at.slot))?;
        self.vrfs.get_mut(at.vrf.index())?.get_mut(usize::from(place))
    }

    /// Asks for what a change of one of the slot's entries touches.
    #[inline]
    pub(crate) fn expect(&self, at: SlotRef) {
        if let Some(slot) = self.get(at) {
            prefetch(&slot.version);
            prefetch(&slot.history);
            prefetch(&slot.streams);
        }
    }

    /// The `index`th of a VRF's slots that this worker owns.
    #[must_use]
    pub fn nth(&self, vrf: VrfId, index: usize) -> Option<SlotRef> {
        let owned = self.vrfs.get(vrf.index())?.len();
        let number = usize::from(self.worker) + index * usize::from(self.workers);
        (index < owned)
            .then(|| u16::try_from(number).ok())?
            .map(|slot| SlotRef { vrf, slot })
    }

    /// This node was active for the VRF and no longer is: its slots may hold what nobody was told, and lack what came
    /// meanwhile. Says of each slot whose stream it had closed for the time of its reign where it came from.
    pub(crate) fn demoted(&mut self, vrf: VrfId, mut closed: impl FnMut(SlotRef, Incoming)) {
        let slots = self.vrfs.get_mut(vrf.index()).map_or(&mut [][..], |v| v);
        for (number, slot) in (self.worker..).step_by(usize::from(self.workers)).zip(slots) {
            slot.own_hand = true;
            // What it lacked as a standby it lacks still, but counts no longer. Where nothing was written since, its version is
            // that of the node that had written it, and says more than is here.
            slot.untold |= slot.absent.sum.count > 0 && !slot.history.is_own();
            slot.absent.clear();
            if let Some(source) = slot.source.take() {
                closed(SlotRef { vrf, slot: number }, source);
            }
        }
    }

    /// Every slot of a VRF with its number.
    pub fn of_vrf(&self, vrf: VrfId) -> impl Iterator<Item = (u16, &Slot)> {
        let slots = self.vrfs.get(vrf.index()).map_or(&[][..], Vec::as_slice);
        (self.worker..).step_by(usize::from(self.workers)).zip(slots)
    }

    /// Bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let each = size_of::<Slot>() + Absent::BYTES_BESIDE;
        self.vrfs.iter().map(|v| v.len() * each).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_exactly_one_owner() {
        for workers in 1..=5_u16 {
            let all: Vec<Slots> = (0..workers).map(|w| Slots::new(w, workers, &[64, 7])).collect();
            let owned: usize = all.iter().map(|s| s.vrfs[0].len()).sum();
            assert_eq!(owned, 64);
            for slot in 0..7 {
                let at = SlotRef { vrf: VrfId(1), slot };
                let owners = all.iter().filter(|s| s.get(at).is_some()).count();
                assert_eq!(owners, 1);
            }
        }
    }
}
