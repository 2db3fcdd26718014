//! What `bind`, `release` and `tick` do.

use super::*;

/// RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1.
#[test]
fn one_inside_endpoint_has_one_public_endpoint_per_protocol_whatever_the_destination() {
    let mut nat = nat(pool());
    for proto in [proto::TCP, proto::UDP, proto::ICMP] {
        let first = nat
            .bind(s(0), REIGN, &key(1, 5000, proto), 1, POOL, None)
            .unwrap();
        let elsewhere = FlowKey {
            dst: Addr::v4([192, 0, 2, 77]),
            dst_port: 99,
            ..key(1, 5000, proto)
        };
        assert_eq!(nat.bind(s(1), REIGN, &elsewhere, 1, POOL, None).unwrap(), first);
        assert_ne!(
            nat.bind(s(1), REIGN, &key(1, 5002, proto), 1, POOL, None)
                .unwrap()
                .port,
            first.port
        );
    }
    check(&nat);
    let usage = nat.usage(POOL).unwrap();
    assert_eq!((usage.ports, usage.blocks, usage.subscribers), ([2, 2, 2], 1, 1));
}

/// RFC 4787 REQ-2, REQ-4 and RFC 6888 REQ-4, REQ-13.
#[test]
fn a_subscriber_fills_its_quota_on_one_address_to_the_last_port_and_keeps_parity_while_it_can() {
    let mut nat = nat(pool());
    let mut ports = BTreeSet::new();
    for port in 0..128 {
        let bound = bind(&mut nat, 1, 3000 + port).unwrap();
        assert!(
            ports.insert((bound.external, bound.port)),
            "{bound:?} was handed out twice"
        );
        assert_eq!(bound.port % 2, port % 2);
    }
    let addresses: BTreeSet<_> = ports.iter().map(|(address, _)| *address).collect();
    assert_eq!(addresses.len(), 1, "paired pooling");
    let before = dump(&nat);
    assert_eq!(bind(&mut nat, 1, 9000), Err(Drop::PortsExhausted));
    assert_eq!(dump(&nat), before, "a refusal changes nothing");
    assert_eq!(nat.usage(POOL).unwrap().quota_reached, 1);
    assert!(bind(&mut nat, 2, 9000).is_ok(), "other subscribers are untouched");
    assert!(bind(&mut nat, 1, 3000).is_ok(), "existing mappings are untouched");
    check(&nat);
}

/// RFC 4787 REQ-4 is a preference: ports of the other parity are used rather than none.
#[test]
fn parity_gives_way_before_a_second_block_is_taken() {
    let mut nat = nat(pool());
    for port in 0..64 {
        bind(&mut nat, 1, 2000 + 2 * port).unwrap();
    }
    assert_eq!(nat.usage(POOL).unwrap().blocks, 1);
    bind(&mut nat, 1, 2001).unwrap();
    assert_eq!(nat.usage(POOL).unwrap().blocks, 2);
    check(&nat);
}

#[test]
fn parity_is_that_of_the_port_also_when_the_range_starts_odd() {
    let mut nat = nat(PoolIntent {
        ports: PortRange {
            first: 1025,
            last: 1025 + 63,
        },
        ..pool()
    });
    for port in 100..132 {
        assert_eq!(bind(&mut nat, 1, port).unwrap().port % 2, port % 2);
    }
}

/// RFC 6888 REQ-11, REQ-13: every block can be granted, then a new subscriber is refused.
#[test]
fn a_pool_is_exhausted_only_when_its_last_block_is_granted() {
    let mut nat = nat(pool());
    for host in 0..8 {
        bind(&mut nat, host, 1000).unwrap();
    }
    let before = dump(&nat);
    assert_eq!(
        before.size,
        PoolSize {
            addresses: 2,
            blocks: 8,
            blocks_held: 8,
            block_size: 64
        }
    );
    assert_eq!(bind(&mut nat, 8, 1000), Err(Drop::PoolExhausted));
    assert_eq!(dump(&nat), before, "a refusal changes nothing");
    assert_eq!(nat.usage(POOL).unwrap().pool_exhausted, 1);
    for port in 1001..1064 {
        bind(&mut nat, 0, port).unwrap();
    }
    assert_eq!(
        bind(&mut nat, 0, 1064),
        Err(Drop::PortsExhausted),
        "its address has no free block"
    );
    assert_eq!(nat.usage(POOL).unwrap().address_exhausted, 1);
    check(&nat);
}

