//! How much walks put into the rings, and how they share a turn.

use std::collections::BTreeSet;
use std::sync::Arc;

use rtrb::{Consumer, RingBuffer};

use super::*;
use crate::config::{Intent, Timeouts};
use crate::conntrack::{Conntrack, State, Tuples, udp};
use crate::delta::{LaneTag, SlotOffer, Term, Version};
use crate::flow::{Addr, FlowKey, VrfId, proto};
use crate::nat::{NatLimits, Pools};
use crate::resync::Missing;
use crate::role::Role;
use crate::stage::emit::emit;
use crate::stage::slots::send_slot;
use crate::tables::Limits;

const TERM: Term = Term(0x101);
const NOW: Instant = Instant::from_secs(1_000);
const LANE: LaneTag = LaneTag {
    peer: 0,
    lane: 0,
    incarnation: 1,
};
const LIMITS: Limits = Limits {
    conntracks: 4_096,
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
/// More than any walk here has to do.
const AMPLE: usize = 100_000;

const fn at(slot: u16) -> SlotRef {
    SlotRef { vrf: VrfId(0), slot }
}

/// Tables of an active node, whose slots are on so many lanes in turn.
fn active(lanes: usize) -> Tables {
    let pools = Arc::new(Pools::new(&Intent::default()));
    let mut tables = Tables::new((0, 1), lanes, &[16], LIMITS, pools, 7);
    tables.roles[0].role = Role::Master;
    tables.roles[0].term = TERM;
    tables
}

fn conntrack(slot: u16, port: u16) -> Conntrack {
    let [_, number] = slot.to_be_bytes();
    let original = FlowKey {
        src: Addr::v4([100, 64, number, 1]),
        dst: Addr::v4([203, 0, 113, 9]),
        src_port: port,
        dst_port: 53,
        vrf: VrfId(0),
        proto: proto::UDP,
    };
    let tuples = Tuples::new(&[original, original.reversed()]).unwrap();
    Conntrack::new(
        tuples,
        slot,
        State::Udp(udp::Track::open()),
        &Timeouts::default(),
        NOW,
    )
}

/// A slot with so many conntracks, each of which has been given its version, is asked for.
fn asked(tables: &mut Tables, slot: u16, conntracks: u16) {
    for port in 0..conntracks {
        let id = tables.insert(&conntrack(slot, port)).unwrap();
        let version = tables.slots.get_mut(at(slot)).unwrap().next_version(TERM);
        let conntrack = &mut tables.conntracks[id];
        let digest = conntrack.digest(version);
        let slot = tables.slots.get_mut(at(slot)).unwrap();
        slot.account(&mut conntrack.sync, version, digest);
    }
    send_slot(tables, at(slot), LANE, 1, None);
}

fn rings<const N: usize>(capacities: [usize; N]) -> ([Producer<ToEvent>; N], [Consumer<ToEvent>; N]) {
    let pairs = capacities.map(RingBuffer::new);
    let mut events = vec![];
    let rings = pairs.map(|(ring, event)| {
        events.push(event);
        ring
    });
    (rings, events.try_into().unwrap())
}

fn taken(event: &mut Consumer<ToEvent>, most: usize) -> Vec<ToEvent> {
    core::iter::from_fn(|| event.pop().ok()).take(most).collect()
}

/// From where on the slot is told whose begin is next.
fn since(event: &mut Consumer<ToEvent>) -> Option<Version> {
    match event.pop().unwrap() {
        ToEvent::SlotBegin { since, .. } => since,
        other => panic!("{other:?}"),
    }
}

fn busy(ring: &mut Producer<ToEvent>, items: usize) {
    let live = ToEvent::SlotDirty { at: at(0) };
    assert_eq!(fill(ring, items, core::iter::repeat(live)), items);
}

#[test]
fn no_more_than_512_records_stand_in_a_ring_behind_which_a_walk_puts_its_own() {
    let mut tables = active(1);
    asked(&mut tables, 3, 1_000);
    let (mut rings, [mut event]) = rings([4_096]);
    let mut seen = vec![];
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 512);
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 0);
    seen.extend(taken(&mut event, 100));
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 100);
    seen.extend(taken(&mut event, AMPLE));
    // Live records count, and are not held up by it.
    busy(&mut rings[0], 500);
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 12);
    busy(&mut rings[0], 1_000);
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 0);
    let walked = |item: &ToEvent| !matches!(item, ToEvent::SlotDirty { .. });
    seen.extend(taken(&mut event, AMPLE).into_iter().filter(walked));
    assert_eq!(
        walk(&mut tables, &mut rings, AMPLE, NOW),
        1 + 1_000 + 1 - 512 - 100 - 12
    );
    seen.extend(taken(&mut event, AMPLE));
    assert_complete(&seen, 1_000);
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 0);
    assert!(tables.walking[0].is_empty());
}

