//! Two nodes that are not alike (DESIGN.md section 7): names and stable ids travel, numbers of one node mean nothing to the
//! other; where the configurations differ, what can't be taken in is counted and everything else is.

use core::time::Duration;
use std::collections::BTreeMap;

use dataplane::delta::{Class, Version};
use dataplane::flow::{FlowKey, VrfId};
use dataplane::wire::vlan::VlanTags;
use state_sync::config::CONTROL_LANE;
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN, MAIN, Setup, WAN, public};
use testkit::network::Weather;
use testkit::packet::{self, to_node};

use crate::bulk::reconnects;
use crate::replication::{open_flows, remove};
use crate::resync::exported;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A packet of the second VRF; the tuple that it has where it comes out.
fn in_second_vrf(
    cluster: &mut Cluster,
    node: usize,
    port: dataplane::io::PortId,
    key: &FlowKey,
) -> Option<FlowKey> {
    let mut link = to_node([1, 2][node], port, &key.src);
    link.vlans = VlanTags::from_ids(&[200]).unwrap();
    let sent = cluster.through(node, port, &packet::simple(&link, key));
    sent.iter()
        .filter(|s| s.port != port)
        .find_map(|s| packet::flow(&s.frame))
}

/// What a node holds, by name of the VRF; no number of the node's own is in it.
fn by_name(cluster: &mut Cluster, node: usize) -> BTreeMap<String, (Class, Version, u16)> {
    let node = cluster.node(node);
    let names = |vrf: VrfId| {
        if vrf == node.setup.vrf_id(0) {
            "main"
        } else {
            "second"
        }
    };
    let bare = |key: &FlowKey| FlowKey { vrf: MAIN, ..*key };
    let row = |c: &dataplane::conntrack::Conntrack| {
        let [original, reply] = &c.keys();
        let name = format!(
            "{} {:?} {:?} {:?}",
            names(original.vrf),
            bare(original),
            bare(reply),
            c.nat().map(|n| n.part)
        );
        assert_eq!(original.vrf, reply.vrf);
        (name, (c.class, c.sync.version, c.slot))
    };
    let live = node.tables().flat_map(|t| t.conntracks.iter_live());
    live.map(|(_, c)| row(c)).collect()
}

/// Rule 21.
#[test]
fn nodes_that_number_their_vrfs_and_workers_differently_hold_the_same() {
    let here = Setup {
        second_vrf: true,
        workers: 3,
        events: 1,
        ..Setup::default()
    };
    let there = Setup {
        vrfs_swapped: true,
        workers: 2,
        events: 2,
        ring_entries: 128,
        ..here.clone()
    };
    let mut cluster = Cluster::of([here, there], 171);
    assert_eq!(cluster.try_settle(), Vec::<String>::new());
    assert!(cluster.node(0).is_active(MAIN));
    // The same inside tuples in both VRFs.
    let main = open_flows(&mut cluster, 0, 60, 10_000);
    let mut second = Vec::new();
    for (inside, _) in &main[..40] {
        let outside = in_second_vrf(&mut cluster, 0, LAN, inside).unwrap();
        assert_eq!(
            in_second_vrf(&mut cluster, 0, WAN, &outside.reversed()),
            Some(inside.reversed())
        );
        second.push((*inside, outside));
    }
    // By walks, by live records, and both ends of an entry.
    for _ in 0..2 {
        assert_eq!(cluster.try_settle(), Vec::<String>::new());
        let (ours, theirs) = (by_name(&mut cluster, 0), by_name(&mut cluster, 1));
        assert_eq!(ours.len(), 100);
        assert_eq!(ours, theirs);
        cluster.kill(1, Death::Process);
        cluster.start(1);
    }
    assert_eq!(cluster.try_settle(), Vec::<String>::new());
    assert_eq!(
        cluster
            .node(0)
            .reports()
            .iter()
            .flat_map(|r| &r.clients)
            .flat_map(|c| &c.vrfs)
            .map(|v| v.digest_mismatch)
            .sum::<u64>(),
        0
    );
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(1_200 * MS);
    for (inside, outside) in &main {
        assert_eq!(cluster.out(1, inside), Some(*outside));
        assert_eq!(cluster.back(1, outside), Some(inside.reversed()));
    }
    for (inside, outside) in &second {
        assert_eq!(in_second_vrf(&mut cluster, 1, LAN, inside), Some(*outside));
        assert_eq!(
            in_second_vrf(&mut cluster, 1, WAN, &outside.reversed()),
            Some(inside.reversed())
        );
    }
}

