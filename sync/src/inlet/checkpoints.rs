//! Frames read and not yet applied: how far each worker has to come for a frame to be acknowledged.

use std::collections::VecDeque;

/// Frames whose application is awaited one by one; beyond it neighbours share an entry.
const CHECKPOINTS_MAX: usize = 1_024;

/// Oldest first.
#[derive(Debug)]
pub(super) struct Checkpoints(VecDeque<Checkpoint>);

/// A frame, and how many items each worker must have processed for it to be applied.
#[derive(Debug)]
struct Checkpoint {
    sequence: u64,
    pushed: Box<[u64]>,
}

impl Checkpoints {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(CHECKPOINTS_MAX))
    }

    /// A frame was read to its end; `pushed` is what every worker was ever given.
    pub(super) fn set(&mut self, sequence: u64, pushed: &[u64]) {
        if self.0.len() < CHECKPOINTS_MAX {
            self.0.push_back(Checkpoint {
                sequence,
                pushed: pushed.into(),
            });
        } else if let Some(last) = self.0.back_mut() {
            // Waiting longer than needed is late; acknowledging earlier than applied would be wrong.
            last.sequence = sequence;
            last.pushed.copy_from_slice(pushed);
        }
    }

    /// Leaves behind what is applied. Gives the last frame of it, if any.
    pub(super) fn pass(&mut self, is_applied: impl Fn(&[u64]) -> bool) -> Option<u64> {
        let mut applied = None;
        while let Some(next) = self.0.front()
            && is_applied(&next.pushed)
        {
            applied = Some(next.sequence);
            self.0.pop_front();
        }
        applied
    }
}
