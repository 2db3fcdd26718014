//! The copy is equal, whatever happened on the way (DESIGN.md section 8): the proofs that a weaker build would fail.

use core::time::Duration;
use std::collections::HashSet;

use dataplane::flow::{Direction, FlowKey};
use dataplane::io::PortId;
use dataplane::role::Role;
use state_sync::port::PumpCommand;
use state_sync::role::Desire;
use testkit::checker::{tuple, view};
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::packet;

const MS: Duration = Duration::from_millis(1);

/// Opens UDP flows of 40 subscribers, with one port each from `first_port` on, and answers each. Gives the tuples
/// inside and outside.
pub(crate) fn open_flows(
    cluster: &mut Cluster,
    node: usize,
    count: u16,
    first_port: u16,
) -> Vec<(FlowKey, FlowKey)> {
    let mut flows = Vec::new();
    for n in 0..count {
        let host = u8::try_from(n % 40 + 1).unwrap();
        let key = packet::udp(subscriber(host), first_port + n, server(host), 53);
        let outside = cluster
            .out(node, &key)
            .unwrap_or_else(|| panic!("{key:?} did not get out"));
        assert_eq!(cluster.back(node, &outside), Some(key.reversed()));
        if n % 16 == 0 {
            cluster.turn(Duration::from_micros(100));
        }
        flows.push((key, outside));
    }
    flows
}

/// Ends flows on a node, as their timeout would.
pub(crate) fn remove<T>(cluster: &mut Cluster, node: usize, flows: &[(FlowKey, T)]) {
    let gone: HashSet<_> = flows.iter().map(|(inside, _)| tuple(inside)).collect();
    cluster.flush(node, |c| gone.contains(&tuple(&c.key(Direction::Original))));
}

/// Both directions of every flow pass a node unchanged.
fn assert_alive(cluster: &mut Cluster, node: usize, flows: &[(FlowKey, FlowKey)]) {
    for (inside, outside) in flows {
        assert_eq!(cluster.out(node, inside), Some(*outside));
        assert_eq!(cluster.back(node, outside), Some(inside.reversed()));
    }
}

pub(crate) fn conntracks(cluster: &mut Cluster, node: usize) -> usize {
    view(cluster.node(node)).conntracks.len()
}

/// Sum of a counter over the lanes of a node.
fn over_lanes(cluster: &mut Cluster, node: usize, of: fn(&state_sync::report::ClientReport) -> u64) -> u64 {
    cluster
        .node(node)
        .reports()
        .iter()
        .flat_map(|r| &r.clients)
        .map(of)
        .sum()
}

#[test]
fn a_pair_forms_and_the_preferred_node_becomes_master() {
    let mut cluster = Cluster::pair(Setup::default(), 1);
    assert_eq!(cluster.node(0).role(MAIN).0, Role::Master);
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Backup);
}

#[test]
fn flows_opened_on_the_active_node_are_on_the_standby_entry_by_entry() {
    let mut cluster = Cluster::pair(Setup::default(), 2);
    cluster.watch.every_entry = true;
    open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 1), 200);
}

#[test]
fn flows_survive_the_death_of_the_active_node_process_or_machine() {
    for (seed, death) in [(3, Death::Process), (4, Death::Power)] {
        let mut cluster = Cluster::pair(Setup::default(), seed);
        let flows = open_flows(&mut cluster, 0, 200, 10_000);
        cluster.settle();
        cluster.kill(0, death);
        cluster.order(1, Desire::Ordered);
        cluster.run(1_200 * MS);
        assert_eq!(cluster.active(), Some(1));
        assert_alive(&mut cluster, 1, &flows);
    }
}

