//! Frames through a whole node, from both sides: input is `flags, length, bytes` again and again. Whatever they do, what
//! the node holds must fit together.

use core::time::Duration;

use dataplane::flow::FlowKey;
use dataplane::wire::checksum::Sum;
use dataplane::wire::tcp::{ACK, SYN};
use testkit::checker::contradictions;
use testkit::config::{LAN, WAN, node_mac, public, server, subscriber, subscriber6};
use testkit::fragment::cut;
use testkit::network::Fabric;
use testkit::node::Node;
use testkit::packet::{self, segment, syn, to_node};

use crate::session::small;

/// From the WAN.
const FROM_WAN: u8 = 1;
/// To the node's own address, with checksums as they should be.
const MENDED: u8 = 2;

/// Feeds the frames to a node without a peer.
pub(crate) fn run(mut data: &[u8]) {
    let mut setup = small();
    setup.grouped = false;
    let fabric = Fabric::new([1, 2].map(|id| testkit::config::sync_address(id, false)), 1);
    let mut now = dataplane::time::Instant::from_secs(1_000);
    let net = fabric.open(0, 1);
    let mut node = Node::boot(1, &setup, state_sync::role::Desire::Preferred, &net, 1, now);
    while let Some((&[flags, length], rest)) = data.split_first_chunk() {
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(length)));
        data = rest;
        let port = if flags & FROM_WAN == 0 { LAN } else { WAN };
        let mut frame = frame.to_vec();
        if flags & MENDED != 0 {
            mend(&mut frame, node_mac(1, port));
        }
        node.inject(0, port, &frame);
        for _ in 0..4 {
            node.turn(now);
        }
        for port in [LAN, WAN] {
            drop(node.take_sent(port));
        }
        now = now + Duration::from_millis(u64::from(flags >> 2) * 100);
    }
    // Until no piece waits for its first one: then every packet has to be accounted for.
    for _ in 0..8 {
        now = now + Duration::from_secs(1);
        node.turn(now);
    }
    let found = contradictions(&node);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(node.shutdown(now).alive(), 0, "a packet buffer was lost");
}

/// Sets the destination and, as far as headers can be found, their checksums: nobody guesses these.
fn mend(frame: &mut [u8], mac: [u8; 6]) {
    let Some((link, ip)) = frame.split_at_mut_checked(14) else {
        return;
    };
    link[..6].copy_from_slice(&mac);
    let (proto, at, pseudo) = match (&link[12..], ip.len()) {
        ([0x08, 0x00], 20..) => {
            let header = (usize::from(ip[0] & 0xf) * 4).clamp(20, ip.len());
            ip[10..12].fill(0);
            let sum = Sum::ZERO.bytes(&ip[..header]).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            (ip[9], header, ip[12..20].to_vec())
        }
        ([0x86, 0xdd], 40..) => (ip[6], 40, ip[8..40].to_vec()),
        _ => return,
    };
    let payload = &mut ip[at..];
    let place = match proto {
        1 | 58 => 2,
        6 => 16,
        17 => 6,
        _ => return,
    };
    if payload.len() < place + 2 {
        return;
    }
    payload[place..place + 2].fill(0);
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut sum = Sum::ZERO;
    if proto != 1 {
        let tail = [&length.to_be_bytes()[..], &[0, proto]].concat();
        sum = sum.bytes(&pseudo).bytes(&tail);
    }
    let sum = sum.bytes(payload).finish();
    payload[place..place + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Connections with their answers, an echo, an error, fragments.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let udp = packet::udp(subscriber(1), 5_000, server(1), 53);
    let tcp = packet::tcp(subscriber(2), 5_001, server(1), 80);
    let echo = packet::echo(subscriber(3), 77, server(1));
    let udp6 = packet::udp(subscriber6(1), 5_000, testkit::config::server6(1), 53);
    let link = |key: &FlowKey| to_node(1, LAN, &key.src);
    let mut all: Vec<Vec<u8>> = [udp, tcp, echo, udp6]
        .iter()
        .map(|key| item(MENDED, &packet::simple(&link(key), key)))
        .collect();
    let ack = item(
        MENDED,
        &link(&tcp).tcp(&tcp, &segment(ACK, 1_001, 5_001, b"data")),
    );
    let back = packet::tcp(server(1), 80, public(0), 1_024);
    let answer = to_node(1, WAN, &back.src).tcp(&back, &segment(SYN | ACK, 5_000, 1_001, &[]));
    let first = item(MENDED, &link(&tcp).tcp(&tcp, &syn(1_000)));
    all.push([first.clone(), item(MENDED | FROM_WAN, &answer), ack].concat());
    let outer = packet::echo(server(2), 0, public(0));
    let error = to_node(1, WAN, &outer.src).icmp(&outer, 3, 4, [0; 4], &answer[14..42]);
    all.push([first, item(MENDED | FROM_WAN, &error)].concat());
    let long = link(&udp).udp(&udp, &[7; 64]);
    all.push(
        cut(&long, 9, &[3, 3])
            .iter()
            .flat_map(|piece| item(MENDED, piece))
            .collect(),
    );
    all
}

fn item(flags: u8, frame: &[u8]) -> Vec<u8> {
    let length = u8::try_from(frame.len()).unwrap_or(u8::MAX);
    [&[flags, length][..], frame].concat()
}
