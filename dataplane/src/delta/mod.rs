//! What travels to the peer: one record per change of one entry, and the markers around a slot's resync.
//!
//! Born when a worker takes an entry off its dirty list at the end of a turn; carried by a ring to an event
//! thread, framed, sent, decoded by the peer's event thread, steered to the worker that owns the slot there,
//! applied, and acknowledged only then. Everything here is portable once an event thread has exchanged the
//! local VRF index for the VRF's name: no index, pointer or clock time of one node means anything to another.

mod item;
mod marker;
mod record;
mod version;

pub use self::item::{LaneTag, SlotRef, ToEvent, ToWorker};
pub use self::marker::{Listed, Mark, Marked, SlotEnd, SlotOffer, Wanted};
pub use self::record::{
    BlockRecord, Class, DelRecord, Delta, Handle, Name, NatPart, PutRecord, RefreshRecord, Scales,
    StateRecord,
};
pub use self::version::{Term, Version};
