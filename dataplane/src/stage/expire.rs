//! What is over ends: at its deadline for every packet, and out of the tables when there is time for it.
//!
//! Only the active node ages: a standby's entries stay in the wheel and are asked again later, so a take-over needs no walk. Only
//! when no owner has been seen for the longest timeout a standby ends what is over by what it was told last; what it ends so it
//! tells if its word still counts. An entry inherited from the former active gets a floor lifetime and a spread, applied here,
//! lazily, when its time seems to be up.
//!
//! A conntrack whose deadline has passed is *over*: the packet that finds it ends it first ([`end_if_over`]), and goes on as if
//! it had found none. So the wheel may come late, and millions that are over at once needn't cost packets more than a small share
//! of their time ([`Pace`]).

use arrayvec::ArrayVec;

use crate::conntrack::{Conntrack, Visit};
use crate::io::BURST;
use crate::role::Role;
use crate::tables::{Tables, VrfRole};
use crate::time::Instant;

/// Timer visits per turn that has time for them.
const VISITS: usize = 64;

/// Conntracks that are removed together. What ends has had no packet for long: all that its removal touches has to come from
/// memory, and is asked for one pass ahead, for so many that it fits into the nearest cache.
const GROUP: usize = 16;

/// Blocks and resting ports looked at per turn.
const NAT_VISITS: u32 = 64;

/// Those that are looked at together.
const NAT_GROUP: u32 = 16;

/// Least lifetime of an inherited entry after the take-over, in seconds.
const FLOOR_S: u32 = 60;

/// Inherited entries end spread over this many seconds more.
const SPREAD_S: u32 = 64;

/// How long until a standby's entry is looked at again, in seconds.
const STANDBY_REVISIT_S: u32 = 30;

/// What things cost, in packets that pay for them while the worker has all hands full. A packet costs 200 to 350 clocks, and
/// gives a twentieth of that. To end a conntrack, with its mapping and everything that leads to it.
const END_COST: usize = 72;
/// To look at one that lives on.
const LOOK_COST: usize = 16;
/// To free a port whose rest is over.
const REST_COST: usize = 72;

/// Conntracks that may be ended for each that is made: two, so that what waits gets less however many come.
const ENDS_PER_NEW: usize = 2;

/// What is this late is paid for twice as well, and so on: the wheel isn't left behind for ever.
const LATE_S: u32 = 180;

/// How much time a turn has for what is over.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    packets: usize,
    /// A queue had a full burst to give, and probably more.
    busy: bool,
    /// Somebody was refused what the dead may still hold.
    wanted: bool,
    /// What packets have paid for and was not used yet, in packets.
    paid: usize,
    /// Conntracks that had been made by the last turn.
    made: u64,
    /// Whether rests come first next time.
    rests_first: bool,
}

impl Pace {
    /// A burst of so many packets was taken in.
    #[inline]
    pub(crate) const fn took(&mut self, packets: usize) {
        self.packets += packets;
        self.busy |= packets == BURST;
    }
}

/// One turn's share of expiry. Returns the number of conntracks ended.
pub(crate) fn expire(tables: &mut Tables, now: Instant) -> usize {
    let made = tables.counters.conntracks_created;
    let pace = &mut tables.pace;
    let new = usize::try_from(made - pace.made).unwrap_or(0);
    let packets = core::mem::take(&mut pace.packets);
    let busy = core::mem::take(&mut pace.busy);
    let wanted = core::mem::take(&mut pace.wanted);
    pace.made = made;
    let ended = if busy && !wanted {
        let late = 1 + (tables.wheel.late_s(now.secs()) / LATE_S) as usize;
        pace.paid += packets * late + new * ENDS_PER_NEW * END_COST;
        end_paid(tables, now)
    } else {
        pace.paid = 0;
        let (_, ended) = end_over(tables, now, VISITS);
        end_rests(tables, now, NAT_VISITS);
        ended
    };
    tables.list_blocks();
    ended
}

/// Groups of conntracks and of rests in turn, as far as packets have paid for them. Returns the number of conntracks ended.
fn end_paid(tables: &mut Tables, now: Instant) -> usize {
    let mut ended = 0;
    while tables.pace.paid >= GROUP * END_COST {
        let rests_first = tables.pace.rests_first;
        tables.pace.rests_first = !rests_first;
        let mut cost = 0;
        for rests in [rests_first, !rests_first] {
            if cost > 0 {
                break;
            }
            cost = if rests {
                end_rests(tables, now, NAT_GROUP) as usize * REST_COST
            } else {
                let (looked, gone) = end_over(tables, now, GROUP);
                ended += gone;
                gone * END_COST + (looked - gone) * LOOK_COST
            };
        }
        if cost == 0 {
            // Nothing is due. What was paid isn't saved up: it would be spent on one turn.
            tables.pace.paid = GROUP * END_COST;
            break;
        }
        tables.pace.paid = tables.pace.paid.saturating_sub(cost);
    }
    ended
}

