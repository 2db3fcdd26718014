//! Records in every order, as often as they like: what a standby holds in the end is what a slow reader of the owner's log
//! holds, and a refusal changes nothing.

mod lacking;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rtrb::RingBuffer;

use super::*;
use crate::config::{
    CommitIntent, Filtering, InDoubt, Intent, PoolIntent, PortRange, StandbyPolicy, Timeouts, VrfIntent,
};
use crate::delta::{
    BlockRecord, Class, Handle, NatPart, PutRecord, Scales, SlotEnd, SlotOffer, Term, Version,
};
use crate::flow::{Addr, Direction, FlowKey, VrfId, proto};
use crate::lane_counts::LaneCounts;
use crate::nat::{NatLimits, Pools};
use crate::resync::Sum;
use crate::role::{Role, Roles};
use crate::slot::{block_digest, conntrack_digest};
use crate::stage::emit::emit;
use crate::tables::Limits;

const AT: SlotRef = SlotRef {
    vrf: VrfId(0),
    slot: 3,
};
const TERM: Term = Term(0x101);
const LATER: Term = Term(0x202);
const PUBLIC: Addr = Addr::v4([198, 51, 100, 1]);
const BLOCK_PORTS: u16 = 64;
const HOSTS: u8 = 5;
const NOW: Instant = Instant::from_secs(1_000);
const ROOMY: Limits = Limits {
    conntracks: 256,
    nat: NatLimits {
        subscribers: 32,
        blocks: 32,
        mappings: 256,
        events: 64,
    },
    reserve: None,
    held_packets: 0,
    limited_sources: 1,
    redirect_packets_per_s: 0,
};

fn lane(incarnation: u32) -> LaneTag {
    LaneTag {
        peer: 0,
        lane: 0,
        incarnation,
    }
}

/// Tables of a standby with one pool of one address.
fn standby(limits: Limits) -> Tables {
    let pool = PoolIntent {
        name: "public".into(),
        addresses: vec!["198.51.100.1".parse().unwrap()],
        ports: PortRange {
            first: 1_024,
            last: 1_024 + 16 * BLOCK_PORTS - 1,
        },
        block_size: BLOCK_PORTS,
        blocks_per_subscriber_max: 4,
        port_rest_s: 120,
        block_idle_s: 60,
        filtering: Filtering::EndpointDependent,
        in_doubt: InDoubt::Borrow,
    };
    let vrf = VrfIntent {
        name: "main".into(),
        slots: 16,
        inside: vec![],
        ha_group: None,
        firewall: Default::default(),
        pools: vec![pool],
        nat_rules: vec![],
        timeouts: Timeouts::default(),
        standby: StandbyPolicy::Drop,
        tcp_window_check: true,
        flow_counters: true,
        output_commit: CommitIntent::default(),
    };
    let intent = Intent {
        vrfs: vec![vrf],
        ..Intent::default()
    };
    let mut tables = Tables::new((0, 1), 1, &[16], limits, Arc::new(Pools::new(&intent)), 7);
    tables.roles[0].role = Role::Backup;
    tables
}

/// A block of host `host`: each has one of its own, granted under `grant`.
fn block(host: u8, grant: u64, held: bool, version: Version) -> BlockRecord {
    BlockRecord {
        grant,
        subscriber: Addr::v4([100, 64, 0, host]),
        address: PUBLIC,
        port_first: 1_024 + u16::from(host) * BLOCK_PORTS,
        held,
        version,
    }
}

/// A flow of host `host` from inside port `port`; translated to place `offset` of block `grant`, if that is given.
fn put(host: u8, port: u16, nat: Option<(u64, u16)>, class: Class, version: Version) -> PutRecord {
    let original = FlowKey {
        src: Addr::v4([100, 64, 0, host]),
        dst: Addr::v4([203, 0, 113, 9]),
        src_port: 5_000 + port,
        dst_port: 53,
        vrf: AT.vrf,
        proto: proto::UDP,
    };
    let mut reply = original.reversed();
    if let Some((_, offset)) = nat {
        reply.dst = PUBLIC;
        reply.dst_port = 1_024 + u16::from(host) * BLOCK_PORTS + offset;
    }
    PutRecord {
        original,
        reply,
        nat: nat.map(|(grant, _)| NatPart { grant, mapping: true }),
        class,
        scales: Scales::NONE,
        lifetime_s: 60,
        version,
        handle: Handle(u32::from(host) * 16 + u32::from(port)),
    }
}

/// What the owner holds at a point of its log: by host and port.
#[derive(Debug, Default, Clone, PartialEq)]
struct Owned {
    flows: BTreeMap<(u8, u16), PutRecord>,
    blocks: BTreeMap<u8, BlockRecord>,
    version: Version,
}