#[test]
fn the_range_is_cut_to_whole_blocks_and_only_held_ports_have_an_owner() {
    let mut nat = nat(pool());
    let bound = bind(&mut nat, 3, 1000).unwrap();
    let owner = |port| nat.pools().owner(VRF, &bound.external, port);
    assert_eq!(owner(bound.port), Some((VRF, slot(3))));
    assert_eq!([owner(1023), owner(1024 + 4 * 64), owner(u16::MAX)], [None; 3]);
    assert_eq!(nat.pools().pool_of(VRF, &bound.external), Some(POOL));
    assert!(!nat.pools().is_pool_address(VRF, &Addr::v4([198, 51, 100, 0])));
    assert!(!nat.pools().is_pool_address(VRF, &Addr::v4([198, 51, 100, 3])));
    assert!(!nat.pools().is_pool_address(VrfId(1), &bound.external));
}

/// RFC 6888 REQ-8: a freed port rests; REQ-4 of its own endpoint is served meanwhile.
#[test]
fn a_freed_port_rests_for_everybody_but_its_own_endpoint() {
    let mut nat = nat(PoolIntent {
        blocks_per_subscriber_max: 1,
        ..pool()
    });
    let bounds: Vec<_> = (0..64)
        .map(|port| bind(&mut nat, 1, 4000 + port).unwrap())
        .collect();
    nat.release(s(10), bounds[5].mapping);
    nat.tick(s(130), 100, |_| true);
    check(&nat);
    assert_eq!(
        bind(&mut nat, 1, 6000),
        Err(Drop::PortsExhausted),
        "rests for 120 s"
    );
    assert_eq!(
        bind(&mut nat, 1, 4005).unwrap(),
        bounds[5],
        "its own endpoint may have it back"
    );
    nat.release(s(200), bounds[5].mapping);
    nat.tick(s(321), 100, |_| true);
    check(&nat);
    let bound = bind(&mut nat, 1, 6000).unwrap();
    assert_eq!((bound.external, bound.port), (bounds[5].external, bounds[5].port));
}

#[test]
fn a_mapping_lives_until_its_last_conntrack_ends() {
    let mut nat = nat(pool());
    let bound = bind(&mut nat, 1, 4000).unwrap();
    nat.retain(bound.mapping);
    nat.release(s(1), bound.mapping);
    nat.tick(s(1000), 100, |_| true);
    assert_eq!(nat.usage(POOL).unwrap().ports, [0, 1, 0]);
    nat.release(s(1001), bound.mapping);
    assert_eq!(nat.usage(POOL).unwrap().resting, 1);
    check(&nat);
}

#[test]
fn a_cancelled_bind_leaves_no_port_resting_unless_it_was_in_use_before() {
    let mut nat = nat(pool());
    let bound = bind(&mut nat, 1, 4000).unwrap();
    nat.cancel(s(1), bound.mapping);
    assert!(dump(&nat).mappings.is_empty());
    let bound = bind(&mut nat, 1, 4000).unwrap();
    nat.release(s(1), bound.mapping);
    let again = bind(&mut nat, 1, 4000).unwrap();
    nat.cancel(s(2), again.mapping);
    assert_eq!(nat.usage(POOL).unwrap().resting, 1);
    check(&nat);
}

