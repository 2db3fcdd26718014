//! What is counted by queue. Born with a port, written by the one worker that a queue belongs to, read by the agent at any
//! time; a queue's numbers lie in a line of their own, and a worker's addition is no atomic operation to the processor.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// For its writer alone: another one's addition at the same time would be lost.
    pub(super) fn add(&self, more: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(more),
            Ordering::Relaxed,
        );
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A receive queue's.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct RxTally {
    pub(super) packets: Count,
    pub(super) joined: Count,
    pub(super) segmented: Count,
    pub(super) too_long: Count,
}

/// A transmit queue's.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct TxTally {
    pub(super) packets: Count,
    pub(super) refused: Count,
}

/// A port's.
#[derive(Debug)]
pub(super) struct PortTally {
    pub(super) rx: Box<[RxTally]>,
    pub(super) tx: Box<[TxTally]>,
}

impl PortTally {
    pub(super) fn new(rx_queues: u16, tx_queues: u16) -> Self {
        Self {
            rx: (0..rx_queues).map(|_| RxTally::default()).collect(),
            tx: (0..tx_queues).map(|_| TxTally::default()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_share_no_line() {
        assert_eq!((align_of::<RxTally>(), align_of::<TxTally>()), (64, 64));
        let tally = PortTally::new(2, 1);
        tally.rx[1].packets.add(3);
        tally.rx[1].packets.add(4);
        assert_eq!((tally.rx[0].packets.get(), tally.rx[1].packets.get()), (0, 7));
    }
}
