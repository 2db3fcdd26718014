//! Foresight: a standby sees no packet that would ask for a neighbour, and the first ones after a take-over would be dropped for
//! want of one. So it goes through the conntracks of others, a few at a time, and asks for the neighbours that their packets
//! would need. Whoever asks the kernel keeps asking, and confirms what has become stale (src/control/resolver.rs).

use crate::flow::{Direction, FlowKey};
use crate::nat::Pools;
use crate::notice::Notices;
use crate::role::Role;
use crate::tables::Tables;
use crate::time::Instant;
use crate::vrf::Snapshot;

/// Time between two slices.
const PACE_NS: u64 = 1_000_000;

/// Conntracks looked at in one slice: a million are through in a minute.
const SLICE: usize = 16;

/// Places of the arena in one slice, most of which may be empty.
const PLACES: u32 = 256;

/// Least time between the beginnings of two rounds: what was told since the last one waits no longer, if there is little else.
const ROUND_NS: u64 = 200_000_000;

/// How far the round is.
#[derive(Debug, Default)]
pub(crate) struct Foresight {
    not_before: Instant,
    next_round: Instant,
    cursor: u32,
}

/// What a way is looked up in, and who is asked for what is missing.
#[derive(Debug)]
pub(crate) struct Ways<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) pools: &'a Pools,
    pub(crate) notices: &'a mut Notices,
}

/// One slice; it ends early with the first question, so that a thousand are asked in a second at most. Not counted as work: a
/// thread that has nothing else to do may rest.
pub(crate) fn foresee(tables: &mut Tables, ways: &mut Ways<'_>, now: Instant) {
    if now < tables.foresight.not_before {
        return;
    }
    tables.foresight.not_before = Instant::from_ns(now.ns() + PACE_NS);
    if !tables.roles.iter().any(|seen| seen.role == Role::Backup) {
        return;
    }
    let reach = tables.conntracks.reach();
    let mut looked = 0;
    for id in tables.foresight.cursor..tables.foresight.cursor.saturating_add(PLACES) {
        if id >= reach {
            begin_round(&mut tables.foresight);
            return;
        }
        tables.foresight.cursor = id + 1;
        if !tables.conntracks.is_live(id) {
            continue;
        }
        looked += 1;
        if ways.ask(tables, id, now) || looked == SLICE {
            return;
        }
    }
}

/// The next one, from the first conntrack on.
fn begin_round(foresight: &mut Foresight) {
    foresight.cursor = 0;
    foresight.not_before = foresight.not_before.max(foresight.next_round);
    foresight.next_round = Instant::from_ns(foresight.not_before.ns() + ROUND_NS);
}

impl Ways<'_> {
    /// Whether a neighbour had to be asked for, in either direction.
    fn ask(&mut self, tables: &Tables, id: u32, now: Instant) -> bool {
        let conntrack = &tables.conntracks[id];
        if tables.roles[conntrack.vrf().index()].role != Role::Backup {
            return false;
        }
        let mut asked = false;
        for direction in [Direction::Original, Direction::Reply] {
            #[expect(clippy::cast_possible_truncation, reason = "as forward does it")]
            let flow_hash = tables.conntracks.hash(&conntrack.key(direction)) as u32;
            asked |= self.ask_for(&conntrack.translation(direction), flow_hash, now);
        }
        asked
    }

    fn ask_for(&mut self, to: &FlowKey, flow_hash: u32, now: Instant) -> bool {
        // A hairpin needs nobody here: its other half does.
        if self.pools.is_pool_address(to.vrf, &to.dst) {
            return false;
        }
        let Some(way) = self.snapshot.route(to.vrf, &to.dst, flow_hash) else {
            return false;
        };
        let missing = self.snapshot.next_mac(way, &to.dst).is_none();
        if missing {
            self.notices.unresolved(way.interface, way.next_hop(&to.dst), now);
        }
        missing
    }
}
