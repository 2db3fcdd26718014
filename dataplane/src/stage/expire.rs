//! Bounded work on the timer wheel. Only the active node ages: a standby's entries stay in the wheel and are asked
//! again later, so a take-over needs no walk. Only when no owner has been seen for the longest timeout a standby ends what
//! is over by what it was told last; what it ends so it tells if its word still counts. An entry inherited from the former active gets a floor lifetime and
//! a spread, applied here, lazily, when its time seems to be up.

use arrayvec::ArrayVec;

use crate::conntrack::Visit;
use crate::role::Role;
use crate::tables::Tables;
use crate::time::Instant;

/// Timer visits per turn.
const VISITS: usize = 64;

/// Conntracks that are removed together. What ends has had no packet for long: all that its removal touches has to come from
/// memory, and is asked for one pass ahead, for so many that it fits into the nearest cache.
const GROUP: usize = 16;

/// Blocks and resting ports looked at per turn.
const NAT_VISITS: u32 = 64;

/// Least lifetime of an inherited entry after the take-over, in seconds.
const FLOOR_S: u32 = 60;

/// Inherited entries end spread over this many seconds more.
const SPREAD_S: u32 = 64;

/// How long until a standby's entry is looked at again, in seconds.
const STANDBY_REVISIT_S: u32 = 30;

/// One turn's share of expiry. Returns the number of conntracks ended.
pub(crate) fn expire(tables: &mut Tables, now: Instant) -> usize {
    let mut ended: ArrayVec<u32, VISITS> = ArrayVec::new();
    let now_s = now.secs();
    let mut due: ArrayVec<u32, VISITS> = ArrayVec::new();
    let mut orphans = 0;
    let (conntracks, roles, protect) = (&tables.conntracks, &tables.roles, &tables.protect);
    let transit = &tables.transit;
    for id in tables.wheel.next_due(now_s).take(VISITS) {
        conntracks.expect_entry(id);
    }
    tables.wheel.advance(now_s, VISITS, |id| {
        let conntrack = &conntracks[id];
        if transit.is_frozen(conntrack.at()) {
            return Visit::Keep(now_s + 1);
        }
        let seen = roles[conntrack.vrf().index()];
        if !seen.role.is_active() {
            if conntrack.expires_s > now_s || !seen.is_orphaned(now_s) {
                return Visit::Keep(conntrack.expires_s.max(now_s + STANDBY_REVISIT_S));
            }
            orphans += 1;
            ended.push(id);
            return Visit::Gone;
        }
        // One that no peer was ever told of was made here.
        let sync = &conntrack.sync;
        let inherited = seen.role == Role::Master && sync.emitted() && sync.version.term < seen.term;
        let floor_s = if inherited {
            seen.since_s + FLOOR_S + id % SPREAD_S
        } else {
            0
        };
        let deadline_s = conntrack.expires_s.max(floor_s);
        if deadline_s > now_s {
            return match protect.due_s(conntrack) {
                Some(due_s) if due_s > now_s => Visit::Keep(deadline_s.min(due_s)),
                Some(_) => {
                    due.push(id);
                    Visit::Keep(deadline_s)
                }
                None => Visit::Keep(deadline_s),
            };
        }
        ended.push(id);
        Visit::Gone
    });
    for group in ended.chunks(GROUP) {
        group.iter().for_each(|&id| tables.expect_removal(id));
        group.iter().for_each(|&id| tables.expect_removal_of_nat(id));
        group.iter().for_each(|&id| tables.remove(now, id));
    }
    for &id in &due {
        tables.tell(id, now);
    }
    tables.counters.conntracks_expired += ended.len() as u64;
    tables.counters.conntracks_orphaned += orphans;
    let (roles, transit) = (&tables.roles, &tables.transit);
    tables.nat.tick(now, NAT_VISITS, |at| {
        let seen = &roles[at.vrf.index()];
        (seen.role.is_active() || seen.is_orphaned(now_s)) && !transit.is_frozen(at)
    });
    tables.list_blocks();
    ended.len()
}
