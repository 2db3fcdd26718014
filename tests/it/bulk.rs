//! What happens in the middle of a bulk transfer (DESIGN.md section 8): the active node dies, the network slows down, the
//! configuration changes, entries come and go under the walk. Nothing that either node knew is lost, and slowness is no
//! reason to begin anew.

use core::time::Duration;
use std::collections::HashMap;

use dataplane::flow::FlowKey;
use state_sync::role::Desire;
use testkit::checker::{tuple, view};
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::packet;

use crate::replication::{open_flows, remove};
use crate::resync::{cut, exported};

const MS: Duration = Duration::from_millis(1);
const PARTS: u64 = 20;

type Flows = Vec<(FlowKey, FlowKey)>;

/// Small rings, so that a walk takes many turns.
fn narrow() -> Setup {
    Setup {
        workers: 1,
        events: 1,
        ring_entries: 64,
        ..Setup::default()
    }
}

fn walked(cluster: &mut Cluster) -> u64 {
    cluster.node(0).counters().walk_records
}

pub(crate) fn reconnects(cluster: &mut Cluster, node: usize) -> u64 {
    let reports = cluster.node(node).reports();
    reports
        .iter()
        .flat_map(|r| &r.clients)
        .map(|c| c.reconnects)
        .sum()
}

/// A pair that was cut apart: what both have, what only the standby still has, and what only the active has so far.
struct Apart {
    cluster: Cluster,
    common: Flows,
    gone: Flows,
    new: Flows,
}

/// Three of ten flows end and as many come behind a cut link; then all of it has to be sent.
fn apart(seed: u64) -> Apart {
    let mut cluster = Cluster::pair(narrow(), seed);
    let mut common = open_flows(&mut cluster, 0, 500, 10_000);
    cluster.settle();
    cluster.fabric.cut(true);
    let gone = common.split_off(350);
    remove(&mut cluster, 0, &gone);
    let new = open_flows(&mut cluster, 0, 150, 20_000);
    cut(&mut cluster, 3_000 * MS);
    cluster.node(0).tables_mut(0).faults.no_catch_up = true;
    cluster.fabric.cut(false);
    Apart {
        cluster,
        common,
        gone,
        new,
    }
}

/// The slots of what a node has, by original tuple.
fn held(cluster: &mut Cluster, node: usize, flows: &Flows) -> HashMap<FlowKey, u16> {
    let rows = view(cluster.node(node)).conntracks;
    let found = flows.iter().filter_map(|(inside, _)| {
        let row = rows.get(&tuple(inside))?;
        Some((*inside, row.slot))
    });
    found.collect()
}

/// Whether the standby has verified the slot since it was last begun.
fn is_verified(cluster: &mut Cluster, slot: u16) -> bool {
    let mut tables = cluster.node(1).tables();
    let found = tables.find_map(|t| t.slots.of_vrf(MAIN).find(|(number, _)| *number == slot));
    let slot = found.unwrap().1;
    slot.base.is_none() && slot.source.as_ref().is_none_or(|s| !s.open)
}

/// Both directions of a flow pass the second node by the tuple that the first one gave it.
fn assert_passes(cluster: &mut Cluster, (inside, outside): &(FlowKey, FlowKey)) {
    assert_eq!(cluster.out(1, inside), Some(*outside));
    assert_eq!(cluster.back(1, outside), Some(inside.reversed()));
}

/// Kills the active node when so many records of the bulk have been emitted.
fn dies_after(records: u64, death: Death) {
    let Apart {
        mut cluster,
        common,
        gone,
        new,
    } = apart(101);
    let slots_of_gone = held(&mut cluster, 1, &gone);
    assert_eq!(slots_of_gone.len(), gone.len());
    let before = walked(&mut cluster);
    let end = cluster.now + 10_000 * MS;
    while walked(&mut cluster) < before + records && cluster.now < end {
        cluster.turn(20 * MS / 1_000);
    }
    assert!(cluster.now < end, "the bulk never got that far");
    cluster.kill(0, death);
    cluster.order(1, Desire::Ordered);
    // What a dying kernel still delivers counts, too.
    cluster.run(1_200 * MS);
    assert_eq!(cluster.active(), Some(1));
    let left = held(&mut cluster, 1, &gone);
    for (key, slot) in slots_of_gone {
        assert!(
            left.contains_key(&key) || is_verified(&mut cluster, slot),
            "{key:?} was swept out of slot {slot}, of which no end was verified"
        );
    }
    assert_eq!(
        held(&mut cluster, 1, &common).len(),
        common.len(),
        "known to both"
    );
    let came = held(&mut cluster, 1, &new);
    let survivors = common
        .iter()
        .chain(gone.iter().filter(|f| left.contains_key(&f.0)));
    for flow in survivors.chain(new.iter().filter(|f| came.contains_key(&f.0))) {
        assert_passes(&mut cluster, flow);
    }
    cluster.start(0);
    cluster.settle();
}

