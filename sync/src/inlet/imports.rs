//! What has come of each VRF on one connection, slot by slot, and what the peer calls its slots.
//!
//! A slot is open from its begin until the direction turns, or something of it could not be read; then it is closed,
//! and nothing of it is handed on before the next begin.

use dataplane::delta::{SlotRef, Version};
use dataplane::flow::VrfId;

use crate::flow_record::Stream;

/// By VRF.
#[derive(Debug)]
pub(super) struct Imports {
    vrfs: Vec<Import>,
    /// What the peer calls the slots it has begun, at most as many as two bytes can tell apart.
    streams: Vec<Option<SlotRef>>,
}

/// What has come of one VRF on this connection.
#[derive(Debug, Default)]
struct Import {
    /// State flows from the peer to us, at this moment.
    accepts: bool,
    slots: Vec<Slot>,
    verified: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Generation whose begin was handed on; 0 while the slot is closed.
    generation: u32,
    verified: bool,
    /// Version of the last live record handed on.
    last: Version,
}

impl Imports {
    /// Of so many VRFs, none of which may come in yet.
    pub(super) fn new(vrfs: usize) -> Self {
        Self {
            vrfs: (0..vrfs).map(|_| Import::default()).collect(),
            streams: Vec::new(),
        }
    }

    /// Number of VRFs.
    pub(super) const fn vrfs(&self) -> usize {
        self.vrfs.len()
    }

    /// Whether state of a VRF may come in.
    pub(super) fn is_accepting(&self, vrf: VrfId) -> bool {
        self.vrfs.get(vrf.index()).is_some_and(|import| import.accepts)
    }

    /// Whether a slot may be begun.
    pub(super) fn accepts(&self, at: SlotRef) -> bool {
        self.vrfs
            .get(at.vrf.index())
            .is_some_and(|i| i.accepts && usize::from(at.slot) < i.slots.len())
    }

    /// The direction of a VRF turns: all its slots are closed, and from now on it has as many as given, or none may come
    /// in. Gives those that were open, with their generations.
    pub(super) fn turn(
        &mut self,
        vrf: VrfId,
        slots: Option<u16>,
    ) -> impl Iterator<Item = (SlotRef, u32)> + use<> {
        let fresh = Import {
            accepts: slots.is_some(),
            slots: vec![Slot::default(); usize::from(slots.unwrap_or(0))],
            verified: 0,
        };
        let former = core::mem::replace(&mut self.vrfs[vrf.index()], fresh);
        (0u16..)
            .zip(former.slots)
            .filter(|(_, state)| state.generation != 0)
            .map(move |(slot, state)| (SlotRef { vrf, slot }, state.generation))
    }

    /// Generation whose begin was handed on; 0 while the slot is closed.
    pub(super) fn generation(&self, at: SlotRef) -> u32 {
        self.slot(at).map_or(0, |slot| slot.generation)
    }

    /// Slots of a VRF that are verified.
    pub(super) fn verified(&self, vrf: VrfId) -> u32 {
        self.vrfs.get(vrf.index()).map_or(0, |i| i.verified)
    }

    /// What the peer calls `number`.
    pub(super) fn stream(&self, number: u16) -> Option<Stream> {
        let at = self.streams.get(usize::from(number)).copied().flatten()?;
        let last = self.slot(at)?.last;
        Some(Stream { number, at, last })
    }

    /// The slot's begin was handed on; records name the slot by `number` from now on.
    pub(super) fn open(&mut self, at: SlotRef, number: u16, generation: u32, version: Version) {
        let open = Slot {
            generation,
            verified: false,
            last: version,
        };
        self.set(at, open);
        let number = usize::from(number);
        if self.streams.len() <= number {
            self.streams.resize(number + 1, None);
        }
        self.streams[number] = Some(at);
    }

    /// Nothing more of the slot is handed on.
    pub(super) fn close(&mut self, at: SlotRef) {
        self.set(at, Slot::default());
    }

    /// Live records of the slot have come to this version.
    pub(super) fn streamed(&mut self, at: SlotRef, last: Version) {
        let import = self.vrfs.get_mut(at.vrf.index());
        if let Some(slot) = import.and_then(|i| i.slots.get_mut(usize::from(at.slot))) {
            slot.last = last;
        }
    }

    /// Whether the slot is what the peer has of it.
    pub(super) fn set_verified(&mut self, at: SlotRef, verified: bool) {
        if let Some(slot) = self.slot(at).copied() {
            self.set(at, Slot { verified, ..slot });
        }
    }

    fn slot(&self, at: SlotRef) -> Option<&Slot> {
        self.vrfs.get(at.vrf.index())?.slots.get(usize::from(at.slot))
    }

    /// The one place where a slot is verified or not, so that the count stays right.
    fn set(&mut self, at: SlotRef, to: Slot) {
        let Some(import) = self.vrfs.get_mut(at.vrf.index()) else {
            return;
        };
        let Some(slot) = import.slots.get_mut(usize::from(at.slot)) else {
            return;
        };
        import.verified += u32::from(to.verified);
        import.verified -= u32::from(slot.verified);
        *slot = to;
    }
}