/// Begin, each entry once, end.
#[track_caller]
fn assert_complete(items: &[ToEvent], entries: u32) {
    let [
        ToEvent::SlotBegin { .. },
        records @ ..,
        ToEvent::SlotEnd { end, .. },
    ] = items
    else {
        panic!("{:?} … {:?}", items.first(), items.last());
    };
    let handles = records.iter().map(|item| match item {
        ToEvent::Record {
            only: Some(LANE),
            delta: Delta::Put(put),
            ..
        } => put.handle.0,
        other => panic!("{other:?}"),
    });
    let handles: BTreeSet<u32> = handles.collect();
    assert_eq!(
        (records.len(), handles.len()),
        (entries as usize, entries as usize)
    );
    assert_eq!(end.count, entries);
}

#[test]
fn live_records_keep_half_of_a_small_ring() {
    let mut tables = active(1);
    asked(&mut tables, 3, 100);
    let (mut rings, [mut event]) = rings([64]);
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 32);
    busy(&mut rings[0], 32);
    taken(&mut event, 33);
    assert_eq!(walk(&mut tables, &mut rings, AMPLE, NOW), 1);
}

#[test]
fn lanes_share_a_turn_and_one_that_can_do_nothing_leaves_its_share_to_the_others() {
    let mut tables = active(2);
    for slot in 0..4 {
        asked(&mut tables, slot, 200);
    }
    let (mut rings, mut events) = rings([4_096, 4_096]);
    // A begin, no blocks: from here on each step is a record.
    assert_eq!(walk(&mut tables, &mut rings, 2 * 4, NOW), 4);
    assert_eq!(walk(&mut tables, &mut rings, 64, NOW), 64);
    assert_eq!([events[0].slots(), events[1].slots()], [2 + 32, 2 + 32]);
    for stuck in [1, 0] {
        let free = 1 - stuck;
        taken(&mut events[free], AMPLE);
        busy(&mut rings[stuck], 600);
        assert_eq!(walk(&mut tables, &mut rings, 64, NOW), 64);
        assert_eq!(events[free].slots(), 64);
        taken(&mut events[stuck], AMPLE);
    }
}

#[test]
fn slots_of_a_lane_are_walked_by_turns_eight_at_once() {
    let mut tables = active(1);
    for slot in 0..10 {
        asked(&mut tables, slot, 20);
    }
    let (mut rings, [mut event]) = rings([4_096]);
    // A begin, no blocks, then the first three entries of each.
    walk(&mut tables, &mut rings, 8 * 5, NOW);
    let mut per_slot = [0; 10];
    for item in taken(&mut event, AMPLE) {
        if let ToEvent::Record { at, .. } = item {
            per_slot[usize::from(at.slot)] += 1;
        }
    }
    assert_eq!(per_slot, [3, 3, 3, 3, 3, 3, 3, 3, 0, 0]);
}

/// A flow that was opened while another node's word counted has no version, and its slot may look equal: it is told all the same.
#[test]
fn a_slot_with_flows_that_were_never_told_is_sent_whole_though_it_looks_equal() {
    for untold in [false, true] {
        let mut tables = active(1);
        tables.insert(&conntrack(3, 7)).unwrap();
        tables.slots.get_mut(at(3)).unwrap().untold = untold;
        let offer = SlotOffer {
            generation: 1,
            count: 0,
            digest: 0,
            version: Version::default(),
            absent: 0,
            same: false,
            exact: true,
        };
        send_slot(&mut tables, at(3), LANE, 1, Some(offer));
        let (mut rings, [mut event]) = rings([64]);
        walk(&mut tables, &mut rings, AMPLE, NOW);
        assert_eq!(since(&mut event), (!untold).then(Version::default));
        assert_eq!(
            tables.first_changed(0).is_some(),
            untold,
            "listed, to be told live"
        );
    }
}

