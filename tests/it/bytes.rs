//! What a connection costs on the wire, counted where its records leave (sync/PROTOCOL.md section 5).

use std::collections::BTreeMap;

use dataplane::flow::FlowKey;
use dataplane::wire::build::Segment;
use dataplane::wire::tcp::{ACK, FIN, SYN};
use testkit::cluster::Cluster;
use testkit::config::{LAN, Setup, WAN, server, subscriber};
use testkit::packet::{self, segment, syn, to_node};

use crate::replication::remove;

/// Connections made.
const MADE: u16 = 100;

/// Calls and bytes of the records that node 0 has sent, by type.
fn sent(cluster: &mut Cluster) -> BTreeMap<String, (u64, u64)> {
    let mut sent = BTreeMap::new();
    for operation in cluster.node(0).reports().into_iter().flat_map(|r| r.operations) {
        let Some(kind) = operation.name.strip_prefix("send ") else {
            continue;
        };
        let (calls, bytes) = sent.entry(kind.to_owned()).or_default();
        *calls += operation.calls;
        *bytes += operation.bytes;
    }
    sent
}

/// A whole connection: handshake, both FINs, the end of its conntrack. Everything is told before the next step.
fn connection(cluster: &mut Cluster, n: u16) {
    let host = u8::try_from(n % 40 + 1).unwrap();
    let inside = packet::tcp(subscriber(host), 20_000 + n, server(host), 443);
    let client = |segment: &Segment<'_>| to_node(1, LAN, &inside.src).tcp(&inside, segment);
    let first = cluster.through(0, LAN, &client(&syn(1_000)));
    let outside = packet::flow(&first[0].frame).unwrap();
    let back = outside.reversed();
    let answer = |segment: &Segment<'_>| to_node(1, WAN, &back.src).tcp(&back, segment);
    let steps = [
        (WAN, answer(&segment(SYN | ACK, 5_000, 1_001, &[]))),
        (LAN, client(&segment(ACK, 1_001, 5_001, &[]))),
        (LAN, client(&segment(FIN | ACK, 1_001, 5_001, &[]))),
        (WAN, answer(&segment(FIN | ACK, 5_001, 1_002, &[]))),
        (LAN, client(&segment(ACK, 1_002, 5_002, &[]))),
    ];
    for (port, frame) in steps {
        assert_eq!(cluster.through(0, port, &frame).len(), 1);
    }
    let ended: [(FlowKey, FlowKey); 1] = [(inside, outside)];
    remove(cluster, 0, &ended);
}

#[test]
fn r26_a_whole_tcp_connection_with_its_mapping_costs_54_bytes() {
    let mut cluster = Cluster::pair(Setup::default(), 81);
    // Port blocks are granted before, as they are for most connections.
    (0..40).for_each(|n| connection(&mut cluster, n));
    cluster.settle();
    let before = sent(&mut cluster);
    (0..MADE).for_each(|n| connection(&mut cluster, 1_000 + n));
    cluster.settle();
    let after = sent(&mut cluster);
    let cost = |kind: &str| {
        let (calls, bytes) = after[kind];
        let (calls_before, bytes_before) = before[kind];
        (calls - calls_before, bytes - bytes_before)
    };
    let made = u64::from(MADE);
    let (puts, put_bytes) = cost("PUT");
    assert_eq!(puts, made);
    assert!(put_bytes <= 32 * made, "{put_bytes} B in {puts} PUTs");
    assert_eq!(cost("STATE"), (2 * made, 16 * made));
    assert_eq!(cost("REMOVE"), (made, 6 * made));
    assert_eq!(cost("BLOCK"), (0, 0));
    for kind in ["DEL", "SLOT-VERSION"] {
        assert!(!after.contains_key(kind), "{after:?}");
    }
}
