//! Ports that bring replies home: where a card says which queue a packet comes in by, a mapping's port is one whose packets
//! come in by a queue of the worker that has the mapping, as long as one is free, and never at the price of anything else.

use proptest::prelude::*;

use super::*;
use crate::rss::{Home, Rss, Spread};

const WAY: PortId = PortId(1);
/// Worker of the mappings, and of its queue.
const OWN: u16 = 2;
const QUEUES: u16 = 4;

fn spread(rss: Rss) -> Spread {
    let key: Vec<u8> = (1..=40_u8).map(|at| at.wrapping_mul(151)).collect();
    let queues: Vec<u16> = (0..128).map(|entry| entry % QUEUES).collect();
    Spread::new(&key, rss.fields(true, true), &queues).unwrap()
}

pub(super) fn home() -> Home {
    Home::new(&spread(Rss::Flow), |queue| queue == OWN).unwrap()
}

/// A worker that reads one queue of four behind [`WAY`].
fn drawing(rss: Rss, pool: PoolIntent) -> Nat {
    let mut nat = nat(pool);
    let home = Home::new(&spread(rss), |queue| queue == OWN);
    nat.set_homes([None, home].into());
    nat
}

fn wide() -> PoolIntent {
    PoolIntent {
        ports: PortRange {
            first: 2_001,
            last: 2_001 + 8 * 256,
        },
        block_size: 256,
        ..pool()
    }
}

/// Queue of a packet from a far end to what it was bound to.
fn queue(rss: Rss, key: &FlowKey, bound: &Bound) -> u16 {
    spread(rss).queue_of(&FlowKey {
        dst: bound.external,
        dst_port: bound.port,
        ..key.reversed()
    })
}

#[test]
fn replies_come_home_and_the_parity_stays() {
    for proto in [proto::UDP, proto::TCP] {
        let mut nat = drawing(Rss::Flow, wide());
        for port in 0..24_u16 {
            let key = FlowKey {
                dst: Addr::v4([203, 0, 113, port.to_be_bytes()[1]]),
                ..key(1, 5_000 + port, proto)
            };
            let bound = nat.bind(s(0), REIGN, &key, slot(1), POOL, Some(WAY)).unwrap();
            assert_eq!(queue(Rss::Flow, &key, &bound), OWN);
            assert_eq!(bound.port % 2, port % 2, "parity (RFC 4787 REQ-4)");
        }
        let usage = nat.usage(POOL).unwrap();
        assert_eq!((usage.ports_homed, usage.ports_unhomed), (24, 0));
        check(&nat);
    }
}

#[test]
fn a_card_that_hashes_destinations_brings_home_what_anybody_sends_to_a_mapping() {
    let mut nat = drawing(Rss::Destination, wide());
    let first = key(1, 5_000, proto::UDP);
    let bound = nat.bind(s(0), REIGN, &first, slot(1), POOL, Some(WAY)).unwrap();
    for host in 1..=50 {
        let key = FlowKey {
            dst: Addr::v4([192, 0, 2, host]),
            dst_port: 1_000 + u16::from(host),
            ..first
        };
        assert_eq!(
            nat.bind(s(0), REIGN, &key, slot(1), POOL, Some(WAY)).unwrap(),
            bound
        );
        assert_eq!(queue(Rss::Destination, &key, &bound), OWN);
    }
    let usage = nat.usage(POOL).unwrap();
    assert_eq!(
        (usage.ports_homed, usage.ports_unhomed),
        (1, 0),
        "mappings, not flows"
    );
}

#[test]
fn where_no_card_tells_nothing_is_counted() {
    for (way, proto) in [
        (None, proto::UDP),
        (Some(PortId(0)), proto::UDP),
        (Some(PortId(9)), proto::UDP),
        // A card knows nothing of identifiers (RFC 5508 gives ICMP queries).
        (Some(WAY), proto::ICMP),
    ] {
        let mut nat = drawing(Rss::Flow, wide());
        let key = key(1, 5_000, proto);
        nat.bind(s(0), REIGN, &key, slot(1), POOL, way).unwrap();
        let usage = nat.usage(POOL).unwrap();
        assert_eq!(
            (usage.ports_homed, usage.ports_unhomed),
            (0, 0),
            "{way:?} {proto}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Down to the last port: against a search of every free port of the blocks there are. A port that comes home is taken
    /// whenever one of the right parity is free; no port is out of reach, no block is granted early.
    #[test]
    fn home_comes_first_and_every_port_is_reached(
        ports in prop::collection::vec((1..=60_000_u16, 0..=255_u8), 140..200),
        share in prop_oneof![Just(Share::Whole), Just(Share::HalfFirst(Half::High))],
    ) {
        let reign = Reign { share, ..REIGN };
        // 2 blocks of 64 for the subscriber.
        let mut nat = drawing(Rss::Flow, pool());
        let mut taken = BTreeSet::new();
        let (mut homed, mut unhomed) = (0, 0);
        let mut inside = BTreeSet::new();
        for (inside_port, far) in ports {
            if !inside.insert(inside_port) {
                continue;
            }
            let key = FlowKey { dst: Addr::v4([203, 0, 113, far]), ..key(1, inside_port, proto::UDP) };
            let free: Vec<(u16, bool)> = free_ports(&nat, &taken, share)
                .into_iter()
                .map(|(external, port)| {
                    let bound = FlowKey { dst: external, dst_port: port, ..key.reversed() };
                    (port, spread(Rss::Flow).queue_of(&bound) == OWN)
                })
                .collect();
            let Ok(bound) = nat.bind(s(0), reign, &key, slot(1), POOL, Some(WAY)) else {
                prop_assert_eq!(taken.len(), 128, "refused although a port is free");
                break;
            };
            let home = queue(Rss::Flow, &key, &bound) == OWN;
            (homed, unhomed) = (homed + u64::from(home), unhomed + u64::from(!home));
            let alike = |&(port, _): &(u16, bool)| port % 2 == inside_port % 2;
            if free.iter().any(|&(port, _)| port == bound.port) {
                let best = free.iter().any(|port| alike(port) && port.1);
                let parity = free.iter().any(alike);
                prop_assert_eq!(parity, alike(&(bound.port, home)), "parity first");
                prop_assert!(!best || home, "a port that comes home was free: {:?}", free);
            } else {
                prop_assert!(free.is_empty(), "another block while ports are free");
            }
            prop_assert!(taken.insert((bound.external, bound.port)), "given twice");
        }
        let usage = nat.usage(POOL).unwrap();
        prop_assert_eq!((usage.ports_homed, usage.ports_unhomed), (homed, unhomed));
        check(&nat);
    }
}

/// What is free in the subscriber's blocks: of the node's own half as long as there is anything.
fn free_ports(nat: &Nat, taken: &BTreeSet<(Addr, u16)>, share: Share) -> Vec<(Addr, u16)> {
    let mut blocks = Vec::new();
    nat.blocks(0, u32::MAX, &mut blocks);
    let all = blocks
        .iter()
        .flat_map(|block| (block.port_first..=block.port_last).map(move |port| (block, port)))
        .filter(|(block, port)| !taken.contains(&(block.address, *port)));
    let own = |(block, port): &(&BlockRow, u16)| {
        share
            .half()
            .is_none_or(|half| (port - block.port_first >= 32) == (half == Half::High))
    };
    let (mine, others): (Vec<_>, Vec<_>) = all.partition(own);
    let looked_at = if mine.is_empty() { others } else { mine };
    looked_at
        .into_iter()
        .map(|(block, port)| (block.address, port))
        .collect()
}
