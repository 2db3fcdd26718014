//! The invariants of the design (DESIGN.md section 10), asserted over whole nodes: some after every step, the others
//! at quiescence. Each violation names the invariant and what was found.

use core::fmt::Debug;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use dataplane::conntrack::Conntrack;
use dataplane::delta::{Class, SlotRef, Term, Version};
use dataplane::flow::{Direction, FlowKey, VrfId};
use dataplane::lane_counts::LaneCounts;
use dataplane::nat::{Block, BlockRow, Protocol, UserRow};
use dataplane::protection::{Kept, Protection};
use dataplane::role::Role;
use dataplane::slot::{block_digest, conntrack_digest};
use dataplane::tables::Tables;

use state_sync::conservation::{between_threads, of_worker};

use crate::config::MAIN;
use crate::node::Node;

/// A tuple in a form that sorts.
type Tuple = (u16, u8, [u8; 16], u16, [u8; 16], u16);

/// What is replicated of a conntrack, with its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Original tuple.
    pub original: FlowKey,
    /// Reply tuple.
    pub reply: FlowKey,
    /// Grant of the block of its public port.
    pub grant: Option<u64>,
    /// Replicated class.
    pub class: Class,
    /// Version.
    pub version: Version,
    /// Slot.
    pub slot: u16,
}

/// What a node holds, in comparable form.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct View {
    /// Live conntracks by original tuple, without those that policy keeps from the peers.
    pub conntracks: BTreeMap<Tuple, Row>,
    /// Held blocks by grant: subscriber, public address, first port, slot, ports in use by those conntracks.
    pub blocks: BTreeMap<u64, (String, String, u16, u16, usize)>,
    /// Subscribers by VRF, inside address and pool: paired public address, blocks held (their quota).
    pub subscribers: BTreeMap<(u16, String, u16), (String, u32)>,
    /// Version, digest and count of each slot.
    pub slots: BTreeMap<(u16, u16), (Version, u64, u32)>,
    /// The same with what it lacks for a known cause: what its sender must have emitted.
    pub told: BTreeMap<(u16, u16), (Version, u64, u32)>,
    /// How many entries a slot lacks for a known cause, where it lacks any, and whether it is sure of the number.
    pub lacking: BTreeMap<(u16, u16), (u32, bool)>,
    /// Grants of blocks that are here only because a conntrack mentions them: their own record is lacking.
    pub mentioned: BTreeSet<u64>,
}

/// Sortable form of a tuple.
#[must_use]
pub const fn tuple(key: &FlowKey) -> Tuple {
    (
        key.vrf.0,
        key.proto,
        key.src.octets(),
        key.src_port,
        key.dst.octets(),
        key.dst_port,
    )
}

fn row(conntrack: &Conntrack) -> Row {
    Row {
        original: conntrack.key(Direction::Original),
        reply: conntrack.key(Direction::Reply),
        grant: conntrack.nat().map(|nat| nat.part.grant),
        class: conntrack.class,
        version: conntrack.sync.version,
        slot: conntrack.slot,
    }
}

/// Held blocks of a node, over all workers.
#[must_use]
pub fn blocks(node: &Node) -> Vec<BlockRow> {
    let mut rows = Vec::new();
    for tables in node.tables() {
        tables.nat.blocks(0, u32::MAX, &mut rows);
    }
    rows
}

/// Subscribers of a node, over all workers.
#[must_use]
pub fn subscribers(node: &Node) -> Vec<UserRow> {
    let mut rows = Vec::new();
    for tables in node.tables() {
        tables.nat.users(0, u32::MAX, &mut rows);
    }
    rows
}

/// The block of a row, where its slot belongs.
fn held_block<'a>(node: &'a Node, row: &BlockRow) -> Option<&'a Block> {
    let tables = node.tables_of(SlotRef {
        vrf: row.vrf,
        slot: row.slot,
    });
    let id = tables
        .nat
        .find_block(row.pool.vrf, &row.address, row.port_first)?;
    Some(tables.nat.block(id))
}

