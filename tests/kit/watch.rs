//! What must hold after every step (DESIGN.md section 10, I1, I2, I6, I7, I9, I10), checked by what has changed since the last
//! look: a worker whose counters stand still is not looked at, and of the others each entry is compared with its
//! remembered self, so that a long schedule costs what happens in it and not what it holds.
//!
//! One lives in every cluster. A node's memory begins with its boot and ends with its death.

use std::collections::HashMap;

use ahash::RandomState;
use dataplane::counters::Counters;
use dataplane::delta::{SlotRef, Term, Version};
use dataplane::flow::{Addr, FlowKey, VrfId};
use dataplane::stage::meta::Kind;
use dataplane::tables::Tables;
use state_sync::conservation::of_worker;

use crate::checker::{conservation, public_end};
use crate::config::MAIN;
use crate::node::Node;
use crate::packet;

/// The same hashes in every run.
type Map<K, V> = HashMap<K, V, Fixed>;

/// Changes of counters between two looks at the equations between threads.
const CONSERVATION_EVERY: u32 = 256;

/// What must hold after every step, with what it has to remember of the step before.
#[derive(Debug, Default)]
pub struct Watch {
    nodes: [Memory; 2],
    /// Look at every entry (I2, I7), not only at slots.
    pub every_entry: bool,
    /// What is stored was damaged on purpose: digests and ends may differ for a while.
    pub damaged: bool,
    /// Frames that nodes have sent.
    pub frames: u64,
    /// Looks at changed counters since the reports of all threads were last added up.
    changes: u32,
}

#[derive(Debug, Default)]
struct Memory {
    workers: Vec<Seen>,
    /// Version of each slot, whichever worker has it.
    slots: Map<SlotRef, Version>,
    /// Version of each live conntrack by its original tuple.
    entries: Map<FlowKey, Version>,
    /// How often each tuple is held, over all workers.
    tuples: Map<FlowKey, u32>,
    /// Tuples held more than once.
    twice: Vec<FlowKey>,
    /// Inside endpoint of each public one, as last seen.
    mapped: Map<Endpoint, Endpoint>,
    was_active: bool,
    applied: u64,
}

/// One worker at the last look.
#[derive(Debug, Default)]
struct Seen {
    counters: Counters,
    borrowed: u64,
    /// By place in the arena.
    places: Vec<Option<Held>>,
}

/// A live conntrack, as far as it is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    keys: [FlowKey; 2],
    slot: u16,
    version: Version,
    mapping: Option<u32>,
}

/// Address and port, by protocol and VRF.
type Endpoint = (VrfId, u8, Addr, u16);

/// Builds hashers with one seed.
#[derive(Debug, Clone)]
struct Fixed(RandomState);

impl Default for Fixed {
    fn default() -> Self {
        Self(RandomState::with_seeds(1, 2, 3, 4))
    }
}

impl core::hash::BuildHasher for Fixed {
    type Hasher = ahash::AHasher;
    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

impl Watch {
    /// The node is another process from now on.
    pub fn forget(&mut self, node: usize) {
        self.nodes[node] = Memory::default();
    }

    /// I10: no user packet from a node that isn't active. A node that was active when its step began may have sent.
    ///
    /// # Panics
    /// When it is violated.
    pub fn emitted(&mut self, index: usize, node: &Node, frames: &[Vec<u8>]) {
        self.frames += frames.len() as u64;
        if node.is_active(MAIN) || self.nodes[index].was_active {
            return;
        }
        for frame in frames {
            let kind = packet::read(frame).map(|meta| meta.kind);
            assert!(
                !matches!(kind, Ok(Kind::Flow | Kind::IcmpError | Kind::Fragment)),
                "I10: node {index} is {:?} and sent {frame:02x?}",
                node.role(MAIN)
            );
        }
    }

