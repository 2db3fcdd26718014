//! What has come of each VRF on one connection, slot by slot, and what the peer calls its slots.
//!
//! A slot is open from its begin until the direction turns, or something of it could not be read; then it is closed,
//! and nothing of it is handed on before the next begin.

use dataplane::delta::{SlotRef, Version};
use dataplane::flow::VrfId;

use crate::flow_record::Stream;
use crate::resync::Sent;

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
    awaited: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Generation whose begin was handed on; 0 while the slot is closed.
    generation: u32,
    verified: bool,
    /// The peer has asked about it, begun it or has to send it again, and it is not verified.
    awaited: bool,
    /// Version of the last live record handed on.
    last: Version,
    /// How much of it the generation has brought so far; none behind its end.
    walk: Option<Sent>,
    /// How much the last ended generation has brought.
    sent: Option<Sent>,
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
            ..Import::default()
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

    /// Whether this generation of the slot is verified.
    pub(super) fn has_verified(&self, at: SlotRef, generation: u32) -> bool {
        self.slot(at)
            .is_some_and(|slot| slot.verified && slot.generation == generation)
    }

    /// Slots of a VRF that are verified.
    pub(super) fn verified(&self, vrf: VrfId) -> u32 {
        self.vrfs.get(vrf.index()).map_or(0, |i| i.verified)
    }

    /// Slots of a VRF that are awaited.
    pub(super) fn awaited(&self, vrf: VrfId) -> u32 {
        self.vrfs.get(vrf.index()).map_or(0, |i| i.awaited)
    }

    /// What the peer calls `number`.
    pub(super) fn stream(&self, number: u16) -> Option<Stream> {
        let at = self.streams.get(usize::from(number)).copied().flatten()?;
        let last = self.slot(at)?.last;
        Some(Stream { number, at, last })
    }

    /// The slot's begin was handed on; records name the slot by its stream from now on. True when it was not awaited.
    pub(super) fn open(&mut self, stream: &Stream, generation: u32, walk: Sent) -> bool {
        let open = Slot {
            generation,
            verified: false,
            awaited: true,
            last: stream.last,
            walk: Some(walk),
            sent: None,
        };
        let fresh = self.set(stream.at, open);
        let number = usize::from(stream.number);
        if self.streams.len() <= number {
            self.streams.resize(number + 1, None);
        }
        self.streams[number] = Some(stream.at);
        fresh
    }

    /// Nothing more of the slot is handed on: the peer has to send it again. True when it was not awaited.
    pub(super) fn close(&mut self, at: SlotRef) -> bool {
        let closed = Slot {
            awaited: true,
            ..Slot::default()
        };
        self.set(at, closed)
    }

    /// The slot is not, or no longer, what the peer has of it. True when it was not awaited.
    pub(super) fn want(&mut self, at: SlotRef) -> bool {
        let Some(slot) = self.slot(at).copied() else {
            return false;
        };
        let wanted = Slot {
            verified: false,
            awaited: true,
            ..slot
        };
        self.set(at, wanted)
    }

    /// A record that is not live came.
    pub(super) fn walked(&mut self, at: SlotRef) {
        if let Some(Slot { walk: Some(walk), .. }) = self.slot_mut(at) {
            walk.walked();
        }
    }

    /// The slot's end came.
    pub(super) fn ended(&mut self, at: SlotRef) {
        if let Some(slot) = self.slot_mut(at) {
            slot.sent = slot.walk.take();
        }
    }

    /// Live records of the slot have come to this version.
    pub(super) fn streamed(&mut self, at: SlotRef, last: Version) {
        if let Some(slot) = self.slot_mut(at) {
            slot.last = last;
        }
    }

    /// The slot is what the peer has of it. Gives how much of it had to come; none when it wasn't awaited.
    pub(super) fn verify(&mut self, at: SlotRef) -> Option<Sent> {
        let slot = self.slot(at).copied().filter(|slot| slot.awaited)?;
        let verified = Slot {
            verified: true,
            awaited: false,
            ..slot
        };
        self.set(at, verified);
        slot.sent
    }

    fn slot(&self, at: SlotRef) -> Option<&Slot> {
        self.vrfs.get(at.vrf.index())?.slots.get(usize::from(at.slot))
    }

    fn slot_mut(&mut self, at: SlotRef) -> Option<&mut Slot> {
        self.vrfs
            .get_mut(at.vrf.index())?
            .slots
            .get_mut(usize::from(at.slot))
    }

    /// The one place where a slot is verified or awaited, so that the counts stay right. True when it has become awaited.
    fn set(&mut self, at: SlotRef, to: Slot) -> bool {
        let Some(import) = self.vrfs.get_mut(at.vrf.index()) else {
            return false;
        };
        let Some(slot) = import.slots.get_mut(usize::from(at.slot)) else {
            return false;
        };
        import.verified += u32::from(to.verified);
        import.verified -= u32::from(slot.verified);
        import.awaited += u32::from(to.awaited);
        import.awaited -= u32::from(slot.awaited);
        let fresh = to.awaited && !slot.awaited;
        *slot = to;
        fresh
    }
}