/// What a node holds.
#[must_use]
pub fn view(node: &Node) -> View {
    let mut view = View::default();
    let mut ports = HashMap::new();
    for tables in node.tables() {
        let told = |c: &&Conntrack| c.sync.kept == Kept::No;
        for (_, conntrack) in tables.conntracks.iter_live().filter(|(_, c)| told(c)) {
            view.conntracks
                .insert(tuple(&conntrack.key(Direction::Original)), row(conntrack));
            mark_port(&mut ports, conntrack);
        }
        for vrf in 0..node.setup.vrfs() {
            for (number, slot) in tables.slots.of_vrf(VrfId(vrf)) {
                view.slots
                    .insert((vrf, number), (slot.version, slot.digest, slot.count));
                // Whoever is active has emitted what it holds; what it lacked as a standby is no matter any more.
                let active = node.is_active(VrfId(vrf));
                let told = if active {
                    (slot.version, slot.digest, slot.count)
                } else {
                    let held = slot.held();
                    (slot.version, held.digest, held.count)
                };
                // The share of what has changed since it was refused is that of its older version.
                if active || !slot.absent.is_unsure() {
                    view.told.insert((vrf, number), told);
                }
                if !active && slot.absent.sum.count > 0 {
                    let absent = (slot.absent.sum.count, !slot.absent.unsure);
                    view.lacking.insert((vrf, number), absent);
                }
            }
        }
    }
    for b in blocks(node) {
        let value = (
            b.subscriber.to_string(),
            b.address.to_string(),
            b.port_first,
            b.slot,
            ports.get(&b.grant).map_or(0, HashSet::len),
        );
        view.blocks.insert(b.grant, value);
        let named = held_block(node, &b).is_some_and(|block| block.sync.emitted());
        if !node.is_active(b.vrf) && !named {
            view.mentioned.insert(b.grant);
        }
    }
    for user in subscribers(node) {
        let name = (user.vrf.0, user.subscriber.to_string(), user.pool.pool);
        let value = (user.address.to_string(), user.blocks);
        view.subscribers.insert(name, value);
    }
    view
}

/// What is still under way, in words; empty at quiescence.
#[must_use]
pub fn quiescent(nodes: &[Option<Node>; 2], cut: bool) -> Vec<String> {
    let mut missing = Vec::new();
    let live = nodes.iter().flatten().count();
    for (index, node) in nodes.iter().enumerate() {
        let Some(node) = node else { continue };
        for tables in node.tables() {
            if tables.waiting() > 0 {
                missing.push(format!(
                    "node {index}: {} entries wait for emission",
                    tables.waiting()
                ));
            }
        }
        if !node.is_at_rest() {
            missing.push(format!("node {index}: a slot is on its way"));
        }
        let counters = node.counters();
        let told = counters.deltas_emitted + counters.walk_records;
        let taken: u64 = node.reports().iter().map(|r| r.records_taken).sum();
        if told != taken {
            missing.push(format!("node {index}: {} records wait for credit", told - taken));
        }
        if node.role(MAIN).0 == Role::Fault {
            missing.push(format!("node {index} is in fault"));
        }
        if live < 2 || cut || !node.setup.grouped {
            continue;
        }
        // A moment later somebody else is active.
        if node.hands_over() {
            missing.push(format!("node {index} is handing its role over"));
        }
        // What overload has kept back is told when its age has come: until then the tables may differ.
        let late: u64 = node.tables().map(|t| t.protection(MAIN).overload).sum();
        if node.role(MAIN).0 == Role::Master && late > 0 {
            missing.push(format!("node {index}: {late} flows are told later, for overload"));
        }
        if !node.is_ready() {
            missing.push(format!(
                "node {index} is not ready: {:?}",
                node.board.view(0, MAIN, node.setup.slots)
            ));
        }
        for report in node.reports() {
            for client in report.clients {
                // A heartbeat, which is acknowledged like everything else, only makes this look again.
                if client.status != "established" || client.lag_records + client.bytes_queued > 0 {
                    missing.push(format!(
                        "node {index} lane {} is {}, {} records behind",
                        client.lane, client.status, client.lag_records
                    ));
                }
                for vrf in client
                    .vrfs
                    .iter()
                    .filter(|v| v.streaming && v.slots_verified < v.slots_total)
                {
                    missing.push(format!(
                        "node {index} lane {} vrf {}: {} of {} slots verified, {} failures",
                        client.lane, vrf.vrf, vrf.slots_verified, vrf.slots_total, vrf.generations.failed
                    ));
                }
            }
        }
    }
    missing
}

