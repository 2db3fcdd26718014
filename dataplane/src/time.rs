//! Time as an argument: a monotonic instant that production reads once per turn and a test makes up.

use core::ops::Add;
use core::time::Duration;

/// Nanoseconds since an arbitrary origin of this process. Never leaves the node: the wire carries durations.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    ns: u64,
}

impl Instant {
    /// The instant `ns` nanoseconds after the origin.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// The instant `secs` seconds after the origin.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self {
            ns: secs.saturating_mul(1_000_000_000),
        }
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.ns
    }

    /// Whole seconds since the origin: the coarse clock of timeouts. Wraps after 136 years.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "136 years of uptime")]
    pub const fn secs(self) -> u32 {
        (self.ns / 1_000_000_000) as u32
    }

    /// Time passed since `earlier`, zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self {
            ns: self
                .ns
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}
