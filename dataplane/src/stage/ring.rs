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

/// Whether less than one in `share` places of a ring is taken.
pub(crate) fn is_light(ring: &Producer<ToEvent>, share: usize) -> bool {
    let all = ring.buffer().capacity();
    room(ring, all - all.div_ceil(share), 1) == 1
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

/// Has the places of a ring written where they are, up to its `room`, until `write` says that there is nothing more.
/// Returns how many were. For what is made often: an item that is handed over by value is copied twice.
#[inline]
pub(crate) fn write(
    ring: &mut Producer<ToEvent>,
    room: usize,
    mut write: impl FnMut(&mut ToEvent) -> bool,
) -> usize {
    let Ok(mut chunk) = ring.write_chunk(room) else {
        return 0;
    };
    let (places, wrapped) = chunk.as_mut_slices();
    let mut written = 0;
    for place in places.iter_mut().chain(wrapped) {
        if !write(place) {
            break;
        }
        written += 1;
    }
    chunk.commit(written);
    written
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
    fn a_ring_is_light_below_its_share() {
        let (mut ring, mut event) = RingBuffer::new(16);
        assert!(is_light(&ring, 8) && is_light(&ring, 2));
        for (taken, light) in [
            (1, [true, true]),
            (2, [false, true]),
            (7, [false, true]),
            (8, [false, false]),
        ] {
            let more = taken - event.slots();
            assert_eq!(fill(&mut ring, more, items(more)), more);
            assert_eq!([8, 2].map(|share| is_light(&ring, share)), light, "{taken} taken");
        }
        assert!(event.pop().is_ok() && is_light(&ring, 2));
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

    #[test]
    fn places_are_written_until_there_is_no_more_or_no_room_also_where_the_ring_wraps() {
        let (mut ring, mut event) = RingBuffer::new(8);
        let item = |slot| ToEvent::SlotDirty {
            at: SlotRef {
                slot,
                ..SlotRef::default()
            },
        };
        let mut made = 0..;
        for (room, left, written) in [(6, 9, 6), (8, 4, 4), (4, 0, 0), (9, 9, 0), (4, 3, 3)] {
            let mut left = left;
            let first = made.start;
            let count = write(&mut ring, room, |place| {
                // Written before there turns out to be nothing to say: never seen.
                *place = item(u16::MAX);
                if left == 0 {
                    return false;
                }
                left -= 1;
                *place = item(made.next().unwrap());
                true
            });
            assert_eq!(count, written);
            let seen: Vec<ToEvent> = core::iter::from_fn(|| event.pop().ok()).collect();
            assert_eq!(seen, (first..).take(written).map(item).collect::<Vec<_>>());
        }
    }
}
