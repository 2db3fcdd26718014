//! Pools that come, grow, shrink and go while blocks of them are held.

use core::net::Ipv4Addr;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

fn named(name: &str, addresses: &[u8]) -> PoolIntent {
    PoolIntent {
        name: name.into(),
        addresses: addresses.iter().map(|&last| ip(last)).collect(),
        ..pool()
    }
}

fn nth(pool: u16) -> PoolRef {
    PoolRef { vrf: VRF, pool }
}

/// Goes over to other pools, as a worker does that is the only one.
fn change(nat: &mut Nat, pools: Vec<PoolIntent>) -> Result<(), PoolBusy> {
    let pools = Arc::new(nat.pools.changed(&intent(pools), true)?);
    assert!(nat.observe(&pools) && !nat.observe(&pools));
    Ok(())
}

fn bind_in(nat: &mut Nat, host: u8, port: u16, pool: PoolRef) -> Result<Bound, Drop> {
    nat.bind(s(0), REIGN, &key(host, port, proto::UDP), slot(host), pool, None)
}

fn owner(nat: &Nat, bound: &Bound) -> Option<(VrfId, u16)> {
    nat.pools.owner(VRF, &bound.external, bound.port)
}

/// Ends every block on addresses that are gone, with the flows of `live` in them.
fn retire(nat: &mut Nat, live: &mut Vec<(FlowKey, Bound)>) {
    live.retain(|(_, bound)| {
        let gone = nat.is_retired(nat.block_of(bound.mapping));
        if gone {
            nat.release(s(0), bound.mapping);
        }
        !gone
    });
    for id in 0..nat.block_places() {
        if nat.block(id).held() && nat.is_retired(id) {
            assert!(nat.end_retired(s(0), id));
        }
    }
    while let Some(change) = nat.pop_changed() {
        if !change.held {
            nat.free_block(change.id);
        }
    }
}

#[test]
fn a_pool_that_joins_is_used_and_nothing_of_the_others_changes_whatever_their_order() {
    let mut nat = nat(named("b", &[1, 2]));
    let held = bind_in(&mut nat, 1, 5_000, nth(0)).unwrap();
    let before = dump(&nat);
    change(&mut nat, vec![named("a", &[7]), named("b", &[1, 2])]).unwrap();
    let again = bind_in(&mut nat, 1, 5_000, nth(1)).unwrap();
    assert_eq!(again.mapping, held.mapping);
    nat.release(s(0), again.mapping);
    assert_eq!(dump(&nat).mappings, before.mappings);
    assert_eq!(nat.usage(nth(1)).unwrap().granted, 1);
    let joined = bind_in(&mut nat, 2, 5_000, nth(0)).unwrap();
    assert_eq!(joined.external, ip(7).into());
    assert_eq!(nat.pools.pool_of(VRF, &joined.external), Some(nth(0)));
    assert_eq!(nat.usage(nth(0)).unwrap().granted, 1);
    assert_eq!(nat.pools.size(nth(0)).unwrap().blocks_held, 1);
}

#[test]
fn addresses_that_join_a_pool_are_used_when_the_others_are_full_and_halves_follow_from_the_address() {
    let mut grown = nat(named("public", &[1]));
    for host in 1..=4 {
        bind(&mut grown, host, 5_000).unwrap();
    }
    assert_eq!(bind(&mut grown, 5, 5_000), Err(Drop::PoolExhausted));
    change(&mut grown, vec![named("public", &[1, 2, 3])]).unwrap();
    let got: BTreeSet<Addr> = (5..=12)
        .map(|host| bind(&mut grown, host, 5_000).unwrap().external)
        .collect();
    assert_eq!(got, BTreeSet::from([ip(2).into(), ip(3).into()]));
    assert_eq!(bind(&mut grown, 13, 5_000), Err(Drop::PoolExhausted));
    let size = grown.pools.size(POOL).unwrap();
    assert_eq!((size.addresses, size.blocks, size.blocks_held), (3, 12, 12));

    // One node has grown, the other one was started with all of it: in doubt they share nothing.
    let own = |half| Reign {
        share: Share::HalfOnly(half),
        ..REIGN
    };
    let refusing = |addresses: &[u8]| PoolIntent {
        in_doubt: InDoubt::Refuse,
        ..named("public", addresses)
    };
    let mut low = nat(refusing(&[2]));
    change(&mut low, vec![refusing(&[1, 2, 3])]).unwrap();
    let mut high = nat(refusing(&[1, 2, 3]));
    let blocks = |nat: &mut Nat, reign| -> BTreeSet<(Addr, u16)> {
        for host in 1..20 {
            let _ = nat.bind(s(0), reign, &key(host, 5_000, proto::UDP), slot(host), POOL, None);
        }
        dump(nat)
            .blocks
            .iter()
            .map(|b| (b.address, b.port_first))
            .collect()
    };
    let (a, b) = (
        blocks(&mut low, own(Half::Low)),
        blocks(&mut high, own(Half::High)),
    );
    assert!(a.is_disjoint(&b) && a.len() + b.len() == 12, "{a:?} {b:?}");
}

