//! Random histories against slow, obvious models.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::lot::Wish;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Bind {
        host: u8,
        port: u16,
        proto: u8,
    },
    Release(prop::sample::Index),
    Wait(u64),
    /// Room for so many more than there are, in eighths.
    Room(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let proto = prop::sample::select(vec![proto::TCP, proto::UDP, proto::ICMP]);
    let bind = (0u8..12, 0u16..200, proto).prop_map(|(host, port, proto)| Step::Bind { host, port, proto });
    let release = any::<prop::sample::Index>().prop_map(Step::Release);
    let wait = (0u64..90).prop_map(Step::Wait);
    let room = (0u32..16).prop_map(Step::Room);
    prop::collection::vec(prop_oneof![6 => bind, 3 => release, 1 => wait, 1 => room], 0..200)
}

/// Other room, larger or smaller, in the midst of it; never so little that a rest would be cut short.
fn exchange(nat: &mut Nat, eighths: u32) {
    let (_, _, held) = nat.sizes();
    let more = |held: u32, most: u32| (held + held * eighths / 8 + eighths).min(most);
    let limits = NatLimits {
        subscribers: more(held.subscribers, LIMITS.subscribers),
        blocks: more(held.blocks, LIMITS.blocks),
        mappings: more(held.mappings + 200, LIMITS.mappings),
        ..LIMITS
    };
    if !nat.is_moving() {
        nat.adopt_room(&limits, NatRoom::new(limits));
    }
}

