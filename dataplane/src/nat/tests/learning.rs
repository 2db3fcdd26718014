//! What records do, and what they can't.

use super::*;

#[test]
fn a_record_brings_subscriber_block_mapping_and_exact_port() {
    let (mut active, mut standby) = (nat(pool()), nat(pool()));
    let key = key(1, 4000, proto::TCP);
    let bound = active.bind(s(0), REIGN, &key, slot(1), POOL, None).unwrap();
    let learned = standby.learn(s(50), &put(&key, &bound), slot(1)).unwrap();
    assert!(learned.block_new);
    assert_eq!(dump(&standby), dump(&active));
    check(&standby);
    let block = active.pop_changed().unwrap();
    let rec = record(&active, block);
    assert_eq!(
        standby.learn_block(s(50), &rec, VRF, slot(1)),
        Ok(learned.block),
        "known by the mention"
    );
    assert_eq!(
        (standby.pop_changed(), standby.pop_event()),
        (None, None),
        "the active tells and logs"
    );
    let again = standby.bind(s(60), REIGN, &key, slot(1), POOL, None).unwrap();
    assert_eq!(
        (again.external, again.port),
        (bound.external, bound.port),
        "a flow goes on after a take-over"
    );
}

#[test]
fn records_of_flows_from_outside_and_of_hairpins_name_the_right_endpoint() {
    let mut active = nat(PoolIntent {
        filtering: Filtering::EndpointIndependent,
        ..pool()
    });
    let from_a = key(1, 4000, proto::UDP);
    let (a, b) = (
        bind(&mut active, 1, 4000).unwrap(),
        bind(&mut active, 2, 5000).unwrap(),
    );
    // A → B's public endpoint, translated to come from A's; then on to B as a conntrack of its own.
    let original = FlowKey {
        dst: b.external,
        dst_port: b.port,
        ..from_a
    };
    let out = PutRecord {
        original,
        ..put(&original, &a)
    };
    let original = out.reply.reversed();
    let reply = FlowKey {
        src: Addr::v4([100, 64, 0, 2]),
        src_port: 5000,
        ..out.reply
    };
    let back_in = PutRecord {
        original,
        reply,
        nat: Some(b.part),
        ..out
    };
    let mut standby = nat(pool());
    standby.learn(s(0), &out, slot(1)).unwrap();
    standby.learn(s(0), &back_in, slot(2)).unwrap();
    assert_eq!(dump(&standby), dump(&active));
}

#[test]
fn records_that_make_no_sense_are_refused_without_a_change() {
    let mut active = nat(pool());
    let key = key(1, 4000, proto::UDP);
    let bound = bind(&mut active, 1, 4000).unwrap();
    let good = put(&key, &bound);
    let mut standby = nat(pool());
    let before = dump(&standby);
    let elsewhere = FlowKey {
        dst: Addr::v4([192, 0, 2, 1]),
        ..good.reply
    };
    let unaligned = FlowKey {
        dst_port: 1024 + 4 * 64,
        ..good.reply
    };
    let cases = [
        (PutRecord { nat: None, ..good }, LearnError::Unsupported),
        (
            PutRecord {
                nat: Some(NatPart {
                    grant: 0,
                    mapping: true,
                }),
                ..good
            },
            LearnError::Unsupported,
        ),
        (
            PutRecord {
                nat: Some(NatPart {
                    mapping: false,
                    ..bound.part
                }),
                ..good
            },
            LearnError::Unsupported,
        ),
        (
            PutRecord {
                reply: key.reversed(),
                ..good
            },
            LearnError::Unsupported,
        ),
        (
            PutRecord {
                reply: elsewhere,
                ..good
            },
            LearnError::NoPool,
        ),
        (
            PutRecord {
                reply: unaligned,
                ..good
            },
            LearnError::NoPool,
        ),
    ];
    for (record, why) in cases {
        assert_eq!(standby.learn(s(0), &record, 1), Err(why), "{record:?}");
    }
    let change = active.pop_changed().unwrap();
    let rec = record(&active, change);
    let off = BlockRecord {
        port_first: rec.port_first + 1,
        ..rec
    };
    assert_eq!(standby.learn_block(s(0), &off, VRF, 1), Err(LearnError::NoPool));
    assert_eq!(standby.forget_block(&rec, VRF), Err(LearnError::Unknown));
    assert_eq!(dump(&standby), before);
}

