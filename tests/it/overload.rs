//! Changes that come faster than a lane takes them: steps are taken and left, and nothing is lost
//! (dataplane's `overload.rs`).

use core::time::Duration;
use std::collections::HashSet;

use dataplane::counters::Counters;
use dataplane::flow::{Direction, FlowKey};
use dataplane::overload::Step;
use testkit::checker::{tuple, view};
use testkit::cluster::Cluster;
use testkit::config::{MAIN, Setup};

use crate::replication::{open_flows, remove};

const MS: Duration = Duration::from_millis(1);

/// The highest step of node 0.
fn highest(cluster: &mut Cluster) -> Step {
    let lanes = 0..4;
    let tables = cluster.node(0).tables();
    tables
        .flat_map(|t| lanes.clone().map(|lane| t.overload(lane)))
        .max()
        .unwrap()
}

fn held_back(cluster: &mut Cluster) -> u64 {
    let tables = cluster.node(0).tables();
    tables.map(|t| t.protection(MAIN).overload).sum()
}

fn steps(counters: &Counters) -> [u64; 4] {
    [
        counters.overload_coalesce,
        counters.overload_cancel,
        counters.overload_stretch,
        counters.overload_age,
    ]
}

fn pair(seed: u64) -> Cluster {
    let setup = Setup {
        ring_entries: 64,
        ..Setup::default()
    };
    Cluster::pair(setup, seed)
}

#[test]
fn an_event_thread_that_stands_for_half_a_second_loses_nothing() {
    let mut cluster = pair(71);
    let before = open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    cluster.node(0).stop_events(true);
    // More than rings and twice as many places on the lists of every lane.
    let flood = open_flows(&mut cluster, 0, 1_200, 20_000);
    remove(&mut cluster, 0, &flood[..300]);
    remove(&mut cluster, 0, &before[..50]);
    cluster.run(250 * MS);
    assert_eq!(highest(&mut cluster), Step::Age);
    let late = open_flows(&mut cluster, 0, 40, 30_000);
    assert!(held_back(&mut cluster) >= 20, "{}", held_back(&mut cluster));
    cluster.run(250 * MS);
    let stood = cluster.node(0).counters();
    assert!(
        steps(&stood).iter().all(|entered| *entered > 0),
        "{:?}",
        steps(&stood)
    );
    assert!(stood.deltas_cancelled >= 100, "{}", stood.deltas_cancelled);
    cluster.node(0).stop_events(false);
    cluster.settle();
    // Those that were held back are told when they are old enough.
    cluster.run(5_000 * MS);
    cluster.settle();
    assert_eq!((highest(&mut cluster), held_back(&mut cluster)), (Step::Calm, 0));
    let counters = cluster.node(0).counters();
    assert_eq!(counters.slots_dirtied, 0);
    let flows = 150 + 900 + late.len();
    assert_eq!(view(cluster.node(1)).conntracks.len(), flows);
}

/// Makes flows owe a refresh, as traffic of a third of their lifetime would.
fn owe_refreshes(cluster: &mut Cluster, flows: &[(FlowKey, FlowKey)]) -> u64 {
    let wanted: HashSet<_> = flows.iter().map(|(inside, _)| tuple(inside)).collect();
    let mut owed = 0;
    for worker in 0..cluster.node(0).workers() {
        let tables = cluster.node(0).tables_mut(worker);
        let live = tables.conntracks.iter_live();
        let ids: Vec<u32> = live
            .filter(|(_, c)| wanted.contains(&tuple(&c.key(Direction::Original))))
            .map(|(id, _)| id)
            .collect();
        owed += ids.len() as u64;
        ids.into_iter().for_each(|id| tables.touch(id, true));
    }
    owed
}

#[test]
fn refreshes_are_left_out_under_pressure_and_told_again_after_it() {
    let mut cluster = pair(72);
    let flows = open_flows(&mut cluster, 0, 100, 10_000);
    cluster.settle();
    cluster.node(0).stop_events(true);
    open_flows(&mut cluster, 0, 400, 20_000);
    let owed = owe_refreshes(&mut cluster, &flows);
    open_flows(&mut cluster, 0, 1_200, 30_000);
    cluster.run(MS);
    cluster.node(0).stop_events(false);
    cluster.settle();
    let left_out = cluster.node(0).counters().refreshes_stretched;
    assert!((1..=owed).contains(&left_out), "{left_out} of {owed}");
    assert_eq!(highest(&mut cluster), Step::Calm);
    let applied = cluster.node(1).counters().absorb_applied;
    assert_eq!(owe_refreshes(&mut cluster, &flows), 100);
    cluster.run(100 * MS);
    assert_eq!(cluster.node(0).counters().refreshes_stretched, left_out);
    assert!(cluster.node(1).counters().absorb_applied >= applied + 100);
}
