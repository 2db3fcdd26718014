//! H: the same lookups in DPDK's `rte_hash`, in bulk. Both tables have the same keys, a tuple of each direction of every flow;
//! both are asked for the same ones in the same order, a burst at a time; both hash them. The conntracks' own table has
//! fetched the entry besides, of which the packet's stages need it.

use anyhow::ensure;
use dataplane::conntrack::Table;
use dataplane::flow::FlowKey;
use dataplane::slot::NIL;
use twinpath::dpdk::hash::{BULK, BulkHash, Key};

use super::established::Loaded;
use super::frame;
use super::random::Random;
use super::rig::Rig;
use super::stats::{Batches, as_f64};

/// Bursts in a batch.
const BURSTS: usize = 16;

/// The other table, and the clocks of a lookup in either, per slice.
#[derive(Debug)]
pub(crate) struct Hashes {
    other: BulkHash,
    random: Random,
    pub(crate) theirs: Vec<f64>,
    pub(crate) ours: Vec<f64>,
}

/// A burst in both forms.
#[derive(Debug)]
struct Asked {
    keys: [FlowKey; BULK],
    packed: [Key; BULK],
}

impl Hashes {
    /// With the tuples of `loaded`, and as much room as its node has.
    pub(crate) fn new(rig: &Rig, loaded: &Loaded) -> anyhow::Result<Self> {
        let room = 2 * loaded.node.worker.tables().conntracks.capacity();
        let mut other = BulkHash::create(rig.pool(), "yardstick", u32::try_from(room)?)?;
        for n in 0..loaded.forth.count() {
            for frames in [&loaded.forth, &loaded.back] {
                other.add(&packed(&frame::key_of(frames.get(n))))?;
            }
        }
        Ok(Self {
            other,
            random: Random::new(31),
            theirs: Vec::new(),
            ours: Vec::new(),
        })
    }

    /// One slice, in alternating batches.
    pub(crate) fn slice(&mut self, rig: &mut Rig, loaded: &Loaded, count: usize) -> anyhow::Result<()> {
        let table = &loaded.node.worker.tables().conntracks;
        let (mut theirs, mut ours) = (Batches::default(), Batches::default());
        for _ in 0..count {
            let asked: Vec<Asked> = (0..BURSTS).map(|_| self.draw(loaded)).collect();
            let mut missed = 0;
            theirs.add(rig.timed(|_, _| missed = asked.iter().map(|burst| self.in_theirs(burst)).sum()));
            ensure!(missed == 0, "rte_hash did not find {missed} keys");
            // Others, or the second would find in the cache what the first has fetched for it.
            let asked: Vec<Asked> = (0..BURSTS).map(|_| self.draw(loaded)).collect();
            ours.add(rig.timed(|_, _| missed = asked.iter().map(|burst| in_ours(table, burst)).sum()));
            ensure!(missed == 0, "{missed} keys were not found");
        }
        let keys = as_f64((BURSTS * BULK) as u64);
        self.theirs.push(theirs.mean() / keys);
        self.ours.push(ours.mean() / keys);
        Ok(())
    }

    fn draw(&mut self, loaded: &Loaded) -> Asked {
        let keys = [(); BULK].map(|()| {
            let frames = if self.random.below(2) == 0 {
                &loaded.forth
            } else {
                &loaded.back
            };
            frame::key_of(frames.get(self.random.below(frames.count())))
        });
        Asked {
            packed: keys.map(|key| packed(&key)),
            keys,
        }
    }

    /// How many of a burst were not found.
    fn in_theirs(&self, asked: &Asked) -> usize {
        let mut places = [-1; BULK];
        self.other.find(&asked.packed, &mut places);
        places.iter().filter(|&&place| place < 0).count()
    }
}

/// The same, by the passes of the lookup stage.
fn in_ours(table: &Table, asked: &Asked) -> usize {
    let mut hashes = [0; BULK];
    for (hash, key) in hashes.iter_mut().zip(&asked.keys) {
        *hash = table.hash(key);
        table.prefetch(*hash);
    }
    let mut entries = [0; BULK];
    for ((entry, &hash), key) in entries.iter_mut().zip(&hashes).zip(&asked.keys) {
        *entry = table.prefetch_entry(hash, key.proto, false);
    }
    for ((entry, &hash), key) in entries.iter_mut().zip(&hashes).zip(&asked.keys) {
        if *entry == NIL {
            *entry = table.prefetch_displaced(hash, key.proto, false);
        }
    }
    let found = |((&entry, &hash), key)| table.find_at(entry, hash, key).is_some();
    BULK - entries
        .iter()
        .zip(&hashes)
        .zip(&asked.keys)
        .filter(|&one| found(one))
        .count()
}

/// Addresses, ports and protocol in 16 bytes.
fn packed(key: &FlowKey) -> Key {
    let mut packed = [0; 16];
    packed[..4].copy_from_slice(&key.src.v4_octets());
    packed[4..8].copy_from_slice(&key.dst.v4_octets());
    packed[8..10].copy_from_slice(&key.src_port.to_be_bytes());
    packed[10..12].copy_from_slice(&key.dst_port.to_be_bytes());
    packed[12] = key.proto;
    packed
}