/// Somebody lacks a place, a port or a block, which something that is over may still hold: a slice of that ends on the spot, once
/// per turn, and more at the end of the turn. Whether it is worth another try.
#[cold]
pub(crate) fn make_room(tables: &mut Tables, now: Instant) -> bool {
    let wanted = core::mem::replace(&mut tables.pace.wanted, true);
    if wanted {
        return false;
    }
    let (_, ended) = end_over(tables, now, VISITS);
    let freed = end_rests(tables, now, NAT_VISITS);
    tables.list_blocks();
    ended > 0 || freed > 0
}

impl Tables {
    /// Whether a conntrack is over, whatever the wheel has come to: no packet finds it any more. A standby doesn't know.
    #[must_use]
    pub fn is_over(&self, now: Instant, id: u32) -> bool {
        let conntrack = &self.conntracks[id];
        conntrack.expires_s <= now.secs()
            && self.roles[conntrack.vrf().index()].role.is_active()
            && deadline_of(self, id) <= now.secs()
            && !self.transit.is_frozen(conntrack.at())
    }
}

/// Ends a conntrack that a packet has found and whose time seems to be up. False if it lives.
#[cold]
pub(crate) fn end_if_over(tables: &mut Tables, now: Instant, id: u32) -> bool {
    let over = tables.is_over(now, id);
    if over {
        end(tables, now, id);
        tables.counters.conntracks_expired += 1;
    }
    over
}

fn deadline_of(tables: &Tables, id: u32) -> u32 {
    let conntrack = &tables.conntracks[id];
    deadline_s(conntrack, id, &tables.roles[conntrack.vrf().index()])
}

/// When a conntrack is over where this node is active.
fn deadline_s(conntrack: &Conntrack, id: u32, seen: &VrfRole) -> u32 {
    // One that no peer was ever told of was made here.
    let sync = &conntrack.sync;
    let inherited = seen.role == Role::Master && sync.emitted() && sync.version.term < seen.term;
    let floor_s = if inherited {
        seen.since_s + FLOOR_S + id % SPREAD_S
    } else {
        0
    };
    conntrack.expires_s.max(floor_s)
}

/// Ends a conntrack, however late, as of its deadline: from then on its port rests. A standby knows of none.
fn end(tables: &mut Tables, now: Instant, id: u32) {
    let vrf = tables.conntracks[id].vrf();
    let since = if tables.roles[vrf.index()].role.is_active() {
        Instant::from_secs(deadline_of(tables, id).into()).min(now)
    } else {
        now
    };
    tables.remove(since, id);
}

