//! All slots of a worker.
//!
//! Each is made at start, on its own in memory, so that it can change hands as it is: the packet path looks a slot up by its
//! number, and finds it in one step more than an array of them would take.

use crate::delta::SlotRef;
use crate::flow::VrfId;
use crate::prefetch::prefetch;
use crate::resync::{Absent, Incoming};
use crate::shard::first_worker_of;
use crate::slot::Slot;

/// All slots a worker owns.
#[derive(Debug)]
pub struct Slots {
    /// By VRF and slot; none for another worker's.
    vrfs: Vec<Box<[Option<Box<Slot>>]>>,
}

impl Slots {
    /// Slots that worker `worker` of `workers`, which feed `lanes` lanes, has at first, of VRFs with the given slot counts.
    #[must_use]
    pub fn new(worker: u16, (workers, lanes): (u16, u16), slots_per_vrf: &[u16]) -> Self {
        let place = |slot| (first_worker_of(slot, workers, lanes) == worker).then(Box::default);
        Self {
            vrfs: slots_per_vrf
                .iter()
                .map(|&slots| (0..slots).map(place).collect())
                .collect(),
        }
    }

    /// The slot, when this worker owns it.
    #[must_use]
    pub fn get(&self, at: SlotRef) -> Option<&Slot> {
        self.vrfs
            .get(at.vrf.index())?
            .get(usize::from(at.slot))?
            .as_deref()
    }

    /// The slot, to change.
    pub fn get_mut(&mut self, at: SlotRef) -> Option<&mut Slot> {
        self.vrfs
            .get_mut(at.vrf.index())?
            .get_mut(usize::from(at.slot))?
            .as_deref_mut()
    }

    /// Takes the slot away, if this worker owns it.
    pub(crate) fn take(&mut self, at: SlotRef) -> Option<Box<Slot>> {
        self.vrfs
            .get_mut(at.vrf.index())?
            .get_mut(usize::from(at.slot))?
            .take()
    }

    /// The worker owns the slot from now on.
    pub(crate) fn put(&mut self, at: SlotRef, slot: Box<Slot>) {
        let slots = self.vrfs.get_mut(at.vrf.index());
        if let Some(place) = slots.and_then(|slots| slots.get_mut(usize::from(at.slot))) {
            *place = Some(slot);
        }
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

    /// The first of a VRF's slots from number `from` on that this worker owns.
    #[must_use]
    pub fn next_from(&self, vrf: VrfId, from: u16) -> Option<SlotRef> {
        let rest = self.vrfs.get(vrf.index())?.get(usize::from(from)..)?;
        let own = rest.iter().position(Option::is_some)?;
        let slot = from + u16::try_from(own).ok()?;
        Some(SlotRef { vrf, slot })
    }

    /// This node was active for the VRF and no longer is: its slots may hold what nobody was told, and lack what came
    /// meanwhile. Says of each slot whose stream it had closed for the time of its reign where it came from.
    pub(crate) fn demoted(&mut self, vrf: VrfId, mut closed: impl FnMut(SlotRef, Incoming)) {
        let slots = self.vrfs.get_mut(vrf.index()).map_or(&mut [][..], |v| v);
        for (number, slot) in (0..).zip(slots) {
            if let Some(slot) = slot
                && let Some(source) = slot.demoted()
            {
                closed(SlotRef { vrf, slot: number }, source);
            }
        }
    }

    /// Every slot of a VRF that this worker owns, with its number.
    pub fn of_vrf(&self, vrf: VrfId) -> impl Iterator<Item = (u16, &Slot)> {
        let slots = self.vrfs.get(vrf.index()).map_or(&[][..], |v| v);
        (0..)
            .zip(slots)
            .filter_map(|(number, slot)| Some((number, slot.as_deref()?)))
    }

    /// Bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let each = size_of::<Slot>() + Absent::BYTES_BESIDE;
        let slots = self.vrfs.iter().flatten();
        slots.clone().flatten().count() * each + slots.count() * size_of::<Option<Box<Slot>>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_exactly_one_owner() {
        for workers in 1..=5_u16 {
            let all: Vec<Slots> = (0..workers)
                .map(|w| Slots::new(w, (workers, 2), &[64, 7]))
                .collect();
            let owned: usize = all.iter().map(|s| s.of_vrf(VrfId(0)).count()).sum();
            assert_eq!(owned, 64);
            for slot in 0..7 {
                let at = SlotRef { vrf: VrfId(1), slot };
                let owners = all.iter().filter(|s| s.get(at).is_some()).count();
                assert_eq!(owners, 1);
            }
        }
    }

    #[test]
    fn a_round_meets_every_slot_once() {
        let slots = Slots::new(1, (3, 2), &[20]);
        let vrf = VrfId(0);
        let step = |at: &SlotRef| slots.next_from(vrf, at.slot + 1);
        let round = core::iter::successors(slots.next_from(vrf, 0), step);
        let numbers: Vec<u16> = round.map(|at| at.slot).collect();
        assert_eq!(numbers, [2, 3, 8, 9, 14, 15]);
        assert!(slots.next_from(vrf, 20).is_none() && slots.next_from(VrfId(1), 0).is_none());
    }
}
