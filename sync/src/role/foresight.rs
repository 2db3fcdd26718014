//! A node that was told flows needs the neighbours of their packets before it can take over without a loss. A node that has just
//! booted knows none. So, before it is ready, workers go through what it was told and ask for what is missing
//! (`dataplane/src/stage/foresee.rs`), until nothing is, or what is has been asked for in vain for long enough.
//!
//! It begins anew whenever a peer was away: what that one tells then may be the flows of an hour.

use core::time::Duration;

use dataplane::time::Instant;

/// How long a next hop is asked for before it is taken for absent: the kernel itself gives up after three questions, a
/// second each.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// How long it may take workers to look at all flows. Nothing waits for ever.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// How far the looking is.
#[derive(Debug, Clone, Default)]
pub(super) struct Foresight {
    /// Something was told since the last time, or may have been.
    needed: bool,
    /// Number of the question put to the workers; 0 for none.
    number: u32,
    last: u32,
    begun: Instant,
    /// When all that is missing had been asked for.
    asked: Option<Instant>,
    missing: Option<u32>,
}

impl Foresight {
    /// At boot.
    pub(super) fn needed() -> Self {
        Self {
            needed: true,
            ..Self::default()
        }
    }

    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// What workers say to the present question.
    pub(super) const fn found(&mut self, missing: Option<u32>) {
        self.missing = missing;
    }

    /// The peers are all there or one is away; this node stands by with everything that was offered, or it doesn't.
    pub(super) fn follow(&mut self, now: Instant, all_heard: bool, complete: bool, active: bool) {
        if active {
            (self.needed, self.number) = (false, 0);
            return;
        }
        if !all_heard {
            (self.needed, self.number) = (true, 0);
        }
        if !complete {
            self.number = 0;
        } else if self.needed && self.number == 0 && all_heard {
            self.last = self.last.wrapping_add(1).max(1);
            (self.number, self.begun) = (self.last, now);
            (self.asked, self.missing) = (None, None);
        } else if self.number != 0 && self.is_over(now) {
            (self.needed, self.number) = (false, 0);
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        if self.missing.is_some() {
            self.asked.get_or_insert(now);
        }
        self.missing == Some(0)
            || self.asked.is_some_and(|at| now.since(at) >= ANSWER_WAIT)
            || now.since(self.begun) >= LOOK_MAX
    }

    /// How many next hops are missing, as far as that is known, while somebody looks.
    pub(super) fn missing(&self) -> Option<Option<u32>> {
        (self.number != 0).then_some(self.missing)
    }
}