#[test]
fn an_empty_block_is_released_after_its_idle_time_and_only_where_active() {
    let mut nat = nat(pool());
    let bound = bind(&mut nat, 1, 4000).unwrap();
    let id = nat.pop_changed().unwrap();
    assert_eq!((id.held, nat.pop_changed()), (true, None));
    let event = nat.pop_event().unwrap();
    assert_eq!((event.held, event.grant), (true, bound.part.grant));
    nat.release(s(0), bound.mapping);
    nat.tick(s(121), 100, |_| true);
    nat.tick(s(181), 100, |_| true);
    assert_eq!(nat.pop_changed(), None, "60 s are not over");
    nat.tick(s(182), 100, |_| false);
    assert_eq!(nat.pop_changed(), None, "a standby waits for the record");
    nat.tick(s(182), 100, |_| true);
    assert_eq!(
        nat.pop_changed(),
        Some(BlockChange {
            id: id.id,
            held: false
        })
    );
    let block = *nat.block(id.id);
    assert_eq!(
        (block.grant, block.sync.dead, block.held()),
        (bound.part.grant, true, false)
    );
    let event = nat.pop_event().unwrap();
    assert_eq!(
        (event.held, event.grant, event.at),
        (false, bound.part.grant, s(182))
    );
    assert_eq!(
        (event.port_first, event.port_last),
        (block.port_first, block.port_first + 63)
    );
    assert_eq!(nat.pools().owner(VRF, &bound.external, bound.port), None);
    nat.free_block(id.id);
    check(&nat);
    assert_eq!(dump(&nat), dump(&self::nat(pool())));
}

#[test]
fn dead_blocks_keep_their_place_until_they_are_freed() {
    let limits = NatLimits { blocks: 1, ..LIMITS };
    let mut nat = Nat::new(Arc::new(Pools::new(&intent(vec![pool()]))), limits, 7);
    let bound = bind(&mut nat, 1, 4000).unwrap();
    nat.release(s(0), bound.mapping);
    nat.tick(s(200), 100, |_| true);
    nat.tick(s(300), 100, |_| true);
    let change = nat.pop_changed().unwrap();
    assert!(!change.held, "granted and released in between: told once");
    assert_eq!(bind(&mut nat, 2, 4000), Err(Drop::BlocksFull));
    nat.free_block(change.id);
    assert!(bind(&mut nat, 2, 4000).is_ok());
}

#[test]
fn full_tables_refuse_without_a_change() {
    let with = |limits| Nat::new(Arc::new(Pools::new(&intent(vec![pool()]))), limits, 7);
    let mut nat = with(NatLimits {
        subscribers: 1,
        ..LIMITS
    });
    bind(&mut nat, 1, 4000).unwrap();
    let before = dump(&nat);
    assert_eq!(bind(&mut nat, 2, 4000), Err(Drop::SubscribersFull));
    assert_eq!(dump(&nat), before);

    let mut nat = with(NatLimits {
        mappings: 2,
        ..LIMITS
    });
    let rests = bind(&mut nat, 1, 4000).unwrap();
    bind(&mut nat, 1, 4001).unwrap();
    let before = dump(&nat);
    assert_eq!(bind(&mut nat, 1, 4002), Err(Drop::MappingsFull));
    assert_eq!(dump(&nat), before);
    nat.release(s(0), rests.mapping);
    assert!(bind(&mut nat, 1, 4002).is_ok(), "what rests makes way");
    assert_eq!(nat.usage(POOL).unwrap().rests_cut_short, 1);
    check(&nat);
}

#[test]
fn the_event_queue_is_bounded_and_counts_what_it_lost() {
    let limits = NatLimits { events: 1, ..LIMITS };
    let mut nat = Nat::new(Arc::new(Pools::new(&intent(vec![pool()]))), limits, 7);
    bind(&mut nat, 1, 4000).unwrap();
    bind(&mut nat, 2, 4000).unwrap();
    assert!(nat.pop_event().is_some());
    assert_eq!((nat.pop_event(), nat.events_lost()), (None, 1));
}

#[test]
fn only_tcp_udp_and_icmp_over_ipv4_are_translated() {
    let mut nat = nat(pool());
    let v6 = FlowKey {
        src: Addr::v6([1; 16]),
        ..key(1, 1, proto::UDP)
    };
    for key in [key(1, 1, 47), key(1, 1, proto::ICMP6), v6] {
        assert_eq!(
            nat.bind(s(0), REIGN, &key, 1, POOL, None),
            Err(Drop::UnsupportedProtocol)
        );
    }
}

