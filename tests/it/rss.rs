//! Where a card tells how it spreads packets, replies to public ports come in at the worker that owns their flow; and whatever
//! is handed over or not, every packet arrives as it would have.

use core::time::Duration;

use dataplane::flow::{FlowKey, proto};
use dataplane::rss::Rss;
use dataplane::stage::handoff::Cause;
use state_sync::role::Desire;
use testkit::checker::contradictions;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN, Setup, WAN, server, subscriber};
use testkit::packet;

const WORKERS: u16 = 3;
const HOSTS: u8 = 20;
const FLOWS: u16 = 6;

/// What a card of the kind does with the replies, whether or not the node was told.
fn queue_of(kind: Rss, reply: &FlowKey) -> usize {
    let card = Setup {
        workers: WORKERS,
        rss: Some(kind),
        ..Setup::default()
    };
    usize::from(card.spread().unwrap().queue_of(reply))
}

/// Opens flows from inside and answers each by the queue that the card of this `kind` chooses; how many answers were handed
/// over. Each subscriber's flows are of one inside port each, or all of one, to far ends of their own.
fn handed_over(kind: Rss, told: bool, one_mapping: bool) -> u64 {
    let setup = Setup {
        workers: WORKERS,
        grouped: false,
        rss: told.then_some(kind),
        ..Setup::default()
    };
    let mut cluster = Cluster::new(setup, 1);
    for host in 1..=HOSTS {
        for flow in 0..FLOWS {
            let port = if one_mapping { 5_000 } else { 5_000 + flow };
            let far = server(1 + flow.to_be_bytes()[1]);
            let mut key = packet::udp(subscriber(host), port, far, 53 + flow);
            if host % 2 == 0 {
                key.proto = proto::TCP;
            }
            let outside = cluster.out(0, &key).unwrap();
            assert_eq!(outside.src_port % 2, port % 2, "parity (RFC 4787 REQ-4)");
            let reply = outside.reversed();
            let frame = packet::simple(&packet::to_node(1, WAN, &reply.src), &reply);
            let sent = cluster.through_worker(0, queue_of(kind, &reply), WAN, &frame);
            let left: Vec<_> = sent.iter().filter(|sent| sent.port == LAN).collect();
            assert_eq!(left.len(), 1, "{reply:?}");
            assert_eq!(packet::flow(&left[0].frame), Some(key.reversed()));
        }
    }
    assert_eq!(contradictions(cluster.node(0)), Vec::<String>::new());
    let tables = cluster.node(0).tables();
    tables.map(|tables| tables.handoffs.of(WAN, Cause::Pool)).sum()
}

#[test]
fn replies_come_in_where_their_flow_is() {
    let all = u64::from(HOSTS) * u64::from(FLOWS);
    assert_eq!(handed_over(Rss::Flow, true, false), 0);
    // A card that nobody knows puts two of three elsewhere.
    let unknown = handed_over(Rss::Flow, false, false);
    assert!(unknown > all / 2 && unknown < all * 4 / 5, "{unknown} of {all}");
}

#[test]
fn a_card_that_hashes_destinations_brings_all_flows_of_a_mapping_home() {
    let later = u64::from(HOSTS) * u64::from(FLOWS - 1);
    assert_eq!(handed_over(Rss::Destination, true, true), 0);
    // One that hashes far ends too can be right about a mapping's first flow only.
    let others = handed_over(Rss::Flow, true, true);
    assert!(others > later / 2, "{others} of {later}");
}

#[test]
fn a_node_with_the_same_key_and_workers_has_replies_come_home_after_a_take_over() {
    let setup = Setup {
        workers: WORKERS,
        rss: Some(Rss::Flow),
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 1);
    let keys: Vec<FlowKey> = (1..=HOSTS)
        .map(|host| packet::udp(subscriber(host), 5_000, server(host), 53))
        .collect();
    let outside: Vec<FlowKey> = keys.iter().map(|key| cluster.out(0, key).unwrap()).collect();
    take_over(&mut cluster);
    for (key, outside) in keys.iter().zip(&outside) {
        let reply = outside.reversed();
        let frame = packet::simple(&packet::to_node(2, WAN, &reply.src), &reply);
        let sent = cluster.through_worker(1, queue_of(Rss::Flow, &reply), WAN, &frame);
        let left = sent.iter().find(|sent| sent.port == LAN).unwrap();
        assert_eq!(packet::flow(&left.frame), Some(key.reversed()));
    }
    let mut tables = cluster.node(1).tables();
    assert!(tables.all(|tables| tables.handoffs.of(WAN, Cause::Pool) == 0));
}

fn take_over(cluster: &mut Cluster) {
    cluster.settle();
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_millis(1_200));
    assert_eq!(cluster.active(), Some(1));
}

#[test]
fn what_was_chosen_for_one_node_is_handed_over_at_the_other() {
    // The standby has another number of workers, and a card of another kind.
    let card = |workers, rss| Setup {
        workers,
        rss: Some(rss),
        ..Setup::default()
    };
    let setups = [card(WORKERS, Rss::Flow), card(2, Rss::Destination)];
    let mut cluster = Cluster::of(setups, 1);
    cluster.settle();
    let keys: Vec<FlowKey> = (1..=HOSTS)
        .map(|host| packet::udp(subscriber(host), 5_000, server(host), 53))
        .collect();
    let outside: Vec<FlowKey> = keys.iter().map(|key| cluster.out(0, key).unwrap()).collect();
    take_over(&mut cluster);
    for (key, outside) in keys.iter().zip(&outside) {
        assert_eq!(cluster.back(1, outside), Some(key.reversed()));
    }
}
