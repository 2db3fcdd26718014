//! Packets for callgrind to count the instructions of: established flows, few enough for the nearest cache. The same
//! binary gives nearly the same numbers on any machine, however busy. `scripts/bench --part instructions` reads them.

use anyhow::Context;
use dataplane::config::OutputCommit;

use super::flows::Profile;
use super::path::{Proof, load};
use super::rig::{Rig, WORKER_QUEUE};
use super::scene::{Node, Scene};

const FLOWS: usize = 1_024;
const BATCHES: usize = 100;

/// Takes packets of one profile through a worker, and prints how many those were.
pub(crate) fn run(profile: Profile) -> anyhow::Result<()> {
    let core = twinpath::machine::cores().first().copied().context("no core")?;
    let mut rig = Rig::start(core)?;
    let scene = Scene {
        flows: FLOWS,
        replicated: false,
        commit: OutputCommit::Off,
    };
    let (node, events) = Node::new(scene, WORKER_QUEUE, 11)?;
    let mut loaded = load(&mut rig, node, scene, profile, 12)?;
    let mut proof = Proof::default();
    for _ in 0..BATCHES {
        loaded.batch(&mut rig, &mut proof)?;
    }
    drop((loaded, events));
    rig.stop()?;
    println!("packets {}", proof.forwarded);
    Ok(())
}
