//! Foresight: a standby sees no packet that would ask for a neighbour, and the first ones after a take-over would be dropped for
//! want of one. So it goes through the conntracks of others, a few at a time, and asks for the neighbours that their packets
//! would need. Whoever asks the kernel keeps asking, and confirms what has become stale (src/control/resolver.rs).
//!
//! While the role machine waits to hear how many are missing ([`Outlook`]), rounds are faster, and each is an answer.

use crate::config::InterfaceId;
use crate::flow::{Addr, Direction, FlowKey, VrfId};
use crate::nat::Pools;
use crate::notice::Notices;
use crate::outlook::Outlook;
use crate::role::Role;
use crate::tables::Tables;
use crate::time::Instant;
use crate::vrf::Snapshot;

/// Time between two slices.
const PACE_NS: u64 = 1_000_000;

/// Conntracks looked at in one slice, and places of the arena, most of which may be empty: a million are through in a minute.
const SLICE: (usize, u32) = (16, 256);

/// The same while somebody waits for the round's end: a million in four seconds.
const SLICE_AWAITED: (usize, u32) = (256, 4_096);

/// Least time between the beginnings of two rounds: what was told since the last one waits no longer, if there is little else.
const ROUND_NS: u64 = 200_000_000;

/// Next hops that a round remembers to have asked for.
const ASKED_MAX: usize = 4_096;

/// How far the round is.
#[derive(Debug)]
pub(crate) struct Foresight {
    not_before: Instant,
    /// When the round begins, or has begun.
    round_from: Instant,
    cursor: u32,
    /// What was asked for in this round, in order.
    asked: Vec<(InterfaceId, Addr)>,
    vrfs: Vec<OfVrf>,
}

/// One VRF's share in the round.
#[derive(Debug, Clone, Copy, Default)]
struct OfVrf {
    /// Number of the question that the round will answer; 0 for none.
    question: u32,
    missing: u32,
    /// There is a flow without a route: its next hop isn't even known by name.
    lost_way: bool,
}

impl Foresight {
    /// At the beginning of the first round.
    pub(crate) fn new(vrfs: usize) -> Self {
        Self {
            not_before: Instant::default(),
            round_from: Instant::default(),
            cursor: 0,
            asked: Vec::with_capacity(ASKED_MAX),
            vrfs: vec![OfVrf::default(); vrfs],
        }
    }

    /// Whether something is remembered that was not before. What there is no room for is new each time.
    fn remember(&mut self, next_hop: (InterfaceId, Addr)) -> bool {
        match self.asked.binary_search(&next_hop) {
            Ok(_) => false,
            Err(at) => {
                if self.asked.len() < ASKED_MAX {
                    self.asked.insert(at, next_hop);
                }
                true
            }
        }
    }

    fn is_awaited(&self) -> bool {
        self.vrfs.iter().any(|of| of.question != 0)
    }
}

/// What a way is looked up in, and who is told of what is missing.
#[derive(Debug)]
pub(crate) struct Ways<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) pools: &'a Pools,
    pub(crate) notices: &'a mut Notices,
    pub(crate) outlook: &'a Outlook,
    pub(crate) worker: u16,
}

/// What the packets of one direction would meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    NoRoute,
    Missing(InterfaceId, Addr),
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
    if ways.is_questioned(tables) {
        ways.begin_round(tables, now);
    } else if now < tables.foresight.round_from {
        return;
    }
    let (slice, places) = if tables.foresight.is_awaited() {
        SLICE_AWAITED
    } else {
        SLICE
    };
    let reach = tables.conntracks.reach();
    let mut looked = 0;
    for id in tables.foresight.cursor..tables.foresight.cursor.saturating_add(places) {
        if id >= reach {
            ways.end_round(tables);
            return;
        }
        tables.foresight.cursor = id + 1;
        if !tables.conntracks.is_live(id) {
            continue;
        }
        looked += 1;
        if ways.look(tables, id, now) || looked == slice {
            return;
        }
    }
}

impl Ways<'_> {
    /// Number of the question about a VRF that this worker can answer: about flows that it would forward as a backup.
    fn question(&self, tables: &Tables, vrf: usize) -> u32 {
        if tables.roles[vrf].role == Role::Backup {
            self.outlook.asked(vrf_id(vrf))
        } else {
            0
        }
    }

    /// Whether something was asked that the present round can't answer, because it has begun before.
    fn is_questioned(&self, tables: &Tables) -> bool {
        let mut of_vrfs = tables.foresight.vrfs.iter().enumerate();
        of_vrfs.any(|(vrf, of)| {
            let question = self.question(tables, vrf);
            question != 0 && question != of.question
        })
    }

    /// From the first conntrack on.
    fn begin_round(&self, tables: &mut Tables, not_before: Instant) {
        for vrf in 0..tables.foresight.vrfs.len() {
            tables.foresight.vrfs[vrf] = OfVrf {
                question: self.question(tables, vrf),
                ..OfVrf::default()
            };
        }
        let foresight = &mut tables.foresight;
        foresight.cursor = 0;
        foresight.asked.clear();
        foresight.round_from = not_before;
    }

    /// Tells what the round has found, and begins the next one in time.
    fn end_round(&self, tables: &mut Tables) {
        for (vrf, of) in tables.foresight.vrfs.iter().enumerate() {
            if of.question != 0 {
                let missing = of.missing.saturating_add(u32::from(of.lost_way));
                self.outlook
                    .answer(self.worker, vrf_id(vrf), of.question, missing);
            }
        }
        let next = tables.foresight.round_from.ns() + ROUND_NS;
        self.begin_round(
            tables,
            Instant::from_ns(next.max(tables.foresight.not_before.ns())),
        );
    }

    /// Whether a neighbour had to be asked for, in either direction.
    fn look(&mut self, tables: &mut Tables, id: u32, now: Instant) -> bool {
        let vrf = tables.conntracks[id].vrf().index();
        if tables.roles[vrf].role != Role::Backup {
            return false;
        }
        let mut asked = false;
        for direction in [Direction::Original, Direction::Reply] {
            let conntrack = &tables.conntracks[id];
            #[expect(clippy::cast_possible_truncation, reason = "as forward does it")]
            let flow_hash = tables.conntracks.hash(&conntrack.key(direction)) as u32;
            match self.find(&conntrack.translation(direction), flow_hash) {
                Found::Nothing => {}
                Found::NoRoute => tables.foresight.vrfs[vrf].lost_way = true,
                Found::Missing(interface, next_hop) => {
                    if tables.foresight.remember((interface, next_hop)) {
                        let missing = &mut tables.foresight.vrfs[vrf].missing;
                        *missing = missing.saturating_add(1);
                        self.notices.unresolved(interface, next_hop, now);
                        asked = true;
                    }
                }
            }
        }
        asked
    }

    fn find(&self, to: &FlowKey, flow_hash: u32) -> Found {
        // A hairpin needs nobody here: its other half does.
        if self.pools.is_pool_address(to.vrf, &to.dst) {
            return Found::Nothing;
        }
        let Some(way) = self.snapshot.route(to.vrf, &to.dst, flow_hash) else {
            return Found::NoRoute;
        };
        match self.snapshot.next_mac(way, &to.dst) {
            Some(_) => Found::Nothing,
            None => Found::Missing(way.interface, way.next_hop(&to.dst)),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "VRFs are numbered in 16 bits")]
const fn vrf_id(index: usize) -> VrfId {
    VrfId(index as u16)
}
