//! Established flows of several kinds at once: sets of flows, each in a node of its own, and the orders in which their
//! packets come, all in alternating slices beside the yardsticks.

use anyhow::ensure;

use super::established::{Loaded, Proof, Traffic};
use super::machine::{memory_available, memory_touched};
use super::order::{Order, Way};
use super::rig::{BATCH, Rig};
use super::run::Extent;
use super::stats::{Batches, as_f64};
use super::yard::Yard;
use super::yardstick::Arena;

/// Flows of a set of which every packet is compared after the slices.
const COMPARED: usize = 1 << 16;
/// Memory that a flow may take with its frames while it is made: the set is left out where there is less.
const BYTES_PER_FLOW: u64 = 700;
/// Memory that stays free for everybody else.
const SPARE: u64 = 1 << 30;
/// Sets from this size on must fit; smaller ones fit any machine.
const LARGE: usize = 1 << 22;

/// A set to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// What its rows are called, after `path.` and before the unit.
    pub(crate) name: &'static str,
    pub(crate) flows: usize,
    pub(crate) traffic: Traffic,
    pub(crate) ways: &'static [Way],
}

/// A set of flows.
pub(crate) struct Set {
    pub(crate) case: Case,
    pub(crate) loaded: Loaded,
    /// Memory touched by the node, per flow.
    pub(crate) bytes_per_flow: f64,
}

/// One order of a set's packets.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) case: Case,
    pub(crate) way: Way,
    set: usize,
    order: Order,
    /// Of a packet, per slice.
    pub(crate) clocks: Vec<f64>,
}

/// Sets that take turns, with their yardsticks.
pub(crate) struct Family {
    pub(crate) sets: Vec<Set>,
    pub(crate) lines: Vec<Line>,
    pub(crate) yard: Yard,
    /// Sets for which there is no memory, in words.
    pub(crate) left_out: String,
}

impl Family {
    /// Makes the flows of all cases for which there is memory; the first one's packets are the yardsticks' too.
    pub(crate) fn load(rig: &mut Rig, cases: &[Case]) -> anyhow::Result<Self> {
        let mut sets = Vec::new();
        let mut lines = Vec::new();
        let mut left_out = String::new();
        for &case in cases {
            let (needed, available) = (case.flows as u64 * BYTES_PER_FLOW + SPARE, memory_available());
            if case.flows >= LARGE && available < needed {
                left_out += &format!(
                    "; {} flows not measured: {} MB of {} MB available",
                    case.flows,
                    available >> 20,
                    needed >> 20
                );
                continue;
            }
            let seed = 1 + case.flows as u64;
            let before = memory_touched();
            let loaded = Loaded::new(rig, case.flows, case.traffic, seed)?;
            let frames = (loaded.forth.memory_bytes() + loaded.back.memory_bytes()) as u64;
            let touched = memory_touched().saturating_sub(before + frames);
            for &way in case.ways {
                lines.push(Line {
                    case,
                    way,
                    set: sets.len(),
                    order: loaded.order(way, seed ^ 0x5eed),
                    clocks: Vec::new(),
                });
            }
            sets.push(Set {
                case,
                loaded,
                bytes_per_flow: as_f64(touched) / as_f64(case.flows as u64),
            });
        }
        ensure!(!sets.is_empty(), "no memory for any flows");
        Ok(Self {
            yard: Yard::new(&sets[0].loaded),
            sets,
            lines,
            left_out,
        })
    }

    /// One slice of everything. The first batches of each line aren't counted: they find the others' lines in the caches.
    pub(crate) fn slice(
        &mut self,
        rig: &mut Rig,
        extent: Extent,
        arena: &mut Arena,
        batches: &mut Batches,
        proof: &mut Proof,
    ) -> anyhow::Result<()> {
        let first = &self.sets[0].loaded;
        self.yard.slice(rig, extent, arena, batches, first)?;
        for line in &mut self.lines {
            let loaded = &mut self.sets[line.set].loaded;
            let warming = extent.batches / 8;
            for count in 0..extent.batches + warming {
                let timed = loaded.batch(rig, &mut line.order, proof)?;
                if count >= warming {
                    batches.add(timed);
                }
            }
            line.clocks.push(batches.mean() / as_f64(2 * BATCH as u64));
        }
        Ok(())
    }

    /// Compares packets of every set, each with what a plain router makes of it.
    pub(crate) fn compare(&mut self, rig: &mut Rig, proof: &mut Proof) -> anyhow::Result<()> {
        for set in &mut self.sets {
            set.loaded.compare(rig, COMPARED, proof)?;
        }
        Ok(())
    }

    /// The random order of the set of that name.
    pub(crate) fn random(&self, name: &str) -> Option<&Line> {
        self.lines
            .iter()
            .find(|line| line.case.name == name && line.way == Way::Random)
    }
}
