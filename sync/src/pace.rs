//! How much of something a peer may ask of us now: a burst, and then so much per time (a token bucket). Born full; one for
//! each thing that is limited, kept beside it.

use core::time::Duration;

use dataplane::time::Instant;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    burst: i64,
    /// Time in which one more is allowed.
    every: Duration,
    /// Below zero where more was spent than was there.
    allowed: i64,
    /// When the last of them was added.
    since: Instant,
}

impl Pace {
    /// `burst` at once, and one more in each `every`.
    pub(crate) const fn new(burst: u32, every: Duration, now: Instant) -> Self {
        let burst = burst as i64;
        Self {
            burst,
            every,
            allowed: burst,
            since: now,
        }
    }

    /// Whether anything is left.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let earned = now.since(self.since).as_nanos() / self.every.as_nanos();
        let missing = self.burst - self.allowed;
        match u32::try_from(earned) {
            Ok(earned) if i64::from(earned) < missing => {
                self.allowed += i64::from(earned);
                self.since = self.since + self.every * earned;
            }
            _ => (self.allowed, self.since) = (self.burst, now),
        }
        self.allowed > 0
    }

    /// Takes so many, also if not as many are left: what is owed is waited for.
    pub(crate) const fn spend(&mut self, count: u32) {
        self.allowed -= count as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(2);

    fn at(ms: u64) -> Instant {
        Instant::default() + Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_allowed_and_then_so_many_per_time() {
        let mut pace = Pace::new(3, EVERY, at(0));
        let mut take = |ms| {
            let allowed = pace.allows(at(ms));
            pace.spend(u32::from(allowed));
            allowed
        };
        assert_eq!([0, 0, 0, 0, 1].map(&mut take), [true, true, true, false, false]);
        assert_eq!(
            [2, 3, 4, 5].map(&mut take),
            [true, false, true, false],
            "halves add up"
        );
        assert_eq!(
            [1_000; 4].map(&mut take),
            [true, true, true, false],
            "no more than a burst"
        );
    }

    #[test]
    fn what_was_spent_beyond_it_is_waited_for() {
        let mut pace = Pace::new(3, EVERY, at(0));
        assert!(pace.allows(at(0)));
        pace.spend(3 + 50);
        assert!(!pace.allows(at(100)));
        assert!(pace.allows(at(102)));
    }
}