/// A little of what has to follow.
fn rearrange(nat: &mut Nat) {
    if nat.rearrange(2) == 0 {
        assert!(nat.take_spent().all(|index| index.is_empty()));
        for span in nat.vacate() {
            assert!(span.bytes < 1 << 20);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The model knows only who was told which public endpoint and how often. The second node gets nothing but
    /// records, and must be the same after every step, whatever room the first one is given and takes; in the end it takes over
    /// and goes on.
    #[test]
    fn histories_never_share_an_endpoint_and_are_mirrored_exactly(steps in steps(), seed: u64) {
        let pools = || Arc::new(Pools::new(&intent(vec![pool()])));
        let (mut active, mut standby) = (Nat::new(pools(), LIMITS, seed), Nat::new(pools(), LIMITS, !seed));
        let mut now = 1;
        let mut live: Vec<(FlowKey, Bound, u32)> = Vec::new();
        let mut holders: HashMap<(Addr, u16, u8), (FlowKey, u64)> = HashMap::new();
        for step in steps {
            match step {
                Step::Bind { host, port, proto } => {
                    let key = key(host, port, proto);
                    let before = dump(&active);
                    match active.bind(s(now), REIGN, &key, slot(host), POOL, None) {
                        Ok(bound) => {
                            let endpoint = (bound.external, bound.port, proto);
                            if let Some((other, until)) = holders.get(&endpoint) {
                                prop_assert!(*other == key || *until <= now, "{endpoint:?} has a holder");
                            }
                            for (other, theirs, _) in &live {
                                let same_endpoint = (theirs.external, theirs.port, other.proto) == endpoint;
                                prop_assert_eq!(same_endpoint, *other == key);
                                if other.src == key.src {
                                    prop_assert_eq!(theirs.external, bound.external, "paired");
                                }
                            }
                            holders.insert(endpoint, (key, u64::MAX));
                            while let Some(change) = active.pop_changed() {
                                let rec = record(&active, change);
                                standby.learn_block(s(now), &rec, VRF, slot(host)).unwrap();
                            }
                            let learned = standby.learn(s(now), &put(&key, &bound), slot(host)).unwrap();
                            live.push((key, bound, learned.mapping));
                        }
                        Err(_) => prop_assert_eq!(dump(&active), before),
                    }
                }
                Step::Release(which) if !live.is_empty() => {
                    let (key, bound, theirs) = live.swap_remove(which.index(live.len()));
                    active.release(s(now), bound.mapping);
                    standby.release(s(now), theirs);
                    if !live.iter().any(|(other, ..)| *other == key) {
                        holders.insert((bound.external, bound.port, key.proto), (key, now + 120));
                    }
                }
                Step::Release(_) => {}
                Step::Room(eighths) => exchange(&mut active, eighths),
                Step::Wait(secs) => {
                    now += secs;
                    standby.tick(s(now), 1000, |_| false);
                    active.tick(s(now), 1000, |_| true);
                    while let Some(change) = active.pop_changed() {
                        let rec = record(&active, change);
                        let id = standby.forget_block(&rec, VRF).unwrap();
                        standby.free_block(id);
                        active.free_block(change.id);
                    }
                }
            }
            rearrange(&mut active);
            check(&active);
            prop_assert_eq!(dump(&active), dump(&standby));
        }
        check(&standby);
        let heir = Reign { term: TERM.next_of(2, 0), ..REIGN };
        for (key, bound, _) in &live {
            let again = standby.bind(s(now), heir, key, 0, POOL, None).unwrap();
            prop_assert_eq!((again.external, again.port, again.part), (bound.external, bound.port, bound.part));
        }
        // Everything ends: nothing is left on either node.
        for (_, bound, theirs) in live.drain(..) {
            active.release(s(now), bound.mapping);
            standby.release(s(now), theirs);
            standby.release(s(now), theirs);
        }
        for nat in [&mut active, &mut standby] {
            nat.tick(s(now + 200), 10_000, |_| true);
            nat.tick(s(now + 300), 10_000, |_| true);
            while let Some(change) = nat.pop_changed() {
                nat.free_block(change.id);
            }
            check(nat);
            let dump = dump(nat);
            prop_assert!(dump.users.is_empty() && dump.blocks.is_empty() && dump.mappings.is_empty());
        }
    }

    /// Records in any order, of any grants: every refusal leaves the dump as it was.
    #[test]
    fn a_refused_record_changes_nothing(
        records in prop::collection::vec((0u8..6, 0u16..40, 1u64..6, 0u16..330, any::<bool>()), 1..80)
    ) {
        let limits = NatLimits { subscribers: 4, blocks: 6, mappings: 24, events: 4 };
        let mut nat = Nat::new(Arc::new(Pools::new(&intent(vec![pool()]))), limits, 3);
        let mut mappings = Vec::new();
        for (host, port, grant, public, release) in records {
            if release && let Some(mapping) = mappings.pop() {
                nat.release(s(0), mapping);
            }
            let bound = Bound {
                external: Addr::v4([198, 51, 100, 1]),
                port: 1000 + public,
                mapping: 0,
                part: NatPart { grant, mapping: true },
            };
            let before = dump(&nat);
            match nat.learn(s(0), &put(&key(host, port, proto::UDP), &bound), slot(host)) {
                Ok(learned) => mappings.push(learned.mapping),
                Err(_) => prop_assert_eq!(dump(&nat), before),
            }
            check(&nat);
        }
    }

    /// Against a search that looks at every port in turn.
    #[test]
    fn a_free_port_is_found_whenever_there_is_one(
        size in prop_oneof![Just(64_u16), Just(128), Just(192)],
        taken in prop::collection::vec(any::<bool>(), 192),
        start in 0u16..192,
        odd: Option<bool>,
        part in prop_oneof![Just(None), Just(Some(Half::Low)), Just(Some(Half::High))],
        (drawn, base, first) in (any::<bool>(), any::<u32>(), 1024_u16..1100),
    ) {
        let taken = &taken[..usize::from(size)];
        let ports = PortRange { first, last: first + 200 };
        let pools = Pools::new(&intent(vec![PoolIntent { block_size: size, ports, ..pool() }]));
        let place = pools.place(VRF, &Addr::v4([198, 51, 100, 1]), first).unwrap();
        let home = home::home();
        let (from, to) = pools.lot(place).offsets(part);
        let start = from + start % (to - from);
        for (offset, _) in (0..).zip(taken).filter(|(_, taken)| **taken) {
            pools.lot(place).set_port(place, Protocol::Icmp, offset, true);
        }
        let slow = (0..to - from).map(|step| from + (start - from + step) % (to - from)).find(|&offset| {
            let port = first + offset;
            !taken[usize::from(offset)]
                && odd.is_none_or(|odd| (port % 2 == 1) == odd)
                && (!drawn || home.is_home(base, port))
        });
        let wish = Wish { odd, part, home: drawn.then_some((&home, base)) };
        prop_assert_eq!(pools.lot(place).free_port(place, Protocol::Icmp, start, wish), slow);
    }
}
