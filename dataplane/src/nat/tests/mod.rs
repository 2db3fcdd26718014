//! The allocator as a whole: a kit, literal cases of granting and of learning, and random histories against slow
//! models.

mod changing;
mod doubt;
mod granting;
mod histories;
mod home;
#[cfg(loom)]
mod interleavings;
mod learning;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::{CommitIntent, InDoubt, Intent, PoolIntent, PortRange, StandbyPolicy, VrfIntent};
use crate::delta::{BlockRecord, Class, Handle, PutRecord, Scales, Version};
use crate::flow::proto;
use crate::share::Half;

const VRF: VrfId = VrfId(0);
const POOL: PoolRef = PoolRef { vrf: VRF, pool: 0 };
const LIMITS: NatLimits = NatLimits {
    subscribers: 64,
    blocks: 64,
    mappings: 4096,
    events: 64,
};
const TERM: Term = Term(0x101);
const REIGN: Reign = Reign {
    term: TERM,
    share: Share::Whole,
};
const FAR: Addr = Addr::v4([203, 0, 113, 9]);

fn pool() -> PoolIntent {
    PoolIntent {
        name: "public".into(),
        addresses: vec!["198.51.100.1".parse().unwrap(), "198.51.100.2".parse().unwrap()],
        ports: PortRange {
            first: 1024,
            last: 1024 + 4 * 64 + 20,
        },
        block_size: 64,
        blocks_per_subscriber_max: 2,
        port_rest_s: 120,
        block_idle_s: 60,
        filtering: Filtering::EndpointDependent,
        in_doubt: InDoubt::Borrow,
    }
}

fn intent(pools: Vec<PoolIntent>) -> Intent {
    let vrf = VrfIntent {
        name: "main".into(),
        slots: 16,
        inside: Vec::new(),
        ha_group: None,
        firewall: Default::default(),
        pools,
        nat_rules: Vec::new(),
        timeouts: Default::default(),
        standby: StandbyPolicy::Drop,
        tcp_window_check: true,
        flow_counters: true,
        output_commit: CommitIntent::default(),
    };
    Intent {
        vrfs: vec![vrf],
        ..Intent::default()
    }
}

fn nat(pool: PoolIntent) -> Nat {
    Nat::new(Arc::new(Pools::new(&intent(vec![pool]))), LIMITS, 7)
}

fn key(host: u8, port: u16, proto: u8) -> FlowKey {
    FlowKey {
        src: Addr::v4([100, 64, 0, host]),
        dst: FAR,
        src_port: port,
        dst_port: 53,
        vrf: VRF,
        proto,
    }
}

fn s(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn slot(host: u8) -> u16 {
    u16::from(host) % 16
}

fn bind(nat: &mut Nat, host: u8, port: u16) -> Result<Bound, Drop> {
    nat.bind(s(0), REIGN, &key(host, port, proto::UDP), slot(host), POOL, None)
}

fn put(key: &FlowKey, bound: &Bound) -> PutRecord {
    PutRecord {
        original: *key,
        reply: FlowKey {
            dst: bound.external,
            dst_port: bound.port,
            ..key.reversed()
        },
        nat: Some(bound.part),
        class: Class::Opening,
        scales: Scales::NONE,
        lifetime_s: 60,
        version: Version::default(),
        handle: Handle::NONE,
    }
}

fn record(nat: &Nat, change: BlockChange) -> BlockRecord {
    let b = nat.block(change.id);
    BlockRecord {
        grant: b.grant,
        subscriber: b.subscriber,
        address: b.address,
        port_first: b.port_first,
        held: change.held,
        version: Version::default(),
    }
}

/// Everything that two nodes must agree on, in an order that does not depend on history.
#[derive(Debug, PartialEq, Eq)]
struct Dump {
    users: BTreeSet<UserRow>,
    blocks: BTreeSet<BlockRow>,
    /// (grant, protocol, public port) → (inside port, conntracks)
    mappings: BTreeMap<(u64, Protocol, u16), (u16, u32)>,
    /// Public ports whose bit is set.
    ports: BTreeSet<(Addr, Protocol, u16)>,
    size: PoolSize,
}

fn dump(nat: &Nat) -> Dump {
    let (mut users, mut blocks) = (Vec::new(), Vec::new());
    let mut at = Some(0);
    while let Some(from) = at {
        at = nat.users(from, 5, &mut users);
    }
    at = Some(0);
    while let Some(from) = at {
        at = nat.blocks(from, 5, &mut blocks);
    }
    let mappings = nat
        .mappings
        .places()
        .iter()
        .filter(|m| m.block != arena::NIL)
        .map(|m| {
            let b = nat.block(m.block);
            (
                (b.grant, m.class, b.port_first + m.offset),
                (m.inside_port, m.refs),
            )
        });
    let mut ports = BTreeSet::new();
    let pool = nat.pools.at(nat.pools.index(POOL).unwrap());
    for ip in &pool.settings.addresses {
        for port in pool.settings.ports.first..=pool.settings.ports.last {
            let Some(place) = nat.pools.place(VRF, &(*ip).into(), port) else {
                continue;
            };
            assert_eq!(nat.pools.lot(place).address(place), (*ip).into());
            let lot = nat.pools.lot(place);
            let offset = usize::from(port - lot.port_first(place));
            for class in Protocol::ALL {
                let word = lot.bits(place, class)[offset / 64].load(core::sync::atomic::Ordering::Relaxed);
                if word >> (offset % 64) & 1 == 1 {
                    ports.insert((Addr::from(*ip), class, port));
                }
            }
        }
    }
    Dump {
        users: users.into_iter().collect(),
        blocks: blocks.into_iter().collect(),
        mappings: mappings.collect(),
        ports,
        size: nat.pools.size(POOL).unwrap(),
    }
}

/// Everything that must hold after every step.
fn check(nat: &Nat) {
    let dump = dump(nat);
    let usage = nat.usage(POOL).unwrap();
    let of_mappings: BTreeSet<_> = nat
        .mappings
        .places()
        .iter()
        .filter(|m| m.block != arena::NIL)
        .map(|m| {
            (
                nat.block(m.block).address,
                m.class,
                nat.block(m.block).port_first + m.offset,
            )
        })
        .collect();
    assert_eq!(
        of_mappings, dump.ports,
        "a port is taken if and only if a mapping has it"
    );
    assert_eq!(
        of_mappings.len(),
        dump.mappings.len(),
        "no public endpoint belongs to two mappings"
    );
    let in_use = dump.mappings.values().filter(|(_, refs)| *refs > 0).count();
    assert_eq!(usage.ports.iter().sum::<u32>() as usize, in_use);
    assert_eq!(usage.resting as usize, dump.mappings.len() - in_use);
    assert_eq!(usage.blocks as usize, dump.blocks.len());
    assert_eq!(dump.size.blocks_held as usize, dump.blocks.len());
    assert_eq!(usage.subscribers as usize, dump.users.len());
    assert_eq!(dump.blocks.iter().map(|b| b.used).sum::<u32>() as usize, in_use);
    assert_eq!(dump.users.iter().map(|u| u.used).sum::<u32>() as usize, in_use);
    assert_eq!(dump.blocks.iter().map(|b| b.resting).sum::<u32>(), usage.resting);
    for b in &dump.blocks {
        for port in [b.port_first, b.port_last] {
            assert_eq!(nat.pools.owner(VRF, &b.address, port), Some((b.vrf, b.slot)));
        }
    }
}