#[test]
fn a_lost_address_gives_no_port_any_more_and_comes_back_as_it_was_if_that_is_undone() {
    let mut nat = nat(named("public", &[1, 2]));
    let bounds: Vec<Bound> = (1..=8).map(|host| bind(&mut nat, host, 5_000).unwrap()).collect();
    let before = dump(&nat);
    change(&mut nat, vec![named("public", &[2])]).unwrap();
    assert!(nat.pools.has_retired());
    for (host, bound) in (1..).zip(&bounds) {
        let lost = bound.external == ip(1).into();
        assert_eq!(nat.pools.is_pool_address(VRF, &bound.external), !lost);
        assert_eq!(owner(&nat, bound).is_some(), !lost);
        let again = bind(&mut nat, host, 5_000);
        assert_eq!(again.err(), lost.then_some(Drop::PortsExhausted));
        if !lost {
            nat.release(s(0), bound.mapping);
        }
    }
    change(&mut nat, vec![named("public", &[1, 2])]).unwrap();
    assert!(!nat.pools.has_retired());
    assert_eq!(dump(&nat), before);
    check(&nat);
}

#[test]
fn an_address_is_in_another_pool_only_when_nothing_of_it_is_held_in_the_first() {
    let mut nat = nat(named("one", &[1, 2]));
    let mut live = vec![(key(1, 5_000, proto::UDP), bind(&mut nat, 1, 5_000).unwrap())];
    let held = if live[0].1.external == ip(1).into() { 1 } else { 2 };
    let other = || vec![named("two", &[held])];
    assert_eq!(
        change(&mut nat, other()),
        Err(PoolBusy { address: ip(held) }),
        "in one step"
    );
    change(&mut nat, vec![]).unwrap();
    assert_eq!(
        change(&mut nat, other()),
        Err(PoolBusy { address: ip(held) }),
        "a block is held"
    );
    retire(&mut nat, &mut live);
    let unsettled = nat.pools.changed(&intent(other()), false);
    assert_eq!(
        unsettled.err(),
        Some(PoolBusy { address: ip(held) }),
        "a worker may still grant"
    );
    change(&mut nat, other()).unwrap();
    let bound = bind_in(&mut nat, 2, 5_000, nth(0)).unwrap();
    assert_eq!(bound.external, ip(held).into());
    assert_eq!(owner(&nat, &bound), Some((VRF, slot(2))));
    // Numbers and memory are used again, and what was counted of the pool before is not this one's.
    assert_eq!(nat.usage(nth(0)).unwrap().granted, 1);
    let (pools, lots) = (nat.pools.count(), nat.pools.lots());
    for round in 0..8 {
        live.push((key(2, 5_000, proto::UDP), bound));
        change(&mut nat, vec![]).unwrap();
        live.truncate(usize::from(round == 0));
        retire(&mut nat, &mut live);
        change(&mut nat, vec![]).unwrap();
        change(&mut nat, other()).unwrap();
    }
    assert!(nat.pools.count() <= pools + 1 && nat.pools.lots() <= lots + 1);
}

#[test]
fn a_record_about_an_address_that_is_gone_is_refused_and_what_is_held_there_follows_its_owner() {
    let (mut active, mut standby) = (nat(named("public", &[1])), nat(named("public", &[1])));
    let first = bind(&mut active, 1, 5_000).unwrap();
    let learn = |nat: &mut Nat, host, port, bound: &Bound| {
        nat.learn(s(0), &put(&key(host, port, proto::UDP), bound), slot(host))
    };
    learn(&mut standby, 1, 5_000, &first).unwrap();
    let granted = active
        .pop_changed()
        .map(|change| record(&active, change))
        .unwrap();
    change(&mut standby, vec![]).unwrap();
    let second = bind(&mut active, 1, 6_000).unwrap();
    assert_eq!(owner(&active, &first), owner(&active, &second), "the same block");
    learn(&mut standby, 1, 6_000, &second).unwrap();
    standby.learn_block(s(0), &granted, VRF, slot(1)).unwrap();
    let third = bind(&mut active, 2, 5_000).unwrap();
    assert_eq!(learn(&mut standby, 2, 5_000, &third), Err(LearnError::NoPool));
    change(&mut standby, vec![named("public", &[1])]).unwrap();
    learn(&mut standby, 2, 5_000, &third).unwrap();
    check(&standby);
}

