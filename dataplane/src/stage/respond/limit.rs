//! How often we answer: ICMP errors and resets cost the network more than they help when a flood asks for them
//! (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 (f)). One per worker and kind, made with the worker.

use crate::time::Instant;

/// Lets `burst` events pass at once and `rate_per_s` on average. Its whole state is the time at which the bucket
/// would be full again (virtual scheduling, ITU-T I.371, annex A).
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    interval_ns: u64,
    /// How far `full_at` may lie ahead before an event is refused.
    ahead_max_ns: u64,
    full_at_ns: u64,
}

impl TokenBucket {
    /// A full bucket. A rate or burst of 0 lets nothing pass.
    #[must_use]
    pub const fn new(rate_per_s: u32, burst: u32) -> Self {
        if rate_per_s == 0 || burst == 0 {
            return Self {
                interval_ns: 0,
                ahead_max_ns: 0,
                full_at_ns: u64::MAX,
            };
        }
        let interval_ns = 1_000_000_000 / rate_per_s as u64;
        Self {
            interval_ns,
            ahead_max_ns: interval_ns * (burst as u64 - 1),
            full_at_ns: 0,
        }
    }

    /// Takes a token; false when there is none.
    #[inline]
    pub const fn take(&mut self, now: Instant) -> bool {
        let full_at_ns = if self.full_at_ns > now.ns() {
            self.full_at_ns
        } else {
            now.ns()
        };
        if full_at_ns - now.ns() > self.ahead_max_ns {
            return false;
        }
        self.full_at_ns = full_at_ns.saturating_add(self.interval_ns);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events let through of `tries` at `now`.
    fn passed(bucket: &mut TokenBucket, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_burst_passes_then_the_rate() {
        let mut bucket = TokenBucket::new(10, 5);
        assert_eq!(passed(&mut bucket, Instant::from_secs(100), 50), 5);
        assert_eq!(passed(&mut bucket, Instant::from_ns(100_099_999_999), 50), 0);
        assert_eq!(passed(&mut bucket, Instant::from_ns(100_300_000_000), 50), 3);
        assert_eq!(
            passed(&mut bucket, Instant::from_secs(1000), 50),
            5,
            "idle time earns no more than a burst"
        );
    }

    #[test]
    fn frequent_tries_lose_no_fraction_of_a_token() {
        let mut bucket = TokenBucket::new(3, 1);
        let mut count = 0;
        for ms in 0..10_000 {
            count += passed(&mut bucket, Instant::from_ns(ms * 1_000_000), 1);
        }
        assert_eq!(count, 30);
    }

    #[test]
    fn zero_lets_nothing_pass() {
        for (rate, burst) in [(0, 5), (5, 0)] {
            assert_eq!(
                passed(&mut TokenBucket::new(rate, burst), Instant::from_secs(9), 5),
                0
            );
        }
    }
}
