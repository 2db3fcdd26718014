//! Mass expiry: what it costs packets of established flows that the lifetimes of all others end at the same moment, how long it
//! takes a worker that always has full bursts to get rid of them, and how long one that has nothing else to do.
//!
//! The worker's clock is set ahead: first to the middle of a lifetime, when some flows have packets, then, in steps that let the
//! wheel keep up, to the second in which the last of the others ends; and once more to where the rests of their ports end.

use core::time::Duration;

use anyhow::ensure;
use dataplane::nat::PoolRef;
use twinpath::dpdk::tsc;

use super::established::{IDLE_S, Loaded, Proof, Traffic};
use super::flows::Profile;
use super::order::Order;
use super::report::Report;
use super::rig::{BATCH, Rig};
use super::run::Extent;
use super::scene::MAIN;
use super::stats::{Batches, Spread, as_f64};

/// One flow in so many has packets.
const ALIVE: usize = 16;
/// Batches in a slice.
const SLICE: usize = 100;
/// Slices before expiry begins.
const BEFORE: usize = 15;
/// Slices beside it, if it lasts so long.
const DURING: usize = 45;
/// Timers that a turn without packets looks at, at least.
const VISITS_LEAST: usize = 16;
/// More seconds than the wheel reaches.
const REACH_S: u32 = 1_100;
/// Seconds before the first deadline in which the wheel is brought up to date.
const NEAR_S: u32 = 60;
/// Longer than ports rest.
const REST_S: u32 = 130;
/// Bytes of a flow in everything that is held for it here, its frames included.
const FLOW_BYTES: u64 = 900;

/// The rows.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let mut flows = if extent.quick { 1 << 20 } else { 10 << 20 };
    while flows > 1 << 18 && flows as u64 * FLOW_BYTES > twinpath::machine::memory_available() {
        flows /= 2;
    }
    let first_s = rig.now().secs();
    let mut loaded = Loaded::new(rig, flows, Traffic::of(Profile::Udp), 71)?;
    let last_s = rig.now().secs() + 1;
    let alive: Vec<u32> = (0..).take(flows).step_by(ALIVE).collect();
    let mut proof = Proof::default();
    loaded.shift = Duration::from_secs(u64::from(IDLE_S / 2));
    let packets: Vec<usize> = alive.iter().map(|&n| n as usize).collect();
    for chunk in packets.chunks(BATCH) {
        loaded.pass(rig, chunk, chunk, 1, &mut proof)?;
    }
    settle(rig, &mut loaded, flows);
    let mut order = Order::among(alive, 72);
    let mut slices = Slices::default();
    let before = slices.of(BEFORE, rig, &mut loaded, &mut order, &mut proof, |_| true)?;
    ensure!(expired(&loaded) == 0, "flows expired before their time");
    // A flow waits for its deadline in the list of that very second once the wheel has come within reach of it.
    let shift_to = |rig: &Rig, s: u32| Duration::from_secs((s - rig.now().secs()).into());
    for early_s in [NEAR_S + REACH_S, NEAR_S] {
        loaded.shift = shift_to(rig, first_s + IDLE_S - early_s);
        settle(rig, &mut loaded, flows);
    }
    ensure!(expired(&loaded) == 0, "flows expired before their time");
    loaded.shift = shift_to(rig, last_s + IDLE_S);
    let dying = (flows - packets.len()) as u64;
    let during = slices.of(DURING, rig, &mut loaded, &mut order, &mut proof, |loaded| {
        expired(loaded) < dying
    })?;
    let beside = expired(&loaded);
    ensure!(beside > 0, "nothing expired beside packets");
    let per_packet = as_f64(beside) / as_f64((during.len() * SLICE * 2 * BATCH) as u64);
    let clocks = idle(rig, &mut loaded, flows, |loaded| expired(loaded) < dying)?;
    ensure!(
        expired(&loaded) == dying,
        "{} flows expired, {dying} were over",
        expired(&loaded)
    );
    let base = Spread::of(&before).median;
    let rises = rises(&during, base);
    let cost = Spread::of(&during).median;
    let backlog_s = rig.ns(as_f64(dying) / per_packet * cost) / 1e9;
    let note = format!(
        "more per packet of {} established UDP flows, full bursts only, while the other {dying} of the table are over: {:.1} ns instead \
         of {:.1}; {per_packet:.4} end per packet, so all are gone after {backlog_s:.1} s of nothing but full bursts",
        packets.len(),
        rig.ns(cost),
        rig.ns(base)
    );
    report.add_with_goal("path.expiry_slowdown", &rises, "%", Some(5.0), &note);
    let rate = as_f64(dying - beside) / (rig.ns(clocks) / 1e9);
    let note = format!(
        "conntracks that are over and end in a worker without packets, {} of them; {:.0} clocks each",
        dying - beside,
        clocks / as_f64(dying - beside)
    );
    report.add("path.expiry_idle_per_s", &[rate], "flows/s", &note);
    loaded.shift += Duration::from_secs(REST_S.into());
    let rested = resting(&loaded);
    let ending = slices.of(DURING, rig, &mut loaded, &mut order, &mut proof, |loaded| {
        resting(loaded) > 0
    })?;
    let ends = rested - resting(&loaded);
    ensure!(ends > 0, "no rest has ended");
    let note = format!(
        "more per packet, full bursts only, while the rests of {rested} ports of theirs end, {:.4} per packet",
        as_f64(ends) / as_f64((ending.len() * SLICE * 2 * BATCH) as u64)
    );
    report.add_with_goal(
        "path.rest_slowdown",
        &self::rises(&ending, base),
        "%",
        Some(5.0),
        &note,
    );
    ensure!(expired(&loaded) == dying, "flows with packets expired");
    ensure!(proof.wrong == 0, "{} wrong packets beside expiry", proof.wrong);
    Ok(())
}

