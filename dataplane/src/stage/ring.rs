//! Filling the ring to an event thread.
//!
//! What a turn has for a lane becomes visible to the event thread at once: each look at the other thread's place in the
//! ring, and each step of one's own, costs as much as encoding a record. So the room is looked at first, then filled.

use rtrb::Producer;

use crate::delta::ToEvent;

/// Places of a ring that can be filled, up to `most`, so that `kept` places stay free.
pub(crate) fn room(ring: &Producer<ToEvent>, kept: usize, most: usize) -> usize {
    let known = ring.cached_slots();
    let free = if known < kept + most { ring.slots() } else { known };
    free.saturating_sub(kept).min(most)
}

/// Puts as many of `items` into a ring as there are, or as its `room` takes; what is beyond isn't asked for. Returns how
/// many.
pub(crate) fn fill(
    ring: &mut Producer<ToEvent>,
    room: usize,
    items: impl IntoIterator<Item = ToEvent>,
) -> usize {
    ring.write_chunk_uninit(room)
        .map_or(0, |chunk| chunk.fill_from_iter(items))
}

#[cfg(test)]
mod tests {
    use rtrb::RingBuffer;

    use super::*;
    use crate::delta::SlotRef;

    fn items(count: usize) -> impl Iterator<Item = ToEvent> {
        core::iter::repeat_n(
            ToEvent::SlotDirty {
                at: SlotRef::default(),
            },
            count,
        )
    }

    #[test]
    fn room_is_what_is_free_beyond_what_is_kept() {
        let (mut ring, mut event) = RingBuffer::new(16);
        assert_eq!(room(&ring, 0, 100), 16);
        assert_eq!(room(&ring, 6, 100), 10);
        assert_eq!(room(&ring, 6, 4), 4);
        assert_eq!(room(&ring, 20, 4), 0);
        assert_eq!(fill(&mut ring, 16, items(12)), 12);
        assert_eq!((room(&ring, 0, 100), room(&ring, 4, 100)), (4, 0));
        // What has been taken out is seen where it matters.
        assert!(event.pop().is_ok());
        assert_eq!((room(&ring, 0, 5), room(&ring, 4, 1)), (5, 1));
    }

    #[test]
    fn what_has_no_room_is_not_asked_for() {
        let (mut ring, mut event) = RingBuffer::new(16);
        let mut left = items(9);
        assert_eq!(fill(&mut ring, 5, &mut left), 5);
        assert_eq!((left.count(), event.slots()), (4, 5));
        assert_eq!(fill(&mut ring, 100, items(1)), 0);
        assert!((0..5).all(|_| event.pop().is_ok()) && event.is_empty());
    }
}