impl Owned {
    /// Does something, if it can be done now, and writes it down.
    fn act(&mut self, (host, port, what): (u8, u16, u8), log: &mut Vec<Delta>) {
        let next = Version {
            counter: self.version.counter + 1,
            ..self.version
        };
        let held = self.flows.get(&(host, port)).copied();
        let delta = match (what, held) {
            (0, Some(_)) => {
                let gone = self.flows.remove(&(host, port)).map(|flow| flow.original);
                gone.map(|key| {
                    Delta::Del(DelRecord {
                        name: Name::Key(key),
                        version: next,
                    })
                })
            }
            (1, None) if !self.flows.keys().any(|(h, _)| *h == host) => {
                let released = self.blocks.remove(&host);
                released.map(|b| Delta::Block(block(host, b.grant, false, next)))
            }
            (2, Some(flow)) => {
                let class = match flow.class {
                    Class::Opening => Class::Established,
                    _ => Class::Closing,
                };
                let (handle, scales, lifetime_s) = (flow.handle, flow.scales, 60);
                self.flows.insert(
                    (host, port),
                    PutRecord {
                        class,
                        version: next,
                        ..flow
                    },
                );
                Some(Delta::State(StateRecord {
                    handle,
                    class,
                    scales,
                    lifetime_s,
                    version: next,
                }))
            }
            (_, Some(_)) => None,
            // The last port is the firewall's: it is not translated.
            (_, None) if port == 3 => Some(Delta::Put(put(host, port, None, Class::Opening, next))),
            (_, None) => match self.blocks.get(&host) {
                None => Some(Delta::Block(block(host, next.counter << 8, true, next))),
                Some(b) => {
                    // Freed ports are given to others at once: copies from the past collide with them.
                    let taken = |offset| {
                        let public = b.port_first + offset;
                        self.flows.values().any(|f| f.reply.dst_port == public)
                    };
                    let offset = (0..).find(|&offset| !taken(offset)).unwrap();
                    Some(Delta::Put(put(
                        host,
                        port,
                        Some((b.grant, offset)),
                        Class::Opening,
                        next,
                    )))
                }
            },
        };
        let Some(delta) = delta else { return };
        match delta {
            Delta::Put(record) => _ = self.flows.insert((host, port), record),
            Delta::Block(record) if record.held => _ = self.blocks.insert(host, record),
            _ => {}
        }
        self.version = next;
        log.push(delta);
    }

    /// What a walk sends: parents first, otherwise in the order of `order`.
    fn walk(&self, order: &[u64]) -> Vec<Delta> {
        let mut flows: Vec<_> = (0_u32..).zip(self.flows.values()).collect();
        flows.sort_by_key(|(n, _)| order[*n as usize % order.len()].rotate_left(*n));
        let blocks = self.blocks.values().map(|b| Delta::Block(*b));
        blocks
            .chain(flows.into_iter().map(|(_, flow)| Delta::Put(*flow)))
            .collect()
    }

    fn end(&self, generation: u32) -> SlotEnd {
        let mut sum = Sum::default();
        self.flows
            .values()
            .for_each(|flow| sum.add(conntrack_digest(flow)));
        self.blocks.values().for_each(|b| sum.add(block_digest(b)));
        SlotEnd {
            generation,
            count: sum.count,
            digest: sum.digest,
            version: self.version,
        }
    }
}

/// All that a standby holds, each entry with every field it has.
fn dump(tables: &Tables) -> Vec<String> {
    let live = tables.conntracks.iter_live();
    let mut rows: Vec<String> = live
        .map(|(id, conntrack)| format!("{id} {conntrack:?}"))
        .collect();
    let (mut users, mut blocks) = (Vec::new(), Vec::new());
    tables.nat.users(0, u32::MAX, &mut users);
    tables.nat.blocks(0, u32::MAX, &mut blocks);
    rows.extend(users.iter().map(|user| format!("{user:?}")));
    rows.extend(blocks.iter().map(|block| format!("{block:?}")));
    let slot = tables.slots.get(AT).unwrap();
    rows.push(format!("{} entries, digest {:x}", slot.count, slot.digest));
    rows
}