/// RFC 4787 REQ-8.
#[test]
fn outside_packets_find_a_mapping_in_use_only_with_endpoint_independent_filtering() {
    let from_anywhere = |bound: &Bound| FlowKey {
        src: Addr::v4([192, 0, 2, 66]),
        dst: bound.external,
        src_port: 1,
        dst_port: bound.port,
        vrf: VRF,
        proto: proto::UDP,
    };
    let mut open = nat(PoolIntent {
        filtering: Filtering::EndpointIndependent,
        ..pool()
    });
    let bound = bind(&mut open, 1, 4000).unwrap();
    let Bound { mapping, part, .. } = bound;
    let inside = Addr::v4([100, 64, 0, 1]);
    assert_eq!(
        open.inbound(&from_anywhere(&bound)),
        Some(Inbound {
            vrf: VRF,
            inside,
            port: 4000,
            mapping,
            part
        })
    );
    assert_eq!(
        open.inbound(&FlowKey {
            proto: proto::TCP,
            ..from_anywhere(&bound)
        }),
        None
    );
    open.release(s(0), mapping);
    assert_eq!(open.inbound(&from_anywhere(&bound)), None, "it rests");

    let mut closed = nat(pool());
    let bound = bind(&mut closed, 1, 4000).unwrap();
    assert_eq!(closed.inbound(&from_anywhere(&bound)), None);
}

#[test]
fn grants_are_unique_and_a_later_term_compares_greater() {
    let (of_node_1, of_node_2) = (Term::NONE.next_of(1, 5), Term::NONE.next_of(1, 5).next_of(2, 6));
    let pools = Pools::new(&intent(vec![pool()]));
    let first_of_1 = pools.next_grant(of_node_1).unwrap();
    let second_of_1 = pools.next_grant(of_node_1).unwrap();
    let rebooted = Pools::new(&intent(vec![pool()]));
    let of_2 = rebooted.next_grant(of_node_2).unwrap();
    let of_1_again = rebooted.next_grant(of_node_2.next_of(1, 7)).unwrap();
    assert!(0 < first_of_1 && first_of_1 < second_of_1 && second_of_1 < of_2 && of_2 < of_1_again);
    let (reign, node) = (first_of_1 >> 46, granting_node(first_of_1));
    assert_eq!((reign, node), (1, 1));
}

/// A node that was rebooted and found nobody begins its reigns anew.
#[test]
fn two_boots_of_one_reign_give_no_name_to_two_grants() {
    let grants = |boot_id| {
        let pools = Pools::new(&intent(vec![pool()]));
        let term = Term::NONE.next_of(1, boot_id);
        [(); 3].map(|()| pools.next_grant(term).unwrap())
    };
    assert!(grants(5).iter().all(|grant| !grants(6).contains(grant)));
}

/// RFC 6888 REQ-15, RFC 6056: the first ports of fresh subscribers don't repeat a pattern.
#[test]
fn first_ports_are_spread_over_the_block() {
    let mut nat = nat(pool());
    let offsets: BTreeSet<_> = (0..8)
        .map(|host| {
            let bound = bind(&mut nat, host, 1000).unwrap();
            bound.port - nat.block(nat.block_of(bound.mapping)).port_first
        })
        .collect();
    assert!(offsets.len() >= 4, "{offsets:?}");
}

/// The map of free blocks is all that workers share: each block has one holder, whoever is faster.
#[test]
fn workers_never_get_the_same_block() {
    let of_many = PoolIntent {
        ports: PortRange {
            first: 1024,
            last: 1024 + 64 * 200 - 1,
        },
        ..pool()
    };
    let pools = Arc::new(Pools::new(&intent(vec![of_many])));
    let granted = &|worker: u64| {
        let mut nat = Nat::new(
            Arc::clone(&pools),
            NatLimits {
                subscribers: 400,
                blocks: 400,
                ..LIMITS
            },
            worker,
        );
        let mut blocks = Vec::new();
        for host in 0..250u8 {
            if let Ok(bound) = bind(&mut nat, host, 1000) {
                blocks.push((
                    bound.external,
                    nat.block(nat.block_of(bound.mapping)).port_first,
                    bound.part.grant,
                ));
            }
        }
        blocks
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let workers = [1, 2].map(|worker| scope.spawn(move || granted(worker)));
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert_eq!(all.len(), 400, "to the last block");
    let places: BTreeSet<_> = all.iter().map(|(address, port, _)| (*address, *port)).collect();
    let grants: BTreeSet<_> = all.iter().map(|(.., grant)| *grant).collect();
    assert_eq!((places.len(), grants.len()), (400, 400));
}
