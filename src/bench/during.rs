//! What replication costs packets of established flows: with no peer, while a standby imports all flows, and beside a
//! standby that has them. The standby's core is busy throughout.
//!
//! Packets go both ways through the active node, drawn at random from all flows. Its event thread takes turns with the
//! worker on one core; only the worker's turns are timed, in which it also walks its tables for the standby.

use core::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::anyhow;
use twinpath::thread;

use super::connect::drops;
use super::flows::{self, Step};
use super::random::Random;
use super::report::Report;
use super::rig::{BATCH, Rig, TURNS};
use super::run::Extent;
use super::scene::{LAN, WAN};
use super::stats::{Batches, Timed, as_f64};
use super::sync::{Active, Patience, ROLE_EVERY, Standby};

/// From which packets are drawn.
const SEED: u64 = 77;

/// Adds the rows. The standby is gone afterwards.
pub(crate) fn run(
    rig: &mut Rig,
    extent: Extent,
    active: &mut Active,
    core: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut random = Random::new(SEED);
    let (mut established, mut rises, mut lost, mut packets) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..extent.resyncs {
        active.part(rig)?;
        let mut traffic = Traffic::default();
        let neighbour = Neighbour::start(rig, core)?;
        let alone = traffic.some(rig, active, &mut random, extent.batches)?;
        neighbour.stop()?;
        traffic.lost = 0;
        let side = active.standby(rig)?;
        let standby = Standby::start(rig, side, None, core)?;
        let patience = Patience::new(&rig.clock);
        while !standby.is_imported() {
            patience.check(&rig.clock, "complete resync beside packets")?;
            active.side.sync.step_role(rig.now());
            traffic.batch(rig, active, &mut random)?;
        }
        let importing = traffic.per_packet();
        lost.push(as_f64(traffic.lost));
        packets += traffic.packets;
        let equal = traffic.some(rig, active, &mut random, extent.batches)?;
        let stopped = standby.stop(rig)?;
        active.compare(&stopped.side.node)?;
        established.push(100.0 * (equal / alone - 1.0));
        rises.push(100.0 * (importing / equal - 1.0));
    }
    let flows = active.keys.len();
    report.add_with_goal(
        "sync.loss_established",
        &established,
        "%",
        Some(0.0),
        &format!("worker's clocks per packet of {flows} established UDP flows, beside an equal standby against without a peer, its core as busy"),
    );
    report.add_with_goal(
        "sync.resync_rise",
        &rises,
        "%",
        Some(5.0),
        &format!("the same while a standby imports all flows, against beside an equal one; {packets} packets meanwhile"),
    );
    report.add_with_goal(
        "sync.resync_lost",
        &lost,
        "packets",
        Some(0.0),
        "of those; then every conntrack compared equal",
    );
    Ok(())
}

/// What keeps the standby's core busy before there is one. Two cores may share more than memory: what a busy neighbour
/// costs is not what replication costs.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Neighbour {
    /// Looks at the clock all the time, as an idle thread of a node does.
    fn start(rig: &Rig, core: usize) -> anyhow::Result<Self> {
        let (stop, clock) = (Arc::new(AtomicBool::new(false)), rig.clock);
        let halt = Arc::clone(&stop);
        let thread = thread::spawn("neighbour", core, move || {
            while !halt.load(Ordering::Relaxed) {
                hint::black_box(clock.now());
            }
        })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the neighbour has panicked"))
    }
}

/// Packets of established flows, and what became of them.
#[derive(Debug, Default)]
struct Traffic {
    batches: Batches,
    packets: u64,
    lost: u64,
}

impl Traffic {
    /// So many batches; the mean clocks per packet.
    fn some(
        &mut self,
        rig: &mut Rig,
        active: &mut Active,
        random: &mut Random,
        batches: usize,
    ) -> anyhow::Result<f64> {
        for count in 0..batches {
            if count.is_multiple_of(ROLE_EVERY) {
                active.side.sync.step_role(rig.now());
            }
            self.batch(rig, active, random)?;
        }
        Ok(self.per_packet())
    }

    fn per_packet(&mut self) -> f64 {
        self.batches.mean() / as_f64(2 * BATCH as u64)
    }

    /// One batch, both ways.
    fn batch(&mut self, rig: &mut Rig, active: &mut Active, random: &mut Random) -> anyhow::Result<()> {
        let mut draw = |step, keys: &[_]| -> Vec<Vec<u8>> {
            let one = |_| {
                let number = random.below(keys.len());
                flows::frame(step, &keys[number], u32::try_from(number).unwrap_or(u32::MAX))
            };
            (0..BATCH).map(one).collect()
        };
        let (forth, back) = (draw(Step::Forth, &active.keys), draw(Step::Back, &active.back));
        rig.feeder.feed(LAN, forth.iter())?;
        rig.feeder.feed(WAN, back.iter())?;
        let mut whole = Timed::default();
        for _ in 0..TURNS {
            let worker = &mut active.side.node.worker;
            let timed = rig.timed(|io, clock| _ = worker.turn(clock.now(), io));
            whole.clocks += timed.clocks;
            whole.disturbed |= timed.disturbed;
            active.side.sync.pump.turn(rig.now());
        }
        active.side.node.hush();
        self.batches.add(whole);
        let before = self.lost;
        for port in [WAN, LAN] {
            let sent = rig.feeder.collect(port, |_, _| {});
            self.packets += BATCH as u64;
            self.lost += (BATCH - sent) as u64;
        }
        if self.lost > before {
            eprintln!("packets lost during a resync: {}", drops(&active.side.node));
        }
        Ok(())
    }
}