#[test]
fn what_was_deleted_while_the_link_was_cut_is_gone_on_both_nodes_after_it() {
    let mut cluster = Cluster::pair(Setup::default(), 5);
    let flows = open_flows(&mut cluster, 0, 300, 10_000);
    cluster.settle();
    cluster.fabric.cut(true);
    remove(&mut cluster, 0, &flows[..90]);
    cluster.run(3_000 * MS);
    for worker in 0..2 {
        cluster.node(0).tables_mut(worker).faults.no_catch_up = true;
    }
    assert_eq!(conntracks(&mut cluster, 1), 300, "the standby can't know yet");
    cluster.fabric.cut(false);
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 1), 210);
    assert_eq!(cluster.node(1).counters().swept, 90);
}

#[test]
fn while_absorb_stands_still_so_does_the_acknowledged_watermark() {
    let mut cluster = Cluster::pair(Setup::default(), 6);
    open_flows(&mut cluster, 0, 50, 10_000);
    cluster.settle();
    cluster.node(1).stop_absorb(true);
    let sent = over_lanes(&mut cluster, 0, |c| c.records_sent);
    let acked = over_lanes(&mut cluster, 0, |c| c.records_acked);
    open_flows(&mut cluster, 0, 100, 20_000);
    cluster.run(600 * MS);
    assert!(over_lanes(&mut cluster, 0, |c| c.records_sent) > sent + 100);
    let lag = over_lanes(&mut cluster, 0, |c| c.lag_records);
    assert!(lag >= 100, "only {lag} records wait for acknowledgement");
    // Heartbeats count as records; those sent before the first flow may still be acknowledged.
    assert!(over_lanes(&mut cluster, 0, |c| c.records_acked) < acked + 20);
    assert_eq!(conntracks(&mut cluster, 1), 50);
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 1), 150);
}

#[test]
fn a_master_that_is_back_within_a_second_imports_from_its_standby_which_keeps_everything() {
    for wait in [0, 20, 300, 900] {
        let mut cluster = Cluster::pair(Setup::default(), 7);
        let flows = open_flows(&mut cluster, 0, 200, 10_000);
        cluster.settle();
        cluster.kill(0, Death::Process);
        cluster.run(wait * MS);
        cluster.start(0);
        for _ in 0..2_000 {
            cluster.turn(MS);
            assert_eq!(
                conntracks(&mut cluster, 1),
                200,
                "the standby lost entries, {wait} ms"
            );
        }
        cluster.settle();
        assert_eq!(conntracks(&mut cluster, 0), 200);
        let active = cluster.active().unwrap();
        assert_alive(&mut cluster, active, &flows);
    }
}

#[test]
fn the_pool_filled_after_a_failover_gives_no_port_that_a_live_flow_has() {
    let setup = Setup {
        pool_addresses: 2,
        pool_ports: dataplane::config::PortRange {
            first: 1_024,
            last: 1_024 + 64 * 24 - 1,
        },
        block_size: 64,
        blocks_max: 8,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 8);
    let flows = open_flows(&mut cluster, 0, 400, 10_000);
    cluster.settle();
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(100 * MS);
    let mut outside: HashSet<(u8, FlowKey)> = flows.iter().map(|(_, o)| (o.proto, public_end(o))).collect();
    let mut refused = 0;
    for n in 0..2_700_u16 {
        let key = packet::udp(
            subscriber(u8::try_from(n % 40 + 1).unwrap()),
            30_000 + n,
            server(9),
            53,
        );
        match cluster.out(1, &key) {
            Some(o) => assert!(outside.insert((o.proto, public_end(&o))), "{o:?} is used twice"),
            None => refused += 1,
        }
    }
    assert!(
        refused > 0 && outside.len() > 2_000,
        "{refused} refused, {} ports",
        outside.len()
    );
    cluster.watch.every_entry = true;
    assert_alive(&mut cluster, 1, &flows);
}

/// The public address and port of a tuple that left by the WAN.
fn public_end(outside: &FlowKey) -> FlowKey {
    packet::udp(outside.src, outside.src_port, server(0), 0)
}

