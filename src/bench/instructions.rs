//! Packets for callgrind to count the instructions of: of established flows, or those that make flows; few enough for the
//! nearest cache. The same binary gives nearly the same numbers on any machine, however busy.
//! `scripts/bench --part instructions` reads them.

use anyhow::Context;
use clap::ValueEnum;
use dataplane::flow::FlowKey;

use super::connect::{create, life};
use super::established::{Loaded, Proof, Traffic};
use super::flows::{self, Profile};
use super::order::Way;
use super::rig::{Rig, WORKER_QUEUE};
use super::scene::{Node, Scene};

const FLOWS: usize = 1_024;
const BATCHES: usize = 100;

/// Flows that are made.
const NEW: usize = 32_768;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Counted {
    /// Packets of established flows.
    Udp,
    /// The same with windows.
    Tcp,
    /// First packets.
    UdpNew,
    /// Connections, from SYN to last ACK.
    TcpNew,
}

/// Takes packets through a worker, and prints of how many packets or flows the counts are.
pub(crate) fn run(counted: Counted) -> anyhow::Result<()> {
    let core = twinpath::machine::cores().first().copied().context("no core")?;
    let mut rig = Rig::start(core)?;
    let count = match counted {
        Counted::Udp => established(&mut rig, Profile::Udp),
        Counted::Tcp => established(&mut rig, Profile::Tcp),
        Counted::UdpNew => new(&mut rig, Profile::Udp),
        Counted::TcpNew => new(&mut rig, Profile::Tcp),
    }?;
    rig.stop()?;
    println!("counted {count}");
    Ok(())
}

fn established(rig: &mut Rig, profile: Profile) -> anyhow::Result<u64> {
    let mut loaded = Loaded::new(rig, FLOWS, Traffic::of(profile), 12)?;
    let mut order = loaded.order(Way::Random, 12 ^ 0x5eed);
    let mut proof = Proof::default();
    for _ in 0..BATCHES {
        loaded.batch(rig, &mut order, &mut proof)?;
    }
    Ok(proof.forwarded)
}

fn new(rig: &mut Rig, profile: Profile) -> anyhow::Result<u64> {
    let scene = Scene::plain(NEW);
    let (mut node, _events) = Node::new(scene, WORKER_QUEUE, 21)?;
    let keys = flows::draw(profile, scene.flows, scene.subscribers(), 77);
    let mut back = vec![FlowKey::default(); keys.len()];
    create(rig, &mut node, |_| true, life(profile), &keys, &mut back, 0..NEW)?;
    Ok(NEW as u64)
}
