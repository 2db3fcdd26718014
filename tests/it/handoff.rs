//! Whatever queue a packet comes in by, the worker that owns its slot handles it, and no other one touches it.

use std::sync::Arc;

use dataplane::stage::handoff::Cause;
use testkit::checker::contradictions;
use testkit::cluster::Cluster;
use testkit::config::{LAN, Setup, WAN, server, subscriber};
use testkit::packet;

#[test]
fn a_packet_in_the_wrong_queue_is_handed_over_untouched_and_handled_once() {
    let setup = Setup {
        workers: 3,
        grouped: false,
        ..Setup::default()
    };
    let mut cluster = Cluster::new(setup, 1);
    for host in 1..=12 {
        for queue in 0..3 {
            let key = packet::udp(subscriber(host), 5_000, server(1), 53);
            let frame = packet::simple(&packet::to_node(1, LAN, &key.src), &key);
            let sent = cluster.through_worker(0, queue, LAN, &frame);
            assert_eq!(sent.len(), 1, "subscriber {host} by queue {queue}");
            let outside = packet::flow(&sent[0].frame).unwrap();
            let answer = outside.reversed();
            let frame = packet::simple(&packet::to_node(1, WAN, &answer.src), &answer);
            let sent = cluster.through_worker(0, queue, WAN, &frame);
            assert_eq!(packet::flow(&sent[0].frame), Some(key.reversed()));
        }
    }
    let counters = cluster.node(0).counters();
    assert_eq!(counters.conntracks_created, 12);
    assert_eq!(counters.handoff_in, counters.handoff_out);
    assert_eq!(
        counters.handoff_out,
        12 * 2 * 2,
        "two of three queues are the wrong one, both ways"
    );
    let mut handed = |port| {
        Cause::ALL.map(|cause| {
            let tables = cluster.node(0).tables();
            tables.map(|t| t.handoffs.of(port, cause)).sum::<u64>()
        })
    };
    // Subscriber, pool, fragment, hairpin.
    assert_eq!((handed(LAN), handed(WAN)), ([24, 0, 0, 0], [0, 24, 0, 0]));
    let owners = Arc::clone(&cluster.node(0).shared.owners);
    for (worker, tables) in (0_u16..).zip(cluster.node(0).tables()) {
        for (_, conntrack) in tables.conntracks.iter_live() {
            assert_eq!(owners.worker_of(conntrack.at()), worker);
        }
    }
    assert_eq!(contradictions(cluster.node(0)), Vec::<String>::new());
}