/// Rule 4: an aborted resync keeps what was there and what has come, and sweeps nothing.
#[test]
fn the_active_node_dies_at_each_twentieth_of_the_bulk_and_nothing_is_lost() {
    let mut whole = apart(101).cluster;
    let before = walked(&mut whole);
    whole.settle();
    let records = walked(&mut whole) - before;
    assert!(records >= 500, "{records} records are no bulk");
    for part in 0..PARTS {
        let death = if part % 2 == 0 {
            Death::Process
        } else {
            Death::Power
        };
        dies_after(records * part / PARTS, death);
    }
}

/// Rule 3: versions survive removal and re-creation, so that no copy on its way brings an entry back or hides its heir.
#[test]
fn a_tuple_made_ended_and_made_again_under_the_walk_is_there_once_or_not_at_all() {
    for seed in 110..114 {
        let mut cluster = Cluster::pair(narrow(), seed);
        cluster.watch.every_entry = true;
        let flows = open_flows(&mut cluster, 0, 300, 10_000);
        cluster.settle();
        cluster.kill(1, Death::Process);
        cluster.start(1);
        let before = walked(&mut cluster);
        while walked(&mut cluster) == before {
            cluster.turn(MS);
        }
        // Flows the walk has yet to pass, has passed, and never meets; two of three are there at the end.
        let loop_of = |n: usize| {
            let host = u8::try_from(n % 40 + 1).unwrap();
            let new = packet::udp(subscriber(host), 20_000, server(host), 53);
            if n.is_multiple_of(2) { flows[n * 7].0 } else { new }
        };
        let keys: Vec<FlowKey> = (0..40).map(loop_of).collect();
        let mut rounds = 0;
        while rounds < 12 || cluster.random.below(4) > 0 {
            for key in &keys {
                remove(&mut cluster, 0, &[(*key, ())]);
                if cluster.random.one_in(2) {
                    cluster.turn(Duration::from_micros(20));
                }
                assert!(cluster.out(0, key).is_some());
                if cluster.random.one_in(3) {
                    cluster.turn(Duration::from_micros(20));
                }
            }
            rounds += 1;
        }
        let ended: Vec<_> = keys.iter().step_by(3).map(|key| (*key, ())).collect();
        remove(&mut cluster, 0, &ended);
        cluster.settle();
        // Not by repair.
        let sent = exported(&mut cluster, 0);
        assert_eq!(
            (sent.generations.failed, sent.digest_mismatch),
            (0, 0),
            "{sent:?}"
        );
        let there = view(cluster.node(1)).conntracks;
        assert_eq!(there.len(), 300 + 20 - ended.len());
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(there.contains_key(&tuple(key)), n % 3 != 0, "{key:?}");
        }
    }
}

/// Rule 5: a resync that never comes to its end in one go comes to its end all the same, slot by slot.
#[test]
fn a_hundred_flaps_during_a_resync_and_under_churn_converge() {
    let setup = Setup {
        slots: 256,
        ..narrow()
    };
    let mut cluster = Cluster::pair(setup, 121);
    let open = |cluster: &mut Cluster, host: u16, port| {
        let key = packet::udp(subscriber(u8::try_from(host).unwrap()), port, server(1), 53);
        assert!(cluster.out(0, &key).is_some());
        cluster.turn(MS / 10);
        (key, ())
    };
    let flows: Vec<_> = (0..960)
        .map(|n| open(&mut cluster, n % 240 + 1, 10_000 + n))
        .collect();
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    let (before, whole) = (walked(&mut cluster), 960 + 240);
    let mut cuts_in_bulk = 0;
    for flap in 0_u16..100 {
        // A fifth of the table, when there is so much to say; some slots have come to their end by then.
        let window = walked(&mut cluster) + whole / 5;
        let end = cluster.now + 150 * MS;
        while walked(&mut cluster) < window && cluster.now < end {
            cluster.turn(MS / 10);
        }
        cuts_in_bulk += u64::from(cluster.now < end);
        cluster.fabric.reset_all();
        remove(&mut cluster, 0, &flows[usize::from(flap) * 2..][..2]);
        open(&mut cluster, flap + 1, 20_000);
        open(&mut cluster, flap + 101, 20_000);
    }
    assert!(
        (4..20).contains(&cuts_in_bulk),
        "cut off {cuts_in_bulk} times in the bulk"
    );
    cluster.settle();
    assert_eq!(view(cluster.node(1)).conntracks.len(), 960);
    let sent = walked(&mut cluster) - before;
    let changes = 100 * 4;
    assert!(
        sent < 3 * whole + 2 * changes,
        "{sent} records for {whole} entries"
    );
    assert!(reconnects(&mut cluster, 0) >= 100);
}

