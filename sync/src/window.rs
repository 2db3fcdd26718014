//! How many records a lane has on its way while it carries walks, so that a live record among them waits for little.
//!
//! Everything of a lane keeps its order, so a live record waits for all that is in front of it: in the network, in the
//! peer's ring, at its worker. How much that is shows in the time from a frame's sending to its acknowledgement. The least
//! such time of the connection is the way itself; what is longer was spent waiting. A window of records follows from it: as
//! large as the way needs, hardly larger. Born and gone with the connection; walks heed it, live records only the credit.

use core::time::Duration;

/// How long records may wait for those in front of them.
const WAIT_MAX: Duration = Duration::from_micros(500);

/// Least window: smaller ones would stop the lane for want of records that are due in a moment.
const WINDOW_MIN: u64 = 1_024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    records: u64,
    least: Duration,
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self {
            records: WINDOW_MIN,
            least: Duration::MAX,
        }
    }

    /// `records` more were acknowledged, the last of them `took` after it was sent. At most `credit` of them may ever be on
    /// their way. A window's worth of acknowledgements makes the window larger or smaller by half.
    pub(crate) fn acknowledged(&mut self, took: Duration, records: u64, credit: u64) {
        self.least = self.least.min(took);
        let step = records / 2;
        self.records = if took - self.least > WAIT_MAX {
            self.records.saturating_sub(step)
        } else {
            (self.records + step).min(credit)
        };
        self.records = self.records.max(WINDOW_MIN);
    }

    /// Records that may be on their way, live ones included, when one of a walk follows.
    pub(crate) const fn records(&self) -> u64 {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDIT: u64 = 4_096;

    /// A way of `way_us` and a receiver that takes `record_ns` for each record: the window after `frames` frames of 100.
    fn settled(window: &mut Window, way_us: u64, record_ns: u64, frames: usize) -> u64 {
        for _ in 0..frames {
            // Whatever doesn't fit on the way waits at its end.
            let way = Duration::from_micros(way_us);
            let took = way.max(Duration::from_nanos(window.records() * record_ns));
            window.acknowledged(took, 100, CREDIT);
        }
        window.records()
    }

    #[test]
    fn a_window_is_what_a_receiver_does_in_the_time_that_records_may_wait() {
        let mut window = Window::new();
        window.acknowledged(Duration::from_micros(50), 1, CREDIT);
        // 550 us in all, at 0.25 us each.
        let records = settled(&mut window, 50, 250, 1_000);
        assert!((2_100..=2_300).contains(&records), "{records}");
        // The receiver has become four times slower.
        let records = settled(&mut window, 50, 2_000, 1_000);
        assert_eq!(records, WINDOW_MIN);
    }

    #[test]
    fn a_long_way_is_filled_up_to_the_credit() {
        let mut window = Window::new();
        assert_eq!(settled(&mut window, 20_000, 500, 1_000), CREDIT);
    }

    #[test]
    fn a_small_credit_does_not_shrink_the_window_below_its_least() {
        let mut window = Window::new();
        window.acknowledged(Duration::from_micros(50), 100, 64);
        assert_eq!(window.records(), WINDOW_MIN);
    }
}