/// What a standby holds, as its owner would write it down.
fn held(tables: &Tables) -> (Vec<PutRecord>, Vec<(u64, Addr, u16)>) {
    let live = tables.conntracks.iter_live();
    let mut flows: Vec<_> = live
        .map(|(_, conntrack)| PutRecord {
            handle: Handle::NONE,
            lifetime_s: 0,
            ..conntrack.to_put(NOW)
        })
        .collect();
    flows.sort_by_key(|flow| (flow.original.src, flow.original.src_port));
    let mut rows = Vec::new();
    tables.nat.blocks(0, u32::MAX, &mut rows);
    let mut blocks: Vec<_> = rows
        .iter()
        .map(|b| (b.grant, b.subscriber, b.port_first))
        .collect();
    blocks.sort_unstable();
    (flows, blocks)
}

fn owned(owner: &Owned) -> (Vec<PutRecord>, Vec<(u64, Addr, u16)>) {
    let flows = owner.flows.values().map(|flow| PutRecord {
        handle: Handle::NONE,
        lifetime_s: 0,
        ..*flow
    });
    let mut flows: Vec<_> = flows.collect();
    flows.sort_by_key(|flow| (flow.original.src, flow.original.src_port));
    let rows = owner.blocks.values();
    let mut blocks: Vec<_> = rows.map(|b| (b.grant, b.subscriber, b.port_first)).collect();
    blocks.sort_unstable();
    (flows, blocks)
}

/// Applies one item; what was answered.
fn give(tables: &mut Tables, item: ToWorker) -> Option<ToEvent> {
    let (mut into, mut inbox) = RingBuffer::new(1);
    into.push(item).unwrap();
    assert_eq!(absorb(tables, &mut inbox, 0, 1, NOW), 1);
    tables.answers[0].pop_front()
}

const fn refusals(tables: &Tables) -> u64 {
    let c = &tables.counters;
    c.absorb_stale + c.absorb_fenced + c.absorb_full + c.absorb_conflict + c.absorb_no_pool + c.absorb_unknown
}

fn find_original(tables: &Tables, original: &FlowKey) -> Option<u32> {
    let hash = tables.conntracks.hash(original);
    let found = tables.conntracks.find(hash, original);
    found
        .filter(|(_, direction)| *direction == Direction::Original)
        .map(|(id, _)| id)
}

/// Whether the record takes the place of an entry under its tuple that is translated differently: whatever becomes of
/// the record, that one is over.
fn replaces(tables: &Tables, delta: &Delta) -> bool {
    let Delta::Put(put) = delta else { return false };
    find_original(tables, &put.original).is_some_and(|id| {
        let held = &tables.conntracks[id];
        held.key(Direction::Reply) != put.reply || held.nat().map(|nat| nat.part) != put.nat
    })
}

/// Whether the record is about an entry that has changed since.
fn is_old(tables: &Tables, delta: &Delta) -> bool {
    let id = match delta {
        Delta::Put(put) => find_original(tables, &put.original),
        Delta::Del(DelRecord {
            name: Name::Key(original),
            ..
        }) => find_original(tables, original),
        Delta::State(state) => tables.find_named(AT, state.handle),
        _ => None,
    };
    let ours = id.map(|id| tables.conntracks[id].sync.version);
    let source = tables.slots.get(AT).and_then(|slot| slot.source.as_ref());
    ours > delta.version() && !source.is_some_and(|source| source.authoritative)
}

/// Applies a record. An old one is refused; when one is refused, everything is as it was, but for what gave way to a newer
/// grant.
fn tell(tables: &mut Tables, lane: LaneTag, delta: Delta) {
    let (before, refused, evicted) = (dump(tables), refusals(tables), tables.counters.absorb_evicted);
    let (replaces, old) = (replaces(tables, &delta), is_old(tables, &delta));
    give(tables, ToWorker::Record { at: AT, lane, delta });
    assert_eq!(tables.lane_counts(), [LaneCounts::whole(&tables.counters)]);
    let refused = refusals(tables) > refused;
    assert!(refused || !old, "applied although old: {delta:?}");
    if refused && tables.counters.absorb_evicted == evicted && !replaces {
        let after = dump(tables);
        let (gone, new) = (without(&before, &after), without(&after, &before));
        assert!(
            gone.is_empty() && new.is_empty(),
            "refused {delta:?}: {gone:#?} is now {new:#?}"
        );
    }
}

fn without<'a>(rows: &'a [String], others: &[String]) -> Vec<&'a String> {
    rows.iter().filter(|row| !others.contains(row)).collect()
}

fn start(tables: &mut Tables, generation: u32, version: Version) {
    let begin = ToWorker::SlotBegin {
        at: AT,
        lane: lane(generation),
        generation,
        version,
        since: None,
    };
    assert_eq!(give(tables, begin), None);
}

