//! Frames read and not yet applied: how far each worker has to come for a frame to be acknowledged.
//!
//! A ring of as many frames as are awaited one by one, allocated with the connection.

use core::ops::Range;
use std::collections::VecDeque;

/// Frames whose application is awaited one by one; beyond it neighbours share a place.
const CHECKPOINTS_MAX: usize = 1_024;

/// Oldest first.
#[derive(Debug)]
pub(super) struct Checkpoints {
    frames: VecDeque<u64>,
    /// By place in the ring, then by worker: items it must have processed for the frame to be applied.
    pushed: Box<[u64]>,
    /// Place of the oldest frame.
    first: usize,
}

impl Checkpoints {
    /// None yet, of items to so many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            frames: VecDeque::with_capacity(CHECKPOINTS_MAX),
            pushed: vec![0; CHECKPOINTS_MAX * workers].into(),
            first: 0,
        }
    }

    /// A frame was read to its end; `pushed` is what every worker was ever given.
    pub(super) fn set(&mut self, sequence: u64, pushed: &[u64]) {
        if self.frames.len() == CHECKPOINTS_MAX {
            // Waiting longer than needed is late; acknowledging earlier than applied would be wrong.
            self.frames.pop_back();
        }
        let place = self.place(self.frames.len());
        self.pushed[place].copy_from_slice(pushed);
        self.frames.push_back(sequence);
    }

    /// Leaves behind what is applied. Gives the last frame of it, if any.
    pub(super) fn pass(&mut self, is_applied: impl Fn(&[u64]) -> bool) -> Option<u64> {
        let mut applied = None;
        while let Some(next) = self.frames.front()
            && is_applied(&self.pushed[self.place(0)])
        {
            applied = Some(*next);
            self.frames.pop_front();
            self.first = (self.first + 1) % CHECKPOINTS_MAX;
        }
        applied
    }

    /// Where the items of a frame stand, by how many are older.
    fn place(&self, older: usize) -> Range<usize> {
        let workers = self.pushed.len() / CHECKPOINTS_MAX;
        let start = (self.first + older) % CHECKPOINTS_MAX * workers;
        start..start + workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes what two workers have done when each has processed so many items.
    fn pass(checkpoints: &mut Checkpoints, done: [u64; 2]) -> Option<u64> {
        checkpoints.pass(|pushed| pushed.iter().zip(done).all(|(pushed, done)| *pushed <= done))
    }

    /// sync/PROTOCOL.md R-15.
    #[test]
    fn a_frame_passes_when_every_worker_has_done_its_items() {
        let mut checkpoints = Checkpoints::new(2);
        checkpoints.set(1, &[3, 0]);
        checkpoints.set(2, &[3, 4]);
        checkpoints.set(3, &[5, 4]);
        assert_eq!(pass(&mut checkpoints, [2, 9]), None);
        assert_eq!(pass(&mut checkpoints, [9, 3]), Some(1));
        assert_eq!(pass(&mut checkpoints, [4, 4]), Some(2));
        assert_eq!(pass(&mut checkpoints, [5, 4]), Some(3));
        assert_eq!(pass(&mut checkpoints, [9, 9]), None);
    }

    #[test]
    fn frames_keep_their_items_however_often_the_ring_goes_round() {
        let mut checkpoints = Checkpoints::new(2);
        let behind = CHECKPOINTS_MAX as u64 - 1;
        for n in 1..4 * CHECKPOINTS_MAX as u64 {
            checkpoints.set(n, &[2 * n, 3 * n]);
            let oldest = n.saturating_sub(behind);
            assert_eq!(
                pass(&mut checkpoints, [2 * oldest + 1, u64::MAX]),
                (oldest > 0).then_some(oldest)
            );
        }
    }

    #[test]
    fn what_has_no_place_of_its_own_passes_with_the_last_frame_and_takes_no_more_memory() {
        let mut checkpoints = Checkpoints::new(2);
        let (frames, items) = (checkpoints.frames.capacity(), checkpoints.pushed.len());
        let last = CHECKPOINTS_MAX as u64 + 7;
        for n in 1..=last {
            checkpoints.set(n, &[n, n]);
        }
        assert_eq!(
            (checkpoints.frames.capacity(), checkpoints.pushed.len()),
            (frames, items)
        );
        let own = CHECKPOINTS_MAX as u64 - 1;
        assert_eq!(pass(&mut checkpoints, [last - 1, last - 1]), Some(own));
        assert_eq!(pass(&mut checkpoints, [last, last]), Some(last));
    }
}
