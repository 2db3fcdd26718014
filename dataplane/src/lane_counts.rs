//! What one worker counts per event thread: how changes fared on their way to its lane, and why records that came by it
//! were refused. Summed over the event threads, each is a counter of the worker (`deltas_coalesced`, `absorb_…`).

use crate::counters::Counters;
use crate::stage::apply::Refused;

/// Of one event thread. Only the worker writes it; others get a copy through its control inbox.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LaneCounts {
    /// Changes folded into one that was waiting for the thread's lane.
    pub coalesced: u64,
    /// Records refused of those that came by the thread.
    pub refused: Refusals,
}

impl LaneCounts {
    /// Adds another worker's of the same event thread.
    pub const fn add(&mut self, other: &Self) {
        self.coalesced += other.coalesced;
        let (mine, theirs) = (&mut self.refused, &other.refused);
        mine.stale += theirs.stale;
        mine.fenced += theirs.fenced;
        mine.full += theirs.full;
        mine.conflict += theirs.conflict;
        mine.no_pool += theirs.no_pool;
        mine.unknown += theirs.unknown;
    }

    /// What those of all event threads add up to, by the worker's own counters.
    #[must_use]
    pub const fn whole(c: &Counters) -> Self {
        Self {
            coalesced: c.deltas_coalesced,
            refused: Refusals {
                stale: c.absorb_stale,
                fenced: c.absorb_fenced,
                full: c.absorb_full,
                conflict: c.absorb_conflict,
                no_pool: c.absorb_no_pool,
                unknown: c.absorb_unknown,
            },
        }
    }
}

/// Refused records by cause, named as the worker's `absorb_` counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Refusals {
    /// Version not newer.
    pub stale: u64,
    /// From a term, lane or generation that is over.
    pub fenced: u64,
    /// Table full.
    pub full: u64,
    /// Tuple or port belongs to somebody else.
    pub conflict: u64,
    /// No such pool or block here.
    pub no_pool: u64,
    /// Names an entry that is not here.
    pub unknown: u64,
}

impl Refusals {
    /// By the name of the cause that operators see.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("stale", self.stale),
            ("fenced", self.fenced),
            ("full", self.full),
            ("conflict", self.conflict),
            ("no-pool", self.no_pool),
            ("unknown", self.unknown),
        ]
    }

    /// The place where a cause is counted.
    pub(crate) const fn of(&mut self, cause: Refused) -> &mut u64 {
        match cause {
            Refused::Stale | Refused::Outgranted => &mut self.stale,
            Refused::Fenced => &mut self.fenced,
            Refused::Full => &mut self.full,
            Refused::Conflict | Refused::Elsewhere => &mut self.conflict,
            Refused::NoPool => &mut self.no_pool,
            Refused::Unknown | Refused::Nameless => &mut self.unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rtrb::RingBuffer;

    use super::*;
    use crate::config::{Intent, Timeouts};
    use crate::conntrack::{Conntrack, State, Tuples, udp};
    use crate::delta::{DelRecord, Delta, Handle, LaneTag, Name, SlotRef, Term, ToWorker, Version};
    use crate::flow::{Addr, FlowKey, VrfId, proto};
    use crate::nat::{NatLimits, Pools};
    use crate::role::Role;
    use crate::stage::absorb::absorb;
    use crate::tables::{Limits, Tables};
    use crate::time::Instant;

    const NOW: Instant = Instant::from_secs(1_000);

    /// Tables of a worker with two event threads, whose slots are on lane 0 and 1 in turn.
    fn tables(role: Role) -> Tables {
        let limits = Limits {
            conntracks: 64,
            nat: NatLimits {
                subscribers: 1,
                blocks: 1,
                mappings: 1,
                events: 1,
            },
            reserve: None,
            held_packets: 0,
            limited_sources: 1,
            redirect_packets_per_s: 0,
        };
        let pools = Arc::new(Pools::new(&Intent::default()));
        let mut tables = Tables::new((0, 1), 2, &[16], limits, pools, 7);
        tables.roles[0].role = role;
        tables
    }

    fn flow(tables: &mut Tables, slot: u16) -> u32 {
        let original = FlowKey {
            src: Addr::v4([100, 64, 0, 1]),
            dst: Addr::v4([203, 0, 113, 9]),
            src_port: slot,
            dst_port: 53,
            vrf: VrfId(0),
            proto: proto::UDP,
        };
        let keys = [original, original.reversed()];
        let state = State::Udp(udp::Track::open());
        let conntrack = Conntrack::new(
            Tuples::new(&keys).unwrap(),
            slot,
            state,
            &Timeouts::default(),
            NOW,
        );
        tables.insert(&conntrack).unwrap()
    }

    fn sum(tables: &Tables) -> LaneCounts {
        let mut sum = LaneCounts::default();
        tables.lane_counts().iter().for_each(|one| sum.add(one));
        sum
    }

    #[test]
    fn a_change_is_folded_into_one_that_waits_for_the_lane_of_its_slot() {
        let mut tables = tables(Role::Master);
        let (even, odd) = (flow(&mut tables, 4), flow(&mut tables, 5));
        let before = [0, 1].map(|lane: usize| tables.lane_counts()[lane].coalesced);
        for (id, times) in [(even, 3), (odd, 8)] {
            (0..times).for_each(|_| tables.touch(id, false));
        }
        let after = [0, 1].map(|lane: usize| tables.lane_counts()[lane].coalesced);
        let listed = tables.listed();
        assert_eq!(listed, 2);
        let produced = tables.counters.deltas_produced;
        assert_eq!(after[0] + after[1], produced - listed);
        assert_eq!((after[1] - before[1]) - (after[0] - before[0]), 5);
        assert_eq!(sum(&tables), LaneCounts::whole(&tables.counters));
    }

    /// Nobody has begun the slot.
    fn fenced() -> ToWorker {
        ToWorker::Record {
            at: SlotRef {
                vrf: VrfId(0),
                slot: 3,
            },
            lane: LaneTag {
                peer: 0,
                lane: 0,
                incarnation: 1,
            },
            delta: Delta::Del(DelRecord {
                name: Name::Handle(Handle(1)),
                version: Version {
                    term: Term(0x101),
                    counter: 1,
                },
            }),
        }
    }

    #[test]
    fn a_refusal_is_of_the_event_thread_by_which_the_record_came() {
        let mut tables = tables(Role::Backup);
        for (event, records) in [(0, 1), (1, 4)] {
            let (mut into, mut inbox) = RingBuffer::new(records);
            (0..records).for_each(|_| into.push(fenced()).unwrap());
            assert_eq!(absorb(&mut tables, &mut inbox, event, records, NOW), records);
        }
        let fenced: Vec<_> = tables.lane_counts().iter().map(|l| l.refused.fenced).collect();
        assert_eq!(fenced, [1, 4]);
        assert_eq!(sum(&tables), LaneCounts::whole(&tables.counters));
    }
}
