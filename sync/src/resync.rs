//! The last resync of a VRF, as one end of its lanes has counted it.
//!
//! It begins when the first of its slots has to be sent, joins every slot for which that becomes true while it runs, and
//! is complete when the receiver has verified the last of them; a connection that is lost, or a direction that turns,
//! interrupts it. Both ends keep one: what the other end calls the same resync can't be asked for when it is gone.

use core::time::Duration;

use dataplane::time::Instant;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// Why it began; none when there was none.
    pub reason: Option<String>,
    /// Whether it is under way.
    pub running: bool,
    /// Whether slots of it were given up before they were verified.
    pub interrupted: bool,
    /// When it began, in milliseconds since an origin that all threads of the process share.
    pub began_ms: u64,
    /// Time it took, or has taken so far.
    pub took_ms: u64,
    /// Slots that were verified in it.
    pub slots: u32,
    /// Records sent meanwhile, live ones included.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// Records of the verified slots that the receiver refused for a cause.
    pub refused: u64,
    /// Resyncs completed since start.
    pub completed: u64,
}

/// Generations of slots by how they ended, as one end of a lane has counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// Verified, and nothing had to be sent: the receiver held the same.
    pub equal: u64,
    /// Verified, and only what was newer had to be sent.
    pub caught_up: u64,
    /// Verified, and sent whole.
    pub whole: u64,
    /// Not verified.
    pub failed: u64,
}

impl Generations {
    /// One was verified.
    pub(crate) const fn verified(&mut self, sent: Sent) {
        *match sent {
            Sent::Whole => &mut self.whole,
            Sent::Newer(0) => &mut self.equal,
            Sent::Newer(_) => &mut self.caught_up,
        } += 1;
    }

    /// Those of another lane as well.
    pub const fn add(&mut self, other: &Self) {
        self.equal += other.equal;
        self.caught_up += other.caught_up;
        self.whole += other.whole;
        self.failed += other.failed;
    }
}

/// How much of a slot a generation carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Whole,
    /// Records newer than what the receiver held.
    Newer(u32),
}

impl Sent {
    /// Of a generation that has just begun.
    pub(crate) const fn begun(is_whole: bool) -> Self {
        if is_whole { Self::Whole } else { Self::Newer(0) }
    }

    /// A record of its walk came by.
    pub(crate) const fn walked(&mut self) {
        if let Self::Newer(records) = self {
            *records += 1;
        }
    }
}

impl Resync {
    /// A slot has to be sent: what runs goes on, otherwise a new one begins.
    pub(crate) fn join(&mut self, reason: &str, now: Instant) {
        if !self.running {
            *self = Self {
                reason: Some(reason.to_owned()),
                running: true,
                began_ms: now.ns() / 1_000_000,
                completed: self.completed,
                ..Self::default()
            };
        }
    }

    /// A record came by.
    pub(crate) const fn record(&mut self, bytes: usize) {
        if self.running {
            self.records += 1;
            self.bytes += bytes as u64;
        }
    }

    /// The receiver has verified a slot.
    pub(crate) fn verified(&mut self, refused: u32) {
        if self.running {
            self.slots += 1;
            self.refused += u64::from(refused);
        }
    }

    /// No slot of it is left.
    pub(crate) fn end(&mut self, now: Instant) {
        if self.running {
            *self = self.as_of(now);
            self.running = false;
            self.completed += u64::from(!self.interrupted);
        }
    }

    /// Slots of it were given up.
    pub(crate) const fn interrupt(&mut self) {
        self.interrupted |= self.running;
    }

    /// With the time that it has taken by now.
    pub(crate) fn as_of(&self, now: Instant) -> Self {
        let began = Duration::from_millis(self.began_ms);
        let took = Duration::from_nanos(now.ns()).saturating_sub(began);
        let mut resync = self.clone();
        if self.running {
            resync.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        }
        resync
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    #[test]
    fn slots_that_are_wanted_meanwhile_join_and_the_next_one_starts_at_nothing() {
        let mut resync = Resync::default();
        resync.record(99);
        assert_eq!(resync, Resync::default(), "no resync, nothing of it");
        resync.join("connected", at(5));
        resync.record(30);
        resync.join("requested", at(6));
        resync.verified(2);
        assert_eq!(resync.as_of(at(7)).took_ms, 2);
        resync.verified(0);
        resync.end(at(9));
        let done = Resync {
            reason: Some("connected".to_owned()),
            began_ms: 5,
            took_ms: 4,
            slots: 2,
            records: 1,
            bytes: 30,
            refused: 2,
            completed: 1,
            ..Resync::default()
        };
        assert_eq!(resync.as_of(at(1_000)), done);
        resync.record(8);
        resync.verified(1);
        assert_eq!(resync, done, "live records and late answers are of none");
        resync.join("diverged", at(20));
        assert_eq!((resync.reason.as_deref(), resync.slots), (Some("diverged"), 0));
        assert_eq!((resync.records, resync.completed), (0, 1));
    }

    #[test]
    fn what_was_given_up_is_not_complete() {
        let mut resync = Resync::default();
        resync.interrupt();
        resync.join("connected", at(0));
        assert!(!resync.interrupted, "nothing ran when it was said");
        resync.interrupt();
        resync.end(at(3));
        assert!(resync.interrupted && !resync.running);
        assert_eq!((resync.took_ms, resync.completed), (3, 0));
    }
}
