//! Packets for callgrind to count the instructions of: established flows, few enough for the nearest cache. The same
//! binary gives nearly the same numbers on any machine, however busy. `scripts/bench --part instructions` reads them.

use anyhow::Context;

use super::established::{Loaded, Proof, Traffic};
use super::flows::Profile;
use super::order::Way;
use super::rig::Rig;

const FLOWS: usize = 1_024;
const BATCHES: usize = 100;

/// Takes packets of one profile through a worker, and prints how many those were.
pub(crate) fn run(profile: Profile) -> anyhow::Result<()> {
    let core = twinpath::machine::cores().first().copied().context("no core")?;
    let mut rig = Rig::start(core)?;
    let mut loaded = Loaded::new(&mut rig, FLOWS, Traffic::of(profile), 12)?;
    let mut order = loaded.order(Way::Random, 12 ^ 0x5eed);
    let mut proof = Proof::default();
    for _ in 0..BATCHES {
        loaded.batch(&mut rig, &mut order, &mut proof)?;
    }
    drop(loaded);
    rig.stop()?;
    println!("packets {}", proof.forwarded);
    Ok(())
}
