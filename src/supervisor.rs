//! What the daemons tell systemd: that they are ready, that they still turn, that they are stopping.
//!
//! Made when the loop of a daemon is about to begin, called once in each turn of that loop, dropped when the loop
//! ends. Without systemd (`NOTIFY_SOCKET` unset: a terminal, the lab, a container) every call does nothing. A message
//! that can't be sent is forgotten: the unit's watchdog is the one who would miss it.

use std::io;
use std::time::Duration;

use dataplane::time::Instant;
use sd_notify::NotifyState;

/// The loop's line to its supervisor.
#[derive(Debug)]
pub struct Supervisor {
    /// Time between two signs of life; none when the unit has no `WatchdogSec`.
    every: Option<Duration>,
    next: Instant,
}

impl Supervisor {
    /// Says that the daemon is ready to serve.
    #[must_use]
    pub fn ready(now: Instant) -> Self {
        tell(&[NotifyState::Ready]);
        Self::with_patience(sd_notify::watchdog_enabled(), now)
    }

    /// Half of what the unit would wait, as sd_watchdog_enabled(3) recommends.
    fn with_patience(patience: Option<Duration>, now: Instant) -> Self {
        Self {
            every: patience.map(|patience| patience / 2),
            next: now,
        }
    }

    /// One turn of the loop: a sign of life when it is due.
    pub fn turn(&mut self, now: Instant) {
        if self.due(now) {
            tell(&[NotifyState::Watchdog]);
        }
    }

    fn due(&mut self, now: Instant) -> bool {
        match self.every {
            Some(every) if now >= self.next => {
                self.next = now + every;
                true
            }
            _ => false,
        }
    }

    /// Says that the end has begun; what follows may take the unit's `TimeoutStopSec`.
    pub fn stopping(self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    let sent: io::Result<()> = sd_notify::notify(states);
    if let Err(error) = sent {
        tracing::debug!(%error, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_come_twice_as_often_as_the_unit_asks() {
        let start = Instant::from_secs(5);
        let mut supervisor = Supervisor::with_patience(Some(Duration::from_secs(10)), start);
        assert!(supervisor.due(start), "the first one at once");
        assert!(!supervisor.due(start + Duration::from_millis(4_999)));
        assert!(supervisor.due(start + Duration::from_secs(5)));
        assert!(supervisor.due(start + Duration::from_secs(30)), "late, once");
        assert!(!supervisor.due(start + Duration::from_secs(31)));
    }

    #[test]
    fn a_unit_without_watchdog_gets_none() {
        let start = Instant::from_secs(5);
        let mut supervisor = Supervisor::with_patience(None, start);
        assert!(!supervisor.due(start + Duration::from_secs(1_000)));
    }
}
