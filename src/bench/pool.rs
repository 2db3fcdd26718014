//! Ports: first packets when a pool is nearly empty and when it is nearly full.
//!
//! One public address; its subscribers fill their blocks evenly, port by port, in random order. The table has many other flows
//! from the start, which share the first mappings: else a first packet would be dearer for the table that has grown.

use anyhow::{Context, ensure};
use dataplane::flow::{Addr, FlowKey, proto};
use dataplane::nat::PoolRef;

use super::connect::create;
use super::flows::Step;
use super::order::shuffle;
use super::random::Random;
use super::report::Report;
use super::rig::{Rig, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{BLOCK_SIZE, BLOCKS_PER_ADDRESS, MAIN, Node, Scene};
use super::stats::{Spread, ratio};

/// Blocks of each subscriber.
const BLOCKS: usize = 2;
const SUBSCRIBERS: usize = BLOCKS_PER_ADDRESS / BLOCKS;
/// Ports of the pool.
const PORTS: usize = BLOCKS_PER_ADDRESS * BLOCK_SIZE as usize;
/// Other flows in the table.
const OTHERS: usize = 1 << 17;
/// How many times a pool is filled.
const RUNS: [usize; 2] = [9, 3];

/// The row.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for seed in (81..).take(RUNS[usize::from(extent.quick)]) {
        let clocks = fill(rig, seed)?;
        few.push(clocks[0]);
        many.push(clocks[1]);
    }
    let note = format!(
        "first packet of a UDP flow that takes a port, with 98 to 99.9 % of {PORTS} ports taken ({:.0} clocks) against 9 to 11 % \
         ({:.0}); the last port was given out, none refused before",
        Spread::of(&many).median,
        Spread::of(&few).median
    );
    let values = ratio(&many, &few);
    report.add_with_bound("path.port_99_vs_10", &values, "x", [Some(1.3), Some(1.0)], &note);
    Ok(())
}

/// Fills a pool; mean clocks of first packets around 10 % and 99 % of its ports.
fn fill(rig: &mut Rig, seed: u64) -> anyhow::Result<[f64; 2]> {
    let scene = Scene::plain(OTHERS + PORTS);
    let mut intent = scene.intent();
    let pool = &mut intent.vrfs[0].pools[0];
    pool.addresses.truncate(1);
    pool.blocks_per_subscriber_max = u8::try_from(BLOCKS)?;
    let (mut node, _events) = Node::with(&intent, scene, WORKER_QUEUE, seed)?;
    let keys = draw(seed);
    let mut back = vec![FlowKey::default(); keys.len()];
    let mut go = |node: &mut Node, range: core::ops::Range<usize>| {
        create(rig, node, |_| true, &[Step::Open], &keys, &mut back, range)
    };
    // Places in `keys` where so many per mille of the ports are taken.
    let at = |share: usize| share * PORTS / 1_000 + if share > SHARED { OTHERS } else { 0 };
    go(&mut node, 0..at(90))?;
    let few = go(&mut node, at(90)..at(110))?;
    go(&mut node, at(110)..at(980))?;
    let many = go(&mut node, at(980)..at(999))?;
    go(&mut node, at(999)..at(1_000))?;
    let pool = PoolRef { vrf: MAIN, pool: 0 };
    let usage = node
        .worker
        .tables()
        .nat
        .usage(pool)
        .context("the pool is unknown")?;
    let mappings = usage.ports.iter().sum::<u32>() as usize;
    ensure!(mappings == PORTS, "{mappings} of {PORTS} ports were given out");
    Ok([few, many])
}

/// Per mille of the ports after which the other flows come.
const SHARED: usize = 50;

/// Flows in the order in which they come: each of a port of its own, but for [`OTHERS`] that share the first mappings.
fn draw(seed: u64) -> Vec<FlowKey> {
    let random = &mut Random::new(seed);
    let inside: Vec<FlowKey> = (0..SUBSCRIBERS)
        .flat_map(|n| (1_024..).take(PORTS / SUBSCRIBERS).map(move |port| (n, port)))
        .map(|(n, port)| FlowKey {
            src: Addr::v4([100, 64, 7, u8::try_from(n).unwrap_or(u8::MAX)]),
            src_port: port,
            vrf: MAIN,
            proto: proto::UDP,
            ..FlowKey::default()
        })
        .collect();
    let mut keys: Vec<FlowKey> = inside;
    shuffle(&mut keys, random);
    let first = SHARED * PORTS / 1_000;
    let others: Vec<FlowKey> = (0..OTHERS).map(|_| keys[random.below(first)]).collect();
    keys.splice(first..first, others);
    for key in &mut keys {
        let [a, b, c, ..] = random.next().to_be_bytes();
        key.dst = Addr::v4([20, a, b, c]);
        key.dst_port = random.word(1_024, u16::MAX);
    }
    keys
}