    /// I9 within each worker, and now and then between all threads; I1, I2, I6 and I7; and of I8 what holds always: as long
    /// as nothing stored is damaged, no digest and, unless its receiver's table was full, no end of a slot differs from what
    /// its receiver made of the stream.
    /// Tells whether anything has changed since the last look.
    ///
    /// # Panics
    /// When one is violated.
    pub fn step(&mut self, index: usize, node: &Node) -> bool {
        let memory = &mut self.nodes[index];
        let active = node.is_active(MAIN);
        let mut changed = false;
        memory.workers.resize_with(node.workers(), Seen::default);
        for (worker, tables) in node.tables().enumerate() {
            let before = &mut memory.workers[worker].counters;
            overlook(before, &tables.counters);
            if *before == tables.counters {
                continue;
            }
            changed = true;
            assert!(
                tables.counters.swept == before.swept
                    || tables.counters.slots_verified > before.slots_verified,
                "I6: node {index} has swept a slot that was not verified"
            );
            // A full receiver's account of what it lacks may be off after a new reign of its sender: then the slot comes whole.
            // The account goes with the slot, so it may be another worker that was full.
            let full = node.tables().any(|tables| tables.counters.absorb_full > 0);
            let differing = |c: &Counters| (c.digest_mismatch, if full { 0 } else { c.slots_differing });
            assert!(
                self.damaged || differing(&tables.counters) == differing(before),
                "I8: node {index} holds another slot than it was told: {:?} digests and ends differed, now {:?}",
                differing(before),
                differing(&tables.counters)
            );
            memory.workers[worker].counters.clone_from(&tables.counters);
            for equation in of_worker(&tables.counters, tables.listed()) {
                assert!(equation.holds(), "I9: node {index} worker {worker}: {equation}");
            }
            self.changes += 1;
            versions_grow(index, node, tables, &mut memory.slots);
            if self.every_entry {
                let came = entries_grow(index, worker, tables, memory, active);
                stays_in_its_half(index, node, worker, memory, &came);
            }
        }
        if self.changes >= CONSERVATION_EVERY {
            self.changes = 0;
            let broken = conservation(node, false);
            assert!(broken.is_empty(), "node {index}: {broken:#?}");
        }
        assert!(
            !active || memory.twice.is_empty(),
            "I7: node {index} has {:?} twice",
            memory.twice
        );
        let applied = memory.applied();
        if active && memory.was_active {
            assert_eq!(
                applied, memory.applied,
                "node {index} applied records while it was active"
            );
        }
        (memory.was_active, memory.applied) = (active, applied);
        changed
    }
}

impl Memory {
    fn applied(&self) -> u64 {
        let applied = |seen: &Seen| seen.counters.absorb_applied + seen.counters.absorb_confirmed;
        self.workers.iter().map(applied).sum()
    }

    fn left(&mut self, held: &Held) {
        self.entries.remove(&held.keys[0]);
        for key in &held.keys {
            let Some(count) = self.tuples.get_mut(key) else {
                continue;
            };
            *count -= 1;
            match *count {
                0 => drop(self.tuples.remove(key)),
                1 => self.twice.retain(|twice| twice != key),
                _ => {}
            }
        }
    }

