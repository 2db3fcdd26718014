//! What becomes of flows on public addresses that are taken out of their pool.
//!
//! They end, as they would in a restart: nobody routes those addresses to this node any more. The active node goes over
//! its conntracks, then over its port blocks, a slice per turn while traffic goes on, ends what stands on such an address,
//! and tells its peers as of any other end. A node that stands by holds what it was told until it is told
//! otherwise, takes in nothing more that stands on such an address, and does the same when it becomes active.

use std::sync::Arc;

use crate::nat::Pools;
use crate::tables::Tables;
use crate::time::Instant;

/// Entries ended or looked at in one turn.
const BUDGET: usize = 128;
/// Places that a turn goes over to find them.
const PLACES: u32 = 1_024;

/// Share of the arena that may wait, dead, for removal records before the search pauses: one in this many.
const DEAD_SHARE: usize = 16;

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Retirement {
    /// There may be something on addresses that are configured no more.
    owed: bool,
    course: Option<Course>,
}

/// What is looked at next.
#[derive(Debug, Clone, Copy)]
enum Course {
    Conntracks(u32),
    Blocks { next: u32, left: Left },
}

/// What is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    /// Of VRFs that this node stands by for.
    Mirrored,
    /// Blocks that have conntracks again.
    InUse,
}

impl Retirement {
    /// Whether it is under way.
    pub(crate) const fn is_under_way(&self) -> bool {
        self.course.is_some()
    }

    /// Entries have come that it hasn't met.
    pub(crate) const fn begin(&mut self) {
        self.owed = true;
        self.course = Some(Course::Conntracks(0));
    }

    /// A role has changed: what had to stay may have to go.
    pub(crate) fn resume(&mut self) {
        if self.owed {
            self.course = Some(Course::Conntracks(0));
        }
    }
}

impl Tables {
    /// Takes over pools that this worker has not seen yet.
    pub(crate) fn observe_pools(&mut self, pools: &Arc<Pools>) {
        if !self.nat.observe(pools) {
            return;
        }
        // What was refused for want of a pool may be let in, and who may send to a mapping may have changed.
        self.search.hasten(&self.slots, self.roles.len());
        self.protect.review_all();
        self.retirement.owed = pools.has_retired();
        self.retirement.course = None;
        self.retirement.resume();
    }

    /// A slice of the search, when there is one.
    pub(crate) fn retire(&mut self, now: Instant) -> usize {
        let Some(course) = self.retirement.course.filter(|_| !self.transit.is_freezing()) else {
            return 0;
        };
        self.retirement.course = match course {
            Course::Conntracks(next) => Some(self.retire_conntracks(next, now)),
            Course::Blocks { next, left } => self.retire_blocks(next, left, now),
        };
        BUDGET
    }

    fn retire_conntracks(&mut self, mut next: u32, now: Instant) -> Course {
        let mut looked = 0;
        // Removals that nobody could be told of any more would have whole slots sent.
        if self.dead >= self.conntracks.capacity() / DEAD_SHARE {
            return Course::Conntracks(next);
        }
        let end = next.saturating_add(PLACES).min(self.conntracks.reach());
        while next < end && looked < BUDGET {
            let id = next;
            next += 1;
            if !self.conntracks.is_live(id) {
                continue;
            }
            looked += 1;
            let conntrack = &self.conntracks[id];
            let vrf = conntrack.vrf();
            let stands_there = conntrack
                .nat()
                .is_some_and(|nat| self.nat.is_retired(self.nat.block_of(nat.mapping)));
            if stands_there && self.is_active(vrf) {
                self.remove(now, id);
                self.counters.retired_ended += 1;
            }
        }
        if next < self.conntracks.reach() {
            Course::Conntracks(next)
        } else {
            Course::Blocks {
                next: 0,
                left: Left::Nothing,
            }
        }
    }

    fn retire_blocks(&mut self, mut next: u32, mut left: Left, now: Instant) -> Option<Course> {
        let mut ended = 0;
        let end = next.saturating_add(PLACES).min(self.nat.block_places());
        while next < end && ended < BUDGET {
            let id = next;
            next += 1;
            let block = self.nat.block(id);
            if !block.held() || !self.nat.is_retired(id) {
                continue;
            }
            ended += 1;
            let stays = if !self.is_active(block.inside_vrf) {
                Left::Mirrored
            } else if self.nat.end_retired(now, id) {
                Left::Nothing
            } else {
                Left::InUse
            };
            left = left.max(stays);
        }
        self.list_blocks();
        if next < self.nat.block_places() {
            return Some(Course::Blocks { next, left });
        }
        self.retirement.owed = left != Left::Nothing;
        (left == Left::InUse).then_some(Course::Conntracks(0))
    }
}