#[test]
fn nodes_with_other_numbers_of_workers_and_event_threads_have_equal_tables() {
    let of = |workers, events, ring_entries| Setup {
        workers,
        events,
        ring_entries,
        ..Setup::default()
    };
    for (seed, a, b) in [
        (9, of(1, 1, 1_024), of(3, 2, 128)),
        (10, of(4, 1, 256), of(1, 4, 1_024)),
        (11, of(2, 3, 64), of(3, 1, 64)),
    ] {
        let mut cluster = Cluster::of([a, b], seed);
        cluster.settle();
        let flows = open_flows(&mut cluster, 0, 200, 10_000);
        cluster.settle();
        cluster.kill(0, Death::Process);
        cluster.order(1, Desire::Ordered);
        cluster.run(100 * MS);
        assert_alive(&mut cluster, 1, &flows);
        cluster.start(0);
        cluster.settle();
        assert_eq!(conntracks(&mut cluster, 0), 200);
    }
}

#[test]
fn a_full_ring_delays_and_loses_nothing() {
    let setup = Setup {
        ring_entries: 64,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 12);
    let first = open_flows(&mut cluster, 0, 100, 9_000);
    cluster.node(0).stop_events(true);
    open_flows(&mut cluster, 0, 600, 10_000);
    remove(&mut cluster, 0, &first[..50]);
    cluster.run(20 * MS);
    assert!(cluster.node(0).counters().ring_full > 0);
    cluster.node(0).stop_events(false);
    cluster.settle();
    // New flows may have to be two seconds old.
    cluster.run(5_000 * MS);
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 1), 650);
}

#[test]
fn a_full_standby_refuses_counts_and_verifies_with_what_it_refused() {
    let small = Setup {
        workers: 1,
        conntracks: 200,
        ..Setup::default()
    };
    let mut cluster = Cluster::of([Setup::default(), small], 13);
    cluster.settle();
    open_flows(&mut cluster, 0, 300, 10_000);
    assert_eq!(cluster.try_settle(), Vec::<String>::new());
    assert_eq!(conntracks(&mut cluster, 1), 200);
    // Each flow was created and answered: refused at its creation, unknown at its answer, and then asked for as it is
    // now, to be refused again, unless both came after another; once more if the second in which it is asked for ends between.
    let full = cluster.node(1).counters().absorb_full;
    assert!((100..=300).contains(&full), "{full} refused for want of room");
    let refused = |c: &state_sync::report::ClientReport| c.vrfs.iter().map(|v| v.refused).sum();
    let before = over_lanes(&mut cluster, 0, refused);
    for event in 0..2 {
        assert!(cluster.node(0).command(
            event,
            PumpCommand::Resync {
                vrf: None,
                slot: None,
                to: None
            }
        ));
    }
    cluster.run(20 * MS);
    assert_eq!(cluster.try_settle(), Vec::<String>::new());
    assert_eq!(
        over_lanes(&mut cluster, 0, refused) - before,
        100,
        "verified, N refused"
    );
}

#[test]
fn roles_that_flip_during_a_resync_end_in_equal_tables() {
    for seed in 20..24 {
        let mut cluster = Cluster::pair(
            Setup {
                slots: 64,
                ring_entries: 64,
                ..Setup::default()
            },
            seed,
        );
        cluster.watch.every_entry = true;
        open_flows(&mut cluster, 0, 300, 10_000);
        for _ in 0..8 {
            let (node, other) = if cluster.random.one_in(2) { (0, 1) } else { (1, 0) };
            match cluster.random.below(3) {
                0 => cluster.fabric.reset_all(),
                1 => cluster.order(other, Desire::Backup),
                _ => {}
            }
            cluster.order(node, Desire::Ordered);
            let pause = cluster.random.between(1, 80);
            cluster.run(Duration::from_millis(pause));
        }
        cluster.order(0, Desire::Backup);
        cluster.order(1, Desire::Ordered);
        cluster.settle();
    }
}