/// Rule 5, of slots of which only two or three fit between two cuts: as many come to their end, instead of the beginnings of
/// eight.
#[test]
fn flaps_between_which_few_slots_fit_bring_some_of_them_each() {
    let setup = Setup {
        slots: 16,
        ..narrow()
    };
    let mut cluster = Cluster::pair(setup, 122);
    open_flows(&mut cluster, 0, 1_600, 10_000);
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    let verified = |cluster: &mut Cluster| cluster.node(0).board.view(0, MAIN, 16).exported;
    let mut flaps = 0;
    loop {
        let window = walked(&mut cluster) + 400;
        let end = cluster.now + 150 * MS;
        while walked(&mut cluster) < window && cluster.now < end {
            cluster.turn(MS / 10);
        }
        let there = verified(&mut cluster);
        if there == 16 {
            break;
        }
        assert!(flaps < 32, "{flaps} flaps, {there} slots");
        flaps += 1;
        cluster.fabric.reset_all();
    }
    assert!(flaps > 4, "cut off {flaps} times");
    cluster.settle();
    assert_eq!(view(cluster.node(1)).conntracks.len(), 1_600);
}

/// Rule 9: the receiver sets the pace of a bulk, live changes overtake none of it and are not held up by it, and a slow
/// lane is never given up.
#[test]
fn a_receiver_at_a_tenth_of_its_speed_gets_everything_and_live_changes_keep_moving() {
    let mut cluster = Cluster::pair(narrow(), 131);
    open_flows(&mut cluster, 0, 1_000, 10_000);
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    let before = walked(&mut cluster);
    let (mut turns, mut slowest, mut lost) = (0_u32, 0, 0);
    let mut probe: Option<(FlowKey, u32)> = None;
    let mut probes = 0_u16;
    let bulk = loop {
        turns += 1;
        cluster.node(1).stop_absorb(!turns.is_multiple_of(10));
        cluster.turn(MS / 2);
        if walked(&mut cluster) == before {
            lost = reconnects(&mut cluster, 0);
            continue;
        }
        match probe {
            Some((key, since)) if view(cluster.node(1)).conntracks.contains_key(&tuple(&key)) => {
                slowest = slowest.max(turns - since);
                probe = None;
            }
            Some(_) => {}
            None if cluster.node(1).is_ready() => break turns,
            None => {
                let key = packet::udp(subscriber(41), 30_000 + probes, server(1), 53);
                assert!(cluster.out(0, &key).is_some());
                probe = Some((key, turns));
                probes += 1;
            }
        }
        assert!(turns < 20_000, "the bulk doesn't end");
    };
    assert!(probes >= 5, "{probes} live changes in {bulk} turns");
    // What goes before it is half a ring and a credit, and not the rest of the table.
    assert!(
        slowest * 20 < bulk,
        "a live change took {slowest} of {bulk} turns"
    );
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert_eq!(reconnects(&mut cluster, 0), lost, "a slow lane was reset");
    assert_eq!(exported(&mut cluster, 0).generations.failed, 0);
}

/// Rule 16: a dead peer overrides at once, however little has come; one that goes by itself is heard.
#[test]
fn the_peer_dies_at_half_of_the_bulk_and_the_importing_node_takes_over_at_once() {
    let mut cluster = Cluster::pair(narrow(), 141);
    open_flows(&mut cluster, 0, 600, 10_000);
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    let before = walked(&mut cluster);
    while walked(&mut cluster) < before + 320 {
        cluster.turn(MS / 10);
    }
    cluster.order(1, Desire::Ordered);
    cluster.run(MS / 5);
    assert!(!cluster.node(1).is_active(MAIN) && !cluster.node(1).is_ready());
    cluster.kill(0, Death::Process);
    // The end of the connections arrives with the network's delay.
    cluster.run(MS);
    assert_eq!(cluster.active(), Some(1));
    let key = packet::udp(subscriber(9), 31_000, server(1), 53);
    assert!(cluster.out(1, &key).is_some());
}

/// Rule 16: readiness comes after the last change, is not latched by any of them, and no change ends a lane.
#[test]
fn a_configuration_changed_a_hundred_times_during_the_bulk_leaves_both_nodes_ready() {
    let mut cluster = Cluster::pair(narrow(), 142);
    open_flows(&mut cluster, 0, 600, 10_000);
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    let before = walked(&mut cluster);
    let mut changes = 0;
    while changes < 100 {
        cluster.turn(MS / 10);
        if walked(&mut cluster) == before {
            continue;
        }
        changes += 1;
        if changes < 10 {
            assert!(!cluster.node(1).is_ready(), "ready after {changes} changes");
        }
        for node in 0..2 {
            cluster.node(node).publish(|intent, _| {
                let vrf = &mut intent.vrfs[0];
                vrf.tcp_window_check = !vrf.tcp_window_check;
                vrf.firewall.rules[0].log = !vrf.firewall.rules[0].log;
            });
        }
    }
    let lost = reconnects(&mut cluster, 0);
    cluster.settle();
    assert!(cluster.node(0).is_ready() && cluster.node(1).is_ready());
    assert_eq!(reconnects(&mut cluster, 0), lost);
    assert_eq!(view(cluster.node(1)).conntracks.len(), 600);
}