#[test]
fn the_newer_grant_wins_whichever_record_comes_first() {
    let mut nat = nat(pool());
    let rec = |grant, host| BlockRecord {
        grant,
        subscriber: Addr::v4([100, 64, 0, host]),
        address: Addr::v4([198, 51, 100, 2]),
        port_first: 1024 + 64,
        held: true,
        version: Version::default(),
    };
    let old = nat.learn_block(s(0), &rec(10, 1), VRF, 1).unwrap();
    let before = dump(&nat);
    assert_eq!(
        nat.learn_block(s(0), &rec(11, 2), VRF, 2),
        Err(LearnError::Conflict {
            holder: 10,
            vrf: VRF,
            slot: 1,
            block: Some(old)
        })
    );
    assert_eq!(
        nat.learn_block(s(0), &rec(9, 2), VRF, 2),
        Err(LearnError::Older {
            holder: 10,
            block: Some(old)
        })
    );
    assert_eq!(
        nat.learn_block(s(0), &rec(10, 2), VRF, 2),
        Err(LearnError::Unsupported)
    );
    assert_eq!(dump(&nat), before, "refusals change nothing");
    nat.evict_block(s(5), old).unwrap();
    assert_eq!(
        nat.pop_event().map(|event| (event.held, event.grant)),
        Some((false, 10))
    );
    nat.free_block(old);
    let new = nat.learn_block(s(0), &rec(11, 2), VRF, 2).unwrap();
    assert_eq!(
        nat.forget_block(&rec(10, 1), VRF),
        Err(LearnError::Unknown),
        "a release from the past"
    );
    assert_eq!(
        nat.pools().owner(VRF, &Addr::v4([198, 51, 100, 2]), 1024 + 64),
        Some((VRF, 2))
    );
    assert_eq!(nat.forget_block(&rec(11, 2), VRF), Ok(new));
    check(&nat);
}

#[test]
fn a_holder_in_another_worker_is_named_by_its_slot() {
    let pools = Arc::new(Pools::new(&intent(vec![pool()])));
    let (mut one, mut two) = (
        Nat::new(Arc::clone(&pools), LIMITS, 1),
        Nat::new(pools, LIMITS, 2),
    );
    let mut active = nat(pool());
    let bound = bind(&mut active, 1, 4000).unwrap();
    let change = active.pop_changed().unwrap();
    let old = record(&active, change);
    one.learn_block(s(0), &old, VRF, 1).unwrap();
    let newer = BlockRecord {
        grant: old.grant + 1,
        subscriber: Addr::v4([100, 64, 0, 2]),
        ..old
    };
    assert_eq!(
        two.learn_block(s(0), &newer, VRF, 2),
        Err(LearnError::Conflict {
            holder: bound.part.grant,
            vrf: VRF,
            slot: 1,
            block: None
        })
    );
    one.forget_block(&old, VRF).unwrap();
    two.learn_block(s(0), &newer, VRF, 2).unwrap();
    check(&two);
}

#[test]
fn a_block_with_conntracks_is_not_forgotten_and_a_resting_port_does_not_hold_it() {
    let (mut active, mut standby) = (nat(pool()), nat(pool()));
    let bound = bind(&mut active, 1, 4000).unwrap();
    let learned = standby
        .learn(s(0), &put(&key(1, 4000, proto::UDP), &bound), slot(1))
        .unwrap();
    let change = active.pop_changed().unwrap();
    let rec = record(&active, change);
    assert_eq!(
        standby.forget_block(&rec, VRF),
        Err(LearnError::InUse { block: learned.block })
    );
    standby.release(s(1), learned.mapping);
    assert_eq!(standby.forget_block(&rec, VRF), Ok(learned.block));
    standby.free_block(learned.block);
    check(&standby);
    assert_eq!(dump(&standby), dump(&nat(pool())));
}

#[test]
fn a_port_in_use_by_another_endpoint_is_reported_and_a_resting_one_makes_way() {
    let (mut active, mut standby) = (nat(pool()), nat(pool()));
    let bound = bind(&mut active, 1, 4000).unwrap();
    let first = put(&key(1, 4000, proto::UDP), &bound);
    let learned = standby.learn(s(0), &first, slot(1)).unwrap();
    let other = put(&key(1, 4001, proto::UDP), &bound);
    let before = dump(&standby);
    assert_eq!(
        standby.learn(s(0), &other, 1),
        Err(LearnError::PortTaken {
            mapping: learned.mapping
        })
    );
    assert_eq!(dump(&standby), before);
    standby.release(s(0), learned.mapping);
    standby.learn(s(0), &other, slot(1)).unwrap();
    check(&standby);
    assert_eq!(standby.usage(POOL).unwrap().resting, 0);
}
