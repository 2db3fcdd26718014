//! How many new flows a rule lets in: in all, and of one source.
//!
//! A limit is a spacing. Whoever is limited has one time, when what he has used up will be whole again: each flow puts it off
//! by the spacing, and none is let in that would put it off too far (the virtual scheduling algorithm of ITU-T I.371 annex
//! A). So nothing has to be refilled, and a state that isn't there is one of somebody who has used nothing.

use core::num::NonZeroU32;

use crate::atomic::{AtomicU64, Ordering};
use crate::time::Instant;

const SECOND_NS: u64 = 1_000_000_000;

/// Evenly spaced flows, of which as many as a second's may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spacing {
    each_ns: u64,
    /// How far they may be ahead.
    ahead_ns: u64,
}

impl Spacing {
    /// Never more than `per_s` in the long run.
    #[must_use]
    pub const fn new(per_s: NonZeroU32) -> Self {
        let per_s = per_s.get() as u64;
        let each_ns = SECOND_NS.div_ceil(per_s);
        Self {
            each_ns,
            ahead_ns: each_ns * per_s,
        }
    }

    /// When everything is whole again after a flow is let in; none if it comes too early.
    #[must_use]
    pub fn after(self, whole_ns: u64, now: Instant) -> Option<u64> {
        let next = whole_ns.max(now.ns()) + self.each_ns;
        (next - now.ns() <= self.ahead_ns).then_some(next)
    }
}

/// What all workers have let in by a rule.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Taken {
    whole_ns: AtomicU64,
}

impl Taken {
    /// Whether one more flow is let in.
    pub fn take(&self, spacing: Spacing, now: Instant) -> bool {
        // Nothing else is read by what it says.
        self.whole_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |whole| {
                spacing.after(whole, now)
            })
            .is_ok()
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn spacing(per_s: u32) -> Spacing {
        Spacing::new(NonZeroU32::new(per_s).unwrap())
    }

    /// Flows let in of those that come every `every_ns` for `seconds`.
    fn let_in(per_s: u32, every_ns: u64, seconds: u64) -> u64 {
        let shared = Taken::default();
        let times = (0..seconds * SECOND_NS).step_by(usize::try_from(every_ns).unwrap());
        let taken = times.filter(|&ns| shared.take(spacing(per_s), Instant::from_ns(ns)));
        u64::try_from(taken.count()).unwrap()
    }

    #[test]
    fn a_seconds_worth_at_once_and_then_the_rate() {
        for per_s in [1, 3, 7, 100, 999] {
            // One that comes with the last instant of the time counts, too.
            let most = u64::from(per_s) * 11;
            let seen = let_in(per_s, 100_000, 10);
            assert!((most - 1..=most).contains(&seen), "{per_s}: {seen}");
        }
    }

    #[test]
    fn whoever_stays_below_the_limit_is_never_refused() {
        assert_eq!(let_in(100, 10_000_000, 5), 500);
        assert_eq!(let_in(3, 333_333_334, 9), 27);
    }

    #[test]
    fn what_was_not_used_is_a_seconds_worth_and_no_more() {
        let (shared, spacing) = (Taken::default(), spacing(5));
        for start in [0, 60] {
            let now = Instant::from_secs(start);
            let taken = (0..20).filter(|_| shared.take(spacing, now)).count();
            assert_eq!(taken, 5, "after {start} s");
        }
    }

    #[test]
    fn the_highest_rate_is_no_rounding_away_from_what_was_asked() {
        let top = spacing(crate::config::FLOWS_PER_S_MAX);
        assert_eq!(top.ahead_ns, SECOND_NS);
    }
}

#[cfg(loom)]
#[cfg(test)]
mod interleavings {
    use loom::sync::Arc;

    use super::*;

    #[test]
    fn workers_let_in_no_more_than_the_limit_together() {
        loom::model(|| {
            let (shared, spacing) = (
                Arc::new(Taken::default()),
                Spacing::new(NonZeroU32::new(3).unwrap()),
            );
            let worker = |shared: Arc<Taken>| {
                move || {
                    let taken = (0..2).filter(|_| shared.take(spacing, Instant::from_secs(9)));
                    taken.count()
                }
            };
            let other = loom::thread::spawn(worker(Arc::clone(&shared)));
            let mine = worker(shared)();
            assert_eq!(mine + other.join().unwrap(), 3);
        });
    }
}