/// I8 and I9: what differs between two connected nodes at quiescence, and what each contradicts itself in.
#[must_use]
pub fn differences(nodes: &[Option<Node>; 2], cut: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        if let Some(node) = node {
            found.extend(
                contradictions(node)
                    .into_iter()
                    .map(|what| format!("node {index}: {what}")),
            );
        }
    }
    if let [Some(a), Some(b)] = nodes
        && !cut
        && a.setup.grouped
        && has_sender(a, b)
    {
        let (mut a, mut b) = (view(a), view(b));
        // A subscriber is what its blocks are; where some are missing, they say so themselves.
        if a.lacking.is_empty() && b.lacking.is_empty() {
            compare("I8 subscriber", &a.subscribers, &b.subscribers, &mut found);
        }
        found.extend(excuse(&mut a, &mut b));
        found.extend(excuse(&mut b, &mut a));
        compare("I8 conntrack", &a.conntracks, &b.conntracks, &mut found);
        compare("I8 block", &a.blocks, &b.blocks, &mut found);
        // A slot that lacks entries, of which some have changed since, can't be compared before it comes again.
        let both = |key: &(u16, u16), _: &mut _| a.told.contains_key(key) && b.told.contains_key(key);
        let (mut told_a, mut told_b) = (a.told.clone(), b.told.clone());
        told_a.retain(both);
        told_b.retain(both);
        compare("I8 slot", &told_a, &told_b, &mut found);
    }
    found
}

/// sync/PROTOCOL.md R-30: of a VRF of which neither node has a term nothing flows, and what a dead node has left half done
/// stays as it is until one of them is active.
fn has_sender(a: &Node, b: &Node) -> bool {
    let has_term = |node: &Node, vrf| node.role(VrfId(vrf)).1 != Term::NONE;
    (0..a.setup.vrfs().min(b.setup.vrfs())).any(|vrf| has_term(a, vrf) || has_term(b, vrf))
}

/// Takes out of `whole` what `poor` says that it lacks: exactly so many entries of each slot. Which ports of a block are
/// in use can't be equal where conntracks are missing.
fn excuse(poor: &mut View, whole: &mut View) -> Vec<String> {
    let mut found = Vec::new();
    for (&(vrf, slot), &(lacking, sure)) in &poor.lacking {
        poor.blocks
            .retain(|grant, block| block.3 != slot || !poor.mentioned.contains(grant));
        let before = whole.conntracks.len() + whole.blocks.len();
        whole
            .conntracks
            .retain(|key, row| (key.0, row.slot) != (vrf, slot) || poor.conntracks.contains_key(key));
        whole
            .blocks
            .retain(|grant, block| block.3 != slot || poor.blocks.contains_key(grant));
        for (grant, block) in &mut whole.blocks {
            if block.3 == slot {
                block.4 = poor.blocks.get(grant).map_or(block.4, |theirs| theirs.4);
            }
        }
        let excused = before - whole.conntracks.len() - whole.blocks.len();
        if excused > lacking as usize || (sure && excused != lacking as usize) {
            found.push(format!(
                "I8 slot ({vrf}, {slot}) says it lacks {lacking} entries, and lacks {excused}"
            ));
        }
    }
    found
}

/// Entries that differ, at most ten of them.
fn compare<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
    found: &mut Vec<String>,
) {
    let keys: std::collections::BTreeSet<&K> = a.keys().chain(b.keys()).collect();
    let mut different = keys.into_iter().filter(|k| a.get(k) != b.get(k));
    for key in different.by_ref().take(10) {
        found.push(format!("{what} {key:?}: {:?} and {:?}", a.get(key), b.get(key)));
    }
    let more = different.count();
    if more > 0 {
        found.push(format!("{what}: {more} more"));
    }
}

/// What a node holds must fit together: digests and counts, blocks and ports, packets.
#[must_use]
pub fn contradictions(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut sums: HashMap<(u16, u16), (u64, u32)> = HashMap::new();
    let mut ports = HashMap::new();
    for tables in node.tables() {
        let mut users: HashMap<u32, u32> = HashMap::new();
        for (_, conntrack) in tables.conntracks.iter_live() {
            mark_port(&mut ports, conntrack);
            if let Some(nat) = conntrack.nat() {
                *users.entry(nat.mapping).or_default() += 1;
            }
            if conntrack.sync.emitted() {
                let sum = sums.entry((conntrack.vrf().0, conntrack.slot)).or_default();
                sum.0 = sum.0.wrapping_add(conntrack_digest(
                    &conntrack.to_put(dataplane::time::Instant::default()),
                ));
                sum.1 += 1;
            }
        }
        for (mapping, used) in users {
            let counted = tables.nat.mapping(mapping).conntracks;
            if counted != used {
                found.push(format!("a mapping counts {counted} conntracks, {used} use it"));
            }
        }
    }
    for b in blocks(node) {
        let used = ports.remove(&b.grant).map_or(0, |p| p.len());
        if used != b.used as usize {
            found.push(format!(
                "block {b:?} counts {} ports in use, conntracks use {used}",
                b.used
            ));
        }
        let Some(block) = held_block(node, &b) else {
            found.push(format!("block {b:?} is not where its slot belongs"));
            continue;
        };
        if block.sync.emitted() {
            let record = dataplane::delta::BlockRecord {
                grant: block.grant,
                subscriber: block.subscriber,
                address: block.address,
                port_first: block.port_first,
                held: true,
                version: block.sync.version,
            };
            let sum = sums.entry((b.vrf.0, b.slot)).or_default();
            sum.0 = sum.0.wrapping_add(block_digest(&record));
            sum.1 += 1;
        }
    }
    for (grant, used) in ports {
        found.push(format!(
            "grant {grant}: {} ports in use, but no such block",
            used.len()
        ));
    }
    for (at, (version, digest, count)) in view(node).slots {
        let sum = sums.get(&at).copied().unwrap_or_default();
        if sum != (digest, count) {
            found.push(format!(
                "slot {at:?} at {version:?} says {count} entries, holds {} (digest {})",
                sum.1,
                if sum.0 == digest { "equal" } else { "different" }
            ));
        }
    }
    for tables in node.tables() {
        found.extend((0..node.setup.vrfs()).flat_map(|vrf| exposed(tables, VrfId(vrf))));
    }
    found.extend(conservation(node, true));
    if node.packets.alive() != 0 {
        found.push(format!(
            "I9: {} packets neither sent nor freed",
            node.packets.alive()
        ));
    }
    found
}

