//! Two nodes that don't hear each other, with the same pool: what they give out, and what they borrow.

use super::*;

fn only(half: Half) -> Reign {
    Reign {
        share: Share::HalfOnly(half),
        ..REIGN
    }
}

fn first(half: Half) -> Reign {
    Reign {
        share: Share::HalfFirst(half),
        ..REIGN
    }
}

/// Everything that one host gets for ever new ports, and the refusal that ends it.
fn drain(nat: &mut Nat, reign: Reign, host: u8) -> (Vec<Bound>, Drop) {
    let mut got = Vec::new();
    for port in 1.. {
        match nat.bind(s(0), reign, &key(host, port, proto::UDP), slot(host), POOL, None) {
            Ok(bound) => got.push(bound),
            Err(refusal) => return (got, refusal),
        }
    }
    unreachable!("ports end before their numbers do")
}

fn ports(bounds: &[Bound]) -> BTreeSet<(Addr, u16)> {
    bounds.iter().map(|b| (b.external, b.port)).collect()
}

fn borrowed(nat: &Nat) -> u64 {
    nat.usage(POOL).unwrap().ports_borrowed
}

fn refusing(pool: PoolIntent) -> PoolIntent {
    PoolIntent {
        in_doubt: InDoubt::Refuse,
        ..pool
    }
}

#[test]
fn two_nodes_in_doubt_never_give_out_the_same_port_whoever_asks_for_how_many() {
    let (mut low, mut high) = (nat(refusing(pool())), nat(refusing(pool())));
    for host in 1..20 {
        let (a, _) = drain(&mut low, only(Half::Low), host);
        let (b, _) = drain(&mut high, only(Half::High), host);
        assert!(ports(&a).is_disjoint(&ports(&b)), "host {host}");
    }
    // The whole pool is used up, half by each: 2 addresses of 4 blocks of 64 ports, of each half the half.
    for node in [&low, &high] {
        let usage = node.usage(POOL).unwrap();
        assert_eq!((usage.blocks, usage.ports[1]), (4, 4 * 32));
        assert_eq!(usage.ports_borrowed, 0);
        assert!(usage.refused_in_doubt > 0);
    }
}

#[test]
fn the_halves_of_a_block_that_both_know_are_disjoint_and_keep_the_parity() {
    let (mut low, mut high) = (nat(pool()), nat(pool()));
    let bound = bind(&mut low, 1, 5_000).unwrap();
    high.learn(s(0), &put(&key(1, 5_000, proto::UDP), &bound), slot(1))
        .unwrap();
    for (node, half) in [(&mut low, Half::Low), (&mut high, Half::High)] {
        for port in 0..30 {
            let bound = node
                .bind(
                    s(0),
                    only(half),
                    &key(1, 6_000 + port, proto::UDP),
                    slot(1),
                    POOL,
                    None,
                )
                .unwrap();
            let block = node.block_of(bound.mapping);
            let offset = bound.port - node.block(block).port_first;
            assert_eq!(offset >= 32, half == Half::High, "{offset}");
            // 16 ports of each parity: enough for the first 15 of each.
            assert_eq!(bound.port % 2, port % 2, "parity (RFC 4787 REQ-4)");
        }
        assert_eq!(borrowed(node), 0);
    }
}

#[test]
fn what_is_beyond_the_own_half_is_borrowed_and_counted_or_refused() {
    // A quota of 2 blocks of 64: 64 ports of the own half, 64 more to borrow.
    let mut node = nat(pool());
    let (got, refusal) = drain(&mut node, only(Half::High), 1);
    assert_eq!((got.len(), refusal), (128, Drop::PortsExhausted));
    assert_eq!(borrowed(&node), 64);
    assert_eq!(
        node.usage(POOL).unwrap().quota_reached,
        1,
        "said once, at the end"
    );

    let mut node = nat(refusing(pool()));
    let (got, refusal) = drain(&mut node, only(Half::High), 1);
    assert_eq!((got.len(), refusal), (64, Drop::PortsExhausted));
    let usage = node.usage(POOL).unwrap();
    assert_eq!((usage.ports_borrowed, usage.refused_in_doubt), (0, 1));
}

#[test]
fn a_block_of_the_peers_half_is_borrowed_only_when_the_own_half_has_none() {
    let mut node = nat(pool());
    let mut reach = |host| {
        let bound = node
            .bind(
                s(0),
                only(Half::Low),
                &key(host, 5_000, proto::UDP),
                slot(host),
                POOL,
                None,
            )
            .unwrap();
        let block = node.block(node.block_of(bound.mapping));
        (bound.port - block.port_first < 32, borrowed(&node))
    };
    for host in 1..=4 {
        assert_eq!(reach(host), (true, 0), "host {host}");
    }
    // In a borrowed block the ports of the own half are still the less likely to collide.
    for host in 5..=8 {
        assert_eq!(reach(host), (true, u64::from(host) - 4), "host {host}");
    }
    assert_eq!(
        node.bind(
            s(0),
            only(Half::Low),
            &key(9, 5_000, proto::UDP),
            slot(9),
            POOL,
            None
        ),
        Err(Drop::PoolExhausted)
    );
}

#[test]
fn without_doubt_the_own_half_comes_first_and_the_other_one_is_not_borrowed() {
    let mut node = nat(pool());
    let (got, _) = drain(&mut node, first(Half::High), 1);
    assert_eq!(got.len(), 128, "no port is out of reach");
    let offset = |bound: &Bound| bound.port - node.block(node.block_of(bound.mapping)).port_first;
    // A block is used up before the next one is granted.
    for (at, bound) in got.iter().enumerate() {
        assert_eq!(offset(bound) >= 32, at % 64 < 32, "{at}: {bound:?}");
    }
    assert_eq!(borrowed(&node), 0);
    let hosts: Vec<_> = (2..10)
        .map(|host| {
            node.bind(
                s(0),
                first(Half::High),
                &key(host, 1, proto::UDP),
                slot(host),
                POOL,
                None,
            )
        })
        .collect();
    assert_eq!(hosts.iter().filter(|b| b.is_ok()).count(), 6, "and no block");
}

#[test]
fn a_pool_of_single_blocks_is_shared_by_its_addresses() {
    let one_block = PoolIntent {
        block_size: 256,
        addresses: (1..=4).map(|n| [198, 51, 100, n].into()).collect(),
        ..refusing(pool())
    };
    let mut addresses = BTreeSet::new();
    for half in [Half::Low, Half::High] {
        let mut node = nat(one_block.clone());
        let got: Vec<_> = (1..=4)
            .filter_map(|host| {
                node.bind(
                    s(0),
                    only(half),
                    &key(host, 1, proto::UDP),
                    slot(host),
                    POOL,
                    None,
                )
                .ok()
            })
            .collect();
        assert_eq!(got.len(), 2, "{half:?}");
        addresses.extend(got.iter().map(|b| b.external));
    }
    assert_eq!(addresses.len(), 4);
}