/// Rule 22: the standby knows one public address less. Its flows alone are lacking, to the last one, and the node says why
/// it can't take over; what is removed is no longer lacking, and nothing that differs is a reason to send slots.
#[test]
fn what_a_standby_has_no_pool_for_is_refused_alone_and_counted() {
    let less = Setup {
        pool_addresses: 3,
        ..Setup::default()
    };
    let mut cluster = Cluster::of([Setup::default(), less], 172);
    cluster.run(3 * S);
    assert_eq!(cluster.active(), Some(0));
    let flows = open_flows(&mut cluster, 0, 200, 10_000);
    cluster.run(3 * S);
    let lost: Vec<_> = flows
        .iter()
        .filter(|(_, outside)| outside.src == public(3))
        .copied()
        .collect();
    assert!(
        (10..190).contains(&lost.len()),
        "{} of 200 stand on the fourth address",
        lost.len()
    );
    let there = view(cluster.node(1));
    assert_eq!(there.conntracks.len(), 200 - lost.len());
    let blocks = view(cluster.node(0))
        .blocks
        .values()
        .filter(|b| b.1 == public(3).to_string())
        .count();
    let lacking = |cluster: &mut Cluster| -> u32 {
        view(cluster.node(1))
            .lacking
            .values()
            .map(|(count, _)| count)
            .sum()
    };
    assert_eq!(lacking(&mut cluster) as usize, lost.len() + blocks);
    assert!(cluster.node(1).counters().absorb_no_pool >= lost.len() as u64);
    // The alarm: not ready, and both nodes' event threads have told which section it is.
    assert!(!cluster.node(1).is_ready());
    let seen = cluster.node(1).board.view(0, MAIN, Setup::default().slots);
    assert!(seen.vrf.is_some_and(|vrf| !vrf.equal), "{seen:?}");
    for node in 0..2 {
        let told = cluster.node(node).pump_events.try_iter().any(|event| {
            matches!(event, state_sync::port::PumpEvent::VrfOpened { differences, .. }
                if differences.iter().any(|d| d.section == "cg-nat pools"))
        });
        assert!(told, "node {node}");
    }
    let sent = exported(&mut cluster, 0);
    remove(&mut cluster, 0, &lost);
    cluster.run(3 * S);
    assert_eq!(lacking(&mut cluster) as usize, blocks);
    let now = exported(&mut cluster, 0);
    assert_eq!(
        (now.generations.whole, now.digest_mismatch),
        (sent.generations.whole, 0),
        "{now:?}"
    );
    // With the right configuration it is taken into service as any node.
    cluster.setups[1] = Setup::default();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    cluster.settle();
    assert!(cluster.node(1).is_ready());
    assert_eq!(lacking(&mut cluster), 0);
}