/// Node 0 has flows that nobody was told of when node 1 takes over behind a cut link: they become node 1's. What node 0
/// has ended meanwhile it has not ended for node 1, whose word counts.
fn unsent_tail(flows: u16) {
    let setup = Setup {
        ring_entries: 64,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 14);
    let known = open_flows(&mut cluster, 0, 100, 9_000);
    cluster.settle();
    cluster.fabric.cut(true);
    cluster.node(0).stop_events(true);
    let tail = open_flows(&mut cluster, 0, flows, 10_000);
    remove(&mut cluster, 0, &known[..20]);
    cluster.run(1_500 * MS);
    cluster.order(1, Desire::Ordered);
    cluster.run(3_000 * MS);
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Master);
    let new = open_flows(&mut cluster, 1, 100, 20_000);
    cluster.node(0).stop_events(false);
    cluster.fabric.cut(false);
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
    let all = 200 + tail.len();
    assert_eq!(conntracks(&mut cluster, 0), all);
    for flows in [&known, &new, &tail] {
        assert_alive(&mut cluster, 1, flows);
    }
    // And back: nothing is lost, and what node 0 once ended has not come to life twice.
    cluster.order(0, Desire::Ordered);
    cluster.run(500 * MS);
    cluster.settle();
    assert_eq!(cluster.active(), Some(0));
    assert_eq!(conntracks(&mut cluster, 1), all);
}

#[test]
fn the_unsent_tail_of_a_demoted_node_goes_on_at_the_new_one() {
    unsent_tail(40);
}

#[test]
fn a_long_unsent_tail_of_a_demoted_node_goes_on_at_the_new_one() {
    unsent_tail(1_500);
}

#[test]
fn of_two_masters_the_higher_term_wins() {
    let mut cluster = Cluster::pair(Setup::default(), 15);
    open_flows(&mut cluster, 0, 50, 10_000);
    cluster.settle();
    cluster.fabric.cut(true);
    cluster.order(1, Desire::Ordered);
    cluster.run(4_000 * MS);
    assert_eq!(cluster.node(0).role(MAIN).0, Role::Master);
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Master);
    open_flows(&mut cluster, 0, 50, 20_000);
    let newer = open_flows(&mut cluster, 1, 50, 30_000);
    cluster.fabric.cut(false);
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
    assert_alive(&mut cluster, 1, &newer);
}

#[test]
fn a_standby_that_was_killed_while_it_imported_gets_everything_the_next_time() {
    let mut cluster = Cluster::pair(
        Setup {
            slots: 256,
            ..Setup::default()
        },
        16,
    );
    open_flows(&mut cluster, 0, 400, 10_000);
    cluster.settle();
    for ms in [1, 5, 30, 60, 100] {
        cluster.kill(1, Death::Process);
        cluster.start(1);
        cluster.run(ms * MS);
    }
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 1), 400);
}

#[test]
fn bytes_in_small_parts_and_a_small_window_arrive_all_the_same() {
    let mut cluster = Cluster::new(Setup::default(), 17);
    cluster.fabric.set_weather(testkit::network::Weather {
        delay: Duration::from_micros(300),
        jitter: Duration::from_micros(900),
        spread: Duration::ZERO,
        room: 700,
        partial: true,
        fragile: 0,
    });
    cluster.settle();
    open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 1), 200);
}

#[test]
fn a_stopped_node_has_freed_every_packet() {
    let mut cluster = Cluster::pair(Setup::default(), 18);
    open_flows(&mut cluster, 0, 20, 10_000);
    let key = packet::udp(subscriber(1), 1, server(1), 53);
    let frame = packet::simple(&packet::to_node(1, PortId(0), &key.src), &key);
    for worker in 0..2 {
        assert!(cluster.node(0).inject(worker, PortId(0), &frame));
    }
    let now = cluster.now;
    let node = cluster.nodes[0].take().unwrap();
    let packets = node.shutdown(now);
    assert_eq!(packets.alive(), 0);
}
