//! New flows: their steps, from the first packet to the last, a batch of flows at a time.

use anyhow::ensure;
use dataplane::flow::FlowKey;
use dataplane::io::PortId;
use dataplane::time::Instant;
use dataplane::worker::Worker;
use twinpath::dpdk::{Ports, tsc};

use super::flows::{self, Profile, Step};
use super::frame;
use super::rig::{BATCH, Rig};
use super::scene::{LAN, Node, WAN};
use super::stats::{Batches, Timed, as_f64};

/// One output frame in so many is checked in full.
const CHECK_EVERY: usize = 8;
/// Turns after which a worker must have told everybody everything.
const TURNS_MAX: usize = 10_000_000;
/// Looks at a standby that makes no progress.
const LOOKS_MAX: usize = 1_000_000_000;

/// Why packets did not come through.
pub(crate) fn drops(node: &Node) -> String {
    let counters = &node.worker.tables().counters;
    let seen = counters.drops().filter(|(_, count)| *count > 0);
    seen.map(|(reason, count)| format!("{} {count}", reason.name()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Takes one step of some flows through the worker, in their order, until nothing is left to do. Timed are the turns in
/// which there was something to do. `back` gets the tuple with which the outside answers.
pub(crate) fn step(
    rig: &mut Rig,
    node: &mut Node,
    step: Step,
    keys: &[FlowKey],
    back: &mut [FlowKey],
    numbers: &[u32],
) -> anyhow::Result<Timed> {
    let (enter, leave): (PortId, PortId) = if step.is_from_inside() {
        (LAN, WAN)
    } else {
        (WAN, LAN)
    };
    let frames = numbers.iter().map(|&n| {
        let key = if step.is_from_inside() { keys } else { &*back };
        flows::frame(step, &key[n as usize], n)
    });
    rig.feeder.feed(enter, frames)?;
    let mut clocks = 0;
    let mut turns = 0;
    rig.watch.start();
    loop {
        let start = tsc::read();
        let work = opening_turn(&mut node.worker, &mut rig.io, rig.clock.now());
        let took = tsc::read() - start;
        if work > 0 {
            clocks += took;
        } else if node.worker.tables().waiting() == 0 {
            break;
        }
        turns += 1;
        ensure!(
            turns < TURNS_MAX,
            "{} changes were never told",
            node.worker.tables().waiting()
        );
    }
    let disturbed = rig.watch.disturbed();
    let mut bad = 0;
    let sent = rig.feeder.collect(leave, |index, out| {
        if step == Step::Open {
            back[flows::number_of(out) as usize] = frame::key_of(out).reversed();
        }
        bad += usize::from(index % CHECK_EVERY == 0 && !frame::is_sound(out));
    });
    ensure!(bad == 0, "{bad} damaged frames in step {step:?}");
    ensure!(
        sent == numbers.len(),
        "step {step:?}: {sent} of {} came through: {}",
        numbers.len(),
        drops(node)
    );
    Ok(Timed { clocks, disturbed })
}

/// A timed turn. A function that is called, because callgrind is told where to count by name.
#[inline(never)]
fn opening_turn(worker: &mut Worker<Ports>, io: &mut Ports, now: Instant) -> usize {
    worker.turn(now, io)
}

/// Steps of a new flow that are timed, and the rest that makes it established.
pub(crate) const fn life(profile: Profile) -> &'static [Step] {
    match profile {
        Profile::Udp => &[Step::Open],
        Profile::Tcp => &[
            Step::Open,
            Step::Answer,
            Step::Establish,
            Step::Close,
            Step::CloseBack,
            Step::Closed,
        ],
    }
}

/// Takes `keys[range]` through `steps`, a batch of flows at a time, each when `ready` says so; returns the mean clocks
/// per flow.
pub(crate) fn create(
    rig: &mut Rig,
    node: &mut Node,
    ready: impl Fn(&Node) -> bool,
    steps: &[Step],
    keys: &[FlowKey],
    back: &mut [FlowKey],
    range: core::ops::Range<usize>,
) -> anyhow::Result<f64> {
    let mut batches = Batches::default();
    let numbers: Vec<u32> = range.filter_map(|n| u32::try_from(n).ok()).collect();
    for chunk in numbers.chunks(BATCH) {
        let mut whole = Timed::default();
        for &one in steps {
            let mut looks = 0;
            while !ready(node) {
                looks += 1;
                ensure!(looks < LOOKS_MAX, "the standby takes nothing any more");
                std::hint::spin_loop();
            }
            let timed = step(rig, node, one, keys, back, chunk)?;
            whole.clocks += timed.clocks;
            whole.disturbed |= timed.disturbed;
        }
        batches.add(whole);
        node.hush();
    }
    let per_batch = as_f64(numbers.len() as u64) / as_f64(numbers.chunks(BATCH).len().max(1) as u64);
    Ok(batches.mean() / per_batch)
}
