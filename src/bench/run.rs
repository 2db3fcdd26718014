//! The parts in order, on one rig, into one report.

use std::path::PathBuf;

use anyhow::{Context, ensure};

use super::machine::{Machine, Ticks};
use super::report::Report;
use super::rig::Rig;
use super::{failover, path, sync, tls};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) path: bool,
    pub(crate) sync: bool,
    pub(crate) failover: bool,
    /// Of the path; all where it is empty.
    pub(crate) rows: Vec<path::Rows>,
    pub(crate) quick: bool,
    pub(crate) commit: String,
    pub(crate) lab: Option<PathBuf>,
    pub(crate) output: PathBuf,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) quick: bool,
    /// Slices of established flows and yardsticks.
    pub(crate) slices: usize,
    /// Batches of packets in a slice.
    pub(crate) batches: usize,
    /// Flows of a table that fills up.
    pub(crate) new_flows: usize,
    /// Slices of those.
    pub(crate) new_slices: usize,
    pub(crate) resync_flows: usize,
    /// Flows of a table that is only imported once.
    pub(crate) large_flows: Option<usize>,
    pub(crate) resyncs: usize,
}

impl Extent {
    const FULL: Self = Self {
        quick: false,
        slices: 11,
        batches: 1_000,
        new_flows: 1 << 20,
        new_slices: 16,
        resync_flows: 1_000_000,
        large_flows: Some(10_000_000),
        resyncs: 5,
    };
    const QUICK: Self = Self {
        quick: true,
        slices: 5,
        batches: 400,
        new_flows: 1 << 18,
        new_slices: 8,
        resync_flows: 1_000_000,
        large_flows: None,
        resyncs: 1,
    };
}

/// Measures and reports.
pub(crate) fn run(wish: &Wish) -> anyhow::Result<()> {
    let cores = twinpath::machine::cores();
    ensure!(
        cores.len() >= 2,
        "two cores are needed: one for the worker, one for everything else"
    );
    let (other, own) = (cores[0], cores[1]);
    let before = Ticks::now();
    let mut rig = Rig::start(own)?;
    let extent = if wish.quick { Extent::QUICK } else { Extent::FULL };
    let machine = Machine::look(cores.len(), rig.huge);
    println!("{}, commit {}", machine.summary(), wish.commit);
    let mut report = Report::new(machine, wish.commit.clone());
    if wish.path {
        path::run(
            &mut rig,
            extent,
            &wish.rows,
            other,
            &wish.output.with_file_name("path.svg"),
            &mut report,
        )
        .context("packet path")?;
    }
    let mut pair = None;
    if wish.sync {
        tls::run(&rig, extent, &mut report).context("protection of lanes")?;
        pair = Some(sync::run(&mut rig, extent, other, &mut report).context("replication")?);
    }
    if wish.failover {
        let pair = match pair.take() {
            Some(pair) => pair,
            None => failover::pair(&mut rig, extent, other)?,
        };
        failover::flips(&mut rig, other, pair, &mut report).context("role flip")?;
        if let Some(lab) = &wish.lab {
            failover::lab(lab, &mut report)?;
        }
    }
    drop(pair);
    let hz = rig.hz();
    let mbufs = rig.stop().context("stopping")?;
    report.machine.finish(before, hz);
    println!(
        "{}; all {mbufs} packet buffers came back",
        report.machine.disturbances()
    );
    report.write(&wish.output)?;
    println!("{}", wish.output.display());
    Ok(())
}