fn rises(clocks: &[f64], base: f64) -> Vec<f64> {
    clocks
        .iter()
        .map(|clocks| 100.0 * (clocks / base - 1.0))
        .collect()
}

/// Slices of batches of packets.
#[derive(Debug, Default)]
struct Slices(Batches);

impl Slices {
    /// Clocks per packet of so many slices, or fewer when it is over.
    fn of(
        &mut self,
        most: usize,
        rig: &mut Rig,
        loaded: &mut Loaded,
        order: &mut Order,
        proof: &mut Proof,
        goes_on: impl Fn(&Loaded) -> bool,
    ) -> anyhow::Result<Vec<f64>> {
        let mut clocks = Vec::new();
        while clocks.len() < most && goes_on(loaded) {
            for _ in 0..SLICE {
                self.0.add(loaded.batch(rig, order, proof)?);
            }
            clocks.push(self.0.mean() / as_f64(2 * BATCH as u64));
        }
        Ok(clocks)
    }
}

/// Clocks of turns without packets, as long as it goes on.
fn idle(
    rig: &mut Rig,
    loaded: &mut Loaded,
    flows: usize,
    goes_on: impl Fn(&Loaded) -> bool,
) -> anyhow::Result<f64> {
    let begin = tsc::read();
    let mut turns = 0;
    while goes_on(loaded) {
        ensure!(turns < flows, "it doesn't end");
        let now = rig.now() + loaded.shift;
        loaded.node.worker.turn(now, &mut rig.io);
        turns += 1;
    }
    Ok(as_f64(tsc::read() - begin))
}

/// Turns without packets, until every timer that became due meanwhile has been looked at.
fn settle(rig: &mut Rig, loaded: &mut Loaded, flows: usize) {
    for _ in 0..flows / VISITS_LEAST {
        let now = rig.now() + loaded.shift;
        loaded.node.worker.turn(now, &mut rig.io);
    }
}

fn resting(loaded: &Loaded) -> u64 {
    let pool = PoolRef { vrf: MAIN, pool: 0 };
    let usage = loaded.node.worker.tables().nat.usage(pool);
    usage.map_or(0, |usage| usage.resting.into())
}

fn expired(loaded: &Loaded) -> u64 {
    loaded.node.worker.tables().counters.conntracks_expired
}