    fn came(&mut self, held: &Held) {
        for key in &held.keys {
            let count = self.tuples.entry(*key).or_default();
            *count += 1;
            if *count == 2 {
                self.twice.push(*key);
            }
        }
    }
}

/// Lets pass what is counted though nothing changes: the audit's way through the tables. What it mends is counted apart.
const fn overlook(before: &mut Counters, now: &Counters) {
    before.audit_entries = now.audit_entries;
    before.audit_slots = now.audit_slots;
    before.audit_restarts = now.audit_restarts;
}

fn versions_grow(index: usize, node: &Node, tables: &Tables, seen: &mut Map<SlotRef, Version>) {
    for vrf in (0..node.setup.vrfs()).map(VrfId) {
        for (number, slot) in tables.slots.of_vrf(vrf) {
            let at = SlotRef { vrf, slot: number };
            let before = seen.insert(at, slot.version).unwrap_or_default();
            assert!(
                slot.version >= before,
                "I1: node {index} slot {number} went from {before:?} to {:?}",
                slot.version
            );
        }
    }
}

/// I7 while both nodes may be active: in doubt, a port that was free is given out in this node's own half, or counted as
/// borrowed. That halves are disjoint is what the first node having the lower one, and the second the higher one, says.
fn stays_in_its_half(index: usize, node: &Node, worker: usize, memory: &mut Memory, came: &[Held]) {
    let Some(tables) = node.tables().nth(worker) else {
        return;
    };
    let usage = |pool| tables.nat.usage(pool).unwrap_or_default().ports_borrowed;
    // What a demoted node has opened in its own half may be taken over as well.
    let borrowed = node.pools().refs().map(usage).sum::<u64>() + tables.counters.tails_adopted;
    let before = core::mem::replace(&mut memory.workers[worker].borrowed, borrowed);
    for held in came {
        let Some(mapping) = held.mapping else { continue };
        let key = public_end(&held.keys);
        let outside = (key.vrf, key.proto, key.dst, key.dst_port);
        // The other tuple starts at the inside endpoint, whichever end has opened the connection.
        let from = &held.keys[usize::from(key == &held.keys[0])];
        let inside = (from.vrf, from.proto, from.src, from.src_port);
        let known = memory.mapped.insert(outside, inside) == Some(inside);
        let vrf = held.keys[0].vrf;
        // Whoever is not active gives out nothing: it was told.
        let in_doubt = tables.is_active(vrf) && tables.roles[vrf.index()].share.is_in_doubt();
        // What has served before is an inherited mapping that has rested, taken up again by its own endpoint.
        if known || !in_doubt || borrowed > before || tables.nat.mapping(mapping).served {
            continue;
        }
        let setup = &node.setup;
        let offset = (key.dst_port - setup.pool_ports.first) % setup.block_size;
        assert_eq!(
            offset >= setup.block_size / 2,
            index == 1,
            "I7: node {index} in doubt gave out {key:?}, offset {offset} of its block"
        );
    }
}

/// Compares every entry of a worker with what was in its place at the last look; gives what is new or has changed.
fn entries_grow(
    index: usize,
    worker: usize,
    tables: &Tables,
    memory: &mut Memory,
    active: bool,
) -> Vec<Held> {
    let mut left = Vec::new();
    let mut came = Vec::new();
    let mut places = core::mem::take(&mut memory.workers[worker].places);
    let mut next = 0;
    for (id, conntrack) in tables.conntracks.iter_live() {
        let id = id as usize;
        if places.len() <= id {
            places.resize(id + 1, None);
        }
        left.extend(places[next..id].iter_mut().filter_map(Option::take));
        next = id + 1;
        let now = Held {
            keys: conntrack.keys(),
            slot: conntrack.slot,
            version: conntrack.sync.version,
            mapping: conntrack.nat().map(|nat| nat.mapping),
        };
        if places[id] != Some(now) {
            left.extend(places[id].replace(now));
            came.push((now, conntrack.sync.emitted()));
        }
    }
    left.extend(places[next..].iter_mut().filter_map(Option::take));
    memory.workers[worker].places = places;
    for (held, emitted) in &came {
        let key = &held.keys[0];
        if let Some(before) = memory.entries.get(key) {
            // A tuple that was opened anew has no version yet; and the holder of a higher term overrules.
            assert!(
                held.version >= *before || !emitted || active || overruled(tables, held, before.term),
                "I2: node {index} entry {key:?} went from {before:?} to {:?}",
                held.version
            );
        }
    }
    for held in &left {
        memory.left(held);
    }
    for (held, _) in &came {
        memory.came(held);
        memory.entries.insert(held.keys[0], held.version);
    }
    came.into_iter().map(|(held, _)| held).collect()
}

/// Whether a version of `term` yields to the slot's sender: by the slot's version at the end of its resync, until then
/// by the term it was begun with.
fn overruled(tables: &Tables, held: &Held, term: Term) -> bool {
    let at = SlotRef {
        vrf: held.keys[0].vrf,
        slot: held.slot,
    };
    tables.slots.get(at).is_some_and(|slot| {
        let begun = slot.source.as_ref().map_or(Term::NONE, |s| s.term);
        slot.version.term.max(begun) > term
    })
}
