//! Real time, read here and nowhere else: a monotonic clock for everything that decides, a wall clock for
//! log lines. One [`Clock`] is made at start and copied to every thread, so that all share one origin.

use std::time::SystemTime;

use dataplane::time::Instant;

/// Monotonic time since a moment shortly before the process started.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts at one second, so that `Instant::default()` always lies in the past.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where time is read")]
    pub fn start() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }

    /// The time now; the same on every thread, never going back.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where time is read")]
    pub fn now(&self) -> Instant {
        let since = std::time::Instant::now().saturating_duration_since(self.origin);
        Instant::from_secs(1) + since
    }
}

/// The calendar time, for people. Steps whenever somebody sets the clock; nothing may be decided by it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where time is read")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// `time` as RFC 3339 in UTC with milliseconds, as RFC 5424 syslog headers want it.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since.subsec_millis()
    )
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Years are counted from March, so that the leap day is a year's last, and months have a fixed pattern
    // of 153 days in five. Day 0 becomes 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_starts_after_the_default_instant_and_never_goes_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(first >= Instant::from_secs(1));
        assert!(clock.now() >= first);
    }

    #[test]
    fn calendar_days_around_leap_years() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(
                rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(1_042)),
            "1970-01-01T00:00:01.042Z"
        );
    }
}
