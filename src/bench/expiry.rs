//! Mass expiry: what it costs packets of established flows that the lifetimes of all others end at the same moment.
//!
//! The worker's clock is set ahead: first to the middle of a lifetime, when some flows have packets, then behind the end of
//! all others.

use core::time::Duration;

use anyhow::ensure;

use super::established::{IDLE_S, Loaded, Proof, Traffic};
use super::flows::Profile;
use super::order::Order;
use super::report::Report;
use super::rig::{BATCH, Rig, TURNS};
use super::run::Extent;
use super::stats::{Batches, Spread, as_f64};

/// One flow in so many has packets.
const ALIVE: usize = 16;
/// Batches in a slice.
const SLICE: usize = 100;
/// Slices before expiry begins.
const BEFORE: usize = 15;
/// Timers that a turn without packets looks at, at least.
const VISITS_LEAST: usize = 16;
/// Batches in which everything must have expired.
const BATCHES_MAX: usize = 200_000;

/// The row.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let flows = if extent.quick { 1 << 18 } else { 1 << 20 };
    let mut loaded = Loaded::new(rig, flows, Traffic::of(Profile::Udp), 71)?;
    let alive: Vec<u32> = (0..).take(flows).step_by(ALIVE).collect();
    let mut proof = Proof::default();
    loaded.shift = Duration::from_secs(u64::from(IDLE_S / 2));
    let packets: Vec<usize> = alive.iter().map(|&n| n as usize).collect();
    for chunk in packets.chunks(BATCH) {
        loaded.pass(rig, chunk, chunk, 1, &mut proof)?;
    }
    settle(rig, &mut loaded, flows);
    let mut order = Order::among(alive, 72);
    let mut batches = Batches::default();
    let mut slice = |rig: &mut Rig, loaded: &mut Loaded, most: usize| {
        for _ in 0..most {
            batches.add(loaded.batch(rig, &mut order, &mut proof)?);
        }
        anyhow::Ok(batches.mean() / as_f64(2 * BATCH as u64))
    };
    let mut before = Vec::new();
    for _ in 0..BEFORE {
        before.push(slice(rig, &mut loaded, SLICE)?);
    }
    ensure!(expired(&loaded) == 0, "flows expired before their time");
    loaded.shift = Duration::from_secs(u64::from(IDLE_S) + 60);
    let dying = (flows - packets.len()) as u64;
    let mut during = Vec::new();
    let (mut done, mut rate, mut slices) = (0, Vec::new(), 0);
    while expired(&loaded) < dying {
        ensure!(
            slices * SLICE < BATCHES_MAX,
            "{} of {dying} flows expired",
            expired(&loaded)
        );
        let clocks = slice(rig, &mut loaded, SLICE)?;
        let now = expired(&loaded);
        // After a leap of the clock the wheel has slices, too, in which hardly anything ends.
        let ended = now - done;
        if now < dying && ended >= (SLICE * TURNS) as u64 {
            during.push(clocks);
            rate.push(as_f64(ended) / as_f64((SLICE * 2 * BATCH) as u64));
        }
        slices += 1;
        done = now;
    }
    ensure!(!during.is_empty(), "nothing expired beside packets");
    ensure!(expired(&loaded) == dying, "flows with packets expired");
    ensure!(proof.wrong == 0, "{} wrong packets beside expiry", proof.wrong);
    let base = Spread::of(&before).median;
    let rises: Vec<f64> = during
        .iter()
        .map(|clocks| 100.0 * (clocks / base - 1.0))
        .collect();
    let per_packet = Spread::of(&rate).median;
    let more = Spread::of(&during).median - base;
    let note = format!(
        "more per packet of {} established UDP flows while the other {dying} of the table expire, {per_packet:.2} a packet: \
         {:.1} ns instead of {:.1}, {:.0} clocks per flow that expires",
        packets.len(),
        rig.ns(base + more),
        rig.ns(base),
        more / per_packet
    );
    report.add_with_goal("path.expiry_slowdown", &rises, "%", Some(5.0), &note);
    Ok(())
}

/// Turns without packets, until every timer that became due meanwhile has been looked at.
fn settle(rig: &mut Rig, loaded: &mut Loaded, flows: usize) {
    for _ in 0..flows / VISITS_LEAST {
        let now = rig.now() + loaded.shift;
        loaded.node.worker.turn(now, &mut rig.io);
    }
}

fn expired(loaded: &Loaded) -> u64 {
    loaded.node.worker.tables().counters.conntracks_expired
}