/// sync/PROTOCOL.md R-39. A restarted node has the slot from its standby, as far as that had it: what the standby lacked, nobody
/// has any more, and no change since tells so.
#[test]
fn a_receiver_that_lacks_what_this_node_has_not_written_is_not_caught_up() {
    let imported = Version {
        term: Term(0x9),
        counter: 5,
    };
    for (absent, behind, caught_up) in [(0, 0, true), (1, 0, false), (1, 1, true)] {
        let mut tables = active(1);
        let (mut rings, [mut event]) = rings([64]);
        tables.slots.get_mut(at(3)).unwrap().version = imported;
        let mut points = vec![imported];
        for port in [7, 8] {
            tables.create(&conntrack(3, port)).unwrap();
            emit(&mut tables, &mut rings, AMPLE, NOW);
            points.push(tables.slots.get(at(3)).unwrap().version);
        }
        taken(&mut event, AMPLE);
        let offer = SlotOffer {
            generation: 1,
            count: 9,
            digest: 9,
            version: points[behind],
            absent,
            same: false,
            exact: true,
        };
        send_slot(&mut tables, at(3), LANE, 1, Some(offer));
        walk(&mut tables, &mut rings, AMPLE, NOW);
        assert_eq!(since(&mut event), caught_up.then_some(points[behind]));
    }
}

/// sync/PROTOCOL.md R-32. The owner of the reign has died before it told a slot; what it wrote after its restart, under a term
/// of less reigns, must not be above what its standby gives back.
#[test]
fn a_standby_begins_a_slot_under_the_reign_it_has_adopted() {
    let mut tables = active(1);
    tables.roles[0].role = Role::Backup;
    send_slot(&mut tables, at(3), LANE, 1, None);
    let (mut rings, [mut event]) = rings([64]);
    walk(&mut tables, &mut rings, AMPLE, NOW);
    let terms = taken(&mut event, AMPLE)
        .into_iter()
        .filter_map(|item| match item {
            ToEvent::SlotBegin { version, .. } => Some(version.term),
            ToEvent::SlotEnd { end, .. } => Some(end.version.term),
            _ => None,
        });
    assert_eq!(terms.collect::<Vec<_>>(), [TERM; 2]);
}

/// A node whose table was full takes over the telling of a slot from one that has all of it: what it lacks counts no more at
/// either, and the receiver, though it offers the very point that the slot stands at, is sent the whole slot.
#[test]
fn whoever_begins_a_slot_lacks_nothing_of_it() {
    let point = Version {
        term: TERM,
        counter: 9,
    };
    for role in [Role::Backup, Role::Master] {
        let mut tables = active(1);
        tables.roles[0].role = role;
        let slot = tables.slots.get_mut(at(3)).unwrap();
        slot.version = point;
        let missing = Missing {
            key: 1,
            handle: Handle(1),
            digest: 5,
            version: point,
            for_room: true,
            outdated: false,
        };
        slot.absent.insert(missing, NOW.secs());
        let offer = SlotOffer {
            generation: 1,
            count: 1,
            digest: 5,
            version: point,
            absent: 0,
            same: false,
            exact: true,
        };
        send_slot(&mut tables, at(3), LANE, 1, Some(offer));
        let (mut rings, [mut event]) = rings([64]);
        walk(&mut tables, &mut rings, AMPLE, NOW);
        assert_eq!(since(&mut event), None);
        let slot = tables.slots.get(at(3)).unwrap();
        assert_eq!((slot.absent.sum.count, slot.own_hand), (0, true));
    }
}

/// A flow is left that this node could not tell when it was demoted. It is active again, and told to stand by before a walk
/// comes to the flow: nobody has taken over, so its word counts, and whoever doesn't say it now says it never.
#[test]
fn a_flow_nobody_was_told_of_is_told_as_long_as_this_node_s_word_counts() {
    for (reigned, told) in [(TERM, 1), (Term(0x91), 0)] {
        let mut tables = active(1);
        let id = tables.insert(&conntrack(3, 1)).unwrap();
        tables.roles[0].role = Role::Backup;
        let (mut rings, [mut event]) = rings([64]);
        tables.roles[0].reigned = reigned;
        send_slot(&mut tables, at(3), LANE, 1, None);
        emit(&mut tables, &mut rings, AMPLE, NOW);
        emit(&mut tables, &mut rings, AMPLE, NOW);
        let puts = taken(&mut event, AMPLE);
        let puts = puts.iter().filter(|item| matches!(item, ToEvent::Record { .. }));
        assert_eq!(puts.count(), told);
        assert_eq!(tables.conntracks[id].sync.emitted(), told == 1);
    }
}