/// Rule 25: a link that takes hardly a byte fills every lane; the control lane's heartbeats pass all the same, and nobody
/// is taken for dead.
#[test]
fn heartbeats_pass_while_every_lane_is_full() {
    let mut cluster = Cluster::pair(Setup::default(), 173);
    open_flows(&mut cluster, 0, 300, 10_000);
    cluster.settle();
    let heartbeat_ms = u64::try_from(Setup::default().timing.heartbeat.as_millis()).unwrap();
    let before = lanes(&mut cluster);
    // Some 10 kB/s to and fro.
    cluster.fabric.set_weather(Weather {
        delay: 10 * MS,
        room: 100,
        ..Weather::default()
    });
    let (mut slowest, mut beats) = (0, 0);
    for round in 0..400_u16 {
        if round < 300 {
            for worker in 0..2 {
                let node = cluster.node(0);
                let ids: Vec<u32> = node
                    .tables_mut(worker)
                    .conntracks
                    .iter_live()
                    .map(|(id, _)| id)
                    .collect();
                ids.into_iter()
                    .for_each(|id| node.tables_mut(worker).touch(id, false));
            }
        }
        cluster.run(10 * MS);
        let now = lanes(&mut cluster);
        if (100..300).contains(&round) {
            assert!(
                now.iter().filter(|l| l.0 != CONTROL_LANE).all(|l| l.2 > 500),
                "not full: {now:?}"
            );
        }
        let control = now.iter().find(|l| l.0 == CONTROL_LANE).unwrap();
        slowest = slowest.max(control.2);
        beats = control.3;
    }
    assert!(slowest < heartbeat_ms, "a heartbeat took {slowest} ms");
    let first = before.iter().find(|l| l.0 == CONTROL_LANE).unwrap().3;
    assert!(
        beats - first >= 4_000 / heartbeat_ms / 2,
        "{} heartbeats",
        beats - first
    );
    let lost = |lanes: &[(u8, u64, u64, u64)]| lanes.iter().map(|l| l.1).sum::<u64>();
    assert_eq!(lost(&lanes(&mut cluster)), lost(&before), "a lane was given up");
    assert_eq!(cluster.active(), Some(0));
    cluster.fabric.set_weather(Weather::default());
    cluster.settle();
}

/// Lanes of node 0: number, connections lost, age of what is not applied in ms, records applied.
fn lanes(cluster: &mut Cluster) -> Vec<(u8, u64, u64, u64)> {
    let reports = cluster.node(0).reports();
    let clients = reports.iter().flat_map(|r| &r.clients);
    clients
        .map(|c| (c.lane, c.reconnects, c.lag_ms, c.records_acked))
        .collect()
}

/// How many sections differed, each time a node has told.
fn differing(cluster: &mut Cluster, node: usize) -> Vec<usize> {
    let told = cluster.node(node).pump_events.try_iter();
    told.filter_map(|event| match event {
        state_sync::port::PumpEvent::VrfOpened { differences, .. } => Some(differences.len()),
        _ => None,
    })
    .collect()
}

/// a configuration that is changed while lanes are up is told, and what it means counts at once, on both nodes.
#[test]
fn sections_that_become_different_and_equal_again_are_noticed_on_lanes_that_are_up() {
    let mut cluster = Cluster::pair(Setup::default(), 61);
    open_flows(&mut cluster, 0, 40, 10_000);
    cluster.settle();
    let before = exported(&mut cluster, 0);
    let lost = reconnects(&mut cluster, 0);
    let idle = |cluster: &mut Cluster, node: usize, seconds: u32| {
        cluster
            .node(node)
            .publish(|intent, _| intent.vrfs[0].pools[0].block_idle_s = seconds);
        cluster.run(S / 10);
    };
    let equal = |cluster: &mut Cluster| {
        [0, 1].map(|node| {
            let view = cluster.node(node).board.view(0, MAIN, Setup::default().slots);
            view.vrf.is_some_and(|vrf| vrf.equal)
        })
    };
    for changed in 0..2 {
        idle(&mut cluster, changed, 7);
        assert_eq!(equal(&mut cluster), [false; 2]);
        assert!(!cluster.node(1).is_ready());
        idle(&mut cluster, 1 - changed, 7);
        assert_eq!(equal(&mut cluster), [true; 2]);
        assert!(cluster.node(1).is_ready());
        for node in 0..2 {
            let told = differing(&mut cluster, node);
            assert!(told.ends_with(&[1, 0]), "node {node}: {told:?}");
        }
        for node in 0..2 {
            idle(&mut cluster, node, 60);
        }
        assert!(
            differing(&mut cluster, 0).ends_with(&[1, 0]) && differing(&mut cluster, 1).ends_with(&[1, 0])
        );
    }
    cluster.settle();
    let after = exported(&mut cluster, 0);
    assert_eq!(
        (after.generations.whole, after.generations.caught_up),
        (before.generations.whole, before.generations.caught_up)
    );
    assert_eq!(reconnects(&mut cluster, 0), lost);
}