/// Looks at what is due, `most` timers at most. Returns how many it looked at, and how many of them ended.
fn end_over(tables: &mut Tables, now: Instant, most: usize) -> (usize, usize) {
    let mut ended: ArrayVec<u32, VISITS> = ArrayVec::new();
    let now_s = now.secs();
    let mut due: ArrayVec<u32, VISITS> = ArrayVec::new();
    let mut orphans = 0;
    let (conntracks, roles, protect) = (&tables.conntracks, &tables.roles, &tables.protect);
    let transit = &tables.transit;
    for id in tables.wheel.next_due(now_s).take(most) {
        conntracks.expect_entry(id);
    }
    let looked = tables.wheel.advance(now_s, most.min(VISITS), |id| {
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
        let deadline_s = deadline_s(conntrack, id, &seen);
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
        group.iter().for_each(|&id| end(tables, now, id));
    }
    for &id in &due {
        tables.tell(id, now);
    }
    tables.counters.conntracks_expired += ended.len() as u64;
    tables.counters.conntracks_orphaned += orphans;
    (looked, ended.len())
}

/// Frees ports whose rest is over and blocks that are idle, `most` at most, in groups. Returns how many.
fn end_rests(tables: &mut Tables, now: Instant, most: u32) -> u32 {
    let (roles, transit) = (&tables.roles, &tables.transit);
    let mut done = 0;
    while done < most {
        let group = tables.nat.tick(now, NAT_GROUP.min(most - done), |at| {
            let seen = &roles[at.vrf.index()];
            (seen.role.is_active() || seen.is_orphaned(now.secs())) && !transit.is_frozen(at)
        });
        done += group;
        if group < NAT_GROUP {
            break;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;
    use crate::tables::small::{self, conntrack};

    const OPENED: Instant = Instant::from_secs(1_000);

    fn lifetime_s() -> u32 {
        Timeouts::default().udp_opening_s
    }

    /// When what was made first is over.
    fn over() -> Instant {
        Instant::from_secs(1_000 + u64::from(lifetime_s()))
    }

    /// Tables of a node that has nobody to tell, with `flows` conntracks of the same second.
    fn tables(conntracks: usize, flows: u16) -> Tables {
        let mut tables = small::tables(conntracks, None);
        tables.roles[0].role = Role::Alone;
        // The wheel is on time.
        expire(&mut tables, OPENED);
        for n in 0..flows {
            make(&mut tables, n, OPENED);
        }
        tables.pace.made = tables.counters.conntracks_created;
        tables
    }

    fn make(tables: &mut Tables, n: u16, now: Instant) -> u32 {
        tables.create(&conntrack(n, now)).unwrap()
    }

    /// A turn with so many full bursts.
    fn busy_turn(tables: &mut Tables, bursts: usize, now: Instant) -> usize {
        for _ in 0..bursts {
            tables.pace.took(BURST);
        }
        expire(tables, now)
    }

    #[test]
    fn a_conntrack_is_over_in_the_very_second_and_not_before() {
        let mut tables = tables(8, 1);
        let before = Instant::from_ns(over().ns() - 1);
        assert!(!tables.is_over(before, 0) && !end_if_over(&mut tables, before, 0));
        assert_eq!(expire(&mut tables, before), 0);
        assert!(tables.is_over(over(), 0));
        tables.roles[0].role = Role::Backup;
        assert!(!tables.is_over(over(), 0), "a standby doesn't know");
        tables.roles[0].role = Role::Alone;
        assert!(end_if_over(&mut tables, over(), 0));
        assert_eq!(
            (tables.conntracks.len(), tables.counters.conntracks_expired),
            (0, 1)
        );
        assert_eq!((expire(&mut tables, over()), tables.wheel.len()), (0, 0));
    }

    #[test]
    fn packets_pay_for_what_ends_beside_them_and_a_turn_with_time_to_spare_takes_all_it_can() {
        let mut tables = tables(20_000, 20_000);
        let (turns, mut ended) = (5_000, 0);
        for _ in 0..turns {
            let now = busy_turn(&mut tables, 2, over());
            assert!(now <= GROUP, "{now} in one turn");
            ended += now;
        }
        let paid = turns * 2 * BURST / END_COST;
        assert!(paid.abs_diff(ended) <= GROUP, "{ended} of {paid}");
        tables.pace.took(BURST - 1);
        assert_eq!(expire(&mut tables, over()), VISITS);
        assert_eq!(expire(&mut tables, over()), VISITS);
        while expire(&mut tables, over()) > 0 {}
        assert!(tables.conntracks.is_empty());
    }

    #[test]
    fn what_nothing_was_due_for_is_not_saved_up() {
        let mut tables = tables(2_000, 2_000);
        for _ in 0..1_000 {
            assert_eq!(busy_turn(&mut tables, 2, OPENED), 0);
        }
        assert_eq!(busy_turn(&mut tables, 2, over()), GROUP);
        assert_eq!(busy_turn(&mut tables, 2, over()), 0);
    }

    #[test]
    fn what_waits_gets_less_however_many_come() {
        let mut tables = tables(2_000, 1_900);
        let mut n = 1_900;
        let mut held = tables.conntracks.len();
        while tables.counters.conntracks_expired < 1_900 {
            for _ in 0..BURST {
                make(&mut tables, n, over());
                n += 1;
            }
            busy_turn(&mut tables, 1, over());
            assert!(tables.conntracks.len() < held || tables.counters.conntracks_expired == 1_900);
            held = tables.conntracks.len();
        }
        assert!(n <= 1_900 + 1_900, "one came for each that ended");
    }

    #[test]
    fn what_is_late_is_paid_for_better() {
        let ended = |late_s: u64| {
            let mut tables = tables(20_000, 20_000);
            busy_turn(&mut tables, 1, over());
            let now = over() + core::time::Duration::from_secs(late_s);
            (0..1_000).map(|_| busy_turn(&mut tables, 1, now)).sum::<usize>()
        };
        let (soon, late) = (ended(1), ended(2 * u64::from(LATE_S)));
        assert!(
            late + 3 * GROUP >= 3 * soon && late <= 3 * (soon + GROUP),
            "{soon} {late}"
        );
    }

    #[test]
    fn room_is_made_on_the_spot_once_per_turn() {
        let mut tables = tables(200, 200);
        assert!(!make_room(&mut tables, OPENED), "nothing is over");
        assert_eq!(busy_turn(&mut tables, 1, OPENED), 0);
        assert!(make_room(&mut tables, over()));
        assert_eq!(tables.conntracks.len(), 200 - VISITS);
        assert!(!make_room(&mut tables, over()));
        assert_eq!(busy_turn(&mut tables, 1, over()), VISITS, "somebody waits for it");
        assert_eq!(busy_turn(&mut tables, 1, over()), 0);
    }
}
