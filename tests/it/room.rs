//! Tables get more room, and give it back, while packets and records come (dataplane's `room.rs`).

use core::time::Duration;

use dataplane::room::Standing;
use dataplane::tables::Tables;
use dataplane::verdict::Drop;
use state_sync::port::PumpCommand;
use testkit::cluster::Cluster;
use testkit::config::{Setup, server, subscriber};
use testkit::packet;

use crate::replication::{conntracks, open_flows, remove};

const MS: Duration = Duration::from_millis(1);

fn small() -> Setup {
    Setup {
        conntracks: 64,
        conntracks_most: Some(2_048),
        ..Setup::default()
    }
}

fn standings(cluster: &mut Cluster, node: usize) -> Vec<Standing> {
    cluster.node(node).tables().map(Tables::standing).collect()
}

fn room(cluster: &mut Cluster, node: usize) -> Vec<usize> {
    let standings = standings(cluster, node);
    standings
        .iter()
        .map(|standing| standing.sizes.conntracks)
        .collect()
}

/// Nothing was refused for want of room, on either node.
fn nothing_refused(cluster: &mut Cluster) {
    for node in 0..2 {
        let counters = cluster.node(node).counters();
        assert_eq!((counters.absorb_full, counters.dropped(Drop::TableFull)), (0, 0));
    }
}

#[test]
fn tables_grow_under_load_and_nothing_is_lost_on_either_node() {
    let mut cluster = Cluster::pair(small(), 301);
    let flows = open_flows(&mut cluster, 0, 1_800, 10_000);
    cluster.settle();
    // What came last may have made a table grow once more.
    cluster.run(50 * MS);
    nothing_refused(&mut cluster);
    for node in 0..2 {
        assert!(room(&mut cluster, node).iter().all(|&room| room >= 1_024));
        assert_eq!(conntracks(&mut cluster, node), 1_800);
        assert!(
            standings(&mut cluster, node)
                .iter()
                .all(|standing| !standing.moving)
        );
    }
    for (inside, outside) in &flows {
        assert_eq!(cluster.out(0, inside), Some(*outside));
        assert_eq!(cluster.back(0, outside), Some(inside.reversed()));
    }
}

#[test]
fn a_standby_whose_agent_stands_lets_records_wait_and_refuses_none() {
    let mut cluster = Cluster::pair(small(), 302);
    cluster.settle();
    cluster.node(1).no_room = true;
    open_flows(&mut cluster, 0, 600, 10_000);
    cluster.run(100 * MS);
    assert!(conntracks(&mut cluster, 1) <= 128);
    cluster.node(1).no_room = false;
    cluster.settle();
    cluster.run(5_000 * MS);
    cluster.settle();
    nothing_refused(&mut cluster);
    assert_eq!(conntracks(&mut cluster, 1), 600);
}

#[test]
fn a_standby_that_comes_back_small_grows_through_the_resync() {
    let mut cluster = Cluster::pair(small(), 303);
    open_flows(&mut cluster, 0, 1_500, 10_000);
    cluster.settle();
    cluster.kill(1, testkit::cluster::Death::Process);
    cluster.run(50 * MS);
    cluster.start(1);
    assert_eq!(room(&mut cluster, 1), [64, 64]);
    cluster.settle();
    nothing_refused(&mut cluster);
    assert_eq!(conntracks(&mut cluster, 1), 1_500);
}

#[test]
fn less_room_ends_nobody_refuses_who_is_new_and_is_given_back_when_it_is_empty() {
    let mut cluster = Cluster::pair(small(), 304);
    let flows = open_flows(&mut cluster, 0, 1_200, 10_000);
    cluster.settle();
    cluster.node(0).room = Some(64);
    cluster.run(MS);
    assert_eq!(room(&mut cluster, 0), [64, 64]);
    let new = packet::udp(subscriber(1), 9_000, server(1), 53);
    assert_eq!(cluster.out(0, &new), None);
    assert_eq!(cluster.node(0).counters().dropped(Drop::TableFull), 1);
    for (inside, outside) in &flows {
        assert_eq!(cluster.out(0, inside), Some(*outside));
        assert_eq!(cluster.back(0, outside), Some(inside.reversed()));
    }
    remove(&mut cluster, 0, &flows[..1_180]);
    cluster.settle();
    cluster.run(200 * MS);
    for standing in standings(&mut cluster, 0) {
        assert_eq!((standing.indexed, standing.moving), (64, false), "{standing:?}");
    }
    for (inside, outside) in &flows[1_180..] {
        assert_eq!(cluster.out(0, inside), Some(*outside));
        assert_eq!(cluster.back(0, outside), Some(inside.reversed()));
    }
    // And back: what is asked for anew comes into the room that was given back.
    cluster.node(0).room = Some(1_024);
    open_flows(&mut cluster, 0, 1_000, 20_000);
    assert!(cluster.node(0).command(
        0,
        PumpCommand::Resync {
            vrf: None,
            slot: None,
            to: None
        }
    ));
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 0), 1_020);
    assert_eq!(conntracks(&mut cluster, 1), 1_020);
}