/// Ports in use, by grant.
type UsedPorts = HashMap<u64, HashSet<(u8, u16)>>;

fn mark_port(ports: &mut UsedPorts, conntrack: &Conntrack) {
    if let Some(nat) = conntrack.nat() {
        let class = Protocol::of(conntrack.proto()).map_or(9, |p| p as u8);
        let port = (class, public_port(conntrack));
        ports.entry(nat.part.grant).or_default().insert(port);
    }
}

/// Gauges of protection against what the tables hold.
fn exposed(tables: &Tables, vrf: VrfId) -> Vec<String> {
    let mut counted = Protection::default();
    for (_, conntrack) in tables.conntracks.iter_live().filter(|(_, c)| c.vrf() == vrf) {
        counted.conntracks += 1;
        match conntrack.sync.kept {
            Kept::No => {}
            Kept::Delay => counted.delay += 1,
            Kept::NoSync => counted.no_sync += 1,
            Kept::Overload => counted.overload += 1,
        }
        if conntrack.sync.kept != Kept::No && conntrack.sync.emitted() && !conntrack.sync.dirty {
            return vec![format!("{conntrack:?} is kept back and has a version")];
        }
    }
    let shown = Protection {
        no_peer: 0,
        ..tables.protection(vrf)
    };
    if shown == counted {
        vec![]
    } else {
        vec![format!(
            "protection of {vrf:?} is shown as {shown:?} and is {counted:?}"
        )]
    }
}

fn public_port(conntrack: &Conntrack) -> u16 {
    public_end(&conntrack.keys()).dst_port
}

/// Of a translated conntrack the tuple whose destination is public: from inside the reply goes there, from outside the
/// original did.
#[must_use]
pub fn public_end([original, reply]: &[FlowKey; 2]) -> &FlowKey {
    if original.src == reply.dst && original.src_port == reply.dst_port {
        original
    } else {
        reply
    }
}

/// I9 of all counters: each worker's at any time, by event thread too; those between threads when nothing is under way
/// (`resting`).
#[must_use]
pub fn conservation(node: &Node, resting: bool) -> Vec<String> {
    let workers = node.tables().flat_map(|t| of_worker(&t.counters, t.listed()));
    let reports = node.reports();
    let between = between_threads(&node.counters(), &reports, &reports);
    workers
        .chain(between)
        .filter(|equation| !equation.holds() || (resting && equation.remainder() != 0))
        .map(|equation| format!("I9 {equation}"))
        .chain(node.tables().filter_map(by_event_thread))
        .collect()
}

fn by_event_thread(tables: &Tables) -> Option<String> {
    let mut sum = LaneCounts::default();
    tables.lane_counts().iter().for_each(|one| sum.add(one));
    let whole = LaneCounts::whole(&tables.counters);
    (sum != whole).then(|| format!("I9 by event thread {sum:?}, the worker's own {whole:?}"))
}

/// The highest term that any live node holds for the first VRF.
#[must_use]
pub fn highest_term(nodes: &[Option<Node>; 2]) -> Term {
    nodes
        .iter()
        .flatten()
        .map(|n| n.role(MAIN).1)
        .max()
        .unwrap_or(Term::NONE)
}