/// Ends a generation; whether it was verified, and with how many refusals.
fn stop(tables: &mut Tables, end: SlotEnd) -> Option<u32> {
    let item = ToWorker::SlotEnd {
        at: AT,
        lane: lane(end.generation),
        end,
    };
    match give(tables, item) {
        Some(ToEvent::SlotVerified { refused, .. }) => Some(refused),
        Some(ToEvent::SlotFailed { .. }) => None,
        other => panic!("{other:?}"),
    }
}

/// One generation of a history: what the owner does before it, and what is told out of order inside it.
type Part = (Vec<(u8, u16, u8)>, Vec<u16>, Vec<u64>, bool);

fn part() -> impl Strategy<Value = Part> {
    let actions = prop::collection::vec((0..HOSTS, 0_u16..4, 0_u8..6), 0..40);
    let copies = prop::collection::vec(any::<u16>(), 0..40);
    (
        actions,
        copies,
        prop::collection::vec(any::<u64>(), 1..9),
        any::<bool>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Copies of any records of the log, in any order, before, between and after those of a walk in any order: either
    /// the generation is not verified, and nothing has been swept, or the standby holds what the owner held. Without
    /// such copies it is always verified, whatever the ones before have left behind.
    #[test]
    fn any_order_and_any_copies_of_a_log_end_in_the_owners_table(parts in prop::collection::vec(part(), 1..6)) {
        let mut tables = standby(ROOMY);
        let mut owner = Owned { version: Version { term: TERM, counter: 0 }, ..Owned::default() };
        let mut log = Vec::new();
        let last = parts.len();
        for (generation, (actions, copies, order, taken_over)) in (1..).zip(&parts) {
            if *taken_over {
                owner.version.term = LATER;
            }
            for action in actions {
                owner.act(*action, &mut log);
            }
            let copies = if generation as usize == last { &[][..] } else { copies };
            let mut records = owner.walk(order);
            for (n, copy) in copies.iter().enumerate().filter(|_| !log.is_empty()) {
                let place = (n * 7 + usize::from(*copy)) % (records.len() + 1);
                records.insert(place, log[usize::from(*copy) % log.len()]);
            }
            start(&mut tables, generation, owner.version);
            let swept = tables.counters.swept;
            records.into_iter().for_each(|delta| tell(&mut tables, lane(generation), delta));
            let verified = stop(&mut tables, owner.end(generation));
            match verified {
                Some(0) => prop_assert_eq!(held(&tables), owned(&owner)),
                Some(_) => prop_assert!(!copies.is_empty(), "a plain walk was refused in part"),
                None => {
                    prop_assert!(!copies.is_empty(), "a plain walk was not verified");
                    prop_assert_eq!(tables.counters.swept, swept);
                }
            }
        }
    }
}

const fn version(counter: u64) -> Version {
    Version { term: TERM, counter }
}

/// What has to be in the way so that one step of taking in a translated flow fails.
struct Obstacle {
    name: &'static str,
    limits: Limits,
    there: Vec<Delta>,
}

/// The flow that is refused: host 1's, at place 7 of block 0x100.
fn refused_flow(counter: u64) -> PutRecord {
    put(1, 1, Some((0x100, 7)), Class::Opening, version(counter))
}

fn obstacles() -> Vec<Obstacle> {
    let nat = |change: fn(&mut NatLimits)| {
        let mut limits = ROOMY;
        change(&mut limits.nat);
        limits
    };
    let other = |host| {
        Delta::Put(put(
            host,
            1,
            Some((u64::from(host) << 8, 7)),
            Class::Opening,
            version(50),
        ))
    };
    let twin = |original, reply| {
        let plain = put(1, 1, None, Class::Opening, version(50));
        Delta::Put(PutRecord {
            original,
            reply,
            ..plain
        })
    };
    let flow = refused_flow(1);
    let far = put(4, 2, None, Class::Opening, version(0)).original;
    vec![
        Obstacle {
            name: "no room for its subscriber",
            limits: nat(|n| n.subscribers = 1),
            there: vec![other(2)],
        },
        Obstacle {
            name: "no room for its block",
            limits: nat(|n| n.blocks = 1),
            there: vec![other(2)],
        },
        Obstacle {
            name: "no room for its mapping",
            limits: nat(|n| n.mappings = 1),
            there: vec![other(2)],
        },
        Obstacle {
            name: "a newer grant of its block",
            limits: ROOMY,
            there: vec![Delta::Block(block(1, 0x900, true, version(50)))],
        },
        Obstacle {
            name: "its grant is another subscriber's",
            limits: ROOMY,
            there: vec![Delta::Block(BlockRecord {
                subscriber: Addr::v4([100, 64, 0, 9]),
                ..block(1, 0x100, true, version(50))
            })],
        },
        Obstacle {
            name: "its original tuple is the reply of a newer flow",
            limits: ROOMY,
            there: vec![twin(far, flow.original)],
        },
        Obstacle {
            name: "its reply tuple is the original of a newer flow",
            limits: ROOMY,
            there: vec![twin(flow.reply, flow.reply.reversed())],
        },
        Obstacle {
            name: "its reply tuple is that of a newer flow",
            limits: ROOMY,
            there: vec![twin(far, flow.reply)],
        },
        Obstacle {
            name: "no room for its conntrack",
            limits: Limits {
                conntracks: 1,
                ..ROOMY
            },
            there: vec![Delta::Put(put(2, 3, None, Class::Opening, version(50)))],
        },
    ]
}

/// Rule 14: whichever step fails, what the steps before it have taken is given back: the port too, and without a rest.
#[test]
fn each_step_of_taking_a_flow_in_fails_in_turn_and_leaves_nothing_behind() {
    for known in [false, true] {
        for Obstacle { name, limits, there } in obstacles() {
            let takes_the_block =
                name.contains("block") || name.contains("grant") || name.contains("subscriber");
            if known && takes_the_block {
                continue;
            }
            let mut tables = standby(limits);
            // The first generation under a term overrules what is here; this is the next one.
            start(&mut tables, 1, version(1));
            assert_eq!(
                stop(
                    &mut tables,
                    Owned {
                        version: version(1),
                        ..Owned::default()
                    }
                    .end(1)
                ),
                Some(0)
            );
            start(&mut tables, 2, version(2));
            if known {
                tell(
                    &mut tables,
                    lane(2),
                    Delta::Block(block(1, 0x100, true, version(3))),
                );
            }
            there
                .into_iter()
                .for_each(|delta| tell(&mut tables, lane(2), delta));
            assert_eq!(refusals(&tables), 0, "{name}");
            let before = dump(&tables);
            let record = Delta::Put(refused_flow(9));
            give(
                &mut tables,
                ToWorker::Record {
                    at: AT,
                    lane: lane(2),
                    delta: record,
                },
            );
            assert_eq!(refusals(&tables), 1, "{name}");
            let after = dump(&tables);
            let (gone, new) = (without(&before, &after), without(&after, &before));
            assert!(
                gone.is_empty() && new.is_empty(),
                "{name}: {gone:#?} is now {new:#?}"
            );
            assert_eq!(
                tables.slots.get(AT).unwrap().absent.sum.count,
                1,
                "{name}: remembered"
            );
        }
    }
}

#[test]
fn every_cause_is_counted_alike_by_the_worker_and_by_event_thread() {
    use Refused::{Conflict, Elsewhere, Fenced, Full, Nameless, NoPool, Outgranted, Stale, Unknown};
    for cause in [
        Stale, Outgranted, Fenced, Full, Conflict, NoPool, Unknown, Nameless, Elsewhere,
    ] {
        let mut tables = standby(ROOMY);
        count(&mut tables, 0, Err(cause));
        assert_eq!(refusals(&tables), 1, "{cause:?}");
        let whole = LaneCounts::whole(&tables.counters);
        assert_eq!(tables.lane_counts(), [whole], "{cause:?}");
    }
}

/// The wire has room for translations that this version doesn't make, and a conntrack has none.
#[test]
fn a_translation_that_no_node_makes_is_refused_remembered_and_leaves_nothing_behind() {
    let flow = put(1, 1, None, Class::Opening, version(1));
    let wide = |host| Addr::v6([host; 16]);
    let original = FlowKey {
        src: wide(1),
        dst: wide(2),
        ..flow.original
    };
    let prefix_translated = FlowKey {
        dst: wide(3),
        ..original.reversed()
    };
    let other_protocol = FlowKey {
        proto: proto::TCP,
        ..flow.reply
    };
    for (original, reply) in [(original, prefix_translated), (flow.original, other_protocol)] {
        let mut tables = standby(ROOMY);
        start(&mut tables, 1, version(0));
        let odd = PutRecord {
            original,
            reply,
            ..flow
        };
        tell(&mut tables, lane(1), Delta::Put(odd));
        assert_eq!(tables.counters.absorb_no_pool, 1, "{reply:?}");
        assert_eq!(tables.slots.get(AT).unwrap().absent.sum.count, 1);
        let told = Owned {
            version: version(1),
            flows: BTreeMap::from([((1, 1), odd)]),
            ..Owned::default()
        };
        assert_eq!(stop(&mut tables, told.end(1)), Some(1), "{reply:?}");
    }
}