#[derive(Debug, Clone)]
enum Step {
    Bind {
        host: u8,
        port: u16,
        pool: u16,
    },
    Release(prop::sample::Index),
    /// Which of the addresses are configured, and in which order the pools are.
    Change(u8, bool),
    Retire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bind = (0u8..12, 0u16..40, 0u16..2).prop_map(|(host, port, pool)| Step::Bind { host, port, pool });
    let release = any::<prop::sample::Index>().prop_map(Step::Release);
    let change = any::<(u8, bool)>().prop_map(|(which, swapped)| Step::Change(which, swapped));
    prop::collection::vec(
        prop_oneof![8 => bind, 2 => release, 2 => change, 1 => Just(Step::Retire)],
        0..150,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The model knows who was told which public endpoint. Whatever comes and goes, nobody is told another's, nobody one
    /// that isn't configured, and what is configured is found.
    #[test]
    fn pools_that_come_and_go_never_share_an_endpoint(steps in steps(), seed: u64) {
        let mut nat = Nat::new(Arc::new(Pools::new(&intent(vec![]))), LIMITS, seed);
        let mut live: Vec<(FlowKey, Bound)> = Vec::new();
        let mut order: Vec<PoolIntent> = vec![];
        for step in steps {
            match step {
                Step::Bind { host, port, pool } => {
                    let Ok(bound) = bind_in(&mut nat, host, port, nth(pool)) else { continue };
                    let configured = &order[usize::from(pool)].addresses;
                    prop_assert!(configured.iter().any(|&ip| bound.external == ip.into()));
                    let key = key(host, port, proto::UDP);
                    for (other, theirs) in &live {
                        if (theirs.external, theirs.port) == (bound.external, bound.port) {
                            prop_assert_eq!(*other, key);
                        }
                    }
                    prop_assert_eq!(owner(&nat, &bound), Some((VRF, slot(host))));
                    live.push((key, bound));
                }
                Step::Release(which) if !live.is_empty() => {
                    let (_, bound) = live.swap_remove(which.index(live.len()));
                    nat.release(s(0), bound.mapping);
                }
                Step::Change(which, swapped) => {
                    let chosen = |name: &str, of: [u8; 4]| {
                        let bit = |last: &u8| which >> (last - 1) & 1 == 1;
                        let addresses: Vec<u8> = of.into_iter().filter(bit).collect();
                        (!addresses.is_empty()).then(|| named(name, &addresses))
                    };
                    let mut pools: Vec<_> = [chosen("a", [1, 2, 5, 6]), chosen("b", [3, 4, 7, 8])]
                        .into_iter().flatten().collect();
                    if swapped {
                        pools.reverse();
                    }
                    change(&mut nat, pools.clone()).unwrap();
                    order = pools;
                }
                Step::Retire => retire(&mut nat, &mut live),
                Step::Release(_) => {}
            }
            let mut taken: HashMap<(Addr, u16), FlowKey> = HashMap::new();
            for (key, bound) in &live {
                let before = taken.insert((bound.external, bound.port), *key);
                prop_assert!(before.is_none_or(|other| other == *key));
            }
        }
        // Everything is taken away: nothing is left, and everything can be had again.
        change(&mut nat, vec![]).unwrap();
        retire(&mut nat, &mut live);
        prop_assert!(live.is_empty());
        let (mut users, mut blocks) = (Vec::new(), Vec::new());
        prop_assert_eq!(nat.users(0, u32::MAX, &mut users), None);
        prop_assert_eq!(nat.blocks(0, u32::MAX, &mut blocks), None);
        prop_assert!(users.is_empty() && blocks.is_empty());
        change(&mut nat, vec![named("c", &[1, 2, 3, 4, 5, 6, 7, 8])]).unwrap();
        for host in 0..32 {
            prop_assert!(bind_in(&mut nat, host, 1, nth(0)).is_ok());
        }
        prop_assert_eq!(bind_in(&mut nat, 32, 1, nth(0)), Err(Drop::PoolExhausted));
    }
}
